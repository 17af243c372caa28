"""Soft Smith-Waterman: arguments checked, one torch.library operator behind them."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from lacray.ops import reference
from lacray.ops.library import BuildError, library, library_path

_TILE_ROWS = 32  # csrc/soft_sw.h
_TILE_COLUMNS = {  # csrc/binding_cpu.cpp, csrc/engine_cuda.h
    "cpu": {torch.float32: 256, torch.float64: 256},
    "cuda": {torch.float32: 32, torch.float64: 8},
}


def soft_sw(
    similarity: Tensor,
    gap_open: Tensor | float,
    gap_extend: Tensor | float,
    *,
    gamma: float,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Smoothed Smith-Waterman local alignment with affine gaps.

    Args:
        similarity: (B, N, M) float; larger is more alike, -inf forbids a match. Half precision is computed in float32.
        gap_open: (), (N, M) or (B, N, M), or a number; subtracted when a gap starts at a cell.
        gap_extend: like gap_open, for each further frame of the gap.
        gamma: > 0, in units of similarity; towards 0 it is the hard maximum.
        lengths: (B, 2) int64, real frames of each pair, 0 to N and 0 to M (on a GPU values beyond are clamped: checking
            them would wait for the device). Cells beyond get match -inf and gradient 0, and nothing in them counts.

    Returns:
        score (B,): log-partition over all local alignments, -inf where there is none; match (B, N, M): over those that
        end at (i, j). Both differentiable in all three tensors, once; float64 if similarity is, else float32. Gradients
        that arrive at cells of match that are -inf (often NaN, after a softmax) are ignored. A NaN in similarity or in
        the gaps of a pair makes that pair's score NaN.

    Raises:
        ValueError: names the argument, what it must be, and what it was.

    Source: LAC paper, Eq. 2-6 (arXiv 2409.04607).
    """
    similarity, gap_open, gap_extend, gamma = _check(similarity, gap_open, gap_extend, gamma, lengths)
    # Eagerly, the reference is differentiated by autograd; a compiled graph holds the operator whatever computes it.
    if not torch.compiler.is_compiling() and _select(similarity.device.type) == "reference":
        return reference.soft_sw(similarity, gap_open, gap_extend, gamma=gamma, lengths=lengths)
    score, match, _ = torch.ops.lacray.soft_sw(similarity, gap_open, gap_extend, lengths, gamma)
    return score, match


def backend_name(device: str | torch.device) -> str:
    """What computes the operators on `device`: "cpu" or "cuda" (compiled), or "reference" (plain torch).

    Builds the compiled one if need be. `LACRAY_OPS_BACKEND=reference` or `=native` forces the choice.
    """
    return _select(torch.device(device).type)


def require_native(device: str | torch.device) -> str:
    """Like `backend_name`, but raises BuildError, naming the remedy, where there can be no compiled operator."""
    kind = torch.device(device).type
    if kind not in _TILE_COLUMNS:
        raise BuildError(f"no compiled operators for device {kind!r}: use cpu or cuda.")
    _load(kind)
    return kind


