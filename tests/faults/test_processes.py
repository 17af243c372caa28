"""Processes that die: a trial's, a rank's, the driver, a node, and Ray itself."""

from __future__ import annotations

import os
import signal
import time

import pytest
from lab import Lab, assert_no_page, assert_whole, ended, send, told

pytestmark = pytest.mark.slow


def test_a_trial_whose_process_dies_goes_on_by_itself(lab: Lab, undisturbed):
    study = lab.tune()
    with ended([study]):
        study.until(lambda: lab.epoch(1) >= 2 or lab.num_over() >= 2)
        for process in study.trial_processes():
            send(process)
        said = study.wait()
    assert_no_page(said)
    assert_whole(lab)
    assert told(lab) == undisturbed


@pytest.mark.parametrize("moment", ["before the first row", "in the middle of a trial", "between two trials"])
def test_a_study_whose_driver_dies_is_gone_on_with(lab: Lab, undisturbed, moment):
    study = lab.tune()
    with ended([study]):
        if moment == "before the first row":
            study.until(lambda: (lab.folder / "results" / "lac" / "study.json").exists())
        elif moment == "in the middle of a trial":
            study.until(lambda: lab.epoch(1) >= 1 or lab.num_over() >= 2)
        else:
            study.until(lambda: lab.num_over() >= 2)
        study.kill()
    stamps = lab.stamps()
    # The results and nothing else: neither Optuna's store nor anything of Ray's.
    for left in (lab.folder / "results").glob("optuna.db*"):
        left.unlink()
    said = lab.resume().wait()
    assert_no_page(said)
    assert_whole(lab)
    assert told(lab) == undisturbed
    assert {name: stamp for name, stamp in lab.stamps().items() if name in stamps} == stamps, (
        "a finished trial ran again"
    )
    # A study that is finished is not run again.
    said = lab.resume("--study", "lac").wait()
    assert f"finished already: {len(undisturbed)} of {len(undisturbed)} trials" in said
    assert {name: stamp for name, stamp in lab.stamps().items() if name in stamps} == stamps


def test_a_study_whose_driver_dies_while_it_resumes_is_gone_on_with_once_more(lab: Lab, undisturbed):
    study = lab.tune()
    with ended([study]):
        study.until(lambda: lab.num_over() >= 1)
        study.kill()
        # Into the start of a resume, and into its first trial.
        for wait_s in (4.0, None):
            again = lab.resume()
            with ended([again]):
                if wait_s is not None:
                    time.sleep(wait_s)
                else:
                    before = lab.num_over()
                    again.until(lambda: lab.num_over() > before, timeout=120)  # noqa: B023
                again.kill()
    said = lab.resume().wait()
    assert_no_page(said)
    assert_whole(lab)
    assert told(lab) == undisturbed


@pytest.mark.parametrize("what", ["gcs_server", "raylet", "everything"])
def test_a_driver_notices_that_ray_is_gone(lab: Lab, what):
    # Longer than it may take to notice: without its raylet an actor goes on, and so does a study of one actor.
    study = lab.tune(trials=1, epochs=60, steps=60)
    with ended([study]):
        study.until(lambda: lab.epoch(0) >= 2)
        if what == "everything":
            victims = study.descendants()
        else:
            victims = [process for process in study.descendants() if os.path.basename(_program(process)) == what]
        assert victims
        for process in victims:
            send(process)
        at = time.monotonic()
        said = study.wait(code=3, timeout=60)
        assert time.monotonic() - at < 30 + 10, "half a minute, and a busy machine"
    assert "error: Ray's" in said
    assert "--resume --study lac" in said
    assert_no_page(said)
    lab.resume().wait()
    assert_whole(lab)
    assert told(lab)[0][:2] == ("done", 60)


def _program(process) -> str:
    words = process.cmdline()
    return words[0] if words else ""


