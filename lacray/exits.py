"""How an entry point ends: errors as lines, exit codes that say what happened, signals that lose nothing."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from lacray.watch import WAKING, ClusterLostError

# What was ignored before this process began stays so: `nohup`, and Ctrl-C for the background jobs of a script.
SIGNALS = tuple(
    number
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if signal.getsignal(number) is not signal.SIG_IGN
)
# What the user can mend: space, permission, names, a disk that fails, a file that has gone.
MENDABLE = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE),
        *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EMFILE, errno.ENFILE),
    }
)
# Between a signal and the end of the process, at most.
LAST_WORDS_S = 25.0
ONE_S = 0.2
"""Seconds within which two signals are one: `timeout` and `uv run` pass on what the whole group has got."""


def guarded(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> None:
    """Run an entry point and exit as it ended.

    2: something that the user can mend, one line a problem; 3: Ray is gone; 128 + n: signal n, whose second ends the
    process at once; SIGPIPE: nobody reads what is printed any more. What was stored is safe in each case.
    """
    from lacray.config import UserError

    catch_signals()
    try:
        code = main(argv)
        # What cannot be printed is known now, not when the interpreter has gone.
        sys.stdout.flush()
        if code:
            raise SystemExit(code)
    except BrokenPipeError:
        _drop_output()
        if advice.text != _Advice.text:
            print(f"ended, since nobody reads what is printed any more; {advice.text}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        _drop_output()
        print(f"error: {_said(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    except ClusterLostError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(3) from None
    except KeyboardInterrupt:
        # Libraries raise their own in the place of ours.
        # Not by SystemExit: threads of libraries that wait for the network would be waited for.
        _leave(interrupted_by() or signal.SIGINT)


def _drop_output() -> None:
    """Let nothing be printed any more: what is still to be written would be tried, and fail, once more."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _said(error: OSError) -> str:
    """What the system refuses, and for which file."""
    from lacray.config import UserError

    if (problem := _no_folder()) is not None:
        return problem
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "what is read or written"
    # In one line, whatever the file is called.
    return UserError(f"{where}: {error.strerror}; mend that, and give the same command again").problems[0]


def _no_folder() -> str | None:
    """That the current folder was removed, where it was."""
    try:
        os.getcwd()
    except OSError:
        return "the current folder does not exist any more; change into another one"
    return None


class _Advice:
    """How to go on with what was interrupted; the entry points keep it up to date."""

    text = "nothing had begun"


advice = _Advice()


def leave_at_once() -> None:
    """Until `guarded`: a signal ends the process with a line, while the libraries are imported that take seconds."""
    if (problem := _no_folder()) is not None:
        # Libraries end the process with words of their own.
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
    # A handler waits for the main thread's next step, and a signal that comes a moment before a blocking call does not
    # interrupt that call. So the interpreter writes the signal's number into a pipe, and a thread of ours leaves.
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)

    def leave() -> None:
        _leave(os.read(receiving, 1)[0])

    threading.Thread(target=leave, daemon=True, name="leave at once").start()
    signal.set_wakeup_fd(sending)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)


def _leave(number: int) -> None:
    """End the process with a line; nothing is waited for, and whatever else prints may be stuck."""
    os.write(2, f"interrupted by {signal.Signals(number).name}; {advice.text}\n".encode())
    os._exit(128 + number)


def catch_signals() -> None:
    """Turn signals into KeyboardInterrupt in the main thread; called again after libraries that set their own."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, _on_signal)
    signal.signal(WAKING, _on_waking)


_signals_seen: list[int] = []
_first_at = 0.0


def interrupted_by() -> int | None:
    """The signal that this process has got, if any."""
    return _signals_seen[0] if _signals_seen else None


def _on_signal(number: int, frame: Any) -> None:
    global _first_at
    now = time.monotonic()
    if _signals_seen and now - _first_at < ONE_S:
        return
    _signals_seen.append(number)
    if len(_signals_seen) > 1:
        os.write(2, b"\nended at once\n")
        os._exit(128 + number)
    _first_at = now
    # A library that holds on to the interrupted call must not hold the user.
    timer = threading.Timer(LAST_WORDS_S, _leave, [number])
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _on_waking(number: int, frame: Any) -> None:
    """The watch has found something: nobody asked for the end of the process."""
    if not _signals_seen:
        raise KeyboardInterrupt
