"""Which rows may be averaged: a cell is one setting on one set of videos, evaluated in one way.

Its runs differ in the seed alone. Rows that differ in anything else that changes what comes out (data, encoder, loss,
training, evaluation, split) are never averaged; the controls beside a cell are those of the same videos, encoder and
evaluation, and of its seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacray.results import COMPUTING, SECTIONS, control_setting

Row = dict[str, Any]
Key = tuple[tuple[str, str], ...]

CONTROLS = {"untrained": "untrained encoder", "positions": "positions only"}
VIDEOS = "data.root"
ALONE = "each alone"
"""In the place of `data.action`: the mean over actions that were each trained by themselves."""


@dataclass(frozen=True)
class Cell:
    """Runs of one key, one a seed; a control's that never ran has none."""

    runs: tuple[Row, ...]
    control: str = "none"
    averaged: tuple[Row, ...] = ()
    """Of a mean over actions, the runs that it is the mean of."""

    @property
    def seeds(self) -> list[Any]:
        return [run["seed"] for run in self.runs]

    @property
    def row(self) -> Row:
        """Any of its runs: what is no metric is the same in all."""
        return self.runs[0]

    def values(self, column: str) -> dict[Any, float]:
        """Seed -> what its run has in a column, where it has something."""
        found = {run["seed"]: run.get(column) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}


def settings_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a row by their dotted keys; what is null is left out."""
    return {name: value for name, value in row.items() if name.startswith(SECTIONS) and value is not None}


def key_of(row: Mapping[str, Any]) -> Key:
    """What rows must share to be averaged."""
    settings = {name: value for name, value in settings_of(row).items() if name not in COMPUTING}
    return _frozen({**settings, VIDEOS: _videos(row), "control": row["control"], "split": row["split"]})


def control_key_of(row: Mapping[str, Any]) -> Key:
    """What a run and its controls share, but for the seed."""
    setting = {name: value for name, value in control_setting(row).items() if name not in ("seed", *COMPUTING)}
    if row["split"] == "val":
        # An untrained encoder's classifiers learn from the whole train split there.
        setting.pop("data.validation_share", None)
    return _frozen({**setting, VIDEOS: _videos(row), "split": row["split"]})


def cells(rows: Iterable[Row]) -> list[Cell]:
    """The finished runs of each key, the latest of each seed, in order of their first rows."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key_of(row), []).append(row)
    made = [Cell(tuple(one_per_seed(same)), same[0]["control"]) for same in groups.values()]
    return [cell for cell in made if cell.runs]


def controls_of(measured: Iterable[Cell], rows: Iterable[Row]) -> list[Cell]:
    """The controls that stand beside cells: of the same key and the same seeds.

    Args:
        measured: cells of runs.
        rows: of controls, of any key.

    Returns:
        For each control and each key that the cells have one cell, empty where it was not scored.
    """
    seeds: dict[Key, set[Any]] = {}
    for cell in measured:
        seeds.setdefault(control_key_of(cell.row), set()).update(cell.seeds)
    known: dict[tuple[Key, str], list[Row]] = {}
    for row in rows:
        key = control_key_of(row)
        if row["seed"] in seeds.get(key, ()):
            known.setdefault((key, row["control"]), []).append(row)
    return [Cell(tuple(one_per_seed(known.get((key, control), []))), control) for control in CONTROLS for key in seeds]


def one_per_seed(rows: Iterable[Row]) -> list[Row]:
    """The latest finished run of each seed, by seed."""
    latest: dict[Any, Row] = {}
    for row in rows:
        earlier = latest.get(row["seed"])
        # Of equals, and of those that nobody has dated, the later in the table.
        is_later = earlier is None or earlier["time"] is None or (row["time"] or earlier["time"]) >= earlier["time"]
        if row["status"] == "done" and is_later:
            latest[row["seed"]] = row
    return [latest[seed] for seed in sorted(latest, key=lambda seed: (seed is None, seed))]


def differences(one: Cell, other: Cell, column: str) -> list[float]:
    """The one less the other in each seed that both have."""
    ours, theirs = one.values(column), other.values(column)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def mean_over_actions(trained_alone: Sequence[Cell]) -> Cell | None:
    """Cells of trainings on one action each as one: the mean over the actions in each seed that all of them have.

    Args:
        trained_alone: one cell an action, else of the same key.

    Returns:
        None where no seed was trained on all of them.
    """
    runs: list[Row] = []
    averaged: list[Row] = []
    for seed in trained_alone[0].seeds:
        same = [run for cell in trained_alone for run in cell.runs if run["seed"] == seed]
        if len(same) < len(trained_alone):
            continue
        averaged += same
        metrics = [name for name in same[0] if name.startswith("metric.")]
        known = {name: [run.get(name) for run in same] for name in metrics}
        means = {name: sum(v) / len(v) for name, v in known.items() if None not in v}  # type: ignore[arg-type]
        runs.append({**{k: v for k, v in same[0].items() if k not in metrics}, **means, "data.action": ALONE})
    return Cell(tuple(runs), trained_alone[0].control, tuple(averaged)) if runs else None


def varying(rows: Sequence[Row]) -> list[str]:
    """The settings that differ between rows; a setting that some rows lack does not count."""
    settings = [settings_of(row) for row in rows]
    shared = [name for name in (settings[0] if settings else {}) if all(name in own for own in settings)]
    return [name for name in shared if len({json.dumps(own[name]) for own in settings}) > 1]


def dataset_of(row: Mapping[str, Any]) -> str:
    """The data set's name as `data.root` gives it."""
    root = str(row.get(VIDEOS) or "unknown data")
    return Path(root.rstrip("/")).name or root


def _videos(row: Mapping[str, Any]) -> str:
    """Which videos: their folder's name and their checksum, or, of rows without one, the folder's whole path."""
    return f"{dataset_of(row)} {row['videos']}" if row.get("videos") else str(row.get(VIDEOS))


def _frozen(values: Mapping[str, Any]) -> Key:
    return tuple(sorted((name, json.dumps(value, default=str)) for name, value in values.items()))
