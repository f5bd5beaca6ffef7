"""Parameters in an npz file with one array for each leaf, named by its path, and never any pickle.

Any program that reads npz can read the file: ``np.load(path)["dense_0/w"]``. Functions import `zipfile` and `json` when
they need them, because these would take a tenth of the time of ``import fmlp``.
"""

from __future__ import annotations

import os
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from fmlp import tree
from fmlp.arguments import given, unmasked
from fmlp.arguments import path as checked_path
from fmlp.files import KINDS, FileFormatError, read_npz, reading, replacing, shown
from fmlp.tree import Array, Tree

__all__ = ["load", "load_metadata", "load_with_metadata", "save"]

_METADATA = "__metadata__"


def save(path: str | os.PathLike[str], params: Tree, *, metadata: dict[str, Any] | None = None) -> None:
    """Write a tree of arrays to an npz file, atomically: the old file stays until the new one is complete.

    The leaves are numbers, strings, booleans or arrays of them. `metadata`, a dict that JSON can hold, is stored in the
    file; `load_metadata` reads it, with tuples as lists and NumPy's numbers as Python's. The file gets exactly the name
    given, without an added suffix; if that is a link, its target is replaced.

    Raises ValueError or TypeError for a tree without leaves, with keys that contain ``/`` or are ``.`` or ``..``, or
    with leaves that are other objects; for a `FitResult` in place of its parameters; for metadata that JSON cannot hold
    or with keys that are not strings; and for a path that is a folder. Raises FileNotFoundError when the folder of the
    path does not exist.

    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/model.npz"
    >>> save(file, {"dense_0": {"w": np.ones((2, 1))}}, metadata={"classes": "0-9"})
    >>> load(file), load_metadata(file)
    ({'dense_0': {'w': array([[1.],
           [1.]])}}, {'classes': '0-9'})
    """
    import json

    checked_path("path", path)
    if not isinstance(metadata, dict | None):
        raise TypeError(f"metadata: expected a dict, got {given(metadata)}")
    try:
        text = json.dumps(metadata or {}, default=_as_python)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata: expected a dict that JSON can hold: {error}") from None
    _check_keys(metadata, "metadata")
    arrays = named(params)
    arrays[_METADATA] = np.array(text)
    with replacing(path) as file:
        write_npz(file, arrays)


def named(params: Tree) -> dict[str, Array]:
    """Return the leaves as arrays, by path; raises the errors of `save`."""
    if {"params", "history"} <= {*getattr(params, "_fields", ())}:
        raise TypeError(f"params: expected a tree of arrays, got a {type(params).__name__}; pass result.params")
    arrays = {}
    for name, leaf in zip(tree.paths(params), tree.leaves(params), strict=True):
        arrays[name] = np.asarray(unmasked(name, leaf))
        if arrays[name].dtype.kind not in KINDS:
            what = "objects" if arrays[name].dtype.hasobject else arrays[name].dtype
            raise TypeError(f"{name}: expected an array of numbers, got {type(leaf).__name__} of {what}")
    if not arrays or "" in arrays:
        raise ValueError(f"params: expected a dict, list or tuple with at least one array in it, got {given(params)}")
    if _METADATA in arrays:
        raise ValueError(f"params: the key {_METADATA} is taken for the metadata")
    _nested(arrays)
    return arrays


def load(path: str | os.PathLike[str], like: Tree = None) -> Tree:
    """Read a tree of arrays from an npz file.

    With `like`, the result has the structure of `like`, and each leaf the shape and dtype of the leaf there. Without
    it, the result is nested dicts, by path, in this machine's byte order.

    Raises FileFormatError, a ValueError, when the file is not a readable npz file of numbers and strings, is damaged,
    has a name twice or a name like ``../w``, or unpacks to more than 64 MiB and 100 times its size (`save` does not
    compress). The same error, naming every missing, extra or misshapen leaf, is raised when the file does not fit
    `like`, which includes numbers too large and strings too long for their dtype. Raises FileNotFoundError when there
    is no file.
    """
    arrays = read_npz(checked_path("path", path))
    arrays.pop(_METADATA, None)
    return unnamed(arrays, like, path)


