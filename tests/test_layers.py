"""Layers and combinators: what they compute, what they share out, and what they say when used wrongly."""

import tracemalloc

import numpy as np
import pytest
from derivatives import computed, keeps_width, networks, numbers, parameters
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats

import fmlp
from fmlp import activations, layers, losses, random, statistics, tree, value_and_grad, vjp
from fmlp.layers import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Elu,
    Embedding,
    Flatten,
    Identity,
    Layer,
    LayerNorm,
    Prelu,
    Tanh,
    fan_in_concat,
    fan_in_sum,
    fan_out,
    parallel,
    residual,
    serial,
)

KEY = random.key(0)
X = np.array([[1.0, -2.0, 0.5], [3.0, 1.0, -1.0]])


def start(layer, shape, dtype=np.float64):
    """Return a layer's initial parameters in a dtype, with its statistics taken for computed."""
    return tree.cast(computed(layer.init(KEY, shape)[1]), dtype)


def dtypes(*trees):
    return {leaf.dtype for leaf in tree.leaves(trees)}


# ------------------------------------------------------------------------------------ single layers


def test_dense_is_affine():
    params = {"w": np.array([[1.0, 2], [3, 4], [5, 6]]), "b": np.array([10.0, 20])}
    y, pullback = vjp(Dense(2).apply, params, X)
    np.testing.assert_array_equal(y, [[7.5, 17], [11, 24]])
    dparams, dx = pullback(np.array([[1.0, 0], [0, 1]]))
    np.testing.assert_array_equal(dparams["w"], X.T)
    np.testing.assert_array_equal(dparams["b"], [1, 1])
    np.testing.assert_array_equal(dx, params["w"].T)
    np.testing.assert_array_equal(Dense(2).apply(params, X[0]), y[0])
    np.testing.assert_array_equal(Dense(2).apply(params, X[:, None]), y[:, None])


def test_dense_takes_its_initializers_and_may_have_no_bias():
    ones = fmlp.initializers.ones()
    shape, params = Dense(2, ones, fmlp.initializers.constant(3)).init(KEY, (5, 4))
    assert shape == (5, 2)
    np.testing.assert_array_equal(params["w"], np.ones((4, 2)))
    np.testing.assert_array_equal(params["b"], [3, 3])
    assert Dense(2, bias=False).init(KEY, (4,))[1].keys() == {"w"}


