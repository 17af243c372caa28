"""The operators in plain torch: what the compiled ones are held to, and their stand-in where there is no compiler.

Autograd differentiates this code, any number of times. It walks the anti-diagonals, whose cells depend only on the two
before, so there is no loop over cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Stands for -inf inside the recursion, so that differences of two of them stay defined.
_NEVER = -1e30


def soft_sw(
    similarity: Tensor,
    gap_open: Tensor,
    gap_extend: Tensor,
    *,
    gamma: float,
    lengths: Tensor | None = None,
    end_to_end: bool = False,
) -> tuple[Tensor, Tensor]:
    """`lacray.ops.soft_sw` by its definition; arguments as there, but tensors of one floating dtype.

    D[i,j]  = S[i,j] + max^gamma(0, D[i-1,j-1], Ix[i-1,j-1], Iy[i-1,j-1])
    Ix[i,j] = max^gamma(D[i,j-1] - gap_open[i,j], Ix[i,j-1] - gap_extend[i,j])
    Iy[i,j] = max^gamma(D[i-1,j] - gap_open[i,j], Ix[i-1,j] - gap_open[i,j], Iy[i-1,j] - gap_extend[i,j])
    score   = max^gamma over all cells of D, where max^gamma(u) = gamma log sum exp(u / gamma).

    Args:
        end_to_end: `soft_nw`, for tables with a corner (affine.with_corner): the 0 is at the first cell only, and
            score = max^gamma(D, Ix, Iy) of the last.
    """
    B, N, M = similarity.shape
    valid = valid_cells(similarity, lengths)
    if similarity.numel() == 0:
        return similarity.new_full((B,), -torch.inf) + similarity.sum((1, 2)), similarity.clone()
    match, x, y = _affine_diagonals(similarity, gap_open, gap_extend, gamma, valid, end_to_end, _log_sum_exp)
    table = _from_diagonals(match, N, M)
    if end_to_end:
        last = [_last_cell(_from_diagonals(d, N, M), lengths) for d in (match, x, y)]
        score = _log_sum_exp(*last) * gamma
    else:
        score = torch.where(valid, table, _NEVER).flatten(1).logsumexp(1) * gamma
    forbidden = ~valid | (similarity == -torch.inf) | (table < _NEVER / 2)
    empty = ~valid.flatten(1).any(1)
    return (
        torch.where(empty | (score < _NEVER * gamma / 2), -torch.inf, score),
        torch.where(forbidden, -torch.inf, table * gamma),
    )


def dtw(
    cost: Tensor, *, gamma: float, lengths: Tensor | None = None, band: int = -1, smooth: bool = False
) -> tuple[Tensor, Tensor]:
    """`lacray.ops.soft_dtw` and `smooth_dtw` by their definition; band -1 forbids nothing."""
    if cost.numel() == 0:
        return cost.new_full((len(cost),), torch.inf) + cost.sum((1, 2)), cost.clone()
    return _warp(cost, gamma, lengths, band, _smooth_min if smooth else _soft_min)


def walks(
    similarity: Tensor,
    gap_open: Tensor,
    gap_extend: Tensor,
    *,
    gamma: float,
    lengths: Tensor | None = None,
    end_to_end: bool = False,
    best: bool = False,
    num_walks: int = 1,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The best alignment of each problem, or `num_walks` drawn from their distribution, as paths.

    Returns:
        score (B,), paths (B, num_walks, min(N, M), 2): the matches in order, -1 beyond a path's end.
    """
    B, N, M = similarity.shape
    paths = torch.full((B, num_walks, min(N, M), 2), -1, dtype=torch.int64)
    if similarity.numel() == 0:
        return similarity.new_full((B,), -torch.inf), paths
    valid = valid_cells(similarity, lengths)
    smooth_max = _max if best else _log_sum_exp
    unit = 1.0 if best else gamma
    with torch.no_grad():
        tables = [
            _from_diagonals(d, N, M)
            for d in _affine_diagonals(similarity, gap_open, gap_extend, unit, valid, end_to_end, smooth_max)
        ]
        if end_to_end:
            score = smooth_max(*(_last_cell(t, lengths) for t in tables))
        else:
            cells = torch.where(valid, tables[0], _NEVER).flatten(1)
            score = cells.amax(1) if best else cells.logsumexp(1)
        score = torch.where(~valid.flatten(1).any(1) | (score < _NEVER / 2), -torch.inf, score)
        own = [gap[:, None, None] if gap.dim() == 1 else gap for gap in (gap_open, gap_extend)]
        gaps = [(gap.expand(B, N, M) / unit).tolist() for gap in own]
    for b in torch.nonzero(torch.isfinite(score)).flatten().tolist():
        n, m = (N, M) if lengths is None else lengths[b].tolist()
        problem = _Walker([t[b].tolist() for t in tables], [g[b] for g in gaps], end_to_end, best)
        for k in range(num_walks):
            path = problem.walk(n, m, score[b].item(), _Stream(seed, b, k))
            paths[b, k, : len(path)] = torch.tensor(path, dtype=torch.int64).view(-1, 2)
    return score * unit, paths


