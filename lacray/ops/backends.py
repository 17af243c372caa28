"""Which implementation computes: the compiled one of a device, or plain torch."""

from __future__ import annotations

import ctypes
import functools
import os
import warnings

import torch

from lacray.ops.library import BuildError, library, library_path

NATIVE_DEVICES = ("cpu", "cuda")
_refused: dict[str, str] = {}


def backend_name(device: str | torch.device) -> str:
    """What computes the operators on `device`: "cpu" or "cuda" (compiled), or "reference" (plain torch).

    Builds the compiled one if need be. `LACRAY_OPS_BACKEND=reference` or `=native` forces the choice.
    """
    return select(torch.device(device).type)


def backend_note(device: str | torch.device) -> str | None:
    """Why plain torch computes where compiled operators were wanted, in a line; None where all is as wanted."""
    kind = torch.device(device).type
    select(kind)
    return " ".join(_refused[kind].split()) if kind in _refused else None


def require_native(device: str | torch.device) -> str:
    """Like `backend_name`, but raises BuildError, naming the remedy, where there can be no compiled operator."""
    kind = torch.device(device).type
    if kind not in NATIVE_DEVICES:
        raise BuildError(f"no compiled operators for device {kind!r}: use cpu or cuda.")
    load(kind)
    return kind


@functools.cache
def select(kind: str) -> str:
    """`backend_name` of a device type; decided once."""
    wanted = os.environ.get("LACRAY_OPS_BACKEND", "")
    if wanted not in ("", "reference", "native"):
        raise ValueError(f"LACRAY_OPS_BACKEND: must be 'reference', 'native' or unset, got {wanted!r}")
    if wanted == "reference":
        return "reference"
    if wanted == "native":
        return require_native(kind)
    if kind not in NATIVE_DEVICES:
        return "reference"
    try:
        return require_native(kind)
    except BuildError as error:
        _refused[kind] = (
            f"there are no compiled operators for {kind!r}, the torch reference takes over: the same results, about "
            f"100 times slower. Reason and remedy: {error}"
        )
        warnings.warn(f"lacray.ops: {_refused[kind]}", RuntimeWarning, stacklevel=2)
        return "reference"


def use_reference(kind: str) -> bool:
    """Whether a call goes to plain torch, which autograd differentiates, rather than to an operator.

    A compiled graph holds the operator whatever computes it.
    """
    return not torch.compiler.is_compiling() and select(kind) == "reference"


def use_instructions(name: str) -> None:
    """Switch the CPU engine to "plain", "avx2" or "avx512" (tests and benchmarks; it chooses the widest by itself)."""
    load("cpu")
    chosen: int = ctypes.CDLL(str(library_path("cpu"))).lacray_use_isa(name.encode())
    if not chosen:
        raise ValueError(f"instruction set: must be plain, avx2 or avx512 and supported by this machine, got {name!r}")


@functools.cache
def load(kind: str) -> None:
    """Load the library of a device type into torch, built if need be. Raises BuildError."""
    path = library(kind)
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise BuildError(
            f"{path}: cannot be loaded ({error.__cause__ or error}). Build it again: python -m lacray.ops.build --force"
        ) from error
