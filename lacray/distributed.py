"""The few things that the ranks of a run do together; each is entered by every rank, and works without any.

Objects travel over a gloo group of their own: they live on the CPU, and a slow rank is no error.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

T = TypeVar("T")

# What one rank may be slower than another: a collective of objects waits as long.
SLOWEST = datetime.timedelta(hours=24)
# Between two looks at whether the first rank, which is waited for outside of collectives, is ready.
LONGEST_PAUSE_S = 0.05


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    return rank() == 0


def all_gather(value: T) -> list[T]:
    """Every rank's value, in order of rank, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_channel().group)
    return values


def gather(value: T) -> list[T]:
    """Every rank's value, in order of rank, on the first; nothing on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_first() else None
    dist.gather_object(value, values, dst=0, group=_channel().group)
    return values or []


def share(value: T) -> T:
    """The first rank's value, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_channel().group)
    return box[0]


def from_first(compute: Callable[[], T]) -> T:
    """What the first rank computes, on every rank; the others wait outside of any collective, however long it takes.

    Raises:
        Exception: the first rank's, on every rank.
        DistError: the first rank is gone.
    """
    if world_size() == 1:
        return compute()
    channel = _channel()
    channel.waits += 1
    key = f"lacray/{channel.waits}"
    value: Any = None
    error: Exception | None = None
    if is_first():
        try:
            value = compute()
        except Exception as found:
            error = found
        channel.store.set(key, b"ready")
    else:
        _wait(channel.store, key)
    value, error = share((value, error))
    if error is not None:
        raise error
    return cast(T, value)


def _wait(store: Any, key: str) -> None:
    """Until the first rank has set the key; where that rank is gone, its store is too, and this raises."""
    pause = 0.0005
    while not store.check([key]):
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def agree(error: Exception | None) -> None:
    """Raise the error of the lowest rank that has one, on every rank.

    Raises:
        Exception: that error.
    """
    if world_size() == 1:
        if error is not None:
            raise error
        return
    flag = torch.tensor([error is not None], dtype=torch.int32)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=_channel().group)
    if flag.item():
        raise next(found for found in all_gather(error) if found is not None)


@dataclass
class _Channel:
    """What the ranks of one process group have besides it."""

    owner: Any
    group: Any
    store: Any
    waits: int = 0


_channels: list[_Channel] = []


def _channel() -> _Channel:
    """Made at the first call in a process group; a new process group has one of its own."""
    owner = dist.group.WORLD
    if not _channels or _channels[0].owner is not owner:
        group = dist.new_group(backend="gloo", timeout=SLOWEST)
        # The store through which the ranks found each other; one more would be one more open port.
        _channels[:] = [_Channel(owner, group, dist.distributed_c10d._get_default_store())]
    return _channels[0]
