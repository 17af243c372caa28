"""A small data set, and a model that was trained on it, for all tests of the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from settings import train, videos_config
from takes import write_takes


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """(data set, directory of results)."""
    folder = tmp_path_factory.mktemp("page")
    root = write_takes(folder / "my takes")
    train(videos_config(root), folder / "results")
    return root, folder / "results"
