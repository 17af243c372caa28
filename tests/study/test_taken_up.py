"""A study that is taken up again: the same settings and decisions as of one that nothing disturbed."""

from __future__ import annotations

import shutil

import pytest
from studies import opened, write_rows

from lacray.config import UserError
from lacray.results import Place, read_manifest
from lacray.study import study as study_module
from lacray.study.space import parse_space
from lacray.study.status import is_unfinished, standing

LAYERS = {"encoder.layers": {"type": "int", "low": 1, "high": 6}}
GAMMA = {"loss.gamma": {"type": "float", "low": 0.1, "high": 2.0}}
LOOKS = {"fit.epochs": 15, "fit.evaluate_every": 5}


def test_a_trial_that_was_lost_before_its_first_row_gets_a_setting_that_no_later_one_has(tmp_path, clips):
    with opened(tmp_path, clips, search=LAYERS, trials=6) as study:
        study.begin()
        for trial in [study.next_trial() for _ in range(6)]:
            if trial.number != 2:
                write_rows(study, trial, {5: 0.1 * trial.number}, status="done")
    with opened(tmp_path, clips, search=LAYERS, trials=6) as study:
        assert sorted(trial.params["encoder.layers"] for trial in study.trials) == [1, 2, 3, 4, 5, 6]
        assert study.next_trial() is study.trials[2]


def test_a_trial_is_judged_once_and_by_what_was_there(tmp_path, clips):
    with opened(tmp_path, clips, fixed=LOOKS, search=GAMMA) as study:
        study.begin()
        trials = [study.next_trial() for _ in range(4)]
        # What each has reached when the driver is killed, the look at 5 first.
        passed = dict.fromkeys(range(5, 8))
        write_rows(study, trials[0], {**passed, 5: 0.5})
        write_rows(study, trials[1], {6: 0.7, 7: None})
        write_rows(study, trials[2], {5: 0.6})
        write_rows(study, trials[3], {7: 0.4})
    with opened(tmp_path, clips, fixed=LOOKS, search=GAMMA) as study:
        assert [trial.state for trial in study.trials] == ["waiting", "waiting", "waiting", "pruned"]


def test_a_trial_is_not_judged_again_where_its_process_is_lost(tmp_path, clips):
    with opened(tmp_path, clips, fixed=LOOKS, search=GAMMA) as study:
        for _ in range(2):
            study.next_trial()
        assert not study.report(0, {"epoch": 5, "loss": 1.0, "objective": 0.6})
        assert not study.report(1, {"epoch": 5, "loss": 1.0, "objective": 0.7})
        assert not study.report(0, {"epoch": 5, "loss": 1.0, "objective": 0.6})


def test_how_a_lost_trial_ended_is_forgotten_when_it_is_tried_again_and_not_before(tmp_path, clips):
    ends = tmp_path / "s" / "ends"
    with opened(tmp_path, clips, search=GAMMA) as study:
        study.begin()
        study.lost(study.next_trial().number, "node lost")
    assert [path.name for path in ends.iterdir()] == ["trial-0000.parquet"]
    with opened(tmp_path, clips, search=GAMMA) as study:
        assert study.trials[0].state == "waiting"
    assert [path.name for path in ends.iterdir()] == ["trial-0000.parquet"]
    with opened(tmp_path, clips, search=GAMMA) as study:
        assert study.next_trial() is study.trials[0]
    assert list(ends.iterdir()) == []


def test_more_trials_that_were_asked_for_are_remembered_once_they_have_begun(tmp_path, clips):
    with opened(tmp_path, clips, search=GAMMA, trials=2) as study:
        study.begin()
        write_rows(study, study.next_trial(), {15: 0.5}, status="done")
        write_rows(study, study.next_trial(), {15: 0.5}, status="done")
    before = read_manifest(study.place, "s")
    with opened(tmp_path, None, asked=4) as study:
        assert study.resume_command().endswith("--trials 4")
    assert read_manifest(study.place, "s") == before, "nothing of it has begun"
    assert not is_unfinished(str(tmp_path), "s")
    with opened(tmp_path, None, asked=4) as study:
        study.begin()
    assert read_manifest(study.place, "s") == {**before, "trials": 4}
    assert is_unfinished(str(tmp_path), "s")
    with opened(tmp_path, None) as study:
        assert (study.num_trials, study.is_finished) == (4, False)
    with pytest.raises(UserError, match="--trials: was 4, is now 3; it may only grow"), opened(tmp_path, None, asked=3):
        pass


