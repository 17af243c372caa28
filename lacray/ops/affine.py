"""Alignment with affine gaps: soft Smith-Waterman (local) and soft Needleman-Wunsch (end to end), one operator."""

from __future__ import annotations

import torch
from torch import Tensor

from lacray.ops import reference
from lacray.ops.arguments import Lengths, check_gamma, check_gaps, check_lengths, check_table
from lacray.ops.backends import use_reference
from lacray.ops.registration import Operator


def soft_sw(
    similarity: Tensor,
    gap_open: Tensor | float,
    gap_extend: Tensor | float,
    *,
    gamma: float,
    lengths: Lengths | None = None,
) -> tuple[Tensor, Tensor]:
    """Smoothed Smith-Waterman local alignment with affine gaps.

    Args:
        similarity: (B, N, M) float; larger is more alike, -inf forbids a match. Half precision is computed in float32.
        gap_open: (), (B,), (N, M) or (B, N, M), or a number; subtracted when a gap starts at a cell.
        gap_extend: like gap_open, for each further frame of the gap; it may have another of these shapes.
        gamma: a number > 0, in units of similarity; towards 0 it is the hard maximum.
        lengths: (B, 2) integers in a tensor, an array or lists, real frames of each pair, 0 to N and 0 to M (on a GPU
            values beyond are clamped: checking them would wait for the device). Cells beyond get match -inf and
            gradient 0, and nothing in them counts.

    Returns:
        score (B,): log-partition over all local alignments, -inf where there is none; match (B, N, M): over those that
        end at (i, j). Both differentiable in all three tensors, by autograd and by torch.func (second derivatives and
        forward mode are as slow as plain torch, which computes them), and free to be changed in place; float64 if
        similarity is, else float32. Gradients that arrive at cells of match that are -inf (often NaN, after a softmax)
        are ignored. A NaN in similarity or in the gaps of a pair makes that pair's score NaN.

    Raises:
        ValueError: names the argument, what it must be, and what it was.

    Source: LAC paper, Eq. 2-6 (arXiv 2409.04607).
    """
    similarity = check_table("similarity", similarity)
    gap_open, gap_extend = check_gaps(gap_open, gap_extend, similarity)
    gamma = check_gamma(gamma)
    sizes = check_lengths(lengths, "similarity", similarity)
    if use_reference(similarity.device.type):
        return reference.soft_sw(similarity, gap_open, gap_extend, gamma=gamma, lengths=sizes)
    return _soft_sw(similarity, gap_open, gap_extend, sizes, gamma, False)


def soft_nw(
    similarity: Tensor,
    gap_open: Tensor | float,
    gap_extend: Tensor | float,
    *,
    gamma: float,
    lengths: Lengths | None = None,
) -> tuple[Tensor, Tensor]:
    """Smoothed Needleman-Wunsch alignment from end to end with affine gaps.

    The recursion is `soft_sw`'s, but alignments start before both first frames and end after both last ones, so that
    unmatched frames at the ends cost a gap like any others. A gap before the first frame of a sequence reads its
    penalty at that sequence's first frame.

    Args:
        similarity, gap_open, gap_extend, gamma, lengths: as for `soft_sw`.

    Returns:
        score (B,): log-partition over all alignments from end to end, 0 for two empty sequences; match (B, N, M): over
        those of the frames up to (i, j) that end with its match. Differentiable as `soft_sw`'s.

    Raises:
        ValueError: as `soft_sw`; also where gaps are tables and N or M is 0, so that there is no penalty to read.

    Source: Needleman and Wunsch 1970, Gotoh 1982, with the maximum of the LAC paper (arXiv 2409.04607, Eq. 2-5).
    """
    similarity = check_table("similarity", similarity)
    gap_open, gap_extend = check_gaps(gap_open, gap_extend, similarity)
    gamma = check_gamma(gamma)
    framed, sizes = with_corner(similarity, gap_open, gap_extend, check_lengths(lengths, "similarity", similarity))
    if use_reference(similarity.device.type):
        score, match = reference.soft_sw(*framed, gamma=gamma, lengths=sizes, end_to_end=True)
    else:
        score, match = _soft_sw(*framed, sizes, gamma, True)
    match = match[:, 1:, 1:]
    # The engines' zero is 2^-1e30: a match that no alignment reaches, as gaps forbid it, is as far below.
    return score, torch.where(match < -1e28 * gamma, -torch.inf, match)


def with_corner(
    similarity: Tensor, gap_open: Tensor, gap_extend: Tensor, lengths: Tensor | None
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
    """Tables with a row and a column in front, for gaps before the first match; their corner is where alignments start.

    A problem without frames is a table of gaps alone.
    """
    B, N, M = similarity.shape
    if gap_open.dim() > 1 and 0 in (N, M) and (N or M):
        raise ValueError(f"gap_open: must be () or a number where N or M is 0, got {tuple(gap_open.shape)}")
    border = similarity.new_full((N + 1, M + 1), -torch.inf)
    border[0, 0] = 0
    framed = torch.cat([border[:1].expand(B, 1, M + 1), torch.cat([border[1:, :1].expand(B, N, 1), similarity], 2)], 1)

    def grown(gap: Tensor) -> Tensor:
        if gap.dim() < 2:
            return gap
        if not gap.numel():
            return gap.new_zeros((*gap.shape[:-2], N + 1, M + 1))
        gap = torch.cat([gap[..., :1], gap], -1)
        return torch.cat([gap[..., :1, :], gap], -2)

    return (framed, grown(gap_open), grown(gap_extend)), None if lengths is None else lengths + 1


def _in_torch(
    similarity: Tensor, gap_open: Tensor, gap_extend: Tensor, lengths: Tensor | None, gamma: float, end_to_end: bool
) -> tuple[Tensor, Tensor]:
    return reference.soft_sw(similarity, gap_open, gap_extend, gamma=gamma, lengths=lengths, end_to_end=end_to_end)


_soft_sw = Operator(
    "soft_sw",
    ("similarity", "gap_open", "gap_extend"),
    "float gamma, bool end_to_end",
    in_torch=_in_torch,
    num_arrays=lambda gamma, end_to_end: 6,
)
