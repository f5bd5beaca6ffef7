"""Data-parallel training over MPI: the functional pieces, turned into their forms over the ranks of a communicator.

Every rank runs the same program on rows of its own. A gradient is a pure function of parameters and a batch, so where
each rank has a part of a batch, the gradient of the whole is the mean of the parts', weighted by rows: one
``Allreduce`` of one vector a step. `fit` does all of it with ``comm``:

    comm = fmlp.distributed.world()
    result = fmlp.fit(net, params, (x, y), ..., comm=comm)    # mpiexec -n 2 python train.py

and a loop of your own uses `objective` and `value_and_grad` from here in place of those of `fmlp`. What is
passed as `comm` is a communicator of mpi4py (``pip install 'fmlp[mpi]'``), or anything with its methods.
"""

from __future__ import annotations

import atexit
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from fmlp import autodiff, tree
from fmlp.arguments import given
from fmlp.autodiff import Differentiable, Pullback, differentiable, row_weights_of, rule_of
from fmlp.checkpoint import describe, differences
from fmlp.jit import AFTER, Jitted
from fmlp.random import Key
from fmlp.recording import asarray
from fmlp.signals import Interrupted, Interrupts
from fmlp.statistics import Shard
from fmlp.tree import Array, Tree

__all__ = [
    "RankError",
    "objective",
    "value_and_grad",
    "world",
]

P = ParamSpec("P")
Y = TypeVar("Y")


class RankError(ValueError):
    """The ranks were given what does not fit together; raised on all of them."""


