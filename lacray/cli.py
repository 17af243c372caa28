"""What the entry points share: what they print, and the arguments that several of them take."""

from __future__ import annotations

import argparse
import functools
import io
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lacray.config import Config
from lacray.data import DataError, VideoSet, open_videos
from lacray.data.oddities import oddities
from lacray.data.videoset import why_not_selectable, without_partner
from lacray.text import home_expanded, printable

# In a log, between two lines of something that takes long.
SILENCE_S = 10.0

for stream in (sys.stdout, sys.stderr):
    # A terminal that lacks the letters of a name shows their numbers.
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich's own would exit with 1 and no word, in whatever thread it is.
        raise


# What is printed is data: neither markup nor emoji codes are read from it.
console = _Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
if not console.is_terminal:
    # A log has no width; tables in it should not be cut to 80 columns.
    console.width = 160


def tell(line: str, style: str = "") -> None:
    """A line, with names of files in it as they can be shown."""
    console.print(printable(line), style=style)


def warn(line: str) -> None:
    """A line that the user should see."""
    tell(line, "yellow")


def positive(text: str) -> int:
    """An argparse type: an integer >= 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text}")
    return value


def whole(text: str) -> int:
    """An argparse type: an integer >= 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be an integer >= 0, got {text}")
    return value


def port(text: str) -> int:
    """An argparse type: a port of this machine; 0 is any free one."""
    value = int(text)
    if not 0 <= value < 1 << 16:
        raise argparse.ArgumentTypeError(f"must be a port, 0 to {(1 << 16) - 1}, got {text}")
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


def absolute(results: str) -> str:
    """`--results` for workers, which have other working directories."""
    return results if "://" in results else str(home_expanded(results).resolve())


def placed(values: dict[str, Any]) -> dict[str, Any]:
    """Settings for workers: paths made absolute."""
    words = {"data.root": ("simpouring",), "encoder.weights": ("default", "none")}

    def is_path(key: str, value: Any) -> bool:
        return key in words and isinstance(value, str) and value not in words[key]

    return {key: str(home_expanded(value).resolve()) if is_path(key, value) else value for key, value in values.items()}


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
    alone = without_partner(videos.train) if config.loss.compares_videos else []
    # Where all are, `check_partners` says so.
    lonely = (
        [
            f"{len(alone)} of {len(videos.train)} training videos have no other of their action ({alone[0].name}"
            f"{', ...' if len(alone) > 1 else ''}): loss.name={config.loss.name} compares them with none"
        ]
        if 0 < len(alone) < len(videos.train)
        else []
    )
    left_out = f", {len(videos.unreadable)} unreadable left out" if videos.unreadable else ""
    of_actions = f" of {len(videos.actions)} actions" if len(videos.actions) > 1 else ""
    _tell_videos(
        (*first_of([f"left out, {line}" for line in videos.unreadable]), *videos.notes, *oddities(videos), *lonely),
        f"videos: {len(videos.train)} train, {len(videos.validation)} validation, {len(videos.val)} val, "
        f"{videos.num_phases} phases{of_actions} ({videos.root}){left_out}",
    )
    problems = why_not_selectable(videos, metric) if for_study else []
    if problems:
        raise DataError(problems)
    return videos


@functools.cache
def _tell_videos(warnings: tuple[str, ...], line: str) -> None:
    """Once in a process: several studies of one command share their videos."""
    for warning in warnings:
        warn(warning)
    tell(line)


def first_of(lines: list[str], most: int = 10) -> list[str]:
    """Lines that fit a screen: the first of them, and how many more there are."""
    return [*lines[:most], *([f"... and {len(lines) - most} more"] if len(lines) > most else [])]


def shell(*words: str) -> str:
    """A command that can be pasted."""
    return shlex.join(words)
