"""Metrics: how good predictions are, as plain functions ``(y_true, y_pred) -> float``.

The order of arguments and the values are scikit-learn's, with ``zero_division=0`` and without warnings.

Every function takes arrays, or anything `np.asarray` makes one of, with one row per example. One column is
one column, whether its shape is (n,) or (n, 1); the two never broadcast against each other. `weight`, of
shape (n,) or (n, 1), counts each row that many times; its default is one each.

*Labels* are integers, booleans, strings, or floats that are whole numbers. The classes are the labels that
occur in `y_true` or in `y_pred`, sorted.

Every function raises ValueError when the shapes of `y_true` and `y_pred` do not match or there are no rows,
when the weights do not fit the rows, are negative or not finite, or are all zero, and when floats given as
labels are not whole numbers; TypeError for values that are neither numbers nor labels. What overflows float64 is
infinite, without a warning.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from fmlp.checks import array_of_numbers

Array: TypeAlias = npt.NDArray[Any]
Average: TypeAlias = Literal["macro", "weighted", "binary"]

__all__ = ["accuracy", "confusion_matrix", "f1", "mae", "mse", "precision", "r2", "recall"]


def accuracy(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, *, weight: npt.ArrayLike | None = None) -> float:
    """Give the fraction of rows whose label is right.

    >>> accuracy([0, 1, 2, 2], [0, 1, 2, 1])
    0.75
    """
    t, p = _labels(y_true, y_pred)
    return float(np.average(t == p, weights=_weight(weight, t.size)))


@overload
def precision(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    *,
    average: Average = ...,
    pos_label: Any = ...,
    weight: npt.ArrayLike | None = ...,
) -> float: ...
@overload
def precision(
    y_true: npt.ArrayLike, y_pred: npt.ArrayLike, *, average: None, weight: npt.ArrayLike | None = ...
) -> Array: ...
def precision(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    *,
    average: Average | None = "macro",
    pos_label: Any = 1,
    weight: npt.ArrayLike | None = None,
) -> float | Array:
    """Give the fraction of the rows predicted to be of a class that are: ``hits / predicted``.

    That is a number per class, 0 for a class that is never predicted. `average` makes one of them:

    - "macro", the default: their mean;
    - "weighted": their mean, weighted by how often the class is true;
    - "binary": the number of `pos_label`, where there are no more than two classes (0 if it does not occur);
    - None: no averaging, an array of shape (classes,), in the order of the sorted labels.

    Raises ValueError for another `average`, and with "binary" for a third class or when there are two
    and neither is `pos_label`; see the module for the rest.

    >>> precision([0, 1, 2, 2], [0, 1, 2, 1], average=None)
    array([1. , 0.5, 1. ])
    >>> precision([0, 0, 1, 1], [0, 1, 1, 1], average="binary")
    0.6666666666666666
    """
    classes, hits, actual, predicted = _counts(y_true, y_pred, weight)
    return _average(_ratio(hits, predicted), classes, actual, average, pos_label)


@overload
def recall(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    *,
    average: Average = ...,
    pos_label: Any = ...,
    weight: npt.ArrayLike | None = ...,
) -> float: ...
@overload
def recall(
    y_true: npt.ArrayLike, y_pred: npt.ArrayLike, *, average: None, weight: npt.ArrayLike | None = ...
) -> Array: ...
def recall(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    *,
    average: Average | None = "macro",
    pos_label: Any = 1,
    weight: npt.ArrayLike | None = None,
) -> float | Array:
    """Give the fraction of the rows of a class that are predicted to be of it: ``hits / actual``.

    That is a number per class, 0 for a class that does not occur in `y_true`. `average`, `pos_label` and what
    is raised are as in `precision`.

    >>> recall([0, 1, 2, 2], [0, 1, 2, 1], average=None)
    array([1. , 1. , 0.5])
    >>> recall([0, 1, 2, 2], [0, 1, 2, 1])
    0.8333333333333334
    """
    classes, hits, actual, _ = _counts(y_true, y_pred, weight)
    return _average(_ratio(hits, actual), classes, actual, average, pos_label)


@overload
def f1(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    *,
    average: Average = ...,
    pos_label: Any = ...,
    weight: npt.ArrayLike | None = ...,
) -> float: ...
@overload
def f1(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, *, average: None, weight: npt.ArrayLike | None = ...) -> Array: ...
def f1(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    *,
    average: Average | None = "macro",
    pos_label: Any = 1,
    weight: npt.ArrayLike | None = None,
) -> float | Array:
    """Give the harmonic mean of precision and recall: ``2 · hits / (actual + predicted)``.

    That is a number per class. `average`, `pos_label` and what is raised are as in `precision`.

    >>> f1([0, 1, 2, 2], [0, 1, 2, 1], average=None)
    array([1.        , 0.66666667, 0.66666667])
    >>> f1(["no", "no", "yes"], ["no", "yes", "yes"], average="binary", pos_label="yes")
    0.6666666666666666
    """
    classes, hits, actual, predicted = _counts(y_true, y_pred, weight)
    return _average(_ratio(2 * hits, actual + predicted), classes, actual, average, pos_label)


def confusion_matrix(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Count the rows of each true class (down) that are predicted to be of each class (across).

    Returns an int64 array of shape (classes, classes), classes in the order of the sorted labels.

    >>> confusion_matrix([0, 1, 2, 2], [0, 1, 2, 1])
    array([[1, 0, 0],
           [0, 1, 0],
           [0, 1, 1]])
    """
    classes, t, p = _encode(y_true, y_pred)
    k = len(classes)
    return np.bincount(k * t + p, minlength=k * k).astype(np.int64, copy=False).reshape(k, k)


