"""soft_dtw and smooth_dtw: time, beside the floor and the CPU paths of tslearn and pysdtw, in one run.

    python benchmarks/soft_dtw.py            all threads, and one
    python benchmarks/soft_dtw.py --quick    small sizes only

Forward and backward of the value's sum (the peers differentiate nothing else), from a given table of costs in float32,
checked against the reference in float64 before they are timed. The peers (extra [bench]) are numba, compiled before the
clock starts, and use all cores; they are skipped, saying so, without. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from collections.abc import Callable
from typing import Any

import torch
from measuring import floor, now, quartiles, repeat
from torch import Tensor

from lacray.ops import backend_name, reference, smooth_dtw, soft_dtw

GAMMA = 0.1
SIZES = [(64, 64), (8, 240), (2, 512), (1, 2048)]
QUICK = [(8, 64)]
BYTES_PER_CELL = 16  # C read and R written; C read and its gradient written


def timed(f: Callable[[Tensor], Tensor], cost: Tensor) -> tuple[Tensor, Tensor, float]:
    """The values, the gradient of their sum, and the seconds of both passes."""
    leaf = cost.detach().requires_grad_()
    start = now(leaf)
    value = f(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient, now(leaf) - start


def ours(function: Callable[..., tuple[Tensor, Tensor]], band: int | None) -> Callable[[Tensor], Tensor]:
    return lambda cost: function(cost, gamma=GAMMA, band=band)[0]


def peers() -> dict[str, Callable[[Tensor], Tensor]]:
    """Public classes that compute costs themselves, with a distance that gives the costs there are."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}

    def add(name: str, make: Callable[[Any, Callable[..., Tensor]], Any]) -> None:
        try:
            module: Any = importlib.import_module(name)
        except ImportError:
            print(f"NO {name} IN THIS RUN: pip install {name.split('.')[0]} (extra [bench])", file=sys.stderr)
            return

        def run(cost: Tensor) -> Tensor:
            B, N, M = cost.shape
            # A new tensor, since tslearn writes into what it is given.
            value: Tensor = make(module, lambda x, y: cost * 1)(torch.zeros(B, N, 1), torch.zeros(B, M, 1))
            return value

        found[name.split(".")[0]] = run

    add("tslearn.metrics", lambda m, distance: m.SoftDTWLossPyTorch(gamma=GAMMA, dist_func=distance))
    add("pysdtw", lambda m, distance: m.SoftDTW(gamma=GAMMA, dist_func=distance, use_cuda=False))
    return found


def check(name: str, f: Callable[[Tensor], Tensor], cost: Tensor, smooth: bool, band: int, tolerance: float) -> float:
    """Largest error against the reference in float64, relative to the largest value of each result."""
    value, gradient, _ = timed(f, cost)
    exact = timed(lambda c: reference.dtw(c, gamma=GAMMA, smooth=smooth, band=band)[0], cost.double())
    worst = max(
        float((got - want).abs().max() / want.abs().max())
        for got, want in zip((value, gradient), exact[:2], strict=True)
    )
    if worst > tolerance:
        raise SystemExit(f"{name} {tuple(cost.shape)}: off by {worst:.1e} from the reference; not timed")
    return worst


def measure(B: int, T: int, others: dict[str, Callable[[Tensor], Tensor]], threads: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(T)
    # Distances of two walks in the plane: like those of two videos, small along a path.
    steps = torch.randn(2, B, T, 2, generator=generator) * 0.3
    cost = torch.cdist(*steps.cumsum(2)).contiguous()
    row: dict[str, Any] = {"B": B, "T": T, "threads": threads}
    torch.set_num_threads(threads)
    small = cost[: min(B, 2)]
    variants = {
        "soft_dtw": (ours(soft_dtw, None), False, -1, 1e-4),
        "smooth_dtw": (ours(smooth_dtw, None), True, -1, 1e-2),
        "soft_dtw, band T/10": (ours(soft_dtw, T // 10), False, T // 10, 1e-4),
    }
    for name, (f, smooth, band, tolerance) in variants.items():
        error = check(name, f, small, smooth, band, tolerance) if T <= 512 else None
        times = quartiles(repeat(lambda f=f: timed(f, cost)[-1]))  # type: ignore[misc]
        row[name] = {**times, "error": error, "ns_per_cell": times["min"] / cost.numel() * 1e9}
    row["floor"] = floor(cost.numel(), BYTES_PER_CELL, "cpu")
    row["over_exp_log_floor"] = row["soft_dtw"]["min"] / row["floor"]["exp_log"]
    for name, f in others.items():
        if T <= 512:
            check(name, f, small, False, -1, 2e-2)  # they keep R in float32, and differentiate through it
        row[name] = quartiles(repeat(lambda f=f: timed(f, cost)[-1]))  # type: ignore[misc]
        row[f"times_faster_than_{name}"] = row[name]["min"] / row["soft_dtw"]["min"]
    return row


def show(row: dict[str, Any]) -> None:
    faster = "".join(f", {k.rsplit('_', 1)[-1]} {row[k]:.0f}x" for k in row if k.startswith("times_faster"))
    own = {name: value for name, value in row.items() if isinstance(value, dict) and "ns_per_cell" in value}
    ours = ", ".join(f"{name} {value['ns_per_cell']:.2f}" for name, value in own.items())
    print(
        f"{row['B']:>3} x {row['T']:<4} {row['threads']} threads, ns a cell: {ours}; "
        f"{row['over_exp_log_floor']:.2f} x floor{faster}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    arguments = parser.parse_args()
    document: dict[str, Any] = {
        "benchmark": "soft_dtw",
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "backend": backend_name("cpu"),
        "gamma": GAMMA,
        "rows": [],
    }
    others = peers()
    threads = torch.get_num_threads()
    for count in sorted({1, threads}, reverse=True):
        for B, T in QUICK if arguments.quick else SIZES:
            row = measure(B, T, others if count == threads else {}, count)
            document["rows"].append(row)
            show(row)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
