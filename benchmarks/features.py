"""Frozen features: frames a second, beside decoding alone and the network alone; is bfloat16 faster here?

    python benchmarks/features.py                       a minute of 640x480, resnet50
    python benchmarks/features.py --backbone resnet18 --seconds 20
    python benchmarks/features.py --device cuda

Weights are drawn at random: they cost the same. The features are checked against a plain loop before anything is timed.
The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from decoding import RATE, write
from measuring import peak_gib

from lacray import backbone as backbones
from lacray.backbone import FeatureNet, FrozenBackbone
from lacray.data.listing import Entry
from lacray.data.sources import source_of
from lacray.extraction import PRECISIONS, default_precision, extract


def seconds_of(f: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return found


def decode_all(path: Path, size: int) -> int:
    source = source_of(str(path))
    num_frames, _ = source.probe()
    step = 512
    return sum(
        len(source.read(np.arange(start, min(start + step, num_frames)), size=size))
        for start in range(0, num_frames, step)
    )


def check(path: Path, net: FrozenBackbone, out: Path, device: torch.device) -> None:
    """Features on disk are those of a loop over single frames."""
    pictures = torch.from_numpy(source_of(str(path)).read(np.arange(5), size=net.size))
    mean, std = (torch.tensor(values)[:, None, None] for values in (net.mean, net.std))
    with torch.no_grad():
        single = [net.module(((picture / 255 - mean) / std)[None].to(device))[0].cpu() for picture in pictures]
    stored = np.load(out / f"{path.stem}.npy")[:5].astype(np.float32)
    expected = torch.stack(single).numpy()
    # bfloat16 has 8 bits.
    off = np.linalg.norm(stored - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert off.max() < 0.02, f"features differ from the plain loop's by {off}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--seconds", type=int, default=60, help="of video")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    result: dict[str, Any] = {**vars(arguments), "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        num_frames = arguments.seconds * RATE
        write(path, width=640, height=480, num_frames=num_frames, options={"crf": "23", "preset": "veryfast"})
        weights = Path(folder) / f"{arguments.backbone}-0.pth"
        torch.manual_seed(0)
        torch.save(torchvision.models.get_model(arguments.backbone, weights=None).state_dict(), weights)
        net = backbones.load(str(weights), size=arguments.size).to(device)
        entries = [Entry("video.mp4", path, "train")]

        decoding = seconds_of(lambda: decode_all(path, arguments.size), device, arguments.repeats)
        result["decode_alone"] = num_frames / float(np.median(decoding))
        frames = torch.randint(0, 256, (arguments.batch, 3, arguments.size, arguments.size), dtype=torch.uint8)
        frames = frames.to(device)
        for precision, kind in PRECISIONS.items():
            module = FeatureNet(net, precision=kind).to(device)
            module(frames)
            times = seconds_of(partial(module, frames), device, max(arguments.repeats, 5))
            result[f"network_alone_{precision}"] = arguments.batch / float(np.median(times))
        best = default_precision(device)
        result["precision"] = best
        times = []
        for repeat in range(arguments.repeats):
            out = Path(folder) / f"features{repeat}"
            started = time.perf_counter()
            found = extract(entries, net, out, precision=best, batch=arguments.batch, device=device)
            times.append(time.perf_counter() - started)
            assert found.written == ["video.mp4"]
            check(path, net, out, device)
        result["features"] = num_frames / float(np.median(times))
        slower = min(result["decode_alone"], result[f"network_alone_{best}"])
        result["share_of_the_slower"] = result["features"] / slower
        result["peak_gib"] = peak_gib()
    for name in ("decode_alone", "network_alone_float32", "network_alone_bfloat16", "features"):
        print(f"{name:24} {result[name]:8.1f} frames/s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
