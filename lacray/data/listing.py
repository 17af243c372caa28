"""What a layout on disk lists, before any video has been looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lacray.config import DataConfig
from lacray.data.discovery import Found, PassedOver, find_files
from lacray.data.labels import Segment
from lacray.data.names import FOLDER, Names, is_video
from lacray.data.tables import has_table
from lacray.data.videoset import DataError


@dataclass(frozen=True)
class Entry:
    """A video as its layout lists it."""

    name: str
    path: Path
    split: str
    segments: list[Segment] | None = None
    frame_labels: NDArray[np.int64] | None = None
    features: Path | None = None
    """What is read in place of the video."""
    action: str = ""
    """What is done in it; empty where nothing says."""


@dataclass
class Listing:
    """The videos of a data set, and all that is wrong with what lists them."""

    layout: str
    """In words."""
    entries: list[Entry]
    phases: dict[str, list[str]]
    """The names of each action's phases, in the order of the process; every action of an entry is a key."""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    label_problems: list[str] = field(default_factory=list)
    """Of the problems, those of labels, which keep nobody who needs none."""
    split_problems: list[str] = field(default_factory=list)
    """Of the problems, those of splits, which keep nobody who does not train."""
    splits_by: str = ""
    """How the splits came about, where nobody has written them."""


def some(names: Sequence[str]) -> str:
    """The first names of some."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def numbered_phases(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Names for the phases of entries whose labels are numbers alone, by action: as many as the labels count."""
    most: dict[str, int] = {}
    for entry in entries:
        own = 0 if entry.frame_labels is None else int(entry.frame_labels.max(initial=-1)) + 1
        most[entry.action] = max(most.get(entry.action, 0), own)
    return {action: [f"phase_{number}" for number in range(most[action])] for action in sorted(most)}


def is_plain(root: Path) -> bool:
    """Whether a folder says by a table, or by a folder `videos`, what its videos are: nothing else counts then."""
    return (root / FOLDER).is_dir() or has_table(root, ("segments", "splits"))


@dataclass(frozen=True)
class Layout:
    """A way in which data sets lie on disk."""

    name: str
    is_there: Callable[[Path], bool]
    """Whether a folder is laid out so."""
    read: Callable[[Path, DataConfig], Listing]
    parts: frozenset[str] = frozenset()
    """Folders that it has, in lower case: who gives one of them means the data set that it is a part of."""


class Sidecars:
    """Arrays beside the videos, one a video: `FOLDER/NAME.npy`, in subfolders as the videos are, or all in one.

    Args:
        root: of the data set.
        folder: `features` or `progress`.
    """

    def __init__(self, root: Path, folder: str) -> None:
        self.folder = root / folder
        self.is_there = self.folder.is_dir()
        self.found = find_files(self.folder, {".npy"}) if self.is_there else Found({}, {}, PassedOver())
        self._names = Names({_without_suffix(name): name for name in self.found.paths})

    def video_names(self) -> list[str]:
        """Names of the videos that the arrays are of, as far as they tell: all are taken to be mp4."""
        stems = [_without_suffix(name) for name in self.found.paths]
        return sorted(f"{FOLDER}/{stem}" if is_video(stem) else f"{FOLDER}/{stem}.mp4" for stem in stems)

    def of(self, video: str) -> Path | None:
        """The array of a video, where there is one.

        Raises:
            DataError: its name does not tell which one it is.
        """
        found = self._names.find(video) or (self._names.find(video.rpartition(".")[0]) if is_video(video) else [])
        if len(found) > 1:
            raise DataError(f"{self.folder}: must hold one array for {video}, got {' and '.join(found)}; rename one")
        return self.found.paths[found[0]] if found else None


def array_stems(names: Sequence[str]) -> dict[str, str]:
    """What the array of each video is called: as it lies below `videos/`, with its suffix only where that is needed."""
    below = {name: name.removeprefix(f"{FOLDER}/") for name in names}
    stems = {name: inside.rpartition(".")[0] if is_video(inside) else inside for name, inside in below.items()}
    # Compared as file systems may: without regard to capitals. A stem may be all of another video's name.
    owners: dict[str, set[str]] = {}
    for name in names:
        for spelled in (stems[name], below[name]):
            owners.setdefault(spelled.casefold(), set()).add(name)
    return {name: stem if len(owners[stem.casefold()]) == 1 else below[name] for name, stem in stems.items()}


def _without_suffix(name: str) -> str:
    return name.strip()[: -len(".npy")]
