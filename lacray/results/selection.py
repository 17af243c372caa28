"""Which row stands for a run, and which run for a study."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lacray.results.errors import ResultsError
from lacray.results.schema import ALLOWED, COMPUTING, TRAINING_DATA


def last_rows(table: pa.Table, **where: str) -> list[dict[str, Any]]:
    """Each run's last row, the run's status and all its seconds in it.

    Args:
        table: from `read`.
        where: column -> value that the row must have, such as split='validation', control='none'.

    Returns:
        One dict per (study, run_id, control) that has such a row: of those rows the one of the highest epoch (the
        later of equals), its `status` and `error` those of the run's very last row.
    """
    keys = list(zip(*(table[name].to_pylist() for name in ("study", "run_id", "control")), strict=True))
    epochs, fits = table["epoch"].to_pylist(), _fitting(table, where)
    # Only the rows that are asked for become objects: of many runs and epochs that is the smaller part.
    state: dict[tuple[Any, ...], int] = {}
    chosen: dict[tuple[Any, ...], int] = {}
    for position, key in enumerate(keys):
        if key not in state or epochs[position] >= epochs[state[key]]:
            state[key] = position
        if fits[position] and (key not in chosen or epochs[position] >= epochs[chosen[key]]):
            chosen[key] = position
    own, very_last = pa.array(chosen.values(), pa.int64()), pa.array([state[key] for key in chosen], pa.int64())
    rows = table.take(own).to_pylist()
    ends = table.select(["status", "error", "seconds"]).take(very_last).to_pylist()
    return [
        {**row, **end, "seconds": row["seconds"] if end["seconds"] is None else end["seconds"]}
        for row, end in zip(rows, ends, strict=True)
    ]


def control_setting(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a setting the scores of an untrained encoder depend on: videos, encoder, evaluation, seed.

    Args:
        values: a setting by its dotted keys, or a row.

    Returns:
        key -> value, by key; the controls of a run are those of the same.
    """
    kept = ("data.", "encoder.", "evaluation.")
    unlike = {*COMPUTING, *TRAINING_DATA}
    return {
        key: values[key]
        for key in sorted(values)
        if key == "seed" or (key.startswith(kept) and key not in unlike and values[key] is not None)
    }


def selected_by(table: pa.Table) -> str:
    """The metric that a study maximises, as its YAML writes it."""
    return next((name for name in table["selected_by"].to_pylist() if name), "objective")


def _fitting(table: pa.Table, where: dict[str, str]) -> list[bool]:
    fits = pa.array(np.ones(len(table), dtype=bool))
    for column, value in where.items():
        if column not in table.schema.names:
            return [False] * len(table)
        fits = pc.and_(fits, pc.fill_null(pc.equal(table[column], value), False))
    return list(fits.to_pylist())


def best(table: pa.Table, metric: str = "metric.objective", mode: str = "max") -> dict[str, Any]:
    """The row of the best finished trial, by its last validation.

    Selection never sees the report's split: only rows of stage 'tune', control 'none', split 'validation' compete.

    Args:
        table: from `read`, usually of one study.
        metric: a metric column; 'objective' is short for 'metric.objective'.
        mode: 'max' or 'min'.

    Returns:
        column -> value of the winner; of equals, the earlier trial.

    Raises:
        ResultsError: no such metric, or no finished trial has it.
        ValueError: if mode is neither.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"mode: must be 'max' or 'min', got {mode!r}")
    if metric not in table.schema.names and not metric.startswith("metric."):
        metric = f"metric.{metric}"
    if metric not in table.schema.names:
        known = ", ".join(name for name in table.schema.names if name.startswith("metric."))
        raise ResultsError(metric, "is in no row of the results", f"choose from: {known or 'nothing, no metric yet'}")
    trials = last_rows(table, stage="tune", control="none", split="validation")
    finished = [
        row for row in trials if row["status"] == "done" and row[metric] is not None and math.isfinite(row[metric])
    ]
    if not finished:
        raise _no_best(last_rows(table, stage="tune", control="none"), metric)
    finished.sort(key=lambda row: (row["trial"] is None, row["trial"], row["run_id"]))
    return max(finished, key=lambda row: row[metric] if mode == "max" else -row[metric])


def _no_best(trials: list[dict[str, Any]], metric: str) -> ResultsError:
    """Why no trial can be chosen, and what helps in that case."""
    counts = {status: sum(row["status"] == status for row in trials) for status in ALLOWED["status"]}
    seen = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no trial at all"
    rule = f"no finished trial has it ({seen})"
    if not trials:
        return ResultsError(metric, rule, "run a study first: python -m lacray.tune")
    if counts["running"]:
        return ResultsError(metric, rule, "let the study finish: --resume")
    if counts["done"]:
        return ResultsError(metric, rule, "choose a metric that was measured, or label videos")
    reasons = Counter(row["error"] for row in trials if row["error"])
    if reasons:
        told = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        remedy = "mend what they name; --resume tries those again that were lost, a larger --trials others"
        return ResultsError(metric, f"{rule}: {told}", remedy)
    return ResultsError(metric, rule, "ask for more trials: --resume with a larger --trials")
