"""What the machinery of a study costs beside its training: `python benchmarks/tune.py [PART...]`.

Parts: `overhead` (a one-worker trial against the same run in process), `concurrent` (two trials at once against one
after the other in process, on one core each), `trivial` (300 trials of no work: seconds and the driver's memory),
`nested` (trials of two workers), `early` (lac.yaml's early stopping against none: an hour on SimPouring's pictures, not
run unless named; settings behind it are the study's: `early data.root=DIR data.input=features`).
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lacray import results
from lacray.config import parse_assignments
from lacray.run import Run, execute
from lacray.study.space import find_space, load_space

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("encoder.hidden=16", "encoder.heads=2", "encoder.feedforward=16", "encoder.layers=1")
NUM_TRIALS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="default: all but early")
    words = parser.parse_args().parts
    chosen, own = [word for word in words if "=" not in word], [word for word in words if "=" in word]
    parts: dict[str, Callable[[Path], dict[str, float]]] = {
        "overhead": overhead,
        "concurrent": concurrent,
        "trivial": trivial,
        "nested": nested,
        "early": lambda folder: early(folder, own),
    }
    found: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    for name in chosen or [name for name in parts if name != "early"]:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = parts[name](Path(folder))
        print(f"{name}: {found[name]}", flush=True)
    print(json.dumps(found))


def make_features(folder: Path) -> Path:
    """Thirteen short feature videos of three phases, in the plain layout."""
    rng = np.random.default_rng(0)
    root = folder / "clips"
    (root / "features").mkdir(parents=True)
    segments, splits = ["video,start_frame,end_frame,phase"], ["video,split"]
    centres = 2 * rng.normal(size=(3, 12))
    for number in range(13):
        lengths = rng.integers(8, 14, size=3)
        labels = np.repeat(np.arange(3), lengths)
        np.save(root / "features" / f"clip{number:02d}.npy", centres[labels] + rng.normal(size=(len(labels), 12)))
        ends = np.cumsum(lengths)
        for phase, (start, end) in enumerate(zip(ends - lengths, ends, strict=True)):
            segments.append(f"videos/clip{number:02d}.mp4,{start},{end},phase{phase}")
        splits.append(f"videos/clip{number:02d}.mp4,{'train' if number < 10 else 'val'}")
    (root / "segments.csv").write_text("\n".join(segments) + "\n")
    (root / "splits.csv").write_text("\n".join(splits) + "\n")
    return root


def settings(root: Path, *, epochs: int = 1, steps: int = 8) -> list[str]:
    return [
        f"data.root={root}",
        "data.input=features",
        "data.num_frames=16",
        "data.batch_size=2",
        f"fit.epochs={epochs}",
        f"fit.evaluate_every={epochs}",
        f"fit.steps_per_epoch={steps}",
        *SMALL,
    ]


def study(folder: Path, *arguments: str) -> tuple[float, list[float]]:
    """Run a study -> its seconds, and when each trial's last row was written."""
    own = {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    started = time.time()
    command = [sys.executable, "-m", "lacray.tune", "--study", "s", *arguments]
    subprocess.run(command, cwd=folder, env={**os.environ, **own}, check=True, capture_output=True)
    seconds = time.time() - started
    rows = results.last_rows(results.read(str(folder / "results"), "s"), stage="tune", control="none")
    return seconds, sorted(row["time"].timestamp() for row in rows)


def between(stamps: list[float]) -> float:
    """Seconds a trial, once the first has run."""
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def in_process(folder: Path, arguments: list[str], *, num: int, threads: int) -> float:
    """Seconds a trial, once the first has run, of a study's first trials in this process, without Ray."""
    space = load_space(find_space("lac.yaml"), parse_assignments(arguments))
    rows = results.last_rows(results.read(str(folder / "results"), "s"), stage="tune", control="none")
    torch.set_num_threads(threads)
    ends = []
    for row in sorted(rows, key=lambda row: row["trial"])[:num]:
        values = space.config({key: row[key] for key in space.distributions()}).flat()
        run = Run(values=values, results=str(folder / "alone"), study="s", run_id=f"r{row['trial']}", stage="tune")
        list(execute(run, device=torch.device("cpu")))
        ends.append(time.time())
    return between(ends)


def overhead(folder: Path) -> dict[str, float]:
    arguments = settings(make_features(folder))
    seconds, stamps = study(folder, "--trials", str(NUM_TRIALS), "--concurrent", "1", *arguments)
    alone = in_process(folder, arguments, num=NUM_TRIALS, threads=os.cpu_count() or 1)
    return {
        "study_s_a_trial": round(between(stamps), 3),
        "in_process_s_a_trial": round(alone, 3),
        "overhead_s_a_trial": round(between(stamps) - alone, 3),
        "fixed_s": round(seconds - between(stamps) * NUM_TRIALS, 1),
    }


def concurrent(folder: Path) -> dict[str, float]:
    """Two trials at once, each on a core, against one after the other on one core, in this process."""
    arguments = settings(make_features(folder), steps=400)
    _, stamps = study(folder, "--trials", "12", "--concurrent", "2", *arguments)
    together, alone = between(stamps[1:]), in_process(folder, arguments, num=4, threads=1)
    return {
        "in_process_s_a_trial": round(alone, 3),
        "study_s_a_trial": round(together, 3),
        "ratio": round(alone / together, 2),
    }


def nested(folder: Path) -> dict[str, float]:
    root = make_features(folder)
    _, stamps = study(folder, "--trials", "4", "--workers", "2", *settings(root))
    return {"study_s_a_trial": round(between(stamps), 2)}


def trivial(folder: Path) -> dict[str, float]:
    """A study whose trials report one number at once."""
    root = make_features(folder)
    program = TRIVIAL.format(words=["--trials", "300", "--concurrent", "1", "--study", "s", *settings(root)])
    env = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=env, check=True, capture_output=True, text=True
    )
    told = re.findall(r"^at (\d+): ([\d.]+) s, ([\d.]+) MB$", done.stdout, re.MULTILINE)
    seconds = {int(number): float(at) for number, at, _ in told}
    memory = {int(number): float(size) for number, _, size in told}
    return {
        "s_a_trial": round((seconds[300] - seconds[50]) / 250, 3),
        "s_a_trial_last_50": round((seconds[300] - seconds[250]) / 50, 3),
        "driver_mb_at_50": memory[50],
        "driver_mb_at_300": memory[300],
    }


