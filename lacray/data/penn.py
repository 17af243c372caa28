"""The layout of Penn Action as it is published, with labels of frames beside it.

frames/0001/000001.jpg              a folder of pictures a video
labels/0001.mat                     its `action`, and whether it is of the train split (1) or not (-1)
ANY/{train,val}/ACTION/0001*.npy    a label for every frame, as TCC and CARL hand them out; optional
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lacray.config import DataConfig
from lacray.data.containers import UnreadableVideoError
from lacray.data.discovery import child, shown, unwanted
from lacray.data.labels import integers_of, spread
from lacray.data.listing import Entry, Layout, Listing, is_plain, numbered_phases, some
from lacray.data.published import WITHOUT_PHASES, action_name
from lacray.data.stills import PictureFolder

ID_LETTERS = 4
"""Of a label file's name, those that are the video's."""
NO_LABELS = frozenset({"frames", "features", "progress"})
"""Folders that hold other arrays than labels."""
MAT_BYTES, MAT_VALUES = 1 << 23, 1 << 10
"""Of a .mat file, and of a variable that is read from it: Penn Action's are far smaller."""


@dataclass(frozen=True)
class _Annotation:
    """What a .mat file says of a video."""

    action: str
    split: str
    num_frames: float | None


@dataclass(frozen=True)
class _LabelFile:
    """What the place of a file of labels says of its video."""

    path: Path
    action: str
    split: str


class _Reader:
    """Puts the videos together from what the folders say of them."""

    def __init__(self, root: Path, wanted: str | None) -> None:
        self.root, self.wanted = root, wanted
        self.listing = Listing("Penn Action", [], {})
        self.mats = child(root, "labels")
        self.label_files = _label_files(root, self.listing.problems)
        self.uncounted: Counter[str] = Counter()
        self.unlabelled: list[str] = []
        self.other_splits: list[str] = []
        self.other_counts: list[str] = []
        self.stretched: list[str] = []

    def read(self) -> Listing:
        frames = child(self.root, "frames")
        folders = sorted(path for path in frames.iterdir() if path.is_dir() and not unwanted(path.name))
        for folder in folders:
            self._add(folder)
        self.listing.phases = numbered_phases(self.listing.entries)
        absent = sorted(set(self.label_files) - {folder.name for folder in folders})
        uncounted = [f"{number} of {action}" for action, number in sorted(self.uncounted.items())]
        if uncounted:
            self.listing.notes.append(f"left out, since nobody has labelled their phases: {' and '.join(uncounted)}")
        for names, note in (
            (self.unlabelled, "left out, since they have no label file, as the published splits have it"),
            (absent, "label files without frames"),
            (self.other_splits, "in another split by their label file than by their .mat; the label file counts"),
            (self.other_counts, "with other numbers of pictures than their .mat says; the pictures count"),
            (self.stretched, "with other numbers of labels than of pictures; labels are spread evenly, as CARL does"),
        ):
            if names:
                self.listing.notes.append(f"{note}: {len(names)} ({some(names)})")
        return self.listing

    def _add(self, folder: Path) -> None:
        name, problems = shown(folder.name), self.listing.problems
        mat, file = self.mats / f"{folder.name}.mat", self.label_files.get(folder.name)
        annotation = _annotation(mat) if mat.is_file() else None
        if isinstance(annotation, str):
            problems.append(f"{mat}: {annotation}")
            return
        if annotation is None and file is None:
            problems.append(f"{mat}: does not exist, so that nothing says what {name} shows; fetch it")
            return
        told = annotation or file
        assert told is not None
        if annotation is not None and file is not None and annotation.action != file.action:
            problems.append(
                f"{file.path}: {name} is of {annotation.action} by its .mat, of {file.action} by its folder"
            )
            return
        if told.action in WITHOUT_PHASES and told.action != self.wanted:
            self.uncounted[told.action] += 1
            return
        if self.label_files and file is None and told.action not in WITHOUT_PHASES:
            self.unlabelled.append(name)
            return
        if annotation is not None and file is not None and annotation.split != file.split:
            self.other_splits.append(name)
        split = (file or told).split
        entry = Entry(f"frames/{name}", folder, split, action=told.action)
        self.listing.entries.append(self._labelled(entry, folder, file, annotation))

    def _labelled(self, entry: Entry, folder: Path, file: _LabelFile | None, annotation: _Annotation | None) -> Entry:
        """The video with a label for each of its pictures, where it has a file of them."""
        try:
            num_frames = len(PictureFolder(str(folder)).names())
        except UnreadableVideoError:
            # It is told where all that cannot be read is.
            return entry
        if annotation is not None and annotation.num_frames not in (None, num_frames):
            self.other_counts.append(shown(folder.name))
        if file is None:
            return entry
        labels = integers_of(file.path)
        if isinstance(labels, str):
            self.listing.label_problems.append(f"{file.path}: {labels}")
            return entry
        fitted = spread(labels, num_frames)
        if fitted is not None and len(labels) != num_frames:
            self.stretched.append(shown(folder.name))
        if fitted is None:
            self.listing.label_problems.append(
                f"{file.path}: must have a label for each picture, got {len(labels)} labels for {num_frames} pictures; "
                "fetch what is missing, or remove the file"
            )
        return replace(entry, frame_labels=fitted)


