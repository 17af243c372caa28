"""Phase progression: how well a linear regression tells the time to the end of each phase."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from sklearn.linear_model import LinearRegression

from lacray.evaluation.sequences import Array, Sequence, count_phases, first_share, given, labelled, stacked

MIN_PHASES = 2
# Of the covariance's largest eigenvalue: what a direction of the embeddings has at least, and what one has at most that
# is none, as that of the mean is after a layer norm. What lies between is for scikit-learn to judge.
LEAST, NONE = 1e-8, 1e-13


def _progress_targets(sequences: Iterable[Sequence], num_phases: int) -> Array:
    """(frames, K-1) signed share of the video between a frame and each phase end; NaN where the phase is absent."""
    targets = []
    for s in sequences:
        ends = np.full(num_phases - 1, -1)
        known = given(s.phase_ends)[: num_phases - 1]
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
    train, val = labelled(train), labelled(val)
    num_phases = count_phases(train, val)
    if not train or not val or num_phases < MIN_PHASES:
        return np.empty((0, 0)), np.empty((0, 0))
    train = first_share(train, fraction)
    seen, wanted = _progress_targets(train, num_phases), _progress_targets(val, num_phases)
    embeddings, frames = stacked(train)[0], stacked(val)[0]
    predictions = np.full_like(wanted, np.nan)
    # One regression per column; columns that miss the same frames share one factorisation.
    groups: dict[bytes, list[int]] = {}
    for column, is_seen in enumerate(np.isfinite(seen).T):
        groups.setdefault(is_seen.tobytes(), []).append(column)
    for columns in groups.values():
        rows = np.isfinite(seen[:, columns[0]])
        if rows.any():
            predictions[:, columns] = _predict(embeddings[rows], seen[rows][:, columns], frames)
    predictions[np.isnan(wanted)] = np.nan
    return wanted, predictions


def _predict(embeddings: Array, targets: Array, frames: Array) -> Array:
    """What `LinearRegression().fit(embeddings, targets).predict(frames)` says, to some twelve digits."""
    if len(embeddings) < 8 * embeddings.shape[1]:
        return _predict_plainly(embeddings, targets, frames)
    mean, middle = embeddings.mean(axis=0), targets.mean(axis=0)
    centred, wanted = embeddings - mean, targets - middle
    spectrum, directions = np.linalg.eigh(centred.T @ centred)
    is_direction = spectrum > LEAST * spectrum[-1]
    if not (is_direction | (spectrum < NONE * spectrum[-1])).all():
        return _predict_plainly(embeddings, targets, frames)
    directions = directions[:, is_direction] / np.sqrt(spectrum[is_direction])

    def solved(rest: Array) -> Array:
        return directions @ (directions.T @ (centred.T @ rest))

    weights = solved(wanted)
    # The normal equations square what rounding does; a step with the true residuals takes that back.
    weights += solved(wanted - centred @ weights)
    return (frames - mean) @ weights + middle


def _predict_plainly(embeddings: Array, targets: Array, frames: Array) -> Array:
    predictions: Array = LinearRegression().fit(embeddings, targets).predict(frames)
    return predictions


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
