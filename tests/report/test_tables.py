"""The tables from rows: numbers by hand, dashes, controls, published figures, paired tests."""

from __future__ import annotations

import datetime
import itertools
import math
import statistics
from typing import get_args

import pytest
from campaign import (
    START,
    base,
    campaign,
    entry,
    line_of,
    metrics,
    reported,
    table_of,
    texts,
    write_controls,
    write_grid,
    write_run,
    write_study,
)

from analysis import formats, page, paired
from analysis.printed import Line, Table, spread
from analysis.sources import NULLABLE, published
from lacray.config import Config
from lacray.results import Place, write_manifest

METHODS = {"lac": 0.92, "scl": 0.9, "tcc": 0.8}


def methods(uri, dataset="simpouring", seeds=(0, 1, 2)):
    points = [{"loss.name": name, "variant": name.upper()} for name in METHODS]
    # LAC is 0.02 above SCL in every seed, but for what a seed adds to it alone.
    level = lambda point, seed: METHODS[point["loss.name"]] + 0.01 * seed * (1 + (point["loss.name"] == "lac"))  # noqa: E731
    write_grid(uri, "methods", "paper/methods.yaml", points, level, seeds, **{"data.root": dataset})


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_cell_is_the_mean_and_the_sample_deviation_over_seeds_with_n(made):
    table = table_of(made, "final-simpouring-full")
    values = [100 * (0.9 + 0.01 * seed - 0.3 / 12) for seed in range(3)]
    expected = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert entry(table, "lac", "Class@10").text == expected == "88.50 ± 1.00"
    assert entry(table, "lac", "n").text == "3"
    cropped = table_of(made, "final-simpouring-cropped")
    assert entry(cropped, "lac", "τ").text == "66.50 ± 1.00"
    assert entry(cropped, "lac", "Event error ↓").text == "12.30 ± 0.20"
    assert entry(cropped, "lac", "Align. error ↓").text == "0.61 ± 0.01"


def test_the_controls_stand_in_every_table_of_runs(made):
    for table in made.all_tables():
        if table.key.startswith("importance") or table.key.endswith(("gain", "tests")):
            continue
        kinds = [line.label for line in table.lines if line.kind == "control"]
        assert kinds == ["untrained encoder", "positions only"], table.key
    final = table_of(made, "final-simpouring-full")
    assert entry(final, "untrained encoder", "Class@10").text == "55.20 ± 0.20"
    assert entry(final, "untrained encoder", "n").text == "3"
    assert entry(table_of(made, "table_4-simpouring-full"), "positions only", "Class@100").text == "58.20 ± 0.20"
    # Of two seeds where the runs have two.
    assert entry(table_of(made, "table_5-simpouring-full"), "positions only", "Class@100").text == "58.10 ± 0.14"


def test_what_was_not_run_is_a_dash_and_never_zero(made):
    formulation = table_of(made, "table_5-simpouring-full")
    labels = [line.label for line in formulation.lines if line.kind == "method"]
    assert labels == ["L_c", "L_c + L_l", "L_c + L_l + L_sw", "lacray", "L_c + L_sw", "released"]
    for label in ("L_c + L_sw", "released"):
        assert set(texts(line_of(formulation, label))) == {"–"}
    assert set(texts(line_of(table_of(made, "table_4-simpouring-full"), "0.9"))) == {"–"}
    for table in made.all_tables():
        shown = [text for line in table.lines for text in texts(line)]
        assert "0.00" not in shown
        assert all("nan" not in text.lower() for text in shown)


def test_tables_without_any_run_are_named_in_one_line_with_their_command(made):
    shown = {section.key for section in made.sections}
    assert {"final", "table_4", "table_5"} <= shown
    assert not {"table_1", "table_3", "lead_in"} & shown
    (line,) = [line for line in made.missing if "lacray.tune" in line]
    assert line.startswith("Table 1 and Table 2, Table 3, local against global alignment, ")
    assert "python -m lacray.tune paper/methods.yaml paper/encoders.yaml beyond/alignment.yaml" in line
    assert "gamma.yaml" not in line


