"""A small data set, and a model that was trained on it, for all tests of the page."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from takes import write_takes

from lacray.config import build
from lacray.run import Run, execute


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """(data set, directory of results)."""
    folder = tmp_path_factory.mktemp("page")
    root = write_takes(folder / "my takes")
    config = build(
        {
            "data.root": str(root),
            "data.size": 32,
            "data.num_frames": 16,
            "data.batch_size": 2,
            "data.validation_share": 0.0,
            "encoder.hidden": 32,
            "encoder.heads": 2,
            "encoder.feedforward": 32,
            "encoder.layers": 1,
            "encoder.embedding": 16,
            "fit.epochs": 5,
            "fit.steps_per_epoch": 10,
            "fit.evaluate_every": 5,
            "fit.learning_rate": 0.003,
        }
    )
    values = config.flat()
    run = Run(values, str(folder / "results"), "train", "takes", "train", keep_checkpoint=True)
    for _ in execute(run, device=torch.device("cpu")):
        pass
    return root, folder / "results"
