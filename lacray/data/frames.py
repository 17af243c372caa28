"""The frames of a video as an index lists them, and a walk through them that checks what it reads and decodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

SEEKS_BY_SHOWN = frozenset(("mov", "matroska", "flv"))
"""Containers, as FFmpeg names them, whose tables are by the time at which a frame is shown."""

DEEPEST = 32
"""Frames that a codec may hold back while it decodes others, at most."""

BEYOND = 400
"""Packets that are read past the place where a seek should have landed, in search of the wanted one."""


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The frames of a video in the order in which they are shown: n frames, of P packets, decodable from K of them."""

    times: NDArray[np.int64]
    """(n,) when each frame is shown, in `time_base`."""
    packets: NDArray[np.int32]
    """(n,) number of the packet that each frame is decoded from; -1 where that is not known."""
    stamps: NDArray[np.int64]
    """(P,) when each packet is shown, or decoded where its container tells no more: what it is known by."""
    sizes: NDArray[np.int32]
    """(P,) bytes."""
    keys: NDArray[np.int32]
    """(K,) packets that decoding can start at."""
    key_times: NDArray[np.int64]
    """(K,) when they are decoded."""
    ready: NDArray[np.int32]
    """(K,) first frame that comes out right when decoding starts there."""
    time_base: Fraction
    """Seconds."""
    origin: int
    """Where a player's clock stands at 0, in `time_base`."""
    height: int
    """Of the first frame, upright."""
    width: int
    is_swapped: bool = False
    """Of the first frame, as `mirror_x` and `mirror_y`: its turn, which is that of all that ask for none."""
    mirror_x: bool = False
    mirror_y: bool = False
    is_counted: bool = False
    """Whether every frame was decoded to find this out."""

    def __len__(self) -> int:
        return len(self.times)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """(n,) when a player shows each frame, in seconds after its start."""
        return (self.times - self.origin).astype(np.float64) * float(self.time_base)

    @property
    def nbytes(self) -> int:
        arrays = (self.times, self.packets, self.stamps, self.sizes, self.keys, self.key_times, self.ready)
        return sum(array.nbytes for array in arrays) + 4 * len(self.stamps)  # frame_of

    @cached_property
    def frame_of(self) -> NDArray[np.int32]:
        """(P,) the frame that each packet shows; -1 for none."""
        frames = np.full(len(self.stamps), -1, dtype=np.int32)
        known = self.packets >= 0
        frames[self.packets[known]] = np.flatnonzero(known)
        return frames

    def start_of(self, frame: int) -> int:
        """The key, by its place in `keys`, that decoding starts at to show a frame; -1 for the head of the file."""
        place = int(np.searchsorted(self.keys, self.packets[frame], side="right")) - 1
        while place >= 0 and self.ready[place] > frame:
            place -= 1
        return place if place >= 0 and self.keys[place] > 0 else -1

    def settled(self, frame: int) -> int:
        """The last frame to be shown of those that a frame may be predicted from: what it was made of is known then."""
        later = np.flatnonzero(self.packets[frame + 1 : frame + 1 + DEEPEST] < self.packets[frame])
        return frame + 1 + int(later[-1]) if len(later) else frame

    def without_key(self, place: int) -> FrameIndex:
        """The same frames, for a walk that does not start at key number `place`."""
        return replace(
            self,
            keys=np.delete(self.keys, place),
            key_times=np.delete(self.key_times, place),
            ready=np.delete(self.ready, place),
        )

    def without_keys(self) -> FrameIndex:
        """The same frames, for walks from the head of the file."""
        return replace(self, keys=self.keys[:0], key_times=self.key_times[:0], ready=self.ready[:0])


class TroubleError(Exception):
    """What was read or decoded is not what the index says."""


