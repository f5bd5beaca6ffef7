"""Files that are broken or meant to do harm: the one error refuses each, and says what is wrong with which file.

The tables read as documentation. Below them, the same is asked of files damaged at random (`reliability/fuzz.py`).
"""

import contextlib
import gzip
import io
import os
import pickle
import re
import struct
import sys
import threading
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

import fmlp
from fmlp import data, losses, optim, random, tree
from fmlp.layers import Dense, serial

GOOD = np.arange(6.0).reshape(3, 2)


def npy(values=GOOD, **parts):
    """An npy file, or one whose header says something else than its values."""
    header = {"descr": "<f8", "fortran_order": False, "shape": values.shape} | parts
    return raw_npy("{" + ", ".join(f"'{k}': {v!r}" for k, v in header.items()) + "}", values.tobytes())


def raw_npy(header, values=b"", version=1, length=None):
    text = header.encode("latin-1")
    length = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(2 if version == 1 else 4, "little") + text + values


def zipped(*members, method=zipfile.ZIP_STORED):
    """A zip of (name, contents), checksums and all."""
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(stream, "w", method) as archive:
        for name, contents in members:
            archive.writestr(name, contents, compresslevel=1)
    return stream.getvalue()


def npz(method=zipfile.ZIP_STORED, **members):
    return zipped(*((f"{name}.npy", contents) for name, contents in members.items()), method=method)


def edited(contents, signature, offset, form, value):
    """A zip one of whose numbers is another: `offset` bytes into its first record of this signature."""
    out = bytearray(contents)
    struct.pack_into(form, out, out.index(signature) + offset, value)
    return bytes(out)


def idx(shape=(3,), values=b"\7\2\1"):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values


def flipped(contents, at):
    return contents[:at] + bytes([contents[at] ^ 1]) + contents[at + 1 :]


class Harm:
    """Unpickled, it would leave a trace."""

    def __reduce__(self):
        return exec, ("import sys; sys.harmed = True",)


PICKLED = raw_npy("{'descr': '|O', 'fortran_order': False, 'shape': ()}", pickle.dumps(Harm()))
ZEROS = npy(np.zeros(65 << 17))  # a little more than 64 MiB

NPY = {
    "empty": (b"", "expected npy of version 1 to 3, whose first bytes are 93 4e 55 4d 50 59, got an empty file"),
    "truncated in the magic": (npy()[:5], "expected npy .*, got 93 4e 55 4d 50$"),
    "truncated in the header": (npy()[:30], "expected a header of at most 20 bytes in 30, got 57"),
    "truncated in the values": (npy()[:-1], r"expected 48 bytes for float64 of shape \(3, 2\), got 47"),
    "trailing garbage": (npy() + b"\0", r"expected 48 bytes for float64 of shape \(3, 2\), got 49"),
    "bit flipped in the magic": (flipped(npy(), 3), "expected npy .*, got 93 4e 55 4c 50 59 01 00"),
    "bit flipped in the header": (flipped(npy(), 12), "expected descr .*, fortran_order and shape as header, got"),
    "unknown version": (raw_npy("{}", version=4), "expected npy of version 1 to 3, .* 59 04 00"),
    "header longer than the file": (
        raw_npy("{}", length=9_000),
        "expected a header of at most 2 bytes in 12, got 9000",
    ),
    "header of 4 GiB": (
        raw_npy("", version=2, length=2**32 - 1),
        "expected a header of at most 0 bytes in 12, got 4294967295",
    ),
    "header too long": (
        raw_npy(" " * 10_001, bytes(9)),
        "expected a header of at most 10000 bytes in 10020, got 10001",
    ),
    "no header": (raw_npy("{}"), r"expected descr .* as header, got \{\}"),
    "header with values of other types": (
        raw_npy("{'descr': '<f8', 'fortran_order': 'True', 'shape': True}", bytes(8)),
        "expected descr .* as header, got",
    ),
    "header with another key": (npy(x=0), "expected descr .* as header, got"),
    "header that nests deeply": (raw_npy("[" * 4999 + "]" * 4999), r"expected descr .* as header, got \[\[\["),
    "header that is code": (raw_npy("exec('import sys; sys.harmed = True')"), "expected descr .* as header, got exec"),
    "Python objects": (PICKLED, "expected numbers or strings, got Python objects, which are never unpickled"),
    "fields": (npy(descr=[("a", "|O")]), "expected descr .* as header, got"),
    "fields in a string": (npy(descr="f4,f4"), "expected numbers or strings, got dtype f4,f4"),
    "raw bytes": (npy(descr="|V8"), r"expected numbers or strings, got dtype \|V8"),
    "strings without length": (npy(descr="<U0"), "expected numbers or strings, got dtype <U0"),
    "no such dtype": (npy(descr="<f3"), "cannot be read as np[yz]: data type '<f3' not understood"),
    "negative dimension": (npy(shape=(-3, -2)), r"expected descr .* as header, got .*\(-3, -2\)"),
    "dimensions that overflow": (npy(shape=(2**32, 2**32)), "expected 147573952589676412928 bytes .*, got 48"),
    "dimensions that overflow, and a 0": (
        npy(np.zeros((0, 2)), shape=(0, 2**62)),
        r"expected dimensions that fit into memory, got \(0, 4611686018427387904\)",
    ),
    "dimensions too many": (npy(shape=(1,) * 65, values=GOOD[:1, :1]), "cannot be read as np[yz]: .*[Mm]aximum"),
}

