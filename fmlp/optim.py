"""Optimizers: pairs of pure functions over trees of parameters.

``init(params) -> state`` and ``update(grads, state, params) -> (updates, state)``; `apply_updates` adds the updates to
the parameters. A transformation that only changes gradients, such as `clip_by_global_norm`, is the same kind of
pair, and `chain` composes them. The state is a tree, so it can be saved.

Optimizers that share a name with PyTorch's follow PyTorch step by step. As in PyTorch, `weight_decay` leaves
BatchNorm's statistics alone (`layers.STATISTICS`: the leaves `mean`, `var` and `count` of one dict). `learning_rate` is
a number or a schedule, a function from the number of steps made to a rate (`schedules.per_epoch` makes it count
epochs); the state holds the last rate used, and `learning_rate` reads it. A mask or a tree of labels may end early: its
value for a dict or a list applies to all leaves below.

Optimizers that divide by the root of squares stay within float32's range: if the squares of the gradients add up to
more than 10⁻⁶ of the largest number of their dtype, each gradient is clipped to the root of that limit, ±1.8e16 for
float32. An `eps` below 1e-19 counts as 1e-19 (1e-37 in `adadelta` and `adamax`). The range of float16 holds neither
squares nor small rates, so float16 is computed in float32, and its state is float32.

All raise TypeError for hyper-parameters that are not numbers, ValueError for hyper-parameters out of range, and
ValueError, naming the path, if gradients do not fit the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from math import inf, isfinite
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fmlp import tree
from fmlp.arguments import given, hinting, integer, number, unmasked
from fmlp.arguments import schedule as checked_schedule
from fmlp.layers import STATISTICS
from fmlp.recording import asarray, primitive
from fmlp.schedules import CountsEpochs, rate
from fmlp.tree import Array, Tree

LearningRate: TypeAlias = float | Callable[[int], float]
Mask: TypeAlias = Tree | Callable[[Tree], Tree]

__all__ = [
    "Optimizer",
    "OptimizerState",
    "ScheduleState",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "add_decayed_weights",
    "apply_updates",
    "chain",
    "clip",
    "clip_by_global_norm",
    "global_norm",
    "learning_rate",
    "learning_rates",
    "lion",
    "masked",
    "nadam",
    "partition",
    "radam",
    "rmsprop",
    "scale",
    "scale_by_schedule",
    "sgd",
    "with_learning_rate",
    "with_steps_per_epoch",
]


class Optimizer(NamedTuple):
    """A pair of pure functions, ``init(params)`` and ``update(grads, state, params)``."""

    init: Callable[[Tree], Any]
    update: Callable[..., tuple[Tree, Any]]


class OptimizerState(NamedTuple):
    """The state of an optimizer: the number of steps made, the learning rate last used, and its vectors by name.

    If a schedule counts epochs, `slots` also holds ``steps_per_epoch``, which is 0 until it is known.

    The numbers are NumPy's, because Python numbers would be constants of a plan (`fmlp.jit`).
    """

    steps: np.int64
    learning_rate: np.float64
    slots: dict[str, Any]


class ScheduleState(NamedTuple):
    """The state of `scale_by_schedule` if the schedule counts epochs; `steps_per_epoch` is 0 until it is known."""

    steps: np.int64
    steps_per_epoch: np.int64


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Return ``params + updates``, each leaf in the parameter's dtype.

    Raises ValueError, naming the path, for updates of another structure or shape; TypeError for masked arrays.

    >>> apply_updates({"w": np.array([1.0])}, {"w": np.array([-0.5])})
    {'w': array([0.5])}
    """
    try:
        return tree.map(_moved, params, updates)
    except TypeError:
        tree.check_unmasked("params", params)
        tree.check_unmasked("updates", updates)
        raise
    except ValueError:
        if isinstance(updates, tuple) and not isinstance(params, tuple):
            raise ValueError(
                f"updates: expected a tree like the parameters, got a tuple of {len(updates)}; "
                "an optimizer's update returns two things: updates, state = update(grads, state, params)"
            ) from None
        check_fit("an update", updates, params)
        raise


# ------------------------------------------------------------------------------------- optimizers


