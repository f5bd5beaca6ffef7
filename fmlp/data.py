"""Data sets: readers for npy, npz, IDX and CSV, and a generated set whose best possible accuracy is known.

`load` reads whatever a path holds. A reader never unpickles, compares what a file promises with what it
holds before it allocates, and answers whatever is wrong with a file with a `FileFormatError`, which names
the file, what was found and what was expected (`fmlp.files` says more).
"""

from __future__ import annotations

import copy
import csv
import gzip
import os
import struct
from array import array
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import chain
from math import isfinite, prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fmlp import random
from fmlp.batching import slices
from fmlp.checks import StrPath, array_of_numbers, finite, given, integer, number
from fmlp.checks import path as checked_path
from fmlp.files import Array, FileFormatError, opened, read_npy, read_npz, reading, replacing, shown, unpacked_limit

__all__ = [
    "Batches",
    "Dataset",
    "gaussian_classes",
    "label_balance",
    "load",
    "moments",
    "read_csv",
    "read_idx",
    "read_npy",
    "read_npz",
    "standardize",
    "train_test_split",
]

_NPY = ("train_data.npy", "train_label.npy", "test_data.npy", "test_label.npy")
_IDX = ("images-idx3-ubyte", "labels-idx1-ubyte")
_PARTS = (("train",), ("t10k", "test"))
_RADIUS, _NOISE = 4.5, 0.44  # of gaussian_classes; with ten classes the Bayes accuracy is near 60 %
_LINE = 16 << 20  # characters of a CSV file's line at most; a file of zeros is one line
_RECIPE = 1  # goes up when gaussian_classes draws other numbers, so that no cache outlives its recipe


class Dataset(NamedTuple):
    """Training and test rows: `x` (rows, features), `y` (rows,) or (rows, outputs)."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


def load(path: StrPath, *, label: str | int | None = None, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Read a data set from what `path` is.

    - a folder with `train_data.npy`, `train_label.npy`, `test_data.npy` and `test_label.npy`: the features
      stay on disk, memory-mapped, in the files' dtype;
    - a folder with MNIST's files, `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, then `t10k-` or
      `test-`, each plain or `.gz`: an image becomes one row of rows × columns features from 0 to 1;
    - an `.npz` file with the arrays `x_train`, `y_train`, `x_test`, `y_test`, or with `x`, `y`;
    - a `.csv` file; `label` is the name or position of the label's column, by default the last (`read_csv`).

    Where there is no split, in CSV and with `x`, `y`, it is ``train_test_split(x, y, test_fraction, seed)``.

    Returns a `Dataset`: features float32 unless memory-mapped; labels int64 when stored as integers,
    otherwise targets float32. Labels of shape (rows, 1) become (rows,).

    Raises FileFormatError when a file is missing from the folder, damaged or empty, rows and labels differ in
    number, training and test rows in width, or a value is NaN or infinite (features that are memory-mapped
    are not scanned); FileNotFoundError when there is nothing at `path`; ValueError when `test_fraction` is
    not between 0 and 1, or `label` is given for no CSV file.

    >>> data = load("data/digits.npz")
    >>> data.x_train.shape, data.x_train.dtype, data.y_test.shape, data.y_test.dtype
    ((1438, 64), dtype('float32'), (359,), dtype('int64'))
    """
    path = Path(checked_path("path", path))
    test_fraction, seed = number("test_fraction", test_fraction, "(0, 1)"), integer("seed", seed, 0)
    suffix = path.suffix.lower()
    path.stat()  # raises FileNotFoundError
    if label is not None and suffix != ".csv":
        raise ValueError(f"{path}: label={label!r} is for CSV files only")
    if path.is_dir():
        return _load_folder(path)
    if suffix == ".csv":
        arrays = dict(zip("xy", read_csv(path, label), strict=True))
    elif suffix == ".npz":
        arrays = read_npz(path)
    else:
        raise FileFormatError(f"{path}: expected a folder, an .npz file or a .csv file")

    names = Dataset._fields
    if arrays.keys() >= set(names):
        return _dataset([arrays[name] for name in names], [f"{path}: {name}" for name in names])
    if not arrays.keys() >= {"x", "y"}:
        raise FileFormatError(f"{path}: expected arrays {', '.join(names)}, or x, y; found {_some(list(arrays))}")
    x, y = _examples(arrays["x"], arrays["y"], f"{path}: x", f"{path}: y")
    if len(x) < 2:
        raise FileFormatError(f"{path}: expected at least 2 rows, to split, got 1")
    return train_test_split(x, y, test_fraction, seed)


