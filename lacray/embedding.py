"""Videos -> embeddings -> metrics; and the controls of every table."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from lacray import distributed, evaluation
from lacray.config import Config
from lacray.data import FrameStore, Video, VideoSet
from lacray.encoder import Encoder, build_encoder, position_code


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split, with what was left out and why."""

    split: str
    """`validation` (selection) or `val` (report)."""
    metrics: dict[str, float]
    """`full.class_10`, ..., `cropped.progress`, ..., and `objective` where there are labels."""
    notes: list[str] = field(default_factory=list)


@torch.no_grad()
def evaluate(
    config: Config,
    encoder: Encoder | None,
    videos: VideoSet,
    split: str,
    *,
    device: torch.device | str = "cpu",
    store: FrameStore | None = None,
) -> Evaluation:
    """Every metric of a split under both protocols; entered by every rank, which share the videos out.

    Args:
        encoder: None scores the control "positions only": the sine-cosine code of each frame's place in its video.
        split: `validation` learns from `videos.train`, `val` from the whole train split.

    Returns:
        The same on every rank.

    Raises:
        DataError: a video that can no longer be read, on every rank.
    """
    device = torch.device(device)
    store = store or FrameStore(config.data)
    learned_from, scored = (videos.train, videos.validation) if split == "validation" else (videos.training, videos.val)
    everything = learned_from + scored
    rank, world_size = distributed.rank(), distributed.world_size()
    mine = distributed.from_each(
        lambda: [_embed(config, encoder, video, device, store) for video in everything[rank::world_size]]
    )
    shares = distributed.gather(mine)

    def score() -> tuple[dict[str, float], list[str]]:
        embedded = [shares[number % world_size][number // world_size] for number in range(len(everything))]
        return _score(config, videos, embedded, num_learned=len(learned_from))

    metrics, notes = distributed.from_first(score)
    return Evaluation(split, metrics, notes)


def _score(
    config: Config,
    videos: VideoSet,
    embedded: list[tuple[evaluation.Sequence, evaluation.Sequence]],
    *,
    num_learned: int,
) -> tuple[dict[str, float], list[str]]:
    """Metrics and notes of embedded videos, the first `num_learned` of which are learned from."""
    metrics: dict[str, float] = {}
    notes: list[str] = []
    for number, protocol in enumerate(("full", "cropped")):
        sequences = [pair[number] for pair in embedded]
        # Small matrices: BLAS threads gain nothing, and beyond the free cores they spin against each other.
        with threadpool_limits(1):
            found = evaluation.evaluate(
                sequences[:num_learned],
                sequences[num_learned:],
                stride=config.evaluation.stride,
                phases=videos.phases,
                notes=notes,
            )
        metrics |= {f"{protocol}.{name}": value for name, value in found.items()}
        if protocol == "cropped" and all(name in found for name in evaluation.OBJECTIVE_METRICS):
            metrics["objective"] = evaluation.objective(found)
    return metrics, list(dict.fromkeys(notes))


def _embed(
    config: Config, encoder: Encoder | None, video: Video, device: torch.device, store: FrameStore
) -> tuple[evaluation.Sequence, evaluation.Sequence]:
    """A video's sequence under each protocol: whole, and cut to its window BEFORE it is embedded."""
    start, stop = evaluation.crop_window(video.labels, video.num_frames, config.evaluation.crop_seed, video.name)
    windows = [np.arange(video.num_frames), np.arange(start, stop)]
    if encoder is None:
        empty = torch.zeros(())
        mode = config.encoder.positions if config.encoder.positions != "none" else "absolute"
        codes = [position_code(len(steps), config.encoder.hidden, mode, None, empty)[0] for steps in windows]
    else:
        encoder.eval()
        hidden = encoder.per_frame(_frames(video, windows[0], device, store))
        crop_hidden = hidden[:, start:stop]
        if config.data.num_contexts > 1 and config.data.input == "videos":
            # The cut video has no frames before its first one to be its context.
            cut = torch.from_numpy(store.read(video, windows[1], first=start)).to(device)[None]
            crop_hidden = encoder.per_frame(cut)
        codes = [encoder.over_time(h)[0].float().cpu() for h in (hidden, crop_hidden)]
    whole, cropped = (
        evaluation.Sequence.from_video(
            video.name,
            code.numpy(),
            steps,
            num_frames=video.num_frames,
            labels=video.labels,
            progress=video.progress,
        )
        for code, steps in zip(codes, windows, strict=True)
    )
    return whole, cropped


def _frames(video: Video, steps: np.ndarray, device: torch.device, store: FrameStore) -> Tensor:
    return torch.from_numpy(store.read(video, steps)).to(device)[None]


def control(
    config: Config,
    videos: VideoSet,
    name: str,
    split: str,
    *,
    device: torch.device | str = "cpu",
    store: FrameStore | None = None,
) -> Evaluation:
    """A control of every table: `untrained` (the encoder as initialised) or `positions` (the code of places alone).

    Entered by every rank, as `evaluate`.
    """
    encoder = None
    if name == "untrained":
        torch.manual_seed(config.seed)
        encoder = build_encoder(config.encoder, config.data, num_features=videos.num_features).to(device)
    return evaluate(config, encoder, videos, split, device=device, store=store)
