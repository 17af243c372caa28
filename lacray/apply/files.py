"""What is written: whole or not at all; where it cannot be, the user is told what to do."""

from __future__ import annotations

import csv
import errno
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lacray.config import UserError
from lacray.data.files import whole, write_kept, write_whole

CANNOT_WRITE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends well; else nothing is left of it.

    Raises:
        UserError: it cannot be written there.
    """
    with refused(path), whole(path) as file:
        yield file


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """What a system says of a place that cannot be written, as the user's to mend.

    Raises:
        UserError: with the path and the reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another --out") from error


def check_places(paths: Iterable[Path]) -> None:
    """Whether files can be written, before the work whose outcome they are to hold; nothing is left there.

    Raises:
        UserError: each that cannot be, and why.
    """
    problems: list[str] = []
    tried: dict[Path, str] = {}
    for path in paths:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir():
            problems.append(f"--out: {path} is a folder, where a file is to be written; give another one")
            continue
        if folder not in tried:
            tried[folder] = _why_not(folder)
        if tried[folder]:
            problems.append(f"--out: {path} cannot be written ({tried[folder]}); give another one")
    if problems:
        raise UserError(problems)


def _why_not(folder: Path) -> str:
    """What the system says of a file in a folder, if it says no."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # On a disk that is full, empty files can be made.
            file.write(bytes(1 << 12))
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        return error.strerror or type(error).__name__
    return ""


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], *, keeps: bool = False) -> None:
    """Write a table; numbers that are not whole with three decimals, None as an empty cell.

    Args:
        keeps: one that was there, and is another, stays as NAME.TIME.bak.

    Raises:
        UserError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    with refused(path):
        (write_kept if keeps else write_whole)(path, text.getvalue().encode())