def mse(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, *, weight: npt.ArrayLike | None = None) -> float:
    """Give the mean squared error, ``mean((y_true - y_pred)²)``, over rows and columns.

    Both of shape (n,) or (n, k). Computed in float64. NaN gives NaN.

    >>> mse([1.0, 2.0, 3.0], [1.0, 2.0, 5.0])
    1.3333333333333333
    """
    t, p = _numbers(y_true, y_pred)
    with np.errstate(over="ignore"):
        return _mean(np.square(t - p), weight)


def mae(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, *, weight: npt.ArrayLike | None = None) -> float:
    """Give the mean absolute error, ``mean(|y_true - y_pred|)``, over rows and columns.

    Both of shape (n,) or (n, k). Computed in float64. NaN gives NaN.

    >>> mae([1.0, 2.0, 3.0], [1.0, 2.0, 5.0])
    0.6666666666666666
    """
    t, p = _numbers(y_true, y_pred)
    with np.errstate(over="ignore"):
        return _mean(np.abs(t - p), weight)


def r2(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, *, weight: npt.ArrayLike | None = None) -> float:
    """Give the coefficient of determination, ``1 - Σ(y_true - y_pred)² / Σ(y_true - mean(y_true))²``.

    1 is perfect, 0 is no better than the mean of `y_true`, and there is no lower bound. Both of shape (n,) or
    (n, k); of k columns, the mean of their values. A column in which `y_true` is constant counts 1 if all its
    predictions are right, else 0. A single row gives NaN, and so does a NaN. Computed in float64.

    >>> r2([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    0.5
    """
    t, p = _numbers(y_true, y_pred)
    w = _weight(weight, len(t))
    if len(t) < 2:
        return float("nan")
    t, p, w = t[w > 0], p[w > 0], w[w > 0]
    if max(np.abs(t).max(), np.abs(p).max()) > 1e300:  # so that no difference overflows; the ratio is the same
        t, p = t / 1e4, p / 1e4
    # Seen from one of its own rows, a constant column has a variance of exactly zero.
    centred = t - t[np.argmax(w)]
    centred -= np.average(centred, axis=0, weights=w)
    scale = np.abs(centred).max(axis=0)
    scale[scale == 0] = 1
    with np.errstate(over="ignore"):
        error, variance = w @ np.square((t - p) / scale), w @ np.square(centred / scale)
        score = 1 - error / np.where(variance > 0, variance, 1)
        score[(variance == 0) & (error > 0)] = 0
        return float(score.mean())


def _columns(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, k: Literal["1", "k"]) -> tuple[Array, Array]:
    """Return both as arrays of one and the same shape (n, k), where (n,) is (n, 1)."""
    t, p = _array("y_true", y_true), _array("y_pred", y_pred)
    a, b = (y[:, None] if y.ndim == 1 else y for y in (t, p))
    if a.shape != b.shape or a.ndim != 2 or a.size == 0 or (k == "1" and a.shape[1] != 1):
        raise ValueError(
            f"y_true and y_pred: expected equal shapes, (n,) or (n, {k}), n > 0, got {t.shape} and {p.shape}"
        )
    return a, b


def _array(name: str, y: npt.ArrayLike) -> Array:
    try:
        return np.asarray(y)
    except ValueError:
        raise ValueError(f"{name}: expected an array, got rows of different lengths") from None


