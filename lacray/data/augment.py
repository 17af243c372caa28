"""Augmentations of clips: one draw per clip, shared by its frames, applied on the frames' device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as T

BLUR_SIZE = 224
JITTER = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class Augmentation:
    """The draw for one clip."""

    crop: tuple[float, float, float, float]
    """top, left, height, width as shares of the picture."""
    flip: bool
    jitter: tuple[tuple[str, float], ...]
    """Operation and its factor, in the order they are applied; () for none."""
    blur: float
    """Sigma in pixels of a picture of 224 px, 0 for none."""
    grey: bool


def draw(rng: np.random.Generator) -> Augmentation:
    """Draw the augmentation of a clip.

    Resized crop of area .8-1 and ratio 3/4-4/3; flip .5; colour jitter p .8 (brightness .8, contrast .8, saturation .8,
    hue .2) in random order; blur p .5 of sigma .1-2 (at 224 px); grey p .2.

    Source: the CARL and LAC releases.
    """
    crop = (0.0, 0.0, 1.0, 1.0)
    for _ in range(10):
        area, ratio = rng.uniform(0.8, 1.0), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        height, width = float(np.sqrt(area / ratio)), float(np.sqrt(area * ratio))
        if height <= 1 and width <= 1:
            crop = (float(rng.uniform(0, 1 - height)), float(rng.uniform(0, 1 - width)), height, width)
            break
    flip = bool(rng.random() < 0.5)
    jitter: tuple[tuple[str, float], ...] = ()
    if rng.random() < 0.8:
        factors = {name: float(rng.uniform(0.2, 1.8)) for name in JITTER[:3]} | {"hue": float(rng.uniform(-0.2, 0.2))}
        jitter = tuple((JITTER[index], factors[JITTER[index]]) for index in rng.permutation(4).tolist())
    blur = float(rng.uniform(0.1, 2.0)) if rng.random() < 0.5 else 0.0
    return Augmentation(crop, flip, jitter, blur, bool(rng.random() < 0.2))


def apply(frames: Tensor, augmentation: Augmentation) -> Tensor:
    """Augment the frames of one clip, (..., 3, H, W) uint8 -> the same shape in float32, 0..1."""
    shape = frames.shape
    height, width = shape[-2:]
    pictures = frames.reshape(-1, *shape[-3:]).float() / 255
    top, left, share_h, share_w = augmentation.crop
    if (share_h, share_w) != (1.0, 1.0):
        pictures = T.resized_crop(
            pictures,
            round(top * height),
            round(left * width),
            max(1, round(share_h * height)),
            max(1, round(share_w * width)),
            [height, width],
            interpolation=InterpolationMode.BILINEAR,
            antialias=True,
        )
    if augmentation.flip:
        pictures = pictures.flip(-1)
    for name, factor in augmentation.jitter:
        pictures = getattr(T, f"adjust_{name}")(pictures, factor)
    # Smaller pictures are blurred as much as if they were made smaller after it.
    sigma = augmentation.blur * min(height, width) / BLUR_SIZE
    if sigma > 0:
        # Two sigma on either side hold 95 % of the kernel; never wider than the picture.
        radius = min(int(np.ceil(2 * sigma)), (min(height, width) - 1) // 2)
        pictures = T.gaussian_blur(pictures, [2 * radius + 1, 2 * radius + 1], [sigma, sigma])
    if augmentation.grey:
        pictures = T.rgb_to_grayscale(pictures, num_output_channels=3)
    return pictures.reshape(shape)


def apply_to_clips(frames: Tensor, counts: list[int], augmentations: list[Augmentation]) -> Tensor:
    """Augment the frames of clips, one after the other (N, 3, H, W) uint8, `counts` of each -> float32, 0..1."""
    out = torch.empty(frames.shape, device=frames.device)
    clips = zip(frames.split(counts), out.split(counts), augmentations, strict=True)
    for clip, place, augmentation in clips:
        place.copy_(apply(clip, augmentation))
    return out
