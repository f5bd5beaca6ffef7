"""Checks of arguments. Errors name the argument, what was expected and what was given.

A wrong type is a TypeError, a wrong value a ValueError.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

P = ParamSpec("P")
Y = TypeVar("Y")
StrPath: TypeAlias = str | os.PathLike[str]

__all__ = [
    "array",
    "array_of_numbers",
    "choice",
    "finite",
    "function",
    "given",
    "hinting",
    "inside",
    "integer",
    "is_number",
    "number",
    "path",
    "schedule",
    "shape_of_one",
    "unmasked",
]


HINTS = {
    "activation": "an activation is a layer of its own, as in serial(Dense(8), Relu())",
    "beta_1": "pass b1",
    "beta_2": "pass b2",
    "betas": "pass b1 and b2",
    "embedding_dim": "pass features",
    "epsilon": "pass eps",
    "in_features": "init gets the input's shape, as in net.init(key, (4,))",
    "input_shape": "init gets the input's shape, as in net.init(key, (4,))",
    "kernel_initializer": "pass w_init",
    "lr": "pass learning_rate",
    "out_features": "pass features",
    "p": "pass rate",
    "random_state": "pass key=fmlp.random.key(0)",
    "restore_best_weights": "pass restore_best=True",
    "sample_weight": "pass weight",
    "seed": "pass key=fmlp.random.key(0)",
    "units": "pass features",
    "use_bias": "pass bias",
    "validation_data": "pass validation=(x, y)",
    "validation_split": "pass validation=0.2",
    "verbose": "pass progress=True or progress=False",
}
"""Keywords of Keras, PyTorch and scikit-learn, and how to write them here."""


def hinting(f: Callable[P, Y]) -> Callable[P, Y]:
    """Decorate a function, so that the error for another library's keyword names the right one.

    >>> @hinting
    ... def sgd(learning_rate): ...
    >>> sgd(lr=0.1)
    Traceback (most recent call last):
    TypeError: sgd: there is no argument 'lr'; pass learning_rate
    """

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> Y:
        try:
            return f(*args, **kwargs)
        except TypeError as error:
            name = next((name for name in kwargs if name in HINTS and f"keyword argument '{name}'" in str(error)), None)
            if name is None:
                raise
            asked = f.__qualname__.removesuffix(".__init__")
            raise TypeError(f"{asked}: there is no argument {name!r}; {HINTS[name]}") from None

    return call


def given(value: object) -> str:
    """Describe a value briefly, for an error message.

    >>> given(0.5), given(np.zeros((3, 4))), given(sum), given({"a": 1})
    ('0.5', 'an array of float64, shape (3, 4)', 'the function sum', "{'a': 1}")
    """
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    if isinstance(value, Mapping | tuple | list) and (len(value) > 5 or any(_nests(child) for child in value)):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"a {type(value).__name__}"


def _nests(child: object) -> bool:
    return isinstance(child, np.ndarray | Mapping | tuple | list) or callable(child)


def number(name: str, value: object, interval: str = "[0, inf)") -> float:
    """Return `value` as a Python float, which does not upcast arrays; it must lie in `interval`, such as "[0, 1)".

    >>> number("rate", 0, "[0, 1)")
    0.0
    """
    expected = f"{name}: expected a number in {interval}, got {given(value)}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(expected)
    low, high = map(float, interval[1:-1].split(","))
    inside = low <= (number := float(value)) <= high  # False for NaN
    if not inside or (number == low and interval[0] == "(") or (number == high and interval[-1] == ")"):
        raise ValueError(expected)
    return number


def is_number(value: Any) -> bool:
    """Tell whether `value` is a Python number, a NumPy number or a zero-dimensional array of numbers."""
    return isinstance(value, float) or (np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub")


def inside(place: str, error: Exception, advice: str = "") -> Exception:
    """Return the same error, a TypeError or a ValueError, with the place where it happened and advice added."""
    return (TypeError if isinstance(error, TypeError) else ValueError)(f"{place}{place and ': '}{error}{advice}")


def integer(name: str, value: object, low: int | None = 1) -> int:
    """Return `value` as a Python int, which must be at least `low`."""
    expected = f"{name}: expected an integer{'' if low is None else f' of at least {low}'}, got {given(value)}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(expected)
    if low is not None and value < low:
        raise ValueError(expected)
    return int(value)


def choice(name: str, value: str, *choices: str) -> str:
    """Return `value`, which must be one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {given(value)}")
    return value


