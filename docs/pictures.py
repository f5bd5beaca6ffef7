"""Draw the pictures of the README and of the documentation: ``python docs/pictures.py``, about a minute.

The pages of the gallery that list activations and schedules are written here too, from what the package holds. Pictures
of the gallery have no background and grey letters, so that they suit light and dark pages.
"""

import inspect
import os
import re
from collections.abc import Callable
from math import inf, pi
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import fmlp
from fmlp import activations, losses, metrics, optim, random, schedules
from fmlp.layers import Dense, Dropout, Elu, Relu, serial
from fmlp.plotting import COLORS, plot_activation, plot_decision_boundary, plot_schedule

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
GREY = "#858c99"
STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "fmlp",
    **dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], GREY),
}


# ---------------------------------------------------------------------------------------- README


def spirals(rows: int = 1200, arms: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Points along `arms` spirals, with their arm as label."""
    generator = random.generator(random.key(0))
    y = np.arange(rows) % arms
    r = np.sqrt(generator.uniform(0.02, 1, rows))
    angle = 2 * np.pi * (y / arms + 0.9 * r)
    x = r[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1) + generator.normal(0, 0.035, (rows, 2))
    return x.astype(np.float32), y


def overview() -> Figure:
    """A decision boundary, its history, an activation and a schedule."""
    x, y = spirals()
    net = serial(Dense(64), Elu(), Dense(64), Elu(), Dropout(0.05), Dense(32), Elu(), Dense(3))
    _, params = net.init(random.key(1), (2,))
    epochs, batch_size = 60, 32
    schedule = schedules.one_cycle_lr(5e-3, epochs * -(-960 // batch_size))
    result = fmlp.fit(
        net, params, (x, y), loss=losses.cross_entropy, optimizer=optim.adam(schedule), epochs=epochs,
        batch_size=batch_size, key=random.key(2), validation=0.2, metrics={"accuracy": metrics.accuracy},
    )  # fmt: skip
    figure = Figure(figsize=(14, 3.6), dpi=110, layout="constrained")
    boundary, history, activation, rate = figure.subplots(1, 4)
    plot_decision_boundary(lambda points: fmlp.predict(net, result.params, points).argmax(1), x, y, ax=boundary)
    boundary.set_title(f"predict, after {result.seconds:.1f} s of fit", fontsize=11)
    for name, label, color in (("loss", "training loss", COLORS[0]), ("val_loss", "validation loss", COLORS[1])):
        history.plot(result.history[name], label=label, color=color)
    history.plot(result.history["val_accuracy"], label="validation accuracy", color=COLORS[2])
    history.legend(frameon=False)
    history.set_title("result.history", fontsize=11)
    history.set_xlabel("epoch")
    history.spines[["top", "right"]].set_visible(False)
    history.grid(color="#e5e7eb")
    plot_activation(activations.mish, ax=activation)
    activation.set_title("activations.mish and its derivative", fontsize=11)
    plot_schedule(schedule, epochs * 30, ax=rate)
    rate.set_title("schedules.one_cycle_lr", fontsize=11)
    return figure


# -------------------------------------------------------------------------------------- tutorial


def tutorial() -> None:
    """Run the code of the tutorial, which saves its pictures."""
    code = re.findall(r"^```python\n(.*?)^```", (DOCS / "tutorial.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    here = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            exec("\n".join(code), {})
            for picture in Path(folder).glob("*.png"):
                (IMAGES / f"tutorial_{picture.name}").write_bytes(picture.read_bytes())
        finally:
            os.chdir(here)


# --------------------------------------------------------------------------------------- gallery


def panel(width: float = 3.2, height: float = 2.2) -> tuple[Figure, Any]:
    """Make an empty picture."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    return figure, figure.subplots()


def tidy(ax: Any, title: str = "", xlabel: str = "") -> None:
    """Make a plot suit light and dark pages."""
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(xlabel)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color=GREY, alpha=0.25, linewidth=0.6)


def save(figure: Figure, name: str) -> None:
    """Write a picture of the gallery, the same bytes for the same picture."""
    kind = {"metadata": {"Date": None}} if name.endswith(".svg") else {}
    figure.savefig(IMAGES / "gallery" / name, transparent=True, **kind)


