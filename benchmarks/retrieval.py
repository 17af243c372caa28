"""A moment looked up among many hours of embeddings: the exact search and the index, their answers and their times.

    python benchmarks/retrieval.py --frames 1000000                   exact, and by an index (needs faiss)
    python benchmarks/retrieval.py --frames 36000000 --only index     1000 hours at 10 frames a second: 9.2 GB on disk

Embeddings are random walks on a sphere, in videos of 6000 frames: neighbours in time are alike, as those of videos are.
The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measuring import peak_gib, quartiles
from numpy.typing import NDArray

from lacray.apply.index import EXACT, Nearest, write_index

LENGTH = 6000


def videos(frames: int, size: int) -> Iterator[NDArray[np.float32]]:
    """Unit vectors, video by video."""
    for number, start in enumerate(range(0, frames, LENGTH)):
        rng = np.random.default_rng(number)
        steps = rng.normal(size=(min(LENGTH, frames - start), size)).astype(np.float32) * 0.15
        steps[0] = rng.normal(size=size)
        walk = np.cumsum(steps, axis=0)
        yield walk / np.linalg.norm(walk, axis=1, keepdims=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Times of looking up a moment.")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--only", choices=["exact", "index"])
    parser.add_argument("--folder", type=Path, help="keep the index there, and take it from there")
    arguments = parser.parse_args()
    rng = np.random.default_rng(-1 % 2**32)
    chosen = np.sort(rng.choice(arguments.frames, arguments.queries, replace=False))
    queries = []
    start = 0
    for video in videos(arguments.frames, arguments.size):
        inside = chosen[(chosen >= start) & (chosen < start + len(video))] - start
        noise = rng.normal(size=(len(inside), arguments.size)).astype(np.float32) * 0.02
        queries += list(video[inside] + noise)
        start += len(video)
    about: dict[str, object] = {"frames": arguments.frames, "size": arguments.size, "exact_up_to": EXACT}
    answers: dict[str, list[NDArray[np.int64]]] = {}

    def ask(name: str, index: Nearest) -> None:
        index.search(queries[0], 10)
        seconds, answers[name] = [], []
        for query in queries:
            began = time.perf_counter()
            places, _ = index.search(query, 2560)
            seconds.append(time.perf_counter() - began)
            answers[name].append(places[:10])
        about[name] = quartiles(seconds)

    if arguments.only != "index":
        ask("exact", Nearest.exact(np.concatenate(list(videos(arguments.frames, arguments.size)))))
    if arguments.only != "exact":
        folder = arguments.folder or Path(tempfile.mkdtemp()) / "index"
        began = time.perf_counter()
        if not folder.is_dir():
            write_index(folder, arguments.frames, arguments.size, lambda: videos(arguments.frames, arguments.size))
        about["build_seconds"] = time.perf_counter() - began
        about["bytes"] = sum(file.stat().st_size for file in folder.iterdir())
        began = time.perf_counter()
        index = Nearest.on_disk(folder)
        about["open_seconds"] = time.perf_counter() - began
        ask("index", index)
        if arguments.folder is None:
            shutil.rmtree(folder.parent)
    if len(answers) == 2:
        shared = [len(set(a) & set(b)) / 10 for a, b in zip(answers["exact"], answers["index"], strict=True)]
        about["recall_at_10"] = float(np.mean(shared))
    about["peak_gib"] = peak_gib()
    print(json.dumps(about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
