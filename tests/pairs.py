"""Embedded clips that come in twos, as losses see them."""

from __future__ import annotations

import torch
from torch import Tensor

from lacray.losses import Clips


def paired(
    embeddings: Tensor, steps: Tensor, *, lengths: Tensor | None = None, video_lengths: Tensor | None = None
) -> Clips:
    """(B, 2, T, E), (B, 2, T), (B, 2), (B, 2) -> 2B clips of one action and B pairs, each of one video.

    Args:
        lengths: None: all T.
        video_lengths: None: equal.
    """
    num_pairs, _, num_frames, _ = embeddings.shape
    if lengths is None:
        lengths = torch.full((num_pairs, 2), num_frames)
    if video_lengths is None:
        video_lengths = torch.ones_like(lengths)
    order = torch.arange(2 * num_pairs)
    return Clips(
        embeddings=embeddings.flatten(0, 1),
        steps=steps.flatten(0, 1),
        lengths=lengths.flatten(),
        video_lengths=video_lengths.flatten(),
        video=order // 2,
        action=torch.zeros_like(order),
        pairs=order.unflatten(0, (-1, 2)),
    )
