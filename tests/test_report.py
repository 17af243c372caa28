"""The report from rows that look like a small campaign: numbers by hand, dashes, controls, formats, errors."""

import datetime
import html.parser
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from lacray.results import Place, RunWriter, read, write_end

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from analysis import figures, report, tables  # noqa: E402

NAMES = ("class_10", "class_50", "class_100", "ap_5", "ap_10", "ap_15", "progress", "kendalls_tau")
START = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def metrics(level, rng=None, exact=False):
    """Metrics around a level in 0..1, the cropped ones lower."""
    values = {}
    for protocol, drop in (("full", 0.0), ("cropped", 0.15)):
        for i, name in enumerate(NAMES):
            noise = 0.0 if rng is None else float(rng.normal(0, 0.01))
            values[f"metric.{protocol}.{name}"] = level - drop - 0.01 * i + noise
        for p in (10, 50, 100):
            values[f"metric.{protocol}.class_{p}_logistic"] = level - drop - 0.02
        values[f"metric.{protocol}.event_error"] = 0.3 - 0.2 * level
        if exact:
            values[f"metric.{protocol}.alignment_error"] = 1.5 - level
    keys = [f"metric.cropped.{name}" for name in ("class_10", "progress", "ap_5")]
    values["metric.objective"] = statistics.fmean(values[key] for key in keys)
    return values


def base(**columns):
    return {
        "stage": "tune",
        "status": "done",
        "control": "none",
        "split": "validation",
        "seed": 0,
        "epoch": 12,
        "seconds": 61.4,
        "commit": "abc1234",
        "lacray_version": "0.1.0",
        "op_backend": "cpu",
        "device": "cpu",
        "world_size": 1,
        "time": START,
        "data.root": "simpouring",
        "encoder.name": "small",
        "evaluation.stride": 5,
        **columns,
    }


def write_run(uri, study, run_id, rows):
    RunWriter(str(uri), study, run_id).append(rows)


def write_controls(uri, study, prefix, stage, splits, seed=0, **columns):
    for control, level in (("untrained", 0.55), ("positions", 0.6)):
        rows = [
            base(
                stage=stage,
                control=control,
                split=split,
                seed=seed,
                epoch=0,
                **metrics(level + 0.002 * seed),
                **columns,
            )
            for split in splits
        ]
        write_run(uri, study, f"{prefix}-{control}", rows)


