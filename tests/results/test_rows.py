"""Rows to Parquet and back, how runs end, and where things go wrong."""

import datetime
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from paths import ROOT
from runs import row, run

from lacray.results import (
    IDENTITY,
    Place,
    ResultsError,
    RunWriter,
    SupersededError,
    best,
    check_writable,
    has_rows,
    last_rows,
    read,
    remove_end,
    remove_run,
    studies,
    write_end,
)

# --- one run ---------------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_went_with_typed_columns(tmp_path):
    now = datetime.datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    written = row(
        4,
        time=now,
        seconds=1.5,
        peak_memory_bytes=2**40,
        loss__gamma=0.37,
        loss__preset="lacray",
        loss__symmetric=True,
        fit__epochs=12,
        data__sizes=[64, 128],
        encoder__weights=None,
        metric__full__class_10=np.float32(0.5),
        action__bowl__full__class_10=1,
        **{"action.let go.full.class_10": 0.5},
        num_actions__full__class_10=13,
        part__L_c=2,
        gap__open=np.float64(1.25),
    )
    run(tmp_path, "lac", "trial-0", written)
    table = read(str(tmp_path))
    for name, kind in IDENTITY.items():
        assert table.schema.field(name).type == kind, name
    kinds = {
        "loss.gamma": pa.float64(),
        "loss.preset": pa.string(),
        "loss.symmetric": pa.bool_(),
        "fit.epochs": pa.int64(),
        "data.sizes": pa.string(),
        "metric.full.class_10": pa.float64(),
        "action.bowl.full.class_10": pa.float64(),
        "num_actions.full.class_10": pa.float64(),
        "part.L_c": pa.float64(),
        "gap.open": pa.float64(),
    }
    for name, kind in kinds.items():
        assert table.schema.field(name).type == kind, name
    (found,) = table.to_pylist()
    assert found["time"] == now
    assert (found["study"], found["run_id"], found["trial"], found["variant"]) == ("lac", "trial-0", 0, None)
    assert (found["peak_memory_bytes"], found["data.sizes"], found["part.L_c"]) == (2**40, "[64, 128]", 2.0)


def test_each_append_publishes_the_whole_run(tmp_path):
    writer = RunWriter(str(tmp_path), "s", "r")
    for epoch in range(1, 4):
        writer.append([row(epoch), row(epoch, split="val")])
        assert read(str(tmp_path))["epoch"].to_pylist() == [e for e in range(1, epoch + 1) for _ in "ab"]
    assert len(writer.rows) == 6
    assert [path.name for path in (tmp_path / "s" / "rows").iterdir()] == ["r.parquet"]


def test_a_resumed_run_keeps_its_rows_up_to_that_epoch_and_drops_the_rest(tmp_path):
    run(tmp_path, "s", "r", *[row(e, part__total=e / 7, loss__gamma=1) for e in (2, 4, 6)])
    writer = RunWriter(str(tmp_path), "s", "r", keep_until=4)
    assert [r["epoch"] for r in writer.rows] == [2, 4]
    writer.append([row(6, part__total=0.5, loss__gamma=1)])
    table = read(str(tmp_path))
    assert table["epoch"].to_pylist() == [2, 4, 6]
    assert table["part.total"].to_pylist() == [2 / 7, 4 / 7, 0.5]
    assert table.schema.field("loss.gamma").type == pa.int64()


def test_a_fresh_run_replaces_what_an_earlier_try_left_at_its_first_append(tmp_path):
    run(tmp_path, "s", "r", row(1), row(2))
    writer = RunWriter(str(tmp_path), "s", "r")
    assert read(str(tmp_path)).num_rows == 2
    writer.append([row(1, part__total=9.0)])
    assert read(str(tmp_path))["part.total"].to_pylist() == [9.0]


