"""Studies and trainings in processes of their own, to be killed, starved and cut off: what the fault tests share."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from s3_proxy import Proxy
from tiny import TINY_ENCODER

from lacray import results

TIMEOUT_S = 300.0
EPOCHS = 6
# Columns that differ between two runs of one setting.
VOLATILE = ("time", "seconds", "frames_per_second", "peak_memory_bytes", "commit", "world_size")


def settings(data: Path, *, epochs: int = EPOCHS, steps: int = 8) -> list[str]:
    """Arguments of a training that takes a second or two."""
    return [
        f"data.root={data}",
        "data.input=features",
        "data.num_frames=16",
        "data.batch_size=2",
        f"fit.epochs={epochs}",
        f"fit.full_epochs={epochs}",
        "fit.evaluate_every=1",
        f"fit.steps_per_epoch={steps}",
        "encoder.dropout=0",
        *TINY_ENCODER,
    ]


@dataclass
class Command:
    """An entry point that runs; its output in a file."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, code: int | None = 0, *, timeout: float = TIMEOUT_S) -> str:
        """Wait for its end and return what it said; `code` None takes any."""
        try:
            found = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end in {timeout:.0f} s:\n{self.said[-3000:]}") from None
        assert code is None or found == code, f"exit {found}, not {code}:\n{self.said[-5000:]}"
        return self.said

    def until(self, condition: Callable[[], Any], *, timeout: float = TIMEOUT_S) -> Any:
        """Wait for something to become true while it runs."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            assert self.process.poll() is None, f"it ended ({self.process.returncode}) before:\n{self.said[-5000:]}"
            time.sleep(0.05)
        raise AssertionError(f"not in {timeout:.0f} s:\n{self.said[-3000:]}")

    def kill(self) -> None:
        """SIGKILL to the driver alone; what it had started ends by itself, or is ended here."""
        children = self.descendants()
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(alive, timeout=10)

    def signal(self, number: int) -> None:
        """As a terminal sends it: to the whole foreground group."""
        os.killpg(self.process.pid, number)

    def descendants(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def find(self, *names: str) -> list[psutil.Process]:
        """Its processes whose command line has one of the names in it."""
        found = []
        for process in self.descendants():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if any(name in line for name in names):
                    found.append(process)
        return found

    def trial_processes(self) -> list[psutil.Process]:
        """Those that train: a trial's actor, or the ranks of a worker group."""
        ranks = self.find("ray::RayTrainWorker", "RayTrainWorker")
        return ranks or self.find("ray::ImplicitFunc", "ray::trial")