def campaign(uri, dataset="simpouring", num_trials=12):
    """A study of the space lac with its final trainings, a gamma grid and a formulation grid."""
    rng = np.random.default_rng(0)
    where = {"data.root": dataset, "space": "lac"}
    for trial in range(num_trials):
        gamma, tau = float(10 ** rng.uniform(-1.3, 0.3)), float(10 ** rng.uniform(-1.5, -0.3))
        level = 0.92 - 0.25 * abs(math.log10(gamma / 0.6)) - 0.03 * abs(math.log10(tau / 0.1))
        ends = {5: ("pruned", 4), 8: ("failed", 8)}.get(trial, ("done", 12))
        rows = []
        for epoch in range(4, ends[1] + 1, 4):
            status = ends[0] if epoch == ends[1] else "running"
            rows.append(
                base(
                    **{
                        **where,
                        "trial": trial,
                        "epoch": epoch,
                        "status": status,
                        "seconds": 5.0 * epoch + trial,
                        "loss.gamma": gamma,
                        "loss.tau": tau,
                        "loss.score_sign": 1 - 2 * (trial % 2),
                        "loss.preset": "lacray",
                        "gap.open": 1.0 + 0.02 * epoch * (trial % 3),
                        "gap.extend": 0.5 - 0.01 * epoch,
                        "error": "step 41: L_sw is inf (videos pour_3, pour_9)" if status == "failed" else None,
                        **metrics(level - 0.2 / epoch, rng, exact=True),
                    }
                )
            )
        write_run(uri, "lac", f"trial-{trial:04d}", rows)
    write_controls(uri, "lac", "control", "tune", ["validation"], **where)
    for seed in range(3):
        rows = [
            base(
                **{
                    "data.root": dataset,
                    "stage": "train",
                    "split": "val",
                    "seed": seed,
                    "epoch": epoch,
                    "status": "done" if epoch == 12 else "running",
                    "loss.gamma": 0.6,
                    "gap.open": 1.0 + 0.03 * epoch + 0.1 * seed,
                    "gap.extend": 0.5 - 0.02 * epoch,
                    **metrics(0.9 + 0.01 * seed - 0.3 / epoch, exact=True),
                }
            )
            for epoch in (6, 12)
        ]
        write_run(uri, "lac", f"train-s{seed}", rows)
        write_controls(uri, "lac", f"train-s{seed}", "train", ["val"], seed=seed, **{"data.root": dataset})
    number = 0
    for gamma, level in ((0.6, 0.90), (0.7, 0.91), (0.8, 0.93), (1.0, 0.88)):
        for seed in range(3):
            columns = {"data.root": dataset, "space": "gamma", "trial": number, "seed": seed, "loss.gamma": gamma}
            rows = [
                base(**{**columns, "split": split, **metrics(level + 0.01 * seed - drop)})
                for split, drop in (("validation", 0.2), ("val", 0.0))
            ]
            write_run(uri, "gamma", f"trial-{number:04d}", rows)
            number += 1
    write_controls(uri, "gamma", "control", "tune", ["validation", "val"], **{"data.root": dataset, "space": "gamma"})
    variants = {"L_c": 0.8, "L_c + L_l": 0.83, "L_c + L_l + L_sw": 0.87, "lacray": 0.9}
    for number, (variant, level) in enumerate(variants.items()):
        for seed in range(2):
            columns = {"data.root": dataset, "space": "formulation", "variant": variant, "seed": seed}
            rows = [
                base(**{**columns, "trial": 2 * number + seed, "split": split, **metrics(level + 0.02 * seed - drop)})
                for split, drop in (("validation", 0.2), ("val", 0.0))
            ]
            write_run(uri, "formulation", f"trial-{2 * number + seed:04d}", rows)
    place = {"data.root": dataset, "space": "formulation"}
    write_controls(uri, "formulation", "control", "tune", ["validation", "val"], **place)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    uri = tmp_path_factory.mktemp("results")
    campaign(uri)
    return uri


@pytest.fixture(scope="module")
def made(results):
    return report.build(read(str(results)))


def table_of(made, key):
    return next(table for section in made.sections for table in section.tables if table.key == key)


def line_of(table, label):
    return next(line for line in table.lines if line.label == label)


def cell(table, label, column):
    return line_of(table, label).cells[table.header.index(column) - 1]


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_cell_is_the_mean_and_the_sample_deviation_over_seeds_with_n(made):
    table = table_of(made, "main-simpouring-full")
    values = [100 * (0.9 + 0.01 * seed - 0.3 / 12) for seed in range(3)]
    expected = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert cell(table, "lac", "Class@10").text == expected == "88.50 ± 1.00"
    assert cell(table, "lac", "n").text == "3"
    cropped = table_of(made, "main-simpouring-cropped")
    assert cell(cropped, "lac", "τ").text == "66.50 ± 1.00"
    assert cell(cropped, "lac", "Event error ↓").text == "12.30 ± 0.20"
    assert cell(cropped, "lac", "Align. error ↓").text == "0.61 ± 0.01"


def test_the_controls_stand_in_every_table_of_runs(made):
    for section in made.sections:
        for table in section.tables:
            if table.key.startswith(("importance", "gain")):
                continue
            kinds = [line.label for line in table.lines if line.kind == "control"]
            assert kinds == ["untrained encoder", "positions only"], table.key
    main = table_of(made, "main-simpouring-full")
    assert cell(main, "untrained encoder", "Class@10").text == "55.20 ± 0.20"
    assert cell(main, "untrained encoder", "n").text == "3"
    gamma = table_of(made, "gamma-gamma")
    assert cell(gamma, "positions only", "Class@100 full").text == "58.00"
    trials = table_of(made, "trials-lac")
    assert cell(trials, "untrained encoder", "objective").text == "37.00"


