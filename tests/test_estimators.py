"""The estimators: scikit-learn's checks, its own network as the measure, its tools around them, and what they add."""

import copy
import pickle
import re
import warnings
from functools import partial

import numpy as np
import pytest
from scipy import sparse

sklearn = pytest.importorskip("sklearn", reason="fmlp.estimators needs scikit-learn: pip install 'fmlp[sklearn]'")

import joblib
import sklearn.neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils import get_tags
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.estimator_checks import parametrize_with_checks

import fmlp
from fmlp import activations, estimators, layers, losses, optim, schedules, tree
from fmlp.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def digits(n=300):
    x, y = load_digits(return_X_y=True)
    return x[:n] / 16, y[:n]


def cancer():
    x, y = load_breast_cancer(return_X_y=True)
    return scale(x), y


def multilabel():
    x, y = make_multilabel_classification(200, 20, n_classes=4, random_state=0)
    return scale(x), y


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return scale(x), scale(y)


def two_targets():
    x, y = diabetes()
    return x, np.column_stack([y, y**2])


def ten_targets():
    x = np.random.default_rng(0).normal(size=(300, 5))
    return x, np.tanh(x @ np.random.default_rng(1).normal(size=(5, 10)))


def counts():
    x, y = diabetes()
    return x, np.abs(y)


CLASSES = {"digits": digits, "cancer": cancer, "multilabel": multilabel}
TARGETS = {"diabetes": diabetes, "two targets": two_targets}


# ---------------------------------------------------------------------- scikit-learn is the measure


@parametrize_with_checks([MLPClassifier(), MLPRegressor()])
@pytest.mark.filterwarnings("ignore")  # the checks provoke warnings
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_parameters_and_defaults_are_scikit_learns(name):
    ours, reference = getattr(estimators, name)(), getattr(theirs, name)()
    new = {"dropout", "batch_norm"} | ({"loss", "class_weight"} if name == "MLPClassifier" else set())
    assert {k: v for k, v in ours.get_params().items() if k not in new} == reference.get_params()
    assert new <= ours.get_params().keys()
    x, y = (digits if name == "MLPClassifier" else diabetes)()
    for model in (ours, reference):
        model.set_params(max_iter=2, early_stopping=True).fit(x, y)
    public = {a for a in dir(reference) if not a.startswith("_")}
    assert not public - set(dir(ours))


def same_start(model, reference, x, y):
    """Fit both for an epoch, and put the reference's weights into the model, from where both go on."""
    for m in (model, reference):
        m.set_params(warm_start=True, max_iter=1).fit(x, y)
    names = [name for name in model.params_ if name.startswith("dense_")]
    weights = zip(names, reference.coefs_, reference.intercepts_, strict=True)
    model.params_ = {name: {"w": w.copy(), "b": b.copy()} for name, w, b in weights}
    for m in (model, reference):
        for history in (m.loss_curve_, m.validation_scores_ or []) if m.solver != "lbfgs" else ():
            history.clear()
        m.best_loss_, m.t_ = np.inf, 0


SOLVERS = {
    "adam": {"solver": "adam", "epsilon": 1e-12},  # which is added in another place
    "sgd": {"solver": "sgd", "learning_rate_init": 0.01},
    "plain": {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0.9, "nesterovs_momentum": False},
    "invscaling": {"solver": "sgd", "learning_rate_init": 1.0, "momentum": 0, "learning_rate": "invscaling"},
    "adaptive": {
        "solver": "sgd",
        "learning_rate_init": 0.3,
        "momentum": 0,
        "learning_rate": "adaptive",
        "tol": 0.02,
        "n_iter_no_change": 2,
    },
    "lbfgs": {"solver": "lbfgs"},
}
PROBLEMS = {
    "digits": ("MLPClassifier", digits, {}),
    "cancer": ("MLPClassifier", cancer, {}),
    "multilabel": ("MLPClassifier", multilabel, {}),
    "diabetes": ("MLPRegressor", diabetes, {}),
    "counts": ("MLPRegressor", counts, {"loss": "poisson"}),
    "two targets": ("MLPRegressor", two_targets, {}),
    "ten targets": ("MLPRegressor", ten_targets, {"learning_rate_init": 0.01}),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_from_the_same_weights_it_goes_where_scikit_learn_goes(problem, solver, weighted):
    name, data, settings = PROBLEMS[problem]
    x, y = data()
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y)) if weighted else None
    settings = {
        **SOLVERS[solver], **settings, "alpha": 0.5, "shuffle": False, "hidden_layer_sizes": (20, 10),
        "activation": "tanh", "random_state": 0, "batch_size": 64,
    }  # fmt: skip
    ours, reference = (getattr(module, name)(**settings) for module in (estimators, theirs))
    same_start(ours, reference, x, y)
    for model in (ours, reference):
        model.set_params(max_iter=12).fit(x, y, weight)
    tolerance = 1e-6 if solver == "adam" else 1e-9
    assert ours.n_iter_ == reference.n_iter_
    for a, b in zip(ours.coefs_ + ours.intercepts_, reference.coefs_ + reference.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    if solver != "lbfgs":
        assert ours.t_ == reference.t_
    assert ours.loss_ == pytest.approx(reference.loss_, rel=1e-8)
    if solver != "lbfgs":
        np.testing.assert_allclose(ours.loss_curve_, reference.loss_curve_, rtol=1e-8)
    for method in ("predict", "predict_proba", "predict_log_proba") if name == "MLPClassifier" else ("predict",):
        result, expected = (getattr(model, method)(x) for model in (ours, reference))
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, atol=1e-6)
    assert ours.score(x, y) == pytest.approx(reference.score(x, y), abs=1e-6)
    for attribute in ("out_activation_", "n_layers_", "n_outputs_", "n_features_in_"):
        assert getattr(ours, attribute) == getattr(reference, attribute)


