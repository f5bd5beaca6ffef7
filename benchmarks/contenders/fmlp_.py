"""fmlp, through its public functional pieces, `fit`, `predict` and the estimators."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import repeat
from typing import Any

import numpy as np

import fmlp
from benchmarks import cases
from fmlp import layers, losses, optim, random, tree

FIRST_PREDICTION = """
import sys
import numpy as np
import fmlp
from fmlp.layers import Dense, Elu, serial

net = serial(Dense(120), Elu(), Dense(112), Dense(96), Elu(), Dense(64), Elu(), Dense(48), Elu(), Dense(32), Elu(),
             Dense(24), Elu(), Dense(16), Elu(), Dense(10))
params = fmlp.load(sys.argv[1])
fmlp.predict(net, params, np.ones((1, 128), np.float32))
"""


class Network:
    """The case's network as `serial` of layers; with jit="as written", nothing is planned."""

    def __init__(self, case: cases.Case, threads: int, jit: str = "planned") -> None:
        self.case, self.mode = case, fmlp.disable_jit if jit == "as written" else nullcontext
        stack: list[Any] = []
        for _, fan_out, activation, rate in case.layers():
            stack.append(layers.Dense(fan_out))
            if activation:
                stack.append(getattr(layers, activation.capitalize())())
            if rate:
                stack.append(layers.Dropout(rate))
        self.net = layers.serial(*stack)
        _, like = self.net.init(random.key(0), (case.widths[0],))
        self.initial = {name: {"w": w, "b": b} for name, (w, b) in zip(like, cases.parameters(case), strict=True)}
        self.loss = getattr(losses, case.loss)
        self.optimizer = optim.adam(cases.LEARNING_RATE, weight_decay=case.weight_decay)
        self.objective = fmlp.objective(self.net.apply, self.loss)
        self.value_and_grad = fmlp.value_and_grad(self.objective)
        self.reset()

    def reset(self) -> None:
        """Go back to the first parameters and a new optimizer."""
        self.params = tree.map(np.copy, self.initial)  # the step takes over their memory
        self.state = self.optimizer.init(self.params)

    def parameters(self) -> list[np.ndarray]:
        """Return w and b of each layer, in order."""
        return _flat(self.params)

    def loss_and_grads(self, x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Work out the loss and the gradient of every w and b."""
        loss, grads = self.value_and_grad(self.params, x, y)
        return float(loss), _flat(grads)

    def step(self, x: np.ndarray, y: np.ndarray) -> Callable[[int], None]:
        """Make training steps as `fit` and a user's own loop do."""

        def run(k: int) -> None:
            batches = repeat((x, y), k)
            with self.mode():
                for reached in fmlp.descent(
                    self.objective, self.optimizer, self.params, self.state, batches, random.key(0), donate=True
                ):
                    self.params, self.state = reached.params, reached.state

        return run

    def plan(self, x: np.ndarray, y: np.ndarray) -> Callable[[int], None]:
        """Make plans of a step; each time the step itself runs once, too."""

        def run(k: int) -> None:
            for _ in range(k):
                source = fmlp.jit(self._step, donate=(0, 1)).plan(self.params, self.state, x, y, random.key(0))
            if not source.startswith("def plan("):
                raise RuntimeError(source)

        return run

    def fit(self, x: np.ndarray, y: np.ndarray, batch: int) -> Callable[[int], None]:
        """Train for epochs, with shuffling, bar and history."""

        def run(k: int) -> None:
            settings: dict[str, Any] = {"loss": self.loss, "optimizer": self.optimizer, "batch_size": batch}
            with self.mode():
                fmlp.fit(self.net, self.initial, (x, y), epochs=k, key=random.key(0), **settings)

        return run

    def estimator(self, x: np.ndarray, y: np.ndarray, batch: int) -> Callable[[int], None]:
        """Train fmlp's own MLPClassifier for epochs."""
        from fmlp.estimators import MLPClassifier  # needs scikit-learn

        return cases.epochs(MLPClassifier, self.case, x, y, batch)

    def predict(self, x: np.ndarray) -> Callable[[int], np.ndarray]:
        """Predict with `fmlp.predict`."""

        def run(k: int) -> np.ndarray:
            for _ in range(k):
                y = fmlp.predict(self.net, self.params, x)
            return y

        return run

    def apply(self, x: np.ndarray) -> Callable[[int], np.ndarray]:
        """Predict with the network's `apply`, planned, without cutting x into batches."""
        apply = fmlp.jit(self.net.apply)

        def run(k: int) -> np.ndarray:
            for _ in range(k):
                y = apply(self.params, x)
            return y

        return run

    def save(self, path: str) -> None:
        """Write what `FIRST_PREDICTION` reads."""
        fmlp.save(path, self.params)

    def _step(self, params: Any, state: Any, x: np.ndarray, y: np.ndarray, key: random.Key) -> Any:
        loss, grads = self.value_and_grad(params, x, y, key=key)
        updates, state = self.optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state, loss


def _flat(params: Any) -> list[np.ndarray]:
    return [layer[name] for layer in params.values() for name in ("w", "b")]
