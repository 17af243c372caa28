"""How an entry point ends: by signals, also while it imports its libraries, by errors, by the watch."""

from __future__ import annotations

import os
import shlex
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


# Which signal it is, is nothing that an entry point knows: two of them meet each.
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("tune", signal.SIGINT),
        ("train", signal.SIGTERM),
        ("align", signal.SIGINT),
        ("report", signal.SIGTERM),
    ],
)
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


def said_by(*arguments: str, cwd: Path, before: str = "", after: str = "") -> tuple[int, str]:
    """Exit code and standard error of a Python in a shell."""
    shell = f"{before} {shlex.join([sys.executable, *arguments])} {after}; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", shell], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


MANY_LINES = (
    "from lacray.exits import advice, guarded; {advice}; guarded(lambda _: [print('a line') for _ in range(9999)])"
)


@pytest.mark.parametrize("way", ["print", "tell"])
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, way: str) -> None:
    program = MANY_LINES.format(advice="advice.text = 'go on'" if way == "print" else "from lacray.cli import tell")
    code, complained = said_by("-c", program.replace("print", way), cwd=tmp_path, after="| head -1")
    assert code == 128 + signal.SIGPIPE
    assert complained == ("ended, since nobody reads what is printed any more; go on\n" if way == "print" else "")


def test_a_disk_that_takes_no_output_is_a_line(tmp_path: Path) -> None:
    program = "from lacray.exits import guarded; guarded(lambda _: print('a line'))"
    said = "error: what is read or written: No space left on device; mend that, and give the same command again\n"
    assert said_by("-c", program, cwd=tmp_path, after="> /dev/full") == (2, said)


def test_a_folder_that_was_removed_is_a_line(tmp_path: Path) -> None:
    before = "mkdir gone; cd gone; rmdir ../gone;"
    said = "error: the current folder does not exist any more; change into another one\n"
    assert said_by("-m", "lacray.train", "--keys", cwd=tmp_path, before=before) == (2, said)


def test_a_signal_that_was_ignored_from_the_start_stays_so(tmp_path: Path) -> None:
    """`nohup` ignores SIGHUP, a script's background job SIGINT."""
    program = (
        "import os; from lacray.exits import guarded; "
        "guarded(lambda _: [os.kill(os.getpid(), n) for n in (1, 2)].clear())"
    )
    assert said_by("-c", program, cwd=tmp_path, before="trap '' HUP INT;") == (0, "")
    assert said_by("-c", program, cwd=tmp_path) == (129, "interrupted by SIGHUP; nothing had begun\n")


TWICE = """
import os, time
from lacray.exits import guarded


def main(argv):
    try:
        os.kill(os.getpid(), 15)
        time.sleep(60)
    finally:
        time.sleep(PAUSE)
        os.kill(os.getpid(), 15)


guarded(main)
"""


@pytest.mark.parametrize(
    ("pause", "said"), [(0, "interrupted by SIGTERM; nothing had begun\n"), (0.5, "\nended at once\n")]
)
def test_a_signal_that_comes_twice_at_once_is_one(tmp_path: Path, pause: float, said: str) -> None:
    """`timeout` ends its child, and then the group that the child is in; a person takes longer."""
    assert said_by("-c", TWICE.replace("PAUSE", str(pause)), cwd=tmp_path) == (143, said)


WATCHED = """
import os, sys, time
from lacray import exits
from lacray.watch import Watch, interrupt_main

exits.LAST_WORDS_S = 0.5


def main(argv):
    for study in ("one", "two"):
        try:
            with Watch([lambda: ValueError(study)], lambda problem: interrupt_main()):
                time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(1)
            print(f"{study} is over", file=sys.stderr)
    try:
        os.kill(os.getpid(), 2)
    finally:
        CLOSE


exits.guarded(main)
"""


@pytest.mark.parametrize("last", ["pass", "time.sleep(60)"])
def test_what_the_watch_ends_is_not_the_process_and_a_later_ctrl_c_is_the_first(tmp_path: Path, last: str) -> None:
    """And who is held up by what is closed is told how to go on, too."""
    code, complained = said_by("-c", WATCHED.replace("CLOSE", last), cwd=tmp_path, before="trap - INT;")
    assert complained == "one is over\ntwo is over\ninterrupted by SIGINT; nothing had begun\n"
    assert code == 130


def test_the_watch_ends_what_runs_where_ctrl_c_is_ignored(tmp_path: Path) -> None:
    program = WATCHED.replace("CLOSE", "pass")
    assert said_by("-c", program, cwd=tmp_path, before="trap '' INT;") == (0, "one is over\ntwo is over\n")
