"""Data larger than memory: mapped files are shuffled by windows and leave memory bounded; shards come as batches."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fmlp
from fmlp import losses, metrics, optim, random, training, tree
from fmlp.layers import BatchNorm, Dense, Elu, serial


def windows_of(n, batch, row_bytes, key=None):
    """Return the rows of each window and of each of its batches."""
    generator = None if key is None else random.generator(key)
    for rows, batches in training._windows(generator, training._slices(n, batch), row_bytes):
        yield rows, [rows[at] for at in batches]


@given(st.integers(1, 3000), st.integers(1, 500), st.integers(1, 200), st.booleans(), st.data())
def test_windows_hold_every_row_once_from_blocks_all_over_the_data(n, row_bytes, batch, shuffle, data):
    block_bytes, window_bytes = data.draw(st.integers(1, 2000)), data.draw(st.integers(1, 60_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BLOCK", block_bytes)
        patch.setattr(training, "WINDOW", window_bytes)
        windows = list(windows_of(n, batch, row_bytes, random.key(n) if shuffle else None))
    sizes = [part.stop - part.start for part in training._slices(n, batch)]
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
    monkeypatch.setattr(training, "BLOCK", 8 * 4)
    monkeypatch.setattr(training, "WINDOW", 1024 * 8 * 4)
    labels = np.arange(100).repeat(1000)
    windows = list(windows_of(len(labels), 128, 4, random.key(0)))
    assert len(windows) == 13
    for rows, batches in windows[:-1]:
        counts = np.bincount(labels[rows], minlength=100) / len(rows)
        assert np.abs(counts - 0.01).max() < 5 * (0.01 / 1024) ** 0.5
        assert min(len(np.unique(labels[batch])) for batch in batches) > 50


NET = serial(Dense(8), BatchNorm(), Elu(), Dense(3))


def fit(data, **settings):
    _, params = NET.init(random.key(1), (4,))
    given = {"loss": losses.cross_entropy, "optimizer": optim.adam(0.01), "epochs": 3, "key": random.key(7)}
    return fmlp.fit(NET, params, data, **(given | {"batch_size": 8, "progress": False} | settings))


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
    monkeypatch.setattr(training, "BLOCK", 4 * 16)
    monkeypatch.setattr(training, "WINDOW", 40 * 16)
    result = fit((mapped, y), **settings)
    assert result.history["accuracy"][-1] > 0.8
    stopped = fit((mapped, y), checkpoint=tmp_path / "run.npz", **(settings | {"epochs": 7}))
    assert stopped.history["loss"] == result.history["loss"][:7]
    resumed = fit((mapped, y), checkpoint=tmp_path / "run.npz", **settings)
    assert np.array_equal(tree.ravel(resumed.params)[0], tree.ravel(result.params)[0])
    with pytest.raises(ValueError, match=r"windows: .* in the file, 'absent' now"):
        fit((x, y), checkpoint=tmp_path / "run.npz", **settings)


def test_without_shuffling_a_mapped_file_comes_in_its_order(tmp_path):
    x, y = table()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert fit((mapped, y), shuffle=False).history == fit((x, y), shuffle=False).history


def test_what_was_written_to_a_private_copy_of_a_file_is_kept(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100, 4), np.float32))
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[:] = 1
    training._release(private)
    assert private.min() == 1


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
import fmlp
from fmlp import losses, metrics, optim, random, training
from fmlp.layers import BatchNorm, Dense, serial

MB = 1 << 20
training.WINDOW = 8 * MB

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
