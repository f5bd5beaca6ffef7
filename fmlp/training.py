"""Training: `fit`, `evaluate`, `predict` and `calibrate`, built from the public pieces.

One step of `fit` is what a user's own loop would write:

    loss, grads = value_and_grad(objective)(params, x, y, key=key)
    updates, state = optimizer.update(grads, state, params)
    params = apply_updates(params, updates)
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import count, islice
from math import inf, isfinite, isnan, prod
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from fmlp import batching, distributed, losses, optim, random, tree
from fmlp.autodiff import check_output, objective, row_weights_of, unbound, value_and_grad
from fmlp.bar import progress_bar
from fmlp.checkpoint import Checkpoint, Progress, Saver
from fmlp.checks import choice, function, given, hinting, integer, number, unmasked
from fmlp.layers import Layer, check_net
from fmlp.metrics import has_a_name, wants_output, wants_scores, weight_keyword
from fmlp.modes import Calibration, Shard, pooled
from fmlp.optim import Optimizer
from fmlp.random import Key
from fmlp.schedules import ReduceOnPlateau
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

# Of what is not finite `NonFiniteError` tells.
UNTOLD: dict[str, Any] = {"over": "ignore", "invalid": "ignore", "divide": "ignore"}

ON_OUTPUT = "fmlp.metrics.on_output(f) gives a metric the probabilities"

Metric = Callable[[Any, Any], float]
History = dict[str, list[float]]


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


class Epoch(NamedTuple):
    """What a callback gets after each epoch, and may return with fields replaced.

    `epoch` is counted from 0, `history` is that of `FitResult` so far, and `stop` ends the training.
    """

    epoch: int
    params: Tree
    state: Any
    history: History
    stop: bool = False


class NonFiniteError(ValueError):
    """Training met a loss, gradient or parameter that is infinite or NaN; `params` are the last good ones."""

    def __init__(self, message: str, params: Tree) -> None:
        super().__init__(message)
        self.params = params

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it come back from another process."""
        return type(self), (str(self), self.params)


class EarlyStopping:
    """Stop when ``history[monitor]`` has not improved by more than `min_delta` for `patience` epochs; NaN never does.

    `mode` "min" or "max" says which way is better. It can be left out where fmlp knows: "min" for ``loss``, "min" or
    "max" for a metric that is a function of `fmlp.losses` or `fmlp.metrics`, or has the name of one, with or without
    ``val_``. For any other name `fit` raises ValueError before any work.

    With a `baseline`, an epoch counts as an improvement only if it is better than that, too; training does not stop
    after its first epoch. Epochs before `start_from_epoch` (counted from 0) are not looked at. With `restore_best` the
    result has the best epoch's parameters, whatever the baseline. Raises ValueError for settings out of range,
    TypeError for those of another type. Keras: EarlyStopping.

    >>> EarlyStopping("val_loss", patience=2).best([0.5, 0.3, 0.4, 0.35])
    (1, True)
    """

    monitor: str
    mode: Literal["min", "max"] | None
    patience: int
    min_delta: float
    restore_best: bool
    start_from_epoch: int
    baseline: float | None

    @hinting
    def __init__(
        self,
        monitor: str,
        mode: Literal["min", "max"] | None = None,
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = False,
        start_from_epoch: int = 0,
        baseline: float | None = None,
    ) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor: expected a name in the history, such as 'val_loss', got {given(monitor)}")
        if mode is not None:
            choice("mode", mode, "min", "max")
        self.monitor, self.mode, self.patience = monitor, mode, integer("patience", patience, 0)
        self.min_delta, self.restore_best = number("min_delta", min_delta), restore_best
        self.start_from_epoch = integer("start_from_epoch", start_from_epoch, 0)
        self.baseline = None if baseline is None else number("baseline", baseline, "(-inf, inf)")

    def best(self, values: Sequence[float]) -> tuple[int | None, bool]:
        """Return the best epoch so far, None before `start_from_epoch`, and whether to stop.

        Raises ValueError when `mode` was not given and `monitor` is no name that fmlp knows.
        """
        best, stop, *_ = _of_early_stopping(self)(values)
        return best, stop


def _of_early_stopping(early_stopping: EarlyStopping) -> _Fold:
    """Fold the monitored values into (best epoch, whether to stop, epochs seen, best cost, last improvement)."""
    start, min_delta, baseline = early_stopping.start_from_epoch, early_stopping.min_delta, early_stopping.baseline
    sign = 1 if (early_stopping.mode or _direction(early_stopping.monitor)) == "min" else -1
    bar = inf if baseline is None else sign * baseline - min_delta

    def update(value: float, state: Any) -> Any:
        best, _, epoch, lowest, improved = state
        cost = inf if isnan(value) else sign * value
        if epoch >= start and (best is None or cost < lowest - min_delta):
            best, lowest = epoch, cost
            if baseline is None or cost < bar:
                improved = epoch
        stop = epoch > 0 and best is not None and epoch - improved >= max(early_stopping.patience, 1)
        return best, stop, epoch + 1, lowest, improved

    return _Fold((None, False, 0, inf, start - 1), update)


