"""Settings that train in a second or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lacray.config import Config, build

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
