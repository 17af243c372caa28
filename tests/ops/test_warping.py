"""soft_dtw and smooth_dtw against golden vectors, enumeration, finite differences, and their contract."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from backends import GOLDEN, load, ragged, relative_error, values_and_gradients
from torch import Tensor

from lacray.ops import dtw_path, reference, smooth_dtw, soft_dtw

GAMMAS = [0.05, 0.8, 5.0]
MINIMA = ["soft", "smooth"]
SOFT_CASES = sorted(p.stem for p in (GOLDEN / "softdtw").glob("*.npz")) or ["absent"]
GTA_CASES = sorted(p.stem for p in (GOLDEN / "gta_smoothdtw").glob("*.npz")) or ["absent"]


def costs(B: int, N: int, M: int, seed: int = 0) -> Tensor:
    return torch.rand(B, N, M, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def warp(ops: SimpleNamespace, minimum: str) -> Any:
    return ops.soft_dtw if minimum == "soft" else ops.smooth_dtw


def squared(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, :, None] - y[:, None]).square().sum(-1)


@pytest.mark.parametrize("case", SOFT_CASES)
def test_soft_dtw_agrees_with_the_golden_vectors(golden: Path, case: str, ops: SimpleNamespace) -> None:
    z = load(golden / "softdtw" / f"{case}.npz", torch.float64)
    x, y = z["X"].requires_grad_(), z["Y"].requires_grad_()
    gamma = float(z["gamma"])
    cost = squared(x, y)
    value, _ = ops.soft_dtw(cost, gamma=gamma)
    torch.testing.assert_close(value, z["value"], rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(value.sum(), (cost, x, y), retain_graph=True)
    weighted = torch.autograd.grad((value * z["u"]).sum(), (x, y))
    for got, key in zip((*gradients, *weighted), ("grad_D", "grad_X", "grad_Y", "grad_X_u", "grad_Y_u"), strict=True):
        torch.testing.assert_close(got, z[key], rtol=1e-10, atol=1e-10)
    value, _ = ops.soft_dtw(squared(x, y), gamma=gamma, band=int(z["bandwidth"]))
    torch.testing.assert_close(value, z["value_bandwidth"], rtol=1e-12, atol=1e-12)
    for got, key in zip(
        torch.autograd.grad(value.sum(), (x, y)), ("grad_X_bandwidth", "grad_Y_bandwidth"), strict=True
    ):
        torch.testing.assert_close(got, z[key], rtol=1e-10, atol=1e-10)
    value, _ = ops.soft_dtw(squared(x.float(), y.float()), gamma=gamma)
    torch.testing.assert_close(value.double(), z["value_float32"].double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", SOFT_CASES)
def test_the_divergence_agrees_with_the_golden_vectors(golden: Path, case: str) -> None:
    z = load(golden / "softdtw" / f"{case}.npz", torch.float64)
    x, y = z["X"].requires_grad_(), z["Y"].requires_grad_()
    value, _ = soft_dtw(squared(x, y), gamma=float(z["gamma"]), normalize=(squared(x, x), squared(y, y)))
    torch.testing.assert_close(value, z["value_normalized_lav"], rtol=1e-11, atol=1e-11)
    for got, name in zip(torch.autograd.grad(value.sum(), (x, y)), "XY", strict=True):
        torch.testing.assert_close(got, z[f"grad_{name}_normalized_lav"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", GTA_CASES)
@pytest.mark.parametrize(("minimum", "prefix"), [("smooth", "dtw_prob"), ("soft", "dtw_minGamma")])
def test_agrees_with_gtas_tables_and_gradients(
    golden: Path, case: str, minimum: str, prefix: str, ops: SimpleNamespace
) -> None:
    z = load(golden / "gta_smoothdtw" / f"{case}.npz", torch.float64)
    one, other = z["embs1"].requires_grad_(), z["embs2"].requires_grad_()
    cost = -torch.log_softmax(one @ other.T / z["gamma_f"], dim=0)
    torch.testing.assert_close(cost, z[f"{prefix}_f64_dist"], rtol=1e-12, atol=1e-12)
    value, table = warp(ops, minimum)(cost[None], gamma=float(z["gamma_s"]))
    torch.testing.assert_close(table[0], z[f"{prefix}_f64_table"][1:, 1:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value[0], z[f"{prefix}_f64_value"], rtol=1e-12, atol=1e-12)
    for got, key in zip(torch.autograd.grad(value.sum(), (one, other)), ("grad_embs1", "grad_embs2"), strict=True):
        torch.testing.assert_close(got, z[f"{prefix}_f64_{key}"], rtol=1e-10, atol=1e-10)
    hard, _ = dtw_path(cost[None])
    torch.testing.assert_close(hard[0], z["nondiff_f64_value"], rtol=1e-12, atol=1e-12)


def all_paths(n: int, m: int) -> Iterator[list[tuple[int, int]]]:
    """Every warping path from (0, 0) to (n - 1, m - 1)."""
    if (n, m) == (1, 1):
        yield [(0, 0)]
        return
    for k, l in ((n - 1, m - 1), (n - 1, m), (n, m - 1)):  # noqa: E741
        if k and l:
            for path in all_paths(k, l):
                yield [*path, (n - 1, m - 1)]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("band", [None, 2])
def test_soft_dtw_is_the_log_sum_over_all_paths(gamma: float, band: int | None, ops: SimpleNamespace) -> None:
    N, M = 4, 5
    cost = costs(2, N, M, seed=3)
    value, table = ops.soft_dtw(cost, gamma=gamma, band=band)
    for b in range(2):
        for i in range(N):
            for j in range(M):
                sums = [
                    math.fsum(cost[b, row, column].item() for row, column in path)
                    for path in all_paths(i + 1, j + 1)
                    if band is None or all(abs(row - column) <= band for row, column in path)
                ]
                if not sums:
                    assert table[b, i, j] == math.inf
                    continue
                low = min(sums)
                expected = low - gamma * math.log(math.fsum(math.exp((low - s) / gamma) for s in sums))
                assert table[b, i, j].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert value[b] == table[b, -1, -1]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_smooth_dtw_is_its_definition_cell_by_cell(gamma: float, ops: SimpleNamespace) -> None:
    cost = costs(2, 6, 9, seed=4)
    value, table = ops.smooth_dtw(cost, gamma=gamma)
    for b in range(2):
        for i in range(6):
            for j in range(9):
                before = [
                    table[b, row, column].item()
                    for row, column in ((i - 1, j - 1), (i - 1, j), (i, j - 1))
                    if row >= 0 and column >= 0
                ]
                before = [0.0] if i == j == 0 else before
                weights = [math.exp((min(before) - u) / gamma) for u in before]
                mean = math.fsum(w * u for w, u in zip(weights, before, strict=True)) / math.fsum(weights)
                assert table[b, i, j].item() == pytest.approx(cost[b, i, j].item() + mean, rel=1e-12)
        assert value[b] == table[b, -1, -1]


@pytest.mark.parametrize("minimum", MINIMA)
@pytest.mark.parametrize("band", [None, 2])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_gradients_of_both_outputs_are_those_of_finite_differences(
    minimum: str, band: int | None, with_lengths: bool, ops: SimpleNamespace
) -> None:
    cost = costs(2, 5, 6, seed=5).requires_grad_()
    lengths = ragged(2, 5, 6) if with_lengths else None

    def f(cost: Tensor) -> tuple[Tensor, ...]:
        outputs = warp(ops, minimum)(cost, gamma=0.7, lengths=lengths, band=band)
        return tuple(torch.where(torch.isfinite(o), o, 0.0) for o in outputs)

    assert torch.autograd.gradcheck(f, [cost], eps=1e-6, atol=1e-7, rtol=1e-6)


def seams(shape: tuple[int, int]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Costs that a float holds, lengths, and upstream gradients."""
    N, M = shape
    lengths = torch.tensor([[N, M], [max(1, N - 17), max(1, M - 33)], [N, max(1, M - 1)]])
    g = torch.Generator().manual_seed(1)
    upstream = torch.tensor([1.0, -0.5, 2.0]), torch.randn(3, N, M, generator=g).double()
    return costs(3, N, M, seed=7).float().double(), lengths, upstream


