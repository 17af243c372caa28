"""Signals while an entry point is still importing its libraries, which takes seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT

COMMANDS = {
    "tune": (["-m", "lacray.tune"], "rich"),
    "train": (["-m", "lacray.train"], "rich"),
    "align": (["-m", "lacray.align", "checkpoint.pt"], "matplotlib"),
    "report": ([str(ROOT / "analysis" / "report.py")], "pyarrow"),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", COMMANDS)
def test_an_entry_point_that_is_interrupted_while_it_starts_says_so_in_a_line(
    tmp_path: Path, name: str, number: signal.Signals
) -> None:
    arguments, library = COMMANDS[name]
    began = tmp_path / "began"
    (tmp_path / "slow" / library).mkdir(parents=True)
    (tmp_path / "slow" / library / "__init__.py").write_text(f"import time; open({str(began)!r}, 'w'); time.sleep(60)")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "slow"), str(ROOT)])}
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not began.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    said, complained = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert (said, complained) == ("", f"interrupted by {number.name}; nothing had begun\n")
