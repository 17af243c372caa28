"""Who drives a study: a small file that its driver renews, so that a second driver is refused while it lives."""

from __future__ import annotations

import contextlib
import datetime
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lacray.config import UserError
from lacray.results.entries import Found
from lacray.results.names import check_name
from lacray.results.place import Place

RENEW_SECONDS = 5.0
# Six renewals missed: a driver that is merely slow does not lose its study.
STALE_SECONDS = 30.0
LOOK_SECONDS = 1.0


class LeaseError(UserError):
    """Another process drives this study."""


class Lease:
    """The right to drive a study, or to write a run.

    Args:
        place: where results lie.
        key: 'STUDY/lease.json', or 'STUDY/leases/RUN.json' for a single training.
        describe: what is driven, for whoever is refused and whoever reads the lease: {"study": "lac"}; JSON values.

    Attributes:
        lost: set when another process took the lease; whoever held it must stop.
    """

    def __init__(self, place: Place, key: str, describe: Mapping[str, Any] | None = None) -> None:
        self.lost = threading.Event()
        self._place, self._key = place, key
        self._what = ", ".join(f"{name} {value}" for name, value in (describe or {}).items()) or key
        # A renewal that waits longer than it holds has missed its purpose; the next one tries again.
        self._renewing = place.patient(RENEW_SECONDS)
        self._record = {**(describe or {}), **_this_process(), "token": uuid.uuid4().hex}
        self._version: str | None = None
        self._over = threading.Event()
        self._renewer: threading.Thread | None = None

    def acquire(self, wait_line: Callable[[str], None]) -> None:
        """Takes the lease and renews it from then on, in a thread of its own.

        A lease whose process is gone from this machine is taken over at once; one from elsewhere is watched until it
        is renewed or stale (30 s).

        Args:
            wait_line: gets one line where it has to be watched.

        Raises:
            LeaseError: another process holds it: who, since when, and what to do.
            ResultsError: the place cannot be read or written.
        """
        watched: tuple[str, float] | None = None
        while True:
            found = self._place.look(self._key)
            if found is None:
                if self._took(self._place.create(self._key, self._content())):
                    return
                continue
            holder = _parse(found.data)
            if self._is_free(found, holder, watched):
                if self._took(self._place.replace(self._key, self._content(), found.version)):
                    return
                continue
            if watched is None:
                if _lives_here(holder):
                    raise self._refusal(holder)
                watched = (found.version, time.monotonic())
                wait_line(
                    f"{self._what}: was driven by {_told(holder)}; waiting up to {STALE_SECONDS:.0f} s to see whether "
                    "it still is"
                )
            elif watched[0] != found.version:
                raise self._refusal(holder)
            time.sleep(LOOK_SECONDS)

    def _is_free(self, found: Found, holder: dict[str, Any], watched: tuple[str, float] | None) -> bool:
        if holder.get("token") == self._record["token"]:
            return True
        if _gone_from_here(holder):
            return True
        # By our own clock too: a place whose clock jumps must not keep a study for ever.
        seen = 0.0 if watched is None or watched[0] != found.version else time.monotonic() - watched[1]
        return max(seen, self._place.now() - found.modified) > STALE_SECONDS

    def _took(self, version: str | None) -> bool:
        if version is None:
            return False
        if self._place.settle_seconds:
            # Two that wrote in the same instant both believe they won; the one that is read afterwards did.
            time.sleep(self._place.settle_seconds)
            found = self._place.look(self._key)
            if found is None or _parse(found.data).get("token") != self._record["token"]:
                return False
            version = found.version
        self._version = version
        self.lost.clear()
        self._over.clear()
        self._renewer = threading.Thread(target=self._renew_until_over, name="lease", daemon=True)
        self._renewer.start()
        return True

    def renew(self) -> None:
        """Renews the lease now; sets `lost` where another process has taken it.

        Raises:
            ResultsError: the place cannot be reached; the lease may still be ours.
        """
        if self._version is None or self.lost.is_set():
            return
        content = self._content()
        version = self._renewing.replace(self._key, content, self._version)
        if version is None:
            found = self._renewing.look(self._key)
            if found is None:
                # The results were removed under us; the study's own files decide what that means.
                version = self._renewing.create(self._key, content)
            elif _parse(found.data).get("token") == self._record["token"]:
                version = found.version
            if version is None:
                self.lost.set()
                return
        self._version = version

    def _renew_until_over(self) -> None:
        while not self._over.wait(RENEW_SECONDS) and not self.lost.is_set():
            try:
                self.renew()
            except Exception:
                # A study does not end for its lease's sake: the place may be back in a minute.
                continue

    def release(self) -> None:
        """Gives the lease back; never raises, since a lease that is not given back becomes stale by itself."""
        self._over.set()
        if self._renewer is not None:
            self._renewer.join()
            self._renewer = None
        if self._version is not None and not self.lost.is_set():
            with contextlib.suppress(Exception):
                self._renewing.delete(self._key, self._version)
        self._version = None

    def _content(self) -> bytes:
        # The renewal's own mark: no two writes are alike, so that versions differ.
        return json.dumps({**self._record, "renewal": uuid.uuid4().hex}, indent=1).encode()

    def _refusal(self, holder: Mapping[str, Any]) -> LeaseError:
        return LeaseError(
            f"{self._what}: is being driven by {_told(holder)}, and only one may; wait for it or end it there, or "
            "choose another --study NAME or --results"
        )


def lease_state(place: Place, study: str) -> dict[str, Any] | None:
    """Who drives a study, from any machine.

    Args:
        place: where results lie.
        study: the study's name.

    Returns:
        host, pid, user, since, what the driver said of itself, 'age' (seconds since the last renewal by the place's
        clock) and 'fresh' (whether it lives); None where nobody drives it.

    Raises:
        ResultsError: the place cannot be read.
    """
    found = place.look(f"{check_name('study', study)}/lease.json")
    if found is None:
        return None
    holder = _parse(found.data)
    age = max(0.0, place.now() - found.modified)
    return {**holder, "age": age, "fresh": age <= STALE_SECONDS and not _gone_from_here(holder)}


def _parse(content: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _told(holder: Mapping[str, Any]) -> str:
    who = f"{holder.get('user', 'somebody')} on {holder.get('host', 'a host')}, process {holder.get('pid', '?')}"
    return f"{who} since {holder['since']}" if "since" in holder else who


def _this_process() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container's user need not have a name.
        user = str(os.getuid())
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "user": user,
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


def _machine() -> str | None:
    """What tells this boot of this machine, and these process ids, from any other; None where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None where there is none (a dead one that nobody reaped is none)."""
    try:
        # The name is in parentheses and may hold anything, spaces and parentheses too.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _is_here(holder: Mapping[str, Any]) -> bool:
    return holder.get("machine") is not None and holder["machine"] == _machine()


def _gone_from_here(holder: Mapping[str, Any]) -> bool:
    return _is_here(holder) and _started(int(holder.get("pid", 0))) != holder.get("started")


def _lives_here(holder: Mapping[str, Any]) -> bool:
    return _is_here(holder) and not _gone_from_here(holder)
