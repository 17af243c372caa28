"""A small data set for all tests of studies."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import make_features


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    return make_features(tmp_path_factory.mktemp("data") / "clips")
