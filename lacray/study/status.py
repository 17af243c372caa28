"""How studies stand, from their results alone: from any machine, and when nobody drives them any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lacray.cli import console, shell, shown, tell, warn
from lacray.config import UserError
from lacray.results import has_rows, lease_state, read, read_manifest, studies
from lacray.results.place import as_place
from lacray.study.manifest import space_of
from lacray.study.show import trials_table
from lacray.study.space import Space
from lacray.study.trials import Trials, recorded


@dataclass(frozen=True)
class Standing:
    """A study as its results tell it."""

    name: str
    space: Space
    trials: Trials
    num_trials: int
    driver: dict[str, Any] | None
    """Who drives it, where somebody does."""

    @property
    def num_over(self) -> int:
        return self.trials.count("done", "pruned", "failed")


def standing(results: str, name: str) -> Standing:
    """Read how a study stands.

    Raises:
        UserError: there is no such study.
    """
    place = as_place(results)
    manifest = read_manifest(place, name)
    if manifest is None:
        there = [study for study in studies(results) if read_manifest(place, study) is not None]
        found = f"choose from {', '.join(there)}" if there else "there is none"
        raise UserError(f"--study: {name} is no study in {results}; {found}")
    space = space_of(manifest, name)
    rows = read(results, name).to_pylist() if has_rows(place, name) else []
    given_up = {entry.key.rpartition("/")[2].removesuffix(".parquet") for entry in place.list(f"{name}/ends/")}
    trials = Trials(recorded(rows, space, given_up=given_up))
    lease = lease_state(place, name)
    driver = lease if lease is not None and lease["fresh"] else None
    if driver is not None:
        for trial in trials:
            trial.state = "running" if trial.state == "waiting" else trial.state
    return Standing(name, space, trials, max(manifest["trials"], len(trials)), driver)


def is_unfinished(results: str, name: str) -> bool:
    """Whether trials of a study are missing, or were lost and may be tried again."""
    found = standing(results, name)
    lost = any(trial.state == "failed" and not trial.is_final for trial in found.trials)
    return found.num_over < found.num_trials or lost


def show_status(results: str, study: str | None) -> None:
    """Print how one study, or every study of the results, stands.

    Raises:
        UserError: there is none, or of the one that was asked for nothing can be said.
    """
    place = as_place(results)
    names = [study] if study is not None else [n for n in studies(results) if read_manifest(place, n) is not None]
    if not names:
        raise UserError(
            f"--results: {results} holds no study; run python -m lacray.tune first, or give another --results"
        )
    for name in names:
        try:
            _show(results, standing(results, name))
        except UserError as error:
            # Of another version of lacray, say: the others stand as they do.
            if len(names) == 1:
                raise
            warn(str(error))


def _show(results: str, found: Standing) -> None:
    counts = ", ".join(
        f"{found.trials.count(state)} {state}"
        for state in ("done", "pruned", "failed", "running", "waiting")
        if found.trials.count(state)
    )
    title = f"study {found.name}: {found.num_over} of {found.num_trials} trials over ({counts or 'nothing has begun'})"
    console.print(trials_table(title, found.trials, found.space.metric, room=max(20, console.height - 8)))
    best = found.trials.best()
    if best is not None:
        console.print(f"best so far: trial {best.number}, {found.space.metric} {best.value:.4f}", style="bold")
    for trial in found.trials:
        if trial.error:
            warn(f"trial {trial.number} failed: {trial.error}")
    if found.driver is not None:
        who = f"{found.driver['host']}, process {found.driver['pid']}"
        tell(f"driven by {who}, last heard of {found.driver['age']:.0f} s ago")
    elif found.num_over < found.num_trials:
        where = [] if results == "results" else ["--results", results]
        go_on = shell("python", "-m", "lacray.tune", "--resume", "--study", found.name, *where)
        warn(f"nobody drives it; go on: {go_on}")
    tell(f"rows: {shown(results)}/{found.name}/rows/*.parquet")
