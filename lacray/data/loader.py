"""Videos -> batches of clips and their pairs, in an order that depends on (seed, epoch) and place alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lacray.config import DataConfig
from lacray.data import augment
from lacray.data.sampling import Steps, context_steps, frames_once, sample_steps
from lacray.data.sources import source_of
from lacray.data.video import UnreadableVideoError
from lacray.data.videoset import DataError, Video

STREAMED_FRAMES = 64
"""Frames of a streamed video that are handed out at once, with their contexts."""
PIECE_BYTES = 1 << 27
"""Pictures that are decoded in one go, at most; they are in memory twice for a moment."""
WHOLE_VIDEO = 64
"""A video of up to this many times the frames asked for is decoded whole and kept; of a longer one, only those."""


@dataclass(frozen=True)
class Batch:
    """S clips of T steps, and which of them are pairs.

    Frames that several steps see, as their own or as contexts, are there once for each clip.
    """

    frames: Tensor
    """(N, 3, H, W) uint8 pictures or (N, C) features: those that the clips need, clip by clip."""
    counts: list[int]
    """How many of `frames` are of each clip."""
    places: Tensor
    """(S, T, K) int64, which of `frames` are seen for each step, its own last; -1 in the padding."""
    steps: Tensor
    """(S, T) int64, index of each sampled frame in its video; 0 in the padding."""
    lengths: Tensor
    """(S,) int64, real steps of each clip; the rest is padding."""
    is_padded: bool
    """Whether any clip has padding; known without asking the device."""
    video_lengths: Tensor
    """(S,) int64, frames of each whole video."""
    video: Tensor
    """(S,) int64, which of the training videos a clip is of."""
    action: Tensor
    """(S,) int64, which of their actions is done in it."""
    pairs: Tensor
    """(P, 2) int64, clips of one video or of two videos of one action, which are to be aligned."""
    augmentations: list[augment.Augmentation]
    """S draws; empty for none."""
    position_shifts: Tensor | None
    """(S,) float, where each clip's positions begin; None: at 0."""
    names: list[str]
    """S names of videos."""

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        tensors: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


