"""What each table is made of: studies name the tables that they feed, and cells are put together by their data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from analysis.cells import (
    ALONE,
    CONTROLS,
    Cell,
    Key,
    Row,
    cells,
    control_key_of,
    controls_of,
    dataset_of,
    key_of,
    mean_over_actions,
    settings_of,
    varying,
)
from analysis.printed import short
from lacray.results import last_rows

FINAL = "final"
"""The table of all final trainings, by study; no study needs to name it."""
MAX_TOLD = 3
NULLABLE = ("data.action", "data.lead_in", "data.tier", "fit.full_epochs")
"""Settings other than the loss's that a run may have as null: rows do not tell that from a version without them."""
LACKED = short(None)


@dataclass(frozen=True)
class Feeding:
    """What the manifest of a study says of how it is shown."""

    study: str
    feeds: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    is_grid: bool
    variants: dict[str, dict[str, Any]]
    choices: dict[str, list[Any]]
    description: str = ""

    @classmethod
    def of(cls, study: str, manifest: Mapping[str, Any]) -> Feeding:
        space = manifest.get("space") or {}
        specs = space.get("search") or {}
        feeds, rows, columns = (tuple(space.get(name) or ()) for name in ("feeds", "rows", "columns"))
        is_grid = space.get("sampler") == "grid"
        choices = {key: spec["choices"] for key, spec in specs.items() if isinstance(spec, dict) and "choices" in spec}
        told = " ".join(str(space.get("description") or "").split()).rstrip(".")
        return cls(study, feeds, rows, columns, is_grid, space.get("variants") or {}, choices, told)

    def expected(self, key: str) -> list[Any]:
        """What a row key will be, once all of the grid is there."""
        if not self.is_grid:
            return []
        if key == "variant":
            return list(self.variants)
        named = [values[key] for values in self.variants.values() if key in values]
        return list(dict.fromkeys(named)) or self.choices.get(key, [])


@dataclass
class Line:
    """One line of a table: cells of one setting, by the values of the column keys."""

    label: str
    values: tuple[Any, ...]
    """Of the row keys."""
    cells: dict[tuple[Any, ...], Cell]

    @property
    def any(self) -> Cell:
        return next(iter(self.cells.values()))


@dataclass
class Source:
    """What a table shows of one data set and split."""

    table: str
    dataset: str
    split: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    lines: list[Line] = field(default_factory=list)
    by_action: dict[str, list[Line]] = field(default_factory=dict)
    """Of trainings on one action each: action -> its lines."""
    expected: list[Any] = field(default_factory=list)
    of_columns: set[str] = field(default_factory=set)
    """What follows from the column: the settings of the variants, where these name the columns."""
    studies: list[str] = field(default_factory=list)
    described: Mapping[str, str] = field(default_factory=dict)
    """What each study with a manifest says that it is; what `train` alone has made is of none."""
    number: int = 1
    """Of those of one table, data set and split: studies may feed it by other row keys."""
    num_open: int = 0
    num_runs: int = 0

    @property
    def key(self) -> str:
        """The name that its tables and their files begin with."""
        parts = [self.table, self.dataset, *(["validation"] if self.split != "val" else [])]
        return "-".join([*parts, *([str(self.number)] if self.number > 1 else [])])

    @property
    def where(self) -> str:
        """The data set in prose."""
        alone = f", mean of {len(self.by_action)} actions, each trained alone" if self.by_action else ""
        return printed_name(self.dataset) + alone

    @property
    def cells(self) -> list[Cell]:
        alone = [line for lines in self.by_action.values() for line in lines]
        return [cell for line in [*self.lines, *alone] for cell in line.cells.values()]


def published() -> dict[str, Any]:
    """The tables of the report with the paper's numbers, from `published.yaml`."""
    loaded: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return loaded


def published_dataset(dataset: str, paper: Mapping[str, Any]) -> str | None:
    """Which of the paper's data sets this very one is."""
    return next((name for name, own in paper["datasets"].items() if dataset.lower() in own["roots"]), None)


def printed_name(dataset: str) -> str:
    """A data set's name as it is written in prose."""
    return "SimPouring" if dataset == "simpouring" else dataset


