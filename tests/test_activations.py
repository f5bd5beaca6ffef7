"""Activations: known values, PyTorch's values and kinks, and every number a float can be."""

import inspect
import math
from math import e, exp, inf, log, log1p, nan, pi, sqrt
from typing import Literal

import numpy as np
import pytest
from derivatives import KINKS, SETTINGS, kinks, numbers, settings_of, shapes
from hypothesis import given
from hypothesis import strategies as st

from fmlp import activations, layers, random, vjp

along_axis = {"softmax", "log_softmax"}
elementwise = {name: f for name, f in activations.table.items() if name not in along_axis}

every_activation = pytest.mark.parametrize("name", activations.table)
every_elementwise = pytest.mark.parametrize("name", elementwise)


def both(name, x, settings=None):
    """Return the value and the derivative of an element-wise function."""
    y, pullback = vjp(activations.table[name], x, **(settings or {}))
    return y, pullback(np.ones_like(y))[0]


def defaults(name):
    return {"threshold": 0.25, "value": -2.0} if name == "threshold" else {}


def test_the_table_is_complete():
    assert activations.__all__ == ["elementwise", "swish", "table", *activations.table]
    assert activations.swish is activations.silu


@every_activation
def test_every_setting_is_drawn(name):
    settings = list(inspect.signature(activations.table[name]).parameters)[1:]
    assert list(SETTINGS.get(name, {})) == settings


# ----------------------------------------------------------------------------- values known by hand

THIRD = log(3)  # σ(log 3) = 3/4
SELU, A = activations.SELU_SCALE, activations.SELU_ALPHA


@pytest.mark.parametrize(
    ("name", "settings", "x", "y", "dy"),
    [
        ("identity", {}, -2, -2, 1),
        ("tanh", {}, log(2), 0.6, 0.64),
        ("tanhshrink", {}, log(2), log(2) - 0.6, 0.36),
        ("hardtanh", {}, 0.5, 0.5, 1),
        ("hardtanh", {"min_val": -3, "max_val": 0.25}, 0.5, 0.25, 0),
        ("sigmoid", {}, THIRD, 3 / 4, 3 / 16),
        ("log_sigmoid", {}, THIRD, log(3 / 4), 1 / 4),
        ("hardsigmoid", {}, 1, 4 / 6, 1 / 6),
        ("hardsigmoid", {}, -4, 0, 0),
        ("relu", {}, 2, 2, 1),
        ("relu", {}, -2, 0, 0),
        ("relu6", {}, 7, 6, 0),
        ("leaky_relu", {}, -2, -0.02, 0.01),
        ("leaky_relu", {"negative_slope": 0.5}, -2, -1, 0.5),
        ("elu", {}, -log(2), -0.5, 0.5),
        ("elu", {"alpha": 3.0}, -log(2), -1.5, 1.5),
        ("celu", {"alpha": 3.0}, -3 * log(2), -1.5, 0.5),
        ("selu", {}, 2, 2 * SELU, SELU),
        ("selu", {}, -log(2), -SELU * A / 2, SELU * A / 2),
        ("gelu", {}, 1, 0.8413447460685429, 0.8413447460685429 + exp(-0.5) / sqrt(2 * pi)),
        ("gelu", {"approximate": "tanh"}, 1, 0.8411919906082768, 1.0829640838457826),
        ("mish", {}, 0, 0, 0.6),
        ("mish", {}, log(sqrt(3) - 1), 0.5 * log(sqrt(3) - 1), 0.5 + log(sqrt(3) - 1) * 0.75 * (1 - 1 / sqrt(3))),
        ("silu", {}, THIRD, 0.75 * THIRD, 0.75 + 3 / 16 * THIRD),
        ("hardswish", {}, 1, 4 / 6, 5 / 6),
        ("softplus", {}, THIRD, log(4), 3 / 4),
        ("softplus", {"beta": 2.0}, THIRD / 2, log(4) / 2, 3 / 4),
        ("softplus", {"threshold": 1.0}, THIRD, THIRD, 1),
        ("softplus", {"beta": 2**-8}, -2560, log1p(exp(-10)) * 256, 1 / (1 + exp(10))),
        ("softsign", {}, -3, -3 / 4, 1 / 16),
        ("softshrink", {}, -2, -1.5, 1),
        ("softshrink", {"lambd": 3.0}, -2, 0, 0),
        ("hardshrink", {}, -2, -2, 1),
        ("hardshrink", {"lambd": 3.0}, -2, 0, 0),
        ("threshold", {"threshold": 1.0, "value": 7.0}, 0.5, 7, 0),
        ("threshold", {"threshold": 1.0, "value": 7.0}, 2, 2, 1),
    ],
)
def test_known_values(name, settings, x, y, dy):
    value, derivative = both(name, np.array([float(x)]), settings)
    assert value == pytest.approx(y, rel=1e-14, abs=1e-15)
    assert derivative == pytest.approx(dy, rel=1e-14, abs=1e-15)


