"""Rows <-> Parquet: one file per run, `STUDY/rows/RUN.parquet`, and how a run ended that could not say so itself.

A file is rewritten whole and appears at once: a reader never meets a torn file, a run that is taken up again overwrites
its own rows, a killed run keeps its last ones.

A row is one (epoch, split, control) of a run: identity columns (`IDENTITY`), the config by its dotted keys, `metric.*`,
`part.*` (loss parts) and `gap.*` (mean effective penalties); split is null for an epoch that was not evaluated. What
the driver writes of a run that was pruned or lost, `STUDY/ends/RUN.parquet`, has the last word: `read` shows both as one.
"""

from __future__ import annotations

import datetime
import io
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from lacray.results.checkpoints import remove_checkpoint
from lacray.results.place import Place, ResultsError, check_name, trouble

IDENTITY: dict[str, pa.DataType] = {
    "study": pa.string(),
    "run_id": pa.string(),
    "stage": pa.string(),
    "space": pa.string(),
    "selected_by": pa.string(),  # the metric that the study maximises; null for train
    "variant": pa.string(),  # null unless a named variant of the formulation study
    "trial": pa.int64(),  # null for train
    "seed": pa.int64(),
    "epoch": pa.int64(),
    "status": pa.string(),
    "error": pa.string(),
    "control": pa.string(),
    "split": pa.string(),
    "commit": pa.string(),
    "lacray_version": pa.string(),
    "torch_version": pa.string(),
    "ray_version": pa.string(),
    "python_version": pa.string(),
    "op_backend": pa.string(),
    "device": pa.string(),
    "world_size": pa.int64(),
    "time": pa.timestamp("us", tz="UTC"),
    "seconds": pa.float64(),
    "frames_per_second": pa.float64(),
    "peak_memory_bytes": pa.int64(),
    "notes": pa.string(),  # JSON: what was left out, and what it was computed with
}
ALLOWED: dict[str, tuple[str, ...]] = {
    "stage": ("tune", "train"),
    "status": ("running", "done", "pruned", "failed"),
    "control": ("none", "untrained", "positions"),
    "split": ("validation", "val"),  # validation: the share of the training videos that studies select on
}
NUMERIC_PREFIXES = ("metric.", "part.", "gap.")
SUFFIX = ".parquet"
# Small files, so the time is round trips; S3 answers them side by side.
NUM_READERS = 16
# A reader waits for results that are away, but not as long as a study does.
READ_PATIENCE_S = 20.0


# --- writing ---------------------------------------------------------------------------------------------------------


class SupersededError(ResultsError):
    """Another process writes this run's rows."""


