"""The CPU engines under the address and undefined-behaviour sanitizers: golden cases and problems of many tiles."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from backends import GOLDEN, load
from torch import Tensor

from lacray import native
from lacray.ops import library, reference

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        compiler = library.find_compiler()
    except library.BuildError as error:
        pytest.skip(f"no C++ compiler here: {error}")
    folder = tmp_path_factory.mktemp("sanitized")
    sources = [HERE / "sanitized.cpp", *(library.SOURCES / s for s in library.CPU_SOURCES if s.startswith("engine"))]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    objects = [folder / f"{source.stem}.o" for source in sources]
    flags = ["-std=c++20", "-O0", *sanitizers, f"-I{library.SOURCES}", "-c"]
    built = folder / "sanitized"
    try:
        # Each takes 5 to 10 seconds.
        native.run_all(
            [[compiler, *flags, str(source), "-o", str(made)] for source, made in zip(sources, objects, strict=True)]
        )
        native.run([compiler, *sanitizers, *map(str, objects), "-o", str(built)])
    except library.BuildError as error:
        if "asan" not in str(error):
            raise
        pytest.skip(f"this compiler has no sanitizers: {str(error).splitlines()[-1]}")
    return built


@dataclass(frozen=True)
class Problem:
    """Tables and gaps, and what the engines must give for them."""

    tensors: tuple[Tensor, ...]
    gamma: float
    lengths: Tensor | None
    limit: int
    """Of one table (warping) the band, -1 for none; of three (affine) whether alignments go from end to end."""
    smooth: bool = False

    def request(self) -> bytes:
        table = self.tensors[0]
        affine = len(self.tensors) == 3
        variant = {0: 0, 2: 1, 3: 2}[self.tensors[1].dim()] if affine else int(self.smooth)
        flags = [self.lengths is not None, table.dtype == torch.float64]
        head = np.array([not affine, *table.shape, variant, self.limit, *flags], dtype=np.int64)
        arrays = [head, np.array([self.gamma]), *([] if self.lengths is None else [self.lengths.numpy()])]
        arrays += [t.numpy() for t in (*self.tensors, *self.upstream())]
        return b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)

    def upstream(self) -> tuple[Tensor, Tensor]:
        table = self.tensors[0]
        return torch.ones(len(table), dtype=table.dtype), torch.linspace(-1, 1, table.numel()).to(table).view(
            table.shape
        )

    def expected(self) -> list[Tensor]:
        leaves = [t.detach().clone().double().requires_grad_() for t in self.tensors]
        if len(leaves) == 3:
            outputs = reference.soft_sw(*leaves, gamma=self.gamma, lengths=self.lengths, end_to_end=self.limit == 1)
        else:
            outputs = reference.dtw(
                leaves[0], gamma=self.gamma, lengths=self.lengths, band=self.limit, smooth=self.smooth
            )
        given = [torch.where(torch.isfinite(o), u.double(), 0) for o, u in zip(outputs, self.upstream(), strict=True)]
        gradients = torch.autograd.grad(outputs, leaves, given, materialize_grads=True, retain_graph=True)
        if len(leaves) == 1:  # warping: those of the value alone too, which the forward pass may have found
            gradients += torch.autograd.grad(outputs[0], leaves, given[0], materialize_grads=True)
        return [*(o.detach() for o in outputs), *gradients]


def problems() -> list[Problem]:
    found = []
    for path in sorted((GOLDEN / "ssw_bruteforce").glob("[ce]*.npz")):
        z = load(path, torch.float64)
        found.append(Problem((z["S"], z["gap_open"], z["gap_extend"]), float(z["gamma"]), z["lengths"], 0))
    for path in sorted((GOLDEN / "softdtw").glob("*.npz")):
        z = load(path, torch.float64)
        found += [Problem((z["D"],), float(z["gamma"]), None, band) for band in (-1, int(z["bandwidth"]))]
    g = torch.Generator().manual_seed(0)
    for B, N, M, kind in ((1, 1, 1, 0), (5, 33, 35, 1), (2, 70, 50, 2), (1, 9, 40, 0), (4, 64, 16, 1)):
        shape = ((), (N, M), (B, N, M))[kind]
        tensors = (torch.randn(B, N, M, generator=g), torch.rand(shape, generator=g), torch.rand(shape, generator=g))
        wide = tuple(t.double() for t in tensors)
        lengths = torch.stack([torch.randint(0, n + 1, (B,), generator=g) for n in (N, M)], 1)
        found += [Problem(tensors, 0.7, None, 0), Problem(tensors, 0.7, lengths, 0), Problem(wide, 0.1, lengths, 0)]
        framed = tensors[0].clone()  # as soft_nw frames it, without changing its shape
        framed[:, 0], framed[:, :, 0] = -torch.inf, -torch.inf
        framed[:, 0, 0] = 0
        found += [
            Problem((framed, *tensors[1:]), 0.7, None, 1),
            Problem((framed.double(), *wide[1:]), 0.1, lengths, 1),
        ]
        for smooth, band in ((False, -1), (True, -1), (False, 3), (True, 17)):
            found += [Problem(tensors[:1], 0.7, None, band, smooth), Problem(wide[:1], 0.7, lengths, band, smooth)]
    return found


def test_engines_are_clean_under_the_sanitizers_and_right(program: Path) -> None:
    given = problems()
    expected = [(problem.tensors[0].dtype, problem.smooth, problem.expected()) for problem in given]
    request = b"".join(problem.request() for problem in given)
    done = subprocess.run([str(program)], input=request, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    answer, at = done.stdout, 0
    size = sum(t.numel() * torch.finfo(dtype).bits // 8 for dtype, _, tensors in expected for t in tensors)
    assert len(answer) % size == 0
    runs = len(answer) // size  # engines of this machine, twice
    assert runs in (2, 4, 6)
    for dtype, smooth, targets in expected:
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4 if smooth else 2e-5
        for _ in range(runs):
            for target in targets:
                count = target.numel()
                numpy_dtype = np.float64 if dtype == torch.float64 else np.float32
                got = torch.from_numpy(np.frombuffer(answer, numpy_dtype, count, at).copy()).double()
                at += got.numel() * np.dtype(numpy_dtype).itemsize
                assert_close(got, target.flatten(), tolerance)


def assert_close(got: Tensor, want: Tensor, tolerance: float) -> None:
    finite = torch.isfinite(want)
    assert torch.equal(got[~finite], want[~finite])
    if finite.any():
        assert (got - want)[finite].abs().max() / want[finite].abs().max().clamp_min(1) < tolerance
