"""Trials that raise, diverge, hang, run out of memory, or whose videos break; and spaces that vary what a trial is."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import psutil
import pytest
from lab import Lab, assert_no_page, assert_whole, ended, send, settings, told

pytestmark = pytest.mark.slow


def without(words: list[str], *keys: str) -> list[str]:
    return [word for word in words if word.partition("=")[0] not in keys]


def write_space(lab: Lab, text: str) -> str:
    lab.folder.mkdir(parents=True, exist_ok=True)
    (lab.folder / "own.yaml").write_text(text)
    return "own.yaml"


def test_trials_that_raise_or_diverge_fail_by_name_and_the_others_go_on(lab: Lab):
    space = write_space(
        lab,
        """
        sampler: grid
        search:
          encoder.hidden: {type: categorical, choices: [12, 16]}
          encoder.heads: {type: categorical, choices: [2, 3]}
          fit.learning_rate: {type: categorical, choices: [0.001, 1.0e+30]}
        """,
    )
    own = without(settings(lab.data, epochs=2), "encoder.hidden", "encoder.heads")
    said = lab.study(space, *own).wait()
    assert_no_page(said)
    assert_whole(lab, "own")
    trials = {number: rows[-1] for number, rows in lab.trials("own").items()}
    assert len(trials) == 8
    for number, row in trials.items():
        impossible = row["encoder.hidden"] % row["encoder.heads"] != 0
        diverges = row["fit.learning_rate"] > 1
        assert row["status"] == ("failed" if impossible or diverges else "done"), number
        if impossible:
            assert "hidden must be a multiple of heads, got hidden 16 and heads 3" in row["error"]
        elif diverges:
            place = r"step \d+: the (loss|gradient) must be finite, got .*L_c.* on videos/clip"
            assert re.match(place, row["error"]), row["error"]
            assert "fit.learning_rate" in row["error"]
        if row["error"]:
            assert f"trial {number} failed: {row['error']}" in said
    store = optuna.load_study(study_name="own", storage=f"sqlite:///{lab.uri}/optuna.db")
    assert {trial.number: trial.state.name for trial in store.trials} == {
        number: "FAIL" if row["status"] == "failed" else "COMPLETE" for number, row in trials.items()
    }
    stamps = lab.stamps("own")
    # Such a failure is the setting's own: it is not tried again.
    said = lab.resume("--study", "own").wait()
    assert "finished already: 8 of 8 trials" in said
    assert lab.stamps("own") == stamps


def test_a_trial_that_hangs_is_ended_and_goes_on(lab: Lab, undisturbed):
    study = lab.tune("--time-limit", "15")
    with ended([study]):
        hung = study.until(lambda: stop_in_the_middle(lab, study))
        said = study.wait()
    assert f"trial {hung}: no sign of life for 15 s (--time-limit)" in said
    assert f"trial {hung}: its process was lost; it goes on from its checkpoint" in said
    assert_no_page(said)
    assert_whole(lab)
    assert told(lab) == undisturbed


@pytest.mark.parametrize("dies", [False, True], ids=["hangs", "dies"])
def test_a_process_that_hangs_or_dies_between_two_trials_costs_none(lab: Lab, undisturbed, dies):
    study = lab.tune("--time-limit", "15")
    with ended([study]):
        # That row is the last that a trial writes: its process is about to be given the next one.
        study.until(lambda: any(rows[-1]["status"] == "done" for rows in lab.trials().values()))
        processes = study.trial_processes()
        for process in processes:
            send(process, signal.SIGSTOP)
        if dies:
            time.sleep(3.0)
            for process in processes:
                send(process)
        said = study.wait()
    assert_no_page(said)
    assert_whole(lab)
    assert told(lab) == undisturbed


def stop_in_the_middle(lab: Lab, study) -> int | None:
    """SIGSTOP to the process of a trial that is then in the middle of its epochs; its number."""
    going_on = [number for number in lab.trials() if number > 0 and lab.epoch(number) >= 1]
    processes = study.trial_processes()
    if not going_on or not processes:
        return None
    for process in processes:
        send(process, signal.SIGSTOP)
    # A trial that was stopped early is known by its driver's word, which may come a moment later.
    time.sleep(1.0)
    last = max(going_on)
    if lab.trials()[last][-1]["status"] == "running":
        return last
    for process in processes:
        send(process, signal.SIGCONT)
    return None


def test_a_node_that_runs_out_of_memory_loses_no_trial(lab: Lab, undisturbed):
    memory = psutil.virtual_memory()
    if memory.available < 10 * GIB:
        pytest.skip("needs 10 GiB of free memory")
    # Ray ends a trial when the study and a hog beside it have taken 4 GiB of what is free now.
    threshold = 1 - (memory.available - 4 * GIB) / memory.total
    study = lab.tune(env={"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"})
    with ended([study]):
        study.until(lambda: lab.epoch(1) >= 1 or lab.num_over() >= 2)
        # The trial stands still meanwhile: memory may be slow to come by, and the trials are over in seconds.
        for process in study.trial_processes():
            process.suspend()
        hog = subprocess.Popen([sys.executable, "-c", HOG], stdin=subprocess.PIPE)
        try:
            study.until(lambda: feed(hog) and "ran out of memory" in study.said, timeout=60)
        finally:
            hog.kill()
            hog.wait()
        said = study.wait()
    assert_no_page(said)
    assert_whole(lab)
    assert told(lab) == undisturbed


GIB = 2**30
HOG = """
import sys
import psutil
taken = []
for line in sys.stdin:
    if psutil.virtual_memory().available > 3 * 2**30:
        taken.append(b"x" * 2**27)
