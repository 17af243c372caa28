"""Embedding: what the metrics are given of a split, and the controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from settings import features_config, pouring_config
from tiny import make_features

from lacray import embedding, evaluation
from lacray.config import Config
from lacray.data import FrameStore, VideoSet, open_videos
from lacray.encoder import build_encoder, position_code


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return make_features(tmp_path_factory.mktemp("embedding") / "features")


@pytest.fixture
def sequences_of(monkeypatch):
    """What the metrics are given: by protocol, the sequences that are learned from and those that are scored."""

    def watch(config: Config, encoder, split: str = "validation"):
        given = []

        def keep(train, val, **_):
            given.append((train, val))
            return evaluation.Scores({})

        monkeypatch.setattr(evaluation, "evaluate", keep)
        videos = open_videos(config.data)
        embedding.evaluate(config, encoder, videos, split)
        return videos, dict(zip(("full", "cropped"), given, strict=True))

    return watch


def test_selection_learns_from_what_is_trained_on_and_the_report_from_the_whole_train_split(features, sequences_of):
    config = features_config(features)
    for split, learned, scored in [("validation", "train", "validation"), ("val", "training", "val")]:
        videos, given = sequences_of(config, None, split)
        for train, val in given.values():
            assert [s.name for s in train] == [v.name for v in getattr(videos, learned)]
            assert [s.name for s in val] == [v.name for v in getattr(videos, scored)]


def windows(config: Config, videos: VideoSet):
    for video in videos.train + videos.validation:
        yield (
            video,
            *evaluation.crop_window(video.labels, video.num_frames, config.evaluation.crop_seed, video.name),
        )


def test_cropped_protocol_embeds_the_cut_video_not_a_cut_of_its_embeddings(features, sequences_of):
    config = features_config(features)
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder, config.data, num_features=12)
    videos, given = sequences_of(config, encoder)
    whole, cropped = ([*given[name][0], *given[name][1]] for name in ("full", "cropped"))
    for full, cut, (video, start, stop) in zip(whole, cropped, windows(config, videos), strict=True):
        assert stop - start < video.num_frames
        frames = torch.from_numpy(np.load(video.path).astype(np.float32))[None]
        with torch.no_grad():
            np.testing.assert_allclose(full.embeddings, encoder(frames)[0], atol=1e-5)
            np.testing.assert_allclose(cut.embeddings, encoder(frames[:, start:stop])[0], atol=1e-5)
        assert np.abs(cut.embeddings - full.embeddings[start:stop]).max() > 1e-2
        assert cut.steps.tolist() == list(range(start, stop))
        np.testing.assert_array_equal(cut.labels, video.labels[start:stop])
        # The targets stay those of the original time line.
        np.testing.assert_array_equal(cut.phase_ends, full.phase_ends)
        assert cut.num_frames == full.num_frames == video.num_frames


def test_cut_video_has_no_context_frames_from_before_its_cut(pouring, sequences_of):
    config = pouring_config(pouring, data__num_contexts=3, data__context_stride=2)
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder, config.data)
    videos, given = sequences_of(config, encoder)
    video, start, stop = next(windows(config, videos))
    whole = torch.from_numpy(FrameStore(config.data).read(video, np.arange(video.num_frames)))
    places = np.array([[max(step - back, start) for back in (4, 2, 0)] for step in range(start, stop)])
    with torch.no_grad():
        expected = encoder.eval()(whole, places=torch.from_numpy(places)[None])[0]
    assert start > 0
    np.testing.assert_allclose(given["cropped"][0][0].embeddings, expected, atol=1e-5)


@pytest.mark.parametrize("positions", ["absolute", "rescaled", "none"])
def test_control_of_positions_knows_the_place_in_the_cut_video_alone(features, sequences_of, positions):
    config = features_config(features, encoder__positions=positions)
    videos, given = sequences_of(config, None)
    mode = "absolute" if positions == "none" else positions
    for cut, (_, start, stop) in zip(given["cropped"][0], windows(config, videos), strict=False):
        expected = position_code(stop - start, 32, mode, None, torch.zeros(()))[0]
        np.testing.assert_allclose(cut.embeddings, expected, atol=1e-6)


def test_controls_depend_on_the_seed_only_where_weights_do(features):
    videos = open_videos(features_config(features).data)
    for name, differs in [("untrained", True), ("positions", False)]:
        scores = [
            embedding.control(features_config(features, seed=seed), videos, name, "validation").metrics
            for seed in (0, 1, 0)
        ]
        assert scores[0] == scores[2]
        assert (scores[0] != scores[1]) == differs
        assert 0 < scores[0]["objective"] <= 1


def test_metrics_of_several_actions_are_means_with_the_value_of_each_beside_them(features):
    config = features_config(features, evaluation__label_draws=2)
    videos = open_videos(config.data)
    # Of the three val videos two are of one action, and one is of the other: it can be compared with none.
    named = [replace(v, action=("push", "turn")[n % 2]) for n, v in enumerate(videos.training + videos.val)]
    both = replace(videos, training=named[: len(videos.training)], val=named[len(videos.training) :])
    found = embedding.control(config, both, "untrained", "val")
    one = replace(both, training=[v for v in both.training if v.action == "push"], val=[])
    one = replace(one, val=[v for v in both.val if v.action == "push"])
    alone = embedding.control(config, one, "untrained", "val")
    assert alone.of_actions == {}
    for name, value in alone.metrics.items():
        # Other draws than of an action among others.
        if "draws" not in name:
            assert found.of_actions[f"action.push.{name}"] == value, name
    both_have, push_alone = ("full.class_10", "cropped.progress", "full.class_50_draws"), ("full.ap_5", "objective")
    for name, actions in [*((n, ("push", "turn")) for n in both_have), *((n, ("push",)) for n in push_alone)]:
        own = [found.of_actions[f"action.{action}.{name}"] for action in actions]
        assert found.metrics[name] == pytest.approx(np.mean(own), abs=1e-15)
        assert found.of_actions[f"num_actions.{name}"] == len(actions)
    assert "action.turn.objective" not in found.of_actions
    assert "objective: the mean over 1 of 2 actions, undefined for turn" in found.notes


def test_without_labels_only_metrics_that_need_none(tmp_path):
    root = make_features(tmp_path / "data", num_train=6)
    (root / "segments.csv").unlink()
    config = features_config(root)
    found = embedding.control(config, open_videos(config.data), "untrained", "validation")
    assert set(found.metrics) == {"full.kendalls_tau", "cropped.kendalls_tau"}
    assert any("no labelled frame" in note for note in found.notes)
