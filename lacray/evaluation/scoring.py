"""All metrics of a split: within an action, and their means over actions."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np

from lacray.evaluation import classification
from lacray.evaluation.classification import drawn_classification, phase_classifications, svm_step
from lacray.evaluation.neighbours import alignment_error, average_precision, event_error, pairwise_taus
from lacray.evaluation.regression import progress
from lacray.evaluation.sequences import Array, Sequence, count_phases, first_share, labelled
from lacray.metrics import CLASSIFIERS, FRACTIONS, KS, OBJECTIVE, OBJECTIVE_PARTS, spread
from lacray.metrics import classification as class_name


@dataclass(frozen=True)
class Scores:
    """The metrics of a split. Always finite: what is undefined is absent."""

    metrics: dict[str, float]
    """By name; means over actions where there are several."""
    by_action: dict[str, dict[str, float]] = field(default_factory=dict)
    """Action -> its metrics; empty where all videos are of one."""
    num_actions: dict[str, int] = field(default_factory=dict)
    """Of how many actions each metric is the mean; empty where all videos are of one."""


def evaluate(
    train: Iterable[Sequence],
    val: Iterable[Sequence],
    *,
    stride: int,
    fractions: Seq[float] = FRACTIONS,
    ks: Seq[int] = KS,
    draws: int = 0,
    seed: int = 0,
    phases: Mapping[str, Seq[str]] | None = None,
    notes: list[str] | None = None,
) -> Scores:
    """Every metric that the data define: within each action, then the mean over actions.

    Args:
        train: videos that the classifiers and the regression learn from; list order matters (`phase_classification`).
        val: videos that are scored.
        stride: frames between those that AP@K and Kendall's tau use; the others use every frame.
        fractions: shares of an action's train videos for classification; 0.1 -> class_10.
        ks: neighbours for AP@K.
        draws: n > 0 adds class_10_draws, class_10_logistic_draws, ...: the means over n random draws of an action's
            train videos; and class_10_draws_sd, ...: the sample standard deviations over draws (of their mean over
            actions; each action's draws are its own).
        seed: of the draws.
        phases: action -> (K,) names of its phases, for the notes.
        notes: a list to which this appends, in words, everything that was left out and why.

    Returns:
        class_10, class_50, class_100 (SVM), class_10_logistic, ..., progress, ap_5, ap_10, ap_15, kendalls_tau,
        event_error and, where the true progress is known, alignment_error.

    Raises:
        ValueError: names the argument, what it must be, and what it was.
    """
    train, val = list(train), list(val)
    said: list[str] = [] if notes is None else notes
    actions = sorted({s.action for s in train + val}) or [""]
    by_action: dict[str, dict[str, float]] = {}
    drawn_by_action: dict[str, dict[str, Array]] = {}
    for action in actions:
        own_notes: list[str] = []
        by_action[action], drawn_by_action[action] = _evaluate_action(
            [s for s in train if s.action == action],
            [s for s in val if s.action == action],
            stride=stride,
            fractions=fractions,
            ks=ks,
            draws=draws,
            # Where each action drew the same places of its list, the spread of their mean would be too large.
            seed=zlib.crc32(f"{seed}:{action}".encode()) if len(actions) > 1 else seed,
            phases=None if phases is None else phases.get(action),
            notes=own_notes,
        )
        said += own_notes if len(actions) == 1 else [f"{action}: {note}" for note in own_notes]
    if len(actions) == 1:
        metrics = by_action[actions[0]]
        return Scores(metrics | _means_of_draws(drawn_by_action[actions[0]]))
    for action, own in drawn_by_action.items():
        by_action[action] |= _means_of_draws(own)
    metrics, num_actions = mean_over_actions(by_action, notes=said)
    # The deviation is that of the mean over actions, not the mean of the actions' own.
    drawn = {name: [own[name] for own in drawn_by_action.values() if name in own] for name in _names(drawn_by_action)}
    metrics |= _means_of_draws({name: np.mean(values, axis=0) for name, values in drawn.items()})
    return Scores(metrics, by_action, num_actions)


def _means_of_draws(drawn: Mapping[str, Array]) -> dict[str, float]:
    """Mean and deviation of each metric's draws; one draw has no deviation."""
    found: dict[str, float] = {}
    for name, values in drawn.items():
        found[name] = float(np.mean(values))
        if len(values) > 1:
            found[spread(name)] = float(np.std(values, ddof=1))
    return found


def _names(by_action: Mapping[str, Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for own in by_action.values() for name in own))


def mean_over_actions(
    by_action: Mapping[str, Mapping[str, float]], *, notes: list[str]
) -> tuple[dict[str, float], dict[str, int]]:
    """Means over the actions that define a metric, and how many these are.

    Args:
        by_action: action -> its metrics by name.
        notes: a list to which this appends which actions are missing from which means.

    Returns:
        Means and numbers of actions, by the name of the metric.
    """
    names = _names(by_action)
    values = {name: [own[name] for own in by_action.values() if name in own] for name in names}
    lacking: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        lacking.setdefault(tuple(action for action, own in by_action.items() if name not in own), []).append(name)
    notes += [
        f"{', '.join(own)}: the mean over {len(by_action) - len(actions)} of {len(by_action)} actions, undefined for "
        f"{', '.join(actions)}"
        for actions, own in lacking.items()
        if actions
    ]
    return {name: float(np.mean(values[name])) for name in names}, {name: len(values[name]) for name in names}


def _evaluate_action(
    train: list[Sequence],
    val: list[Sequence],
    *,
    stride: int,
    fractions: Seq[float],
    ks: Seq[int],
    draws: int,
    seed: int,
    phases: Seq[str] | None,
    notes: list[str],
) -> tuple[dict[str, float], dict[str, Array]]:
    """Metrics within one action, and those over draws draw by draw."""
    num_phases = count_phases(train, val)
    notes += _absent_phases(labelled(train), "train", phases, num_phases)
    notes += _absent_phases(labelled(val), "val", phases, num_phases)

    metrics: dict[str, float] = {}
    drawn: dict[str, Array] = {}
    unlabelled = [split for split, videos in (("train", train), ("val", val)) if not labelled(videos)]
    if unlabelled:
        notes.append(f"no labelled frame in {' and '.join(unlabelled)}: only label-free metrics")
    else:
        metrics |= _classifications(labelled(train), val, fractions, notes)
        if draws:
            drawn = _drawn_classifications(labelled(train), val, fractions, draws, seed, notes)
        metrics["progress"] = progress(train, val)
    if "val" not in unlabelled:
        precisions = average_precision(val, list(ks), stride=stride)
        metrics |= {f"ap_{k}": value for k, value in zip(ks, precisions, strict=True)}  # type: ignore[arg-type]
        metrics["event_error"] = event_error(val)
    taus = pairwise_taus(val, stride)
    undefined = int(np.isnan(taus).sum()) - len(taus)
    if undefined > 0:
        notes.append(f"Kendall's tau undefined for {undefined} of {taus.size - len(taus)} ordered pairs: dropped")
    metrics["kendalls_tau"] = float(np.nanmean(taus)) if np.isfinite(taus).any() else math.nan
    if any(s.progress is not None for s in val):
        metrics["alignment_error"] = alignment_error(val)
    for key in [key for key, value in metrics.items() if math.isnan(value)]:
        notes.append(f"{key}: undefined on these videos: left out")
        del metrics[key]
    return metrics, drawn


def _classifications(
    train: list[Sequence], val: list[Sequence], fractions: Seq[float], notes: list[str]
) -> dict[str, float]:
    accuracies = {classifier: phase_classifications(train, val, fractions, classifier) for classifier in CLASSIFIERS}
    metrics: dict[str, float] = {}
    for index, fraction in enumerate(fractions):
        metrics |= {class_name(fraction, classifier): accuracies[classifier][index] for classifier in CLASSIFIERS}
        chosen = first_share(train, fraction)
        if (step := svm_step(chosen)) > 1:
            num_frames = sum(len(s.embeddings) for s in chosen)
            notes.append(
                f"{class_name(fraction)}: the SVM learned from one in {step} of {num_frames} frames "
                f"({classification.SVM_FRAMES} at most)"
            )
    return metrics


def _drawn_classifications(
    train: list[Sequence], val: list[Sequence], fractions: Seq[float], draws: int, seed: int, notes: list[str]
) -> dict[str, Array]:
    drawn: dict[str, Array] = {}
    for fraction in fractions:
        if fraction == 1:
            continue  # all of the videos can be drawn in one way only
        for classifier in CLASSIFIERS:
            name = class_name(fraction, classifier, is_drawn=True)
            drawn[name] = drawn_classification(train, val, fraction, classifier, draws=draws, seed=seed)
        longest = sorted(train, key=lambda s: len(s.embeddings))[-len(first_share(train, fraction)) :]
        if svm_step(longest) > 1:
            notes.append(
                f"{class_name(fraction, is_drawn=True)}: of draws of more than {classification.SVM_FRAMES} frames "
                "the SVM learned from a part"
            )
    return drawn


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


def objective(cropped: Scores, *, notes: list[str] | None = None) -> Scores:
    """A study's default objective: the mean of class_10, progress and AP@5 under the `cropped` protocol.

    No control maxes it: position alone does not tell the phase of a cropped video. Where there are several actions, it
    is the mean over those that define all three.

    Args:
        cropped: of `evaluate` on cropped videos.
        notes: a list to which this appends which actions are missing from it.

    Returns:
        `objective` alone; larger is better. Absent where the videos do not define it.
    """
    by_action = {action: _objective(own) for action, own in cropped.by_action.items()}
    if not by_action:
        return Scores(_objective(cropped.metrics))
    metrics, num_actions = mean_over_actions(by_action, notes=[] if notes is None else notes)
    return Scores(metrics, by_action, num_actions)


def _objective(metrics: Mapping[str, float]) -> dict[str, float]:
    if any(name not in metrics for name in OBJECTIVE_PARTS):
        return {}
    return {OBJECTIVE.name: float(np.mean([metrics[name] for name in OBJECTIVE_PARTS]))}
