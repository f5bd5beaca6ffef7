"""Numbers: no finite input gives NaN, a wrong sign or, warnings being errors, a warning. What overflows is infinite.

Activations have theirs in test_activations, over every float. Here are what composes them and what they meet.
"""

import pickle
from fractions import Fraction
from functools import partial
from math import inf, isfinite, isnan, log, sqrt

import numpy as np
import pytest
from derivatives import keys, settings_of
from hypothesis import given
from hypothesis import strategies as st

import fmlp
from fmlp import activations, initializers, layers, losses, metrics, optim, random, tree, value_and_grad, vjp
from fmlp.layers import BatchNorm, Dense, Dropout, Elu, LayerNorm, Prelu, RMSNorm, serial

every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def extremes(dtype, bound=inf):
    """Return finite numbers of every magnitude, denormals among them, up to `bound`."""
    info = np.finfo(dtype)
    x = np.array([0, info.smallest_subnormal, info.tiny, 1e-19, info.eps, 1, 20, 1e3, 1e18, 1e30, info.max], dtype)
    return np.concatenate([x, -x])[np.tile(x <= bound, 2)]


@st.composite
def arrays(draw, shape, dtype, bound=inf):
    """Draw an array of extremes, or of them among normal numbers, or with a constant column or row."""
    generator = random.generator(draw(keys))
    x = generator.choice(extremes(dtype, bound), shape)
    match draw(st.sampled_from(["extreme", "mixed", "one magnitude", "columns", "rows"])):
        case "mixed":
            x = np.where(generator.random(shape) < 0.7, generator.standard_normal(shape), x).astype(dtype)
        case "one magnitude":
            x = (abs(x.flat[0]) * generator.uniform(-1, 1, shape)).astype(dtype)
        case "columns":
            x[:] = x[:1]
        case "rows":
            x[:] = x[:, :1]
    return x


shapes = st.tuples(st.integers(2, 9), st.integers(1, 5))


def both(f, *args, dy=1.0, **kwargs):
    """Return the value and the cotangents, that of the value being all `dy`."""
    y, pullback = vjp(f, *args, **kwargs)
    return y, pullback(tree.map(lambda leaf: np.full_like(leaf, dy), y))


def finite(values):
    return all(np.isfinite(leaf).all() for leaf in tree.leaves(values))


# ------------------------------------------------------------------------------------- activations


@pytest.mark.parametrize("name", activations.table)
@every_dtype
@given(data=st.data())
def test_activations_take_extreme_numbers_and_cotangents(name, dtype, data):
    settings = data.draw(settings_of(name))
    x = data.draw(arrays(data.draw(shapes), dtype))
    dy = data.draw(st.sampled_from([0.0, np.finfo(dtype).tiny, 1e-30, -1e30]))
    y, (dx,) = both(activations.table[name], x, dy=dy, **settings)
    assert not np.isnan(y).any()
    assert finite(dx)
    assert finite(y) or name in ("selu", "log_softmax")


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@every_dtype
@given(data=st.data())
def test_softmax_gives_probabilities(name, dtype, data):
    y = activations.table[name](data.draw(arrays(data.draw(shapes), dtype)))
    p = y if name == "softmax" else np.exp(y)
    assert p.min() >= 0
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert name == "softmax" or y.max() <= 0


@every_dtype
def test_softmax_has_its_limits(dtype):
    """An infinite number takes all, as σ(∞) = 1; the smallest takes nothing."""
    x = np.array([[inf, 0], [0, inf], [-inf, 0], [inf, -inf]], dtype)
    y, (dx,) = both(activations.softmax, x)
    np.testing.assert_array_equal(y, [[1, 0], [0, 1], [0, 1], [1, 0]])
    np.testing.assert_array_equal(dx, 0)
    y, (dx,) = both(activations.log_softmax, x, dy=0.5)
    np.testing.assert_array_equal(y.max(1), 0)
    assert (y.min(1) <= np.finfo(dtype).min).all()
    np.testing.assert_array_equal(dx, [[-0.5, 0.5], [0.5, -0.5], [0.5, -0.5], [-0.5, 0.5]])


