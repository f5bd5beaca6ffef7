"""Initializers: their distributions, by hand and against PyTorch's, and wrong use."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fmlp import initializers, random

SHAPE = (60, 90)


def uniform(r):
    return stats.uniform(-r, 2 * r)


def normal(std):
    return stats.norm(0, std)


DISTRIBUTIONS = [
    (initializers.uniform(), stats.uniform(0, 1)),
    (initializers.uniform(-2, 5), stats.uniform(-2, 7)),
    (initializers.normal(), stats.norm(0, 1)),
    (initializers.normal(3, 0.5), stats.norm(3, 0.5)),
    (initializers.xavier_uniform(), uniform(sqrt(6 / 150))),
    (initializers.xavier_uniform(gain=2), uniform(2 * sqrt(6 / 150))),
    (initializers.xavier_normal(), normal(sqrt(2 / 150))),
    (initializers.xavier_normal(gain=2), normal(2 * sqrt(2 / 150))),
    (initializers.kaiming_uniform(), uniform(sqrt(6 / 60))),
    (initializers.kaiming_uniform(sqrt(5)), uniform(sqrt(1 / 60))),
    (initializers.kaiming_uniform(mode="fan_out", nonlinearity="relu"), uniform(sqrt(6 / 90))),
    (initializers.kaiming_normal(), normal(sqrt(2 / 60))),
    (initializers.kaiming_normal(mode="fan_out", nonlinearity="tanh"), normal(5 / 3 / sqrt(90))),
    (initializers.lecun_normal(), normal(1 / sqrt(60))),
]


@pytest.mark.parametrize(("init", "distribution"), DISTRIBUTIONS)
def test_distribution(init, distribution):
    w = init(random.key(0), SHAPE)
    assert (w.shape, w.dtype) == (SHAPE, np.float32)
    assert stats.kstest(w.ravel(), distribution.cdf).pvalue > 0.01
    low, high = distribution.support()
    assert np.float32(low) <= w.min()
    assert w.max() <= np.float32(high)


@pytest.mark.parametrize("init", [init for init, _ in DISTRIBUTIONS] + [initializers.orthogonal()])
def test_the_key_decides(init):
    first, again, other = init(random.key(1), SHAPE), init(random.key(1), SHAPE), init(random.key(2), SHAPE)
    assert first.tobytes() == again.tobytes()
    assert np.mean(first == other) < 0.01


def test_constants():
    for init, value in ((initializers.zeros(), 0), (initializers.ones(), 1), (initializers.constant(0.25), 0.25)):
        np.testing.assert_array_equal(init(random.key(0), (2, 3)), np.full((2, 3), value, np.float32), strict=True)


@given(n=st.integers(1, 8), m=st.integers(1, 8), gain=st.sampled_from([1.0, 0.5, 3.0]))
def test_orthogonal(n, m, gain):
    w = initializers.orthogonal(gain)(random.key(n), (n, m)).astype(np.float64) / gain
    assert w.shape == (n, m)
    product = w.T @ w if n >= m else w @ w.T
    np.testing.assert_allclose(product, np.eye(min(n, m)), atol=1e-6)


def test_orthogonal_is_uniform():
    """Without the signs of R, the entries of the first column would all be negative."""
    draws = np.array([initializers.orthogonal()(key, (2, 2)) for key in random.split(random.key(0), 400)])
    angles = np.arctan2(draws[:, 0, 1], draws[:, 0, 0])
    assert stats.kstest(angles, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01
    assert stats.binomtest(int((np.linalg.det(draws) > 0).sum()), 400).pvalue > 0.01


@pytest.mark.parametrize(
    ("nonlinearity", "value"),
    [
        ("linear", 1),
        ("identity", 1),
        ("sigmoid", 1),
        ("tanh", 5 / 3),
        ("relu", sqrt(2)),
        ("selu", 0.75),
        ("leaky_relu", sqrt(2 / 1.0001)),
    ],
)
def test_gain(nonlinearity, value):
    assert initializers.gain(nonlinearity) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("nonlinearity", ["linear", "sigmoid", "tanh", "relu", "selu", "leaky_relu"])
def test_gain_equals_pytorch(nonlinearity):
    torch = pytest.importorskip("torch")
    expected = torch.nn.init.calculate_gain(nonlinearity)
    assert initializers.gain(nonlinearity) == pytest.approx(expected, rel=1e-15)
    slope = torch.nn.init.calculate_gain("leaky_relu", 0.3)
    assert initializers.gain("leaky_relu", 0.3) == pytest.approx(slope, rel=1e-15)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("xavier_uniform", {}),
        ("xavier_uniform", {"gain": 0.5}),
        ("xavier_normal", {"gain": 2.0}),
        ("kaiming_uniform", {}),
        ("kaiming_uniform", {"a": 0.3, "mode": "fan_out"}),
        ("kaiming_normal", {"nonlinearity": "selu"}),
        ("kaiming_normal", {"mode": "fan_out", "nonlinearity": "relu"}),
    ],
)
def test_equals_pytorch_in_distribution(name, settings):
    torch = pytest.importorskip("torch")
    weight = torch.empty(SHAPE[::-1])  # PyTorch's weights are (out, in)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(torch.nn.init, f"{name}_")(weight, **settings)
    w = getattr(initializers, name)(**settings)(random.key(0), SHAPE)
    assert stats.ks_2samp(w.ravel(), weight.numpy().ravel()).pvalue > 0.01


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda: initializers.gain("cosine"),
            "nonlinearity: expected one of 'identity', 'leaky_relu', .*, got 'cosine'",
        ),
        (lambda: initializers.kaiming_normal(nonlinearity="cosine"), "nonlinearity: expected one of .* got 'cosine'"),
        (lambda: initializers.kaiming_uniform(mode="fan"), "mode: expected one of 'fan_in', 'fan_out', got 'fan'"),
        (lambda: initializers.xavier_uniform()(random.key(0), (3,)), r"shape: expected \(fan_in, fan_out\), .* \(3,\)"),
        (lambda: initializers.orthogonal()(random.key(0), (0, 3)), r"shape: expected .* at least 1, got \(0, 3\)"),
        (lambda: initializers.lecun_normal()(0, (3, 3)), "key: expected a key, as random.key"),
    ],
)
def test_wrong_use(use, message):
    with pytest.raises((TypeError, ValueError), match=message):
        use()