@given(features=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_initial_parameters_are_drawn_as_documented_each_by_a_key_of_its_own(features, width, seed):
    key, initializers = random.key(seed), fmlp.initializers
    w_key, b_key = random.split(key)
    _, params = Dense(features).init(key, (width,))
    np.testing.assert_array_equal(params["w"], initializers.xavier_uniform()(w_key, (width, features)))
    np.testing.assert_array_equal(params["b"], np.zeros(features))
    _, params = Dense(features, b_init=initializers.normal()).init(key, (width,))
    np.testing.assert_array_equal(params["b"], initializers.normal()(b_key, (features,)))
    _, params = Embedding(width, features).init(key, ())
    np.testing.assert_array_equal(params["w"], initializers.normal()(key, (width, features)))
    for combine, shape in ((serial, (width,)), (parallel, ((width,), (width,)))):
        _, params = combine(Dense(width), Dense(width)).init(key, shape)
        for child, child_key in zip(("dense_0", "dense_1"), random.split(key), strict=True):
            np.testing.assert_array_equal(params[child]["w"], Dense(width).init(child_key, (width,))[1]["w"])


def test_embedding_adds_up_repeated_indices():
    params = {"w": np.arange(6.0).reshape(3, 2)}
    y, pullback = vjp(Embedding(3, 2).apply, params, np.array([[2, 0], [2, 2]]))
    np.testing.assert_array_equal(y, [[[4, 5], [0, 1]], [[4, 5], [4, 5]]])
    dparams, dx = pullback(np.array([[[1.0, 2], [3, 4]], [[5, 6], [7, 8]]]))
    np.testing.assert_array_equal(dparams["w"], [[3, 4], [0, 0], [13, 16]])
    assert dx is None
    assert Embedding(3, 2).init(KEY, (5,))[0] == (5, 2)


def test_flatten_joins_the_axes_of_an_example():
    layer, x = Flatten(), np.arange(24.0).reshape(2, 3, 4)
    assert layer.init(KEY, (3, 4))[0] == (12,)
    assert layer.init(KEY, ())[0] == (1,)
    np.testing.assert_array_equal(layer.apply({}, x), x.reshape(2, 12))
    assert layer.apply({}, x[:0]).shape == (0, 12)
    assert layer.apply({}, x[:, 0, 0]).shape == (2, 1)


def test_prelu_learns_its_slopes():
    x = np.array([[-2.0, 3.0, 0.0], [-1.0, -4.0, -0.0]])
    y, pullback = vjp(Prelu().apply, {"slope": np.array([0.5])}, x)
    np.testing.assert_array_equal(y, [[-1, 3, 0], [-0.5, -2, 0]])
    dparams, dx = pullback(np.ones_like(x))
    np.testing.assert_array_equal(dparams["slope"], [-7])
    np.testing.assert_array_equal(dx, [[0.5, 1, 0.5], [0.5, 0.5, 0.5]])
    dparams, _ = vjp(Prelu(3).apply, {"slope": np.array([0.5, 1, 2])}, x)[1](np.ones_like(x))
    np.testing.assert_array_equal(dparams["slope"], [-3, -4, 0])
    np.testing.assert_array_equal(Prelu(init=0.125).init(KEY, (3,))[1]["slope"], [0.125])
    np.testing.assert_array_equal(Prelu().init(KEY, (3,))[1]["slope"], [0.25])


def test_an_activations_settings_count():
    y, pullback = vjp(Activation(activations.leaky_relu, negative_slope=0.5).apply, {}, np.array([-2.0, 2.0]))
    np.testing.assert_array_equal(y, [-1, 2])
    np.testing.assert_array_equal(pullback(np.ones(2))[1], [0.5, 1])


def test_layer_norm_of_rows():
    layer = LayerNorm()
    y = layer.apply(start(layer, (3,)), X)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-15)
    np.testing.assert_allclose(y.var(-1), 1, rtol=1e-4)
    y, pullback = vjp(layer.apply, start(layer, (3,), np.float32), np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(y, 0)
    assert np.isfinite(pullback(np.ones_like(y))[1]).all()


# ------------------------------------------------------------------------------------------ dropout


@given(rate=st.floats(0, 0.99), seed=st.integers(0, 2**32))
def test_dropout_zeroes_that_share_and_scales_the_rest(rate, seed):
    x = np.ones((100, 50))
    y, pullback = vjp(Dropout(rate).apply, {}, x, train=True, key=random.key(seed))
    dropped = y == 0
    keep = round((1 - rate) * 65536) / 65536
    assert stats.binomtest(int(dropped.sum()), x.size, 1 - keep).pvalue > 1e-7
    np.testing.assert_array_equal(y[~dropped], 1 / keep)
    np.testing.assert_array_equal(pullback(x)[1], y)


def test_dropout_keeps_the_mean():
    x = np.linspace(1, 2, 1000)
    layer = Dropout(0.3)
    mean = np.mean([layer.apply({}, x, train=True, key=key) for key in random.split(KEY, 1000)], 0)
    standard_error = x * np.sqrt(0.3 / 0.7 / 1000)
    assert np.abs((mean - x) / standard_error).max() < 5


def test_dropout_is_the_identity_unless_training():
    for layer, settings in [(Dropout(0.5), {}), (Dropout(0.5), {"key": KEY}), (Dropout(0.0), {"train": True})]:
        y, pullback = vjp(layer.apply, {}, X, **settings)
        np.testing.assert_array_equal(y, X)
        np.testing.assert_array_equal(pullback(X)[1], X)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, X, train=statistics.Calibration()), X)


def test_every_child_gets_a_mask_of_its_own():
    x = np.ones((1, 1000))
    two = parallel(Dropout(0.5), serial(Dropout(0.5)), Dropout(0.5))
    masks = [y == 0 for y in two.apply({}, (x, x, x), train=True, key=KEY)]
    twice = serial(Dropout(0.5), Dropout(0.5)).apply({}, x, train=True, key=KEY)
    assert set(np.unique(twice)) == {0, 4}
    assert (twice == 0).mean() == pytest.approx(0.75, abs=0.07)
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert (mask == other).mean() == pytest.approx(0.5, abs=0.08)


