"""Reading the rows of many runs, packing them, and reading them packed: from a directory, and from an S3 server.

    python benchmarks/results.py                      10 000 runs of 15 epochs, a third of them ended by the driver
    python benchmarks/results.py --runs 1000 --s3     against the server of AWS_ENDPOINT_URL, bucket `benchmark`

The files are made here, from a real setting's columns. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from lacray.config import Config, flatten
from lacray.metrics import MAXIMISED, PROTOCOLS
from lacray.results import Place, best, check_writable, compact, last_rows, read, to_table
from lacray.results.rows import end_key, rows_key
from lacray.results.schema import encode

NUM_EPOCHS = 15
METRICS = tuple(f"metric.{protocol}.{name}" for protocol in PROTOCOLS for name in (*MAXIMISED, "event_error"))
PARTS = ("part.total", "part.L_c", "part.L_l", "part.L_sw", "gap.open", "gap.extend", "metric.objective")


def rows_of(number: int, num_epochs: int, status: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A run's rows, every third epoch evaluated, with all the columns of a real setting."""
    setting = {
        **flatten(Config().model_dump()),
        "loss.gamma": float(rng.uniform(0.1, 2)),
        "loss.tau": float(rng.uniform(0.05, 1)),
    }
    now = datetime.datetime.now(datetime.UTC)
    rows = []
    for epoch in range(1, num_epochs + 1):
        evaluated = epoch % 3 == 0
        rows.append(
            {
                "study": "many",
                "run_id": f"trial-{number:05d}",
                "stage": "tune",
                "space": "lac",
                "trial": number,
                "seed": 0,
                "epoch": epoch,
                "status": status if epoch == num_epochs else "running",
                "control": "none",
                "split": "validation" if evaluated else None,
                "time": now,
                "seconds": 2.0 * epoch,
                "commit": "0" * 40,
                "device": "cuda",
                "op_backend": "cuda",
                "world_size": 1,
                **{key: value for key, value in setting.items() if value is not None},
                **dict(zip(PARTS, rng.random(len(PARTS)).tolist(), strict=True)),
                **(dict(zip(METRICS, rng.random(len(METRICS)).tolist(), strict=True)) if evaluated else {}),
            }
        )
    return rows


def make(place: Place, num_runs: int) -> int:
    """Writes the runs' files; every third run was ended by the driver at epoch 6. The number of rows that count."""
    rng = np.random.default_rng(0)
    made = to_table(rows_of(0, NUM_EPOCHS, "done", rng)), to_table(rows_of(0, 6, "running", rng))
    num_rows = 0

    def write(number: int) -> int:
        pruned = number % 3 == 0
        table = made[pruned]
        for name, value in (
            ("run_id", f"trial-{number:05d}"),
            ("trial", number),
            ("loss.gamma", 0.1 + number / num_runs),
        ):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, pa.array([value] * len(table), table.schema.field(at).type))
        place.write(rows_key("many", f"trial-{number:05d}"), encode(table))
        if pruned:
            end = {"epoch": 6, "status": "pruned", "control": "none", "run_id": f"trial-{number:05d}", "study": "many"}
            place.write(end_key("many", f"trial-{number:05d}"), encode(to_table([end]).select(list(end))))
        return len(table)

    with ThreadPoolExecutor(16) as pool:
        for num in pool.map(write, range(num_runs)):
            num_rows += num
    return num_rows


def timed(name: str, action: Callable[[], Any], seconds: dict[str, float]) -> Any:
    """The action's value; its wall and CPU seconds (all threads of this process; the latter tell a busy machine's)."""
    start, cpu = time.perf_counter(), time.process_time()
    value = action()
    seconds[name], seconds[f"{name}_cpu"] = time.perf_counter() - start, time.process_time() - cpu
    print(f"{name}: {seconds[name]:.2f} s, of CPU {seconds[f'{name}_cpu']:.2f} s", flush=True)
    return value


def measure(uri: str, num_runs: int, repetitions: int) -> dict[str, Any]:
    """Seconds of each way to the rows, the answers checked."""
    check_writable(uri)
    place = Place(uri)
    seconds: dict[str, float] = {}
    num_rows = timed("write", lambda: make(place, num_runs), seconds)
    reads: list[dict[str, float]] = []
    for _ in range(repetitions):
        reads.append({})
        table = timed("read", lambda: read(place), reads[-1])
    seconds |= sorted(reads, key=lambda one: one["read"])[repetitions // 2]
    assert len(table) == num_rows
    assert len(set(table["run_id"].to_pylist())) == num_runs
    rows = timed("last_rows", lambda: last_rows(table), seconds)
    assert sum(row["status"] == "pruned" for row in rows) == -(-num_runs // 3)
    chosen = timed("best", lambda: best(table), seconds)["run_id"]
    packed = timed("compact", lambda: compact(place, "many", quiet_seconds=0), seconds)
    assert packed == (num_runs, num_runs)
    again = timed("read_packed", lambda: read(place), seconds)
    assert again.equals(table)
    assert best(again)["run_id"] == chosen
    return {"place": uri.split("://")[0] if "://" in uri else "disk", "rows": num_rows, **seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--s3", action="store_true", help="on the server of AWS_ENDPOINT_URL")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        uri = f"s3://benchmark/{uuid.uuid4().hex}" if arguments.s3 else directory
        result = measure(uri, arguments.runs, arguments.repetitions)
    document = {
        "benchmark": "results",
        "runs": arguments.runs,
        "epochs": NUM_EPOCHS,
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        **result,
    }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
