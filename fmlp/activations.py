"""Activations: a table of functions and their derivatives.

Each entry takes an array of any shape and returns one of the same shape and dtype. It consists of its formula and, next
to it, its derivative, which is computed only when needed. Hyper-parameters and values are PyTorch's. As in PyTorch, the
derivative at a kink is the one from the left, unless the entry says otherwise. Inputs that are not floating-point are
converted to float64.

To add an activation, add an entry here and a line in `fmlp.layers` for its layer; CONTRIBUTING.md has the other steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from math import inf, pi, sqrt
from typing import Any, TypeAlias

import numpy as np

from fmlp.arguments import array_of_numbers, function, given, integer, number
from fmlp.autodiff import Differentiable, Pullback, differentiable, half_in_single
from fmlp.recording import asarray
from fmlp.tree import Array

Entry: TypeAlias = tuple[Array, Callable[[], Any]]

# exp(-FAR) is zero in float32 and float64, so clipping an argument of exp at FAR does not change a result.
FAR = 1e3


def elementwise(formula: Callable[..., Entry]) -> Differentiable[..., Array]:
    """Make an element-wise function from ``formula(x, ...) -> (y, derivative)``, with ``derivative() = dy/dx``.

    >>> @elementwise
    ... def square(x):
    ...     return x * x, lambda: 2 * x
    >>> square(np.array([3.0]))
    array([9.])
    """

    function("formula", formula)
    hints = map(str, getattr(formula, "__annotations__", {}).values())
    kinds = (float, int, str) if any("str" in hint or "Literal" in hint for hint in hints) else (float, int)

    def plain(setting: Any, name: str = "settings") -> Any:
        """Return a NumPy number as a Python number, which does not change the dtype of arrays."""
        setting = setting.item() if isinstance(setting, np.generic) else setting
        if type(setting) not in kinds or setting != setting:
            number(name, setting, "[-inf, inf]")
        return setting

    @functools.wraps(formula)
    @half_in_single
    def rule(x: Any, *args: Any, **kwargs: Any) -> tuple[Array, Pullback]:
        x = floating(x)
        if args or kwargs:
            settings = {name: plain(value, name) for name, value in kwargs.items()}
            y, derivative = formula(x, *map(plain, args), **settings)
        else:
            y, derivative = formula(x)
        if not callable(derivative):
            raise TypeError(f"{formula.__name__}: expected (y, lambda: derivative), got {given(derivative)} for it")

        def pullback(dy: Array) -> Iterator[Any]:
            d = derivative()
            if getattr(d, "dtype", None) == np.bool_:  # NumPy takes three times as long to multiply numbers by truths
                d = d.astype(dy.dtype)
            yield dy * d
            yield from (None for _ in args)

        return y, pullback

    return Differentiable(rule)


@elementwise
def identity(x: Array) -> Entry:
    """``x``; derivative ``1``."""
    return x, lambda: 1


@elementwise
def tanh(x: Array) -> Entry:
    """``tanh x``; derivative ``1 - tanh² x``."""
    y = np.tanh(x)
    return y, lambda: 1 - y * y


@elementwise
def tanhshrink(x: Array) -> Entry:
    """``x - tanh x``; derivative ``tanh² x``."""
    t = np.tanh(x)
    small = np.where(np.abs(x) < 1, x, 0)
    s: Array = small * small
    f: Any = 17
    for k in range(15, 1, -2):  # the continued fraction tanh x = x / (1 + s / f), because x - tanh x would cancel
        f = k + s / f
    return np.where(small == x, small * s / (f + s), x - t), lambda: t * t


@elementwise
def hardtanh(x: Array, min_val: float = -1.0, max_val: float = 1.0) -> Entry:
    """``x`` clipped to [min_val, max_val]; derivative 1 strictly inside, 0 elsewhere."""
    _require(min_val <= max_val, f"min_val: expected at most max_val, {max_val}, got {min_val}")
    return clip(x, min_val, max_val), lambda: (x > min_val) & (x < max_val)


@elementwise
def sigmoid(x: Array) -> Entry:
    """``σ(x) = 1 / (1 + e⁻ˣ)``; derivative ``σ(x) σ(-x)``."""
    y, e = _sigmoid(x)
    return y, lambda: e / (1 + e) ** 2


@elementwise
def log_sigmoid(x: Array) -> Entry:
    """``log σ(x)``; derivative ``σ(-x)``."""
    e = np.exp(-np.abs(x))
    return np.minimum(x, 0) - np.log1p(e), lambda: np.exp(np.minimum(-x, 0)) / (1 + e)


@elementwise
def hardsigmoid(x: Array) -> Entry:
    """``min(max(x + 3, 0), 6) / 6``; derivative 1/6 for -3 < x < 3, 0 elsewhere."""
    return clip(x + 3, 0, 6) / 6, lambda: _choose(np.abs(x) < 3, 1 / 6, 0, x)


@elementwise
def relu(x: Array) -> Entry:
    """``max(x, 0)``; derivative 1 for x > 0, 0 elsewhere."""
    return np.maximum(x, 0), lambda: x > 0


@elementwise
def relu6(x: Array) -> Entry:
    """``min(max(x, 0), 6)``; derivative 1 for 0 < x < 6, 0 elsewhere."""
    return clip(x, 0, 6), lambda: (x > 0) & (x < 6)


@elementwise
def leaky_relu(x: Array, negative_slope: float = 0.01) -> Entry:
    """``x`` for x > 0, ``negative_slope · x`` elsewhere; derivative 1 or negative_slope.

    Maas, Hannun and Ng 2013, "Rectifier nonlinearities improve neural network acoustic models".
    """
    with np.errstate(over="ignore"):  # with a slope above 1, the largest numbers overflow to infinity
        y = np.maximum(x, 0) + negative_slope * np.minimum(x, 0)
    return y, lambda: _choose(x > 0, 1, negative_slope, x)


@elementwise
def elu(x: Array, alpha: float = 1.0) -> Entry:
    """``x`` for x > 0, ``alpha (eˣ - 1)`` elsewhere; derivative 1 or ``alpha eˣ``.

    Clevert, Unterthiner and Hochreiter 2016, arXiv 1511.07289.
    """
    z = np.minimum(x, 0)
    if alpha == 1:  # saves three passes
        return np.maximum(x, np.expm1(z)), lambda: np.exp(z)
    return np.maximum(x, 0) + alpha * np.expm1(z), lambda: np.where(x > 0, 1, alpha * np.exp(z))


@elementwise
def celu(x: Array, alpha: float = 1.0) -> Entry:
    """``x`` for x > 0, ``alpha (exp(x / alpha) - 1)`` elsewhere; derivative 1 or ``exp(x / alpha)``; alpha > 0.

    Barron 2017, arXiv 1704.07483.
    """
    _require(0 < alpha < inf, f"alpha: expected a number in (0, inf), got {alpha}")
    z = clip(x, -FAR * alpha, 0) / alpha
    return np.maximum(x, 0) + alpha * np.expm1(z), lambda: np.exp(z)


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@elementwise
def selu(x: Array) -> Entry:
    """``s x`` for x > 0, ``s a (eˣ - 1)`` elsewhere; derivative s or ``s a eˣ``; s = 1.0507…, a = 1.6732….

    Klambauer, Unterthiner, Mayr and Hochreiter 2017, arXiv 1706.02515.
    """
    z = np.minimum(x, 0)
    with np.errstate(over="ignore"):  # the largest numbers times s are infinite
        y = SELU_SCALE * np.maximum(x, 0) + SELU_SCALE * SELU_ALPHA * np.expm1(z)
    return y, lambda: SELU_SCALE * np.where(x > 0, 1, SELU_ALPHA * np.exp(z))


@elementwise
def gelu(x: Array, approximate: str = "none") -> Entry:
    """``x Φ(x)``, Φ the normal distribution function; derivative ``Φ(x) + x φ(x)``.

    ``approximate="tanh"`` replaces Φ(x) by ``σ(2u)``, u = √(2/π) (x + 0.044715 x³); the derivative is then
    ``σ(2u) + 2 x u' σ(2u) σ(-2u)``. Raises ValueError for any other `approximate`.

    Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    if approximate == "none":
        from scipy.special import ndtr

        z = clip(x, -40, 40)
        cdf = ndtr(z if x.itemsize <= 8 else z.astype(np.float64)).astype(x.dtype, copy=False)  # no wider one exists
        return np.maximum(x, -40) * cdf, lambda: cdf + z * np.exp(-0.5 * z * z) / sqrt(2 * pi)
    if approximate == "tanh":
        z = clip(x, -22, 22)  # at ±22, exp is 0 even in float64
        cdf, e = _sigmoid(sqrt(8 / pi) * (z + 0.044715 * z**3))
        du = sqrt(8 / pi)
        return np.maximum(x, -22) * cdf, lambda: cdf + z * du * (1 + 0.134145 * z * z) * e / (1 + e) ** 2
    raise ValueError(f"approximate: expected one of 'none', 'tanh', got {approximate!r}")


