"""Read tables of numbers in CSV and Parquet, some rows at a time; recognize headers, columns and numbers."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from io import TextIOWrapper
from itertools import islice, pairwise
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fmlp.arguments import StrPath, given, integer
from fmlp.arguments import path as checked_path
from fmlp.files import Array, FileFormatError, listed, opened, reading, shown

__all__ = ["Csv", "Parquet", "csv_file", "label_column", "parquet_file", "read_csv"]

_LINE, _CELLS = 16 << 20, 1 << 20  # limits for one line of a CSV file, because a file of zeros is a single line
_BLANK = 1 << 16  # blank lines in a row
_PART = 1 << 20  # numbers in a part of a table
_TAKEN = 1 << 18  # characters that are read at once
_PLAIN = b"0123456789+-.eE, \t\r\n"
_BOOLEANS = {"true": 1.0, "false": 0.0}
_NAMELESS = re.compile(r"\s*|Unnamed: \d.*|__index_level_\d+__")  # columns without a name of their own, often an index


def read_csv(path: StrPath, label: str | int | None = None, *, header: bool | None = None) -> tuple[Array, Array]:
    r"""Read a table of numbers separated by commas, one row per line, in UTF-8; True and False are 1 and 0.

    `label` is the label's column: a name in the header, or a position, counted from 0 or, backwards, from -1. The
    default is the last column.

    `header` says whether the first line is a header. By default, the first line is a header if none of its cells is a
    number, and a row of numbers otherwise. You must give `header` when a first line of numbers might be a header: when
    it is 0, 1, 2, …, as pandas numbers columns without names, or consists of different whole numbers and one of them
    has only fractions below it.

    Returns `x`, float64 of shape (rows, columns - 1), and `y` of shape (rows,): int64 if every label is written as a
    whole number or boolean, otherwise float64.

    Raises FileFormatError when

    - the file has no rows or fewer than two columns, or a row has more or fewer cells than the first;
    - a cell is not a finite number, or is a whole number that float64 cannot represent (the error names line and
      column);
    - a quote does not end with its cell, a line has more than 16 Mi characters or 1 Mi cells, or more than 65,536 lines
      in a row are blank;
    - the label's column does not exist, or a column of the header has no name, like an index that pandas wrote;
    - `header` must be given.

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
    file = csv_file(path, header)
    column = label_column(path, label, file.names, file.width)
    order = [*range(column), *range(column + 1, file.width), column]
    parts = [(np.stack(x, 1), y) for *x, y in file.parts(order)]
    if not parts:
        raise FileFormatError(f"{path}: expected rows of numbers, got none")
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


