"""Labels carried from the videos that have some to those that have none: by alignment, or by a frame classifier."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from lacray.apply.alignment import Alignment
from lacray.apply.embedded import EmbeddedVideo

NOWHERE, UNSAID = -1, -2
"""The labels of frames in no phase, and of frames of which nobody has said whether they are in one."""
SHORTEST = 3
"""Frames; a phase that lasts less is given to its neighbours."""
MOST_CLASSIFIED = 10_000
"""Frames that a classifier learns from; an SVM takes the square of their number."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """A video with the phase of each of its frames."""

    video: EmbeddedVideo
    labels: NDArray[np.int64]
    """(T,), -1 where it has none, UNSAID where it may have one."""


@dataclass(frozen=True)
class Carried:
    """A part of a video with the phase that it was given."""

    phase: int
    first: int
    stop: int
    """Its frames, `stop` exclusive."""
    confidence: float
    """The mean probability of the phase over its frames, 0 to 1."""


def carried_probabilities(
    alignments: Iterable[Alignment], labels: Iterable[NDArray[np.int64]], num_phases: int
) -> NDArray[np.float64]:
    """The phase of every frame of a video, by its alignments with labelled videos.

    Each alignment says for a frame of b: the labels of those frames of a that it is matched with, by the probability of
    each match; of what is left to one, the label of the frame that it is carried to, or none. The alignments are
    averaged by their scores, those that chance reaches as easily counting little.

    Args:
        alignments: of labelled videos, as `a`, with one video, `b` of M frames; one at least. One is held at a time,
            since that of long videos takes 64 MiB.
        labels: of each `a`, (N,), -1 for none; frames that are UNSAID say nothing of their counterparts.
        num_phases: K.

    Returns:
        (M, K + 1), rows of sum 1; the last column is no phase.
    """
    total = np.zeros((1, num_phases + 1))
    for alignment, own in zip(alignments, labels, strict=True):
        total = total + _weight(alignment) * _said(alignment, own, num_phases)
    # Where nobody says anything there is no phase.
    total[:, -1] += total.sum(axis=1) == 0
    return total / total.sum(axis=1, keepdims=True)


def _weight(alignment: Alignment) -> float:
    """Score a frame, down to nothing where chance reaches it; never quite nothing, for a video without a better one."""
    length = min(len(alignment.a), len(alignment.b)) / alignment.stride
    return max(alignment.score / length * (1 - alignment.p_value), 1e-6)


def _said(alignment: Alignment, labels: NDArray[np.int64], num_phases: int) -> NDArray[np.float64]:
    """(M, K + 1), rows of sum 1, less what matches frames that are UNSAID."""
    stride, num_frames = alignment.stride, len(alignment.b)
    columns = np.where(labels >= 0, labels, np.where(labels == UNSAID, num_phases + 1, num_phases))
    own = np.eye(num_phases + 2)[columns[::stride]]
    strided = alignment.match.T.astype(np.float64) @ own
    said = np.repeat(strided, stride, axis=0)[:num_frames]
    rest = np.clip(1 - said.sum(axis=1), 0, 1)
    places = alignment.b_to_a
    is_there = ~np.isnan(places)
    carried = np.full(num_frames, num_phases)
    carried[is_there] = columns[np.rint(places[is_there]).astype(np.int64)]
    said[np.arange(num_frames), carried] += rest
    return (said / said.sum(axis=1, keepdims=True))[:, : num_phases + 1]


def classified_probabilities(
    references: Sequence[Labelled], videos: Sequence[EmbeddedVideo], num_phases: int
) -> list[NDArray[np.float64]]:
    """The phase of every frame by a classifier of single frames, for comparison: an SVM, as evaluation's.

    Of many frames every second, third, ... is learned from.

    Returns:
        For each video (M, K + 1), the last column 0: a classifier knows the phases that it has seen alone.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    embeddings = np.concatenate([own.video.embeddings for own in references])
    labels = np.concatenate([own.labels for own in references])
    learned = np.flatnonzero(labels >= 0)
    learned = learned[:: -(-len(learned) // MOST_CLASSIFIED)]
    found = [np.zeros((len(video), num_phases + 1)) for video in videos]
    seen = np.unique(labels[learned])
    if len(seen) == 1:
        for own in found:
            own[:, seen[0]] = 1
        return found
    with threadpool_limits(1):
        classifier = make_pipeline(StandardScaler(), SVC(kernel="rbf", C=1.0))
        classifier.fit(embeddings[learned], labels[learned])
        for own, video in zip(found, videos, strict=True):
            own[np.arange(len(video)), classifier.predict(np.asarray(video.embeddings))] = 1
    return found


def segments_of(probabilities: NDArray[np.float64], *, shortest: int = SHORTEST) -> list[Carried]:
    """The phases of a video, one after the other, from the probabilities of each frame (M, K + 1).

    Of runs that are shorter than `shortest` frames the shortest is given to the likelier of its neighbours, again and
    again; frames in no phase are no segment.
    """
    num_frames, last = probabilities.shape[0], probabilities.shape[1] - 1
    runs = _runs(probabilities.argmax(axis=1))
    sums = np.concatenate([np.zeros((1, last + 1)), np.cumsum(probabilities, axis=0)])
    while len(runs) > 1:
        short = min(range(len(runs)), key=lambda place: (runs[place][1] - runs[place][0], place))
        first, stop, _ = runs[short]
        if stop - first >= min(shortest, num_frames):
            break
        beside = [place for place in (short - 1, short + 1) if 0 <= place < len(runs)]
        within = sums[stop] - sums[first]
        into = max(beside, key=lambda place: within[runs[place][2]])
        runs[short] = (first, stop, runs[into][2])
        runs = _merged(runs)
    return [
        Carried(phase, first, stop, float((sums[stop, phase] - sums[first, phase]) / (stop - first)))
        for first, stop, phase in runs
        if phase != last
    ]


def segments_beside(own: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[Carried]:
    """`segments_of` those frames that a video has no label for, of the phases that it has nowhere.

    Args:
        own: (M,) its labels, < 0 where it has none.
        probabilities: (M, K + 1).
    """
    there = np.unique(own[own >= 0])
    others = probabilities.copy()
    others[:, -1] += others[:, there].sum(axis=1)
    others[:, there] = 0
    return [
        replace(part, first=first + part.first, stop=first + part.stop)
        for first, stop, phase in _runs(np.maximum(own, NOWHERE))
        if phase == NOWHERE
        for part in segments_of(others[first:stop])
    ]


Run = tuple[int, int, int]


def _runs(phases: NDArray[np.int64]) -> list[Run]:
    cuts = np.flatnonzero(np.diff(phases)) + 1
    edges = [0, *cuts.tolist(), len(phases)]
    return [(first, stop, int(phases[first])) for first, stop in itertools.pairwise(edges)]


def _merged(runs: Sequence[Run]) -> list[Run]:
    found: list[Run] = []
    for first, stop, phase in runs:
        if found and found[-1][2] == phase:
            found[-1] = (found[-1][0], stop, phase)
        else:
            found.append((first, stop, phase))
    return found


def frame_labels(segments: Sequence[Carried], num_frames: int) -> NDArray[np.int64]:
    """The phase of each frame, (num_frames,), -1 where it has none."""
    labels = np.full(num_frames, NOWHERE, dtype=np.int64)
    for segment in segments:
        labels[segment.first : segment.stop] = segment.phase
    return labels


def carry(
    align: Callable[[EmbeddedVideo, EmbeddedVideo], Alignment],
    references: Sequence[Labelled],
    video: EmbeddedVideo,
    num_phases: int,
) -> NDArray[np.float64]:
    """`carried_probabilities` of one video by its alignments with all references."""
    alignments = (align(own.video, video) for own in references)
    return carried_probabilities(alignments, [own.labels for own in references], num_phases)
