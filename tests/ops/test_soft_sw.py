"""soft_sw against golden vectors, enumeration, finite differences, and its own contract."""

from __future__ import annotations

import functools
import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import backends
import numpy as np
import pytest
import torch
from backends import GOLDEN, SoftSw, load, ragged, relative_error
from torch import Tensor

from lacray.ops import reference, soft_nw, soft_sw

GOLDEN_CASES = sorted(p.stem for p in (GOLDEN / "ssw_bruteforce").glob("[ce]*.npz")) or ["absent"]
# At 1.0 a missing "/ gamma" is invisible.
GAMMAS = [0.05, 0.8, 5.0]


def problem(
    B: int, N: int, M: int, gap_shape: tuple[int, ...], seed: int = 0, spread: float = 1.5
) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    similarity = torch.randn(B, N, M, generator=g, dtype=torch.float64) * spread + 0.3
    gap_open = torch.rand(gap_shape, generator=g, dtype=torch.float64) + 0.5
    gap_extend = torch.rand(gap_shape, generator=g, dtype=torch.float64) * 0.5
    return similarity, gap_open, gap_extend


def values_and_gradients(
    f: SoftSw, inputs: tuple[Tensor, ...], gamma: float, lengths: Tensor | None, grad_score: Tensor, grad_match: Tensor
) -> list[Tensor]:
    return backends.values_and_gradients(f, inputs, (grad_score, grad_match), gamma=gamma, lengths=lengths)


def cropped(table: Tensor, lengths: Tensor) -> Tensor:
    """The cells within lengths, in a row."""
    return torch.cat([t[:n, :m].flatten() for t, (n, m) in zip(table, lengths.tolist(), strict=True)])


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_agrees_with_the_golden_vectors(golden: Path, case: str, backend: SoftSw) -> None:
    z = load(golden / "ssw_bruteforce" / f"{case}.npz", torch.float64)
    lengths, gamma = z["lengths"], float(z["gamma"])
    inputs = (z["S"], z["gap_open"], z["gap_extend"])
    ones = torch.ones_like(z["score"])
    score, match, *of_score = values_and_gradients(backend, inputs, gamma, lengths, ones, torch.zeros_like(z["W"]))
    assert relative_error(score, z["score"]) < 1e-10
    assert relative_error(cropped(match, lengths), cropped(z["D"], lengths)) < 1e-10
    # score + sum W D: a dropped gradient of match shows here.
    of_lin = values_and_gradients(backend, inputs, gamma, lengths, ones, z["W"])[2:]
    for name, gradients in (("score", of_score), ("lin", of_lin)):
        for key, gradient in zip(("S", "gap_open", "gap_extend"), gradients, strict=True):
            expected = z[f"grad_{name}_{key}"]
            expected = expected if key == "S" else expected.sum(0)
            error = float((gradient - expected).abs().max()) / max(1.0, float(expected.abs().max()))
            assert error < 1e-10, (name, key)


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_agrees_with_the_golden_vectors_in_float32(golden: Path, case: str, ops: SimpleNamespace) -> None:
    z = load(golden / "ssw_bruteforce" / f"{case}.npz", torch.float64)
    lengths, gamma = z["lengths"], float(z["gamma"])
    inputs = tuple(z[k].float() for k in ("S", "gap_open", "gap_extend"))
    actual = values_and_gradients(ops.soft_sw, inputs, gamma, lengths, torch.ones(len(lengths)), z["W"].float())
    assert relative_error(actual[0], z["score"]) < 1e-4
    assert relative_error(cropped(actual[1], lengths), cropped(z["D"], lengths)) < 1e-4
    # Rounding S = 500 to float32 moves S / 0.05 by 6e-4, so gradients are compared with those of the rounded inputs.
    rounded = tuple(x.double() for x in inputs)
    exact = values_and_gradients(reference.soft_sw, rounded, gamma, lengths, torch.ones(len(lengths)), z["W"])
    scale = 20.0 if ops.name == "reference" and case.startswith("extreme_S500") else 1.0  # it subtracts 1e4s
    for got, expected in zip(actual[2:], exact[2:], strict=True):
        assert float((got - expected).abs().max()) / max(1.0, float(expected.abs().max())) < 1e-4 * scale


