"""Trouble with S3: what passes is waited for, what stays is said at once, and no credential is ever in the words."""

import pickle
import time
import traceback

import pytest
from faulty import faulty
from runs import row, run

from lacray.results import (
    Place,
    ResultsError,
    RunWriter,
    check_writable,
    differences,
    read,
    read_manifest,
    redact,
    store_checkpoint,
    to_table,
    write_end,
    write_manifest,
)
from lacray.results.schema import encode


@pytest.fixture
def proxied(s3, monkeypatch):
    """What stands between us and the server, and does as it is told."""
    check_writable("s3://results/proxied")
    with faulty(s3["AWS_ENDPOINT_URL"]) as (address, faults):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield faults


def test_a_single_500_or_lost_connection_is_mended_without_a_word(proxied):
    said = []
    place = Place("s3://results/proxied/blip", tell=said.append)
    for fault in ("error", "refuse"):
        proxied.next = [fault]
        place.write("s/a.json", fault.encode())
        proxied.next = [fault]
        assert place.read("s/a.json") == fault.encode()
        proxied.next = [fault]
        assert [entry.key for entry in place.list("s/")] == ["s/a.json"]
    assert said == []


def test_trouble_that_lasts_is_told_once_and_its_end_once(proxied):
    said = []
    place = Place("s3://results/proxied/long", patience=60, tell=said.append)
    proxied.next = ["refuse"] * 5
    place.write("s/a.json", b"x")
    assert len(said) == 2, said
    assert "waiting up to 60 s" in said[0]
    assert "answering again after" in said[1]


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_who_gives_up_earlier_tells_it_too_and_only_once(proxied, delay):
    """A study's own looks at its place: they are all that the driver asks while its trials wait.

    With the delay, no try falls between the second that is silent and the end of the patience.
    """
    proxied.delay = delay
    said = []
    place = Place("s3://results/proxied/short", patience=60, tell=said.append)
    hasty = place.patient(1.5)
    for _ in range(2):
        proxied.next = ["refuse"] * 9
        with pytest.raises(ResultsError):
            hasty.read("s/a.json")
    assert len(said) == 1, said
    assert "waiting up to 60 s" in said[0]
    proxied.next = []
    hasty.read("s/a.json")
    assert "answering again after" in said[1]


def test_trouble_that_outlasts_the_patience_is_an_error_that_says_so(proxied):
    proxied.then = "error"
    with pytest.raises(ResultsError, match=r"tried for \d+ s.*check AWS_ENDPOINT_URL and the network"):
        Place("s3://results/proxied", patience=1.0).write("s/a.json", b"x")


def test_a_conditional_put_whose_answer_was_lost_is_not_taken_for_anothers(proxied):
    place = Place("s3://results/proxied/lost", patience=20)
    proxied.next = ["lose"]
    version = place.create("s/study.json", b"mine")
    assert version
    proxied.next = ["lose"]
    assert place.replace("s/study.json", b"still mine", version)
    # A run's writer too: its own earlier try is not another process.
    writer = RunWriter(place, "s", "r")
    for epoch in (1, 2):
        proxied.next = ["lose"]
        writer.append([row(epoch)])
    assert read(place)["epoch"].to_pylist() == [1, 2]


def test_a_server_that_answers_after_two_seconds_is_no_fault(proxied):
    said = []
    place = Place("s3://results/proxied/slow", tell=said.append)
    proxied.delay = 2.0
    place.write("s/a.json", b"x")
    assert place.read("s/a.json") == b"x"
    assert said == []
    assert [fault for _, fault in proxied.seen[-2:]] == ["pass", "pass"]


def test_many_reads_get_over_failures_of_some(proxied):
    place = Place("s3://results/proxied/many", patience=20)
    for number in range(6):
        place.write(f"s/rows/r{number}.parquet", encode(to_table([row(1, run_id=f"r{number}")])))
    proxied.next = ["pass"] * 3 + ["error", "pass", "refuse"]
    assert read(place).num_rows == 6


def test_a_wrong_secret_is_said_at_once(s3, monkeypatch):
    check_writable("s3://results/guarded")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    began = time.monotonic()
    for attempt in (
        lambda: check_writable("s3://results/guarded"),
        lambda: read("s3://results/guarded"),
        lambda: run("s3://results/guarded", "s", "r", row(1)),
        lambda: Place("s3://results/guarded").write("s/a.json", b""),
    ):
        with pytest.raises(ResultsError, match=r"s3://results/guarded: .*check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS"):
            attempt()
    assert time.monotonic() - began < 10


