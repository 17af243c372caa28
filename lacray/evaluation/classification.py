"""Phase classification: how often a classifier of frames, trained on few or all videos, is right on others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Sequence as Seq

import numpy as np
from sklearn.linear_model import LogisticRegression

from lacray.evaluation.sequences import Array, Sequence, first_share, labelled, stacked
from lacray.evaluation.svm import svm_predictions
from lacray.metrics import CLASSIFIERS

SVM_FRAMES = 50_000
"""Training frames that a support vector machine learns from at most: its time goes with their square."""


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
    train, val = labelled(train), labelled(val)
    if not train or not val:
        raise ValueError(f"phase_classification: needs labelled train and val frames, got {len(train)}/{len(val)}")
    return _predictions(train, stacked(val)[0], [fraction], classifier)[0]


def _predictions(train: list[Sequence], frames: Array, fractions: Seq[float], classifier: str) -> list[Array]:
    """Phases of the frames, by a classifier for each of the fractions of the videos."""
    if classifier not in CLASSIFIERS:
        raise ValueError(f"classifier: must be one of {', '.join(CLASSIFIERS)}, got {classifier!r}")
    counts = [len(first_share(train, fraction)) for fraction in fractions]
    embeddings, labels = stacked(train[: max(counts)])
    found: dict[int, Array] = {}
    # Of every how many-th frame -> number of videos -> of frames: these machines are learned together.
    machines: dict[int, dict[int, int]] = {}
    # Of few videos, several fractions are the same ones.
    for count in sorted(set(counts)):
        size = sum(len(s.embeddings) for s in train[:count])
        step = svm_step(train[:count]) if classifier == "svm" else 1
        own = labels[:size:step]
        if (own == own[0]).all():
            found[count] = np.full(len(frames), own[0])
        elif classifier == "svm":
            machines.setdefault(step, {})[count] = len(own)
        else:
            # As the releases call it: no limit of iterations, and scikit-learn's tolerance, which ends it near the
            # optimum.
            found[count] = LogisticRegression(max_iter=100_000).fit(embeddings[:size], own).predict(frames)
    for step, sizes in machines.items():
        kept = slice(0, step * max(sizes.values()), step)
        predictions = svm_predictions(embeddings[kept], labels[kept], frames, list(sizes.values()))
        found |= zip(sizes, predictions, strict=True)
    return [found[count] for count in counts]


def svm_step(train: list[Sequence]) -> int:
    """Every how many-th of the frames an SVM learns from."""
    return max(1, -(-sum(len(s.embeddings) for s in train) // SVM_FRAMES))


def phase_classification(
    train: Iterable[Sequence], val: Iterable[Sequence], fraction: float, classifier: str = "svm"
) -> float:
    """Accuracy of a phase classifier on all val frames, trained on the first of the train videos, as published.

    Args:
        train, val, fraction, classifier: as for `phase_predictions`.

    Returns:
        Accuracy in 0..1; NaN where train or val has no labelled frame.
    """
    return phase_classifications(train, val, [fraction], classifier)[0]


def phase_classifications(
    train: Iterable[Sequence], val: Iterable[Sequence], fractions: Seq[float], classifier: str = "svm"
) -> list[float]:
    """`phase_classification` of several fractions; the support vector machines share what takes most of their time."""
    train, val = labelled(train), labelled(val)
    if not train or not val or not fractions:
        return [math.nan] * len(fractions)
    frames, labels = stacked(val)
    return [float(np.mean(own == labels)) for own in _predictions(train, frames, fractions, classifier)]


def drawn_classification(
    train: Iterable[Sequence],
    val: Iterable[Sequence],
    fraction: float,
    classifier: str = "svm",
    *,
    draws: int,
    seed: int = 0,
) -> Array:
    """Accuracies of a phase classifier over random draws of the train videos: they do not hang on which come first.

    Args:
        train, val, fraction, classifier: as for `phase_predictions`; each draw is of max(1, int(fraction * videos)).
        draws: > 0.
        seed: of the draws, which are the same for both classifiers.

    Returns:
        (draws,) accuracies in 0..1; empty where train or val has no labelled frame.
    """
    if draws < 1:
        raise ValueError(f"draws: must be > 0, got {draws}")
    train, val = labelled(train), labelled(val)
    if not train or not val:
        return np.empty(0)
    num_drawn = len(first_share(train, fraction))
    rng = np.random.default_rng(seed)
    # In list order, which decides between equals; of few videos, several draws are the same ones.
    samples = [tuple(sorted(rng.choice(len(train), num_drawn, replace=False))) for _ in range(draws)]
    found = {
        sample: phase_classification([train[i] for i in sample], val, 1.0, classifier)
        for sample in dict.fromkeys(samples)
    }
    return np.array([found[sample] for sample in samples])
