"""Which rows are averaged, and which controls stand beside them: against the rule written out."""

from __future__ import annotations

import datetime

from campaign import START, base
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.cells import cells, controls_of, differences, mean_over_actions
from lacray.results import to_table

# Two values of everything that changes what comes out.
KEY = {
    "data.root": ("/a/clips", "/b/clips"),
    "data.input": ("videos", "features"),
    "data.size": (64, 112),
    "data.action": (None, "pullup"),
    "data.batch_size": (4, 8),
    "encoder.name": ("small", "resnet50"),
    "encoder.positions": ("rescaled", "none"),
    "loss.name": ("lac", "scl"),
    "loss.gamma": (0.5, 0.8),
    "fit.epochs": (15, 20),
    "fit.steps_per_epoch": (0, 30),
    "fit.learning_rate": (0.001, 0.01),
    "evaluation.stride": (2, 5),
    "evaluation.crop_seed": (0, 1),
    "split": ("validation", "val"),
    "control": ("none", "untrained"),
}
# And of what does not.
UNLIKE = {
    "run_id": ("a", "b"),
    "study": ("s", "t"),
    "trial": (None, 3),
    "world_size": (1, 2),
    "commit": ("abc", "def"),
    "data.num_loaders": (0, 4),
    "data.cache_gib": (0.0, 1.0),
    "fit.evaluate_every": (5, 20),
    "fit.full_epochs": (None, 30),
    "evaluation.report_split": (False, True),
    "metric.full.class_10": (0.5, 0.75),
    "action.pullup.full.class_10": (0.5, 0.75),
    "num_actions.full.class_10": (2.0, 3.0),
    "part.total": (1.5, 2.5),
    "gap.open": (0.5, 1.0),
    "projection.norm": (9.25, 9.5),
}
VARIED = {**KEY, **UNLIKE, "seed": (0, 1, 2), "status": ("done", "running")}

ROWS = st.lists(
    st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in VARIED.items()}),
    min_size=1,
    max_size=30,
)


def stored(rows):
    """Rows as they come back from Parquet: a column for every one that any row has."""
    return to_table([{key: value for key, value in row.items() if value is not None} for row in rows]).to_pylist()


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_rows_that_differ_in_any_column_of_the_key_are_never_averaged(changes):
    rows = stored([base(**{"run_id": "r", "study": "s", "metric.full.class_10": 0.5, **change}) for change in changes])
    made = cells(rows)
    for cell in made:
        for key in KEY:
            assert len({str(run.get(key)) for run in cell.runs}) == 1, key
        assert len(set(cell.seeds)) == len(cell.runs)
        assert {run["status"] for run in cell.runs} == {"done"}
    # Nor is anything torn apart that belongs together, or lost.
    keys = [tuple(str(cell.row.get(key)) for key in KEY) for cell in made]
    assert len(set(keys)) == len(keys)
    finished = {(tuple(str(row.get(key)) for key in KEY), row["seed"]) for row in rows if row["status"] == "done"}
    assert {(key, seed) for key, cell in zip(keys, made, strict=True) for seed in cell.seeds} == finished


def test_each_column_of_the_key_alone_keeps_rows_apart_and_no_other_does():
    for key, (one, other) in {**KEY, **UNLIKE}.items():
        pair = [base(**{"run_id": "r", "study": "s", key: value, "seed": i}) for i, value in enumerate((one, other))]
        assert len(cells(stored(pair))) == (2 if key in KEY else 1), key


def test_the_same_videos_in_another_folder_are_the_same_and_changed_ones_in_one_folder_are_not():
    rows = [
        base(**{"data.root": root, "videos": videos, "seed": seed})
        for seed, (root, videos) in enumerate(
            [("/home/a/Pouring", "f00d"), ("/mnt/Pouring", "f00d"), ("/mnt/Pouring", "beef"), ("/mnt/Other", "f00d")]
        )
    ]
    assert [cell.seeds for cell in cells(stored(rows))] == [[0, 1], [2], [3]]


def test_of_a_seed_that_was_run_twice_the_later_counts_once():
    later = START + datetime.timedelta(hours=1)
    rows = [base(time=time, **{"metric.full.class_10": value}) for time, value in ((later, 0.7), (START, 0.1))]
    (cell,) = cells(stored(rows))
    assert cell.values("metric.full.class_10") == {0: 0.7}


def test_controls_are_of_the_same_videos_encoder_evaluation_and_seeds():
    own = cells(stored([base(seed=seed, **{"loss.gamma": 0.8, "fit.epochs": 20}) for seed in (1, 2)]))
    right = [base(control=name, seed=seed) for name in ("untrained", "positions") for seed in (1, 2)]
    wrong = [
        base(control="untrained", seed=seed, **{key: value})
        for seed in (1, 2)
        for key, value in {
            "data.root": "/other",
            "data.size": 112,
            "data.input": "features",
            "data.validation_share": 0.5,
            "encoder.name": "resnet50",
            "encoder.positions": "none",
            "evaluation.stride": 2,
            "evaluation.crop_seed": 7,
            "split": "val",
        }.items()
    ]
    other_seeds = [base(control="untrained", seed=seed) for seed in (0, 3)]
    found = controls_of(own, stored([*wrong, *right, *other_seeds]))
    assert [(cell.control, cell.seeds) for cell in found] == [("untrained", [1, 2]), ("positions", [1, 2])]
    nothing = controls_of(own, stored([*wrong, *other_seeds]))
    assert [(cell.control, cell.runs) for cell in nothing] == [("untrained", ()), ("positions", ())]


def test_how_clips_are_drawn_for_training_does_not_matter_to_a_control():
    drawn = {"data.pairing": "videos", "data.batch_size": 2, "data.position_shift": 31.0}
    own = cells(stored([base(**drawn, **{"loss.name": "lav"})]))
    drawn = {"data.pairing": "views", "data.batch_size": 4, "data.position_shift": 0.0}
    control = stored([base(control="untrained", **drawn)])
    assert [cell.seeds for cell in controls_of(own, control)] == [[0], []]


def test_differences_are_taken_in_pairs_by_seed():
    column = "metric.full.class_10"
    values = {"lac": {0: 0.5, 1: 0.75, 2: 0.25}, "scl": {1: 0.5, 2: 0.5, 3: 0.0}}
    rows = [base(seed=s, **{"loss.name": name, column: v}) for name, own in values.items() for s, v in own.items()]
    one, other = cells(stored(rows))
    assert differences(one, other, column) == [0.25, -0.25]


def test_the_mean_over_actions_trained_alone_is_of_seeds_that_all_of_them_have():
    column = "metric.full.class_10"
    values = {("bowl", 0): 0.5, ("squat", 0): 1.0, ("bowl", 1): 0.25, ("squat", 1): 0.0, ("bowl", 2): 1.0}
    rows = [base(seed=seed, **{"data.action": action, column: v}) for (action, seed), v in values.items()]
    mean = mean_over_actions(cells(stored(rows)))
    assert mean.values(column) == {0: 0.75, 1: 0.125}
