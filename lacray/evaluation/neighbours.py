"""Metrics of nearest neighbours: retrieval of phases, order, and the errors of an alignment."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq

import numpy as np
from scipy.spatial.distance import cdist

from lacray.evaluation.sequences import Array, Sequence, count_phases, given, labelled, stacked, take

# A pairwise sign table of int8 beyond this size is built in slices.
SIGN_TABLE_BYTES = 1 << 24
# Distances of frames to frames that are held at once: 64 MiB.
DISTANCE_CELLS = 1 << 23


def average_precision(val: Iterable[Sequence], k: int | Seq[int], *, stride: int) -> float | list[float]:
    """AP@K: the share of a frame's K nearest frames of OTHER videos that are in its phase.

    Args:
        val: labelled videos; queries and pool both keep every `stride`-th frame.
        k: neighbours, > 0; several share one search.
        stride: frames, > 0.

    Returns:
        Mean over the frames of a video, then over videos, by squared Euclidean distance, ties to the earlier video
        and frame; a list where `k` is a sequence. Where the pool holds fewer than K frames, all of them are retrieved
        (as the releases do). NaN where there are no two labelled videos.
    """
    _check_positive("stride", stride)
    ks = [k] if isinstance(k, int) else list(k)
    for value in ks:
        _check_positive("k", value)
    videos = [take(s, slice(None, None, stride)) for s in labelled(val)]
    results = [math.nan] * len(ks)
    if len(videos) > 1:
        embeddings, labels = stacked(videos)
        owner = np.repeat(np.arange(len(videos)), [len(s.embeddings) for s in videos])
        # share[v, k]: of video v's frames' k + 1 nearest, those in the query's phase.
        shares = np.empty((len(videos), max(ks)))
        for v, video in enumerate(videos):
            others = owner != v
            pool, pool_labels = embeddings[others], labels[others]
            # By rank, the queries whose neighbour of that rank is in their phase.
            hits = np.zeros(min(max(ks), len(pool)), np.int64)
            for rows, distance in _distances(video.embeddings, pool):
                hits += (pool_labels[_nearest(distance, len(hits))] == given(video.labels)[rows, None]).sum(axis=0)
            found = np.cumsum(hits) / np.arange(1, len(hits) + 1) / len(video.embeddings)
            shares[v] = np.pad(found, (0, max(ks) - len(found)), "edge")
        results = [float(shares[:, value - 1].mean()) for value in ks]
    return results[0] if isinstance(k, int) else results


def _distances(queries: Array, pool: Array) -> Iterator[tuple[slice, Array]]:
    """Squared distances (n, pool) of the queries, some rows at a time: memory does not go with the product."""
    step = max(1, DISTANCE_CELLS // max(1, len(pool)))
    for start in range(0, len(queries), step):
        rows = slice(start, min(start + step, len(queries)))
        yield rows, cdist(queries[rows], pool, "sqeuclidean")


def _closest(queries: Array, frames: Array, starts: Array) -> Array:
    """The frame of each video that is closest to each query, the first of equals: (videos, queries) int64.

    Args:
        frames: of all videos, one after the other.
        starts: (videos + 1,) where each begins in `frames`.
    """
    closest = np.empty((len(starts) - 1, len(queries)), np.int64)
    squares = np.einsum("ij,ij->i", frames, frames)
    # Far above what a product of matrices rounds off; what is closer together than this is compared exactly.
    doubt = 1e-12 * (squares.max(initial=0.0) + np.einsum("ij,ij->i", queries, queries).max(initial=0.0))
    step = max(1, DISTANCE_CELLS // max(1, len(frames)))
    for start in range(0, len(queries), step):
        rows = slice(start, min(start + step, len(queries)))
        # Of the squared distance what differs between frames.
        away = queries[rows] @ frames.T
        away *= -2
        away += squares
        for video, (first, stop) in enumerate(itertools.pairwise(starts)):
            own = away[:, first:stop]
            closest[video, rows] = own.argmin(axis=1)
            rivals = own <= own.min(axis=1, keepdims=True) + doubt
            for row in start + np.flatnonzero(np.count_nonzero(rivals, axis=1) > 1):
                exact = cdist(queries[row : row + 1], frames[first:stop], "sqeuclidean")
                closest[video, row] = exact.argmin()
    return closest


def _nearest(distance: Array, k: int) -> Array:
    """Columns (n, k) of each row's k least entries, in order, ties to the earlier column: a stable sort's first k."""
    if k == distance.shape[1]:
        return np.argsort(distance, axis=1, kind="stable")
    # All that are no farther than the k-th, row by row; a few more than k where there are ties.
    rows, columns = np.nonzero(distance <= np.partition(distance, k - 1, axis=1)[:, k - 1 : k])
    order = np.lexsort((columns, distance[rows, columns], rows))
    first = np.searchsorted(rows, np.arange(len(distance)))
    nearest: Array = columns[order][first[:, None] + np.arange(k)]
    return nearest


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}: must be > 0, got {value}")


def pairwise_taus(val: Iterable[Sequence], stride: int) -> Array:
    """Kendall's tau of every ordered pair of videos.

    Args:
        val: videos, with labels or without (then every frame counts).
        stride: frames, > 0.

    Returns:
        (V, V) float64 in -1..1; row: query, column: candidate. tau-b of the order of the hard nearest neighbours of
        the query's frames. NaN on the diagonal and where all neighbours are one frame.
    """
    _check_positive("stride", stride)
    videos = [take(s, slice(None, None, stride)).embeddings for s in labelled(val, need_labels=False)]
    taus = np.full((len(videos), len(videos)), np.nan)
    if len(videos) < 2:
        return taus
    frames = np.concatenate(videos)
    starts = np.cumsum([0] + [len(v) for v in videos])
    for query, video in enumerate(videos):
        others = np.flatnonzero(np.arange(len(videos)) != query)
        taus[query, others] = _tau_b(_closest(video, frames, starts)[others])
    return taus


def _tau_b(order: Array) -> Array:
    """tau-b of each row of `order` (R, n) int against 0..n-1, which has no ties; NaN where a row is constant."""
    num_rows, n = order.shape
    step = max(1, SIGN_TABLE_BYTES // max(1, num_rows * n))
    agree = np.zeros(num_rows)
    ties = np.zeros(num_rows)
    order = order.astype(np.int32)
    for start in range(0, n, step):
        block = np.arange(start, min(start + step, n))
        later = np.arange(start + 1, n)
        sign = np.sign(order[:, None, later] - order[:, block, None]).astype(np.int8)
        above = later > block[:, None]
        agree += np.sum(sign, axis=(1, 2), where=above, dtype=np.int64)
        ties += np.sum((sign == 0) & above, axis=(1, 2))
    pairs = n * (n - 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        tau: Array = agree / np.sqrt(pairs) / np.sqrt(pairs - ties)
    return np.clip(np.where(pairs > ties, tau, np.nan), -1.0, 1.0)


def kendalls_tau(val: Iterable[Sequence], stride: int) -> float:
    """Kendall's tau: does the nearest neighbour move forward as the video does?

    Args:
        val, stride: as for `pairwise_taus`.

    Returns:
        Mean over ordered pairs, undefined pairs dropped; NaN where no pair is defined. Position alone reaches 1.
    """
    taus = pairwise_taus(val, stride)
    defined = taus[np.isfinite(taus)]
    return float(defined.mean()) if len(defined) else math.nan


def event_error(val: Iterable[Sequence]) -> float:
    """How far from video B's phase boundary the frame lies that looks most like video A's.

    Args:
        val: labelled videos. A boundary is the last frame of a phase that is not the last phase; it counts where it
            lies between the first and the last labelled frame of both A and B (a crop may cut it off). Where `steps`
            skips it, the nearest frame stands for it.

    Returns:
        Mean over boundaries and ordered pairs of |time of the nearest neighbour - B's boundary| / length of B, on the
        original time line, so 0..1 and 0 is exact. NaN where no pair shares a boundary.
    """
    videos = labelled(val)
    num_boundaries = count_phases(videos) - 1
    if num_boundaries < 1 or len(videos) < 2:
        return math.nan
    boundaries = np.full((len(videos), num_boundaries), -1)
    for row, s in zip(boundaries, videos, strict=True):
        ends = given(s.phase_ends)[:num_boundaries]
        row[: len(ends)] = np.where((ends >= s.steps[0]) & (ends <= s.steps[-1]), ends, -1)
    errors = []
    for a, query in enumerate(videos):
        visible = np.flatnonzero(boundaries[a] >= 0)
        rows = np.abs(query.steps[:, None] - boundaries[a, visible]).argmin(axis=0)
        for b, candidate in enumerate(videos):
            shared = boundaries[b, visible] >= 0
            if a == b or not shared.any():
                continue
            distance = cdist(query.embeddings[rows[shared]], candidate.embeddings, "sqeuclidean")
            found = candidate.steps[distance.argmin(axis=1)]
            errors.append(np.abs(found - boundaries[b, visible[shared]]) / candidate.num_frames)
    return float(np.concatenate(errors).mean()) if errors else math.nan


def alignment_error(val: Iterable[Sequence]) -> float:
    """Exact alignment error: the difference in true progress between a frame and its nearest neighbour.

    Args:
        val: videos with `progress`; frames without (NaN) or with label < 0 neither ask nor answer.

    Returns:
        Mean |progress of the frame - progress of its hard nearest neighbour| over the frames of every ordered pair,
        then over pairs; in phases, 0 is exact. NaN where fewer than two videos have progress.
    """
    known = [s for s in labelled(val, need_labels=False) if s.progress is not None]
    videos = [take(s, np.isfinite(given(s.progress))) for s in known]
    videos = [s for s in videos if len(s.embeddings)]
    if len(videos) < 2:
        return math.nan
    frames = np.concatenate([s.embeddings for s in videos])
    starts = np.cumsum([0] + [len(s.embeddings) for s in videos])
    errors = []
    for a, query in enumerate(videos):
        closest = _closest(query.embeddings, frames, starts)
        errors += [
            np.abs(given(query.progress) - given(candidate.progress)[closest[b]]).mean()
            for b, candidate in enumerate(videos)
            if b != a
        ]
    return float(np.mean(errors))