# ------------------------------------------------------------------------------------------ layers


def layer_norm_exactly(x, eps):
    """Return what a row normalizes to, from rational arithmetic."""
    rows = [[Fraction(float(v)) for v in row] for row in x]
    means = [sum(row) / len(row) for row in rows]
    variances = [sum((v - m) ** 2 for v in row) / len(row) for row, m in zip(rows, means, strict=True)]
    return [
        [ratio(v - m, variance + Fraction(eps)) for v in row]
        for row, m, variance in zip(rows, means, variances, strict=True)
    ]


def ratio(d, variance):
    """Return d / √variance of Fractions of any magnitude."""
    return (1 if d > 0 else -1) * sqrt(d * d / variance)


norms = pytest.mark.parametrize(("layer", "axis"), [(BatchNorm, 0), (LayerNorm, 1)])


@norms
@every_dtype
@given(data=st.data())
def test_normalization_is_right_for_extreme_numbers(layer, axis, dtype, data):
    eps = data.draw(st.sampled_from([0.0, 1e-37, 1e-5, 1.0]))
    shape = data.draw(shapes)
    x = data.draw(arrays(shape, dtype))
    net = layer(eps=eps)
    params = tree.cast(net.init(random.key(0), shape[1:])[1], dtype)
    y, (dparams, dx) = both(net.apply, params, x, train=True)
    turned = x.T if axis == 0 else x
    expected = np.array(layer_norm_exactly(turned, max(eps, 1e-37)))
    np.testing.assert_allclose(y, expected.T if axis == 0 else expected, rtol=1e-3, atol=1e-4)
    assert finite((dparams, dx))


@norms
@every_dtype
@pytest.mark.parametrize("n", [2, 3, 7, 100])
def test_a_constant_normalizes_to_the_bias_however_large(layer, axis, dtype, n):
    """Mean and number differ by a rounding, which for 1e6 in float32 is thousands of times √eps."""
    for value in [0.1, 1e6 / 3, *extremes(dtype)]:
        x = np.full((n, n), value, dtype)
        for eps in (0.0, 1e-5):
            net = layer(eps=eps)
            params = tree.cast(net.init(random.key(0), (n,))[1], dtype)
            params = {**params, "bias": np.full(n, 3, dtype)}
            for scale in (params["scale"], np.zeros(n, dtype)):  # a scale of zero is as good
                y, (_, dx) = both(net.apply, {**params, "scale": scale}, x, train=True)
                np.testing.assert_array_equal(y, 3)
                assert finite(dx)


@pytest.mark.parametrize("layer", [BatchNorm(), LayerNorm(), Prelu(2), Dense(2)], ids=lambda f: f.apply.__name__)
def test_sums_over_many_rows(layer):
    n = 1_500_000
    x = random.generator(random.key(0)).uniform(-0.11, -0.1, (n, 2)).astype(np.float32)
    x[0] = 0
    y, pullback = layer.apply.rule(layer.init(random.key(0), (2,))[1], x, train=True)
    dy = np.full_like(x, 0.1)
    grads = next(iter(pullback(dy)))
    total = (dy * x if "slope" in grads else dy).sum(0, dtype=np.float64)
    np.testing.assert_allclose(grads.get("slope", grads.get("bias", grads.get("b"))), total, rtol=1e-4)
    if "mean" in grads:
        exact = x.astype(np.float64)
        np.testing.assert_allclose(y, (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5), rtol=0, atol=1e-3)


@every_dtype
@given(data=st.data())
def test_calibrated_statistics_take_extreme_numbers(dtype, data):
    n = data.draw(st.integers(2, 9))
    x = data.draw(arrays((n, 3), dtype, bound=1e30))
    net = BatchNorm()
    params = tree.cast(net.init(random.key(0), (3,))[1], dtype)
    params = fmlp.calibrate(net, params, x, batch_size=data.draw(st.integers(2, 9)))
    assert finite(params)
    y, cotangents = both(net.apply, params, x)
    assert finite((y, cotangents))
    d = x.astype(np.float64) - x.astype(np.float64).mean(0)
    clear = np.abs(d) > 1e-3 * np.abs(x).max(0)
    assert (np.sign(y) == np.sign(d))[clear & (np.abs(d) > 1e-30)].all()


