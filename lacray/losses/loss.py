"""What every loss is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from lacray.config import LossSection
from lacray.losses.clips import Clips
from lacray.losses.whole import WholeVideos

Own = TypeVar("Own", bound=LossSection)


class Loss(nn.Module, ABC, Generic[Own]):
    """A loss of embedded clips; what it learns (gaps, projection heads) are its parameters, trained with the encoder.

    Subclasses define `compute`, and the rest where they differ.

    Args:
        config: its own section.
    """

    couples_pairs = False
    """Whether it is no mean over pairs: several ranks then join their embeddings, to be one batch."""

    wants_features = False
    """Whether it reads the frozen features of whole videos, where the encoder takes features."""
    whole_stride = 1
    """Of a whole video it sees every so many-th frame."""
    done: float = 0.0
    """The share of the training that was over before this step; whoever trains sets it."""

    def __init__(self, config: Own) -> None:
        super().__init__()
        self.config = config

    def forward(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, in float32 at least.

        Returns:
            The scalar loss, and its detached parts by name, `total` among them.
        """
        with torch.autocast(clips.embeddings.device.type, enabled=False):
            return self.compute(clips.cleaned())

    @abstractmethod
    def compute(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        """`forward` of clips whose padding is zeros."""

    def parameter_groups(self) -> list[dict[str, object]]:
        """The loss's own parameters for the optimiser; with the encoder's learning rate unless they say another."""
        own = list(self.parameters())
        return [{"params": own}] if own else []

    def wants_videos(self, until: float) -> bool:
        """Whether it has to `see` the training videos whole before an epoch that ends at this share of the training."""
        return False

    def see(self, videos: WholeVideos) -> None:
        """Take the training videos, embedded whole with the weights as they are, for the steps of an epoch."""
        del videos  # most losses look at clips alone

    def diagnostics(self) -> dict[str, float]:
        """What the loss has learned, by column name."""
        return {}
