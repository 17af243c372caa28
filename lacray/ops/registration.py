"""What a torch.library operator is made of, once for all of them: `Operator`, or without derivatives `Registered`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from lacray.ops.backends import select, use_reference
from lacray.ops.derivatives import gradients_in_a_kernel, pull, push
from lacray.ops.transforms import active, fold, fold_gaps, forward_mode, unfold

_TILES = {  # (rows, columns) between checkpoints: csrc/binding_cpu.cpp, csrc/binding_cuda.cpp
    "cpu": {torch.float32: (64, 256), torch.float64: (32, 256)},
    "cuda": {torch.float32: (32, 32), torch.float64: (32, 8)},
}

LIBRARY = torch.library.Library("lacray", "FRAGMENT")


class Registered:
    """An operator of torch.library on tensors, lengths and settings, which returns tensors; not differentiable.

    The libraries bring kernels for CPU and CUDA. Until one is loaded, and where there are none, plain torch computes.

    Args:
        schema: of the operator.
        fake: its outputs, of the right shapes.
        in_torch: its outputs in plain torch.
        num_tensors: how many inputs come before the lengths.
    """

    def __init__(
        self,
        schema: str,
        *,
        fake: Callable[..., tuple[Tensor, ...]],
        in_torch: Callable[..., tuple[Tensor, ...]],
        num_tensors: int,
    ) -> None:
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        self.name = schema.partition("(")[0]
        self._operator = getattr(torch.ops.lacray, self.name)
        self._single = schema.endswith("(Tensor)")
        self._in_torch, self._num_tensors = in_torch, num_tensors
        qualified = f"lacray::{self.name}"
        torch.library.register_fake(qualified, lambda *inputs: self._declared(fake(*inputs)), lib=LIBRARY)
        torch.library.impl(qualified, "CompositeExplicitAutograd", lib=LIBRARY)(self._first_call)
        torch.library.register_vmap(qualified, self._vmap_operator, lib=LIBRARY)
        self._transformed = self._function(setup_context=lambda ctx, inputs, output: None)

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        if torch.compiler.is_compiling():
            return self._call(*inputs)
        outputs: tuple[Tensor, ...] = (self._transformed.apply if active() else self._compute)(*inputs)
        return outputs

    def _compute(self, *inputs: Any) -> tuple[Tensor, ...]:
        return self._in_torch(*inputs) if use_reference(inputs[0].device.type) else self._call(*inputs)

    def _call(self, *inputs: Any) -> tuple[Tensor, ...]:
        outputs = self._operator(*inputs)
        return (outputs,) if self._single else outputs

    def _first_call(self, *inputs: Any) -> Any:
        device = next(x for x in inputs if isinstance(x, Tensor)).device
        if select(device.type) == "reference":
            return self._declared(self._in_torch(*inputs))
        return self._operator(*inputs)

    def _declared(self, outputs: Sequence[Any]) -> Any:
        """As the schema has them."""
        return outputs[0] if self._single else tuple(outputs)

    def _function(self, **methods: Callable[..., Any]) -> Any:
        """An autograd.Function; with setup_context one for torch.func."""
        if "setup_context" in methods:
            methods = {"forward": lambda *inputs: self._compute(*inputs), "vmap": self._vmap} | methods
        bases = (torch.autograd.Function,)
        return type(f"_{self.name}", bases, {key: staticmethod(method) for key, method in methods.items()})

    def _vmap(self, info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        outputs = self._batch(self, info.batch_size, in_dims, *inputs)
        return tuple(outputs), (0,) * len(outputs)

    def _vmap_operator(self, info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        outputs = self._batch(self._call, info.batch_size, in_dims, *inputs)
        return self._declared(outputs), self._declared([0] * len(outputs))

    def _batch(
        self, call: Callable[..., Sequence[Tensor]], size: int, dims: tuple[int | None, ...], *inputs: Any
    ) -> list[Tensor]:
        """Outputs of call(*inputs) under vmap, the vmapped dimension first; of that: size and place in each input."""
        n = self._num_tensors
        tensors = _fold_tensors(inputs[:n], dims[:n], size, apart=False)
        return [unfold(x, size) for x in call(*tensors, fold(inputs[n], dims[n], size), *inputs[n + 1 :])]


class _Pass(Registered):
    """One pass of an operator that is differentiable.

    Args:
        set_up, differentiate, push: as an autograd.Function's setup_context, backward and jvp.
        batch: if not as of any operator.
    """

    def __init__(
        self,
        schema: str,
        *,
        set_up: Callable[[Any, tuple[Any, ...], Any], None],
        differentiate: Callable[..., tuple[Tensor | None, ...]],
        push: Callable[..., tuple[Tensor | None, ...]],
        batch: Callable[..., list[Tensor]] | None = None,
        **registered: Any,
    ) -> None:
        super().__init__(schema, **registered)
        if batch is not None:
            self._batch = batch  # type: ignore[method-assign]
        torch.library.register_autograd(f"lacray::{self.name}", differentiate, setup_context=set_up, lib=LIBRARY)

        call = self._call if self._single else self._operator

        def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
            outputs: tuple[Tensor, ...] = call(*inputs)
            set_up(ctx, inputs, outputs)
            return outputs

        # What torch.library generates is for graphs. Eager calls take an autograd.Function of their own, which saves a
        # third of the time that a pass over a small problem spends outside the kernels, and has a forward mode.
        # Transforms need one that they can take apart, which would cost all calls twice as much.
        self._eager = self._function(forward=forward, backward=differentiate, jvp=push)
        self._transformed = self._function(setup_context=set_up, backward=differentiate, jvp=push)

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        if torch.compiler.is_compiling():
            self._refuse_tangents(inputs)
            return self._call(*inputs)
        if active():
            return self._transformed.apply(*inputs)
        if not torch.is_grad_enabled() and not forward_mode():
            return self._call(*inputs)
        return self._eager.apply(*inputs)

    def _compute(self, *inputs: Any) -> tuple[Tensor, ...]:
        return self._call(*inputs)

    def _refuse_tangents(self, inputs: Sequence[Any]) -> None:
        # A graph's operators have none: without a word they would be zero.
        if active() and any(isinstance(x, Tensor) and unpack_dual(x).tangent is not None for x in inputs):
            raise RuntimeError(
                f"{self.name}: forward mode (jvp, jacfwd, hessian) is not supported in a graph of torch.compile: "
                "compile without fullgraph=True, which leaves it to eager mode"
            )


class Operator:
    """lacray::NAME(tensors, lengths, settings) -> value (B,), table (B, N, M), and what its backward pass keeps.

    The libraries bring kernels for CPU and CUDA, of it and of NAME_backward; until they are loaded, and where there are
    none, plain torch computes. Second derivatives and forward mode are plain torch everywhere.

    Args:
        name: of the operator.
        tensors: names of the inputs that it is differentiable in: the table of pairs, then gap penalties.
        settings: the rest of its schema.
        in_torch: the operator in plain torch; value and table of (*tensors, lengths, *settings).
        num_arrays: of the same settings: numbers a cell of the borders between tiles (csrc/calls.h).
        ahead: the last setting says whether the forward pass is to find the value's gradient in the table too.
    """

    def __init__(
        self,
        name: str,
        tensors: Sequence[str],
        settings: str,
        *,
        in_torch: Callable[..., tuple[Tensor, Tensor]],
        num_arrays: Callable[..., int],
        ahead: bool = False,
    ) -> None:
        self._in_torch, self._num_arrays, self._ahead = in_torch, num_arrays, ahead
        self._num_tensors, self._num_settings, self._num_kept = len(tensors), settings.count(",") + 1, 2 if ahead else 1
        given = "".join(f"Tensor {tensor}, " for tensor in tensors) + "Tensor? lengths, "
        kept = "Tensor state, " + ("Tensor gradient, " if ahead else "")
        gaps = ", bool gaps" if len(tensors) > 1 else ""
        self._forward = _Pass(
            f"{name}({given}{settings}) -> ({', '.join(['Tensor'] * (2 + self._num_kept))})",
            fake=self._fake,
            in_torch=self._forward_in_torch,
            num_tensors=len(tensors),
            set_up=self._set_up,
            differentiate=self._differentiate,
            push=self._push,
        )
        self._backward = _Pass(
            f"{name}_backward(Tensor? grad_value, Tensor? grad_table, {given}{kept}{settings}{gaps}) "
            f"-> ({', '.join(['Tensor'] * len(tensors))})",
            fake=self._fake_backward,
            in_torch=self._gradients_in_torch,
            num_tensors=2 + len(tensors),
            set_up=self._set_up_backward,
            differentiate=self._differentiate_backward,
            push=self._push_backward,
            batch=self._batch_backward,
        )
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"lacray::{name}", device, torch.float32, lib=LIBRARY)

    def __call__(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Value and table of (*tensors, lengths, *settings)."""
        outputs = self._forward(*inputs)
        return outputs[0], outputs[1]

    # The forward pass: `inputs` are tensors, lengths, settings.

    def _fake(self, *inputs: Any) -> tuple[Tensor, ...]:
        table, settings = inputs[0], inputs[self._num_tensors + 1 :]
        B, N, M = table.shape
        outputs = table.new_empty(B), table.new_empty(B, N, M), table.new_empty(B, self._state_size(table, settings))
        return (*outputs, table.new_empty((B, N, M) if settings[-1] else (0,))) if self._ahead else outputs

    def _forward_in_torch(self, *inputs: Any) -> tuple[Tensor, ...]:
        table, settings = inputs[0], inputs[self._num_tensors + 1 :]
        value, result = self._in_torch(*inputs)
        outputs = value, result, table.new_zeros(len(table), self._state_size(table, settings))
        if not self._ahead:
            return outputs
        if not settings[-1]:
            return *outputs, table.new_empty(0)
        weights = torch.ones_like(value), None
        return *outputs, *gradients_in_a_kernel(lambda x: self._in_torch(x, *inputs[1:]), [table], weights)

    def _state_size(self, table: Tensor, settings: Sequence[Any]) -> Any:
        """csrc/calls.h: what a problem's forward pass keeps, with some numbers a cell of the borders between tiles."""
        _, N, M = table.shape
        tile_rows, tile_columns = _TILES[table.device.type][table.dtype]
        rows, columns = (N + tile_rows - 1) // tile_rows, (M + tile_columns - 1) // tile_columns
        borders = M * torch.sym_max(rows - 1, 0) + tile_rows * rows * torch.sym_max(columns - 1, 0)
        return 2 + self._num_arrays(*settings) * borders

    def _set_up(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        end = self._num_tensors + 1
        ctx.settings = inputs[end:]
        ctx.save_for_backward(*inputs[:end], *output[2:])
        if forward_mode():
            ctx.save_for_forward(*inputs[:end])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2:])

    def _differentiate(
        self, ctx: Any, grad_value: Tensor | None, grad_table: Tensor | None, *_: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        n, nothing = self._num_tensors, [None] * (1 + self._num_settings)
        if grad_value is None and grad_table is None:
            return *[None] * n, *nothing
        gaps = any(ctx.needs_input_grad[1:n])
        found = self._backward(grad_value, grad_table, *ctx.saved_tensors, *ctx.settings, *[gaps] * (n > 1))
        return *(found if gaps else [found[0], *[None] * (n - 1)]), *nothing

    def _push(self, ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, lengths = ctx.saved_tensors
        settings = ctx.settings
        found = push(lambda *x: self._in_torch(*x, lengths, *settings), tensors, tangents[: len(tensors)])
        return *found, *[None] * self._num_kept

    # The backward pass: `given` are gradients of value and table, tensors, lengths, what was kept, settings, and, of an
    # operator with gaps, whether their gradients are wanted.

    def _parse(self, given: tuple[Any, ...]) -> _Given:
        kept = 3 + self._num_tensors
        settings = kept + self._num_kept
        end = settings + self._num_settings
        return _Given(
            given[:2], given[2 : kept - 1], given[kept - 1], given[kept:settings], given[settings:end], *given[end:]
        )

    def _fake_backward(self, *given: Any) -> tuple[Tensor, ...]:
        parts = self._parse(given)
        return tuple(t.new_empty(t.shape if k < parts.wanted else (0,)) for k, t in enumerate(parts.tensors))

    def _gradients_in_torch(self, *given: Any) -> tuple[Tensor, ...]:
        upstream, tensors, lengths, _, settings, _ = parts = self._parse(given)
        followed, others = tensors[: parts.wanted], tensors[parts.wanted :]
        gradients = gradients_in_a_kernel(
            lambda *x: self._in_torch(*x, *others, lengths, *settings), followed, upstream
        )
        return *gradients, *(t.new_empty(0) for t in others)

    def _set_up_backward(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        upstream, tensors, lengths, _, ctx.settings, _ = parts = self._parse(inputs)
        ctx.wanted, ctx.num_others = parts.wanted, len(inputs) - 2 - len(tensors)
        ctx.save_for_backward(*upstream, *tensors, lengths)
        if forward_mode():
            ctx.save_for_forward(*upstream, *tensors, lengths)

    def _backward_in_torch(self, ctx: Any) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
        """The backward pass as a function of upstream gradients and tensors; these."""
        grad_value, grad_table, *tensors, lengths = ctx.saved_tensors
        settings, wanted = ctx.settings, ctx.wanted
        upstream = [g for g in (grad_value, grad_table) if g is not None]

        def compute(*inputs: Tensor) -> tuple[Tensor, ...]:
            given, current = iter(inputs[: len(upstream)]), inputs[len(upstream) :]
            weights = [None if g is None else next(given) for g in (grad_value, grad_table)]
            followed, others = current[:wanted], current[wanted:]
            return pull(lambda *x: self._in_torch(*x, *others, lengths, *settings), followed, weights)

        return compute, [*upstream, *tensors]

    def _differentiate_backward(self, ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        compute, inputs = self._backward_in_torch(ctx)
        found = iter(pull(compute, inputs, weights[: ctx.wanted]))
        gradients = [None if x is None else next(found) for x in ctx.saved_tensors[:-1]]
        return *gradients, *[None] * ctx.num_others

    def _push_backward(self, ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        compute, inputs = self._backward_in_torch(ctx)
        saved = ctx.saved_tensors[:-1]
        given = [t for t, x in zip(tangents[: len(saved)], saved, strict=True) if x is not None]
        unwanted = self._num_tensors - ctx.wanted
        return *push(compute, inputs, given), *(inputs[0].new_empty(0) for _ in range(unwanted))

    def _batch_backward(
        self, call: Callable[..., Sequence[Tensor]], size: int, dims: tuple[int | None, ...], *given: Any
    ) -> list[Tensor]:
        upstream, tensors, lengths, kept, settings, gaps = parts = self._parse(given)
        at: Any = self._parse(dims)
        gradients = [
            unfold(x, size)
            for x in call(
                *(fold(x, dim, size) for x, dim in zip(upstream, at.upstream, strict=True)),
                *_fold_tensors(tensors, at.tensors, size, apart=gaps),
                fold(lengths, at.lengths, size),
                *(fold(x, dim, size) for x, dim in zip(kept, at.kept, strict=True)),
                *settings,
                *[gaps] * (len(tensors) > 1),
            )
        ]
        for k in range(1, parts.wanted):
            # Gaps that all pairs of a batch share became each pair's own.
            if tensors[k].dim() - (at.tensors[k] is not None) in (0, 2):
                gradients[k] = gradients[k].sum(1)
        return gradients


class _Given(NamedTuple):
    """Arguments of a backward operator."""

    upstream: tuple[Tensor | None, ...]  # gradients of value and table
    tensors: tuple[Tensor, ...]
    lengths: Tensor | None
    kept: tuple[Tensor, ...]
    settings: tuple[Any, ...]
    gaps: bool = False

    @property
    def wanted(self) -> int:
        """How many of the tensors get a gradient."""
        return len(self.tensors) if self.gaps else 1


def _fold_tensors(tensors: Sequence[Tensor], dims: Sequence[int | None], size: int, *, apart: bool) -> list[Tensor]:
    table = fold(tensors[0], dims[0], size)
    return [table, *fold_gaps(tensors[1:], dims[1:], size, len(table) // size, apart=apart)]
