"""What the torch.library operators have in common: how large their saved state is, and how plain torch stands in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

_TILES = {  # (rows, columns) between checkpoints: csrc/binding_cpu.cpp, csrc/binding_cuda.cpp
    "cpu": {torch.float32: (64, 256), torch.float64: (32, 256)},
    "cuda": {torch.float32: (32, 32), torch.float64: (32, 8)},
}

LIBRARY = torch.library.Library("lacray", "FRAGMENT")


def define(schema: str) -> None:
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))


def differentiable(
    name: str, set_up: Callable[[Any, tuple[Any, ...], Any], None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """Register an operator's backward pass; the operator, to be called with all its arguments in order.

    What torch.library generates is for graphs. Eager calls take an autograd.Function of their own, which saves a third
    of the time that a pass over a small problem spends outside the kernels.
    """
    torch.library.register_autograd(f"lacray::{name}", backward, setup_context=set_up, lib=LIBRARY)
    operator = getattr(torch.ops.lacray, name)

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = operator(*inputs)
        set_up(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    eager: Any = type(f"_{name}", (torch.autograd.Function,), methods)

    def call(*inputs: Any) -> Any:
        return operator(*inputs) if torch.compiler.is_compiling() else eager.apply(*inputs)

    return call


def state_size(table: Tensor, arrays: int) -> Any:
    """csrc/calls.h: what a problem's forward pass keeps, with `arrays` numbers a cell of the borders between tiles."""
    _, N, M = table.shape
    tile_rows, tile_columns = _TILES[table.device.type][table.dtype]
    rows, columns = (N + tile_rows - 1) // tile_rows, (M + tile_columns - 1) // tile_columns
    return 2 + arrays * (M * torch.sym_max(rows - 1, 0) + tile_rows * rows * torch.sym_max(columns - 1, 0))


def reference_gradients(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], upstream: Sequence[Tensor | None]
) -> list[Tensor]:
    """Gradients of a function in plain torch, from within an operator's kernel."""

    def differentiate() -> list[Tensor]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in inputs]
            outputs = function(*leaves)
            given = [torch.zeros_like(o) if g is None else g for o, g in zip(outputs, upstream, strict=True)]
            return list(torch.autograd.grad(outputs, leaves, given, materialize_grads=True))

    # An operator's kernel runs below autograd. That is a state of the thread, so another thread is above it.
    with ThreadPoolExecutor(max_workers=1) as other:
        return other.submit(differentiate).result()


def second_derivatives(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    upstream: Sequence[Tensor | None],
    given: Sequence[Tensor],
) -> list[Tensor | None]:
    """The backward pass of a backward pass, in plain torch; it can be differentiated again.

    Args:
        function: inputs -> outputs.
        inputs: of the function.
        upstream: gradients of its outputs, None for zero.
        given: gradients of the gradients in the inputs.

    Returns:
        Gradients in upstream, then in the inputs; None where there was None.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views stay in the graph of what they show: cut off, third derivatives would silently be zero. And they do not
        # depend on each other, as upstream and inputs may.
        tensors = [
            t if t is None else t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
            for t in (*upstream, *inputs)
        ]
        weights, leaves = tensors[: len(upstream)], [t for t in tensors[len(upstream) :] if t is not None]
        outputs = function(*leaves)
        weighted = [torch.zeros_like(o) if w is None else w for o, w in zip(outputs, weights, strict=True)]
        first = torch.autograd.grad(outputs, leaves, weighted, create_graph=True, materialize_grads=True)
        pairs = [(f, g) for f, g in zip(first, given, strict=True) if f.requires_grad]
        wanted = [t for t in tensors if t is not None]
        found = iter(
            torch.autograd.grad(
                [f for f, _ in pairs],
                wanted,
                [g for _, g in pairs],
                create_graph=create_graph,
                materialize_grads=True,
            )
        )
    return [None if t is None else next(found) for t in tensors]
