"""What the entry points share: errors as lines with exit code 2, arguments, the machine's resources."""

from __future__ import annotations

import argparse
import io
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lacray.config import Config, UserError
from lacray.data import DataError, VideoSet, open_videos
from lacray.data.oddities import oddities
from lacray.data.videoset import why_not_selectable
from lacray.text import home_expanded, printable
from lacray.watch import ClusterLostError

# Between a signal and the end of the process, at most.
LAST_WORDS_S = 25.0
# In a log, between two lines of something that takes long.
SILENCE_S = 10.0

# What Ray reads from the environment, once, when it is imported.
RAY_SETTINGS = {
    "RAY_AUTH_MODE": "token",  # who has no token can neither submit work nor look
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
CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")

for stream in (sys.stdout, sys.stderr):
    # A terminal that lacks the letters of a name shows their numbers.
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
# What is printed is data: neither markup nor emoji codes are read from it.
console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
if not console.is_terminal:
    # A log has no width; tables in it should not be cut to 80 columns.
    console.width = 160


def tell(line: str, style: str = "") -> None:
    """A line, with names of files in it as they can be shown."""
    console.print(printable(line), style=style)


def warn(line: str) -> None:
    """A line that the user should see."""
    tell(line, "yellow")


def guarded(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> None:
    """Run an entry point and exit as it ended.

    2: something that the user can mend, one line a problem; 3: Ray is gone; 128 + n: signal n, whose second ends the
    process at once. What was stored is safe in each case.
    """
    catch_signals()
    try:
        main(argv)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    except ClusterLostError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(3) from None
    except KeyboardInterrupt:
        # Libraries raise their own in the place of ours.
        number = _signals_seen[0] if _signals_seen else signal.SIGINT
        print(f"interrupted by {signal.Signals(number).name}; {advice.text}", file=sys.stderr, flush=True)
        # Not by SystemExit: threads of libraries that wait for the network would be waited for.
        os._exit(128 + number)


class _Advice:
    """How to go on with what was interrupted; the entry points keep it up to date."""

    text = "nothing had begun"


advice = _Advice()


def catch_signals() -> None:
    """Turn signals into KeyboardInterrupt in the main thread; called again after libraries that set their own."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)


_signals_seen: list[int] = []


def _on_signal(number: int, frame: Any) -> None:
    _signals_seen.append(number)
    if len(_signals_seen) > 1:
        os.write(2, b"\nended at once\n")
        os._exit(128 + number)
    # A library that holds on to the interrupted call must not hold the user.
    timer = threading.Timer(LAST_WORDS_S, lambda: os._exit(128 + number))
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def positive(text: str) -> int:
    """An argparse type: an integer >= 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text}")
    return value


def not_negative(text: str) -> float:
    """An argparse type: a number >= 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number >= 0, got {text}")
    return value


def positive_number(text: str) -> float:
    """An argparse type: a number > 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number > 0, got {text}")
    return value


def commit() -> str | None:
    """The commit of the code that runs, with `+` where files were changed; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        named = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return named.stdout.strip() + ("+" if changed.stdout.strip() else "")


def start_ray() -> None:
    """Join the cluster that this machine is part of, else start one here, for this machine alone, and say which.

    Ray must not have been imported before: it reads its environment then.

    Raises:
        UserError: RAY_ADDRESS names a cluster that does not answer.
    """
    address = os.environ.get("RAY_ADDRESS") or ("auto" if CURRENT_CLUSTER.exists() else "local")
    _check_answers(address)
    for name, value in {**RAY_SETTINGS, **(ONLY_HERE if address == "local" else {})}.items():
        os.environ.setdefault(name, value)
    import ray

    # What Ray and Tune log of a lost process are pages; the entry points tell it in a line.
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if address == "local":
            raise ConnectionError
        ray.init(address=address, **options)
        nodes = sum(node["Alive"] for node in ray.nodes())
        console.print(f"Ray: joined {ray.get_runtime_context().gcs_address}, {nodes} node{'s' * (nodes != 1)}")
    except ConnectionError:
        # The dashboard stays on: Train inside Tune asks its State API.
        ray.init(address="local", dashboard_host="127.0.0.1", **options)
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Ray has no public word for this one: the last hundred lines of a daemon that died.
    ray._private.worker._worker_logs_enabled = False
    # Ray sets its own.
    catch_signals()


def _check_answers(address: str) -> None:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"RAY_ADDRESS: must name a Ray cluster that answers, got {address} ({error}); start it, correct it, or "
            "unset RAY_ADDRESS to compute on this machine"
        ) from error


def absolute(results: str) -> str:
    """`--results` for workers, which have other working directories."""
    return results if "://" in results else str(home_expanded(results).resolve())


def placed(values: dict[str, Any]) -> dict[str, Any]:
    """Settings for workers: paths made absolute."""
    paths = {"data.root": ("simpouring",), "encoder.weights": ("default", "none")}
    return {
        key: str(home_expanded(value).resolve()) if key in paths and value not in paths[key] else value
        for key, value in values.items()
    }


def shown(results: str) -> str:
    """`--results` for the reader."""
    return results if "://" in results else os.path.relpath(home_expanded(results))


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A callable (what, done, total): a bar on a terminal; in a log, a line now and then of what takes long."""
    said = time.monotonic()

    def tell_now_and_then(what: str, done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > SILENCE_S:
            said = time.monotonic()
            tell(f"{what}: {done} of {total}")

    if not console.is_terminal:
        yield tell_now_and_then
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def prepare_videos(config: Config, *, for_study: bool, metric: str = "objective") -> VideoSet:
    """Open (and, the first time, render) the videos before anything starts, and say what they are.

    Args:
        for_study: whether a study selects on them, by `metric`.

    Raises:
        DataError: as `open_videos`; or a study has nothing to select by.
    """
    with progress_bar() as progress:
        videos = open_videos(config.data, progress=progress)
    for line in first_of([f"left out, {line}" for line in videos.unreadable]) + videos.notes + oddities(videos):
        warn(line)
    left_out = f", {len(videos.unreadable)} unreadable left out" if videos.unreadable else ""
    tell(
        f"videos: {len(videos.train)} train, {len(videos.validation)} validation, {len(videos.val)} val, "
        f"{len(videos.phases)} phases ({videos.root}){left_out}"
    )
    problems = why_not_selectable(videos, metric) if for_study else []
    if problems:
        raise DataError(problems)
    return videos


def first_of(lines: list[str], most: int = 10) -> list[str]:
    """Lines that fit a screen: the first of them, and how many more there are."""
    return [*lines[:most], *([f"... and {len(lines) - most} more"] if len(lines) > most else [])]


def shell(*words: str) -> str:
    """A command that can be pasted."""
    return shlex.join(words)
