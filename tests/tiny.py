"""Small data sets in the plain layout, made on the spot."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

PHASES = ("reach", "lift", "place")


def make_features(root: Path, *, num_train: int = 8, num_val: int = 3, channels: int = 12, seed: int = 0) -> Path:
    """Features of videos of 24-40 frames, their phases in different directions, for `data.input: features`."""
    rng = np.random.default_rng(seed)
    (root / "features").mkdir(parents=True)
    centres = rng.normal(size=(len(PHASES), channels)) * 2
    segments, splits = [], []
    for number in range(num_train + num_val):
        name = f"videos/clip{number:02d}.mp4"
        lengths = rng.integers(8, 14, size=len(PHASES))
        labels = np.repeat(np.arange(len(PHASES)), lengths)
        features = centres[labels] + rng.normal(size=(len(labels), channels))
        np.save(root / "features" / f"clip{number:02d}.npy", features.astype(np.float16))
        ends = np.cumsum(lengths)
        starts = ends - lengths
        segments += [(name, start, end, phase) for start, end, phase in zip(starts, ends, PHASES, strict=True)]
        splits.append((name, "train" if number < num_train else "val"))
    write_csv(root / "segments.csv", ("video", "start_frame", "end_frame", "phase"), segments)
    write_csv(root / "splits.csv", ("video", "split"), splits)
    return root


def write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


TINY_ENCODER = ("encoder.hidden=16", "encoder.heads=2", "encoder.feedforward=16", "encoder.layers=1")


def tiny_settings(root: Path, *, epochs: int = 2) -> list[str]:
    """Arguments that train on `make_features` in a second or two."""
    return [
        f"data.root={root}",
        "data.input=features",
        "data.num_frames=12",
        "data.batch_size=2",
        f"fit.epochs={epochs}",
        f"fit.full_epochs={epochs}",
        "fit.evaluate_every=1",
        *TINY_ENCODER,
    ]
