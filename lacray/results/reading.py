"""All rows of all runs as one table, each run ended as it was ended: the truth that everyone sees."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lacray.results.entries import Entry
from lacray.results.errors import ResultsError
from lacray.results.names import check_name
from lacray.results.place import Place, as_place
from lacray.results.rows import COMPACTED, SUFFIX
from lacray.results.schema import decode, of_study, refuse_foreign, to_rows, to_table, unify

# A file that vanished between listing and reading was packed or removed: how often to look again.
MAX_LOOKS = 5
# Files whose rows are put together as soon as they are decoded.
BATCH = 64
# What a file must say to be of use, a run's and its end's.
RUN_COLUMNS, END_COLUMNS = ("run_id", "epoch"), ("run_id", "status")
NUM_DECODERS = min(4, os.cpu_count() or 1)


@dataclass
class StudyFiles:
    """What was read of one study.

    Attributes:
        singles: rows of the runs that have a file of their own, in as many tables as it took.
        own: these runs.
        packed: file -> rows of many runs, the newest file first.
        ends: run -> how it ended.
        entries: all files that were listed.
        broken: file -> why it could not be read.
    """

    singles: list[pa.Table] = field(default_factory=list)
    own: set[str] = field(default_factory=set)
    packed: dict[str, pa.Table] = field(default_factory=dict)
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    broken: dict[str, Exception] = field(default_factory=dict)


def studies(where: Place | str) -> list[str]:
    """Names of the studies that have a manifest, rows or ends.

    Args:
        where: the place, or its address.

    Returns:
        Sorted names; empty where there is nothing.

    Raises:
        ResultsError: the place cannot be reached.
    """
    place = as_place(where)
    # What is no name of ours was not made by us.
    return [name for name in place.folders() if _is_name(name) and _is_study(place, name)]


def _is_study(place: Place, name: str) -> bool:
    return bool({"rows", "ends"} & {*place.folders(name)}) or place.version(f"{name}/study.json") is not None


def has_rows(where: Place | str, study: str) -> bool:
    """Whether a study has anything to read yet.

    Raises:
        ResultsError: the place cannot be reached.
    """
    place = as_place(where)
    return any(_files(place, check_name("study", study)))


def _files(place: Place, study: str) -> list[Entry]:
    return [
        entry
        for folder in ("rows", "ends")
        for entry in place.list(f"{study}/{folder}/")
        if entry.key.endswith(SUFFIX) and entry.key.count("/") == 2
    ]


def _is_name(name: str) -> bool:
    try:
        check_name("study", name)
    except ResultsError:
        return False
    return True


def read(where: Place | str, study: str | Sequence[str] | None = None) -> pa.Table:
    """All rows of one, some or all studies, whichever losses and versions wrote them, with the runs' ends applied.

    A run that the driver ended has no row of a later epoch than the end's, and the end's status and error in its last
    epoch's rows; one that never wrote a row has one row, the end itself. A run that lies in a file of its own and in a
    packed one counts once, by its own file.

    Args:
        where: the place, or its address.
        study: a name, several, or None for all.

    Returns:
        One table: columns that a run lacks are null there; int and float meet in float64. Sorted by study and run;
        rows of a run stay in order.

    Raises:
        ResultsError: nothing there, a study unknown, or no file readable. Single unreadable files are a warning.
    """
    place = as_place(where)
    named = None if study is None else [study] if isinstance(study, str) else list(dict.fromkeys(study))
    wanted = studies(place) if named is None else [check_name("study", name) for name in named]
    loaded = {name: load_study(place, name) for name in sorted(wanted)}
    absent = [name for name in wanted if not loaded[name].entries]
    there = studies(place) if named is not None and absent else wanted
    unknown = [name for name in absent if name not in there]
    if unknown and there:
        raise ResultsError(f"study {', '.join(unknown)}", f"is not in {place.uri}", f"choose from: {', '.join(there)}")
    if len(absent) == len(wanted):
        if there:
            raise ResultsError(
                f"study {', '.join(wanted)}", f"has no rows yet in {place.uri}", "wait for the first epoch"
            )
        raise ResultsError(
            place.uri, "holds no results", "run `python -m lacray.tune` first, or pass another --results"
        )
    _tell_broken(place, [files for files in loaded.values() if files.entries])
    return unify([table for files in loaded.values() for table in merged(files)])


def _tell_broken(place: Place, loaded: Sequence[StudyFiles]) -> None:
    broken = {key: error for files in loaded for key, error in files.broken.items()}
    if not broken:
        return
    num = sum(len(files.entries) for files in loaded)
    which = "; ".join(f"{key} ({' '.join(str(error).split())})" for key, error in list(broken.items())[:5])
    said = f"{len(broken)} of {num} result files could not be read: {which}"
    if len(broken) == num:
        raise ResultsError(place.uri, said, "restore them, or run the study again")
    warnings.warn(said, stacklevel=3)


def load_study(place: Place, study: str) -> StudyFiles:
    """Reads all files of one study; one moment's state, also while runs are written and packed."""
    for _ in range(MAX_LOOKS):
        files, has_vanished = _load_files(place, _files(place, study))
        # Gone since it was listed: its rows are in a packed file now, or somebody removed it.
        if not has_vanished:
            break
    return files


