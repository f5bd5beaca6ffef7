"""Initializers: functions ``(key, shape) -> array`` of float32.

For a weight of shape (in, out), fan_in is `in` and fan_out is `out`. Names, parameters and distributions are PyTorch's.

The functions of this module raise TypeError for a parameter that is not a number and ValueError for one that is out of
range. An initializer raises TypeError for an invalid key or shape, and ValueError when it needs a fan and the shape is
not (in, out).
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, Literal, TypeAlias

import numpy as np

from fmlp import random
from fmlp.arguments import choice, given, inside, number, shape_of_one, unmasked
from fmlp.random import Key
from fmlp.tree import Array

Shape: TypeAlias = tuple[int, ...]
Initializer: TypeAlias = Callable[[Key, Shape], Array]
Mode: TypeAlias = Literal["fan_in", "fan_out"]

__all__ = [
    "Initializer",
    "constant",
    "gain",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "normal",
    "ones",
    "orthogonal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

_GAINS = {"tanh": 5 / 3, "relu": sqrt(2), "selu": 3 / 4}
_UNIT_GAINS = {"linear", "identity", "sigmoid"}


def gain(nonlinearity: str, param: float = 0.01) -> float:
    """Return the recommended gain: relu √2, leaky_relu √(2 / (1 + param²)), tanh 5/3, selu 3/4, others 1.

    The others are linear, identity and sigmoid. `param` is the negative slope of leaky_relu.

    Raises ValueError for a nonlinearity without a recommended gain.

    >>> gain("tanh")
    1.6666666666666667
    """
    if nonlinearity == "leaky_relu":
        return sqrt(2 / (1 + number("param", param, "(-inf, inf)") ** 2))
    gains = _GAINS | dict.fromkeys(_UNIT_GAINS, 1.0)
    return gains[choice("nonlinearity", nonlinearity, *sorted({*gains, "leaky_relu"}))]


def uniform(a: float = 0.0, b: float = 1.0) -> Initializer:
    """Draw from U(a, b), a ≤ b."""
    a, b = number("a", a, "(-inf, inf)"), number("b", b, "(-inf, inf)")
    if a > b:
        raise ValueError(f"a: expected a number of at most b, {b}, got {a}")
    return lambda key, shape: random.generator(key).uniform(a, b, shape_of_one("shape", shape)).astype(np.float32)


def normal(mean: float = 0.0, std: float = 1.0) -> Initializer:
    """Draw from N(mean, std²)."""
    mean, std = number("mean", mean, "(-inf, inf)"), number("std", std)
    return lambda key, shape: random.generator(key).normal(mean, std, shape_of_one("shape", shape)).astype(np.float32)


def constant(value: float) -> Initializer:
    """Fill with `value`."""
    value = number("value", value, "(-inf, inf)")
    return lambda key, shape: np.full(shape_of_one("shape", shape), value, np.float32)


def zeros() -> Initializer:
    """Fill with 0."""
    return constant(0.0)


def ones() -> Initializer:
    """Fill with 1."""
    return constant(1.0)


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Draw from U(-r, r), r = gain √(6 / (fan_in + fan_out)).

    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".

    >>> w = xavier_uniform()(random.key(0), (128, 64))
    >>> w.shape, w.dtype, bool(abs(w).max() <= (6 / 192) ** 0.5)
    ((128, 64), dtype('float32'), True)
    """
    gain = number("gain", gain)

    def init(key: Key, shape: Shape) -> Array:
        r = gain * sqrt(6 / sum(_fans(shape)))
        return uniform(-r, r)(key, shape)

    return init


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Draw from N(0, σ²), σ = gain √(2 / (fan_in + fan_out)); Glorot and Bengio 2010, like `xavier_uniform`."""
    gain = number("gain", gain)
    return lambda key, shape: normal(0.0, gain * sqrt(2 / sum(_fans(shape))))(key, shape)


def kaiming_uniform(a: float = 0.0, mode: Mode = "fan_in", nonlinearity: str = "leaky_relu") -> Initializer:
    """Draw from U(-r, r), r = gain √(3 / fan), gain = `gain(nonlinearity, a)`, fan as `mode` says.

    With the defaults the gain is √2, which suits relu and similar activations. Raises ValueError for an unknown mode
    or nonlinearity.

    He, Zhang, Ren and Sun 2015, arXiv 1502.01852.
    """
    std = _kaiming_std(a, mode, nonlinearity)

    def init(key: Key, shape: Shape) -> Array:
        r = sqrt(3) * std(shape)
        return uniform(-r, r)(key, shape)

    return init


def kaiming_normal(a: float = 0.0, mode: Mode = "fan_in", nonlinearity: str = "leaky_relu") -> Initializer:
    """Draw from N(0, σ²), σ = gain / √fan; parameters and errors are those of `kaiming_uniform`."""
    std = _kaiming_std(a, mode, nonlinearity)
    return lambda key, shape: normal(0.0, std(shape))(key, shape)


def lecun_normal() -> Initializer:
    """Draw from N(0, 1 / fan_in): the choice for selu. LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp"."""
    return lambda key, shape: normal(0.0, sqrt(1 / _fans(shape)[0]))(key, shape)


