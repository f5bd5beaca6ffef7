"""Losses: known values, PyTorch's values and derivatives, weights, extremes and wrong use."""

import functools
from math import log

import numpy as np
import pytest
from derivatives import CASES
from hypothesis import given
from hypothesis import strategies as st

import fmlp
from fmlp import activations, grad, losses, optim, random, value_and_grad
from fmlp.autodiff import row_weights_of
from fmlp.layers import (
    Activation,
    Dense,
    Dropout,
    Flatten,
    LogSigmoid,
    LogSoftmax,
    Relu,
    Sigmoid,
    Softmax,
    residual,
    serial,
)

REGRESSION = [losses.mse, losses.mae, losses.huber, losses.quantile]
ALL = [*REGRESSION, losses.binary_cross_entropy, losses.cross_entropy, losses.poisson]
every_loss = pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.__name__)


def example(loss, n=3):
    """Return a prediction and data that fit the loss, of n rows and two columns."""
    prediction = np.array([[0.5, -1.0], [2.0, 0.25], [-3.0, 1.5]])[:n]
    return prediction, np.array([1, 0, 1])[:n] if loss is losses.cross_entropy else np.array([[0, 1], [1, 1], [0, 0]])[
        :n
    ]


def test_all_are_here():
    assert {name for name, value in vars(losses).items() if isinstance(value, losses.Loss)} == {f.__name__ for f in ALL}


@pytest.mark.parametrize(
    ("loss", "settings", "prediction", "y", "value", "gradient"),
    [
        (losses.mse, {}, [1.0, 2.0], [1, 4], 2, [0, -2]),
        (losses.mse, {}, [[1.0, 2.0]], [[1, 4]], 2, [[0, -2]]),
        (losses.mse, {"weight": [3, 1]}, [1.0, 2.0], [1, 4], 1, [0, -1]),
        (losses.mae, {}, [1.0, 2.0, 5.0], [1, 4, 4], 1, [0, -1 / 3, 1 / 3]),
        (losses.huber, {}, [0.5, 3.0], [0, 0], (0.125 + 2.5) / 2, [0.25, 0.5]),
        (losses.huber, {"delta": 2.0}, [0.5, -3.0], [0, 0], (0.125 + 4) / 2, [0.25, -1]),
        (losses.huber, {"delta": 2.0}, [2.0, -2.0], [0, 0], 2, [1, -1]),
        (losses.binary_cross_entropy, {}, [0.0, log(3)], [1, 0], (log(2) + log(4)) / 2, [-1 / 4, 3 / 8]),
        (losses.binary_cross_entropy, {}, [log(3)], [0.75], log(4) - 0.75 * log(3), [0]),
        (
            losses.cross_entropy,
            {},
            [[0.0, log(3)], [0.0, 0.0]],
            [0, 1],
            1.5 * log(2),
            [[-3 / 8, 3 / 8], [1 / 4, -1 / 4]],
        ),
        (losses.cross_entropy, {}, [[0.0, log(3)]], [[0.25, 0.75]], log(4) - 0.75 * log(3), [[0, 0]]),
        (losses.cross_entropy, {"label_smoothing": 0.5}, [[0.0, log(3)]], [1], log(4) - 0.75 * log(3), [[0, 0]]),
        (losses.cross_entropy, {"weight": [0, 2]}, [[0.0, 9.0], [0.0, 0.0]], [0, 1], log(2), [[0, 0], [0.5, -0.5]]),
        (losses.cross_entropy, {}, [[7.0]], [0], 0, [[0]]),
        (
            losses.cross_entropy,
            {"ignore_index": -100},
            [[0.0, 9.0], [0.0, 0.0]],
            [-100, 1],
            log(2),
            [[0, 0], [0.5, -0.5]],
        ),
        (
            losses.cross_entropy,
            {"class_weight": [1, 3]},
            [[0.0, log(3)], [0.0, 0.0]],
            [1, 0],
            (3 * log(4 / 3) + log(2)) / 4,
            [[3 / 16, -3 / 16], [-1 / 8, 1 / 8]],
        ),
        (losses.binary_cross_entropy, {"pos_weight": 3}, [0.0, 0.0], [1, 0], 2 * log(2), [-3 / 4, 1 / 4]),
        (losses.quantile, {"q": 0.75}, [1.0, 2.0, 0.0], [3, 1, 0], 1.75 / 3, [-0.25, 0.25 / 3, 0]),
        (losses.poisson, {}, [0.0, log(3)], [1, 3], 0, [0, 0]),
        (losses.poisson, {}, [0.0, log(2)], [0, 1], (1 + 1 - log(2)) / 2, [0.5, 0.5]),
    ],
)
def test_known_values(loss, settings, prediction, y, value, gradient):
    result, derivative = value_and_grad(loss)(np.array(prediction), np.array(y), **settings)
    assert result == pytest.approx(value, rel=1e-15, abs=1e-15)
    np.testing.assert_allclose(derivative, gradient, rtol=1e-14, atol=1e-15)
    assert np.shape(result) == ()


