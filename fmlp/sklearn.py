"""Convert scikit-learn's own fitted networks to fmlp and back (``pip install 'fmlp[sklearn]'``).

Both directions copy the weights. Estimators that run on fmlp are in `fmlp.estimators`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

try:
    from sklearn.neural_network import MLPClassifier, MLPRegressor
except ModuleNotFoundError:
    raise ModuleNotFoundError("fmlp.sklearn needs scikit-learn: pip install 'fmlp[sklearn]'") from None
from sklearn.utils.validation import check_is_fitted

from fmlp import activations
from fmlp.arguments import unmasked
from fmlp.layers import Activation, Dense, Layer, check_net, serial
from fmlp.structure import activation_of, constructor_of, inferred
from fmlp.tree import Array, Tree

__all__ = ["from_estimator", "to_estimator"]

_ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


def from_estimator(model: MLPClassifier | MLPRegressor) -> tuple[Layer, Tree]:
    """Make a network and its parameters from a fitted `MLPClassifier` or `MLPRegressor` of `sklearn.neural_network`.

    The network's output is what fmlp's losses take:

    - for a regressor the prediction, or its logarithm with the loss "poisson";
    - for a classifier of two classes one logit, whose `activations.sigmoid` is the probability of the second class;
    - of more classes a logit for each, whose `activations.softmax` are the probabilities;
    - of several labels per row a logit for each label, whose `activations.sigmoid` is the label's probability.

    The dtype is kept. Raises TypeError for any other model, and scikit-learn's NotFittedError for one that is not
    fitted.

    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> model = MLPRegressor(hidden_layer_sizes=4, activation="tanh", solver="lbfgs").fit(x, x[:, 0])
    >>> net, params = from_estimator(model)
    >>> list(params), bool(np.allclose(net.apply(params, x)[:, 0], model.predict(x)))
    (['dense_0', 'dense_2'], True)
    """
    if not isinstance(model, MLPClassifier | MLPRegressor):
        raise TypeError(
            "model: expected an MLPClassifier or MLPRegressor of sklearn.neural_network (one of fmlp.estimators has "
            f"its network and parameters as net_ and params_), got {type(model).__module__}.{type(model).__qualname__}"
        )
    check_is_fitted(model)
    layers: list[Layer] = []
    for w in model.coefs_:
        layers += [Activation(activations.table[_ACTIVATIONS[model.activation]])] * bool(layers) + [Dense(w.shape[1])]
    weights = zip(model.coefs_, model.intercepts_, strict=True)
    params = {f"dense_{2 * i}": {"w": np.array(w), "b": np.array(b)} for i, (w, b) in enumerate(weights)}
    return serial(*layers), params


def to_estimator(
    net: Layer, params: Tree, classes: Any = None, *, multilabel: bool = False, **settings: Any
) -> MLPClassifier | MLPRegressor:
    """Make a fitted scikit-learn estimator from a network: a regressor, or with `classes` a classifier.

    The network must be a `serial` of Dense layers with the same activation between all of them: identity, sigmoid,
    tanh or relu. Dropout is left out. The output is a prediction, or the logits of the `classes`, in their order; two
    classes need either one logit, of the second class, or two. With `multilabel` the output is one logit for each
    label, and `classes` is not needed. `settings` go to the estimator's constructor: ``loss="poisson"`` for a regressor
    whose network gives the logarithm, or the settings with which ``partial_fit`` shall continue to train.

    Raises TypeError, naming the layer, for a layer that scikit-learn does not have; ValueError when the layers are not
    arranged like this, or the parameters or classes do not fit.

    >>> from fmlp import random
    >>> net = serial(Dense(8), Activation(activations.relu), Dense(3))
    >>> _, params = net.init(random.key(0), (4,))
    >>> model = to_estimator(net, params, classes=["a", "b", "c"])
    >>> model.predict_proba(np.zeros((1, 4))).round(2)
    array([[0.33, 0.33, 0.33]])
    """
    check_net(net)
    *hidden, last = _dense_layers(net, params)
    names = {name for _, _, name in hidden}
    if last[2] or len(names) > 1:
        found = ", ".join(name or "none" for _, _, name in [*hidden, last])
        raise ValueError(f"net: expected one activation for all Dense layers and none after the last, got {found}")
    w, b, _ = last
    n = w.shape[1]
    if multilabel:
        y: Array = np.array([[0] * n, [1] * n])
    elif classes is None:
        y = np.ones((2, n)) if n > 1 else np.ones(2)
    else:
        y = np.unique(classes)
        if len(y) != len(classes) or list(y) != list(classes):
            raise ValueError(f"classes: expected them sorted, each once, as scikit-learn keeps them, got {classes}")
        if len(y) == n == 2:  # the softmax of two logits is the sigmoid of their difference
            w, b = w[:, 1:] - w[:, :1], b[1:] - b[:1]
        elif len(y) < 2 or n != (len(y) if len(y) > 2 else 1):
            raise ValueError(f"classes: expected one for each of the {n} outputs, or two for one, got {len(y)}")
    weights = [*hidden, (w, b, "")]
    kind: Any = MLPClassifier if multilabel or classes is not None else MLPRegressor
    loss = {"loss": settings["loss"]} if "loss" in settings else {}
    activation = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}[names.pop() if names else "identity"]
    sizes = tuple(w.shape[1] for w, _, _ in hidden)
    model = kind(hidden_layer_sizes=sizes, activation=activation, random_state=0, **loss)
    # One step on rows of zeros sets every attribute of a fitted estimator; then the weights replace the ones it made.
    rows = np.zeros((len(y), weights[0][0].shape[0]), w.dtype)
    labels = {} if kind is MLPRegressor else {"classes": np.arange(n) if multilabel else y}
    model.partial_fit(rows, y, **labels)
    model.coefs_, model.intercepts_ = [w for w, _, _ in weights], [b for _, b, _ in weights]
    model.n_iter_, model.t_, model.loss_curve_, model.best_loss_ = 0, 0, [], np.inf
    vars(model).pop("_optimizer", None)
    return model.set_params(**{"random_state": None, **settings})


def _dense_layers(net: Layer, params: Tree) -> list[tuple[Array, Array, str]]:
    """List the weights and biases of the Dense layers, and the name of the activation behind each, "" for none."""
    found: list[tuple[Array, Array, str]] = []
    for place, layer, own in _flat(net, params, ""):
        match constructor_of(layer):
            case "Dense":
                if found and not found[-1][2]:
                    found[-1] = (*found[-1][:2], "identity")
                found.append((*_weights(place, layer, own, found[-1][0].shape[1] if found else None), ""))
            case "Activation" if found and not found[-1][2]:
                name, _ = activation_of(layer, place)
                if name not in _ACTIVATIONS.values():
                    raise TypeError(f"{place}: scikit-learn has {', '.join(_ACTIVATIONS)} as activations, not {name}")
                found[-1] = (*found[-1][:2], name)
            case "Dropout":
                pass
            case kind:
                raise TypeError(f"{place}: scikit-learn has no {kind or 'such layer'} there")
    if not found:
        raise ValueError("net: expected at least one Dense layer, got none")
    return found


def _flat(layer: Layer, params: Tree, path: str) -> Iterator[tuple[str, Layer, Tree]]:
    """Yield each layer of a network in order, with its place and parameters; a `serial` yields its children."""
    if constructor_of(layer) != "serial":
        yield path.rstrip("/") or getattr(layer.apply, "__name__", "layer"), layer, params
        return
    for name, child in layer.apply.children.items():  # type: ignore[attr-defined]
        yield from _flat(child, params.get(name, {}), f"{path}{name}/")


def _weights(place: str, layer: Layer, params: Tree, width: int | None) -> tuple[Array, Array]:
    """Return copies of a Dense layer's weights and biases (zeros if it has none); it must take `width` numbers."""
    _, like = inferred(layer, (width or len(np.atleast_1d(params.get("w", 0))),))
    for name, expected in like.items():
        shape = np.shape(unmasked(f"{place}/{name}", params[name])) if name in params else "none"
        if shape != expected.shape:
            raise ValueError(f"{place}/{name}: expected shape {expected.shape}, got {shape}")
    w = np.array(params["w"])
    return w, np.array(params["b"]) if "b" in params else np.zeros(w.shape[1], w.dtype)
