"""A study's trials in TensorBoard and in MLflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lacray.config import UserError
from lacray.results import redact
from lacray.study.aside import Aside
from lacray.study.trials import Trial, run_name
from lacray.text import home_expanded


class TensorBoard(Aside):
    """One directory of event files a trial, as `tensorboard --logdir` reads them.

    Args:
        directory: made if need be; trials lie in `directory/STUDY/RUN`.
        study: its name.
        say: as for `Aside`.
    """

    def __init__(self, directory: str, study: str, say: Callable[[str], None]) -> None:
        self.directory = home_expanded(directory) / study
        self._writers: dict[int, Any] = {}
        super().__init__("TensorBoard's files", say)

    def _report(self, number: int, epoch: int, metrics: dict[str, float]) -> None:
        from tensorboardX import SummaryWriter

        if number not in self._writers:
            # Of an epoch that is reported twice, after a loss, TensorBoard shows the later.
            self._writers[number] = SummaryWriter(str(self.directory / run_name(number)))
        for name, value in metrics.items():
            self._writers[number].add_scalar(name.replace(".", "/"), value, epoch)

    def _tell(self, trial: Trial) -> None:
        writer = self._writers.pop(trial.number, None)
        if writer is not None:
            writer.close()

    def _end(self) -> None:
        for writer in self._writers.values():
            writer.close()


class MlFlow(Aside):
    """One MLflow run a trial, in an experiment named after the study.

    Args:
        uri: of the tracking server, or a folder.
        study: its name.
        owner: the manifest's id, so that a study taken up again finds its runs.
        say: as for `Aside`.

    Raises:
        UserError: MLflow is not installed, or takes no such address.
    """

    def __init__(self, uri: str, study: str, owner: str, say: Callable[[str], None]) -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise UserError("--mlflow: needs MLflow, which is not installed; pip install 'lacray[mlflow]'") from error
        # A folder becomes an address by its own rules, whatever characters are in its name.
        is_address = "://" in uri or uri.startswith("databricks")
        address = uri if is_address else home_expanded(uri).resolve().as_uri()
        try:
            self._client: Any = MlflowClient(tracking_uri=address)
        except Exception as error:  # one of many kinds: an unknown scheme, and since MLflow 3 a folder
            reason = " ".join(str(error).split())[:200]
            told = redact(f"--mlflow: must be the address of a tracking server, got {uri} ({reason}); give another")
            raise UserError(told) from error
        self.study, self.owner = study, owner
        self._experiment = ""
        self._runs: dict[int, str] = {}
        super().__init__("MLflow", say)

    def _begin(self, trials: list[Trial]) -> None:
        found = self._client.get_experiment_by_name(self.study)
        self._experiment = found.experiment_id if found else self._client.create_experiment(self.study)
        mine = f"tags.lacray = '{self.owner}'"
        is_open: set[int] = set()
        for run in self._client.search_runs([self._experiment], filter_string=mine, max_results=10_000):
            number = int(run.data.tags["trial"])
            self._runs[number] = run.info.run_id
            if run.info.status == "RUNNING":
                is_open.add(number)
        for trial in trials:
            if trial.number in self._runs:
                if trial.is_over and trial.number in is_open:
                    # Its end was not heard by an earlier driver, or not copied any more.
                    self._tell(trial)
                continue
            self._ask(trial)
            for epoch, value in sorted(trial.values.items()):
                self._client.log_metric(self._runs[trial.number], "value", value, step=epoch)
            if trial.is_over:
                self._tell(trial)

    def _ask(self, trial: Trial) -> None:
        tags = {"lacray": self.owner, "trial": str(trial.number)}
        run = self._client.create_run(self._experiment, run_name=run_name(trial.number), tags=tags)
        self._runs[trial.number] = run.info.run_id
        for name, value in trial.params.items():
            self._client.log_param(run.info.run_id, name, value)

    def _report(self, number: int, epoch: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._runs[number], name, value, step=epoch)

    def _tell(self, trial: Trial) -> None:
        status = {"done": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}[trial.state]
        self._client.set_terminated(self._runs[trial.number], status=status)
