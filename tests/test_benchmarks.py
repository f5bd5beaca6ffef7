"""The step that the benchmarks write by hand is the same step as fmlp's, in float64."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks are not installed
from benchmarks import cases
from benchmarks.contenders import fmlp_, hand

CASES = {name: replace(getattr(cases, name), dtype="float64") for name in ("DEEP", "DEEP_RELU", "WIDE", "TINY")}


@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_adam_by_hand(name):
    case = CASES[name].without_dropout()
    x, y = cases.data(case, 20)
    (loss, grads), (expected_loss, expected) = (n.Network(case, 1).loss_and_grads(x, y) for n in (hand, fmlp_))
    assert_allclose(loss, expected_loss, rtol=1e-14)
    for grad, other in zip(grads, expected, strict=True):
        assert_allclose(grad, other, rtol=0, atol=1e-13 * np.abs(other).max())

    by_hand, ours = hand.Network(case, 1), fmlp_.Network(case, 1)
    for network in (by_hand, ours):
        network.step(x, y)(5)
    for param, other in zip(by_hand.parameters(), ours.parameters(), strict=True):
        assert_allclose(param, other, rtol=0, atol=1e-3 * cases.LEARNING_RATE)  # rounding turns signs around


def test_dropout_by_hand():
    network = hand.Network(CASES["DEEP"], 1)
    adam, batch = network.adam, hand.Batch(CASES["DEEP"], 70, network.adam)
    data = cases.data(CASES["DEEP"], 70)
    for layer, rate in zip(batch.layers, cases.DEEP.rates, strict=False):
        assert {*np.unique(layer.mask)} == {0, 1 / (1 - rate)}
        assert_allclose(layer.mask.mean(), 1, atol=5 * (rate / (1 - rate) / layer.mask.size) ** 0.5)

    batch(*data)
    direction, h, start = np.random.default_rng(0).normal(size=adam.params.size), 1e-6, adam.params.copy()
    expected = adam.grads @ direction
    losses = []
    for sign in (1, -1):
        adam.params[:] = start + sign * h * direction
        losses.append(batch(*data))
    assert_allclose((losses[0] - losses[1]) / (2 * h), expected, rtol=1e-6)