def test_what_was_not_run_is_a_dash_and_never_zero(made):
    formulation = table_of(made, "formulation-formulation")
    for label in ("L_c + L_sw", "released"):
        assert {c.text for c in line_of(formulation, label).cells} == {"–"}
    gamma = table_of(made, "gamma-gamma")
    assert {c.text for c in line_of(gamma, "0.9").cells if c.text != "93.93"} == {"–"}
    for section in made.sections:
        for table in section.tables:
            assert "0.00" not in [c.text for line in table.lines for c in line.cells]
            assert all("nan" not in c.text.lower() for line in table.lines for c in line.cells)


def test_table_4_stands_beside_the_published_curve(made):
    table = table_of(made, "gamma-gamma")
    published = {line.label: line.cells[1].text for line in table.lines}
    assert published == {
        "0.6": "93.44",
        "0.7": "94.87",
        "0.8": "95.16",
        "0.9": "93.93",
        "1": "–",
        "untrained encoder": "–",
        "positions only": "–",
    }
    assert cell(table, "0.8", "Class@100 full").text == "92.00 ± 1.00"
    assert cell(table, "0.8", "Class@100 full").best
    assert not cell(table, "0.7", "Class@100 full").best
    assert "difference" not in table.header
    assert any("for reference only" in note for note in table.notes)


def test_table_5_has_the_gain_of_the_local_alignment_loss_beside_the_published_one(made):
    gain = table_of(made, "gain-formulation")
    assert [c.text for c in line_of(gain, "published (Pouring)").cells] == ["–", "+1.72", "+2.12", "+2.57"]
    assert [c.text for c in line_of(gain, "ours, cropped (SimPouring)").cells] == ["2", "+3.00", "+3.00", "+3.00"]
    table = table_of(made, "formulation-formulation")
    assert [line.label for line in table.lines if line.kind == "method"] == tables.published()["formulation"]["rows"]
    assert cell(table, "lacray", "Class@10 full").text == "91.00 ± 1.41"


def test_the_best_of_a_column_is_marked_and_less_is_better_for_errors(made):
    table = table_of(made, "main-simpouring-cropped")
    assert cell(table, "lac", "Class@10").best
    assert cell(table, "lac", "Event error ↓").best
    assert not cell(table, "untrained encoder", "Event error ↓").best
    text = report.markdown(made)
    assert "| **73.50 ± 1.00** |" in text


def test_a_control_that_wins_is_marked(tmp_path):
    write_run(tmp_path, "s", "train-s0", [base(stage="train", split="val", **metrics(0.3))])
    write_controls(tmp_path, "s", "train-s0", "train", ["val"])
    table = table_of(report.build(read(str(tmp_path))), "main-simpouring-full")
    assert cell(table, "positions only", "τ").best
    assert not cell(table, "s", "τ").best
    assert cell(table, "s", "τ").text == "23.00"  # one seed has no deviation


def test_the_difference_is_taken_only_where_the_data_set_is_the_papers(tmp_path):
    campaign(tmp_path, dataset="/data/Pouring", num_trials=1)
    made = report.build(read(str(tmp_path)))
    main = table_of(made, "main-Pouring-full")
    assert cell(main, "LAC, published (Table 1)", "Class@10").text == "95.87"
    assert cell(main, "LAC, published (Table 1)", "τ").text == "97.50"
    assert cell(main, "lac − published LAC", "Class@10").text == "−7.37"  # 88.50 - 95.87
    assert cell(main, "lac − published LAC", "Event error ↓").text == "–"
    assert cell(table_of(made, "gamma-gamma"), "0.8", "difference").text == "−3.16"  # 92.00 - 95.16
    cropped = table_of(made, "main-Pouring-cropped")
    assert {line.kind for line in cropped.lines} == {"method", "control"}


def test_only_the_report_split_of_finished_runs_enters_the_main_table(tmp_path):
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
    table = table_of(report.build(read(str(tmp_path))), "main-simpouring-full")
    assert cell(table, "s", "Class@10").text == "80.00 ± 14.14"
    assert cell(table, "s", "n").text == "2"


def test_a_grid_that_scored_only_the_validation_videos_says_so(tmp_path):
    for seed in (0, 1):
        row = base(space="gamma", trial=seed, seed=seed, **{"loss.gamma": 0.7}, **metrics(0.8))
        write_run(tmp_path, "grid", f"trial-{seed:04d}", [row])
    table = table_of(report.build(read(str(tmp_path))), "gamma-grid")
    assert cell(table, "0.7", "Class@100 full").text == "78.00 ± 0.00"
    assert any("validation share of the training videos" in note for note in table.notes)


