"""The videos of a page, and the work behind it: small films, embeddings, alignments, as they are asked for."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lacray.apply import EmbeddedVideo, Model
from lacray.apply.folders import Folder, Item, read_item
from lacray.apply.retrieval import Moment, Moments
from lacray.data import DataError, Video
from lacray.data.sources import source_of
from lacray.data.video import UnreadableVideoError, decode, frame_index
from lacray.page import films
from lacray.page.labels import Clip, Labels
from lacray.page.marks import Mark, marks_of

MOST_ALIGNED = 1000
"""Frames of the longer of two videos that are aligned; of a longer one every second, third, ... is."""
TABLE = 320
"""Rows and columns of an alignment's picture, at most."""
LOG_ODDS = 6.0
"""Nats of likeness, for or against, at which its picture is darkest."""
CARRIED_SHARE = 0.3
"""A segment is carried where the alignment leaves at least this share of it in."""
NICE = 10
"""Of the threads that work behind the page, so that the browser beside them stays smooth."""


@dataclass
class Shown:
    """A video on the page."""

    item: Item
    path: str
    """Of the video file."""
    times: NDArray[np.float64]
    """(n,) when each frame is shown, in seconds."""
    end: float
    height: int
    width: int
    marks: list[Mark]
    action: str = ""
    falls: bool = False
    """Whether the file's own times fall back."""
    film: Path | None = None
    embedded: EmbeddedVideo | None = None
    trouble: str = ""
    """Why it can no longer be read, or aligned."""

    def __len__(self) -> int:
        return len(self.times)

    @property
    def rate(self) -> float:
        """Frames a second; their median where that varies."""
        step = float(np.median(np.diff(self.times))) if len(self) > 1 else self.end - float(self.times[0])
        return 1 / step if step > 0 else 0.0

    @property
    def clip(self) -> Clip:
        return Clip(self.item.name, Path(self.path), self.action, self.times, self.end, self.rate, self.falls)


@dataclass(frozen=True)
class Aligned:
    """What the page shows of the alignment of a video a, of N frames, with b, of M."""

    places: NDArray[np.float32]
    """(N,) for each frame of a its place in b, NaN: none."""
    back: NDArray[np.float32]
    """(M,) the other way round."""
    path: NDArray[np.int32]
    """(L, 2) frames of the best local path."""
    score: float
    p_value: float
    match: NDArray[np.uint8]
    """(h, w) the probability of every match, the root of it, 0 to 255; the most probable of those in a cell."""
    likeness: NDArray[np.uint8]
    """(h, w) log-odds of a match, LOG_ODDS to either side of 128; the largest of those in a cell."""

    def turned(self) -> Aligned:
        """The same, with b for a."""
        path = np.ascontiguousarray(self.path[:, ::-1])
        return Aligned(self.back, self.places, path, self.score, self.p_value, self.match.T, self.likeness.T)


class StoppedError(Exception):
    """The page was left while something was being made for it."""


