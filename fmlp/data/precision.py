"""Choose float32 or float64 so that the numbers of a file are not rounded away, and cast to it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmlp.files import Array, FileFormatError

__all__ = ["cast", "floating"]


def floating(arrays: list[Array]) -> np.dtype[Any]:
    """Return float32, or float64 if float32 would make different rows equal.

    That may happen in a column with numbers of 2²⁴ or more, where float32 skips whole numbers, or with numbers more
    than 16 times larger than the column's range: rounding then costs 4 of the 24 bits that distinguish its values.
    """
    for values in arrays:
        columns = values.reshape(len(values), -1)
        with np.errstate(invalid="ignore", over="ignore"):  # `cast` refuses numbers that are not finite
            low, high = columns.min(0).astype(np.float64), columns.max(0).astype(np.float64)
            largest, spread = np.maximum(-low, high), high - low
            columns = columns[:, (largest >= 1 << 24) | ((largest > 16 * spread) & (spread > 0))]
            if _differs(columns.astype(np.float32), columns).any():
                return np.dtype(np.float64)
    return np.dtype(np.float32)


def cast(values: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Return the values as float32, float64 or int64; only fractions may be rounded, other losses are refused."""
    with np.errstate(over="ignore", invalid="ignore"):  # a value that does not fit becomes infinite or wraps around
        cast = values.astype(dtype, copy=False)
        low, high = cast.min(initial=0), cast.max(initial=0)  # NaN passes both; no copy
        if not (np.isfinite(np.float32(low)) and np.isfinite(np.float32(high))):
            place = tuple(map(int, np.argwhere(~np.isfinite(cast.astype(np.float32)))[0]))
            raise FileFormatError(f"{name}: expected finite float32 values, got {values[place]} at index {place}")
        exact = 1 << 24 if dtype == np.float32 else 1 << 53  # all smaller whole numbers are exact
        if dtype == values.dtype or (dtype.kind == "f" and max(-low, high) < exact):
            return cast
        wrong = _differs(cast, values)
        if dtype.kind == "f":
            wrong &= np.abs(cast) >= exact
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        what, advice = {
            "int64": ("integers below 2**63" if values.dtype.kind == "u" else "integers, as in the first rows", ""),
            "float32": ("numbers that float32 holds", "; dtype=np.float64 holds more digits"),
            "float64": ("numbers that float64 holds", "; subtract a constant from the column first"),
        }[dtype.name]
        raise FileFormatError(f"{name}: expected {what}, got {values[place]} at index {place}{advice}")
    return cast


def _differs(cast: Array, values: Array) -> Array:
    """Compare exactly, as Python compares a float with an int, and NumPy does not."""
    different: Array = cast != (
        values.astype(object) if cast.dtype.kind == "f" and values.dtype.kind in "iu" else values
    )
    return different