class _Fold:
    """What `update(value, state)` makes of a list of values, kept so that a longer list costs only what it adds."""

    def __init__(self, start: Any, update: Callable[[float, Any], Any]) -> None:
        self.start, self.update = start, update
        self.memo: tuple[list[float], Any] = [], start

    def __call__(self, values: Sequence[float]) -> Any:
        (seen, state), values = self.memo, list(values)
        if values[: len(seen)] != seen:  # a callback has replaced the history
            seen, state = [], self.start
        for value in values[len(seen) :]:
            state = self.update(value, state)
        self.memo = values, state
        return state


SCORES = {"accuracy", "average_precision", "f1", "precision", "r2", "recall", "roc_auc", "top_k_accuracy"}


def _direction(monitor: str, metrics: Mapping[str, Metric] = MappingProxyType({}), hint: str = "") -> str:
    """Say whether a low ("min") or a high ("max") value is better: of losses and of fmlp's own metrics it is known."""
    name = monitor.removeprefix("val_")
    metric: Any = unbound(metrics[name]) if name in metrics else None
    if isinstance(metric, losses.Loss):
        return "min"
    if getattr(metric, "__module__", "") == "fmlp.metrics":
        name = metric.__name__
    if name in SCORES:
        return "max"
    if name in ("loss", "log_loss") or isinstance(getattr(losses, name, None), losses.Loss):
        return "min"
    raise ValueError(
        f"mode: expected 'min' or 'max'{hint}, got None; fmlp knows which is better for its own losses and metrics, "
        f"but not for {monitor!r}"
    )


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

    `data` is a pair ``(x, y)`` of arrays with the examples along the first axis, in memory or memory-mapped (x may
    be a tree of such arrays), or an iterable of batches ``(x, y)`` or ``(x, y, weight)`` that can be gone through
    once an epoch, in the order that its method ``shuffled(key)`` gives if it has one (`data.Batches`). Batches bring
    their own size: a `batch_size` other than the one they name is refused. Arrays are shuffled each epoch and cut
    into batches of `batch_size`, by default 32, or all rows where there are fewer; a last batch that alone has one row
    joins the one before it. A memory-mapped x of more than 128 MiB is shuffled by blocks of 128 KiB, and by rows within
    each 1,024 blocks: no more than these are in memory. `key` is the source of all randomness: the same key gives the
    same result, bit for bit.

    `validation` is a pair (x, y), or (x, y, weight), or the fraction of `data` to set aside at random, each label in
    proportion, with the weights of its rows and classes. `metrics` maps names to functions ``(y_true, y_pred) ->
    float``, which get predictions, or probabilities where `metrics.on_output` marks them; after each epoch they are
    worked out at inference on the training and the validation data (not on training data that come as batches).
    Functions of a module are tried once before the training starts. `weight` gives each row of `data` a weight.
    `class_weight` gives each label one: a dict, an array of the weights of the labels 0, 1, …, or "balanced" for
    n / (classes · count). Both multiply. Metrics that have an argument ``weight`` or ``sample_weight`` get the rows'
    weights, but not those of the classes. Rows of weight 0 are left out, whatever they hold: the result is that of the
    data without them, the shuffling, BatchNorm's statistics and the rows set aside included.

    Each callback gets an `Epoch`, its parameters calibrated, after every epoch and may return another. A bar shows the
    progress and the scores, in a narrow terminal as training/validation, unless `progress` is False or there is no
    stderr; whatever goes wrong with it, the training goes on. Ctrl-C ends training and returns what has been reached;
    another one while BatchNorm's statistics are calibrated at the end returns it without these, or with those of the
    last epoch.

    `checkpoint`, a path or a `Checkpoint`, names a file that is written as training goes on. If it is there already,
    `fit` goes on from it and ends with the same bits as if it had never stopped; the arguments must be the same, save
    for `epochs`, `callbacks` and `progress` (of the data, only shapes and dtypes are compared, and of batches their
    settings; `Checkpoint` says more). A second training on the same file is refused as long as the first one runs.
    SIGTERM then ends training as Ctrl-C does, and is handed on, unless it was ignored. A training that
    early stopping or a callback has ended does not go on; nor does one that has come to `epochs` or further: `fit`
    returns what it had reached, all its epochs.

    `comm`, a communicator of mpi4py, spreads the work over its ranks. Each calls `fit` with its own rows of `data`, and
    of a `validation` pair, any number of them, and otherwise the same; each gets the same result. The data set is that
    of all ranks, in their order, `batch_size` the size of the whole batch, and the result that of one process with all
    rows, to rounding. Rank 0 shows the bar, writes checkpoints, runs the callbacks and works out the metrics. An error
    on one rank ends all of them, with its message.

    Raises ValueError or TypeError before any work for arguments that do not fit or a checkpoint of other settings,
    `CheckpointError` when one cannot be written, and `NonFiniteError`, naming the
    step and the leaf, when the loss, a gradient or a parameter is no longer finite.

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
    _check_metrics(metrics, loss)
    metrics = dict(metrics or {})
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    _check_settings(
        net, optimizer, epochs, batch_size, early_stopping, metrics, validation, callbacks, batching.is_pair(data)
    )
    early_stopping, callbacks = _with_directions(early_stopping, callbacks, metrics)
    _check_params(params)
    interrupts, main = distributed.interrupts(comm, checkpoint is not None), comm is None or comm.rank == 0
    step = _step(net, loss, comm, interrupts)
    split_key, epochs_key = random.split(key)
    settings: dict[str, Any] = {}
    if checkpoint is not None or comm is not None:
        settings = {
            "net": net.apply,
            "params": {path: np.asarray(leaf) for path, leaf in _named_leaves(params)},
            "loss": loss,
            "metrics": metrics,
            "optimizer": optimizer.update,
            "early_stopping": early_stopping,
            "batch_size": batch_size,
            "shuffle": bool(shuffle),
            "key": key.tolist(),
            "weight": weight if weight is None or comm is None else True,
            "class_weight": class_weight,
        }
    if comm is not None:
        others: dict[str, Any] = {
            "data": _shapes(data, "rows") if batching.is_pair(data) else "batches",
            "validation": _shapes(validation, "rows") if isinstance(validation, tuple) else validation,
        }
        others |= {"epochs": int(epochs), "checkpoint": checkpoint is not None, "callbacks": len(callbacks)}
        distributed.check_same(comm, settings | others)
    train, held_out = batching.prepared(data, validation, weight, class_weight, split_key, comm, loss)
    source = batching.source(train, batch_size, shuffle, comm)
    if held_out and source.examples:
        _check_same_shape(source.examples.x, held_out.x)
    reached, shared = Progress(params, optimizer.init(params), params), comm is not None and not source.examples
    if settings:
        for name, rows in (("data", source.examples), ("validation", held_out)):
            total = comm.allreduce(len(rows.y)) if comm is not None and rows else None
            settings[name] = _shapes(rows and (rows.x, rows.y), total)
        if comm is None and not source.examples:
            settings["data"] = _batches_told(data)
        settings["batch_size"] = source.batch_size
        if source.windows:
            settings["windows"] = source.windows
    if comm is not None:
        distributed.check_same(comm, settings)
    if source.examples:
        # Of one row, BatchNorm has no statistics; a rank's part of a batch may be as small as it likes.
        fewest = 2 if comm is not None else min(2, source.batch_size or 2, len(source.examples.y))
        _check_targets("data", net, params, loss, source.examples, fewest)
    if held_out:
        _check_targets("validation", net, params, loss, held_out)
    for rows in (source.examples, held_out) if comm is None else ():  # one rank's rows may lack a class
        if rows:
            _try_metrics(net, params, rows, loss, metrics)

    saver = Saver(checkpoint if main else None, settings, reached)
    record: dict[str, float] = {}
    watched = early_stopping and _of_early_stopping(early_stopping)
    total_steps = source.steps and source.steps * epochs
    with interrupts.listening(), saver.opened():
        reached = saver.latest if comm is None else comm.bcast(saver.latest)
        seconds = reached.seconds  # of earlier runs
        shown = progress_bar(progress and main, total_steps, "step")
        with interrupts.stopping(), shown as bar, saver.writing(), interrupts.raising():
            if reached.epoch or reached.step:
                bar.update(reached.epoch * (source.steps or 0) + reached.step)
            while reached.epoch < epochs and not reached.stopped:
                params, state, best, epoch, first, total, total_weight, history, *_ = reached
                shuffle_key, steps_key = random.split(random.fold_in(epochs_key, epoch))
                before, grads, i = params, None, first - 1
                bar.describe(f"epoch {epoch + 1}/{epochs}")
                todo = zip(source.batches(shuffle_key), _keys(steps_key), strict=False)
                for i, (batch, step_key) in enumerate(islice(todo, first, None), first):
                    with np.errstate(**UNTOLD):
                        value, next_grads, share = step(params, *batch, step_key)
                        if not isfinite(value):
                            raise distributed.agreed(_non_finite(epoch, i, value, params, before, grads), comm)
                        grads, before = next_grads, params
                        updates, state = optimizer.update(grads, state, params)
                        params = optim.apply_updates(params, updates)
                    total, total_weight = total + share * float(value), total_weight + share
                    reached = Progress(params, state, best, epoch, i + 1, total, total_weight, history, seconds=seconds)
                    saver.after_step(reached)
                    interrupts.check()
                    if bar.update():
                        bar.show({**record, "loss": total / (total_weight or 1)})
                if not total_weight:
                    raise ValueError("data: expected at least one batch in every epoch with a weight above 0, got none")
                if _first_non_finite(params):
                    raise distributed.agreed(_non_finite(epoch, i + 1, None, params, before, grads), comm)

                record = {"loss": total / total_weight}
                measured = held_out is not None or (metrics and source.examples)
                if measured or callbacks:
                    params = _calibrated(net, params, source.inputs(), comm, parts=shared)
                if measured:
                    with np.errstate(**UNTOLD):
                        record |= _scores(net, params, source, held_out, loss, metrics, comm)
                if (lr := optim.learning_rate(state)) is not None:
                    record["lr"] = lr
                history = history | {name: [*history.get(name, ()), score] for name, score in record.items()}
                bar.show(record)

                stop_early = False
                if early_stopping and watched:
                    best_epoch, stop_early, *_ = watched(history[early_stopping.monitor])
                    best = params if best_epoch == epoch else best
                # What is returned should a callback be interrupted; a checkpoint has the callbacks run again.
                reached = reached._replace(params=params, best=best, history=history)
                now = Epoch(epoch, params, state, history)
                for callback in callbacks if main else ():
                    now = _called(callback, now)
                _, params, state, history, stop = now
                stopped = "early" if stop_early else "callback" if stop else ""
                reached = Progress(params, state, best, epoch + 1, history=history, stopped=stopped, seconds=seconds)
                if comm is not None:  # what rank 0 has is what all have, whatever their rounding and callbacks
                    reached = comm.bcast(reached)
                saver.after_epoch(reached)
    params, history, best_epoch = reached.params, reached.history, None
    if early_stopping and watched:
        best_epoch, *_ = watched(history.get(early_stopping.monitor, []))
        if early_stopping.restore_best and best_epoch is not None:
            params = reached.best
    with interrupts.listening(), interrupts.stopping(), interrupts.raising():
        params = _calibrated(net, params, source.inputs(), comm, parts=shared)
    stopped = "interrupted" if interrupts.stopped else reached.stopped or "done"
    seconds += time.perf_counter() - started
    return FitResult(params, reached.state, history, seconds, cast(Any, stopped), best_epoch)


