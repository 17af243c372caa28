"""`python -m lacray.tune`: a study. Ray Tune runs the trials, Optuna chooses them, evaluations become Parquet rows.

`python -m lacray.tune status` shows studies from anywhere, also when nobody drives them any more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

from rich.text import Text

from lacray.cli import console, not_negative, positive, positive_number, shell, shown, tell, warn
from lacray.cluster import check_address, shutting_down, start_ray
from lacray.config import ConfigError, UserError, parse_assignments
from lacray.exits import guarded
from lacray.nodes import Plan, check_shared, default_gpus, plan, read_nodes
from lacray.ops import backend_name
from lacray.results import (
    best,
    check_name,
    check_writable,
    control_setting,
    last_rows,
    read,
    read_manifest,
    studies,
)
from lacray.results.place import as_place
from lacray.study.show import STYLES, new_table, short
from lacray.study.space import Space, find_space, load_space
from lacray.study.status import is_unfinished, show_status
from lacray.study.study import Options, Study

DEFAULT_SPACE = "lac.yaml"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    if arguments.study is not None:
        check_name("study", arguments.study)
    if arguments.words[:1] == ["status"]:
        if arguments.words[1:]:
            raise UserError(f"status: takes --results and --study alone, got {' '.join(arguments.words[1:])}")
        show_status(arguments.results, arguments.study)
        return
    wanted = wanted_studies(arguments)
    if not wanted:
        return
    check_address()
    check_writable(arguments.results)
    # Compiled now, or said now that they cannot be.
    backend_name("cpu")
    options = Options(arguments.results, arguments.workers, arguments.trials, arguments.resume)
    opened: list[Study] = []
    try:
        problems: list[str] = []
        for name, space in wanted:
            opened.append(Study(name, space, resumed(options, name) if len(wanted) > 1 else options))
            try:
                opened[-1].open()
            except UserError as error:
                problems += error.problems
        if problems:
            # What is known now is said now, of all of them, before hours are spent on any.
            raise UserError(dict.fromkeys(problems))
        over = [study for study in opened if len(opened) > 1 and study.is_finished]
        for study in over:
            study.close()
        if over:
            tell(f"finished already: {', '.join(study.name for study in over)}")
        left = [study for study in opened if study not in over]
        if left:
            run(left, arguments)
    finally:
        for study in opened:
            study.close()


def resumed(options: Options, study: str) -> Options:
    """Several studies in one command: the same command goes on with those that have begun, as --resume does."""
    has_begun = read_manifest(as_place(options.results), study) is not None
    return replace(options, resume=options.resume or has_begun)


def run(opened: Sequence[Study], arguments: argparse.Namespace) -> None:
    """Drive the studies with Ray, one after the other.

    Raises:
        UserError: what kept studies from their end; those after them have been driven nevertheless.
    """
    start_ray()
    import ray

    from lacray.study.driver import Driver, open_asides

    problems: list[str] = []
    with shutting_down():
        check_shared(opened[0].place.uri)
        plans = [planned(study, arguments) for study in opened]
        for study, own in zip(opened, plans, strict=True):
            asides = open_asides(study, arguments.storage, arguments.tensorboard, arguments.mlflow)
            try:
                Driver(study, own, asides=asides, time_limit=arguments.time_limit, price=arguments.price).run()
                study.close()
                if study.problem is not None:
                    # The last ends are written when nobody looks any more.
                    raise study.problem
                tell_results(study)
            except UserError as error:
                if len(opened) == 1:
                    raise
                study.close()
                problems += error.problems
                for problem in error.problems:
                    warn(problem)
                if study is not opened[-1]:
                    # What it has left running holds the CPUs that the next one needs; it ends with Ray's job.
                    ray.shutdown()
                    start_ray()
    if problems:
        raise UserError(problems)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m lacray.tune", description="Study which settings matter: Ray Tune, Optuna, rows to Parquet."
    )
    result.add_argument(
        "words",
        nargs="*",
        metavar="SPACE.yaml | key=value | status",
        help=f"default: {DEFAULT_SPACE}; status: show studies",
    )
    result.add_argument("--trials", type=positive, help="settings to try; default: the space's")
    result.add_argument("--workers", type=positive, default=1, help="ranks of one trial; default 1")
    result.add_argument("--gpus-per-worker", type=not_negative, help="default: 1 where there are GPUs, else 0")
    result.add_argument("--concurrent", type=positive, help="trials at once; default: as many as fit")
    result.add_argument("--results", default="results", metavar="URI", help="directory or s3://bucket/prefix")
    result.add_argument("--study", help="name; default: the space's")
    result.add_argument(
        "--resume",
        action="store_true",
        help="go on with studies that were interrupted, or add trials; several spaces in one command do so anyway",
    )
    result.add_argument("--storage", metavar="URL", help="Optuna storage that shows the study; default: a SQLite file")
    result.add_argument("--tensorboard", metavar="DIR", help="write TensorBoard files of the trials there")
    result.add_argument(
        "--mlflow", metavar="URI", help="log the trials to this MLflow server: pip install 'lacray[mlflow]'"
    )
    result.add_argument("--price", type=positive_number, metavar="USD", help="of a node and hour: shows what is spent")
    result.add_argument(
        "--time-limit",
        type=positive_number,
        metavar="SECONDS",
        help="silence after which a trial counts as hanging; default: ten times the longest so far, at least 420",
    )
    return result


def wanted_studies(arguments: argparse.Namespace) -> list[tuple[str, Space | None]]:
    """Name and space of each study to run; with --resume alone, those of the results that are not finished.

    Raises:
        ConfigError: all that is wrong with the spaces.
        UserError: there is nothing to go on with.
    """
    if arguments.resume and not arguments.words:
        if arguments.study is not None:
            return [(arguments.study, None)]
        place = as_place(arguments.results)
        there = [name for name in studies(arguments.results) if read_manifest(place, name) is not None]
        if not there:
            raise UserError(f"--resume: there is nothing to go on with in {arguments.results}: it holds no study")
        if arguments.trials is not None and len(there) > 1:
            raise UserError(f"--trials: must be told which study, got {', '.join(there)}; name it: --study NAME")
        unfinished, unknown = [], []
        for name in there:
            try:
                if arguments.trials is not None or is_unfinished(arguments.results, name):
                    unfinished.append(name)
            except UserError as error:
                # Of another version of lacray, say: that keeps no other study from going on.
                unknown += error.problems
        if unknown and not unfinished:
            raise UserError(unknown)
        for problem in unknown:
            warn(problem)
        if not unfinished:
            tell(f"finished already: {', '.join(there)}; --study NAME --trials N adds to one")
        return [(name, None) for name in unfinished]
    overrides = parse_assignments(word for word in arguments.words if "=" in word)
    files = [word for word in arguments.words if "=" not in word] or [DEFAULT_SPACE]
    spaces: list[Space] = []
    problems: list[str] = []
    for file in files:
        try:
            spaces.append(load_space(find_space(file), overrides))
        except ConfigError as error:
            problems += error.problems
    if arguments.study is not None and len(files) > 1:
        problems.append(f"--study: names one study, got {len(files)} search spaces; give one, or leave --study out")
    names = [arguments.study or space.name for space in spaces]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice and arguments.study is None:
        problems.append(
            f"name: must be another in each search space, got {', '.join(twice)} twice; run them one by one"
        )
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return list(zip(names, spaces, strict=True))


def planned(study: Study, arguments: argparse.Namespace) -> Plan:
    """What each worker of a study gets, and how many trials go on at once."""
    nodes = read_nodes()
    gpus = arguments.gpus_per_worker
    if gpus is None:
        gpus = default_gpus(nodes)
    left = max(1, study.num_trials - study.num_over)
    asked = arguments.concurrent
    found = plan(nodes, workers=arguments.workers, gpus_per_worker=gpus, concurrent=asked, most=left)
    if asked is not None and found.concurrent < min(asked, left):
        warn(f"--concurrent: {asked} trials at once were asked for, and the nodes have room for {found.concurrent}")
    return found


def tell_results(study: Study) -> None:
    """The table of trials, the best setting, where everything lies, and what to type next."""
    results, name, metric = study.options.results, study.name, f"metric.{study.space.metric}"
    table = read(study.place, name)
    # A trial that failed early has a last word, but no metric.
    scored = {row["run_id"]: row for row in last_rows(table, stage="tune", split="validation")}
    rows = [scored.get(row["run_id"], row) for row in last_rows(table, stage="tune")]
    trials = sorted((row for row in rows if row["control"] == "none"), key=lambda row: row["trial"])
    searched = list(study.space.distributions())
    title = f"study {name}, by {study.space.metric} on the validation videos"
    view = new_table(title, ["trial", "status", "epoch", study.space.metric, *searched])

    def cell(row: dict[str, Any]) -> str:
        return f"{row[metric]:.4f}" if row.get(metric) is not None else "-"

    def order(row: dict[str, Any]) -> float:
        return -row[metric] if row.get(metric) is not None else float("inf")

    for row in sorted(trials, key=order):
        settings = (Text(short(row.get(key))) for key in searched)
        status = Text(row["status"], style=STYLES.get(row["status"], ""))
        view.add_row(str(row["trial"]), status, str(row["epoch"]), cell(row), *settings)
    for row in rows:
        if row["control"] != "none":
            own = control_setting(row)
            settings = (Text(short(own[key]) if key in own else "") for key in searched)
            view.add_row("-", row["control"], "0", cell(row), *settings)
    console.print(view)
    for row in trials:
        if row["error"]:
            warn(f"trial {row['trial']} failed: {row['error']}")
    winner = best(table, study.space.metric)
    setting = " ".join(f"{key}={short(winner.get(key))}" for key in searched)
    told = f"best: trial {winner['trial']}, {study.space.metric} {winner[metric]:.4f}"
    tell(f"{told}: {setting}" if setting else told, "bold")
    tell(f"rows: {shown(results)}/{name}/rows/*.parquet")
    where = [] if results == "results" else ["--results", results]
    console.print("next:", style="bold")
    tell("  " + shell("python", "-m", "lacray.train", "--best", "--study", name, *where))
    tell("  " + shell("python", "analysis/report.py", *where))


if __name__ == "__main__":
    guarded(main)
