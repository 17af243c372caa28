"""Losses on the embeddings of two clips; one file per method, one line each in `LOSSES`."""

from __future__ import annotations

from lacray.config import LacConfig
from lacray.losses.lac import LacLoss

__all__ = ["LOSSES", "LacLoss", "build_loss"]

LOSSES: dict[str, type[LacLoss]] = {"lac": LacLoss}


def build_loss(config: LacConfig, *, num_frames: int) -> LacLoss:
    """The loss module that `config.name` names, for clips of `num_frames` frames."""
    return LOSSES[config.name](config, num_frames=num_frames)
