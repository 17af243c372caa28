"""Videos whose frames tell their numbers, and another tool than lacray's that writes and decodes them."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import numpy as np
import pytest

BITS, ROWS, COLUMNS = 8, 2, 4


def numbered(num_frames: int, *, width: int = 64, height: int = 48, first: int = 0) -> np.ndarray:
    """Frames (n, height, width, 3) that hold their numbers as bits, in light and dark blocks on moving texture."""
    texture = np.random.default_rng(0).integers(60, 120, (height, width, 3), dtype=np.uint8)
    frames = np.stack([np.roll(texture, (k // 2, k), (0, 1)) for k in range(num_frames)])
    for k, frame in enumerate(frames):
        for bit in range(BITS):
            frame[_block(bit, width, height, margin=2)] = 220 if (first + k) >> bit & 1 else 30
    return frames


def number_of(frame: np.ndarray) -> int:
    """The number that a frame (height, width, 3) holds, whatever it was scaled to."""
    light = frame.astype(float).mean(axis=2)
    height, width = light.shape
    return sum(
        (light[_block(bit, width, height, margin=height // 10)].mean() > 125).item() << bit for bit in range(BITS)
    )


def _block(bit: int, width: int, height: int, *, margin: int) -> tuple[slice, slice]:
    row, column = divmod(bit, COLUMNS)
    tall, wide = height // ROWS, width // COLUMNS
    return (
        slice(row * tall + margin, (row + 1) * tall - margin),
        slice(column * wide + margin, (column + 1) * wide - margin),
    )


@functools.cache
def program() -> str:
    """The ffmpeg program, of another FFmpeg than PyAV's."""
    return pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg, of the dev extra").get_ffmpeg_exe()


def ffmpeg(*arguments: object, given: bytes | None = None) -> bytes:
    command = [program(), "-hide_banner", "-loglevel", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr.decode(errors='replace')[-2000:]}"
    return done.stdout


def write(
    path: Path, *options: object, num_frames: int = 40, width: int = 64, height: int = 48, first: int = 0
) -> Path:
    """A video of numbered frames, 25 a second."""
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", 25, "-i", "-")
    frames = numbered(num_frames, width=width, height=height, first=first)
    ffmpeg(*raw, *options, path, given=frames.tobytes())
    return path


def write_twice(path: Path, *options: object, num_frames: int = 40) -> Path:
    """As `write`, by an encoder that looks at all frames first: it then hides some, for others to be predicted from."""
    log = ("-passlogfile", path.with_suffix(""))
    write(path.with_suffix(".null"), *options, *log, "-pass", 1, "-f", "null", num_frames=num_frames)
    return write(path, *options, *log, "-pass", 2, num_frames=num_frames)


def decoded_by_ffmpeg(path: Path, height: int, width: int) -> np.ndarray:
    """All frames (n, height, width, 3), upright, as the ffmpeg program shows them."""
    wanted = ("-fps_mode", "passthrough", "-s", f"{width}x{height}", "-f", "rawvideo", "-pix_fmt", "rgb24")
    raw = subprocess.run(
        [program(), "-v", "quiet", "-i", str(path), *wanted, "-"], capture_output=True, check=False
    ).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