@dataclass
class Board:
    """All that the page shows; any thread may ask."""

    name: str
    """Of the data set, for people."""
    root: Path
    model: Model
    checkpoint: str
    shown: list[Shown]
    phases: list[str]
    notes: list[str]
    labels: Labels | None = None
    """Where they are on disk; None where they cannot be saved."""
    cannot_save: str = ""
    """Why they cannot be."""
    known: str | None = None
    """Fingerprint of the labels that `shown` has."""
    said: str = ""
    """What is being done."""
    _aligned: dict[tuple[int, int], Aligned] = field(default_factory=dict)
    _wanted: int = 0
    """The video that is aligned with all others first."""
    _moments: dict[str, Moments] = field(default_factory=dict)
    """By action."""
    _change: threading.Condition = field(default_factory=threading.Condition)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _pictures: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Begin to work: films in one thread, embeddings and alignments in another."""
        for name, work in (("films", self._make_films), ("alignments", self._compute)):
            thread = threading.Thread(target=self._behind, args=(work,), name=f"lacray-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Stop working; what is half made is left out."""
        self._stop.set()
        with self._change:
            self._change.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)

    # -- what the page asks for

    def want(self, number: int) -> None:
        """Align a video with all others before anything else."""
        with self._change:
            self._wanted = number
            self._change.notify_all()

    def aligned(self, a: int, b: int) -> Aligned | None:
        """The alignment of two videos, if it has been made."""
        found = self._aligned.get((min(a, b), max(a, b)))
        return found if found is None or a < b else found.turned()

    def wait_for(self, number: int, seconds: float) -> bool:
        """Wait until a video is aligned with all others that can be; whether it is."""
        self.want(number)
        with self._change:
            return self._change.wait_for(lambda: self._stop.is_set() or self._is_aligned(number), seconds)

    def progress(self) -> dict[str, Any]:
        """How far the work is."""
        number = self._wanted
        aligned = [other for other in self._others(number) if self.aligned(number, other)]
        films_made = [number for number, shown in enumerate(self.shown) if shown.film is not None]
        return {
            "films": films_made,
            "embedded": [number for number, shown in enumerate(self.shown) if shown.embedded is not None],
            "reference": number,
            "aligned": aligned,
            "trouble": {number: shown.trouble for number, shown in enumerate(self.shown) if shown.trouble},
            "said": self.said,
            "busy": not self._is_aligned(number) or len(films_made) < sum(not shown.trouble for shown in self.shown),
        }

    def carry(self, number: int, start: int, stop: int) -> list[dict[str, Any]]:
        """A segment of one video in all others of its action, by their alignments: where it is, and how much of it was
        matched.
        """
        found = []
        for other in self._others(number):
            aligned = self.aligned(number, other)
            if aligned is None:
                continue
            share = float(np.mean(~np.isnan(aligned.places[start:stop])))
            with np.errstate(invalid="ignore"):
                inside = np.flatnonzero((aligned.back >= start) & (aligned.back < stop))
            entry: dict[str, Any] = {"video": other, "share": share, "p": aligned.p_value}
            if len(inside) and share >= CARRIED_SHARE:
                entry |= {"start": int(inside[0]), "stop": int(inside[-1]) + 1}
            found.append(entry)
        return found

    def nearest(self, number: int, frame: int, num: int) -> list[Moment]:
        """The moments of other videos that are most like one, one a video; of those of its action that are embedded."""
        asked, action = self.shown[number].embedded, self.shown[number].action
        calibration = self.model.calibration
        if asked is None or calibration is None:
            return []
        with self._change:
            own = [shown.embedded for shown in self.shown if shown.action == action]
            ready = [embedded for embedded in own if embedded is not None]
            moments = self._moments.get(action)
            if moments is None or len(moments.videos) != len(ready):
                moments = self._moments[action] = Moments(ready, calibration.measure)
        return moments.most_like(asked.embeddings[frame], num, per_video=1, without=asked.name)

    def number_of(self, name: str) -> int:
        """The place of a video on the page."""
        return next(number for number, shown in enumerate(self.shown) if shown.item.name == name)

    def picture(self, number: int, frame: int, longest: int) -> bytes:
        """A frame as JPEG, of the film where it is there and large enough, else of the video itself.

        Raises:
            UnreadableVideoError: it cannot be decoded.
        """
        shown = self.shown[number]
        is_enough = shown.film is not None and longest <= films.LONGEST
        path = str(shown.film) if is_enough else shown.path
        scale = min(1.0, longest / max(shown.height, shown.width))
        size = (max(1, round(shown.height * scale)), max(1, round(shown.width * scale)))
        # One at a time: a browser asks for many, and each decodes with several threads.
        with self._pictures:
            picture = decode(path, np.array([frame]), size=size)[0]
        out = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(out, "JPEG", quality=85)
        return out.getvalue()

    # -- labels

    def read_labels(self) -> None:
        """Take the labels as they are on disk, where those of the page are others.

        Raises:
            DataError: they cannot be read.
        """
        if self.labels is None or (known := self.labels.fingerprint()) == self.known:
            return
        marks = self.labels.marks([shown.clip for shown in self.shown])
        for shown in self.shown:
            shown.marks = marks.get(shown.item.name, [])
        named = [mark.phase for shown in self.shown for mark in shown.marks]
        self.phases = list(dict.fromkeys([*self.phases, *named]))
        self.known = known

    # -- the work behind the page

    def _behind(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            work()
        except StoppedError:
            return
        except Exception as error:
            # The page must not wait for ever for what will not come.
            self.said = f"the work behind the page was stopped by an error: {error}"
            raise

    def _tell(self, text: str) -> None:
        if self._stop.is_set():
            raise StoppedError
        self.said = text

    def _make_films(self) -> None:
        for number in range(len(self.shown)):
            shown = self.shown[number]
            if shown.trouble:
                continue

            def tell(done: int, total: int, number: int = number) -> None:
                self._tell(
                    f"preparing video {number + 1} of {len(self.shown)} for the browser: {100 * done // total} %"
                )

            try:
                shown.film = films.make_film(shown.path, progress=tell)
            except (UnreadableVideoError, OSError) as error:
                shown.trouble = f"cannot be shown ({error})"
            except films.NoEncoderError:
                self.notes.append("no H.264 encoder in this build of PyAV: videos are shown as single pictures")
                return
        self._tell("")

    def _compute(self) -> None:
        while not self._stop.is_set():
            if self._align_one() or self._embed_one():
                with self._change:
                    self._change.notify_all()
                continue
            with self._change:
                self._change.wait_for(lambda: self._stop.is_set() or self._next_pair() is not None)

    def _embed_one(self) -> bool:
        """Embed the video that is wanted, else the first that has no embeddings; whether there was one."""
        order = [self._wanted, *range(len(self.shown))]
        number = next((n for n in order if self.shown[n].embedded is None and not self.shown[n].trouble), None)
        if number is None:
            return False
        shown = self.shown[number]

        def tell(what: str, done: int, total: int) -> None:
            self._tell(f"embedding video {number + 1} of {len(self.shown)}: {100 * done // max(total, 1)} %")

        try:
            found = read_item(self.model, shown.item, told=tell)
        except DataError as error:
            shown.trouble = f"cannot be embedded ({error.problems[0]})"
            return True
        if len(found) != len(shown):
            shown.trouble = f"has {len(shown)} frames, and its features {len(found)}"
            return True
        shown.embedded = found
        return True

    def _next_pair(self) -> tuple[int, int] | None:
        """The next two videos to be aligned: the wanted one with those that are ready, in the order of the page."""
        wanted = self._wanted
        if self.shown[wanted].embedded is None:
            return None
        for number in self._others(wanted):
            shown = self.shown[number]
            pair = (min(wanted, number), max(wanted, number))
            if shown.embedded is not None and not shown.trouble and pair not in self._aligned:
                return pair
        return None

    def _is_aligned(self, number: int) -> bool:
        # What cannot be read is aligned with nothing, and nothing is waited for.
        if self.shown[number].trouble:
            return True
        return all(self.shown[other].trouble or self.aligned(number, other) for other in self._others(number))

    def _others(self, number: int) -> list[int]:
        """The videos that one is compared with: all others of its action."""
        action = self.shown[number].action
        return [other for other, shown in enumerate(self.shown) if other != number and shown.action == action]

    def _align_one(self) -> bool:
        pair = self._next_pair()
        if pair is None:
            return False
        a, b = (self.shown[number].embedded for number in pair)
        assert a is not None
        assert b is not None
        self._tell(f"aligning video {pair[0] + 1} with video {pair[1] + 1}")
        self._aligned[pair] = align(self.model, a, b)
        return True


def align(model: Model, a: EmbeddedVideo, b: EmbeddedVideo) -> Aligned:
    """The alignment of two videos as the page shows it."""
    stride = max(1, -(-max(len(a), len(b)) // MOST_ALIGNED))
    found = model.align(a, b, stride=stride)
    calibration = model.calibration
    assert calibration is not None
    likeness = calibration(calibration.measure(a.embeddings[::stride], b.embeddings[::stride]))
    darkness = np.clip(128 + likeness * (127 / LOG_ODDS), 0, 255)
    return Aligned(
        places=found.a_to_b.astype(np.float32),
        back=found.b_to_a.astype(np.float32),
        path=found.path.astype(np.int32),
        score=found.score,
        p_value=found.p_value,
        match=pooled(np.sqrt(np.clip(found.match, 0, 1)) * 255),
        likeness=pooled(darkness),
    )


def pooled(table: NDArray[Any], most: int = TABLE) -> NDArray[np.uint8]:
    """A table (N, M) of 0..255 with `most` rows and columns at most, each cell the largest of what lies in it."""
    for axis in (0, 1):
        length = table.shape[axis]
        if length > most:
            starts = (np.arange(most) * length) // most
            table = np.maximum.reduceat(table, starts, axis=axis)
    return np.round(table).astype(np.uint8)


def open_board(
    folder: Folder, model: Model, checkpoint: str, root: Path, *, follow_links: bool = False, cannot_save: str = ""
) -> Board:
    """The page of a folder.

    Args:
        root: of the folder, as a path.
        follow_links: also show videos that links lead to outside of it.
        cannot_save: why labels cannot be saved.

    Raises:
        DataError: none of its videos can be shown, or its labels cannot be read.
    """
    inside = f"{os.path.realpath(root).rstrip(os.sep)}{os.sep}"
    shown: list[Shown] = []
    left_out = list(folder.left_out)
    for item in folder.items:
        video = folder.videos[item.name]
        marks = marks_of(video.labels, folder.phases[video.action])
        try:
            if item.film is None:
                raise UnreadableVideoError("its features are there, but no video to be shown")
            if not follow_links and not os.path.realpath(item.film).startswith(inside):
                raise UnreadableVideoError("leads out of the folder; --follow-links shows it all the same")
            shown.append(_shown(item, item.film, video, marks))
        except UnreadableVideoError as error:
            left_out.append(f"{item.name}: {error}")
    if not shown:
        raise DataError([f"{root}: has no video that can be shown", *left_out])
    notes = [*folder.notes, *(f"left out, {line}" for line in left_out)]
    phases = list(dict.fromkeys(phase for own in folder.phases.values() for phase in own))
    board = Board(
        name=Path(folder.root).name or str(root),
        root=root,
        model=model,
        checkpoint=checkpoint,
        shown=shown,
        phases=phases,
        notes=notes,
        labels=None if cannot_save else Labels(root, folder.tier),
        cannot_save=cannot_save,
    )
    board.read_labels()
    return board


def _shown(item: Item, film: str, video: Video, marks: list[Mark]) -> Shown:
    clock = source_of(film).clock()
    if len(clock.times) != video.num_frames:
        raise UnreadableVideoError(f"has {len(clock.times)} frames, and its features {video.num_frames}")
    index = frame_index(film)
    times = np.maximum.accumulate(clock.times)
    end = float(times[-1]) + max(clock.frame, 1e-3)
    falls = bool((np.diff(clock.times) < 0).any())
    return Shown(item, film, times, end, index.height, index.width, marks, action=video.action, falls=falls)
