"""The entry points as their users run them: real Ray, real processes, real kills, a real S3 server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch
from paths import ROOT
from s3_server import s3_server
from tiny import make_features, tiny_settings

from lacray import results, simpouring
from lacray.checkpoint import load_encoder

TIMEOUT_S = 400


def command(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    # Ray's workers would wait behind everything else that the machine does.
    own = {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local", "RAY_worker_niceness": "0"}
    return {**os.environ, **own, **(extra or {})}


def run(*arguments: str, cwd: Path, env: dict[str, str] | None = None, code: int = 0) -> str:
    done = subprocess.run(
        command(*arguments), cwd=cwd, env=environment(env), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_features(tmp_path_factory.mktemp("data") / "clips")


def optuna_trials(results_dir: Path, study: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=study, storage=f"sqlite:///{results_dir / 'optuna.db'}").trials


def own_rows(uri: str, study: str, **where: str) -> list[dict]:
    return results.last_rows(results.read(uri, study), **where)


def test_the_whole_path_from_study_to_report(data, tmp_path):
    """tune, train --best, report: the commands that each of them says to type next."""
    # A relative path: workers have another working directory than the user.
    near = Path(os.path.relpath(data, tmp_path))
    said = run("-m", "lacray.tune", "--trials", "4", *tiny_settings(near, epochs=3), cwd=tmp_path)
    trials = own_rows(str(tmp_path / "results"), "lac", stage="tune", split="validation")
    own = [row for row in trials if row["control"] == "none"]
    assert len(own) == 4
    assert {row["control"] for row in trials} == {"none", "untrained", "positions"}
    # Optuna's store and the rows tell one story.
    states = {trial.number: trial.state.name for trial in optuna_trials(tmp_path / "results", "lac")}
    assert {row["trial"]: row["status"] for row in own} == {
        number: {"COMPLETE": "done", "PRUNED": "pruned"}[state] for number, state in states.items()
    }
    for trial in optuna_trials(tmp_path / "results", "lac"):
        row = next(row for row in own if row["trial"] == trial.number)
        assert trial.params["loss.gamma"] == row["loss.gamma"]
        if trial.value is not None:
            assert trial.value == pytest.approx(row["metric.objective"], abs=1e-12)
    assert all(row["op_backend"] in ("cpu", "reference") and row["loss.tau"] > 0 for row in own)
    # No row of the val split: selection has not seen it.
    assert set(results.read(str(tmp_path / "results"))["split"].to_pylist()) <= {"validation", None}

    train, report = re.findall(r"^  python (.+)$", said, re.MULTILINE)
    said = run(*train.split(), "--seeds", "2", cwd=tmp_path)
    rows = own_rows(str(tmp_path / "results"), "lac", stage="train", split="val", control="none")
    best = results.best(results.read(str(tmp_path / "results"), "lac"))
    assert [row["seed"] for row in sorted(rows, key=lambda row: row["seed"])] == [0, 1]
    assert {row["loss.gamma"] for row in rows} == {best["loss.gamma"]}
    assert {row["data.validation_share"] for row in rows} == {0.0}
    for path in re.findall(r"^checkpoint: (.+)$", said, re.MULTILINE):
        encoder, config = load_encoder(tmp_path / path)
        assert config.loss.gamma == best["loss.gamma"]
        assert torch.isfinite(encoder(torch.randn(1, 7, 12))).all()

    again = run(*train.split(), "--seeds", "2", cwd=tmp_path)
    assert again.count("done before, kept") == 2

    run(str(ROOT / report.split()[0]), *report.split()[1:], "--out", "report", cwd=tmp_path)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "untrained" in page.lower()
    assert f"{100 * best['metric.objective']:.1f}"[:3] in page


def test_a_study_and_a_training_of_two_workers_are_those_of_one(data, tmp_path):
    """The same trials with the same values, and early stops; only the sums are in another order."""
    found = {}
    for workers in ("1", "2"):
        arguments = ["--trials", "3", "--study", f"w{workers}", "--workers", workers, "--concurrent", "1"]
        said = run("-m", "lacray.tune", *arguments, *tiny_settings(data, epochs=2), "encoder.dropout=0", cwd=tmp_path)
        assert "Traceback" not in said
        rows = own_rows(str(tmp_path / "results"), f"w{workers}", stage="tune", split="validation", control="none")
        assert {row["world_size"] for row in rows} == {int(workers)}
        found[workers] = {row["trial"]: (row["status"], row["epoch"], row["loss.gamma"]) for row in rows}
        values = {row["trial"]: row["metric.objective"] for row in rows}
        if workers == "1":
            expected = values
    assert found["1"] == found["2"]
    assert values == pytest.approx(expected, abs=0.02)
    said = run("-m", "lacray.train", "--best", "--study", "w2", "--seeds", "1", "--workers", "2", cwd=tmp_path)
    assert re.search(r"training the best of study w2 .*: seeds 0, workers 2", said)
    rows = own_rows(str(tmp_path / "results"), "w2", stage="train", split="val")
    assert {(row["control"], row["status"], row["world_size"]) for row in rows} == {
        ("none", "done", 2),
        ("untrained", "done", 2),
        ("positions", "done", 2),
    }


def test_a_setting_that_diverges_fails_by_name_and_the_study_goes_on(data, tmp_path):
    space = tmp_path / "rates.yaml"
    space.write_text(
        "name: rates\nsampler: grid\nsearch:\n  fit.learning_rate: {type: categorical, choices: [1.0e+30, 0.001]}\n"
    )
    said = run("-m", "lacray.tune", "rates.yaml", *tiny_settings(data, epochs=3), cwd=tmp_path)
    states = {t.params["fit.learning_rate"]: t.state.name for t in optuna_trials(tmp_path / "results", "rates")}
    assert states == {1e30: "FAIL", 0.001: "COMPLETE"}
    assert re.search(r"trial 0 failed: step \d+: the (loss|gradient) must be finite, got .*L_c.* on videos/clip", said)
    table = results.read(str(tmp_path / "results"), "rates")
    failed = [row for row in table.to_pylist() if row["fit.learning_rate"] == 1e30]
    assert failed[-1]["status"] == "failed"
    assert "must be finite" in failed[-1]["error"]


@pytest.mark.slow
def test_one_study_that_cannot_go_on_keeps_no_other_from_its_end_and_the_same_command_does_the_rest(tmp_path):
    root = simpouring.ensure(tmp_path / "cache", num_train=4, num_val=1, size=32)
    fixed = f"  data.root: {root}\n  data.size: 32\n  data.num_frames: 8\n  data.batch_size: 2\n  fit.epochs: 1\n"
    grid = "sampler: grid\nfixed:\n%s%ssearch:\n  seed: {type: categorical, choices: [0, 1]}\n"
    # Its maps are too small for what comes after them: known when the encoder is built.
    big = "  encoder.name: resnet18\n  encoder.weights: none\n"
    (tmp_path / "bad.yaml").write_text(grid % (fixed, big))
    (tmp_path / "good.yaml").write_text(grid % (fixed, ""))
    command = ("-m", "lacray.tune", "bad.yaml", "good.yaml")
    said = run(*command, cwd=tmp_path, code=2)
    assert "data.size: must give resnet18 maps of 5 x 5 at least" in said
    folder = tmp_path / "results" / "good" / "rows"
    rows = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    # Of each seed its own controls.
    assert len(rows) == 2 + 2 * 2
    said = run(*command, cwd=tmp_path, code=2)
    assert "finished already: good" in said
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == rows


def test_results_and_checkpoints_on_s3(data, tmp_path):
    with s3_server(tmp_path / "server") as env:
        uri = "s3://lacray-test/runs"
        where = ["--results", uri]
        run("-m", "lacray.tune", "--trials", "2", *tiny_settings(data), *where, cwd=tmp_path, env=env)
        said = run("-m", "lacray.train", "--best", "--seeds", "1", *where, cwd=tmp_path, env=env)
        (checkpoint,) = re.findall(r"^checkpoint: (s3://.+)$", said, re.MULTILINE)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            rows = own_rows(uri, "lac", stage="train", split="val", control="none")
            assert [row["status"] for row in rows] == ["done"]
            local = results.open_checkpoint(checkpoint, tmp_path)
            assert load_encoder(local)[1].data.input == "features"
        run(str(ROOT / "analysis/report.py"), *where, "--out", str(tmp_path / "report"), cwd=tmp_path, env=env)
        assert (tmp_path / "report" / "report.html").stat().st_size > 1000