class RunWriter:
    """The only writer of one run's file.

    Args:
        place: where results lie, or its address.
        study: the run's directory.
        run_id: the run's file; unique in the study.
        keep_until: k: keep the run's own earlier rows with epoch <= k and drop the rest. None: start fresh, and
            the first `append` replaces what an earlier try left.

    Attributes:
        rows: everything written so far, in order.

    Raises:
        ResultsError: the place cannot be read, or a name does not fit a file.
    """

    def __init__(self, place: Place | str, study: str, run_id: str, *, keep_until: int | None = None) -> None:
        self.place = place if isinstance(place, Place) else Place(place)
        self.study, self.run_id = check_name("study", study), check_name("run_id", run_id)
        self.rows: list[dict[str, Any]] = []
        self._key = f"{study}/rows/{run_id}{SUFFIX}"
        if not self.place.is_s3:
            # What a killed write left behind; nobody else writes this run.
            folder = Path(self.place.root) / study / "rows"
            for stale in folder.glob(f".{run_id}{SUFFIX}~*.tmp"):
                stale.unlink(missing_ok=True)
        self._version = self.place.version(self._key)
        if keep_until is not None:
            self.rows = [row for row in self._earlier() if row["epoch"] <= keep_until]

    def _earlier(self) -> list[dict[str, Any]]:
        content = self.place.read(self._key)
        if content is None:
            return []
        try:
            table = pq.read_table(pa.BufferReader(content))
        except pa.ArrowException as error:
            raise trouble(self.place.uri, error) from error
        return [{key: value for key, value in row.items() if value is not None} for row in table.to_pylist()]

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows and publishes the file, or changes nothing.

        Args:
            rows: column -> value; `study`, `run_id` and `time` are filled in; None is null; lists become JSON.

        Raises:
            ValueError: names the column, what it must be, and what it was; a metric that is not finite is refused.
            SupersededError: another process has written the file since.
            ResultsError: the file could not be written.
        """
        now = datetime.datetime.now(datetime.UTC)
        fresh = []
        for row in rows:
            own = {"study": self.study, "run_id": self.run_id}
            for key, value in own.items():
                if row.get(key, value) != value:
                    raise ValueError(f"{key}: must be {value!r}, the writer's own, got {row[key]!r}")
            fresh.append(_checked({"time": now, **row, **own}))
        self._publish(self.rows + fresh)

    def mark(self, status: str, error: str | None = None) -> None:
        """Say how the run stands in the rows of its last epoch."""
        last = max(row["epoch"] for row in self.rows)
        said = {"status": status} | ({"error": error} if error is not None else {})
        self._publish([_checked(row | said) if row["epoch"] == last else row for row in self.rows])

    def _publish(self, rows: list[dict[str, Any]]) -> None:
        found = self.place.version(self._key)
        if found is not None and found != self._version:
            raise SupersededError(
                f"run {self.run_id} of study {self.study}",
                "must have one writer, and another process has written its rows",
                "leave it to that one",
            )
        self.place.write(self._key, to_bytes(rows))
        self._version = self.place.version(self._key)
        self.rows = rows


def to_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(to_table(rows), sink, compression="zstd")
    return sink.getvalue()


def write_end(place: Place, study: str, run_id: str, row: Mapping[str, Any]) -> None:
    """How a run ended that did not end itself, by its driver; `epoch`, `status`, `error` and whose run it was."""
    own = {"time": datetime.datetime.now(datetime.UTC), **row, "study": study, "run_id": run_id}
    place.write(_end_key(study, run_id), to_bytes([_checked(own)]))
    remove_checkpoint(place, study, run_id)


def remove_end(place: Place, study: str, run_id: str) -> None:
    """The run is tried again."""
    place.delete(_end_key(study, run_id))


def remove_run(place: Place, study: str, run_id: str) -> None:
    """Everything that a run has written; nothing there is fine."""
    remove_checkpoint(place, study, run_id)
    remove_end(place, study, run_id)
    place.delete(f"{check_name('study', study)}/rows/{check_name('run_id', run_id)}{SUFFIX}")


def _end_key(study: str, run_id: str) -> str:
    return f"{check_name('study', study)}/ends/{check_name('run_id', run_id)}{SUFFIX}"


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    clean: dict[str, Any] = {}
    for key, value in row.items():
        if hasattr(value, "item") and not isinstance(value, (str, bytes)) and getattr(value, "ndim", 0) == 0:
            value = value.item()  # numpy and torch scalars
        if value is None:
            continue
        if key in ALLOWED and value not in ALLOWED[key]:
            raise ValueError(f"{key}: must be one of {', '.join(ALLOWED[key])}, got {value!r}")
        if key not in IDENTITY:
            if "." not in key:
                raise ValueError(
                    f"{key}: must be one of the identity columns or a dotted key, got a column without a dot"
                )
            if key.startswith("metric.") and not (isinstance(value, (int, float)) and math.isfinite(value)):
                where = f"epoch {row.get('epoch')}, split {row.get('split')}"
                raise ValueError(f"{key}: must be finite, got {value} ({where} of run {row.get('run_id')})")
            if isinstance(value, (list, tuple, dict)):
                value = json.dumps(value)
            elif not isinstance(value, (bool, int, float, str)):
                raise ValueError(f"{key}: must be a bool, int, float, str or list, got {value!r}")
        clean[key] = value
    if not isinstance(clean.get("epoch"), int):
        raise ValueError(f"epoch: must be an int in every row, got {row.get('epoch')!r}")
    return clean


def to_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Typed columns from rows: the identity columns always, the others where any row has them.

    Args:
        rows: column -> value, as `RunWriter.rows`.

    Returns:
        A table; numbers of `metric.`, `part.` and `gap.` are float64, config values keep bool, int64, float64, string.

    Raises:
        ValueError: names the column whose values do not fit its type.
    """
    names = [*IDENTITY, *sorted({key for row in rows for key in row} - set(IDENTITY))]
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kind = _type_of(name, values)
        try:
            if pa.types.is_string(kind) and name not in IDENTITY:
                values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
            elif pa.types.is_floating(kind):
                values = [None if value is None else float(value) for value in values]
            columns[name] = pa.array(values, kind)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ValueError(f"{name}: must be {kind}, got {_first_misfit(values, kind)!r}") from error
    return pa.table(columns)