@elementwise
def mish(x: Array) -> Entry:
    """``x tanh(softplus x)``; derivative ``t + x (1 - t²) σ(x)`` with t = tanh(softplus x).

    Misra 2019, arXiv 1908.08681. With n = eˣ (eˣ + 2), t = n / (n + 2), free of cancellation.
    """
    z = clip(x, -FAR, 20)
    e = np.exp(z)
    n = e * (e + 2)
    t = n / (n + 2)
    return np.maximum(x, -FAR) * t, lambda: t + z * (2 / (n + 2)) * (1 + t) * e / (1 + e)


@elementwise
def silu(x: Array) -> Entry:
    """``x σ(x)``, also called swish; derivative ``σ(x) + x σ(x) σ(-x)``.

    Elfwing, Uchibe and Doya 2017, arXiv 1702.03118; Ramachandran, Zoph and Le 2017, arXiv 1710.05941.
    """
    z = clip(x, -FAR, FAR)
    s, e = _sigmoid(z)
    return np.maximum(x, -FAR) * s, lambda: s + z * e / (1 + e) ** 2


swish = silu


@elementwise
def hardswish(x: Array) -> Entry:
    """``x min(max(x + 3, 0), 6) / 6``; derivative 0 for x ≤ -3, 1 for x ≥ 3, ``x/3 + 1/2`` between.

    Howard et al. 2019, arXiv 1905.02244.
    """
    return np.maximum(x, -3) * (clip(x + 3, 0, 6) / 6), lambda: np.where(np.abs(x) < 3, x / 3 + 0.5, x >= 3)


