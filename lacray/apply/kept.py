"""Embeddings that were made before: kept in the cache by model and video, so that no command embeds a video twice."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from lacray.apply.embedded import EmbeddedVideo
from lacray.apply.model import Model
from lacray.cache import cached
from lacray.data.arrays import load_array, load_arrays
from lacray.data.sources import source_of
from lacray.data.video import UnreadableVideoError
from lacray.embedding import Progress

VERSION = 1
"""Of what is kept; goes up when the same model embeds the same video otherwise."""


def read(model: Model, path: str, name: str, *, progress: Progress | None = None) -> EmbeddedVideo:
    """`model.read(path)`, from the cache where model and video are those of then.

    A video counts as the same as long as its path and its source's `state` are. What comes from the cache is mapped,
    not in memory.

    Raises:
        DataError: as `Model.read`.
    """
    path = os.path.abspath(path)
    found = _load(model, path, name)
    if found is None:
        state = _state(path)
        found = model.read(path, progress=progress)
        found = replace(found, name=name)
        # What was written to meanwhile is another video now.
        if state and state == _state(path):
            _save(model, path, state, found)
    return found


def key_of(model: Model, path: str) -> str:
    """What is the same for the same model and the same video, and for no other."""
    return f"{model.digest} {os.path.abspath(path)} {_state(path)}"


def _file(model: Model, path: str, suffix: str) -> Path:
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    return cached(f"embeddings/{model.digest[:16]}/{name[:2]}/{name}{suffix}")


def _state(path: str) -> str:
    """Of a video as it lies there now; empty where it cannot be told."""
    try:
        return f"{VERSION} {source_of(path).state()}"
    except UnreadableVideoError:
        return ""


def _load(model: Model, path: str, name: str) -> EmbeddedVideo | None:
    try:
        about = load_arrays(_file(model, path, ".npz"))
        if str(about["state"]) != f"{model.digest} {_state(path)}":
            return None
        embeddings = load_array(_file(model, path, ".npy"), mapped=True)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if embeddings.shape != tuple(about["shape"]):
        return None
    seconds = about["seconds"] if len(about["seconds"]) else None
    return EmbeddedVideo(name, embeddings, seconds, float(about["end"]) if seconds is not None else None, path)


def _save(model: Model, path: str, state: str, video: EmbeddedVideo) -> None:
    """A cache that cannot be written costs time and nothing else."""
    about: dict[str, Any] = {
        "state": f"{model.digest} {state}",
        "shape": video.embeddings.shape,
        "seconds": np.zeros(0) if video.seconds is None else video.seconds,
        "end": np.nan if video.end is None else video.end,
    }
    try:
        # The embeddings first: what says that they are there comes when they are.
        _replace(_file(model, path, ".npy"), lambda out: np.save(out, video.embeddings))
        _replace(_file(model, path, ".npz"), lambda out: np.savez(out, **about))
    except OSError:
        return


def _replace(file: Path, write: Callable[[IO[bytes]], None]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as out:
            write(out)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
