"""The trials of a study as its rows tell them and as they go on: one record that all who follow a study share."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from lacray.config import ConfigError, column_value
from lacray.results.place import STUDY_PATIENCE
from lacray.study.space import VARIANT, Space

REDUCTION = 3
"""Early stopping keeps the best third at each of its looks."""
LATEST = datetime.max.replace(tzinfo=UTC)
OVER = ("done", "pruned", "failed")
# A trial counts as hanging after this many times the longest silence that any trial broke, and never before a while:
# it may be waiting for the place of the results.
PATIENCE, MIN_SILENCE_S, FIRST_SILENCE_S = 10.0, STUDY_PATIENCE + 120.0, 3600.0


def run_name(number: int) -> str:
    """The run of a trial."""
    return f"trial-{number:04d}"


@dataclass
class Trial:
    """One trial: a setting, and what has become of it."""

    number: int
    params: dict[str, Any]
    """What is searched, the variant included."""
    epochs: int
    """Of its own setting."""
    state: str = "waiting"
    """`waiting`, `running`, or how it ended: `done`, `pruned`, `failed`."""
    epoch: int = 0
    values: dict[int, float] = field(default_factory=dict)
    """The study's metric, by epoch."""
    times: dict[int, datetime] = field(default_factory=dict)
    """When these were recorded; what was heard by this driver has no time, and is later than all that has."""
    losses: dict[int, float] = field(default_factory=dict)
    error: str | None = None
    is_final: bool = True
    """Whether trying it again could not end otherwise; a trial that was lost is tried again by `--resume`."""
    processes: list[tuple[str, int]] = field(default_factory=list)
    """Node and process of each rank."""
    heard: float = 0.0
    """When it last gave a sign of life, or was handed out, on a monotonic clock; 0: it is not being run."""

    def show_life(self, result: Mapping[str, Any], now: float) -> None:
        """It has reported, from the processes that it names."""
        self.heard = now
        self.processes = [tuple(process) for process in result.get("processes") or self.processes]

    def copy(self) -> Trial:
        """As it is now, for another thread."""
        return replace(self, params=dict(self.params), values=dict(self.values), losses=dict(self.losses))

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def value(self) -> float | None:
        """The latest value of the metric."""
        return self.values[max(self.values)] if self.values else None


class Trials:
    """All trials of a study, by number.

    Args:
        every: epochs between two looks of early stopping at the least; None: no trial is stopped early.
    """

    def __init__(self, trials: Iterable[Trial] = (), *, every: int | None = None) -> None:
        self._all = {trial.number: trial for trial in trials}
        self.every = every
        self.longest_silence: float | None = None
        self._was_evaluated = False
        self._heard: set[int] = set()

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._all[number] for number in sorted(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, number: int) -> Trial:
        return self._all[number]

    def __contains__(self, number: object) -> bool:
        return number in self._all

    def add(self, trial: Trial) -> Trial:
        self._all[trial.number] = trial
        return trial

    def count(self, *states: str) -> int:
        return sum(trial.state in states for trial in self)

    def best(self) -> Trial | None:
        """The finished trial with the highest value, of equals the earlier; while none is finished, of all others."""
        scored = [trial for trial in self if trial.value is not None and trial.state != "failed"]
        scored = [trial for trial in scored if trial.state == "done"] or scored
        return max(scored, key=lambda trial: (trial.value, -trial.number), default=None)

    def hear(self, number: int, result: Mapping[str, Any], metric: str, now: float) -> Trial:
        """Note what a trial reports of an epoch."""
        trial = self[number]
        if trial.state == "running" and trial.heard and result["epoch"] > 0:
            self.longest_silence = max(self.longest_silence or 0.0, now - trial.heard)
            self._heard.add(number)
        trial.state = "running"
        trial.show_life(result, now)
        trial.epoch = max(trial.epoch, result["epoch"])
        value = result.get(metric)
        self._was_evaluated |= value is not None
        if isinstance(value, int | float) and math.isfinite(value):
            trial.values[result["epoch"]] = float(value)
        loss = result.get("loss")
        if isinstance(loss, int | float) and math.isfinite(loss):
            trial.losses[result["epoch"]] = float(loss)
        return trial

    def take_idle_processes(self) -> list[tuple[str, int]]:
        """Node and process of trials that are over, unless another trial has reported from it; each is told once."""
        busy = {process for trial in self if trial.state == "running" for process in trial.processes}
        idle: dict[tuple[str, int], None] = {}
        for trial in self:
            if trial.is_over:
                idle |= dict.fromkeys(process for process in trial.processes if process not in busy)
                trial.processes = []
        return list(idle)

    def silence_limit(self, number: int) -> tuple[float, str]:
        """Seconds without a sign of life after which a trial counts as hanging, and why so many, in words."""
        # Epochs alone say nothing of how long an evaluation takes: minutes, where the videos are long. Nor does one
        # trial of another, whose encoder may be fifty times as large; before it runs that does not matter.
        is_known = number in self._heard or self[number].state != "running"
        if self.longest_silence is None or not self._was_evaluated or not is_known:
            return FIRST_SILENCE_S, "nobody knows yet how long an epoch of it takes"
        least = f"{MIN_SILENCE_S:.0f} s at least"
        return max(MIN_SILENCE_S, PATIENCE * self.longest_silence), f"ten times the longest silence so far, {least}"

    def should_stop(self, number: int, epoch: int) -> bool:
        """Whether a trial is stopped early on its value at an epoch: asynchronous successive halving.

        A look is at epochs every, 3 every, 9 every, ...: a trial's value there is that of its first evaluation at or
        after it, and it goes on if no worse than the best third of the values that the look has already.
        What is decided depends on recorded values alone, and on those that were there when this one was, so that a
        study taken up again decides as before.
        Source: Li et al., A System for Massively Parallel Hyperparameter Tuning (arXiv 1810.05934).
        """
        trial = self[number]
        if self.every is None or epoch >= trial.epochs or epoch not in trial.values:
            return False
        look = self._look(epoch)
        if look is None or _at(trial, look) != epoch:
            return False
        now = trial.times.get(epoch, LATEST)
        others = [(other, _at(other, look)) for other in self if other.number != number]
        values = [other.values[at] for other, at in others if at is not None and other.times.get(at, LATEST) <= now]
        return bool(values) and trial.values[epoch] < float(np.percentile(values, (1 - 1 / REDUCTION) * 100))

    def _look(self, epoch: int) -> int | None:
        """The last look that an epoch has reached."""
        assert self.every is not None
        look = None
        at = self.every
        while at <= epoch:
            look, at = at, at * REDUCTION
        return look


