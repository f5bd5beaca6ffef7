"""Training: `fit` joins a plan, which checks and decides everything before any work, a descent, and what watches it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from fmlp import distributed, losses, optim, random, tree
from fmlp.arguments import given, hinting, inside, integer, unmasked
from fmlp.autodiff import unbound
from fmlp.batches import Batches, Examples, as_array, batches_of, is_pair, prepared, slices, take
from fmlp.callbacks import EarlyStopping, History, called, fold_of, is_plateau, on_plateau, with_directions
from fmlp.checkpoint import Checkpoint, Epoch, Saver
from fmlp.descent import QUIET, NonFiniteError, Planned
from fmlp.distributed import Alone
from fmlp.evaluation import Metric, calibrate, calibrated, check_metrics, evaluate, evaluated, predict, try_metrics
from fmlp.layers import Layer, check_net
from fmlp.optim import Optimizer
from fmlp.progress import progress_bar
from fmlp.random import Key
from fmlp.statistics import Calibration
from fmlp.threads import blas_threads_for
from fmlp.tree import Array, Tree

__all__ = [
    "EarlyStopping",
    "Epoch",
    "FitResult",
    "NonFiniteError",
    "calibrate",
    "evaluate",
    "fit",
    "on_plateau",
    "predict",
]


class FitResult(NamedTuple):
    """What `fit` returns."""

    params: Tree
    """The parameters reached, or the best epoch's, with BatchNorm's statistics calibrated."""
    state: Any
    """The optimizer's state."""
    history: History
    """One number an epoch: ``loss``, ``lr``, each metric, and each of these but ``lr`` again as ``val_…``."""
    seconds: float
    """Wall time."""
    stopped: Literal["done", "early", "callback", "interrupted"]
    """Why training ended."""
    best_epoch: int | None = None
    """The epoch, counted from 0, whose monitored value was best; None without early stopping."""


