"""A film in which videos play in step with a reference: a grid of pictures, with the reference's sound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lacray.apply.alignment import Alignment
from lacray.apply.embedded import EmbeddedVideo
from lacray.apply.files import writing
from lacray.apply.pictures import frames_of
from lacray.config import UserError
from lacray.data.containers import opened
from lacray.data.listing import some
from lacray.text import printable

TIME_BASE = Fraction(1, 90_000)
"""Of what is written: fine enough for every rate."""
AT_ONCE = 32
"""Frames that are decoded at once, of each video."""
BAR = 20
"""Pixels of the line with names above each picture."""
DIMMED = 0.3
"""How bright a picture stays while its video has no counterpart."""
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
MOST_PIXELS = 1920
"""Of a film's longer side."""


def write_film(
    path: Path,
    reference: EmbeddedVideo,
    alignments: Sequence[Alignment],
    *,
    height: int = 240,
    told: Callable[[int, int], None] | None = None,
) -> None:
    """Write an mp4 of a reference and of the videos that are aligned to it, in step with it.

    It lasts as long as the reference, with its frames at their times and its sound. While a video has no counterpart,
    it stands still and dark.

    Args:
        path: of the file.
        alignments: of the reference, as `a`, with each other video.
        height: pixels of each picture; less where the film would be too large to be played.
        told: called with the frames done and those in all.

    Raises:
        UserError: a video cannot be shown (`cannot_be_shown`), or it cannot be written.
        DataError: one cannot be read.
    """
    if lacking := cannot_be_shown(reference, alignments):
        raise UserError(lacking)
    tiles = [_Tiles(reference, np.arange(len(reference), dtype=np.float64), height)]
    tiles += [_Tiles(alignment.b, alignment.a_to_b, height) for alignment in alignments]
    columns = math.ceil(math.sqrt(len(tiles)))
    grid = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    across = max(sum(tile.width for tile in row) for row in grid)
    down = len(grid) * (height + BAR)
    if max(across, down) > MOST_PIXELS and height > 48:
        smaller = max(48, int(height * MOST_PIXELS / max(across, down)))
        write_film(path, reference, alignments, height=smaller, told=told)
        return
    # Encoders want even numbers.
    across, down = across + across % 2, down + down % 2
    with writing(path) as file, av.open(file, "w", format="mp4") as container:
        video = _video_stream(container, across, down)
        sound = _Sound(container, reference)
        assert reference.seconds is not None
        times = np.round(reference.seconds / float(TIME_BASE)).astype(np.int64)
        # A player wants times that rise.
        times = np.maximum.accumulate(times - np.arange(len(times))) + np.arange(len(times))
        rows = [zip(*(tile.pictures() for tile in row), strict=True) for row in grid]
        for number, pictures in enumerate(zip(*rows, strict=True)):
            canvas = np.zeros((down, across, 3), dtype=np.uint8)
            for y, row in enumerate(pictures):
                x = 0
                for picture in row:
                    top = y * (height + BAR)
                    canvas[top : top + picture.shape[0], x : x + picture.shape[1]] = picture
                    x += picture.shape[1]
            frame = av.VideoFrame.from_ndarray(canvas, format="rgb24")
            frame.pts, frame.time_base = int(times[number]), TIME_BASE
            container.mux(video.encode(frame))
            sound.until(float(reference.seconds[number]))
            if told is not None:
                told(number + 1, len(reference))
        container.mux(video.encode())
        sound.until(math.inf)


def cannot_be_shown(reference: EmbeddedVideo, alignments: Sequence[Alignment]) -> str:
    """Why there can be no film of a reference and what is aligned to it: a video without pictures or times, if any."""
    videos = [reference, *(alignment.b for alignment in alignments)]
    lacking = [video.name for video in videos if video.film is None or video.seconds is None]
    rule = "must be there as a video file to be shown, beside its features where those are read"
    return f"{some(lacking)}: {rule}" if lacking else ""


