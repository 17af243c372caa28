"""Alignments as such: the best one as a path, or the distribution over all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lacray.ops import reference
from lacray.ops.affine import soft_nw, soft_sw, with_corner
from lacray.ops.arguments import Lengths, check_band, check_count, check_gamma, check_gaps, check_lengths, check_table
from lacray.ops.derivatives import pull
from lacray.ops.registration import Registered
from lacray.ops.transforms import without_gradient


def smith_waterman(
    similarity: Tensor, gap_open: Tensor | float, gap_extend: Tensor | float, *, lengths: Lengths | None = None
) -> tuple[Tensor, Tensor]:
    """The best local alignment: what `soft_sw` is at gamma 0.

    Computed on the CPU in float64, where a path is walked; not differentiable.

    Args:
        similarity, gap_open, gap_extend, lengths: as for `soft_sw`.

    Returns:
        score (B,), -inf where nothing can be matched; path (B, min(N, M), 2) int64: the matched (i, j) in order, -1
        beyond its end. Among equally good alignments always the same one.

    Raises:
        ValueError: names the argument, what it must be, and what it was.

    Source: Smith and Waterman 1981, Gotoh 1982.
    """
    score, paths = _walks(similarity, gap_open, gap_extend, 1.0, lengths, end_to_end=False, best=True)
    line = "smith_waterman: its score is not differentiable. Use soft_sw, whose score comes near it as gamma falls"
    return without_gradient(score, line, (similarity, gap_open, gap_extend)), paths[:, 0]


def needleman_wunsch(
    similarity: Tensor, gap_open: Tensor | float, gap_extend: Tensor | float, *, lengths: Lengths | None = None
) -> tuple[Tensor, Tensor]:
    """The best alignment from end to end: what `soft_nw` is at gamma 0.

    Args:
        similarity, gap_open, gap_extend, lengths: as for `soft_nw`.

    Returns:
        score (B,) and path (B, min(N, M), 2), as `smith_waterman`.

    Raises:
        ValueError: names the argument, what it must be, and what it was.

    Source: Needleman and Wunsch 1970, Gotoh 1982.
    """
    score, paths = _walks(similarity, gap_open, gap_extend, 1.0, lengths, end_to_end=True, best=True)
    line = "needleman_wunsch: its score is not differentiable. Use soft_nw, whose score comes near it as gamma falls"
    return without_gradient(score, line, (similarity, gap_open, gap_extend)), paths[:, 0]


def dtw_path(cost: Tensor, *, lengths: Lengths | None = None, band: int | None = None) -> tuple[Tensor, Tensor]:
    """The best warping path: what `soft_dtw` and `smooth_dtw` are at gamma 0.

    Computed on the CPU in float64; not differentiable. One byte a cell of memory.

    Args:
        cost, lengths, band: as for `soft_dtw`.

    Returns:
        value (B,), inf where no path exists; path (B, N + M - 1, 2) int64: the (i, j) in order, -1 beyond its end. Of
        equally good steps the diagonal one, then the one in i.

    Raises:
        ValueError: names the argument, what it must be, and what it was.

    Source: Sakoe and Chiba 1978.
    """
    cost = check_table("cost", cost)
    sizes = check_lengths(lengths, "cost", cost)
    value, path = _dtw_path(_on_host(cost), None if sizes is None else sizes.cpu(), check_band(band))
    line = "dtw_path: its value is not differentiable. Use soft_dtw, whose value comes near it as gamma falls"
    return without_gradient(value.to(cost), line, [cost]), path.to(cost.device)


def expected_alignment(
    similarity: Tensor,
    gap_open: Tensor | float,
    gap_extend: Tensor | float,
    *,
    gamma: float,
    lengths: Lengths | None = None,
    end_to_end: bool = False,
    num_samples: int = 0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The distribution over alignments that `soft_sw` sums over: its mean, and alignments drawn from it.

    Args:
        similarity, gap_open, gap_extend, gamma, lengths: as for `soft_sw`.
        end_to_end: alignments of `soft_nw` in place of `soft_sw`'s.
        num_samples: K >= 0, alignments drawn for each problem, by walking back at random (on the CPU in float64).
        seed: of the draws, >= 0; the same seed gives the same alignments, on any device. Under torch.func.vmap all are
            drawn as from one batch.

    Returns:
        marginals (B, N, M): the probability that i and j are matched, d score / d similarity, not differentiable;
        samples (B, K, min(N, M), 2) int64: the matched (i, j) of each in order, -1 beyond its end. Of a problem that
        has no alignment both are empty: 0 and -1.

    Raises:
        ValueError: names the argument, what it must be, and what it was.
    """
    num_samples, seed = check_count("num_samples", num_samples), check_count("seed", seed)
    table = check_table("similarity", similarity)
    gaps = check_gaps(gap_open, gap_extend, table)
    method = soft_nw if end_to_end else soft_sw
    # Without tracking, in whatever mode the caller is: nothing goes on to be differentiated.
    with torch.inference_mode(False), torch.no_grad():
        leaf, *fixed = (x.clone() if x.is_inference() else x.detach() for x in (table, *gaps))
        (marginals,) = pull(
            lambda x: method(x, *fixed, gamma=gamma, lengths=lengths)[:1], [leaf], [leaf.new_ones(len(leaf))]
        )
    _, samples = _walks(table, *gaps, gamma, lengths, end_to_end=end_to_end, num_walks=num_samples, seed=seed)
    line = (
        f"expected_alignment: its marginals are not differentiable. Use {method.__name__}: they are the gradient of "
        "its score in similarity, which is differentiable in turn"
    )
    return without_gradient(marginals, line, (similarity, gap_open, gap_extend)), samples


