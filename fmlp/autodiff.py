"""Functions that carry their own derivative.

There is no tape and no tracing. A differentiable function is written once, as a *rule* that returns the value together
with its pullback, the vector-Jacobian product: a function from the cotangent of the result to the cotangents of the
arguments. Functions are composed by composing their rules, by the chain rule.

The pullback gives one cotangent for each positional argument, in order. A pullback that is a generator computes only
the cotangents that are used: the derivative with respect to the data costs nothing if it is not needed.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from fmlp import random, tree
from fmlp.arguments import function, given, number
from fmlp.recording import asarray
from fmlp.tree import Array, Tree

__all__ = [
    "Differentiable",
    "Pullback",
    "check_vjp",
    "differentiable",
    "grad",
    "objective",
    "value_and_grad",
    "vjp",
]

P = ParamSpec("P")
Y = TypeVar("Y")
Pullback = Callable[[Any], Iterable[Any]]


class Differentiable(Generic[P, Y]):
    """A function that carries its vjp; made by `differentiable`.

    ``f(*args)`` returns the value, ``f.rule(*args)`` the value and the pullback. `value`, if given, is a function that
    computes the value alone with less memory.
    """

    __name__: str
    children: Mapping[str, Any] = MappingProxyType({})
    """For the `apply` of a combinator, its layers by name."""
    settings: Mapping[str, Any] = MappingProxyType({})
    """For the `apply` of a layer, the constructor's arguments that the formula uses: ``{"eps": 1e-05}``."""

    row_weights: Callable[..., Any] = staticmethod(lambda y, weight, **settings: weight)
    """For a loss, ``row_weights(y, weight)`` returns the weight of each row in its average, which may depend on y."""

    def __init__(self, rule: Callable[P, tuple[Y, Pullback]], value: Callable[P, Y] | None = None) -> None:
        functools.update_wrapper(self, function("rule", rule, "a function that returns (value, pullback)"))
        self.rule = rule
        self.value = value

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Y:
        """Return the value of the function."""
        if self.value:
            return self.value(*args, **kwargs)
        y: Y = _pair(self, self.rule(*args, **kwargs))[0]
        return y

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle a module's differentiable function by its name, like other functions."""
        module = sys.modules.get(self.__module__)
        if self.__module__ != "__main__" and getattr(module, self.__name__, None) is self:
            return self.__name__
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        """Show the name, like a function."""
        return f"<differentiable {self.__module__}.{self.__name__}>"


def differentiable(rule: Callable[P, tuple[Y, Pullback]]) -> Differentiable[P, Y]:
    """Make a differentiable function from its rule: the formula and, next to it, the vjp.

    ``rule(*args, **kwargs)`` returns ``(y, pullback)``. ``pullback(dy)`` returns or yields one cotangent for each
    positional argument, a tree like that argument, or None if it has no derivative, as for labels. Keyword arguments
    are constants. Check your own rules with `check_vjp`.

    >>> @differentiable
    ... def cube(x):
    ...     def pullback(dy):
    ...         yield dy * 3 * x**2
    ...     return x**3, pullback
    >>> cube(2.0)
    8.0
    >>> grad(cube)(2.0)
    12.0
    """
    return Differentiable(rule)


def rule_of(f: Callable[..., Any], asker: str = "vjp") -> Callable[..., tuple[Any, Pullback]]:
    """Return the rule of a differentiable function, or of a `functools.partial` of one.

    Arguments that a partial has bound are constants. Raises TypeError, naming `f`, when it is not differentiable.
    """
    if isinstance(f, Differentiable):
        return f.rule
    if isinstance(f, functools.partial):
        rule = functools.partial(rule_of(f.func, asker), *f.args, **f.keywords)
        return _without_first(len(f.args), rule) if f.args else rule
    if callable(getattr(f, "apply", None)):  # a layer
        raise TypeError(f"{asker}: expected a differentiable function, got a {type(f).__name__}; pass its apply")
    if not callable(f):
        raise TypeError(f"{asker}: expected a differentiable function, got {given(f)}")
    name = getattr(f, "__qualname__", None) or getattr(f, "__name__", None) or repr(f)
    raise TypeError(
        f"{asker}: {name} has no vjp. Make it differentiable: decorate its rule, which returns "
        "(value, pullback), with fmlp.differentiable"
    )


