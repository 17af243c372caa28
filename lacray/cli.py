"""What the entry points share: what they print, and the arguments that several of them take."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lacray.config import Config
from lacray.data import DataError, VideoSet, open_videos

console = Console(soft_wrap=True, highlight=False)
if not console.is_terminal:
    # A log has no width; tables in it should not be cut to 80 columns.
    console.width = 160


def warn(line: str) -> None:
    """A line that the user should see; never read as markup."""
    console.print(line, style="yellow", markup=False)


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


def absolute(results: str) -> str:
    """`--results` for workers, which have other working directories."""
    return results if "://" in results else str(Path(results).expanduser().resolve())


def placed(values: dict[str, Any]) -> dict[str, Any]:
    """Settings for workers: paths made absolute."""
    paths = {"data.root": ("simpouring",), "encoder.weights": ("default", "none")}
    return {
        key: str(Path(value).expanduser().resolve()) if key in paths and value not in paths[key] else value
        for key, value in values.items()
    }


def shown(results: str) -> str:
    """`--results` for the reader."""
    return results if "://" in results else os.path.relpath(Path(results).expanduser())


@contextmanager
def progress_bar(what: str) -> Any:
    """A callable (done, total) that draws a bar on a terminal and is silent elsewhere."""
    with Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def prepare_videos(config: Config, *, for_study: bool) -> VideoSet:
    """Open (and, the first time, render) the videos before anything starts, and say what they are.

    Raises:
        DataError: as `open_videos`; or a study has nothing to select by.
    """
    with progress_bar("rendering SimPouring") as progress:
        videos = open_videos(config.data, progress=progress)
    for line in videos.unreadable:
        warn(f"left out, {line}")
    left_out = f", {len(videos.unreadable)} unreadable left out" if videos.unreadable else ""
    console.print(
        f"videos: {len(videos.train)} train, {len(videos.validation)} validation, {len(videos.val)} val, "
        f"{len(videos.phases)} phases ({videos.root}){left_out}",
        markup=False,
    )
    if for_study:
        problems = _unselectable(videos)
        if problems:
            raise DataError(problems)
    return videos


def _unselectable(videos: VideoSet) -> list[str]:
    """Why a study could not select on these videos: known now, not after its trials."""
    remedy = "or train without a study: python -m lacray.train data.root=..."
    if not videos.held:
        return [
            f"{videos.root}: a study selects on a validation share of the training videos, got data.validation_share "
            f"0; raise it, {remedy}"
        ]
    problems = []
    for share, chosen in (("training", videos.train), ("validation", videos.validation)):
        labels = [video.labels[video.labels >= 0] for video in chosen if video.labels is not None]
        phases = {int(label) for own in labels for label in set(own.tolist())}
        if len(phases) < 2:
            got = f"{sum(map(len, labels))} labelled frames of {len(phases)} phase{'s' * (len(phases) != 1)}"
            problems.append(
                f"{videos.root}: a study selects by labels of two phases at least in the training and in the "
                f"validation share, got {got} in the {len(chosen)} {share} videos; label more of them in "
                f"segments.csv, {remedy}"
            )
    return problems


def shell(*words: str) -> str:
    """A command that can be pasted."""
    return shlex.join(words)
