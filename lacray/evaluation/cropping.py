"""The windows of the `cropped` protocol, in which the place of a frame does not tell its phase."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from lacray.evaluation.sequences import Array, Sequence, take

CROP_SHARES = (0.5, 0.8)


def crop_window(labels: ArrayLike | None, num_frames: int, seed: int, name: str) -> tuple[int, int]:
    """The `cropped` protocol's window of one video: random, 50-80 % of it, with at least two phases in it.

    The encoder sees positions, so cut the VIDEO to these frames before embedding it, not its embeddings after.
    The draw depends on (seed, name) alone and on no library's generator: every method sees the same windows.

    Args:
        labels: (num_frames,) int of the whole video, < 0 where a frame has no phase; None: any window will do.
        num_frames: length of the video, > 0.
        seed: of the protocol, not of the training run.
        name: the video's name.

    Returns:
        (start, stop), stop exclusive. Where no window of 50-80 % holds two phases, any window.

    Raises:
        ValueError: if num_frames < 1 or the labels do not cover the video.
    """
    if num_frames < 1:
        raise ValueError(f"video {name}: num_frames must be > 0, got {num_frames}")
    if labels is not None and np.shape(labels) != (num_frames,):
        raise ValueError(f"video {name}: labels must cover the whole video, ({num_frames},), got {np.shape(labels)}")
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    draw_length, draw_start = (int.from_bytes(digest[i : i + 8], "big") / 2**64 for i in (0, 8))

    shortest = min(num_frames, max(2, math.ceil(CROP_SHARES[0] * num_frames)))
    longest = max(shortest, math.floor(CROP_SHARES[1] * num_frames))
    length = shortest + int(draw_length * (longest - shortest + 1))
    # A window that is too short for two phases grows to the longest before the rule is given up.
    for candidate in (length, longest):
        starts = _starts_with_two_phases(labels, num_frames, candidate)
        if len(starts):
            start = int(starts[int(draw_start * len(starts))])
            return start, start + candidate
    start = int(draw_start * (num_frames - length + 1))
    return start, start + length


def _starts_with_two_phases(labels: ArrayLike | None, num_frames: int, length: int) -> Array:
    starts = np.arange(num_frames - length + 1)
    if labels is None:
        return starts
    labels = np.asarray(labels)
    frames = np.flatnonzero(labels >= 0)
    change = np.flatnonzero(np.diff(labels[frames]))
    before, after = frames[change], frames[change + 1]
    # A window holds a change where it starts in first..last; how many such ranges each start lies in.
    first, last = np.maximum(after - length + 1, 0), np.minimum(before, len(starts) - 1)
    possible = first <= last
    depth = np.zeros(len(starts) + 1, np.int64)
    np.add.at(depth, first[possible], 1)
    np.add.at(depth, last[possible] + 1, -1)
    return starts[np.cumsum(depth[:-1]) > 0]


def crop(sequences: Iterable[Sequence], seed: int) -> list[Sequence]:
    """Cuts sequences that are already embedded to the windows of `crop_window`.

    For encoders that see no position; otherwise cut the videos first (`crop_window`). A sequence that holds every
    frame of its video gets exactly the window its video gets. Targets stay those of the original time line.

    Args:
        sequences: as for `evaluate`.
        seed: of the protocol.

    Returns:
        The cut sequences, in order; `num_frames` and `phase_ends` unchanged.
    """
    cropped = []
    for sequence in sequences:
        labels = None
        if sequence.labels is not None:
            labels = np.full(sequence.num_frames, -1)
            labels[sequence.steps] = sequence.labels
        start, stop = crop_window(labels, sequence.num_frames, seed, sequence.name)
        cropped.append(take(sequence, (sequence.steps >= start) & (sequence.steps < stop)))
    return cropped
