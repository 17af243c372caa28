"""Which frames of a video make a clip."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacray.data.sampling import context_steps, random_clip, time_augment, uniform

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
