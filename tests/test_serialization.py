"""Saving and loading: there and back over drawn trees, nothing half-written, and errors that name the leaf."""

import errno
import json
import os
import stat
import sys
import threading
from collections import namedtuple
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fmlp
from fmlp import random, serialization, tree
from fmlp.layers import BatchNorm, Dense, serial

DRAWN = settings(deadline=None, max_examples=100)
Point = namedtuple("Point", "x y")

# Names that np.savez and np.load would trip over among them.
keys = st.sampled_from(["file", "allow_pickle", "w", "w.npy", "w.npy.npy", "..."]) | st.text("aé .\\", min_size=1)
keys = keys.filter(lambda key: key not in (".", ".."))
dtypes = st.sampled_from(["f2", "f4", "f8", "i1", "i8", "u2", "?", "c8", "U3", ">f4"])
arrays = dtypes.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
scalars = st.floats(width=32) | st.integers(-9, 9) | st.booleans() | arrays.map(np.asfortranarray)


def nested(children):
    return (
        st.dictionaries(keys, children, max_size=3)
        | st.lists(children, max_size=3)
        | st.builds(Point, children, children)
        | st.none()
    )


def containers(leaves, nested):
    grown = st.recursive(leaves, nested, max_leaves=6)
    return st.dictionaries(keys, grown, min_size=1, max_size=3).filter(tree.leaves)


def same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("models") / "model.npz"


@DRAWN
@given(containers(arrays | scalars, nested), st.booleans())
def test_load_undoes_save(file, t, as_string):
    path = str(file) if as_string else file
    fmlp.save(path, t)
    back = fmlp.load(path, like=t)
    tree.map(lambda a, b: None, t, back)  # the same structure
    assert all(map(same, tree.leaves(back), tree.leaves(t)))
    assert all(leaf.flags.writeable for leaf in tree.leaves(back))


@DRAWN
@given(containers(arrays, lambda children: st.dictionaries(keys, children, min_size=1, max_size=3)))
def test_nested_dicts_need_no_likeness(file, t):
    fmlp.save(file, t)
    back = fmlp.load(file)
    assert tree.paths(back) == tree.paths(t)
    t = tree.map(lambda a: a.astype(a.dtype.newbyteorder("=")), t)
    assert all(map(same, tree.leaves(back), tree.leaves(t)))


@DRAWN
@given(
    st.dictionaries(
        st.text(), st.recursive(st.none() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists)
    )
)
def test_metadata_travels_in_the_file(file, metadata):
    fmlp.save(file, {"w": np.ones(1)}, metadata=metadata)
    assert fmlp.load_metadata(file) == metadata
    assert list(fmlp.load(file)) == ["w"]


def test_any_reader_of_npz_can_read_the_file_and_any_npz_can_be_loaded(tmp_path):
    _, params = serial(Dense(3), BatchNorm()).init(random.key(0), (2,))
    fmlp.save(tmp_path / "m.npz", params)
    with np.load(tmp_path / "m.npz") as file:
        assert sorted(file.files) == sorted(["__metadata__", *tree.paths(params)])
        assert same(file["dense_0/w"], params["dense_0"]["w"])
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "n.npz", **{"a/b": np.arange(3), "c": np.ones(2)})
        assert fmlp.load_metadata(tmp_path / "n.npz") == {}
        back = fmlp.load(tmp_path / "n.npz")
        assert tree.map(np.ndarray.tolist, back) == {"a": {"b": [0, 1, 2]}, "c": [1, 1]}


@pytest.mark.parametrize("name", ["model", "model.npz", "model.bin"])
def test_the_file_has_the_very_name_given_and_the_usual_permissions(tmp_path, name):
    fmlp.save(tmp_path / name, {"w": np.ones(1)})
    assert os.listdir(tmp_path) == [name]
    (tmp_path / "other").touch()
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


