import contextlib
import gzip
import io
import runpy
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fmlp import data
from fmlp.data import tables
from fmlp.files import FileFormatError

DATA = Path(__file__).parent.parent / "data"
NPY = ("train_data.npy", "train_label.npy", "test_data.npy", "test_label.npy")
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


IDX_CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx_bytes(values):
    code = IDX_CODES[values.dtype.str[1:]]
    start = struct.pack(f">4B{values.ndim}I", 0, 0, code, values.ndim, *values.shape)
    return start + values.astype(values.dtype.newbyteorder(">")).tobytes()


def npy_bytes(values, **kwargs):
    stream = io.BytesIO()
    np.save(stream, values, **kwargs)
    return stream.getvalue()


def npz_bytes(save=np.savez, **arrays):
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def csv_bytes(rows):
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()


def put(folder, name, contents):
    path = Path(folder) / name
    path.write_bytes(contents)
    return path


def arrays(rows_train=6, rows_test=4, width=3, y=np.int64):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.standard_normal((rows_train, width)),
        "y_train": (np.arange(rows_train) % 2).astype(y),
        "x_test": rng.standard_normal((rows_test, width)),
        "y_test": (np.arange(rows_test) % 2).astype(y),
    }


def npy_folder(folder, **changes):
    for name, values in zip(NPY, (arrays() | changes).values(), strict=True):
        np.save(folder / name, values)
    return folder


def mnist(rows=5):
    rng = np.random.default_rng(0)
    return [
        rng.integers(256, size=(rows, 4, 3), dtype=np.uint8),
        rng.integers(10, size=rows, dtype=np.uint8),
        rng.integers(256, size=(2, 4, 3), dtype=np.uint8),
        rng.integers(10, size=2, dtype=np.uint8),
    ]


def idx_folder(folder, values=None, names=IDX):
    for name, array in zip(names, values or mnist(), strict=True):
        contents = idx_bytes(array)
        put(folder, name, gzip.compress(contents) if name.endswith(".gz") else contents)
    return folder


class TestNpy:
    @pytest.mark.parametrize("dtype", ["f4", ">f8", "u1", "i8", "?"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_reads_what_numpy_wrote(self, tmp_path, dtype, order):
        values = np.asarray(np.arange(12).reshape(4, 3) % 2, dtype, order=order)
        np.save(tmp_path / "x.npy", values)
        found = data.read_npy(tmp_path / "x.npy")
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)

    def test_is_a_read_only_memory_map(self, tmp_path):
        np.save(tmp_path / "x.npy", np.ones((4, 3)))
        found = data.read_npy(tmp_path / "x.npy")
        assert isinstance(found, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 0

    @given(st.data())
    def test_truncated_or_extended(self, draw):
        contents = npy_bytes(np.arange(12.0).reshape(4, 3))
        cut = draw.draw(st.integers(0, len(contents) + 9).filter(lambda n: n != len(contents)))
        with tempfile.TemporaryDirectory() as folder:
            path = put(folder, "x.npy", contents[:cut] + bytes(max(0, cut - len(contents))))
            with pytest.raises(FileFormatError, match=r"x\.npy"):
                data.read_npy(path)

    @given(st.integers(0, 127), st.integers(0, 255))
    def test_damaged_header_raises_nothing_but_data_error(self, place, byte):
        contents = bytearray(npy_bytes(np.arange(12.0).reshape(4, 3)))
        contents[place] = byte
        with tempfile.TemporaryDirectory() as folder:
            path = put(folder, "x.npy", bytes(contents))
            with contextlib.suppress(FileFormatError):
                assert data.read_npy(path).nbytes == 96

    def test_lying_header(self, tmp_path):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 61, 1 << 61)}
        )
        path = put(tmp_path, "x.npy", header.getvalue() + bytes(80))
        with pytest.raises(FileFormatError, match=f"expected {8 << 122} bytes .* got 80"):
            data.read_npy(path)

    def test_objects_are_never_unpickled(self, tmp_path):
        np.save(tmp_path / "x.npy", np.array([{"a": 1}]), allow_pickle=True)
        with pytest.raises(FileFormatError, match=r"x\.npy: .*objects.*never unpickled"):
            data.read_npy(tmp_path / "x.npy")

    def test_missing(self, tmp_path):
        for read in (data.read_npy, data.read_npz, data.read_idx, data.read_csv, data.load):
            with pytest.raises(FileNotFoundError, match=r"x\.npy"):
                read(tmp_path / "x.npy")


class TestNpz:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_reads_what_numpy_wrote(self, tmp_path, save):
        wanted = arrays() | {"names": np.array(["a", "b"]), "scalar": np.array(3.5), "none": np.zeros((0, 4))}
        save(tmp_path / "d.npz", **wanted)
        found = data.read_npz(tmp_path / "d.npz")
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            assert found[name].dtype == values.dtype
            np.testing.assert_array_equal(found[name], values)

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    @given(st.data())
    def test_truncated(self, save, draw):
        contents = npz_bytes(save, **arrays())
        with tempfile.TemporaryDirectory() as folder:
            path = put(folder, "d.npz", contents[: draw.draw(st.integers(0, len(contents) - 1))])
            with pytest.raises(FileFormatError, match=r"d\.npz"):
                data.read_npz(path)

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    @given(st.data())
    def test_damaged_member(self, save, draw):
        contents = bytearray(npz_bytes(save, x=np.arange(500.0)))
        contents[draw.draw(st.integers(300, 800))] ^= draw.draw(st.integers(1, 255))
        with tempfile.TemporaryDirectory() as folder, pytest.raises(FileFormatError, match=r"d\.npz"):
            data.read_npz(put(folder, "d.npz", bytes(contents)))

    def test_member_with_lying_header(self, tmp_path):
        member = npy_bytes(np.zeros(10)).replace(b"(10,), }          ", b"(1000000000000,), }")[:-1]
        with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
            archive.writestr("x.npy", member)
        with pytest.raises(FileFormatError, match=r"d\.npz: x\.npy: expected 8000000000000 bytes"):
            data.read_npz(tmp_path / "d.npz")

    def test_objects_are_never_unpickled(self, tmp_path):
        np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}]))
        with pytest.raises(FileFormatError, match=r"d\.npz: x\.npy: .*never unpickled"):
            data.read_npz(tmp_path / "d.npz")

    def test_no_zip(self, tmp_path):
        with pytest.raises(FileFormatError, match=r"d\.npz: cannot be read as npz"):
            data.read_npz(put(tmp_path, "d.npz", npy_bytes(np.ones(3))))


