"""Alignment with affine gaps: soft Smith-Waterman (local) and soft Needleman-Wunsch (end to end), one operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lacray.ops import reference
from lacray.ops.arguments import check_gamma, check_gaps, check_lengths, check_table
from lacray.ops.backends import select, use_reference
from lacray.ops.registration import LIBRARY, define, differentiable, reference_gradients, second_derivatives, state_size

_ARRAYS = 6  # csrc/calls.h


def soft_sw(
    similarity: Tensor,
    gap_open: Tensor | float,
    gap_extend: Tensor | float,
    *,
    gamma: float,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Smoothed Smith-Waterman local alignment with affine gaps.

    Args:
        similarity: (B, N, M) float; larger is more alike, -inf forbids a match. Half precision is computed in float32.
        gap_open: (), (N, M) or (B, N, M), or a number; subtracted when a gap starts at a cell.
        gap_extend: like gap_open, for each further frame of the gap.
        gamma: > 0, in units of similarity; towards 0 it is the hard maximum.
        lengths: (B, 2) int64, real frames of each pair, 0 to N and 0 to M (on a GPU values beyond are clamped: checking
            them would wait for the device). Cells beyond get match -inf and gradient 0, and nothing in them counts.

    Returns:
        score (B,): log-partition over all local alignments, -inf where there is none; match (B, N, M): over those that
        end at (i, j). Both differentiable in all three tensors (a second derivative is as slow as plain torch, which
        computes it); float64 if similarity is, else float32. Gradients that arrive at cells of match that are -inf
        (often NaN, after a softmax) are ignored. A NaN in similarity or in the gaps of a pair makes that pair's score
        NaN.

    Raises:
        ValueError: names the argument, what it must be, and what it was.

    Source: LAC paper, Eq. 2-6 (arXiv 2409.04607).
    """
    similarity = check_table("similarity", similarity)
    gap_open, gap_extend = check_gaps(gap_open, gap_extend, similarity)
    gamma = check_gamma(gamma)
    check_lengths(lengths, "similarity", similarity)
    if use_reference(similarity.device.type):
        return reference.soft_sw(similarity, gap_open, gap_extend, gamma=gamma, lengths=lengths)
    score, match, _ = _soft_sw(similarity, gap_open, gap_extend, lengths, gamma, False)
    return score, match