@pytest.mark.parametrize("activation", ["relu", "logistic"])
def test_initial_weights_are_drawn_as_scikit_learns(activation):
    x, y = digits(50)
    settings = {"activation": activation, "learning_rate_init": 1e-12, "max_iter": 1, "hidden_layer_sizes": (400,)}
    ours, reference = (m.MLPClassifier(**settings, random_state=0).fit(x, y) for m in (estimators, theirs))
    for a, b in zip(ours.coefs_ + ours.intercepts_, reference.coefs_ + reference.intercepts_, strict=True):
        assert a.shape == b.shape
        assert np.abs(a).max() == pytest.approx(np.abs(b).max(), rel=0.25 if a.size < 50 else 0.03)
    assert ours.coefs_[0].std() == pytest.approx(reference.coefs_[0].std(), rel=0.03)
    assert ours.intercepts_[0].std() == pytest.approx(
        reference.intercepts_[0].std(), rel=0.1
    )  # of 400 numbers, three standard errors


def test_stopping_rules_are_scikit_learns():
    x, y = digits(600)
    settings = {"hidden_layer_sizes": (16,), "tol": 0.03, "n_iter_no_change": 3, "random_state": 0}
    model = MLPClassifier(**settings, max_iter=300, learning_rate_init=0.01).fit(x, y)
    curve, best, bad = model.loss_curve_, np.inf, 0
    for epoch, loss in enumerate(curve, 1):
        bad = bad + 1 if loss > best - 0.03 else 0
        best = min(best, loss)
        assert (bad > 3) == (epoch == len(curve))
    assert (model.n_iter_, model.best_loss_, model.t_) == (len(curve), min(curve), len(curve) * 600)
    early = MLPClassifier(**settings, max_iter=300, learning_rate_init=0.01, early_stopping=True).fit(x, y)
    scores = early.validation_scores_
    assert early.best_loss_ is None
    assert early.best_validation_score_ == max(scores)
    assert len(scores) == early.n_iter_ < 300
    best, bad = -np.inf, 0
    for epoch, score in enumerate(scores, 1):
        bad = bad + 1 if score < best + 0.03 else 0
        best = max(best, score)
        assert (bad > 3) == (epoch == len(scores))
    assert early.t_ == early.n_iter_ * 540


def test_early_stopping_returns_the_best_epoch_and_honours_weights():
    x, y = cancer()
    weight = np.where(np.arange(len(y)) % 2, 1.0, 0.0)
    held = {}

    class Watched(MLPClassifier):
        def _score(self, net, params, *data):
            score = super()._score(net, params, *data)
            held.setdefault("seen", []).append((score, params))
            held["weight"] = data[2]
            return score

    model = Watched(
        early_stopping=True, solver="sgd", learning_rate_init=0.5, max_iter=25, random_state=3, batch_norm=True
    )
    model.fit(x, y, weight)
    scores = [score for score, _ in held["seen"]]
    assert scores == model.validation_scores_
    assert set(held["weight"]) == {0.0, 1.0}
    best = held["seen"][int(np.argmax(scores))][1]
    for a, b in zip(tree.leaves(best), tree.leaves(model.params_), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("data", [digits, cancer, multilabel, diabetes, two_targets])
def test_validation_scores_are_scikit_learns(data):
    x, y = data()
    weight = np.random.default_rng(0).uniform(0, 2, len(y))
    model = (MLPRegressor if y.dtype.kind == "f" else MLPClassifier)(max_iter=3, random_state=0).fit(x, y)
    for w in (None, weight):
        assert model._score(model.net_, model.params_, x, y, w) == pytest.approx(model.score(x, y, w), rel=1e-12)


def test_max_iter_reached_and_ctrl_c_are_warned_of():
    x, y = digits(60)
    for solver in ("adam", "lbfgs"):
        with pytest.warns(ConvergenceWarning, match="not converged"):
            MLPClassifier(max_iter=2, solver=solver, tol=0).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLPClassifier(max_iter=500, tol=10.0).fit(x, y)
        MLPClassifier(solver="lbfgs", max_iter=1000, alpha=10).fit(x, y)

    def interrupted(count):
        if count > 2:
            raise KeyboardInterrupt
        return 0.01

    with pytest.warns(UserWarning, match="interrupted"):
        model = MLPClassifier(learning_rate=interrupted, random_state=0).fit(x, y)
    assert model.n_iter_ == 3
    assert model.predict(x).shape == (60,)


def test_warm_start_goes_on_and_a_new_fit_starts_anew():
    x, y = digits()
    model = MLPClassifier(max_iter=5, warm_start=True, random_state=0).fit(x, y)
    first = model.coefs_[0].copy()
    model.fit(x, y)
    assert len(model.loss_curve_) == 10
    assert model.n_iter_ == 5
    assert model.t_ == 3000
    assert model.loss_curve_[5] < model.loss_curve_[1]
    model.set_params(warm_start=False).fit(x, y)
    np.testing.assert_array_equal(model.coefs_[0], first)
    assert len(model.loss_curve_) == 5
    model.set_params(warm_start=True, solver="lbfgs", max_iter=3).fit(x, y)
    assert len(model.loss_curve_) == 8


@pytest.mark.parametrize("how", ["partial_fit", "warm_start"])
def test_each_call_draws_dropout_of_its_own(how):
    x, y = digits(50)
    model = MLPClassifier(
        dropout=0.9, random_state=0, max_iter=1, warm_start=how == "warm_start", solver="sgd", learning_rate_init=1e-12
    )

    def once_more(model):
        return (model.fit(x, y) if how == "warm_start" else model.partial_fit(x, y, classes=range(10))).loss_

    found = [once_more(model) for _ in range(3)]
    assert len({round(loss, 6) for loss in found}) == 3
    assert once_more(clone(model)) == found[0]


@pytest.mark.parametrize("first", [False, True])
def test_warm_start_may_begin_and_end_to_stop_early(first):
    x, y = digits(100)
    model = MLPClassifier(max_iter=3, warm_start=True, early_stopping=first, random_state=0).fit(x, y)
    model.set_params(early_stopping=not first).fit(x, y)
    assert len(model.loss_curve_) == 6
    if first:
        assert model.best_loss_ == min(model.loss_curve_[3:])
        assert model.validation_scores_ is model.best_validation_score_ is None
        model.set_params(warm_start=False).partial_fit(x, y)
    else:
        assert len(model.validation_scores_) == 3
        assert model.best_validation_score_ == max(model.validation_scores_)
        assert model.best_loss_ is None
        with pytest.raises(ValueError, match="early_stopping: partial_fit"):
            model.partial_fit(x, y)


def test_warm_start_wants_all_the_classes():
    x, y = digits(100)
    for model in (m.MLPClassifier(max_iter=1, warm_start=True).fit(x, y) for m in (estimators, theirs)):
        with pytest.raises(ValueError, match="warm_start"):
            model.fit(x[y < 9], y[y < 9])
    MLPClassifier(max_iter=1).fit(x, y).fit(x[y < 9], y[y < 9]).set_params(warm_start=True).fit(x[y < 9], y[y < 9])


@pytest.mark.parametrize(
    "settings",
    [{"solver": "adam"}, {"momentum": 0}, {"learning_rate_init": 10.0}, {"learning_rate": "invscaling"}],
    ids=str,
)
def test_partial_fit_goes_on_with_its_optimizer_as_scikit_learn_does(settings):
    x, y = digits()
    for module in (estimators, theirs):
        a, b = (module.MLPClassifier(solver="sgd", random_state=0, shuffle=False) for _ in range(2))
        for model in (a, b):
            model.partial_fit(x, y, classes=range(10))
        b.set_params(**settings)
        b = pickle.loads(pickle.dumps(b))
        for model in (a, b):
            model.partial_fit(x, y).partial_fit(x, y)
        assert a.loss_curve_ == b.loss_curve_
        np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])


