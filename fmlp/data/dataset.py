"""A data set: training and test rows, read from files, or split from one table."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fmlp.arguments import StrPath, array, integer, number
from fmlp.arguments import path as checked_path
from fmlp.batches import drawn, labels_of
from fmlp.data.idx import idx_files, magic, read_idx
from fmlp.data.precision import cast, floating
from fmlp.data.tables import read_csv
from fmlp.files import Array, FileFormatError, listed, read_npy, read_npz

__all__ = ["Dataset", "checked", "load", "train_test_split"]

_NPY = ("train_data.npy", "train_label.npy", "test_data.npy", "test_label.npy")


class Dataset(NamedTuple):
    """Training and test rows: x has shape (rows, features), y (rows,) or (rows, outputs)."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


def load(
    path: StrPath,
    *,
    label: str | int | None = None,
    header: bool | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Read a data set from a folder or a file.

    `path` is one of these:

    - a folder with `train_data.npy`, `train_label.npy`, `test_data.npy` and `test_label.npy`: the features stay on
      disk, memory-mapped, in the files' dtype;
    - a folder with MNIST's files, `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same for `t10k-` or
      `test-`, each plain or `.gz`; names like `train-images.idx3-ubyte` and `emnist-letters-train-images-idx3-ubyte`
      are accepted too. Each image becomes one row of rows × columns features, scaled to 0 to 1 if the file holds
      unsigned bytes;
    - an `.npz` file with the arrays `x_train`, `y_train`, `x_test`, `y_test`, or with `x`, `y`;
    - a `.csv` file; `label` is the name or position of the label's column, by default the last, and `header` says
      whether the first line is a header (`read_csv`).

    A CSV file and the arrays `x`, `y` are split by ``train_test_split(x, y, test_fraction, seed)``.

    Returns a `Dataset`. Features are float32 unless memory-mapped. Labels stored as integers are int64; other targets
    are float32. Features or targets are float64 if rounding to float32 would make different rows equal. That can happen
    in a column with numbers of 2²⁴ or more, or with numbers larger than 16 times the column's range, such as UNIX times
    and dates like 20240131; `standardize` makes them float32. Labels of shape (rows, 1) become (rows,).

    Raises FileFormatError when a file is missing from the folder, damaged or empty, when the numbers of rows and labels
    differ, when training and test rows differ in width, or when a value is NaN, infinite, too large for float32 or a
    whole number that float64 cannot represent (memory-mapped features are not scanned); FileNotFoundError when `path`
    does not exist; ValueError when `test_fraction` is not between 0 and 1, or when `label` or `header` is given and
    `path` is not a CSV file.

    >>> data = load("data/digits.npz")
    >>> data.x_train.shape, data.x_train.dtype, data.y_test.shape, data.y_test.dtype
    ((1438, 64), dtype('float32'), (359,), dtype('int64'))
    """
    path = Path(checked_path("path", path))
    test_fraction, seed = number("test_fraction", test_fraction, "(0, 1)"), integer("seed", seed, 0)
    suffix = path.suffix.lower()
    path.stat()  # raises FileNotFoundError
    for name, value in (("label", label), ("header", header)):
        if value is not None and suffix != ".csv":
            raise ValueError(f"{path}: {name}={value!r} is for CSV files only")
    if path.is_dir():
        return _load_folder(path)
    if suffix == ".csv":
        arrays = dict(zip("xy", read_csv(path, label, header=header), strict=True))
    elif suffix == ".npz":
        arrays = read_npz(path)
    else:
        raise FileFormatError(f"{path}: expected a folder, an .npz file or a .csv file")

    names = Dataset._fields
    if arrays.keys() >= set(names):
        return checked([arrays[name] for name in names], [f"{path}: {name}" for name in names])
    if not arrays.keys() >= {"x", "y"}:
        raise FileFormatError(f"{path}: expected arrays {', '.join(names)}, or x, y; found {listed(list(arrays))}")
    x, y = _examples([arrays["x"], arrays["y"]], [f"{path}: x", f"{path}: y"])
    if len(x) < 2:
        raise FileFormatError(f"{path}: expected at least 2 rows, to split, got 1")
    return train_test_split(x, y, test_fraction, seed)


def train_test_split(x: Array, y: Array, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Set aside `test_fraction` of the rows, drawn at random from `seed`; at least 1 row and never all of them.

    If `y` holds labels (integers, booleans or strings of shape (rows,) or (rows, 1)), each label is split in the same
    proportion, rounded up or down to whole rows. If there is room, a label with two or more rows appears in both parts,
    however rare it is, and a label with one row in the training part. Rows are copied and keep their order.

    Raises ValueError when `x` and `y` differ in length or have fewer than two rows, or `test_fraction` is not
    between 0 and 1.

    >>> split = train_test_split(np.arange(20).reshape(10, 2), np.array([0] * 5 + [1] * 5))
    >>> split.x_test.shape, split.y_test
    ((2, 2), array([0, 1]))
    """
    x, y = array("x", x), array("y", y)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(y) < 2:
        raise ValueError(f"x, y: expected as many rows as labels, at least 2, got shapes {x.shape} and {y.shape}")
    n, test_fraction, seed = len(y), number("test_fraction", test_fraction, "(0, 1)"), integer("seed", seed, 0)
    count = min(max(round(n * test_fraction), 1), n - 1)
    rng = np.random.default_rng(seed)
    test = drawn(rng.permutation(n), labels_of(y), count, int(rng.integers(n)))
    return Dataset(x[~test], y[~test], x[test], y[test])


def _load_folder(path: Path) -> Dataset:
    names = sorted(entry.name for entry in path.iterdir())
    if any(name in names for name in _NPY):
        if missing := [name for name in _NPY if name not in names]:
            raise FileFormatError(f"{path}: expected {', '.join(missing)} too, found {listed(names)}")
        return checked([read_npy(path / name) for name in _NPY], [str(path / name) for name in _NPY])

    if not (found := idx_files(path, names)):
        raise FileFormatError(f"{path}: expected {', '.join(_NPY)}, or MNIST's files; found {listed(names)}")
    arrays = []
    for name, kind, dimensions in zip(found, ("images", "labels") * 2, (3, 1) * 2, strict=True):
        arrays.append(values := read_idx(path / name))
        if values.ndim != dimensions:
            start = magic(values)
            raise FileFormatError(
                f"{path / name}: expected {kind}, of dimensions {dimensions} (magic number "
                f"{start - values.ndim + dimensions}), got {values.ndim} ({start})"
            )
    for i in (0, 2):
        rows = arrays[i].reshape(len(arrays[i]), -1)
        arrays[i] = rows / np.float32(255) if rows.dtype == np.uint8 else rows
    return checked(arrays, [str(path / name) for name in found])


def checked(arrays: list[Array], names: list[str]) -> Dataset:
    """Make a data set from its arrays, which must fit each other; errors call them by `names`."""
    x_train, y_train, x_test, y_test = _examples(arrays, names)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise FileFormatError(
            f"{names[2]}: expected rows of shape {x_train.shape[1:]} as in {names[0]}, got {x_test.shape[1:]}"
        )
    if y_train.shape[1:] != y_test.shape[1:] or y_train.dtype != y_test.dtype:
        raise FileFormatError(
            f"{names[3]}: expected {y_train.dtype} of row shape {y_train.shape[1:]} as in {names[1]}, "
            f"got {y_test.dtype} of {y_test.shape[1:]}"
        )
    return Dataset(x_train, y_train, x_test, y_test)


def _examples(arrays: list[Array], names: list[str]) -> list[Array]:
    """Check x and y of each part of a data set, and cast them to the dtypes that `load` promises."""
    xs, ys = arrays[::2], [y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for y in arrays[1::2]]
    for x, y, x_name, y_name in zip(xs, ys, names[::2], names[1::2], strict=True):
        for array_, name in ((x, x_name), (y, y_name)):
            if array_.dtype.kind not in "biuf":
                raise FileFormatError(f"{name}: expected numbers, got dtype {array_.dtype}")
        if x.ndim < 2 or not x.size:
            raise FileFormatError(f"{x_name}: expected shape (rows, features), at least one of each, got {x.shape}")
        if y.ndim not in (1, 2) or not y.size:
            raise FileFormatError(
                f"{y_name}: expected shape (rows,) or (rows, outputs), at least one of each, got {y.shape}"
            )
        if len(x) != len(y):
            raise FileFormatError(f"{y_name}: expected {len(x)} labels, one for each row of {x_name}, got {len(y)}")
    features = floating([x for x in xs if not isinstance(x, np.memmap)])
    targets = floating([y for y in ys if y.dtype.kind == "f"])
    result = []
    for x, y, x_name, y_name in zip(xs, ys, names[::2], names[1::2], strict=True):
        result.append(x if isinstance(x, np.memmap) else cast(x, features, x_name))
        result.append(cast(y, targets if y.dtype.kind == "f" else np.dtype(np.int64), y_name))
    return result