@pytest.mark.parametrize("has_begun", [False, True])
def test_what_another_driver_has_done_while_the_videos_were_opened_is_not_undone(
    tmp_path, clips, monkeypatch, has_begun
):
    """The study that it had grown to 6 trials shrank to 4, and its trials were judged before anybody knew of it."""

    def drive(**asked) -> None:
        with opened(tmp_path, clips, search=GAMMA, trials=2, **asked) as study:
            study.begin()

    def look_ahead_slowly(*arguments):
        monkeypatch.setattr(study_module, "look_ahead", look_ahead)
        drive(asked=6)
        return look_ahead(*arguments)

    look_ahead = study_module.look_ahead
    if has_begun:
        drive()
    monkeypatch.setattr(study_module, "look_ahead", look_ahead_slowly)
    with pytest.raises(UserError, match="study s: has begun or grown elsewhere this very moment; --resume goes on"):
        drive(asked=4)
    assert read_manifest(Place(tmp_path), "s")["trials"] == 6


@pytest.mark.parametrize("given", ["its space", "its name alone"])
def test_a_study_of_relative_paths_goes_on_from_another_folder(tmp_path, clips, monkeypatch, given):
    search = {"data.root": {"type": "categorical", "choices": ["clips", "more/clips"]}}
    roots = [tmp_path / "clips", tmp_path / "more" / "clips"]
    for root in roots:
        shutil.copytree(clips, root)
    monkeypatch.chdir(tmp_path)
    with opened(tmp_path / "results", "", search=search, sampler="grid") as study:
        study.begin()
        write_rows(study, study.next_trial(), {2: 0.5}, status="done")
        write_rows(study, study.next_trial(), {1: None})
    monkeypatch.chdir(tmp_path / "more")
    choices = ["../clips", str(roots[1])]
    search = {"data.root": {"type": "categorical", "choices": choices}}
    name = "" if given == "its space" else None
    with opened(tmp_path / "results", name, search=search, sampler="grid") as study:
        assert [(trial.params, trial.state) for trial in study.trials] == [
            ({"data.root": str(roots[0])}, "done"),
            ({"data.root": str(roots[1])}, "waiting"),
        ]
        assert study.run_of(study.next_trial()).values["data.root"] == str(roots[1])
    assert standing(str(tmp_path / "results"), "s").num_over == 1


def test_a_study_whose_defaults_have_changed_since_is_not_mixed(tmp_path, clips):
    # What one variant gives is left to the default by the other.
    variants = {"short": {"fit.epochs": 2, "fit.optimizer": "adamw"}, "long": {"fit.epochs": 3}}
    own = {"variants": variants, "fixed": {"loss.tau": 0.2}, "sampler": "grid"}
    with opened(tmp_path, clips, **own) as study:
        study.begin()
        write_rows(study, study.next_trial(), {2: 0.5}, status="done")
        write_rows(study, study.next_trial(), {1: None}, fit__optimizer="sgd", loss__tau=0.2)
    for given in (clips, None):
        with pytest.raises(UserError) as refused, opened(tmp_path, given, **own):
            pass
        assert refused.value.problems == [
            "study s: cannot go on as another study: its trials have fit.optimizer sgd, which is left to the default, "
            "now adam",
            "study s: go on with the version of lacray that began it, or begin another: --study NAME",
        ]


def test_one_path_is_one_choice_however_it_is_written():
    choices = ["clips", "./clips"]
    with pytest.raises(ValueError, match=r"choices must be different settings, got './clips' twice"):
        parse_space({"name": "s", "search": {"data.root": {"type": "categorical", "choices": choices}}})
