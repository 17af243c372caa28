"""A directory and an S3 prefix as one thing: whole objects, conditions, names that stay inside."""

import os
import pickle
import shutil
import subprocess
import sys
import threading
import time

import pytest
from paths import ROOT
from runs import row, run

from lacray.results import Place, ResultsError, RunWriter, best, check_name, check_writable, read, studies


@pytest.fixture
def place(uri):
    check_writable(uri)
    return Place(uri, patience=5.0)


def test_objects_are_written_read_listed_and_removed(place):
    assert place.read("s/rows/a.parquet") is None
    assert place.version("s/rows/a.parquet") is None
    assert place.list("s/rows/") == []
    place.write("s/rows/a.parquet", b"one")
    place.write("s/rows/b.parquet", b"")
    place.write("s/study.json", b"{}")
    assert place.read("s/rows/a.parquet") == b"one"
    assert [(entry.key, entry.size) for entry in place.list("s/rows/")] == [
        ("s/rows/a.parquet", 3),
        ("s/rows/b.parquet", 0),
    ]
    assert [entry.key for entry in place.list("s/")] == ["s/rows/a.parquet", "s/rows/b.parquet", "s/study.json"]
    assert place.folders() == ["s"]
    assert place.folders("s") == ["rows"]
    first = place.version("s/rows/a.parquet")
    place.write("s/rows/a.parquet", b"two")
    assert place.version("s/rows/a.parquet") not in (first, None)
    load = place.loader()
    assert bytes(load("s/rows/a.parquet")) == b"two"
    assert load("s/rows/no.parquet") is None
    assert place.delete("s/rows/a.parquet")
    assert place.read("s/rows/a.parquet") is None
    place.delete("s/rows/a.parquet")


def test_what_is_created_is_never_written_over_and_what_is_replaced_is_what_was_read(place):
    version = place.create("s/study.json", b"first")
    assert version
    assert place.create("s/study.json", b"second") is None
    newer = place.replace("s/study.json", b"third", version)
    assert newer not in (None, version)
    assert place.replace("s/study.json", b"fourth", version) is None
    assert not place.delete("s/study.json", version)
    assert place.read("s/study.json") == b"third"
    found = place.look("s/study.json")
    assert (found.data, found.version) == (b"third", newer)
    assert place.delete("s/study.json", newer)
    assert place.replace("s/study.json", b"fifth", newer) is None
    assert place.read("s/study.json") is None