def gather(table: pa.Table, feedings: Iterable[Feeding], paper: Mapping[str, Any]) -> list[Source]:
    """The sources of all tables, in the order of `published.yaml`.

    A grid is read off its own trials on the report split, or on the validation share where it did not score that one;
    of a search, whose trials competed, the final trainings count.
    """
    rows = {
        (stage, split): last_rows(table, stage=stage, split=split, control="none")
        for stage in ("tune", "train")
        for split in ("val", "validation")
    }
    begun = {stage: last_rows(table, stage=stage, control="none") for stage in ("tune", "train")}
    trained = sorted({row["study"] for row in begun["train"]})
    found: dict[tuple[Any, ...], tuple[Source, list[Row]]] = {}
    feedings = list(feedings)
    described = {feeding.study: feeding.description for feeding in feedings}
    everywhere = [Feeding(study, (FINAL,), ("study",), (), False, {}, {}) for study in trained]
    for feeding in [*everywhere, *feedings]:
        stage = "tune" if feeding.is_grid else "train"
        own = [row for row in begun[stage] if row["study"] == feeding.study]
        for split in ("val", "validation"):
            scored = [row for row in rows[stage, split] if row["study"] == feeding.study]
            if scored:
                break
        for dataset in dict.fromkeys(dataset_of(row) for row in own):
            name = _table_for(feeding.feeds, dataset, paper)
            if name is None:
                continue
            key = (name, dataset, split, feeding.rows, feeding.columns)
            source, gathered = found.setdefault(key, (Source(*key, described=described), []))
            gathered += [row for row in scored if dataset_of(row) == dataset]
            mine = [row for row in own if dataset_of(row) == dataset]
            if "variant" in feeding.columns:
                source.of_columns.update(*feeding.variants.values())
            source.studies.append(feeding.study)
            source.num_runs += len(mine)
            source.num_open += sum(row["status"] != "done" for row in mine)
            if len(feeding.rows) == 1:
                source.expected += [v for v in feeding.expected(feeding.rows[0]) if v not in source.expected]
    counts: dict[tuple[str, ...], int] = {}
    for source, gathered in found.values():
        place = (source.table, source.dataset, source.split)
        source.number = counts[place] = counts.get(place, 0) + 1
        _fill(source, gathered, paper)
    order = list(paper["tables"])
    return sorted(
        (source for source, _ in found.values()),
        key=lambda own: (order.index(own.table) if own.table in order else len(order), own.table, own.dataset),
    )


def _table_for(feeds: Sequence[str], dataset: str, paper: Mapping[str, Any]) -> str | None:
    """Of the tables that a study feeds, the one of this data set, else the first."""
    home = published_dataset(dataset, paper)
    same = [name for name in feeds if home and paper["tables"].get(name, {}).get("dataset") == home]
    return next(iter([*same, *feeds]), None)


def _fill(source: Source, rows: Sequence[Row], paper: Mapping[str, Any]) -> None:
    together = cells(row for row in rows if row.get("data.action") is None)
    alone: dict[str, list[Cell]] = {}
    for action in sorted({row["data.action"] for row in rows if row.get("data.action") is not None}):
        alone[action] = cells(row for row in rows if row.get("data.action") == action)
        source.by_action[action] = lines_of(alone[action], source, paper)
    source.lines = lines_of([*together, *_means(alone)], source, paper)


def _means(alone: Mapping[str, Sequence[Cell]], key_of: Callable[[Row], Key] = key_of) -> list[Cell]:
    """The means over actions that were each trained alone, of each key that all actions have."""
    alike: dict[Any, dict[str, Cell]] = {}
    for action, measured in alone.items():
        for cell in measured:
            # The videos are the action's own.
            key = key_of({**cell.row, "data.action": None, "videos": None})
            alike.setdefault(key, {})[action] = cell
    whole = [mean_over_actions(list(own.values())) for own in alike.values() if len(own) == len(alone)]
    return [cell for cell in whole if cell is not None]


def controls_beside(source: Source, scored: Sequence[Row], column: tuple[Any, ...] | None = None) -> list[Cell]:
    """The controls that stand beside the lines of a table: of the same key and seeds, averaged as they are.

    Args:
        source: what the table is made of.
        scored: rows of controls.
        column: the cells of this column alone.
    """

    def measured(lines: Iterable[Line]) -> list[Cell]:
        return [cell for line in lines for at, cell in line.cells.items() if column is None or at == column]

    joint = [cell for cell in measured(source.lines) if cell.row.get("data.action") != ALONE]
    found = controls_of(joint, scored)
    alone = {action: controls_of(measured(lines), scored) for action, lines in source.by_action.items()}
    for control in CONTROLS if alone else ():
        own = {a: [c for c in cs if c.control == control and c.runs] for a, cs in alone.items()}
        found += _means(own, control_key_of) or [Cell((), control)]
    return sorted(found, key=lambda cell: list(CONTROLS).index(cell.control))


