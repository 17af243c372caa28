"""Checks of the operators' arguments: each error names the argument, its rule and its value."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


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
    """Both of one shape, (), (N, M) or (B, N, M), in the dtype of similarity."""
    gaps = [_check_gap(name, gap, similarity) for name, gap in (("gap_open", gap_open), ("gap_extend", gap_extend))]
    dim = max(gap.dim() for gap in gaps)
    shape = similarity.shape[3 - dim :]
    first, second = (gap if gap.dim() == dim else gap.expand(shape) for gap in gaps)
    return first, second


def _check_gap(name: str, gap: Any, similarity: Tensor) -> Tensor:
    dtype = similarity.dtype
    if isinstance(gap, (int, float)) and not isinstance(gap, bool):
        return torch.full((), float(gap), dtype=dtype, device=similarity.device)
    if not isinstance(gap, Tensor):
        raise ValueError(f"{name}: must be a tensor or a number, got {type(gap).__name__}")
    B, N, M = similarity.shape
    if tuple(gap.shape) not in ((), (N, M), (B, N, M)):
        raise ValueError(
            f"{name}: must have shape (), ({N}, {M}) or ({B}, {N}, {M}) like similarity, got {tuple(gap.shape)}"
        )
    if gap.device != similarity.device:
        raise ValueError(f"{name}: must be on similarity's device {similarity.device}, got {gap.device}")
    if not gap.is_floating_point() or (gap.dtype == torch.float64 and dtype != torch.float64):
        raise ValueError(
            f"{name}: must be of a floating dtype no wider than {dtype}, in which it is computed, got {gap.dtype}"
        )
    return gap.to(dtype)


def check_gamma(gamma: Any) -> float:
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)):
        raise ValueError(f"gamma: must be a number, got {type(gamma).__name__}")
    if not (gamma > 0 and math.isfinite(gamma)):
        raise ValueError(f"gamma: must be > 0 and finite, got {gamma}")
    return float(gamma)


def check_band(band: Any) -> int:
    """The operators' form: -1 for none."""
    if band is None:
        return -1
    if isinstance(band, bool) or not isinstance(band, int) or band < 0:
        raise ValueError(f"band: must be None or an integer >= 0, frames, got {band!r}")
    return band


def check_count(name: str, count: Any) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(f"{name}: must be an integer >= 0, got {count!r}")
    return count


def check_lengths(lengths: Any, table_name: str, table: Tensor) -> None:
    if lengths is None:
        return
    if not isinstance(lengths, Tensor):
        raise ValueError(f"lengths: must be a tensor, got {type(lengths).__name__}")
    B, N, M = table.shape
    if tuple(lengths.shape) != (B, 2):
        raise ValueError(f"lengths: must have shape ({B}, 2), got {tuple(lengths.shape)}")
    if lengths.dtype != torch.int64:
        raise ValueError(f"lengths: must be int64, got {lengths.dtype}")
    if lengths.device != table.device:
        raise ValueError(f"lengths: must be on {table_name}'s device {table.device}, got {lengths.device}")
    # Reading values would break a graph under torch.compile and wait for a GPU.
    if torch.compiler.is_compiling() or lengths.device.type != "cpu" or B == 0:
        return
    low, high = lengths.amin(0).tolist(), lengths.amax(0).tolist()
    for axis, (name, size) in enumerate((("N", N), ("M", M))):
        if low[axis] < 0 or high[axis] > size:
            bad = low[axis] if low[axis] < 0 else high[axis]
            raise ValueError(f"lengths: column {axis} must be in 0..{size} ({name}), got {bad}")
