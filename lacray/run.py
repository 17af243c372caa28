"""One run: a setting -> rows and a checkpoint, going on by itself from where it stood. Needs no Ray.

Under torch.distributed every rank executes the run and sees the same; rank 0 alone reads and writes results.

A run's rows for an epoch are written before the checkpoint of that epoch, and "done" after both, so a run that is cut
off anywhere goes on from its checkpoint, with the rows up to it.
"""

from __future__ import annotations

import math
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import lacray
from lacray import checkpoint, distributed, embedding, fit
from lacray.apply.calibration import calibrate
from lacray.checkpoint import CheckpointError
from lacray.config import Config, DataConfig, build, column_value
from lacray.data import DataError, FrameStore, VideoSet, open_videos
from lacray.data.videoset import videos_setting
from lacray.embedding import Evaluation
from lacray.fit import EpochEnd, NonFiniteError
from lacray.ops import backend_name, backend_note
from lacray.results import (
    Place,
    ResultsError,
    RunWriter,
    checkpoint_uri,
    differences,
    fetch_checkpoint,
    manifest_exists,
    read_manifest,
    remove_checkpoint,
    remove_run,
    store_checkpoint,
)

CONTROLS = ("untrained", "positions")
# Of a run's time, what its checkpoints may take at most: short epochs need not each be kept.
CHECKPOINT_SHARE = 0.1


