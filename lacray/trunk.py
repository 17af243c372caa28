"""A torchvision network up to its last feature map of stride 16, and which part of it is trained."""

from __future__ import annotations

import torch
import torchvision
from torch import nn

from lacray.config import ConfigError, EncoderConfig
from lacray.weights import CLASSIFIERS, load_weights

NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


def torchvision_trunk(config: EncoderConfig) -> tuple[nn.Module, int]:
    """A torchvision backbone up to its last feature map of stride 16, and that map's channels.

    Raises:
        ConfigError: an unknown name, weights that are not there or do not fit, or a backbone without feature maps.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if config.name not in names:
        from difflib import get_close_matches

        near = ["small", *get_close_matches(config.name, names, n=3)]
        raise ConfigError(f"encoder.name: must be `small` or a torchvision model, got {config.name!r}; near: {near}")
    weights = None
    if config.weights == "default":
        weights = torchvision.models.get_model_weights(config.name)["DEFAULT"]
    try:
        model = torchvision.models.get_model(config.name, weights=weights)
    except OSError as error:
        raise ConfigError(
            f"encoder.weights: torchvision's default weights of {config.name} could not be fetched ({error}); "
            "give a local file, or encoder.weights=none"
        ) from error
    if config.weights not in ("default", "none"):
        load_weights(
            model,
            config.weights,
            network=config.name,
            setting="encoder.weights",
            words="`default`, `none`",
            other="another encoder.name",
            error=ConfigError,
            dispensable=CLASSIFIERS,
        )
    if config.name.startswith(("resnet", "resnext", "wide_resnet")):
        # Conv4c: the third block of layer3.
        trunk = nn.Sequential(
            model.conv1, model.bn1, model.relu, model.maxpool, model.layer1, model.layer2, model.layer3[:3]
        )
    elif isinstance(features := getattr(model, "features", None), nn.Sequential):
        trunk = features
    else:
        raise ConfigError(
            f"encoder.name: {config.name} has no sequence of feature maps to cut; use a resnet, efficientnet, "
            "mobilenet, densenet, convnext or vgg"
        )
    return _cut_at_stride_16(trunk)


def _cut_at_stride_16(trunk: nn.Sequential) -> tuple[nn.Module, int]:
    was_training = trunk.training
    trunk.eval()
    side = 64
    with torch.no_grad():
        maps = torch.zeros(1, 3, side, side)
        last, channels = 0, 3
        for index, stage in enumerate(trunk):
            maps = stage(maps)
            if maps.dim() != 4 or maps.shape[-1] != maps.shape[-2]:
                raise ConfigError(
                    "encoder.name: its stages must give maps (batch, channels, height, width), got "
                    f"{tuple(maps.shape)}; use a resnet, efficientnet, mobilenet, densenet, convnext or vgg"
                )
            if maps.shape[-1] < side // 16:
                break
            last, channels = index + 1, maps.shape[1]
    trunk.train(was_training)
    return trunk[:last], channels


@torch.no_grad()
def map_side(trunk: nn.Module, size: int) -> int:
    """Height and width of the maps of pictures (3, size, size)."""
    was_training = trunk.training
    side = trunk.eval()(torch.zeros(1, 3, size, size)).shape[-1]
    trunk.train(was_training)
    return side


def freeze(trunk: nn.Module, what: str) -> None:
    """Stop gradients in all (`none` trained), all but the last stage (`last`) or all but the norms of a backbone."""
    if what == "all":
        return
    if what == "norms":
        trunk.requires_grad_(False)
        for module in trunk.modules():
            if isinstance(module, NORMS):
                module.requires_grad_(True)
        return
    stages = [stage for stage in trunk.children() if any(True for _ in stage.parameters())]
    for stage in stages if what == "none" else stages[:-1]:
        stage.requires_grad_(False)