@pytest.mark.parametrize(("module", "function"), [(serialization.npy, "write_array"), (os, "fsync"), (os, "replace")])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, module, function, error):
    path = tmp_path / "model.npz"
    fmlp.save(path, {"w": np.zeros(3)})
    before = path.read_bytes()
    whole, calls = getattr(module, function), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) > (function == "write_array"):  # with one array written, the second fails
            raise error
        return whole(*args, **kwargs)

    monkeypatch.setattr(module, function, failing)
    with pytest.raises(type(error)) as caught:
        fmlp.save(path, {"w": np.ones(3)})
    assert caught.value is error
    assert calls
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.npz"]


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="folders cannot be synchronized")
def test_the_file_is_durable_before_it_takes_the_place_of_the_old_one_and_its_name_after(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def noting_fsync(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def noting_replace(old, new):
        assert Path(old).parent == Path(new).parent  # else it might be on another disk
        calls.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    fmlp.save(tmp_path / "m.npz", {"w": np.ones(1)})
    assert calls == ["file", "replace", "folder"]


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="folders cannot be synchronized")
@pytest.mark.parametrize("refused", ["fsync", "open"])
def test_a_folder_that_cannot_be_synchronized_is_no_failure(tmp_path, monkeypatch, refused):
    original = getattr(os, refused)

    def refusing(what, *args, **kwargs):
        if stat.S_ISDIR(os.fstat(what).st_mode if refused == "fsync" else os.stat(what).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument") if refused == "fsync" else PermissionError
        return original(what, *args, **kwargs)

    fmlp.save(tmp_path / "m.npz", {"w": 0})
    monkeypatch.setattr(os, refused, refusing)
    fmlp.save(tmp_path / "m.npz", {"w": 1})
    assert fmlp.load(tmp_path / "m.npz")["w"] == 1


@pytest.mark.skipif(not hasattr(os, "fchown"), reason="needs modes and owners as Unix has them")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_a_file_keeps_its_mode(tmp_path, monkeypatch, mode):
    path, modes, write = tmp_path / "m.npz", [], serialization.write_npz
    monkeypatch.setattr(
        serialization,
        "write_npz",
        lambda file, arrays: (modes.append(os.fstat(file.fileno()).st_mode), write(file, arrays)),
    )
    fmlp.save(path, {"w": 0})
    path.chmod(mode)
    fmlp.save(path, {"w": 1})
    assert [stat.S_IMODE(m) for m in (path.stat().st_mode, modes[1])] == [mode, mode]  # before anything is in it


@pytest.mark.skipif(not hasattr(os, "fchown") or os.geteuid(), reason="only root gives files away")
def test_a_file_keeps_its_owner_and_group_where_that_is_allowed(tmp_path, monkeypatch):
    path = tmp_path / "m.npz"
    fmlp.save(path, {"w": 0})
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    fmlp.save(path, {"w": 1})
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)

    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refused)
    fmlp.save(path, {"w": 2})
    assert path.stat().st_uid == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600  # another group must not read what that one could


@pytest.mark.parametrize("name", ["a" * 251 + ".npz", "é" * 125 + ".npz", "model.npz"])
def test_names_may_be_as_long_as_the_system_takes(tmp_path, name):
    fmlp.save(tmp_path / name, {"w": np.ones(1)})
    assert fmlp.load(tmp_path / name)["w"] == 1
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_comes_at_any_line_of_a_write_is_raised_and_leaves_a_whole_file(tmp_path, error):
    path = tmp_path / "m.npz"
    fmlp.save(path, {"w": np.zeros(3), "b": np.zeros(1)})
    for line in count(error is MemoryError, 3):
        lines = iter(range(line, -1, -1))

        def trace(frame, event, arg, lines=lines):
            # What interrupts the library's own begin or end cannot be made whole from here.
            around = [frame.f_code.co_name, frame.f_back.f_code.co_name]
            own = not {*around} & {"__init__", "__del__"}
            own &= Path(frame.f_code.co_filename).name not in ("contextlib.py", "pathlib.py")
            if event == "line" and own and next(lines, 1) == 0:
                raise error
            return trace

        before = sys.gettrace()
        try:
            sys.settrace(trace)
            fmlp.save(path, {"w": np.ones(3), "b": np.ones(1)})
        except error:
            pass
        else:
            break
        finally:
            sys.settrace(before)
        assert {tuple(leaf.tolist()) for leaf in fmlp.load(path).values()} in ({(0, 0, 0), (0,)}, {(1, 1, 1), (1,)})
    assert line > 300


@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_arrays_and_metadata_are_of_one_moment(tmp_path, format):
    if format == "safetensors":
        pytest.importorskip("safetensors")
    module, path = fmlp if format == "npz" else fmlp.safetensors, tmp_path / "m"
    done = threading.Event()

    def write():
        for i in count():
            module.save(path, {"w": np.full(9, i)}, metadata={"i": str(i)})
            written.set()
            if done.is_set():
                return

    written, writer = threading.Event(), threading.Thread(target=write)
    writer.start()
    written.wait(30)
    try:
        for _ in range(300):
            params, metadata = module.load_with_metadata(path, like={"w": np.zeros(9, int)})
            assert params["w"].tolist() == [int(metadata["i"])] * 9
    finally:
        done.set()
        writer.join()


def test_saving_does_not_change_what_is_saved(tmp_path):
    params, metadata = {"w": np.ones(2)}, {"a": [1]}
    params["w"].flags.writeable = False
    fmlp.save(tmp_path / "m.npz", params, metadata=metadata)
    assert (list(params), metadata) == (["w"], {"a": [1]})


