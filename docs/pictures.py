"""Draw the pictures of the README: ``python docs/pictures.py``."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fmlp
from fmlp import activations, losses, metrics, optim, random, schedules
from fmlp.layers import Dense, Dropout, Elu, serial
from fmlp.plotting import COLORS, plot_activation, plot_decision_boundary, plot_schedule

IMAGES = Path(__file__).parent / "images"


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


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    overview().savefig(IMAGES / "overview.png")