def test_table_4_stands_beside_the_published_curve(made):
    table = table_of(made, "table_4-simpouring-full")
    published_lines = {line.label: texts(line) for line in table.lines if line.kind == "published"}
    assert {label: row[1] for label, row in published_lines.items()} == {
        "0.6, published (Pouring)": "93.44",
        "0.7, published (Pouring)": "94.87",
        "0.8, published (Pouring)": "95.16",
        "0.9, published (Pouring)": "93.93",
    }
    assert {text for row in published_lines.values() for text in row[2:]} == {"–"}
    # 0.91 + 0.01 x seed, class_100 0.02 below class_10
    assert entry(table, "0.7", "Class@100").text == "90.00 ± 1.00"
    assert entry(table, "0.8", "Class@100").rank == 1
    assert entry(table, "0.7", "Class@100").rank == 2
    assert entry(table, "0.6", "Class@100").rank is None
    assert "difference" not in {line.kind for line in table.lines}
    assert any("for reference only" in note for note in table.notes)
    assert [line.label for line in table.lines[:4]] == ["0.6", "0.7", "0.8", "1"]


def test_table_5_has_the_gain_of_the_local_alignment_loss_beside_the_published_one(made):
    gain = table_of(made, "table_5-simpouring-gain")
    assert texts(line_of(gain, "published (Pouring)")) == ["", "+1.72", "+2.12", "+2.57"]
    assert texts(line_of(gain, "ours, cropped (SimPouring)")) == ["2", *3 * ["+3.00 ± 0.00"]]
    table = table_of(made, "table_5-simpouring-full")
    assert entry(table, "lacray", "Class@10").text == "91.00 ± 1.41"


def test_equal_means_of_other_seeds_are_marked_alike():
    # As shares 0.29 and (0.28 + 0.30) / 2: their last digits differ.
    cells = [spread([0.29, 0.29], 100), spread([0.28, 0.30], 100), spread([0.2], 100), spread([0.1], 100)]
    assert cells[0].value != cells[1].value
    lines = [Line(str(number), [cell]) for number, cell in enumerate(cells)]
    Table("", "", ["", "a"], lines, ["max"]).mark()
    assert [cell.rank for cell in cells] == [1, 1, 2, None]


def test_the_best_of_a_column_is_marked_and_less_is_better_for_errors(made):
    table = table_of(made, "final-simpouring-cropped")
    assert entry(table, "lac", "Class@10").rank == 1
    assert entry(table, "lac", "Event error ↓").rank == 1
    assert entry(table, "positions only", "Event error ↓").rank == 2
    assert entry(table, "untrained encoder", "Event error ↓").rank is None


def test_a_control_that_wins_is_marked(tmp_path):
    write_run(tmp_path, "s", "train-s0", [base(stage="train", split="val", **metrics(0.3))])
    write_controls(tmp_path, "s", "train", ["val"])
    table = table_of(reported(tmp_path), "final-simpouring-full")
    assert entry(table, "positions only", "τ").rank == 1
    assert entry(table, "s", "τ").rank is None
    assert entry(table, "s", "τ").text == "23.00"  # one seed has no deviation


def test_differences_are_taken_only_where_the_data_set_is_the_papers(tmp_path):
    campaign(tmp_path, dataset="/data/Pouring", num_trials=1)
    made = reported(tmp_path)
    final = table_of(made, "final-Pouring-full")
    own = [line.label for line in final.lines]
    assert own[:3] == ["lac", "published (LAC, Table 1)", "ours − published"]
    assert entry(final, "published (LAC, Table 1)", "Class@10").text == "95.87"
    assert entry(final, "published (LAC, Table 1)", "τ").text == "97.50"
    assert entry(final, "ours − published", "Class@10").text == "−7.37"  # 88.50 - 95.87
    assert entry(final, "ours − published", "Event error ↓").text == "–"
    gamma = table_of(made, "table_4-Pouring-full")
    rows = {line.label: gamma.lines[at + 1 : at + 3] for at, line in enumerate(gamma.lines)}
    assert [texts(line)[1] for line in rows["0.8"]] == ["95.16", "−3.16"]  # 92.00 - 95.16
    assert {line.kind for line in table_of(made, "final-Pouring-cropped").lines} == {"method", "control"}


def test_no_difference_is_taken_of_figures_on_the_validation_share(tmp_path):
    write_study(tmp_path, "methods", "paper/methods.yaml")
    own = {"loss.name": "lac", "variant": "LAC", "data.root": "/data/pouring"}
    write_run(tmp_path, "methods", "trial-0000", [base(**own, **metrics(0.9))])
    table = table_of(reported(tmp_path), "table_1-pouring-validation-full")
    assert entry(table, "LAC", "Class@10").text == "90.00"
    assert "published (Table 1)" in [line.label for line in table.lines]
    assert "ours − published" not in [line.label for line in table.lines]


