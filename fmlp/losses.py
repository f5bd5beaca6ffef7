"""Losses: scalar functions ``(prediction, y, *, weight=None)`` that carry their vjp.

Every loss gives one number per row and averages it over the batch, the first axis: ``Σ wᵢ lᵢ / Σ wᵢ``, where `weight`,
shape (batch,) or (batch, 1), is all ones by default. Further axes are averaged within the row. If all weights are zero,
loss and gradient are zero. `y` is data and has no derivative. The result is a scalar in the dtype of the prediction.

A loss also turns the network's output into predictions and probabilities: ``losses.cross_entropy.predict(logits)`` is
the arg max, ``losses.cross_entropy.probabilities(logits)`` the softmax. Bind a loss's own parameters with
`functools.partial`.

If a number is too large for the dtype, the loss is infinite, without a warning. Rows of weight 0 do not count, even if
they hold NaN or a label out of range.

Every loss raises ValueError when shapes do not fit, naming both, when the batch is empty, or when a weight is negative
or not finite; TypeError for arguments that do not hold numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any

import numpy as np

from fmlp.activations import clip, floating, hardsigmoid, log_sigmoid, log_softmax, sigmoid, softmax
from fmlp.arguments import array_of_numbers, function, integer, number, unmasked
from fmlp.autodiff import Differentiable, Pullback, half_in_single, unbound
from fmlp.recording import asarray
from fmlp.tree import Array

__all__ = [
    "Loss",
    "argmax",
    "as_is",
    "binary_cross_entropy",
    "cross_entropy",
    "huber",
    "loss",
    "mae",
    "mse",
    "poisson",
    "positive",
    "prediction_of",
    "probabilities_of",
    "quantile",
    "rate",
]


class Loss(Differentiable[..., Any]):
    """A differentiable loss whose ``predict(output)`` and ``probabilities(output)`` interpret the network's output."""

    higher_is_better = False

    def __init__(
        self,
        rule: Callable[..., tuple[Any, Pullback]],
        predict: Callable[[Array], Array],
        probabilities: Callable[[Array], Array],
    ) -> None:
        super().__init__(rule)
        self.predict, self.probabilities = predict, probabilities

    def check_network(self, apply: Any) -> None:
        """Raise ValueError if this loss takes logits but the last layer of the network makes probabilities."""
        if self.probabilities is as_is:
            return
        wrong = {softmax, sigmoid, hardsigmoid} | ({log_softmax, log_sigmoid} if self.predict is positive else set())
        name, last = _last_layer(getattr(apply, "__name__", "net"), apply)
        if (f := getattr(last, "settings", {}).get("f")) in wrong:
            raise ValueError(
                f"net: the loss {self.__name__} takes logits, and {name} applies {f.__name__} to them; drop this "
                f"layer. activations.{self.probabilities.__name__} makes probabilities of the trained network's output"
            )


def _last_layer(name: str, apply: Any) -> tuple[str, Any]:
    """Find the last layer of a network that does more than pass its input on."""
    if getattr(apply, "__name__", "") == "serial":
        for child, layer in reversed(apply.children.items()):
            if getattr(layer.apply, "__name__", "") not in ("dropout", "flatten", "identity"):
                return _last_layer(child, layer.apply)
    return name, apply


def argmax(output: Array) -> Array:
    """Return the integer labels, shape (batch,), with the largest logits; logits have shape (batch, classes)."""
    labels: Array = output.argmax(-1)
    return labels


def positive(output: Array) -> Array:
    """Return label 1 where a logit is positive, and 0 elsewhere."""
    return (output > 0).astype(np.int64)


def as_is(output: Array) -> Array:
    """Return the output unchanged, as the prediction."""
    return output


def loss(
    predict: Callable[[Array], Array] = as_is, probabilities: Callable[[Array], Array] = as_is
) -> Callable[[Callable[..., tuple[Any, Pullback]]], Loss]:
    """Make a loss from its rule, ``rule(prediction, y, *, weight=None) -> (scalar, pullback)``.

    `predict` turns the network's output into predictions, `probabilities` into the scores that some metrics take.
    """
    return functools.partial(
        Loss, predict=function("predict", predict), probabilities=function("probabilities", probabilities)
    )


