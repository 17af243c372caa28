"""Memory and seconds against the length of a video: `python benchmarks/long_videos.py`.

embed: a video file of n frames (64 px, drawn here) through the default encoder. The floor is the backbone alone, on as
many frames that are in memory already; the peer, up to 8192 frames, is torch's own encoder layer.
evaluate: every metric, both protocols, of two training and two scored videos of n frames, as features.

Memory is the peak of resident memory of a process of its own, less what it held before it began. 54 000 frames are 30
minutes at 30 frames a second. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
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
from torch import nn

from lacray.config import Config, build
from lacray.data import open_videos
from lacray.embedding import embed_file, evaluate
from lacray.encoder import TimeLayer, build_encoder

SIZE = 64
PEER_UP_TO = 8192
CHANNELS = 64
PHASES = 5


def write_video(path: Path, frames: int) -> None:
    """A bright square that wanders over noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (16, SIZE, SIZE, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = noise[number % len(noise)].copy()
            row, column = (int((SIZE - 16) * (1 + np.sin(number / period)) / 2) for period in (90, 230))
            picture[row : row + 16, column : column + 16] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_features(root: Path, frames: int) -> None:
    """Two training and two val videos that wander about the centres of their phases."""
    rng = np.random.default_rng(0)
    (root / "features").mkdir(parents=True)
    centres = rng.normal(size=(PHASES, CHANNELS))
    with (root / "segments.csv").open("w") as segments, (root / "splits.csv").open("w") as splits:
        tables = csv.writer(segments), csv.writer(splits)
        tables[0].writerow(("video", "start_frame", "end_frame", "phase"))
        tables[1].writerow(("video", "split"))
        for number in range(4):
            name = f"videos/clip{number}.mp4"
            ends = np.sort(rng.choice(np.arange(1, frames), PHASES - 1, replace=False)).tolist()
            labels = np.searchsorted(ends, np.arange(frames), side="right")
            values = centres[labels] + rng.normal(size=(frames, CHANNELS))
            np.save(root / "features" / f"clip{number}.npy", values.astype(np.float16))
            for phase, (start, end) in enumerate(zip([0, *ends], [*ends, frames], strict=True)):
                tables[0].writerow((name, start, end, f"phase{phase}"))
            tables[1].writerow((name, "train" if number < 2 else "val"))


def measured(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    before, start = peak_gib(), time.perf_counter()
    found = run()
    return {"seconds": time.perf_counter() - start, "peak_gib": peak_gib(), "own_gib": peak_gib() - before, **found}


def embed(path: Path, config: Config) -> dict[str, Any]:
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder, config.data)
    few = torch.randint(0, 256, (1024, 3, SIZE, SIZE), dtype=torch.uint8)
    with torch.no_grad():
        encoder.eval()(few[None])
        start = time.perf_counter()
        encoder.codes(encoder.maps(few))
    each = (time.perf_counter() - start) / len(few)

    def run() -> dict[str, Any]:
        embeddings = embed_file(config, encoder, str(path))
        assert bool(torch.isfinite(embeddings).all())
        return {"frames": len(embeddings), "floor_s": each * len(embeddings)}

    return measured(run)


def evaluated(root: Path) -> dict[str, Any]:
    config = build({"data.root": str(root), "data.input": "features", "data.validation_share": 0.0})
    videos = open_videos(config.data)
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder, config.data, num_features=videos.num_features)

    def run() -> dict[str, Any]:
        found = evaluate(config, encoder, videos, "val")
        return {"frames": videos.val[0].num_frames, "metrics": found.metrics, "notes": found.notes}

    return measured(run)


def alone(part: str, path: Path) -> dict[str, Any]:
    """A part in a process of its own."""
    command = [sys.executable, __file__, "--alone", part, "--path", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 54_000])
    parser.add_argument("--parts", nargs="+", choices=["embed", "evaluate"], default=["embed", "evaluate"])
    parser.add_argument("--alone", choices=["embed", "peer", "evaluate"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        if arguments.alone == "peer":
            TimeLayer.forward = nn.TransformerEncoderLayer.forward  # type: ignore[method-assign]
        config = build({"data.size": SIZE})
        found = evaluated(arguments.path) if arguments.alone == "evaluate" else embed(arguments.path, config)
        print(json.dumps(found))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in arguments.lengths:
            video, features = Path(folder) / f"{frames}.mp4", Path(folder) / str(frames)
            if "embed" in arguments.parts:
                write_video(video, frames)
            if "evaluate" in arguments.parts:
                write_features(features, frames)
            for part in [*arguments.parts, *(["peer"] if "embed" in arguments.parts and frames <= PEER_UP_TO else [])]:
                rows.append({"part": part, **alone(part, features if part == "evaluate" else video)})
                own, seconds = rows[-1]["own_gib"], rows[-1]["seconds"]
                print(f"{part}, {frames} frames: {own:.2f} GiB of its own, {seconds:.1f} s", flush=True)
                for note in rows[-1].get("notes", []):
                    print(f"  {note}")
    print(json.dumps({"benchmark": "long_videos", "load": os.getloadavg()[0], "growth": growth(rows), "rows": rows}))


def growth(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """For each part, from the second longest to the longest: by what lengths, memory and seconds are multiplied."""
    found = {}
    for part in dict.fromkeys(row["part"] for row in rows):
        own = sorted((row for row in rows if row["part"] == part), key=lambda row: row["frames"])[-2:]
        if len(own) == 2:
            found[part] = {name: round(own[1][name] / own[0][name], 2) for name in ("frames", "own_gib", "seconds")}
            if "floor_s" in own[1]:
                found[part]["seconds_over_floor"] = round(own[1]["seconds"] / own[1]["floor_s"], 2)
    return found


if __name__ == "__main__":
    main()
