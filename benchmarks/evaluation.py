"""The metrics of an evaluation against a plain scipy and scikit-learn loop, as the releases write it.

    python benchmarks/evaluation.py                   84 videos of 200 frames, 128 numbers a frame (70 train, 14 val)
    python benchmarks/evaluation.py --noise 0.7                  frames that tell their phase more clearly
    python benchmarks/evaluation.py --lean --parts svm           a peer that scores no training frames

The peer is in this file: one SVC and one LogisticRegression for each share of the labels, a LinearRegression for each
phase end, a sorted table of distances for each K, a call of scipy's kendalltau for each pair. Like the releases it
scores the training frames too, which lacray does not report; `--lean` takes that from it. Both run in
one process with one BLAS thread, in turn, and their numbers are compared: the same frames right (of the SVM within two,
where libsvm's own tolerance decides), all else to 1e-10. Seconds are of CPU. The last line of stdout is one JSON
document.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
import sklearn
from measuring import peak_gib, quartiles
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import kendalltau
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from lacray import evaluation
from lacray.evaluation import Sequence
from lacray.evaluation.sequences import given
from lacray.metrics import FRACTIONS, KS, classification

Array = NDArray[Any]
STRIDE = 5


def videos(
    num: int, frames: int, size: int, phases: int, seed: int, *, name: str, noise: float = 2.0
) -> list[Sequence]:
    """Videos as an encoder embeds them: a curve that all share at each one's pace, with a style, drift and noise."""
    shared = np.random.default_rng(0)
    frequencies = shared.normal(size=(1, size)) * 6
    offsets = shared.uniform(0, 2 * np.pi, size)
    rng = np.random.default_rng(seed)
    made = []
    for number in range(num):
        pace = np.cumsum(rng.gamma(2.0, size=frames))
        place = pace / pace[-1] * 0.999
        bounds = (np.arange(1, phases) + rng.uniform(-0.25, 0.25, phases - 1)) / phases
        labels = np.searchsorted(bounds, place)
        # Where the phases of this video end, the curve is where they end in all.
        warped = np.interp(place, [0, *bounds, 1], np.arange(phases + 1) / phases)
        curve = np.cos(warped[:, None] * frequencies + offsets)
        style = 0.5 * rng.normal(size=size)
        drift = np.cumsum(rng.normal(size=(frames, size)), axis=0) * 0.05
        embeddings = curve + style + drift + noise * rng.normal(size=(frames, size))
        made.append(
            Sequence.from_video(
                f"{name}{number}",
                embeddings.astype(np.float32),
                np.arange(frames),
                num_frames=frames,
                labels=labels,
                progress=warped * phases,
            )
        )
    return made


# --- the peer: as the releases write it ------------------------------------------------------------------------------


def of_all(split: list[Sequence]) -> tuple[Array, Array]:
    return np.concatenate([s.embeddings for s in split]), np.concatenate([given(s.labels) for s in split])


def peer_classification(
    train: list[Sequence], val: list[Sequence], classifier: str, *, as_released: bool
) -> dict[str, float]:
    frames, labels = of_all(val)
    found = {}
    for fraction in FRACTIONS:
        model = SVC(C=1.0) if classifier == "svm" else LogisticRegression(max_iter=100_000)
        learned = of_all(train[: max(1, int(fraction * len(train)))])
        model.fit(*learned)
        if as_released:
            model.score(*learned)
        found[classification(fraction, classifier)] = model.score(frames, labels)
    return found


def peer_progress(train: list[Sequence], val: list[Sequence]) -> dict[str, float]:
    def targets(split: list[Sequence], phase: int) -> Array:
        return np.concatenate([(s.steps - np.flatnonzero(given(s.labels) == phase)[-1]) / s.num_frames for s in split])

    scores = []
    for phase in range(max(given(s.labels).max() for s in train)):
        model = LinearRegression().fit(of_all(train)[0], targets(train, phase))
        scores.append(r2_score(targets(val, phase), model.predict(of_all(val)[0])))
    return {"progress": float(np.mean(scores))}


def peer_retrieval(val: list[Sequence]) -> dict[str, float]:
    strided = [(s.embeddings[::STRIDE], given(s.labels)[::STRIDE]) for s in val]
    found = {}
    for k in KS:
        shares = []
        for i, (queries, labels) in enumerate(strided):
            pool = np.concatenate([e for j, (e, _) in enumerate(strided) if j != i])
            pool_labels = np.concatenate([y for j, (_, y) in enumerate(strided) if j != i])
            hits = []
            for query, label in zip(queries, labels, strict=True):
                nearest = np.argsort(np.sum((pool - query) ** 2, axis=1), kind="stable")[:k]
                hits.append(np.mean(pool_labels[nearest] == label))
            shares.append(np.mean(hits))
        found[f"ap_{k}"] = float(np.mean(shares))
    return found


def peer_tau(val: list[Sequence]) -> dict[str, float]:
    taus = []
    for i, query in enumerate(val):
        for j, candidate in enumerate(val):
            if i != j:
                distances = cdist(query.embeddings[::STRIDE], candidate.embeddings[::STRIDE], "sqeuclidean")
                nearest = np.argmin(distances, axis=1)
                taus.append(kendalltau(np.arange(len(nearest)), nearest).statistic)
    return {"kendalls_tau": float(np.nanmean(taus))}


