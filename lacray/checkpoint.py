"""Encoder, loss, setting and state of training, to a file and back."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lacray import distributed
from lacray.config import Config, UserError, build
from lacray.encoder import Encoder, build_encoder
from lacray.losses import Loss, build_loss

CHECKPOINT_FORMAT = 3
ARCHITECTURE = ("encoder.", "loss.name", "loss.projection", "loss.gap")
"""How settings begin that say which weights there are."""
KEYS = {
    "format",
    "config",
    "num_features",
    "encoder",
    "loss",
    "optimizer",
    "scheduler",
    "epoch",
    "seconds",
    "world_size",
    "random_states",
    "cuda_random_states",
    "calibration",
}


class CheckpointError(UserError):
    """A checkpoint that is no checkpoint, or one of another architecture."""


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds, ready for use: both modules are in eval mode."""

    encoder: Encoder
    loss: Loss
    """With what it has learned: its gap penalties, or its head."""
    config: Config
    num_features: int | None
    """Channels of the features that it takes; None for videos."""
    calibration: dict[str, Any] | None
    """What `lacray.apply.calibration` measured with these very weights; None before the training was over."""
    videos: Mapping[str, str]
    """The fingerprint (`VideoSet.fingerprint`) of what it was trained on, where a run has stored it."""


def capture(
    config: Config,
    encoder: Encoder,
    loss: Loss,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    *,
    num_features: int | None,
    epoch: int,
    seconds: float,
    device: torch.device,
) -> dict[str, Any] | None:
    """The state of training after an epoch, entered by every rank; at rank 0 what `save` writes, None on the others.

    It refers to the weights as they are and will be: save it before they are trained on.
    """
    random_states = distributed.gather(torch.get_rng_state())
    cuda_random_states = distributed.gather(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None
    if not distributed.is_first():
        return None
    return {
        "format": CHECKPOINT_FORMAT,
        "config": config.flat(),
        "num_features": num_features,
        "encoder": encoder.state_dict(),
        "loss": loss.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"last_epoch": scheduler.last_epoch},
        "epoch": epoch,
        "seconds": seconds,
        "world_size": distributed.world_size(),
        "random_states": random_states,
        "cuda_random_states": cuda_random_states,
        "calibration": None,
    }


def restore(
    state: dict[str, Any],
    encoder: Encoder,
    loss: Loss,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    *,
    device: torch.device,
) -> None:
    """Put a captured state back, on each rank its own random state; a rank that was not there before keeps its own.

    Raises:
        CheckpointError: it is of another architecture.
    """
    try:
        encoder.load_state_dict(state["encoder"])
        loss.load_state_dict(state["loss"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        had = {key: value for key, value in state["config"].items() if key.startswith(ARCHITECTURE)}
        raise CheckpointError(
            f"checkpoint: is of another architecture than this setting ({str(error).splitlines()[0].strip()}); "
            f"it was trained with {had}"
        ) from error
    scheduler.last_epoch = state["scheduler"]["last_epoch"]
    rank = distributed.rank()
    if rank < len(state["random_states"]):
        torch.set_rng_state(state["random_states"][rank])
    if device.type == "cuda" and rank < len(state["cuda_random_states"] or ()):
        torch.cuda.set_rng_state(state["cuda_random_states"][rank], device)


def save(state: dict[str, Any], path: Path) -> None:
    """Write a captured state; whoever reads `path` finds it whole, or the one before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path, where: str | None = None) -> dict[str, Any]:
    """The state that `save` wrote, with weights_only: a file from a stranger cannot run code.

    Args:
        where: it was fetched from, for messages.

    Raises:
        CheckpointError: it does not exist, is damaged, or is no checkpoint of lacray.
    """
    where = where or str(path)
    if path.is_dir():
        raise CheckpointError(f"checkpoint: {where} is a folder; name the .pt file of a training")
    if not path.is_file():
        raise CheckpointError(f"checkpoint: {where} does not exist")
    try:
        # torch compares no checksums: weights that are no longer those would be taken for them without a word.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"checkpoint: {where} is no checkpoint of lacray ({type(error).__name__})") from error
    if damaged:
        raise CheckpointError(
            f"checkpoint: {where} is damaged (the checksum of {damaged}); copy it anew, or train again"
        )
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"checkpoint: {where} must have format {CHECKPOINT_FORMAT}, got {found!r}")
    if missing := KEYS - state.keys():
        raise CheckpointError(f"checkpoint: {where} is not whole: it lacks {', '.join(sorted(missing))}")
    return state


def load_model(path: Path | str) -> Trained:
    """The trained encoder and loss of a checkpoint, in eval mode, and their setting.

    Raises:
        CheckpointError: as `read_checkpoint`, or its weights are not those of its setting.
    """
    return model_of(read_checkpoint(Path(path)), str(path))


def model_of(state: dict[str, Any], where: str) -> Trained:
    """`load_model` of a state that has been read, or captured.

    Args:
        where: it comes from, for messages.

    Raises:
        CheckpointError: its weights are not those of its setting.
    """
    config = build(state["config"])
    # The checkpoint brings all weights: nothing is fetched.
    bare = config.encoder.model_copy(update={"weights": "none"})
    encoder = build_encoder(bare, config.data, num_features=state["num_features"])
    loss = build_loss(config)
    try:
        encoder.load_state_dict(state["encoder"])
        loss.load_state_dict(state["loss"])
    except (RuntimeError, TypeError) as error:
        first = str(error).splitlines()[0].strip()
        raise CheckpointError(f"checkpoint: {where} holds weights of another setting than its own ({first})") from error
    known = state["num_features"], state["calibration"], state.get("videos", {})
    return Trained(encoder.eval(), loss.eval(), config, *known)