NPZ = {
    "empty": (b"", "cannot be read as npz: File is not a zip file"),
    "something else": (b"weights", "cannot be read as npz: File is not a zip file"),
    "truncated": (npz(w=npy())[:-30], "cannot be read as npz: File is not a zip file"),
    "trailing garbage": (npz(w=npy()) + b"\0", "expected nothing before and after the archive"),
    "leading garbage": (b"\0" + npz(w=npy()), "expected nothing before and after the archive"),
    "two files in one": (npz(w=npy()) + npz(v=npy()), "expected nothing before and after the archive"),
    "bit flipped in a value": (flipped(npz(w=npy()), -130), "cannot be read as npz: Bad CRC-32 for file 'w.npy'"),
    "bit flipped in a name": (flipped(npz(w=npy()), 30), "File name in directory 'w.npy' and header b'v.npy' differ"),
    "offset beyond the file": (
        edited(npz(w=npy(), v=npy()), b"PK\1\2", 42, "<I", 2**32 - 1),
        "expected nothing before and after the archive",
    ),
    "name twice": (zipped(("w.npy", npy()), ("w.npy", npy())), "expected every name once, got w again"),
    "name twice, spelt differently": (zipped(("w.npy", npy()), ("w", npy())), "expected every name once, got w again"),
    "no npy": (npz(w=b"weights!"), r"w\.npy: expected npy of version 1 to 3"),
    "encrypted": (edited(npz(w=npy()), b"PK\1\2", 8, "<H", 1), "cannot be read as npz: File .* is encrypted"),
    "packed by bzip2": (npz(zipfile.ZIP_BZIP2, w=npy()), r"w\.npy: expected it stored or deflated, as NumPy"),
    "packed by LZMA": (npz(zipfile.ZIP_LZMA, w=npy()), r"w\.npy: expected it stored or deflated, as NumPy"),
    "bomb": (npz(zipfile.ZIP_DEFLATED, w=ZEROS), "expected at most 67108864 bytes out of .*, got 68157"),
    "bomb in two parts": (
        npz(zipfile.ZIP_DEFLATED, w=ZEROS[: 33 << 20], v=ZEROS[: 33 << 20]),
        "expected at most 67108864 bytes out of .*, got 69206016 .*; .* can be read when saved uncompressed",
    ),
    "members that overlap": (
        edited(npz(w=npy()), b"PK\1\2", 20, "<I", 9999),
        "expected at most 67108864 bytes out of 223, got 115 out of 9999",
    ),
    "promise of 4 GiB": (
        edited(npz(w=npy()), b"PK\1\2", 24, "<I", 2**32 - 2),
        "expected at most 67108864 .* got 4294967294",
    ),
    "promise of more": (
        edited(npz(w=npy()[:-9]), b"PK\1\2", 24, "<I", 115),
        r"w\.npy: expected 48 bytes of values, got 39",
    ),
    "promise of less": (
        edited(npz(w=npy()), b"PK\1\2", 24, "<I", 100),
        "cannot be read as npz: Bad CRC-32 for file 'w.npy'",
    ),
}