def predict(net: Layer, params: Tree, x: Any, *, batch_size: int = 1024) -> Any:
    """Return ``net.apply(params, x)``, worked out in batches that fit the cache; x may be a tree of arrays.

    The result shares no memory with `x`. A row of `x` with a NaN gives a NaN: `x` is not searched for them. Raises
    ValueError or TypeError for what does not fit.

    >>> from fmlp.layers import Dense
    >>> predict(Dense(1), {"w": np.array([[2.0]]), "b": np.zeros(1)}, np.array([[1.0], [2.0]]))
    array([[2.],
           [4.]])
    """
    if not isinstance(net, Layer):
        check_net(net)
    if type(batch_size) is not int or batch_size < 1:
        batch_size = integer("batch_size", batch_size)
    x = batching.inputs("x", x)
    n = batching.count_rows(x)
    if n <= batch_size:
        return tree.map(np.array, net.apply(params, batching.take(x, slice(None))))  # Identity() returns x itself
    outputs = [net.apply(params, part) for part in batching.in_turn(x, batching.slices(n, batch_size))]
    return tree.map(lambda *parts: np.concatenate(parts), *outputs)


@hinting
def evaluate(
    net: Layer,
    params: Tree,
    data: tuple[Any, Any],
    *,
    loss: Callable[..., Any] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    weight: Any = None,
    batch_size: int = 1024,
    comm: Any = None,
) -> dict[str, float]:
    """Return the loss, under "loss", and the metrics of the network's predictions at inference.

    `metrics` get ``(y_true, y_pred)`` with y_pred read off the network's output as the loss says (`losses.Loss`): the
    prediction, the probabilities for functions marked by `metrics.on_output`, or without a loss the output itself.
    `weight` gives each row a weight, in the loss and in metrics that have an argument ``weight`` or ``sample_weight``;
    rows of weight 0 are left out, whatever they hold. With `comm`, as in `fit`, the data are those of all ranks: each
    predicts its own, rank 0 works out the metrics, and all return the same.

    Raises ValueError or TypeError before any work for arguments that do not fit, and for a NaN or an infinity in arrays
    that are not memory-mapped.

    >>> from fmlp import metrics
    >>> from fmlp.layers import Dense
    >>> params = {"w": np.eye(2), "b": np.zeros(2)}
    >>> data = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([0, 0])
    >>> scores = evaluate(Dense(2), params, data, loss=losses.cross_entropy, metrics={"accuracy": metrics.accuracy})
    >>> round(scores["loss"], 6), scores["accuracy"]
    (1.126928, 0.5)
    """
    check_net(net)
    if not batching.is_pair(data):
        raise TypeError(f"data: expected a pair (x, y) of arrays, got {batching.kind(data)}")
    if loss is None and not metrics:
        raise ValueError("loss, metrics: expected at least one of them, got neither")
    if loss is not None:
        function("loss", loss, "a function (prediction, y) -> number, such as losses.mse")
        check_output(net.apply, loss)
    _check_metrics(metrics, loss)
    distributed.check_called(comm, "evaluate")
    rows = batching.examples("data", data, weight, comm=comm)
    return _evaluated(net, params, rows, loss, metrics, batch_size, comm)


