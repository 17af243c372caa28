"""`python -m lacray.train`: one setting trained in full, given by key=value or as the best of a study, over seeds."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import NoneType
from typing import Any

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

from rich.table import Table

from lacray import metrics
from lacray.cli import (
    absolute,
    commit,
    console,
    not_negative,
    placed,
    positive,
    prepare_videos,
    shell,
    shown,
    tell,
    warn,
)
from lacray.cluster import check_address, shutting_down, start_ray
from lacray.config import DEFAULT_LOSS, Config, UserError, build, kinds_of, known_keys, parse_assignments
from lacray.exits import advice, guarded
from lacray.fit import check_batch, check_partners
from lacray.nodes import check_shared, default_gpus, most_workers, plan, read_nodes
from lacray.ops import backend_name
from lacray.results import (
    Lease,
    Place,
    best,
    check_name,
    check_writable,
    checkpoint_uri,
    has_rows,
    last_rows,
    read,
    remove_run,
    selected_by,
    studies,
)
from lacray.run import CONTROLS, Run
from lacray.study.ahead import check_encoder, collected
from lacray.study.space import find_space, load_space
from lacray.watch import ClusterLostError, Watch, leave, ray_is_there


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    overrides = parse_assignments(word for word in arguments.words if "=" in word)
    files = [word for word in arguments.words if "=" not in word]
    if arguments.keys:
        # tcn's defaults alone are no run: its clips are to be chosen first, by a key that is listed here.
        config = build({**fixed_setting(files)[0], **overrides}, sections_alone=True)
        for key, value in config.flat().items():
            print(f"{key}={json.dumps(value) if value is None or isinstance(value, bool) else value}")
        return
    if arguments.study is not None:
        check_name("study", arguments.study)
    if arguments.best and files:
        raise UserError(f"--best: takes its setting from a study, got {' '.join(files)} too; leave one of them out")
    if arguments.best:
        values, study, source = best_setting(arguments)
    else:
        values, named = fixed_setting(files)
        study, source = arguments.study or named or "train", ", ".join(files) or "the defaults"
    # Selection is over: all training videos are trained on, and the val split is reported.
    values = {**values, "data.validation_share": 0.0, "evaluation.report_split": True, **overrides}
    origins = dict.fromkeys(overrides, "command line")
    config = build(values, origins)
    if arguments.best and "fit.evaluate_every" not in overrides:
        # One look at the val split, when the training is over.
        config = build({**values, "fit.evaluate_every": config.fit.epochs}, origins)
    if arguments.workers is not None:
        check_batch(config, arguments.workers)
    check_address()
    check_writable(arguments.results)
    videos = prepare_videos(config, for_study=False)
    problems: list[str] = []
    for check in (check_partners, check_encoder):
        with collected(problems):
            check(config, videos)
    if problems:
        raise UserError(problems)
    if not videos.val:
        warn(f"{videos.root}: no video is in the val split, so nothing of it can be reported; name some in splits.csv")
    # Compiled now, or said now that they cannot be.
    backend_name("cpu")
    if not arguments.again:
        advice.text = "the same command goes on from the last checkpoint"
    start_ray()
    with shutting_down():
        check_shared(absolute(arguments.results))
        runs = planned(arguments, config, study)
        given = f" with {', '.join(f'{key}={value}' for key, value in overrides.items())}" if overrides else ""
        seeds = ", ".join(str(run.config().seed) for run in runs)
        tell(f"training {source}{given}: seeds {seeds}, workers {runs[0].workers}")
        train(runs, arguments, videos.checksum())


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m lacray.train", description="Train one setting in full; rows and checkpoints go to --results."
    )
    result.add_argument("words", nargs="*", metavar="SPACE.yaml | key=value", help="settings; --keys lists them")
    result.add_argument("--best", action="store_true", help="the best setting of a study")
    result.add_argument("--study", help="which study; default: the only one there")
    result.add_argument("--results", default="results", metavar="URI", help="directory or s3://bucket/prefix")
    result.add_argument(
        "--seeds", type=positive, help="train with so many seeds, `seed` the first; default: 3 with --best, else 1"
    )
    result.add_argument("--workers", type=positive, help="ranks; default: one per GPU, or 1")
    result.add_argument("--gpus-per-worker", type=not_negative, help="default: 1 where there are GPUs, else 0")
    result.add_argument("--again", action="store_true", help="train anew: what these seeds gave before is removed")
    result.add_argument("--keys", action="store_true", help="list every setting with its value, and stop")
    return result


def fixed_setting(files: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """What search spaces fix -> (values, the last one's name); a later file wins.

    Raises:
        UserError: one of them searches: there is no one setting to train.
    """
    values: dict[str, Any] = {}
    name = None
    for file in files:
        space = load_space(find_space(file))
        if space.distributions():
            searched = ", ".join(space.distributions())
            raise UserError(f"{file}: must only fix settings to be trained, searches {searched}; study it: lacray.tune")
        values |= space.fixed
        name = space.name
    return values, name


def best_setting(arguments: argparse.Namespace) -> tuple[dict[str, Any], str, str]:
    """The setting of the best finished trial -> (values, study, in words).

    Raises:
        UserError: no study, several, or one that does not exist.
    """
    study = arguments.study
    # Others than the one that is named may have thousands of rows, or none yet.
    if study is None or not _has_trials(arguments.results, study):
        known = [name for name in studies(arguments.results) if _has_trials(arguments.results, name)]
        if not known:
            raise UserError(
                f"--best: {arguments.results} holds no study; run python -m lacray.tune first, or give --results"
            )
        if study is not None:
            raise UserError(f"--study: {study} has no trials in {arguments.results}; choose from {', '.join(known)}")
        if len(known) > 1:
            raise UserError(
                f"--best: {arguments.results} holds {len(known)} studies; choose with --study {'|'.join(known)}"
            )
        study = known[0]
    table = read(arguments.results, study)
    metric = selected_by(table)
    row = best(table, metric)
    # Settings that this version does not know any more would be an error in every later command. What is null is in no
    # row: left out, it would become what the preset has in its place.
    values = {
        key: row.get(key)
        for key in known_keys(row.get("loss.name") or DEFAULT_LOSS)
        if key != "seed" and (row.get(key) is not None or NoneType in kinds_of(key))
    }
    values["fit.epochs"] = values.get("fit.full_epochs") or values["fit.epochs"]
    return values, study, f"the best of study {study} (trial {row['trial']}, {metric} {row[f'metric.{metric}']:.4f})"


def _has_trials(results: str, study: str) -> bool:
    return has_rows(results, study) and "tune" in read(results, study)["stage"].unique().to_pylist()


def planned(arguments: argparse.Namespace, config: Config, study: str) -> list[Run]:
    """One run per seed.

    Raises:
        UserError: the cluster has no node that a worker fits on, or the batch does not divide.
    """
    nodes = read_nodes()
    gpus = arguments.gpus_per_worker
    if gpus is None:
        gpus = default_gpus(nodes)
    num_pairs = config.data.batch_size // config.fit.accumulate
    workers = arguments.workers or (most_workers(nodes, gpus, num_pairs) if gpus else 1)
    check_batch(config, workers)
    own = plan(nodes, workers=workers, gpus_per_worker=gpus, concurrent=1, most=1)
    number = arguments.seeds or (3 if arguments.best else 1)
    run = Run(
        values=placed(config.flat()),
        results=absolute(arguments.results),
        study=study,
        run_id="",
        stage="train",
        commit=commit(),
        workers=workers,
        gpus_per_worker=gpus,
        cpus_per_worker=own.cpus_per_worker,
        keep_checkpoint=True,
    )
    runs = []
    for seed in range(config.seed, config.seed + number):
        values = {**run.values, "seed": seed}
        # The name says the setting, so that an interrupted run is found again and another setting is another run.
        setting = json.dumps({key: value for key, value in values.items() if key != "seed"}, sort_keys=True)
        name = f"train-{hashlib.sha256(setting.encode()).hexdigest()[:8]}-s{seed}"
        runs.append(replace(run, values=values, run_id=name, controls={"run_id": name, "values": values}))
    return runs


def train(runs: list[Run], arguments: argparse.Namespace, videos: str) -> None:
    """Execute the runs one after the other, then say what they gave and where it is.

    Args:
        videos: checksum of those that are there now.
    """
    place = Place(runs[0].results, tell=warn)
    if arguments.again:
        # All of them, so that the same command without --again goes on with all of them.
        for run in runs:
            with _leased(place, run):
                for run_id in _run_ids(run):
                    remove_run(place, run.study, run_id)
        advice.text = "the same command without --again goes on from the last checkpoint"
    for run in runs:
        seed = run.config().seed
        last = _last_row(place, run)
        if last.get("status") == "done":
            if last["videos"] in (None, videos):
                console.print(f"seed {seed}: done before, kept (--again trains it anew)")
            else:
                warn(f"seed {seed}: done before, with other videos or labels than now, kept; --again trains it anew")
            continue
        if last.get("status") == "failed":
            raise UserError(f"run {run.run_id}: failed before ({last['error']}); --again trains it anew")
        with _leased(place, run) as lease:
            started = time.time()
            outcome = _trained(run, lease) or {}
        if outcome.get("ended"):
            raise UserError(str(outcome["error"]).splitlines())
        console.print(f"seed {seed}: trained in {(time.time() - started) / 60:.1f} min")
    _tell(runs, arguments)


@contextmanager
def _leased(place: Place, run: Run) -> Iterator[Lease]:
    """The right to write a run, and to remove it."""
    lease = Lease(place, f"{run.study}/leases/{run.run_id}.json", {"study": run.study, "run": run.run_id})
    lease.acquire(warn)
    try:
        yield lease
    finally:
        lease.release()


def _run_ids(run: Run) -> list[str]:
    """Of a run, and of its controls."""
    return [run.run_id, *(f"{run.run_id}-{name}" for name in CONTROLS)]


def _trained(run: Run, lease: Lease) -> dict[str, Any] | None:
    """Train with Ray Train -> how it ended, where not well.

    Train's own handling of signals would end this process without a word; it has none on another thread.
    """
    from lacray import worker
    from lacray.progress import RunProgress

    problem: list[Exception] = []
    outcome: list[Any] = []
    scratch = worker.new_scratch()

    def on_problem(found: Exception) -> None:
        # The thread that trains is deep in Ray.
        lease.release()
        if isinstance(found, ClusterLostError):
            leave(f"{found}; {advice.text}", 3)
        leave(str(found), 2)

    def taken_over() -> Exception | None:
        return (
            UserError(f"run {run.run_id}: somebody else has taken it over; this one ends")
            if lease.lost.is_set()
            else None
        )

    with RunProgress(f"seed {run.config().seed}", run.config().fit.epochs) as progress:

        def work() -> None:
            try:
                outcome.append(worker.trainer(run, str(scratch), board=progress.board).fit().return_value)  # type: ignore[attr-defined]
            except Exception as error:
                problem.append(error)

        thread = threading.Thread(target=work, name="lacray-train", daemon=True)
        try:
            with Watch([ray_is_there(), taken_over], on_problem):
                thread.start()
                while thread.is_alive():
                    thread.join(0.2)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if not problem:
        return outcome[0]
    if isinstance(problem[0], worker.TrainingFailedError):
        reason = str(problem[0]).strip().splitlines()[-1]
        raise UserError(
            f"run {run.run_id}: its workers were lost {worker.MAX_FAILURES + 1} times, at last by: {reason}; mend it, "
            f"and {advice.text}"
        ) from problem[0]
    raise problem[0]


def _last_row(place: Place, run: Run) -> dict[str, Any]:
    """What a run's rows said last; empty where it has none."""
    if not has_rows(place, run.study):
        return {}
    rows = last_rows(read(place, run.study), stage="train", control="none")
    return next((row for row in rows if row["run_id"] == run.run_id), {})


def _tell(runs: list[Run], arguments: argparse.Namespace) -> None:
    ids = {run_id for run in runs for run_id in _run_ids(run)}
    stored = read(Place(runs[0].results, tell=warn), runs[0].study)
    rows = [r for r in last_rows(stored, stage="train", split="val") if r["run_id"] in ids]
    table = Table(title=f"val split, mean over seeds ({len(runs)})", title_justify="left")
    table.add_column("encoder")
    columns = [f"{protocol}.{name}" for protocol in metrics.PROTOCOLS for name in metrics.SHORT]
    columns = [name for name in columns if any(row.get(f"metric.{name}") is not None for row in rows)]
    for name in columns:
        table.add_column(name.replace(".", "\n"), justify="right")
    for control, label in (("none", "trained"), ("untrained", "untrained encoder"), ("positions", "positions only")):
        values = [[row[f"metric.{name}"] for row in rows if row["control"] == control] for name in columns]
        cells = [[value for value in column if value is not None] for column in values]
        table.add_row(label, *(f"{100 * sum(cell) / len(cell):.1f}" if cell else "-" for cell in cells))
    if columns:
        console.print(table)
    else:
        tell("nothing to report: no video of the val split was evaluated")
    where = [] if arguments.results == "results" else ["--results", arguments.results]
    tell(f"rows: {shown(arguments.results)}/{runs[0].study}/rows/*.parquet")
    for run in runs:
        tell(f"checkpoint: {shown(checkpoint_uri(arguments.results, run.study, run.run_id))}")
    console.print("next:", style="bold")
    tell("  " + shell("python", "analysis/report.py", *where))
    data = runs[0].config().data
    if data.input == "videos" and "://" not in arguments.results:
        root = data.root if data.root == "simpouring" else shown(data.root)
        tell("  " + shell("python", "-m", "lacray.view", root, *where))


if __name__ == "__main__":
    guarded(main)