def test_two_settings_of_one_study_are_two_rows_named_by_what_differs(tmp_path):
    for gamma in (0.5, 0.8):
        row = base(stage="train", split="val", **{"loss.gamma": gamma}, **metrics(gamma))
        write_run(tmp_path, "s", f"train-{gamma}", [row])
    table = table_of(report.build(read(str(tmp_path))), "main-simpouring-full")
    assert [line.label for line in table.lines if line.kind == "method"] == ["s (loss.gamma 0.5)", "s (loss.gamma 0.8)"]
    assert {c.text for c in line_of(table, "untrained encoder").cells} == {"–"}


def test_a_study_without_a_final_training_is_a_row_of_dashes_that_says_what_to_do(tmp_path):
    write_run(tmp_path, "mine", "trial-0000", [base(trial=0, space="lac", **metrics(0.5))])
    table = table_of(report.build(read(str(tmp_path))), "main-simpouring-full")
    assert {c.text for c in line_of(table, "mine").cells} == {"–"}
    assert any("lacray.train --best" in note for note in table.notes)


def test_the_trial_table_shows_what_was_searched_and_marks_the_best_finished_trial(made, results):
    table = table_of(made, "trials-lac")
    assert table.header == [
        "trial",
        "loss.gamma",
        "loss.score_sign",
        "loss.tau",
        "objective",
        "epochs",
        "status",
        "seconds",
    ]
    (winner,) = [line for line in table.lines if line.marked]
    rows = [r for r in read(str(results), "lac").to_pylist() if r["stage"] == "tune" and r["status"] == "done"]
    best = max((r for r in rows if r["control"] == "none"), key=lambda r: r["metric.objective"])
    assert winner.label == str(best["trial"])
    assert winner.cells[3].text == f"{100 * best['metric.objective']:.2f}"
    assert cell(table, "5", "status").text == "pruned"
    assert cell(table, "5", "epochs").text == "4"
    assert cell(table, "8", "status").text == "failed"
    assert any("L_sw is inf" in note for note in table.notes)
    assert table_of(made, "trials-formulation").header[:3] == ["trial", "variant", "seed"]


def test_importance_finds_the_setting_that_the_objective_was_made_from(made):
    table = table_of(made, "importance-lac")
    shares = {line.label: float(line.cells[0].text) for line in table.lines}
    assert next(iter(shares)) == "loss.gamma"
    assert shares["loss.gamma"] > 0.5
    assert sum(shares.values()) == pytest.approx(1.0, abs=0.01)


def test_epochs_without_a_score_and_trials_without_a_row_break_no_table(tmp_path):
    for trial, gamma in enumerate((0.2, 0.5, 0.9)):
        rows = [
            base(
                trial=trial,
                space="lac",
                epoch=epoch,
                split="validation" if epoch % 2 == 0 else None,
                status="done" if epoch == 5 else "running",
                seconds=10.0 * epoch,
                notes=["pour_3 left out: one phase"] if epoch % 2 == 0 else None,
                **{"loss.gamma": gamma, "part.total": 1 / epoch, "gap.open": 1.0, "data.root": "simpouring"},
                **(metrics(gamma) if epoch % 2 == 0 else {}),
            )
            for epoch in range(1, 6)
        ]
        write_run(tmp_path, "mine", f"trial-{trial:04d}", rows)
    end = {"status": "failed", "epoch": 0, "error": "node lost", "trial": 3, "stage": "tune", "space": "lac"}
    write_end(Place(tmp_path), "mine", "trial-0003", end)
    made = report.build(read(str(tmp_path)))
    table = table_of(made, "trials-mine")
    assert table.header == ["trial", "loss.gamma", "objective", "epochs", "status", "seconds"]
    told = [[line.label, *(c.text for c in line.cells)] for line in table.lines if line.kind == "method"]
    assert told[2] == ["2", "0.9", "72.00", "5", "done", "50"]
    assert told[3] == ["3", "–", "–", "0", "failed", "–"]
    assert "trial 3: node lost" in table.notes
    assert "Pour_3 left out: one phase." in table.notes
    assert table.lines[2].marked
    for written in (report.markdown(made), report.latex(made), report.page(made)):
        assert not re.search(r"\bnan\b", written, re.IGNORECASE)
    train = [
        base(stage="train", split=split, epoch=epoch, status=status, notes=notes, **values)
        for epoch, split, status, notes, values in (
            (1, "val", "running", ["two videos left out"], metrics(0.9)),
            (2, None, "done", None, {}),
        )
    ]
    write_run(tmp_path, "mine", "train-s0", train)
    main_table = table_of(report.build(read(str(tmp_path))), "main-simpouring-full")
    assert cell(main_table, "mine", "Class@10").text == "90.00"
    assert "Two videos left out." in main_table.notes


