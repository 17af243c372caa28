"""Checks of the operators' arguments: each error names the argument, its rule and its value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lacray.ops.transforms import active, read_values

# (B, 2) whole numbers; numpy is not needed to say so.
Lengths = Tensor | Sequence[Sequence[int]] | Any


def check_table(name: str, table: Any) -> Tensor:
    """(B, N, M), floating; half precision becomes float32."""
    if not isinstance(table, Tensor):
        raise ValueError(f"{name}: must be a tensor, got {type(table).__name__}")
    if table.dim() != 3:
        raise ValueError(f"{name}: must have shape (B, N, M), got {tuple(table.shape)}")
    if not table.is_floating_point():
        raise ValueError(f"{name}: must be of a floating dtype, got {table.dtype}")
    return table.to(torch.float64 if table.dtype == torch.float64 else torch.float32)


def check_gaps(gap_open: Any, gap_extend: Any, similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Both of one shape, (), (B,), (N, M) or (B, N, M), in the dtype of similarity."""
    first, second = _check_gap("gap_open", gap_open, similarity), _check_gap("gap_extend", gap_extend, similarity)
    dims = {first.dim(), second.dim()}
    if len(dims) == 1:
        return first, second
    B, N, M = similarity.shape
    shape = (B, N, M) if 3 in dims or dims == {1, 2} else (N, M) if 2 in dims else (B,)
    first, second = (gap[:, None, None] if gap.dim() == 1 and len(shape) == 3 else gap for gap in (first, second))
    return first.expand(shape), second.expand(shape)


def _check_gap(name: str, gap: Any, similarity: Tensor) -> Tensor:
    dtype = similarity.dtype
    if not isinstance(gap, Tensor):
        number = as_number(gap)
        if number is None:
            what = type(gap).__name__
            remedy = (
                f": torch.as_tensor({name}) makes it one" if hasattr(gap, "__array__") and not _is_scalar(gap) else ""
            )
            raise ValueError(f"{name}: must be a tensor or a number, got {what}{remedy}")
        return torch.full((), number, dtype=dtype, device=similarity.device)
    B, N, M = similarity.shape
    if tuple(gap.shape) not in ((), (B,), (N, M), (B, N, M)):
        raise ValueError(
            f"{name}: must have shape (), ({B},), ({N}, {M}) or ({B}, {N}, {M}) like similarity, got {tuple(gap.shape)}"
        )
    if gap.device != similarity.device:
        raise ValueError(f"{name}: must be on similarity's device {similarity.device}, got {gap.device}")
    if not gap.is_floating_point() or (gap.dtype == torch.float64 and dtype != torch.float64):
        raise ValueError(
            f"{name}: must be of a floating dtype no wider than {dtype}, in which it is computed, got {gap.dtype}"
        )
    return gap.to(dtype)


def as_number(value: Any) -> float | None:
    """A number of Python or numpy, or an array of one without dimensions; None for all else, booleans and text too."""
    if not isinstance(value, (int, float)) and _is_scalar(value):
        value = value.item()
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _as_count(value: Any) -> int | None:
    """A whole number >= 0, as `as_number`."""
    if not isinstance(value, (int, float)) and _is_scalar(value):
        value = value.item()
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _is_scalar(value: Any) -> bool:
    """Of numpy, or of another library of arrays."""
    return getattr(value, "shape", None) == () and hasattr(value, "item") and not isinstance(value, Tensor)


def check_gamma(gamma: Any) -> float:
    number = as_number(gamma)
    if number is None:
        remedy = (
            ": gamma.item(), which gets no gradient. For a gradient in gamma, or one gamma a pair, divide all by it: "
            "gamma * soft_sw(similarity / gamma, gap_open / gamma, gap_extend / gamma, gamma=1) is the same"
        )
        raise ValueError(
            f"gamma: must be a number, got {type(gamma).__name__}{remedy if isinstance(gamma, Tensor) else ''}"
        )
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"gamma: must be > 0 and finite, got {gamma}")
    return number


def check_band(band: Any) -> int:
    """The operators' form: -1 for none."""
    if band is None:
        return -1
    count = _as_count(band)
    if count is None:
        raise ValueError(f"band: must be None or an integer >= 0, frames, got {band!r}")
    return count


def check_count(name: str, count: Any) -> int:
    number = _as_count(count)
    if number is None:
        raise ValueError(f"{name}: must be an integer >= 0, got {count!r}")
    return number


def check_lengths(lengths: Any, table_name: str, table: Tensor) -> Tensor | None:
    """(B, 2) int64 on the table's device, from a tensor, an array or lists of whole numbers."""
    if lengths is None:
        return None
    B, N, M = table.shape
    if not isinstance(lengths, Tensor):
        lengths = _lengths_tensor(lengths, B).to(table.device)
    if tuple(lengths.shape) != (B, 2):
        raise ValueError(f"lengths: must have shape ({B}, 2), got {tuple(lengths.shape)}")
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise ValueError(f"lengths: must be of an integer dtype, got {lengths.dtype}")
    if lengths.device != table.device:
        raise ValueError(f"lengths: must be on {table_name}'s device {table.device}, got {lengths.device}")
    if lengths.dtype != torch.int64:
        lengths = lengths.to(torch.int64)
    # Reading values would break a graph under torch.compile and wait for a GPU.
    if torch.compiler.is_compiling() or lengths.device.type != "cpu" or B == 0:
        return lengths
    if active():
        read_values(lengths, lambda values: _check_range(values, N, M))
    else:
        _check_range(lengths, N, M)
    return lengths


def _lengths_tensor(lengths: Any, batch: int) -> Tensor:
    try:
        # An array or a list without pairs does not say that it has two columns.
        return torch.tensor(lengths) if len(lengths) or batch else torch.empty(0, 2, dtype=torch.int64)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"lengths: must be a tensor, an array or a list of ({batch}, 2) whole numbers, got {lengths!r:.80}"
        ) from None


def _check_range(lengths: Tensor, N: int, M: int) -> None:
    low, high = (bound.tolist() for bound in lengths.aminmax(dim=0))
    for axis, (name, size) in enumerate((("N", N), ("M", M))):
        if low[axis] < 0 or high[axis] > size:
            bad = low[axis] if low[axis] < 0 else high[axis]
            raise ValueError(f"lengths: column {axis} must be in 0..{size} ({name}), got {bad}")
