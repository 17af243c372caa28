"""Arrays on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lacray.data.arrays import load_array, load_arrays


def test_many_threads_read_headers_at_once(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    np.savez(tmp_path / "b.npz", x=np.arange(3), y=np.array("text"))
    # Without a lock a few thousand of them are enough for CPython 3.11's parser to fail.
    with ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(lambda _: load_array(tmp_path / "a.npy", mapped=True)[1, 2], range(3000)))
        archives = list(pool.map(lambda _: str(load_arrays(tmp_path / "b.npz")["y"]), range(300)))
    assert set(arrays) == {5.0}
    assert set(archives) == {"text"}
