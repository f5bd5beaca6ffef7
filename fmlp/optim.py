"""Optimizers: pairs of pure functions over trees of parameters.

``init(params) -> state`` and ``update(grads, state, params) -> (updates, state)``; `apply_updates` adds the updates to
the parameters. A transformation that only changes gradients, such as `clip_by_global_norm`, is the same kind of
pair, and `chain` composes them. The state is a tree, so it can be saved.

The optimizers of PyTorch's names follow PyTorch step by step. `learning_rate` is a number or a schedule, a function
from the count of steps made to a number; the last one used is in the state, where `learning_rate` finds it.

All raise ValueError for hyper-parameters out of range, and ValueError naming the path when gradients do not fit the
parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, sqrt
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fmlp import tree
from fmlp.tree import Array, Tree

LearningRate: TypeAlias = float | Callable[[int], float]
Mask: TypeAlias = Tree | Callable[[Tree], Tree]

__all__ = [
    "Optimizer",
    "OptimizerState",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "add_decayed_weights",
    "apply_updates",
    "chain",
    "clip",
    "clip_by_global_norm",
    "learning_rate",
    "lion",
    "masked",
    "nadam",
    "rmsprop",
    "scale",
    "scale_by_schedule",
    "sgd",
    "with_learning_rate",
]


class Optimizer(NamedTuple):
    """A pair of pure functions, ``init(params)`` and ``update(grads, state, params)``."""

    init: Callable[[Tree], Any]
    update: Callable[..., tuple[Tree, Any]]


class OptimizerState(NamedTuple):
    """The state of an optimizer: steps made, the learning rate last used, and its vectors by name."""

    steps: int
    learning_rate: float
    slots: dict[str, Any]


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Return ``params + updates``.

    >>> apply_updates({"w": np.array([1.0])}, {"w": np.array([-0.5])})
    {'w': array([0.5])}
    """
    return tree.map(np.add, params, updates)


# ------------------------------------------------------------------------------------- optimizers


