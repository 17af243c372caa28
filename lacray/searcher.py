"""What Tune pickles with a study: the link to Optuna, and the last word on trials that did not reach their end."""

from __future__ import annotations

from typing import Any

from optuna.trial import TrialState
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from lacray import worker
from lacray.progress import outcome, run_id
from lacray.results import RunWriter


class Searcher(OptunaSearch):
    """OptunaSearch that tells Optuna the truth: pruned trials as PRUNED, failed ones as FAIL, steps as epochs.

    Ray's own tells trials that the scheduler stopped as COMPLETE with their early value, which misleads TPE.
    """

    def __init__(self, *args: Any, epochs: int, **kwargs: Any) -> None:
        self.epochs = epochs
        super().__init__(*args, **kwargs)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        params = super().suggest(trial_id)
        return None if params is None else {**params, "trial": self._ot_trials[trial_id].number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        value = result.get(self.metric)
        trial = self._ot_trials[trial_id]
        # A trial that goes on after a failure reports its last epochs again.
        if (
            worker.is_finite(value)
            and result["epoch"] not in trial.storage.get_trial(trial._trial_id).intermediate_values
        ):
            trial.report(value, result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._completed_trials:
            return
        result = result or {}
        # Tune does not show the searcher the result on which the scheduler stopped a trial.
        self.on_trial_result(trial_id, result)
        value = result.get(self.metric)
        if error or result.get("failed") or not worker.is_finite(value):
            state, told = TrialState.FAIL, None
        elif result.get("epoch", 0) < self.epochs:
            state, told = TrialState.PRUNED, None
        else:
            state, told = TrialState.COMPLETE, value
        assert self._ot_study is not None
        self._ot_study.tell(self._ot_trials[trial_id], told, state=state)
        self._completed_trials.add(trial_id)


class Closer(tune.Callback):
    """Writes the last word on a trial that did not reach its end itself: pruned by the scheduler, or lost."""

    def __init__(self, results: str, study: str, epochs: int) -> None:
        self.results, self.study, self.epochs = results, study, epochs

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if outcome(trial, self.epochs) == "pruned":
            self._close(trial, "pruned", None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = str(trial.get_error() or "").strip().splitlines()
        self._close(trial, "failed", reason[-1] if reason else "the worker was lost")

    def _close(self, trial: Any, status: str, error: str | None) -> None:
        epoch = trial.last_result.get("epoch", 0)
        writer = RunWriter(self.results, self.study, run_id(trial), resume_epoch=self.epochs)
        base = {key: value for key, value in (writer.rows[-1] if writer.rows else {}).items() if _is_identity(key)}
        job = worker.trial_job(trial.config)
        own = {key: getattr(job, key) for key in ("space", "selected_by", "variant", "trial")}
        writer.append(
            [
                {
                    "stage": "tune",
                    "control": "none",
                    **own,
                    **base,
                    "epoch": epoch,
                    "status": status,
                    "error": error,
                    "seed": job.config().seed,
                }
            ]
        )


def _is_identity(key: str) -> bool:
    return key not in ("split", "time", "epoch", "status", "error") and not key.startswith(("metric.", "part.", "gap."))
