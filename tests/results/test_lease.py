"""One driver a study: taken, renewed, refused, taken over, lost; on disk and on S3."""

import json
import os
import pwd
import signal
import subprocess
import sys
import threading
import time

import pytest
from faulty import faulty
from paths import ROOT

from lacray.config import UserError
from lacray.results import Lease, LeaseError, Place, ResultsError, check_writable, lease_state
from lacray.results import lease as module

KEY = "lac/lease.json"


def silent(line):
    raise AssertionError(f"nothing had to be waited for, and was: {line}")


@pytest.fixture
def place(uri):
    check_writable(uri)
    return Place(uri, patience=20.0)


@pytest.fixture
def held(place):
    """A lease of this process; given back at the end."""
    lease = Lease(place, KEY, {"study": "lac"})
    lease.acquire(silent)
    yield lease
    lease.release()


def from_elsewhere(**changes):
    """What a driver on another machine would have written."""
    record = {"host": "node7", "pid": 4242, "user": "ada", "since": "2030-01-01T00:00:00+00:00", "token": "other"}
    return json.dumps({**record, "machine": "another boot", "started": "1", **changes}).encode()


def test_a_driver_is_seen_from_anywhere_until_it_is_done(place, uri):
    assert lease_state(place, "lac") is None
    lease = Lease(place, KEY, {"study": "lac"})
    lease.acquire(silent)
    state = lease_state(Place(uri), "lac")
    assert (state["study"], state["pid"], state["fresh"]) == ("lac", os.getpid(), True)
    assert state["host"]
    assert state["age"] < 30
    version = place.version(KEY)
    lease.renew()
    assert place.version(KEY) != version
    assert not lease.lost.is_set()
    lease.release()
    lease.release()
    assert lease_state(place, "lac") is None
    lease.acquire(silent)
    lease.release()


def test_a_second_driver_on_this_machine_is_refused_by_name(place, held):
    with pytest.raises(
        LeaseError, match=rf"study lac: is being driven by .* on .*, process {os.getpid()} since"
    ) as said:
        Lease(place, KEY, {"study": "lac"}).acquire(silent)
    assert isinstance(said.value, UserError)
    assert "choose another --study NAME or --results" in str(said.value)
    assert not held.lost.is_set()


HOLD = """
import sys, time
from lacray.results import Lease, Place
Lease(Place(sys.argv[1]), "lac/lease.json", {"study": "lac"}).acquire(print)
print("held", flush=True)
time.sleep(600)
"""


