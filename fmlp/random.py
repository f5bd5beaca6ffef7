"""Explicit random keys: the same key gives the same bits, in any order of calls.

A key is an array of three uint64. It seeds a stream, `generator(key)`, and makes further keys, `split(key, n)` and
`fold_in(key, i)`, by the mixing function of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
number generators"). Use each key once: for a stream, or to make other keys.
"""

from __future__ import annotations

import functools
import sys
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fmlp.arguments import given, integer, number, shape_of_one
from fmlp.recording import primitive

if TYPE_CHECKING:  # numpy.random is loaded with the first key, because it takes a quarter of NumPy's import time
    from numpy.random import SFC64, Generator

Key: TypeAlias = npt.NDArray[np.uint64]

__all__ = ["Key", "bernoulli", "fold_in", "generator", "key", "split"]

_UINT64 = np.dtype(np.uint64)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = 30, 27, 31
_FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_FOLD = 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1, 0x510E527FADE682D1
_MASK = (1 << 64) - 1


def key(seed: int) -> Key:
    """Make a key from a non-negative integer of any size.

    Raises TypeError when `seed` is not an integer, ValueError when it is negative.

    >>> key(0).shape, key(0).dtype
    ((3,), dtype('uint64'))
    """
    return np.random.SeedSequence(integer("seed", seed, 0)).generate_state(3, np.uint64).astype(np.uint64, copy=False)


def split(key: Key, n: int = 2) -> Key:
    """Make `n` independent keys, the rows of a uint64 array of shape (n, 3).

    Raises TypeError or ValueError when `key` is not a key or `n` is not an integer of at least 0.

    >>> left, right = split(key(0))
    """
    _check(key)
    _check_integer("n", n)
    keys: Key = _mix(key + _GOLDEN * np.arange(1, n + 1, dtype=np.uint64)[:, None])
    return keys


@primitive
def fold_in(key: Key, i: int) -> Key:
    """Make the `i`-th key derived from `key`, as for a step or an epoch; 0 ≤ i < 2⁶⁴.

    Raises TypeError or ValueError when `key` is not a key or `i` is not an integer in that range.

    >>> bool((fold_in(key(0), 1) == fold_in(key(0), 1)).all())
    True
    """
    _check(key)
    _check_integer("i", i)
    i = int(i)
    # In Python's integers, because NumPy is slower on as few as three words.
    words = [_mix(_mix(word ^ fold) + i & _MASK) for word, fold in zip(key.tolist(), _FOLD, strict=True)]
    return np.array(words, np.uint64)


def generator(key: Key) -> Generator:
    """Start the key's stream: a NumPy Generator.

    Raises TypeError or ValueError when `key` is not a key.

    >>> float(generator(key(0)).random()) == float(generator(key(0)).random())
    True
    """
    _check(key)
    return np.random.Generator(_stream(key))


def bernoulli(key: Key, p: float, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Draw booleans that are True with probability `p`, rounded to a multiple of 2⁻¹⁶.

    Each takes sixteen bits straight from the bit generator, which is several times faster than comparing floats.

    Raises TypeError or ValueError when `key` is not a key, `p` is not a number in [0, 1] or `shape` is not a shape.

    >>> bernoulli(key(0), 0.5, (2, 3)).shape
    (2, 3)
    """
    if type(p) is not float or not 0 <= p <= 1:
        p = number("p", p, "[0, 1]")
    _check(key)
    try:
        n = prod(shape)
        raw: Any = _raw(key, -(-n // 4))
    except (TypeError, ValueError):
        shape_of_one("shape", shape)
        raise
    if sys.byteorder == "big":
        raw = raw.byteswap()
    below: npt.NDArray[np.bool_] = raw.view(np.uint16)[:n] < round(p * 65536)
    return below.reshape(shape)


@primitive
def _raw(key: Key, n: int) -> npt.NDArray[np.uint64]:
    raw: npt.NDArray[np.uint64] = _stream(key).random_raw(n)
    return raw


def _stream(key: Key) -> SFC64:
    bit_generator, words = _stream_types()
    stream: SFC64 = bit_generator(words(key))
    return stream


@functools.cache
def _stream_types() -> tuple[Any, Any]:
    from numpy.random import SFC64
    from numpy.random.bit_generator import ISeedSequence

    class Words(ISeedSequence):
        """Pass the key to SFC64 unchanged: its bits are already mixed, and hashing them again would cost 10 µs."""

        def __init__(self, words: Key) -> None:
            self.words = words

        def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Key:
            return np.ascontiguousarray(self.words)  # SFC64 reads the memory and ignores strides

    return SFC64, Words


def _mix(z: Any) -> Any:
    """Mix an integer, or each word of a uint64 array, whose arithmetic wraps around."""
    z = (z ^ z >> _SHIFTS[0]) * _FACTORS[0] & _MASK
    z = (z ^ z >> _SHIFTS[1]) * _FACTORS[1] & _MASK
    return z ^ z >> _SHIFTS[2]


def _check(key: Key) -> None:
    if not isinstance(key, np.ndarray) or key.dtype != _UINT64:
        raise TypeError(f"key: expected a key, as random.key(seed) makes it, got {given(key)}")
    if key.shape != (3,):
        raise ValueError(f"key: expected one key, of shape (3,), got shape {key.shape}; take one of its rows")


def _check_integer(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, got {given(value)}")
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{name}: expected an integer from 0 to 2**64 - 1, got {value}")
