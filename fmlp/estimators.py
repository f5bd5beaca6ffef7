"""`MLPClassifier` and `MLPRegressor` like scikit-learn's, running on fmlp (``pip install 'fmlp[sklearn]'``).

The constructor, defaults, attributes and methods are those of `sklearn.neural_network`: change the import and nothing
else. New or extended arguments:

- `activation`: the name of any activation, a differentiable function or a `Layer`; or a list, one per hidden layer.
- `dropout`: the rate after each hidden layer, or a list of rates. `batch_norm`: a `BatchNorm` before each activation.
- `solver`: "sgd", "adam", "lbfgs" or the name of another optimizer; a function from a learning rate to an optimizer,
  ``functools.partial(optim.adamw, weight_decay=0.1)``; or an `Optimizer`.
- `learning_rate`: also a schedule, a function of the count of steps, or of epochs with `schedules.per_epoch`; it
  replaces `learning_rate_init`, for any solver.
- `loss`: any differentiable loss, or its name. For a classifier it receives a logit for each class and integer labels,
  shape (rows,), or, if a row can have several labels, a logit for each label and zeros and ones. For a regressor it
  receives outputs and targets, both of shape (rows, outputs).
- `class_weight`: a dict or "balanced", as in scikit-learn's other classifiers, or an array in the order of `classes_`.
- `verbose`: True shows a progress bar.

float32 data are computed in float32, which takes 0.5 to 0.7 of the time on 50,000 rows; all other data in float64. The
fitted network is available as `net_` and `params_`; `coefs_` and `intercepts_` are the parameters of its Dense layers.
These two are tuples, not lists as in scikit-learn, so that ``model.coefs_[0] = w`` is an error: assign all of them,
``model.coefs_ = [w, v]``.

A fit that raises an error leaves the model as it was before.

With scikit-learn's own losses a step minimizes the same objective as in scikit-learn: the sum over the outputs,
averaged over the batch, plus ``alpha/2 Σ w² / n``, where w are the weights without biases and n is the number of rows
in the batch or the sum of their weights. `loss_` and `loss_curve_` are scikit-learn's numbers, too: a squared error is
the mean over the outputs, although the step uses the sum, and an epoch's loss averages the batches by their numbers of
rows, although the rows have weights. The optimizers are those of `fmlp.optim`. They differ from scikit-learn's in where
Adam adds its epsilon, and in momentum, which sums gradients and not steps; this matters when the learning rate changes.

Use names, partials or functions of a module if the model shall be pickled: an optimizer or a schedule, such as
``optim.adam()``, holds functions that pickle cannot store.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil, inf, sqrt
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, issparse

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin, is_classifier
except ModuleNotFoundError:
    raise ModuleNotFoundError("fmlp.estimators needs scikit-learn: pip install 'fmlp[sklearn]'") from None
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fmlp import activations, losses, metrics, optim, random, training, tree
from fmlp.arguments import array_of_numbers, given, integer, number, unmasked
from fmlp.autodiff import call_loss, differentiable, objective, rule_of, value_and_grad
from fmlp.initializers import uniform
from fmlp.jit import AFTER, Jitted
from fmlp.layers import Activation, BatchNorm, Dense, Dropout, Layer, serial
from fmlp.losses import Loss
from fmlp.optim import Optimizer
from fmlp.progress import progress_bar
from fmlp.random import Key
from fmlp.training import Epoch
from fmlp.tree import Array, Tree

__all__ = ["MLPClassifier", "MLPRegressor"]

_ACTIVATIONS = activations.table | {"logistic": activations.sigmoid, "swish": activations.silu}
_OPTIMIZERS = {name: getattr(optim, name) for name in ("adadelta", "adagrad", "adamw", "lion", "nadam", "rmsprop")}
_LOSSES = {name: f for name, f in vars(losses).items() if isinstance(f, Loss)}
_INTERVALS = {
    "alpha": "[0, inf)", "learning_rate_init": "(0, inf)", "power_t": "[0, inf)", "tol": "[0, inf)",
    "n_iter_no_change": "[1, inf]", "max_fun": "[1, inf)", "momentum": "[0, 1]", "beta_1": "[0, 1)", "beta_2": "[0, 1)",
    "epsilon": "(0, inf)", "validation_fraction": "[0, 1)",
}  # fmt: skip
_FLAGS = ("batch_norm", "early_stopping", "nesterovs_momentum", "shuffle", "warm_start")
_OF_OPTIMIZER = (
    "solver", "learning_rate", "learning_rate_init", "power_t", "momentum", "nesterovs_momentum", "beta_1", "beta_2",
    "epsilon",
)  # fmt: skip


class _MLP(BaseEstimator):
    """The part that classifier and regressor share: everything but the meaning of y."""

    net_: Layer
    params_: Tree
    n_iter_: int
    t_: int
    n_layers_: int
    n_outputs_: int
    out_activation_: str
    loss_: float

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to `X` (rows, features), dense or sparse, and `y` (rows,) or (rows, outputs)."""
        return self._fit(X, y, sample_weight)

    @property
    def coefs_(self) -> tuple[Array, ...]:
        """The weights of the Dense layers, each (in, out); you can assign new ones of the same shapes."""
        return self._of_dense("w")

    @coefs_.setter
    def coefs_(self, arrays: Iterable[Array]) -> None:
        self._set_dense("coefs_", "w", arrays)

    @property
    def intercepts_(self) -> tuple[Array, ...]:
        """The biases of the Dense layers; you can assign new ones of the same shapes."""
        return self._of_dense("b")

    @intercepts_.setter
    def intercepts_(self, arrays: Iterable[Array]) -> None:
        self._set_dense("intercepts_", "b", arrays)

    def _of_dense(self, leaf: str) -> tuple[Array, ...]:
        return tuple(self.params_[name][leaf] for name in _dense(self.params_))

    def _set_dense(self, attribute: str, leaf: str, arrays: Iterable[Array]) -> None:
        check_is_fitted(self)
        old, new = self._of_dense(leaf), [array_of_numbers(attribute, array) for array in arrays]
        expected, got = ([np.shape(array) for array in some] for some in (old, new))
        if got != expected:
            raise ValueError(f"{attribute}: expected arrays of the shapes {expected}, got {got}")
        copies = zip(_dense(self.params_), [np.array(a, b.dtype) for a, b in zip(new, old, strict=True)], strict=True)
        self.params_ = self.params_ | {name: self.params_[name] | {leaf: copy} for name, copy in copies}

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, incremental: bool = False, classes: Any = None) -> Self:
        self._check_settings(incremental)
        with _all_or_none(self):
            first = not hasattr(self, "params_") or not (self.warm_start or incremental)
            rows = self._rows(X, y, sample_weight, first, incremental, classes)
            rng = check_random_state(self.random_state)
            init_key, key = random.split(random.key(rng.randint(2**31 - 1)))
            net = self._prepared(first)
            if self.t_:
                key = random.fold_in(key, self.t_)  # with an integer random_state, each call still drops other units
            dtype = rows.x.dtype
            params = tree.cast(net.init(init_key, (self.n_features_in_,))[1], dtype) if first else self.params_
            loss, factor, slope = self._loss()
            problem = _regularized(net, loss, factor, slope, float(self.alpha))
            if self.solver == "lbfgs":
                params = self._minimize(net, problem, params, rows)
            else:
                params = self._descend(net, problem, params, rows, key, rng, incremental)
            self.net_, self.params_ = net, params
        return self

    def _rows(self, X: Any, y: Any, sample_weight: Any, first: bool, incremental: bool, classes: Any) -> _Rows:
        """Check the data, and encode the targets."""
        X, y = self._validated(X, y=y, reset=first, multi_output=True)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        encoded = self._encoded(y, X.dtype, first, classes)
        return _Rows(X, encoded, self._row_weights(X, y, sample_weight, incremental))

    def _prepared(self, first: bool) -> Layer:
        """Make the network, and note its layers and loss, because the settings may change later."""
        self._layers = self._hidden(), self._per_layer("activation"), self._per_layer("dropout"), self.batch_norm
        self._trained_loss = self.loss
        if first:
            self.n_layers_ = len(self._hidden()) + 2
            self.n_iter_ = self.t_ = 0
            self._state: Any = None
            self.loss_curve_: list[float] = []
        if first or self.early_stopping == (self.validation_scores_ is None):
            self._no_improvement = 0
            self.best_loss_: Any = None if self.early_stopping else inf
            self.validation_scores_: Any = [] if self.early_stopping else None
            self.best_validation_score_: Any = -inf if self.early_stopping else None
        return self._network()

    def _descend(
        self, net: Layer, problem: tuple[Layer, Loss], params: Tree, rows: _Rows, key: Key, rng: Any, incremental: bool
    ) -> Tree:
        held_out = None
        if self.early_stopping:
            rows, held_out = self._set_aside(rows, rng)
        n = len(rows.y)
        batch_size = min(n, 200 if self.batch_size == "auto" else self.batch_size)
        if self.batch_size != "auto" and self.batch_size > n:
            warnings.warn(f"batch_size: {self.batch_size} is more than there are rows; taking {n}", stacklevel=4)
        optimizer = self._optimizer(incremental)
        self.n_iter_, watch = 0, _Watch(self, net, params, n, held_out)
        penalized, loss = problem
        result = training.fit(
            penalized, params, (rows.inputs, rows.y), loss=loss, optimizer=optimizer,
            epochs=1 if incremental else self.max_iter, key=key, batch_size=batch_size,
            shuffle=self.shuffle and batch_size < n, callbacks=[watch], progress=bool(self.verbose),
        )  # fmt: skip
        self._state = result.state
        if result.stopped == "interrupted":
            warnings.warn("training was interrupted", stacklevel=4)
        elif result.stopped == "done" and not incremental:
            warnings.warn(f"not converged in max_iter={self.max_iter} epochs", ConvergenceWarning, stacklevel=4)
        return result.params if held_out is None else training.calibrate(net, watch.best, rows.x)

    def _set_aside(self, rows: _Rows, rng: Any) -> tuple[_Rows, _Rows]:
        """Split the rows into training rows and held-out rows; two classes are split in proportion."""
        n, strata = len(rows.y), None
        if (held := ceil(self.validation_fraction * n)) < 2:
            raise ValueError(f"validation_fraction: expected at least 2 rows, got {held} of {n}")
        if is_classifier(self) and rows.y.ndim == 1 and len(self.classes_) <= 2:
            strata = rows.y
            for label, count in zip(self.classes_.tolist(), np.bincount(strata), strict=False):
                if count == 1:
                    raise ValueError(
                        "early_stopping: expected at least 2 rows of each class, because one of them is held out, "
                        f"got 1 of {label!r}"
                    )
        parts = train_test_split(np.arange(n), test_size=self.validation_fraction, random_state=rng, stratify=strata)
        train, held_out = (rows.take(part) for part in parts)
        for name, part in (("to train on", train), ("held out", held_out)):
            if part.weight is not None and not part.weight.any():
                raise ValueError(
                    f"early_stopping: expected a weight above 0 among the {len(part.y)} rows {name}, got none; "
                    "leave out rows of weight 0, or take another validation_fraction"
                )
        return train, held_out

    def _optimizer(self, incremental: bool) -> Optimizer:
        """Make the optimizer from the settings; later calls of `partial_fit` continue with that of the first."""
        if not incremental or self._state is None:
            self._state = None
            self._optimized_by = SimpleNamespace(**{name: getattr(self, name) for name in _OF_OPTIMIZER})
        made, state = _optimizer(self._optimized_by), self._state
        return made if state is None else made._replace(init=lambda params: state)

    def _minimize(self, net: Layer, problem: tuple[Layer, Loss], params: Tree, rows: _Rows) -> Tree:
        penalized, loss = problem
        f, dtype = objective(penalized.apply, loss), rows.x.dtype
        both = value_and_grad(f)
        start, unravel = tree.ravel(tree.cast(params, np.float64))

        def value_and_gradient(vector: Array, x: Any, y: Array) -> tuple[Any, Array]:
            value, grads = both(unravel(vector.astype(dtype, copy=False)), x, y)
            return value, tree.ravel(grads)[0].astype(np.float64, copy=False)

        planned = Jitted(value_and_gradient, after=AFTER)

        def loss_and_gradient(vector: Array) -> tuple[float, Array]:
            value, gradient = planned(vector, rows.inputs, rows.y)
            return float(value), gradient

        with progress_bar(bool(self.verbose), self.max_iter, "iteration") as bar:

            def show(intermediate_result: Any) -> None:
                self.loss_curve_ = [*self.loss_curve_, float(intermediate_result.fun)]
                bar.show({"loss": self.loss_curve_[-1]})
                bar.update()

            options: Any = {"maxiter": self.max_iter, "maxfun": self.max_fun, "gtol": self.tol}
            found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", callback=show, options=options)
        if not (np.isfinite(found.fun) and np.isfinite(found.x).all()):
            raise training.NonFiniteError("the loss or a parameter is not finite; are the data scaled?", params)
        if not found.success:
            warnings.warn(f"not converged: {found.message}", ConvergenceWarning, stacklevel=4)
        self.n_iter_, self.loss_ = found.nit, float(found.fun)
        self.best_loss_ = self.loss_
        return training.calibrate(net, tree.cast(unravel(found.x), dtype), rows.x)

    def _network(self) -> Layer:
        sizes, functions, rates, batch_norm = self._layers
        widths = [self.n_features_in_, *sizes, self.n_outputs_]
        layers: list[Layer] = []
        f: Any = None
        for i, (named, rate) in enumerate(zip(functions, rates, strict=True)):
            f = _named(_ACTIVATIONS, named)
            layers += [_glorot(widths[i], widths[i + 1], f), *[BatchNorm()] * bool(batch_norm)]
            layers += [f if isinstance(f, Layer) else Activation(f), *[Dropout(rate)] * (rate != 0)]
        return serial(*layers, _glorot(widths[-2], widths[-1], f))

    def _score(self, net: Layer, params: Tree, x: Any, y: Array, weight: Any) -> float:
        prediction = self._read(training.predict(net, params, x)).reshape(y.shape)
        return float(self._metric(y, prediction, weight=weight))

    def _output(self, X: Any) -> Array:
        check_is_fitted(self)
        output: Array = training.predict(self.net_, self.params_, self._validated(X, reset=False))
        return output

    def _validated(self, X: Any, **settings: Any) -> Any:
        unmasked("X", X)
        unmasked("y", settings.get("y"))
        return validate_data(self, X, accept_sparse="csr", dtype=(np.float64, np.float32), **settings)

    def _row_weights(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Any:
        weight, class_weight = None, self._class_weight()
        if sample_weight is not None:
            weight = _check_sample_weight(
                unmasked("sample_weight", sample_weight), X, dtype=np.float64, ensure_non_negative=True
            )
        if class_weight is None:
            return weight
        if class_weight == "balanced" and incremental:
            raise ValueError("class_weight: partial_fit does not see all rows; give the weights as a dict")
        return compute_sample_weight(class_weight, y) * (1.0 if weight is None else weight)

    def _class_weight(self) -> Any:
        return None

    def _hidden(self) -> list[int]:
        sizes: list[int] = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes: expected positive integers, got {self.hidden_layer_sizes!r}")
        return sizes

    def _per_layer(self, name: str) -> list[Any]:
        value, n = getattr(self, name), len(self._hidden())
        values = list(value) if isinstance(value, list | tuple) and not isinstance(value, Layer) else [value] * n
        if len(values) != n:
            raise ValueError(f"{name}: expected {n}, one for each hidden layer, got {len(values)}")
        return values

    def _check_settings(self, incremental: bool) -> None:
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(f"{name}: expected True or False, got {given(getattr(self, name))}")
        held_out = {"validation_fraction": "(0, 1)"} if self.early_stopping else {}
        for name, interval in (_INTERVALS | held_out).items():
            number(name, getattr(self, name), interval)
        for rate in self._per_layer("dropout"):
            number("dropout", rate, "[0, 1)")
        for name, value in (("max_iter", self.max_iter), ("batch_size", self.batch_size)):
            if value != "auto" or name == "max_iter":
                integer(name, value)
        _check_choice("solver", self.solver, {"sgd", "adam", "lbfgs", *_OPTIMIZERS}, Optimizer)
        _check_choice("learning_rate", self.learning_rate, {"constant", "invscaling", "adaptive"})
        _check_choice("loss", self.loss, {*self._own_losses, *_LOSSES})
        for f in self._per_layer("activation"):
            _check_choice("activation", f, _ACTIVATIONS, Layer)
        if incremental and self.early_stopping:
            raise ValueError("early_stopping: partial_fit trains for one epoch and cannot stop early")
        if self.solver == "lbfgs" and any(self._per_layer("dropout")):
            raise ValueError("dropout: 'lbfgs' needs a loss without randomness; use another solver")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "net_"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "params_"):
            self.net_ = self._network()


