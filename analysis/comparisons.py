"""Ours beside the paper's, and lines beside one another: published figures, their differences, and paired tests."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.cells import differences
from analysis.paired import sign_flip_p, smallest_p
from analysis.printed import Entry, Line, Table, difference, number, plain, short, signed, spread
from analysis.sources import Line as Measured
from analysis.sources import Source, label_of, printed_name, published_dataset, title_of
from lacray.metrics import BY_NAME, PROTOCOLS, Metric

SIGNIFICANT = 0.05

Column = tuple[str, Metric]
"""A column of the rows, and its metric."""


def printed_figures(name: str, label: str, paper: Mapping[str, Any]) -> dict[str, float]:
    """What the paper prints in a line of a table: metric -> per cent."""
    rows = paper["tables"].get(name, {}).get("rows") or {}
    found = {short(key): value for key, value in rows.items()}.get(label)
    if isinstance(found, Mapping):
        return dict(found)
    return dict(zip(paper["columns"], found, strict=True)) if found else {}


def _published_of(
    line: Measured | None, label: str, source: Source, home: str | None, paper: Mapping[str, Any]
) -> tuple[str, dict[str, float]]:
    """(the paper's table, what it prints) for a line; of the final trainings by the method, on the paper's own data."""
    entry = paper["tables"].get(source.table, {})
    if "rows_of" not in entry:
        return str(entry.get("source")), printed_figures(source.table, label, paper)
    for name in entry["rows_of"]:
        if line is not None and home is not None and paper["tables"][name]["dataset"] == home:
            method = label_of("loss.name", line.any.row.get("loss.name") or "lac", paper)
            return f"{method}, {paper['tables'][name]['source']}", printed_figures(name, method, paper)
    return "", {}


def with_published(
    lines: list[Line], source: Source, columns: Sequence[Column], home: str | None, paper: Mapping[str, Any]
) -> list[Line]:
    """The paper's figures under each line of its own data set, with the difference; else below, for reference."""
    entry = paper["tables"].get(source.table, {})
    is_same = home is not None and entry.get("dataset", home) == home
    by_label = {line.label: line for line in source.lines}
    result: list[Line] = []
    below: list[Line] = []
    for line in lines:
        result.append(line)
        if line.kind != "method":
            continue
        measured = by_label.get(line.label)
        base = line.label if measured is None else label_of(source.rows[0], measured.values[0], paper)
        told, figures = _published_of(measured, base, source, home, paper)
        if not figures:
            continue
        shown = [figures.get(metric.name) for _, metric in columns]
        printed = [Entry(""), *(plain(value) for value in shown)]
        if not is_same:
            name = paper["datasets"][entry["dataset"]]["name"]
            below.append(Line(f"{base}, published ({name})", printed, "published"))
            continue
        result.append(Line(f"published ({told})", printed, "published"))
        gaps = [
            difference(ours.mean - value) if ours.mean is not None and value is not None else Entry()
            for ours, value in zip(line.entries[1:], shown, strict=True)
        ]
        # The paper's are of the val split, as no figure on the validation share is.
        if source.split == "val" and any(gap.mean is not None for gap in gaps):
            result.append(Line("ours − published", [Entry(""), *gaps], "difference"))
    # One line each, however many of ours there are.
    return result + list({line.label: line for line in below}.values())


def gain(source: Source, spec: Mapping[str, Any], paper: Mapping[str, Any]) -> Table:
    """What the paper's text says of one line less another, beside ours."""
    entry = paper["tables"][source.table]
    metrics = [BY_NAME[name] for name in spec["values"]]
    by_label = {line.label: line.any for line in source.lines}
    sides = [by_label.get(spec[side]) for side in ("of", "over")]
    lines = []
    for protocol in PROTOCOLS:
        gaps = []
        for metric in metrics:
            known = None not in sides
            found = differences(sides[0], sides[1], f"metric.{protocol}.{metric.name}") if known else []  # type: ignore[arg-type]
            own = spread(found, metric.scale, competes=False)
            own.text = own.text if own.mean is None else signed(own.mean) + own.text[len(number(own.mean)) :]
            gaps.append(own)
        lines.append(Line(f"ours, {protocol} ({printed_name(source.dataset)})", _counted(gaps)))
    name = paper["datasets"][entry["dataset"]]["name"]
    lines.append(Line(f"published ({name})", [Entry(""), *map(difference, spec["values"].values())], "published"))
    other = published_dataset(source.dataset, paper) != entry["dataset"]
    return Table(
        f"{source.key}-gain",
        f"{entry['source']}: what {spec['of']} gains over {spec['over']}, {source.where}",
        ["", "n", *(metric.label for metric in metrics)],
        lines,
        [None] * (len(metrics) + 1),
        [
            f"Differences in pairs by seed. Published: from the paper's text on {entry['source']}, which does not say "
            "at which share of the labels; Class@100 is taken."
            + (" Another data set than ours: for reference only." if other else "")
        ],
    )


# --- paired tests ----------------------------------------------------------------------------------------------------


def paired_tests(
    source: Source, entry: Mapping[str, Any], columns: Sequence[Column], protocol: str, paper: Mapping[str, Any]
) -> list[Table]:
    """The best line less the runner-up, and every line less the one that the table compares with, seed by seed."""
    if len(source.lines) < 2:
        return []
    lines, entries = [], []
    for key, metric in columns:
        ordered = _ordered(source.lines, key, metric)
        found = differences(ordered[0].any, ordered[1].any, key) if len(ordered) > 1 else []
        names = f"{ordered[0].label} − {ordered[1].label}" if len(ordered) > 1 else None
        entries.append(_tested(found, metric.scale, names))
    lines.append(Line("best − runner-up", _counted(entries)))
    against = [line for line in source.lines if label_of(source.rows[0], line.values[0], paper) == entry.get("against")]
    if len(against) == 1:
        for line in source.lines:
            if line is against[0]:
                continue
            pairs = [differences(line.any, against[0].any, key) for key, _ in columns]
            tested = [_tested(found, m.scale) for found, (_, m) in zip(pairs, columns, strict=True)]
            lines.append(Line(f"{line.label} − {against[0].label}", _counted(tested)))
    most = max(entry.num or 0 for line in lines for entry in line.entries)
    floor = smallest_p(most) if most > 1 else 1.0
    notes = [
        "Two-sided sign-flip test of the mean difference in pairs by seed: exact, it assumes independent pairs and "
        "differences symmetric about 0, no normal distribution. p is not corrected for the number of comparisons, and "
        "the best and the runner-up were found on the same seeds: theirs is too small rather than too large."
    ]
    if floor > SIGNIFICANT:
        notes.append(
            f"With {most} pair{'s' * (most != 1)} the smallest p that this test can give is {floor:.3g}: nothing here "
            f"can be significant at {SIGNIFICANT}, whatever its size; six seeds are the least."
        )
    return [
        Table(
            f"{source.key}-{protocol}-tests",
            f"{title_of(source, paper)}, {source.where}, protocol {protocol}: differences in pairs by seed",
            ["difference (p)", "n", *(metric.label for _, metric in columns)],
            lines,
            [None] * (len(columns) + 1),
            notes,
        )
    ]


def _ordered(lines: Sequence[Measured], key: str, metric: Metric) -> list[Measured]:
    """Lines that have a metric, the best first."""
    known = [(line, list(line.any.values(key).values())) for line in lines]
    means = [(line, sum(values) / len(values)) for line, values in known if values]
    return [line for line, _ in sorted(means, key=lambda own: own[1], reverse=metric.better == "max")]


def _tested(found: Sequence[float], scale: float, names: str | None = None) -> Entry:
    if not found:
        return Entry()
    mean = scale * sum(found) / len(found)
    deviation = scale * statistics.stdev(found) if len(found) > 1 else None
    p = sign_flip_p(found)
    text = (f"{names}: " if names else "") + signed(mean) + ("" if p is None else f" ({p:.2g})")
    return Entry(text, mean=mean, deviation=deviation, num=len(found), p=p, between=names)


def _counted(entries: Sequence[Entry]) -> list[Entry]:
    """The number of pairs, then the entries; one of fewer pairs says so."""
    most = max((entry.num or 0 for entry in entries), default=0)
    for entry in entries:
        if entry.num is not None and entry.num != most:
            entry.text += f" (n {entry.num})"
    return [Entry(str(most)) if most else Entry(), *entries]