def test_only_the_report_split_of_finished_runs_is_a_final_training(tmp_path):
    rows = [
        base(stage="train", split=split, epoch=e, status=s, **metrics(level))
        for split, e, s, level in (
            ("val", 6, "running", 0.1),
            ("validation", 12, "running", 0.2),
            ("val", 12, "done", 0.9),
        )
    ]
    write_run(tmp_path, "s", "train-s0", rows)
    write_run(tmp_path, "s", "train-s1", [base(stage="train", split="val", seed=1, status="running", **metrics(0.1))])
    write_run(tmp_path, "s", "trial-0000", [base(split="val", trial=0, **metrics(0.1))])
    # The same seed again, later: the later one counts, once.
    later = START + datetime.timedelta(hours=1)
    write_run(tmp_path, "s", "train-s2-old", [base(stage="train", split="val", seed=2, **metrics(0.1))])
    write_run(tmp_path, "s", "train-s2-new", [base(stage="train", split="val", seed=2, time=later, **metrics(0.7))])
    table = table_of(reported(tmp_path), "final-simpouring-full")
    assert entry(table, "s", "Class@10").text == "80.00 ± 14.14"
    assert entry(table, "s", "n").text == "2"
    assert any("1 of 4 runs are not finished" in note for note in table.notes)


def test_a_grid_that_scored_only_the_validation_videos_says_so(tmp_path):
    write_study(tmp_path, "grid", "paper/gamma.yaml")
    for seed in (0, 1):
        row = base(trial=seed, seed=seed, **{"loss.gamma": 0.7}, **metrics(0.8))
        write_run(tmp_path, "grid", f"trial-{seed:04d}", [row])
    table = table_of(reported(tmp_path), "table_4-simpouring-validation-full")
    assert entry(table, "0.7", "Class@100").text == "78.00 ± 0.00"
    assert any("validation share of the training videos" in note for note in table.notes)


def test_two_settings_of_one_study_are_two_lines_named_by_what_differs(tmp_path):
    for gamma in (0.5, 0.8):
        row = base(stage="train", split="val", **{"loss.gamma": gamma}, **metrics(gamma))
        write_run(tmp_path, "s", f"train-{gamma}", [row])
    table = table_of(reported(tmp_path), "final-simpouring-full")
    assert [line.label for line in table.lines if line.kind == "method"] == ["s (loss.gamma 0.5)", "s (loss.gamma 0.8)"]
    assert set(texts(line_of(table, "untrained encoder"))) == {"–"}


def test_cells_of_two_keys_are_two_lines_of_a_table_and_what_differs_is_said(tmp_path):
    points = [{"loss.gamma": 0.7, "fit.epochs": 20}, {"loss.gamma": 0.7, "fit.epochs": 40}]
    write_grid(tmp_path, "gamma", "paper/gamma.yaml", points, lambda point, _: point["fit.epochs"] / 50, seeds=(0,))
    table = table_of(reported(tmp_path), "table_4-simpouring-full")
    assert entry(table, "0.7 (fit.epochs 20)", "Class@10").text == "40.00"
    assert entry(table, "0.7 (fit.epochs 40)", "Class@10").text == "80.00"
    assert any(
        "lines differ in fit.epochs (20: 0.7 (fit.epochs 20); 40: 0.7 (fit.epochs 40))" in n for n in table.notes
    )


def differing(uri, **of_one):
    """The notes of a table of a line with settings of its own and one without them."""
    write_study(uri, "methods", "paper/methods.yaml")
    for number, (name, own) in enumerate((("lac", of_one), ("scl", {}))):
        row = base(split="val", trial=number, **{"loss.name": name, "variant": name.upper(), **own}, **metrics(0.9))
        write_run(uri, "methods", f"trial-{number:04d}", [row])
    return table_of(reported(uri), "table_1-simpouring-full")


def test_a_setting_that_a_version_lacked_is_no_difference_but_said_with_its_value(tmp_path):
    table = differing(tmp_path, **{"data.position_shift": 31.0, "fit.learning_rate": 0.01})
    assert [line.label for line in table.lines if line.kind == "method" and texts(line)[0] == "1"] == ["SCL", "LAC"]
    assert not any("lines differ" in note for note in table.notes)
    told = "did not have data.position_shift (31 in the others), fit.learning_rate (0.01 in the others)."
    assert f"The version of some lines {told}" in table.notes


