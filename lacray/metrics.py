"""Every metric once: its name, its printed label, which way is better, what it needs. Imports nothing of lacray.

A metric's column in a row is `metric.PROTOCOL.NAME`, and `metric.objective` is what a study maximises by default. Where
a data set has several actions, these are means over actions: `num_actions.PROTOCOL.NAME` says of how many, and
`action.ACTION.PROTOCOL.NAME` is the value of one. `evaluation.py` computes them; its docstrings define them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PROTOCOLS = ("full", "cropped")
CLASSIFIERS = ("svm", "logistic")
FRACTIONS = (0.1, 0.5, 1.0)
"""Shares of the labelled train videos that a phase classifier learns from."""
KS = (5, 10, 15)
"""Neighbours of AP@K."""


@dataclass(frozen=True)
class Metric:
    """What a metric is called, how it is printed, and what it can be asked of."""

    name: str
    label: str
    better: str = "max"
    """`max` or `min`."""
    scale: float = 100.0
    """Printed as value x scale: a fraction as per cent, or as it is."""
    needs_labels: bool = True
    num_videos: int = 2
    """How many scored videos it needs: 1, or 2 where it compares videos with each other."""
    is_maximised: bool = True
    """Whether a study may maximise it: larger is better, and every evaluation of labelled videos has it."""


def classification(fraction: float, classifier: str = "svm", *, is_drawn: bool = False) -> str:
    """The name of phase classification from a share of the train videos: `class_10`, `class_10_logistic`, ...

    With `is_drawn`, of its mean over random draws of the videos (`class_10_draws`); `spread` names their deviation.
    """
    kind = "" if classifier == "svm" else f"_{classifier}"
    return f"class_{round(100 * fraction)}{kind}{'_draws' if is_drawn else ''}"


def spread(name: str) -> str:
    """The name of the standard deviation over the draws of a mean over draws."""
    return f"{name}_sd"


def _of_classifier(classifier: str, *, is_drawn: bool = False) -> tuple[Metric, ...]:
    suffix = (" logistic" if classifier == "logistic" else "") + (" drawn" if is_drawn else "")
    return tuple(
        Metric(
            classification(fraction, classifier, is_drawn=is_drawn),
            f"Class@{round(100 * fraction)}{suffix}",
            num_videos=1,
            is_maximised=not is_drawn,
        )
        for fraction in FRACTIONS
        # All of the videos can be drawn in one way only.
        if fraction < 1 or not is_drawn
    )


MAIN = (
    *_of_classifier("svm"),
    *(Metric(f"ap_{k}", f"AP@{k}") for k in KS),
    Metric("progress", "Progress", num_videos=1),
    Metric("kendalls_tau", "τ", needs_labels=False),
    Metric("event_error", "Event error ↓", "min", is_maximised=False),
    # In phases, from the exact progress that rendered videos alone have.
    Metric("alignment_error", "Align. error ↓", "min", 1.0, needs_labels=False, is_maximised=False),
)
"""The columns of the main tables, in order."""
LOGISTIC = _of_classifier("logistic")
"""Classification by logistic regression, in the order of the fractions."""
DRAWN = {classifier: _of_classifier(classifier, is_drawn=True) for classifier in CLASSIFIERS}
"""By classifier, its means over random draws of the train videos; there with `evaluation.label_draws` > 0."""
OBJECTIVE = Metric("objective", "objective")
"""The mean of OBJECTIVE_PARTS under the protocol `cropped`; under no protocol itself."""
OBJECTIVE_PARTS = ("class_10", "progress", "ap_5")
SHORT = ("class_10", "class_100", "progress", "ap_5", "kendalls_tau")
"""What is shown where there is room for a few."""

METRICS = (*MAIN, *LOGISTIC, *DRAWN["svm"], *DRAWN["logistic"], OBJECTIVE)
BY_NAME = {metric.name: metric for metric in METRICS}
MAXIMISED = tuple(metric.name for metric in METRICS if metric.is_maximised and metric is not OBJECTIVE)
SELECTABLE = (OBJECTIVE.name, *(f"{protocol}.{name}" for protocol in reversed(PROTOCOLS) for name in MAXIMISED))
"""What a study may maximise, as its YAML writes it: `objective`, `cropped.class_10`, ..., `full.class_10`, ..."""


def named(key: str) -> Metric:
    """The metric of a column or of a study's `metric`: `cropped.class_10`, `metric.full.progress`, `objective`.

    Raises:
        KeyError: no metric has this name.
    """
    return BY_NAME[key.rpartition(".")[2]]


# An action's name stands between the dots of a column's.
ACTION_NAME = re.compile(r"(?=.{1,100}(?:\.|$))[\w-]+(?: [\w-]+)*")
ACTION_COLUMN = re.compile(rf"action\.({ACTION_NAME.pattern})\.((?:(?:{'|'.join(PROTOCOLS)})\.)?\w+)")


def is_action_name(name: str) -> bool:
    """Whether an action may be called so: letters, digits, _ and -, and spaces between them, 100 at most."""
    return ACTION_NAME.fullmatch(name) is not None


def of_action(action: str, key: str) -> str:
    """The column of a metric within one action: `action.pullup.full.class_10`, `action.pullup.objective`.

    Raises:
        ValueError: the name of the action has no place in a column's.
    """
    column = f"action.{action}.{key}"
    if action_and_key(column) is None:
        raise ValueError(f"action: must be letters, digits, _, - and single spaces, 100 at most, got {action!r}")
    return column


def action_and_key(column: str) -> tuple[str, str] | None:
    """The two that `of_action` made a column of; None where it is no such column."""
    found = ACTION_COLUMN.fullmatch(column)
    return None if found is None else (found[1], found[2])


def num_actions(key: str) -> str:
    """The column that says over how many actions a metric is the mean: `num_actions.full.class_10`."""
    return f"num_actions.{key}"
