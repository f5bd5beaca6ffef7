"""Nested containers of arrays (pytrees), and functions that walk them.

A *tree* is a leaf, or a dict, list, tuple, namedtuple or None whose children are trees. None has no leaves. Everything
else, an array or a scalar, is a leaf. The order of the leaves is always the same: dicts by sorted key, sequences by
position, as in JAX. Two equal trees therefore line up, however they were built.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from fmlp.arguments import function, given, unmasked
from fmlp.recording import asarray, primitive

Array = npt.NDArray[Any]
Tree = Any

__all__ = ["Array", "Tree", "broadcast", "cast", "leaves", "map", "paths", "ravel", "size", "unflatten"]


@overload
def map(f: Callable[[Any], Any], tree: Tree, /) -> Tree: ...
@overload
def map(f: Callable[[Any, Any], Any], tree: Tree, other: Tree, /) -> Tree: ...
@overload
def map(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree: ...
def map(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply `f` to the leaves of one or more trees of the same structure.

    Returns a new tree of the same structure with leaves ``f(leaf, *rest_leaves)``.

    Raises ValueError, naming the path, when the structures differ; TypeError when `f` is not a function.

    >>> map(lambda a, b: a + b, {"w": 1, "b": [2, 3]}, {"w": 10, "b": [20, 30]})
    {'w': 11, 'b': [22, 33]}
    """
    return _map(function("f", f), tree, *rest)


