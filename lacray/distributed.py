"""What the ranks of a run say to each other beside the tensors of training; every rank enters each call, in one order.

Without a process group there is one rank, and nothing is sent. Values travel over a gloo group of their own, so that
they cross between CPUs whatever trains, and a rank that is slow is no error; one that has died is, at once.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
import traceback
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather as all_gather_tensors

T = TypeVar("T")

PATIENCE = timedelta(hours=24)
"""How long a rank waits for a slower one."""
LONGEST_PAUSE = 1.0
"""Seconds between two looks at whether the first rank is done."""


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    return rank() == 0


def gather(value: T) -> list[T]:
    """Every rank's value, in order of rank, at rank 0; an empty list on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_first() else None
    dist.gather_object(value, values, dst=0, group=_channel().group)
    return values or []


def all_gather(value: T) -> list[T]:
    """Every rank's value, in order of rank, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_channel().group)
    return values


def join(tensor: Tensor) -> Tensor:
    """Every rank's tensor, of one shape, in order of rank along the first axis, on every rank.

    Differentiable: each rank's part gets the sum of the gradients that it has on all ranks.
    """
    if world_size() == 1:
        return tensor
    return torch.cat(all_gather_tensors(tensor.contiguous()))


def agree(error: Exception | None) -> None:
    """Raise on every rank what one of them has met; the lowest rank's error where several have one.

    It costs the reduction of one number where none has.

    Raises:
        Exception: of the type that it has where it was met; a RuntimeError that quotes it if it does not pickle.
    """
    if world_size() == 1:
        if error is not None:
            raise error
        return
    channel = _channel()
    lowest = torch.tensor(world_size() if error is None else rank())
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN, group=channel.group)
    first = int(lowest)
    if first == world_size():
        return
    told = channel.broadcast(_portable(error) if error is not None else None, source=first)
    raise error if error is not None and first == rank() else told


def from_each(compute: Callable[[], T]) -> T:
    """This rank's `compute()`; where one rank raises, all of them raise that error in place of going on without it."""
    error = None
    try:
        value = compute()
    except Exception as caught:
        error = caught
    agree(error)
    return value


def from_first(compute: Callable[[], T]) -> T:
    """Rank 0's `compute()`, on every rank; however long it takes, the others wait in no collective.

    Raises:
        Exception: what `compute` raised, on every rank.
        RuntimeError: rank 0 has died.
    """
    if world_size() == 1:
        return compute()
    channel = _channel()
    if not is_first():
        channel.await_first()
        value, error = channel.broadcast(None)
        if error is not None:
            raise error
        return value
    try:
        value = compute()
    except Exception as caught:
        channel.tell_others()
        channel.broadcast((None, _portable(caught)))
        raise
    channel.tell_others()
    channel.broadcast((value, None))
    return value


class _Channel:
    """A gloo group of all ranks, and a store that rank 0 serves for those that wait for it."""

    def __init__(self) -> None:
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        assert isinstance(group, dist.ProcessGroup)
        self.group = group
        self._num_waits = 0
        if is_first():
            # Bound to the one address and handed over, so that nobody can take the port in between.
            listener = _listener()
            host, port = listener.getsockname()[:2]
            self.broadcast((host, port))
            self._store = _store(host, port, listener)
        else:
            host, port = self.broadcast(None)
            self._store = _store(host, port, None)

    def broadcast(self, value: Any, *, source: int = 0) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=source, group=self.group)
        return box[0]

    def await_first(self) -> None:
        """Return when rank 0 has called `tell_others` as often as this was called.

        Raises:
            RuntimeError: rank 0 has died.
        """
        self._num_waits += 1
        pause = 1e-3
        try:
            # Looking again and again is a request and an answer each time; a long `wait` would warn on every timeout.
            while not self._store.check([str(self._num_waits)]):
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        except dist.DistError as error:
            raise RuntimeError(f"rank 0 has died while rank {rank()} waited for it ({error})") from error
        dist.barrier(group=self.group)

    def tell_others(self) -> None:
        self._num_waits += 1
        self._store.set(str(self._num_waits), "")
        # Before all have seen it, rank 0 may not end: the store would end with it.
        dist.barrier(group=self.group)
        self._store.delete_key(str(self._num_waits))


# With its process group goes its channel: a later group of this process makes one of its own.
_channels: weakref.WeakKeyDictionary[dist.ProcessGroup, _Channel] = weakref.WeakKeyDictionary()


def _channel() -> _Channel:
    world = dist.group.WORLD
    assert world is not None
    if world not in _channels:
        _channels[world] = _Channel()
    return _channels[world]


def _store(host: str, port: int, listener: socket.socket | None) -> dist.TCPStore:
    return dist.TCPStore(
        host,
        port,
        is_master=listener is not None,
        wait_for_workers=False,
        master_listen_fd=listener.detach() if listener is not None else None,
    )


def _listener() -> socket.socket:
    """A listening socket at an address of this host that the others reach."""
    for name in (os.environ.get("MASTER_ADDR", ""), socket.gethostname(), "127.0.0.1"):
        try:
            found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM) if name else []
        except OSError:
            continue
        for family, _, _, _, address in found:
            try:
                return socket.create_server(address, family=family)
            except OSError:
                continue  # a name of this host that is an address of none of its networks
    raise RuntimeError("rank 0 has no address to serve at: neither MASTER_ADDR, nor its host name, nor 127.0.0.1")


def _portable(error: Exception) -> Exception:
    """The error as another process can raise it, with the place where it was met."""
    error.add_note(f"met by rank {rank()}:\n{''.join(traceback.format_tb(error.__traceback__))}".rstrip())
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = None
    return copy if type(copy) is type(error) else RuntimeError(f"rank {rank()}: {type(error).__name__}: {error}")