class _Scored:
    """scikit-learn's `score`, which would read what is behind a mask."""

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean accuracy of a classifier's predictions, R² of a regressor's."""
        unmasked("y", y)
        return float(super().score(X, y, unmasked("sample_weight", sample_weight)))  # type: ignore[misc]


class MLPClassifier(_Scored, ClassifierMixin, _MLP):
    """scikit-learn's `MLPClassifier`, with the additions that `fmlp.estimators` lists.

    The labels `y` have shape (rows,), or are zeros and ones of shape (rows, labels) if a row can have several. With
    "log_loss", two classes share one logit; otherwise each class or label has its own.

    >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> model = MLPClassifier((16,), activation=["gelu"], solver="lbfgs", alpha=1e-3, random_state=0)
    >>> model.fit(x, ["even", "odd", "odd", "even"]).predict(x)
    array(['even', 'odd', 'odd', 'even'], dtype='<U4')
    """

    classes_: Array
    _own_losses = ("log_loss",)

    # fmt: off
    def __init__(
        self, hidden_layer_sizes: Any = (100,), activation: Any = "relu", *, solver: Any = "adam", alpha: float = 1e-4,
        batch_size: Any = "auto", learning_rate: Any = "constant", learning_rate_init: float = 1e-3,
        power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True, random_state: Any = None, tol: float = 1e-4,
        verbose: bool = False, warm_start: bool = False, momentum: float = 0.9, nesterovs_momentum: bool = True,
        early_stopping: bool = False, validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999,
        epsilon: float = 1e-8, n_iter_no_change: float = 10, max_fun: int = 15_000, loss: Any = "log_loss",
        dropout: Any = 0.0, batch_norm: bool = False, class_weight: Any = None,
    ) -> None:
        _store(self, locals())
    # fmt: on

    @available_if(lambda self: self.solver != "lbfgs")
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one more epoch; the first call must name all `classes`.

        Later calls keep the optimizer of the first call, even if the settings have changed.
        """
        if not hasattr(self, "classes_"):
            if classes is None:
                raise ValueError("classes: expected all labels at the first call of partial_fit, got None")
            classes = np.unique(classes)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes: expected {self.classes_}, as in the first call, got {classes}")
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def predict(self, X: Any) -> Any:
        """Return the labels, shape (rows,), or (rows, labels) of zeros and ones."""
        read = self._read(self._output(X))
        return (csr_matrix(read) if self._sparse_y else read) if self._multilabel else self.classes_[read]

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, shape (rows, classes)."""
        return self._probabilities(X, activations.sigmoid, activations.softmax)

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of the probability of each class, shape (rows, classes)."""
        return self._probabilities(X, activations.log_sigmoid, activations.log_softmax)

    def _probabilities(self, X: Any, sigmoid: Callable[..., Array], softmax: Callable[..., Array]) -> Array:
        z = self._output(X)
        if self.out_activation_ == "softmax":
            return softmax(z)
        return sigmoid(z) if self._multilabel else np.hstack([sigmoid(-z), sigmoid(z)])

    def _read(self, output: Array) -> Array:
        if self.out_activation_ == "softmax":
            return losses.argmax(output)
        return losses.positive(output if self._multilabel else output[:, 0])

    def _metric(self, y: Array, prediction: Array, *, weight: Any) -> Any:
        return np.average((y == prediction).reshape(len(y), -1).all(1), weights=weight)

    def _encoded(self, y: Any, dtype: Any, first: bool, classes: Any) -> Array:
        check_classification_targets(y)
        kind = type_of_target(y)
        if kind == "multiclass-multioutput":
            raise ValueError(f"y: expected one label per row, or zeros and ones, got multiclass-multioutput {y.shape}")
        self._multilabel, self._sparse_y = kind == "multilabel-indicator", issparse(y)
        y = y.toarray() if self._sparse_y else y
        labels = np.arange(y.shape[1]) if self._multilabel else np.unique(y)
        if first:
            self.classes_ = labels if classes is None else classes
        if unknown := set(labels) - set(self.classes_):
            raise ValueError(f"y: expected the classes {self.classes_}, got also {sorted(unknown)}")
        if self.warm_start and len(labels) < len(self.classes_):
            raise ValueError(f"y: expected all the classes {self.classes_} for warm_start, got {labels}")
        binary = self.loss == "log_loss" and len(self.classes_) == 2 and not self._multilabel
        self.n_outputs_ = 1 if binary else len(self.classes_)
        self.out_activation_ = "logistic" if binary or self._multilabel else "softmax"
        encoded: Array = y if self._multilabel else np.searchsorted(self.classes_, y)
        return encoded

    def _class_weight(self) -> Any:
        """Return `class_weight` as scikit-learn expects it: an array, as `compute_class_weight` gives, as a dict."""
        given = self.class_weight
        if given is None or isinstance(given, str | Mapping):
            return given
        if hasattr(given, "to_dict"):
            return given.to_dict()  # a pandas Series, by label
        weights = array_of_numbers("class_weight", given)
        if weights.shape != self.classes_.shape:
            raise ValueError(
                f"class_weight: expected {len(self.classes_)} numbers, one for each of the classes {self.classes_}, "
                f"got shape {weights.shape}"
            )
        return dict(zip(self.classes_.tolist(), weights.tolist(), strict=True))

    def _loss(self) -> tuple[Callable[..., Any], float, float]:
        """Return the loss, and the factors of its value and of its gradient."""
        if self._trained_loss != "log_loss":
            return _named(_LOSSES, self._trained_loss), 1.0, 1.0
        if self.out_activation_ == "softmax":
            return losses.cross_entropy, 1.0, 1.0
        return losses.binary_cross_entropy, float(self.n_outputs_), float(self.n_outputs_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(_Scored, RegressorMixin, MultiOutputMixin, _MLP):
    """scikit-learn's `MLPRegressor`, with the additions that `fmlp.estimators` lists.

    The targets `y` have shape (rows,) or (rows, outputs).

    >>> x = np.linspace(-3, 3, 100)[:, None]
    >>> model = MLPRegressor(hidden_layer_sizes=32, activation="tanh", solver="lbfgs", random_state=0)
    >>> round(model.fit(x, np.sin(x[:, 0])).score(x, np.sin(x[:, 0])), 2)
    1.0
    """

    _own_losses = ("squared_error", "poisson")
    _metric = staticmethod(metrics.r2)

    # fmt: off
    def __init__(
        self, loss: Any = "squared_error", hidden_layer_sizes: Any = (100,), activation: Any = "relu", *,
        solver: Any = "adam", alpha: float = 1e-4, batch_size: Any = "auto", learning_rate: Any = "constant",
        learning_rate_init: float = 1e-3, power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
        random_state: Any = None, tol: float = 1e-4, verbose: bool = False, warm_start: bool = False,
        momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False,
        validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
        n_iter_no_change: float = 10, max_fun: int = 15_000, dropout: Any = 0.0, batch_norm: bool = False,
    ) -> None:
        _store(self, locals())
    # fmt: on

    @available_if(lambda self: self.solver != "lbfgs")
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one more epoch.

        Later calls keep the optimizer of the first call, even if the settings have changed.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Array:
        """Return the targets, shape (rows,) or (rows, outputs)."""
        return self._read(self._output(X))

    def _read(self, output: Array) -> Array:
        y = losses.prediction_of(self._loss()[0])(output)
        return y[:, 0] if self.n_outputs_ == 1 else y

    def _encoded(self, y: Any, dtype: Any, first: bool, classes: Any) -> Array:
        self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
        self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        return np.asarray(y, dtype).reshape(len(y), -1)

    def _loss(self) -> tuple[Callable[..., Any], float, float]:
        """Return the loss, and the factors of its value and of its gradient: a squared error has scikit-learn's two."""
        if self._trained_loss == "squared_error":
            return losses.mse, 0.5, self.n_outputs_ / 2
        if self._trained_loss == "poisson":
            return losses.poisson, float(self.n_outputs_), float(self.n_outputs_)
        return _named(_LOSSES, self._trained_loss), 1.0, 1.0


# ---------------------------------------------------------------------------------------- helpers


class _Rows(NamedTuple):
    x: Any
    y: Array
    weight: Array | None

    def take(self, rows: Array) -> _Rows:
        return _Rows(self.x[rows], self.y[rows], None if self.weight is None else self.weight[rows])

    @property
    def inputs(self) -> Any:
        """The input of the network of `_regularized`; given to `training.fit`, the weights would weigh batches too."""
        return self.x if self.weight is None else (self.x, self.weight)


class _Watch:
    """After each epoch: note loss or score, remember the best parameters, set the learning rate, decide to stop."""

    def __init__(self, model: _MLP, net: Layer, params: Tree, n: int, held_out: _Rows | None) -> None:
        self.model, self.net, self.best, self.n, self.held_out = model, net, params, n, held_out

    def __call__(self, now: Epoch) -> Epoch:
        model = self.model
        model.n_iter_ += 1
        model.t_ += self.n
        model.loss_ = now.history["loss"][-1]
        model.loss_curve_ = [*model.loss_curve_, model.loss_]
        held_out = self.held_out
        improved = self._loss_improved() if held_out is None else self._score_improved(now.params, held_out)
        model._no_improvement = 0 if improved else model._no_improvement + 1
        stop, state, by = model._no_improvement > model.n_iter_no_change, now.state, model._optimized_by
        rule = by.learning_rate if by.solver == "sgd" else "constant"
        if rule == "invscaling":
            state = optim.with_learning_rate(state, by.learning_rate_init / (model.t_ + 1) ** by.power_t)
        elif rule == "adaptive" and stop and state.learning_rate > 1e-6:
            state = optim.with_learning_rate(state, state.learning_rate / 5)
            model._no_improvement, stop = 0, False
        return now._replace(state=state, stop=stop)

    def _loss_improved(self) -> bool:
        model = self.model
        improved: bool = model.loss_ <= model.best_loss_ - model.tol
        model.best_loss_ = min(model.best_loss_, model.loss_)
        return improved

    def _score_improved(self, params: Tree, held_out: _Rows) -> bool:
        model, score = self.model, self.model._score(self.net, params, *held_out)
        improved: bool = score >= model.best_validation_score_ + model.tol
        model.validation_scores_ = [*model.validation_scores_, score]
        if score > model.best_validation_score_:
            model.best_validation_score_, self.best = score, params
        return improved


def _store(model: _MLP, arguments: dict[str, Any]) -> None:
    for name in model._get_param_names():
        setattr(model, name, arguments[name])


@contextmanager
def _all_or_none(model: _MLP) -> Iterator[None]:
    """Restore the model when an error ends a fit."""
    attributes: dict[str, Any] = model.__dict__
    before = attributes.copy()
    try:
        yield
    except BaseException:
        attributes.clear()
        attributes.update(before)
        raise


def _dense(params: Tree) -> list[str]:
    """Name the Dense layers, first to last; the keys may be in any order: JAX sorts dense_10 before dense_2."""
    return sorted((name for name in params if name.startswith("dense_")), key=lambda name: int(name[len("dense_") :]))


def _optimizer(by: SimpleNamespace) -> Optimizer:
    if isinstance(by.solver, Optimizer):
        return by.solver
    lr = by.learning_rate if callable(by.learning_rate) else by.learning_rate_init
    if by.solver == "sgd":
        return optim.sgd(lr, by.momentum, nesterov=by.nesterovs_momentum and by.momentum > 0)
    if by.solver == "adam":
        return optim.adam(lr, by.beta_1, by.beta_2, by.epsilon)
    made: Optimizer = _named(_OPTIMIZERS, by.solver)(lr)
    return made


def _glorot(fan_in: int, fan_out: int, activation: Any) -> Layer:
    """Make a Dense layer that is initialized like scikit-learn's: weights and biases from U(-r, r)."""
    r = sqrt((2 if activation is activations.sigmoid else 6) / (fan_in + fan_out))
    return Dense(fan_out, uniform(-r, r), uniform(-r, r))


def _named(known: dict[str, Any], value: Any) -> Any:
    return known[value] if isinstance(value, str) else value


def _check_choice(name: str, value: Any, known: Iterable[str], *kinds: type) -> None:
    if value not in known if isinstance(value, str) else not (callable(value) or isinstance(value, kinds)):
        raise ValueError(f"{name}: expected one of {', '.join(sorted(known))}, or a custom one; got {given(value)}")


def _regularized(net: Layer, loss: Callable[..., Any], factor: float, slope: float, alpha: float) -> tuple[Layer, Loss]:
    """Make a network and a loss for `training.fit` that together compute ``factor · loss + alpha/2 Σ w² / n``.

    The gradient is that of ``slope · loss + …``, because scikit-learn's squared error scales value and gradient of
    several outputs differently. The network takes x, or x and the rows' weights, and passes its output, the Dense
    layers' weights and the rows' weights to the loss.
    """
    apply_rule, loss_rule = rule_of(net.apply), rule_of(loss)

    @differentiable
    def apply(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Any, Any]:
        x, weight = x if isinstance(x, tuple) else (x, None)
        y, pullback = apply_rule(params, x, train=train, key=key)
        names = _dense(params)

        def with_weights(d: Any) -> Any:
            cotangents = iter(pullback(d[0]))
            grads = next(cotangents)
            for name, dw in zip(names, d[1], strict=True):
                grads[name]["w"] += dw
            yield grads
            yield from cotangents

        return (y, [params[name]["w"] for name in names], weight), with_weights

    @losses.loss()
    def penalized(prediction: Any, y: Any, *, weight: Any = None) -> tuple[Any, Any]:
        output, ws, weight = prediction
        value, pullback = call_loss(loss_rule, output, y, weight)
        total: Any = np.float64(len(output)) if weight is None else np.sum(weight).astype(np.float64) or np.float64(1)
        decay = (alpha / total).astype(output.dtype)

        def with_decay(d: Any) -> Any:
            yield next(iter(pullback(slope * d))), [d * decay * w for w in ws], None
            yield None

        return factor * value + decay / 2 * sum(np.vdot(w, w) for w in ws), with_decay

    return Layer(net.init, apply), penalized
