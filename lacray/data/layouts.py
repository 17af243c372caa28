"""Data sets on disk -> lists of `Video`s: the plain layout, the CARL/LAC layout, and the bundled SimPouring."""

from __future__ import annotations

import csv
import io
import pickle
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacray.config import DataConfig, UserError
from lacray.data.video import UnreadableVideoError, frame_index


class DataError(UserError):
    """What is wrong with a data set on disk, a line each."""


@dataclass(frozen=True)
class Video:
    """One video (or its frames' features) with what is known of it."""

    name: str
    path: str
    num_frames: int
    split: str
    """`train` or `val`."""
    labels: NDArray[np.int64] | None = field(default=None, repr=False)
    """(num_frames,) phase of each frame, -1 where it has none; None: no labels for this video."""
    progress: NDArray[np.float32] | None = field(default=None, repr=False)
    """(num_frames,) exact progress in 0..K, NaN where undefined; only rendered videos have it."""


@dataclass(frozen=True)
class VideoSet:
    """A data set that has been checked: every video in it can be read."""

    root: str
    training: list[Video]
    """The train split in list order: the first of them are the classifiers' few labels."""
    held: frozenset[str]
    """Names of those of them that are kept apart for selection."""
    val: list[Video]
    phases: list[str]
    num_features: int | None
    """Channels of `features/*.npy`; None for videos."""
    unreadable: list[str]
    """`name: why`, for each video that was left out."""

    @property
    def train(self) -> list[Video]:
        """What is trained on."""
        return [video for video in self.training if video.name not in self.held]

    @property
    def validation(self) -> list[Video]:
        """Videos of the train split that a study selects on."""
        return [video for video in self.training if video.name in self.held]

    @property
    def has_labels(self) -> bool:
        return any(video.labels is not None and (video.labels >= 0).any() for video in self.training)

    def fingerprint(self) -> dict[str, str]:
        """Each video's part in a training and its labels' checksum, by name: what must not change between two runs."""
        found = {}
        for video in self.training + self.val:
            part = "validation" if video.name in self.held else video.split
            labels = "no labels" if video.labels is None else f"labels {zlib.crc32(video.labels.tobytes()):08x}"
            found[video.name] = f"{part}, {video.num_frames} frames, {labels}"
        return found


def open_videos(config: DataConfig, *, progress: Callable[[int, int], None] | None = None) -> VideoSet:
    """Find, check and split the videos of a setting.

    Args:
        progress: called with (videos done, videos in all) while SimPouring is rendered.

    Raises:
        DataError: every fault of the labels and splits at once, or more unreadable videos than
            `data.max_unreadable` allows.
    """
    root = Path(config.root)
    if config.root == "simpouring":
        from lacray import simpouring

        root = simpouring.ensure(progress=progress)
    if not root.is_dir():
        raise DataError(
            f"data.root: must be `simpouring` or a directory, got {config.root!r}, which "
            f"{'is a file' if root.exists() else 'does not exist'}"
        )
    if (root / "train.pkl").is_file():
        entries, phases = _carl_entries(root)
    else:
        entries, phases = _plain_entries(root, config.input)
    features = config.input == "features"
    if features and not (root / "features").is_dir():
        raise DataError(f"data.input: features needs {root / 'features'}/NAME.npy, which does not exist; use videos")
    entries = [_with_features(root, entry) if features else entry for entry in entries]

    videos: list[Video] = []
    unreadable: list[str] = []
    problems: list[str] = []
    channels: dict[int, str] = {}
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(_probe, entries))
    for entry, outcome in zip(entries, outcomes, strict=True):
        if isinstance(outcome, str):
            unreadable.append(f"{entry.name}: {outcome}")
            continue
        num_frames, num_channels = outcome
        if num_channels is not None:
            channels.setdefault(num_channels, entry.name)
        try:
            videos.append(_with_labels(root, entry, num_frames))
        except DataError as error:
            problems += error.problems
    if len(channels) > 1:
        problems.append(
            f"{root}: features must all have the same channels, got {channels} (channels: first such video)"
        )
    if len(unreadable) > config.max_unreadable * len(entries):
        problems += [f"{root}/{line}" for line in unreadable]
        problems.append(
            f"{root}: {len(unreadable)} of {len(entries)} videos cannot be read, and data.max_unreadable is "
            f"{config.max_unreadable:g}; mend or remove them, or raise it"
        )
    if problems:
        raise DataError(problems)
    return _split(config, root, videos, phases, next(iter(channels), None), unreadable)


