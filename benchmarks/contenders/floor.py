"""The GEMM floor: the matrix products of a step, and nothing else, into preallocated arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.cases import Case, parameters

Product = tuple[np.ndarray, np.ndarray, np.ndarray]


class Network:
    """Products of the right shapes; the numbers do not matter."""

    def __init__(self, case: Case, threads: int) -> None:
        self.weights = [w for w, _ in parameters(case)]

    def step(self, x: np.ndarray, y: np.ndarray) -> Callable[[int], None]:
        """Forward, weight gradients, and input gradients of all layers but the first."""
        forward, backward = self._forward(x), []
        for i, (a, w, z) in enumerate(forward):
            backward.append((a.T, z, np.empty_like(w)))
            if i:
                backward.append((z, w.T, np.empty_like(a)))
        return _repeat(forward + backward[::-1])

    def predict(self, x: np.ndarray) -> Callable[[int], None]:
        """Forward."""
        return _repeat(self._forward(x))

    def _forward(self, x: np.ndarray) -> list[Product]:
        products = []
        for w in self.weights:
            products.append((x, w, np.empty((len(x), w.shape[1]), np.float32)))
            x = np.random.default_rng(0).normal(size=products[-1][2].shape).astype(np.float32)
        return products


def _repeat(products: list[Product]) -> Callable[[int], None]:
    for _, _, out in products:
        out[:] = 0.5

    def run(k: int) -> None:
        for _ in range(k):
            for a, b, out in products:
                np.matmul(a, b, out=out)

    return run
