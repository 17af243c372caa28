"""Videos as folders of pictures: which picture is frame i, and its pixels."""

from __future__ import annotations

import hashlib
import io
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lacray.data.containers import UnreadableVideoError
from lacray.data.discovery import is_picture
from lacray.data.facts import Clock, Facts
from lacray.data.pictures import to_rgb

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""Of pictures; whatever their suffix says."""

MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
"""Of 8 bits a channel: deeper ones would be cut off at 255."""

SMALL = 16
"""Pixels of a picture that is decoded only to see whether it can be."""

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""
TURNED = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}
"""Degrees for each of its values; 2 and what is not here is not turned."""


class PictureError(Exception):
    """A picture that cannot be used; the message says why."""


class Still(NamedTuple):
    """What a picture's header says."""

    width: int
    height: int
    rotation: int
    kind: str


class Stills:
    """Makes frames of pictures."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def decode(self, content: bytes, height: int, width: int) -> NDArray[np.uint8]:
        """(3, height, width) uint8, RGB, upright; resized as the frames of videos are.

        Raises:
            PictureError: it is empty, damaged, cut off, or no picture.
        """
        if not content:
            raise PictureError("is empty")
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                if picture.mode not in MODES:
                    raise PictureError(f"has pixels of kind {picture.mode}, must have 8 bits a channel; convert it")
                pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        except PictureError:
            raise
        except Exception as error:  # a damaged picture raises anything
            raise PictureError(f"is damaged or no picture ({type(error).__name__})") from error
        return to_rgb(VideoFrame.from_ndarray(pixels, format="rgb24"), height, width, self._reformatter)


def look_at(content: bytes) -> Still:
    """What a picture's header says, without decoding it.

    Raises:
        PictureError: it has none that can be read.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            orientation = picture.getexif().get(ORIENTATION, 1)
            rotation = TURNED.get(orientation, 0)
            width, height = picture.size[::-1] if rotation % 180 else picture.size
            return Still(width, height, rotation, "JPEG" if picture.format == "MPO" else str(picture.format))
    except Exception as error:  # as above
        raise PictureError(f"is damaged or no picture ({type(error).__name__})") from error