"""


def feed(hog: subprocess.Popen[bytes]) -> bool:
    assert hog.stdin is not None
    hog.stdin.write(b"\n")
    hog.stdin.flush()
    return True


def test_a_video_that_breaks_in_mid_study_is_refused_by_name_and_restored_the_study_goes_on(
    data: Path, tmp_path: Path, undisturbed
):
    root = tmp_path / "clips"
    shutil.copytree(data, root)
    lab = Lab(tmp_path / "lab", root)
    video = root / "features" / "clip02.npy"
    before = video.read_bytes()
    study = lab.tune()
    with ended([study]):
        study.until(lambda: lab.num_over() >= 1)
        # Longer: shorter ones are refused already since their labels no longer fit.
        np.save(tmp_path / "longer.npy", np.pad(np.load(video), ((0, 5), (0, 0))))
        (tmp_path / "longer.npy").replace(video)
        said = study.wait(code=2, timeout=90)
    found = [line for line in said.splitlines() if line.startswith("error:")]
    assert "clip02" in found[0]
    assert "began with other videos" in found[0]
    assert "--resume --study lac" in found[-1]
    assert len(found) <= 3
    assert_no_page(said)
    # Nor can it be gone on with before they are restored.
    said = lab.resume().wait(code=2)
    assert "clip02" in said
    assert_no_page(said)
    video.write_bytes(before)
    lab.resume().wait()
    assert_whole(lab)
    assert told(lab) == undisturbed


def test_every_trial_trains_for_its_own_number_of_epochs_where_that_is_searched(lab: Lab):
    space = write_space(
        lab,
        """
        sampler: grid
        search:
          loss.gamma: {type: categorical, choices: [0.3, 1.0]}
        variants:
          short: {fit.epochs: 2}
          long: {fit.epochs: 5}
        """,
    )
    lab.study(space, *without(settings(lab.data), "fit.epochs")).wait()
    assert_whole(lab, "own")
    ends = [(rows[-1]["variant"], rows[-1]["loss.gamma"], rows[-1]["epoch"]) for rows in lab.trials("own").values()]
    assert ends == [("short", 0.3, 2), ("short", 1.0, 2), ("long", 0.3, 5), ("long", 1.0, 5)]
    assert {rows[-1]["status"] for rows in lab.trials("own").values()} == {"done"}


def test_every_point_of_a_grid_runs_once_though_its_driver_is_killed(lab: Lab):
    space = write_space(
        lab,
        """
        sampler: grid
        search:
          loss.gamma: {type: categorical, choices: [1.0, 0.3]}
          fit.epochs: {type: categorical, choices: [2, 3, 6]}
        """,
    )
    study = lab.study(space, *without(settings(lab.data), "fit.epochs"))
    with ended([study]):
        study.until(lambda: lab.num_over("own") >= 2 and lab.trials("own"))
        study.kill()
    stamps = lab.stamps("own")
    lab.resume().wait()
    assert_whole(lab, "own")
    points = [(rows[-1]["fit.epochs"], rows[-1]["loss.gamma"]) for rows in lab.trials("own").values()]
    # In the order in which it was written, which is that of no alphabet.
    assert points == [(epochs, gamma) for gamma in (1.0, 0.3) for epochs in (2, 3, 6)]
    for rows in lab.trials("own").values():
        assert (rows[-1]["status"], rows[-1]["epoch"]) == ("done", rows[-1]["fit.epochs"])
    after = lab.stamps("own")
    assert {name: after[name] for name in stamps} == stamps, "a finished point ran again"
