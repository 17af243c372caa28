"""examples/walkthrough.sh, run as it is on less data and with a shorter training: from videos to the page."""

from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path

import av
import pyarrow.parquet as pq
import pytest
from paths import ROOT, shared
from test_entry_points import environment

from lacray import simpouring

SHORT = ("fit.epochs=2", "fit.steps_per_epoch=4", "data.size=32", "data.num_frames=16", "encoder.hidden=32")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def walk(folder: Path, source: Path) -> str:
    """Everything that it says, until the page answers and Ctrl-C ends it."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    # `python` is this one; the browser that the page asks for is `true`.
    (tools / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (tools / "python").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    env = environment({"PYTHONPATH": str(ROOT), "PATH": path, "BROWSER": "true", "PYTHONUNBUFFERED": "1"})
    command = ["sh", str(ROOT / "examples" / "walkthrough.sh"), str(source), *SHORT]
    said = ""
    with (
        (folder / "errors.txt").open("w") as errors,
        subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=errors, text=True) as run,
    ):
        assert run.stdout is not None
        for line in run.stdout:
            said += line
            if line.startswith("page: "):
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(line.split()[1]) as answer:
                    assert b"<title>" in answer.read()
                run.send_signal(signal.SIGINT)
    assert run.returncode == 130, said + (folder / "errors.txt").read_text()
    return said


def check(folder: Path) -> None:
    """Whether what it has written is of all videos."""
    lengths = {}
    for path in sorted((folder / "my_videos" / "videos").iterdir()):
        with av.open(str(path)) as container:
            lengths[f"videos/{path.name}"] = sum(1 for _ in container.decode(video=0))
    given = rows_of(folder / "my_videos" / "segments.csv")
    labelled = dict.fromkeys(row["video"] for row in given)
    phases = dict.fromkeys(row["phase"] for row in given)
    reference = next(iter(labelled))
    assert len(labelled) == 3

    embedded = pq.read_table(folder / "embeddings.parquet")
    assert Counter(embedded["video"].to_pylist()) == lengths

    carried = rows_of(folder / "labels" / "segments.csv")
    assert {row["video"] for row in carried} <= set(lengths) - set(labelled)
    assert {row["phase"] for row in carried} <= set(phases)
    assert carried, "no video got a label"
    assert all(0 <= int(row["start_frame"]) < int(row["end_frame"]) <= lengths[row["video"]] for row in carried)

    assert {row["video"] for row in rows_of(folder / "alignment" / "matches.csv")} <= {max(lengths)}
    with av.open(str(folder / "alignment" / "together.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) >= lengths[reference]

    moments = [row["video"] for row in rows_of(folder / "moments" / "moments.csv")]
    assert len(moments) == min(10, len(lengths) - 1) == len(set(moments) - {reference})

    deviations = rows_of(folder / "deviations" / "deviations.csv")
    others = {(video, phase) for video in lengths if video != reference for phase in phases}
    assert {(row["video"], row["phase"]) for row in deviations} == others


@pytest.mark.slow  # 2 minutes
def test_the_walk_goes_from_videos_to_the_page_and_goes_on_when_given_again(tmp_path):
    root = simpouring.ensure(tmp_path / "cache", num_train=6, num_val=2, size=64)
    walk(tmp_path, root)
    check(tmp_path)
    (tmp_path / "labels" / "segments.csv").unlink()
    assert "seed 0: done before, kept" in walk(tmp_path, root)
    check(tmp_path)


@pytest.mark.slow  # 3 minutes
def test_the_walk_on_grid(tmp_path):
    walk(tmp_path, shared("data/grid-s1"))
    check(tmp_path)
