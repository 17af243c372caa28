"""Search spaces: what a YAML file says, and what its writer reads where it is wrong."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from paths import ROOT

from lacray import evaluation
from lacray.config import ConfigError, build
from lacray.metrics import MAXIMISED
from lacray.study.sampler import Sampler
from lacray.study.space import Space, find_space, load_space, parse_space

GOOD = """\
name: small
description: a test
trials: 3
metric: cropped.progress
fixed:
  data.root: simpouring
  loss.name: lac
  fit.learning_rate: 1e-3
search:
  loss.gamma: {type: float, low: 5e-2, high: 2, log: true}
  encoder.layers: {type: int, low: 1, high: 5, step: 2}
  loss.score_sign: {type: categorical, choices: [1, -1]}
"""


@pytest.fixture
def space_of(tmp_path):
    def load(text: str, overrides=None) -> Space:
        (tmp_path / "space.yaml").write_text(text)
        return load_space(tmp_path / "space.yaml", overrides)

    return load


@pytest.fixture
def problems_of(tmp_path):
    """The problems of a space, with its path cut off."""

    def load(text: str, overrides=None) -> list[str]:
        path = tmp_path / "space.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_space(path, overrides)
        return [problem.replace(str(path), "space.yaml") for problem in caught.value.problems]

    return load


def test_space_is_read_in_optunas_vocabulary(space_of):
    space = space_of(GOOD)
    assert (space.name, space.sampler, space.trials, space.metric) == ("small", "tpe", 3, "cropped.progress")
    assert space.fixed == {"data.root": "simpouring", "loss.name": "lac", "fit.learning_rate": 0.001}
    assert space.distributions() == {
        "loss.gamma": FloatDistribution(0.05, 2.0, log=True),
        "encoder.layers": IntDistribution(1, 5, step=2),
        "loss.score_sign": CategoricalDistribution((1, -1)),
    }


def test_trial_parameters_win_over_what_is_fixed_and_reach_the_setting(space_of):
    config = space_of(GOOD).config({"loss.gamma": 0.37, "encoder.layers": 3, "loss.score_sign": -1})
    own = {"loss.name": "lac", "loss.gamma": 0.37, "loss.score_sign": -1}
    assert config == build({**own, "encoder.layers": 3, "fit.learning_rate": 1e-3})


def test_overrides_take_keys_out_of_the_search_and_win_over_fixed(space_of):
    space = space_of(GOOD, {"loss.gamma": 0.5, "data.root": "elsewhere", "seed": 4})
    assert set(space.search) == {"encoder.layers", "loss.score_sign"}
    config = space.config({"encoder.layers": 1, "loss.score_sign": 1})
    assert (config.loss.gamma, config.data.root, config.seed) == (0.5, "elsewhere", 4)


def test_override_out_of_range_is_told_to_come_from_the_command_line(problems_of):
    assert problems_of(GOOD, {"loss.gamma": -1}) == ["loss.gamma: must be > 0, got -1 (command line)"]
    (problem,) = problems_of(GOOD, {"loss.gama": 1})
    assert problem.startswith("loss.gama: is no setting; did you mean loss.gamma")
    assert problem.endswith("(command line)")


def test_grid_runs_every_combination_and_counts_them(space_of):
    space = space_of(
        """\
sampler: grid
trials: 5
fixed: {loss.name: lac}
search:
  seed: {type: categorical, choices: [0, 1, 2]}
  loss.gamma: {type: categorical, choices: [0.6, 9e-1]}
variants:
  alone: {loss.alpha: 0}
  all: {}