class TestIdx:
    @given(
        st.sampled_from([*IDX_CODES]).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6))
        ),
        st.booleans(),
    )
    def test_round_trip(self, values, zipped):
        contents = idx_bytes(values)
        with tempfile.TemporaryDirectory() as folder:
            path = put(folder, "a.gz" if zipped else "a", gzip.compress(contents) if zipped else contents)
            found = data.read_idx(path)
        assert found.dtype == values.dtype
        assert found.shape == values.shape
        assert found.flags.writeable
        np.testing.assert_array_equal(found, values)

    @pytest.mark.parametrize("zipped", [False, True])
    @given(st.data())
    def test_truncated_or_extended(self, zipped, draw):
        contents = idx_bytes(np.arange(24, dtype=draw.draw(st.sampled_from(["u1", "i2", "f8"]))).reshape(2, 3, 4))
        cut = draw.draw(st.integers(0, len(contents) + 9).filter(lambda n: n != len(contents)))
        contents = contents[:cut] + bytes(max(0, cut - len(contents)))
        with tempfile.TemporaryDirectory() as folder:
            path = put(folder, "a.gz" if zipped else "a", gzip.compress(contents) if zipped else contents)
            with pytest.raises(FileFormatError, match=r"a(\.gz)?: expected"):
                data.read_idx(path)

    @given(st.data())
    def test_truncated_gzip(self, draw):
        contents = gzip.compress(idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)))
        with tempfile.TemporaryDirectory() as folder:
            path = put(folder, "a.gz", contents[: draw.draw(st.integers(0, len(contents) - 1))])
            with pytest.raises(FileFormatError, match=r"a\.gz: (expected|cannot be read)"):
                data.read_idx(path)

    @pytest.mark.parametrize("zipped", [False, True])
    def test_lying_header_allocates_nothing(self, tmp_path, zipped):
        contents = struct.pack(">4B3I", 0, 0, 8, 3, *[0xFFFFFFFF] * 3) + bytes(50)
        path = put(tmp_path, "a.gz" if zipped else "a", gzip.compress(contents) if zipped else contents)
        with pytest.raises(FileFormatError, match=rf"at most \d+ values, got {0xFFFFFFFF**3} for "):
            data.read_idx(path)

    def test_reads_no_further_than_promised(self, tmp_path, monkeypatch):
        read = []
        real = gzip.GzipFile.read
        monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n: read.append(n) or real(self, n))
        path = put(tmp_path, "a.gz", gzip.compress(idx_bytes(np.zeros(9, np.uint8)) + bytes(1 << 24)))
        with pytest.raises(FileFormatError, match=r"expected 9 values .* got more"):
            data.read_idx(path)
        assert sum(read) == 4 + 4 + 10

    @pytest.mark.parametrize("start", [b"\x89PNG", b"\0\0\x0a\x03", b"\0\0\x08\0", b"\0\1\x08\x03"])
    def test_wrong_magic(self, tmp_path, start):
        with pytest.raises(FileFormatError, match=f"a: expected IDX.*got {start.hex(' ')}"):
            data.read_idx(put(tmp_path, "a", start + bytes(40)))

    def test_gz_that_is_none(self, tmp_path):
        with pytest.raises(FileFormatError, match=r"a\.gz: cannot be read as IDX: Not a gzipped file"):
            data.read_idx(put(tmp_path, "a.gz", idx_bytes(np.ones(3, np.uint8))))

    @pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
    def test_no_values(self, tmp_path, shape):
        with pytest.raises(FileFormatError, match="at least 1, got 0"):
            data.read_idx(put(tmp_path, "a", idx_bytes(np.zeros(shape, np.uint8))))


class TestCsv:
    @given(
        hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(2, 5)), elements=st.floats(-1e300, 1e300)),
        st.booleans(),
        st.data(),
    )
    def test_round_trip(self, table, header, draw):
        width = table.shape[1]
        column = draw.draw(st.integers(-width, width - 1))
        label = f"f{column % width}" if header and draw.draw(st.booleans()) else column
        rows = [[f"f{i}" for i in range(width)]] * header + [list(map(repr, row)) for row in table.tolist()]
        with tempfile.TemporaryDirectory() as folder:
            x, y = data.read_csv(put(folder, "a.csv", csv_bytes(rows)), label)
        np.testing.assert_array_equal(y, table[:, column])
        np.testing.assert_array_equal(x, np.delete(table, column, axis=1))
        assert x.dtype == y.dtype == np.float64

    @pytest.mark.parametrize(
        ("labels", "dtype"),
        [
            ((3, -1, "+2"), np.int64),
            ((3, -1, "2.0"), np.float64),
            ((3, -1, "2e0"), np.float64),
            (("2.0", 3, -1), np.float64),
            ((1, 2, 2**60), np.float64),
            ((1, 2, 10**30), np.float64),
        ],
    )
    def test_labels_are_integers_when_all_are_written_so(self, tmp_path, labels, dtype):
        _, y = data.read_csv(put(tmp_path, "a.csv", csv_bytes([(0.5, label) for label in labels])))
        assert y.dtype == dtype
        assert y.tolist() == [float(label) for label in labels]

    def test_byte_order_mark_quotes_windows_lines_and_blank_lines(self, tmp_path):
        text = '\ufeff"size, in cm",label\r\n"1.5", 1\r\n\r\n2.5,0'
        x, y = data.read_csv(put(tmp_path, "a.csv", text.encode()), label="label")
        assert x.tolist() == [[1.5], [2.5]]
        assert y.tolist() == [1, 0]

    @pytest.mark.parametrize("cell", ["", "?", "nan", "inf", "1_000", "1e999", "0x10"])
    @given(st.integers(0, 4), st.integers(0, 2), st.booleans())
    def test_a_cell_that_is_no_number_is_named(self, cell, row, column, header):
        rows = [[0.5, 1, 2] for _ in range(5)]
        rows[row][column] = cell
        lines = [["a", "b", "c"]] * header + rows
        name = r" \([abc]\)" if header else ""
        with (
            tempfile.TemporaryDirectory() as folder,
            pytest.raises(
                FileFormatError, match=rf"a\.csv: line {row + 1 + header}, column {column + 1}{name}: expected"
            ),
        ):
            data.read_csv(put(folder, "a.csv", csv_bytes(lines)))

    @given(st.integers(1, 5), st.sampled_from([1, 2, 4, 5]))
    def test_ragged(self, row, width):
        rows = [[1, 2, 3] for _ in range(6)]
        rows[row] = [1] * width
        with (
            tempfile.TemporaryDirectory() as folder,
            pytest.raises(FileFormatError, match=rf"a\.csv: line {row + 1}: expected 3 cells, got {width}"),
        ):
            data.read_csv(put(folder, "a.csv", csv_bytes(rows)))

    @pytest.mark.parametrize(
        ("contents", "label", "message"),
        [
            (b"", None, "at least two columns"),
            (b"1\n2\n", None, "at least two columns"),
            (b"1;2\n3;4\n", None, "at least two columns .*';' in the first line may separate them"),
            (b"a\tb\n3\t4\n", None, r"'\\t' in the first line may separate them"),
            (b"a,b\n", None, "expected rows of numbers, got none"),
            (b"a,b\n1,2\nx,3\n", None, r"got 'x'; convert text .* first, .*get_dummies\(table, dtype=float\)"),
            (b"1,2\n", "b", "column named 'b', got no header"),
            (b"a,b\n1,2\n", "c", "column named 'c', got a, b"),
            (b"a,a\n1,2\n", "a", "one column named 'a'"),
            (b"1,2\n", 2, "from -2 to 1, got 2"),
            (b"1,2\n", -3, "from -2 to 1, got -3"),
            (b"\xff\xfe1,2", None, "cannot be read as CSV"),
            (
                "größe,b\n1,2\n".encode("latin-1"),
                None,
                "cannot be read as CSV: .* save the table with encoding='utf-8'",
            ),
            (b'a,b\n1,2\n3,"25', None, "line 3: cannot be read as CSV: unexpected end of data"),
            (b'a,b\n1,2\n3,"4"5\n', None, "line 3: cannot be read as CSV: ',' expected after"),
            (b"a,b\n5,9007199254740993\n", None, r"line 2, column 2 \(b\): expected a number that float64 holds"),
            (b"a,b\n-1700000000000000001,5\n", None, r"line 2, column 1 \(a\): expected a number that float64 holds"),
        ],
    )
    def test_errors(self, tmp_path, contents, label, message):
        with pytest.raises(FileFormatError, match=rf"a\.csv: .*{message}"):
            data.read_csv(put(tmp_path, "a.csv", contents), label)


