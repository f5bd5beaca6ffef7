"""Checkpoints: training goes on bit for bit from wherever it was cut off, and nothing that was written is lost."""

import datetime
import enum
import json
import logging
import math
import operator
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache, partial
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest

import fmlp
from fmlp import (
    Checkpoint,
    CheckpointError,
    EarlyStopping,
    FileFormatError,
    checkpoint,
    files,
    losses,
    metrics,
    optim,
    random,
    schedules,
    serialization,
)
from fmlp.checkpoint import describe, differences
from fmlp.files import locked
from fmlp.layers import BatchNorm, Dense, Dropout, Elu, serial

sys.path.insert(0, str(Path(__file__).parent / "reliability"))
import kill


def network(width=6, rate=0.2):
    return serial(Dense(width), BatchNorm(), Elu(), Dropout(rate), Dense(3))


NET = network()
X = random.generator(random.key(3)).normal(size=(50, 4)).astype(np.float32)
Y = X[:, :3].argmax(1)


def fit(path=None, net=NET, **settings):
    given = {
        "params": net.init(random.key(1), (4,))[1],
        "data": (X, Y),
        "loss": losses.cross_entropy,
        "optimizer": optim.adam(0.01, weight_decay=0.01),
        "epochs": 5,
        "batch_size": 8,
        "key": random.key(2),
        "validation": 0.2,
        "metrics": {"accuracy": metrics.accuracy},
        "checkpoint": path,
        "progress": False,
    }
    given |= settings
    return fmlp.fit(net, given.pop("params"), given.pop("data"), **given)


def assert_same(a, b):
    """Compare everything but the time it took."""
    assert a.history == b.history
    assert a.stopped == b.stopped
    for x, y in ((a.params, b.params), (a.state, b.state)):
        assert fmlp.tree.paths(x) == fmlp.tree.paths(y)
        for p, q in zip(fmlp.tree.leaves(x), fmlp.tree.leaves(y), strict=True):
            assert type(p) is type(q)
            assert np.array_equal(p, q)


OPTIMIZERS = [
    optim.adam(0.01),
    optim.sgd(0.05, 0.9, nesterov=True),
    optim.nadam(0.01),
    optim.rmsprop(0.01, centered=True, momentum=0.5),
    optim.chain(
        optim.clip_by_global_norm(1.0),
        optim.adamw(schedules.cosine_lr(0.01, 40), mask=partial(fmlp.tree.map, lambda leaf: leaf.ndim == 2)),
    ),
    optim.chain(optim.scale(-1.0), optim.scale_by_schedule(schedules.constant(0.1))),
]


def interrupt_after(steps, monkeypatch):
    original, calls = fmlp.distributed.Alone.step, iter(range(10**9))

    def interrupting(*args):
        step = original(*args)

        def interrupted(*args):
            result = step(*args)
            if next(calls) == steps:  # when the step has written all that it may write to
                raise KeyboardInterrupt
            return result

        return interrupted

    monkeypatch.setattr(fmlp.distributed.Alone, "step", interrupting)


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 6, 13, 24])
def test_an_interrupted_training_ends_with_the_bits_of_one_that_was_not(tmp_path, steps, monkeypatch):
    whole = fit()
    path = tmp_path / "run.npz"
    interrupt_after(steps, monkeypatch)
    first = fit(path)
    assert first.stopped == "interrupted"
    progress = fmlp.load_metadata(path)["progress"]
    assert 5 * progress["epoch"] + progress["step"] == steps  # nothing is done twice
    monkeypatch.undo()
    assert_same(fit(path), whole)
    assert_same(fit(path), whole)  # and once it has ended, it has ended
    assert not list(tmp_path.glob(".*"))


def test_a_training_may_be_interrupted_many_times_within_an_epoch(tmp_path, monkeypatch):
    whole, original = fit(), optim.apply_updates
    for _ in range(13):  # of two steps each, of 25
        left = iter(range(2, -1, -1))

        def interrupting(params, updates, left=left):
            if not next(left):
                raise KeyboardInterrupt
            return original(params, updates)

        monkeypatch.setattr(optim, "apply_updates", interrupting)
        result = fit(tmp_path / "run.npz")
    assert_same(result, whole)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on(tmp_path, optimizer):
    settings = {"optimizer": optimizer, "metrics": None, "validation": None}
    whole = fit(**settings)
    fit(tmp_path / "run.npz", **settings, epochs=2)
    assert_same(fit(tmp_path / "run.npz", **settings), whole)


def test_a_state_goes_on_in_the_dtypes_that_it_has_come_to(tmp_path):
    def update(grads, state, params):
        count, mean, scalar = state
        mean = fmlp.tree.map(lambda m, g: 0.9 * m + np.float64(0.1) * g, mean, grads)
        updates = fmlp.tree.map(lambda m, g: (-0.1 * m).astype(g.dtype), mean, grads)
        return updates, (count + 1, mean, np.float64(scalar) + 0.1)

    optimizer = optim.Optimizer(lambda params: (0, fmlp.tree.map(np.zeros_like, params), np.float32(0)), update)
    settings = {"optimizer": optimizer}
    whole = fit(**settings)
    assert fmlp.tree.leaves(whole.state[1])[0].dtype == np.float64
    assert type(whole.state[2]) is np.float64
    fit(tmp_path / "run.npz", **settings, epochs=2)
    assert_same(fit(tmp_path / "run.npz", **settings), whole)


