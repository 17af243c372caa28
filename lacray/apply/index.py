"""Nearest neighbours among many vectors: all compared where that is quick, else by an index of faiss on disk."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lacray.config import UserError

EXACT = 4_000_000
"""Vectors that are compared one by one: 0.7 s for 128 numbers each on two cores that others use, at 2 GB of memory."""
PIECE = 1 << 18
"""Vectors that are compared in one go."""
CANDIDATES = 4096
"""Of the index, at least, that are compared exactly."""
CODE_BYTES = 32
"""Of a vector in the index."""
LEAST_CODED = 10_000
"""Vectors; fewer are kept as they are."""
PROBES = 32
"""Lists of the index that are searched."""
TRAINED_ON = 50
"""Vectors for each list of the index, drawn at random, that its lists are made from."""


LEFT_AFTER_S = 86_400.0
"""Age of what a killed process has left of an index, after which it is removed."""


class _Search(Protocol):
    def __call__(self, query: NDArray[np.float32], num: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...


class Nearest:
    """Vectors that are searched for those nearest to another one."""

    def __init__(self, num: int, search: _Search) -> None:
        self.num = num
        self.search = search
        """(E,) and how many -> their places and Euclidean distances, nearest first."""

    @classmethod
    def exact(cls, vectors: NDArray[Any]) -> Nearest:
        """All of (n, E) are compared with every query."""
        return cls(len(vectors), lambda query, num: _among(vectors, None, query, num))

    @classmethod
    def on_disk(cls, folder: Path) -> Nearest:
        """An index that `write_index` has written: its lists give candidates, which are compared exactly.

        Raises:
            UserError: faiss is not installed.
        """
        about = json.loads((folder / "about.json").read_text())
        faiss = _faiss()
        vectors = np.memmap(folder / "vectors.f16", dtype=np.float16, mode="r", shape=(about["num"], about["size"]))
        # Lists stay on disk, and the system keeps those in memory that are asked for.
        index = faiss.read_index(str(folder / "lists.faiss"), faiss.IO_FLAG_MMAP)
        faiss.extract_index_ivf(index).nprobe = PROBES

        def search(query: NDArray[np.float32], num: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            _, places = index.search(query[None], max(num, CANDIDATES))
            candidates = np.sort(places[0][places[0] >= 0])
            return _among(vectors, candidates, query, num)

        return cls(about["num"], search)


def _among(
    vectors: NDArray[Any], candidates: NDArray[np.int64] | None, query: NDArray[np.float32], num: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest of all vectors, or of some: places and distances; of equal distances the first place comes first."""
    places = np.zeros(0, dtype=np.int64)
    squared = np.zeros(0, dtype=np.float32)
    total = len(vectors) if candidates is None else len(candidates)
    for start in range(0, total, PIECE):
        chosen = (
            np.arange(start, min(start + PIECE, total)) if candidates is None else candidates[start : start + PIECE]
        )
        piece = vectors[start : start + PIECE] if candidates is None else vectors[chosen]
        piece = np.asarray(piece, dtype=np.float32)
        own = np.maximum(np.einsum("ne,ne->n", piece, piece) + query @ query - 2 * (piece @ query), 0)
        places, squared = np.concatenate([places, chosen]), np.concatenate([squared, own])
        if len(places) > num:
            kept = np.argpartition(squared, num - 1)[:num]
            places, squared = places[kept], squared[kept]
    order = np.lexsort((places, squared))
    # A product rounds off what small distances consist of: of these few they are taken again.
    places = places[order]
    exact = np.linalg.norm(np.asarray(vectors[places], dtype=np.float32) - query, axis=1)
    order = np.lexsort((places, exact))
    return places[order], exact[order]


def write_index(
    folder: Path,
    num: int,
    size: int,
    pieces: Callable[[], Iterable[NDArray[np.float32]]],
    *,
    told: Callable[[str, int, int], None] | None = None,
) -> None:
    """Write an index of many vectors; the folder appears when it is whole.

    Args:
        num, size: n and E.
        pieces: the vectors in order, some at a time; asked for once.

    Raises:
        UserError: faiss is not installed.
    """
    faiss = _faiss()
    told = told or (lambda *_: None)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*"):
        # Of one that was killed; another that writes the same now has touched its own.
        if time.time() - left.stat().st_mtime > LEFT_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _build(faiss, building, num, size, pieces(), told)
        if not folder.exists():
            building.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        # Nothing is there any more where it has its name; another process may have been first.
        shutil.rmtree(building, ignore_errors=True)


def _build(
    faiss: Any,
    building: Path,
    num: int,
    size: int,
    pieces: Iterable[NDArray[np.float32]],
    told: Callable[[str, int, int], None],
) -> None:
    vectors = np.memmap(building / "vectors.f16", dtype=np.float16, mode="w+", shape=(num, size))
    done = 0
    for piece in pieces:
        vectors[done : done + len(piece)] = piece
        done += len(piece)
        told("writing vectors", done, num)
    assert done == num
    num_lists = int(min(max(16, 2 ** round(np.log2(np.sqrt(num)))), num))
    code_bytes = next(count for count in range(min(CODE_BYTES, size), 0, -1) if size % count == 0)
    # Codes are learned from vectors, 39 for each of 256 at least.
    kept = f"PQ{code_bytes}x8" if num >= LEAST_CODED else "Flat"
    index = faiss.index_factory(size, f"IVF{num_lists},{kept}")
    sample = np.sort(
        np.random.default_rng(0).choice(num, min(num, max(TRAINED_ON * num_lists, LEAST_CODED)), replace=False)
    )
    index.train(np.asarray(vectors[sample], dtype=np.float32))
    for start in range(0, num, PIECE):
        index.add(np.asarray(vectors[start : start + PIECE], dtype=np.float32))
        told("indexing vectors", min(start + PIECE, num), num)
    faiss.write_index(index, str(building / "lists.faiss"))
    vectors.flush()
    (building / "about.json").write_text(json.dumps({"num": num, "size": size}))


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise UserError(
            f"retrieve: more than {EXACT} frames are searched by an index of faiss, which is not installed; "
            "pip install 'lacray[index]'"
        ) from error
    return faiss
