"""Losses on embedded clips; one file per method, one line each in `LOSSES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lacray.config import Config
from lacray.losses.clips import Clips
from lacray.losses.cross import CrossLoss
from lacray.losses.gta import GtaLoss
from lacray.losses.lac import LacLoss
from lacray.losses.lav import LavLoss
from lacray.losses.loss import Loss
from lacray.losses.lrprop import LrpropLoss
from lacray.losses.scl import SclLoss
from lacray.losses.tcc import TccLoss
from lacray.losses.tcn import TcnLoss
from lacray.losses.whole import WholeVideos

__all__ = ["LOSSES", "Clips", "Loss", "WholeVideos", "build_loss"]

LOSSES: dict[str, Callable[[Any, Config], Loss[Any]]] = {
    "cross": lambda own, config: CrossLoss(own, embedding=config.encoder.embedding),
    "gta": lambda own, config: GtaLoss(own),
    "lac": lambda own, config: LacLoss(own, num_frames=config.data.num_frames),
    "lav": lambda own, config: LavLoss(own),
    "lrprop": lambda own, config: LrpropLoss(own),
    "scl": lambda own, config: SclLoss(own, embedding=config.encoder.embedding),
    "tcc": lambda own, config: TccLoss(own),
    "tcn": lambda own, config: TcnLoss(own),
}
"""name -> the loss of a setting: its own section, and the whole of it."""


def build_loss(config: Config) -> Loss[Any]:
    """The loss module that `loss.name` names."""
    return LOSSES[config.loss.name](config.loss, config)
