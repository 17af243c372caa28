"""Live progress: a study as a table of trials, a run as a bar; in a log, a line per trial and per epoch."""

from __future__ import annotations

import threading
import time
from typing import Any

import ray
from ray import tune
from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lacray.cli import console
from lacray.worker import is_finite, trial_job

STATES = {"PENDING": "waiting", "RUNNING": "running", "PAUSED": "paused"}


class StudyProgress(tune.Callback):
    """Draws the trials, the best so far and the time left.

    Args:
        name: of the study.
        total: trials of the study.
        epochs: of a full trial.
        metric: what is maximised.
        finished: trials that an earlier run of the study has finished.
    """

    def __init__(self, name: str, total: int, epochs: int, metric: str, finished: int = 0) -> None:
        self.name, self.total, self.epochs, self.metric, self.finished = name, total, epochs, metric, finished
        self.trials: list[Any] = []
        self._started, self._done_before = time.time(), 0.0
        self._over: set[str] = set()
        self._live: Live | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks; a terminal cannot be.
        return {**self.__dict__, "_live": None, "trials": []}

    def setup(self, *_: Any, **info: Any) -> None:
        self._started, self._done_before = time.time(), -1.0
        if console.is_terminal:
            self._live = Live(self.table(), console=console, refresh_per_second=2, transient=True)
            self._live.start()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.trials = trials
        if self._done_before < 0:
            # A study that was restored starts with trials that an earlier run has finished.
            self._done_before = self._epochs_done()
        if self._live is not None:
            self._live.update(self.table())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.trials = trials
        self._say(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.trials = trials
        self._say(trial)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self.trials = trials
        self.stop()

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _say(self, trial: Any) -> None:
        if self._live is not None:
            return
        value = trial.last_result.get(self.metric)
        number = trial.config.get("trial", "?")
        shown = f"{self.metric} {value:.4f} at epoch {trial.last_result['epoch']}" if is_finite(value) else "no metric"
        self._over.add(trial.trial_id)
        console.print(f"trial {number}: {outcome(trial, self.epochs)}, {shown}; {self.headline()}")

    def headline(self) -> str:
        # Tune calls back before it marks a trial as finished.
        over = sum(trial.is_finished() or trial.trial_id in self._over for trial in self.trials) + self.finished
        values = [trial.last_result.get(self.metric) for trial in self.trials]
        best = max((value for value in values if is_finite(value)), default=None)
        told = [f"{over} of {self.total} trials"]
        if best is not None:
            told.append(f"best {best:.4f}")
        left = self.time_left()
        if left is not None:
            told.append(f"about {left / 60:.1f} min left" if left >= 60 else f"about {left:.0f} s left")
        return ", ".join(told)

    def time_left(self) -> float | None:
        """Seconds, from the share of the study's epochs that is done; None before the first epoch."""
        done = self._epochs_done() - max(0.0, self._done_before)
        left = (self.total - self.finished) * self.epochs - self._epochs_done()
        if done <= 0 or left < 0:
            return None
        return (time.time() - self._started) * left / done

    def _epochs_done(self) -> float:
        return float(
            sum(self.epochs if trial.is_finished() else trial.last_result.get("epoch", 0) for trial in self.trials)
        )

    def table(self) -> Table:
        searched = sorted({key for trial in self.trials for key in trial.config if key not in NOT_SEARCHED})
        table = trial_table(
            f"study {self.name}: {self.headline()}", ["trial", "state", "epoch", self.metric, *searched]
        )
        ordered = sorted(self.trials, key=lambda trial: (trial.is_finished(), trial.config.get("trial", 0)))
        for trial in ordered[: max(4, console.height - 8)]:
            result = trial.last_result
            value = result.get(self.metric)
            table.add_row(
                str(trial.config.get("trial", "?")),
                state(trial, self.epochs),
                f"{result.get('epoch', 0)}/{self.epochs}",
                f"{value:.4f}" if is_finite(value) else "-",
                *(short(trial.config.get(key)) for key in searched),
            )
        return table


def trial_table(title: str, columns: list[str]) -> Table:
    """An empty table of trials that fits a narrow terminal: settings by their last word, broken at underscores."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        heading = column.rsplit(".", 1)[-1].replace("_", "\n")
        table.add_column(heading, justify="left" if column in ("state", "status") else "right", overflow="fold")
    return table


class Board:
    """An actor between a run's rank 0 and who watches it: Train's callbacks live in a process without a terminal."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []

    def put(self, epoch: dict[str, Any]) -> None:
        self.epochs.append(epoch)

    def take(self) -> list[dict[str, Any]]:
        taken, self.epochs = self.epochs, []
        return taken


class RunProgress:
    """Shows the epochs of a run while it trains; a context manager whose `board` the run's rank 0 writes to."""

    def __init__(self, name: str, epochs: int) -> None:
        self.name, self.epochs = name, epochs
        self.board: Any = ray.remote(num_cpus=0)(Board).remote()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> RunProgress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        ray.kill(self.board)

    def _watch(self) -> None:
        columns = (TextColumn(self.name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(self.name, total=self.epochs, told="starting")
            is_over = False
            while not is_over:
                is_over = self._over.wait(0.5)
                for epoch in ray.get(self.board.take.remote()):
                    told = f"loss {epoch['loss']:.4f}"
                    if "objective" in epoch:
                        told += f", objective {epoch['objective']:.4f}"
                    bar.update(task, completed=epoch["epoch"], told=told)
                    if not console.is_terminal:
                        console.print(f"{self.name}: epoch {epoch['epoch']}/{self.epochs}, {told}")


NOT_SEARCHED = ("job", "trial", "variants")


def outcome(trial: Any, epochs: int) -> str:
    """How a trial that is over ended, in the words of the results' status column."""
    if trial.status == "ERROR" or trial.last_result.get("failed"):
        return "failed"
    return "done" if trial.last_result.get("epoch", 0) >= epochs else "pruned"


def state(trial: Any, epochs: int) -> str:
    return outcome(trial, epochs) if trial.is_finished() else STATES.get(trial.status, trial.status.lower())


def run_id(trial: Any) -> str:
    return trial_job(trial.config).run_id


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
