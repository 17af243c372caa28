"""What the report is made of, before any format: sections of tables and figures, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from analysis import figures, tables, trials
from analysis.cells import CONTROLS, dataset_of
from analysis.figures import Figure, Picture
from analysis.printed import DASH, Table
from analysis.sources import FINAL, Feeding, Source, gather, printed_name, published, title_of
from lacray.results import last_rows


@dataclass
class Section:
    """A heading with its tables and figures, in order."""

    key: str
    title: str
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure | Picture] = field(default_factory=list)


@dataclass
class Report:
    """Everything that the formats print."""

    title: str
    summary: list[str]
    sections: list[Section]
    missing: list[str]
    """What was not run yet, with the command that runs it."""
    provenance: list[str]

    def add(self, section: Section) -> None:
        """Behind the tables, before what each study did."""
        before = [own for own in self.sections if not own.key.startswith("study-")]
        self.sections = [*before, section, *self.sections[len(before) :]]

    def all_figures(self) -> list[Figure | Picture]:
        return [figure for section in self.sections for figure in section.figures]

    def all_tables(self) -> list[Table]:
        return [table for section in self.sections for table in section.tables]


def build(
    table: pa.Table, manifests: Mapping[str, Mapping[str, Any]], warned: Sequence[str] = (), *, is_whole: bool = True
) -> Report:
    """The report of all rows in a table.

    Args:
        table: from `lacray.results.read`.
        manifests: study -> its manifest, of the studies that have one.
        warned: what could not be read, in words.
        is_whole: whether these are all rows; of some studies, nothing can be said of what was not run.

    Returns:
        Its sections; those with nothing to show are absent, and named in `missing`.
    """
    paper = published()
    feedings = [Feeding.of(study, manifest) for study, manifest in manifests.items()]
    sources = gather(table, feedings, paper)
    controls = {
        split: [row for name in CONTROLS for row in last_rows(table, split=split, control=name)]
        for split in ("val", "validation")
    }
    sections: dict[str, Section] = {}
    for source in sources:
        own = sections.setdefault(source.table, Section(source.table, title_of(source, paper)))
        own.tables += tables.tables_of(source, controls[source.split], paper)
        own.figures += figures.curves(source, controls[source.split], paper)
    studies = sorted(set(table["study"].to_pylist()))
    grids = {feeding.study for feeding in feedings if feeding.is_grid}
    parts = [*sections.values(), *(_study_section(table, study, study in grids) for study in studies)]
    kept = [section for section in parts if section.tables or section.figures]
    missing = _missing(table, sources, grids, {section.key for section in kept}, paper) if is_whole else []
    return Report("lacray: results", _summary(table, studies, warned), kept, missing, _provenance(table))


def _study_section(table: pa.Table, study: str, is_grid: bool) -> Section:
    own = trials.of_study(table, study)
    if not trials.trials_of(own):
        return Section(f"study-{study}", f"Runs of {study}", [], list(figures.study_figures(own, study, None)))
    # A grid of seeds and named points is read off its own table.
    found = None if is_grid else trials.importance(own)
    parts = [trials.trial_table(own, study)]
    if found is not None and found.shares:
        parts.append(trials.importance_table(study, found))
    elif found is not None:
        parts[0].notes += found.notes
    return Section(f"study-{study}", f"Study {study}", parts, list(figures.study_figures(own, study, found)))


def _missing(
    table: pa.Table, sources: Sequence[Source], grids: set[str], shown: set[str], paper: Mapping[str, Any]
) -> list[str]:
    """Tables without a single run, in one line, and studies whose best was not trained in full."""
    begun = {source.table: source for source in sources}
    lines = []
    for name, source in begun.items():
        if name not in shown and name != FINAL:
            told = f"{source.num_open} of {source.num_runs} runs are going on" if source.num_open else "no run"
            lines.append(f"{title_of(source, paper)}: nothing is finished yet ({told}; {_studies(source)})")
    begun_runs = {
        stage: {row["study"] for row in last_rows(table, stage=stage, control="none")} for stage in ("tune", "train")
    }
    waiting = sorted(begun_runs["tune"] - begun_runs["train"] - grids)
    if waiting:
        lines.append(
            f"Final trainings of {', '.join(waiting)}: python -m lacray.train --best --study {waiting[0]}"
            + (", and so on" if len(waiting) > 1 else "")
        )
    absent: dict[str, list[str]] = {}
    # Of Tables 1 and 2 the data set decides which one a study feeds.
    used = {paper["tables"][name].get("space") for name in begun if name in paper["tables"]}
    for name, entry in paper["tables"].items():
        if name not in begun and "space" in entry and entry["space"] not in used:
            absent.setdefault(entry["space"], []).append(entry.get("source") or entry["title"])
    if absent:
        told = ", ".join(" and ".join(names) for names in absent.values())
        lines.append(f"{told}: python -m lacray.tune {' '.join(absent)}")
    return lines


def _studies(source: Source) -> str:
    return _several("study", "studies", list(dict.fromkeys(source.studies)))


def _summary(table: pa.Table, studies: Sequence[str], warned: Sequence[str]) -> list[str]:
    runs = last_rows(table)
    own = [row for row in runs if row["control"] == "none"]
    counts = {status: sum(row["status"] == status for row in own) for status in ("done", "pruned", "running", "failed")}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    datasets = sorted({printed_name(dataset_of(row)) for row in runs})
    lines = [
        f"{len(own)} runs ({told}) and {len(runs) - len(own)} controls, of {_several('study', 'studies', studies)}, "
        f"on {', '.join(datasets)}.",
        "A cell is mean ± standard deviation over n seeds, in per cent unless said otherwise; "
        f"{DASH} is what was not run. Bold is the best of a column, underlined the second, controls included. "
        "The controls: the same encoder before any training, and the positional code alone.",
    ]
    failed = [
        f"{row['study']}/{row['run_id']}: {row['error'] or 'no reason given'}"
        for row in own
        if row["status"] == "failed"
    ]
    if failed:
        lines.append(f"Failed runs, left out: {'; '.join(failed[:5])}" + (" and more." if len(failed) > 5 else "."))
    return [*lines, *(f"Warning: {text}." for text in warned)]


def _several(one: str, many: str, names: Sequence[str]) -> str:
    return f"{one if len(names) == 1 else many} {', '.join(names)}"


def _provenance(table: pa.Table) -> list[str]:
    lines = []
    for column, label in (
        ("commit", "commit"),
        ("lacray_version", "lacray"),
        ("torch_version", "torch"),
        ("ray_version", "ray"),
        ("python_version", "python"),
        ("op_backend", "operator backend"),
        ("device", "device"),
        ("world_size", "workers"),
        ("evaluation.stride", "evaluation stride"),
        ("evaluation.crop_seed", "crop seed"),
    ):
        if column in table.schema.names:
            known = sorted({str(value) for value in table[column].unique().to_pylist() if value is not None})
            if known:
                lines.append(f"{label}: {', '.join(known)}")
    return lines