def test_the_key_decides_the_mask():
    net = serial(Dropout(0.5), residual(Dropout(0.5)))
    first, again, other = (net.apply({}, np.ones((9, 9)), train=True, key=random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# ---------------------------------------------------------------------------------------- BatchNorm


@given(data=st.data())
def test_batch_norm_in_training_uses_the_batch(data):
    layer = BatchNorm()
    x = data.draw(numbers((data.draw(st.integers(2, 5)), data.draw(st.integers(1, 3)), 4)))
    params = data.draw(parameters(layer, (4,)))
    y, pullback = vjp(layer.apply, params, x, train=True)
    normal = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
    np.testing.assert_allclose(y, params["scale"] * normal + params["bias"], rtol=1e-12, atol=1e-13)
    dparams, _ = pullback(y)
    for name in ("mean", "var", "count"):
        np.testing.assert_array_equal(dparams[name], np.zeros_like(params[name]), strict=True)


def test_batch_norm_at_inference_uses_the_population():
    params = {"scale": 2.0, "bias": 1.0, "mean": 3.0, "var": 4.0}
    params = {name: np.array([value]) for name, value in params.items()} | {"count": np.array(8.0)}
    y, pullback = vjp(BatchNorm(eps=0.0).apply, params, np.array([[5.0], [1.0]]))
    np.testing.assert_array_equal(y, [[3], [-1]])
    dparams, dx = pullback(np.array([[1.0], [0.0]]))
    assert {name: d.item() for name, d in dparams.items()} == {
        "scale": 1,
        "bias": 1,
        "mean": -1,
        "var": -0.25,
        "count": 0,
    }
    np.testing.assert_array_equal(dx, [[1], [0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_norm_of_constant_columns_is_finite(dtype):
    params = BatchNorm().init(KEY, (2,))[1]
    x = np.array([[3.0, 0.0]] * 4, dtype)
    y, pullback = vjp(BatchNorm().apply, params, x, train=True)
    np.testing.assert_array_equal(y, 0)
    assert np.isfinite(pullback(np.ones_like(y))[1]).all()


# --------------------------------------------------------------------------------------- combinators


def test_serial_names_its_children_by_kind_and_position():
    net = serial(Dense(4), BatchNorm(), Elu(), Dropout(0.5), residual(Dense(4), Prelu()), Dense(2))
    shape, params = net.init(KEY, (3,))
    assert shape == (2,)
    assert list(params) == ["dense_0", "batch_norm_1", "residual_4", "dense_5"]
    assert list(params["residual_4"]) == ["dense_0", "prelu_1"]
    names = list(net.apply.children)
    assert names == ["dense_0", "batch_norm_1", "elu_2", "dropout_3", "residual_4", "dense_5"]
    assert dtypes(params) == {np.dtype(np.float32)}


def test_the_same_layer_twice_has_two_sets_of_parameters():
    layer = Dense(3)
    params = serial(layer, layer).init(KEY, (3,))[1]
    assert (params["dense_0"]["w"] != params["dense_1"]["w"]).all()


def test_a_plain_pair_of_functions_is_a_layer():
    double = fmlp.differentiable(lambda params, x, **kwargs: (2 * x, lambda dy: ({}, 2 * dy)))
    net = serial((lambda key, shape: (shape, {}), double), Identity())
    np.testing.assert_array_equal(net.apply({}, X), 2 * X)
    assert vjp(net.apply, {}, X)[1](X)[1] == pytest.approx(2 * X)


@given(data=st.data())
def test_serial_is_associative(data):
    nets = [data.draw(networks()) for _ in range(3)]
    x = data.draw(numbers((3, 2)))
    flat = serial(*nets)
    params = data.draw(parameters(flat, (2,)))
    child = {i: params.get(name, {}) for i, name in enumerate(flat.apply.children)}
    (a, b, c), name = nets, "{0.apply.__name__}_{1}".format
    left, right = serial(serial(a, b), c), serial(a, serial(b, c))
    of_left = {"serial_0": {name(a, 0): child[0], name(b, 1): child[1]}, name(c, 1): child[2]}
    of_right = {name(a, 0): child[0], "serial_1": {name(b, 0): child[1], name(c, 1): child[2]}}
    y, pullback = vjp(flat.apply, params, x)
    dparams, dx = pullback(y)
    for net, nested in ((left, of_left), (right, of_right)):
        same, nested_pullback = vjp(net.apply, nested, x)
        np.testing.assert_array_equal(same, y)
        nested_dparams, same_dx = nested_pullback(y)
        np.testing.assert_array_equal(same_dx, dx)
        assert len(tree.leaves(nested_dparams)) == len(tree.leaves(dparams))
        assert sum(d.sum() for d in tree.leaves(nested_dparams)) == pytest.approx(
            sum(d.sum() for d in tree.leaves(dparams))
        )


def test_a_pullback_that_gives_too_little_is_named():
    @fmlp.differentiable
    def lazy(params, x, *, train=False, key=None):
        return x, lambda dy: ({},)

    short = Layer(lambda key, shape: (shape, {}), lazy)
    for net in (
        serial(Dense(2), short, Dense(1)),
        serial(Dense(2), residual(Tanh(), short)),
        serial(fan_out(2), parallel(Dense(2), short), fan_in_concat()),
    ):
        _, params = net.init(KEY, (3,))
        y, pullback = vjp(net.apply, params, X)
        with pytest.raises(TypeError, match="lazy_1: expected its pullback to give two cotangents"):
            pullback(np.ones_like(y))


def test_an_empty_serial_is_the_identity():
    assert serial().init(KEY, (3,)) == ((3,), {})
    y, pullback = vjp(serial().apply, {}, X)
    assert y is X
    assert pullback(X) == ({}, X)


@given(data=st.data())
def test_shapes_are_what_init_says(data):
    net = data.draw(networks())
    shape, params = net.init(KEY, (3,))
    assert net.apply(computed(params), X).shape == (2, *shape)
    if keeps_width(net):
        y = residual(net).apply({f"{net.apply.__name__}_0": computed(params)}, X.astype(np.float32))
        np.testing.assert_array_equal(y, X.astype(np.float32) + net.apply(computed(params), X.astype(np.float32)))


def test_branches():
    net = serial(fan_out(2), parallel(Identity(), Activation(activations.relu)), fan_in_sum())
    np.testing.assert_array_equal(net.apply({}, X), X + np.maximum(X, 0))
    net = serial(fan_out(3), parallel(Identity(), Dense(2), Flatten()), fan_in_concat())
    shape, params = net.init(KEY, (3,))
    assert shape == (8,)
    np.testing.assert_array_equal(net.apply(params, X)[:, 5:], X.astype(np.float32))
    xs = np.zeros((2, 3, 4)), np.ones((2, 5, 4))
    assert fan_in_concat(1).init(KEY, ((3, 4), (5, 4))) == ((8, 4), {})
    np.testing.assert_array_equal(fan_in_concat(1).apply({}, xs), np.concatenate(xs, 1))
    nested = serial(fan_out(2), parallel(fan_out(2), fan_out(2)), fan_in_sum(), fan_in_sum())
    np.testing.assert_array_equal(nested.apply({}, X), 4 * X)
    np.testing.assert_array_equal(vjp(nested.apply, {}, X)[1](X)[1], 4 * X)


# -------------------------------------------------------------------------------------------- dtypes


WIDEN = Dense(2)


@pytest.mark.parametrize("skip", [None, serial(), Elu(), Identity(), WIDEN])
def test_whole_networks_stay_in_the_dtype_of_their_parameters(skip):
    inner = [Dense(3), BatchNorm(), Elu(), LayerNorm(), Dropout(0.25), Prelu(3), Tanh()]
    net = serial(*inner, residual(Dense(3)), Dense(2))
    if skip:
        net = serial(fan_out(2), parallel(net, skip), fan_in_concat() if skip is not WIDEN else fan_in_sum())
    objective = fmlp.objective(net.apply, losses.cross_entropy)
    y, weight = np.array([0, 1, 1]), np.array([1.0, 2.0, 0.5])
    x = np.array([[1, 2, 3], [4, 5, -6], [0, 1, 0]])
    for dtype in (np.float32, np.float64):
        params = start(net, (3,), dtype)
        for kind in (np.float64, np.float32, np.float16, np.int64, np.uint8, bool):
            data = np.abs(x).astype(kind)
            value, gradient = value_and_grad(objective)(params, data, y, key=KEY, weight=weight)
            assert dtypes(value, gradient, net.apply(params, data)) == {np.dtype(dtype)}


def test_a_numpy_number_as_a_setting_upcasts_nothing():
    for layer in (
        BatchNorm(eps=np.float64(0.1)),
        LayerNorm(eps=np.float64(0.1)),
        Dropout(np.float64(0.1)),
        Elu(np.float64(0.1)),
    ):
        params = start(layer, (3,), np.float32)
        for mode in ({}, {"train": True, "key": KEY}):
            y, pullback = vjp(layer.apply, params, X.astype(np.float32), **mode)
            assert dtypes(y, pullback(y)) == {np.dtype(np.float32)}


def test_what_predict_returns_is_the_callers_own():
    x = np.ones((4, 3), np.float32)
    for net in (
        serial(),
        Identity(),
        Flatten(),
        Dropout(0.5),
        residual(),
        fan_out(2),
        serial(fan_out(1), fan_in_sum()),
    ):
        for y in tree.leaves(fmlp.predict(net, {}, x)):
            assert not np.shares_memory(x, y)


def test_no_cache_keeps_what_a_large_batch_needed():
    layer = serial(Dense(1), Elu(), Prelu(), BatchNorm())
    _, params = layer.init(KEY, (1,))
    tracemalloc.start()
    for n in range(10):
        x = np.ones((200_000 + n, 1), np.float32)
        y, pullback = layer.apply.rule(params, x, train=True)
        next(iter(pullback(y)))
    del x, y, pullback
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 3 << 20


# ------------------------------------------------------------------------------------------- PyTorch


def test_a_network_in_training_equals_pytorch():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    theirs = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ELU(), nn.LayerNorm(5), nn.PReLU(5), nn.Linear(5, 2))
    theirs = theirs.double()
    net = serial(Dense(5), BatchNorm(), Elu(), LayerNorm(), Prelu(5), Dense(2))
    params = start(net, (3,))
    generator = random.generator(KEY)
    params = tree.map(lambda leaf: leaf + generator.uniform(-0.5, 0.5, leaf.shape), params)
    pairs = [
        ("0.weight", "dense_0", "w"),
        ("0.bias", "dense_0", "b"),
        ("1.weight", "batch_norm_1", "scale"),
        ("1.bias", "batch_norm_1", "bias"),
        ("3.weight", "layer_norm_3", "scale"),
        ("3.bias", "layer_norm_3", "bias"),
        ("4.weight", "prelu_4", "slope"),
        ("5.weight", "dense_5", "w"),
        ("5.bias", "dense_5", "b"),
    ]
    named = dict(theirs.named_parameters())
    assert named.keys() == {name for name, _, _ in pairs}
    with torch.no_grad():
        for name, child, leaf in pairs:
            named[name].copy_(torch.tensor(params[child][leaf].T))
    x, y = generator.standard_normal((7, 3)), generator.integers(0, 2, 7)
    value, gradient = value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))(params, x, y, key=KEY)
    expected = nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-13)
    for name, child, leaf in pairs:
        np.testing.assert_allclose(gradient[child][leaf].T, named[name].grad.numpy(), rtol=1e-10, atol=1e-14)


def test_embedding_equals_pytorch():
    torch = pytest.importorskip("torch")
    params, x = start(Embedding(4, 3), ()), np.array([[3, 1], [3, 3]])
    weight = torch.tensor(params["w"], requires_grad=True)
    expected = torch.nn.functional.embedding(torch.tensor(x), weight)
    expected.backward(expected.detach())
    y, pullback = vjp(Embedding(4, 3).apply, params, x)
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_allclose(pullback(y)[0]["w"], weight.grad.numpy(), rtol=1e-15)


# ------------------------------------------------------------------------------------------ wrong use

deep = serial(Elu(), serial(Dense(4), Elu(), Dense(2)))
DEEP = start(deep, (3,))
DENSE = start(Dense(4), (3,))


def init(layer, shape=(3,), key=KEY):
    return lambda: layer.init(key, shape)


def apply(layer, params, x=X, **kwargs):
    return lambda: layer.apply(params, x, **kwargs)


def without_vjp(params, x, **kwargs):
    return x


WRONG = [
    # constructors
    (
        lambda: serial(Dense),
        TypeError,
        r"serial: expected layers, got Dense at position 0; call the constructor: Dense\(\)",
    ),
    (lambda: serial(Dense(1), Elu), TypeError, r"serial: expected layers, got Elu at position 1; .*: Elu\(\)"),
    (lambda: parallel(Dense), TypeError, "parallel: expected layers, got Dense at position 0"),
    (lambda: residual(3), TypeError, "residual: expected layers, got 3 at position 0"),
    (
        lambda: serial([Dense(1)]),
        TypeError,
        r"serial: expected layers, got a list at position 0; .*: serial\(\*layers\)",
    ),
    (lambda: serial(activations.elu), TypeError, r"got elu at position 0; make a layer of it: Activation\(elu\)"),
    (lambda: Activation(np.tanh), TypeError, "Activation: tanh has no vjp"),
    (lambda: Dense(0), ValueError, "features: expected an integer of at least 1, got 0"),
    (lambda: Dense(2.5), TypeError, "features: expected an integer of at least 1, got 2.5"),
    (lambda: Dense(True), TypeError, "features: expected an integer of at least 1, got True"),
    (lambda: Embedding(-1, 2), ValueError, "num_embeddings: expected an integer of at least 1, got -1"),
    (lambda: Embedding(2, 0), ValueError, "features: expected an integer of at least 1, got 0"),
    (lambda: Prelu(0), ValueError, "num_parameters: expected an integer of at least 1, got 0"),
    (lambda: fan_out(0), ValueError, "n: expected an integer of at least 1, got 0"),
    (lambda: Dropout(-0.1), ValueError, r"rate: expected a number in \[0, 1\), got -0.1"),
    (lambda: Dropout(1), ValueError, r"rate: expected a number in \[0, 1\), got 1"),
    (lambda: Dropout(np.nan), ValueError, "rate: expected .* got nan"),
    (lambda: BatchNorm(eps=-1e-5), ValueError, r"eps: expected a number in \[0, inf\), got -1e-05"),
    (lambda: LayerNorm(eps=np.nan), ValueError, r"eps: expected a number in \[0, inf\), got nan"),
    # init
    (init(deep, 3), ValueError, r"elu_0/shape: expected the shape of one example, such as \(128,\), got 3"),
    (init(deep, (None, 3)), ValueError, r"dense_0/shape: expected .* got \(None, 3\)"),
    (init(deep, (0,)), ValueError, r"dense_0/shape: expected .* got \(0,\)"),
    (init(BatchNorm(), ()), ValueError, r"shape: expected the shape of one example, such as \(128,\), got \(\)"),
    (init(deep, key=0), TypeError, r"key: expected a key, as random.key\(seed\) makes it, got 0"),
    (init(deep, key=random.split(KEY)), ValueError, r"key: expected one key, of shape \(3,\), got shape \(2, 3\)"),
    (init(Prelu(4)), ValueError, "num_parameters: expected 1 or the width, 3, got 4"),
    (init(residual(Dense(4))), ValueError, r"shape: expected a result of the input's shape, \(3,\), got \(4,\)"),
    (init(parallel(Dense(1), Dense(1)), ((3,),)), ValueError, "shape: expected a tuple of 2, .* got tuple of 1"),
    (init(parallel(Dense(1)), ((0,),)), ValueError, "dense_0/shape: expected"),
    (init(fan_in_sum(), ((3,), (2,))), ValueError, r"shape: expected branches of one shape, got \(\(3,\), \(2,\)\)"),
    (init(fan_in_sum(), ()), ValueError, "shape: expected a tuple of branches"),
    (
        init(fan_in_concat(), ((3, 1), (2, 1))),
        ValueError,
        "shape: branches of shapes .* cannot be joined along axis -1",
    ),
    (init(fan_in_concat(0), ((3,), (3,))), ValueError, "cannot be joined along axis 0"),
    (init(fan_in_concat(2), ((3,), (3,))), ValueError, "cannot be joined along axis 2"),
    # inputs
    (apply(deep, DEEP, X[:, :2]), ValueError, r"serial_1/dense_0/x: expected shape \(..., 3\), got \(2, 2\)"),
    (apply(Dense(4), DENSE, 1.0), ValueError, r"x: expected shape \(..., 3\), got \(\)"),
    (apply(Dense(4), DENSE, [["a", "b", "c"]]), TypeError, "x: expected numbers, got dtype <U1"),
    (apply(Dense(4), DENSE, X * 1j), TypeError, "x: expected numbers, got dtype complex128"),
    (apply(LayerNorm(), start(LayerNorm(), (4,))), ValueError, r"x: expected shape \(..., 4\), got \(2, 3\)"),
    (apply(BatchNorm(), start(BatchNorm(), (4,))), ValueError, r"x: expected shape \(..., 4\), got \(2, 3\)"),
    (apply(Prelu(4), start(Prelu(4), (4,)), X[:, :1]), ValueError, r"x: expected shape \(..., 4\), got \(2, 1\)"),
    (apply(Embedding(2, 1), start(Embedding(2, 1), ())), TypeError, "x: expected integers, got float64"),
    (
        apply(Embedding(2, 1), start(Embedding(2, 1), ()), [0, 2]),
        ValueError,
        "x: expected indices from 0 to 1, got 0 to 2",
    ),
    (apply(Embedding(2, 1), start(Embedding(2, 1), ()), [-1]), ValueError, "x: expected indices from 0 to 1, got -1"),
    (apply(parallel(Elu()), {}), ValueError, "x: expected a tuple of 1, one for each branch, got ndarray"),
    (apply(parallel(Elu()), {}, (X, X)), ValueError, "x: expected a tuple of 1, one for each branch, got tuple of 2"),
    (apply(fan_in_sum(), {}), ValueError, "x: expected a tuple of branches, got ndarray"),
    (
        apply(fan_in_sum(), {}, (X, X[:, :1])),
        ValueError,
        r"x: expected branches of one shape, got \(2, 3\) and \(2, 1\)",
    ),
    (
        apply(serial(fan_in_concat()), {}, (X, X[:1])),
        ValueError,
        r"fan_in_concat_0/x: .* \[\(2, 3\), \(1, 3\)\] cannot be",
    ),
    # train and key
    (apply(Dropout(0.5), {}, train=True), ValueError, "key: dropout needs a key when train=True, .*; got None"),
    (apply(serial(Dropout(0.5)), {}, train=True), ValueError, "dropout_0/key: dropout needs a key"),
    (apply(Dropout(0.5), {}, train=True, key=1), TypeError, "key: expected a key, as random.key.*, got 1"),
    (apply(serial(Dropout(0.5)), {}, train=True, key=1), TypeError, "key: expected a key, as random.key.*, got 1"),
    (
        apply(serial(BatchNorm()), serial(BatchNorm()).init(KEY, (3,))[1]),
        ValueError,
        "batch_norm_0/mean: never .*calibrate",
    ),
    (
        apply(BatchNorm(), start(BatchNorm(), (3,)), X[:1], train=True),
        ValueError,
        r"at least 2 rows, got shape \(1, 3\)",
    ),
    # parameters
    (apply(deep, {}), ValueError, "serial_1/dense_0/w: missing from the parameters"),
    (apply(deep, {"serial_1": {"dense_0": {"w": DENSE["w"]}}}), ValueError, "serial_1/dense_0/b: missing from"),
    (apply(parallel(Dense(4)), {}, (X,)), ValueError, "dense_0/w: missing from the parameters"),
    (apply(residual(Dense(3)), {}), ValueError, "dense_0/w: missing from the parameters"),
    (apply(deep, {"dense_1": DENSE}), ValueError, "params: no layer is called dense_1; the layers are elu_0, serial_1"),
    (
        apply(deep, {"serial_1": {"elu_2": {}}}),
        ValueError,
        "serial_1/params: no layer is called elu_2; the layers are dense_0",
    ),
    (apply(deep, X, DEEP), TypeError, "params: expected a dict of the layers' parameters, got ndarray"),
    (apply(deep, None), TypeError, "params: expected a dict of the layers' parameters, got NoneType"),
    (apply(Dense(4), {**DENSE, "b": np.zeros(3)}), ValueError, r"b: expected shape \(4,\), got \(3,\)"),
    (apply(Dense(4), {**DENSE, "b": np.zeros(1)}), ValueError, r"b: expected shape \(4,\), got \(1,\)"),
    (lambda: serial(Layer(deep.init, without_vjp)), TypeError, "serial: .* at position 0: without_vjp has no vjp"),
]


@pytest.mark.parametrize(("use", "error", "message"), WRONG, ids=[message[:40] for _, _, message in WRONG])
def test_wrong_use(use, error, message):
    with pytest.raises(error, match=message):
        use()


def test_a_child_that_raises_is_named_and_its_error_kept():
    with pytest.raises(ValueError, match=r"^serial_1/dense_0/x: expected shape") as caught:
        deep.apply(DEEP, X[:, :2])
    assert str(caught.value.__cause__.__cause__) == "x: expected shape (..., 3), got (2, 2)"


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
def test_dense_takes_a_sparse_input_as_first_layer(kind):
    net = serial(Dense(3), Tanh(), Dense(2))
    x = np.where(np.abs(X) > 1, X, 0).astype(np.float32)
    params = start(net, (3,), np.float64)
    y, pullback = net.apply.rule(params, kind(x))
    expected, of_dense = vjp(net.apply, params, x)
    np.testing.assert_allclose(y, expected, rtol=1e-14)
    for a, b in zip(*map(tree.leaves, (next(iter(pullback(y))), of_dense(y)[0])), strict=True):
        assert type(a) is np.ndarray
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-15)
    with pytest.raises(ValueError, match=r"dense_0/x: expected shape \(..., 3\), got \(2, 2\)"):
        net.apply(params, kind(x[:, :2]))
    with pytest.raises(TypeError, match="x: expected numbers, got dtype object"):
        BatchNorm().apply(start(BatchNorm(), (3,)), kind(x), train=True)


