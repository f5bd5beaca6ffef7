"""An exported network computes what `net.apply` does, for every layer and every activation."""

import os
from functools import partial

import numpy as np
import pytest
from derivatives import settings_of
from drawn import drawn, inputs, networks
from hypothesis import given, settings
from hypothesis import strategies as st

import fmlp
from fmlp import activations, layers, random, structure, tree
from fmlp.layers import Activation, BatchNorm, Dense, Dropout, Elu, Embedding, Flatten, Layer, LayerNorm, Prelu, serial

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
import fmlp.onnx  # noqa: E402 - after the question whether onnx is there


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx") / "model.onnx"


def session(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])


def flat(values):
    return [leaf for value in values for leaf in flat(value)] if isinstance(values, tuple) else [values]


def assert_same(file, net, params, shape, x):
    """Export, check, run, and compare: no less accurate than float32 makes fmlp itself."""
    fmlp.onnx.export(net, params, shape, file)
    onnx.checker.check_model(str(file), full_check=True)
    model = session(file)
    theirs = model.run(None, {node.name: leaf for node, leaf in zip(model.get_inputs(), flat(x), strict=True)})
    ours = flat(net.apply(params, x))
    exact = flat(net.apply(tree.cast(params, np.float64), tree.cast(x, np.float64)))
    for a, b, y, node in zip(ours, theirs, exact, model.get_outputs(), strict=True):
        assert b.shape == a.shape
        assert node.shape == ["batch", *a.shape[1:]]
        limit = 1e-5 * max(1, np.abs(y).max(initial=0)) + 20 * np.abs(a - y).max(initial=0)
        np.testing.assert_allclose(b, y, rtol=0, atol=limit)


@settings(max_examples=100)
@given(networks())
def test_drawn_networks(file, network):
    assert_same(file, *network)


@pytest.mark.parametrize("name", activations.table)
@settings(max_examples=5)
@given(st.data())
def test_every_activation(file, name, data):
    net = Activation(activations.table[name], **data.draw(settings_of(name)))
    for scale in (1, 10, 1e4):
        assert_same(file, net, {}, (3, 4), inputs((3, 4), random.key(0), 5) * np.float32(scale))