def in_torch(torch, loss, prediction, y, weight=None, **settings):
    """Return PyTorch's loss, averaged over rows with the weight, and its derivative."""
    f = torch.nn.functional
    p, y = torch.tensor(prediction, requires_grad=True), torch.tensor(y)
    w = torch.ones(len(p)) if weight is None else torch.tensor(weight)
    if loss is losses.cross_entropy:
        c, ignored = settings.pop("class_weight"), settings.pop("ignore_index")
        rows = f.cross_entropy(p, y if y.ndim == 1 else y.double(), reduction="none", **settings)
        if y.ndim == 1 and ignored is not None:
            w = w * (y != ignored)
        if c is not None:
            w = w * (torch.tensor(c)[y] if y.ndim == 1 else y.double() @ torch.tensor(c).double())
    elif loss is losses.quantile:  # PyTorch has none
        d = y - p
        rows = torch.maximum(settings["q"] * d, (settings["q"] - 1) * d).reshape(len(p), -1).mean(1)
    elif loss is losses.poisson:  # PyTorch leaves out what does not depend on the prediction
        y = y.double()
        constant = torch.special.xlogy(y, y) - y
        rows = (f.poisson_nll_loss(p, y, reduction="none") + constant).reshape(len(p), -1).mean(1)
    else:
        name = {"mse": "mse_loss", "mae": "l1_loss", "huber": "huber_loss"}.get(
            loss.__name__, "binary_cross_entropy_with_logits"
        )
        if settings.get("pos_weight") is not None:
            settings["pos_weight"] = torch.tensor(settings["pos_weight"])
        rows = getattr(f, name)(p, y.double(), reduction="none", **settings).reshape(len(p), -1).mean(1)
    value = (w * rows).sum() / (w.sum() or 1)
    value.backward()
    return value.item(), p.grad.numpy()


@every_loss
@given(data=st.data())
def test_equals_pytorch(loss, data):
    torch = pytest.importorskip("torch")
    f, args, kwargs, _ = data.draw(CASES[f"losses.{loss.__name__}"])
    value, gradient = value_and_grad(f)(*args, **kwargs)
    expected, derivative = in_torch(torch, loss, *args, **kwargs)
    assert value == pytest.approx(expected, rel=1e-13, abs=1e-15)
    np.testing.assert_allclose(gradient, derivative, rtol=1e-12, atol=1e-15)