TRIVIAL = """
import time, psutil
from lacray import tune
from lacray.cli import console
console.quiet = True
from lacray.study import study as module

started, end = time.time(), module.Study.end
def told(self, trial, *rest, **named):
    end(self, trial, *rest, **named)
    if self.num_over % 50 == 0:
        size = psutil.Process().memory_info().rss / 2**20
        print(f"at {{self.num_over}}: {{time.time() - started:.3f}} s, {{size:.1f}} MB", flush=True)
module.Study.end = told

def trivial(params):
    from ray import tune
    tune.report({{"epoch": 1, "loss": 1.0, "objective": hash(str(params["run"]["values"])) % 1000 / 1000}})

start = tune.start_ray
def then_replace():
    start()
    from lacray import worker
    worker.trial = trivial
tune.start_ray = then_replace
tune.tell_results = lambda study: None
tune.main({words!r})
"""


def early(folder: Path, own: list[str]) -> dict[str, float]:
    """The best of 27 trials of lac.yaml with its early stopping, and without: their epochs, and the objective."""
    epochs = load_space(find_space("lac.yaml"), {}).fixed["fit.epochs"]
    found: dict[str, float] = {}
    for name, more in (("with", []), ("without", [f"fit.evaluate_every={epochs}"])):
        (folder / name).mkdir()
        study(folder / name, "--trials", "27", *more, *own)
        table = results.read(str(folder / name / "results"), "s")
        rows = results.last_rows(table, stage="tune", control="none")
        found[f"epochs_{name}"] = sum(row["epoch"] for row in rows)
        found[f"best_{name}"] = round(results.best(table)["metric.objective"], 4)
    return found


if __name__ == "__main__":
    main()