def test_known_values_are_known_for_every_activation():
    cases = next(m for m in test_known_values.pytestmark if m.name == "parametrize").args[1]
    assert {case[0] for case in cases} == elementwise.keys()


def test_softmax_by_hand():
    x = np.log([[1.0, 2.0, 5.0]])
    np.testing.assert_allclose(activations.softmax(x), [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-15)
    np.testing.assert_allclose(activations.log_softmax(x), np.log([[1 / 8, 2 / 8, 5 / 8]]), rtol=1e-15)
    np.testing.assert_array_equal(activations.softmax(x, axis=0), [[1, 1, 1]])


AT_KINKS = [
    ("hardtanh", {}, {-1: 0, 1: 0}),
    ("hardtanh", {"min_val": -3.0, "max_val": 0.25}, {-3: 0, 0.25: 0}),
    ("hardsigmoid", {}, {-3: 0, 3: 0}),
    ("hardswish", {}, {-3: 0, 3: 1}),
    ("relu", {}, {0: 0}),
    ("relu6", {}, {0: 0, 6: 0}),
    ("leaky_relu", {}, {0: 0.01}),
    ("leaky_relu", {"negative_slope": 0.5}, {0: 0.5}),
    ("elu", {}, {0: 1}),
    ("elu", {"alpha": 2.0}, {0: 2}),
    ("celu", {"alpha": 2.0}, {0: 1}),
    ("selu", {}, {0: SELU * A}),
    ("softplus", {}, {20: 1 / (1 + exp(-20))}),
    ("softplus", {"beta": 2.0, "threshold": 1.0}, {0.5: 1 / (1 + exp(-1))}),
    ("softsign", {}, {0: 1}),
    ("softshrink", {}, {-0.5: 0, 0.5: 0}),
    ("softshrink", {"lambd": 2.0}, {-2: 0, 2: 0}),
    ("hardshrink", {}, {-0.5: 0, 0.5: 0}),
    ("threshold", {"threshold": 0.25, "value": -2.0}, {0.25: 0}),
]
"""Derivatives at the kinks."""


@pytest.mark.parametrize(("name", "settings", "derivatives"), AT_KINKS)
def test_derivative_at_the_kink_is_the_one_in_the_docstring(name, settings, derivatives):
    assert list(derivatives) == list(kinks(name, settings))
    for kink, expected in derivatives.items():
        _, derivative = both(name, np.array([kink, -0.0 if kink == 0 else kink]), settings)
        assert derivative == pytest.approx(expected, rel=1e-14, abs=0)


def test_every_kink_is_looked_at():
    assert {name for name, _, _ in AT_KINKS} == KINKS.keys()


# ----------------------------------------------------------------------------------------- PyTorch


def in_torch(torch, name, x, settings):
    """Return PyTorch's value and derivative, that of the sum of the values weighted by cos(0), cos(1), …"""
    f = torch.nn.functional
    other_names = {"identity": lambda x: x, "log_sigmoid": f.logsigmoid, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
    function = other_names.get(name, getattr(f, name, None)) or pytest.skip("PyTorch has no such function")
    if "axis" in settings:
        settings = {"dim": settings["axis"]}
    x = torch.tensor(x, requires_grad=True)
    y = function(x, **settings)
    y.backward(torch.tensor(weights_like(x)))
    return y.detach().numpy(), x.grad.numpy()


def weights_like(x):
    return np.cos(np.arange(np.prod(x.shape))).reshape(x.shape)


@every_activation
@given(data=st.data())
def test_equals_pytorch_and_so_at_the_kinks(name, data):
    torch = pytest.importorskip("torch")
    settings = data.draw(settings_of(name))
    x = data.draw(numbers(data.draw(shapes()), scale=data.draw(st.sampled_from([0.1, 3.0, 50.0]))))
    places = np.array(kinks(name, settings), np.float64)
    x.flat[: len(places)] = places[: x.size]
    y, pullback = vjp(activations.table[name], x, **settings)
    expected, derivative = in_torch(torch, name, x, settings)
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-15)
    rtol = 1e-7 if name == "hardsigmoid" else 1e-13  # PyTorch's 1/6 has single precision there
    np.testing.assert_allclose(pullback(weights_like(x))[0], derivative, rtol=rtol, atol=1e-14)


# --------------------------------------------------------------------------------- every float

INCREASING = elementwise.keys() - {"gelu", "mish", "silu", "hardswish", "threshold"}
SAME_SIGN = elementwise.keys() - {"sigmoid", "log_sigmoid", "hardsigmoid", "softplus", "threshold"}
POSITIVE = {"sigmoid", "hardsigmoid", "softplus", "relu", "relu6"}


def floats(dtype):
    """Return floats of every sign and exponent, ends and denormals among them, and more where functions bend."""
    bits = {np.float32: np.uint32, np.float64: np.uint64}[dtype]
    n = 1 << 16
    x = (np.arange(n, dtype=bits) * bits(np.iinfo(bits).max // n)).view(dtype)
    info = np.finfo(dtype)
    ends = np.array([0, info.smallest_subnormal, info.tiny, info.eps, 87.5, 88.5, 104, 745, 1e30, info.max], dtype)
    return np.concatenate([x[np.isfinite(x)], ends, -ends, np.linspace(-110, 110, n, dtype=dtype)])


@every_elementwise
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_every_float_has_a_value_and_a_derivative(name, dtype, data):
    """In the dtype of the input, of the right sign, neither NaN nor, warnings being errors, with a warning."""
    settings = {k: dtype(v) if isinstance(v, float) else v for k, v in data.draw(settings_of(name)).items()}
    x = floats(dtype)
    y, derivative = both(name, x, settings)
    assert (y.dtype, derivative.dtype) == (dtype, dtype)
    assert not np.isnan(y).any()
    assert np.isfinite(derivative).all()
    if name != "selu":  # whose scale takes the largest floats to infinity
        assert np.isfinite(y).all()
    if not settings or min(v if isinstance(v, dtype) else 1 for v in settings.values()) >= 0:
        assert name not in INCREASING or derivative.min() >= 0
        assert name not in SAME_SIGN or (np.sign(y) * np.sign(x) >= 0).all()
        assert name not in POSITIVE or y.min() >= 0
    if name == "log_sigmoid":
        assert y.max() <= 0


# A float32 value is within 4 ulp of the float64 one, or within 2e-7 of it where a difference cancels, as in `1 - y²`,
# tanh's derivative. That is three roundings of a number around 1.
ABSOLUTE = dict.fromkeys(("elu", "celu", "selu"), 0)


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, defaults(name)) for name in elementwise), ("gelu", {"approximate": "tanh"})]
)
def test_float32_is_as_accurate_as_it_can_be(name, settings):
    x = floats(np.float32)
    x = x[np.abs(x) < 1e38]
    for value, expected in zip(both(name, x, settings), both(name, x.astype(np.float64), settings), strict=True):
        ulp = np.spacing(np.abs(expected).astype(np.float32))
        assert (np.abs(value - expected) <= np.maximum(4 * ulp, ABSOLUTE.get(name, 2e-7))).all()


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("sigmoid", lambda x: (exp(x), exp(x))),
        ("log_sigmoid", lambda x: (x, 1)),
        ("softplus", lambda x: (exp(x), exp(x))),
        ("elu", lambda x: (-1, exp(x))),
        ("celu", lambda x: (-1, exp(x))),
        ("selu", lambda x: (-SELU * A, SELU * A * exp(x))),
        ("mish", lambda x: (x * exp(x), (1 + x) * exp(x))),
        ("silu", lambda x: (x * exp(x), (1 + x) * exp(x))),
        ("softsign", lambda x: (x / (1 - x), 1 / (1 - x) ** 2)),
    ],
)
def test_tails_are_relatively_accurate(name, tail):
    for x in (-30.0, -50.0, -80.0):
        for dtype, rtol in ((np.float32, 1e-5), (np.float64, 1e-12)):
            np.testing.assert_allclose(np.ravel(both(name, np.array([x], dtype))), tail(x), rtol=rtol)