def test_resuming_a_run_that_never_wrote_starts_with_nothing(tmp_path):
    assert RunWriter(str(tmp_path), "s", "r", keep_until=3).rows == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"metric__full__progress": float("nan")},
            r"metric.full.progress: must be finite, got nan \(epoch 5, split val",
        ),
        ({"metric__objective": float("inf")}, "metric.objective: must be finite, got inf"),
        ({"action__bowl__full__ap_5": float("nan")}, "action.bowl.full.ap_5: must be finite, got nan"),
        ({"action__let/go__full__ap_5": 0.5}, r"action.let/go.full.ap_5: must be action.NAME.PROTOCOL.METRIC"),
        ({"action__a__b__full__ap_5": 0.5}, r"action.a.b.full.ap_5: must be action.NAME.PROTOCOL.METRIC"),
        ({"status": "finished"}, "status: must be one of running, done, pruned, failed, got 'finished'"),
        ({"split": "test"}, "split: must be one of validation, val"),
        ({"gamma": 0.5}, "gamma: must be one of the identity columns or a dotted key"),
        ({"seed": "three"}, "seed: must be int64, got 'three'"),
        ({"run_id": "other"}, "run_id: must be 'r', the writer's own, got 'other'"),
        ({"data__root": Path("x")}, "data.root: must be a bool, int, float, str or list"),
        ({"part__total": "low"}, "part.total: must be double, got 'low'"),
    ],
)
def test_a_bad_row_is_refused_by_name_and_changes_nothing(tmp_path, columns, message):
    writer = run(tmp_path, "s", "r", row(1))
    with pytest.raises(ValueError, match=message):
        writer.append([row(4), row(5, **{"split": "val", **columns})])
    assert len(writer.rows) == 1
    assert read(str(tmp_path)).num_rows == 1


def test_loss_parts_may_be_infinite_where_the_run_failed(tmp_path):
    run(tmp_path, "s", "r", row(1, status="failed", error="part.L_sw is inf", part__L_sw=float("inf")))
    assert read(str(tmp_path))["part.L_sw"].to_pylist() == [float("inf")]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_names_that_do_not_fit_a_file_are_refused(tmp_path, name):
    with pytest.raises(ResultsError, match="must be letters, digits"):
        RunWriter(str(tmp_path), name, "r")
    with pytest.raises(ResultsError, match="must be letters, digits"):
        RunWriter(str(tmp_path), "s", name)


# --- kills and broken files ------------------------------------------------------------------------------------------

APPEND_FOREVER = """
import sys
from lacray.results import RunWriter
writer = RunWriter(sys.argv[1], "s", "r")
for epoch in range(1, 10**6):
    writer.append([{"epoch": epoch, **{f"metric.m{i}": epoch / (i + 1) for i in range(200)}}])
    print(epoch, flush=True)
"""


