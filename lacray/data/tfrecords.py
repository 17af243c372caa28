"""Videos in TFRecord files, as TCC writes them: a SequenceExample a video, a JPEG a frame. Read without TensorFlow.

A record is its length, that length's checksum, its bytes, their checksum (TensorFlow's `record_writer.h`); the bytes
are a `SequenceExample` in protobuf's wire format (TensorFlow's `example.proto`, `feature.proto`).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacray.data.containers import UnreadableVideoError
from lacray.data.discovery import shown
from lacray.data.facts import check_regular, file_state
from lacray.data.kept import KeptArrays, Key, file_key
from lacray.data.stills import PictureSource

SUFFIXES = frozenset({".tfrecord", ".tfrecords", ".tfrec"})
IN_RECORD = re.compile(rf"(.*(?:{'|'.join(map(re.escape, sorted(SUFFIXES)))}))@(\d+)", re.DOTALL | re.IGNORECASE)
"""What stands for a video: its file, and the byte at which its record begins."""

HEADER = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")
GZIP = b"\x1f\x8b"
MAX_NAME = 255
"""Letters of a video's name: as many as file systems take."""

_on_disk = KeptArrays("tfrecords", "1")


@dataclass(frozen=True)
class Record:
    """A video of a file, without its pictures."""

    offset: int
    """The byte of the file at which its record begins."""
    name: str
    starts: NDArray[np.int64]
    """(num_frames,) the byte of the file at which each picture begins."""
    sizes: NDArray[np.int64]
    """(num_frames,) bytes of each picture."""
    labels: NDArray[np.int64] | None = None
    """One a frame, where the record has some."""
    phases: tuple[str, ...] = ()
    """Names of the labels, where the record has some."""
    damage: str = ""
    """What keeps it from being used."""


class RecordedVideo(PictureSource):
    """A video in a TFRecord file; its pictures are read one by one."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        found = IN_RECORD.fullmatch(path)
        assert found is not None
        self.file, self.offset = found[1], int(found[2])

    def names(self) -> Sequence[str]:
        record = self._record()
        if record.damage:
            raise UnreadableVideoError(record.damage)
        return [f"{record.name}, picture {number}" for number in range(len(record.starts))]

    def content(self, number: int) -> bytes:
        record = self._record()
        try:
            with open(self.file, "rb") as file:
                file.seek(int(record.starts[number]))
                return file.read(int(record.sizes[number]))
        except OSError as error:
            raise UnreadableVideoError(f"cannot be read any more ({error.strerror})") from error

    def extent(self) -> int:
        return int(self._record().sizes.sum())

    def state(self) -> str:
        return file_state(self.file)

    def _record(self) -> Record:
        for record in records_in(self.file):
            if record.offset == self.offset:
                return record
        raise UnreadableVideoError(f"{Path(self.file).name} holds no record at byte {self.offset} any more")


def path_of(file: Path, record: Record) -> Path:
    """What stands for a video of a file, in place of a path."""
    return Path(f"{file}@{record.offset}")


def records_in(path: str) -> list[Record]:
    """The videos of a file, every byte of which is checked once, for as long as the file stays as it is.

    Raises:
        UnreadableVideoError: the file is not there, empty, compressed, cut off, or damaged where its records begin.
    """
    check_regular(path)
    return _kept_records(file_key(path))


@lru_cache(maxsize=1024)
def _kept_records(key: Key) -> list[Record]:
    if (values := _on_disk.load(key)) is None:
        values = _as_arrays(list(_read_records(key[0])))
        _on_disk.save(key, values)
    return _from_arrays(values)


def _read_records(path: str) -> Iterator[Record]:
    """One after the other; one video at a time is in memory."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise UnreadableVideoError("is an empty file")
        number = offset = 0
        while offset < size:
            file.seek(offset)
            header = file.read(HEADER.size)
            where = f"record {number}, at byte {offset} of {size},"
            if not number and header.startswith(GZIP):
                raise UnreadableVideoError("is compressed; unpack it with gunzip")
            if len(header) < HEADER.size:
                raise UnreadableVideoError(f"{where} is cut off; fetch the file again")
            length, told = HEADER.unpack(header)
            if _checksum(header[:8]) != told:
                if not number:
                    raise UnreadableVideoError("is no TFRecord file, or damaged at its first byte; fetch it again")
                raise UnreadableVideoError(
                    f"{where} has a damaged length: nothing behind it can be found; fetch the file again"
                )
            begin, end = offset + HEADER.size, offset + HEADER.size + length + CHECKSUM.size
            if end > size:
                raise UnreadableVideoError(f"{where} is cut off; fetch the file again")
            content = file.read(length)
            is_whole = CHECKSUM.unpack(file.read(CHECKSUM.size))[0] == _checksum(content)
            damage = "" if is_whole else f"{where} is damaged: its checksum is another; fetch the file again"
            yield _record(content, number, offset, begin, damage)
            number, offset = number + 1, end


