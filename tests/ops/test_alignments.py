"""Best paths and drawn alignments against enumeration, and against the operators that they come from."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_soft_nw import all_alignments, problem
from test_warping import all_paths, costs
from torch import Tensor

from lacray.ops import (
    dtw_path,
    expected_alignment,
    needleman_wunsch,
    smith_waterman,
    soft_nw,
    soft_sw,
)

Path = tuple[tuple[int, int], ...]


def as_path(table: Tensor) -> Path:
    """(L, 2) with -1 beyond the end -> pairs; nothing but -1 may follow the end."""
    real = [(i, j) for i, j in table.tolist() if (i, j) != (-1, -1)]
    assert table.tolist() == [list(pair) for pair in real] + [[-1, -1]] * (len(table) - len(real))
    return tuple(real)


def energy(path: Path, similarity: Tensor, gap_open: Tensor, gap_extend: Tensor) -> float:
    """Sum of the matches less the gaps between them: along the row first, then down the column."""
    total = sum(similarity[i, j].item() for i, j in path)
    for (i, j), (k, l) in itertools.pairwise(path):  # noqa: E741
        assert k > i
        assert l > j
        gaps = [[(i, c) for c in range(j + 1, l)], [(r, l - 1) for r in range(i + 1, k)]]
        for cells in gaps:
            total -= sum((gap_extend if at else gap_open)[cell].item() for at, cell in enumerate(cells))
    return total


def local_alignments(similarity: Tensor, gap_open: Tensor, gap_extend: Tensor) -> list[tuple[float, Path]]:
    """(energy, matches) of every chain of matches."""
    n, m = similarity.shape
    found = []
    for length in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), length):
            for columns in itertools.combinations(range(m), length):
                path = tuple(zip(rows, columns, strict=True))
                found.append((energy(path, similarity, gap_open, gap_extend), path))
    return found


def global_alignments(similarity: Tensor, gap_open: Tensor, gap_extend: Tensor) -> list[tuple[float, Path]]:
    n, m = similarity.shape
    return all_alignments(similarity.tolist(), gap_open.tolist(), gap_extend.tolist(), n, m)


METHODS: dict[str, Any] = {
    "local": (smith_waterman, soft_sw, local_alignments),
    "end to end": (needleman_wunsch, soft_nw, global_alignments),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(4, 5), (5, 3), (1, 6), (6, 1)])
def test_the_best_alignment_is_the_best_of_all(method: str, shape: tuple[int, int], ops: SimpleNamespace) -> None:
    hard, _, enumerated = METHODS[method]
    similarity, gap_open, gap_extend = problem(6, *shape, "shared", seed=sum(shape))
    score, path = hard(similarity, gap_open, gap_extend)
    assert path.shape == (6, min(shape), 2)
    for b in range(6):
        best, matches = max(enumerated(similarity[b], gap_open, gap_extend))
        assert score[b].item() == pytest.approx(best, rel=1e-12)
        assert as_path(path[b]) == matches


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["scalar", "each", "shared", "own"])
def test_the_best_alignment_is_the_limit_of_the_soft_one(method: str, kind: str, ops: SimpleNamespace) -> None:
    hard, soft, _ = METHODS[method]
    B, N, M = 3, 70, 300 if ops.name != "reference" else 90
    inputs = problem(B, N, M, kind, seed=4)
    lengths = torch.tensor([[N, M], [N - 5, 61], [32, M]])
    score, path = hard(*inputs, lengths=lengths)
    leaf = inputs[0].clone().requires_grad_()
    limit, _ = soft(leaf, *inputs[1:], gamma=1e-6, lengths=lengths)
    torch.testing.assert_close(score, limit.detach(), rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(limit.sum(), leaf)
    for b in range(B):
        matched = torch.nonzero(gradient[b] > 0.5)
        assert as_path(path[b]) == tuple(map(tuple, matched.tolist()))
        if method == "local":
            own = [g[b].expand(N, M) if g.dim() in (1, 3) else g.expand(N, M) for g in inputs[1:]]
            assert energy(as_path(path[b]), inputs[0][b], *own) == pytest.approx(score[b].item(), rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_among_ties_it_is_the_same_alignment_whatever_computes(
    method: str, ops: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard, _, enumerated = METHODS[method]
    g = torch.Generator().manual_seed(3)
    similarity = torch.randint(-1, 3, (40, 4, 5), generator=g).double()
    gap_open, gap_extend = torch.ones(4, 5).double(), torch.ones(4, 5).double()
    score, path = hard(similarity, gap_open, gap_extend)
    for b in range(40):
        everything = enumerated(similarity[b], gap_open, gap_extend)
        best = max(e for e, _ in everything)
        assert score[b].item() == best
        assert as_path(path[b]) in {matches for e, matches in everything if e == best}
    monkeypatch.undo()
    assert torch.equal(path, hard(similarity, gap_open, gap_extend)[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_alignments_are_drawn_with_their_probabilities(method: str, gamma: float, ops: SimpleNamespace) -> None:
    _, _, enumerated = METHODS[method]
    draws = 20_000 if ops.name != "reference" else 3_000
    similarity, gap_open, gap_extend = problem(2, 3, 4, "shared", seed=9)
    marginals, samples = expected_alignment(
        similarity, gap_open, gap_extend, gamma=gamma, end_to_end=method != "local", num_samples=draws, seed=5
    )
    for b in range(2):
        weights: Counter[Path] = Counter()
        for e, path in enumerated(similarity[b], gap_open, gap_extend):
            weights[path] += math.exp(e / gamma)  # from end to end, gaps alone may tell two apart
        total = sum(weights.values())
        found, counts = torch.unique(samples[b], dim=0, return_counts=True)
        seen = Counter({as_path(path): count for path, count in zip(found, counts.tolist(), strict=True)})
        assert set(seen) <= set(weights)
        # Pearson's statistic over the likely ones and the rest together: its mean is the number of classes less 1.
        likely = [path for path, weight in weights.items() if weight / total * draws > 20]
        expected = [weights[path] / total * draws for path in likely]
        observed = [seen[path] for path in likely]
        rest = draws - sum(expected)
        statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
        if rest > 20:
            statistic += (draws - sum(observed) - rest) ** 2 / rest
        assert statistic < len(likely) + 5 * math.sqrt(2 * len(likely)) + 10
        exact = torch.zeros(3, 4).double()
        for path, weight in weights.items():
            for i, j in path:
                exact[i, j] += weight / total
        torch.testing.assert_close(marginals[b], exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_draws_over_many_tiles_have_the_marginals(method: str) -> None:
    inputs = problem(2, 70, 300, "own", seed=1)
    lengths = torch.tensor([[70, 300], [45, 262]])
    marginals, samples = expected_alignment(
        *inputs, gamma=2.0, lengths=lengths, end_to_end=method != "local", num_samples=4000
    )
    for b in range(2):
        matched = samples[b][samples[b, :, :, 0] >= 0]
        counts = (
            torch.zeros(70, 300)
            .double()
            .index_put_(tuple(matched.T), torch.ones(len(matched)).double(), accumulate=True)
        )
        share = counts / 4000
        deviation = (marginals[b] * (1 - marginals[b]) / 4000).sqrt()
        assert ((share - marginals[b]).abs() <= 6 * deviation + 1e-3).all()
        assert share.sum().item() == pytest.approx(marginals[b].sum().item(), rel=0.02)
        for sample in samples[b, :20]:
            path = as_path(sample)
            assert all(k > i and l > j for (i, j), (k, l) in itertools.pairwise(path))  # noqa: E741


def test_a_seed_gives_the_same_alignments_on_any_backend_and_another_seed_others(
    ops: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = problem(3, 9, 12, "shared", seed=2)
    lengths = torch.tensor([[9, 12], [4, 7], [0, 3]])
    for end_to_end in (False, True):
        _, samples = expected_alignment(
            *inputs, gamma=1.0, lengths=lengths, end_to_end=end_to_end, num_samples=50, seed=3
        )
        _, again = expected_alignment(
            *inputs, gamma=1.0, lengths=lengths, end_to_end=end_to_end, num_samples=50, seed=3
        )
        _, other = expected_alignment(
            *inputs, gamma=1.0, lengths=lengths, end_to_end=end_to_end, num_samples=50, seed=4
        )
        _, fewer = expected_alignment(*inputs, gamma=1.0, lengths=lengths, end_to_end=end_to_end, num_samples=7, seed=3)
        assert torch.equal(samples, again)
        assert not torch.equal(samples, other)
        assert torch.equal(samples[:, :7], fewer)
        if ops.name == "reference":
            monkeypatch.undo()
            _, compiled = expected_alignment(
                *inputs, gamma=1.0, lengths=lengths, end_to_end=end_to_end, num_samples=50, seed=3
            )
            assert torch.equal(samples, compiled)
        assert (samples[2] == -1).all()


@pytest.mark.parametrize("band", [None, 2])
@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (1, 4), (4, 1)])
def test_the_warping_path_is_the_cheapest_of_all(
    shape: tuple[int, int], band: int | None, ops: SimpleNamespace
) -> None:
    N, M = shape
    cost = costs(5, N, M, seed=N)
    value, path = dtw_path(cost, band=band)
    assert path.shape == (5, N + M - 1, 2)
    for b in range(5):
        possible = [
            (math.fsum(cost[b, i, j].item() for i, j in p), tuple(p))
            for p in all_paths(N, M)
            if band is None or all(abs(i - j) <= band for i, j in p)
        ]
        if not possible:
            assert value[b] == math.inf
            assert as_path(path[b]) == ()
            continue
        best, cells = min(possible)
        assert value[b].item() == pytest.approx(best, rel=1e-12)
        assert as_path(path[b]) == cells


def test_warping_paths_of_ragged_pairs_end_at_their_last_frames(ops: SimpleNamespace) -> None:
    cost = costs(4, 8, 11).float()
    lengths = torch.tensor([[8, 11], [3, 7], [0, 4], [1, 1]])
    beyond = torch.tensor([math.nan, -math.inf] * 44).view(8, 11)
    for b, (n, m) in enumerate(lengths.tolist()):
        cost[b, n:] = beyond[n:]
        cost[b, :, m:] = beyond[:, m:]
    value, path = dtw_path(cost, lengths=lengths)
    assert value.dtype == torch.float32
    for b, (n, m) in enumerate(lengths.tolist()):
        if n == 0:
            assert value[b] == math.inf
            assert as_path(path[b]) == ()
            continue
        alone, own = dtw_path(cost[b : b + 1, :n, :m])
        assert value[b] == alone[0]
        assert as_path(path[b]) == as_path(own[0])
        assert as_path(path[b])[-1] == (n - 1, m - 1)


def test_what_has_no_alignment_has_an_empty_path(ops: SimpleNamespace) -> None:
    similarity = torch.full((2, 3, 4), -math.inf)
    score, path = smith_waterman(similarity, 1.0, 0.5)
    assert (score == -math.inf).all()
    assert (path == -1).all()
    score, path = needleman_wunsch(similarity, 1.0, 0.5)  # gaps alone
    assert score.tolist() == [-1.0 - 3 * 0.5 - 1.0 - 2 * 0.5] * 2
    assert (path == -1).all()
    marginals, samples = expected_alignment(similarity, 1.0, 0.5, gamma=1.0, num_samples=3)
    assert (marginals == 0).all()
    assert (samples == -1).all()
    for shape in ((0, 4, 5), (2, 0, 5), (2, 4, 0)):
        score, path = smith_waterman(torch.zeros(shape), 1.0, 1.0)
        assert score.shape == shape[:1]
        assert path.shape == (shape[0], min(shape[1:]), 2)
        assert dtw_path(torch.zeros(shape))[0].shape == shape[:1]


def test_a_match_worth_less_than_nothing_is_still_the_best_one(ops: SimpleNamespace) -> None:
    similarity = torch.full((1, 3, 4), -5.0)
    similarity[0, 1, 2] = -2.0
    score, path = smith_waterman(similarity, 1.0, 0.5)
    assert score.item() == -2.0
    assert as_path(path[0]) == ((1, 2),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": -1}, r"num_samples: must be an integer >= 0, got -1"),
        ({"num_samples": 2.5}, r"num_samples: must be an integer >= 0, got 2.5"),
        ({"seed": -3}, r"seed: must be an integer >= 0, got -3"),
        ({"gamma": -1.0}, r"gamma: must be > 0 and finite, got -1.0"),
        ({"similarity": torch.zeros(4, 5)}, r"similarity: must have shape \(B, N, M\), got \(4, 5\)"),
        ({"gap_open": torch.zeros(3)}, r"gap_open: must have shape .*got \(3,\)"),
    ],
)
def test_a_bad_argument_is_named_with_its_rule_and_value(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"similarity": torch.zeros(2, 4, 5), "gap_open": 1.0, "gap_extend": 0.5, "gamma": 0.5}
    with pytest.raises(ValueError, match=message):
        expected_alignment(**(arguments | changes))