def test_of_many_that_create_or_replace_at_once_on_disk_exactly_one_succeeds(tmp_path):
    place, num = Place(tmp_path), 8
    for trial in range(20):
        for attempt in ("create", "replace"):
            version = place.version(f"s/{trial}.json")
            barrier, won = threading.Barrier(num), []

            def act(me, attempt=attempt, version=version, barrier=barrier, won=won, key=f"s/{trial}.json"):
                content = str(me).encode()
                barrier.wait()
                succeeded = place.create(key, content) if attempt == "create" else place.replace(key, content, version)
                if succeeded:
                    won.append(content)

            threads = [threading.Thread(target=act, args=(me,)) for me in range(num)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert won == [place.read(f"s/{trial}.json")]
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == sorted(f"{trial}.json" for trial in range(20))


def test_files_go_up_and_down_whole(place, tmp_path):
    local = tmp_path / "state.pt"
    local.write_bytes(os.urandom(3_000_000))
    place.upload("s/checkpoints/r.pt", local)
    assert place.download("s/checkpoints/r.pt", tmp_path / "new" / "copy.pt")
    assert (tmp_path / "new" / "copy.pt").read_bytes() == local.read_bytes()
    assert not place.download("s/checkpoints/no.pt", tmp_path / "no.pt")
    assert not (tmp_path / "no.pt").exists()
    with pytest.raises(FileNotFoundError):
        place.upload("s/checkpoints/r.pt", tmp_path / "absent.pt")


def test_a_place_has_a_clock_that_agrees_with_its_objects(place):
    place.write("s/lease.json", b"x")
    assert abs(place.now() - place.look("s/lease.json").modified) < 5
    assert abs(place.now() - time.time()) < 5
    assert place.folders() == ["s"]


def test_a_place_goes_to_other_processes(place):
    place.write("s/study.json", b"x")
    assert pickle.loads(pickle.dumps(place)).read("s/study.json") == b"x"


# --- names -----------------------------------------------------------------------------------------------------------

NAMES = [
    "",
    ".",
    "..",
    "a/../..",
    "/a",
    "../a",
    ".hidden",
    "a b",
    "a\\b",
    "a\nb",
    "a\0b",
    "ä",
    "a" * 101,
    "~",
    "$HOME",
    "%2e%2e",
]


def test_a_name_is_one_step_of_a_path():
    with pytest.raises(ResultsError, match=r"study 'a/b': must be letters, digits and .* rename the study"):
        check_name("study", "a/b")


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_place(tmp_path, name):
    outside = tmp_path / "outside.json"
    outside.write_text("keep")
    place = Place(tmp_path / "results")
    with pytest.raises(ResultsError, match=r"must (be letters, digits|have at most 100)"):
        check_name("study", name)
    attempts = [
        lambda: place.write(f"{name}/study.json", b""),
        lambda: place.delete(f"s/../../{name}"),
        lambda: place.read(f"{name}/x"),
        lambda: place.list(f"{name}/rows/"),
        lambda: place.upload(f"s/{name}", outside),
        lambda: RunWriter(place, name, "r"),
        lambda: RunWriter(place, "s", name),
        lambda: read(place, name),
    ]
    for attempt in attempts:
        with pytest.raises(ResultsError):
            attempt()
    assert outside.read_text() == "keep"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside.json"]


def test_a_long_name_that_fits_does_fit(tmp_path):
    name = "n" * 100
    run(tmp_path, name, name, row(1))
    assert studies(str(tmp_path)) == [name]
    assert read(str(tmp_path), name)["run_id"].to_pylist() == [name]


# --- a directory's troubles ------------------------------------------------------------------------------------------


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


def test_a_directory_that_is_removed_while_it_is_written_to_is_made_again(tmp_path):
    place, over = Place(tmp_path / "results", patience=20.0), threading.Event()

    def remove():
        while not over.wait(0.01):
            shutil.rmtree(tmp_path / "results", ignore_errors=True)

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for number in range(6):
            place.write(f"s/rows/{number}.parquet", b"x")
            place.create(f"s/{number}.json", b"x")
    finally:
        over.set()
        remover.join()
    place.write("s/rows/last.parquet", b"x")
    assert place.read("s/rows/last.parquet") == b"x"


def test_a_full_disk_is_said_at_once_and_leaves_the_last_good_file(tmp_path, monkeypatch):
    place = Place(tmp_path)
    place.write("s/a.json", b"good")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    began = time.monotonic()
    with pytest.raises(ResultsError, match="No space left on device; make room, or pass another --results"):
        place.write("s/a.json", b"new")
    assert time.monotonic() - began < 5
    assert place.read("s/a.json") == b"good"
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["a.json"]


# --- S3 --------------------------------------------------------------------------------------------------------------


def test_a_run_makes_the_round_trip_through_s3(s3):
    uri = "s3://results/round/trip"
    check_writable(uri)
    check_writable(uri)
    with pytest.raises(ResultsError, match="holds no results"):
        read(uri)
    writer = RunWriter(uri, "lac", "r1")
    for epoch in (1, 2, 3):
        writer.append([row(epoch, loss__gamma=0.5, metric__objective=epoch / 10, status="done")])
    RunWriter(uri, "other", "r2").append([row(1)])
    assert studies(uri) == ["lac", "other"]
    assert read(uri, "lac")["metric.objective"].to_pylist() == [0.1, 0.2, 0.3]
    assert read(f"{uri}/").num_rows == 4
    resumed = RunWriter(uri, "lac", "r1", keep_until=2)
    resumed.append([row(3, metric__objective=0.9, status="done")])
    assert read(uri, "lac")["metric.objective"].to_pylist() == [0.1, 0.2, 0.9]
    assert best(read(uri, "lac"))["epoch"] == 3
    with pytest.raises(ResultsError, match=r"study lca: is not in .*choose from: lac, other"):
        read(uri, "lca")


def test_the_s3_endpoint_variable_goes_before_the_general_one(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    check_writable("s3://results/variables")
    run("s3://results/variables", "s", "r", row(1))
    assert read("s3://results/variables").num_rows == 1


def test_a_whole_bucket_is_a_place_too(s3):
    check_writable("s3://whole")
    run("s3://whole", "s", "r", row(1))
    assert studies("s3://whole/") == ["s"]
    assert read("s3://whole").num_rows == 1


def test_reading_and_writing_need_no_torch_and_no_ray():
    code = f"import sys, lacray.results; sys.exit(any(name in sys.modules for name in {('torch', 'ray', 'boto3')}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
