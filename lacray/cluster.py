"""Joining the Ray cluster that there is, or starting Ray on this machine, whatever the machine is like."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lacray.cache import can_write, home_dir, temporary_dir
from lacray.cli import console
from lacray.config import UserError
from lacray.exits import catch_signals, interrupted_by

# What Ray reads from the environment, once, when it is imported.
RAY_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # report() waits for the controller's next look, every 2 s else
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # most epochs are not evaluated
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interruption is ours to handle
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # nothing is ever restored from what Tune keeps
}
# Ray's word for the address of a machine that talks to no other: its ports listen to this machine alone.
ONLY_HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
CONNECT_S = 5.0
JOIN_S = 15.0
# Ray's sockets lie 66 bytes below its folder, and the kernel takes names of 107.
MAX_TEMPORARY_NAME = 40
REMEDY = "start it, correct it, or unset RAY_ADDRESS to compute on this machine"


def check_address() -> None:
    """Whether RAY_ADDRESS, where it is set, names something that can be joined; to be known before anything starts.

    Raises:
        UserError: it does not.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(
            f"RAY_ADDRESS: must be HOST:PORT of a Ray cluster, auto or local, got {address!r}; for a cluster that is "
            "elsewhere run the command there (docs/cluster.md)"
        )
    problem = _unreachable(host, int(port))
    if problem:
        raise UserError(f"RAY_ADDRESS: must name a Ray cluster that answers, got {address} ({problem}); {REMEDY}")


@contextmanager
def shutting_down() -> Iterator[None]:
    """Shut Ray down at the end, unless that is a signal.

    Who asks Ray anything while it ends is ended by it, with exit code 1 and without a word: a thread that trains or
    shows how far it is, and all of us where Ray's daemons have got the signal as well. What is there of Ray ends with
    this process.
    """
    import ray

    try:
        yield
    finally:
        if interrupted_by() is None:
            ray.shutdown()


def start_ray() -> None:
    """Join the cluster that this machine is part of, else start one here, for this machine alone, and say which.

    Ray must not have been imported before: it reads its environment then.

    Raises:
        UserError: the cluster cannot be joined, or Ray cannot start here.
    """
    address = os.environ.get("RAY_ADDRESS") or _own_cluster() or "local"
    is_local = address == "local"
    for name, value in {**RAY_SETTINGS, **(ONLY_HERE if is_local else {})}.items():
        os.environ.setdefault(name, value)
    _prepare_token(is_local)
    import ray

    # What Ray and Tune log of a lost process are pages; the entry points tell it in a line.
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if is_local:
        folder = _folder_for_ray()
        # The dashboard stays on: Train inside Tune asks its State API.
        try:
            ray.init(address="local", dashboard_host="127.0.0.1", _temp_dir=folder, **options)
        except Exception as error:  # this class itself where its processes do not come up within 30 s
            raise UserError(f"Ray: cannot start on this machine ({_first_line(error)})") from error
    else:
        with _answers_in_time(address):
            try:
                ray.init(address=address, **options)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise UserError(f"RAY_ADDRESS: {address} cannot be joined ({_first_line(error)}); {REMEDY}") from error
        nodes = sum(node["Alive"] for node in ray.nodes())
        joined = f"Ray: joined {ray.get_runtime_context().gcs_address}, {nodes} node{'s' * (nodes != 1)}"
        console.print(joined, markup=False)
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Ray has no public word for this one: the last hundred lines of a daemon that died.
    ray._private.worker._worker_logs_enabled = False
    # Ray sets its own.
    catch_signals()


def _prepare_token(is_local: bool) -> None:
    """Who has no token can neither submit work to a Ray that is started here, nor look."""
    if home_dir() is None:
        # Where Ray keeps its token, and more.
        os.environ["HOME"] = str(temporary_dir())
    own = Path.home() / ".ray" / "auth_token"
    has_token = own.is_file() or bool({"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys())
    if is_local or has_token:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if is_local and not has_token and not can_write(own.parent):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _own_cluster() -> str | None:
    """Address of the cluster that this user's `ray start` has made this machine part of; None: there is none.

    Others may run Ray on this machine too, and clusters that died leave their address behind.
    """
    file = _temporary_root() / "ray" / "ray_current_cluster"
    try:
        if file.stat().st_uid != os.getuid():
            return None
        address = file.read_text().strip()
    except OSError:
        return None
    host, _, port = address.rpartition(":")
    return address if port.isdigit() and not _unreachable(host, int(port)) else None


def _unreachable(host: str, port: int) -> str | None:
    """Why nothing accepts connections there."""
    found: list[str | None] = []

    def look() -> None:
        try:
            socket.create_connection((host.strip("[]"), port), timeout=CONNECT_S).close()
            found.append(None)
        except OSError as error:
            found.append(str(error))

    # A name that no server answers for is looked up for longer than anybody waits.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(2 * CONNECT_S)
    return found[0] if found else f"no answer in {2 * CONNECT_S:.0f} s"


@contextmanager
def _answers_in_time(address: str) -> Iterator[None]:
    """Ends this process with a line where Ray would wait, for minutes, for something that is no Ray."""

    def give_up() -> None:
        line = f"RAY_ADDRESS: must name a Ray cluster that answers, got {address} (no answer in {JOIN_S:.0f} s)"
        print(f"error: {line}; {REMEDY}", file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(JOIN_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _temporary_root() -> Path:
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def _folder_for_ray() -> str:
    """A folder for Ray's files whose name is short enough for its sockets."""
    own = f"ray-{os.getuid()}"
    roots = [
        _temporary_root() / "ray",
        *(Path(root) / name for root in ("/tmp", "/var/tmp", "/dev/shm") for name in ("ray", own)),
    ]
    for folder in roots:
        if len(os.fsencode(folder)) <= MAX_TEMPORARY_NAME and can_write(folder):
            return str(folder)
    raise UserError(
        f"TMPDIR: Ray needs a folder that can be written and whose name has at most {MAX_TEMPORARY_NAME - 4} bytes, "
        f"got {_temporary_root()}, and /tmp cannot be written; set RAY_TMPDIR to one"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
