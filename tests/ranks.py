"""Processes of one gloo group, as the ranks of a run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def start_ranks(target: Callable[..., None], folder: Path, *arguments: Any, num: int = 2) -> list[Any]:
    """Start `target(rank, folder, *arguments)` in `num` processes, which import torch once for all tests."""
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lacray.fit"])
    processes = [context.Process(target=target, args=(rank, folder, *arguments)) for rank in range(num)]
    for process in processes:
        process.start()
    return processes


def ended(processes: list[Any], *, seconds: float = 300) -> list[int | None]:
    """Exit codes once all have ended; None for one that has not by then, which is killed."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(timeout=max(0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def run_ranks(work: Callable[..., dict[str, Any]], folder: Path, *arguments: Any, num: int = 2) -> list[dict[str, Any]]:
    """What `work(rank, folder, *arguments)` returns on each rank of a gloo group.

    Raises:
        AssertionError: with the traceback of a rank that raised.
    """
    codes = ended(start_ranks(_in_group, folder, work, num, *arguments, num=num))
    assert None not in codes, f"ranks that never ended: {codes}"
    told = [torch.load(folder / f"told{rank}.pt", weights_only=False) for rank in range(num)]
    for one in told:
        assert "error" not in one, one["error"]
    return told


def _in_group(rank: int, folder: Path, work: Callable[..., dict[str, Any]], num: int, *arguments: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num)
    try:
        told = work(rank, folder, *arguments)
    except Exception:
        told = {"error": traceback.format_exc()}
    torch.save(told, folder / f"told{rank}.pt")
    dist.destroy_process_group()