def test_too_few_trials_have_no_importance_and_say_so(tmp_path):
    campaign(tmp_path, num_trials=3)
    table = table_of(report.build(read(str(tmp_path))), "importance-lac")
    assert table.lines[0].cells[0].text == "–"
    assert any("3 finished trials" in note for note in table.notes)


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "analysis/report.py", "--results", str(results), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done


def test_the_command_writes_three_formats_and_the_figures_and_says_so(written):
    out, done = written
    assert sorted(path.name for path in out.iterdir()) == ["figures", "report.html", "report.md", "report.tex"]
    names = sorted(path.name for path in (out / "figures").iterdir())
    assert names == [
        "gamma-gamma.svg",
        "gaps-lac.svg",
        "importance-lac.svg",
        "objective-lac.svg",
    ]
    assert done.stderr == ""
    assert done.stdout.splitlines()[-2].startswith(f"wrote {out / 'report.md'}, report.tex, report.html and 4 figures")
    for name in names:
        ET.parse(out / "figures" / name)
    for path in out.rglob("*.*"):
        if path.is_file():
            assert not any(stand_in in path.read_text() for stand_in in (figures.INK, figures.FAINT)), path


def test_every_figure_of_the_markdown_is_a_file(written):
    out, _ = written
    linked = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (out / "report.md").read_text())
    assert len(linked) == 4
    assert all((out / link).exists() for link in linked)


def test_every_markdown_row_has_as_many_cells_as_its_header(written):
    out, _ = written
    width = 0
    for line in (out / "report.md").read_text().splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        width = width or line.count("|")
        assert line.count("|") == width, line


class Page(html.parser.HTMLParser):
    """What a page refers to, its ids, and whether its tags close."""

    def __init__(self):
        super().__init__()
        self.references, self.ids, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.references += [v for k, v in values.items() if k in ("src", "href", "xlink:href", "data", "srcset")]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_that_asks_nothing_of_the_network(written):
    out, _ = written
    text = (out / "report.html").read_text()
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    assert text.count("<svg ") == 4
    outside = [r for r in parsed.references if not r.startswith(("#", "data:"))]
    assert outside == []
    assert "@import" not in text
    assert "<script" not in text
    assert not re.findall(r"url\((?!['\"]?#)", text)
    assert len(parsed.ids) == len(set(parsed.ids))
    inside = set(re.findall(r"url\(#([^)]+)\)", text)) | {r[1:] for r in parsed.references if r.startswith("#")}
    assert inside <= set(parsed.ids)


def test_names_from_the_data_cannot_break_a_format(tmp_path):
    evil = "<b>&_%$#{}~^\\|[x](y)*z*`q`"
    run_rows = [
        base(trial=t, space="lac", error=evil, **{"loss.note": evil + str(t)}, **metrics(0.5 + t / 100)) for t in (0, 1)
    ]
    for number, row in enumerate(run_rows):
        write_run(tmp_path, "my_study", f"trial-{number:04d}", [row])
    made = report.build(read(str(tmp_path)))
    assert evil not in report.page(made)
    assert "&lt;b&gt;&amp;_%$#" in report.page(made)
    assert r"my\_study" in report.latex(made)
    assert r"$<$b$>$\&\_\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}|" in report.latex(made)
    text = report.markdown(made)
    assert not any(sign in text for sign in ("<b>", "[x](", "*z*", "`q`"))
    (header,) = [line for line in text.splitlines() if line.startswith("| trial")]
    rows = [line for line in text.splitlines() if "&lt;b>" in line and line.startswith("|")]
    assert len(rows) == 2
    assert {row.count("|") for row in rows} == {header.count("|")}


