"""Compile the operators' C++ and CUDA at first use, once per machine, whatever happens to the process that does it.

A library lies in `<cache>/ops/<device>-<key>/` (`lacray.cache`), where the key is a hash of the sources, the flags,
torch's version and the machine's architecture. It is built in a scratch folder under a file lock that the kernel
releases when its holder dies, and published by a rename. So an interrupted build leaves nothing that a later one could
take for a library or wait for, and processes that start together build once.

The compilers are called directly: the sources use torch's stable ABI, a few slim headers, and need none of what
`torch.utils.cpp_extension` prepares (ninja, pybind11, a toolkit of torch's own minor version); its import alone takes
longer than loading the library. The CUDA runtime is linked statically, so no libcudart needs to be found at run time.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from lacray.cache import cached

SOURCES = Path(__file__).resolve().parent / "csrc"
CPU_SOURCES = ("engine_avx512.cpp", "engine_avx2.cpp", "engine_plain.cpp", "binding_cpu.cpp")
CUDA_SOURCES = ("soft_sw_cuda.cu", "dtw_cuda.cu", "binding_cuda.cpp")
# torch 2.11 is the oldest supported release: the library uses nothing of the stable ABI beyond it.
CXX_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020b000000000000")
CUDA_ARCHITECTURES = ("80", "86", "89", "90")  # the last one as PTX too, for whatever comes later
NVCC_FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden")


class BuildError(RuntimeError):
    """The compiled operators cannot be had here; the message names the remedy."""


@functools.cache
def _key(device: str) -> str:
    digest = hashlib.sha256()
    for source in (Path(__file__), *sorted(SOURCES.iterdir())):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    settings = (torch.__version__, platform.system(), platform.machine(), CXX_FLAGS, os.environ.get("CXX", ""))
    digest.update(repr(settings).encode())
    if device == "cuda":
        digest.update(repr((CUDA_ARCHITECTURES, NVCC_FLAGS)).encode())
    return digest.hexdigest()[:16]


def library_path(device: str) -> Path:
    """Where the library for "cpu" or "cuda" is, or will be."""
    return cached(f"ops/{device}-{_key(device)}/lacray_ops.so")


def library(device: str) -> Path:
    """The compiled library for "cpu" or "cuda", built if need be. Raises BuildError."""
    path = library_path(device)
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.parent / "lock"):
            if not path.exists():  # else another process built it while this one waited
                _build(device, path)
    except OSError as error:
        raise BuildError(
            f"{path.parent}: cannot be written ({error}). Set LACRAY_CACHE to a folder that can."
        ) from error
    return path


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released by the kernel when the process ends, however it ends
        yield


def _build(device: str, path: Path) -> None:
    for left_over in path.parent.glob("scratch-*"):  # of a build that was killed: its lock is ours now
        shutil.rmtree(left_over, ignore_errors=True)
    scratch = path.parent / f"scratch-{os.getpid()}-{time.time_ns()}"
    scratch.mkdir()
    try:
        built = _compile_cpu(scratch) if device == "cpu" else _compile_cuda(scratch)
        os.replace(built, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _say(device: str, scratch: Path) -> None:
    print(f"lacray: compiling the {device} operators, once, into {scratch.parent}", file=sys.stderr, flush=True)


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        tail = "\n".join((result.stderr or result.stdout).strip().splitlines()[-20:])
        raise BuildError(f"the compiler failed ({result.returncode}): {shlex.join(command)}\n{tail}")


def _run_all(commands: list[list[str]]) -> None:
    with ThreadPoolExecutor(max_workers=max(1, os.cpu_count() or 1)) as pool:
        list(pool.map(_run, commands))


def find_compiler() -> str:
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["c++", "g++", "clang++"]:
        if found := shutil.which(name):
            return found
    named = f"CXX={wanted}" if wanted else "c++, g++ or clang++"
    raise BuildError(
        f"no C++ compiler found ({named}). Install one (Debian, Ubuntu: apt install g++; conda: conda install "
        "cxx-compiler), or set CXX to its path."
    )


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
    _run_all(
        [
            [compiler, *CXX_FLAGS, *include, "-c", str(SOURCES / name), "-o", str(object_)]
            for name, object_ in zip(CPU_SOURCES, objects, strict=True)
        ]
    )
    built = scratch / "lacray_ops.so"
    _run([compiler, "-shared", *map(str, objects), *link, "-o", str(built)])
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
    _run_all(commands)
    built = scratch / "lacray_ops.so"
    _run([nvcc, f"-ccbin={compiler}", "-shared", "-cudart=static", *objects, *cuda_link, *link, "-o", str(built)])
    return built