@dataclass(frozen=True)
class Run:
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
    """The metric that the study maximises."""
    variant: str | None = None
    trial: int | None = None
    commit: str | None = None
    workers: int = 1
    gpus_per_worker: float = 0
    cpus_per_worker: int = 1
    keep_checkpoint: bool = False
    """Keep the last state beside the rows when the run is over."""
    controls: dict[str, Any] = field(default_factory=dict)
    """To be scored before the run, where their rows are missing: `run_id`, the prefix of theirs, and `values`."""

    def config(self) -> Config:
        return build(self.values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Progress:
    """What a run has to say after an epoch, and once more when it is over."""

    epoch: int
    loss: float
    metrics: dict[str, float]
    """Of the split that is selected on; empty where the epoch was not evaluated."""
    seconds: float
    """Spent training so far."""
    note: str | None = None
    """What a user must hear of it."""


def execute(run: Run, *, device: torch.device, evaluating: embedding.Progress | None = None) -> Iterator[Progress]:
    """Train a run, or go on with it; yields after every epoch, when what it gave is stored.

    A run that was over before yields its last epoch alone.

    Args:
        evaluating: of this rank's evaluations, called with the frames encoded and those in all.

    Raises:
        NonFiniteError: after the run's rows were closed with status `failed`.
        UserError: what keeps this run from training at all: data, checkpoint, results.
    """
    config = run.config()
    fit.check_batch(config, distributed.world_size())
    place = Place(run.results)
    over = distributed.from_first(lambda: _outcome(place, run))
    if over is not None:
        yield over
        return
    videos = _opened(run, config)
    store = _store(config.data.model_dump_json())
    if run.controls:
        _score_controls(run, config, place, videos, device, evaluating)
    with tempfile.TemporaryDirectory(prefix="lacray-") as scratch:
        state, why_anew = distributed.from_first(lambda: _last_state(place, run, Path(scratch)))
        if state is not None:
            anew = "--again" if run.stage == "train" else "under another name"
            distributed.agree(_other_videos(state["videos"], videos, f"run {run.run_id}", anew))
        record = _Record(place, run, config, videos, device, Path(scratch), state, why_anew)
        distributed.from_first(record.begin)
        if state is not None and state["epoch"] >= config.fit.epochs:
            # It was cut off between its last checkpoint and its last word.
            yield distributed.from_first(record.close)
            return
        try:
            for event in fit.fit(config, videos, device=device, state=state, store=store, progress=evaluating):
                # Storing may take long (S3 away): nobody waits for it in a collective.
                yield distributed.from_first(lambda event=event: record.add(event))  # type: ignore[misc]
        except NonFiniteError as error:
            reason = str(error)
            distributed.from_first(lambda: record.fail(reason))
            raise


class _Record:
    """What rank 0 keeps of a run in the results, in the order that survives being cut off anywhere."""

    def __init__(
        self,
        place: Place,
        run: Run,
        config: Config,
        videos: VideoSet,
        device: torch.device,
        scratch: Path,
        state: dict[str, Any] | None,
        why_anew: str | None,
    ) -> None:
        self.place, self.run, self.config, self.videos, self.device = place, run, config, videos, device
        self.why_anew = why_anew
        self.path = scratch / "state.pt"
        self.epoch = state["epoch"] if state is not None else None
        self.writer: RunWriter | None = None
        self._stored, self._cost = time.monotonic(), 0.0

    def begin(self) -> None:
        """Drops what was written after the checkpoint; a run's first row says that it has begun, and with what."""
        self.writer = RunWriter(self.place, self.run.study, self.run.run_id, keep_until=self.epoch)
        if not self.writer.rows:
            self.writer.append([self._row(0)])

    def add(self, event: EpochEnd) -> Progress:
        assert self.writer is not None
        is_last = event.epoch == self.config.fit.epochs
        kept = is_last and self.run.keep_checkpoint
        base = self._row(event.epoch) | {
            "status": "done" if is_last and not kept else "running",
            "seconds": event.seconds,
            "frames_per_second": event.frames_per_second,
            "peak_memory_bytes": event.peak_memory_bytes,
            **{f"part.{name}": value for name, value in event.parts.items()},
            **event.diagnostics,
        }
        found = [base | _columns(self.videos, self.device, evaluation) for evaluation in event.evaluations]
        self.writer.append(found or [base])
        self._check_study()
        if kept:
            # With these weights in one file, so that the one is never read without the other.
            self._store(event, self._calibration(event))
            self.writer.mark("done")
        elif is_last:
            remove_checkpoint(self.place, self.run.study, self.run.run_id)
        elif time.monotonic() - self._stored >= self._cost / CHECKPOINT_SHARE:
            self._store(event)
        metrics = event.evaluations[0].metrics if event.evaluations else {}
        note = self.why_anew if event.epoch == 1 else None
        return Progress(event.epoch, event.parts["total"], metrics, event.seconds, note)

    def _check_study(self) -> None:
        """A study that was deleted is not begun again by a trial of it, whose rows would be in the way of a new one."""
        assert self.writer is not None
        if self.writer.was_removed and self.run.stage == "tune" and not manifest_exists(self.place, self.run.study):
            remove_run(self.place, self.run.study, self.run.run_id)
            raise ResultsError(
                f"study {self.run.study}",
                f"its study.json and rows are gone from {self.run.results}",
                "restore the results, or begin anew",
            )

    def _calibration(self, event: EpochEnd) -> dict[str, Any]:
        """What the alignments of whoever uses the checkpoint will need; from the videos that were trained on."""
        assert event.state is not None
        trained = checkpoint.model_of(event.state, f"run {self.run.run_id}")
        trained.encoder.to(self.device)
        store = _store(self.config.data.model_dump_json())
        return calibrate(trained, self.videos.train, store=store, device=self.device).as_dict()

    def _store(self, event: EpochEnd, calibration: dict[str, Any] | None = None) -> None:
        assert event.state is not None
        started = time.monotonic()
        state = {**event.state, "calibration": calibration, "videos": self.videos.fingerprint()}
        checkpoint.save(state, self.path)
        store_checkpoint(self.place, self.run.study, self.run.run_id, self.path)
        self._stored = time.monotonic()
        self._cost = self._stored - started

    def close(self) -> Progress:
        assert self.writer is not None
        self.writer.mark("done")
        if not self.run.keep_checkpoint:
            remove_checkpoint(self.place, self.run.study, self.run.run_id)
        return _last_words(self.writer.rows)

    def fail(self, reason: str) -> None:
        assert self.writer is not None
        self.writer.mark("failed", reason)
        remove_checkpoint(self.place, self.run.study, self.run.run_id)

    def _row(self, epoch: int) -> dict[str, Any]:
        own = identity(self.run, self.config, self.videos, self.device, epoch=epoch)
        anew = [self.why_anew] if self.why_anew and epoch == 0 else []
        return own | {"notes": [*notes(self.videos, self.device), *anew] or None}


def identity(run: Run, config: Config, videos: VideoSet, device: torch.device, *, epoch: int) -> dict[str, Any]:
    """The columns that say whose row it is."""
    settings = {key: column_value(value) for key, value in config.flat().items() if key != "seed"}
    return {
        "stage": run.stage,
        "space": run.space,
        "selected_by": run.selected_by,
        "variant": run.variant,
        "trial": run.trial,
        "seed": config.seed,
        "epoch": epoch,
        "status": "running",
        "control": "none",
        "commit": run.commit,
        "lacray_version": lacray.__version__,
        "torch_version": torch.__version__,
        "ray_version": _version("ray"),
        "python_version": platform.python_version(),
        "op_backend": backend_name(device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "world_size": distributed.world_size(),
        "videos": videos.checksum(),
        **settings,
    }


def notes(videos: VideoSet, device: torch.device, evaluation: Evaluation | None = None) -> list[str]:
    """What a reader of a row has to know: what was left out, and what it was computed with."""
    slow = backend_note(device)
    left_out = [f"left out, {line}" for line in videos.unreadable]
    return [*([slow] if slow else []), *left_out, *(evaluation.notes if evaluation else [])]


def _columns(videos: VideoSet, device: torch.device, evaluation: Evaluation) -> dict[str, Any]:
    metrics = {f"metric.{name}": value for name, value in evaluation.metrics.items()} | evaluation.of_actions
    return {"split": evaluation.split, "notes": notes(videos, device, evaluation) or None, **metrics}


def _outcome(place: Place, run: Run) -> Progress | None:
    """The last words of a run that is over, by its own word or a packed file's; None where it is not."""
    rows = _rows(place, run.study, run.run_id)
    if not rows or rows[-1]["status"] not in ("done", "pruned", "failed"):
        return None
    if rows[-1]["status"] == "failed":
        raise NonFiniteError(rows[-1]["error"])
    return _last_words(rows)


def _last_words(rows: list[dict[str, Any]]) -> Progress:
    last = max(row["epoch"] for row in rows)
    own = next(row for row in rows if row["epoch"] == last)
    metrics = {key.removeprefix("metric."): value for key, value in own.items() if key.startswith("metric.")}
    return Progress(last, own.get("part.total", math.nan), metrics, own.get("seconds", 0.0))


def _last_state(place: Place, run: Run, scratch: Path) -> tuple[dict[str, Any] | None, str | None]:
    """What a run goes on from -> (state, why it begins anew though there is a checkpoint)."""
    path = fetch_checkpoint(place, run.study, run.run_id, scratch)
    if path is None:
        return None, None
    where = checkpoint_uri(run.results, run.study, run.run_id)
    try:
        state = checkpoint.read_checkpoint(path, where)
    except CheckpointError as error:
        return None, f"{error}; the run began anew"
    if not any(row["epoch"] == state["epoch"] for row in _rows(place, run.study, run.run_id)):
        # They are written before it: somebody has removed them since.
        told = f"is of epoch {state['epoch']}, and the rows up to it are gone"
        return None, f"checkpoint: {where} {told}; the run began anew"
    return state, None


def _opened(run: Run, config: Config) -> VideoSet:
    """The run's videos; a trial's are those that its study began with.

    Raises:
        DataError: on every rank, whichever found it.
    """
    videos = distributed.from_each(lambda: open_videos(config.data))
    distributed.agree(_unlike_the_first(videos))
    if run.stage == "tune":
        began_with = distributed.from_first(
            lambda: _videos_of_study(run.results, run.study, videos_setting(config.data))
        )
        distributed.agree(_other_videos(began_with, videos, f"study {run.study}", "under another name"))
    return videos


def _unlike_the_first(videos: VideoSet) -> DataError | None:
    """What differs from the videos of rank 0: `data.root` may be a folder of each node's own."""
    lines = differences(distributed.from_first(videos.fingerprint), videos.fingerprint())
    if not lines:
        return None
    shown = "; ".join([*lines[:3], *([f"... and {len(lines) - 3} more"] if len(lines) > 3 else [])])
    return DataError(
        f"{videos.root}: must hold the same videos on every node, got others on rank {distributed.rank()} than on rank "
        f"0: {shown}; give a folder that all nodes share"
    )


@lru_cache(maxsize=8)
def _videos_of_study(results: str, study: str, setting: str) -> dict[str, str] | None:
    """None: the study did not look at those of this setting, which lies between two that it looked at."""
    manifest = read_manifest(Place(results), study)
    return manifest["videos"].get(setting) if manifest is not None else None


def _other_videos(before: dict[str, str] | None, now: VideoSet, whose: str, anew: str) -> DataError | None:
    """What differs between the videos that something began with and those that are there now."""
    lines = differences(before, now.fingerprint()) if before is not None else []
    if not lines:
        return None
    shown = [*lines[:5], *([f"... and {len(lines) - 5} more"] if len(lines) > 5 else [])]
    return DataError(
        f"{now.root}: {whose} began with other videos, and its rows must stay comparable: {'; '.join(shown)}; "
        f"restore them and go on, or begin anew: {anew}"
    )


def _score_controls(
    run: Run,
    config: Config,
    place: Place,
    videos: VideoSet,
    device: torch.device,
    evaluating: embedding.Progress | None,
) -> None:
    """The rows of the untrained encoder and of positions alone, as runs of their own; all ranks embed."""
    own = build(run.controls["values"])
    store = _store(own.data.model_dump_json())
    if own.data != config.data:
        videos = open_videos(own.data)
    splits = ["validation"] if videos.held else []
    if own.evaluation.report_split or not splits:
        splits.append("val")
    for name in CONTROLS:
        run_id = f"{run.controls['run_id']}-{name}"
        if distributed.from_first(lambda run_id=run_id: _is_scored(place, run, run_id, videos)):  # type: ignore[misc]
            continue
        found = [
            embedding.control(own, videos, name, split, device=device, store=store, progress=evaluating)
            for split in splits
        ]
        base = identity(replace(run, variant=None, trial=None), own, videos, device, epoch=0)
        base |= {"status": "done", "control": name}
        rows = [base | _columns(videos, device, evaluation) for evaluation in found]
        distributed.from_first(
            lambda run_id=run_id, rows=rows: RunWriter(place, run.study, run_id, keep_until=None).append(rows)  # type: ignore[misc]
        )


def _is_scored(place: Place, run: Run, run_id: str, videos: VideoSet) -> bool:
    """Whether a control has rows of these videos: they may have changed since, where the run had no checkpoint yet."""
    rows = _rows(place, run.study, run_id)
    return bool(rows) and rows[0].get("videos") in (None, videos.checksum())


def _rows(place: Place, study: str, run_id: str) -> list[dict[str, Any]]:
    return RunWriter(place, study, run_id, keep_until=sys.maxsize).rows


@lru_cache(maxsize=2)
def _store(data: str) -> FrameStore:
    """Decoded frames outlive a run: Tune executes the next one in the same process."""
    return FrameStore(DataConfig.model_validate_json(data))


@lru_cache(maxsize=1)
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
