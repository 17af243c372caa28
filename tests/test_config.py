"""Settings: dotted keys in and out, and what a user reads where one of them is wrong."""

from __future__ import annotations

import math
import pickle

import pytest

from lacray.config import (
    DEFAULT_LOSS,
    LAC_PRESETS,
    LOSS_CONFIGS,
    Config,
    ConfigError,
    LacConfig,
    UserError,
    build,
    flatten,
    known_keys,
    parse_assignments,
    read_setting,
)


def problems_of(values, origins=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(values, origins)
    return caught.value.problems


OTHER = {
    "seed": 7,
    "data.num_frames": 9,
    "data.augment": False,
    "data.pairing": "videos",
    "encoder.positions": "absolute",
    "loss.name": "lac",
    "loss.gamma": 0.37,
    "loss.score_sign": -1,
    "loss.match_tau": 0.2,
    "fit.precision": "bf16",
    "evaluation.stride": 2,
}


def test_dotted_keys_go_in_and_come_out_unchanged():
    config = build(OTHER)
    flat = config.flat()
    assert {key: flat[key] for key in OTHER} == OTHER
    assert build(flat) == config


def test_everything_that_is_not_given_keeps_its_default():
    default, flat = build({"loss.name": "lac"}).flat(), build(OTHER).flat()
    assert {key: flat[key] for key in flat if key not in OTHER} == {
        key: default[key] for key in default if key not in OTHER
    }


def test_known_keys_are_those_of_every_section():
    keys = known_keys()
    assert len(set(keys)) == len(keys)
    assert {key.split(".")[0] for key in keys} == {"seed", "data", "encoder", "loss", "fit", "evaluation"}
    assert all(isinstance(value, bool | int | float | str | None) for value in Config().flat().values())


def test_flatten_joins_the_path_with_dots():
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": "f"}) == {"a.b": 1, "a.c.d": None, "e": "f"}


# What YAML 1.1 makes of these words is another thing than what they say.
YAML_WORDS = [
    "2024",
    "no",
    "On",
    "1_0",
    "010",
    "1:30",
    "2024-05-01",
    "null",
    "~",
    "",
    ".inf",
    "a: b",
    "clips #1",
    "[x]",
]


@pytest.mark.parametrize("text", [*YAML_WORDS, "resnet50", "s3://bucket/data=1", "'2024'", " x "])
@pytest.mark.parametrize("key", ["data.root", "encoder.weights", "loss.similarity", "data.input"])
def test_text_of_a_setting_that_is_text_stays_what_was_typed(key, text):
    assert parse_assignments([f"{key}={text}"]) == {key: text}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("loss.gamma", "1e-3", 0.001),
        ("loss.gamma", "1E5", 100000.0),
        ("loss.gamma", ".5", 0.5),
        ("loss.gamma", "-.inf", -math.inf),
        ("loss.score_sign", "-1", -1),
        ("seed", "010", 10),
        ("seed", "1_000", 1000),
        ("fit.epochs", "1:30", "1:30"),
        ("fit.epochs", "true", "true"),
        ("fit.epochs", "null", "null"),
        ("fit.full_epochs", "null", None),
        ("fit.full_epochs", "~", None),
        ("fit.full_epochs", "", None),
        ("fit.full_epochs", "12", 12),
        ("loss.match_tau", "none", None),
        ("data.augment", "true", True),
        ("data.augment", "No", False),
        ("data.augment", "off", False),
        ("data.augment", "maybe", "maybe"),
    ],
)
def test_numbers_truth_values_and_nothing_are_read_where_the_setting_takes_them(key, text, value):
    read = parse_assignments([f"{key}={text}"])[key]
    assert read == value
    assert type(read) is type(value)


def test_every_setting_reads_its_own_default_back():
    for key, value in Config().flat().items():
        text = "null" if value is None else str(value)
        assert build({key: read_setting(key, text)}).flat()[key] == value, key


def test_scientific_notation_reaches_the_setting_as_a_number():
    config = build(parse_assignments(["fit.learning_rate=3e-4", "fit.epochs=12"]))
    assert config.fit.learning_rate == 3e-4
    assert config.fit.epochs == 12


def test_all_that_is_wrong_with_assignments_is_said_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_assignments(["loss.gamma", "=3", "seed=1", "seed=2"])
    assert caught.value.problems == [
        "loss.gamma: must be key=value, for example loss.gamma=0.5",
        "=3: must be key=value, for example loss.gamma=0.5",
        "seed: given twice, as '1' and '2'; give it once",
    ]


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("loss.gamma", -0.5, "must be > 0"),
        ("loss.alpha", -1, "must be >= 0"),
        ("data.num_frames", 1, "must be >= 2"),
        ("data.max_unreadable", 1.5, "must be <= 1"),
        ("data.validation_share", 1, "must be < 1"),
        ("fit.epochs", 2.5, "must be a valid integer"),
        ("data.pairing", "frames", "must be 'views' or 'videos'"),
        ("loss.score_sign", 2, "must be 1 or -1"),
        ("fit.learning_rate", "fast", "must be a valid number"),
        ("loss.tau", math.nan, "must be a finite number"),
        ("loss.tau", math.inf, "must be a finite number"),
        ("data.root", None, "must be a valid string"),
        ("seed", 2**32, "must be < 4294967296"),
        ("evaluation.crop_seed", 2**63, "must be < 4294967296"),
    ],
)
def test_value_out_of_range_is_named_with_rule_value_and_origin(key, value, rule):
    (problem,) = problems_of({"loss.name": "lac", key: value}, {key: "space.yaml:7"})
    assert problem.startswith(f"{key}: {rule}, ")
    assert problem.endswith(f", got {value!r} (space.yaml:7)")