@elementwise
def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Entry:
    """``log(1 + exp(beta x)) / beta``, beta > 0, and ``x`` where beta x > threshold; derivative ``σ(beta x)`` or 1."""
    _require(0 < beta < inf, f"beta: expected a number in (0, inf), got {beta}")
    z = beta * clip(x, -FAR / beta, FAR / beta)
    s, e = _sigmoid(z)
    linear = z > threshold
    y = np.where(linear, x, np.maximum(x, 0) + np.log1p(e) / beta)
    return y, lambda: np.maximum(s, linear)


@elementwise
def softsign(x: Array) -> Entry:
    """``x / (1 + |x|)``; derivative ``1 / (1 + |x|)²``."""
    largest = np.finfo(x.dtype).max
    r = 1 / (1 + np.abs(x))
    return clip(x, -largest, largest) / (1 + np.minimum(np.abs(x), largest)), lambda: r * r


@elementwise
def softshrink(x: Array, lambd: float = 0.5) -> Entry:
    """``x - lambd`` for x > lambd, ``x + lambd`` for x < -lambd, 0 between; derivative 1, 1, 0."""
    _require(lambd >= 0, f"lambd: expected a number in [0, inf], got {lambd}")
    return x - clip(x, -lambd, lambd), lambda: np.abs(x) > lambd