def _evaluated(
    net: Layer,
    params: Tree,
    rows: batching.Examples,
    loss: Any,
    metrics: Any,
    batch_size: int = 1024,
    comm: Any = None,
) -> dict[str, float]:
    y, weight = rows.y, rows.loss_weight
    output = predict(net, params, rows.x, batch_size=batch_size)
    scores = {}
    if loss is not None:
        if comm is None or len(y):
            scores["loss"] = _number("loss", loss(output, y, **({} if weight is None else {"weight": weight})))
        if comm is not None:
            w = row_weights_of(loss)(y, weight)
            share = float(len(y) if w is None else np.sum(w))
            parts = comm.allgather((scores.get("loss", 0.0), share))
            scores["loss"] = sum(value * share for value, share in parts) / (sum(share for _, share in parts) or 1.0)
    if metrics:
        scores |= _measured(output, rows, loss, metrics, comm)
    return scores if comm is None else cast(dict[str, float], comm.bcast(scores))


def calibrate(net: Layer, params: Tree, x: Any, *, batch_size: int = 1024, comm: Any = None) -> Tree:
    """Return `params` with the population statistics of every BatchNorm worked out from `x`.

    The moments of training-mode batches, with dropout off, are averaged by rows: mean = Σ n m / Σ n, var =
    Σ n (v + (m - mean)²) / Σ n. They are a pure function of the parameters and the data: call it again after more
    training. Without a BatchNorm in `net` the parameters come back as they are. With `comm`, as in `fit`, the data are
    those of all ranks, and the statistics the very ones that one process works out from all the rows.

    Raises ValueError for a NaN or an infinity in arrays that are not memory-mapped, and for batches of one row.

    Wu and Johnson 2021, arXiv 2105.07576.

    >>> from fmlp.layers import BatchNorm
    >>> net = BatchNorm()
    >>> _, params = net.init(random.key(0), (1,))
    >>> calibrate(net, params, np.array([[1.0], [2.0], [6.0]]))["mean"]
    array([3.], dtype=float32)
    """
    check_net(net)
    batch_size = integer("batch_size", batch_size)
    distributed.check_called(comm, "calibrate")
    x = batching.inputs("x", x)
    n = batching.count_rows(x)
    batching.check_finite("x", x)
    if comm is None:
        return _calibrated(net, params, batching.in_turn(x, batching.slices(n, batch_size)))
    here = distributed.Rows(comm, n)
    return _calibrated(net, params, here.whole(x, batching.slices(here.total, batch_size), batching.in_turn), comm)