IDX = {
    "empty": (b"", "expected IDX, whose first bytes are 00 00, 08, .* and the number of dimensions, got an empty file"),
    "truncated in the start": (idx()[:3], "expected IDX, .* got 00 00 08$"),
    "truncated in the dimensions": (idx()[:6], "expected 1 dimensions, but the file ends within them"),
    "truncated in the values": (idx()[:-1], r"expected 3 values for the shape \(3,\), at least 1, got 2"),
    "trailing garbage": (idx() + b"\0", r"expected 3 values for the shape \(3,\), at least 1, got more"),
    "other numbers": (b"\0\0\x0a" + idx()[3:], "expected IDX, .* got 00 00 0a 01"),
    "little-endian dimensions": (
        b"\0\0\x08\1\3\0\0\0\7\2\1",
        r"expected 50331648 values for the shape \(50331648,\), at least 1, got 3",
    ),
    "no values": (idx((3, 0), b""), r"expected 0 values for the shape \(3, 0\), at least 1, got 0"),
    "a promise of all the memory": (idx((2**32 - 1,) * 8, b""), "expected at most .* values, got 11579"),
    "dimensions too many": (idx((1,) * 255, b"\1"), "cannot be read as IDX: .*[Mm]aximum"),
}

GZ = {
    "empty": (b"", "expected IDX, .*, got an empty file"),
    "no gzip": (idx(), r"cannot be read as IDX: Not a gzipped file \(b'\\\\x00\\\\x00'\)"),
    "truncated": (gzip.compress(idx())[:-9], "cannot be read as IDX: Compressed file ended before"),
    "bit flipped": (flipped(gzip.compress(idx()), -7), "cannot be read as IDX: CRC check failed"),
    "trailing garbage": (gzip.compress(idx()) + b"garbage", "cannot be read as IDX: Not a gzipped file"),
    "bomb": (gzip.compress(idx((65 << 20,), bytes(65 << 20)), 1), "expected at most 67108864 values, got 68157440 for"),
    "bomb that promises little": (gzip.compress(idx((9,), bytes(65 << 20)), 1), "expected 9 values .* got more"),
}

CSV = {
    "empty": (b"", "expected at least two columns separated by commas, got 0"),
    "truncated": (b"1,2\n3", "line 2: expected 2 cells, got 1"),
    "binary": (npz(w=npy()), "cannot be read as CSV: 'utf-8' codec can't decode byte"),
    "UTF-16": ("1,2\n".encode("utf-16"), "cannot be read as CSV: 'utf-8' codec can't decode byte 0xff"),
    "NUL": (b"1,2\n3,\0\n", r"line 2, column 2: expected a finite number, got '\\x00'"),
    "quote that never ends": (b'1,2\n3,"' + b"4\n" * 99_999, r"cannot be read as CSV: field larger than field limit"),
    "cell of a megabyte": (b"1,2\n3," + b"9" * (1 << 20), "cannot be read as CSV: field larger than field limit"),
    "cell of zeros": (b"1,2\n3," + b"0" * 200_000 + b"4", "cannot be read as CSV: field larger than field limit"),
    "blank lines": (b"1,2\n" + b"\n" * (15 << 20), "line 65538: expected at most 65536 blank lines, got more"),
    "text, then blank lines": (
        b"a,b\n3,x" + b"\n" * 99_999,
        r"line 2, column 2 \(b\): expected a finite number, got 'x'",
    ),
    "only blank lines": (b"\r\n" * (8 << 20), "line 65537: expected at most 65536 blank lines, got more"),
    "cell for a terminal": (b"1,2\n3,\x1b[2J\n", r"line 2, column 2: expected a finite number, got '\\x1b\[2J'"),
    "line of zeros": (bytes(17 << 20), "line 1: expected at most 16777216 characters, got more"),
    "number too large": (b"1,2\n3,1e999\n", "line 2, column 2: expected a finite number, got '1e999'"),
}


def table(rows):
    return pytest.mark.parametrize(("contents", "message"), rows.values(), ids=list(rows))


def refuse(read, path, contents, message, memory=8 << 20):
    """Expect the one error, this message after the file's name, and no more memory than this."""
    path.write_bytes(contents)
    tracemalloc.start()
    try:
        with pytest.raises(fmlp.FileFormatError, match=f"^{re.escape(str(path))}: (.*: )?{message}") as error:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()
    assert not hasattr(sys, "harmed")


