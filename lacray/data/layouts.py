"""Data sets on disk -> `VideoSet`s. A layout is a file of its own and one line in `LAYOUTS`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lacray.config import DataConfig
from lacray.data import carl, lav, penn, plain, tcc
from lacray.data.arrays import RECORD, made_by
from lacray.data.discovery import VIDEO_SUFFIXES, unwanted
from lacray.data.facts import Clock
from lacray.data.labels import frame_labels, progress_of
from lacray.data.listing import Entry, Layout, Listing, Sidecars, some
from lacray.data.names import FOLDER
from lacray.data.sources import source_of
from lacray.data.video import UnreadableVideoError
from lacray.data.videoset import DataError, Video, VideoSet, by_action, held_out
from lacray.metrics import is_action_name
from lacray.text import home_expanded

# The first that is there is read; a folder of videos without anything else is read as the last.
LAYOUTS: list[Layout] = [carl.LAYOUT, tcc.LAYOUT, penn.LAYOUT, lav.LAYOUT, plain.LAYOUT]

# Folders of a folder that are looked into for a data set; more of them are videos.
MAX_LOOKED_INTO = 30

NUM_READERS = 8

Progress = Callable[[str, int, int], None]


@dataclass
class Survey:
    """All that can be said of a data set before it is used, whatever is wrong with it."""

    root: Path
    listing: Listing
    videos: list[Video] = field(default_factory=list)
    channels: dict[int, str] = field(default_factory=dict)
    """Channels of features, each with the first video that has them."""
    unreadable: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What keeps it from being used, a line each."""
    label_problems: list[str] = field(default_factory=list)
    """Of the problems, those of labels, which keep nobody who needs none."""

    @property
    def video_problems(self) -> list[str]:
        """Of the problems, those that keep everybody."""
        return [line for line in self.problems if line not in self.label_problems]


def open_videos(config: DataConfig, *, progress: Progress | None = None) -> VideoSet:
    """Find, check and split the videos of a setting.

    Args:
        progress: called with what is done, in words, how many videos are done, and of how many.

    Raises:
        DataError: every fault of the labels and splits at once, or more unreadable videos than
            `data.max_unreadable` allows.
    """
    root = find_root(config, progress)
    listing = list_videos(root, config)
    if listing.problems:
        # Before many videos are read.
        raise DataError(listing.problems)
    found = survey(root, listing, config, progress)
    if found.problems:
        raise DataError(found.problems)
    return video_set(config, found)


def find_root(config: DataConfig, progress: Progress | None = None) -> Path:
    """The data set's folder; SimPouring is rendered where it is not there yet.

    Raises:
        DataError: there is no such folder.
    """
    if config.root == "simpouring":
        from lacray import simpouring

        told = progress or (lambda *_: None)
        return simpouring.ensure(
            lead_in=config.lead_in, progress=lambda done, total: told("rendering SimPouring", done, total)
        )
    root = home_expanded(config.root)
    if not root.is_dir():
        raise DataError(
            f"data.root: must be `simpouring` or a directory, got {config.root!r}, which "
            f"{'is a file' if root.exists() else 'does not exist'}"
        )
    return root


def list_videos(root: Path, config: DataConfig) -> Listing:
    """What the folder's layout lists, with the features of each video where those are asked for."""
    try:
        elsewhere = _elsewhere(root)
        layout = _layout_of(root) or plain.LAYOUT
        listing = layout.read(root, config) if elsewhere is None else Listing(layout.name, [], {}, problems=[elsewhere])
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({error.strerror})") from error
    listing.problems += _twice(root, listing)
    if not listing.problems:
        listing.problems += [f"{root}: {problem}" for problem in _wrong_actions(listing.entries)]
    if config.action is not None and listing.entries:
        _keep_action(config.action, listing)
    if config.input == "features" and listing.entries:
        _add_features(root, config, listing)
    listing.problems += listing.split_problems + listing.label_problems
    return listing


def _layout_of(folder: Path) -> Layout | None:
    """What a folder is laid out as; None where nothing says it."""
    for layout in LAYOUTS:
        with suppress(PermissionError):
            if layout.is_there(folder):
                return layout
    return None


def _elsewhere(root: Path) -> str | None:
    """That the data set is the folder above, or one in it: read as it is given, its labels would be passed over."""
    whole = Path(os.path.abspath(root))
    is_part = any(whole.name.lower() in layout.parts for layout in LAYOUTS)
    above = _layout_of(whole.parent) if is_part else None
    if above is not None and whole.name.lower() in above.parts:
        return f"{root}: is a part of the data set {whole.parent} ({above.name}); give data.root={whole.parent}"
    if _layout_of(root) is not None or (root / FOLDER).is_dir():
        return None
    inside = sorted(root.iterdir())
    if any(path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() for path in inside):
        return None
    folders = [path for path in inside if path.is_dir() and not unwanted(path.name)]
    found = {path: _layout_of(path) for path in folders} if len(folders) <= MAX_LOOKED_INTO else {}
    sets = [f"{path} ({layout.name})" for path, layout in found.items() if layout is not None]
    if not sets:
        return None
    what = f"holds the data set {sets[0]}" if len(sets) == 1 else f"holds {len(sets)} data sets, {some(sets)}"
    first = next(path for path, layout in found.items() if layout is not None)
    return f"{root}: {what}; give data.root={first}"