def test_agrees_with_enumerated_golden_chains(golden: Path, backend: SoftSw) -> None:
    z = load(golden / "ssw_bruteforce" / "tiny_enumeration.npz", torch.float64)
    for k, gamma in enumerate(z["gamma"].tolist()):
        similarity = z["S"][None].clone().requires_grad_()
        score, match = backend(similarity, z["gap_open"], z["gap_extend"], gamma=gamma)
        (marginals,) = torch.autograd.grad(score.sum(), similarity)
        assert relative_error(score.detach(), z["score"][k : k + 1]) < 1e-12
        assert relative_error(match.detach()[0], z["D"][k]) < 1e-12
        assert relative_error(marginals[0], z["marginals"][k]) < 1e-11


SMURF_CASES = sorted(p.stem for p in (GOLDEN / "ssw_smurf").glob("*.npz")) or ["absent"]


@pytest.mark.parametrize("case", SMURF_CASES)
def test_agrees_with_smurf_through_its_mapping(golden: Path, case: str, backend: SoftSw) -> None:
    inputs = load(golden / "ssw_bruteforce" / f"{case}.npz", torch.float64)
    z = load(golden / "ssw_smurf" / f"{case}.npz", torch.float64)
    gamma, keep = float(inputs["gamma"]), z["valid"].bool()
    similarity = inputs["S"].clone().requires_grad_()
    score, match = backend(similarity, z["gap_open"], z["gap_extend"], gamma=gamma, lengths=z["lengths"])
    (marginals,) = torch.autograd.grad(score.sum(), similarity)
    score, match = score.detach(), match.detach()
    # SMURF leaves out chains of a single match.
    single = torch.where(torch.isfinite(match), inputs["S"], -torch.inf) / gamma
    value = torch.logaddexp(z["value"] / gamma, single.flatten(1).logsumexp(1)) * gamma
    assert relative_error(score[keep], value[keep]) < 1e-11
    expected = ((z["value"] - score) / gamma).exp()[:, None, None] * z["marginals"] + (
        single - score[:, None, None] / gamma
    ).exp()
    assert float((marginals - expected)[keep].abs().max()) < 1e-10


def enumerate_chains(
    similarity: np.ndarray, gap_open: np.ndarray, gap_extend: np.ndarray, gamma: float
) -> tuple[float, np.ndarray]:
    """Every alignment written out: a chain of matches, its gaps walked cell by cell."""
    n, m = similarity.shape
    by_end: dict[tuple[int, int], list[float]] = {}

    def gap_cost(i: int, j: int, k: int, l: int) -> float:  # noqa: E741
        cost, opened = 0.0, False
        for column in range(j + 1, l):  # along row i first
            cost += gap_extend[i, column] if opened else gap_open[i, column]
            opened = True
        opened = False
        for row in range(i + 1, k):  # then down the last column; it opens anew
            cost += gap_extend[row, l - 1] if opened else gap_open[row, l - 1]
            opened = True
        return cost

    def extend(i: int, j: int, energy: float) -> None:
        by_end.setdefault((i, j), []).append(energy)
        for k in range(i + 1, n):
            for l in range(j + 1, m):  # noqa: E741
                extend(k, l, energy - gap_cost(i, j, k, l) + similarity[k, l])

    for i in range(n):
        for j in range(m):
            extend(i, j, similarity[i, j])

    def smooth_max(energies: list[float]) -> float:
        top = max(energies)
        return top + gamma * math.log(math.fsum(math.exp((e - top) / gamma) for e in energies))

    match = np.array([[smooth_max(by_end[i, j]) for j in range(m)] for i in range(n)])
    return smooth_max([e for energies in by_end.values() for e in energies]), match


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("shape", [(4, 5), (5, 3), (1, 6), (6, 1)])
def test_score_is_the_log_sum_over_all_alignments(gamma: float, shape: tuple[int, int], backend: SoftSw) -> None:
    similarity, gap_open, gap_extend = problem(2, *shape, shape, seed=3)
    score, match = backend(similarity, gap_open, gap_extend, gamma=gamma)
    for b in range(2):
        expected, table = enumerate_chains(similarity[b].numpy(), gap_open.numpy(), gap_extend.numpy(), gamma)
        assert score[b].item() == pytest.approx(expected, rel=1e-12)
        torch.testing.assert_close(match[b], torch.from_numpy(table), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["scalar", "each", "shared", "own"])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_gradients_of_both_outputs_are_those_of_finite_differences(
    kind: str, with_lengths: bool, backend: SoftSw
) -> None:
    B, N, M = 2, 4, 5
    shape = {"scalar": (), "each": (B,), "shared": (N, M), "own": (B, N, M)}[kind]
    inputs = tuple(x.requires_grad_() for x in problem(B, N, M, shape, seed=5))
    lengths = ragged(B, N, M) if with_lengths else None

    def f(*args: Tensor) -> tuple[Tensor, Tensor]:
        score, match = backend(*args, gamma=0.7, lengths=lengths)
        return score, torch.where(torch.isfinite(match), match, 0.0)

    assert torch.autograd.gradcheck(f, inputs, eps=1e-6, atol=1e-7, rtol=1e-6)