def read_batches(path, label=-1, **settings):
    return [np.concatenate(parts) for parts in zip(*data.Batches(path, label, **settings), strict=True)]


def load_csv(path, label=-1, **settings):
    found = data.load(path, label=label, **settings)
    x, y = (np.concatenate(parts) for parts in (found[::2], found[1::2]))
    order = np.lexsort(x.T[::-1])
    return x[order], y[order]


@pytest.mark.parametrize("read", [data.read_csv, load_csv, read_batches])
class TestHeader:
    """What is a header, and what a row: all readers agree."""

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["0,1,2", "0.5,1.5,0", "1.5,2.5,1"], "line 1: expected header=True or header=False, because 0,1,2 may"),
            (['"0","1","2"', "0.5,1.5,0"], "because 0,1,2 may be either a header or a row"),
            (["0,1,2,0", "0.5,1.5,3,0"], "because 0,1,2,0 may be either a header or a row"),
            (["0,1"], "because 0,1 may be either"),
            (["1999,2000,2001", "5,1.5,7", "6,2.5,8"], "because 1999,2000,2001 may be either"),
            (["0,3,7", "5.0,1.5,0", "6.0,2.5,1"], "because 0,3,7 may be either"),
            (["0,1,y", "0.5,1.5,0"], "line 1, column 3: expected a finite number, got 'y'; .* give header=True"),
            (["nan,nan,nan", "0.5,1.5,0"], "line 1, column 1: expected a finite number, got 'nan'"),
            (["1_0,2_0", "1,2"], "line 1, column 1: expected a finite number, got '1_0'"),
            ([",a,y", "0,0.5,0"], "line 1, column 1: expected a name, got '', as for an index .* index=False"),
            (["\ufeff,0,1", "0,0.5,0"], "line 1, column 1: expected a name, got ''"),
            (["a, ,y", "0,0.5,0"], "line 1, column 2: expected a name, got ' '"),
            (["Unnamed: 0,a,y", "0,0.5,0"], "line 1, column 1: expected a name, got 'Unnamed: 0'"),
            (["a,Unnamed: 0.1,y", "0,0.5,0"], "line 1, column 2: expected a name, got 'Unnamed: 0.1'"),
            (["a,y,__index_level_0__", "0.5,0,0"], "line 1, column 3: expected a name, got '__index_level_0__'"),
        ],
    )
    def test_what_is_not_clear_is_refused(self, tmp_path, read, lines, message):
        with pytest.raises(FileFormatError, match=rf"a\.csv: .*{message}"):
            read(put(tmp_path, "a.csv", "\n".join(lines).encode()))

    @pytest.mark.parametrize(
        ("first", "header", "row"),
        [
            ("1,2,3", None, [1, 2, 3]),
            ("0,0,0", None, [0, 0, 0]),
            ("3.0,1,2", None, [3, 1, 2]),
            ("4,1,7", None, [4, 1, 7]),
            ("true,1,2", None, [1, 1, 2]),
            ("0,1,2", False, [0, 1, 2]),
            ("1999,2000,2001", False, [1999, 2000, 2001]),
            ("0,1,2", True, None),
            ("0,3,y", True, None),
            ("b,a,y", None, None),
        ],
    )
    def test_a_row_is_kept_and_a_header_is_none(self, tmp_path, read, first, header, row):
        path = put(tmp_path, "a.csv", f"{first}\n5,6,7\n7000,8,9.5\n".encode())
        x, y = read(path, header=header)
        order = np.lexsort(x.T[::-1])
        expected = np.array(sorted([[5, 6, 7], [7000, 8, 9.5], *([] if row is None else [row])]))
        np.testing.assert_array_equal(x[order], expected[:, :2])
        np.testing.assert_array_equal(y[order], expected[:, 2])

    def test_names_that_are_numbers(self, tmp_path, read):
        path = put(tmp_path, "a.csv", b"0,1,2\n5,6,7\n8,9,10\n")
        assert read(path, "1", header=True)[1].tolist() == read(path, 1, header=True)[1].tolist() == [6, 9]
        with pytest.raises(FileFormatError, match="column named '1', got no header"):
            read(path, "1", header=False)

    def test_is_true_or_false(self, tmp_path, read):
        with pytest.raises(TypeError, match="header: expected True, False or None, got 0"):
            read(put(tmp_path, "a.csv", b"a,b\n1,2\n3,4\n"), header=0)

    def test_quotes_booleans_and_labels(self, tmp_path, read):
        path = put(tmp_path, "a.csv", b'a,"b,c",y\n"1",True, +3\n2.5,false,4\n')
        x, y = read(path)
        assert x.tolist() == [[1, 1], [2.5, 0]]
        assert (y.tolist(), y.dtype) == ([3, 4], np.int64)


