"""A run's last state, `{study}/checkpoints/RUN.pt`: replaced atomically."""

from __future__ import annotations

from pathlib import Path

from lacray.results.address import is_local, local_path
from lacray.results.errors import ResultsError
from lacray.results.names import check_name
from lacray.results.place import Place, as_place

SUFFIX = ".pt"


def _key(study: str, run_id: str) -> str:
    return f"{check_name('study', study)}/checkpoints/{check_name('run_id', run_id)}{SUFFIX}"


def checkpoint_uri(uri: str, study: str, run_id: str) -> str:
    """Where a run's checkpoint lies."""
    return f"{uri.rstrip('/')}/{_key(study, run_id)}"


def store_checkpoint(where: Place | str, study: str, run_id: str, path: Path) -> str:
    """Puts a local checkpoint there, over the run's earlier one; it appears when it is whole.

    Returns:
        Where it lies.

    Raises:
        ResultsError: it could not be written.
    """
    place = as_place(where)
    # What a killed write left behind is as large as what is written now.
    place.sweep(_key(study, run_id))
    place.upload(_key(study, run_id), path)
    return checkpoint_uri(place.uri, study, run_id)


def fetch_checkpoint(where: Place | str, study: str, run_id: str, directory: Path) -> Path | None:
    """Copies a run's checkpoint into a local directory.

    Returns:
        The copy; None where the run has no checkpoint.

    Raises:
        ResultsError: it cannot be read.
    """
    path = directory / f"{run_id}{SUFFIX}"
    return path if as_place(where).download(_key(study, run_id), path) else None


def remove_checkpoint(where: Place | str, study: str, run_id: str) -> None:
    """Removes a run's checkpoint, and what killed writes of it left; nothing there is fine."""
    place = as_place(where)
    place.delete(_key(study, run_id))
    place.sweep(_key(study, run_id))


def open_checkpoint(uri: str, directory: Path) -> Path:
    """A checkpoint that the user names, as a local file: itself where it is one, else downloaded into `directory`.

    Args:
        uri: local path, file:// or s3:// address of the file.
        directory: where a download goes.

    Raises:
        ResultsError: it is not there, or cannot be read.
    """
    if is_local(uri):
        return Path(local_path(uri))
    folder, _, name = uri.rpartition("/")
    path = directory / check_name("checkpoint", name)
    if not as_place(folder).download(name, path):
        raise ResultsError(uri, "must be a checkpoint, and nothing is there", "check the address")
    return path
