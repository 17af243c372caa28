"""Small copies of videos that any browser plays, frame for frame: H.264 in MP4, kept in the cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from lacray.cache import cached
from lacray.data.video import decode, frame_index

VERSION = 1
"""Of the copies; goes up when the same video gives another one."""
LONGEST = 480
"""Pixels of a copy's longer side: what forty of them in one window can be played at."""
KEYS = 12
"""Frames from one key frame to the next: as many are decoded, at most, to show one."""
PIECE_BYTES = 1 << 27
"""Pictures that are decoded in one go, at most."""
TIME_BASE = Fraction(1, 90_000)

Progress = Callable[[int, int], None]
"""Called with (frames done, frames in all); what it raises ends the work."""


class NoEncoderError(Exception):
    """This build of FFmpeg cannot write H.264."""


def film_path(path: str) -> Path:
    """Where the copy of a video lies, or will; another path when the video has changed."""
    status = os.stat(path)
    key = f"{VERSION} {LONGEST} {os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"
    name = hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    return cached(f"films/{name[:2]}/{name}.mp4")


def film_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the copy of a video of that size: even, and never larger."""
    scale = min(1.0, LONGEST / max(height, width))
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


def film_times(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """When each frame of a copy is shown, in TIME_BASE: the video's own times, from 0 on, rising.

    Args:
        seconds: (n,) of the video.
    """
    ticks = np.round((seconds - seconds[0]) / float(TIME_BASE)).astype(np.int64)
    # Two frames that a container shows at one time are one tick apart.
    steps = np.arange(len(ticks))
    return np.maximum.accumulate(ticks - steps) + steps


def make_film(path: str, *, progress: Progress | None = None) -> Path:
    """The copy of a video: every frame at its time, upright, without sound; made if it is not there.

    Raises:
        UnreadableVideoError: the video cannot be read.
        NoEncoderError: H.264 cannot be written here.
        OSError: the cache cannot be written.
    """
    target = film_path(path)
    if target.exists():
        return target
    if "libx264" not in av.codecs_available:
        raise NoEncoderError
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".part")
    os.close(handle)
    try:
        _write(path, temporary, progress)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target


def _write(path: str, target: str, progress: Progress | None) -> None:
    index = frame_index(path)
    height, width = film_size(index.height, index.width)
    times = film_times(index.seconds)
    step = max(1, PIECE_BYTES // (3 * height * width))
    with av.open(target, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264")
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = TIME_BASE
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = KEYS, 0
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "24", "preset": "ultrafast", "tune": "fastdecode", "x264-params": "log-level=error"}
        reformatter = VideoReformatter()
        shown = np.empty((height, width, 3), dtype=np.uint8)
        for start in range(0, len(index), step):
            frames = np.arange(start, min(start + step, len(index)))
            for number, picture in zip(frames.tolist(), decode(path, frames, size=(height, width)), strict=True):
                # A colour at a time: four times as fast as all at once.
                for colour in range(3):
                    shown[..., colour] = picture[colour]
                frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
                frame.pts, frame.time_base = int(times[number]), TIME_BASE
                # One thread: a pool of them for every picture costs more than it saves.
                container.mux(stream.encode(reformatter.reformat(frame, format="yuv420p", threads=1)))
                if progress is not None:
                    progress(number + 1, len(index))
        container.mux(stream.encode())