@table(NPY)
@pytest.mark.parametrize("read", [data.read_npy, data.read_npz, fmlp.load])
def test_npy_alone_and_in_an_archive(tmp_path, read, contents, message):
    refuse(read, tmp_path / "f.npz", contents if read is data.read_npy else npz(w=contents), message)


@table(NPZ)
@pytest.mark.parametrize("read", [data.read_npz, data.load, fmlp.load], ids=["read_npz", "data.load", "load"])
def test_npz(tmp_path, read, contents, message):
    refuse(read, tmp_path / "f.npz", contents, message)


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/", "", ".", "..", "a/../b", "./a", "/".join("a" * 101)])
def test_names_that_are_paths_are_refused_by_load(tmp_path, name):
    contents = npz(w=npy(), **{name: npy()})
    message = f"cannot be read as parameters: {re.escape(name[:60])}: expected at most 100 keys .*, none of them empty"
    refuse(fmlp.load, tmp_path / "f.npz", contents, message)
    assert data.read_npz(tmp_path / "f.npz").keys() == {"w", name}  # a dict of arrays has no paths


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a/b"], "a/b: a is an array, and cannot hold another"),
        (["a/b/c", "a"], "a: holds other arrays, and cannot be one"),
        (["a/b", "a/b/c/d"], "a/b/c/d: b is an array"),
    ],
)
def test_an_array_that_holds_others_is_refused_by_load(tmp_path, names, message):
    refuse(fmlp.load, tmp_path / "f.npz", npz(**dict.fromkeys(names, npy())), message)


def as_metadata(text):
    values = np.array(text)
    return npy(values, descr=values.dtype.str)


@table(
    {
        "no JSON": (as_metadata("{"), "Expecting property name"),
        "no object": (as_metadata("[1]"), "expected a JSON object, got list"),
        "JSON that nests deeply": (as_metadata("[" * 99_999), "maximum recursion depth exceeded"),
        "number of 9000 digits": (as_metadata("9" * 9000), "Exceeds the limit .4300 digits. for integer string"),
        "several texts": (as_metadata(["{}", "{}"]), "can only convert an array of size 1"),
        "a number": (as_metadata(1.5), "the JSON object must be str, bytes or bytearray, not float"),
        "no Unicode": (raw_npy("{'descr': '<U1', 'fortran_order': False, 'shape': ()}", b"\xff" * 4), ".* character"),
        "Python objects": (PICKLED, "expected numbers or strings, got Python objects, which are never unpickled"),
    }
)
def test_metadata(tmp_path, contents, message):
    refuse(fmlp.load_metadata, tmp_path / "f.npz", npz(__metadata__=contents, w=npy()), message)


@table(IDX)
@pytest.mark.parametrize("gz", [False, True])
def test_idx(tmp_path, gz, contents, message):
    refuse(data.read_idx, tmp_path / ("f.gz" if gz else "f"), gzip.compress(contents) if gz else contents, message)


@table(GZ)
def test_idx_gz(tmp_path, contents, message):
    refuse(data.read_idx, tmp_path / "f.gz", contents, message)


@table(CSV)
@pytest.mark.parametrize("read", [data.read_csv, data.load])
def test_csv(tmp_path, read, contents, message):
    refuse(read, tmp_path / "f.csv", contents, message, memory=max(8 << 20, 4 * len(contents)))


def read_batches(path):
    pytest.importorskip("pyarrow")
    data.Batches(path, "y")


def read_safetensors(path):
    pytest.importorskip("safetensors")
    fmlp.safetensors.load(path)


READERS = {
    "f.npy": [data.read_npy],
    "f.npz": [data.read_npz, data.load, fmlp.load, fmlp.load_metadata],
    "f.csv": [data.read_csv, data.load, read_batches],
    "f.parquet": [read_batches],
    "images": [data.read_idx],
    "images.gz": [data.read_idx],
    "f.safetensors": [read_safetensors],
}
READERS = [(name, read) for name, readers in READERS.items() for read in readers]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize(("name", "read"), READERS)
def test_a_pipe_or_a_device_by_a_files_name(tmp_path, name, read):
    message = f"^{re.escape(str(tmp_path / name))}: expected a regular file, got a pipe or a device"
    (tmp_path / name).symlink_to(os.devnull)
    with pytest.raises(fmlp.FileFormatError, match=message):
        read(tmp_path / name)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    waited = []
    # A reader that waits for a writer gets one after a while, so that this test fails and does not hang.
    writer = threading.Timer(20, lambda: waited.append(os.close(os.open(tmp_path / name, os.O_RDWR))))
    writer.start()
    try:
        with pytest.raises(fmlp.FileFormatError, match=message):
            read(tmp_path / name)
    finally:
        writer.cancel()
    assert not waited


