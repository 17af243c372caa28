"""Models that are trained once for all tests: on features whose phases can be told, and on videos."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import write_csv, write_video
from settings import features_config, train, videos_config
from tiny import make_features

from lacray.apply import Model, load

PHASES = ("across", "down", "back")
SIZE = 48


@pytest.fixture(scope="session")
def features_root(tmp_path_factory) -> Path:
    return make_features(tmp_path_factory.mktemp("apply") / "features", num_train=10, num_val=4)


@pytest.fixture(scope="session")
def features_checkpoint(features_root, tmp_path_factory) -> Path:
    config = features_config(features_root, fit__epochs=12, fit__steps_per_epoch=10, fit__evaluate_every=12)
    return train(config, tmp_path_factory.mktemp("features-results"))


@pytest.fixture
def features_model(features_checkpoint) -> Model:
    return load(features_checkpoint)


def square(x: float, y: float, rng: np.random.Generator) -> np.ndarray:
    """A picture (SIZE, SIZE, 3) of a bright square on a dark, noisy ground."""
    picture = rng.integers(0, 30, (SIZE, SIZE, 3), dtype=np.uint8)
    left, top = (round(part * (SIZE - 14)) for part in (x, y))
    picture[top : top + 14, left : left + 14] = (230, 200, 40)
    return picture


def procedure(lengths: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Pictures of a square that goes across, then down, then back up, each in so many frames."""
    rng = np.random.default_rng(seed)
    pictures = []
    for phase, length in enumerate(lengths):
        for share in (np.arange(length) + 0.5) / length:
            x, y = [(share, 0.0), (1.0, share), (1 - share, 1 - share)][phase]
            pictures.append(square(x, y, rng))
    return np.stack(pictures)


@pytest.fixture(scope="session")
def videos_root(tmp_path_factory) -> Path:
    """Eight videos of one procedure; the first two of them labelled."""
    root = tmp_path_factory.mktemp("apply") / "videos-root"
    rng = np.random.default_rng(3)
    segments, splits = [], []
    for number in range(8):
        lengths = tuple(int(length) for length in rng.integers(7, 14, size=3))
        name = f"take{number}.mp4"
        write_video(root / "videos" / name, procedure(lengths, seed=number))
        ends = np.cumsum(lengths)
        if number < 2:
            segments += [
                f"{name},{end - length},{end},{phase}" for phase, length, end in zip(PHASES, lengths, ends, strict=True)
            ]
        splits.append(f"{name},{'train' if number < 6 else 'val'}")
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", segments)
    write_csv(root / "splits.csv", "video,split", splits)
    return root


@pytest.fixture(scope="session")
def videos_checkpoint(videos_root, tmp_path_factory) -> Path:
    return train(videos_config(videos_root), tmp_path_factory.mktemp("videos-results"))


@pytest.fixture
def videos_model(videos_checkpoint) -> Model:
    return load(videos_checkpoint)


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """A cache that holds nothing."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LACRAY_CACHE", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