def peer_errors(val: list[Sequence]) -> dict[str, float]:
    events, alignments = [], []
    for i, query in enumerate(val):
        for j, candidate in enumerate(val):
            if i != j:
                nearest = np.argmin(cdist(query.embeddings, candidate.embeddings, "sqeuclidean"), axis=1)
                alignments.append(np.mean(np.abs(given(query.progress) - given(candidate.progress)[nearest])))
                for phase in range(given(query.labels).max()):
                    ends = [np.flatnonzero(given(s.labels) == phase)[-1] for s in (query, candidate)]
                    events.append(abs(nearest[ends[0]] - ends[1]) / candidate.num_frames)
    return {"event_error": float(np.mean(events)), "alignment_error": float(np.mean(alignments))}


# --- the comparison --------------------------------------------------------------------------------------------------


def pairs(
    train: list[Sequence], val: list[Sequence], *, as_released: bool
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Part -> what lacray does for it, and what the peer does."""

    def classify(classifier: str) -> Callable[[], dict[str, float]]:
        names = [classification(fraction, classifier) for fraction in FRACTIONS]
        return lambda: dict(
            zip(names, evaluation.phase_classifications(train, val, FRACTIONS, classifier), strict=True)
        )

    return {
        "svm": (classify("svm"), lambda: peer_classification(train, val, "svm", as_released=as_released)),
        "logistic": (
            classify("logistic"),
            lambda: peer_classification(train, val, "logistic", as_released=as_released),
        ),
        "progress": (lambda: {"progress": evaluation.progress(train, val)}, lambda: peer_progress(train, val)),
        "retrieval": (
            lambda: dict(
                zip([f"ap_{k}" for k in KS], evaluation.average_precision(val, KS, stride=STRIDE), strict=True)  # type: ignore[arg-type]
            ),
            lambda: peer_retrieval(val),
        ),
        "tau": (lambda: {"kendalls_tau": evaluation.kendalls_tau(val, STRIDE)}, lambda: peer_tau(val)),
        "errors": (
            lambda: {"event_error": evaluation.event_error(val), "alignment_error": evaluation.alignment_error(val)},
            lambda: peer_errors(val),
        ),
    }


def seconds_of(f: Callable[[], Any]) -> tuple[float, Any]:
    # Of one thread: what others do on the machine costs waiting, which does not count.
    started = time.process_time()
    found = f()
    return time.process_time() - started, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=70)
    parser.add_argument("--val", type=int, default=14)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--phases", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3, help="of lacray's part; the peer runs once")
    parser.add_argument(
        "--noise", type=float, default=2.0, help="of the frames: at 2 the SVM is right for 82 %% of them"
    )
    parser.add_argument("--lean", action="store_true", help="the peer does not score the frames that it trained on")
    parser.add_argument("--parts", nargs="+", help="these parts alone")
    arguments = parser.parse_args()
    shape = arguments.frames, arguments.size, arguments.phases
    train = videos(arguments.train, *shape, arguments.seed, name="train", noise=arguments.noise)
    val = videos(arguments.val, *shape, arguments.seed + 1, name="val", noise=arguments.noise)
    num_val = sum(len(s.embeddings) for s in val)
    parts: dict[str, Any] = {}
    with threadpool_limits(1):
        for part, (ours, theirs) in pairs(train, val, as_released=not arguments.lean).items():
            if arguments.parts and part not in arguments.parts:
                continue
            first = seconds_of(ours)  # compiles, where there is something to compile
            peak = peak_gib()
            times = [seconds_of(ours)[0] for _ in range(arguments.repetitions)]
            peer_seconds, expected = seconds_of(theirs)
            own = quartiles(times)
            # Of a classifier in whole frames, of the rest in the numbers' own digits.
            differ = {name: abs(first[1][name] - value) for name, value in expected.items()}
            apart = {name: round(gap * num_val) for name, gap in differ.items() if name.startswith("class")}
            parts[part] = {
                "metrics": first[1],
                "peer_metrics": expected,
                "frames_apart": apart,
                "largest_difference": max(differ.values()),
                "seconds": own,
                "peer_seconds": peer_seconds,
                "ratio": peer_seconds / own["median"],
                "peak_gib": peak,
                "peer_peak_gib": peak_gib(),
            }
            told = ", ".join(f"{name} {value:.4f} ({expected[name]:.4f})" for name, value in first[1].items())
            print(f"{part}: {own['median']:.2f} s, peer {peer_seconds:.2f} s, {parts[part]['ratio']:.1f} x; {told}")
        whole = {}
        if not arguments.parts:
            times = [
                seconds_of(lambda: evaluation.evaluate(train, val, stride=STRIDE))[0]
                for _ in range(arguments.repetitions)
            ]
            whole = {"seconds": quartiles(times), "peer_seconds": sum(own["peer_seconds"] for own in parts.values())}
            whole["ratio"] = whole["peer_seconds"] / whole["seconds"]["median"]
            print(
                f"all: {whole['seconds']['median']:.2f} s, peer {whole['peer_seconds']:.2f} s, {whole['ratio']:.1f} x"
            )
    allowed = {"svm": 2.5 / num_val}
    for part, own in parts.items():
        if not own["largest_difference"] <= allowed.get(part, 1e-10):
            raise SystemExit(f"{part}: the numbers differ from the peer's: {own['metrics']}, {own['peer_metrics']}")
    document = {
        "benchmark": "evaluation",
        "videos": arguments.train + arguments.val,
        "shape": shape,
        "device": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "sklearn": sklearn.__version__,
        "noise": arguments.noise,
        "as_released": not arguments.lean,
        "parts": parts,
        "all": whole,
    }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