def orthogonal(gain: float = 1.0) -> Initializer:
    """Draw a matrix whose rows or columns, whichever are fewer, are orthonormal, times `gain`; Haar-distributed.

    Saxe, McClelland and Ganguli 2014, arXiv 1312.6120.

    >>> w = orthogonal()(random.key(0), (4, 2))
    >>> bool(np.allclose(w.T @ w, np.eye(2), atol=1e-6))
    True
    """
    gain = number("gain", gain)

    def init(key: Key, shape: Shape) -> Array:
        n, m = _fans(shape)
        q, r = np.linalg.qr(random.generator(key).standard_normal((max(n, m), min(n, m))))
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the factorization unique, and so q uniformly distributed
        return (gain * (q if n >= m else q.T)).astype(np.float32)

    return init


def _kaiming_std(a: float, mode: Mode, nonlinearity: str) -> Callable[[Shape], float]:
    choice("mode", mode, "fan_in", "fan_out")
    scale = gain(nonlinearity, number("a", a, "(-inf, inf)"))
    return lambda shape: scale / sqrt(_fans(shape)[0 if mode == "fan_in" else 1])


def _fans(shape: Shape) -> tuple[int, int]:
    if len(shape_of_one("shape", shape)) != 2 or 0 in shape:
        raise ValueError(f"shape: expected (fan_in, fan_out), both at least 1, got {shape}")
    n, m = shape
    return n, m


def guarded(name: str, initializer: Any) -> Initializer:
    """Check that this is an initializer, and later that it draws an array of the requested shape."""
    if any(initializer is globals()[constructor] for constructor in __all__):
        raise TypeError(f"{name}: expected an initializer, got {given(initializer)}; call it: {initializer.__name__}()")
    if hasattr(initializer, "rule") or hasattr(initializer, "apply"):
        raise TypeError(
            f"{name}: expected an initializer, got {given(initializer)}; an activation is a layer of its own"
        )
    if not callable(initializer):
        raise TypeError(
            f"{name}: expected an initializer, such as xavier_uniform(), got {given(initializer)}; the input's width "
            "is not given: init gets the input's shape"
        )

    def draw(key: Key, shape: Shape) -> Array:
        try:
            drawn: Array = unmasked("drawn", initializer(key, shape))
        except (TypeError, ValueError) as error:
            raise inside(name, error) from error
        if not isinstance(drawn, np.ndarray) or drawn.shape != shape:
            raise ValueError(f"{name}: expected it to draw an array of shape {shape}, got {given(drawn)}")
        return drawn

    return draw