@hinting
@distributed.all_or_none
def fit(
    net: Layer,
    params: Tree,
    data: tuple[Any, Any] | Iterable[tuple[Any, ...]],
    *,
    loss: Callable[..., Any],
    optimizer: Optimizer,
    epochs: int,
    key: Key,
    batch_size: int | None = None,
    validation: tuple[Any, Any] | tuple[Any, Any, Any] | float | None = None,
    metrics: Mapping[str, Metric] | None = None,
    early_stopping: EarlyStopping | None = None,
    callbacks: Sequence[Callable[[Epoch], Epoch | None]] = (),
    weight: Any = None,
    class_weight: Mapping[Any, float] | Sequence[float] | Array | Literal["balanced"] | None = None,
    shuffle: bool = True,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    comm: Any = None,
) -> FitResult:
    """Train `net` from `params` on `data` and return a `FitResult`.

    - `net`: a layer, such as ``serial(...)``.
    - `params`: its parameters, as ``net.init`` makes them. They are not written to.
    - `data`: a pair ``(x, y)`` of arrays with the examples along the first axis, in memory or memory-mapped (x may be a
      tree of arrays); or an iterable of batches ``(x, y)`` or ``(x, y, weight)`` that can be gone through once an
      epoch. If it has a method ``shuffled(key)``, as `data.Batches` does, that gives each epoch's order.
    - `loss`: a differentiable function ``(prediction, y) -> number``, such as `losses.mse`.
    - `optimizer`: how to descend, such as ``optim.adam(1e-3)``. Its schedule counts steps, or epochs if it is
      `schedules.per_epoch`.
    - `epochs`: how many times to go through the data.
    - `key`: the source of all randomness. The same key gives the same result, bit for bit.
    - `batch_size`: rows in a batch; by default 32, or all rows if there are fewer. A last batch that would have one row
      joins the one before it. Batches of an iterable have their own size, and another `batch_size` is refused.
    - `validation`: a pair ``(x, y)``, or ``(x, y, weight)``, to measure on after each epoch; or the fraction of `data`
      to set aside for that at random, each label in proportion, with the weights of its rows and classes.
    - `metrics`: a dict from names to functions ``(y_true, y_pred) -> float``. They get predictions, or probabilities if
      `metrics.on_output` marks them, and the rows' weights, but not those of the classes, if they have an argument
      ``weight`` or ``sample_weight``. They measure the validation data and, unless they come as batches, the training
      data. Functions of a module are tried once before the training starts.
    - `early_stopping`: an `EarlyStopping`.
    - `callbacks`: functions that get an `Epoch`, its parameters calibrated, after each epoch, and may return another.
    - `weight`: a weight for each row of `data`. Rows of weight 0 are left out, whatever they hold: the result is that
      of the data without them.
    - `class_weight`: a weight for each label: a dict, an array of the weights of the labels 0, 1, …, or "balanced" for
      n / (classes · count). It multiplies `weight`.
    - `shuffle`: whether each epoch has an order of its own. A memory-mapped x of more than 128 MiB is shuffled by
      blocks of 128 KiB, and by rows within each 1,024 blocks: no more than these are in memory.
    - `progress`: whether to show a bar with the scores, in a narrow terminal as training/validation.
    - `checkpoint`: a path or a `Checkpoint`, a file that is written as training goes on. If it is there already, `fit`
      goes on from it and ends with the same bits as if it had never stopped. All arguments must be the same but
      `epochs`, `callbacks` and `progress`; of the data, shapes and dtypes are compared, and of batches their settings.
      A training that early stopping or a callback has ended, or that has come to `epochs`, does not go on: `fit`
      returns what it had reached.
    - `comm`: a communicator of mpi4py, to spread the work over its ranks. Each rank passes its own rows of `data`, and
      of a `validation` pair, and otherwise the same arguments, and gets the same result: that of one process with the
      rows of all ranks in their order, to rounding. `batch_size` is that of the whole batch. Rank 0 shows the bar,
      writes checkpoints, and calls callbacks and metrics. An error on one rank ends all of them, with its message.

    Ctrl-C ends training and returns what has been reached, and so does SIGTERM if there is a checkpoint, before it is
    passed on. Another Ctrl-C while BatchNorm's statistics are calibrated at the end returns the parameters without
    them, or with those of the last epoch.

    Raises ValueError or TypeError before any work for arguments that do not fit or a checkpoint of another training;
    `CheckpointError` if a checkpoint cannot be written; and `NonFiniteError`, which names the step and the leaf, when
    the loss, a gradient or a parameter is no longer finite.

    >>> from fmlp.layers import Dense
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> net = Dense(1)
    >>> _, params = net.init(random.key(0), (1,))
    >>> result = fit(net, params, (x, 3 * x + 1), loss=losses.mse, optimizer=optim.adam(0.1), epochs=50,
    ...              key=random.key(1), progress=False)
    >>> result.params["w"].round(2), result.params["b"].round(2)
    (array([[3.]], dtype=float32), array([1.], dtype=float32))
    """
    started = time.perf_counter()
    plan = _plan(
        net, params, data, loss, optimizer, epochs, key, batch_size, validation, metrics, early_stopping, callbacks,
        weight, class_weight, shuffle, checkpoint, comm,
    )  # fmt: skip
    group, saver, interrupts, steps = plan.group, plan.saver, plan.interrupts, plan.data.steps
    with interrupts.listening(), saver.opened():
        now = start = group.share(saver.latest)
        done = start.epoch * (steps or 0) + start.step
        shown = progress_bar(progress and group.first, steps and steps * epochs, "step", done)
        with plan.blas, interrupts.stopping(), shown as bar, saver.writing(), interrupts.raising():
            bar.describe(f"epoch {start.epoch + 1}/{epochs}")
            for now in plan.train(start, epochs):
                saver.note(now)
                interrupts.check()
                bar.note(now, epochs)
    params, best_epoch = plan.best(now)
    with interrupts.listening(), interrupts.stopping(), interrupts.raising():
        params = plan.calibrated(params)
    stopped = "interrupted" if interrupts.stopped else now.stop or "done"
    seconds = start.seconds + time.perf_counter() - started
    return FitResult(params, now.state, now.history, seconds, cast(Any, stopped), best_epoch)


