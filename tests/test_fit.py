"""The training loop: exact resume, its steps, when it stops, and that any number of ranks trains as one."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks
from settings import features_config, pouring_config
from tiny import make_features

from lacray import checkpoint, distributed, embedding, fit
from lacray.config import LOSS_CONFIGS, Config, ConfigError, UserError, build
from lacray.data import DataError, VideoSet, open_videos
from lacray.embedding import Evaluation
from lacray.encoder import build_encoder
from lacray.fit import EpochEnd, NonFiniteError


def trained(config: Config, **arguments: Any) -> list[EpochEnd]:
    """Every epoch, with its state as it was then."""
    return [as_it_was(event) for event in fit.fit(config, open_videos(config.data), **arguments)]


def as_it_was(event: EpochEnd) -> EpochEnd:
    return replace(event, state=copy.deepcopy(event.state))


def first_gradients(state: dict[str, Any]) -> list[torch.Tensor]:
    """Adam's first moment after one step is a tenth of that step's gradient."""
    return [moments["exp_avg"] * 10 for _, moments in sorted(state["optimizer"]["state"].items())]


def assert_same(one: Any, other: Any, where: str = "state") -> None:
    """Equal to the last bit, all the way down."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{number}]")
    else:
        assert one == other, where


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These networks are too small to share out, and threads beyond the free cores spin against each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return make_features(tmp_path_factory.mktemp("fit") / "features")


# ---------------------------------------------------------------------------------------------------------------------
# Resume.


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder__dropout": 0.3, "fit__accumulate": 2, "loss__gap": "position"},
        {"data__pairing": "videos", "fit__optimizer": "adamw", "fit__steps_per_epoch": 3, "loss__preset": "released"},
    ],
    ids=["dropout", "released"],
)
def test_two_epochs_resumed_for_two_more_are_four_to_the_last_bit(features, tmp_path, fields):
    config = features_config(features, **fields)
    through = trained(config)
    before = []
    for event in itertools.islice(fit.fit(config, open_videos(config.data)), 2):
        checkpoint.save(event.state, tmp_path / "half.pt")
        before.append(event)
    after = trained(config, state=checkpoint.read_checkpoint(tmp_path / "half.pt"))
    assert [event.epoch for event in before + after] == [1, 2, 3, 4]
    for one, other in zip(through, before + after, strict=True):
        assert_same(one.parts, other.parts)
        assert_same(one.diagnostics, other.diagnostics)
        assert_same([e.metrics for e in one.evaluations], [e.metrics for e in other.evaluations])
    one, other = through[-1].state, after[-1].state
    assert one.pop("seconds") > 0
    assert other.pop("seconds") > before[-1].seconds
    assert_same(one, other)
    first = through[0].parts, through[3].parts
    assert first[0] != first[1]


def test_finished_run_resumed_trains_nothing_more(features):
    config = features_config(features, fit__epochs=1)
    (event,) = trained(config)
    assert trained(config, state=event.state) == []


def test_video_encoder_resumes_with_its_batch_statistics(pouring):
    config = pouring_config(pouring, fit__epochs=2, fit__steps_per_epoch=2, fit__evaluate_every=2)
    half, through = trained(config)
    (after,) = trained(config, state=half.state)
    assert_same(through.state["encoder"], after.state["encoder"])
    assert_same(through.evaluations[0].metrics, after.evaluations[0].metrics)


def test_a_loss_that_sees_whole_videos_resumes_from_pixels_to_the_last_bit(pouring):
    config = pouring_config(pouring, fit__epochs=2, fit__steps_per_epoch=2, fit__evaluate_every=2)
    values = {key: value for key, value in config.flat().items() if not key.startswith("loss.")}
    config = build({**values, "loss.name": "cross", "loss.ramp_start": 0, "loss.ramp_end": 0})
    half, through = trained(config)
    (after,) = trained(config, state=half.state)
    assert_same(through.state["encoder"], after.state["encoder"])
    assert_same(through.parts, after.parts)
    assert_same(through.diagnostics, after.diagnostics)
    assert half.parts["lambda_L_x"] > 0