def seams(shape: tuple[int, int], kind: str) -> tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, Tensor]]:
    """Tables and gaps that a float holds, lengths, and upstream gradients."""
    N, M = shape
    B = 5 if M < 100 else 2  # which share a table of gaps
    inputs = problem(B, N, M, {"scalar": (), "each": (B,), "shared": shape, "own": (B, *shape)}[kind], seed=7)
    lengths = torch.tensor([[N, M]] * (B - 1) + [[max(1, N - 17), max(1, M - 33)]])
    upstream = torch.linspace(1.0, -0.4, B), torch.randn(B, N, M, generator=torch.Generator().manual_seed(1)).double()
    return tuple(x.float().double() for x in inputs), lengths, upstream


@functools.cache  # for all backends and both precisions
def exact_seams(shape: tuple[int, int], kind: str) -> list[Tensor]:
    inputs, lengths, upstream = seams(shape, kind)
    return values_and_gradients(reference.soft_sw, inputs, 0.3, lengths, *upstream)


# Tiles are 32 rows by 256 (CPU) or 64 (GPU) columns; strips 2 to 32 rows.
@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((33, 70), "scalar"),
        ((64, 64), "shared"),
        ((64, 64), "each"),
        ((31, 257), "own"),
        ((70, 530), "shared"),
        ((5, 300), "own"),
        ((100, 3), "scalar"),
    ],
)
def test_tiles_join_without_a_seam(shape: tuple[int, int], kind: str, ops: SimpleNamespace) -> None:
    if ops.name == "reference":
        pytest.skip("the oracle of this test")
    inputs, lengths, upstream = seams(shape, kind)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        actual = values_and_gradients(ops.soft_sw, tuple(x.to(dtype) for x in inputs), 0.3, lengths, *upstream)
        for got, expected in zip(actual, exact_seams(shape, kind), strict=True):
            assert relative_error(got, expected) < tolerance


# In groups of several pairs, which add to one table.
@pytest.mark.parametrize("shape", [(20, 64, 64), (2, 90, 300), (9, 370, 360)])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_gradients_of_shared_gaps_are_the_sums_over_the_pairs(
    shape: tuple[int, int, int], with_lengths: bool, ops: SimpleNamespace
) -> None:
    if ops.name == "reference":
        pytest.skip("slow, and autograd's own sum")
    B, N, M = shape
    similarity, gap_open, gap_extend = problem(B, N, M, (N, M), seed=5)
    lengths = ragged(B, N, M) if with_lengths else None
    upstream = torch.linspace(1.0, -0.4, B), torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    each = values_and_gradients(
        ops.soft_sw, (similarity, gap_open.expand(shape), gap_extend.expand(shape)), 0.3, lengths, *upstream
    )
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        inputs = tuple(t.to(dtype) for t in (similarity, gap_open, gap_extend))
        together = values_and_gradients(ops.soft_sw, inputs, 0.3, lengths, *upstream)
        for actual, expected in zip(together, (*each[:3], each[3].sum(0), each[4].sum(0)), strict=True):
            assert relative_error(actual, expected) < tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("gamma", "size"), [(1e-3, 1e4), (1e-3, 1.0), (0.05, 1e4), (1e3, 1e-3)])
