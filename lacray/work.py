"""What the commands share that put a trained encoder to work."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lacray.apply import Model, load
from lacray.apply.files import check_places
from lacray.apply.folders import Folder, Item, find_item, open_folder
from lacray.cli import first_of, progress_bar, tell, warn
from lacray.config import UserError
from lacray.data import DataError
from lacray.exits import advice
from lacray.text import home_expanded

Told = Callable[[str, int, int], None]


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The argument that they all begin with."""
    parser.add_argument("checkpoint", help="of python -m lacray.train: a file or s3://...")


def add_tier(parser: argparse.ArgumentParser) -> None:
    """The option of those that read labels."""
    parser.add_argument(
        "--tier", metavar="NAME", help="of label files of ELAN and BORIS: the tier, subject or category that is read"
    )


def open_labelled(model: Model, root: str, tier: str | None, told: Told) -> Folder:
    """A folder whose labels count; what was assumed of them is said.

    Raises:
        DataError: as `open_folder`.
    """
    folder = open_folder(model, root, told=told, tier=tier)
    for line in first_of(folder.notes):
        warn(line)
    return folder


@contextmanager
def working() -> Iterator[Told]:
    """Progress; an interruption says what is kept."""
    advice.text = "the same command goes on: videos that were embedded are kept"
    with progress_bar() as told:
        yield told


def open_model(checkpoint: str, told: Told) -> Model:
    """The model of a checkpoint, ready to align.

    One whose training was not over is calibrated now, on the videos that it was being trained on.

    Raises:
        UserError: it is no checkpoint, or it is not calibrated and its videos are not there.
    """
    model = load(checkpoint)
    if model.calibration is not None:
        return model
    root = model.config.data.root
    warn(f"checkpoint: its training was not over, so it is calibrated now on {root}; that is not kept")
    try:
        folder = open_folder(model, root, told=told, needs_labels=False)
    except DataError as error:
        raise UserError([f"checkpoint: is not calibrated, and cannot be: {line}" for line in error.problems]) from error
    chosen = [video for video in folder.videos.values() if video.split == "train"] or list(folder.videos.values())
    return model.calibrated(chosen, progress=lambda done, total: told("calibrating", done, total))


def show_left_out(lines: Sequence[str]) -> None:
    """What could not be read, said."""
    for line in first_of([f"left out, {line}" for line in lines]):
        warn(line)


def find_videos(model: Model, words: Sequence[str], root: str | None, told: Told) -> list[Item]:
    """Videos that are files, or names in a data set: `root`, else the one that the model was trained on.

    Raises:
        UserError: all words that are neither.
    """
    items: list[Item] = []
    problems: list[str] = []
    folder = None
    for word in words:
        path = home_expanded(word)
        try:
            if path.is_file() and root is None:
                item = Item.of_file(str(path))
                model.check(item.path)
            else:
                folder = folder or open_folder(model, root or model.config.data.root, told=told, needs_labels=False)
                item = find_item(model, folder, word, "videos")
            items.append(item)
        except UserError as error:
            problems += [line for line in error.problems if line not in problems]
    if problems:
        raise UserError(problems)
    # Tables name the videos: two files of one name keep their paths.
    paths: dict[str, set[str]] = {}
    for item in items:
        paths.setdefault(item.name, set()).add(item.path)
    return [item.by_path() if len(paths[item.name]) > 1 else item for item in items]


def out_folder(text: str, *names: str) -> Path:
    """A folder for what a command writes, made if it is not there; tried, since all the work comes before the writing.

    Args:
        names: of the files that will be written there.

    Raises:
        UserError: it cannot be made, or one of them not be written.
    """
    folder = home_expanded(text)
    if not text.strip():
        raise UserError(f"--out: must be a folder, got {text!r}; give one, or . for this one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {folder} cannot be made ({error.strerror}); give another folder") from error
    check_places(folder / name for name in names)
    return folder


def written(paths: Sequence[Path]) -> None:
    """Say what lies where."""
    for path in paths:
        tell(f"written: {path}")
