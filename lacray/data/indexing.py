"""Making the index of a video: from its packets where their bits can be trusted, by decoding all of it where not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from lacray.data.bitstreams import UNTOLD, Coded, reader
from lacray.data.containers import UnreadableVideoError, cpus, opened
from lacray.data.frames import FrameIndex, TroubleError, Walk, decoded, packets_of, stamp
from lacray.data.pictures import upright

PROVED = 16
"""Pictures at the head that are decoded to see an index proved."""

LONGEST_TAIL = 300
"""Packets behind the last key, beyond which the end is not decoded for a proof."""

BY_KIND = frozenset(("mpeg1video", "mpeg2video", "mpeg4"))
"""Codecs that show a picture at once if no other one is predicted from it, else before the next such picture."""

BY_TIME = frozenset(("h264", "hevc"))
"""Codecs that show pictures in an order that the times of their packets tell. All others: in the order of packets."""

TELL_TIMES = frozenset(("mov", "matroska", "flv", "mpegts", "asf", "mxf"))
"""Containers, as FFmpeg names them, that tell when every picture is shown."""


@dataclass
class _Packets:
    """What a pass over the packets of a video finds."""

    codec: str
    formats: frozenset[str]
    time_base: Fraction
    origin: int | None
    """When the file begins; None where it tells no time for that."""
    step: float
    """Between two frames, in `time_base`; 1 where the file does not tell."""
    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    is_key: list[bool] = field(default_factory=list)
    is_cut: list[bool] = field(default_factory=list)
    """Decoded for others, and cut away by an edit list."""
    coded: list[Coded] = field(default_factory=list)

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream) -> _Packets:
        time_base = stream.time_base or Fraction(1, 1000)
        start = None if container.start_time is None else Fraction(container.start_time, av.time_base)
        rate = stream.average_rate or stream.guessed_rate
        return cls(
            codec=stream.codec_context.name,
            formats=frozenset(container.format.name.split(",")),
            time_base=time_base,
            origin=None if start is None else round(start / time_base),
            step=float(1 / (rate * time_base)) if rate else 1.0,
        )

    def add(self, container: InputContainer, packet: Packet, coded: Coded) -> None:
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.stamps.append(stamp(container, packet))
        self.sizes.append(packet.size)
        self.is_key.append(packet.is_keyframe)
        self.is_cut.append(packet.is_discard)
        self.coded.append(coded)


def scan(path: str) -> FrameIndex:
    """The frames of a video: by its packets, if their bits say all and a few pictures prove it; else counted.

    Raises:
        UnreadableVideoError: no such file, no video, no frames in it, or a file that was cut off or damaged.
    """
    with opened(path) as (container, stream):
        found = _Packets.of(container, stream)
        read = reader(found.codec, stream.codec_context.extradata)
        for packet in packets_of(container, stream):
            if packet.is_corrupt and "mpegts" not in found.formats:
                raise UnreadableVideoError(f"is cut off or damaged at frame {len(found.pts)}")
            # Where two recordings are joined, a transport stream looks as if something was lost: its pictures tell.
            found.add(container, packet, read(memoryview(packet)) if read and not packet.is_corrupt else UNTOLD)
    if not found.pts:
        raise UnreadableVideoError("has no frames")
    order = _order(found)
    if order is not None and (index := _proved(path, _index(found, order))) is not None:
        return index
    return count(path)


def _order(found: _Packets) -> NDArray[np.int32] | None:
    """Packets in the order in which they are shown; None where they do not tell."""
    shown = np.array([coded.shown for coded in found.coded])
    if (shown < 0).any() or (shown > 1).any() or not shown.any():
        return None
    is_cut = np.array(found.is_cut)
    packets = np.flatnonzero((shown == 1) & ~is_cut).astype(np.int32)
    if found.codec in BY_KIND:
        if is_cut.any():
            return None
        order: list[int] = []
        waiting: list[int] = []
        for number in packets.tolist():
            if found.coded[number].is_reference:
                order += waiting
                waiting = [number]
            else:
                order.append(number)
        return np.array(order + waiting, dtype=np.int32)
    if found.codec not in BY_TIME:
        return packets
    if found.formats.isdisjoint(TELL_TIMES) or any(time is None for time in found.pts):
        return None
    times = np.array(found.pts, dtype=np.int64)
    if len(np.unique(times[packets])) < len(packets):
        return None
    # Cut at the start and at the end by one edit; what several edits do to the order, decoding has to show.
    if is_cut.any() and ((times[is_cut] >= times[packets].min()) & (times[is_cut] <= times[packets].max())).any():
        return None
    return packets[np.argsort(times[packets], kind="stable")]


def _index(found: _Packets, order: NDArray[np.int32]) -> FrameIndex:
    """An index without its size, of packets in the order in which they are shown."""
    times = _times(found, order)
    keys, ready = _keys(found, order, times)
    first = int(times.min())
    return FrameIndex(
        times=times,
        packets=order,
        stamps=np.array(found.stamps, dtype=np.int64),
        sizes=np.array(found.sizes, dtype=np.int32),
        keys=keys,
        key_times=np.array(
            [found.stamps[key] if (time := found.dts[key]) is None else time for key in keys], dtype=np.int64
        ),
        ready=ready,
        time_base=found.time_base,
        origin=first if found.origin is None else min(found.origin, first),
        height=0,
        width=0,
    )


def _times(found: _Packets, order: NDArray[np.int32]) -> NDArray[np.int64]:
    """When each frame is shown; where the file does not tell, from when it is decoded and from its neighbours."""
    told = np.array([time if (time := found.pts[number]) is not None else np.nan for number in order], dtype=float)
    if not np.isnan(told).any() and "avi" not in found.formats:
        return np.array([found.pts[number] for number in order], dtype=np.int64)
    if "avi" in found.formats:  # counts packets; what else is told is the parser's guess
        told[:] = np.nan
    decoded_at = [time for number in order if number >= 0 and (time := found.dts[number]) is not None]
    # Shown in this order: the k-th frame is shown a fixed while after the k-th is decoded.
    guess = (
        np.sort(decoded_at)
        if len(decoded_at) == len(order)
        else np.arange(len(order)) * found.step + (found.origin or 0)
    )
    known = ~np.isnan(told)
    delay = np.median(told[known] - guess[known]) if known.any() else 0
    return np.where(known, told, guess + delay).round().astype(np.int64)


def _keys(
    found: _Packets, order: NDArray[np.int32], times: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Packets that decoding can start at, and the first frame that then comes out right."""
    frame_of = {number: frame for frame, number in enumerate(order.tolist())}
    references = np.array([number for number, coded in enumerate(found.coded) if coded.is_reference])
    rises = bool((np.diff(times) > 0).all())
    keys, ready = [], []
    for key in np.flatnonzero(found.is_key).tolist():
        coded = found.coded[key]
        if coded.is_key is False or (found.dts[key] is None and found.pts[key] is None):
            continue
        whole = key
        if coded.waits:
            place = int(np.searchsorted(references, key)) + coded.waits
            if place >= len(references):
                continue
            whole = int(references[place])
        frame, shown_at = frame_of.get(whole), found.pts[whole]
        if frame is None and found.is_cut[whole]:
            frame = int(np.flatnonzero(order < key).max(initial=-1)) + 1
        elif frame is None and rises and shown_at is not None:  # the other one of two fields
            frame = int(np.searchsorted(times, shown_at))
        if frame is not None and frame < len(order):
            keys.append(key)
            ready.append(frame)
    return np.array(keys, dtype=np.int32), np.array(ready, dtype=np.int32)


