"""Phase classification: how often a classifier of frames, trained on few or all videos, is right on others."""

from __future__ import annotations

import math
from collections.abc import Iterable

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
    if classifier not in CLASSIFIERS:
        raise ValueError(f"classifier: must be one of {', '.join(CLASSIFIERS)}, got {classifier!r}")
    train, val = labelled(train), labelled(val)
    if not train or not val:
        raise ValueError(f"phase_classification: needs labelled train and val frames, got {len(train)}/{len(val)}")
    return _predict_phases(first_share(train, fraction), stacked(val)[0], classifier)


def _predict_phases(train: list[Sequence], frames: Array, classifier: str) -> Array:
    embeddings, labels = stacked(train)
    if classifier == "svm":
        step = svm_step(train)
        embeddings, labels = embeddings[::step], labels[::step]
    if (labels == labels[0]).all():
        return np.full(len(frames), labels[0])
    if classifier == "svm":
        return svm_predictions(embeddings, labels, frames)
    # As the releases call it: no limit of iterations, and scikit-learn's tolerance, which ends it near the optimum.
    predictions: Array = LogisticRegression(max_iter=100_000).fit(embeddings, labels).predict(frames)
    return predictions


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
    train, val = labelled(train), labelled(val)
    if not train or not val:
        return math.nan
    return float(np.mean(phase_predictions(train, val, fraction, classifier) == stacked(val)[1]))


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