@given(data=st.data())
def test_class_weights_and_ignored_labels_are_pytorchs(data):
    torch = pytest.importorskip("torch")
    _, (z, _), kwargs, _ = data.draw(CASES["losses.cross_entropy"])
    c, y = np.linspace(0.5, 2, z.shape[1]), np.arange(len(z)) % z.shape[1]
    if len(z) > 1:
        y[0] = -100
    settings = {"ignore_index": -100, "label_smoothing": kwargs["label_smoothing"] if z.shape[1] == 1 else 0.0}
    theirs = torch.tensor(z, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(theirs, torch.tensor(y), weight=torch.tensor(c), **settings)
    loss.backward()
    value, gradient = value_and_grad(functools.partial(losses.cross_entropy, class_weight=c, **settings))(z, y)
    assert value == pytest.approx(loss.item(), rel=1e-13, abs=1e-15)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_quantile_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    p, y = np.random.default_rng(0).normal(size=(2, 50, 3))
    for q in (0.1, 0.5, 0.9):
        assert losses.quantile(p, y, q=q) == pytest.approx(metrics.mean_pinball_loss(y, p, alpha=q), rel=1e-14)


@pytest.mark.parametrize("loss", ALL[:-2])
def test_a_loss_without_its_own_weights_has_those_given(loss):
    assert row_weights_of(loss)([1], None) is None
    assert row_weights_of(functools.partial(loss, weight=None))([1], [2]) == [2]


def test_a_loss_over_parts_is_that_of_the_whole():
    """Parts averaged by the sum of their rows' weights, as `fit`, `evaluate` and ranks do."""
    generator = np.random.default_rng(0)
    z, y, weight = generator.normal(size=(8, 3)), generator.integers(-1, 3, 8), generator.uniform(0, 1, 8)
    q = generator.dirichlet([1, 1, 1], 8)
    loss = functools.partial(functools.partial(losses.cross_entropy, ignore_index=-1), class_weight=[1, 2, 5])
    for targets in (y, y[:, None], q):
        for w in (None, weight, weight[:, None]):
            whole, total, rows = loss(z, targets, weight=w), 0.0, 0.0
            for part in (slice(0, 3), slice(3, 8)):
                of_part = row_weights_of(loss)(targets[part], w if w is None else w[part]).sum()
                total += of_part * loss(z[part], targets[part], weight=w if w is None else w[part])
                rows += of_part
            assert total / rows == pytest.approx(whole, rel=1e-14)
    net = Dense(3)
    params = net.init(random.key(0), (3,))[1]
    settings = {
        "loss": loss,
        "epochs": 1,
        "batch_size": 3,
        "key": random.key(0),
        "validation": (z, y),
        "progress": False,
    }
    history = fmlp.fit(net, params, (z, y), optimizer=optim.sgd(0.0), **settings).history
    assert history["loss"][0] == pytest.approx(history["val_loss"][0], rel=1e-6)


def test_derivative_at_the_kinks_equals_pytorch():
    torch = pytest.importorskip("torch")
    p, y = np.array([0.0, 1.0, -1.0]), np.zeros(3)
    for loss in REGRESSION[:3]:
        np.testing.assert_array_equal(grad(loss)(p, y), in_torch(torch, loss, p, y)[1])


# ----------------------------------------------------------------------------------------- weights


@every_loss
@given(weight=st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any))
def test_a_weight_counts_like_that_many_rows(loss, weight):
    prediction, y = example(loss)
    value, gradient = value_and_grad(loss)(prediction, y, weight=np.array(weight))
    repeated, of_repeated = value_and_grad(loss)(np.repeat(prediction, weight, 0), np.repeat(y, weight, 0))
    as_column, of_column = value_and_grad(loss)(prediction, y, weight=np.array(weight)[:, None])
    assert as_column == value
    np.testing.assert_array_equal(of_column, gradient)
    assert value == pytest.approx(repeated, rel=1e-14)
    np.testing.assert_allclose(np.repeat(gradient, weight, 0).sum(0), (of_repeated * counts(weight)).sum(0), atol=1e-15)


def counts(weight):
    """Return how often each of the repeated rows is there, as a column."""
    return np.repeat(weight, weight).reshape(-1, 1)


