"""Copies of a study for other tools: read back by those tools, and no study's fault when they break."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from lacray.config import UserError
from lacray.study import aside as aside_module
from lacray.study.aside import Aside, close_all
from lacray.study.loggers import MlFlow, TensorBoard
from lacray.study.space import parse_space
from lacray.study.trials import Trial
from lacray.study.view import OptunaView

SPACE = parse_space({"name": "s", "search": {"loss.gamma": {"type": "float", "low": 0.1, "high": 2.0}}})


def followed(aside, *, known: list[Trial]) -> None:
    """One trial from its beginning to its end, after those that were known."""
    aside.begin(known)
    trial = Trial(len(known), {"loss.gamma": 0.7}, 3)
    aside.ask(trial)
    for epoch, value in ((1, 0.25), (2, 0.5)):
        trial.values[epoch] = value
        aside.report(trial, epoch, {"objective": value, "loss": 1 / epoch})
    trial.state = "pruned"
    aside.tell(trial)
    close_all([aside])


def test_optuna_shows_the_study_under_its_trials_own_numbers(tmp_path):
    url, told = f"sqlite:///{tmp_path / 'deep' / 'optuna.db'}", []
    known = [Trial(0, {"loss.gamma": 0.3}, 3, state="done", values={1: 0.1, 3: 0.2})]
    # Twice: a study that is taken up again begins its copy anew.
    for _ in range(2):
        followed(OptunaView(url, "s", "one", SPACE, told.append), known=known)
    first, second = optuna.load_study(study_name="s", storage=url).trials
    assert (first.state.name, first.value, first.params) == ("COMPLETE", 0.2, {"loss.gamma": 0.3})
    assert (second.number, second.state.name, second.intermediate_values) == (1, "PRUNED", {1: 0.25, 2: 0.5})
    # Another study of that name, from another results directory, keeps what is its own.
    followed(OptunaView(url, "s", "other-owner", SPACE, told.append), known=[])
    assert len(optuna.load_study(study_name="s", storage=url).trials) == 2
    assert len(optuna.load_study(study_name="s-other-ow", storage=url).trials) == 1
    assert told == []


def test_a_store_that_cannot_be_written_is_one_line_and_no_more(tmp_path):
    (tmp_path / "optuna.db").write_bytes(b"no database" * 100)
    told: list[str] = []
    followed(OptunaView(f"sqlite:///{tmp_path / 'optuna.db'}", "s", "one", SPACE, told.append), known=[])
    (line,) = told
    assert line.startswith("Optuna's store can no longer be written (")
    assert line.endswith("the study goes on without it")


class Deaf(Aside):
    """A copy whose server is away."""

    def _ask(self, trial: Trial) -> None:
        raise ConnectionError("POST to http://ann:sEcReTpw@host/api failed")

    def _end(self) -> None:
        time.sleep(60)


def test_the_password_of_a_server_that_is_away_is_not_said():
    told: list[str] = []
    followed(Deaf("MLflow", told.append), known=[])
    assert told == [
        "MLflow can no longer be written (POST to http://***@host/api failed); the study goes on without it"
    ]


def test_all_copies_together_are_waited_for_once(monkeypatch):
    monkeypatch.setattr(aside_module, "FLUSH_S", 0.5)
    began = time.monotonic()
    close_all([Deaf("a", print), Deaf("b", print), Deaf("c", print)])
    assert 0.4 < time.monotonic() - began < 1.4


def test_tensorboard_reads_every_epoch_of_every_trial(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    told: list[str] = []
    followed(TensorBoard(str(tmp_path), "s", told.append), known=[])
    read = events.EventAccumulator(str(tmp_path / "s" / "trial-0000"))
    read.Reload()
    assert [(scalar.step, scalar.value) for scalar in read.Scalars("objective")] == [(1, 0.25), (2, 0.5)]
    assert [scalar.step for scalar in read.Scalars("loss")] == [1, 2]
    assert told == []


def test_mlflow_closes_the_run_of_a_trial_whose_end_was_not_copied(monkeypatch):
    """Its driver was killed: the run was shown as running for ever."""

    def run(trial: int, status: str) -> SimpleNamespace:
        info = SimpleNamespace(run_id=f"run {trial}", status=status)
        return SimpleNamespace(info=info, data=SimpleNamespace(tags={"trial": str(trial)}))

    runs = [run(0, "RUNNING"), run(1, "FINISHED"), run(2, "RUNNING")]
    ended: list[tuple[str, str]] = []
    client = SimpleNamespace(
        get_experiment_by_name=lambda name: SimpleNamespace(experiment_id="1"),
        search_runs=lambda *_, **__: runs,
        set_terminated=lambda run_id, status: ended.append((run_id, status)),
    )
    tracking = SimpleNamespace(MlflowClient=lambda tracking_uri: client)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", tracking)
    aside = MlFlow("http://nowhere", "s", "one", print)
    aside.begin(Trial(number, {}, 3, state=state) for number, state in enumerate(("pruned", "done", "waiting")))
    close_all([aside])
    assert ended == [("run 0", "KILLED")]


def test_an_address_that_mlflow_does_not_take_is_a_line(monkeypatch):
    """It was a page of MLflow's own words, and exit code 1."""

    def refuse(tracking_uri: str) -> None:
        raise ValueError(f"unsupported URI\n{tracking_uri}")

    monkeypatch.setitem(sys.modules, "mlflow.tracking", SimpleNamespace(MlflowClient=refuse))
    with pytest.raises(UserError, match=r"--mlflow: must be the address of a tracking server, got foo://bar \(unsup"):
        MlFlow("foo://bar", "s", "one", print)
    with pytest.raises(UserError) as caught:
        MlFlow("postgresql://me:secret-word@host/db", "s", "one", print)
    assert "secret-word" not in str(caught.value)


@pytest.fixture
def mlflow_server(tmp_path):
    """MLflow's own server, from an environment of its own: its dependencies are not ours."""
    program = os.environ.get("LACRAY_MLFLOW") or shutil.which("mlflow")
    if program is None or not Path(program).exists():
        pytest.skip("needs MLflow's server: pip install mlflow into an environment, LACRAY_MLFLOW=.../bin/mlflow")
    pytest.importorskip("mlflow.tracking", reason="needs mlflow-skinny")
    port = "5987"
    command = [program, "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    env = {**os.environ, "PATH": f"{Path(program).parent}{os.pathsep}{os.environ['PATH']}"}
    server = subprocess.Popen(
        [*command, "--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read()
                break
            except OSError:
                assert server.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server did not come up"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 9)
        server.wait()


@pytest.mark.slow
def test_mlflow_has_a_run_for_every_trial(mlflow_server):
    from mlflow.tracking import MlflowClient

    told: list[str] = []
    known = [Trial(0, {"loss.gamma": 0.3}, 3, state="done", values={1: 0.1, 3: 0.2})]
    for _ in range(2):
        followed(MlFlow(mlflow_server, "s", "one", told.append), known=known)
    client = MlflowClient(tracking_uri=mlflow_server)
    experiment = client.get_experiment_by_name("s")
    runs = {run.data.tags["trial"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"0", "1"}
    assert (runs["0"].info.status, runs["1"].info.status) == ("FINISHED", "KILLED")
    assert runs["1"].data.params == {"loss.gamma": "0.7"}
    history = client.get_metric_history(runs["1"].info.run_id, "objective")
    assert {(metric.step, metric.value) for metric in history} == {(1, 0.25), (2, 0.5)}
    assert told == []
