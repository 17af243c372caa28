"""Rows <-> Parquet, on local disk or S3: one file per run, `{results}/{study}/{run_id}.parquet`.

A file is rewritten whole at each evaluation and appears at once (temporary file and rename; on S3 one put): a reader
never meets a torn file, a retry overwrites its own rows, a killed run keeps its last ones.

A row is one (epoch, split, control) of a run: identity columns (`IDENTITY`), the config by its dotted keys, `metric.*`,
`part.*` (loss parts) and `gap.*` (mean effective penalties).
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import math
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

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
}
ALLOWED: dict[str, tuple[str, ...]] = {
    "stage": ("tune", "train"),
    "status": ("running", "done", "pruned", "failed"),
    "control": ("none", "untrained", "positions"),
    "split": ("validation", "val"),  # validation: the share of the training videos that studies select on
}
NUMERIC_PREFIXES = ("metric.", "part.", "gap.")
NAME = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9._+=-]*")
SUFFIX = ".parquet"
# Small files, so the time is round trips; S3 answers them side by side.
NUM_READERS = 16


class ResultsError(Exception):
    """What a user can mend about where results lie: the value, the rule, the remedy."""

    def __init__(self, value: str, rule: str, remedy: str) -> None:
        super().__init__(value, rule, remedy)
        self.value, self.rule, self.remedy = value, rule, remedy

    def __str__(self) -> str:
        return f"{self.value}: {self.rule}; {self.remedy}"


# --- where -----------------------------------------------------------------------------------------------------------


def s3_client() -> Any:
    """A boto3 S3 client by the standard AWS variables (keys, region, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL).

    Returns:
        The client; it gives up in seconds where nothing answers.
    """
    import boto3
    from botocore.config import Config

    limits = Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 3, "mode": "standard"})
    # S3-compatible servers ignore the region, but the signature needs one.
    region = _region() or ("us-east-1" if _endpoint() else None)
    # boto3's default session would remember the first credentials it saw.
    return boto3.session.Session().client("s3", region_name=region, endpoint_url=_endpoint(), config=limits)


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def _filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path in it; nothing is contacted for local paths and own endpoints."""
    scheme = urlparse(uri).scheme
    if scheme in ("", "file"):
        path = unquote(urlparse(uri).path) if scheme == "file" else os.path.expanduser(uri)
        return pafs.LocalFileSystem(), os.path.abspath(path)
    if scheme != "s3":
        raise ResultsError(uri, "must be a local path or s3://bucket/prefix", "pass another --results")
    bucket, key = _bucket_and_key(uri)
    endpoint = _endpoint()
    if endpoint is None:
        # Finds the bucket's region by itself.
        try:
            filesystem, path = pafs.FileSystem.from_uri(uri)
        except (OSError, pa.ArrowException) as error:
            raise _s3_error(uri, error) from error
        return filesystem, path.rstrip("/")
    # Built here: from_uri asks AWS for the region before it has read the endpoint variables.
    address = urlparse(endpoint if "//" in endpoint else f"//{endpoint}", scheme="https")
    filesystem = pafs.S3FileSystem(
        endpoint_override=address.netloc + address.path.rstrip("/"),
        scheme=address.scheme,
        region=_region() or "us-east-1",
        connect_timeout=5,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=3),
    )
    return filesystem, f"{bucket}/{key}".rstrip("/")


def _bucket_and_key(uri: str) -> tuple[str, str]:
    parsed = urlparse(uri)
    if not parsed.netloc:
        raise ResultsError(uri, "must name a bucket, s3://bucket/prefix", "pass another --results")
    return parsed.netloc, parsed.path.strip("/")


def check_writable(uri: str) -> None:
    """Writes and removes a probe where results will lie; creates the directory or bucket. Call before anything starts.

    Args:
        uri: local path, file:// or s3://bucket/prefix.

    Raises:
        ResultsError: says what cannot be written and what to do.
    """
    if urlparse(uri).scheme == "s3":
        _check_bucket(uri)
        return
    _, path = _filesystem(uri)
    probe = Path(path) / f".{uuid.uuid4().hex}.tmp"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ResultsError(
            uri, f"must be a writable directory, got {error.strerror or error}", "pass another --results"
        ) from error


def _check_bucket(uri: str) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = _bucket_and_key(uri)
    try:
        client = s3_client()
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            region = client.meta.region_name
            where: dict[str, Any] = (
                {}
                if region in (None, "us-east-1") or _endpoint()
                else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            )
            client.create_bucket(Bucket=bucket, **where)
        probe = f"{key}/.{uuid.uuid4().hex}.tmp".lstrip("/")
        client.put_object(Bucket=bucket, Key=probe, Body=b"")
        client.delete_object(Bucket=bucket, Key=probe)
    except (BotoCoreError, ClientError) as error:
        raise _s3_error(uri, error) from error


