"""A study driven with Ray Tune: trials are started, watched and, where they hang, ended; Ray itself is watched too."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lacray import worker
from lacray.cli import console, tell, warn
from lacray.config import UserError
from lacray.exits import advice
from lacray.nodes import Plan
from lacray.results import manifest_exists
from lacray.study.aside import Aside, close_all
from lacray.study.show import StudyView
from lacray.study.study import Study
from lacray.study.trials import Trial
from lacray.study.tuning import EarlyStopping, EndOfStudy, Listener, Suggestions
from lacray.watch import ClusterLostError, Watch, interrupt_main, leave, ray_is_there

MAX_RESTARTS = 5
# Between two looks at what changes slowly: the manifest, the number of nodes.
SLOW_CHECK_S = 15.0
# What the watch waits for the place of the results: all else that it looks at waits with it.
CHECK_PATIENCE_S = 5.0


class Driver:
    """Runs an opened study on the Ray that this process has joined.

    Args:
        study: opened.
        plan: what a worker gets, and how many trials go on at once.
        asides: copies of the study for other tools.
        time_limit: seconds of silence after which a trial counts as hanging; None: from the longest seen.
        price: dollars a node and hour; None: no cost is shown.
    """

    def __init__(
        self,
        study: Study,
        plan: Plan,
        *,
        asides: list[Aside],
        time_limit: float | None = None,
        price: float | None = None,
    ) -> None:
        self.study, self.plan, self.asides, self.time_limit, self.price = study, plan, asides, time_limit, price
        self.is_nested = study.options.workers > 1
        self.view = StudyView(console, study)
        self.problem: Exception | None = None
        self._referee: Any = None
        self._referee_name = f"lacray-referee-{study.manifest['id']}"
        self._noted: set[str] = set()
        self._hung: dict[int, int] = {}
        self._retries: dict[int, int] = {}
        # Trials of several workers that were stopped early, and are in the epoch after which they end.
        self._leaving: set[int] = set()
        self._slow_check = time.monotonic()
        self._place = study.place.patient(CHECK_PATIENCE_S)

    def run(self) -> None:
        """Run the trials to their end.

        Raises:
            UserError: what keeps the study from going on; everything that was stored stays.
        """
        study, plan = self.study, self.plan
        study.begin()
        study.followers = [*self.asides, self.view]
        for aside in self.asides:
            aside.begin(study.trials)
        if study.num_over:
            console.print(f"finished already: {study.num_over} of {study.num_trials} trials")
        searched = ", ".join(study.space.distributions()) or "nothing"
        tell(
            f"study {study.name}: {study.num_trials} trials over {searched}; {plan.concurrent} at once, "
            f"workers {study.options.workers}, CPUs per worker {plan.cpus_per_worker}, "
            f"GPUs per worker {plan.gpus_per_worker:g}"
        )
        self.study.advise()
        scratch = worker.new_scratch()
        if self.is_nested:
            self._referee = worker.actor_here(worker.Referee, self._referee_name)
        checks = [ray_is_there(), self._check_study, self._check_silence, self._check_slowly]
        try:
            with self.view, Watch(checks, self._on_problem):
                self._fit(str(scratch))
        except KeyboardInterrupt:
            # The watch wakes the main thread so, too.
            if self.problem is None:
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            close_all(self.asides)
        if self.problem is not None:
            raise self.problem

    def _fit(self, scratch: str) -> None:
        """Tune (2.60) starts a trial anew whose process died, but gives up where Ray's memory monitor ended it.

        Nor does it ask for more, once it was told that there are none.
        """
        for _ in range(MAX_RESTARTS):
            why, remedy = "Ray Tune ended before its trials", "go on"
            try:
                self._tuner(scratch).fit()
                if self.problem is not None or self.study.num_over >= self.study.num_trials:
                    return
            except RuntimeError as error:
                if not isinstance(error.__cause__, ray.exceptions.OutOfMemoryError):
                    raise
                why, remedy = "a node ran out of memory", "lower --concurrent, and go on"
            self.view.say(f"{why}; those that were going on do so from their checkpoints", "yellow")
            self._leaving.clear()
            self.study.requeue()
        raise UserError(f"study {self.study.name}: {MAX_RESTARTS} times {why}; {remedy}: {self.study.resume_command()}")

    def _tuner(self, scratch: str) -> tune.Tuner:
        if self.is_nested:
            # The driver of a nested trial holds no CPU (that deadlocks a full cluster) and stays on the head node.
            bundle: dict[str, float] = {"cpu": 0, "node:__internal_head__": 0.001}
        else:
            bundle = {"cpu": self.plan.cpus_per_worker, "gpu": self.plan.gpus_per_worker}
        return tune.Tuner(
            tune.with_resources(worker.trial, bundle),
            param_space={"scratch": scratch, "referee": self._referee_name},
            tune_config=tune.TuneConfig(
                search_alg=Suggestions(self, self.study.space.metric),
                scheduler=EarlyStopping(self),
                num_samples=-1,
                max_concurrent_trials=self.plan.concurrent,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=self._max_failures),
                callbacks=[Listener(self)],
                stop=EndOfStudy(self),
                verbose=0,
            ),
        )

    @property
    def _max_failures(self) -> int:
        # The ranks of a nested trial have been started again by Train before.
        return 1 if self.is_nested else worker.MAX_FAILURES

    # --- what Tune asks and tells ------------------------------------------------------------------------------------

    def next_trial(self) -> dict[str, Any] | None:
        """Tune's parameters of the next trial."""
        return self._guarded(self._next_trial)

    def _next_trial(self) -> dict[str, Any] | None:
        trial = self.study.next_trial() if self.problem is None else None
        if trial is None:
            return None
        trial.heard = time.monotonic()
        cpus, gpus = self.plan.cpus_per_worker, self.plan.gpus_per_worker
        return {"run": self.study.run_of(trial, cpus_per_worker=cpus, gpus_per_worker=gpus).as_dict()}

    def on_report(self, number: int, result: dict[str, Any]) -> bool:
        """Whether a trial is stopped early."""
        return bool(self._guarded(lambda: self._on_report(number, result)))

    def _on_report(self, number: int, result: dict[str, Any]) -> bool:
        if "epoch" not in result:
            # The last words of one that could not end well.
            return False
        note = result.get("note")
        if note and note not in self._noted:
            self._noted.add(note)
            self.view.say(note, "yellow")
        if number in self._leaving:
            self.study.trials[number].show_life(result, time.monotonic())
            return False
        stop = self.study.report(number, result)
        if stop and self.is_nested:
            # It ends by itself, after the epoch that it is in.
            self._referee.stop.remote(number)
            self._leaving.add(number)
            return False
        return stop

    def on_return(self, number: int, result: dict[str, Any]) -> None:
        """A trial's function has returned, or was stopped early."""
        self._guarded(lambda: self._on_return(number, result))

    def _on_return(self, number: int, result: dict[str, Any]) -> None:
        self._leaving.discard(number)
        if result.get("ended") == "refused" and not self.study.trials[number].is_over:
            lines = str(result["error"]).splitlines()
            self.stop(
                UserError([*lines, f"study {self.study.name}: mend it, and go on: {self.study.resume_command()}"])
            )
        elif self.problem is None:
            self.study.returned(number, result.get("ended"), result.get("error"))
            self.study.advise()

    def on_retry(self, number: int) -> None:
        """A trial's process was lost; Tune starts it again, once there is room for it."""
        trial = self.study.trials[number]
        if trial.is_over:
            return
        self._retries[number] = self._retries.get(number, 0) + 1
        trial.state, trial.heard = "waiting", time.monotonic()
        self.view.say(f"trial {number}: its process was lost; it goes on from its checkpoint", "yellow")

    def on_loss(self, number: int, reason: str) -> None:
        """Tune has given a trial up."""
        self._leaving.discard(number)
        if self.study.trials[number].is_over:
            # One of several workers that was stopped early, lost in the epoch that it was in.
            return
        if self._retries.get(number, 0) < self._max_failures:
            # Too early, and told: its process died when it was given this trial after another one.
            self._retries[number] = self._retries.get(number, 0) + 1
            self._guarded(lambda: self.study.put_back(number))
            return
        times = self._hung.get(number)
        why = f"it gave no sign of life, {times} times" if times else reason
        self._guarded(lambda: self.study.lost(number, why))

    def _guarded(self, step: Callable[[], Any]) -> Any:
        """A fault of a study must not reach Tune, which would give up all trials with a page of its own words."""
        try:
            return step()
        except Exception as error:
            self.stop(error)
            return None

    def stop(self, problem: Exception) -> None:
        """End the study, its trials as they are; the first problem is the one that is told."""
        if self.problem is None:
            self.problem = problem

    # --- what the watch looks at -------------------------------------------------------------------------------------

    def _check_study(self) -> Exception | None:
        self.view.tick()
        if self.study.lease.lost.is_set():
            return UserError(f"study {self.study.name}: another driver has taken it over; this one ends")
        return self.study.problem

    def _check_slowly(self) -> Exception | None:
        now = time.monotonic()
        if now - self._slow_check < SLOW_CHECK_S:
            return None
        if self.price is not None:
            nodes = sum(node["Alive"] for node in ray.nodes())
            self.view.cost = (self.view.cost or 0.0) + self.price * nodes * (now - self._slow_check) / 3600
        self._slow_check = now
        if not manifest_exists(self._place, self.study.name):
            where = self.study.options.results
            return UserError(
                f"study {self.study.name}: its study.json is gone from {where}; restore the results, or begin anew"
            )
        return None

    def _check_silence(self) -> None:
        """End the processes of a trial that hangs: Tune starts it again, and it goes on from its checkpoint."""
        now = time.monotonic()
        for trial in list(self.study.trials):
            limit, whose = self._silence_limit(trial)
            is_leaving = trial.number in self._leaving
            if (trial.is_over and not is_leaving) or not trial.heard or now - trial.heard <= limit:
                continue
            trial.heard = now
            processes = trial.processes
            if trial.state != "running" and not is_leaving:
                # It waits for room, or for the process of an earlier trial, which hangs.
                processes = [] if self.is_nested else self.study.trials.take_idle_processes()
                if not processes:
                    continue
            self._hung[trial.number] = self._hung.get(trial.number, 0) + 1
            told = f"trial {trial.number}: no sign of life for {limit:.0f} s ({whose})"
            then = "it was to end early" if is_leaving else "it goes on from its checkpoint"
            self.view.say(f"{told}; its processes are ended, {then}", "yellow")
            _end_processes(processes)

    def _silence_limit(self, trial: Trial) -> tuple[float, str]:
        if self.time_limit is not None:
            return self.time_limit, "--time-limit"
        limit, whose = self.study.trials.silence_limit(trial.number)
        # One that was slow, not stuck, gets to its next checkpoint in the end.
        times = self._hung.get(trial.number, 0)
        return limit * 2**times, whose + ", doubled each time that it was ended" * bool(times)

    def _on_problem(self, problem: Exception) -> None:
        self.stop(problem)
        if isinstance(problem, ClusterLostError):
            # The main thread may be deep in Ray, which waits for what is gone.
            self.view.__exit__()
            self.study.close()
            leave(f"{problem}; {advice.text}", 3)
        interrupt_main()


def _end_processes(processes: list[tuple[str, int]]) -> None:
    here = ray.get_runtime_context().get_node_id()
    for node, pid in processes:
        if node == here:
            worker.end_process(pid)
        else:
            where = NodeAffinitySchedulingStrategy(node, soft=False)
            ray.remote(num_cpus=0)(worker.end_process).options(scheduling_strategy=where).remote(pid)


def open_asides(study: Study, storage: str | None, tensorboard: str | None, mlflow: str | None) -> list[Aside]:
    """The copies of a study that were asked for.

    Args:
        storage: URL of an Optuna storage; None: a SQLite file beside local results, in the cache for others.
        tensorboard: a directory.
        mlflow: URL of a tracking server.
    """
    from lacray.study.loggers import MlFlow, TensorBoard
    from lacray.study.view import OptunaView

    owner = study.manifest["id"]
    asides: list[Aside] = [OptunaView(storage or study.default_storage(), study.name, owner, study.space, warn)]
    if tensorboard is not None:
        asides.append(TensorBoard(tensorboard, study.name, warn))
    if mlflow is not None:
        asides.append(MlFlow(mlflow, study.name, owner, warn))
    return asides
