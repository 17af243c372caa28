"""Settings that train in a second or two, and trainings for tests of what comes after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lacray.config import Config, build
from lacray.run import Run, execute

TINY = {
    "seed": 5,
    "data.num_frames": 10,
    "data.batch_size": 2,
    "data.validation_share": 0.25,
    "encoder.hidden": 32,
    "encoder.heads": 2,
    "encoder.feedforward": 32,
    "encoder.layers": 1,
    "encoder.embedding": 16,
    "fit.evaluate_every": 2,
    "fit.epochs": 4,
    "loss.name": "lac",
    "loss.alpha": 0.3,
}


def features_config(root: Path, **fields: Any) -> Config:
    """On `make_features`; loss__gamma=1 sets loss.gamma."""
    return build({**TINY, "data.root": str(root), "data.input": "features", **dotted(fields)})


def pouring_config(root: Path, **fields: Any) -> Config:
    """On rendered videos."""
    values = {**TINY, "data.root": str(root), "data.size": 32, "data.num_frames": 8, "evaluation.stride": 3}
    return build({**values, **dotted(fields)})


def dotted(fields: dict[str, Any]) -> dict[str, Any]:
    """loss__gamma=1 -> {"loss.gamma": 1}."""
    return {name.replace("__", "."): value for name, value in fields.items()}


def videos_config(root: Path) -> Config:
    """On videos of a few seconds; as long as it takes to tell their phases apart."""
    long = {"fit.epochs": 6, "fit.steps_per_epoch": 10, "fit.evaluate_every": 6, "fit.learning_rate": 0.003}
    own = {"data.root": str(root), "data.size": 32, "data.num_frames": 16, "data.validation_share": 0.0}
    return build({**{key: value for key, value in TINY.items() if key not in ("seed", "loss.alpha")}, **own, **long})


def train(config: Config, folder: Path) -> Path:
    """A checkpoint, as `python -m lacray.train` writes it."""
    run = Run(config.flat(), str(folder), study="train", run_id="model", stage="train", keep_checkpoint=True)
    for _ in execute(run, device=torch.device("cpu")):
        pass
    return folder / "train" / "checkpoints" / "model.pt"