def row_weights_of(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of y and weight that gives each row's weight in the average `f`; None if all are one."""
    if isinstance(f, functools.partial):
        settings = {name: value for name, value in f.keywords.items() if name != "weight"}
        return functools.partial(row_weights_of(f.func), **settings)
    weights: Callable[..., Any] = getattr(f, "row_weights", Differentiable.row_weights)
    return weights


def batch_weight(f: Callable[..., Any], y: Any, weight: Any) -> float:
    """Return a batch's weight in an average of losses: its number of rows, or the sum of their weights."""
    w = row_weights_of(f)(y, weight)
    return float(len(y) if w is None else np.sum(w))


def half_in_single(rule: Callable[P, tuple[Y, Pullback]]) -> Callable[P, tuple[Y, Pullback]]:
    """Make a rule compute in float32 when its first argument is float16."""
    single = in_single(rule)

    @functools.wraps(rule)
    def either(*args: P.args, **kwargs: P.kwargs) -> tuple[Y, Pullback]:
        half = args and getattr(args[0], "dtype", None) == _HALF
        return (single if half else rule)(*args, **kwargs)

    return either


def in_single(rule: Callable[P, tuple[Y, Pullback]]) -> Callable[P, tuple[Y, Pullback]]:
    """Make a rule compute in float32 and return float16, in which numbers that are too large become infinite.

    NumPy rounds to float16 after every step, and a sum or a square would soon overflow.
    """

    def narrow(values: Tree) -> Any:
        with np.errstate(over="ignore"):
            return tree.map(lambda leaf: asarray(leaf, _HALF)[()], values)

    def single(*args: P.args, **kwargs: P.kwargs) -> tuple[Y, Pullback]:
        y, pullback = rule(*tree.cast(args, np.float32), **kwargs)
        return narrow(y), lambda dy: map(narrow, pullback(tree.cast(dy, np.float32)))

    return single


_HALF = np.dtype(np.float16)


def unbound(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of which `f` is a `functools.partial`, or `f` itself."""
    while isinstance(f, functools.partial):
        f = f.func
    return f


def call_loss(loss: Callable[..., Any], prediction: Any, y: Any, weight: Any) -> Any:
    """Call a loss, or its rule; without a weight, the loss need not accept one."""
    return loss(prediction, y) if weight is None else loss(prediction, y, weight=weight)


def check_output(apply: Callable[..., Any], loss: Callable[..., Any]) -> None:
    """Raise ValueError if a network ends with what the loss computes itself, as `losses.Loss.check_network` says."""
    getattr(unbound(loss), "check_network", lambda apply: None)(apply)


def _pair(f: Callable[..., Any], returned: Any) -> tuple[Any, Pullback]:
    """Return the result of a rule, which must be (value, pullback)."""
    if type(returned) is not tuple or len(returned) != 2 or not callable(returned[1]):
        name = getattr(f, "__name__", repr(f))
        raise TypeError(f"{name}: expected its rule to return (value, pullback), got {given(returned)}")
    return returned


def _without_first(n: int, rule: Callable[..., tuple[Any, Pullback]]) -> Callable[..., tuple[Any, Pullback]]:
    """Drop the first n cotangents."""

    def dropping(*args: Any, **kwargs: Any) -> tuple[Any, Pullback]:
        y, pullback = rule(*args, **kwargs)
        return y, lambda dy: itertools.islice(pullback(dy), n, None)

    return dropping


def vjp(f: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Evaluate `f` and return its vector-Jacobian product: ``y, pullback = vjp(f, *args)``.

    ``pullback(dy)`` maps a cotangent `dy`, a tree like ``y``, to the tuple of ``dyᵀ ∂f/∂arg`` for the
    positional arguments, each a tree like its argument.

    Raises TypeError when `f` has no vjp; `pullback` raises ValueError when `dy` is not a tree like ``y``.

    >>> from fmlp import activations
    >>> y, pullback = vjp(activations.tanh, np.array([0.0]))
    >>> pullback(np.array([1.0]))
    (array([1.]),)
    """
    y, pullback = _pair(f, rule_of(f)(*args, **kwargs))

    def checked(dy: Any) -> tuple[Any, ...]:
        tree.map(_check_cotangent, y, dy)
        return tuple(pullback(dy))

    return y, checked


def _check_cotangent(y: Any, dy: Any) -> None:
    if np.shape(y) != np.shape(dy):
        raise ValueError(f"dy: expected the shape of the result, {np.shape(y)}, got {np.shape(dy)}")


def value_and_grad(f: Callable[..., Any]) -> Callable[..., tuple[Any, Tree]]:
    """Turn a scalar function into one that returns its value and its gradient.

    ``value_and_grad(f)(params, *args, **kwargs) -> (f(...), df/dparams)``: the gradient is taken with respect to
    the first argument and is a tree like it.

    Raises TypeError when `f` has no vjp, ValueError when its value is not a scalar.
    """
    rule = rule_of(f, "value_and_grad")

    def evaluate(*args: Any, **kwargs: Any) -> tuple[Any, Tree]:
        y, pullback = _pair(f, rule(*args, **kwargs))
        if np.ndim(y) != 0:
            name = getattr(f, "__name__", repr(f))
            raise ValueError(f"value_and_grad: {name} must return a scalar, got shape {np.shape(y)}")
        one = y.dtype.type(1) if isinstance(y, np.generic | np.ndarray) else 1.0
        return y, next(iter(pullback(one)))

    return evaluate


def grad(f: Callable[..., Any]) -> Callable[..., Tree]:
    """Turn a scalar function into its gradient with respect to the first argument.

    Raises the errors of `value_and_grad`.

    >>> from fmlp import losses
    >>> grad(losses.mse)(np.array([[3.0]]), np.array([[1.0]]))
    array([[4.]])
    """
    both = value_and_grad(f)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def objective(apply: Callable[..., Any], loss: Callable[..., Any]) -> Differentiable[..., Any]:
    """Compose a network and a loss into the function that training minimizes.

    Returns a differentiable ``(params, x, y, *, key=None, weight=None, train=True) -> scalar``, the loss of
    ``apply(params, x, train=train, key=key)`` against `y` with the per-row `weight`.

    Raises TypeError when `apply` or `loss` has no vjp, ValueError when the network ends with probabilities and the
    loss takes logits.

    >>> from fmlp import layers, losses
    >>> net = layers.Dense(1, bias=False)
    >>> f = objective(net.apply, losses.mse)
    >>> value_and_grad(f)({"w": np.array([[2.0]])}, np.array([[3.0]]), np.array([[5.0]]))
    (np.float64(1.0), {'w': array([[6.]])})
    """
    apply_rule, loss_rule = rule_of(apply, "apply"), rule_of(loss, "loss")
    check_output(apply, loss)

    @differentiable
    def objective(
        params: Tree, x: Any, y: Any, *, key: random.Key | None = None, weight: Any = None, train: Any = True
    ) -> tuple[Any, Pullback]:
        prediction, apply_pullback = apply_rule(params, x, train=train, key=key)
        value, loss_pullback = call_loss(loss_rule, prediction, y, weight)
        if np.ndim(value) != 0:
            raise ValueError(f"loss: expected it to return a number, got shape {np.shape(value)}")

        def pullback(d: Any) -> Iterator[Any]:
            cotangent = next(iter(loss_pullback(d)))
            if isinstance(prediction, np.ndarray):  # keeps the network's dtype even if a loss computed in float64
                cotangent = asarray(cotangent, prediction.dtype)
            yield from apply_pullback(cotangent)
            yield None

        return value, pullback

    objective.row_weights = row_weights_of(loss)
    return objective


def check_vjp(
    f: Callable[..., Any],
    *args: Any,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    step: float = 1e-3,
    seed: int = 0,
    **kwargs: Any,
) -> None:
    """Check the vjp of ``f(*args, **kwargs)`` against central differences, in float64.

    For every floating-point leaf θ of the arguments, and random directions u and v, this compares
    ``⟨pullback(v)_θ, u⟩`` with ``⟨v, ∂f/∂θ u⟩``. The latter is computed by the five-point formula
    ``(8 (f(θ+hu) - f(θ-hu)) - (f(θ+2hu) - f(θ-2hu))) / 12h`` with h = `step`, whose error is of order h⁴. All leaves
    are first cast to float64. Arguments whose cotangent is None are constants. Keep the leaves at least 2h away from
    kinks, because |u| ≤ 1 element-wise.

    Raises AssertionError, naming the leaf and both numbers, when they differ by more than
    ``atol + rtol · (scale of the sum)``, or when a cotangent's structure or shape is not that of its argument;
    TypeError when `f` has no vjp; ValueError for an invalid tolerance or when no argument holds a floating-point
    number.

    >>> from fmlp import activations
    >>> check_vjp(activations.gelu, np.linspace(-3, 3, 7))
    """
    number("rtol", rtol), number("atol", atol), number("step", step, "(0, inf)")
    generator = random.generator(random.key(seed))

    def direction(leaf: Any) -> Any:
        return np.asarray(generator.uniform(-1, 1, np.shape(leaf)))

    args = tree.cast(args, np.float64)
    if not any(np.asarray(leaf).dtype.kind == "f" for leaf in tree.leaves(args)):
        raise ValueError("args: expected at least one floating-point number to move, got none")
    y, pullback = vjp(f, *args, **kwargs)
    v = tree.map(direction, y)
    cotangents = pullback(v)
    if len(cotangents) != len(args):
        raise AssertionError(f"expected {len(args)} cotangents, one per positional argument, got {len(cotangents)}")
    for i, (arg, cotangent) in enumerate(zip(args, cotangents, strict=True)):
        try:
            values, derivatives = tree.leaves(arg), _cotangents(arg, cotangent)
        except ValueError as error:
            raise AssertionError(f"argument {i}, {error} as its cotangent") from None
        for j, (path, leaf, derivative) in enumerate(zip(tree.paths(arg), values, derivatives, strict=True)):
            if derivative is None or np.asarray(leaf).dtype.kind != "f":
                continue
            where = f"argument {i}" + (f", {path}" if path else "")
            if np.shape(derivative) != np.shape(leaf):
                raise AssertionError(f"{where}: shape {np.shape(leaf)}, but its cotangent has {np.shape(derivative)}")
            u = direction(leaf)

            def moved(h: float, i: int = i, j: int = j, u: Array = u, values: list[Any] = values) -> list[Any]:
                shifted = tree.unflatten(args[i], [v + h * u if k == j else v for k, v in enumerate(values)])
                return tree.leaves(f(*args[:i], shifted, *args[i + 1 :], **kwargs))

            terms = [
                vk * (8 * (a - b) - (c - d)) / (12 * step)
                for vk, a, b, c, d in zip(
                    tree.leaves(v), moved(step), moved(-step), moved(2 * step), moved(-2 * step), strict=True
                )
            ]
            numeric = sum(float(np.sum(t)) for t in terms)
            exact = float(np.sum(derivative * u))
            scale = sum(float(np.sum(np.abs(t))) for t in terms)
            if not abs(exact - numeric) <= atol + rtol * scale:
                raise AssertionError(f"{where}: the vjp gives {exact!r}, central differences {numeric!r}")


def _cotangents(arg: Tree, cotangent: Tree) -> list[Any]:
    """List the cotangents of the leaves of `arg`; None, in place of a leaf or a subtree, marks constants."""
    if cotangent is None:
        return [None] * len(tree.leaves(arg))
    if isinstance(arg, tuple | list) and type(cotangent) is type(arg) and len(cotangent) == len(arg):
        return [d for pair in zip(arg, cotangent, strict=True) for d in _cotangents(*pair)]
    tree.map(lambda leaf, d: None, arg, cotangent)
    return tree.leaves(cotangent)