def on_plateau(monitor: str, plateau: ReduceOnPlateau) -> Callable[[Epoch], Epoch]:
    """Make a callback that sets the learning rate by `schedules.reduce_on_plateau` from ``history[monitor]``.

    The optimizer's learning rate must be a number, the one that `plateau` starts from. Where `plateau` was made without
    a `mode`, the monitored name decides as for `EarlyStopping`. `fit` raises ValueError before any work when `monitor`
    is not recorded, unless other callbacks might record it, or when it does not know which way is better.

    >>> from fmlp import schedules
    >>> callback = on_plateau("val_loss", schedules.reduce_on_plateau(0.1, patience=5))
    """

    if not isinstance(monitor, str):
        raise TypeError(f"monitor: expected a name in the history, such as 'val_loss', got {given(monitor)}")
    if not isinstance(plateau, ReduceOnPlateau):
        raise TypeError(f"plateau: expected what schedules.reduce_on_plateau(...) makes, got {given(plateau)}")
    return _OnPlateau(monitor, plateau)


# ---------------------------------------------------------------------------------------- helpers


class _OnPlateau:
    def __init__(self, monitor: str, plateau: ReduceOnPlateau, metrics: Mapping[str, Metric] | None = None) -> None:
        self.monitor, self.plateau = monitor, plateau
        self.state: _Fold | None = None
        if metrics is not None:  # within `fit`, which knows them
            hint = " of reduce_on_plateau"
            # Without a mode a plateau waits for lower values.
            sign = -1 if plateau.mode is None and _direction(monitor, metrics, hint) == "max" else 1
            self.state = _Fold(plateau.init(), lambda value, state: plateau.update(sign * value, state))

    def __call__(self, epoch: Epoch) -> Epoch:
        if self.state is None:
            return _OnPlateau(self.monitor, self.plateau, {})(epoch)
        if self.monitor not in epoch.history:
            raise ValueError(f"on_plateau: expected to monitor one of {', '.join(epoch.history)}; got {self.monitor!r}")
        learning_rate = self.state(epoch.history[self.monitor]).learning_rate
        return epoch._replace(state=optim.with_learning_rate(epoch.state, learning_rate))


