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

import commands
import numpy as np
import pytest
import yaml
from paths import ROOT
from tiny import make_features, tiny_settings

from lacray import results, simpouring

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [(kind, text) for kind, text in BLOCK.findall((ROOT / "README.md").read_text())]
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line]
INSTALL = ("pip install -e . && python -m lacray.tune", "pip install -e '.[dev]' && pytest")
POURING = ROOT / "search_spaces" / "pouring.yaml"
CLUSTER = ("ray up cluster.yaml", "ray exec cluster.yaml", "ray down cluster.yaml")


def test_first_two_commands_do_all_the_set_up():
    assert tuple(COMMANDS[:2]) == INSTALL


def run(line: str, cwd: Path, *more: str) -> str:
    words = shlex.split(line)
    assert words[0] == "python"
    return commands.run(*words[1:], *more, cwd=cwd, env={"PYTHONPATH": str(ROOT)})


def test_the_first_command_shortened(tmp_path):
    """The study on SimPouring as it is, with a trial of one short epoch."""
    short = ("--trials", "1", "fit.epochs=1", "fit.steps_per_epoch=2", "data.cache_gib=0.1")
    said = run(INSTALL[0].partition("&&")[2].strip(), tmp_path, *short)
    assert "videos: 56 train, 14 validation, 14 val, 5 phases (simpouring)" in said
    assert re.search(r"best: trial 0, objective [\d.]+: loss.gamma=", said)
    assert "python -m lacray.train --best --study lac" in said
    assert "python analysis/report.py" in said
    assert len(list((tmp_path / "results" / "lac" / "rows").glob("trial-*.parquet"))) == 1


@pytest.mark.slow
def test_the_setting_whose_figures_the_readme_has_is_trained_again(tmp_path):
    (line,) = re.findall(r"`(python -m lacray\.train pouring\.yaml [^`]*)`", (ROOT / "README.md").read_text())
    clips = make_features(tmp_path / "clips")
    told = run(line.replace("--seeds 3", "--seeds 2"), tmp_path, *tiny_settings(clips, epochs=1))
    rows = results.read(str(tmp_path / "results"), "pouring")
    found = {(row["loss.gamma"], row["seed"]) for row in rows.to_pylist()}
    assert found == {(yaml.safe_load(POURING.read_text())["fixed"]["loss.gamma"], seed) for seed in (0, 1)}, told


def shortened(line: str, folder: Path) -> list[str]:
    """What makes a command of the README quick; everything that it says itself stays."""
    settings = [setting for setting in tiny_settings(folder / "clips", epochs=1) if not said(setting, line)]
    if "--resume" in line or "status" in line or "--best" in line:
        return []
    if "gamma.yaml" in line:
        return [*settings, "--concurrent", "2"]
    return settings if "lacray.tune" in line or "lacray.train" in line else []


def said(setting: str, line: str) -> bool:
    return f" {setting.split('=')[0]}=" in f" {line}"


def later_commands() -> list[str]:
    lines = [line for line in COMMANDS if line not in INSTALL and not line.startswith(CLUSTER)]
    return [line for line in lines if "my_videos" not in line and "lacray.align" not in line]


@pytest.mark.slow
def test_later_commands_in_their_order(studied, best_trained):
    folder = studied.folder
    for line in later_commands():
        quick = line.replace("--trials 20", "--trials 1").replace("--seeds 3", "--seeds 2")
        if "gamma.yaml" in line:
            # The grids of Tables 4 and 5 have 12 and 18 points; one and two of them are enough here.
            for name, space in shortened_grids().items():
                (folder / "paper").mkdir(exist_ok=True)
                (folder / "paper" / f"{name}.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
        told = run(quick, folder, *shortened(line, folder))
        if "gamma.yaml" in line:
            again = run(quick, folder, *shortened(line, folder))
            assert "finished already: gamma, formulation" in again, "what is finished is skipped"
        if "--best" in line:
            assert told.count("done before, kept") == 2, "so it was by the fixture"
    assert (folder / "report" / "report.html").is_file()
    page = (folder / "report" / "report.md").read_text()
    assert "93.44" in page, "Table 4's published figure"
    assert "untrained" in page.lower()
    best = results.best(results.read(str(folder / "results"), "lac"))
    assert f"{100 * best['metric.objective']:.1f}"[:3] in page


def shortened_grids() -> dict[str, dict]:
    spaces = {
        name: yaml.safe_load((ROOT / "search_spaces" / "paper" / f"{name}.yaml").read_text())
        for name in ("gamma", "formulation")
    }
    for space in spaces.values():
        space["search"]["seed"]["choices"] = [0]
    spaces["gamma"]["search"]["loss.gamma"]["choices"] = [0.8]
    variants = spaces["formulation"]["variants"]
    spaces["formulation"]["variants"] = {name: variants[name] for name in ("L_c", "L_c + L_l + L_sw")}
    return spaces


@pytest.fixture(scope="module")
def own_videos(tmp_path_factory) -> tuple[Path, str]:
    """A folder with videos that the README's command has trained on, and what that said."""
    folder = tmp_path_factory.mktemp("own")
    root = simpouring.ensure(folder / "cache", num_train=5, num_val=2, size=64)
    shutil.copytree(root / "videos", folder / "my_videos")
    (line,) = [line for line in COMMANDS if "my_videos" in line and "lacray.train" in line]
    short = ("fit.epochs=1", "data.size=32", "data.num_frames=16", "encoder.hidden=32")
    return folder, run(line, folder, *short)


@pytest.mark.slow
def test_own_videos_and_what_is_made_of_their_alignment(own_videos):
    folder, said = own_videos
    check, line, view = [line for line in COMMANDS if "my_videos" in line]
    assert line in run(check, folder), "what the first says to type next is the second"
    (checkpoint,) = re.findall(r"^checkpoint: (.+)$", said, re.MULTILINE)
    (align,) = [line for line in COMMANDS if "lacray.align" in line]
    run(f"{align.rpartition(' ')[0]} {checkpoint}", folder)
    for name in ("together.mp4", "train_001.png"):
        assert (folder / "alignment" / name).stat().st_size > 10_000
    command = [sys.executable, *shlex.split(view)[1:], "--no-browser"]
    env = commands.environment({"PYTHONPATH": str(ROOT)})
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        address = next(line.split()[1] for line in page.stdout if line.startswith("page: "))
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=60) as answer:
            assert b"<title>" in answer.read()
        page.send_signal(signal.SIGINT)
    assert page.returncode == 130


@pytest.mark.slow
def test_python_of_the_readme(own_videos, tmp_path, monkeypatch):
    snippets = [text for kind, text in BLOCKS if kind == "python"]
    assert len(snippets) == 2
    folder, _ = own_videos
    (checkpoint,) = (folder / "results" / "train" / "checkpoints").glob("*.pt")
    named = tmp_path / "results" / "train" / "checkpoints" / "train-1a2b3c4d-s0.pt"
    named.parent.mkdir(parents=True)
    shutil.copy(checkpoint, named)
    for name, path in zip(("video", "other"), sorted((folder / "my_videos").glob("*.mp4")), strict=False):
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