def _split(
    config: DataConfig, root: Path, videos: list[Video], phases: list[str], channels: int | None, unreadable: list[str]
) -> VideoSet:
    train = [video for video in videos if video.split == "train"]
    # Which videos a study selects on belongs to the data, not to a run's seed: all trials of a study share them.
    held = round(config.validation_share * len(train))
    if config.validation_share > 0:
        held = max(held, 1)
    order = np.random.default_rng(0).permutation(len(train))
    result = VideoSet(
        root=config.root,
        training=train,
        held=frozenset(train[index].name for index in order[:held]),
        val=[video for video in videos if video.split == "val"],
        phases=phases,
        num_features=channels,
        unreadable=unreadable,
    )
    need = 2 if config.pairing == "videos" else 1
    if len(result.train) < need:
        raise DataError(
            f"{root}: needs at least {need} training video{'s' * (need > 1)} besides the {held} kept for validation, "
            f"got {len(result.train)}; add videos, or lower data.validation_share"
        )
    return result


@dataclass(frozen=True)
class _Entry:
    """A video as its layout lists it, before its file has been looked at."""

    name: str
    path: Path
    split: str
    segments: list[tuple[int, int, int]] | None = None
    frame_labels: NDArray[np.int64] | None = None


def _plain_entries(root: Path, kind: str) -> tuple[list[_Entry], list[str]]:
    """videos/*, segments.csv (optional), splits.csv (optional: without it every fifth video is val)."""
    suffixes = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
    names = sorted(f"videos/{p.name}" for p in (root / "videos").glob("*") if p.suffix.lower() in suffixes)
    if not names and kind == "features":
        names = sorted(f"videos/{p.stem}.mp4" for p in (root / "features").glob("*.npy"))
    if not names:
        raise DataError(
            f"{root}: has no videos/*.mp4 and no train.pkl; put the videos into {root / 'videos'}, or give "
            "another data.root"
        )
    problems: list[str] = []
    splits = _read_csv(root / "splits.csv", ("video", "split"), problems)
    split_of: dict[str, str] = {}
    for line, row in splits:
        if split_of.setdefault(row["video"], row["split"]) != row["split"]:
            problems.append(f"{root / 'splits.csv'}:{line}: {row['video']} is in both splits; keep one of its lines")
        if row["split"] not in ("train", "val"):
            problems.append(f"{root / 'splits.csv'}:{line}: split must be train or val, got {row['split']!r}")
        if row["video"] not in names:
            problems.append(f"{root / 'splits.csv'}:{line}: no such video, {row['video']!r}")
    missing = [name for name in names if splits and name not in split_of]
    if missing:
        problems.append(
            f"{root / 'splits.csv'}: {len(missing)} videos have no split, first {missing[0]}; add a line each"
        )
    if not splits:
        split_of = {name: "val" if index % 5 == 4 else "train" for index, name in enumerate(names)}

    rows = _read_csv(root / "segments.csv", ("video", "start_frame", "end_frame", "phase"), problems)
    parsed: list[tuple[str, int, int, str]] = []
    for line, row in rows:
        where = f"{root / 'segments.csv'}:{line}"
        try:
            start, end = int(row["start_frame"]), int(row["end_frame"])
        except ValueError:
            given = f"{row['start_frame']!r} and {row['end_frame']!r}"
            problems.append(f"{where}: start_frame and end_frame must be integers, got {given}")
            continue
        if not 0 <= start < end:
            problems.append(f"{where}: must be 0 <= start_frame < end_frame, got {start} and {end}")
        if row["video"] not in names:
            problems.append(f"{where}: no such video, {row['video']!r}")
        parsed.append((row["video"], start, end, row["phase"]))
    if problems:
        raise DataError(problems)
    phases = _phase_order(parsed)
    segments: dict[str, list[tuple[int, int, int]]] = {}
    for name, start, end, phase in parsed:
        segments.setdefault(name, []).append((start, end, phases.index(phase)))
    return [_Entry(name, root / name, split_of[name], segments=segments.get(name)) for name in names], phases