class PictureSource(ABC):
    """A video as single pictures; every method raises `UnreadableVideoError`, whose message says why."""

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> Sequence[str]:
        """What each picture is called, in the order of the frames."""

    @abstractmethod
    def content(self, number: int) -> bytes:
        """A picture as it lies on disk."""

    @abstractmethod
    def extent(self) -> int:
        """Bytes that all pictures take."""

    @abstractmethod
    def state(self) -> str:
        """Another one when any picture may have changed; found without reading one."""

    def probe(self) -> tuple[int, None]:
        """Their number; the first and the last are decoded."""
        names = self.names()
        self.read(np.array(sorted({0, len(names) - 1})), size=SMALL)
        return len(names), None

    def read(self, frames: NDArray[np.int64], *, size: int | None) -> NDArray[np.uint8]:
        """Some frames, (n, 3, size, size) uint8, RGB, upright; None: as large as the first."""
        names, stills = self.names(), Stills()
        if len(frames) and not 0 <= frames.min() <= frames.max() < len(names):
            raise UnreadableVideoError(f"has frames 0..{len(names) - 1}, asked for {frames.min()}..{frames.max()}")
        first = self._look_at(0) if size is None else None
        height, width = (size or 0, size or 0) if first is None else (first.height, first.width)
        pictures = np.empty((len(frames), 3, height, width), dtype=np.uint8)
        for place, number in enumerate(frames.tolist()):
            try:
                pictures[place] = stills.decode(self.content(number), height, width)
            except PictureError as error:
                raise UnreadableVideoError(f"frame {number} of {len(names)} ({names[number]}) {error}") from error
        return pictures

    def clock(self) -> Clock:
        raise UnreadableVideoError("has no frame times: pictures hold none; give start_frame and end_frame")

    def facts(self) -> Facts:
        seen = [self._look_at(number) for number in sorted({0, len(self.names()) // 2, len(self.names()) - 1})]
        first = seen[0]
        return Facts(
            size=(first.width, first.height),
            is_mixed=len({(still.width, still.height) for still in seen}) > 1,
            rotation=first.rotation,
            kind=f"{first.kind} pictures",
        )

    def digest(self) -> bytes:
        """Of the first and the last picture, the same for copies."""
        ends = b"".join(hashlib.sha256(self.content(number)).digest() for number in (0, len(self.names()) - 1))
        return hashlib.sha256(ends).digest()

    def _look_at(self, number: int) -> Still:
        try:
            return look_at(self.content(number))
        except PictureError as error:
            raise UnreadableVideoError(f"{self.names()[number]} {error}") from error


class PictureFolder(PictureSource):
    """A folder of pictures, in the order of the numbers in their names."""

    def names(self) -> Sequence[str]:
        return self._files()[0]

    def content(self, number: int) -> bytes:
        name = self.names()[number]
        try:
            return Path(self.path, name).read_bytes()
        except OSError as error:
            raise UnreadableVideoError(f"{name} cannot be read ({error.strerror})") from error

    def extent(self) -> int:
        return sum(self._files()[1])

    def state(self) -> str:
        """Of each picture's name, size, and times of the last change.

        `extent` and `digest` stay the same when a picture amid the others gives way to one that is as large.
        """
        try:
            with os.scandir(self.path) as entries:
                pictures = [(e.name, e.stat()) for e in entries if is_picture(e.name) and e.is_file()]
        except OSError as error:
            raise UnreadableVideoError(f"cannot be read ({error.strerror})") from error
        # Two that change places keep their st_mtime; a name that is given anew moves st_ctime.
        lines = sorted(f"{name} {own.st_size} {own.st_mtime_ns} {own.st_ctime_ns}" for name, own in pictures)
        return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()

    def probe(self) -> tuple[int, None]:
        empty = [name for name, size in zip(*self._files(), strict=True) if not size]
        if empty:
            raise UnreadableVideoError(f"{len(empty)} of its {len(self.names())} pictures are empty, first {empty[0]}")
        return super().probe()

    def _files(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        try:
            return pictures_in(self.path, os.stat(self.path).st_mtime_ns)
        except OSError as error:
            raise UnreadableVideoError(f"cannot be read ({error.strerror})") from error


@lru_cache(maxsize=4096)
def pictures_in(folder: str, changed: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and bytes of the pictures of a folder, in the order of the numbers in the names: 2 before 10.

    Args:
        changed: when the folder was, so that what is remembered is never old.

    Raises:
        UnreadableVideoError: there is none, two are of one number, or some are missing between others.
        OSError: the folder cannot be read.
    """
    with os.scandir(folder) as entries:
        sizes = {e.name: e.stat().st_size for e in entries if is_picture(e.name) and e.is_file()}
    if not sizes:
        deeper = sorted(
            path.name for path in Path(folder).iterdir() if path.is_dir() and any(map(_is_file, path.iterdir()))
        )
        hint = f" itself; move those of its folder {deeper[0]} up" if deeper else ""
        raise UnreadableVideoError(f"holds no pictures{hint}")
    names = in_order(list(sizes))
    return tuple(names), tuple(sizes[name] for name in names)


def _is_file(path: Path) -> bool:
    return is_picture(path.name) and path.is_file()


def in_order(names: Sequence[str]) -> list[str]:
    """Names of pictures by the numbers in them.

    Raises:
        UnreadableVideoError: two are of one number, or some are missing between others.
    """
    ordered = sorted(names, key=lambda name: (_parts(name), name))
    for one, other in pairwise(ordered):
        if _parts(one) == _parts(other):
            raise UnreadableVideoError(f"holds two pictures of one number, {one} and {other}; remove one")
    _refuse_gaps(ordered)
    return ordered


def _parts(name: str) -> tuple[str | int, ...]:
    """Text and numbers in turn; without the suffix."""
    pieces = re.split(r"(\d+)", name.rpartition(".")[0])
    return tuple(int(piece) if place % 2 else piece.casefold() for place, piece in enumerate(pieces))


def _refuse_gaps(ordered: Sequence[str]) -> None:
    """Refuse a numbering that skips some: each later label would be of another picture.

    Any step is right where it is always the same (every fifth frame of something), and so is what counts nothing, such
    as times.
    """
    parts = [_parts(name) for name in ordered]
    # The last number counts, where all else is the same.
    if len({(*own[:-2], own[-1]) for own in parts}) > 1 or len(parts[0]) < 2:
        return
    numbers = np.array([own[-2] for own in parts], dtype=object)
    steps = np.diff(numbers)
    if len(steps) < 2:
        return
    step, times = Counter(steps.tolist()).most_common(1)[0]
    gaps = [place for place, own in enumerate(steps) if own != step]
    if gaps and 2 * times >= len(steps) and all(steps[place] % step == 0 for place in gaps):
        missing = sum(int(steps[place]) // step - 1 for place in gaps)
        raise UnreadableVideoError(
            f"lacks {missing} picture{'s' * (missing > 1)}, the first between {ordered[gaps[0]]} and "
            f"{ordered[gaps[0] + 1]}; fetch them again, or number what there is without gaps"
        )
