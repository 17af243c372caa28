"""Parquet rows -> the paper's tables and figures, published numbers beside ours: Markdown, LaTeX, CSV, one HTML page.

python analysis/report.py [--results URI] [--study NAME ...] [--out DIR] [--pictures]
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    # Run as a script, the repository itself need not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

from analysis.formats import comma_separated, file_name, latex, markdown
from analysis.page import page
from analysis.pictures import PictureError
from analysis.pictures import from_checkpoint as pictures
from analysis.sections import Report, Section, build
from lacray.exits import advice, guarded
from lacray.results import Place, ResultsError, read, read_manifest
from lacray.text import printable


def contents(report: Report, out: Path) -> dict[Path, bytes]:
    """Every file of the report: report.md, report.tex, report.html, tables/*.csv, figures/*."""
    texts = {
        out / "report.md": markdown(report),
        out / "report.tex": latex(report),
        out / "report.html": page(report),
        **{out / "tables" / file_name(table): comma_separated(table) for table in report.all_tables()},
    }
    return {
        **{path: text.encode() for path, text in texts.items()},
        **{out / "figures" / figure.file: figure.content() for figure in report.all_figures()},
    }


def write(report: Report, out: Path) -> list[Path]:
    """Writes the report's files, each whole or not at all.

    Raises:
        ResultsError: the directory cannot be written.
    """
    files = contents(report, out)
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Somebody may be looking at the page.
            fresh = path.with_name(f".{path.name}.{os.getpid()}")
            fresh.write_bytes(content)
            fresh.replace(path)
    except OSError as error:
        raise ResultsError(
            f"--out {out}", f"must be a writable directory, got {error.strerror}", "pass another --out"
        ) from error
    return list(files)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python analysis/report.py",
        description="Tables and figures from Parquet rows; published numbers beside ours.",
    )
    parser.add_argument("--results", default="results", metavar="URI", help="directory or s3://bucket/prefix (results)")
    parser.add_argument("--study", nargs="+", metavar="NAME", help="these studies only (all)")
    parser.add_argument("--out", default="report", metavar="DIR", help="where the report goes (report)")
    parser.add_argument(
        "--pictures",
        action="store_true",
        help="draw Fig. 3 and 4 too, from the latest training of LAC, else of another loss; needs torch and videos",
    )
    arguments = parser.parse_args(argv)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            table = read(arguments.results, arguments.study)
        warned = [str(warning.message) for warning in caught]
        for text in warned:
            print(f"warning: {text}", file=sys.stderr)
        place = Place(arguments.results)
        names = sorted(set(table["study"].to_pylist()))
        manifests = {name: manifest for name in names if (manifest := read_manifest(place, name)) is not None}
        report = build(table, manifests, warned, is_whole=arguments.study is None)
        if arguments.pictures:
            try:
                drawn = pictures(table, arguments.results)
                report.add(Section("pictures", "Two videos as the encoder sees them", figures=[*drawn]))
            except PictureError as error:
                print(f"warning: --pictures: {error}", file=sys.stderr)
                report.missing.append(f"Fig. 3 and Fig. 4: {error}")
        if not arguments.out.strip():
            raise ResultsError(f"--out {arguments.out!r}", "must be a directory", "pass another --out")
        written = write(report, Path(os.path.expanduser(arguments.out)))
    except ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # Folders of data have names of any kind.
    print("\n".join(map(printable, report.summary[:1])))
    num_tables, num_figures = len(report.all_tables()), len(report.all_figures())
    print(f"wrote {written[0]}, {written[1].name}, {written[2].name}, {num_tables} tables and {num_figures} figures")
    print(f"open {shlex.quote(str(written[2]))}")
    return 0


if __name__ == "__main__":
    advice.text = "the same command writes it"
    guarded(main)