class _Tiles:
    """The pictures of one video for every frame of the reference."""

    def __init__(self, video: EmbeddedVideo, places: NDArray[np.float64], height: int) -> None:
        self.video, self.places, self.height = video, places, height
        assert video.film is not None
        first = frames_of(video.film, np.array([0]), height=height)[0]
        self.width = max(2, round(first.shape[1] * height / first.shape[0]))
        self.bar = _bar(video.name, self.width)

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """(height + BAR, width, 3) each."""
        assert self.video.film is not None
        is_there = ~np.isnan(self.places)
        # Where there is no counterpart the last one stays; before the first one it is the first.
        held = np.maximum.accumulate(np.where(is_there, np.arange(len(self.places)), -1))
        held = np.where(held < 0, int(np.argmax(is_there)) if is_there.any() else -1, held)
        frames = np.where(held >= 0, np.rint(np.nan_to_num(self.places[held])), 0).astype(np.int64)
        for start in range(0, len(frames), AT_ONCE):
            wanted, where = np.unique(frames[start : start + AT_ONCE], return_inverse=True)
            decoded = [self._tile(picture) for picture in frames_of(self.video.film, wanted, height=self.height)]
            for place, shows in zip(where.tolist(), is_there[start : start + AT_ONCE].tolist(), strict=True):
                picture = decoded[place] if shows else (decoded[place] * DIMMED).astype(np.uint8)
                yield np.concatenate([self.bar, picture])

    def _tile(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if picture.shape[:2] == (self.height, self.width):
            return picture
        return np.asarray(Image.fromarray(picture).resize((self.width, self.height), Image.Resampling.BILINEAR))


def _bar(name: str, width: int) -> NDArray[np.uint8]:
    """A line with a name."""
    image = Image.new("RGB", (width, BAR), (24, 24, 24))
    told = printable(name)
    font = ImageFont.load_default(size=12)
    while len(told) > 4 and font.getlength(told) > width - 8:
        told = f"...{told[4:]}" if told.startswith("...") else f"...{told[1:]}"
    ImageDraw.Draw(image).text((4, 3), told, fill=(230, 230, 230), font=font)
    return np.asarray(image)


def _video_stream(container: av.container.OutputContainer, width: int, height: int) -> VideoStream:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    stream = cast(VideoStream, container.add_stream(codec))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.time_base = stream.time_base = TIME_BASE
    # Scrubbing lands on a picture; no B-frames, so that times are written as they are.
    stream.codec_context.gop_size, stream.codec_context.max_b_frames = 25, 0
    stream.options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {"q:v": "4"}
    return stream


class _Sound:
    """The reference's sound, encoded as it is needed; nothing where it has none, or none that can be decoded."""

    def __init__(self, container: av.container.OutputContainer, reference: EmbeddedVideo) -> None:
        self._container = container
        self._packets = self._encoded(reference)
        self._waiting: Any = next(self._packets, None)

    def until(self, seconds: float) -> None:
        """Writes what sounds up to a time."""
        while self._waiting is not None:
            packet = self._waiting
            if packet.pts is not None and float(packet.pts * packet.time_base) > seconds:
                return
            self._container.mux(packet)
            self._waiting = next(self._packets, None)

    def _encoded(self, reference: EmbeddedVideo) -> Iterator[Any]:
        assert reference.film is not None
        with opened(reference.film) as (source, _):
            streams = source.streams.audio
            if not streams or streams[0].codec_context is None:
                return
            own = streams[0].codec_context.sample_rate
            rate = own if own in AAC_RATES else 48_000
            encoder = self._container.add_stream("aac", rate=rate, layout="stereo")
            resampler = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
            # A player's clock stands at 0 where the file begins.
            begin = (source.start_time or 0) / av.time_base
            clock = Fraction(1, rate)
            yield from self._resampled(source, streams[0], encoder, resampler, begin, clock)

    def _resampled(
        self, source: Any, stream: Any, encoder: AudioStream, resampler: Any, begin: float, clock: Fraction
    ) -> Iterator[Any]:
        expected: int | None = None

        def sound() -> Iterator[Any]:
            for packet in source.demux(stream):
                try:
                    yield from packet.decode()
                except av.FFmpegError:
                    continue  # a gap in the sound is no reason to lose the film
            yield None

        for decoded in sound():
            if decoded is not None and decoded.pts is not None and expected is None:
                expected = max(0, round((float(decoded.pts * decoded.time_base) - begin) / clock))
            for piece in resampler.resample(decoded):
                expected = expected or 0
                piece.pts, piece.time_base = expected, clock
                expected += piece.samples
                yield from encoder.encode(piece)
        yield from encoder.encode(None)