def test_a_variance_is_right_where_the_sum_of_squares_overflows():
    params = BatchNorm().init(random.key(0), (1,))[1]
    x = np.resize(np.array([[2**62], [-(2**62)]], np.float32), (100, 1))
    assert fmlp.calibrate(BatchNorm(), params, x)["var"] == 2.0**124


@every_dtype
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3, 1e15, 1e30])
@pytest.mark.parametrize("n", [3, 7, 100])
def test_calibrated_on_constant_data_gives_the_bias(dtype, value, n):
    net = BatchNorm()
    params = tree.cast(net.init(random.key(0), (2,))[1], dtype)
    x = np.full((n, 2), value, dtype)
    params = fmlp.calibrate(net, params, x, batch_size=3)
    np.testing.assert_array_equal(params["mean"], x[0])
    np.testing.assert_array_equal(params["var"], 0)
    np.testing.assert_array_equal(net.apply(params, x), 0)


PIECES = {
    "dense": lambda: Dense(3),
    "zeros": lambda: Dense(3, w_init=initializers.zeros()),
    "dropout": lambda: Dropout(0.5),
    "prelu": lambda: layers.Prelu(),
    "flatten": lambda: layers.Flatten(),
    "residual": lambda: layers.residual(Elu()),
    "branches": lambda: serial(layers.fan_out(2), layers.parallel(Elu(), LayerNorm()), layers.fan_in_concat()),
    "sum": lambda: serial(layers.fan_out(2), layers.parallel(Elu(), BatchNorm()), layers.fan_in_sum()),
    "deep": lambda: serial(Dense(4), BatchNorm(), Elu(), Dropout(0.2), Dense(4), LayerNorm(), layers.Gelu(), Dense(2)),
}


@pytest.mark.parametrize("name", PIECES)
@every_dtype
@given(data=st.data())
def test_layers_take_what_their_products_can_hold(name, dtype, data):
    net, shape = PIECES[name](), data.draw(shapes)
    params = tree.cast(net.init(data.draw(keys), shape[1:])[1], dtype)
    if data.draw(st.booleans()):
        params = tree.map(np.zeros_like, params)
    x = data.draw(arrays(shape, dtype, bound=1e30))
    y, (dparams, dx) = both(net.apply, params, x, train=True, key=random.key(1))
    assert finite(y)
    assert finite(dx)
    assert finite(dparams)


def test_embedding_of_extreme_numbers():
    w = extremes(np.float32).reshape(-1, 2)
    y, (dparams, _) = both(layers.Embedding(len(w), 2).apply, {"w": w}, np.array([0, 1, 1, len(w) - 1]), dy=1e30)
    np.testing.assert_array_equal(y, w[[0, 1, 1, -1]])
    assert finite(dparams)


# ------------------------------------------------------------------------------------------ losses

REGRESSION = [losses.mse, losses.mae, losses.huber, partial(losses.huber, delta=1e-3)]


@st.composite
def weights(draw, n):
    choices = [0.0, 5e-324, 1e-30, 1.0, 1e30, 1e300]
    return draw(st.none() | st.lists(st.sampled_from(choices), min_size=n, max_size=n).map(np.array))


@pytest.mark.parametrize("loss", REGRESSION)
@every_dtype
@given(data=st.data())
def test_regression_losses_take_extreme_numbers(loss, dtype, data):
    shape = data.draw(st.tuples(st.integers(2, 9), st.integers(1, 5)))
    p, y = (data.draw(arrays(shape, dtype)) for _ in "py")
    weight = data.draw(weights(shape[0]))
    value, gradient = value_and_grad(loss)(p, y, weight=weight)
    assert value >= 0
    assert not np.isnan(gradient).any()
    assert (np.sign(gradient) * (np.sign(p.astype(np.longdouble) - y)) >= 0).all()
    if weight is not None:
        assert not gradient[weight == 0].any()