def _map(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    if type(tree) is dict or _is_dict(tree):
        for other in rest:
            if not _is_dict(other) or other.keys() != tree.keys():
                raise _mismatch(tree, other)
        return {key: _at(key, _map, f, child, *[other[key] for other in rest]) for key, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        for other in rest:
            if type(other) is not type(tree) or len(other) != len(tree):
                raise _mismatch(tree, other)
        children = [_at(i, _map, f, *parts) for i, parts in enumerate(zip(tree, *rest, strict=True))]
        return _rebuild(tree, children)
    for other in rest:
        if (other is None) != (tree is None) or isinstance(other, (dict, list, tuple)):
            raise _mismatch(tree, other)
    return None if tree is None else f(tree, *rest)


def leaves(tree: Tree) -> list[Any]:
    """List the leaves, dicts by sorted key, sequences by position.

    Raises TypeError for a dict whose keys cannot be sorted.

    >>> leaves({"w": 1, "b": (2, None, 3)})
    [2, 3, 1]
    """
    found: list[Any] = []
    try:
        _collect(tree, found)
    except TypeError:  # keys that cannot be sorted
        paths(tree)
        raise
    return found


def paths(tree: Tree) -> list[str]:
    """List the leaves' paths in the order of `leaves`: keys and positions joined by ``/``.

    Raises TypeError for a dict key that is not a string, ValueError for a key that is empty or contains a ``/``.

    >>> paths({"dense_0": {"w": 1, "b": 2}, "rest": [3, 4]})
    ['dense_0/b', 'dense_0/w', 'rest/0', 'rest/1']
    """
    return ["/".join(path) for path in _paths(tree)]


def named_leaves(tree: Tree) -> Iterator[tuple[str, Any]]:
    """Yield each leaf with its path, or "the only leaf" if the tree is a leaf itself."""
    for path, leaf in zip(paths(tree), leaves(tree), strict=True):
        yield path or "the only leaf", leaf


def check_unmasked(name: str, tree: Tree) -> None:
    """Raise TypeError, naming the place, for a leaf that is a masked array."""
    if "numpy.ma" in sys.modules and not all(type(leaf) is np.ndarray for leaf in leaves(tree)):
        for path, leaf in named_leaves(tree):
            unmasked(f"{name}: {path}", leaf)


def broadcast(prefix: Tree, tree: Tree) -> Tree:
    """Copy each leaf of `prefix`, a tree that may be shallower, to all leaves of `tree` below it.

    Where `tree` has None, the result has None. Raises ValueError, naming the path, when the structures differ
    otherwise.

    >>> broadcast({"dense": True, "norm": [False, True]}, {"dense": {"w": 1, "b": 2}, "norm": [3, None]})
    {'dense': {'w': True, 'b': True}, 'norm': [False, None]}
    """
    if tree is None:
        return None
    if isinstance(prefix, dict):
        if not isinstance(tree, dict) or prefix.keys() != tree.keys():
            raise _mismatch(tree, prefix)
        return {key: _at(key, broadcast, prefix[key], child) for key, child in tree.items()}
    if isinstance(prefix, (list, tuple)):
        if type(prefix) is not type(tree) or len(prefix) != len(tree):
            raise _mismatch(tree, prefix)
        pairs = zip(prefix, tree, strict=True)
        return _rebuild(tree, [_at(i, broadcast, part, child) for i, (part, child) in enumerate(pairs)])
    if prefix is None:
        raise _mismatch(tree, prefix)
    return _map(lambda leaf: prefix, tree)


def ravel(tree: Tree) -> tuple[Array, Callable[[Array], Tree]]:
    """Concatenate all leaves into one vector, and return it with a function that reverses this.

    Returns ``(vector, unravel)``: `vector` has shape (size(tree),) and the leaves' common dtype;
    ``unravel(vector)`` returns a tree of the same structure whose leaves are views into its argument and have its
    dtype. Raises TypeError for leaves that are not numbers; `unravel` raises ValueError for a vector of another length.

    >>> vector, unravel = ravel({"b": np.zeros(2), "w": np.ones((2, 2))})
    >>> vector
    array([0., 0., 1., 1., 1., 1.])
    >>> unravel(2 * vector)["w"]
    array([[2., 2.],
           [2., 2.]])
    """
    arrays = [leaf if type(leaf) is np.ndarray else asarray(unmasked("tree", leaf)) for leaf in leaves(tree)]
    ends = [*itertools.accumulate([a.size for a in arrays], initial=0)]
    dtypes = {a.dtype for a in arrays} or {np.dtype(np.float32)}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.result_type(*dtypes)
    if dtype.kind not in "fiubc":
        raise _no_numbers(tree)
    vector = concatenated(arrays, dtype)
    shapes = [a.shape for a in arrays]

    def unravel(vector: Array) -> Tree:
        if not isinstance(vector, np.ndarray) or vector.shape != (ends[-1],):
            raise ValueError(f"vector: expected an array of shape ({ends[-1]},), got {given(vector)}")
        pieces = zip(itertools.pairwise(ends), shapes, strict=True)
        return unflatten(tree, [vector[start:end].reshape(shape) for (start, end), shape in pieces])

    return vector, unravel


@primitive
def concatenated(arrays: list[Array], dtype: npt.DTypeLike) -> Array:
    """Join the numbers of all arrays in one vector."""
    vector = aligned(sum(a.size for a in arrays), dtype)
    if arrays:
        np.concatenate(arrays, axis=None, out=vector)
    return vector


def aligned(n: int, dtype: npt.DTypeLike) -> Array:
    """Allocate an uninitialized vector that starts at a cache line, where NumPy's AVX-512 loops run twice as fast."""
    dtype = np.dtype(dtype)
    if dtype.hasobject:  # treating raw memory as Python objects would crash the interpreter
        raise TypeError(f"dtype: expected numbers, got {dtype}")
    memory = np.empty(n * dtype.itemsize + 64, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return np.ndarray((n,), dtype, memory, start)


def unflatten(like: Tree, leaves: Iterable[Any]) -> Tree:
    """Build a tree with the structure of `like` from leaves in the order of `tree.leaves`.

    Raises ValueError when there are too few or too many leaves.

    >>> unflatten({"w": 0, "b": (0, None)}, ["bias", "weight"])
    {'w': 'weight', 'b': ('bias', None)}
    """
    values = iter(leaves)
    try:
        tree = _fill(like, values)
    except StopIteration:
        raise ValueError(f"leaves: expected {len(paths(like))}, as many as `like` has, got fewer") from None
    if next(values, end := object()) is not end:
        raise ValueError(f"leaves: expected {len(paths(like))}, as many as `like` has, got more")
    return tree


def cast(tree: Tree, dtype: npt.DTypeLike) -> Tree:
    """Convert every floating-point leaf to `dtype`; other leaves stay as they are.

    Raises TypeError when `dtype` is not floating-point.

    >>> cast({"w": np.ones(1, np.float32), "n": np.array(3)}, np.float64)
    {'w': array([1.]), 'n': array(3)}
    """

    try:
        floating = np.dtype(dtype).kind == "f"
    except TypeError:
        floating = False
    if not floating:
        raise TypeError(f"dtype: expected a floating-point dtype, such as np.float64, got {given(dtype)}")

    def convert(leaf: Any) -> Any:
        array = asarray(unmasked("tree", leaf))
        return array.astype(dtype, copy=False) if array.dtype.kind == "f" else leaf

    return map(convert, tree)


def size(tree: Tree) -> int:
    """Count the numbers in all leaves.

    >>> size({"w": np.ones((3, 4)), "b": np.ones(4)})
    16
    """
    return sum(np.size(leaf) for leaf in leaves(tree))


def _is_dict(tree: Tree) -> bool:
    return isinstance(tree, dict) and not hasattr(tree, "tocsr")  # SciPy's dok_matrix is a dict, and an array


def _no_numbers(tree: Tree) -> TypeError:
    """Make an error that names the first leaf that does not hold numbers."""
    values = leaves(tree)
    i = next(i for i, leaf in enumerate(values) if np.asarray(leaf).dtype.kind not in "fiubc")
    return TypeError(f"{paths(tree)[i] or 'tree'}: expected an array of numbers, got {given(values[i])}")


def _collect(tree: Tree, found: list[Any]) -> None:
    if type(tree) is dict or _is_dict(tree):
        for key in sorted(tree):
            _collect(tree[key], found)
    elif isinstance(tree, (list, tuple)):
        for child in tree:
            _collect(child, found)
    elif tree is not None:
        found.append(tree)


def _paths(tree: Tree, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if type(tree) is dict or _is_dict(tree):
        for key in tree:
            if not isinstance(key, str):
                raise TypeError(f"{'/'.join(path) or 'tree'}: expected string keys, got {key!r}")
            if not key or "/" in key:
                raise ValueError(f"{'/'.join(path) or 'tree'}: expected keys without '/', got {key!r}")
        for key in sorted(tree):
            yield from _paths(tree[key], (*path, key))
    elif isinstance(tree, (list, tuple)):
        for i, child in enumerate(tree):
            yield from _paths(child, (*path, str(i)))
    elif tree is not None:
        yield path


def _fill(tree: Tree, values: Iterator[Any]) -> Tree:
    """Rebuild `tree`, taking its leaves from `values` in order."""
    if type(tree) is dict or _is_dict(tree):
        filled = dict(tree)  # keeps the order of the keys
        for key in sorted(tree):
            filled[key] = _fill(tree[key], values)
        return filled
    if isinstance(tree, (list, tuple)):
        return _rebuild(tree, [_fill(child, values) for child in tree])
    return None if tree is None else next(values)


def _rebuild(like: Any, children: list[Any]) -> Any:
    if hasattr(like, "_fields"):
        return type(like)(*children)
    return type(like)(children)


class _MismatchError(ValueError):
    """A ValueError whose path gets longer as the error rises through the tree."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path or 'tree'}: {what}")
        self.path, self.what = path, what

    def __reduce__(self) -> tuple[Any, ...]:
        """Make it picklable, so that it can come back from another process."""
        return type(self), (self.path, self.what)


def _mismatch(tree: Tree, other: Tree) -> _MismatchError:
    return _MismatchError("", f"expected {_describe(tree)}, got {_describe(other)}")


def _describe(tree: Tree) -> str:
    if type(tree) is dict or _is_dict(tree):
        return f"a dict with keys {list(tree)}"
    if isinstance(tree, (list, tuple)):
        return f"a {type(tree).__name__} of {len(tree)}"
    return "None" if tree is None else "a leaf"


def _at(key: Any, walk: Callable[..., Tree], *args: Any) -> Tree:
    try:
        return walk(*args)
    except _MismatchError as error:
        raise _MismatchError(f"{key}/{error.path}".rstrip("/"), error.what) from None