def dtw_path(cost: Tensor, *, lengths: Tensor | None = None, band: int = -1) -> tuple[Tensor, Tensor]:
    """The best warping of each problem: value (B,), path (B, N + M - 1, 2), -1 beyond its end."""
    B, N, M = cost.shape
    paths = torch.full((B, max(N + M - 1, 0), 2), -1, dtype=torch.int64)
    if cost.numel() == 0:
        return cost.new_full((B,), torch.inf), paths
    with torch.no_grad():
        value, table = _warp(cost, 1.0, lengths, band, _min)
    for b in torch.nonzero(torch.isfinite(value)).flatten().tolist():
        i, j = (N - 1, M - 1) if lengths is None else (lengths[b] - 1).tolist()
        cells = table[b].tolist()
        path = [(i, j)]
        while (i, j) != (0, 0):
            before = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
            i, j = min((c for c in before if min(c) >= 0), key=lambda c: cells[c[0]][c[1]])
            path.append((i, j))
        paths[b, : len(path)] = torch.tensor(path[::-1], dtype=torch.int64)
    return value, paths


class _Stream:
    """The numbers in [0, 1) of csrc/walk.h, so that a seed gives the same alignments whatever computes."""

    def __init__(self, seed: int, problem: int, walk: int) -> None:
        self._state = self._mix(self._mix(self._mix(seed) + problem) + walk)

    def next(self) -> float:
        self._state = (self._state + 0x9E3779B97F4A7C15) % 2**64
        return (self._mix(self._state) >> 11) * 2.0**-53

    @staticmethod
    def _mix(z: int) -> int:  # splitmix64
        z = (z + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)


class _Walker:
    """Walks back through the tables of one problem, in units of gamma."""

    def __init__(self, tables: list[Any], gaps: list[Any], end_to_end: bool, best: bool) -> None:
        self._tables, self._gaps, self._end_to_end, self._best = tables, gaps, end_to_end, best

    def walk(self, n: int, m: int, score: float, stream: _Stream) -> list[tuple[int, int]]:
        match, x, y = self._tables
        path = []
        i, j = n - 1, m - 1
        place = "h"
        if not self._end_to_end:
            i, j = self._end(n, m, score, stream)
            place = "d"
        while i >= 0 and j >= 0 and place:
            d, ix, iy = match[i][j], x[i][j], y[i][j]
            opening, extending = self._gaps[0][i][j], self._gaps[1][i][j]
            u = stream.next()
            if place == "h":
                start = _NEVER if self._end_to_end else 0.0
                place = self._choose(u, [("", start), ("d", d), ("x", ix), ("y", iy)])
            elif place == "s":
                place = self._choose(u, [("d", d), ("x", ix)])
            elif place == "d":
                path.append((i, j))
                i, j, place = i - 1, j - 1, "h"
            elif place == "x":
                j -= 1
                place = self._choose(u, [("d", match[i][j] - opening), ("x", x[i][j] - extending)]) if j >= 0 else ""
            else:
                i -= 1
                if i >= 0:
                    open_from = (match[i][j], x[i][j])
                    s = (
                        max(open_from)
                        if self._best
                        else math.log(math.fsum(map(math.exp, self._less(open_from)))) + max(open_from)
                    )
                    place = self._choose(u, [("s", s - opening), ("y", y[i][j] - extending)])
        return path[::-1]

    def _end(self, n: int, m: int, score: float, stream: _Stream) -> tuple[int, int]:
        match = self._tables[0]
        cells = [(i, j) for i in range(n) for j in range(m)]
        if self._best:
            return max(cells, key=lambda c: match[c[0]][c[1]])
        u, total, last = stream.next(), 0.0, cells[0]
        for i, j in cells:
            share = math.exp(match[i][j] - score)
            total += share
            last = (i, j) if share > 0 else last
            if u < total:
                break
        return last

    def _choose(self, u: float, options: list[tuple[str, float]]) -> str:
        top = max(value for _, value in options)
        if self._best:
            return next(name for name, value in options if value == top)
        # csrc/walk.h asks for ending last.
        options = options[1:] + options[:1] if options[0][0] == "" else options
        shares = [math.exp(value - top) for _, value in options]
        u *= math.fsum(shares)
        for (name, _), share in zip(options, shares, strict=True):
            if u < share:
                return name
            u -= share
        return next(name for (name, _), share in zip(options[::-1], shares[::-1], strict=True) if share > 0)

    @staticmethod
    def _less(values: tuple[float, ...]) -> list[float]:
        return [value - max(values) for value in values]


