"""JAX with optax: one jitted step, params and optimizer state donated, data on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import cases

FIRST_PREDICTION = """
import sys
import jax
import numpy as np

@jax.jit
def apply(params, x):
    for i, (w, b) in enumerate(params):
        x = x @ w + b
        if i not in (1, 8):
            x = jax.nn.elu(x)
    return x

arrays = np.load(sys.argv[1])
params = [(arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(9)]
np.asarray(apply(params, np.ones((1, 128), np.float32)))
"""


class Network:
    """The case's network as a function of a list of (w, b), in the manner of stax."""

    def __init__(self, case: cases.Case, threads: int, prng: str = "unsafe_rbg") -> None:
        self.case = case
        self.key = jax.random.key(0, impl=prng)
        self.optimizer = optax.chain(optax.add_decayed_weights(case.weight_decay), optax.adam(cases.LEARNING_RATE))
        self.train = jax.jit(self._train, donate_argnums=0)
        self.reset()

    def reset(self) -> None:
        """Go back to the first parameters and a new optimizer."""
        params = jax.tree.map(jnp.array, cases.parameters(self.case))
        self.carry = jax.block_until_ready((params, self.optimizer.init(params), jnp.int32(0)))

    def parameters(self) -> list[np.ndarray]:
        """Return w and b of each layer, in order."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self.carry[0])]

    def loss_and_grads(self, x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Work out the loss and the gradient of every w and b."""
        loss, grads = jax.jit(jax.value_and_grad(self._loss))(self.carry[0], x, y, self.key)
        return float(loss), [np.asarray(leaf) for leaf in jax.tree.leaves(grads)]

    def step(self, x: np.ndarray, y: np.ndarray) -> Callable[[int], None]:
        """Make training steps on one batch."""
        x, y = jax.device_put((x, y))

        def run(k: int) -> None:
            carry = self.carry
            for _ in range(k):
                carry, _ = self.train(carry, x, y)
            self.carry = jax.block_until_ready(carry)

        return run

    def plan(self, x: np.ndarray, y: np.ndarray) -> Callable[[int], None]:
        """Trace and compile a step."""

        def run(k: int) -> None:
            for _ in range(k):
                jax.clear_caches()
                self.train.lower(self.carry, x, y).compile()

        return run

    def fit(self, x: np.ndarray, y: np.ndarray, batch: int) -> Callable[[int], None]:
        """Train for epochs, with shuffling and a history of the loss; an epoch is one scan, faster than a loop."""
        x, y = jax.device_put((x, y))
        generator = np.random.default_rng(0)

        def epoch(carry: Any, x: jax.Array, y: jax.Array, order: jax.Array) -> Any:
            carry, losses = jax.lax.scan(lambda c, rows: self._train(c, x[rows], y[rows]), carry, order)
            return carry, losses.mean()

        shuffled = jax.ShapeDtypeStruct((len(x) // batch, batch), np.int32)
        compiled = jax.jit(epoch, donate_argnums=0).lower(self.carry, x, y, shuffled).compile()

        def run(k: int) -> None:
            history = []
            for _ in range(k):
                order = generator.permutation(len(x)).astype(np.int32)[: shuffled.size]
                self.carry, loss = compiled(self.carry, x, y, order.reshape(shuffled.shape))
                history.append(float(loss))

        return run

    def predict(self, x: np.ndarray) -> Callable[[int], np.ndarray]:
        """Predict, from a NumPy array to a NumPy array."""
        apply, params = jax.jit(self._apply), self.carry[0]

        def run(k: int) -> np.ndarray:
            for _ in range(k):
                y = np.asarray(apply(params, x))
            return y

        return run

    def save(self, path: str) -> None:
        """Write what `FIRST_PREDICTION` reads."""
        params = cases.parameters(self.case)
        np.savez(
            path, **{f"{name}{i}": a for i, layer in enumerate(params) for name, a in zip("wb", layer, strict=True)}
        )

    def _apply(self, params: Any, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        keys = [None] * len(params) if key is None else jax.random.split(key, len(params))
        for (w, b), (_, _, activation, rate), k in zip(params, self.case.layers(), keys, strict=True):
            x = x @ w + b
            if activation:
                x = getattr(jax.nn, activation)(x)
            if rate and k is not None:
                x = jnp.where(jax.random.bernoulli(k, 1 - rate, x.shape), x / (1 - rate), 0)
        return x

    def _loss(self, params: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
        prediction = self._apply(params, x, key)
        if self.case.loss == "mse":
            return jnp.mean((prediction - y) ** 2)
        return optax.softmax_cross_entropy_with_integer_labels(prediction, y).mean()

    def _train(self, carry: Any, x: jax.Array, y: jax.Array) -> Any:
        params, state, count = carry
        loss, grads = jax.value_and_grad(self._loss)(params, x, y, jax.random.fold_in(self.key, count))
        updates, state = self.optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state, count + 1), loss