def card(picture: str, alt: str, text: str) -> str:
    """Write a picture and what is said about it as Markdown."""
    return (
        f"<figure markdown>\n\n![{alt}](../images/gallery/{picture})\n\n"
        f"<figcaption markdown>\n\n{text}\n\n</figcaption>\n</figure>\n"
    )


def page(name: str, text: str, cards: list[str]) -> None:
    """Write a page of the gallery."""
    made = "---\nhide: [toc]\n---\n<!-- written by docs/pictures.py -->\n"
    grid = '<div class="gallery" markdown>\n\n' + "\n".join(cards) + "\n</div>\n"
    (DOCS / "gallery" / f"{name}.md").write_text(f"{made}\n{text}\n\n{grid}", "utf-8")


SETTINGS = {"threshold": {"threshold": 1.0, "value": -1.0}}
RANGES = {"relu6": {"low": -3.0, "high": 9.0}}
VECTOR = ("softmax", "log_softmax")


def draw_activations() -> None:
    """Draw each activation with its derivative, and write their page."""
    cards = []
    for name, f in activations.table.items():
        figure, ax = panel()
        settings = SETTINGS.get(name, {})
        plot_activation(f, ax=ax, **settings, **RANGES.get(name, {}))
        tidy(ax)
        save(figure, f"{name}.svg")
        layer = "".join(word.capitalize() for word in name.split("_"))
        formula = inspect.getdoc(f).splitlines()[0]
        arguments = ", ".join(f"{key}={value}" for key, value in settings.items())
        shown = f"layer `{layer}({arguments})`" + "; drawn: the first component of f(x, 0)" * (name in VECTOR)
        text = f"[**{name}**](../api/activations.md#fmlp.activations.{name}), {shown}<br>{formula}"
        cards.append(card(f"{name}.svg", f"{name} and its derivative", text))
    page(
        "activations",
        "# Activations\n\nEvery entry of `fmlp.activations.table`, with its default settings: the function f (blue) "
        "and the derivative f′ (orange, dashed) that its vjp gives. How to use one of your own: "
        "[a layer of your own](../howto/custom_layer.md).",
        cards,
    )


SCHEDULES = {
    "constant(0.1)": "always the same; what a number in place of a schedule means",
    "constant_lr(0.1, factor=0.5, total_iters=20)": "a fraction at first, then all of it",
    "step_lr(0.1, step_size=25, gamma=0.5)": "multiplied every so many counts",
    "multi_step_lr(0.1, milestones=[30, 80], gamma=0.3)": "multiplied at the counts named",
    "exponential_lr(0.1, gamma=0.97)": "multiplied at every count",
    "cosine_lr(0.1, T_max=100)": "half a cosine; beyond it, up again",
    "hold(cosine_lr(0.1, T_max=80, eta_min=0.01), 80)": "any schedule, which then keeps the value that it has reached",
    "cosine_warm_restarts(0.1, T_0=20, T_mult=2)": "half a cosine, again and again, each longer than the one before",
    "cyclic_lr(0.01, 0.1, step_size_up=15, mode='triangular2')": "up and down in straight lines, each half as high",
    "linear(0.1, start_factor=1.0, end_factor=0.1, total_iters=80)": "a straight line, then level",
    "polynomial(0.1, total_iters=100, power=2.0)": "down to 0 along a power",
    "one_cycle_lr(0.1, total_steps=100)": "up, then far down: the 1cycle policy",
    "warmup(cosine_lr(0.1, T_max=80), steps=20, start_factor=0.0)": "a straight line up, then another schedule",
    "join([0.1, exponential_lr(0.05, gamma=0.95)], boundaries=[40])": "one schedule after the other",
    "product(cosine_lr(0.1, T_max=100), step_lr(1.0, step_size=25, gamma=0.8))": "schedules multiplied",
    "per_epoch(step_lr(0.1, step_size=2, gamma=0.5), steps_per_epoch=20)": "counts steps, changes by epochs",
    "reduce_on_plateau(0.1, factor=0.5, patience=5)": "lower when a metric (grey) has not improved for a while; "
    "not a function of the count, so it goes to `fit` as a callback, [`on_plateau`](../howto/early_stopping.md)",
}


