"""Studies that are opened and nobody drives: what they decide can be seen without Ray."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from settings import dotted
from tiny import TINY_ENCODER

from lacray.results import RunWriter
from lacray.study.space import parse_space
from lacray.study.study import Options, Study
from lacray.study.trials import Trial, run_name

BEGUN = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


@contextmanager
def opened(
    folder: Path, clips: Path | str | None, *, fixed: dict[str, Any] | None = None, **content: Any
) -> Iterator[Study]:
    """A study in a folder: begun there, or taken up again.

    Args:
        clips: from `tiny.make_features`; None: no space is given, as with --resume --study.
        fixed: settings beside its data.
        content: of its space; `workers` and `trials` are the command's.
    """
    options = {name: content.pop(name) for name in ("workers", "asked") if name in content}
    words = dict(word.split("=") for word in TINY_ENCODER)
    own = {key: int(value) for key, value in words.items() if key not in content.get("search", {})}
    space = {
        "name": "s",
        "fixed": {**own, "data.input": "features", "data.num_frames": 12, **(fixed or {})},
        **content,
    }
    if "data.root" not in content.get("search", {}):
        space["fixed"]["data.root"] = str(clips)
    study = Study(
        "s",
        parse_space(space) if clips is not None else None,
        Options(
            results=str(folder),
            workers=options.get("workers", 1),
            trials=options.get("asked"),
            resume=(folder / "s" / "study.json").exists(),
        ),
    )
    try:
        study.open()
        yield study
    finally:
        study.close()


def write_rows(
    study: Study, trial: Trial, values: dict[int, float | None], *, status: str = "running", **settings: Any
) -> None:
    """What a run of the trial has stored: a row an epoch, with its value where it was evaluated.

    Args:
        values: epoch -> the study's metric; an epoch is a second of the clock.
        settings: that it had otherwise; fit__epochs=1 is fit.epochs.
    """
    run = study.run_of(trial)
    own = {
        "stage": "tune",
        "control": "none",
        "trial": trial.number,
        "variant": run.variant,
        **{key: value for key, value in run.values.items() if key != "seed"},
        **dotted(settings),
    }
    rows = [{**own, "epoch": 0, "status": "running"}]
    for epoch, value in values.items():
        scored = {} if value is None else {"split": "validation", "metric.objective": value}
        time = BEGUN + datetime.timedelta(seconds=epoch)
        rows.append({**own, "epoch": epoch, "status": "running", "part.total": 1.0, "time": time, **scored})
    rows[-1]["status"] = status
    RunWriter(study.place, study.name, run_name(trial.number)).append(rows)
