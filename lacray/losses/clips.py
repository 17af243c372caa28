"""What a loss sees of a batch: embedded clips, and which of them are pairs."""

from __future__ import annotations

from dataclasses import dataclass

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
        video: (S,) int64, which of the batch's videos a clip is of.
        pairs: (P, 2) int64, clips that are to be aligned: two views of one video, or two videos of one action.
    """

    embeddings: Tensor
    steps: Tensor
    lengths: Tensor
    video_lengths: Tensor
    video: Tensor
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
        return Clips(
            embeddings.masked_fill(~mask[..., None], 0.0),
            self.steps.masked_fill(~mask, 0),
            self.lengths,
            self.video_lengths,
            self.video,
            self.pairs,
        )


def paired(
    embeddings: Tensor, steps: Tensor, *, lengths: Tensor | None = None, video_lengths: Tensor | None = None
) -> Clips:
    """Clips that come in twos: (B, 2, T, E), (B, 2, T), (B, 2), (B, 2) -> 2B clips and B pairs.

    Args:
        lengths: None: all T.
        video_lengths: None: equal.
    """
    num_pairs, _, num_frames, _ = embeddings.shape
    device = embeddings.device
    if lengths is None:
        lengths = torch.full((num_pairs, 2), num_frames, device=device)
    if video_lengths is None:
        video_lengths = torch.ones_like(lengths)
    order = torch.arange(2 * num_pairs, device=device)
    return Clips(
        embeddings.flatten(0, 1),
        steps.flatten(0, 1),
        lengths.flatten(),
        video_lengths.flatten(),
        order // 2,
        order.unflatten(0, (-1, 2)),
    )
