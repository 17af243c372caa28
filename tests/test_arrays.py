"""Arrays on disk."""

from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lacray.data.arrays import load_array, load_arrays
from lacray.data.files import write_whole


class Cycle:
    """Only the garbage collector ends it, and Python runs then: in the middle of somebody's parsing."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        sum(range(50))


@pytest.fixture
def eager_threads():
    before, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(20)
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(before)


def test_a_name_that_is_as_long_as_a_disk_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / f"{'語' * 83}.npy"
    write_whole(path, b"whole")
    assert [(other.name, other.read_bytes()) for other in tmp_path.iterdir()] == [(path.name, b"whole")]


@pytest.mark.usefixtures("eager_threads")
def test_many_threads_read_headers_at_once(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    np.savez(tmp_path / "b.npz", x=np.arange(3), y=np.array("text"))

    def read(_: int) -> tuple[float, str]:
        Cycle()
        return load_array(tmp_path / "a.npy", mapped=True)[1, 2], str(load_arrays(tmp_path / "b.npz")["y"])

    # Without a lock a few of these fail on CPython 3.11.
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(3000))) == {(5.0, "text")}