@every_elementwise
def test_float16_is_rounded_once(name):
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    x = x[np.isfinite(x)]
    for value, exact in zip(both(name, x, defaults(name)), both(name, x.astype(float), defaults(name)), strict=True):
        with np.errstate(over="ignore"):
            expected = exact.astype(np.float16)
        assert value.dtype == np.float16
        np.testing.assert_array_equal(np.isinf(value), np.isinf(expected))
        near = np.isfinite(expected)
        assert (np.abs(value - exact) <= np.abs(exact) * 2**-10.99 + 2e-7)[near].all()


@every_activation
def test_long_doubles_stay_such(name):
    y, pullback = vjp(activations.table[name], np.linspace(-3, 3, 9, dtype=np.longdouble), **defaults(name))
    assert (y.dtype, pullback(y)[0].dtype) == (np.longdouble, np.longdouble)


def test_selus_constants_are_those_of_its_fixed_point():
    """Klambauer et al. 2017, equation 14: mean 0 and variance 1 are kept."""
    e, f = math.erfc(math.sqrt(0.5)) * math.exp(0.5), math.erfc(math.sqrt(2)) * math.exp(2)
    alpha = math.sqrt(2 / math.pi) / (1 - e)
    scale = (1 - e) * math.sqrt(2 * math.pi / (2 * f + math.pi * e**2 - 2 * (2 + math.pi) * e + math.pi + 2))
    assert pytest.approx((alpha, scale), rel=4e-15, abs=0) == (activations.SELU_ALPHA, activations.SELU_SCALE)