def _with_directions(
    early_stopping: EarlyStopping | None, callbacks: Sequence[Any], metrics: Mapping[str, Metric]
) -> tuple[EarlyStopping | None, list[Any]]:
    """Say, now that the metrics are known, which way is better for what is monitored."""
    if early_stopping is not None and early_stopping.mode is None:
        early_stopping = copy(early_stopping)
        early_stopping.mode = cast(Any, _direction(early_stopping.monitor, metrics, " of EarlyStopping"))
    plateaus = (_OnPlateau(c.monitor, c.plateau, metrics) if isinstance(c, _OnPlateau) else c for c in callbacks)
    return early_stopping, list(plateaus)


def _step(net: Layer, loss: Any, comm: Any, interrupts: Callable[[], bool]) -> Callable[..., tuple[Any, Tree, float]]:
    """Make the function from parameters, batch and key to the loss, the gradient and the batch's weight."""
    if comm is None:
        step, weights = value_and_grad(objective(net.apply, loss)), row_weights_of(loss)

        def alone(params: Tree, x: Any, y: Any, w: Any, key: Key) -> tuple[Any, Tree, float]:
            value, grads = step(params, x, y, key=key, weight=w)
            w = weights(y, w)
            return value, grads, float(batching.count_rows(y) if w is None else np.sum(w))

        return alone
    together = distributed.summed(distributed.objective(net.apply, loss), comm, interrupts)
    return lambda params, x, y, w, start, key: together(params, x, y, key=key, weight=w, start=start)


def _keys(key: Key) -> Iterator[Key]:
    for block in count():
        yield from random.split(random.fold_in(key, block), 256)


def _calibrated(net: Layer, params: Tree, inputs: Iterable[Any], comm: Any = None, *, parts: bool = False) -> Tree:
    """Put the moments of inputs into the parameters; `parts` says that all ranks share each, else each has its own."""
    # Copies, so that each leaf is an object of its own and can be told by its identity. The key is for layers that
    # insist on one in training.
    params, key = tree.map(np.array, params), random.key(0)
    leaves = tree.leaves(params)
    index = {id(leaf): i for i, leaf in enumerate(leaves)}
    found: list[tuple[tuple[int, ...], tuple[Array, Array, int]]] = []
    for x in inputs:
        calibration = Calibration(Shard(comm, batching.count_rows(x)) if parts else None)
        net.apply(params, x, train=calibration, key=key)
        if not calibration.moments:
            break
        for node, mean, var, rows in calibration.moments:
            places = tuple(index.get(id(node[name]), -1) for name in ("mean", "var", "count"))
            if -1 in places:
                raise ValueError(
                    "calibrate: a layer hands copies of its parameters to BatchNorm; expected the very arrays"
                )
            found.append((places, (mean, var, rows)))
    if comm is not None and not parts:
        found = [moments for own in comm.allgather(found) for moments in own]
    gathered: dict[tuple[int, ...], list[tuple[Array, Array, int]]] = {}
    for places, moments in found:
        gathered.setdefault(places, []).append(moments)
    for places, layer in gathered.items():
        means, variances, n = (np.array(m, np.float64) for m in zip(*layer, strict=True))
        mean, var = pooled(means, variances, n)
        var = np.minimum(var, np.finfo(leaves[places[1]].dtype).max)
        for i, statistic in zip(places, (mean, var, n.sum()), strict=True):
            leaves[i] = np.asarray(statistic, leaves[i].dtype)
    return tree.unflatten(params, leaves)