@every_loss
@pytest.mark.parametrize("hole", [np.nan, -1, 7, np.inf])
def test_a_row_of_weight_zero_may_hold_anything(loss, hole):
    prediction, y = example(loss)
    weight, holed = np.array([1.0, 0.0, 2.0]), y.astype(np.float64 if y.dtype.kind == "f" or y.ndim > 1 else np.int64)
    holed[1] = hole if holed.dtype.kind == "f" or np.isfinite(hole) else -1
    value, gradient = value_and_grad(loss)(prediction, y, weight=weight)
    for given_weight in (weight, weight[:, None]):
        same, as_good = value_and_grad(loss)(prediction, holed, weight=given_weight)
        assert same == value
        np.testing.assert_array_equal(as_good, gradient)


@every_loss
def test_weights_that_are_all_zero_give_zero(loss):
    value, gradient = value_and_grad(loss)(*example(loss), weight=np.zeros(3))
    assert value == 0
    assert not gradient.any()


@every_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weight", [None, [1, 2, 3], np.array([1.0, 0.5, 2.0])])
def test_the_dtype_is_the_predictions(loss, dtype, weight):
    prediction, y = example(loss)
    for data in (y, y.astype(np.uint64), y.astype(np.float64) if y.ndim > 1 else y.astype(np.int8)):
        value, gradient = value_and_grad(loss)(prediction.astype(dtype), data, weight=weight)
        assert (value.dtype, gradient.dtype, gradient.shape) == (dtype, dtype, prediction.shape)


def test_a_numpy_number_as_a_setting_upcasts_nothing():
    for loss, settings in ((losses.huber, {"delta": 0.5}), (losses.cross_entropy, {"label_smoothing": 0.5})):
        prediction, y = example(loss)
        settings = {name: np.float64(value) for name, value in settings.items()}
        value, gradient = value_and_grad(loss)(prediction.astype(np.float32), y, **settings)
        assert (value.dtype, gradient.dtype) == (np.float32, np.float32)


@every_loss
def test_lists_and_integers_are_read_as_float64(loss):
    prediction, y = [[1, 2], [3, -1]], [0, 1] if loss is losses.cross_entropy else [[0.5, 1], [0, 0.25]]
    expected = loss(np.array(prediction, np.float64), np.array(y))
    assert loss(prediction, y) == loss(np.array(prediction), y) == expected


@pytest.mark.parametrize("loss", [*REGRESSION, losses.binary_cross_entropy, losses.poisson])
def test_a_column_is_a_vector(loss):
    p, y = np.array([0.5, -2.0, 3.0]), np.array([1, 0, 1])
    column = np.newaxis
    assert loss(p, y) == loss(p[:, column], y) == loss(p, y[:, column]) == loss(p[:, column], y[:, column])
    assert grad(loss)(p[:, column], y).shape == (3, 1)


# ---------------------------------------------------------------------------------------- extremes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropies_survive_extreme_logits(dtype):
    largest = np.finfo(dtype).max / 2  # so that differences are finite
    z = np.array([[0.0, 0], [1000, 0], [-1e30, 1e30], [largest, 0], [-largest, largest], [largest, largest]], dtype)
    for y in (np.argmax(z, 1), np.eye(2, dtype=dtype)[np.argmax(z, 1)]):
        value, gradient = value_and_grad(losses.cross_entropy)(z, y)
        assert value == pytest.approx(2 * log(2) / 6, rel=1e-6)
        assert np.isfinite(gradient).all()
    value, gradient = value_and_grad(losses.binary_cross_entropy)(z, z > 0)
    assert value == pytest.approx(4 * log(2) / 12, rel=1e-6)
    assert np.isfinite(gradient).all()


def test_cross_entropy_is_unmoved_by_a_shift_of_the_logits():
    z, y = example(losses.cross_entropy)
    assert losses.cross_entropy(z + 2.0**20, y) == pytest.approx(losses.cross_entropy(z, y), rel=1e-9)
    np.testing.assert_allclose(grad(losses.cross_entropy)(z, y).sum(1), 0, atol=1e-16)


