"""Statistics of a batch, and the two objects that `train` may be besides a bool: `Calibration` and `Shard`.

Both are true. Only BatchNorm and Dropout use them, because their results depend on the whole batch and not on each row
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fmlp import random
from fmlp.random import Key
from fmlp.recording import unplanned
from fmlp.tree import Array, Tree

__all__ = ["Calibration", "Shard", "mean_of", "of_batch", "over_batch", "pooled", "standardized", "sum_of_rows"]

BLOCK = 1024
"""The number of rows in a block. Sums are added up by blocks; in a `Shard`, each block's mask has its own stream."""

TINY = 1e-37
"""The smallest eps, still above 0 in float32, so that a variance of 0 does not give 0 / 0."""


class Shard:
    """The `train` that `fmlp.distributed` passes: true, and the rows are one rank's part of a batch.

    The parts are in the order of the ranks of `comm`. BatchNorm normalizes with the moments of the whole batch, and
    Dropout draws the rows of the whole batch's mask that belong to this part.
    """

    def __init__(self, comm: Any, start: int = 0) -> None:
        self.comm, self.start = comm, start

    def gather(self, values: Array) -> Array:
        """Stack the arrays of all ranks."""
        unplanned("exchanges numbers with other processes, which may replay unequally often")
        stacked = np.empty((self.comm.size, *values.shape), values.dtype)
        self.comm.Allgather(values, stacked)
        return stacked

    def standardized(self, x: Array, eps: float) -> tuple[Array, Array, Array, Array, int]:
        """Return this part's z, and r, mean, var and the number of rows of the whole batch, as `of_batch` does."""
        width = x.shape[1]
        own = np.zeros(2 * width + 1)
        if len(x):
            z, (r_own,), own[:width], own[width:-1] = standardized(x, 0, eps)
        else:
            z, r_own = x, np.ones(width)
        own[-1] = len(x)
        stacked = self.gather(own)
        n = stacked[:, -1]
        if n.sum() < 2:
            raise ValueError(f"x: a batch's statistics need at least 2 rows, got {n.sum():.0f} on all ranks")
        mean, var = pooled(stacked[:, :width], stacked[:, width:-1], n)
        r = 1 / np.sqrt(var + eps)
        z = z * (r / r_own).astype(x.dtype) + ((own[:width] - mean) * r).astype(x.dtype)
        return z, r.astype(x.dtype), mean.astype(x.dtype), var.astype(x.dtype), int(n.sum())

    def bernoulli(self, key: Key, p: float, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Draw this part's rows of the whole batch's mask, in which each block of 1,024 rows has its own stream."""
        first, last = self.start // BLOCK, (self.start + shape[0] - 1) // BLOCK
        stop = self.start + shape[0] - last * BLOCK  # in the last block
        blocks = [
            random.bernoulli(random.fold_in(key, i) if i else key, p, (stop if i == last else BLOCK, *shape[1:]))
            for i in range(first, last + 1)
        ]
        return np.concatenate([*blocks, np.empty((0, *shape[1:]), np.bool_)])[self.start - first * BLOCK :]


class Calibration:
    """The `train` that `fmlp.calibrate` passes: true, but it turns dropout off and collects BatchNorm's moments."""

    def __init__(self, shard: Shard | None = None) -> None:
        self.moments: list[tuple[Tree, Array, Array, int]] = []
        self.shard = shard

    def record(self, params: Tree, mean: Array, var: Array, rows: int) -> None:
        """Note the mean, variance and number of rows of one batch for the layer that holds `params`."""
        self.moments.append((params, mean, var, rows))


def of_batch(x: Array, eps: float, train: Any) -> tuple[Array, Array, Array, Array, int]:
    """Return z, r, mean and var as `standardized` does, and the number of rows, all for the whole batch.

    `x` and z have shape (rows, n); r, mean and var have shape (n,). Raises ValueError for fewer than two rows.
    """
    if shard := _shard(train):
        return shard.standardized(x, eps)
    if len(x) < 2:
        raise ValueError(f"x: a batch's statistics need at least 2 rows, got shape {x.shape}")
    z, (r,), (mean,), (var,) = standardized(x, 0, eps)
    return z, r, mean, var, len(x)


def over_batch(train: Any, *sums: Array) -> Any:
    """Add up sums, all of one shape, over the parts of a batch."""
    shard = _shard(train)
    return shard.gather(np.stack(sums)).sum(0) if shard else sums


def _shard(train: Any) -> Shard | None:
    return train if isinstance(train, Shard) else getattr(train, "shard", None)


def pooled(means: Array, variances: Array, rows: Array) -> tuple[Array, Array]:
    """Return the mean and variance of all rows, given the means, variances and row counts of parts."""
    means, variances, rows = (np.asarray(a, np.float64) for a in (means, variances, rows))
    base = means[rows.argmax()]
    mean = base + rows @ (means - base) / rows.sum()  # exact if all means are equal
    with np.errstate(over="ignore"):
        return mean, rows @ (variances + (means - mean) ** 2) / rows.sum()


def standardized(x: Array, axis: Literal[0, -1], eps: Any) -> tuple[Array, Array, Array, Array]:
    """Return ``z = (x - mean) r``, ``r = 1 / √(var + eps)``, mean and var along `axis`, which is kept."""
    try:
        return _in_range(x, axis, eps)
    except FloatingPointError:  # the squares overflow: z is the same for x / s
        s = np.maximum(np.abs(x).max(axis, keepdims=True), 1)
        z, r, mean, var = standardized(x / s, axis, np.maximum(eps / s / s, TINY))
        with np.errstate(over="ignore"):
            return z, r / s, mean * s, np.minimum(var * s * s, np.finfo(x.dtype).max)


@np.errstate(over="raise")
def _in_range(x: Array, axis: Literal[0, -1], eps: Any) -> tuple[Array, Array, Array, Array]:
    first = x[:1] if axis == 0 else x[..., :1]
    z = x - first  # a constant column becomes exactly 0
    shift = mean_of(z, axis)
    z = z - shift
    var = mean_of(np.square(z), axis)
    r = 1 / np.sqrt(var + eps)
    return z * r, r, first + shift, var


def rms_normalized(x: Array, eps: float) -> tuple[Array, Array]:
    """Return ``z = x r`` and ``r = 1 / √(mean x² + eps)`` along the last axis, which is kept."""
    try:
        with np.errstate(over="raise"):
            r = 1 / np.sqrt(mean_of(np.square(x), -1) + eps)
            return x * r, r
    except FloatingPointError:  # the squares overflow: z is the same for x / s
        s = np.maximum(np.abs(x).max(-1, keepdims=True), 1)
        z, r = rms_normalized(x / s, np.maximum(eps / s / s, TINY))
        return z, r / s


def mean_of(x: Array, axis: Literal[0, -1]) -> Array:
    """Return ``x.mean(axis, keepdims=True)``, several times faster on small arrays."""
    mean: Array = sum_of_rows(x)[None] if axis == 0 else np.add.reduce(x, axis, keepdims=True)
    mean /= x.shape[axis]
    return mean


def sum_of_rows(x: Array, add: Callable[[Array], Array] = lambda x: np.add.reduce(x, -2)) -> Array:
    """Return ``x.sum(0)`` of (rows, n), added up in blocks, so that the rounding error does not grow with the rows.

    `add` sums over the second-to-last axis.
    """
    while len(x) > BLOCK:
        whole = len(x) - len(x) % BLOCK
        x = np.concatenate([add(x[:whole].reshape(-1, BLOCK, x.shape[1])), x[whole:]])
    return add(x)


def times_ones(x: Array) -> Array:
    """Sum by a product with ones, which is several times faster than adding."""
    ones = np.ones(x.shape[-2], x.dtype)
    total: Array = np.dot(ones, x) if x.ndim == 2 else ones @ x
    return total
