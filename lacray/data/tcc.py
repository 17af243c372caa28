"""The layout of TCC's TFRecords: NAME_train-0-of-2.tfrecord, NAME_val-0-of-1.tfrecord, in one folder or several.

NAME is the action, or `penn_action` (CARL's), whose videos are called 0001_baseball_pitch.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lacray.config import DataConfig
from lacray.data.containers import UnreadableVideoError
from lacray.data.discovery import find_files
from lacray.data.labels import as_integers
from lacray.data.listing import Entry, Layout, Listing, is_plain, numbered_phases
from lacray.data.published import PENN_ACTIONS, WITHOUT_PHASES, action_name
from lacray.data.tfrecords import SUFFIXES, Record, path_of, records_in

NAMED = re.compile(
    r"(?P<name>.*?)_?(?P<split>train|val|test)(?:[-_.](?P<shard>\d+)(?:-of-(?P<of>\d+))?)?", re.IGNORECASE
)
NUMBERED = re.compile(r"\d+_(?P<action>.+)")
PENN = "penn_action"
NUM_READERS = 4


@dataclass(frozen=True)
class _File:
    """A file, and what its name says."""

    inside: str
    path: Path
    name: str
    split: str
    shard: int | None
    num_shards: int | None


def read(root: Path, config: DataConfig) -> Listing:
    """List the videos of all files."""
    listing = Listing("TFRecord", [], {})
    files = _files(root, listing)
    listing.problems += _missing_shards(root, files)
    phases: dict[str, set[tuple[str, ...]]] = {}
    with ThreadPoolExecutor(NUM_READERS) as pool:
        for file, records in zip(files, pool.map(_records, files), strict=True):
            if isinstance(records, str):
                listing.problems.append(f"{file.path}: {records}")
                continue
            for record in records:
                entry, problem = _entry(file, record)
                listing.entries.append(entry)
                listing.label_problems += problem
                if record.phases:
                    phases.setdefault(entry.action, set()).add(record.phases)
    listing.phases = numbered_phases(listing.entries)
    for action, told in phases.items():
        # Names count where all records agree, and have one for each label.
        if len(told) == 1 and len(next(iter(told))) >= len(listing.phases[action]):
            listing.phases[action] = list(next(iter(told)))
    return listing


def _is_there(root: Path) -> bool:
    """TFRecords in the folder, or in folders of it, one for each action."""
    if is_plain(root):
        return False
    inside = [path for path in root.iterdir() if not path.name.startswith(".")]
    for folder in [path for path in inside if path.is_dir()]:
        with suppress(PermissionError):
            inside += folder.iterdir()
    return any(path.suffix.lower() in SUFFIXES and not path.name.startswith(".") for path in inside)


LAYOUT = Layout("TFRecord", _is_there, read)


def _files(root: Path, listing: Listing) -> list[_File]:
    """The files of both splits, in the order of their numbers: the first videos are the classifiers' few labels."""
    found = find_files(root, SUFFIXES)
    files = []
    for inside, path in found.paths.items():
        named = NAMED.fullmatch(path.name[: -len(path.suffix)])
        if named is None:
            listing.problems.append(
                f"{root}/{inside}: must say its split, as NAME_train-0-of-2.tfrecord does; rename it, or take it out"
            )
        elif named["split"].lower() == "test":
            listing.notes.append(f"{inside}: not read, since its videos are neither train nor val")
        else:
            shard, of = (int(number) if number else None for number in (named["shard"], named["of"]))
            files.append(_File(inside, path, named["name"], named["split"].lower(), shard, of))
    summary = found.passed.summary()
    listing.notes += [f"passed over: {summary}"] if summary else []
    return sorted(files, key=lambda file: (str(Path(file.inside).parent), file.name, file.split, file.shard or 0))


def _missing_shards(root: Path, files: list[_File]) -> list[str]:
    """What the numbers of the files say of others: of a part of a data set no number is right."""
    groups: dict[tuple[str, str, str], list[_File]] = {}
    for file in files:
        groups.setdefault((str(Path(file.inside).parent), file.name, file.split), []).append(file)
    problems = []
    for own in groups.values():
        first = own[0]
        numbered = [file.shard for file in own if file.shard is not None]
        totals = {file.num_shards for file in own if file.num_shards is not None}
        if len(totals) > 1:
            counts = " and ".join(map(str, sorted(totals)))
            problems.append(f"{root}/{first.inside}: its parts are of {counts}; keep the files of one of them")
            continue
        twice = sorted({shard for shard in numbered if numbered.count(shard) > 1})
        if twice:
            problems.append(f"{root}/{first.inside}: part {twice[0]} of {first.split} is there twice; remove one")
        lacking = sorted(set(range(max([*totals, *(shard + 1 for shard in numbered)], default=0))) - set(numbered))
        if lacking:
            parts = ", ".join(map(str, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
            problems.append(
                f"{root}/{first.inside}: part{'s' * (len(lacking) > 1)} {parts} of {first.name} {first.split} "
                f"{'are' if len(lacking) > 1 else 'is'} missing; fetch what is missing"
            )
    return problems


def _records(file: _File) -> list[Record] | str:
    try:
        return records_in(str(file.path))
    except (OSError, UnreadableVideoError) as error:
        return str(error)


def _entry(file: _File, record: Record) -> tuple[Entry, list[str]]:
    """A video of a file, and what is wrong with its labels."""
    path, action = path_of(file.path, record), _action(file, record)
    labels = None if record.labels is None else as_integers(record.labels)
    if isinstance(labels, str):
        return Entry(record.name, path, file.split, action=action), [
            f"{file.path}: {record.name}: frame_labels {labels}"
        ]
    if labels is None or len(labels) == len(record.starts):
        return Entry(record.name, path, file.split, frame_labels=labels, action=action), []
    got = f"{len(labels)} labels for {len(record.starts)} frames"
    problem = f"{file.path}: {record.name}: must have one label a frame, got {got}; make the file anew"
    return Entry(record.name, path, file.split, action=action), [problem]


def _action(file: _File, record: Record) -> str:
    """By the video's name where that says an action of Penn Action, else by the file's."""
    numbered = NUMBERED.fullmatch(record.name)
    action = action_name(numbered["action"]) if numbered else ""
    if action in (*PENN_ACTIONS, *WITHOUT_PHASES):
        return action
    return "" if file.name.lower() == PENN else action_name(file.name)