def _scores(
    net: Layer, params: Tree, source: batching.Source, validation: Any, loss: Any, metrics: dict[str, Metric], comm: Any
) -> dict[str, float]:
    """Work out the metrics on the training data, and loss and metrics on the validation data, at inference."""
    scores: dict[str, float] = {}
    if metrics and source.examples:
        train = _evaluated(net, params, source.examples, loss, metrics, comm=comm)
        scores |= {name: train[name] for name in metrics}
    if validation is not None:
        held_out = _evaluated(net, params, validation, loss, metrics, comm=comm)
        scores |= {f"val_{name}": score for name, score in held_out.items()}
    return scores


def _measured(
    output: Array, rows: batching.Examples, loss: Any, metrics: Mapping[str, Metric], comm: Any = None
) -> dict[str, float]:
    """Work out metrics of the predictions, or of the probabilities where they want the output; with ranks on rank 0."""
    predict, y_true, weight = losses.prediction_of(loss), np.asarray(rows.y), rows.weight
    y_pred = y_score = predict(output)
    if any(map(wants_output, metrics.values())):
        y_score = losses.probabilities_of(loss)(output)
    if y_true.shape == np.shape(output) and not _same_width(y_true, y_pred):  # rows of probabilities
        y_true = predict(y_true)
    y_pred, y_score = (p.reshape(y_true.shape) if _same_width(y_true, p) else p for p in (y_pred, y_score))
    if comm is not None:
        gathered = comm.gather((y_true, y_pred, y_score, weight))
        if comm.rank != 0:
            return {}
        *arrays, weights = zip(*gathered, strict=True)
        y_true, y_pred, y_score = map(np.concatenate, arrays)
        weight = weight if weight is None else np.concatenate(weights)
    scores = {}
    for name, metric in metrics.items():
        on_output = wants_output(metric)
        try:
            keyword = weight_keyword(metric) if weight is not None else None
            score = metric(y_true, y_score if on_output else y_pred, **({keyword: weight} if keyword else {}))
        except (TypeError, ValueError, IndexError) as error:
            advice = ""
            if loss is None:
                advice = "; pass loss=, which says how predictions are read off the output"
            elif not on_output and predict is not losses.as_is:
                advice = f"; it got predictions, y_pred of shape {y_pred.shape} and {y_pred.dtype}; {ON_OUTPUT}"
            raise _inside(f"metrics: {name}", error, advice) from error
        scores[name] = _number(f"metrics: {name}", score)
    return scores


def _same_width(a: Array, b: Array) -> bool:
    """Tell whether rows of both hold as many numbers; of no rows, which a rank may have, the shapes tell."""
    return a.size == b.size and prod(a.shape[1:]) == prod(b.shape[1:])


def _try_metrics(net: Layer, params: Tree, rows: batching.Examples, loss: Any, metrics: Mapping[str, Metric]) -> None:
    """Try metrics on all targets before the training starts, next to the network's first two outputs, repeated.

    A lambda or a function within a function may count its calls: they are not tried.
    """
    if not metrics:
        return
    two = np.arange(2) % len(rows.y)
    first = net.apply(params, batching.take(rows.x, two), train=Calibration(), key=random.key(0))
    if not hasattr(first, "shape"):
        raise TypeError(
            f"metrics: expected a network with one output, got {batching.kind(first)}; join the outputs with "
            "fan_in_concat(), or measure in a callback"
        )
    tried = {name: metric for name, metric in metrics.items() if has_a_name(metric)}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        _measured(np.resize(first, (len(rows.y), *first.shape[1:])), rows, loss, tried)


def _shapes(values: Tree, rows: int | str | None = None) -> dict[str, str]:
    """Tell dtypes and shapes, with `rows` in the place of how many there are here."""

    def shape(leaf: Any) -> str:
        lengths = np.shape(leaf) if rows is None else (rows, *np.shape(leaf)[1:])
        return f"({', '.join(map(str, lengths))}{',' * (len(lengths) == 1)})"

    return {path: f"{batching.as_array(leaf).dtype} {shape(leaf)}" for path, leaf in _named_leaves(values)}


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


def _called(callback: Callable[[Epoch], Epoch | None], epoch: Epoch) -> Epoch:
    before = dict(epoch.history)
    returned = callback(epoch)
    if not isinstance(returned, Epoch | None):
        raise TypeError(f"callbacks: expected an Epoch or None from {callback!r}, got {returned!r}")
    now = returned or epoch
    expected = f"callbacks: expected {callback!r} to leave a history of names and lists of numbers, got"
    if not isinstance(now.history, dict):
        raise TypeError(f"{expected} {given(now.history)}")
    for name, values in now.history.items():
        if values is not before.get(name) and not (
            isinstance(name, str) and isinstance(values, Sequence) and all(map(_is_number, values))
        ):
            raise TypeError(f"{expected} {given(values)} as {name!r}")
    return now


