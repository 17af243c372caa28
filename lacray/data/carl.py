"""The layout of the CARL and LAC releases: train.pkl and val.pkl, lists of videos with a label for every frame.

Penn Action's hold a tuple: the list, whose videos say which of the 13 actions they show, and the videos of each action.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lacray.config import DataConfig
from lacray.data.discovery import VIDEO_SUFFIXES, child, find_files, shown
from lacray.data.labels import as_integers
from lacray.data.listing import Entry, Layout, Listing, numbered_phases
from lacray.data.names import Names
from lacray.data.pickles import RefusedError, read_restricted_pickle
from lacray.data.published import PENN_ACTIONS, action_name

FIELDS = {"name", "video_file", "frame_label"}
ACTION_RULE = f"must be 0..{len(PENN_ACTIONS) - 1}, or the name of an action of Penn Action"


def read(root: Path, config: DataConfig) -> Listing:
    """List the videos of both pickles."""
    listing = Listing("CARL", [], {})
    for split in ("train", "val"):
        path = child(root, f"{split}.pkl")
        if not path.is_file():
            listing.problems.append(f"{path}: does not exist; the CARL layout has train.pkl and val.pkl")
            continue
        try:
            content = read_restricted_pickle(path)
        except RefusedError as error:
            listing.problems.append(f"{path}: {error}")
            continue
        except Exception as error:  # a damaged pickle raises anything, MemoryError and TypeError among it
            listing.problems.append(
                f"{path}: is no pickle that can be read ({type(error).__name__}); fetch it again, unpack it where it "
                "is compressed, and write by pickle.dump what torch.save has written"
            )
            continue
        # Penn Action: (list, indices by action); Pouring: the list alone.
        items, indices = content if isinstance(content, tuple) and len(content) == 2 else (content, None)
        if not isinstance(items, list):
            listing.problems.append(f"{path}: must hold a list of videos, got {type(items).__name__}")
            continue
        by_indices, wrong = _actions_of(indices, len(items))
        listing.problems += [f"{path}: {line}" for line in wrong]
        for number, item in enumerate(items):
            entry = _entry(root, split, number, item, by_indices.get(number))
            if isinstance(entry, Entry):
                listing.entries.append(entry)
            else:
                listing.problems.append(f"{path}: {entry}")
    listing.phases = numbered_phases(listing.entries)
    if config.input == "videos":
        listing.entries = _located(root, listing.entries)
    return listing


LAYOUT = Layout("CARL", lambda root: child(root, "train.pkl").is_file(), read, parts=frozenset({"videos"}))


def _actions_of(indices: Any, num_videos: int) -> tuple[dict[int, int], list[str]]:
    """The number of each video's action by the second part of Penn Action's tuple, and what is wrong with that."""
    if indices is None:
        return {}, []
    if isinstance(indices, dict):
        groups = list(indices.items())
    elif isinstance(indices, list) and len(indices) == len(PENN_ACTIONS):
        groups = list(enumerate(indices))
    else:
        got = f"{len(indices)} of them" if isinstance(indices, list) else type(indices).__name__
        return {}, [f"must hold the videos of {len(PENN_ACTIONS)} actions behind the list of videos, got {got}"]
    found: dict[int, int] = {}
    problems = []
    for key, own in groups:
        action = _action_number(key)
        if action is None:
            problems.append(f"behind the list of videos: {ACTION_RULE}, got {key!r}")
            continue
        numbers = own if isinstance(own, list) else np.asarray(own).reshape(-1).tolist()
        for number in numbers:
            if not isinstance(number, int | np.integer) or not 0 <= number < num_videos:
                problems.append(f"{PENN_ACTIONS[action]}: must name videos 0..{num_videos - 1}, got {number!r}")
            elif found.setdefault(int(number), action) != action:
                both = f"{PENN_ACTIONS[found[int(number)]]} and {PENN_ACTIONS[action]}"
                problems.append(f"video {number}: must be of one action, is listed for {both}")
    return found, problems


def _action_number(told: Any) -> int | None:
    """The place in PENN_ACTIONS of what says an action, its number or its name; None where that says none."""
    if isinstance(told, str):
        name = action_name(told)
        return PENN_ACTIONS.index(name) if name in PENN_ACTIONS else None
    try:
        number = operator.index(told)
    except TypeError:
        return None
    return number if 0 <= number < len(PENN_ACTIONS) else None


def _entry(root: Path, split: str, number: int, item: Any, listed_for: int | None) -> Entry | str:
    """A video of a pickle, or what is wrong with it.

    Args:
        listed_for: its action by what stands behind the list of videos.
    """
    absent = FIELDS - (item.keys() if isinstance(item, dict) else set())
    if absent:
        return f"video {number} lacks {', '.join(sorted(absent))}"
    labels = as_integers(item["frame_label"])
    if isinstance(labels, str):
        return f"video {number}: frame_label {labels}"
    if not isinstance(item["video_file"], str):
        return f"video {number}: video_file must be a path, got {item['video_file']!r}"
    steps = PurePosixPath(item["video_file"].replace("\\", "/"))
    told = item.get("action_label", listed_for)
    label = _action_number(told)
    if told is None:
        action = ""
    elif label is None:
        return f"video {number}: action_label {ACTION_RULE}, got {told!r}"
    elif listed_for is not None and label != listed_for:
        return (
            f"video {number}: must be of one action, its action_label says {PENN_ACTIONS[label]} and the list of the "
            f"actions' videos {PENN_ACTIONS[listed_for]}"
        )
    else:
        action = PENN_ACTIONS[label]
    # What the file says may not lead out of the folder; links in the folder are its owner's and may.
    is_outside = steps.is_absolute() or ".." in steps.parts or ":" in (*steps.parts, "")[0]
    if is_outside or "\0" in str(steps) or not steps.parts:
        return f"video_file must lie in {root}, got {item['video_file']!r}"
    name = shown(item["video_file"])
    path = root / item["video_file"]
    return Entry(name, path if path.exists() else root / steps, split, frame_labels=labels, action=action)


def _located(root: Path, entries: list[Entry]) -> list[Entry]:
    """The entries with the files that they mean, where those have other capitals or another Unicode form on disk."""
    if all(entry.path.exists() for entry in entries):
        return entries
    found = find_files(root, VIDEO_SUFFIXES)
    names = Names({**{name: name for name in found.paths}, **found.twins})
    located = []
    for entry in entries:
        near = [] if entry.path.exists() else names.find_path(entry.name)
        located.append(replace(entry, path=found.paths[near[0]]) if len(near) == 1 else entry)
    return located