"""
    )
    assert space.grid() == {"variant": ["alone", "all"], "seed": [0, 1, 2], "loss.gamma": [0.6, 0.9]}
    assert space.trials == len(space.points()) == 12
    settings = {
        space.config(dict(zip(space.grid(), point, strict=True))).model_dump_json()
        for point in itertools.product(*space.grid().values())
    }
    assert len(settings) == 12


def test_variant_sets_its_settings_over_the_fixed_ones(space_of):
    space = space_of(
        "fixed: {loss.name: lac, loss.preset: released}\n"
        "variants:\n  A: {loss.preset: paper, loss.alpha: 0}\n  B: {loss.beta: 3e-1}\n"
    )
    assert space.config({"variant": "A"}).loss.preset == "paper"
    assert space.config({"variant": "A"}).loss.alpha == 0
    assert space.config({"variant": "B"}).loss.preset == "released"
    assert space.config({"variant": "B"}).loss.beta == 0.3


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{type: float, low: 2, high: 1}", "low <= high must hold, got low 2 and high 1; swap them"),
        ("{type: float, low: 0, high: 1, log: true}", "low must be > 0 with log: true, got 0"),
        ("{type: float, low: 1}", "high must be a number, got None"),
        ("{type: float, low: small, high: 1}", "low must be a number, got 'small'"),
        ("{type: float, low: true, high: 2}", "low must be a number, got 'true'"),
        ("{type: float, low: 1, high: 2, step: a}", "step must be a number, got 'a'"),
        ("{type: float, low: 1, high: 2, choices: [1]}", "float takes low, high, log, step, got choices"),
        ("{type: int, low: 0.5, high: 2}", "low must be an integer with type: int, got 0.5; use type: float"),
        ("{type: categorical, choices: []}", "choices must be a list with something in it, got []"),
        ("{type: categorical, choices: 3}", "choices must be a list with something in it, got 3"),
        ("{type: float, low: 1, high: 2, log: maybe}", "log must be true or false, got 'maybe'"),
        ("{type: categorical, choices: [1, 0.5, 1.0]}", "choices must be different settings, got 1.0 twice"),
        ("{type: [float], low: 1, high: 2}", "must be {type: float|int|categorical, ...}, got"),
        ("{type: loguniform, low: 1, high: 2}", "must be {type: float|int|categorical, ...}, got"),
        ("0.5", "must be {type: float|int|categorical, ...}, got 0.5"),
    ],
)
def test_wrong_range_is_told_with_file_and_line(problems_of, spec, said):
    (problem,) = problems_of(f"name: x\nsearch:\n  # a comment\n  loss.gamma: {spec}\n")
    assert problem.startswith(f"loss.gamma: {said}")
    assert problem.endswith("(space.yaml:4)")


@pytest.mark.parametrize(
    ("spec", "bad"),
    [
        ("{type: float, low: -1, high: 1}", "-1.0"),
        ("{type: float, low: 1, high: .inf}", "inf"),
        ("{type: categorical, choices: [1, 0.5, 0]}", "0"),
    ],
)
def test_every_end_of_a_range_must_be_a_value_that_the_setting_takes(problems_of, spec, bad):
    (problem,) = problems_of(f"search:\n  loss.gamma: {spec}\n")
    assert problem.startswith("loss.gamma: must be ")
    assert problem.endswith(f"got {bad} (space.yaml:2)")


def test_a_logarithmic_range_is_asked_for_by_a_truth_value(space_of):
    for text, is_log in (("'no'", False), ("off", False), ("'True'", True), ("yes", True)):
        space = space_of(f"search:\n  loss.gamma: {{type: float, low: 1, high: 2, log: {text}}}\n")
        assert space.search["loss.gamma"].log is is_log


def test_all_problems_are_told_at_once_with_their_lines(problems_of):
    found = problems_of(
        """\
sampler: random
trials: 0
colour: red
fixed:
  loss.gama: 1
  data.size: 64
  data.num_frames: 1
  loss.name: lac
search:
  data.size: {type: int, low: 32, high: 64}
  fit.epoch: {type: int, low: 1, high: 2}
  loss.tau: {type: float, low: 2, high: 1}
  loss.beta: {type: float, low: -3, high: 1}
variants:
  A: {loss.alpha: -1}
  B: 3
  C: {loss.beta: 1}