def prediction_of(loss: Callable[..., Any]) -> Callable[[Array], Array]:
    """Return the function that turns output into predictions; `loss` may be a `functools.partial` of a loss."""
    predict: Callable[[Array], Array] = getattr(unbound(loss), "predict", as_is)
    return predict


def probabilities_of(loss: Callable[..., Any]) -> Callable[[Array], Array]:
    """Return the function that turns output into probabilities, or `as_is` if `loss` has none."""
    probabilities: Callable[[Array], Array] = getattr(unbound(loss), "probabilities", as_is)
    return probabilities


def _quiet(rule: Callable[..., tuple[Any, Pullback]]) -> Callable[..., tuple[Any, Pullback]]:
    """Make a loss's rule compute without warnings, float16 in float32, and with weights as a vector."""

    @functools.wraps(rule)
    @half_in_single
    def quiet(*args: Any, weight: Any = None, **kwargs: Any) -> tuple[Any, Pullback]:
        with np.errstate(over="ignore", invalid="ignore"):
            value, pullback = rule(*args, weight=_vector(weight), **kwargs)

        def quiet_pullback(dy: Any) -> Iterable[Any]:
            with np.errstate(over="ignore", invalid="ignore"):
                return pullback(dy)

        return value, quiet_pullback

    return quiet


@loss()
@_quiet
def mse(prediction: Array, y: Any, *, weight: Any = None) -> tuple[Any, Pullback]:
    """Mean squared error: ``l = mean (p - y)²``; derivative ``2 (p - y) / width``.

    >>> mse(np.array([[1.0], [2.0]]), np.array([1.0, 4.0]))
    np.float64(2.0)
    """
    d = _residual(prediction, y)
    return _mean(d * d, weight, lambda: d, 2)


@loss()
@_quiet
def mae(prediction: Array, y: Any, *, weight: Any = None) -> tuple[Any, Pullback]:
    """Mean absolute error: ``l = mean |p - y|``; derivative ``sign(p - y) / width``, 0 where p = y."""
    d = _residual(prediction, y)
    return _mean(np.abs(d), weight, lambda: np.sign(d))


@loss()
@_quiet
def huber(prediction: Array, y: Any, *, weight: Any = None, delta: float = 1.0) -> tuple[Any, Pullback]:
    """Huber's loss: ``d²/2`` for |d| ≤ delta, ``delta (|d| - delta/2)`` beyond; derivative d clipped to ±delta.

    d is p - y. Raises ValueError unless delta is positive. Huber 1964, "Robust estimation of a location parameter".
    """
    d = _residual(prediction, y)
    delta = min(number("delta", delta, "(0, inf]"), float(np.finfo(d.dtype).max))  # ∞ - ∞ would be NaN
    c = clip(d, -delta, delta)
    return _mean(c * (d - 0.5 * c), weight, lambda: c)


@loss()
@_quiet
def quantile(prediction: Array, y: Any, *, weight: Any = None, q: float = 0.5) -> tuple[Any, Pullback]:
    """Pinball loss, smallest at the `q` quantile of y: ``l = mean s (p - y)``; derivative s.

    s is ``1 - q`` where p > y, ``-q`` where p < y, and 0 where p = y. Raises ValueError unless `q` is between 0 and 1.
    With q = 0.5 this is half the mean absolute error. scikit-learn: ``mean_pinball_loss``, which calls q alpha.

    Koenker and Bassett 1978, "Regression quantiles".

    >>> quantile(np.array([1.0, 2.0]), np.array([3.0, 1.0]), q=0.75)
    np.float64(0.875)
    """
    q = number("q", q, "(0, 1)")
    d = _residual(prediction, y)
    s = clip(np.sign(d), -q, 1 - q)
    return _mean(s * d, weight, lambda: s)


@np.errstate(over="ignore")
def rate(output: Array) -> Array:
    """Return the exponential of the output, which is the logarithm of the prediction."""
    rate: Array = np.exp(output)
    return rate


