"""Parameters in a file: npz with one array for each leaf, named by its path. No pickle, ever.

Any program that reads npz can read the file: ``np.load(path)["dense_0/w"]``. What reads and writes zip files is
imported when it is used: it would take a tenth of the time of ``import fmlp``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from fmlp import tree
from fmlp.tree import Tree

__all__ = ["load", "load_metadata", "save"]

_METADATA = "__metadata__"


def save(path: str | os.PathLike[str], params: Tree, *, metadata: dict[str, Any] | None = None) -> None:
    """Write a tree of arrays to an npz file, atomically: the old file stays until the new one is complete.

    `metadata`, a dict that JSON can hold, travels in the file; `load_metadata` reads it. The leaves are numbers,
    strings, booleans or arrays of them. The file is written under the very name given.

    Raises ValueError or TypeError for a tree without leaves, with keys that hold ``/``, or with leaves of objects.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "model.npz"
    >>> save(file, {"dense_0": {"w": np.ones((2, 1))}}, metadata={"classes": "0-9"})
    >>> load(file), load_metadata(file)
    ({'dense_0': {'w': array([[1.],
           [1.]])}}, {'classes': '0-9'})
    """
    import json
    import tempfile

    arrays = {}
    for name, leaf in zip(tree.paths(params), tree.leaves(params), strict=True):
        arrays[name] = np.asarray(leaf)
        if arrays[name].dtype.hasobject:
            raise TypeError(f"{name}: expected an array of numbers, got {type(leaf).__name__} of objects")
    if not arrays or "" in arrays:
        raise ValueError("params: expected a dict, list or tuple with at least one array in it")
    if _METADATA in arrays:
        raise ValueError(f"params: the key {_METADATA} is taken for the metadata")
    arrays[_METADATA] = np.array(json.dumps(metadata or {}))
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(file, arrays)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str], like: Tree = None) -> Tree:
    """Read a tree of arrays from an npz file.

    With `like`, the result has its structure, and every leaf its shape and dtype; without, it is nested dicts by path.

    Raises ValueError when the file is no readable npz or holds pickled objects, or, naming every missing, extra or
    mis-shaped leaf, when it does not fit `like`; FileNotFoundError when there is none.
    """
    arrays = _read(path)
    arrays.pop(_METADATA, None)
    if like is None:
        nested: dict[str, Any] = {}
        for name, array in arrays.items():
            *parents, last = name.split("/")
            node = nested
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = array
        return nested
    expected = dict(zip(tree.paths(like), tree.leaves(like), strict=True))
    wrong = [f"{name}: missing from the file" for name in expected if name not in arrays]
    wrong += [f"{name}: in the file, not expected" for name in arrays if name not in expected]
    for name in expected.keys() & arrays.keys():
        want, got = np.asarray(expected[name]), arrays[name]
        if want.shape != got.shape:
            wrong.append(f"{name}: expected shape {want.shape}, got {got.shape}")
        elif want.dtype != got.dtype and not np.can_cast(got.dtype, want.dtype, "same_kind"):
            wrong.append(f"{name}: expected dtype {want.dtype}, got {got.dtype}")
    if wrong:
        raise ValueError(f"{os.fspath(path)} does not fit:\n  " + "\n  ".join(sorted(wrong)))
    return tree.unflatten(like, [arrays[n].astype(np.asarray(e).dtype, copy=False) for n, e in expected.items()])


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata that `save` put into the file; raises what `load` raises."""
    import json

    text = _read(path, only=_METADATA).get(_METADATA)
    metadata: dict[str, Any] = {} if text is None else json.loads(str(text))
    return metadata


# An npz is a zip of npy files. np.savez and np.load would do, but for leaves called `file`, `allow_pickle` or `w.npy`.


def _write(file: IO[bytes], arrays: dict[str, Any]) -> None:
    import zipfile

    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)


def _read(path: str | os.PathLike[str], only: str | None = None) -> dict[str, Any]:
    import zipfile
    import zlib

    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                if only in (None, name):
                    with archive.open(member) as file:
                        arrays[name] = npy.read_array(file, allow_pickle=False)
        return arrays
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{os.fspath(path)}: expected an npz file of arrays without pickled objects: {error}"
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
