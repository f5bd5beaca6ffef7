"""The table of everything in fmlp that carries a derivative, and how to draw a call of it.

`CASES` maps the name of each differentiable function, ``layers.Dense.dense``, to a strategy of calls. The tests of
test_autodiff run over it, and one of them proves that nothing is missing.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

import fmlp
from fmlp import activations, distributed, layers, losses, random, tree

if importlib.util.find_spec("sklearn"):
    from fmlp import estimators


class Call(NamedTuple):
    """``f(*args, **kwargs)``, which has a derivative with respect to the first `n` arguments and no others."""

    f: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    n: int


def name_of(f):
    """Name a differentiable function: ``layers.Dense.dense``."""
    return f"{f.__module__}.{f.__qualname__}".removeprefix("fmlp.").replace(".<locals>", "")


# ---------------------------------------------------------------------------------------- numbers

AWAY = 0.004  # central differences look 2h = 0.002 to either side, and may not see a kink
sides = st.integers(1, 5)
keys = st.integers(0, 2**32).map(random.key)


def between(low, high):
    return st.floats(low, high, width=32)


def shapes(min_dims=1, max_dims=3):
    """Draw shapes: a batch of one, a width of one and extra leading axes among them."""
    return st.lists(sides, min_size=min_dims, max_size=max_dims).map(tuple)


@st.composite
def numbers(draw, shape, kinks=(), scale=2.0):
    """Draw an array of float64, away from the kinks."""
    x = scale * random.generator(draw(keys)).standard_normal(shape)
    for kink in kinks:
        x = np.where(np.abs(x - kink) < AWAY, kink + np.where(x < kink, -AWAY, AWAY), x)
    return x


@st.composite
def spread(draw, shape, axis):
    """Draw an array whose numbers lie at least 1 apart along `axis`: one that is smooth to normalize."""
    x = random.generator(draw(keys)).uniform(-0.5, 0.5, shape)
    steps = 2.0 * np.arange(shape[axis])
    return x + (steps if axis == -1 else steps.reshape(-1, *[1] * (len(shape) - 1)))


@st.composite
def parameters(draw, layer, shape):
    """Draw parameters, as far from their initial values as training might take them; variances stay positive."""
    key = draw(keys)
    _, params = layer.init(key, shape)
    generator = random.generator(key)
    params = tree.map(lambda leaf: leaf + generator.uniform(-0.5, 0.5, leaf.shape), tree.cast(params, np.float64))
    return computed(params)


def computed(params):
    """Return the parameters with statistics that pass for computed."""
    if not isinstance(params, dict):
        return params
    params = {name: computed(child) for name, child in params.items()}
    return {**params, "count": np.array(8.0)} if "count" in params else params


# ------------------------------------------------------------------------------------- activations

SETTINGS = {
    "hardtanh": {"min_val": between(-2, -0.5), "max_val": between(-0.25, 2)},
    "leaky_relu": {"negative_slope": between(-1, 1)},
    "elu": {"alpha": st.just(1.0) | between(-1, 3)},
    "celu": {"alpha": between(0.5, 3)},
    "gelu": {"approximate": st.sampled_from(["none", "tanh"])},
    "softplus": {"beta": between(-2, 1).map(np.exp2), "threshold": st.just(20.0) | between(-1, 3)},
    "softshrink": {"lambd": between(0.0625, 2)},
    "hardshrink": {"lambd": between(0.0625, 2)},
    "threshold": {"threshold": between(-1, 1), "value": between(-3, 3)},
    "softmax": {"axis": st.sampled_from([-1, 0])},
    "log_softmax": {"axis": st.sampled_from([-1, 0])},
}
"""Hyper-parameters to draw, for those that have some."""

KINKS = {
    "hardtanh": lambda min_val=-1.0, max_val=1.0: (min_val, max_val),
    "hardsigmoid": lambda: (-3, 3),
    "hardswish": lambda: (-3, 3),
    "relu": lambda: (0,),
    "relu6": lambda: (0, 6),
    "leaky_relu": lambda negative_slope=0.01: (0,),
    "elu": lambda alpha=1.0: (0,),
    "celu": lambda alpha=1.0: (0,),
    "selu": lambda: (0,),
    "softplus": lambda beta=1.0, threshold=20.0: (threshold / beta,),
    "softsign": lambda: (0,),
    "softshrink": lambda lambd=0.5: (-lambd, lambd),
    "hardshrink": lambda lambd=0.5: (-lambd, lambd),
    "threshold": lambda threshold, value: (threshold,),
}
"""Where a derivative of some order jumps, given the hyper-parameters; the others are smooth."""


def kinks(name, settings):
    return KINKS[name](**settings) if name in KINKS else ()


def settings_of(name):
    return st.fixed_dictionaries(SETTINGS.get(name, {}))


@st.composite
def activation(draw, name):
    settings = draw(settings_of(name))
    return Call(activations.table[name], (draw(numbers(draw(shapes()), kinks(name, settings))),), settings, 1)


# ------------------------------------------------------------------------------------------ layers


@st.composite
def mode(draw):
    """Draw whether to train, and with which key."""
    return draw(st.sampled_from([{}, {"train": True, "key": draw(keys)}]))


@st.composite
def call(draw, layer, shape, x):
    """Draw a call of the layer for examples of `shape`, with x drawn from the strategy `x`."""
    params = draw(parameters(layer, shape))
    return Call(layer.apply, (params, draw(x)), draw(mode()), 2)


@st.composite
def plain(draw, layer_from):
    """Draw a call of ``layer_from(draw, width)`` on numbers of any shape."""
    shape = draw(shapes())
    return draw(call(layer_from(draw, shape[-1]), shape[-1:], numbers(shape)))


dense = plain(lambda draw, width: layers.Dense(draw(sides), bias=draw(st.booleans())))
dropout = plain(lambda draw, width: layers.Dropout(draw(between(0, 0.75))))
flatten = plain(lambda draw, width: layers.Flatten())
activation_layer = plain(lambda draw, width: draw(smooth))
fan_out = plain(lambda draw, width: layers.fan_out(draw(sides)))
eps = st.sampled_from([1e-5, 1e-2, 1.0])
smooth = st.sampled_from([layers.Tanh(), layers.Gelu(), layers.Softplus(beta=2.0), layers.Softmax()])


@st.composite
def embedding(draw):
    count, features = draw(sides), draw(sides)
    layer, shape = layers.Embedding(count, features), draw(shapes(0))
    return draw(call(layer, (), st.just(random.generator(draw(keys)).integers(0, count, shape))))._replace(n=1)


@st.composite
def batch_norm(draw):
    shape = draw(st.tuples(st.integers(2, 5), *[sides] * draw(st.integers(1, 2))))
    return draw(call(layers.BatchNorm(eps=draw(eps)), shape[-1:], spread(shape, 0)))


@st.composite
def layer_norm(draw):
    shape = draw(shapes())
    return draw(call(layers.LayerNorm(eps=draw(eps)), shape[-1:], spread(shape, -1)))


@st.composite
def rms_norm(draw):
    shape = draw(shapes())
    layer = layers.RMSNorm(eps=draw(st.one_of(st.none(), eps)))
    return draw(call(layer, shape[-1:], spread(shape, -1).map(lambda x: x + 1)))  # away from 0, where it jumps


@st.composite
def glu(draw):
    *rows, n = draw(shapes())
    return draw(call(layers.GLU(), (2 * n,), numbers((*rows, 2 * n))))


@st.composite
def prelu(draw):
    shape = draw(shapes())
    layer = layers.Prelu(draw(st.sampled_from([1, shape[-1]])), draw(between(-1, 1)))
    return draw(call(layer, shape[-1:], numbers(shape, (0,))))


@st.composite
def branches(draw, layer_from, same, rows=1):
    """Draw a call on a tuple of inputs of at least so many `rows`, all of the `same` width or not."""
    lead, width, n = (draw(st.integers(rows, 5)), *draw(shapes(0, 1))), draw(sides), draw(sides)
    widths = [width if same else draw(sides) for _ in range(n)]
    xs = st.tuples(*[numbers((*lead, w)) for w in widths])
    return draw(call(layer_from(draw, n), tuple((w,) for w in widths), xs))


fan_in_sum = branches(lambda draw, n: layers.fan_in_sum(), same=True)
fan_in_concat = branches(lambda draw, n: layers.fan_in_concat(), same=False)
parallel = branches(lambda draw, n: layers.parallel(*[draw(networks()) for _ in range(n)]), same=False, rows=2)


@st.composite
def networks(draw, depth=2):
    """Draw a network of any structure: combinators inside one another, smooth layers innermost."""
    kinds = ["dense", "smooth", "dropout", "norm"] + ["serial", "residual", "fan"] * (depth > 0)
    inner = partial(networks, depth - 1)
    match draw(st.sampled_from(kinds)):
        case "dense":
            return layers.Dense(draw(sides))
        case "smooth":
            return draw(smooth)
        case "dropout":
            return layers.Dropout(0.25)
        case "norm":
            return draw(st.sampled_from([layers.LayerNorm(eps=1.0), layers.BatchNorm(eps=1.0)]))
        case "serial":
            return layers.serial(*draw(st.lists(inner(), max_size=4)))
        case "residual":
            width_kept = [layer for layer in draw(st.lists(inner(), max_size=3)) if keeps_width(layer)]
            return layers.residual(*width_kept)
        case "fan":
            n = draw(st.integers(1, 3))
            paths = layers.parallel(*[draw(inner()) for _ in range(n)])
            return layers.serial(layers.fan_out(n), paths, layers.fan_in_concat())


def keeps_width(layer):
    return all(layer.init(random.key(0), (width,))[0] == (width,) for width in range(1, 6))


@st.composite
def network(draw, layer_from):
    """Draw a call of ``layer_from(networks)``, with at least two rows for the sake of BatchNorm."""
    shape = draw(st.tuples(st.integers(2, 4), sides))
    return draw(call(layer_from([draw(networks()) for _ in range(draw(st.integers(0, 3)))]), shape[1:], numbers(shape)))


serial = network(lambda nets: layers.serial(*nets))
residual = network(lambda nets: layers.residual(*filter(keeps_width, nets)))


# ------------------------------------------------------------------------------------------ losses


def weights(n):
    """Draw weights per row: none, or numbers some of which may be zero."""
    return st.none() | st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5]), min_size=n, max_size=n).map(np.array)


@st.composite
def regression(draw, loss, kinks=lambda: (), **settings):
    shape, settings = draw(shapes()), draw(st.fixed_dictionaries(settings))
    y = draw(numbers(shape))
    prediction = y + draw(numbers(shape, kinks(**settings)))
    return Call(loss, (prediction, y), {"weight": draw(weights(len(y))), **settings}, 1)


@st.composite
def binary_cross_entropy(draw):
    shape = draw(shapes())
    y = random.generator(draw(keys)).uniform(0, 1, shape)
    y = draw(st.sampled_from([y, y.round(), y.round().astype(int), y > 0.5]))
    pos_weight = draw(st.none() | st.just(3) | st.just(np.linspace(0, 2, shape[-1])) if len(shape) == 2 else st.none())
    kwargs = {"weight": draw(weights(len(y))), "pos_weight": pos_weight}
    return Call(losses.binary_cross_entropy, (draw(numbers(shape)), y), kwargs, 1)


@st.composite
def poisson(draw):
    shape = draw(shapes())
    y = np.abs(draw(numbers(shape)))
    y = draw(st.sampled_from([y, y.round(), y.round().astype(int)]))
    return Call(losses.poisson, (draw(numbers(shape)), y), {"weight": draw(weights(len(y)))}, 1)


@st.composite
def cross_entropy(draw):
    n, k = draw(sides), draw(sides)
    labels = random.generator(draw(keys)).integers(0, k, n)
    y = draw(st.sampled_from([labels, np.eye(k)[labels], activations.softmax(draw(numbers((n, k))))]))
    kwargs = {
        "weight": draw(weights(n)),
        "class_weight": draw(st.none() | st.just(np.arange(k))),
        "ignore_index": draw(st.none() | st.integers(0, k - 1)),
        "label_smoothing": draw(st.just(0.0) | between(0, 1)),
    }
    return Call(losses.cross_entropy, (draw(numbers((n, k))), y), kwargs, 1)


@st.composite
def objective(draw):
    net = layers.serial(layers.Dense(3), layers.Tanh(), layers.Dropout(0.25), layers.Dense(2))
    params, x = draw(call(net, (4,), numbers((3, 4)))).args
    f = fmlp.objective(net.apply, losses.cross_entropy)
    kwargs = {"key": draw(keys), "weight": draw(weights(3))}
    return Call(f, (params, x, np.array([0, 1, 1])), kwargs, 2)


@st.composite
def regularized(draw, part):
    """Draw a call of the network or the loss of `estimators`, which need scikit-learn."""
    net = layers.serial(layers.Dense(3), layers.Tanh(), layers.Dropout(0.25), layers.Dense(2))
    factor = draw(between(0.25, 2))
    penalized, loss = estimators._regularized(net, losses.mse, factor, factor, draw(between(0, 2)))
    if part == "apply":
        return draw(call(penalized, (4,), numbers((3, 4))))
    prediction = draw(numbers((3, 2))), [draw(numbers((4, 3))), draw(numbers((3, 2)))], draw(weights(3))
    return Call(loss, (prediction, draw(numbers((3, 2)))), {}, 1)


@st.composite
def loss_of_part(draw):
    rows = draw(st.integers(0, 3))
    kwargs = {"weight": draw(weights(rows))} if rows else {}
    f = distributed._of_part(losses.mse)
    return Call(f, (draw(numbers((rows, 2))), draw(numbers((rows, 2)))), kwargs, 1)


# -------------------------------------------------------------------------------------- the table

CASES: dict[str, st.SearchStrategy[Call]] = {
    **{f"activations.{name}": activation(name) for name in activations.table},
    "layers.Dense.dense": dense,
    "layers.Embedding.embedding": embedding(),
    "layers.BatchNorm.batch_norm": batch_norm(),
    "layers.LayerNorm.layer_norm": layer_norm(),
    "layers.RMSNorm.rms_norm": rms_norm(),
    "layers.GLU.glu": glu(),
    "layers.Dropout.dropout": dropout,
    "layers.Flatten.flatten": flatten,
    "layers.Activation.activation": activation_layer,
    "layers.Prelu.prelu": prelu(),
    "layers.serial.serial": serial,
    "layers.parallel.parallel": parallel,
    "layers.residual.residual": residual,
    "layers.fan_out.fan_out": fan_out,
    "layers.fan_in_sum.fan_in_sum": fan_in_sum,
    "layers.fan_in_concat.fan_in_concat": fan_in_concat,
    "losses.mse": regression(losses.mse),
    "losses.mae": regression(losses.mae, lambda: (0,)),
    "losses.huber": regression(losses.huber, lambda delta: (-delta, delta), delta=between(0.125, 3)),
    "losses.quantile": regression(losses.quantile, lambda q: (0,), q=between(0.125, 0.875)),
    "losses.poisson": poisson(),
    "losses.binary_cross_entropy": binary_cross_entropy(),
    "losses.cross_entropy": cross_entropy(),
    "autodiff.objective.objective": objective(),
    "distributed._of_part.loss_of_part": loss_of_part(),
    "estimators._regularized.apply": regularized("apply"),
    "estimators._regularized.penalized": regularized("penalized"),
}
