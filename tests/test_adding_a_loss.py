"""A loss from outside, added by the five steps of CONTRIBUTING.md in a copy of the tree, learns and is recorded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from paths import ROOT

CONFIG = '''
class ToyConfig(LossSection):
    """Clips of a pair have the same mean embedding, up to a learned scale."""

    name: Literal["toy"] = "toy"
    power: Positive = 1.5
    """Of the distance of the means."""
'''

LOSS = '''
from __future__ import annotations

import torch
from torch import Tensor, nn

from lacray.config import ToyConfig
from lacray.losses.clips import Clips
from lacray.losses.loss import Loss


class ToyLoss(Loss[ToyConfig]):
    """exp(scale) |mean - mean|^power - scale, mean over pairs."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.scale = nn.Parameter(torch.zeros(()))

    def diagnostics(self) -> dict[str, float]:
        return {"toy.scale": self.scale.item()}

    def compute(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        means = clips.embeddings.sum(1) / clips.lengths[:, None]
        one, other = clips.pairs.T
        apart = ((means[one] - means[other]).square().sum(1) + 1e-12) ** (self.config.power / 2)
        loss = (self.scale.exp() * apart - self.scale).mean()
        return loss, {"apart": apart.mean().detach(), "total": loss.detach()}
'''

SPACE = """
name: toy
description: a loss from outside
fixed: {loss.name: toy, data.input: features, data.num_frames: 40, data.batch_size: 2, encoder.hidden: 16,
        encoder.heads: 2, encoder.feedforward: 16, encoder.layers: 1, fit.epochs: 8, fit.learning_rate: 0.01,
        fit.warmup_epochs: 0, fit.evaluate_every: 8}
search:
  loss.power: {type: float, low: 0.5, high: 3.0, log: true}
"""

TEST = """
from __future__ import annotations

import numpy as np
import pytest
import torch
from pairs import paired
from tiny import make_features

import lacray
from lacray import results
from lacray.checkpoint import load_model
from lacray.config import ConfigError, ToyConfig, build
from lacray.losses.toy import ToyLoss
from lacray.run import Run, execute
from lacray.study.space import find_space, load_space


def test_the_copy_is_what_is_tested():
    assert lacray.__file__.startswith(COPY)


def test_value_is_that_of_the_means_one_by_one():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(3, 2, 9, 5, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([[9, 4], [7, 9], [2, 1]])
    loss = ToyLoss(ToyConfig(power=0.7)).double()
    found, parts = loss(paired(embeddings, torch.arange(9).expand(3, 2, 9), lengths=lengths))
    expected = []
    for pair in range(3):
        means = [embeddings[pair, side, : lengths[pair, side]].numpy().mean(axis=0) for side in (0, 1)]
        expected.append(np.linalg.norm(means[0] - means[1]) ** 0.7)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-9)
    assert parts["apart"].item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_its_settings_are_its_own():
    with pytest.raises(ConfigError, match="loss.power: is a setting of loss.name=toy, and this one is lac"):
        build({"loss.name": "lac", "loss.power": 2.0})
    with pytest.raises(ConfigError, match="loss.power: must be > 0, got -1"):
        build({"loss.name": "toy", "loss.power": -1})


def test_a_trial_of_its_study_learns_is_recorded_and_comes_back(tmp_path):
    space = load_space(find_space("toy.yaml"), {"data.root": str(make_features(tmp_path / "clips"))})
    config = space.config({"loss.power": 2.0})
    run = Run(config.flat(), str(tmp_path), "toy", "r", "train", keep_checkpoint=True)
    assert [progress.epoch for progress in execute(run, device=torch.device("cpu"))] == [*range(1, 9)]
    rows = [row for row in results.read(str(tmp_path), "toy").to_pylist() if row["epoch"]]
    assert rows[-1]["loss.power"] == 2.0
    assert rows[-1]["part.total"] < rows[0]["part.total"]
    assert rows[-1]["toy.scale"] != 0
    assert rows[-1]["metric.objective"] > 0
    model = load_model(tmp_path / "toy" / "checkpoints" / "r.pt")
    assert model.loss.diagnostics()["toy.scale"] == rows[-1]["toy.scale"]
"""


def replaced(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert text.count(before) == 1, f"{path.name}: {before!r}"
    path.write_text(text.replace(before, after))


def test_the_five_steps_of_contributing_are_all_that_a_new_loss_takes(tmp_path):
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lacray", copy / "lacray", ignore=ignored)
    shutil.copytree(ROOT / "search_spaces", copy / "search_spaces")
    (copy / "tests").mkdir()
    for name in ("pairs.py", "tiny.py"):
        shutil.copy(ROOT / "tests" / name, copy / "tests" / name)
    before = {path: path.read_text() for path in copy.rglob("*") if path.suffix in (".py", ".yaml")}

    config = copy / "lacray" / "config.py"
    replaced(config, "\n\nclass FitConfig(Section):", f"{CONFIG}\n\nclass FitConfig(Section):")
    replaced(config, " | LrpropConfig,\n", " | LrpropConfig | ToyConfig,\n")
    (copy / "lacray" / "losses" / "toy.py").write_text(LOSS)
    losses = copy / "lacray" / "losses" / "__init__.py"
    replaced(losses, "\nLOSSES:", "from lacray.losses.toy import ToyLoss\n\nLOSSES:")
    replaced(losses, '    "tcn": lambda', '    "toy": lambda own, config: ToyLoss(own),\n    "tcn": lambda')
    (copy / "search_spaces" / "toy.yaml").write_text(SPACE)
    (copy / "tests" / "test_toy_loss.py").write_text(TEST.replace("COPY", repr(str(copy))))

    steps = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a loss\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\d\. `([^`]+)`:", steps, re.MULTILINE)
    after = {path: path.read_text() for path in copy.rglob("*") if path.suffix in (".py", ".yaml")}
    touched = sorted(path.relative_to(copy).as_posix() for path in after if after[path] != before.get(path))
    assert touched == sorted(name.replace("<name>", "toy") for name in named)
    assert len(named) == 5

    env = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{copy / 'tests'}"}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(words, cwd=copy, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
