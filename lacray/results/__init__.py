"""Where results lie (a directory, S3), and what lies there: rows in Parquet, ends, checkpoints, manifests, leases.

    {uri}/{study}/study.json              what the study was begun with; only its number of trials may grow
    {uri}/{study}/rows/RUN.parquet        one writer, the run; a row per epoch and split
    {uri}/{study}/ends/RUN.parquet        one writer, the driver: how a run ended that did not end itself
    {uri}/{study}/checkpoints/RUN.pt      the run's last state
    {uri}/{study}/lease.json              who drives the study

A row is one (epoch, split, control) of a run, split null where the epoch was not evaluated: identity columns
(`IDENTITY`), the config by its dotted keys, `metric.*`, `part.*` (loss parts), and what the loss has
learned: `gap.*` (mean effective penalties), `projection.norm`, `cross.*`.
"""

from lacray.results.checkpoints import (
    checkpoint_uri,
    fetch_checkpoint,
    open_checkpoint,
    remove_checkpoint,
    store_checkpoint,
)
from lacray.results.compaction import compact, remove_run
from lacray.results.entries import Entry, Found
from lacray.results.errors import ResultsError, SupersededError, redact
from lacray.results.lease import Lease, LeaseError, lease_state
from lacray.results.manifest import differences, manifest_exists, read_manifest, write_manifest
from lacray.results.names import check_name
from lacray.results.place import Place, check_writable
from lacray.results.reading import has_rows, read, studies
from lacray.results.rows import RunWriter, remove_end, write_end
from lacray.results.schema import ALLOWED, COMPUTING, IDENTITY, NUMERIC_PREFIXES, SECTIONS, to_table
from lacray.results.selection import best, control_setting, last_rows, selected_by

__all__ = [
    "ALLOWED",
    "COMPUTING",
    "IDENTITY",
    "NUMERIC_PREFIXES",
    "SECTIONS",
    "Entry",
    "Found",
    "Lease",
    "LeaseError",
    "Place",
    "ResultsError",
    "RunWriter",
    "SupersededError",
    "best",
    "check_name",
    "check_writable",
    "checkpoint_uri",
    "compact",
    "control_setting",
    "differences",
    "fetch_checkpoint",
    "has_rows",
    "last_rows",
    "lease_state",
    "manifest_exists",
    "open_checkpoint",
    "read",
    "read_manifest",
    "redact",
    "remove_checkpoint",
    "remove_end",
    "remove_run",
    "selected_by",
    "store_checkpoint",
    "studies",
    "to_table",
    "write_end",
    "write_manifest",
]
