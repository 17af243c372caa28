"""The support vector machine of phase classification: scikit-learn's `SVC(C=1)`, in a fraction of its time.

libsvm computes each value of the kernel by itself, and walks over them one at a time. Here a matrix product computes
them side by side, once for all shares of the labels, and `csrc/svm.cpp` walks over a vector of them. The kernel is in
float32, in which libsvm keeps it too, and the steps are libsvm's (but for shrinking): the machine is the same to
libsvm's own tolerance, and only a frame for which a decision is that close to 0 can get another phase.

Where nothing can be compiled, the table of the kernel were too large, or the walk comes to no end, `SVC` itself does
it.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.svm import SVC

from lacray.cache import cached
from lacray.evaluation.sequences import Array
from lacray.native import BuildError, built, find_compiler, key_of, run

C = 1.0
TOLERANCE = 1e-3
"""Of the multipliers' optimality, as libsvm has it."""
KERNEL_BYTES = 1 << 29
"""What the kernel may take, in float32 between the frames of a phase and between those of two, with the weights."""
LEAST_STEPS = 100_000
"""That a walk may take, or 100 a frame, before it is given up; one that ends takes one or two a frame."""
ALIKE = 4.0
"""How far apart the scales of machines may be that share distances: the rounding of these is scaled with them."""
LANES = 8
SOURCE = Path(__file__).resolve().parent / "csrc" / "svm.cpp"
# Without contraction, roundings are libsvm's on every machine.
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-Wno-psabi")
# Rows and columns of a kernel that are computed at a time: they are still in the cache for the exponential.
TILE = 256


def svm_predictions(embeddings: Array, labels: Array, frames: Array, sizes: Seq[int]) -> list[Array]:
    """What `SVC(C=1).fit(embeddings[:n], labels[:n]).predict(frames)` says, for each n of `sizes`.

    All of them share the distances between frames, which take most of the time.

    Args:
        embeddings: (N, E) float64 of the training frames.
        labels: (N,) int; those of the first n are of two kinds at least.
        frames: (M, E) float64.
        sizes: how many training frames each machine learns from, rising to N.

    Returns:
        (M,) int64 for each size.
    """
    native = _native()
    classes = np.unique(labels)
    counts = [[int((labels[:size] == label).sum()) for label in classes] for size in sizes]
    gammas = [_gamma(embeddings[:size]) for size in sizes]
    voted: list[Array | None] = [None] * len(sizes)
    is_alike = all(gammas[-1] / ALIKE <= gamma <= gammas[-1] * ALIKE for gamma in gammas)
    if native is not None and is_alike and sum(map(_bytes, counts)) <= KERNEL_BYTES:
        by_class = [embeddings[labels == label] for label in classes]
        voted = _voted(native, by_class, counts, gammas, frames)
    elif native is not None and len(sizes) > 1:
        return [svm_predictions(embeddings[:size], labels[:size], frames, [size])[0] for size in sizes]
    return [
        SVC(C=C, tol=TOLERANCE).fit(embeddings[:size], labels[:size]).predict(frames) if own is None else classes[own]
        for size, own in zip(sizes, voted, strict=True)
    ]


def _gamma(embeddings: Array) -> float:
    """scikit-learn's gamma="scale"."""
    variance = float(embeddings.var())
    return 1.0 / (embeddings.shape[1] * variance) if variance else 1.0


def _bytes(counts: Seq[int]) -> int:
    """What a machine of so many frames of each class takes."""
    of_phases = sum(count * _padded(count) for count in counts)
    between = max(_cells(a, b) for a, b in itertools.combinations(counts, 2))
    # Of many phases, what each frame weighs in each of the pairs is no less.
    weights = sum(counts) * len(counts) * (len(counts) - 1) // 2
    return 4 * (of_phases + 2 * between) + 8 * weights


def _cells(a: int, b: int) -> int:
    """Of a kernel between so many frames and so many others, either way."""
    return max(a * _padded(b), b * _padded(a))


