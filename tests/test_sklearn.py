"""Fitted networks of scikit-learn's own, as fmlp's and back."""

import warnings

import numpy as np
import pytest

import fmlp
from fmlp import activations, losses, optim, random, tree
from fmlp.layers import BatchNorm, Dense, Dropout, Elu, Layer, Relu, Sigmoid, Tanh, residual, serial

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone  # noqa: E402 - after the question whether scikit-learn is there
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402

from fmlp.sklearn import from_estimator, to_estimator  # noqa: E402

X = np.random.default_rng(0).normal(size=(60, 5))
TARGETS = {
    "two classes": np.where(X[:, 0] > 0, "yes", "no"),
    "three classes": np.array([10, 20, 30])[np.digitize(X[:, 1], [-0.5, 0.5])],
    "labels": (X[:, :3] > 0).astype(int),
    "one output": X @ np.arange(5.0),
    "two outputs": X[:, :2] ** 2,
    "counts": np.random.default_rng(1).poisson(np.exp(X[:, 0])),
}


def fitted(task, dtype=np.float64, **settings):
    kind = MLPClassifier if TARGETS[task].dtype.kind in "Ui" and task != "counts" else MLPRegressor
    settings |= {"loss": "poisson"} if task == "counts" else {}
    with warnings.catch_warnings(action="ignore"):
        return kind(max_iter=30, random_state=0, **settings).fit(X.astype(dtype), TARGETS[task])