def valid_cells(similarity: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, N, M) bool: the cells within `lengths`."""
    B, N, M = similarity.shape
    if lengths is None:
        return torch.ones(B, N, M, dtype=torch.bool, device=similarity.device)
    rows = torch.arange(N, device=similarity.device) < lengths[:, :1]
    columns = torch.arange(M, device=similarity.device) < lengths[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def _affine_diagonals(
    similarity: Tensor,
    gap_open: Tensor,
    gap_extend: Tensor,
    gamma: float,
    valid: Tensor,
    end_to_end: bool,
    smooth_max: Callable[..., Tensor],
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """D, Ix and Iy by anti-diagonals, in units of gamma."""
    B, N, M = similarity.shape
    # -inf (a forbidden match, a forbidden gap) becomes finite and is put back at the end.
    scaled = torch.where(valid, _held(similarity), 0) / gamma
    s = _diagonals(scaled.clamp_min(_NEVER), N, M)
    gaps = []
    for gap in (gap_open, gap_extend):
        cells = _held(gap)
        if gap.dim() > 1:
            cells = torch.where(valid if gap.dim() == 3 else valid.any(0), cells, 0).expand(B, N, M)
        elif gap.dim() == 1:
            cells = cells[:, None]
        cells = (cells / gamma).clamp_max(-_NEVER)
        gaps.append(_diagonals(cells, N, M) if gap.dim() > 1 else [cells] * (N + M - 1))
    go, ge = gaps
    never = similarity.new_full((B, N), _NEVER)
    d = x = y = never
    d_before = x_before = y_before = never
    match, right, below = [], [], []
    for k in range(N + M - 1):
        # On diagonal k, (i, j-1) and (i-1, j) are on diagonal k - 1, (i-1, j-1) on k - 2.
        start = torch.zeros_like(d)
        if end_to_end:
            start[:, 0 if k else 1 :] = _NEVER  # the corner only
        best = smooth_max(start, _down(d_before), _down(x_before), _down(y_before))
        d_before, x_before, y_before = d, x, y
        d, x, y = (
            s[k] + best,
            smooth_max(d - go[k], x - ge[k]),
            smooth_max(_down(d) - go[k], _down(x) - go[k], _down(y) - ge[k]),
        )
        # Cells off the table (j < 0 or >= M) must not feed those on it.
        on = _on_table(k, N, M, similarity.device)
        d, x, y = (torch.where(on, t, _NEVER).clamp_min(_NEVER) for t in (d, x, y))
        match.append(d)
        right.append(x)
        below.append(y)
    return match, right, below


def _warp(
    cost: Tensor, gamma: float, lengths: Tensor | None, band: int, minimum: Callable[..., Tensor]
) -> tuple[Tensor, Tensor]:
    B, N, M = cost.shape
    valid = valid_cells(cost, lengths)
    if band >= 0:
        row, column = torch.arange(N, device=cost.device)[:, None], torch.arange(M, device=cost.device)
        valid = valid & ((row - column).abs() <= band)
    # In units of gamma; what cannot be reached is large and finite, and becomes inf at the end.
    c = _diagonals(torch.where(valid, _held(cost) / gamma, -_NEVER).clamp_max(-_NEVER), N, M)
    never = cost.new_full((B, N), -_NEVER)
    r = r_before = never
    table = []
    for k in range(N + M - 1):
        diagonal = _down(r_before, -_NEVER)
        if k == 0:
            diagonal = torch.cat([torch.zeros_like(diagonal[:, :1]), diagonal[:, 1:]], 1)
        r_before, r = r, c[k] + minimum(diagonal, _down(r, -_NEVER), r)
        r = torch.where(_on_table(k, N, M, cost.device), r, -_NEVER).clamp_max(-_NEVER)
        table.append(r)
    cells = _from_diagonals(table, N, M)
    cells = torch.where(~valid | (cells > -_NEVER / 2), torch.inf, cells * gamma)
    empty = ~valid_cells(cost, lengths).flatten(1).any(1)
    return torch.where(empty, torch.inf, _last_cell(cells, lengths)), cells


def _held(tensor: Tensor) -> Tensor:
    """The tensor, by an operation that keeps it for the backward pass: a change in between is noticed.

    The compiled operators keep their inputs; here the next operation would keep a copy.
    """
    return tensor.clamp_max(torch.inf)


def _last_cell(table: Tensor, lengths: Tensor | None) -> Tensor:
    """(B,), the cell of each problem's last frames; any where there are none."""
    if lengths is None:
        return table[:, -1, -1]
    B, N, M = table.shape
    n, m = (lengths - 1).clamp_min(0).unbind(1)
    # Not gather, which would keep the table for its gradient: it may be changed in place.
    return table.flatten().index_select(0, (torch.arange(B, device=table.device) * N + n) * M + m)