def _numbers(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> tuple[Array, Array]:
    t, p = _columns(y_true, y_pred, "k")
    for name, y in (("y_true", t), ("y_pred", p)):
        if y.dtype.kind not in "biuf":
            raise TypeError(f"{name}: expected numbers, got dtype {y.dtype}")
    return t.astype(np.float64), p.astype(np.float64)


def _labels(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> tuple[Array, Array]:
    """Return both as vectors of n labels, of dtype int64 or of strings."""
    t, p = _columns(y_true, y_pred, "1")
    t, p = _label("y_true", t.ravel()), _label("y_pred", p.ravel())
    if t.dtype.kind != p.dtype.kind:
        raise TypeError(f"y_true and y_pred: expected labels of one kind, got {t.dtype} and {p.dtype}")
    return t, p


def _label(name: str, y: Array) -> Array:
    if y.dtype.kind in "OT" and len({type(label) for label in y.tolist()}) == 1:
        y = np.asarray(y.tolist())
    if y.dtype.kind == "U":
        return y
    if y.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected integers, booleans or strings as labels, got dtype {y.dtype}")
    with np.errstate(invalid="ignore"):
        whole = y.astype(np.int64, copy=False)
    if y.dtype.kind in "uf" and not np.array_equal(whole, y):
        raise ValueError(f"{name}: expected labels, got numbers that are not whole, such as {y[whole != y][0]}")
    return whole


def _encode(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> tuple[Array, Array, Array]:
    """Return the classes, and both vectors of labels as positions among them."""
    t, p = _labels(y_true, y_pred)
    both = np.concatenate([t, p])
    if both.dtype.kind == "i" and int(both.max()) - int(both.min()) < 10 * both.size:
        # Counting is many times faster than the sort in np.unique.
        low = both.min()
        occurs = np.bincount(both - low) > 0
        classes = np.flatnonzero(occurs) + low
        codes = (np.cumsum(occurs) - 1)[both - low]
    else:
        classes, codes = np.unique(both, return_inverse=True)
    return classes, codes[: t.size], codes[t.size :]


def _counts(
    y_true: npt.ArrayLike, y_pred: npt.ArrayLike, weight: npt.ArrayLike | None
) -> tuple[Array, Array, Array, Array]:
    """Return the classes and, per class, the weight of the rows that are hits, are actual, are predicted."""
    classes, t, p = _encode(y_true, y_pred)
    w, k = _weight(weight, t.size), len(classes)
    hits = np.bincount(t, weights=w * (t == p), minlength=k)
    return classes, hits, np.bincount(t, weights=w, minlength=k), np.bincount(p, weights=w, minlength=k)


def _ratio(a: Array, b: Array) -> Array:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _average(score: Array, classes: Array, actual: Array, average: Average | None, pos_label: Any) -> float | Array:
    if average is None:
        return score
    if average == "macro":
        return float(score.mean())
    if average == "weighted":
        return float(np.average(score, weights=actual))
    if average != "binary":
        raise ValueError(f"average: expected 'macro', 'weighted', 'binary' or None, got {average!r}")
    labels = classes.tolist()
    if len(labels) > 2:
        raise ValueError(f"average: expected two classes at most for 'binary', got {len(labels)}")
    if pos_label in labels:
        return float(score[labels.index(pos_label)])
    if len(labels) == 2:
        raise ValueError(f"pos_label: expected one of {labels}, got {pos_label!r}")
    return 0.0


def _mean(errors: Array, weight: npt.ArrayLike | None) -> float:
    w = _weight(weight, len(errors))
    return float(np.average(errors.mean(axis=1)[w > 0], weights=w[w > 0]))  # 0 · ∞ would be NaN


def _weight(weight: npt.ArrayLike | None, n: int) -> Array:
    if weight is None:
        return np.ones(n)
    w = np.asarray(array_of_numbers("weight", weight), np.float64)
    if w.shape not in ((n,), (n, 1)):
        raise ValueError(f"weight: expected one number per row, shape ({n},) or ({n}, 1), got {w.shape}")
    if not np.isfinite(w).all() or w.min() < 0 or not w.any():
        raise ValueError(
            f"weight: expected finite numbers of at least 0, not all of them 0, got values from {w.min()} to {w.max()}"
        )
    scaled: Array = np.ldexp(w.ravel(), -np.frexp(w.max())[1])  # only their ratios count, and so no sum overflows
    return scaled
