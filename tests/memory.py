"""How much of torch's CPU memory a piece of code holds at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], Any]) -> int:
    """Largest sum of torch's CPU allocations while `run` runs, over what was there before: to the byte, each time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = most = 0
    for event in sorted(_allocations(profiler), key=lambda event: event.start_time_ns):
        held += event.extra_fields.alloc_size
        most = max(most, held)
    return most


def _allocations(profiler: profile) -> Iterable[Any]:
    results: Any = profiler.profiler
    pending = list(results.kineto_results.experimental_event_tree())
    while pending:
        event = pending.pop()
        pending += event.children
        if event.name == "[memory]":
            yield event
