"""Two Gaussian clouds in the plane: losses, layers and optimizers side by side, in one picture."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fmlp
from fmlp import losses, optim, random
from fmlp.initializers import kaiming_normal, xavier_normal, xavier_uniform
from fmlp.layers import BatchNorm, Dense, Dropout, Hardswish, Layer, LeakyRelu, Relu, Tanh, serial
from fmlp.plotting import plot_decision_boundary

OUT = Path(__file__).parents[1] / "out"
KEY = random.key(0)


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """500 points around (1, 1) with label 1, 200 around (-1, -1) with label -1."""
    y = np.repeat([1.0, -1.0], [500, 200])
    noise = random.generator(random.fold_in(KEY, 0)).normal(0, 0.7, (700, 2))
    return (y[:, None] + noise).astype(np.float32), y


def plain() -> Layer:
    return serial(
        Dense(4, kaiming_normal(0.01, mode="fan_out")),
        LeakyRelu(),
        Dense(3, xavier_normal()),
        Hardswish(),
        Dense(2, kaiming_normal(mode="fan_in", nonlinearity="relu")),
        Relu(),
        Dense(1, xavier_uniform()),
        Tanh(),
    )


def normalized(outputs: int) -> Layer:
    """Linear, BatchNorm, activation, dropout."""
    return serial(
        Dense(16, kaiming_normal(0.01)), BatchNorm(), LeakyRelu(), Dropout(0.1),
        Dense(8, kaiming_normal()), BatchNorm(), Relu(), Dropout(0.1),
        Dense(outputs, xavier_uniform()),
    )  # fmt: skip


def train(net: Layer, loss, y, optimizer: optim.Optimizer, epochs: int = 60) -> fmlp.FitResult:
    _, params = net.init(random.fold_in(KEY, 1), (2,))
    return fmlp.fit(
        net, params, (x, y), loss=loss, optimizer=optimizer, epochs=epochs, batch_size=32, key=random.fold_in(KEY, 2)
    )


x, y = clouds()
classes = (y > 0).astype(np.int64)
runs = {
    "tanh output, mse": (plain(), losses.mse, y, np.ravel),
    "BatchNorm and dropout, mse": (normalized(1), losses.mse, y, np.sign),
    "BatchNorm and dropout, cross-entropy": (
        normalized(2),
        losses.cross_entropy,
        classes,
        lambda z: 2 * z.argmax(1) - 1,
    ),
}
figure = Figure(figsize=(15, 8), layout="constrained", dpi=110)
panels = figure.subplots(2, 3)
for title, (net, loss, targets, read), ax in zip(runs, runs.values(), panels[0], strict=True):
    result = train(net, loss, targets, optim.adam(1e-2))
    accuracy = np.mean(np.sign(read(fmlp.predict(net, result.params, x))).ravel() == y)
    print(f"{title}: loss {result.history['loss'][-1]:.4f}, accuracy {accuracy:.4f} in {result.seconds:.1f} s")
    plot_decision_boundary(
        lambda points, net=net, r=result, read=read: read(fmlp.predict(net, r.params, points)), x, y, ax=ax
    )
    ax.set_title(f"{title}: {accuracy:.1%}")
    panels[1, int(loss is losses.cross_entropy)].plot(result.history["loss"], label=title)
for label, optimizer in {
    "SGD": optim.sgd(3e-3),
    "SGD, momentum 0.9": optim.sgd(3e-3, 0.9),
    "SGD, Nesterov 0.9": optim.sgd(3e-3, 0.9, nesterov=True),
    "Adam": optim.adam(1e-2),
}.items():
    result = train(plain(), losses.mse, y, optimizer)
    print(f"{label}: loss {result.history['loss'][-1]:.4f}")
    panels[1, 2].plot(result.history["loss"], label=label, linestyle="--" if "Nesterov" in label else "-")
for ax, title in zip(panels[1], ("mean squared error", "cross-entropy", "optimizers: tanh output, mse"), strict=True):
    ax.set(title=title, xlabel="epoch", yscale="log")
    ax.legend(frameon=False)
OUT.mkdir(exist_ok=True)
figure.savefig(OUT / "toy.png")
print(f"wrote {OUT / 'toy.png'}")
