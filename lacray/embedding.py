"""Videos -> embeddings -> metrics; and the controls of every table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from lacray import distributed, evaluation
from lacray.config import Config
from lacray.data import FrameStore, Video, VideoSet
from lacray.data.sampling import context_steps
from lacray.encoder import Encoder, build_encoder, position_code
from lacray.metrics import PROTOCOLS, num_actions, of_action

Embeddings = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with (frames done, frames in all), often: who shows it chooses when."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split, with what was left out and why."""

    split: str
    """`validation` (selection) or `val` (report)."""
    metrics: dict[str, float]
    """`full.class_10`, ..., `cropped.progress`, ..., and `objective` where there are labels."""
    notes: list[str] = field(default_factory=list)
    of_actions: dict[str, float] = field(default_factory=dict)
    """Where there are several actions, of which `metrics` are the means: `action.pullup.full.class_10`, ..., and of how
    many, `num_actions.full.class_10`, ..."""


@torch.no_grad()
def evaluate(
    config: Config,
    encoder: Encoder | None,
    videos: VideoSet,
    split: str,
    *,
    device: torch.device | str = "cpu",
    store: FrameStore | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Every metric of a split under both protocols; entered by every rank, which share the videos out.

    Args:
        encoder: None scores the control "positions only": the sine-cosine code of each frame's place in its video.
        split: `validation` learns from `videos.train`, `val` from the whole train split.
        progress: called with (frames done, frames in all) of this rank's videos as they are encoded.

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
    own = everything[rank::world_size]
    tell = _Teller(progress, sum(video.num_frames for video in own))
    mine = distributed.from_each(lambda: [_embed(config, encoder, video, device, store, tell) for video in own])
    shares = distributed.gather(mine)

    def score() -> Evaluation:
        embedded = [shares[number % world_size][number // world_size] for number in range(len(everything))]
        return _score(config, videos, split, everything, embedded, num_learned=len(learned_from))

    return distributed.from_first(score)


def _score(
    config: Config,
    videos: VideoSet,
    split: str,
    everything: list[Video],
    embedded: list[tuple[Embeddings, Embeddings]],
    *,
    num_learned: int,
) -> Evaluation:
    """The evaluation of embedded videos, the first `num_learned` of which are learned from."""
    metrics: dict[str, float] = {}
    of_actions: dict[str, float] = {}
    notes: list[str] = []

    def add(prefix: str, scores: evaluation.Scores) -> None:
        metrics.update({f"{prefix}{name}": value for name, value in scores.metrics.items()})
        of_actions.update({num_actions(f"{prefix}{name}"): count for name, count in scores.num_actions.items()})
        for action, own in scores.by_action.items():
            of_actions.update({of_action(action, f"{prefix}{name}"): value for name, value in own.items()})

    for number, protocol in enumerate(PROTOCOLS):
        # float64 from here on: of one protocol at a time.
        sequences = [
            evaluation.Sequence.from_video(
                video.name,
                pair[number],
                np.arange(*_windows(config, video)[number]),
                num_frames=video.num_frames,
                labels=video.labels,
                progress=video.progress,
                action=video.action,
            )
            for video, pair in zip(everything, embedded, strict=True)
        ]
        # Small matrices: BLAS threads gain nothing, and beyond the free cores they spin against each other.
        with threadpool_limits(1):
            found = evaluation.evaluate(
                sequences[:num_learned],
                sequences[num_learned:],
                stride=config.evaluation.stride,
                draws=config.evaluation.label_draws,
                phases=videos.phases,
                notes=notes,
            )
        add(f"{protocol}.", found)
        if protocol == "cropped":
            add("", evaluation.objective(found, notes=notes))
    return Evaluation(split, metrics, list(dict.fromkeys(notes)), of_actions)


def _windows(config: Config, video: Video) -> tuple[tuple[int, int], tuple[int, int]]:
    """The frames, stop exclusive, that each protocol sees of a video."""
    cropped = evaluation.crop_window(video.labels, video.num_frames, config.evaluation.crop_seed, video.name)
    return (0, video.num_frames), cropped


def _embed(
    config: Config, encoder: Encoder | None, video: Video, device: torch.device, store: FrameStore, tell: _Teller
) -> tuple[Embeddings, Embeddings]:
    """A video's embeddings under each protocol: whole, and cut to its window BEFORE it is embedded."""
    whole, (start, stop) = _windows(config, video)
    if encoder is None:
        empty = torch.zeros(())
        mode = config.encoder.positions if config.encoder.positions != "none" else "absolute"
        lengths = (video.num_frames, stop - start)
        full, cut = (position_code(length, config.encoder.hidden, mode, None, empty)[0] for length in lengths)
        return full.numpy(), cut.numpy()
    encoder.eval()
    hidden = frame_codes(encoder, store, video, *whole, device, tell)
    crop_hidden = hidden[start:stop]
    if config.data.reach and start:
        # The cut video has no frames before its first one to be its context: only the first frames' codes are others.
        again = min(config.data.reach, stop - start)
        crop_hidden = torch.cat([frame_codes(encoder, store, video, start, start + again, device), crop_hidden[again:]])
    full, cut = (encoder.over_time(codes[None])[0].float().cpu() for codes in (hidden, crop_hidden))
    return full.numpy(), cut.numpy()


def frame_codes(
    encoder: Encoder,
    store: FrameStore,
    video: Video,
    first: int,
    stop: int,
    device: torch.device,
    tell: Callable[[int], None] | None = None,
) -> Tensor:
    """The backbone's codes (stop - first, hidden) of a video's frames, some frames at a time, each looked at once.

    Frames before `first` are no contexts: it stands for them.

    Args:
        encoder: in eval mode, on `device`; `encoder.over_time` makes embeddings of the codes.
        tell: called with the number of frames that were encoded, each time.

    Raises:
        DataError: the video can no longer be read.
    """
    codes = torch.empty(stop - first, encoder.hidden, device=device, dtype=encoder.project.weight.dtype)
    config, done = store.config, 0
    known: Tensor | None = None
    for frames in store.stream(video, first, stop):
        end = done + len(frames)
        maps = encoder.maps(torch.from_numpy(frames).to(device))
        if config.reach:
            # Of the frames before only those that the next ones still look back to.
            known = maps if known is None else torch.cat([known[-config.reach :], maps])
            steps = context_steps(np.arange(done, end), num_contexts=config.num_seen, stride=config.context_stride)
            codes[done:end] = encoder.codes(known, torch.from_numpy(steps - (end - len(known))).to(device))
        else:
            codes[done:end] = encoder.codes(maps)
        done = end
        if tell is not None:
            tell(len(frames))
    return codes


class _Teller:
    """Counts frames for who listens, if anybody does."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, frames: int) -> None:
        self.done += frames
        if self.progress is not None:
            self.progress(self.done, self.total)


@torch.no_grad()
def embed_file(
    config: Config,
    encoder: Encoder,
    path: str,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """Embeddings (frames, E) float32 of one video file, or of a file of features where the encoder takes these.

    A video of any length: pictures are read some at a time, and memory grows with the number of frames alone.

    Args:
        config: the encoder's, from `checkpoint.load_model`.
        encoder: on `device`; is in eval mode afterwards.
        progress: called with (frames done, frames in all) as they are encoded.

    Raises:
        DataError: the file cannot be read.
    """
    store = FrameStore(config.data.model_copy(update={"cache_gib": 0.0}))
    video = store.video(path)
    encoder.eval()
    codes = frame_codes(
        encoder, store, video, 0, video.num_frames, torch.device(device), _Teller(progress, video.num_frames)
    )
    return encoder.over_time(codes[None])[0].float().cpu()


def control(
    config: Config,
    videos: VideoSet,
    name: str,
    split: str,
    *,
    device: torch.device | str = "cpu",
    store: FrameStore | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """A control of every table: `untrained` (the encoder as initialised) or `positions` (the code of places alone).

    Entered by every rank, as `evaluate`.
    """
    encoder = None
    if name == "untrained":
        torch.manual_seed(config.seed)
        encoder = build_encoder(config.encoder, config.data, num_features=videos.num_features).to(device)
    return evaluate(config, encoder, videos, split, device=device, store=store, progress=progress)