def _twice(root: Path, listing: Listing) -> list[str]:
    """Names of which there are two videos."""
    first: dict[str, Entry] = {}
    told = []
    for entry in listing.entries:
        other = first.setdefault(entry.name, entry)
        if other is not entry and other.split != entry.split:
            told.append(f"{root}: {entry.name} is in train and in val; keep it in one of them")
        elif other is not entry:
            told.append(f"{root}: {entry.name} is in {entry.split} twice; keep it once")
    return told


def _wrong_actions(entries: Sequence[Entry]) -> list[str]:
    """What keeps actions from being columns of a row: `action.NAME.full.class_10`."""
    names = sorted({entry.action for entry in entries} - {""})
    problems = [
        f"the name of an action must be letters, digits, _, - and single spaces, 100 at most, got {name!r}; write it so"
        for name in names
        if not is_action_name(name)
    ]
    without = [entry.name for entry in entries if not entry.action]
    if names and without:
        problems.append(
            f"{len(without)} of {len(entries)} videos have no action, first {without[0]}; name that of each, or of none"
        )
    return problems


def _keep_action(action: str, listing: Listing) -> None:
    """Leave the videos of one action alone in a listing."""
    there = sorted({entry.action for entry in listing.entries} - {""})
    if action not in there:
        rule = (
            f"must be one of {', '.join(there)}" if there else "must be left out, since nothing says what videos show"
        )
        listing.problems.append(f"data.action: {rule}, got {action!r}")
        return
    listing.entries = [entry for entry in listing.entries if entry.action == action]
    listing.phases = {action: listing.phases[action]}


def _add_features(root: Path, config: DataConfig, listing: Listing) -> None:
    features = Sidecars(root, "features")
    if not features.is_there:
        listing.problems.append(
            f"data.input: features needs {root / 'features'}/NAME.npy, which does not exist; write them with python -m "
            "lacray.features, or use data.input=videos"
        )
        return
    owners: dict[Path, str] = {}
    entries = []
    for entry in listing.entries:
        try:
            path = features.of(entry.name)
        except DataError as error:
            listing.problems += error.problems
            continue
        path = path or features.folder / f"{Path(entry.name).stem}.npy"
        if owners.setdefault(path, entry.name) != entry.name:
            listing.problems.append(
                f"{path}: must be of one video, may be of {owners[path]} and {entry.name}; put features into folders "
                "as the videos are"
            )
        entries.append(replace(entry, features=path))
    listing.entries = entries
    # Of another action's videos there may be many.
    unused = [name for name, path in features.found.paths.items() if path not in owners and config.action is None]
    if unused:
        listing.notes.append(f"features of no video that is listed: {len(unused)} ({some(unused)})")
    features.found.passed.leave_out([RECORD])
    if summary := features.found.passed.summary():
        listing.notes.append(f"passed over in features: {summary}")


def survey(root: Path, listing: Listing, config: DataConfig, progress: Progress | None = None) -> Survey:
    """Look at every video that is listed: whether it can be read, its length, its labels."""
    found = Survey(root, listing)
    sidecars = Sidecars(root, "progress")
    told = progress or (lambda *_: None)
    others: list[str] = []
    fewer: list[str] = []
    for entry, outcome in _looked_at(listing.entries, told):
        if isinstance(outcome, str):
            found.unreadable.append(f"{entry.name}: {outcome}")
            continue
        num_frames, num_channels, clock, num_shown = outcome
        if num_shown is not None and num_shown != num_frames:
            others.append(f"{entry.name}; {num_frames} rows for {num_shown} frames")
        if num_channels is not None:
            found.channels.setdefault(num_channels, entry.name)
        if entry.frame_labels is not None and len(entry.frame_labels) < num_frames:
            fewer.append(f"{entry.name}; {len(entry.frame_labels)} labels for {num_frames} frames")
        labels, problems = _labels(root, entry, listing.phases[entry.action], num_frames, clock)
        found.label_problems += problems
        path = os.path.abspath(entry.features or entry.path)
        truth = None
        try:
            progress_path = sidecars.of(entry.name)
            truth = progress_of(progress_path, num_frames) if progress_path is not None else None
        except (DataError, ValueError) as error:
            found.label_problems.append(f"{root}/progress: {entry.name}: {error}; remove it")
        found.videos.append(Video(entry.name, path, num_frames, entry.split, labels, truth, entry.action))
    if others:
        # A label of frame i is then of row i.
        told_others = f"{len(others)} ({others[0]}{', ...' if len(others) > 1 else ''})"
        listing.notes.append(f"features of another length than their video: {told_others}; labels by frame count rows")
    if fewer:
        told_fewer = f"{len(fewer)} ({fewer[0]}{', ...' if len(fewer) > 1 else ''})"
        listing.notes.append(f"with fewer labels than frames: {told_fewer}; the frames behind them have no phase")
    if len(found.channels) > 1:
        found.problems.append(
            f"{root}: features must all have the same channels, got {found.channels} (channels: first such video)"
        )
    if len(found.unreadable) > config.max_unreadable * len(listing.entries):
        found.problems += [f"{root}/{line}" for line in found.unreadable]
        found.problems.append(
            f"{root}: {len(found.unreadable)} of {len(listing.entries)} videos cannot be read, and "
            f"data.max_unreadable is {config.max_unreadable:g}; mend or remove them, or raise it"
        )
    found.problems += found.label_problems
    return found


