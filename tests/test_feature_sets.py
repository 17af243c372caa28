"""Examples that make feature data sets from others (tempo, lead-in): what they make, frame by frame."""

from __future__ import annotations

import csv
from pathlib import Path

import commands
import numpy as np
import pytest
from datasets import opened, write_csv
from paths import ROOT

PHASES = ["reach", "lift", "pour"]
LENGTHS = [[12, 3, 20], [8, 2, 31], [15, 9, 9]]


def write(root: Path, lead_ins: list[int]) -> Path:
    """Features (frame, phase + 1), 0 for a frame of the lead-in."""
    segments = []
    (root / "features").mkdir(parents=True)
    for video, (lengths, lead_in) in enumerate(zip(LENGTHS, lead_ins, strict=True)):
        bounds = lead_in + np.cumsum([0, *lengths])
        phase = np.repeat([0, 1, 2, 3], [lead_in, *lengths])
        np.save(root / f"features/v{video}.npy", np.stack([np.arange(bounds[-1]), phase], axis=1).astype(np.float32))
        segments += [f"videos/v{video}.mp4,{a},{b},{p}" for a, b, p in zip(bounds, bounds[1:], PHASES, strict=False)]
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", segments)
    write_csv(root / "splits.csv", "video,split", [f"videos/v{video}.mp4,train" for video in range(3)])
    write_csv(root / "phases.csv", "phase", PHASES)
    return root


def segments_of(root: Path, video: int) -> list[tuple[int, int]]:
    with (root / "segments.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["video"] == f"videos/v{video}.mp4"]
    assert [row["phase"] for row in rows] == PHASES
    return [(int(row["start_frame"]), int(row["end_frame"])) for row in rows]


def frames_of(root: Path, video: int) -> np.ndarray:
    return np.load(root / f"features/v{video}.npy")


def test_every_phase_has_a_tempo_of_its_own_and_keeps_its_frames(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [0, 0, 0])
    commands.run(str(ROOT / "examples/tempo_features.py"), "set", cwd=tmp_path)
    for video in range(3):
        assert np.array_equal(frames_of(tmp_path / "tempo-1/set", video), frames_of(root, video))
        assert segments_of(tmp_path / "tempo-1/set", video) == segments_of(root, video)
    factors = []
    for video in range(3):
        made = tmp_path / "tempo-4/set"
        frames, bounds = frames_of(made, video), segments_of(made, video)
        assert [bounds[0][0], *(end for _, end in bounds)] == [*(start for start, _ in bounds), len(frames)]
        for phase, ((start, end), (first, last)) in enumerate(zip(bounds, segments_of(root, video), strict=True)):
            own = frames[start:end]
            assert (own[:, 1] == phase + 1).all()
            assert first <= own[0, 0] <= own[-1, 0] <= last - 1
            # Evenly, from end to end.
            middle = own[(own[:, 0] > first) & (own[:, 0] < last - 1), 0]
            assert np.diff(middle) == pytest.approx((last - first) / (end - start), rel=1e-4)
            assert own[0, 0] + own[-1, 0] == pytest.approx(first + last - 1, abs=1e-4)
            factors.append((end - start) / (last - first))
    assert 0.25 <= min(factors) < 0.6
    assert 1.7 < max(factors) <= 4
    assert opened(tmp_path / "tempo-4/set", input="features").num_phases == 3


def test_a_lead_in_is_cut_to_its_share_and_the_labels_go_with_it(tmp_path: Path) -> None:
    lead_ins = [35, 0, 10]
    root = write(tmp_path / "led", lead_ins)
    commands.run(str(ROOT / "examples/lead_in_features.py"), "led", cwd=tmp_path)
    for level in (0, 10, 20, 30, 40, 50):
        made = tmp_path / f"led-{level:02d}" / "simpouring"
        for video, lead_in in enumerate(lead_ins):
            frames, whole = frames_of(made, video), frames_of(root, video)
            assert np.array_equal(frames, whole[-len(frames) :])
            start = segments_of(made, video)[0][0]
            assert abs(start - level / 50 * lead_in / len(whole) * len(frames)) <= 0.5
            for phase, (first, end) in enumerate(segments_of(made, video)):
                assert (frames[first:end, 1] == phase + 1).all()
                assert end - first == LENGTHS[video][phase]
    assert opened(tmp_path / "led-20/simpouring", input="features").num_phases == 3
