"""Embeddings -> metrics: what frozen frame embeddings know of the phases and the progress of an action.

Pure functions of `Sequence`s; numpy, scipy and scikit-learn only. Every value is a fraction (0..1; R^2 may be
negative), except `alignment_error`, which counts phases. Frames with label < 0 are dropped everywhere; a metric that
a data set cannot define is NaN from its own function and absent from `evaluate`, which says why. The functions of one
metric take videos of one action; `evaluate` takes those of several, and averages over actions.

Sources: Dwibedi et al. 2019 (TCC) for the four published metrics; LAC paper, section 4, for their settings.
"""

from lacray.evaluation.classification import (
    drawn_classification,
    phase_classification,
    phase_classifications,
    phase_predictions,
)
from lacray.evaluation.cropping import crop, crop_window
from lacray.evaluation.neighbours import (
    alignment_error,
    average_precision,
    event_error,
    kendalls_tau,
    pairwise_taus,
)
from lacray.evaluation.regression import progress, progress_predictions
from lacray.evaluation.scoring import Scores, evaluate, objective
from lacray.evaluation.sequences import Sequence, phase_ends

__all__ = [
    "Scores",
    "Sequence",
    "alignment_error",
    "average_precision",
    "crop",
    "crop_window",
    "drawn_classification",
    "evaluate",
    "event_error",
    "kendalls_tau",
    "objective",
    "pairwise_taus",
    "phase_classification",
    "phase_classifications",
    "phase_ends",
    "phase_predictions",
    "progress",
    "progress_predictions",
]
