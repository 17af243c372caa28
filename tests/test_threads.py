"""Threads that wait for each other sleep, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from paths import ROOT


def waiting(code: str, **own: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**env, "PYTHONPATH": str(ROOT), **own},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def test_openmp_starts_with_threads_that_sleep_while_they_wait():
    # What OpenMP itself says that it has read, when an operator brings torch in.
    said = waiting("import lacray.ops", OMP_DISPLAY_ENV="TRUE").stderr
    if "OPENMP DISPLAY ENVIRONMENT" not in said:
        pytest.skip("torch's threads here are not OpenMP's")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in said


@pytest.mark.parametrize("own", ["ACTIVE", "passive"])
def test_what_the_user_says_of_waiting_threads_stands(own):
    code = "import os, lacray; print(os.environ['OMP_WAIT_POLICY'])"
    assert waiting(code, OMP_WAIT_POLICY=own).stdout.strip() == own


def test_every_process_that_lacray_starts_is_told():
    code = "import lacray, subprocess; subprocess.run(['printenv', 'OMP_WAIT_POLICY'], check=True)"
    assert waiting(code).stdout.strip() == "PASSIVE"
