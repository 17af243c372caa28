"""Where results lie: a directory or an S3 prefix, as a few operations on keys; patient with trouble that passes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lacray.results.address import is_local, local_path, split_address
from lacray.results.disk import Disk
from lacray.results.entries import Entry, Found
from lacray.results.errors import ResultsError
from lacray.results.names import check_key
from lacray.results.patience import Patience
from lacray.results.s3 import S3

T = TypeVar("T")
# An address with a slash too few.
_MEANT = re.compile(r"(s3a?|gs|gcs|az|https?|file|hdfs):(?!//)", re.IGNORECASE)
# What a study waits for its results' place; a command that a user waits for has less.
STUDY_PATIENCE, COMMAND_PATIENCE = 300.0, 10.0


class Place:
    """A directory (a path, file://) or an S3 prefix (s3://bucket/prefix) that holds results.

    Nothing is contacted before the first operation. Keys are names joined by /, below the place: every step is
    checked, so that no name from anywhere leads out of it. An object is there whole or not at all. Trouble that may
    pass (no connection, time-outs, 5xx, SlowDown, EIO, ESTALE) is waited for; trouble that stays (a wrong key, a bucket
    that is not there, a full or read-only disk) raises at once. May be shared by threads, and pickled.

    Args:
        uri: where.
        patience: seconds that an operation is tried again, from its first failure.
        tell: gets one line when waiting begins, one when it is over.

    Raises:
        ResultsError: of any operation too: the value, the rule, the remedy, without credentials.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        patience: float = STUDY_PATIENCE,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.uri = os.fspath(uri)
        self._store = _store(self.uri)
        self._patience = Patience(patience, tell)

    def __getstate__(self) -> dict[str, Any]:
        # What is told is told by the process that has a terminal.
        return {"uri": self.uri, "store": self._store, "patience": self._patience.seconds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.uri, self._store = state["uri"], state["store"]
        self._patience = Patience(state["patience"])

    def __repr__(self) -> str:
        return f"Place({self.uri!r})"

    @property
    def settle_seconds(self) -> float:
        """How long after a successful `create` or `replace` another's may still have come through."""
        return self._store.settle_seconds

    def patient(self, patience: float) -> Place:
        """The same place with another patience; what is told of waiting is told once for both."""
        other = Place.__new__(Place)
        other.uri, other._store, other._patience = self.uri, self._store, self._patience.shorter(patience)
        return other

    def read(self, key: str) -> bytes | None:
        """The object's content; None where there is none."""
        found = self.look(key)
        return None if found is None else found.data

    def look(self, key: str) -> Found | None:
        """Content, version and time of its last change; None where there is none."""
        check_key(key)
        return self._try(lambda: self._store.look(key))

    def version(self, key: str) -> str | None:
        """What tells the object's present content from any other; None where there is none."""
        check_key(key)
        return self._try(lambda: self._store.version(key))

    def write(self, key: str, data: bytes) -> str:
        """Puts the object there, over any other; its version."""
        check_key(key)
        return self._try(lambda: self._store.write(key, data))

    def create(self, key: str, data: bytes) -> str | None:
        """Puts the object there if there is none: its version, or None and nothing is changed."""
        check_key(key)
        return self._conditionally(key, data, lambda: self._store.create(key, data))

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        """Puts the object there if the one that is there has this version: the new version, or None."""
        check_key(key)
        return self._conditionally(key, data, lambda: self._store.replace(key, data, version))

    def delete(self, key: str, version: str | None = None) -> bool:
        """Removes the object (if it has this version); False where nothing was removed."""
        check_key(key)
        return self._try(lambda: self._store.delete(key, version))

    def list(self, prefix: str) -> Sequence[Entry]:
        """All objects below a prefix that ends with /, sorted by key; hidden ones are passed over."""
        check_key(prefix.rstrip("/"))
        return self._try(lambda: self._store.list(prefix.rstrip("/") + "/"))

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Names of the directories directly below, sorted; hidden ones are passed over."""
        if prefix:
            check_key(prefix.rstrip("/"))
        return self._try(lambda: self._store.folders(prefix))

    def upload(self, key: str, path: Path) -> None:
        """Puts a local file there, over any other; it appears when it is whole."""
        check_key(key)
        if not path.is_file():
            raise FileNotFoundError(path)
        self._try(lambda: self._store.upload(key, path))

    def download(self, key: str, path: Path) -> bool:
        """Copies the object into a local file; False where there is none."""
        check_key(key)
        return self._try(lambda: self._store.download(key, path))

    def now(self) -> float:
        """The place's own clock, seconds since 1970: machines whose clocks differ agree on what is fresh."""
        return self._try(self._store.now)

    def sweep(self, key: str) -> None:
        """Removes what killed writes of this object left; only for its single writer."""
        check_key(key)
        self._try(lambda: self._store.sweep(key))

    def check_writable(self) -> None:
        """Writes and removes a probe; creates the directory or bucket."""
        self._try(self._store.check_writable)

    @property
    def num_readers(self) -> int:
        """How many threads read many objects fastest."""
        return self._store.num_readers

    def loader(self) -> Callable[[str], Any]:
        """For many reads by several threads: key -> content (bytes-like), or None where there is no object.

        Raises:
            ResultsError: of the loader: an object cannot be had.
        """
        try:
            quick = self._store.bulk()
        except OSError:
            return self.read

        def load(key: str) -> Any:
            try:
                return quick(key)
            except OSError:
                # The patient way finds out what it is, and waits or says so.
                return self.read(key)

        return load

    def _conditionally(self, key: str, data: bytes, attempt: Callable[[], str | None]) -> str | None:
        tries = 0

        def action() -> str | None:
            nonlocal tries
            tries += 1
            version = attempt()
            if version is None and tries > 1:
                # The first try may have succeeded and only its answer been lost: then the obstacle is our own.
                found = self._store.look(key)
                if found is not None and found.data == data:
                    return found.version
            return version

        return self._try(action)

    def _try(self, action: Callable[[], T]) -> T:
        return self._patience(action, self._store.is_passing, self._store.explain)


def as_place(where: Place | str | os.PathLike[str], patience: float = COMMAND_PATIENCE) -> Place:
    """A place from an address, with a command's patience unless told otherwise; a place as it is."""
    return where if isinstance(where, Place) else Place(where, patience=patience)


def check_writable(uri: Place | str | os.PathLike[str]) -> None:
    """Writes and removes a probe where results will lie; creates the directory or bucket. Call before anything starts.

    Args:
        uri: local path, file:// or s3://bucket/prefix.

    Raises:
        ResultsError: says what cannot be written and what to do.
    """
    as_place(uri).check_writable()


def _store(uri: str) -> Disk | S3:
    if not uri.strip():
        raise ResultsError(repr(uri), "must be a local path or s3://bucket/prefix", "pass another --results")
    if _MEANT.match(uri):
        # Else a folder of that name would be made, and the results looked for in vain.
        raise ResultsError(
            uri, "must have two slashes after its colon", "write s3://bucket/prefix, or ./ before a path"
        )
    if is_local(uri):
        return Disk(uri, local_path(uri))
    if split_address(uri)[0] != "s3":
        raise ResultsError(uri, "must be a local path or s3://bucket/prefix", "pass another --results")
    return S3(uri)
