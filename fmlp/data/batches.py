"""Batches from Parquet or CSV files that are larger than memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fmlp import random
from fmlp.arguments import StrPath, given, integer
from fmlp.arguments import path as checked_path
from fmlp.batches import slices
from fmlp.data.precision import cast, floating
from fmlp.data.tables import Csv, Parquet, csv_file, label_column, parquet_file
from fmlp.files import Array, FileFormatError, shown

__all__ = ["Batches"]


class Batches:
    """Batches ``(x, y)`` from Parquet or CSV files, read when they are needed: `fit` takes data larger than memory.

    - `path`: a file, a folder of files or a list of files, all Parquet or all CSV, all with the same columns of numbers
      or booleans.
    - `label`: the name or position of the column to predict. y has shape (rows,), and is int64 if the first rows hold
      integers there. x has shape (rows, features) and holds the other columns in their order, without a pandas index of
      a Parquet file.
    - `batch_size`: the rows of each batch. The last batch has the rows that remain; a single remaining row joins the
      batch before.
    - `header`: whether the first line of each CSV file is a header, as in `read_csv`.
    - `dtype`: the dtype of x, and of y unless it is int64. By default it is float32, or float64 if the first rows need
      it, as in `load`.
    - `window`: the number of rows that are shuffled together. `fit` calls ``shuffled(key)`` for each epoch: CSV files,
      or row groups of Parquet, come in random order, and rows in random order within each window.
    - `part`: ``(comm.rank, comm.size)`` if several ranks share the data; each reads every size-th row group or CSV
      file, and `batch_size` is the rank's own.

    Parquet needs pyarrow. Raises ModuleNotFoundError without it, FileFormatError for files that cannot be read, have
    other columns than the first file, missing values or numbers that these dtypes cannot hold; TypeError or ValueError
    for other invalid arguments.

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
        if kinds not in ({".parquet"}, {".csv"}):
            raise FileFormatError(f"{path}: expected .parquet or .csv files, all of one kind, got {sorted(kinds)}")
        if header is not None and kinds == {".parquet"}:
            raise ValueError(f"{path}: header={header!r} is for CSV files only")
        files: list[Csv | Parquet]
        files = [csv_file(name, header) if kinds == {".csv"} else parquet_file(name) for name in names]
        orders = _orders(files, label if isinstance(label, str) else integer("label", label, None))
        self.label, self.batch_size, self.window = label, batch_size, window
        self.columns = [files[0].names[i] if files[0].names else str(i) for i in orders[0][:-1]]
        pieces = [(piece, order) for file, order in zip(files, orders, strict=True) for piece in file.pieces()]
        self._pieces = pieces[rank::size]
        self.key: random.Key | None = None
        # The first rows of all files, not of the rank's part, determine the dtypes, so that all ranks agree.
        *x, y = next((part for piece, order in pieces for part in piece.parts(order)), [np.zeros(1)] * 2)
        self._dtypes = [floating(x), floating([y])] if dtype is None else [np.dtype(dtype)] * 2
        if y.dtype.kind in "biu":
            self._dtypes[1] = np.dtype(np.int64)

    def shuffled(self, key: random.Key) -> Batches:
        """Return the same data, in batches shuffled by `key`."""
        other = copy.copy(self)
        other.key = key
        return other

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Read and yield one batch after the other."""
        order = np.arange if self.key is None else random.generator(self.key).permutation
        x, y = np.empty((0, len(self.columns)), self._dtypes[0]), np.empty(0, self._dtypes[1])
        for i in order(len(self._pieces)):
            piece, columns = self._pieces[i]
            for *features, labels in piece.parts(columns):
                part = [
                    cast(values, self._dtypes[0], f"{piece.path}: a part of {name!r}")
                    for name, values in zip(self.columns, features, strict=True)
                ]
                x = np.concatenate([x, np.stack(part, 1)])
                y = np.concatenate([y, cast(labels, self._dtypes[1], f"{piece.path}: a part of {self.label!r}")])
                if len(x) > max(self.window, self.batch_size + 1):
                    keep = len(x) % self.batch_size
                    keep += self.batch_size if keep < 2 else 0  # if the data end here, no batch may have a single row
                    rows = order(len(x))
                    yield from self._cut(x[rows[:-keep]], y[rows[:-keep]])
                    x, y = x[rows[-keep:]], y[rows[-keep:]]
        rows = order(len(x))
        yield from self._cut(x[rows], y[rows])

    def _cut(self, x: Array, y: Array) -> Iterator[tuple[Array, Array]]:
        for part in slices(len(x), self.batch_size) if len(x) else ():
            yield x[part], y[part]


def _is_shard(path: Path) -> bool:
    """Tell whether a file is data or looks like it (a.csv.gz, which is then refused), and is not hidden."""
    return not path.name.startswith((".", "_")) and not {".parquet", ".csv"}.isdisjoint(map(str.lower, path.suffixes))


def _orders(files: list[Csv | Parquet], label: str | int) -> list[list[int]]:
    """Return where each file has the first file's columns, label last; all files must have the same columns."""
    first = files[0]
    column = label_column(first.path, label, first.names, first.width)
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