def test_a_state_goes_on_in_the_types_that_it_has_come_to(tmp_path):
    def update(grads, state, params):
        rate = 0.1 / (1 + sum(map(float, state)))
        return fmlp.tree.map(lambda g: -np.float32(rate) * g, grads), [s + 0.25 for s in state]

    settings = {"optimizer": optim.Optimizer(lambda params: [0, np.float32(0), np.zeros((), int), True], update)}
    whole = fit(**settings)
    assert [type(s) for s in whole.state] == [float, np.float32, np.float64, float]
    fit(tmp_path / "run.npz", **settings, epochs=2)
    assert_same(fit(tmp_path / "run.npz", **settings), whole)


@pytest.mark.parametrize("steps", [0, 7])
def test_arrays_of_jax_go_on(tmp_path, steps, monkeypatch):
    jnp = pytest.importorskip("jax.numpy")
    own = optim.Optimizer(
        lambda params: fmlp.tree.map(jnp.zeros_like, params),
        lambda grads, state, params: (
            fmlp.tree.map(lambda g, m: np.asarray(-0.1 * (g + m)), grads, state),
            fmlp.tree.map(lambda m, g: 0.9 * m + g, state, grads),
        ),
    )
    settings = {"params": fmlp.tree.map(jnp.asarray, NET.init(random.key(1), (4,))[1]), "optimizer": own}
    whole = fit(**settings)
    assert type(fmlp.tree.leaves(whole.state)[0]) is type(jnp.zeros(1))
    interrupt_after(steps, monkeypatch)
    assert fit(tmp_path / "run.npz", **settings).stopped == "interrupted"
    monkeypatch.undo()
    assert_same(fit(tmp_path / "run.npz", **settings), whole)


@pytest.mark.parametrize(
    ("grown", "message"),
    [
        (lambda seen: np.append(seen, 1.0), r"state/seen: '\(0,\)' as the optimizer's init made it, '\(1,\)' now"),
        (lambda seen: {"a": seen}, r"state/seen: '\(0,\)' as the optimizer's init made it, 'absent' now"),
    ],
)
def test_a_state_that_could_not_be_read_again_is_told_after_the_first_step(tmp_path, grown, message):
    def update(grads, state, params):
        return fmlp.tree.map(lambda g: -0.1 * g, grads), {"seen": grown(state["seen"])}

    settings = {"optimizer": optim.Optimizer(lambda params: {"seen": np.zeros(0)}, update), "epochs": 1}
    fit(**settings)
    with pytest.raises(CheckpointError, match=f"(?s)^checkpoint: shapes have changed, .*{message}") as error:
        fit(Checkpoint(tmp_path / "run.npz", epochs=1000), **settings)
    assert not np.array_equal(error.value.params["dense_0"]["w"], NET.init(random.key(1), (4,))[1]["dense_0"]["w"])


def test_a_state_that_changes_late_is_not_written(tmp_path):
    def update(grads, state, params):
        grown = np.zeros(1) if state["steps"] == 6 else state["seen"]
        return fmlp.tree.map(lambda g: -0.1 * g, grads), {"steps": state["steps"] + 1, "seen": grown}

    optimizer = optim.Optimizer(lambda params: {"steps": 0, "seen": np.zeros(0)}, update)
    with pytest.raises(CheckpointError, match=r"state/seen"):
        fit(tmp_path / "run.npz", optimizer=optimizer)
    assert fmlp.load_metadata(tmp_path / "run.npz")["progress"]["epoch"] == 1


def test_early_stopping_keeps_its_best(tmp_path):
    settings = {"early_stopping": EarlyStopping("val_loss", patience=3, restore_best=True), "epochs": 40}
    settings["optimizer"] = optim.adam(0.1)
    whole = fit(**settings)
    assert whole.stopped == "early"
    path = tmp_path / "run.npz"
    for epochs in range(1, len(whole.history["loss"])):
        fit(path, **settings | {"epochs": epochs})
    assert_same(fit(path, **settings), whole)


@pytest.mark.parametrize(
    ("often", "expected"),
    [
        ({}, [(0, 0), (1, 0), (2, 0), (3, 0)]),
        ({"epochs": 2}, [(0, 0), (2, 0), (3, 0)]),
        ({"epochs": 9, "seconds": 1e9}, [(0, 0), (3, 0)]),
        ({"epochs": 9, "seconds": 1e-9}, [(epoch, step) for epoch in range(3) for step in range(6)] + [(3, 0)]),
    ],
)
def test_it_is_written_as_often_as_was_said_and_no_more(tmp_path, monkeypatch, often, expected):
    written, save = [], checkpoint.save

    def noting(path, arrays, metadata):
        written.append((metadata["progress"]["epoch"], metadata["progress"]["step"]))
        save(path, arrays, metadata=metadata)

    monkeypatch.setattr(checkpoint, "save", noting)
    fit(Checkpoint(tmp_path / "run.npz", **often), epochs=3)
    assert written == expected
    fit(Checkpoint(tmp_path / "run.npz", **often), epochs=3)
    assert written == expected  # what has ended is not written again


