"""Many runs' rows in one file: the same truth before, after and in between, whoever reads, writes or is killed."""

import os
import threading
import time

import pandas as pd
import pyarrow.dataset as ds
import pytest
from runs import row, run

from lacray.results import (
    Lease,
    LeaseError,
    Place,
    RunWriter,
    SupersededError,
    check_writable,
    compact,
    fetch_checkpoint,
    read,
    remove_run,
    store_checkpoint,
    write_end,
    write_manifest,
)
from lacray.results.__main__ import main


@pytest.fixture
def place(uri):
    check_writable(uri)
    return Place(uri, patience=20.0)


def a_study(place):
    """Two done, one pruned by the driver, one that wrote nothing, one running, one failed, one failed by the driver."""
    write_manifest(place, "s", {"trials": 7})
    for trial in (0, 1):
        run_of(place, f"t{trial}", row(1), row(2, trial=trial, metric__objective=trial / 7, status="done"))
    run_of(place, "t2", row(1, trial=2), row(2, trial=2), row(3, trial=2))
    write_end(place, "s", "t2", {"status": "pruned", "epoch": 2})
    write_end(place, "s", "t3", {"status": "pruned", "epoch": 0, "trial": 3})
    run_of(place, "t4", row(1, trial=4, loss__gamma=0.5))
    run_of(place, "t5", row(1, trial=5, status="failed", error="NaN"))
    run_of(place, "t6", row(1, trial=6), row(2, trial=6))
    write_end(place, "s", "t6", {"status": "failed", "epoch": 1, "error": "lost"})
    return read(place)


def run_of(place, run_id, *rows):
    writer = RunWriter(place, "s", run_id)
    writer.append(rows)
    return writer


def names(place, folder):
    return [entry.key.split("/")[-1].removesuffix(".parquet") for entry in place.list(f"s/{folder}/")]


def test_finished_runs_are_packed_and_what_is_read_stays_the_same(place):
    before = a_study(place)
    assert compact(place, "s", quiet_seconds=0) == (4, 4)
    (packed, *rest) = names(place, "rows")
    assert packed.startswith("compacted-")
    assert (rest, names(place, "ends")) == (["t4", "t5", "t6"], ["t6"])
    assert read(place).equals(before)
    # Nothing is left to do, and nothing is done.
    assert compact(place, "s", quiet_seconds=0) == (0, 4)
    assert names(place, "rows") == [packed, *rest]
    # The next run that finishes joins them.
    RunWriter(place, "s", "t4", keep_until=1).append([row(2, trial=4, status="done")])
    before = read(place)
    assert compact(place, "s", quiet_seconds=0) == (1, 5)
    assert names(place, "rows")[1:] == ["t5", "t6"]
    assert read(place).equals(before)
    assert place.read("s/lease.json") is None


def test_a_run_that_is_trained_again_wins_over_its_packed_rows(place):
    a_study(place)
    compact(place, "s", quiet_seconds=0)
    again = RunWriter(place, "s", "t0", keep_until=1)
    assert [r["epoch"] for r in again.rows] == [1]
    again.append([row(2, metric__objective=0.9)])

    def told(run_id):
        return [(r["status"], r["metric.objective"]) for r in read(place).to_pylist() if r["run_id"] == run_id]

    assert told("t0") == [("running", None), ("running", 0.9)]
    compact(place, "s", quiet_seconds=0)
    assert told("t0") == [("running", None), ("running", 0.9)]
    again.mark("done")
    compact(place, "s", quiet_seconds=0)
    assert "t0" not in names(place, "rows")
    assert told("t0") == [("running", None), ("done", 0.9)]
    assert len(told("t1")) == 2
    remove_run(place, "s", "t0")
    assert told("t0") == []
    assert len(told("t1")) == 2
    assert RunWriter(place, "s", "t0", keep_until=9).rows == []


