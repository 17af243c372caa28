"""Pictures of frames, of alignments and of moments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lacray.apply.alignment import Alignment
from lacray.apply.embedded import EmbeddedVideo
from lacray.apply.files import writing
from lacray.apply.retrieval import Moment
from lacray.data import DataError
from lacray.data.sources import VideoFile, source_of
from lacray.data.video import UnreadableVideoError, decode, frame_index
from lacray.text import printable

NUM_SHOWN = 7
LEFT_OUT = "#2a7fb8"


def frames_of(path: str, frames: NDArray[np.int64], *, height: int | None = None) -> NDArray[np.uint8]:
    """Frames of a video (n, H, W, 3) uint8, in its own proportions; smaller, where `height` is less than its own.

    Raises:
        DataError: they cannot be read.
    """
    source = source_of(path)
    wanted = np.asarray(frames, dtype=np.int64)
    try:
        if not isinstance(source, VideoFile):
            return _shrunk(source.read(wanted, size=None).transpose(0, 2, 3, 1), height)
        index = frame_index(path)
        size = None
        if height is not None and height < index.height:
            size = (height, max(1, round(index.width * height / index.height)))
        return decode(path, wanted, size=size).transpose(0, 2, 3, 1)
    except UnreadableVideoError as error:
        raise DataError(f"{path}: {error}") from error


def _shrunk(pictures: NDArray[np.uint8], height: int | None) -> NDArray[np.uint8]:
    """Pictures (n, H, W, 3) at a height of at most so many pixels."""
    own_height, own_width = pictures.shape[1:3]
    if height is None or height >= own_height:
        return pictures
    size = (max(1, round(own_width * height / own_height)), height)
    return np.stack([np.asarray(Image.fromarray(own).resize(size, Image.Resampling.BOX)) for own in pictures])


def draw_alignment(alignment: Alignment) -> Figure:
    """The table of all matches with the best path, and frames of a above the frames of b that they correspond to."""
    a, b = alignment.a, alignment.b
    films = (a.film, b.film)
    has_pictures = None not in films
    figure = Figure(figsize=(11, 3.4) if has_pictures else (5, 4.4), layout="constrained")
    rows = figure.add_gridspec(2, NUM_SHOWN + 3) if has_pictures else figure.add_gridspec(1, 1)
    axes = figure.add_subplot(rows[:, :3] if has_pictures else rows[0, 0])
    whole = (0, len(b), len(a), 0)
    most = max(float(alignment.match.max(initial=0.0)), 1e-6)
    axes.imshow(alignment.match, cmap="Greys", vmin=0, vmax=most, aspect="auto", extent=whole)
    axes.plot(alignment.path[:, 1] + 0.5, alignment.path[:, 0] + 0.5, color="#d1495b", linewidth=1.2)
    for gap in alignment.gaps:
        span = axes.axhspan if gap.video == "a" else axes.axvspan
        span(gap.first, gap.stop, color=LEFT_OUT, alpha=0.15, linewidth=0)
    axes.set_xlabel(f"frame of {_short(b)}")
    axes.set_ylabel(f"frame of {_short(a)}")
    axes.set_title(f"score {alignment.score:.0f} nats, p {alignment.p_value:.2g}; blue: left out", fontsize=9)
    if not has_pictures:
        return figure
    mapped = np.flatnonzero(~np.isnan(alignment.a_to_b))
    if not len(mapped):
        return figure
    shown = mapped[np.linspace(0, len(mapped) - 1, NUM_SHOWN).round().astype(int)]
    partners = np.rint(alignment.a_to_b[shown]).astype(np.int64)
    for row, (film, frames) in enumerate(zip(films, (shown, partners), strict=True)):
        assert film is not None
        for column, (frame, picture) in enumerate(zip(frames, frames_of(film, frames, height=240), strict=True)):
            place = figure.add_subplot(rows[row, 3 + column])
            place.imshow(picture)
            place.set_title(str(frame), fontsize=8)
            place.axis("off")
    return figure


def draw_moments(
    query: tuple[EmbeddedVideo, int], found: Sequence[Moment], films: dict[str, str], *, columns: int = 6
) -> Figure:
    """A contact sheet: the moment that was asked for, then those that are most like it.

    Args:
        films: the files that hold the pictures, by name of the video.
    """
    video, frame = query
    shown: list[tuple[str, int, str | None, str]] = [(video.name, frame, video.film, "asked for")]
    shown += [(m.video, m.frame, films.get(m.video), f"distance {m.distance:.3f}") for m in found]
    columns = min(columns, len(shown))
    num_rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.1 * columns, 2.2 * num_rows), layout="constrained")
    cells = figure.subplots(num_rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.axis("off")
    for cell, (name, number, film, said) in zip(cells, shown, strict=False):
        if film is not None:
            cell.imshow(frames_of(film, np.array([number]), height=240)[0])
        cell.set_title(f"{shortened(name)}\nframe {number}, {said}", fontsize=7)
    return figure


def draw_deviations(names: Sequence[str], phases: Sequence[str], seconds: NDArray[np.float64]) -> Figure:
    """How much longer or shorter each phase (columns) of each video (rows) is, in seconds; NaN: it is not there."""
    figure = Figure(figsize=(2.5 + 0.9 * len(phases), 1.5 + 0.28 * len(names)), layout="constrained")
    axes = figure.subplots()
    most = float(np.nanmax(np.abs(seconds))) if np.isfinite(seconds).any() else 1.0
    image = axes.imshow(seconds, cmap="RdBu_r", vmin=-max(most, 1e-6), vmax=max(most, 1e-6), aspect="auto")
    axes.set_xticks(range(len(phases)), [shortened(phase) for phase in phases], rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), [shortened(name) for name in names], fontsize=7)
    for (row, column), value in np.ndenumerate(seconds):
        axes.text(column, row, "-" if np.isnan(value) else f"{value:+.1f}", ha="center", va="center", fontsize=7)
    figure.colorbar(image, label="seconds longer than in the reference")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture.

    Raises:
        UserError: it cannot be written.
    """
    with writing(path) as file:
        figure.savefig(file, format="png", dpi=110)


def shortened(name: str, most: int = 28) -> str:
    """A name that fits under a picture; `$` is no formula."""
    told = printable(name)
    told = told if len(told) <= most else f"...{told[3 - most :]}"
    return told.replace("$", r"\$")


def _short(video: EmbeddedVideo) -> str:
    return shortened(Path(video.name).stem or video.name)