def _check_same_shape(x: Tree, validation: Tree) -> None:
    shapes, others = ([np.shape(a)[1:] for a in tree.leaves(part)] for part in (x, validation))
    if shapes != others:
        raise ValueError(f"validation: expected examples of shape {shapes}, as in training, got {others}")


def _check_targets(name: str, net: Layer, params: Tree, loss: Any, data: batching.Examples, rows: int = 2) -> None:
    """Let a loss of fmlp's own look at all targets before the training starts, next to an output of zeros."""
    x, y = data.x, data.y
    if not len(y) or unbound(loss).__module__ != losses.__name__:  # a rank may have no rows
        return
    try:
        first = net.apply(params, batching.take(x, np.arange(rows) % len(y)), train=Calibration(), key=random.key(0))
    except (TypeError, ValueError) as error:
        tried = f" (tried with {rows} rows; x has shape {np.shape(x)})" if hasattr(x, "shape") else ""
        where = "" if name == "data" else f"{name}: "
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{where}{error}{tried}") from None
    if not isinstance(first, np.ndarray):
        return
    for part in batching.slices(len(y), 1 << 16):
        try:
            loss(np.zeros((len(y[part]), *first.shape[1:]), first.dtype), y[part])
        except (TypeError, ValueError) as error:
            raise _inside(name, error) from None


def _inside(name: str, error: Exception, advice: str = "") -> Exception:
    return (TypeError if isinstance(error, TypeError) else ValueError)(f"{name}: {error}{advice}")


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
    if all(isinstance(callback, _OnPlateau) for callback in callbacks):  # others may add to the history
        monitors += [("on_plateau", callback.monitor) for callback in callbacks]
    for name, monitor in monitors:
        if monitor not in known:
            raise ValueError(f"{name}: expected to monitor one of {', '.join(known)}; got {monitor!r}")


def _check_metrics(metrics: Any, loss: Any) -> None:
    if not isinstance(metrics, Mapping | None):
        raise TypeError(
            "metrics: expected a dict from names to functions (y_true, y_pred) -> float, such as "
            f"{{'accuracy': fmlp.metrics.accuracy}}, got {given(metrics)}"
        )
    for name, metric in (metrics or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"metrics: expected names as keys, got {given(name)}")
        function(f"metrics: {name}", metric, "a function (y_true, y_pred) -> float")
        if losses.prediction_of(loss) is not losses.as_is and (wanted := wants_scores(metric)):
            raise ValueError(f"metrics: {name}: it takes {wanted}, but would get predictions; {ON_OUTPUT}")


def _check_params(params: Tree) -> None:
    for path, leaf in _named_leaves(params):
        array = np.asarray(unmasked(f"params: {path}", leaf))
        if array.dtype.kind not in "fiub":
            raise TypeError(f"params: expected arrays of numbers, got {given(leaf)} in {path}")
        if not np.isfinite(array).all():
            raise ValueError(f"params: expected finite numbers, got NaN or infinity in {path}")


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub")


def _number(name: str, value: Any) -> float:
    if not _is_number(value):
        raise TypeError(f"{name}: expected it to return a number, got {given(value)}")
    return float(value)


def _first_non_finite(values: Tree) -> str | None:
    return next((path for path, leaf in _named_leaves(values) if not np.isfinite(leaf).all()), None)


def _named_leaves(values: Tree) -> Iterator[tuple[str, Any]]:
    for path, leaf in zip(tree.paths(values), tree.leaves(values), strict=True):
        yield path or "the only leaf", leaf


def _non_finite(epoch: int, step: int, value: Any, params: Tree, before: Tree, grads: Tree) -> NonFiniteError:
    """Find out what went wrong first: the gradient of the step before, its update, or this step's loss."""
    where = f"epoch {epoch}, step"
    if grads is not None and (leaf := _first_non_finite(grads)):
        return NonFiniteError(f"{where} {step - 1}: the gradient of {leaf} is not finite", before)
    if leaf := _first_non_finite(params):
        return NonFiniteError(
            f"{where} {step - 1}: the update made {leaf} infinite; is the learning rate too high?", before
        )
    largest = {path: np.abs(leaf).max(initial=0) for path, leaf in _named_leaves(params)}
    path = max(largest, key=largest.__getitem__)
    return NonFiniteError(
        f"{where} {step}: the loss is {value} though all parameters are finite; the largest is {largest[path]:.3g}, in "
        f"{path}: is the learning rate too high, or is there a NaN, an infinity or a number too large in the data?",
        params,
    )