def test_what_killed_writers_left_is_cleared_away_and_nothing_else(tmp_path):
    orphan, held = ".run.0123456789abcdef.tmp", ".run.fedcba9876543210.tmp"
    others = {".run.npz.0123456789abcdef.tmp", ".run.notes.tmp", ".run.a1b2.tmp", "run.0123456789abcdef.tmp"}
    for name in (orphan, held, *others):
        (tmp_path / name).touch()
    folder = tmp_path / ".run.0000000000000000.tmp"
    folder.mkdir()
    with (tmp_path / held).open("r+b") as file:  # as another training has it that writes just now
        assert locked(file)
        fit(tmp_path / "run", epochs=1)
    assert {path.name for path in tmp_path.iterdir()} == {"run", held, folder.name, *others}


def test_a_draft_beside_what_a_link_leads_to_is_cleared_away(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run.npz").symlink_to(tmp_path / "scratch" / "run.npz")
    draft = tmp_path / "scratch" / ".run.npz.0123456789abcdef.tmp"
    draft.touch()
    fit(tmp_path / "run.npz", epochs=1)
    assert not draft.exists()
    assert (tmp_path / "run.npz").is_symlink()


def test_a_relative_path_stays_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    whole = fit()
    result = fit("run.npz", callbacks=[lambda epoch: os.chdir(tmp_path / "elsewhere")])
    assert [path.name for path in tmp_path.rglob("*.npz")] == ["run.npz"]
    assert_same(result, whole)
    assert fmlp.load_metadata(tmp_path / "run.npz")["progress"]["epoch"] == 5


def test_the_error_of_a_write_can_be_pickled():
    error = pickle.loads(pickle.dumps(CheckpointError("no space", {"w": np.ones(2)})))
    assert str(error) == "no space"
    assert np.array_equal(error.params["w"], np.ones(2))


def test_batches_and_weights_go_on(tmp_path):
    batches = [(X[i : i + 10], Y[i : i + 10], np.arange(1.0, 11)) for i in range(0, 50, 10)]
    settings = {"data": batches, "validation": (X, Y)}
    whole = fit(**settings)
    fit(tmp_path / "run.npz", **settings, epochs=3)
    assert_same(fit(tmp_path / "run.npz", **settings), whole)
    settings = {"class_weight": "balanced", "weight": np.arange(1.0, 51)}
    whole = fit(**settings)
    fit(tmp_path / "weighted.npz", **settings, epochs=3)
    assert_same(fit(tmp_path / "weighted.npz", **settings), whole)


def test_the_time_of_all_runs_counts(tmp_path):
    path = tmp_path / "run.npz"
    fit(path, epochs=2)
    metadata = fmlp.load_metadata(path)
    assert metadata["progress"]["seconds"] > 0
    metadata["progress"]["seconds"] = 1e6
    fmlp.save(path, fmlp.load(path), metadata=metadata)
    assert fit(path).seconds > 1e6
    params = {"w": np.ones(1)}
    start = checkpoint.Epoch(0, params, (), stop="", best=params, seconds=1e6)  # of earlier runs
    checkpoint.Saver(Checkpoint(tmp_path / "late.npz"), {}, start).write()
    assert fmlp.load_metadata(tmp_path / "late.npz")["progress"]["seconds"] >= 1e6


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"batch_size": 16}, r"batch_size: 8 in the file, 16 now"),
        ({"key": random.key(5)}, r"key/0: \d+ in the file, \d+ now"),
        ({"optimizer": optim.adam(0.02, weight_decay=0.01)}, r"optimizer/learning_rate: 0.01 in the file, 0.02 now"),
        ({"optimizer": optim.adam(0.01)}, r"optimizer/weight_decay: 0.01 in the file, 0.0 now"),
        (
            {"optimizer": optim.adam(0.01, b1=0.8, weight_decay=0.01)},
            r"optimizer/equation/b1: 0.9 in the file, 0.8 now",
        ),
        ({"optimizer": optim.lion(0.01)}, r"optimizer/.* in the file, .* now"),
        ({"loss": partial(losses.cross_entropy, label_smoothing=0.1)}, r"loss/.*: .*label_smoothing|loss/"),
        ({"data": (X[:40], Y[:40])}, r"data/0: 'float32 \(40, 4\)' in the file, 'float32 \(32, 4\)' now"),
        (
            {"net": serial(Dense(7), BatchNorm(), Elu(), Dropout(0.2), Dense(3))},
            r"net/.*features: 6 in the file, 7 now",
        ),
        (
            {"net": serial(Dense(6), BatchNorm(), Elu(), Dropout(0.3), Dense(3))},
            r"net/.*keep: 0.8\d* in the file, 0.69",
        ),
        ({"early_stopping": EarlyStopping("loss")}, r"early_stopping: None in the file, '.*EarlyStopping' now"),
        ({"shuffle": False}, r"shuffle: True in the file, False now"),
        ({"metrics": {"f1": metrics.f1}}, r"metrics/accuracy: .* in the file, 'absent' now"),
        ({"class_weight": "balanced"}, r"class_weight: None in the file, 'balanced' now"),
        ({"weight": np.ones(50)}, r"weight: None in the file, 'float64 \(50,\) \w{16}' now"),
        ({"validation": (X[:9], Y[:9])}, r"validation/0: 'float32 \(10, 4\)' in the file, 'float32 \(9, 4\)' now"),
        (
            {"net": network(7)},
            r"params/dense_0/w: 'float32 \(4, 6\) \w{16}' in the file, 'float32 \(4, 7\) \w{16}' now",
        ),
        ({"params": NET.init(random.key(7), (4,))[1]}, r"params/dense_0/w: 'float32 \(4, 6\) \w{16}' in the file"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_by_what_differs(tmp_path, other, message):
    path = tmp_path / "run.npz"
    fit(path, epochs=1)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"(?s)^checkpoint: .*run.npz is of another training; .*{message}"):
        fit(path, **other)
    assert path.read_bytes() == before