def function(name: str, value: Any, what: str = "a function") -> Any:
    """Return `value`, which must be callable."""
    if not callable(value):
        raise TypeError(f"{name}: expected {what}, got {given(value)}")
    return value


def schedule(name: str, value: Any, interval: str = "[0, inf)") -> Any:
    """Return `value`, which must be a function from a count to a number; this calls it with count 0."""
    what = "a schedule or a number"
    function(name, value, what)
    try:
        first = value(0)
    except TypeError as error:  # for example when cosine_lr is passed instead of cosine_lr(0.1, 100)
        raise TypeError(f"{name}: expected {what}, got {given(value)}: {error}") from error
    number(f"{name}(0)", first, interval)
    return value


def path(name: str, value: Any) -> Any:
    """Return `value`, which must be a path, because NumPy and `open` take a number as an open file."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: expected a path, got {given(value)}")
    return value


def array_of_numbers(name: str, values: Any) -> npt.NDArray[Any]:
    """Return `values` as an array, which must hold real numbers or booleans."""
    found = array(name, values)
    if found.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected numbers, got {given(values) if found.ndim == 0 else f'dtype {found.dtype}'}")
    return found


def array(name: str, values: Any) -> npt.NDArray[Any]:
    """Return `values` as an array. Refuse masked arrays, and pandas tables with columns that do not hold numbers."""
    if isinstance(values, np.ndarray):
        return unmasked(name, values)  # type: ignore[no-any-return]
    if hasattr(values, "iloc") and np.ndim(values) == 2:
        return _of_table(name, values)
    try:
        return np.asanyarray(values)
    except ValueError:
        raise ValueError(f"{name}: expected an array, got rows of different lengths") from None


def _of_table(name: str, table: Any) -> npt.NDArray[Any]:
    """Return a DataFrame as an array of its columns' common dtype; NumPy would turn bool and float into objects."""
    for column, dtype in zip(table.columns, table.dtypes, strict=True):
        if dtype.kind not in "fiub":
            raise TypeError(f"{name}: expected numbers in column {column!r}, got dtype {dtype}")
    dtypes = [getattr(d, "numpy_dtype", getattr(d, "subtype", d)) for d in table.dtypes] or [np.dtype(np.float64)]
    common = np.result_type(*dtypes)
    if common.kind != "f" and table.isna().any(axis=None):
        common = np.dtype(np.float64)
    values = table.to_numpy(common, **({"na_value": np.nan} if common.kind == "f" else {}))
    return np.ascontiguousarray(values)  # pandas stores by column, and sums would round differently


def unmasked(name: str, values: Any) -> Any:
    """Return `values`, which must not be a masked array, because NumPy's functions would read the masked numbers."""
    if "numpy.ma" in sys.modules and isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected an array without a mask, got a masked array of shape {values.shape}; leave out the "
            "masked rows, or replace the masked values with .filled(value)"
        )
    return values


def finite(name: str, values: Any) -> None:
    """Raise ValueError, naming the place, if `values`, which may be sparse, hold a NaN or an infinity."""
    sparse = hasattr(values, "tocsr")
    array = np.asanyarray(values.tocsr().data if sparse else values)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        place = tuple(map(int, np.argwhere(~np.isfinite(array))[0]))
        where = "" if sparse else f" at index {place}"
        raise ValueError(f"{name}: expected finite numbers, got {array[place]}{where} of shape {np.shape(values)}")


def shape_of_one(name: str, value: Any) -> tuple[int, ...]:
    """Return `value`, which must be a tuple of integers of at least 0."""
    expected = f"{name}: expected a shape, a tuple of integers of at least 0, got {given(value)}"
    if not isinstance(value, tuple) or not all(isinstance(n, Integral) for n in value):
        raise TypeError(expected)
    if any(n < 0 for n in value):
        raise ValueError(expected)
    return value
