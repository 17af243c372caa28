"""`python -m lacray.tune`: a study. Ray Tune runs the trials, Optuna chooses them, evaluations become Parquet rows."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

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
from lacray.config import ConfigError, UserError, cache_dir, parse_assignments
from lacray.progress import StudyProgress, short, trial_table
from lacray.results import best, check_writable, last_rows, read, remove_tree, studies
from lacray.searcher import Closer, Searcher
from lacray.study import VARIANT, Space, find_space, load_space

DEFAULT_SPACE = "lac.yaml"
MAX_OUT_OF_MEMORY = 5


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    overrides = parse_assignments(argument for argument in arguments.words if "=" in argument)
    files = [argument for argument in arguments.words if "=" not in argument] or [DEFAULT_SPACE]
    spaces: list[Space] = []
    problems: list[str] = []
    for file in files:
        try:
            spaces.append(load_space(find_space(file), overrides))
        except ConfigError as error:
            problems += error.problems
    if arguments.study is not None and len(files) > 1:
        problems.append(f"--study: names one study, got {len(files)} search spaces; give one, or leave --study out")
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    check_writable(arguments.results)
    known = studies(arguments.results)
    names = [arguments.study or space.name for space in spaces]
    taken = [name for name in names if name in known and not arguments.resume]
    if taken:
        raise UserError(
            f"study {name}: is in {arguments.results} already; --resume goes on with it, --study NAME starts another"
            for name in taken
        )
    for space in spaces:
        prepare_videos(space.config(_first_params(space)), need_labels=True)
    worker.set_ray_environment()
    start_ray()
    try:
        for space, name in zip(spaces, names, strict=True):
            Study(space, name, arguments).run()
    finally:
        ray.shutdown()


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m lacray.tune", description="Study which settings matter: Ray Tune, Optuna, rows to Parquet."
    )
    result.add_argument("words", nargs="*", metavar="SPACE.yaml | key=value", help=f"default: {DEFAULT_SPACE}")
    result.add_argument("--trials", type=positive, help="settings to try; default: the space's")
    result.add_argument("--workers", type=positive, default=1, help="ranks of one trial; default 1")
    result.add_argument("--gpus-per-worker", type=not_negative, help="default: 1 where there are GPUs, else 0")
    result.add_argument("--concurrent", type=positive, help="trials at once; default: as many as fit")
    result.add_argument("--results", default="results", metavar="URI", help="directory or s3://bucket/prefix")
    result.add_argument("--study", help="name; default: the space's")
    result.add_argument("--resume", action="store_true", help="go on with a study that was interrupted, or add trials")
    return result


class Study:
    """One study: its trials, from the first suggestion to the last row."""

    def __init__(self, space: Space, name: str, arguments: argparse.Namespace) -> None:
        self.space, self.name, self.results = space, name, arguments.results
        self.resume = arguments.resume
        self.config = space.config(_first_params(space))
        self.epochs = self.config.fit.epochs
        is_grid = space.sampler == "grid"
        self.num_trials = space.trials if is_grid or arguments.trials is None else arguments.trials
        if is_grid and arguments.trials is not None and arguments.trials != space.trials:
            raise UserError(
                f"--trials: {space.name} is a grid of {space.trials} points, got {arguments.trials}; leave it out"
            )
        resources = cluster_capacity()
        gpus = arguments.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if resources.get("GPU", 0) >= 1 else 0.0
        slots = _slots(resources, arguments.workers, gpus)
        self.concurrent = min(arguments.concurrent or slots, slots, self.num_trials)
        # Cores that would stand idle are shared out: a study of one trial at a time uses them all.
        cpus = max(1, int(resources.get("CPU", 1) // (self.concurrent * arguments.workers)))
        self.job = worker.Job(
            values=placed(space.fixed),
            results=absolute(self.results),
            study=name,
            run_id="",
            stage="tune",
            space=space.name,
            selected_by=space.metric,
            commit=commit(),
            workers=arguments.workers,
            gpus_per_worker=gpus,
            cpus_per_worker=cpus,
        )
        self.storage_url = f"sqlite:///{_optuna_file(self.results)}"

    def run(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.RDBStorage(self.storage_url)
        searched = self.space.distributions()
        console.print(
            f"study {self.name}: {self.num_trials} trials over {', '.join(searched) or 'nothing'}; "
            f"{self.concurrent} at once, workers {self.job.workers}, CPUs per worker {self.job.cpus_per_worker}, "
            f"GPUs per worker {self.job.gpus_per_worker:g}; Optuna store {self.storage_url}"
        )
        if not self.resume:
            # Without rows there is no study: what its name left elsewhere (a cache, Ray's files) is stale.
            remove_tree(worker.ray_storage(self.results, self.name))
            if any(study.study_name == self.name for study in storage.get_all_studies()):
                optuna.delete_study(study_name=self.name, storage=storage)
        controls = self._start_controls()
        experiment = f"{worker.ray_storage(self.results, self.name)}/tune"
        finished = _finished(storage, self.name)
        if finished:
            console.print(f"finished already: {finished} of {self.num_trials} trials")
        if tune.Tuner.can_restore(experiment):
            self._fit(self._restored(experiment), experiment)
        else:
            _close_running(storage, self.name)
        remaining = self.num_trials - _finished(storage, self.name)
        if remaining > 0:
            # A restored study keeps its directory; trials that are added to it get one of their own.
            name = f"tune-{_finished(storage, self.name)}" if tune.Tuner.can_restore(experiment) else "tune"
            self._fit(self._tuner(storage, remaining, name), f"{worker.ray_storage(self.results, self.name)}/{name}")
        ray.get(controls)
        self._tell()

    def _restored(self, experiment: str) -> tune.Tuner:
        return tune.Tuner.restore(experiment, trainable=self._trainable(), resume_unfinished=True, restart_errored=True)

    def _fit(self, tuner: tune.Tuner, experiment: str) -> None:
        """Run the trials; a node that ran out of memory costs the trials on it a restart, not the study.

        Tune (2.60) starts a trial anew whose actor died, but gives up the study where Ray's memory monitor killed it.
        """
        for _ in range(MAX_OUT_OF_MEMORY):
            try:
                tuner.fit()
                return
            except RuntimeError as error:
                if not isinstance(error.__cause__, ray.exceptions.OutOfMemoryError):
                    raise
            console.print("a node ran out of memory; the trials on it go on from their checkpoints", style="yellow")
            tuner = self._restored(experiment)
        raise UserError(
            f"study {self.name}: a node ran out of memory {MAX_OUT_OF_MEMORY} times; lower --concurrent, "
            "data.batch_size or data.cache_gib, and go on with --resume"
        )

    def _trainable(self) -> Any:
        job = self.job
        if job.workers > 1:
            # The driver of a nested trial holds no CPU (that deadlocks a full cluster) and stays on the head node.
            bundle: dict[str, float] = {"cpu": 0, "node:__internal_head__": 0.001}
        else:
            bundle = {"cpu": job.cpus_per_worker, "gpu": job.gpus_per_worker}
        return tune.with_resources(worker.trial, bundle)

    def _tuner(self, storage: optuna.storages.BaseStorage, num_trials: int, name: str) -> tune.Tuner:
        space = self.space
        searcher = Searcher(
            space=space.distributions(),
            metric=space.metric,
            mode="max",
            study_name=self.name,
            storage=storage,
            # Fixed where the first trials differ anyway: the same command suggests the same settings.
            sampler=optuna.samplers.TPESampler(seed=self.config.seed, multivariate=True, constant_liar=True),
            points_to_evaluate=_first_points(space, storage, self.name),
            epochs=self.epochs,
        )
        scheduler: TrialScheduler = FIFOScheduler()
        every = self.config.fit.evaluate_every
        if space.sampler == "tpe" and every < self.epochs:
            scheduler = ASHAScheduler(
                time_attr="epoch",
                max_t=self.epochs,
                grace_period=every,
                reduction_factor=3,
            )
        return tune.Tuner(
            self._trainable(),
            param_space={
                "job": self.job.as_dict(),
                "variants": {name: placed(values) for name, values in space.variants.items()},
            },
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=num_trials,
                max_concurrent_trials=self.concurrent,
                reuse_actors=True,
                metric=space.metric,
                mode="max",
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=worker.ray_storage(self.results, self.name),
                failure_config=tune.FailureConfig(max_failures=self.job.max_failures),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                callbacks=[
                    Closer(self.results, self.name, self.epochs),
                    StudyProgress(self.name, self.num_trials, self.epochs, space.metric, self.num_trials - num_trials),
                ],
                verbose=0,
            ),
        )

    def _start_controls(self) -> Any:
        """The controls are trained on nothing: once a study, beside its first trials."""
        job = replace(self.job, values=placed(self.config.flat()), run_id="control")
        done = {row["control"] for row in self._rows() if row["control"] != "none"}
        if done == {"untrained", "positions"}:
            return ray.put(None)
        remote = ray.remote(num_cpus=0)(worker.controls_task)
        return remote.remote(job.as_dict())

    def _rows(self) -> list[dict[str, Any]]:
        if self.name not in studies(self.results):
            return []
        return last_rows(read(self.results, self.name), split="validation")

    def _tell(self) -> None:
        """The table of trials, the best setting, where everything lies, and what to type next."""
        metric = f"metric.{self.space.metric}"
        table = read(self.results, self.name)
        # A trial that failed early has a last word, but no metric.
        scored = {row["run_id"]: row for row in last_rows(table, stage="tune", split="validation")}
        rows = [scored.get(row["run_id"], row) for row in last_rows(table, stage="tune")]
        trials = sorted((row for row in rows if row["control"] == "none"), key=lambda row: row["trial"])
        searched = list(self.space.distributions())
        title = f"study {self.name}, by {self.space.metric} on the validation videos"
        view = trial_table(title, ["trial", "status", "epoch", self.space.metric, *searched])
        for row in sorted(trials, key=lambda row: -row[metric] if row[metric] is not None else float("inf")):
            value = f"{row[metric]:.4f}" if row[metric] is not None else "-"
            view.add_row(
                str(row["trial"]), row["status"], str(row["epoch"]), value, *(short(row.get(key)) for key in searched)
            )
        for row in rows:
            if row["control"] != "none":
                view.add_row("-", row["control"], "0", f"{row[metric]:.4f}", *["" for _ in searched])
        console.print(view)
        for row in trials:
            if row["error"]:
                console.print(f"trial {row['trial']} failed: {row['error']}", style="yellow")
        winner = best(table, self.space.metric)
        setting = " ".join(f"{key}={short(winner.get(key))}" for key in searched)
        console.print(
            f"best: trial {winner['trial']}, {self.space.metric} {winner[metric]:.4f}: {setting}", style="bold"
        )
        console.print(f"rows: {shown(self.results)}/{self.name}/*.parquet")
        where = "" if self.results == "results" else f" --results {self.results}"
        console.print("next:", style="bold")
        console.print(f"  python -m lacray.train --best --study {self.name}{where}")
        console.print(f"  python analysis/report.py{where}")


def _first_params(space: Space) -> dict[str, Any]:
    return {VARIANT: next(iter(space.variants))} if space.variants else {}


def _first_points(space: Space, storage: optuna.storages.BaseStorage, name: str) -> list[dict[str, Any]]:
    """What is tried before Optuna chooses: a grid's points; else the defaults, so that no study ends below them."""
    known: list[dict[str, Any]] = []
    if any(study.study_name == name for study in storage.get_all_studies()):
        study = optuna.load_study(study_name=name, storage=storage)
        known = [
            trial.system_attrs.get("fixed_params", trial.params)
            for trial in study.get_trials(deepcopy=False)
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.WAITING)
        ]
    if space.sampler == "grid":
        points = _grid_points(space)
    else:
        defaults = space.config(_first_params(space)).flat()
        point = {key: defaults[key] for key in space.search}
        inside = all(kind._contains(kind.to_internal_repr(point[key])) for key, kind in space.search.items())
        points = [point] if inside and not space.variants else []
    return [point for point in points if point not in known]


