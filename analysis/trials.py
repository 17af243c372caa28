"""A study's trials: what was tried, how it ended, which one is trained in full, and which settings mattered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from analysis.cells import CONTROLS, Row, one_per_seed, settings_of, varying
from analysis.printed import Entry, Line, Table, number, remarks, short, spread
from lacray.metrics import named
from lacray.results import ResultsError, best, last_rows, selected_by

# Importance is an estimate from a forest: with fewer trials than this, or than so many a setting, it is noise.
MIN_TRIALS, MIN_TRIALS_PER_SETTING = 20, 5


def of_study(table: pa.Table, study: str) -> pa.Table:
    return table.filter(pc.equal(table["study"], study))


def metric_of(own: pa.Table) -> str:
    """The column of the metric that a study maximises."""
    return f"metric.{selected_by(own)}"


def trials_of(own: pa.Table) -> list[Row]:
    """The last row of each trial on the selection split (any row where it has none), by trial."""
    column = metric_of(own)
    scored = {r["run_id"]: r for r in last_rows(own, stage="tune", control="none", split="validation")}
    # Trained up to its very last row, scored by the last that was evaluated.
    rows = [
        {**scored.get(row["run_id"], {**row, column: None}), "epoch": row["epoch"]}
        for row in last_rows(own, stage="tune", control="none")
    ]
    return sorted(rows, key=lambda row: (row["trial"] is None, row["trial"] or 0, row["run_id"]))


def searched(trials: Sequence[Row]) -> list[str]:
    """What a study varied: the named variant, or the settings that differ, and the seed."""
    # A trial that was lost before its first row may be known by its number alone.
    known = [row for row in trials if settings_of(row)]
    keys = ["variant"] if any(row.get("variant") is not None for row in trials) else varying(known)
    return keys + (["seed"] if len({row["seed"] for row in trials} - {None}) > 1 else [])


def winner_of(own: pa.Table) -> Row | None:
    """The trial that `python -m lacray.train --best` trains; None where it finds none."""
    try:
        return best(own, metric_of(own))
    except ResultsError:
        return None


def control_values(own: pa.Table) -> dict[str, list[float]]:
    """Control -> the study's metric on the selection split, one a seed."""
    column, found = metric_of(own), {}
    for control in CONTROLS:
        rows = last_rows(own, split="validation", control=control)
        found[control] = [row[column] for row in one_per_seed(rows) if row.get(column) is not None]
    return found


def trial_table(own: pa.Table, study: str) -> Table:
    """Every trial of a study: what was tried, its metric on the selection split, how it ended."""
    trials, column = trials_of(own), metric_of(own)
    metric = named(column)
    keys = searched(trials)
    winner = winner_of(own)
    lines = []
    for row in trials:
        value = row.get(column)
        entries = [Entry(short(row.get(key))) for key in keys]
        scaled = None if value is None else metric.scale * value
        told = None if scaled is None else number(scaled)
        competes = row["status"] == "done"
        entries.append(Entry() if told is None else Entry(told, scaled if competes else None, mean=scaled))
        entries += [
            Entry(str(row["epoch"])),
            Entry(str(row["status"])),
            Entry() if row["seconds"] is None else Entry(f"{row['seconds']:.0f}"),
        ]
        is_best = winner is not None and row["run_id"] == winner["run_id"]
        lines.append(Line(f"{row['trial'] if row['trial'] is not None else row['run_id']}", entries, marked=is_best))
    for control, values in control_values(own).items():
        # Not in the race: a control is not a trial.
        entries = [Entry("") for _ in keys] + [spread(values, metric.scale, competes=False)]
        lines.append(Line(CONTROLS[control], [*entries, Entry("0"), Entry(""), Entry("")], "control"))
    states = ("done", "pruned", "running", "failed")
    counts = {state: sum(row["status"] == state for row in trials) for state in states}
    told_counts = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    errors = [f"trial {row['trial']}: {row['error']}" for row in trials if row["error"]]
    name = selected_by(own)
    what = "mean of Class@10, progress and AP@5, protocol cropped" if name == "objective" else name
    return Table(
        f"trials-{study}",
        f"Trials of study {study}",
        ["trial", *keys, name, "epochs", "status", "seconds"],
        lines,
        [*(None for _ in keys), "max", None, None, None],
        [
            f"{len(trials)} trials: {told_counts}. {name[:1].upper()}{name[1:]}: {what}, on the validation share of "
            "the training videos; the last one of each trial. ★ is the best finished trial, which train --best trains.",
            *errors[:10],
            *remarks(trials),
        ],
    ).mark()


