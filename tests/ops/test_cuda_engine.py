"""The CUDA engine without a GPU: compiled and linked by nvcc, and its kernels run lane by lane on the CPU."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from backends import relative_error
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


def call(emulated: ctypes.CDLL, name: str, *arguments: Any) -> None:
    """A C function on tensors, int64 numbers and doubles (bool: int), in the variant of the first tensor's dtype."""
    first = next(a for a in arguments if isinstance(a, Tensor))

    def converted(a: Any) -> Any:
        if isinstance(a, bool):
            return ctypes.c_int(a)
        if isinstance(a, int):
            return ctypes.c_int64(a)
        if isinstance(a, float):
            return ctypes.c_double(a)
        if isinstance(a, Tensor):
            return ctypes.c_void_p(a.data_ptr())
        return a

    function = getattr(emulated, f"{name}_{'float' if first.dtype == torch.float32 else 'double'}")
    assert function(*map(converted, arguments)) == 0


def assert_agree(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for got, want in zip(actual, expected, strict=True):
        assert relative_error(got, want.detach()) < tolerance


SHAPES = [(5, 7), (33, 70), (70, 30), (64, 64)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["scalar", "each", "shared", "own"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("end_to_end", [False, True])
def test_affine_kernels_agree_with_the_reference_lane_by_lane(
    emulated: ctypes.CDLL, end_to_end: bool, shape: tuple[int, int], kind: str, dtype: torch.dtype
) -> None:
    B, (N, M) = 3, shape
    g = torch.Generator().manual_seed(N)
    gap_shape = {"scalar": (), "each": (B,), "shared": (N, M), "own": (B, N, M)}[kind]
    inputs = (
        (torch.randn(B, N, M, generator=g) * 2).to(dtype),
        (torch.rand(gap_shape, generator=g) + 0.5).to(dtype),
        (torch.rand(gap_shape, generator=g) * 0.5).to(dtype),
    )
    if end_to_end:  # as soft_nw frames them, without changing their shape
        inputs[0][:, 0], inputs[0][:, :, 0] = -torch.inf, -torch.inf
        inputs[0][:, 0, 0] = 0
    lengths = torch.tensor([[N, M], [max(1, N - 32), max(1, M // 2)], [0, M]])
    grad_score, grad_match = torch.tensor([1.0, -0.5, 2.0], dtype=dtype), torch.randn(B, N, M, generator=g).to(dtype)
    actual = [torch.empty(s, dtype=dtype) for s in ((B,), (B, N, M), (B, N, M), gap_shape, gap_shape)]
    kinds = {"scalar": 0, "shared": 1, "own": 2, "each": 3}
    call(
        emulated,
        "soft_sw",
        B,
        N,
        M,
        *inputs,
        ctypes.c_int(kinds[kind]),
        lengths,
        0.3,
        end_to_end,
        grad_score,
        grad_match,
        *actual,
    )
    leaves = [x.double().requires_grad_() for x in inputs]
    outputs = reference.soft_sw(*leaves, gamma=0.3, lengths=lengths, end_to_end=end_to_end)
    gradients = torch.autograd.grad(outputs, leaves, (grad_score.double(), grad_match.double()))
    assert_agree(actual, [*outputs, *gradients], 2e-5 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("end_to_end", [False, True])
@pytest.mark.parametrize("place", [(1, 2), (39, 49), (slice(None), slice(None))], ids=str)
def test_nan_makes_the_score_of_its_pair_nan_and_the_gradients_of_the_gaps(
    emulated: ctypes.CDLL, place: tuple[Any, Any], end_to_end: bool
) -> None:
    similarity = torch.zeros(2, 40, 50)
    similarity[0][place] = torch.nan
    gaps, lengths = torch.tensor([1.0, 0.5]).unbind(), torch.tensor([[40, 50]] * 2)
    score, match, grad_similarity = torch.empty(2), torch.empty(2, 40, 50), torch.empty(2, 40, 50)
    grad_gaps = torch.empty(()), torch.empty(())
    outputs = (score, match, grad_similarity, *grad_gaps)
    upstream = torch.ones(2), torch.zeros(2, 40, 50)
    call(
        emulated,
        "soft_sw",
        2,
        40,
        50,
        similarity,
        *gaps,
        ctypes.c_int(0),
        lengths,
        0.3,
        end_to_end,
        *upstream,
        *outputs,
    )
    assert score.isnan().tolist() == [True, False]
    assert all(gradient.isnan() for gradient in grad_gaps)
    assert grad_similarity[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("band", [-1, 0, 3, 40])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_warping_kernels_agree_with_the_reference_lane_by_lane(
    emulated: ctypes.CDLL, shape: tuple[int, int], smooth: bool, band: int, dtype: torch.dtype
) -> None:
    B, (N, M) = 3, shape
    g = torch.Generator().manual_seed(M)
    cost = (torch.rand(B, N, M, generator=g) * 3).to(dtype)
    cost[0, N // 2, M // 2] = torch.inf
    cost[1, N // 3] = torch.inf  # no cell below it can be reached
    lengths = torch.tensor([[N, M], [max(1, N - 32), max(1, M // 2)], [0, M]])
    grad_value, grad_table = torch.tensor([1.0, -0.5, 2.0], dtype=dtype), torch.randn(B, N, M, generator=g).to(dtype)
    leaf = cost.double().requires_grad_()
    outputs = reference.dtw(leaf, gamma=0.3, lengths=lengths, band=band, smooth=smooth)
    # What arrives where no path does, often NaN, must be dropped.
    grad_table = torch.where(torch.isfinite(outputs[1]), grad_table, torch.nan)
    actual = [torch.empty(s, dtype=dtype) for s in ((B,), (B, N, M), (B, N, M))]
    call(emulated, "dtw", B, N, M, cost, smooth, band, lengths, 0.3, grad_value, grad_table, *actual)
    given = [
        torch.where(torch.isfinite(o), u.double(), 0) for o, u in zip(outputs, (grad_value, grad_table), strict=True)
    ]
    (gradient,) = torch.autograd.grad(outputs, leaf, given)
    assert_agree(actual, [*outputs, gradient], 5e-5 if dtype == torch.float32 else 1e-11)


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
