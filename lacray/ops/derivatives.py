"""Derivatives of functions in plain torch: what the operators' rarer derivatives are computed by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual

from lacray.ops.transforms import active

Function = Callable[..., Sequence[Tensor]]


def pull(function: Function, inputs: Sequence[Tensor], upstream: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Gradients in its inputs of a function's outputs, weighted by `upstream` (None: zero); differentiable too."""
    if active():
        result: Any = torch.func.vjp(lambda *tensors: tuple(function(*tensors)), *inputs)
        outputs, back = result
        return back(tuple(_filled(upstream, outputs)))
    # torch.func would do here as well, but for saved tensor hooks (checkpoints, offloading), which it refuses.
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views stay in the graph of what they show: cut off, further derivatives would silently be zero. And they do
        # not depend on each other, as inputs may.
        leaves = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in inputs]
        outputs = function(*leaves)
        pairs = [(o, g) for o, g in zip(outputs, _filled(upstream, outputs), strict=True) if o.requires_grad]
        if not pairs:
            return tuple(torch.zeros_like(leaf) for leaf in leaves)
        return torch.autograd.grad(
            [o for o, _ in pairs],
            leaves,
            [g for _, g in pairs],
            create_graph=create_graph,
            materialize_grads=True,
        )


def push(function: Function, inputs: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Tangents of a function's outputs for those of its inputs (None: zero); differentiable themselves."""
    given = tuple(_filled(tangents, inputs))
    if active():
        # Transforms nest, torch.autograd.forward_ad does not. That a Function's forward mode is off where it computes
        # tangents, and that its inputs have theirs still, would make nested ones silently wrong (pytorch 197867).
        with torch.enable_grad(), _set_fwd_grad_enabled(True):
            # One whose elements share memory, as what arrives from a sum, takes no tangent.
            primals = tuple(unpack_dual(x).primal.contiguous() for x in inputs)
            found: tuple[Tensor, ...] = torch.func.jvp(lambda *t: tuple(function(*t)), primals, given)[1]
        return found
    with torch.no_grad():
        weights = [torch.zeros_like(output) for output in function(*inputs)]
    # Gradients are linear in their weights, and the gradient in these is the tangent.
    return pull(lambda *upstream: pull(function, inputs, upstream), weights, given)


def gradients_in_a_kernel(
    function: Function, inputs: Sequence[Tensor], upstream: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """`pull`, from within an operator's kernel, and not differentiable."""

    def compute() -> tuple[Tensor, ...]:
        return tuple(gradient.detach() for gradient in pull(function, [x.detach() for x in inputs], upstream))

    # A kernel runs below autograd. That is a state of the thread, so another thread is above it.
    with ThreadPoolExecutor(max_workers=1) as other:
        return other.submit(compute).result()


def _filled(given: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(x) if g is None else g for g, x in zip(given, like, strict=True)]