@functools.cache
def _select(kind: str) -> str:
    wanted = os.environ.get("LACRAY_OPS_BACKEND", "")
    if wanted not in ("", "reference", "native"):
        raise ValueError(f"LACRAY_OPS_BACKEND: must be 'reference', 'native' or unset, got {wanted!r}")
    if wanted == "reference":
        return "reference"
    if wanted == "native":
        return require_native(kind)
    if kind not in _TILE_COLUMNS:
        return "reference"
    try:
        return require_native(kind)
    except BuildError as error:
        warnings.warn(
            f"lacray.ops: there are no compiled operators for {kind!r}, the torch reference takes over: the same "
            f"results, about 100 times slower. Reason and remedy: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return "reference"


def _use_instructions(name: str) -> None:
    """Switch the CPU engine to "plain", "avx2" or "avx512" (tests and benchmarks; it chooses the widest by itself)."""
    _load("cpu")
    chosen: int = ctypes.CDLL(str(library_path("cpu"))).lacray_use_isa(name.encode())
    if not chosen:
        raise ValueError(f"instruction set: must be plain, avx2 or avx512 and supported by this machine, got {name!r}")


@functools.cache
def _load(kind: str) -> None:
    path = library(kind)
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise BuildError(
            f"{path}: cannot be loaded ({error.__cause__ or error}). Build it again: python -m lacray.ops.build --force"
        ) from error


def _check(
    similarity: Tensor, gap_open: Tensor | float, gap_extend: Tensor | float, gamma: float, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, float]:
    if not isinstance(similarity, Tensor):
        raise ValueError(f"similarity: must be a tensor, got {type(similarity).__name__}")
    if similarity.dim() != 3:
        raise ValueError(f"similarity: must have shape (B, N, M), got {tuple(similarity.shape)}")
    if not similarity.is_floating_point():
        raise ValueError(f"similarity: must be of a floating dtype, got {similarity.dtype}")
    dtype = torch.float64 if similarity.dtype == torch.float64 else torch.float32
    gaps = [
        _check_gap(name, gap, similarity, dtype) for name, gap in (("gap_open", gap_open), ("gap_extend", gap_extend))
    ]
    dim = max(gap.dim() for gap in gaps)
    shape = similarity.shape[3 - dim :]
    gaps = [gap if gap.dim() == dim else gap.expand(shape) for gap in gaps]
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)):
        raise ValueError(f"gamma: must be a number, got {type(gamma).__name__}")
    if not (gamma > 0 and math.isfinite(gamma)):
        raise ValueError(f"gamma: must be > 0 and finite, got {gamma}")
    if lengths is not None:
        _check_lengths(lengths, similarity)
    return similarity.to(dtype), gaps[0], gaps[1], float(gamma)


def _check_gap(name: str, gap: Any, similarity: Tensor, dtype: torch.dtype) -> Tensor:
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


def _check_lengths(lengths: Any, similarity: Tensor) -> None:
    if not isinstance(lengths, Tensor):
        raise ValueError(f"lengths: must be a tensor, got {type(lengths).__name__}")
    B, N, M = similarity.shape
    if tuple(lengths.shape) != (B, 2):
        raise ValueError(f"lengths: must have shape ({B}, 2), got {tuple(lengths.shape)}")
    if lengths.dtype != torch.int64:
        raise ValueError(f"lengths: must be int64, got {lengths.dtype}")
    if lengths.device != similarity.device:
        raise ValueError(f"lengths: must be on similarity's device {similarity.device}, got {lengths.device}")
    # Reading values would break a graph under torch.compile and wait for a GPU.
    if torch.compiler.is_compiling() or lengths.device.type != "cpu" or B == 0:
        return
    low, high = lengths.amin(0).tolist(), lengths.amax(0).tolist()
    for axis, (name, size) in enumerate((("N", N), ("M", M))):
        if low[axis] < 0 or high[axis] > size:
            bad = low[axis] if low[axis] < 0 else high[axis]
            raise ValueError(f"lengths: column {axis} must be in 0..{size} ({name}), got {bad}")


def _state_size(similarity: Tensor) -> Any:
    """csrc/soft_sw.h: Z, and the borders between tiles."""
    _, N, M = similarity.shape
    tile_columns = _TILE_COLUMNS[similarity.device.type][similarity.dtype]
    rows, columns = (N + _TILE_ROWS - 1) // _TILE_ROWS, (M + tile_columns - 1) // tile_columns
    return 2 + 6 * M * torch.sym_max(rows - 1, 0) + 6 * _TILE_ROWS * rows * torch.sym_max(columns - 1, 0)