def test_residual_adds_tuples():
    net = residual(layers.parallel(Dense(2), layers.Tanh()))
    shape, params = net.init(random.key(0), ((2,), (3,)))
    assert shape == ((2,), (3,))
    generator = np.random.default_rng(0)
    fmlp.check_vjp(net.apply, params, (generator.normal(size=(4, 2)), generator.normal(size=(4, 3))))


def test_residual_stays_in_the_dtype_of_its_parameters():
    net = residual(Dense(3))
    y, pullback = vjp(net.apply, start(net, (3,), np.float32), X)
    assert dtypes(y, pullback(y)[0]) == {np.dtype(np.float32)}


def test_residual_takes_a_list_as_other_layers_do():
    net = residual(Dense(2))
    _, params = net.init(random.key(0), (2,))
    rows = [[1.0, 2.0], [3.0, 4.0]]
    np.testing.assert_array_equal(net.apply(params, rows), net.apply(params, np.array(rows, np.float32)))


def test_integers_beside_floats_pass_check_vjp():
    embedding = layers.serial(layers.Embedding(5, 3), layers.Flatten())
    net = layers.serial(layers.parallel(embedding, layers.serial()), layers.fan_in_concat(), Dense(1))
    _, params = net.init(random.key(0), ((2,), (3,)))
    generator = np.random.default_rng(0)
    fmlp.check_vjp(net.apply, params, (generator.integers(0, 5, (4, 2)), generator.normal(size=(4, 3))))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Dense(128, 64), TypeError, "^w_init: expected an initializer, such as xavier_uniform.*got 64"),
        (lambda: Dense(8, "xavier"), TypeError, "^w_init: expected an initializer, .* got 'xavier'"),
        (lambda: BatchNorm(64), TypeError, "positional argument"),
        (lambda: LayerNorm(64), TypeError, "positional argument"),
        (lambda: layers.serial(np.tanh), TypeError, r"NumPy's functions have no vjp: use a layer such as Tanh\(\)"),
    ],
)
def test_what_users_of_other_libraries_try(call, error, message):
    with pytest.raises(error, match=message):
        call()
