"""Backends, and the golden vectors where they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from backends import BACKENDS, GOLDEN, SoftSw, implementation


@pytest.fixture(params=BACKENDS)
def ops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """lacray.ops, computed by one of its implementations; tensors on the CPU whatever it uses."""
    yield from implementation(request.param, monkeypatch)


@pytest.fixture
def backend(ops: SimpleNamespace) -> SoftSw:
    """soft_sw of `ops`."""
    return ops.soft_sw


@pytest.fixture
def golden() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip(f"golden vectors are not here ({GOLDEN})")
    return GOLDEN
