"""Feature data sets whose videos go through each phase at a tempo of its own, from one whose videos share a rhythm.

    python examples/tempo_features.py grid-s1         # tempo-1/grid-s1, tempo-2/grid-s1, tempo-4/grid-s1
    python -m lacray.tune lead/lead_tempo.yaml

In `tempo-2` each phase of each video is up to twice as fast or as slow, by a factor of its own: its frames are read at
that speed, between two frames by linear interpolation, never across the ends of the phase.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SEED = 0


def main(root: Path) -> None:
    with (root / "segments.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for most in (1, 2, 4):
        to = root.absolute().parent / f"tempo-{most}" / root.name
        (to / "features").mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(SEED)
        with (to / "segments.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            for video in dict.fromkeys(row["video"] for row in rows):
                own = [row for row in rows if row["video"] == video]
                name = Path(video).with_suffix(".npy").name
                features = np.load(root / "features" / name)
                starts = [int(row["start_frame"]) for row in own]
                ends = [int(row["end_frame"]) for row in own]
                if [*starts, len(features)] != [0, *ends]:
                    raise SystemExit(
                        f"error: {video}: its phases must follow each other from its first frame to its last"
                    )
                factors = np.exp(rng.uniform(-1, 1, len(own)) * np.log(most))
                parts = [replayed(features[a:b], f) for a, b, f in zip(starts, ends, factors, strict=True)]
                np.save(to / "features" / name, np.concatenate(parts))
                bounds = np.cumsum([0, *map(len, parts)])
                for row, start, end in zip(own, bounds[:-1], bounds[1:], strict=True):
                    table.writerow({**row, "start_frame": start, "end_frame": end})
        (to / "splits.csv").write_bytes((root / "splits.csv").read_bytes())


def replayed(frames: NDArray[np.floating], factor: float) -> NDArray[np.floating]:
    """Frames (n, F) as round(n * factor) frames, one at least, evenly over the same time."""
    count = max(round(len(frames) * factor), 1)
    at = np.clip((np.arange(count) + 0.5) * len(frames) / count - 0.5, 0, len(frames) - 1)
    below = at.astype(int)
    share = (at - below)[:, None]
    following = frames[np.minimum(below + 1, len(frames) - 1)]
    return ((1 - share) * frames[below] + share * following).astype(frames.dtype)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