def test_a_driver_that_was_killed_on_this_machine_is_followed_at_once(place, uri):
    process = subprocess.Popen([sys.executable, "-c", HOLD, uri], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout.readline() == "held\n"
        assert lease_state(place, "lac")["pid"] == process.pid
        with pytest.raises(LeaseError):
            Lease(place, KEY, {"study": "lac"}).acquire(silent)
        process.send_signal(signal.SIGKILL)
        # Not yet waited for: a dead process that nobody has reaped is dead all the same.
        deadline = time.monotonic() + 30
        while lease_state(place, "lac")["fresh"] and time.monotonic() < deadline:
            time.sleep(0.05)
        lease = Lease(place, KEY, {"study": "lac"})
        lease.acquire(silent)
        assert lease_state(place, "lac")["pid"] == os.getpid()
        lease.release()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_driver_elsewhere_that_renews_is_waited_for_and_refused(place, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.1)
    place.write(KEY, from_elsewhere())
    said, over = [], threading.Event()

    def renew(line):
        said.append(line)
        place.write(KEY, from_elsewhere(renewal="2"))

    with pytest.raises(LeaseError, match="driven by ada on node7, process 4242 since 2030-01-01"):
        Lease(place, KEY, {"study": "lac"}).acquire(renew)
    over.set()
    assert len(said) == 1
    assert "study lac: was driven by ada on node7" in said[0]


def test_a_driver_elsewhere_that_does_not_renew_is_followed_when_its_lease_is_stale(place, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(module, "STALE_SECONDS", 3.0)
    place.write(KEY, from_elsewhere())
    said, lease = [], Lease(place, KEY, {"study": "lac"})
    began = time.monotonic()
    lease.acquire(said.append)
    # Clocks of servers tell whole seconds.
    assert time.monotonic() - began > 1.5
    assert lease_state(place, "lac")["pid"] == os.getpid()
    lease.release()


def test_a_lease_that_is_stale_by_the_places_clock_is_followed_at_once(tmp_path):
    place = Place(tmp_path)
    place.write(KEY, from_elsewhere())
    old = time.time() - 31
    os.utime(tmp_path / KEY, (old, old))
    state = lease_state(place, "lac")
    assert (state["fresh"], state["host"]) == (False, "node7")
    assert 30 < state["age"] < 60
    lease = Lease(place, KEY, {})
    lease.acquire(silent)
    lease.release()


def test_what_is_no_lease_is_no_obstacle_once_it_is_stale(tmp_path):
    place = Place(tmp_path)
    for content in (b"", b"[1]", b"\xff{"):
        place.write(KEY, content)
        old = time.time() - 31
        os.utime(tmp_path / KEY, (old, old))
        lease = Lease(place, KEY, {})
        lease.acquire(silent)
        lease.release()


def test_a_holder_that_was_followed_learns_it_and_leaves_the_others_lease_alone(place, held):
    place.write(KEY, from_elsewhere())
    held.renew()
    assert held.lost.is_set()
    held.release()
    assert lease_state(place, "lac")["host"] == "node7"


def test_a_lease_that_was_deleted_with_the_results_is_written_again(place, held):
    place.delete(KEY)
    held.renew()
    assert not held.lost.is_set()
    assert lease_state(place, "lac")["pid"] == os.getpid()


def test_a_lease_outlives_a_time_without_its_server(s3, monkeypatch):
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.3)
    check_writable("s3://results/away")
    with faulty(s3["AWS_ENDPOINT_URL"]) as (address, faults):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        lease = Lease(Place("s3://results/away"), KEY, {"study": "lac"})
        lease.acquire(silent)
        faults.then = "refuse"
        with pytest.raises(ResultsError):
            lease.renew()
        seen = len(faults.seen)
        while len(faults.seen) < seen + 3:  # its thread has tried as well
            time.sleep(0.05)
        faults.next, faults.then = ["lose", "lose"], "pass"
        before = Place("s3://results/away").version(KEY)
        deadline = time.monotonic() + 60
        while Place("s3://results/away").version(KEY) == before and time.monotonic() < deadline:
            time.sleep(0.2)
        assert Place("s3://results/away").version(KEY) != before
        assert not lease.lost.is_set()
        lease.release()


def test_a_user_without_a_name_or_a_home_has_a_lease(tmp_path, monkeypatch):
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    lease = Lease(Place(tmp_path), KEY, {})
    lease.acquire(silent)
    assert lease_state(Place(tmp_path), "lac")["user"] == str(os.getuid())
    lease.release()


# --- two at once -----------------------------------------------------------------------------------------------------

RACE = """
import sys
from lacray.results import Lease, LeaseError, Place
place = Place(sys.argv[1])
place.now()
print("ready", flush=True)
for line in sys.stdin:
    try:
        Lease(place, line.strip(), {}).acquire(lambda line: None)
        print("got", flush=True)
    except LeaseError:
        print("refused", flush=True)
"""


@pytest.mark.parametrize("before", ["nobody", "a dead driver"])
def test_of_two_drivers_that_start_at_the_same_moment_exactly_one_drives(place, uri, before):
    rounds = 3 if uri.startswith("s3:") else 40
    command = [sys.executable, "-c", RACE, uri]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    try:
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 2
        wins = [0, 0]
        for number in range(rounds):
            key = f"s{number}/lease.json"
            if before == "a dead driver":
                # A process of this machine that is not there.
                place.write(key, from_elsewhere(machine=module._machine(), pid=2**22 + 1))
            for racer in racers:
                racer.stdin.write(f"{key}\n")
                racer.stdin.flush()
            told = [racer.stdout.readline().strip() for racer in racers]
            assert sorted(told) == ["got", "refused"], number
            wins[told.index("got")] += 1
            assert lease_state(place, f"s{number}")["pid"] == racers[told.index("got")].pid
        assert sum(wins) == rounds
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
            racer.stdin.close()
            racer.stdout.close()
