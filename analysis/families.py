"""Are the arms of an experiment different? Families of paired tests, over data sets, as Markdown.

python analysis/families.py PLACE/STUDY [PLACE/STUDY ...] --against ARM [--pair ARM ARM ...]

An arm is a variant; studies of one data set are read as one. First every arm, mean ± standard deviation over seeds;
then the differences of all others from `--against`, seed by seed, with 95 % intervals and Holm's p within each metric
over all arms and data sets; then the pairs that are named, a family of their own. What was tried in several places has
arms `X, PLACE`: each is compared with `ARM, PLACE` where there is one, and that with ARM.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t as student

if not __package__:
    # Run as a script, the repository itself need not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

from analysis.cells import Cell, cells, dataset_of, differences
from analysis.paired import holm, sign_flip_p
from analysis.printed import number, signed, spread
from lacray.exits import guarded
from lacray.metrics import BY_NAME
from lacray.results import ResultsError, last_rows, read
from lacray.text import printable

OBJECTIVE = "metric.objective"
SHOWN = ("class_10", "class_100", "progress", "ap_5", "event_error", "alignment_error")
"""Of the `cropped` protocol, beside the objective."""
SPLITS = ("validation", "val")

Arms = dict[str, dict[str, dict[str, Cell]]]
"""Data set -> split -> arm -> its runs."""
Pair = tuple[str, str]


def arms_of(studies: Sequence[str]) -> Arms:
    """The finished runs of the studies' variants.

    Raises:
        ResultsError: no rows, or a variant with more than one setting.
    """
    found: Arms = {}
    rows: dict[tuple[str, str, str], list[dict[str, object]]] = {}
    for study in studies:
        place, _, name = study.rstrip("/").rpartition("/")
        table = read(place or ".", name)
        own = [row for split in SPLITS for row in last_rows(table, split=split, control="none")]
        if not own or any(row["variant"] is None for row in own):
            got = "others" if own else "none"
            raise ResultsError(study, f"must have trials of variants, got {got}", "name another")
        for row in own:
            rows.setdefault((dataset_of(row), str(row["split"]), str(row["variant"])), []).append(row)
    for (dataset, split, arm), same in rows.items():
        made = cells(same)
        if len(made) > 1:
            raise ResultsError(arm, f"must be one setting on {dataset}, got {len(made)}", "name studies that agree")
        if made:
            found.setdefault(dataset, {}).setdefault(split, {})[arm] = made[0]
    return found


def columns_of(arms: dict[str, Cell]) -> list[tuple[str, str, float]]:
    """(column, label, scale) of what there is."""
    every = [(OBJECTIVE, "Objective", 100.0)]
    every += [(f"metric.cropped.{name}", BY_NAME[name].label, BY_NAME[name].scale) for name in SHOWN]
    return [column for column in every if any(arm.values(column[0]) for arm in arms.values())]


def _in_its_place(against: str, arm: str, known: Sequence[str]) -> str:
    """What an arm is compared with."""
    _, comma, place = arm.rpartition(", ")
    there = f"{against}{comma}{place}"
    return there if comma and there in known and there != arm else against


def means(arms: Arms, dataset: str) -> list[str]:
    """The lines of a data set's table of means."""
    splits = arms[dataset]
    shown = [("validation", OBJECTIVE, "Objective, validation", 100.0)]
    shown += [("val", *column) for column in columns_of(splits.get("val", {}))]
    lines = [f"| {dataset} | n | {' | '.join(label for _, _, label, _ in shown)} |", "| --- " * (len(shown) + 2) + "|"]
    for arm, cell in splits.get("validation", splits.get("val", {})).items():
        known = [splits.get(split, {}).get(arm, Cell(())).values(column).values() for split, column, _, _ in shown]
        entries = [spread(values, scale).text for values, (*_, scale) in zip(known, shown, strict=True)]
        lines.append(f"| {arm} | {len(cell.runs)} | {' | '.join(entries)} |")
    return lines


def family(arms: Arms, pairs: Sequence[Pair]) -> list[str]:
    """The lines of a table of differences on the val split, whose p are corrected within each metric.

    An arm that is missing on a data set is a line of no pairs there: the family is smaller, and shows it.
    """
    places = [(dataset, pair) for dataset in arms for pair in pairs]
    columns = columns_of({f"{d} {a}": cell for d, splits in arms.items() for a, cell in splits.get("val", {}).items()})
    entries: dict[tuple[str, Pair], list[str]] = {place: [] for place in places}
    for column, _, scale in columns:
        found = {(dataset, pair): _differences(arms[dataset], pair, column) for dataset, pair in places}
        tested = {place: p for place, own in found.items() if (p := sign_flip_p(own)) is not None}
        corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
        for place, own in found.items():
            entries[place].append(_difference(scale * np.array(own), corrected[place]) if place in tested else "–")
    lines = [f"| difference | data | n | {' | '.join(label for _, label, _ in columns)} |"]
    lines.append("| --- " * (len(columns) + 3) + "|")
    for (dataset, pair), shown in entries.items():
        num = len(_differences(arms[dataset], pair, OBJECTIVE))
        lines.append(f"| {pair[0]} − {pair[1]} | {dataset} | {num} | {' | '.join(shown)} |")
    return lines


def _differences(splits: dict[str, dict[str, Cell]], pair: Pair, column: str) -> list[float]:
    one, other = (splits.get("val", {}).get(arm, Cell(())) for arm in pair)
    return differences(one, other, column)


def _difference(values: np.ndarray, p: float) -> str:
    """Mean, half the width of its 95 % interval by Student's t, and p."""
    width = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{signed(values.mean())} ± {number(width)} ({p:.2g})"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", metavar="PLACE/STUDY")
    parser.add_argument("--against", required=True, metavar="ARM")
    parser.add_argument("--pair", nargs=2, action="append", default=[], metavar="ARM")
    arguments = parser.parse_args(argv)
    arms = arms_of(arguments.studies)
    known = list(dict.fromkeys(arm for splits in arms.values() for own in splits.values() for arm in own))
    named = [arguments.against, *(arm for pair in arguments.pair for arm in pair)]
    if unknown := [arm for arm in dict.fromkeys(named) if arm not in known]:
        raise ResultsError(", ".join(unknown), "must be an arm of these studies", f"choose from: {'; '.join(known)}")
    parts = [means(arms, dataset) for dataset in arms]
    others = [arm for arm in known if arm != arguments.against]
    parts.append(family(arms, [(arm, _in_its_place(arguments.against, arm, known)) for arm in others]))
    if arguments.pair:
        parts.append(family(arms, [(one, other) for one, other in arguments.pair]))
    print("\n\n".join("\n".join(map(printable, lines)) for lines in parts))


if __name__ == "__main__":
    guarded(main)