@functools.cache  # for all backends and both precisions
def exact_seams(shape: tuple[int, int], band: int | None, minimum: str) -> list[Tensor]:
    cost, lengths, upstream = seams(shape)
    named = {"gamma": 0.3, "lengths": lengths, "band": -1 if band is None else band, "smooth": minimum == "smooth"}
    return values_and_gradients(functools.partial(reference.dtw, **named), (cost,), upstream)


# Tiles are 32 rows by 256 (CPU) or 32 (GPU) columns; strips 1 to 32 rows. The band cuts through them.
@pytest.mark.parametrize("minimum", MINIMA)
@pytest.mark.parametrize("shape", [(33, 70), (64, 64), (31, 257), (70, 530), (100, 3), (3, 100)])
@pytest.mark.parametrize("band", [None, 0, 5, 40])
def test_tiles_join_without_a_seam(
    shape: tuple[int, int], band: int | None, minimum: str, ops: SimpleNamespace
) -> None:
    if ops.name == "reference":
        pytest.skip("the oracle of this test")
    cost, lengths, upstream = seams(shape)
    expected = exact_seams(shape, band, minimum)
    # In float32 smooth_dtw keeps R itself: a thousand gamma leave the weights 6e-5.
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5 if minimum == "soft" else 3e-4)):
        named: dict[str, Any] = {"gamma": 0.3, "lengths": lengths, "band": band}
        actual = values_and_gradients(warp(ops, minimum), (cost.to(dtype),), upstream, **named)
        assert relative_error(actual[0], expected[0]) < min(tolerance, 1e-5)
        assert relative_error(actual[1], expected[1]) < min(tolerance, 1e-5)
        assert relative_error(actual[2], expected[2]) < tolerance


