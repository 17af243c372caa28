"""What the tests of the operators share: the implementations under test, and where the golden vectors are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lacray.ops
from lacray.ops import backends

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
BACKENDS = ["reference", "plain", "avx2", "avx512", "cuda"]
DEVICES = ["reference", "cpu", "cuda"]
"""For what lies around an engine, which does not know with which instructions it computes."""
DIFFERENTIABLE = ("soft_sw", "soft_nw", "soft_dtw", "smooth_dtw")

SoftSw = Callable[..., tuple[Tensor, Tensor]]


def on_gpu(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The function with tensors on the CPU outside and on a GPU inside."""

    def moved(value: Any) -> Any:
        return value.cuda() if isinstance(value, Tensor) else value

    def run(*args: Any, **named: Any) -> tuple[Tensor, Tensor]:
        first, second = function(*map(moved, args), **{name: moved(value) for name, value in named.items()})
        return first.cpu(), second.cpu()

    return run


def implementation(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """lacray.ops by one of BACKENDS or DEVICES, for a fixture."""
    functions = {key: getattr(lacray.ops, key) for key in lacray.ops.__all__}
    if name == "reference":
        monkeypatch.setattr(backends, "select", lambda kind: "reference")
        yield SimpleNamespace(name=name, **functions)
    elif name == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU here")
        yield SimpleNamespace(name=name, **functions | {key: on_gpu(functions[key]) for key in DIFFERENTIABLE})
    elif name == "cpu":
        yield SimpleNamespace(name=name, **functions)
    else:
        try:
            backends.use_instructions(name)
        except ValueError:
            pytest.skip(f"this processor has no {name}")
        yield SimpleNamespace(name=name, **functions)
        backends.use_instructions("plain")
        for widest in ("avx2", "avx512"):
            try:
                backends.use_instructions(widest)
            except ValueError:
                break


def load(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    archive = np.load(path)
    arrays = {k: torch.from_numpy(np.asarray(archive[k])) for k in archive.files if k != "meta"}
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in arrays.items()}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest finite magnitude; infinities must agree cell by cell."""
    infinite = ~torch.isfinite(expected)
    assert torch.equal(actual[infinite].double(), expected[infinite].double())
    actual, expected = actual[~infinite].double(), expected[~infinite].double()
    if expected.numel() == 0:
        return 0.0
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def ragged(B: int, N: int, M: int) -> Tensor:
    return torch.tensor([[max(1, N - 2 * b), max(1, M - 3 * b)] for b in range(B)])


def values_and_gradients(
    f: Callable[..., tuple[Tensor, Tensor]], inputs: tuple[Tensor, ...], upstream: tuple[Tensor, Tensor], **named: Any
) -> list[Tensor]:
    """Both outputs of f and the gradients of both, on given upstream gradients, in every input."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = f(*leaves, **named)
    given = [u.to(o) for u, o in zip(upstream, outputs, strict=True)]
    gradients = torch.autograd.grad(outputs, leaves, given, materialize_grads=True)
    return [*(o.detach() for o in outputs), *gradients]