CELLS = ["1", "-2", "+3", "-0.0", ".5", "1.", "1E-3", " 4", "5 ", "\t6", "0.10000000000000000555"]
ODD = [
    "True",
    '"7"',
    '"8\n"',
    "1e300",
    "9007199254740993",
    "nan",
    "1e999",
    "",
    "x",
    "1 2",
    "1_0",
    "1e",
    "+-1",
    "0x1",
    "٣",
]


def outcome(path, label):
    try:
        x, y = data.read_csv(path, label, header=False)
        return x.tobytes(), y.dtype, y.tobytes()
    except FileFormatError as error:
        return str(error)


@given(st.data(), st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
def test_plain_numbers_are_read_as_all_others(data_, end):
    """NumPy reads lines of plain numbers, Python all others: the same values, bit for bit, and the same errors."""
    rows = data_.draw(st.lists(st.lists(st.sampled_from(CELLS), min_size=3, max_size=3), max_size=9))
    if rows:
        data_.draw(st.sampled_from(rows))[data_.draw(st.integers(0, 2))] = data_.draw(st.sampled_from(CELLS[:1] + ODD))
    if rows and data_.draw(st.booleans()):
        rows[-1] = rows[-1][: data_.draw(st.integers(1, 3))]
    text = end.join(map(",".join, rows)) + data_.draw(st.sampled_from(["", end, " ", "\udcff"]))
    label = data_.draw(st.sampled_from([None, 0, 1]))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = put(folder, "a.csv", text.encode(errors="surrogateescape"))
        patch.setattr(tables, "_PART", data_.draw(st.sampled_from([6, 1 << 20])))
        patch.setattr(tables, "_TAKEN", data_.draw(st.sampled_from([12, 1 << 18])))
        mixed = outcome(path, label)
        patch.setattr(tables, "_PLAIN", b"")
        assert outcome(path, label) == mixed


def test_numpy_reads_plain_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(tables.Csv, "_numbers", None)
    x, y = data.read_csv(put(tmp_path, "a.csv", b"a,b\n1.5,2\n\n-3e2,4\n"))
    assert (x.tolist(), y.tolist(), y.dtype) == ([[1.5], [-300.0]], [2, 4], np.int64)


def test_a_part_of_a_table_has_at_least_one_row(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_PART", 1)
    file = tables.csv_file(put(tmp_path, "a.csv", b"a,b\n1,2\n3,True\n5,6\n"), None)
    assert [column.tolist() for column, _ in file.parts([0, 1])] == [[1], [3], [5]]


def test_an_idx_file_may_hold_as_much_as_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("fmlp.data.idx.unpacked_limit", lambda size: 3)
    assert data.read_idx(put(tmp_path, "a", idx_bytes(np.arange(3, dtype=np.uint8)))).tolist() == [0, 1, 2]
    with pytest.raises(FileFormatError, match="expected at most 3 values, got 4"):
        data.read_idx(put(tmp_path, "a", idx_bytes(np.arange(4, dtype=np.uint8))))


@pytest.mark.parametrize("write", ["csv", "npz", "split", "npy", "idx", "batches"])
class TestNothingIsRoundedAway:
    """float32 where it tells values apart, otherwise float64."""

    @staticmethod
    def read(folder, write, x, y):
        x, y = np.asarray(x), np.asarray(y)
        if write == "idx":
            parts = zip(IDX, (x[:, None], y, x[:, None], y), strict=True)
            for name, values in parts:
                put(folder, name, idx_bytes(values.astype("f8" if values.dtype.kind == "f" else "i4")))
            return data.load(folder)[:2]
        if write == "npy":
            return data.load(npy_folder(folder, x_train=x, y_train=y, x_test=x, y_test=y))[:2]
        if write == "split":
            return data.load(put(folder, "d.npz", npz_bytes(x_train=x[1:], y_train=y[1:], x_test=x, y_test=y)))[2:]
        if write == "npz":
            found = data.load(put(folder, "d.npz", npz_bytes(x=x, y=y)))
        else:
            path = put(
                folder,
                "d.csv",
                csv_bytes([["a", "b", "y"], *[(*a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]]),
            )
            if write == "batches":
                return read_batches(path, "y")
            found = data.load(path)
        x, y = (np.concatenate(parts) for parts in (found[::2], found[1::2]))
        order = np.argsort(x[:, 1], kind="stable")
        return x[order], y[order]

    @pytest.mark.parametrize(
        "column",
        [
            1_700_000_000 + np.arange(60.0),
            20240101 + np.arange(28.0),
            16777215 + np.arange(9.0),
            2460310.5 + np.arange(50) / 100,
            19723 + np.arange(60) / 1440,
            -290 - np.arange(50) / 1e6,
        ],
        ids=["seconds", "dates", "2**24", "Julian dates", "days", "negative"],
    )
    def test_columns(self, tmp_path, write, column):
        x = np.stack([column, np.arange(len(column)) / 2], 1)
        found, targets = self.read(tmp_path, write, x, column)
        for values in (found[:, 0], targets):
            assert values.dtype == np.float64 or (values.dtype == np.int64 and (column % 1 == 0).all())
            np.testing.assert_array_equal(values, column)
        z = data.standardize(found, *data.moments(found))
        assert z.dtype == np.float32
        assert len(np.unique(z[:, 0])) == len(column)

    @given(hnp.arrays("f8", (9, 2), elements=st.floats(-8, 8)), st.sampled_from([1e-30, 1.0, 1e4]))
    def test_whatever_is_drawn(self, write, x, scale):
        x = np.concatenate([x, [[-1, -1], [1, 1]]]) * scale
        x[:, 1] = np.arange(len(x))
        with tempfile.TemporaryDirectory() as folder:
            found, targets = self.read(Path(folder), write, x, x[:, 0] / 2)
            assert found.dtype == (np.float64 if write == "npy" else np.float32)
            np.testing.assert_array_equal(found, x.astype(found.dtype))
            np.testing.assert_array_equal(targets, (x[:, 0] / 2).astype(np.float32))
            del found


def test_a_line_of_commas(tmp_path):
    path = put(tmp_path, "a.csv", b"a,b\n1,2\n" + b"," * (15 << 20))
    with pytest.raises(FileFormatError, match=r"a\.csv: line 3: expected at most 1048576 cells, got more"):
        data.read_csv(path)


class TestLoad:
    def test_npy_folder_stays_on_disk(self, tmp_path):
        wanted = arrays()
        found = data.load(npy_folder(tmp_path))
        assert isinstance(found.x_train, np.memmap)
        assert isinstance(found.x_test, np.memmap)
        for values, want in zip(found, wanted.values(), strict=True):
            assert values.dtype == want.dtype
            np.testing.assert_array_equal(values, want)

    def test_npy_features_are_not_scanned(self, tmp_path):
        x = arrays()["x_train"]
        x[2, 1] = np.nan
        assert np.isnan(data.load(npy_folder(tmp_path, x_train=x)).x_train[2, 1])

    def test_labels_become_one_dimensional_int64(self, tmp_path):
        column = np.array([[1], [2], [3], [4], [5], [6]], np.uint8)
        y_train = data.load(npy_folder(tmp_path, y_train=column)).y_train
        assert y_train.dtype == np.int64
        assert y_train.tolist() == [1, 2, 3, 4, 5, 6]

    def test_labels_too_large_for_int64(self, tmp_path):
        y = np.array([0, (1 << 63) + 1], np.uint64)
        with pytest.raises(
            FileFormatError, match=r"d\.npz: y: expected integers below 2\*\*63, got 9223372036854775809"
        ):
            data.load(put(tmp_path, "d.npz", npz_bytes(x=np.ones((2, 2)), y=y)))
        y[1] -= 2
        assert data.load(put(tmp_path, "d.npz", npz_bytes(x=np.ones((2, 2)), y=y))).y_test.tolist() in (
            [0],
            [2**63 - 1],
        )

    @pytest.mark.parametrize("missing", NPY)
    def test_npy_folder_with_a_file_missing(self, tmp_path, missing):
        (npy_folder(tmp_path) / missing).unlink()
        present = ", ".join(sorted(set(NPY) - {missing}))
        with pytest.raises(FileFormatError, match=f"expected {missing} too, found {present}"):
            data.load(tmp_path)

    @pytest.mark.parametrize("test", ["t10k", "test"])
    @pytest.mark.parametrize("gz", ["", ".gz"])
    def test_mnist_folder(self, tmp_path, test, gz):
        names = [name.replace("t10k", test) + gz for name in IDX]
        wanted = mnist()
        found = data.load(idx_folder(tmp_path, wanted, names))
        assert [a.dtype for a in found] == [np.float32, np.int64, np.float32, np.int64]
        np.testing.assert_array_equal(found.x_train, wanted[0].reshape(5, 12).astype(np.float32) / 255)
        np.testing.assert_array_equal(found.x_test, wanted[2].reshape(2, 12).astype(np.float32) / 255)
        np.testing.assert_array_equal(found.y_train, wanted[1])
        np.testing.assert_array_equal(found.y_test, wanted[3])

    @pytest.mark.parametrize("missing", IDX)
    def test_mnist_folder_with_a_file_missing(self, tmp_path, missing):
        (idx_folder(tmp_path) / missing).unlink()
        with pytest.raises(FileFormatError, match=rf"expected {missing} or {missing}\.gz.* too, found "):
            data.load(tmp_path)

    @pytest.mark.parametrize(("place", "dimensions"), [(0, 1), (1, 3), (2, 1), (3, 3)])
    def test_mislabelled_idx(self, tmp_path, place, dimensions):
        values = mnist()
        values[place] = values[place ^ 1]
        magics = {1: 2049, 3: 2051}
        message = f"{IDX[place]}: expected .*{magics[4 - dimensions]}.* got {dimensions} .{magics[dimensions]}"
        with pytest.raises(FileFormatError, match=message):
            data.load(idx_folder(tmp_path, values))

    @pytest.mark.parametrize(
        "spell",
        [
            lambda name: name.replace("-idx", ".idx"),
            lambda name: f"emnist-letters-{name.replace('t10k', 'test')}.gz",
            lambda name: f"kmnist-{name}",
        ],
    )
    def test_spellings_of_mnist(self, tmp_path, spell):
        wanted = mnist()
        found = data.load(idx_folder(tmp_path, wanted, [*map(spell, IDX)]))
        np.testing.assert_array_equal(found.y_test, wanted[3])
        (tmp_path / spell(IDX[2])).unlink()
        with pytest.raises(
            FileFormatError, match=r"expected (emnist-letters-|kmnist-)?t10k-images-idx3-ubyte or .* too"
        ):
            data.load(tmp_path)

    @pytest.mark.parametrize("other", ["test-images-idx3-ubyte", "emnist-digits-train-images-idx3-ubyte.gz"])
    def test_folder_of_two_sets(self, tmp_path, other):
        put(idx_folder(tmp_path), other, b"")
        with pytest.raises(FileFormatError, match="expected the files of one data set, found"):
            data.load(tmp_path)

    def test_a_plain_file_comes_before_its_gz(self, tmp_path):
        put(idx_folder(tmp_path), IDX[0] + ".gz", b"")
        assert len(data.load(tmp_path).x_train) == 5

    @pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "f4", "f8"])
    def test_images_of_other_types_are_features_as_they_are(self, tmp_path, dtype):
        images = [np.arange(-30, 30).reshape(5, 4, 3).astype(dtype), np.ones((2, 4, 3), dtype)]
        found = data.load(
            idx_folder(tmp_path, [images[0], np.arange(5, dtype="i4"), images[1], np.arange(2, dtype="i2")])
        )
        assert [values.dtype for values in found] == ["f4", "i8", "f4", "i8"]
        np.testing.assert_array_equal(found.x_train, images[0].reshape(5, 12))

    def test_folder_of_something_else(self, tmp_path):
        for i in range(20):
            put(tmp_path, f"{i:02}.txt", b"")
        with pytest.raises(FileFormatError, match=r"expected train_data\.npy.*; found 00\.txt, .* and 8 more"):
            data.load(tmp_path)

    def test_npz(self, tmp_path):
        wanted = arrays(y=np.float64)
        found = data.load(put(tmp_path, "d.npz", npz_bytes(**wanted)))
        for values, want in zip(found, wanted.values(), strict=True):
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, want.astype(np.float32))

    def test_npz_and_csv_without_a_split_are_split_alike(self, tmp_path):
        x, y = np.arange(20, dtype=np.float32).reshape(10, 2), np.arange(10) % 2
        npz = data.load(put(tmp_path, "d.npz", npz_bytes(x=x, y=y)), test_fraction=0.4, seed=5)
        rows = [(*row, label) for row, label in zip(x.tolist(), y.tolist(), strict=True)]
        csv = data.load(put(tmp_path, "d.csv", csv_bytes(rows)), test_fraction=0.4, seed=5)
        for a, b, c in zip(npz, csv, data.train_test_split(x, y, 0.4, 5), strict=True):
            assert a.dtype == b.dtype == c.dtype
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)

    def test_csv_label(self, tmp_path):
        path = put(tmp_path, "d.csv", b"a,b,c\n1,2,3\n4,5,6\n")
        found = data.load(path, label="b", test_fraction=0.5)
        assert sorted([*found.y_train, *found.y_test]) == [2, 5]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"y_train": np.zeros(5, int)}, "y_train: expected 6 labels.*x_train, got 5"),
            ({"x_test": np.zeros((3, 3))}, "y_test: expected 3 labels.*x_test, got 4"),
            ({"x_test": np.zeros((4, 2))}, r"x_test: expected rows of shape \(3,\).*got \(2,\)"),
            ({"y_test": np.zeros((4, 2), int)}, r"y_test: expected int64 of row shape \(\).*got int64 of \(2,\)"),
            ({"y_test": np.zeros(4)}, "y_test: expected int64.*got float32"),
            ({"x_train": np.zeros(6)}, r"x_train: expected shape \(rows, features\).*got \(6,\)"),
            ({"x_train": np.zeros((0, 3))}, r"x_train: .*at least one.*got \(0, 3\)"),
            ({"x_train": np.zeros((6, 0))}, r"x_train: .*at least one.*got \(6, 0\)"),
            ({"y_train": np.zeros((6, 0))}, r"y_train: .*at least one.*got \(6, 0\)"),
            ({"y_train": np.array(1)}, r"y_train: expected shape \(rows,\).*got \(\)"),
            ({"x_train": np.full((6, 3), "a")}, "x_train: expected numbers, got dtype <U1"),
            ({"y_train": np.full(6, "a")}, "y_train: expected numbers, got dtype <U1"),
            ({"x_train": np.zeros((6, 3), complex)}, "x_train: expected numbers, got dtype complex128"),
            ({"y_train": np.array([1, 2, np.nan, 4, 5, 6])}, r"y_train: expected finite.*nan at index \(2,\)"),
        ],
    )
    def test_errors_of_arrays(self, tmp_path, changes, message):
        with pytest.raises(FileFormatError, match=rf"d\.npz: {message}"):
            data.load(put(tmp_path, "d.npz", npz_bytes(**(arrays() | changes))))
        renamed = message
        for name, file in zip(arrays(), NPY, strict=True):
            renamed = renamed.replace(name, file)
        with pytest.raises(FileFormatError, match=renamed):
            data.load(npy_folder(tmp_path, **changes))

    @given(st.integers(0, 5), st.integers(0, 2), st.sampled_from([np.nan, np.inf, -np.inf, 1e39, -1e300]))
    def test_features_that_are_not_finite(self, row, column, value):
        changed = arrays()
        changed["x_train"][row, column] = value
        with (
            tempfile.TemporaryDirectory() as folder,
            pytest.raises(FileFormatError, match=rf"d\.npz: x_train: expected finite.*at index \({row}, {column}\)"),
        ):
            data.load(put(folder, "d.npz", npz_bytes(**changed)))

    @pytest.mark.parametrize(
        ("name", "contents", "label", "message"),
        [
            ("d.npz", npz_bytes(x=np.ones((3, 2))), None, "expected arrays x_train, .*, or x, y; found x"),
            ("d.npz", npz_bytes(x=np.ones((1, 2)), y=np.ones(1)), None, "expected at least 2 rows"),
            ("d.csv", b"1,2\n", None, "expected at least 2 rows"),
            ("d.txt", b"1,2\n", None, r"expected a folder, an \.npz file or a \.csv file"),
        ],
    )
    def test_errors_of_files(self, tmp_path, name, contents, label, message):
        with pytest.raises(FileFormatError, match=rf"{name}: {message}"):
            data.load(put(tmp_path, name, contents), label=label)

    @pytest.mark.parametrize(("name", "value"), [("label", "a"), ("header", False)])
    def test_label_or_header_of_no_csv(self, tmp_path, name, value):
        with pytest.raises(ValueError, match=rf"d\.npz: {name}={value!r} is for CSV"):
            data.load(put(tmp_path, "d.npz", npz_bytes(**arrays())), **{name: value})

    def test_whole_numbers_that_float64_does_not_hold(self, tmp_path):
        x = np.array([[0, 1], [2, 1_700_000_000_000_000_001]])
        with pytest.raises(
            FileFormatError, match=r"d\.npz: x: expected numbers that float64 holds, got 17\d+1 at .*1, 1"
        ):
            data.load(put(tmp_path, "d.npz", npz_bytes(x=x, y=[0, 1])))
        found = data.load(put(tmp_path, "d.npz", npz_bytes(x=x[:, ::-1] + 255, y=[0, 1])), test_fraction=0.5)
        assert {*found.x_train[:, 0], *found.x_test[:, 0]} == {256.0, 2.0**-0 * 1_700_000_000_000_000_256}

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            data.load(tmp_path / "nowhere")


