"""python -m lacray.results compact --results URI [--study NAME ...]: many runs' rows into one file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

from lacray.exits import advice, guarded
from lacray.results import LeaseError, Place, ResultsError, check_name, compact, studies


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lacray.results", description="Looks after results.")
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser(
        "compact",
        help="pack finished runs' rows into one file",
        description="Packs the rows of finished runs into rows/compacted-HASH.parquet; safe while a study runs.",
    )
    packing.add_argument(
        "--results", default="results", metavar="URI", help="directory or s3://bucket/prefix (results)"
    )
    packing.add_argument("--study", nargs="+", metavar="NAME", help="these studies only (all)")
    arguments = parser.parse_args(argv)
    try:
        place = Place(arguments.results, patience=30.0, tell=lambda line: print(line, file=sys.stderr))
        names = [check_name("study", name) for name in arguments.study or ()]
        there = studies(place)
        if not there:
            raise ResultsError(place.uri, "holds no results", "pass another --results")
        if unknown := [name for name in names if name not in there]:
            raise ResultsError(
                f"study {', '.join(unknown)}", f"is not in {place.uri}", f"choose from: {', '.join(there)}"
            )
        for name in names or there:
            num, total = compact(place, name, wait_line=lambda line: print(line, file=sys.stderr))
            print(f"{name}: {num} runs packed, {total} packed in all")
    except (ResultsError, LeaseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    advice.text = "the same command goes on from here"
    guarded(main)