class FrameStore:
    """Frames of videos, or features, some at a time; decoded videos stay in memory as long as `cache_gib` has room.

    The first that fit stay. To put each in the place of another would, where not all fit, decode whole videos for a
    few frames without end.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self._kept: dict[str, NDArray[np.uint8]] = {}
        self._bytes = 0

    def video(self, path: str) -> Video:
        """A file of its own, without labels.

        Raises:
            DataError: it cannot be read.
        """
        try:
            num_frames, _ = source_of(path).probe()
        except UnreadableVideoError as error:
            raise DataError(f"{path}: {error}") from error
        return Video(path, path, num_frames, "val")

    def read(self, video: Video, frames: Steps) -> NDArray[np.generic]:
        """Pictures (n, 3, H, W) uint8, or features (n, C), of frames (n,)."""
        if self.config.input == "features":
            return self._read(video, frames)
        if video.path not in self._kept and video.num_frames <= WHOLE_VIDEO * frames.size and self._has_room(video):
            self._kept[video.path] = self._decode_whole(video)
        return self._pictures(video, frames)

    def stream(self, video: Video, first: int, stop: int) -> Iterator[NDArray[np.generic]]:
        """Frames first..stop - 1 as `read` gives them, in order, STREAMED_FRAMES at a time.

        The pictures are never all in memory, unless the cache has room for the video.
        """
        if self.config.input == "features":
            for start in range(first, stop, STREAMED_FRAMES):
                yield self._read(video, np.arange(start, min(start + STREAMED_FRAMES, stop)))
            return
        if video.path not in self._kept and (first, stop) == (0, video.num_frames) and self._has_room(video):
            self._kept[video.path] = self._decode_whole(video)
        for start, end in self._pieces(first, stop):
            pictures = self._pictures(video, np.arange(start, end))
            for begin in range(0, end - start, STREAMED_FRAMES):
                yield pictures[begin : begin + STREAMED_FRAMES]
            # Not there any more while the next ones are decoded.
            del pictures

    def _pictures(self, video: Video, steps: Steps) -> NDArray[np.uint8]:
        kept = self._kept.get(video.path)
        return kept[steps] if kept is not None else self._read(video, steps)

    def _has_room(self, video: Video) -> bool:
        return self._bytes + video.num_frames * self._picture_bytes() <= self.config.cache_gib * 2**30

    def _decode_whole(self, video: Video) -> NDArray[np.uint8]:
        size = self.config.size
        # As the decoder hands pictures over: channels last.
        frames = np.empty((video.num_frames, size, size, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
        for start, end in self._pieces(0, video.num_frames):
            frames[start:end] = self._read(video, np.arange(start, end))
        self._bytes += frames.nbytes
        return frames

    def _pieces(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """What is decoded in one go: few pieces, since each starts anew at a key frame, but of bounded size."""
        step = max(1, PIECE_BYTES // (self._picture_bytes() * STREAMED_FRAMES)) * STREAMED_FRAMES
        for start in range(first, stop, step):
            yield start, min(start + step, stop)

    def _picture_bytes(self) -> int:
        return 3 * self.config.size**2

    def _read(self, video: Video, frames: Steps) -> NDArray[Any]:
        try:
            return source_of(video.path).read(frames, size=self.config.size)
        except UnreadableVideoError as error:
            # Its first frame and all its packets were there: the damage shows only now.
            raise DataError(f"{video.path}: {error}; mend or remove it") from error


@dataclass(frozen=True)
class _Clip:
    frames: NDArray[np.generic]
    """Each that is needed, once."""
    places: Steps
    """(n, K), which of them each step sees."""
    steps: Steps
    index: int
    """Of the video."""
    augmentation: augment.Augmentation | None
    position_shift: float


_Pair = tuple[_Clip, _Clip]


class PairDataset(Dataset["_Pair | DataError"]):
    """Pairs of clips; an item's key is (epoch, place in the epoch's global order, video).

    A video that cannot be read is an item too: raised in a loader process, torch would bury it in a traceback.
    """

    def __init__(self, videos: list[Video], config: DataConfig, *, seed: int, store: FrameStore | None = None) -> None:
        self.videos, self.config, self.seed = videos, config, seed
        self.store = store or FrameStore(config)
        self._of_action: dict[str, list[int]] = {}
        for index, video in enumerate(videos):
            self._of_action.setdefault(video.action, []).append(index)
        self.action_of = [video.action for video in videos]
        # `open_videos` refuses others.
        assert config.pairing == "views" or min(map(len, self._of_action.values())) > 1

    def __getitem__(self, key: tuple[int, int, int]) -> _Pair | DataError:
        try:
            return self._pair(*key)
        except DataError as error:
            return error

    def _pair(self, epoch: int, place: int, index: int) -> _Pair:
        # One generator per place in the global order: the same clips whatever the number of workers and loaders.
        rng = np.random.default_rng((self.seed, epoch, place))
        config = self.config
        chosen = (index, self._partner(index, rng) if config.pairing == "videos" else index)
        one, other = (self.videos[number].num_frames for number in chosen)
        steps = sample_steps(config, (one, other), rng)
        is_augmented = config.augment and config.input == "videos"
        draws = [augment.draw(rng) if is_augmented else None for _ in chosen]
        # Drawn last and only where asked for: whatever else is drawn stays as it is without.
        shifts = rng.uniform(0, config.position_shift, size=2) if config.position_shift > 0 else np.zeros(2)
        one_clip, other_clip = (self._clip(*parts) for parts in zip(chosen, steps, draws, shifts.tolist(), strict=True))
        return one_clip, other_clip

    def _partner(self, index: int, rng: np.random.Generator) -> int:
        """Another video of the same action."""
        same = self._of_action[self.videos[index].action]
        other = int(rng.integers(len(same) - 1))
        return same[other + (same[other] >= index)]

    def _clip(self, index: int, steps: Steps, draw: augment.Augmentation | None, shift: float) -> _Clip:
        config = self.config
        seen = context_steps(steps, num_contexts=config.num_seen, stride=config.context_stride)
        needed, places = frames_once(seen)
        return _Clip(self.store.read(self.videos[index], needed), places, steps, index, draw, shift)


class _Collate:
    """Puts the clips of pairs together, padded to T steps."""

    def __init__(self, videos: list[Video], config: DataConfig) -> None:
        self.num_frames, self.is_shifted = config.num_frames, config.position_shift > 0
        self.names = [video.name for video in videos]
        self.lengths = [video.num_frames for video in videos]
        actions = sorted({video.action for video in videos})
        self.actions = [actions.index(video.action) for video in videos]

    def __call__(self, items: list[_Pair | DataError]) -> Batch | DataError:
        pairs = [item for item in items if not isinstance(item, DataError)]
        if len(pairs) < len(items):
            return next(item for item in items if isinstance(item, DataError))
        clips = [clip for pair in pairs for clip in pair]
        counts = [len(clip.frames) for clip in clips]
        places = np.full((len(clips), self.num_frames, clips[0].places.shape[1]), -1, dtype=np.int64)
        steps = np.zeros((len(clips), self.num_frames), dtype=np.int64)
        for number, (clip, offset) in enumerate(zip(clips, np.cumsum([0, *counts[:-1]]), strict=True)):
            places[number, : len(clip.steps)] = clip.places + offset
            steps[number, : len(clip.steps)] = clip.steps
        lengths = [len(clip.steps) for clip in clips]
        return Batch(
            frames=torch.from_numpy(np.concatenate([clip.frames for clip in clips])),
            counts=counts,
            places=torch.from_numpy(places),
            steps=torch.from_numpy(steps),
            lengths=torch.tensor(lengths),
            is_padded=min(lengths) < self.num_frames,
            video_lengths=torch.tensor([self.lengths[clip.index] for clip in clips]),
            video=torch.tensor([clip.index for clip in clips]),
            action=torch.tensor([self.actions[clip.index] for clip in clips]),
            pairs=torch.arange(len(clips)).unflatten(0, (-1, 2)),
            augmentations=[clip.augmentation for clip in clips if clip.augmentation is not None],
            position_shifts=torch.tensor([clip.position_shift for clip in clips]) if self.is_shifted else None,
            names=[self.names[clip.index] for clip in clips],
        )


def _coupled(order: list[int], action_of: Sequence[str]) -> list[int]:
    """An order in which each video is followed by the next other one of its action; at the end those that have none."""
    if len({action_of[index] for index in order}) == 1:
        return order
    found: list[tuple[int, ...]] = []
    # Of each action, the couple that waits for its second video.
    waiting: dict[str, int] = {}
    for index in order:
        action = action_of[index]
        place = waiting.get(action)
        if place is None or found[place] == (index,):
            waiting[action] = len(found)
            found.append((index,))
        else:
            del waiting[action]
            found[place] += (index,)
    return [index for own in sorted(found, key=len, reverse=True) for index in own]


def _forkserver() -> BaseContext:
    context = get_context("forkserver")
    # The server imports torch once; every loader process of every epoch would else, for seconds.
    context.set_forkserver_preload([__name__])
    return context


class PairLoader:
    """Batches of an epoch for one of `world_size` workers.

    The global order of an epoch is a permutation of the videos that depends on (seed, epoch) alone, repeated or cut to
    whole steps of `batch_size` pairs. A step is cut into `accumulate` slices, and rank r takes the r-th part of each:
    any number of workers trains on the same pairs in the same steps, with the same batches behind their batch norms,
    and an epoch can be entered anywhere.

    Args:
        in_couples: for a loss that compares the videos of a step: of several actions, each video of the order is
            followed by one of its own, which in a shuffle would be in another step.
    """

    def __init__(
        self,
        videos: list[Video],
        config: DataConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        steps_per_epoch: int = 0,
        accumulate: int = 1,
        in_couples: bool = False,
        pin_memory: bool = False,
        store: FrameStore | None = None,
    ) -> None:
        assert config.batch_size % (world_size * accumulate) == 0
        self.config, self.seed, self.rank, self.world_size = config, seed, rank, world_size
        self.in_couples, self.pin_memory = in_couples, pin_memory
        self.dataset = PairDataset(videos, config, seed=seed, store=store)
        self.pairs_per_batch = config.batch_size // (world_size * accumulate)
        self.steps_per_epoch = steps_per_epoch or max(1, len(videos) // config.batch_size)
        self.batches_per_epoch = self.steps_per_epoch * accumulate

    def order(self, epoch: int) -> list[int]:
        """Indices of the videos of an epoch, over all workers."""
        needed = self.steps_per_epoch * self.config.batch_size
        num_videos = len(self.dataset.videos)
        rounds = -(-needed // num_videos)
        drawn = [
            np.random.default_rng((self.seed, epoch, number, 1)).permutation(num_videos) for number in range(rounds)
        ]
        order = np.concatenate(drawn)[:needed].tolist()
        return _coupled(order, self.dataset.action_of) if self.in_couples else order

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Iterator[Batch]:
        """This worker's batches of an epoch, from `first_batch` on.

        Raises:
            DataError: a video that can no longer be read.
        """
        order = self.order(epoch)
        size = self.pairs_per_batch
        keys = []
        for batch in range(first_batch, self.batches_per_epoch):
            start = (batch * self.world_size + self.rank) * size
            keys.append([(epoch, place, order[place]) for place in range(start, start + size)])
        loader: DataLoader[_Pair | DataError] = DataLoader(
            self.dataset,
            batch_sampler=keys,
            num_workers=self.config.num_loaders,
            collate_fn=_Collate(self.dataset.videos, self.config),
            pin_memory=self.pin_memory,
            # fork after torch has started threads is a known way to hang
            multiprocessing_context=_forkserver() if self.config.num_loaders else None,
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch
