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


AS_STORED = Orientation()

TURNS = (AS_STORED, Orientation(True, False, True), Orientation(False, True, True), Orientation(True, True, False))
"""By quarters, against the clock."""


def orientation(picture: VideoFrame) -> Orientation | None:
    """The eighth of turn and mirror that a picture's display matrix asks for; other angles go to the nearest.

    None where a picture asks for nothing. What a stream itself says (H.264, HEVC) may be said once, of all that follow.
    """
    try:
        attached: Any = picture.side_data
    except ValueError:  # there is something beside it whose name PyAV does not know, such as EXIF
        quarters = round(picture.rotation / 90) % 4
        return TURNS[quarters] if quarters else None
    if (matrix := attached.get(Type.DISPLAYMATRIX)) is None:
        return None
    # Rows of 3: (x, y) goes to (a x + c y, b x + d y), y downwards (ISO 14496-12, 6.2.2).
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def upright(picture: VideoFrame) -> tuple[int, int, Orientation]:
    """Height and width of a video's first picture as it is shown, and its turn: that of all that ask for none."""
    turn = orientation(picture) or AS_STORED
    return (picture.width, picture.height, turn) if turn.is_swapped else (picture.height, picture.width, turn)


def to_rgb(
    picture: VideoFrame, height: int, width: int, reformatter: VideoReformatter, *, usual: Orientation = AS_STORED
) -> NDArray[np.uint8]:
    """(3, height, width) uint8, RGB; the matrix and range of the colours are those that the picture names.

    Args:
        picture: as it is stored.
        height, width: wanted.
        reformatter: scales it.
        usual: the turn of a picture that asks for none.
    """
    turn = orientation(picture) or usual
    across, down = (height, width) if turn.is_swapped else (width, height)
    # One thread: a pool of them for every picture costs more than it saves.
    scaled = reformatter.reformat(picture, across, down, "rgb24", interpolation="AREA", threads=1)
    pixels = scaled.to_ndarray().astype(np.uint8, copy=False)
    if turn.is_swapped:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if turn.mirror_y else 1, :: -1 if turn.mirror_x else 1].transpose(2, 0, 1)