"""
    )
    told = {problem.split(":")[0]: problem for problem in found}
    assert "must be tpe or grid" in told["sampler"]
    for key, line in [
        ("sampler", 1),
        ("trials", 2),
        ("colour", 3),
        ("loss.gama", 5),
        ("data.size", 10),
        ("fit.epoch", 11),
        ("loss.tau", 12),
        ("loss.alpha", 15),
        ("B", 16),
    ]:
        assert told[key].endswith(f"(space.yaml:{line})"), told[key]
    assert any(p.startswith("loss.beta: must not be in variant 'C'") and p.endswith(":17)") for p in found)
    assert any(p.startswith("loss.beta: must be >= 0, got -3") and p.endswith(":13)") for p in found)
    assert any(p.startswith("data.num_frames: must be >= 2, got 1") and p.endswith(":7)") for p in found)
    assert len(found) == len(set(found))


def test_rule_between_two_settings_is_told_with_the_lines_of_both(problems_of):
    text = "fixed:\n  encoder.heads: 3\nsearch:\n  encoder.hidden: {type: categorical, choices: [33, 32]}\n"
    (problem,) = problems_of(text)
    assert problem.startswith("encoder: hidden must be a multiple of heads, got hidden 32 and heads 3")
    assert "space.yaml:2" in problem
    assert "space.yaml:4" in problem


def test_grid_over_a_range_is_refused(problems_of):
    found = problems_of(f"sampler: grid\n{GOOD}")
    assert [problem.split(":")[0] for problem in found] == ["loss.gamma", "encoder.layers"]
    assert all("use sampler: tpe" in problem for problem in found)


def test_key_that_is_fixed_and_searched_is_refused(problems_of):
    (problem,) = problems_of("fixed: {loss.tau: 1}\nsearch:\n  loss.tau: {type: float, low: 1, high: 2}\n")
    assert problem == "loss.tau: must be fixed or searched, got both (space.yaml:3)"


@pytest.mark.parametrize("metric", ["cropped.class10", "event_error", "cropped.event_error", "class_10", "3"])
def test_metric_that_no_evaluation_gives_or_that_is_an_error_is_refused(problems_of, metric):
    (problem,) = problems_of(GOOD.replace("cropped.progress", metric))
    assert problem.startswith("metric: must be objective, or cropped. or full. with class_10, ")
    assert metric in problem
    assert problem.endswith("(space.yaml:4)")


def test_what_a_study_may_maximise_is_what_an_evaluation_gives_but_errors():
    rng = np.random.default_rng(0)
    videos = [
        evaluation.Sequence(name, rng.normal(size=(40, 4)), labels=np.arange(40) // 10) for name in ("a", "b", "c", "d")
    ]
    given = evaluation.evaluate(videos[:2], videos[2:], stride=2).metrics
    assert set(given) - {"event_error"} == set(MAXIMISED)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b: c", "is no YAML"),
        ("- 1", "must be a mapping with name, description"),
        ("", "must be a mapping with name, description"),
        ("search:\n  seed: 1\n  seed: 2\n", "key 'seed' twice, in lines 2 and 3"),
        ("search: [1]", "search: must be a mapping, got [1]"),
        ("fixed: {1: 2}", "1: is no setting"),
        ("search: {on: {type: int, low: 1, high: 2}}", "on: is no setting"),
        ("search: &a [*a]", "holds itself"),
        ("search: false", "search: must be a mapping, got False"),
        ("fixed: []", "fixed: must be a mapping, got []"),
        ("trials: true", "trials: must be an integer >= 1, got True"),
        ("fixed: {loss.name: [lac]}", "loss.name: must be one of"),
        ("variants: {a: {loss.name: {lac: 1}}}", "loss.name: must be one of"),
        ("search: {loss.name: {type: categorical, choices: [[lac]]}}", "loss.name: choices must be numbers"),
        ("search: {seed: {type: float, low: 0, high: 3}}", "seed: must be type: int"),
        ("[" * 1000, "nested beyond reading"),
        (
            "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 7)),
            "its aliases make more than 100000 values of it",
        ),
    ],
)
def test_file_that_is_no_space_is_refused_in_one_sentence(problems_of, text, said):
    (problem,) = problems_of(text)
    assert said in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("text", "point"),
    [
        (
            "fixed: {loss.name: lac}\nsearch: {loss.gamma: {type: float, low: 0.1, high: 2}}",
            {"loss.gamma": 0.8},
        ),
        (
            "fixed: {encoder.heads: 6}\nsearch: {encoder.hidden: {type: categorical, choices: [96, 192]}}",
            {"encoder.hidden": 96},
        ),
        (
            "fixed: {loss.name: tcn}\nsearch: {data.positive_window: {type: int, low: 3, high: 9}}",
            {"data.positive_window": 3},
        ),
        (
            "search: {encoder.name: {type: categorical, choices: [resnet50, resnet18]}}\nvariants: {b: {}, a: {}}",
            {"variant": "b", "encoder.name": "resnet50"},
        ),
        ("search: {loss.name: {type: categorical, choices: [scl]}}", {"loss.name": "scl"}),
        ("fixed: {seed: 3}", {}),
    ],
)
def test_what_stands_for_all_trials_is_the_setting_of_one(space_of, text, point):
    space = space_of(text)
    assert space.first_params() == point
    assert Sampler(space, seed=0, num_trials=3).suggest(0) is not None


def test_text_in_a_space_is_what_was_written_and_a_number_is_decimal(space_of):
    space = space_of(
        """\
