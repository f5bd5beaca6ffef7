"""The networks, their parameters and their data, made with NumPy alone: the same in every process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np

LEARNING_RATE = 1e-3  # of Adam, everywhere


@dataclass(frozen=True)
class Case:
    """A network and how it is trained."""

    widths: Sequence[int]
    """Input, hidden layers, output."""
    activations: Sequence[str]
    """After each hidden layer: "elu", "relu" or "" for none."""
    rates: Sequence[float] = ()
    """Dropout after the first hidden layers."""
    loss: str = "cross_entropy"
    """Or "mse"."""
    weight_decay: float = 0.0
    """L2, added to the gradient."""
    dtype: str = "float32"
    """Of the data and the parameters."""

    def layers(self) -> Iterator[tuple[int, int, str, float]]:
        """Yield each Dense layer's fan-in and fan-out, and the activation and dropout rate after it."""
        for (fan_in, fan_out), activation, rate in zip_longest(pairwise(self.widths), self.activations, self.rates):
            yield fan_in, fan_out, activation or "", rate or 0.0

    def without_dropout(self) -> Case:
        """Return the same network without randomness, as the checks need it."""
        return replace(self, rates=())


DEEP = Case(
    widths=(128, 120, 112, 96, 64, 48, 32, 24, 16, 10),
    activations=("elu", "", "elu", "elu", "elu", "elu", "elu", "elu"),
    rates=(0.30, 0.25, 0.20, 0.15, 0.10),
    weight_decay=0.02,
)
DEEP_RELU = replace(DEEP, activations=("relu",) * 8, rates=())  # what scikit-learn can do
WIDE = Case((784, 512, 512, 10), ("relu", "relu"))
TINY = Case((8, 16, 16, 1), ("relu", "relu"), loss="mse")
ESTIMATORS = ((100,), 200), ((256, 128), 200), ((64,) * 6, 64)  # hidden layers and batch, with relu


def estimator(hidden: Sequence[int], dtype: str) -> Case:
    """Make a classifier as scikit-learn's defaults do, but for the weights."""
    return Case((128, *hidden, 10), ("relu",) * len(hidden), weight_decay=1e-4, dtype=dtype)


def uniform(features: int, hidden: int, depth: int) -> Case:
    """Make a classifier of `depth` hidden layers of one width."""
    return Case((features, *(hidden,) * depth, 10), ("elu",) * depth)


def parameters(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw the weights, (fan-in, fan-out), Kaiming-uniform; the biases are zero."""
    generator = np.random.default_rng(0)
    return [
        (
            (generator.uniform(-1, 1, (fan_in, fan_out)) * (6 / fan_in) ** 0.5).astype(case.dtype),
            np.zeros(fan_out, case.dtype),
        )
        for fan_in, fan_out, _, _ in case.layers()
    ]


def data(case: Case, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw features of variance 1, and labels or targets that a linear map of them gives."""
    generator = np.random.default_rng(1)
    x = generator.random((rows, case.widths[0]), np.dtype(case.dtype).type)
    x -= 0.5  # in place: the peak of memory is to be the contender's
    x *= 12**0.5
    teacher = generator.normal(size=(case.widths[0], case.widths[-1])).astype(case.dtype)
    y = x @ teacher
    return (x, y) if case.loss == "mse" else (x, y.argmax(1))


def epochs(estimator: Any, case: Case, x: np.ndarray, y: np.ndarray, batch: int) -> Callable[[int], None]:
    """Make a function that trains scikit-learn's or fmlp's MLPClassifier, at equal settings, for k epochs."""
    hidden, activation = tuple(case.widths[1:-1]), case.activations[0]
    settings = {"alpha": case.weight_decay, "batch_size": batch, "n_iter_no_change": 10**9, "random_state": 0}

    def run(k: int) -> None:
        estimator(hidden, activation=activation, max_iter=k, **settings).fit(x, y)

    return run
