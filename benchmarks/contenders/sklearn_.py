"""scikit-learn's MLPClassifier, whose steps only `fit` can make."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from benchmarks import cases

warnings.simplefilter("ignore", ConvergenceWarning)


class Network:
    """The case's network: one activation for all hidden layers, no dropout."""

    def __init__(self, case: cases.Case, threads: int) -> None:
        if case.rates or len(set(case.activations)) > 1 or case.loss != "cross_entropy":
            raise ValueError("scikit-learn has no such network")
        self.case, self.updated = case, cases.parameters(case)

    def parameters(self) -> list[np.ndarray]:
        """Return w and b of each layer, in order."""
        return [a for layer in self.updated for a in layer]

    def loss_and_grads(self, x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Read the gradients off a step of plain gradient descent with learning rate 1."""
        model = self._from_parameters(x, y, solver="sgd", learning_rate_init=1.0, momentum=0.0)
        model.fit(x, y)
        before = cases.parameters(self.case)
        after = zip(model.coefs_, model.intercepts_, strict=True)
        return model.loss_, [
            p - q for pair, new in zip(before, after, strict=True) for p, q in zip(pair, new, strict=True)
        ]

    def step(self, x: np.ndarray, y: np.ndarray) -> Callable[[int], None]:
        """Make steps on one batch, from the first parameters: for the check only."""
        model = self._from_parameters(x, y, alpha=self.case.weight_decay * len(x))

        def run(k: int) -> None:
            model.set_params(max_iter=k).fit(x, y)
            self.updated = list(zip(model.coefs_, model.intercepts_, strict=True))

        return run

    def fit(self, x: np.ndarray, y: np.ndarray, batch: int) -> Callable[[int], None]:
        """Train for epochs."""

        def run(k: int) -> None:
            # scikit-learn divides alpha by the rows of the batch, and decays the weights but not the biases.
            self._model(batch_size=batch, max_iter=k, alpha=self.case.weight_decay * batch).fit(x, y)

        return run

    def estimator(self, x: np.ndarray, y: np.ndarray, batch: int) -> Callable[[int], None]:
        """Train for epochs with settings that fmlp's estimator has, too."""
        return cases.epochs(MLPClassifier, self.case, x, y, batch)

    def _model(self, **settings: Any) -> MLPClassifier:
        defaults = {
            "hidden_layer_sizes": tuple(self.case.widths[1:-1]),
            "activation": self.case.activations[0],
            "learning_rate_init": cases.LEARNING_RATE,
            "epsilon": 1e-8 * (1 - 0.999) ** 0.5,  # it stands before the bias correction; the others have it after
            "tol": 0,
            "n_iter_no_change": 10**9,
            "random_state": 0,
        }
        return MLPClassifier(**defaults | settings)

    def _from_parameters(self, x: np.ndarray, y: np.ndarray, **settings: Any) -> MLPClassifier:
        """Make a model of which the next `fit` starts from the case's parameters, with a new optimizer."""
        model = self._model(**{"alpha": 0.0, "batch_size": len(x), "max_iter": 1, "warm_start": True} | settings)
        model.fit(x, y)
        weights, biases = zip(*cases.parameters(self.case), strict=True)
        model.coefs_, model.intercepts_ = list(weights), list(biases)
        return model