def _load_files(place: Place, entries: Sequence[Entry]) -> tuple[StudyFiles, bool]:
    """What the files hold, and whether some of them have vanished."""
    contents: list[tuple[Entry, Any]] = []
    decoded: list[Future[StudyFiles]] = []
    has_vanished = False
    # Many threads wait for a server; few decode, since more of them than cores only stand in each other's way.
    with ThreadPoolExecutor(place.num_readers) as readers, ThreadPoolExecutor(NUM_DECODERS) as decoders:
        try:
            for entry, content in zip(entries, readers.map(place.loader(), (e.key for e in entries)), strict=True):
                if content is None:
                    has_vanished = True
                    continue
                contents.append((entry, content))
                if len(contents) == BATCH:
                    decoded.append(decoders.submit(_decoded, contents))
                    contents = []
            decoded.append(decoders.submit(_decoded, contents))
        except BaseException:
            # What one file cannot be had for is the same for the thousands behind it.
            readers.shutdown(wait=False, cancel_futures=True)
            raise
        whole = StudyFiles()
        for future in decoded:
            files = future.result()
            whole.singles += files.singles
            whole.own |= files.own
            whole.packed |= files.packed
            whole.ends |= files.ends
            whole.entries += files.entries
            whole.broken |= files.broken
    whole.packed = dict(sorted(whole.packed.items(), key=lambda item: (-generation(item[1]), item[0])))
    return whole, has_vanished


def _decoded(contents: Sequence[tuple[Entry, Any]]) -> StudyFiles:
    """The files of one study."""
    files = StudyFiles()
    groups: list[tuple[pa.Schema, list[_Single]]] = []
    for entry, content in contents:
        files.entries.append(entry)
        study, folder, name = entry.key.removesuffix(SUFFIX).split("/")
        try:
            table = decode(content)
            if folder == "ends":
                refuse_foreign(table, END_COLUMNS, name)
                if not len(table):
                    raise pa.ArrowInvalid("is no end of a run: it is empty")
                files.ends[name] = to_rows(of_study(table, study))[0]
            elif name.startswith(COMPACTED):
                refuse_foreign(table, RUN_COLUMNS, None)
                files.packed[entry.key] = of_study(table, study)
            else:
                schema = table.schema
                same = next((members for known, members in groups if known.equals(schema)), None)
                if same is None:
                    groups.append((schema, same := []))
                same.append((entry.key, name, table))
        except (OSError, pa.ArrowException) as error:
            files.broken[entry.key] = error
    # Thousands of small tables take a hundred times the memory of their rows.
    files.singles = [of_study(table, study) for _, same in groups if (table := _joined(same, files)) is not None]
    return files


_Single = tuple[str, str, pa.Table]
"""Key, run and rows of a file of one run."""


