"""Videos that several files of tests read, and how long the slow tests may take: what does not fit into
LACRAY_SLOW_MINUTES is skipped, and says so.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from datasets import pattern, plain, write_video

STARTED = time.monotonic()


@pytest.fixture(scope="session")
def encoded(tmp_path_factory) -> Path:
    """A video of 50 frames in groups of 12 with B-frames; only to be read."""
    path = tmp_path_factory.mktemp("encoded") / "video.mp4"
    write_video(path, pattern(50))
    return path


@pytest.fixture(scope="session")
def plain_root(tmp_path_factory) -> Path:
    """A data set in the plain layout; only to be read."""
    return plain(tmp_path_factory.mktemp("plain"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = float(os.environ.get("LACRAY_SLOW_MINUTES", "inf"))
    if item.get_closest_marker("slow") and time.monotonic() - STARTED > 60 * minutes:
        pytest.skip(f"over LACRAY_SLOW_MINUTES={minutes:g}; alone: pytest -m slow {item.nodeid}")