class Batches:
    """Batches of one's own."""

    def __init__(self, size, x=X, label="y"):
        self.size, self.x, self.label, self._read = size, x, label, 0

    def __iter__(self):
        for i in range(0, 40, self.size):
            self._read += 1
            yield self.x[i : i + self.size], Y[i : i + self.size]


def pairs(size):
    return [(X[i : i + size], Y[i : i + size]) for i in range(0, 40, size)]


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (pairs(8), pairs(4), "data/batches: 5 in the file, 10 now"),
        (pairs(8), pairs(10)[:3] + pairs(8)[3:], "data/rows of the first: 8 in the file, 10 now"),
        (pairs(8), Batches(8), "data/batches: 5 in the file, 'absent' now"),
        (Batches(8), Batches(4), "data/size: 8 in the file, 4 now"),
        (Batches(8), Batches(8, label="z"), "data/label: 'y' in the file, 'z' now"),
        (Batches(8), Batches(8, X[:45]), r"data/x: 'float32 \(50, 4\)' in the file, 'float32 \(45, 4\)' now"),
        (Batches(8), Batches(8, X + 1), None),
        (pairs(8), pairs(8), None),
    ],
)
def test_batches_are_told_by_their_settings(tmp_path, one, two, message):
    settings = {"validation": None, "metrics": None, "batch_size": None, "checkpoint": tmp_path / "run.npz"}
    fit(data=one, **settings)
    if message is None:
        fit(data=two, **settings)
    else:
        with pytest.raises(ValueError, match=f"(?s)is of another training; .*{message}"):
            fit(data=two, **settings)


def test_a_schedule_is_told_by_its_milestones():
    one, two = (schedules.multi_step_lr(0.1, milestones=[10, n], gamma=0.5) for n in (20, 30))
    assert list(differences(describe(one), describe(one))) == []
    (difference,) = differences(describe(optim.sgd(one).update), describe(optim.sgd(two).update))
    assert "20 in the file, 30 now" in difference
    json.dumps(describe(NET.apply), allow_nan=False)


NUMBERS = np.arange(3.0)


class Decay:
    def __init__(self, rate):
        self.rate, self._calls = rate, int(rate * 100)

    def at(self, count):
        return self.rate


class Slotted:
    __slots__ = ("empty", "rate")

    def __init__(self, rate):
        self.rate = rate


class Side(enum.Enum):
    LEFT = 1
    RIGHT = 2


def closing_over(value):
    return lambda: value


def with_default(rate, *, power=2.0):
    def schedule(count, rate=rate, *, power=power):
        return rate * power

    return schedule


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (Decay(0.1).at, Decay(0.2).at, ["__self__/rate: 0.1 in the file, 0.2 now"]),
        (Slotted(0.1), Slotted(0.2), ["rate: 0.1 in the file, 0.2 now"]),
        (with_default(0.1), with_default(0.2), ["__defaults__/0: 0.1 in the file, 0.2 now"]),
        (with_default(1, power=3), with_default(1, power=4), ["__kwdefaults__/power: 3 in the file, 4 now"]),
        (closing_over({"b", "a"}), closing_over({"c", "a"}), ["value/1: 'b' in the file, 'c' now"]),
        (closing_over(frozenset("abcdefgh")), closing_over(set("hgfedcba")), []),
        (closing_over(b"a"), closing_over(b"a"), []),
        (
            closing_over(Side.LEFT),
            closing_over(Side.RIGHT),
            ["value: '<Side.LEFT: 1>' in the file, '<Side.RIGHT: 2>' now"],
        ),
        (closing_over(range(2)), closing_over(range(3)), ["value: 'range(0, 2)' in the file, 'range(0, 3)' now"]),
        (closing_over(json), closing_over(math), ["value: 'json' in the file, 'math' now"]),
        (
            closing_over(type(closing_over)),
            closing_over(Side),
            [f"value: 'builtins.function' in the file, '{__name__}.Side' now"],
        ),
        (closing_over(logging.getLogger("a")), closing_over(logging.getLogger("b")), []),
        (EarlyStopping("loss", patience=3), EarlyStopping("loss", patience=4), ["patience: 3 in the file, 4 now"]),
        (partial(print, 1), partial(print, 2), ["args/0: 1 in the file, 2 now"]),
        (partial(print, end=""), partial(print, end="."), ["end: '' in the file, '.' now"]),
        (np.float32(0.5), np.float64(0.5), []),
        (NUMBERS, NUMBERS.copy(), []),
        ({"a": [0, 1]}, {"a": [0, 1, 2]}, ["a: [0, 1] in the file, [0, 1, 2] now"]),
        ({"a": [0, 1]}, {"a": (0, 2)}, ["a/1: 1 in the file, 2 now"]),
        ({"a": 1}, {"a": [1]}, ["a: 1 in the file, [1] now"]),
        ({"a": ["b"]}, {"a": "b"}, ["a: ['b'] in the file, 'b' now"]),
        ({"a": 1}, {"a": 1, "b": 2}, ["b: 'absent' in the file, 2 now"]),
        ({"a": 1, "b": 2}, {"a": 1}, ["b: 2 in the file, 'absent' now"]),
        (nan, nan, []),
        (losses.mse, losses.mse, []),
    ],
)
def test_settings_differ_by_what_they_hold(one, two, expected):
    was, now = (json.loads(json.dumps(describe(value))) for value in (one, two))
    assert list(differences(was, now)) == expected


