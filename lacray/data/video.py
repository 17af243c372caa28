"""Video files -> frames, decoded by PyAV, only those that are needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


class UnreadableVideoError(Exception):
    """A video that cannot be used; the message says why."""


@dataclass(frozen=True)
class FrameIndex:
    """Presentation times of a video's frames, in its stream's time base, and which of them can be decoded alone."""

    times: NDArray[np.int64]
    is_key: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.times)


@lru_cache(maxsize=4096)
def frame_index(path: str) -> FrameIndex:
    """Read a video's frame times from its packets, without decoding.

    Raises:
        UnreadableVideoError: no such file, no video, or no frames in it.
    """
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise UnreadableVideoError("has no video stream")
            packets = [
                (packet.pts, packet.is_keyframe)
                for packet in container.demux(video=0)
                if packet.pts is not None and not packet.is_discard
            ]
            # The first frame proves that the codec is there and the data is what it says.
            container.seek(0)
            next(container.decode(video=0))
    except StopIteration:
        raise UnreadableVideoError("has no frames") from None
    except (OSError, av.FFmpegError) as error:
        raise UnreadableVideoError(_reason(path, error)) from error
    if not packets:
        raise UnreadableVideoError("has no frames")
    packets.sort()
    return FrameIndex(
        np.array([time for time, _ in packets], dtype=np.int64), np.array([key for _, key in packets], dtype=bool)
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
    try:
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
                    raise UnreadableVideoError(f"frame {frame} of {len(index)} cannot be decoded")
                if size is not None:
                    picture = picture.reformat(width=size, height=size, format="rgb24", interpolation="AREA")
                pictures[frame] = picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    except (OSError, av.FFmpegError) as error:
        raise UnreadableVideoError(_reason(path, error)) from error
    return np.stack([pictures[frame] for frame in frames.tolist()]).transpose(0, 3, 1, 2)


def _reason(path: str, error: Exception) -> str:
    if not Path(path).exists():
        return "does not exist"
    if Path(path).stat().st_size == 0:
        return "is an empty file"
    return f"is no video that can be decoded ({type(error).__name__})"