name: 2024
description: no
fixed: {loss.name: lac, data.root: 2024-05-01, encoder.weights: 1_0, seed: 010, data.augment: no, fit.full_epochs: null}
search:
  loss.similarity: {type: categorical, choices: [rbf, cosine]}
  encoder.name: {type: categorical, choices: [007, off, "1e3"]}
variants:
  no: {data.input: videos}
  1_0: {loss.gamma: 1e-1}
"""
    )
    assert (space.name, space.description) == ("2024", "no")
    assert space.fixed == {
        "loss.name": "lac",
        "data.root": "2024-05-01",
        "encoder.weights": "1_0",
        "seed": 10,
        "data.augment": False,
        "fit.full_epochs": None,
    }
    assert space.search["encoder.name"] == CategoricalDistribution(("007", "off", "1e3"))
    assert space.variants == {"no": {"data.input": "videos"}, "1_0": {"loss.gamma": 0.1}}
    # As the manifest of a study keeps it, and gives it back.
    assert parse_space(json.loads(json.dumps(space.content()))).content() == space.content()


def test_a_space_in_a_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("fixed: {seed: 1}\n")
    assert load_space(find_space("~/mine.yaml")).fixed == {"seed": 1}


def test_file_that_cannot_be_read_is_named(tmp_path):
    for path, reason in [
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "binary.yaml", "it is no text"),
    ]:
        if path.name == "binary.yaml":
            path.write_bytes(b"\xff\xfe\x81")
        with pytest.raises(ConfigError, match=reason) as caught:
            load_space(path)
        assert str(path) in str(caught.value)


BUNDLED = sorted((ROOT / "search_spaces").rglob("*.yaml"))


def test_no_two_bundled_spaces_have_one_name():
    names = [load_space(path).name for path in BUNDLED]
    assert len(set(names)) == len(BUNDLED) > 20


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: "-".join(path.parts[-2:]))
def test_bundled_space_is_right(path):
    space = load_space(path)
    method, _, action = path.stem.partition("_")
    published = "-".join(filter(None, (method, "published", action)))
    assert space.name == (published if path.parent.name == "methods" else path.stem)
    if not space.distributions():
        assert space.config()
    elif space.sampler == "tpe":
        assert space.trials >= 8
        assert space.config().fit.evaluate_every < space.config().fit.epochs, "early stopping sees one evaluation"


def test_bundled_formulation_space_varies_the_parts_of_the_paper():
    space = load_space(ROOT / "search_spaces" / "paper" / "formulation.yaml")
    parts = {name: space.config({"variant": name, "seed": 1}).loss for name in space.variants}
    assert parts["L_c"].alpha == 0
    assert (parts["L_c + L_l"].local, parts["L_c + L_l"].beta) == (True, 0)
    assert (parts["L_c + L_sw"].local, parts["L_c + L_sw"].beta) == (False, 1)
    assert (parts["L_c + L_l + L_sw"].local, parts["L_c + L_l + L_sw"].beta) == (True, 1)
    assert {loss.preset for loss in parts.values()} == {"paper", "released", "lacray"}


def test_bundled_gamma_space_is_table_4():
    space = load_space(ROOT / "search_spaces" / "paper" / "gamma.yaml")
    assert space.grid()["loss.gamma"] == [0.6, 0.7, 0.8, 0.9]
    assert len(space.grid()["seed"]) >= 3


def test_variants_may_be_of_different_losses(tmp_path):
    path = tmp_path / "methods.yaml"
    path.write_text(
        "search:\n  loss.tau: {type: float, low: 0.05, high: 0.5}\n"
        "variants:\n  scl: {loss.name: scl, loss.projection: 0}\n  lac: {loss.name: lac, loss.gamma: 0.5}\n"
    )
    space = load_space(path)
    assert [space.config({"variant": name, "loss.tau": 0.1}).loss.name for name in ("scl", "lac")] == ["scl", "lac"]
    path.write_text(path.read_text().replace("loss.tau:", "loss.gamma:"))
    with pytest.raises(ConfigError) as error:
        load_space(path)
    assert any("loss.gamma: is a setting of" in problem and "scl" in problem for problem in error.value.problems)
