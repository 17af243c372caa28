"""What the tests of the operators share: where the golden vectors are, and the implementations under test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from lacray.ops import soft_sw

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
BACKENDS = ["reference", "plain", "avx2", "avx512", "cuda"]

SoftSw = Callable[..., tuple[Tensor, Tensor]]


def on_gpu(*args: Tensor | None, gamma: float, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
    moved = [a if a is None else a.cuda() for a in (*args, lengths)]
    score, match = soft_sw(*moved[:-1], gamma=gamma, lengths=moved[-1])
    return score.cpu(), match.cpu()