@loss(predict=rate)
@_quiet
def poisson(log_rate: Array, y: Any, *, weight: Any = None) -> tuple[Any, Pullback]:
    """Half the Poisson deviance of log-rates: ``l = mean (e^z - y + y (log y - z))``; derivative ``e^z - y``.

    `y` is a count or any other number of at least 0; raises ValueError for a negative one. The loss is 0 where the rate
    eᶻ equals y.

    >>> poisson(np.log([[2.0], [3.0]]), np.array([2, 3])).round(12)
    np.float64(0.0)
    """
    z = floating(log_rate, "log_rate")
    y = _aligned(z, y)
    if not y.min(initial=0) >= 0 and not (y := _counted(y, weight)).min() >= 0:
        raise ValueError(f"y: expected numbers of at least 0, got {y.min()}")
    e = np.exp(z)
    excess = _product(y, np.log(np.where(y > 0, y, 1)) - z)
    return _mean(e - y + np.maximum(excess, np.finfo(z.dtype).min), weight, lambda: e - y)  # ∞ - ∞ would be NaN


@loss(predict=positive, probabilities=sigmoid)
@_quiet
def binary_cross_entropy(logits: Array, y: Any, *, weight: Any = None, pos_weight: Any = None) -> tuple[Any, Pullback]:
    """Cross-entropy of Bernoulli logits: ``l = mean (q log(1 + e⁻ᶻ) + r log(1 + eᶻ))`` with q = y and r = 1 - y.

    The derivative is ``(q + r) σ(z) - q``. With `pos_weight`, a number or one for each column, ``q = pos_weight y``,
    as in PyTorch's BCEWithLogitsLoss. `y` is 0, 1 or a probability; raises ValueError for numbers outside [0, 1].

    >>> binary_cross_entropy(np.array([0.0]), np.array([1]))
    np.float64(0.6931471805599453)
    """
    z = floating(logits, "logits")
    y = _aligned(z, y)
    if not _within(y, 0, 1) and not _within(y := _counted(y, weight), 0, 1):
        raise ValueError(f"y: expected labels 0 and 1, or probabilities; got values from {y.min()} to {y.max()}")
    q, r, total = y, 1 - y, 1
    if pos_weight is not None:
        q = _of_classes("pos_weight", pos_weight, z.shape[1:], ()).astype(z.dtype) * y
        total = q + r
    rows = _product(np.where(z > 0, r, q), np.abs(z)) + total * np.log1p(np.exp(-np.abs(z)))
    return _mean(rows, weight, lambda: total * sigmoid(z) - q)


@loss(predict=argmax, probabilities=softmax)
@_quiet
def cross_entropy(
    logits: Array,
    y: Any,
    *,
    weight: Any = None,
    class_weight: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Any, Pullback]:
    """Cross-entropy of softmax logits, fused: ``l = log Σ eᶻ - Σ q z``; derivative ``softmax(z) - q``.

    `logits` has shape (batch, classes). `y` holds integer labels, shape (batch,) or (batch, 1), or rows of
    probabilities q, shape (batch, classes). `label_smoothing` s in [0, 1] replaces q by ``(1 - s) q + s / classes``.

    `class_weight` holds a number for each class. A row's weight is multiplied by the number of its label, or by
    ``Σ q class_weight``; the loss remains ``Σ wᵢ lᵢ / Σ wᵢ``. `fit` has the same argument, and PyTorch calls it
    `weight`, but with smoothing PyTorch weighs the classes within a row instead. Rows with the label `ignore_index`,
    which may be out of range, have weight 0.

    Raises TypeError for labels that are not integers; ValueError for labels or a smoothing out of range, rows that are
    not probabilities, and weights that do not fit the classes.

    >>> cross_entropy(np.zeros((2, 4)), np.array([0, 3]))
    np.float64(1.3862943611198906)
    """
    logits = floating(logits, "logits")
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits: expected shape (batch, classes), got {logits.shape}")
    if type(label_smoothing) is not float or not 0 <= label_smoothing <= 1:
        label_smoothing = number("label_smoothing", label_smoothing, "[0, 1]")
    n, k = logits.shape
    y = _labels_or_probabilities(y)
    if class_weight is not None:
        class_weight = _of_classes("class_weight", class_weight, (k,))
    if class_weight is not None or ignore_index is not None:
        weight = _row_weights(y, weight, class_weight, ignore_index)
    # Classes come first, because NumPy reduces faster this way. Logits are halved, because differences may overflow.
    half = np.minimum(0.5 * logits.T.copy(), np.finfo(logits.dtype).max)  # ∞ - ∞ would be NaN
    half = half - half.max(0)
    e = np.exp(half + half)
    total = e.sum(0)
    rows = np.log(total)
    keep = 1 - label_smoothing
    if y.ndim == 1:
        at = _label_index(y, n, k, weight)
        of_y = half.take(at)
    else:
        q = _probabilities(y, logits, weight).T
        of_y = _product(q, half).sum(0)
    if keep:  # 0 · ∞ would be NaN
        rows -= 2 * keep * of_y
    if label_smoothing:
        rows -= 2 * (label_smoothing / k * half).sum(0)

    def derivative() -> Array:
        d: Array = e / total
        if y.ndim == 1:
            d.ravel()[at] -= keep
        else:
            d -= keep * q
        if label_smoothing:
            d -= label_smoothing / k
        return d.T

    return _mean(rows, weight, derivative)


