"""Which frames of a video make a clip."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from lacray.config import DataConfig
from lacray.data.sampling import (
    context_steps,
    frames_once,
    offset_uniform,
    random_clip,
    sample_steps,
    segment_uniform,
    time_augment,
    uniform,
    with_positives,
)

LENGTHS = st.integers(1, 300)
CLIPS = st.integers(1, 40)
SEEDS = st.integers(0, 2**32 - 1)
REGIONS = st.floats(1.0, 5.0)
SHARES = st.floats(0.0, 1.0)


def check_is_clip(steps: np.ndarray, num_video_frames: int, num_frames: int) -> None:
    assert steps.dtype == np.int64
    assert len(steps) == min(num_video_frames, num_frames)
    assert steps[0] >= 0
    assert steps[-1] < num_video_frames
    assert all(a < b for a, b in itertools.pairwise(steps.tolist()))


@given(LENGTHS, CLIPS, SEEDS, REGIONS, SHARES)
def test_two_views_are_sorted_distinct_frames_of_blocks_of_bounded_length(length, clip, seed, region, offset):
    views = time_augment(length, clip, np.random.default_rng(seed), sampling_region=region, consistent_offset=offset)
    for steps in views:
        check_is_clip(steps, length, clip)
        assert steps[-1] - steps[0] + 1 <= math.ceil(region * len(steps))


@given(LENGTHS, CLIPS, SEEDS, SHARES)
def test_second_view_starts_at_most_the_offset_away_from_the_first(length, clip, seed, offset):
    # With a region of 1 a block is exactly its frames, so that the starts can be seen.
    one, other = time_augment(length, clip, np.random.default_rng(seed), sampling_region=1.0, consistent_offset=offset)
    for steps in (one, other):
        assert steps[-1] - steps[0] == len(steps) - 1
    assert abs(int(other[0]) - int(one[0])) <= offset * len(one)


def test_blocks_reach_both_ends_of_the_video_both_length_bounds_and_both_directions():
    rng = np.random.default_rng(0)
    draws = [time_augment(50, 10, rng, sampling_region=2.0, consistent_offset=0.5) for _ in range(4000)]
    spans = [steps[-1] - steps[0] + 1 for pair in draws for steps in pair]
    assert max(spans) == 20  # ceil(2 * 10)
    assert min(spans) <= 11
    for view in (0, 1):
        assert min(pair[view][0] for pair in draws) == 0
        assert max(pair[view][-1] for pair in draws) == 49
    shifts = [int(other[0]) - int(one[0]) for one, other in draws]
    assert min(shifts) < -4
    assert max(shifts) > 4


def test_views_without_offset_start_together_and_are_drawn_apart():
    rng = np.random.default_rng(0)
    one, other = time_augment(400, 20, rng, sampling_region=1.0, consistent_offset=0.0)
    np.testing.assert_array_equal(one, other)
    one, other = time_augment(400, 20, rng, sampling_region=3.0, consistent_offset=0.0)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_short_video_is_taken_whole_by_every_sampling(length):
    rng = np.random.default_rng(3)
    everything = list(range(length))
    for steps in time_augment(length, 8, rng, sampling_region=1.5, consistent_offset=0.2):
        assert steps.tolist() == everything
    assert random_clip(length, 8, rng, sampling_region=3.0).tolist() == everything
    assert uniform(length, 8, rng).tolist() == everything
    assert uniform(length, 8).tolist() == everything
    assert offset_uniform(length, 8, rng, random_offset=1).tolist() == everything
    assert segment_uniform(length, 8, rng).tolist() == everything


@given(LENGTHS, CLIPS, SEEDS, REGIONS)
def test_random_clip_is_sorted_distinct_frames_of_a_block_of_bounded_length(length, clip, seed, region):
    steps = random_clip(length, clip, np.random.default_rng(seed), sampling_region=region)
    check_is_clip(steps, length, clip)
    assert steps[-1] - steps[0] + 1 <= math.ceil(region * len(steps))


@given(LENGTHS, CLIPS, st.one_of(st.none(), SEEDS))
@settings(max_examples=300)
def test_uniform_takes_one_frame_near_each_of_n_equal_parts(length, clip, seed):
    steps = uniform(length, clip, None if seed is None else np.random.default_rng(seed))
    check_is_clip(steps, length, clip)
    part = length / len(steps)
    for number, step in enumerate(steps.tolist()):
        # A frame may be pushed on by one where two draws fall on one frame.
        assert number * part - 1 < step < (number + 1) * part + 1


def test_uniform_without_generator_takes_the_middle_of_each_part():
    # Parts of 7 frames: 0..6, 7..13, 14..20, whose middles are 3, 10 and 17.
    assert uniform(21, 3).tolist() == [3, 10, 17]


def test_uniform_with_generator_reaches_every_frame():
    rng = np.random.default_rng(0)
    assert {int(step) for _ in range(500) for step in uniform(23, 5, rng)} == set(range(23))


@given(LENGTHS, CLIPS, SEEDS, st.integers(0, 5))
def test_offset_uniform_is_sorted_distinct_frames_behind_the_offset(length, clip, seed, offset):
    steps = offset_uniform(length, clip, np.random.default_rng(seed), random_offset=offset)
    check_is_clip(steps, length, clip)
    if clip <= length - offset:
        assert steps[0] >= offset
    else:
        assert steps.tolist() == list(range(len(steps)))


def test_offset_uniform_draws_every_frame_behind_the_offset_as_often_as_any_other():
    rng = np.random.default_rng(0)
    drawn = np.concatenate([offset_uniform(11, 4, rng, random_offset=1) for _ in range(4000)])
    counts = np.bincount(drawn, minlength=11)
    assert counts[0] == 0
    # Ten frames, four of which are taken each time: 1600 times, with a deviation of 31.
    assert np.abs(counts[1:] - 1600).max() < 130


@given(LENGTHS, CLIPS, SEEDS)
def test_segment_uniform_takes_one_frame_of_each_segment_of_the_video_and_its_beginning_once_more(length, clip, seed):
    steps = segment_uniform(length, clip, np.random.default_rng(seed))
    count = min(length, clip)
    assert len(steps) == count
    assert (np.diff(steps) >= 0).all()
    # As many frames as the segments hold, from the start again where the video is over.
    frames = list(itertools.islice(itertools.cycle(range(length)), -(-length // count) * count))
    segments = np.array(frames).reshape(count, -1)
    # A segment for each step that it may be of.
    fits = (steps[:, None, None] == segments).any(axis=2)
    rows, columns = linear_sum_assignment(~fits)
    assert fits[rows, columns].all()


def test_segment_uniform_reaches_every_frame_of_every_segment():
    rng = np.random.default_rng(0)
    draws = [tuple(segment_uniform(5, 2, rng).tolist()) for _ in range(500)]
    # Segments 0 1 2 and 3 4 0.
    assert set(draws) == {(0, 3), (0, 4), (0, 0), (1, 3), (1, 4), (0, 1), (2, 3), (2, 4), (0, 2)}


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 6), SEEDS)
def test_a_positive_follows_each_anchor_and_lies_at_most_the_window_before_it(anchors, window, seed):
    steps = with_positives(np.array(sorted(anchors)), np.random.default_rng(seed), window=window)
    assert steps[::2].tolist() == sorted(anchors)
    for anchor, positive in zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True):
        assert max(0, anchor - window) <= positive <= max(0, anchor - 1)


def test_positives_lie_at_every_distance_of_the_window_as_often():
    steps = with_positives(np.full(6000, 50), np.random.default_rng(0), window=3)
    counts = np.bincount(50 - steps[1::2], minlength=5)
    assert counts[[0, 4]].tolist() == [0, 0]
    assert np.abs(counts[1:4] - 2000).max() < 190


@pytest.mark.parametrize("sampling", ["time_augment", "uniform", "offset_uniform", "segment_uniform"])
@pytest.mark.parametrize("pairing", ["views", "videos"])
@pytest.mark.parametrize("window", [0, 3])
@given(LENGTHS, LENGTHS, SEEDS)
@settings(max_examples=25)
def test_clips_of_a_setting_are_frames_of_their_videos_and_at_most_so_many(sampling, pairing, window, one, other, seed):
    config = DataConfig(sampling=sampling, pairing=pairing, positive_window=window, num_frames=14)
    lengths = (one, one if pairing == "views" else other)
    clips = sample_steps(config, lengths, np.random.default_rng(seed))
    for steps, length in zip(clips, lengths, strict=True):
        assert len(steps) == (2 * min(7, length) if window else min(14, length))
        assert steps.min() >= 0
        assert steps.max() < length
        if not window:
            assert (np.diff(steps) >= 0).all()


@given(LENGTHS, CLIPS, SEEDS)
def test_the_same_generator_gives_the_same_clips(length, clip, seed):
    one, other = (
        np.concatenate(time_augment(length, clip, np.random.default_rng(seed), sampling_region=2.5)) for _ in range(2)
    )
    np.testing.assert_array_equal(one, other)


def test_contexts_are_the_predecessors_in_order_with_frame_0_before_the_start():
    steps = np.array([0, 5, 20])
    np.testing.assert_array_equal(context_steps(steps, num_contexts=3, stride=4), [[0, 0, 0], [0, 1, 5], [12, 16, 20]])


def test_one_context_is_the_frame_itself():
    steps = np.array([3, 1, 4])
    np.testing.assert_array_equal(context_steps(steps, num_contexts=1, stride=15), steps[:, None])


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=20),
    st.integers(1, 4),
    st.integers(1, 9),
)
def test_every_frame_that_is_seen_is_there_once_and_is_found_again(steps, contexts, stride):
    seen = context_steps(np.array(steps), num_contexts=contexts, stride=stride)
    frames, places = frames_once(seen)
    assert frames.tolist() == sorted({int(frame) for frame in seen.flatten()})
    np.testing.assert_array_equal(frames[places], seen)