@hinting
def sgd(
    learning_rate: LearningRate = 1e-3,
    momentum: float = 0.0,
    *,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Stochastic gradient descent: ``b ← m b + (1 - d) g``, update ``-lr b``, or ``-lr (g + m b)`` (nesterov).

    Sutskever, Martens, Dahl and Hinton 2013, "On the importance of initialization and momentum in deep learning".
    """
    momentum, dampening = number("momentum", momentum, "[0, 1]"), number("dampening", dampening, "[0, 1)")
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError("nesterov: needs a momentum above 0 and a dampening of 0")
    if momentum == 0:
        return _descent(lambda g, lr, t: (-lr * g, {}), learning_rate, weight_decay=weight_decay)

    def equation(g: Array, lr: float, t: int, momentum_buffer: Array) -> Update:
        b = g if t == 1 else momentum * momentum_buffer + (1 - dampening) * g
        return -lr * (g + momentum * b if nesterov else b), {"momentum_buffer": b}

    return _descent(equation, learning_rate, {"momentum_buffer": 0.0}, weight_decay=weight_decay)


@hinting
def adagrad(
    learning_rate: LearningRate = 1.0,
    *,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adagrad: ``s ← s + g²``, update ``-lr g / (√s + eps)``. PyTorch's default rate is 0.01.

    Duchi, Hazan and Singer 2011, JMLR 12.
    """
    start, eps = number("initial_accumulator_value", initial_accumulator_value), _eps(eps)

    def equation(g: Array, lr: float, t: int, sum: Array) -> Update:
        s = sum + g * g
        return -lr * g / (np.sqrt(s) + eps), {"sum": s}

    return _descent(equation, learning_rate, {"sum": start}, weight_decay=weight_decay, squares=True)


@hinting
def adadelta(
    learning_rate: LearningRate = 1.0, *, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0
) -> Optimizer:
    """Adadelta: update ``-lr d``; ``d = g √(a + eps) / √(v + eps)``, ``v ← ρ v + (1 - ρ) g²``, ``a ← ρ a + (1-ρ) d²``.

    Zeiler 2012, arXiv 1212.5701.
    """
    rho, eps = number("rho", rho, "[0, 1]"), max(number("eps", eps), 1e-37)

    def equation(g: Array, lr: float, t: int, square_avg: Array, acc_delta: Array) -> Update:
        v = rho * square_avg + (1 - rho) * g * g
        d = g * (np.sqrt(acc_delta + eps) / np.sqrt(v + eps))
        return -lr * d, {"square_avg": v, "acc_delta": rho * acc_delta + (1 - rho) * d * d}

    slots = {"square_avg": 0.0, "acc_delta": 0.0}
    return _descent(equation, learning_rate, slots, weight_decay=weight_decay, squares=True)


@hinting
def rmsprop(
    learning_rate: LearningRate = 1e-2,
    *,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
) -> Optimizer:
    """RMSprop: ``v ← α v + (1 - α) g²``, ``d = g / (√v + eps)``, update ``-lr d``, or ``-lr b`` with ``b ← m b + d``.

    `centered` replaces ``√v`` by ``√(v - ḡ²)``, where ḡ is the same average of g. Tieleman and Hinton 2012, lecture
    6.5; Graves 2013, arXiv 1308.0850.
    """
    alpha, eps = number("alpha", alpha, "[0, 1]"), _eps(eps)
    momentum = number("momentum", momentum, "[0, 1]")

    def equation(g: Array, lr: float, t: int, **slots: Array) -> Update:
        new = {"square_avg": alpha * slots["square_avg"] + (1 - alpha) * g * g}
        v = new["square_avg"]
        if centered:
            new["grad_avg"] = alpha * slots["grad_avg"] + (1 - alpha) * g
            v = np.maximum(v - new["grad_avg"] ** 2, 0)
        d = g / (np.sqrt(v) + eps)
        if momentum:
            d = new["momentum_buffer"] = momentum * slots["momentum_buffer"] + d
        return -lr * d, new

    slots = ["square_avg"] + ["grad_avg"] * centered + ["momentum_buffer"] * (momentum > 0)
    return _descent(equation, learning_rate, dict.fromkeys(slots, 0.0), weight_decay=weight_decay, squares=True)


@hinting
def adam(
    learning_rate: LearningRate = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
) -> Optimizer:
    """Adam: ``m ← b₁ m + (1 - b₁) g``, ``v ← b₂ v + (1 - b₂) g²``, update ``-lr m̂ / (√v̂ + eps)``.

    m̂ = m / (1 - b₁ᵗ) and v̂ = v / (1 - b₂ᵗ), or ``v̂ = max(v₁, …, vₜ) / (1 - b₂ᵗ)`` with `amsgrad`. `weight_decay`
    adds ``weight_decay · params`` to the gradient (L2).

    Kingma and Ba 2015, arXiv 1412.6980; amsgrad: Reddi, Kale and Kumar 2018, arXiv 1904.09237.

    >>> optimizer = adam(0.1)
    >>> params = {"w": np.array([1.0, -1.0])}
    >>> updates, state = optimizer.update({"w": np.array([3.0, -0.2])}, optimizer.init(params), params)
    >>> apply_updates(params, updates)["w"].round(6)
    array([ 0.9, -0.9])
    """
    equation, slots = _adam(b1, b2, eps, amsgrad)
    return _descent(equation, learning_rate, slots, weight_decay=weight_decay, squares=True)


@hinting
def adamw(
    learning_rate: LearningRate = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 1e-2,
    mask: Mask | None = None,
    amsgrad: bool = False,
) -> Optimizer:
    """Adam with decoupled weight decay: update ``-lr (m̂ / (√v̂ + eps) + weight_decay · params)``.

    `mask` says which leaves decay: a tree of booleans, or a function from the parameters to such a tree. By default,
    all but BatchNorm's statistics decay. `amsgrad` as in `adam`.

    Loshchilov and Hutter 2019, arXiv 1711.05101.
    """
    equation, slots = _adam(b1, b2, eps, amsgrad)
    return _descent(equation, learning_rate, slots, decoupled_decay=weight_decay, mask=mask, squares=True)


def _adam(b1: float, b2: float, eps: float, amsgrad: bool) -> tuple[Equation, dict[str, float]]:
    b1, b2, eps = number("b1", b1, "[0, 1)"), number("b2", b2, "[0, 1)"), _eps(eps)

    def equation(g: Array, lr: float, t: int, mu: Array, nu: Array, nu_max: Array | None = None) -> Update:
        averages = {"nu": _average(b2, nu, g * g), "mu": _average(b1, mu, g)}
        if nu_max is not None:
            averages["nu_max"] = np.maximum(nu_max, averages["nu"])
        m, v = averages["mu"], averages["nu_max" if nu_max is not None else "nu"]
        c = _sqrt(1 - b2**t)
        return m / (np.sqrt(v) + eps * c) * (-lr * c / (1 - b1**t)), averages

    return equation, dict.fromkeys(["mu", "nu", *["nu_max"] * amsgrad], 0.0)


@hinting
def nadam(
    learning_rate: LearningRate = 2e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adam with Nesterov momentum: update ``-lr (μ' m / (1 - Π μ') + (1 - μ) g / (1 - Π)) / (√v̂ + eps)``.

    μ = b₁ (1 - 0.96^(t ψ) / 2) with ψ = `momentum_decay`; μ' is the next step's μ, and Π the product of all μ so far.

    Dozat 2016, "Incorporating Nesterov momentum into Adam".
    """
    b1, b2, eps = number("b1", b1, "[0, 1)"), number("b2", b2, "[0, 1)"), _eps(eps)
    momentum_decay = number("momentum_decay", momentum_decay)

    def momentum(t: int) -> float:
        return b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))  # type: ignore[no-any-return]

    def equation(g: Array, lr: float, t: int, mu: Array, nu: Array, mu_product: np.float64) -> Update:
        m = b1 * mu + (1 - b1) * g
        v = b2 * nu + (1 - b2) * g * g
        now, following = momentum(t), momentum(t + 1)
        product = _number_in(mu_product) * now
        numerator = following / (1 - product * following) * m + (1 - now) / (1 - product) * g
        return -lr * numerator / (np.sqrt(v / (1 - b2**t)) + eps), {"mu": m, "nu": v, "mu_product": _float64(product)}

    slots, scalars = {"mu": 0.0, "nu": 0.0}, {"mu_product": np.float64(1)}
    return _descent(equation, learning_rate, slots, scalars, weight_decay=weight_decay, squares=True)


@hinting
def radam(
    learning_rate: LearningRate = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Rectified Adam: update ``-lr r m̂ √(1 - b₂ᵗ) / (√v + eps)`` where ``ρₜ > 5``, else ``-lr m̂``; m, v as in `adam`.

    ρ∞ = 2 / (1 - b₂) - 1, ρₜ = ρ∞ - 2 t b₂ᵗ / (1 - b₂ᵗ) and r² = (ρₜ - 4) (ρₜ - 2) ρ∞ / ((ρ∞ - 4) (ρ∞ - 2) ρₜ).

    Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond", arXiv 1908.03265.
    """
    b1, b2, eps = number("b1", b1, "[0, 1)"), number("b2", b2, "[0, 1)"), _eps(eps)
    rho_inf = 2 / (1 - b2) - 1

    @primitive
    def rectified(t: int) -> tuple[float, float]:
        """Return a and b such that ``-lr m̂ / (a (√v + eps) + b)`` is the update."""
        rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        if rho <= 5:
            return 0.0, 1.0
        r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        return 1 / (r * math.sqrt(1 - b2**t)), 0.0

    def equation(g: Array, lr: float, t: int, mu: Array, nu: Array) -> Update:
        v, m = _average(b2, nu, g * g), _average(b1, mu, g)
        a, b = rectified(t)
        return -lr / (1 - b1**t) * m / (a * (np.sqrt(v) + eps) + b), {"mu": m, "nu": v}

    return _descent(equation, learning_rate, {"mu": 0.0, "nu": 0.0}, weight_decay=weight_decay, squares=True)


@hinting
def adamax(
    learning_rate: LearningRate = 2e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adam by the largest gradient: ``u ← max(b₂ u, |g| + eps)``, update ``-lr m̂ / u``; m̂ as in `adam`.

    Kingma and Ba 2015, arXiv 1412.6980, section 7.1.
    """
    b1, b2, eps = number("b1", b1, "[0, 1)"), number("b2", b2, "[0, 1)"), max(number("eps", eps), 1e-37)

    def equation(g: Array, lr: float, t: int, mu: Array, inf_norm: Array) -> Update:
        u, m = np.maximum(b2 * inf_norm, np.abs(g) + eps), _average(b1, mu, g)
        return -lr / (1 - b1**t) * m / u, {"mu": m, "inf_norm": u}

    return _descent(equation, learning_rate, {"mu": 0.0, "inf_norm": 0.0}, weight_decay=weight_decay)


@hinting
def lion(
    learning_rate: LearningRate = 1e-4,
    b1: float = 0.9,
    b2: float = 0.99,
    *,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
) -> Optimizer:
    """Lion: update ``-lr (sign(b₁ m + (1 - b₁) g) + weight_decay · params)``, ``m ← b₂ m + (1 - b₂) g``.

    `mask` as in `adamw`. Chen et al. 2023, arXiv 2302.06675.
    """
    b1, b2 = number("b1", b1, "[0, 1)"), number("b2", b2, "[0, 1)")

    def equation(g: Array, lr: float, t: int, mu: Array) -> Update:
        direction = np.sign(b1 * mu + (1 - b1) * g) + 0 * g  # NaN, not ±1, if g is not finite
        return -lr * direction, {"mu": _average(b2, mu, g)}

    return _descent(equation, learning_rate, {"mu": 0.0}, decoupled_decay=weight_decay, mask=mask)


# ------------------------------------------------------------------------------ around an equation

Update: TypeAlias = tuple[Array, dict[str, Any]]
Equation: TypeAlias = Callable[..., Update]


def _descent(
    equation: Equation,
    learning_rate: LearningRate,
    slots: dict[str, float] | None = None,
    scalars: dict[str, np.float64] | None = None,
    *,
    weight_decay: float = 0.0,
    decoupled_decay: float = 0.0,
    mask: Mask | None = None,
    squares: bool = False,
) -> Optimizer:
    """Make an optimizer of ``equation(g, lr, t, **slots) -> (update, slots)``, element by element, for t = 1, 2, ….

    The equation gets the gradients of all leaves as one vector, because a NumPy call costs about 1 µs even for few
    numbers. It may overwrite this vector. `squares` says that it squares the gradients.
    """
    weight_decay = number("weight_decay", weight_decay)
    decoupled_decay = number("weight_decay", decoupled_decay)
    if callable(learning_rate):
        checked_schedule("learning_rate", learning_rate)
    else:
        learning_rate = number("learning_rate", learning_rate)
    names = {*(slots or {}), *(scalars or {})}

    def init(params: Tree) -> OptimizerState:
        p, _ = _vector(params)
        _check_floats(params)
        held: dict[str, Any] = {name: np.full_like(p, value) for name, value in (slots or {}).items()}
        held |= scalars or {}
        if isinstance(learning_rate, CountsEpochs):
            held["steps_per_epoch"] = np.int64(0)
        if weight_decay or decoupled_decay:
            held |= _decays(_learned if mask is None else mask, params, p.dtype)
        lr = learning_rate(0) if callable(learning_rate) else learning_rate
        return OptimizerState(np.int64(0), np.float64(lr), held)

    def update(grads: Tree, state: OptimizerState, params: Tree = None) -> tuple[Tree, OptimizerState]:
        held, beside = _opened(state, names)
        count, (g, unravel) = _number_in(state.steps), _vector(grads)
        _check_sizes(grads, params, g, state.slots, first=count == 0)
        lr = _rate(learning_rate, count, state.learning_rate, beside.get("steps_per_epoch", 0))
        if weight_decay:
            g = g + _decay(weight_decay, params, grads, g, beside)
        if squares:
            g = _squarable(g)
        updates, held = equation(g, lr, count + 1, **held)
        if decoupled_decay:
            updates = updates - _decay(lr * decoupled_decay, params, grads, g, beside)
        return unravel(updates), OptimizerState(_int64(count + 1), _float64(lr), held | beside)

    return Optimizer(init, update)


def _opened(state: OptimizerState, names: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the contents of a state that the equation takes, and its other contents."""
    if not isinstance(state, OptimizerState):
        raise TypeError(f"state: expected an OptimizerState, as init makes it, got {given(state)}")
    slots = dict(state.slots)
    beside: dict[str, Any] = {name: slots.pop(name) for name in ("decays", "steps_per_epoch") if name in slots}
    if slots.keys() != names:
        raise ValueError(f"state: expected the vectors {sorted(names)}, got {sorted(slots)}")
    return slots, beside


def _vector(values: Tree) -> tuple[Array, Callable[[Array], Tree]]:
    """Ravel a tree, float16 as float32, because the squares of most float16 numbers are 0 or infinite in float16."""
    vector, unravel = tree.ravel(values)
    if vector.dtype != np.float16:
        return vector, unravel
    return vector.astype(np.float32), lambda wide: unravel(wide.astype(np.float16))


def _decays(mask: Mask, params: Tree, dtype: Any) -> dict[str, Array]:
    """Return 1 for each number that decays and 0 for the others; nothing if all decay."""
    choice = _mask(mask, params)
    if all(tree.leaves(choice)):
        return {}
    return {"decays": tree.ravel(tree.map(lambda leaf, m: np.full(np.shape(leaf), m, dtype), params, choice))[0]}


def _decay(rate: float, params: Tree, grads: Tree, g: Array, beside: dict[str, Any]) -> Array:
    """Return ``rate · params`` as one vector, with 0 for numbers that do not decay."""
    _check_decay(params)
    p, _ = _vector(params)
    if p.shape != g.shape:
        check_fit("a gradient", grads, params)
    return rate * p * beside["decays"] if "decays" in beside else rate * p


def _squarable(g: Array) -> Array:
    """Clip the finite gradients if the sum of their squares, a single product of vectors, comes close to overflow."""
    largest = float(np.finfo(g.dtype).max)
    with np.errstate(over="ignore"):
        if np.dot(g, g) < 1e-6 * largest:
            return g
    limit = 1e-3 * math.sqrt(largest)
    clipped: Array = np.where(np.isfinite(g), np.clip(g, -limit, limit), g)
    return clipped


def _average(b: float, old: Array, new: Array) -> Array:
    average: Array = b * old + (1 - b) * new
    return average


def _eps(eps: float) -> float:
    """Return at least 1e-19: the squares of smaller gradients are 0 in float32, and 0 / 0 is no update."""
    return max(number("eps", eps), 1e-19)


# -------------------------------------------------------------------------------- transformations


def chain(*optimizers: Optimizer) -> Optimizer:
    """Compose optimizers: each one gets the updates of the one before. The state is the tuple of their states.

    >>> optimizer = chain(clip_by_global_norm(1.0), sgd(0.1))
    >>> params = {"w": np.array([0.0, 0.0])}
    >>> optimizer.update({"w": np.array([30.0, 40.0])}, optimizer.init(params), params)[0]
    {'w': array([-0.06, -0.08])}
    """
    for i, optimizer in enumerate(optimizers):
        check_optimizer(f"chain: position {i}", optimizer)

    def init(params: Tree) -> Any:
        return tuple(optimizer.init(params) for optimizer in optimizers)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        if not isinstance(state, tuple) or len(state) != len(optimizers):
            raise ValueError(f"state: expected a tuple of {len(optimizers)}, as init makes it, got {given(state)}")
        states = []
        for optimizer, s in zip(optimizers, state, strict=True):
            grads, s = optimizer.update(grads, s, params)
            states.append(s)
        return grads, tuple(states)

    return Optimizer(init, update)


def scale(factor: float) -> Optimizer:
    """Multiply by `factor`."""
    factor = number("factor", factor, "(-inf, inf)")
    return _stateless(lambda grads, params: _scaled(factor, grads))


def scale_by_schedule(schedule: Callable[[int], float]) -> Optimizer:
    """Multiply by ``schedule(count)``; the state is the count of steps made, or a `ScheduleState`."""
    checked_schedule("schedule", schedule, "(-inf, inf)")

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        tree.check_unmasked("grads", grads)
        count, steps_per_epoch = state if isinstance(state, ScheduleState) else (state, np.int64(0))
        factor = _value(schedule, _number_in(count), _number_in(steps_per_epoch))
        following = _int64(_number_in(count) + 1)
        return _scaled(factor, grads), (
            ScheduleState(following, steps_per_epoch) if isinstance(state, ScheduleState) else following
        )

    start = ScheduleState(np.int64(0), np.int64(0)) if isinstance(schedule, CountsEpochs) else np.int64(0)
    return Optimizer(lambda params: start, update)


def clip(max_delta: float) -> Optimizer:
    """Clip every number to [-max_delta, max_delta]; infinity becomes NaN, so that it does not pass unnoticed."""
    max_delta = number("max_delta", max_delta)

    def clipped(g: Array) -> Array:
        limit = min(max_delta, float(np.finfo(g.dtype).max)) if g.dtype.kind == "f" else max_delta
        kept: Array = np.clip(g, -limit, limit) + 0 * g
        return kept

    return _stateless(lambda grads, params: tree.map(lambda g: clipped(asarray(g)), grads))


def clip_by_global_norm(max_norm: float) -> Optimizer:
    """Scale all gradients together so that their Euclidean norm is at most `max_norm`.

    Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063.
    """
    max_norm = number("max_norm", max_norm)

    def clipped(grads: Tree, params: Tree) -> Tree:
        norm, largest = global_norm(grads), 1.0
        if norm == np.inf:  # the squares overflow, unless a gradient is infinite
            largest = max(_number_in(np.abs(g).max(initial=0)) for g in tree.leaves(grads))
            norm = global_norm(tree.map(lambda g: g / largest, grads)) if isfinite(largest) else norm
        factor = max_norm / largest / norm if norm > max_norm / largest else 1.0
        with np.errstate(over="ignore"):
            return _scaled(factor, grads)

    return _stateless(clipped)


@np.errstate(over="ignore")
def global_norm(values: Tree) -> float:
    """Return the Euclidean norm of all leaves together, computed in float64.

    >>> global_norm({"w": np.array([3.0]), "b": np.array([4.0])})
    5.0
    """
    tree.check_unmasked("values", values)
    return _sqrt(sum(np.square(leaf, dtype=np.float64).sum().item() for leaf in tree.leaves(values)))


def add_decayed_weights(weight_decay: float, mask: Mask | None = None) -> Optimizer:
    """Add ``weight_decay · params`` where `mask` is True; by default to all leaves but BatchNorm's statistics."""
    weight_decay = number("weight_decay", weight_decay)

    def decayed(grads: Tree, params: Tree) -> Tree:
        _check_decay(params)
        tree.check_unmasked("params", params)
        try:
            return tree.map(np.add, grads, _scaled(weight_decay, params))
        except ValueError:
            check_fit("a gradient", grads, params)
            raise

    return masked(_stateless(decayed), _learned if mask is None else mask)


def masked(inner: Optimizer, mask: Mask) -> Optimizer:
    """Apply `inner` to the leaves where `mask` is True, and leave the others unchanged.

    `mask` is a tree of booleans like the parameters, or a function from the parameters to such a tree; True or False in
    place of a dict or a list applies to all leaves below.

    >>> only_w = masked(scale(2.0), {"w": True, "b": False})
    >>> params = {"w": np.ones(1), "b": np.ones(1)}
    >>> only_w.update(params, only_w.init(params), params)[0]
    {'w': array([2.]), 'b': array([1.])}
    """
    check_optimizer("inner", inner)

    def pick(values: Tree, choice: Tree) -> Tree:
        return None if values is None else tree.map(lambda v, m: v if m else None, values, choice)

    def init(params: Tree) -> Any:
        return inner.init(pick(params, _mask(mask, params)))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        choice = _mask(mask, grads if params is None else params)
        updates, state = inner.update(pick(grads, choice), state, pick(params, choice))
        updated = iter(tree.leaves(updates))
        merged = [next(updated) if m else g for g, m in zip(tree.leaves(grads), tree.leaves(choice), strict=True)]
        return tree.unflatten(grads, merged), state

    return Optimizer(init, update)


def partition(optimizers: Mapping[Any, Optimizer], labels: Tree | Callable[[Tree], Tree]) -> Optimizer:
    """Apply to each leaf the optimizer that its label names. The state is the tuple of the optimizers' states.

    `labels` is a tree like the parameters, of keys of `optimizers`, or a function from the parameters to such a tree; a
    label in place of a dict or a list applies to all leaves below. ``scale(0.0)`` freezes a leaf. PyTorch: parameter
    groups.

    Raises ValueError, naming the leaf, for a label that is not a key of `optimizers`.

    >>> optimizer = partition({"fast": sgd(1.0), "frozen": scale(0.0)}, {"dense_0": "frozen", "dense_2": "fast"})
    >>> params = {"dense_0": {"w": np.ones(1), "b": np.ones(1)}, "dense_2": {"w": np.ones(1), "b": np.ones(1)}}
    >>> optimizer.update(params, optimizer.init(params), params)[0]["dense_2"]
    {'w': array([-1.]), 'b': array([-1.])}
    """
    if not isinstance(optimizers, Mapping):
        raise TypeError(f"optimizers: expected a dict from labels to optimizers, got {given(optimizers)}")
    for label, optimizer in optimizers.items():
        check_optimizer(f"optimizers[{label!r}]", optimizer)

    def labelled(label: Any) -> Callable[[Tree], Tree]:
        return lambda params: tree.map(lambda own: own == label, _spread("labels", labels, params, expected, known))

    def known(label: Any) -> bool:
        return isinstance(label, Hashable) and label in optimizers

    expected = f"one of {', '.join(map(repr, optimizers))}"
    return chain(*(masked(optimizer, labelled(label)) for label, optimizer in optimizers.items()))


def learning_rate(state: Any) -> float | None:
    """Return the learning rate in an optimizer's state: the last one used, or at first the one to start with.

    If the state has several rates, as that of a `chain` may, this is the first; `learning_rates` lists all. None if it
    has none.

    >>> learning_rate(chain(clip(1.0), adam(0.01)).init({"w": np.zeros(2)}))
    0.01
    """
    return next(iter(learning_rates(state)), None)


def learning_rates(state: Any) -> list[float]:
    """List the learning rates of all optimizers in a state, such as that of a `chain` or a `partition`.

    >>> learning_rates(chain(sgd(0.1), clip(1.0), adam(0.01)).init({"w": np.zeros(2)}))
    [0.1, 0.01]
    """
    rates: list[float] = []
    _map_states(lambda s: rates.append(float(s.learning_rate)), state, OptimizerState)
    return rates


def with_learning_rate(state: Any, value: float) -> Any:
    """Return a copy of the state with another learning rate. An optimizer with a schedule overwrites it again.

    >>> learning_rate(with_learning_rate(sgd(0.1).init({"w": np.zeros(2)}), 0.05))
    0.05
    """
    value = number("value", value)
    return _map_states(lambda s: s._replace(learning_rate=np.float64(value)), state, OptimizerState)


def with_steps_per_epoch(state: Any, steps_per_epoch: int | None) -> Any:
    """Return a copy of the state in which schedules that count epochs know how many steps an epoch has.

    `fit` calls it with the number of its batches; see `schedules.per_epoch`. A state without such a schedule is
    returned unchanged. With one, raises ValueError for None, which stands for an unknown number, and if steps have
    already been made in epochs of another length.

    >>> from fmlp import schedules
    >>> optimizer = sgd(schedules.per_epoch(schedules.exponential_lr(1.0, gamma=0.5)))
    >>> params = {"w": np.zeros(2)}
    >>> state = with_steps_per_epoch(optimizer.init(params), 3)
    >>> for _ in range(4):
    ...     _, state = optimizer.update(params, state, params)
    >>> learning_rate(state)
    0.5
    """
    if steps_per_epoch is not None:
        steps_per_epoch = integer("steps_per_epoch", steps_per_epoch, 1)

    def told(s: Any) -> Any:
        known = s.slots.get("steps_per_epoch") if isinstance(s, OptimizerState) else s.steps_per_epoch
        if known is None:
            return s
        if steps_per_epoch is None:
            raise ValueError(
                "steps_per_epoch: a schedule counts epochs, but the number of steps in an epoch is not known; give the "
                "batches a __len__, or let the schedule count steps"
            )
        if int(s.steps) and int(known) != steps_per_epoch:
            raise ValueError(
                f"steps_per_epoch: expected {int(known)}, as in the {int(s.steps)} steps made so far, got "
                f"{steps_per_epoch}; a schedule that counts epochs needs epochs of one length"
            )
        if isinstance(s, OptimizerState):
            return s._replace(slots=s.slots | {"steps_per_epoch": np.int64(steps_per_epoch)})
        return s._replace(steps_per_epoch=np.int64(steps_per_epoch))

    return _map_states(told, state, OptimizerState | ScheduleState)


def _map_states(f: Callable[[Any], Any], state: Any, kind: Any) -> Any:
    """Return a copy of a state with ``f(s)`` in place of each s of that kind."""
    if isinstance(state, kind):
        return f(state)
    if isinstance(state, dict):
        return {name: _map_states(f, child, kind) for name, child in state.items()}
    if isinstance(state, list | tuple):
        children = [_map_states(f, child, kind) for child in state]
        return type(state)(*children) if hasattr(state, "_fields") else type(state)(children)
    return state


# ---------------------------------------------------------------------------------------- helpers


def _moved(p: Any, update: Any) -> Array:
    moved = p + update
    if type(p) is np.ndarray is type(moved) and moved.dtype is p.dtype and moved.shape == p.shape:
        return moved
    if np.shape(moved) != np.shape(p):
        raise ValueError
    return asarray(unmasked("updates", moved), asarray(p).dtype)


@primitive
def _number_in(x: Any) -> Any:
    """Return the number in a scalar as a Python number, which does not upcast arrays."""
    return np.asarray(x).item()


@primitive
def _rate(learning_rate: LearningRate, count: int, last: np.float64, steps_per_epoch: np.int64) -> float:
    """Return the rate of this step: the schedule's, or else the last step's."""
    lr = rate(learning_rate, count, int(steps_per_epoch)) if callable(learning_rate) else float(last)
    return lr if type(lr) is float and 0 <= lr < inf else number(f"learning_rate({count})", lr)


@primitive
def _value(schedule: Callable[[int], float], count: int, steps_per_epoch: int) -> float:
    return float(rate(schedule, count, steps_per_epoch))


@primitive
def _sqrt(x: float) -> float:
    return math.sqrt(x)


@primitive
def _int64(x: int) -> np.int64:
    return np.int64(x)


@primitive
def _float64(x: float) -> np.float64:
    return np.float64(x)


def _check_decay(params: Tree) -> None:
    if params is None:
        raise ValueError("params: weight decay needs the parameters; call update(grads, state, params)")


def check_fit(what: str, values: Tree, params: Tree) -> None:
    """Raise ValueError, naming the path, if `values` do not fit the parameters."""
    if params is None:
        return
    tree.map(lambda p, v: None, params, values)
    for path, p, v in zip(tree.paths(params), tree.leaves(params), tree.leaves(values), strict=True):
        if np.shape(p) != np.shape(v):
            raise ValueError(f"{path or 'params'}: expected {what} of shape {np.shape(p)}, got {np.shape(v)}")


def _check_floats(params: Tree) -> None:
    for path, leaf in zip(tree.paths(params), tree.leaves(params), strict=True):
        if np.asarray(leaf).dtype.kind != "f":
            hint = "; init returns (shape, params)" if isinstance(params, tuple) and len(params) == 2 else ""
            where = f" in {path}" if path else ""
            raise TypeError(f"params: expected floating-point numbers, got {given(leaf)}{where}{hint}")


def _check_sizes(grads: Tree, params: Tree, g: Array, slots: dict[str, Any], *, first: bool) -> None:
    wrong = [name for name, slot in slots.items() if np.ndim(slot) and slot.shape != g.shape]
    if wrong or first:
        check_fit("a gradient", grads, params)
    for name in wrong:
        raise ValueError(f"state: {name} holds {slots[name].size} numbers, but there are {g.size} gradients")


def _scaled(factor: float, values: Tree) -> Tree:
    """Multiply the leaves, in float64 if the factor is too small or too large for their dtype."""
    dtypes = {asarray(leaf).dtype for leaf in tree.leaves(values)}
    wide = {dtype for dtype in dtypes if dtype.kind == "f" and _out_of_range(factor, dtype)}

    def times(leaf: Any) -> Any:
        dtype = asarray(leaf).dtype
        return np.multiply(factor, leaf, dtype=np.float64).astype(dtype) if dtype in wide else factor * leaf

    return tree.map(times, values)


@primitive
def _out_of_range(factor: float, dtype: np.dtype[Any]) -> bool:
    limits = np.finfo(dtype)
    return factor != 0 and dtype.itemsize < 8 and not float(limits.tiny) <= abs(factor) <= float(limits.max)


def _stateless(f: Callable[[Tree, Tree], Tree]) -> Optimizer:
    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        tree.check_unmasked("grads", grads)
        return f(grads, params), state

    return Optimizer(lambda params: (), update)


def _learned(params: Tree) -> Tree:
    """Return a mask that is True for all learned leaves, which are all but BatchNorm's statistics."""
    if isinstance(params, dict):
        leaves = {name for name, child in params.items() if not isinstance(child, dict | list | tuple)}
        statistics = STATISTICS if leaves >= STATISTICS else frozenset()
        return {name: name not in statistics and _learned(child) for name, child in params.items()}
    if isinstance(params, list | tuple):
        return tree._rebuild(params, [_learned(child) for child in params])
    return True


def _mask(mask: Mask, params: Tree) -> Tree:
    return _spread("mask", mask, params, "True or False", lambda value: isinstance(value, bool | np.bool_))


def _spread(name: str, values: Tree, params: Tree, expected: str, fits: Callable[[Any], bool]) -> Tree:
    """Return a value for each leaf of `params`, from a tree that may end early or a function to such a tree."""
    values = values(params) if callable(values) else values
    try:
        spread = tree.broadcast(values, params)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    for i, value in enumerate(tree.leaves(spread)):
        if not fits(value):
            wrong = ValueError if name == "labels" else TypeError
            raise wrong(f"{name}: expected {expected} for each leaf, got {given(value)} in {tree.paths(spread)[i]}")
    return spread


def check_optimizer(name: str, optimizer: Any) -> None:
    """Raise TypeError unless `optimizer` is an optimizer."""
    if not isinstance(optimizer, Optimizer):
        hint = f"; call it: {getattr(optimizer, '__name__', '')}(...)" if callable(optimizer) else ""
        raise TypeError(f"{name}: expected an optimizer, such as adam(), got {given(optimizer)}{hint}")
