"""What Ray runs, without Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from tiny import make_features, tiny_settings

from lacray import worker
from lacray.config import parse_assignments
from lacray.results import read, write_end
from lacray.run import Run


def test_a_trial_that_was_stopped_early_is_not_begun_again_where_it_loses_a_rank(tmp_path, monkeypatch):
    """Its checkpoint is gone: the rows of a trial of several workers were written over by those of a first epoch."""
    monkeypatch.setattr(worker.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    values = parse_assignments(tiny_settings(make_features(tmp_path / "clips"), epochs=5))
    run = Run(values=values, results=str(tmp_path), study="s", run_id="r", stage="tune", trial=0)
    reports: list[dict[str, Any]] = []

    def stops() -> bool:
        return reports[-1]["epoch"] == 3

    assert worker.follow(run, torch.device("cpu"), reports.append, stops) is None
    write_end(tmp_path, "s", "r", {"status": "pruned", "epoch": 3})
    before = read(tmp_path)
    assert before["epoch"].to_pylist() == [0, 1, 2, 3]
    assert worker.follow(run, torch.device("cpu"), reports.append, lambda: True) is None
    assert read(tmp_path).equals(before)