def sgd(
    learning_rate: LearningRate = 1e-3,
    momentum: float = 0.0,
    *,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Stochastic gradient descent: ``b ← m b + (1 - d) g`` (b = g at first), direction b, or ``g + m b`` (nesterov).

    Sutskever, Martens, Dahl and Hinton 2013, "On the importance of initialization and momentum in deep learning".
    """
    _check_range("momentum", momentum, 0, 1)
    _check_range("dampening", dampening, 0, 1)
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError("nesterov: needs a momentum above 0 and a dampening of 0")
    if momentum == 0:
        return _descent(learning_rate, lambda g, t: (g, {}), weight_decay=weight_decay)

    def direction(g: Array, t: int, momentum_buffer: Array) -> Direction:
        b = g if t == 1 else momentum * momentum_buffer + (1 - dampening) * g
        return g + momentum * b if nesterov else b, {"momentum_buffer": b}

    return _descent(learning_rate, direction, {"momentum_buffer": 0.0}, weight_decay=weight_decay)


def adagrad(
    learning_rate: LearningRate = 1.0,
    *,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adagrad: ``s ← s + g²``, direction ``g / (√s + eps)``. Duchi, Hazan and Singer 2011, JMLR 12."""
    _check_range("initial_accumulator_value", initial_accumulator_value, 0)
    _check_range("eps", eps, 0)

    def direction(g: Array, t: int, sum: Array) -> Direction:
        s = sum + g * g
        return g / (np.sqrt(s) + eps), {"sum": s}

    return _descent(learning_rate, direction, {"sum": initial_accumulator_value}, weight_decay=weight_decay)


def adadelta(
    learning_rate: LearningRate = 1.0, *, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0
) -> Optimizer:
    """Adadelta: ``v ← ρ v + (1 - ρ) g²``, direction ``d = g √(a + eps) / √(v + eps)``, ``a ← ρ a + (1 - ρ) d²``.

    Zeiler 2012, arXiv 1212.5701.
    """
    _check_range("rho", rho, 0, 1, closed=True)
    _check_range("eps", eps, 0)

    def direction(g: Array, t: int, square_avg: Array, acc_delta: Array) -> Direction:
        v = rho * square_avg + (1 - rho) * g * g
        d = g * (np.sqrt(acc_delta + eps) / np.sqrt(v + eps))
        return d, {"square_avg": v, "acc_delta": rho * acc_delta + (1 - rho) * d * d}

    return _descent(learning_rate, direction, {"square_avg": 0.0, "acc_delta": 0.0}, weight_decay=weight_decay)


def rmsprop(
    learning_rate: LearningRate = 1e-2,
    *,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
) -> Optimizer:
    """RMSprop: ``v ← α v + (1 - α) g²``, direction ``d = g / (√v + eps)``, or ``b ← m b + d`` with momentum.

    `centered` takes ``√(v - ḡ²)``, ḡ the same average of g. Tieleman and Hinton 2012, lecture 6.5; Graves 2013,
    arXiv 1308.0850.
    """
    _check_range("alpha", alpha, 0, 1, closed=True)
    _check_range("eps", eps, 0)
    _check_range("momentum", momentum, 0, 1)

    def direction(g: Array, t: int, **slots: Array) -> Direction:
        new = {"square_avg": alpha * slots["square_avg"] + (1 - alpha) * g * g}
        v = new["square_avg"]
        if centered:
            new["grad_avg"] = alpha * slots["grad_avg"] + (1 - alpha) * g
            v = np.maximum(v - new["grad_avg"] ** 2, 0)
        d = g / (np.sqrt(v) + eps)
        if momentum:
            d = new["momentum_buffer"] = momentum * slots["momentum_buffer"] + d
        return d, new

    slots = ["square_avg"] + ["grad_avg"] * centered + ["momentum_buffer"] * (momentum > 0)
    return _descent(learning_rate, direction, dict.fromkeys(slots, 0.0), weight_decay=weight_decay)


def adam(
    learning_rate: LearningRate = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adam: ``m ← b₁ m + (1 - b₁) g``, ``v ← b₂ v + (1 - b₂) g²``, direction ``m̂ / (√v̂ + eps)``.

    m̂ = m / (1 - b₁ᵗ) and v̂ = v / (1 - b₂ᵗ). `weight_decay` adds ``weight_decay · params`` to the gradient (L2).

    Kingma and Ba 2015, arXiv 1412.6980.

    >>> optimizer = adam(0.1)
    >>> params = {"w": np.array([1.0, -1.0])}
    >>> updates, state = optimizer.update({"w": np.array([3.0, -0.2])}, optimizer.init(params), params)
    >>> apply_updates(params, updates)["w"].round(6)
    array([ 0.9, -0.9])
    """
    return _descent(learning_rate, _adam(b1, b2, eps), {"mu": 0.0, "nu": 0.0}, weight_decay=weight_decay)


def adamw(
    learning_rate: LearningRate = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 1e-2,
    mask: Mask | None = None,
) -> Optimizer:
    """Adam with decoupled weight decay: direction ``m̂ / (√v̂ + eps) + weight_decay · params``.

    `mask`, a tree of booleans or a function from the parameters to one, says which leaves decay; all by default.

    Loshchilov and Hutter 2019, arXiv 1711.05101.
    """
    slots = {"mu": 0.0, "nu": 0.0}
    return _descent(learning_rate, _adam(b1, b2, eps), slots, decoupled_decay=weight_decay, mask=mask)


def nadam(
    learning_rate: LearningRate = 2e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adam with Nesterov momentum: direction ``(μ' m / (1 - Π μ') + (1 - μ) g / (1 - Π)) / (√v̂ + eps)``.

    μ = b₁ (1 - 0.96^(t ψ) / 2) with ψ = `momentum_decay`, μ' the next step's, Π the product of all μ so far.

    Dozat 2016, "Incorporating Nesterov momentum into Adam".
    """
    _check_betas(b1, b2, eps)
    _check_range("momentum_decay", momentum_decay, 0)

    def momentum(t: int) -> float:
        return float(b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay)))

    def direction(g: Array, t: int, mu: Array, nu: Array, mu_product: float) -> Direction:
        m = b1 * mu + (1 - b1) * g
        v = b2 * nu + (1 - b2) * g * g
        now, following = momentum(t), momentum(t + 1)
        product = float(mu_product) * now
        numerator = following / (1 - product * following) * m + (1 - now) / (1 - product) * g
        return numerator / (np.sqrt(v / (1 - b2**t)) + eps), {"mu": m, "nu": v, "mu_product": product}

    return _descent(learning_rate, direction, {"mu": 0.0, "nu": 0.0}, {"mu_product": 1.0}, weight_decay=weight_decay)


def lion(
    learning_rate: LearningRate = 1e-4,
    b1: float = 0.9,
    b2: float = 0.99,
    *,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
) -> Optimizer:
    """Lion: direction ``sign(b₁ m + (1 - b₁) g) + weight_decay · params``, ``m ← b₂ m + (1 - b₂) g``.

    `mask` as in `adamw`. Chen et al. 2023, arXiv 2302.06675.
    """
    _check_betas(b1, b2, 0.0)

    def direction(g: Array, t: int, mu: Array) -> Direction:
        return np.sign(b1 * mu + (1 - b1) * g), {"mu": b2 * mu + (1 - b2) * g}

    return _descent(learning_rate, direction, {"mu": 0.0}, decoupled_decay=weight_decay, mask=mask)


# -------------------------------------------------------------------------------- transformations