def _checksum(content: bytes) -> int:
    """CRC-32C, masked as TFRecords are: so that a checksum of bytes that hold one stays good."""
    import google_crc32c

    crc: int = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# --- The wire format -------------------------------------------------------------------------------------------------

Span = tuple[int, int]


def _record(content: bytes, number: int, offset: int, begin: int, damage: str) -> Record:
    """A record from its bytes.

    Args:
        begin: the byte of the file at which they begin.
        damage: what is already known to be wrong with them.
    """
    empty = np.empty(0, np.int64)
    context: dict[str, list[Any]] = {}
    name = ""
    try:
        context = _features(content, _messages(content, (0, len(content)), 1))
        if _are_spans(names := context.get("name", [])):
            name = shown(content[slice(*names[0])].decode(errors="backslashreplace"))[:MAX_NAME]
        lists = _lists(content, _messages(content, (0, len(content)), 2))
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        damage = damage or f"record {number}, at byte {offset}, is no SequenceExample ({error})"
        return Record(offset, name or f"record {number}", empty, empty, damage=damage)
    length = context.get("len", [])
    frames, labels = lists.get("video", []), lists.get("frame_labels")
    where = f"record {number}, at byte {offset},"
    if not frames:
        damage = damage or f"{where} has no list `video` of pictures, as TCC's SequenceExamples have"
    elif any(len(own) != 1 or not _are_spans(own) for own in frames):
        damage = damage or f"{where} must have one picture a frame in `video`"
    elif length and length != [len(frames)]:
        damage = damage or f"{where} has {len(frames)} pictures, and says that it has {length[0]}"
    if labels is not None and any(len(own) != 1 or not isinstance(own[0], int) for own in labels):
        damage = damage or f"{where} must have one integer a frame in `frame_labels`"
    if damage:
        return Record(offset, name or f"record {number}", empty, empty, damage=damage)
    spans = np.array([own[0] for own in frames], dtype=np.int64)
    told = context.get("framelabels_string", [])
    text = content[slice(*told[0])].decode(errors="backslashreplace") if _are_spans(told) else ""
    phases = [shown(phase.strip()) for phase in text.split(",")]
    return Record(
        offset,
        name or f"record {number}",
        begin + spans[:, 0],
        spans[:, 1] - spans[:, 0],
        None if not labels else np.array([own[0] for own in labels], dtype=np.int64),
        tuple(phases) if all(phases) and len(set(phases)) == len(phases) else (),
    )


def _are_spans(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, tuple) for value in values)


def _lists(content: bytes, messages: Iterator[Span]) -> dict[str, list[list[Any]]]:
    """FeatureLists: by name, a list of features."""
    return {
        key: [_feature(content, span) for value in values for span in _messages(content, value, 1)]
        for key, values in _maps(content, messages).items()
    }


def _features(content: bytes, messages: Iterator[Span]) -> dict[str, list[Any]]:
    """Features: by name, the values of one."""
    return {key: _feature(content, values[-1]) for key, values in _maps(content, messages).items() if values}


