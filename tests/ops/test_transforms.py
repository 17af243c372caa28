"""The operators under torch.func and the like, against recursions written out cell by cell, and loops."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from backends import DEVICES, implementation, ragged
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lacray.ops import dtw_path, smith_waterman, soft_dtw, soft_sw

GAMMA = 0.7
NAMES = ["soft_sw", "soft_nw", "soft_dtw", "smooth_dtw"]
KINDS = {"scalar": (), "each": (2,), "shared": (3, 4), "own": (2, 3, 4)}
Outputs = tuple[Tensor, Tensor]


def soft_max(terms: list[Tensor | None]) -> Tensor | None:
    there = [term for term in terms if term is not None]
    return GAMMA * torch.logsumexp(torch.stack(there) / GAMMA, 0) if there else None


def less(one: Tensor | None, gap: Tensor) -> Tensor | None:
    return None if one is None else one - gap


def affine(similarity: Tensor, gap_open: Tensor, gap_extend: Tensor, *, local: bool) -> Outputs:
    """One pair, by the recursion of docs/operators.md; None is -inf. End to end, a row and a column come in front."""
    N, M = similarity.shape
    first = 0 if local else -1
    d: dict[tuple[int, int], Tensor | None] = {}
    x: dict[tuple[int, int], Tensor | None] = {}
    y: dict[tuple[int, int], Tensor | None] = {}
    zero = similarity.new_zeros(())
    for i in range(first, N):
        for j in range(first, M):
            at, above, left, before = (i, j), (i - 1, j), (i, j - 1), (i - 1, j - 1)
            o, e = gap_open[max(i, 0), max(j, 0)], gap_extend[max(i, 0), max(j, 0)]
            start = zero if local or at == (-1, -1) else None
            best = soft_max([start, d.get(before), x.get(before), y.get(before)])
            if not local and -1 in at:
                d[at] = zero if at == (-1, -1) else None
            else:
                d[at] = None if best is None else similarity[i, j] + best
            x[at] = soft_max([less(d.get(left), o), less(x.get(left), e)])
            y[at] = soft_max([less(d.get(above), o), less(x.get(above), o), less(y.get(above), e)])
    ends = [d[i, j] for i in range(N) for j in range(M)] if local else [t[N - 1, M - 1] for t in (d, x, y)]
    score = soft_max(ends)
    assert score is not None
    return score, torch.stack([torch.stack([cell(d[i, j]) for j in range(M)]) for i in range(N)])


def cell(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def warping(cost: Tensor, *, smooth: bool) -> Outputs:
    N, M = cost.shape
    r: dict[tuple[int, int], Tensor] = {}
    for i in range(N):
        for j in range(M):
            before = [r[at] for at in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if at in r]
            u = torch.stack(before or [cost.new_zeros(())])
            minimum = (torch.softmax(-u / GAMMA, 0) * u).sum() if smooth else -GAMMA * torch.logsumexp(-u / GAMMA, 0)
            r[i, j] = cost[i, j] + minimum
    return r[N - 1, M - 1], torch.stack([torch.stack([r[i, j] for j in range(M)]) for i in range(N)])


def by_cells(name: str, table: Tensor, *gaps: Tensor) -> Outputs:
    if name.endswith("dtw"):
        found = [warping(one, smooth=name == "smooth_dtw") for one in table]
    else:
        own = [gap.view(-1, 1, 1) if gap.dim() == 1 else gap for gap in gaps]
        triples = zip(table, *(gap.expand(table.shape) for gap in own), strict=True)
        found = [affine(*triple, local=name == "soft_sw") for triple in triples]
    values, tables = zip(*found, strict=True)
    return torch.stack(values), torch.stack(tables)


def subject(ops: SimpleNamespace, name: str) -> Callable[..., Outputs]:
    """Of table and gaps, of which the warping ones take none."""
    function = functools.partial(getattr(ops, name), gamma=GAMMA)
    return (lambda table, *gaps, **named: function(table, **named)) if name.endswith("dtw") else function


def total(outputs: Outputs) -> Tensor:
    """A number that is linear in neither output."""
    value, table = outputs
    value_weights, weights = torch.tensor([1.0, -0.5]).to(value), torch.linspace(-1, 1, table.numel()).to(table)
    return (value * value_weights).square().sum() + (table.square() * weights.view(table.shape)).sum()


def inputs(name: str, kind: str = "scalar", *more: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    table = torch.randn(*more, 2, 3, 4, generator=g, dtype=torch.float64)
    if name.endswith("dtw"):
        return [table]
    gaps = [torch.rand(KINDS[kind], generator=g, dtype=torch.float64) for _ in range(2)]
    return [table, gaps[0] + 0.5, gaps[1] * 0.5]


@functools.cache
def jacobians(name: str) -> tuple[Any, ...]:
    return torch.autograd.functional.jacobian(functools.partial(by_cells, name), tuple(inputs(name)))


@functools.cache
def second_derivatives(name: str, kind: str) -> Any:
    return torch.autograd.functional.hessian(lambda *t: total(by_cells(name, *t)), tuple(inputs(name, kind)))


def close(actual: Any, expected: Any) -> None:
    for a, b in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.fixture(params=DEVICES)
def ops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    yield from implementation(request.param, monkeypatch)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest, ops: SimpleNamespace) -> str:
    if ops.name == "cuda":
        pytest.skip("the transforms are those of the other backends; on a GPU the tests of values run")
    return str(request.param)


def test_first_derivatives_are_those_of_the_recursion(name: str, ops: SimpleNamespace) -> None:
    f, given, expected = subject(ops, name), inputs(name), jacobians(name)
    every = tuple(range(len(given)))
    close(jacrev(f, every)(*given), expected)
    close(jacfwd(f, every)(*given), expected)
    tangents = [torch.linspace(-1, 2, x.numel()).view(x.shape).to(x) for x in given]
    pushed = [sum(torch.tensordot(j, t, t.dim()) for j, t in zip(row, tangents, strict=True)) for row in expected]
    close(jvp(f, tuple(given), tuple(tangents)), (f(*given), tuple(pushed)))
    with torch.no_grad(), forward_ad.dual_level():  # which takes nothing from tangents
        duals = [forward_ad.make_dual(x, t) for x, t in zip(given, tangents, strict=True)]
        close([forward_ad.unpack_dual(output).tangent for output in f(*duals)], pushed)
    outputs, pull = vjp(f, *given)
    upstream = tuple(torch.linspace(1, -2, o.numel()).view(o.shape).to(o) for o in outputs)
    pulled = [
        sum(torch.tensordot(u, row[k], u.dim()) for u, row in zip(upstream, expected, strict=True)) for k in every
    ]
    close(pull(upstream), pulled)


@pytest.mark.parametrize("kind", ["scalar", "shared"])
def test_second_derivatives_are_those_of_the_recursion(name: str, kind: str, ops: SimpleNamespace) -> None:
    if kind == "shared" and name.endswith("dtw"):
        pytest.skip("warping has no gaps")
    given, expected = inputs(name, kind), second_derivatives(name, kind)
    f, every = (lambda *t: total(subject(ops, name)(*t))), tuple(range(len(given)))
    outer = [jacrev, jacfwd] if kind == "scalar" else [jacrev]
    for one in outer:
        for other in outer:
            close(one(other(f, every), every)(*given), expected)
    close(hessian(f, every)(*given), expected)
    # Differentiated in one input alone, then in the others.
    close(jacfwd(grad(f), every)(*given), expected[0])
    close(jacrev(grad(f), every)(*given), expected[0])


def test_second_derivatives_of_a_sum_are_those_of_the_recursion(name: str, ops: SimpleNamespace) -> None:
    # What arrives from a sum is one number for all.
    f, given = subject(ops, name), inputs(name)[0]
    others = inputs(name)[1:]
    expected = torch.autograd.functional.hessian(lambda x: by_cells(name, x, *others)[0].sum(), given)
    for transform in (hessian, lambda g: jacfwd(jacfwd(g)), lambda g: jacrev(jacfwd(g)), lambda g: jacrev(jacrev(g))):
        close(transform(lambda x: f(x, *others)[0].sum())(given), expected)


def test_autograds_own_functions_agree_with_the_recursion(name: str, ops: SimpleNamespace) -> None:
    if name in ("soft_nw", "smooth_dtw"):
        pytest.skip("soft_sw, and soft_dtw, in other words")
    given, expected = tuple(inputs(name)), second_derivatives(name, "scalar")
    f, functional = subject(ops, name), torch.autograd.functional
    for options in ({}, {"vectorize": True}, {"vectorize": True, "strategy": "forward-mode"}):
        close(functional.jacobian(f, given, **options), jacobians(name))
    for options in ({"vectorize": True}, {"vectorize": True, "outer_jacobian_strategy": "forward-mode"}):
        close(functional.hessian(lambda *t: total(f(*t)), given, **options), expected)
    leaves = [x.requires_grad_() for x in given]
    assert torch.autograd.gradcheck(
        f, leaves, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(f, leaves, check_fwd_over_rev=True, check_batched_grad=True, fast_mode=True)


def test_third_derivatives_nest(name: str, ops: SimpleNamespace) -> None:
    def third(f: Callable[..., Outputs]) -> Tensor:
        given = inputs(name)
        return grad(lambda x: jacrev(grad(lambda y: total(f(y, *given[1:]))))(x).sin().sum())(given[0])

    close(third(subject(ops, name)), third(functools.partial(by_cells, name)))


def looped(f: Callable[..., Any], size: int, dims: tuple[int | None, ...], *given: Tensor) -> list[Tensor]:
    """vmap(f, dims), one at a time."""
    found = [
        tree_leaves(f(*(x if dim is None else x.select(dim, k) for x, dim in zip(given, dims, strict=True))))
        for k in range(size)
    ]
    return [torch.stack(leaves) for leaves in zip(*found, strict=True)]


def gradients(f: Callable[..., Outputs]) -> Callable[..., tuple[Tensor, ...]]:
    """By eager autograd."""

    def compute(*given: Tensor) -> tuple[Tensor, ...]:
        leaves = [x.detach().clone().requires_grad_() for x in given]
        return torch.autograd.grad(total(f(*leaves)), leaves)

    return compute


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("apart", [False, True])
def test_vmap_gives_what_a_loop_gives(name: str, kind: str, apart: bool, ops: SimpleNamespace) -> None:
    """With gaps for all and `apart` for each of them; values, per-sample gradients, and the gradient of all."""
    if name.endswith("dtw") and (kind != "scalar" or apart):
        pytest.skip("warping has no gaps")
    f, given = subject(ops, name), inputs(name, kind, 3)
    if apart:
        given[1:] = [torch.stack([gap, gap + 0.3, gap * 2], -1) for gap in given[1:]]
    dims = (0, *[-1 if apart else None] * (len(given) - 1))
    every = tuple(range(len(given)))
    close(vmap(f, dims)(*given), looped(f, 3, dims, *given))
    per_sample = looped(gradients(f), 3, dims, *given)
    close(vmap(grad(lambda *t: total(f(*t)), every), dims)(*given), per_sample)
    if apart:
        once = vmap(grad(lambda *t: total(f(*t)), every), (None, -1, -1))(given[0][1], *given[1:])
        close(once, looped(gradients(f), 3, (None, -1, -1), given[0][1], *given[1:]))
    together = grad(lambda *t: vmap(lambda *u: total(f(*u)), dims)(*t).sum(), every)(*given)
    close(
        together,
        [
            g if dim == 0 else g.sum(0) if dim is None else g.movedim(0, -1)
            for g, dim in zip(per_sample, dims, strict=True)
        ],
    )


def test_vmap_nests_and_takes_any_dimension(name: str, ops: SimpleNamespace) -> None:
    f, (table, *gaps) = subject(ops, name), inputs(name, "scalar", 2, 3)
    lengths = torch.tensor([[[3, 4], [2, 1]], [[1, 4], [0, 2]], [[3, 3], [2, 4]]])

    def one(x: Tensor, sizes: Tensor) -> Outputs:
        return f(x, *gaps, lengths=sizes)

    expected = [
        torch.stack(column) for column in zip(*(looped(one, 3, (0, 0), row, lengths) for row in table), strict=True)
    ]
    close(vmap(vmap(one), in_dims=(0, None))(table, lengths), expected)
    moved = vmap(vmap(one, in_dims=(-1, 0), out_dims=1), in_dims=(1, None), out_dims=(1, 2))(
        table.permute(2, 0, 3, 4, 1), lengths
    )
    close(moved, (expected[0].permute(2, 0, 1), expected[1].permute(2, 1, 0, 3, 4)))


class Calls(TorchDispatchMode):
    """Counts the calls of lacray's operators that reach their kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "lacray":
            self.names.append(func.name().removeprefix("lacray::"))
        return func(*args, **(kwargs or {}))


