"""The descent: one step of an optimizer for each batch, as a generator to loop over.

One step is

    loss, grads = value_and_grad(objective)(params, x, y, key=key, weight=weight)
    updates, state = optimizer.update(grads, state, params)
    params = apply_updates(params, updates)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np

from fmlp import optim, random, tree
from fmlp.distributed import Alone, Batch, group_of
from fmlp.jit import kept
from fmlp.optim import Optimizer
from fmlp.random import Key
from fmlp.tree import Array, Tree

__all__ = ["NonFiniteError", "Step", "descent"]

# `NonFiniteError` reports what NumPy would warn about.
QUIET: dict[str, Any] = {"over": "ignore", "invalid": "ignore", "divide": "ignore"}


class Step(NamedTuple):
    """What a step has reached."""

    params: Tree
    state: Any
    """The optimizer's state."""
    loss: float
    """The batch's, before the step."""
    weight: float
    """The batch's: its rows, or the sum of their weights."""


class NonFiniteError(ValueError):
    """Training met a loss, gradient or parameter that is infinite or NaN; `params` are the last good ones."""

    def __init__(self, message: str, params: Tree) -> None:
        super().__init__(message)
        self.params = params

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it come back from another process."""
        return type(self), (str(self), self.params)


def descent(
    objective: Callable[..., Any],
    optimizer: Optimizer,
    params: Tree,
    state: Any,
    batches: Iterable[Any],
    key: Key,
    *,
    skip: int = 0,
    donate: bool = False,
    comm: Any = None,
) -> Iterator[Step]:
    """Take a step of `optimizer` for each of `batches`, and yield a `Step` after each.

    `objective` is what `fmlp.objective` makes, `batches` are `Batch` or tuples ``(x, y)`` or ``(x, y, weight)``. Each
    step gets a key of its own, made of `key`. The first `skip` batches are passed over with their keys, to continue
    where an earlier descent stopped. With `donate`, a step may write its results into the memory of those of two steps
    before, which is faster: use only the last two. With `comm`, each rank passes its parts of the batches, and
    `objective` is made by `fmlp.distributed.objective`.

    Raises `NonFiniteError`, which names the step and the leaf, for a loss that is not finite, and after the last step
    for parameters that are not.

    >>> from fmlp import objective, losses, optim
    >>> from fmlp.layers import Dense
    >>> f, optimizer = objective(Dense(1, bias=False).apply, losses.mse), optim.sgd(0.25)
    >>> params = {"w": np.array([[0.0]])}
    >>> data = [(np.ones((1, 1)), np.ones((1, 1)))] * 3
    >>> for step in descent(f, optimizer, params, optimizer.init(params), data, random.key(0)):
    ...     print(step.loss, step.params["w"])
    1.0 [[0.5]]
    0.25 [[0.75]]
    0.0625 [[0.875]]
    """
    group = group_of(comm)
    leaves = tuple((path, np.shape(leaf), str(np.asarray(leaf).dtype)) for path, leaf in tree.named_leaves(params))
    planned = kept(objective, (optimizer.update, comm), lambda: Planned(group, objective, optimizer, params), *leaves)
    return planned.steps(params, state, batches, key, skip=skip, donate=donate)


class Planned:
    """The steps of an optimizer on an objective, for parameters like `params`; their plans live as long as this.

    The parameters are parts of one vector if they have one dtype, so that an update is one addition.
    """

    def __init__(self, group: Alone, objective: Callable[..., Any], optimizer: Optimizer, params: Tree) -> None:
        pack, unpack = _packing(params)

        def update(packed: Any, params: Tree, state: Any, loss: Any, grads: Tree) -> tuple[Any, ...]:
            if not np.isfinite(loss):
                raise _LossError(loss)
            updates, state = optimizer.update(grads, state, params)
            packed = optim.apply_updates(packed, pack(updates))
            return loss, packed, unpack(packed), state

        self.group, self.pack, self.gradient = group, pack, group.value_and_grad(objective)
        self.step = group.step(objective, unpack, update)

    def steps(
        self, params: Tree, state: Any, batches: Iterable[Any], key: Key, *, skip: int, donate: bool
    ) -> Iterator[Step]:
        """Yield each step, as `descent` says."""
        now, before, i = (self.pack(params), state), None, skip - 1
        for i, (batch, step_key) in enumerate(islice(zip(batches, _keys(key), strict=False), skip, None), skip):
            batch = batch if type(batch) is Batch else Batch(*batch)
            spare = None
            if donate:  # the caller's own arrays are never written to
                spare = before[0] if before and i > skip + 1 else tree.map(_memory, now)
            try:
                with np.errstate(**QUIET):
                    (loss, packed, reached, state), weight = self.step(spare, *now, batch, step_key)
            except _LossError as error:
                raise self._error(i, error.args[0], params, before) from None
            now, before, params = (packed, state), (now, params, batch, step_key), reached
            yield Step(params, state, float(loss), weight)
        if first_non_finite(params):
            raise self._error(i + 1, None, params, before)

    def _error(self, step: int, loss: Any, params: Tree, before: Any) -> BaseException:
        return self.group.agreed(_non_finite(step, loss, params, before, self.gradient))


class _LossError(ArithmeticError):
    """The loss of a step, its argument, is not finite."""


def _packing(params: Tree) -> tuple[Callable[[Tree], Any], Callable[[Any], Tree]]:
    """Return the functions that make a vector of trees like `params`, and a tree of views of a vector.

    If the parameters are not all arrays of one dtype, both functions change nothing.
    """
    leaves = tree.leaves(params)
    if not leaves or not all(type(leaf) is np.ndarray and leaf.dtype is leaves[0].dtype for leaf in leaves):
        return lambda values: values, lambda packed: packed
    _, unpack = tree.ravel(params)

    def pack(values: Tree) -> Array:
        optim.check_fit("an update", values, params)
        return tree.ravel(values)[0]

    return pack, unpack


def _memory(leaf: Any) -> Any:
    if not isinstance(leaf, np.ndarray):
        return leaf
    return tree.aligned(leaf.size, leaf.dtype) if leaf.ndim == 1 else np.empty_like(leaf)


def _keys(key: Key) -> Iterator[Key]:
    for block in count():
        yield from random.split(random.fold_in(key, block), 256)


def first_non_finite(values: Tree) -> str | None:
    """Return the path of the first leaf that holds a NaN or an infinity."""
    return next((path for path, leaf in tree.named_leaves(values) if not np.isfinite(leaf).all()), None)


def _non_finite(step: int, loss: Any, params: Tree, before: Any, gradient: Callable[..., Any]) -> NonFiniteError:
    """Find out what went wrong first: the gradient of the step before, its update, or this step's loss."""
    leaf = first_non_finite(params)
    if before and leaf:
        _, earlier, batch, key = before
        with np.errstate(**QUIET):
            _, grads, _ = gradient(earlier, batch, key)
        if of_gradient := first_non_finite(grads):
            return NonFiniteError(f"step {step - 1}: the gradient of {of_gradient} is not finite", earlier)
        return NonFiniteError(
            f"step {step - 1}: the update made {leaf} infinite; is the learning rate too high?", earlier
        )
    if leaf:
        return NonFiniteError(f"step {step}: the loss is {loss}, because {leaf} is not finite", params)
    largest = {path: np.abs(leaf).max(initial=0) for path, leaf in tree.named_leaves(params)}
    path = max(largest, key=largest.__getitem__)
    return NonFiniteError(
        f"step {step}: the loss is {loss} though all parameters are finite; the largest is {largest[path]:.3g}, in "
        f"{path}: is the learning rate too high, or is there a NaN, an infinity or a number too large in the data?",
        params,
    )
