"""Rows -> the tables of the report, as plain text cells that any format can print.

A cell is the mean and the sample standard deviation over seeds; what was not run is a dash. The controls stand in
every table; the best of a column is marked, controls included: where a control wins, it shows.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from lacray import metrics
from lacray.metrics import BY_NAME, PROTOCOLS, Metric
from lacray.results import IDENTITY, NUMERIC_PREFIXES, last_rows

Row = dict[str, Any]

DASH = "–"
CONTROLS = {"untrained": "untrained encoder", "positions": "positions only"}
GRID_SPACES = ("gamma", "formulation")
# Fewer finished trials than this say nothing about importance.
MIN_TRIALS_FOR_IMPORTANCE = 4
OBJECTIVE = f"metric.{metrics.OBJECTIVE.name}"
# Of what is said under a table about its rows.
MAX_REMARKS = 8


@dataclass
class Cell:
    """Text, and the number behind it where it competes for the best of its column."""

    text: str = DASH
    value: float | None = None
    best: bool = False
    num: int | None = None


@dataclass
class Line:
    """A row of a table; kind: method, control, published or difference."""

    label: str
    cells: list[Cell]
    kind: str = "method"
    marked: bool = False


@dataclass
class Table:
    """A table with its caption and what must be said under it."""

    key: str
    title: str
    header: list[str]
    lines: list[Line]
    better: list[str | None]
    notes: list[str] = field(default_factory=list)
    section: str = ""

    def mark_best(self) -> Table:
        """Marks the best value of each column that says what better means."""
        for column, better in enumerate(self.better):
            cells = [line.cells[column] for line in self.lines if line.kind in ("method", "control")]
            values = [cell.value for cell in cells if cell.value is not None]
            if better is None or len(values) < 2:
                continue
            top = max(values) if better == "max" else min(values)
            for cell in cells:
                cell.best = cell.value == top
        return self


def published() -> dict[str, Any]:
    """The paper's numbers, from `published.yaml`."""
    loaded: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return loaded


# --- numbers ---------------------------------------------------------------------------------------------------------


def number(value: float, digits: int = 2) -> str:
    """A number with a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def spread(values: Iterable[float | None], scale: float = 1.0, better: bool = True) -> Cell:
    """Mean ± sample standard deviation of what is there; one value has no deviation, none is a dash."""
    known = [value * scale for value in values if value is not None and math.isfinite(value)]
    if not known:
        return Cell()
    mean = statistics.fmean(known)
    text = number(mean) + (f" ± {number(statistics.stdev(known))}" if len(known) > 1 else "")
    return Cell(text, mean if better else None, num=len(known))


def signed(value: float) -> str:
    """A difference with its sign."""
    return ("+" if value >= 0 else "") + number(value)


def short(value: Any) -> str:
    """A setting in as few digits as tell it."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("-", "−")
    return str(value)


def one_per_seed(rows: Iterable[Row]) -> list[Row]:
    """The latest finished run of each seed, by seed."""
    latest: dict[Any, Row] = {}
    for row in rows:
        if row["status"] == "done" and (
            row["seed"] not in latest or (row["time"] or 0) >= (latest[row["seed"]]["time"] or 0)
        ):
            latest[row["seed"]] = row
    return [latest[seed] for seed in sorted(latest, key=lambda seed: (seed is None, seed))]


def config_keys(rows: Iterable[Row]) -> list[str]:
    """The columns that are settings, in order."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    return [name for name in names if name not in IDENTITY and not name.startswith(NUMERIC_PREFIXES)]


def varying(rows: Sequence[Row]) -> list[str]:
    """The settings that differ between rows; a setting that some rows lack does not count."""
    found = []
    for key in config_keys(rows):
        values = [row.get(key) for row in rows]
        if None not in values and len({json.dumps(value) for value in values}) > 1:
            found.append(key)
    return found


def dataset_of(row: Row) -> str:
    """The data set's name as `data.root` gives it."""
    root = str(row.get("data.root") or "unknown data")
    return Path(root.rstrip("/")).name or root


