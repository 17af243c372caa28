"""What a user can mend ends with a line that says how, exit code 2, no traceback, and nothing half-written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import environment
from datasets import write_pictures
from paths import ROOT
from tiny import make_features, tiny_settings, write_csv

from analysis import report
from lacray import features, fit, results, train, tune
from lacray.config import build, parse_assignments
from lacray.data import open_videos
from lacray.data.__main__ import main as data_main
from lacray.exits import guarded
from lacray.study.manifest import FORMAT


@pytest.fixture
def data(tmp_path) -> Path:
    return make_features(tmp_path / "clips")


def refused(capsys, main, *arguments: str) -> list[str]:
    """The lines with which an entry point refuses its arguments."""
    with pytest.raises(SystemExit) as stop:
        guarded(main, arguments)
    told = capsys.readouterr()
    assert stop.value.code == 2
    assert "Traceback" not in told.out + told.err
    lines = [line.removeprefix("error: ") for line in told.err.splitlines() if line.startswith("error: ")]
    assert lines
    return lines


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test in a folder of its own, where nothing may be left behind."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def assert_nothing_written() -> None:
    left = [str(path) for path in Path("results").rglob("*") if path.is_file()]
    assert left == []


@pytest.mark.parametrize("main", [tune.main, train.main])
def test_a_data_directory_that_does_not_exist(capsys, main):
    (line,) = refused(capsys, main, "data.root=nowhere")
    assert line == "data.root: must be `simpouring` or a directory, got 'nowhere', which does not exist"
    assert_nothing_written()


def test_names_that_no_system_takes_and_no_name_at_all(capsys):
    long = "x" * 300
    (line,) = refused(capsys, data_main, "check", long)
    assert line == f"{long}: File name too long; mend that, and give the same command again"
    (line,) = refused(capsys, features.main, "")
    assert line.startswith("data.root: ")


def test_an_empty_data_directory(capsys):
    Path("empty").mkdir()
    (line,) = refused(capsys, tune.main, "data.root=empty")
    assert line.startswith("empty: has no videos (mp4, mov, avi, mkv, ...) in empty or below it, and no train.pkl; put")
    assert_nothing_written()


def test_a_video_that_is_a_text_file(capsys):
    Path("mine/videos").mkdir(parents=True)
    Path("mine/videos/a.mp4").write_text("not a video")
    Path("mine/videos/b.mp4").write_bytes(b"")
    lines = refused(capsys, train.main, "data.root=mine")
    assert lines[0].startswith("mine/videos/a.mp4: is no video that can be decoded")
    assert lines[1] == "mine/videos/b.mp4: is an empty file"
    assert "2 of 2 videos cannot be read, and data.max_unreadable is 0.1; mend or remove them, or raise it" in lines[2]


def test_what_no_epoch_could_train_is_told_before_ray_starts(capsys, monkeypatch):
    monkeypatch.setattr(train, "start_ray", lambda: pytest.fail("Ray was started"))
    alone = make_features(Path("alone"), num_train=1, num_val=1)
    (line,) = refused(capsys, train.main, *tiny_settings(alone))
    assert line.startswith("loss.name: cross compares two training videos of one action, got 1 of 1 actions in alone;")
    (Path("pictures/videos")).mkdir(parents=True)
    write_pictures(Path("pictures/videos/a"), np.zeros((8, 32, 32, 3), dtype=np.uint8))
    lines = refused(capsys, train.main, "data.root=pictures", "encoder.name=resnet51")
    assert [line.split(":")[0] for line in lines] == ["loss.name", "encoder.name"]
    assert_nothing_written()


def test_labels_longer_than_the_video(capsys, data):
    write_csv(
        data / "segments.csv",
        ("video", "start_frame", "end_frame", "phase"),
        [("videos/clip00.mp4", 0, 900, "reach"), ("videos/clip01.mp4", 0, 800, "reach")],
    )
    lines = refused(capsys, tune.main, *tiny_settings(data))
    assert len(lines) == 2, "all of them at once"
    assert "videos/clip00.mp4: labels must not be longer than the video, got end_frame 900 for" in lines[0]


def test_unknown_keys_and_bad_values_all_at_once(capsys):
    lines = refused(capsys, tune.main, "loss.gama=1", "fit.epochs=0", "data.size=large")
    assert lines == [
        "loss.gama: is no setting; did you mean loss.gamma or loss.sigma or loss.gap? (command line)",
        "data.size: must be a valid integer, unable to parse string as an integer, got 'large' (command line)",
        "fit.epochs: must be >= 1, got 0 (command line)",
    ]


def test_a_range_reversed_in_a_search_space(capsys):
    Path("mine.yaml").write_text("search:\n  loss.gamma: {type: float, low: 2, high: 0.1}\n")
    (line,) = refused(capsys, tune.main, "mine.yaml")
    assert line == "loss.gamma: low <= high must hold, got low 2 and high 0.1; swap them (mine.yaml:2)"


def test_a_search_space_that_does_not_exist(capsys):
    (line,) = refused(capsys, tune.main, "gama.yaml")
    assert line == "gama.yaml: no such search space; did you mean paper/gamma.yaml or methods/gta.yaml?"
    (line,) = refused(capsys, tune.main, "zzz")
    assert "zzz: no such search space; give a YAML file, or one of lac.yaml, " in line


@pytest.mark.parametrize("main", [tune.main, train.main])
def test_results_that_cannot_be_written(capsys, main, data):
    Path("file").write_text("in the way")
    (line,) = refused(capsys, main, "--results", "file/results", *tiny_settings(data))
    assert line.startswith("file/results: must be a writable directory, got Not a directory; pass another --results")


def test_best_of_no_study_and_of_an_unknown_one(capsys, data):
    (line,) = refused(capsys, train.main, "--best")
    assert line == "--best: results holds no study; run python -m lacray.tune first, or give --results"
    assert not Path("results").exists()


def test_the_best_of_a_study_is_by_the_metric_that_it_maximised(tmp_path):
    for trial, (progress, objective) in enumerate([(0.9, 0.4), (0.5, 0.6)]):
        scores = {"metric.cropped.progress": progress, "metric.objective": objective}
        own = {"stage": "tune", "status": "done", "control": "none", "split": "validation", "epoch": 3, "seed": 0}
        settings = {"fit.epochs": 3, "fit.full_epochs": 8, "loss.gamma": 0.5 + trial}
        for study, metric in (("own", "cropped.progress"), ("usual", "objective"), ("old", None)):
            row = {**own, **scores, **settings, "trial": trial, "selected_by": metric}
            results.RunWriter(str(tmp_path), study, f"trial{trial}").append([row])
    for study, gamma, said in (
        ("own", 0.5, "cropped.progress 0.9"),
        ("usual", 1.5, "objective 0.6"),
        ("old", 1.5, "0.6"),
    ):
        arguments = train.parser().parse_args(["--best", "--study", study, "--results", str(tmp_path)])
        values, _, words = train.best_setting(arguments)
        assert values["loss.gamma"] == gamma
        assert values["fit.epochs"] == 8  # a study's trials may be shorter than a full training
        assert said in words


@pytest.mark.parametrize("labels", ["none", "one video", "two videos", "one phase"])
def test_a_study_that_could_not_select_by_its_labels(capsys, data, labels):
    """Told before anything starts, not after the last trial."""
    path = data / "segments.csv"
    header, *lines = path.read_text().splitlines()
    kept = {
        "none": [],
        "two videos": [line for line in lines if "clip00" in line or "clip01" in line],
        "one video": [line for line in lines if "clip00" in line],
        "one phase": [f"{line.rsplit(',', 1)[0]},pour" for line in lines],
    }[labels]
    path.write_text("\n".join([header, *kept]) + "\n")
    told = refused(capsys, tune.main, *tiny_settings(data))
    if labels == "two videos":
        (line,) = told
        assert "a study that maximises objective compares two validation videos at least, got 1; label more" in line
        assert_nothing_written()
        return
    for line in told:
        assert "a study selects by labels of two phases at least in the training and in the validation share" in line
        assert re.search(r"got \d+ labelled frames of [01] phases? in the \d (training|validation) videos", line)
        assert "python -m lacray.train data.root=" in line
    assert_nothing_written()


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "my study", "", "x" * 101, "a\nb"])
@pytest.mark.parametrize("main", [tune.main, train.main])
def test_a_name_of_a_study_that_is_no_name(capsys, main, data, name):
    (line,) = refused(capsys, main, f"--study={name}", *tiny_settings(data))
    rule = "must have at most 100 characters" if len(name) > 100 else "must be letters, digits and . _ + = -"
    assert line.startswith("study ")
    assert rule in line
    assert_nothing_written()


def test_names_in_search_spaces_that_lead_elsewhere_or_meet(capsys, data):
    Path("one.yaml").write_text("name: ../..\nsearch:\n  seed: {type: int, low: 0, high: 3}\n")
    Path("two.yaml").write_text("name: same\nsearch:\n  seed: {type: int, low: 0, high: 3}\n")
    Path("three.yaml").write_text("name: same\nfixed: {loss.tau: 0.2}\n")
    (line,) = refused(capsys, tune.main, "one.yaml", *tiny_settings(data))
    assert line.startswith("name: study '../..': must be letters")
    assert line.endswith("(one.yaml:1)")
    (line,) = refused(capsys, tune.main, "two.yaml", "three.yaml", *tiny_settings(data))
    assert line == "name: must be another in each search space, got same twice; run them one by one"
    assert_nothing_written()


def test_a_batch_that_cannot_be_split_over_the_workers(capsys, data):
    for main in (tune.main, train.main):
        (line,) = refused(capsys, main, "--workers", "3", *tiny_settings(data))
        assert line.startswith("data.batch_size: ")
        assert "got 2" in line
    assert_nothing_written()


def test_more_trials_than_there_are_settings(capsys, data):
    Path("grid.yaml").write_text("sampler: grid\nsearch:\n  seed: {type: categorical, choices: [0, 1]}\n")
    Path("none.yaml").write_text("fixed: {loss.tau: 0.2}\n")
    (line,) = refused(capsys, tune.main, "grid.yaml", "--trials", "3", *tiny_settings(data))
    assert line == "--trials: grid is a grid of 2 points, got 3; leave it out"
    (line,) = refused(capsys, tune.main, "none.yaml", "--trials", "3", *tiny_settings(data))
    assert line == "--trials: none is one setting, with nothing to search, got 3; leave it out"
    Path("few.yaml").write_text("search:\n  encoder.layers: {type: int, low: 1, high: 6}\n")
    words = [word for word in tiny_settings(data) if "layers" not in word]
    (line,) = refused(capsys, tune.main, "few.yaml", "--trials", "7", *words)
    assert line == "--trials: few has 6 settings, and each is tried once, got 7; give 6 at most"


def test_resuming_what_is_not_there(capsys, data):
    (line,) = refused(capsys, tune.main, "--resume")
    assert line == "--resume: there is nothing to go on with in results: it holds no study"
    (line,) = refused(capsys, tune.main, "--resume", "--study", "lac")
    assert line == "--study: lac is not in results; there is none"
    (line,) = refused(capsys, tune.main, "status")
    assert line.startswith("--results: results holds no study")


@pytest.mark.parametrize(
    "change", [{"id": None}, {"space": None}, {"trials": "4"}, {"videos": None}, {"space": {"search": {}}}]
)
def test_a_manifest_that_somebody_has_changed(capsys, change):
    whole = {"format": FORMAT, "id": "one", "space": {"name": "s"}, "trials": 1, "metric": "objective", "seed": 0}
    Path("results/s").mkdir(parents=True)
    manifest = {**whole, "videos": {}, "versions": {}, **change}
    Path("results/s/study.json").write_text(json.dumps({key: own for key, own in manifest.items() if own is not None}))
    (key,) = change
    for arguments in (["status"], ["--resume"]):
        (line,) = refused(capsys, tune.main, *arguments)
        assert line.startswith(f"study s: its study.json is not whole: {key}")
        assert line.endswith("; restore it")


def test_a_report_says_the_name_of_a_folder_in_one_line(tmp_path, capsys):
    settings = {key: value for key, value in build({"data.root": "/x/a\nb\x1b[2J"}).flat().items() if value is not None}
    results.RunWriter(str(tmp_path), "s", "r").append([{**settings, "epoch": 1, "stage": "train", "status": "done"}])
    assert report.main(["--results", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    assert "a\\nb\\x1b[2J" in capsys.readouterr().out


def test_no_compiler_is_one_loud_line_and_the_reference_runs(tmp_path):
    """The operator is not refused: the torch reference takes over, and says so once."""
    program = (
        "import torch; from lacray.ops import soft_sw, backend_name\n"
        "for _ in range(2): score, _ = soft_sw(torch.ones(1, 2, 3), 1.0, 0.5, gamma=0.7)\n"
        "print(backend_name('cpu'), round(score.item(), 3))"
    )
    env = environment({"LACRAY_CACHE": str(tmp_path / "cache"), "CXX": "no-such-compiler", "PATH": "/nonexistent"})
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "reference"
    assert done.stderr.count("reference") >= 1
    assert "Traceback" not in done.stderr


def test_the_real_command_exits_with_2_and_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lacray.tune", "loss.gamma=-1"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (2, "error: loss.gamma: must be > 0, got -1 (command line)\n")


@pytest.mark.slow
def test_more_workers_than_the_machine_has(tmp_path, data):
    settings = [word.replace("batch_size=2", "batch_size=99") for word in tiny_settings(data)]
    done = subprocess.run(
        [sys.executable, "-m", "lacray.tune", "--workers", "99", *settings],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "--workers: a trial needs 99 workers of 1 CPU each, every one on one node" in done.stderr
    left = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert not left, "the corrected command would be refused"


def test_report_without_results(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "analysis/report.py"), "--results", "nothing"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "holds no results" in done.stderr
    assert not (tmp_path / "report").exists()


def test_unlabelled_videos_can_be_trained_on(data, tmp_path):
    (data / "segments.csv").unlink()
    config = build(parse_assignments([*tiny_settings(data, epochs=1), "data.validation_share=0"]))
    (event,) = fit.fit(config, open_videos(config.data))
    assert set(event.evaluations[0].metrics) == {"full.kendalls_tau", "cropped.kendalls_tau"}
    assert np.isfinite(event.parts["total"])
