"""TFRecords as TensorFlow writes them (`record_writer.cc`, `example.proto`): shares no code with the reader."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

# CRC-32C (Castagnoli), reflected, a byte at a time.
TABLE = []
for byte in range(256):
    value = byte
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    TABLE.append(value)


def crc32c(content: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in content:
        value = TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) % (1 << 32))


def framed(content: bytes) -> bytes:
    """One record."""
    length = struct.pack("<Q", len(content))
    return length + masked(length) + content + masked(content)


def varint(number: int) -> bytes:
    number %= 1 << 64
    groups = []
    while True:
        groups.append(number & 0x7F)
        number >>= 7
        if not number:
            break
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def message(number: int, content: bytes) -> bytes:
    """A field of bytes, text or another message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def of_bytes(*values: bytes) -> bytes:
    """A Feature that holds a BytesList."""
    return message(1, b"".join(message(1, value) for value in values))


def of_integers(*values: int, packed: bool = True) -> bytes:
    """A Feature that holds an Int64List."""
    if packed:
        return message(3, message(1, b"".join(map(varint, values))))
    return message(3, b"".join(varint(1 << 3) + varint(value) for value in values))


def of_floats(*values: float) -> bytes:
    return message(2, message(1, struct.pack(f"<{len(values)}f", *values)))


def a_map(entries: dict[str, bytes]) -> bytes:
    """The entries of a protobuf map in field 1."""
    return b"".join(message(1, message(1, key.encode()) + message(2, value)) for key, value in entries.items())


def sequence_example(
    name: str,
    pictures: Sequence[bytes],
    labels: Sequence[int] | None = None,
    *,
    length: int | None = None,
    phases: str = "",
    packed: bool = True,
    lists_first: bool = False,
) -> bytes:
    """A video as TCC has it."""
    context = {
        "len": of_integers(len(pictures) if length is None else length, packed=packed),
        "name": of_bytes(name.encode()),
        "label": of_integers(-1, packed=packed),
        "speed": of_floats(25.0),
    }
    if phases:
        context["framelabels_string"] = of_bytes(phases.encode())
    lists = {"video": b"".join(message(1, of_bytes(picture)) for picture in pictures)}
    if labels is not None:
        lists["frame_labels"] = b"".join(message(1, of_integers(label, packed=packed)) for label in labels)
    parts = [message(1, a_map(context)), message(2, a_map(lists))]
    return b"".join(reversed(parts) if lists_first else parts)


def write_tfrecord(path: Path, *examples: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(framed, examples)))
    return path
