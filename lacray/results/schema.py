"""The columns of a row: their names, their types, and their way into Parquet and out of it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lacray import metrics
from lacray.config import Config
from lacray.results.errors import redact, refuse_secret

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
    "videos": pa.string(),  # checksum of names, splits, lengths and labels: data of one path may change
    "time": pa.timestamp("us", tz="UTC"),
    "seconds": pa.float64(),
    "frames_per_second": pa.float64(),
    "peak_memory_bytes": pa.int64(),
    "notes": pa.string(),  # what must be said beside the numbers: a JSON list of sentences
}
ALLOWED: dict[str, tuple[str, ...]] = {
    "stage": ("tune", "train"),
    "status": ("running", "done", "pruned", "failed"),
    "control": ("none", "untrained", "positions"),
    "split": ("validation", "val"),  # validation: the share of the training videos that studies select on
}
SECTIONS = tuple(f"{name}." for name in Config.model_fields if name != "seed")
"""How the columns of settings begin; others with a dot are what was measured, also what a loss reports of its own."""
SENTENCES = ("error", "notes")
"""Columns of free words, which may repeat what a library said."""
COMPUTING = (
    "data.num_loaders",
    "data.cache_gib",
    "data.max_unreadable",
    "fit.evaluate_every",
    "fit.full_epochs",
    "evaluation.report_split",
)
"""Settings that say how and when something is computed: what comes out does not depend on them."""
TRAINING_DATA = (
    "data.num_frames",
    "data.batch_size",
    "data.pairing",
    "data.sampling",
    "data.sampling_region",
    "data.consistent_offset",
    "data.random_offset",
    "data.positive_window",
    "data.position_shift",
    "data.augment",
)
"""Settings of the data that say how clips for training are drawn; an untrained encoder sees none of it."""
NUMERIC_PREFIXES = ("metric.", "action.", "num_actions.", "part.", "gap.")


def checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row ready to be written: scalars unpacked, nulls left out, lists as JSON, no credential in its sentences.

    Raises:
        ValueError: names the column, what it must be, and what it was; a metric that is not finite is refused.
        ResultsError: a setting holds a credential.
    """
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
            if key.startswith("action.") and metrics.action_and_key(key) is None:
                raise ValueError(
                    f"{key}: must be action.NAME.PROTOCOL.METRIC, NAME of letters, digits, _, - and spaces"
                )
            if key.startswith(("metric.", "action.")) and not (
                isinstance(value, (int, float)) and math.isfinite(value)
            ):
                where = f"epoch {row.get('epoch')}, split {row.get('split')}"
                raise ValueError(f"{key}: must be finite, got {value} ({where} of run {row.get('run_id')})")
            if isinstance(value, (list, tuple, dict)):
                value = json.dumps(value)
            elif not isinstance(value, (bool, int, float, str)):
                raise ValueError(f"{key}: must be a bool, int, float, str or list, got {value!r}")
        elif key == "notes" and isinstance(value, (list, tuple)):
            value = json.dumps(list(value))
        if key in SENTENCES:
            value = redact(value)
        elif key.startswith(SECTIONS):
            refuse_secret(key, value)
        clean[key] = value
    if not isinstance(clean.get("epoch"), int):
        raise ValueError(f"epoch: must be an int in every row, got {row.get('epoch')!r}")
    return clean


def to_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Typed columns from rows: the identity columns always, the others where any row has them.

    Args:
        rows: column -> value, as `RunWriter.rows`.

    Returns:
        A table; numbers of NUMERIC_PREFIXES are float64, config values keep bool, int64, float64, string.

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


def encode(table: pa.Table) -> bytes:
    """A run's table as a Parquet file, in what is quickest to read of many small files.

    A column of a few rows has no use for a dictionary, statistics and Arrow's copy of the schema; without them a file
    is half as large, and read in a third of the time.
    """
    sink = io.BytesIO()
    plain = {"use_dictionary": False, "write_statistics": False, "store_schema": False}
    pq.write_table(table.replace_schema_metadata(), sink, compression="snappy", **plain)
    return sink.getvalue()


def encode_many(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """Many runs' table as a Parquet file; metadata: key -> value in its footer."""
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(dict(metadata)), sink, compression="zstd")
    return sink.getvalue()


def decode(content: Any) -> pa.Table:
    """A Parquet file's table; the footer's metadata are its schema's.

    Args:
        content: bytes or a buffer.

    Raises:
        OSError, pa.ArrowException: it is no Parquet file.
    """
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)


def refuse_foreign(table: pa.Table, needed: Sequence[str], run_ids: str | pa.Array | None) -> None:
    """Whether tables that lie among a study's can be its own: somebody may have put any Parquet file there.

    Args:
        table: one of them, or several of one schema.
        needed: columns without which it says nothing.
        run_ids: the run that it must be of, or that each row must be of; None: of any.

    Raises:
        pa.ArrowException: it is another's, in words.
    """
    lacking = [name for name in needed if name not in table.column_names or table[name].null_count]
    if lacking:
        raise pa.ArrowInvalid(f"is no table of a run: it lacks {', '.join(lacking)}")
    texts = [
        field.name for field in table.schema if field.name.startswith(NUMERIC_PREFIXES) and not _is_number(field.type)
    ]
    if texts:
        raise pa.ArrowInvalid(f"is no table of a run: {', '.join(texts[:3])} must be numbers")
    for field in table.schema:
        if IDENTITY.get(field.name, field.type) != field.type:
            table[field.name].cast(IDENTITY[field.name])
    is_other = pc.not_equal(table["run_id"], run_ids) if run_ids is not None else None
    if is_other is not None and pc.any(is_other).as_py():
        others = pc.unique(table["run_id"].filter(is_other)).to_pylist()
        raise pa.ArrowInvalid(f"is of another run than it is called by: {', '.join(others[:3])}; it may be a copy")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)


def of_study(table: pa.Table, study: str) -> pa.Table:
    """The table with its study called as the folder is that it lies in, which may have been copied or renamed."""
    column = pa.repeat(pa.scalar(study, IDENTITY["study"]), len(table))
    at = table.schema.get_field_index("study")
    return table.append_column("study", column) if at < 0 else table.set_column(at, "study", column)


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as they were given: column -> value, nulls left out."""
    return [{key: value for key, value in row.items() if value is not None} for row in table.to_pylist()]


def unify(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of all, in their order: columns that a table lacks are null there; int and float meet in float64."""
    kinds: dict[str, list[pa.DataType]] = {name: [kind] for name, kind in IDENTITY.items()}
    for table in tables:
        for field in table.schema:
            if field.name not in IDENTITY:
                kinds.setdefault(field.name, []).append(field.type)
    names = [*IDENTITY, *sorted(set(kinds) - set(IDENTITY))]
    common = pa.schema([(name, _common_type(kinds[name])) for name in names])
    return pa.concat_tables([_conform(table, common) for table in tables]).combine_chunks()


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    there = {field.name: field.type for field in table.schema}
    columns = []
    for field in schema:
        if field.name not in there:
            columns.append(pa.nulls(len(table), field.type))
        elif there[field.name] == field.type:
            columns.append(table[field.name])
        else:
            columns.append(table[field.name].cast(field.type, safe=False))
    return pa.table(columns, schema=schema)
