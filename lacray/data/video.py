"""Video files -> frames: only what is needed is decoded, one picture at a time, upright."""

from __future__ import annotations

import multiprocessing

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from lacray.data.containers import UnreadableVideoError, cpus, opened
from lacray.data.frames import FrameIndex, TroubleError, Walk
from lacray.data.indices import counted_index, frame_index, remember
from lacray.data.pictures import Orientation, to_rgb

__all__ = ["FrameIndex", "UnreadableVideoError", "decode", "frame_index"]

NEAR = 8
"""Packets: a key that lies no further ahead is walked to, not sought."""

MOST_THREADS = 4
"""Of a decoder; each holds a frame, and decodes one too many at the end of a clip."""

RETRIES = 4
"""Attempts, with fewer threads and then from earlier keys, before a video is decoded from its head."""


class _GoneWrongError(Exception):
    """Wanted frames did not come out as they should."""

    def __init__(self, frame: int, *, key: int, is_damaged: bool) -> None:
        super().__init__(frame, key, is_damaged)
        self.frame, self.key, self.is_damaged = frame, key, is_damaged


class _Wanted:
    """Some frames in rising order, and room for their pictures."""

    def __init__(self, frames: NDArray[np.int64], height: int, width: int, usual: Orientation) -> None:
        self.frames: list[int] = frames.tolist()
        self.pictures = np.empty((len(frames), 3, height, width), dtype=np.uint8)
        self._usual = usual
        self._reformatter = VideoReformatter()

    def put(self, place: int, picture: VideoFrame) -> None:
        _, height, width = self.pictures.shape[1:]
        self.pictures[place] = to_rgb(picture, height, width, self._reformatter, usual=self._usual)


def decode(path: str, frames: NDArray[np.int64], *, size: int | tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode some frames of a video: the same pictures, whichever are asked for together.

    Args:
        path: the file.
        frames: (n,) indices, in any order, repeats allowed.
        size: height and width to resize to, or one number for both; None keeps those of the video's first frame.

    Returns:
        (n, 3, H, W) uint8, RGB, upright.

    Raises:
        UnreadableVideoError: it has no such frames, or they cannot be decoded.
    """
    index = frame_index(path)
    rising, places = np.unique(np.asarray(frames, dtype=np.int64), return_inverse=True)
    _refuse_others(index, rising)
    height, width = (size, size) if isinstance(size, int) else size or (index.height, index.width)
    wanted = _Wanted(rising, height, width, Orientation(index.is_swapped, index.mirror_x, index.mirror_y))
    # Loader processes, which are daemons, are themselves as many as there are processors to spare.
    threads = 1 if multiprocessing.current_process().daemon else min(MOST_THREADS, cpus())
    for _ in range(RETRIES):
        try:
            _read(path, index, wanted, threads=threads)
            break
        except _GoneWrongError as wrong:
            if threads > 1:
                threads = 1  # tells exactly which packet is damaged
            elif wrong.key >= 0:
                index = index.without_key(wrong.key)  # what is decoded from there is not as it should be
            else:
                index = _read_from_head(path, index, wanted)
                break
    else:
        index = _read_from_head(path, index, wanted)
    remember(path, index)
    is_as_asked = len(places) == len(rising) and bool((np.diff(places) > 0).all())
    return wanted.pictures if is_as_asked else wanted.pictures[places]


def _refuse_others(index: FrameIndex, rising: NDArray[np.int64]) -> None:
    if len(rising) and (rising[0] < 0 or rising[-1] >= len(index)):
        raise UnreadableVideoError(f"has frames 0..{len(index) - 1}, asked for {rising[0]}..{rising[-1]}")


def _read(path: str, index: FrameIndex, wanted: _Wanted, *, threads: int) -> None:
    """Decode wanted frames, seeking where that saves decoding.

    Raises:
        _GoneWrongError: they are missing, others, or damaged.
    """
    place = 0
    with opened(path, threads=threads) as (container, stream):
        walk = Walk(container, stream, index)
        while place < len(wanted.frames):
            first, settled = place, len(index)
            key = index.start_of(wanted.frames[place])
            is_over = False
            try:
                for number, picture in walk.start(key):
                    if not is_over and number == wanted.frames[place]:
                        wanted.put(place, picture)
                        place += 1
                        is_over = place == len(wanted.frames) or walk.is_far(wanted.frames[place], NEAR)
                        settled = index.settled(number)
                    if is_over and number >= settled:
                        break
            except TroubleError as trouble:
                frame = wanted.frames[min(place, len(wanted.frames) - 1)]
                raise _GoneWrongError(frame, key=key, is_damaged=bool(walk.damaged)) from trouble
            if not is_over:
                raise _GoneWrongError(wanted.frames[place], key=key, is_damaged=bool(walk.damaged))
            for frame in wanted.frames[first:place]:
                # With threads, damage is reported with a later packet.
                if walk.is_damaged(frame, late=threads - 1):
                    raise _GoneWrongError(frame, key=key, is_damaged=True)


def _read_from_head(path: str, index: FrameIndex, wanted: _Wanted) -> FrameIndex:
    """Decode wanted frames by counting from the first one; the index, such that it will be done so again.

    Raises:
        UnreadableVideoError: they cannot be decoded, or the video has other frames than its index said.
    """
    plain = index.without_keys()
    try:
        _read(path, plain, wanted, threads=1)
        return plain
    except _GoneWrongError as wrong:
        if wrong.is_damaged or index.is_counted:
            raise UnreadableVideoError(_said(wrong, index)) from wrong
    counted = counted_index(path)
    if len(counted) != len(index):
        raise UnreadableVideoError(
            f"shows {len(counted)} frames when it is decoded, where its packets promised {len(index)}; "
            "what was read of it before may be off: start again"
        )
    try:
        _read(path, counted.without_keys(), wanted, threads=1)
    except _GoneWrongError as wrong:
        raise UnreadableVideoError(_said(wrong, counted)) from wrong
    return counted


def _said(wrong: _GoneWrongError, index: FrameIndex) -> str:
    return f"frame {wrong.frame} of {len(index)} {'is damaged' if wrong.is_damaged else 'cannot be decoded'}"
