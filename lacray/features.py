"""`python -m lacray.features DIR`: frozen features of all videos, once, for `data.input=features`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

import torch

from lacray import backbone as backbones
from lacray.cli import first_of, positive, progress_bar, shell, tell, warn
from lacray.config import UserError, build
from lacray.data.arrays import read_record
from lacray.data.layouts import find_root, list_videos
from lacray.exits import advice, guarded
from lacray.extraction import DTYPES, PRECISIONS, Extracted, default_precision, extract
from lacray.text import home_expanded


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    config = build({"data.root": arguments.root}).data
    with progress_bar() as progress:
        root = find_root(config, progress)
        listing = list_videos(root, config)
    # Labels and splits may come later: only that there are videos counts here.
    if not listing.entries:
        raise UserError(listing.problems or f"{root}: has no videos")
    device = _device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    backbone = backbones.load(arguments.backbone, weights=arguments.weights, size=arguments.size)
    out = home_expanded(arguments.out) if arguments.out else root / "features"
    before = read_record(out) or {}
    precision = arguments.precision or before.get("precision") or default_precision(device)
    dtype = arguments.dtype or before.get("dtype") or "float16"
    for what, value, known in (("precision", precision, PRECISIONS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise UserError(f"{out}: {what} must be one of {', '.join(known)}, got {value!r}; remove the folder")
    tell(
        f"{len(listing.entries)} videos; {backbone.name} ({backbone.source}), {backbone.channels} channels, frames of "
        f"{backbone.size} x {backbone.size}, {precision} on {device}"
    )
    advice.text = "the same command goes on with the videos that have no features yet"
    started = time.perf_counter()
    with progress_bar() as progress:
        found = extract(
            listing.entries,
            backbone,
            out,
            precision=precision,
            dtype=dtype,
            batch=arguments.batch,
            device=device,
            progress=progress,
        )
    _tell(root, out, found, time.perf_counter() - started, len(listing.entries))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m lacray.features",
        description="Write the features of a frozen network for every frame of every video; goes on where it stood.",
    )
    result.add_argument("root", metavar="DIR", help="a folder of videos, or simpouring")
    result.add_argument(
        "--backbone",
        default="resnet50",
        metavar="NAME",
        help="a torchvision model (resnet50), timm:NAME, or a file of weights named after its torchvision model",
    )
    result.add_argument("--weights", metavar="FILE", help="of the backbone: a local file; default: the library's own")
    result.add_argument("--out", metavar="DIR", help="default: DIR/features, where data.input=features looks")
    result.add_argument("--size", type=positive, help="height and width of the frames; default: the network's own")
    result.add_argument("--batch", type=positive, default=64, help="frames at once; default: 64")
    result.add_argument("--device", help="default: a GPU where there is one, else cpu")
    result.add_argument("--precision", choices=list(PRECISIONS), help="default: bfloat16 where that is faster")
    result.add_argument("--dtype", choices=list(DTYPES), help="of the features on disk; default: float16")
    return result


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device: must be one that computes here, as cpu or cuda, got {name!r} ({reason})") from error
    return device


def _tell(root: Path, out: Path, found: Extracted, seconds: float, number: int) -> None:
    for line in first_of([f"left out, {line}" for line in found.unreadable]):
        warn(line)
    rate = f", {found.frames / seconds:.0f} frames/s" if found.written else ""
    tell(f"features: {len(found.written)} videos written{rate}, {len(found.kept)} there before ({out})")
    if len(found.unreadable) == number:
        raise UserError(f"{root}: none of the {number} videos can be read")
    if out.resolve() == (root / "features").resolve():
        tell("next:", "bold")
        tell("  " + shell("python", "-m", "lacray.train", f"data.root={root}", "data.input=features"))
    else:
        tell(f"data.input=features looks for them in {root / 'features'}, or beside the tables of another data.root")


if __name__ == "__main__":
    guarded(main)
