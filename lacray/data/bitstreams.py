"""What the bits of a packet tell without decoding it: how many pictures it shows, and whether decoding can start there.

A reader is made for a codec and its header; it is None for codecs that nobody here can read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple


class Coded(NamedTuple):
    """What a packet holds."""

    shown: int = 1
    """Pictures that it puts on the screen; -1 where its bits do not tell."""
    is_key: bool | None = None
    """Whether decoding can start here; None where only the container knows."""
    waits: int = 0
    """Key packets: pictures used as references that have to be decoded before the picture is whole."""
    is_reference: bool = True
    """False for pictures that no other one is predicted from."""


Reader = Callable[[memoryview], Coded]

UNKNOWN = Coded(shown=-1, is_key=False)
UNTOLD = Coded(shown=-1)

ONE_PICTURE = frozenset(
    (
        *("mjpeg", "prores", "dnxhd", "cfhd", "dvvideo", "ffv1", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "hap"),
        *("rawvideo", "v210", "png", "apng", "gif", "qtrle", "jpeg2000"),
    )
)
"""Codecs that make one picture of every packet and reorder none."""


def reader(codec: str, header: bytes | None) -> Reader | None:
    """The reader of a codec (FFmpeg's name) whose stream header is `header`; what it cannot read is UNKNOWN."""
    if codec in ONE_PICTURE:
        return lambda packet: Coded()
    if codec in ("h264", "hevc"):
        read: Reader | None = _H264(header or b"") if codec == "h264" else _Hevc(header or b"")
    else:
        read = {
            "vp8": _vp8,
            "vp9": _vp9,
            "libdav1d": _av1,
            "av1": _av1,
            "mpeg4": _mpeg4,
            "mpeg1video": _mpeg2,
            "mpeg2video": _mpeg2,
        }.get(codec)
    if read is None:
        return None

    def guarded(packet: memoryview) -> Coded:
        try:
            return read(packet)
        except (IndexError, ValueError):  # it ends too early
            return UNKNOWN

    return guarded


# ---------------------------------------------------------------------------------------------------------------------
# H.264, H.265: units behind start codes or lengths.


def _units(packet: memoryview, length_size: int) -> Iterator[memoryview]:
    """The NAL units of a packet; behind start codes where `length_size` is 0."""
    if length_size:
        position = 0
        while position + length_size < len(packet):
            length = int.from_bytes(packet[position : position + length_size])
            position += length_size
            yield packet[position : position + length]
            position += length
        return
    # Slices come last and are long: what is before the first of them lies in the first bytes.
    content = bytes(packet[:4096])
    position = content.find(b"\0\0\1")
    while position >= 0:
        following = content.find(b"\0\0\1", position + 3)
        yield packet[position + 3 : following if following >= 0 else len(packet)]
        position = following


class _Bits:
    """Bits of a NAL unit, most significant first, without the bytes that keep start codes out."""

    def __init__(self, unit: bytes) -> None:
        content = unit.replace(b"\0\0\3", b"\0\0")
        self.value, self.left = int.from_bytes(content), 8 * len(content)

    def take(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise ValueError("the unit ends too early")
        return (self.value >> self.left) & ((1 << count) - 1)

    def golomb(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


class _H264:
    def __init__(self, header: bytes) -> None:
        self.may_be_fields = False
        self.length_size = 0
        self._seen: set[bytes] = set()
        if header[:1] == b"\1" and len(header) > 6:
            self.length_size = (header[4] & 3) + 1
            position = 6
            for _ in range(header[5] & 31):
                length = int.from_bytes(header[position : position + 2])
                self._sequence(memoryview(header)[position + 2 : position + 2 + length])
                position += 2 + length
        else:
            for unit in _units(memoryview(header), 0):
                if unit and unit[0] & 31 == 7:
                    self._sequence(unit)

    def __call__(self, packet: memoryview) -> Coded:
        recovery: int | None = None
        # Without start codes in a file that promises lengths, or the other way round, no slice is found.
        for unit in _units(packet, self.length_size):
            if not unit:
                continue
            kind = unit[0] & 31
            if kind == 7:
                self._sequence(unit)
            elif kind == 6 and recovery is None:
                recovery = _recovery(bytes(unit[1:512]))
            elif 1 <= kind <= 5:
                is_key = kind == 5 or recovery is not None
                shown = -1 if self.may_be_fields else 1
                return Coded(shown, is_key, (recovery or 0) if kind != 5 else 0, bool(unit[0] & 0x60))
        return UNKNOWN

    def _sequence(self, unit: memoryview) -> None:
        """Fields may come in packets of their own where the sequence header lets pictures be fields."""
        content = bytes(unit)
        if content in self._seen:
            return
        self._seen.add(content)
        try:
            self.may_be_fields |= not _is_frames_only(_Bits(content[1:]))
        except ValueError:
            self.may_be_fields = True


def _is_frames_only(bits: _Bits) -> bool:
    """`frame_mbs_only_flag` of an H.264 sequence parameter set (ITU-T H.264, 7.3.2.1.1)."""
    profile = bits.take(8)
    bits.take(16)
    bits.golomb()
    if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
        chroma = bits.golomb()
        if chroma == 3:
            bits.take(1)
        bits.golomb()
        bits.golomb()
        bits.take(1)
        if bits.take(1):
            for number in range(8 if chroma != 3 else 12):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    bits.golomb()
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()
    bits.take(1)
    bits.golomb()
    bits.golomb()
    return bool(bits.take(1))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last, following = 8, 8
    for _ in range(size):
        if following:
            code = bits.golomb()
            following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
        last = following or last


def _recovery(messages: bytes) -> int | None:
    """Frames until a picture is whole again, by the recovery point among SEI messages; None for no such point."""
    position = 0
    while position + 2 < len(messages):
        numbers = []
        for _ in range(2):
            number = 0
            while position < len(messages) and messages[position] == 255:
                number += 255
                position += 1
            number += messages[position] if position < len(messages) else 0
            position += 1
            numbers.append(number)
        kind, size = numbers
        if kind == 6:
            try:
                return _Bits(messages[position : position + size + 1]).golomb()
            except ValueError:
                return None
        position += size
    return None


class _Hevc:
    def __init__(self, header: bytes) -> None:
        self.length_size = (header[21] & 3) + 1 if header[:1] == b"\1" and len(header) > 22 else 0

    def __call__(self, packet: memoryview) -> Coded:
        for unit in _units(packet, self.length_size):
            if len(unit) < 2:
                continue
            kind = (unit[0] >> 1) & 63
            # After the end of a sequence and after a broken link, leading pictures are left out.
            if kind == 36 or 16 <= kind <= 18:
                return Coded(shown=-1, is_key=kind != 36)
            if kind < 32 and not (unit[0] & 1 or unit[1] >> 3):
                return Coded(1, 16 <= kind <= 21)
        return UNKNOWN


# ---------------------------------------------------------------------------------------------------------------------
# VP8, VP9, AV1: pictures that are kept as references and not shown.


def _vp8(packet: memoryview) -> Coded:
    return Coded(packet[0] >> 4 & 1, not packet[0] & 1)


def _vp9(packet: memoryview) -> Coded:
    parts = [packet]
    marker = packet[-1]
    if marker & 0xE0 == 0xC0:
        count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
        table = packet[len(packet) - 2 - count * width :]
        if len(table) == 2 + count * width and table[0] == marker:
            parts, position = [], 0
            for number in range(count):
                size = int.from_bytes(table[1 + number * width : 1 + (number + 1) * width], "little")
                parts.append(packet[position : position + size])
                position += size
    shown, is_key = 0, False
    for number, part in enumerate(part for part in parts if part):
        bits = _Bits(bytes(part[:2]).ljust(2, b"\0"))
        if bits.take(2) != 2:
            return UNKNOWN
        if bits.take(1) + 2 * bits.take(1) == 3:
            bits.take(1)
        if bits.take(1):  # an earlier picture is shown
            shown += 1
            continue
        is_inter, is_shown = bits.take(1), bits.take(1)
        shown += is_shown
        is_key |= number == 0 and not is_inter
    return Coded(shown, is_key)


def _av1(packet: memoryview) -> Coded:
    position, shown, is_key, has_sequence = 0, 0, False, False
    while position < len(packet):
        head = packet[position]
        kind, has_extension, has_size = head >> 3 & 15, head >> 2 & 1, head >> 1 & 1
        position += 1 + has_extension
        size = len(packet) - position
        if has_size:
            size, shift = 0, 0
            while position < len(packet):
                byte = packet[position]
                position += 1
                size |= (byte & 127) << shift
                shift += 7
                if not byte & 128:
                    break
        if kind == 1:
            if packet[position] >> 3 & 3 == 3:  # still pictures have another header
                return UNKNOWN
            has_sequence = True
        elif kind in (3, 6) and size:
            first = packet[position]
            if first >> 7:  # an earlier picture is shown
                shown += 1
            else:
                is_key |= shown == 0 and first >> 5 & 3 == 0 and bool(first >> 4 & 1)
                shown += first >> 4 & 1
        position += size
    # A temporal unit shows one picture, or there are layers of it.
    return Coded(1, is_key and has_sequence) if shown == 1 else UNKNOWN


# ---------------------------------------------------------------------------------------------------------------------
# MPEG-1, MPEG-2, MPEG-4: pictures behind start codes.


def _starts(packet: memoryview, code: int) -> list[int]:
    content, mark, found = bytes(packet), bytes((0, 0, 1, code)), []
    position = content.find(mark)
    while position >= 0:
        found.append(position + 4)
        position = content.find(mark, position + 4)
    return found


def _mpeg2(packet: memoryview) -> Coded:
    pictures = _starts(packet, 0)
    if len(pictures) != 1 or pictures[0] + 2 > len(packet):
        return UNKNOWN
    kind = packet[pictures[0] + 1] >> 3 & 7
    return Coded(1, kind == 1 and bool(_starts(packet, 0xB8) or _starts(packet, 0xB3)), 0, kind != 3)


def _mpeg4(packet: memoryview) -> Coded:
    pictures = _starts(packet, 0xB6)
    # Two in one packet: "packed" B-frames, with an empty packet behind. A few bytes: a picture that was left out.
    if len(pictures) != 1 or len(packet) - pictures[0] < 8:
        return UNKNOWN
    kind = packet[pictures[0]] >> 6
    return Coded(1, kind == 0, 0, kind != 2)