def test_rows_are_held_out_by_class_only_where_there_are_two():
    x, y = digits(120)
    for labels in (np.arange(120) % 40, np.where(np.arange(120) == 0, 10, y)):
        for module in (estimators, theirs):
            module.MLPClassifier(early_stopping=True, max_iter=2).fit(x, labels)
    few = np.arange(120) % 12 == 0
    held = []

    class Watched(MLPClassifier):
        def _score(self, net, params, x, y, weight):
            held.append(y.mean())
            return super()._score(net, params, x, y, weight)

    for seed in range(5):
        for loss in ("log_loss", "cross_entropy"):
            Watched(early_stopping=True, max_iter=1, random_state=seed, loss=loss).fit(x, few)
    assert set(held) == {1 / 12}


@pytest.mark.parametrize(("fraction", "weighted"), [(0.1, "held out"), (0.99, "to train on")])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_early_stopping_needs_some_weight_on_both_sides(kind, fraction, weighted):
    x, y = digits(100)
    weight = np.zeros(100)
    weight[7 if weighted == "held out" else 0] = 1
    with pytest.raises(
        ValueError, match=f"early_stopping: expected a weight above 0 among .* rows {weighted}, got none"
    ):
        kind(early_stopping=True, validation_fraction=fraction, random_state=0).fit(x, y, weight)


def test_early_stopping_names_the_class_that_has_one_row():
    x, _ = digits(100)
    model = MLPClassifier(early_stopping=True)
    for labels, label in ((["x"] * 99 + ["y"], "'y'"), ([3] + [5] * 99, "3"), ([True] + [False] * 99, "True")):
        with pytest.raises(
            ValueError, match=f"early_stopping: expected at least 2 rows of each class, .* got 1 of {label}"
        ):
            model.fit(x, labels)
    model.set_params(max_iter=2).fit(x, [1] * 2 + [2] * 98)
    model.set_params(max_iter=2).fit(x, [1, 2, 3] + [4] * 97)  # more than two classes are not held out by class


@pytest.mark.parametrize("names", [[0, 1, 2], ["ant", "bee", "cat"], [2.0, 4.0, 8.0]])
@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0], [2, 1, 0]])
def test_partial_fit_keeps_its_order_of_classes_however_they_are_named_again(names, order):
    x, y = digits()
    x, y = x[y < 3], np.array(names)[y[y < 3]]
    shuffled = [names[i] for i in order]
    settings = {"random_state": 0, "shuffle": False}
    once, again = MLPClassifier(**settings), MLPClassifier(**settings)
    for i in range(30):
        once.partial_fit(x, y, classes=names if i == 0 else None)
        again.partial_fit(x, y, classes=tuple(shuffled) if i % 2 else shuffled)
        np.testing.assert_array_equal(again.classes_, names)
    np.testing.assert_array_equal(again.predict(x), once.predict(x))
    assert again.score(x, y) > 0.95
    fitted = MLPClassifier(max_iter=40, **settings).fit(x, y).partial_fit(x, y, classes=shuffled)
    np.testing.assert_array_equal(fitted.classes_, names)
    assert fitted.score(x, y) > 0.95
    warm = MLPClassifier(max_iter=40, warm_start=True, **settings).fit(x, y).partial_fit(x, y, classes=shuffled)
    assert warm.score(x, y) > 0.95


