"""Settings that no run can have: said before anything starts where that can be known, else the fault of one trial."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from studies import opened, write_rows
from tiny import make_features, write_csv

from lacray import worker
from lacray.config import ConfigError, UserError
from lacray.data import DataError
from lacray.results import SupersededError, read
from lacray.run import Run, execute
from lacray.study.status import is_unfinished

BATCHES = {"data.batch_size": {"type": "int", "low": 4, "high": 8}}
HALVES = {"loss.name": "lac", "fit.accumulate": 2}


def test_a_step_that_cannot_be_shared_out_fails_alone_and_for_good(tmp_path, clips):
    with opened(tmp_path, clips, fixed=HALVES, search=BATCHES) as study:
        study.begin()
        assert study.num_trials == 5
        while (trial := study.next_trial()) is not None:
            write_rows(study, trial, {2: 0.5}, status="done")
            study.report(trial.number, {"epoch": trial.epochs, "loss": 1.0, "objective": 0.5})
            study.returned(trial.number, None, None)
    with opened(tmp_path, clips, fixed=HALVES, search=BATCHES) as study:
        found = {trial.params["data.batch_size"]: (trial.state, trial.is_final) for trial in study.trials}
        failed, done = ("failed", True), ("done", True)
        assert found == {4: done, 5: failed, 6: done, 7: failed, 8: done}
        assert study.is_finished
        assert all("must be a multiple of workers x fit.accumulate" in t.error for t in study.trials if t.error)
    assert not is_unfinished(str(tmp_path), "s")


def test_what_a_worker_cannot_build_is_the_fault_of_its_trial(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(worker.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))

    def fails(error):
        def execute(*_, **__):
            yield from ()
            raise error

        monkeypatch.setattr(worker, "execute", execute)
        return worker.follow(Run({}, "", "s", "r", "tune"), torch.device("cpu"), lambda _: None)

    outcome = fails(ConfigError(["encoder.weights: must be a file", "data.size: too small"]))
    assert outcome == {"ended": "failed", "error": "encoder.weights: must be a file; data.size: too small"}
    assert fails(UserError("videos are gone"))["ended"] == "refused"
    with pytest.raises(SupersededError):
        fails(SupersededError("run r", "must have one writer", "stop"))
    # Whether it has rows of its own already or not.
    with opened(tmp_path, clips, search=BATCHES) as study:
        study.begin()
        first, second = study.next_trial(), study.next_trial()
        write_rows(study, first, {1: None})
        for trial in (first, second):
            study.report(trial.number, {"epoch": 0, "processes": []})
            study.returned(trial.number, **outcome)
    rows = [row for row in read(str(tmp_path), "s").to_pylist() if row["status"] == "failed"]
    assert [(row["trial"], row["epoch"], row["error"]) for row in rows] == [
        (n, 1 - n, outcome["error"]) for n in (0, 1)
    ]
    with opened(tmp_path, clips, search=BATCHES) as study:
        assert [study.trials[number].is_over for number in (0, 1)] == [True, True]


def test_trials_that_were_cut_off_are_not_lost_by_other_workers(tmp_path, clips):
    with opened(tmp_path, clips, search={"data.batch_size": {"type": "int", "low": 4, "high": 6}}, trials=3) as study:
        study.begin()
        while (trial := study.next_trial()) is not None:
            write_rows(study, trial, {1: None})
    told = pytest.raises(UserError, match=r"^trial \d: data.batch_size: .*= 2 x 1, got 5; .*fewer workers$")
    with told, opened(tmp_path, None, workers=2):
        pass
    with opened(tmp_path, None) as study:
        assert all(not trial.is_over for trial in study.trials)


def test_what_is_wrong_with_any_variant_or_choice_is_said_before_anything_starts(tmp_path, clips):
    videos = {"data.root": "simpouring", "data.input": "videos"}
    variants = {
        "fine": {},
        "unknown": {**videos, "encoder.name": "resnet19"},
        "small": {**videos, "encoder.name": "resnet18", "encoder.weights": "none", "data.size": 64},
        "lost": {**videos, "encoder.name": "resnet18", "encoder.weights": "nowhere.pth"},
        "fetched": {**videos, "encoder.name": "resnet18", "data.size": 96},
        "gone": {"data.root": "nowhere"},
    }
    with pytest.raises(UserError) as refused, opened(tmp_path, clips, variants=variants, trials=6):
        pass
    found = [problem.partition(", got")[0] for problem in refused.value.problems]
    assert found == [
        "encoder.name: must be `small` or a torchvision model",
        "data.size: must give resnet18 maps of 5 x 5 at least for the two convolutions after it",
        "encoder.weights: must be `default`, `none` or a file",
        "data.root: must be `simpouring` or a directory",
    ]
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss.name": "cross"}, "loss.name: cross compares two training videos of one action"),
        ({"loss.name": "lac", "data.pairing": "videos"}, "needs at least 2 training videos of "),
    ],
)
def test_a_variant_that_compares_videos_is_refused_where_each_is_of_another_action(tmp_path, settings, said):
    root = make_features(tmp_path / "lone", num_train=8, num_val=2)
    rows = [line.split(",") for line in (root / "splits.csv").read_text().split()[1:]]
    write_csv(root / "splits.csv", ("video", "split", "action"), [(*row, f"a{n % 2}") for n, row in enumerate(rows)])
    # One of four is left of each.
    own = {"fixed": {"data.validation_share": 0.75}, "variants": {"fine": {"loss.name": "lac"}, "other": settings}}
    with pytest.raises(UserError, match=said), opened(tmp_path, root, **own):
        pass


def test_trials_are_held_to_the_videos_that_the_study_began_with_whichever_they_are(tmp_path, clips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = make_features(tmp_path / "other", num_train=10, num_val=2)
    roots = {"data.root": {"type": "categorical", "choices": [str(clips), "other"]}}
    shares = {"data.validation_share": {"type": "categorical", "choices": [0.25, 0.5]}}
    results = tmp_path / "results"
    with opened(results, clips, search={**roots, **shares}, sampler="grid") as study:
        study.begin()
        runs = [study.run_of(study.next_trial()) for _ in range(4)]
    assert len(study.manifest["videos"]) == 4
    # The third setting is at no corner of the space: another root with another share.
    (path,) = (other / "features").glob("clip03*")
    np.save(path, np.resize(np.load(path), (50, 12)))
    for run in runs:
        is_changed = run.values["data.root"] == str(other)
        refused = pytest.raises(DataError, match=r"study s began with other videos.*clip03.*is now .*50 frames")
        with refused if is_changed else nullcontext():
            next(execute(run, device=torch.device("cpu")))
    with (
        pytest.raises(UserError, match=r"cannot go on as another study: video .*clip03.*is now .*50 frames"),
        opened(results, None),
    ):
        pass
