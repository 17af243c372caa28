"""What the operators need under torch.func: batches of batches as one, and a line for what has no gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

# torch has no public question for it. Where it goes, every call takes the way that the transforms can follow.
active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def forward_mode() -> bool:
    """Whether inputs may have tangents."""
    return forward_ad._current_level >= 0


def fold(tensor: Any, dim: Any, size: int) -> Any:
    """The vmapped dimension (None: a tensor that all share) and the batch as one batch, in front; None of None."""
    if tensor is None:
        return None
    return (tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)).flatten(0, 1)


def unfold(tensor: Tensor, size: int) -> Tensor:
    return tensor.unflatten(0, (size, len(tensor) // size if size else 0))


def fold_gaps(
    gaps: Sequence[Tensor], dims: Sequence[int | None], size: int, batch: int, *, apart: bool
) -> list[Tensor]:
    """Gap penalties of all problems.

    Args:
        gaps: (), (B,), (N, M) or (B, N, M), all of one shape, and the vmapped dimension.
        dims: which that is.
        size: of the vmapped dimension.
        batch: B.
        apart: whether each member of the vmapped dimension needs its own, as for their gradients.
    """
    if not gaps:
        return []
    kind = gaps[0].dim() - (dims[0] is not None)
    if kind in (1, 3):
        return [fold(gap, dim, size) for gap, dim in zip(gaps, dims, strict=True)]
    if not apart and all(dim is None for dim in dims):
        return list(gaps)
    own = [
        gap.expand(size, *gap.shape) if dim is None else gap.movedim(dim, 0)
        for gap, dim in zip(gaps, dims, strict=True)
    ]
    return [gap.unsqueeze(1).expand(size, batch, *gap.shape[1:]).flatten(0, 1) for gap in own]


class _Reading(torch.autograd.Function):
    """Reads a tensor's values, beneath any transform."""

    @staticmethod
    def forward(lengths: Tensor, check: Callable[[Tensor], None]) -> Tensor:
        check(lengths)
        return lengths.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None], lengths: Tensor, check: Callable[[Tensor], None]
    ) -> tuple[Any, None]:
        return _Reading.apply(fold(lengths, in_dims[0], info.batch_size), check), None


def read_values(tensor: Tensor, check: Callable[[Tensor], None]) -> None:
    """check(tensor), where a transform lets nobody read it: the batches of a vmap as one."""
    _Reading.apply(tensor, check)


class _Refusal(torch.autograd.Function):
    """Its first argument, which says what to use instead when it is to be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, line: str, *inputs: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.line = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError(ctx.line)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> NoReturn:
        raise RuntimeError(ctx.line)


def without_gradient(value: Tensor, line: str, inputs: Sequence[Any]) -> Tensor:
    """The value, whose gradient under a transform is a RuntimeError with this line; else it would be zero.

    Eager autograd refuses by itself what does not require a gradient.
    """
    if not active():
        return value
    result: Tensor = _Refusal.apply(value, line, *(x for x in inputs if isinstance(x, Tensor)))
    return result