def _phase_order(segments: list[tuple[str, int, int, str]]) -> list[str]:
    """Phases by their mean place in the videos that have them: the order of the process."""
    last: dict[str, int] = {}
    for name, _, end, _ in segments:
        last[name] = max(end, last.get(name, 0))
    places: dict[str, list[float]] = {}
    for name, start, end, phase in segments:
        places.setdefault(phase, []).append((start + end) / 2 / last[name])
    return sorted(places, key=lambda phase: (float(np.mean(places[phase])), phase))


def _read_csv(path: Path, columns: tuple[str, ...], problems: list[str]) -> list[tuple[int, dict[str, str]]]:
    if not path.is_file():
        return []
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            absent = [column for column in columns if column not in (reader.fieldnames or [])]
            if absent:
                problems.append(f"{path}: must have the columns {','.join(columns)}, lacks {','.join(absent)}")
                return []
            for row in reader:
                if any(row[column] is None for column in columns):
                    problems.append(f"{path}:{reader.line_num}: must have {len(columns)} fields")
                else:
                    rows.append((reader.line_num, {column: row[column].strip() for column in columns}))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(f"{path}: must be CSV text in UTF-8 ({error})")
    return rows


def _carl_entries(root: Path) -> tuple[list[_Entry], list[str]]:
    """train.pkl and val.pkl as CARL and LAC publish them, read without running anything that is in them."""
    entries: list[_Entry] = []
    problems: list[str] = []
    top = -1
    for split in ("train", "val"):
        path = root / f"{split}.pkl"
        if not path.is_file():
            problems.append(f"{path}: does not exist; the CARL layout has train.pkl and val.pkl")
            continue
        try:
            content = read_restricted_pickle(path)
        except Exception as error:  # a damaged pickle raises anything, MemoryError and TypeError among it
            said = error if isinstance(error, pickle.UnpicklingError) else f"is no pickle ({type(error).__name__})"
            problems.append(f"{path}: {said}")
            continue
        # Penn Action: (list, {action: indices}); Pouring: the list alone.
        items = content[0] if isinstance(content, tuple) and content else content
        if not isinstance(items, list):
            problems.append(f"{path}: must hold a list of videos, got {type(items).__name__}")
            continue
        for number, item in enumerate(items):
            absent = {"name", "video_file", "frame_label"} - (item.keys() if isinstance(item, dict) else set())
            if absent:
                problems.append(f"{path}: video {number} lacks {', '.join(sorted(absent))}")
                continue
            try:
                labels = np.asarray(item["frame_label"]).astype(np.int64).reshape(-1)
                video = root / item["video_file"]
            except (TypeError, ValueError):
                problems.append(f"{path}: video {number}: frame_label must be integers and video_file a path")
                continue
            top = max(top, int(labels.max(initial=-1)))
            if root.resolve() not in video.resolve().parents:
                problems.append(f"{path}: video_file must lie in {root}, got {item['video_file']!r}")
                continue
            entries.append(_Entry(str(item["video_file"]), video, split, frame_labels=labels))
    if problems:
        raise DataError(problems)
    return entries, [f"phase_{number}" for number in range(top + 1)]


