"""The operators in plain torch: what the compiled ones are held to, and their stand-in where there is no compiler.

Autograd differentiates this code, any number of times. It walks the anti-diagonals, whose cells depend only on the two
before, so there is no loop over cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Stands for -inf inside the recursion, so that differences of two of them stay defined.
_NEVER = -1e30


def soft_sw(
    similarity: Tensor, gap_open: Tensor, gap_extend: Tensor, *, gamma: float, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`lacray.ops.soft_sw` by its definition; arguments as there, but tensors of one floating dtype.

    D[i,j]  = S[i,j] + max^gamma(0, D[i-1,j-1], Ix[i-1,j-1], Iy[i-1,j-1])
    Ix[i,j] = max^gamma(D[i,j-1] - gap_open[i,j], Ix[i,j-1] - gap_extend[i,j])
    Iy[i,j] = max^gamma(D[i-1,j] - gap_open[i,j], Ix[i-1,j] - gap_open[i,j], Iy[i-1,j] - gap_extend[i,j])
    score   = max^gamma over all cells of D, where max^gamma(u) = gamma log sum exp(u / gamma).
    """
    B, N, M = similarity.shape
    valid = valid_cells(similarity, lengths)
    if similarity.numel() == 0:
        return similarity.new_full((B,), -torch.inf) + similarity.sum((1, 2)), similarity
    # Everything in units of gamma; -inf (a forbidden match) becomes finite and is put back at the end.
    scaled = torch.where(valid, similarity, 0) / gamma
    s = _diagonals(scaled.clamp_min(_NEVER), N, M)
    gaps = []
    for gap in (gap_open, gap_extend):
        cells = (
            gap if gap.dim() == 0 else torch.where(valid if gap.dim() == 3 else valid.any(0), gap, 0).expand(B, N, M)
        )
        gaps.append([cells / gamma] * (N + M - 1) if gap.dim() == 0 else _diagonals(cells / gamma, N, M))
    go, ge = gaps
    never = similarity.new_full((B, N), _NEVER)
    border = similarity.new_full((B, 1), _NEVER)

    def down(x: Tensor) -> Tensor:  # row i takes row i - 1
        return torch.cat([border, x[:, :-1]], 1)

    d = x = y = never
    d_before = x_before = y_before = never
    match = []
    for k in range(N + M - 1):
        # On diagonal k, (i, j-1) and (i-1, j) are on diagonal k - 1, (i-1, j-1) on k - 2.
        best = _log_sum_exp(torch.zeros_like(d), down(d_before), down(x_before), down(y_before))
        d_before, x_before, y_before = d, x, y
        d, x, y = (
            s[k] + best,
            _log_sum_exp(d - go[k], x - ge[k]),
            _log_sum_exp(down(d) - go[k], down(x) - go[k], down(y) - ge[k]),
        )
        # Cells off the table (j < 0 or >= M) must not feed those on it.
        on = _on_table(k, N, M, similarity.device)
        d, x, y = torch.where(on, d, _NEVER), torch.where(on, x, _NEVER), torch.where(on, y, _NEVER)
        match.append(d)
    table = _from_diagonals(match, N, M)
    masked = torch.where(valid, table, -torch.inf)
    empty = ~valid.flatten(1).any(1)
    score = torch.where(valid, table, _NEVER).flatten(1).logsumexp(1) * gamma
    forbidden = valid & (similarity == -torch.inf)
    match_value = torch.where(forbidden, -torch.inf, masked * gamma)
    return torch.where(empty | (score < _NEVER * gamma / 2), -torch.inf, score), match_value


def valid_cells(similarity: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, N, M) bool: the cells within `lengths`."""
    B, N, M = similarity.shape
    if lengths is None:
        return torch.ones(B, N, M, dtype=torch.bool, device=similarity.device)
    rows = torch.arange(N, device=similarity.device) < lengths[:, :1]
    columns = torch.arange(M, device=similarity.device) < lengths[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def _log_sum_exp(*terms: Tensor) -> Tensor:
    return torch.logsumexp(torch.stack(terms), 0)


def _on_table(k: int, N: int, M: int, device: torch.device) -> Tensor:
    column = k - torch.arange(N, device=device)
    return (column >= 0) & (column < M)


def _diagonals(cells: Tensor, N: int, M: int) -> tuple[Tensor, ...]:
    """The anti-diagonals of (B, N, M) as N + M - 1 tensors (B, N), indexed by row; off the table: any value."""
    column = torch.arange(N + M - 1, device=cells.device)[:, None] - torch.arange(N, device=cells.device)
    at = torch.arange(N, device=cells.device) * M + column.clamp(0, M - 1)
    # unbind, so that the gradient is one stack rather than N + M - 1 full tables.
    return cells.flatten(1)[:, at].unbind(1)


def _from_diagonals(diagonals: list[Tensor], N: int, M: int) -> Tensor:
    table = torch.stack(diagonals, 1)
    row = torch.arange(N, device=table.device)[:, None].expand(N, M)
    return table[:, row + torch.arange(M, device=table.device), row]