class Csv(NamedTuple):
    """A CSV file of numbers: the names in its header (empty without a header) and the number of its columns."""

    path: Path
    names: list[str]
    width: int
    hint: str
    """Advice that an error in the first line adds."""

    def described(self) -> str:
        """Describe the columns for an error message."""
        return listed(self.names) or f"{self.width} columns without a header"

    def pieces(self) -> list[Csv]:
        """Return the parts that can be read separately: only the file itself."""
        return [self]

    def parts(self, order: list[int]) -> Iterator[list[Array]]:
        """Yield the columns in this order, some rows at a time: float64, the last int64 if all whole numbers."""
        size = max(_PART // self.width, 1)
        with _csv_rows(self.path) as (lines, rows):
            hint = "" if self.names and next(rows) else self.hint
            while True:
                values, whole = array("d"), True
                while plain := self._plain(lines, size - len(values) // self.width, order[-1]):
                    values.frombytes(plain[0].tobytes())
                    whole, hint = whole and plain[1], ""
                for row in islice(rows, size - len(values) // self.width):
                    if len(row) != self.width:
                        raise FileFormatError(
                            f"{self.path}: line {lines.number}: expected {self.width} cells, got {len(row)}"
                        )
                    values.extend(self._numbers(row, lines.number, hint))
                    whole, hint = whole and _is_whole(row[order[-1]]), ""
                if not values:
                    return
                table = np.frombuffer(values).reshape(-1, self.width)
                columns = [table[:, i] for i in order]
                if whole and np.abs(columns[-1]).max() < 1 << 53:
                    columns[-1] = columns[-1].astype(np.int64)
                yield columns

    def _plain(self, lines: _Lines, most: int, label: int) -> tuple[Array, bool] | None:
        """Read some rows if they are plain numbers, which NumPy reads fast; also tell whether all labels are whole."""
        taken = lines.take(most)
        text, rows = "".join(taken), [line for line in taken if line.strip("\r\n")]
        short = max(map(len, rows), default=_LINE) <= csv.field_size_limit()  # a longer cell is an error
        if short and text.isascii() and not text.encode().translate(None, _PLAIN):
            with suppress(ValueError):
                table = np.loadtxt(rows, delimiter=",", comments=None, ndmin=2)
                if table.shape == (len(rows), self.width) and np.abs(table).max() < 1 << 53:
                    n, fraction = self.width - label, re.compile("[.eE]").search
                    return table, not any(fraction(row.rsplit(",", n)[-n]) for row in rows)
        lines.give_back(taken)
        return None

    def _numbers(self, row: list[str], line: int, hint: str) -> list[float]:
        try:
            numbers = [*map(float, row)]
            if sum(map(abs, numbers)) < 1 << 53 and "_" not in "".join(row):
                return numbers  # _number would refuse none of them
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


def csv_file(path: Path, header: bool | None) -> Csv:
    """Read the header and the width of a CSV file from its first rows."""
    if header is not None and not isinstance(header, bool):
        raise TypeError(f"header: expected True, False or None, got {given(header)}")
    with _csv_rows(path) as (lines, rows):
        first = next(rows, [])
        place = f"{path}: line {lines.number}"
        is_header, hint = bool(header), ""
        if header is None:
            numbers = [_is_number(cell) for cell in first]
            is_header = not any(numbers) or not first[0].strip()  # _check_names refuses an empty cell below
            hint = "; if this line is a header, give header=True"
            if first and all(numbers) and _may_be_header(first, rows):
                raise FileFormatError(
                    f"{place}: expected header=True or header=False, because {shown(','.join(first))} may be either a "
                    "header or a row"
                )
    if is_header:
        _check_names(place + ", ", first)
    return Csv(path, first if is_header else [], len(first), hint)


@contextmanager
def _csv_rows(path: Path) -> Iterator[tuple[_Lines, Iterator[list[str]]]]:
    """Open a CSV file; yield its lines and the rows in them."""
    with reading(path, "CSV"), opened(path) as file, TextIOWrapper(file, "utf-8-sig", newline="") as stream:
        lines = _Lines(stream, path)
        try:
            yield lines, filter(None, csv.reader(lines, strict=True))
        except csv.Error as error:
            raise FileFormatError(f"{path}: line {lines.number}: cannot be read as CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise FileFormatError(
                f"{path}: cannot be read as CSV: {error}; save the table with encoding='utf-8'"
            ) from None


class _Lines:
    """The lines of a text file, and the number of the last one read."""

    def __init__(self, stream: TextIOWrapper, path: Path) -> None:
        self.stream, self.path, self.number, self.blank = stream, path, 0, 0
        self.ahead: list[str] = []
        self.error: Exception | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self.ahead:
            self.number += 1
            return self.ahead.pop()
        if self.error:
            raise self.error
        line = self.stream.readline(_LINE + 1)
        if not line:
            raise StopIteration
        self.blank = 0 if len(line) > 2 or line.strip("\r\n") else self.blank + 1
        if len(line) > _LINE:
            raise self._more_than(_LINE, "characters")
        if len(line) > _CELLS and line.count(",") >= _CELLS:
            raise self._more_than(_CELLS, "cells")
        if self.blank > _BLANK:
            raise self._more_than(_BLANK, "blank lines")
        self.number += 1
        return line

    def _more_than(self, most: int, what: str) -> FileFormatError:
        return FileFormatError(f"{self.path}: line {self.number + 1}: expected at most {most} {what}, got more")

    def take(self, most: int) -> list[str]:
        """Take some lines, up to the next error, which is raised when they are used up."""
        taken: list[str] = []
        characters = 0
        try:
            for line in islice(self, most):
                taken.append(line)
                characters += len(line)
                if characters > _TAKEN:
                    break
        except (FileFormatError, UnicodeDecodeError) as error:
            self.error = error
        return taken

    def give_back(self, taken: list[str]) -> None:
        """Undo `take`."""
        self.ahead = taken[::-1] + self.ahead
        self.number -= len(taken)


def _may_be_header(first: list[str], rows: Iterator[list[str]]) -> bool:
    """Tell whether numbers may be column names: 0, 1, …, as pandas writes, or whole numbers above fractions."""
    if not all(cell.strip().isdigit() for cell in first):
        return False
    names = [*map(float, first)]
    if names[:2] == [0, 1] and all(b in (0, a + 1) for a, b in pairwise(names)):  # 0, 1, 2, 0: two tables joined
        return True
    if len(set(names)) < len(names):
        return False
    below = islice(rows, max(1000 // len(names), 1))
    return any(all(map(_is_fraction, column)) for column in zip(*below, strict=False))


def _is_number(cell: str) -> bool:
    """Tell whether a cell is a number, including NaN, and not a name."""
    try:
        return cell.strip().lower() in _BOOLEANS or float(cell) is not None
    except ValueError:
        return False


def _is_whole(cell: str) -> bool:
    return cell.strip().lstrip("+-").isdigit() or cell.strip().lower() in _BOOLEANS


def _is_fraction(cell: str) -> bool:
    return _is_number(cell) and cell.strip().lower() not in _BOOLEANS and 0 < float(cell) % 1 < 1


def _number(cell: str) -> float:
    """Read a cell; raise ValueError, saying what was expected, unless it is a number that float64 holds."""
    value = _BOOLEANS.get(cell.strip().lower())
    if value is not None:
        return value
    try:
        value = float(cell)
    except ValueError:
        value = inf
    if not isfinite(value) or "_" in cell:  # only Python reads 1_000 as a number
        raise ValueError(
            f"expected a finite number, got '{shown(cell)}'; convert text and missing values to numbers first, for "
            "example with pandas.get_dummies(table, dtype=float) and fillna"
        )
    if abs(value) >= 1 << 53 and _is_whole(cell) and int(cell) not in (int(value), int(Decimal(repr(value)))):
        raise ValueError(f"expected a number that float64 holds, got {shown(cell)}; subtract a constant first")
    return value


class Parquet(NamedTuple):
    """A Parquet file, or a row group of it that begins at row `start`; a pandas index does not count as a column."""

    path: Path
    names: list[str]
    fragment: Any
    start: int = 0

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.names)

    def described(self) -> str:
        """Describe the columns for an error message."""
        return listed(self.names)

    def pieces(self) -> Iterator[Parquet]:
        """Yield the parts that can be read separately: the row groups."""
        start = 0
        for fragment in self.fragment.split_by_row_group():
            yield self._replace(fragment=fragment, start=start)
            start += sum(group.num_rows for group in fragment.row_groups)

    def parts(self, order: list[int]) -> Iterator[list[Array]]:
        """Yield the columns in this order, some rows at a time."""
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


def parquet_file(path: Path) -> Parquet:
    """Read the schema of a Parquet file."""
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
    return Parquet(path, names, fragment)


def _check_names(place: str, names: list[str]) -> None:
    """Refuse columns without a name, because most of them are an index that pandas wrote."""
    for i, name in enumerate(names, 1):
        if _NAMELESS.fullmatch(name):
            raise FileFormatError(
                f"{place}column {i}: expected a name, got '{shown(name)}', as for an index that pandas wrote; write "
                "the table with index=False, or give the column a name"
            )


def label_column(path: Path, label: str | int | None, header: list[str], width: int) -> int:
    """Return the position of the label's column, by default the last."""
    if width < 2:
        other = next((c for c in ";\t|" if header and c in header[0]), "")
        advice = f"; {other!r} in the first line may separate them: write commas" if other else ""
        raise FileFormatError(f"{path}: expected at least two columns separated by commas, got {width}{advice}")
    if isinstance(label, str):
        if header.count(label) != 1:
            raise FileFormatError(f"{path}: expected one column named {label!r}, got {listed(header) or 'no header'}")
        return header.index(label)
    column = -1 if label is None else label
    if not -width <= column < width:
        raise FileFormatError(f"{path}: expected a label column from {-width} to {width - 1}, got {column}")
    return column % width
