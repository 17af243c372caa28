"""Labels carried by alignment against a classifier of frames, from 1, 2, 5 and 10 % labelled videos.

    python -m lacray.train fit.epochs=30 data.validation_share=0        a checkpoint, on SimPouring
    python benchmarks/labelling.py results/train/checkpoints/*.pt       its val split, labelled from its train split
    python benchmarks/labelling.py CHECKPOINT --root DIR                another data set

Of the train split a share is drawn at random, one video at least, several times; its labels are carried to the val
split. Accuracy, with its deviation over the draws, is over the val split's frames that have a phase; behind the stroke
over all frames, where none is right for those that have no phase. A frame that is given none counts as wrong. The
classifier is the evaluation's SVM (rbf, C 1). The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from lacray.apply import load
from lacray.apply.folders import open_folder, read_item
from lacray.apply.transfer import Labelled, carry, classified_probabilities, frame_labels, segments_of
from lacray.config import UserError

SHARES = (0.01, 0.02, 0.05, 0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description="Accuracy of carried labels.")
    parser.add_argument("checkpoint")
    parser.add_argument("--root", help="data set; default: the one that it was trained on")
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    try:
        model = load(arguments.checkpoint)
        folder = open_folder(model, arguments.root or model.config.data.root)
        if len(folder.phases) != 1:
            raise UserError(f"{folder.root}: must show one action, got {len(folder.phases)}")
    except UserError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 2
    (names,) = folder.phases.values()
    known: dict[str, list[Labelled]] = {"train": [], "val": []}
    for item in folder.items:
        video = folder.videos[item.name]
        if video.labels is not None and video.is_labelled:
            known[video.split].append(Labelled(read_item(model, item), video.labels))
    targets = [own.video for own in known["val"]]
    truth = np.concatenate([own.labels for own in known["val"]])
    has_phase = truth >= 0

    def accuracy(labels: list[np.ndarray]) -> tuple[float, float]:
        right = np.concatenate(labels) == truth
        return float(right[has_phase].mean()), float(right.mean())

    rows: list[dict[str, Any]] = []
    for share in SHARES:
        count = max(1, int(share * len(known["train"])))
        found: dict[str, list[tuple[float, float]]] = {"alignment": [], "classifier": [], "both": []}
        for draw in range(arguments.draws):
            places = np.random.default_rng(draw).choice(len(known["train"]), count, replace=False)
            references = [known["train"][place] for place in places]
            carried = [carry(model.align, references, video, len(names)) for video in targets]
            classified = classified_probabilities(references, targets, len(names))
            for name, probabilities in (
                ("alignment", carried),
                ("classifier", classified),
                ("both", [one + other for one, other in zip(carried, classified, strict=True)]),
            ):
                labels = (
                    [own.argmax(axis=1) for own in probabilities]
                    if name == "classifier"
                    else [frame_labels(segments_of(own), len(own)) for own in probabilities]
                )
                found[name].append(accuracy(labels))
        means = {name: np.concatenate([np.mean(own, 0), np.std(own, 0)]).tolist() for name, own in found.items()}
        rows.append({"share": share, "videos": count, **means})
    print("| labelled videos | by alignment | by a classifier | by both |")
    print("| --- | --- | --- | --- |")
    for row in rows:
        cells = [
            f"{100 * row[name][0]:.1f} ± {100 * row[name][2]:.1f} / {100 * row[name][1]:.1f}"
            for name in ("alignment", "classifier", "both")
        ]
        print(f"| {100 * row['share']:.0f} % ({row['videos']}) | {' | '.join(cells)} |")
    print(json.dumps({"draws": arguments.draws, "val_videos": len(targets), "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
