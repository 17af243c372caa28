"""A data set that has been read: its videos with their labels, and which of them are kept apart for selection."""

from __future__ import annotations

import hashlib
import shlex
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lacray import metrics
from lacray.config import DataConfig, UserError

MADE_BY = "features"
"""Among the names of videos in a fingerprint; they have suffixes, or are below a folder."""
VIDEO_SETTINGS = ("root", "lead_in", "input", "action", "tier", "validation_share")
"""What of `data.*` a fingerprint depends on."""


def videos_setting(config: DataConfig) -> str:
    """What two settings share that must find the same videos: `data.root=... data.lead_in=... ...`."""
    return " ".join(f"data.{name}={getattr(config, name)}" for name in VIDEO_SETTINGS)


class DataError(UserError):
    """What is wrong with a data set on disk, a line each."""


@dataclass(frozen=True)
class Video:
    """One video (or its frames' features) with what is known of it."""

    name: str
    """Below the data set's folder, with `/`, printable, in Unicode's composed form (NFC) on every machine."""
    path: str
    num_frames: int
    split: str
    """`train` or `val`."""
    labels: NDArray[np.int64] | None = field(default=None, repr=False)
    """(num_frames,) phase of each frame, an index into `VideoSet.phases[action]`, the phases of its own action: 0..K-1,
    or -1 where it has none; None: no labels for this video."""
    progress: NDArray[np.float32] | None = field(default=None, repr=False)
    """(num_frames,) exact progress in 0..K, NaN where undefined; only rendered videos have it."""
    action: str = ""
    """What is done in it, a key of `VideoSet.phases`; empty where nothing says.

    Labels of different actions have nothing to do with each other: phase 1 of a squat is not phase 1 of a serve.
    Metrics are computed within each action and averaged over the actions; two videos of a pair are of one action.
    """

    @property
    def is_labelled(self) -> bool:
        """Whether any frame has a phase."""
        return self.labels is not None and bool((self.labels >= 0).any())


@dataclass(frozen=True)
class VideoSet:
    """A data set that has been checked: every video in it can be read."""

    root: str
    training: list[Video]
    """The train split in list order: the first of them are the classifiers' few labels."""
    held: frozenset[str]
    """Names of those of them that are kept apart for selection."""
    val: list[Video]
    phases: dict[str, list[str]]
    """The names of each action's phases, in the order of the process; every action of a video is a key, and has none
    where it has no labels. Of a data set without actions: those of the action `""`."""
    num_features: int | None
    """Channels of `features/*.npy`; None for videos."""
    unreadable: list[str]
    """`name: why`, for each video that was left out."""
    notes: list[str] = field(default_factory=list)
    """What was passed over and what was assumed, to be said once."""
    made_by: str | None = None
    """What made the features, in a line, where their folder says it."""

    @property
    def train(self) -> list[Video]:
        """What is trained on."""
        return [video for video in self.training if video.name not in self.held]

    @property
    def validation(self) -> list[Video]:
        """Videos of the train split that a study selects on."""
        return [video for video in self.training if video.name in self.held]

    @property
    def actions(self) -> list[str]:
        """The actions, in order; `[""]` where nothing says what is done."""
        return list(self.phases)

    @property
    def num_phases(self) -> int:
        """Phases of all actions."""
        return sum(map(len, self.phases.values()))

    @property
    def has_labels(self) -> bool:
        return any(video.is_labelled for video in self.training)

    def fingerprint(self) -> dict[str, str]:
        """What must not change between two runs: each video's part in a training and its labels' checksum, by name; and
        what made the features, at MADE_BY."""
        found = {}
        for video in self.training + self.val:
            part = "validation" if video.name in self.held else video.split
            labels = "no labels" if video.labels is None else f"labels {zlib.crc32(video.labels.tobytes()):08x}"
            action = f", {video.action}" if video.action else ""
            found[video.name] = f"{part}, {video.num_frames} frames, {labels}{action}"
        return found | ({MADE_BY: self.made_by} if self.made_by is not None else {})

    def checksum(self) -> str:
        """Of names, splits, lengths and labels; the same whatever share is kept apart for selection."""
        lines = [f"{name}: {told.replace('validation', 'train', 1)}" for name, told in self.fingerprint().items()]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:12]


def held_out(training: Sequence[Video], share: float) -> frozenset[str]:
    """Names of the training videos that a study selects on: a share of the labelled ones, of all where none is.

    The same share of every action. Two at least, because most metrics compare videos with each other, unless that
    would be more than half of them. Which they are belongs to the data, not to a run's seed: all trials of a study
    share them.
    """
    if share <= 0:
        return frozenset()
    held: list[str] = []
    actions = by_action(training)
    for own in actions.values():
        if len(own) == 1 and len(actions) > 1:
            continue  # nothing would be left of it to learn from
        chosen = [video.name for video in own if video.is_labelled] or [video.name for video in own]
        order = np.random.default_rng(0).permutation(len(chosen))
        least = 2 if len(chosen) >= 4 else 1
        held += [chosen[index] for index in order[: max(round(share * len(chosen)), least)]]
    return frozenset(held)


def by_action(videos: Iterable[Video]) -> dict[str, list[Video]]:
    """The videos of each action, in list order; the actions by name."""
    found: dict[str, list[Video]] = {}
    for video in videos:
        found.setdefault(video.action, []).append(video)
    return dict(sorted(found.items()))


def without_partner(videos: Iterable[Video]) -> list[Video]:
    """Those that no other of them shows the action of."""
    return [own[0] for own in by_action(videos).values() if len(own) == 1]


def why_not_selectable(videos: VideoSet, metric: str = "objective") -> list[str]:
    """Why a study could not select on these videos by a metric: known now, not after its trials."""
    remedy = f"or train without a study: {shlex.join(['python', '-m', 'lacray.train', f'data.root={videos.root}'])}"
    if not videos.held:
        return [
            f"{videos.root}: a study selects on a validation share of the training videos, got data.validation_share "
            f"0; raise it, {remedy}"
        ]
    # One action that can be scored is enough: an evaluation says which ones could not.
    return min((_why_not(videos, action, metric, remedy) for action in videos.actions or [""]), key=len)


def _why_not(videos: VideoSet, action: str, metric: str, remedy: str) -> list[str]:
    """As `why_not_selectable`, by the videos of one action alone."""
    maximised, of_action = metrics.named(metric), f" of {action}" if action else ""
    training, validation = ([v for v in own if v.action == action] for own in (videos.train, videos.validation))
    problems = []
    for share, chosen in (("training", training), ("validation", validation)):
        phases = phases_in(chosen)
        if len(phases) < 2 and maximised.needs_labels:
            num_labels = sum(int((video.labels >= 0).sum()) for video in chosen if video.labels is not None)
            got = f"{num_labels} labelled frames of {len(phases)} phase{'s' * (len(phases) != 1)}"
            problems.append(
                f"{videos.root}: a study selects by labels of two phases at least in the training and in the "
                f"validation share, got {got} in the {len(chosen)} {share} videos{of_action}; label more of them in "
                f"segments.csv, {remedy}"
            )
    able = [video for video in validation if video.is_labelled or not maximised.needs_labels]
    if len(able) < maximised.num_videos and not problems:
        problems.append(
            f"{videos.root}: a study that maximises {metric} compares two validation videos at least, got "
            f"{len(able)}{of_action}; label more training videos, raise data.validation_share, {remedy}"
        )
    return problems


def phases_in(videos: Sequence[Video]) -> set[int]:
    """The phases that occur in some videos of one action."""
    return {int(phase) for video in videos if video.labels is not None for phase in np.unique(video.labels)} - {-1}