def _walks(
    similarity: Tensor,
    gap_open: Any,
    gap_extend: Any,
    gamma: float,
    lengths: Any,
    *,
    end_to_end: bool,
    best: bool = False,
    num_walks: int = 1,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    similarity = check_table("similarity", similarity)
    opening, extending = check_gaps(gap_open, gap_extend, similarity)
    gamma = check_gamma(gamma)
    sizes = check_lengths(lengths, "similarity", similarity)
    sizes = None if sizes is None else sizes.cpu()
    tables = _on_host(similarity), _on_host(opening), _on_host(extending)
    if end_to_end:
        tables, sizes = with_corner(*tables, sizes)
    score, paths = _soft_sw_walks(*tables, sizes, gamma, end_to_end, best, num_walks, seed)
    if end_to_end:  # the corner is matched first
        paths = (paths[:, :, 1:] - 1).clamp_min(-1)
    return score.to(similarity), paths.to(similarity.device)


def _on_host(table: Tensor) -> Tensor:
    return table.detach().to("cpu", torch.float64)


def _fake_walks(
    similarity: Tensor,
    gap_open: Tensor,
    gap_extend: Tensor,
    lengths: Tensor | None,
    gamma: float,
    end_to_end: bool,
    best: bool,
    num_walks: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    B, N, M = similarity.shape
    return similarity.new_empty(B), similarity.new_empty(B, num_walks, torch.sym_min(N, M), 2, dtype=torch.int64)


def _walks_in_torch(
    similarity: Tensor,
    gap_open: Tensor,
    gap_extend: Tensor,
    lengths: Tensor | None,
    gamma: float,
    end_to_end: bool,
    best: bool,
    num_walks: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    return reference.walks(
        similarity,
        gap_open,
        gap_extend,
        gamma=gamma,
        lengths=lengths,
        end_to_end=end_to_end,
        best=best,
        num_walks=num_walks,
        seed=seed,
    )


def _fake_path(cost: Tensor, lengths: Tensor | None, band: int) -> tuple[Tensor, Tensor]:
    B, N, M = cost.shape
    return cost.new_empty(B), cost.new_empty(B, torch.sym_max(N + M - 1, 0), 2, dtype=torch.int64)


_soft_sw_walks = Registered(
    "soft_sw_walks(Tensor similarity, Tensor gap_open, Tensor gap_extend, Tensor? lengths, float gamma, "
    "bool end_to_end, bool best, int num_walks, int seed) -> (Tensor, Tensor)",
    fake=_fake_walks,
    in_torch=_walks_in_torch,
    num_tensors=3,
)
_dtw_path = Registered(
    "dtw_path(Tensor cost, Tensor? lengths, int band) -> (Tensor, Tensor)",
    fake=_fake_path,
    in_torch=lambda cost, lengths, band: reference.dtw_path(cost, lengths=lengths, band=band),
    num_tensors=1,
)
