"""Figures 3 and 4 from a checkpoint: drawn by other commands, put into every format of the report."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from campaign import base, metrics, write_run
from paths import ROOT

from analysis import pictures, report
from lacray import simpouring
from lacray.results import read

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_a_final_training_is_seen_in_two_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = simpouring.ensure(tmp_path / "cache", num_train=4, num_val=2, size=32)
    settings = [f"data.root={root}", "data.size=32", "data.num_frames=8", "data.batch_size=2", "fit.epochs=1"]
    command = [sys.executable, "-m", "lacray.train", "--study", "mine", *settings, "encoder.hidden=16"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=600)
    assert report.main(["--pictures"]) == 0
    assert capsys.readouterr().err == ""
    for number in (3, 4):
        assert (tmp_path / "report" / "figures" / f"figure_{number}.png").read_bytes().startswith(PNG)
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert "(figures/figure_4.png)" in (tmp_path / "report" / "report.md").read_text()


def test_without_a_checkpoint_the_report_is_written_and_says_why_there_is_no_picture(tmp_path, capsys):
    write_run(tmp_path, "s", "train-s0", [base(stage="train", split="val", **metrics(0.5))])
    assert report.main(["--results", str(tmp_path), "--out", str(tmp_path / "out"), "--pictures"]) == 0
    said = "no final training with a checkpoint is there"
    assert f"warning: --pictures: {said}" in capsys.readouterr().err
    assert said in (tmp_path / "out" / "report.md").read_text()


def test_the_latest_training_of_lac_is_drawn_before_others(tmp_path):
    for number, (loss, status) in enumerate([("lac", "done"), ("lac", "done"), ("scl", "done"), ("lac", "running")]):
        time = base()["time"].replace(hour=number)
        row = base(stage="train", split="val", status=status, time=time, **{"loss.name": loss}, **metrics(0.5))
        write_run(tmp_path, "s", f"train-{number}", [row])
    order = [row["run_id"] for row in pictures._candidates(read(str(tmp_path)))]
    assert order == ["train-1", "train-0", "train-2"]
