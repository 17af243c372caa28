"""What Ray runs: one setting, trained and written down, alone in a trial or as the ranks of a Train worker group."""

from __future__ import annotations

import math
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray import tune
from ray.train import FailureConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

import lacray
from lacray import fit
from lacray.config import Config, build, column_value
from lacray.data import FrameStore, VideoSet, open_videos
from lacray.fit import EpochEnd, Evaluation, NonFiniteError
from lacray.ops import backend_name
from lacray.results import RunWriter, store_checkpoint


@dataclass(frozen=True)
class Job:
    """One run, in plain values: it crosses from process to process."""

    values: dict[str, Any]
    """The setting, by dotted keys."""
    results: str
    study: str
    run_id: str
    stage: str
    """`tune` or `train`."""
    space: str | None = None
    selected_by: str | None = None
    variant: str | None = None
    trial: int | None = None
    commit: str | None = None
    workers: int = 1
    gpus_per_worker: float = 0
    cpus_per_worker: int = 1
    max_failures: int = 2
    keep_checkpoint: bool = False
    """Store the final checkpoint beside the rows."""
    with_controls: bool = False
    """Write the rows of the two controls too."""

    def config(self) -> Config:
        return build(self.values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def identity(job: Job, config: Config, device: torch.device, *, epoch: int, seed: int | None = None) -> dict[str, Any]:
    """The columns that say whose row it is."""
    settings = {key: column_value(value) for key, value in config.flat().items() if key != "seed"}
    return {
        "stage": job.stage,
        "space": job.space,
        "selected_by": job.selected_by,
        "variant": job.variant,
        "trial": job.trial,
        "seed": config.seed,
        "epoch": epoch,
        "status": "running",
        "control": "none",
        "commit": job.commit,
        "lacray_version": lacray.__version__,
        "torch_version": torch.__version__,
        "ray_version": ray.__version__,
        "python_version": platform.python_version(),
        "op_backend": backend_name(device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "world_size": job.workers,
        **settings,
    }


def rows_of(job: Job, config: Config, event: EpochEnd, device: torch.device) -> list[dict[str, Any]]:
    """An epoch's rows, one per split that was evaluated."""
    base = identity(job, config, device, epoch=event.epoch) | {
        "status": "done" if event.epoch == config.fit.epochs else "running",
        "seconds": event.seconds,
        "frames_per_second": event.frames_per_second,
        "peak_memory_bytes": event.peak_memory_bytes,
        **{f"part.{name}": value for name, value in event.parts.items()},
        **event.diagnostics,
    }
    return [{**base, **metric_columns(evaluation)} for evaluation in event.evaluations]


def metric_columns(evaluation: Evaluation) -> dict[str, Any]:
    return {"split": evaluation.split, **{f"metric.{name}": value for name, value in evaluation.metrics.items()}}


def write_controls(job: Job, device: torch.device, store: FrameStore | None = None) -> None:
    """The rows of the untrained encoder and of positions alone, as runs of their own, beside those of `job`."""
    config, videos = job.config(), _videos(job)
    splits = ["validation"] if videos.held else []
    if config.evaluation.report_split or not splits:
        splits.append("val")
    for control in ("untrained", "positions"):
        rows = []
        for split in splits:
            evaluation = fit.control(config, videos, control, split, device=device, store=store)
            columns = identity(job, config, device, epoch=0) | {"status": "done", "control": control}
            rows.append({**columns, **metric_columns(evaluation)})
        RunWriter(job.results, job.study, f"{job.run_id}-{control}").append(rows)


def controls_task(values: dict[str, Any]) -> None:
    """`write_controls` as a Ray task."""
    torch.set_num_threads(1)
    write_controls(Job(**values), torch.device("cpu"))


def run(job: Job, directory: Path, *, device: torch.device, resume: Path | None = None) -> Iterator[EpochEnd]:
    """`fit` with its rows written as they come; rank 0 writes.

    Raises:
        NonFiniteError: after the run's rows were closed with status `failed`; its last good row stays.
    """
    config, videos = job.config(), _videos(job)
    store = _store(config.data.model_dump_json())
    is_writer = not dist.is_initialized() or dist.get_rank() == 0
    done = fit.read_checkpoint(resume)["epoch"] if resume is not None else None
    writer = RunWriter(job.results, job.study, job.run_id, resume_epoch=done) if is_writer else None
    if writer is not None and job.with_controls and done is None:
        write_controls(job, device, store)
    last = done or 0
    try:
        for event in fit.fit(config, videos, directory, device=device, resume=resume, store=store):
            last = event.epoch
            if writer is not None and event.evaluations:
                writer.append(rows_of(job, config, event, device))
                if job.keep_checkpoint and event.epoch == config.fit.epochs:
                    store_checkpoint(job.results, job.study, job.run_id, event.checkpoint)
            yield event
    except NonFiniteError as error:
        if writer is not None:
            writer.append([identity(job, config, device, epoch=last) | {"status": "failed", "error": str(error)}])
        raise


@lru_cache(maxsize=2)
def _store(data: str) -> FrameStore:
    """Decoded frames outlive a trial: Tune runs the next one in the same process."""
    from lacray.config import DataConfig

    return FrameStore(DataConfig.model_validate_json(data))


def _videos(job: Job) -> VideoSet:
    return open_videos(job.config().data)


def trial(params: dict[str, Any]) -> dict[str, Any] | None:
    """A Tune trial; its parameters: `job` (what all trials share), `trial` (the number), and what is searched."""
    job = trial_job(params)
    if job.workers > 1:
        return _nested(job)
    torch.set_num_threads(job.cpus_per_worker)
    device = torch.device("cuda" if job.gpus_per_worker else "cpu")
    checkpoint = tune.get_checkpoint()
    with tempfile.TemporaryDirectory() as scratch, checkpoint.as_directory() if checkpoint else nullcontext() as saved:
        resume = Path(saved) / "last.pt" if saved else None
        try:
            for event in run(job, Path(scratch), device=device, resume=resume):
                if event.evaluations:
                    tune.report(summary(event), checkpoint=tune.Checkpoint.from_directory(scratch))
        except NonFiniteError as error:
            # No exception: Tune would try again what cannot end otherwise.
            return {"failed": True, "error": str(error)}
    return None


def trial_job(params: dict[str, Any]) -> Job:
    """The run that a trial's parameters name."""
    searched = {key: value for key, value in params.items() if key not in ("job", "trial", "variant", "variants")}
    variant = params.get("variant")
    job = Job(**params["job"])
    values = {**job.values, **(params["variants"][variant] if variant is not None else {}), **searched}
    return replace(job, values=values, variant=variant, trial=params["trial"], run_id=f"trial-{params['trial']:04d}")


def summary(event: EpochEnd) -> dict[str, Any]:
    """What Tune and its schedulers see of an epoch: numbers of the selection split."""
    return {"epoch": event.epoch, "seconds": event.seconds, **event.evaluations[0].metrics}


def _nested(job: Job) -> dict[str, Any] | None:
    """A trial of several workers: Train inside Tune."""
    from ray.tune.integration.ray_train import TuneReportCallback

    outcome = trainer(job, callbacks=[TuneReportCallback()]).fit().return_value  # type: ignore[attr-defined]
    return outcome if outcome and outcome.get("failed") else None


def trainer(job: Job, *, callbacks: list[Any] | None = None, board: Any = None) -> TorchTrainer:
    """The Train job of a run: `job.workers` ranks, checkpoints after every epoch, restarted on failures.

    Args:
        callbacks: of Train's controller.
        board: a `progress.Board` actor that is told of every epoch.
    """
    use_gpu = job.gpus_per_worker > 0
    resources: dict[str, float] = {"CPU": job.cpus_per_worker}
    if use_gpu:
        resources["GPU"] = job.gpus_per_worker
    # NCCL wants a device per rank; ranks that share one talk through gloo.
    backend = "nccl" if use_gpu and job.gpus_per_worker >= 1 else "gloo"
    return TorchTrainer(
        train_loop,  # type: ignore[arg-type]
        train_loop_config={"job": job.as_dict(), "board": board},
        torch_config=ray.train.torch.TorchConfig(backend=backend),
        scaling_config=ScalingConfig(num_workers=job.workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=ray.train.RunConfig(
            name=job.run_id,
            storage_path=ray_storage(job.results, job.study),
            failure_config=FailureConfig(max_failures=job.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=callbacks,
        ),
    )


def ray_storage(results: str, study: str) -> str:
    """Where Ray keeps its own files of a study: beside the rows, in a directory that readers pass over."""
    if "://" in results:
        return f"{results.rstrip('/')}/.ray/{study}"
    return str(Path(results).expanduser().resolve() / ".ray" / study)


def train_loop(values: dict[str, Any]) -> dict[str, Any]:
    """What every rank of a Train worker group runs."""
    job, board = Job(**values["job"]), values["board"]
    torch.set_num_threads(job.cpus_per_worker)
    device = torch.device(get_device()) if job.gpus_per_worker else torch.device("cpu")
    rank = ray.train.get_context().get_world_rank()
    checkpoint = ray.train.get_checkpoint()
    last: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch, checkpoint.as_directory() if checkpoint else nullcontext() as saved:
        resume = Path(saved) / "last.pt" if saved else None
        try:
            for event in run(job, Path(scratch), device=device, resume=resume):
                metrics: dict[str, Any] = {"epoch": event.epoch, "seconds": event.seconds, "loss": event.parts["total"]}
                if event.evaluations:
                    metrics |= summary(event)
                    last = event.evaluations[-1].metrics
                if board is not None and rank == 0:
                    board.put.remote(metrics)
                saved_now = ray.train.Checkpoint.from_directory(scratch) if rank == 0 else None
                ray.train.report(metrics, checkpoint=saved_now)
        except NonFiniteError as error:
            return {"failed": True, "error": str(error)}
    return last


def set_ray_environment() -> None:
    """Settings that Ray reads from the environment; call before `ray.init`."""
    defaults = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # report() waits for the controller's next look, every 2 s else
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed by NaN ends without the metric
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "5",
        "RAY_TRAIN_V2_ENABLED": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
