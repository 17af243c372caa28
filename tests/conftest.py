"""Videos and a study that several files of tests read, and how long the slow tests may take: what does not fit into
LACRAY_SLOW_MINUTES is skipped, and says so.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from commands import Studied, run
from datasets import pattern, plain, write_video
from paths import ROOT
from tiny import make_features, tiny_settings

from lacray import simpouring

STARTED = time.monotonic()
# A shell's background job ignores Ctrl-C, and so would all commands that it starts: those under test shall hear it.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
# Slow tests in the order in which they may not be missed: what users type, then what may befall it.
SLOW_FIRST = ("tests/test_readme.py", "tests/test_entry_points.py", "tests/faults/")


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


@pytest.fixture(scope="session")
def pouring(tmp_path_factory) -> Path:
    """SimPouring of five videos, 64 pixels wide; only to be read."""
    return simpouring.ensure(tmp_path_factory.mktemp("pouring"), num_train=4, num_val=1, size=64)


@pytest.fixture(scope="session")
def studied(tmp_path_factory) -> Studied:
    """A user's folder after the first command, on a small data set; no test takes away what another finds there."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("analysis", "search_spaces", "cluster.yaml"):
        (folder / name).symlink_to(ROOT / name)
    make_features(folder / "clips")
    # A relative path: workers have another working directory than the user.
    settings = [*tiny_settings(Path("clips")), "encoder.dropout=0"]
    return Studied(folder, run("-m", "lacray.tune", "--trials", "3", "--concurrent", "1", *settings, cwd=folder))


@pytest.fixture(scope="session")
def best_trained(studied: Studied) -> str:
    """What the training of that study's best says, of two seeds."""
    return run("-m", "lacray.train", "--best", "--study", "lac", "--seeds", "2", cwd=studied.folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("slow") is None:
            return -1
        return next((n for n, name in enumerate(SLOW_FIRST) if item.nodeid.startswith(name)), len(SLOW_FIRST))

    items.sort(key=place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = float(os.environ.get("LACRAY_SLOW_MINUTES", "inf"))
    if item.get_closest_marker("slow") and time.monotonic() - STARTED > 60 * minutes:
        pytest.skip(f"over LACRAY_SLOW_MINUTES={minutes:g}; alone: pytest -m slow {item.nodeid}")
