"""One run: it goes on from where it was cut off, wherever that was, and ends with the same rows and weights."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import run_ranks
from tiny import make_features, tiny_settings

from lacray import results
from lacray import run as run_module
from lacray.checkpoint import load_model
from lacray.config import UserError, parse_assignments
from lacray.fit import NonFiniteError
from lacray.results import Place
from lacray.run import Run, execute

VOLATILE = ("time", "seconds", "frames_per_second", "peak_memory_bytes")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_features(tmp_path_factory.mktemp("run") / "clips")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_run(data: Path, folder: Path, **fields) -> Run:
    settings = [word for word in tiny_settings(data, epochs=5) if not word.startswith("fit.evaluate_every")]
    values = parse_assignments([*settings, "fit.evaluate_every=2", "encoder.dropout=0.2"])
    base = Run(values=values, results=str(folder), study="s", run_id="r", stage="train", keep_checkpoint=True)
    return replace(base, **fields)


def rows_of(folder: Path, run_id: str = "r") -> list[dict]:
    rows = [row for row in results.read(str(folder), "s").to_pylist() if row["run_id"] == run_id]
    return [{key: value for key, value in row.items() if key not in VOLATILE} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> tuple[list[dict], dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    progress = list(execute(a_run(data, folder), device=CPU))
    assert [p.epoch for p in progress] == [1, 2, 3, 4, 5]
    assert [bool(p.metrics) for p in progress] == [False, True, False, True, True]
    return rows_of(folder), load_model(folder / "s" / "checkpoints" / "r.pt").encoder.state_dict()


def assert_as_undisturbed(folder: Path, undisturbed) -> None:
    rows, weights = undisturbed
    assert rows_of(folder) == rows
    for name, value in load_model(folder / "s" / "checkpoints" / "r.pt").encoder.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_rows_of_several_actions_have_the_value_of_each_beside_the_mean(data, tmp_path):
    root = shutil.copytree(data, tmp_path / "clips")
    lines = (root / "splits.csv").read_text().split()
    actions = ["action", *("let go" if number % 2 else "pull-up" for number in range(len(lines) - 1))]
    (root / "splits.csv").write_text("\n".join(map(",".join, zip(lines, actions, strict=True))))
    values = parse_assignments([*tiny_settings(root, epochs=1), "evaluation.label_draws=2"])
    list(execute(replace(a_run(root, tmp_path / "results"), values=values), device=CPU))
    row = rows_of(tmp_path / "results")[-1]
    assert row["split"] == "validation"
    for name in ("full.class_10", "cropped.ap_5", "full.class_50_logistic_draws", "objective"):
        each = [row[f"action.{action}.{name}"] for action in ("let go", "pull-up")]
        assert row[f"metric.{name}"] == pytest.approx(np.mean(each), abs=1e-12), name
        assert row[f"num_actions.{name}"] == 2


def test_a_row_for_every_epoch_and_its_metrics_where_it_was_evaluated(undisturbed):
    rows, _ = undisturbed
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["split"] for row in rows] == [None, None, "validation", None, "validation", "validation"]
    assert [row["status"] for row in rows] == ["running"] * 5 + ["done"]
    for row in rows[1:]:
        assert row["part.total"] == pytest.approx(row["part.L_c"] + row["part.lambda_L_x"], rel=1e-4)
        assert (row["cross.matched"] > 0) == (row["part.lambda"] > 0)
        assert (row["metric.objective"] is None) == (row["split"] is None)
    assert {row["world_size"] for row in rows} == {1}


@pytest.mark.parametrize("epochs", [0, 1, 3, 5])
def test_a_run_cut_off_between_two_epochs_goes_on_to_the_same_end(data, tmp_path, undisturbed, epochs):
    run = a_run(data, tmp_path)
    list(itertools.islice(execute(run, device=CPU), epochs))
    rest = [progress.epoch for progress in execute(run, device=CPU)]
    assert rest[-1] == 5
    if epochs == 5:
        assert rest == [5], "a run that is over was trained again"
    assert_as_undisturbed(tmp_path, undisturbed)


class CutOffError(BaseException):
    """What a SIGKILL is to a process, as far as one process can tell."""


@pytest.mark.parametrize("moment", ["before the checkpoint", "after the checkpoint"])
@pytest.mark.parametrize("epoch", [1, 3, 5])
def test_a_run_cut_off_while_it_stores_goes_on_to_the_same_end(data, tmp_path, undisturbed, monkeypatch, epoch, moment):
    run = a_run(data, tmp_path)
    store = run_module.store_checkpoint
    calls = itertools.count(1)

    def cut(*arguments):
        if next(calls) == epoch:
            if moment == "after the checkpoint":
                store(*arguments)
            raise CutOffError
        return store(*arguments)

    monkeypatch.setattr(run_module, "CHECKPOINT_SHARE", float("inf"))  # one after every epoch
    monkeypatch.setattr(run_module, "store_checkpoint", cut)
    with pytest.raises(CutOffError):
        list(execute(run, device=CPU))
    monkeypatch.setattr(run_module, "store_checkpoint", store)
    list(execute(run, device=CPU))
    assert_as_undisturbed(tmp_path, undisturbed)


def test_rows_of_epochs_after_the_checkpoint_are_dropped(data, tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(run_module, "CHECKPOINT_SHARE", 1e-9)  # none but the first
    run = a_run(data, tmp_path)
    list(itertools.islice(execute(run, device=CPU), 4))
    again = execute(run, device=CPU)
    assert next(again).epoch == 2
    assert max(row["epoch"] for row in rows_of(tmp_path)) == 2
    list(again)
    assert_as_undisturbed(tmp_path, undisturbed)


@pytest.mark.parametrize("epochs", [3, 5])
@pytest.mark.parametrize("damage", ["torn checkpoint", "no rows"])
def test_a_run_whose_rows_are_gone_or_whose_checkpoint_is_torn_begins_anew(data, tmp_path, undisturbed, epochs, damage):
    """It was done without a result, or stopped for ever at a file that nobody could find."""
    run = a_run(data, tmp_path)
    list(itertools.islice(execute(run, device=CPU), epochs))
    path = tmp_path / "s" / "checkpoints" / "r.pt"
    if damage == "no rows":
        results.RunWriter(str(tmp_path), "s", "other").append([{"epoch": 0}])
        (tmp_path / "s" / "rows" / "r.parquet").unlink()
    else:
        path.write_bytes(path.read_bytes()[:999])
        results.RunWriter(str(tmp_path), "s", "r", keep_until=9).mark("running")
    told = [(progress.epoch, progress.note) for progress in execute(run, device=CPU)]
    assert [epoch for epoch, _ in told] == [1, 2, 3, 4, 5]
    began, *rest = rows_of(tmp_path)
    (note,) = json.loads(began["notes"])
    assert note.startswith(f"checkpoint: {path} is ")
    assert note.endswith("; the run began anew")
    assert [heard for _, heard in told] == [note, None, None, None, None]
    assert rest == undisturbed[0][1:]


def test_a_run_that_a_packed_file_knows_to_be_over_is_not_taken_up_again(data, tmp_path):
    run, place = a_run(data, tmp_path, stage="tune", keep_checkpoint=False), Place(str(tmp_path))
    list(itertools.islice(execute(run, device=CPU), 2))
    results.write_end(place, "s", "r", {"status": "pruned", "epoch": 2})
    assert results.compact(place, "s", quiet_seconds=0) == (1, 1)
    assert [progress.epoch for progress in execute(run, device=CPU)] == [2]
    assert not list((tmp_path / "s" / "rows").glob("r.*"))


def test_a_run_that_is_not_kept_leaves_its_rows_alone(data, tmp_path):
    run = a_run(data, tmp_path, keep_checkpoint=False)
    first = execute(run, device=CPU)
    next(first)
    assert (tmp_path / "s" / "checkpoints" / "r.pt").is_file()
    del first
    list(execute(run, device=CPU))
    assert not (tmp_path / "s" / "checkpoints" / "r.pt").exists()
    (over,) = execute(run, device=CPU)
    assert over.epoch == 5
    assert over.metrics["objective"] == rows_of(tmp_path)[-1]["metric.objective"]


def test_a_setting_that_diverges_is_closed_as_failed_and_not_tried_again(data, tmp_path):
    run = a_run(data, tmp_path)
    run = replace(run, values={**run.values, "fit.learning_rate": 1e30})
    for _ in range(2):
        with pytest.raises(NonFiniteError, match=r"must be finite, got .*lower fit.learning_rate"):
            list(execute(run, device=CPU))
    last = rows_of(tmp_path)[-1]
    assert last["status"] == "failed"
    assert "must be finite" in last["error"]
    assert sum(row["status"] == "failed" for row in rows_of(tmp_path)) == 1


def test_a_run_whose_videos_have_changed_is_refused_by_their_names(tmp_path):
    data = make_features(tmp_path / "clips")
    run = a_run(data, tmp_path / "results")
    list(itertools.islice(execute(run, device=CPU), 2))
    np.save(data / "features" / "clip03.npy", np.zeros((20, 12), np.float16))
    text = (data / "segments.csv").read_text().replace("reach", "pull", 1)
    (data / "segments.csv").write_text("\n".join(line for line in text.splitlines() if "clip03" not in line) + "\n")
    with pytest.raises(
        UserError, match=r"run r began with other videos.*clip03.*was .*frames.*is now .*20 frames.*anew: --again"
    ):
        list(execute(run, device=CPU))


def test_controls_are_scored_once_before_the_run(data, tmp_path):
    run = a_run(data, tmp_path)
    run = replace(run, controls={"run_id": "c", "values": run.values})
    next(execute(run, device=CPU))
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s" / "rows").glob("c-*")}
    assert set(stamps) == {"c-untrained.parquet", "c-positions.parquet"}
    list(execute(run, device=CPU))
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s" / "rows").glob("c-*")} == stamps
    (row,) = rows_of(tmp_path, "c-untrained")
    assert (row["control"], row["split"], row["status"]) == ("untrained", "validation", "done")


def test_controls_are_scored_anew_with_the_run_that_begins_with_other_labels(tmp_path, monkeypatch):
    """They stood beside it in its table, of the labels of before."""
    data = make_features(tmp_path / "clips")
    run = a_run(data, tmp_path / "results")
    run = replace(run, controls={"run_id": "c", "values": run.values})

    def cut(*arguments):
        raise CutOffError

    with monkeypatch.context() as kill:
        kill.setattr(run_module, "store_checkpoint", cut)
        with pytest.raises(CutOffError):
            list(execute(run, device=CPU))
    text = (data / "segments.csv").read_text()
    (data / "segments.csv").write_text(text.replace("reach", "lift", 1))
    next(execute(run, device=CPU))
    rows = [row for name in ("r", "c-untrained", "c-positions") for row in rows_of(tmp_path / "results", name)]
    assert len({row["videos"] for row in rows}) == 1


def refused_on_a_node_of_its_own(rank: int, folder: Path) -> dict:
    os.chdir(folder / f"node{rank}")
    with pytest.raises(UserError) as caught:
        list(execute(a_run(Path("clips"), folder / "results"), device=CPU))
    return {"problems": caught.value.problems}


def test_nodes_whose_videos_differ_are_refused_on_every_rank(tmp_path):
    """With as many videos on each they would train on pairs that no one process would."""
    for rank in range(2):
        make_features(tmp_path / f"node{rank}" / "clips", seed=rank)
    told = run_ranks(refused_on_a_node_of_its_own, tmp_path)
    (problem,) = told[0]["problems"]
    assert told[1]["problems"] == [problem]
    assert problem.startswith("clips: must hold the same videos on every node, got others on rank 1 than on rank 0: ")
    assert problem.endswith("; give a folder that all nodes share")