@pytest.mark.parametrize("kind", ["scalar", "shared"])
def test_extreme_ranges_stay_exact(
    gamma: float, size: float, dtype: torch.dtype, kind: str, ops: SimpleNamespace
) -> None:
    B = 5
    similarity, gap_open, gap_extend = problem(B, 20, 37, (20, 37) if kind == "shared" else (), seed=11, spread=size)
    inputs = (similarity.clamp(-size, size).to(dtype), (gap_open * size).to(dtype), (gap_extend * size).to(dtype))
    upstream = torch.ones(B, dtype=dtype), torch.rand(B, 20, 37, generator=torch.Generator().manual_seed(2)).to(dtype)
    actual = values_and_gradients(ops.soft_sw, inputs, gamma, None, *upstream)
    exact = values_and_gradients(
        reference.soft_sw, tuple(x.double() for x in inputs), gamma, None, *(u.double() for u in upstream)
    )
    assert all(torch.isfinite(a).all() for a in actual)
    if ops.name == "reference" and dtype == torch.float32:
        pytest.skip("float32 log space cannot resolve D / gamma = 1e5; the compiled operators carry the exponent apart")
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for got, expected in zip(actual[:2], exact[:2], strict=True):
        assert relative_error(got, expected) < min(tolerance, 1e-6)
    if dtype == torch.float32 and size / gamma > 1e6:
        # D / gamma is 1e8 here, and a float holds whole exponents to 2^24: near ties are resolved to a tenth.
        tolerance = 0.2
    for got, expected in zip(actual[2:], exact[2:], strict=True):
        assert relative_error(got, expected) < tolerance


@pytest.mark.parametrize("kind", ["scalar", "shared"])
@pytest.mark.parametrize(("opening", "extending"), [(1.0, 200.0), (200.0, 1.0), (-200.0, 401.0), (401.0, -200.0)])
def test_a_gap_beyond_a_floats_range_may_be_worth_it(
    kind: str, opening: float, extending: float, ops: SimpleNamespace
) -> None:
    similarity = torch.full((5, 2, 4), -torch.inf)
    similarity[:, 0, 0] = similarity[:, 1, 3] = 300  # joined by a gap of two frames, which costs 201
    gaps = [torch.full(() if kind == "scalar" else (2, 4), gap) for gap in (opening, extending)]
    score, _ = ops.soft_sw(similarity, *gaps, gamma=1.0)
    torch.testing.assert_close(score, torch.full((5,), 399.0))


def test_large_similarities_keep_their_small_differences_in_float32(ops: SimpleNamespace) -> None:
    if ops.name == "reference":
        pytest.skip("float32 log space cannot: this is what the exponents carried apart are for")
    gamma = 0.01
    similarity, gap_open, gap_extend = problem(2, 20, 25, (20, 25), seed=13, spread=gamma)
    # S / gamma is 1e5 and differs by about 1 from cell to cell: rounding it to float32 alone would cost 0.4 %.
    inputs = ((similarity + 1000).float(), (gap_open * gamma + 1000).float(), (gap_extend * gamma + 500).float())
    upstream = torch.ones(2), torch.rand(2, 20, 25, generator=torch.Generator().manual_seed(2))
    exact = values_and_gradients(reference.soft_sw, tuple(x.double() for x in inputs), gamma, None, *upstream)
    for got, expected in zip(values_and_gradients(ops.soft_sw, inputs, gamma, None, *upstream), exact, strict=True):
        assert relative_error(got, expected) < 2e-5


@pytest.mark.parametrize("kind", ["scalar", "shared", "own"])
def test_what_lies_beyond_lengths_changes_nothing(kind: str, backend: SoftSw) -> None:
    B, N, M = 5, 9, 12
    similarity, gap_open, gap_extend = problem(
        B, N, M, {"scalar": (), "shared": (N, M), "own": (B, N, M)}[kind], seed=2
    )
    lengths = torch.tensor([[6, 10], [4, 7], [5, 11], [1, 1], [6, 3]])
    upstream = (
        torch.tensor([1.0, 2.0, -1.0, 0.5, 1.5]),
        torch.randn(B, N, M, generator=torch.Generator().manual_seed(4)).double(),
    )
    clean = values_and_gradients(backend, (similarity, gap_open, gap_extend), 0.6, lengths, *upstream)
    beyond = ~reference.valid_cells(similarity, lengths)
    garbage = torch.tensor([math.nan, math.inf, -math.inf, 1e30], dtype=torch.float64).repeat(B * N * M)[: B * N * M]
    garbage = garbage.view(B, N, M)
    similarity = torch.where(beyond, garbage, similarity)
    if kind != "scalar":
        nowhere = beyond if kind == "own" else beyond.all(0)
        gap_open, gap_extend = (
            torch.where(nowhere, garbage if kind == "own" else garbage[0], g) for g in (gap_open, gap_extend)
        )
    upstream = upstream[0], torch.where(beyond, garbage, upstream[1])
    dirty = values_and_gradients(backend, (similarity, gap_open, gap_extend), 0.6, lengths, *upstream)
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a, b)
    assert (clean[1][beyond] == -torch.inf).all()
    assert (clean[2][beyond] == 0).all()


