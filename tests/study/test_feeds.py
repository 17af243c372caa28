"""What a search space says of the tables that it feeds, and that the bundled ones feed the report's."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from paths import ROOT
from studies import opened

from lacray.config import LOSS_CONFIGS, ConfigError, UserError
from lacray.results import control_setting
from lacray.study.manifest import check_same
from lacray.study.space import load_space, parse_space
from lacray.study.study import controls_name

sys.path.insert(0, str(ROOT))

from analysis.sources import published

BUNDLED = sorted(p.relative_to(ROOT / "search_spaces").as_posix() for p in (ROOT / "search_spaces").rglob("*.yaml"))
GRIDS = [name for name in BUNDLED if name.startswith(("paper/", "beyond/"))]
TUNED = [name for name in BUNDLED if name.startswith("tuned/")]
LEAD_GRIDS = [f"lead/lead_{name}.yaml" for name in ("equal", "map", "untried", "tempo", "lead_in")]
SPACE = {
    "name": "s",
    "search": {"loss.gamma": {"type": "categorical", "choices": [0.1, 0.2]}},
    "variants": {"a": {"data.batch_size": 2}},
}


def test_tables_and_keys_are_one_name_or_several_and_come_back_from_the_manifest():
    space = parse_space({**SPACE, "feeds": ["table_1", "table_2"], "rows": "variant", "columns": ["loss.gamma"]})
    assert (space.feeds, space.rows, space.columns) == (("table_1", "table_2"), ("variant",), ("loss.gamma",))
    assert parse_space(space.content()) == space
    assert parse_space(SPACE).feeds == ()


def test_what_is_wrong_with_them_is_told_at_once(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("feeds: [Table 4]\nrows: loss.gama\ncolumns: [variant, loss.gama]\n")
    with pytest.raises(ConfigError) as error:
        load_space(path)
    assert error.value.problems == [
        f"feeds: must be names of tables of a-z, 0-9 and _ such as table_4, got 'Table 4' ({path}:1)",
        f"rows: must be settings or variant, got 'loss.gama'; near: loss.gamma, loss.sigma ({path}:2)",
        f"columns: variant names nothing in a space without variants; name a setting ({path}:3)",
        f"columns: must be settings or variant, got 'loss.gama'; near: loss.gamma, loss.sigma ({path}:3)",
        f"columns: must differ from rows, got loss.gama in both ({path}:3)",
    ]
    with pytest.raises(ConfigError, match="feeds: must come with rows"):
        parse_space({**SPACE, "feeds": "table_4"})
    with pytest.raises(ConfigError, match="rows: must come with feeds"):
        parse_space({**SPACE, "rows": "loss.gamma"})


def test_another_way_to_show_a_study_is_the_same_study_and_another_choice_is_not():
    videos = {"": SimpleNamespace(fingerprint=dict)}
    manifest = {"space": parse_space(SPACE).content(), "trials": 2, "videos": {"": {}}}
    shown = parse_space({**SPACE, "feeds": "table_4", "rows": "loss.gamma", "description": "other"})
    check_same(manifest, shown, None, videos, "s")
    # Of a manifest that was written before there were tables to feed.
    for key in ("feeds", "rows", "columns"):
        del manifest["space"][key]
    check_same(manifest, shown, None, videos, "s")
    wider = {**SPACE, "search": {"loss.gamma": {"type": "categorical", "choices": [0.1, 0.3]}}}
    with pytest.raises(UserError, match="cannot go on as another study"):
        check_same(manifest, parse_space(wider), None, videos, "s")


@pytest.mark.parametrize("name", GRIDS)
def test_every_point_of_a_bundled_grid_is_a_setting_over_three_seeds_at_least(name):
    space = load_space(ROOT / "search_spaces" / name)
    configs = [space.config(point) for point in space.points()]
    seeds = {config.seed for config in configs}
    assert len(seeds) >= 3
    # No two of a seed are the same experiment under two names, but for the paper's own under its own.
    flat = [tuple(sorted((k, str(v)) for k, v in config.flat().items())) for config in configs]
    assert len(set(flat)) == len(flat)
    assert all(config.evaluation.report_split for config in configs)
    assert len({config.fit.epochs for config in configs}) == 1


def test_bundled_grids_feed_the_tables_that_name_them():
    fed = {table: name for name in GRIDS for table in load_space(ROOT / "search_spaces" / name).feeds}
    named = {table: own["space"] for table, own in published()["tables"].items() if "space" in own}
    assert fed == named


def test_the_methods_share_all_but_the_loss_and_what_makes_a_pair():
    space = load_space(ROOT / "search_spaces" / "paper" / "methods.yaml")
    flat = [space.config({"variant": name, "seed": 0}).flat() for name in space.variants]
    assert [own["loss.name"] for own in flat] == ["tcn", "tcc", "lav", "gta", "scl", "lrprop", "lac"]
    unlike = {key for own in flat for key in own if not key.startswith("loss.") and own[key] != flat[0][key]}
    assert unlike <= {"data.pairing", "data.sampling", "data.positive_window"}


def test_the_methods_are_tuned_with_equal_budgets_and_stand_in_the_table_of_methods():
    spaces = [load_space(ROOT / "search_spaces" / name) for name in TUNED]
    # `cross` is no published method; its trials are those of lead/.
    assert sorted(space.fixed["loss.name"] for space in spaces) == sorted(LOSS_CONFIGS.keys() - {"cross"})
    assert {(space.trials, space.feeds, space.rows) for space in spaces} == {
        (12, ("table_1", "table_2"), ("loss.name",))
    }
    unlike = {"loss.name", "data.pairing", "data.sampling", "data.positive_window"}
    assert len({json.dumps({k: v for k, v in space.fixed.items() if k not in unlike}) for space in spaces}) == 1
    # Each has its learning rate and two or three settings of its own.
    assert {len(space.search) for space in spaces} <= {3, 4}
    assert all(space.default_point() is not None for space in spaces), "what was published is tried first"


def test_the_arms_of_the_plan_have_as_many_trials_of_the_same_settings_and_as_many_of_their_own():
    arms = [name for name in BUNDLED if name.startswith("lead/") and name not in LEAD_GRIDS]
    spaces = [load_space(ROOT / "search_spaces" / name) for name in arms]
    assert len(spaces) == 7
    assert {(space.trials, len(space.search), space.default_point() is None) for space in spaces} == {(10, 8, True)}
    shared = set.intersection(*(set(space.search) for space in spaces))
    assert len(shared) == 6
    for key in shared - {"fit.steps_per_epoch"}:
        assert len({repr(space.search[key]) for space in spaces}) == 1, key
    unlike = {"loss.name", "loss.alignment"}
    assert len({json.dumps({k: v for k, v in space.fixed.items() if k not in unlike}) for space in spaces}) == 1


@pytest.mark.parametrize("name", LEAD_GRIDS)
def test_a_grid_of_the_plan_is_of_settings_whose_seeds_are_those_of_no_trial(name):
    space = load_space(ROOT / "search_spaces" / name)
    configs = [space.config(point) for point in space.points()]
    assert {config.seed for config in configs} <= set(range(1001, 1021))
    assert {config.data.input for config in configs} == {"features"}
    flat = {json.dumps(config.flat(), sort_keys=True) for config in configs}
    assert len(flat) == len(configs)


def test_one_command_takes_all_tables_of_the_paper_on_other_data():
    for name in GRIDS:
        if name.startswith("paper/"):
            space = load_space(ROOT / "search_spaces" / name, {"data.root": "/data/Pouring"})
            assert {space.config(point).data.root for point in space.points()} == {"/data/Pouring"}


def test_a_lead_in_is_refused_with_other_data_than_the_rendered():
    with pytest.raises(ConfigError, match="lead_in must be null with other data than simpouring"):
        load_space(ROOT / "search_spaces" / "beyond" / "lead_in.yaml", {"data.root": "/data/Pouring"})


def test_controls_are_named_by_what_an_untrained_encoder_depends_on():
    space = load_space(ROOT / "search_spaces" / "paper" / "methods.yaml")
    own = {name: space.config({"variant": name, "seed": 1}).flat() for name in space.variants}
    # Two videos or two views, whatever the loss: one pair of controls.
    assert len({controls_name(flat) for flat in own.values()}) == 1
    assert controls_name(own["LAC"]) != controls_name({**own["LAC"], "seed": 2})
    for key, value in {"encoder.layers": 1, "data.size": 32, "evaluation.stride": 2, "data.lead_in": 0.3}.items():
        assert controls_name({**own["LAC"], key: value}) != controls_name(own["LAC"]), key
    for key, value in {"fit.epochs": 3, "loss.gamma": 2.0, "data.num_frames": 8, "data.cache_gib": 0.0}.items():
        assert controls_name({**own["LAC"], key: value}) == controls_name(own["LAC"]), key
    assert "data.root" in control_setting(own["LAC"])


SEEDS = {
    key: {"type": "categorical", "choices": choices}
    for key, choices in {"loss.gamma": [0.5, 0.8], "seed": [0, 1]}.items()
}


def test_a_grid_scores_the_controls_of_each_seed_once(tmp_path, clips):
    with opened(tmp_path, clips, search=SEEDS, sampler="grid") as study:
        trials = [study.next_trial() for _ in range(4)]
        runs = [study.run_of(trial) for trial in trials]
        assert [bool(run.controls) for run in runs] == [True, True, False, False]
        assert [run.controls["values"]["seed"] for run in runs[:2]] == [0, 1]
        # Of one that is lost before it has scored them, another takes them over; of one that has, none does.
        assert study.run_of(trials[0]).controls, "started again, it goes on with them"
        study.report(1, {"epoch": 1, "loss": 0.5})
        study.lost(0, "node lost")
        study.lost(1, "node lost")
        assert [bool(study.run_of(trial).controls) for trial in trials[2:]] == [True, False]


def test_a_search_scores_one_pair_of_controls(tmp_path, clips):
    with opened(tmp_path, clips, search=SEEDS) as study:
        trials = [study.next_trial() for _ in range(4)]
        assert [bool(study.run_of(trial).controls) for trial in trials] == [True, False, False, False]