@dataclass
class Lab:
    """A folder in which studies run, on one small data set."""

    folder: Path
    data: Path
    env: dict[str, str] = field(default_factory=dict)
    results: str = "results"
    number: int = 0

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> Command:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.number += 1
        log = self.folder / f"log{self.number}"
        # Ray's workers would wait behind everything else that the machine does.
        own = {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local", "RAY_worker_niceness": "0"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=self.folder,
                env={**os.environ, **own, **self.env, **(env or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Command(process, log)

    def tune(
        self,
        *arguments: str,
        trials: int = 5,
        epochs: int = EPOCHS,
        steps: int = 8,
        concurrent: int | None = 1,
        env: dict[str, str] | None = None,
    ) -> Command:
        return self.study(
            *("--trials", str(trials), *arguments),
            *settings(self.data, epochs=epochs, steps=steps),
            concurrent=concurrent,
            env=env,
        )

    def study(self, *arguments: str, concurrent: int | None = 1, env: dict[str, str] | None = None) -> Command:
        """A study of exactly these arguments."""
        many = ["--concurrent", str(concurrent)] if concurrent else []
        return self.start("lacray.tune", *many, "--results", self.results, *arguments, env=env)

    def resume(self, *arguments: str, env: dict[str, str] | None = None) -> Command:
        return self.start(
            "lacray.tune", "--resume", "--concurrent", "1", "--results", self.results, *arguments, env=env
        )

    def train(
        self, *arguments: str, epochs: int = EPOCHS, steps: int = 8, env: dict[str, str] | None = None
    ) -> Command:
        own = settings(self.data, epochs=epochs, steps=steps)
        return self.start("lacray.train", "--results", self.results, *own, *arguments, env=env)

    @property
    def uri(self) -> str:
        return self.results if "://" in self.results else str(self.folder / self.results)

    def rows(self, study: str = "lac") -> list[dict[str, Any]]:
        """All rows of a study; none before there are any."""
        try:
            return results.read(self.uri, study).to_pylist()
        except results.ResultsError:
            return []

    def trials(self, study: str = "lac") -> dict[int, list[dict[str, Any]]]:
        """The rows of each trial, by its number."""
        found: dict[int, list[dict[str, Any]]] = {}
        for row in self.rows(study):
            if row["stage"] == "tune" and row["control"] == "none":
                found.setdefault(row["trial"], []).append(row)
        return dict(sorted(found.items()))

    def epoch(self, number: int, study: str = "lac") -> int:
        """How far a trial is, by its rows; -1 before its first."""
        return max((row["epoch"] for row in self.trials(study).get(number, [])), default=-1)

    def num_over(self, study: str = "lac") -> int:
        return sum(rows[-1]["status"] != "running" for rows in self.trials(study).values())

    def stamps(self, study: str = "lac") -> dict[str, list[int]]:
        """When what is told of each run was last written, of those that are over."""
        over = {rows[-1]["run_id"] for rows in self.trials(study).values() if rows[-1]["status"] != "running"}
        folder = Path(self.uri) / study
        return {
            # A trial that could not begin has no rows, but an end.
            name: [path.stat().st_mtime_ns for path in sorted(folder.glob(f"*/{name}.parquet"))]
            for name in over
        }


@dataclass
class Bucket:
    """A bucket of a real S3 server, behind a proxy that can hurt it."""

    name: str
    proxy: Proxy

    @property
    def env(self) -> dict[str, str]:
        """What a process needs beside the tests' own environment to go by way of the proxy."""
        return {"AWS_ENDPOINT_URL": self.proxy.address}

    def make(self) -> None:
        """Make the bucket, and wait until it takes what is written."""
        results.check_writable(f"s3://{self.name}")
        results.Place(f"s3://{self.name}").write("ready", b"yes")

    def remove(self) -> None:
        """Remove the bucket with all that is in it."""
        import boto3

        client = boto3.session.Session().client("s3")
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.name):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=self.name, Key=item["Key"])
        client.delete_bucket(Bucket=self.name)


Told = dict[int, tuple[str, int, dict[str, Any], float | None]]


def told(lab: Lab, study: str = "lac") -> Told:
    """What a study came to, by trial: how it ended, at which epoch, what was searched, and its last objective."""
    found: Told = {}
    for number, rows in lab.trials(study).items():
        last = rows[-1]
        searched = {
            key: last[key] for key in ("loss.gamma", "loss.alpha", "loss.tau", "loss.score_sign") if key in last
        }
        values = [row["metric.objective"] for row in rows if row.get("metric.objective") is not None]
        found[number] = (last["status"], last["epoch"], searched, values[-1] if values else None)
    return found


def assert_whole(lab: Lab, study: str = "lac") -> None:
    """No epoch of any trial is missing or there twice, and nothing says that it still runs."""
    for number, rows in lab.trials(study).items():
        epochs = [row["epoch"] for row in rows]
        assert epochs == list(range(len(epochs))), f"trial {number}: {epochs}"
        assert rows[-1]["status"] in ("done", "pruned", "failed"), f"trial {number}: {rows[-1]['status']}"
    assert {row["control"] for row in lab.rows(study)} == {"none", "untrained", "positions"}
    left = (
        [path.name for path in (Path(lab.uri) / study / "checkpoints").glob("trial-*")] if "://" not in lab.uri else []
    )
    assert not left, f"checkpoints of trials that are over: {left}"


def assert_no_page(said: str) -> None:
    """What is told is told in lines, not in tracebacks."""
    assert "Traceback" not in said, said[-5000:]
    assert len(said.splitlines()) < 120, said[-5000:]


@contextlib.contextmanager
def ended(commands: Sequence[Command]) -> Iterator[None]:
    """Nothing that a test has started outlives it."""
    try:
        yield
    finally:
        for command in commands:
            if command.process.poll() is None:
                command.kill()


def send(process: psutil.Process, number: int = signal.SIGKILL) -> None:
    """A signal to a process that may be gone already."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
