"""What people do around an operator in torch: changes in place, hooks, checkpoints, modes, views, copies."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from backends import DEVICES, implementation, ragged
from pairs import paired
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from lacray.config import LacConfig
from lacray.losses.lac import LacLoss
from lacray.ops import soft_dtw, soft_sw

NAMES = ["soft_sw", "soft_nw", "soft_dtw", "smooth_dtw"]
Outputs = tuple[Tensor, Tensor]


def table(B: int = 2, N: int = 4, M: int = 5, *, seed: int = 0) -> Tensor:
    return torch.randn(B, N, M, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def method(ops: SimpleNamespace, name: str, **named: Any) -> Callable[..., Outputs]:
    """Of a table, and for affine gaps of two penalties, if not the usual ones."""
    if name.endswith("dtw"):
        return functools.partial(getattr(ops, name), gamma=0.7, **named)
    return lambda x, o=1.0, e=0.5: getattr(ops, name)(x, o, e, gamma=0.7, **named)


@pytest.fixture(params=DEVICES)
def ops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    yield from implementation(request.param, monkeypatch)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest, ops: SimpleNamespace) -> str:
    if ops.name == "cuda":
        pytest.skip("copies between devices stand in the way of changes in place")
    return str(request.param)


def finite(outputs: Outputs) -> Tensor:
    value, cells = outputs
    return value.square().sum() + torch.where(torch.isfinite(cells), cells, 0.0).sin().sum()


def replaced(t: Tensor) -> None:
    t[..., -1] = 0.5


CHANGES: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]] = {
    "added to": (lambda t: t.add_(1), lambda t: t + 1),
    "scaled": (lambda t: t.mul_(2), lambda t: t * 2),
    "cleared": (lambda t: t.zero_(), lambda t: t * 0.0),
    "written to": (replaced, lambda t: torch.cat([t[..., :-1], torch.full_like(t[..., -1:], 0.5)], -1)),
    "made finite": (
        lambda t: t.masked_fill_(torch.isinf(t), 3.0),
        lambda t: torch.where(torch.isinf(t), 3.0, t),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", ["small", "large"])  # the forward pass of warping finds gradients of small ones ahead
def test_outputs_may_be_changed_in_place(name: str, change: str, size: str, ops: SimpleNamespace) -> None:
    if size == "large" and (ops.name != "cpu" or not name.endswith("dtw")):
        pytest.skip("they differ in warping alone")
    x = table() if size == "small" else table(1, 3, 11_000)
    in_place, elsewhere = CHANGES[change]
    lengths = None if change == "cleared" else ragged(*x.shape)  # 0 times infinity is no 0
    f = method(ops, name, lengths=lengths)
    for which in (0, 1):
        found = []
        for apart in (False, True):
            leaf = x.clone().requires_grad_()
            outputs = list(f(leaf))
            if apart:
                outputs[which] = elsewhere(outputs[which])
            else:
                in_place(outputs[which])
            found.append(torch.autograd.grad(finite((outputs[0], outputs[1])), leaf)[0])
        torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
        assert torch.isfinite(found[0]).all()


def test_outputs_are_no_views_of_inputs_or_of_each_other(name: str, ops: SimpleNamespace) -> None:
    for x in (table(), torch.zeros(0, 4, 5), torch.zeros(2, 0, 5), torch.zeros(2, 4, 0)):
        before = x.clone()
        value, cells = method(ops, name)(x)
        kept = value.clone()
        cells.fill_(7.0)
        assert torch.equal(x, before)
        assert torch.equal(value, kept)
        leaf = x.clone().requires_grad_()
        value, cells = method(ops, name)(leaf)
        cells.mul_(2)
        finite((value, cells)).backward()
        assert leaf.grad is not None
        assert leaf.grad.shape == x.shape


def test_inputs_changed_in_place_are_noticed(name: str, ops: SimpleNamespace) -> None:
    """Or copied beforehand, so that the gradient is that of what they were: never that of something between."""
    affine = not name.endswith("dtw")
    given = [table(), *([torch.rand(4, 5).double() + 0.5, torch.rand(4, 5).double()] if affine else [])]
    f = method(ops, name)
    leaves = [x.clone().requires_grad_() for x in given]
    expected = torch.autograd.grad(finite(f(*leaves)), leaves)
    for changed in range(len(given)):
        leaves = [x.clone().requires_grad_() for x in given]
        inputs = [x * 1 for x in leaves]
        outputs = f(*inputs)
        inputs[changed].add_(1)
        if name == "soft_nw":  # puts a row and a column in front: a copy
            actual = torch.autograd.grad(finite(outputs), leaves)
            for a, b in zip(actual, expected, strict=True):
                torch.testing.assert_close(a, b)
        else:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                finite(outputs).backward()


def test_graphs_are_freed_kept_and_made_as_torchs_own(name: str, ops: SimpleNamespace) -> None:
    f, leaf = method(ops, name), table().requires_grad_()
    loss = finite(f(leaf))
    (first,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(loss, leaf)
    assert torch.equal(first, second)
    if ops.name != "reference":  # some of whose operations keep nothing
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            torch.autograd.grad(loss, leaf)
    (made,) = torch.autograd.grad(finite(f(leaf)), leaf, create_graph=True)
    assert made.requires_grad
    torch.testing.assert_close(made.detach(), first)
    assert not f(leaf.detach())[0].requires_grad
    with torch.no_grad():
        value, cells = f(leaf)
    assert not value.requires_grad
    assert not cells.requires_grad
    with torch.inference_mode():
        value, cells = f(leaf.detach())
        assert value.is_inference()
        torch.testing.assert_close(value, f(table())[0])


@pytest.mark.parametrize("name", ["soft_sw", "soft_nw"])
@pytest.mark.parametrize("shape", [(), (2,), (4, 5), (2, 4, 5)])
def test_gaps_alone_may_require_a_gradient(name: str, shape: tuple[int, ...], ops: SimpleNamespace) -> None:
    if ops.name == "cuda":
        pytest.skip("no difference on a GPU")
    f = method(ops, name)
    gaps = [torch.full(shape, 1.0).double().requires_grad_(), torch.full(shape, 0.5).double().requires_grad_()]
    alone = torch.autograd.grad(finite(f(table(), *gaps)), gaps)
    together = torch.autograd.grad(finite(f(table().requires_grad_(), *gaps)), gaps)
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a, b)
        assert a.abs().sum() > 0
    assert torch.equal(torch.autograd.grad(finite(f(table(), gaps[0], 0.5)), gaps[0])[0], alone[0])


def test_saved_tensors_pass_through_hooks_and_checkpoints(name: str, ops: SimpleNamespace) -> None:
    f = method(ops, name)
    leaf = table().requires_grad_()
    (expected,) = torch.autograd.grad(finite(f(leaf)), leaf)
    packed: list[int] = []

    def pack(t: Tensor) -> bytes:
        packed.append(t.numel())
        memory = io.BytesIO()
        torch.save(t, memory)
        return memory.getvalue()

    with saved_tensors_hooks(pack, lambda data: torch.load(io.BytesIO(data))):
        outputs = f(leaf)
    torch.testing.assert_close(torch.autograd.grad(finite(outputs), leaf)[0], expected)
    assert packed
    with save_on_cpu():
        loss = finite(f(leaf))
        # A penalty on the gradient, within the hooks: they must not stop second derivatives.
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        (within,) = torch.autograd.grad(gradient.square().sum(), leaf)
    (gradient,) = torch.autograd.grad(finite(f(leaf)), leaf, create_graph=True)
    torch.testing.assert_close(within, torch.autograd.grad(gradient.square().sum(), leaf)[0])
    for reentrant in (False, True):
        again = table().requires_grad_()
        loss = checkpoint(lambda x: finite(f(x)), again, use_reentrant=reentrant)
        loss.backward()
        assert again.grad is not None
        torch.testing.assert_close(again.grad, expected)


def test_views_of_any_kind_get_their_gradients(name: str, ops: SimpleNamespace) -> None:
    f, x = method(ops, name), table(6, 4, 5)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(finite(f(leaf)), leaf)
    layouts: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
        "the last dimension first": lambda t: ((base := t.permute(2, 0, 1).contiguous()), base.permute(1, 2, 0)),
        "every other": lambda t: ((base := t.repeat_interleave(2, 1)), base[:, ::2]),
        "a part": lambda t: ((base := torch.nn.functional.pad(t, (1, 2, 3, 0))), base[:, 3:, 1:-2]),
        "channels last": lambda t: (
            (base := t.view(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)),
            base.flatten(0, 1),
        ),
    }
    for layout, make in layouts.items():
        base, _ = make(x)
        base = base.detach().requires_grad_()
        view = {
            "the last dimension first": lambda b: b.permute(1, 2, 0),
            "every other": lambda b: b[:, ::2],
            "a part": lambda b: b[:, 3:, 1:-2],
            "channels last": lambda b: b.flatten(0, 1),
        }[layout](base)
        (gradient,) = torch.autograd.grad(finite(f(view)), view)
        torch.testing.assert_close(gradient, expected)
    one = x[:1].clone().requires_grad_()
    (summed,) = torch.autograd.grad(finite(f(one.expand(3, -1, -1))), one)
    alone = x[:1].clone().requires_grad_()
    torch.testing.assert_close(summed, 3 * torch.autograd.grad(finite(f(alone)), alone)[0])


def test_outputs_can_be_copied_and_pickled(name: str, ops: SimpleNamespace) -> None:
    outputs = method(ops, name)(table())
    for other in (copy.deepcopy(outputs), pickle.loads(pickle.dumps(outputs))):
        assert all(map(torch.equal, other, outputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_go_on_to_transforms(name: str, dtype: torch.dtype, ops: SimpleNamespace) -> None:
    f, x = method(ops, name), table().to(dtype)
    exact = x.float().requires_grad_()
    expected = torch.autograd.grad(finite(f(exact)), exact)[0].to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = x.clone().requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(finite(f(leaf)), leaf)[0], expected)
        torch.testing.assert_close(torch.func.grad(lambda t: finite(f(t)))(x), expected)
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(lambda t: finite(f(t))))(x[None])[0], expected)


def test_paths_and_marginals_are_computed_in_any_mode(ops: SimpleNamespace) -> None:
    if ops.name == "cuda":
        pytest.skip("no difference on a GPU")
    x = table()

    def results(t: Tensor) -> tuple[Tensor, ...]:
        return (
            *ops.smith_waterman(t, 1.0, 0.5),
            *ops.needleman_wunsch(t, 1.0, 0.5),
            *ops.dtw_path(t),
            *ops.expected_alignment(t, 1.0, 0.5, gamma=0.5, num_samples=2),
        )

    expected = results(x)
    leaf = x.clone().requires_grad_()
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            given = x.clone() if mode is torch.inference_mode else leaf
            for a, b in zip(results(given), expected, strict=True):
                assert torch.equal(a, b)
                assert not a.requires_grad
    with torch.no_grad(), saved_tensors_hooks(lambda t: t, lambda t: t):
        assert all(map(torch.equal, results(x), expected))


def test_the_loss_is_a_function_of_its_parameters() -> None:
    """functional_call and per-sample gradients of the learnable gaps."""
    loss = LacLoss(LacConfig(), num_frames=6).double()
    g = torch.Generator().manual_seed(0)
    embeddings = torch.randn(3, 2, 6, 4, generator=g, dtype=torch.float64)
    steps = torch.arange(6).expand(3, 2, 6)
    parameters = dict(loss.named_parameters())
    assert parameters

    def of(parameters: dict[str, Tensor], embeddings: Tensor, steps: Tensor) -> Tensor:
        value: Tensor = torch.func.functional_call(loss, parameters, (paired(embeddings, steps),))[0]
        return value

    gradients = torch.func.grad(of)(parameters, embeddings, steps)
    value, _ = loss(paired(embeddings, steps))
    value.backward()
    for key, parameter in parameters.items():
        torch.testing.assert_close(gradients[key], parameter.grad)
    per_sample = torch.func.vmap(torch.func.grad(of), (None, 0, 0))(parameters, embeddings[:, None], steps[:, None])
    for key, parameter in parameters.items():
        torch.testing.assert_close(per_sample[key].mean(0), parameter.grad)


def test_exported_operators_compute_the_same() -> None:
    class Both(torch.nn.Module):
        def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
            return *soft_sw(x, 1.0, 0.5, gamma=0.7, lengths=lengths), *soft_dtw(x, gamma=0.7, lengths=lengths, band=3)

    x, lengths = table(), ragged(2, 4, 5)
    exported = torch.export.export(Both(), (x, lengths)).module()
    assert all(map(torch.equal, exported(x, lengths), Both()(x, lengths)))