def _joined(same: Sequence[_Single], files: StudyFiles) -> pa.Table | None:
    """The rows of files that share a schema, as most of a study do; those that are no run's go to `broken`."""
    table = pa.concat_tables([own for _, _, own in same])
    expected = np.repeat(np.array([name for _, name, _ in same], dtype=object), [len(own) for _, _, own in same])
    try:
        # All at once: one by one it takes a quarter of the time of reading them.
        refuse_foreign(table, RUN_COLUMNS, pa.array(expected, pa.string()))
    except pa.ArrowException:
        good: list[_Single] = []
        for key, name, own in same:
            try:
                refuse_foreign(own, RUN_COLUMNS, name)
                good.append((key, name, own))
            except pa.ArrowException as error:
                files.broken[key] = error
        if not good:
            return None
        same, table = good, pa.concat_tables([own for _, _, own in good])
    files.own |= {name for _, name, _ in same}
    return table.combine_chunks()


def generation(table: pa.Table) -> int:
    """Which packed file is newer: each is one more than those that it took in."""
    return int((table.schema.metadata or {}).get(b"generation", b"0"))


def merged(files: StudyFiles) -> list[pa.Table]:
    """The study's rows: each run once, ends applied, sorted by run; as few tables as schemas, in run order."""
    tables = list(files.singles)
    known = set(files.own)
    for packed in files.packed.values():
        names = set(pc.unique(packed["run_id"]).to_pylist())
        fresh = names - known
        if fresh != names:
            packed = packed.filter(pc.is_in(packed["run_id"], pa.array(sorted(fresh), pa.string())))
        tables.append(packed)
        known |= fresh
    if not tables and not files.ends:
        return []
    table = unify(tables) if tables else to_table([])
    if files.ends:
        table = _ended(table, files.ends)
    codes, _ = _codes(table["run_id"])
    if np.any(codes[1:] < codes[:-1]):
        table = table.take(pa.array(np.argsort(codes, kind="stable")))
    return [table]


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Each value's place among the sorted values, and these."""
    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    rank = {name: position for position, name in enumerate(sorted(names))}
    ranks = np.array([rank[name] for name in names], dtype=np.int64)
    return ranks[np.asarray(encoded.indices)], sorted(names)


def _ended(table: pa.Table, ends: dict[str, dict[str, Any]]) -> pa.Table:
    codes, names = _codes(table["run_id"])
    no_end, every = -1, np.iinfo(np.int64).max
    limits = np.array([ends.get(name, {}).get("epoch", every) for name in names], dtype=np.int64)
    epochs = np.asarray(table["epoch"])
    kept = epochs <= limits[codes] if len(table) else np.zeros(0, dtype=bool)
    if not kept.all():
        table = table.filter(pa.array(kept))
        codes, epochs = codes[kept], epochs[kept]
    final = np.full(len(names), no_end, dtype=np.int64)
    np.maximum.at(final, codes, epochs)
    has_end = np.array([name in ends for name in names], dtype=bool)
    last = pa.array(has_end[codes] & (epochs == final[codes]))
    for column in ("status", "error"):
        told = pa.array([ends[name].get(column) if name in ends else None for name in names], pa.string())
        values = pc.if_else(last, told.take(pa.array(codes)), table[column].combine_chunks())
        table = table.set_column(table.schema.get_field_index(column), column, values)
    remaining = {names[code] for code in np.unique(codes)}
    alone = [{"epoch": 0, **end} for name, end in sorted(ends.items()) if name not in remaining]
    return unify([table, to_table(alone)]) if alone else table


def packed_rows(place: Place, study: str, run_id: str) -> list[dict[str, Any]]:
    """A run's rows in the newest packed file that has any, as `RunWriter` keeps them."""
    packed = [entry for entry in _files(place, study) if entry.key.split("/")[-1].startswith(COMPACTED)]
    for table in _load_files(place, packed)[0].packed.values():
        own = table.filter(pc.equal(table["run_id"], run_id))
        if len(own):
            return to_rows(own)
    return []