@elementwise
def hardshrink(x: Array, lambd: float = 0.5) -> Entry:
    """``x`` for |x| > lambd, 0 elsewhere; derivative 1 or 0."""
    return x * (np.abs(x) > lambd), lambda: np.abs(x) > lambd


@elementwise
def threshold(x: Array, threshold: float, value: float) -> Entry:
    """``x`` for x > threshold, ``value`` elsewhere; derivative 1 or 0."""
    return np.where(x <= threshold, value, x), lambda: x > threshold


@differentiable
@half_in_single
def softmax(x: Any, axis: int = -1) -> tuple[Array, Pullback]:
    """``y = eˣ / Σ eˣ`` along `axis`; pullback ``y (dy - Σ dy y)``. ∞ counts as the largest finite number."""
    e = np.exp(_shifted(floating(x), axis))
    y = e / e.sum(axis, keepdims=True)

    def pullback(dy: Array) -> Iterator[Array]:
        yield y * (dy - (dy * y).sum(axis, keepdims=True))

    return y, pullback


@differentiable
@half_in_single
def log_softmax(x: Any, axis: int = -1) -> tuple[Array, Pullback]:
    """``y = x - log Σ eˣ`` along `axis`; pullback ``dy - eʸ Σ dy``. ∞ counts as the largest finite number."""
    z = _shifted(floating(x), axis)
    y = z - np.log(np.exp(z).sum(axis, keepdims=True))

    def pullback(dy: Array) -> Iterator[Array]:
        yield dy - np.exp(y) * dy.sum(axis, keepdims=True)

    return y, pullback


def clip(x: Array, low: float, high: float) -> Array:
    """Return ``min(max(x, low), high)`` in the dtype of `x`, much faster than np.clip on small arrays."""
    y: Array = np.minimum(np.maximum(x, low), high)
    return y


def floating(x: Any, name: str = "x") -> Array:
    """Return `x` as a floating-point array; other numbers become float64. Raises TypeError if `x` is not numbers."""
    if type(x) is np.ndarray and x.dtype.kind == "f":
        return x
    array = asarray(array_of_numbers(name, x))
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _sigmoid(x: Array) -> tuple[Array, Array]:
    """Return σ(x), without overflow or cancellation, and e = exp(-|x|), with which σ(x) σ(-x) = e / (1 + e)²."""
    e = np.exp(-np.abs(x))
    return np.exp(np.minimum(x, 0)) / (1 + e), e


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _choose(condition: Array, yes: float, no: float, x: Array) -> Array:
    """Return np.where of two numbers in the dtype of `x`."""
    y: Array = np.where(condition, x.dtype.type(yes), x.dtype.type(no))
    return y


@np.errstate(over="ignore")
def _shifted(x: Array, axis: int) -> Array:
    """Return ``x - max x``, which does not change softmax and prevents exp from overflowing."""
    if type(axis) is not int:
        axis = integer("axis", axis, None)
    if not -x.ndim <= axis < x.ndim or x.shape[axis] == 0:
        raise ValueError(f"x: expected at least one number along axis {axis}, got shape {x.shape}")
    x = np.minimum(x, np.finfo(x.dtype).max)  # ∞ - ∞ would be NaN
    z: Array = x - x.max(axis, keepdims=True)
    return z


table: dict[str, Differentiable[..., Array]] = {
    name: f for name, f in globals().items() if isinstance(f, Differentiable) and name == f.__name__
}
"""Every activation by name, in the order above."""

__all__ = ["elementwise", "swish", "table", *table]