# ------------------------------------------------------------------------------------- predictions


def test_how_a_prediction_is_read_off():
    output = np.array([[0.5, 2.0], [1.0, 0.0]])
    np.testing.assert_array_equal(losses.cross_entropy.predict(output), [1, 0])
    np.testing.assert_array_equal(losses.binary_cross_entropy.predict(output), [[1, 1], [1, 0]])
    assert losses.mse.predict(output) is output
    np.testing.assert_array_equal(losses.poisson.predict(output), np.exp(output))
    smooth = functools.partial(losses.cross_entropy, label_smoothing=0.1)
    assert losses.prediction_of(functools.partial(smooth, weight=None)) is losses.argmax
    assert losses.prediction_of(lambda prediction, y: 0.0) is losses.as_is


# --------------------------------------------------------------------------------------- wrong use

LOGITS = np.zeros((3, 2))
wrong = [
    (losses.mse, (LOGITS, np.zeros(3)), {}, r"y: expected the shape of the prediction, \(3, 2\), got \(3,\)"),
    (losses.mse, (np.zeros(3), LOGITS), {}, r"y: expected the shape of the prediction, \(3,\), got \(3, 2\)"),
    (losses.mae, (np.zeros(3), np.zeros(2)), {}, r"y: expected .* \(3,\), got \(2,\)"),
    (losses.mae, (np.zeros((3, 1)), np.zeros((1, 3))), {}, r"y: expected .* \(3, 1\), got \(1, 3\)"),
    (losses.huber, (np.zeros(3), np.zeros(())), {}, r"y: expected .* \(3,\), got \(\)"),
    (losses.huber, (np.zeros(3), np.zeros(3)), {"delta": 0.0}, "delta: expected a number in \\(0, inf\\], got 0.0"),
    (losses.mse, (np.zeros(3), ["a", "b", "c"]), {}, "y: expected numbers, got dtype <U1"),
    (losses.mse, (["a"], [1]), {}, "prediction: expected numbers, got dtype <U1"),
    (losses.mse, (np.float64(1), 1.0), {}, r"prediction: expected at least one row, got shape \(\)"),
    (losses.mse, (LOGITS, LOGITS), {"weight": [1, 2]}, r"weight: expected shape \(3,\), one per row, got \(2,\)"),
    (losses.mse, (LOGITS, LOGITS), {"weight": np.ones((3, 2))}, r"weight: expected shape \(3,\), .* got \(3, 2\)"),
    (losses.binary_cross_entropy, (np.zeros(2), [0, 2]), {}, "y: expected labels 0 and 1, .* values from 0.* to 2"),
    (losses.binary_cross_entropy, (np.zeros(2), [-1, 1]), {}, "y: expected labels 0 and 1, .* from -1.* to 1"),
    (losses.binary_cross_entropy, (np.zeros(2), [np.nan, 1]), {}, "y: expected labels 0 and 1"),
    (losses.poisson, (np.zeros(2), [1, -1]), {}, "y: expected numbers of at least 0, got -1"),
    (losses.poisson, (np.zeros(2), [1, np.nan]), {}, "y: expected numbers of at least 0, got nan"),
    (losses.cross_entropy, (np.zeros(3), [0, 1, 0]), {}, r"logits: expected shape \(batch, classes\), got \(3,\)"),
    (losses.cross_entropy, (np.zeros((3, 0)), [0, 1, 0]), {}, r"logits: expected shape \(batch, classes\)"),
    (losses.cross_entropy, (LOGITS, [0, 1, 2]), {}, "y: expected labels from 0 to 1, got values from 0 to 2"),
    (losses.cross_entropy, (LOGITS, [0, -1, 1]), {}, "y: expected labels from 0 to 1, got values from -1 to 1"),
    (losses.cross_entropy, (LOGITS, [0.0, 1.0, 0.5]), {}, "y: expected integer labels .* got float64"),
    (losses.cross_entropy, (LOGITS, [True, False, True]), {}, "y: expected integer labels .* got bool"),
    (losses.cross_entropy, (LOGITS, [0, 1]), {}, "y: expected 3 labels, one per row of the logits, got 2"),
    (losses.cross_entropy, (LOGITS, np.ones((3, 2))), {}, "y: expected rows of probabilities"),
    (losses.cross_entropy, (LOGITS, [[2.0, -1.0]] * 3), {}, "y: expected rows of probabilities"),
    (losses.cross_entropy, (LOGITS, [0, 1, 0]), {"label_smoothing": 1.5}, r"label_smoothing: .* in \[0, 1\], got 1.5"),
    (losses.quantile, (LOGITS, LOGITS), {"q": 1.0}, r"q: expected a number in \(0, 1\), got 1.0"),
    (losses.binary_cross_entropy, (LOGITS, LOGITS), {"pos_weight": [1, 2, 3]}, r"pos_weight: .* got shape \(3,\)"),
    (losses.binary_cross_entropy, (LOGITS, LOGITS), {"pos_weight": -1}, r"pos_weight: .* values from -1.0 to -1.0"),
    (losses.cross_entropy, (LOGITS, [0, 1, 0]), {"class_weight": [1]}, r"class_weight: .* \(2,\), got shape \(1,\)"),
    (losses.cross_entropy, (LOGITS, [0, 1, 0]), {"class_weight": {0: 1}}, "class_weight: .* got a dict"),
    (losses.cross_entropy, (LOGITS, [0, 1, 0]), {"ignore_index": 0.5}, "ignore_index: expected an integer, got 0.5"),
    (losses.cross_entropy, (LOGITS, [0, 1, 7]), {"class_weight": [1, 2]}, "y: expected labels from 0 to 1"),
    *[(f, (LOGITS[:0], LOGITS[:0]), {}, r"prediction: expected at least one row") for f in ALL],
]


