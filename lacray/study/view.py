"""A study as optuna-dashboard shows it: a copy in an Optuna storage, which may be thrown away at any time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import TrialState
from sqlalchemy.engine import make_url

from lacray.study.aside import Aside
from lacray.study.sampler import state_of
from lacray.study.space import Space
from lacray.study.trials import Trial
from lacray.text import home_expanded

# Of a study in the storage, which manifest it shows: another results directory may have a study of the same name.
OWNER = "lacray"


class OptunaView(Aside):
    """The study in an Optuna storage, its trials under their own numbers.

    Args:
        url: of the storage, as SQLAlchemy has it; several studies may share it.
        name: of the study.
        owner: the manifest's id.
        space: what is searched.
        say: as for `Aside`.
    """

    def __init__(self, url: str, name: str, owner: str, space: Space, say: Callable[[str], None]) -> None:
        self.url, self.name, self.owner, self.space, self.metric = url, name, owner, space, space.metric
        self._trials: dict[int, optuna.trial.Trial] = {}
        self._study: Any = None
        super().__init__("Optuna's store", say)

    def _begin(self, trials: list[Trial]) -> None:
        url = make_url(self.url)
        if url.get_backend_name() == "sqlite" and url.database:
            path = home_expanded(url.database)
            path.parent.mkdir(parents=True, exist_ok=True)
            url = url.set(database=str(path))
        # Optuna formats the address it is given, to fill in the version of its tables.
        address = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
        storage = optuna.storages.RDBStorage(address)
        owners = {study.study_name: study.user_attrs.get(OWNER) for study in optuna.get_all_study_summaries(storage)}
        if owners.get(self.name, self.owner) != self.owner:
            self.name = f"{self.name}-{self.owner[:8]}"
        if self.name in owners:
            optuna.delete_study(study_name=self.name, storage=storage)
        self._study = optuna.create_study(study_name=self.name, storage=storage, direction="maximize")
        self._study.set_user_attr(OWNER, self.owner)
        for trial in trials:
            self._ask(trial)
            for epoch, value in sorted(trial.values.items()):
                self._trials[trial.number].report(value, epoch)
            if trial.is_over:
                self._tell(trial)

    def _ask(self, trial: Trial) -> None:
        self._study.enqueue_trial(trial.params)
        self._trials[trial.number] = self._study.ask(self.space.distributions())

    def _report(self, number: int, epoch: int, metrics: dict[str, float]) -> None:
        if self.metric in metrics:
            self._trials[number].report(metrics[self.metric], epoch)

    def _tell(self, trial: Trial) -> None:
        state = state_of(trial)
        value = trial.value if state == TrialState.COMPLETE else None
        self._study.tell(self._trials[trial.number], value, state=state)
