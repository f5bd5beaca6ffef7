"""Parameters in a safetensors file, one tensor for each leaf, named by its path (``pip install 'fmlp[safetensors]'``).

Any safetensors reader can open the file: ``safetensors.torch.load_file(path)["dense_0/w"]``. The format holds numbers
and booleans only; for strings use the npz file of `fmlp.save`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

try:
    import safetensors
except ModuleNotFoundError:
    raise ModuleNotFoundError("fmlp.safetensors needs safetensors: pip install 'fmlp[safetensors]'") from None
import safetensors.numpy

from fmlp.arguments import StrPath
from fmlp.files import opened, reading, replacing, shown
from fmlp.serialization import named, unnamed
from fmlp.tree import Array, Tree

__all__ = ["load", "load_metadata", "load_with_metadata", "save"]

_DTYPES = "BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64"


def save(path: StrPath, params: Tree, *, metadata: dict[str, str] | None = None) -> None:
    """Write a tree of arrays to a safetensors file, atomically: the old file stays until the new one is complete.

    `metadata`, a dict from strings to strings, is stored in the file; `load_metadata` reads it.

    Raises the ValueError and TypeError of `fmlp.save`, and TypeError for leaves or metadata that the format cannot
    hold.

    >>> import os, tempfile
    >>> file = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> save(file, {"dense_0": {"w": np.ones((2, 1))}}, metadata={"classes": "0-9"})
    >>> load(file), load_metadata(file)
    ({'dense_0': {'w': array([[1.],
           [1.]])}}, {'classes': '0-9'})
    """
    arrays = named(params)
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise TypeError(f"{name}: expected numbers or booleans of at most 64 bits, got {array.dtype}")
        arrays[name] = np.array(array, order="C")  # in memory as in the file
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata: expected a dict from strings to strings, got {key!r}: {value!r}")
    contents = safetensors.numpy.save(arrays, metadata or None)
    with replacing(path) as file:
        file.write(contents)


def load(path: StrPath, like: Tree = None) -> Tree:
    """Read a tree of arrays from a safetensors file.

    With `like`, the result has the structure of `like`, and each leaf the shape and dtype of the leaf there. Without
    it, the result is nested dicts, by path.

    Raises FileFormatError, a ValueError, when the file is not a safetensors file, is damaged, holds a dtype that NumPy
    lacks, such as bfloat16, or a name like ``../w``, or does not fit `like`: the error then names every missing, extra
    or misshapen leaf. Raises FileNotFoundError when there is no file.
    """
    return load_with_metadata(path, like)[0]


def load_with_metadata(path: StrPath, like: Tree = None) -> tuple[Tree, dict[str, str]]:
    """Return what `load` and `load_metadata` return, both from one version of a file that is replaced meanwhile."""
    with _opened(path) as file:
        arrays = {name: _tensor(file, name) for name in file.keys()}  # noqa: SIM118 - not a dict
        metadata = file.metadata() or {}
    return unnamed(arrays, like, path), metadata


def load_metadata(path: StrPath) -> dict[str, str]:
    """Read the metadata that `save` stored in the file; raises the errors of `load`."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: StrPath) -> Iterator[Any]:
    import json

    same = False
    while not same:  # the library opens the path again, and must get the same file that was checked
        with reading(path, "safetensors"), opened(path) as stream, safetensors.safe_open(path, "np") as file:
            same = os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
            if same:
                json.loads(stream.read(int.from_bytes(stream.read(8), "little")), object_pairs_hook=_each_once)
                yield file


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse a tensor that is described twice, because readers differ in which they take; the library accepts it."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"expected every name once, got {shown(next(n for n in names if names.count(n) > 1))} again")


def _tensor(file: Any, name: str) -> Array:
    dtype = file.get_slice(name).get_dtype()
    if dtype not in _DTYPES:
        raise TypeError(f"{shown(name)}: expected one of {', '.join(_DTYPES)}, got {dtype}")
    tensor: Array = file.get_tensor(name)
    return tensor
