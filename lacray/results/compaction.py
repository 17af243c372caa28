"""Packs finished runs' rows into one file: thousands of small files become one, also while others are written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from lacray.results.checkpoints import remove_checkpoint
from lacray.results.lease import Lease
from lacray.results.names import check_name
from lacray.results.place import Place
from lacray.results.reading import StudyFiles, generation, load_study, merged, packed_rows
from lacray.results.rows import COMPACTED, SUFFIX, end_key, remove_end, rows_key
from lacray.results.schema import encode_many
from lacray.results.selection import last_rows

# A failed run is tried again by a resume; a run that was written to just now may be written to again.
PACKED_STATUS = ("done", "pruned")
QUIET_SECONDS = 60.0


def compact(
    place: Place,
    study: str,
    *,
    quiet_seconds: float = QUIET_SECONDS,
    wait_line: Callable[[str], None] = lambda line: None,
) -> tuple[int, int]:
    """Packs a study's finished runs, their ends applied, into `rows/compacted-HASH.parquet`.

    The new file is written first, then what it holds is removed, file by file, unless it changed meanwhile: killed at
    any moment nothing is lost, and `read` counts each run once at any moment.

    Args:
        place: where results lie.
        study: the study's name.
        quiet_seconds: runs whose files changed within so many seconds stay as they are.
        wait_line: gets a line where another compaction may be at work.

    Returns:
        How many runs were packed now, and how many are packed in all.

    Raises:
        LeaseError: another compaction of this study is at work.
        ResultsError: the place cannot be read or written.
    """
    lease = _lease(place, study)
    lease.acquire(wait_line)
    try:
        return _compact(place, study, quiet_seconds)
    finally:
        lease.release()


def _compact(place: Place, study: str, quiet_seconds: float) -> tuple[int, int]:
    files = load_study(place, study)
    now = place.now()
    entries = {entry.key: entry for entry in files.entries}
    finished = _finished(files)
    packable = {
        run_id
        for run_id in finished
        if all(
            now - entries[key].modified >= quiet_seconds
            for key in (rows_key(study, run_id), end_key(study, run_id))
            if key in entries
        )
    }
    fresh = packable & (files.own | {*files.ends})
    if not fresh and len(files.packed) < 2:
        return 0, sum(len(pc.unique(table["run_id"])) for table in files.packed.values())
    # What is not finished keeps its own files, and its own end, which may still be taken back.
    own, packing = pa.array(sorted(files.own), pa.string()), pa.array(sorted(fresh), pa.string())
    chosen = StudyFiles(
        singles=[table.filter(pc.is_in(table["run_id"], packing)) for table in files.singles],
        own=files.own & fresh,
        packed={key: rows.filter(pc.invert(pc.is_in(rows["run_id"], own))) for key, rows in files.packed.items()},
        ends={name: end for name, end in files.ends.items() if name in fresh},
    )
    (kept,) = merged(chosen)
    remove_earlier = _repack(place, study, files.packed, kept)
    for run_id in sorted(fresh):
        # Rows that have changed since belong to a run that is at work again, and so does its end.
        # The rows go before their end: until both are gone the end is only applied twice.
        for key in (rows_key(study, run_id), end_key(study, run_id)):
            if key in entries and not place.delete(key, entries[key].version):
                break
    remove_earlier()
    return len(fresh), len(pc.unique(kept["run_id"]))


def remove_run(place: Place, study: str, run_id: str) -> None:
    """Removes all that a run has written: rows, those in a packed file too, end, checkpoint; nothing there is fine.

    The checkpoint goes last: one without its rows is begun anew, but a run that is done without it stays so for ever.

    Raises:
        LeaseError: a compaction of this study is at work; nothing is removed.
        ResultsError: the place cannot be read or written.
    """
    if packed_rows(place, study, run_id):
        lease = _lease(place, study)
        lease.acquire(lambda line: None)
        try:
            packed = load_study(place, study).packed
            (table,) = merged(StudyFiles(packed=packed))
            _repack(place, study, packed, table.filter(pc.not_equal(table["run_id"], run_id)))()
        finally:
            lease.release()
    place.delete(rows_key(study, run_id))
    remove_end(place, study, run_id)
    remove_checkpoint(place, study, run_id)


def _lease(place: Place, study: str) -> Lease:
    return Lease(place, f"{check_name('study', study)}/leases/{COMPACTED}rows.json", {"compaction of study": study})


def _repack(place: Place, study: str, packed: Mapping[str, pa.Table], table: pa.Table) -> Callable[[], None]:
    """Writes a packed file in place of others; what it returns removes these."""
    newest = max((generation(earlier) for earlier in packed.values()), default=0)
    content = encode_many(table, {"generation": str(newest + 1)})
    key = f"{study}/rows/{COMPACTED}{hashlib.sha256(content).hexdigest()[:16]}{SUFFIX}"
    place.write(key, content)

    def remove() -> None:
        for earlier in packed:
            if earlier != key:
                place.delete(earlier)

    return remove


def _finished(files: StudyFiles) -> set[str]:
    rows = [row for table in merged(files) for row in last_rows(table)]
    return {row["run_id"] for row in rows} - {row["run_id"] for row in rows if row["status"] not in PACKED_STATUS}