def stamp(container: InputContainer, packet: Packet) -> int:
    """What a packet is known by, besides its size."""
    if packet.pts is not None:
        return packet.pts
    # A program stream tells few times; the others are guessed anew after every seek.
    return 0 if packet.dts is None or container.format.name == "mpeg" else packet.dts


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The packets of a video stream, without empty ones: to a decoder they mean the end."""
    return (packet for packet in container.demux(stream) if packet.size > 0)


class Walk:
    """Decodes a video from its head or from a key, and checks all that it reads against the index."""

    def __init__(self, container: InputContainer, stream: VideoStream, index: FrameIndex) -> None:
        self.container, self.stream, self.index = container, stream, index
        self.position = -1
        """The last packet that was given to the decoder."""
        self.damaged: list[int] = []
        """Packets since the start that the decoder could not make sense of, in whole or in part."""

    def start(self, place: int) -> Iterator[tuple[int, VideoFrame]]:
        """Frames and their pictures from key number `place` on, without a gap; -1: from the head of a file just opened.

        Raises:
            TroubleError: the file or its pictures are not as the index says.
        """
        index = self.index
        self.damaged = []
        expected = int(index.ready[place]) if place >= 0 else 0
        packets = self._from_key(place) if place >= 0 else packets_of(self.container, self.stream)
        self.position = int(index.keys[place]) - 1 if place >= 0 else -1
        is_known = len(index) > 0 and bool(index.packets[0] >= 0)
        for number, picture in decoded(self.stream, self._checked(packets), self.damaged):
            frame = int(index.frame_of[number]) if is_known else expected
            if 0 <= frame < expected and place >= 0 and expected == index.ready[place]:
                continue  # shown before the key, from pictures before it: not right
            if frame != expected or frame >= len(index):
                raise TroubleError(f"frame {expected} is missing: there is {frame}")
            expected += 1
            yield frame, picture

    def is_far(self, frame: int, near: int) -> bool:
        """Whether a frame can be decoded from a key that lies more than `near` packets ahead."""
        key = self.index.start_of(frame)
        return key >= 0 and bool(self.index.keys[key] > self.position + near)

    def is_damaged(self, frame: int, *, late: int) -> bool:
        """Whether a frame was decoded with a damaged packet, which may be reported up to `late` packets behind it."""
        index = self.index
        place = index.start_of(frame)
        # What comes before the first picture is the rest of a recording that began earlier.
        first, ready = (index.keys[place], index.ready[place]) if place >= 0 else (index.packets[:DEEPEST].min(), 0)
        last = (int(index.packets[frame]) if index.packets[frame] >= 0 else self.position) + late
        # Pictures that are shown before the key are left out, whatever becomes of them.
        return any(first <= number <= last and not 0 <= index.frame_of[number] < ready for number in self.damaged)

    def _checked(self, packets: Iterator[Packet]) -> Iterator[tuple[int, Packet]]:
        index = self.index
        for packet in packets:
            number = self.position + 1
            if number >= len(index.stamps) or (stamp(self.container, packet), packet.size) != (
                index.stamps[number],
                index.sizes[number],
            ):
                raise TroubleError(f"packet {number} is another one")
            self.position = number
            yield number, packet

    def _from_key(self, place: int) -> Iterator[Packet]:
        """Packets from a key on, wherever the container lands when it seeks."""
        index = self.index
        wanted = index.stamps[index.keys[place]], index.sizes[index.keys[place]]
        for target, from_key in self._targets(place):
            try:
                self.container.seek(target, stream=self.stream, backward=True)
            except (av.FFmpegError, OSError):
                continue
            packets = packets_of(self.container, self.stream)
            for count, packet in enumerate(packets):
                if (stamp(self.container, packet), packet.size) == wanted:
                    yield packet
                    yield from packets
                    return
                if count > index.keys[place] - index.keys[from_key] + BEYOND:
                    break
        raise TroubleError(f"no seek lands before packet {index.keys[place]}")

    def _targets(self, place: int) -> Iterator[tuple[int, int]]:
        """Times to seek, nearest first, and the key that each is the time of."""
        index = self.index
        if not SEEKS_BY_SHOWN.isdisjoint(self.container.format.name.split(",")):
            yield int(index.stamps[index.keys[place]]), place
        yield int(index.key_times[place]), place
        for before in (1, 2, 5):
            if place >= before:
                yield int(index.key_times[place - before]), place - before


def decoded(
    stream: VideoStream, packets: Iterator[tuple[int, Packet]], damaged: list[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """Pictures with the numbers of their packets (-1: not known). Packets found damaged are added to `damaged`."""
    context = stream.codec_context
    number = -1
    for number, packet in packets:
        # Decoders hand a packet's time on to its picture and do not look at it. (Packet.opaque would be the place for
        # the number, but PyAV takes the GIL to free it, and decoder threads that free one then wait forever.)
        packet.pts = number
        try:
            pictures = context.decode(packet)
        except av.FFmpegError:
            damaged.append(number)
            continue
        yield from _named(pictures, damaged)
    try:
        pictures = context.decode(None)
    except av.FFmpegError:
        damaged.append(number)
        return
    yield from _named(pictures, damaged)


def _named(pictures: list[VideoFrame], damaged: list[int]) -> Iterator[tuple[int, VideoFrame]]:
    for picture in pictures:
        number = -1 if picture.pts is None else picture.pts
        if picture.is_corrupt:
            damaged.append(number)
        yield number, picture
