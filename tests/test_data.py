"""Videos on disk -> batches: decoding, augmentation, order."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from datasets import broken_videos, pattern, plain, write_csv, write_video

from lacray.config import DataConfig
from lacray.data import DataError, PairLoader, open_videos
from lacray.data import augment as augmentation
from lacray.data.video import UnreadableVideoError, decode, frame_index

# ---------------------------------------------------------------------------------------------------------------------
# Files.


def decode_everything(path: Path) -> tuple[np.ndarray, str]:
    """All frames (n, 3, H, W) in the order they are shown, and their picture types: the oracle of `decode`."""
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    frames = np.stack([picture.to_ndarray(format="rgb24") for picture in pictures])
    return frames.transpose(0, 3, 1, 2), "".join("?IPB"[int(picture.pict_type)] for picture in pictures)


# ---------------------------------------------------------------------------------------------------------------------
# Decoding.


def test_test_video_is_as_the_tests_take_it_to_be(encoded):
    frames, kinds = decode_everything(encoded)
    assert kinds.count("I") >= 4
    assert "BB" in kinds
    bright = frames[:, :, 4:28, 36:60].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(bright, 20 + 3 * np.arange(50), atol=1.4)


def test_frame_index_counts_frames_in_the_order_they_are_shown(encoded):
    index = frame_index(str(encoded))
    frames, kinds = decode_everything(encoded)
    assert len(index) == len(frames)
    assert (np.diff(index.times) > 0).all()
    starts = [number for number, kind in enumerate(kinds) if kind == "I"]
    assert index.ready.tolist() == starts


@pytest.mark.parametrize(
    "wanted",
    [
        [0],
        [49],
        [1],  # a B-frame of the first group
        [11, 12, 13],  # across a key frame
        [5, 6, 40],
        [3, 3, 30, 3],
        [49, 25, 0, 26, 13],
        list(range(50)),
        list(range(0, 50, 7)),
    ],
    ids=str,
)
def test_chosen_frames_are_those_of_decoding_everything_in_the_order_asked_for(encoded, wanted):
    frames, _ = decode_everything(encoded)
    np.testing.assert_array_equal(decode(str(encoded), np.array(wanted)), frames[wanted])


CONTAINERS = [
    ("mpeg4", "avi", {"q:v": "4"}),
    ("mpeg2video", "mpg", {"q:v": "4"}),
    ("libx264", "mkv", None),
    ("libx264", "mpg", None),  # times only some of its frames
]


@pytest.mark.parametrize(("codec", "suffix", "options"), CONTAINERS, ids=[f"{c}-{s}" for c, s, _ in CONTAINERS])
def test_frames_are_right_in_containers_that_seek_badly(tmp_path, codec, suffix, options):
    path = tmp_path / f"video.{suffix}"
    write_video(path, pattern(50), codec=codec, options=options)
    frames, kinds = decode_everything(path)
    assert "B" in kinds
    assert len(frame_index(str(path))) == len(frames) == 50
    rng = np.random.default_rng(0)
    for _ in range(12):
        wanted = rng.integers(0, 50, rng.integers(1, 6))
        np.testing.assert_array_equal(decode(str(path), wanted), frames[wanted])


def test_resizing_averages_the_pixels_and_keeps_channels_and_corners(encoded):
    frames, _ = decode_everything(encoded)
    small = decode(str(encoded), np.array([7, 31]), size=16)
    assert small.shape == (2, 3, 16, 16)
    assert small.dtype == np.uint8
    blocks = frames[[7, 31]].reshape(2, 3, 16, 4, 16, 4).mean(axis=(3, 5))
    # Chroma is stored at half the size and averaged on its own way: a few levels of difference, one colour edge apart.
    assert np.abs(small - blocks).mean() < 2.0
    red, green, _ = small[0, :, 10:15, 1:6].mean(axis=(1, 2))
    assert red > 180 > 60 > green
    assert abs(small[1, :, 1:6, 10:15].mean() - (20 + 3 * 31)) < 3


@pytest.mark.parametrize("wanted", [[50], [-1], [3, 90]])
def test_frame_that_the_video_does_not_have_is_refused(encoded, wanted):
    with pytest.raises(UnreadableVideoError, match=r"has frames 0\.\.49, asked for"):
        decode(str(encoded), np.array(wanted))


def test_unreadable_file_is_told_with_its_reason(tmp_path, encoded):
    for name, reason in {**broken_videos(tmp_path, encoded), "absent.mp4": "does not exist"}.items():
        with pytest.raises(UnreadableVideoError, match=reason):
            frame_index(str(tmp_path / name))


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation.


NOTHING = augmentation.Augmentation((0.0, 0.0, 1.0, 1.0), flip=False, jitter=(), blur=0.0, grey=False)


def clip(frames: int = 3, contexts: int = 2, size: int = 24) -> torch.Tensor:
    """One picture, T x K times: whatever differs after augmentation was drawn per frame."""
    picture = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return picture.expand(frames, contexts, 3, size, size)


def test_nothing_drawn_changes_nothing_but_the_type():
    frames = clip()
    torch.testing.assert_close(augmentation.apply(frames, NOTHING), frames.float() / 255, rtol=0, atol=0)


def test_all_frames_of_a_clip_share_one_draw():
    rng = np.random.default_rng(1)
    for _ in range(8):
        out = augmentation.apply(clip(), augmentation.draw(rng))
        torch.testing.assert_close(out, out[:1, :1].expand_as(out), rtol=0, atol=0)


def test_augmented_clips_keep_their_shape_stay_in_0_to_1_and_differ_from_each_other():
    rng = np.random.default_rng(0)
    counts = [1 + number % 3 for number in range(12)]
    frames = torch.cat([clip(count, 1)[:, 0] for count in counts])
    draws = [augmentation.draw(rng) for _ in counts]
    out = augmentation.apply_to_clips(frames, counts, draws)
    assert out.shape == frames.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1
    clips = out.split(counts)
    assert len({tuple(clip[0].flatten().tolist()) for clip in clips}) == 12
    for part, draw in zip(clips, draws, strict=True):
        torch.testing.assert_close(part, augmentation.apply(frames[: len(part)], draw), rtol=0, atol=0)


def test_the_same_draw_gives_the_same_pixels():
    one, other = (augmentation.draw(np.random.default_rng(5)) for _ in range(2))
    assert one == other
    torch.testing.assert_close(augmentation.apply(clip(), one), augmentation.apply(clip(), other), rtol=0, atol=0)


def only(**fields) -> augmentation.Augmentation:
    return augmentation.Augmentation(**{**vars(NOTHING), **fields})


def test_flip_mirrors_left_and_right_alone():
    frames = clip()
    out = augmentation.apply(frames, only(flip=True))
    torch.testing.assert_close(out, torch.from_numpy(frames.numpy()[..., ::-1].copy()).float() / 255, rtol=0, atol=0)


def test_grey_has_three_equal_channels_of_the_luma():
    frames = clip()
    out = augmentation.apply(frames, only(grey=True))
    assert torch.equal(out[:, :, 0], out[:, :, 1])
    assert torch.equal(out[:, :, 1], out[:, :, 2])
    red, green, blue = (frames.float() / 255).unbind(2)
    torch.testing.assert_close(out[:, :, 0], 0.299 * red + 0.587 * green + 0.114 * blue, rtol=0, atol=2e-3)


def test_crop_shows_the_part_of_the_picture_that_was_drawn():
    picture = torch.zeros(1, 1, 3, 20, 20, dtype=torch.uint8)
    picture[..., 4:14, 10:20] = 255
    out = augmentation.apply(picture, only(crop=(0.2, 0.5, 0.5, 0.5)))
    assert out.min() > 0.99
    out = augmentation.apply(picture, only(crop=(0.2, 0.0, 0.5, 0.5)))
    assert out.max() < 0.01


def test_brightness_multiplies_and_the_order_of_operations_counts():
    frames = clip()
    out = augmentation.apply(frames, only(jitter=(("brightness", 0.5),)))
    torch.testing.assert_close(out, frames.float() / 510, rtol=0, atol=1e-6)
    one = augmentation.apply(frames, only(jitter=(("brightness", 1.7), ("contrast", 0.4))))
    other = augmentation.apply(frames, only(jitter=(("contrast", 0.4), ("brightness", 1.7))))
    assert (one - other).abs().max() > 0.05


def test_blur_is_a_gaussian_whose_width_scales_with_the_picture():
    point = torch.zeros(1, 1, 3, 56, 56, dtype=torch.uint8)
    point[..., 28, 28] = 255
    # Sigma 6 at 224 px is 1.5 at 56 px; the kernel's tails beyond two sigma are cut, which narrows it a little.
    spread = augmentation.apply(point, only(blur=6.0))[0, 0, 1]
    assert abs(spread.sum() - 1) < 1e-3
    places = torch.arange(56) - 28.0
    for axis in (0, 1):
        profile = spread.sum(dim=axis)
        assert abs((profile * places).sum()) < 1e-3
        assert 1.2 < (profile * places.square()).sum().sqrt() < 1.5
    torch.testing.assert_close(spread, spread.T, rtol=1e-4, atol=1e-6)


def test_draws_have_the_published_rates_and_ranges():
    rng = np.random.default_rng(0)
    draws = [augmentation.draw(rng) for _ in range(2000)]
    for rate, told in [
        (0.5, [d.flip for d in draws]),
        (0.8, [bool(d.jitter) for d in draws]),
        (0.5, [d.blur > 0 for d in draws]),
        (0.2, [d.grey for d in draws]),
    ]:
        assert abs(np.mean(told) - rate) < 0.045
    factors = {name: [dict(d.jitter)[name] for d in draws if d.jitter] for name in augmentation.JITTER}
    for name in ("brightness", "contrast", "saturation"):
        assert 0.2 <= min(factors[name]) < 0.25
        assert 1.75 < max(factors[name]) <= 1.8
    assert -0.2 <= min(factors["hue"]) < -0.19
    assert 0.19 < max(factors["hue"]) <= 0.2
    assert len({tuple(name for name, _ in d.jitter) for d in draws}) == 25  # 4! orders, and none
    crops = np.array([d.crop for d in draws if d.crop != (0.0, 0.0, 1.0, 1.0)])
    assert len(crops) > 1800
    top, left, height, width = crops.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 1 + 1e-9).all()
    assert (left + width <= 1 + 1e-9).all()
    area, ratio = height * width, width / height
    assert 0.8 <= area.min() < 0.81
    assert 0.98 < area.max() <= 1
    assert ratio.min() >= 3 / 4
    assert ratio.max() <= 4 / 3


# ---------------------------------------------------------------------------------------------------------------------
# The loader.


def config_of(root: Path, **fields) -> DataConfig:
    values = {"num_frames": 8, "size": 16, "batch_size": 2, "validation_share": 0, "sampling_region": 1.5}
    return DataConfig(root=str(root), **{**values, **fields})


@pytest.fixture(scope="module")
def features_root(tmp_path_factory) -> Path:
    return plain(tmp_path_factory.mktemp("features"), 9, 1, features=True)


def loader_of(config: DataConfig, **fields) -> PairLoader:
    return PairLoader(open_videos(config).train, config, **{"seed": 3, **fields})


TENSORS = ("frames", "places", "steps", "lengths", "video_lengths", "video", "action", "pairs")


def same_batch(one, other) -> bool:
    return all(getattr(one, f) == getattr(other, f) for f in ("names", "augmentations", "is_padded", "counts")) and all(
        torch.equal(getattr(one, f), getattr(other, f)) for f in TENSORS
    )


def as_one(shares) -> dict:
    """The batches of all ranks as one."""
    found = {field: torch.cat([getattr(share, field) for share in shares]) for field in TENSORS}
    for field, counted in (("places", "frames"), ("pairs", "lengths")):
        offsets = np.cumsum([0, *(len(getattr(share, counted)) for share in shares)])[:-1].tolist()
        parts = [getattr(share, field) for share in shares]
        found[field] = torch.cat([torch.where(p < 0, -1, p + o) for p, o in zip(parts, offsets, strict=True)])
    return found


def test_batch_holds_the_frames_at_its_steps_of_the_videos_it_names(plain_root):
    config = config_of(plain_root, num_contexts=2, context_stride=3, augment=False)
    loader = loader_of(config)
    videos = loader.dataset.videos
    whole = {video.name: decode_everything(Path(video.path))[0] for video in videos}
    for batch in loader.epoch(0):
        assert batch.frames.shape[1:] == (3, 16, 16)
        assert batch.places.shape == (4, 8, 2)
        assert batch.augmentations == []
        assert batch.pairs.tolist() == [[0, 1], [2, 3]]
        # Each frame of a clip is there once, whether it is seen as itself or as a context.
        ends = np.cumsum(batch.counts)
        assert len(batch.frames) == ends[-1]
        assert ends[-1] < 4 * 8 * 2
        for number, name in enumerate(batch.names):
            steps, places = batch.steps[number].numpy(), batch.places[number]
            assert batch.video_lengths[number] == len(whole[name])
            assert videos[batch.video[number]].name == name
            assert set(places.flatten().tolist()) == set(range(ends[number] - batch.counts[number], ends[number]))
            shown = batch.frames[places].numpy()[..., 3:5, 11:14].mean(axis=(2, 3, 4))
            before = np.maximum(steps - 3, 0)
            np.testing.assert_allclose(shown, 20 + 3 * np.stack([before, steps], axis=1), atol=3.5)
            frames = np.unique([before, steps])
            assert batch.counts[number] == len(frames)


def test_order_of_an_epoch_depends_on_seed_and_epoch_alone(features_root):
    config = config_of(features_root, input="features")
    loader = loader_of(config)
    assert loader.order(2) == loader_of(config).order(2)
    assert len({tuple(order) for order in (loader.order(0), loader.order(1), loader_of(config, seed=4).order(0))}) == 3
    assert len(set(loader.order(0))) == len(loader.order(0)) == 8  # 9 videos make 4 batches of 2, each video once
    one, other = list(loader.epoch(5)), list(loader_of(config).epoch(5))
    assert all(same_batch(a, b) for a, b in zip(one, other, strict=True))
    assert not same_batch(one[0], next(iter(loader.epoch(6))))


def test_of_several_actions_a_step_has_couples_where_videos_are_compared(features_root):
    config = config_of(features_root, input="features", batch_size=4)
    videos = open_videos(config).train
    assert loader_of(config, in_couples=True, steps_per_epoch=7).order(1) == loader_of(config, steps_per_epoch=7).order(
        1
    )
    # 9 videos of 4 actions, over and over: 7 steps of 4.
    actions = ["jump", "kick", "jump", "bowl", "kick", "jump", "kick", "bowl", "swim"]
    mixed = [replace(video, action=action) for video, action in zip(videos, actions, strict=True)]
    loader = PairLoader(mixed, config, seed=3, steps_per_epoch=7, in_couples=True)
    order, plain_order = loader.order(1), PairLoader(mixed, config, seed=3, steps_per_epoch=7).order(1)
    assert sorted(order) == sorted(plain_order)
    couples = [(one, other) for one, other in zip(order[::2], order[1::2], strict=True)]
    are_of_one = [actions[one] == actions[other] and one != other for one, other in couples]
    # Those that are alone come last: the swimmer each time, and what is left over of the others.
    assert are_of_one == sorted(are_of_one, reverse=True)
    assert sum(are_of_one) >= 10
    assert [v for v in order[: 2 * sum(are_of_one)] if actions[v] == "swim"] == []
    # Otherwise few steps have any.
    couples = [(one, other) for one, other in zip(plain_order[::2], plain_order[1::2], strict=True)]
    assert sum(actions[one] == actions[other] for one, other in couples) < 8
    ranks = [
        PairLoader(mixed, config, seed=3, steps_per_epoch=7, in_couples=True, rank=r, world_size=2) for r in (0, 1)
    ]
    both = [batch for pair in zip(*(rank.epoch(1) for rank in ranks), strict=True) for batch in pair]
    assert [int(index) for batch in both for index in batch.video[::2]] == order


def test_epoch_longer_than_the_videos_goes_over_them_again_in_another_order(features_root):
    loader = loader_of(config_of(features_root, input="features"), steps_per_epoch=9)
    order = loader.order(0)
    assert len(order) == 18
    assert sorted(order[:9]) == sorted(order[9:]) == list(range(9))
    assert order[:9] != order[9:]
    clips = [batch.steps for batch in loader.epoch(0)]
    assert len(clips) == 9
    assert len({tuple(steps.flatten().tolist()) for steps in clips}) == 9


@pytest.mark.parametrize("kind", ["features", "videos"])
def test_ranks_together_train_on_the_batches_of_one_process(features_root, plain_root, kind):
    root = features_root if kind == "features" else plain_root
    config = config_of(root, input=kind, batch_size=4 if kind == "features" else 2)
    joined = loader_of(config)
    ranks = [loader_of(config, rank=rank, world_size=2) for rank in (0, 1)]
    assert joined.batches_per_epoch == ranks[0].batches_per_epoch == 2
    for whole, *shares in zip(joined.epoch(1), *(loader.epoch(1) for loader in ranks), strict=True):
        assert [name for share in shares for name in share.names] == whole.names
        assert [draw for share in shares for draw in share.augmentations] == whole.augmentations
        assert [count for share in shares for count in share.counts] == whole.counts
        for field, tensor in as_one(shares).items():
            assert torch.equal(tensor, getattr(whole, field)), field
    assert bool(whole.augmentations) == (kind == "videos")


def test_step_that_is_cut_to_save_memory_holds_the_same_pairs_on_any_number_of_ranks(features_root):
    config = config_of(features_root, input="features", batch_size=4)
    whole, cut = loader_of(config), loader_of(config, accumulate=2)
    ranks = [loader_of(config, accumulate=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert {loader.steps_per_epoch for loader in (whole, cut, *ranks)} == {2}
    assert {loader.batches_per_epoch for loader in (cut, *ranks)} == {4}
    steps = [torch.cat([batch.steps for batch in loader.epoch(0)]) for loader in (whole, cut)]
    assert torch.equal(*steps)
    # Each part of a step is one batch of all ranks: their batch norms see what one rank's would.
    for part, *shares in zip(cut.epoch(0), *(loader.epoch(0) for loader in ranks), strict=True):
        assert [len(share.pairs) for share in shares] == [1, 1]
        assert torch.equal(torch.cat([share.steps for share in shares]), part.steps)


def test_epoch_can_be_entered_anywhere(features_root):
    loader = loader_of(config_of(features_root, input="features"))
    whole = list(loader.epoch(4))
    for first in (0, 2, 3):
        rest = list(loader.epoch(4, first_batch=first))
        assert len(rest) == 4 - first
        assert all(same_batch(a, b) for a, b in zip(rest, whole[first:], strict=True))


def test_loader_processes_give_the_same_batches_as_none(plain_root):
    alone = list(loader_of(config_of(plain_root)).epoch(1))
    apart = list(loader_of(config_of(plain_root, num_loaders=2)).epoch(1))
    assert len(alone) == 2
    assert all(same_batch(a, b) for a, b in zip(alone, apart, strict=True))


@pytest.mark.parametrize("num_loaders", [0, 1])
def test_video_that_breaks_after_it_was_opened_is_told_in_one_line(tmp_path, num_loaders):
    root = plain(tmp_path, 2, 1, features=True)
    loader = loader_of(config_of(root, input="features", num_loaders=num_loaders))
    victim = loader.dataset.videos[1]
    Path(victim.path).write_bytes(Path(victim.path).read_bytes()[:-50])
    with pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    (problem,) = caught.value.problems
    assert re.fullmatch(rf"{re.escape(victim.path)}: cannot be read any more \([^\n]*\); mend or remove it", problem)


@pytest.mark.parametrize("gib", [0.0, 45 * 3 * 16 * 16 / 2**30], ids=["off", "two videos"])
@pytest.mark.parametrize("contexts", [1, 2])
def test_cache_changes_no_frame_and_stays_in_its_budget(plain_root, gib, contexts):
    kept = loader_of(config_of(plain_root, num_contexts=contexts), steps_per_epoch=4)
    other = loader_of(config_of(plain_root, num_contexts=contexts, cache_gib=gib), steps_per_epoch=4)
    assert all(same_batch(a, b) for a, b in zip(kept.epoch(0), other.epoch(0), strict=True))
    assert len(kept.dataset.store._kept) == 4
    held = sum(frames.nbytes for frames in other.dataset.store._kept.values())
    assert held <= gib * 2**30
    if gib:
        assert held > 0


def test_clip_of_a_short_video_is_padded_and_says_so(tmp_path):
    root = plain(tmp_path, 2, 1, frames=20, features=True)
    config = config_of(root, input="features", num_frames=21, batch_size=2)
    (batch,) = loader_of(config).epoch(0)
    assert batch.is_padded
    for clip, name in enumerate(batch.names):
        real = 20 if name == "videos/train0.mp4" else 21
        assert batch.lengths[clip] == batch.counts[clip] == real
        assert batch.steps[clip, :real].tolist() == list(range(real))
        assert batch.steps[clip, real:].abs().sum() == 0
        assert (batch.places[clip, real:] == -1).all()
        assert torch.equal(batch.places[clip, :real, 0], torch.arange(real) + sum(batch.counts[:clip]))
    # Nothing is held for the padding.
    assert len(batch.frames) == 20 + 20 + 21 + 21
    (full,) = loader_of(config_of(root, input="features", num_frames=20)).epoch(0)
    assert not full.is_padded
    assert full.lengths.tolist() == [20, 20, 20, 20]


SAMPLINGS = ["time_augment", "uniform", "offset_uniform", "segment_uniform"]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_pairing_of_views_takes_one_video_and_of_videos_two(features_root, sampling):
    views = loader_of(config_of(features_root, input="features", sampling=sampling))
    for batch in views.epoch(0):
        assert batch.names[::2] == batch.names[1::2]
        assert torch.equal(batch.video[::2], batch.video[1::2])
        assert not torch.equal(batch.steps[::2], batch.steps[1::2])
    videos = loader_of(config_of(features_root, input="features", pairing="videos", sampling=sampling))
    partners: dict[str, set[str]] = {}
    for epoch in range(30):
        for batch in videos.epoch(epoch):
            for one, other in batch.pairs.tolist():
                assert batch.video[one] != batch.video[other]
                partners.setdefault(batch.names[one], set()).add(batch.names[other])
            assert (batch.steps < batch.video_lengths[:, None]).all()
    assert all(name not in others and len(others) >= 7 for name, others in partners.items())


def test_two_videos_of_a_pair_are_always_of_one_action(tmp_path):
    root = plain(tmp_path, 9, 1, features=True)
    actions = ["squat", "serve", "bowl"]
    rows = [f"videos/train{n}.mp4,train,{actions[n % 3]}" for n in range(9)] + ["videos/val0.mp4,val,squat"]
    write_csv(root / "splits.csv", "video,split,action", rows)
    phases = [f"videos/train{n}.mp4,0,6,{actions[n % 3]} begins" for n in range(9)]
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", phases)
    loader = loader_of(config_of(root, input="features", pairing="videos"))
    actions = {video.name: video.action for video in loader.dataset.videos}
    seen: dict[str, set[tuple[str, ...]]] = {}
    for epoch in range(20):
        for batch in loader.epoch(epoch):
            for one, other in batch.pairs.tolist():
                names = batch.names[one], batch.names[other]
                assert actions[names[0]] == actions[names[1]]
                assert (
                    batch.action[one] == batch.action[other] == sorted(set(actions.values())).index(actions[names[0]])
                )
                seen.setdefault(actions[names[0]], set()).add(names)
    # Each with each other one of its three.
    assert {action: len(pairs) for action, pairs in seen.items()} == dict.fromkeys(actions.values(), 6)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("pairing", ["views", "videos"])
def test_with_a_positive_window_every_second_frame_is_the_positive_of_the_one_before(features_root, sampling, pairing):
    config = config_of(features_root, input="features", sampling=sampling, pairing=pairing, positive_window=4)
    loader, apart = loader_of(config), set()
    for epoch in range(12):
        for batch in loader.epoch(epoch):
            assert batch.lengths.tolist() == [8] * 4
            anchors, positives = batch.steps[:, ::2], batch.steps[:, 1::2]
            assert (anchors.diff(dim=1) >= 0).all()
            assert (positives >= 0).all()
            assert ((anchors > positives) | (anchors == 0)).all()
            apart |= set((anchors - positives)[anchors >= 4].tolist())
            for clip in range(4):
                features = np.load(loader.dataset.videos[batch.video[clip]].path)
                np.testing.assert_array_equal(batch.frames[batch.places[clip, :, 0]], features[batch.steps[clip]])
    assert apart == {1, 2, 3, 4}


def test_pictures_of_a_pair_are_augmented_apart(plain_root):
    batch = next(iter(loader_of(config_of(plain_root)).epoch(0)))
    assert len(batch.augmentations) == 4
    assert len(set(batch.augmentations)) == 4


def test_batch_moves_as_a_whole(features_root):
    batch = next(iter(loader_of(config_of(features_root, input="features")).epoch(0)))
    moved = batch.to(torch.device("meta"))
    assert {getattr(moved, f).device.type for f in TENSORS} == {"meta"}
    assert moved.names == batch.names