def test_a_setting_that_may_be_null_is_a_difference_where_one_line_has_it(tmp_path):
    table = differing(tmp_path, **{"data.lead_in": 0.0, "fit.epochs": 30})
    told = "lines differ in data.lead_in (–: SCL; 0: LAC), fit.epochs (12: SCL; 30: LAC)."
    assert f"Beside the loss, {told}" in table.notes
    assert not any("version" in note for note in table.notes)


def test_a_setting_that_a_version_lacked_is_a_difference_where_the_others_differ_in_it(tmp_path):
    write_study(tmp_path, "methods", "paper/methods.yaml")
    for name, own in {"lac": {}, "scl": {"data.position_shift": 0.0}, "tcc": {"data.position_shift": 31.0}}.items():
        row = base(split="val", **{"loss.name": name, "variant": name.upper(), **own}, **metrics(0.9))
        write_run(tmp_path, "methods", f"trial-{name}", [row])
    notes = table_of(reported(tmp_path), "table_1-simpouring-full").notes
    assert "Beside the loss, lines differ in data.position_shift (31: TCC; 0: SCL; –: LAC)." in notes
    assert not any("version" in note for note in notes)


def test_the_settings_that_may_be_null_are_those_of_the_configuration():
    sections = {name: type(getattr(Config(), name)) for name in Config.model_fields if name not in ("seed", "loss")}
    fields = {f"{name}.{key}": own for name, kind in sections.items() for key, own in kind.model_fields.items()}
    assert len(fields) > 40
    assert {key for key, own in fields.items() if type(None) in get_args(own.annotation)} == set(NULLABLE)


# --- methods, columns, actions ---------------------------------------------------------------------------------------


def test_the_methods_of_a_grid_are_table_1_on_its_own_data_and_table_2_on_penn_action(tmp_path):
    methods(tmp_path / "a", "/data/penn_action")
    made = reported(tmp_path / "a")
    assert [section.key for section in made.sections] == ["table_2", "study-methods"]
    table = table_of(made, "table_2-penn_action-full")
    own = [line.label for line in table.lines if line.kind == "method"]
    assert own == ["TCC", "SCL", "LAC", "TCN", "LAV", "GTA", "LRProp"]
    at = next(number for number, line in enumerate(table.lines) if line.label == "LAC")
    assert texts(table.lines[at + 1])[1] == "95.57"
    assert any("mean of 13 per-action figures" in note for note in table.notes)
    methods(tmp_path / "b")
    assert "table_1" in {section.key for section in reported(tmp_path / "b").sections}


def test_a_tuned_study_of_one_method_stands_in_the_table_by_its_final_trainings(tmp_path):
    methods(tmp_path)
    write_study(tmp_path, "tuned", "tuned/tuned_lac.yaml")
    for seed in range(2):
        row = base(stage="train", split="val", seed=seed, **{"loss.gamma": 0.3, "fit.epochs": 30}, **metrics(0.95))
        write_run(tmp_path, "tuned", f"train-{seed}", [row])
        write_run(tmp_path, "tuned", f"trial-{seed:04d}", [base(trial=seed, **metrics(0.99))])
    table = table_of(reported(tmp_path), "table_1-simpouring-full")
    assert entry(table, "LAC (study methods)", "Class@10").text == "94.00 ± 2.00"
    assert entry(table, "LAC (study tuned)", "Class@10").text == "95.00 ± 0.00"


def test_each_line_says_of_which_study_it_is_and_what_that_says_of_itself(tmp_path):
    methods(tmp_path)
    write_study(tmp_path, "tuned", "tuned/tuned_lac.yaml")
    for study, epochs in (("tuned", 30), ("scl-published", 500)):
        for seed in range(2):
            row = base(stage="train", split="val", seed=seed, **{"fit.epochs": epochs}, **metrics(0.95))
            write_run(tmp_path, study, f"train-{seed}", [row])
    made = reported(tmp_path)
    told = (
        "Runs of TCC, SCL, LAC (study methods): study methods (Tables 1 and 2, methods on one footing); "
        "LAC (study tuned): study tuned (LAC, tuned), trained in full."
    )
    for key in ("full", "cropped", "full-fractions", "cropped-fractions"):
        assert told in table_of(made, f"table_1-simpouring-{key}").notes, key
    final = "Runs of scl-published, train without a study; study tuned (LAC, tuned), trained in full."
    assert final in table_of(made, "final-simpouring-full").notes
    for text in (formats.markdown(made), formats.latex(made), page.page(made)):
        assert text.count(told) == 4
        assert text.count(final) == 4