class _Plan(NamedTuple):
    """A training with everything checked and decided, and its parts that the loop of `fit` runs."""

    net: Layer
    planned: Planned
    loss: Callable[..., Any]
    metrics: dict[str, Metric]
    data: Batches
    held_out: Examples | None
    early_stopping: EarlyStopping | None
    best_of: Callable[[Sequence[float]], Any]
    """From the monitored values to the best epoch, whether to stop, and more."""
    callbacks: list[Callable[[Epoch], Epoch | None]]
    key: Key
    shuffle: bool
    group: Alone
    interrupts: Any
    saver: Saver
    blas: Any
    """The context of BLAS's threads."""

    def train(self, now: Epoch, epochs: int) -> Iterator[Epoch]:
        """Yield what is reached after each step, after each epoch's scores, and after its callbacks."""
        while now.epoch < epochs and not now.stop:
            for step in self.steps(now):
                yield (now := step)
            yield (now := self.measured(now))
            yield (now := self.watched(now))

    def steps(self, now: Epoch) -> Iterator[Epoch]:
        """Descend through the rest of an epoch."""
        shuffle_key, steps_key = random.split(random.fold_in(self.key, now.epoch))
        todo = self.data.shuffled(shuffle_key if self.shuffle else None)
        reached = self.planned.steps(now.params, now.state, todo, steps_key, skip=now.step, donate=True)
        try:
            for params, state, loss, weight in reached:
                total, total_weight = now.total + weight * loss, now.total_weight + weight
                now = now._replace(
                    params=params, state=state, step=now.step + 1, total=total, total_weight=total_weight
                )
                yield now
        except NonFiniteError as error:
            error.args = (f"epoch {now.epoch}, {error}",)
            raise
        if not now.total_weight:
            raise ValueError("data: expected at least one batch in every epoch with a weight above 0, got none")

    def measured(self, now: Epoch) -> Epoch:
        """Work out the scores of an epoch, and what early stopping makes of them."""
        scores = {"loss": now.total / now.total_weight}
        rows = [("", self.data.examples if self.metrics else None, None), ("val_", self.held_out, self.loss)]
        if self.callbacks or any(examples for _, examples, _ in rows):
            now = now._replace(params=self.calibrated(now.params))
        with np.errstate(**QUIET):
            for prefix, examples, loss in rows:
                if examples:
                    found = evaluated(self.net, now.params, examples, self.loss, self.metrics, self.group, loss is None)
                    scores |= {f"{prefix}{name}": score for name, score in found.items()}
        if (lr := optim.learning_rate(now.state)) is not None:
            scores["lr"] = lr
        history = now.history | {name: [*now.history.get(name, ()), score] for name, score in scores.items()}
        now = now._replace(history=history, measured=True)
        if self.early_stopping:
            best_epoch, stop, *_ = self.best_of(now.history[self.early_stopping.monitor])
            best = now.params if best_epoch == now.epoch else now.best
            now = now._replace(best=best, stop="early" if stop else "")
        return now

    def watched(self, now: Epoch) -> Epoch:
        """Call the callbacks, and end the epoch. What the first process has then is what all have."""
        told = now._replace(stop=bool(now.stop))
        for callback in self.callbacks if self.group.first else ():
            told = called(callback, told)
        stop = now.stop or ("callback" if told.stop else "")
        ended = Epoch(now.epoch + 1, told.params, told.state, told.history, stop, now.best, seconds=now.seconds)
        return cast(Epoch, self.group.share(ended))

    def best(self, now: Epoch) -> tuple[Tree, int | None]:
        """Return the parameters to return, and the best epoch."""
        if not self.early_stopping:
            return now.params, None
        best_epoch, *_ = self.best_of(now.history.get(self.early_stopping.monitor, []))
        restore = self.early_stopping.restore_best and best_epoch is not None
        return now.best if restore else now.params, best_epoch

    def calibrated(self, params: Tree) -> Tree:
        """Work out BatchNorm's statistics from the training data."""
        return calibrated(self.net, params, self.data.inputs(), self.group, parts=not self.data.examples)


