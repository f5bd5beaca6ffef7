"""Derivatives: that they are right, pure, linear, lazy and in the right dtype, and that none goes untested."""

import ast
import copy
import functools
import importlib.util
import pathlib
import pickle
import sys

import numpy as np
import pytest
from derivatives import CASES, computed, name_of
from hypothesis import given, settings
from hypothesis import strategies as st

import fmlp
from fmlp import activations, autodiff, layers, losses, random, tree
from fmlp.autodiff import Differentiable, check_vjp, differentiable, grad, objective, rule_of, value_and_grad, vjp

# The five-point formula loses about 1e-16 / h = 1e-13 of the value to rounding and h⁴ = 1e-12 of the fifth
# derivative to truncation; a hundred numbers whose fifth derivative is up to a hundred add up to this.
TIGHT = {"rtol": 1e-8, "atol": 1e-10}

needs_sklearn = pytest.mark.skipif(not importlib.util.find_spec("sklearn"), reason="it needs scikit-learn")
calls = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_sklearn) if name.startswith("estimators.") else name for name in CASES]
)


def direction_like(y, seed=0):
    generator = random.generator(random.key(seed))
    return tree.map(lambda leaf: np.asarray(generator.uniform(-1, 1, np.shape(leaf)), leaf.dtype), y)