def test_a_leaf_takes_the_dtype_of_its_likeness_if_its_kind_allows(tmp_path):
    path = tmp_path / "m.npz"
    fmlp.save(path, {"w": np.array([0.1]), "n": np.array([3])})
    back = fmlp.load(path, like={"w": np.zeros(1, np.float32), "n": np.zeros(1)})
    assert same(back["w"], np.array([0.1], np.float32))
    assert same(back["n"], np.array([3.0]))
    with pytest.raises(ValueError, match=r"\n  w: expected dtype int64, got float64$"):
        fmlp.load(path, like={"w": np.zeros(1, np.int64), "n": np.zeros(1)})


@pytest.mark.parametrize(
    ("stored", "like", "message"),
    [
        (np.array([1, 2**40 + 5]), np.zeros(2, np.int32), "values that fit into int32, got 1 to 1099511627781"),
        (np.array([-(2**40)]), np.zeros(1, np.int32), "values that fit into int32, got -1099511627776 to"),
        (
            np.array([2**63 + 1], np.uint64),
            np.zeros(1, np.int64),
            "values that fit into int64, got 9223372036854775809 to",
        ),
        (np.array(["hello"]), np.array(["ab"]), "dtype <U2, got <U5"),
        (np.array(["2026-01-01T12"], "M8[s]"), np.zeros(1, "M8[D]"), r"dtype datetime64\[D\], got datetime64\[s\]"),
    ],
)
def test_a_leaf_that_its_likeness_cannot_hold_is_refused(tmp_path, stored, like, message):
    fmlp.save(tmp_path / "m.npz", {"w": stored})
    with pytest.raises(fmlp.FileFormatError, match=rf"\n  w: expected {message}"):
        fmlp.load(tmp_path / "m.npz", like={"w": like})


@pytest.mark.parametrize(
    ("stored", "like"),
    [
        (np.array([-(2**31), 2**31 - 1]), np.zeros(2, np.int32)),
        (np.array([2**63 - 1], np.uint64), np.zeros(1, np.int64)),
        (np.array([True]), np.zeros(1, np.int8)),
        (np.array(["ab"]), np.array(["hello"])),
        (np.zeros(0, np.int64), np.zeros(0, np.int32)),
    ],
)
def test_a_leaf_that_its_likeness_can_hold_is_cast(tmp_path, stored, like):
    fmlp.save(tmp_path / "m.npz", {"w": stored})
    back = fmlp.load(tmp_path / "m.npz", like={"w": like})["w"]
    assert back.dtype == like.dtype
    assert back.tolist() == stored.tolist()


def test_every_leaf_that_does_not_fit_is_named(tmp_path):
    path = tmp_path / "m.npz"
    fmlp.save(path, {"dense_0": {"w": np.ones((64, 120)), "b": np.ones(2)}, "old": np.ones(1), "older": np.ones(1)})
    like = {"dense_0": {"w": np.ones((120, 64)), "b": np.ones(2)}, "new": [np.ones(1), np.ones(1)]}
    with pytest.raises(ValueError, match=r"m\.npz does not fit:") as error:
        fmlp.load(path, like=like)
    assert str(error.value).split("\n  ")[1:] == [
        "dense_0/w: expected shape (120, 64), got (64, 120)",
        "new/0: missing from the file",
        "new/1: missing from the file",
        "old: in the file, not expected",
        "older: in the file, not expected",
    ]