def _plan(
    net: Layer,
    params: Tree,
    data: Any,
    loss: Any,
    optimizer: Optimizer,
    epochs: int,
    key: Key,
    batch_size: int | None,
    validation: Any,
    metrics: Any,
    early_stopping: EarlyStopping | None,
    callbacks: Any,
    weight: Any,
    class_weight: Any,
    shuffle: bool,
    checkpoint: Any,
    comm: Any,
) -> _Plan:
    """Check the arguments of `fit`, and decide all that can be decided before the first step."""
    check_metrics(metrics, loss)
    metrics = dict(metrics or {})
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    _check_settings(net, optimizer, epochs, batch_size, early_stopping, metrics, validation, callbacks, is_pair(data))
    early_stopping, callbacks = with_directions(early_stopping, callbacks, metrics)
    _check_params(params)
    group = distributed.group_of(comm)
    objective, interrupts = group.objective(net.apply, loss), group.interrupts(resumable=checkpoint is not None)
    split_key, epochs_key = random.split(key)

    settings: dict[str, Any] = {
        "net": net.apply,
        "params": {path: np.asarray(leaf) for path, leaf in tree.named_leaves(params)},
        "loss": loss,
        "metrics": metrics,
        "optimizer": optimizer.update,
        "early_stopping": early_stopping,
        "batch_size": batch_size,
        "shuffle": bool(shuffle),
        "key": key.tolist(),
        "weight": group.own(weight),
        "class_weight": class_weight,
    }
    group.same(
        lambda: settings | {
            "data": _shapes(data, "rows") if is_pair(data) else "batches",
            "validation": _shapes(validation, "rows") if isinstance(validation, tuple) else validation,
            "epochs": int(epochs), "checkpoint": checkpoint is not None, "callbacks": len(callbacks),
        }
    )  # fmt: skip
    train, held_out = prepared(data, validation, weight, class_weight, split_key, group, loss)
    source = batches_of(train, batch_size, group)
    _check_examples(net, params, loss, metrics, source, held_out)
    settings |= {"batch_size": source.batch_size, "windows": source.windows}
    for name, rows in (("data", source.examples), ("validation", held_out)):
        settings[name] = _shapes(rows and (rows.x, rows.y), rows and sum(group.collect(len(rows.y))))
    if not source.examples:
        settings["data"] = group.own(_batches_told(data))
    group.same(lambda: settings)
    state = optim.with_steps_per_epoch(optimizer.init(params), source.steps or None)
    for plateau in filter(is_plateau, callbacks):
        plateau.check(optimizer, state, params)
    start = Epoch(0, params, state, stop="", best=params)
    saver = Saver(checkpoint if group.first else None, settings, start)
    best_of = fold_of(early_stopping) if early_stopping else lambda values: (None, False)
    return _Plan(
        net, Planned(group, objective, optimizer, params), loss, metrics, source, held_out, early_stopping, best_of,
        callbacks, epochs_key, shuffle, group, interrupts, saver,
        blas_threads_for((source.batch_size or inf) * tree.size(params)),
    )  # fmt: skip


def _check_examples(
    net: Layer, params: Tree, loss: Any, metrics: dict[str, Metric], data: Batches, held_out: Examples | None
) -> None:
    """Let the network, the loss and the metrics look at the rows before the training starts."""
    train, group = data.examples, data.group
    if train and held_out:
        shapes, others = ([np.shape(a)[1:] for a in tree.leaves(rows.x)] for rows in (train, held_out))
        if shapes != others:
            raise ValueError(f"validation: expected examples of shape {shapes}, as in training, got {others}")
    for name, rows, batch_size in (("data", train, data.batch_size or 2), ("validation", held_out, 2)):
        if rows:
            n = sum(group.collect(len(rows.y)))
            _check_targets(
                name, net, params, loss, rows, min(batch_size, n, 2)
            )  # of one row, BatchNorm has no statistics
            if n == len(rows.y):  # one rank's rows may lack a class
                try_metrics(net, params, rows, loss, metrics)


