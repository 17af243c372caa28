"""The layout of the CARL and LAC releases: train.pkl and val.pkl, lists of videos with a label for every frame."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lacray.config import DataConfig
from lacray.data.discovery import VIDEO_SUFFIXES, find_files, shown
from lacray.data.listing import Entry, Layout, Listing
from lacray.data.names import Names
from lacray.data.pickles import read_restricted_pickle

FIELDS = {"name", "video_file", "frame_label"}


def read(root: Path, config: DataConfig) -> Listing:
    """List the videos of both pickles."""
    listing = Listing("CARL", [], [])
    for split in ("train", "val"):
        path = root / f"{split}.pkl"
        if not path.is_file():
            listing.problems.append(f"{path}: does not exist; the CARL layout has train.pkl and val.pkl")
            continue
        try:
            content = read_restricted_pickle(path)
        except Exception as error:  # a damaged pickle raises anything, MemoryError and TypeError among it
            said = error if isinstance(error, pickle.UnpicklingError) else f"is no pickle ({type(error).__name__})"
            listing.problems.append(f"{path}: {said}")
            continue
        # Penn Action: (list, {action: indices}); Pouring: the list alone.
        items = content[0] if isinstance(content, tuple) and content else content
        if not isinstance(items, list):
            listing.problems.append(f"{path}: must hold a list of videos, got {type(items).__name__}")
            continue
        for number, item in enumerate(items):
            entry = _entry(root, split, number, item)
            if isinstance(entry, Entry):
                listing.entries.append(entry)
            else:
                listing.problems.append(f"{path}: {entry}")
    split_of: dict[str, str] = {}
    for entry in listing.entries:
        if split_of.setdefault(entry.name, entry.split) != entry.split:
            listing.problems.append(f"{root}: {entry.name} is in train.pkl and in val.pkl; keep it in one of them")
    labels = [entry.frame_labels for entry in listing.entries if entry.frame_labels is not None]
    top = max((int(own.max(initial=-1)) for own in labels), default=-1)
    listing.phases = [f"phase_{number}" for number in range(top + 1)]
    if config.input == "videos":
        listing.entries = _located(root, listing.entries)
    return listing


LAYOUT = Layout("CARL", lambda root: (root / "train.pkl").is_file(), read)


def _entry(root: Path, split: str, number: int, item: Any) -> Entry | str:
    """A video of a pickle, or what is wrong with it."""
    absent = FIELDS - (item.keys() if isinstance(item, dict) else set())
    if absent:
        return f"video {number} lacks {', '.join(sorted(absent))}"
    try:
        labels = np.asarray(item["frame_label"]).astype(np.int64).reshape(-1)
        steps = PurePosixPath(item["video_file"].replace("\\", "/"))
    except (AttributeError, OverflowError, TypeError, ValueError):
        return f"video {number}: frame_label must be integers and video_file a path"
    # What the file says may not lead out of the folder; links in the folder are its owner's and may.
    is_outside = steps.is_absolute() or ".." in steps.parts or ":" in (*steps.parts, "")[0]
    if is_outside or "\0" in str(steps) or not steps.parts:
        return f"video_file must lie in {root}, got {item['video_file']!r}"
    name = shown(item["video_file"])
    path = root / item["video_file"]
    return Entry(name, path if path.exists() else root / steps, split, frame_labels=labels)


def _located(root: Path, entries: list[Entry]) -> list[Entry]:
    """The entries with the files that they mean, where those have other capitals or another Unicode form on disk."""
    if all(entry.path.exists() for entry in entries):
        return entries
    found = find_files(root, VIDEO_SUFFIXES)
    names = Names({**{name: name for name in found.paths}, **found.twins})
    located = []
    for entry in entries:
        near = [] if entry.path.exists() else names.find(entry.name)
        located.append(replace(entry, path=found.paths[near[0]]) if len(near) == 1 else entry)
    return located