def test_what_is_true_of_all_studies_of_a_table_is_said_once(tmp_path):
    for name in ("lac", "scl"):
        write_study(tmp_path, f"tuned_{name}", f"tuned/tuned_{name}.yaml")
        row = base(stage="train", split="val", **{"loss.name": name}, **metrics(0.9))
        write_run(tmp_path, f"tuned_{name}", "train-0", [row])
    told = "Runs of SCL: study tuned_scl (SCL, tuned); LAC: study tuned_lac (LAC, tuned); each trained in full."
    made = reported(tmp_path)
    assert told in table_of(made, "table_1-simpouring-full").notes
    assert told.replace("_", r"\_") in formats.latex(made)
    assert told in formats.markdown(made)


def test_a_study_that_describes_itself_in_paragraphs_has_one_line(tmp_path):
    # A paragraph would end a caption of LaTeX.
    space = {"description": "Gamma,\n\nonce more.\n", "feeds": ["table_4"], "rows": ["loss.gamma"], "sampler": "grid"}
    assert write_manifest(Place(str(tmp_path)), "gamma", {"space": space})
    write_run(tmp_path, "gamma", "trial-0000", [base(split="val", trial=0, **{"loss.gamma": 0.7}, **metrics(0.8))])
    assert "Runs of study gamma (Gamma, once more)." in table_of(reported(tmp_path), "table_4-simpouring-full").notes


def test_a_mean_over_actions_is_of_the_studies_of_all_of_them(tmp_path):
    for action in ("bowl", "squat"):
        write_study(tmp_path, action, "paper/methods.yaml")
        own = {"data.root": "/data/penn_action", "data.action": action, "videos": action, "variant": "LAC"}
        write_run(tmp_path, action, "trial-0000", [base(split="val", trial=0, **own, **metrics(0.9))])
    described = "(Tables 1 and 2, methods on one footing)"
    told = f"Runs of study bowl {described}, study squat {described}."
    assert told in table_of(reported(tmp_path), "table_2-penn_action-full").notes


def test_settings_as_columns_are_a_table_a_metric_with_the_controls_of_each_column(tmp_path):
    write_study(tmp_path, "lead_in", "beyond/lead_in.yaml")
    points = itertools.product((0.0, 0.5), {"local": 0.9, "dtw": 0.8}.items(), (0, 1))
    for number, (lead_in, (alignment, level), seed) in enumerate(points):
        own = {"data.lead_in": lead_in, "loss.alignment": alignment, "seed": seed, "trial": number, "split": "val"}
        value = metrics(level - lead_in * (0.1 if alignment == "local" else 0.4) + 0.01 * seed)
        write_run(tmp_path, "lead_in", f"trial-{number:04d}", [base(**own, videos=f"v{lead_in}", **value)])
    for lead_in in (0.0, 0.5):
        own = {"data.lead_in": lead_in, "control": "untrained", "split": "val", "videos": f"v{lead_in}"}
        row = base(**own, **metrics(0.3 + lead_in / 10))
        write_run(tmp_path, "lead_in", f"control-{lead_in}-untrained", [row])
    made = reported(tmp_path)
    table = table_of(made, "lead_in-simpouring-full-class_10")
    assert table.header == ["alignment / lead_in", "n", "0", "0.5"]
    told = {line.label: texts(line) for line in table.lines}
    assert told == {
        "soft_sw": ["2", "90.50 ± 0.71", "85.50 ± 0.71"],
        "soft_dtw": ["2", "80.50 ± 0.71", "60.50 ± 0.71"],
        "soft_nw": ["–", "–", "–"],
        "untrained encoder": ["1", "30.00", "35.00"],
        "positions only": ["–", "–", "–"],
    }
    (section,) = [section for section in made.sections if section.key == "lead_in"]
    assert [figure.name for figure in section.figures] == ["lead_in-simpouring-full", "lead_in-simpouring-cropped"]