class TestSplit:
    @given(
        hnp.arrays(np.int64, st.integers(2, 60), elements=st.integers(0, 4)),
        st.floats(0.01, 0.99),
        st.integers(0, 9),
    )
    def test_is_stratified_deterministic_disjoint_and_complete(self, y, fraction, seed):
        n = len(y)
        x = np.arange(n)[:, None]
        split = data.train_test_split(x, y, fraction, seed)
        again = data.train_test_split(x, y, fraction, seed)
        for a, b in zip(split, again, strict=True):
            np.testing.assert_array_equal(a, b)
        train, test = split.x_train[:, 0], split.x_test[:, 0]
        assert sorted([*train, *test]) == list(range(n))
        assert (np.diff(train) > 0).all()
        assert (np.diff(test) > 0).all()
        np.testing.assert_array_equal(split.y_train, y[train])
        np.testing.assert_array_equal(split.y_test, y[test])
        assert len(test) == min(max(round(n * fraction), 1), n - 1)
        shares = {label: (count, count * len(test) / n) for label, count in data.label_balance(y).items()}
        rare = sum(
            not 1 <= share <= count - 1 for count, share in shares.values()
        )  # these may need a row of the others
        for label, (_, share) in shares.items():
            assert abs((split.y_test == label).sum() - share) < 1 + rare

    @given(st.integers(2, 5), st.integers(0, 99), st.sampled_from([int, bool, str]))
    def test_a_rare_label_is_in_both_parts(self, rows, seed, kind):
        y = (np.arange(200) < rows).astype(kind)
        for targets in (y, y[:, None]):
            split = data.train_test_split(np.arange(200)[:, None], targets, 0.1, seed)
            assert len(split.y_test) == 20
            assert len(np.unique(split.y_test)) == len(np.unique(split.y_train)) == 2
        alone = data.train_test_split(np.arange(200)[:, None], (np.arange(200) == 7).astype(kind), 0.1, seed)
        assert len(np.unique(alone.y_train)) == 2

    def test_every_row_is_drawn_equally_often(self):
        x, y = np.arange(10)[:, None], np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
        for targets in (y, y.astype(float)):
            drawn = np.zeros(10)
            for seed in range(1000):
                drawn[data.train_test_split(x, targets, 0.3, seed).x_test[:, 0]] += 1
            assert abs(drawn - 300).max() < 5 * np.sqrt(1000 * 0.3 * 0.7)

    def test_float_targets_are_not_stratified(self):
        y = np.array([0.0, 1.0] * 4)
        counts = {int(data.train_test_split(y[:, None], y, 0.5, seed).y_test.sum()) for seed in range(40)}
        assert len(counts) > 1

    def test_leaves_its_arguments_alone(self):
        x, y = np.ones((4, 2)), np.arange(4)
        split = data.train_test_split(x, y)
        assert not any(np.shares_memory(part, whole) for part in split for whole in (x, y))

    @pytest.mark.parametrize("fraction", [0, 1, -0.2, 1.5, float("nan")])
    def test_fraction(self, fraction):
        with pytest.raises(ValueError, match=r"test_fraction: expected a number in \(0, 1\), got"):
            data.train_test_split(np.ones((4, 2)), np.arange(4), fraction)

    @pytest.mark.parametrize(("rows", "labels"), [(4, 3), (1, 1), (0, 0)])
    def test_rows(self, rows, labels):
        with pytest.raises(ValueError, match=rf"x, y: .* got shapes \({rows}, .*\) and \({labels},\)"):
            data.train_test_split(np.ones((rows, 2)), np.arange(labels))


