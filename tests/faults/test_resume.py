"""Studies gone on with under other circumstances: by two at once, elsewhere, with more trials, as another study."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from lab import Command, Lab, assert_no_page, assert_whole, ended, told

pytestmark = pytest.mark.slow


@pytest.fixture(params=["disk", "S3"])
def anywhere(request) -> Lab:
    return request.getfixturevalue("lab" if request.param == "disk" else "remote")


@pytest.fixture(scope="module")
def three_trials(data, tmp_path_factory) -> Lab:
    """A finished study, to be copied."""
    lab = Lab(tmp_path_factory.mktemp("three"), data)
    lab.tune(trials=3, epochs=2).wait()
    return lab


@pytest.fixture
def finished(three_trials, lab) -> Lab:
    shutil.copytree(three_trials.folder, lab.folder)
    return lab


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error:")]


def times(folder: Path) -> dict[str, int]:
    """When each file was last written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def one_is_refused(commands: list[Command]) -> Command:
    """Waits until one of two drivers has ended, refused in a line; the other one."""
    deadline = time.monotonic() + 90
    while all(command.process.poll() is None for command in commands):
        assert time.monotonic() < deadline, "both go on"
        time.sleep(0.05)
    (refused,) = [command for command in commands if command.process.poll() is not None]
    said = refused.wait(code=2)
    assert len(errors(said)) == 1, said
    assert "is being driven by" in said or "--resume goes on with it" in said or "begun elsewhere" in said
    assert_no_page(said)
    return next(command for command in commands if command is not refused)


def test_of_two_drivers_of_one_study_one_goes_on_fresh_and_resumed(anywhere: Lab, undisturbed):
    lab = anywhere
    commands = [lab.tune(), lab.tune()]
    with ended(commands):
        driver = one_is_refused(commands)
        driver.until(lambda: lab.num_over() >= 1)
        driver.kill()
    commands = [lab.resume(), lab.resume()]
    with ended(commands):
        said = one_is_refused(commands).wait()
    assert_no_page(said)
    assert_whole(lab)
    assert told(lab) == undisturbed


def test_two_studies_share_an_optuna_store(lab: Lab):
    store = f"sqlite:///{lab.folder}/shared.db"
    lab.folder.mkdir(parents=True)
    commands = [lab.tune("--study", name, "--storage", store, trials=3, epochs=2) for name in ("one", "two")]
    with ended(commands):
        for command in commands:
            assert_no_page(command.wait())
    # One name in another place is another study, in the same store too.
    elsewhere = Lab(lab.folder / "elsewhere", lab.data)
    elsewhere.tune("--study", "one", "--storage", store, trials=2, epochs=2).wait()
    assert told(lab, "one") == told(lab, "two")
    known = {study.study_name: study for study in optuna.get_all_study_summaries(store)}
    assert sorted(study.n_trials for study in known.values()) == [2, 3, 3]
    assert {"one", "two"} < set(known)
    for name in ("one", "two"):
        trials = optuna.load_study(study_name=name, storage=store).trials
        shown = {trial.number: (trial.params, list(trial.intermediate_values.values())[-1]) for trial in trials}
        for number, (_, _, searched, value) in told(lab, name).items():
            assert searched.items() <= shown[number][0].items() | searched.items()
            assert shown[number][1] == value


def test_results_that_were_moved_are_gone_on_with_there_alone(lab: Lab, undisturbed):
    study = lab.tune()
    with ended([study]):
        study.until(lambda: lab.epoch(1) >= 1 or lab.num_over() >= 2)
        study.kill()
    old = lab.folder / "results"
    shutil.copytree(old, lab.folder / "moved")
    before = times(old)
    lab.results = "moved"
    said = lab.resume().wait()
    assert_no_page(said)
    assert_whole(lab)
    assert told(lab) == undisturbed
    assert times(old) == before


def test_an_optuna_store_that_is_deleted_costs_a_line(lab: Lab, undisturbed):
    study = lab.tune()
    with ended([study]):
        study.until(lambda: lab.num_over() >= 1)
        for path in (lab.folder / "results").glob("optuna.db*"):
            path.unlink()
        said = study.wait()
    assert_no_page(said)
    told_of = [line for line in said.splitlines() if "Optuna's store" in line]
    assert len(told_of) <= 1
    assert_whole(lab)
    assert told(lab) == undisturbed