@every_dtype
@given(data=st.data())
def test_cross_entropies_take_extreme_logits(dtype, data):
    n, k = data.draw(st.tuples(st.integers(2, 9), st.integers(1, 5)))
    z = data.draw(arrays((n, k), dtype))
    labels = random.generator(data.draw(keys)).integers(0, k, n)
    onehot = np.eye(k, dtype=dtype)[labels]
    weight, smoothing = data.draw(weights(n)), data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    f = value_and_grad(partial(losses.cross_entropy, label_smoothing=smoothing, weight=weight))
    for y in (labels, onehot, activations.softmax(data.draw(arrays((n, k), dtype)))):
        value, gradient = f(z, y)
        assert value >= 0
        assert finite(gradient)
        if y is not labels and y is not onehot:
            continue
        if smoothing == 0:
            assert (np.where(onehot == 1, -gradient, gradient) >= 0).all()
    f = value_and_grad(partial(losses.binary_cross_entropy, weight=weight))
    for y in (onehot, onehot.astype(bool), random.generator(random.key(0)).random((n, k))):
        value, gradient = f(z, y)
        assert value >= 0
        assert finite(gradient)
        assert (gradient[y == 1] <= 0).all()
        assert (gradient[y == 0] >= 0).all()


@every_dtype
def test_cross_entropy_of_logits_further_apart_than_the_largest_number(dtype):
    largest = np.finfo(dtype).max
    z = np.array([[largest, -largest]], dtype)
    for y, value in (([0], 0), ([1], inf), ([[1.0, 0.0]], 0), ([[0.0, 1.0]], inf), ([[0.5, 0.5]], largest)):
        assert losses.cross_entropy(z, np.array(y)) == pytest.approx(value)
    assert losses.cross_entropy(z, np.array([1]), label_smoothing=1.0) == pytest.approx(largest)
    assert losses.cross_entropy(z, np.array([0]), label_smoothing=0.5) == pytest.approx(largest / 2)
    z = np.array([[-largest, largest], [0, 0]], dtype)  # the first row does not count
    value, gradient = value_and_grad(losses.cross_entropy)(z, np.array([0, 0]), weight=[0, 1])
    assert value == pytest.approx(log(2))
    np.testing.assert_allclose(gradient, [[0, 0], [-0.5, 0.5]], rtol=1e-6)


@every_dtype
@pytest.mark.parametrize(
    ("loss", "z", "y", "value"),
    [
        (losses.cross_entropy, [-inf, 0], 0, inf),
        (losses.cross_entropy, [-inf, 0], [0, 1], 0),
        (losses.cross_entropy, [-inf, 0], [0.25, 0.75], inf),
        (losses.cross_entropy, [inf, 0], 0, 0),
        (losses.cross_entropy, [inf, 0], 1, inf),
        (losses.cross_entropy, [inf, inf], 1, log(2)),
        (partial(losses.cross_entropy, label_smoothing=0.1), [-inf, 0], 1, inf),
        (partial(losses.cross_entropy, label_smoothing=1.0), [0, 0], 1, log(2)),
        *[(losses.binary_cross_entropy, [sign * inf], [y], 0 if y == (sign > 0) else inf)
          for sign in (-1, 1) for y in (0, 0.5, 1)],
        *[(losses.poisson, [sign * inf], [y], 0 if sign < 0 == y else inf) for sign in (-1, 1) for y in (0, 2)],
        (losses.mse, [inf], [0], inf),
        (losses.huber, [-inf], [0], inf),
        (partial(losses.huber, delta=inf), [-inf], [0], inf),
    ],
)  # fmt: skip
def test_losses_have_their_limits(dtype, loss, z, y, value):
    """Whatever is infinite, the gradient is no NaN, and a row of weight 0 counts nothing."""
    rows, targets = np.array([z, np.zeros_like(z)], dtype), np.array([y, y])
    result, gradient = value_and_grad(loss)(rows[:1], targets[:1])
    assert result == pytest.approx(value, rel=1e-6, abs=0)
    assert not np.isnan(gradient).any()
    weighted, gradient = value_and_grad(loss)(rows, targets, weight=[0, 1])
    assert weighted == loss(rows[1:], targets[1:])
    assert not gradient[0].any()


