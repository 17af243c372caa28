"""A checkpoint at work: what it embeds and aligns, what it refuses, what the training left in it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from apply_videos import rewritten

import lacray
from lacray.apply import Calibration, EmbeddedVideo, Measure, Penalties, kept, load
from lacray.apply.scoring import measure_of, penalties_of
from lacray.checkpoint import CheckpointError, load_model, read_checkpoint, save
from lacray.config import build
from lacray.data import DataError
from lacray.data.arrays import made_by
from lacray.data.video import decode
from lacray.losses import build_loss


def test_a_full_training_leaves_its_calibration_in_its_checkpoint(features_checkpoint, features_model):
    state = read_checkpoint(features_checkpoint)
    assert state["calibration"] is not None
    assert Calibration.from_dict(state["calibration"]) == features_model.calibration
    from lacray.data import open_videos

    again = features_model.calibrated(open_videos(features_model.config.data).train)
    assert again.calibration == features_model.calibration, "the same videos and weights, the same calibration"


def test_load_is_that_of_the_package_and_a_model_of_an_unfinished_training_says_so(features_checkpoint, tmp_path):
    state = read_checkpoint(features_checkpoint)
    save({**state, "calibration": None}, tmp_path / "half.pt")
    model = lacray.load(tmp_path / "half.pt")
    with pytest.raises(CheckpointError, match="is not calibrated, because its training was not over"):
        model.align(np.ones((3, 16)), np.ones((3, 16)))
    with pytest.raises(DataError, match="needs two videos"):
        model.calibrated([])


def test_a_video_is_embedded_as_its_frames_are_all_at_once(videos_model, videos_root):
    path = str(videos_root / "videos" / "take3.mp4")
    found = videos_model.embed(path)
    with av.open(path) as container:
        num_frames = sum(1 for _ in container.decode(video=0))
    pictures = decode(path, np.arange(num_frames), size=32)
    with torch.no_grad():
        expected = videos_model.trained.encoder(torch.from_numpy(pictures)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_videos_of_one_procedure_are_aligned_phase_by_phase(videos_model, videos_root):
    """Boundaries of the phases of the one lie within three frames of those of the other."""
    import csv

    with (videos_root / "segments.csv").open() as file:
        rows = list(csv.DictReader(file))
    ends = {
        name: [int(row["end_frame"]) for row in rows if row["video"] == name] for name in ("take0.mp4", "take1.mp4")
    }
    found = videos_model.align(*(videos_root / "videos" / name for name in ends))
    assert found.p_value < 0.05
    for one, other in zip(*(own[:2] for own in ends.values()), strict=True):
        there = found.frame_in_b(one)
        assert there is not None
        assert abs(there - other) <= 3
        assert found.time_in_b(one / 25) == pytest.approx(there / 25, abs=1e-6)


def test_what_was_embedded_before_is_aligned_as_the_files_are(videos_model, videos_root):
    paths = [videos_root / "videos" / f"take{number}.mp4" for number in (2, 5)]
    read = [videos_model.read(path) for path in paths]
    expected = videos_model.align(*paths)
    for given in (read, [video.embeddings for video in read]):
        found = videos_model.align(*given)
        np.testing.assert_array_equal(found.path, expected.path)
        assert (found.score, found.p_value) == (expected.score, expected.p_value)


def test_embeddings_that_cannot_be_the_models_are_refused(features_model):
    for given, rule in [
        (np.zeros((3, 15)), r"must be \(frames, 16\)"),
        (np.zeros((0, 16)), "a frame at least"),
        (np.full((3, 16), np.nan), "must be finite"),
    ]:
        with pytest.raises(DataError, match=rule):
            features_model.embed(given)


def test_model_of_features_refuses_a_video_and_a_model_of_videos_an_array(
    features_model, videos_model, videos_root, features_root, tmp_path
):
    with pytest.raises(DataError, match=r"take0.mp4: must be the features of a video \(NAME.npy"):
        features_model.embed(videos_root / "videos" / "take0.mp4")
    with pytest.raises(DataError, match="must be a video file, since the model was trained on videos"):
        videos_model.embed(features_root / "features" / "clip00.npy")
    np.save(tmp_path / "wide.npy", np.ones((5, 13), np.float32))
    with pytest.raises(DataError, match="must have 12 channels, as the features that the model was trained on, got 13"):
        features_model.embed(tmp_path / "wide.npy")
    with pytest.raises(DataError, match=r"none.mp4: does not exist"):
        videos_model.embed(tmp_path / "none.mp4")


def test_features_of_another_backbone_are_refused(features_model, features_root, tmp_path):
    trained = replace(features_model.trained, videos={"features": made_by_of(tmp_path, "first")})
    model = replace(features_model, trained=trained)
    (tmp_path / "features" / "day 1").mkdir()
    array = shutil.copy(features_root / "features" / "clip00.npy", tmp_path / "features" / "day 1" / "clip00.npy")
    assert model.embed(array).shape == features_model.embed(array).shape
    made_by_of(tmp_path, "second")
    with pytest.raises(DataError, match=r"clip00.npy: must be features of first, .* got those of second"):
        model.embed(array)


def made_by_of(root: Path, backbone: str) -> str | None:
    (root / "features").mkdir(exist_ok=True)
    (root / "features" / "backbone.json").write_text(json.dumps({"backbone": backbone}))
    return made_by(root / "features")


def test_features_have_no_clock(features_model, features_root):
    video = features_model.read(features_root / "features" / "clip00.npy")
    assert video.seconds is None
    assert video.film is None


@pytest.mark.parametrize("kind", ["rotated", "variable", "larger", "one frame", "with sound"])
def test_odd_videos_are_aligned_with_plain_ones(kind, videos_model, videos_root, tmp_path):
    plain = videos_root / "videos" / "take2.mp4"
    odd = rewritten(plain, tmp_path / "odd.mp4", kind)
    found = videos_model.align(plain, odd)
    if kind == "one frame":
        assert len(found.b) == 1
        assert found.path.shape[0] <= 1
        return
    # The same pictures, so far as compression leaves them: nearly every frame has its own for a counterpart.
    known = ~np.isnan(found.a_to_b)
    assert known.mean() > 0.8
    if kind != "rotated":
        assert np.abs(found.a_to_b[known] - np.flatnonzero(known)).mean() < 1.5
    frame = int(np.flatnonzero(known)[-1])
    there = found.time_in_b(found.a.time_of(frame))
    clock = [float(Fraction(frame.pts) * frame.time_base) for frame in pictures_of(odd)]
    assert there == pytest.approx(np.interp(found.a_to_b[frame], np.arange(len(clock)), clock), abs=2e-3)


def pictures_of(path: Path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def test_similarity_gaps_and_gamma_are_those_of_the_loss():
    config = build(
        {"loss.name": "lac", "loss.similarity": "inverse", "loss.similarity_eps": 0.3, "loss.normalize": False}
    )
    assert measure_of(config) == Measure("inverse", 0.3, False)
    loss = build_loss(build({"loss.name": "lac", "loss.gap_open": 1.5, "loss.gap_extend": 0.25, "loss.gamma": 0.6}))
    found = penalties_of(loss, 2.0)
    assert (found.gap_open, found.gap_extend, found.gamma) == pytest.approx((3.0, 0.5, 1.2), abs=1e-5)
    by_place = build_loss(
        build({"loss.name": "lac", "loss.gap": "position", "loss.gap_transform": "raw", "data.num_frames": 4})
    )
    with torch.no_grad():
        by_place.raw_gap_open.copy_(torch.arange(16.0).view(4, 4))
        by_place.raw_gap_extend.fill_(-2.0)
    found = penalties_of(by_place, 2.0)
    assert (found.gap_open, found.gap_extend) == (15.0, 0.0), "the mean of the table; never below 0"
    other = build({"loss.name": "tcc"})
    assert measure_of(other) == Measure("cosine", 0.0, True)
    assert penalties_of(build_loss(other), 2.0) == Penalties()


def test_similarity_is_the_losses_own():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(4, 8)), rng.normal(size=(5, 8))
    normal = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (one, other)]
    squared = ((normal[0][:, None] - normal[1][None]) ** 2).sum(-1)
    np.testing.assert_allclose(Measure("inverse_squared", 0.1, True)(one, other), 1 / (squared + 0.1), rtol=1e-4)
    np.testing.assert_allclose(Measure()(one, other), normal[0] @ normal[1].T, atol=1e-6)


def test_embeddings_are_kept_until_the_file_or_the_model_changes(
    videos_model, videos_checkpoint, videos_root, own_cache, tmp_path, monkeypatch
):
    path = tmp_path / "own.mp4"
    path.write_bytes((videos_root / "videos" / "take0.mp4").read_bytes())
    first = kept.read(videos_model, str(path), "own.mp4")
    calls = []
    genuine = type(videos_model).read
    monkeypatch.setattr(type(videos_model), "read", lambda *a, **k: calls.append(a) or genuine(*a, **k))
    again = kept.read(videos_model, str(path), "other name")
    assert (calls, again.name) == ([], "other name")
    np.testing.assert_array_equal(first.embeddings, again.embeddings)
    np.testing.assert_array_equal(first.seconds, again.seconds)
    assert (first.end, first.path) == (again.end, again.path)
    path.write_bytes((videos_root / "videos" / "take1.mp4").read_bytes())
    assert len(kept.read(videos_model, str(path), "own.mp4")) != len(first)
    state = read_checkpoint(videos_checkpoint)
    save({**state, "epoch": state["epoch"] + 1}, tmp_path / "other.pt")
    kept.read(load(tmp_path / "other.pt"), str(path), "own.mp4")
    assert len(calls) == 2
    for file in own_cache.rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:100])
    assert isinstance(kept.read(videos_model, str(path), "own.mp4"), EmbeddedVideo)
    assert len(calls) == 3, "a damaged cache is none"


def test_loading_gives_the_modules_of_the_checkpoint(videos_checkpoint, videos_model):
    expected = load_model(videos_checkpoint).encoder.state_dict()
    for name, value in videos_model.trained.encoder.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
