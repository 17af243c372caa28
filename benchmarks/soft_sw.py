"""soft_sw: time and memory, beside the floor, the torch reference and a JAX peer, in one run.

    python benchmarks/soft_sw.py                     CPU, one thread and all threads
    python benchmarks/soft_sw.py --device cuda       GPU
    python benchmarks/soft_sw.py --quick             small sizes only

Forward and backward of both outputs with per-cell gaps, checked against the reference in float64 before they are timed.
The floor is one exp and one log per cell (torch's own, as many elements), and a copy of the bytes that must move. The
peer is what SMURF does (Petti et al. 2022): scalar gaps, the score's gradient only, a jitted scan over anti-diagonals
under vmap and grad; it needs jax (extra [bench]) and is skipped, saying so, without. Per-sample gradients by torch.func
(vmap of grad) stand beside one call of the same problems, by turns. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import floor, now, peak_gib, quartiles, repeat, timed
from torch import Tensor

from lacray.ops import backend_name, reference, soft_sw

GAMMA = 0.8
SIZES = [(1, 64), (8, 64), (64, 64), (256, 32), (8, 240), (2, 512), (1, 2048)]
QUICK = [(1, 64), (8, 64), (64, 32)]
BYTES_PER_CELL = 20  # S read and D written; S and the gradient of D read, the gradient of S written


def inputs(B: int, T: int, device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(T)
    shapes = ((B, T, T), (T, T), (T, T), (B,), (B, T, T))
    similarity, gap_open, gap_extend, grad_score, grad_match = (
        torch.randn(s, generator=g, dtype=dtype) for s in shapes
    )
    tensors = (similarity * 1.5 + 0.3, gap_open.abs() + 0.5, gap_extend.abs() * 0.3, grad_score, grad_match)
    return tuple(t.to(device) for t in tensors)


def run(
    f: Callable[..., tuple[Tensor, Tensor]], tensors: tuple[Tensor, ...], lengths: Tensor | None
) -> tuple[list[Tensor], float, float]:
    """All values and gradients, and the seconds of the forward and the backward pass."""
    leaves = [t.detach().requires_grad_() for t in tensors[:3]]
    start = now(leaves[0])
    outputs = f(*leaves, gamma=GAMMA, lengths=lengths)
    middle = now(leaves[0])
    gradients = torch.autograd.grad(outputs, leaves, tensors[3:])
    end = now(leaves[0])
    return [*(o.detach() for o in outputs), *gradients], middle - start, end - middle


def engine(tensors: tuple[Tensor, ...], lengths: Tensor | None) -> float:
    """Seconds of both passes without autograd: the operators' kernels, called directly."""
    *given, grad_score, grad_match = tensors
    start = now(given[0])
    *_, state = torch.ops.lacray.soft_sw(*given, lengths, GAMMA, False)
    torch.ops.lacray.soft_sw_backward(grad_score, grad_match, *given, lengths, state, GAMMA, False, True)
    return now(given[0]) - start


def check(B: int, T: int, device: str, lengths: Tensor | None) -> float:
    """Largest error against the reference in float64, relative to the largest value of each result."""
    tensors = inputs(B, T, device)
    actual, _, _ = run(soft_sw, tensors, lengths)
    exact, _, _ = run(reference.soft_sw, tuple(t.double() for t in tensors), lengths)
    worst = 0.0
    for got, expected in zip(actual, exact, strict=True):
        finite = torch.isfinite(expected)
        if not torch.equal(got[~finite].double(), expected[~finite]):
            raise SystemExit(f"{B} x {T}: infinities differ from the reference's")
        worst = max(worst, float((got[finite] - expected[finite]).abs().max() / expected[finite].abs().max()))
    if worst > 1e-4:
        raise SystemExit(f"{B} x {T}: off by {worst:.1e} from the reference; not timed")
    return worst


