"""Statistics of a data set: each column's mean and deviation, with which to standardize it, and label counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fmlp.arguments import array_of_numbers, finite, unmasked
from fmlp.files import Array

__all__ = ["label_balance", "moments", "standardize"]


def moments(x: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute the mean and standard deviation of each column, in float64, for `standardize`.

    For `x` of shape (rows, features), both have shape (features,). The deviation of a constant column is returned as 1,
    so that `standardize` turns the column into 0 and not NaN.

    Raises ValueError when `x` has no rows, or a mean or deviation is not finite.

    >>> mean, std = moments(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> mean, std
    (array([2., 5.]), array([1., 1.]))
    """
    x = array_of_numbers("x", x)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x: expected shape (rows, features) and at least one row, got {x.shape}")
    with np.errstate(invalid="ignore", over="ignore"):
        mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(mean) | ~np.isfinite(std))
    if bad.size:
        raise ValueError(f"x: expected finite values, got NaN, infinity or overflow in column {bad[0]}")
    std[(x.min(0) == x.max(0)) | (std == 0)] = 1  # rounding can hide that a column is constant
    return mean, std


def standardize(x: Array, mean: Array, std: Array) -> npt.NDArray[np.float32]:
    """Compute (x - mean) / std as float32, with the `moments` of the training rows.

    `x` has shape (rows, features), `mean` and `std` have shape (features,). Raises ValueError for other shapes, when an
    array holds a NaN or an infinity, or when a number in `std` is not above 0; TypeError for arrays that do not hold
    numbers.

    >>> x_train, x_test = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[4.0, 6.0]])
    >>> standardize(x_test, *moments(x_train))
    array([[2., 1.]], dtype=float32)
    """
    x, mean, std = array_of_numbers("x", x), array_of_numbers("mean", mean), array_of_numbers("std", std)
    if x.ndim != 2 or not x.shape[1:] == mean.shape == std.shape:
        raise ValueError(
            f"x, mean, std: expected shapes (rows, features), (features,) and (features,), got {x.shape}, {mean.shape} "
            f"and {std.shape}"
        )
    finite("mean", mean)
    finite("std", std)
    if std.min(initial=1) <= 0:
        raise ValueError(f"std: expected numbers above 0, as `moments` gives them, got {std.min()}")
    with np.errstate(over="ignore", invalid="ignore"):
        z = np.subtract(x, mean, dtype=np.float64)
        z /= std
        result = z.astype(np.float32)
    if not np.isfinite(result).all():
        finite("x", x)
        raise ValueError("x: expected values that fit into float32 when standardized, got larger ones")
    return result


def label_balance(y: Array) -> dict[int, int]:
    """Count the rows of each label: {label: count}, in the order of the labels.

    Raises ValueError when `y` does not have shape (rows,), or a label is not a whole number.

    >>> label_balance(np.array([2, 0, 2]))
    {0: 1, 2: 2}
    """
    y = np.asanyarray(unmasked("y", y))
    if y.ndim != 1 or y.dtype.kind not in "biuf":
        raise ValueError(f"y: expected labels of shape (rows,), got {y.dtype} of shape {y.shape}")
    labels, counts = np.unique(y, return_counts=True)
    for label in labels:
        if not float(label).is_integer():
            raise ValueError(f"y: expected whole numbers as labels, got {label}")
    return dict(zip(map(int, labels), map(int, counts), strict=True))