def soft_nw(
    similarity: Tensor,
    gap_open: Tensor | float,
    gap_extend: Tensor | float,
    *,
    gamma: float,
    lengths: Tensor | None = None,
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
    check_lengths(lengths, "similarity", similarity)
    framed, lengths = with_corner(similarity, gap_open, gap_extend, lengths)
    if use_reference(similarity.device.type):
        score, match = reference.soft_sw(*framed, gamma=gamma, lengths=lengths, end_to_end=True)
    else:
        score, match, _ = _soft_sw(*framed, lengths, gamma, True)
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
    if gap_open.dim() and 0 in (N, M) and (N or M):
        raise ValueError(f"gap_open: must be () or a number where N or M is 0, got {tuple(gap_open.shape)}")
    border = similarity.new_full((N + 1, M + 1), -torch.inf)
    border[0, 0] = 0
    framed = torch.cat([border[:1].expand(B, 1, M + 1), torch.cat([border[1:, :1].expand(B, N, 1), similarity], 2)], 1)

    def grown(gap: Tensor) -> Tensor:
        if not gap.dim():
            return gap
        if not gap.numel():
            return gap.new_zeros((*gap.shape[:-2], N + 1, M + 1))
        gap = torch.cat([gap[..., :1], gap], -1)
        return torch.cat([gap[..., :1, :], gap], -2)

    return (framed, grown(gap_open), grown(gap_extend)), None if lengths is None else lengths + 1


define(
    "soft_sw(Tensor similarity, Tensor gap_open, Tensor gap_extend, Tensor? lengths, float gamma, bool end_to_end) "
    "-> (Tensor, Tensor, Tensor)"
)
define(
    "soft_sw_backward(Tensor? grad_score, Tensor? grad_match, Tensor similarity, Tensor gap_open, Tensor gap_extend, "
    "Tensor? lengths, Tensor state, float gamma, bool end_to_end, bool gaps) -> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("lacray::soft_sw", lib=LIBRARY)
def _fake(
    similarity: Tensor, gap_open: Tensor, gap_extend: Tensor, lengths: Tensor | None, gamma: float, end_to_end: bool
) -> tuple[Tensor, Tensor, Tensor]:
    B, N, M = similarity.shape
    state = similarity.new_empty(B, state_size(similarity, _ARRAYS))
    return similarity.new_empty(B), similarity.new_empty(B, N, M), state


@torch.library.register_fake("lacray::soft_sw_backward", lib=LIBRARY)
def _fake_backward(
    grad_score: Tensor | None,
    grad_match: Tensor | None,
    similarity: Tensor,
    gap_open: Tensor,
    gap_extend: Tensor,
    lengths: Tensor | None,
    state: Tensor,
    gamma: float,
    end_to_end: bool,
    gaps: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    gap = similarity.new_empty(gap_open.shape if gaps else (0,))
    return similarity.new_empty(similarity.shape), gap, torch.empty_like(gap)


# The libraries register kernels for CPU and CUDA when they are loaded. Until then, and where there are none, these run.
@torch.library.impl("lacray::soft_sw", "CompositeExplicitAutograd", lib=LIBRARY)
def _first_call(
    similarity: Tensor, gap_open: Tensor, gap_extend: Tensor, lengths: Tensor | None, gamma: float, end_to_end: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if select(similarity.device.type) != "reference":
        result: tuple[Tensor, Tensor, Tensor] = torch.ops.lacray.soft_sw(
            similarity, gap_open, gap_extend, lengths, gamma, end_to_end
        )
        return result
    score, match = reference.soft_sw(
        similarity, gap_open, gap_extend, gamma=gamma, lengths=lengths, end_to_end=end_to_end
    )
    return score, match.clone(), similarity.new_zeros(len(similarity), state_size(similarity, _ARRAYS))


@torch.library.impl("lacray::soft_sw_backward", "CompositeExplicitAutograd", lib=LIBRARY)
def _first_backward_call(
    grad_score: Tensor | None,
    grad_match: Tensor | None,
    similarity: Tensor,
    gap_open: Tensor,
    gap_extend: Tensor,
    lengths: Tensor | None,
    state: Tensor,
    gamma: float,
    end_to_end: bool,
    gaps: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if select(similarity.device.type) != "reference":
        result: tuple[Tensor, Tensor, Tensor] = torch.ops.lacray.soft_sw_backward(
            grad_score, grad_match, similarity, gap_open, gap_extend, lengths, state, gamma, end_to_end, gaps
        )
        return result

    compute, followed = _in_torch((similarity, gap_open, gap_extend), gaps, gamma, lengths, end_to_end)
    gradients = reference_gradients(compute, followed, (grad_score, grad_match))
    nothing = [similarity.new_empty(0), similarity.new_empty(0)]
    first, second, third = gradients if gaps else [*gradients, *nothing]
    return first, second, third


def _in_torch(
    inputs: Sequence[Tensor], gaps: bool, gamma: float, lengths: Tensor | None, end_to_end: bool
) -> tuple[Callable[..., tuple[Tensor, Tensor]], Sequence[Tensor]]:
    """The reference as a function of those inputs that get a gradient, and these."""
    count = 3 if gaps else 1

    def compute(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return reference.soft_sw(*tensors, *inputs[count:], gamma=gamma, lengths=lengths, end_to_end=end_to_end)

    return compute, inputs[:count]


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    similarity, gap_open, gap_extend, lengths, ctx.gamma, ctx.end_to_end = inputs
    state = output[2]
    ctx.save_for_backward(similarity, gap_open, gap_extend, lengths, state)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(state)


def _backward(
    ctx: Any, grad_score: Tensor | None, grad_match: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    similarity, gap_open, gap_extend, lengths, state = ctx.saved_tensors
    gaps = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    if grad_score is None and grad_match is None:
        return None, None, None, None, None, None
    grad, open_, extend = torch.ops.lacray.soft_sw_backward(
        grad_score, grad_match, similarity, gap_open, gap_extend, lengths, state, ctx.gamma, ctx.end_to_end, gaps
    )
    return grad, open_ if gaps else None, extend if gaps else None, None, None, None


def _set_up_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _, ctx.gamma, ctx.end_to_end, ctx.gaps = inputs
    ctx.save_for_backward(*tensors)


def _backward_of_backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
    grad_score, grad_match, *inputs, lengths = ctx.saved_tensors
    compute, followed = _in_torch(inputs, ctx.gaps, ctx.gamma, lengths, ctx.end_to_end)
    found = second_derivatives(compute, followed, (grad_score, grad_match), given[: len(followed)])
    return (*found, *[None] * (10 - len(found)))


_soft_sw = differentiable("soft_sw", _set_up, _backward)
torch.library.register_autograd(
    "lacray::soft_sw_backward", _backward_of_backward, setup_context=_set_up_backward, lib=LIBRARY
)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("lacray::soft_sw", _device, torch.float32, lib=LIBRARY)