class TestStandardize:
    @given(
        hnp.arrays(
            np.float32, st.tuples(st.integers(1, 20), st.integers(1, 4)), elements=st.floats(-100, 100, width=32)
        )
    )
    def test_against_the_definition(self, x):
        before = x.copy()
        mean, std = data.moments(x)
        out = data.standardize(x, mean, std)
        wide = x.astype(np.float64)
        deviation = np.where(np.ptp(wide, 0) == 0, 1, wide.std(0))
        np.testing.assert_allclose(std, deviation, rtol=1e-9)
        np.testing.assert_allclose(out, (wide - wide.mean(0)) / deviation, rtol=1e-5, atol=1e-6)
        assert out.dtype == np.float32
        np.testing.assert_array_equal(x, before)

    def test_sums_in_float64(self):
        x = np.float32(1e4) + np.tile(np.array([[-1.0], [1.0]], np.float32), (50_000, 1))
        mean, std = data.moments(x)
        assert mean[0] == 1e4
        assert std[0] == 1
        x = np.linspace(0, 1, 100_000, dtype=np.float32).reshape(-1, 2)
        np.testing.assert_allclose(data.moments(x)[0], x.astype(np.float64).mean(0), rtol=1e-12)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])  # in float64 the sum is rounded
    def test_constant_column_becomes_zero(self, dtype):
        x = np.full((1001, 1), 0.1, dtype)
        mean, std = data.moments(x)
        assert std[0] == 1
        assert abs(data.standardize(x, mean, std)).max() < 1e-6

    @pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e120])
    def test_scale_does_not_matter(self, scale):
        x = np.array([[-1.0], [1.0]]) * scale
        np.testing.assert_allclose(data.standardize(x, *data.moments(x)), [[-1], [1]], rtol=1e-6)

    def test_deviation_too_small_for_float64(self):
        x = np.array([[-1e-200], [1e-200]])
        assert abs(data.standardize(x, *data.moments(x))).max() < 1e-30

    def test_memory_mapped(self, tmp_path):
        np.save(tmp_path / "x.npy", arrays()["x_train"])
        x = data.read_npy(tmp_path / "x.npy")
        mean, std = data.moments(x)
        assert type(data.standardize(x, mean, std)) is type(mean) is type(std) is np.ndarray

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
    def test_values_that_are_not_finite(self, value):
        x = np.zeros((3, 2))
        x[1, 1] = value
        with pytest.raises(ValueError, match="column 1"):
            data.moments(x)

    @pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 3, 4)])
    def test_shape_of_moments(self, shape):
        with pytest.raises(ValueError, match="x: expected shape"):
            data.moments(np.ones(shape))

    @pytest.mark.parametrize(("x", "mean", "std"), [((4, 3), 2, 2), ((4, 3), 3, 1), ((3,), 3, 3)])
    def test_shapes_of_standardize(self, x, mean, std):
        with pytest.raises(ValueError, match=r"x, mean, std: expected shapes \(rows, features\)"):
            data.standardize(np.ones(x), np.ones(mean), np.ones(std))


