"""S3 that is away, slow, answers 500, refuses, or has lost the bucket: a real server behind a proxy."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from lab import Bucket, Lab, assert_no_page, assert_whole, ended, told
from s3_server import SECRET_KEY, WRITER_KEY, WRITER_SECRET

pytestmark = pytest.mark.slow

AWAY_S = 60.0


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error:")]


def test_a_study_waits_for_s3_that_is_away_for_a_minute_and_goes_on(remote: Lab, s3: Bucket, undisturbed):
    study = remote.tune()
    with ended([study]):
        study.until(lambda: remote.epoch(1) >= 1 or remote.num_over() >= 2)
        with s3.proxy.away():
            time.sleep(AWAY_S)
            assert study.process.poll() is None, study.said
        said = study.wait()
    assert_no_page(said)
    waiting = [line for line in said.splitlines() if "waiting" in line and remote.results in line]
    assert len(waiting) == 1, said
    assert "Could not connect" in waiting[0]
    assert sum("answering again" in line for line in said.splitlines()) == 1
    assert_whole(remote)
    assert told(remote) == undisturbed


def test_a_trial_is_the_same_where_every_answer_of_s3_takes_two_seconds(remote: Lab, s3: Bucket, undisturbed):
    s3.proxy.delay_s = 2.0
    try:
        said = remote.tune(trials=1).wait()
    finally:
        s3.proxy.delay_s = 0.0
    assert_no_page(said)
    assert_whole(remote)
    assert told(remote) == {0: undisturbed[0]}


def test_a_single_500_is_not_noticed_at_the_first_write_nor_at_the_first_row(remote: Lab, s3: Bucket, undisturbed):
    s3.proxy.fail_once(lambda method, path: method == "PUT")
    study = remote.tune(trials=1)
    with ended([study]):
        study.until(lambda: s3.proxy.num_failed == 1)
        s3.proxy.fail_once(lambda method, path: method == "PUT" and "/rows/trial-" in path)
        said = study.wait()
    assert s3.proxy.num_failed == 2
    assert "InternalError" not in said
    assert "waiting up to" not in said
    assert_no_page(said)
    assert_whole(remote)
    assert told(remote) == {0: undisturbed[0]}


def test_a_wrong_secret_is_told_in_a_line_that_does_not_hold_it(remote: Lab):
    wrong = "a-secret-that-is-wrong"
    said = remote.tune(env={"AWS_SECRET_ACCESS_KEY": wrong}).wait(code=2, timeout=60)
    (only,) = errors(said)
    assert only.startswith(f"error: {remote.results}: must be readable and writable")
    assert "AWS_SECRET_ACCESS_KEY" in only
    assert_no_page(said)
    for secret in (wrong, SECRET_KEY, os.environ["AWS_ACCESS_KEY_ID"]):
        assert secret not in said


def test_a_bucket_that_vanishes_ends_a_study_in_lines(s3: Bucket, data: Path, tmp_path: Path):
    bucket = Bucket("vanishing", s3.proxy)
    bucket.make()
    writer = {"AWS_ACCESS_KEY_ID": WRITER_KEY, "AWS_SECRET_ACCESS_KEY": WRITER_SECRET}
    lab = Lab(tmp_path / "lab", data, env=bucket.env | writer, results=f"s3://{bucket.name}/runs")
    study = lab.tune(steps=100)
    with ended([study]):
        study.until(lambda: lab.epoch(0) >= 1)
        bucket.remove()
        said = study.wait(code=2, timeout=90)
    found = errors(said)
    assert f"s3://{bucket.name}/runs" in found[0]
    # By whichever is first: the trial, which writes, or the driver, which looks. The server may take a write for the
    # wish to make the bucket anew, which this writer may not.
    assert any(why in found[0] for why in ("bucket does not exist", "its study.json is gone", "AccessDenied"))
    assert len(found) <= 3, said
    assert_no_page(said)
    for secret in (WRITER_KEY, WRITER_SECRET):
        assert secret not in said


def test_a_study_whose_machine_is_lost_is_gone_on_with_from_one_that_has_nothing(remote: Lab, undisturbed, tmp_path):
    study = remote.tune()
    with ended([study]):
        study.until(lambda: remote.epoch(1) >= 1 or remote.num_over() >= 2)
        study.kill()
    shutil.rmtree(remote.folder)
    # The operators are the installation's, not the study's: compiling them again would tell nothing.
    cache = tmp_path / "cache"
    own = Path(os.environ.get("LACRAY_CACHE", Path.home() / ".cache" / "lacray"))
    if (own / "ops").is_dir():
        shutil.copytree(own / "ops", cache / "ops")
    said = remote.resume(env={"LACRAY_CACHE": str(cache)}).wait()
    assert_no_page(said)
    assert_whole(remote)
    assert told(remote) == undisturbed
