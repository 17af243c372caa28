"""Encoder, loss, setting and the state of a training, to and from a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lacray.config import Config, UserError, build
from lacray.encoder import Encoder, build_encoder
from lacray.losses import LacLoss, build_loss

FORMAT = 2


class CheckpointError(UserError):
    """A checkpoint that is no checkpoint, or one of another architecture."""


@dataclass(frozen=True)
class Model:
    """What was trained, in eval mode, with its setting."""

    encoder: Encoder
    loss: LacLoss
    """With what it has learned: gap penalties."""
    config: Config


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Load a checkpoint, with weights_only: a file from a stranger cannot run code.

    Raises:
        CheckpointError: it does not exist, or is no checkpoint of lacray.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint: {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"checkpoint: {path} is no checkpoint of lacray ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"checkpoint: {path} must have format {FORMAT}, got {found!r}")
    return state


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; it appears at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_model(path: Path | str) -> Model:
    """The trained encoder and loss of a checkpoint, in eval mode.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    state = read_checkpoint(path)
    config = build(state["config"])
    # The checkpoint brings all weights: nothing is fetched.
    bare = config.encoder.model_copy(update={"weights": "none"})
    encoder = build_encoder(bare, config.data, num_features=state["num_features"])
    loss = build_loss(config.loss, num_frames=config.data.num_frames)
    load(state, encoder, loss)
    return Model(encoder.eval(), loss.eval(), config)


def load_encoder(path: Path | str) -> tuple[Encoder, Config]:
    """The trained encoder of a checkpoint, in eval mode, and its setting.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    model = load_model(path)
    return model.encoder, model.config


def load(state: dict[str, Any], encoder: nn.Module, loss: nn.Module, optimizer: Any = None) -> None:
    """Put a checkpoint's state into what was built for a setting.

    Raises:
        CheckpointError: it is of another architecture.
    """
    try:
        encoder.load_state_dict(state["encoder"])
        loss.load_state_dict(state["loss"])
        if optimizer is not None:
            optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        had = {key: value for key, value in state["config"].items() if key.startswith(("encoder.", "loss.gap"))}
        raise CheckpointError(
            f"checkpoint: is of another architecture than this setting ({str(error).splitlines()[0].strip()}); "
            f"it was trained with {had}"
        ) from error
