"""A thread that looks after what the driver waits for: that Ray is still there, and whatever else its owner asks."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence

# Wakes the main thread. Its own: Ctrl-C says that the whole process shall end, and may be ignored.
WAKING = signal.SIGUSR2
PERIOD_S = 1.0
# Without one accepted connection for this long, Ray is gone; the kernel accepts for a process that is merely busy.
GONE_AFTER_S = 15.0
CONNECT_S = 5.0

Check = Callable[[], Exception | None]


class ClusterLostError(Exception):
    """Ray is gone; everything that was stored is safe."""


class Watch:
    """Runs checks every second on a thread; the first exception that one returns goes to `on_problem`, and it is over.

    A context manager. A check that raises is a check that could not be made, this time.
    """

    def __init__(self, checks: Sequence[Check], on_problem: Callable[[Exception], None]) -> None:
        self._checks, self._on_problem = checks, on_problem
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lacray-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        if kind is not KeyboardInterrupt:
            # A check may be waiting for a server that is away.
            self._thread.join(2 * PERIOD_S)

    def _work(self) -> None:
        while not self._over.wait(PERIOD_S):
            for check in self._checks:
                try:
                    problem = check()
                except Exception:
                    problem = None
                if problem is not None and not self._over.is_set():
                    self._on_problem(problem)
                    return


def ray_is_there() -> Check:
    """A check that Ray's control store, and the daemon of this machine, accept connections; call it after `ray.init`.

    Asking Ray itself would wait for a minute, or for ever, where they are gone.
    """
    import ray

    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    places = {
        "control store (GCS)": (host, int(port)),
        "daemon (raylet)": (own["NodeManagerAddress"], own["NodeManagerPort"]),
    }
    answered = dict.fromkeys(places, time.monotonic())

    def check() -> ClusterLostError | None:
        for what, place in places.items():
            if _accepts(place):
                answered[what] = time.monotonic()
            elif time.monotonic() - answered[what] > GONE_AFTER_S:
                return ClusterLostError(f"Ray's {what} at {place[0]}:{place[1]} is gone")
        return None

    return check


def _accepts(place: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(place, timeout=CONNECT_S):
            return True
    except OSError:
        return False


def interrupt_main() -> None:
    """Raise KeyboardInterrupt in the main thread, whatever it waits for; `lacray.exits.catch_signals` first."""
    signal.pthread_kill(threading.main_thread().ident or 0, WAKING)


def leave(line: str, code: int) -> None:
    """End this process with an error and an exit code, and what it has started.

    Ray's own ways out wait for what is gone, and Ray ends whoever asks it while it is shut down, without a word.
    """
    import psutil

    print(f"error: {line}", file=sys.stderr, flush=True)
    for child in psutil.Process(os.getpid()).children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(code)
