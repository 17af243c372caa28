"""What can be read frame by frame: a video file, a folder of pictures, a record of a TFRecord file, features.

One class each, one line in `SOURCES`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from lacray.data.arrays import load_array
from lacray.data.containers import opened
from lacray.data.facts import Clock, Facts, check_regular, ends_digest, file_state
from lacray.data.stills import PictureFolder
from lacray.data.tfrecords import IN_RECORD, RecordedVideo
from lacray.data.video import UnreadableVideoError, decode, frame_index

# Values that are looked at in one go: they stay in the processor's cache.
SCANNED = 1 << 18


class Source(Protocol):
    """A video as it lies on disk; every method raises `UnreadableVideoError`, whose message says why."""

    def __init__(self, path: str) -> None: ...

    def probe(self) -> tuple[int, int | None]:
        """Frames, and the channels of features; None for pictures."""

    def read(self, frames: NDArray[np.int64], *, size: int | None) -> NDArray[Any]:
        """Some frames: (n, 3, size, size) uint8, or (n, channels) float32; size None: that of the first frame."""

    def clock(self) -> Clock:
        """When the frames are shown."""

    def facts(self) -> Facts:
        """What headers, packets and the first frame tell."""

    def extent(self) -> int:
        """Bytes that it takes."""

    def digest(self) -> bytes:
        """Of some of its content, the same for copies of it."""

    def state(self) -> str:
        """Another one when any frame may have changed; found without reading one."""


class _File:
    """What is the same for every video that is one file."""

    path: str

    def extent(self) -> int:
        try:
            return os.path.getsize(self.path)
        except OSError as error:
            raise UnreadableVideoError(f"cannot be read any more ({error.strerror})") from error

    def digest(self) -> bytes:
        try:
            return ends_digest(self.path)
        except OSError as error:
            raise UnreadableVideoError(f"cannot be read any more ({error.strerror})") from error

    def state(self) -> str:
        return file_state(self.path)


class VideoFile(_File):
    """A file that FFmpeg opens."""

    def __init__(self, path: str) -> None:
        # FFmpeg takes what stands before a colon for a protocol, but for a path that begins with a slash.
        self.path = os.path.abspath(path)

    def probe(self) -> tuple[int, int | None]:
        check_regular(self.path)
        return len(frame_index(self.path)), None

    def read(self, frames: NDArray[np.int64], *, size: int | None) -> NDArray[np.uint8]:
        return decode(self.path, frames, size=size)

    def clock(self) -> Clock:
        times = frame_index(self.path).seconds
        with opened(self.path) as (container, stream):
            rate = stream.average_rate or stream.guessed_rate
            lasts = None if container.duration is None else container.duration / av.time_base
        # A player's clock is zero where the file begins, which may be its sound.
        seconds = times - min(times[0], 0.0)
        frame = float(np.median(np.diff(seconds))) if len(seconds) > 1 else float(1 / rate) if rate else 0.0
        return Clock(seconds, frame, max(float(seconds[-1]) + frame, lasts or 0.0))

    def facts(self) -> Facts:
        clock = self.clock()
        with opened(self.path) as (container, stream):
            picture = next(container.decode(stream), None)
            if picture is None:
                raise UnreadableVideoError("cannot be decoded any more")
            width, height, rotation = picture.width, picture.height, picture.rotation
            if stream.duration is not None and stream.time_base is not None:
                announced = float(stream.duration * stream.time_base)
            else:
                announced = 0.0 if len(container.streams) > 1 else (container.duration or 0) / av.time_base
            kind = f"{stream.codec_context.name} in {container.format.name.partition(',')[0]}"
        held = float(clock.times[-1]) + clock.frame
        between = np.diff(clock.times)
        # A container that counts milliseconds shows one frame for 33 and the next for 34.
        is_variable = bool(len(between)) and bool((np.abs(between - clock.frame) > 0.25 * clock.frame + 0.002).any())
        return Facts(
            seconds=held - float(clock.times[0]),
            rate=1 / clock.frame if clock.frame > 0 else None,
            is_variable=is_variable,
            size=(height, width) if rotation % 180 else (width, height),
            rotation=rotation % 360,
            kind=kind,
            missing=announced - held if announced - held > max(1.0, 0.05 * announced) else 0.0,
        )


class FeatureFile(_File):
    """An array (frames, channels) of a frozen backbone."""

    def __init__(self, path: str) -> None:
        self.path = path

    def probe(self) -> tuple[int, int | None]:
        try:
            check_regular(self.path)
        except UnreadableVideoError as error:
            raise UnreadableVideoError(f"{Path(self.path).name} {error}") from error
        status = os.stat(self.path)
        return _probed_features(self.path, status.st_size, status.st_mtime_ns)

    def read(self, frames: NDArray[np.int64], *, size: int | None) -> NDArray[np.float32]:
        try:
            features = load_array(self.path, mapped=True)
            return np.asarray(features[frames], dtype=np.float32)
        except (OSError, ValueError, IndexError, EOFError) as error:
            raise UnreadableVideoError(f"cannot be read any more ({error})") from error

    def clock(self) -> Clock:
        raise UnreadableVideoError("has no frame times: features hold none")

    def facts(self) -> Facts:
        try:
            features = load_array(self.path, mapped=True)
        except (OSError, ValueError, EOFError) as error:
            raise UnreadableVideoError(f"cannot be read any more ({error})") from error
        return Facts(kind=f"{features.dtype}, {features.shape[1]} channels")


@lru_cache(maxsize=65536)
def _probed_features(path: str, size: int, changed: int) -> tuple[int, int]:
    """Frames and channels of an array; looked at as a whole, once as long as the file stays as it is."""
    name = Path(path).name
    try:
        features = load_array(path, mapped=True)
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableVideoError(f"{name} is no array ({error})") from error
    if not isinstance(features, np.ndarray):
        raise UnreadableVideoError(f"{name} must be one array of floats, got an archive of several")
    if features.ndim != 2 or 0 in features.shape or not np.issubdtype(features.dtype, np.floating):
        raise UnreadableVideoError(
            f"{name} must be (frames, channels) of floats, got {features.shape} {features.dtype}"
        )
    order: Literal["C", "F"] = "F" if features.flags.f_contiguous else "C"
    values = features.ravel(order)
    for start in range(0, len(values), SCANNED):
        with np.errstate(over="ignore"):
            # As they are trained on: a float64 may be too large for that.
            bad = ~np.isfinite(values[start : start + SCANNED].astype(np.float32, copy=False))
        if bad.any():
            frame, channel = np.unravel_index(start + int(bad.argmax()), features.shape, order=order)
            raise UnreadableVideoError(
                f"{name} must hold finite float32 numbers, got {features[frame, channel]} in frame {frame}, "
                f"channel {channel}"
            )
    return features.shape[0], features.shape[1]


# The first that takes a path reads it.
SOURCES: list[tuple[Callable[[str], bool], type[Source]]] = [
    (lambda path: path.lower().endswith(".npy"), FeatureFile),
    (lambda path: IN_RECORD.fullmatch(path) is not None, RecordedVideo),
    (os.path.isdir, PictureFolder),
    (lambda path: True, VideoFile),
]


def source_of(path: str) -> Source:
    """What reads the frames of a video that lies there."""
    return next(kind for takes, kind in SOURCES if takes(path))(path)