def _proved(path: str, index: FrameIndex) -> FrameIndex | None:
    """The index with its size, if head and tail of the video decode as it says; None if not.

    Raises:
        UnreadableVideoError: they are damaged.
    """
    try:
        with opened(path) as (container, stream):
            walk = Walk(container, stream, index)
            num_seen = 0
            for frame, picture in walk.start(-1):
                if frame == 0:
                    index = _shown_as(index, picture)
                num_seen += 1
                if num_seen == PROVED:
                    break
            if num_seen == 0:
                return None
            _refuse_damage(index, walk.damaged)
            if num_seen < min(PROVED, len(index)):
                return None
            # A sample table tells where an mp4 ends; in other files the last pictures may be there in part.
            is_short = len(index.keys) > 0 and len(index.stamps) - index.keys[-1] <= LONGEST_TAIL
            if len(index) > PROVED and is_short and "mov" not in container.format.name.split(","):
                last = -1
                for frame, _ in walk.start(len(index.keys) - 1):
                    last = frame
                _refuse_damage(index, [n for n in walk.damaged if index.frame_of[n] >= index.ready[-1]])
                if last != len(index) - 1:
                    return None
    except TroubleError:
        return None
    return index


def _shown_as(index: FrameIndex, first: VideoFrame) -> FrameIndex:
    """The index with the size and the turn of its first picture."""
    height, width, turn = upright(first)
    return replace(index, height=height, width=width, **turn._asdict())


def _refuse_damage(index: FrameIndex, damaged: list[int]) -> None:
    if damaged:
        raise UnreadableVideoError(f"is cut off or damaged at frame {int((index.packets < min(damaged)).sum())}")


def count(path: str, *, threads: int | None = None) -> FrameIndex:
    """The frames of a video, found by decoding all of it.

    Args:
        path: the file.
        threads: of the decoder; None for as many as there are processors.

    Raises:
        UnreadableVideoError: no frames, or the file is cut off or damaged.
    """
    damaged: list[int] = []
    order: list[int] = []
    whole: set[int] = set()
    first: VideoFrame | None = None
    threads = threads or cpus()
    with opened(path, threads=threads) as (container, stream):
        # Which pictures there are does not depend on how smooth they are.
        stream.codec_context.options = {"skip_loop_filter": "all"}
        found = _Packets.of(container, stream)
        read = reader(found.codec, stream.codec_context.extradata)

        def packets() -> Iterator[tuple[int, Packet]]:
            for number, packet in enumerate(packets_of(container, stream)):
                found.add(container, packet, read(memoryview(packet)) if read else UNTOLD)
                yield number, packet

        for number, picture in decoded(stream, packets(), damaged):
            if not order:
                first = picture
            if picture.key_frame:
                whole.add(number)
            order.append(number)
    if first is None:
        raise UnreadableVideoError("has no frames")
    if damaged and threads > 1:
        return count(path, threads=1)  # tells exactly which packet is damaged
    # What comes before the first picture is the rest of a recording that began earlier.
    if broken := [number for number in damaged if number >= min(order)]:
        raise UnreadableVideoError(f"is cut off or damaged at frame {sum(number < min(broken) for number in order)}")
    if found.codec not in BY_TIME:
        for number, coded in enumerate(found.coded):
            if coded.shown < 0:
                found.coded[number] = coded._replace(is_key=number in whole)
    index = _index(found, np.array(order, dtype=np.int32))
    index = replace(_shown_as(index, first), is_counted=True)
    if min(order) >= 0 and len(set(order)) == len(order):
        return index
    # Several pictures of one packet, or of none that is known: counting alone tells them apart.
    return replace(index, packets=np.full(len(order), -1, dtype=np.int32)).without_keys()