def _maps(content: bytes, messages: Iterator[Span]) -> dict[str, list[Span]]:
    """What a map's entries (key 1, value 2) hold; the last of a key counts."""
    found: dict[str, list[Span]] = {}
    for message in messages:
        for entry in _messages(content, message, 1):
            for key in _messages(content, entry, 1):
                found[content[slice(*key)].decode()] = list(_messages(content, entry, 2))
    return found


def _feature(content: bytes, span: Span) -> list[Any]:
    """The values of a feature: the spans of bytes, or integers; floats are passed over."""
    values: list[Any] = []
    for number, kind, value in _fields(content, span):
        if number == 1 and kind == 2:
            values += _messages(content, value, 1)
        elif number == 3 and kind == 2:
            for inner, own_kind, own in _fields(content, value):
                if inner == 1 and own_kind == 2:
                    place, stop = own
                    while place < stop:
                        packed, place = _varint(content, place, stop)
                        values.append(_signed(packed))
                elif inner == 1 and own_kind == 0:
                    values.append(_signed(own))
    return values


def _messages(content: bytes, span: Span, wanted: int) -> Iterator[Span]:
    """The spans of a field of bytes, strings or messages."""
    return (value for number, kind, value in _fields(content, span) if number == wanted and kind == 2)


def _fields(content: bytes, span: Span) -> Iterator[tuple[int, int, Any]]:
    """Number, kind and value of each field of a message: a span where it is of some length, else an integer.

    Raises:
        ValueError: it is no message.
    """
    place, stop = span
    while place < stop:
        tag, place = _varint(content, place, stop)
        number, kind = tag >> 3, tag & 7
        value: Any
        if kind == 0:
            value, place = _varint(content, place, stop)
        elif kind in (1, 5):
            value, place = 0, place + (8 if kind == 1 else 4)
        elif kind == 2:
            length, place = _varint(content, place, stop)
            value, place = (place, place + length), place + length
        else:
            raise ValueError(f"field {number} of kind {kind}")
        if not number or place > stop:
            raise ValueError("a field that ends behind its message")
        yield number, kind, value


def _varint(content: bytes, place: int, stop: int) -> tuple[int, int]:
    """An integer in groups of 7 bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        if place >= stop or shift > 63:
            raise ValueError("an integer that does not end")
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


# --- On disk ---------------------------------------------------------------------------------------------------------


def _as_arrays(records: Sequence[Record]) -> dict[str, NDArray[Any]]:
    """Records as arrays of numbers and text, which need no pickle."""
    none = np.empty(0, np.int64)
    labels = [none if record.labels is None else record.labels for record in records]
    return {
        "offsets": np.array([record.offset for record in records], np.int64),
        "names": np.array([record.name for record in records], str),
        "frames": np.array([len(record.starts) for record in records], np.int64),
        "starts": np.concatenate([none, *(record.starts for record in records)]),
        "sizes": np.concatenate([none, *(record.sizes for record in records)]),
        "num_labels": np.array([-1 if r.labels is None else len(r.labels) for r in records], np.int64),
        "labels": np.concatenate([none, *labels]),
        "phases": np.array(["\n".join(record.phases) for record in records], str),
        "damages": np.array([record.damage for record in records], str),
    }


def _from_arrays(values: dict[str, NDArray[Any]]) -> list[Record]:
    records, frame, label = [], 0, 0
    for number, offset in enumerate(values["offsets"].tolist()):
        last = frame + int(values["frames"][number])
        num_labels = int(values["num_labels"][number])
        phases = str(values["phases"][number])
        records.append(
            Record(
                offset,
                str(values["names"][number]),
                values["starts"][frame:last],
                values["sizes"][frame:last],
                values["labels"][label : label + num_labels] if num_labels >= 0 else None,
                tuple(phases.split("\n")) if phases else (),
                str(values["damages"][number]),
            )
        )
        frame, label = last, label + max(num_labels, 0)
    return records