@pytest.mark.parametrize(
    ("params", "metadata", "error", "message"),
    [
        ({}, None, ValueError, "^params: expected a dict, list or tuple with at least one array in it"),
        ({"a": {}, "b": None}, None, ValueError, "^params: expected a dict"),
        (np.ones(3), None, ValueError, "^params: expected a dict"),
        ({"a": {"b/c": np.ones(1)}}, None, ValueError, "^a: expected keys without '/', got 'b/c'"),
        ({1: np.ones(1)}, None, TypeError, "^tree: expected string keys, got 1"),
        ({"a": [np.array([{}])]}, None, TypeError, "^a/0: expected an array of numbers, got ndarray of objects"),
        ({"a": print}, None, TypeError, "^a: expected an array of numbers, got builtin_function_or_method of objects"),
        ({"__metadata__": np.ones(1)}, None, ValueError, "^params: the key __metadata__ is taken"),
        (
            {"a": {"..": np.ones(1)}},
            None,
            ValueError,
            r"^a/\.\.: expected at most 100 keys .* none of them empty, '.' or",
        ),
        ({"a\0b": np.ones(1)}, None, ValueError, r"^a\\x00b: expected at most 100 keys"),
        ({"a": np.zeros(1, "f4,i4")}, None, TypeError, "^a: expected an array of numbers, got ndarray of .*'f0'"),
        ({"a": np.ones(1)}, {"b": {1}}, TypeError, "not JSON serializable"),
        ({"a": np.ones(1)}, {"b": np.longdouble(1)}, TypeError, "longdouble is not JSON serializable"),
        ({"a": np.ones(1)}, {1: "b"}, TypeError, r"^metadata: expected strings as keys, .* got 1; store str\(key\)"),
        (
            {"a": np.ones(1)},
            {"codes": ({None: 0},)},
            TypeError,
            "^metadata/codes/0: expected strings as keys, .* got None",
        ),
        (fmlp.FitResult({"w": np.ones(1)}, 0, {}, 0.0, "done"), None, TypeError, "got a FitResult; pass result.params"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_leaves_no_file(tmp_path, params, metadata, error, message):
    with pytest.raises(error, match=message):
        fmlp.save(tmp_path / "m.npz", params, metadata=metadata)
    assert not os.listdir(tmp_path)


def whole(tmp_path):
    fmlp.save(tmp_path / "whole.npz", {"w": np.arange(100.0)}, metadata={"a": 1})
    return (tmp_path / "whole.npz").read_bytes()


def pickled(path):
    with path.open("wb") as file:
        np.savez(file, w=np.array([{}], object))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, good: path.write_bytes(b""), "cannot be read as npz: File is not a zip file"),
        (lambda path, good: path.write_text("weights"), "cannot be read as npz: File is not a zip file"),
        (lambda path, good: path.write_bytes(good[: len(good) // 2]), "cannot be read as npz: File is not a zip file"),
        (lambda path, good: path.write_bytes(good[:300] + b"?" + good[301:]), "npz: Bad CRC-32 for file 'w.npy'"),
        (lambda path, good: np.save(path, np.ones(3)), "cannot be read as npz: File is not a zip file"),
        (lambda path, good: pickled(path), "w.npy: expected numbers or strings, got Python objects, which are never"),
    ],
)
@pytest.mark.parametrize("read", [fmlp.load, fmlp.load_metadata, lambda path: fmlp.load(path, like={"w": 0})])
def test_what_is_no_npz_of_arrays_is_refused(tmp_path, write, message, read):
    path = tmp_path / "m.npy"
    write(path, whole(tmp_path))
    if read is fmlp.load_metadata and ("CRC" in message or "objects" in message):
        assert fmlp.load_metadata(path) == ({"a": 1} if "CRC" in message else {})  # it reads nothing else
        return
    with pytest.raises(fmlp.FileFormatError, match=f"m.npy: .*{message}"):
        read(path)


def test_a_missing_file_or_directory_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        fmlp.load(tmp_path / "m.npz")
    with pytest.raises(FileNotFoundError):
        fmlp.save(tmp_path / "no" / "m.npz", {"w": np.ones(1)})


@pytest.mark.parametrize(("name", "error"), [("no/m.npz", FileNotFoundError), ("file/m.npz", NotADirectoryError)])
def test_an_error_of_the_system_names_the_path_asked_for(tmp_path, name, error):
    (tmp_path / "file").touch()
    with pytest.raises(error) as caught:
        fmlp.save(tmp_path / name, {"w": np.ones(1)})
    assert caught.value.filename == str(tmp_path / name)
    assert str(caught.value).endswith(f": {str(tmp_path / name)!r}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and pipes with names")
def test_a_link_stays_and_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.npz").symlink_to(tmp_path / "there" / "m.npz")
    for value in (0, 1):  # the first makes the file
        fmlp.save(tmp_path / "link.npz", {"w": value})
        assert (tmp_path / "link.npz").is_symlink()
        assert fmlp.load(tmp_path / "there" / "m.npz")["w"] == value
    os.mkfifo(tmp_path / "pipe")
    for path, what in [(tmp_path, "folder"), ("", "folder"), (tmp_path / "..", "folder"), (tmp_path / "pipe", "pipe")]:
        with pytest.raises(ValueError, match=rf"^path: expected the name of a file, got '.*', which is a {what}"):
            fmlp.save(path, {"w": 2})
    assert sorted(os.listdir(tmp_path)) == ["link.npz", "pipe", "there"]


def test_a_tuple_in_metadata_comes_back_as_a_list_and_numpys_numbers_as_pythons(tmp_path):
    score = np.float32(0.5), np.int64(3), np.bool_(True)
    fmlp.save(tmp_path / "m.npz", {"w": np.ones(1)}, metadata={"shape": (3, 4), "score": score})
    loaded = fmlp.load_metadata(tmp_path / "m.npz")
    assert loaded == {"shape": [3, 4], "score": [0.5, 3, True]}
    assert [type(value) for value in loaded["score"]] == [float, int, bool]


def test_metadata_is_json(tmp_path):
    fmlp.save(tmp_path / "m.npz", {"w": np.ones(1)}, metadata={"é": [1, None]})
    with np.load(tmp_path / "m.npz") as file:
        assert json.loads(str(file["__metadata__"])) == {"é": [1, None]}