def test_variants_as_columns_may_have_videos_and_settings_of_their_own(tmp_path):
    write_study(tmp_path, "lead_in_features", "beyond/lead_in_features.yaml")
    points = itertools.product((0, 50), {"local": 0.9, "dtw": 0.8}.items(), (0, 1))
    for number, (share, (alignment, level), seed) in enumerate(points):
        own = {"variant": f"{share} %", "data.root": f"led_in-{share:02d}/simpouring", "videos": f"v{share}"}
        own |= {"loss.alignment": alignment, "seed": seed, "trial": number, "split": "val"}
        row = base(**own, **metrics(level - share / 1000 + 0.01 * seed))
        write_run(tmp_path, "lead_in_features", f"trial-{number:04d}", [row])
    made = reported(tmp_path)
    table = table_of(made, "lead_in_features-simpouring-full-class_10")
    assert table.header == ["alignment / variant", "n", "0 %", "50 %"]
    told = {line.label: texts(line) for line in table.lines if line.kind == "method"}
    assert told == {
        "soft_sw": ["2", "90.50 ± 0.71", "85.50 ± 0.71"],
        "soft_dtw": ["2", "80.50 ± 0.71", "75.50 ± 0.71"],
        "soft_nw": ["–", "–", "–"],
    }
    (section,) = [section for section in made.sections if section.key == "lead_in_features"]
    assert section.figures[0].name == "lead_in_features-simpouring-full"
    assert "Class@10 over lead-in (% of the video)" in section.figures[0].caption


def test_actions_of_a_joint_training_have_a_table_and_trainings_on_one_each_are_averaged(tmp_path):
    joint = {
        **metrics(0.8),
        "action.bowl.full.class_10": 0.9,
        "action.squat.full.class_10": 0.7,
        "num_actions.full.class_10": 2,
    }
    row = base(stage="train", split="val", **{"data.root": "/data/penn_action"}, **joint)
    write_run(tmp_path, "joint", "train-s0", [row])
    for action, level in (("bowl", 0.9), ("squat", 0.6)):
        for seed in (0, 1):
            own = {"data.root": "/data/penn_action", "data.action": action, "videos": action, "seed": seed}
            row = base(stage="train", split="val", **own, **metrics(level + 0.1 * seed))
            write_run(tmp_path, "alone", f"train-{action}-{seed}", [row])
            control = base(stage="train", control="untrained", split="val", **own, **metrics(level / 2))
            write_run(tmp_path, "alone", f"train-{action}-{seed}-untrained", [control])
    made = reported(tmp_path)
    table = table_of(made, "final-penn_action-full-actions-joint")
    assert {line.label: texts(line)[1] for line in table.lines} == {"bowl": "90.00", "squat": "70.00"}
    table = table_of(made, "final-penn_action-full-actions-alone, each trained alone")
    assert {line.label: texts(line)[1] for line in table.lines} == {"bowl": "95.00 ± 7.07", "squat": "65.00 ± 7.07"}
    final = table_of(made, "final-penn_action-full")
    assert "mean of 2 actions, each trained alone" in final.title
    assert entry(final, "alone", "Class@10").text == "80.00 ± 7.07"  # (0.9 + 0.6) / 2 and 0.1 above it
    assert entry(final, "joint", "Class@10").text == "80.00"
    # The joint training's were not scored; those of the actions are averaged as the trainings are.
    controls = [texts(line)[1] for line in final.lines if line.label == "untrained encoder"]
    assert controls == ["–", "37.50 ± 0.00"]


def test_classification_over_the_shares_of_labels_has_both_classifiers(made):
    table = table_of(made, "final-simpouring-cropped-fractions")
    assert table.header[2:] == [
        *(f"Class@{share}" for share in (10, 50, 100)),
        *(f"Class@{share} logistic" for share in (10, 50, 100)),
    ]
    # 0.9 + 0.01 - 0.3 / 12 = 0.885, 0.15 and 0.02 below it
    assert entry(table, "lac", "Class@50 logistic").text == "71.50 ± 1.00"