@pytest.mark.parametrize("minimum", MINIMA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("gamma", "size"), [(1e-3, 1e4), (1e-3, 1.0), (0.05, 1e4), (1e3, 1e-3)])
def test_extreme_ranges_stay_finite_and_exact(
    gamma: float, size: float, dtype: torch.dtype, minimum: str, ops: SimpleNamespace
) -> None:
    # The releases overflow here: GTA's gradients are NaN in float32.
    cost = ((costs(2, 20, 37, seed=11) - 1) * size).to(dtype)
    upstream = torch.ones(2), torch.rand(2, 20, 37, generator=torch.Generator().manual_seed(2))
    actual = values_and_gradients(warp(ops, minimum), (cost,), upstream, gamma=gamma)
    assert all(torch.isfinite(a).all() for a in actual)

    def exact(cost: Tensor) -> tuple[Tensor, Tensor]:
        return reference.dtw(cost, gamma=gamma, smooth=minimum == "smooth")

    expected = values_and_gradients(exact, (cost.double(),), upstream)
    for got, want in zip(actual[:2], expected[:2], strict=True):
        assert relative_error(got, want) < (1e-9 if dtype == torch.float64 else 1e-5)
    if dtype == torch.float64 or gamma > 1:
        assert relative_error(actual[2], expected[2]) < (1e-8 if dtype == torch.float64 else 1e-4)


def test_soft_smooth_and_hard_lie_in_this_order_and_meet_as_gamma_falls(ops: SimpleNamespace) -> None:
    cost = costs(3, 30, 41, seed=6)
    lengths = ragged(3, 30, 41)
    hard, path = dtw_path(cost, lengths=lengths)
    for gamma in (1.0, 0.1):
        assert (ops.soft_dtw(cost, gamma=gamma, lengths=lengths)[0] < hard).all()
        assert (ops.smooth_dtw(cost, gamma=gamma, lengths=lengths)[0] > hard).all()
    on_path = torch.zeros_like(cost)
    for b in range(3):
        i, j = path[b][path[b, :, 0] >= 0].unbind(1)
        on_path[b, i, j] = 1
    for minimum in MINIMA:
        upstream = torch.ones(3), torch.zeros_like(cost)
        value, _, gradient = values_and_gradients(warp(ops, minimum), (cost,), upstream, gamma=1e-5, lengths=lengths)
        torch.testing.assert_close(value, hard, rtol=1e-4, atol=0)
        torch.testing.assert_close(gradient, on_path, rtol=0, atol=1e-3)


