"""Which frames of a video make a clip; pure functions of a generator."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lacray.config import DataConfig

Steps = NDArray[np.int64]


def sample_steps(config: DataConfig, lengths: tuple[int, int], rng: np.random.Generator) -> tuple[Steps, Steps]:
    """The two clips of a pair, as a setting samples them.

    Args:
        config: the setting.
        lengths: frames of each clip's video; with `pairing: views` it is one video.
        rng: the only source of randomness.

    Returns:
        Two (n,) int64 arrays of frame indices, n at most `num_frames` and less only where a video is shorter.
    """
    # Every anchor takes a positive with it.
    count = config.num_frames // 2 if config.positive_window else config.num_frames
    if config.sampling == "time_augment" and config.pairing == "views":
        one, other = time_augment(
            lengths[0],
            count,
            rng,
            sampling_region=config.sampling_region,
            consistent_offset=config.consistent_offset,
        )
    else:
        one, other = (_sampled(config, length, count, rng) for length in lengths)
    if config.positive_window:
        one, other = (with_positives(anchors, rng, window=config.positive_window) for anchors in (one, other))
    return one, other


def _sampled(config: DataConfig, length: int, count: int, rng: np.random.Generator) -> Steps:
    if config.sampling == "uniform":
        return uniform(length, count, rng)
    if config.sampling == "offset_uniform":
        return offset_uniform(length, count, rng, random_offset=config.random_offset)
    if config.sampling == "segment_uniform":
        return segment_uniform(length, count, rng)
    return random_clip(length, count, rng, sampling_region=config.sampling_region)


def time_augment(
    num_video_frames: int,
    num_frames: int,
    rng: np.random.Generator,
    *,
    sampling_region: float = 1.5,
    consistent_offset: float = 0.2,
) -> tuple[Steps, Steps]:
    """Two overlapping views of one video, each n = min(num_video_frames, num_frames) sorted random frames of a block.

    A block is between n and sampling_region * n frames long; the second starts at most consistent_offset of the first
    block's length away from the first.

    Args:
        num_video_frames: >= 1.
        num_frames: >= 1, T.
        rng: the only source of randomness.
        sampling_region: >= 1.
        consistent_offset: 0..1.

    Returns:
        Two (n,) int64 arrays of strictly increasing frame indices.

    Source: CARL (arXiv 2203.14957), section 3.1.
    """
    count = min(num_video_frames, num_frames)

    def block_length() -> int:
        return min(num_video_frames, math.ceil(rng.uniform(1.0, sampling_region) * count))

    first, second = block_length(), block_length()
    start = int(rng.integers(0, num_video_frames - first + 1))
    shift = int(consistent_offset * first)
    last = num_video_frames - second
    low, high = min(max(start - shift, 0), last), min(start + shift, last)
    other = int(rng.integers(low, high + 1))
    return _frames_of_block(start, first, count, rng), _frames_of_block(other, second, count, rng)


def random_clip(num_video_frames: int, num_frames: int, rng: np.random.Generator, *, sampling_region: float) -> Steps:
    """One view as `time_augment` draws it: n sorted random frames of a random block."""
    count = min(num_video_frames, num_frames)
    length = min(num_video_frames, math.ceil(rng.uniform(1.0, sampling_region) * count))
    return _frames_of_block(int(rng.integers(0, num_video_frames - length + 1)), length, count, rng)


def uniform(num_video_frames: int, num_frames: int, rng: np.random.Generator | None = None) -> Steps:
    """n = min(num_video_frames, num_frames) frames spread over the whole video, one from each of n equal parts.

    Args:
        rng: draws the frame within each part; None takes its middle.

    Returns:
        (n,) int64, strictly increasing.
    """
    count = min(num_video_frames, num_frames)
    edges = np.linspace(0, num_video_frames, count + 1)
    place = rng.random(count) if rng is not None else np.full(count, 0.5)
    steps = np.floor(edges[:-1] + place * np.diff(edges)).astype(np.int64)
    # A part is at least one frame long, yet its edges are no integers: two draws can fall on one frame.
    for index in range(1, count):
        steps[index] = max(steps[index], steps[index - 1] + 1)
    return np.minimum(steps, num_video_frames - count + np.arange(count))


def offset_uniform(num_video_frames: int, num_frames: int, rng: np.random.Generator, *, random_offset: int) -> Steps:
    """n = min(num_video_frames, num_frames) sorted random frames of the whole video, but for its first `random_offset`.

    Where too few are left behind these, the first n frames of the video.

    Args:
        random_offset: >= 0; TCC, LAV and GTA leave out frame 0 (1), CARL none (0).

    Returns:
        (n,) int64, strictly increasing.

    Source: TCC (arXiv 1904.07846), as its release samples.
    """
    if num_frames > num_video_frames - random_offset:
        return np.arange(min(num_video_frames, num_frames), dtype=np.int64)
    return _frames_of_block(random_offset, num_video_frames - random_offset, num_frames, rng)


def segment_uniform(num_video_frames: int, num_frames: int, rng: np.random.Generator) -> Steps:
    """n = min(num_video_frames, num_frames) sorted frames, one from each of n equally long segments.

    As LAV samples: where n does not divide the video, it goes on with its own beginning until n does. So the last
    segments hold frames of the beginning, and a frame may be there twice. `uniform` has neither.

    Returns:
        (n,) int64, increasing, not strictly.

    Source: LAV (arXiv 2103.17260), as its release samples.
    """
    count = min(num_video_frames, num_frames)
    size = -(-num_video_frames // count)
    drawn = np.arange(count) * size + rng.integers(size, size=count)
    return np.sort(drawn % num_video_frames).astype(np.int64)


def with_positives(anchors: Steps, rng: np.random.Generator, *, window: int) -> Steps:
    """Each anchor followed by its positive, 1 to `window` frames before it: (n,) -> (2n,).

    Before the video's start there is frame 0; only the anchor at frame 0 is its own positive.

    Source: single-view TCN, as TCC and CARL train it.
    """
    positives = np.maximum(anchors - rng.integers(1, window + 1, size=len(anchors)), 0)
    return np.stack([anchors, positives], axis=1).reshape(-1)


def context_steps(steps: Steps, *, num_contexts: int, stride: int) -> Steps:
    """Indices of each frame with its predecessors, (n,) -> (n, num_contexts); frame 0 stands for what is before it."""
    offsets = (np.arange(num_contexts) - (num_contexts - 1)) * stride
    return np.maximum(steps[:, None] + offsets, 0)


def frames_once(steps: Steps) -> tuple[Steps, Steps]:
    """Every frame of a table of them once, in order (m,), and where in these each cell's frame is, (n, K)."""
    frames, places = np.unique(steps, return_inverse=True)
    return frames, places.reshape(steps.shape)


def _frames_of_block(start: int, length: int, count: int, rng: np.random.Generator) -> Steps:
    return np.sort(start + rng.permutation(length)[:count]).astype(np.int64)
