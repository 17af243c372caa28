"""A trained encoder at work: frames embedded a second, beside decoding and the network alone; 500 x 500 frames aligned,
embedded before and from their files.

    python benchmarks/apply.py                           half a minute of 640x480, the default encoder
    python benchmarks/apply.py --seconds 5 --repeats 1
    python benchmarks/apply.py encoder.name=resnet50 --device cuda

Weights are drawn at random: they cost the same. Embeddings are checked against the network's own of all frames at once,
alignments of a video with itself against what they must be. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decoding import RATE, write
from measuring import peak_gib

from lacray.apply.calibration import Calibration
from lacray.apply.chance import Chance
from lacray.apply.embedded import EmbeddedVideo
from lacray.apply.model import Model
from lacray.apply.scoring import Measure
from lacray.checkpoint import Trained
from lacray.config import build, parse_assignments
from lacray.data import FrameStore
from lacray.encoder import build_encoder
from lacray.losses import build_loss

LENGTH = 500
"""Frames of both videos that are aligned."""


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return float(np.median(found))


def of_embedding(model: Model, path: Path, repeats: int) -> dict[str, float]:
    """Frames a second: decoding alone, the network alone on pictures that are there, and both as `embed` does them."""
    store = FrameStore(model.config.data.model_copy(update={"cache_gib": 0.0}))
    video = store.video(str(path))
    encoder = model.trained.encoder
    pieces = [torch.from_numpy(frames.copy()) for frames in store.stream(video, 0, video.num_frames)]

    @torch.no_grad()
    def network() -> torch.Tensor:
        codes = torch.cat([encoder.codes(encoder.maps(piece.to(model.device))) for piece in pieces])
        return encoder.over_time(codes[None])[0]

    np.testing.assert_allclose(model.embed(path), network().float().cpu().numpy(), atol=2e-3)
    rates = {
        "decode_alone": video.num_frames
        / median_seconds(lambda: [None for _ in store.stream(video, 0, video.num_frames)], repeats),
        "network_alone": video.num_frames / median_seconds(network, repeats),
        "embed": video.num_frames / median_seconds(lambda: model.embed(path), repeats),
    }
    in_turn = 1 / (1 / rates["decode_alone"] + 1 / rates["network_alone"])
    return {**rates, "embed_to_both_in_turn": rates["embed"] / in_turn}


def of_alignment(model: Model, repeats: int) -> dict[str, float]:
    """Seconds of one alignment, end to end, of embeddings that are there; and of its similarities alone."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=(LENGTH, model.config.encoder.embedding)), axis=0).astype(np.float32)
    one, other = (EmbeddedVideo(name, walk, np.arange(LENGTH) / 25, LENGTH / 25) for name in "ab")
    found = model.align(one, other)
    np.testing.assert_array_equal(found.a_to_b, np.arange(LENGTH))
    calibration = model.calibration
    assert calibration is not None
    return {
        "align_s": median_seconds(lambda: model.align(one, other), max(repeats, 5)),
        "similarity_s": median_seconds(lambda: calibration.measure(walk, walk), max(repeats, 5)),
    }


def of_files(model: Model, one: Path, other: Path, repeats: int) -> float:
    """Seconds from two files of LENGTH frames, copies, to their alignment: both are decoded and embedded each time."""
    found = model.align(one, other)
    np.testing.assert_array_equal(found.a_to_b, np.arange(LENGTH))
    return median_seconds(lambda: model.align(one, other), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--seconds", type=int, default=30, help="of video")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    config = build(parse_assignments(arguments.settings))
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    encoder = build_encoder(config.encoder, config.data).to(device).eval()
    strict = Calibration(Measure(), (0.0, 1.0), (-2.0, 3.0), 5.0, Chance(1.0, 5.0, 0.0, 100, 0.0), 2, 1, 1)
    model = Model(Trained(encoder, build_loss(config), config, None, None, {}), strict, device, "benchmark")
    result: dict[str, Any] = {**vars(arguments), "threads": torch.get_num_threads(), "size": config.data.size}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        options = {"crf": "23", "preset": "veryfast"}
        write(path, width=640, height=480, num_frames=arguments.seconds * RATE, options=options)
        result |= of_embedding(model, path, arguments.repeats)
        one, other = (Path(folder) / name for name in ("one.mp4", "other.mp4"))
        for own in (one, other):
            write(own, width=640, height=480, num_frames=LENGTH, options=options)
        result["files_to_alignment_s"] = of_files(model, one, other, arguments.repeats)
    result |= of_alignment(model, arguments.repeats)
    result["peak_gib"] = peak_gib()
    for name in ("decode_alone", "network_alone", "embed"):
        print(f"{name:14} {result[name]:8.1f} frames/s")
    print(f"align {LENGTH} x {LENGTH} {1000 * result['align_s']:8.1f} ms")
    print(f"from two files of {LENGTH} frames {result['files_to_alignment_s']:8.2f} s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