@pytest.mark.parametrize("minimum", MINIMA)
def test_what_lies_beyond_lengths_changes_nothing(minimum: str, ops: SimpleNamespace) -> None:
    cost = costs(3, 9, 12, seed=2)
    lengths = torch.tensor([[6, 10], [4, 7], [5, 11]])
    g = torch.Generator().manual_seed(4)
    upstream = torch.tensor([1.0, 2.0, -1.0]), torch.randn(3, 9, 12, generator=g).double()
    clean = values_and_gradients(warp(ops, minimum), (cost,), upstream, gamma=0.6, lengths=lengths)
    beyond = ~reference.valid_cells(cost, lengths)
    garbage = torch.tensor([math.nan, math.inf, -math.inf, 1e30]).double().repeat(81).view(3, 9, 12)
    dirty_upstream = upstream[0], torch.where(beyond, garbage, upstream[1])
    dirty = values_and_gradients(
        warp(ops, minimum), (torch.where(beyond, garbage, cost),), dirty_upstream, gamma=0.6, lengths=lengths
    )
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a, b)
    assert (clean[1][beyond] == math.inf).all()
    assert (clean[2][beyond] == 0).all()


@pytest.mark.parametrize("minimum", MINIMA)
def test_forbidden_cells_are_walked_round_and_a_wall_leaves_no_path(minimum: str, ops: SimpleNamespace) -> None:
    cost = costs(2, 5, 6, seed=8)
    cost[0, 2, 1:5] = math.inf  # ways round it at both ends
    cost[1, 2] = math.inf
    leaf = cost.clone().requires_grad_()
    value, table = warp(ops, minimum)(leaf, gamma=0.5)
    assert torch.isfinite(value).tolist() == [True, False]
    assert value[1] == math.inf
    assert (table[1, 2:] == math.inf).all()
    # A softmax over such rows brings NaN back: it is dropped.
    rows = torch.nan_to_num((-table).softmax(-1), nan=0.0)
    (gradient,) = torch.autograd.grad(value[0] + rows.square().sum() + 0 * value[1], leaf)
    assert torch.isfinite(gradient).all()
    assert (gradient[cost == math.inf] == 0).all()
    assert (gradient[0] != 0).any()


@pytest.mark.parametrize("minimum", MINIMA)
def test_a_pair_without_frames_or_outside_the_band_has_no_path(minimum: str, ops: SimpleNamespace) -> None:
    cost = costs(4, 4, 9, seed=1)
    lengths = torch.tensor([[0, 9], [4, 0], [4, 9], [4, 5]])
    leaf = cost.requires_grad_()
    value, table = warp(ops, minimum)(leaf, gamma=0.5, lengths=lengths, band=2)
    assert torch.isfinite(value).tolist() == [False, False, False, True]
    for outputs in ((value,), (value, table)):  # what comes back for no path is often NaN
        given = torch.tensor([math.nan, math.inf, -math.inf, 1.0]).to(value), torch.zeros_like(table)
        (gradient,) = torch.autograd.grad(outputs, leaf, given[: len(outputs)], retain_graph=True)
        assert (gradient[:3] == 0).all()
        assert torch.isfinite(gradient).all()
    for shape in ((0, 4, 5), (2, 0, 5), (2, 4, 0)):
        empty = torch.zeros(shape).requires_grad_()
        value, table = warp(ops, minimum)(empty, gamma=0.5)
        assert value.shape == shape[:1]
        assert table.shape == shape
        assert (value == math.inf).all()


@pytest.mark.parametrize("minimum", MINIMA)
def test_nan_inside_stays_in_its_pair(minimum: str, ops: SimpleNamespace) -> None:
    cost = costs(2, 6, 9, seed=1)
    expected, _ = warp(ops, minimum)(cost, gamma=0.5)
    cost[0, 2, 3] = math.nan
    value, table = warp(ops, minimum)(cost, gamma=0.5)
    assert math.isnan(value[0])
    assert math.isnan(table[0, 2, 3])
    assert torch.isfinite(table[0, :2]).all()
    assert value[1] == expected[1]


def test_the_divergence_of_a_sequence_with_itself_is_zero_and_else_positive() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 40, 4, generator=g).double(), torch.randn(3, 30, 4, generator=g).double()
    lengths = torch.tensor([[40, 30], [33, 12], [1, 7]])

    def divergence(a: Tensor, b: Tensor, lengths: Tensor) -> Tensor:
        costs = squared(a, b), squared(a, a), squared(b, b)
        return soft_dtw(costs[0], gamma=0.5, lengths=lengths, normalize=costs[1:])[0]

    same = divergence(x, x, lengths[:, :1].expand(-1, 2))
    torch.testing.assert_close(same, torch.zeros(3).double(), rtol=0, atol=1e-9)
    assert (divergence(x, y, lengths) > 0).all()