def test_a_run_that_was_packed_under_its_writer_is_not_brought_back(place):
    """A trial of several workers that is stopped early trains its epoch to the end, longer than files are left."""
    writer = run_of(place, "t0", row(1), row(2))
    write_end(place, "s", "t0", {"status": "pruned", "epoch": 2})
    assert compact(place, "s", quiet_seconds=0) == (1, 1)
    before = read(place)
    with pytest.raises(SupersededError, match="another process has written its rows, or ended it, since"):
        writer.append([row(3)])
    assert read(place).equals(before)


class Killed(BaseException):
    pass


class Dying(Place):
    """A place whose process is killed after so many changes."""

    def __init__(self, uri, changes):
        super().__init__(uri)
        self.left = changes

    def _change(self):
        self.left -= 1
        if self.left < 0:
            raise Killed

    def write(self, key, data):
        if "/leases/" not in key:
            self._change()
        return super().write(key, data)

    def delete(self, key, version=None):
        if "/leases/" not in key:
            self._change()
        return super().delete(key, version)


def test_a_compaction_that_is_killed_at_any_moment_loses_and_doubles_nothing(tmp_path):
    place = Place(tmp_path)
    before, kills = a_study(place), 0
    for changes in range(100):
        try:
            compact(Dying(tmp_path, changes), "s", quiet_seconds=0)
            break
        except Killed:
            kills += 1
            assert read(place).equals(before), changes
            # From where each left off, as a user would; a fifth run makes files of several generations.
            if changes == 3:
                run_of(place, "t7", row(1, trial=7, status="done"))
                before = read(place)
    assert kills >= 3
    assert len([name for name in names(place, "rows") if name.startswith("compacted-")]) == 1
    assert read(place).equals(before)


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_removal_that_is_killed_at_any_moment_leaves_no_run_that_is_done_without_its_checkpoint(tmp_path, is_packed):
    """It was kept by the next training, which named a checkpoint that was not there."""
    place, kills = Place(tmp_path), 0
    for changes in range(100):
        run_of(place, "r", row(1), row(2, status="done"))
        (tmp_path / "r.pt").write_bytes(b"weights")
        store_checkpoint(place, "s", "r", tmp_path / "r.pt")
        if is_packed:
            compact(place, "s", quiet_seconds=0)
            other = Lease(place, "s/leases/compacted-rows.json")
            other.acquire(print)
            with pytest.raises(LeaseError):
                remove_run(place, "s", "r")
            other.release()
        try:
            remove_run(Dying(tmp_path, changes), "s", "r")
            break
        except Killed:
            kills += 1
        is_done = bool(RunWriter(place, "s", "r", keep_until=9).rows)
        assert not is_done or fetch_checkpoint(place, "s", "r", tmp_path) is not None, changes
    assert kills >= 3
    assert RunWriter(place, "s", "r", keep_until=9).rows == []
    assert fetch_checkpoint(place, "s", "r", tmp_path) is None


def test_of_two_packed_files_that_hold_one_run_the_newer_counts(tmp_path):
    place = Place(tmp_path)
    for number in range(6):
        # By their hashes the files lie in any order.
        run_of(place, "t0", row(1, part__total=float(number), status="done"))
        # The new file is there, the run's own will be gone, the old packed ones are not.
        with pytest.raises(Killed):
            compact(Dying(tmp_path, 1), "s", quiet_seconds=0)
        place.delete("s/rows/t0.parquet")
        assert read(place)["part.total"].to_pylist() == [number]
        assert RunWriter(place, "s", "t0", keep_until=1).rows[0]["part.total"] == number
    assert compact(place, "s", quiet_seconds=0) == (0, 1)
    assert read(place)["part.total"].to_pylist() == [5.0]
    assert len(names(place, "rows")) == 1