def inner(a, b):
    return sum(float(np.vdot(x, y)) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


def freeze(*trees):
    """Let arrays raise when they are written to."""
    for leaf in tree.leaves(trees):
        if isinstance(leaf, np.ndarray):
            leaf.setflags(write=False)


def bits(*trees):
    return [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in map(np.asarray, tree.leaves(trees))]


# ------------------------------------------------------------------------------- every derivative


@calls
@given(data=st.data())
def test_vjp_equals_central_differences(name, data):
    f, args, kwargs, n = data.draw(CASES[name])
    assert name_of(f) == name
    check_vjp(f, *args, **kwargs, **TIGHT)
    y, pullback = vjp(f, *args, **kwargs)
    cotangents = pullback(direction_like(y))
    assert all(c is not None for c in cotangents[:n])
    assert all(c is None for c in cotangents[n:])


@calls
@given(data=st.data())
def test_pullback_is_linear(name, data):
    f, args, kwargs, _ = data.draw(CASES[name])
    y, pullback = vjp(f, *args, **kwargs)
    u, v = direction_like(y, 1), direction_like(y, 2)
    of_sum = pullback(tree.map(lambda a, b: 2 * a - 3 * b, u, v))
    for d, du, dv in zip(*map(tree.leaves, (of_sum, pullback(u), pullback(v))), strict=True):
        scale = 1 + np.abs(du).max(initial=0) + np.abs(dv).max(initial=0)
        np.testing.assert_allclose(d, 2 * du - 3 * dv, rtol=0, atol=1e-13 * scale)


@calls
@given(data=st.data())
def test_calls_write_to_nothing_and_depend_on_nothing_else(name, data):
    f, args, kwargs, _ = data.draw(CASES[name])
    before = bits(args, kwargs)
    freeze(args, kwargs)
    y, pullback = vjp(f, *args, **kwargs)
    result, v = bits(y), direction_like(y)
    freeze(v)
    direction = bits(v)
    first, second, afresh = pullback(v), pullback(v), vjp(f, *args, **kwargs)[1](v)
    assert bits(first) == bits(second) == bits(afresh)
    assert bits(y) == bits(f(*args, **kwargs)) == result
    assert (bits(args, kwargs), bits(v)) == (before, direction)


@calls
@settings(max_examples=3)
@given(data=st.data())
def test_calls_survive_cloudpickle(name, data):
    """As joblib's processes need it: no rule has an object in its closure that cannot be pickled."""
    cloudpickle = pytest.importorskip("cloudpickle")
    f, args, kwargs, _ = data.draw(CASES[name])
    for function in (f, rule_of(f), vjp(f, *args, **kwargs)[1]):
        copied = pickle.loads(cloudpickle.dumps(function))
    y, pullback = vjp(pickle.loads(cloudpickle.dumps(functools.partial(f, **kwargs))), *args)
    assert bits(y) == bits(f(*args, **kwargs))
    assert bits(copied(direction_like(y))) == bits(pullback(direction_like(y)))


@calls
@given(data=st.data())
def test_float32_stays_float32(name, data):
    f, args, kwargs, n = data.draw(CASES[name])
    args = (*tree.cast(args[:n], np.float32), *args[n:])
    y, pullback = vjp(f, *args, **kwargs)
    assert {leaf.dtype for leaf in tree.leaves((y, pullback(direction_like(y))))} <= {np.dtype(np.float32)}


AFFINE = {
    "activations.identity": [0],
    "layers.BatchNorm.batch_norm": [1],
    "layers.Dense.dense": [0, 1],
    "layers.Dropout.dropout": [1],
    "layers.Embedding.embedding": [0],
    "layers.Flatten.flatten": [1],
    "layers.Prelu.prelu": [0],
    "layers.fan_in_concat.fan_in_concat": [1],
    "layers.fan_in_sum.fan_in_sum": [1],
    "layers.fan_out.fan_out": [1],
}
"""In which arguments a function is affine; BatchNorm is at inference."""


@pytest.mark.parametrize("name", AFFINE)
@given(data=st.data())
def test_vjp_of_an_affine_function_is_its_adjoint(name, data):
    f, args, kwargs, _ = data.draw(CASES[name])
    if name == "layers.BatchNorm.batch_norm":
        kwargs = {}
    for i in AFFINE[name]:

        def at(u, i=i):
            return f(*args[:i], u, *args[i + 1 :], **kwargs)

        u = direction_like(args[i], 1)
        ju = tree.map(np.subtract, at(u), at(tree.map(np.zeros_like, u)))
        v = direction_like(ju, 2)
        transposed = vjp(f, *args, **kwargs)[1](v)[i]
        scale = 1 + inner(tree.map(np.abs, ju), tree.map(np.abs, v))
        assert inner(ju, v) == pytest.approx(inner(u, transposed), rel=0, abs=1e-12 * scale)


# ------------------------------------------------------------------------------------ completeness

MAKERS = {"differentiable", "elementwise", "loss", "Differentiable", "Loss", "_combinator", "_layer"}
"""What makes a function differentiable, as a decorator or as a call."""


class Declared(ast.NodeVisitor):
    """Collects the names of the functions that a module makes differentiable."""

    def __init__(self, module, source):
        self.scope, self.defined, self.passed, self.names = [module], set(), [], set()
        self.visit(ast.parse(source))
        for paths in self.passed:
            self.names.update([path for path in paths if path in self.defined][:1])

    def paths(self, name):
        """Where a name might be defined, innermost first."""
        return [".".join([*self.scope[:i], name]) for i in range(len(self.scope), 0, -1)]

    def visit_FunctionDef(self, node):
        decorators = {maker(decorator) for decorator in node.decorator_list}
        if "wraps" not in decorators:  # such a function bears the name of the one it wraps
            self.defined.add(self.paths(node.name)[0])
        if decorators & MAKERS:
            self.names.add(self.paths(node.name)[0])
        self.inside(node)

    def visit_Call(self, node):
        if maker(node) in MAKERS:
            args = node.args[:1] if maker(node) == "_layer" else node.args  # the others are no rules
            self.passed += [self.paths(arg.id) for arg in args if isinstance(arg, ast.Name)]
            self.names |= {self.paths("<lambda>")[0] for arg in args if isinstance(arg, ast.Lambda)}
        self.generic_visit(node)

    def inside(self, node):
        self.scope.append(node.name)
        for child in node.body:
            self.visit(child)
        self.scope.pop()

    visit_ClassDef = inside  # noqa: N815


def maker(node):
    """Name what a decorator or a call calls: ``loss`` for both ``@loss()`` and ``losses.loss(rule)``."""
    if isinstance(node, ast.Call):
        return maker(node.func)
    return getattr(node, "id", getattr(node, "attr", None))


def test_every_differentiable_function_in_the_source_is_tested():
    package = pathlib.Path(fmlp.__file__).parent
    declared = set()
    for file in package.rglob("*.py"):
        module = ".".join(file.relative_to(package).with_suffix("").parts)
        declared |= Declared(module, file.read_text("utf-8")).names
    assert declared == CASES.keys()


def test_every_differentiable_object_is_tested():
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "fmlp"]
    objects = [value for module in modules for value in vars(module).values() if isinstance(value, Differentiable)]
    assert {name_of(f) for f in objects} <= CASES.keys()