@pytest.mark.parametrize(("name", "read"), READERS)
def test_memory_that_is_missing_is_no_damage(tmp_path, name, read, monkeypatch):
    def short(path):
        raise MemoryError
        yield

    for module in [module for module in sys.modules.values() if getattr(module, "__name__", "").startswith("fmlp")]:
        if hasattr(module, "opened"):
            monkeypatch.setattr(module, "opened", contextlib.contextmanager(short))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(MemoryError):
        read(tmp_path / name)


def test_a_number_that_no_cast_bears(tmp_path):
    y = raw_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}", struct.pack("<3Q", 1, 0x7FF0000000000001, 2))
    message = r"y: expected finite float32 values, got nan at index \(1,\)"
    refuse(data.load, tmp_path / "f.npz", npz(x=npy(), y=y), message)  # without a warning
    like = {"x": np.zeros((3, 2), np.float32), "y": np.zeros(3, np.float32)}
    assert np.isnan(fmlp.load(tmp_path / "f.npz", like=like)["y"]).tolist() == [False, True, False]
    message = "cannot be read as parameters of these dtypes: overflow encountered in cast"
    refuse(lambda path: fmlp.load(path, like=like), tmp_path / "f.npz", npz(x=npy(GOOD * 1e300), y=y), message)


NPY_FOLDER = dict.fromkeys(["train_data.npy", "train_label.npy", "test_data.npy", "test_label.npy"], npy())
IDX_FOLDER = {"images-idx3-ubyte": idx((2, 1, 1), b"\1\2"), "labels-idx1-ubyte.gz": gzip.compress(idx((2,), b"\0\1"))}
IDX_FOLDER = {f"{part}-{name}": contents for part in ("train", "t10k") for name, contents in IDX_FOLDER.items()}


@pytest.mark.parametrize("files", [NPY_FOLDER, IDX_FOLDER], ids=["npy", "idx"])
def test_folder(tmp_path, files):
    for name, contents in files.items():
        (tmp_path / name).write_bytes(contents)
    data.load(tmp_path)
    for name, contents in files.items():
        for bad in (b"", contents[:-1], contents[:5], contents + b"garbage", flipped(contents, 0)):
            (tmp_path / name).write_bytes(bad)
            with pytest.raises(fmlp.FileFormatError, match=f"^{re.escape(str(tmp_path / name))}: "):
                data.load(tmp_path)
        (tmp_path / name).write_bytes(contents)