Outcome = tuple[int, int | None, Clock | None, int | None]


def _looked_at(entries: Sequence[Entry], told: Progress) -> Iterator[tuple[Entry, Outcome | str]]:
    with ThreadPoolExecutor(NUM_READERS) as pool:
        for number, (entry, outcome) in enumerate(zip(entries, pool.map(_look_at, entries), strict=True)):
            told("reading videos", number + 1, len(entries))
            yield entry, outcome


def _look_at(entry: Entry) -> Outcome | str:
    """Frames, channels of features, the clock where labels are in seconds, and the frames of the video that lies beside
    features; or why it cannot be read."""
    try:
        num_frames, num_channels = source_of(str(entry.features or entry.path)).probe()
    except UnreadableVideoError as error:
        return str(error)
    needs_clock = any(segment.in_seconds for segment in entry.segments or ())
    clock = num_shown = None
    try:
        if needs_clock:
            clock = source_of(str(entry.path)).clock()
        if entry.features is not None and entry.path.exists():
            num_shown = source_of(str(entry.path)).probe()[0]
    except UnreadableVideoError as error:
        if entry.features is None:
            return str(error)
    return num_frames, num_channels, clock, num_shown


def _labels(
    root: Path, entry: Entry, phases: Sequence[str], num_frames: int, clock: Clock | None
) -> tuple[np.ndarray | None, list[str]]:
    """The phase of each frame of a video, None where it has no labels; and what is wrong with them."""
    if entry.frame_labels is not None:
        own = entry.frame_labels
        labels = np.full(num_frames, -1, dtype=np.int64)
        labels[: len(own)] = own[:num_frames]
        if len(own) <= num_frames:
            return labels, []
        got = f"got {len(own)} labels for {num_frames} frames"
        return labels, [f"{root}/{entry.name}: labels must not be longer than the video, {got}"]
    if entry.segments is None:
        return None, []
    seconds = [segment for segment in entry.segments if segment.in_seconds]
    if seconds and (clock is None or len(clock.times) != num_frames):
        got = "none can be read" if clock is None else f"it has {len(clock.times)} frames and its features {num_frames}"
        return None, [
            f"{seconds[0].where}: {entry.name}: seconds need a video with the same frames beside its features, got "
            f"{got}; give start_frame and end_frame"
        ]
    fallen = np.flatnonzero(np.diff(clock.times) < 0) if clock is not None else np.empty(0)
    if seconds and len(fallen):
        # Recordings that were joined: a time is then of several frames.
        return None, [
            f"{seconds[0].where}: {entry.name}: seconds need times that rise, and the file's fall back at frame "
            f"{fallen[0] + 1}; give start_frame and end_frame, or write the file anew"
        ]
    return frame_labels(entry.name, entry.segments, phases, num_frames, clock)


def video_set(config: DataConfig, found: Survey) -> VideoSet:
    """The videos of a survey, split as a setting wants it.

    Raises:
        DataError: too few are left to train on.
    """
    training = [video for video in found.videos if video.split == "train"]
    result = VideoSet(
        root=config.root,
        training=training,
        held=held_out(training, config.validation_share),
        val=[video for video in found.videos if video.split == "val"],
        phases=found.listing.phases,
        num_features=next(iter(found.channels), None),
        unreadable=found.unreadable,
        notes=found.listing.notes,
        made_by=made_by(found.root / "features") if config.input == "features" else None,
    )
    need = 2 if config.pairing == "videos" else 1
    left = by_action(result.train)
    few = [action for action in by_action(training) or {"": []} if len(left.get(action, [])) < need]
    if few:
        raise DataError(_too_few(found.root, action, need, result) for action in few)
    return result


def _too_few(root: Path, action: str, need: int, videos: VideoSet) -> str:
    training = [video for video in videos.training if video.action == action]
    held = sum(video.name in videos.held for video in training)
    wanted = f"{need} training video{'s' * (need > 1)}" + (f" of {action}" if action else "")
    return (
        f"{root}: needs at least {wanted} besides the {held} kept for validation, got {len(training) - held}; add "
        "videos, or lower data.validation_share"
    )