def test_pairs_longer_than_a_thousand_frames_are_no_special_case(ops: SimpleNamespace) -> None:
    if ops.name in ("reference", "plain"):
        pytest.skip("slow, and no different from shorter ones there")
    cost = costs(1, 1500, 1200, seed=9).float()
    narrow, _ = ops.soft_dtw(cost.double(), gamma=0.1, band=301)
    full, _ = ops.soft_dtw(cost, gamma=0.1)
    exact, _ = ops.soft_dtw(cost.double(), gamma=0.1)
    torch.testing.assert_close(full.double(), exact, rtol=1e-5, atol=0)
    assert narrow > exact


@pytest.mark.parametrize("minimum", MINIMA)
@pytest.mark.parametrize("shape", [(40, 33, 45), (1, 300, 530)])
@pytest.mark.parametrize("band", [None, 60])
def test_results_are_identical_bit_for_bit_whatever_the_threads(
    shape: tuple[int, int, int], minimum: str, band: int | None
) -> None:
    B, N, M = shape
    cost = costs(*shape).float()
    upstream = torch.ones(B), torch.randn(B, N, M, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            f = soft_dtw if minimum == "soft" else smooth_dtw
            runs.append(values_and_gradients(f, (cost,), upstream, gamma=0.4, lengths=ragged(B, N, M), band=band))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def test_strides_and_half_precision_do_not_matter(ops: SimpleNamespace) -> None:
    cost = costs(2, 6, 9)
    expected, _ = ops.soft_dtw(cost, gamma=0.5)
    wide = torch.zeros(2, 9, 12, dtype=torch.float64).transpose(1, 2)[:, ::2]
    wide.copy_(cost)
    assert torch.equal(ops.soft_dtw(wide, gamma=0.5)[0], expected)
    half = cost.bfloat16().requires_grad_()
    value, table = ops.soft_dtw(half, gamma=0.5)
    assert value.dtype == table.dtype == torch.float32
    assert torch.equal(value, ops.soft_dtw(half.detach().float(), gamma=0.5)[0])
    (gradient,) = torch.autograd.grad(value.sum(), half)
    assert gradient.dtype == torch.bfloat16


def test_autocast_computes_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product = torch.einsum("bnm,mk->bnk", costs(2, 6, 9).float(), torch.eye(9))
        assert product.dtype == torch.bfloat16
        value, *_ = torch.ops.lacray.dtw(product, None, 0.5, -1, False, False)
    assert value.dtype == torch.float32


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_opcheck_passes(smooth: bool, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    soft_dtw(torch.zeros(1, 1, 1, device=device), gamma=1.0)  # loads the library
    cost = costs(2, 40, 9).to(device).requires_grad_()
    lengths = ragged(2, 40, 9).to(device)
    plain = cost.detach()
    for with_gradient in {False, device == "cpu"}:
        for with_lengths in (None, lengths):
            arguments = (cost, with_lengths, 0.5, 20, smooth, with_gradient)
            torch.library.opcheck(torch.ops.lacray.dtw.default, arguments)
        value, _, *kept = torch.ops.lacray.dtw(plain, lengths, 0.5, -1, smooth, with_gradient)
        ones = torch.ones_like(cost)
        for given in ((torch.ones_like(value), ones), (None, ones), (value, None)):
            torch.library.opcheck(
                torch.ops.lacray.dtw_backward.default,
                (*given, plain, lengths, *kept, 0.5, -1, smooth, with_gradient),
                test_utils=("test_schema", "test_faketensor"),
            )


def test_compiles_without_a_graph_break() -> None:
    def loss(cost: Tensor, lengths: Tensor) -> Tensor:
        value, table = soft_dtw(cost, gamma=0.5, lengths=lengths)
        other, _ = smooth_dtw(cost, gamma=0.5, lengths=lengths, band=30)
        return value.sum() + other.sum() + torch.where(torch.isfinite(table), table, 0.0).square().mean()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for N, M in ((6, 9), (40, 12)):
        cost, lengths = costs(3, N, M).requires_grad_(), ragged(3, N, M)
        (expected,) = torch.autograd.grad(loss(cost, lengths), cost)
        (actual,) = torch.autograd.grad(compiled(cost, lengths), cost)
        torch.testing.assert_close(actual, expected)


@functools.cache  # for all backends and both precisions
def exact_gradient_of_the_value(minimum: str, shape: tuple[int, int, int], band: int | None, cut: bool) -> Tensor:
    exact = costs(*shape, seed=4).float().double().requires_grad_()
    named = {"gamma": 0.3, "lengths": ragged(*shape) if cut else None, "band": -1 if band is None else band}
    value, _ = reference.dtw(exact, **named, smooth=minimum == "smooth")
    return torch.autograd.grad((value * weights_of(value)).sum(), exact)[0]


def weights_of(value: Tensor) -> Tensor:
    return torch.linspace(1.5, -0.5, len(value), dtype=torch.float64).to(value)


# Found by the forward pass where a pair fits a core's cache; the longest does not.
@pytest.mark.parametrize("minimum", MINIMA)
@pytest.mark.parametrize(
    ("shape", "band"), [((3, 70, 300), None), ((3, 90, 90), 20), ((2, 64, 5), None), ((1, 190, 400), 250)]
)
@pytest.mark.parametrize("with_lengths", [False, True])
def test_the_gradient_of_the_value_alone_is_right(
    minimum: str, shape: tuple[int, int, int], band: int | None, with_lengths: bool, ops: SimpleNamespace
) -> None:
    if ops.name == "reference":
        pytest.skip("the oracle of this test")
    expected = exact_gradient_of_the_value(minimum, shape, band, with_lengths)
    lengths = ragged(*shape) if with_lengths else None
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-3 if minimum == "smooth" else 1e-5)):
        leaf = costs(*shape, seed=4).float().to(dtype).requires_grad_()
        value, table = warp(ops, minimum)(leaf, gamma=0.3, lengths=lengths, band=band)
        loss = (value * weights_of(value)).sum()
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        assert relative_error(gradient, expected) < tolerance
        assert torch.equal(torch.autograd.grad(loss, leaf, retain_graph=True)[0], gradient)
        with_table = loss + 0 * torch.where(torch.isfinite(table), table, 0.0).sum()
        assert relative_error(torch.autograd.grad(with_table, leaf)[0], expected) < tolerance


