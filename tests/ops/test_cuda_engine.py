"""The CUDA engine without a GPU: compiled and linked by nvcc, and its kernels run lane by lane on the CPU."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lacray.ops import library, reference

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    try:
        compiler = library.find_compiler()
    except library.BuildError as error:
        pytest.skip(f"no C++ compiler here: {error}")
    built = tmp_path_factory.mktemp("emulated") / "emulated.so"
    flags = ["-std=c++20", "-O2", "-fPIC", "-shared", f"-I{library.SOURCES}"]
    subprocess.run(
        [compiler, *flags, str(HERE / "emulate_cuda.cpp"), "-o", str(built)], check=True, capture_output=True
    )
    return ctypes.CDLL(str(built))


def run(
    emulated: ctypes.CDLL,
    inputs: tuple[Tensor, ...],
    gamma: float,
    lengths: Tensor | None,
    grad_score: Tensor | None,
    grad_match: Tensor | None,
) -> list[Tensor]:
    similarity, gap_open, gap_extend = inputs
    B, N, M = similarity.shape
    outputs = [similarity.new_empty(s) for s in ((B,), (B, N, M), (B, N, M), gap_open.shape, gap_extend.shape)]
    score, match, *gradients = outputs

    def pointer(t: Tensor | None) -> ctypes.c_void_p:
        return ctypes.c_void_p(None if t is None else t.data_ptr())

    function = emulated.run_float if similarity.dtype == torch.float32 else emulated.run_double
    status = function(
        *(ctypes.c_int64(n) for n in (B, N, M)),
        *map(pointer, inputs),
        {0: 0, 2: 1, 3: 2}[gap_open.dim()],
        pointer(lengths),
        ctypes.c_double(gamma),
        *map(pointer, (score, match, grad_score, grad_match, *gradients)),
    )
    assert status == 0
    return outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["scalar", "shared", "own"])
@pytest.mark.parametrize("shape", [(5, 7), (33, 70), (70, 30), (64, 64)])
def test_kernels_agree_with_the_reference_lane_by_lane(
    emulated: ctypes.CDLL, shape: tuple[int, int], kind: str, dtype: torch.dtype
) -> None:
    B, (N, M) = 3, shape
    g = torch.Generator().manual_seed(N)
    gap_shape = {"scalar": (), "shared": (N, M), "own": (B, N, M)}[kind]
    inputs = (
        (torch.randn(B, N, M, generator=g) * 2).to(dtype),
        (torch.rand(gap_shape, generator=g) + 0.5).to(dtype),
        (torch.rand(gap_shape, generator=g) * 0.5).to(dtype),
    )
    lengths = torch.tensor([[N, M], [max(1, N - 32), max(1, M // 2)], [0, M]])
    grad_score, grad_match = torch.tensor([1.0, -0.5, 2.0], dtype=dtype), torch.randn(B, N, M, generator=g).to(dtype)
    actual = run(emulated, inputs, 0.3, lengths, grad_score, grad_match)
    leaves = [x.double().requires_grad_() for x in inputs]
    score, match = reference.soft_sw(*leaves, gamma=0.3, lengths=lengths)
    gradients = torch.autograd.grad((score, match), leaves, (grad_score.double(), grad_match.double()))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    for got, expected in zip(actual, (score.detach(), match.detach(), *gradients), strict=True):
        infinite = torch.isinf(expected)
        assert torch.equal(got[infinite].double(), expected[infinite])
        difference = (got[~infinite].double() - expected[~infinite]).abs()
        assert float(difference.max()) / float(expected[~infinite].abs().max()) < tolerance


def test_cuda_part_compiles_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if library.find_nvcc() is None:
        pytest.skip("NO CUDA COMPILER HERE: the CUDA engine is not compiled by this run")
    monkeypatch.setattr(library, "CUDA_ARCHITECTURES", ("90",))  # .ci builds them all
    built = library._compile_cuda(tmp_path)
    symbols = subprocess.run(["nm", "-D", "--defined-only", str(built)], capture_output=True, text=True, check=False)
    assert built.stat().st_size > 100_000, symbols.stdout
    # It resolves against torch; without a GPU nothing more can be said of it here.
    if torch.version.cuda is not None:
        ctypes.CDLL(str(built))