def _type_of(name: str, values: Iterable[Any]) -> pa.DataType:
    if name in IDENTITY:
        return IDENTITY[name]
    if name.startswith(NUMERIC_PREFIXES):
        return pa.float64()
    scalars = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    return _common_type([scalars.get(type(value), pa.string()) for value in values if value is not None])


def _common_type(types: Iterable[pa.DataType]) -> pa.DataType:
    """What holds all of them: numbers meet in float64, anything else in its written form."""
    kinds = {kind for kind in types if not pa.types.is_null(kind)}
    if not kinds:
        return pa.null()
    if len(kinds) == 1:
        return kinds.pop()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return pa.float64()
    return pa.string()


def _first_misfit(values: Iterable[Any], kind: pa.DataType) -> Any:
    for value in values:
        try:
            pa.array([value], kind)
        except (pa.ArrowException, TypeError):
            return value
    return None


# --- reading ---------------------------------------------------------------------------------------------------------


def studies(uri: str) -> list[str]:
    """Names of the studies that have results.

    Args:
        uri: where results lie.

    Returns:
        Sorted names; empty where there is nothing.

    Raises:
        ResultsError: the place cannot be reached.
    """
    place = Place(uri, patience=READ_PATIENCE_S)
    with ThreadPoolExecutor(NUM_READERS) as pool:
        folders = place.folders()
        has_rows = pool.map(lambda name: bool(place.list(f"{name}/rows/") or place.list(f"{name}/ends/")), folders)
        has_manifest = pool.map(lambda name: place.version(f"{name}/study.json") is not None, folders)
        return [name for name, *has in zip(folders, has_rows, has_manifest, strict=True) if any(has)]


def has_rows(place: Place, study: str) -> bool:
    """Whether a study has any row yet."""
    return any(_files(place, check_name("study", study)))


def read(uri: str, study: str | Sequence[str] | None = None) -> pa.Table:
    """All rows of one, some or all studies, whichever losses and versions wrote them.

    Args:
        uri: where results lie.
        study: a name, several, or None for all.

    Returns:
        One table: columns that a run lacks are null there; int and float meet in float64. Rows of a run stay in order.

    Raises:
        ResultsError: nothing there, a study unknown, or no file readable. Single unreadable files are a warning.
    """
    place = Place(uri, patience=READ_PATIENCE_S)
    named = None if study is None else [study] if isinstance(study, str) else list(study)
    wanted = place.folders() if named is None else list(dict.fromkeys(check_name("study", name) for name in named))
    found = {name: _files(place, name) for name in wanted}
    unknown = [name for name in wanted if not any(found[name])]
    if (named and unknown) or not any(any(kinds) for kinds in found.values()):
        there = studies(uri)
        if not there:
            raise ResultsError(uri, "holds no results", "run `python -m lacray.tune` first, or pass another --results")
        missing = ", ".join(unknown if named else there)
        raise ResultsError(f"study {missing}", f"has no rows in {uri}", f"choose from: {', '.join(there)}")
    paths = [path for kinds in found.values() for kind in kinds for path in kind]
    loaded = _load(place, paths)
    broken = [(path, error) for path, error in loaded.items() if isinstance(error, Exception)]
    if broken:
        which = "; ".join(f"{path} ({' '.join(str(error).split())})" for path, error in broken[:5])
        said = f"{len(broken)} of {len(paths)} result files could not be read: {which}"
        if len(broken) == len(paths):
            raise ResultsError(uri, said, "restore them, or run the study again")
        warnings.warn(said, stacklevel=2)
    tables = []
    for rows, ends in found.values():
        of_runs = [loaded[path] for path in rows if isinstance(loaded[path], pa.Table)]
        of_ends = [loaded[path] for path in ends if isinstance(loaded[path], pa.Table)]
        tables += _with_ends(of_runs, of_ends)
    return _unify(tables)


def _files(place: Place, study: str) -> tuple[list[str], list[str]]:
    """Keys of a study's rows and of its ends, sorted."""
    return (
        [stored.key for stored in place.list(f"{study}/rows/") if stored.key.endswith(SUFFIX)],
        [stored.key for stored in place.list(f"{study}/ends/") if stored.key.endswith(SUFFIX)],
    )


def _load(place: Place, keys: Sequence[str]) -> dict[str, pa.Table | Exception]:
    filesystem, root = place.filesystem()

    def load(key: str) -> pa.Table | Exception:
        try:
            # One request a file; ParquetFile would ask for the footer first.
            with filesystem.open_input_stream(f"{root}/{key}") as stream:
                return pq.read_table(pa.BufferReader(stream.read()))
        except (OSError, pa.ArrowException) as error:
            return error

    with ThreadPoolExecutor(max(1, min(NUM_READERS, len(keys)))) as pool:
        return dict(zip(keys, pool.map(load, keys), strict=True))


