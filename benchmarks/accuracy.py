"""The operators in float32: their errors against float64, over gamma, length and size of the numbers.

    python benchmarks/accuracy.py            the tables of docs/operators.md, in Markdown

The largest error of each result relative to its largest value, on the same (rounded) inputs, per-cell gaps, B = 2. The
truth is the torch reference in float64. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lacray.ops import backend_name, reference, smooth_dtw, soft_dtw, soft_nw, soft_sw
from lacray.ops.affine import with_corner

SETTINGS = [(0.001, 64, 1.0), (0.001, 240, 1.0), (0.001, 240, 100.0), (0.05, 64, 1.0), (0.05, 240, 100.0)]
SETTINGS += [(0.8, 64, 1.0), (0.8, 240, 100.0), (5.0, 240, 100.0)]


def exact_nw(similarity: Tensor, gap_open: Tensor, gap_extend: Tensor, *, gamma: float) -> tuple[Tensor, Tensor]:
    framed, _ = with_corner(similarity, gap_open, gap_extend, None)
    score, match = reference.soft_sw(*framed, gamma=gamma, end_to_end=True)
    return score, match[:, 1:, 1:]


def smooth(cost: Tensor, *, gamma: float) -> tuple[Tensor, Tensor]:
    return reference.dtw(cost, gamma=gamma, smooth=True)


FAMILY: dict[str, tuple[Callable[..., Any], Callable[..., Any], Sequence[str]]] = {
    "soft_sw": (soft_sw, reference.soft_sw, ("score", "match", "d similarity", "d gap_open", "d gap_extend")),
    "soft_nw": (soft_nw, exact_nw, ("score", "match", "d similarity", "d gap_open", "d gap_extend")),
    "soft_dtw": (soft_dtw, reference.dtw, ("value", "table", "d cost")),
    "smooth_dtw": (smooth_dtw, smooth, ("value", "table", "d cost")),
}


def inputs(count: int, T: int, size: float) -> list[Tensor]:
    g = torch.Generator().manual_seed(T)
    table = torch.randn(2, T, T, generator=g) * size
    gaps = [(torch.rand(T, T, generator=g) + 0.5) * size, torch.rand(T, T, generator=g) * 0.5 * size]
    return [table, *gaps] if count == 3 else [table.abs()]


def results(f: Callable[..., Any], tensors: list[Tensor], gamma: float) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    outputs = f(*leaves, gamma=gamma)
    g = torch.Generator().manual_seed(1)
    upstream = [torch.ones_like(outputs[0]), torch.randn(outputs[1].shape, generator=g).to(outputs[1])]
    return [*(o.detach() for o in outputs), *torch.autograd.grad(outputs, leaves, upstream)]


def main() -> int:
    document: dict[str, Any] = {"benchmark": "accuracy", "backend": backend_name("cpu"), "rows": []}
    for name, (f, exact, columns) in FAMILY.items():
        print(f"\n{name}\n\n| gamma | T | size | {' | '.join(columns)} |\n| --- | --- | --- |{' --- |' * len(columns)}")
        for gamma, T, size in SETTINGS:
            tensors = inputs(3 if len(columns) == 5 else 1, T, size)
            actual, expected = results(f, tensors, gamma), results(exact, [t.double() for t in tensors], gamma)
            errors = [float((a - e).abs().max() / e.abs().max()) for a, e in zip(actual, expected, strict=True)]
            document["rows"].append({"operator": name, "gamma": gamma, "T": T, "size": size, "errors": errors})
            print(f"| {gamma:g} | {T} | {size:g} | {' | '.join(f'{error:.0e}' for error in errors)} |", flush=True)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