@pytest.mark.parametrize("function", [soft_dtw, smooth_dtw])
def test_second_derivatives_of_both_outputs_are_those_of_finite_differences(function: Any) -> None:
    cost = costs(2, 4, 5, seed=3).requires_grad_()

    def f(cost: Tensor) -> tuple[Tensor, ...]:
        outputs = function(cost, gamma=0.7, lengths=torch.tensor([[4, 5], [3, 3]]), band=2)
        return tuple(torch.where(torch.isfinite(o), o, 0.0) for o in outputs)

    assert torch.autograd.gradgradcheck(f, [cost])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cost": torch.zeros(4, 5)}, r"cost: must have shape \(B, N, M\), got \(4, 5\)"),
        ({"cost": torch.zeros(2, 4, 5, dtype=torch.int32)}, r"cost: must be of a floating dtype, got torch.int32"),
        ({"gamma": 0}, r"gamma: must be > 0 and finite, got 0"),
        ({"band": -1}, r"band: must be None or an integer >= 0, frames, got -1"),
        ({"band": 1.5}, r"band: must be None or an integer >= 0, frames, got 1.5"),
        ({"lengths": torch.tensor([[4, 6], [3, 2]])}, r"lengths: column 1 must be in 0..5 \(M\), got 6"),
        ({"lengths": torch.tensor([[4, 5]], device="meta")}, r"lengths: must have shape \(2, 2\), got \(1, 2\)"),
        ({"normalize": True}, r"normalize: must be None or \(cost_xx, cost_yy\), got bool"),
        (
            {"normalize": (torch.zeros(2, 4, 4), torch.zeros(2, 4, 4))},
            r"normalize: cost_yy must have shape \(2, 5, 5\), got \(2, 4, 4\)",
        ),
    ],
)
def test_a_bad_argument_is_named_with_its_rule_and_value(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"cost": torch.zeros(2, 4, 5), "gamma": 0.5} | changes
    with pytest.raises(ValueError, match=message):
        soft_dtw(arguments.pop("cost"), **arguments)
