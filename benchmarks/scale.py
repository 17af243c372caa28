"""How many trials at once one driver can follow: `python benchmarks/scale.py`.

A study of 1000 trials of 15 epochs on 64 workers, on a clock of its own: what the study itself has to do (what to try
next, what an epoch means, whether to stop) is done for real, training and Ray are not. Seconds are the driver's;
the workers that it can feed follow from them for an epoch's length. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import heapq
import json
import time

import numpy as np

from lacray.study.sampler import Sampler
from lacray.study.space import find_space, load_space
from lacray.study.trials import Trial, Trials

EPOCHS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--epoch-seconds", type=float, default=20.0, help="of one worker")
    arguments = parser.parse_args()
    space = load_space(find_space("lac.yaml"))
    rng = np.random.default_rng(0)
    trials = Trials(every=5)
    sampler = Sampler(space, seed=0, num_trials=arguments.trials)
    spent = {"suggest": 0.0, "report": 0.0}
    slowest = {"suggest": 0.0, "report": 0.0}
    events: list[tuple[float, int, int]] = []
    num_reports = 0

    def timed(what: str, start: float) -> None:
        seconds = time.perf_counter() - start
        spent[what] += seconds
        slowest[what] = max(slowest[what], seconds)

    def begin(now: float) -> None:
        if len(trials) >= arguments.trials:
            return
        start = time.perf_counter()
        number = len(trials)
        params = sampler.suggest(number)
        assert params is not None
        trials.add(Trial(number, params, EPOCHS))
        timed("suggest", start)
        heapq.heappush(events, (now + arguments.epoch_seconds * rng.uniform(0.8, 1.2), number, 1))

    for _ in range(arguments.workers):
        begin(0.0)
    now = 0.0
    while events:
        now, number, epoch = heapq.heappop(events)
        start = time.perf_counter()
        result = {"epoch": epoch, "loss": 1 / epoch}
        if epoch % 5 == 0:
            result["objective"] = float(rng.normal(0.5 + 0.01 * epoch, 0.1))
        trial = trials.hear(number, result, "objective", now)
        if "objective" in result:
            sampler.report(number, result["objective"], epoch)
        stops = trials.should_stop(number, epoch)
        if stops or epoch == EPOCHS:
            trial.state = "pruned" if stops else "done"
            sampler.tell(trial)
        timed("report", start)
        num_reports += 1
        if trial.is_over:
            begin(now)
        else:
            heapq.heappush(events, (now + arguments.epoch_seconds * rng.uniform(0.8, 1.2), number, epoch + 1))
    busy = sum(spent.values())
    found = {
        "trials": len(trials),
        "reports": num_reports,
        "study_hours": round(now / 3600, 2),
        "driver_s": round(busy, 2),
        "driver_share": round(busy / now, 5),
        "suggest_ms_mean": round(1000 * spent["suggest"] / len(trials), 2),
        "suggest_ms_slowest": round(1000 * slowest["suggest"], 1),
        "report_ms_mean": round(1000 * spent["report"] / num_reports, 2),
        "report_ms_slowest": round(1000 * slowest["report"], 1),
        "workers_that_one_driver_feeds": int(arguments.workers / (busy / now)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
