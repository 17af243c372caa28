"""Checkpoints: what they hold, what is refused, and that both modules come back from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import paired
from settings import features_config
from tiny import make_features

from lacray import checkpoint, embedding, fit
from lacray.checkpoint import CheckpointError
from lacray.config import Config, build
from lacray.data import open_videos


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return make_features(tmp_path_factory.mktemp("checkpoint") / "features")


def config_of(root: Path, **fields: Any) -> Config:
    return features_config(root, **{"fit__epochs": 1, "fit__steps_per_epoch": 2, **fields})


def trained(config: Config, path: Path) -> fit.EpochEnd:
    """The last epoch, saved."""
    *_, event = fit.fit(config, open_videos(config.data))
    assert event.state is not None
    checkpoint.save(event.state, path)
    return event


def test_checkpoint_holds_the_setting_and_no_code(features, tmp_path):
    config = config_of(features)
    trained(config, tmp_path / "deep" / "er" / "run.pt")
    state = torch.load(tmp_path / "deep" / "er" / "run.pt", weights_only=True)
    assert build(state["config"]) == config
    assert (state["epoch"], state["world_size"], len(state["random_states"])) == (1, 1, 1)
    assert state["cuda_random_states"] is None
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["run.pt"]


def test_write_that_fails_leaves_the_last_checkpoint_whole_and_nothing_beside_it(features, tmp_path):
    trained(config_of(features), tmp_path / "run.pt")
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save({"format": 3, "weights": torch.zeros(3), "no pickle": lambda: None}, tmp_path / "run.pt")
    assert (tmp_path / "run.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder__hidden": 64},
        {"encoder__layers": 2},
        {"loss__gap": "position"},
        {"loss__gap": "fixed"},
        {"encoder__pre_norm": True},
    ],
    ids=str,
)
def test_checkpoint_of_another_architecture_is_refused_in_a_sentence(features, tmp_path, fields):
    trained(config_of(features), tmp_path / "run.pt")
    other = config_of(features, **fields)
    with pytest.raises(CheckpointError) as caught:
        next(fit.fit(other, open_videos(other.data), state=checkpoint.read_checkpoint(tmp_path / "run.pt")))
    (problem,) = caught.value.problems
    assert problem.startswith("checkpoint: is of another architecture than this setting (")
    assert "'encoder.hidden': 32" in problem
    assert "\n" not in problem


def test_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save({"state": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"format": 1, "best": 0.5}, tmp_path / "old.pt")
    torch.save({"format": 3, "epoch": 3}, tmp_path / "part.pt")
    (tmp_path / "folder.pt").mkdir()
    for name, said in [
        ("absent.pt", "does not exist"),
        ("folder.pt", "is a folder"),
        ("text.pt", "is no checkpoint of lacray"),
        ("other.pt", "must have format 3, got None"),
        ("list.pt", "must have format 3, got 'list'"),
        ("old.pt", "must have format 3, got 1"),
        ("part.pt", "is not whole: it lacks calibration, config, cuda_random_states, encoder, loss"),
    ]:
        for read in (checkpoint.read_checkpoint, checkpoint.load_model):
            with pytest.raises(CheckpointError, match=f"{name} {said}"):
                read(tmp_path / name)


def test_weights_of_which_a_bit_was_flipped_are_refused(features, tmp_path):
    event = trained(config_of(features), tmp_path / "run.pt")
    assert event.state is not None
    weights = next(value for value in event.state["encoder"].values() if value.is_floating_point() and value.any())
    content = bytearray((tmp_path / "run.pt").read_bytes())
    content[content.index(weights.numpy().tobytes()[:16])] ^= 1
    (tmp_path / "flipped.pt").write_bytes(content)
    for read in (checkpoint.read_checkpoint, checkpoint.load_model):
        with pytest.raises(CheckpointError, match=r"flipped\.pt is damaged"):
            read(tmp_path / "flipped.pt")


def test_loss_comes_back_with_the_gap_penalties_that_it_has_learned(features, tmp_path):
    # Penalties per cell, which one step moves apart; the loss of the same embeddings tells whether they are back.
    config = config_of(features, loss__gap="position", loss__gap_learning_rate=0.3, fit__warmup_epochs=0)
    event = trained(config, tmp_path / "run.pt")
    model = checkpoint.load_model(tmp_path / "run.pt")
    assert model.config == config
    assert not model.encoder.training
    assert not model.loss.training
    assert event.state is not None
    opening, _ = model.loss.gap_penalties()
    assert opening.std() > 0.01
    torch.testing.assert_close(opening, torch.nn.functional.softplus(event.state["loss"]["raw_gap_open"]))
    assert model.loss.diagnostics() == event.diagnostics
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(3, 2, 10, 16, generator=generator)
    steps = torch.arange(10).expand(3, 2, 10)
    fresh = type(model.loss)(config.loss, num_frames=10)
    clips = paired(embeddings, steps)
    assert model.loss(clips)[0] != fresh(clips)[0]


def test_weights_of_another_setting_than_the_files_own_are_refused(features, tmp_path):
    event = trained(config_of(features), tmp_path / "run.pt")
    assert event.state is not None
    mixed = {**event.state, "config": {**event.state["config"], "encoder.hidden": 64}}
    checkpoint.save(mixed, tmp_path / "mixed.pt")
    with pytest.raises(CheckpointError, match=r"mixed\.pt holds weights of another setting than its own"):
        checkpoint.load_model(tmp_path / "mixed.pt")


def test_loaded_encoder_scores_as_the_trained_one_did(features, tmp_path):
    config = config_of(features)
    event = trained(config, tmp_path / "run.pt")
    model = checkpoint.load_model(tmp_path / "run.pt")
    assert model.config == config
    again = embedding.evaluate(config, model.encoder, open_videos(config.data), "validation")
    assert again.metrics == event.evaluations[0].metrics
    assert len(again.metrics) >= 8
