"""Compile the operators' C++ and CUDA at first use, once per machine, whatever happens to the process that does it.

A library lies in `<cache>/ops/<device>-<key>/`, where the key is a hash of the sources, the flags, torch's version and
the machine's architecture; `lacray.native` says why an interrupted build does no harm.

The compilers are called directly: the sources use torch's stable ABI, a few slim headers, and need none of what
`torch.utils.cpp_extension` prepares (ninja, pybind11, a toolkit of torch's own minor version); its import alone takes
longer than loading the library. The CUDA runtime is linked statically, so no libcudart needs to be found at run time.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import torch

from lacray.cache import cached
from lacray.native import BuildError, built, find_compiler, key_of, run, run_all

SOURCES = Path(__file__).resolve().parent / "csrc"
CPU_SOURCES = ("engine_avx512.cpp", "engine_avx2.cpp", "engine_plain.cpp", "binding_cpu.cpp")
CUDA_SOURCES = ("soft_sw_cuda.cu", "dtw_cuda.cu", "binding_cuda.cpp")
# torch 2.11 is the oldest supported release: the library uses nothing of the stable ABI beyond it.
CXX_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020b000000000000")
CUDA_ARCHITECTURES = ("80", "86", "89", "90")  # the last one as PTX too, for whatever comes later
NVCC_FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden")


@functools.cache
def _key(device: str) -> str:
    own = (CUDA_ARCHITECTURES, NVCC_FLAGS) if device == "cuda" else ()
    return key_of((Path(__file__), *sorted(SOURCES.iterdir())), torch.__version__, CXX_FLAGS, own)


def library_path(device: str) -> Path:
    """Where the library for "cpu" or "cuda" is, or will be."""
    return cached(f"ops/{device}-{_key(device)}/lacray_ops.so")


def library(device: str) -> Path:
    """The compiled library for "cpu" or "cuda", built if need be. Raises BuildError."""
    return built(library_path(device), _compile_cpu if device == "cpu" else _compile_cuda)


def _say(device: str, scratch: Path) -> None:
    print(f"lacray: compiling the {device} operators, once, into {scratch.parent}", file=sys.stderr, flush=True)


def _torch_flags() -> tuple[list[str], list[str]]:
    root = Path(torch.__file__).resolve().parent
    include = root / "include"
    return [f"-I{SOURCES}", f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"], [
        f"-L{root / 'lib'}",
        "-ltorch_cpu",
        "-lc10",
    ]


def _compile_cpu(scratch: Path) -> Path:
    compiler = find_compiler()
    _say("cpu", scratch)
    include, link = _torch_flags()
    objects = [scratch / (name + ".o") for name in CPU_SOURCES]
    run_all(
        [
            [compiler, *CXX_FLAGS, *include, "-c", str(SOURCES / name), "-o", str(object_)]
            for name, object_ in zip(CPU_SOURCES, objects, strict=True)
        ]
    )
    built = scratch / "lacray_ops.so"
    run([compiler, "-shared", *map(str, objects), *link, "-o", str(built)])
    return built


def _nvidia_packages() -> list[Path]:
    """Folders of pip's CUDA packages (nvidia/cu13, nvidia/cuda_nvcc, ...)."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    return sorted(folder for root in roots if root.is_dir() for folder in root.iterdir() if folder.is_dir())


def find_nvcc() -> str | None:
    """nvcc of $CUDA_HOME, of PATH, of /usr/local/cuda or of pip's packages, in this order."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = [Path(home) / "bin" / "nvcc" for home in homes]
    if on_path := shutil.which("nvcc"):
        candidates.append(Path(on_path))
    candidates.append(Path("/usr/local/cuda/bin/nvcc"))
    candidates += [folder / "bin" / "nvcc" for folder in _nvidia_packages()]
    return next((str(c) for c in candidates if c.is_file() and os.access(c, os.X_OK)), None)


def _compile_cuda(scratch: Path) -> Path:
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError(
            "no CUDA compiler found (nvcc). Install the CUDA toolkit, or pip's packages "
            "(pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-cccl), or set CUDA_HOME."
        )
    compiler = find_compiler()
    _say("cuda", scratch)
    include, link = _torch_flags()
    if (Path(torch.__file__).resolve().parent / "lib" / "libtorch_cuda.so").exists():
        link.append("-ltorch_cuda")  # absent from a CPU-only torch, with which this can still be compiled
    # pip's nvcc looks for headers and libraries in a toolkit's layout, which the packages do not have.
    packages = _nvidia_packages() if any(Path(nvcc).is_relative_to(p) for p in _nvidia_packages()) else []
    cuda_include = [f"-I{p / 'include'}" for p in packages if (p / "include").is_dir()]
    cuda_link = [f"-L{p / 'lib'}" for p in packages if (p / "lib").is_dir()]
    architectures = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in CUDA_ARCHITECTURES]
    newest = CUDA_ARCHITECTURES[-1]
    architectures.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    commands = []
    objects = []
    for name in CUDA_SOURCES:
        objects.append(str(scratch / (name + ".o")))
        if name.endswith(".cu"):
            flags = [
                nvcc,
                f"-ccbin={compiler}",
                *NVCC_FLAGS,
                "--threads=0",
                *architectures,
                f"-I{SOURCES}",
                *cuda_include,
            ]
        else:
            flags = [compiler, *CXX_FLAGS, "-DUSE_CUDA", *include]
        commands.append([*flags, "-c", str(SOURCES / name), "-o", objects[-1]])
    run_all(commands)
    built = scratch / "lacray_ops.so"
    run([nvcc, f"-ccbin={compiler}", "-shared", "-cudart=static", *objects, *cuda_link, *link, "-o", str(built)])
    return built