class _RestrictedUnpickler(pickle.Unpickler):
    """Admits plain containers, numbers, strings, and tensors and arrays of numbers: nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): dict,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _bytes_of_text,
        }
        for core in ("numpy.core", "numpy._core"):
            allowed[f"{core}.multiarray", "_reconstruct"] = import_module("numpy._core.multiarray")._reconstruct
            allowed[f"{core}.multiarray", "scalar"] = _scalar
            allowed[f"{core}.numeric", "_frombuffer"] = _array_of_buffer
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(
                f"refused to load {module}.{name}: a data file may hold lists, dicts, numbers, strings and tensors only"
            )
        return allowed[module, name]


def _bytes_of_text(text: str, encoding: str) -> bytes:
    """Protocol 2 writes bytes as latin-1 text; no other codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"refused to load text in the codec {encoding!r}")
    return text.encode("latin1")


def _scalar(dtype: np.dtype[Any], content: bytes) -> Any:
    return np.frombuffer(content, dtype)[0]


def _array_of_buffer(content: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    """Protocol 5 writes arrays as their buffer."""
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _storage_from_bytes(content: bytes) -> Any:
    import torch

    # torch pickles a tensor's storage as a nested torch.save; weights_only keeps the same promise inside it.
    return torch.load(io.BytesIO(content), weights_only=True)


def read_restricted_pickle(path: Path) -> Any:
    """Load a pickle from a stranger: plain data and tensors only.

    Raises:
        pickle.UnpicklingError: it holds anything else.
    """
    with path.open("rb") as file:
        return _RestrictedUnpickler(file).load()


def _with_features(root: Path, entry: _Entry) -> _Entry:
    return replace(entry, path=root / "features" / f"{Path(entry.name).stem}.npy")


def _probe(entry: _Entry) -> tuple[int, int | None] | str:
    """(frames, channels of features), or why it cannot be read."""
    if entry.path.suffix == ".npy":
        try:
            features = np.load(entry.path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return f"{entry.path.name} does not exist"
        except (OSError, ValueError, EOFError) as error:
            return f"{entry.path.name} is no array ({error})"
        if features.ndim != 2 or len(features) == 0 or not np.issubdtype(features.dtype, np.floating):
            return f"{entry.path.name} must be (frames, channels) of floats, got {features.shape} {features.dtype}"
        return features.shape[0], features.shape[1]
    try:
        return len(frame_index(str(entry.path))), None
    except UnreadableVideoError as error:
        return str(error)


def _with_labels(root: Path, entry: _Entry, num_frames: int) -> Video:
    labels = None
    problems: list[str] = []
    if entry.frame_labels is not None:
        if len(entry.frame_labels) > num_frames:
            problems.append(
                f"{root}/{entry.name}: labels must not be longer than the video, got {len(entry.frame_labels)} labels "
                f"for {num_frames} frames"
            )
        labels = np.full(num_frames, -1, dtype=np.int64)
        labels[: len(entry.frame_labels)] = entry.frame_labels[:num_frames]
    elif entry.segments is not None:
        labels = np.full(num_frames, -1, dtype=np.int64)
        for start, end, phase in entry.segments:
            if end > num_frames:
                problems.append(
                    f"{root / 'segments.csv'}: {entry.name}: labels must not be longer than the video, got end_frame "
                    f"{end} for {num_frames} frames"
                )
            if (labels[start:end] >= 0).any():
                problems.append(f"{root / 'segments.csv'}: {entry.name}: segments overlap at frames {start}..{end - 1}")
            labels[start:end] = phase
    if problems:
        raise DataError(problems)
    progress_file = root / "progress" / f"{Path(entry.name).stem}.npy"
    progress = np.load(progress_file, allow_pickle=False) if progress_file.is_file() else None
    return Video(entry.name, str(entry.path), num_frames, entry.split, labels, progress)
