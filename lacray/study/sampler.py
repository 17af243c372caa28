"""What a study tries next: the points of a grid, or what Optuna's TPE suggests from the trials so far.

A suggestion depends on the study's seed, the trial's number and the recorded trials alone, so that a study taken up
again suggests what it would have suggested.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from lacray.study.space import Space, num_values
from lacray.study.trials import Trial

# Tries of TPE to find a setting that was not tried yet, and then of chance: TPE may be too sure of those that were.
MAX_TRIES = 20
STATES = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Sampler:
    """Settings to try, each once.

    Args:
        space: what is searched.
        seed: of all suggestions.
        num_trials: of the study; a third of them are drawn at random before TPE acts.
        trials: those that there are already, over or not.
    """

    def __init__(self, space: Space, *, seed: int, num_trials: int, trials: Iterable[Trial] = ()) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.seed = space, seed
        self.num_startup = max(1, round(num_trials / 3))
        self._points = space.points() if space.sampler == "grid" else None
        self._default = space.default_point()
        self._kinds = space.distributions()
        self._study = optuna.create_study(direction="maximize")
        self._asked: dict[int, optuna.trial.Trial] = {}
        self._tried: set[tuple[Any, ...]] = set()
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """A trial that was suggested before: its parameters, values and end."""
        self._study.enqueue_trial(trial.params)
        own = self._study.ask(self._kinds)
        self._asked[trial.number] = own
        self._tried.add(self._key(trial.params))
        for epoch in sorted(trial.values):
            own.report(trial.values[epoch], epoch)
        if trial.is_over:
            self.tell(trial)

    def suggest(self, number: int) -> dict[str, Any] | None:
        """The parameters of a new trial; None where there is nothing left that was not tried."""
        if self._points is not None:
            fixed = self._points[number] if number < len(self._points) else None
        elif not self._kinds:
            fixed = {} if not self._tried else None
        elif self._default is not None and number == 0 and self._key(self._default) not in self._tried:
            fixed = self._default
        else:
            return self._sampled(number)
        return None if fixed is None else self._ask(number, fixed)

    def _ask(self, number: int, params: dict[str, Any]) -> dict[str, Any]:
        """A new trial of these very parameters."""
        self._study.enqueue_trial(params)
        self._asked[number] = self._study.ask(self._kinds)
        self._tried.add(self._key(params))
        return params

    def _sampled(self, number: int) -> dict[str, Any] | None:
        if len(self._tried) >= self.space.num_settings():
            return None
        for attempt in range(2 * MAX_TRIES):
            seed = _mixed(self.seed, number, attempt)
            if attempt < MAX_TRIES:
                self._study.sampler = optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=self.num_startup, multivariate=True, constant_liar=True
                )
            else:
                self._study.sampler = optuna.samplers.RandomSampler(seed=seed)
            own = self._study.ask(self._kinds)
            key = self._key(own.params)
            if key not in self._tried:
                self._asked[number] = own
                self._tried.add(key)
                return own.params
            # Optuna's trial is spent; it learns nothing from failed ones.
            self._study.tell(own, state=TrialState.FAIL)
        # Few are left, or chance would have met one.
        left = next((params for params in self._settings() if self._key(params) not in self._tried), None)
        return None if left is None else self._ask(number, left)

    def _settings(self) -> Iterator[dict[str, Any]]:
        """All settings of a finite space, one after the other."""
        for values in itertools.product(*map(_values, self._kinds.values())):
            yield dict(zip(self._kinds, values, strict=True))

    def report(self, number: int, value: float, epoch: int) -> None:
        """A trial's metric after an epoch; TPE ranks trials that were stopped early by their last one."""
        self._asked[number].report(value, epoch)

    def tell(self, trial: Trial) -> None:
        """How a trial ended."""
        own = self._asked[trial.number]
        is_told = self._study.get_trials(deepcopy=False)[own.number].state.is_finished()
        if is_told:
            return
        state = state_of(trial)
        self._study.tell(own, trial.value if state == TrialState.COMPLETE else None, state=state)

    def _key(self, params: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(_place(kind, params[key]) for key, kind in sorted(self._kinds.items()))


def state_of(trial: Trial) -> TrialState:
    """How a trial ended, in Optuna's words; nothing is to be learned of one without a value."""
    return TrialState.FAIL if trial.value is None else STATES[trial.state]


def _place(kind: BaseDistribution, value: Any) -> Any:
    """What tells a value from others: a step of a float has several last digits, 1 and true are two choices."""
    if isinstance(kind, FloatDistribution | IntDistribution) and kind.step:
        return round((value - kind.low) / kind.step)
    return type(value), value


def _values(kind: BaseDistribution) -> Iterable[Any]:
    """The values of a key that has finitely many; of another one its lowest."""
    if isinstance(kind, CategoricalDistribution):
        return kind.choices
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if not kind.step:
        return [kind.low]
    return (min(kind.high, kind.low + place * kind.step) for place in range(int(num_values(kind))))


def _mixed(*numbers: int) -> int:
    """One seed of several numbers; neighbours give unrelated streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
