"""Every command of the README, run as it is printed, on less data and for fewer steps."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from test_entry_points import environment
from tiny import make_features, tiny_settings

from lacray import simpouring

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [(kind, text) for kind, text in BLOCK.findall((ROOT / "README.md").read_text())]
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line]
INSTALL = ("pip install -e . && python -m lacray.tune", "pip install -e '.[dev]' && pytest")
CLUSTER = ("ray up cluster.yaml", "ray exec cluster.yaml", "ray down cluster.yaml")


def test_first_two_commands_do_all_the_set_up():
    assert tuple(COMMANDS[:2]) == INSTALL


def run(line: str, cwd: Path, *more: str) -> str:
    words = shlex.split(line)
    assert words[0] == "python"
    env = environment({"PYTHONPATH": str(ROOT)})
    done = subprocess.run(
        [sys.executable, *words[1:], *more], cwd=cwd, env=env, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_first_command_shortened(tmp_path):
    """The study on SimPouring as it is, with two trials of one short epoch."""
    short = ("--trials", "2", "fit.epochs=1", "fit.steps_per_epoch=2", "data.cache_gib=0.1")
    said = run(INSTALL[0].partition("&&")[2].strip(), tmp_path, *short)
    assert "videos: 56 train, 14 validation, 14 val, 5 phases (simpouring)" in said
    assert re.search(r"best: trial \d, objective [\d.]+: loss.gamma=", said)
    assert "python -m lacray.train --best --study lac" in said
    assert "python analysis/report.py" in said
    assert len(list((tmp_path / "results" / "lac" / "rows").glob("trial-*.parquet"))) == 2


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Path:
    """A user's folder after the first command, on a small data set: all later commands run here, in their order."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("analysis", "search_spaces", "cluster.yaml"):
        (folder / name).symlink_to(ROOT / name)
    make_features(folder / "clips")
    run("python -m lacray.tune", folder, "--trials", "2", *tiny_settings(folder / "clips", epochs=1))
    return folder


def shortened(line: str, folder: Path) -> list[str]:
    """What makes a command of the README quick; everything that it says itself stays."""
    settings = [setting for setting in tiny_settings(folder / "clips", epochs=1) if not said(setting, line)]
    if "--resume" in line or "status" in line or "--best" in line:
        return []
    if "gamma.yaml" in line:
        return [*settings, "--concurrent", "2"]
    if "lacray.tune" in line:
        return [*settings, "--trials", "2"]
    if "lacray.train" in line:
        return settings
    return []


def said(setting: str, line: str) -> bool:
    return f" {setting.split('=')[0]}=" in f" {line}"


def later_commands() -> list[str]:
    lines = [line for line in COMMANDS if line not in INSTALL and not line.startswith(CLUSTER)]
    return [line for line in lines if "my_videos" not in line and "lacray.align" not in line]


def test_later_commands_in_their_order(user):
    for line in later_commands():
        # The grids of Tables 4 and 5 have 12 and 18 points; their seeds are enough here.
        quick = line.replace("--trials 20", "--trials 2").replace("--seeds 3", "--seeds 1")
        if "gamma.yaml" in line:
            for name in ("gamma", "formulation"):
                space = (ROOT / "search_spaces" / "paper" / f"{name}.yaml").read_text()
                space = space.replace("[0, 1, 2]", "[0]").replace("[0.6, 0.7, 0.8, 0.9]", "[0.6, 0.8]")
                (user / "paper").mkdir(exist_ok=True)
                (user / "paper" / f"{name}.yaml").write_text(space)
        run(quick, user, *shortened(line, user))
        if "gamma.yaml" in line:
            again = run(quick, user, *shortened(line, user))
            assert "finished already: gamma, formulation" in again, "what is finished is skipped"
    assert (user / "report" / "report.html").is_file()
    page = (user / "report" / "report.md").read_text()
    assert "93.44" in page, "Table 4's published figure"


def test_own_videos_and_what_is_made_of_their_alignment(tmp_path):
    root = simpouring.ensure(tmp_path / "cache", num_train=5, num_val=2, size=64)
    shutil.copytree(root / "videos", tmp_path / "my_videos")
    check, line, view = [line for line in COMMANDS if "my_videos" in line]
    assert line in run(check, tmp_path), "what the first says to type next is the second"
    short = ("fit.epochs=1", "data.size=32", "data.num_frames=16", "encoder.hidden=32")
    said = run(line, tmp_path, *short)
    (checkpoint,) = re.findall(r"^checkpoint: (.+)$", said, re.MULTILINE)
    (align,) = [line for line in COMMANDS if "lacray.align" in line]
    run(f"{align.rpartition(' ')[0]} {checkpoint}", tmp_path)
    for name in ("together.mp4", "train_001.png"):
        assert (tmp_path / "alignment" / name).stat().st_size > 10_000
    command = [sys.executable, *shlex.split(view)[1:], "--no-browser"]
    env = environment({"PYTHONPATH": str(ROOT)})
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        address = next(line.split()[1] for line in page.stdout if line.startswith("page: "))
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=60) as answer:
            assert b"<title>" in answer.read()
        page.send_signal(signal.SIGINT)
    assert page.returncode == 130


def test_python_of_the_readme(tmp_path, monkeypatch):
    snippets = [text for kind, text in BLOCKS if kind == "python"]
    assert len(snippets) == 2
    root = simpouring.ensure(tmp_path / "cache", num_train=3, num_val=1, size=64)
    run("python -m lacray.train", tmp_path, f"data.root={root}", "fit.epochs=1", "data.size=32", "data.num_frames=16")
    (checkpoint,) = (tmp_path / "results" / "train" / "checkpoints").glob("*.pt")
    checkpoint.rename(checkpoint.with_name("train.pt"))
    for name, path in zip(("video", "other"), sorted((root / "videos").glob("*.mp4")), strict=False):
        shutil.copy(path, tmp_path / f"{name}.mp4")
    monkeypatch.chdir(tmp_path)
    for snippet in snippets:
        names: dict = {}
        exec(snippet, names)
        if "embeddings" in names:
            assert names["embeddings"].shape[1] == 128
            assert np.isfinite(names["embeddings"]).all()
            assert names["there"] is None or names["there"] >= 0
        else:
            # Each frame is matched at most once, so no row or column of the marginals exceeds 1.
            assert float(names["similarity"].grad.sum(dim=2).max()) <= 1 + 1e-5
