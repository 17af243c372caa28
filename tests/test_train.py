"""What `python -m lacray.train` trains, keeps and removes; the training itself is `test_run`'s and the slow tests'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lacray import train
from lacray.config import LOSS_CONFIGS, UserError, build, known_keys
from lacray.exits import advice
from lacray.nodes import Node
from lacray.results import Lease, LeaseError, Place, RunWriter, read
from lacray.results.place import STUDY_PATIENCE, as_place
from lacray.run import Run

NOW = "the videos of now"


def arguments(results: Path, *words: str) -> Any:
    return train.parser().parse_intermixed_args([*words, "--results", str(results)])


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The runs that were trained, in order: each writes what a run and its controls do. One may be cut off."""
    runs: list[str] = []

    def train_one(run: Run, lease: Lease) -> None:
        runs.append(run.run_id)
        for run_id in train._run_ids(run):
            row = {"stage": "train", "control": "none", "epoch": 1, "seed": 0, "status": "done", "videos": NOW}
            RunWriter(run.results, run.study, run_id).append([row])

    monkeypatch.setattr(train, "_trained", train_one)
    monkeypatch.setattr(train, "_tell", lambda runs, arguments: None)
    monkeypatch.setattr(train, "read_nodes", lambda: [Node("a", 8, gpus=4)])
    monkeypatch.setattr(advice, "text", "nothing had begun")
    return runs


def runs_of(results: Path, *words: str) -> list[Run]:
    own = arguments(results, *words)
    overrides = train.parse_assignments(own.words)
    return train.planned(own, build(overrides), "s")


def begin(results: Path, *words: str, videos: str = NOW) -> list[Run]:
    runs = runs_of(results, *words)
    train.train(runs, arguments(results, *words), videos)
    return runs


def test_what_was_done_before_is_kept_and_with_other_videos_that_is_said(tmp_path, trained, capsys):
    (run,) = begin(tmp_path)
    for _ in range(2):
        begin(tmp_path)
    assert trained == [run.run_id]
    assert "seed 0: done before, kept (--again trains it anew)" in capsys.readouterr().out
    begin(tmp_path, videos="others")
    assert trained == [run.run_id]
    said = " ".join("".join(capsys.readouterr()).split())
    assert "seed 0: done before, with other videos or labels than now, kept; --again trains it anew" in said


def test_a_training_anew_that_is_interrupted_goes_on_without_the_flag(tmp_path, trained, monkeypatch):
    """The command with it, once more, would remove what was trained meanwhile."""
    words = ("--seeds", "3")
    first, second, third = (run.run_id for run in begin(tmp_path, *words))
    finish = train._trained

    def cut_off(run: Run, lease: Lease) -> None:
        if run.run_id == second:
            raise KeyboardInterrupt
        finish(run, lease)

    monkeypatch.setattr(train, "_trained", cut_off)
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path, *words, "--again")
    assert advice.text == "the same command without --again goes on from the last checkpoint"
    assert {row["run_id"] for row in read(tmp_path).to_pylist()} == {first, f"{first}-untrained", f"{first}-positions"}
    monkeypatch.setattr(train, "_trained", finish)
    begin(tmp_path, *words)
    assert trained == [first, second, third, first, second, third]


def test_between_two_seeds_the_results_are_waited_for_as_long_as_in_them(tmp_path, trained, monkeypatch):
    """A server that was away for ten seconds there ended the training of all seeds that were left."""
    waited: list[float] = []

    def read_patiently(where: Place | str, study: str) -> Any:
        waited.append(as_place(where)._patience.seconds)
        return read(where, study)

    monkeypatch.setattr(train, "read", read_patiently)
    begin(tmp_path, "--seeds", "3")
    assert waited == [STUDY_PATIENCE, STUDY_PATIENCE]


def test_a_run_that_another_process_trains_is_not_removed(tmp_path, trained):
    (run,) = begin(tmp_path)
    before = read(tmp_path)
    other = Lease(Place(tmp_path), f"s/leases/{run.run_id}.json")
    other.acquire(print)
    try:
        with pytest.raises(LeaseError, match="is being driven by"):
            begin(tmp_path, "--again")
    finally:
        other.release()
    assert read(tmp_path).equals(before)


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        ((), [0]),
        (("seed=7",), [7]),
        (("--seeds", "2"), [0, 1]),
        (("--seeds", "2", "seed=7"), [7, 8]),
        (("--best", "seed=7"), [7, 8, 9]),
    ],
)
def test_seeds_are_counted_from_the_one_that_is_given(tmp_path, trained, words, seeds):
    assert [run.config().seed for run in runs_of(tmp_path, *words)] == seeds


def test_workers_are_chosen_that_the_batch_divides_over(tmp_path, trained):
    (run,) = runs_of(tmp_path, "loss.name=lac", "data.batch_size=4", "fit.accumulate=2")
    assert run.workers == 2


# --- the best of a study ---------------------------------------------------------------------------------------------


def write_trial(results: Path, study: str, **columns: Any) -> None:
    row = {"stage": "tune", "status": "done", "control": "none", "split": "validation", "epoch": 3, "seed": 0}
    score = {"trial": 0, "metric.objective": 0.5, "fit.epochs": 3, "loss.name": "lac", "loss.preset": "released"}
    RunWriter(results, study, "trial-0000").append([row | score | columns])


def test_a_study_that_has_no_rows_yet_is_in_nobodys_way(tmp_path):
    write_trial(tmp_path, "over")
    Place(tmp_path).write("begun/study.json", b"{}")
    for words in ((), ("--study", "over")):
        assert train.best_setting(arguments(tmp_path, "--best", *words))[1] == "over"
    for study in ("begun", "unknown"):
        with pytest.raises(UserError, match=f"--study: {study} has no trials in .*; choose from over"):
            train.best_setting(arguments(tmp_path, "--best", "--study", study))


def test_the_study_that_is_named_is_the_only_one_that_is_read(tmp_path, monkeypatch):
    for study in ("one", "two"):
        write_trial(tmp_path, study)
    seen: list[str] = []
    monkeypatch.setattr(train, "read", lambda results, study: seen.append(study) or read(results, study))
    train.best_setting(arguments(tmp_path, "--best", "--study", "two"))
    assert set(seen) == {"two"}


def test_what_a_study_has_switched_off_stays_so(tmp_path):
    """A null is in no row, and the preset has a value in its place."""
    for study, match_tau in (("off", None), ("on", 0.5)):
        write_trial(tmp_path, study, **{"loss.match_tau": match_tau})
        values, *_ = train.best_setting(arguments(tmp_path, "--best", "--study", study))
        assert build(values).flat()["loss.match_tau"] == match_tau
    assert build({"loss.name": "lac", "loss.preset": "released"}).flat()["loss.match_tau"] is not None


@pytest.mark.parametrize("loss", LOSS_CONFIGS)
def test_keys_lists_every_setting_of_any_loss(loss, capsys):
    train.main(["--keys", f"loss.name={loss}"])
    listed = [line.partition("=")[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == known_keys(loss)


def test_keys_refuses_a_value_that_is_wrong_by_itself():
    with pytest.raises(UserError, match="encoder: hidden must be a multiple of heads"):
        train.main(["--keys", "loss.name=tcn", "encoder.hidden=10"])
