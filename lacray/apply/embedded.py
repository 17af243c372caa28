"""A video as a model sees it: an embedding a frame, and when the frames are shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lacray.config import UserError
from lacray.data.labels import SAME_S


class NoClockError(UserError):
    """A time was asked of a video whose frames have none."""


@dataclass(frozen=True, eq=False)
class EmbeddedVideo:
    """The embeddings of one video, of T frames."""

    name: str
    embeddings: NDArray[np.float32]
    """(T, E), T >= 1."""
    seconds: NDArray[np.float64] | None = None
    """(T,) when a player shows each frame, not falling; None where that is not known, as of features."""
    end: float | None = None
    """When its last frame is no longer shown, in seconds; None as `seconds`."""
    path: str | None = None
    """Of the file that was embedded; None where there is none."""
    film: str | None = None
    """Of the file that holds its pictures and its sound; None where there is none."""

    def __len__(self) -> int:
        return len(self.embeddings)

    def time_of(self, frame: float) -> float | None:
        """When a frame is shown, in seconds, a place between two of them in between; None without a clock.

        `len(self)` is the end of the video.
        """
        if self.seconds is None:
            return None
        end = self.seconds[-1] if self.end is None else self.end
        return float(np.interp(frame, np.arange(len(self) + 1), np.append(self.seconds, end)))

    def frame_at(self, seconds: float) -> float:
        """The place of a moment among the frames, not whole between two of them.

        The time of a frame is this frame's to the millisecond, as tables have it.

        Raises:
            NoClockError: the video has no clock.
        """
        if self.seconds is None:
            raise NoClockError(f"{self.name}: has no frame times, as features hold none; ask by frame")
        # Of frames that are shown at one time the last one stays.
        first = int(np.searchsorted(self.seconds, seconds + SAME_S, side="right")) - 1
        if first < 0:
            return 0.0
        if first + 1 == len(self):
            return float(first)
        behind = max(seconds - float(self.seconds[first]), 0.0)
        return first + behind / float(self.seconds[first + 1] - self.seconds[first])