def test_every_layer_is_tested():
    of_activations = {"".join(map(str.capitalize, name.split("_"))) for name in [*activations.table, "swish"]}
    tested = {name.split(".")[1] for name in CASES if name.startswith("layers.")}
    assert set(layers.__all__) - {"Layer"} == of_activations | tested


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("@elementwise\ndef cube(x): ...", "m.cube"),
        ("@autodiff.differentiable\ndef f(x): ...", "m.f"),
        ("@loss()\ndef hinge(p, y): ...", "m.hinge"),
        ("@loss(predict=argmax)\ndef hinge(p, y): ...", "m.hinge"),
        ("def Scale():\n  @differentiable\n  def scale(p, x): ...\n  return Layer(init, scale)", "m.Scale.scale"),
        ("def twice():\n  def rule(p, x): ...\n  return Layer(init, _combinator(rule, ()))", "m.twice.rule"),
        ("def rule(x): ...\ndef make():\n  return Differentiable(rule)", "m.rule"),
        ("class A:\n  @differentiable\n  def f(x): ...", "m.A.f"),
        ("f = Differentiable(lambda x: ...)", "m.<lambda>"),
    ],
)
def test_the_search_finds_a_function_in_every_guise(source, name):
    assert Declared("m", source).names == {name}


# ---------------------------------------------------------------------------------------- check_vjp


def linear(dw=lambda x, dy: x.T @ dy, db=lambda x, dy: dy.sum(0), dx=lambda w, dy: dy @ w.T):
    """Make ``x w + b`` with whatever derivatives."""

    @differentiable
    def f(params, x):
        def pullback(dy):
            yield {"w": dw(x, dy), "b": db(x, dy)}
            yield dx(params["w"], dy)

        return x @ params["w"] + params["b"], pullback

    return f


def as_rule(value, *cotangents):
    return differentiable(lambda x: (value(x), lambda dy: tuple(c(x, dy) for c in cotangents)))


POINT = {"w": np.array([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]]), "b": np.array([0.5, -1.0])}
X = np.array([[1.0, 2.0, -1.0], [0.5, -2.0, 3.0]])