def test_partial_fit_of_several_labels_a_row():
    x, y = multilabel()
    for module in (estimators, theirs):
        model = module.MLPClassifier(random_state=0)
        for _ in range(20):
            model.partial_fit(x, y, classes=range(4))
        np.testing.assert_array_equal(model.classes_, range(4))
        assert model.predict(x).shape == y.shape
        assert model.score(x, y) > 0.2


def test_partial_fit_is_one_epoch_of_one_training():
    x, y = digits()
    settings = {"shuffle": False, "random_state": 0, "solver": "sgd", "learning_rate": "invscaling"}
    whole = MLPClassifier(**settings, max_iter=4).fit(x, y)
    parts = MLPClassifier(**settings)
    for i in range(4):
        parts.partial_fit(x, y, classes=range(10) if i == 0 else None)
    assert parts.n_iter_ == 1
    np.testing.assert_allclose(parts.loss_curve_, whole.loss_curve_, rtol=1e-12)
    np.testing.assert_allclose(parts.coefs_[0], whole.coefs_[0], rtol=1e-10)
    weight = np.ones(len(y))
    parts.partial_fit(x[y < 5], y[y < 5], weight[y < 5])
    with pytest.raises(ValueError, match="y: expected the classes"):
        parts.partial_fit(x, y + 1)
    with pytest.raises(ValueError, match="classes: expected"):
        MLPClassifier().partial_fit(x, y)
    with pytest.raises(ValueError, match="classes: expected"):
        parts.partial_fit(x, y, classes=[1, 2])
    with pytest.raises(ValueError, match="early_stopping"):
        MLPClassifier(early_stopping=True).partial_fit(x, y, classes=range(10))
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")


def test_sparse_data_and_sparse_labels():
    x, y = digits()
    settings = {"max_iter": 5, "random_state": 0}
    dense = MLPClassifier(**settings, early_stopping=True, batch_norm=True).fit(x, y)
    for kind in (sparse.csr_matrix, sparse.csc_array, sparse.coo_matrix):
        model = clone(dense).fit(kind(x), y)
        np.testing.assert_allclose(model.predict_proba(kind(x)), dense.predict_proba(x), rtol=1e-6)
        assert model.validation_scores_ == dense.validation_scores_
    x, y = multilabel()
    model = MLPClassifier(**settings).fit(x, sparse.csr_matrix(y))
    predicted = model.predict(x)
    assert sparse.issparse(predicted)
    np.testing.assert_array_equal(predicted.toarray(), MLPClassifier(**settings).fit(x, y).predict(x))
    x, y = diabetes()
    for solver in ("adam", "lbfgs"):
        a, b = (MLPRegressor(**settings, solver=solver).fit(f(x), y).predict(x) for f in (np.array, sparse.csr_array))
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_of_x_is_the_dtype_of_everything(dtype, solver):
    seen = set()

    @activations.elementwise
    def watched(z):
        seen.add(z.dtype)
        return activations.tanh.rule(z)[0], lambda: 1 - np.tanh(z) ** 2

    x, y = digits(100)
    model = MLPClassifier(activation=watched, max_iter=3, solver=solver, batch_norm=True).fit(x.astype(dtype), y)
    assert seen == {np.dtype(dtype)}
    assert {leaf.dtype for leaf in tree.leaves(model.params_)} == {np.dtype(dtype)}
    assert model.predict_proba(x).dtype == dtype
    x, y = diabetes()
    assert MLPRegressor(max_iter=3, solver=solver).fit(x.astype(dtype), y).predict(x).dtype == dtype


def test_tags_say_what_is_taken():
    assert get_tags(MLPClassifier()) == get_tags(theirs.MLPClassifier())
    reference = get_tags(theirs.MLPRegressor())
    reference.target_tags.multi_output = True  # which it can, and does not say
    assert get_tags(MLPRegressor()) == reference


def test_labels_come_back_as_they_were():
    x, y = cancer()
    names = np.array(["no", "yes"], object)[y]
    model = MLPClassifier(max_iter=30, random_state=0).fit(x, names)
    assert list(model.classes_) == ["no", "yes"]
    assert accuracy_score(names, model.predict(x)) > 0.9
    assert MLPClassifier(max_iter=2).fit(x, np.full(len(x), "only")).predict(x[:2]).tolist() == ["only", "only"]
    np.testing.assert_array_equal(MLPClassifier(max_iter=2).fit(x, np.full(len(x), 3)).predict_proba(x), 1)
    with pytest.raises(ValueError, match="multiclass-multioutput"):
        MLPClassifier().fit(x, np.column_stack([y, y + 1]))


# ----------------------------------------------------------------------------- scikit-learn's tools

ADDED = {
    "activation": ["elu", activations.gelu],
    "hidden_layer_sizes": (16, 8),
    "solver": partial(optim.adamw, weight_decay=0.01),
    "batch_norm": True,
    "dropout": 0.1,
    "learning_rate_init": 0.03,
    "max_iter": 30,
    "random_state": 0,
}


def test_in_a_pipeline_a_search_and_a_cross_validation():
    x, y = digits()
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(**ADDED))
    grid = {"mlpclassifier__activation": ["relu", [activations.elu, "tanh"]], "mlpclassifier__dropout": [0, [0.1, 0.2]]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, error_score="raise").fit(x, y)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_score_ > 0.8
    scores = cross_val_score(pipeline, x, y, cv=3, error_score="raise")
    assert scores.shape == (3,)
    assert scores.min() > 0.8