def test_unknown_key_is_told_the_nearest_that_exist():
    (problem,) = problems_of({"loss.gama": 1})
    assert problem.startswith("loss.gama: is no setting; did you mean loss.gamma")
    (problem,) = problems_of({"fit.batch_size": 1})
    assert "data.batch_size" in problem
    (problem,) = problems_of({"nonsense": 1})
    assert problem == "nonsense: is no setting; known keys: python -m lacray.train --keys"


def test_key_that_is_a_section_is_no_setting():
    (problem,) = problems_of({"loss": 1})
    assert problem.startswith("loss: is no setting")


def test_all_problems_of_a_setting_are_told_together_each_with_its_line():
    found = problems_of(
        {"loss.gama": 1, "loss.tau": 0, "data.size": 3, "fit.epoch": 2},
        {"loss.gama": "a.yaml:3", "loss.tau": "a.yaml:4", "fit.epoch": "command line"},
    )
    assert len(found) == 4
    text = "\n".join(found)
    assert "loss.tau: must be > 0, got 0 (a.yaml:4)" in found
    assert "data.size: must be >= 16, got 3" in found
    assert "(a.yaml:3)" in text
    assert "(command line)" in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"encoder.hidden": 30, "encoder.heads": 4}, "got hidden 30 and heads 4"),
        ({"loss.name": "lac", "loss.gap_open": 0.0}, "use gap_transform: raw"),
    ],
)
def test_rule_between_two_settings_is_told_with_both_values(values, said):
    (problem,) = problems_of(values)
    assert said in problem


def test_a_choice_of_another_loss_is_told_with_whose_it_is():
    (problem,) = problems_of({"loss.name": "lac", "loss.alignment": "nearest"})
    assert problem.endswith("got 'nearest'; that is one of loss.name=cross")
    (problem,) = problems_of({"loss.name": "lac", "loss.alignment": "dwt"})
    assert problem.endswith("got 'dwt'")


def test_raw_penalties_may_be_zero():
    assert build({"loss.name": "lac", "loss.gap_open": 0.0, "loss.gap_transform": "raw"}).loss.gap_open == 0.0
    assert build({"loss.name": "lac", "loss.gap_extend": -1.0, "loss.gap": "fixed"}).loss.gap_extend == -1.0


def test_a_problem_is_one_line_whatever_is_in_it_also_from_another_process():
    error = pickle.loads(pickle.dumps(UserError(["a\nb.mp4: x", "c\x1b[31m"])))
    assert error.problems == ["a\\nb.mp4: x", "c\\x1b[31m"]
    assert len(str(error).splitlines()) == 2


def test_config_errors_are_the_users_to_mend():
    assert issubclass(ConfigError, UserError)
    assert str(ConfigError(["one", "two"])) == "one\ntwo"


@pytest.mark.parametrize("preset", list(LAC_PRESETS))
def test_preset_gives_the_defaults_and_a_given_field_wins(preset):
    config = LacConfig(preset=preset)
    for name, value in LAC_PRESETS[preset].items():
        assert getattr(config, name) == value
    own = {"loss.name": "lac", "loss.preset": preset, "loss.gamma": 0.123, "loss.symmetric": not config.symmetric}
    changed = build(own).loss
    assert changed.gamma == 0.123
    assert changed.symmetric is not config.symmetric
    assert changed.gap_learning_rate == config.gap_learning_rate


def test_presets_differ_where_the_release_departs_from_the_paper():
    paper, released = LacConfig(preset="paper"), LacConfig(preset="released")
    differ = {name for name in LacConfig.model_fields if getattr(paper, name) != getattr(released, name)}
    assert {"match_gradient", "similarity", "combine", "contrastive_norm", "normalize", "match_tau", "tau"} <= differ
    assert (paper.gamma, paper.alpha, paper.beta, paper.score_sign) == (0.8, 0.01, 1.0, 1)
    assert (released.gamma, released.alpha, released.beta, released.score_sign) == (0.8, 0.01, 1.0, 1)
    assert paper.combine == "product"
    assert released.combine == "matmul"


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        Config().loss.gamma = 2.0


def test_what_names_no_loss_gets_the_default_one_however_it_is_built():
    assert Config().loss == build({}).loss == LOSS_CONFIGS[DEFAULT_LOSS]()
    assert known_keys() == list(Config().flat())