def load_with_metadata(path: str | os.PathLike[str], like: Tree = None) -> tuple[Tree, dict[str, Any]]:
    """Return what `load` and `load_metadata` return, both from one version of a file that is replaced meanwhile.

    Raises the errors of `load`.

    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/model.npz"
    >>> save(file, {"w": np.ones(1)}, metadata={"classes": "0-9"})
    >>> load_with_metadata(file)
    ({'w': array([1.])}, {'classes': '0-9'})
    """
    arrays = read_npz(checked_path("path", path))
    metadata = _parsed(arrays.pop(_METADATA, None), path)
    return unnamed(arrays, like, path), metadata


def unnamed(arrays: dict[str, Array], like: Tree, path: str | os.PathLike[str]) -> Tree:
    """Return the tree made of the arrays in the file at `path`; raises the errors of `load`."""
    with reading(path, "parameters"):
        nested = _nested(arrays)
    if like is None:
        return nested
    expected = dict(zip(tree.paths(like), tree.leaves(like), strict=True))
    wrong = [f"{name}: missing from the file" for name in expected if name not in arrays]
    wrong += [f"{shown(name)}: in the file, not expected" for name in arrays if name not in expected]
    for name in expected.keys() & arrays.keys():
        want, got = np.asarray(expected[name]), arrays[name]
        if want.shape != got.shape:
            wrong.append(f"{name}: expected shape {want.shape}, got {got.shape}")
        elif not np.can_cast(got.dtype, want.dtype, "same_kind" if got.dtype.kind in "biufc" else "safe"):
            wrong.append(f"{name}: expected dtype {want.dtype}, got {got.dtype}")
        elif want.dtype.kind in "iu" and (got.astype(want.dtype) != got).any():
            wrong.append(f"{name}: expected values that fit into {want.dtype}, got {got.min()} to {got.max()}")
    if wrong:
        raise FileFormatError(f"{os.fspath(path)} does not fit:\n  " + "\n  ".join(sorted(wrong)))
    with reading(path, "parameters of these dtypes"), np.errstate(over="raise", invalid="ignore"):  # NaN stays NaN
        leaves = [arrays[name].astype(np.asarray(e).dtype, copy=False) for name, e in expected.items()]
    return tree.unflatten(like, leaves)


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata that `save` stored in the file; raises the errors of `load`."""
    return _parsed(read_npz(checked_path("path", path), only=_METADATA).get(_METADATA), path)


def _parsed(text: Array | None, path: str | os.PathLike[str]) -> dict[str, Any]:
    import json

    with reading(path, "metadata"):
        metadata = {} if text is None else json.loads(text.item())
        if not isinstance(metadata, dict):
            raise TypeError(f"expected a JSON object, got {type(metadata).__name__}")
    return metadata


def _as_python(value: Any) -> Any:
    """Return a NumPy number as a Python number, for JSON."""
    if isinstance(value, np.generic) and not isinstance(item := value.item(), np.generic):  # as of a longdouble
        return item
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def _check_keys(value: Any, path: str) -> None:
    """Refuse keys that JSON would turn into strings, because they would not be found after loading."""
    for key, child in value.items() if isinstance(value, dict) else ():
        if not isinstance(key, str):
            raise TypeError(f"{path}: expected strings as keys, as JSON has no others, got {key!r}; store str(key)")
        _check_keys(child, f"{path}/{key}")
    for i, child in enumerate(value if isinstance(value, list | tuple) else ()):
        _check_keys(child, f"{path}/{i}")


def _nested(arrays: dict[str, Any]) -> dict[str, Any]:
    """Build nested dicts by path; raises ValueError for a path that cannot be in a tree or leads out of a folder."""
    nested: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = keys = name.split("/")
        if len(keys) > 100 or "\0" in name or not {"", ".", ".."}.isdisjoint(keys):
            raise ValueError(f"{shown(name)}: expected at most 100 keys joined by '/', none of them empty, '.' or '..'")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{shown(name)}: {shown(parent)} is an array, and cannot hold another")
        if last in node:
            raise ValueError(f"{shown(name)}: holds other arrays, and cannot be one")
        node[last] = array
    return nested


def write_npz(file: IO[bytes], arrays: dict[str, Any]) -> None:
    """Write arrays of any name, and raise any error that interrupts it; `np.savez` does neither."""
    import zipfile

    archive = None
    try:
        archive = zipfile.ZipFile(file, "w")
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)
        archive.close()
    finally:
        if archive is not None:
            archive.fp = None  # an interrupted archive cannot be closed; that error would hide the cause
