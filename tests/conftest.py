"""How long the slow tests may take: what does not fit into LACRAY_SLOW_MINUTES is skipped, and says so."""

from __future__ import annotations

import os
import time

import pytest

STARTED = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = float(os.environ.get("LACRAY_SLOW_MINUTES", "inf"))
    if item.get_closest_marker("slow") and time.monotonic() - STARTED > 60 * minutes:
        pytest.skip(f"over LACRAY_SLOW_MINUTES={minutes:g}; alone: pytest -m slow {item.nodeid}")
