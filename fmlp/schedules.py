"""Learning-rate schedules: pure functions from a count to a learning rate.

A *schedule* takes a count (an integer that starts at 0) and returns a Python float, never a NumPy scalar, which would
upcast float32 arrays. **An optimizer counts steps**, one for each batch, while PyTorch's and Keras's schedules often
count epochs; `per_epoch` makes a schedule count epochs. A number in place of a schedule means `constant`.

Names, arguments and values are those of the PyTorch schedulers, in closed form, so that you can evaluate a schedule at
any count, in any order:

>>> schedule = step_lr(0.1, step_size=2, gamma=0.5)
>>> [schedule(count) for count in range(5)]
[0.1, 0.1, 0.05, 0.05, 0.025]

Arguments are checked when a schedule is made: an argument of the wrong type raises TypeError, one that is out of range
ValueError. A schedule raises ValueError for a negative count and TypeError for a count that is not an integer. A rate
too large for a float is infinity, which every optimizer refuses.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import copysign, cos, inf, isinf, pi, prod
from numbers import Real
from typing import Literal, NamedTuple, TypeAlias

from fmlp.arguments import choice, given, integer, number
from fmlp.arguments import schedule as checked_schedule

Schedule: TypeAlias = Callable[[int], float]

__all__ = [
    "PlateauState",
    "ReduceOnPlateau",
    "Schedule",
    "constant",
    "constant_lr",
    "cosine_lr",
    "cosine_warm_restarts",
    "cyclic_lr",
    "exponential_lr",
    "hold",
    "join",
    "linear",
    "multi_step_lr",
    "one_cycle_lr",
    "per_epoch",
    "polynomial",
    "product",
    "reduce_on_plateau",
    "step_lr",
    "warmup",
]


def constant(lr: float) -> Schedule:
    """Return `lr` at every count.

    Here and in every other schedule, `lr` must be finite and at least 0.

    >>> constant(0.1)(1000)
    0.1
    """
    lr = number("lr", lr)
    return _schedule(lambda count: lr)


def step_lr(lr: float, step_size: int, gamma: float = 0.1) -> Schedule:
    """Multiply by `gamma` every `step_size` counts: ``lr · gamma^⌊count / step_size⌋``.

    Raises ValueError unless ``step_size ≥ 1`` and ``gamma > 0``. PyTorch: StepLR.

    >>> schedule = step_lr(0.1, step_size=30, gamma=0.5)
    >>> schedule(29), schedule(30), schedule(60)
    (0.1, 0.05, 0.025)
    """
    lr, gamma = number("lr", lr), number("gamma", gamma, "(0, inf)")
    step_size = integer("step_size", step_size, 1)
    return _schedule(lambda count: _decayed(lr, gamma, count // step_size))


def multi_step_lr(lr: float, milestones: Iterable[int], gamma: float = 0.1) -> Schedule:
    """Multiply by `gamma` at each milestone: ``lr · gamma^(number of milestones ≤ count)``.

    Raises ValueError unless the milestones are increasing and at least 0, and ``gamma > 0``.
    PyTorch: MultiStepLR.

    >>> schedule = multi_step_lr(0.1, milestones=[30, 80], gamma=0.5)
    >>> schedule(29), schedule(30), schedule(80)
    (0.1, 0.05, 0.025)
    """
    lr, gamma = number("lr", lr), number("gamma", gamma, "(0, inf)")
    counts = _increasing("milestones", milestones, 0)
    return _schedule(lambda count: _decayed(lr, gamma, bisect_right(counts, count)))


def constant_lr(lr: float, factor: float = 1 / 3, total_iters: int = 5) -> Schedule:
    """Return ``lr · factor`` for the first `total_iters` counts, and `lr` from then on.

    Raises ValueError unless ``0 ≤ factor ≤ 1`` and ``total_iters ≥ 1``. PyTorch: ConstantLR.

    >>> schedule = constant_lr(0.1, factor=0.5, total_iters=4)
    >>> schedule(3), schedule(4)
    (0.05, 0.1)
    """
    lr, factor = number("lr", lr), number("factor", factor, "[0, 1]")
    total_iters = integer("total_iters", total_iters, 1)
    return _schedule(lambda count: lr * factor if count < total_iters else lr)


def exponential_lr(lr: float, gamma: float) -> Schedule:
    """Multiply by `gamma` at every count: ``lr · gamma^count``.

    Raises ValueError unless ``gamma > 0``. PyTorch: ExponentialLR.

    >>> schedule = exponential_lr(0.1, gamma=0.5)
    >>> schedule(0), schedule(1), schedule(2)
    (0.1, 0.05, 0.025)
    """
    lr, gamma = number("lr", lr), number("gamma", gamma, "(0, inf)")
    return _schedule(lambda count: _decayed(lr, gamma, count))


def cosine_lr(lr: float, T_max: int, eta_min: float = 0.0) -> Schedule:  # noqa: N803
    """Go from `lr` down to `eta_min` in `T_max` counts, along half a cosine.

    ``eta_min + (lr - eta_min) · (1 + cos(π · count / T_max)) / 2``. Beyond `T_max` the cosine continues, back up to
    `lr` at ``2 · T_max`` and so on; ``hold(cosine_lr(lr, T_max), T_max)`` stays at `eta_min`. Loshchilov and Hutter
    2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv 1608.03983, without the restarts. PyTorch:
    CosineAnnealingLR.

    Raises ValueError unless ``T_max ≥ 1`` and `eta_min` is finite and at least 0.

    >>> schedule = cosine_lr(0.1, T_max=100)
    >>> schedule(0), round(schedule(50), 9), schedule(100), schedule(200)
    (0.1, 0.05, 0.0, 0.1)
    """
    lr, eta_min = number("lr", lr), number("eta_min", eta_min)
    T_max = integer("T_max", T_max, 1)  # noqa: N806
    return _schedule(lambda count: eta_min + (lr - eta_min) * (1 + cos(pi * (count % (2 * T_max)) / T_max)) / 2)


def cosine_warm_restarts(lr: float, T_0: int, T_mult: int = 1, eta_min: float = 0.0) -> Schedule:  # noqa: N803
    """Go from `lr` down to `eta_min` along half a cosine, again and again, each time `T_mult` times as long.

    ``eta_min + (lr - eta_min) · (1 + cos(π · T_cur / T_i)) / 2``, where `T_cur` counts from the last restart and
    ``T_i = T_0 · T_mult^i`` is the length after restart i. Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient
    Descent with Warm Restarts", arXiv 1608.03983. PyTorch: CosineAnnealingWarmRestarts.

    Raises ValueError unless ``T_0 ≥ 1``, ``T_mult ≥ 1`` and `eta_min` is finite and at least 0.

    >>> schedule = cosine_warm_restarts(0.1, T_0=2, T_mult=2)
    >>> [round(schedule(count), 9) for count in range(7)]
    [0.1, 0.05, 0.1, 0.085355339, 0.05, 0.014644661, 0.1]
    """
    lr, eta_min = number("lr", lr), number("eta_min", eta_min)
    T_0, T_mult = integer("T_0", T_0, 1), integer("T_mult", T_mult, 1)  # noqa: N806

    def restarted(count: int) -> float:
        T_cur, T_i = count % T_0 if T_mult == 1 else count, T_0  # noqa: N806
        while T_cur >= T_i:
            T_cur, T_i = T_cur - T_i, T_i * T_mult  # noqa: N806
        return eta_min + (lr - eta_min) * (1 + cos(pi * T_cur / T_i)) / 2

    return _schedule(restarted)


def cyclic_lr(
    base_lr: float,
    max_lr: float,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: float = 1.0,
) -> Schedule:
    """Rise from `base_lr` to `max_lr` in `step_size_up` counts, fall back in `step_size_down`, and so on.

    ``base_lr + (max_lr - base_lr) · x · height``, where x goes from 0 to 1 and back in straight lines. The height is
    1 ("triangular"), halves with each cycle ("triangular2": ``2^-cycle``), or is ``gamma^count`` ("exp_range").
    `step_size_down` defaults to `step_size_up`. Smith 2017, "Cyclical Learning Rates for Training Neural Networks",
    arXiv 1506.01186. PyTorch: CyclicLR, without its cycle of momenta.

    Raises ValueError unless ``max_lr ≥ base_lr``, both step sizes are at least 1, ``gamma > 0`` and `mode` is one of
    these three.

    >>> schedule = cyclic_lr(1.0, 5.0, step_size_up=2, mode="triangular2")
    >>> [schedule(count) for count in range(9)]
    [1.0, 3.0, 5.0, 3.0, 1.0, 2.0, 3.0, 2.0, 1.0]
    """
    base_lr = number("base_lr", base_lr)
    max_lr, gamma = number("max_lr", max_lr, f"[{base_lr}, inf)"), number("gamma", gamma, "(0, inf)")
    up = integer("step_size_up", step_size_up, 1)
    down = up if step_size_down is None else integer("step_size_down", step_size_down, 1)
    choice("mode", mode, "triangular", "triangular2", "exp_range")

    def cyclic(count: int) -> float:
        cycle, i = divmod(count, up + down)
        x = i / up if i <= up else (up + down - i) / down
        height = (max_lr - base_lr) * x
        if mode == "triangular":
            return base_lr + height
        return base_lr + (_decayed(height, 0.5, cycle) if mode == "triangular2" else _decayed(height, gamma, count))

    return _schedule(cyclic)


def linear(lr: float, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5) -> Schedule:
    """Go in a straight line from ``lr · start_factor`` to ``lr · end_factor`` in `total_iters` counts.

    ``lr · (start_factor + (end_factor - start_factor) · min(count / total_iters, 1))``.

    Raises ValueError unless both factors are from 0 to 1 and ``total_iters ≥ 1``. PyTorch: LinearLR.

    >>> schedule = linear(0.1, start_factor=0.5, total_iters=4)
    >>> schedule(0), round(schedule(1), 9), schedule(4), schedule(5)
    (0.05, 0.0625, 0.1, 0.1)
    """
    lr = number("lr", lr)
    start, end = number("start_factor", start_factor, "[0, 1]"), number("end_factor", end_factor, "[0, 1]")
    total_iters = integer("total_iters", total_iters, 1)
    return _schedule(lambda count: lr * (start + (end - start) * (min(count, total_iters) / total_iters)))


def polynomial(lr: float, total_iters: int = 5, power: float = 1.0) -> Schedule:
    """Go from `lr` to 0 in `total_iters` counts: ``lr · (1 - min(count / total_iters, 1))^power``.

    Raises ValueError unless ``total_iters ≥ 1`` and `power` is finite and at least 0. PyTorch: PolynomialLR.

    >>> schedule = polynomial(0.1, total_iters=4, power=2)
    >>> schedule(0), schedule(2), schedule(4), schedule(5)
    (0.1, 0.025, 0.0, 0.0)
    """
    lr, power = number("lr", lr), number("power", power)
    total_iters = integer("total_iters", total_iters, 1)
    return _schedule(lambda count: lr * (1 - min(count, total_iters) / total_iters) ** power)


def one_cycle_lr(
    max_lr: float,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """Rise to `max_lr`, then fall far below the initial value: the 1cycle policy.

    The rate starts at ``initial = max_lr / div_factor``, reaches `max_lr` at ``pct_start · total_steps - 1`` and ends
    at ``initial / final_div_factor`` at ``total_steps - 1``. With `three_phase` it is back at `initial` at
    ``2 · pct_start · total_steps - 2``. Between these points it follows half a cosine ("cos") or a straight line
    ("linear"). From count `total_steps` on it keeps the last value, while PyTorch raises an error.

    Smith and Topin 2018, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates", arXiv 1708.07120. PyTorch: OneCycleLR, without its cycle of momenta.

    Raises ValueError unless ``total_steps ≥ 1``, ``0 ≤ pct_start ≤ 1``, both divisors are above 0 and
    `anneal_strategy` is "cos" or "linear".

    >>> schedule = one_cycle_lr(1.0, total_steps=10, anneal_strategy="linear")
    >>> [round(schedule(count), 3) for count in range(10)]
    [0.04, 0.52, 1.0, 0.857, 0.714, 0.571, 0.429, 0.286, 0.143, 0.0]
    """
    max_lr, total_steps = number("max_lr", max_lr), integer("total_steps", total_steps, 1)
    pct_start = number("pct_start", pct_start, "[0, 1]")
    initial = max_lr / number("div_factor", div_factor, "(0, inf)")
    final = initial / number("final_div_factor", final_div_factor, "(0, inf)")
    ease: dict[str, Callable[[float], float]]
    ease = {"cos": lambda x: (1 + cos(pi * x)) / 2, "linear": lambda x: 1 - x}
    left = ease[choice("anneal_strategy", anneal_strategy, *ease)]

    back = [(2 * pct_start * total_steps - 2, initial)] if three_phase else []
    points = [(0.0, initial), (pct_start * total_steps - 1, max_lr), *back, (total_steps - 1, final)]

    def one_cycle(count: int) -> float:
        count = min(count, total_steps - 1)
        (begin, a), (end, b) = next(phase for phase in pairwise(points) if count <= phase[1][0])
        return b + (a - b) * left((count - begin) / (end - begin)) if begin < end else b

    return _schedule(one_cycle)


def warmup(schedule: Schedule | float, steps: int, start_factor: float = 1 / 3) -> Schedule:
    """Rise in a straight line to ``schedule(0)`` in `steps` counts, then follow `schedule` from its count 0.

    ``join([linear(schedule(0), start_factor, total_iters=steps), schedule], [steps])``. Goyal et al. 2017,
    "Accurate, Large Minibatch SGD", arXiv 1706.02677.

    Raises ValueError unless ``steps ≥ 1`` and ``0 ≤ start_factor ≤ 1``, TypeError when `schedule` is neither
    a function nor a number.

    >>> schedule = warmup(exponential_lr(0.1, gamma=0.5), steps=2, start_factor=0.5)
    >>> [round(schedule(count), 9) for count in range(5)]
    [0.05, 0.075, 0.1, 0.05, 0.025]
    """
    schedule, steps = _as_schedule("schedule", schedule), integer("steps", steps, 1)
    return join([linear(schedule(0), start_factor, total_iters=steps), schedule], [steps])


def join(schedules: Sequence[Schedule | float], boundaries: Iterable[int]) -> Schedule:
    """Follow the schedules one after the other, each from its own count 0.

    The first schedule ends at ``boundaries[0]``, the second at ``boundaries[1]``, and so on: from ``boundaries[i]`` to
    the next boundary, the value is ``schedules[i + 1](count - boundaries[i])``. Boundaries always count steps; a
    schedule that counts epochs (`per_epoch`) starts to count them at its boundary. PyTorch: SequentialLR.

    Raises ValueError unless the boundaries increase, are at least 1 and number one less than the schedules; TypeError
    for a schedule that is neither a function nor a number.

    >>> schedule = join([0.5, exponential_lr(0.1, gamma=0.5)], boundaries=[2])
    >>> [schedule(count) for count in range(5)]
    [0.5, 0.5, 0.1, 0.05, 0.025]
    """
    if not isinstance(schedules, Sequence):
        raise TypeError(f"schedules: expected a list of schedules, got {given(schedules)}")
    parts = [_as_schedule(f"schedules[{i}]", schedule) for i, schedule in enumerate(schedules)]
    starts = [0, *_increasing("boundaries", boundaries, 1)]
    if len(parts) != len(starts):
        raise ValueError(
            f"boundaries: expected one fewer than there are schedules, got {len(starts) - 1} for {len(parts)} schedules"
        )

    def joined(count: int, steps_per_epoch: int) -> float:
        i = bisect_right(starts, count) - 1
        return rate(parts[i], count - starts[i], steps_per_epoch)

    return _composed(joined, parts)


def product(*schedules: Schedule | float) -> Schedule:
    """Multiply schedules: ``schedules[0](count) · schedules[1](count) · …``. PyTorch: ChainedScheduler.

    Raises ValueError without any schedule, TypeError for a schedule that is neither a function nor a number. The
    product raises ValueError where a rate too large for a float meets one below 1, because their product is not known.

    >>> schedule = product(0.1, constant_lr(1.0, factor=0.5, total_iters=1), exponential_lr(1.0, gamma=0.5))
    >>> [schedule(count) for count in range(3)]
    [0.05, 0.05, 0.025]
    """
    parts = [_as_schedule(f"schedules[{i}]", schedule) for i, schedule in enumerate(schedules)]
    if not parts:
        raise ValueError("schedules: expected at least one, got none")

    def multiplied(count: int, steps_per_epoch: int) -> float:
        rates = [rate(part, count, steps_per_epoch) for part in parts]
        if inf in rates and any(abs(r) < 1 for r in rates):
            raise ValueError(f"product: it is not known at count {count}, where it is {' · '.join(map(str, rates))}")
        return prod(rates)

    return _composed(multiplied, parts)


def hold(schedule: Schedule | float, count: int) -> Schedule:
    """Follow `schedule` up to `count`, then keep its value there: ``schedule(min(now, count))``.

    Raises ValueError unless ``count ≥ 0``, TypeError when `schedule` is neither a function nor a number.

    >>> schedule = hold(cosine_lr(0.1, T_max=100, eta_min=0.01), 100)
    >>> schedule(0), schedule(100), schedule(150)
    (0.1, 0.01, 0.01)
    """
    schedule, last = _as_schedule("schedule", schedule), integer("count", count, 0)
    return _composed(lambda count, steps: rate(schedule, min(count, last), steps), [schedule])


def per_epoch(schedule: Schedule | float, steps_per_epoch: int | None = None) -> Schedule:
    """Turn a schedule that counts epochs into one that counts steps: ``schedule(⌊count / steps_per_epoch⌋)``.

    By default, `fmlp.fit` and the estimators fill in how many steps an epoch has. In your own loop, give
    `steps_per_epoch` here or call `optim.with_steps_per_epoch` on the state; otherwise the schedule raises ValueError.
    `warmup`, `join`, `product` and `hold` take such schedules too.

    Raises ValueError unless ``steps_per_epoch ≥ 1``, or when `schedule` already counts epochs; TypeError when
    `schedule` is neither a function nor a number.

    >>> schedule = per_epoch(exponential_lr(0.1, gamma=0.5), steps_per_epoch=100)
    >>> schedule(99), schedule(100)
    (0.1, 0.05)
    """
    schedule = _as_schedule("schedule", schedule)
    if isinstance(schedule, CountsEpochs):
        raise ValueError("schedule: expected one that does not count epochs yet, got one made by per_epoch")
    if steps_per_epoch is None:
        return CountsEpochs(lambda count, steps: schedule(count // steps))
    steps_per_epoch = integer("steps_per_epoch", steps_per_epoch, 1)
    return _schedule(lambda count: schedule(count // steps_per_epoch))


class CountsEpochs:
    """A schedule whose rate depends on how many steps an epoch has, except at count 0."""

    def __init__(self, formula: Callable[[int, int], float]) -> None:
        self.formula = formula

    def __call__(self, count: int) -> float:
        """Return the rate at count 0, and raise ValueError for any other."""
        return float(rate(self, count, 0 if _counted(count) else 1))


def rate(schedule: Schedule, count: int, steps_per_epoch: int) -> float:
    """Return the rate at a step; raise ValueError if it depends on `steps_per_epoch` and this is 0, unknown."""
    if not isinstance(schedule, CountsEpochs):
        return schedule(count)
    if not steps_per_epoch:
        raise ValueError(
            "schedule: it counts epochs, but the number of steps in an epoch is not known here. fit sets it by itself; "
            "elsewhere use per_epoch(schedule, steps_per_epoch), or call optim.with_steps_per_epoch on the state"
        )
    return schedule.formula(count, steps_per_epoch)


class PlateauState(NamedTuple):
    """The state of `reduce_on_plateau`: the learning rate to use now, the best metric, and two counts of updates."""

    learning_rate: float
    best: float
    bad_epochs: int
    cooldown_left: int


class ReduceOnPlateau(NamedTuple):
    """A pair of pure functions: ``init() -> state`` and ``update(metric, state) -> state``."""

    init: Callable[[], PlateauState]
    update: Callable[[float, PlateauState], PlateauState]
    mode: Literal["min", "max"] | None = None
    """None means "min", unless `fmlp.on_plateau` knows that the metric should rise."""


def reduce_on_plateau(
    learning_rate: float,
    *,
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
    mode: Literal["min", "max"] | None = None,
) -> ReduceOnPlateau:
    """Multiply the learning rate by `factor` when a metric has not improved for over `patience` updates.

    This is not a schedule, because it depends on a metric and not on a count alone. It is a pair of functions,
    ``init() -> state`` and ``update(metric, state) -> state``; the learning rate to use is ``state.learning_rate``.

    A metric improves when it falls (mode "min", the default) or rises ("max") beyond the best so far by more than
    `threshold` (threshold_mode "abs") or ``threshold · |best|`` ("rel"); NaN never improves. After a reduction, the
    next `cooldown` updates do not count as bad. The learning rate never falls below `min_lr`, and reductions by `eps`
    or less are skipped. PyTorch: ReduceLROnPlateau, whose "rel" margin has the wrong sign for a metric below 0.

    Raises ValueError unless ``0 < factor < 1``, the other numbers are finite and at least 0, and both modes are valid.

    >>> plateau = reduce_on_plateau(0.1, factor=0.5, patience=1)
    >>> state = plateau.init()
    >>> for loss in [1.0, 0.8, 0.9, 0.9]:
    ...     state = plateau.update(loss, state)
    >>> state
    PlateauState(learning_rate=0.05, best=0.8, bad_epochs=0, cooldown_left=0)
    """
    learning_rate, factor = number("learning_rate", learning_rate), number("factor", factor, "(0, 1)")
    threshold, min_lr, eps = number("threshold", threshold), number("min_lr", min_lr), number("eps", eps)
    patience, cooldown = integer("patience", patience, 0), integer("cooldown", cooldown, 0)
    sign = 1 if choice("mode", "min" if mode is None else mode, "min", "max") == "max" else -1
    relative = choice("threshold_mode", threshold_mode, "rel", "abs") == "rel"

    def init() -> PlateauState:
        return PlateauState(learning_rate, -sign * inf, 0, 0)

    def update(metric: float, state: PlateauState) -> PlateauState:
        if not isinstance(state, PlateauState):
            raise TypeError(f"state: expected a PlateauState, as init makes it, got {given(state)}")
        lr, best, bad, cooling = state
        if not isinstance(metric, Real):
            raise TypeError(f"metric: expected a number, got {given(metric)}")
        metric = float(metric)
        bar = best + sign * threshold if isinf(best) or not relative else best * (1 + sign * copysign(threshold, best))
        best, bad = (metric, 0) if sign * metric > sign * bar else (best, bad + 1)
        if cooling > 0:
            return PlateauState(lr, best, 0, cooling - 1)
        if bad <= patience:
            return PlateauState(lr, best, bad, 0)
        reduced = max(lr * factor, min_lr)
        return PlateauState(reduced if lr - reduced > eps else lr, best, 0, cooldown)

    return ReduceOnPlateau(init, update, mode)


def _schedule(formula: Schedule) -> Schedule:
    """Make a schedule of a formula: check that the count is a non-negative integer, and return a Python float."""

    def schedule(count: int) -> float:
        return float(formula(_counted(count)))

    return schedule


def _composed(formula: Callable[[int, int], float], parts: Iterable[Schedule]) -> Schedule:
    """Make a schedule of ``formula(count, steps_per_epoch)``, which counts epochs if one of its parts does."""
    if any(isinstance(part, CountsEpochs) for part in parts):
        return CountsEpochs(formula)
    return _schedule(lambda count: formula(count, 0))


def _counted(count: int) -> int:
    try:
        count = operator.index(count)
    except TypeError:
        raise TypeError(f"count: expected an integer of at least 0, got {given(count)}") from None
    if count < 0:
        raise ValueError(f"count: expected an integer of at least 0, got {count}")
    return count


def _decayed(lr: float, gamma: float, n: int) -> float:
    """Return ``lr · gamma^n``: infinity or 0 where the power is too large or too small for a float."""
    try:
        return lr * gamma**n
    except OverflowError:
        return lr * (inf if gamma > 1 else 0.0) if lr and gamma != 1 else lr


def _as_schedule(name: str, value: Schedule | float) -> Schedule:
    schedule: Schedule = constant(number(name, value)) if isinstance(value, Real) else checked_schedule(name, value)
    return schedule


def _increasing(name: str, values: Iterable[int], low: int) -> list[int]:
    if not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected increasing integers, got {given(values)}")
    counts = [integer(f"{name}[{i}]", value, low) for i, value in enumerate(values)]
    if any(later <= earlier for earlier, later in pairwise(counts)):
        raise ValueError(f"{name}: expected increasing integers, got {counts}")
    return counts
