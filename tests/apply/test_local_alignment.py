"""What an alignment says: counterparts, gaps, times."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import as_they_are, process

from lacray.apply import Alignment, EmbeddedVideo, Measure, NoClockError, Penalties
from lacray.apply.alignment import _all_frames, align, counterparts
from lacray.apply.calibration import Calibration, calibrate_codes
from lacray.apply.chance import Chance
from lacray.apply.tables import HARD, best_path, best_score
from lacray.odds import probabilities

GAPS = Penalties(gap_open=1.3, gap_extend=0.4, gamma=0.7)
CLEAR = Calibration(Measure(), (-1.0, 1.0), (-3.0, 3.0), 3.0, Chance(1.0, 5.0, 0.0, 100, 0.0), 2, 1, 1)
"""Cosine 1 is worth 3 nats, orthogonal frames nothing, opposite ones -3."""


def every_alignment(num_rows: int, num_columns: int):
    """All non-empty chains of matches, rising in both."""
    cells = list(itertools.product(range(num_rows), range(num_columns)))
    chains = [[cell] for cell in cells]
    while chains:
        yield from chains
        chains = [
            [*chain, cell] for chain in chains for cell in cells if cell[0] > chain[-1][0] and cell[1] > chain[-1][1]
        ]


def worth(chain, table, penalties) -> float:
    # All ways to the next match: no frame or 1, 2, ... left out on the one side, and the same on the other.
    side = 1 + sum(np.exp(-(penalties.gap_open + k * penalties.gap_extend) / penalties.gamma) for k in range(400))
    ways = side**2
    total = sum(table[cell] - penalties.gamma * np.log(ways) for cell in chain)
    for (i, j), (k, m) in itertools.pairwise(chain):
        for skipped in (k - i - 1, m - j - 1):
            if skipped:
                total -= penalties.gap_open + (skipped - 1) * penalties.gap_extend
    return total


def test_score_path_and_probabilities_are_those_of_all_alignments():
    table = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32) * 2
    chains = list(every_alignment(4, 5))
    values = np.array([worth(chain, table, GAPS) for chain in chains])
    score, path = best_path(table, GAPS)
    assert score == pytest.approx(values.max(), abs=1e-5)
    assert [tuple(cell) for cell in path.tolist()] == chains[int(values.argmax())]
    weights = np.exp((values - values.max()) / GAPS.gamma)
    expected = np.zeros_like(table)
    for chain, weight in zip(chains, weights / weights.sum(), strict=True):
        for cell in chain:
            expected[cell] += weight
    soft, found = probabilities(table, GAPS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert soft == pytest.approx(values.max() + GAPS.gamma * np.log(weights.sum()), abs=1e-5)
    assert best_score(table, GAPS) == pytest.approx(score, abs=10 * HARD)


def test_nothing_is_matched_where_nothing_is_better_than_chance():
    table = -np.random.default_rng(0).random((6, 7)).astype(np.float32) - 0.1
    score, path = best_path(table, GAPS)
    assert score < 0
    assert path.shape == (0, 2)


def blocks(pairs: dict[tuple[int, int], float], shape: tuple[int, int]) -> np.ndarray:
    table = np.full(shape, -2.0, np.float32)
    for cell, value in pairs.items():
        table[cell] = value
    return table


def test_a_pause_is_carried_and_another_action_is_left_out():
    # Rows follow columns 0 1 2 3 4, but rows 2..6 stand still at column 2, rows 7..9 do something else,
    # row 12 stands still at the end.
    table = blocks(
        {(0, 0): 2, (1, 1): 2, **{(row, 2): 2 for row in range(2, 7)}, (10, 3): 2, (11, 4): 2, (12, 4): 1}, (13, 6)
    )
    path = np.array([[0, 0], [1, 1], [2, 2], [10, 3], [11, 4]])
    there, back = counterparts(path, table)
    expected = [0, 1, 2, *(2 + np.arange(1, 5) / 8), np.nan, np.nan, np.nan, 3, 4, 4]
    np.testing.assert_allclose(there, expected)
    np.testing.assert_allclose(back, [0, 1, 2, 10, 11, np.nan])


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000))
def test_counterparts_never_go_back_and_agree_with_the_path(num_rows, num_columns, seed):
    table = np.random.default_rng(seed).normal(size=(num_rows, num_columns)).astype(np.float32) * 2
    _, path = best_path(table, GAPS)
    there, back = counterparts(path, table)
    for places, length in ((there, num_columns), (back, num_rows)):
        known = places[~np.isnan(places)]
        assert (np.diff(known) >= 0).all()
        assert ((known >= 0) & (known <= length - 1)).all()
    for i, j in path.tolist():
        assert (there[i], back[j]) == (j, i)


def video(name: str, kinds: list[int], *, fps: float | None = 10.0, start: float = 0.0) -> EmbeddedVideo:
    """A video whose frames are of some kinds, each orthogonal to all others; -1 - n: like nothing."""
    embeddings = np.zeros((len(kinds), 64), np.float32)
    for row, kind in zip(embeddings, kinds, strict=True):
        row[kind if kind >= 0 else 64 + kind] = 1
    if fps is None:
        return EmbeddedVideo(name, embeddings)
    seconds = start + np.arange(len(kinds)) / fps
    return EmbeddedVideo(name, embeddings, seconds, float(seconds[-1] + 1 / fps))


def aligned(a: EmbeddedVideo, b: EmbeddedVideo, **more) -> Alignment:
    strict = Calibration(Measure(), (0.0, 1.0), (-2.0, 3.0), 5.0, Chance(1.0, 5.0, 0.0, 100, 0.0), 2, 1, 1)
    return align(a, b, strict, Penalties(1.0, 0.2, 0.5), **more)


def test_lead_in_skipped_inserted_and_lead_out_are_named_with_their_times():
    a = video("a", [-1, -2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -3])
    b = video("b", [-4, 0, 1, 2, 6, 7, -5, -6, -7, 8, 9], fps=5)
    found = aligned(a, b)
    assert [(gap.kind, gap.video, gap.first, gap.stop) for gap in found.gaps] == [
        ("lead_in", "a", 0, 2),
        ("skipped", "a", 5, 8),
        ("lead_out", "a", 12, 13),
        ("lead_in", "b", 0, 1),
        ("inserted", "b", 6, 9),
    ]
    skipped, inserted = found.gaps[1], found.gaps[4]
    assert (skipped.start_seconds, skipped.end_seconds, skipped.at) == (0.5, 0.8, 3)
    assert (inserted.seconds, inserted.at) == (pytest.approx(0.6), 9)
    np.testing.assert_array_equal(found.a_to_b, [np.nan, np.nan, 1, 2, 3, np.nan, np.nan, np.nan, 4, 5, 9, 10, np.nan])
    assert found.frame_in_b(3) == 2
    assert found.frame_in_b(6) is None
    assert found.frame_in_a(10) == 11
    assert found.time_in_b(0.3) == pytest.approx(0.4)
    assert found.time_in_b(0.6) is None
    assert found.time_in_b(-1.0) is None
    assert found.time_in_b(99.0) is None


def test_times_between_frames_go_with_the_clock_of_each_video():
    a = video("a", [0, 1, 2, 3, 4, 5], fps=10)
    b = EmbeddedVideo("b", a.embeddings, np.array([5.0, 5.1, 5.2, 7.0, 7.1, 7.2]), 7.3)
    found = aligned(a, b)
    np.testing.assert_array_equal(found.a_to_b, np.arange(6))
    assert found.time_in_b(0.2) == pytest.approx(5.2)
    assert found.time_in_b(0.25) == pytest.approx(6.1)
    assert found.time_in_a(6.1) == pytest.approx(0.25)
    times = [found.time_in_b(seconds) for seconds in np.linspace(0, 0.5, 41)]
    assert all(one <= other for one, other in itertools.pairwise(times))


def test_videos_without_a_clock_are_asked_by_frame():
    found = aligned(video("a", [0, 1, 2], fps=None), video("b", [0, 1, 2], fps=None))
    assert found.frame_in_b(1) == 1
    assert found.gaps == []
    with pytest.raises(NoClockError, match="ask by frame"):
        found.time_in_b(0.1)
    timed = aligned(video("a", [0, 1, 2]), video("b", [0, 1, 2], fps=None))
    with pytest.raises(NoClockError, match="b: has no frame times"):
        timed.time_in_b(0.1)


def test_unrelated_videos_have_no_counterparts_and_that_is_one_gap_each():
    found = aligned(video("a", [-1, -2, -3]), video("b", [0, 1, 2, 3]))
    assert (found.score, found.path.shape) == (0, (0, 2))
    assert [(gap.kind, gap.first, gap.stop, gap.at) for gap in found.gaps] == [
        ("unmatched", 0, 3, None),
        ("unmatched", 0, 4, None),
    ]
    assert found.p_value > 0.99
    assert len(found.probability) == 0


@pytest.mark.parametrize(("one", "other"), [([0], [0]), ([0], [3, 0, 4]), ([5, 0], [0])])
def test_a_video_of_one_frame_is_aligned(one, other):
    found = aligned(video("a", one), video("b", other))
    assert found.path.tolist() == [[one.index(0), other.index(0)]]
    assert found.time_in_b(one.index(0) / 10) == pytest.approx(other.index(0) / 10)


def test_identical_videos_are_matched_frame_by_frame():
    rng = np.random.default_rng(0)
    codes = [process(rng) for _ in range(8)]
    calibration = calibrate_codes(codes, as_they_are, Measure())
    one = EmbeddedVideo("one", as_they_are(codes[0]))
    found = align(one, one, calibration, Penalties())
    np.testing.assert_array_equal(found.a_to_b, np.arange(len(one)))
    assert found.gaps == []
    assert found.p_value < 1e-3


def test_a_stride_aligns_every_other_frame_and_places_those_between():
    a, b = video("a", [n // 4 for n in range(40)]), video("b", [-1, -1, -2, -2, *(n // 4 for n in range(40))])
    found = aligned(a, b, stride=2)
    assert found.match.shape == (20, 22)
    assert (found.path % 2 == 0).all()
    known = ~np.isnan(found.a_to_b)
    assert known[:38].all()
    assert np.abs(found.a_to_b[known] - (np.flatnonzero(known) + 4)).max() <= 3
    assert _all_frames(np.array([3.0, 4.0, np.nan, 7.0]), 2, 7).tolist()[:3] == [6, 7, 8]


def test_what_matches_by_chance_alone_is_not_called_matched():
    table = CLEAR(np.array([-2.0, -1.0, 0.0, 0.5, 1.0, 9.0], np.float32))
    np.testing.assert_allclose(table, [-3, -3, 0, 1.5, 3, 3])