def _s3_error(uri: str, error: Exception) -> ResultsError:
    text = " ".join(str(error).split())
    at = f" at {_endpoint()}" if _endpoint() else ""
    if re.search(r"credential|40[13]\b|forbidden|access.?denied|signature|access.?key", text, re.IGNORECASE):
        remedy = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or the instance's role) and the bucket's policy"
    elif re.search(r"connect|resolve|timed? ?out|curl|network", text, re.IGNORECASE):
        remedy = "check AWS_ENDPOINT_URL and the network"
    else:
        remedy = "check the bucket's name, AWS_REGION and AWS_ENDPOINT_URL"
    return ResultsError(uri, f"must be readable and writable{at}, got {text}", remedy)


def _check_name(what: str, name: str) -> str:
    if not NAME.fullmatch(name):
        raise ResultsError(
            f"{what} {name!r}", "must be letters, digits and . _ + = -, not starting with a dot", f"rename the {what}"
        )
    return name


# --- writing ---------------------------------------------------------------------------------------------------------


class RunWriter:
    """The only writer of one run's file.

    Args:
        uri: where results lie: local path, file:// or s3://bucket/prefix.
        study: the run's directory.
        run_id: the run's file; unique in the study.
        resume_epoch: k: keep the run's own earlier rows with epoch <= k and drop the rest. None: start fresh, and
            the first `append` replaces what an earlier try left.

    Attributes:
        rows: everything written so far, in order.

    Raises:
        ResultsError: the place cannot be read, or a name does not fit a file.
    """

    def __init__(self, uri: str, study: str, run_id: str, *, resume_epoch: int | None = None) -> None:
        self.study, self.run_id = _check_name("study", study), _check_name("run_id", run_id)
        self.rows: list[dict[str, Any]] = []
        self._uri = uri
        self._s3: Any = None
        self._filesystem, root = _filesystem(uri)
        self._path = f"{root}/{study}/{run_id}{SUFFIX}"
        if isinstance(self._filesystem, pafs.LocalFileSystem):
            # What a killed write left behind; nobody else writes this run.
            for stale in Path(self._path).parent.glob(f".{run_id}~*.tmp"):
                stale.unlink(missing_ok=True)
        if resume_epoch is not None:
            self.rows = [row for row in self._earlier() if row["epoch"] <= resume_epoch]

    def _earlier(self) -> list[dict[str, Any]]:
        try:
            if self._filesystem.get_file_info(self._path).type == pafs.FileType.NotFound:
                return []
            table = pq.read_table(self._path, filesystem=self._filesystem)
        except (OSError, pa.ArrowException) as error:
            raise _unreachable(self._uri, error) from error
        return [{key: value for key, value in row.items() if value is not None} for row in table.to_pylist()]

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows and publishes the file, or changes nothing.

        Args:
            rows: column -> value; `study`, `run_id` and `time` are filled in; None is null; lists become JSON.

        Raises:
            ValueError: names the column, what it must be, and what it was; a metric that is not finite is refused.
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
        table = to_table(self.rows + fresh)
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        try:
            self._publish(sink.getvalue())
        except OSError as error:
            raise _unreachable(self._uri, error) from error
        self.rows += fresh

    def _publish(self, content: bytes) -> None:
        if not isinstance(self._filesystem, pafs.LocalFileSystem):
            self._put(content)
            return
        path = Path(self._path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{self.run_id}~{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        # The rename itself must survive a power cut as well.
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _put(self, content: bytes) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, key = self._path.split("/", 1)
        try:
            # One put; pyarrow's stream opens a multi-part upload for the smallest file.
            self._s3 = self._s3 or s3_client()
            self._s3.put_object(Bucket=bucket, Key=key, Body=content)
        except (BotoCoreError, ClientError) as error:
            raise _s3_error(self._uri, error) from error


def _unreachable(uri: str, error: Exception) -> ResultsError:
    if urlparse(uri).scheme == "s3":
        return _s3_error(uri, error)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return ResultsError(uri, f"must be readable and writable, got {reason}", "mend it or pass another --results")


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


def _files(uri: str, wanted: Iterable[str] | None = None) -> tuple[pafs.FileSystem, dict[str, list[str]]]:
    """Study -> paths of its runs' files, sorted; of all studies, or only of those that are wanted and there."""
    try:
        filesystem, root = _filesystem(uri)
        # Level by level: what lies deeper (Ray's own files, in a hidden directory) may be thousands of objects.
        if wanted is None:
            entries = filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True))
            wanted = [e.base_name for e in entries if e.type == pafs.FileType.Directory and e.base_name[0] != "."]
        found = {}
        for study in sorted(wanted):
            infos = filesystem.get_file_info(pafs.FileSelector(f"{root}/{study}", allow_not_found=True))
            paths = [info.path for info in infos if info.base_name.endswith(SUFFIX) and info.base_name[0] != "."]
            if paths:
                found[study] = sorted(paths)
    except (OSError, pa.ArrowException) as error:
        raise _unreachable(uri, error) from error
    return filesystem, found