def test_check_vjp_accepts_what_is_right():
    check_vjp(linear(), POINT, X, **TIGHT)
    first_of_a_pair = differentiable(lambda pair: (pair[0] * pair[1], lambda dy: ((dy * pair[1], None),)))
    check_vjp(first_of_a_pair, (X, POINT["w"].T), **TIGHT)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dw": lambda x, dy: -(x.T @ dy)}, "argument 0, w: the vjp gives .*, central differences"),
        ({"dw": lambda x, dy: 1.00001 * (x.T @ dy)}, "argument 0, w: the vjp gives"),
        ({"db": lambda x, dy: dy.mean(0)}, "argument 0, b: the vjp gives"),
        ({"db": lambda x, dy: dy.sum(0) * np.nan}, "argument 0, b: the vjp gives nan"),
        ({"db": lambda x, dy: np.zeros(2)}, "argument 0, b: the vjp gives 0.0"),
        (
            {"db": lambda x, dy: dy.sum(0, keepdims=True)},
            r"argument 0, b: shape \(2,\), but its cotangent has \(1, 2\)",
        ),
        ({"db": lambda x, dy: dy.sum()}, r"argument 0, b: shape \(2,\), but its cotangent has \(\)"),
        ({"db": lambda x, dy: None}, "argument 0, b: expected a leaf, got None as its cotangent"),
        ({"db": lambda x, dy: {}}, "argument 0, b: expected a leaf, got a dict"),
        ({"dx": lambda w, dy: dy @ w.T + 1e-5}, "argument 1: the vjp gives"),
        ({"dx": lambda w, dy: (dy @ w.T).T}, r"argument 1: shape \(2, 3\), but its cotangent has \(3, 2\)"),
    ],
)
def test_check_vjp_names_the_leaf_that_is_wrong(wrong, message):
    with pytest.raises(AssertionError, match=message):
        check_vjp(linear(**wrong), POINT, X)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (as_rule(np.sin), "expected 1 cotangents, one per positional argument, got 0"),
        (as_rule(np.sin, lambda x, dy: dy * np.cos(x), lambda x, dy: dy), "expected 1 cotangents, .* got 2"),
        (as_rule(np.sin, lambda x, dy: {"x": dy}), "argument 0, tree: expected a leaf, got a dict with keys"),
        (as_rule(np.abs, lambda x, dy: dy * np.sin(x)), "argument 0: the vjp gives"),
    ],
)
def test_check_vjp_catches_a_wrong_pullback(f, message):
    with pytest.raises(AssertionError, match=message):
        check_vjp(f, np.array([0.5, -1.0]))


def test_check_vjp_names_a_missing_child():
    missing = differentiable(lambda params, x: (x * params["a"], lambda dy: ({}, dy * params["a"])))
    with pytest.raises(
        AssertionError, match=r"argument 0, tree: expected a dict with keys \['a'\], got a dict with keys"
    ):
        check_vjp(missing, {"a": np.array(2.0)}, X)


def test_check_vjp_is_accurate_where_the_value_is_large():
    check_vjp(as_rule(np.exp, lambda x, dy: dy * np.exp(x)), np.array([20.0]))
    with pytest.raises(AssertionError):
        check_vjp(as_rule(np.exp, lambda x, dy: dy * np.exp(x) * (1 + 1e-6)), np.array([20.0]))


# ------------------------------------------------------------------------------- vjp, grad and kin


def test_partial_binds_constants():
    net = layers.serial(layers.Dense(2), layers.Tanh())
    _, params = net.init(random.key(0), (3,))
    dy = np.ones((2, 2), np.float32)
    of_x = functools.partial(net.apply, params, train=False)
    (dx,) = vjp(of_x, X)[1](dy)
    np.testing.assert_array_equal(dx, vjp(net.apply, params, X)[1](dy)[1])
    check_vjp(functools.partial(net.apply, tree.cast(params, np.float64)), X, **TIGHT)
    check_vjp(functools.partial(functools.partial(activations.elu), alpha=2.0), X, **TIGHT)


def test_gradient_of_a_sum_of_squares():
    f = as_rule(lambda x: (x * x).sum(), lambda x, dy: 2 * x * dy)
    value, gradient = value_and_grad(f)(X)
    assert value == f(X) == (X**2).sum()
    np.testing.assert_array_equal(gradient, 2 * X)
    np.testing.assert_array_equal(grad(f)(X), 2 * X)


def test_objective_is_the_loss_of_the_network_in_training():
    net = layers.serial(layers.Dense(4), layers.Dropout(0.5), layers.Dense(2))
    key, (_, params) = random.key(1), net.init(random.key(0), (3,))
    y, weight = np.array([1, 0]), np.array([1.0, 3.0])
    value = objective(net.apply, losses.cross_entropy)(params, X, y, key=key, weight=weight)
    assert value == losses.cross_entropy(net.apply(params, X, train=True, key=key), y, weight=weight)


