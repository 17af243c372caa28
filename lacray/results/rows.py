"""One run's rows, `{study}/rows/RUN.parquet`, and how it ended if others had to end it, `{study}/ends/RUN.parquet`."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from lacray.results.checkpoints import remove_checkpoint
from lacray.results.errors import ResultsError, SupersededError
from lacray.results.names import check_name
from lacray.results.place import Place, as_place
from lacray.results.schema import checked, decode, encode, of_study, refuse_foreign, to_rows, to_table

SUFFIX = ".parquet"
# Files of many finished runs, `lacray.results.compaction`.
COMPACTED = "compacted-"


def rows_key(study: str, run_id: str) -> str:
    """The key of a run's rows; both names checked."""
    if run_id.startswith(COMPACTED):
        raise ResultsError(f"run_id {run_id!r}", f"must not start with {COMPACTED}", "rename the run_id")
    return f"{check_name('study', study)}/rows/{check_name('run_id', run_id)}{SUFFIX}"


def end_key(study: str, run_id: str) -> str:
    """The key of a run's end; both names checked."""
    return f"{check_name('study', study)}/ends/{check_name('run_id', run_id)}{SUFFIX}"


class RunWriter:
    """The only writer of one run's rows; the file is rewritten whole, and is never seen half.

    Args:
        where: the place, or its address.
        study: the run's study.
        run_id: the run's name; unique in the study.
        keep_until: k: keep the run's own earlier rows with epoch <= k and drop the rest. None: start fresh, and the
            first `append` replaces what an earlier try left.

    Attributes:
        rows: everything written so far, in order.
        was_removed: whether the file was removed under this writer, which then wrote it anew.

    Raises:
        ResultsError: the place cannot be read, or a name does not fit a file.
    """

    def __init__(self, where: Place | str, study: str, run_id: str, *, keep_until: int | None = None) -> None:
        self._place, self._key = as_place(where), rows_key(study, run_id)
        self.study, self.run_id = study, run_id
        self.rows: list[dict[str, Any]] = []
        self.was_removed = False
        # What a killed write left behind; nobody else writes this run.
        self._place.sweep(self._key)
        found = self._place.look(self._key)
        self._version = None if found is None else found.version
        if keep_until is not None:
            earlier = self._packed() if found is None else self._decoded(self._key, found.data)
            self.rows = [row for row in earlier if row["epoch"] <= keep_until]

    def _decoded(self, key: str, content: bytes) -> list[dict[str, Any]]:
        import pyarrow as pa

        try:
            table = decode(content)
            refuse_foreign(table, ("run_id", "epoch"), self.run_id)
            return to_rows(of_study(table, self.study))
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise ResultsError(
                f"{self._place.uri.rstrip('/')}/{key}",
                f"must be a Parquet file of the run's rows, got {reason}",
                "restore or remove it",
            ) from None

    def _packed(self) -> list[dict[str, Any]]:
        """The run's rows in a file of many runs."""
        from lacray.results.reading import packed_rows

        return packed_rows(self._place, self.study, self.run_id)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows and publishes the file, or changes nothing.

        Args:
            rows: column -> value; `study`, `run_id` and `time` are filled in; None is null; lists become JSON.

        Raises:
            ValueError: names the column, what it must be, and what it was; a metric that is not finite is refused.
            SupersededError: another process writes this run now.
            ResultsError: the file could not be written.
        """
        now = datetime.datetime.now(datetime.UTC)
        fresh = []
        for row in rows:
            own = {"study": self.study, "run_id": self.run_id}
            for key, value in own.items():
                if row.get(key, value) != value:
                    raise ValueError(f"{key}: must be {value!r}, the writer's own, got {row[key]!r}")
            fresh.append(checked({"time": now, **row, **own}))
        self._publish(self.rows + fresh)

    def mark(self, status: str, error: str | None = None) -> None:
        """Says how the run stands, in the rows of its last epoch.

        Args:
            status: running, done, pruned or failed.
            error: why it failed.

        Raises:
            ValueError: no such status, or no row yet.
            SupersededError: another process writes this run now.
            ResultsError: the file could not be written.
        """
        if not self.rows:
            raise ValueError(f"status: must be told of a run that has rows, {self.run_id} has none")
        last = max(row["epoch"] for row in self.rows)
        changes = {"status": status} if error is None else {"status": status, "error": error}
        self._publish([checked({**row, **changes}) if row["epoch"] == last else row for row in self.rows])

    def _publish(self, rows: list[dict[str, Any]]) -> None:
        content = encode(to_table(rows))
        version = None
        if self._version is not None:
            version = self._place.replace(self._key, content, self._version)
        is_gone = version is None and self._version is not None and self._place.version(self._key) is None
        # Gone because it was packed, as finished runs are: what this writer has to add comes too late.
        if version is None and (self._version is None or (is_gone and not self._packed())):
            # The first of the run, or its file was removed: the whole run is in our hands.
            self.was_removed = self._version is not None
            version = self._place.create(self._key, content)
        if version is None:
            raise SupersededError(
                f"run {self.run_id} of study {self.study}",
                "must have one writer, and another process has written its rows, or ended it, since",
                "let that one go on; this one must stop",
            )
        self._version, self.rows = version, rows


def write_end(where: Place | str, study: str, run_id: str, end: Mapping[str, Any]) -> None:
    """Says how a run ended that did not end itself; `read` puts it over its rows. A pruned run's checkpoint goes.

    Args:
        where: the place, or its address.
        study: the run's study.
        run_id: the run's name.
        end: "status": pruned or failed; "epoch": the last epoch that counts, later rows are dropped (None: all
            count); "error": why; and what is known of a run that may never have written a row: trial, seed, stage,
            space, its settings by their dotted keys.

    Raises:
        ValueError: names the column, what it must be, and what it was.
        ResultsError: it could not be written.
    """
    if end.get("status") not in ("pruned", "failed"):
        raise ValueError(f"status: must be pruned or failed in an end, got {end.get('status')!r}")
    now = datetime.datetime.now(datetime.UTC)
    epoch = end.get("epoch")
    columns = {"control": "none", "time": now, **end, "study": study, "run_id": run_id}
    row = checked({**columns, "epoch": 0 if epoch is None else epoch})
    if epoch is None:
        del row["epoch"]
    place = as_place(where)
    place.write(end_key(study, run_id), encode(to_table([row]).select(list(row))))
    if end["status"] == "pruned":
        # A run that was lost may be tried again, and goes on from there.
        remove_checkpoint(place, study, run_id)


def remove_end(where: Place | str, study: str, run_id: str) -> None:
    """Forgets how a run ended, before it is tried again; nothing there is fine."""
    as_place(where).delete(end_key(study, run_id))