def read(root: Path, config: DataConfig) -> Listing:
    """List the videos of the 13 actions that the tables count."""
    return _Reader(root, config.action).read()


def _is_there(root: Path) -> bool:
    return not is_plain(root) and child(root, "frames").is_dir() and child(root, "labels").is_dir()


LAYOUT = Layout("Penn Action", _is_there, read, parts=frozenset({"frames", "labels"}))


def _label_files(root: Path, problems: list[str]) -> dict[str, _LabelFile]:
    """The files of labels by their video."""
    found: dict[str, _LabelFile] = {}
    tops = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() not in NO_LABELS]
    for top in tops:
        for split in ("train", "val"):
            for path in sorted(child(top, split).glob("*/*.npy")):
                if unwanted(path.name):
                    continue
                file = _LabelFile(path, action_name(path.parent.name), split)
                other = found.setdefault(path.stem[:ID_LETTERS], file)
                if other is not file:
                    problems.append(f"{path}: {path.stem[:ID_LETTERS]} has labels in {other.path} too; remove one")
    return found


def _annotation(path: Path) -> _Annotation | str:
    """What a .mat file says, or what is wrong with it.

    scipy's reader runs nothing of what is in a file; it may be led to take much memory, so sizes are looked at first.
    """
    from scipy.io import loadmat, whosmat

    try:
        if path.stat().st_size > MAT_BYTES:
            return f"must be a small file of one video's annotation, got {path.stat().st_size} bytes"
        shapes = {name: shape for name, shape, _ in whosmat(str(path), appendmat=False)}
        wanted = [name for name in ("action", "train", "nframes") if name in shapes]
        if any(math.prod(shapes[name]) > MAT_VALUES for name in wanted):
            return "must hold one video's annotation, got variables of other sizes"
        values = loadmat(str(path), appendmat=False, variable_names=wanted)
        flat = {name: np.asarray(values[name]).reshape(-1) for name in wanted}
    except Exception as error:  # the reader raises anything on a damaged file
        return f"is no .mat file that can be read ({type(error).__name__}); fetch it again"
    return _as_annotation(flat)


def _as_annotation(values: dict[str, Any]) -> _Annotation | str:
    lacks = [name for name in ("action", "train") if name not in values or not len(values[name])]
    if lacks:
        return f"must say the video's action and train, lacks {' and '.join(lacks)}"
    # A text may lie in a cell of its own.
    action, train = (np.asarray(values[name][0]).reshape(-1).tolist()[0] for name in ("action", "train"))
    if not isinstance(action, str) or train not in (1, -1):
        return f"must say an action by its name and train as 1 or -1, got {action!r} and {train!r}"
    counts = values["nframes"].tolist() if "nframes" in values else []
    num_frames = counts[0] if counts and isinstance(counts[0], int | float) else None
    return _Annotation(action_name(action), "train" if train == 1 else "val", num_frames)
