"""Networks to draw: every layer of fmlp, and parameters and inputs as training might leave them, in float32."""

from typing import Any, NamedTuple

import numpy as np
from derivatives import computed, settings_of, sides
from hypothesis import strategies as st

from fmlp import activations, layers, random, tree

JUMPS = {"threshold", "hardshrink"}
"""Where these jump, an error of rounding before them is a large one after them."""
SMOOTH = sorted(set(activations.table) - JUMPS)


class Network(NamedTuple):
    net: Any
    params: Any
    shape: Any
    x: Any


@st.composite
def activation_layers(draw, names=SMOOTH):
    """Draw an activation as a layer, with its settings or without."""
    name = draw(st.sampled_from(names))
    settings = draw(settings_of(name)) if name == "threshold" or draw(st.booleans()) else {}
    return layers.Activation(activations.table[name], **settings)


@st.composite
def simple_layers(draw, width):
    """Draw a layer for examples of shape (…, width)."""
    kind = draw(st.sampled_from(["dense", "dense", "activation", "activation", "batch", "layer", "dropout", "prelu"]))
    match kind:
        case "dense":
            return layers.Dense(draw(sides), bias=draw(st.booleans()))
        case "activation":
            return draw(activation_layers())
        case "batch":
            return layers.BatchNorm(eps=draw(st.sampled_from([1e-5, 1e-2])))
        case "layer":
            return layers.LayerNorm(eps=draw(st.sampled_from([1e-2, 1.0])))
        case "dropout":
            return layers.Dropout(draw(st.sampled_from([0.0, 0.25])))
        case "prelu":
            return layers.Prelu(draw(st.sampled_from([1, width])))


@st.composite
def chains(draw, shape, inner=simple_layers, most=5):
    """Draw layers for examples of `shape`, each fit for the result of the one before."""
    found = []
    for _ in range(draw(st.integers(0, most))):
        found.append(draw(inner(shape[-1])))
        shape, _ = found[-1].init(random.key(0), shape)
    return found


@st.composite
def any_layers(draw, width, depth=1):
    """Draw a layer, or layers combined."""
    kind = draw(st.sampled_from(["simple", "simple", "serial", "residual", "concat", "sum"] if depth else ["simple"]))
    if kind == "simple":
        return draw(simple_layers(width))
    inner = chains((width,), lambda w: any_layers(w, depth - 1), most=3)
    if kind == "serial":
        return layers.serial(*draw(inner))
    if kind == "residual":
        return layers.residual(*draw(inner), layers.Dense(width))
    n = draw(st.integers(1, 3))
    ends = [layers.Dense(2)] * (kind == "sum")
    paths = layers.parallel(*[layers.serial(*draw(inner), *ends) for _ in range(n)])
    join = layers.fan_in_sum() if kind == "sum" else layers.fan_in_concat(draw(st.sampled_from([-1, 1])))
    return layers.serial(layers.fan_out(n), paths, join)


def parameters(net, shape, key):
    """Make parameters as far from their initial values as training might take them; variances stay positive."""
    _, params = net.init(key, shape)
    generator = random.generator(key)
    moved = tree.map(lambda leaf: leaf + generator.uniform(-0.5, 0.5, leaf.shape).astype(np.float32), params)
    return tree.cast(computed(moved), np.float32)


def inputs(shape, key, rows):
    """Make a batch for examples of `shape`, or a tuple of them."""
    if any(isinstance(s, tuple) for s in shape):
        return tuple(inputs(s, random.fold_in(key, i), rows) for i, s in enumerate(shape))
    return (2 * random.generator(key).standard_normal((rows, *shape))).astype(np.float32)


def drawn(net, shape, seed, rows=5):
    key = random.key(seed)
    return Network(net, parameters(net, shape, key), shape, inputs(shape, random.fold_in(key, 1), rows))


@st.composite
def networks(draw, inner=any_layers):
    shape = (draw(sides),)
    net = layers.serial(*draw(chains(shape, inner)))
    return drawn(net, shape, draw(st.integers(0, 2**32)), draw(st.integers(1, 6)))
