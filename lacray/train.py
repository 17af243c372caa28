"""`python -m lacray.train`: one setting trained in full, given by key=value or as the best of a study, over seeds."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from rich.table import Table

from lacray import worker
from lacray.cli import (
    absolute,
    cluster_capacity,
    commit,
    console,
    guarded,
    not_negative,
    placed,
    positive,
    prepare_videos,
    shown,
    start_ray,
)
from lacray.config import Config, UserError, build, known_keys, parse_assignments
from lacray.progress import RunProgress
from lacray.results import best, check_writable, checkpoint_uri, last_rows, read, remove_tree, studies
from lacray.study import find_space, load_space

SHOWN_METRICS = ("class_10", "class_100", "progress", "ap_5", "kendalls_tau")


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    if arguments.keys:
        for key, value in Config().flat().items():
            print(f"{key}={json.dumps(value) if value is None or isinstance(value, bool) else value}")
        return
    overrides = parse_assignments(word for word in arguments.words if "=" in word)
    files = [word for word in arguments.words if "=" not in word]
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
    check_writable(arguments.results)
    prepare_videos(config, need_labels=False)
    worker.set_ray_environment()
    start_ray()
    try:
        jobs = plan(arguments, config, study)
        given = f" with {', '.join(f'{key}={value}' for key, value in overrides.items())}" if overrides else ""
        console.print(f"training {source}{given}: seeds {', '.join(str(job.config().seed) for job in jobs)}")
        train(jobs, arguments)
    finally:
        ray.shutdown()


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m lacray.train", description="Train one setting in full; rows and checkpoints go to --results."
    )
    result.add_argument("words", nargs="*", metavar="SPACE.yaml | key=value", help="settings; --keys lists them")
    result.add_argument("--best", action="store_true", help="the best setting of a study")
    result.add_argument("--study", help="which study; default: the only one there")
    result.add_argument("--results", default="results", metavar="URI", help="directory or s3://bucket/prefix")
    result.add_argument("--seeds", type=positive, help="train with seeds 0..N-1; default: 3 with --best, else 1")
    result.add_argument("--workers", type=positive, help="ranks; default: one per GPU, or 1")
    result.add_argument("--gpus-per-worker", type=not_negative, help="default: 1 where there are GPUs, else 0")
    result.add_argument("--again", action="store_true", help="train seeds that are done already once more")
    result.add_argument("--keys", action="store_true", help="list every setting with its default, and stop")
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
    known = [name for name in studies(arguments.results) if _has_trials(arguments.results, name)]
    if not known:
        raise UserError(
            f"--best: {arguments.results} holds no study; run python -m lacray.tune first, or give --results"
        )
    study = arguments.study or known[0]
    if arguments.study is None and len(known) > 1:
        raise UserError(
            f"--best: {arguments.results} holds {len(known)} studies; choose with --study {'|'.join(known)}"
        )
    if study not in known:
        raise UserError(f"--study: {study} is not in {arguments.results}; choose from {', '.join(known)}")
    table = read(arguments.results, study)
    metric = next((name for name in table["selected_by"].to_pylist() if name), "objective")
    row = best(table, metric)
    # Settings that this version does not know any more would be an error in every later command.
    values = {key: row[key] for key in known_keys() if key != "seed" and row.get(key) is not None}
    values["fit.epochs"] = values.get("fit.full_epochs") or values["fit.epochs"]
    return values, study, f"the best of study {study} (trial {row['trial']}, {metric} {row[f'metric.{metric}']:.4f})"


def _has_trials(results: str, study: str) -> bool:
    return "tune" in read(results, study)["stage"].unique().to_pylist()


def plan(arguments: argparse.Namespace, config: Config, study: str) -> list[worker.Job]:
    """One job per seed."""
    resources = cluster_capacity()
    gpus = arguments.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if resources.get("GPU", 0) >= 1 else 0.0
    workers = arguments.workers or (max(1, int(resources["GPU"] // gpus)) if gpus else 1)
    cpus = int(resources.get("CPU", 1))
    if workers > cpus or (gpus and workers * gpus > resources.get("GPU", 0)):
        raise UserError(
            f"--workers: {workers} workers need {workers} CPUs and {workers * gpus:g} GPUs, got a cluster with {cpus} "
            f"and {resources.get('GPU', 0):g}; lower --workers or --gpus-per-worker, or add nodes"
        )
    number = arguments.seeds or (3 if arguments.best else 1)
    first = 0 if arguments.seeds or arguments.best else config.seed
    job = worker.Job(
        values=placed(config.flat()),
        results=absolute(arguments.results),
        study=study,
        run_id="",
        stage="train",
        commit=commit(),
        workers=workers,
        gpus_per_worker=gpus,
        cpus_per_worker=max(1, cpus // workers),
        keep_checkpoint=True,
        with_controls=True,
    )
    jobs = []
    for seed in range(first, first + number):
        values = {**job.values, "seed": seed}
        # The name says the setting, so that an interrupted run is found again and another setting is another run.
        setting = json.dumps({key: value for key, value in values.items() if key != "seed"}, sort_keys=True)
        name = f"train-{hashlib.sha256(setting.encode()).hexdigest()[:8]}-s{seed}"
        jobs.append(replace(job, values=values, run_id=name))
    return jobs


def train(jobs: list[worker.Job], arguments: argparse.Namespace) -> None:
    """Run the jobs one after the other, then say what they gave and where it is."""
    for job in jobs:
        seed = job.config().seed
        if _is_done(job) and not arguments.again:
            console.print(f"seed {seed}: done before, kept (--again trains it anew)")
            continue
        own = f"{worker.ray_storage(job.results, job.study)}/{job.run_id}"
        if _is_done(job):
            # Ray answers the name of a finished run with its old result.
            remove_tree(own)
        started = time.time()
        with RunProgress(f"seed {seed}", job.config().fit.epochs) as progress:
            outcome = worker.trainer(job, board=progress.board).fit().return_value or {}  # type: ignore[attr-defined]
        if outcome.get("failed"):
            raise UserError(outcome["error"])
        remove_tree(own)
        console.print(f"seed {seed}: trained in {(time.time() - started) / 60:.1f} min")
    _tell(jobs, arguments)


def _is_done(job: worker.Job) -> bool:
    if job.study not in studies(job.results):
        return False
    rows = last_rows(read(job.results, job.study), stage="train", control="none")
    return any(row["run_id"] == job.run_id and row["status"] == "done" for row in rows)


def _tell(jobs: list[worker.Job], arguments: argparse.Namespace) -> None:
    ids = {f"{job.run_id}{suffix}" for job in jobs for suffix in ("", "-untrained", "-positions")}
    rows = [
        r for r in last_rows(read(jobs[0].results, jobs[0].study), stage="train", split="val") if r["run_id"] in ids
    ]
    table = Table(title=f"val split, mean over seeds ({len(jobs)})", title_justify="left")
    table.add_column("encoder")
    columns = [f"{protocol}.{name}" for protocol in ("full", "cropped") for name in SHOWN_METRICS]
    columns = [name for name in columns if any(row.get(f"metric.{name}") is not None for row in rows)]
    for name in columns:
        table.add_column(name.replace(".", "\n"), justify="right")
    for control, label in (("none", "trained"), ("untrained", "untrained encoder"), ("positions", "positions only")):
        values = [[row[f"metric.{name}"] for row in rows if row["control"] == control] for name in columns]
        cells = [[value for value in column if value is not None] for column in values]
        table.add_row(label, *(f"{100 * sum(cell) / len(cell):.1f}" if cell else "-" for cell in cells))
    console.print(table)
    where = "" if arguments.results == "results" else f" --results {arguments.results}"
    console.print(f"rows: {shown(arguments.results)}/{jobs[0].study}/*.parquet")
    for job in jobs:
        console.print(f"checkpoint: {shown(checkpoint_uri(arguments.results, job.study, job.run_id))}")
    console.print("next:", style="bold")
    console.print(f"  python analysis/report.py{where}")


if __name__ == "__main__":
    guarded(main)