def _labels_or_probabilities(y: Any) -> Array:
    # Arrays of text pass here; `_label_index` refuses them with advice.
    array: Array = asarray(unmasked("y", y) if isinstance(y, np.ndarray) else array_of_numbers("y", y))
    column = array.dtype.kind in "iu" and array.ndim == 2 and array.shape[1] == 1
    return array[:, 0] if column else array


def _vector(weight: Any) -> Any:
    """Return the rows' weights, given as a column, as a vector; all else as it is."""
    return asarray(array_of_numbers("weight", weight))[:, 0] if np.shape(weight)[1:] == (1,) else weight


def _row_weights(y: Any, weight: Any, class_weight: Any = None, ignore_index: int | None = None, **_: Any) -> Any:
    """Return the weight of each row in cross_entropy's average; None if all are one."""
    if class_weight is None and ignore_index is None:
        return weight
    y, weight = _labels_or_probabilities(y), _vector(weight)
    if weight is not None and np.shape(weight) != y.shape[:1]:  # `_mean` will raise the error
        return weight
    w = np.ones(len(y)) if weight is None else asarray(array_of_numbers("weight", weight)).astype(np.float64)
    if ignore_index is not None and y.ndim == 1:
        w = np.where(y == integer("ignore_index", ignore_index, None), 0, w)
    if class_weight is not None:
        c = asarray(class_weight)
        w = _product(w, c.take(np.where(w == 0, 0, y).astype(np.intp), mode="clip") if y.ndim == 1 else np.dot(y, c))
    return w


cross_entropy.row_weights = _row_weights


def _of_classes(name: str, weights: Any, *shapes: tuple[int, ...]) -> Array:
    """Return the weights of classes, which must be finite, at least 0 and of one of the shapes."""
    expected = f"{name}: expected finite numbers of at least 0, of shape {' or '.join(map(str, shapes))}, got"
    if isinstance(weights, Mapping):
        raise TypeError(f"{expected} a {type(weights).__name__}")
    w = asarray(array_of_numbers(name, weights)).astype(np.float64)
    if w.shape not in shapes:
        raise ValueError(f"{expected} shape {w.shape}")
    if not (w.min(initial=0) >= 0 and w.max(initial=0) < inf):
        raise ValueError(f"{expected} values from {w.min()} to {w.max()}")
    return w