LOSSES = {
    "mse": (losses.mse, 10.0, 0.0, 100.0),
    "mae": (losses.mae, 100.0, 0.0, 100.0),
    "huber": (losses.huber, 100.0, 0.0, 99.5),
    "poisson": (losses.poisson, log(100.0), 0.0, 100.0),
    "binary_cross_entropy": (losses.binary_cross_entropy, 100.0, 0.0, 100.0),
    "cross_entropy": (losses.cross_entropy, [100.0, 0.0], 1, 100.0),
    "mse of large numbers": (losses.mse, 200.0, -40.0, 57600.0),
    "cross_entropy of large numbers": (losses.cross_entropy, [-4e4, 4e4], [0.5, 0.5], 4e4),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_float16_over_many_rows(name, weighted):
    loss, prediction, y, expected = LOSSES[name]
    prediction, y = np.array([prediction] * 4000, np.float16), np.array([y] * 4000)
    weight = np.arange(4000) if weighted else None
    value, gradient = value_and_grad(loss)(prediction, y, weight=weight)
    assert (value.dtype, gradient.dtype) == (np.float16, np.float16)
    assert value == pytest.approx(expected, rel=1e-3)
    reference = value_and_grad(loss)(prediction.astype(float), y, weight=weight)[1]
    np.testing.assert_allclose(gradient, reference, rtol=1e-3, atol=6e-8)


@every_dtype
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_sum_may_overflow_where_the_mean_does_not(dtype, width, weighted):
    root = np.sqrt(np.finfo(dtype).max) / 2
    d = np.full((9, width), root, dtype)
    settings = {"weight": np.ones(9)} if weighted else {}
    for loss in (losses.mse, partial(losses.huber, delta=inf)):
        value, gradient = value_and_grad(loss)(d, np.zeros_like(d), **settings)
        assert value == pytest.approx(root * root / (1 if loss is losses.mse else 2))
        np.testing.assert_allclose(gradient * d.size, d * (2 if loss is losses.mse else 1), rtol=1e-6)
    assert losses.mae(d * root, np.zeros_like(d), **settings) == pytest.approx(root * root)


@every_dtype
def test_small_differences_of_losses_are_not_lost(dtype):
    """log1p and the fused forms keep what 1 - p would round away."""
    z = np.array([30.0, -30.0], dtype)
    value, gradient = value_and_grad(losses.binary_cross_entropy)(z, [1, 0])
    assert value == pytest.approx(np.exp(-30.0), rel=1e-5)
    value, gradient = value_and_grad(losses.cross_entropy)(np.array([[0, 30.0]], dtype), [0])
    assert value == pytest.approx(30, rel=1e-6)
    assert gradient[0, 1] == pytest.approx(1, rel=1e-6)


# ----------------------------------------------------------------------------------------- metrics


@given(data=st.data())
def test_metrics_take_extreme_numbers(data):
    shape = data.draw(st.tuples(st.integers(2, 9), st.integers(1, 3)))
    t, p = (data.draw(arrays(shape, np.float64)) for _ in "tp")
    weight = data.draw(weights(shape[0]).filter(lambda w: w is None or w.any()))
    assert metrics.mse(t, p, weight=weight) >= 0
    assert metrics.mae(t, p, weight=weight) >= 0
    assert metrics.r2(t, p, weight=weight) <= 1
    assert metrics.r2(t, t, weight=weight) == 1
    labels, guesses = (np.abs(a[:, 0]) > 1 for a in (t, p))
    for score in (metrics.accuracy, metrics.precision, metrics.recall, metrics.f1):
        assert 0 <= score(labels, guesses, weight=weight) <= 1
        assert score(labels, labels, weight=weight) > 0


@given(exponent=st.integers(-1070, 1020), key=keys)
def test_r2_does_not_depend_on_the_unit(exponent, key):
    t, p = random.generator(key).integers(-7, 8, (2, 5)).astype(float)
    assert metrics.r2(np.ldexp(t, exponent), np.ldexp(p, exponent)) == pytest.approx(metrics.r2(t, p), rel=1e-12)


def test_mean_errors_that_overflow_are_infinite():
    largest = np.finfo(np.float64).max
    assert metrics.mse([1e200], [0.0]) == inf
    assert metrics.mae([largest], [-largest]) == inf


# -------------------------------------------------------------------------------------- optimizers

OPTIMIZERS = {
    "sgd": optim.sgd(0.1),
    "momentum": optim.sgd(0.1, 0.9, nesterov=True),
    "adagrad": optim.adagrad(0.1),
    "adadelta": optim.adadelta(0.1),
    "rmsprop": optim.rmsprop(0.1),
    "centered": optim.rmsprop(0.1, momentum=0.5, centered=True),
    "adam": optim.adam(0.1),
    "adam without eps": optim.adam(0.1, eps=0.0),
    "rmsprop without eps": optim.rmsprop(0.1, eps=0.0),
    "adagrad without eps": optim.adagrad(0.1, eps=0.0),
    "adadelta without eps": optim.adadelta(0.1, eps=0.0),
    "nadam without eps": optim.nadam(0.1, eps=0.0),
    "decay": optim.adam(0.1, weight_decay=0.1),
    "adamw": optim.adamw(0.1),
    "nadam": optim.nadam(0.1),
    "amsgrad": optim.adam(0.1, amsgrad=True),
    "adamax": optim.adamax(0.1),
    "adamax without eps": optim.adamax(0.1, eps=0.0),
    "radam": optim.radam(0.1, b2=0.9),
    "radam without eps": optim.radam(0.1, b2=0.9, eps=0.0),
    "lion": optim.lion(0.1),
    "clipped": optim.chain(optim.clip_by_global_norm(1.0), optim.adam(0.1)),
    "cut": optim.chain(optim.clip(1.0), optim.sgd(0.1)),
}
# Those that divide by the root of squares; radam's first steps do not.
SQUARES = {name for name in OPTIMIZERS if name.split()[0] not in ("sgd", "momentum", "lion", "clipped", "cut", "radam")}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@every_optimizer
@every_dtype
def test_optimizers_take_extreme_gradients_for_many_steps(name, dtype):
    optimizer = OPTIMIZERS[name]
    g = extremes(dtype, bound=1e30)
    params = {"w": np.zeros_like(g)}
    state = optimizer.init(params)
    for step in range(2000):
        updates, state = optimizer.update({"w": g}, state, params)
        assert finite(updates), step
        if name not in ("decay", "adamw"):
            assert (updates["w"] * np.sign(g) <= 0).all(), step
        if step < 100:
            params = optim.apply_updates(params, updates)
    assert finite([leaf for leaf in tree.leaves(state) if isinstance(leaf, np.ndarray)])


@every_optimizer
def test_optimizers_survive_cloudpickle(name):
    cloudpickle = pytest.importorskip("cloudpickle")
    params = {"w": np.ones(3, np.float32)}
    states = []
    for optimizer in (OPTIMIZERS[name], pickle.loads(cloudpickle.dumps(OPTIMIZERS[name]))):
        state = optimizer.init(params)
        states.append(tree.leaves(optimizer.update({"w": np.arange(3, dtype=np.float32)}, state, params)))
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)


