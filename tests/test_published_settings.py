"""The published settings of each method: they parse, build, name every loss, and train."""

from __future__ import annotations

import math

import pytest
import torch
from paths import ROOT

from lacray import fit
from lacray.config import LOSS_CONFIGS, build
from lacray.data import open_videos
from lacray.train import fixed_setting

METHODS = ROOT / "search_spaces" / "methods"
# As small as the encoder takes it; everything else is what is published.
TINY = {
    "data.size": 80,
    "data.num_frames": 4,
    "data.num_loaders": 0,
    "data.cache_gib": 0.1,
    "data.validation_share": 0,
    "encoder.name": "resnet18",
    "encoder.weights": "none",
    "fit.epochs": 2,
    "fit.steps_per_epoch": 2,
    "fit.evaluate_every": 2,
}

# `cross` is lacray's own.
PUBLISHED = LOSS_CONFIGS.keys() - {"cross"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_method_has_its_published_settings_by_its_name():
    found = {path.stem for path in METHODS.glob("*.yaml")}
    assert {name.removesuffix("_penn") for name in found} == PUBLISHED
    for name in found:
        values, study = fixed_setting([f"methods/{name}.yaml"])
        assert build(values).loss.name == name.removesuffix("_penn")
        assert study == f"{name.removesuffix('_penn')}-published{'-penn' * name.endswith('_penn')}"


@pytest.mark.parametrize("name", [path.stem for path in sorted(METHODS.glob("*_penn.yaml"))])
def test_settings_for_penn_action_change_what_is_published_for_pouring_and_leave_the_rest(name):
    pouring, _ = fixed_setting([f"methods/{name.removesuffix('_penn')}.yaml"])
    own, _ = fixed_setting([f"methods/{name}.yaml"])
    both, _ = fixed_setting([f"methods/{name.removesuffix('_penn')}.yaml", f"methods/{name}.yaml"])
    assert both == {**pouring, **own}
    changed = {key for key in both if both[key] != pouring[key]}
    assert changed == {key for key in own if key not in ("loss.name", "data.positive_window")}


def test_what_is_published_is_what_the_encoder_and_the_data_get():
    config = {name: build(fixed_setting([f"methods/{name}.yaml"])[0]) for name in PUBLISHED}
    # T, pairs a step, contexts and their stride, learning rate, steps or epochs: methods.md, section 2.
    assert {
        name: (
            own.data.num_frames,
            own.data.batch_size,
            own.data.num_contexts,
            own.data.pairing,
            own.data.sampling,
            own.fit.epochs * (own.fit.steps_per_epoch or 1),
            own.fit.schedule,
        )
        for name, own in config.items()
    } == {
        "lac": (64, 2, 1, "views", "time_augment", 300, "cosine"),
        "scl": (240, 1, 1, "views", "time_augment", 500, "cosine"),
        "lrprop": (240, 1, 1, "videos", "time_augment", 500, "cosine"),
        "tcn": (40, 1, 2, "videos", "offset_uniform", 150_000, "constant"),
        "tcc": (20, 1, 2, "videos", "offset_uniform", 150_000, "constant"),
        "gta": (20, 2, 2, "videos", "offset_uniform", 150_000, "constant"),
        "lav": (20, 1, 2, "videos", "segment_uniform", 100, "constant"),
    }
    assert {own.fit.learning_rate for own in config.values()} == {1e-4}
    assert {own.data.size for own in config.values()} == {224}
    assert {own.data.context_stride for own in config.values() if own.data.num_contexts == 2} == {15}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_method_trains_two_steps_with_its_published_settings(pouring, name):
    values, _ = fixed_setting([f"methods/{name}.yaml"])
    config = build({**values, **TINY, "data.root": str(pouring)})
    event = next(fit.fit(config, open_videos(config.data)))
    assert math.isfinite(event.parts["total"])
    assert event.state["scheduler"]["last_epoch"] == 2
    assert all(torch.isfinite(value).all() for value in event.state["encoder"].values())
