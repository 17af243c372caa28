"""Frames of videos: an index beside decoding everything, clips by decoder threads, torchcodec beside PyAV.

    python benchmarks/decoding.py                    an hour for the index, clips from 640x480 and 1920x1080
    python benchmarks/decoding.py --minutes 2        a short look
    python benchmarks/decoding.py --videos DIR       videos that are there already (and are made there if not)

torchcodec takes part where it is installed together with FFmpeg's shared libraries. Every clip is checked against the
decoding of everything. The last line of stdout is one JSON document; cpu_s is the time of all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from measuring import peak_gib

from lacray.data import video
from lacray.data.containers import opened
from lacray.data.frames import FrameIndex
from lacray.data.indexing import count, scan

RATE = 30
CLIP = 32
SIZE = 112


def write(path: Path, *, width: int, height: int, num_frames: int, options: dict[str, str]) -> None:
    """A moving pattern under noise, as hard to decode as what a camera takes."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 24, (8, height, width), dtype=np.uint8)
    down, across = np.mgrid[:height, :width]
    unfinished = path.with_stem(f"{path.stem}-unfinished")
    with av.open(str(unfinished), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            waves = 90 + 60 * np.sin((across + 3 * number) / 23) * np.cos((down - 2 * number) / 17)
            frame = np.full((height * 3 // 2, width), 128, dtype=np.uint8)
            frame[:height] = waves.astype(np.uint8) + noise[number % 8]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="yuv420p")))
        container.mux(stream.encode())
    unfinished.rename(path)


def measured(f: Callable[[], Any]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    f()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


def decode_all(path: str, threads: int) -> int:
    with opened(path, threads=threads) as (container, stream):
        return sum(1 for _ in container.decode(stream))


def of_index(path: str) -> dict[str, Any]:
    """The index from packets, by counting, and from disk, beside decoding everything."""
    index = scan(path)
    runs: dict[str, list[dict[str, float]]] = {"scan": [], "decode": []}
    for _ in range(3):
        runs["scan"].append(measured(lambda: scan(path)))
        runs["decode"].append(measured(lambda: decode_all(path, 1)))
    found: dict[str, Any] = {name: medians(several) for name, several in runs.items()}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LACRAY_CACHE"] = cache
        video.frame_index(path)
        # Another path to the same file is found on disk alone.
        found["count"] = measured(lambda: count(path))
        kept = next(Path(cache).rglob("*.npz"), None)
        found["disk_bytes"] = kept.stat().st_size if kept else 0
        if kept:
            found["load"] = measured(lambda: np.load(kept)["times"])
    return found | {
        "frames": len(index),
        "memory_bytes": index.nbytes,
        "scan_of_decode": found["scan"]["cpu_s"] / found["decode"]["cpu_s"],
    }


def with_threads(threads: int) -> Callable[[str, np.ndarray], np.ndarray]:
    def read(path: str, frames: np.ndarray) -> np.ndarray:
        video.MOST_THREADS, kept = threads, video.MOST_THREADS
        try:
            return video.decode(path, frames, size=SIZE)
        finally:
            video.MOST_THREADS = kept

    return read


def torchcodec(mode: str) -> Callable[[str, np.ndarray], np.ndarray] | None:
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize

        def read(path: str, frames: np.ndarray) -> np.ndarray:
            decoder = VideoDecoder(path, seek_mode=mode, num_ffmpeg_threads=1, transforms=[Resize((SIZE, SIZE))])
            return decoder.get_frames_at(frames.tolist()).data.numpy()

    except (ImportError, OSError, RuntimeError):
        return None
    return read


def of_clips(path: str, index: FrameIndex) -> dict[str, Any]:
    """Random clips of consecutive frames, the whole video, and opening it."""
    readers = {f"lacray, {n} thread{'s' * (n > 1)}": with_threads(n) for n in (1, 2, 4)}
    for mode in ("exact", "approximate"):
        if (read := torchcodec(mode)) is not None:
            readers[f"torchcodec, {mode}"] = read
    everything = np.arange(len(index))
    truth = video.decode(path, everything, size=SIZE)
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(index) - CLIP, 12)
    found: dict[str, Any] = {"opening": medians([measured(lambda: decode_nothing(path)) for _ in range(20)])}
    for name, read in readers.items():
        clip = read(path, np.arange(5, 5 + CLIP))
        apart = np.abs(clip.astype(int) - truth[5 : 5 + CLIP]).mean()
        assert apart < (0.01 if name.startswith("lacray") else 30), f"{name}: {apart} off"
        found[name] = {"clip": [], "whole": []}
    for start in starts.tolist():
        for name, read in readers.items():  # side by side: other people's work slows all of them
            found[name]["clip"].append(measured(lambda r=read, s=start: r(path, np.arange(s, s + CLIP))))  # type: ignore[misc]
    for _ in range(2):
        for name, read in readers.items():
            found[name]["whole"].append(measured(lambda r=read: r(path, everything)))  # type: ignore[misc]
    for name in readers:
        found[name] = {what: medians(runs) for what, runs in found[name].items()}
    return found


def decode_nothing(path: str) -> None:
    with opened(path):
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the video whose index is measured")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the videos that clips are taken from")
    parser.add_argument("--videos", type=Path, help="where videos are kept (default: a temporary folder)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    document: dict[str, Any] = {"benchmark": "decoding", "cpus": os.cpu_count(), "av": av.__version__}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.videos or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        long = folder / f"long-{arguments.minutes:g}.mp4"
        if not long.exists():
            frames = int(arguments.minutes * 60 * RATE)
            write(long, width=160, height=120, num_frames=frames, options={"preset": "ultrafast", "bf": "2"})
        document["index"] = of_index(str(long))
        print(
            f"index of {document['index']['frames']} frames: {document['index']['scan']['cpu_s']:.2f} s, "
            f"{document['index']['scan_of_decode']:.1%} of decoding everything",
            flush=True,
        )
        document["clips"] = {}
        for width, height in ((640, 480), (1920, 1080)):
            path = folder / f"clips-{width}.mp4"
            if not path.exists():
                frames = int(arguments.seconds * RATE)
                write(path, width=width, height=height, num_frames=frames, options={"preset": "veryfast"})
            found = document["clips"][f"{width}x{height}"] = of_clips(str(path), video.frame_index(str(path)))
            print(f"\n{width}x{height}: opened in {found.pop('opening')['cpu_s'] * 1e3:.1f} ms of CPU\n")
            print(f"| {CLIP} frames at {SIZE} | clip, ms CPU | ms wall | whole video, s CPU | s wall |")
            print("| --- | --- | --- | --- | --- |")
            for name, times in found.items():
                clip, whole = times["clip"], times["whole"]
                print(
                    f"| {name} | {clip['cpu_s'] * 1e3:.0f} | {clip['wall_s'] * 1e3:.0f} "
                    f"| {whole['cpu_s']:.2f} | {whole['wall_s']:.2f} |",
                    flush=True,
                )
    document["peak_gib"] = peak_gib()
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