@every_optimizer
@every_dtype
@given(data=st.data())
def test_optimizers_take_any_sequence_of_gradients(name, dtype, data):
    optimizer = OPTIMIZERS[name]
    generator = random.generator(data.draw(keys))
    params = {"w": generator.standard_normal(8).astype(dtype)}
    state = optimizer.init(params)
    for scale in data.draw(st.lists(st.sampled_from([0.0, 1e-40, 1e-30, 1e-10, 1.0, 1e10, 1e20, 1e30]), max_size=12)):
        updates, state = optimizer.update({"w": (scale * generator.standard_normal(8)).astype(dtype)}, state, params)
        assert finite(updates)
        if name in SQUARES - {"centered", "nadam", "nadam without eps"}:
            assert np.abs(updates["w"]).max() < 1e3
        params = optim.apply_updates(params, updates) if name not in ("sgd", "momentum") else params


@pytest.mark.parametrize("name", SQUARES - {"adadelta", "adadelta without eps"})
@every_dtype
def test_a_huge_gradient_makes_a_step_like_any_other_and_is_forgotten(name, dtype):
    """Its square overflows: an infinite average would hold the parameter still for ever."""
    optimizer, huge = OPTIMIZERS[name], {np.float32: 1e25, np.float64: 1e200}[dtype]
    params = {"w": np.array([1.0, 1.0], dtype)}
    state = optimizer.init(params)
    updates, state = optimizer.update({"w": np.array([-huge, 1.0], dtype)}, state, params)
    assert updates["w"][0] == pytest.approx(-updates["w"][1], rel=0.4)  # weight decay is in it
    for _ in range(200):
        _, state = optimizer.update({"w": np.array([1.0, 1.0], dtype)}, state, params)
    assert finite([leaf for leaf in tree.leaves(state) if isinstance(leaf, np.ndarray)])