def silent(layer):
    """Refuse to work out the derivative with respect to the input of a layer."""

    def apply(params, x, **kwargs):
        y, pullback = layer.apply.rule(params, x, **kwargs)

        def first_only(dy):
            yield next(iter(pullback(dy)))
            raise RuntimeError("the derivative with respect to the data was asked for")

        return y, first_only

    return layers.Layer(layer.init, differentiable(apply))


@pytest.mark.parametrize(
    "combine",
    [
        layers.serial,
        lambda *children: layers.serial(layers.serial(*children), layers.Dense(2)),
        lambda *children: layers.serial(layers.residual(*children), layers.Dense(2)),
        lambda *children: layers.serial(layers.Flatten(), layers.Dropout(0.0), *children),
    ],
)
def test_nobody_pays_for_the_derivative_with_respect_to_the_data(combine):
    net = combine(silent(layers.Dense(3)), layers.Tanh(), layers.Dense(3))
    _, params = net.init(random.key(0), (3,))
    _, gradient = value_and_grad(objective(net.apply, losses.cross_entropy))(params, X, np.array([0, 1]))
    assert tree.paths(gradient) == tree.paths(params)
    y, pullback = vjp(net.apply, params, X)
    with pytest.raises(RuntimeError, match="was asked for"):
        pullback(y)


def test_parallel_does_not_pay_either():
    net = layers.parallel(silent(layers.Dense(2)), silent(layers.Dense(1)))
    _, params = net.init(random.key(0), ((3,), (3,)))
    y, pullback = net.apply.rule(params, (X, X))
    assert tree.paths(next(iter(pullback(y)))) == tree.paths(params)


def test_a_differentiable_function_looks_like_one():
    assert repr(activations.tanh) == "<differentiable fmlp.activations.tanh>"
    assert activations.tanh.__doc__.startswith("``tanh x``")
    assert autodiff.rule_of(activations.tanh) is activations.tanh.rule


def test_one_of_a_module_is_pickled_and_copied_by_its_name_and_another_by_its_content():
    for f in (activations.gelu, losses.huber, activations.swish):
        assert pickle.loads(pickle.dumps(f)) is copy.deepcopy(f) is f
    local = layers.Dense(2).apply
    assert copy.deepcopy(local) is not local
    with pytest.raises((AttributeError, pickle.PicklingError), match="dense"):
        pickle.dumps(local)


def test_the_value_alone_is_worked_out_by_what_was_given_for_it():
    f = autodiff.Differentiable(lambda x: (x, lambda dy: (dy,)), value=lambda x: -x)
    assert f(1.0) == -1.0
    assert vjp(f, 1.0)[0] == 1.0


def a_function_without_a_vjp(x):
    return x


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda f: vjp(f, X), "vjp: a_function_without_a_vjp has no vjp.*fmlp.differentiable"),
        (lambda f: check_vjp(f, X), "vjp: a_function_without_a_vjp has no vjp"),
        (value_and_grad, "value_and_grad: a_function_without_a_vjp has no vjp"),
        (grad, "value_and_grad: a_function_without_a_vjp has no vjp"),
        (lambda f: grad(functools.partial(f, X)), "value_and_grad: a_function_without_a_vjp has no vjp"),
        (lambda f: objective(f, losses.mse), "apply: a_function_without_a_vjp has no vjp"),
        (lambda f: objective(layers.Dense(1).apply, f), "loss: a_function_without_a_vjp has no vjp"),
        (layers.Activation, "Activation: a_function_without_a_vjp has no vjp"),
    ],
)
def test_a_function_without_a_vjp_is_named(use, message):
    with pytest.raises(TypeError, match=message):
        use(a_function_without_a_vjp)


def test_gradient_of_what_is_no_scalar_is_an_error():
    with pytest.raises(ValueError, match=r"value_and_grad: tanh must return a scalar, got shape \(2, 3\)"):
        grad(activations.tanh)(X)


def test_computed_reaches_nested_statistics():
    net = layers.serial(layers.residual(layers.BatchNorm()))
    _, params = net.init(random.key(0), (3,))
    assert net.apply(computed(params), X).shape == X.shape
