"""What a study was begun with, and checkpoints."""

import pytest

from lacray.results import (
    Place,
    ResultsError,
    check_writable,
    checkpoint_uri,
    differences,
    fetch_checkpoint,
    manifest_exists,
    open_checkpoint,
    read,
    read_manifest,
    remove_checkpoint,
    store_checkpoint,
    studies,
    write_end,
    write_manifest,
)

MANIFEST = {"space": {"loss.gamma": {"low": 0.05, "high": 2.0, "log": True}}, "trials": 40, "seed": 0, "versions": {}}


@pytest.fixture
def place(uri):
    check_writable(uri)
    return Place(uri, patience=20.0)


def test_a_manifest_is_written_once(place):
    assert read_manifest(place, "lac") is None
    assert not manifest_exists(place, "lac")
    assert write_manifest(place, "lac", MANIFEST)
    assert not write_manifest(place, "lac", {"trials": 1})
    assert manifest_exists(place, "lac")
    assert read_manifest(place, "lac") == MANIFEST
    assert studies(place) == ["lac"]
    with pytest.raises(ResultsError, match=r"study lac: has no rows yet in .*; wait for the first epoch"):
        read(place, "lac")


def test_a_damaged_manifest_is_named(tmp_path):
    for content in (b"", b"[1]", b"{", b"\xff"):
        Place(tmp_path).write("lac/study.json", content)
        with pytest.raises(ResultsError, match=r"lac/study.json: must be a JSON object, got .*; restore it"):
            read_manifest(Place(tmp_path), "lac")


def test_differences_are_told_key_by_key():
    now = {**MANIFEST, "space": {"loss.gamma": {"low": 0.05, "high": 4.0, "log": True}, "loss.tau": {"low": 1}}}
    assert differences(MANIFEST, MANIFEST) == []
    assert differences(MANIFEST, {**now, "trials": 60}) == [
        "space.loss.gamma.high: was 2.0, is now 4.0",
        "trials: was 40, is now 60",
        "space.loss.tau.low: was absent, is now 1",
    ]
    assert differences({"a": {"b": [1, 2]}, "c": True, "d": "x"}, {"a": {"b": (1, 2)}, "c": 1}) == [
        "c: was true, is now 1",
        'd: was "x", is now absent',
    ]
    assert differences({"a": {}}, {"a": {"b": None}}) == ["a: was {}, is now absent", "a.b: was absent, is now null"]
    assert differences({"a": 1}, {"a": 1.0}) == []


def test_a_checkpoint_is_stored_replaced_fetched_and_removed(place, tmp_path):
    local = tmp_path / "last.pt"
    (tmp_path / "down").mkdir()
    assert fetch_checkpoint(place, "lac", "r", tmp_path / "down") is None
    for content in (b"first" * 1000, b"second"):
        local.write_bytes(content)
        where = store_checkpoint(place, "lac", "r", local)
        assert where == checkpoint_uri(place.uri, "lac", "r")
        assert fetch_checkpoint(place, "lac", "r", tmp_path / "down").read_bytes() == content
        assert open_checkpoint(where, tmp_path / "down").read_bytes() == content
    remove_checkpoint(place, "lac", "r")
    remove_checkpoint(place, "lac", "r")
    assert fetch_checkpoint(place, "lac", "r", tmp_path / "down") is None
    store_checkpoint(place, "lac", "r", local)
    write_end(place, "lac", "r", {"status": "pruned", "epoch": 3})
    assert fetch_checkpoint(place, "lac", "r", tmp_path / "down") is None


def test_a_checkpoint_whose_writing_was_cut_off_is_never_seen(tmp_path, monkeypatch):
    place, local = Place(tmp_path / "results"), tmp_path / "last.pt"
    local.write_bytes(b"good" * 1000)
    store_checkpoint(place, "lac", "r", local)
    local.write_bytes(b"half")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store_checkpoint(place, "lac", "r", local)
    assert (tmp_path / "results" / "lac" / "checkpoints" / "r.pt").read_bytes() == b"good" * 1000


def test_what_killed_writes_of_a_checkpoint_left_goes_with_the_next_one_and_with_itself(tmp_path, monkeypatch):
    """Each was as large as the checkpoint, hidden, and stayed for ever."""
    place, local = Place(tmp_path / "results"), tmp_path / "last.pt"
    local.write_bytes(b"weights")
    store_checkpoint(place, "lac", "r1", local)
    folder = tmp_path / "results" / "lac" / "checkpoints"

    def killed(*_):
        raise KeyboardInterrupt

    def cut_off(run_id):
        with monkeypatch.context() as kill:
            kill.setattr("os.replace", killed)
            # A SIGKILL lets nothing be cleared up.
            kill.setattr("pathlib.Path.unlink", lambda *_, **__: None)
            with pytest.raises(KeyboardInterrupt):
                store_checkpoint(place, "lac", run_id, local)

    for run_id in ("r", "r1"):
        cut_off(run_id)
    assert len(list(folder.iterdir())) == 3
    store_checkpoint(place, "lac", "r", local)
    assert len(list(folder.iterdir())) == 3
    cut_off("r")
    remove_checkpoint(place, "lac", "r")
    # That of another run may be at work.
    assert [path.name.partition("~")[0] for path in sorted(folder.iterdir())] == [".r1.pt", "r1.pt"]


def test_a_checkpoint_that_a_user_names_wrongly_is_said_so(tmp_path, s3):
    check_writable("s3://results")
    with pytest.raises(ResultsError, match=r"s3://results/x/no.pt: must be a checkpoint, and nothing is there"):
        open_checkpoint("s3://results/x/no.pt", tmp_path)
    assert open_checkpoint("file:///a/b.pt", tmp_path).as_posix() == "/a/b.pt"
