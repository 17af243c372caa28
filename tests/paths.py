"""Where tests find what is not part of the project."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def shared(name: str) -> Path:
    """A file or folder of ../shared, or a skip that names it."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {Path('..') / 'shared' / name}, which is not there")
    return path