# ---------------------------------------------------------------------------------------------------------------------
# The optimiser.


def test_first_step_moves_encoder_and_penalties_by_their_own_learning_rates(features):
    fields = {"fit__warmup_epochs": 0, "fit__weight_decay": 0, "fit__learning_rate": 3e-3}
    config = features_config(features, fit__epochs=1, fit__steps_per_epoch=1, loss__gap_learning_rate=0.07, **fields)
    (event,) = trained(config)
    state = event.state
    torch.manual_seed(config.seed)
    initial = build_encoder(config.encoder, config.data, num_features=12).state_dict()
    # Adam's first step is the learning rate times the gradient's sign, wherever the gradient is not tiny.
    for name, value in state["encoder"].items():
        moved = (value - initial[name]).abs().max().item()
        assert moved <= 3.01e-3, name
    assert max((v - initial[n]).abs().max().item() for n, v in state["encoder"].items()) > 2.9e-3
    for name in ("gap_open", "gap_extend"):
        start = math.log(math.expm1(1.0))
        assert abs(abs(state["loss"][f"raw_{name}"].item() - start) - 0.07) < 1e-4
    softplus = math.log1p(math.exp(state["loss"]["raw_gap_open"].item()))
    assert abs(event.diagnostics["gap.open"] - softplus) < 1e-6
    assert [group["initial_lr"] for group in state["optimizer"]["param_groups"]] == [3e-3, 0.07]


def test_learning_rate_warms_up_and_falls_as_a_cosine(features):
    fields = {"fit__epochs": 4, "fit__steps_per_epoch": 1, "fit__warmup_epochs": 2, "fit__evaluate_every": 4}
    for schedule, expected in [("cosine", [2 / 3, 1.0, 0.5, 0.0]), ("constant", [2 / 3, 1.0, 1.0, 1.0])]:
        config = features_config(features, fit__schedule=schedule, fit__learning_rate=0.2, **fields)
        groups = [event.state["optimizer"]["param_groups"] for event in trained(config)]
        rates = [[group["lr"] for group in both] for both in groups]
        np.testing.assert_allclose(rates, np.outer(expected, [0.2, config.loss.gap_learning_rate]), atol=1e-12)


def one_step(config_fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "fit__epochs": 1,
        "fit__steps_per_epoch": 1,
        "fit__weight_decay": 0,
        "fit__clip_norm": 1e9,
        "encoder__dropout": 0,
        **config_fields,
    }


def gradients_of(config: Config) -> list[torch.Tensor]:
    (event,) = trained(config)
    return first_gradients(event.state)


def test_gradient_is_clipped_to_the_norm(features):
    free, clipped = (
        gradients_of(features_config(features, **one_step({"fit__clip_norm": norm}))) for norm in (1e9, 1e-3)
    )
    free, clipped = (torch.cat([g.flatten() for g in gradients]) for gradients in (free, clipped))
    assert abs(clipped.norm().item() - 1e-3) < 1e-6
    torch.testing.assert_close(clipped, free / free.norm() * 1e-3)


