"""Rows that look like a small campaign, written as runs write them: numbers that can be worked out by hand."""

from __future__ import annotations

import datetime
import math
import statistics
import sys
from pathlib import Path

import numpy as np
from paths import ROOT

from lacray.results import Place, RunWriter, read, read_manifest, write_manifest
from lacray.study.space import load_space

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from analysis.sections import Report, build
from analysis.sources import Feeding

NAMES = ("class_10", "class_50", "class_100", "ap_5", "ap_10", "ap_15", "progress", "kendalls_tau")
START = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def metrics(level, rng=None, exact=False):
    """Metrics around a level in 0..1, the cropped ones 0.15 lower, each 0.01 below the one before."""
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
        "data.size": 64,
        "encoder.name": "small",
        "evaluation.stride": 5,
        "evaluation.crop_seed": 0,
        "loss.name": "lac",
        "fit.epochs": 12,
        **columns,
    }


def write_run(uri, study, run_id, rows):
    RunWriter(str(uri), study, run_id).append(rows)


def write_study(uri, study, space):
    """The manifest of a study of a bundled space, as `lacray.tune` writes it."""
    content = load_space(ROOT / "search_spaces" / space).content()
    assert write_manifest(Place(str(uri)), study, {"space": content, "trials": content["trials"]})


def write_controls(uri, study, stage, splits, seeds=(0,), **columns):
    """Of each seed: untrained at 0.55 and 0.002 a seed, positions 0.05 above it."""
    for seed in seeds:
        for control, level in (("untrained", 0.55), ("positions", 0.6)):
            own = {"stage": stage, "control": control, "seed": seed, "epoch": 0, **metrics(level + 0.002 * seed)}
            rows = [base(**{**columns, **own, "split": split}) for split in splits]
            write_run(uri, study, f"{stage}-{seed}-{control}", rows)


def write_grid(uri, study, space, points, level, seeds=(0, 1, 2), **columns):
    """Runs of a grid, scored on both splits; level: settings of a point, seed -> level on the report split."""
    write_study(uri, study, space)
    for number, (point, seed) in enumerate((point, seed) for point in points for seed in seeds):
        own = {**columns, **point, "trial": number, "seed": seed, "space": study}
        rows = [
            base(**{**own, "split": split, **metrics(level(point, seed) - drop)})
            for split, drop in (("validation", 0.2), ("val", 0.0))
        ]
        write_run(uri, study, f"trial-{number:04d}", rows)
    write_controls(uri, study, "tune", ["validation", "val"], seeds, **columns)


GAMMAS = {0.6: 0.90, 0.7: 0.91, 0.8: 0.93, 1.0: 0.88}
VARIANTS = {"L_c": 0.8, "L_c + L_l": 0.83, "L_c + L_l + L_sw": 0.87, "lacray": 0.9}


def campaign(uri, dataset="simpouring", num_trials=24):
    """A study of the space lac with its final trainings, a gamma grid and a formulation grid."""
    rng = np.random.default_rng(0)
    where = {"data.root": dataset}
    write_study(uri, "lac", "lac.yaml")
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
                        "space": "lac",
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
    write_controls(uri, "lac", "tune", ["validation"], **where)
    for seed in range(3):
        rows = [
            base(
                **{
                    **where,
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
    write_controls(uri, "lac", "train", ["val"], range(3), **where)
    points = [{"loss.gamma": gamma} for gamma in GAMMAS]
    write_grid(uri, "gamma", "paper/gamma.yaml", points, lambda p, seed: GAMMAS[p["loss.gamma"]] + 0.01 * seed, **where)
    points = [{"variant": name, "loss.alpha": float(i)} for i, name in enumerate(VARIANTS)]
    write_grid(
        uri,
        "formulation",
        "paper/formulation.yaml",
        points,
        lambda point, seed: VARIANTS[point["variant"]] + 0.02 * seed,
        seeds=(0, 1),
        **where,
    )


def manifests_of(uri):
    place = Place(str(uri))
    names = sorted(set(read(str(uri))["study"].to_pylist()))
    return {name: found for name in names if (found := read_manifest(place, name)) is not None}


def reported(uri) -> Report:
    return build(read(str(uri)), manifests_of(uri))


def feedings_of(uri) -> list[Feeding]:
    return [Feeding.of(study, manifest) for study, manifest in manifests_of(uri).items()]


def table_of(made, key):
    found = {table.key: table for section in made.sections for table in section.tables}
    assert key in found, f"{key} is not among {', '.join(found)}"
    return found[key]


def line_of(table, label):
    return next(line for line in table.lines if line.label == label)


def entry(table, label, column):
    return line_of(table, label).entries[table.header.index(column) - 1]


def texts(line):
    return [entry.text for entry in line.entries]


def written(path: Path) -> str:
    return path.read_text()