def jax_peer(B: int, T: int) -> Callable[[], float] | None:
    """Score and its gradient by a scan over anti-diagonals, as SMURF's sw_affine does it."""
    try:
        jax: Any = importlib.import_module("jax")
        jnp: Any = importlib.import_module("jax.numpy")
    except ImportError:
        return None

    def score(x: Any) -> Any:
        N, M = x.shape
        never = -1e30
        row = jnp.arange(N)
        column = jnp.arange(N + M - 1)[:, None] - row
        inside = (column >= 0) & (column < M)
        diagonals = jnp.where(inside, x[row, column.clip(0, M - 1)], never)

        def lse(*terms: Any) -> Any:
            return GAMMA * jax.nn.logsumexp(jnp.stack(terms) / GAMMA, axis=0)

        def down(v: Any) -> Any:
            return jnp.concatenate([jnp.full((1,), never), v[:-1]])

        def step(state: Any, cells: Any) -> Any:
            s, on = cells
            (d2, x2, y2), (d1, x1, y1) = state
            d = s + lse(jnp.zeros_like(s), down(d2), down(x2), down(y2))
            right = lse(d1 - 1.0, x1 - 0.3)
            below = lse(down(d1) - 1.0, down(x1) - 1.0, down(y1) - 0.3)
            new = tuple(jnp.where(on, v, never) for v in (d, right, below))
            return ((d1, x1, y1), new), new[0]

        start = tuple(jnp.full((N,), never) for _ in range(3))
        _, match = jax.lax.scan(step, (start, start), (diagonals, inside))
        return GAMMA * jax.nn.logsumexp(match / GAMMA)

    f = jax.jit(jax.vmap(jax.value_and_grad(score)))
    x = jnp.asarray(inputs(B, T, "cpu")[0].numpy())

    ours, _ = soft_sw(inputs(B, T, "cpu")[0], 1.0, 0.3, gamma=GAMMA)
    theirs = torch.tensor(jax.device_get(f(x)[0]))
    if float((ours - theirs).abs().max() / ours.abs().max()) > 1e-4:
        raise SystemExit("the JAX peer computes something else")

    def once() -> float:
        start = time.perf_counter()
        jax.block_until_ready(f(x))
        return time.perf_counter() - start

    return once


def measure(B: int, T: int, device: str, threads: int, ragged: bool, with_peers: bool) -> dict[str, Any]:
    torch.set_num_threads(threads)
    lengths = None
    if ragged:
        g = torch.Generator().manual_seed(B)
        lengths = torch.randint(T // 2, T + 1, (B, 2), generator=g).to(device)
    cells = B * T * T if lengths is None else int(lengths.prod(1).sum())
    row: dict[str, Any] = {"B": B, "T": T, "threads": threads, "ragged": ragged, "cells": cells}
    row["error"] = check(min(B, 2), T, device, None if lengths is None else lengths[:2]) if T <= 512 else None
    tensors = inputs(B, T, device)
    passes = repeat(lambda: run(soft_sw, tensors, lengths)[1:])
    row["forward"], row["backward"] = quartiles([p[0] for p in passes]), quartiles([p[1] for p in passes])
    total = row["forward"]["min"] + row["backward"]["min"]
    row["ns_per_cell"], row["us_per_pair"] = total / cells * 1e9, total / B * 1e6
    row["engine_ns_per_cell"] = min(repeat(lambda: engine(tensors, lengths))) / cells * 1e9
    row["floor"] = floor(B * T * T, BYTES_PER_CELL, device)
    if with_peers and not ragged and B * T <= 4096:
        seconds = sum(run(reference.soft_sw, tensors, lengths)[1:])  # once: it takes seconds, and warming up is nothing
        row["reference"], row["times_faster_than_reference"] = seconds, seconds / total
    if with_peers and not ragged and (peer := jax_peer(B, T)) is not None:
        row["jax"] = min(repeat(peer, least=3))
        row["times_faster_than_jax"] = row["jax"] / total
    row["over_exp_log_floor"] = total / (row["floor"]["exp_log"] * cells / (B * T * T))
    return row


def show(row: dict[str, Any]) -> None:
    name = f"{row['B']} x {row['T']}{' ragged' if row['ragged'] else ''}"
    peers = "".join(f", {k.split('_')[-1]} {row[k]:.0f}x" for k in row if k.startswith("times_faster_than"))
    error = "unchecked" if row["error"] is None else f"error {row['error']:.0e}"
    print(
        f"{name:>15} {row['threads']} threads: forward {row['forward']['median'] * 1e6:9.1f} us, backward "
        f"{row['backward']['median'] * 1e6:9.1f} us, {row['ns_per_cell']:6.2f} ns a cell "
        f"(engine {row['engine_ns_per_cell']:.2f}), {error}{peers}, {row['over_exp_log_floor']:.2f} x floor",
        flush=True,
    )


def per_sample(B: int, T: int, device: str) -> dict[str, Any]:
    """Each pair's gradient of its score in similarity and in its own scalar gaps: by torch.func, and in one call."""
    similarity, gap_open, gap_extend, *_ = inputs(B, T, device)
    gaps = gap_open.flatten()[:B].clone(), gap_extend.flatten()[:B].clone()

    def score(x: Tensor, opening: Tensor, extending: Tensor) -> Tensor:
        return soft_sw(x[None], opening, extending, gamma=GAMMA)[0][0]

    transformed = torch.func.vmap(torch.func.grad(score, (0, 1, 2)))

    def by_hand(*given: Tensor) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in given]
        return torch.autograd.grad(soft_sw(*leaves, gamma=GAMMA)[0].sum(), leaves)

    for got, expected in zip(transformed(similarity, *gaps), by_hand(similarity, *gaps), strict=True):
        torch.testing.assert_close(got, expected)

    def both() -> tuple[float, float]:
        return (
            timed(lambda: transformed(similarity, *gaps), similarity),
            timed(lambda: by_hand(similarity, *gaps), similarity),
        )

    times = repeat(both)
    row: dict[str, Any] = {"B": B, "T": T, "threads": torch.get_num_threads()}
    row["vmap_of_grad"], row["one_call"] = quartiles([a for a, _ in times]), quartiles([b for _, b in times])
    row["ratio"] = row["vmap_of_grad"]["median"] / row["one_call"]["median"]
    return row


