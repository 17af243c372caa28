"""Any layout -> the plain one: files and pictures as they are, tables of what is known of them.

It is written beside its place, under another name, a video at a time, each whole or not at all; what a kill left is
gone on with. It gets its name when all of it is there and reads as what it was made of.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from lacray.config import DataConfig
from lacray.data import arrays
from lacray.data.discovery import LEAST_PICTURES, unwanted
from lacray.data.layouts import Progress, Survey, find_root, list_videos, survey
from lacray.data.listing import Sidecars, array_stems, some
from lacray.data.names import FOLDER, is_video
from lacray.data.sources import source_of
from lacray.data.stills import PictureError, PictureFolder, PictureSource, look_at
from lacray.data.video import UnreadableVideoError
from lacray.data.videoset import DataError, Video

UNFINISHED = ".partial"
RECORD = "converted.json"
"""What a conversion is of: the folder, and all that its tables are made of."""
DROPPED = frozenset({FOLDER, "frames"})
"""Folders that a layout has its videos in."""
SIDECARS = ("features", "progress")
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp"}


def convert(config: DataConfig, target: Path, *, copies: bool = False, progress: Progress | None = None) -> Survey:
    """Write a data set in the plain layout.

    Args:
        config: `root` is what is converted, `action` the one to be taken, if not all.
        target: the folder to be made.
        copies: files are copied where they could be linked (hard) on the same disk.
        progress: as for `open_videos`.

    Returns:
        What was converted; videos that cannot be read are named in it, and left out.

    Raises:
        DataError: what keeps it from being converted, a line each; nothing that was there is changed.
    """
    told = progress or (lambda *_: None)
    if config.input != "videos":
        raise DataError("data.input: must be videos, whose features are taken along; leave it out")
    root = find_root(config, progress)
    _refuse_place(root, target)
    listing = list_videos(root, config)
    found = survey(root, listing, config, progress)
    places, problems = _places(found.videos)
    problems = [*listing.problems, *found.problems, *problems]
    if problems or not found.videos:
        raise DataError(problems or f"{root}: has no videos that can be read; there is nothing to convert")
    partial = target.with_name(target.name + UNFINISHED)
    with _claimed(partial, found):
        for number, video in enumerate(found.videos):
            _put(video, partial / places[video.name], copies)
            told("converting", number + 1, len(found.videos))
        _put_sidecars(root, found.videos, places, partial, copies)
        _write_tables(found, places, partial)
        told("reading what was written", 0, len(found.videos))
        _check_written(found, places, partial, config)
        if target.exists():
            raise DataError(f"{target}: was made by somebody else in the meantime; what was converted is {partial}")
        os.rename(partial, target)
    return found


def _refuse_place(root: Path, target: Path) -> None:
    if target.exists():
        raise DataError(f"{target}: is there, and nothing is overwritten; give a folder that is not")
    own, other = Path(os.path.realpath(root)), Path(os.path.realpath(target))
    if own in other.parents:
        raise DataError(f"{target}: must not lie in what is converted, {root}; give a folder outside it")


def _places(videos: Sequence[Video]) -> tuple[dict[str, str], list[str]]:
    """Where each video will lie below the new folder, and what is wrong with that."""
    places: dict[str, str] = {}
    first: dict[str, str] = {}
    problems = []
    for video in videos:
        steps = [step for step in video.name.replace("\\", "/").split("/") if step not in ("", ".")]
        steps = steps[1:] if len(steps) > 1 and steps[0].lower() in DROPPED else steps
        is_file = not isinstance(source_of(video.path), PictureSource)
        if not steps or ".." in steps or any(unwanted(step) for step in steps):
            problems.append(f"{video.name}: cannot be the name of a video's file; rename it")
        elif is_file and not is_video(steps[-1]):
            problems.append(f"{video.name}: must end with a video's suffix, such as .mp4; rename it")
        elif not is_file and video.num_frames < LEAST_PICTURES:
            problems.append(f"{video.name}: a folder of {video.num_frames} picture is no video; leave it out")
        else:
            places[video.name] = "/".join((FOLDER, *steps))
            # Disks of other systems tell no capitals apart.
            other = first.setdefault(places[video.name].casefold(), video.name)
            if other != video.name:
                problems.append(f"{video.name}: would lie where {other} does; rename one")
    return places, problems


@contextmanager
def _claimed(partial: Path, found: Survey) -> Iterator[None]:
    """The unfinished folder, for this process alone.

    Raises:
        DataError: another process writes it, or it is of another conversion.
    """
    what = {"root": os.path.realpath(found.root), "videos": _fingerprint(found)}
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / RECORD).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{partial}: is being written by another process; wait for it") from error
        file.seek(0)
        text = file.read()
        if text and _json(text) != what:
            raise DataError(f"{partial}: is left of another conversion; remove it, or give another folder")
        if not text:
            if any(path.name != RECORD for path in partial.iterdir()):
                raise DataError(f"{partial}: is no unfinished conversion; remove it, or give another folder")
            file.write(json.dumps(what, indent=1))
            file.flush()
        yield


def _json(text: str) -> Any:
    with suppress(ValueError):
        return json.loads(text)
    return None


def _fingerprint(found: Survey) -> str:
    """Of everything that the tables are made of, and of what the videos are."""
    digest = hashlib.sha256(json.dumps(found.listing.phases).encode())
    for video in found.videos:
        labels = b"" if video.labels is None else video.labels.tobytes()
        whole = [video.name, video.path, video.num_frames, video.split, video.action, source_of(video.path).extent()]
        digest.update(json.dumps(whole).encode() + labels)
    return digest.hexdigest()


# --- Videos ----------------------------------------------------------------------------------------------------------


def _put(video: Video, place: Path, copies: bool) -> None:
    """A video where it will lie, unless it is there: then it is whole."""
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    source = source_of(video.path)
    # Hidden, so that it counts as nothing if it stays.
    unfinished = place.with_name(f".{place.name}{UNFINISHED}")
    if not isinstance(source, PictureSource):
        _put_file(Path(video.path), place, copies)
        return
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    for number, name in enumerate(source.names()):
        if isinstance(source, PictureFolder):
            _put_file(Path(video.path, name), unfinished / name, copies)
            continue
        try:
            content = source.content(number)
            suffix = SUFFIXES[look_at(content).kind]
        except (PictureError, UnreadableVideoError) as error:
            raise DataError(f"{video.name}: picture {number} {error}; mend or remove it") from error
        (unfinished / f"{number:06d}{suffix}").write_bytes(content)
    unfinished.rename(place)


def _put_file(path: Path, place: Path, copies: bool) -> None:
    if place.exists():
        return
    if not copies:
        # Not between disks, and not on every one.
        with suppress(OSError):
            os.link(os.path.realpath(path), place)
            return
    unfinished = place.with_name(f".{place.name}{UNFINISHED}")
    try:
        shutil.copy2(path, unfinished)
        os.replace(unfinished, place)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise DataError(f"{place}: cannot be written ({error.strerror}); mend that and go on") from error


def _put_sidecars(root: Path, videos: Sequence[Video], places: dict[str, str], partial: Path, copies: bool) -> None:
    """Features and progress of the videos, where there are some."""
    stems = array_stems(list(places.values()))
    for folder in SIDECARS:
        sidecars = Sidecars(root, folder)
        for video in videos if sidecars.is_there else ():
            path, stem = sidecars.of(video.name), stems[places[video.name]]
            if path is not None:
                (partial / folder / stem).parent.mkdir(parents=True, exist_ok=True)
                _put_file(path, partial / folder / f"{stem}.npy", copies)
        if (sidecars.folder / arrays.RECORD).exists() and (partial / folder).is_dir():
            _put_file(sidecars.folder / arrays.RECORD, partial / folder / arrays.RECORD, copies)


# --- Tables ----------------------------------------------------------------------------------------------------------


def _write_tables(found: Survey, places: dict[str, str], partial: Path) -> None:
    phases = found.listing.phases
    has_actions = any(video.action for video in found.videos)
    splits = [
        [places[video.name], video.split, *([video.action] if has_actions else []), number]
        for number, video in enumerate(found.videos)
    ]
    _write(partial / "splits.csv", ["video", "split", *(["action"] if has_actions else []), "place"], splits)
    if not any(video.is_labelled for video in found.videos):
        return
    ordered = [
        [*([action] if has_actions else []), phase]
        for action in sorted({video.action for video in found.videos})
        for phase in phases[action]
    ]
    _write(partial / "phases.csv", [*(["action"] if has_actions else []), "phase"], ordered)
    segments = [
        [places[video.name], start, end, phases[video.action][label]]
        for video in found.videos
        for start, end, label in _runs(video)
    ]
    _write(partial / "segments.csv", ["video", "start_frame", "end_frame", "phase"], segments)


def _runs(video: Video) -> Iterator[tuple[int, int, int]]:
    """(start, end, label) of each run of one label >= 0; end exclusive."""
    if video.labels is None:
        return
    cuts = np.flatnonzero(np.diff(video.labels)) + 1
    for start, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(video.labels)], strict=True):
        if video.labels[start] >= 0:
            yield start, end, int(video.labels[start])


def _write(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    os.replace(unfinished, path)


def _check_written(found: Survey, places: dict[str, str], partial: Path, config: DataConfig) -> None:
    """Read what was written as anybody will.

    Raises:
        DataError: it is not what it was made of.
    """
    plain = config.model_copy(update={"root": str(partial), "action": None, "tier": None, "max_unreadable": 0.0})
    listing = list_videos(partial, plain)
    written = survey(partial, listing, plain)
    problems = [*listing.problems, *written.problems]
    theirs = [_essence(video, places[video.name]) for video in found.videos]
    ours = [_essence(video, video.name) for video in written.videos]
    other = [one[0] for one, two in zip(theirs, ours, strict=False) if one != two]
    if problems or other or len(theirs) != len(ours):
        what = problems[0] if problems else some(other) or f"{len(ours)} videos in place of {len(theirs)}"
        raise DataError(f"{partial}: reads otherwise than {found.root}: {what}; it was left as it is")


def _essence(video: Video, place: str) -> tuple[Any, ...]:
    labels = video.labels.tolist() if video.labels is not None and video.is_labelled else None
    return place, video.num_frames, video.split, video.action, labels
