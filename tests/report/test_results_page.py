"""`docs/results.md` against the rows that it was made of: no figure of the page is typed in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from paths import ROOT

from analysis import report

PAGE = ROOT / "docs" / "results.md"


def test_every_table_of_the_page_is_what_the_report_makes_of_its_rows(tmp_path: Path) -> None:
    made: set[str] = set()
    for place in sorted((ROOT / "docs" / "results").iterdir()):
        report.main(["--results", str(place), "--out", str(tmp_path / place.name)])
        made |= set((tmp_path / place.name / "report.md").read_text().splitlines())
    for command in re.findall(r"^(python analysis/families\.py (?:.*\\\n)*.*)$", PAGE.read_text(), re.MULTILINE):
        made |= set(printed(command).splitlines())
    shown = [line for line in PAGE.read_text().splitlines() if re.match(r"\|.*±", line)]
    assert len(shown) > 20
    assert [line for line in shown if line not in made] == []


def printed(command: str) -> str:
    """What a command of the page prints, by this interpreter."""
    line = f'python() {{ "{sys.executable}" "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True).stdout
