"""Schedules: against PyTorch's over drawn arguments, against recursions, and by hand."""

import inspect
import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmlp import schedules
from fmlp.schedules import (
    constant,
    constant_lr,
    cosine_lr,
    cosine_warm_restarts,
    cyclic_lr,
    exponential_lr,
    hold,
    join,
    linear,
    multi_step_lr,
    one_cycle_lr,
    per_epoch,
    polynomial,
    product,
    reduce_on_plateau,
    step_lr,
    warmup,
)

DRAWN = settings(deadline=None, max_examples=30)

EXAMPLES = {
    "constant": constant(0.1),
    "step_lr": step_lr(0.1, 3),
    "multi_step_lr": multi_step_lr(0.1, [2, 5]),
    "constant_lr": constant_lr(0.1),
    "exponential_lr": exponential_lr(0.1, 0.9),
    "cosine_lr": cosine_lr(0.1, 7),
    "cosine_warm_restarts": cosine_warm_restarts(0.1, 3, 2),
    "cyclic_lr": cyclic_lr(0.1, 0.5, 3),
    "linear": linear(0.1),
    "polynomial": polynomial(0.1),
    "one_cycle_lr": one_cycle_lr(0.1, 9),
    "warmup": warmup(lambda count: np.float64(0.1), 3),
    "join": join([lambda count: np.float32(0.25), 1], [3]),
    "product": product(np.float64(0.5), lambda count: np.float32(0.25)),
    "hold": hold(lambda count: np.float32(0.25), 9),
    "per_epoch": per_epoch(lambda count: np.float64(0.1), 3),
}


def values(schedule, n):
    return [schedule(count) for count in range(n)]


def test_every_schedule_has_an_example():
    public = {name for name in schedules.__all__ if inspect.isfunction(getattr(schedules, name))}
    assert public - {"reduce_on_plateau"} == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("count", [0, 4, 100, np.int64(4), np.uint8(200), np.array(4)])
def test_a_schedule_is_a_pure_function_to_python_floats(name, count):
    schedule = EXAMPLES[name]
    assert type(schedule(count)) is float
    assert schedule(count) == schedule(int(count)) >= 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_count_is_a_non_negative_integer(name):
    with pytest.raises(ValueError, match="count: expected an integer of at least 0, got -1"):
        EXAMPLES[name](-1)
    with pytest.raises(TypeError):
        EXAMPLES[name](1.5)


def test_numpy_arguments_are_as_good_as_python_ones():
    lr, three = np.float64(0.1), np.int64(3)
    assert values(cosine_lr(lr, three), 9) == values(cosine_lr(0.1, 3), 9)
    assert type(constant(lr)(0)) is float
    assert values(multi_step_lr(lr, np.array([1, 3])), 5) == values(multi_step_lr(0.1, [1, 3]), 5)
    assert per_epoch(lambda count: float(type(count) is int), three)(np.int64(4)) == 1
    plateau = reduce_on_plateau(lr, patience=np.int64(2))
    state = plateau.update(np.float64(1), plateau.init())
    assert [type(value) for value in state] == [float, float, int, int]


# PyTorch