def lines_of(measured: Sequence[Cell], source: Source, paper: Mapping[str, Any]) -> list[Line]:
    """Cells as the lines of a table; of lines with one label, what they differ in is said."""
    named = (*source.rows, *source.columns)
    groups: dict[tuple[Any, ...], Line] = {}
    for cell in measured:
        values = tuple(cell.row.get(key) for key in source.rows)
        column = tuple(cell.row.get(key) for key in source.columns)
        rest = key_of({**cell.row, **dict.fromkeys({*named, *_of_column(source)} - {"study", "variant"})})
        label = ", ".join(label_of(key, value, paper) for key, value in zip(source.rows, values, strict=True))
        line = groups.setdefault((json.dumps(values), rest), Line(label, values, {}))
        line.cells[column] = cell
    lines = list(groups.values())
    for label in {line.label for line in lines}:
        same = [line for line in lines if line.label == label]
        if len(same) > 1:
            _tell_apart(same)
    ranks = {label: rank for rank, label in enumerate(_paper_labels(source.table, paper))}
    expected = {json.dumps(value): rank for rank, value in enumerate(source.expected)}

    def order(line: Line) -> tuple[Any, ...]:
        value = line.values[0]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        base = label_of(source.rows[0], value, paper)
        return (
            ranks.get(base, len(ranks)) if not is_number else 0,
            value if is_number else 0.0,
            expected.get(json.dumps(value), len(expected)),
        )

    return sorted(lines, key=order)


def _of_column(source: Source) -> set[str]:
    """What of a cell follows from its column: each share of lead-in has videos of its own."""
    has_videos = any(key.startswith("data.") for key in (*source.columns, *source.of_columns))
    return source.of_columns | ({"videos"} if has_videos else set())


def _tell_apart(same: Sequence[Line]) -> None:
    """Adds to lines of one label what they differ in."""
    rows = [line.any.row for line in same]
    keys = varying(rows)
    # What some of them lack is told where nothing else tells them apart.
    lacked = sorted({"videos", *(key for row in rows for key in settings_of(row))} - {"data.root"})
    keys = keys or [key for key in lacked if len({str(row.get(key)) for row in rows}) > 1]
    for number, (line, row) in enumerate(zip(same, rows, strict=True), 1):
        told = [f"{key} {short(row.get(key))}" for key in keys[:MAX_TOLD]]
        if len({own["study"] for own in rows}) == len(same):
            told = [f"study {row['study']}"]
        line.label += f" ({', '.join(told) or number})"
    twice = [line for line in same if sum(other.label == line.label for other in same) > 1]
    for number, line in enumerate(twice, 1):
        line.label += f" [{number}]"


def label_of(key: str, value: Any, paper: Mapping[str, Any]) -> str:
    """What a line or a column is called by the value of its key."""
    known = paper.get("labels", {}).get(key, {})
    return str(known[value]) if isinstance(value, str) and value in known else short(value)


def _paper_labels(name: str, paper: Mapping[str, Any]) -> list[str]:
    return [short(label) for label in (paper["tables"].get(name, {}).get("rows") or {})]


def unlike_settings(lines: Sequence[Line], named: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Settings other than the loss's and those that name lines and columns, by which lines differ: value -> lines.

    What `later_settings` names is not among them.
    """
    later = later_settings(lines, named)
    found = _values_of_settings(lines, named)
    return {key: values for key, values in found.items() if len(values) > 1 and key not in later}


def later_settings(lines: Sequence[Line], named: Iterable[str]) -> dict[str, str]:
    """Settings that the version of some lines did not have, and that have one value in all others: key -> that value.

    Nobody chose them apart, so that they are no difference of the settings. That is safe to say only beside their
    value: what the older version did in its place is not in its rows, and need not be the same. So they are told in a
    line of their own and never dropped, and the lines stay cells of their own. A setting that may be null (NULLABLE)
    is never one of them: there, null is a choice. Where the others have several values, it is a difference.
    """
    found = _values_of_settings(lines, named)
    return {
        key: next(value for value in values if value != LACKED)
        for key, values in found.items()
        if len(values) == 2 and LACKED in values and key not in NULLABLE
    }


def _values_of_settings(lines: Sequence[Line], named: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    skipped = {*named, "data.root"}
    found: dict[str, dict[str, list[str]]] = {}
    for key in sorted({key for line in lines for key in settings_of(line.any.row)} - skipped):
        if key.startswith("loss."):
            continue
        for line in lines:
            value = short(line.any.row.get(key))
            found.setdefault(key, {}).setdefault(value, []).append(line.label)
    return found


def title_of(source: Source, paper: Mapping[str, Any]) -> str:
    """A table's name: as the paper numbers it, what it compares."""
    entry = paper["tables"].get(source.table, {})
    told = str(entry.get("title") or source.table.replace("_", " "))
    if "source" in entry:
        return f"{entry['source']}: {told}"
    return told[:1].upper() + told[1:]
