"""What the benchmarks share: clocks, repetitions, floors, peak memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def quartiles(seconds: list[float]) -> dict[str, float]:
    s = torch.tensor(seconds, dtype=torch.float64)
    return {"median": s.median().item(), "min": s.min().item(), "iqr": (s.quantile(0.75) - s.quantile(0.25)).item()}


def repeat(f: Callable[[], Any], seconds: float = 1.0, least: int = 5, most: int = 200) -> list[Any]:
    f()
    results: list[Any] = []
    end = time.perf_counter() + seconds
    while len(results) < least or (time.perf_counter() < end and len(results) < most):
        results.append(f())
    return results


def timed(f: Callable[[], Any], like: Tensor) -> float:
    start = now(like)
    f()
    return now(like) - start


def floor(cells: int, bytes_per_cell: int, device: str) -> dict[str, float]:
    """Seconds of one exp and one log a cell (torch's own), and of a copy of the bytes that must move."""
    x, y = torch.randn(cells, device=device), torch.empty(cells, device=device)
    exp_log = repeat(lambda: timed(lambda: (torch.exp(x, out=y), torch.log(y, out=y)), x), 0.3)
    source = torch.empty(cells * bytes_per_cell // 8, device=device)
    target = torch.empty_like(source)
    stream = repeat(lambda: timed(lambda: target.copy_(source), x), 0.3)
    return {"exp_log": min(exp_log), "stream": min(stream)}


def peak_gib() -> float:
    """Largest resident size of this process; by the kernel where it tells, since ru_maxrss counts the parent too."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