def test_ranks_of_a_trial_die_one_and_two_at_once_and_one_while_it_stores(lab: Lab):
    study = lab.tune("--workers", "2", trials=1, epochs=12, steps=40)
    with ended([study]):
        for epoch, count in ((1, 1), (4, 2), (7, 1)):
            study.until(lambda: lab.epoch(0) >= epoch)  # noqa: B023
            ranks = study.until(study.trial_processes)
            for process in ranks[:count]:
                send(process)
        said = study.wait()
    assert_no_page(said)
    assert_whole(lab)
    ((status, epoch, _, value),) = told(lab).values()
    alone = Lab(lab.folder / "alone", lab.data)
    alone.tune("--workers", "2", trials=1, epochs=12, steps=40).wait()
    ((_, _, _, expected),) = told(alone).values()
    assert (status, epoch) == ("done", 12)
    assert value == pytest.approx(expected, abs=1e-6)
    assert {row["world_size"] for row in lab.rows() if row["control"] == "none" and row["epoch"] > 0} == {2}


def test_early_stops_of_trials_of_two_workers_do_not_hold_up_the_study(lab: Lab, undisturbed):
    said = lab.tune("--workers", "2").wait(timeout=600)
    assert_no_page(said)
    assert_whole(lab)
    found = told(lab)
    # The same experiment, whatever computes it: sums in another order, nothing else.
    for number, (status, epoch, searched, value) in undisturbed.items():
        assert found[number][:3] == (status, epoch, searched)
        assert found[number][3] == pytest.approx(value, abs=0.02)


def test_training_with_two_workers_loses_a_rank_and_its_driver_and_goes_on(lab: Lab):
    arguments = ("--workers", "2", "--seeds", "1")
    reference = Lab(lab.folder / "reference", lab.data)
    reference.train(*arguments, epochs=10, steps=40).wait()
    training = lab.train(*arguments, epochs=10, steps=40)
    with ended([training]):
        training.until(lambda: "epoch 2/10" in training.said)
        send(training.until(training.trial_processes)[-1])
        training.until(lambda: "epoch 5/10" in training.said)
        training.kill()
    again = lab.train(*arguments, epochs=10, steps=40)
    said = again.wait()
    assert_no_page(said)
    assert "epoch 2/10" not in said, "it began anew"
    for one, other in zip(own_rows(lab), own_rows(reference), strict=True):
        assert one == other
    assert {row["control"] for row in lab.rows("train")} == {"none", "untrained", "positions"}
    assert "done before, kept" in lab.train(*arguments, epochs=10, steps=40).wait()


def own_rows(lab: Lab) -> list[tuple]:
    rows = [row for row in lab.rows("train") if row["control"] == "none"]
    columns = ("epoch", "split", "status", "metric.cropped.class_10", "part.total", "world_size")
    return [tuple(row.get(column) for column in columns) for row in rows]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("resumed", [False, True], ids=["fresh", "resumed"])
def test_a_study_that_is_interrupted_says_how_to_go_on(lab: Lab, undisturbed, number, resumed):
    study = lab.tune()
    with ended([study]):
        study.until(lambda: lab.num_over() >= 1)
        if resumed:
            study.kill()
            study = lab.resume()
            before = lab.num_over()
            with ended([study]):
                study.until(lambda: lab.num_over() > before)
                study.signal(number)
                said = study.wait(code=128 + number, timeout=40)
        else:
            study.signal(number)
            said = study.wait(code=128 + number, timeout=40)
    assert f"interrupted by {number.name}" in said
    assert "python -m lacray.tune --resume --study lac" in said
    assert "best:" not in said, "as if it were finished"
    assert_no_page(said)
    lab.resume().wait()
    assert_whole(lab)
    assert told(lab) == undisturbed


def test_a_second_interruption_ends_a_study_at_once(lab: Lab):
    study = lab.tune(steps=60)
    with ended([study]):
        study.until(lambda: lab.epoch(0) >= 1)
        study.signal(signal.SIGINT)
        time.sleep(0.3)
        study.signal(signal.SIGINT)
        at = time.monotonic()
        study.wait(code=130, timeout=30)
        assert time.monotonic() - at < 5
    lab.resume().wait()
    assert_whole(lab)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_training_that_is_interrupted_says_how_to_go_on(lab: Lab, number):
    training = lab.train(epochs=20, steps=60)
    with ended([training]):
        training.until(lambda: "epoch 3/20" in training.said)
        training.signal(number)
        said = training.wait(code=128 + number, timeout=40)
    assert "the same command goes on from the last checkpoint" in said
    assert_no_page(said)
    said = lab.train(epochs=20, steps=60).wait()
    assert "epoch 20/20" in said
    assert "epoch 2/20" not in said, "it began anew"
