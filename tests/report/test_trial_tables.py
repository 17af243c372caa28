"""A study's trials in the report: the star, the importances, and what is said where there is too little for them."""

from __future__ import annotations

import re

import pytest
from campaign import base, campaign, entry, metrics, reported, table_of, texts, write_run, write_study

from analysis import formats, page
from analysis.trials import importance, of_study, winner_of
from lacray import train
from lacray.results import Place, read, write_end


def test_the_trial_table_shows_what_was_searched_and_how_it_ended(made, results):
    table = table_of(made, "trials-lac")
    own = ["trial", "loss.gamma", "loss.score_sign", "loss.tau", "objective", "epochs", "status", "seconds"]
    assert table.header == own
    assert entry(table, "5", "status").text == "pruned"
    assert entry(table, "5", "epochs").text == "4"
    assert entry(table, "8", "status").text == "failed"
    assert any("L_sw is inf" in note for note in table.notes)
    assert entry(table, "untrained encoder", "objective").text == "37.00"
    assert table_of(made, "trials-formulation").header[:3] == ["trial", "variant", "seed"]


def test_the_star_is_the_trial_that_train_best_trains(made, results):
    for study in ("lac", "gamma"):
        table = table_of(made, f"trials-{study}")
        (marked,) = [line for line in table.lines if line.marked]
        arguments = train.parser().parse_args(["--best", "--study", study, "--results", str(results)])
        _, _, told = train.best_setting(arguments)
        assert f"(trial {marked.label}, objective " in told
    rows = [r for r in read(str(results), "lac").to_pylist() if r["stage"] == "tune" and r["status"] == "done"]
    best = max((r for r in rows if r["control"] == "none"), key=lambda r: r["metric.objective"])
    (marked,) = [line for line in table_of(made, "trials-lac").lines if line.marked]
    assert (marked.label, texts(marked)[3]) == (str(best["trial"]), f"{100 * best['metric.objective']:.2f}")


def test_the_star_follows_the_metric_that_the_study_maximises(tmp_path):
    write_study(tmp_path, "mine", "lac.yaml")
    for trial, (objective, tau) in enumerate([(0.9, 0.1), (0.5, 0.8)]):
        scores = {**metrics(0.5), "metric.objective": objective, "metric.full.kendalls_tau": tau}
        row = base(trial=trial, selected_by="full.kendalls_tau", **{"loss.gamma": 0.1 + trial}, **scores)
        write_run(tmp_path, "mine", f"trial-{trial:04d}", [row])
    table = table_of(reported(tmp_path), "trials-mine")
    assert "full.kendalls_tau" in table.header
    assert [line.marked for line in table.lines[:2]] == [False, True]
    assert entry(table, "1", "full.kendalls_tau").text == "80.00"


def test_nothing_is_starred_where_nothing_is_finished(tmp_path):
    write_run(tmp_path, "s", "trial-0000", [base(trial=0, status="running", **metrics(0.5))])
    assert winner_of(of_study(read(str(tmp_path)), "s")) is None
    assert not any(line.marked for line in table_of(reported(tmp_path), "trials-s").lines)


def test_importance_finds_the_setting_that_the_metric_was_made_from(made):
    table = table_of(made, "importance-lac")
    shares = {line.label: float(texts(line)[0]) for line in table.lines}
    assert next(iter(shares)) == "loss.gamma"
    assert shares["loss.gamma"] > 0.5
    assert sum(shares.values()) == pytest.approx(1.0, abs=0.01)
    # 24 trials, one of which failed and one of which was stopped at its first look.
    assert "over 23 trials, 1 of them stopped early, all by their value at epoch 4" in table.notes[0]


def test_trials_that_were_stopped_early_count_by_an_epoch_that_all_share(tmp_path):
    """A setting that decides who is stopped decides everything, also where the finished alone would not show it."""
    for trial in range(24):
        is_bad = trial % 2 == 1
        setting = {"loss.gamma": 0.2 + 0.6 * is_bad + 0.001 * trial, "loss.tau": 0.1 + 0.01 * (trial * 7 % 24)}
        # The finished differ by tau alone; what was stopped had a bad gamma. Later epochs are better throughout.
        level = 0.5 + 0.01 * setting["loss.tau"] - 0.3 * is_bad
        epochs = (4,) if is_bad else (4, 8, 12)
        rows = [
            base(
                trial=trial,
                epoch=epoch,
                status=("pruned" if is_bad else "done") if epoch == epochs[-1] else "running",
                **setting,
                **metrics(level + 0.02 * epoch),
            )
            for epoch in epochs
        ]
        write_run(tmp_path, "s", f"trial-{trial:04d}", rows)
    found = importance(of_study(read(str(tmp_path)), "s"))
    assert found.shares["loss.gamma"] > 0.9
    assert "over 24 trials, 12 of them stopped early, all by their value at epoch 4" in found.notes[0]


def test_too_few_trials_have_no_importance_and_the_rule_is_said(tmp_path):
    campaign(tmp_path, num_trials=19)
    made = reported(tmp_path)
    assert "importance-lac" not in {table.key for table in made.all_tables()}
    (note,) = [note for note in table_of(made, "trials-lac").notes if "importance" in note]
    assert note == (
        "No importance is given: it needs at least 20 trials, and 5 for each setting that was searched (20 here), got "
        "18 scored trials over 3 settings."
    )


def test_a_grid_has_no_importance(made):
    assert not any(table.key in ("importance-gamma", "importance-formulation") for table in made.all_tables())


def test_epochs_without_a_score_and_trials_without_a_row_break_no_table(tmp_path):
    for trial, gamma in enumerate((0.2, 0.5, 0.9)):
        rows = [
            base(
                trial=trial,
                epoch=epoch,
                split="validation" if epoch % 2 == 0 else None,
                status="done" if epoch == 5 else "running",
                seconds=10.0 * epoch,
                notes=["pour_3 left out: one phase"] if epoch % 2 == 0 else None,
                **{"loss.gamma": gamma, "part.total": 1 / epoch, "gap.open": 1.0},
                **(metrics(gamma) if epoch % 2 == 0 else {}),
            )
            for epoch in range(1, 6)
        ]
        write_run(tmp_path, "mine", f"trial-{trial:04d}", rows)
    end = {"status": "failed", "epoch": 0, "error": "node lost", "trial": 3, "stage": "tune", "space": "lac"}
    write_end(Place(tmp_path), "mine", "trial-0003", end)
    made = reported(tmp_path)
    table = table_of(made, "trials-mine")
    assert table.header == ["trial", "loss.gamma", "objective", "epochs", "status", "seconds"]
    told = [[line.label, *texts(line)] for line in table.lines if line.kind == "method"]
    assert told[2] == ["2", "0.9", "72.00", "5", "done", "50"]
    assert told[3] == ["3", "–", "–", "0", "failed", "–"]
    assert "trial 3: node lost" in table.notes
    assert "Pour_3 left out: one phase." in table.notes
    assert table.lines[2].marked
    for written in (formats.markdown(made), formats.latex(made), page.page(made)):
        assert not re.search(r"\bnan\b", written, re.IGNORECASE)
    train_rows = [
        base(stage="train", split=split, epoch=epoch, status=status, notes=notes, **values)
        for epoch, split, status, notes, values in (
            (1, "val", "running", ["two videos left out"], metrics(0.9)),
            (2, None, "done", None, {}),
        )
    ]
    write_run(tmp_path, "mine", "train-s0", train_rows)
    final = table_of(reported(tmp_path), "final-simpouring-full")
    assert entry(final, "mine", "Class@10").text == "90.00"
    assert "Two videos left out." in final.notes
