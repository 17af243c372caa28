"""Video files -> frames, decoded by PyAV, only those that are needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

INDEXED = {"mov", "matroska", "avi"}
"""Containers, as FFmpeg names them, that hold a table of their frames."""


class UnreadableVideoError(Exception):
    """A video that cannot be used; the message says why."""


@dataclass(frozen=True)
class FrameIndex:
    """Presentation times of a video's frames, in its stream's time base, and which of them can be decoded alone."""

    times: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    can_seek: bool = True
    """False where the container has no table of its frames (MPEG streams): a seek may land amid a group of pictures,
    whose first frames then come out wrong."""

    def __len__(self) -> int:
        return len(self.times)


@lru_cache(maxsize=4096)
def frame_index(path: str) -> FrameIndex:
    """Read a video's frame times from its packets, without decoding where they hold them.

    Raises:
        UnreadableVideoError: no such file, no video, no frames in it, or a file that was cut off.
    """
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise UnreadableVideoError("has no video stream")
            # Without the packet at the end that only flushes the decoder.
            found = [
                (packet.pts, packet.is_keyframe, packet.is_corrupt)
                for packet in container.demux(video=0)
                if packet.size > 0 and not packet.is_discard
            ]
            damaged = [number for number, (_, _, is_corrupt) in enumerate(found) if is_corrupt]
            if damaged:
                raise UnreadableVideoError(f"is cut off or damaged at frame {damaged[0]}")
            # The first frame proves that the codec is there and the data is what it says.
            container.seek(0)
            next(container.decode(video=0))
            can_seek = not INDEXED.isdisjoint(container.format.name.split(","))
        if any(time is None for time, _, _ in found):
            with av.open(path) as container:
                count = sum(1 for _ in container.decode(video=0))
            return FrameIndex(np.arange(count), np.arange(count) == 0, can_seek=False)
    except StopIteration:
        raise UnreadableVideoError("has no frames") from None
    except (OSError, av.FFmpegError) as error:
        raise UnreadableVideoError(_reason(path, error)) from error
    if not found:
        raise UnreadableVideoError("has no frames")
    found.sort()
    return FrameIndex(
        np.array([time for time, _, _ in found], dtype=np.int64),
        np.array([is_key for _, is_key, _ in found], dtype=bool),
        can_seek,
    )


def decode(path: str, frames: NDArray[np.int64], *, size: int | None = None) -> NDArray[np.uint8]:
    """Decode some frames of a video.

    Args:
        path: the file.
        frames: (n,) indices, in any order, repeats allowed.
        size: height and width to resize to; None keeps the video's own.

    Returns:
        (n, 3, H, W) uint8, RGB.

    Raises:
        UnreadableVideoError: the file cannot be decoded as far as these frames.
    """
    index = frame_index(path)
    wanted = np.unique(frames)
    if wanted[0] < 0 or wanted[-1] >= len(index):
        raise UnreadableVideoError(f"has frames 0..{len(index) - 1}, asked for {int(wanted[0])}..{int(wanted[-1])}")
    keys = np.flatnonzero(index.is_key)
    # Last key frame at or before each frame: where decoding has to start to reach it.
    start_of = (
        keys[np.maximum(np.searchsorted(keys, wanted, side="right") - 1, 0)] if len(keys) else np.zeros_like(wanted)
    )
    pictures: dict[int, NDArray[np.uint8]] = {}

    def take(frame: int, picture: av.VideoFrame) -> None:
        if size is not None:
            picture = picture.reformat(width=size, height=size, format="rgb24", interpolation="AREA")
        pictures[frame] = picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)

    try:
        if index.can_seek:
            with av.open(path) as container:
                stream = container.streams.video[0]
                position, reader = -1, None
                for frame, start in zip(wanted.tolist(), start_of.tolist(), strict=True):
                    if reader is None or start > position:
                        container.seek(int(index.times[start]), stream=stream, backward=True)
                        reader = container.decode(stream)
                    for picture in reader:
                        position = int(np.searchsorted(index.times, picture.pts or 0))
                        if position >= frame:
                            break
                    if position != frame:
                        break
                    take(frame, picture)
        if len(pictures) < len(wanted):
            # No seeking, or (AVI) past what was asked for: count the frames from the first one.
            with av.open(path) as container:
                for frame, picture in enumerate(container.decode(video=0)):
                    if frame in wanted:
                        take(frame, picture)
                    if frame == wanted[-1]:
                        break
        if len(pictures) < len(wanted):
            lost = next(frame for frame in wanted.tolist() if frame not in pictures)
            raise UnreadableVideoError(f"frame {lost} of {len(index)} cannot be decoded")
    except (OSError, av.FFmpegError) as error:
        raise UnreadableVideoError(_reason(path, error)) from error
    return np.stack([pictures[frame] for frame in frames.tolist()]).transpose(0, 3, 1, 2)


def _reason(path: str, error: Exception) -> str:
    if not Path(path).exists():
        return "does not exist"
    if Path(path).stat().st_size == 0:
        return "is an empty file"
    return f"is no video that can be decoded ({type(error).__name__})"
