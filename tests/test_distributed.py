"""What ranks say to each other, how they wait and how they fail; and batch norm over all of them."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import ended, start_ranks
from torch import nn
from torch.distributed.distributed_c10d import _set_pg_timeout

from lacray import distributed
from lacray.batch_norm import SharedBatchNorm1d, SharedBatchNorm2d, SharedBatchNorm3d, share_batch_norms
from lacray.config import UserError
from lacray.data import DataError

NUM_RANKS = 3
TIMEOUT = timedelta(seconds=1)
"""Of the process group's own collectives."""
LONGER = 2.5


class TwoPartError(Exception):
    """It does not survive pickling: its constructor wants more than its message."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


# ---------------------------------------------------------------------------------------------------------------------
# One process.


def test_alone_nothing_is_sent():
    assert (distributed.rank(), distributed.world_size(), distributed.is_first()) == (0, 1, True)
    assert distributed.gather("a") == distributed.all_gather("a") == ["a"]
    assert distributed.from_first(lambda: 3) == distributed.from_each(lambda: 3) == 3
    distributed.agree(None)
    error = DataError("gone")
    for fails in (lambda: distributed.agree(error), lambda: distributed.from_each(lambda: raises(error))):
        with pytest.raises(DataError) as caught:
            fails()
        assert caught.value is error


def raises(error: Exception) -> None:
    raise error


# ---------------------------------------------------------------------------------------------------------------------
# Several.


def caught_by(call: Any) -> tuple[type, str, list[str]]:
    try:
        call()
    except Exception as error:
        problems = error.problems if isinstance(error, UserError) else []
        return type(error), str(error), problems
    raise AssertionError("it did not raise")


def said(rank: int) -> dict[str, Any]:
    """What a rank is told by each call."""
    at_once = distributed.from_first(lambda: {"pid": os.getpid()})
    # A rank that is late for any of these calls is no error, nor is a first one that takes longer than the timeout.
    if rank == 1:
        time.sleep(LONGER)
    gathered = distributed.gather({"rank": rank, "random": torch.arange(rank)})
    late = distributed.from_first(lambda: time.sleep(LONGER) or "late")
    return {
        "pid": os.getpid(),
        "at once": at_once,
        "gathered": gathered,
        "late": late,
        "all": distributed.all_gather(rank * 10),
        "each": distributed.from_each(lambda: rank + 1),
        "first fails": caught_by(lambda: distributed.from_first(lambda: raises(DataError(["one", "two"])))),
        "one fails": caught_by(lambda: distributed.agree(DataError(["a", "b"]) if rank == 1 else None)),
        "two fail": caught_by(lambda: distributed.from_each(lambda: rank if rank == 0 else raises(KeyError(rank)))),
        "no pickle": caught_by(lambda: distributed.agree(TwoPartError("rust", "joint") if rank == 2 else None)),
        "none fails": distributed.agree(None),
    }


def one_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/first", rank=rank, world_size=NUM_RANKS)
    # Only now: the processes may take longer than that to find each other.
    _set_pg_timeout(TIMEOUT)
    told: dict[str, Any] = {"said": said(rank)}
    torch.save(told, folder / f"told{rank}.pt")
    # Rank 2 dies while the others wait for its value.
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    told["peer dies"] = (*caught_by(lambda: distributed.all_gather(rank)), time.monotonic() - started)
    dist.destroy_process_group()
    # A group of the same process after it, and a first rank that dies while the other waits for it.
    dist.init_process_group("gloo", init_method=f"file://{folder}/second", rank=rank, world_size=2)
    told["again"] = distributed.gather(rank), distributed.from_first(lambda: "again")
    told["norms"] = {dimensions: batch_norm_case(dimensions, rank) for dimensions in SHAPES}
    told["half"] = SharedBatchNorm2d(2)(torch.full((40, 2, 9, 9), 3.0, dtype=torch.bfloat16) + rank)
    if rank == 0:
        torch.save(told, folder / "told0.pt")
    started = time.monotonic()
    told["first dies"] = (
        *caught_by(lambda: distributed.from_first(lambda: os.kill(os.getpid(), signal.SIGKILL))),
        time.monotonic() - started,
    )
    torch.save(told, folder / f"told{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    """What three ranks have told; the last dies first, then rank 0."""
    folder = tmp_path_factory.mktemp("ranks")
    codes = ended(start_ranks(one_rank, folder, num=NUM_RANKS))
    assert codes == [-signal.SIGKILL, 0, -signal.SIGKILL]
    return [torch.load(folder / f"told{rank}.pt", weights_only=False) for rank in range(NUM_RANKS)]


def test_values_are_gathered_in_order_of_rank_at_the_first_or_everywhere(ranks):
    first, *others = (told["said"]["gathered"] for told in ranks)
    assert [value["rank"] for value in first] == [0, 1, 2]
    assert [value["random"].tolist() for value in first] == [[], [0], [0, 1]]
    assert others == [[], []]
    assert [told["said"]["all"] for told in ranks] == [[0, 10, 20]] * 3
    assert [told["said"]["each"] for told in ranks] == [1, 2, 3]


def test_what_the_first_computes_all_have_however_long_it_takes(ranks):
    assert [told["said"]["late"] for told in ranks] == ["late"] * 3
    assert [told["said"]["at once"] for told in ranks] == [{"pid": ranks[0]["said"]["pid"]}] * 3


def test_error_of_one_rank_is_raised_on_all_of_them_as_it_was(ranks):
    for name, expected in [
        ("first fails", (DataError, "one\ntwo", ["one", "two"])),
        ("one fails", (DataError, "a\nb", ["a", "b"])),
        ("two fail", (KeyError, "1", [])),
    ]:
        assert [told["said"][name] for told in ranks] == [expected] * 3
    own, *copies = (ranks[number]["said"]["no pickle"] for number in (2, 0, 1))
    assert own == (TwoPartError, "rust at joint", [])
    assert copies == [(RuntimeError, "rank 2: TwoPartError: rust at joint", [])] * 2
    assert [told["said"]["none fails"] for told in ranks] == [None] * 3


def test_rank_that_dies_ends_the_others_wait(ranks):
    for told in ranks[:2]:
        kind, _, _, seconds = told["peer dies"]
        assert issubclass(kind, RuntimeError)
        assert seconds < 60
    kind, words, _, seconds = ranks[1]["first dies"]
    assert kind is RuntimeError
    assert words.startswith("rank 0 has died while rank 1 waited for it")
    assert seconds < 60


def test_process_group_after_another_starts_afresh(ranks):
    assert ranks[0]["again"] == ([0, 1], "again")
    assert ranks[1]["again"] == ([], "again")


# ---------------------------------------------------------------------------------------------------------------------
# Batch norm over the joined batch.

SHAPES = {1: (5, 3, 4), 2: (5, 3, 4, 4), 3: (5, 3, 2, 4, 4)}
PLAIN = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SHARED = {1: SharedBatchNorm1d, 2: SharedBatchNorm2d, 3: SharedBatchNorm3d}


def batch_norm_case(dimensions: int, rank: int | None) -> dict[str, torch.Tensor]:
    """One training step of a batch norm on all samples (None), or on this rank's uneven share of them."""
    generator = torch.Generator().manual_seed(0)
    shape = SHAPES[dimensions]
    samples = torch.randn(shape, dtype=torch.float64, generator=generator) * 2 + 1
    weights = torch.randn(shape, dtype=torch.float64, generator=generator)
    share = {None: slice(0, 5), 0: slice(0, 2), 1: slice(2, 5)}[rank]
    # None: the mean over all batches seen, not a running one.
    norm: nn.Module = PLAIN[dimensions](3, momentum=None if dimensions == 1 else 0.3, eps=1e-2).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    if rank is not None:
        norm = share_batch_norms(norm, torch.device("cpu"))
        assert type(norm) is SHARED[dimensions]
    own = samples[share].clone().requires_grad_()
    out = norm(own)
    (out.square() * weights[share]).sum().backward()
    norm((samples[share] - 3).detach())
    return {
        "out": out.detach(),
        "input": own.grad,
        "weight gradient": norm.weight.grad,
        "bias gradient": norm.bias.grad,
        **norm.state_dict(),
    }


