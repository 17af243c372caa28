"""Compile C++ and CUDA at first use, once per machine, whatever happens to the process that does it.

A library lies in a folder of the cache (`lacray.cache`) that is named by a hash of all that went into it. It is built
in a scratch folder under a file lock that the kernel releases when its holder dies, and published by a rename. So an
interrupted build leaves nothing that a later one could take for a library or wait for, and processes that start
together build once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


class BuildError(RuntimeError):
    """A compiled library cannot be had here; the message names the remedy."""


def key_of(sources: Iterable[Path], *settings: object) -> str:
    """A hash of the sources, of what else goes into a library, of the machine and of the compiler that is asked for."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    digest.update(repr((*settings, platform.system(), platform.machine(), os.environ.get("CXX", ""))).encode())
    return digest.hexdigest()[:16]


def built(path: Path, build: Callable[[Path], Path]) -> Path:
    """A library, made if need be.

    Args:
        path: where it is, or will be, alone in its folder.
        build: makes it in a folder that is given, and says where; called by one process at a time.

    Raises:
        BuildError: it cannot be made, or not be written.
    """
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.parent / "lock"):
            if not path.exists():  # else another process built it while this one waited
                _build(path, build)
    except OSError as error:
        raise BuildError(
            f"{path.parent}: cannot be written ({error}). Set LACRAY_CACHE to a folder that can."
        ) from error
    return path


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released by the kernel when the process ends, however it ends
        yield


def _build(path: Path, build: Callable[[Path], Path]) -> None:
    for left_over in path.parent.glob("scratch-*"):  # of a build that was killed: its lock is ours now
        shutil.rmtree(left_over, ignore_errors=True)
    scratch = path.parent / f"scratch-{os.getpid()}-{time.time_ns()}"
    scratch.mkdir()
    try:
        os.replace(build(scratch), path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run(command: list[str]) -> None:
    """Runs a compiler. Raises BuildError with what it said."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        tail = "\n".join((result.stderr or result.stdout).strip().splitlines()[-20:])
        raise BuildError(f"the compiler failed ({result.returncode}): {shlex.join(command)}\n{tail}")


def run_all(commands: list[list[str]]) -> None:
    """Runs commands side by side. Raises BuildError with what the first that failed said."""
    with ThreadPoolExecutor(max_workers=max(1, os.cpu_count() or 1)) as pool:
        list(pool.map(run, commands))


def find_compiler() -> str:
    """The C++ compiler: `CXX`, or the first on PATH. Raises BuildError."""
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["c++", "g++", "clang++"]:
        if found := shutil.which(name):
            return found
    named = f"CXX={wanted}" if wanted else "c++, g++ or clang++"
    raise BuildError(
        f"no C++ compiler found ({named}). Install one (Debian, Ubuntu: apt install g++; conda: conda install "
        "cxx-compiler), or set CXX to its path."
    )