def _at(trial: Trial, look: int) -> int | None:
    """The epoch whose value a trial has at a look: its first evaluation at or after it, before the next look."""
    return min((epoch for epoch in trial.values if look <= epoch < look * REDUCTION), default=None)


def recorded(rows: Iterable[Mapping[str, Any]], space: Space, *, given_up: Collection[str] = ()) -> list[Trial]:
    """The trials of a study from its rows (`results.read`), in order; those that were cut off are `waiting`.

    Args:
        given_up: runs whose end the driver wrote; a failure among them was not the setting's fault.
    """
    found: dict[int, Trial] = {}
    for row in rows:
        number = row["trial"]
        if row["stage"] != "tune" or row["control"] != "none" or number is None:
            continue
        if number not in found:
            found[number] = _from_row(number, row, space)
        trial = found[number]
        trial.epoch = max(trial.epoch, row["epoch"])
        value, loss = row.get(f"metric.{space.metric}"), row.get("part.total")
        if row["split"] == "validation" and value is not None:
            trial.values[row["epoch"]] = value
            trial.times[row["epoch"]] = row["time"]
        if loss is not None:
            trial.losses[row["epoch"]] = loss
        if row["status"] in OVER:
            trial.state, trial.error = row["status"], row["error"]
            trial.is_final = row["status"] != "failed" or row["run_id"] not in given_up
    return [found[number] for number in sorted(found)]


def changed_defaults(rows: Iterable[Mapping[str, Any]], space: Space) -> dict[str, tuple[Any, Any]]:
    """What a space leaves to the defaults and its trials had otherwise: key -> (theirs, the default now)."""
    # A row that a run has written, not one of its end alone, names its loss.
    runs = (row for row in rows if row["stage"] == "tune" and row["control"] == "none" and row.get("loss.name"))
    last = {row["variant"]: row for row in runs}
    found: dict[str, tuple[Any, Any]] = {}
    for variant, row in last.items():
        given = {*space.fixed, *space.search, *space.variants.get(variant, ())}
        with suppress(ConfigError):  # no run had a setting that there cannot be
            now = space.config(_from_row(0, row, space).params).flat()
            for key in now.keys() - given:
                if row.get(key) not in (None, column_value(now[key])):
                    found[key] = row[key], now[key]
    return found


def _from_row(number: int, row: Mapping[str, Any], space: Space) -> Trial:
    params = {key: _as_suggested(kind, row.get(key)) for key, kind in space.search.items()}
    if space.variants:
        params = {VARIANT: row["variant"], **params}
    return Trial(number, params, row["fit.epochs"])


def _as_suggested(kind: BaseDistribution, value: Any) -> Any:
    """A Parquet cell as Optuna suggested it: a column has one type, whatever its values' were."""
    if isinstance(kind, CategoricalDistribution):
        for choice in kind.choices:
            if value == column_value(choice) or (isinstance(value, str) and value == json.dumps(choice)):
                return choice
        return value
    return float(value) if isinstance(kind, FloatDistribution) else int(value)
