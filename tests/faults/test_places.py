"""A results directory that is full, read-only, or gone in the middle of a study."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab, assert_no_page, assert_whole, ended, settings, told

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(lab) -> Iterator[Path]:
    """A file system of its own where the results lie."""
    where = lab.folder / lab.results
    where.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", where], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield where
    subprocess.run(["umount", "--lazy", where], check=True)


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error:")]


def remount(where: Path, how: str) -> bool:
    return subprocess.run(["mount", "-o", f"remount,{how}", where], capture_output=True).returncode == 0


def fill(where: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = where / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            with pytest.raises(OSError, match="No space left"):  # noqa: PT012
                while True:
                    file.write(b"\0" * size)
    return ballast


def test_a_full_disk_ends_a_study_in_lines_and_once_there_is_room_it_goes_on(lab: Lab, undisturbed, disk):
    study = lab.tune()
    with ended([study]):
        study.until(lambda: lab.epoch(1) >= 1 or lab.num_over() >= 2)
        ballast = fill(disk)
        said = study.wait(code=2, timeout=90)
    assert_no_page(said)
    first, *others = errors(said)
    assert first.startswith(f"error: {disk}: ")
    assert "No space left on device" in first
    assert "make room" in first
    assert len(others) <= 2
    assert "--resume --study lac" in said
    ballast.unlink()
    lab.resume().wait()
    assert_whole(lab)
    assert told(lab) == undisturbed


def test_results_that_become_read_only_end_a_study_in_lines_and_once_writable_it_goes_on(lab: Lab, undisturbed, disk):
    # Optuna's store elsewhere: what is open for writing cannot be made read-only.
    study = lab.tune("--storage", f"sqlite:///{lab.folder}/optuna.db")
    with ended([study]):
        study.until(lambda: lab.epoch(1) >= 1 or lab.num_over() >= 2)
        study.until(lambda: remount(disk, "ro"))
        said = study.wait(code=2, timeout=90)
    assert_no_page(said)
    first, *others = errors(said)
    assert first.startswith(f"error: {disk}: ")
    assert "Read-only file system" in first
    assert len(others) <= 2
    # It cannot go on yet, and says so before anything starts.
    said = lab.resume().wait(code=2)
    assert len(errors(said)) == 1
    assert "Read-only file system" in said
    assert remount(disk, "rw")
    lab.resume().wait()
    assert_whole(lab)
    assert told(lab) == undisturbed


@pytest.mark.parametrize("what", ["the results", "the study"])
def test_a_study_whose_results_are_deleted_says_so_and_can_begin_again(lab: Lab, undisturbed, what):
    # Epochs enough: the trial still writes when its study is gone.
    study = lab.tune(epochs=400)
    folder = lab.folder / "results" / "lac"
    with ended([study]):
        study.until(lambda: lab.epoch(0) >= 1)
        remove(folder.parent if what == "the results" else folder)
        said = study.wait(code=2, timeout=90)
    assert_no_page(said)
    found = errors(said)
    assert "study lac: its study.json" in found[0]
    assert "gone from" in found[0]
    assert "begin anew" in found[0]
    assert len(found) <= 2
    # What still ran has left nothing that is in the way.
    said = lab.tune("--resume").wait()
    assert "it begins now" in said
    assert_no_page(said)
    assert_whole(lab)
    assert told(lab) == undisturbed


def remove(folder: Path) -> None:
    """Delete a folder in which somebody writes at the same time."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def test_one_study_that_cannot_go_on_keeps_no_other_from_its_end_and_the_same_command_does_the_rest(lab: Lab):
    lab.folder.mkdir(parents=True)
    for name, epochs in (("gone", 60), ("good", 1)):
        (lab.folder / f"{name}.yaml").write_text(
            f"name: {name}\nsampler: grid\nfixed: {{fit.epochs: {epochs}}}\n"
            "search: {seed: {type: categorical, choices: [0, 1]}}\n"
        )
    own = [word for word in settings(lab.data) if not word.startswith("fit.epochs=")]
    manifest = lab.folder / "results" / "gone" / "study.json"
    studies = lab.study("gone.yaml", "good.yaml", *own)
    with ended([studies]):
        studies.until(lambda: lab.epoch(0, "gone") >= 1)
        content = manifest.read_bytes()
        manifest.unlink()
        said = studies.wait(code=2)
    assert "study gone: its study.json is gone" in errors(said)[0]
    assert_whole(lab, "good")
    stamps = lab.stamps("good")
    assert len(stamps) == 2
    manifest.write_bytes(content)
    assert "finished already: good" in lab.study("gone.yaml", "good.yaml", *own).wait()
    assert lab.stamps("good") == stamps
    assert_whole(lab, "gone")
