"""What kills do to a study: `python benchmarks/faults.py [FAULT...]` prints fault, rows lost, trials repeated, seconds.

A study of five trials on small features is run undisturbed, then once a fault: something dies, and the study goes on by
itself or by `--resume`. Rows are lost where the undisturbed study has a row (trial, epoch) that the other has not; a
trial is repeated where its rows were written again after it was over; the seconds go from the fault to the next row,
with the start of `--resume` in them. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for folder in ("tests/faults", "tests"):
    sys.path.insert(0, str(ROOT / folder))

from lab import Command, Lab, ended, send, told  # noqa: E402
from tiny import make_features  # noqa: E402

from lacray import results  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", choices=[[], *FAULTS], help="default: all")
    chosen = parser.parse_args().faults or list(FAULTS)
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    found: dict[str, Any] = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as folder:
        data = make_features(Path(folder) / "clips", num_train=10, num_val=3)
        reference: dict[int, Lab] = {}
        print(f"{'fault':<34} {'same trials':>11} {'rows lost':>9} {'repeated':>8} {'seconds':>8}")
        for name in chosen:
            workers, fault = FAULTS[name]
            if workers not in reference:
                reference[workers] = Lab(Path(folder) / f"undisturbed{workers}", data)
                reference[workers].tune("--workers", str(workers)).wait()
            row = disturbed(Lab(Path(folder) / name.replace(" ", "-"), data), reference[workers], workers, fault)
            found[name] = row
            print(
                f"{name:<34} {'yes' if row['same'] else 'NO':>11} {row['rows_lost']:>9} {row['repeated']:>8} "
                f"{row['seconds']:>8.1f}",
                flush=True,
            )
    print(json.dumps(found))


def disturbed(
    lab: Lab, reference: Lab, workers: int, fault: Callable[[Lab, Command], bool]
) -> dict[str, float | int | bool]:
    study = lab.tune("--workers", str(workers))
    with ended([study]):
        study.until(lambda: lab.num_over() >= 1 and lab.epoch(lab.num_over()) >= 0)
        stamps, before, at = lab.stamps(), num_rows(lab), time.monotonic()
        must_resume = fault(lab, study)
        if must_resume:
            study = lab.resume("--workers", str(workers))
        with ended([study]):
            study.until(lambda: num_rows(lab) > before or study.process.poll() == 0)
            seconds = time.monotonic() - at
            study.wait()
    after = lab.stamps()
    return {
        "same": told(lab) == told(reference),
        "rows_lost": len(keys(reference) - keys(lab)),
        "repeated": sum(after[name] != stamp for name, stamp in stamps.items()),
        "seconds": round(seconds, 1),
    }


def keys(lab: Lab) -> set[tuple[str, int]]:
    return {(row["run_id"], row["epoch"]) for row in lab.rows()}


def num_rows(lab: Lab) -> int:
    try:
        return len(results.read(lab.uri, "lac"))
    except results.ResultsError:
        return 0


def kill_trial(lab: Lab, study: Command) -> bool:
    for process in study.until(study.trial_processes)[-1:]:
        send(process)
    return False


def kill_driver(lab: Lab, study: Command) -> bool:
    study.kill()
    return True


def interrupt(number: int) -> Callable[[Lab, Command], bool]:
    def act(lab: Lab, study: Command) -> bool:
        study.signal(number)
        study.wait(code=None)
        return True

    return act


def kill_ray(name: str) -> Callable[[Lab, Command], bool]:
    def act(lab: Lab, study: Command) -> bool:
        victims = study.descendants()
        if name != "everything":
            victims = [process for process in victims if os.path.basename((process.cmdline() or [""])[0]) == name]
        for process in victims:
            send(process)
        study.wait(code=None)
        # A short study of one actor is over before the loss of its raylet is noticed.
        return study.process.returncode != 0

    return act


def forget(lab: Lab, study: Command) -> bool:
    """The driver dies, and with it all but the results."""
    study.kill()
    for left in Path(lab.uri).glob("optuna.db*"):
        left.unlink()
    return True


FAULTS: dict[str, tuple[int, Callable[[Lab, Command], bool]]] = {
    "trial's process killed": (1, kill_trial),
    "driver killed": (1, kill_driver),
    "driver killed, Optuna's store gone": (1, forget),
    "Ctrl-C": (1, interrupt(signal.SIGINT)),
    "SIGTERM": (1, interrupt(signal.SIGTERM)),
    "raylet killed": (1, kill_ray("raylet")),
    "GCS killed": (1, kill_ray("gcs_server")),
    "all of Ray killed": (1, kill_ray("everything")),
    "rank of two killed": (2, kill_trial),
    "driver of two ranks killed": (2, kill_driver),
}


if __name__ == "__main__":
    main()
