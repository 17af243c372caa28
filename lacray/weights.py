"""Weights of a picture network from a local file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lacray.config import UserError

CLASSIFIERS = ("fc.", "classifier", "head", "last_linear.")
"""How names in the last layers of published networks begin."""


def load_weights(
    module: nn.Module,
    file: str | Path,
    *,
    network: str,
    setting: str,
    words: str,
    other: str,
    error: type[UserError] = UserError,
    dispensable: tuple[str, ...] = (),
) -> None:
    """Load a local state dict into a network: all that the network has must be there, and nothing else.

    Else the file of a deeper network of the family would do (a resnet34 has all that a resnet18 has).

    Args:
        file: what `torch.save` wrote of a state dict, or of a dict with one under `state_dict` or `model`; or a
            `.safetensors`. A classifier may be in it or not, whatever the network has.
        network: its name.
        setting: that named the file; `words` are what else it may be, and `other` is what could be given instead.
        error: type of what is raised.
        dispensable: how names of parameters begin that stay as they are.

    Raises:
        UserError: the file is none, or not of this network.
    """
    path = Path(file)
    if not path.is_file():
        raise error(f"{setting}: must be {words} or a file, got {str(file)!r}")
    try:
        state = _read(path)
    except ImportError as reason:
        raise error(
            f"{setting}: {path} needs safetensors, which is not installed: pip install 'lacray[timm]'"
        ) from reason
    except Exception as reason:
        raise error(
            f"{setting}: {path} is no state dict that loads with weights_only ({type(reason).__name__})"
        ) from reason
    state = next((state[key] for key in ("state_dict", "model") if isinstance(state, dict) and key in state), state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise error(f"{setting}: {path} must hold a state dict of tensors, got {type(state).__name__}")
    own = {
        key: value for key, value in module.state_dict().items() if not (dispensable and key.startswith(dispensable))
    }
    given = {key.removeprefix("module."): value for key, value in state.items()}
    # Counters are what old releases did not save.
    missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    misfit = [key for key in own if key in given and given[key].shape != own[key].shape]
    foreign = [key for key in given if key not in own and not key.startswith(CLASSIFIERS)]
    if missing or misfit or foreign:
        raise error(
            f"{setting}: {path} does not fit {network}: {len(missing)} of its {len(own)} tensors are missing, "
            f"{len(misfit)} of another shape and {len(foreign)} foreign to it, first "
            f"{min(missing + misfit + foreign)}; give the file of this network, or {other}"
        )
    module.load_state_dict({key: given[key] for key in own if key in given}, strict=False)


def _read(path: Path) -> Any:
    """What a file holds, by readers that run nothing of it."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
