"""Retrieval, labels carried, deviations: against what was written without them."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest
from test_local_alignment import aligned, video
from threadpoolctl import threadpool_limits

from lacray.apply import EmbeddedVideo, Measure, transfer
from lacray.apply import index as index_on_disk
from lacray.apply.comparison import Deviation, deviations, phases_of
from lacray.apply.index import Nearest, write_index
from lacray.apply.reports import write_deviations
from lacray.apply.retrieval import Moments, prepared
from lacray.apply.transfer import (
    UNSAID,
    Labelled,
    carried_probabilities,
    classified_probabilities,
    frame_labels,
    segments_beside,
    segments_of,
)


def library(rng: np.random.Generator, lengths=(40, 1, 25, 60)) -> list[EmbeddedVideo]:
    return [
        EmbeddedVideo(f"v{n}", rng.normal(size=(length, 8)).astype(np.float32), np.arange(length) / 10, length / 10)
        for n, length in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    ("measure", "kind"),
    [(Measure(), "cosine"), (Measure("inverse_squared", 0.1, True), "cosine"), (Measure("rbf", 0, False), "distance")],
)
@pytest.mark.parametrize("per_video", [1, 3, None])
def test_moments_are_those_of_the_highest_similarity_one_by_one(measure, kind, per_video):
    rng = np.random.default_rng(0)
    videos = library(rng)
    query = videos[0].embeddings[5]
    found = Moments(videos, measure).most_like(query, 9, per_video=per_video, apart=0.45, without="v0")
    every = [(own, frame) for own in videos[1:] for frame in range(len(own))]

    def likeness(own, frame) -> float:
        vector = own.embeddings[frame].astype(np.float64)
        if kind == "cosine":
            return float(vector @ query / np.linalg.norm(vector) / np.linalg.norm(query))
        return -float(np.linalg.norm(vector - query))

    expected: list[tuple[str, int]] = []
    for own, frame in sorted(every, key=lambda cell: -likeness(*cell)):
        same = [other for name, other in expected if name == own.name]
        if (per_video is None or len(same) < per_video) and all(abs(frame - other) >= 5 for other in same):
            expected.append((own.name, frame))
    assert [(moment.video, moment.frame) for moment in found] == expected[:9]
    assert [moment.seconds for moment in found] == [moment.frame / 10 for moment in found]
    assert all(one.distance <= other.distance for one, other in itertools.pairwise(found))


def test_more_are_asked_for_where_the_nearest_are_all_of_one_video():
    rng = np.random.default_rng(1)
    near = EmbeddedVideo("near", np.ones((5000, 8), np.float32) + 0.01 * rng.normal(size=(5000, 8)).astype(np.float32))
    far = EmbeddedVideo("far", rng.normal(size=(4, 8)).astype(np.float32))
    found = Moments([near, far], Measure()).most_like(np.ones(8, np.float32), 2)
    assert [moment.video for moment in found] == ["near", "far"]


def test_exact_search_is_exact_at_tiny_distances_and_in_pieces(monkeypatch):
    monkeypatch.setattr(index_on_disk, "PIECE", 7)
    rng = np.random.default_rng(2)
    vectors = (100 + 1e-3 * rng.normal(size=(50, 4))).astype(np.float32)
    places, distances = Nearest.exact(vectors).search(vectors[13], 50)
    assert (places[0], distances[0]) == (13, 0)
    assert sorted(places.tolist()) == list(range(50))
    expected = np.linalg.norm(vectors.astype(np.float64) - vectors[13], axis=1)
    np.testing.assert_allclose(distances, np.sort(expected), atol=1e-5)


def test_index_on_disk_finds_nearly_all_that_comparing_finds(tmp_path, monkeypatch):
    pytest.importorskip("faiss", reason="needs faiss: pip install 'lacray[index]'")
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(60, 8))
    vectors = (centres[rng.integers(60, size=11_000)] + 0.3 * rng.normal(size=(11_000, 8))).astype(np.float32)
    monkeypatch.setattr(index_on_disk, "CODE_BYTES", 2)
    with threadpool_limits(1):
        write_index(tmp_path / "index", len(vectors), 8, lambda: np.array_split(vectors, 7))
    index = Nearest.on_disk(tmp_path / "index")
    shares = []
    for query in vectors[::997]:
        places, distances = index.search(query, 10)
        expected, _ = Nearest.exact(vectors).search(query, 10)
        shares.append(len(set(places.tolist()) & set(expected.tolist())) / 10)
        assert (np.diff(distances) >= 0).all()
    assert np.mean(shares) > 0.95
    # Another process was quicker: its index stays, and nothing else does.
    before = (tmp_path / "index" / "lists.faiss").stat().st_mtime_ns
    with threadpool_limits(1):
        write_index(tmp_path / "index", len(vectors), 8, lambda: np.array_split(vectors, 7))
    assert (tmp_path / "index" / "lists.faiss").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("kind", ["cosine", "negative_squared"])
def test_prepared_embeddings_keep_the_order_of_similarities(kind):
    rng = np.random.default_rng(4)
    one, other = rng.normal(size=(1, 8)).astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)
    measure = Measure(kind, 0.1, kind == "cosine")
    distances = np.linalg.norm(prepared(other, measure) - prepared(one, measure), axis=1)
    assert np.argsort(distances).tolist() == np.argsort(-measure(one, other)[0]).tolist()


KINDS = [0, 0, 0, 1, 1, 1, 1, 2, 2]
LABELS = np.array(KINDS)


def test_labels_go_where_the_frames_go_and_nowhere_else():
    """The second video is slower, has a lead-in, and something between the phases that the first has not."""
    one = video("one", [10 * kind + n for kind, n in zip(KINDS, (0, 1, 2, 0, 1, 2, 3, 0, 1), strict=True)])
    order = [-1, -2, 0, 0, 1, 1, 2, 2, 10, 11, -3, -4, -5, 12, 13, 20, 20, 21, 21]
    alignment = aligned(one, video("other", order))
    probabilities = carried_probabilities([alignment], [LABELS], 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    found = segments_of(probabilities, shortest=1)
    assert [(own.phase, own.first, own.stop) for own in found] == [(0, 2, 8), (1, 8, 10), (1, 13, 15), (2, 15, 19)]
    assert all(0.6 < own.confidence <= 1 for own in found)
    assert frame_labels(found, 19).tolist() == [-1, -1, *[0] * 6, 1, 1, -1, -1, -1, 1, 1, *[2] * 4]


def test_what_nobody_has_said_of_a_reference_is_not_carried():
    """Of two references the second has its first phase labelled alone: of the rest it says nothing."""
    one = video("one", [10 * kind + n for kind, n in zip(KINDS, (0, 1, 2, 0, 1, 2, 3, 0, 1), strict=True)])
    alignment = aligned(one, video("other", [0, 1, 2, 10, 11, 12, 13, 20, 21]))
    in_part = np.where(LABELS == 0, 0, UNSAID)
    probabilities = carried_probabilities([alignment, alignment], [LABELS, in_part], 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(probabilities, carried_probabilities([alignment], [LABELS], 3), atol=0.1)
    alone = carried_probabilities([alignment], [np.full(9, UNSAID)], 3)
    np.testing.assert_allclose(alone.sum(axis=1), 1)
    assert (alone.argmax(axis=1) == 3).all()


def test_segments_beside_labels_are_of_other_phases_and_frames():
    own = np.array([0, 0, -1, -1, -1, -1, 2, 2, -1, -1, -1])
    probabilities = np.eye(4)[[0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1]]
    found = [(part.phase, part.first, part.stop) for part in segments_beside(own, probabilities)]
    assert found == [(1, 2, 6), (1, 8, 11)]


def test_labels_are_carried_by_every_third_frame_as_by_all():
    """Long videos are aligned with a stride; one is twice as long as the other."""
    one = video("one", [kind for kind in range(20) for _ in range(6)])
    other = video("other", [kind for kind in range(20) for _ in range(12)])
    labels = np.repeat([0, 1, 2], (36, 24, 60))
    expected = np.repeat([0, 1, 2], (72, 48, 120))
    alignment = aligned(one, other, stride=3)
    probabilities = carried_probabilities([alignment], [labels], 3)
    assert probabilities.shape == (240, 4)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != expected)
    edges = np.array([72, 120, 240])
    assert all(np.abs(edges - frame).min() <= 3 for frame in wrong), wrong
    # Of each match the frames that it names, not their places in the table.
    assert (alignment.path % 3 == 0).all()
    assert (alignment.probability > 0.02).all()


def test_a_classifier_of_many_frames_learns_from_some_of_all_videos(monkeypatch):
    rng = np.random.default_rng(5)
    labels = LABELS.repeat(4)
    centres = 4 * rng.normal(size=(3, 8))
    made = [EmbeddedVideo(f"v{n}", (centres[labels] + rng.normal(size=(36, 8))).astype(np.float32)) for n in range(4)]
    monkeypatch.setattr(transfer, "MOST_CLASSIFIED", 30)
    (found,) = classified_probabilities([Labelled(own, labels) for own in made[:3]], made[3:], 3)
    assert (found.argmax(axis=1) == labels).mean() > 0.9


def test_a_reference_that_agrees_counts_more_than_one_that_chance_explains():
    good = video("good", list(range(9)))
    bad = video("bad", [-1, -2, -3, 4, -5, -6, -7, -8, -9])
    target = video("target", list(range(9)))
    probabilities = carried_probabilities(
        [aligned(good, target), aligned(bad, target)], [LABELS, np.full(9, 2, dtype=np.int64)], 3
    )
    assert probabilities.argmax(axis=1).tolist() == KINDS


def test_short_runs_go_to_the_likelier_neighbour():
    probabilities = np.zeros((12, 4))
    probabilities[:5, 0] = 1
    probabilities[5, :3] = (0.3, 0.1, 0.6)
    probabilities[6:11, 1] = 1
    probabilities[11, 3] = 1
    found = segments_of(probabilities, shortest=2)
    assert [(own.phase, own.first, own.stop) for own in found] == [(0, 0, 6), (1, 6, 12)]
    assert found[0].confidence == pytest.approx(5.3 / 6)
    assert segments_of(np.eye(4)[[3, 3, 3]]) == []


def test_classifier_gives_frames_the_phase_of_their_like():
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(3, 8))
    made = [
        EmbeddedVideo(f"v{n}", (centres[LABELS.repeat(4)] + rng.normal(size=(36, 8))).astype(np.float32))
        for n in range(3)
    ]
    (found,) = classified_probabilities([Labelled(own, LABELS.repeat(4)) for own in made[:2]], made[2:], 3)
    assert (found.argmax(axis=1) == LABELS.repeat(4)).mean() > 0.9
    assert found.shape == (36, 4)


def test_phases_of_a_reference_are_counted_when_they_come_again():
    labels = np.array([-1, 0, 0, 1, -1, 0])
    assert [(own.name, own.first, own.stop) for own in phases_of(labels, ["cut", "glue"], 6)] == [
        ("cut", 1, 3),
        ("glue", 3, 4),
        ("cut (2)", 5, 6),
    ]
    assert [own.name for own in phases_of(None, [], 6)] == ["all"]


def test_deviations_in_seconds_are_those_that_were_made():
    """10 frames a second; phase 0 is done at half speed, half of phase 1 is skipped, phase 2 has 0.6 s of something
    else in its middle, phase 3 is done twice."""
    reference = video("reference", [*range(8), *range(10, 18), *range(20, 28), *range(30, 38)])
    labels = np.repeat([0, 1, 2, 3], 8)
    slow = [kind for kind in range(8) for _ in range(2)]
    order = [
        *slow,
        10,
        11,
        16,
        17,
        *range(20, 24),
        -1,
        -2,
        -3,
        -4,
        -5,
        -6,
        *range(24, 28),
        *range(30, 38),
        *range(30, 38),
    ]
    alignment = aligned(reference, video("other", order))
    found = {own.phase: own for own in deviations(alignment, phases_of(labels, "wxyz", 32), aligned)}
    assert found["w"].longer == pytest.approx(0.8, abs=0.11)
    assert (found["x"].skipped, found["x"].longer) == (pytest.approx(0.4), pytest.approx(0, abs=0.01))
    assert (found["y"].inserted, found["y"].repeated) == (pytest.approx(0.6), 0)
    assert (found["z"].repeated, found["z"].skipped) == (pytest.approx(0.8, abs=0.11), 0)
    assert sum(own.inserted + own.repeated for own in found.values()) == pytest.approx(1.4, abs=0.11)
    assert all(own.reference == pytest.approx(0.8) for own in found.values())


def test_the_table_of_deviations_has_each_number_in_its_column(tmp_path):
    one = Deviation("v", "cut", reference=4.0, matched=3.0, own=5.5, skipped=1.0, repeated=0.25, inserted=0.125)
    less = Deviation("w", "cut", reference=4.0, matched=4.0, own=3.0, skipped=0.0, repeated=0.0, inserted=0.0)
    write_deviations(tmp_path / "d.csv", [less, one])
    with (tmp_path / "d.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert {name: float(value) for name, value in first.items() if name not in ("video", "phase")} == {
        "rank": 1,
        "deviation_seconds": 3.875,
        "longer_seconds": 2.5,
        "skipped_seconds": 1.0,
        "repeated_seconds": 0.25,
        "inserted_seconds": 0.125,
        "reference_seconds": 4.0,
        "seconds": 5.5,
    }
    assert (second["video"], float(second["longer_seconds"])) == ("w", -1.0), "shorter is below 0"


def test_a_video_beside_itself_does_not_deviate():
    reference = video("reference", list(range(12)))
    (found,) = deviations(aligned(reference, reference), phases_of(None, [], 12), aligned)
    assert (found.total, found.matched, found.own) == (pytest.approx(0), pytest.approx(1.2), pytest.approx(1.2))
