"""Bytes by key in a directory: whole or absent, whoever is killed when."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lacray.results.entries import Entry, Found
from lacray.results.errors import ResultsError
from lacray.results.patience import passes

LOCK_SECONDS = 2.0


class Disk:
    """A directory as a place; the methods are `lacray.results.place.Place`'s, without its patience.

    Args:
        uri: as the user wrote it, for messages.
        root: the directory's absolute path; made when something is first written.
    """

    # The time is spent in decoding; a network file system answers several at once.
    num_readers = 4
    # A rename under a lock is atomic; nothing has to settle before it can be trusted.
    settle_seconds = 0.0

    def __init__(self, uri: str, root: str) -> None:
        self.uri, self.root = uri, Path(root)

    def look(self, key: str) -> Found | None:
        try:
            with (self.root / key).open("rb") as file:
                status = os.fstat(file.fileno())
                return Found(file.read(), _version(status), status.st_mtime)
        except FileNotFoundError:
            return None

    def version(self, key: str) -> str | None:
        try:
            return _version(os.stat(self.root / key))
        except FileNotFoundError:
            return None

    def bulk(self) -> Callable[[str], bytes | None]:
        def load(key: str) -> bytes | None:
            try:
                with open(f"{self.root}/{key}", "rb", buffering=0) as file:
                    return file.read()
            except FileNotFoundError:
                return None

        return load

    def write(self, key: str, data: bytes) -> str:
        with self._written(key, data) as temporary:
            version = _version(os.stat(temporary))
            os.replace(temporary, self.root / key)
        return version

    def create(self, key: str, data: bytes) -> str | None:
        with self._written(key, data) as temporary:
            try:
                # The name and the whole content appear at once, and never over another file.
                os.link(temporary, self.root / key)
            except FileExistsError:
                # An answer lost by a network file system: the link was made, and its repetition failed.
                if os.stat(temporary).st_nlink < 2:
                    return None
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise
                # A file system without hard links.
                with self._locked(key):
                    if (self.root / key).exists():
                        return None
                    os.replace(temporary, self.root / key)
            return _version(os.stat(self.root / key))

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        with self._written(key, data) as temporary, self._locked(key):
            if self.version(key) != version:
                return None
            new = _version(os.stat(temporary))
            os.replace(temporary, self.root / key)
        return new

    def delete(self, key: str, version: str | None = None) -> bool:
        try:
            if version is None:
                (self.root / key).unlink()
                return True
            with self._locked(key):
                if self.version(key) != version:
                    return False
                (self.root / key).unlink()
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str) -> Sequence[Entry]:
        found: list[Entry] = []
        waiting = [prefix.rstrip("/")]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        key = f"{folder}/{entry.name}".lstrip("/")
                        if entry.is_dir():
                            waiting.append(key)
                            continue
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat()
                            found.append(Entry(key, status.st_size, status.st_mtime, _version(status)))
            except FileNotFoundError:
                continue
        return sorted(found)

    def folders(self, prefix: str = "") -> Sequence[str]:
        try:
            with os.scandir(self.root / prefix) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        except FileNotFoundError:
            return []

    def upload(self, key: str, path: Path) -> None:
        with self._temporary(key) as temporary:
            shutil.copyfile(path, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, self.root / key)

    def download(self, key: str, path: Path) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(self.root / key, path)
        except FileNotFoundError:
            return False
        return True

    def now(self) -> float:
        probe = self.root / f".clock~{uuid.uuid4().hex}.tmp"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            # Only read by this user, or not there yet: this machine's clock is the best guess.
            return time.time()
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    def sweep(self, key: str) -> None:
        path = self.root / key
        for stale in path.parent.glob(f".{path.name}~*.tmp"):
            stale.unlink(missing_ok=True)

    def check_writable(self) -> None:
        probe = self.root / f".{uuid.uuid4().hex}.tmp"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            if passes(error):
                raise
            reason = error.strerror or error
            raise ResultsError(
                self.uri, f"must be a writable directory, got {reason}", "pass another --results"
            ) from None

    def is_passing(self, error: Exception) -> bool | None:
        # Reads take an absent file for an answer: here a directory vanished under a write, which makes it anew.
        return passes(error) or isinstance(error, FileNotFoundError) if isinstance(error, OSError) else None

    def explain(self, error: Exception, waited: float | None = None) -> ResultsError:
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        lasted = "" if waited is None else f" for {waited:.0f} s"
        remedy = "mend it or pass another --results"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room, or pass another --results"
        return ResultsError(self.uri, f"must be readable and writable, got {reason}{lasted}", remedy)

    @contextlib.contextmanager
    def _temporary(self, key: str) -> Iterator[Path]:
        """A path beside the key's; gone at the end, and the directory's change safe from a power cut."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}~{uuid.uuid4().hex}.tmp")
        try:
            yield temporary
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    @contextlib.contextmanager
    def _written(self, key: str, data: bytes) -> Iterator[Path]:
        with self._temporary(key) as temporary:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Alone among all processes that replace or delete by version in this directory."""
        folder = (self.root / key).parent
        handle = os.open(folder, os.O_RDONLY)
        try:
            try:
                _lock(handle)
            except OSError as error:
                if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP):
                    raise
                # Network file systems lock files that are open for writing, not directories.
                os.close(handle)
                handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
                _lock(handle)
            yield
        finally:
            os.close(handle)


def _lock(handle: int) -> None:
    """Waits its turn; not for ever, since a process may be stopped while it holds the lock."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.002)


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