def _shapes(values: Tree, rows: int | str | None = None) -> dict[str, str]:
    """Tell dtypes and shapes, with `rows` in the place of how many there are here."""

    def shape(leaf: Any) -> str:
        lengths = np.shape(leaf) if rows is None else (rows, *np.shape(leaf)[1:])
        return f"({', '.join(map(str, lengths))}{',' * (len(lengths) == 1)})"

    return {path: f"{as_array(leaf).dtype} {shape(leaf)}" for path, leaf in tree.named_leaves(values)}


def _batches_told(data: Any) -> dict[str, Any]:
    """Tell of an iterable of batches what tells it apart and is read fast: sizes, and the settings that it shows."""
    if isinstance(data, list | tuple):
        first = data[0] if data else None
        rows = np.shape(first[1])[0] if isinstance(first, list | tuple) and len(first) > 1 and np.ndim(first[1]) else 0
        return {"batches": len(data), "rows of the first": rows}
    shown = {name: value for name, value in getattr(data, "__dict__", {}).items() if not name.startswith("_")}
    arrays = {name: f"{value.dtype} {value.shape}" for name, value in shown.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in shown.items() if isinstance(value, bool | int | float | str | None)}
    return {"kind": f"{type(data).__module__}.{type(data).__qualname__}", **arrays, **plain}


def _check_targets(name: str, net: Layer, params: Tree, loss: Any, data: Examples, rows: int = 2) -> None:
    """Let a `losses.Loss` look at all targets before the training starts, next to an output of zeros."""
    x, y = data.x, data.y
    if not len(y) or not isinstance(unbound(loss), losses.Loss):  # a rank may have no rows
        return
    try:
        first = net.apply(params, take(x, np.arange(rows) % len(y)), train=Calibration(), key=random.key(0))
    except (TypeError, ValueError) as error:
        tried = f" (tried with {rows} rows; x has shape {np.shape(x)})" if hasattr(x, "shape") else ""
        raise inside("" if name == "data" else name, error, tried) from None
    if not isinstance(first, np.ndarray):
        return
    for part in slices(len(y), 1 << 16):
        try:
            loss(np.zeros((len(y[part]), *first.shape[1:]), first.dtype), y[part])
        except (TypeError, ValueError) as error:
            raise inside(name, error) from None


def _check_settings(
    net: Any,
    optimizer: Any,
    epochs: int,
    batch_size: int | None,
    early_stopping: Any,
    metrics: dict[str, Any],
    validation: Any,
    callbacks: Any,
    arrays: bool,
) -> None:
    check_net(net)
    optim.check_optimizer("optimizer", optimizer)
    integer("epochs", epochs)
    if batch_size is not None:
        integer("batch_size", batch_size)
    if taken := [name for name in metrics if name in ("loss", "lr") or name.startswith("val_")]:
        raise ValueError(f"metrics: the name {taken[0]!r} is taken")
    if not isinstance(callbacks, Sequence) or not all(callable(callback) for callback in callbacks):
        raise TypeError(f"callbacks: expected a list of functions of an Epoch, got {given(callbacks)}")
    if not isinstance(early_stopping, EarlyStopping | None):
        raise TypeError(f"early_stopping: expected an EarlyStopping, got {given(early_stopping)}")
    known = ["loss", *(metrics if arrays else ())]  # not worked out on training data that come as batches
    if validation is not None:
        known += ["val_loss", *(f"val_{name}" for name in metrics)]
    monitors = [("early_stopping", early_stopping.monitor)] if early_stopping else []
    if all(is_plateau(callback) for callback in callbacks):  # others may add to the history
        monitors += [("on_plateau", callback.monitor) for callback in callbacks]
    for name, monitor in monitors:
        if monitor not in known:
            raise ValueError(f"{name}: expected to monitor one of {', '.join(known)}; got {monitor!r}")


def _check_params(params: Tree) -> None:
    for path, leaf in tree.named_leaves(params):
        array = np.asarray(unmasked(f"params: {path}", leaf))
        if array.dtype.kind not in "fiub":
            raise TypeError(f"params: expected arrays of numbers, got {given(leaf)} in {path}")
        if not np.isfinite(array).all():
            raise ValueError(f"params: expected finite numbers, got NaN or infinity in {path}")
