"""The small data set, and what an undisturbed study of it comes to."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import Lab, Told, assert_no_page, assert_whole, told
from tiny import make_features


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return make_features(tmp_path_factory.mktemp("faults") / "clips", num_train=10, num_val=3)


@pytest.fixture(scope="session")
def undisturbed(data, tmp_path_factory) -> Told:
    """Five trials, one after the other: the reference of every fault."""
    lab = Lab(tmp_path_factory.mktemp("undisturbed"), data)
    said = lab.tune().wait()
    assert_no_page(said)
    assert_whole(lab)
    found = told(lab)
    assert len(found) == 5
    assert {status for status, *_ in found.values()} == {"done", "pruned"}
    return found


@pytest.fixture
def lab(data, tmp_path) -> Lab:
    return Lab(tmp_path / "lab", data)
