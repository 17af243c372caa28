"""`examples/best_over_seeds.py`: what it writes is a space with the studies' best settings."""

from __future__ import annotations

from pathlib import Path

import commands
import pyarrow.parquet as pq
from paths import ROOT

from lacray.study.space import load_space

PLACE = ROOT / "docs" / "results" / "lead_simpouring"


def best_row(study: str) -> dict:
    (file,) = (PLACE / study / "rows").glob("*.parquet")
    rows = [row for row in pq.read_table(file).to_pylist() if row["stage"] == "tune" and row["control"] == "none"]
    last = [row for row in rows if row["epoch"] == 30 and row["split"] == "validation"]
    return max(last, key=lambda row: row["metric.objective"])


def test_the_space_has_the_best_of_each_study_over_the_seeds(tmp_path: Path) -> None:
    written = commands.run(
        "examples/best_over_seeds.py", str(PLACE), "lead_scl", "lead_local", "--seeds", "5", "8", cwd=ROOT
    )
    (tmp_path / "seeds.yaml").write_text(written)
    space = load_space(tmp_path / "seeds.yaml", {"data.root": "elsewhere"})
    settings = [space.config(point).flat() for point in space.points()]
    assert [(own["loss.name"], own["seed"]) for own in settings] == [
        (name, seed) for name in ("scl", "cross") for seed in (5, 6, 7)
    ]
    searched = ("fit.learning_rate", "fit.steps_per_epoch", "data.num_frames", "data.sampling_region", "loss.tau")
    own_ones = {"lead_scl": ("loss.projection", "encoder.dropout"), "lead_local": ("loss.gamma", "loss.weight")}
    for study, own, name in zip(("lead_scl", "lead_local"), settings[::3], ("scl", "cross"), strict=True):
        best = best_row(study)
        assert best["loss.name"] == name
        for key in (*searched, *own_ones[study]):
            assert own[key] == best[key], key
        assert own["data.root"] == "elsewhere"
        assert own["evaluation.report_split"] is True


def test_what_it_would_drop_is_refused() -> None:
    def refused(*studies: str) -> str:
        return commands.run("examples/best_over_seeds.py", str(PLACE), *studies, cwd=ROOT, code=2)

    assert "study lead_none: has no study.json in" in refused("lead_scl", "lead_none")
    assert "study lead_scl: must have no variants, and a description of its own" in refused("lead_scl", "lead_scl")
