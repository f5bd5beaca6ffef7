"""jit: a plan gives the bits of the function, whatever it plans; and what cannot be planned runs as it is written."""

import copy
import functools
import importlib
import inspect
import math
import os
import pickle
import signal
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from derivatives import CASES
from drawn import networks
from hypothesis import given, settings
from hypothesis import strategies as st

import fmlp
from fmlp import layers, losses, optim, planning, random, schedules, tree
from fmlp.jit import Jitted
from fmlp.planning import PASSES
from fmlp.recording import StandIn, same_bits

SOME = [PASSES, frozenset(), *(PASSES - {name} for name in sorted(PASSES))]
"""The passes together, none, and all but one."""


@pytest.fixture(autouse=True, scope="module")
def _short_blocks():
    """Cut vectors of 16 numbers into blocks, and plan the third call of fmlp's own functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "BLOCK", 8)
        for module in ("fmlp.distributed", "fmlp.evaluation"):
            patch.setattr(sys.modules[module], "AFTER", 2)
        yield


x32 = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


def planned(jitted, *args, **kwargs):
    """Tell whether there is a plan that stands without the function."""
    f, jitted._f = jitted._f, None
    try:
        return jitted.plan(*args, **kwargs).startswith("def plan(") and same_bits(
            jitted(*args, **kwargs), f(*args, **kwargs)
        )
    finally:
        jitted._f = f


def assert_same(jitted, f, *args, calls=4, **kwargs):
    """Assert that several calls, some of which are replays, give the bits of `f`, and write to no argument."""
    before = tree.map(lambda leaf: np.array(leaf, copy=True), args)
    for _ in range(calls):
        assert same_bits(jitted(*args, **kwargs), f(*args, **kwargs))
    assert same_bits(tree.map(np.array, args), before)


def assert_as_written(f, *args, reason):
    jitted = fmlp.jit(f)
    assert_same(jitted, f, *args)
    assert reason in jitted.plan(*args)


# ---------------------------------------------------------------------------- what must be planned


def value_and_cotangents(f):
    def both(*args, **kwargs):
        y, pullback = fmlp.vjp(f, *args, **kwargs)
        return y, pullback(tree.map(np.ones_like, y))

    return both


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_everything_that_has_a_derivative_is_planned(name, data):
    if name.startswith("estimators."):
        pytest.importorskip("sklearn")
        importlib.import_module("fmlp.estimators")
    call = data.draw(CASES[name])
    kwargs = {k: v.item() if isinstance(v, np.generic) else v for k, v in call.kwargs.items()}  # settings are constants
    f = value_and_cotangents(call.f)
    for passes in (PASSES, data.draw(st.sampled_from(SOME))):
        jitted = Jitted(f, passes=passes)
        assert_same(jitted, f, *call.args, **kwargs)
        assert planned(jitted, *call.args, **kwargs), jitted.plan(*call.args, **kwargs)


@settings(max_examples=25, deadline=None)
@given(drawn=networks(), data=st.data())
def test_gradients_of_any_network_have_the_same_bits(drawn, data):
    loss = data.draw(st.sampled_from([losses.mse, losses.mae, losses.huber, losses.cross_entropy]))
    passes = data.draw(st.sampled_from(SOME))
    f = fmlp.value_and_grad(fmlp.objective(drawn.net.apply, loss))
    jitted = Jitted(f, passes=passes)
    rows = len(drawn.x)
    for seed in range(3):  # one plan for other values of all arrays
        params = tree.map(lambda leaf, seed=seed: leaf * np.float32(1 + seed / 8), drawn.params)
        width = drawn.net.apply(params, drawn.x, train=rows > 1, key=random.key(0)).shape[-1]
        labels = random.generator(random.key(seed)).integers(0, width, rows)
        y = labels if loss is losses.cross_entropy else np.eye(width, dtype=np.float32)[labels]
        weight = None if data.draw(st.booleans()) else np.arange(1, rows + 1)
        kwargs = {"key": random.key(seed), "weight": weight, "train": rows > 1}
        assert_same(jitted, f, params, drawn.x, y, **kwargs)
    assert planned(jitted, params, drawn.x, y, **kwargs)


STEPS, EPOCHS = schedules.step_lr(0.1, 2), schedules.per_epoch(schedules.exponential_lr(0.1, 0.5))
NAMES = ("dense_0", "batch_norm_1", "dense_4")
PLAIN = ("sgd", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "nadam", "radam", "adamax", "lion")
OPTIMIZERS = {
    **{name: getattr(optim, name)() for name in PLAIN},
    "momentum": optim.sgd(STEPS, 0.9, dampening=0.1, weight_decay=0.1),
    "nesterov": optim.sgd(0.1, 0.9, nesterov=True),
    "centered": optim.rmsprop(0.1, momentum=0.5, centered=True),
    "schedule": optim.adam(schedules.linear(0.1, 0.2, 1.0, 10), weight_decay=0.02),
    "amsgrad": optim.adam(schedules.hold(STEPS, 3), amsgrad=True),
    "epochs": optim.chain(optim.adam(EPOCHS), optim.scale_by_schedule(EPOCHS)),
    "partition": optim.partition(
        {0: optim.sgd(0.1, 0.9), 1: optim.adam(STEPS)}, {name: name == "dense_4" for name in NAMES}
    ),
    "mask": optim.adamw(STEPS, weight_decay=0.1, mask=lambda p: tree.map(lambda leaf: leaf.ndim > 1, p)),
    "clipped": optim.chain(optim.clip(0.5), optim.adam(0.1)),
    "clipped by norm": optim.chain(optim.clip_by_global_norm(0.1), optim.adam(0.1)),
    "scaled": optim.chain(optim.scale(-1.0), optim.scale_by_schedule(STEPS), optim.add_decayed_weights(0.1)),
    "masked": optim.masked(optim.sgd(0.1, 0.9), lambda p: tree.map(lambda leaf: leaf.ndim > 1, p)),
}


def test_every_optimizer_is_among_those_that_must_be_planned():
    functions = {name: f for name, f in vars(optim).items() if name in optim.__all__ and inspect.isfunction(f)}
    made = {name for name, f in functions.items() if f.__annotations__["return"] == "Optimizer"}
    source = inspect.getsource(sys.modules[__name__])
    assert "adam" in made
    assert not {name for name in made if name not in PLAIN and f"optim.{name}(" not in source}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_whole_steps_are_planned_with_every_optimizer(name):
    optimizer = OPTIMIZERS[name]
    net = layers.serial(layers.Dense(4), layers.BatchNorm(), layers.Elu(), layers.Dropout(0.25), layers.Dense(3))
    gradient = fmlp.value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))

    def step(params, state, x, y, key):
        loss, grads = gradient(params, x, y, key=key)
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state, loss

    _, params = net.init(random.key(0), (4,))
    expected = params, optim.with_steps_per_epoch(optimizer.init(params), 3)
    params, state = tree.map(copy.copy, expected)
    jitted = fmlp.jit(step, donate=(0, 1))
    for i in range(8):
        if i == 6:
            jitted._f = None  # from here on the plan stands alone
        arguments = x32, np.array([0, 2, 1]), random.key(i)
        *expected, loss = step(*expected, *arguments)
        params, state, loss_ = jitted(params, state, *arguments)
        assert same_bits([params, state, loss_], [*expected, loss])


# ------------------------------------------------------------------------------- what a plan is


def test_a_plan_is_readable_source():
    net = layers.serial(layers.Dense(3), layers.Elu(), layers.serial(layers.Dense(2)))
    _, params = net.init(random.key(0), (4,))
    source = fmlp.jit(net.apply).plan(params, x32)
    for place in ("dense_0 (3, 3)", "elu_1 (3, 3)", "serial_2/dense_0 (3, 2)"):
        assert place in source
    compile(source, "plan", "exec")


def plan_lines(f, *args, passes=PASSES, donate=()):
    jitted = Jitted(f, donate, passes)
    jitted(*args)
    return [line.split("#")[0].strip() for line in jitted.plan(*args).splitlines()]


def test_long_vectors_are_worked_on_in_blocks():
    def update(spare, g, m):
        m = 0.9 * m + 0.1 * g
        return m, np.sqrt(np.abs(m)) + 1e-3

    jitted = Jitted(update, donate=0)
    g, m = np.linspace(-1, 1, 21, dtype=np.float32), np.linspace(2, 3, 21, dtype=np.float32)
    for _ in range(4):
        spare = (np.empty_like(g), np.empty_like(g))
        result = jitted(spare, g, m)
        assert same_bits(result, update(spare, g, m))
        g, m = m, g
    assert result[0] is spare[0]
    assert result[1] is spare[1]
    assert "for a_, b_ in blocks:" in jitted.plan(spare, g, m)


def test_sums_and_extremes_are_written_in_place():
    x = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
    for name in ("sum", "prod", "max", "min", "any", "all"):
        for args, kwargs in (((), {}), ((0,), {}), ((), {"axis": 1, "keepdims": True}), ((-1, None), {})):
            f = functools.partial(getattr(np.ndarray, name))
            assert_same(fmlp.jit(lambda x: getattr(x, name)(*args, **kwargs)), lambda x: f(x, *args, **kwargs), x)  # noqa: B023
    jitted = fmlp.jit(lambda x: x - x.sum(0))
    jitted(x)
    assert "add.reduce(x, 0, out=" in jitted.plan(x)


def test_numbers_are_converted_once_as_numpy_would():
    x, i = np.array([0.1, 3e38], np.float32), np.array([3, 250], np.uint8)
    with np.errstate(over="ignore"):
        for f in (lambda x: x * 0.1 + 7, lambda x: x * 1e39, lambda x: x < 16777217, lambda x: x**2 - True):
            assert_same(fmlp.jit(f), f, x)
    for f in (lambda i: i + 5, lambda i: i * 0.5, lambda i: i < 300, lambda i: i << 1):
        assert_same(fmlp.jit(f), f, i)


@settings(max_examples=10, deadline=None)
@given(drawn=networks(), data=st.data())
def test_trainings_are_the_same_as_written(drawn, data):
    rows = 20
    x = np.resize(drawn.x, (rows, *drawn.x.shape[1:]))
    y = drawn.net.apply(drawn.params, x) * 0.5
    name = data.draw(st.sampled_from(sorted(OPTIMIZERS.keys() - {"partition"})))
    settings = {"loss": losses.mse, "optimizer": OPTIMIZERS[name], "epochs": 6, "batch_size": 8, "key": random.key(3)}
    settings |= {"validation": data.draw(st.sampled_from([None, 0.2])), "progress": False}

    def results():
        result = fmlp.fit(drawn.net, drawn.params, (x, y), **settings)
        return result.params, result.state, result.history, fmlp.predict(drawn.net, result.params, x, batch_size=2)

    as_planned = results()
    with fmlp.disable_jit():
        assert same_bits(as_planned, results())


def test_what_nobody_reads_is_not_worked_out():
    def f(x):
        np.exp(x)
        y = x * 2
        y += 1
        unread = x + 1
        unread[0] = 3
        return y

    assert not any("exp" in line or "[0]" in line for line in plan_lines(f, x32))
    assert any("exp" in line for line in plan_lines(f, x32, passes=PASSES - {"needed"}))


def test_element_wise_results_take_the_place_of_what_dies():
    assert "exp(v1, out=v1)" in plan_lines(lambda x: np.exp(x * 2).sum(0), x32)
    assert "exp(v1, out=v1)" not in plan_lines(lambda x: np.exp(x * 2).sum(0), x32, passes=PASSES - {"in_place"})


def test_memory_is_used_again():
    def f(x):
        y = x.dot(x.T)
        for _ in range(20):
            y = np.tanh(y.dot(y))
        return y.sum()

    jitted = fmlp.jit(f)
    jitted(x32)
    assert jitted._latest.plans[0].nbytes == 2 * 9 * 4


def test_parts_of_a_vector_are_written_into_it():
    def f(x, y):
        vector, _ = tree.ravel({"a": x * 2, "b": x.T.dot(y), "c": y})
        return np.sqrt((vector * vector).sum())

    lines = plan_lines(f, x32, x32)
    assert sum("concatenated" in line or "[:]" in line for line in lines) == 1
    assert_same(fmlp.jit(f), f, x32, x32)


def test_python_values_are_constants_of_a_plan():
    f = fmlp.jit(lambda x, a, *, b=0: x * a + b)
    for a in (2, 2.0, True, 0.0, -0.0, float("nan"), 1 + 2j):
        assert_same(f, f.__wrapped__, x32, a, b=1)
    assert_same(f, f.__wrapped__, {"x": 1}["x"], np.float32(3))


def test_python_numbers_worked_out_from_arrays_stay_python_numbers():
    root = fmlp.primitive(math.sqrt)

    def f(x, n):
        t = n.item() + 1
        rate = -0.5 * root(1 - 0.9**t) / abs(t - 10) ** 2 % 3
        if rate < 0:
            t //= 2
        return rate * x, x[0] ** 2 - t, t, n + 1

    jitted = fmlp.jit(f)
    n = np.int64(0)
    for _ in range(6):
        assert_same(jitted, f, x32, n, calls=1)
        n = jitted(x32, n)[-1]
    assert planned(jitted, x32, n)
    with pytest.raises(ZeroDivisionError):
        jitted(x32, np.int64(9))


def test_shapes_that_depend_on_the_data():
    def f(x):
        y = x[x > 0]
        return y * 2, len(y), np.flatnonzero(x).max()

    jitted = fmlp.jit(f)
    for shift in (0, 1, 1.8, -1.9, 0):  # the last but one leaves a single number, which would broadcast
        assert_same(jitted, f, x32 + np.float32(shift))


def test_one_plan_for_each_path():
    def f(x):
        return x * 2 if x.sum() > 0 else x - 1

    jitted = fmlp.jit(f)
    for _ in range(4):
        for sign in (1, -1):
            assert_same(jitted, f, sign * (x32 + 1))
    assert len(jitted._latest.plans) == 2


def test_the_number_of_plans_is_bounded():
    jitted = fmlp.jit(lambda x: x.sum(0))
    for n in range(1, 80):
        assert_same(jitted, jitted.__wrapped__, np.ones((n, 2)), calls=1)
    assert len(jitted._cases) <= 16
    assert "changes all the time" in jitted.plan(np.ones((99, 2)))


def test_the_memory_of_plans_is_bounded(monkeypatch):
    monkeypatch.setattr(sys.modules["fmlp.jit"], "MOST_BYTES", 3000)
    jitted = fmlp.jit(lambda x: (x * 2 + 1).sum())
    for n in range(200, 210):
        assert_same(jitted, jitted.__wrapped__, np.ones(n))
    assert len(jitted._cases) <= 3


def test_constants_are_as_the_function_finds_them():
    captured = np.ones(4, np.float32)
    jitted = fmlp.jit(lambda x: (x * captured, captured))
    for value in range(5):
        captured[:] = value
        result = jitted(x32)
        assert same_bits(result, jitted.__wrapped__(x32))
        assert value < 3 or result[1] is not captured


# ---------------------------------------------------------------------------- what comes back


def test_results_are_fresh():
    jitted = fmlp.jit(lambda x: {"y": np.exp(x), "z": [x.sum(), (x + 1).T, np.zeros(3)]})
    results = [jitted(x32 + i) for i in range(6)]
    for i, result in enumerate(results):
        assert same_bits(result, jitted.__wrapped__(x32 + i))


def test_an_argument_that_is_returned_is_that_very_array():
    jitted = fmlp.jit(lambda x, y: (x, [y[1:], y.T]))
    for _ in range(5):
        x = x32.copy()
        same, (part, turned) = jitted(x, x)
        assert same is x
        assert np.shares_memory(part, x)
        assert np.shares_memory(turned, x)
        assert part.flags.writeable


def test_results_alias_each_other_as_they_do_as_written():
    def f(x):
        y = x + 1
        return y, y, y[0], y.reshape(-1)

    jitted = fmlp.jit(f)
    for _ in range(5):
        a, b, c, d = jitted(x32)
        assert a is b
        a[0, 0] = 7
        assert c[0] == d[0] == 7


# --------------------------------------------------------------------- what is not planned, and why


class Odd:
    """An argument that is neither a tree nor an array nor a plain value."""


@pytest.mark.parametrize(
    ("f", "args", "reason"),
    [
        (lambda x: float(x.max()) * x, (x32,), "reads the value of an array"),
        (lambda x: x * x.tolist()[0][0], (x32,), "reads a list by .tolist()"),
        (lambda x: np.asarray(x) + 1, (x32,), "reads the value of an array"),
        (lambda x: x32.T.dot(x), (x32,), "reads the value of an array"),
        (lambda x: x[: int(x[0, 0] + 3)], (x32,), "reads the value of an array"),
        (lambda x: [x32[i] for i in x[0].astype(int)], (x32,), "reads the value of an array"),
        (lambda x: f"{x.sum()}" and x, (x32,), "reads the value of an array"),
        (lambda x: np.add(x, 1, out=np.empty_like(x32)), (x32,), "writes into an array that it made itself"),
        (lambda x: np.dot(x, x.T, np.zeros((3, 3), np.float32)), (x32,), "meets ValueError"),
        (lambda x: np.nan_to_num(x * 1, copy=False), (x32,), "meets ValueError"),
        (lambda x: np.asarray(memoryview(x)), (x32,), "raises TypeError"),
        (lambda x: (x, Odd), (x32,), "it returns the class Odd"),
        (lambda x, odd: x * 2, (x32, Odd()), "Odd"),
        (lambda x, dtype: x.astype(dtype), (x32, np.float64), "the class float64"),
        (lambda x: x["a"] * 2, (np.ones(2, [("a", "f4")]),), "dtype"),
        (lambda x: x * 2, (x32.astype(">f4"),), "dtype >f4"),
        (lambda x: x + x, (np.array([1, 2], object),), "dtype object"),
        (lambda x: x[1] * 2, ({1: x32},), "keys are no strings"),
    ],
)
def test_what_cannot_be_planned_runs_as_it_is_written(f, args, reason):
    jitted = fmlp.jit(f)
    for _ in range(4):
        assert same_bits(jitted(*args), f(*args))
    assert reason in jitted.plan(*args)


def test_the_line_that_reads_is_named():
    def gate(x):
        y = x * 2
        return y * float(y.sum())

    jitted = fmlp.jit(gate)
    jitted(x32)
    line = gate.__code__.co_firstlineno + 2
    assert f"test_jit.py:{line}, in test_the_line_that_reads_is_named.<locals>.gate reads" in jitted.plan(x32)


def test_arrays_made_by_the_function_and_changed_behind_its_back():
    def f(x):
        buffer = np.zeros(4, np.float32)
        first = x + buffer
        buffer += 1
        return first, x * buffer

    assert_as_written(f, x32, reason="used and then written to")


def test_an_argument_that_is_written_to_is_written_to_once():
    def f(x):
        x += 1
        return x.sum()

    jitted = fmlp.jit(f)
    x = x32.copy()
    for i in range(4):
        jitted(x)
        assert np.array_equal(x, x32 + i + 1)


def test_a_layer_that_reads_its_data():
    @fmlp.differentiable
    def scaled(params, x, *, train=False, key=None):
        largest = np.abs(x).max()
        if largest > 3:
            return x / largest, lambda dy: ({}, dy / largest)
        return x, lambda dy: ({}, dy)

    net = layers.serial(layers.Dense(4), layers.Layer(lambda key, shape: (shape, {}), scaled))
    _, params = net.init(random.key(0), (4,))
    f = fmlp.value_and_grad(fmlp.objective(net.apply, losses.mse))
    jitted = fmlp.jit(f)
    for factor in (1, 100, 1, 100):
        assert_same(jitted, f, params, factor * x32, x32)
    assert planned(jitted, params, x32, x32)


@pytest.mark.parametrize("impurity", ["counter", "generator", "clock"])
def test_an_impure_layer_is_noticed_and_named(impurity):
    state = {"counter": 0}
    generator = np.random.default_rng(0)

    @fmlp.differentiable
    def moody(params, x, *, train=False, key=None):
        state["counter"] += 1
        factor = {"counter": state["counter"], "generator": generator.random(), "clock": time.time_ns() % 1000}[
            impurity
        ]
        return x * factor, lambda dy: ({}, dy * factor)

    net = layers.serial(layers.Dense(4), layers.Layer(lambda key, shape: (shape, {}), moody))
    _, params = net.init(random.key(0), (4,))
    jitted = fmlp.jit(net.apply)
    with pytest.warns(UserWarning, match=r"serial is not pure.*moody_1 \(.*test_jit.py"):
        first = jitted(params, x32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not np.array_equal(jitted(params, x32), first)


def test_a_function_that_is_impure_later_is_noticed_in_the_first_replays():
    state = {"calls": 0}

    def f(x):
        state["calls"] += 1
        return x * (2 if state["calls"] < 4 else 3)

    jitted = fmlp.jit(f)
    jitted(x32)  # is recorded and called
    jitted(x32)
    with pytest.warns(UserWarning, match="not pure"):
        assert np.array_equal(jitted(x32), x32 * 3)


def test_a_stand_in_that_is_kept_says_so():
    kept = []

    def f(x):
        kept.append(x)
        return x * 2

    fmlp.jit(f)(x32)
    assert type(kept[0]) is StandIn
    with pytest.raises(TypeError, match="which is not pure"):
        np.asarray(kept[0])


def test_what_a_primitive_keeps_is_not_written_to():
    cache = np.ones((3, 4), np.float32)

    @fmlp.primitive
    def cached(x):
        return cache

    assert_same(fmlp.jit(lambda x: np.exp(cached(x) * 2)), lambda x: np.exp(cached(x) * 2), x32)
    assert np.array_equal(cache, np.ones((3, 4)))


def test_primitives_take_trees():
    total = fmlp.primitive(lambda values, n: np.float32(values["a"].sum() + n[0].sum()))
    f = lambda x: x * total({"a": x}, [x[0], 3])  # noqa: E731
    jitted = fmlp.jit(f)
    assert_same(jitted, f, x32)
    assert planned(jitted, x32)


def test_arguments_may_have_any_name():
    def f(v1, c2, MISS, errstate, exp, plan):  # noqa: N803
        with np.errstate(over="ignore"):
            return np.exp(v1 + c2) * MISS + errstate * exp - plan

    jitted = fmlp.jit(f)
    args = [x32 + i for i in range(6)]
    assert_same(jitted, f, *args)
    assert planned(jitted, *args)


# ------------------------------------------------------------------------------------------ errors


def test_a_call_that_may_raise_is_made_though_nobody_reads_its_result():
    def f(x):
        np.linalg.cholesky(x)
        return x * 2

    jitted = fmlp.jit(f)
    assert_same(jitted, f, np.eye(3))
    with pytest.raises(np.linalg.LinAlgError):
        jitted(-np.eye(3))


def test_a_first_call_that_meets_an_exception_does_not_spoil_the_next():
    @np.errstate(over="raise")
    def f(x):
        try:
            return x * x
        except FloatingPointError:
            return x

    jitted = fmlp.jit(f)
    assert_same(jitted, f, 1e30 * x32, calls=1)
    assert_same(jitted, f, x32)
    assert planned(jitted, x32)


def test_errors_are_those_of_the_function():
    f = fmlp.value_and_grad(losses.cross_entropy)
    jitted = fmlp.jit(f)
    labels = np.array([0, 3, 1])
    for _ in range(3):
        with pytest.raises(ValueError, match="expected labels from 0 to 3, got values from 0 to 4"):
            jitted(x32, np.array([0, 4, 1]))
        assert_same(jitted, f, x32, labels)
    assert planned(jitted, x32, labels)
    with pytest.raises(ValueError, match="expected 3 labels"):
        jitted(x32, labels[:2])
    with pytest.raises(TypeError):
        jitted()


def test_an_exception_that_the_function_handles():
    @np.errstate(over="raise")
    def f(x):
        try:
            return x * x
        except FloatingPointError:
            return x

    jitted = fmlp.jit(f)
    for factor in (1, 1e30, 1, 1e30, 1):
        assert_same(jitted, f, np.float32(factor) * x32)
    assert planned(jitted, x32)


def test_errors_that_the_caller_asks_for():
    jitted = fmlp.jit(lambda x: np.exp(x * 100))
    for _ in range(4):
        with np.errstate(over="ignore"):
            jitted(x32)
        with np.errstate(over="raise"), pytest.raises(FloatingPointError):
            jitted(x32)
        with pytest.warns(RuntimeWarning, match="overflow encountered in exp"):
            jitted(x32)


def test_the_functions_own_settings_of_errors_hold_in_a_plan():
    jitted = fmlp.jit(np.errstate(over="ignore")(lambda x: np.exp(x * 100)))
    for _ in range(5):
        with np.errstate(all="raise", under="ignore"):
            jitted(x32)
    assert "with errstate(over='ignore')" in jitted.plan(x32)


def test_an_exception_in_the_middle_of_a_replay_leaves_the_plan_usable():
    state = {"fail": False}

    @fmlp.primitive
    def fragile(x):
        if state["fail"]:
            raise ValueError("now")
        return x + 1

    def f(x):
        return fragile(x * 2) * 3

    jitted = fmlp.jit(f)
    assert_same(jitted, f, x32)
    state["fail"] = True
    with pytest.raises(ValueError, match="now"):
        jitted(x32)
    state["fail"] = False
    assert_same(jitted, f, x32)
    assert planned(jitted, x32)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX signals")
def test_ctrl_c_in_a_replay_leaves_the_plan_usable():
    state = {"interrupt": False}

    @fmlp.primitive
    def slow(x):
        if state["interrupt"]:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        return x + 1

    def f(x):
        return slow(x * 2) * 3

    jitted = fmlp.jit(f)
    assert_same(jitted, f, x32)
    state["interrupt"] = True
    with pytest.raises(KeyboardInterrupt):
        jitted(x32)
    state["interrupt"] = False
    assert_same(jitted, f, x32 + 1)
    assert planned(jitted, x32)


# ----------------------------------------------------------------------------- arrays of all kinds


class Subclass(np.ndarray):
    """An array of a type of its own, whose methods may do anything."""


@pytest.mark.parametrize(
    "make",
    [
        lambda x: np.asfortranarray(x),
        lambda x: x.T,
        lambda x: np.repeat(x, 2, 1)[:, ::2],
        lambda x: x[::-1],
        lambda x: np.broadcast_to(x[0], x.shape),
        lambda x: x[:0],
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(np.int64),
        lambda x: x > 0,
        lambda x: x[0, 0],
        lambda x: np.array(3.0),
        lambda x: x.view(Subclass),
        lambda x: np.ma.masked_array(x, x > 1),
    ],
)
def test_arrays_of_all_kinds(make):
    x = make(x32)
    if isinstance(x, np.ndarray):
        x.flags.writeable = False

    def f(x):
        y = np.multiply(x, 2)
        return y, -y.T, (y * y).sum(), np.where(y > 1, y, 0)

    jitted = fmlp.jit(f)
    for _ in range(4):
        for got, expected in zip(jitted(x), f(x), strict=True):
            assert same_bits(got, expected)
            assert np.shape(got) == () or got.strides == expected.strides


def test_mapped_files(tmp_path):
    np.save(tmp_path / "x.npy", x32)
    assert_same(fmlp.jit(np.exp), np.exp, np.load(tmp_path / "x.npy", mmap_mode="r"))


def test_arrays_that_alias_each_other():
    def f(x, y):
        z = x * 2
        z += y
        return z, x.T.dot(y)

    jitted = fmlp.jit(f)
    memory = np.arange(24, dtype=np.float32)
    x, y = memory[:12].reshape(3, 4), memory[4:16].reshape(3, 4)
    for args in ((x, x), (x, y), (y, x), (x.copy(), y)):
        assert_same(jitted, f, *args)


# ---------------------------------------------------------------------------------------- donation


def step(state, x):
    loss = (state["w"] * x).sum()
    return {"m": 0.9 * state["m"] + x, "w": state["w"] - 0.1 * x}, loss


def test_donated_memory_is_taken_over():
    jitted = fmlp.jit(step, donate=0)
    state = given = expected = {"m": np.zeros(4), "w": np.ones(4)}
    expected = tree.map(np.copy, expected)
    for i in range(8):
        x = np.full(4, float(i))
        before = state
        state, loss = jitted(state, x)
        expected, loss_ = step(expected, x)
        assert same_bits((state, loss), (expected, loss_))
        if i > 3:
            assert state["m"] is before["m"]
            assert state["w"] is before["w"]
    assert given["w"] is not state["w"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m, w, x: (m, m, x),
        lambda m, w, x: (m, w, w),
        lambda m, w, x: (m, w, w[:]),
        lambda m, w, x: (*np.ones((2, 4)), x),
        lambda m, w, x: (np.broadcast_to(m, 4), np.broadcast_to(w, 4), x),
        lambda m, w, x: (np.frombuffer(bytes(32)), w, x),
    ],
)
def test_donated_memory_that_others_see_is_left_alone(spoil):
    jitted = fmlp.jit(step, donate=(0,))
    for _ in range(5):
        assert_same(jitted, step, {"m": np.zeros(4), "w": np.ones(4)}, np.ones(4), calls=0)
        jitted({"m": np.zeros(4), "w": np.ones(4)}, np.ones(4))  # has a plan that takes over
        m, w, x = spoil(np.zeros(4), np.ones(4), np.ones(4))
        assert_same(jitted, step, {"m": m, "w": w}, x)


def test_donated_memory_is_written_after_the_last_call_that_can_fail():
    def f(w, x):
        v = np.abs(w - x)
        if x.min() < 0:
            raise ValueError("negative")
        return w * v

    jitted = fmlp.jit(f, donate=0)
    for _ in range(5):
        jitted(np.ones(3), np.ones(3))
    w = np.ones(3)
    with pytest.raises(ValueError, match="negative"):
        jitted(w, -np.ones(3))
    assert np.array_equal(w, np.ones(3))
    assert jitted(w, np.ones(3)) is w


@pytest.mark.parametrize(("donate", "error"), [(-1, ValueError), (True, TypeError), ((0, "x"), TypeError)])
def test_donate_must_name_positions(donate, error):
    with pytest.raises(error, match="donate: expected an integer"):
        fmlp.jit(step, donate=donate)


# -------------------------------------------------------------- threads, processes, copies, nesting


def test_threads_share_one_function():
    net = layers.serial(layers.Dense(16), layers.Elu(), layers.Dropout(0.5), layers.Dense(3))
    _, params = net.init(random.key(0), (4,))
    f = fmlp.value_and_grad(fmlp.objective(net.apply, losses.mse))
    jitted = fmlp.jit(f)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        calls = [(params, x32 + i, x32[:, :3], {"key": random.key(i)}) for i in range(64)]
        expected = [f(*args, **kwargs) for *args, kwargs in calls]
        with ThreadPoolExecutor(8) as threads:
            for _ in range(3):
                got = list(threads.map(lambda call: jitted(*call[:-1], **call[-1]), calls))
                assert all(map(same_bits, got, expected))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_in_the_middle_of_a_replay():
    state = {"fork": False}

    @fmlp.primitive
    def forking(x):
        if state.pop("fork", False):
            state["child"] = os.fork()
        return x + 1

    def f(x):
        return forking(x * 2) * 3

    jitted = fmlp.jit(f)
    assert_same(jitted, f, x32)
    state["fork"] = True
    same = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads may be there
            warnings.simplefilter("ignore", RuntimeWarning)  # of JAX, if another test has used it
            same = same_bits(jitted(x32), f(x32)) and same_bits(jitted(x32 + 1), f(x32 + 1))
    finally:
        if state.get("child") == 0:
            os._exit(not same)
    assert same
    assert os.waitpid(state["child"], 0)[1] == 0


@fmlp.jit
def named(x):
    return x + 1


def test_it_is_pickled_without_its_plans():
    assert pickle.loads(pickle.dumps(named)) is named
    named(x32)
    jitted = fmlp.jit(np.exp, donate=1)
    assert_same(jitted, np.exp, x32)
    anew = pickle.loads(pickle.dumps(jitted))
    assert (anew._f, anew._donate, anew._cases) == (np.exp, (1,), {})
    assert_same(anew, np.exp, x32)


def test_jitted_functions_within_jitted_functions():
    inner = fmlp.jit(lambda x: np.exp(x) + 1)
    outer = fmlp.jit(lambda x: inner(x * 2) * 2)
    assert_same(outer, lambda x: (np.exp(x * 2) + 1) * 2, x32)
    assert planned(outer, x32)
    assert "exp" in outer.plan(x32)


def test_it_can_be_switched_off():
    calls = []

    def f(x):
        calls.append(1)
        return x * 2

    jitted = fmlp.jit(f)
    for _ in range(5):
        jitted(x32)
    calls.clear()
    with fmlp.disable_jit():
        jitted(x32)
    jitted(x32)
    assert len(calls) == 1


def test_plans_are_kept_with_their_owner_and_not_with_what_wraps_it():
    net = layers.Dense(2)
    _, params = net.init(random.key(0), (3,))
    x = np.ones((4, 3), np.float32)

    @functools.wraps(net.apply)
    def doubled(params, x, **settings):
        return 2 * net.apply(params, x, **settings)

    for apply in (net.apply, doubled, functools.partial(net.apply)):
        f = layers.Layer(net.init, apply)
        for _ in range(12):
            assert same_bits(fmlp.predict(f, params, x), apply(params, x))
    doubled = functools.wraps(net.apply)(lambda params, x: 3 * net.apply(params, x))
    assert same_bits(fmlp.predict(layers.Layer(net.init, doubled), params, x), 3 * net.apply(params, x))
    copied = pickle.loads(pickle.dumps(copy.copy(losses.mse)))
    assert copied is losses.mse


def test_it_looks_like_the_function():
    def f(x, *, scale=2):
        """Scale."""
        return x * scale

    jitted = fmlp.jit(f)
    assert (jitted.__name__, jitted.__doc__, jitted.__wrapped__) == ("f", "Scale.", f)
    assert "jitted" in repr(jitted)
    with pytest.raises(TypeError, match="f: expected a function, got 3"):
        fmlp.jit(3)