@functools.cache
def world() -> Any:
    """Return mpi4py's ``MPI.COMM_WORLD``, and from now on let a rank that goes end all of them, where they need it.

    Without that they would wait for it for ever. An exception that nobody catches ends all ranks. So does the end of a
    rank's program, by itself or by `sys.exit`, when another rank calls `fit`, `evaluate` or `calibrate` with this
    communicator. Every rank must call it. In a loop of your own, `sys.exit` on one rank is noticed by
    ``mpiexec -n 2 python -m mpi4py train.py``. Raises ModuleNotFoundError without mpi4py.
    """
    try:
        from mpi4py import MPI
    except ModuleNotFoundError:
        raise ModuleNotFoundError("fmlp.distributed.world needs mpi4py: pip install 'fmlp[mpi]'") from None
    comm, show, process = MPI.COMM_WORLD, sys.excepthook, os.getpid()
    if comm.size == 1:
        return comm

    def end_all(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        try:
            show(kind, error, trace)
        finally:
            _end(comm, error)

    def leave() -> None:
        if os.getpid() != process or MPI.Is_finalized():  # a forked one is no rank
            return
        try:
            check_called(comm, "the end of the program")
        except RankError as error:
            _end(comm, error)

    sys.excepthook = end_all
    atexit.register(leave)
    return comm


def check_called(comm: Any, what: str) -> None:
    """Raise RankError on all ranks, unless all are about to do the same."""
    group_of(comm).same(lambda: {"called": what})


def _end(comm: Any, error: BaseException) -> None:
    import time

    what = f"{type(error).__name__}: {error}"
    with suppress(Exception):  # whatever stderr is
        print(f"fmlp: rank {comm.rank} of {comm.size} failed: {what}", file=sys.stderr, flush=True)
    time.sleep(0.3)  # for the launcher to pass that on, before it kills
    comm.Abort(1)


def objective(apply: Callable[..., Any], loss: Callable[..., Any]) -> Differentiable[..., Any]:
    """Compose a network and a loss as `fmlp.objective` does, for a part of a batch, which may have no rows."""
    autodiff.check_output(apply, loss)
    return autodiff.objective(apply, _of_part(loss))


def _of_part(loss: Callable[..., Any]) -> Differentiable[..., Any]:
    rule = rule_of(loss, "objective")

    @differentiable
    def loss_of_part(prediction: Any, y: Any, **weight: Any) -> tuple[Any, Pullback]:
        if len(y):
            return rule(prediction, y, **weight)
        zero = tree.map(np.zeros_like, prediction)
        return next(iter(tree.leaves(zero))).dtype.type(0), lambda dy: (zero, None)

    loss_of_part.row_weights = row_weights_of(loss)
    return loss_of_part


def value_and_grad(f: Callable[..., Any], comm: Any) -> Callable[..., tuple[Any, Tree]]:
    """Turn an objective into one that returns its value and gradient for a batch that is spread over ranks.

    ``value_and_grad(objective(net.apply, loss), comm)(params, x, y, *, key=None, weight=None, start=None)`` takes this
    rank's rows of the batch, which is that of all ranks in their order, and returns on every rank the loss and the
    gradient of the whole batch, as `fmlp.value_and_grad` would of all rows at once, to rounding. Parameters and key
    must be the same everywhere, rows may be none. BatchNorm and Dropout see the whole batch: the one exchanges its
    moments, the other takes the mask's rows from `start` on, the number of rows on the ranks before, which is found
    out if not given. Batches of more than 1,024 rows have other masks than with `fmlp.value_and_grad`.

    Every rank must call it equally often. Raises TypeError when `f` carries no vjp.

    >>> from fmlp import layers, losses
    >>> class Alone:                                           # as MPI.COMM_SELF
    ...     rank, size = 0, 1
    ...     def allgather(self, value): return [value]
    ...     def Allreduce(self, values, total): total[...] = values
    >>> f = objective(layers.Dense(1, bias=False).apply, losses.mse)
    >>> value_and_grad(f, Alone())({"w": np.array([[2.0]])}, np.array([[3.0]]), np.array([[5.0]]))
    (np.float64(1.0), {'w': array([[6.]])})
    """
    total = summed(f, comm)

    def evaluate(
        params: Tree, x: Any, y: Any, *, key: Key | None = None, weight: Any = None, start: int | None = None
    ) -> tuple[Any, Tree]:
        value, grads, _ = total(params, Batch(x, y, weight, start), key)
        return value, grads

    return evaluate


def summed(
    f: Callable[..., Any], comm: Any, interrupted: Callable[[], bool] = lambda: False
) -> Callable[[Tree, Batch, Key | None], tuple[Any, Tree, float]]:
    """Do as `value_and_grad`, and return the weight of the whole batch too: its rows, or the sum of their weights.

    `Interrupted` is raised on all ranks when `interrupted` is true on one of them.
    """
    rule = rule_of(f, "value_and_grad")

    def part(params: Tree, x: Any, y: Any, weight: Any, start: int, key: Key | None, own: Any) -> tuple[Any, Tree]:
        value, pullback = rule(params, x, y, key=key, weight=weight, train=Shard(comm, start))
        return value, next(iter(pullback(own.astype(asarray(value).dtype))))

    gradient = Jitted(part, after=AFTER)

    def evaluate(params: Tree, batch: Batch, key: Key | None) -> tuple[Any, Tree, float]:
        own = autodiff.batch_weight(f, batch.y, batch.weight)
        start = sum(comm.allgather(len(batch.y))[: comm.rank]) if batch.start is None else batch.start
        value, grads = gradient(params, batch.x, batch.y, batch.weight, start, key, np.float64(own))
        # Sums, not means: they need no knowledge of the other ranks before the one exchange.
        numbers = np.array([value * own, own, interrupted()], np.asarray(value).dtype)
        vector, unravel = tree.ravel((grads, numbers))
        sums = tree.aligned(vector.size, vector.dtype)
        comm.Allreduce(vector, sums)
        value, all_weight, stop = sums[-3:]
        if stop:
            raise Interrupted
        sums *= 1 / (all_weight or sums.dtype.type(1))
        grads, (value, _, _) = unravel(sums)
        return value, grads, float(all_weight)

    return evaluate


# ------------------------------------------------------------------------------------------ groups


class Alone:
    """A group of one process, which has nothing to exchange. `Ranks` has the same methods."""

    rank = 0
    first = True
    """Whether this process shows the bar, writes checkpoints, calls callbacks and works out metrics."""
    objective = staticmethod(autodiff.objective)

    def interrupts(self, *, resumable: bool) -> Interrupts:
        """Return what ends a training: Ctrl-C, and SIGTERM if it is `resumable`."""
        return Interrupts(*[signal.SIGTERM] * resumable)

    def value_and_grad(self, objective: Callable[..., Any]) -> Callable[..., tuple[Any, Tree, float]]:
        """Make the function from parameters, a `Batch` and a key to the loss, the gradient and the batch's weight."""
        evaluate = autodiff.value_and_grad(objective)

        def of_batch(params: Tree, batch: Batch, key: Key) -> tuple[Any, Tree, float]:
            x, y, weight, _ = batch
            value, grads = evaluate(params, x, y, key=key, weight=weight)
            return value, grads, autodiff.batch_weight(objective, y, weight)

        return of_batch

    def step(
        self, objective: Callable[..., Any], unpack: Callable[[Any], Tree], update: Callable[..., Any]
    ) -> Callable[..., tuple[Any, float]]:
        """Plan ``update(packed, params, state, loss, grads)`` with the loss and the gradient of a batch.

        The parameters are ``unpack(packed)``. Make the function from ``(spare, packed, state, batch, key)`` to the
        result of `update` and the batch's weight. The result may be written into the memory of `spare`.
        """
        evaluate = autodiff.value_and_grad(objective)

        def step(spare: Any, packed: Any, state: Any, x: Any, y: Any, weight: Any, key: Key) -> Any:
            params = unpack(packed)
            return update(packed, params, state, *evaluate(params, x, y, key=key, weight=weight))

        planned = Jitted(step, 0, after=AFTER)

        def of_batch(spare: Any, packed: Any, state: Any, batch: Batch, key: Key) -> Any:
            x, y, weight, _ = batch
            return planned(spare, packed, state, x, y, weight, key), autodiff.batch_weight(objective, y, weight)

        return of_batch

    def rows(self, n: int) -> Rows:
        """Say which rows of the data set the `n` rows here are."""
        return Rows(self, n)

    def shard(self) -> Shard | None:
        """Return what tells layers that their rows are a part of a batch, None where they are all of it."""
        return None

    def in_step(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield a batch, or a part of it that may have no rows, on all processes equally often."""
        return (batch for batch in batches if batch.weight is None or len(batch.y))

    def same(self, settings: Callable[[], Mapping[str, Any]]) -> None:
        """Raise RankError, saying what differs, unless ``settings()`` are the same for all."""

    def own(self, value: Any) -> Any:
        """Return, of what each process has its own, as much as is the same for all."""
        return value

    def collect(self, value: Any) -> list[Any]:
        """Return what each process gave."""
        return [value]

    def exchange(self, values: list[Any]) -> list[Any]:
        """Give ``values[i]`` to process i, and return what each process gave this one."""
        return values

    def share(self, value: Any) -> Any:
        """Return what the first process gave."""
        return value

    def mean(self, value: float, weight: float) -> float:
        """Return the mean of the values, each with its weight."""
        return value

    def joined(self, *arrays: Any) -> tuple[Any, ...]:
        """Return, on the first process, the rows of all processes."""
        return arrays

    def agreed(self, error: BaseException) -> BaseException:
        """Return an error that all processes are about to raise, marked as such for `all_or_none`."""
        return error


class Ranks(Alone):
    """The ranks of a communicator: the data set is the rows of all of them, in their order."""

    objective = staticmethod(objective)

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.first = comm, comm.rank, comm.rank == 0
        self.interrupted: Callable[[], bool] = lambda: False

    def interrupts(self, *, resumable: bool) -> Interrupts:
        if self.comm.size < 2:
            return super().interrupts(resumable=resumable)
        found = Interrupts(signal.SIGINT, signal.SIGTERM, barrier=self.comm.Barrier)
        self.interrupted = found
        return found

    def value_and_grad(self, objective: Callable[..., Any]) -> Callable[..., tuple[Any, Tree, float]]:
        return summed(objective, self.comm, lambda: self.interrupted())

    def step(
        self, objective: Callable[..., Any], unpack: Callable[[Any], Tree], update: Callable[..., Any]
    ) -> Callable[..., tuple[Any, float]]:
        evaluate = self.value_and_grad(objective)

        def step(spare: Any, packed: Any, state: Any, loss: Any, grads: Tree) -> Any:
            return update(packed, unpack(packed), state, loss, grads)

        planned = Jitted(step, 0, after=AFTER)

        def of_batch(spare: Any, packed: Any, state: Any, batch: Batch, key: Key) -> Any:
            loss, grads, weight = evaluate(unpack(packed), batch, key)
            return planned(spare, packed, state, loss, grads), weight

        return of_batch

    def shard(self) -> Shard | None:
        return Shard(self.comm)

    def in_step(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        empty, batches = None, iter(batches)
        while True:
            batch = next(batches, None)
            rows = np.empty(self.comm.size, np.int64)
            self.comm.Allgather(np.array(-1 if batch is None else len(batch.y)), rows)
            if rows.max() < 0:
                return
            if rows.max() == 0:  # all had weight 0
                continue
            if empty is None:
                x, y = self.comm.bcast(batch and tree.map(lambda a: a[:0], (batch.x, batch.y)), int(rows.argmax()))
                empty = Batch(x, y)
            yield (batch or empty)._replace(start=int(rows[: self.comm.rank].clip(0).sum()))

    def same(self, settings: Callable[[], Mapping[str, Any]]) -> None:
        first, *others = self.collect(describe(settings()))
        for rank, other in enumerate(others, 1):
            if different := list(differences(first, other, ("on rank 0", f"on rank {rank}"))):
                raise RankError("the ranks were given what does not fit together:\n  " + "\n  ".join(different[:10]))

    def own(self, value: Any) -> Any:
        return None if value is None else True

    def collect(self, value: Any) -> list[Any]:
        return list(self.comm.allgather(value))

    def exchange(self, values: list[Any]) -> list[Any]:
        return list(self.comm.alltoall(values))

    def share(self, value: Any) -> Any:
        return self.comm.bcast(value)

    def mean(self, value: float, weight: float) -> float:
        parts = self.collect((value, weight))
        return float(sum(value * weight for value, weight in parts) / (sum(weight for _, weight in parts) or 1.0))

    def joined(self, *arrays: Any) -> tuple[Any, ...]:
        parts = zip(*(self.comm.gather(arrays) or [arrays]), strict=True)
        return tuple(part[0] if part[0] is None else np.concatenate(part) for part in parts)

    def agreed(self, error: BaseException) -> BaseException:
        error.agreed_by = self.comm  # type: ignore[attr-defined]
        return error


def group_of(comm: Any) -> Alone:
    """Return the group of processes that a communicator stands for, and this process alone for None."""
    if isinstance(comm, Alone):
        return comm
    check_comm(comm)
    return Alone() if comm is None else Ranks(comm)


class Batch(NamedTuple):
    """Some rows to take a step on; among several ranks, this one's part of them."""

    x: Any
    y: Any
    weight: Any = None
    """Of each row, shape (rows,); None for ones."""
    start: int | None = None
    """How many rows of the whole batch the ranks before this one have."""


class Rows:
    """Which of the data set's rows each process of a group holds."""

    def __init__(self, group: Alone, n: int) -> None:
        self.group, self.starts = group, [*accumulate(group.collect(n), initial=0)]
        self.start, self.stop = self.starts[group.rank : group.rank + 2]

    @property
    def total(self) -> int:
        """The number of rows on all ranks."""
        return int(self.starts[-1])

    def cut(self, rows: Array, begin: int, end: int) -> tuple[int, Array]:
        """Split a batch, sorted numbers of rows: how many come before `begin`, and those before `end`, from there."""
        if len(self.starts) == 2:
            return 0, rows
        first, last = np.searchsorted(rows, [begin, end])
        return int(first), rows[first:last] - begin

    def own(self, rows: Array) -> Array:
        """Pick from sorted numbers of rows those that are here, counted from this rank's first."""
        first, last = np.searchsorted(rows, [self.start, self.stop])
        own: Array = rows[first:last] - self.start
        return own

    def whole(
        self, x: Tree, parts: list[slice], in_turn: Callable[[Tree, list[slice]], Iterator[Tree]]
    ) -> Iterator[Tree]:
        """Yield those parts of the data set whose first row is here, with the rows of later ranks they end in."""
        ranks = range(len(self.starts) - 1)
        mine: list[slice] = []
        sent: list[list[Tree]] = [[] for _ in ranks]
        for part in parts:
            holders = [r for r in ranks if max(part.start, self.starts[r]) < min(part.stop, self.starts[r + 1])]
            if self.group.rank in holders:
                here = slice(max(part.start - self.start, 0), min(part.stop, self.stop) - self.start)
                if self.group.rank == holders[0]:
                    mine.append(here)
                else:
                    sent[holders[0]] += in_turn(x, [here])
        later = [piece for pieces in self.group.exchange(sent) for piece in pieces]
        for i, part in enumerate(in_turn(x, mine), 1):
            yield tree.map(_joined, part, *later) if later and i == len(mine) else part


def _joined(*pieces: Any) -> Any:
    if hasattr(pieces[0], "tocsr"):
        from scipy.sparse import vstack

        return vstack(pieces, "csr")
    return np.concatenate(pieces)


def check_comm(comm: Any) -> None:
    """Raise TypeError for what is no communicator."""
    if comm is not None and not all(hasattr(comm, name) for name in ("rank", "size", "allgather")):
        raise TypeError(f"comm: expected a communicator of mpi4py, such as fmlp.distributed.world(), got {given(comm)}")


def all_or_none(f: Callable[P, Y]) -> Callable[P, Y]:
    """Decorate a function that all ranks of its argument `comm` call: what one raises ends the job, not only the rank.

    The others wait for it, and would for ever. A `RankError`, and what is marked by `agreed`, is only raised.
    """

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> Y:
        comm: Any = kwargs.get("comm")
        check_comm(comm)
        try:
            check_called(comm, f.__name__)
            return f(*args, **kwargs)
        except BaseException as error:
            raised_by_all = isinstance(error, RankError) or getattr(error, "agreed_by", None) is comm
            if comm is not None and comm.size > 1 and not raised_by_all:
                import traceback

                with suppress(Exception):
                    traceback.print_exc()
                _end(comm, error)
            raise

    return call
