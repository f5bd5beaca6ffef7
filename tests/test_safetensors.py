"""safetensors there and back, readable by its own library, and files that are broken or meant to do harm."""

import json
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fmlp
from fmlp import random, tree
from fmlp.layers import BatchNorm, Dense, serial

pytest.importorskip("safetensors")
from safetensors.numpy import load_file, save_file

import fmlp.safetensors

keys = st.sampled_from(["w", "dense_0", "..."]) | st.text("aé .\\", min_size=1).filter(lambda k: k not in (".", ".."))
dtypes = st.sampled_from(["f2", "f4", "f8", "i1", "i8", "u2", "u8", "?", ">f4"])
arrays = dtypes.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
leaves = arrays | arrays.map(np.asfortranarray) | arrays.map(lambda a: a[..., ::-1] if a.ndim else a)
grown = st.recursive(leaves, lambda inner: st.dictionaries(keys, inner, max_size=3) | st.lists(inner, max_size=3))
trees = st.dictionaries(keys, grown, min_size=1, max_size=3).filter(tree.leaves)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("models") / "model.safetensors"


@settings(max_examples=100)
@given(trees, st.dictionaries(st.text(), st.text()))
def test_load_undoes_save(file, t, metadata):
    fmlp.safetensors.save(file, t, metadata=metadata)
    assert fmlp.safetensors.load_metadata(file) == metadata
    back = fmlp.safetensors.load(file, like=t)
    assert tree.paths(back) == tree.paths(t)
    for a, b in zip(tree.leaves(back), tree.leaves(t), strict=True):
        assert a.dtype == b.dtype
        assert a.flags.writeable
        np.testing.assert_array_equal(a, b)
    flat = load_file(file)
    assert sorted(flat) == sorted(tree.paths(t))
    assert sorted(tree.paths(fmlp.safetensors.load(file))) == sorted(flat)


def test_what_the_library_writes_can_be_loaded(file):
    net = serial(Dense(3), BatchNorm())
    _, params = net.init(random.key(0), (2,))
    flat = dict(zip(tree.paths(params), tree.leaves(params), strict=True))
    save_file(flat, file, metadata={"format": "np"})
    back = fmlp.safetensors.load(file, like=tree.cast(params, np.float64))
    assert tree.leaves(back)[0].dtype == np.float64
    np.testing.assert_array_equal(back["dense_0"]["w"], params["dense_0"]["w"])
    assert fmlp.safetensors.load_metadata(file) == {"format": "np"}


def test_every_leaf_that_does_not_fit_is_named(file):
    fmlp.safetensors.save(file, {"a": np.ones(2), "b": np.ones(3), "c": np.ones(1)})
    with pytest.raises(fmlp.FileFormatError) as error:
        fmlp.safetensors.load(file, like={"a": np.ones(3), "b": np.ones(3, int), "d": np.ones(1)})
    assert str(error.value).splitlines()[1:] == [
        "  a: expected shape (3,), got (2,)",
        "  b: expected dtype int64, got float64",
        "  c: in the file, not expected",
        "  d: missing from the file",
    ]


@pytest.mark.parametrize(
    ("params", "metadata", "error", "message"),
    [
        ({"a": {"w": np.array("text")}}, None, TypeError, "^a/w: expected numbers or booleans .*, got <U4"),
        ({"w": np.ones(1, complex)}, None, TypeError, "^w: expected numbers or booleans .*, got complex128"),
        ({"w": np.ones(1, np.longdouble)}, None, TypeError, "^w: expected numbers or booleans"),
        ({"w": object()}, None, TypeError, "^w: expected an array of numbers"),
        ({"a/b": np.ones(1)}, None, ValueError, "expected keys without '/'"),
        ({"__metadata__": np.ones(1)}, None, ValueError, "^params: the key __metadata__ is taken"),
        ({}, None, ValueError, "^params: expected a dict, list or tuple with at least one array"),
        ({"w": np.ones(1)}, {"classes": 10}, TypeError, "^metadata: expected a dict from strings to strings, got 'cla"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_leaves_no_file(tmp_path, params, metadata, error, message):
    with pytest.raises(error, match=message):
        fmlp.safetensors.save(tmp_path / "m.safetensors", params, metadata=metadata)
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    fmlp.safetensors.save(path, {"w": np.zeros(3)})
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        fmlp.safetensors.save(path, {"w": np.ones(3)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.safetensors"]


def raw(header, values=bytes(8), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


UNREADABLE = "cannot be read as safetensors: "  # and what its library says, in the words of its version
GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
TWICE = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}'
HALVES = {"a": GOOD | {"shape": [1], "data_offsets": [0, 4]}, "a/b": GOOD | {"shape": [1], "data_offsets": [4, 8]}}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", UNREADABLE),
        (b"PK\3\4 is an npz", UNREADABLE),
        (raw({"w": GOOD}, length=2**63), UNREADABLE),
        (raw({"w": GOOD}, bytes(7)), UNREADABLE),
        (raw({"w": GOOD}, bytes(9)), UNREADABLE),
        (raw({"w": GOOD, "v": GOOD}), UNREADABLE),
        (raw(TWICE), "expected every name once, got w again"),
        (raw(b'{"w":' + b"[" * 100_000), UNREADABLE),
        (raw({"w": GOOD | {"shape": [-2]}}), UNREADABLE),
        (raw({"w": GOOD | {"shape": [2**62, 0], "data_offsets": [0, 0]}}, b""), UNREADABLE),
        (raw({"w": GOOD | {"shape": [1] * 99 + [2]}}), UNREADABLE),
        (raw({"w": GOOD | {"dtype": "BF16", "shape": [4]}}), "w: expected one of BOOL, .*, got BF16"),
        (raw({"w": GOOD | {"dtype": "F8_E4M3", "shape": [8]}}), UNREADABLE),
        (raw({"__metadata__": {"a": 1}, "w": GOOD}), UNREADABLE),
        (raw({"../w": GOOD}), "../w: expected at most 100 keys joined by '/', none of them empty, '.' or '..'"),
        (raw({"": GOOD}), "expected at most 100 keys"),
        (raw({"a\0": GOOD}), "expected at most 100 keys"),
        (raw(HALVES), "a/b: a is an array, and cannot hold another"),
    ],
)  # fmt: skip
def test_hostile_files(file, contents, message):
    file.write_bytes(contents)
    with pytest.raises(fmlp.FileFormatError, match=message) as error:
        fmlp.safetensors.load(file)
    assert str(error.value).startswith(str(file))
    assert len(str(error.value)) < 1000


def test_the_systems_errors_stay_as_they_are(tmp_path):
    for read in (fmlp.safetensors.load, fmlp.safetensors.load_metadata):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")
        with pytest.raises(IsADirectoryError):
            read(tmp_path)