def test_nan_gradients_from_a_softmax_over_masked_rows_are_ignored(backend: SoftSw) -> None:
    similarity, gap_open, gap_extend = problem(2, 6, 8, (), seed=8)
    lengths = torch.tensor([[4, 5], [6, 8]])
    leaf = similarity.clone().requires_grad_()
    score, match = backend(leaf, gap_open, gap_extend, gamma=0.8, lengths=lengths)
    rows = match.softmax(-1)  # rows beyond the length are all -inf: NaN, and NaN comes back
    loss = score.sum() + torch.nan_to_num(rows, nan=0.0).square().sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_a_forbidden_match_has_no_weight(backend: SoftSw) -> None:
    similarity, gap_open, gap_extend = problem(2, 4, 5, (), seed=9)
    forbidden = similarity.clone()
    forbidden[0, 1, 2] = forbidden[0, 3, 3] = -math.inf
    lowest = torch.where(torch.isinf(forbidden), -1e5, forbidden)
    leaf = forbidden.requires_grad_()
    score, match = backend(leaf, gap_open, gap_extend, gamma=0.8)
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    expected, _ = backend(lowest, gap_open, gap_extend, gamma=0.8)
    torch.testing.assert_close(score.detach(), expected, rtol=1e-12, atol=0)
    assert match[0, 1, 2] == -math.inf
    assert gradient[0, 1, 2] == 0
    assert torch.isfinite(gradient).all()


def test_a_pair_without_frames_scores_minus_infinity_and_gets_no_gradient(backend: SoftSw) -> None:
    inputs = problem(3, 4, 6, (), seed=1)
    lengths = torch.tensor([[0, 6], [4, 0], [4, 6]])
    score, match, gradient, *_ = values_and_gradients(backend, inputs, 0.5, lengths, torch.ones(3), torch.ones(3, 4, 6))
    assert score[:2].tolist() == [-math.inf, -math.inf]
    assert torch.isfinite(score[2])
    assert (match[:2] == -math.inf).all()
    assert (gradient[:2] == 0).all()
    assert (gradient[2] != 0).any()


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_empty_tables_are_allowed(shape: tuple[int, int, int], backend: SoftSw) -> None:
    leaf = torch.zeros(shape).requires_grad_()
    score, match = backend(leaf, torch.tensor(1.0), torch.tensor(0.5), gamma=0.5)
    assert score.shape == shape[:1]
    assert match.shape == shape
    assert (score == -math.inf).all()


@pytest.mark.parametrize("place", [(2, 3), (0, 0), (5, 8), (0, 8), (5, 0), (slice(None), slice(None))], ids=str)
def test_nan_inside_stays_in_its_pair(place: tuple[Any, Any], backend: SoftSw) -> None:
    similarity, gap_open, gap_extend = problem(2, 6, 9, (), seed=1)
    expected, _ = backend(similarity, gap_open, gap_extend, gamma=0.5)
    similarity[0][place] = math.nan
    leaves = [x.requires_grad_() for x in (similarity, gap_open, gap_extend)]
    score, match = backend(*leaves, gamma=0.5)
    assert math.isnan(score[0])
    assert match[0][place].isnan().all()
    assert score[1] == expected[1]
    table, *shared = torch.autograd.grad(score.sum(), leaves)
    assert all(gradient.isnan() for gradient in shared)
    assert table[1].isfinite().all()


def test_two_directions_in_one_call_equal_two_calls(backend: SoftSw) -> None:
    similarity, gap_open, gap_extend = problem(2, 8, 8, (8, 8), seed=6)
    both = torch.cat([similarity, similarity.transpose(1, 2)])
    score, match = backend(both, gap_open, gap_extend, gamma=0.5)
    first, _ = backend(similarity, gap_open, gap_extend, gamma=0.5)
    second, table = backend(similarity.transpose(1, 2), gap_open, gap_extend, gamma=0.5)
    torch.testing.assert_close(score, torch.cat([first, second]))
    torch.testing.assert_close(match[2:], table)
    # Iy opens from Ix and never the reverse: the directions differ.
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    similarity, gap_open, gap_extend = (x.to(dtype) for x in problem(2, 6, 9, (6, 9)))
    leaf = similarity.clone().requires_grad_()
    score, match = soft_sw(leaf, gap_open, gap_extend, gamma=0.5)
    assert score.dtype == match.dtype == torch.float32
    expected, _ = soft_sw(similarity.float(), gap_open.float(), gap_extend.float(), gamma=0.5)
    assert torch.equal(score, expected)
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    assert gradient.dtype == dtype


