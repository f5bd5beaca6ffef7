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
import re
import struct
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from io import TextIOWrapper
from itertools import islice, pairwise
from math import inf, isfinite, prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fmlp import random
from fmlp.batching import drawn, labels_of, slices
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
_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_IDX_NAME = re.compile(r"(.+-)?(train|t10k|test)-(images|labels)[-.]idx\d-[a-z]+(\.gz)?")
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}
_RADIUS, _NOISE = 4.5, 0.44  # of gaussian_classes; with ten classes the Bayes accuracy is near 60 %
_LINE, _CELLS = 16 << 20, 1 << 20  # characters and cells of a CSV file's line at most; a file of zeros is one line
_BOOLEANS = {"true": 1.0, "false": 0.0}
_NAMELESS = re.compile(r"\s*|Unnamed: \d.*|__index_level_\d+__")  # names of columns without one, an index most often
_RECIPE = 1  # goes up when gaussian_classes draws other numbers, so that no cache outlives its recipe


class Dataset(NamedTuple):
    """Training and test rows: `x` (rows, features), `y` (rows,) or (rows, outputs)."""

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
    """Read a data set from what `path` is.

    - a folder with `train_data.npy`, `train_label.npy`, `test_data.npy` and `test_label.npy`: the features
      stay on disk, memory-mapped, in the files' dtype;
    - a folder with MNIST's files, `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, then `t10k-` or
      `test-`, each plain or `.gz`, also as `train-images.idx3-ubyte` and `emnist-letters-train-images-idx3-ubyte`:
      an image becomes one row of rows × columns features, from 0 to 1 if the file holds unsigned bytes;
    - an `.npz` file with the arrays `x_train`, `y_train`, `x_test`, `y_test`, or with `x`, `y`;
    - a `.csv` file; `label` is the name or position of the label's column, by default the last, and `header` says
      whether the first line is a header (`read_csv`).

    Where there is no split, in CSV and with `x`, `y`, it is ``train_test_split(x, y, test_fraction, seed)``.

    Returns a `Dataset`: features float32 unless memory-mapped; labels int64 when stored as integers, otherwise targets
    float32. Features or targets are float64 where float32 would make different rows alike: where it does not hold
    each value of a column with numbers from 2²⁴, or with numbers larger than 16 times the column's range, such as UNIX
    times and dates like 20240131. `standardize` makes them float32. Labels of shape (rows, 1) become (rows,).

    Raises FileFormatError when a file is missing from the folder, damaged or empty, rows and labels differ in
    number, training and test rows in width, or a value is NaN, infinite, too large for float32 or a whole number that
    float64 does not hold (features that are memory-mapped are not scanned); FileNotFoundError when there is nothing at
    `path`; ValueError when `test_fraction` is not between 0 and 1, or `label` or `header` is given for no CSV file.

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
        return _dataset([arrays[name] for name in names], [f"{path}: {name}" for name in names])
    if not arrays.keys() >= {"x", "y"}:
        raise FileFormatError(f"{path}: expected arrays {', '.join(names)}, or x, y; found {_some(list(arrays))}")
    x, y = _examples([arrays["x"], arrays["y"]], [f"{path}: x", f"{path}: y"])
    if len(x) < 2:
        raise FileFormatError(f"{path}: expected at least 2 rows, to split, got 1")
    return train_test_split(x, y, test_fraction, seed)


class Batches:
    """Batches ``(x, y)`` of Parquet or CSV files, read as they are asked for: data for `fit` larger than memory.

    `path` is a file, a folder of files or a list of files, all Parquet or all CSV, with the same columns, of numbers
    or booleans. `label` is the column to predict, its name or position: y is (rows,), int64 if the first rows hold
    integers there, else floating. x is (rows, features), the other columns in their order, without what a Parquet file
    calls an index of pandas. `header` says whether the first line of each CSV file is a header, as for `read_csv`.
    x, and y unless it is int64, are of `dtype`; without it, float32, or float64 where the first rows need it, as `load`
    says. Each batch has `batch_size` rows; the last has what is left, and if that is one row, it joins the one before.

    `fit` asks for each epoch's order by ``shuffled(key)``: CSV files, or row groups of Parquet, come in random order,
    and rows in random order within each `window` of them. On several ranks each reads its part: ``part=(comm.rank,
    comm.size)`` is every size-th row group or CSV file, and `batch_size` is the rank's own.

    Parquet needs pyarrow. Raises ModuleNotFoundError without it, FileFormatError for files that are not what they
    should be, have other columns than the first file, missing values or numbers that these dtypes do not hold;
    TypeError or ValueError for other arguments that do not fit.

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
        label: str | int,
        batch_size: int = 32,
        *,
        header: bool | None = None,
        dtype: npt.DTypeLike | None = None,
        window: int = 1 << 16,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        batch_size, window = integer("batch_size", batch_size), integer("window", window)
        if not isinstance(part, tuple) or len(part) != 2:
            raise TypeError(f"part: expected (rank, size), got {given(part)}")
        rank, size = integer("part: rank", part[0], 0), integer("part: size", part[1])
        if rank >= size:
            raise ValueError(f"part: expected (rank, size) with rank below size, got {part}")
        if dtype is not None and np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype: expected float32 or float64, got {given(dtype)}")
        names = [Path(checked_path("path", p)) for p in (path if isinstance(path, list) else [path])]
        if len(names) == 1 and names[0].is_dir():
            names = sorted(p for p in names[0].iterdir() if _is_shard(p))
        kinds = {p.suffix.lower() for p in names}
        if len(kinds) != 1 or not kinds <= {".parquet", ".csv"}:
            raise FileFormatError(f"{path}: expected .parquet or .csv files, all of one kind, got {sorted(kinds)}")
        if header is not None and kinds == {".parquet"}:
            raise ValueError(f"{path}: header={header!r} is for CSV files only")
        files: list[_Csv | _Parquet]
        files = [_csv_file(name, header) if kinds == {".csv"} else _parquet_file(name) for name in names]
        orders = _orders(files, label if isinstance(label, str) else integer("label", label, None))
        self.label, self.batch_size, self.window = label, batch_size, window
        self.columns = [files[0].names[i] if files[0].names else str(i) for i in orders[0][:-1]]
        pieces = [(piece, order) for file, order in zip(files, orders, strict=True) for piece in file.pieces()]
        self._pieces = pieces[rank::size]
        self.key: random.Key | None = None
        # The first rows of all files decide on the dtypes: each rank finds the same.
        *x, y = next((part for piece, order in pieces for part in piece.parts(order)), [np.zeros(1)] * 2)
        self._dtypes = [_floating(x), _floating([y])] if dtype is None else [np.dtype(dtype)] * 2
        if y.dtype.kind in "biu":
            self._dtypes[1] = np.dtype(np.int64)

    def shuffled(self, key: random.Key) -> Batches:
        """Return the same batches in the random order that a key gives."""
        other = copy.copy(self)
        other.key = key
        return other

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Read the batches, one after the other."""
        order = np.arange if self.key is None else random.generator(self.key).permutation
        x, y = np.empty((0, len(self.columns)), self._dtypes[0]), np.empty(0, self._dtypes[1])
        for i in order(len(self._pieces)):
            piece, columns = self._pieces[i]
            for *features, labels in piece.parts(columns):
                cast = [
                    _cast(values, self._dtypes[0], f"{piece.path}: a part of {name!r}")
                    for name, values in zip(self.columns, features, strict=True)
                ]
                x = np.concatenate([x, np.stack(cast, 1)])
                y = np.concatenate([y, _cast(labels, self._dtypes[1], f"{piece.path}: a part of {self.label!r}")])
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


def _is_shard(path: Path) -> bool:
    """Tell a file that is one, or looks as if it should be, as a.csv.gz, from others and from hidden ones."""
    return not path.name.startswith((".", "_")) and not {".parquet", ".csv"}.isdisjoint(map(str.lower, path.suffixes))


def _orders(files: list[_Csv | _Parquet], label: str | int) -> list[list[int]]:
    """Return where each file has the columns of the first, the label last; they must be the same in all."""
    first = files[0]
    column = _label_column(first.path, label, first.names, first.width)
    orders = []
    for file in files:
        if len(set(file.names)) < len(file.names):
            again = next(name for name in file.names if file.names.count(name) > 1)
            raise FileFormatError(f"{file.path}: expected every column's name once, got {shown(again)} again")
        if sorted(file.names) != sorted(first.names) or file.width != first.width:
            raise FileFormatError(
                f"{file.path}: expected the columns of {first.path.name}, {first.described()}; got {file.described()}"
            )
        order = [file.names.index(name) for name in first.names] or [*range(first.width)]
        orders.append([*order[:column], *order[column + 1 :], order[column]])
    return orders


class _Parquet(NamedTuple):
    """A Parquet file, or a row group of it that begins at the row `start`; an index of pandas is no column."""

    path: Path
    names: list[str]
    fragment: Any
    start: int = 0

    @property
    def width(self) -> int:
        return len(self.names)

    def described(self) -> str:
        return _some(self.names)

    def pieces(self) -> Iterator[_Parquet]:
        start = 0
        for fragment in self.fragment.split_by_row_group():
            yield self._replace(fragment=fragment, start=start)
            start += sum(group.num_rows for group in fragment.row_groups)

    def parts(self, order: list[int]) -> Iterator[list[Array]]:
        """Yield the columns in that order, some rows at a time."""
        names, start = [self.names[i] for i in order], self.start
        with reading(self.path, "Parquet"):
            for table in self.fragment.to_batches(columns=names):
                if len(table):
                    yield [self._numbers(table.column(name), name, start) for name in names]
                start += len(table)

    def _numbers(self, column: Any, name: str, start: int) -> Array:
        values: Array = column.to_numpy(zero_copy_only=False)
        if column.null_count:
            found = f"a missing value in row {start + int(column.is_null().to_numpy(zero_copy_only=False).argmax())}"
        elif values.dtype.kind not in "biuf":
            found = str(column.type)
        elif not np.isfinite(values).all():
            row = int((~np.isfinite(values)).argmax())
            found = f"{values[row]} in row {start + row}"
        else:
            return values
        raise FileFormatError(f"{self.path}: expected finite numbers and none missing in {name!r}, got {found}")


def _parquet_file(path: Path) -> _Parquet:
    try:
        import pyarrow.dataset
        import pyarrow.fs
    except ModuleNotFoundError:
        raise ModuleNotFoundError("data.Batches needs pyarrow for Parquet: pip install 'fmlp[parquet]'") from None
    with opened(path):  # raises FileNotFoundError
        pass
    with reading(path, ".parquet"):
        fragment = pyarrow.dataset.ParquetFileFormat().make_fragment(str(path), pyarrow.fs.LocalFileSystem())
        schema = fragment.physical_schema
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        names = [name for name in schema.names if name not in index]
    _check_names(f"{path}: ", names)
    return _Parquet(path, names, fragment)


def read_idx(path: StrPath) -> Array:
    """Read an IDX file, the format of MNIST; gzip when the name ends in `.gz`.

    The file is the bytes 0, 0, a code for the element type and the number of dimensions, each dimension as a big-endian
    uint32, then the values, big-endian. Returns them as uint8 (code 8), int8 (9), int16 (11), int32 (12), float32 (13)
    or float64 (14) in that shape: (images, rows, columns), or (labels,).

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
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or magic[3] == 0:
            raise FileFormatError(
                f"{path}: expected IDX, whose first bytes are 00 00, 08, 09 or 0b to 0e, and the number of dimensions, "
                f"got {magic.hex(' ') or 'an empty file'}"
            )
        sizes = stream.read(4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise FileFormatError(f"{path}: expected {magic[3]} dimensions, but the file ends within them")
        dtype, shape = np.dtype(_IDX_TYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes)
        promised, limit = prod(shape) * dtype.itemsize, unpacked_limit(os.fstat(file.fileno()).st_size)
        if promised > limit:
            most, found = limit // dtype.itemsize, shown(f"{prod(shape)} for {shape}", 200)
            raise FileFormatError(f"{path}: expected at most {most} values, got {found}")
        values = bytearray()  # grows with what is there: a promise alone allocates nothing
        while chunk := stream.read(min(1 << 20, promised + 1 - len(values))):
            values += chunk
        if len(values) != promised or not promised:
            found = "more" if len(values) > promised else f"{len(values) / dtype.itemsize:.10g}"
            raise FileFormatError(
                f"{path}: expected {prod(shape)} values for the shape {shown(str(shape))}, at least 1, got {found}"
            )
        return np.frombuffer(values, dtype.newbyteorder(">")).reshape(shape).astype(dtype, copy=False)


def read_csv(path: StrPath, label: str | int | None = None, *, header: bool | None = None) -> tuple[Array, Array]:
    r"""Read a table of numbers separated by commas, one row a line, in UTF-8; True and False are 1 and 0.

    `label` is the label's column: a name in the header, or a position, counted from 0, or from -1 for the last, which
    is the default. `header` says whether the first line is a header. Without it, the first line is a header when none
    of its cells is a number, and a row of numbers otherwise. It must be given for a first line of numbers that may be a
    header: 0, 1, 2, … as pandas numbers columns without names, or different whole numbers of which one stands above
    fractions only.

    Returns `x`, float64 of shape (rows, columns - 1), and `y` of shape (rows,): int64 when every label is
    written as a whole number or boolean, otherwise float64.

    Raises FileFormatError when the file has no rows or fewer than two columns, when a row has more or fewer
    cells than the first, when a cell is no finite number or a whole number that float64 does not hold (line and column
    are named), when a quote does not end where the cell does, when a line has more than 16 Mi characters or 1 Mi cells,
    when there is no such label, when a column of the header has no name, as an index that pandas wrote, and when
    `header` must be given.

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
    file = _csv_file(path, header)
    column = _label_column(path, label, file.names, file.width)
    order = [*range(column), *range(column + 1, file.width), column]
    parts = [(np.stack(x, 1), y) for *x, y in file.parts(order)]
    if not parts:
        raise FileFormatError(f"{path}: expected rows of numbers, got none")
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


class _Csv(NamedTuple):
    """A CSV file of numbers: the names in its header, none without one, and how many columns it has."""

    path: Path
    names: list[str]
    width: int
    hint: str
    """What an error in the first line adds."""

    def described(self) -> str:
        return _some(self.names) or f"{self.width} columns without a header"

    def pieces(self) -> list[_Csv]:
        return [self]

    def parts(self, order: list[int]) -> Iterator[list[Array]]:
        """Yield the columns in that order, some rows at a time: float64, the last int64 if written as whole numbers."""
        with _csv_rows(self.path) as (reader, rows):
            hint = "" if self.names and next(rows) else self.hint
            while True:
                values, whole = array("d"), True
                for row in islice(rows, max((1 << 20) // self.width, 1)):
                    if len(row) != self.width:
                        raise FileFormatError(
                            f"{self.path}: line {reader.line_num}: expected {self.width} cells, got {len(row)}"
                        )
                    values.extend(self._numbers(row, reader.line_num, hint))
                    whole, hint = whole and _is_whole(row[order[-1]]), ""
                if not values:
                    return
                table = np.frombuffer(values).reshape(-1, self.width)
                columns = [table[:, i] for i in order]
                if whole and np.abs(columns[-1]).max() < 1 << 53:
                    columns[-1] = columns[-1].astype(np.int64)
                yield columns

    def _numbers(self, row: list[str], line: int, hint: str) -> list[float]:
        try:
            numbers = [*map(float, row)]
            if sum(map(abs, numbers)) < 1 << 53 and "_" not in "".join(row):
                return numbers  # nothing that _number would refuse
        except ValueError:
            pass
        numbers = []
        for i, cell in enumerate(row):
            try:
                numbers.append(_number(cell))
            except ValueError as error:
                name = f" ({shown(self.names[i])})" if self.names else ""
                raise FileFormatError(f"{self.path}: line {line}, column {i + 1}{name}: {error}{hint}") from None
        return numbers


def _csv_file(path: Path, header: bool | None) -> _Csv:
    """Look at the first rows of a CSV file."""
    if header is not None and not isinstance(header, bool):
        raise TypeError(f"header: expected True, False or None, got {given(header)}")
    with _csv_rows(path) as (reader, rows):
        first = next(rows, [])
        place = f"{path}: line {reader.line_num}"
        is_header, hint = bool(header), ""
        if header is None:
            numbers = [_is_number(cell) for cell in first]
            is_header = not any(numbers) or not first[0].strip()  # a cell without a name is refused below
            hint = "; if this line is a header, give header=True"
            if first and all(numbers) and _may_be_header(first, rows):
                raise FileFormatError(
                    f"{place}: expected header=True or header=False, because {shown(','.join(first))} may be either a "
                    "header or a row"
                )
    if is_header:
        _check_names(place + ", ", first)
    return _Csv(path, first if is_header else [], len(first), hint)


@contextmanager
def _csv_rows(path: Path) -> Iterator[tuple[Any, Iterator[list[str]]]]:
    """Open a CSV file; give its reader, which counts lines, and its rows."""
    with reading(path, "CSV"), opened(path) as file, TextIOWrapper(file, "utf-8-sig", newline="") as stream:
        reader = csv.reader(_lines(stream, path), strict=True)
        try:
            yield reader, filter(None, reader)
        except csv.Error as error:
            raise FileFormatError(f"{path}: line {reader.line_num}: cannot be read as CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise FileFormatError(
                f"{path}: cannot be read as CSV: {error}; save the table with encoding='utf-8'"
            ) from None


def train_test_split(x: Array, y: Array, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Set aside `test_fraction` of the rows, rounded, at least 1 and not all, drawn by `seed`.

    Labels, which are integers, booleans or strings of shape (rows,) or (rows, 1), are split in proportion: of each
    label's rows the share set aside is that of all rows, rounded up or down to a whole row. If there is room, a label
    with two rows or more is in both parts, however rare it is, and a label with one row in the training part. Rows keep
    their order, and are copied.

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
    test = drawn(rng.permutation(n), labels_of(y), count, int(rng.integers(n)))
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

    matches = [match for match in map(_IDX_NAME.fullmatch, reversed(names)) if match]  # a plain file before its .gz
    prefix, *others = {match[1] or "" for match in matches} or {""}
    found = {(match[2] == "train", match[3]): match[0] for match in matches}
    if not found:
        raise FileFormatError(f"{path}: expected {', '.join(_NPY)}, or MNIST's files; found {_some(names)}")
    if len({match[0].removesuffix(".gz") for match in matches}) > len(found) or others:
        raise FileFormatError(f"{path}: expected the files of one data set, found {_some(names)}")
    slots = [(part, kind) for part in (True, False) for kind in ("images", "labels")]
    wanted = [prefix + name for name in _IDX]
    if missing := [f"{name} or {name}.gz" for name, slot in zip(wanted, slots, strict=True) if slot not in found]:
        raise FileFormatError(f"{path}: expected {', '.join(missing)} too, found {_some(names)}")
    arrays = []
    for slot, dimensions in zip(slots, (3, 1, 3, 1), strict=True):
        arrays.append(values := read_idx(path / found[slot]))
        if values.ndim != dimensions:
            magic = 256 * next(code for code, kind in _IDX_TYPES.items() if np.dtype(kind) == values.dtype)
            raise FileFormatError(
                f"{path / found[slot]}: expected {slot[1]}, of dimensions {dimensions} (magic number "
                f"{magic + dimensions}), got {values.ndim} ({magic + values.ndim})"
            )
    for i in (0, 2):
        rows = arrays[i].reshape(len(arrays[i]), -1)
        arrays[i] = rows / np.float32(255) if rows.dtype == np.uint8 else rows
    return _dataset(arrays, [str(path / found[slot]) for slot in slots])


def _dataset(arrays: list[Array], names: list[str]) -> Dataset:
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
    """Check x and y of each part of a data set in turn, and bring them into the dtypes that `load` promises."""
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
    features = _floating([x for x in xs if not isinstance(x, np.memmap)])
    targets = _floating([y for y in ys if y.dtype.kind == "f"])
    result = []
    for x, y, x_name, y_name in zip(xs, ys, names[::2], names[1::2], strict=True):
        result.append(x if isinstance(x, np.memmap) else _cast(x, features, x_name))
        result.append(_cast(y, targets if y.dtype.kind == "f" else np.dtype(np.int64), y_name))
    return result


def _floating(arrays: list[Array]) -> np.dtype[Any]:
    """Return float32, or float64 where float32 would make rows alike that are not.

    That may happen in a column with numbers of 2²⁴ or more, where float32 skips whole numbers, or more than 16 times
    larger than the column's range: the rounding then takes 4 of the 24 bits that tell its values apart.
    """
    for values in arrays:
        columns = values.reshape(len(values), -1)
        with np.errstate(invalid="ignore", over="ignore"):  # _cast refuses what is not finite
            low, high = columns.min(0).astype(np.float64), columns.max(0).astype(np.float64)
            largest, spread = np.maximum(-low, high), high - low
            columns = columns[:, (largest >= 1 << 24) | ((largest > 16 * spread) & (spread > 0))]
            if _differs(columns.astype(np.float32), columns).any():
                return np.dtype(np.float64)
    return np.dtype(np.float32)


def _differs(cast: Array, values: Array) -> Array:
    """Compare exactly, as Python does a float with an int, and NumPy does not."""
    different: Array = cast != (
        values.astype(object) if cast.dtype.kind == "f" and values.dtype.kind in "iu" else values
    )
    return different


def _cast(values: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Return the values as float32, float64 or int64, which must hold them; fractions may be rounded."""
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite, or another integer
        cast = values.astype(dtype, copy=False)
        low, high = cast.min(initial=0), cast.max(initial=0)  # NaN passes both; no copy
        if not (np.isfinite(np.float32(low)) and np.isfinite(np.float32(high))):
            place = tuple(map(int, np.argwhere(~np.isfinite(cast.astype(np.float32)))[0]))
            raise FileFormatError(f"{name}: expected finite float32 values, got {values[place]} at index {place}")
        exact = 1 << 24 if dtype == np.float32 else 1 << 53  # smaller whole numbers are held
        if dtype == values.dtype or (dtype.kind == "f" and max(-low, high) < exact):
            return cast
        wrong = _differs(cast, values)
        if dtype.kind == "f":
            wrong &= np.abs(cast) >= exact
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        what, advice = {
            "int64": ("integers below 2**63" if values.dtype.kind == "u" else "integers, as in the first rows", ""),
            "float32": ("numbers that float32 holds", "; dtype=np.float64 keeps more of them"),
            "float64": ("numbers that float64 holds", "; subtract a constant from the column first"),
        }[dtype.name]
        raise FileFormatError(f"{name}: expected {what}, got {values[place]} at index {place}{advice}")
    return cast


def _lines(stream: TextIOWrapper, path: Path) -> Iterator[str]:
    for i, line in enumerate(iter(lambda: stream.readline(_LINE + 1), ""), 1):
        if len(line) > _LINE:
            raise FileFormatError(f"{path}: line {i}: expected at most {_LINE} characters, got more")
        if line.count(",") >= _CELLS:
            raise FileFormatError(f"{path}: line {i}: expected at most {_CELLS} cells, got more")
        yield line


def _is_number(cell: str) -> bool:
    """Tell a cell of a row, be it NaN, from a name."""
    try:
        return cell.strip().lower() in _BOOLEANS or float(cell) is not None
    except ValueError:
        return False


def _is_fraction(cell: str) -> bool:
    return _is_number(cell) and cell.strip().lower() not in _BOOLEANS and 0 < float(cell) % 1 < 1


def _is_whole(cell: str) -> bool:
    return cell.strip().lstrip("+-").isdigit() or cell.strip().lower() in _BOOLEANS


def _may_be_header(first: list[str], rows: Iterator[list[str]]) -> bool:
    """Tell whether numbers may be names: 0, 1, …, as pandas numbers columns, or whole ones above fractions."""
    if not all(cell.strip().isdigit() for cell in first):
        return False
    names = [*map(float, first)]
    if names[:2] == [0, 1] and all(b in (0, a + 1) for a, b in pairwise(names)):  # 0, 1, 2, 0: of two joined tables
        return True
    if len(set(names)) < len(names):
        return False
    below = islice(rows, max(1000 // len(names), 1))
    return any(all(map(_is_fraction, column)) for column in zip(*below, strict=False))


def _check_names(place: str, names: list[str]) -> None:
    """Refuse columns without a name, which more often than not are an index that pandas wrote."""
    for i, name in enumerate(names, 1):
        if _NAMELESS.fullmatch(name):
            raise FileFormatError(
                f"{place}column {i}: expected a name, got '{shown(name)}', as for an index that pandas wrote; write "
                "the table with index=False, or give the column a name"
            )


def _number(cell: str) -> float:
    """Read a cell; the ValueError for one that is no number that float64 holds says what was expected."""
    value = _BOOLEANS.get(cell.strip().lower())
    if value is not None:
        return value
    try:
        value = float(cell)
    except ValueError:
        value = inf
    if not isfinite(value) or "_" in cell:  # Python reads 1_000 as a number, no other tool does
        raise ValueError(
            f"expected a finite number, got '{shown(cell)}'; text and missing values must be made numbers first, as "
            "with pandas.get_dummies(table, dtype=float) and fillna"
        )
    if abs(value) >= 1 << 53 and _is_whole(cell) and int(cell) not in (int(value), int(Decimal(repr(value)))):
        raise ValueError(f"expected a number that float64 holds, got {shown(cell)}; subtract a constant first")
    return value


def _label_column(path: Path, label: str | int | None, header: list[str], width: int) -> int:
    if width < 2:
        other = next((c for c in ";\t|" if header and c in header[0]), "")
        advice = f"; {other!r} in the first line may separate them: write commas" if other else ""
        raise FileFormatError(f"{path}: expected at least two columns separated by commas, got {width}{advice}")
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
