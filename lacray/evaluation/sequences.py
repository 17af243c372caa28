"""A video's frame embeddings with what is known of its frames: what every metric is computed from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


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
        action: what is done in it; labels of different actions have nothing to do with each other.

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
    action: str = ""

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
        action: str = "",
    ) -> Sequence:
        """Some frames of a video with the labels of all of it, so that targets stay those of the original time line.

        Args:
            name: names the video in messages.
            embeddings: (T, E) float of the frames at `steps`.
            steps: (T,) int frame indices in the original video: a crop, a stride or everything.
            num_frames: length of the original video in frames.
            labels: (num_frames,) int of the WHOLE video, < 0 where a frame has none; None: unlabelled.
            progress: (num_frames,) float of the WHOLE video, NaN where undefined; None: unknown.
            action: what is done in it.

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
            action=action,
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


def take(sequence: Sequence, keep: Any) -> Sequence:
    return replace(
        sequence,
        embeddings=sequence.embeddings[keep],
        labels=None if sequence.labels is None else sequence.labels[keep],
        progress=None if sequence.progress is None else sequence.progress[keep],
        steps=sequence.steps[keep],
    )


def labelled(sequences: Iterable[Sequence], *, need_labels: bool = True) -> list[Sequence]:
    """Drops frames without a phase, then videos without frames; unlabelled videos as well, or keeps all of them."""
    kept = []
    for sequence in sequences:
        if sequence.labels is not None:
            if (sequence.labels < 0).any():
                sequence = take(sequence, sequence.labels >= 0)
        elif need_labels:
            continue
        if len(sequence.embeddings):
            kept.append(sequence)
    return kept


def first_share(train: list[Sequence], fraction: float) -> list[Sequence]:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: must be in (0, 1], got {fraction}")
    return train[: max(1, int(fraction * len(train)))]


def given(values: Array | None) -> Array:
    assert values is not None
    return values


def count_phases(*splits: Iterable[Sequence]) -> int:
    return max((len(s.phase_ends) for split in splits for s in split if s.phase_ends is not None), default=0)


def stacked(sequences: Iterable[Sequence]) -> tuple[Array, Array]:
    videos = list(sequences)
    return np.concatenate([s.embeddings for s in videos]), np.concatenate([given(s.labels) for s in videos])