def test_what_is_small_is_not_rounded_away():
    for dtype, rtol in ((np.float32, 1e-5), (np.float64, 1e-12)):
        x = np.array([30.0, 50.0, 80.0], dtype)
        np.testing.assert_allclose(activations.log_sigmoid(x), -np.exp(-x.astype(np.float64)), rtol=rtol)
        np.testing.assert_allclose(activations.celu(-x, alpha=1e9), -x, rtol=1e-6)


LIMITS = {
    "identity": ((-inf, 1), (inf, 1)),
    "tanh": ((-1, 0), (1, 0)),
    "tanhshrink": ((-inf, 1), (inf, 1)),
    "hardtanh": ((-1, 0), (1, 0)),
    "sigmoid": ((0, 0), (1, 0)),
    "log_sigmoid": ((-inf, 1), (0, 0)),
    "hardsigmoid": ((0, 0), (1, 0)),
    "relu": ((0, 0), (inf, 1)),
    "relu6": ((0, 0), (6, 0)),
    "leaky_relu": ((-inf, 0.01), (inf, 1)),
    "elu": ((-1, 0), (inf, 1)),
    "celu": ((-1, 0), (inf, 1)),
    "selu": ((-SELU * A, 0), (inf, SELU)),
    "gelu": ((0, 0), (inf, 1)),
    "mish": ((0, 0), (inf, 1)),
    "silu": ((0, 0), (inf, 1)),
    "hardswish": ((0, 0), (inf, 1)),
    "softplus": ((0, 0), (inf, 1)),
    "softsign": ((-1, 0), (1, 0)),
    "softshrink": ((-inf, 1), (inf, 1)),
    "hardshrink": ((-inf, 1), (inf, 1)),
    "threshold": ((-2, 0), (inf, 1)),
}
"""Value and derivative at -∞ and at ∞."""


@every_elementwise
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_limits_at_infinity(name, dtype):
    for x, expected in zip((-inf, inf), LIMITS[name], strict=True):
        for settings in [defaults(name)] + [{"approximate": "tanh"}] * (name == "gelu"):
            np.testing.assert_allclose(np.ravel(both(name, np.array([x], dtype), settings)), expected, rtol=1e-7)


@every_activation
def test_nan_in_nan_out(name):
    x = np.array([[nan, 1.0], [nan, 2.0]])
    assert np.isnan(activations.table[name](x, **defaults(name))[:, 0]).all()


@pytest.mark.parametrize("name", along_axis)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_every_float(name, dtype):
    largest = np.finfo(dtype).max
    rows = np.array([[largest, largest], [-largest, -largest], [largest, -largest], [1e30, 0], [0, 0]], dtype)
    y, pullback = vjp(activations.table[name], rows)
    dx = pullback(np.array([[1, 0]] * len(rows), dtype))[0]
    p = np.array([[0.5, 0.5], [0.5, 0.5], [1, 0], [1, 0], [0.5, 0.5]])
    assert (y.dtype, dx.dtype) == (dtype, dtype)
    np.testing.assert_allclose(y if name == "softmax" else np.exp(y), p, rtol=1e-6)
    expected = p[:, :1] * (np.array([[1, 0]]) - p) if name == "softmax" else np.array([[1, 0]]) - p
    np.testing.assert_allclose(dx, expected, rtol=1e-6)


