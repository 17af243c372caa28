"""What a driver decides by itself, without Ray."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import OutOfMemoryError

from lacray import tune
from lacray.config import UserError
from lacray.nodes import Plan
from lacray.study import driver as driver_module
from lacray.study.driver import Driver
from lacray.study.space import parse_space
from lacray.study.study import Options, Study
from lacray.study.trials import FIRST_SILENCE_S, Trial, Trials


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    space = parse_space({"name": "s", "search": {}})
    study = Study("s", space, Options(str(tmp_path), workers=2))
    study.space = space
    study.manifest, study.num_trials = {"id": "one", "trials": 1}, 1
    study.trials = Trials([Trial(0, {}, 3)])
    return Driver(study, Plan(1, 1, 0), asides=[])


def test_a_trial_that_was_ended_for_its_silence_may_be_silent_twice_as_long(driver, monkeypatch, capsys):
    """Where each epoch of it takes longer than the limit, it was lost after four times the same."""
    ended: list[object] = []
    monkeypatch.setattr(driver_module, "_end_processes", ended.append)
    for times in range(3):
        driver.study.report(0, {"epoch": 0, "processes": [("node", 7)]})
        for factor, count in ((0.99, times), (1.01, times + 1)):
            driver.study.trials[0].heard = time.monotonic() - factor * FIRST_SILENCE_S * 2**times
            driver._check_silence()
            assert len(ended) == count
    said = " ".join(capsys.readouterr().out.split())
    assert "no sign of life for 3600 s (nobody knows yet how long an epoch of it takes); its processes" in said
    assert "no sign of life for 14400 s (nobody knows yet how long an epoch of it takes, doubled each time" in said
    driver.time_limit = 15.0
    assert driver._silence_limit(driver.study.trials[0]) == (15.0, "--time-limit")


def test_a_trial_of_several_workers_that_hangs_after_it_was_stopped_early_is_ended(driver, monkeypatch, capsys):
    """Its workers kept their CPUs, and the study stood still."""
    ended: list[object] = []
    monkeypatch.setattr(driver_module, "_end_processes", ended.append)
    monkeypatch.setattr(driver, "_referee", SimpleNamespace(stop=SimpleNamespace(remote=lambda number: None)))
    monkeypatch.setattr(driver.study, "report", lambda number, result: True)
    trial = driver.study.trials[0]
    trial.state, trial.heard, trial.processes = "pruned", time.monotonic(), [("node", 7)]
    assert driver.on_report(0, {"epoch": 1}) is False
    driver._check_silence()
    assert ended == []
    trial.heard = time.monotonic() - 1.01 * FIRST_SILENCE_S
    driver._check_silence()
    assert ended == [[("node", 7)]]
    assert "its processes are ended, it was to end early" in " ".join(capsys.readouterr().out.split())
    # Train starts its workers again, and they end by themselves.
    driver.on_report(0, {"epoch": 0, "processes": [("node", 8)]})
    assert (trial.state, trial.processes) == ("pruned", [("node", 8)])
    driver.on_return(0, {"epoch": 1})
    trial.heard = time.monotonic() - 9 * FIRST_SILENCE_S
    driver._check_silence()
    assert len(ended) == 1


def test_a_trial_that_is_over_ends_no_study_whatever_keeps_it_from_writing(driver):
    refused = {"ended": "refused", "error": "run trial-0000: must have one writer"}
    driver.study.trials[0].state = "pruned"
    driver.on_return(0, refused)
    assert driver.problem is None
    driver.study.trials[0].state = "running"
    driver.on_return(0, refused)
    assert "must have one writer" in str(driver.problem)


def test_a_trial_of_several_workers_that_was_stopped_early_stays_so_whatever_is_lost_in_its_last_epoch(driver):
    """It was waiting again, and failed at last: it ended without a word."""
    trial = driver.study.trials[0]
    trial.state = "pruned"
    driver.on_retry(0)
    driver.on_return(0, {"epoch": 1})
    for _ in range(3):
        driver.on_loss(0, "its workers were lost")
    assert (trial.state, trial.error) == ("pruned", None)
    assert driver.study.next_trial() is None


def test_what_a_study_that_runs_out_of_memory_is_told_to_do_is_what_it_may_do(driver, monkeypatch):
    """It was told to lower data.cache_gib and to go on, and refused as another study."""

    def runs_out() -> None:
        raise RuntimeError from OutOfMemoryError("a node ran out of memory")

    monkeypatch.setattr(driver, "_tuner", lambda scratch: SimpleNamespace(fit=runs_out))
    with pytest.raises(UserError, match=r"5 times a node ran out of memory; lower --concurrent, and go on: python -m"):
        driver._fit("scratch")


@pytest.mark.parametrize("error", [UserError("the disk is full"), ValueError("the disk is full")])
def test_an_end_that_could_not_be_written_at_the_very_end_is_an_error(driver, monkeypatch, error):
    """It was exit code 0: nobody looked at the last writes."""
    study = driver.study

    def write() -> None:
        raise error

    for name in ("start_ray", "check_shared", "planned"):
        monkeypatch.setattr(tune, name, lambda *_: None)
    monkeypatch.setattr(tune, "shutting_down", contextlib.nullcontext)
    monkeypatch.setattr(driver_module, "open_asides", lambda *_: [])
    monkeypatch.setattr(driver_module, "Driver", lambda *_, **__: SimpleNamespace(run=lambda: study._outbox.put(write)))
    with pytest.raises(UserError, match="the disk is full"):
        tune.run([study], tune.parser().parse_args([]))


def test_the_watch_does_not_wait_long_for_results_that_are_away(driver, monkeypatch):
    """Ray, hanging trials and the lease are looked at on the same thread."""
    waited: list[float] = []
    monkeypatch.setattr(driver_module, "SLOW_CHECK_S", 0.0)
    monkeypatch.setattr(driver_module, "manifest_exists", lambda place, name: waited.append(place._patience.seconds))
    driver._check_slowly()
    assert waited == [5.0]