@pytest.mark.parametrize(("loss", "args", "kwargs", "message"), wrong)
def test_wrong_use(loss, args, kwargs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        loss(*args, **kwargs)


@pytest.mark.parametrize(
    ("layers", "loss", "place"),
    [
        ([Dense(2), Softmax()], losses.cross_entropy, "softmax_1 applies softmax"),
        ([Dense(2), serial(Dense(2), Softmax()), Dropout(0.1)], losses.cross_entropy, "softmax_1 applies softmax"),
        ([Dense(2), Sigmoid()], functools.partial(losses.cross_entropy, label_smoothing=0.1), "sigmoid_1"),
        ([Dense(2), Activation(activations.sigmoid), Flatten()], losses.binary_cross_entropy, "sigmoid_1"),
        ([Dense(2), LogSigmoid()], losses.binary_cross_entropy, "log_sigmoid_1 applies log_sigmoid"),
    ],
)
def test_probabilities_before_a_loss_of_logits_are_refused_by_the_layers_name(layers, loss, place):
    net = serial(*layers)
    _, params = net.init(random.key(0), (3,))
    x, y = np.ones((4, 3)), np.zeros(4, int)
    settings = {"loss": loss, "optimizer": optim.sgd(), "epochs": 1, "key": random.key(0), "progress": False}
    for call in (
        lambda: fmlp.objective(net.apply, loss),
        lambda: fmlp.fit(net, params, (x, y), **settings),
        lambda: fmlp.evaluate(net, params, (x, y), loss=loss),
    ):
        with pytest.raises(ValueError, match=f"^net: the loss .* takes logits, and {place}"):
            call()


@pytest.mark.parametrize("layers", [[LogSoftmax()], [Relu(), Dense(2)], [Softmax(), Dense(2)], [residual(Softmax())]])
def test_other_last_layers_are_welcome(layers):
    fmlp.objective(serial(*layers).apply, losses.cross_entropy)
    fmlp.objective(serial(*layers, Sigmoid()).apply, losses.mse)
