"""What the tests of the operators share: the implementations under test, and where the golden vectors are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
BACKENDS = ["reference", "plain", "avx2", "avx512", "cuda"]

SoftSw = Callable[..., tuple[Tensor, Tensor]]


def on_gpu(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The function with tensors on the CPU outside and on a GPU inside."""

    def moved(value: Any) -> Any:
        return value.cuda() if isinstance(value, Tensor) else value

    def run(*args: Any, **named: Any) -> tuple[Tensor, Tensor]:
        first, second = function(*map(moved, args), **{name: moved(value) for name, value in named.items()})
        return first.cpu(), second.cpu()

    return run


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