_library = torch.library.Library("lacray", "FRAGMENT")
_library.define(
    "soft_sw(Tensor similarity, Tensor gap_open, Tensor gap_extend, Tensor? lengths, float gamma) "
    "-> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "soft_sw_backward(Tensor? grad_score, Tensor? grad_match, Tensor similarity, Tensor gap_open, Tensor gap_extend, "
    "Tensor? lengths, Tensor state, float gamma, bool gaps) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.register_fake("lacray::soft_sw", lib=_library)
def _fake(
    similarity: Tensor, gap_open: Tensor, gap_extend: Tensor, lengths: Tensor | None, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    B, N, M = similarity.shape
    return similarity.new_empty(B), similarity.new_empty(B, N, M), similarity.new_empty(B, _state_size(similarity))


@torch.library.register_fake("lacray::soft_sw_backward", lib=_library)
def _fake_backward(
    grad_score: Tensor | None,
    grad_match: Tensor | None,
    similarity: Tensor,
    gap_open: Tensor,
    gap_extend: Tensor,
    lengths: Tensor | None,
    state: Tensor,
    gamma: float,
    gaps: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    gap = similarity.new_empty(gap_open.shape if gaps else (0,))
    return similarity.new_empty(similarity.shape), gap, torch.empty_like(gap)


# The libraries register kernels for CPU and CUDA when they are loaded. Until then, and where there are none, these run.
@torch.library.impl("lacray::soft_sw", "CompositeExplicitAutograd", lib=_library)
def _first_call(
    similarity: Tensor, gap_open: Tensor, gap_extend: Tensor, lengths: Tensor | None, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    if _select(similarity.device.type) != "reference":
        result: tuple[Tensor, Tensor, Tensor] = torch.ops.lacray.soft_sw(
            similarity, gap_open, gap_extend, lengths, gamma
        )
        return result
    score, match = reference.soft_sw(similarity, gap_open, gap_extend, gamma=gamma, lengths=lengths)
    return score, match.clone(), similarity.new_zeros(len(similarity), _state_size(similarity))


@torch.library.impl("lacray::soft_sw_backward", "CompositeExplicitAutograd", lib=_library)
def _first_backward_call(
    grad_score: Tensor | None,
    grad_match: Tensor | None,
    similarity: Tensor,
    gap_open: Tensor,
    gap_extend: Tensor,
    lengths: Tensor | None,
    state: Tensor,
    gamma: float,
    gaps: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if _select(similarity.device.type) != "reference":
        result: tuple[Tensor, Tensor, Tensor] = torch.ops.lacray.soft_sw_backward(
            grad_score, grad_match, similarity, gap_open, gap_extend, lengths, state, gamma, gaps
        )
        return result

    def differentiate() -> list[Tensor]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in (similarity, gap_open, gap_extend)]
            outputs = reference.soft_sw(*leaves, gamma=gamma, lengths=lengths)
            upstream = [
                torch.zeros_like(o) if g is None else g for o, g in zip(outputs, (grad_score, grad_match), strict=True)
            ]
            return list(torch.autograd.grad(outputs, leaves[: 3 if gaps else 1], upstream, materialize_grads=True))

    # An operator's kernel runs below autograd. That is a state of the thread, so another thread is above it.
    with ThreadPoolExecutor(max_workers=1) as other:
        gradients = other.submit(differentiate).result()
    nothing = [similarity.new_empty(0), similarity.new_empty(0)]
    first, second, third = gradients if gaps else [*gradients, *nothing]
    return first, second, third


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    similarity, gap_open, gap_extend, lengths, gamma = inputs
    state = output[2]
    ctx.save_for_backward(similarity, gap_open, gap_extend, lengths, state)
    ctx.gamma = gamma
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(state)


def _backward(
    ctx: Any, grad_score: Tensor | None, grad_match: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    similarity, gap_open, gap_extend, lengths, state = ctx.saved_tensors
    gaps = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    if grad_score is None and grad_match is None:
        return None, None, None, None, None
    grad, open_, extend = torch.ops.lacray.soft_sw_backward(
        grad_score, grad_match, similarity, gap_open, gap_extend, lengths, state, ctx.gamma, gaps
    )
    return grad, open_ if gaps else None, extend if gaps else None, None, None


def _refuse_second(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError(
        "lacray.ops.soft_sw: the compiled operator has no second derivatives. lacray.ops.reference.soft_sw has them: "
        "it is plain torch, and takes the same tensors."
    )


torch.library.register_autograd("lacray::soft_sw", _backward, setup_context=_set_up, lib=_library)
torch.library.register_autograd("lacray::soft_sw_backward", _refuse_second, lib=_library)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("lacray::soft_sw", _device, torch.float32, lib=_library)