def remarks(rows: Iterable[Row]) -> list[str]:
    """What must be said beside these rows' numbers: what was left out, what they were computed with."""
    said: dict[str, None] = {}
    for row in rows:
        said.update(dict.fromkeys(json.loads(row["notes"]) if row.get("notes") else []))
    told = list(said)
    more = [f"And {len(told) - MAX_REMARKS} more of this kind."] if len(told) > MAX_REMARKS else []
    return [f"{text[:1].upper()}{text[1:].rstrip('.')}." for text in told[:MAX_REMARKS]] + more


def printed_name(dataset: str) -> str:
    """A data set's name as it is written in prose."""
    return "SimPouring" if dataset == "simpouring" else dataset


def published_for(dataset: str, paper: Mapping[str, Any]) -> dict[str, Any] | None:
    """The published table of this very data set, or None."""
    for table in paper["tables"].values():
        if dataset.lower() in table["roots"]:
            return dict(table)
    return None


# --- the main tables -------------------------------------------------------------------------------------------------


def main_tables(table: pa.Table, paper: Mapping[str, Any]) -> list[Table]:
    """Final trainings on the report split, per data set and protocol: our settings, the controls, the published LAC."""
    trained = last_rows(table, stage="train", split="val", control="none")
    controls = [
        row
        for name in CONTROLS
        for stage in ("train", "tune")
        for row in last_rows(table, stage=stage, split="val", control=name)
    ]
    waiting: dict[str, set[str]] = {}
    for row in last_rows(table, stage="tune", control="none"):
        if row["space"] not in GRID_SPACES:
            waiting.setdefault(dataset_of(row), set()).add(row["study"])
    made = []
    for dataset in sorted({dataset_of(row) for row in trained} | set(waiting)):
        groups = _settings([row for row in trained if dataset_of(row) == dataset])
        for study in sorted(waiting.get(dataset, set()) - {key[0] for key in groups}):
            groups[(study, study)] = []
        ours = [row for row in controls if dataset_of(row) == dataset]
        made += _main_tables_of(dataset, groups, ours, published_for(dataset, paper))
    return made


