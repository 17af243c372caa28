"""The layout of the LAV release: the splits are folders, the videos in them folders of pictures, or files.

{train,val}/NAME/000001.jpg, {train,val}/ACTION/NAME/000001.jpg
npyrecords/ACTION_val.npy    {video: {"labels": array}}, pickled; optional, also ACTION_train.npy
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from lacray.config import DataConfig
from lacray.data.containers import UnreadableVideoError
from lacray.data.discovery import VIDEO_SUFFIXES, child, find_files, shown, unwanted
from lacray.data.labels import MOST_MISSING, as_integers
from lacray.data.listing import Entry, Layout, Listing, is_plain, numbered_phases, some
from lacray.data.names import is_video
from lacray.data.pickles import RefusedError, read_restricted_npy
from lacray.data.published import PENN_ACTIONS, POURING, action_name
from lacray.data.stills import PictureFolder

SPLITS = ("train", "val")
RECORDS = "npyrecords"
RECORD = re.compile(r"(?P<action>.+)_(?P<split>train|val)", re.IGNORECASE)

Records = dict[str, dict[str, Any]]
"""What is known of each video by its name, for each action."""


def read(root: Path, config: DataConfig) -> Listing:
    """List the videos of both folders."""
    listing = Listing("train and val folders", [], {}, splits_by="; by the folders that they are in")
    records = {split: _records(root, split, listing.problems) for split in SPLITS}
    known = {action for own in records.values() for action in own}
    cut: list[str] = []
    for split in SPLITS:
        found = find_files(child(root, split), VIDEO_SUFFIXES, pictures=True)
        summary = found.passed.summary()
        listing.notes += [f"passed over in {split}: {summary}"] if summary else []
        for inside, path in found.paths.items():
            entry = Entry(f"{split}/{inside}", path, split, action=_action(inside, records[split], known))
            told = _told(inside, records[split].get(entry.action, {}))
            listing.entries.append(_labelled(entry, told, cut, listing.label_problems))
        _say_absent(split, records[split], found.paths, listing.notes)
    if cut:
        listing.notes.append(f"with more labels than pictures, as LAV cuts the rest off: {len(cut)} ({some(cut)})")
    if not listing.entries:
        listing.problems.append(f"{root}: has no videos in train and val; put a folder of pictures a video into each")
    actions = {entry.action for entry in listing.entries}
    if "" in actions and len(actions) > 1:
        without = [entry.name for entry in listing.entries if not entry.action]
        listing.problems.append(
            f"{root}: nothing says what is done in {len(without)} videos ({some(without)}); put them into a folder of "
            f"their action in train and val, or their labels into {RECORDS}/ACTION_train.npy"
        )
    listing.phases = numbered_phases(listing.entries)
    return listing


def _is_there(root: Path) -> bool:
    return not is_plain(root) and all(child(root, split).is_dir() for split in SPLITS)


LAYOUT = Layout("train and val folders", _is_there, read, parts=frozenset({*SPLITS, RECORDS}))


def _records(root: Path, split: str, problems: list[str]) -> Records:
    """What the files of a split say of its videos."""
    records: Records = {}
    folder = child(root, RECORDS)
    for path in sorted(folder.glob("*.npy")) if folder.is_dir() else []:
        named = RECORD.fullmatch(path.stem)
        if unwanted(path.name) or (named is not None and named["split"].lower() != split):
            continue
        if named is None:
            if split == SPLITS[0]:
                problems.append(f"{path}: must be called ACTION_train.npy or ACTION_val.npy; rename it, or take it out")
            continue
        try:
            content = read_restricted_npy(path)
        except RefusedError as error:
            problems.append(f"{path}: {error}")
            continue
        except Exception as error:  # a damaged pickle raises anything, MemoryError and TypeError among it
            problems.append(f"{path}: is no array ({type(error).__name__}); fetch it again, or write it by np.save")
            continue
        told = content.item() if content.shape == () else content
        if not isinstance(told, Mapping) or not all(isinstance(name, str) for name in told):
            problems.append(f"{path}: must hold a dict of videos by their names, got {type(told).__name__}")
            continue
        records.setdefault(action_name(named["action"]), {}).update(told)
    return records


def _action(inside: str, records: Records, known: set[str]) -> str:
    """By the folder, where it is called as an action; else by the labels; else by there being one action alone."""
    top = action_name(inside.split("/")[0]) if "/" in inside else ""
    if top and top in (known | {POURING.action, *PENN_ACTIONS}):
        return top
    having = [action for action, own in records.items() if _told(inside, own) is not None]
    if len(having) == 1:
        return having[0]
    return next(iter(known)) if len(known) == 1 else ""


def _told(inside: str, own: Mapping[str, Any]) -> Any:
    """What is said of a video, by its whole name or by the end of that."""
    for name in _names(inside):
        if name in own:
            return own[name]
    return None


def _names(inside: str) -> list[str]:
    stem = inside.rpartition(".")[0] if is_video(inside) else inside
    return [inside, stem, PurePosixPath(inside).name, PurePosixPath(stem).name]


def _say_absent(split: str, records: Records, paths: Mapping[str, Path], notes: list[str]) -> None:
    there = {name for inside in paths for name in _names(inside)}
    absent = [shown(name) for own in records.values() for name in own if name not in there]
    if absent:
        notes.append(f"labels in {RECORDS} without a video in {split}: {len(absent)} ({some(absent)})")


def _labelled(entry: Entry, told: Any, cut: list[str], problems: list[str]) -> Entry:
    """The video with its labels; of those that are more than its pictures, the first."""
    if told is None:
        return entry
    labels = as_integers(told.get("labels") if isinstance(told, Mapping) else told)
    if isinstance(labels, str):
        problems.append(f"{entry.name}: its labels in {RECORDS} {labels}")
        return entry
    try:
        num_frames = len(PictureFolder(str(entry.path)).names()) if entry.path.is_dir() else len(labels)
    except UnreadableVideoError:
        # It is told where all that cannot be read is.
        return entry
    if abs(len(labels) - num_frames) > MOST_MISSING * num_frames:
        problems.append(
            f"{entry.name}: must have a label for each picture, got {len(labels)} labels for {num_frames} pictures; "
            f"fetch what is missing, or take it out of {RECORDS}"
        )
        return entry
    if len(labels) > num_frames:
        cut.append(entry.name)
    return replace(entry, frame_labels=labels[:num_frames])
