"""`python -m lacray.show CHECKPOINT`: how a trained encoder aligns two videos, as a picture."""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from lacray.checkpoint import load_encoder
from lacray.cli import tell
from lacray.config import Config, LacConfig, UserError
from lacray.data import FrameStore, Video, open_videos
from lacray.data.names import Names
from lacray.data.sources import source_of
from lacray.encoder import Encoder
from lacray.exits import guarded
from lacray.losses.parts import similarity
from lacray.ops import soft_sw
from lacray.results import open_checkpoint
from lacray.text import home_expanded

NUM_SHOWN = 7


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        encoder, config = load_encoder(open_checkpoint(arguments.checkpoint, Path(scratch)))
    data = config.data.model_copy(update={"root": arguments.root or config.data.root})
    videos = open_videos(data)
    known = {video.name: video for video in videos.val + videos.training}
    found = [Names(known).find(name) for name in arguments.videos] or [[name] for name in list(known)[:2]]
    if [len(names) for names in found] != [1, 1]:
        example = shlex.join(list(known)[:2])
        given = ", ".join(arguments.videos) or f"{len(known)} videos"
        raise UserError(f"videos: must be two of {videos.root}, got {given}; for example {example}")
    one, other = (known[name] for (name,) in found)
    figure = draw(config, one, other, alignment(encoder, config, one, other))
    out = home_expanded(arguments.out)
    figure.savefig(out, dpi=110)
    tell(f"picture: {out}")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m lacray.show", description="Picture of the alignment of two videos."
    )
    result.add_argument("checkpoint", help="of python -m lacray.train: a file or s3://...")
    result.add_argument("videos", nargs="*", help="two of the data set; default: the first two of the val split")
    result.add_argument("--root", help="data set; default: the one it was trained on")
    result.add_argument("--out", default="alignment.png", help="picture to write")
    return result


def alignment(encoder: Encoder, config: Config, one: Video, other: Video) -> np.ndarray:
    """Probability that frame i of the one video is matched to frame j of the other, (N, M).

    It is the derivative of the alignment score with respect to the similarity.
    """
    loss = config.loss
    if not isinstance(loss, LacConfig):
        raise UserError(f"checkpoint: must be of a loss that aligns locally (loss.name=lac), got {loss.name}")
    store = FrameStore(config.data)
    codes = []
    with torch.no_grad():
        for video in (one, other):
            frames = torch.from_numpy(store.read(video, np.arange(video.num_frames)))[None]
            code = encoder(frames)
            codes.append(torch.nn.functional.normalize(code, dim=-1) if loss.normalize else code)
        table = similarity(*codes, kind=loss.similarity, eps=loss.similarity_eps)
    # Around its mean, so that frames that are less alike than usual are worth leaving out of a local alignment.
    table = (table - table.mean()).requires_grad_()
    score, _ = soft_sw(table, loss.gap_open, loss.gap_extend, gamma=loss.gamma)
    (matched,) = torch.autograd.grad(score.sum(), table)
    return matched[0].numpy()


def draw(config: Config, one: Video, other: Video, matched: np.ndarray) -> Figure:
    """Frames of the one video above the frames of the other that they are matched to, and the table of all matches."""
    has_pictures = config.data.input == "videos"
    figure = plt.figure(figsize=(10, 2.9) if has_pictures else (5, 4), layout="constrained")
    rows = figure.add_gridspec(2, NUM_SHOWN + 3) if has_pictures else figure.add_gridspec(1, 1)
    axes = figure.add_subplot(rows[:, :3] if has_pictures else rows[0, 0])
    axes.imshow(matched, cmap="magma", vmin=0, vmax=max(float(matched.max()), 1e-6), aspect="auto")
    axes.set_xlabel(f"frame of {Path(other.name).stem}")
    axes.set_ylabel(f"frame of {Path(one.name).stem}")
    axes.set_title("probability of a match", fontsize=9)
    if not has_pictures:
        return figure
    inside = np.flatnonzero(matched.sum(axis=1) > 0.05)
    inside = inside if len(inside) else np.arange(len(matched))
    shown = inside[np.linspace(0, len(inside) - 1, NUM_SHOWN).round().astype(int)]
    partners = matched[shown].argmax(axis=1)
    for row, (video, frames) in enumerate(((one, shown), (other, partners))):
        pictures = source_of(video.path).read(frames, size=None)
        for column, (frame, picture) in enumerate(zip(frames, pictures, strict=True)):
            place = figure.add_subplot(rows[row, 3 + column])
            place.imshow(picture.transpose(1, 2, 0))
            place.set_title(str(frame), fontsize=8)
            place.axis("off")
    return figure


if __name__ == "__main__":
    guarded(main)