def _down(x: Tensor, border: float = _NEVER) -> Tensor:
    """Row i takes row i - 1."""
    return torch.cat([x.new_full((len(x), 1), border), x[:, :-1]], 1)


def _log_sum_exp(*terms: Tensor) -> Tensor:
    return torch.logsumexp(torch.stack(terms), 0)


def _max(*terms: Tensor) -> Tensor:
    return torch.stack(terms).amax(0)


def _min(*terms: Tensor) -> Tensor:
    return torch.stack(terms).amin(0)


def _soft_min(*terms: Tensor) -> Tensor:
    return -torch.logsumexp(-torch.stack(terms), 0)


def _smooth_min(*terms: Tensor) -> Tensor:
    u = torch.stack(terms)
    return (torch.softmax(-u, 0) * u).sum(0)


def _on_table(k: int, N: int, M: int, device: torch.device) -> Tensor:
    column = k - torch.arange(N, device=device)
    return (column >= 0) & (column < M)


def _diagonals(cells: Tensor, N: int, M: int) -> tuple[Tensor, ...]:
    """The anti-diagonals of (B, N, M) as N + M - 1 tensors (B, N), indexed by row; off the table: any value."""
    column = torch.arange(N + M - 1, device=cells.device)[:, None] - torch.arange(N, device=cells.device)
    at = torch.arange(N, device=cells.device) * M + column.clamp(0, M - 1)
    # unbind, so that the gradient is one stack rather than N + M - 1 full tables; index_select, as all transforms know
    # its gradient.
    return cells.flatten(1).index_select(1, at.flatten()).unflatten(1, at.shape).unbind(1)


def _from_diagonals(diagonals: list[Tensor], N: int, M: int) -> Tensor:
    table = torch.stack(diagonals, 1)
    row = torch.arange(N, device=table.device)[:, None]
    at = (row + torch.arange(M, device=table.device)) * N + row
    return table.flatten(1).index_select(1, at.flatten()).unflatten(1, (N, M))
