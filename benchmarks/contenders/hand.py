"""A training step written by hand in NumPy, with nothing of fmlp: what is left when all that can be decided once is.

Each example is a column, so a layer's bias is one more row of its weights, and its input has a row of ones. The
parameters lie in one vector, as do their gradients and moments. All arrays are made once and written in place.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from benchmarks.cases import LEARNING_RATE, Case, parameters


class Network:
    """The case's network; `step` makes the arrays for its batch."""

    def __init__(self, case: Case, threads: int) -> None:
        self.case = case
        self.reset()

    def reset(self) -> None:
        """Go back to the first parameters and a new optimizer."""
        first = np.concatenate([a.ravel() for w, b in parameters(self.case) for a in (b, w)])
        if not hasattr(self, "adam"):
            self.adam = Adam(first.size, first.dtype, self.case.weight_decay)
        self.adam.start(first)

    def parameters(self) -> list[np.ndarray]:
        """Return w and b of each layer, in order."""
        return self._by_layer(self.adam.params)

    def loss_and_grads(self, x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Work out the loss and the gradient of every w and b."""
        loss = Batch(self.case, len(x), self.adam)(x, y)
        return float(loss), self._by_layer(self.adam.grads)

    def step(self, x: np.ndarray, y: np.ndarray) -> Callable[[int], None]:
        """Make training steps on one batch."""
        batch, adam = Batch(self.case, len(x), self.adam), self.adam

        def run(k: int) -> None:
            for _ in range(k):
                batch.draw_masks()
                batch(x, y)
                adam.update()

        return run

    def _by_layer(self, vector: np.ndarray) -> list[np.ndarray]:
        return [part.copy() for layer in split(self.case, vector) for part in (layer[1:], layer[0])]


class Layer:
    """A Dense layer with its activation and dropout, and their derivatives."""

    def __init__(self, w: np.ndarray, dw: np.ndarray, x: np.ndarray, y: np.ndarray, activation: str) -> None:
        self.w, self.dw, self.x, self.y, self.activation = w, dw, x, y, activation
        self.factor = np.ones_like(y)  # dy/dz
        self.zero = np.zeros_like(y)  # NumPy has SIMD code for the larger of two arrays, not of an array and a number
        self.positive = np.empty(y.shape, np.bool_)
        self.mask: np.ndarray | None = None

    def forward(self, scratch: np.ndarray) -> None:
        """Work out y and dy/dz from x."""
        y, factor = self.y, self.factor
        np.dot(self.w.T, self.x, out=y)
        if self.activation == "elu":
            np.minimum(y, self.zero, out=factor)
            np.exp(factor, out=factor)
            np.maximum(y, np.subtract(factor, 1, out=scratch), out=y)
        elif self.activation == "relu":
            np.maximum(y, self.zero, out=y)
            np.greater(y, 0, out=self.positive)
            np.copyto(factor, self.positive)  # far cheaper than a product of Booleans and floats
        if self.mask is not None:
            y *= self.mask
            if self.activation:
                factor *= self.mask
            else:
                self.factor = self.mask

    def backward(self, dz: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """Work out dx from dz."""
        return np.dot(self.w[1:], dz, out=dx)


class Batch:
    """The loss and its gradient for batches of one size."""

    def __init__(self, case: Case, rows: int, adam: Adam) -> None:
        dtype = adam.params.dtype
        inputs = [np.ones((fan_in + 1, rows), dtype) for fan_in in case.widths[:-1]]
        self.outputs = np.empty((case.widths[-1], rows), dtype)
        ys = [*(x[1:] for x in inputs[1:]), self.outputs]
        weights, gradients = split(case, adam.params), split(case, adam.grads)
        activations = [activation for _, _, activation, _ in case.layers()]
        self.layers = [Layer(*parts) for parts in zip(weights, gradients, inputs, ys, activations, strict=True)]
        most = max(case.widths) * rows
        memory = [np.empty(most, dtype) for _ in range(2)]
        self.scratch = [[m[: y.size].reshape(y.shape) for y in ys] for m in memory]
        self.rows, self.loss = np.arange(rows), cross_entropy if case.loss == "cross_entropy" else mse

        dropped = [(layer, rate) for layer, (*_, rate) in zip(self.layers, case.layers(), strict=True) if rate]
        ends = np.cumsum([0, *(layer.y.size for layer, _ in dropped)]).tolist()
        self.masks, self.scale = np.empty(ends[-1], dtype), np.empty(ends[-1], dtype)
        self.below, self.kept = np.empty(ends[-1], np.uint16), np.empty(ends[-1], np.bool_)
        for (layer, rate), (start, end) in zip(dropped, pairwise(ends), strict=True):
            layer.mask = self.masks[start:end].reshape(layer.y.shape)
            self.below[start:end], self.scale[start:end] = round((1 - rate) * 2**16), 1 / (1 - rate)
        self.bits = np.random.SFC64(0)
        self.draw_masks()

    def draw_masks(self) -> None:
        """Draw the masks of all layers at once, with 16 bits for each number."""
        if n := self.masks.size:
            bits = self.bits.random_raw(-(-n // 4)).view(np.uint16)[:n]
            np.copyto(self.masks, np.less(bits, self.below, out=self.kept))
            self.masks *= self.scale

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.floating:
        """Return the loss and write the gradient."""
        layers = self.layers
        layers[0].x[1:] = x.T
        for layer, scratch in zip(layers, self.scratch[0], strict=True):
            layer.forward(scratch)
        dz = self.outputs
        loss = self.loss(dz, y, self.rows)
        for i in range(len(layers) - 1, -1, -1):
            np.dot(layers[i].x, dz.T, out=layers[i].dw)
            if i:
                dz = layers[i].backward(dz, self.scratch[i % 2][i - 1])
                dz *= layers[i - 1].factor
        return loss


def cross_entropy(z: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> np.floating:
    """Return the loss and put its derivative into z."""
    z -= z.max(0)
    right = z[labels, rows]
    np.exp(z, out=z)
    total = z.sum(0)
    z *= 1 / (len(rows) * total)
    z[labels, rows] -= 1 / len(rows)
    return np.mean(np.log(total, out=total) - right)


def mse(z: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> np.floating:
    """Return the loss and put its derivative into z."""
    z -= targets.T
    loss = np.mean(z * z)
    z *= 2 / z.size
    return loss


class Adam:
    """Adam with L2. Sums stand for the averages of gradients, so the corrections are two numbers a step."""

    def __init__(self, size: int, dtype: np.dtype, decay: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.params, self.grads, self.first, self.second, self.scratch = (vector(size, dtype) for _ in range(5))
        self.decay, self.betas, self.steps = decay, betas, 0

    def start(self, params: np.ndarray) -> None:
        """Begin anew with these parameters."""
        self.params[:], self.first[:], self.second[:], self.steps = params, 0, 0, 0

    def update(self, eps: float = 1e-8) -> None:
        """Make a step with the gradient, whose memory is used."""
        g, m, v, scratch = self.grads, self.first, self.second, self.scratch
        self.steps += 1
        m_weights, v_weights = ((1 - beta**self.steps) / (1 - beta) for beta in self.betas)
        if self.decay:
            g += np.multiply(self.params, self.decay, out=scratch)
        m *= self.betas[0]
        m += g
        v *= self.betas[1]
        v += np.multiply(g, g, out=g)
        np.sqrt(v, out=scratch)
        scratch += eps * v_weights**0.5
        np.divide(m, scratch, out=scratch)
        scratch *= LEARNING_RATE * v_weights**0.5 / m_weights
        self.params -= scratch


def vector(size: int, dtype: np.dtype) -> np.ndarray:
    """Make a vector that starts on a cache line."""
    memory = np.empty(size * dtype.itemsize + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size * dtype.itemsize].view(dtype)


def split(case: Case, vector: np.ndarray) -> list[np.ndarray]:
    """View the parts of a vector as the layers' weights, each with its bias as row 0."""
    shapes = [(fan_in + 1, fan_out) for fan_in, fan_out, *_ in case.layers()]
    ends = np.cumsum([0, *(a * b for a, b in shapes)]).tolist()
    return [vector[i:j].reshape(s) for (i, j), s in zip(pairwise(ends), shapes, strict=True)]
