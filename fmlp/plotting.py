"""Plots, drawn with matplotlib (``pip install 'fmlp[plot]'``), which is imported only when needed.

Each function draws on the Axes given as `ax`, or on a new Figure, and returns the Figure: ``figure.savefig(path)``.
Nothing uses pyplot or its global state, so plots can be drawn without a display and from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fmlp.arguments import array_of_numbers, finite, function, given, integer, number, unmasked
from fmlp.arguments import schedule as checked_schedule
from fmlp.autodiff import vjp
from fmlp.tree import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_activation", "plot_decision_boundary", "plot_history", "plot_schedule"]

COLORS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#db2777", "#4b5563", "#65a30d")


def plot_history(history: Mapping[str, Sequence[float]], *, best_epoch: int | None = None) -> Figure:
    """Draw each quantity of a `FitResult.history` by epoch, one panel each, training and validation together.

    `best_epoch`, counted from 0, is marked. Raises ValueError or TypeError when `history` is not a history.

    >>> figure = plot_history({"loss": [1.0, 0.5], "val_loss": [1.1, 0.7], "lr": [0.1, 0.01]})
    >>> [ax.get_title() for ax in figure.axes]
    ['loss', 'lr']
    """
    if not isinstance(history, Mapping):
        raise TypeError(f"history: expected a dict, such as result.history, got {given(history)}")
    for name, values in history.items():
        if np.ndim(values) != 1 or np.asarray(values).dtype.kind not in "fiub":
            raise TypeError(f"history: expected a list of numbers as {name!r}, got {given(values)}")
    if best_epoch is not None:
        best_epoch = integer("best_epoch", best_epoch, 0)
    names = list(dict.fromkeys(name.removeprefix("val_") for name in history))
    if not names:
        raise ValueError("history: expected at least one recorded quantity, got none")
    names.sort(key=lambda name: (name == "lr", name != "loss"))
    figure = _figure(width=4.2 * len(names), height=3.2)
    for i, name in enumerate(names):
        ax = figure.add_subplot(1, len(names), i + 1)
        _tidy(ax, name, "epoch")
        for j, (key, label) in enumerate(((name, "training"), (f"val_{name}", "validation"))):
            if key in history:
                epochs = np.arange(1, len(history[key]) + 1)
                ax.plot(epochs, history[key], color=COLORS[j], label=label, linewidth=1.6)
        if best_epoch is not None:
            ax.axvline(best_epoch + 1, color="#9ca3af", linestyle=":", label="best")
        if name == "lr":
            ax.set_ylim(bottom=0)
        else:
            ax.legend(frameon=False)
    return figure


def plot_decision_boundary(
    predict: Callable[[Array], Any], x: Any, y: Any, *, resolution: int = 300, ax: Axes | None = None
) -> Figure:
    """Draw ``predict(points)`` over the plane, and the points `x`, shape (rows, 2), in the colours of their labels.

    `predict` maps points (n, 2) to n labels, or to n other numbers, such as probabilities, the output of a tanh or the
    prediction of a regression. Numbers are shaded; if they lie between two labels, a line marks the middle. `y` holds
    labels, or targets: more than ten different numbers, not all of them whole.

    Raises ValueError unless `x` has shape (rows, 2), `y` has as many rows, and `predict` returns n labels or finite
    numbers; TypeError when one of `y` and `predict` is text and the other is not.

    >>> x = np.array([[-1.0, -1.0], [1.0, 1.0]])
    >>> figure = plot_decision_boundary(lambda p: np.sign(p.sum(1)), x, np.array([-1, 1]), resolution=20)
    >>> figure = plot_decision_boundary(lambda p: np.tanh(p.sum(1)), x, np.array([-1, 1]), resolution=20)
    """
    function("predict", predict, "a function from points (n, 2) to n labels")
    x, y, resolution = (
        np.asarray(array_of_numbers("x", x)),
        np.asarray(unmasked("y", y)).reshape(-1),
        integer("resolution", resolution),
    )
    if x.ndim != 2 or x.shape[1] != 2 or len(x) != len(y) or not len(x):
        raise ValueError(f"x, y: expected shapes (rows, 2) and (rows,), rows > 0, got {x.shape} and {y.shape}")
    finite("x", x)
    finite("y", y)
    margin = 0.08 * np.ptp(x, axis=0) + 1e-9
    (left, bottom), (right, top) = x.min(0) - margin, x.max(0) + margin
    across, up = np.meshgrid(np.linspace(left, right, resolution), np.linspace(bottom, top, resolution))
    said = np.asarray(unmasked("predict", predict(np.stack([across.ravel(), up.ravel()], 1))))
    if said.size != across.size:
        raise ValueError(f"predict: expected it to return {across.size} labels, got {given(said)}")
    finite("predict", said)
    if (y.dtype.kind in "biuf") != (said.dtype.kind in "biuf"):
        raise TypeError(f"predict: expected labels like those in y, {given(y)}, got {given(said)}")
    said, labels = said.reshape(across.shape), np.unique(y)
    targets = not _all_whole(y) and len(labels) > len(COLORS)
    figure, ax = _axes(ax, width=4.6, height=4.2)
    dots: dict[str, Any] = {"s": 9, "linewidths": 0}
    if targets or not (_all_whole(said) or np.isin(said, labels).all()):
        colors = _shade(ax, across, up, said, labels)
        dots = {"s": 12, "linewidths": 0.4, "edgecolors": "#4b5563"}
    else:
        from matplotlib.colors import ListedColormap

        labels = np.unique(np.concatenate([y, said.ravel()]))
        colors = _colors(len(labels))
        ax.imshow(
            np.searchsorted(labels, said), origin="lower", extent=(left, right, bottom, top), alpha=0.2, aspect="auto",
            cmap=ListedColormap(colors), vmin=0, vmax=len(labels) - 1,
        )  # fmt: skip
    if len(labels) > len(COLORS):
        ax.scatter(x[:, 0], x[:, 1], c=colors[np.searchsorted(labels, y)], **dots)
    else:
        for label, color in zip(labels.tolist(), colors, strict=True):
            text = f"{label:g}" if isinstance(label, float) else str(label)
            ax.scatter(x[y == label, 0], x[y == label, 1], facecolors=color, label=text, **dots)
        ax.legend(frameon=False, markerscale=2, loc="upper left")
    _tidy(ax, grid=False)
    return figure


def _all_whole(values: Array) -> bool:
    return values.dtype.kind != "f" or not (values % 1).any()


def _shade(ax: Axes, across: Array, up: Array, said: Array, labels: Array) -> Array:
    """Shade the predictions, with a line between two labels; return the colours of the labels or targets."""
    low, high = float(min(said.min(), labels[0])), float(max(said.max(), labels[-1]))
    shades = ax.contourf(across, up, said, np.linspace(low, max(high, low + 1e-9), 11), cmap="RdBu_r", alpha=0.6)
    ax.figure.colorbar(shades, ax=ax)
    middle = (low + high) / 2
    if labels.tolist() == [low, high] and said.min() < middle < said.max():
        ax.contour(across, up, said, [middle], colors="#4b5563", linewidths=1.2)
    places = (labels - low) / (high - low) if len(labels) > len(COLORS) else np.linspace(0, 1, len(labels))
    return shades.cmap(places)


def _colors(n: int) -> Array:
    """Return n colours as rows of red, green, blue and alpha."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba_array

    return to_rgba_array(COLORS[:n]) if n <= len(COLORS) else colormaps["turbo"](np.linspace(0, 1, n))


