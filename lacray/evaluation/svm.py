"""The support vector machine of phase classification: scikit-learn's `SVC(C=1)`, in a fraction of its time.

libsvm computes each value of the kernel by itself, and walks over them one at a time. Here a matrix product computes
them side by side, and `csrc/svm.cpp` walks over eight. The kernel is in float32, in which libsvm keeps it too, and the
steps are libsvm's (but for shrinking): the machine is the same to libsvm's own tolerance, and only a frame for which a
decision is that close to 0 can get another phase.

Where nothing can be compiled, the table of the kernel were too large, or the walk comes to no end, `SVC` itself does
it.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from contextlib import suppress
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
LANES = 8
SOURCE = Path(__file__).resolve().parent / "csrc" / "svm.cpp"
# Without contraction, roundings are libsvm's on every machine.
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-Wno-psabi")
# Rows of a kernel that are computed at a time: they are still in the cache for the exponential.
BLOCK = 256


def svm_predictions(embeddings: Array, labels: Array, frames: Array) -> Array:
    """What `SVC(C=1).fit(embeddings, labels).predict(frames)` says.

    Args:
        embeddings: (N, E) float64 of the training frames.
        labels: (N,) int, of two kinds at least.
        frames: (M, E) float64.

    Returns:
        (M,) int64.
    """
    native = _native()
    classes = np.unique(labels)
    counts = [int((labels == label).sum()) for label in classes]
    if native is not None and _bytes(counts) <= KERNEL_BYTES:
        by_class = [embeddings[labels == label] for label in classes]
        # Of frames that are all but equal a kernel by products says noise, over which a walk may go in circles.
        with suppress(ArithmeticError):
            machine = _Machine(native, by_class, embeddings.mean(axis=0), embeddings.var())
            return classes[machine.vote(frames)]
    predictions: Array = SVC(C=C, tol=TOLERANCE).fit(embeddings, labels).predict(frames)
    return predictions


def _bytes(counts: list[int]) -> int:
    of_phases = sum(count * _padded(count) for count in counts)
    between = max(_cells(a, b) for a, b in itertools.combinations(counts, 2))
    # Of many phases, what each frame weighs in each of the pairs is no less.
    weights = sum(counts) * len(counts) * (len(counts) - 1) // 2
    return 4 * (of_phases + 2 * between) + 8 * weights


def _cells(a: int, b: int) -> int:
    """Of a kernel between so many frames and so many others, either way."""
    return max(a * _padded(b), b * _padded(a))


def _table(rows: int, columns: int, memory: Array) -> Array:
    """A table (rows, columns and padding) in a piece of memory; all that it holds is finite."""
    return memory[: rows * _padded(columns)].reshape(rows, _padded(columns))


def _padded(count: int) -> int:
    return -(-count // LANES) * LANES


class _Machine:
    """A machine for each pair of classes, and their votes."""

    def __init__(self, native: Any, classes: list[Array], mean: Array, variance: float) -> None:
        self.native, self.mean = native, mean
        # scikit-learn's gamma="scale".
        self.gamma = 1.0 / (len(mean) * variance) if variance else 1.0
        # The training frames, and what a matrix product takes to -gamma d^2 with them.
        placed = [self._placed(own) for own in classes]
        of_phases = [self._kernel(*placed[a], same=True) for a in range(len(classes))]
        self.pairs = list(itertools.combinations(range(len(classes)), 2))
        self.weights = [np.zeros((len(own), len(self.pairs))) for own in classes]
        self.offsets = np.empty(len(self.pairs))
        # Memory that is had once costs the time of its pages once.
        most = max(_cells(len(classes[a]), len(classes[b])) for a, b in self.pairs)
        there, here = np.zeros(most, np.float32), np.zeros(most, np.float32)
        for pair, (a, b) in enumerate(self.pairs):
            between = self._kernel(placed[a][0], placed[b][1], memory=there)
            back = _table(len(classes[b]), len(classes[a]), here)
            native.lacray_transpose(*between.shape, between.ctypes.data, *back.shape, back.ctypes.data)
            alpha, slope = _solve(native, [of_phases[a], between, back, of_phases[b]])
            self.weights[a][:, pair], self.weights[b][:, pair] = alpha[0], -alpha[1]
            self.offsets[pair] = _offset(alpha, slope)
        is_support = [own.any(axis=1) for own in self.weights]
        self.support = np.concatenate([own[kept] for (_, own), kept in zip(placed, is_support, strict=True)])
        self.weights = [own[kept] for own, kept in zip(self.weights, is_support, strict=True)]

    def _placed(self, frames: Array) -> tuple[Array, Array]:
        """Frames (n, E) -> two tables (n, E + 2) float32 such that one's rows times another's are -gamma d^2."""
        # About the mean, so that little is lost where -d^2 is a difference; in float64, so that float32 rounds once.
        scaled = (frames - self.mean) * np.sqrt(2 * self.gamma)
        squares = -0.5 * np.einsum("ij,ij->i", scaled, scaled)[:, None]
        ones = np.ones_like(squares)
        return tuple(np.hstack([scaled, *two]).astype(np.float32) for two in ((squares, ones), (ones, squares)))  # type: ignore[return-value]

    def _kernel(self, one: Array, other: Array, *, same: bool = False, memory: Array | None = None) -> Array:
        """exp(-gamma d^2) of all frames of the one with all of the other, (n, m and padding) float32."""
        if memory is None:
            memory = np.zeros(len(one) * _padded(len(other)), np.float32)
        table = _table(len(one), len(other), memory)
        for start in range(0, len(table), BLOCK):
            values = table[start : start + BLOCK, : len(other)]
            np.matmul(one[start : start + BLOCK], other.T, out=values)
            np.exp(values, out=values)
        if same:
            # As libsvm computes it; by a product it is this but for the last digits.
            np.fill_diagonal(table, 1.0)
        return table

    def vote(self, frames: Array) -> Array:
        """The class of each frame by the votes of the pairs, of equals the first."""
        weights = np.concatenate(self.weights)
        votes = np.zeros((len(frames), len(self.weights)), np.int64)
        for start in range(0, len(frames), BLOCK):
            rows = slice(start, start + BLOCK)
            values = self._placed(frames[rows])[0] @ self.support.T
            decisions = np.exp(values, out=values) @ weights - self.offsets
            for pair, (a, b) in enumerate(self.pairs):
                votes[rows, a] += decisions[:, pair] > 0
                votes[rows, b] += decisions[:, pair] <= 0
        return votes.argmax(axis=1)


def _solve(native: Any, kernels: list[Array]) -> tuple[list[Array], list[Array]]:
    """Multipliers of the frames of two classes, and y - sum_k y_k alpha_k K of each; a list of two.

    Raises:
        ArithmeticError: no end of the walk in very many steps.
    """
    counts = [len(kernels[0]), len(kernels[3])]
    widths = [_padded(count) for count in counts]
    alpha, slope, scratch = (np.empty(size * sum(widths)) for size in (1, 1, 3))
    iterations = native.lacray_svm(
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
    library.lacray_svm.argtypes = [pointer, pointer, pointer, number, number, count, pointer, pointer, pointer]
    library.lacray_transpose.restype = None
    library.lacray_transpose.argtypes = [count, count, pointer, count, count, pointer]
    return library