def chain(*optimizers: Optimizer) -> Optimizer:
    """Compose: each gets the updates of the one before it. The state is the tuple of their states.

    >>> optimizer = chain(clip_by_global_norm(1.0), sgd(0.1))
    >>> params = {"w": np.array([0.0, 0.0])}
    >>> optimizer.update({"w": np.array([30.0, 40.0])}, optimizer.init(params), params)[0]
    {'w': array([-0.06, -0.08])}
    """
    for i, optimizer in enumerate(optimizers):
        _check_optimizer(f"chain: position {i}", optimizer)

    def init(params: Tree) -> Any:
        return tuple(optimizer.init(params) for optimizer in optimizers)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        states = []
        for optimizer, s in zip(optimizers, state, strict=True):
            grads, s = optimizer.update(grads, s, params)
            states.append(s)
        return grads, tuple(states)

    return Optimizer(init, update)


def scale(factor: float) -> Optimizer:
    """Multiply by `factor`."""
    return _stateless(lambda grads, params: tree.map(lambda g: factor * g, grads))


def scale_by_schedule(schedule: Callable[[int], float]) -> Optimizer:
    """Multiply by ``schedule(count)``; the state is the count of steps made."""

    def update(grads: Tree, state: int, params: Tree = None) -> tuple[Tree, int]:
        factor = float(schedule(int(state)))
        return tree.map(lambda g: factor * g, grads), int(state) + 1

    return Optimizer(lambda params: 0, update)


def clip(max_delta: float) -> Optimizer:
    """Clip every number to [-max_delta, max_delta]."""
    _check_range("max_delta", max_delta, 0)
    return _stateless(lambda grads, params: tree.map(lambda g: np.clip(g, -max_delta, max_delta), grads))


def clip_by_global_norm(max_norm: float) -> Optimizer:
    """Scale all gradients together so that their Euclidean norm is at most `max_norm`.

    Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063.
    """
    _check_range("max_norm", max_norm, 0)

    def clipped(grads: Tree, params: Tree) -> Tree:
        squares = (np.square(g, dtype=np.float64).sum() for g in tree.leaves(grads))
        norm = sqrt(sum(map(float, squares)))
        factor = max_norm / norm if norm > max_norm else 1.0
        return tree.map(lambda g: factor * g, grads)

    return _stateless(clipped)


def add_decayed_weights(weight_decay: float, mask: Mask | None = None) -> Optimizer:
    """Add ``weight_decay · params``, to the leaves that `mask` names, or to all."""
    _check_range("weight_decay", weight_decay, 0)
    decay = _stateless(lambda grads, params: tree.map(lambda g, p: g + weight_decay * p, grads, params))
    return decay if mask is None else masked(decay, mask)


def masked(inner: Optimizer, mask: Mask) -> Optimizer:
    """Apply `inner` to the leaves where `mask` is True, and hand the others on as they are.

    `mask` is a tree of booleans like the parameters, or a function from the parameters to one.

    >>> only_w = masked(scale(2.0), {"w": True, "b": False})
    >>> params = {"w": np.ones(1), "b": np.ones(1)}
    >>> only_w.update(params, only_w.init(params), params)[0]
    {'w': array([2.]), 'b': array([1.])}
    """
    _check_optimizer("inner", inner)

    def chosen(values: Tree) -> list[bool]:
        return [bool(m) for m in tree.leaves(_mask(mask, values))]

    def pick(values: Tree, choice: list[bool]) -> list[Any] | None:
        return None if values is None else [v for v, m in zip(tree.leaves(values), choice, strict=True) if m]

    def init(params: Tree) -> Any:
        return inner.init(pick(params, chosen(params)))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        choice = chosen(grads if params is None else params)
        updates, state = inner.update(pick(grads, choice), state, pick(params, choice))
        updated = iter(tree.leaves(updates))
        merged = [next(updated) if m else g for g, m in zip(tree.leaves(grads), choice, strict=True)]
        return tree.unflatten(grads, merged), state

    return Optimizer(init, update)


def learning_rate(state: Any) -> float | None:
    """Return the learning rate last used, or first to be used, by the optimizer whose state this is; None without one.

    >>> learning_rate(chain(clip(1.0), adam(0.01)).init({"w": np.zeros(2)}))
    0.01
    """
    if isinstance(state, OptimizerState):
        return float(state.learning_rate)
    if isinstance(state, list | tuple):
        return next((lr for lr in map(learning_rate, state) if lr is not None), None)
    return None


def with_learning_rate(state: Any, value: float) -> Any:
    """Return a copy of the state with another learning rate; a schedule, where there is one, sets its own again.

    >>> learning_rate(with_learning_rate(sgd(0.1).init({"w": np.zeros(2)}), 0.05))
    0.05
    """
    _check_range("value", value, 0)
    if isinstance(state, OptimizerState):
        return state._replace(learning_rate=float(value))
    if isinstance(state, tuple):
        return tuple(with_learning_rate(s, value) for s in state)
    return state


