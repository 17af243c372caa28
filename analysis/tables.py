"""The one renderer of all tables: what studies feed -> lines of cells, the controls and published figures beside them.

A cell is the mean and the sample standard deviation over seeds; what was not run is a dash. The controls stand in
every table; the best of a column is marked, controls included: where a control wins, it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.cells import CONTROLS, Cell, Row, control_key_of
from analysis.comparisons import Column, gain, paired_tests, with_published
from analysis.printed import DASH, Entry, Line, Table, remarks, short, spread
from analysis.sources import (
    Source,
    controls_beside,
    label_of,
    later_settings,
    printed_name,
    published_dataset,
    title_of,
    unlike_settings,
)
from lacray.metrics import BY_NAME, DRAWN, LOGISTIC, MAIN, PROTOCOLS, SHORT, Metric

# Printed behind a table's own metrics where rows have them.
ERRORS = tuple(metric.name for metric in MAIN if metric.better == "min")
MAX_UNLIKE = 6


def tables_of(source: Source, scored: Sequence[Row], paper: Mapping[str, Any]) -> list[Table]:
    """Everything that is printed of one source.

    Args:
        source: what a table is made of.
        scored: the rows of the controls on its split.
        paper: from `published`.

    Returns:
        A table per protocol with its paired tests, or with column keys one per metric; classification over the shares
        of labels, what the paper says of differences, and the per-action tables, where there are some.
    """
    entry: dict[str, Any] = paper["tables"].get(source.table, {})
    made = []
    if source.lines:
        for protocol in PROTOCOLS:
            if source.columns:
                made += _crossed(source, entry, scored, protocol, paper)
            else:
                made += _plain(source, entry, scored, protocol, paper)
        if entry.get("fractions"):
            made += [_fractions(source, scored, protocol, paper) for protocol in PROTOCOLS]
        made += [gain(source, spec, paper) for spec in entry.get("differences", ())]
    made += _per_action(source, scored, paper)
    return [table.mark() for table in made if any(entry.text != DASH for line in table.lines for entry in line.entries)]


# --- metrics as columns ----------------------------------------------------------------------------------------------


def _plain(
    source: Source, entry: Mapping[str, Any], scored: Sequence[Row], protocol: str, paper: Mapping[str, Any]
) -> list[Table]:
    """Lines by their row keys, metrics as columns; and the paired tests between the lines."""
    controls = controls_beside(source, scored)
    columns = _columns(source, entry, protocol, [*source.cells, *controls])
    lines = [Line(line.label, _entries(line.any, columns)) for line in source.lines]
    lines += [Line(label, _entries(Cell(()), columns)) for label in _not_run(source, entry, paper)]
    lines += _control_lines(controls, columns)
    home = published_dataset(source.dataset, paper)
    if protocol == "full":
        lines = with_published(lines, source, columns, home, paper)
    table = Table(
        f"{source.key}-{protocol}",
        f"{title_of(source, paper)}, {source.where}, protocol {protocol}",
        [_head(source), "n", *(metric.label for _, metric in columns)],
        lines,
        [None, *(metric.better for _, metric in columns)],
        _notes(source, entry, protocol, columns, controls, home, paper),
    )
    return [table, *paired_tests(source, entry, columns, protocol, paper)]


def _columns(source: Source, entry: Mapping[str, Any], protocol: str, measured: Iterable[Cell]) -> list[Column]:
    names = [*entry.get("metrics", SHORT), *ERRORS]
    rows = [run for cell in measured for run in cell.runs]
    columns = [(f"metric.{protocol}.{name}", BY_NAME[name]) for name in names]
    return [
        (key, metric)
        for key, metric in columns
        if metric.name not in ERRORS or any(row.get(key) is not None for row in rows)
    ]


def _entries(cell: Cell, columns: Sequence[Column]) -> list[Entry]:
    """The number of seeds, then an entry per metric; one of fewer seeds says so."""
    made = [spread(cell.values(key).values(), metric.scale) for key, metric in columns]
    counts = {entry.num for entry in made if entry.num is not None}
    for entry in made:
        if entry.num is not None and entry.num != max(counts):
            entry.text += f" (n {entry.num})"
    return [Entry(str(max(counts)), mean=max(counts)) if counts else Entry(), *made]


def _control_lines(controls: Sequence[Cell], columns: Sequence[Column]) -> list[Line]:
    labels = _control_labels(controls)
    return [Line(label, _entries(cell, columns), "control") for label, cell in zip(labels, controls, strict=True)]


def _control_labels(controls: Sequence[Cell]) -> list[str]:
    """What tells controls of several encoders apart."""
    labels = []
    for cell in controls:
        same = [other for other in controls if other.control == cell.control and other.runs]
        keys = [dict(control_key_of(other.row)) for other in same]
        unlike = [key for key in (keys[0] if keys else {}) if len({own.get(key) for own in keys}) > 1]
        told = [f"{key} {short(cell.row.get(key))}" for key in unlike[:3]] if cell.runs else []
        labels.append(CONTROLS[cell.control] + (f" ({', '.join(told)})" if told else ""))
    return labels


def _not_run(source: Source, entry: Mapping[str, Any], paper: Mapping[str, Any]) -> list[str]:
    """Lines that the paper or the study has and no run of ours."""
    bases = {label_of(source.rows[0], line.values[0], paper) for line in source.lines}
    wanted = [short(label) for label in entry.get("rows") or {}]
    wanted += [label_of(source.rows[0], value, paper) for value in source.expected]
    return [label for label in dict.fromkeys(wanted) if label not in bases]


def _head(source: Source) -> str:
    return ", ".join("method" if key == "loss.name" else key.split(".")[-1] for key in source.rows)


# --- settings as columns ---------------------------------------------------------------------------------------------


def _crossed(
    source: Source, entry: Mapping[str, Any], scored: Sequence[Row], protocol: str, paper: Mapping[str, Any]
) -> list[Table]:
    """Lines by their row keys, the values of the column keys as columns: a table per metric."""
    values = sorted({column for line in source.lines for column in line.cells}, key=_sortable)
    heads = [
        ", ".join(label_of(key, value, paper) for key, value in zip(source.columns, column, strict=True))
        for column in values
    ]
    controls = {column: controls_beside(source, scored, column) for column in values}
    beside: dict[str, dict[tuple[Any, ...], Cell]] = {}
    for column, own in controls.items():
        for label, cell in zip(_control_labels(own), own, strict=True):
            beside.setdefault(label, {})[column] = cell
    made = []
    for name in entry.get("metrics", SHORT):
        metric, key = BY_NAME[name], f"metric.{protocol}.{name}"

        def line_of(
            label: str, own: Mapping[Any, Cell], kind: str = "method", key: str = key, scale: float = metric.scale
        ) -> Line:
            entries = [
                spread(own[column].values(key).values(), scale) if column in own else Entry() for column in values
            ]
            counts = {entry.num for entry in entries if entry.num is not None}
            for cell in entries:
                if cell.num is not None and cell.num != max(counts):
                    cell.text += f" (n {cell.num})"
            return Line(label, [Entry(str(max(counts))) if counts else Entry(), *entries], kind)

        lines = [line_of(line.label, line.cells) for line in source.lines]
        lines += [line_of(label, {}) for label in _not_run(source, entry, paper)]
        lines += [line_of(label, cells, "control") for label, cells in beside.items()]
        everything = [cell for cells_ in controls.values() for cell in cells_]
        made.append(
            Table(
                f"{source.key}-{protocol}-{name}",
                f"{title_of(source, paper)}, {source.where}, protocol {protocol}: {metric.label}",
                [f"{_head(source)} / {', '.join(key.split('.')[-1] for key in source.columns)}", "n", *heads],
                lines,
                [None, *(metric.better for _ in values)],
                _notes(source, entry, protocol, [(key, metric)], everything, None, paper),
            )
        )
    return made


def _sortable(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        (0, value, "") if isinstance(value, (int, float)) else (1, 0, "" if value is None else str(value))
        for value in values
    )


# --- shares of the labels, single actions ----------------------------------------------------------------------------


def _fractions(source: Source, scored: Sequence[Row], protocol: str, paper: Mapping[str, Any]) -> Table:
    """Phase classification over the shares of labels, by both classifiers, also over random draws of the videos."""
    controls = controls_beside(source, scored)
    rows = [run for cell in [*source.cells, *controls] for run in cell.runs]
    metrics = (*MAIN, *DRAWN["svm"], *LOGISTIC, *DRAWN["logistic"])
    columns = [(f"metric.{protocol}.{metric.name}", metric) for metric in metrics if metric.name.startswith("class_")]
    columns = [own for own in columns if any(row.get(own[0]) is not None for row in rows)]
    lines = [Line(line.label, _entries(line.any, columns)) for line in source.lines]
    return Table(
        f"{source.key}-{protocol}-fractions",
        f"{title_of(source, paper)}, {source.where}, protocol {protocol}: classification over shares of the labels",
        [_head(source), "n", *(metric.label for _, metric in columns)],
        [*lines, *_control_lines(controls, columns)],
        [None, *(metric.better for _, metric in columns)],
        [
            "Class@K: the SVM that the papers name, from the first K % of the labelled train videos; logistic: what "
            "the CARL and LAC releases compute; drawn: the mean over random draws of as many videos.",
            *_origins(source),
        ],
    )


def _per_action(source: Source, scored: Sequence[Row], paper: Mapping[str, Any]) -> list[Table]:
    """Every action by itself, of each line and control: of a joint training, or of trainings on one action each."""
    controls = controls_beside(source, scored)
    joint = [(line.label, line.any) for line in source.lines]
    joint += list(zip(_control_labels(controls), controls, strict=True))
    made = []
    for protocol in PROTOCOLS:
        metrics = [BY_NAME[name] for name in paper["columns"]]
        for label, cell in joint:
            actions = sorted({action for run in cell.runs for action in _actions_in(run)})
            columns = {a: [(f"action.{a}.{protocol}.{m.name}", m) for m in metrics] for a in actions}
            lines = [Line(action, _entries(cell, columns[action])) for action in actions]
            if lines:
                made.append(_action_table(source, label, protocol, metrics, lines, paper))
        labels = dict.fromkeys(line.label for lines in source.by_action.values() for line in lines)
        for label in labels:
            own = [(f"metric.{protocol}.{metric.name}", metric) for metric in metrics]
            lines = [
                Line(action, _entries(line.any, own))
                for action, measured in source.by_action.items()
                for line in measured
                if line.label == label
            ]
            made.append(_action_table(source, f"{label}, each trained alone", protocol, metrics, lines, paper))
    return made


def _actions_in(run: Row) -> set[str]:
    return {name.split(".")[1] for name, value in run.items() if name.startswith("action.") and value is not None}


def _action_table(
    source: Source,
    label: str,
    protocol: str,
    metrics: Sequence[Metric],
    lines: list[Line],
    paper: Mapping[str, Any],
) -> Table:
    return Table(
        f"{source.key}-{protocol}-actions-{label}",
        f"{title_of(source, paper)}, {printed_name(source.dataset)}, protocol {protocol}: {label}, by action",
        ["action", "n", *(metric.label for metric in metrics)],
        lines,
        [None] * (len(metrics) + 1),
    )


# --- what must be said -----------------------------------------------------------------------------------------------


def _notes(
    source: Source,
    entry: Mapping[str, Any],
    protocol: str,
    columns: Sequence[Column],
    controls: Sequence[Cell],
    home: str | None,
    paper: Mapping[str, Any],
) -> list[str]:
    runs = [run for cell in [*source.cells, *controls] for run in cell.runs]
    notes = [
        "The published protocol. Position alone reaches high values here; compare with the controls."
        if protocol == "full"
        else "Every video is cut to a random 50–80 % before it is embedded: position does not tell the phase."
    ]
    strides = sorted({run["evaluation.stride"] for run in runs if run.get("evaluation.stride") is not None})
    if strides:
        notes.append(f"AP@K and τ with stride {' or '.join(map(str, strides))}.")
    if any(metric.name == "alignment_error" for _, metric in columns):
        notes.append("Alignment error in phases, event error in per cent of the video, the rest in per cent.")
    if source.split != "val":
        notes.append("On the validation share of the training videos: the study did not score the report split.")
    if source.num_open:
        notes.append(f"{source.num_open} of {source.num_runs} runs are not finished and left out.")
    notes += _origins(source)
    named = (*source.rows, *source.columns)
    unlike = unlike_settings(source.lines, named)
    if unlike:
        told = [
            f"{key} ({'; '.join(f'{value}: {_few(labels)}' for value, labels in values.items())})"
            for key, values in list(unlike.items())[:MAX_UNLIKE]
        ]
        more = f" and {len(unlike) - MAX_UNLIKE} more" if len(unlike) > MAX_UNLIKE else ""
        notes.append(f"Beside the loss, lines differ in {', '.join(told)}{more}.")
    later = [f"{key} ({value} in the others)" for key, value in later_settings(source.lines, named).items()]
    if later:
        more = f" and {len(later) - MAX_UNLIKE} more" if len(later) > MAX_UNLIKE else ""
        notes.append(f"The version of some lines did not have {', '.join(later[:MAX_UNLIKE])}{more}.")
    if protocol == "full" and "dataset" in entry:
        own = paper["datasets"][entry["dataset"]]
        if entry["dataset"] != home and entry.get("rows"):
            notes.append(f"Published: {own['name']}, another data set than ours: for reference only, no differences.")
        if not entry.get("rows"):
            notes.append("The published cells are not in our copy of the paper.")
    if protocol == "full" and home is not None and "note" in paper["datasets"][home]:
        notes.append(f"The published figures are {paper['datasets'][home]['note']}.")
    counts = {int(run[name]) for run in runs for name in run if name.startswith("num_actions.") and run[name]}
    if counts and max(counts) > 1:
        notes.append(f"Means over {' or '.join(map(str, sorted(counts)))} actions.")
    return notes + remarks(runs)


def _origins(source: Source) -> list[str]:
    """Of which study the runs of each line are, and what that says of itself: tuned, or all methods on one footing.

    What `train` makes of a preset of published settings is of no study: it lies under the preset's own name.
    """
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for line in source.lines:
        runs = [run for cell in line.cells.values() for run in cell.averaged or cell.runs]
        groups.setdefault(tuple(dict.fromkeys((run["study"], run["stage"]) for run in runs)), []).append(line.label)
    kinds = {stage if study in source.described else "none" for own in groups for study, stage in own}
    # What is true of all lines is said once.
    is_full = kinds == {"train"} and len(groups) > 1

    def told(study: str, stage: str) -> str:
        if study not in source.described:
            return f"{study}, train without a study"
        description = f" ({source.described[study]})" if source.described[study] else ""
        return f"study {study}{description}{', trained in full' if stage == 'train' and not is_full else ''}"

    parts = []
    for own, labels in groups.items():
        text = _few([told(*each) for each in own])
        is_named = len(groups) == 1 or labels == [own[0][0]]
        parts.append(text if is_named else f"{', '.join(labels)}: {text}")
    return [f"Runs of {'; '.join(parts)}{'; each trained in full' if is_full else ''}."] if parts else []


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
