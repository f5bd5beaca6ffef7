"""Metrics: how good predictions are, as plain functions ``(y_true, y_pred) -> float``.

The order of arguments and the values are scikit-learn's, with ``zero_division=0`` and without warnings.

Every function takes arrays, or anything that `np.asarray` turns into one, with one row per example. A single column
may have shape (n,) or (n, 1); the two shapes mean the same and never broadcast against each other. `weight`, of shape
(n,) or (n, 1), counts each row that many times; the default is once.

*Labels* are integers, booleans, strings, or floats that are whole numbers. The classes are the labels that
occur in `y_true` or in `y_pred`, sorted. If a row can have several labels, they are zeros and ones of shape
(n, labels), with at least two columns.

*Scores* say how likely each class is: `y_score` has one column, for the second of two classes, or one column for each
class or label. The columns belong to the labels 0 to k - 1, or else to the k sorted labels that occur in `y_true`.
`fit` and `evaluate` pass the network's probabilities to a function that takes scores, and the network's prediction to
every other function; `on_output` marks a function as one that takes scores.

Every function raises ValueError when the shapes of `y_true` and `y_pred` do not match, there are no rows, a float
label is not a whole number, or the weights do not fit the rows, are negative, not finite or all zero; TypeError for
values that are neither numbers nor labels. A result that overflows float64 is infinite, without a warning. A NaN among
numbers or scores gives NaN.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmlp.arguments import array_of_numbers, choice, function, given, integer, unmasked

Array: TypeAlias = NDArray[Any]
Average: TypeAlias = Literal["macro", "micro", "weighted", "binary"]
Weight: TypeAlias = ArrayLike | None
P = ParamSpec("P")
R = TypeVar("R")

__all__ = [
    "ClassScore",
    "accuracy",
    "average_precision",
    "confusion_matrix",
    "f1",
    "log_loss",
    "mae",
    "mse",
    "on_output",
    "precision",
    "r2",
    "recall",
    "roc_auc",
    "top_k_accuracy",
]


def higher_is_better(f: Callable[P, R]) -> Callable[P, R]:
    """Have a metric say that a high value is good; early stopping and `on_plateau` ask for this attribute."""
    f.higher_is_better = True  # type: ignore[attr-defined]
    return f


def lower_is_better(f: Callable[P, R]) -> Callable[P, R]:
    """Have a metric say that a low value is good."""
    f.higher_is_better = False  # type: ignore[attr-defined]
    return f


@higher_is_better
def accuracy(y_true: ArrayLike, y_pred: ArrayLike, *, weight: Weight = None) -> float:
    """Compute the fraction of rows whose label is right, or, with several labels per row, whose labels are all right.

    >>> accuracy([0, 1, 2, 2], [0, 1, 2, 1])
    0.75
    >>> accuracy([[0, 1], [1, 1]], [[0, 1], [1, 0]])
    0.5
    """
    t, p = _labels(y_true, y_pred)
    return float(np.average((t == p).all(axis=1), weights=_weight(weight, len(t))))


class ClassScore(Protocol):
    """The type of `precision`, `recall` and `f1`: a number, or with ``average=None`` a number for each class."""

    __name__: str

    @overload
    def __call__(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        *,
        average: Average = ...,
        pos_label: Any = ...,
        weight: Weight = ...,
    ) -> float: ...
    @overload
    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike, *, average: None, weight: Weight = ...) -> Array: ...


def _class_score(f: Callable[..., float | Array]) -> ClassScore:
    return cast(ClassScore, f)


@_class_score
@higher_is_better
def precision(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    average: Average | None = "macro",
    pos_label: Any = 1,
    weight: Weight = None,
) -> float | Array:
    """Compute which fraction of the rows predicted as a class belongs to it: ``hits / predicted``.

    Each class has its own precision, 0 if the class is never predicted. `average` turns them into one number:

    - "macro", the default: their mean;
    - "micro": the hits of all classes over the predicted rows of all classes, which equals `accuracy` unless rows have
      several labels;
    - "weighted": their mean, weighted by how often each class is true;
    - "binary": the precision of `pos_label`, for at most two classes (0 if `pos_label` does not occur);
    - None: no averaging, an array of shape (classes,), in the order of the sorted labels.

    Raises ValueError for any other `average`, and with "binary" when there are more than two classes, when there are
    two and neither is `pos_label`, or when rows have several labels. The module's docstring lists the other errors.

    >>> precision([0, 1, 2, 2], [0, 1, 2, 1], average=None)
    array([1. , 0.5, 1. ])
    >>> precision([0, 0, 1, 1], [0, 1, 1, 1], average="binary")
    0.6666666666666666
    """
    classes, hits, actual, predicted = _counts(y_true, y_pred, weight)
    return _average(hits, predicted, classes, actual, average, pos_label)


@_class_score
@higher_is_better
def recall(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    average: Average | None = "macro",
    pos_label: Any = 1,
    weight: Weight = None,
) -> float | Array:
    """Compute which fraction of the rows of a class is predicted as that class: ``hits / actual``.

    Each class has its own recall, 0 if the class does not occur in `y_true`. `average`, `pos_label` and the errors are
    those of `precision`.

    >>> recall([0, 1, 2, 2], [0, 1, 2, 1], average=None)
    array([1. , 1. , 0.5])
    >>> recall([0, 1, 2, 2], [0, 1, 2, 1])
    0.8333333333333334
    """
    classes, hits, actual, _ = _counts(y_true, y_pred, weight)
    return _average(hits, actual, classes, actual, average, pos_label)


@_class_score
@higher_is_better
def f1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    average: Average | None = "macro",
    pos_label: Any = 1,
    weight: Weight = None,
) -> float | Array:
    """Compute the harmonic mean of precision and recall: ``2 · hits / (actual + predicted)``.

    Each class has its own score. `average`, `pos_label` and the errors are those of `precision`.

    >>> f1([0, 1, 2, 2], [0, 1, 2, 1], average=None)
    array([1.        , 0.66666667, 0.66666667])
    >>> f1(["no", "no", "yes"], ["no", "yes", "yes"], average="binary", pos_label="yes")
    0.6666666666666666
    """
    classes, hits, actual, predicted = _counts(y_true, y_pred, weight)
    return _average(2 * hits, actual + predicted, classes, actual, average, pos_label)


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike) -> NDArray[np.int64]:
    """Count the rows of each true class (down) that are predicted as each class (across).

    Returns an int64 array of shape (classes, classes), classes in the order of the sorted labels.

    >>> confusion_matrix([0, 1, 2, 2], [0, 1, 2, 1])
    array([[1, 0, 0],
           [0, 1, 0],
           [0, 1, 1]])
    """
    classes, t, p = _encode(*_labels(y_true, y_pred, several=False))
    k = len(classes)
    return np.bincount(k * t + p, minlength=k * k).astype(np.int64, copy=False).reshape(k, k)


@lower_is_better
def mse(y_true: ArrayLike, y_pred: ArrayLike, *, weight: Weight = None) -> float:
    """Compute the mean squared error, ``mean((y_true - y_pred)²)``, over rows and columns.

    Both arrays have shape (n,) or (n, k). Computed in float64. NaN gives NaN.

    >>> mse([1.0, 2.0, 3.0], [1.0, 2.0, 5.0])
    1.3333333333333333
    """
    t, p = _numbers(y_true, y_pred)
    with np.errstate(over="ignore"):
        return _mean(np.square(t - p), weight)


@lower_is_better
def mae(y_true: ArrayLike, y_pred: ArrayLike, *, weight: Weight = None) -> float:
    """Compute the mean absolute error, ``mean(|y_true - y_pred|)``, over rows and columns.

    Both arrays have shape (n,) or (n, k). Computed in float64. NaN gives NaN.

    >>> mae([1.0, 2.0, 3.0], [1.0, 2.0, 5.0])
    0.6666666666666666
    """
    t, p = _numbers(y_true, y_pred)
    with np.errstate(over="ignore"):
        return _mean(np.abs(t - p), weight)


@higher_is_better
def r2(y_true: ArrayLike, y_pred: ArrayLike, *, weight: Weight = None) -> float:
    """Compute the coefficient of determination, ``1 - Σ(y_true - y_pred)² / Σ(y_true - mean(y_true))²``.

    1 is perfect, 0 is no better than the mean of `y_true`, and there is no lower bound. Both arrays have shape (n,) or
    (n, k); the result is the mean over the k columns. A column in which `y_true` is constant counts 1 if all its
    predictions are right, else 0. A single row gives NaN, and so does a NaN. Computed in float64.

    >>> r2([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    0.5
    """
    t, p = _numbers(y_true, y_pred)
    w = _weight(weight, len(t))
    if len(t) < 2:
        return float("nan")
    t, p, w = t[w > 0], p[w > 0], w[w > 0]
    if max(np.abs(t).max(), np.abs(p).max()) > 1e300:  # scale down, so that no difference overflows; the ratio stays
        t, p = t / 1e4, p / 1e4
    # Measured from one of its own rows, a constant column has a variance of exactly zero.
    centred = t - t[np.argmax(w)]
    centred -= np.average(centred, axis=0, weights=w)
    scale = np.abs(centred).max(axis=0)
    scale[scale == 0] = 1
    with np.errstate(over="ignore"):
        error, variance = w @ np.square((t - p) / scale), w @ np.square(centred / scale)
        score = 1 - error / np.where(variance > 0, variance, 1)
        score[(variance == 0) & (error > 0)] = 0
        return float(score.mean())


def on_output(f: Callable[P, R]) -> Callable[P, R]:
    """Mark a metric ``f(y_true, y_score)`` as one that takes the network's output instead of its prediction.

    `fit` and `evaluate` pass it probabilities if the loss has them: the softmax of the logits for `cross_entropy`,
    their sigmoid for `binary_cross_entropy`. For other losses they pass the output unchanged. `f` itself is not
    changed. In this module, `roc_auc`, `average_precision`, `log_loss` and `top_k_accuracy` are marked. `fit` and
    `evaluate` refuse an unmarked function whose second argument is called `y_score`, `y_proba`, `y_prob` or
    `pred_decision`, as in scikit-learn.

    >>> brier = on_output(lambda y_true, y_score: float(np.mean((y_true - y_score) ** 2)))
    >>> brier([0, 1], np.array([0.5, 1.0]))
    0.125
    """

    @functools.wraps(function("f", f, "a function (y_true, y_score) -> float"))
    def marked(*args: P.args, **kwargs: P.kwargs) -> R:
        return f(*args, **kwargs)

    marked.on_output = True  # type: ignore[attr-defined]
    return marked


def wants_output(metric: Any) -> bool:
    """Tell whether `metric`, or the function inside a `functools.partial`, is marked by `on_output`."""
    return any(getattr(f, "on_output", False) for f in _inwards(metric))


def wants_scores(metric: Any) -> str | None:
    """Return the name of an unmarked metric's second argument if it asks for scores, as scikit-learn's names do."""
    try:
        names = list(inspect.signature(metric).parameters)[1:2]
    except ValueError:  # a function written in C may have no signature
        names = []
    asks = names and names[0] in ("pred_decision", "y_prob", "y_proba", "y_score") and not wants_output(metric)
    return names[0] if asks else None


def weight_keyword(metric: Any) -> str | None:
    """Name the argument of `metric` for the rows' weights: ``weight``, or scikit-learn's ``sample_weight``."""
    try:
        parameters = inspect.signature(metric).parameters
    except (TypeError, ValueError):  # not written in Python
        return None
    return next((name for name in ("weight", "sample_weight") if name in parameters), None)


def has_a_name(metric: Any) -> bool:
    """Tell whether `metric` is a module's function, found there by its name: it keeps no state between calls."""
    return any(
        getattr(sys.modules.get(getattr(f, "__module__", "")), getattr(f, "__name__", ""), None) is f
        for f in _inwards(metric)
    )


def _inwards(metric: Any) -> Iterator[Any]:
    """Yield `metric` and the functions wrapped inside it by `functools.partial` and `on_output`."""
    while metric is not None:
        yield metric
        marked = getattr(metric, "on_output", False)
        metric = metric.func if isinstance(metric, functools.partial) else metric.__wrapped__ if marked else None


@higher_is_better
@on_output
def roc_auc(
    y_true: ArrayLike, y_score: ArrayLike, *, average: Literal["macro", "micro", "weighted"] = "macro",
    weight: Weight = None,
) -> float:  # fmt: skip
    """Compute the area under the ROC curve: how often a row of the class has a higher score than any other row.

    Equal scores count half. For two classes this is the area of the second class. More than two classes (each against
    the rest) and several labels per row have an area for each, which is NaN if no row or every row belongs to it.
    `average` turns them into one number: "macro", the default, is their mean; "weighted" is their mean, weighted by how
    often each class is true; "micro" is the area when each pair of row and class counts as a row. scikit-learn:
    ``roc_auc_score(multi_class="ovr")``.

    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return _one_against_rest(_area, y_true, y_score, average, weight)


@higher_is_better
@on_output
def average_precision(
    y_true: ArrayLike, y_score: ArrayLike, *, average: Literal["macro", "micro", "weighted"] = "macro",
    weight: Weight = None,
) -> float:  # fmt: skip
    """Compute the mean precision over all thresholds, each weighted by the recall it adds: ``Σ (Rᵢ - Rᵢ₋₁) Pᵢ``.

    For two classes this is the score of the second class. More than two classes and several labels per row have a score
    for each, 0 if it does not occur; `average` turns them into one number as in `roc_auc`.

    >>> average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.8333333333333333
    """
    return _one_against_rest(_mean_precision, y_true, y_score, average, weight)


@lower_is_better
@on_output
def log_loss(y_true: ArrayLike, y_score: ArrayLike, *, weight: Weight = None) -> float:
    """Compute the mean of ``-log p``, where p is the probability that a row's scores give to its label.

    `y_score` holds probabilities: of the second of two classes, shape (n,) or (n, 1), or of all, shape (n, classes).
    They are clipped to [ε, 1 - ε], with the ε of their dtype. Raises ValueError for scores that are not probabilities.

    >>> log_loss([0, 1, 1], [[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]])
    0.46209812037329695
    """
    t, p, w = _scored(y_true, y_score, weight, several=False)
    dtype = np.asarray(y_score).dtype
    eps = np.finfo(dtype if dtype.kind == "f" else np.float64).eps
    p = p if p.shape[1] > 1 else np.hstack([1 - p, p])
    if p.min() < 0 or p.max() > 1 or np.abs(p.sum(axis=1) - 1).max() > 1e-3:  # NaN passes
        raise ValueError(
            f"y_score: expected probabilities that sum to 1 in each row, got values from {p.min()} to {p.max()} and "
            f"sums from {p.sum(axis=1).min()} to {p.sum(axis=1).max()}"
        )
    return float(np.average(-np.log(np.clip(p, eps, 1 - eps)[np.arange(len(t)), t]), weights=w))


@higher_is_better
@on_output
def top_k_accuracy(y_true: ArrayLike, y_score: ArrayLike, *, k: int = 2, weight: Weight = None) -> float:
    """Compute the fraction of rows whose label is among the `k` classes with the highest scores.

    If scores are equal, the later class counts as higher. With one column of scores for two classes and k = 1, the
    second class is predicted above 0.5 if all scores are in [0, 1], and above 0 otherwise.

    >>> top_k_accuracy([0, 1, 2], [[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    0.6666666666666666
    """
    k = integer("k", k)
    t, s, w = _scored(y_true, y_score, weight, several=False)
    if np.isnan(s).any():
        return float("nan")
    if s.shape[1] == 1:
        hits = (k > 1) | (t == (s[:, 0] > (0.5 if s.min() >= 0 and s.max() <= 1 else 0)))
    else:
        highest = np.argsort(s, axis=1, kind="stable")[:, ::-1][:, :k]
        hits = (highest == t[:, None]).any(axis=1)
    return float(np.average(hits, weights=w))


def _columns(
    y_true: ArrayLike, y_pred: ArrayLike, k: Literal["1", "k"], names: str = "y_true and y_pred"
) -> tuple[Array, Array]:
    """Return both as arrays of the same shape (n, k); (n,) becomes (n, 1)."""
    t, p = (_array(name, y) for name, y in zip(names.split(" and "), (y_true, y_pred), strict=True))
    a, b = (y[:, None] if y.ndim == 1 else y for y in (t, p))
    if a.shape != b.shape or a.ndim != 2 or a.size == 0 or (k == "1" and a.shape[1] != 1):
        raise ValueError(f"{names}: expected equal shapes, (n,) or (n, {k}), n > 0, got {t.shape} and {p.shape}")
    return a, b


def _array(name: str, y: ArrayLike) -> Array:
    try:
        return np.asarray(unmasked(name, y))
    except ValueError:
        raise ValueError(f"{name}: expected an array, got rows of different lengths") from None


def _numbers(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Array, Array]:
    t, p = _columns(y_true, y_pred, "k")
    return _floats("y_true", t), _floats("y_pred", p)


def _floats(name: str, y: Array) -> Array:
    if y.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers, got dtype {y.dtype}")
    return y.astype(np.float64)


def _labels(y_true: ArrayLike, y_pred: ArrayLike, *, several: bool = True) -> tuple[Array, Array]:
    """Return both as labels of shape (n, 1), int64 or strings, or, for several labels per row, (n, k) booleans."""
    t, p = _columns(y_true, y_pred, "k" if several and _array("y_true", y_true).shape[1:] > (1,) else "1")
    if t.shape[1] > 1:
        return _indicators("y_true", t), _indicators("y_pred", p)
    t, p = _label("y_true", t), _label("y_pred", p)
    if t.dtype.kind != p.dtype.kind:
        raise TypeError(f"y_true and y_pred: expected labels of one kind, got {t.dtype} and {p.dtype}")
    return t, p


def _label(name: str, y: Array) -> Array:
    if y.dtype.kind in "OT" and len({type(label) for label in y.ravel().tolist()}) == 1:
        y = np.asarray(y.tolist())
    if y.dtype.kind == "U":
        return y
    if y.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected integers, booleans or strings as labels, got dtype {y.dtype}")
    if y.dtype.kind in "uf" and 2**63 <= y.max(initial=0) < np.inf:
        raise ValueError(f"{name}: expected labels below 2**63, as int64 holds them, got {y.max()}")
    with np.errstate(invalid="ignore"):
        whole = y.astype(np.int64, copy=False)
    if y.dtype.kind in "uf" and not np.array_equal(whole, y):
        raise ValueError(f"{name}: expected labels, got numbers that are not whole, such as {y[whole != y][0]}")
    return whole


def _indicators(name: str, y: Array) -> Array:
    if y.dtype.kind not in "biuf" or not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{name}: expected zeros and ones, one column for each label that a row can have, or else a single column "
            f"of labels, got {given(y)}"
        )
    return y.astype(bool)


def _encode(t: Array, p: Array) -> tuple[Array, Array, Array]:
    """Return the classes, and both columns of labels as positions among the classes."""
    both = np.concatenate([t.ravel(), p.ravel()])
    if both.dtype.kind == "i" and int(both.max()) - int(both.min()) < 10 * both.size:
        # Counting is many times faster than the sort in np.unique.
        low = both.min()
        occurs = np.bincount(both - low) > 0
        classes = np.flatnonzero(occurs) + low
        codes = (np.cumsum(occurs) - 1)[both - low]
    else:
        classes, codes = np.unique(both, return_inverse=True)
    return classes, codes[: t.size], codes[t.size :]


def _counts(y_true: ArrayLike, y_pred: ArrayLike, weight: Weight) -> tuple[Array | None, Array, Array, Array]:
    """Return the classes (None if rows have several labels), and the weights of their hits, true and predicted rows."""
    t, p = _labels(y_true, y_pred)
    w = _weight(weight, len(t))
    if t.shape[1] > 1:
        return None, w @ (t & p), w @ t, w @ p
    classes, t, p = _encode(t, p)
    k = len(classes)
    hits = np.bincount(t, weights=w * (t == p), minlength=k)
    return classes, hits, np.bincount(t, weights=w, minlength=k), np.bincount(p, weights=w, minlength=k)


def _average(
    part: Array, whole: Array, classes: Array | None, actual: Array, average: Average | None, pos_label: Any
) -> float | Array:
    """Return ``part / whole`` of each class, with 0 / 0 = 0, or one number for all classes."""
    if average == "micro":
        part, whole = part.sum(keepdims=True), whole.sum(keepdims=True)
    score: Array = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    if average is None:
        return score
    if average == "weighted" and actual.any():
        return float(np.average(score, weights=actual))
    if average in ("macro", "micro", "weighted"):
        return float(score.mean())
    if average != "binary":
        raise ValueError(f"average: expected 'macro', 'micro', 'weighted', 'binary' or None, got {average!r}")
    if classes is None:
        raise ValueError("average: expected one column of labels for 'binary', got a column for each label")
    labels = classes.tolist()
    if len(labels) > 2:
        raise ValueError(f"average: expected two classes at most for 'binary', got {len(labels)}")
    if pos_label in labels:
        return float(score[labels.index(pos_label)])
    if len(labels) == 2:
        raise ValueError(f"pos_label: expected one of {labels}, got {pos_label!r}")
    return 0.0


def _scored(
    y_true: ArrayLike, y_score: ArrayLike, weight: Weight, *, several: bool = True
) -> tuple[Array, Array, Array]:
    """Return the true classes, the scores, shape (n, k), and the weights, all without the rows of weight 0.

    The true classes are positions among the classes, shape (n,), or, for several labels per row, booleans, (n, k).
    """
    t, s = _array("y_true", y_true), _floats("y_score", _array("y_score", y_score))
    shapes = f"got {t.shape} and {s.shape}"
    t, s = (y[:, None] if y.ndim == 1 else y for y in (t, s))
    if not t.ndim == s.ndim == 2 or len(t) != len(s) or s.size == 0 or t.shape[1] not in (1, s.shape[1] * several):
        expected = "labels (n,) with scores (n,) or (n, k)" + ", or both of shape (n, k)" * several
        raise ValueError(f"y_true and y_score: expected {expected}, n > 0, {shapes}")
    w = _weight(weight, len(t))
    t, s, w = t[w > 0], s[w > 0], w[w > 0]
    return _indicators("y_true", t) if t.shape[1] > 1 else _positions(t, max(s.shape[1], 2)), s, w


def _positions(t: Array, k: int) -> Array:
    """Return the column that belongs to each label."""
    labels = _label("y_true", t).ravel()
    if labels.dtype.kind == "i" and labels.min() >= 0 and labels.max() < k:
        return labels
    classes, positions = np.unique(labels, return_inverse=True)
    if len(classes) != k:
        raise ValueError(
            f"y_true: expected labels from 0 to {k - 1}, or {k} others, because y_score has columns for {k} classes; "
            f"got {len(classes)}, such as {classes[0]}"
        )
    return positions


def _one_against_rest(
    score: Callable[[Array, Array], float], y_true: ArrayLike, y_score: ArrayLike, average: Any, weight: Weight
) -> float:
    """Score each column by itself (for two classes only the second one) and average."""
    choice("average", average, "macro", "micro", "weighted")
    t, s, w = _scored(y_true, y_score, weight)
    if t.ndim == 1:
        t = t[:, None] == np.arange(max(s.shape[1], 2))
        if t.shape[1] == 2:
            t, s = t[:, 1:], s[:, -1:]
    if np.isnan(s).any():
        return float("nan")
    if average == "micro":
        t, s, w = t.reshape(-1, 1), s.reshape(-1, 1), np.repeat(w, s.shape[1])
    scores = np.array([score(*_curve(t[:, i], s[:, i], w)) for i in range(s.shape[1])])
    if average != "weighted":
        return float(scores.mean())
    actual = w @ t
    return float(np.average(scores[actual > 0], weights=actual[actual > 0])) if actual.any() else 0.0


def _curve(t: Array, s: Array, w: Array) -> tuple[Array, Array]:
    """Return, for each threshold from the highest down, the weights of true and of false rows that reach it."""
    order = np.argsort(-s)
    last = np.append(np.diff(s[order]) != 0, True)  # the last of the rows with equal scores
    return np.cumsum((w * t)[order])[last], np.cumsum((w * ~t)[order])[last]


def _area(tp: Array, fp: Array) -> float:
    tp, fp = np.append(0, tp), np.append(0, fp)
    whole = tp[-1] * fp[-1]
    return float((np.diff(fp) * (tp[1:] + tp[:-1])).sum() / (2 * whole)) if whole else float("nan")


def _mean_precision(tp: Array, fp: Array) -> float:
    return float((np.diff(tp, prepend=0) * tp / (tp + fp)).sum() / tp[-1]) if tp[-1] else 0.0


def _mean(errors: Array, weight: Weight) -> float:
    w = _weight(weight, len(errors))
    return float(np.average(errors.mean(axis=1)[w > 0], weights=w[w > 0]))  # 0 · ∞ would be NaN


def _weight(weight: Weight, n: int) -> Array:
    if weight is None:
        return np.ones(n)
    w = np.asarray(array_of_numbers("weight", weight), np.float64)
    if w.shape not in ((n,), (n, 1)):
        raise ValueError(f"weight: expected one number per row, shape ({n},) or ({n}, 1), got {w.shape}")
    if not np.isfinite(w).all() or w.min() < 0 or not w.any():
        raise ValueError(
            f"weight: expected finite numbers of at least 0, not all of them 0, got values from {w.min()} to {w.max()}"
        )
    scaled: Array = np.ldexp(w.ravel(), -np.frexp(w.max())[1])  # only the ratios count; scaled, no sum overflows
    return scaled
