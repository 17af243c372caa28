"""Figures 3 and 4 of the paper from a checkpoint: other commands draw them, in processes of their own.

The report itself imports no torch; what can be drawn without a checkpoint needs none.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from analysis.cells import Row
from analysis.figures import Picture
from lacray.results import Place, fetch_checkpoint, last_rows

ROOT = Path(__file__).resolve().parents[1]
NEIGHBOURS = 5
TIMEOUT_S = 1800


class PictureError(Exception):
    """Why there is no picture, in words."""


def from_checkpoint(table: pa.Table, results: str) -> list[Picture]:
    """Fig. 3, the alignment of two videos, and Fig. 4, the moments that are nearest to one of them.

    Of the final trainings that kept their checkpoint it is the latest one of LAC, else the latest of any loss; the
    videos are those that the commands choose, of the val split where it has two.

    Args:
        table: all rows.
        results: where they lie.

    Raises:
        PictureError: there is no checkpoint, or a command fails; with what it says.
        ResultsError: the results cannot be read.
    """
    place = Place(results)
    with tempfile.TemporaryDirectory(prefix="lacray-") as folder:
        scratch = Path(folder)
        for row in _candidates(table):
            checkpoint = fetch_checkpoint(place, row["study"], row["run_id"], scratch)
            if checkpoint is not None:
                return _drawn(row, checkpoint, scratch)
    raise PictureError("no final training with a checkpoint is there; python -m lacray.train makes one")


def _candidates(table: pa.Table) -> list[Row]:
    runs = [row for row in last_rows(table, stage="train", control="none") if row["status"] == "done"]
    return sorted(runs, key=lambda row: (row.get("loss.name") == "lac", row["time"]), reverse=True)


def _drawn(row: Row, checkpoint: Path, scratch: Path) -> list[Picture]:
    whose = f"study {row['study']}, {row['run_id']}"
    aligned = scratch / "aligned"
    _run("lacray.align", str(checkpoint), "--out", str(aligned), "--no-film")
    (drawn,) = aligned.glob("*.png")
    with (aligned / "matches.csv").open(newline="", encoding="utf-8") as file:
        matches = list(csv.DictReader(file))
    made = [Picture("figure_3", f"Fig. 3: two videos aligned by {whose}.", drawn.read_bytes())]
    if not matches:
        return made
    # In the middle of what the two have in common.
    middle = matches[len(matches) // 2]
    frame = round(float(middle["frame"]))
    found = scratch / "found"
    moment = f"{middle['video']}@#{frame}"
    _run("lacray.retrieve", str(checkpoint), moment, row["data.root"], "-k", str(NEIGHBOURS), "--out", str(found))
    caption = f"Fig. 4: the moments nearest to frame {frame} of {middle['video']}, one a video, by {whose}."
    return [*made, Picture("figure_4", caption, (found / "moments.png").read_bytes())]


def _run(module: str, *arguments: str) -> None:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command: Sequence[str] = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PictureError(f"{module}: took longer than {TIMEOUT_S} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise PictureError(f"{module}: {said[-1] if said else f'exit code {done.returncode}'}")