# ---------------------------------------------------------------------------------------- helpers

Direction: TypeAlias = tuple[Array, dict[str, Any]]


def _descent(
    learning_rate: LearningRate,
    direction: Callable[..., Direction],
    slots: dict[str, float] | None = None,
    scalars: dict[str, float] | None = None,
    *,
    weight_decay: float = 0.0,
    decoupled_decay: float = 0.0,
    mask: Mask | None = None,
) -> Optimizer:
    """Make an optimizer from ``direction(g, t, **slots) -> (d, slots)``, an element-wise formula for step t = 1, 2, ….

    The formula gets all gradients as one vector, for a NumPy call costs the same on few numbers as on many.
    """
    _check_range("weight_decay", weight_decay + decoupled_decay, 0)
    if not callable(learning_rate):
        _check_range("learning_rate", learning_rate, 0)

    def init(params: Tree) -> OptimizerState:
        p, _ = tree.ravel(params)
        initial: dict[str, Any] = {name: np.full_like(p, value) for name, value in (slots or {}).items()}
        initial |= scalars or {}
        if mask is not None:
            decays = tree.map(lambda leaf, m: np.full(np.shape(leaf), m, p.dtype), params, _mask(mask, params))
            initial["decays"], _ = tree.ravel(decays)
        lr = learning_rate(0) if callable(learning_rate) else learning_rate
        return OptimizerState(0, float(lr), initial)

    def update(grads: Tree, state: OptimizerState, params: Tree = None) -> tuple[Tree, OptimizerState]:
        count = int(state.steps)
        lr = float(learning_rate(count) if callable(learning_rate) else state.learning_rate)
        g, unravel = tree.ravel(grads)
        slots = dict(state.slots)
        decays = slots.pop("decays", 1.0)
        if weight_decay or decoupled_decay:
            p = _vector_like(grads, g, params)
        if weight_decay:
            g = g + weight_decay * p
        d, slots = direction(g, count + 1, **slots)
        if decoupled_decay:
            d = d + decoupled_decay * (decays * p)
        if mask is not None:
            slots["decays"] = decays
        return unravel(-lr * d), OptimizerState(count + 1, lr, slots)

    return Optimizer(init, update)


def _adam(b1: float, b2: float, eps: float) -> Callable[..., Direction]:
    _check_betas(b1, b2, eps)

    def direction(g: Array, t: int, mu: Array, nu: Array) -> Direction:
        m = b1 * mu + (1 - b1) * g
        v = b2 * nu + (1 - b2) * g * g
        return m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps), {"mu": m, "nu": v}

    return direction


def _vector_like(grads: Tree, g: Array, params: Tree) -> Array:
    if params is None:
        raise ValueError("params: weight decay needs them; call update(grads, state, params)")
    p, _ = tree.ravel(params)
    if p.shape != g.shape:
        _check_fit(grads, params)
    return p


def _check_fit(grads: Tree, params: Tree) -> None:
    tree.map(lambda p, g: None, params, grads)
    for path, p, g in zip(tree.paths(params), tree.leaves(params), tree.leaves(grads), strict=True):
        if np.shape(p) != np.shape(g):
            raise ValueError(f"{path}: expected a gradient of shape {np.shape(p)}, got {np.shape(g)}")


def _stateless(f: Callable[[Tree, Tree], Tree]) -> Optimizer:
    return Optimizer(lambda params: (), lambda grads, state, params=None: (f(grads, params), state))


def _mask(mask: Mask, params: Tree) -> Tree:
    return mask(params) if callable(mask) else mask


def _check_optimizer(name: str, optimizer: Any) -> None:
    if not isinstance(optimizer, tuple) or len(optimizer) != 2:
        given = getattr(optimizer, "__name__", repr(optimizer))
        hint = f"; call it: {given}(...)" if callable(optimizer) else ""
        raise TypeError(f"{name}: expected an optimizer, got {given}{hint}")


def _check_betas(b1: float, b2: float, eps: float) -> None:
    _check_range("b1", b1, 0, 1)
    _check_range("b2", b2, 0, 1)
    _check_range("eps", eps, 0)


def _check_range(name: str, value: float, low: float, high: float = np.inf, *, closed: bool = False) -> None:
    if not isinstance(value, int | float | np.number) or not (
        low <= value and (value < high or (closed and value == high))
    ):
        bounds = f"at least {low}" if high == np.inf else f"in [{low}, {high}{']' if closed else ')'}"
        raise ValueError(f"{name}: expected a number {bounds}, got {value!r}")
    if not isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