def test_more_trials_are_other_trials_and_the_finished_ones_stay(finished: Lab):
    before, stamps = told(finished), finished.stamps()
    said = finished.resume("--trials", "6").wait()
    assert_no_page(said)
    assert_whole(finished)
    after = told(finished)
    assert {number: after[number] for number in before} == before
    assert {name: stamp for name, stamp in finished.stamps().items() if name in stamps} == stamps
    assert len({tuple(searched.items()) for _, _, searched, _ in after.values()}) == len(after) == 6


def test_a_finished_study_has_nothing_to_go_on_with(finished: Lab):
    before = times(finished.folder / "results" / "lac")
    said = finished.resume().wait()
    assert "finished already: lac; --study NAME --trials N adds to one" in said
    said = finished.resume("--study", "lac").wait()
    assert "finished already: 3 of 3 trials" in said
    assert "best: trial" in said
    assert times(finished.folder / "results" / "lac") == before


def test_another_study_of_the_same_name_is_refused_with_every_difference(finished: Lab):
    text = (Path(__file__).parents[2] / "search_spaces" / "lac.yaml").read_text()
    assert "high: 2.0, log: true}" in text
    (finished.folder / "other.yaml").write_text(text.replace("high: 2.0, log: true}", "high: 4.0, log: true}", 1))
    before = times(finished.folder / "results" / "lac")
    changed = ("other.yaml", "loss.tau=0.2", "fit.learning_rate=0.01")
    said = finished.tune("--resume", "--study", "lac", *changed, trials=2, epochs=2).wait(code=2)
    assert_no_page(said)
    for difference in (
        "search.loss.gamma.high: was 2.0, is now 4.0",
        "search.loss.tau.low: was 0.03, is now absent",
        "fixed.loss.tau: was absent, is now 0.2",
        "fixed.fit.learning_rate: was absent, is now 0.01",
        "--trials: was 3, is now 2; it may only grow",
    ):
        assert any(difference in line for line in errors(said)), said
    assert "begin another: --study NAME" in errors(said)[-1]
    assert times(finished.folder / "results" / "lac") == before


def test_how_a_study_stands_is_told_while_it_runs_when_its_driver_is_dead_and_when_it_is_over(anywhere: Lab):
    lab = anywhere

    def status() -> str:
        return lab.start("lacray.tune", "status", "--results", lab.results, "--study", "lac").wait()

    study = lab.tune(trials=3, steps=60)
    with ended([study]):
        study.until(lambda: lab.epoch(0) >= 1)
        said = status()
        assert "0 of 3 trials over" in said or "1 of 3 trials over" in said
        assert f"process {study.process.pid}" in said
        study.kill()
    said = status()
    assert "of 3 trials over" in said
    assert "nobody drives it; go on: python -m lacray.tune --resume --study lac" in said
    lab.resume().wait()
    said = status()
    assert "3 of 3 trials over" in said
    assert "best so far: trial" in said
    assert "driven by" not in said
    assert "nobody drives it" not in said


class Nodes:
    """A Ray cluster of two nodes, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "nodes.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nodes.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        )
        self.address = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        assert line, Path(self._log.name).read_text()[-3000:]
        return line

    def lose_one(self) -> None:
        self._ask("lose")

    def add_one(self) -> None:
        self._ask("add")

    def _ask(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n".encode())
        self._process.stdin.flush()
        assert self._line() == "done"

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait(60)
        self._log.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "nodes")
    yield nodes
    nodes.close()


def test_a_node_that_is_lost_with_a_trial_on_it_costs_no_trial(lab: Lab, nodes: Nodes):
    study = lab.tune(trials=4, steps=100, concurrent=2, env={"RAY_ADDRESS": nodes.address})
    with ended([study]):
        study.until(lambda: sum(rows[-1]["status"] == "running" for rows in lab.trials().values()) >= 2)
        nodes.lose_one()
        said = study.wait()
    assert_no_page(said)
    assert_whole(lab)
    assert len(told(lab)) == 4
    assert {status for status, *_ in told(lab).values()} <= {"done", "pruned"}


def test_a_trial_of_two_nodes_waits_for_another_one_when_it_loses_one(lab: Lab, nodes: Nodes):
    study = lab.tune("--workers", "2", trials=1, epochs=12, steps=60, env={"RAY_ADDRESS": nodes.address})
    with ended([study]):
        study.until(lambda: lab.epoch(0) >= 2)
        nodes.lose_one()
        nodes.add_one()
        said = study.wait()
    assert_no_page(said)
    # Nothing that the study needs was on that node: Train starts the ranks again, Tune has nothing to mend.
    assert "its process was lost" not in said
    assert_whole(lab)
    assert [(status, epoch) for status, epoch, *_ in told(lab).values()] == [("done", 12)]