def _settings(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """(study, label) -> runs of one setting; the label names what differs where a study has several settings."""
    by_study: dict[str, list[Row]] = {}
    for row in rows:
        by_study.setdefault(row["study"], []).append(row)
    groups: dict[tuple[str, str], list[Row]] = {}
    for study, runs in sorted(by_study.items()):
        keys = config_keys(runs)
        settings: dict[str, list[Row]] = {}
        for run in runs:
            settings.setdefault(json.dumps([run.get(key) for key in keys], default=str), []).append(run)
        differ = varying([same[0] for same in settings.values()])
        for position, same in enumerate(settings.values(), 1):
            label = study
            if len(settings) > 1:
                told = ", ".join(f"{key} {short(same[0].get(key))}" for key in differ[:3])
                label = f"{study} ({told})" if told else f"{study} ({position})"
            groups[(study, label)] = same
    return groups


def _control_lines(rows: Sequence[Row], columns: Sequence[tuple[str, Metric]]) -> list[Line]:
    """A line per control, or per control and encoder where encoders differ; a control that never ran is dashes."""
    lines = []
    for control, label in CONTROLS.items():
        groups: dict[str, list[Row]] = {}
        for row in rows:
            if row["control"] == control:
                encoder = {key: row[key] for key in sorted(row) if key.startswith("encoder.")}
                groups.setdefault(json.dumps(encoder, default=str), []).append(row)
        for same in groups.values() or [[]]:
            names = ", ".join(sorted({row["study"] for row in same}))
            runs = one_per_seed(same)
            shown = label if len(groups) < 2 else f"{label} ({names})"
            lines.append(Line(shown, _cells(runs, columns), "control"))
    return lines


def _cells(runs: Sequence[Row], columns: Sequence[tuple[str, Metric]]) -> list[Cell]:
    """The number of seeds, then a cell per metric; a cell of fewer seeds says so."""
    cells = [spread((run.get(key) for run in runs), metric.scale) for key, metric in columns]
    counts = {cell.num for cell in cells if cell.num is not None}
    if len(counts) > 1:
        for cell in cells:
            if cell.num is not None and cell.num != max(counts):
                cell.text += f" (n {cell.num})"
    return [Cell(str(max(counts)) if counts else DASH), *cells]


def _present(rows: Iterable[Row], protocol: str, shown: Sequence[Metric]) -> list[tuple[str, Metric]]:
    """The metrics to print: the paper's always, ours where any row has them."""
    rows = list(rows)
    columns = []
    for metric in shown:
        key = f"metric.{protocol}.{metric.name}"
        if metric.better == "max" or any(row.get(key) is not None for row in rows):
            columns.append((key, metric))
    return columns


def _main_tables_of(
    dataset: str,
    groups: Mapping[tuple[str, str], Sequence[Row]],
    controls: Sequence[Row],
    paper: Mapping[str, Any] | None,
) -> list[Table]:
    everything = [row for runs in groups.values() for row in runs] + list(controls)
    strides = sorted({row["evaluation.stride"] for row in everything if row.get("evaluation.stride") is not None})
    stride = f" AP@K and τ with stride {' or '.join(map(str, strides))}." if strides else ""
    made = []
    for protocol in PROTOCOLS:
        columns = _present(everything, protocol, metrics.MAIN)
        lines = [Line(label, _cells(one_per_seed(runs), columns)) for (_, label), runs in groups.items()]
        lines += _control_lines(controls, columns)
        notes = [
            (
                "The published protocol. Position alone reaches high values here; compare with the controls."
                if protocol == "full"
                else "Every video is cut to a random 50–80 % before it is embedded: position does not tell the phase."
            )
            + stride
        ]
        if any(metric.name == "alignment_error" for _, metric in columns):
            notes.append("Alignment error in phases, event error in per cent of the video, the rest in per cent.")
        if paper is not None and protocol == "full":
            lines = _with_published(lines, columns, paper)
            if "note" in paper:
                notes.append(f"The published figures are {paper['note']}.")
        notes += remarks(everything)
        empty = [label for (_, label), runs in groups.items() if not one_per_seed(runs)]
        if empty:
            notes.append(f"Not trained in full yet: {', '.join(empty)} (python -m lacray.train --best --study NAME).")
        made.append(
            Table(
                f"main-{dataset}-{protocol}",
                f"{printed_name(dataset)}, report split, protocol {protocol}",
                ["setting", "n", *(metric.label for _, metric in columns)],
                lines,
                [None, *(metric.better for _, metric in columns)],
                notes,
                "main",
            ).mark_best()
        )
    columns = [
        (f"metric.{protocol}.{metric.name}", replace(metric, label=f"{metric.label} {protocol}"))
        for protocol in PROTOCOLS
        for metric in metrics.LOGISTIC
    ]
    if any(row.get(key) is not None for row in everything for key, _ in columns):
        lines = [Line(label, _cells(one_per_seed(runs), columns)) for (_, label), runs in groups.items()]
        made.append(
            Table(
                f"main-{dataset}-logistic",
                f"{printed_name(dataset)}, phase classification by logistic regression in place of the SVM",
                ["setting", "n", *(metric.label for _, metric in columns)],
                lines + _control_lines(controls, columns),
                [None, *("max" for _ in columns)],
                ["What the CARL and LAC releases compute; the papers say SVM."],
                "main",
            ).mark_best()
        )
    return made


def _with_published(lines: list[Line], columns: Sequence[tuple[str, Metric]], paper: Mapping[str, Any]) -> list[Line]:
    names: list[str] = published()["columns"]
    printed = dict(zip(names, paper["rows"]["LAC"], strict=True))
    shown = [printed.get(metric.name) for _, metric in columns]
    result = []
    for line in lines:
        result.append(line)
        if line.kind == "method":
            gaps = [
                Cell(signed(cell.value - value)) if cell.value is not None and value is not None else Cell()
                for cell, value in zip(line.cells[1:], shown, strict=True)
            ]
            result.append(Line(f"{line.label} − published LAC", [Cell(""), *gaps], "difference"))
    cells = [Cell() if value is None else Cell(number(value)) for value in shown]
    result.append(Line(f"LAC, published ({paper['source']})", [Cell(), *cells], "published"))
    return result


# --- Tables 4 and 5 --------------------------------------------------------------------------------------------------


def grid_rows(table: pa.Table, space: str) -> dict[str, tuple[str, list[Row], list[Row]]]:
    """Study -> (split, last rows of its runs, those of its controls); the report split where there is one."""
    found = {}
    runs = [row for row in last_rows(table, stage="tune", control="none") if row["space"] == space]
    for study in sorted({row["study"] for row in runs}):
        for split in ("val", "validation"):
            rows = [r for r in last_rows(table, stage="tune", split=split, control="none") if r["study"] == study]
            if rows:
                controls = [
                    row
                    for control in CONTROLS
                    for row in last_rows(table, split=split, control=control)
                    if row["study"] == study
                ]
                found[study] = (split, rows, controls)
                break
        else:
            found[study] = ("val", [], [])
    return found


def _grid_notes(split: str, rows: Sequence[Row], dataset: str, same: bool, home: str) -> list[str]:
    notes = []
    if split != "val":
        notes.append("On the validation share of the training videos: the study did not score the report split.")
    if not same:
        notes.append(
            f"The published column is {home}, ours {printed_name(dataset)}: for reference only, no difference is taken."
        )
    unfinished = [row for row in rows if row["status"] != "done"]
    if unfinished:
        notes.append(f"{len(unfinished)} of {len(rows)} runs are not finished and left out.")
    return notes + remarks(rows)


def gamma_tables(table: pa.Table, paper: Mapping[str, Any]) -> list[Table]:
    """Table 4: gamma against phase classification, one table per study of the space `gamma`."""
    entry = paper["gamma"]
    home = paper["tables"][entry["dataset"]]["dataset"]
    made = []
    for study, (split, rows, controls) in grid_rows(table, "gamma").items():
        dataset = dataset_of(rows[0]) if rows else entry["dataset"]
        same = published_for(dataset, paper) == paper["tables"][entry["dataset"]]
        main = (f"metric.full.{entry['metric']}", BY_NAME[entry["metric"]])
        rest = [
            (f"metric.{protocol}.{name}", BY_NAME[name])
            for protocol in PROTOCOLS
            for name in metrics.SHORT
            if f"metric.{protocol}.{name}" != main[0]
        ]
        columns = [main, *rest]
        gammas = sorted({*entry["rows"], *(row["loss.gamma"] for row in rows if row.get("loss.gamma") is not None)})
        lines = []
        for gamma in gammas:
            cells = _cells(one_per_seed(row for row in rows if row.get("loss.gamma") == gamma), columns)
            value = entry["rows"].get(gamma)
            lines.append(Line(short(gamma), _beside(cells, value, same)))
        for line in _control_lines(controls, columns):
            lines.append(Line(line.label, _beside(line.cells, None, same), "control"))
        made.append(
            Table(
                f"gamma-{study}",
                f"{entry['source']}: gamma ({study}, {printed_name(dataset)})",
                [
                    "gamma",
                    "n",
                    f"published Class@100 ({home})",
                    "Class@100 full",
                    *(["difference"] if same else []),
                    *(f"{metric.label} {key.split('.')[1]}" for key, metric in rest),
                ],
                lines,
                [None, None, "max", *([None] if same else []), *(metric.better for _, metric in rest)],
                _grid_notes(split, rows, dataset, same, home),
                "gamma",
            ).mark_best()
        )
    return made


def _beside(cells: list[Cell], value: float | None, same: bool) -> list[Cell]:
    """n, published, ours, their difference where the data set is the same, then the rest."""
    num, ours, *rest = cells
    gap = Cell(signed(ours.value - value)) if value is not None and ours.value is not None else Cell()
    return [num, Cell() if value is None else Cell(number(value)), ours, *([gap] if same else []), *rest]


def _with_dash(cells: list[Cell]) -> list[Cell]:
    """n, the published cell that we do not have, then the rest."""
    return [cells[0], Cell(), *cells[1:]]


def formulation_tables(table: pa.Table, paper: Mapping[str, Any]) -> list[Table]:
    """Table 5: what each part of the loss is worth, one pair of tables per study of the space `formulation`."""
    entry = paper["formulation"]
    home = paper["tables"][entry["dataset"]]["dataset"]
    made = []
    for study, (split, rows, controls) in grid_rows(table, "formulation").items():
        dataset = dataset_of(rows[0]) if rows else entry["dataset"]
        same = published_for(dataset, paper) == paper["tables"][entry["dataset"]]
        columns = [(f"metric.{p}.{name}", BY_NAME[name]) for p in PROTOCOLS for name in metrics.SHORT]
        names = list(dict.fromkeys([*entry["rows"], *(str(row["variant"]) for row in rows)]))
        runs = {name: one_per_seed(row for row in rows if row["variant"] == name) for name in names}
        lines = [Line(name, _with_dash(_cells(runs[name], columns))) for name in names]
        lines += [Line(line.label, _with_dash(line.cells), "control") for line in _control_lines(controls, columns)]
        notes = [f"The published cells ({home}) are not in our copy of the paper: dashes."]
        notes += _grid_notes(split, rows, dataset, True, home)
        made.append(
            Table(
                f"formulation-{study}",
                f"{entry['source']}: formulations of the loss ({study}, {printed_name(dataset)})",
                ["loss", "n", "published", *(f"{m.label} {key.split('.')[1]}" for key, m in columns)],
                lines,
                [None, None, *(metric.better for _, metric in columns)],
                notes,
                "formulation",
            ).mark_best()
        )
        made.append(_gain_table(study, dataset, runs, entry["gain"], home, same, entry["source"]))
    return made


def _gain_table(
    study: str,
    dataset: str,
    runs: Mapping[str, Sequence[Row]],
    gain: Mapping[str, Any],
    home: str,
    same: bool,
    source: str,
) -> Table:
    """What adding L_l to L_c is worth: the one thing that the paper's text says of Table 5."""
    lines = []
    for protocol in PROTOCOLS:
        cells = []
        for name in gain["values"]:
            key = f"metric.{protocol}.{name}"
            means = [spread((row.get(key) for row in runs[side]), 100.0).value for side in (gain["of"], gain["over"])]
            known = means[0] is not None and means[1] is not None
            cells.append(Cell(signed(means[0] - means[1])) if known else Cell())  # type: ignore[operator]
        num = min(len(runs[gain["of"]]), len(runs[gain["over"]]))
        lines.append(Line(f"ours, {protocol} ({printed_name(dataset)})", [Cell(str(num) if num else DASH), *cells]))
    printed = [Cell(), *(Cell(signed(value)) for value in gain["values"].values())]
    lines.append(Line(f"published ({home})", printed, "published"))
    return Table(
        f"gain-{study}",
        f"What adding L_l to L_c is worth ({study})",
        ["", "n", *(BY_NAME[name].label for name in gain["values"])],
        lines,
        [None] * (len(gain["values"]) + 1),
        [
            f"From the paper's text on {source}, which does not say which share of the labels; Class@100 is taken."
            + ("" if same else " Another data set than ours: for reference only.")
        ],
        "formulation",
    )


# --- a study ---------------------------------------------------------------------------------------------------------


def trials_of(table: pa.Table, study: str) -> list[Row]:
    """The last row of each trial on the selection split (any row where it has none), by trial."""
    mine = [row for row in last_rows(table, stage="tune", control="none") if row["study"] == study]
    scored = {
        row["run_id"]: row
        for row in last_rows(table, stage="tune", control="none", split="validation")
        if row["study"] == study
    }
    # Trained up to its very last row, scored by the last that was evaluated.
    rows = [{**scored.get(row["run_id"], {**row, OBJECTIVE: None}), "epoch": row["epoch"]} for row in mine]
    return sorted(rows, key=lambda row: (row["trial"] is None, row["trial"] or 0, row["run_id"]))


def searched(trials: Sequence[Row]) -> list[str]:
    """What a study varied: the named variant, or the settings that differ, and the seed."""
    # A trial that was lost before its first row may be known by its number alone.
    settings = config_keys(trials)
    known = [row for row in trials if any(row.get(key) is not None for key in settings)]
    keys = ["variant"] if any(row.get("variant") is not None for row in trials) else varying(known)
    return keys + (["seed"] if len({row["seed"] for row in trials} - {None}) > 1 else [])


def best_trial(trials: Sequence[Row]) -> Row | None:
    """The finished trial with the highest objective; of equals the earlier."""
    finished = [row for row in trials if row["status"] == "done" and row.get(OBJECTIVE) is not None]
    return max(finished, key=lambda row: row[OBJECTIVE], default=None)


def control_objectives(table: pa.Table, study: str) -> dict[str, list[float]]:
    """Control -> its objective on the selection split, one a seed."""
    found = {}
    for control in CONTROLS:
        rows = [r for r in last_rows(table, split="validation", control=control) if r["study"] == study]
        found[control] = [r[OBJECTIVE] for r in one_per_seed(rows) if r.get(OBJECTIVE) is not None]
    return found


def trial_table(table: pa.Table, study: str) -> Table:
    """Every trial of a study: what was tried, its objective on the selection split, how it ended."""
    trials = trials_of(table, study)
    keys = searched(trials)
    winner = best_trial(trials)
    lines = []
    for row in trials:
        objective = row.get(OBJECTIVE)
        competes = row["status"] == "done"
        cells = [Cell(short(row.get(key))) for key in keys]
        cells.append(Cell() if objective is None else Cell(number(100 * objective), objective if competes else None))
        cells += [
            Cell(str(row["epoch"])),
            Cell(str(row["status"])),
            Cell() if row["seconds"] is None else Cell(f"{row['seconds']:.0f}"),
        ]
        is_best = winner is not None and row["run_id"] == winner["run_id"]
        lines.append(Line(f"{row['trial'] if row['trial'] is not None else row['run_id']}", cells, marked=is_best))
    for control, values in control_objectives(table, study).items():
        # Not in the race: a control is not a trial.
        cells = [Cell("") for _ in keys] + [spread(values, 100.0, better=False), Cell("0"), Cell(""), Cell("")]
        lines.append(Line(CONTROLS[control], cells, "control"))
    counts = {
        status: sum(row["status"] == status for row in trials) for status in ("done", "pruned", "running", "failed")
    }
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    errors = [f"trial {row['trial']}: {row['error']}" for row in trials if row["error"]]
    return Table(
        f"trials-{study}",
        f"Trials of study {study}",
        ["trial", *keys, "objective", "epochs", "status", "seconds"],
        lines,
        [*(None for _ in keys), "max", None, None, None],
        [
            f"{len(trials)} trials: {told}. Objective: mean of Class@10, progress and AP@5, protocol cropped, on the "
            "validation share of the training videos; the last one of each trial. ★ is the best finished trial.",
            *errors[:10],
            *remarks(trials),
        ],
        study,
    ).mark_best()


def importances(trials: Sequence[Row]) -> dict[str, float] | None:
    """fANOVA importance of each searched setting for the objective; None with too few finished trials.

    An Optuna study is rebuilt in memory from the rows, so nothing but the Parquet is needed; Optuna's random forest
    explains the variance of the objective by each setting alone. Seeded.
    """
    finished = [row for row in trials if row["status"] == "done" and row.get(OBJECTIVE) is not None]
    keys = searched(finished)
    if len(finished) < MIN_TRIALS_FOR_IMPORTANCE or not keys or len({row[OBJECTIVE] for row in finished}) < 2:
        return None
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spaces = {key: _distribution([row.get(key) for row in finished]) for key in keys}
    study = optuna.create_study(direction="maximize")
    for row in finished:
        params = {key: _comparable(row.get(key), spaces[key]) for key in keys}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=row[OBJECTIVE]))
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


def importance_table(study: str, found: Mapping[str, float] | None, num_trials: int) -> Table:
    """The importances of a study, or why there are none."""
    notes = [f"fANOVA (Optuna, random forest, seed 0) over {num_trials} finished trials; the shares sum to 1."]
    if found is None:
        notes = [f"{num_trials} finished trials: importance needs {MIN_TRIALS_FOR_IMPORTANCE} and settings that vary."]
    elif num_trials < 20:
        notes.append("Few trials: the order of the first is a hint, the rest is noise.")
    lines = [Line(key, [Cell(number(value, 3))]) for key, value in (found or {}).items()]
    return Table(
        f"importance-{study}",
        f"What mattered in study {study}",
        ["setting", "importance"],
        lines or [Line(DASH, [Cell()])],
        [None],
        notes,
        study,
    )
