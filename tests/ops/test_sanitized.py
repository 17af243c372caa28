"""The CPU engines under the address and undefined-behaviour sanitizers: golden cases and problems of many tiles."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from backends import GOLDEN
from torch import Tensor

from lacray.ops import library, reference

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        compiler = library.find_compiler()
    except library.BuildError as error:
        pytest.skip(f"no C++ compiler here: {error}")
    built = tmp_path_factory.mktemp("sanitized") / "sanitized"
    sources = [HERE / "sanitized.cpp", *(library.SOURCES / s for s in library.CPU_SOURCES if s.startswith("engine"))]
    flags = ["-std=c++20", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [compiler, *flags, f"-I{library.SOURCES}", *map(str, sources), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and "asan" in done.stderr:
        pytest.skip(f"this compiler has no sanitizers: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return built


def problems() -> list[tuple[tuple[Tensor, ...], float, Tensor | None]]:
    """(S, gap_open, gap_extend), gamma, lengths."""
    found: list[tuple[tuple[Tensor, ...], float, Tensor | None]] = []
    for path in sorted((GOLDEN / "ssw_bruteforce").glob("[ce]*.npz")):
        z = np.load(path)
        tensors = tuple(torch.from_numpy(np.asarray(z[k])).double() for k in ("S", "gap_open", "gap_extend"))
        found.append((tensors, float(z["gamma"]), torch.from_numpy(z["lengths"])))
    g = torch.Generator().manual_seed(0)
    for B, N, M, kind in ((1, 1, 1, 0), (5, 33, 35, 1), (2, 70, 50, 2), (1, 9, 40, 0), (4, 64, 16, 1)):
        shape = ((), (N, M), (B, N, M))[kind]
        tensors = (torch.randn(B, N, M, generator=g), torch.rand(shape, generator=g), torch.rand(shape, generator=g))
        lengths = torch.stack([torch.randint(0, n + 1, (B,), generator=g) for n in (N, M)], 1)
        found += [(tensors, 0.7, None), (tensors, 0.7, lengths), (tuple(t.double() for t in tensors), 0.1, lengths)]
    return found


def test_engines_are_clean_under_the_sanitizers_and_right(program: Path) -> None:
    request, expected = b"", []
    for tensors, gamma, lengths in problems():
        B, N, M = tensors[0].shape
        dtype = tensors[0].dtype
        upstream = torch.ones(B, dtype=dtype), torch.linspace(-1, 1, B * N * M, dtype=dtype).view(B, N, M)
        kind = {0: 0, 2: 1, 3: 2}[tensors[1].dim()]
        head = np.array([B, N, M, kind, lengths is not None, dtype == torch.float64], dtype=np.int64)
        arrays = [head, np.array([gamma]), *([] if lengths is None else [lengths.numpy()])]
        request += b"".join(
            np.ascontiguousarray(a).tobytes() for a in (*arrays, *(t.numpy() for t in (*tensors, *upstream)))
        )
        leaves = [t.double().requires_grad_() for t in tensors]
        outputs = reference.soft_sw(*leaves, gamma=gamma, lengths=lengths)
        gradients = torch.autograd.grad(outputs, leaves, [u.double() for u in upstream], materialize_grads=True)
        expected.append((dtype, [o.detach() for o in outputs] + list(gradients)))
    done = subprocess.run([str(program)], input=request, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    answer, at = done.stdout, 0
    size = sum(t.numel() * torch.finfo(dtype).bits // 8 for dtype, tensors in expected for t in tensors)
    assert len(answer) % size == 0
    runs = len(answer) // size  # engines of this machine, twice
    assert runs in (2, 4, 6)
    for dtype, targets in expected:
        for _ in range(runs):
            for target in targets:
                count = target.numel()
                numpy_dtype = np.float64 if dtype == torch.float64 else np.float32
                got = torch.from_numpy(np.frombuffer(answer, numpy_dtype, count, at).copy()).double()
                at += got.numel() * np.dtype(numpy_dtype).itemsize
                want = target.flatten()
                finite = torch.isfinite(want)
                assert torch.equal(got[~finite], want[~finite])
                scale = max(1.0, float(want[finite].abs().max())) if finite.any() else 1.0
                error = (got - want)[finite].abs().max() / scale if finite.any() else 0.0
                assert error < (1e-10 if dtype == torch.float64 else 1e-5)
