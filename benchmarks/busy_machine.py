"""What training keeps of its speed on cores that others use too: `python benchmarks/busy_machine.py`.

Trains on SimPouring beside k processes that never rest (started, and ended by their ids, here), with threads that spin
while they wait for each other, as OpenMP has it where nobody says otherwise, with threads that sleep, as lacray has it,
and with one thread. The fair share of n threads beside k processes on c cores is min(n, c n / (n + k)) cores, at the
frames that one thread alone computes in a second of its CPU.

On a machine that is not at rest only `per_cpu` compares: frames in a second of CPU time that was had. The last line of
stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import psutil

SETTINGS = {"spinning": 0, "sleeping": 0, "one thread": 1}
"""Threads of each; 0: as many as there are cores."""
BUSY = "while True: pass"


def train(setting: str, threads: int, seconds: float) -> dict[str, float]:
    """Train for some seconds in this process."""
    if setting == "spinning":
        # OpenMP reads its environment now, before lacray can say anything.
        import torch

    from lacray.config import build
    from lacray.data import open_videos
    from lacray.fit import fit

    if setting != "spinning":
        import torch

    torch.set_num_threads(threads)
    config = build({"loss.name": "lac", "fit.epochs": 10_000, "fit.evaluate_every": 10_000, "fit.steps_per_epoch": 2})
    epochs = fit(config, open_videos(config.data))
    next(epochs)
    start, cpu, machine = time.perf_counter(), time.process_time(), busy_seconds()
    frames = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        next(epochs)
        frames += 2 * 2 * config.data.batch_size * config.data.num_frames
    used = time.process_time() - cpu
    return {
        "frames_per_second": frames / elapsed,
        "cpus": used / elapsed,
        "per_cpu": frames / used,
        "machine_cpus": (busy_seconds() - machine) / elapsed,
    }


def busy_seconds() -> float:
    """CPU seconds that all processes of the machine have had."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def measured(setting: str, threads: int, others: int, seconds: float) -> dict[str, float]:
    """One run in a process of its own, beside `others` busy ones."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(others)]
    # What to do while waiting is then left to the order of imports: lacray's first, or torch's.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, __file__, "--alone", setting, "--threads", str(threads), "--seconds", str(seconds)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of training, for each figure")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--others", type=int, nargs="+", default=[0, 1, 2, 4], help="busy processes beside it")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--alone", choices=SETTINGS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(train(arguments.alone, arguments.threads, arguments.seconds)))
        return
    runs: dict[tuple[int, str], list[dict[str, float]]] = {}
    for _ in range(arguments.repetitions):
        for others in arguments.others:
            for setting, fixed in SETTINGS.items():
                figures = measured(setting, fixed or arguments.threads, others, arguments.seconds)
                runs.setdefault((others, setting), []).append(figures)
                print(f"{others} others, {setting}: {json.dumps(figures)}", flush=True)
    cores = len(os.sched_getaffinity(0))
    rows = compared(runs, arguments.threads, cores)
    for row in rows:
        print(
            f"{row['others']} others, {row['setting']:10}: {row['frames_per_second']:7.0f} frames/s, "
            f"{row['of_fair_share']:.2f} of its fair share, "
            f"{row['of_one_threads_work_per_cpu']:.2f} of one thread's work in a second of CPU"
        )
    print(json.dumps({"benchmark": "busy_machine", "cores": cores, "load": os.getloadavg()[0], "rows": rows}))


def compared(runs: dict[tuple[int, str], list[dict[str, float]]], threads: int, cores: int) -> list[dict[str, Any]]:
    """Medians over the repetitions, and what they are of a fair share."""
    fewest = min(others for others, _ in runs)
    alone = statistics.median(run["per_cpu"] for run in runs[fewest, "one thread"])
    rows = []
    for (others, setting), found in runs.items():
        own = SETTINGS[setting] or threads
        fair = min(own, cores * own / (own + others))
        median = {name: statistics.median(run[name] for run in found) for name in found[0]}
        rows.append(
            {
                "others": others,
                "setting": setting,
                "threads": own,
                **{name: round(value, 2) for name, value in median.items()},
                "least_frames_per_second": round(min(run["frames_per_second"] for run in found), 2),
                "of_fair_share": round(median["frames_per_second"] / (alone * fair), 3),
                "of_one_threads_work_per_cpu": round(median["per_cpu"] / alone, 3),
            }
        )
    return rows


if __name__ == "__main__":
    main()
