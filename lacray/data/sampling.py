"""Which frames of a video make a clip; pure functions of a generator."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Steps = NDArray[np.int64]


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


def context_steps(steps: Steps, *, num_contexts: int, stride: int) -> Steps:
    """Indices of each frame with its predecessors, (n,) -> (n, num_contexts); frame 0 stands for what is before it."""
    offsets = (np.arange(num_contexts) - (num_contexts - 1)) * stride
    return np.maximum(steps[:, None] + offsets, 0)


def _frames_of_block(start: int, length: int, count: int, rng: np.random.Generator) -> Steps:
    return np.sort(start + rng.permutation(length)[:count]).astype(np.int64)