def test_a_made_optimizer_and_schedule_go_through_a_parallel_search():
    x, y = digits(120)
    model = MLPClassifier(max_iter=3)
    grid = {"solver": [optim.lion(1e-3), "nadam"], "learning_rate": [schedules.cosine_lr(0.01, 20)]}
    search = GridSearchCV(model, grid, cv=2, n_jobs=2, error_score="raise").fit(x, y)
    assert search.best_estimator_.predict(x).shape == (120,)


@pytest.mark.parametrize("store", ["pickle", "joblib", "cloned"])
def test_pickle_joblib_and_clone(store, tmp_path):
    x, y = digits(150)
    model = MLPClassifier(**ADDED).fit(x, y)
    if store == "pickle":
        again = pickle.loads(pickle.dumps(model))
    elif store == "joblib":
        joblib.dump(model, tmp_path / "model.joblib")
        again = joblib.load(tmp_path / "model.joblib")
    else:
        again = clone(model)
        with pytest.raises(NotFittedError):
            again.predict(x)
        again.fit(x, y)
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    assert again.get_params()["activation"][1] is activations.gelu
    again.set_params(learning_rate_init=0.1).partial_fit(x, y)
    unfitted = pickle.loads(pickle.dumps(MLPRegressor(loss=losses.huber)))
    assert unfitted.loss is losses.huber


def copied(model, how, tmp_path):
    if how == "pickle":
        return pickle.loads(pickle.dumps(model))
    if how == "joblib":
        joblib.dump(model, tmp_path / "model.joblib")
        return joblib.load(tmp_path / "model.joblib")
    return copy.deepcopy(model)


@pytest.mark.parametrize("how", ["pickle", "joblib", "deepcopy"])
@pytest.mark.parametrize(
    "settings",
    [{"activation": "tanh"}, {"hidden_layer_sizes": (7,)}, {"loss": "poisson"}, {"batch_norm": True}, {"dropout": 0.5}],
    ids=str,
)
def test_settings_changed_after_a_fit_change_no_prediction(settings, how, tmp_path):
    x, y = counts()
    model = MLPRegressor(max_iter=5, random_state=0).fit(x, y)
    expected = model.predict(x)
    model.set_params(**settings)
    np.testing.assert_array_equal(model.predict(x), expected)
    again = copied(model, how, tmp_path)
    np.testing.assert_array_equal(again.predict(x), expected)
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.fit(x, y).predict(x), model.fit(x, y).predict(x))


def test_a_list_of_settings_changed_after_a_fit_changes_no_prediction():
    x, y = counts()
    activation = ["relu"]
    model = MLPRegressor(activation=activation, max_iter=5, random_state=0).fit(x, y)
    activation[0] = "tanh"
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x), model.predict(x))


