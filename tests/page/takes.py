"""Videos of one procedure at different paces, whose frames say their numbers in blocks of light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import write_csv, write_video

WIDTH, HEIGHT, ROW = 96, 80, 16
"""Of a picture, and of the row below it that holds the number."""
BITS = 8
BLOCK = WIDTH // BITS
TAKES = {"take0.mp4": (12, 10, 14), "take1.mp4": (18, 9, 12), "take2.mp4": (9, 16, 10), "day 2/take3.mp4": (14, 14, 20)}
"""Frames of each phase."""
PHASES = ("across", "down", "back")


def takes(lengths: tuple[int, ...], seed: int) -> np.ndarray:
    """Frames (n, HEIGHT, WIDTH, 3): a square goes across, down and back; below it the frame's number, low bit first."""
    rng = np.random.default_rng(seed)
    pictures = []
    for phase, length in enumerate(lengths):
        for share in (np.arange(length) + 0.5) / length:
            x, y = [(share, 0.0), (1.0, share), (1 - share, 1 - share)][phase]
            picture = rng.integers(0, 30, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            left, top = round(x * (WIDTH - 20)), round(y * (HEIGHT - ROW - 20))
            picture[top : top + 20, left : left + 20] = (230, 200, 40)
            for bit in range(BITS):
                light = 225 if len(pictures) >> bit & 1 else 25
                picture[HEIGHT - ROW :, bit * BLOCK : (bit + 1) * BLOCK] = light
            pictures.append(picture)
    return np.stack(pictures)


def number_of(picture: np.ndarray) -> int:
    """The number in a picture (height, width, ...) of any size."""
    height, width = picture.shape[:2]
    row = picture[round(height * (1 - ROW / HEIGHT / 2)) - 1].reshape(width, -1)[:, 0]
    return sum(int(row[round((bit + 0.5) * width / BITS)] > 125) << bit for bit in range(BITS))


def write_takes(root: Path) -> Path:
    """The data set: the first take is labelled, but for its last phase."""
    segments = []
    for seed, (name, lengths) in enumerate(TAKES.items()):
        write_video(root / "videos" / name, takes(lengths, seed))
        ends = np.cumsum(lengths)
        if seed == 0:
            segments = [
                f"videos/{name},{end - length},{end},{phase}"
                for phase, length, end in zip(PHASES[:2], lengths[:2], ends[:2], strict=True)
            ]
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", segments)
    return root