class Batches:
    """Batches ``(x, y)`` of Parquet or CSV files, read as they are asked for: data for `fit` larger than memory.

    `path` is a file, a folder of files or a list of files, all Parquet or all CSV, with the same columns, of numbers.
    `label` is the column to predict: y is (rows,), int64 if it holds integers (in CSV, if the first file begins with
    integers), else float32. x is (rows, features) float32, the other columns in their order. Each batch has
    `batch_size` rows; the last has what is left, and if that is one row, it joins the one before.

    `fit` asks for each epoch's order by ``shuffled(key)``: CSV files, or row groups of Parquet, come in random order,
    and rows in random order within each `window` of them. On several ranks each reads its part: ``part=(comm.rank,
    comm.size)`` is every size-th row group or CSV file, and `batch_size` is the rank's own.

    Needs pyarrow. Raises ModuleNotFoundError without it, FileFormatError for files that are not what they should be,
    or have missing values or numbers too large for these dtypes; TypeError or ValueError for other arguments that do
    not fit.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.csv").write_text("height,width,kind\\n1.5,2,0\\n3,4,1\\n")
    ...     [(x, y)] = Batches(folder, "kind")
    >>> x, y
    (array([[1.5, 2. ],
           [3. , 4. ]], dtype=float32), array([0, 1]))
    """

    def __init__(
        self,
        path: StrPath | list[StrPath],
        label: str,
        batch_size: int = 32,
        *,
        window: int = 1 << 16,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        try:
            import pyarrow.dataset
        except ModuleNotFoundError:
            raise ModuleNotFoundError("data.Batches needs pyarrow: pip install 'fmlp[parquet]'") from None
        batch_size, window = integer("batch_size", batch_size), integer("window", window)
        if not isinstance(part, tuple) or len(part) != 2:
            raise TypeError(f"part: expected (rank, size), got {given(part)}")
        rank, size = integer("part: rank", part[0], 0), integer("part: size", part[1])
        if rank >= size:
            raise ValueError(f"part: expected (rank, size) with rank below size, got {part}")
        names = [Path(checked_path("path", p)) for p in (path if isinstance(path, list) else [path])]
        if len(names) == 1 and names[0].is_dir():
            names = sorted(p for p in names[0].iterdir() if p.suffix.lower() in (".parquet", ".csv"))
        kinds = {p.suffix.lower() for p in names}
        if len(kinds) != 1 or not kinds <= {".parquet", ".csv"}:
            raise FileFormatError(f"{path}: expected .parquet or .csv files, all of one kind, got {sorted(kinds)}")
        for name in names:
            with opened(name):  # raises FileNotFoundError
                pass
        self.name, self.label, self.batch_size, self.window = str(path), label, batch_size, window
        kind = kinds.pop()
        with reading(self.name, kind):
            found = pyarrow.dataset.dataset([str(name) for name in names], format=kind[1:])
            pieces = [piece for fragment in found.get_fragments() for piece in _row_groups(fragment)]
        self.columns = [name for name in found.schema.names if name != label]
        if label not in found.schema.names or not self.columns:
            raise FileFormatError(f"{path}: expected a column {label!r} and others, got {_some(found.schema.names)}")
        self.schema, self.pieces = found.schema, pieces[rank::size]
        for i, field in enumerate(found.schema):
            if kind == ".csv" and field.name != label and pyarrow.types.is_integer(field.type):
                # The type is a guess from the first rows, and fractions may follow.
                self.schema = self.schema.set(i, field.with_type(pyarrow.float64()))
        self.key: random.Key | None = None

    def shuffled(self, key: random.Key) -> Batches:
        """Return the same batches in the random order that a key gives."""
        other = copy.copy(self)
        other.key = key
        return other

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Read the batches, one after the other."""
        order = np.arange if self.key is None else random.generator(self.key).permutation
        x, y = np.empty((0, len(self.columns)), np.float32), np.empty(0)
        for i in order(len(self.pieces)):
            tables = iter(self.pieces[i].to_batches(schema=self.schema, columns=[*self.columns, self.label]))
            while True:
                with reading(self.name, "a table of numbers"):
                    table = next(tables, None)
                    if table is None:
                        break
                    more = [self._numbers(table, name) for name in (*self.columns, self.label)]
                x = np.concatenate([x, np.stack([c.astype(np.float32) for c in more[:-1]], 1)])
                y = np.concatenate([y, more[-1]]) if len(y) else more[-1]
                if len(x) > max(self.window, self.batch_size + 1):
                    keep = len(x) % self.batch_size
                    keep += self.batch_size if keep < 2 else 0  # this may be the end, and one row no batch
                    rows = order(len(x))
                    yield from self._cut(x[rows[:-keep]], y[rows[:-keep]])
                    x, y = x[rows[-keep:]], y[rows[-keep:]]
        rows = order(len(x))
        yield from self._cut(x[rows], y[rows])

    def _cut(self, x: Array, y: Array) -> Iterator[tuple[Array, Array]]:
        for part in slices(len(x), self.batch_size) if len(x) else ():
            yield x[part], y[part]

    def _numbers(self, table: Any, name: str) -> Array:
        column = table.column(name)
        values: Array = column.to_numpy(zero_copy_only=False)
        if values.dtype.kind not in "biuf" or column.null_count or not np.isfinite(values).all():
            raise FileFormatError(
                f"{self.name}: expected finite numbers and none missing in {name!r}, got {column.type}"
            )
        kind = np.int64 if name == self.label and values.dtype.kind in "biu" else np.float32
        return _cast(values, kind, f"{self.name}: a part of {name!r}")


def _row_groups(fragment: Any) -> list[Any]:
    """Cut a Parquet file into its row groups; a CSV file is one piece."""
    return list(fragment.split_by_row_group()) if hasattr(fragment, "split_by_row_group") else [fragment]


def read_idx(path: StrPath) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, the format of MNIST; gzip when the name ends in `.gz`.

    The file is the bytes 0, 0, 8 and the number of dimensions, each dimension as a big-endian uint32, then
    the values. Returns them as uint8 in that shape: (images, rows, columns), or (labels,).

    Raises FileFormatError when the file starts otherwise, holds no values, is longer or shorter than its
    dimensions promise, or unpacks to more than 64 MiB and 100 times its size.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels-idx1-ubyte"
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1]) + bytes([0, 0, 0, 3]) + bytes([7, 2, 1]))
    ...     read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    path = Path(checked_path("path", path))
    with reading(path, "IDX"), opened(path) as file, gzip.open(file) if path.suffix == ".gz" else file as stream:
        magic = stream.read(4)
        if len(magic) < 4 or not magic.startswith(b"\0\0\x08") or magic[3] == 0:
            raise FileFormatError(
                f"{path}: expected IDX, whose first bytes are 00 00 08 and the number of dimensions, "
                f"got {magic.hex(' ') or 'an empty file'}"
            )
        sizes = stream.read(4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise FileFormatError(f"{path}: expected {magic[3]} dimensions, but the file ends within them")
        shape = struct.unpack(f">{magic[3]}I", sizes)
        promised, limit = prod(shape), unpacked_limit(os.fstat(file.fileno()).st_size)
        if promised > limit:
            raise FileFormatError(
                f"{path}: expected at most {limit} values, got {shown(f'{promised} for {shape}', 200)}"
            )
        values = bytearray()  # grows with what is there: a promise alone allocates nothing
        while chunk := stream.read(min(1 << 20, promised + 1 - len(values))):
            values += chunk
        if len(values) != promised or not promised:
            found = "more" if len(values) > promised else len(values)
            raise FileFormatError(
                f"{path}: expected {promised} values for the shape {shown(str(shape))}, at least 1, got {found}"
            )
        return np.frombuffer(values, np.uint8).reshape(shape)


def read_csv(path: StrPath, label: str | int | None = None) -> tuple[Array, Array]:
    r"""Read a table of numbers separated by commas, one row a line, in UTF-8.

    The first line is a header when none of its cells is a number. `label` is the label's column: a name in
    the header, or a position, counted from 0, or from -1 for the last, which is the default.

    Returns `x`, float64 of shape (rows, columns - 1), and `y` of shape (rows,): int64 when every label is
    written as a whole number, otherwise float64.

    Raises FileFormatError when the file has no rows or fewer than two columns, when a row has more or fewer
    cells than the first, when a cell is no finite number (line and column are named), when a line has more than
    16 Mi characters, or when there is no such label.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "pets.csv"
    ...     _ = path.write_text("weight,is_cat,height\n3.5,1,25\n11,0,42\n")
    ...     read_csv(path, label="is_cat")
    (array([[ 3.5, 25. ],
           [11. , 42. ]]), array([1, 0]))
    """
    path = Path(checked_path("path", path))
    if label is not None and not isinstance(label, str):
        label = integer("label", label, None)
    values, whole = array("d"), True
    with reading(path, "CSV"), opened(path) as file, TextIOWrapper(file, "utf-8-sig", newline="") as stream:
        reader = csv.reader(_lines(stream, path))
        rows = (row for row in reader if row)
        first = next(rows, [])
        header = [] if any(map(_is_number, first)) else first
        column = _label_column(path, label, header, len(first))
        for row in rows if header else chain([first], rows):
            if len(row) != len(first):
                raise FileFormatError(f"{path}: line {reader.line_num}: expected {len(first)} cells, got {len(row)}")
            if not all(map(_is_number, row)):
                bad = next(i for i, cell in enumerate(row) if not _is_number(cell))
                place = f"line {reader.line_num}, column {bad + 1}" + (f" ({shown(header[bad])})" if header else "")
                raise FileFormatError(
                    f"{path}: {place}: expected a finite number, got '{shown(row[bad])}'; text and missing values must "
                    "be made numbers first, as with pandas.get_dummies(table, dtype=float) and fillna"
                )
            values.extend(map(float, row))
            whole = whole and row[column].strip().lstrip("+-").isdigit()
        if not values:
            raise FileFormatError(f"{path}: expected rows of numbers, got none")
    table = np.frombuffer(values).reshape(-1, len(first))
    x, y = np.delete(table, column, axis=1), table[:, column].copy()
    return x, y.astype(np.int64) if whole and np.abs(y).max() < 1 << 53 else y


def train_test_split(x: Array, y: Array, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Set aside `test_fraction` of the rows, rounded, at least 1 and not all, drawn by `seed`.

    Integer labels of shape (rows,) are split in proportion: of each label's rows the share set aside is that
    of all rows, rounded up or down to a whole row. Rows keep their order, and are copied.

    Raises ValueError when `x` and `y` differ in length or have fewer than two rows, or `test_fraction` is not
    between 0 and 1.

    >>> split = train_test_split(np.arange(20).reshape(10, 2), np.array([0] * 5 + [1] * 5))
    >>> split.x_test.shape, split.y_test
    ((2, 2), array([0, 1]))
    """
    x, y = np.asanyarray(x), np.asanyarray(y)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(y) < 2:
        raise ValueError(f"x, y: expected as many rows as labels, at least 2, got shapes {x.shape} and {y.shape}")
    n, test_fraction, seed = len(y), number("test_fraction", test_fraction, "(0, 1)"), integer("seed", seed, 0)
    count = min(max(round(n * test_fraction), 1), n - 1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    if y.ndim == 1 and y.dtype.kind in "iu":
        order = order[np.argsort(y[order], kind="stable")]
    # Evenly spaced places in an order sorted by label meet each label in proportion.
    ticks = (np.arange(n + 1) * count + rng.integers(n)) // n
    test = np.empty(n, bool)
    test[order] = np.diff(ticks) == 1
    return Dataset(x[~test], y[~test], x[test], y[test])


def moments(x: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute the mean and standard deviation of each column, summed in float64, for `standardize`.

    For `x` of shape (rows, features) both have shape (features,). A constant column's deviation is given
    as 1, so that it becomes 0 and not NaN.

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

    Raises ValueError when `x` is not of shape (rows, features), with `mean` and `std` of shape (features,), when one of
    them holds a NaN or an infinity, or a number in `std` is not above 0; TypeError for what holds no numbers.

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
        raise ValueError("x: expected values whose standardized ones fit into float32, got larger ones")
    return result


def label_balance(y: Array) -> dict[int, int]:
    """Count the rows of each label: {label: count}, in the order of the labels.

    Raises ValueError when `y` is not of shape (rows,), or a label is no whole number.

    >>> label_balance(np.array([2, 0, 2]))
    {0: 1, 2: 2}
    """
    y = np.asanyarray(y)
    if y.ndim != 1 or y.dtype.kind not in "biuf":
        raise ValueError(f"y: expected labels of shape (rows,), got {y.dtype} of shape {y.shape}")
    labels, counts = np.unique(y, return_counts=True)
    for label in labels:
        if not float(label).is_integer():
            raise ValueError(f"y: expected whole numbers as labels, got {label}")
    return dict(zip(map(int, labels), map(int, counts), strict=True))


def gaussian_classes(
    rows_train: int = 50_000,
    rows_test: int = 10_000,
    features: int = 128,
    classes: int = 10,
    seed: int = 0,
    *,
    cache: StrPath | None = None,
) -> tuple[Dataset, float]:
    """Generate a noisy classification set, and the accuracy that no classifier can be expected to exceed.

    Each class has two centres, drawn uniformly from the sphere of radius 4.5. A row's label y is drawn
    first, each label equally often (counts differ by at most one). Its class c is y or, with probability
    0.44, drawn anew from all classes; one of c's two centres is drawn, and x is that centre + N(0, I). So,
    with m running over centres and C classes::

        p(y | x) = 0.56 Σ_{m of y} exp(m·x) / Σ_{all m} exp(m·x) + 0.44 / C

    The second value returned is the Bayes accuracy given the test rows drawn, the mean over them of
    max_y p(y | x). A linear classifier falls some points short of it.

    Returns the `Dataset`, float32 features and int64 labels, and the Bayes accuracy. With `cache`, an .npz
    file, both are read from there when it exists, and written there, atomically, when it does not.

    Raises ValueError for a count or seed that makes no sense; FileFormatError when `cache` exists and is not
    what these arguments make: it is never overwritten.

    >>> data, bayes_accuracy = gaussian_classes()
    >>> data.x_train.shape, round(bayes_accuracy, 2)
    ((50000, 128), 0.6)
    """
    rows_train, rows_test = integer("rows_train", rows_train), integer("rows_test", rows_test)
    features, classes, seed = integer("features", features), integer("classes", classes, 2), integer("seed", seed, 0)
    if seed >= 1 << 63:
        raise ValueError(f"seed: expected an integer below 2**63, got {seed}")
    recipe = np.array([_RECIPE, rows_train, rows_test, features, classes, seed])
    if cache is not None and Path(cache).exists():
        with reading(cache, "a generated set"):
            stored = read_npz(cache)
            if not np.array_equal(stored.get("recipe", ()), recipe):
                raise FileFormatError(f"{cache}: not what these arguments generate; delete it, or choose another cache")
            names = Dataset._fields
            kept = _dataset([stored[name] for name in names], [f"{cache}: {name}" for name in names])
            return kept, float(stored["bayes_accuracy"])

    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, 2, features))
    centres *= _RADIUS / np.linalg.norm(centres, axis=-1, keepdims=True)

    def draw(rows: int) -> tuple[Array, Array]:
        y = rng.permutation(rows) % classes
        c = np.where(rng.random(rows) < _NOISE, rng.integers(classes, size=rows), y)
        x = rng.standard_normal((rows, features), dtype=np.float32)
        x += centres.astype(np.float32)[c, rng.integers(2, size=rows)]
        return x, y

    data = Dataset(*draw(rows_train), *draw(rows_test))
    logits = data.x_test @ centres.reshape(-1, features).T
    likelihood = np.exp(logits - logits.max(1, keepdims=True)).reshape(-1, classes, 2).sum(-1)
    posterior = likelihood / likelihood.sum(1, keepdims=True)
    bayes_accuracy = float((1 - _NOISE) * posterior.max(1).mean() + _NOISE / classes)
    if cache is not None:
        arrays = data._asdict() | {"bayes_accuracy": np.array(bayes_accuracy), "recipe": recipe}
        _write_npz(Path(cache), arrays)
    return data, bayes_accuracy


def _load_folder(path: Path) -> Dataset:
    names = sorted(entry.name for entry in path.iterdir())
    if any(name in names for name in _NPY):
        if missing := [name for name in _NPY if name not in names]:
            raise FileFormatError(f"{path}: expected {', '.join(missing)} too, found {_some(names)}")
        return _dataset([read_npy(path / name) for name in _NPY], [str(path / name) for name in _NPY])

    wanted = [[f"{part}-{kind}{gz}" for part in parts for gz in ("", ".gz")] for parts in _PARTS for kind in _IDX]
    found = [next((name for name in options if name in names), "") for options in wanted]
    if not any(found):
        raise FileFormatError(f"{path}: expected {', '.join(_NPY)}, or MNIST's files; found {_some(names)}")
    if missing := [" or ".join(options) for options, name in zip(wanted, found, strict=True) if not name]:
        raise FileFormatError(f"{path}: expected {', '.join(missing)} too, found {_some(names)}")
    arrays = []
    for name, dimensions, kind in zip(found, (3, 1, 3, 1), ("images", "labels") * 2, strict=True):
        arrays.append(read_idx(path / name))
        if arrays[-1].ndim != dimensions:
            raise FileFormatError(
                f"{path / name}: expected {kind}, of dimensions {dimensions} (magic number {0x800 + dimensions}), "
                f"got {arrays[-1].ndim} ({0x800 + arrays[-1].ndim})"
            )
    x_train, x_test = (images.reshape(len(images), -1) / np.float32(255) for images in arrays[::2])
    return _dataset([x_train, arrays[1], x_test, arrays[3]], [str(path / name) for name in found])


def _dataset(arrays: list[Array], names: list[str]) -> Dataset:
    x_train, y_train = _examples(arrays[0], arrays[1], names[0], names[1])
    x_test, y_test = _examples(arrays[2], arrays[3], names[2], names[3])
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


def _examples(x: Array, y: Array, x_name: str, y_name: str) -> tuple[Array, Array]:
    """Check one part of a data set, and bring it into the dtypes that `load` promises."""
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
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    y = _cast(y, np.float32 if y.dtype.kind == "f" else np.int64, y_name)
    return x if isinstance(x, np.memmap) else _cast(x, np.float32, x_name), y


def _cast(values: Array, kind: type[np.float32 | np.int64], name: str) -> Array:
    """Return the values as float32 or int64, which must hold each of them."""
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite, or another integer
        cast = values.astype(kind, copy=False)
        if kind is np.int64 and (cast != values).any():
            raise FileFormatError(f"{name}: expected integers below 2**63, got {values.max()}")
        if not (np.isfinite(cast.min(initial=0)) and np.isfinite(cast.max(initial=0))):  # NaN passes both; no copy
            place = tuple(map(int, np.argwhere(~np.isfinite(cast))[0]))
            raise FileFormatError(f"{name}: expected finite float32 values, got {values[place]} at index {place}")
    return cast


def _lines(stream: TextIOWrapper, path: Path) -> Iterator[str]:
    for i, line in enumerate(iter(lambda: stream.readline(_LINE + 1), ""), 1):
        if len(line) > _LINE:
            raise FileFormatError(f"{path}: line {i}: expected at most {_LINE} characters, got more")
        yield line


def _is_number(cell: str) -> bool:
    try:
        return isfinite(float(cell)) and "_" not in cell  # Python reads 1_000 as a number, no other tool does
    except ValueError:
        return False


def _label_column(path: Path, label: str | int | None, header: list[str], width: int) -> int:
    if width < 2:
        raise FileFormatError(f"{path}: expected at least two columns separated by commas, got {width}")
    if isinstance(label, str):
        if header.count(label) != 1:
            raise FileFormatError(f"{path}: expected one column named {label!r}, got {_some(header) or 'no header'}")
        return header.index(label)
    column = -1 if label is None else label
    if not -width <= column < width:
        raise FileFormatError(f"{path}: expected a label column from {-width} to {width - 1}, got {column}")
    return column % width


def _some(names: list[str]) -> str:
    return ", ".join(map(shown, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _write_npz(path: Path, arrays: dict[str, Array]) -> None:
    """Write an npz file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