def draw_schedules() -> None:
    """Draw each schedule, and write their page."""
    cards = []
    for code, text in SCHEDULES.items():
        name = code.split("(")[0]
        schedule = eval(code, vars(schedules).copy())
        figure, ax = panel()
        if isinstance(schedule, schedules.ReduceOnPlateau):
            generator = random.generator(random.key(0))
            metric = 0.02 + 0.08 * np.exp(-np.arange(100) / 15) + generator.normal(0, 0.001, 100)
            states = [schedule.init()]
            for value in metric[:-1]:
                states.append(schedule.update(value, states[-1]))
            rates = [state.learning_rate for state in states]
            ax.plot(metric, color=GREY, linewidth=1)
            plot_schedule(rates.__getitem__, 100, ax=ax)
        else:
            plot_schedule(schedule, 120, ax=ax)
        tidy(ax)
        ax.set_ylim(0, 0.108)
        save(figure, f"{name}.svg")
        cards.append(card(f"{name}.svg", f"{name}, against the count", f"`{code}`<br>{text[0].upper()}{text[1:]}."))
    page(
        "schedules",
        "# Schedules\n\nThe learning rate against the count, for every function of "
        "[`fmlp.schedules`](../api/schedules.md). An optimizer counts its steps, one for each batch; `per_epoch` "
        "makes a schedule count epochs.",
        cards,
    )


OPTIMIZERS = {
    "sgd": optim.sgd,
    "sgd, momentum 0.9": lambda lr: optim.sgd(lr, 0.9),
    "adagrad": optim.adagrad,
    "adadelta": optim.adadelta,
    "rmsprop": optim.rmsprop,
    "adam": optim.adam,
    "adamax": optim.adamax,
    "radam": optim.radam,
    "nadam": optim.nadam,
    "lion": optim.lion,
}
RATES = [a * 10.0**b for b in range(-4, 1) for a in (1, 3)]


def best_rate(run: Callable[[float], tuple[float, Any]]) -> tuple[float, Any]:
    """Return the learning rate of `RATES` with the least result, and what belongs to it."""
    runs = {}
    for lr in RATES:
        try:
            runs[lr] = run(lr)
        except (fmlp.NonFiniteError, FloatingPointError):
            runs[lr] = (inf, None)
    lr = min(runs, key=lambda lr: runs[lr][0])
    return lr, runs[lr][1]


@fmlp.differentiable
def valley(params):
    """Rosenbrock's banana-shaped valley, (1 - x)² + 20 (y - x²)², with its least value at (1, 1)."""
    x, y = params["x"], params["y"]

    def pullback(dz):
        yield {"x": dz * (-2 * (1 - x) - 80 * x * (y - x * x)), "y": dz * 40 * (y - x * x)}

    return (1 - x) ** 2 + 20 * (y - x * x) ** 2, pullback


VALLEY = np.array([[-1.7, -0.6], [1.5, 2.1]])  # the corners of the picture


def down_the_valley(optimizer: optim.Optimizer, steps: int = 150) -> tuple[float, Any]:
    """Walk from (-1, 1.6), and return the mean of log height, infinite outside the picture, and the way."""
    params = {"x": np.float64(-1.0), "y": np.float64(1.6)}
    state = optimizer.init(params)
    way = [(params["x"], params["y"])]
    with np.errstate(over="raise", invalid="raise"):
        for _ in range(steps):
            updates, state = optimizer.update(fmlp.grad(valley)(params), state, params)
            params = optim.apply_updates(params, updates)
            way.append((float(params["x"]), float(params["y"])))
    way = np.array(way)
    if (way < VALLEY[0]).any() or (way > VALLEY[1]).any():
        return inf, way
    return float(np.mean(np.log([valley({"x": x, "y": y}) + 1e-12 for x, y in way]))), way


def on_digits(optimizer: optim.Optimizer) -> tuple[float, Any]:
    """Train on the digits, and return the mean of the logarithm of the loss, and the losses."""
    x, y, _, _ = fmlp.data.load(DOCS.parent / "data" / "digits.npz")
    net = serial(Dense(32), Elu(), Dense(10))
    _, params = net.init(random.key(0), (64,))
    result = fmlp.fit(
        net, params, (x / 16, y), loss=losses.cross_entropy, optimizer=optimizer, epochs=15, key=random.key(1),
        progress=False,
    )  # fmt: skip
    return float(np.mean(np.log(result.history["loss"]))), result.history["loss"]