def test_a_vmap_is_one_call() -> None:
    table = inputs("soft_sw", "scalar", 5)[0]
    with Calls() as calls:
        vmap(vmap(grad(lambda x, o: soft_sw(x, o, 0.5, gamma=GAMMA)[0].sum(), (0, 1)), (0, None)), (0, 0))(
            table[:, None], torch.ones(5).double()
        )
        vmap(jacrev(lambda x: soft_dtw(x, gamma=GAMMA)[0]))(table)
        vmap(lambda x: smith_waterman(x, 1.0, 0.5)[0])(table)
        vmap(lambda x: dtw_path(x)[0])(table)
    assert calls.names == ["soft_sw", "soft_sw_backward", "dtw", "dtw_backward", "soft_sw_walks", "dtw_path"]


def test_operators_called_as_such_take_vmap_too() -> None:
    table, gap_open, gap_extend = inputs("soft_sw", "shared", 3)
    gap_open = torch.stack([gap_open, gap_open + 0.3, gap_open * 2])
    forward = lambda x, o: torch.ops.lacray.soft_sw(x, o, gap_extend, None, GAMMA, False)  # noqa: E731
    outputs = vmap(forward)(table, gap_open)
    close(outputs, looped(forward, 3, (0, 0), table, gap_open))

    def backward(x: Tensor, o: Tensor, match: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        given = None, match, x, o, gap_extend, None, state, GAMMA, False, True
        found: tuple[Tensor, ...] = torch.ops.lacray.soft_sw_backward(*given)
        return found

    given = table, gap_open, *outputs[1:]
    close(vmap(backward)(*given), looped(backward, 3, (0,) * 4, *given))
    costs = [torch.ops.lacray.dtw(x, None, GAMMA, -1, False, True) for x in table]
    kept = [torch.stack(column) for column in zip(*costs, strict=True)]
    last = lambda x, v, state, g: torch.ops.lacray.dtw_backward(v, None, x, None, state, g, GAMMA, -1, False, True)  # noqa: E731
    close(vmap(last)(table, kept[0], *kept[2:]), looped(last, 3, (0,) * 4, table, kept[0], *kept[2:]))


def test_lengths_out_of_range_are_refused_within_a_vmap(name: str, ops: SimpleNamespace) -> None:
    table, *gaps = inputs(name, "scalar", 2)
    lengths = torch.tensor([[[3, 4], [2, 1]], [[1, 4], [0, 5]]])
    with pytest.raises(ValueError, match=r"lengths: column 1 must be in 0..4 \(M\), got 5"):
        vmap(lambda x, sizes: subject(ops, name)(x, *gaps, lengths=sizes))(table, lengths)
    with pytest.raises(ValueError, match=r"gamma: must be a number, got Tensor: .* divide all by it"):
        vmap(lambda x, gamma: getattr(ops, name)(x, *gaps, gamma=gamma))(table, torch.ones(2))


PATHS: dict[str, Callable[..., Any]] = {
    "smith_waterman": lambda ops, table, **named: ops.smith_waterman(table, 1.0, 0.5, **named),
    "needleman_wunsch": lambda ops, table, **named: ops.needleman_wunsch(table, 1.0, 0.5, **named),
    "dtw_path": lambda ops, table, **named: ops.dtw_path(table, **named),
    "expected_alignment": lambda ops, table, **named: ops.expected_alignment(table, 1.0, 0.5, gamma=0.5, **named),
}


@pytest.mark.parametrize("path", PATHS)
def test_paths_take_vmap_and_say_what_to_differentiate_instead(path: str, ops: SimpleNamespace) -> None:
    f, table = functools.partial(PATHS[path], ops), inputs("soft_sw", "scalar", 3)[0]
    lengths = torch.stack([ragged(2, 3, 4)] * 3, 1)
    close(vmap(f)(table), looped(f, 3, (0,), table))
    sizes = lambda x, sizes: f(x, lengths=sizes)  # noqa: E731
    close(vmap(sizes, (0, 1))(table, lengths), looped(sizes, 3, (0, 1), table, lengths))
    instead = {"smith_waterman": "soft_sw", "needleman_wunsch": "soft_nw", "dtw_path": "soft_dtw"}.get(path, "soft_sw")
    for transformed in (
        grad(lambda x: f(x)[0].sum()),
        jacfwd(lambda x: f(x)[0]),
        lambda x: vmap(grad(lambda y: f(y)[0].sum()))(x[None]),
    ):
        with pytest.raises(RuntimeError, match=rf"{path}: its \w+ (is|are) not differentiable. Use {instead}"):
            transformed(table[0])
    close(grad(lambda x: (x.sum(), f(x)[0]), has_aux=True)(table[0])[1], f(table[0])[0])


def test_draws_within_a_vmap_are_those_of_one_batch(ops: SimpleNamespace) -> None:
    table = inputs("soft_sw", "scalar", 3)[0]
    draw = functools.partial(ops.expected_alignment, gap_open=1.0, gap_extend=0.5, gamma=2.0, num_samples=4, seed=3)
    _, samples = vmap(draw)(table)
    assert torch.equal(samples.flatten(0, 1), draw(table.flatten(0, 1))[1])
    assert not torch.equal(samples[0], samples[1])


@pytest.fixture
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(f: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(f, fullgraph=True, backend="aot_eager")


def test_graphs_hold_vmap_and_paths_and_refuse_forward_mode(fresh: None) -> None:
    table = inputs("soft_sw", "scalar", 3)[0].requires_grad_()

    def several(x: Tensor) -> tuple[Tensor, Tensor]:
        return vmap(lambda y: soft_sw(y, 1.0, 0.5, gamma=GAMMA)[0])(x), vmap(lambda y: soft_dtw(y, gamma=GAMMA)[0])(x)

    close(compiled(several)(table), several(table))
    close(
        torch.autograd.grad(sum(x.sum() for x in compiled(several)(table)), table),
        torch.autograd.grad(sum(x.sum() for x in several(table)), table),
    )

    def paths(x: Tensor) -> Any:
        return smith_waterman(x, 1.0, 0.5), dtw_path(x)

    close(compiled(paths)(table[0].detach()), paths(table[0].detach()))
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"soft_sw: forward mode .* is not supported in a graph"):
        compiled(lambda x: jvp(lambda y: soft_sw(y, 1.0, 0.5, gamma=GAMMA)[0], (x,), (x,))[1])(table[0].detach())
