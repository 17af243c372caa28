"""Local alignment against warping and nearest neighbours where videos begin and end with what does not matter.

    python -m lacray.train fit.epochs=30 data.validation_share=0            a checkpoint, on SimPouring
    python benchmarks/alignment_quality.py CHECKPOINT                       all pairs of its val split

SimPouring knows what every frame shows: its progress through the five phases, none in lead-in and lead-out. Of each
ordered pair, every frame of the first video is placed in the second. Rightly left out: a frame of lead-in or lead-out
without a counterpart; rightly matched: a frame of the action whose counterpart's progress is within TOLERANCE of its
own. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lacray.apply import Alignment, EmbeddedVideo, Model, Penalties, load
from lacray.apply.folders import open_folder, read_item
from lacray.config import UserError
from lacray.ops import dtw_path, soft_dtw

TOLERANCE = 0.5
"""Phases."""
GAMMA = 0.1
"""Of soft-DTW, on squared distances of normalised embeddings: LAV's."""

Places = NDArray[np.float64]
Method = Callable[[EmbeddedVideo, EmbeddedVideo], Places]


def methods(model: Model) -> dict[str, Method]:
    """By name: two videos -> where each frame of the first is in the second, (N,), NaN for nowhere."""
    assert model.calibration is not None
    calibration = model.calibration

    def cost(a: EmbeddedVideo, b: EmbeddedVideo) -> torch.Tensor:
        one, other = (torch.nn.functional.normalize(torch.tensor(v.embeddings), dim=-1) for v in (a, b))
        return (2 - 2 * one @ other.mT).clamp_min(0)[None]

    def local(**more: Any) -> Method:
        return lambda a, b: model.align(a, b, **more).a_to_b

    def warped(a: EmbeddedVideo, b: EmbeddedVideo) -> Places:
        _, path = dtw_path(cost(a, b))
        steps = path[0][path[0][:, 0] >= 0].numpy()
        return np.bincount(steps[:, 0], weights=steps[:, 1]) / np.bincount(steps[:, 0])

    def softly_warped(a: EmbeddedVideo, b: EmbeddedVideo) -> Places:
        table = cost(a, b).requires_grad_()
        soft_dtw(table, gamma=GAMMA)[0].sum().backward()
        assert table.grad is not None
        passed = table.grad[0].double().numpy()
        return (passed @ np.arange(len(b))) / passed.sum(axis=1)

    def nearest(a: EmbeddedVideo, b: EmbeddedVideo) -> Places:
        return calibration.measure(a.embeddings, b.embeddings).argmax(axis=1).astype(np.float64)

    def nearest_above_chance(a: EmbeddedVideo, b: EmbeddedVideo) -> Places:
        table = calibration(calibration.measure(a.embeddings, b.embeddings))
        return np.where(table.max(axis=1) > 0, table.argmax(axis=1), np.nan)

    return {
        "local alignment": local(),
        "local alignment, default gaps": local(penalties=Penalties()),
        "nearest neighbour": nearest,
        "nearest neighbour above chance": nearest_above_chance,
        "DTW": warped,
        "soft-DTW": softly_warped,
    }


def score(places: Places, here: NDArray[np.float32], there: NDArray[np.float32]) -> dict[str, int | float]:
    """Counts over the frames of one video, whose progress is `here`; NaN in lead-in and lead-out."""
    is_mapped = ~np.isnan(places)
    found = np.full(len(places), np.nan)
    found[is_mapped] = there[np.rint(places[is_mapped]).astype(np.int64)]
    is_action = ~np.isnan(here)
    errors = np.abs(found - here)[is_mapped & is_action]
    return {
        "lead": int((~is_action).sum()),
        "lead_left_out": int((~is_action & ~is_mapped).sum()),
        "action": int(is_action.sum()),
        "action_mapped": int((is_action & is_mapped).sum()),
        "action_right": int((errors <= TOLERANCE).sum()),
        "mapped": int(is_mapped.sum()),
        "error": float(np.nansum(errors)),
        "errors": int((~np.isnan(errors)).sum()),
    }


def measure(
    model: Model, videos: Sequence[EmbeddedVideo], progress: dict[str, NDArray[np.float32]]
) -> dict[str, dict[str, float]]:
    """The shares of each method, over all ordered pairs."""
    found = {}
    for name, place in methods(model).items():
        sums: dict[str, float] = {}
        started = time.perf_counter()
        for a, b in itertools.permutations(videos, 2):
            for key, value in score(place(a, b), progress[a.name], progress[b.name]).items():
                sums[key] = sums.get(key, 0) + value
        num_pairs = len(videos) * (len(videos) - 1)
        found[name] = {
            "left_out_rightly": sums["lead_left_out"] / max(sums["lead"], 1),
            "matched_rightly": sums["action_right"] / sums["action"],
            "matched_frames_that_are_right": sums["action_right"] / max(sums["mapped"], 1),
            "all_frames_right": (sums["lead_left_out"] + sums["action_right"]) / (sums["lead"] + sums["action"]),
            "error_phases": sums["error"] / max(sums["errors"], 1),
            "seconds_a_pair": (time.perf_counter() - started) / num_pairs,
        }
    return found


def significance(model: Model, videos: Sequence[EmbeddedVideo]) -> dict[str, float]:
    """How many pairs are beyond chance."""
    alignments: list[Alignment] = [model.align(a, b) for a, b in itertools.combinations(videos, 2)]
    return {
        "pairs": len(alignments),
        "p_below_0.01": float(np.mean([found.p_value < 0.01 for found in alignments])),
        "median_score": float(np.median([found.score for found in alignments])),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Quality of alignments on SimPouring.")
    parser.add_argument("checkpoint")
    parser.add_argument("--root", help="another rendering of SimPouring")
    arguments = parser.parse_args()
    try:
        model = load(arguments.checkpoint)
        folder = open_folder(model, arguments.root or model.config.data.root)
        chosen = [item for item in folder.items if folder.videos[item.name].split == "val"]
        progress = {item.name: folder.videos[item.name].progress for item in chosen}
        if len(chosen) < 2 or any(own is None for own in progress.values()):
            raise UserError(f"{folder.root}: must hold two val videos with their progress, as SimPouring does")
    except UserError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 2
    videos = [read_item(model, item) for item in chosen]
    known = {name: own for name, own in progress.items() if own is not None}
    table = measure(model, videos, known)
    print("| method | left out rightly | matched rightly | of all matched | all frames | error (phases) | ms a pair |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, own in table.items():
        shares = (own[k] for k in ("left_out_rightly", "matched_rightly", "matched_frames_that_are_right"))
        cells = [f"{100 * share:.1f}" for share in (*shares, own["all_frames_right"])]
        print(f"| {name} | {' | '.join(cells)} | {own['error_phases']:.2f} | {1000 * own['seconds_a_pair']:.1f} |")
    assert model.calibration is not None
    about = {
        "calibration": {key: value for key, value in model.calibration.as_dict().items() if key not in ("measure",)},
        "penalties": vars(model.penalties),
        "significance": significance(model, videos),
        "methods": table,
    }
    print(json.dumps(about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