def test_functions_are_told_apart_by_their_code():
    functions = [
        lambda n: 0.1 * 0.9**n,
        lambda n: 0.5 * 0.9**n,
        lambda n: 0.1 / 0.9**n,
        lambda n: math.floor(n),
        lambda n: math.ceil(n),
        lambda n: [0.1 * m for m in range(n)],
        lambda n: [0.2 * m for m in range(n)],
        lambda n: n in {"a", "b"},
        lambda n: n in {"a", "c"},
    ]
    assert len({json.dumps(describe(function)) for function in functions}) == len(functions)
    code = [describe(f)["objects"][0]["__code__"] for f in (lambda n: 0.1, lambda n: 0.1, functions[0])]
    assert code[0] == code[1] != code[2]
    assert code[2].endswith(f" of Python {sys.version_info[0]}.{sys.version_info[1]}")
    assert "__code__" not in describe(losses.mse)["objects"][0]


def test_a_description_is_the_same_in_every_process(tmp_path):
    script = tmp_path / "told.py"
    script.write_text(
        "from fmlp.checkpoint import describe\nimport json\nnames = {'a', 'b', 'c', 'd'}\n"
        "def make(names):\n    return lambda n: n in names or n in {'e', 'f', 'g', 'h'} or (lambda: n)\n"
        "print(json.dumps(describe(make(names))))\n"
    )
    told = {
        subprocess.run(
            [sys.executable, script], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(4)
    }  # fmt: skip
    assert len(told) == 1


def test_arrays_are_told_apart_by_their_numbers_unless_mapped(tmp_path):
    np.save(tmp_path / "x.npy", NUMBERS)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert describe(NUMBERS) != describe(NUMBERS + 1)
    assert describe(mapped)["value"] == "float64 (3,), not compared"


class Node:
    """What others know of, and it of them."""

    def __init__(self, rate=0):
        self.rate, self.known = rate, []


def ring(n, rate):
    nodes = [Node(rate if i == n - 1 else i) for i in range(n)]
    for node in nodes:
        node.known = nodes
    return nodes[0]


def grid(n, rate):  # each knows those around it
    nodes = [[Node(rate) for _ in range(n)] for _ in range(n)]
    for i, j in np.ndindex(n, n):
        nodes[i][j].known = [
            nodes[a][b] for a in range(i - 1, i + 2) for b in range(j - 1, j + 2) if 0 <= a < n > b >= 0
        ]
    return nodes[0][0]


def chain(n, rate):
    first = node = Node()
    for _ in range(n):
        node.known = Node()
        node = node.known
    node.rate = rate
    return first


@pytest.mark.parametrize(("make", "n"), [(ring, 40), (grid, 12), (chain, 3000)])
def test_objects_that_know_each_other_are_described_once_each(make, n):
    one, same, other = (json.loads(json.dumps(describe(closing_over(make(n, rate))))) for rate in (-1, -1, -2))
    assert len(json.dumps(one)) < 1000 * n * (n if make is grid else 1)
    assert list(differences(one, same)) == []
    (difference, *_) = differences(one, other)
    assert difference.endswith("/rate: -1 in the file, -2 now")


def test_what_is_shared_equals_its_copies():
    shared = [0.1]
    one, two = describe({"a": shared, "b": shared}), describe({"a": [0.1], "b": [0.1]})
    assert list(differences(one, two)) == list(differences(two, one)) == []
    assert list(differences(one, describe({"a": [0.1], "b": [0.2]}))) == ["b/0: 0.1 in the file, 0.2 now"]


@lru_cache
def cached(n):
    return n


@lru_cache
def cached_otherwise(n):
    return n + 1


def of(library, make):
    """An array of a library that may not be there."""
    return lambda value: make(pytest.importorskip(library), value)


ARRAYS = {
    "numpy": lambda value: np.array([value, 2.0]),
    "masked": lambda value: np.ma.masked_array([1.0, 2.0], [value > 1, False]),
    "objects": lambda value: np.array([value, "a", None], object),
    "scalar": np.longdouble,
    "complex": np.complex64,
    "date": lambda value: np.datetime64("2026-01-01") + int(value),
    "pandas": of("pandas", lambda pd, value: pd.Series([value, 2.0])),
    "pandas frame": of("pandas", lambda pd, value: pd.DataFrame({"a": [value], "b": ["c"]})),
    "torch": of("torch", lambda torch, value: torch.tensor([value], requires_grad=True)),
    "jax": of("jax", lambda jax, value: jax.numpy.array([value])),
    "polars": of("polars", lambda pl, value: pl.Series([value])),
    "deque": lambda value: deque([value]),
    "Decimal": Decimal,
    "Fraction": Fraction,
    "itemgetter": lambda value: operator.itemgetter(int(value)),
    "get of a dict": lambda value: {"a": value}.get,
    "lru_cache": lambda value: cached if value == 1 else cached_otherwise,
    "ufunc": lambda value: np.exp if value == 1 else np.tanh,
    "built-in": lambda value: math.floor if value == 1 else math.ceil,
    "pattern": lambda value: re.compile(str(value)),
    "generator": lambda value: np.random.default_rng(int(value)),
    "large": lambda value: 10 ** (5000 + int(value)),
    "set": lambda value: {(value, "a"), "b"},
    "key": lambda value: {(value, math.floor): 1},
    "date of Python": lambda value: datetime.date(2026, 1, int(value)),
    "slots of a base": lambda value: Derived(value),
}


class Derived(Slotted):
    __slots__ = "other"


@pytest.mark.parametrize("kind", ARRAYS)
def test_what_a_closure_may_hold_is_compared(kind):
    one, same, other = (json.loads(json.dumps(describe(closing_over(ARRAYS[kind](v))))) for v in (1.0, 1.0, 2.0))
    assert "not compared" not in json.dumps(one) or kind == "key"
    assert list(differences(one, same)) == []
    assert len(list(differences(one, other))) > 0


@pytest.mark.parametrize("value", [threading.Lock(), (i for i in "a"), {Node()}, np.array([Node()], object)])
def test_what_cannot_be_compared_is_told(value):
    assert "not compared" in json.dumps(describe(closing_over(value)))


def test_memory_that_is_missing_is_not_something_that_cannot_be_compared(monkeypatch):
    def short(*_):
        raise MemoryError

    monkeypatch.setattr(np, "ascontiguousarray", short)
    with pytest.raises(MemoryError):
        describe(NUMBERS)


@pytest.mark.parametrize("library", ["pandas", "torch"])
def test_weights_of_any_library_are_compared(tmp_path, library):
    series = {"pandas": "Series", "torch": "tensor"}[library]
    make = getattr(pytest.importorskip(library), series)
    fit(tmp_path / "run.npz", epochs=1, weight=make(np.arange(50.0)))
    fit(tmp_path / "run.npz", epochs=1, weight=make(np.arange(50.0)))
    with pytest.raises(ValueError, match=r"weight: 'float64 \(50,\) \w+' in the file, 'float64 \(50,\) \w+' now"):
        fit(tmp_path / "run.npz", epochs=1, weight=make(np.arange(50.0) + 1))


def test_a_longer_training_may_go_on(tmp_path):
    fit(tmp_path / "run.npz", epochs=2)
    assert_same(fit(tmp_path / "run.npz", epochs=7), fit(epochs=7))


def test_a_damaged_checkpoint_is_an_error_and_stays(tmp_path):
    path = tmp_path / "run.npz"
    fit(path, epochs=1)
    path.write_bytes(path.read_bytes()[:-100])
    before = path.read_bytes()
    with pytest.raises(FileFormatError, match=r"run\.npz"):
        fit(path)
    assert path.read_bytes() == before
    fmlp.save(path, {"w": np.ones(1)})
    with pytest.raises(FileFormatError, match="expected a checkpoint, got a file without settings and progress"):
        fit(path)


def edited(**changes):
    return lambda metadata: metadata["progress"].update(changes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda metadata: metadata.update(progress=[]), "cannot be read as a checkpoint: "),
        (lambda metadata: metadata["progress"].pop("epoch"), "cannot be read as a checkpoint: 'epoch'"),
        (edited(epoch=-1), "a checkpoint: epoch is -1"),
        (edited(epoch="1"), "a checkpoint: epoch is '1'"),
        (edited(step=1.5), "a checkpoint: step is 1.5"),
        (edited(step=True), "a checkpoint: step is True"),
        (edited(total=None), "a checkpoint: total is None"),
        (edited(stop={}), r"a checkpoint: stop is \{\}"),
        (edited(seconds="long"), "a checkpoint: seconds is 'long'"),
        (edited(history=[]), "a checkpoint: expected a history of numbers"),
        (edited(history={"loss": None}), "a checkpoint: "),
        (edited(history=5), "a checkpoint: "),
        (edited(history=["a"] * 9), "a checkpoint: "),
        (lambda metadata: metadata.pop("kinds"), "a checkpoint: 'kinds'"),
        (lambda metadata: metadata.update(kinds={"state/0": "list"}), "a checkpoint: 'list'"),
        (lambda metadata: metadata.update(kinds={"params/dense_0/w": "int"}), "a checkpoint: "),
        (lambda metadata: metadata.update(settings=None), "a checkpoint: "),
        (lambda metadata: metadata["settings"].update(objects=[]), "a checkpoint: "),
        (lambda metadata: metadata["settings"].update(value={"object": 10**9}), "a checkpoint: "),
        (lambda metadata: metadata.update(format=2), "expected a checkpoint of format 1, got 2, written by another"),
        (lambda metadata: metadata.pop("format"), "expected a checkpoint of format 1, got None, written by another"),
    ],
)
def test_a_crafted_checkpoint_is_refused_and_stays(tmp_path, edit, message):
    path = tmp_path / "run.npz"
    fit(path, epochs=1)
    arrays, metadata = fmlp.load_with_metadata(path)
    assert edit(metadata) is not edit
    fmlp.save(path, arrays, metadata=metadata)
    before = path.read_bytes()
    with pytest.raises(FileFormatError, match=rf"run\.npz: .*{message}"):
        fit(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Checkpoint("x.npz", epochs=0), "^epochs: expected an integer of at least 1, got 0"),
        (lambda: Checkpoint("x.npz", epochs=1.5), "^epochs: expected an integer of at least 1, got 1.5"),
        (lambda: Checkpoint("x.npz", seconds=0), r"^seconds: expected a number in \(0, inf\], got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


# ------------------------------------------------------------------------ what goes wrong on a disk


@fmlp.differentiable
def interrupting(prediction, y, *, weight=None):
    raise KeyboardInterrupt


def test_a_missing_folder_is_found_before_any_work(tmp_path):
    with pytest.raises(CheckpointError, match=r"run.npz could not be written: No such file or directory"):
        fit(tmp_path / "missing" / "run.npz", loss=interrupting, metrics=None)


def test_a_full_disk_leaves_the_old_file_and_hands_over_what_was_reached(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    fit(path, epochs=2)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"run.npz could not be written: No space left on device") as error:
        fit(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    _, like = NET.init(random.key(1), (4,))
    assert fmlp.tree.paths(error.value.params) == fmlp.tree.paths(like)
    assert_same(fit(path), fit())


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("at", [0, 3, 40, 90, 150])
def test_what_comes_within_a_write_leaves_a_whole_file(tmp_path, error, at, monkeypatch):
    path, whole, write, calls = tmp_path / "run.npz", fit(), serialization.npy.write_array, iter(range(10**9))

    def failing(*args, **kwargs):
        if next(calls) == at:
            raise error
        write(*args, **kwargs)

    monkeypatch.setattr(serialization.npy, "write_array", failing)
    if error is KeyboardInterrupt:
        assert fit(path).stopped == "interrupted"
    else:
        with pytest.raises(MemoryError):
            fit(path)
    monkeypatch.undo()
    assert [*tmp_path.iterdir()] == [path] * path.exists()
    assert_same(fit(path), whole)


def test_a_second_interrupt_within_the_last_write_leaves_the_file_before_it(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    fit(path, epochs=2)
    before = path.read_bytes()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(serialization.npy, "write_array", interrupted)
    assert fit(Checkpoint(path, epochs=1000)).stopped == "interrupted"
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_synchronized_does_not_end_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_sync_folder", lambda folder: os.close(-1))
    assert_same(fit(tmp_path / "run.npz"), fit())


# ------------------------------------------------------------------------- one training at a time

HOLDING = """
import os, sys, time
import numpy as np
import fmlp
from fmlp import losses, optim, random
from fmlp.layers import Dense

def fit(epochs, **settings):
    net, x = Dense(1), np.ones((4, 2), np.float32)
    return fmlp.fit(net, net.init(random.key(0), (2,))[1], (x, x[:, 0]), loss=losses.mse, optimizer=optim.sgd(0.1),
                    epochs=epochs, key=random.key(0), checkpoint="run.npz", progress=False, **settings)
"""


def telling(script, folder):
    words = [sys.executable, "-c", HOLDING + script]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


locks = pytest.mark.skipif(os.name == "nt", reason="needs locks as Unix has them")


@locks
@pytest.mark.parametrize("began", [False, True])
def test_a_second_training_is_told_as_long_as_the_first_lives(tmp_path, began):
    if began:
        telling("fit(1)", tmp_path).communicate(timeout=60)
    first = telling("fit(100, callbacks=[lambda epoch: print(epoch.epoch, flush=True) or time.sleep(60)])", tmp_path)
    try:
        assert first.stdout.readline()  # it has written the file, as often as `fit` writes it by then
        second = telling("fit(100)", tmp_path).communicate(timeout=60)[1]
        path = tmp_path.resolve() / "run.npz"
        assert f"ValueError: checkpoint: {path}: another training writes to it; wait for its end" in second
        assert fmlp.load_metadata(path)["progress"]["epoch"] == began  # reading is free
    finally:
        first.kill()
        first.communicate(timeout=60)
    assert telling("fit(2)", tmp_path).communicate(timeout=60)[1] == ""


@locks
def test_a_training_within_the_training_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"run\.npz: another training writes to it"):
        fit(tmp_path / "run.npz", callbacks=[lambda epoch: fit(tmp_path / "run.npz") and None])
    fit(tmp_path / "run.npz")


@locks
def test_a_training_that_comes_between_is_told_to_the_first_at_its_next_write(tmp_path):
    script = """
def other(epoch):
    os.remove("run.npz")
    if (pid := os.fork()) == 0:
        fit(1000, callbacks=[lambda epoch: open("began", "w").close() or time.sleep(60)])
    while not os.path.exists("began"):
        time.sleep(0.01)
    print(pid, flush=True)

try:
    fit(100, callbacks=[other])
except fmlp.CheckpointError as error:
    print(error, flush=True)
"""
    first = telling(script, tmp_path)
    child, message = int(first.stdout.readline()), first.stdout.readline()
    os.kill(child, signal.SIGKILL)
    first.communicate(timeout=60)
    assert message.endswith("run.npz could not be written: another training writes to it\n")


@locks
def test_a_forked_process_does_not_keep_the_file(tmp_path):
    script = """
def forking(epoch):
    if os.fork() == 0:
        os.close(1), os.close(2)
        time.sleep(3)
        os._exit(0)
    os._exit(0)

fit(100, callbacks=[forking])
"""
    telling(script, tmp_path).communicate(timeout=60)
    assert telling("fit(1)", tmp_path).communicate(timeout=60)[1] == ""


LIMITED = """
import resource, signal
import numpy as np
import fmlp
from fmlp import losses, optim, random
from fmlp.layers import Dense

net = Dense(1)
_, params = net.init(random.key(0), (2000,))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
x = np.ones((4, 2000), np.float32)
try:
    fmlp.fit(net, params, (x, x[:, 0]), loss=losses.mse, optimizer=optim.sgd(0.1), epochs=1, key=random.key(0),
             checkpoint="run.npz", progress=False)
except fmlp.CheckpointError as error:
    print(error)
"""


def test_a_limit_on_files_is_a_clear_error(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"checkpoint: {tmp_path.resolve() / 'run.npz'} could not be written: File too large\n"
    assert not list(tmp_path.iterdir())


READ_ONLY = """
import os
import numpy as np
import fmlp
from fmlp import losses, optim, random
from fmlp.layers import Dense

def fit(epochs):
    net, x = Dense(1), np.ones((4, 2), np.float32)
    return fmlp.fit(net, net.init(random.key(0), (2,))[1], (x, x[:, 0]), loss=losses.mse, optimizer=optim.sgd(0.1),
                    epochs=epochs, key=random.key(0), checkpoint="run.npz", progress=False)

for _ in range(2):
    fit(1)  # once to write it, once to load all that reading it takes: another user may not see root's Python
before = open("run.npz", "rb").read()
os.chmod(".", 0o555)
if os.geteuid() == 0:  # root may write anywhere
    os.setuid(65534)
try:
    fit(2)
except fmlp.CheckpointError as error:
    print(error, sorted(error.params))
print(open("run.npz", "rb").read() == before, os.listdir())
"""


@pytest.mark.skipif(os.name == "nt", reason="needs permissions as Unix has them")
def test_a_read_only_folder_leaves_the_old_file_and_hands_over_what_was_reached():
    with tempfile.TemporaryDirectory() as folder:  # not in pytest's, which another user may not enter
        done = subprocess.run([sys.executable, "-c", READ_ONLY], cwd=folder, capture_output=True, text=True)
        os.chmod(folder, 0o755)
        path = Path(folder).resolve() / "run.npz"
    assert done.stderr == ""
    denied = f"checkpoint: {path} could not be written: Permission denied ['b', 'w']"
    assert done.stdout.splitlines() == [denied, "True ['run.npz']"]


# ---------------------------------------------------------------------------------- signals, kills


def test_sigterm_writes_a_last_checkpoint_and_is_handed_on(tmp_path):
    path, got = tmp_path / "run.npz", []
    before = signal.signal(signal.SIGTERM, lambda *_: got.append(1))
    try:

        def terminate(epoch):
            if epoch.epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        result = fit(Checkpoint(path, epochs=1000), callbacks=[terminate])
        assert result.stopped == "interrupted"
        assert len(result.history["loss"]) == 2
        assert got == [1]
        fit(path)
        os.kill(os.getpid(), signal.SIGTERM)
        assert got == [1, 1]  # the handler is the old one again
    finally:
        signal.signal(signal.SIGTERM, before)
    assert_same(fit(path), fit())


def test_other_threads_may_train_with_checkpoints(tmp_path):
    results = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: fit(tmp_path / f"{n}.npz")})) for n in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(results["a"], results["b"])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_sigkill_at_random_moments_changes_no_bit(tmp_path):
    """The short form of `python tests/reliability/kill.py --kills 200`."""
    assert kill.survive(tmp_path, kills=6, seed=0, epochs=12) >= 6


def test_infinite_scores_survive_the_file(tmp_path):
    settings = {"metrics": {"worst": lambda y, p: inf}}
    whole = fit(**settings)
    fit(tmp_path / "run.npz", **settings, epochs=2)
    assert_same(fit(tmp_path / "run.npz", **settings), whole)