def test_a_kill_in_the_middle_of_appends_leaves_a_readable_file_and_every_row_that_was_reported(tmp_path):
    for wait in (0.0, 0.013, 0.029):
        process = subprocess.Popen(
            [sys.executable, "-c", APPEND_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for line in process.stdout:
            if int(line) >= 20:
                break
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        reported = max([20, *(int(line) for line in process.stdout if line.endswith("\n"))])
        process.wait()
        table = read(str(tmp_path), "s")
        assert table["epoch"].to_pylist() == list(range(1, table.num_rows + 1))
        assert table.num_rows in (reported, reported + 1)
    (tmp_path / "s" / "rows" / ".r.parquet~0123.tmp").write_text("what a kill leaves")
    (tmp_path / "s" / "rows" / ".r2.parquet~0123.tmp").write_text("another run's, in the middle of a write")
    resumed = RunWriter(str(tmp_path), "s", "r", keep_until=10)
    resumed.append([row(11)])
    assert read(str(tmp_path)).num_rows == 11
    assert sorted(path.name for path in (tmp_path / "s" / "rows").iterdir()) == [".r2.parquet~0123.tmp", "r.parquet"]


def test_a_write_that_fails_keeps_the_last_good_file(tmp_path, monkeypatch):
    writer = run(tmp_path, "s", "r", row(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match="No space left on device"):
        writer.append([row(2)])
    monkeypatch.undo()
    assert read(str(tmp_path))["epoch"].to_pylist() == [1]
    assert [path.name for path in (tmp_path / "s" / "rows").iterdir()] == ["r.parquet"]
    writer.append([row(2)])
    assert read(str(tmp_path))["epoch"].to_pylist() == [1, 2]


def test_an_unreadable_file_is_named_and_counted_and_the_rest_is_read(tmp_path):
    run(tmp_path, "s", "good", row(1))
    good = tmp_path / "s" / "rows" / "good.parquet"
    good.with_name("torn.parquet").write_bytes(good.read_bytes()[:200])
    with pytest.warns(UserWarning, match=r"1 of 2 result files could not be read: .*torn\.parquet"):
        assert read(str(tmp_path)).num_rows == 1
    good.write_text("not parquet")
    with pytest.raises(ResultsError, match="2 of 2 result files could not be read"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"a": [1, 2]}, "it lacks run_id, epoch"),
        ({"run_id": ["other", None], "epoch": [1, 2]}, "it lacks run_id"),
        ({"run_id": [], "epoch": []}, None),
        ({"run_id": ["other"], "epoch": ["first"]}, "first"),
        ({"run_id": [7], "epoch": [1]}, ""),
        ({"run_id": ["other"], "epoch": [1], "metric.objective": ["high"]}, "metric.objective must be numbers"),
        ({"run_id": ["r"], "epoch": [1]}, "is of another run than it is called by: r; it may be a copy"),
    ],
)
@pytest.mark.parametrize("folder", ["rows", "ends"])
def test_a_parquet_file_that_is_no_runs_is_named_and_the_rest_is_read(tmp_path, columns, reason, folder):
    run(tmp_path, "s", "r", row(1, status="done"))
    (tmp_path / "s" / folder).mkdir(exist_ok=True)
    if folder == "ends" and "epoch" in columns:
        columns = {**columns, "status": ["failed"] * len(columns["epoch"])}
    types = {"run_id": pa.string(), "epoch": pa.int64()}
    table = pa.table({name: pa.array(own, None if own else types.get(name)) for name, own in columns.items()})
    pq.write_table(table, tmp_path / "s" / folder / "other.parquet")
    if reason is None and folder == "rows":
        assert read(str(tmp_path)).num_rows == 1
        return
    with pytest.warns(UserWarning, match=r"1 of 2 result files could not be read: .*other\.parquet") as told:
        table = read(str(tmp_path))
    assert (reason or "") in str(told[0].message) or folder == "ends"
    assert table.select(["study", "run_id", "status"]).to_pylist() == [{"study": "s", "run_id": "r", "status": "done"}]


def test_a_run_does_not_go_on_from_a_file_of_another(tmp_path):
    run(tmp_path, "s", "r", row(1))
    (tmp_path / "s" / "rows" / "r.parquet").rename(tmp_path / "s" / "rows" / "q.parquet")
    with pytest.raises(ResultsError, match="must be a Parquet file of the run's rows, got is of another run"):
        RunWriter(str(tmp_path), "s", "q", keep_until=1)


def test_a_study_whose_folder_was_copied_is_another_study(tmp_path):
    run(tmp_path, "s", "r", row(1))
    write_end(str(tmp_path), "s", "r", {"status": "failed", "error": "lost"})
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    table = read(str(tmp_path))
    assert table["study"].to_pylist() == ["copy", "s"]
    assert table["status"].to_pylist() == ["failed", "failed"]
    writer = RunWriter(str(tmp_path), "copy", "r", keep_until=1)
    writer.append([row(2)])
    assert read(str(tmp_path), "copy")["study"].to_pylist() == ["copy", "copy"]


def test_hidden_and_foreign_files_are_passed_over(tmp_path):
    run(tmp_path, "s", "r", row(1))
    (tmp_path / "s" / "rows" / ".r~1.tmp").write_text("half")
    (tmp_path / "s" / "rows" / "r.pt").write_text("checkpoint")
    (tmp_path / ".ray" / "s").mkdir(parents=True)
    (tmp_path / ".ray" / "x.parquet").write_text("Ray's own")
    (tmp_path / "s" / "deep.parquet").write_text("not among the rows")
    (tmp_path / "optuna.db").write_text("database")
    (tmp_path / "empty").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(str(tmp_path)).num_rows == 1
    assert studies(str(tmp_path)) == ["s"]


