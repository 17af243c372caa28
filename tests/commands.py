"""Entry points as their users run them: in processes of their own, or in this one where that tells as much."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from lacray.exits import guarded

TIMEOUT_S = 400


class Studied(NamedTuple):
    """A user's folder after the first command."""

    folder: Path
    said: str
    """What that command printed."""


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    # Ray's workers would wait behind everything else that the machine does.
    own = {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local", "RAY_worker_niceness": "0"}
    return {**os.environ, **own, **(extra or {})}


def run(*arguments: str, cwd: Path, env: dict[str, str] | None = None, code: int = 0) -> str:
    """What `python ARGUMENTS` prints, where it exits with `code`."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment(env), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == code, f"exit {done.returncode}\n{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def ended_in_process(
    capfd: pytest.CaptureFixture[str], main: Callable[[Sequence[str] | None], int | None], *arguments: object
) -> tuple[int, str, list[str]]:
    """Exit code, what was said, and the lines of errors."""
    try:
        guarded(main, [*map(str, arguments)])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    return code, told.out, [line.removeprefix("error: ") for line in told.err.splitlines()]