@pytest.mark.parametrize(
    "make",
    [optim.adagrad, optim.adadelta, optim.rmsprop, optim.adam, optim.adamw, optim.nadam],
    ids=lambda f: f.__name__,
)
@every_dtype
@given(key=keys)
def test_a_huge_gradient_leaves_the_steps_of_all_other_numbers_as_they_are(make, dtype, key):
    optimizer, huge = make(0.1, weight_decay=0.1), {np.float32: 1e25, np.float64: 1e200}[dtype]
    params, *grads = random.generator(key).standard_normal((4, 5)).astype(dtype)
    state = with_huge = optimizer.init(params)
    for step, g in enumerate(grads):
        expected, state = optimizer.update(g, state, params)
        g = np.where(np.arange(5) == 0, huge if step == 1 else g, g)
        updates, with_huge = optimizer.update(g, with_huge, params)
        np.testing.assert_array_equal(updates[1:], expected[1:])


@pytest.mark.parametrize("name", SQUARES | {"lion"})
@pytest.mark.parametrize("bad", [inf, np.nan])
def test_what_is_not_finite_stays_so_beside_what_overflows(name, bad):
    params = {"w": np.zeros(3, np.float32)}
    optimizer = OPTIMIZERS[name]
    with np.errstate(invalid="ignore"):
        updates, _ = optimizer.update({"w": np.array([bad, 1e30, 1], np.float32)}, optimizer.init(params), params)
    np.testing.assert_array_equal(np.isnan(updates["w"]), [True, False, False])


@every_dtype
@given(data=st.data())
def test_the_global_norm_of_any_gradients(dtype, data):
    g = {"a": data.draw(arrays((3, 2), dtype)), "b": data.draw(arrays((2, 2), dtype))}
    bound = data.draw(st.sampled_from([1e-3, 1.0, 1e10]))
    clipped, _ = optim.clip_by_global_norm(bound).update(g, (), None)
    assert finite(clipped)
    vector, before = (tree.ravel(tree.cast(values, np.longdouble))[0] for values in (clipped, g))
    norm = np.sqrt(np.square(before).sum())
    assert np.sqrt(np.square(vector).sum()) == pytest.approx(min(norm, bound), rel=1e-2, abs=1e-300)
    assert (vector * before >= 0).all()


@pytest.mark.parametrize(
    ("optimizer", "gradient"),
    [(optim.adagrad(0.1, weight_decay=0.5), 0.0), (optim.adam(0.1), 0.5), (optim.adam(0.1), 2.0)],
)
def test_a_first_step_of_lr_beside_a_gradient_whose_square_overflows(optimizer, gradient):
    params, grads = ({"w": np.array(values, np.float32)} for values in ([1.0, 1.0], [1e30, gradient]))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"][1], -0.1, rtol=1e-6)


def test_the_global_norm_of_gradients_whose_squares_are_0_in_their_dtype():
    clipped, _ = optim.clip_by_global_norm(1e-25).update({"w": np.array([3e-25, 4e-25], np.float32)}, (), None)
    np.testing.assert_allclose(clipped["w"], [6e-26, 8e-26], rtol=1e-6)


def test_an_infinite_gradient_is_seen_after_clipping():
    with np.errstate(invalid="ignore"):
        clipped, _ = optim.clip_by_global_norm(1.0).update({"w": np.array([inf, 1.0])}, (), None)
    assert isnan(clipped["w"][0])


