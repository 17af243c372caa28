"""What Ray Tune calls of a study: which trial next, whether one is stopped early, and how each ended.

All of it only passes on to the driver, which decides; nothing is kept here, and nothing is raised into Tune.
"""

from __future__ import annotations

from typing import Any, Protocol

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher


class Decider(Protocol):
    """Who drives a study, as Tune's parts see it."""

    problem: Exception | None

    def next_trial(self) -> dict[str, Any] | None: ...

    def on_report(self, number: int, result: dict[str, Any]) -> bool: ...

    def on_return(self, number: int, result: dict[str, Any]) -> None: ...

    def on_retry(self, number: int) -> None: ...

    def on_loss(self, number: int, reason: str) -> None: ...


class _OfDriver:
    """Belongs to one driver: Tune pickles its parts, but nothing is ever restored from that."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class Suggestions(_OfDriver, Searcher):
    """Tune's searcher: asks the study for the next trial's parameters until there is none."""

    def __init__(self, driver: Decider, metric: str) -> None:
        super().__init__(metric=metric, mode="max")
        self._driver = driver

    def suggest(self, trial_id: str) -> Any:
        params = self._driver.next_trial()
        return Searcher.FINISHED if params is None else params

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The listener sees it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the results are the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: Tune restores no study."""


class EarlyStopping(_OfDriver, FIFOScheduler):
    """Tune's scheduler: stops a trial when the study says so."""

    def __init__(self, driver: Decider) -> None:
        super().__init__()
        self._driver = driver

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stop = self._driver.on_report(number_of(trial), result)
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE


class Listener(_OfDriver, tune.Callback):
    """Tune's callback: how trials end."""

    def __init__(self, driver: Decider) -> None:
        self._driver = driver

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._driver.on_return(number_of(trial), trial.last_result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._driver.on_retry(number_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lines = str(trial.get_error() or "").strip().splitlines()
        self._driver.on_loss(number_of(trial), lines[-1].strip() if lines else "its process was lost")


class EndOfStudy(_OfDriver, tune.Stopper):
    """Tune's stopper: ends all trials when the study cannot go on."""

    def __init__(self, driver: Decider) -> None:
        self._driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._driver.problem is not None


def number_of(trial: Any) -> int:
    number: int = trial.config["run"]["trial"]
    return number