def _grid_points(space: Space) -> list[dict[str, Any]]:
    import itertools

    grid = space.grid()
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _slots(resources: dict[str, float], workers: int, gpus: float) -> int:
    """Trials that fit at once.

    Raises:
        UserError: not even one does; Ray would wait for ever.
    """
    cpus = int(resources.get("CPU", 0))
    if workers > cpus:
        raise UserError(
            f"--workers: a trial needs {workers} CPUs, got a cluster with {cpus}; lower --workers or add nodes"
        )
    have = resources.get("GPU", 0.0)
    if gpus and workers * gpus > have:
        raise UserError(
            f"--gpus-per-worker: a trial needs {workers * gpus:g} GPUs, got a cluster with {have:g}; "
            "lower it (0 trains on CPUs) or add nodes"
        )
    return max(1, int(min(cpus // workers, have // (workers * gpus) if gpus else cpus)))


def _finished(storage: optuna.storages.BaseStorage, name: str) -> int:
    if all(study.study_name != name for study in storage.get_all_studies()):
        return 0
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    return sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL) for trial in trials)


def _close_running(storage: optuna.storages.BaseStorage, name: str) -> None:
    """Trials that a killed study left running before Tune had saved anything: failed, as far as Optuna goes."""
    if all(study.study_name != name for study in storage.get_all_studies()):
        return
    study = optuna.load_study(study_name=name, storage=storage)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _optuna_file(results: str) -> Path:
    """SQLite beside local results; in the cache for S3, which holds no database."""
    if "://" in results:
        folder = cache_dir() / "optuna" / hashlib.sha256(results.encode()).hexdigest()[:12]
    else:
        folder = Path(results).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "optuna.db"


if __name__ == "__main__":
    guarded(main)
