"""Feature data sets with shorter lead-ins, cut from one whose lead-ins are up to half of each video.

    python -m lacray.data convert simpouring led_in data.lead_in=0.5
    python examples/efficientnet_features.py led_in
    python examples/lead_in_features.py led_in        # led_in-00/simpouring, led_in-10/simpouring, ...
    python -m lacray.tune beyond/lead_in_features.yaml

`led_in-20` has the same actions as all others and of each lead-in the last frames, so many that their share of the
video is two fifths of what it was: up to 0.2. So a network sees every frame once for all six.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

WHOLE = 0.5


def main(root: Path) -> None:
    with (root / "segments.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    starts: dict[str, int] = defaultdict(lambda: sys.maxsize)
    for row in rows:
        starts[row["video"]] = min(starts[row["video"]], int(row["start_frame"]))
    for level in range(0, 51, 10):
        to = root.with_name(f"{root.name}-{level:02d}") / "simpouring"
        (to / "features").mkdir(parents=True, exist_ok=True)
        dropped = {}
        for video, start in starts.items():
            name = Path(video).with_suffix(".npy").name
            features = np.load(root / "features" / name)
            num_action = len(features) - start
            share = start / len(features) * level / 100 / WHOLE
            dropped[video] = start - round(num_action * share / (1 - share))
            np.save(to / "features" / name, features[dropped[video] :])
        with (to / "segments.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            for row in rows:
                off = dropped[row["video"]]
                moved = {key: int(row[key]) - off for key in ("start_frame", "end_frame")}
                table.writerow({**row, **moved})
        for name in ("splits.csv", "phases.csv"):
            (to / name).write_bytes((root / name).read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