def test_a_reader_in_the_middle_of_compactions_and_writes_sees_every_run_once(tmp_path):
    place, over, num = Place(tmp_path), threading.Event(), 0
    seen, troubles = [], []

    def read_on():
        while not over.is_set():
            least = num
            table = read(tmp_path, "s")
            counts = table.group_by("run_id").aggregate([("epoch", "count")])["epoch_count"].to_pylist()
            seen.append(len(counts))
            if set(counts) != {3} or len(counts) < least:
                troubles.append(counts)

    for number in range(4):
        run_of(place, f"t{number}", row(1), row(2), row(3, status="done"))
        num += 1
    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        for number in range(4, 24):
            run_of(place, f"t{number}", row(1), row(2), row(3, status="done"))
            num += 1
            if number % 2:
                compact(place, "s", quiet_seconds=0)
    finally:
        over.set()
        reader.join()
    assert troubles == []
    assert seen
    assert read(place).num_rows == 3 * 24


def test_runs_that_were_written_to_just_now_and_a_second_compaction_wait(tmp_path):
    place = Place(tmp_path)
    a_study(place)
    assert compact(place, "s") == (0, 0)
    other = Lease(place, "s/leases/compacted-rows.json", {"compaction of study": "s"})
    other.acquire(print)
    with pytest.raises(LeaseError, match="compaction of study s: is being driven by"):
        compact(place, "s", quiet_seconds=0)
    other.release()


def test_the_command_says_what_it_packed_and_what_is_wrong(tmp_path, capsys):
    a_study(Place(tmp_path))
    old = time.time() - 100
    for path in (tmp_path / "s").rglob("*.parquet"):
        os.utime(path, (old, old))
    assert main(["compact", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "s: 4 runs packed, 4 packed in all\n"
    assert main(["compact", "--results", str(tmp_path), "--study", "../x"]) == 2
    assert "error: study '../x': must be letters" in capsys.readouterr().err
    assert main(["compact", "--results", str(tmp_path), "--study", "s", "S"]) == 2
    assert capsys.readouterr().err == f"error: study S: is not in {tmp_path}; choose from: s\n"
    assert not (tmp_path / "S").exists()
    assert main(["compact", "--results", str(tmp_path / "no")]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_no_run_takes_the_name_of_a_packed_file(tmp_path):
    with pytest.raises(Exception, match="run_id 'compacted-x': must not start with compacted-; rename the run_id"):
        run(tmp_path, "s", "compacted-x", row(1))


# --- other readers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path):
    place = Place(tmp_path)
    expected = a_study(place)
    compact(place, "s", quiet_seconds=0)
    return tmp_path / "s" / "rows", expected


def test_pandas_and_arrow_read_the_files_as_they_lie(packed):
    folder, expected = packed
    frame = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
    # The driver's word on t6 lies beside: its last epoch and its failure.
    own = expected.to_pandas()
    assert len(frame[frame.run_id != "t6"]) == len(own[own.run_id != "t6"])
    assert frame.set_index("run_id").loc["t1"]["metric.objective"].max() == pytest.approx(1 / 7)
    assert str(frame.dtypes["time"]).startswith("datetime64[us, UTC")
    assert ds.dataset(folder).to_table(columns=["run_id", "epoch", "status"]).num_rows == len(frame)


def test_duckdb_reads_the_files_as_they_lie(packed):
    duckdb = pytest.importorskip("duckdb")
    told = duckdb.sql(
        f"select run_id, max(epoch) from read_parquet('{packed[0]}/*.parquet', union_by_name=true) "
        "where status in ('done', 'pruned') group by 1 order by 1"
    ).fetchall()
    assert told == [("t0", 2), ("t1", 2), ("t2", 2), ("t3", 0)]


def test_polars_reads_the_files_as_they_lie(packed):
    polars = pytest.importorskip("polars")
    frame = polars.concat([polars.read_parquet(path) for path in packed[0].glob("*.parquet")], how="diagonal")
    assert sorted(frame.filter(frame["status"] == "done")["run_id"].to_list()) == ["t0", "t1"]