def long_pair() -> None:
    """One 8192 x 8192 pair, forward and backward of both outputs: the process's peak memory."""
    before = peak_gib()
    leaf = torch.randn(1, 8192, 8192).requires_grad_()
    start = time.perf_counter()
    score, match = soft_sw(leaf, 1.0, 0.3, gamma=GAMMA)
    # The gradient of (score + match^2 / 2).sum(), so that both are differentiated and match serves as its own gradient.
    torch.autograd.grad((score, match), leaf, (torch.ones_like(score), match.detach()))
    seconds = time.perf_counter() - start
    print(json.dumps({"shape": list(match.shape), "seconds": seconds, "before_gib": before, "peak_gib": peak_gib()}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="small sizes only, no long pair")
    parser.add_argument("--long-pair", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.long_pair:
        long_pair()
        return 0
    document: dict[str, Any] = {
        "benchmark": "soft_sw",
        "device": torch.cuda.get_device_name()
        if arguments.device == "cuda"
        else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "backend": backend_name(arguments.device),
        "gamma": GAMMA,
        "rows": [],
        "per_sample": [],
    }
    with_jax = arguments.device == "cpu" and jax_peer(1, 8) is not None
    if not with_jax:
        print("NO JAX PEER IN THIS RUN: pip install jax (extra [bench]) to have it beside.", file=sys.stderr)
    threads = sorted({1, torch.get_num_threads()}) if arguments.device == "cpu" else [1]
    for count in threads:
        for B, T in QUICK if arguments.quick else SIZES:
            for ragged in (False, True) if B > 1 else (False,):
                row = measure(B, T, arguments.device, count, ragged, with_peers=count == threads[-1])
                document["rows"].append(row)
                show(row)
    for B, T in [(8, 20), (64, 64), (8, 240)]:
        row = per_sample(B, T, arguments.device)
        document["per_sample"].append(row)
        print(
            f"{B:>5} x {T:<4} {row['threads']} threads, per-sample gradients: vmap of grad "
            f"{row['vmap_of_grad']['median'] * 1e6:.1f} us, one call {row['one_call']['median'] * 1e6:.1f} us, "
            f"ratio {row['ratio']:.2f}",
            flush=True,
        )
    if not arguments.quick and arguments.device == "cpu":
        done = subprocess.run([sys.executable, __file__, "--long-pair"], capture_output=True, text=True, check=True)
        document["long_pair"] = json.loads(done.stdout.splitlines()[-1])
        print(f"  1 x 8192: {document['long_pair']['seconds']:.1f} s, peak {document['long_pair']['peak_gib']:.2f} GiB")
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