class TestLabelBalance:
    @given(st.lists(st.integers(-3, 3)), st.sampled_from([np.int64, np.float32, np.int8]))
    def test_counts(self, labels, dtype):
        found = data.label_balance(np.array(labels, dtype))
        assert found == {label: labels.count(label) for label in sorted(set(labels))}
        assert all(type(value) is int for pair in found.items() for value in pair)

    @pytest.mark.parametrize("y", [[0.5], [np.nan], [np.inf], ["a"], [[1, 0]]])
    def test_errors(self, y):
        with pytest.raises(ValueError, match="y: expected"):
            data.label_balance(np.array(y))


class TestGaussianClasses:
    def test_shapes_balance_and_seed(self):
        first, accuracy = data.gaussian_classes(1003, 500, features=7, classes=4, seed=3)
        again, accuracy_again = data.gaussian_classes(1003, 500, features=7, classes=4, seed=3)
        other, _ = data.gaussian_classes(1003, 500, features=7, classes=4, seed=4)
        assert [a.shape for a in first] == [(1003, 7), (1003,), (500, 7), (500,)]
        assert [a.dtype for a in first] == [np.float32, np.int64, np.float32, np.int64]
        assert set(data.label_balance(first.y_train).values()) == {250, 251}
        assert data.label_balance(first.y_test) == dict.fromkeys(range(4), 125)
        assert all(map(np.array_equal, first, again))
        assert accuracy == accuracy_again
        assert not np.array_equal(first.x_train, other.x_train)

    def test_bayes_accuracy_of_the_default_set(self):
        drawn, accuracy = data.gaussian_classes()
        assert drawn.x_train.shape == (50_000, 128)
        assert 0.59 < accuracy < 0.61
        assert set(data.label_balance(drawn.y_train).values()) == {5_000}

    @pytest.mark.parametrize(("features", "classes"), [(128, 10), (2, 3)])
    def test_bayes_accuracy_against_monte_carlo(self, features, classes):
        """An independent draw of the documented distribution, judged by the Bayes classifier from its densities."""
        drawn, accuracy = data.gaussian_classes(1, 40_000, features, classes, seed=1)
        centres = np.random.default_rng(1).standard_normal((classes, 2, features))
        centres *= 4.5 / np.linalg.norm(centres, axis=2, keepdims=True)

        def bayes(x):
            squared = [[((x - m) ** 2).sum(1) for m in pair] for pair in centres]
            return np.exp(-np.array(squared) / 2).sum(1).argmax(0)

        rng = np.random.default_rng(99)
        n = 40_000
        c = rng.integers(classes, size=n)
        y = np.where(rng.random(n) < 0.44, rng.integers(classes, size=n), c)
        x = centres[c, rng.integers(2, size=n)] + rng.standard_normal((n, features))
        four_errors = 4 * 0.5 / np.sqrt(n)
        assert abs((bayes(x) == y).mean() - accuracy) < 2 * four_errors
        assert abs((bayes(drawn.x_test.astype(float)) == drawn.y_test).mean() - accuracy) < four_errors

    def test_cache_is_written_once_and_read_again(self, tmp_path, monkeypatch):
        cache = tmp_path / "new" / "generated.npz"
        drawn, accuracy = data.gaussian_classes(60, 40, 5, 3, cache=cache)
        assert [path.name for path in cache.parent.iterdir()] == ["generated.npz"]
        fresh, fresh_accuracy = data.gaussian_classes(60, 40, 5, 3)
        monkeypatch.setattr(np.random, "default_rng", None)
        kept, kept_accuracy = data.gaussian_classes(60, 40, 5, 3, cache=cache)
        for a, b, c, d in zip(drawn, fresh, kept, data.load(cache), strict=True):
            assert a.dtype == b.dtype == c.dtype == d.dtype
            assert np.array_equal(a, b)
            assert np.array_equal(a, c)
            assert np.array_equal(a, d)
        assert accuracy == fresh_accuracy == kept_accuracy

    def test_an_interrupted_write_leaves_nothing(self, tmp_path, monkeypatch):
        def interrupted(stream, *_, **__):
            stream.write(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(np.lib.format, "write_array", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data.gaussian_classes(60, 40, 5, 3, cache=tmp_path / "generated.npz")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("changed", range(5))
    def test_a_cache_of_something_else_is_refused_and_kept(self, tmp_path, changed):
        cache = tmp_path / "generated.npz"
        arguments = [60, 40, 5, 3, 0]
        data.gaussian_classes(*arguments, cache=cache)
        before = cache.read_bytes()
        arguments[changed] += 1
        with pytest.raises(FileFormatError, match=r"generated\.npz: not what these arguments generate"):
            data.gaussian_classes(*arguments, cache=cache)
        assert cache.read_bytes() == before

    def test_someone_elses_file_as_cache(self, tmp_path):
        for contents in (npz_bytes(**arrays()), b"precious"):
            cache = put(tmp_path, "mine.npz", contents)
            with pytest.raises(FileFormatError, match=r"mine\.npz"):
                data.gaussian_classes(60, 40, 5, 3, cache=cache)
            assert cache.read_bytes() == contents

    @pytest.mark.parametrize(
        "arguments", [(0,), (1, 0), (1, 1, 0), (1, 1, 1, 1), (1, 1, 1, 2, -1), (1, 1, 1, 2, 1 << 63)]
    )
    def test_arguments(self, arguments):
        with pytest.raises(ValueError, match=r"^\w+: expected an integer (of at least [012]|below 2\*\*63), got"):
            data.gaussian_classes(*arguments)


class TestFiles:
    def test_digits(self):
        found = data.load(DATA / "digits.npz")
        assert found.x_train.shape == (1438, 64)
        assert found.x_test.shape == (359, 64)
        assert (found.x_train.min(), found.x_train.max()) == (0, 16)
        train, test = data.label_balance(found.y_train), data.label_balance(found.y_test)
        assert list(train) == list(test) == list(range(10))
        assert all(abs(test[k] - 0.2 * (train[k] + test[k])) < 1.1 for k in range(10))

    def test_diabetes(self):
        found = data.load(DATA / "diabetes.npz")
        assert found.x_train.shape == (354, 10)
        assert found.x_test.shape == (88, 10)
        assert found.y_train.dtype == np.float32
        assert set(found.x_train[:, 1]) == {1, 2}
        assert (min(found.y_train.min(), found.y_test.min()), max(found.y_train.max(), found.y_test.max())) == (25, 346)

    def test_are_what_the_script_makes(self, tmp_path):
        pytest.importorskip("sklearn")
        runpy.run_path(str(DATA / "make_data.py"))["main"](tmp_path)
        for name in ("digits.npz", "diabetes.npz"):
            made, kept = data.read_npz(tmp_path / name), data.read_npz(DATA / name)
            assert made.keys() == kept.keys()
            for key in made:
                assert made[key].dtype == kept[key].dtype
                np.testing.assert_array_equal(made[key], kept[key])

    def test_the_script_makes_the_same_bytes_twice(self, tmp_path):
        pytest.importorskip("sklearn")
        main = runpy.run_path(str(DATA / "make_data.py"))["main"]
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            main(tmp_path / name)
        for name in ("digits.npz", "diabetes.npz"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_needs_neither_scipy_nor_scikit_learn():
    code = "import sys, fmlp.data; sys.exit(bool({'scipy', 'sklearn'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