# --- many runs -------------------------------------------------------------------------------------------------------


def test_losses_and_versions_meet_in_one_schema(tmp_path):
    run(tmp_path, "lac", "a", row(1, loss__gamma=1, loss__freeze="none", metric__objective=0.5))
    run(tmp_path, "lac", "b", row(1, loss__gamma=0.5, loss__freeze=True, gap__open=1.0))
    run(tmp_path, "scl", "c", row(1, loss__temperature=0.1, loss__weights=None))
    # A file of an older version: fewer identity columns, epoch in 32 bits, seconds in 32 bits.
    old = pa.table({"study": ["old"], "run_id": ["d"], "epoch": pa.array([7], pa.int32()), "loss.gamma": [None]})
    (tmp_path / "old" / "rows").mkdir(parents=True)
    pq.write_table(old, tmp_path / "old" / "rows" / "d.parquet")
    table = read(str(tmp_path))
    assert table["run_id"].to_pylist() == ["a", "b", "d", "c"]
    assert table["loss.gamma"].to_pylist() == [1.0, 0.5, None, None]
    assert table["loss.freeze"].to_pylist() == ["none", "true", None, None]
    assert table["loss.temperature"].to_pylist() == [None, None, None, 0.1]
    assert table["epoch"].to_pylist() == [1, 1, 7, 1]
    assert table["seed"].to_pylist() == [3, 3, None, 3]
    assert table.schema.names[: len(IDENTITY)] == list(IDENTITY)
    assert studies(str(tmp_path)) == ["lac", "old", "scl"]
    assert read(str(tmp_path), "scl").num_rows == 1
    assert read(str(tmp_path), ["lac", "old"]).num_rows == 3


def test_nothing_there_and_an_unknown_study_say_what_to_do(tmp_path):
    assert studies(str(tmp_path / "absent")) == []
    with pytest.raises(ResultsError, match=r"absent: holds no results; run `python -m lacray.tune` first"):
        read(str(tmp_path / "absent"))
    run(tmp_path, "lac", "a", row(1))
    with pytest.raises(ResultsError, match=r"study lca: is not in .*; choose from: lac"):
        read(str(tmp_path), "lca")


def trials(tmp_path):
    """Five trials and a control; the objective peaks early in trial 0 and the best one was pruned."""
    run(tmp_path, "s", "t0", row(1, metric__objective=0.9), row(2, metric__objective=0.4, status="done"))
    run(tmp_path, "s", "t1", row(2, trial=1, metric__objective=0.6, metric__full__class_10=0.1, status="done"))
    run(tmp_path, "s", "t2", row(1, trial=2, metric__objective=0.8, status="pruned"))
    run(
        tmp_path,
        "s",
        "t3",
        row(1, trial=3, metric__objective=0.7),
        row(2, trial=3, split=None, status="failed", error="NaN"),
    )
    run(
        tmp_path,
        "s",
        "t4",
        row(2, trial=4, metric__objective=0.5, metric__full__class_10=0.3, status="done"),
        row(2, trial=4, split="val", metric__objective=0.99, status="done"),
    )
    run(tmp_path, "s", "untrained", row(0, control="untrained", metric__objective=0.95, status="done"))
    run(tmp_path, "s", "train", row(2, stage="train", trial=None, metric__objective=0.97, status="done"))
    return read(str(tmp_path))


def test_the_best_is_a_finished_trial_by_its_last_validation_and_no_control(tmp_path):
    table = trials(tmp_path)
    assert best(table, "metric.objective", "max")["run_id"] == "t1"
    assert best(table, "objective", "min")["run_id"] == "t0"
    assert best(table, "full.class_10", "max")["run_id"] == "t4"