def test_latex_rows_have_their_columns_and_no_bare_signs(written):
    out, _ = written
    text = (out / "report.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 10
    for body in re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for row in re.findall(r"^(.*) \\\\$", body[1], re.MULTILINE):
            assert len(re.findall(r"(?<!\\)&", row)) == len(body[0]) - 1, row
    prose = re.sub(r"\$[^$]*\$|\\label\{[^}]*\}|^%.*$", "", text, flags=re.MULTILINE)
    assert "_" not in prose.replace(r"\_", "")
    assert text.isascii()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles_as_an_input(written, tmp_path):
    out, _ = written
    shutil.copy(out / "report.tex", tmp_path)
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{report.tex}\end{document}"
    (tmp_path / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_long_study_is_cut_to_its_best_trials_in_latex_alone(tmp_path):
    for trial in range(25):
        write_run(
            tmp_path,
            "s",
            f"trial-{trial:04d}",
            [base(trial=trial, space="lac", **{"loss.gamma": 0.1 * (trial + 1)}, **metrics(0.4 + trial / 100))],
        )
    made = report.build(read(str(tmp_path)))
    rows = report.latex(made).split(r"\label{tab:trials-s}")[1].split(r"\end{tabular}")[0]
    labels = re.findall(r"^(?:\$\\star\$ )?(\d+) &", rows, re.MULTILINE)
    assert labels == [str(trial) for trial in range(5, 25)]
    assert len(table_of(made, "trials-s").lines) == 27


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--results", "{tmp}/absent"], "absent: holds no results; run `python -m lacray.tune` first"),
        (
            ["--results", "{results}", "--study", "lca"],
            "error: study lca: is not in .*; choose from: formulation, gamma, lac",
        ),
        (["--results", "{results}", "--out", "{tmp}/file"], "must be a writable directory, got"),
        (["--results", "gs://bucket"], "must be a local path or s3://bucket/prefix"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(results, tmp_path, capsys, arguments, message):
    (tmp_path / "file").write_text("")
    code = report.main([argument.format(tmp=tmp_path, results=results) for argument in arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_one_study_alone_is_reported_alone(results, tmp_path, capsys):
    assert report.main(["--results", str(results), "--study", "gamma", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "Table 4" in text
    assert "Table 5" not in text
    assert "Study lac" not in text


def test_an_unreadable_file_is_a_warning_on_the_terminal_and_in_the_report(results, tmp_path, capsys):
    shutil.copytree(results, tmp_path / "results")
    (tmp_path / "results" / "lac" / "rows" / "trial-0003.parquet").write_text("torn")
    assert report.main(["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]) == 0
    assert "warning: 1 of " in capsys.readouterr().err
    assert "trial-0003.parquet" in (tmp_path / "out" / "report.md").read_text()


def test_the_report_needs_no_torch_and_no_ray(results, tmp_path):
    code = (
        "import sys; from analysis import report; "
        f"report.main(['--results', {str(results)!r}, '--out', {str(tmp_path)!r}]); "
        "sys.exit(any(module in sys.modules for module in ('torch', 'ray')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode == 0
    )


def test_published_numbers_are_those_of_the_paper():
    paper = tables.published()
    # Checksums by hand from Tables 1 and 2: the sums of LAC's and of all printed figures.
    assert sum(paper["tables"]["pouring"]["rows"]["LAC"]) == pytest.approx(753.75)
    assert sum(paper["tables"]["penn_action"]["rows"]["LAC"]) == pytest.approx(751.00)
    assert all(len(row) == 8 for table in paper["tables"].values() for row in table["rows"].values())
    assert paper["gamma"]["rows"][0.8] == paper["tables"]["pouring"]["rows"]["LAC"][2]
    assert (
        json.dumps(paper["formulation"]["gain"]["values"])
        == '{"class_100": 1.72, "progress": 2.12, "kendalls_tau": 2.57}'
    )
