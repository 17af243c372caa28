"""What the SVM of the tables misses: variance of a trained encoder's embeddings by direction, and its SVM by C.

    python -m lacray.train data.root=grid-s1 data.input=features loss.name=lav data.pairing=videos fit.epochs=20
    python examples/svm_by_c.py CHECKPOINT grid-s1

The frames are those of the `cropped` protocol: of each video a window, embedded by itself.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

import lacray
from lacray.config import DataConfig
from lacray.data import open_videos
from lacray.evaluation.cropping import crop_window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("root", help="a folder with features")
    arguments = parser.parse_args()
    model = lacray.load(arguments.checkpoint)
    videos = open_videos(DataConfig(root=arguments.root, input="features", validation_share=0))
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        window = Path(folder) / "window.npy"
        for own in (videos.training, videos.val):
            frames, labels = [], []
            for video in own:
                start, stop = crop_window(video.labels, video.num_frames, 0, video.name)
                np.save(window, np.load(video.path)[start:stop])
                frames.append(np.asarray(model.embed(str(window))))
                labels.append(np.asarray(video.labels)[start:stop])
            is_labelled = np.concatenate(labels) >= 0
            parts.append((np.concatenate(frames)[is_labelled], np.concatenate(labels)[is_labelled]))
    train = parts[0]
    shares = np.linalg.svd(train[0] - train[0].mean(0), compute_uv=False) ** 2
    print("variance by direction, %:", *(f"{100 * share:.1f}" for share in shares[:5] / shares.sum()))
    machines = {f"SVM, C = {c}": SVC(C=c) for c in (1, 10, 100, 1000)}
    for name, machine in {**machines, "logistic regression": LogisticRegression(max_iter=1000)}.items():
        machine.fit(*train)
        right = [100 * machine.score(*part) for part in parts]
        print(f"{name}: {right[0]:.1f} % of the training frames, {right[1]:.1f} % of the val frames")


if __name__ == "__main__":
    main()
