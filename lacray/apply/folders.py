"""The videos that a command is given: files, and folders of them in any layout of data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lacray.apply import kept
from lacray.apply.embedded import EmbeddedVideo
from lacray.apply.model import Model
from lacray.config import UserError, build
from lacray.data import DataError, Video
from lacray.data.discovery import shown
from lacray.data.layouts import find_root, list_videos, survey
from lacray.data.names import Names
from lacray.data.plain import tier_files
from lacray.data.sources import source_of
from lacray.data.video import UnreadableVideoError
from lacray.text import home_expanded

Told = Callable[[str, int, int], None]
"""Called with what is done, in words, how much of it, and of how much."""


@dataclass(frozen=True)
class Item:
    """A video on disk that a model is to embed."""

    name: str
    path: str
    """Of what the model reads: the video, or its features."""
    film: str | None
    """Of the video itself, for its pictures and times; None where it is not there."""

    @classmethod
    def of_file(cls, path: str) -> Item:
        """A file that was named by itself."""
        whole = os.path.abspath(path)
        return cls(shown(Path(path).name), whole, None if path.lower().endswith(".npy") else whole)

    def by_path(self) -> Item:
        """The same under the name that no other file has."""
        return replace(self, name=shown(self.path))


@dataclass(frozen=True)
class Folder:
    """A data set as it is used, not trained on: splits do not matter, and nothing is kept apart."""

    root: str
    items: list[Item]
    videos: dict[str, Video]
    """By name; with labels, where there are some."""
    phases: dict[str, list[str]]
    """The names of each action's phases; of the action "" where nothing says what is done."""
    notes: list[str]
    left_out: list[str]
    """`name: why`, for each video that cannot be read."""
    tier: str | None = None
    """Of other programs' label files, the one that was read."""

    def at(self, path: Path) -> Item | None:
        """The video that a path leads to, through whatever links."""
        own = {place: item for item in self.items for place in (item.path, item.film) if place is not None}
        real = {os.path.realpath(place): item for place, item in own.items()}
        return own.get(os.path.abspath(path)) or real.get(os.path.realpath(path))

    def item(self, text: str, option: str) -> Item:
        """The video that a text names: a file of it, its whole name, or that without any folder.

        Raises:
            DataError: it is none, or may be several.
        """
        known = {item.name: item for item in self.items}
        if (item := self.at(home_expanded(text))) is not None:
            return item
        names = Names(list(known))
        found = names.find_path(text)
        if len(found) == 1:
            return known[found[0]]
        if found:
            raise DataError(f"{option}: {text!r} may be {' or '.join(found[:3])}; write its folder and its suffix")
        near = names.closest(text)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the first one is {min(known)}"
        raise DataError(f"{option}: no video {text!r} in {self.root}; {hint}")


def open_folder(
    model: Model, root: str, *, told: Told | None = None, tier: str | None = None, needs_labels: bool = True
) -> Folder:
    """The videos of a folder, each looked at, with their labels.

    Args:
        tier: as `data.tier`; None: that of the training, where it is the same folder and still has label files.
        needs_labels: labels that are wrong are an error; else nothing may be made of any.

    Raises:
        DataError: there is no such folder, it holds no videos that can be read, or its labels are wrong.
    """
    own = model.config.data
    # What chooses among the videos and labels of the data set that was trained on, however its folder is written.
    is_own = root == own.root or os.path.realpath(home_expanded(root)) == os.path.realpath(home_expanded(own.root))
    chosen = {"action": own.action, "lead_in": own.lead_in} if is_own else {}
    values = {"root": root, "input": own.input, "max_unreadable": 1.0, **chosen}
    config = build({f"data.{name}": value for name, value in values.items()}).data
    folder = find_root(config, told)
    if tier is None and is_own and own.tier is not None and tier_files(folder):
        tier = own.tier
    config = config.model_copy(update={"tier": tier})
    listing = list_videos(folder, config)
    passed = listing.split_problems + ([] if needs_labels else listing.label_problems)
    if problems := [line for line in listing.problems if line not in passed]:
        raise DataError(problems)
    found = survey(folder, listing, config, told)
    if problems := found.problems if needs_labels else found.video_problems:
        raise DataError(problems)
    if not found.videos:
        raise DataError([f"{root}: no video of it can be read", *(f"{root}/{line}" for line in found.unreadable)])
    films = {entry.name: os.path.abspath(entry.path) for entry in listing.entries if entry.path.exists()}
    if own.input == "videos":
        films = {video.name: video.path for video in found.videos}
    items = [Item(video.name, video.path, films.get(video.name)) for video in found.videos]
    videos = {video.name: video for video in found.videos}
    return Folder(root, items, videos, listing.phases, listing.notes, found.unreadable, config.tier)


def find_item(model: Model, folder: Folder, text: str, option: str) -> Item:
    """A video of a folder, or a file that lies elsewhere.

    Raises:
        DataError: it is neither, may be several, or cannot be read.
    """
    path = home_expanded(text)
    if not path.is_file() or folder.at(path) is not None:
        return folder.item(text, option)
    item = Item.of_file(str(path))
    model.check(item.path)
    # A video of the folder may have the name of a file that lies elsewhere, and is another one.
    return item.by_path() if item.name in folder.videos else item


def find_items(model: Model, words: Sequence[str], *, told: Told | None = None) -> tuple[list[Item], list[str]]:
    """The videos of files and folders, in order, each once; and `name: why` of those in folders that cannot be read.

    Raises:
        UserError: every word that is neither, every file that cannot be read, together.
    """
    items: dict[str, Item] = {}
    left_out: list[str] = []
    problems: list[str] = []
    for word in words:
        try:
            if word == "simpouring" or home_expanded(word).is_dir():
                folder = open_folder(model, word, told=told, needs_labels=False)
                left_out += folder.left_out
                for item in folder.items:
                    items.setdefault(item.path, item)
            else:
                item = Item.of_file(str(home_expanded(word)))
                model.check(item.path)
                items.setdefault(item.path, item)
        except UserError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    names = [item.name for item in items.values()]
    # Files of one name in several folders keep their paths.
    return [item.by_path() if names.count(item.name) > 1 else item for item in items.values()], left_out


def read_item(model: Model, item: Item, *, told: Told | None = None) -> EmbeddedVideo:
    """An item's embeddings, from the cache where they are there; features get the times of their video.

    Raises:
        DataError: it can no longer be read.
    """
    progress = None if told is None else lambda done, total: told(f"embedding {item.name}", done, total)
    video = kept.read(model, item.path, item.name, progress=progress)
    if video.seconds is not None or item.film is None:
        return replace(video, film=item.film)
    source = source_of(item.film)
    try:
        if source.probe()[0] != len(video):
            return video  # its pictures are those of other frames
        video = replace(video, film=item.film)
        clock = source.clock()
    except UnreadableVideoError:
        return video
    seconds = np.maximum.accumulate(clock.times)
    return replace(video, seconds=seconds, end=float(seconds[-1]) + clock.frame)


def read_items(
    model: Model, items: Sequence[Item], left_out: list[str], *, told: Told | None = None
) -> dict[str, EmbeddedVideo]:
    """The embeddings of many videos, by name; what cannot be read is left out, and named in `left_out`.

    Raises:
        DataError: none can be read.
    """
    found: dict[str, EmbeddedVideo] = {}
    problems: list[str] = []
    for number, item in enumerate(items):
        if told is not None:
            told("embedding videos", number, len(items))
        try:
            found[item.name] = read_item(model, item)
        except DataError as error:
            problems += error.problems
    if items and not found:
        raise DataError(problems)
    left_out += problems
    return found