def test_set_output_and_feature_names():
    pandas = pytest.importorskip("pandas")
    x, y = diabetes()
    frame = pandas.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])
    pipeline = make_pipeline(StandardScaler(), MLPRegressor(max_iter=3)).set_output(transform="pandas").fit(frame, y)
    assert list(pipeline[-1].feature_names_in_) == list(frame.columns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.predict(frame)
    with pytest.raises(ValueError, match="feature names"):
        pipeline[-1].predict(frame.iloc[:, ::-1])


def test_set_output_leaves_an_estimator_without_transform_as_it_is():
    x, y = diabetes()
    pipeline = make_pipeline(StandardScaler(), MLPRegressor(max_iter=3)).set_output(transform="default")
    assert pipeline.fit(x, y).predict(x).shape == y.shape


def test_representations():
    model = MLPClassifier((5,), activation=activations.elu, dropout=0.2)
    assert repr(model) == "MLPClassifier(activation=<differentiable fmlp.activations.elu>, dropout=0.2,\n" + (
        " " * 14 + "hidden_layer_sizes=(5,))"
    )
    html = make_pipeline(StandardScaler(), model)._repr_html_()
    assert "MLPClassifier" in html
    assert "dropout" in html
    assert "fitted" in model.set_params(max_iter=1).fit(*digits(20))._repr_html_()


# -------------------------------------------------------------------------------- what they add


def test_the_network_is_the_one_asked_for():
    x, y = digits()
    model = MLPClassifier((20, 16), activation=["elu", layers.Prelu()], dropout=[0.0, 0.5], batch_norm=True, max_iter=2)
    model.fit(x, y)
    children = list(model.net_.apply.children)
    assert children == [
        "dense_0", "batch_norm_1", "elu_2", "dense_3", "batch_norm_4", "prelu_5", "dropout_6", "dense_7",
    ]  # fmt: skip
    assert [w.shape for w in model.coefs_] == [(64, 20), (20, 16), (16, 10)]
    assert [b.shape for b in model.intercepts_] == [(20,), (16,), (10,)]
    assert MLPClassifier((), max_iter=2).fit(x, y).coefs_[0].shape == (64, 10)


def test_weights_can_be_assigned():
    x, y = digits()
    for module in (estimators, theirs):
        model = module.MLPClassifier((20, 16), max_iter=2, random_state=0).fit(x, y)
        other = module.MLPClassifier((20, 16), max_iter=2, random_state=1).fit(x, y)
        model.coefs_, model.intercepts_ = other.coefs_, [*other.intercepts_]
        np.testing.assert_array_equal(model.predict_proba(x), other.predict_proba(x))
    model = MLPClassifier((20,), max_iter=2, random_state=0).fit(x.astype(np.float32), y)
    params, ones = model.params_, np.ones((64, 20))
    model.coefs_ = [ones, *model.coefs_[1:]]
    ones[...] = 0
    assert model.coefs_[0].dtype == np.float32
    np.testing.assert_array_equal(model.params_["dense_0"]["w"], 1)
    assert (params["dense_0"]["w"] != 1).any()
    with pytest.raises(TypeError, match="assignment"):
        model.coefs_[0] = ones
    for wrong in ([ones], [ones, ones], []):
        with pytest.raises(ValueError, match=r"^coefs_: expected arrays of the shapes \[\(64, 20\), \(20, 10\)\], got"):
            model.coefs_ = wrong
    with pytest.raises(
        ValueError, match=r"^intercepts_: expected .* \[\(20,\), \(10,\)\], got \[\(64, 20\), \(20, 10\)\]"
    ):
        model.intercepts_ = model.coefs_
    with pytest.raises(TypeError, match=r"^coefs_: expected numbers, got 'a'"):
        model.coefs_ = "ab"
    with pytest.raises(NotFittedError):
        MLPClassifier().coefs_ = []


def test_weights_are_in_the_order_of_the_layers_whatever_the_order_of_the_keys():
    x, y = digits()
    model = MLPClassifier((9, 8, 7, 6, 5), max_iter=2, random_state=0).fit(x, y)
    shapes = [(64, 9), (9, 8), (8, 7), (7, 6), (6, 5), (5, 10)]
    assert [w.shape for w in model.coefs_] == shapes
    model.params_ = {name: model.params_[name] for name in sorted(model.params_)}
    assert list(model.params_)[1] == "dense_10"
    assert [w.shape for w in model.coefs_] == shapes
    assert [b.shape for b in model.intercepts_] == [shape[1:] for shape in shapes]


def test_dropout_and_batch_norm_act_in_training_only():
    x, y = digits()
    settings = {"max_iter": 40, "random_state": 0, "learning_rate_init": 0.01, "tol": 0}
    plain, dropped = (MLPClassifier(**settings, dropout=rate).fit(x, y) for rate in (0.0, 0.7))
    assert dropped.loss_ > 2 * plain.loss_
    np.testing.assert_array_equal(dropped.predict_proba(x), dropped.predict_proba(x))
    normed = MLPClassifier(**settings, batch_norm=True).fit(x, y)
    np.testing.assert_allclose(normed.predict_proba(x[:1]), normed.predict_proba(x)[:1], rtol=1e-6)
    assert float(normed.params_["batch_norm_1"]["count"]) == len(x)
    assert normed.score(x, y) > 0.99
    lbfgs = MLPClassifier(solver="lbfgs", batch_norm=True, max_iter=20, random_state=0).fit(x, y)
    assert lbfgs.score(x, y) > 0.95


def test_the_functional_core_is_there_to_be_saved_and_trained_further(tmp_path):
    x, y = digits()
    model = MLPClassifier(max_iter=5, random_state=0).fit(x, y)
    fmlp.save(tmp_path / "digits.npz", model.params_)
    params = fmlp.load(tmp_path / "digits.npz", like=model.params_)
    np.testing.assert_array_equal(fmlp.predict(model.net_, params, x).argmax(1), model.predict(x))
    result = fmlp.fit(
        model.net_, params, (x, y), loss=losses.cross_entropy, optimizer=optim.adam(), epochs=2, key=fmlp.random.key(0),
        progress=False,
    )  # fmt: skip
    model.params_ = result.params
    np.testing.assert_array_equal(model.coefs_[0], result.params["dense_0"]["w"])


@pytest.mark.parametrize(
    "solver",
    [
        "adamw",
        "nadam",
        "lion",
        "rmsprop",
        "adagrad",
        "adadelta",
        optim.adamw,
        partial(optim.sgd, momentum=0.5),
        optim.adam(),
    ],
)
def test_any_optimizer(solver):
    x, y = digits()
    curve = MLPClassifier(solver=solver, max_iter=5, random_state=0).fit(x, y).loss_curve_
    assert curve[-1] < curve[0]


@pytest.mark.parametrize("solver", ["sgd", "adam", optim.lion])
def test_any_schedule_counts_steps(solver):
    asked = []

    def schedule(count):
        asked.append(count)
        return 0.01 / (1 + count)

    x, y = digits()
    MLPClassifier(solver=solver, learning_rate=schedule, max_iter=3, batch_size=100).fit(x, y)
    assert sorted(set(asked)) == list(range(9))
    model = MLPClassifier(solver=solver, learning_rate=schedules.constant(0.0), max_iter=2, random_state=0).fit(x, y)
    frozen = model.coefs_[0].copy()
    np.testing.assert_array_equal(model.set_params(max_iter=5).fit(x, y).coefs_[0], frozen)


def test_a_schedule_of_epochs_counts_them_also_over_calls_of_partial_fit():
    x, y = digits()
    asked = []
    by_epoch = schedules.per_epoch(lambda count: asked.append(count) or 0.01)
    MLPClassifier(learning_rate=by_epoch, max_iter=3, batch_size=100, early_stopping=True).fit(x, y)
    assert sorted(set(asked)) == [0, 1, 2]
    asked.clear()
    model = MLPClassifier(learning_rate=by_epoch, batch_size=100)
    for _ in range(4):
        model.partial_fit(x, y, classes=np.unique(y))
    assert sorted(set(asked)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"^steps_per_epoch: expected 3, as in the 12 steps made so far, got 1"):
        model.partial_fit(x[:100], y[:100])


def test_custom_losses():
    x, y = diabetes()
    y = np.where(np.arange(len(y)) % 10 == 0, 50.0, y)
    inliers = np.arange(len(y)) % 10 != 0
    settings = {"solver": "lbfgs", "max_iter": 100, "hidden_layer_sizes": (), "random_state": 0}
    errors = {}
    for loss in ("squared_error", "huber", losses.mae, partial(losses.huber, delta=0.5)):
        model = MLPRegressor(loss=loss, **settings).fit(x, y)
        errors[str(loss)] = np.abs(model.predict(x) - y)[inliers].mean()
    squared, *robust = errors.values()
    assert max(robust) < squared / 3
    x, y = digits()
    for loss in ("cross_entropy", partial(losses.cross_entropy, label_smoothing=0.3)):
        model = MLPClassifier(loss=loss, max_iter=100, random_state=0).fit(x, y)
        assert model.score(x, y) > 0.97
    assert model.predict_proba(x).max(1).mean() < 0.85
    x, y = cancer()
    model = MLPClassifier(loss=partial(losses.cross_entropy, label_smoothing=0.1), max_iter=30).fit(x, y)
    assert (model.n_outputs_, model.out_activation_) == (2, "softmax")
    assert model.predict_proba(x).shape == (len(y), 2)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_loss_without_weight_gets_outputs_and_targets_of_one_shape(solver, outputs):
    shapes = set()

    @fmlp.differentiable
    def squares(prediction, y):
        shapes.add((prediction.shape[1:], y.shape[1:]))
        d = prediction - y
        return (d * d).mean(), lambda dy: (dy * 2 * d / d.size, None)

    x, y = two_targets() if outputs == 2 else diabetes()
    settings = {"max_iter": 5, "random_state": 0, "solver": solver}
    own, named = (MLPRegressor(loss=loss, **settings).fit(x, y) for loss in (squares, "mse"))
    assert shapes == {((outputs,), (outputs,))}
    assert own.predict(x).shape == y.shape
    np.testing.assert_allclose(own.predict(x), named.predict(x), rtol=1e-6, atol=1e-6)


def test_poisson_predicts_rates():
    x, y = counts()
    model = MLPRegressor(loss="poisson", max_iter=20, random_state=0).fit(x, y)
    assert model.out_activation_ == "exp"
    assert model.predict(x).min() > 0
    with pytest.raises(ValueError, match="y: expected numbers of at least 0"):
        model.fit(x, -y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_class_weight_multiplies_the_rows_weights(solver):
    x, y = digits(90)
    rows = np.random.default_rng(0).uniform(1, 2, len(y))
    settings = {"solver": solver, "max_iter": 10, "random_state": 0, "batch_size": 90}
    a = MLPClassifier(**settings, class_weight={3: 5.0}).fit(x, y, rows)
    b = MLPClassifier(**settings).fit(x, y, rows * np.where(y == 3, 5.0, 1.0))
    np.testing.assert_allclose(a.coefs_[0], b.coefs_[0], rtol=1e-8)
    balanced = len(y) / (10 * np.bincount(y))
    a = MLPClassifier(**settings, class_weight="balanced").fit(x, y)
    b = MLPClassifier(**settings).fit(x, y, balanced[y])
    np.testing.assert_allclose(a.coefs_[0], b.coefs_[0], rtol=1e-8)
    if solver == "adam":
        with pytest.raises(ValueError, match="class_weight: partial_fit"):
            a.partial_fit(x, y)


def test_class_weight_takes_what_compute_class_weight_returns():
    pandas = pytest.importorskip("pandas")
    x, y = digits(90)
    names = np.array(list("abcdefghij"))[y]
    for labels in (y, names, y - 4):
        classes = np.unique(labels)
        weights = compute_class_weight("balanced", classes=classes, y=labels)
        given = [
            weights,
            weights.tolist(),
            dict(zip(classes, weights, strict=True)),
            "balanced",
            pandas.Series(weights, classes),
        ]
        curves = [MLPClassifier(class_weight=w, max_iter=3, random_state=0).fit(x, labels).loss_curve_ for w in given]
        for curve in curves:
            np.testing.assert_allclose(curve, curves[0], rtol=1e-12)
    model = MLPClassifier(class_weight=np.arange(1.0, 11), random_state=0).partial_fit(x, y, classes=range(10))
    model.partial_fit(x[y < 3], y[y < 3])
    with pytest.raises(
        ValueError, match=r"class_weight: expected 10 numbers, one for each of the classes .* got shape"
    ):
        clone(model).set_params(class_weight=np.ones(3)).fit(x, y)
    with pytest.raises(TypeError, match="class_weight: expected numbers, got dtype <U1"):
        clone(model).set_params(class_weight=["a"]).fit(x, y)


@pytest.mark.parametrize(("name", "function"), [("swish", activations.silu), ("logistic", activations.sigmoid)])
def test_names_that_others_have_for_activations(name, function):
    x, y = digits(50)
    a, b = (MLPClassifier(activation=f, max_iter=2, random_state=0).fit(x, y) for f in (name, function))
    np.testing.assert_array_equal(a.predict_proba(x), b.predict_proba(x))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_verbose_shows_a_bar(solver, capsys):
    x, y = digits(50)
    MLPClassifier(max_iter=2, solver=solver).fit(x, y)
    assert capsys.readouterr().err == ""
    MLPClassifier(max_iter=2, solver=solver, verbose=True).fit(x, y)
    assert re.search(r"2/2.*loss=", capsys.readouterr().err.split("\r")[-1])


def test_the_same_random_state_gives_the_same_bits():
    x, y = digits()
    a, b = (MLPClassifier(**ADDED).fit(x, y).predict_proba(x) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    generator = np.random.RandomState(0)
    a, b = (MLPClassifier(max_iter=1, random_state=generator).fit(x, y).coefs_[0] for _ in range(2))
    assert (a != b).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_layer_sizes": (5, 0)}, r"hidden_layer_sizes: expected positive integers, got \(5, 0\)"),
        ({"activation": ["relu", "elu"]}, "activation: expected 1, one for each hidden layer, got 2"),
        ({"activation": "rleu"}, "activation: expected one of celu, .*got 'rleu'"),
        ({"activation": np.tanh, "max_iter": 1}, "Activation: .*tanh.* has no vjp"),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0"),
        ({"dropout": 0.5, "solver": "lbfgs"}, "dropout: 'lbfgs' needs a loss without randomness"),
        ({"solver": "adamax"}, "solver: expected one of adadelta, .*got 'adamax'"),
        ({"solver": 3}, "solver: expected one of .*got 3"),
        ({"learning_rate": 0.1}, "learning_rate: expected one of adaptive, constant, invscaling, .*got 0.1"),
        ({"loss": "squared_error"}, "loss: expected one of .*log_loss.*got 'squared_error'"),
        ({"alpha": -1}, r"alpha: expected a number in \[0, inf\), got -1"),
        ({"tol": "small"}, r"tol: expected a number in \[0, inf\), got 'small'"),
        ({"max_iter": 0}, "max_iter: expected an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected an integer of at least 1, got 2.5"),
        ({"validation_fraction": 0.01, "early_stopping": True}, "validation_fraction|test_size"),
        (
            {"validation_fraction": 0, "early_stopping": True},
            r"validation_fraction: expected a number in \(0, 1\), got 0",
        ),
        ({"early_stopping": "yes"}, "early_stopping: expected True or False, got 'yes'"),
        ({"warm_start": None}, "warm_start: expected True or False, got None"),
        ({"shuffle": 1}, "shuffle: expected True or False, got 1"),
        ({"learning_rate_init": 0}, r"learning_rate_init: expected a number in \(0, inf\), got 0"),
        ({"epsilon": 0}, r"epsilon: expected a number in \(0, inf\), got 0"),
    ],
)
def test_wrong_settings(settings, message):
    x, y = digits(40)
    with pytest.raises((TypeError, ValueError), match=message):
        MLPClassifier(**settings).fit(x, y)


@pytest.mark.parametrize("settings", [{"momentum": 1.0}, {"validation_fraction": 0}, {"shuffle": np.False_}], ids=str)
def test_settings_at_the_edge_that_scikit_learn_takes(settings):
    x, y = digits(40)
    for module in (estimators, theirs):
        module.MLPClassifier(max_iter=1, **settings).fit(x, y)


def test_masked_arrays_are_refused():
    x, y = digits(40)
    hidden = [np.ma.masked_array(a, np.arange(a.size).reshape(a.shape) % 4 == 0) for a in (x, y, np.ones(40))]
    model = MLPClassifier(max_iter=1).fit(x, y)
    for name, call in (
        ("X", lambda: model.fit(hidden[0], y)),
        ("y", lambda: model.fit(x, hidden[1])),
        ("sample_weight", lambda: model.fit(x, y, hidden[2])),
        ("X", lambda: model.partial_fit(hidden[0], y)),
        ("X", lambda: model.predict(hidden[0])),
        ("X", lambda: model.predict_proba(hidden[0])),
        ("y", lambda: model.score(x, hidden[1])),
        ("y", lambda: MLPRegressor(max_iter=1).fit(x, y).score(x, hidden[1])),
        ("sample_weight", lambda: model.score(x, y, hidden[2])),
    ):
        with pytest.raises(TypeError, match=f"^{name}: expected an array without a mask, got a masked array"):
            call()


def test_training_that_diverges_is_an_error():
    x, y = diabetes()
    for solver in ("sgd", "lbfgs"):
        with np.errstate(all="ignore"), pytest.raises(fmlp.NonFiniteError):
            MLPRegressor(solver=solver, learning_rate_init=1e6, max_iter=50).fit(1e200 * x, 1e200 * y)


def test_a_fit_that_fails_leaves_the_model_as_it_was():
    x, y = cancer()
    model = MLPClassifier(max_iter=5)
    for fails in (
        lambda: model.partial_fit(x, y, classes=[0]),
        lambda: model.fit(x, y[1:]),
        lambda: model.set_params(solver="sgd", learning_rate_init=1e300).fit(x, y),
    ):
        with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"."):
            fails()
        assert vars(model).keys() == model.get_params().keys()
        with pytest.raises(NotFittedError):
            model.predict(x)
    settings = {"solver": "adam", "learning_rate_init": 1e-3, "warm_start": True}
    model = MLPClassifier(max_iter=5, early_stopping=True, **settings).fit(x, y)
    before, expected = dict(vars(model)), model.predict_proba(x)
    curve, scores = [*model.loss_curve_], [*model.validation_scores_]
    diverges = {"solver": "sgd", "learning_rate_init": 1e300}
    for fails in (
        lambda: model.set_params(**diverges).fit(x, y),
        lambda: model.set_params(**diverges, warm_start=False).fit(*digits()),
        lambda: model.fit(x, y + 1),
    ):
        with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"."):
            fails()
        model.set_params(**settings)
        assert vars(model).keys() == before.keys()
        assert all(value is before[name] for name, value in vars(model).items() if name not in settings)
        assert (model.loss_curve_, model.validation_scores_) == (curve, scores)
        np.testing.assert_array_equal(model.predict_proba(x), expected)


def test_a_batch_larger_than_the_data_is_clipped():
    x, y = digits(30)
    with pytest.warns(UserWarning, match="batch_size: 500 is more than there are rows; taking 30"):
        MLPClassifier(batch_size=500, max_iter=1).fit(x, y)
