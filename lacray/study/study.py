"""A study without who computes it: opened from the results, asked what comes next, told what became of it.

The results are the truth: what is decided here follows from them, and is written there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from sqlalchemy.engine import URL

from lacray.cache import cache_dir, can_write, temporary_dir
from lacray.cli import absolute, commit, shell, warn
from lacray.config import Config, ConfigError, UserError
from lacray.exits import advice
from lacray.fit import check_batch
from lacray.metrics import OBJECTIVE, PROTOCOLS
from lacray.results import (
    Lease,
    Place,
    ResultsError,
    RunWriter,
    control_setting,
    has_rows,
    read,
    read_manifest,
    remove_checkpoint,
    remove_end,
    studies,
    write_end,
    write_manifest,
)
from lacray.run import CONTROLS, Run
from lacray.study.ahead import look_ahead
from lacray.study.manifest import check_same, check_whole, grow, new_manifest, space_of, versions
from lacray.study.outbox import Outbox
from lacray.study.sampler import Sampler
from lacray.study.space import VARIANT, Space
from lacray.study.trials import Trial, Trials, changed_defaults, recorded, run_name

LAST_WRITES_S = 10.0


@dataclass(frozen=True)
class Options:
    """Where and how a study runs; none of it changes what comes out."""

    results: str = "results"
    workers: int = 1
    trials: int | None = None
    resume: bool = False


class Follower(Protocol):
    """Who is told of what happens in a study."""

    def ask(self, trial: Trial) -> None: ...

    def report(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None: ...

    def tell(self, trial: Trial) -> None: ...


class Study:
    """One study: `open` takes its lease, `begin` writes that it has begun, `close` gives the lease back.

    Args:
        name: of the study.
        space: what is searched; None: as its manifest has it.
        options: where and how.
    """

    def __init__(self, name: str, space: Space | None, options: Options) -> None:
        self.name, self.options = name, options
        self.place = Place(absolute(options.results), tell=warn)
        self.lease = Lease(self.place, f"{name}/lease.json", {"study": name})
        self.followers: list[Follower] = []
        self._given_space = space
        self._unfinished: list[Trial] = []
        self._to_forget: set[int] = set()
        self._scored: set[str] = set()
        self._scoring: dict[str, int] = {}
        self._has_begun = False
        self._outbox = Outbox(f"ends of study {name}")

    # --- open and close ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Compare the manifest, take the lease, and read what there is; writes nothing that stays.

        Raises:
            UserError: the study is there already, is another, is driven by somebody else, or cannot be run as it is.
        """
        manifest = read_manifest(self.place, self.name)
        self._check_place(manifest)
        if manifest is not None:
            check_whole(manifest, self.name)
        self.space = self._given_space or space_of(manifest or {}, self.name)
        videos = look_ahead(self.space, self.options.workers)
        asked = self._asked()
        # What follows must not depend on the folder that the command was given in.
        self.space = self.space.placed()
        self.config = self.space.config(self.space.first_params())
        if manifest is not None:
            check_same(manifest, self.space, asked, videos, self.name)
        self.lease.acquire(warn)
        if read_manifest(self.place, self.name) != manifest:
            # Minutes may have passed, while videos were rendered or the lease was watched.
            told = "has begun or grown elsewhere this very moment; --resume goes on with it"
            raise UserError(f"study {self.name}: {told}")
        self._is_new = manifest is None
        if manifest is None:
            manifest = new_manifest(self.space, asked or self.space.trials, videos, commit())
        self.manifest = manifest
        self.num_trials = max(asked or 0, manifest["trials"])
        now = versions()
        changed = [
            f"{name} {was}, now {now.get(name)}" for name, was in manifest["versions"].items() if now.get(name) != was
        ]
        if changed:
            warn(f"study {self.name}: began with {', '.join(changed)}: its rows name the versions that made them")
        self._gather()
        if not self._is_new:
            self.advise()

    def advise(self) -> None:
        """Keep at hand how to go on, for when this is interrupted."""
        told = f"{self.num_over} of {self.num_trials} trials are over, all of it is stored"
        advice.text = f"{told}; go on: {self.resume_command()}"

    def begin(self) -> None:
        """Write the manifest of a new study, or that it has grown, when nothing keeps trials from starting any more.

        Raises:
            UserError: another driver has been faster.
        """
        if self._is_new and not write_manifest(self.place, self.name, self.manifest):
            raise UserError(f"study {self.name}: has begun elsewhere this very moment; --resume goes on with it")
        if self.num_trials > self.manifest["trials"]:
            grow(self.place, self.name, self.num_trials)
            self.manifest["trials"] = self.num_trials
        self._is_new, self._has_begun = False, True

    def close(self) -> None:
        """Write what is not written yet, and let others drive the study."""
        if not self._outbox.flush(LAST_WRITES_S):
            warn(f"study {self.name}: not all ends of trials could be written; --resume decides them again")
        if self._has_begun:
            self._sweep()
        self.lease.release()

    def _sweep(self) -> None:
        """Remove the checkpoints of trials that are over: one that is ended may have been storing at that moment."""
        place = self.place.patient(LAST_WRITES_S)
        over = {run_name(trial.number) for trial in self.trials if trial.is_over and trial.is_final}
        with contextlib.suppress(ResultsError):
            for entry in place.list(f"{self.name}/checkpoints/"):
                run_id = PurePosixPath(entry.key).stem
                if run_id in over:
                    remove_checkpoint(place, self.name, run_id)

    def _check_place(self, manifest: dict[str, Any] | None) -> None:
        where = self.options.results
        if manifest is not None:
            if not self.options.resume:
                raise UserError(
                    f"study {self.name}: is in {where} already; --resume goes on with it, --study NAME starts another"
                )
            return
        if any(row["stage"] == "tune" for row in self._rows()):
            raise UserError(
                f"study {self.name}: has trials in {where} and no study.json that says what they are; restore it, or "
                "begin another: --study NAME"
            )
        if self.options.resume and self._given_space is None:
            known = studies(where)
            there = f"choose from {', '.join(known)}" if known else "there is none"
            raise UserError(f"--study: {self.name} is not in {where}; {there}")
        if self.options.resume:
            warn(f"study {self.name}: nothing of it is in {where}; it begins now")

    def _asked(self) -> int | None:
        """--trials, unless the space has a number of its own."""
        asked, own, most = self.options.trials, self.space.trials, self.space.num_settings()
        if asked is None or asked == own:
            return asked
        if self.space.sampler == "grid" or not self.space.distributions():
            kind = f"a grid of {own} points" if self.space.distributions() else "one setting, with nothing to search"
            raise UserError(f"--trials: {self.space.name} is {kind}, got {asked}; leave it out")
        if asked > most:
            raise UserError(
                f"--trials: {self.space.name} has {most:.0f} settings, and each is tried once, got {asked}; give "
                f"{most:.0f} at most"
            )
        return asked

    def _gather(self) -> None:
        """The trials that there are; what an earlier driver left undecided is decided as it would have been."""
        rows = self._rows()
        if changed := changed_defaults(rows, self.space):
            raise UserError(
                [
                    f"study {self.name}: cannot go on as another study: its trials have {key} {was}, which is left to "
                    f"the default, now {now}"
                    for key, (was, now) in sorted(changed.items())
                ]
                + [f"study {self.name}: go on with the version of lacray that began it, or begin another: --study NAME"]
            )
        given_up = {PurePosixPath(stored.key).stem for stored in self.place.list(f"{self.name}/ends/")}
        every = self.config.fit.evaluate_every
        stops_early = self.space.sampler == "tpe" and every < self.config.fit.epochs
        self.trials = Trials(recorded(rows, self.space, given_up=given_up), every=every if stops_early else None)
        there = {row["run_id"] for row in rows if row["stage"] == "tune" and row["control"] != "none"}
        prefixes = {run_id.rpartition("-")[0] for run_id in there}
        self._scored = {own for own in prefixes if all(f"{own}-{control}" in there for control in CONTROLS)}
        self.sampler = Sampler(self.space, seed=self.manifest["seed"], num_trials=self.num_trials)
        for trial in self.trials:
            if trial.state == "failed" and not trial.is_final:
                trial.state, trial.error = "waiting", None
                self._to_forget.add(trial.number)
            self.sampler.add(trial)
            if not trial.is_over and self.trials.should_stop(trial.number, trial.epoch):
                self.end(trial, "pruned")
        # What was lost before its first row is suggested again when all others are known: none of them is tried twice.
        for number in range(max((trial.number for trial in self.trials), default=-1)):
            if number not in self.trials:
                self._suggest(number)
        self._unfinished = [trial for trial in self.trials if not trial.is_over]
        self._check_unfinished()

    def _check_unfinished(self) -> None:
        """Trials that were cut off are not lost by --workers that they were not begun with."""
        problems: list[str] = []
        for trial in self._unfinished:
            try:
                self._config(trial.params)
            except ConfigError as error:
                problems += [f"trial {trial.number}: {line}" for line in error.problems]
        if problems:
            raise UserError(problems)

    def _rows(self) -> list[dict[str, Any]]:
        return read(self.place.uri, self.name).to_pylist() if has_rows(self.place, self.name) else []

    # --- what comes next ---------------------------------------------------------------------------------------------

    @property
    def num_over(self) -> int:
        return self.trials.count("done", "pruned", "failed")

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to run; what was lost may be tried again."""
        return not self._unfinished and len(self.trials) >= self.num_trials

    def requeue(self) -> None:
        """Trials that were going on are to be taken up again, before new ones."""
        self._unfinished = [trial for trial in self.trials if not trial.is_over]
        for trial in self._unfinished:
            trial.state, trial.heard = "waiting", 0.0

    def put_back(self, number: int) -> None:
        """A trial is to be taken up again, next."""
        trial = self.trials[number]
        trial.state, trial.heard = "waiting", 0.0
        self._unfinished.insert(0, trial)

    def next_trial(self) -> Trial | None:
        """The next trial to run: first those that were cut off, under their old numbers; None: there is none left."""
        while self._unfinished:
            trial = self._unfinished.pop(0)
            if trial.is_over:
                continue
            if trial.number in self._to_forget:
                self._to_forget.remove(trial.number)
                self._outbox.put(partial(remove_end, self.place, self.name, run_name(trial.number)))
            return trial
        while len(self.trials) < self.num_trials:
            found = self._suggest(len(self.trials))
            if found is None:
                warn(f"study {self.name}: every setting was tried; it ends with {len(self.trials)} trials")
                self.num_trials = len(self.trials)
            elif not found.is_over:
                return found
        return None

    def _suggest(self, number: int) -> Trial | None:
        """A new trial; one whose setting no run can have fails at once."""
        params = self.sampler.suggest(number)
        if params is None:
            return None
        trial = self.trials.add(Trial(number, params, self.config.fit.epochs))
        for follower in self.followers:
            follower.ask(trial)
        try:
            trial.epochs = self._config(params).fit.epochs
        except ConfigError as error:
            self.end(trial, "failed", "; ".join(error.problems), is_final=True)
        return trial

    def _config(self, params: Mapping[str, Any]) -> Config:
        """The setting of a trial, which this study's workers can run.

        Raises:
            ConfigError: they cannot.
        """
        config = self.space.config(params)
        check_batch(config, self.options.workers)
        return config

    def run_of(self, trial: Trial, *, gpus_per_worker: float = 0, cpus_per_worker: int = 1) -> Run:
        """A trial as a run; the first scores the controls too, in a grid the first of each encoder, data and seed."""
        setting = self.space.config(trial.params)
        controls: dict[str, Any] = {}
        # A search compares its trials with one pair of controls; the cells of a grid are each shown beside their own.
        same = setting if self.space.sampler == "grid" else self.config
        own = controls_name(same.flat())
        if own not in self._scored and self._scoring.setdefault(own, trial.number) == trial.number:
            controls = {"run_id": own, "values": same.flat()}
        return Run(
            values=setting.flat(),
            results=self.place.uri,
            study=self.name,
            run_id=run_name(trial.number),
            stage="tune",
            space=self.space.name,
            selected_by=self.space.metric,
            variant=trial.params.get(VARIANT),
            trial=trial.number,
            commit=commit(),
            workers=self.options.workers,
            gpus_per_worker=gpus_per_worker,
            cpus_per_worker=cpus_per_worker,
            controls=controls,
        )

    # --- what became of it -------------------------------------------------------------------------------------------

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        """What a trial reached in an epoch -> whether it is stopped early."""
        trial = self.trials[number]
        if trial.is_over:
            return False
        epoch = result["epoch"]
        is_new = epoch > max(trial.losses, default=0)
        self.trials.hear(number, result, self.space.metric, time.monotonic())
        if epoch > 0:
            self._scored |= {own for own, scorer in self._scoring.items() if scorer == number}
        if is_new:
            if epoch in trial.values:
                self.sampler.report(number, trial.values[epoch], epoch)
            metrics = {key: float(value) for key, value in result.items() if _is_metric(key, value)}
            for follower in self.followers:
                follower.report(trial, epoch, metrics)
        if not is_new or not self.trials.should_stop(number, epoch):
            return False
        self.end(trial, "pruned")
        return True

    def returned(self, number: int, ended: str | None, error: str | None) -> None:
        """A trial's function has returned: its run is over, or cannot be."""
        trial = self.trials[number]
        if trial.is_over:
            return
        if ended == "failed":
            self.end(trial, "failed", error, is_final=True)
        elif trial.epoch >= trial.epochs:
            self.end(trial, "done")
        else:
            self.end(trial, "failed", f"it ended at epoch {trial.epoch} of {trial.epochs} without a word")

    def lost(self, number: int, reason: str) -> None:
        """A trial's processes were lost too often; `--resume` tries it again."""
        self._scoring = {own: scorer for own, scorer in self._scoring.items() if scorer != number}
        self.end(self.trials[number], "failed", reason)

    def end(self, trial: Trial, state: str, error: str | None = None, *, is_final: bool = False) -> None:
        """A trial is over: told to all, and written, but where its run has written it itself."""
        trial.state, trial.error, trial.is_final = state, error, is_final or state != "failed"
        self.sampler.tell(trial)
        if state != "done":
            write = _write_own_failure if is_final else write_end
            self._outbox.put(partial(write, self.place, self.name, run_name(trial.number), self._end_row(trial)))
        for follower in self.followers:
            follower.tell(trial)

    def _end_row(self, trial: Trial) -> dict[str, Any]:
        """The driver's last word on a trial, which may never have written one of its own."""
        variant = trial.params.get(VARIANT)
        values = {**self.config.flat(), **self.space.variants.get(str(variant), {}), **trial.params}
        values.pop(VARIANT, None)
        return {
            "stage": "tune",
            "control": "none",
            "space": self.space.name,
            "selected_by": self.space.metric,
            "variant": variant,
            "trial": trial.number,
            "seed": values.pop("seed"),
            "epoch": trial.epoch,
            "status": trial.state,
            "error": trial.error,
            **values,
        }

    @property
    def problem(self) -> UserError | None:
        """What keeps the results from being written."""
        return self._outbox.problem

    def default_storage(self) -> str:
        """URL of the Optuna storage that shows the study, where none is given."""
        folder = Path(absolute(self.options.results))
        if "://" in self.options.results:
            folder = cache_dir() if can_write(cache_dir()) else temporary_dir()
        return URL.create("sqlite", database=str(folder / "optuna.db")).render_as_string(hide_password=False)

    def resume_command(self) -> str:
        """How to go on, as it can be pasted."""
        where = [] if self.options.results == "results" else ["--results", self.options.results]
        grown = ["--trials", str(self.num_trials)] if self.num_trials > self.manifest["trials"] else []
        workers = ["--workers", str(self.options.workers)] if self.options.workers > 1 else []
        return shell("python", "-m", "lacray.tune", "--resume", "--study", self.name, *where, *grown, *workers)


def _write_own_failure(place: Place, study: str, run_id: str, row: Mapping[str, Any]) -> None:
    """Says that a run failed by its own setting: among its rows, since it is not tried again as one with an end is."""
    writer = RunWriter(place, study, run_id, keep_until=sys.maxsize)
    if writer.rows:
        writer.mark("failed", row["error"])
    else:
        writer.append([row])
    remove_checkpoint(place, study, run_id)


def controls_name(setting: Mapping[str, Any]) -> str:
    """The prefix of the runs of a setting's controls."""
    told = json.dumps(control_setting(setting), sort_keys=True)
    return f"control-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def _is_metric(key: str, value: Any) -> bool:
    return key in ("loss", OBJECTIVE.name) or key.startswith(tuple(f"{protocol}." for protocol in PROTOCOLS))
