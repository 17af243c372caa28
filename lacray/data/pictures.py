"""A decoded picture -> RGB, upright, of a wanted size."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray


class Orientation(NamedTuple):
    """How a stored picture becomes the one that is shown: rows and columns swapped first, then mirrored."""

    is_swapped: bool = False
    mirror_x: bool = False
    mirror_y: bool = False


TURNS = (Orientation(), Orientation(True, False, True), Orientation(False, True, True), Orientation(True, True, False))
"""By quarters, against the clock."""


def orientation(picture: VideoFrame) -> Orientation:
    """The eighth of turn and mirror that a picture's display matrix asks for; other angles go to the nearest."""
    try:
        attached: Any = picture.side_data
    except ValueError:  # there is something beside it whose name PyAV does not know, such as EXIF
        return TURNS[round(picture.rotation / 90) % 4]
    if (matrix := attached.get(Type.DISPLAYMATRIX)) is None:
        return Orientation()
    # Rows of 3: (x, y) goes to (a x + c y, b x + d y), y downwards (ISO 14496-12, 6.2.2).
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def upright_size(picture: VideoFrame) -> tuple[int, int]:
    """Height and width of a picture as it is shown."""
    size = picture.height, picture.width
    return size[::-1] if orientation(picture).is_swapped else size


def to_rgb(picture: VideoFrame, height: int, width: int, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """(3, height, width) uint8, RGB; the matrix and range of the colours are those that the picture names."""
    turn = orientation(picture)
    across, down = (height, width) if turn.is_swapped else (width, height)
    # One thread: a pool of them for every picture costs more than it saves.
    scaled = reformatter.reformat(picture, across, down, "rgb24", interpolation="AREA", threads=1)
    pixels = scaled.to_ndarray().astype(np.uint8, copy=False)
    if turn.is_swapped:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if turn.mirror_y else 1, :: -1 if turn.mirror_x else 1].transpose(2, 0, 1)