def plot_schedule(schedule: Callable[[int], float], steps: int, *, label: str = "", ax: Axes | None = None) -> Figure:
    """Draw the learning rate of a schedule for the counts 0 to ``steps - 1``.

    Raises TypeError when `schedule` is not a schedule, ValueError unless ``steps ≥ 1``.

    >>> from fmlp import schedules
    >>> figure = plot_schedule(schedules.cosine_lr(0.1, 100), 200)
    """
    checked_schedule("schedule", schedule, "(-inf, inf)")
    steps = integer("steps", steps)
    figure, ax = _axes(ax)
    ax.plot(
        range(steps),
        [schedule(count) for count in range(steps)],
        color=None if label else COLORS[0],
        label=label or None,
    )
    if label:
        ax.legend(frameon=False)
    _tidy(ax, "learning rate", "count")
    return figure


def plot_activation(
    f: Callable[..., Any], *, low: float = -4.0, high: float = 4.0, ax: Axes | None = None, **settings: Any
) -> Figure:
    """Draw an activation and its derivative, computed by its vjp, from `low` to `high`.

    For a function of vectors, such as softmax, this draws the first component of ``f(x, 0)``.

    Raises TypeError when `f` has no vjp, ValueError unless ``low < high``.

    >>> from fmlp import activations
    >>> figure = plot_activation(activations.leaky_relu, negative_slope=0.2)
    """
    low, high = number("low", low, "(-inf, inf)"), number("high", high, "(-inf, inf)")
    if low >= high:
        raise ValueError(f"low: expected a number below high, {high}, got {low}")
    x = np.linspace(low, high, 801)
    y, pullback = vjp(f, x, **settings)
    slope = pullback(np.ones_like(x))[0]
    if not np.allclose(f(x[:1], **settings), y[:1]):
        y, pullback = vjp(f, np.stack([x, np.zeros_like(x)], 1), **settings)
        y, slope = y[:, 0], pullback(np.tile([1.0, 0.0], (len(x), 1)))[0][:, 0]
    figure, ax = _axes(ax)
    ax.plot(x, y, color=COLORS[0], linewidth=1.8, label="f")
    ax.plot(x, slope, color=COLORS[1], linewidth=1.4, linestyle="--", label="f′")
    ax.legend(frameon=False)
    _tidy(ax, getattr(f, "__name__", ""))
    return figure


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError("fmlp.plotting needs matplotlib: pip install 'fmlp[plot]'") from None
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _axes(ax: Axes | None, width: float = 4.6, height: float = 3.2) -> tuple[Figure, Axes]:
    if ax is None:
        figure = _figure(width, height)
        return figure, figure.add_subplot()
    if not hasattr(ax, "figure"):
        raise TypeError(f"ax: expected matplotlib's Axes, got {given(ax)}")
    return ax.figure, ax  # type: ignore[return-value]  # a SubFigure serves as well


def _tidy(ax: Axes, title: str = "", xlabel: str = "", *, grid: bool = True) -> None:
    ax.set_title(title, fontsize=11)
    ax.set_xlabel(xlabel)
    ax.spines[["top", "right"]].set_visible(False)
    if grid:
        ax.grid(color="#e5e7eb", linewidth=0.8)
        ax.set_axisbelow(True)
