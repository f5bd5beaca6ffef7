"""Data larger than memory: mapped files are shuffled by windows and leave memory bounded; shards come as batches."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fmlp
from fmlp import data, losses, metrics, optim, random, tree
from fmlp.layers import BatchNorm, Dense, Elu, serial

batching = sys.modules["fmlp.batches"]  # fmlp.batches is the function


def windows_of(n, batch, row_bytes, key=None):
    """Return the rows of each window and of each of its batches."""
    generator = None if key is None else random.generator(key)
    for rows, batches in batching._windows(generator, batching.slices(n, batch), row_bytes):
        yield rows, [rows[at] for at in batches]


@given(st.integers(1, 3000), st.integers(1, 500), st.integers(1, 200), st.booleans(), st.data())
def test_windows_hold_every_row_once_from_blocks_all_over_the_data(n, row_bytes, batch, shuffle, draw):
    block_bytes, window_bytes = draw.draw(st.integers(1, 2000)), draw.draw(st.integers(1, 60_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "BLOCK", block_bytes)
        patch.setattr(batching, "WINDOW", window_bytes)
        windows = list(windows_of(n, batch, row_bytes, random.key(n) if shuffle else None))
    sizes = [part.stop - part.start for part in batching.slices(n, batch)]
    assert [len(rows) for _, batches in windows for rows in batches] == sizes
    read = np.concatenate([rows for _, batches in windows for rows in batches])
    assert np.array_equal(np.sort(read), np.arange(n))
    if not shuffle:
        assert np.array_equal(read, np.arange(n))
    block = max(block_bytes // row_bytes, 1)
    for rows, batches in windows:
        assert np.array_equal(np.sort(np.concatenate(batches)), rows)
        assert len(rows) * row_bytes <= max(window_bytes, batch * row_bytes) + row_bytes
        assert len(np.unique(rows // block)) <= -(-len(rows) // block) + 3  # whole ones, but for the ends


def test_a_sorted_file_is_mixed_as_well_as_the_windows_are_large(monkeypatch):
    """Of 100 labels in order, a window of 1,024 blocks has each as often as a draw of so many blocks has."""
    monkeypatch.setattr(batching, "BLOCK", 8 * 4)
    monkeypatch.setattr(batching, "WINDOW", 1024 * 8 * 4)
    labels = np.arange(100).repeat(1000)
    windows = list(windows_of(len(labels), 128, 4, random.key(0)))
    assert len(windows) == 13
    for rows, batches in windows[:-1]:
        counts = np.bincount(labels[rows], minlength=100) / len(rows)
        assert np.abs(counts - 0.01).max() < 5 * (0.01 / 1024) ** 0.5
        assert min(len(np.unique(labels[batch])) for batch in batches) > 50


NET = serial(Dense(8), BatchNorm(), Elu(), Dense(3))


def fit(pair, **settings):
    _, params = NET.init(random.key(1), (4,))
    given = {"loss": losses.cross_entropy, "optimizer": optim.adam(0.01), "epochs": 3, "key": random.key(7)}
    return fmlp.fit(NET, params, pair, **(given | {"batch_size": 8, "progress": False} | settings))


def table(n=200):
    x = random.generator(random.key(3)).normal(size=(n, 4)).astype(np.float32)
    return x, x[:, :3].argmax(1)


@pytest.mark.parametrize("validation", [None, 0.2, "mapped"])
def test_a_mapped_file_trains_as_well_by_windows(tmp_path, monkeypatch, validation):
    x, y = table()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    validation = (mapped[:50], y[:50]) if validation == "mapped" else validation
    settings = {"validation": validation, "metrics": {"accuracy": metrics.accuracy}, "epochs": 20}
    monkeypatch.setattr(batching, "BLOCK", 4 * 16)
    monkeypatch.setattr(batching, "WINDOW", 40 * 16)
    result = fit((mapped, y), **settings)
    assert result.history["accuracy"][-1] > 0.8
    stopped = fit((mapped, y), checkpoint=tmp_path / "run.npz", **(settings | {"epochs": 7}))
    assert stopped.history["loss"] == result.history["loss"][:7]
    resumed = fit((mapped, y), checkpoint=tmp_path / "run.npz", **settings)
    assert np.array_equal(tree.ravel(resumed.params)[0], tree.ravel(result.params)[0])
    with pytest.raises(ValueError, match=r"windows: .* in the file, None now"):
        fit((x, y), checkpoint=tmp_path / "run.npz", **settings)


@pytest.mark.parametrize("window_rows", [8, 40, 1000])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_row_of_a_window_brings_its_own_target_and_weight(tmp_path, monkeypatch, window_rows, shuffle):
    rows = np.arange(100)
    np.save(tmp_path / "x.npy", rows[:, None].repeat(4, 1).astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(batching, "BLOCK", 4 * 16)
    monkeypatch.setattr(batching, "WINDOW", window_rows * 16)
    source = fmlp.batches((mapped, rows), batch_size=8, weight=rows + 1.0)
    x, y, weight = (np.concatenate(parts) for parts in list(zip(*source.shuffled(random.key(0)), strict=True))[:3])
    assert np.array_equal(np.sort(y), rows)
    assert np.array_equal(x[:, 0], y)
    assert np.array_equal(weight, y + 1)


def test_without_shuffling_a_mapped_file_comes_in_its_order(tmp_path):
    x, y = table()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert fit((mapped, y), shuffle=False).history == fit((x, y), shuffle=False).history


def test_what_was_written_to_a_private_copy_of_a_file_is_kept(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100, 4), np.float32))
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[:] = 1
    batching._release(private)
    assert private.min() == 1


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
import fmlp
from fmlp import losses, metrics, optim, random
from fmlp.layers import BatchNorm, Dense, serial

MB = 1 << 20
sys.modules["fmlp.batches"].WINDOW = 8 * MB

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

net = serial(Dense(4), BatchNorm(), Dense(3))
_, params = net.init(random.key(0), (128,))
settings = dict(loss=losses.cross_entropy, optimizer=optim.sgd(0.1), epochs=2, batch_size=2048, key=random.key(0),
                metrics={"accuracy": metrics.accuracy}, progress=False)
fmlp.fit(net, params, (np.ones((4096, 128), np.float32), np.arange(4096) % 3), validation=0.1, **settings)
x = np.load("x.npy", mmap_mode="r")
before = memory("VmHWM")
limit = memory("VmData") + 64 * MB
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
result = fmlp.fit(net, params, (x, np.arange(len(x)) % 3), validation=0.3, **settings)
print((memory("VmHWM") - before) / MB, x.nbytes / MB)
try:
    np.array(x)
except MemoryError:
    print("larger than memory")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded_whatever_the_size_of_the_file(tmp_path):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (400_000, 128))
    x[:] = np.arange(128)
    del x
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    grown, size, *limit = done.stdout.split()
    assert float(size) > 190
    assert float(grown) < 60
    assert " ".join(limit) == "larger than memory"


def test_npz_is_refused_with_advice(tmp_path):
    x, y = table()
    np.savez(tmp_path / "set.npz", x=x, y=y)
    with np.load(tmp_path / "set.npz") as file, pytest.raises(TypeError, match=r"mmap_mode='r'"):
        fit(file)


# ----------------------------------------------------------------------------- Parquet and CSV shards


@pytest.fixture(params=["parquet", "csv"])
def shards(request, tmp_path):
    """Write three files of 110 rows in all, each row with a number of its own."""
    pyarrow, csv, parquet = map(pytest.importorskip, ["pyarrow", "pyarrow.csv", "pyarrow.parquet"])
    for i, rows in enumerate(np.split(np.arange(110), [40, 47])):
        table = pyarrow.table({"id": rows / 2, "kind": rows % 3, "twice": rows.astype(np.int32) * 2})
        if request.param == "csv":
            csv.write_csv(table, tmp_path / f"{i}.csv")
        else:
            parquet.write_table(table, tmp_path / f"{i}.parquet", row_group_size=13)
    return tmp_path


def read(batches):
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert np.array_equal(2 * x[:, 0] % 3, y)
    assert np.array_equal(4 * x[:, 0], x[:, 1])
    return (2 * x[:, 0]).astype(int)


@pytest.mark.parametrize("window", [1, 20, 1000])
def test_shards_come_as_batches_in_their_order_or_shuffled(shards, window):
    batches = data.Batches(shards, "kind", 12, window=window)
    assert [len(y) for _, y in batches] == [12] * 9 + [2]
    assert [len(y) for _, y in data.Batches(shards, "kind", 109, window=window)] == [110]
    x, y = next(iter(batches))
    assert (x.dtype, x.shape, y.dtype) == (np.float32, (12, 2), np.int64)
    assert np.array_equal(read(batches), np.arange(110))
    orders = [read(batches.shuffled(random.key(seed))) for seed in (0, 0, 1)]
    assert all(np.array_equal(np.sort(order), np.arange(110)) for order in orders)
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert np.array_equal(read(batches), np.arange(110))  # as it was


def write_parquet(path, **columns):
    pyarrow, parquet = map(pytest.importorskip, ["pyarrow", "pyarrow.parquet"])
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_no_last_batch_of_shards_has_one_row(tmp_path):
    for n in range(1, 24):
        file = write_parquet(tmp_path / "a.parquet", x=np.arange(n), y=np.arange(n))
        for size in (1, 2, 3, 5):
            expected = [part.stop - part.start for part in batching.slices(n, size)]
            for window in (1, 7, 10):
                batches = [y for _, y in data.Batches(file, "y", size, window=window)]
                assert [len(y) for y in batches] == expected, (n, size, window)
                assert np.array_equal(np.concatenate(batches), np.arange(n))
    file = write_parquet(tmp_path / "a.parquet", x=np.arange(65_537), y=np.arange(65_537))
    assert [len(y) for _, y in data.Batches(file, "y")][-2:] == [32, 33]


def test_what_pandas_calls_an_index_is_no_feature(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": np.arange(6) / 2, "y": np.arange(6) % 2})
    (tmp_path / "shards").mkdir()
    for i, (part, n) in enumerate([(frame[frame.a > 1], 3), (frame, 6), (frame.set_index(frame.a.rename("id")), 6)]):
        part.to_parquet(tmp_path / "shards" / f"{i}.parquet")
        [(x, y)] = data.Batches(tmp_path / "shards" / f"{i}.parquet", "y")
        assert x[:, 0].tolist() == (np.arange(6 - n, 6) / 2).tolist()
        assert y.tolist() == (np.arange(6 - n, 6) % 2).tolist()
    assert sum(len(y) for _, y in data.Batches(tmp_path / "shards", -1)) == 15  # with and without one
    for columns, name in [({"__index_level_0__": [1], "y": [1]}, "__index_level_0__"), ({"": [1], "y": [2]}, "")]:
        with pytest.raises(fmlp.FileFormatError, match=f"column 1: expected a name, got '{name}', as for an index"):
            data.Batches(write_parquet(tmp_path / "a.parquet", **columns), "y")


def write_shards(folder, kind, *tables):
    for i, table in enumerate(tables):
        if kind == "parquet":
            write_parquet(folder / f"{i}.parquet", **table)
        else:
            lines = [table, *zip(*table.values(), strict=True)]
            (folder / f"{i}.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return folder


SHARDS = pytest.mark.parametrize("kind", ["parquet", "csv"])


@SHARDS
@pytest.mark.parametrize(
    "later", [{"a": [1], "y": [2], "b": [3]}, {"y": [2]}, {"b": [1], "y": [2]}], ids=["more", "fewer", "other"]
)
def test_shards_have_the_same_columns(tmp_path, kind, later):
    write_shards(tmp_path, kind, {"a": [1], "y": [2]}, later)
    with pytest.raises(fmlp.FileFormatError, match=rf"1\.{kind}: expected the columns of 0\.{kind}, a, y; got "):
        data.Batches(tmp_path, "y")


@SHARDS
def test_shards_may_be_empty_in_another_order_and_of_other_types(tmp_path, kind):
    first = {"a": [1], "b": [2], "y": [3]}
    empty = {name: [0][:0] for name in first}
    others = {"y": [4.0], "b": [2.5], "a": [True]}, {"a": [5], "b": [6], "y": [7]}
    write_shards(tmp_path, kind, empty, first, *others, empty)
    [(x, y)] = data.Batches(tmp_path, "y")
    assert x.tolist() == [[1, 2], [1, 2.5], [5, 6]]
    assert (x.dtype, y.dtype, y.tolist()) == (np.float32, np.int64, [3, 4, 7])
    [(x, y)] = data.Batches(tmp_path, "y", dtype="float64")
    assert (x.dtype, y.dtype) == (np.float64, np.int64)
    write_shards(tmp_path, kind, empty)
    assert list(data.Batches(tmp_path / f"0.{kind}", "y")) == []


@SHARDS
def test_what_the_first_rows_did_not_tell_is_refused(tmp_path, kind):
    write_shards(tmp_path, kind, {"a": [1.5], "y": [0]}, {"a": [16777217.0], "y": [1]})
    with pytest.raises(
        fmlp.FileFormatError,
        match=rf"1\.{kind}: a part of 'a': expected numbers that float32 holds, got 16777217.0 at .*; dtype=np.float64",
    ):
        list(data.Batches(tmp_path, "y"))
    [(x, _)] = data.Batches(tmp_path, "y", dtype=np.float64)
    assert x.tolist() == [[1.5], [16777217]]
    write_shards(tmp_path, kind, {"a": [1.5], "y": [0]}, {"a": [2.5], "y": [0.5]})
    with pytest.raises(
        fmlp.FileFormatError, match=r"a part of 'y': expected integers, as in the first rows, got 0.5 at index"
    ):
        list(data.Batches(tmp_path, "y"))
    with pytest.raises(ValueError, match="dtype: expected float32 or float64, got 'float16'"):
        data.Batches(tmp_path, "y", dtype="float16")


def test_dtypes_are_the_same_for_all_ranks(tmp_path):
    write_shards(tmp_path, "csv", {"a": [0.5], "y": [0]}, {"a": [1 << 24], "y": [0.5]})
    for rank in range(2):
        batches = data.Batches(tmp_path, "y", part=(rank, 2))
        assert batches._dtypes == [np.float32, np.int64]


def test_a_shard_that_is_packed_is_not_passed_over(tmp_path):
    write_shards(tmp_path, "csv", {"a": [0.5], "y": [0]})
    for name in ("_SUCCESS", ".0.csv.crc", "notes.txt"):
        (tmp_path / name).write_text("")
    assert len(list(data.Batches(tmp_path, "y"))) == 1
    (tmp_path / "1.csv.gz").write_text("")
    with pytest.raises(fmlp.FileFormatError, match=r"all of one kind, got \['.csv', '.gz'\]"):
        data.Batches(tmp_path, "y")


def test_a_header_for_parquet_and_names_twice(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", x=[1, 2], y=[3, 4])
    with pytest.raises(ValueError, match="header=True is for CSV files only"):
        data.Batches(file, "y", header=True)
    (tmp_path / "a.csv").write_text("a,a,y\n1,2,3\n")
    with pytest.raises(fmlp.FileFormatError, match=r"a\.csv: expected every column's name once, got a again"):
        data.Batches(tmp_path / "a.csv", "y")


@SHARDS
def test_names_that_are_not_utf8(tmp_path, kind):
    write_shards(tmp_path, kind, {"naive": [1, 2], "y": [3, 4]})
    file = tmp_path / f"0.{kind}"
    file.write_bytes(file.read_bytes().replace(b"naive", b"na\xefve"))
    with pytest.raises(fmlp.FileFormatError, match=rf"0\.{kind}: cannot be read as "):
        list(data.Batches(file, "y"))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 1e300], [0, 1], r"a part of 'x': expected finite float32 values, got 1e\+300 at index \(1,\)"),
        ([0, 1], [1e300, 1.0], r"a part of 'y': expected finite float32 values, got 1e\+300"),
        (
            [0, 1],
            np.array([2**63 + 5, 1], np.uint64),
            r"a part of 'y': expected integers below 2\*\*63, got 92233720368547758",
        ),
        ([0.0, np.nan], [0, 1], "expected finite numbers and none missing in 'x', got nan in row 1"),
        ([0, None, None], [0, 1, 2], "expected finite numbers and none missing in 'x', got a missing value in row 1"),
        ([0, 1], [True, None], "expected finite numbers and none missing in 'y', got a missing value in row 1"),
        (["a", "b"], [0, 1], "expected finite numbers and none missing in 'x', got string"),
        ([0, 2**60 + 1], [0, 1], f"a part of 'x': expected numbers that float64 holds, got {2**60 + 1} at index"),
    ],
)
def test_numbers_of_shards_that_do_not_fit_are_refused(tmp_path, x, y, message):
    file = write_parquet(tmp_path / "a.parquet", x=x, y=y)
    with pytest.raises(fmlp.FileFormatError, match=rf"a\.parquet: {message}"):
        list(data.Batches(file, "y"))


def test_a_column_of_csv_shards_may_begin_with_integers(tmp_path):
    whole = "1,true,0\n" * (1 << 17)  # more than the first look sees
    (tmp_path / "a.csv").write_text(f"a,b,y\n{whole}2.5,false,1\n")
    (tmp_path / "b.csv").write_text("a,b,y\n3.5,true,2\n")
    x, y = (np.concatenate(parts) for parts in zip(*data.Batches(tmp_path, "y"), strict=True))
    assert x[-3:].tolist() == [[1, 1], [2.5, 0], [3.5, 1]]
    assert (x.dtype, y.dtype, y[-3:].tolist()) == (np.float32, np.int64, [0, 1, 2])


def test_each_part_of_the_shards_is_read_by_one(shards):
    parts = [read(data.Batches(shards, "kind", 5, part=(rank, 2))) for rank in range(2)]
    assert min(map(len, parts)) > 0
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(110))
    assert list(data.Batches(shards, "kind", part=(50, 51))) == []


def test_fit_shuffles_shards_anew_each_epoch(shards):
    net = serial(Dense(8), Elu(), Dense(3))
    _, params = net.init(random.key(1), (2,))
    seen = []

    class Seen(data.Batches):
        def _cut(self, x, y):
            seen.append(y)
            return super()._cut(x, y)

    settings = {"loss": losses.cross_entropy, "optimizer": optim.adam(0.01), "key": random.key(7), "progress": False}
    fmlp.fit(net, params, Seen(shards, "kind", 16), epochs=2, **settings)
    assert not np.array_equal(seen[0], seen[1])
    seen.clear()
    fmlp.fit(net, params, Seen(shards, "kind", 16), epochs=2, shuffle=False, **settings)
    assert np.array_equal(seen[0], np.arange(110) % 3)


def test_shards_that_are_none_are_refused(shards, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.csv").write_text("a,b\nx,1\n")
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "a.csv").write_text("a,b\n1,1\n,2\n")
    (tmp_path / "text" / "broken.parquet").write_bytes(b"PAR1 and no more")
    for name, label, message in [
        (shards, "color", "expected one column named 'color', got id, kind, twice"),
        (tmp_path / "text", "b", "expected .parquet or .csv files, all of one kind"),
        (tmp_path / "text" / "a.csv", "b", r"a\.csv: line 2, column 1 \(a\): expected a finite number, got 'x'"),
        (tmp_path / "missing", "b", r"a\.csv: line 3, column 1 \(a\): expected a finite number, got ''"),
        (tmp_path / "text" / "broken.parquet", "b", "broken.parquet: cannot be read as .parquet"),
    ]:
        with pytest.raises(fmlp.FileFormatError, match=message):
            list(data.Batches(name, label))
    with pytest.raises(FileNotFoundError):
        data.Batches(tmp_path / "nowhere.csv", "b")
    with pytest.raises(ValueError, match=r"^batch_size: expected an integer of at least 1, got 0"):
        data.Batches(shards, "kind", 0)