def test_a_step_cut_in_two_to_save_memory_has_the_same_gradient(features):
    step = one_step({"data__batch_size": 4})
    cut, whole = (gradients_of(features_config(features, **step, fit__accumulate=parts)) for parts in (2, 1))
    for a, b in zip(cut, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert a.any()


def test_a_step_that_cannot_be_shared_out_evenly_is_refused_with_a_remedy(features):
    config = features_config(features, data__batch_size=4, fit__accumulate=3)
    with pytest.raises(ConfigError) as caught:
        next(fit.fit(config, open_videos(config.data)))
    said = "data.batch_size: must be a multiple of workers x fit.accumulate = 1 x 3, got 4; 6 is the next one, "
    assert caught.value.problems == [said + "or take fewer workers"]
    with pytest.raises(ConfigError, match=r"= 8 x 1, got 4; 8 is the next one"):
        fit.check_batch(features_config(features, data__batch_size=4), 8)
    for workers, accumulate in [(1, 1), (2, 1), (4, 1), (2, 2), (1, 4)]:
        fit.check_batch(features_config(features, data__batch_size=4, fit__accumulate=accumulate), workers)


def test_a_loss_in_which_pairs_meet_cannot_be_cut(features):
    values = {key: value for key, value in features_config(features).flat().items() if not key.startswith("loss.")}
    config = build({**values, "loss.name": "tcc", "fit.accumulate": 2})
    with pytest.raises(ConfigError, match=r"fit.accumulate: must be 1 with loss.name=tcc, .* got 2"):
        next(fit.fit(config, open_videos(config.data)))


def test_parts_are_the_mean_over_the_epochs_batches(features, monkeypatch):
    seen: list[dict[str, float]] = []
    forward = fit.TrainStep.forward

    def watched(self, batch):
        loss, parts = forward(self, batch)
        seen.append({name: part.item() for name, part in parts.items()})
        return loss, parts

    monkeypatch.setattr(fit.TrainStep, "forward", watched)
    fields = {"fit__epochs": 1, "fit__steps_per_epoch": 2, "data__batch_size": 6, "fit__accumulate": 3}
    (event,) = trained(features_config(features, **fields))
    assert len(seen) == 6
    assert set(event.parts) == {"L_c", "L_l", "L_sw", "total"}
    for name, value in event.parts.items():
        assert math.isclose(value, sum(parts[name] for parts in seen) / 6, rel_tol=1e-6)


def test_bf16_trains_with_weights_in_float32(features):
    (event,) = trained(features_config(features, fit__epochs=1, fit__precision="bf16"))
    assert math.isfinite(event.parts["total"])
    assert {v.dtype for v in event.state["encoder"].values()} == {torch.float32}


def test_training_lowers_the_loss_on_videos(pouring):
    config = pouring_config(
        pouring, fit__epochs=12, fit__steps_per_epoch=12, fit__evaluate_every=12, fit__learning_rate=3e-3
    )
    events = trained(config)
    contrastive = [event.parts["L_c"] for event in events]
    # 0.74 to 0.87 with twelve seeds; after half the epochs rounding alone moved it from 0.88 to 0.95.
    assert sum(contrastive[-4:]) / 4 < 0.94 * sum(contrastive[:2]) / 2
    assert events[-1].frames_per_second > 0
    assert events[-1].seconds > events[0].seconds > 0


# ---------------------------------------------------------------------------------------------------------------------
# A loss that is no number.


@pytest.mark.parametrize("accumulate", [1, 3])
def test_loss_that_is_no_number_stops_the_run_and_says_where(tmp_path, accumulate):
    root = make_features(tmp_path / "data", num_train=6)
    config = features_config(
        root, data__validation_share=0, data__batch_size=2 * accumulate, fit__accumulate=accumulate
    )
    run = fit.fit(config, open_videos(config.data))
    next(run)
    for name in ("clip02", "clip04"):
        path = root / "features" / f"{name}.npy"
        np.save(path, np.full_like(np.load(path), np.nan))
    steps_per_epoch = 3 // accumulate
    with pytest.raises(NonFiniteError) as caught:
        list(run)
    (problem,) = caught.value.problems
    step = int(re.match(r"step (\d+): the loss must be finite, got ", problem)[1])
    assert steps_per_epoch <= step < 2 * steps_per_epoch
    assert "clip02" in problem or "clip04" in problem
    assert "'L_c': nan" in problem
    assert "lower fit.learning_rate (0.001), or raise loss.gamma or loss.similarity_eps" in problem


# ---------------------------------------------------------------------------------------------------------------------
# When it is evaluated.


def evaluated(events: list[EpochEnd]) -> list[tuple[int, list[str]]]:
    return [(event.epoch, [e.split for e in event.evaluations]) for event in events if event.evaluations]


def test_evaluation_comes_every_k_epochs_and_at_the_last(features, monkeypatch):
    monkeypatch.setattr(fit, "evaluate", lambda c, e, v, split, **__: Evaluation(split, {"objective": 1.0}))
    fields = {"fit__epochs": 5, "fit__evaluate_every": 2, "fit__steps_per_epoch": 1}
    validation = ["validation"]
    events = trained(features_config(features, **fields))
    assert evaluated(events) == [(2, validation), (4, validation), (5, validation)]
    events = trained(features_config(features, evaluation__report_split=True, **fields))
    assert evaluated(events) == [(2, validation), (4, validation), (5, ["validation", "val"])]
    events = trained(features_config(features, data__validation_share=0, **fields))
    assert evaluated(events) == [(2, ["val"]), (4, ["val"]), (5, ["val"])]


# ---------------------------------------------------------------------------------------------------------------------
# Several ranks.

NUM_RANKS = 2


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def forwards() -> Iterator[list[tuple[list[str], list[Any]]]]:
    """The names and frame indices of every batch that a rank trains on."""
    seen: list[tuple[list[str], list[Any]]] = []
    forward = fit.TrainStep.forward

    def watched(self, batch):
        seen.append((batch.names, batch.steps.tolist()))
        return forward(self, batch)

    fit.TrainStep.forward = watched
    try:
        yield seen
    finally:
        fit.TrainStep.forward = forward


def whole_run(pouring: Path) -> dict[str, Any]:
    """Two epochs of the small encoder, steps cut in two."""
    fields = {"data__batch_size": 4, "fit__accumulate": 2, "fit__steps_per_epoch": 2, "fit__epochs": 2}
    config = pouring_config(pouring, **fields, encoder__dropout=0, evaluation__report_split=True)
    with double_precision(), forwards() as seen:
        *_, event = trained(config)
    return {"event": event, "batches": seen}


def one_step_of_resnet(pouring: Path) -> dict[str, Any]:
    """One step of a torchvision backbone, whose batch norms are torch's; an epoch that is not evaluated."""
    fields = one_step({"fit__epochs": 2, "data__num_frames": 3, "encoder__name": "resnet18"})
    config = pouring_config(pouring, **fields, encoder__weights="none", data__size=80)
    with double_precision():
        event = next(fit.fit(config, open_videos(config.data)))
    return {"event": as_it_was(event)}


LOSSES: list[dict[str, Any]] = [
    *({"loss.name": name} for name in LOSS_CONFIGS if name != "tcn"),
    {"loss.name": "tcn", "data.positive_window": 5},
    {"loss.name": "tcn", "loss.objective": "triplet", "loss.positive_window": 2, "loss.negative_window": 4},
    {"loss.name": "tcc", "loss.stochastic": True, "loss.cycle_length": 3},
    {"loss.name": "scl", "loss.negatives": "noself"},
    # From the first step on, which is all that is taken.
    {"loss.name": "cross", "loss.ramp_start": 0, "loss.ramp_end": 0, "loss.order": 0.1, "loss.partners": 3},
]


def a_step_of_each_loss(features: Path) -> list[Any]:
    """Clips longer than some of the videos, so that pairs count for more and less."""
    told = []
    common = features_config(features, **one_step({"fit__epochs": 2, "data__batch_size": 4, "data__num_frames": 40}))
    values = {key: value for key, value in common.flat().items() if not key.startswith("loss.")}
    for fields in LOSSES:
        config = build({**values, **fields})
        with double_precision():
            told.append(as_it_was(next(fit.fit(config, open_videos(config.data)))))
    return told


def resumed(features: Path, folder: Path) -> dict[str, Any]:
    """Two epochs with dropout, and the second of them again."""
    config = features_config(features, fit__epochs=2, fit__steps_per_epoch=3, encoder__dropout=0.3)
    half, through = trained(config)
    if distributed.is_first():
        checkpoint.save(half.state, folder / "half.pt")
    distributed.all_gather(None)
    (after,) = trained(config, state=checkpoint.read_checkpoint(folder / "half.pt"))
    return {"half": half, "through": through, "after": after}


def refused(config: Config, videos: VideoSet) -> dict[str, Any]:
    """How a run ends that cannot go on, and after how many batches."""
    distributed.all_gather(None)  # until all have opened the videos
    with forwards() as seen, pytest.raises(UserError) as caught:
        list(fit.fit(config, videos))
    return {"type": type(caught.value), "said": caught.value.problems, "batches": len(seen)}


def bad_data(folder: Path) -> dict[str, Any]:
    """A video that is not finite, one that is gone when it is trained on, or evaluated; a step of three pairs."""
    told = {}
    config = features_config(folder / "nan", fit__steps_per_epoch=4)
    videos = open_videos(config.data)
    distributed.all_gather(None)  # until all have: it would be left out
    damaged = folder / "nan" / "features" / "clip03.npy"
    distributed.from_first(lambda: np.save(damaged, np.full_like(np.load(damaged), np.nan)))
    told["nan"] = refused(config, videos)
    told["uneven"] = refused(features_config(folder / "nan", data__batch_size=3), videos)
    config = features_config(folder / "gone", fit__evaluate_every=1, fit__steps_per_epoch=4)
    videos = open_videos(config.data)
    distributed.all_gather(None)
    for name, victim in [("trained on", videos.train[1]), ("evaluated", videos.validation[1])]:
        path, kept = Path(victim.path), Path(victim.path).with_suffix(".kept")
        distributed.from_first(lambda path=path, kept=kept: path.rename(kept))
        told[name] = {**refused(config, videos), "path": victim.path}
        distributed.from_first(lambda path=path, kept=kept: kept.rename(path))
    return told


def one_rank(rank: int, folder: Path, features: Path, pouring: Path) -> dict[str, Any]:
    return {
        "whole": whole_run(pouring),
        "resnet": one_step_of_resnet(pouring),
        "losses": a_step_of_each_loss(features),
        "resumed": resumed(features, folder),
        "control": embedding.control(
            features_config(features), open_videos(features_config(features).data), "untrained", "val"
        ),
        "bad": bad_data(folder),
    }


@pytest.fixture(scope="module")
def joint(features, pouring, tmp_path_factory) -> list[dict[str, Any]]:
    """What two ranks tell."""
    folder = tmp_path_factory.mktemp("joint")
    for name in ("nan", "gone"):
        make_features(folder / name, num_train=8)
    return run_ranks(one_rank, folder, features, pouring, num=NUM_RANKS)


@pytest.fixture(scope="module")
def alone(pouring, features) -> dict[str, Any]:
    """What one process tells of the same settings."""
    return {
        "whole": whole_run(pouring),
        "resnet": one_step_of_resnet(pouring),
        "losses": a_step_of_each_loss(features),
    }


def test_two_ranks_take_the_steps_of_one_on_the_same_pairs_in_the_same_order(joint, alone):
    ranks = [told["whole"]["batches"] for told in joint]
    expected = alone["whole"]["batches"]
    assert len(expected) == 2 * 2 * 2  # epochs, steps, batches of a step
    joined = [
        ([name for names, _ in shares for name in names], [clip for _, steps in shares for clip in steps])
        for shares in zip(*ranks, strict=True)
    ]
    assert joined == expected
    assert all(len(names) == 2 for rank in ranks for names, _ in rank)


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        # A gradient that is 0 but for rounding moves Adam by rounding over its eps of 1e-8.
        torch.testing.assert_close(value, other[name], rtol=1e-8, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}")


def test_two_ranks_end_with_the_weights_of_one_to_the_rounding(joint, alone):
    one, other = joint[0]["whole"]["event"].state, alone["whole"]["event"].state
    assert_close(one["encoder"], other["encoder"])
    assert_close(one["loss"], other["loss"])
    assert any("running_var" in name for name in one["encoder"])
    assert {value.dtype for value in one["encoder"].values()} == {torch.float64, torch.int64}
    assert (one["world_size"], other["world_size"], len(one["random_states"])) == (2, 1, 2)
    assert joint[1]["whole"]["event"].state is None


def test_every_rank_tells_the_parts_and_metrics_that_one_tells(joint, alone):
    first, second = (told["whole"]["event"] for told in joint)
    expected = alone["whole"]["event"]
    for name in ("epoch", "parts", "diagnostics", "evaluations"):
        assert getattr(first, name) == getattr(second, name)
    assert first.parts == pytest.approx(expected.parts, rel=1e-9)
    assert first.diagnostics == pytest.approx(expected.diagnostics, rel=1e-9)
    assert [found.split for found in first.evaluations] == ["validation", "val"]
    for one, other in zip(first.evaluations, expected.evaluations, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-5, nan_ok=True)
        assert one.notes == other.notes
    assert min(first.frames_per_second, second.frames_per_second) > 0


@pytest.mark.parametrize("number", range(len(LOSSES)), ids=lambda number: "-".join(map(str, LOSSES[number].values())))
def test_two_ranks_have_the_loss_and_the_gradient_of_one_whatever_the_loss(joint, alone, number):
    one, other = joint[0]["losses"][number], alone["losses"][number]
    assert one.parts == pytest.approx(other.parts, rel=1e-9)
    for a, b in zip(first_gradients(one.state), first_gradients(other.state), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    assert any(gradient.any() for gradient in first_gradients(one.state))


def test_a_torchvision_backbones_batch_norms_see_the_joined_batch(joint, alone):
    one, other = joint[0]["resnet"]["event"].state, alone["resnet"]["event"].state
    gradients = first_gradients(one), first_gradients(other)
    assert len(gradients[0]) == len(gradients[1]) > 40
    scale = max(gradient.abs().max().item() for gradient in gradients[1])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10 * scale)
    statistics = {name for name in other["encoder"] if "running" in name}
    # bn1, layer1 and layer2 with a shortcut, layer3 up to its last block, and the two that are three-dimensional
    assert sum("convolutions" in name for name in statistics) == 4
    assert len(statistics) > 30
    for name in statistics:
        torch.testing.assert_close(one["encoder"][name], other["encoder"][name], rtol=1e-9, atol=1e-12)


def test_two_ranks_with_dropout_resume_to_the_last_bit(joint):
    half, through, after = (joint[0]["resumed"][name] for name in ("half", "through", "after"))
    assert half.state["world_size"] == len(half.state["random_states"]) == 2
    assert not torch.equal(*half.state["random_states"])
    for state in (through.state, after.state):
        state.pop("seconds")
    assert_same(through.state, after.state)
    assert_same(through.parts, after.parts)


def test_videos_shared_out_over_ranks_are_scored_as_by_one(joint, features):
    config = features_config(features)
    expected = embedding.control(config, open_videos(config.data), "untrained", "val")
    assert [told["control"] for told in joint] == [expected] * 2
    assert len(expected.metrics) >= 20


def test_loss_that_is_no_number_on_one_rank_stops_all_at_one_step(joint):
    first, second = (told["bad"]["nan"] for told in joint)
    assert first == second
    assert first["type"] is NonFiniteError
    (said,) = first["said"]
    assert "clip03" in said
    assert "the loss must be finite, got {'L_c': nan" in said
    # The videos of the batch with the fault, not those of the other rank.
    assert said.count("videos/") == 1


@pytest.mark.parametrize("when", ["trained on", "evaluated"])
def test_video_that_one_rank_can_no_longer_read_stops_all_at_one_step(joint, when):
    first, second = (told["bad"][when] for told in joint)
    assert first == second
    assert first["type"] is DataError
    (said,) = first["said"]
    assert re.fullmatch(rf"{re.escape(first['path'])}: cannot be read any more \(.*\); mend or remove it", said)
    assert first["batches"] == 4 if when == "evaluated" else first["batches"] < 4


def test_a_step_that_two_ranks_cannot_share_is_refused_on_both(joint):
    first, second = (told["bad"]["uneven"] for told in joint)
    assert first == second
    assert (first["type"], first["batches"]) == (ConfigError, 0)
    assert "must be a multiple of workers x fit.accumulate = 2 x 1, got 3; 4 is the next one" in first["said"][0]
