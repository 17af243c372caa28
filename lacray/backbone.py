"""A frozen picture network: frames -> one feature vector each, with a record of what it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from lacray.config import UserError
from lacray.weights import load_weights

TIMM = "timm:"


class BackboneError(UserError):
    """A backbone that is not there, or not what it should be."""


@dataclass(frozen=True)
class FrozenBackbone:
    """A network in eval mode without its classifier, and what it wants."""

    name: str
    module: nn.Module
    channels: int
    size: int
    """Height and width of the frames that it sees."""
    mean: Sequence[float]
    std: Sequence[float]
    weights: str
    """SHA-256 of its parameters and buffers, whatever file they came from."""
    source: str
    """Where the weights came from, in words."""

    def to(self, device: torch.device) -> FrozenBackbone:
        self.module.to(device)
        return self


class FeatureNet(nn.Module):
    """Frames (n, 3, H, W) uint8 -> features (n, channels) float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: FrozenBackbone, *, precision: torch.dtype) -> None:
        super().__init__()
        self.module, self.precision = backbone.module, precision
        self.register_buffer("mean", torch.tensor(backbone.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std)[:, None, None], persistent=False)

    @torch.inference_mode()
    def forward(self, frames: Tensor) -> Tensor:
        pictures = ((frames / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(frames.device.type, self.precision, enabled=self.precision != torch.float32):
            return self.module(pictures).float()


def load(name: str, *, weights: str | None = None, size: int | None = None) -> FrozenBackbone:
    """A backbone by what the user calls it.

    Args:
        name: of a torchvision model, `timm:NAME`, or a file of weights whose name begins with that of its torchvision
            model, as those that torchvision offers do (`resnet50-11ad3fa6.pth`).
        weights: `default` (the library's, fetched where they are not cached yet), a local file; None: the file that is
            `name`, else `default`.
        size: height and width of the frames; None: those that the network was trained on.

    Raises:
        BackboneError: names what is not there, and the remedy.
    """
    if Path(name).is_file():
        if weights is not None:
            raise BackboneError(f"--weights: the backbone {name} is a file of weights; leave one of the two out")
        name, weights = _model_of(Path(name)), name
    weights = weights or "default"
    if name.startswith(TIMM):
        module, channels, wanted, mean, std, source = _of_timm(name.removeprefix(TIMM), weights)
    else:
        module, channels, wanted, mean, std, source = _of_torchvision(name, weights)
    backbone = FrozenBackbone(name, module.eval(), channels, size or wanted, mean, std, digest(module), source)
    _check(backbone)
    return backbone


Parts = tuple[nn.Module, int, int, Sequence[float], Sequence[float], str]


def _of_torchvision(name: str, weights: str) -> Parts:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = ", ".join(get_close_matches(name, known, n=3)) or "resnet50, vit_b_16"
        raise BackboneError(
            f"--backbone: must be a torchvision model, timm:NAME or a file of weights, got {name!r}; near: {near}"
        )
    entry = torchvision.models.get_model_weights(name)["DEFAULT"]
    # What a network was trained on holds for weights of one's own too.
    preset = entry.transforms()
    size = int(preset.crop_size[0])
    if weights != "default":
        module, channels = _without_classifier(name, torchvision.models.get_model(name, weights=None))
        _load(module, name, weights)
        return module, channels, size, preset.mean, preset.std, Path(weights).name
    try:
        model = torchvision.models.get_model(name, weights=entry)
    except (OSError, RuntimeError) as error:
        raise BackboneError(
            f"--backbone: torchvision's weights of {name} could not be fetched ({_line(error)}); fetch {entry.url} "
            f"on a machine with a network, and give it: --backbone {name} --weights FILE"
        ) from error
    module, channels = _without_classifier(name, model)
    return module, channels, size, preset.mean, preset.std, f"torchvision {entry}"


def _of_timm(name: str, weights: str) -> Parts:
    try:
        import timm
    except ImportError as error:
        raise BackboneError(
            f"--backbone: {TIMM}{name} needs timm, which is not installed: pip install 'lacray[timm]'"
        ) from error
    if not timm.is_model(name.partition(".")[0]):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=3)) or "see timm.list_models()"
        raise BackboneError(f"--backbone: timm has no model {name!r}; near: {near}")
    try:
        module = timm.create_model(name, pretrained=weights == "default", num_classes=0)
    except Exception as error:  # what it fetches from raises errors of its own
        raise BackboneError(
            f"--backbone: timm's weights of {name} could not be fetched ({_line(error)}); fetch {_address(name)} on a "
            f"machine with a network, and give it: --backbone {TIMM}{name} --weights FILE"
        ) from error
    if weights != "default":
        _load(module, name, weights)
    wanted = timm.data.resolve_model_data_config(module)
    size = int(wanted["input_size"][1])
    # Not `num_features`: a head may have layers of its own before the classifier, as MobileNetV3's.
    with torch.inference_mode():
        channels = int(module.eval()(torch.zeros(1, 3, size, size)).shape[-1])
    source = f"timm {name}" if weights == "default" else Path(weights).name
    return module, channels, size, wanted["mean"], wanted["std"], source


def _address(name: str) -> str:
    """Where timm fetches the weights of a model from."""
    import timm

    known = timm.get_pretrained_cfg(name)
    if known is not None and known.hf_hub_id:
        return f"https://huggingface.co/{known.hf_hub_id} (model.safetensors)"
    return "them" if known is None or not known.url else str(known.url)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _model_of(path: Path) -> str:
    """The torchvision model whose name a file of weights begins with: the longest."""
    known = torchvision.models.list_models(module=torchvision.models)
    fitting = [name for name in known if path.name.lower().startswith(name)]
    if not fitting:
        raise BackboneError(
            f"--backbone: {path} must begin with the name of its torchvision model, as resnet50-11ad3fa6.pth; "
            "else give both: --backbone resnet50 --weights FILE"
        )
    return max(fitting, key=len)


def _without_classifier(name: str, model: nn.Module) -> tuple[nn.Module, int]:
    """A classifier less its last layer, and the channels that went into that."""
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise BackboneError(f"--backbone: {name} has no last linear layer to be left out; use resnet50 or another one")
    parent, _, child = linear[-1].rpartition(".")
    channels = model.get_submodule(linear[-1]).in_features
    setattr(model.get_submodule(parent), child, nn.Identity())
    assert isinstance(channels, int)
    return model, channels


def _load(module: nn.Module, name: str, weights: str) -> None:
    load_weights(
        module,
        weights,
        network=name,
        setting="--weights",
        words="`default`",
        other="another --backbone",
        error=BackboneError,
    )


def digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, by name."""
    total = hashlib.sha256()
    state: Mapping[str, Any] = module.state_dict()
    for key in sorted(state):
        if key.endswith("num_batches_tracked"):
            continue
        value = state[key].detach().cpu().contiguous()
        total.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@torch.inference_mode()
def _check(backbone: FrozenBackbone) -> None:
    """Refuse a network whose output is no vector a frame, or that does not take frames of the size."""
    try:
        out = backbone.module(torch.zeros(1, 3, backbone.size, backbone.size))
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(f"--size: {backbone.name} takes no frames of {backbone.size} ({_line(error)})") from error
    if not isinstance(out, Tensor) or out.shape != (1, backbone.channels):
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise BackboneError(f"--backbone: {backbone.name} must give ({backbone.channels},) for a frame, got {got}")
