"""Pickles from strangers, read without running anything that is in them."""

from __future__ import annotations

import io
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacray.data.arrays import load_array, read_header


class RefusedError(pickle.UnpicklingError):
    """A pickle that holds more than data, or what it does not announce."""


def read_restricted_pickle(path: Path) -> Any:
    """Load a pickle from a stranger: plain data and tensors only.

    Raises:
        RefusedError: it holds anything else.
        Exception: of any kind, where it is damaged or no pickle.
    """
    with path.open("rb") as file:
        return _RestrictedUnpickler(file).load()


def read_restricted_npy(path: Path) -> NDArray[Any]:
    """Load an array of anything from a stranger, which numpy pickles: plain data and tensors only.

    Raises:
        RefusedError: it holds anything else.
        OSError, ValueError, EOFError: it is no array.
    """
    with path.open("rb") as file:
        shape, dtype = read_header(file)
        content = _RestrictedUnpickler(file).load() if dtype.hasobject else load_array(path)
    if not isinstance(content, np.ndarray) or content.shape != shape:
        raise RefusedError("must hold one array, of the shape that it announces")
    return content


class _RestrictedUnpickler(pickle.Unpickler):
    """Admits plain containers, numbers, strings, and tensors and arrays of numbers: nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): dict,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _bytes_of_text,
        }
        for core in ("numpy.core", "numpy._core"):
            allowed[f"{core}.multiarray", "_reconstruct"] = import_module("numpy._core.multiarray")._reconstruct
            allowed[f"{core}.multiarray", "scalar"] = _scalar
            allowed[f"{core}.numeric", "_frombuffer"] = _array_of_buffer
        if (module, name) not in allowed:
            raise RefusedError(
                f"refused to load {module}.{name}: a data file may hold lists, dicts, numbers, strings and tensors only"
            )
        return allowed[module, name]


def _bytes_of_text(text: str, encoding: str) -> bytes:
    """Protocol 2 writes bytes as latin-1 text; no other codec."""
    if encoding != "latin1":
        raise RefusedError(f"refused to load text in the codec {encoding!r}")
    return text.encode("latin1")


def _scalar(dtype: np.dtype[Any], content: bytes) -> Any:
    return np.frombuffer(content, dtype)[0]


def _array_of_buffer(content: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    """Protocol 5 writes arrays as their buffer."""
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _storage_from_bytes(content: bytes) -> Any:
    import torch

    # torch pickles a tensor's storage as a nested torch.save; weights_only keeps the same promise inside it.
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