def _mean(values: Array, weight: Any, derivative: Callable[[], Array], factor: float = 1) -> tuple[Any, Pullback]:
    """Average `values` over rows; ``factor · derivative()`` is the element-wise derivative of a row's sum."""
    if values.size == 0 or values.ndim == 0:
        raise ValueError(f"prediction: expected at least one row, got shape {values.shape}")
    n = len(values)
    if weight is None:
        share = 1 / values.size
        average = values.sum() * share
        if not np.isfinite(average):  # the sum may overflow although the mean does not
            average = (values * share).sum()
        return average, lambda dy: (derivative() * (dy * (factor * share)), None)
    w = array_of_numbers("weight", weight).astype(np.float64, copy=False)
    if w.shape != (n,):
        raise ValueError(f"weight: expected shape ({n},), one per row, got {w.shape}")
    total = w.sum()
    if not (w.min() >= 0 and total < inf):  # refuses NaN too
        raise ValueError(f"weight: expected finite numbers of at least 0, got values from {w.min()} to {w.max()}")
    shares = (w / (total * (values.size // n) or 1.0)).astype(values.dtype)

    def weighted(a: Array, by: Array) -> Array:
        return _product(by.reshape(n, *[1] * (a.ndim - 1)), a)

    return weighted(values, shares).sum(), lambda dy: (weighted(derivative(), dy * factor * shares), None)


def _product(q: Any, z: Array) -> Array:
    """Return ``q z``, with 0 · ∞ = 0."""
    product: Array = np.where(q == 0, 0, q * z)
    return product


def _residual(prediction: Array, y: Any) -> Array:
    prediction = floating(prediction, "prediction")
    d: Array = prediction - _aligned(prediction, y)
    return d


def _aligned(prediction: Array, y: Any) -> Array:
    """Return `y` in the dtype and shape of the prediction; a vector counts as a column of the same length."""
    given = asarray(array_of_numbers("y", y))
    aligned: Array = given.astype(prediction.dtype, copy=False)
    if given.shape == prediction.shape:
        return aligned
    if prediction.shape in ((*given.shape, 1), given.shape[:-1]) and given.size == prediction.size:
        return aligned.reshape(prediction.shape)
    raise ValueError(f"y: expected the shape of the prediction, {prediction.shape}, got {given.shape}")


def _within(y: Array, low: float, high: float) -> bool:
    return not y.size or bool(y.min() >= low and y.max() <= high)


def _counted(y: Array, weight: Any, filling: float = 0) -> Array:
    """Replace `y` by a valid value in the rows of weight 0."""
    if weight is None or np.shape(weight) != y.shape[:1]:
        return y
    counts = asarray(array_of_numbers("weight", weight)) != 0
    counted: Array = np.where(counts.reshape(-1, *[1] * (y.ndim - 1)), y, y.dtype.type(filling))
    return counted


def _label_index(y: Array, n: int, k: int, weight: Any) -> Array:
    """Return the position of each row's label in the raveled (k, n) logits."""
    if y.dtype.kind not in "iu":
        raise TypeError(
            f"y: expected integer labels or rows of probabilities, got {y.dtype} of shape {y.shape}; "
            "classes, y = np.unique(y, return_inverse=True) makes labels from any values"
        )
    if len(y) != n:
        raise ValueError(f"y: expected {n} labels, one per row of the logits, got {len(y)}")
    if not _within(y, 0, k - 1) and not _within(y := _counted(y, weight), 0, k - 1):
        hint = "; one column of logits is one class: for two, use binary_cross_entropy" if k == 1 else ""
        raise ValueError(f"y: expected labels from 0 to {k - 1}, got values from {y.min()} to {y.max()}{hint}")
    index: Array = y.astype(np.intp, copy=False) * n + np.arange(n)
    return index


def _probabilities(y: Array, logits: Array, weight: Any) -> Array:
    if y.shape != logits.shape:
        raise ValueError(
            f"y: expected labels of shape {logits.shape[:1]} or probabilities of shape {logits.shape}, got {y.shape}"
        )
    q: Array = y.astype(logits.dtype, copy=False)
    if not _are_probabilities(q) and not _are_probabilities(q := _counted(q, weight, 1 / logits.shape[1])):
        sums = q.sum(1)
        raise ValueError(
            f"y: expected rows of probabilities, at least 0 and summing to 1, got values from {q.min()} to {q.max()} "
            f"and sums from {sums.min()} to {sums.max()}"
        )
    return q


def _are_probabilities(q: Array) -> bool:
    return bool(q.min(initial=0) >= 0 and np.abs(q.sum(1) - 1).max(initial=0) < 1e-3)