def test_a_bucket_that_is_not_there_is_said_at_once(s3):
    began = time.monotonic()
    with pytest.raises(ResultsError, match=r"bucket does not exist.*check the bucket's name"):
        Place("s3://absent-bucket/x").read("s/study.json")
    assert time.monotonic() - began < 5


def test_no_credentials_and_no_server_are_said_so(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ResultsError, match=r"Unable to locate credentials; check AWS_ACCESS_KEY_ID"):
        check_writable("s3://results/guarded")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, s3[name])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ResultsError, match=r"Could not connect.*check AWS_ENDPOINT_URL and the network"):
        Place("s3://results/guarded", patience=1.0).check_writable()


# --- credentials -----------------------------------------------------------------------------------------------------

KEY, SECRET, TOKEN = "AKIAABCDEFGHIJKLMNOP", "wJalrXUtnFEMI/K7MDENG/bPxRfi", "FwoGZXIvYXdzEJr//////////"


def test_no_credential_reaches_a_message_a_row_a_manifest_or_a_traceback(s3, monkeypatch, tmp_path):
    check_writable("s3://results/secret")
    for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET), ("SESSION_TOKEN", TOKEN)):
        monkeypatch.setenv(f"AWS_{name}", value)
    said = []
    (tmp_path / "x.pt").write_bytes(b"x")
    place = Place("s3://results/secret", patience=0.5, tell=said.append)
    for attempt in (
        lambda: place.write("s/a.json", b"x"),
        lambda: read(place),
        lambda: store_checkpoint(place, "s", "r", tmp_path / "x.pt"),
        lambda: Place(f"s3://{KEY}:{SECRET}@bucket/x"),
        lambda: Place(f"ftp://{KEY}:{SECRET}@host/x"),
    ):
        with pytest.raises(ResultsError) as caught:
            attempt()
        said += [str(caught.value), repr(caught.value), "".join(traceback.format_exception(caught.value))]
        said.append(pickle.dumps(caught.value).decode("latin1"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{KEY}:{SECRET}@127.0.0.1:9")
    with pytest.raises(ResultsError, match="AWS_ENDPOINT_URL: must hold no user and password") as caught:
        Place("s3://results/secret", patience=0.1).write("s/a.json", b"x")
    said.append(str(caught.value))
    error = (
        f"cannot reach https://{KEY}:{SECRET}@host/a?X-Amz-Credential={KEY}%2F2030&X-Amz-Signature=abcdef0123 {TOKEN}"
    )
    own = Place(tmp_path / "results")
    run(own.uri, "s", "r", row(1, status="failed", error=error, notes=[error]))
    write_end(own, "s", "r2", {"status": "failed", "epoch": 0, "error": error})
    for refused in (
        lambda: run(own.uri, "s", "r3", row(1, data__root=error)),
        lambda: write_manifest(own, "s", {"space": {"root": error}}),
        lambda: write_manifest(own, "s", {"space": {"choices": ["none", error]}}),
    ):
        with pytest.raises(ResultsError, match="must hold no password or key") as caught:
            refused()
        said.append(str(caught.value))
    assert read_manifest(own, "s") is None
    said += [str(read(own.uri).to_pylist()), *differences({"a": error}, {"a": 1})]
    for path in (tmp_path / "results").rglob("*.*"):
        said.append(path.read_bytes().decode("latin1"))
    for text in said:
        for secret in (KEY, SECRET, TOKEN, "abcdef0123"):
            assert secret not in text, text
    assert any("cannot reach https://***@host" in text for text in said)


def test_what_is_no_credential_stays_in_the_words():
    text = "s3://bucket/prefix/AKIA: alice@example.org trained at http://127.0.0.1:8333/x"
    assert redact(text) == text


def test_a_key_s_id_that_is_a_word_changes_nothing_that_is_stored(monkeypatch, tmp_path):
    """Servers of one's own take any: a manifest whose `lacray` was `***` could not be resumed."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lacray")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-word")
    place, root = Place(tmp_path), "/srv/lacray/videos"
    manifest = {"versions": {"lacray": "0.1.0"}, "space": {"fixed": {"data.root": root}}}
    write_manifest(place, "s", manifest)
    run(tmp_path, "s", "r", row(1, data__root=root, error="of another-word"))
    assert read_manifest(place, "s") == manifest
    (stored,) = read(place).to_pylist()
    assert (stored["data.root"], stored["error"]) == (root, "of ***")


def test_the_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(ResultsError("a", "must be b", "do c")))
    assert (str(error), error.remedy, error.problems) == ("a: must be b; do c", "do c", ["a: must be b; do c"])
