"""The trials of a study: early stopping against an oracle that replays it, and what rows tell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lacray.results.place import STUDY_PATIENCE
from lacray.study.space import parse_space
from lacray.study.trials import FIRST_SILENCE_S, MIN_SILENCE_S, Trial, Trials, recorded

SPACE = parse_space(
    {
        "name": "small",
        "fixed": {"loss.name": "lac", "fit.epochs": 9, "fit.evaluate_every": 1},
        "search": {
            "loss.gamma": {"type": "float", "low": 0.1, "high": 2.0},
            "encoder.layers": {"type": "int", "low": 1, "high": 3},
            "loss.match_tau": {"type": "categorical", "choices": [None, 0.5, 1]},
        },
    }
)


def course(number: int, values: list[float], *, epochs: int = 9) -> Trial:
    return Trial(number, {}, epochs, values={epoch + 1: value for epoch, value in enumerate(values)})


def halved(courses: list[list[float]], *, every: int, reduction: int = 3) -> list[int | None]:
    """The epoch at which each trial stops when they run one after the other: the rule of the paper, written out."""
    rungs: dict[int, list[float]] = {}
    stopped: list[int | None] = []
    for values in courses:
        end = None
        for epoch in range(1, len(values)):
            rung = max((every * reduction**k for k in range(9) if every * reduction**k <= epoch), default=0)
            if rung != epoch:
                continue
            seen = rungs.setdefault(rung, [])
            ordered = sorted(seen)
            # Linear interpolation between the two neighbours of the 2/3 quantile.
            if seen:
                place = (len(seen) - 1) * (1 - 1 / reduction)
                low = int(place)
                high = min(low + 1, len(seen) - 1)
                cut = ordered[low] + (place - low) * (ordered[high] - ordered[low])
                if values[epoch - 1] < cut - 1e-12:
                    end = epoch
            seen.append(values[epoch - 1])
            if end is not None:
                break
        stopped.append(end)
    return stopped


@pytest.mark.parametrize("every", [1, 2])
def test_early_stopping_is_asynchronous_successive_halving(every):
    courses = np.random.default_rng(3).random((40, 9)).round(3).tolist()
    trials = Trials(every=every)
    stopped: list[int | None] = []
    for number, values in enumerate(courses):
        trial = trials.add(Trial(number, {}, epochs=9))
        end = None
        for epoch, value in enumerate(values, start=1):
            trial.values[epoch] = value
            if trials.should_stop(number, epoch):
                end = epoch
                break
        stopped.append(end)
    assert stopped == halved(courses, every=every)
    assert 10 < sum(end is not None for end in stopped) < 40


def test_a_trial_that_is_taken_up_late_is_not_measured_at_a_look_that_it_has_passed():
    # Its value of epoch 5 must not stand among the others' values of epoch 1.
    late = Trial(0, {}, 9, values={5: 0.9})
    trials = Trials([late, course(1, [0.3]), course(2, [0.2])], every=1)
    assert not trials.should_stop(1, 1), "nobody else has been at epoch 1 with more than 0.2"
    assert trials.should_stop(2, 1)


def test_what_is_decided_does_not_depend_on_whether_the_study_was_taken_up_again():
    courses = np.random.default_rng(5).random((12, 9)).tolist()
    through, cut = Trials(every=1), Trials(every=1)
    for number, values in enumerate(courses):
        for trials in (through, cut):
            trials.add(Trial(number, {}, 9))
        for epoch, value in enumerate(values, start=1):
            through[number].values[epoch] = value
            # Another driver, with nothing but what is recorded.
            cut = Trials([trial.copy() for trial in cut], every=1)
            cut[number].values[epoch] = value
            stop = through.should_stop(number, epoch)
            assert cut.should_stop(number, epoch) == stop
            if stop:
                break


def test_the_last_epoch_and_epochs_that_were_not_evaluated_stop_nothing():
    trials = Trials([course(0, [0.9] * 9), course(1, [0.1] * 9)], every=1)
    assert trials.should_stop(1, 3)
    assert not trials.should_stop(1, 9)
    del trials[1].values[3]
    assert not trials.should_stop(1, 3)
    assert not Trials(list(trials), every=None).should_stop(1, 1)


def rows_of(number: int, epochs: int, status: str, **columns) -> list[dict]:
    own = {
        "stage": "tune",
        "control": "none",
        "trial": number,
        "run_id": f"trial-{number:04d}",
        "variant": None,
        "error": None,
        "fit.epochs": 9,
        "loss.gamma": 0.5,
        "encoder.layers": 2,
        "loss.match_tau": None,
        **columns,
    }
    found = [{**own, "epoch": 0, "split": None, "status": "running"}]
    for epoch in range(1, epochs + 1):
        scored = {"split": "validation", "metric.objective": epoch / 10, "part.total": 1.0 / epoch, "time": epoch}
        found.append({**own, "epoch": epoch, "status": "running", **scored})
    found[-1]["status"] = status
    return found


def test_rows_tell_trials_with_the_parameters_that_were_suggested():
    # A column has one type: Optuna's 1 comes back as 1.0, and must be its 1 again.
    rows = list(
        itertools.chain(
            rows_of(2, 3, "running", **{"loss.match_tau": 1.0}),
            rows_of(0, 9, "done"),
            rows_of(1, 1, "pruned", **{"loss.match_tau": 0.5}),
            rows_of(3, 2, "failed", error="lost"),
            rows_of(4, 2, "failed", error="no number"),
            [{**rows_of(9, 1, "done")[1], "control": "untrained"}, {**rows_of(9, 1, "done")[1], "stage": "train"}],
        )
    )
    found = recorded(rows, SPACE, given_up={"trial-0003"})
    assert [(trial.number, trial.state, trial.epoch) for trial in found] == [
        (0, "done", 9),
        (1, "pruned", 1),
        (2, "waiting", 3),
        (3, "failed", 2),
        (4, "failed", 2),
    ]
    assert [trial.params["loss.match_tau"] for trial in found] == [None, 0.5, 1, None, None]
    assert type(found[2].params["loss.match_tau"]) is int
    assert [trial.is_final for trial in found] == [True, True, True, False, True]
    assert found[2].values == {1: 0.1, 2: 0.2, 3: 0.3}
    assert found[0].value == 0.9


def test_the_limit_of_silence_follows_the_longest_that_was_broken():
    trials = Trials([Trial(0, {}, 9), Trial(1, {}, 9)])

    def limit(number: int) -> float:
        return trials.silence_limit(number)[0]

    trials.hear(0, {"epoch": 0}, "objective", now=1000.0)
    assert limit(0) == FIRST_SILENCE_S, "nothing is known yet"
    trials.hear(0, {"epoch": 1}, "objective", now=1003.0)
    assert limit(0) == FIRST_SILENCE_S, "an evaluation may take longer than an epoch"
    trials.hear(0, {"epoch": 2, "objective": 0.4}, "objective", now=1006.0)
    assert limit(0) == MIN_SILENCE_S > STUDY_PATIENCE
    assert limit(1) == MIN_SILENCE_S, "it waits for a process, whatever its epochs will take"
    trials.hear(1, {"epoch": 0}, "objective", now=1000.0)
    assert limit(1) == FIRST_SILENCE_S, "its encoder may be fifty times as large"
    trials.hear(1, {"epoch": 1, "objective": 0.5}, "objective", now=1150.0)
    assert limit(0) == limit(1) == 1500.0
    # A trial that starts again after a loss was silent for another reason.
    trials.hear(1, {"epoch": 0}, "objective", now=9000.0)
    assert limit(1) == 1500.0


def test_the_best_is_a_trial_that_did_not_fail_and_of_equals_the_earlier():
    trials = Trials([course(0, [0.2]), course(1, [0.7]), course(2, [0.7]), course(3, [0.9])])
    trials[3].state = "failed"
    best = trials.best()
    assert best is not None
    assert best.number == 1


def test_idle_processes_are_those_of_trials_that_are_over_and_of_no_other_one():
    states = ("done", "pruned", "running", "waiting")
    processes = ([("node", 1), ("node", 2)], [("node", 3)], [("node", 1)], [])
    trials = Trials(
        Trial(number, {}, 9, state=state, processes=own)
        for number, (state, own) in enumerate(zip(states, processes, strict=True))
    )
    assert trials.take_idle_processes() == [("node", 2), ("node", 3)]
    assert trials.take_idle_processes() == []
    assert trials[2].processes == [("node", 1)]