@pytest.mark.parametrize("name", activations.table)
def test_nan_stays_nan(file, name):
    net = Activation(activations.table[name], **({"threshold": 0.0, "value": 1.0} if name == "threshold" else {}))
    x = np.array([[np.nan, 1.0], [-0.2, np.nan]], np.float32)
    fmlp.onnx.export(net, {}, (2,), file)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(session(file).run(["y"], {"x": x})[0], net.apply({}, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["softshrink", "hardshrink"])
@pytest.mark.parametrize("lambd", [0.0, 0.5, 3])
def test_shrinking_at_its_edges(file, name, lambd):
    net = Activation(activations.table[name], lambd=lambd)
    edges = [np.nextafter(np.float32(sign * lambd), np.float32(to)) for sign in (-1, 1) for to in (-np.inf, 0, np.inf)]
    x = np.array([[*edges, -lambd, lambd, 0.0, -7.25, 7.25, np.nan]], np.float32)
    fmlp.onnx.export(net, {}, x.shape[1:], file)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(session(file).run(["y"], {"x": x})[0], net.apply({}, x))


CASES = {
    "Dense": (Dense(3), (4,)),
    "Dense, more axes": (Dense(3, bias=False), (2, 5, 4)),
    "BatchNorm": (BatchNorm(eps=0.5), (4,)),
    "BatchNorm, more axes": (BatchNorm(eps=0), (3, 4)),
    "LayerNorm": (LayerNorm(eps=0.5), (4,)),
    "LayerNorm, more axes": (LayerNorm(eps=0), (3, 4)),
    "RMSNorm": (layers.RMSNorm(), (4,)),
    "RMSNorm, more axes": (layers.RMSNorm(eps=0.5), (3, 4)),
    "GLU": (layers.GLU(), (3, 4)),
    "Dropout": (Dropout(0.5), (4,)),
    "Flatten": (Flatten(), (2, 3, 4)),
    "Flatten of numbers": (Flatten(), ()),
    "Prelu": (Prelu(), (3, 4)),
    "Prelu, one for each": (Prelu(4), (3, 4)),
    "Activation": (Elu(), (4,)),
    "serial": (serial(Dense(3), Elu()), (4,)),
    "serial of none": (serial(), (4,)),
    "serial of a pair": (serial(tuple(Dense(3))), (4,)),
    "parallel": (layers.parallel(Dense(3), Elu()), ((4,), (2, 2))),
    "parallel in parallel": (layers.parallel(layers.parallel(Dense(3), Elu()), Elu()), (((4,), (2, 2)), ())),
    "residual": (layers.residual(Dense(4), Elu()), (4,)),
    "residual of tuples": (layers.residual(layers.parallel(Dense(3), Elu())), ((3,), (2,))),
    "fan_out": (layers.fan_out(3), (4,)),
    "fan_in_sum": (layers.fan_in_sum(), ((4,), (4,), (4,))),
    "fan_in_concat": (layers.fan_in_concat(), ((2, 3), (2, 1))),
    "fan_in_concat of another axis": (layers.fan_in_concat(1), ((1, 3), (2, 3))),
    "an activation's settings in a partial": (
        Activation(partial(activations.elu, alpha=2)),
        (),
    ),
}


@pytest.mark.parametrize(("net", "shape"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("rows", [1, 7])
def test_every_layer(file, net, shape, rows):
    assert_same(file, *drawn(net, shape, 0, rows))


def test_no_layer_is_left_out():
    of_activations = {"".join(map(str.capitalize, name.split("_"))) for name in [*activations.table, "swish"]}
    constructors = {*layers.__all__} - {"Layer"} - of_activations
    tested = {structure.constructor_of(net) for net, _ in CASES.values()}
    assert tested | {"Embedding"} == constructors
    assert set(fmlp.onnx._ACTIVATIONS) == set(activations.table)


EMBEDDINGS = {
    "alone": serial(Embedding(10, 4)),
    "after layers that move numbers": serial(Dropout(0.5), Flatten(), Embedding(10, 4), Flatten(), Dense(2)),
    "beside one that computes": serial(
        layers.fan_out(2), layers.parallel(serial(Embedding(10, 4), Flatten()), Dense(3)), layers.fan_in_concat(1)
    ),
    "of branches that were joined": serial(
        layers.fan_out(2), layers.fan_in_concat(), Embedding(10, 4), LayerNorm(eps=0.1)
    ),
}


@pytest.mark.parametrize("net", EMBEDDINGS.values(), ids=EMBEDDINGS.keys())
def test_an_embedding_makes_its_input_integer(file, net):
    params = drawn(net, (3,), 0).params
    assert_same(file, net, params, (3,), np.array([[1, 2, 9], [0, 0, 5]]))


def test_only_the_input_that_an_embedding_reads_is_integer(file):
    net = serial(layers.parallel(Dense(2), Embedding(10, 2)), layers.fan_in_sum())
    shape = ((4,), ())
    x = inputs((4,), random.key(0), 5), np.arange(5)
    assert_same(file, net, drawn(net, shape, 0).params, shape, x)
    assert [node.type for node in session(file).get_inputs()] == ["tensor(float)", "tensor(int64)"]


def test_large_means_cost_no_digits(file):
    x = 1e4 + inputs((7,), random.key(0), 50)
    net = LayerNorm()
    assert_same(file, net, net.init(random.key(0), (7,))[1], (7,), x)
    net = BatchNorm()
    assert_same(file, net, fmlp.calibrate(net, net.init(random.key(0), (7,))[1], x), (7,), x)


def test_a_trained_network_of_any_dtype(file):
    x = inputs((6,), random.key(0), 64).astype(np.float64)
    net = serial(Dense(16), BatchNorm(), Elu(), Dropout(0.2), Dense(3))
    _, params = net.init(random.key(1), (6,))
    params = fmlp.calibrate(net, tree.cast(params, np.float64), x)
    fmlp.onnx.export(net, params, (6,), file)
    np.testing.assert_allclose(
        session(file).run(["y"], {"x": x.astype(np.float32)})[0], net.apply(params, x), atol=1e-5
    )
    assert [array.name for array in onnx.load(file).graph.initializer][:2] == ["dense_0/w", "dense_0/b"]


def scale():
    @fmlp.differentiable
    def scale(params, x, *, train=False, key=None):
        return 2 * x, lambda dy: ({}, 2 * dy)

    return Layer(lambda key, shape: (shape, {}), scale)


@activations.elementwise
def relu(x):
    return 3 * x, lambda: 3


DENSE = serial(Dense(3))
PARAMS = DENSE.init(random.key(0), (4,))[1]


@pytest.mark.parametrize(
    ("net", "params", "shape", "error", "message"),
    [
        (serial(Elu(), layers.residual(scale())), {}, (4,), TypeError, r"^residual_1/scale_0: expected a layer of"),
        (scale(), {}, (4,), TypeError, "^scale: expected a layer of fmlp.layers"),
        (serial(Activation(relu)), {}, (4,), TypeError, "^relu_0: expected an activation of fmlp.activations"),
        (Dense, {}, (4,), TypeError, "^net: expected a layer, .* call the constructor: Dense"),
        (DENSE, PARAMS, (5,), ValueError, r"^dense_0/w: expected shape \(5, 3\), got \(4, 3\)"),
        (DENSE, {}, (4,), ValueError, "^tree: expected a dict with keys"),
        (DENSE, PARAMS, 4, ValueError, r"^dense_0/shape: expected the shape of one example"),
        (BatchNorm(), BatchNorm().init(random.key(0), (4,))[1], (4,), ValueError, "^mean: never computed; call params"),
        (serial(Dense(3), Embedding(3, 2)), None, (4,), TypeError, "^embedding_1/x: expected integers"),
        (DENSE, tree.map(lambda leaf: leaf - 1e39, tree.cast(PARAMS, np.float64)), (4,), ValueError,
         r"^dense_0/w: expected numbers within float32, got one of size 1e\+39"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_named(tmp_path, net, params, shape, error, message):
    if params is None:
        params = net.init(random.key(0), shape)[1]
    with pytest.raises(error, match=message):
        fmlp.onnx.export(net, params, shape, tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    fmlp.onnx.export(DENSE, PARAMS, (4,), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        fmlp.onnx.export(DENSE, tree.map(lambda leaf: leaf + 1, PARAMS), (4,), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.onnx"]
