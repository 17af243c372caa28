"""Calibration: log-odds that are known are found without labels, and p says how often chance does as well."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from processes import as_they_are, in_eight_pieces, process
from scipy import stats

from lacray import odds
from lacray.apply import Calibration, Measure, Penalties
from lacray.apply.calibration import calibrate_codes
from lacray.apply.chance import Chance, fit_chance, out_of_order
from lacray.apply.tables import best_path, best_score


@pytest.fixture(scope="module")
def calibrated() -> Calibration:
    rng = np.random.default_rng(0)
    return calibrate_codes([process(rng) for _ in range(20)], as_they_are, Measure())


def embedded_table(calibration: Calibration, a, b) -> np.ndarray:
    return calibration(calibration.measure(as_they_are(a), as_they_are(b)))


def test_log_odds_that_are_known_are_found_without_being_told_the_matches():
    """At random similarities are N(0, 1), on a path that nobody tells N(3, 1): the log-odds are 3 s - 4.5."""
    rng = np.random.default_rng(1)
    tables = []
    for _ in range(40):
        table = rng.normal(size=(90, 70))
        first = int(rng.integers(0, 20))
        on_path = np.arange(first, 60)
        table[on_path + 10, on_path] += 3
        tables.append(table.astype(np.float32))
    similarities, log_odds, rounds = odds.log_odds(tables)
    assert 1 < rounds < odds.MOST_ROUNDS
    assert (np.diff(similarities) > 0).all()
    assert (np.diff(log_odds) >= -1e-9).all()
    middle = (similarities > 0.5) & (similarities < 2.5)
    np.testing.assert_allclose(log_odds[middle], 3 * similarities[middle] - 4.5, atol=0.6)


def test_frames_at_random_score_below_zero_and_matched_ones_above(calibrated):
    rng = np.random.default_rng(5)
    at_random, on_path = [], []
    for _ in range(20):
        table = embedded_table(calibrated, process(rng), process(rng))
        at_random.append(table.mean())
        _, path = best_path(table, Penalties())
        on_path.append(table[tuple(path.T)].mean())
    assert max(at_random) < 0
    assert min(on_path) > 0.5


def test_p_is_uniform_for_pairs_without_a_common_order(calibrated):
    """Of new videos, of other lengths than those that were calibrated on, one with its moments in another order."""
    rng = np.random.default_rng(7)
    levels = []
    for number in range(250):
        lengths = {"shortest": 4, "longest": 12} if number % 2 else {"shortest": 15, "longest": 40}
        a, b = process(rng, **lengths), in_eight_pieces(process(rng, **lengths), rng)
        table = embedded_table(calibrated, a, b)
        levels.append(calibrated.chance.p_value(best_score(table, Penalties()), *table.shape))
    assert stats.kstest(levels, "uniform").statistic < 0.12
    assert np.mean(np.array(levels) < 0.05) == pytest.approx(0.05, abs=0.035)


def test_p_is_small_for_videos_of_one_process(calibrated):
    rng = np.random.default_rng(9)
    levels = []
    for _ in range(20):
        # At paces that differ by half at most: a score knows no other likeness of pace than the price of gaps.
        table = embedded_table(calibrated, *(process(rng, shortest=16, longest=25) for _ in range(2)))
        levels.append(calibrated.chance.p_value(best_path(table, Penalties())[0], *table.shape))
    assert np.median(levels) < 0.005
    assert max(levels) < 0.05


def test_chances_that_are_known_are_found():
    """Scores drawn from Gumbel's distribution, whose location and width grow with the lengths to the power of 0.7."""
    rng = np.random.default_rng(11)
    sizes = [tuple(int(n) for n in rng.integers(20, 400, size=2)) for _ in range(4000)]
    scores = [np.sqrt(n * m) ** 0.7 * rng.gumbel(1.5, 0.4) for n, m in sizes]
    found = fit_chance(scores, sizes)
    assert found.growth == pytest.approx(0.7, abs=0.03)
    assert found.rate == pytest.approx(1 / 0.4, rel=0.15)
    assert found.distance < 0.03
    expected = stats.gumbel_r.sf(60.0, loc=1.5 * np.sqrt(8000) ** 0.7, scale=0.4 * np.sqrt(8000) ** 0.7)
    assert Chance(2.5, 1.5, 0.7, 0, 0.0).p_value(60.0, 100, 80) == pytest.approx(expected, rel=1e-9)
    assert found.p_value(60.0, 100, 80) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 200])
def test_a_video_out_of_order_has_the_same_frames_and_keeps_neighbours(num_frames):
    order = out_of_order(num_frames, np.random.default_rng(num_frames))
    assert sorted(order.tolist()) == list(range(num_frames))
    if num_frames == 200:
        assert (np.abs(np.diff(order)) == 1).sum() >= 199 - 7
        assert order.tolist() != list(range(200))


def test_encoder_that_tells_nothing_apart_aligns_nothing():
    codes = [torch.ones(length, 4) for length in (20, 30, 25)]
    found = calibrate_codes(codes, as_they_are, Measure())
    assert max(found.log_odds) == pytest.approx(0, abs=1e-6)
    table = embedded_table(found, codes[0], codes[1])
    score, path = best_path(table, Penalties())
    assert len(path) == 0 or score < 1e-3
    assert 0 <= found.chance.p_value(score, *table.shape) <= 1


@pytest.mark.parametrize("lengths", [(40,), (1, 1), (2, 50), (3, 1, 1)])
def test_few_and_short_videos_are_calibrated_as_well(lengths):
    rng = np.random.default_rng(0)
    found = calibrate_codes([process(rng)[:length] for length in lengths], as_they_are, Measure())
    assert np.isfinite(found.log_odds).all()
    assert 0 <= found.chance.p_value(1.0, 10, 10) <= 1


def test_calibration_goes_through_a_checkpoint_unchanged(calibrated):
    file = io.BytesIO()
    torch.save(calibrated.as_dict(), file)
    file.seek(0)
    assert Calibration.from_dict(torch.load(file, weights_only=True)) == calibrated