def probabilities(z, multilabel):
    if multilabel:
        return activations.sigmoid(z)
    return activations.softmax(z if z.shape[1] > 1 else np.hstack([0 * z, z]))


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("sizes", [(), (7,), (7, 4)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_there_and_back(task, activation, sizes, dtype):
    model = fitted(task, dtype, activation=activation, hidden_layer_sizes=sizes)
    net, params = from_estimator(model)
    x, tolerance = X.astype(dtype), 1e-12 if dtype == np.float64 else 1e-5
    z = net.apply(params, x)
    assert z.dtype == dtype
    classifier, multilabel = isinstance(model, MLPClassifier), task == "labels"
    if classifier:
        np.testing.assert_allclose(probabilities(z, multilabel), model.predict_proba(x), rtol=0, atol=tolerance)
        back = to_estimator(net, params, model.classes_, multilabel=multilabel)
        np.testing.assert_array_equal(back.classes_, model.classes_)
        np.testing.assert_array_equal(back.predict_proba(x), model.predict_proba(x))
    else:
        prediction = np.exp(z) if task == "counts" else z
        np.testing.assert_allclose(
            prediction.reshape(TARGETS[task].shape), model.predict(x), rtol=tolerance, atol=tolerance
        )
        back = to_estimator(net, params, **({"loss": "poisson"} if task == "counts" else {}))
    assert type(back) is type(model)
    np.testing.assert_array_equal(back.predict(x), model.predict(x))
    assert back.score(x, TARGETS[task]) == model.score(x, TARGETS[task])
    for name in ("n_layers_", "n_outputs_", "out_activation_", "n_features_in_", *["activation"] * (sizes != ())):
        assert getattr(back, name) == getattr(model, name), name
    assert all(a is not b for a, b in zip(tree.leaves(params), back.coefs_ + back.intercepts_, strict=True))


def test_training_goes_on_in_either():
    model = fitted("three classes")
    net, params = from_estimator(model)
    y = np.searchsorted(model.classes_, TARGETS["three classes"])
    before = fmlp.evaluate(net, params, (X, y), loss=losses.cross_entropy)["loss"]
    result = fmlp.fit(
        net, params, (X, y), loss=losses.cross_entropy, optimizer=optim.adam(1e-2), epochs=20, key=random.key(0),
        progress=False,
    )  # fmt: skip
    back = to_estimator(net, result.params, model.classes_, learning_rate_init=0.01, random_state=0)
    middle = -np.log(back.predict_proba(X)[np.arange(len(y)), y]).mean()
    for _ in range(20):
        back.partial_fit(X, TARGETS["three classes"])
    after = -np.log(back.predict_proba(X)[np.arange(len(y)), y]).mean()
    assert before > middle > after
    assert back._optimizer.learning_rate_init == 0.01
    assert len(back.loss_curve_) == 20
    assert clone(back).get_params() == back.get_params()


def test_two_logits_become_one():
    net = serial(Dense(6), Tanh(), Dropout(0.5), serial(Dense(4, bias=False), Tanh()), Dense(2))
    params = tree.cast(net.init(random.key(0), (5,))[1], np.float64)
    model = to_estimator(net, params, ["no", "yes"])
    assert model.n_outputs_ == 1
    np.testing.assert_allclose(model.predict_proba(X), activations.softmax(net.apply(params, X)), rtol=0, atol=1e-12)


def test_the_weights_are_copies():
    model = fitted("one output")
    net, params = from_estimator(model)
    kept = tree.map(np.copy, params)
    for array in model.coefs_ + model.intercepts_:
        array[...] = 0
    before = np.random.get_state()[2]  # noqa: NPY002
    back = to_estimator(net, params)
    assert np.random.get_state()[2] == before, "drawn from NumPy's global stream"  # noqa: NPY002
    for array in back.coefs_ + back.intercepts_:
        array[...] = 0
    assert all(np.array_equal(a, b) for a, b in zip(tree.leaves(params), tree.leaves(kept), strict=True))


NET = serial(Dense(6), Relu(), Dense(3))
PARAMS = NET.init(random.key(0), (5,))[1]
MINE = Layer(lambda key, shape: (shape, {}), fmlp.differentiable(lambda params, x, **_: (x, lambda dy: ({}, dy))))


@pytest.mark.parametrize(
    ("net", "params", "settings", "error", "message"),
    [
        (serial(Dense(6), BatchNorm(), Relu(), Dense(3)), None, {}, TypeError, "^batch_norm_1: scikit-learn has no B"),
        (serial(Dense(6), Elu(), Dense(3)), None, {}, TypeError, "^elu_1: scikit-learn has identity, .* not elu"),
        (serial(residual(Dense(5)), Dense(3)), None, {}, TypeError, "^residual_0: scikit-learn has no residual there"),
        (serial(Relu(), Dense(3)), None, {}, TypeError, "^relu_0: scikit-learn has no Activation there"),
        (serial(serial(MINE), Dense(3)), None, {}, TypeError, "^serial_0/<lambda>_0: scikit-learn has no such layer"),
        (serial(Dense(6), Relu(), Dense(3), Sigmoid()), None, {}, ValueError, "none after the last, got relu, sigmoid"),
        (serial(Dense(6), Relu(), Dense(3), Tanh(), Dense(3)), None, {}, ValueError, "one activation for all"),
        (serial(Dense(6), Relu(), Dense(3), Dense(3)), None, {}, ValueError, "got relu, identity, none"),
        (serial(), {}, {}, ValueError, "^net: expected at least one Dense layer, got none"),
        (Dense, {}, {}, TypeError, "^net: expected a layer, .* call the constructor: Dense"),
        (NET, {}, {}, ValueError, r"^dense_0/w: expected shape \(1, 6\), got none"),
        (NET, {**PARAMS, "dense_2": {"w": np.ones((5, 3)), "b": np.ones(3)}}, {}, ValueError, r"^dense_2/w: expected"),
        (NET, {**PARAMS, "dense_0": {"w": np.ma.ones((1, 6)), "b": np.ones(6)}}, {}, TypeError, "^dense_0/w: .*mask"),
        (NET, PARAMS, {"classes": [0, 1]}, ValueError, "^classes: expected one for each of the 3 outputs"),
        (NET, PARAMS, {"classes": [0, 2, 1]}, ValueError, "^classes: expected them sorted"),
        (NET, PARAMS, {"classes": [0, 1, 2], "depth": 3}, ValueError, "depth"),
    ],
)  # fmt: skip
def test_what_scikit_learn_has_not_is_named(net, params, settings, error, message):
    if params is None:
        params = net.init(random.key(0), (5,))[1]
    with pytest.raises(error, match=message):
        to_estimator(net, params, **settings)


def test_models_that_are_none():
    with pytest.raises(TypeError, match=r"^model: expected an MLPClassifier or MLPRegressor .*, got fmlp.layers.Layer"):
        from_estimator(NET)
    with pytest.raises(
        TypeError, match=r"fmlp.estimators has .* net_ and params_\), got fmlp.estimators.MLPClassifier"
    ):
        from_estimator(fmlp.estimators.MLPClassifier())
    with pytest.raises(NotFittedError):
        from_estimator(MLPClassifier())
