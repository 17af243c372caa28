"""Videos -> batches of pairs of clips, in an order that depends on (seed, epoch) and place alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from lacray.data.sampling import Steps, context_steps, random_clip, time_augment, uniform
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
    """B pairs of clips."""

    frames: Tensor
    """(B, 2, T, K, 3, H, W) uint8 frames with their contexts, or (B, 2, T, C) features."""
    steps: Tensor
    """(B, 2, T) int64, index of each sampled frame in its video; 0 in the padding."""
    lengths: Tensor
    """(B, 2) int64, real frames of each clip; the rest is padding."""
    is_padded: bool
    """Whether any clip has padding; known without asking the device."""
    video_lengths: Tensor
    """(B, 2) int64, frames of each whole video."""
    augmentations: list[augment.Augmentation]
    """2B draws, clip by clip; empty for none."""
    names: list[str]
    """2B video names."""

    def to(self, device: torch.device) -> Batch:
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("frames", "steps", "lengths", "video_lengths")
        }
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        pinned = {name: getattr(self, name).pin_memory() for name in ("frames", "steps", "lengths", "video_lengths")}
        return replace(self, **pinned)


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

    def read(self, video: Video, steps: Steps, *, first: int = 0) -> NDArray[np.generic]:
        """Frames (n, K, 3, H, W) uint8 with their contexts (none before `first`), or features (n, C)."""
        if self.config.input == "features":
            return self._read(video, steps)
        wanted = self._with_contexts(steps, first)
        if video.path not in self._kept and video.num_frames <= WHOLE_VIDEO * wanted.size and self._has_room(video):
            self._kept[video.path] = self._decode_whole(video)
        frames = self._pictures(video, wanted.reshape(-1))
        return frames.reshape(*wanted.shape, *frames.shape[1:])

    def stream(self, video: Video, first: int, stop: int) -> Iterator[NDArray[np.generic]]:
        """Frames first..stop - 1 as `read` gives them, in order, STREAMED_FRAMES at a time.

        Neither the pictures nor their contexts are ever all in memory, unless the cache has room for the video.
        """
        if self.config.input == "features":
            for start in range(first, stop, STREAMED_FRAMES):
                yield self._read(video, np.arange(start, min(start + STREAMED_FRAMES, stop)))
            return
        if video.path not in self._kept and (first, stop) == (0, video.num_frames) and self._has_room(video):
            self._kept[video.path] = self._decode_whole(video)
        reach = (self.config.num_contexts - 1) * self.config.context_stride
        for start, end in self._pieces(first, stop):
            lowest = max(first, start - reach)
            pictures = self._pictures(video, np.arange(lowest, end))
            for begin in range(start, end, STREAMED_FRAMES):
                steps = np.arange(begin, min(begin + STREAMED_FRAMES, end))
                yield pictures[self._with_contexts(steps, first) - lowest]
            # Not there any more while the next ones are decoded.
            del pictures

    def _with_contexts(self, steps: Steps, first: int) -> Steps:
        contexts, stride = self.config.num_contexts, self.config.context_stride
        return context_steps(steps - first, num_contexts=contexts, stride=stride) + first

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
class _Pair:
    frames: list[NDArray[np.generic]]
    steps: list[Steps]
    videos: list[Video]
    augmentations: list[augment.Augmentation]


class PairDataset(Dataset["_Pair | DataError"]):
    """Pairs of clips; an item's key is (epoch, place in the epoch's global order, video).

    A video that cannot be read is an item too: raised in a loader process, torch would bury it in a traceback.
    """

    def __init__(self, videos: list[Video], config: DataConfig, *, seed: int, store: FrameStore | None = None) -> None:
        self.videos, self.config, self.seed = videos, config, seed
        self.store = store or FrameStore(config)

    def __getitem__(self, key: tuple[int, int, int]) -> _Pair | DataError:
        try:
            return self._pair(*key)
        except DataError as error:
            return error

    def _pair(self, epoch: int, place: int, index: int) -> _Pair:
        # One generator per place in the global order: the same clips whatever the number of workers and loaders.
        rng = np.random.default_rng((self.seed, epoch, place))
        config = self.config
        chosen = [self.videos[index]] * 2
        if config.pairing == "videos":
            other = int(rng.integers(len(self.videos) - 1))
            chosen[1] = self.videos[other + (other >= index)]
        if config.sampling == "uniform":
            steps = [uniform(video.num_frames, config.num_frames, rng) for video in chosen]
        elif config.pairing == "videos":
            steps = [
                random_clip(video.num_frames, config.num_frames, rng, sampling_region=config.sampling_region)
                for video in chosen
            ]
        else:
            steps = list(
                time_augment(
                    chosen[0].num_frames,
                    config.num_frames,
                    rng,
                    sampling_region=config.sampling_region,
                    consistent_offset=config.consistent_offset,
                )
            )
        draws = [augment.draw(rng) for _ in chosen] if config.augment and config.input == "videos" else []
        frames = [self.store.read(video, taken) for video, taken in zip(chosen, steps, strict=True)]
        return _Pair(frames, steps, chosen, draws)


class _Collate:
    """Pads the clips of pairs to T."""

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames

    def __call__(self, items: list[_Pair | DataError]) -> Batch | DataError:
        pairs = [item for item in items if isinstance(item, _Pair)]
        if len(pairs) < len(items):
            return next(item for item in items if isinstance(item, DataError))
        clips = [clip for pair in pairs for clip in pair.frames]
        frames = np.zeros((len(clips), self.num_frames, *clips[0].shape[1:]), dtype=clips[0].dtype)
        steps = np.zeros((len(clips), self.num_frames), dtype=np.int64)
        for number, (clip, taken) in enumerate(
            zip(clips, (taken for pair in pairs for taken in pair.steps), strict=True)
        ):
            frames[number, : len(taken)] = clip
            steps[number, : len(taken)] = taken
        videos = [video for pair in pairs for video in pair.videos]

        def by_pair(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(array).unflatten(0, (-1, 2))

        lengths = np.array([len(taken) for pair in pairs for taken in pair.steps], dtype=np.int64)
        return Batch(
            frames=by_pair(frames),
            steps=by_pair(steps),
            lengths=by_pair(lengths),
            is_padded=bool((lengths < self.num_frames).any()),
            video_lengths=by_pair(np.array([video.num_frames for video in videos], dtype=np.int64)),
            augmentations=[draw for pair in pairs for draw in pair.augmentations],
            names=[video.name for video in videos],
        )


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
        pin_memory: bool = False,
        store: FrameStore | None = None,
    ) -> None:
        assert config.batch_size % (world_size * accumulate) == 0
        self.config, self.seed, self.rank, self.world_size = config, seed, rank, world_size
        self.pin_memory = pin_memory
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
        return np.concatenate(drawn)[:needed].tolist()

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
            collate_fn=_Collate(self.config.num_frames),
            pin_memory=self.pin_memory,
            # fork after torch has started threads is a known way to hang
            multiprocessing_context=_forkserver() if self.config.num_loaders else None,
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch
