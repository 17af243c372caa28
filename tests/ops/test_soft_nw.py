"""soft_nw and needleman_wunsch against enumeration, finite differences, and what they owe to soft_sw's contract."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from backends import ragged, relative_error, values_and_gradients
from torch import Tensor

import lacray.ops
from lacray.ops import reference
from lacray.ops.affine import with_corner


def problem(B: int, N: int, M: int, kind: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shape = {"scalar": (), "each": (B,), "shared": (N, M), "own": (B, N, M)}[kind]
    similarity = torch.randn(B, N, M, generator=g, dtype=torch.float64) * 1.5 + 0.3
    gap_open = torch.rand(shape, generator=g, dtype=torch.float64) + 0.5
    return similarity, gap_open, torch.rand(shape, generator=g, dtype=torch.float64) * 0.5


def all_alignments(
    similarity: list[list[float]], opening: list[list[float]], extending: list[list[float]], n: int, m: int
) -> list[tuple[float, tuple[tuple[int, int], ...]]]:
    """(energy, matches) of every walk from (0, 0) to (n, m) in steps of both, of j alone, or of i alone.

    A step of j alone never follows one of i alone. A step into frames (i, j) reads its penalty there, a step before a
    first frame at that frame.
    """
    found = []

    def walk(i: int, j: int, before: str, energy: float, matches: tuple[tuple[int, int], ...]) -> None:
        if (i, j) == (n, m):
            found.append((energy, matches))
        if i < n and j < m:
            walk(i + 1, j + 1, "both", energy + similarity[i][j], (*matches, (i, j)))
        if j < m and before != "i":
            table = extending if before == "j" else opening
            walk(i, j + 1, "j", energy - table[max(i - 1, 0)][j], matches)
        if i < n:
            table = extending if before == "i" else opening
            walk(i + 1, j, "i", energy - table[i][max(j - 1, 0)], matches)

    walk(0, 0, "both", 0.0, ())
    return found


def smooth_max(energies: list[float], gamma: float) -> float:
    top = max(energies)
    return top + gamma * math.log(math.fsum(math.exp((e - top) / gamma) for e in energies))


@pytest.mark.parametrize("gamma", [0.05, 0.8, 5.0])
@pytest.mark.parametrize("shape", [(3, 4), (4, 2), (1, 4), (3, 1)])
def test_score_is_the_log_sum_over_all_alignments_from_end_to_end(
    gamma: float, shape: tuple[int, int], ops: SimpleNamespace
) -> None:
    N, M = shape
    similarity, gap_open, gap_extend = problem(2, N, M, "shared", seed=3)
    score, match = ops.soft_nw(similarity, gap_open, gap_extend, gamma=gamma)
    tables = gap_open.tolist(), gap_extend.tolist()
    for b in range(2):
        cells = similarity[b].tolist()
        energies = [energy for energy, _ in all_alignments(cells, *tables, N, M)]
        assert score[b].item() == pytest.approx(smooth_max(energies, gamma), rel=1e-12)
        for i in range(N):
            for j in range(M):
                ending = [
                    energy
                    for energy, matches in all_alignments(cells, *tables, i + 1, j + 1)
                    if matches and matches[-1] == (i, j)
                ]
                assert match[b, i, j].item() == pytest.approx(smooth_max(ending, gamma), rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("kind", ["scalar", "each", "shared", "own"])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_gradients_of_both_outputs_are_those_of_finite_differences(
    kind: str, with_lengths: bool, ops: SimpleNamespace
) -> None:
    inputs = tuple(x.requires_grad_() for x in problem(2, 4, 5, kind, seed=5))
    lengths = ragged(2, 4, 5) if with_lengths else None

    def f(*args: Tensor) -> tuple[Tensor, Tensor]:
        score, match = ops.soft_nw(*args, gamma=0.7, lengths=lengths)
        return score, torch.where(torch.isfinite(match), match, 0.0)

    assert torch.autograd.gradcheck(f, inputs, eps=1e-6, atol=1e-7, rtol=1e-6)


# A corner makes 31 x 63 two whole tiles on a GPU, and 31 rows a whole tile on a CPU.
@pytest.mark.parametrize(
    ("shape", "kind"),
    [((31, 63), "own"), ((64, 64), "shared"), ((70, 530), "scalar"), ((33, 5), "own"), ((15, 31), "shared")],
)
def test_tiles_join_without_a_seam(shape: tuple[int, int], kind: str, ops: SimpleNamespace) -> None:
    if ops.name == "reference":
        pytest.skip("the oracle of this test")
    N, M = shape
    inputs = problem(5, N, M, kind, seed=7)
    lengths = torch.tensor([[N, M], [N - 1, M], [N, max(1, M - 33)], [max(1, N - 17), M - 1], [N, M]])
    upstream = torch.linspace(1.0, -0.4, 5), torch.randn(5, N, M, generator=torch.Generator().manual_seed(1)).double()

    def exact(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        framed, sizes = with_corner(*tensors, lengths)
        score, match = reference.soft_sw(*framed, gamma=0.3, lengths=sizes, end_to_end=True)
        return score, match[:, 1:, 1:]

    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        given = tuple(x.to(dtype) for x in inputs)
        actual = values_and_gradients(ops.soft_nw, given, upstream, gamma=0.3, lengths=lengths)
        expected = values_and_gradients(exact, tuple(x.double() for x in given), upstream)
        for got, want in zip(actual, expected, strict=True):
            assert relative_error(got, want) < tolerance


def test_each_pair_is_aligned_as_if_it_were_alone(ops: SimpleNamespace) -> None:
    similarity, gap_open, gap_extend = problem(3, 9, 12, "own", seed=2)
    lengths = torch.tensor([[6, 10], [4, 7], [9, 12]])
    upstream = (
        torch.tensor([1.0, 2.0, -1.0]),
        torch.randn(3, 9, 12, generator=torch.Generator().manual_seed(4)).double(),
    )
    beyond = ~reference.valid_cells(similarity, lengths)
    garbage = torch.tensor([math.nan, math.inf, -math.inf, 1e30]).double().repeat(81).view(3, 9, 12)
    dirty = tuple(torch.where(beyond, garbage, x) for x in (similarity, gap_open, gap_extend))
    actual = values_and_gradients(ops.soft_nw, dirty, upstream, gamma=0.6, lengths=lengths)
    for b, (n, m) in enumerate(lengths.tolist()):
        own = tuple(x[b : b + 1, :n, :m] for x in (similarity, gap_open, gap_extend))
        expected = values_and_gradients(
            ops.soft_nw, own, (upstream[0][b : b + 1], upstream[1][b : b + 1, :n, :m]), gamma=0.6
        )
        assert relative_error(actual[0][b : b + 1], expected[0]) < 1e-12
        for got, want in zip(actual[1:], expected[1:], strict=True):
            assert relative_error(got[b : b + 1, :n, :m], want) < 1e-11
    assert (actual[1][beyond] == -math.inf).all()
    assert all((gradient[beyond] == 0).all() for gradient in actual[2:])


@pytest.mark.parametrize("place", [(2, 3), (0, 0), (5, 8), (slice(None), slice(None))], ids=str)
def test_nan_inside_stays_in_its_pair(place: tuple[Any, Any], ops: SimpleNamespace) -> None:
    similarity, gap_open, gap_extend = problem(2, 6, 9, "scalar", seed=1)
    expected, _ = ops.soft_nw(similarity, gap_open, gap_extend, gamma=0.5)
    similarity[0][place] = math.nan
    gap_open.requires_grad_()
    score, _ = ops.soft_nw(similarity, gap_open, gap_extend, gamma=0.5)
    assert math.isnan(score[0])
    assert score[1] == expected[1]
    (gradient,) = torch.autograd.grad(score.sum(), [gap_open])
    assert gradient.isnan()


def test_a_sequence_without_frames_costs_one_gap_as_long_as_the_other(ops: SimpleNamespace) -> None:
    similarity, gap_open, gap_extend = problem(4, 4, 6, "scalar", seed=1)
    lengths = torch.tensor([[0, 6], [4, 0], [0, 0], [0, 1]])
    score, match = ops.soft_nw(similarity, gap_open, gap_extend, gamma=0.5, lengths=lengths)
    o, e = gap_open.item(), gap_extend.item()
    torch.testing.assert_close(score, torch.tensor([-o - 5 * e, -o - 3 * e, 0.0, -o], dtype=torch.float64))
    assert (match == -math.inf).all()
    for shape, expected in (((2, 0, 3), -o - 2 * e), ((2, 3, 0), -o - 2 * e), ((2, 0, 0), 0.0)):
        score, match = ops.soft_nw(torch.zeros(shape).double(), o, e, gamma=0.5)
        torch.testing.assert_close(score, torch.full((2,), expected, dtype=torch.float64))
        assert match.shape == shape


def test_forbidden_gaps_and_matches_leave_no_alignment(ops: SimpleNamespace) -> None:
    similarity, _, _ = problem(2, 3, 4, "scalar")
    leaf = similarity.clone().requires_grad_()
    score, match = ops.soft_nw(leaf, math.inf, math.inf, gamma=0.5)  # 3 frames cannot be matched with 4
    assert (score == -math.inf).all()
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    assert (gradient == 0).all()
    assert torch.isfinite(match.diagonal(dim1=1, dim2=2)).all()
    assert (match[:, 0, 1:] == -math.inf).all()
    square, _ = ops.soft_nw(similarity[:, :, :3], math.inf, math.inf, gamma=0.5)
    torch.testing.assert_close(square, similarity.diagonal(dim1=1, dim2=2).sum(1))


@pytest.mark.parametrize("gamma", [1e-3, 0.05])
def test_extreme_ranges_stay_exact(gamma: float, ops: SimpleNamespace) -> None:
    similarity, gap_open, gap_extend = problem(2, 20, 37, "shared", seed=11)
    inputs = (similarity * 1e3, gap_open * 1e3, gap_extend * 1e3)
    upstream = torch.ones(2), torch.zeros(2, 20, 37)
    score, match, *gradients = values_and_gradients(ops.soft_nw, inputs, upstream, gamma=gamma)
    # So far from ties the soft alignment is the hard one.
    hard, path = lacray.ops.needleman_wunsch(*inputs)
    torch.testing.assert_close(score, hard, rtol=1e-9, atol=0)
    matched = torch.zeros_like(similarity)
    for b in range(2):
        i, j = path[b][path[b, :, 0] >= 0].unbind(1)
        matched[b, i, j] = 1
    torch.testing.assert_close(gradients[0], matched, rtol=0, atol=1e-6)
    assert torch.isfinite(match).all()


def test_tables_of_gaps_without_cells_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gap_open: must be \(\) or a number where N or M is 0, got \(0, 5\)"):
        lacray.ops.soft_nw(torch.zeros(2, 0, 5), torch.zeros(0, 5), 1.0, gamma=0.5)


def test_compiles_without_a_graph_break() -> None:
    def loss(similarity: Tensor, gap_open: Tensor, gap_extend: Tensor, lengths: Tensor) -> Tensor:
        score, match = lacray.ops.soft_nw(similarity, gap_open, gap_extend, gamma=0.5, lengths=lengths)
        return score.sum() + torch.where(torch.isfinite(match), match, 0.0).square().mean()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for N, M in ((6, 9), (40, 12)):
        inputs = [x.requires_grad_() for x in problem(3, N, M, "shared")]
        lengths = ragged(3, N, M)
        expected = torch.autograd.grad(loss(*inputs, lengths), inputs)
        for got, want in zip(torch.autograd.grad(compiled(*inputs, lengths), inputs), expected, strict=True):
            torch.testing.assert_close(got, want)
