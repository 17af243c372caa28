"""The entry points as their users run them: real Ray, real processes, a real S3 server.

What a study on this disk leaves, and the report on it, is read in test_readme.py too: one study serves both.
"""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest
import torch
from commands import Studied, run
from commands import environment as environment
from paths import ROOT
from s3_server import s3_server
from tiny import tiny_settings

from lacray import results
from lacray.checkpoint import load_model


def optuna_trials(results_dir: Path, study: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=study, storage=f"sqlite:///{results_dir / 'optuna.db'}").trials


def own_rows(uri: str, study: str, **where: str) -> list[dict]:
    return results.last_rows(results.read(uri, study), **where)


def test_a_study_its_rows_and_optunas_store_tell_one_story(studied: Studied):
    uri = studied.folder / "results"
    trials = own_rows(str(uri), "lac", stage="tune", split="validation")
    own = [row for row in trials if row["control"] == "none"]
    assert len(own) == 3
    assert {row["control"] for row in trials} == {"none", "untrained", "positions"}
    found = optuna_trials(uri, "lac")
    states = {trial.number: trial.state.name for trial in found}
    assert {row["trial"]: row["status"] for row in own} == {
        number: {"COMPLETE": "done", "PRUNED": "pruned"}[state] for number, state in states.items()
    }
    for trial in found:
        row = next(row for row in own if row["trial"] == trial.number)
        assert trial.params["loss.gamma"] == row["loss.gamma"]
        if trial.value is not None:
            assert trial.value == pytest.approx(row["metric.objective"], abs=1e-12)
    assert all(row["op_backend"] in ("cpu", "reference") and row["loss.tau"] > 0 for row in own)
    # No row of the val split: selection has not seen it.
    rows = results.read(str(uri), "lac").to_pylist()
    assert {row["split"] for row in rows if row["stage"] == "tune"} <= {"validation", None}


def test_the_best_of_a_study_is_trained_with_the_command_that_the_study_says(studied: Studied, best_trained: str):
    uri = str(studied.folder / "results")
    assert re.findall(r"^  python (.+)$", studied.said, re.MULTILINE) == [
        "-m lacray.train --best --study lac",
        "analysis/report.py",
    ]
    rows = own_rows(uri, "lac", stage="train", split="val", control="none")
    best = results.best(results.read(uri, "lac"))
    assert [row["seed"] for row in sorted(rows, key=lambda row: row["seed"])] == [0, 1]
    assert {row["loss.gamma"] for row in rows} == {best["loss.gamma"]}
    assert {row["data.validation_share"] for row in rows} == {0.0}
    checkpoints = re.findall(r"^checkpoint: (.+)$", best_trained, re.MULTILINE)
    assert len(checkpoints) == 2
    for path in checkpoints:
        model = load_model(studied.folder / path)
        assert model.config.loss.gamma == best["loss.gamma"]
        assert torch.isfinite(model.encoder(torch.randn(1, 7, 12))).all()


@pytest.mark.slow
def test_a_study_and_a_training_of_two_workers_on_s3_are_those_of_one_on_this_disk(studied: Studied, tmp_path):
    """The same trials with the same values, and early stops; only the sums are in another order."""

    def trials(uri: str) -> dict[int, dict]:
        rows = own_rows(uri, "lac", stage="tune", split="validation", control="none")
        return {row["trial"]: row for row in rows}

    expected = trials(str(studied.folder / "results"))
    with s3_server(tmp_path / "server") as env, pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        uri = "s3://lacray-test/runs"
        where = ["--results", uri]
        settings = [*tiny_settings(studied.folder / "clips"), "encoder.dropout=0"]
        shared = ["--workers", "2", *where]
        said = run("-m", "lacray.tune", "--trials", "2", "--concurrent", "1", *shared, *settings, cwd=tmp_path)
        assert "Traceback" not in said
        found = trials(uri)
        assert set(found) == {0, 1}
        for number, row in found.items():
            other = expected[number]
            assert (row["world_size"], other["world_size"]) == (2, 1)
            for column in ("status", "epoch", "loss.gamma"):
                assert row[column] == other[column]
            assert row["metric.objective"] == pytest.approx(other["metric.objective"], abs=0.02)

        said = run("-m", "lacray.train", "--best", "--seeds", "1", *shared, cwd=tmp_path)
        assert re.search(r"training the best of study lac .*: seeds 0, workers 2", said)
        rows = own_rows(uri, "lac", stage="train", split="val")
        assert {(row["control"], row["status"], row["world_size"]) for row in rows} == {
            ("none", "done", 2),
            ("untrained", "done", 2),
            ("positions", "done", 2),
        }
        (checkpoint,) = re.findall(r"^checkpoint: (s3://.+)$", said, re.MULTILINE)
        local = results.open_checkpoint(checkpoint, tmp_path)
        assert load_model(local).config.data.input == "features"
        run(str(ROOT / "analysis/report.py"), *where, "--out", str(tmp_path / "report"), cwd=tmp_path)
    assert (tmp_path / "report" / "report.html").stat().st_size > 1000