TORCH = {
    "step_lr": ("StepLR", st.tuples(st.integers(1, 9), st.floats(0.1, 1.1))),
    "multi_step_lr": (
        "MultiStepLR",
        st.tuples(st.sets(st.integers(0, 40)).map(sorted), st.floats(0.1, 1.1)),
    ),
    "constant_lr": ("ConstantLR", st.tuples(st.floats(0.01, 1), st.integers(1, 40))),
    "exponential_lr": ("ExponentialLR", st.tuples(st.floats(0.1, 1.1))),
    "cosine_lr": ("CosineAnnealingLR", st.tuples(st.integers(1, 20), st.sampled_from([0.0, 1e-6, 1e-5]))),
    "cosine_warm_restarts": (
        "CosineAnnealingWarmRestarts",
        st.tuples(st.integers(1, 20), st.integers(1, 3), st.sampled_from([0.0, 1e-6])),
    ),
    "linear": ("LinearLR", st.tuples(st.floats(0.01, 1), st.floats(0, 1), st.integers(1, 40))),
    "polynomial": ("PolynomialLR", st.tuples(st.integers(1, 40), st.floats(0, 3))),
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def torch_values(torch, make, lr, n):
    """List the learning rates that the scheduler ``make(torch.optim.lr_scheduler, optimizer)`` sets."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about calls that a scheduler of schedulers makes itself
        scheduler = make(torch.optim.lr_scheduler, optimizer)
        for _ in range(n - 1):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def close(expected, lr):
    """PyTorch's recursions leave a rounding error of this size where the exact value is near zero."""
    return pytest.approx(expected, rel=1e-12, abs=1e-14 * lr)


@pytest.mark.parametrize("name", TORCH)
@DRAWN
@given(data=st.data(), lr=st.floats(1e-5, 10))
def test_values_equal_pytorch(torch, name, data, lr):
    theirs, arguments = TORCH[name]
    drawn = data.draw(arguments)
    expected = torch_values(torch, lambda t, optimizer: getattr(t, theirs)(optimizer, *drawn), lr, 60)
    assert values(getattr(schedules, name)(lr, *drawn), 60) == close(expected, lr)


@pytest.mark.parametrize("name", TORCH)
def test_defaults_equal_pytorch(torch, name):
    theirs, _ = TORCH[name]
    required = {"step_lr": [3], "multi_step_lr": [[2, 5]], "exponential_lr": [0.9], "cosine_lr": [7]}
    required["cosine_warm_restarts"] = [7]
    arguments = required.get(name, [])
    expected = torch_values(torch, lambda t, optimizer: getattr(t, theirs)(optimizer, *arguments), 0.1, 20)
    assert values(getattr(schedules, name)(0.1, *arguments), 20) == close(expected, 0.1)


@DRAWN
@given(
    lr=st.floats(1e-5, 10),
    total_steps=st.integers(2, 60),
    pct_start=st.sampled_from([0.0, 0.1, 0.3, 0.45, 0.5, 0.7, 1.0]),
    strategy=st.sampled_from(["cos", "linear"]),
    factors=st.tuples(st.floats(1, 50), st.floats(1, 1e5)),
    three_phase=st.booleans(),
)
def test_one_cycle_equals_pytorch(torch, lr, total_steps, pct_start, strategy, factors, three_phase):
    keywords = {
        "total_steps": total_steps,
        "pct_start": pct_start,
        "anneal_strategy": strategy,
        "div_factor": factors[0],
        "final_div_factor": factors[1],
        "three_phase": three_phase,
    }
    schedule = one_cycle_lr(lr, **keywords)

    def make(t, optimizer):
        return t.OneCycleLR(optimizer, lr, cycle_momentum=False, **keywords)

    if pct_start * total_steps == 1:  # a rise that takes no time, where PyTorch divides by zero
        assert schedule(0) == lr
    else:
        assert values(schedule, total_steps) == close(torch_values(torch, make, lr, total_steps), lr)


def test_one_cycle_defaults_equal_pytorch(torch):
    expected = torch_values(torch, lambda t, o: t.OneCycleLR(o, 0.1, 50, cycle_momentum=False), 0.1, 50)
    assert values(one_cycle_lr(0.1, 50), 50) == close(expected, 0.1)


@DRAWN
@given(
    lrs=st.tuples(st.floats(1e-5, 10), st.floats(0, 10)),
    sizes=st.tuples(st.integers(1, 15), st.none() | st.integers(1, 15)),
    mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
    gamma=st.floats(0.5, 1.0),
)
def test_cyclic_equals_pytorch(torch, lrs, sizes, mode, gamma):
    arguments = lrs[0], sum(lrs), *sizes, mode, gamma

    def make(t, o):
        return t.CyclicLR(o, *arguments, cycle_momentum=False)

    # PyTorch takes the place within a cycle from ``1 + count / total``, which has lost some digits.
    assert values(cyclic_lr(*arguments), 60) == pytest.approx(torch_values(torch, make, sum(lrs), 60), rel=1e-12)


def test_cyclic_defaults_equal_pytorch(torch):
    make = lambda t, o: t.CyclicLR(o, 0.1, 0.5, cycle_momentum=False)  # noqa: E731
    assert values(cyclic_lr(0.1, 0.5), 20) == pytest.approx(torch_values(torch, make, 0.5, 20), rel=1e-12)


@DRAWN
@given(lr=st.floats(1e-5, 10), factor=st.floats(0.01, 1), n=st.integers(1, 20), gamma=st.floats(0.1, 1.1))
def test_a_product_equals_pytorch(torch, lr, factor, n, gamma):
    def make(t, o):
        return t.ChainedScheduler([t.ConstantLR(o, factor, n), t.ExponentialLR(o, gamma)])

    ours = product(constant_lr(1, factor, n), exponential_lr(1, gamma), lr)
    assert values(ours, 40) == close(torch_values(torch, make, lr, 40), lr)


@DRAWN
@given(lr=st.floats(1e-5, 10), first=st.integers(1, 10), more=st.integers(1, 20), start=st.floats(0.01, 1))
def test_join_and_warmup_equal_pytorch(torch, lr, first, more, start):
    def make(t, o):
        parts = [t.LinearLR(o, start, 1.0, first), t.CosineAnnealingLR(o, more), t.ExponentialLR(o, 0.9)]
        return t.SequentialLR(o, parts, [first, first + more])

    expected = torch_values(torch, make, lr, 40)
    cosine, exponential = cosine_lr(lr, more), exponential_lr(lr, 0.9)
    joined = join([linear(lr, start, 1.0, first), cosine, exponential], [first, first + more])
    warmed = warmup(join([cosine, exponential], [more]), first, start)
    assert values(joined, 40) == close(expected, lr)
    assert values(warmed, 40) == close(expected, lr)


@settings(deadline=None, max_examples=200)
@given(
    measured=st.lists(st.sampled_from([0.0, 0.5, 0.95, 1.0, 1.05, 2.0, math.nan]), max_size=40),
    lr=st.sampled_from([1.0, 0.1, 1e-7]),
    keywords=st.fixed_dictionaries(
        {},
        optional={
            "factor": st.sampled_from([0.1, 0.5]),
            "patience": st.integers(0, 3),
            "threshold": st.sampled_from([0.0, 0.06]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "cooldown": st.integers(0, 3),
            "min_lr": st.sampled_from([0.0, 0.03, 5.0]),
            "eps": st.sampled_from([0.0, 1e-3]),
            "mode": st.sampled_from(["min", "max"]),
        },
    ),
)
def test_reduce_on_plateau_equals_pytorch(torch, measured, lr, keywords):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **keywords)
    plateau = reduce_on_plateau(lr, **keywords)
    state = plateau.init()
    for metric in measured:
        scheduler.step(metric)
        state = plateau.update(metric, state)
        assert state == (
            optimizer.param_groups[0]["lr"],
            scheduler.best,
            scheduler.num_bad_epochs,
            scheduler.cooldown_counter,
        )


@DRAWN
@given(
    st.lists(st.sampled_from([-2.0, -1.0, -0.99, -0.5, 0.0, 0.5, 0.95, 1.0, 1.05, math.nan, math.inf]), max_size=30),
    st.sampled_from([0.0, 1e-4, 0.06, 1.0, 2.0]),
    st.sampled_from(["rel", "abs"]),
)
def test_what_is_best_by_falling_is_best_by_rising_with_the_sign_turned(measured, threshold, threshold_mode):
    keywords = {"patience": 1, "threshold": threshold, "threshold_mode": threshold_mode}
    low, high = (reduce_on_plateau(1.0, mode=mode, **keywords) for mode in ("min", "max"))
    one, other = low.init(), high.init()
    for metric in measured:
        one, other = low.update(metric, one), high.update(-metric, other)
        assert one == other._replace(best=-other.best)


# Without PyTorch

DEFAULTS = {
    step_lr: {"gamma": 0.1},
    multi_step_lr: {"gamma": 0.1},
    constant_lr: {"factor": 1 / 3, "total_iters": 5},
    cosine_lr: {"eta_min": 0.0},
    cosine_warm_restarts: {"T_mult": 1, "eta_min": 0.0},
    cyclic_lr: {"step_size_up": 2000, "step_size_down": None, "mode": "triangular", "gamma": 1.0},
    linear: {"start_factor": 1 / 3, "end_factor": 1.0, "total_iters": 5},
    polynomial: {"total_iters": 5, "power": 1.0},
    one_cycle_lr: {
        "pct_start": 0.3,
        "anneal_strategy": "cos",
        "div_factor": 25.0,
        "final_div_factor": 1e4,
        "three_phase": False,
    },
    reduce_on_plateau: {
        "factor": 0.1,
        "patience": 10,
        "threshold": 1e-4,
        "threshold_mode": "rel",
        "cooldown": 0,
        "min_lr": 0.0,
        "eps": 1e-8,
        "mode": None,  # "min", unless fmlp.on_plateau knows that the metric should rise
    },
}


@pytest.mark.parametrize("constructor", DEFAULTS, ids=lambda constructor: constructor.__name__)
def test_defaults_are_those_in_the_documentation_of_pytorch(constructor):
    parameters = inspect.signature(constructor).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    assert defaults == DEFAULTS[constructor]


rates = st.floats(1e-5, 10)
gammas = st.floats(0.1, 1.1)
lengths = st.integers(1, 20)


@DRAWN
@given(rates, gammas, lengths, st.sets(st.integers(1, 40)).map(sorted))
def test_the_decays_are_what_repeated_multiplication_gives(lr, gamma, step_size, milestones):
    step = multi_step = exponential = lr
    for count in range(45):
        if count > 0:
            exponential *= gamma
            step *= gamma if count % step_size == 0 else 1
            multi_step *= gamma if count in milestones else 1
        assert step_lr(lr, step_size, gamma)(count) == pytest.approx(step, rel=1e-12, abs=0)
        assert multi_step_lr(lr, milestones, gamma)(count) == pytest.approx(multi_step, rel=1e-12, abs=0)
        assert exponential_lr(lr, gamma)(count) == pytest.approx(exponential, rel=1e-12, abs=0)


@DRAWN
@given(rates, st.floats(0, 1), st.floats(0, 1), lengths)
def test_linear_and_polynomial_go_in_equal_steps(lr, start, end, total_iters):
    line, slope = values(linear(lr, start, end, total_iters), 40), lr * (end - start) / total_iters
    root = [x ** (1 / 3) for x in values(polynomial(lr, total_iters, 3), 40)]
    assert line[0] == pytest.approx(lr * start)
    assert line[total_iters:] == pytest.approx([lr * end] * (40 - total_iters), abs=1e-15)
    for a, b in pairwise(line[: total_iters + 1]):
        assert b - a == pytest.approx(slope, abs=1e-13)
    for count, x in enumerate(root):
        left = max(total_iters - count, 0)
        assert x == pytest.approx(lr ** (1 / 3) * left / total_iters, abs=1e-13)


@DRAWN
@given(rates, lengths, st.floats(0, 1e-5))
def test_cosine_obeys_the_recursion_of_cosines(lr, T_max, eta_min):  # noqa: N803
    """cos(a + d) + cos(a - d) = 2 cos(a) cos(d)."""
    middle = (lr + eta_min) / 2
    waves = [value - middle for value in values(cosine_lr(lr, T_max, eta_min), 3 * T_max)]
    assert waves[0] == pytest.approx(lr - middle)
    for a, b, c in zip(waves, waves[1:], waves[2:], strict=False):
        assert a + c == pytest.approx(2 * b * math.cos(math.pi / T_max), abs=1e-12 * lr)
    assert cosine_lr(lr, T_max, eta_min)(T_max) == eta_min


TABLES = [
    (constant(0.5), [0.5] * 4),
    (step_lr(1, 2), [1, 1, 0.1, 0.1, 0.01]),
    (multi_step_lr(1, [1, 4]), [1, 0.1, 0.1, 0.1, 0.01, 0.01]),
    (multi_step_lr(1, [0], 0.5), [0.5, 0.5]),
    (multi_step_lr(1, []), [1, 1]),
    (constant_lr(3), [1, 1, 1, 1, 1, 3, 3]),
    (constant_lr(3, 0, 1), [0, 3, 3]),
    (exponential_lr(1, 0.5), [1, 0.5, 0.25]),
    (cosine_lr(1, 2), [1, 0.5, 0, 0.5, 1, 0.5, 0]),
    (cosine_lr(1, 2, 3), [1, 2, 3, 2, 1]),
    (cosine_lr(3, 3, 1), [3, 2.5, 1.5, 1, 1.5, 2.5, 3]),
    (cosine_warm_restarts(1, 2), [1, 0.5, 1, 0.5, 1]),
    (cosine_warm_restarts(3, 1, 3, 1), [3, 3, 2.5, 1.5, 3]),
    (cyclic_lr(1, 5, 2), [1, 3, 5, 3, 1, 3, 5]),
    (cyclic_lr(1, 5, 1, 2, "triangular2"), [1, 5, 3, 1, 3, 2, 1, 2]),
    (cyclic_lr(0, 8, 2, 1, "exp_range", 0.5), [0, 2, 2, 0, 0.25, 0.25]),
    (hold(exponential_lr(8, 0.5), 2), [8, 4, 2, 2, 2]),
    (hold(3, 0), [3, 3]),
    (product(2, exponential_lr(4, 0.5)), [8, 4, 2]),
    (linear(15), [5, 7, 9, 11, 13, 15, 15]),
    (linear(1, 1, 0, 2), [1, 0.5, 0, 0]),
    (polynomial(1), [1, 0.8, 0.6, 0.4, 0.2, 0, 0]),
    (polynomial(1, 2, 2), [1, 0.25, 0, 0]),
    (polynomial(1, 2, 0), [1, 1, 1, 1]),
    (one_cycle_lr(8, 6, 0.5, "linear", 4, 2), [2, 5, 8, 17 / 3, 10 / 3, 1, 1, 1]),
    (one_cycle_lr(8, 6, 0.5, "cos", 4, 2), [2, 5, 8, 6.25, 2.75, 1, 1]),
    (one_cycle_lr(8, 8, 0.375, "linear", 4, 2, three_phase=True), [2, 5, 8, 5, 2, 5 / 3, 4 / 3, 1, 1]),
    (one_cycle_lr(8, 4, 0.25, "cos", 4, 2), [8, 6.25, 2.75, 1, 1]),
    (one_cycle_lr(8, 1, 0, "cos", 4, 2), [1, 1]),
    (warmup(exponential_lr(4, 0.5), 2, 0.25), [1, 2.5, 4, 2, 1]),
    (warmup(3, 2), [1, 2, 3, 3, 3]),
    (join([1, exponential_lr(8, 0.5), 3], [2, 4]), [1, 1, 8, 4, 3, 3]),
    (join([exponential_lr(8, 0.5)], []), [8, 4, 2]),
    (per_epoch(exponential_lr(8, 0.5), 3), [8, 8, 8, 4, 4, 4, 2]),
    (per_epoch(2, 1), [2, 2]),
]


@pytest.mark.parametrize(("schedule", "expected"), TABLES)
def test_values_by_hand(schedule, expected):
    assert values(schedule, len(expected)) == pytest.approx(expected, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize(
    ("keywords", "measured", "expected"),
    [
        ({"patience": 1}, [9, 9, 9, 9, 9], [1, 1, 0.5, 0.5, 0.25]),
        ({"patience": 1}, [9, 9, 8, 8, 8], [1, 1, 1, 1, 0.5]),
        ({"patience": 1, "cooldown": 2}, [9] * 7, [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]),
        ({"patience": 0, "threshold": 0}, [9, 9], [1, 0.5]),
        ({"patience": 0, "cooldown": 2}, [9, 9, 9, 9, 9], [1, 0.5, 0.5, 0.5, 0.25]),
        ({"patience": 0, "mode": "max"}, [1, 2, 2, 3], [1, 1, 0.5, 0.5]),
        ({"patience": 0, "threshold": 0.1}, [10, 9.5, 8.9, 8.5], [1, 0.5, 0.5, 0.25]),
        ({"patience": 0, "threshold": 1, "threshold_mode": "abs"}, [10, 9.5, 8.9, 8.5], [1, 0.5, 0.5, 0.25]),
        ({"patience": 0, "threshold": 0.1, "mode": "max"}, [10, 10.5, 12], [1, 0.5, 0.5]),
        ({"patience": 0, "min_lr": 0.3}, [9, 9, 9, 9], [1, 0.5, 0.3, 0.3]),
        ({"patience": 0, "eps": 0.25}, [9, 9, 9], [1, 0.5, 0.5]),
        ({"patience": 2}, [-1] * 7, [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
        ({"patience": 0}, [-1, -0.99, -1.01], [1, 0.5, 0.5]),
        ({"patience": 0, "threshold": 0.1, "mode": "max"}, [-10, -9.5, -8.5], [1, 0.5, 0.5]),
        ({"patience": 0, "threshold": 1}, [9, 8, -1], [1, 0.5, 0.5]),
        ({"patience": 0}, [math.nan, 9, math.nan], [0.5, 0.5, 0.25]),
        ({}, [9] * 12, [1] * 11 + [0.5]),
    ],
)
def test_reduce_on_plateau_by_hand(keywords, measured, expected):
    plateau = reduce_on_plateau(1, factor=0.5, **keywords)
    state = plateau.init()
    assert state.learning_rate == 1
    found = []
    for metric in measured:
        state = plateau.update(metric, state)
        found.append(state.learning_rate)
    assert found == expected


def test_reduce_on_plateau_keeps_nothing_itself():
    plateau = reduce_on_plateau(1, patience=0)
    first = plateau.update(3, plateau.init())
    assert plateau.update(3, first) == plateau.update(3, first)
    assert plateau.init() == (1, math.inf, 0, 0)
    assert plateau.update(2, first).best == 2
    assert first.best == 3


@pytest.mark.parametrize(
    ("schedule", "count", "expected"),
    [
        (exponential_lr(0.1, 1.01), 10**6, math.inf),
        (exponential_lr(0, 1.01), 10**6, 0),
        (exponential_lr(0.1, 1), 10**400, 0.1),
        (exponential_lr(0.1, 0.5), 10**400, 0),
        (step_lr(0.1, 1, 10), 400, math.inf),
        (multi_step_lr(0.1, range(400), 10), 400, math.inf),
        (cyclic_lr(0.1, 0.5, 2, mode="exp_range", gamma=10), 401, math.inf),
        (cyclic_lr(0.1, 0.5, 2, mode="triangular2"), 4 * 10**400 + 2, 0.1),
        (cosine_lr(0.1, 7), 14 * 10**400, 0.1),
        (cosine_warm_restarts(0.1, 7), 7 * 10**400, 0.1),
        (cosine_warm_restarts(0.1, 1, 2), 2**400 - 1, 0.1),
        (linear(0.1, 0.5), 10**400, 0.1),
        (polynomial(0.1), 10**400, 0),
        (one_cycle_lr(0.1, 9), 10**400, 0.1 / 25 / 1e4),
    ],
)
def test_no_count_is_too_large(schedule, count, expected):
    assert schedule(count) == pytest.approx(expected, rel=1e-12)


# Epochs

EPOCHS = exponential_lr(8, 0.5)  # 8, 4, 2, …


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (per_epoch(EPOCHS), [8, 8, 8, 4, 4, 4, 2]),
        (per_epoch(lambda count: np.float64(8 >> count)), [8, 8, 8, 4]),
        (warmup(per_epoch(EPOCHS), 2, 0.5), [4, 6, 8, 8, 8, 4]),
        (join([1, per_epoch(EPOCHS), 3], [2, 7]), [1, 1, 8, 8, 8, 4, 4, 3, 3]),
        (product(exponential_lr(1, 0.5), per_epoch(EPOCHS)), [8, 4, 2, 0.5]),
        (hold(per_epoch(EPOCHS), 3), [8, 8, 8, 4, 4, 4, 4]),
        (hold(warmup(per_epoch(EPOCHS), 2, 0.5), 5), [4, 6, 8, 8, 8, 4, 4]),
        (per_epoch(warmup(EPOCHS, 2, 0.5)), [4, 4, 4, 6, 6, 6, 8]),
    ],
)
def test_a_schedule_of_epochs_has_a_rate_once_the_steps_of_an_epoch_are_known(schedule, expected):
    assert [schedules.rate(schedule, count, 3) for count in range(len(expected))] == expected
    assert schedule(0) == expected[0]
    assert type(schedule(np.int64(0))) is float
    for unknown in (lambda: schedule(1), lambda: schedules.rate(schedule, 0, 0)):
        with pytest.raises(ValueError, match=r"^schedule: it counts epochs, but the number of steps in an epoch is"):
            unknown()
    for count, error in ((-1, ValueError), (0.5, TypeError)):
        with pytest.raises(error, match=f"^count: expected an integer of at least 0, got {count}"):
            schedule(count)
    with pytest.raises(ValueError, match=r"^schedule: expected one that does not count epochs yet"):
        per_epoch(schedule, 3)


RATES = {
    "constant": constant,
    "step_lr": lambda lr: step_lr(lr, 3),
    "multi_step_lr": lambda lr: multi_step_lr(lr, [3]),
    "constant_lr": constant_lr,
    "exponential_lr": lambda lr: exponential_lr(lr, 0.9),
    "cosine_lr": lambda lr: cosine_lr(lr, 3),
    "cosine_warm_restarts": lambda lr: cosine_warm_restarts(lr, 3),
    "cyclic_lr": lambda lr: cyclic_lr(lr, 1.0),
    "linear": linear,
    "polynomial": polynomial,
    "one_cycle_lr": lambda lr: one_cycle_lr(lr, 3),
    "warmup": lambda lr: warmup(lr, 3),
    "join": lambda lr: join([lr], []),
    "product": product,
    "hold": lambda lr: hold(lr, 3),
    "per_epoch": lambda lr: per_epoch(lr, 3),
    "reduce_on_plateau": reduce_on_plateau,
}
RATE_NAMES = {
    "one_cycle_lr": "max_lr",
    "cyclic_lr": "base_lr",
    "warmup": "schedule",
    "join": r"schedules\[0\]",
    "product": r"schedules\[0\]",
    "hold": "schedule",
    "per_epoch": "schedule",
    "reduce_on_plateau": "learning_rate",
}


@pytest.mark.parametrize("name", RATES)
def test_learning_rates_that_make_no_sense_are_refused(name):
    for lr in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"^{RATE_NAMES.get(name, 'lr')}: expected .*, got {lr}$"):
            RATES[name](lr)
    for lr in ("0.1", None, True, [0.1]):
        with pytest.raises(TypeError, match=rf"^{RATE_NAMES.get(name, 'lr')}: expected .*, got "):
            RATES[name](lr)
    RATES[name](0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: step_lr(1, 0), ValueError, "step_size: expected an integer of at least 1, got 0"),
        (lambda: step_lr(1, 1.5), TypeError, "step_size: expected an integer of at least 1, got 1.5"),
        (lambda: step_lr(1, True), TypeError, "step_size: expected an integer of at least 1, got True"),
        (lambda: step_lr(1, 3, 0), ValueError, r"gamma: expected a number in \(0, inf\), got 0"),
        (lambda: multi_step_lr(1, [3], -1), ValueError, r"gamma: expected a number in \(0, inf\), got -1"),
        (lambda: multi_step_lr(1, [3, 2]), ValueError, r"milestones: expected increasing .*, got \[3, 2\]"),
        (lambda: multi_step_lr(1, [3, 3]), ValueError, r"milestones: expected increasing .*, got \[3, 3\]"),
        (lambda: multi_step_lr(1, [-1, 3]), ValueError, r"milestones\[0\]: .* at least 0, got -1"),
        (lambda: multi_step_lr(1, [1, 2.5]), TypeError, r"milestones\[1\]: expected an integer .*, got 2.5"),
        (lambda: multi_step_lr(1, 3), TypeError, "milestones: expected increasing integers, got 3"),
        (lambda: constant_lr(1, 1.5), ValueError, r"factor: expected a number in \[0, 1\], got 1.5"),
        (lambda: constant_lr(1, 0.5, 0), ValueError, "total_iters: .* at least 1, got 0"),
        (lambda: exponential_lr(1, math.nan), ValueError, "gamma: .*, got nan"),
        (lambda: exponential_lr(1, math.inf), ValueError, "gamma: .*, got inf"),
        (lambda: cosine_lr(1, 0), ValueError, "T_max: .* at least 1, got 0"),
        (lambda: cosine_lr(1, 3, -1), ValueError, "eta_min: .*, got -1"),
        (lambda: cosine_warm_restarts(1, 0), ValueError, "T_0: .* at least 1, got 0"),
        (lambda: cosine_warm_restarts(1, 3, 0), ValueError, "T_mult: .* at least 1, got 0"),
        (lambda: cosine_warm_restarts(1, 3, 1, -1), ValueError, "eta_min: .*, got -1"),
        (lambda: cyclic_lr(1, 0.5), ValueError, r"max_lr: expected a number in \[1.0, inf\), got 0.5"),
        (lambda: cyclic_lr(1, 2, 0), ValueError, "step_size_up: .* at least 1, got 0"),
        (lambda: cyclic_lr(1, 2, 3, 0), ValueError, "step_size_down: .* at least 1, got 0"),
        (lambda: cyclic_lr(1, 2, mode="square"), ValueError, "mode: expected one of 'triangular', .*, got 'square'"),
        (lambda: cyclic_lr(1, 2, gamma=0), ValueError, r"gamma: expected a number in \(0, inf\), got 0"),
        (
            lambda: product(exponential_lr(1, 2), exponential_lr(1, 0.5))(2000),
            ValueError,
            "product: it is not known at count 2000, where it is inf · 0.0",
        ),
        (lambda: product(exponential_lr(1, 0.5), exponential_lr(1, 2))(1030), ValueError, "product: .* · inf"),
        (product, ValueError, "schedules: expected at least one, got none"),
        (lambda: product(1, "x"), TypeError, r"schedules\[1\]: expected a schedule or a number, got 'x'"),
        (lambda: hold(1, -1), ValueError, "count: expected an integer of at least 0, got -1"),
        (lambda: linear(1, -0.1), ValueError, "start_factor: .*, got -0.1"),
        (lambda: linear(1, 1, 1.1), ValueError, "end_factor: .*, got 1.1"),
        (lambda: linear(1, total_iters=0), ValueError, "total_iters: .* at least 1, got 0"),
        (lambda: polynomial(1, 0), ValueError, "total_iters: .* at least 1, got 0"),
        (lambda: polynomial(1, 3, -1), ValueError, "power: .*, got -1"),
        (lambda: one_cycle_lr(1, 0), ValueError, "total_steps: .* at least 1, got 0"),
        (lambda: one_cycle_lr(1, 9, 1.5), ValueError, r"pct_start: expected a number in \[0, 1\], got 1.5"),
        (
            lambda: one_cycle_lr(1, 9, 0.3, "cosine"),
            ValueError,
            "anneal_strategy: expected one of 'cos', 'linear', got 'cosine'",
        ),
        (lambda: one_cycle_lr(1, 9, div_factor=0), ValueError, "div_factor: .*, got 0"),
        (lambda: one_cycle_lr(1, 9, final_div_factor=-1), ValueError, "final_div_factor: .*, got -1"),
        (lambda: warmup(1, 0), ValueError, "steps: .* at least 1, got 0"),
        (lambda: warmup(1, 3, 2), ValueError, "start_factor: .*, got 2"),
        (lambda: warmup("cosine", 3), TypeError, "schedule: expected a schedule or a number, got 'cosine'"),
        (lambda: join([], []), ValueError, "boundaries: expected one fewer .*, got 0 for 0 schedules"),
        (lambda: join([1, 2], []), ValueError, "boundaries: expected one fewer .*, got 0 for 2 schedules"),
        (lambda: join([1], [3]), ValueError, "boundaries: expected one fewer .*, got 1 for 1 schedules"),
        (lambda: join([1, 2, 3], [3, 3]), ValueError, r"boundaries: expected increasing .*, got \[3, 3\]"),
        (lambda: join([1, 2], [0]), ValueError, r"boundaries\[0\]: .* at least 1, got 0"),
        (lambda: join([1, "x"], [3]), TypeError, r"schedules\[1\]: expected a schedule or a number, got 'x'"),
        (
            lambda: join(constant(1), [3]),
            TypeError,
            "schedules: expected a list of schedules, got the function schedule",
        ),
        (lambda: per_epoch(1, 0), ValueError, "steps_per_epoch: .* at least 1, got 0"),
        (lambda: reduce_on_plateau(1, factor=1), ValueError, r"factor: expected .* \(0, 1\), got 1"),
        (lambda: reduce_on_plateau(1, factor=0), ValueError, r"factor: expected .* \(0, 1\), got 0"),
        (lambda: reduce_on_plateau(1, patience=-1), ValueError, "patience: .* at least 0, got -1"),
        (lambda: reduce_on_plateau(1, cooldown=-1), ValueError, "cooldown: .* at least 0, got -1"),
        (lambda: reduce_on_plateau(1, threshold=-1), ValueError, "threshold: .*, got -1"),
        (lambda: reduce_on_plateau(1, min_lr=-1), ValueError, "min_lr: .*, got -1"),
        (lambda: reduce_on_plateau(1, eps=-1), ValueError, "eps: .*, got -1"),
        (
            lambda: reduce_on_plateau(1, mode="low"),
            ValueError,
            "mode: expected one of 'min', 'max', got 'low'",
        ),
        (
            lambda: reduce_on_plateau(1, threshold_mode="x"),
            ValueError,
            "threshold_mode: expected one of 'rel', 'abs', got 'x'",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()
