"""Watch a training after each epoch: early stopping, learning rates that follow a score, and users' callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from math import inf, isnan
from typing import Any, Literal, cast

import numpy as np

from fmlp import losses, optim, tree
from fmlp import metrics as own
from fmlp.arguments import choice, given, hinting, integer, is_number, number
from fmlp.autodiff import unbound
from fmlp.checkpoint import Epoch
from fmlp.optim import Optimizer
from fmlp.schedules import ReduceOnPlateau
from fmlp.tree import Tree

__all__ = ["EarlyStopping", "Epoch", "on_plateau"]

Metric = Callable[[Any, Any], float]
History = dict[str, list[float]]


class EarlyStopping:
    """Stop if ``history[monitor]`` has not improved by more than `min_delta` for `patience` epochs; NaN is no better.

    `mode`, "min" or "max", says which way is better. You can leave it out for ``loss``, for a metric with an attribute
    ``higher_is_better``, True or False, as the functions of `fmlp.losses` and `fmlp.metrics` have it, and for a name of
    one of these functions; each with or without ``val_``. For any other name, `fit` raises ValueError before any work.

    With a `baseline`, an epoch counts as an improvement only if it also beats the baseline; training does not stop
    after its first epoch. Epochs before `start_from_epoch` (counted from 0) are ignored. With `restore_best`, the
    result has the best epoch's parameters, whatever the baseline. Raises ValueError for settings out of range,
    TypeError for settings of another type. Keras: EarlyStopping.

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

        Raises ValueError if `mode` was not given and fmlp does not know the name `monitor`.
        """
        best, stop, *_ = fold_of(self)(values)
        return best, stop


def fold_of(early_stopping: EarlyStopping) -> Fold:
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

    return Fold((None, False, 0, inf, start - 1), update)


class Fold:
    """Fold a list of values with ``update(value, state)``, and keep the result, so that only new values cost time."""

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


def _direction(monitor: str, metrics: Mapping[str, Metric] = {}, hint: str = "") -> str:
    """Return "min" if low values are better, else "max": ask the metric, or else fmlp's own function of this name."""
    name = monitor.removeprefix("val_")
    for metric in (metrics.get(name), getattr(own, name, None), getattr(losses, name, None)):
        higher = getattr(unbound(cast(Any, metric)), "higher_is_better", None)
        if isinstance(higher, bool):
            return "max" if higher else "min"
    if name == "loss":
        return "min"
    raise ValueError(
        f"mode: expected 'min' or 'max'{hint}, got None; fmlp knows which is better for its own losses and metrics, "
        f"but not for {monitor!r}"
    )


def on_plateau(monitor: str, plateau: ReduceOnPlateau) -> Callable[[Epoch], Epoch]:
    """Make a callback that sets the learning rate by `schedules.reduce_on_plateau` from ``history[monitor]``.

    The optimizer's learning rate must be the number that `plateau` starts from. If `plateau` was made without a `mode`,
    the monitored name decides, as for `EarlyStopping`. `fit` raises ValueError before any work if the optimizer has
    another rate, several different rates, a schedule or no rate; if `monitor` is not recorded and no other callback
    might record it; or if fmlp does not know which way is better.

    >>> from fmlp import schedules
    >>> callback = on_plateau("val_loss", schedules.reduce_on_plateau(0.1, patience=5))
    """

    if not isinstance(monitor, str):
        raise TypeError(f"monitor: expected a name in the history, such as 'val_loss', got {given(monitor)}")
    if not isinstance(plateau, ReduceOnPlateau):
        raise TypeError(f"plateau: expected schedules.reduce_on_plateau(...), got {given(plateau)}")
    return _OnPlateau(monitor, plateau)


class _OnPlateau:
    def __init__(self, monitor: str, plateau: ReduceOnPlateau, metrics: Mapping[str, Metric] | None = None) -> None:
        self.monitor, self.plateau = monitor, plateau
        self.state: Fold | None = None
        if metrics is not None:  # inside `fit`, which knows the metrics
            hint = " of reduce_on_plateau"
            # A plateau without a mode expects falling values.
            sign = -1 if plateau.mode is None and _direction(monitor, metrics, hint) == "max" else 1
            self.state = Fold(plateau.init(), lambda value, state: plateau.update(sign * value, state))

    def check(self, optimizer: Optimizer, state: Any, params: Tree) -> None:
        """Raise ValueError unless the optimizer starts at the plateau's rate and keeps any rate that it is given."""
        start = self.plateau.init().learning_rate
        expected = f"on_plateau: expected an optimizer of learning rate {start}, where reduce_on_plateau starts"
        rates = optim.learning_rates(state)
        if set(rates) != {start}:
            raise ValueError(f"{expected}, got {' and '.join(map(str, rates)) or 'one without a rate'}")
        other = float(np.nextafter(start, inf))
        zeros, told = tree.map(np.zeros_like, params), optim.with_learning_rate(state, other)
        if set(optim.learning_rates(optimizer.update(zeros, told, params)[1])) != {other}:
            raise ValueError(f"{expected}, got a schedule, which sets its own")

    def __call__(self, epoch: Epoch) -> Epoch:
        if self.monitor not in epoch.history:
            raise ValueError(f"on_plateau: expected to monitor one of {', '.join(epoch.history)}; got {self.monitor!r}")
        values, fold = epoch.history[self.monitor], self.state
        if fold is None:  # called by another callback: `fit` could not check the optimizer
            fold = cast(Fold, _OnPlateau(self.monitor, self.plateau, {}).state)
            rates, last = optim.learning_rates(epoch.state), fold(values[:-1]).learning_rate
            if set(rates) != {last}:
                found = " and ".join(map(str, rates)) or "one without a rate"
                raise ValueError(f"on_plateau: expected an optimizer of learning rate {last}, got {found}")
        learning_rate = fold(values).learning_rate
        return epoch._replace(state=optim.with_learning_rate(epoch.state, learning_rate))


def with_directions(
    early_stopping: EarlyStopping | None, callbacks: Sequence[Any], metrics: Mapping[str, Metric]
) -> tuple[EarlyStopping | None, list[Any]]:
    """Set which way is better for the monitored values, now that the metrics are known."""
    if early_stopping is not None and early_stopping.mode is None:
        early_stopping = copy(early_stopping)
        early_stopping.mode = cast(Any, _direction(early_stopping.monitor, metrics, " of EarlyStopping"))
    plateaus = (_OnPlateau(c.monitor, c.plateau, metrics) if isinstance(c, _OnPlateau) else c for c in callbacks)
    return early_stopping, list(plateaus)


def is_plateau(callback: Any) -> bool:
    """Tell whether `on_plateau` made a callback."""
    return isinstance(callback, _OnPlateau)


def called(callback: Callable[[Epoch], Epoch | None], epoch: Epoch) -> Epoch:
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
            isinstance(name, str) and isinstance(values, Sequence) and all(map(is_number, values))
        ):
            raise TypeError(f"{expected} {given(values)} as {name!r}")
    return now