def test_keys_are_those_of_the_chosen_loss():
    keys = known_keys("scl")
    assert "loss.projection" in keys
    assert "loss.gamma" not in keys
    config = build({"loss.name": "scl", "loss.tau": 0.2})
    assert config.loss.tau == 0.2
    assert build(config.flat()) == config


def test_a_key_of_another_loss_says_whose_it_is():
    with pytest.raises(ConfigError) as error:
        build({"loss.name": "scl", "loss.gamma": 0.5, "loss.tau": -1.0})
    assert error.value.problems == [
        "loss.gamma: is a setting of loss.name=lac or lav or gta or cross or lrprop, and this one is scl; set "
        "loss.name, or leave it out",
        "loss.tau: must be > 0, got -1.0",
    ]


WITH_GAPS = "read only with alignment local or end_to_end, which have gaps"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"loss.name": "scl", "loss.projection": 0, "loss.projection_hidden": 512},
            "loss: projection_hidden must be left out, got 512: read only with a projection > 0",
        ),
        (
            {"loss.name": "tcc", "loss.port": "carl", "loss.objective": "regression_huber", "loss.huber_delta": 0.2},
            "loss: huber_delta must be left out, got 0.2: read only with port original",
        ),
        (
            {"loss.name": "tcc", "loss.cycle_length": 3, "loss.huber_delta": 0.2},
            "loss: huber_delta must be left out, got 0.2: read only with objective regression_huber; "
            "cycle_length must be left out, got 3: read only with stochastic true",
        ),
        (
            {"loss.name": "tcn", "data.positive_window": 5, "loss.margin": 0.5, "loss.negative_window": 9},
            "loss: margin and negative_window must be left out, got 0.5 and 9: read only with objective triplet",
        ),
        (
            {"loss.name": "tcn", "loss.objective": "triplet", "loss.query": "positive"},
            "loss: query must be left out, got positive: read only with objective npairs",
        ),
        (
            {"loss.name": "gta", "loss.consistency": False, "loss.dtw_weight": 0.5},
            "loss: dtw_weight must be left out, got 0.5: read only with consistency true",
        ),
        (
            {"loss.name": "lac", "loss.alignment": "dtw", "loss.gap": "fixed", "loss.gap_extend": 2},
            f"loss: gap_extend must be left out, got 2.0: {WITH_GAPS}",
        ),
        (
            {"loss.gap_open": 2},
            f"loss: gap_open must be left out, got 2.0: {WITH_GAPS}",
        ),
        (
            {"loss.alignment": "nearest", "loss.order": 0.1},
            "loss: order must be left out, got 0.1: read only with an alignment, which has a score",
        ),
    ],
)
def test_what_a_loss_would_not_read_is_refused(values, said):
    (problem,) = problems_of(values)
    assert problem == said


def test_a_setting_that_is_not_read_may_be_given_as_it_is():
    # A row has all settings, and `train --best` reads them from there.
    assert build({"loss.name": "scl", "loss.projection_hidden": 512}).loss.projection == 128
    for name, section in LOSS_CONFIGS.items():
        values = build({"loss.name": name}, sections_alone=True).flat()
        assert set(section().unread) <= {key.removeprefix("loss.") for key in values}
        assert build(values, sections_alone=True).loss == section()


@pytest.mark.parametrize("name", [["lac"], {"lac": 1}, None, 3])
def test_a_loss_that_is_no_name_is_refused(name):
    (problem,) = problems_of({"loss.name": name})
    assert problem == f"loss.name: must be one of cross, gta, lac, lav, lrprop, scl, tcc, tcn, got {name!r}"


def test_a_loss_that_there_is_not_is_named_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"loss.name: must be one of cross, gta, lac, .* got 'slc' \(here\)"):
        build({"loss.name": "slc", "loss.tau": 1.0}, {"loss.name": "here"})


def test_anchors_with_positives_are_for_n_pairs_and_n_pairs_for_them():
    (said,) = problems_of({"loss.name": "tcn"}, {"loss.name": "tcn.yaml:3"})
    assert said == (
        "data.positive_window: must be > 0 with loss.name=tcn and this objective, which reads anchors with their "
        "positives, got 0; 5 is the published one (tcn.yaml:3)"
    )
    for loss in LOSS_CONFIGS:
        values = {"loss.name": loss, "data.positive_window": 5}
        if loss == "tcn":
            assert build(values).data.positive_window == 5
            values["loss.objective"] = "triplet"
        (said,) = problems_of(values, {"data.positive_window": "command line"})
        assert said.startswith(f"data.positive_window: must be 0 with loss.name={loss} and this objective, which reads")
        assert said.endswith("got 5; leave it out (command line)")
    (said,) = problems_of({"loss.name": "tcn", "data.positive_window": 5, "data.num_frames": 7})
    assert said == "data: num_frames must be even with positive_window > 0, got 7"


def test_the_keys_of_a_loss_are_known_whatever_clips_it_needs():
    assert "loss.regularization" in known_keys("tcn")
    assert "loss.gamma" not in known_keys("tcn")