def _padded(count: int) -> int:
    return -(-count // LANES) * LANES


def _voted(
    native: Any, classes: list[Array], counts: Seq[Seq[int]], gammas: Seq[float], frames: Array
) -> list[Array | None]:
    """The class of each frame by the votes of the pairs, of equals the first: (M,) int64 for each machine.

    Args:
        classes: (n, E) the frames of each class.
        counts: how many of these each machine learns from.
        gammas: of each machine; the last is the one that learns from all.

    Returns:
        None for a machine that does not converge.
    """
    distances = _Distances(np.concatenate(classes).mean(axis=0), gammas[-1])
    machines = [_Machine(native, own, gamma / gammas[-1]) for own, gamma in zip(counts, gammas, strict=True)]
    pairs = list(itertools.combinations(range(len(classes)), 2))
    placed = [distances.placed(own) for own in classes]
    for phase, (rows, columns) in enumerate(placed):
        for top, left, values in distances.tiles(rows, columns, half=True):
            for machine in machines:
                machine.fill(top, left, values, machine.of_phases[phase], machine.of_phases[phase])
        for machine in machines:
            # As libsvm computes it; by a product it is this but for the last digits.
            np.fill_diagonal(machine.of_phases[phase], 1.0)
    for pair, (a, b) in enumerate(pairs):
        for top, left, values in distances.tiles(placed[a][0], placed[b][1]):
            for machine in machines:
                machine.fill(top, left, values, *machine.between(a, b))
        for machine in machines:
            machine.learn(pair, a, b)

    rows, _ = distances.placed(frames)
    decisions = [np.tile(-machine.offsets, (len(rows), 1)) for machine in machines]
    for phase, (_, columns) in enumerate(placed):
        # Frames that weigh nothing in any machine are left out.
        weighs = np.zeros(len(classes[phase]), bool)
        for machine in machines:
            weighs[: machine.counts[phase]] |= machine.weights[phase].any(axis=1)
        involved = [pair for pair, both in enumerate(pairs) if phase in both]
        weights = [
            machine.weights[phase][weighs[: machine.counts[phase]]][:, involved].astype(np.float32)
            for machine in machines
        ]
        for top, left, values in distances.tiles(rows, np.ascontiguousarray(columns[:, weighs])):
            for machine, decision, weight in zip(machines, decisions, weights, strict=True):
                own = weight[left : left + TILE]
                kernel = machine.kernel(values[:, : len(own)], distances.scratch[1, : len(values), : len(own)])
                # Sums in float64, but for those of a tile.
                decision[top : top + TILE, involved] += kernel @ own
    return [machine.vote(decision) for machine, decision in zip(machines, decisions, strict=True)]


class _Distances:
    """-gamma d^2 between frames."""

    def __init__(self, mean: Array, gamma: float) -> None:
        self.mean, self.scale = mean, np.sqrt(2 * gamma)
        self.scratch = np.empty((2, TILE, TILE), np.float32)

    def placed(self, frames: Array) -> tuple[Array, Array]:
        """Frames (n, E) -> rows (n, E + 2) and columns (E + 2, n) float32, whose products are -gamma d^2."""
        # About the mean, so that little is lost where -d^2 is a difference; in float64, so that float32 rounds once.
        scaled = (frames - self.mean) * self.scale
        squares = -0.5 * np.einsum("ij,ij->i", scaled, scaled)[:, None]
        ones = np.ones_like(squares)
        rows, columns = np.hstack([scaled, squares, ones]), np.vstack([scaled.T, ones.T, squares.T])
        return rows.astype(np.float32), columns.astype(np.float32)

    def tiles(self, rows: Array, columns: Array, *, half: bool = False) -> Iterator[tuple[int, int, Array]]:
        """Top, left and values of each tile of rows times columns; the values last until the next is asked for.

        Args:
            half: without those below the diagonal, whose transposes lie above it.
        """
        for top in range(0, len(rows), TILE):
            for left in range(top if half else 0, columns.shape[1], TILE):
                own, across = rows[top : top + TILE], columns[:, left : left + TILE]
                yield top, left, np.matmul(own, across, out=self.scratch[0, : len(own), : across.shape[1]])


class _Machine:
    """A machine of the first so many frames of each class: one for each pair of classes."""

    def __init__(self, native: Any, counts: Seq[int], scale: float) -> None:
        self.native, self.counts, self.scale = native, counts, np.float32(scale)
        self.converges = True
        self.pairs = list(itertools.combinations(range(len(counts)), 2))
        self.weights = [np.zeros((count, len(self.pairs))) for count in counts]
        self.offsets = np.zeros(len(self.pairs))
        self.of_phases = [np.zeros((count, _padded(count)), np.float32) for count in counts]
        # Memory that is had once costs the time of its pages once; all that it holds is finite.
        most = max(_cells(counts[a], counts[b]) for a, b in self.pairs)
        self.memory = np.zeros(most, np.float32), np.zeros(most, np.float32)

    def between(self, a: int, b: int) -> tuple[Array, Array]:
        """Places for the kernel of class a with class b, and of b with a."""
        first, second = self.counts[a], self.counts[b]
        there, back = self.memory
        return (
            there[: first * _padded(second)].reshape(first, _padded(second)),
            back[: second * _padded(first)].reshape(second, _padded(first)),
        )

    def kernel(self, values: Array, out: Array) -> Array:
        """exp of distances, as this machine scales them."""
        if self.scale != 1:
            values = np.multiply(values, self.scale, out=out)
        kernel: Array = np.exp(values, out=out)
        return kernel

    def fill(self, top: int, left: int, values: Array, there: Array, back: Array) -> None:
        """A tile of a kernel into its table, and into that of its transpose, which on a diagonal is the same."""
        out = there[top : top + len(values), left : min(left + values.shape[1], len(back))]
        if out.size:
            self.kernel(values[: out.shape[0], : out.shape[1]], out)
            into = back[left : left + out.shape[1], top : top + len(out)]
            self.native.lacray_transpose(*out.shape, out.ctypes.data, there.shape[1], into.ctypes.data, back.shape[1])

    def learn(self, pair: int, a: int, b: int) -> None:
        """The multipliers of a pair, from the kernels that are in place."""
        if not (self.counts[a] and self.counts[b]):
            return
        try:
            alpha, slope = _solve(self.native, [self.of_phases[a], *self.between(a, b), self.of_phases[b]])
        except ArithmeticError:
            # Of frames that are all but equal a kernel by products says noise, over which a walk may go in circles.
            self.converges = False
            return
        self.weights[a][:, pair], self.weights[b][:, pair] = alpha[0], -alpha[1]
        self.offsets[pair] = _offset(alpha, slope)

    def vote(self, decisions: Array) -> Array | None:
        """The class of each frame from the decisions (M, pairs) of this machine; None where it does not converge."""
        if not self.converges:
            return None
        votes = np.zeros((len(decisions), len(self.counts)), np.int64)
        for pair, (a, b) in enumerate(self.pairs):
            if self.counts[a] and self.counts[b]:
                votes[:, a] += decisions[:, pair] > 0
                votes[:, b] += decisions[:, pair] <= 0
        chosen: Array = votes.argmax(axis=1)
        return chosen


def _solve(native: Any, kernels: list[Array], *, lanes: int | None = None) -> tuple[list[Array], list[Array]]:
    """Multipliers of the frames of two classes, and y - sum_k y_k alpha_k K of each; a list of two.

    Args:
        kernels: of the first class, of the first with the second, of the second with the first, of the second.
        lanes: numbers that are taken side by side, 2, 4 or 8; the processor's. The results are the same bits.

    Raises:
        ArithmeticError: no end of the walk in very many steps.
    """
    counts = [len(kernels[0]), len(kernels[3])]
    widths = [_padded(count) for count in counts]
    alpha, slope, scratch = (np.empty(size * sum(widths)) for size in (1, 1, 3))
    iterations = native.lacray_svm(
        lanes or native.lacray_lanes(),
        (ctypes.c_int64 * 2)(*counts),
        (ctypes.c_int64 * 2)(*widths),
        (ctypes.c_void_p * 4)(*(kernel.ctypes.data for kernel in kernels)),
        C,
        TOLERANCE,
        max(LEAST_STEPS, 100 * sum(counts)),
        *(values.ctypes.data for values in (alpha, slope, scratch)),
    )
    if iterations < 0:
        raise ArithmeticError(f"the support vector machine of {sum(counts)} frames does not converge")
    return tuple([values[: counts[0]], values[widths[0] :][: counts[1]]] for values in (alpha, slope))  # type: ignore[return-value]


def _offset(alpha: list[Array], slope: list[Array]) -> float:
    """What a decision is above: the mean over free multipliers, else the middle of what the others allow."""
    free = np.concatenate([-own[(a > 0) & (a < C)] for own, a in zip(slope, alpha, strict=True)])
    if len(free):
        return float(free.mean())
    first, second = -slope[0], -slope[1]
    upper = [first[alpha[0] <= 0], second[alpha[1] >= C]]
    lower = [first[alpha[0] >= C], second[alpha[1] <= 0]]
    return float(np.concatenate(upper).min() + np.concatenate(lower).max()) / 2


@functools.cache
def _native() -> Any:
    """The compiled walk, built if need be; None where it cannot be."""
    path = cached(f"svm/{key_of([SOURCE], FLAGS)}/lacray_svm.so")

    def build(scratch: Path) -> Path:
        run([find_compiler(), *FLAGS, str(SOURCE), "-o", str(scratch / path.name)])
        return scratch / path.name

    try:
        library = ctypes.CDLL(str(built(path, build)))
    except (BuildError, OSError):
        return None
    pointer, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    library.lacray_svm.restype = count
    library.lacray_lanes.restype = count
    library.lacray_svm.argtypes = [count, pointer, pointer, pointer, number, number, count, pointer, pointer, pointer]
    library.lacray_transpose.restype = None
    library.lacray_transpose.argtypes = [count, count, pointer, count, pointer, count]
    return library
