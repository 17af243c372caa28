"""What a loss sees of a batch: embedded clips, and which of them are pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clips:
    """Embedded clips of a batch; frames beyond `lengths` are padding and change nothing.

    Attributes:
        embeddings: (S, T, E) float.
        steps: (S, T) int64, frame index of each sampled frame in its video.
        lengths: (S,) int64, real frames of each clip.
        video_lengths: (S,) int64, frames of each clip's whole video.
        video: (S,) int64, which video a clip is of; the same number on every rank.
        action: (S,) int64, what is done in it; videos of different actions have nothing to be aligned by.
        pairs: (P, 2) int64, clips that are to be aligned: two views of one video, or two videos of one action.
    """

    embeddings: Tensor
    steps: Tensor
    lengths: Tensor
    video_lengths: Tensor
    video: Tensor
    action: Tensor
    pairs: Tensor

    @property
    def mask(self) -> Tensor:
        """(S, T) bool, True = real frame."""
        return torch.arange(self.steps.shape[1], device=self.steps.device) < self.lengths[:, None]

    def cleaned(self) -> Clips:
        """In float32 at least, with zeros in the padding: garbage there must not reach a sum, where 0 * inf is NaN."""
        embeddings = self.embeddings
        if embeddings.dtype in (torch.float16, torch.bfloat16):
            embeddings = embeddings.float()
        mask = self.mask
        embeddings = embeddings.masked_fill(~mask[..., None], 0.0)
        return replace(self, embeddings=embeddings, steps=self.steps.masked_fill(~mask, 0))
