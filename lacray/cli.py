"""What the entry points share: errors as lines with exit code 2, arguments, the machine's resources."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lacray.config import Config, UserError
from lacray.data import DataError, VideoSet, open_videos
from lacray.results import ResultsError

console = Console(soft_wrap=True, highlight=False)
if not console.is_terminal:
    # A log has no width; tables in it should not be cut to 80 columns.
    console.width = 160


def guarded(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> None:
    """Run an entry point: what the user can mend ends with one line a problem and exit code 2."""
    try:
        main(argv)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    except ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


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
    """Join the cluster that this machine is part of, else start one here."""
    import ray

    # The dashboard stays on: Train inside Tune asks its State API.
    ray.init(log_to_driver=False, logging_level=logging.ERROR)


def cluster_capacity() -> dict[str, float]:
    """What the cluster has, or can grow to where it has an autoscaler."""
    import ray
    from ray._private.state import state

    now = ray.cluster_resources()
    limits = state.get_max_resources_from_cluster_config() or {}
    return {name: max(now.get(name, 0.0), float(limits.get(name, 0.0))) for name in {*now, *limits}}


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


def prepare_videos(config: Config, *, need_labels: bool) -> VideoSet:
    """Open (and, the first time, render) the videos before anything starts, and say what they are.

    Raises:
        DataError: as `open_videos`; or nothing to select on.
    """
    with progress_bar("rendering SimPouring") as progress:
        videos = open_videos(config.data, progress=progress)
    for line in videos.unreadable:
        console.print(f"left out, {line}", style="yellow")
    left_out = f", {len(videos.unreadable)} unreadable left out" if videos.unreadable else ""
    console.print(
        f"videos: {len(videos.train)} train, {len(videos.validation)} validation, {len(videos.val)} val, "
        f"{len(videos.phases)} phases ({videos.root}){left_out}"
    )
    if need_labels and not (videos.held and videos.has_labels):
        raise DataError(
            f"{videos.root}: a study selects by labels on a validation share of the training videos, got "
            f"{'no labels' if videos.held else 'data.validation_share 0'}; label a few training videos in "
            "segments.csv, or train without a study: python -m lacray.train data.root=..."
        )
    return videos
