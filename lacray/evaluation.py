"""Embeddings -> metrics: what frozen frame embeddings know of the phases and the progress of an action.

Pure functions of `Sequence`s; numpy, scipy and scikit-learn only. Every value is a fraction (0..1; R^2 may be
negative), except `alignment_error`, which counts phases. Frames with label < 0 are dropped everywhere; a metric that
a data set cannot define is NaN from its own function and absent from `evaluate`, which says why.

Sources: Dwibedi et al. 2019 (TCC) for the four published metrics; LAC paper, section 4, for their settings.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import SVC

from lacray.metrics import CLASSIFIERS, FRACTIONS, KS, OBJECTIVE_PARTS, classification

Array = NDArray[Any]

CROP_SHARES = (0.5, 0.8)
MIN_PHASES = 2
# A pairwise sign table of int8 beyond this size is built in slices.
SIGN_TABLE_BYTES = 1 << 24
# Distances of frames to frames that are held at once: 64 MiB.
DISTANCE_CELLS = 1 << 23
SVM_FRAMES = 50_000
"""Training frames that a support vector machine learns from at most: its time goes with their square."""


@dataclass(frozen=True)
class Sequence:
    """One video's frame embeddings and what is known of its frames.

    `from_video` builds one from the whole time line and is right under every crop; prefer it.

    Attributes:
        name: names the video in messages.
        embeddings: (T, E) float, finite.
        labels: (T,) int phase of each frame, < 0 where it has none; None where nothing is labelled.
        progress: (T,) float exact progress in [0, K), NaN where undefined; None where unknown.
        steps: (T,) int, increasing frame indices in the original video; None: 0..T-1.
        num_frames: length of the original video in frames; None: last step + 1.
        phase_ends: (K-1,) or (K,) int last frame of each phase in original frame indices, -1 where the phase is
            absent. None: taken from the labels, which is right only where `steps` covers the whole video.

    Raises:
        ValueError: names the video, the field, what it must be, and what it was.
    """

    name: str
    embeddings: Array
    labels: Array | None = None
    progress: Array | None = None
    steps: Array = None  # type: ignore[assignment]  # never None after __post_init__
    num_frames: int = None  # type: ignore[assignment]
    phase_ends: Array | None = None

    def __post_init__(self) -> None:
        def fail(field: str, rule: str, got: object) -> ValueError:
            return ValueError(f"video {self.name}: {field} must {rule}, got {got}")

        embeddings = np.asarray(self.embeddings)
        if embeddings.ndim != 2:
            raise fail("embeddings", "have shape (T, E)", embeddings.shape)
        if not np.isfinite(embeddings).all():
            bad = int((~np.isfinite(embeddings).all(axis=1)).sum())
            raise fail("embeddings", "be finite", f"{bad} of {len(embeddings)} frames with NaN or infinity")
        # Distances and regressions in float64 whatever the encoder ran in: neighbours must not hang on rounding.
        values: dict[str, Any] = {"embeddings": embeddings.astype(np.float64, copy=False)}
        for field, dtype in (("labels", np.int64), ("progress", np.float64), ("steps", np.int64)):
            value = getattr(self, field)
            if value is None:
                continue
            if np.shape(value) != embeddings.shape[:1]:
                raise fail(field, f"have one entry per frame, ({len(embeddings)},)", np.shape(value))
            values[field] = np.asarray(value, dtype)
        steps = values.setdefault("steps", np.arange(len(embeddings)))
        if len(steps) and (steps[0] < 0 or (np.diff(steps) <= 0).any()):
            raise fail("steps", "be frame indices >= 0 that increase", steps)
        seen = int(steps[-1]) + 1 if len(steps) else 0
        values["num_frames"] = seen if self.num_frames is None else int(self.num_frames)
        if values["num_frames"] < seen:
            raise fail("num_frames", f"be at least the last step + 1, {seen}", self.num_frames)
        if self.phase_ends is not None:
            values["phase_ends"] = np.asarray(self.phase_ends, np.int64).reshape(-1)
        elif self.labels is not None:
            ends = phase_ends(values["labels"])
            values["phase_ends"] = np.where(ends >= 0, steps[ends], -1) if len(ends) else ends
        for field, value in values.items():
            object.__setattr__(self, field, value)

    @classmethod
    def from_video(
        cls,
        name: str,
        embeddings: Array,
        steps: ArrayLike,
        *,
        num_frames: int,
        labels: ArrayLike | None = None,
        progress: ArrayLike | None = None,
    ) -> Sequence:
        """Some frames of a video with the labels of all of it, so that targets stay those of the original time line.

        Args:
            name: names the video in messages.
            embeddings: (T, E) float of the frames at `steps`.
            steps: (T,) int frame indices in the original video: a crop, a stride or everything.
            num_frames: length of the original video in frames.
            labels: (num_frames,) int of the WHOLE video, < 0 where a frame has none; None: unlabelled.
            progress: (num_frames,) float of the WHOLE video, NaN where undefined; None: unknown.

        Returns:
            The sequence, with `phase_ends` from the whole time line.

        Raises:
            ValueError: names the video, the field, what it must be, and what it was.
        """
        steps = np.asarray(steps, np.int64)
        for field, value in (("labels", labels), ("progress", progress)):
            if value is not None and np.shape(value) != (num_frames,):
                raise ValueError(
                    f"video {name}: {field} must cover the whole video, ({num_frames},), got {np.shape(value)}"
                )
        if len(steps) and not 0 <= steps.min() <= steps.max() < num_frames:
            raise ValueError(f"video {name}: steps must lie in 0..{num_frames - 1}, got {steps.min()}..{steps.max()}")
        return cls(
            name=name,
            embeddings=embeddings,
            labels=None if labels is None else np.asarray(labels)[steps],
            progress=None if progress is None else np.asarray(progress)[steps],
            steps=steps,
            num_frames=num_frames,
            phase_ends=None if labels is None else phase_ends(labels),
        )


def phase_ends(labels: ArrayLike) -> Array:
    """Last frame of each phase.

    Args:
        labels: (T,) int phase of every frame, < 0 where it has none.

    Returns:
        (max label + 1,) int64 index of each phase's last frame, -1 where the phase is absent.
    """
    labels = np.asarray(labels, np.int64)
    ends = np.full(max(int(labels.max(initial=-1)) + 1, 0), -1, np.int64)
    frames = np.flatnonzero(labels >= 0)
    np.maximum.at(ends, labels[frames], frames)
    return ends


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
        cropped.append(_take(sequence, (sequence.steps >= start) & (sequence.steps < stop)))
    return cropped


def _take(sequence: Sequence, keep: Any) -> Sequence:
    return replace(
        sequence,
        embeddings=sequence.embeddings[keep],
        labels=None if sequence.labels is None else sequence.labels[keep],
        progress=None if sequence.progress is None else sequence.progress[keep],
        steps=sequence.steps[keep],
    )


def _labelled(sequences: Iterable[Sequence], *, need_labels: bool = True) -> list[Sequence]:
    """Drops frames without a phase, then videos without frames; unlabelled videos as well, or keeps all of them."""
    kept = []
    for sequence in sequences:
        if sequence.labels is not None:
            if (sequence.labels < 0).any():
                sequence = _take(sequence, sequence.labels >= 0)
        elif need_labels:
            continue
        if len(sequence.embeddings):
            kept.append(sequence)
    return kept


def _first(train: list[Sequence], fraction: float) -> list[Sequence]:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: must be in (0, 1], got {fraction}")
    return train[: max(1, int(fraction * len(train)))]


def _given(values: Array | None) -> Array:
    assert values is not None
    return values


def _num_phases(*splits: Iterable[Sequence]) -> int:
    return max((len(s.phase_ends) for split in splits for s in split if s.phase_ends is not None), default=0)


def _stack(sequences: Iterable[Sequence]) -> tuple[Array, Array]:
    videos = list(sequences)
    return np.concatenate([s.embeddings for s in videos]), np.concatenate([_given(s.labels) for s in videos])


def phase_predictions(
    train: Iterable[Sequence], val: Iterable[Sequence], fraction: float, classifier: str = "svm"
) -> Array:
    """Phases of the val frames, predicted by a classifier that saw a fraction of the train videos.

    Args:
        train: labelled videos in list order; the first max(1, int(fraction * videos)) are used.
        val: labelled videos.
        fraction: in (0, 1].
        classifier: 'svm' (SVC, RBF kernel, C 1; the papers' word; where there are more than SVM_FRAMES training frames,
            it learns from every second, third, ... one) or 'logistic' (multinomial; CARL's and LAC's code).

    Returns:
        (frames of all val videos with label >= 0,) int64. Training frames of one phase only predict that phase.

    Raises:
        ValueError: names the argument, what it must be, and what it was.
    """
    if classifier not in CLASSIFIERS:
        raise ValueError(f"classifier: must be one of {', '.join(CLASSIFIERS)}, got {classifier!r}")
    train, val = _labelled(train), _labelled(val)
    if not train or not val:
        raise ValueError(f"phase_classification: needs labelled train and val frames, got {len(train)}/{len(val)}")
    return _predict_phases(_first(train, fraction), _stack(val)[0], classifier)


def _predict_phases(train: list[Sequence], frames: Array, classifier: str) -> Array:
    embeddings, labels = _stack(train)
    if classifier == "svm":
        step = _svm_step(train)
        embeddings, labels = embeddings[::step], labels[::step]
    if (labels == labels[0]).all():
        return np.full(len(frames), labels[0])
    # The iteration limit is out of reach on purpose, as in the releases: the optimum, not the time, is the metric.
    model = SVC(C=1.0) if classifier == "svm" else LogisticRegression(max_iter=100_000)
    predictions: Array = model.fit(embeddings, labels).predict(frames)
    return predictions


def _svm_step(train: list[Sequence]) -> int:
    """Every how many-th of the frames an SVM learns from."""
    return max(1, -(-sum(len(s.embeddings) for s in train) // SVM_FRAMES))


def phase_classification(
    train: Iterable[Sequence],
    val: Iterable[Sequence],
    fraction: float,
    classifier: str = "svm",
    *,
    draws: int = 0,
    seed: int = 0,
) -> float:
    """Accuracy of a phase classifier on all val frames, trained on a fraction of the train videos.

    Args:
        train, val, fraction, classifier: as for `phase_predictions`.
        draws: 0: the first videos in list order, as published. n > 0: the mean over n seeded random draws of as
            many videos, which does not hang on which video happens to be first.
        seed: of the draws.

    Returns:
        Accuracy in 0..1; NaN where train or val has no labelled frame.
    """
    train, val = _labelled(train), _labelled(val)
    if not train or not val:
        return math.nan
    if classifier not in CLASSIFIERS:
        raise ValueError(f"classifier: must be one of {', '.join(CLASSIFIERS)}, got {classifier!r}")
    frames, truth = _stack(val)
    chosen = _first(train, fraction)
    if not draws:
        return float(np.mean(_predict_phases(chosen, frames, classifier) == truth))
    rng = np.random.default_rng(seed)
    samples = [rng.choice(len(train), len(chosen), replace=False) for _ in range(draws)]
    hits = [_predict_phases([train[i] for i in sample], frames, classifier) == truth for sample in samples]
    return float(np.mean(hits))


def _progress_targets(sequences: Iterable[Sequence], num_phases: int) -> Array:
    """(frames, K-1) signed share of the video between a frame and each phase end; NaN where the phase is absent."""
    targets = []
    for s in sequences:
        ends = np.full(num_phases - 1, -1)
        known = _given(s.phase_ends)[: num_phases - 1]
        ends[: len(known)] = known
        targets.append(np.where(ends >= 0, (s.steps[:, None] - ends) / s.num_frames, np.nan))
    return np.concatenate(targets)


def progress_predictions(
    train: Iterable[Sequence], val: Iterable[Sequence], fraction: float = 1.0
) -> tuple[Array, Array]:
    """Targets and linear-regression predictions of phase progress on the val frames.

    Args:
        train: labelled videos; the first max(1, int(fraction * videos)) are used.
        val: labelled videos.
        fraction: in (0, 1].

    Returns:
        targets, predictions: both (val frames, K-1) float64. Column i is (t - last frame of phase i) / num_frames on
        the original time line; NaN where the phase is absent from the frame's video, or from all of train.
    """
    train, val = _labelled(train), _labelled(val)
    num_phases = _num_phases(train, val)
    if not train or not val or num_phases < MIN_PHASES:
        return np.empty((0, 0)), np.empty((0, 0))
    train = _first(train, fraction)
    seen, wanted = _progress_targets(train, num_phases), _progress_targets(val, num_phases)
    embeddings, frames = _stack(train)[0], _stack(val)[0]
    predictions = np.full_like(wanted, np.nan)
    # One regression per column; columns that miss the same frames share one factorisation.
    patterns, group = np.unique(np.isfinite(seen), axis=1, return_inverse=True)
    for index, rows in enumerate(patterns.T):
        columns = np.flatnonzero(group.reshape(-1) == index)
        if rows.any():
            model = LinearRegression().fit(embeddings[rows], seen[np.ix_(rows, columns)])
            predictions[:, columns] = model.predict(frames)
    predictions[np.isnan(wanted)] = np.nan
    return wanted, predictions


def progress(train: Iterable[Sequence], val: Iterable[Sequence], fraction: float = 1.0) -> float:
    """Phase progression: R^2 of a linear regression of the time to each phase end, averaged over the phase ends.

    Args:
        train, val, fraction: as for `progress_predictions`.

    Returns:
        Mean over columns of R^2 on the concatenated val frames, <= 1, unbounded below; a phase absent from a video
        leaves that video out of its column. NaN where no column is defined.
    """
    targets, predictions = progress_predictions(train, val, fraction)
    defined = np.isfinite(targets) & np.isfinite(predictions)
    scores = []
    for column in np.flatnonzero(defined.any(axis=0)):
        rows = defined[:, column]
        target, prediction = targets[rows, column], predictions[rows, column]
        spread = np.sum((target - target.mean()) ** 2)
        if spread > 0:
            scores.append(1.0 - np.sum((target - prediction) ** 2) / spread)
    return float(np.mean(scores)) if scores else math.nan


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
    videos = [_take(s, slice(None, None, stride)) for s in _labelled(val)]
    results = [math.nan] * len(ks)
    if len(videos) > 1:
        embeddings, labels = _stack(videos)
        owner = np.repeat(np.arange(len(videos)), [len(s.embeddings) for s in videos])
        # share[v, k]: of video v's frames' k + 1 nearest, those in the query's phase.
        shares = np.empty((len(videos), max(ks)))
        for v, video in enumerate(videos):
            others = owner != v
            pool, pool_labels = embeddings[others], labels[others]
            # By rank, the queries whose neighbour of that rank is in their phase.
            hits = np.zeros(min(max(ks), len(pool)), np.int64)
            for rows, distance in _distances(video.embeddings, pool):
                hits += (pool_labels[_nearest(distance, len(hits))] == _given(video.labels)[rows, None]).sum(axis=0)
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
    videos = [_take(s, slice(None, None, stride)).embeddings for s in _labelled(val, need_labels=False)]
    taus = np.full((len(videos), len(videos)), np.nan)
    if len(videos) < 2:
        return taus
    frames = np.concatenate(videos)
    starts = np.cumsum([0] + [len(v) for v in videos])
    for query, video in enumerate(videos):
        others = np.flatnonzero(np.arange(len(videos)) != query)
        nearest = np.empty((len(others), len(video)), np.int64)
        for rows, distance in _distances(video, frames):
            for row, c in enumerate(others):
                nearest[row, rows] = distance[:, starts[c] : starts[c + 1]].argmin(axis=1)
        taus[query, others] = _tau_b(nearest)
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
    videos = _labelled(val)
    num_boundaries = _num_phases(videos) - 1
    if num_boundaries < 1 or len(videos) < 2:
        return math.nan
    boundaries = np.full((len(videos), num_boundaries), -1)
    for row, s in zip(boundaries, videos, strict=True):
        ends = _given(s.phase_ends)[:num_boundaries]
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
    known = [s for s in _labelled(val, need_labels=False) if s.progress is not None]
    videos = [_take(s, np.isfinite(_given(s.progress))) for s in known]
    videos = [s for s in videos if len(s.embeddings)]
    if len(videos) < 2:
        return math.nan
    frames = np.concatenate([s.embeddings for s in videos])
    starts = np.cumsum([0] + [len(s.embeddings) for s in videos])
    errors = []
    for a, query in enumerate(videos):
        own = np.empty((len(videos), len(query.embeddings)))
        for rows, distance in _distances(query.embeddings, frames):
            for b, candidate in enumerate(videos):
                if b != a:
                    nearest = distance[:, starts[b] : starts[b + 1]].argmin(axis=1)
                    own[b, rows] = np.abs(_given(query.progress)[rows] - _given(candidate.progress)[nearest])
        errors += [error.mean() for b, error in enumerate(own) if b != a]
    return float(np.mean(errors))


def evaluate(
    train: Iterable[Sequence],
    val: Iterable[Sequence],
    *,
    stride: int,
    fractions: Seq[float] = FRACTIONS,
    ks: Seq[int] = KS,
    draws: int = 0,
    seed: int = 0,
    phases: Seq[str] | None = None,
    notes: list[str] | None = None,
) -> dict[str, float]:
    """Every metric that the data define.

    Args:
        train: videos that the classifiers and the regression learn from; list order matters (`phase_classification`).
        val: videos that are scored.
        stride: frames between those that AP@K and Kendall's tau use; the others use every frame.
        fractions: shares of the train videos for classification; 0.1 -> class_10.
        ks: neighbours for AP@K.
        draws: n > 0 adds class_10_draws and so on: the mean over n random draws of the train videos.
        seed: of the draws.
        phases: (K,) names of the phases, for the notes.
        notes: a list to which this appends, in words, everything that was left out and why.

    Returns:
        class_10, class_50, class_100 (SVM), class_10_logistic, ..., progress, ap_5, ap_10, ap_15, kendalls_tau,
        event_error and, where the true progress is known, alignment_error. Always finite: what is undefined is absent.

    Raises:
        ValueError: names the argument, what it must be, and what it was.
    """
    train, val = list(train), list(val)
    said: list[str] = [] if notes is None else notes
    said += _absent_phases(_labelled(train), "train", phases, _num_phases(train, val))
    said += _absent_phases(_labelled(val), "val", phases, _num_phases(train, val))

    metrics: dict[str, float] = {}
    unlabelled = [split for split, videos in (("train", train), ("val", val)) if not _labelled(videos)]
    if unlabelled:
        said.append(f"no labelled frame in {' and '.join(unlabelled)}: only label-free metrics")
    else:
        labelled = _labelled(train)
        by_count: dict[int, tuple[float, float]] = {}
        for fraction in fractions:
            key = classification(fraction)
            chosen = _first(labelled, fraction)
            # Of few videos, several fractions are the same ones.
            if len(chosen) not in by_count:
                by_count[len(chosen)] = (
                    phase_classification(chosen, val, 1.0),
                    phase_classification(chosen, val, 1.0, "logistic"),
                )
            metrics[key], metrics[classification(fraction, "logistic")] = by_count[len(chosen)]
            if (step := _svm_step(chosen)) > 1:
                num_frames = sum(len(s.embeddings) for s in chosen)
                said.append(f"{key}: the SVM learned from one in {step} of {num_frames} frames ({SVM_FRAMES} at most)")
            if draws and fraction < 1:
                name = classification(fraction, is_drawn=True)
                metrics[name] = phase_classification(train, val, fraction, draws=draws, seed=seed)
        metrics["progress"] = progress(train, val)
    if "val" not in unlabelled:
        precisions = average_precision(val, list(ks), stride=stride)
        metrics |= {f"ap_{k}": value for k, value in zip(ks, precisions, strict=True)}  # type: ignore[arg-type]
        metrics["event_error"] = event_error(val)
    taus = pairwise_taus(val, stride)
    undefined = int(np.isnan(taus).sum()) - len(taus)
    if undefined > 0:
        said.append(f"Kendall's tau undefined for {undefined} of {taus.size - len(taus)} ordered pairs: dropped")
    metrics["kendalls_tau"] = float(np.nanmean(taus)) if np.isfinite(taus).any() else math.nan
    if any(s.progress is not None for s in val):
        metrics["alignment_error"] = alignment_error(val)
    for key in [key for key, value in metrics.items() if math.isnan(value)]:
        said.append(f"{key}: undefined on these videos: left out")
        del metrics[key]
    return metrics


def _absent_phases(videos: list[Sequence], split: str, phases: Seq[str] | None, num_phases: int) -> list[str]:
    said = []
    for phase in range(num_phases - 1):
        absent = [
            s.name
            for s in videos
            if s.phase_ends is not None and (phase >= len(s.phase_ends) or s.phase_ends[phase] < 0)
        ]
        if absent:
            name = phases[phase] if phases is not None and phase < len(phases) else str(phase)
            videos_named = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
            rest = "its column is left out" if len(absent) == len(videos) else f"its column leaves {len(absent)} out"
            said.append(f"phase {name} absent from {split} video {videos_named}: {rest}")
    return said


def objective(cropped: dict[str, float]) -> float:
    """A study's default objective: the mean of class_10, progress and AP@5 under the `cropped` protocol.

    No control maxes it: position alone does not tell the phase of a cropped video.

    Args:
        cropped: metrics of `evaluate` on cropped videos.

    Returns:
        Their mean; larger is better.

    Raises:
        ValueError: names the metrics that are missing.
    """
    missing = [name for name in OBJECTIVE_PARTS if name not in cropped]
    if missing:
        raise ValueError(
            f"objective: needs {', '.join(OBJECTIVE_PARTS)}, got no {', '.join(missing)}: label the videos, "
            "or choose another objective"
        )
    return float(np.mean([cropped[name] for name in OBJECTIVE_PARTS]))