def studies(uri: str) -> list[str]:
    """Names of the studies that have results.

    Args:
        uri: where results lie.

    Returns:
        Sorted names; empty where there is nothing.

    Raises:
        ResultsError: the place cannot be reached.
    """
    return list(_files(uri)[1])


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
    named = None if study is None else [study] if isinstance(study, str) else list(study)
    filesystem, found = _files(uri, None if named is None else [_check_name("study", name) for name in named])
    wanted = list(found) if named is None else list(dict.fromkeys(named))
    unknown = [name for name in wanted if name not in found]
    if unknown or not found:
        there = studies(uri)
        if not there:
            raise ResultsError(uri, "holds no results", "run `python -m lacray.tune` first, or pass another --results")
        raise ResultsError(f"study {', '.join(unknown)}", f"is not in {uri}", f"choose from: {', '.join(there)}")
    paths = [path for name in wanted for path in found[name]]

    def load(path: str) -> pa.Table | Exception:
        try:
            # One request a file; ParquetFile would ask for the footer first.
            with filesystem.open_input_stream(path) as stream:
                return pq.read_table(pa.BufferReader(stream.read()))
        except (OSError, pa.ArrowException) as error:
            return error

    with ThreadPoolExecutor(min(NUM_READERS, len(paths))) as pool:
        loaded = list(pool.map(load, paths))
    tables = [table for table in loaded if isinstance(table, pa.Table)]
    broken = [(path, error) for path, error in zip(paths, loaded, strict=True) if isinstance(error, Exception)]
    if broken:
        which = "; ".join(f"{path} ({' '.join(str(error).split())})" for path, error in broken[:5])
        said = f"{len(broken)} of {len(paths)} result files could not be read: {which}"
        if not tables:
            raise ResultsError(uri, said, "restore them, or run the study again")
        warnings.warn(said, stacklevel=2)
    return _unify(tables)


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
        counts = {status: sum(row["status"] == status for row in trials) for status in ALLOWED["status"]}
        seen = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no trial at all"
        raise ResultsError(metric, f"no finished trial has it ({seen})", "let the study finish: --resume")
    finished.sort(key=lambda row: (row["trial"] is None, row["trial"], row["run_id"]))
    return max(finished, key=lambda row: row[metric] if mode == "max" else -row[metric])


# --- checkpoints -----------------------------------------------------------------------------------------------------


def checkpoint_uri(uri: str, study: str, run_id: str) -> str:
    """Where a run's final checkpoint lies, beside its rows."""
    return f"{uri.rstrip('/')}/{_check_name('study', study)}/{_check_name('run_id', run_id)}.pt"


def store_checkpoint(uri: str, study: str, run_id: str, path: Path) -> str:
    """Puts a local checkpoint beside the run's rows; it appears at once.

    Returns:
        Where it lies.

    Raises:
        ResultsError: it could not be written.
    """
    target = checkpoint_uri(uri, study, run_id)
    if urlparse(uri).scheme == "s3":
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, key = _bucket_and_key(target)
        try:
            s3_client().upload_file(str(path), bucket, key)
        except (BotoCoreError, ClientError, S3UploadFailedError) as error:
            raise _s3_error(uri, error) from error
        return target
    local = Path(_filesystem(target)[1])
    temporary = local.with_name(f".{local.name}~{uuid.uuid4().hex}.tmp")
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, temporary)
        os.replace(temporary, local)
    except OSError as error:
        raise _unreachable(uri, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def fetch_checkpoint(uri: str, directory: Path) -> Path:
    """A checkpoint as a local file: itself where it is one, else downloaded into `directory`.

    Raises:
        ResultsError: it is not there, or cannot be read.
    """
    if urlparse(uri).scheme != "s3":
        return Path(_filesystem(uri)[1])
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = _bucket_and_key(uri)
    local = directory / Path(key).name
    try:
        s3_client().download_file(bucket, key, str(local))
    except (BotoCoreError, ClientError) as error:
        raise _s3_error(uri, error) from error
    return local


def remove_tree(uri: str) -> None:
    """Removes a directory, or all objects under a prefix; nothing there is fine."""
    filesystem, path = _filesystem(uri)
    try:
        if filesystem.get_file_info(path).type == pafs.FileType.Directory:
            filesystem.delete_dir(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreachable(uri, error) from error