def _with_ends(rows: Sequence[pa.Table], ends: Sequence[pa.Table]) -> list[pa.Table]:
    """The runs' tables as they ended: rows after a run's end are dropped, and the last one left says how it ended."""
    if not ends:
        return list(rows)
    own_end = {row["run_id"]: row for table in ends for row in table.to_pylist()}
    tables = []
    for table in rows:
        end = own_end.pop(table["run_id"][0].as_py(), None) if len(table) else None
        if end is None:
            tables.append(table)
            continue
        kept = [
            {key: value for key, value in row.items() if value is not None}
            for row in table.to_pylist()
            if row["epoch"] <= end["epoch"]
        ]
        if not kept:
            own_end[end["run_id"]] = end
            continue
        last = max(row["epoch"] for row in kept)
        said = {"status": end["status"], "error": end["error"]}
        tables.append(to_table([row | said if row["epoch"] == last else row for row in kept]))
    # A run that never wrote a row is known by its end alone.
    tables += [
        to_table([{key: value for key, value in end.items() if value is not None}]) for end in own_end.values()
    ]
    return tables


def _unify(tables: Sequence[pa.Table]) -> pa.Table:
    kinds: dict[str, list[pa.DataType]] = {name: [kind] for name, kind in IDENTITY.items()}
    for table in tables:
        for field in table.schema:
            if field.name not in IDENTITY:
                kinds.setdefault(field.name, []).append(field.type)
    names = [*IDENTITY, *sorted(set(kinds) - set(IDENTITY))]
    schema = pa.schema([(name, _common_type(kinds[name])) for name in names])
    return pa.concat_tables([_conform(table, schema) for table in tables])


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type, safe=False)
        if field.name in table.schema.names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def last_rows(table: pa.Table, **where: str) -> list[dict[str, Any]]:
    """Each run's last row, the run's status and all its seconds in it.

    Args:
        table: from `read`.
        where: column -> value that the row must have, such as split='validation', control='none'.

    Returns:
        One dict per (study, run_id, control) that has such a row: of those rows the one of the highest epoch (the
        later of equals), its `status` and `error` those of the run's very last row.
    """
    state: dict[tuple[Any, ...], dict[str, Any]] = {}
    chosen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in table.to_pylist():
        key = (row["study"], row["run_id"], row["control"])
        if key not in state or row["epoch"] >= state[key]["epoch"]:
            state[key] = row
        if all(row.get(column) == value for column, value in where.items()) and (
            key not in chosen or row["epoch"] >= chosen[key]["epoch"]
        ):
            chosen[key] = row
    return [{**row, "status": state[key]["status"], "error": state[key]["error"]} for key, row in chosen.items()]


def best(table: pa.Table, metric: str = "metric.objective", mode: str = "max") -> dict[str, Any]:
    """The row of the best finished trial, by its last validation.

    Selection never sees the report's split: only rows of stage 'tune', control 'none', split 'validation' compete.

    Args:
        table: from `read`, usually of one study.
        metric: a metric column; 'objective' is short for 'metric.objective'.
        mode: 'max' or 'min'.

    Returns:
        column -> value of the winner; of equals, the earlier trial.

    Raises:
        ResultsError: no such metric, or no finished trial has it.
        ValueError: if mode is neither.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"mode: must be 'max' or 'min', got {mode!r}")
    if metric not in table.schema.names and not metric.startswith("metric."):
        metric = f"metric.{metric}"
    if metric not in table.schema.names:
        known = ", ".join(name for name in table.schema.names if name.startswith("metric."))
        raise ResultsError(metric, "is in no row of the results", f"choose from: {known or 'nothing, no metric yet'}")
    trials = last_rows(table, stage="tune", control="none", split="validation")
    finished = [row for row in trials if row["status"] == "done" and row[metric] is not None]
    if not finished:
        everything = last_rows(table, stage="tune", control="none")
        counts = {status: sum(row["status"] == status for row in everything) for status in ALLOWED["status"]}
        seen = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no trial at all"
        if counts["failed"] and not counts["running"] and not counts["pruned"]:
            remedy = "their rows say why each failed: change what they have in common"
        else:
            remedy = "let the study finish: --resume"
        raise ResultsError(metric, f"no finished trial has it ({seen})", remedy)
    finished.sort(key=lambda row: (row["trial"] is None, row["trial"], row["run_id"]))
    return max(finished, key=lambda row: row[metric] if mode == "max" else -row[metric])