def test_no_best_says_why_and_what_helps(tmp_path):
    table = trials(tmp_path)
    with pytest.raises(
        ResultsError, match=r"metric.nonsense: is in no row of the results; choose from: metric.full.class"
    ):
        best(table, "nonsense")
    unfinished = table.filter(pa.compute.equal(table["run_id"], "t2"))
    with pytest.raises(ResultsError, match=r"no finished trial has it \(1 pruned\)"):
        best(unfinished)
    running = run(tmp_path, "r", "t0", row(1, metric__objective=0.5))
    with pytest.raises(ResultsError, match=r"\(1 running\); let the study finish: --resume"):
        best(read(str(tmp_path), running.study))
    # What diverged before its first evaluation has no row of a split.
    for trial, error in enumerate(["NaN in L_c", "NaN in L_c", "out of memory"]):
        run(tmp_path, "f", f"t{trial}", row(1, trial=trial, split=None, status="failed", error=error))
    run(tmp_path, "f", "untrained", row(0, control="untrained", metric__objective=0.95, status="done"))
    # --resume tries what failed by its own setting no second time, and must not be told to.
    remedy = "mend what they name; --resume tries those again that were lost, a larger --trials others"
    with pytest.raises(ResultsError, match=rf"\(3 failed\): NaN in L_c \(2\); out of memory \(1\); {remedy}"):
        best(read(str(tmp_path), "f"))
    controls = run(tmp_path, "c", "untrained", row(0, control="untrained", metric__objective=0.95, status="done"))
    with pytest.raises(ResultsError, match=r"\(no trial at all\); run a study first"):
        best(read(str(tmp_path), controls.study))
    with pytest.raises(ValueError, match="mode: must be 'max' or 'min', got 'highest'"):
        best(table, "objective", "highest")


def test_a_runs_status_is_that_of_its_last_row(tmp_path):
    found = {r["run_id"]: r for r in last_rows(trials(tmp_path), split="validation", control="none", stage="tune")}
    assert {name: r["status"] for name, r in found.items()} == {
        "t0": "done",
        "t1": "done",
        "t2": "pruned",
        "t3": "failed",
        "t4": "done",
    }
    assert found["t0"]["metric.objective"] == 0.4
    assert found["t3"]["metric.objective"] == 0.7
    assert found["t3"]["error"] == "NaN"


def test_epochs_that_were_not_evaluated_have_no_split_and_count_as_time(tmp_path):
    run(
        *(tmp_path, "s", "r"),
        row(1, split=None, seconds=10.0, part__total=2.0),
        row(2, seconds=20.0, metric__objective=0.5, part__total=1.0),
        row(3, split=None, seconds=30.0, part__total=0.5, status="done"),
    )
    (found,) = last_rows(read(str(tmp_path)), split="validation")
    assert (found["epoch"], found["metric.objective"], found["status"], found["seconds"]) == (2, 0.5, "done", 30.0)
    (found,) = last_rows(read(str(tmp_path)))
    assert (found["epoch"], found["split"], found["part.total"]) == (3, None, 0.5)


# --- one writer ------------------------------------------------------------------------------------------------------


def test_a_writer_that_another_has_replaced_must_stop(uri):
    check_writable(uri)
    first = run(uri, "s", "r", row(1))
    second = RunWriter(uri, "s", "r", keep_until=1)
    first.append([row(2)])
    with pytest.raises(SupersededError, match="run r of study s: must have one writer"):
        second.append([row(2, part__total=2.0)])
    third = RunWriter(uri, "s", "r", keep_until=1)
    third.append([row(2, part__total=3.0)])
    for zombie in (first, second):
        with pytest.raises(SupersededError):
            zombie.append([row(3)])
    assert [r["epoch"] for r in first.rows] == [1, 2]
    assert read(uri)["part.total"].to_pylist() == [None, 3.0]


def test_of_two_writers_that_both_begin_one_must_stop(uri):
    check_writable(uri)
    first, second = RunWriter(uri, "s", "r"), RunWriter(uri, "s", "r")
    second.append([row(1)])
    with pytest.raises(SupersededError):
        first.append([row(1)])