@pytest.mark.parametrize("dimensions", SHAPES)
def test_two_ranks_normalise_as_one_with_the_joined_batch(ranks, dimensions):
    one = batch_norm_case(dimensions, None)
    both = [told["norms"][dimensions] for told in ranks[:2]]
    for name in ("out", "input"):
        torch.testing.assert_close(torch.cat([rank[name] for rank in both]), one[name], rtol=1e-10, atol=1e-10)
    for name in ("weight gradient", "bias gradient"):  # which DDP averages
        torch.testing.assert_close(both[0][name] + both[1][name], one[name], rtol=1e-10, atol=1e-10)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        for rank in both:
            torch.testing.assert_close(rank[name], one[name], rtol=1e-10, atol=1e-10)


def test_half_precision_counts_all_pixels(ranks):
    # Half of all pixels are 3 and half are 4: their mean is 3.5, if 6480 pixels are counted as 6480.
    halves = [told["half"] for told in ranks[:2]]
    assert [half.dtype for half in halves] == [torch.bfloat16] * 2
    for half, expected in zip(halves, (-1.0, 1.0), strict=True):
        torch.testing.assert_close(half.float(), torch.full_like(half, expected).float(), rtol=1e-2, atol=1e-2)


def test_shared_batch_norm_alone_is_torchs():
    torch.manual_seed(0)
    pictures = torch.randn(4, 3, 5, 5)
    one, other = SharedBatchNorm2d(3), nn.BatchNorm2d(3)
    torch.testing.assert_close(one(pictures), other(pictures))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    torch.testing.assert_close(one.eval()(pictures), other.eval()(pictures))


def test_every_trained_batch_norm_is_shared_and_keeps_its_parameters_and_frozen_ones_stay():
    frozen = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False).eval()
    net = nn.Sequential(frozen, nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), nn.BatchNorm3d(4, affine=False))
    before, state = list(net.parameters()), net.state_dict(keep_vars=True)
    assert share_batch_norms(net, torch.device("cpu")) is net
    assert type(net[0][1]) is nn.BatchNorm2d
    assert not net[0][1].training
    assert type(net[1][1]) is SharedBatchNorm2d
    assert type(net[2]) is SharedBatchNorm3d
    assert all(one is other for one, other in zip(net.parameters(), before, strict=True))
    assert {name: id(value) for name, value in net.state_dict(keep_vars=True).items()} == {
        name: id(value) for name, value in state.items()
    }
