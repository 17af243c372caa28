"""What Ray runs: a run alone in a Tune trial, or as the ranks of a Train worker group."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.train
import torch
from ray import tune
from ray.train import FailureConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lacray import distributed, embedding
from lacray.config import ConfigError, UserError
from lacray.fit import NonFiniteError
from lacray.ops import backend_note
from lacray.results import SupersededError
from lacray.run import Progress, Run, execute

__all__ = ["Board", "Referee", "TrainingFailedError", "actor_here", "end_process", "new_scratch", "trainer", "trial"]

TELL_S = 10.0
"""Seconds between two words on how far an evaluation is; shorter ones pass in silence."""
MAX_FAILURES = 3
"""Times that a run is taken up again after its process, or one of its ranks, was lost."""


def trial(params: dict[str, Any]) -> dict[str, Any] | None:
    """A Tune trial; its parameters: `run`, a `Run` in plain values, `scratch`, where Ray may keep its own files, and
    `referee`, the name of the actor that ends trials of several workers early.

    Reports every epoch, after one at its start that says which processes do the work.
    """
    run = Run(**params["run"])
    if run.workers > 1:
        return _nested(run, params["scratch"], params["referee"])
    device = torch.device("cuda" if run.gpus_per_worker else "cpu")
    return follow(run, device, tune.report)


def follow(
    run: Run,
    device: torch.device,
    report: Callable[[dict[str, Any]], None],
    stops: Callable[[], bool] = lambda: False,
    evaluating: embedding.Progress | None = None,
) -> dict[str, Any] | None:
    """Execute a run and report it.

    Args:
        report: called by every rank after every epoch, and at the start.
        stops: whether the run is to end early; asked by rank 0 at the start and after every epoch.
        evaluating: as `run.execute` calls it.

    Returns:
        None, or how it ended where no further try could end otherwise: `ended` (`failed`: this setting's own fault, it
        diverged or no run can have it; `refused`: what keeps any run of the study from training) and `error`. Raised,
        it would be tried again.
    """
    torch.set_num_threads(run.cpus_per_worker)
    here = (ray.get_runtime_context().get_node_id(), os.getpid())
    report({"epoch": 0, "processes": distributed.all_gather(here), "note": backend_note(device)})
    if distributed.from_first(stops):
        # A rank was lost in its last epoch: begun again, without its checkpoint, it would write over its rows.
        return None
    try:
        for progress in execute(run, device=device, evaluating=evaluating):
            report(as_result(progress))
            if distributed.from_first(stops):
                return None
    except (NonFiniteError, ConfigError) as error:
        return {"ended": "failed", "error": "; ".join(error.problems)}
    except SupersededError:
        # A process that was thought lost still writes; the next try begins from what it has written.
        raise
    except UserError as error:
        return {"ended": "refused", "error": str(error)}
    return None


def as_result(progress: Progress) -> dict[str, Any]:
    """Plain values: metrics under their own names."""
    note = {"note": progress.note} if progress.note else {}
    return {"epoch": progress.epoch, "loss": progress.loss, "seconds": progress.seconds, **note, **progress.metrics}


def _nested(run: Run, scratch: str, referee: str) -> dict[str, Any] | None:
    """A trial of several workers: Train inside Tune.

    Stopped early, it ends by itself: were its process ended, what Train has started would live on and keep the CPUs,
    until Ray's own clean-up finds it, and that fails where a second Ray runs on the machine.
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    outcome: dict[str, Any] | None = (
        trainer(run, scratch, callbacks=[TuneReportCallback()], referee=referee).fit().return_value  # type: ignore[attr-defined]
    )
    return outcome


def trainer(
    run: Run, scratch: str, *, callbacks: list[Any] | None = None, board: Any = None, referee: str | None = None
) -> TorchTrainer:
    """The Train job of a run: `run.workers` ranks, started again where one was lost; Ray keeps no checkpoint of it.

    Args:
        scratch: a directory for Ray's own files.
        callbacks: of Train's controller.
        board: a `Board` actor that is told of every epoch.
        referee: name of a `Referee` actor that may end it early.
    """
    use_gpu = run.gpus_per_worker > 0
    resources: dict[str, float] = {"CPU": run.cpus_per_worker}
    if use_gpu:
        resources["GPU"] = run.gpus_per_worker
    # NCCL wants a device per rank; ranks that share one talk through gloo.
    backend = "nccl" if use_gpu and run.gpus_per_worker >= 1 else "gloo"
    return TorchTrainer(
        train_loop,  # type: ignore[arg-type]
        train_loop_config={"run": run.as_dict(), "board": board, "referee": referee},
        torch_config=TorchConfig(backend=backend),
        scaling_config=ScalingConfig(num_workers=run.workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=ray.train.RunConfig(
            # Ray would answer the name of a run that it knows with its old result.
            name=f"{run.run_id}-{uuid.uuid4().hex[:8]}",
            storage_path=scratch,
            # A worker group that cannot be set up would leave its resources taken and be waited for without end.
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES),  # type: ignore[call-arg]
            callbacks=callbacks,
        ),
    )


def train_loop(values: dict[str, Any]) -> dict[str, Any] | None:
    """What every rank of a Train worker group runs."""
    run, board = Run(**values["run"]), values["board"]
    device = torch.device(get_device()) if run.gpus_per_worker else torch.device("cpu")

    def report(result: dict[str, Any]) -> None:
        if board is not None and distributed.is_first():
            board.put.remote(result)
        ray.train.report(result)

    if values["referee"] is None:
        return follow(run, device, report, evaluating=_Evaluating(board) if board is not None else None)
    referee: Any = ray.get_actor(values["referee"]) if distributed.is_first() else None
    return follow(run, device, report, lambda: bool(ray.get(referee.stops.remote(run.trial))))


class _Evaluating:
    """Tells a board how far a long evaluation of rank 0's is."""

    def __init__(self, board: Any) -> None:
        self.board = board
        self._told, self._done = time.monotonic(), 0

    def __call__(self, done: int, total: int) -> None:
        if done <= self._done:
            # Another evaluation has begun.
            self._told = time.monotonic()
        self._done = done
        if distributed.is_first() and time.monotonic() - self._told > TELL_S:
            self._told = time.monotonic()
            self.board.put.remote({"evaluated": done, "of": total})


class Referee:
    """An actor that knows which trials are to end early."""

    def __init__(self) -> None:
        self._stopped: set[int | None] = set()

    def stop(self, trial: int) -> None:
        self._stopped.add(trial)

    def stops(self, trial: int | None) -> bool:
        return trial in self._stopped


class Board:
    """An actor between a run's rank 0 and who watches it: Train's callbacks live in a process without a terminal."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []

    def put(self, result: dict[str, Any]) -> None:
        self.results.append(result)

    def take(self) -> list[dict[str, Any]]:
        taken, self.results = self.results, []
        return taken


def actor_here(kind: type, name: str | None = None) -> Any:
    """A new actor on this node, which is lost with it and no other: Ray alone puts one that needs no CPU anywhere."""
    where = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(kind).options(name=name, scheduling_strategy=where).remote()


def new_scratch() -> Path:
    """A new directory on this machine for what Ray keeps of a study or a training; nothing in it is needed later."""
    return Path(tempfile.mkdtemp(prefix="lacray-ray-"))


def end_process(pid: int) -> None:
    """End a process of this machine that no longer answers, if it is still one of Ray's."""
    try:
        if any("ray::" in word for word in psutil.Process(pid).cmdline()):
            os.kill(pid, signal.SIGKILL)
    except (psutil.Error, ProcessLookupError):
        return