def test_classification_over_random_draws_of_the_labelled_videos_stands_beside_that_over_the_first(tmp_path):
    write_study(tmp_path, "methods", "paper/methods.yaml")
    # What a row has with `evaluation.label_draws`: how far below its level, and the deviation over draws, no column.
    drops = {"class_10_draws": 0.05, "class_50_draws": 0.04, "class_10_logistic_draws": 0.07}
    drops["class_50_logistic_draws"] = 0.06
    arms = {("lac", "none"): 0.9, ("scl", "none"): 0.8, ("lac", "untrained"): 0.5, ("lac", "positions"): 0.6}
    for (name, control), level in arms.items():
        for seed in (0, 1):
            own = {"loss.name": name, "variant": name.upper(), "control": control, "seed": seed, "split": "val"}
            own["evaluation.label_draws"] = 5
            values = metrics(level + 0.02 * seed)
            for protocol, lower in (("full", 0.0), ("cropped", 0.3)):
                for metric, drop in drops.items():
                    values[f"metric.{protocol}.{metric}"] = level + 0.02 * seed - lower - drop
                    values[f"metric.{protocol}.{metric}_sd"] = 0.01
            run_id = f"trial-{name}-{seed}" + ("" if control == "none" else f"-{control}")
            write_run(tmp_path, "methods", run_id, [base(trial=seed, **own, **values)])
    made = reported(tmp_path)
    drawn = ["Class@10 drawn", "Class@50 drawn", "Class@10 logistic drawn", "Class@50 logistic drawn"]
    expected = {
        # The mean over two seeds 0.02 apart is 0.01 above the level; full, then cropped.
        "LAC": (["86.00", "87.00", "84.00", "85.00"], ["56.00", "57.00", "54.00", "55.00"]),
        "SCL": (["76.00", "77.00", "74.00", "75.00"], ["46.00", "47.00", "44.00", "45.00"]),
        "untrained encoder": (["46.00", "47.00", "44.00", "45.00"], ["16.00", "17.00", "14.00", "15.00"]),
        "positions only": (["56.00", "57.00", "54.00", "55.00"], ["26.00", "27.00", "24.00", "25.00"]),
    }
    for number, protocol in enumerate(("full", "cropped")):
        table = table_of(made, f"table_1-simpouring-{protocol}-fractions")
        assert table.header == [
            *("method", "n", "Class@10", "Class@50", "Class@100", *drawn[:2]),
            *("Class@10 logistic", "Class@50 logistic", "Class@100 logistic", *drawn[2:]),
        ]
        for label, figures in expected.items():
            shown = [entry(table, label, column).text for column in drawn]
            assert shown == [f"{mean} ± 1.41" for mean in figures[number]], (protocol, label)
        assert [entry(table, "LAC", column).rank for column in drawn] == [1, 1, 1, 1]
        assert any("drawn: the mean over random draws" in note for note in table.notes)
    # Beside the first videos' own: 0.9 and 0.01 a metric below it.
    table = table_of(made, "table_1-simpouring-full-fractions")
    assert entry(table, "LAC", "Class@50").text == "90.00 ± 1.41"
    assert all(text.count(column) >= 2 for column in drawn for text in (formats.markdown(made), page.page(made)))


# --- paired tests ----------------------------------------------------------------------------------------------------


def brute_force(found):
    """Share of all sign patterns whose sum is at least as far from 0."""
    seen = abs(sum(found))
    patterns = list(itertools.product((-1, 1), repeat=len(found)))
    return sum(abs(sum(s * d for s, d in zip(p, found, strict=True))) >= seen - 1e-12 for p in patterns) / len(patterns)


@pytest.mark.parametrize(
    ("found", "by_hand"),
    [
        ([0.5, 0.25], 0.5),  # two of four patterns
        ([1.0, 2.0, 3.0], 0.25),
        ([1.0, 2.0, -3.0], 1.0),
        ([-0.009, -0.001, 0.008, 0.007, -0.005], 1.0),  # their sum is 0, but for its rounding
        ([1.0, 1.0, 1.0, -1.0], 0.625),  # |sum| >= 2 in 10 of 16
        ([3.0, 1.0, 2.0, 4.0, 0.5, 2.5], 2 / 64),
    ],
)
def test_the_sign_flip_test_counts_patterns(found, by_hand):
    assert paired.sign_flip_p(found) == pytest.approx(by_hand) == pytest.approx(brute_force(found))
    assert paired.sign_flip_p([-value for value in found]) == pytest.approx(by_hand)


def test_one_pair_has_no_p_and_many_pairs_are_drawn():
    assert paired.sign_flip_p([0.3]) is None
    assert paired.sign_flip_p([]) is None
    assert paired.sign_flip_p([0.01] * 30) == pytest.approx(2**-20, rel=1)
    assert paired.sign_flip_p([0.01, -0.01] * 15) == 1.0
    assert paired.smallest_p(3) == 0.25