def draw_optimizers() -> None:
    """Draw the race down the valley and the one on the digits."""
    figure, ax = panel(5.6, 3.2)
    x, y = np.meshgrid(*np.linspace(*VALLEY, 300).T)
    levels = np.geomspace(0.05, 400, 12)
    ax.contour(x, y, valley({"x": x, "y": y}), levels, colors=GREY, alpha=0.45, linewidths=0.6)
    for color, (name, make) in zip(COLORS, OPTIMIZERS.items(), strict=False):
        lr, way = best_rate(lambda lr, make=make: down_the_valley(make(lr)))
        ax.plot(*way.T, color=color, linewidth=1.2, marker=".", markersize=2.5, label=f"{name}, {lr:g}")
    ax.plot(1, 1, marker="*", color=GREY, markersize=11)
    ax.set(xlim=VALLEY[:, 0], ylim=VALLEY[:, 1])
    tidy(ax)
    ax.grid(visible=False)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), title="optimizer, learning rate")
    save(figure, "valley.png")

    figure, ax = panel(5.6, 3.2)
    for color, (name, make) in zip(COLORS, OPTIMIZERS.items(), strict=False):
        lr, curve = best_rate(lambda lr, make=make: on_digits(make(lr)))
        ax.semilogy(range(1, len(curve) + 1), curve, color=color, linewidth=1.4, label=f"{name}, {lr:g}")
    tidy(ax, xlabel="epoch")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), title="optimizer, learning rate")
    save(figure, "digits.svg")


def moons(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two half moons that overlap."""
    generator = random.generator(random.key(seed))
    y = np.arange(rows) % 2
    angle = generator.uniform(0, pi, rows)
    x = np.stack([np.cos(angle), np.sin(angle)], 1)
    x[y == 1] = np.array([1.0, 0.5]) - x[y == 1]
    return (x + generator.normal(0, 0.35, x.shape)).astype(np.float32), y


DECAYS = (0.0, 0.0003, 0.001, 0.01, 0.03, 0.1)
DROPOUTS = (0.0, 0.2, 0.5, 0.7, 0.8, 0.9)


def draw_regularization() -> None:
    """Draw the decision boundary as weight decay and dropout grow."""
    train, test = moons(160, 0), moons(10_000, 1)

    def picture(name: str, title: str, rate: float = 0.0, weight_decay: float = 0.0) -> None:
        net = serial(Dense(128), Relu(), Dropout(rate), Dense(128), Relu(), Dropout(rate), Dense(2))
        _, params = net.init(random.key(0), (2,))
        result = fmlp.fit(
            net, params, train, loss=losses.cross_entropy, epochs=600, key=random.key(1), progress=False,
            optimizer=optim.adam(schedules.cosine_lr(1e-2, 600 * 5), weight_decay=weight_decay),
        )  # fmt: skip
        scores = [metrics.accuracy(y, fmlp.predict(net, result.params, x).argmax(1)) for x, y in (train, test)]
        figure, ax = panel(3.2, 2.8)
        across, up = np.meshgrid(np.linspace(-2, 3, 200), np.linspace(-1.6, 2.1, 160))
        logits = fmlp.predict(net, result.params, np.stack([across.ravel(), up.ravel()], 1))
        p = activations.softmax(logits)[:, 1].reshape(across.shape)
        ax.contourf(across, up, p, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.6)
        ax.contour(across, up, p, [0.5], colors=GREY, linewidths=1.2)
        for label, color in ((0, "#1d4ed8"), (1, "#b91c1c")):
            ax.scatter(*train[0][train[1] == label].T, s=9, color=color, linewidths=0.4, edgecolors="white")
        tidy(ax, f"{title}: training {scores[0]:.2f}, test {scores[1]:.2f}")
        ax.grid(visible=False)
        ax.set(xticks=[], yticks=[])
        save(figure, f"{name}.png")

    for weight_decay in DECAYS:
        picture(f"decay_{weight_decay:g}", f"weight decay {weight_decay:g}", weight_decay=weight_decay)
    for rate in DROPOUTS:
        picture(f"dropout_{rate:g}", f"dropout {rate:g}", rate=rate)


if __name__ == "__main__":
    (IMAGES / "gallery").mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        draw_activations()
        draw_schedules()
        draw_optimizers()
        draw_regularization()
    tutorial()
    overview().savefig(IMAGES / "overview.png")