# ---------------------------------------------------------------------------------------- training


@every_dtype
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3, 1e18])
def test_training_on_constant_data_is_finite(dtype, value):
    net = serial(BatchNorm(), Dense(4, w_init=initializers.zeros()), LayerNorm(), Elu(), Dropout(0.5), Dense(2))
    params = tree.cast(net.init(random.key(0), (3,))[1], dtype)
    data = np.full((10, 3), value, dtype), np.arange(10) % 2
    result = fmlp.fit(
        net,
        params,
        data,
        loss=losses.cross_entropy,
        optimizer=optim.adam(0.01),
        epochs=3,
        batch_size=4,
        key=random.key(1),
        validation=0.2,
        metrics={"accuracy": metrics.accuracy},
        progress=False,
    )
    assert finite(result.params)
    assert all(isfinite(score) for scores in result.history.values() for score in scores)
    assert finite(fmlp.predict(net, result.params, data[0]))


OF_FLOAT16 = {
    "dense": (Dense(4), (300,), np.full((4000, 300), 30.0)),
    "embedding": (layers.Embedding(3, 2), (), np.zeros(5000, int)),
    "batch_norm": (BatchNorm(), (2,), np.linspace([-30000, 0.5], [5000, 0.25], 70000)),
    "layer_norm": (LayerNorm(), (100_000,), np.linspace([-1000, 0], [5000, 60000], 100_000).T),
    "rms_norm": (layers.RMSNorm(), (100_000,), np.linspace([-1000, 0], [5000, 60000], 100_000).T),
    "prelu": (Prelu(2), (2,), np.full((4000, 5, 2), -10.0)),
    "glu": (layers.GLU(), (4,), np.full((3, 4), 300.0)),
}


@pytest.mark.parametrize("name", OF_FLOAT16)
@pytest.mark.parametrize("train", [False, True])
def test_layers_of_float16_are_rounded_once(name, train):
    layer, shape, x = OF_FLOAT16[name]
    x = x.astype(np.float16) if x.dtype.kind == "f" else x
    params = fmlp.calibrate(layer, tree.cast(layer.init(random.key(0), shape)[1], np.float16), x)
    assert {leaf.dtype for leaf in tree.leaves(params)} <= {np.dtype(np.float16)}
    y, cotangents = both(layer.apply, params, x, train=train, dy=0.01)
    exact = both(layer.apply, tree.cast(params, np.float64), tree.cast(x, np.float64), train=train, dy=np.float16(0.01))
    for value, expected in zip(tree.leaves((y, cotangents)), tree.leaves(exact), strict=True):
        assert value.dtype == np.float16
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(value, expected.astype(np.float16), rtol=2e-3, atol=1e-5 + 2e-7 * len(x))


def test_norms_of_many_float16_numbers_are_those_of_float64():
    x = random.generator(random.key(0)).normal(1, 100, (2, 100_000)).astype(np.float16)
    for layer, mean in ((LayerNorm(), 1), (RMSNorm(), 0)):
        _, params = layer.init(random.key(0), x.shape[1:])
        y = layer.apply(tree.cast(params, np.float16), x)
        wide = x.astype(np.float64)
        z = wide - mean * wide.mean(1, keepdims=True)
        np.testing.assert_allclose(y, z / np.sqrt((z * z).mean(1, keepdims=True)), rtol=2e-3, atol=1e-4)
    norm = BatchNorm()
    _, params = norm.init(random.key(0), (1,))
    params = fmlp.calibrate(norm, tree.cast(params, np.float16), np.ones((70_000, 1), np.float16))
    assert params["count"] == np.finfo(np.float16).max  # the largest that there is


def test_root_mean_squares_do_not_overflow():
    x = np.array([[3e30, -4e30], [0, 0]], np.float32)
    assert np.array_equal(
        RMSNorm().apply({"scale": np.ones(2, np.float32)}, x),
        RMSNorm(eps=0).apply({"scale": np.ones(2, np.float32)}, x / np.float32(1e30)),
    )