# --- importance ------------------------------------------------------------------------------------------------------


@dataclass
class Importance:
    """How much of the metric's variance each searched setting explains, or why that is not said."""

    shares: dict[str, float]
    notes: list[str]


def importance(own: pa.Table) -> Importance:
    """fANOVA importance of each searched setting, over all trials at one epoch.

    Trials that were stopped early are the bad ones: left out, what made them bad would look unimportant; with their
    last values beside those of longer trials, the epoch would pass for the setting. So every trial, pruned or not,
    counts by its value at the last epoch that all of them were scored at.
    """
    column = metric_of(own)
    courses = _courses(own, column)
    trials = [row for row in trials_of(own) if row["run_id"] in courses]
    keys = [key for key in searched(trials) if key != "seed"]
    wanted = max(MIN_TRIALS, MIN_TRIALS_PER_SETTING * len(keys))
    rule = f"at least {MIN_TRIALS} trials, and {MIN_TRIALS_PER_SETTING} for each setting that was searched"
    if len(trials) < wanted or not keys:
        got = f"{len(trials)} scored trials over {len(keys)} settings"
        return Importance({}, [f"No importance is given: it needs {rule} ({wanted} here), got {got}."])
    shared = set.intersection(*(set(courses[row["run_id"]]) for row in trials))
    if not shared:
        return Importance({}, ["No importance is given: there is no epoch at which all trials were scored."])
    epoch = max(shared)
    values = [courses[row["run_id"]][epoch] for row in trials]
    if len(set(values)) < 2:
        return Importance({}, ["No importance is given: all trials have the same value."])
    num_pruned = sum(row["status"] == "pruned" for row in trials)
    unscored = len(trials_of(own)) - len(trials)
    notes = [
        f"fANOVA (Optuna, random forest, seed 0) over {len(trials)} trials, {num_pruned} of them stopped early, all by "
        f"their value at epoch {epoch}, the last that every one was scored at; the shares sum to 1. Given for {rule}."
    ]
    if unscored:
        notes.append(f"{unscored} more failed, are not over, or have no score: they are left out.")
    return Importance(_fanova(trials, keys, values), notes)


def _courses(own: pa.Table, column: str) -> dict[str, dict[int, float]]:
    """Run -> epoch -> the metric on the selection split, of trials that are over."""
    found: dict[str, dict[int, float]] = {}
    if column not in own.schema.names:
        return found
    over = {
        row["run_id"] for row in last_rows(own, stage="tune", control="none") if row["status"] in ("done", "pruned")
    }
    names = ["run_id", "stage", "control", "split", "epoch", column]
    for row in own.select(names).to_pylist():
        is_scored = row["stage"] == "tune" and row["control"] == "none" and row["split"] == "validation"
        if is_scored and row["run_id"] in over and row[column] is not None:
            found.setdefault(row["run_id"], {})[row["epoch"]] = row[column]
    return found


def _fanova(trials: Sequence[Row], keys: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """An Optuna study is rebuilt in memory from the rows, so nothing but the Parquet is needed."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spaces = {key: _distribution([row.get(key) for row in trials]) for key in keys}
    study = optuna.create_study(direction="maximize")
    for row, value in zip(trials, values, strict=True):
        params = {key: _comparable(row.get(key), spaces[key]) for key in keys}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(values: Sequence[Any]) -> Any:
    import optuna

    kinds = {type(value) for value in values}
    if kinds <= {int, float}:
        low, high = min(values), max(values)
        if kinds == {int} and len(set(values)) <= 10:
            return optuna.distributions.CategoricalDistribution(sorted(set(values)))
        # Searched over more than a decade: the search was logarithmic, or should have been.
        return optuna.distributions.FloatDistribution(float(low), float(high), log=low > 0 and high / low > 10)
    return optuna.distributions.CategoricalDistribution(sorted({str(value) for value in values}))


def _comparable(value: Any, distribution: Any) -> Any:
    if hasattr(distribution, "low"):
        return float(value)
    return value if value in distribution.choices else str(value)


def importance_table(study: str, found: Importance) -> Table:
    """The importances of a study."""
    lines = [Line(key, [Entry(number(value, 3), mean=value)]) for key, value in found.shares.items()]
    header, title = ["setting", "importance"], f"What mattered in study {study}"
    return Table(f"importance-{study}", title, header, lines, [None], list(found.notes))