def test_rows_that_were_removed_under_a_run_are_written_anew_whole(uri):
    check_writable(uri)
    writer = run(uri, "s", "r", row(1), row(2))
    remove_run(Place(uri), "s", "r")
    if "://" not in uri:
        shutil.rmtree(uri)
    writer.append([row(3)])
    assert read(uri)["epoch"].to_pylist() == [1, 2, 3]


def test_a_mark_says_how_a_run_ended_in_the_rows_of_its_last_epoch(tmp_path):
    writer = run(tmp_path, "s", "r", row(1), row(2), row(2, split="val"))
    writer.mark("failed", "lost")
    table = read(str(tmp_path))
    assert table["status"].to_pylist() == ["running", "failed", "failed"]
    assert table["error"].to_pylist() == [None, "lost", "lost"]
    writer.append([row(3)])
    assert read(str(tmp_path))["status"].to_pylist() == ["running", "failed", "failed", "running"]
    with pytest.raises(ValueError, match="r2 has none"):
        RunWriter(str(tmp_path), "s", "r2").mark("done")


# --- ends ------------------------------------------------------------------------------------------------------------


def test_an_end_has_the_last_word_over_a_runs_own_rows(uri):
    check_writable(uri)
    place = Place(uri)
    run(uri, "s", "b", row(1), row(2), row(2, split="val"), row(3), row(4, metric__objective=0.5))
    run(uri, "s", "a", row(1), row(2, status="done"))
    run(uri, "t", "b", row(7))
    write_end(place, "s", "b", {"status": "pruned", "epoch": 2})
    write_end(place, "s", "lost", {"status": "failed", "epoch": 0, "error": "node gone", "trial": 5, "loss.gamma": 0.5})
    found = [
        (r["study"], r["run_id"], r["epoch"], r["split"], r["status"], r["error"], r["control"])
        for r in read(uri).to_pylist()
    ]
    assert found == [
        ("s", "a", 1, "validation", "running", None, "none"),
        ("s", "a", 2, "validation", "done", None, "none"),
        ("s", "b", 1, "validation", "running", None, "none"),
        ("s", "b", 2, "validation", "pruned", None, "none"),
        ("s", "b", 2, "val", "pruned", None, "none"),
        ("s", "lost", 0, None, "failed", "node gone", "none"),
        ("t", "b", 7, "validation", "running", None, "none"),
    ]
    (lost,) = [r for r in read(uri, "s").to_pylist() if r["run_id"] == "lost"]
    assert (lost["trial"], lost["loss.gamma"]) == (5, 0.5)
    remove_end(place, "s", "b")
    remove_end(place, "s", "b")
    assert read(uri, "t").num_rows == 1
    assert read(uri, "s").filter(pa.compute.equal(read(uri, "s")["run_id"], "b"))["epoch"].to_pylist() == [
        1,
        2,
        2,
        3,
        4,
    ]


def test_an_end_before_a_runs_first_row_is_all_that_is_known_of_it(tmp_path):
    run(tmp_path, "s", "r", row(3), row(4))
    write_end(Place(tmp_path), "s", "r", {"status": "failed", "epoch": 2, "error": "x", "trial": 1})
    assert [(r["epoch"], r["status"], r["trial"]) for r in read(str(tmp_path)).to_pylist()] == [(2, "failed", 1)]
    # An end that names no epoch drops none.
    write_end(Place(tmp_path), "s", "r", {"status": "failed", "epoch": None, "error": "y"})
    assert [(r["epoch"], r["error"]) for r in read(str(tmp_path)).to_pylist()] == [(3, None), (4, "y")]
    with pytest.raises(ValueError, match="status: must be pruned or failed in an end, got 'running'"):
        write_end(Place(tmp_path), "s", "r", {"status": "running", "epoch": 1})


def test_a_study_of_ends_alone_is_read(tmp_path):
    write_end(Place(tmp_path), "s", "r", {"status": "failed", "epoch": 0, "error": "x"})
    assert has_rows(str(tmp_path), "s")
    assert studies(str(tmp_path)) == ["s"]
    assert read(str(tmp_path))["error"].to_pylist() == ["x"]