class TestWhatIsSound:
    """What looks hostile and is not is read."""

    @pytest.mark.parametrize("descr", [">f8", ">i4", ">u2", ">c8", ">U3", ">M8[s]", "=f4", "<f8", "|S3", "|b1"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_any_byte_order_becomes_native_except_on_disk(self, tmp_path, descr, order):
        values = np.asarray(GOOD.astype(descr), order=order)
        np.save(tmp_path / "x.npy", values)
        np.savez(tmp_path / "x.npz", x=values)
        mapped = data.read_npy(tmp_path / "x.npy")
        assert isinstance(mapped, np.memmap)
        assert mapped.dtype == values.dtype
        for found in (mapped, data.read_npz(tmp_path / "x.npz")["x"], fmlp.load(tmp_path / "x.npz")["x"]):
            assert found.dtype.isnative or found is mapped
            np.testing.assert_array_equal(found, values)

    def test_training_on_big_endian_files(self, tmp_path):
        x, y = np.random.default_rng(0).normal(size=(8, 3)), np.arange(8) % 2
        for name, values in zip(NPY_FOLDER, (x, y, x, y), strict=True):
            np.save(tmp_path / name, values.astype(values.dtype.newbyteorder(">")))
        found = data.load(tmp_path)
        net = serial(Dense(2))
        _, params = net.init(random.key(0), (3,))
        fits = [
            fmlp.fit(
                net, params, rows, loss=losses.cross_entropy, optimizer=optim.sgd(0.1), epochs=2, key=random.key(1)
            )
            for rows in ((x, y), (found.x_train, found.y_train))
        ]
        assert tree.leaves(tree.map(np.array_equal, fits[0].params, fits[1].params)) == [True, True]

    @pytest.mark.parametrize("version", [1, 2, 3])
    @pytest.mark.parametrize(
        "header",
        [
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }   \n",
            "{'shape':(3,2),'descr':'<f8','fortran_order':False}",
            "{ 'fortran_order' : False,\n'shape': (3L, 2L), 'descr': '<f8' }",  # as Python 2 wrote it
        ],
    )
    def test_headers_of_other_writers(self, tmp_path, version, header):
        (tmp_path / "x.npy").write_bytes(raw_npy(header, GOOD.tobytes(), version))
        np.testing.assert_array_equal(data.read_npy(tmp_path / "x.npy"), GOOD)

    def test_zeros_that_pack_well(self, tmp_path):
        np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1000, 1000)))
        assert (tmp_path / "x.npz").stat().st_size < 10_000
        assert not data.read_npz(tmp_path / "x.npz")["x"].any()

    def test_a_bomb_that_was_saved_uncompressed(self, tmp_path):
        (tmp_path / "x.npz").write_bytes(npz(x=ZEROS))
        assert fmlp.load(tmp_path / "x.npz")["x"].nbytes > 64 << 20

    def test_an_array_takes_no_more_memory_than_it_has(self, tmp_path):
        fmlp.save(tmp_path / "x.npz", {"x": np.zeros(4 << 20)})
        tracemalloc.start()
        fmlp.load(tmp_path / "x.npz")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 36 << 20

    @pytest.mark.parametrize("shape", [(0,), (0, 3), ()])
    def test_arrays_without_values_or_dimensions(self, tmp_path, shape):
        np.save(tmp_path / "x.npy", np.zeros(shape))
        np.savez(tmp_path / "x.npz", x=np.zeros(shape))
        for found in (data.read_npy(tmp_path / "x.npy"), data.read_npz(tmp_path / "x.npz")["x"]):
            assert found.shape == shape

    def test_many_members(self, tmp_path):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # from here on, as above 65,535, the end records are zip64
            fmlp.save(tmp_path / "x.npz", {f"l{i}": np.ones(1) for i in range(9)})
        assert b"PK\6\6" in (tmp_path / "x.npz").read_bytes()
        assert len(fmlp.load(tmp_path / "x.npz")) == 9


@pytest.mark.parametrize(
    "read", [fmlp.load, fmlp.load_metadata, data.read_npy, data.read_npz, data.read_idx, data.read_csv]
)
def test_the_systems_errors_stay_as_they_are(tmp_path, read):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


def test_a_cache_whose_recipe_fits_and_whose_arrays_do_not(tmp_path):
    cache = tmp_path / "c.npz"
    data.gaussian_classes(6, 4, 3, 2, cache=cache)
    arrays = data.read_npz(cache)
    for name in ("x_train", "bayes_accuracy"):
        for changed in ({**arrays, name: np.array("a")}, {k: v for k, v in arrays.items() if k != name}):
            np.savez(cache, **changed)
            with pytest.raises(fmlp.FileFormatError, match=r"c\.npz: "):
                data.gaussian_classes(6, 4, 3, 2, cache=cache)


FUZZED = ["load", "load_like", "load_metadata", "read_npy", "read_npz", "read_idx", "read_idx_gz", "read_csv"]
FUZZED += ["batches", "data_load_npz", "data_load_csv", "data_load_folder", "safetensors", "safetensors_metadata"]


@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory as Linux does")
@pytest.mark.parametrize("name", FUZZED)
def test_files_damaged_at_random(name):
    from reliability import fuzz

    if name.startswith("safetensors"):
        pytest.importorskip("safetensors")
    tally = fuzz.fuzz(name, 400)
    assert tally.accepted > 20
    assert tally.refused > 100


def test_compressed_files_may_unpack_to_64_mib_or_100_times_their_size():
    mib = 1 << 20
    assert fmlp.files.unpacked_limit(0) == fmlp.files.unpacked_limit(mib // 2) == 64 * mib
    assert fmlp.files.unpacked_limit(mib) == 100 * mib