def test_autocast_computes_in_float32() -> None:
    similarity, gap_open, gap_extend = (x.float() for x in problem(2, 6, 9, ()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product = torch.einsum("bnm,mk->bnk", similarity, torch.eye(9))
        assert product.dtype == torch.bfloat16
        score, _ = soft_sw(product, gap_open, gap_extend, gamma=0.5)
        direct, _, _ = torch.ops.lacray.soft_sw(product, gap_open.bfloat16(), gap_extend.bfloat16(), None, 0.5, False)
    assert score.dtype == direct.dtype == torch.float32


def test_numbers_serve_as_gaps_and_gamma() -> None:
    similarity = problem(2, 5, 6, ())[0].float()
    expected = soft_sw(similarity, torch.tensor(1.5), torch.tensor(0.25), gamma=0.5)
    for opening, extending, gamma in (
        (1.5, 0.25, 0.5),
        (torch.full((5, 6), 1.5), 0.25, np.float32(0.5)),
        (1.5, torch.full((2, 5, 6), 0.25), np.float64(0.5)),
        (np.float32(1.5), np.float64(0.25), np.array(0.5)),
        (np.array(1.5), np.array(0.25, dtype=np.float16), 0.5),
        (torch.full((2,), 1.5), 0.25, 0.5),
        (torch.full((5, 6), 1.5), torch.full((2,), 0.25), 0.5),
        (torch.full((2,), 1.5), torch.full((2, 5, 6), 0.25), 0.5),
    ):
        for actual, target in zip(soft_sw(similarity, opening, extending, gamma=gamma), expected, strict=True):
            torch.testing.assert_close(actual, target)
    whole = soft_sw(similarity, 2.0, 1.0, gamma=3.0)
    for two, one, three in ((2, 1, 3), (np.int64(2), np.uint8(1), np.int32(3))):
        assert all(map(torch.equal, soft_sw(similarity, two, one, gamma=three), whole))


def test_lengths_may_be_lists_arrays_and_any_integers(backend: SoftSw) -> None:
    similarity = problem(2, 5, 6, ())[0].float()
    lengths = torch.tensor([[5, 6], [3, 2]])
    expected = backend(similarity, 1.0, 0.5, gamma=0.5, lengths=lengths)
    frozen = np.asarray(lengths.tolist())
    frozen.flags.writeable = False
    for given in (
        [[5, 6], (3, 2)],
        [np.array([5, 6]), np.array([3, 2])],
        frozen,
        lengths.numpy().astype(np.uint16),
        lengths.int(),
        lengths.to(torch.uint8),
        lengths.t().contiguous().t(),
    ):
        assert all(map(torch.equal, backend(similarity, 1.0, 0.5, gamma=0.5, lengths=given), expected))
    for nothing in ([], np.zeros((0, 2), dtype=np.int64)):
        assert backend(similarity[:0], 1.0, 0.5, gamma=0.5, lengths=nothing)[0].shape == (0,)


def test_strides_do_not_matter(backend: SoftSw) -> None:
    similarity, gap_open, gap_extend = problem(2, 6, 9, (6, 9))
    expected = values_and_gradients(
        backend, (similarity, gap_open, gap_extend), 0.5, None, torch.ones(2), torch.ones(2, 6, 9)
    )
    wide = torch.zeros(2, 9, 12, dtype=torch.float64).transpose(1, 2)[:, ::2]
    wide.copy_(similarity)
    leaf = wide.detach().requires_grad_()
    score, match = backend(leaf, gap_open.t().contiguous().t(), gap_extend, gamma=0.5)
    (gradient,) = torch.autograd.grad(
        (score, match), leaf, (torch.ones(2).double(), torch.ones(2, 9, 6).double().transpose(1, 2))
    )
    assert torch.equal(score.detach(), expected[0])
    assert torch.equal(gradient, expected[2])


# Many problems go to threads whole; a long one by its tiles.
@pytest.mark.parametrize("shape", [(40, 33, 45), (1, 300, 530)])
@pytest.mark.parametrize("kind", ["scalar", "shared", "own"])
def test_results_are_identical_bit_for_bit_whatever_the_threads(shape: tuple[int, int, int], kind: str) -> None:
    B, N, M = shape
    inputs = tuple(x.float() for x in problem(B, N, M, {"scalar": (), "shared": (N, M), "own": shape}[kind]))
    upstream = torch.ones(B), torch.randn(B, N, M, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            runs.append(values_and_gradients(soft_sw, inputs, 0.4, ragged(B, N, M), *upstream))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def test_threads_may_call_at_the_same_time() -> None:
    inputs = tuple(x.float() for x in problem(4, 20, 30, (20, 30)))
    expected = soft_sw(*inputs, gamma=0.4)[0]
    scores: list[Tensor] = []
    workers = [threading.Thread(target=lambda: scores.append(soft_sw(*inputs, gamma=0.4)[0])) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(scores) == 8
    assert all(torch.equal(s, expected) for s in scores)


def test_saved_state_is_a_fraction_of_a_float_per_cell() -> None:
    similarity = torch.zeros(1, 512, 512)
    *_, state = torch.ops.lacray.soft_sw(similarity, torch.tensor(1.0), torch.tensor(1.0), None, 0.5, False)
    # With S and D that is less than 4 in all.
    assert state.numel() / similarity.numel() < 0.25


@pytest.mark.parametrize("kind", ["scalar", "each", "shared", "own"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_opcheck_passes(kind: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    soft_sw(torch.zeros(1, 1, 1, device=device), 1.0, 1.0, gamma=1.0)  # loads the library
    B, N, M = 2, 40, 9
    inputs = problem(B, N, M, {"scalar": (), "each": (B,), "shared": (N, M), "own": (B, N, M)}[kind])
    similarity, gap_open, gap_extend = (x.to(device).requires_grad_() for x in inputs)
    lengths = ragged(B, N, M).to(device)
    for with_lengths in (None, lengths):
        for end_to_end in (False, True):
            arguments = (similarity, gap_open, gap_extend, with_lengths, 0.5, end_to_end)
            torch.library.opcheck(torch.ops.lacray.soft_sw.default, arguments)
    plain = [x.detach() for x in (similarity, gap_open, gap_extend)]
    score, match, state = torch.ops.lacray.soft_sw(*plain, lengths, 0.5, False)
    for gradients in (
        (torch.ones_like(score), torch.ones_like(match)),
        (None, torch.ones_like(match)),
        (torch.ones_like(score), None),
    ):
        for gaps in (True, False):
            torch.library.opcheck(
                torch.ops.lacray.soft_sw_backward.default,
                (*gradients, *plain, lengths, state, 0.5, False, gaps),
                test_utils=("test_schema", "test_faketensor"),
            )


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dynamic: bool) -> None:
    def loss(similarity: Tensor, gap_open: Tensor, gap_extend: Tensor, lengths: Tensor) -> Tensor:
        score, match = soft_sw(similarity, gap_open, gap_extend, gamma=0.5, lengths=lengths)
        return score.sum() + torch.where(torch.isfinite(match), match, 0.0).square().mean()

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for N, M in ((6, 9), (40, 12)):
        inputs = [x.requires_grad_() for x in problem(3, N, M, (N, M))]
        lengths = ragged(3, N, M)
        expected = torch.autograd.grad(loss(*inputs, lengths), inputs)
        actual = torch.autograd.grad(compiled(*inputs, lengths), inputs)
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["scalar", "shared", "own"])
@pytest.mark.parametrize("function", [soft_sw, soft_nw])
def test_second_derivatives_of_both_outputs_are_those_of_finite_differences(function: SoftSw, kind: str) -> None:
    shape = {"scalar": (), "shared": (3, 4), "own": (2, 3, 4)}[kind]
    inputs = [x.requires_grad_() for x in problem(2, 3, 4, shape, seed=3)]

    def f(*args: Tensor) -> tuple[Tensor, Tensor]:
        score, match = function(*args, gamma=0.7, lengths=torch.tensor([[3, 4], [2, 3]]))
        return score, torch.where(torch.isfinite(match), match, 0.0)

    assert torch.autograd.gradgradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(lambda x: f(x, 1.0, 0.5)[0], inputs[:1])


def test_third_derivatives_are_not_silently_zero() -> None:
    found = []
    for function in (soft_sw, reference.soft_sw):
        leaf = problem(2, 3, 4, ())[0].requires_grad_()
        value = function(leaf, torch.tensor(1.0).double(), torch.tensor(0.5).double(), gamma=0.7)[0].square().sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
            value = gradient.square().sum()
        found.append(gradient.detach())
    assert found[1].abs().max() > 0.01
    torch.testing.assert_close(*found)


GOOD = {
    "similarity": torch.zeros(2, 4, 5),
    "gap_open": torch.tensor(1.0),
    "gap_extend": torch.tensor(0.5),
    "gamma": 0.5,
    "lengths": torch.tensor([[4, 5], [3, 2]]),
}


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("similarity", torch.zeros(4, 5), r"similarity: must have shape \(B, N, M\), got \(4, 5\)"),
        (
            "similarity",
            torch.zeros(2, 4, 5, dtype=torch.int64),
            r"similarity: must be of a floating dtype, got torch.int64",
        ),
        ("similarity", [[1.0]], r"similarity: must be a tensor, got list"),
        (
            "gap_open",
            torch.zeros(5, 4),
            r"gap_open: must have shape \(\), \(2,\), \(4, 5\) or \(2, 4, 5\).*got \(5, 4\)",
        ),
        ("gap_extend", torch.zeros(3), r"gap_extend: must have shape .*got \(3,\)"),
        (
            "gap_open",
            torch.zeros((), dtype=torch.float64),
            r"gap_open: must be of a floating dtype no wider.*torch.float64",
        ),
        ("gap_extend", torch.zeros((), dtype=torch.int32), r"gap_extend: must be of a floating dtype.*torch.int32"),
        ("gap_open", torch.zeros((), device="meta"), r"gap_open: must be on similarity's device cpu, got meta"),
        ("gap_open", "1", r"gap_open: must be a tensor or a number, got str$"),
        ("gap_open", np.str_("1"), r"gap_open: must be a tensor or a number, got str_$"),
        ("gap_open", True, r"gap_open: must be a tensor or a number, got bool$"),
        ("gap_open", np.bool_(True), r"gap_open: must be a tensor or a number, got bool"),
        ("gap_open", np.zeros((4, 5)), r"gap_open: .*, got ndarray: torch.as_tensor\(gap_open\) makes it one"),
        ("gap_extend", torch.tensor(True), r"gap_extend: must be of a floating dtype.*torch.bool"),
        ("gamma", 0.0, r"gamma: must be > 0 and finite, got 0.0"),
        ("gamma", -1, r"gamma: must be > 0 and finite, got -1"),
        ("gamma", math.nan, r"gamma: must be > 0 and finite, got nan"),
        ("gamma", torch.tensor(1.0), r"gamma: must be a number, got Tensor: gamma.item\(\), .*gamma=1\) is the same"),
        ("gamma", torch.ones(2), r"gamma: must be a number, got Tensor: .*one gamma a pair, divide all by it"),
        ("gamma", "0.5", r"gamma: must be a number, got str$"),
        ("gamma", True, r"gamma: must be a number, got bool$"),
        ("gamma", np.array([0.5]), r"gamma: must be a number, got ndarray$"),
        ("lengths", torch.tensor([4, 3]), r"lengths: must have shape \(2, 2\), got \(2,\)"),
        ("lengths", torch.tensor([[4.0, 5.0], [3.0, 2.0]]), r"lengths: must be of an integer dtype, got torch.float32"),
        ("lengths", [[4.0, 5.0], [3.0, 2.0]], r"lengths: must be of an integer dtype, got torch.float32"),
        ("lengths", torch.ones(2, 2, dtype=torch.bool), r"lengths: must be of an integer dtype, got torch.bool"),
        ("lengths", torch.tensor([[4, 6], [3, 2]]), r"lengths: column 1 must be in 0..5 \(M\), got 6"),
        ("lengths", torch.tensor([[4, 5], [-1, 2]]), r"lengths: column 0 must be in 0..4 \(N\), got -1"),
        ("lengths", [[4, 6], [3, 2]], r"lengths: column 1 must be in 0..5 \(M\), got 6"),
        (
            "lengths",
            [[4, 5], [3]],
            r"lengths: must be a tensor, an array or a list of \(2, 2\) .*got \[\[4, 5\], \[3\]\]",
        ),
        (
            "lengths",
            [["4", "5"], ["3", "2"]],
            r"lengths: must be a tensor, an array or a list of \(2, 2\) whole numbers",
        ),
        ("lengths", 4, r"lengths: must be a tensor, an array or a list of \(2, 2\) whole numbers, got 4"),
    ],
)
def test_a_bad_argument_is_named_with_its_rule_and_value(argument: str, value: object, message: str) -> None:
    arguments = GOOD | {argument: value}
    with pytest.raises(ValueError, match=message):
        soft_sw(**arguments)
