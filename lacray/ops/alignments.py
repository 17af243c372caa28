"""Alignments as such: the best one as a path, or the distribution over all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from lacray.ops import reference
from lacray.ops.affine import soft_nw, soft_sw, with_corner
from lacray.ops.arguments import check_band, check_count, check_gamma, check_gaps, check_lengths, check_table
from lacray.ops.backends import select
from lacray.ops.registration import define


def smith_waterman(
    similarity: Tensor, gap_open: Tensor | float, gap_extend: Tensor | float, *, lengths: Tensor | None = None
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
    return score, paths[:, 0]


def needleman_wunsch(
    similarity: Tensor, gap_open: Tensor | float, gap_extend: Tensor | float, *, lengths: Tensor | None = None
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
    return score, paths[:, 0]


def dtw_path(cost: Tensor, *, lengths: Tensor | None = None, band: int | None = None) -> tuple[Tensor, Tensor]:
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
    check_lengths(lengths, "cost", cost)
    limit = check_band(band)
    table, sizes = _on_host(cost), None if lengths is None else lengths.cpu()
    if select("cpu") == "reference":
        value, path = reference.dtw_path(table, lengths=sizes, band=limit)
    else:
        value, path = torch.ops.lacray.dtw_path(table, sizes, limit)
    return value.to(cost), path.to(cost.device)


def expected_alignment(
    similarity: Tensor,
    gap_open: Tensor | float,
    gap_extend: Tensor | float,
    *,
    gamma: float,
    lengths: Tensor | None = None,
    end_to_end: bool = False,
    num_samples: int = 0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The distribution over alignments that `soft_sw` sums over: its mean, and alignments drawn from it.

    Args:
        similarity, gap_open, gap_extend, gamma, lengths: as for `soft_sw`.
        end_to_end: alignments of `soft_nw` in place of `soft_sw`'s.
        num_samples: K >= 0, alignments drawn for each problem, by walking back at random (on the CPU in float64).
        seed: of the draws, >= 0; the same seed gives the same alignments, on any device.

    Returns:
        marginals (B, N, M): the probability that i and j are matched, d score / d similarity, not differentiable;
        samples (B, K, min(N, M), 2) int64: the matched (i, j) of each in order, -1 beyond its end. Of a problem that
        has no alignment both are empty: 0 and -1.

    Raises:
        ValueError: names the argument, what it must be, and what it was.
    """
    check_count("num_samples", num_samples)
    check_count("seed", seed)
    leaf = check_table("similarity", similarity).detach().requires_grad_()
    gaps = tuple(gap.detach() if isinstance(gap, Tensor) else gap for gap in (gap_open, gap_extend))
    with torch.enable_grad():
        score, _ = (soft_nw if end_to_end else soft_sw)(leaf, *gaps, gamma=gamma, lengths=lengths)
        (marginals,) = torch.autograd.grad(score.sum(), leaf)
    _, samples = _walks(
        similarity, gap_open, gap_extend, gamma, lengths, end_to_end=end_to_end, num_walks=num_samples, seed=seed
    )
    return marginals, samples


def _walks(
    similarity: Tensor,
    gap_open: Tensor | float,
    gap_extend: Tensor | float,
    gamma: float,
    lengths: Tensor | None,
    *,
    end_to_end: bool,
    best: bool = False,
    num_walks: int = 1,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    similarity = check_table("similarity", similarity)
    opening, extending = check_gaps(gap_open, gap_extend, similarity)
    gamma = check_gamma(gamma)
    check_lengths(lengths, "similarity", similarity)
    tables = _on_host(similarity), _on_host(opening), _on_host(extending)
    sizes = None if lengths is None else lengths.cpu()
    if end_to_end:
        tables, sizes = with_corner(*tables, sizes)
    if select("cpu") == "reference":
        score, paths = reference.walks(
            *tables, gamma=gamma, lengths=sizes, end_to_end=end_to_end, best=best, num_walks=num_walks, seed=seed
        )
    else:
        score, paths = torch.ops.lacray.soft_sw_walks(*tables, sizes, gamma, end_to_end, best, num_walks, seed)
    if end_to_end:  # the corner is matched first
        paths = (paths[:, :, 1:] - 1).clamp_min(-1)
    return score.to(similarity), paths.to(similarity.device)


def _on_host(table: Tensor) -> Tensor:
    return table.detach().to("cpu", torch.float64)


define(
    "soft_sw_walks(Tensor similarity, Tensor gap_open, Tensor gap_extend, Tensor? lengths, float gamma, "
    "bool end_to_end, bool best, int num_walks, int seed) -> (Tensor, Tensor)"
)
define("dtw_path(Tensor cost, Tensor? lengths, int band) -> (Tensor, Tensor)")
