"""fmlp's functions, written once more in jax.numpy: the same values and gradients, on the same parameters.

The parameters are a pytree of JAX's as they are: no test here converts them.
"""

import numpy as np
import pytest
from derivatives import CASES, keys
from hypothesis import given, settings
from hypothesis import strategies as st

import fmlp
from fmlp import activations, losses, random, tree
from fmlp.layers import BatchNorm, Dense, Elu, Layer, serial
from fmlp.structure import constructor_of

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")


@pytest.fixture(autouse=True, scope="module")
def _in_float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


# ------------------------------------------------------------------------- the functions, in JAX


def normalized(x, mean, var, params, eps):
    return params["scale"] * (x - mean) / jnp.sqrt(var + eps) + params["bias"]


def softplus(x, beta=1.0, threshold=20.0):
    return jnp.where(beta * x > threshold, x, jnp.logaddexp(beta * x, 0) / beta)


ACTIVATIONS = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "tanhshrink": lambda x: x - jnp.tanh(x),
    "hardtanh": lambda x, min_val=-1.0, max_val=1.0: jnp.clip(x, min_val, max_val),
    "sigmoid": jax.nn.sigmoid,
    "log_sigmoid": jax.nn.log_sigmoid,
    "hardsigmoid": jax.nn.hard_sigmoid,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "celu": jax.nn.celu,
    "selu": jax.nn.selu,
    "gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate=approximate == "tanh"),
    "mish": lambda x: x * jnp.tanh(softplus(x)),
    "silu": jax.nn.silu,
    "hardswish": jax.nn.hard_swish,
    "softplus": softplus,
    "softsign": jax.nn.soft_sign,
    "softshrink": lambda x, lambd=0.5: x - jnp.clip(x, -lambd, lambd),
    "hardshrink": lambda x, lambd=0.5: jnp.where(jnp.abs(x) > lambd, x, 0),
    "threshold": lambda x, threshold, value: jnp.where(x > threshold, x, value),
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
}


def batch_norm(params, x, train, eps):
    axes = tuple(range(x.ndim - 1))
    mean, var = (x.mean(axes), x.var(axes)) if train else (params["mean"], params["var"])
    return normalized(x, mean, var, params, eps)


def dropout(params, x, train, key, rate):
    keep = round((1 - rate) * 65536) / 65536
    return x * random.bernoulli(key, keep, x.shape) / keep if train else x


LAYERS = {
    "Dense": lambda params, x, **_: x @ params["w"] + params.get("b", 0),
    "Embedding": lambda params, x, **_: params["w"][x],
    "BatchNorm": lambda params, x, train, key, eps: batch_norm(params, x, train, eps),
    "LayerNorm": lambda params, x, train, key, eps: normalized(
        x, x.mean(-1, keepdims=True), x.var(-1, keepdims=True), params, eps
    ),
    "RMSNorm": lambda params, x, train, key, eps: (
        params["scale"]
        * x
        / jnp.sqrt((x * x).mean(-1, keepdims=True) + (jnp.finfo(x.dtype).eps if eps is None else eps))
    ),
    "GLU": lambda params, x, **_: jnp.split(x, 2, -1)[0] * jax.nn.sigmoid(jnp.split(x, 2, -1)[1]),
    "Dropout": dropout,
    "Flatten": lambda params, x, **_: x.reshape(len(x), -1),
    "Activation": lambda params, x, f, train, key, **settings: ACTIVATIONS[f.__name__](x, **settings),
    "Prelu": lambda params, x, **_: jnp.where(x > 0, x, params["slope"] * x),
    "fan_out": lambda params, x, train, key, n: (x,) * n,
    "fan_in_sum": lambda params, x, **_: sum(x),
    "fan_in_concat": lambda params, x, train, key, axis: jnp.concatenate(x, axis),
}


def apply(layer, params, x, train=False, key=None):
    """Apply any network, as its layers say what they are."""
    kind, children = constructor_of(layer), layer.apply.children.items()
    if kind in LAYERS:
        return LAYERS[kind](params, x, train=train, key=key, **layer.apply.settings)
    parts = random.split(key, len(children)) if train else [None] * len(children)
    if kind == "parallel":
        return tuple(
            apply(child, params.get(name, {}), xi, train, k)
            for (name, child), xi, k in zip(children, x, parts, strict=True)
        )
    y = x
    for (name, child), k in zip(children, parts, strict=True):
        y = apply(child, params.get(name, {}), y, train, k)
    return {"serial": lambda: y, "residual": lambda: jax.tree.map(jnp.add, y, x)}[kind]()


