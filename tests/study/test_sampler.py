"""What a study tries: never anything twice, and the same whoever asks."""

from __future__ import annotations

import numpy as np
import pytest
from paths import ROOT

from lacray.study.sampler import Sampler
from lacray.study.space import load_space, parse_space
from lacray.study.trials import Trial

LAC = load_space(ROOT / "search_spaces" / "lac.yaml")
SMALL = parse_space(
    {
        "name": "small",
        "fixed": {"loss.name": "lac"},
        "search": {
            "loss.score_sign": {"type": "categorical", "choices": [1, -1]},
            "encoder.layers": {"type": "int", "low": 1, "high": 3},
        },
    }
)


def objective(params: dict) -> float:
    """Best at one corner of lac.yaml's space."""
    return -abs(np.log(params["loss.tau"] / 0.2)) - abs(np.log(params["loss.alpha"] / 0.002))


def studied(
    space, count: int, *, seed: int = 0, num_trials: int = 30, trials: list[Trial] | None = None
) -> list[Trial]:
    """Trials one after the other, as a study runs them; those given are there already."""
    found = list(trials or [])
    sampler = Sampler(space, seed=seed, num_trials=num_trials, trials=found)
    for number in range(len(found), count):
        params = sampler.suggest(number)
        assert params is not None
        trial = Trial(number, params, 15, values={15: objective(params)})
        sampler.report(number, trial.values[15], 15)
        trial.state = "pruned" if number % 4 == 3 else "done"
        sampler.tell(trial)
        found.append(trial)
    return found


def test_a_study_taken_up_again_suggests_what_it_would_have_suggested():
    through = studied(LAC, 20)
    for cut in (0, 1, 7, 15):
        again = studied(LAC, 20, trials=[trial.copy() for trial in through[:cut]])
        assert [trial.params for trial in again] == [trial.params for trial in through]


def test_no_two_suggestions_and_no_two_seeds_are_alike():
    one, other = studied(LAC, 20), studied(LAC, 20, seed=1)
    settings = [tuple(sorted(trial.params.items())) for trial in one + other[1:]]
    assert len(set(settings)) == len(settings)


def test_the_default_is_tried_first():
    first = studied(LAC, 1)[0].params
    assert first["loss.gamma"] == 0.8
    assert first == {key: LAC.config().flat()[key] for key in LAC.search}


def test_after_a_third_of_the_trials_tpe_acts():
    regrets = []
    for seed in range(4):
        trials = studied(LAC, 30, seed=seed)
        regrets.append([np.mean([objective(t.params) for t in part]) for part in (trials[1:10], trials[20:])])
    random, late = np.mean(regrets, axis=0)
    assert late > random + 0.5, "the last third is no better than random"

    # Were all of a short study random, it would not depend on what the trials gave.
    def last_of_ten(sign: float) -> dict:
        sampler = Sampler(LAC, seed=0, num_trials=10)
        for number in range(9):
            params = sampler.suggest(number)
            assert params is not None
            sampler.tell(Trial(number, params, 15, state="done", values={15: sign * objective(params)}))
        found = sampler.suggest(9)
        assert found is not None
        return found

    assert last_of_ten(1.0) != last_of_ten(-1.0)


FINITE = parse_space(
    {
        "name": "finite",
        "fixed": {"loss.name": "lac"},
        "search": {
            **SMALL.specs,
            "loss.tau": {"type": "float", "low": 0.1, "high": 0.3, "step": 0.1},
            "encoder.layers": {"type": "int", "low": 1, "high": 4, "log": True},
        },
    }
)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("space", "count"), [(SMALL, 6), (FINITE, 2 * 3 * 4)], ids=["small", "finite"])
def test_every_setting_of_a_finite_space_is_tried_once_however_sure_tpe_is_and_then_there_is_none(space, count, seed):
    sampler = Sampler(space, seed=seed, num_trials=count)
    found = []
    while (params := sampler.suggest(len(found))) is not None:
        value = params["encoder.layers"] + 3.0 * (params["loss.score_sign"] == 1)
        sampler.tell(Trial(len(found), params, 2, state="done", values={2: value}))
        found.append(tuple(round(10 * params[key]) for key in sorted(params)))
    assert len(found) == len(set(found)) == count


def test_a_study_has_no_more_trials_than_settings():
    assert (SMALL.trials, SMALL.num_settings()) == (6, 6)
    assert (FINITE.trials, LAC.num_settings()) == (10, np.inf)


def test_a_grid_gives_its_points_by_number_whatever_was_there_before():
    space = parse_space(
        {
            "name": "grid",
            "sampler": "grid",
            "fixed": {"loss.name": "lac"},
            "search": {"seed": {"type": "categorical", "choices": [0, 1]}},
            "variants": {"A": {"loss.alpha": 0}, "B": {}},
        }
    )
    points = space.points()
    assert len(points) == 4
    lost = Sampler(space, seed=0, num_trials=4, trials=[Trial(2, points[2], 1, state="done", values={1: 0.5})])
    assert [lost.suggest(number) for number in (0, 1, 3)] == [points[0], points[1], points[3]]
    assert lost.suggest(4) is None


def test_a_space_that_searches_nothing_is_one_trial():
    space = parse_space({"name": "paper", "trials": 10, "fixed": {"loss.name": "lac", "loss.preset": "paper"}})
    assert space.trials == 1
    sampler = Sampler(space, seed=0, num_trials=1)
    assert sampler.suggest(0) == {}
    assert sampler.suggest(1) is None


@pytest.mark.parametrize(
    "search",
    [
        {"loss.match_tau": {"type": "float", "low": 0.1, "high": 1.0}},  # the default is None
        {"loss.score_sign": {"type": "categorical", "choices": [-1]}},
        {"encoder.layers": {"type": "int", "low": 1, "high": 5, "step": 2}},  # the default is 2
        {"loss.gamma": {"type": "float", "low": 1.0, "high": 2.0}},
        {"encoder.name": {"type": "categorical", "choices": ["resnet18"]}},
    ],
    ids=lambda search: next(iter(search)),
)
def test_a_default_outside_the_space_is_not_tried_first(search):
    space = parse_space({"name": "x", "fixed": {"loss.name": "lac"}, "search": search})
    assert space.default_point() is None
    params = Sampler(space, seed=0, num_trials=5).suggest(0)
    assert params is not None
    assert set(params) == set(search)
