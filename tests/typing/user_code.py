"""Code as users write it, for mypy --strict and pyright: what it says of types with assert_type must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import fmlp
from fmlp import activations, initializers, losses, metrics, optim, random, schedules, tree
from fmlp.activations import Entry, elementwise
from fmlp.autodiff import Pullback
from fmlp.layers import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Elu,
    Embedding,
    Flatten,
    Layer,
    LayerNorm,
    LeakyRelu,
    Prelu,
    Shape,
    fan_in_concat,
    fan_in_sum,
    fan_out,
    parallel,
    residual,
    serial,
)
from fmlp.random import Key
from fmlp.schedules import Schedule
from fmlp.training import Epoch
from fmlp.tree import Array, Tree

# Data

rng = random.generator(random.key(0))
x = rng.standard_normal((256, 8))
y = (x[:, 0] > 0).astype(np.int64)

# A network, its parameters and its output

net = serial(Dense(32), BatchNorm(), Elu(), Dropout(0.1), LeakyRelu(negative_slope=0.2), Dense(2, bias=False))
assert_type(net, Layer)
out_shape, params = net.init(random.key(1), (8,))
logits = net.apply(params, x, train=True, key=random.key(2))
best: npt.NDArray[np.intp] = net.apply(params, x).argmax(1)
assert_type(activations.elu(x, alpha=0.5), Array)
assert_type(activations.softmax(x), Array)
assert_type(fmlp.summary(net, (8,)), str)

wide = serial(
    fan_out(2),
    parallel(
        residual(Dense(8), Activation(activations.gelu, approximate="tanh")), serial(LayerNorm(eps=1e-3), Prelu())
    ),
    fan_in_sum(),
)
words = serial(Embedding(1000, 16), Flatten(), Dense(2, initializers.kaiming_uniform(), initializers.zeros()))
joined: Layer = serial(fan_out(2), parallel(Dense(2), Dense(2)), fan_in_concat(axis=-1))

# fit and what it returns

result = fmlp.fit(
    net,
    params,
    (x, y),
    loss=losses.cross_entropy,
    optimizer=optim.adam(schedules.multi_step_lr(1e-3, milestones=[10, 20], gamma=0.8), weight_decay=0.02),
    epochs=2,
    key=random.key(3),
    validation=0.1,
    metrics={
        "accuracy": metrics.accuracy,
        "f1": partial(metrics.f1, average="weighted"),
        "auc": metrics.roc_auc,
        "top3": partial(metrics.top_k_accuracy, k=3),
    },
    early_stopping=fmlp.EarlyStopping("val_accuracy", mode="max", restore_best=True),
    class_weight="balanced",
    checkpoint=fmlp.Checkpoint("run.npz", epochs=5),
    progress=False,
)
assert_type(result, fmlp.FitResult)
assert_type(result.history, dict[str, list[float]])
assert_type(result.history["val_accuracy"][-1], float)
assert_type(result.seconds, float)
if result.stopped == "early":
    print(result.history["lr"])
result = fmlp.fit(
    net, result.params, [(x[:32], y[:32]), (x[32:], y[32:])], loss=partial(losses.cross_entropy, label_smoothing=0.1),
    optimizer=optim.sgd(0.1, 0.9, nesterov=True), epochs=1, key=random.key(4), class_weight={0: 1.0, 1: 2.0},
)  # fmt: skip

scores = fmlp.evaluate(net, result.params, (x, y), loss=losses.cross_entropy, metrics={"accuracy": metrics.accuracy})
assert_type(scores, dict[str, float])
predicted: npt.NDArray[np.float32] = fmlp.predict(net, result.params, x)
assert_type(metrics.accuracy(y, predicted.argmax(1)), float)
assert_type(metrics.precision(y, predicted.argmax(1)), float)
assert_type(metrics.precision(y, predicted.argmax(1), average=None), Array)
assert_type(metrics.f1(y, predicted.argmax(1), average="micro", weight=x[:, 0]), float)
assert_type(metrics.log_loss(y, predicted), float)
assert_type(metrics.confusion_matrix(y, predicted.argmax(1)), npt.NDArray[np.int64])


@metrics.on_output
def brier(y_true: Array, y_score: Array, *, power: int = 2) -> float:
    return float(np.mean(np.abs(y_true - y_score) ** power))


assert_type(brier(y, predicted, power=1), float)


def stop_when_good(epoch: Epoch) -> Epoch | None:
    print(epoch.epoch, epoch.history["loss"][-1])
    return epoch._replace(stop=True) if epoch.history["accuracy"][-1] > 0.99 else None


callbacks = [stop_when_good, fmlp.on_plateau("val_loss", schedules.reduce_on_plateau(0.1, patience=5))]
fmlp.fit(net, params, (x, y), loss=losses.mse, optimizer=optim.lion(), epochs=1, key=random.key(5), callbacks=callbacks)

# Saved and loaded

fmlp.save("model.npz", result.params, metadata={"classes": [0, 1]})
loaded = fmlp.load("model.npz", like=params)
assert_type(fmlp.load_metadata("model.npz"), dict[str, Any])
try:
    fmlp.load("other.npz")
except fmlp.FileFormatError as error:
    print(error.args)
except fmlp.NonFiniteError as diverged:
    print(tree.paths(diverged.params))

# Trees and keys

assert_type(tree.leaves(params), list[Any])
assert_type(tree.paths(params), list[str])
assert_type(tree.size(params), int)
vector, unravel = tree.ravel(params)
assert_type(vector, Array)
rebuilt = unravel(2 * vector)
doubled = tree.map(lambda leaf: 2 * leaf, tree.cast(params, np.float64))
init_key, train_key = random.split(random.key(0))
assert_type(random.fold_in(train_key, 3), Key)
assert_type(random.bernoulli(init_key, 0.5, (3, 2)), npt.NDArray[np.bool_])

# A loop of one's own

schedule: Schedule = schedules.warmup(schedules.cosine_lr(1e-2, T_max=100), steps=10)
assert_type(schedule(5), float)
optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(schedule, mask=lambda p: tree.map(np.ndim, p)))
assert_type(optimizer, optim.Optimizer)
state = optimizer.init(params)
objective = fmlp.objective(net.apply, losses.cross_entropy)
step = fmlp.value_and_grad(objective)
for i in range(10):
    loss, grads = step(params, x, y, key=random.fold_in(train_key, i), weight=np.ones(len(x)))
    updates, state = optimizer.update(grads, state, params)
    params = optim.apply_updates(params, updates)
    print(i, float(loss), optim.learning_rate(state))
params = fmlp.calibrate(net, params, x)
value, pullback = fmlp.vjp(net.apply, params, x)
dparams, dx = pullback(np.ones_like(value))
fmlp.check_vjp(net.apply, params, x)

# Functions and layers of one's own


@elementwise
def squareplus(x: Array, b: float = 4.0) -> Entry:
    r = np.sqrt(x * x + b)
    return (x + r) / 2, lambda: (1 + x / r) / 2


assert_type(squareplus(x, b=2.0), Array)


@fmlp.differentiable
def cube(x: float) -> tuple[float, Pullback]:
    return x**3, lambda dy: (3 * x**2 * dy,)


assert_type(cube(2.0), float)


def scale(initial: float = 1.0) -> Layer:
    def init(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        return shape, {"s": np.full(shape[-1], initial, np.float32)}

    @fmlp.differentiable
    def scaled(params: Tree, x: Array, *, train: Any = False, key: Key | None = None) -> tuple[Array, Pullback]:
        s: Array = params["s"]

        def pullback(dy: Array) -> Iterator[Any]:
            yield {"s": (dy * x).sum(0)}
            yield dy * s

        return s * x, pullback

    return Layer(init, scaled)


@losses.loss(predict=losses.positive)
def hinge(prediction: Array, y: Array, *, weight: Array | None = None) -> tuple[Any, Pullback]:
    margin = 1 - (2 * y - 1) * prediction[:, 0]

    def pullback(d: Any) -> Iterator[Any]:
        yield (-d * (2 * y - 1) * (margin > 0) / len(y))[:, None]
        yield None

    return np.maximum(margin, 0).mean(), pullback


def sparse(key: Key, shape: tuple[int, ...]) -> Array:
    w = initializers.normal(std=0.1)(key, shape)
    return w * random.bernoulli(random.fold_in(key, 1), 0.1, shape)


def half_life(lr: float, steps: int) -> Callable[[int], float]:
    return lambda count: lr * 0.5 ** (count / steps)


mine = serial(Dense(4, sparse), scale(0.5), Activation(squareplus, b=1.0), Dense(1))
fmlp.fit(mine, mine.init(init_key, (8,))[1], (x, y), loss=hinge, optimizer=optim.adam(half_life(0.01, 100)), epochs=1,
         key=train_key)  # fmt: skip

# Modules that are loaded when they are used

x_train, y_train, x_test, y_test = fmlp.data.load("data/digits.npz")
assert_type(x_train, Array)
fmlp.plotting.plot_history(result.history)

# What is wrong, and is found: an ignored error that is none would be an error itself

print(fmlp.nonsense)  # type: ignore[attr-defined]
fmlp.EarlyStopping("val_loss", mode="maximum")  # type: ignore[arg-type]
optim.adam("fast")  # type: ignore[arg-type]
optim.adam(1e-3, 0.9, 0.999, 1e-8, 0.02)  # type: ignore[call-arg]
serial(Elu)  # type: ignore[arg-type]
metrics.recall(y, y, average=None, pos_label=2)  # type: ignore[call-overload]
metrics.roc_auc(y, y, average="binary")  # type: ignore[arg-type]
Dense(3, name="first")  # type: ignore[call-arg]
schedules.cosine_lr(0.1)  # type: ignore[call-arg]
fmlp.fit(net, params, (x, y), loss=losses.mse, optimizer=optim.adam(), epochs=1)  # type: ignore[call-arg]
fmlp.fit(net, params, (x, y), loss=losses.mse, optimizer=optim.adam, epochs=1, key=train_key)  # type: ignore[arg-type]
print(result.loss)  # type: ignore[attr-defined]