def mean(rows, weight):
    rows = rows.reshape(len(rows), -1).mean(1)
    weight = np.ones(len(rows)) if weight is None else weight
    return (rows * weight).sum() / (weight.sum() or 1)


def cross_entropy(z, y, weight=None, label_smoothing=0.0, **settings):
    classes = z.shape[1]
    weight = losses.cross_entropy.row_weights(y, weight, **settings)
    q = np.eye(classes)[y] if y.ndim == 1 else y
    q = (1 - label_smoothing) * q + label_smoothing / classes
    return mean(-(q * jax.nn.log_softmax(z)).sum(1), weight)


def huber(p, y, weight=None, delta=1.0):
    d = jnp.abs(p - y)
    return mean(jnp.where(d <= delta, d * d / 2, delta * (d - delta / 2)), weight)


def binary_cross_entropy(z, y, weight=None, pos_weight=None):
    pos_weight = 1 if pos_weight is None else pos_weight
    return mean(pos_weight * y * jnp.logaddexp(-z, 0) + (1 - y) * jnp.logaddexp(z, 0), weight)


LOSSES = {
    "mse": lambda p, y, weight=None: mean((p - y) ** 2, weight),
    "mae": lambda p, y, weight=None: mean(jnp.abs(p - y), weight),
    "huber": huber,
    "poisson": lambda z, y, weight=None: mean(jnp.exp(z) - y * z + y * np.log(np.where(y > 0, y, 1)) - y, weight),
    "binary_cross_entropy": binary_cross_entropy,
    "quantile": lambda p, y, weight=None, q=0.5: mean(jnp.maximum(q * (y - p), (q - 1) * (y - p)), weight),
    "cross_entropy": cross_entropy,
}


def in_jax(name, f):
    """Return the function of a case of `derivatives.CASES` in JAX."""
    module, function = name.split(".")[:2]
    if module == "layers":
        return lambda params, x, **mode: apply(Layer(None, f), params, x, **mode)
    return {"activations": ACTIVATIONS, "losses": LOSSES}[module][function]


# --------------------------------------------------------------------------------- the comparison


def assert_close(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert b.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * max(1, np.abs(b).max(initial=0)))


def compare(name, call, seed):
    f, args, kwargs, n = call
    y, pullback = fmlp.vjp(f, *args, **kwargs)
    generator = random.generator(seed)
    v = tree.map(lambda leaf: generator.standard_normal(np.shape(leaf)), y)
    function, rest = in_jax(name, f), args[n:]

    @jax.jit  # compiled whole it takes a third of the time
    def both(first, v):
        theirs, their_pullback = jax.vjp(lambda *first: function(*first, *rest, **kwargs), *first)
        return theirs, their_pullback(v)

    theirs, their_cotangents = both(args[:n], v)
    assert_close(y, theirs)
    assert_close(pullback(v)[:n], their_cotangents)


@pytest.mark.parametrize("name", [name for name in CASES if name.split(".")[0] in ("activations", "layers", "losses")])
@settings(max_examples=5)
@given(st.data())
def test_values_and_gradients(name, data):
    compare(name, data.draw(CASES[name]), data.draw(keys))


def test_nothing_is_left_out():
    assert set(ACTIVATIONS) == set(activations.table)
    assert set(LOSSES) == {name for name, f in vars(losses).items() if isinstance(f, losses.Loss)}


def test_training_in_jax_goes_on_where_fmlp_stopped():
    net = serial(Dense(8), BatchNorm(), Elu(), Dense(3))
    generator = random.generator(random.key(0))
    x, y = generator.standard_normal((32, 4)), generator.integers(0, 3, 32)
    params = tree.cast(net.init(random.key(0), (4,))[1], np.float64)
    theirs = params
    step = fmlp.value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))
    their_step = jax.jit(jax.value_and_grad(lambda p: cross_entropy(apply(net, p, x, True, random.key(0)), y)))
    for _ in range(20):
        loss, grads = step(params, x, y)
        their_loss, their_grads = their_step(theirs)
        np.testing.assert_allclose(loss, their_loss, rtol=1e-10)
        params = tree.map(lambda p, g: p - 0.1 * g, params, grads)
        theirs = jax.tree.map(lambda p, g: p - 0.1 * g, theirs, their_grads)
    assert_close(params, theirs)
    assert_close(fmlp.calibrate(net, tree.map(np.asarray, theirs), x)["dense_3"], theirs["dense_3"])