def test_twenty_pairs_are_tested_exactly():
    # |k - 10| >= 5 of 20 signs: the binomial's two tails.
    assert paired.sign_flip_p([1.0] * 15 + [-1.0] * 5) == 2 * sum(math.comb(20, k) for k in range(6)) / 2**20
    assert paired.sign_flip_p([0.01] * 20) == paired.smallest_p(20) == 2**-19
    # Drawn patterns say the same, to what so many tell.
    drawn = paired.sign_flip_p([1.0] * 15 + [-1.0] * 6)
    assert drawn == pytest.approx(2 * sum(math.comb(21, k) for k in range(7)) / 2**21, rel=0.02)


def test_holm_multiplies_the_smallest_p_by_all_and_never_falls():
    # By hand: 0.01 x 4, 0.02 x 3, 0.03 x 2 (0.06 as well), 0.9 x 1; in the order that was given.
    assert paired.holm([0.03, 0.9, 0.01, 0.02]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert paired.holm([0.6, 0.7]) == [1.0, 1.0]
    assert paired.holm([]) == []


def test_methods_are_compared_with_scl_and_the_best_with_the_runner_up_seed_by_seed(tmp_path):
    methods(tmp_path)
    table = table_of(reported(tmp_path), "table_1-simpouring-full-tests")
    assert [line.label for line in table.lines] == ["best − runner-up", "TCC − SCL", "LAC − SCL"]
    # LAC less SCL is 0.02, 0.03, 0.04 over the seeds: all of one sign, p 2 / 2^3.
    assert entry(table, "LAC − SCL", "Class@10").text == "+3.00 (0.25)"
    assert entry(table, "TCC − SCL", "Class@10").text == "−10.00 (0.25)"
    assert entry(table, "best − runner-up", "Class@10").text == "LAC − SCL: +3.00 (0.25)"
    assert entry(table, "LAC − SCL", "n").text == "3"
    assert any(
        "With 3 pairs the smallest p that this test can give is 0.25: nothing here can" in n for n in table.notes
    )


def test_a_difference_of_fewer_pairs_than_its_line_says_so(tmp_path):
    write_study(tmp_path, "methods", "paper/methods.yaml")
    for name, level in METHODS.items():
        for seed in range(3):
            values = metrics(level + 0.01 * seed)
            if (name, seed) == ("lac", 0):
                del values["metric.full.kendalls_tau"]
            row = base(**{"loss.name": name, "variant": name, "seed": seed, "split": "val"}, **values)
            write_run(tmp_path, "methods", f"trial-{name}-{seed}", [row])
    table = table_of(reported(tmp_path), "table_1-simpouring-full-tests")
    assert entry(table, "LAC − SCL", "n").text == "3"
    assert entry(table, "LAC − SCL", "Class@10").text == "+2.00 (0.25)"
    assert entry(table, "LAC − SCL", "τ").text == "+2.00 (0.5) (n 2)"
    assert entry(table, "best − runner-up", "τ").text == "LAC − SCL: +2.00 (0.5) (n 2)"


def test_with_six_seeds_a_difference_can_be_significant(tmp_path):
    methods(tmp_path, seeds=range(6))
    table = table_of(reported(tmp_path), "table_1-simpouring-full-tests")
    assert entry(table, "LAC − SCL", "Class@10").text == "+4.50 (0.031)"
    assert not any("smallest p" in note for note in table.notes)


# --- the paper -------------------------------------------------------------------------------------------------------


def test_published_numbers_are_those_of_the_paper():
    paper = published()["tables"]
    # Checksums by hand from Tables 1 and 2: the sums of LAC's printed figures.
    assert sum(paper["table_1"]["rows"]["LAC"]) == pytest.approx(753.75)
    assert sum(paper["table_2"]["rows"]["LAC"]) == pytest.approx(751.00)
    assert all(len(row) == 8 for name in ("table_1", "table_2") for row in paper[name]["rows"].values())
    assert paper["table_4"]["rows"][0.8] == {"class_100": paper["table_1"]["rows"]["LAC"][2]}
    assert paper["table_5"]["differences"] == [
        {"of": "L_c + L_l", "over": "L_c", "values": {"class_100": 1.72, "progress": 2.12, "kendalls_tau": 2.57}}
    ]
    assert "rows" not in paper["table_3"]
    assert "rows" not in paper["table_5"]