# ------------------------------------------------------------------------------- inputs and layers


@every_activation
def test_integers_are_read_as_float64(name):
    x = np.array([[-2, 3], [0, 1]])
    expected = activations.table[name](x.astype(np.float64), **defaults(name))
    for same in (x, x.tolist(), x.astype(np.int8)):
        np.testing.assert_array_equal(activations.table[name](same, **defaults(name)), expected, strict=True)


@every_activation
def test_a_numpy_number_as_a_setting_upcasts_nothing(name):
    settings = {k: np.float64(0.5) for k in SETTINGS.get(name, {}) if k not in ("approximate", "axis")}
    y, pullback = vjp(activations.table[name], np.ones((2, 2), np.float32), **settings)
    assert (y.dtype, pullback(y)[0].dtype) == (np.float32, np.float32)


@every_activation
@given(data=st.data())
def test_the_layer_is_the_function(name, data):
    settings = data.draw(settings_of(name))
    x = data.draw(numbers(data.draw(shapes())))
    constructor = getattr(layers, "".join(map(str.capitalize, name.split("_"))))
    for layer in (constructor(**settings), constructor(*[settings[key] for key in SETTINGS.get(name, {})])):
        assert layer.init(random.key(0), x.shape[1:]) == (x.shape[1:], {})
        y, pullback = vjp(layer.apply, {}, x, train=True)
        expected, expected_pullback = vjp(activations.table[name], x, **settings)
        np.testing.assert_array_equal(y, expected)
        dparams, dx = pullback(y)
        assert dparams == {}
        np.testing.assert_array_equal(dx, expected_pullback(y)[0])
    assert layers.serial(constructor(**settings)).apply.children.keys() == {f"{name}_0"}


@pytest.mark.parametrize("hint", [str, "str", Literal["up", "down"], "str | None"])
def test_a_setting_may_be_a_word(hint):
    def shift(x, way="up"):
        return x + (1 if way == "up" else -1), lambda: 1

    shift.__annotations__ = {"way": hint}
    np.testing.assert_array_equal(activations.elementwise(shift)(np.zeros(2), "down"), [-1, -1])
    np.testing.assert_array_equal(layers.Activation(activations.elementwise(shift), way="up").apply({}, [0.0]), [1])


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda x: activations.gelu(x, approximate="erf"), "approximate: expected one of 'none', 'tanh', got 'erf'"),
        (lambda x: activations.celu(x, alpha=0.0), r"alpha: expected a number in \(0, inf\), got 0.0"),
        (lambda x: activations.softplus(x, beta=-1.0), r"beta: expected a number in \(0, inf\), got -1.0"),
        (lambda x: activations.softshrink(x, lambd=-0.5), r"lambd: expected a number in \[0, inf\], got -0.5"),
        (lambda x: activations.hardtanh(x, 1.0, -1.0), "min_val: expected at most max_val, -1.0, got 1.0"),
        (
            lambda x: layers.serial(layers.Celu(-1.0)).apply({}, x),
            r"^alpha: expected a number in \(0, inf\), got -1.0",
        ),
        (lambda x: activations.relu(np.array(["a"])), "x: expected numbers, got dtype <U1"),
        (lambda x: activations.relu(x * 1j), "x: expected numbers, got dtype complex128"),
        (lambda x: layers.LeakyRelu(alpha=0.1), "LeakyRelu: got an unexpected keyword argument 'alpha'"),
        (lambda x: layers.Threshold(1.0), "Threshold: missing a required argument: 'value'"),
    ],
)
def test_wrong_use(use, message):
    with pytest.raises((TypeError, ValueError), match=message):
        use(np.array([e]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanhshrink_keeps_its_digits(dtype):
    mpmath = pytest.importorskip("mpmath")
    x = np.concatenate([np.logspace(-9, 1, 101), [0.9999999, 1, 1.0000001]]).astype(dtype)
    with mpmath.workdps(50):
        exact = np.array([float(mpmath.mpf(float(v)) - mpmath.tanh(float(v))) for v in x])
    for sign in (1, -1):
        y, derivative = both("tanhshrink", sign * x, {})
        np.testing.assert_allclose(y, sign * exact, rtol=4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(derivative, np.tanh(x.astype(np.float64)) ** 2, rtol=8 * np.finfo(dtype).eps)
