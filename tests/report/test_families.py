"""`analysis/families.py`: arms over seeds and data sets, against scipy's tests and corrections by hand."""

from __future__ import annotations

import re

import commands
import numpy as np
import pytest
from campaign import base, metrics, write_run
from paths import ROOT
from scipy.stats import permutation_test, ttest_rel

ARMS = {"SCL": 0.80, "local": 0.83, "nearest": 0.805}
STUDIES = {"a/one": range(4), "a/two": range(4, 7), "b/three": range(5)}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with studies of two data sets, and what they have: (data set, arm) -> objective on val, by seed."""
    folder = tmp_path_factory.mktemp("families")
    draws = np.random.default_rng(3)
    truth = {}
    for name, seeds in STUDIES.items():
        dataset, study = name.split("/")
        points = [(arm, seed) for arm in ARMS for seed in seeds]
        for number, (arm, seed) in enumerate(points):
            value = ARMS[arm] + draws.normal(0, 0.01)
            truth.setdefault((dataset, arm), []).append(value)
            own = {"variant": arm, "seed": seed, "data.root": dataset, "loss.tau": ARMS[arm], **metrics(0.9)}
            earlier = {**own, "epoch": 6, "status": "running", "split": "validation", "metric.objective": 0.1}
            rows = [earlier, *({**own, "split": split, "metric.objective": value} for split in ("validation", "val"))]
            write_run(folder / dataset, study, f"trial-{number:04d}", [base(**row) for row in rows])
    return folder, {key: 100 * np.array(values) for key, values in truth.items()}


def printed(folder, *more):
    return commands.run("analysis/families.py", *(str(folder / name) for name in STUDIES), *more, cwd=ROOT)


def entries(said, *beginning):
    """The cells of the only line that begins so."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines()]
    (found,) = [cells[len(beginning) :] for cells in lines if tuple(cells[: len(beginning)]) == beginning]
    return found


def corrected_by_hand(truth, pairs):
    """Holm: the k-th smallest p of n is multiplied by n - k, and none falls below one before it."""
    tests = [
        permutation_test(
            [truth[name] for name in pair],
            lambda ours, theirs: (ours - theirs).mean(),
            permutation_type="samples",
            n_resamples=np.inf,
        ).pvalue
        for pair in pairs
    ]
    corrected, least = [0.0] * len(tests), 0.0
    for rank, place in enumerate(sorted(range(len(tests)), key=tests.__getitem__)):
        least = max(least, min(1.0, (len(tests) - rank) * tests[place]))
        corrected[place] = least
    return corrected


def test_arms_of_two_data_sets_and_two_families(measured):
    folder, truth = measured
    said = printed(folder, "--against", "SCL", "--pair", "local", "nearest")
    # The arms in their order; of the data set in two studies all seeds.
    assert [cells.split("|")[1].strip() for cells in said.splitlines()[2:5]] == list(ARMS)
    num, validation, val, *_ = entries(said.partition("\n\n")[0], "local")
    own = truth["a", "local"]
    assert (num, val) == ("7", f"{own.mean():.2f} ± {own.std(ddof=1):.2f}") == (num, validation)

    pairs = [(dataset, arm) for dataset in "ab" for arm in ("local", "nearest")]
    corrected = corrected_by_hand(truth, [((dataset, arm), (dataset, "SCL")) for dataset, arm in pairs])
    assert len(set(corrected)) > 2
    for (dataset, arm), own in zip(pairs, corrected, strict=True):
        num, first, *_ = entries(said, f"{arm} − SCL", dataset)
        assert num == str(len(truth[dataset, arm]))
        difference, width, p = map(float, re.findall(r"[-\d.]+", first.replace("−", "-")))
        low, high = ttest_rel(truth[dataset, arm], truth[dataset, "SCL"]).confidence_interval(0.95)
        assert (difference, width) == pytest.approx(((low + high) / 2, (high - low) / 2), abs=0.006)
        assert p == pytest.approx(own, rel=0.06)
    named = corrected_by_hand(truth, [((dataset, "local"), (dataset, "nearest")) for dataset in "ab"])
    for dataset, own in zip("ab", named, strict=True):
        _, first, *_ = entries(said, "local − nearest", dataset)
        assert float(re.findall(r"\((.+)\)", first)[0]) == pytest.approx(own, rel=0.06), "a family of its own"


def test_an_arm_that_one_data_set_lacks_is_a_line_of_no_pairs(measured):
    folder, _ = measured
    write_run(folder / "d", "alone", "trial-0000", [base(variant="SCL", split="val", **metrics(0.5))])
    said = commands.run(
        "analysis/families.py", str(folder / "a/one"), str(folder / "d/alone"), "--against", "SCL", cwd=ROOT
    )
    assert entries(said, "local − SCL", "simpouring")[:2] == ["0", "–"]
    assert entries(said, "local − SCL", "a")[0] == "4"


def test_what_was_tried_in_a_place_is_compared_there(tmp_path):
    arms = {
        "SCL": 0.5,
        "cross, local": 0.6,
        "SCL, few videos": 0.3,
        "cross, local, few videos": 0.33,
        "LAC, pixels": 0.1,
    }
    for number, (arm, seed) in enumerate((arm, seed) for arm in arms for seed in range(3)):
        row = base(variant=arm, seed=seed, split="val", **metrics(0.9))
        row["metric.objective"] = arms[arm] + 0.01 * seed
        write_run(tmp_path, "map", f"trial-{number:04d}", [row])
    said = commands.run("analysis/families.py", str(tmp_path / "map"), "--against", "SCL", cwd=ROOT)
    compared = {
        "cross, local − SCL": "+10.00",
        "SCL, few videos − SCL": "−20.00",
        "cross, local, few videos − SCL, few videos": "+3.00",
        "LAC, pixels − SCL": "−40.00",
    }
    assert {name: entries(said, name, "simpouring")[1].partition(" ")[0] for name in compared} == compared
    assert said.count(" − ") == len(compared)


def refused(*arguments):
    said = commands.run("analysis/families.py", *map(str, arguments), cwd=ROOT, code=2)
    assert "Traceback" not in said
    return said


def test_what_is_no_arm_or_no_study_of_arms_is_said(measured):
    folder, _ = measured
    said = refused(folder / "a/one", "--against", "SLC", "--pair", "LAC", "SCL")
    assert "SLC, LAC: must be an arm of these studies; choose from: SCL; local; nearest" in said
    assert "study four: is not in" in refused(folder / "a/four", "--against", "SCL")
    one = base(seed=1, **metrics(0.5))
    write_run(folder / "c", "plain", "trial-0000", [one])
    said = refused(folder / "c/plain", "--against", "SCL")
    assert "must have trials of variants" in said
    rows = [base(variant="SCL", seed=seed, **{"loss.tau": 0.1 * (seed + 1)}, **metrics(0.5)) for seed in (0, 1)]
    for number, row in enumerate(rows):
        write_run(folder / "c", "two", f"trial-{number:04d}", [row])
    said = refused(folder / "c/two", "--against", "SCL")
    assert "SCL: must be one setting on simpouring, got 2" in said
