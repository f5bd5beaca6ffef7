"""Keys: the same bits whenever and wherever, and children that are distinct and independent.

Their values are pinned in `golden/streams.json` (test_determinism).

The statistical tests have fixed seeds, so they pass always or never. Their bounds are five standard deviations
unless they say otherwise: a sound generator would fail one in 1.7 million of them.
"""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmlp import random

DRAWN = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 2**64) | st.integers(0, 2**200)
indices = st.integers(0, 2**64 - 1)
N = 100_000


def distinct(keys):
    """Count the distinct rows."""
    return len(np.unique(np.ascontiguousarray(keys).view("V24")))


def bits(keys):
    return np.unpackbits(np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), -1), axis=1)


def chi_square(counts):
    """Return how many standard deviations the chi-square statistic of equally likely counts is off its mean."""
    expected, df = counts.sum() / counts.size, counts.size - 1
    return (((counts - expected) ** 2).sum() / expected - df) / sqrt(2 * df)


# ------------------------------------------------------------------------------------- determinism


@DRAWN
@given(seeds, indices, st.permutations(range(5)))
def test_the_same_key_gives_the_same_bits_in_any_order_of_calls(seed, i, order):
    def calls(key):
        return [
            lambda: random.split(key, 3),
            lambda: random.fold_in(key, i),
            lambda: random.generator(key).random(4),
            lambda: random.generator(key).permutation(9),
            lambda: random.bernoulli(key, 0.3, (5, 3)),
        ]

    key = random.key(seed)
    once = [call().tobytes() for call in calls(key)]
    again = calls(random.key(seed))
    assert {n: again[n]().tobytes() for n in order} == dict(enumerate(once))
    assert np.array_equal(key, random.key(seed))


@DRAWN
@given(seeds)
def test_a_prefix_of_more_children_is_fewer_children(seed):
    key = random.key(seed)
    assert np.array_equal(random.split(key, 9)[:4], random.split(key, 4))
    assert random.split(key, 0).shape == (0, 3)


def test_a_key_is_its_three_numbers_however_they_lie_in_memory():
    key = random.key(0)
    for same in (np.asfortranarray(random.split(key, 4))[1], random.split(key, 4)[:, ::-1][1, ::-1], key[::1]):
        twin = np.array(same)
        assert np.array_equal(random.generator(same).random(3), random.generator(twin).random(3))
    word = np.uint64(7)
    repeated, whole = np.broadcast_to(word, 3), np.full(3, word)
    assert np.array_equal(random.generator(repeated).random(3), random.generator(whole).random(3))


# ------------------------------------------------------------------------------------ distinctness


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_no_two_of_many_children_are_the_same(seed):
    key = random.key(seed)
    folded = np.array([random.fold_in(key, i) for i in range(2000)])
    family = np.concatenate([key[None], random.split(key, N), folded])
    assert distinct(family) == 1 + N + 2000


@DRAWN
@given(seeds, st.integers(0, 50), indices)
def test_split_and_fold_in_are_two_families(seed, n, i):
    key = random.key(seed)
    for j in {i, n}:
        child = random.fold_in(key, j)
        assert not (random.split(key, n + 1) == child).any()  # not even one word of three
        assert not (child == key).any()


@DRAWN
@given(seeds, st.sets(indices, min_size=2, max_size=20))
def test_fold_in_tells_all_integers_apart(seed, numbers):
    key = random.key(seed)
    assert distinct(np.array([random.fold_in(key, i) for i in numbers])) == len(numbers)
    assert np.array_equal(random.fold_in(key, np.uint64(max(numbers))), random.fold_in(key, max(numbers)))


def test_grandchildren_and_the_children_of_neighbouring_seeds_are_distinct():
    family = [random.split(child, 100) for seed in range(20) for child in random.split(random.key(seed), 50)]
    assert distinct(np.concatenate(family)) == 20 * 50 * 100


# ------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("seed", [0, 1, 2**64])
def test_the_bytes_of_a_stream_are_uniform(seed):
    raw = random.generator(random.key(seed)).bit_generator.random_raw(N)
    assert abs(chi_square(np.bincount(raw.view(np.uint8), minlength=256))) < 5


@pytest.mark.parametrize("family", ["split", "fold_in"])
def test_every_bit_of_the_children_is_a_fair_coin_and_neighbours_differ_in_half(family):
    key = random.key(3)
    n = 20_000
    keys = random.split(key, n) if family == "split" else np.array([random.fold_in(key, i) for i in range(n)])
    coin = bits(keys)
    assert np.abs(coin.mean(0) - 0.5).max() < 5.5 * 0.5 / sqrt(n)  # the largest of 192, so a little more
    distance = (coin[1:] ^ coin[:-1]).sum(1)
    assert abs(distance.mean() - 96) < 5 * sqrt(48 / n)
    assert 96 - 7 * sqrt(48) < distance.min() <= distance.max() < 96 + 7 * sqrt(48)  # the extremes of 20,000


@pytest.mark.parametrize("family", ["split", "fold_in"])
def test_the_first_numbers_of_sibling_streams_are_uniform_and_uncorrelated(family):
    key, n = random.key(4), 10_000
    keys = random.split(key, n) if family == "split" else [random.fold_in(key, i) for i in range(n)]
    first = np.array([random.generator(k).random(2) for k in keys])
    cells = np.histogram2d(*first.T, bins=16, range=[[0, 1], [0, 1]])[0]
    assert abs(chi_square(cells)) < 5
    assert abs(np.corrcoef(first[1:, 0], first[:-1, 0])[0, 1]) < 5 / sqrt(n)


def test_streams_of_siblings_and_parent_are_uncorrelated():
    key = random.key(5)
    family = [key, *random.split(key, 5), *(random.fold_in(key, i) for i in range(5)), random.key(6)]
    streams = np.array([random.generator(k).standard_normal(N) for k in family])
    correlation = np.corrcoef(streams) - np.eye(len(family))
    assert np.abs(correlation).max() < 5 / sqrt(N)


@pytest.mark.parametrize("p", [2**-16, 0.01, 0.3, 0.5, 0.9, 1 - 2**-16])
def test_bernoulli_has_its_rate_and_rows_are_independent(p):
    n = 4 * N
    drawn = random.bernoulli(random.key(7), p, (2, n))
    sd = sqrt(p * (1 - p) / n)
    for row in drawn:
        assert abs(row.mean() - p) < 5 * sd + 2**-17  # p is rounded to a multiple of 2⁻¹⁶
    both = (drawn[0] & drawn[1]).mean()
    assert abs(both - p * p) < 5 * sqrt(p * p * (1 - p * p) / n) + 2**-16


# ------------------------------------------------------------------------------------------- edges


@DRAWN
@given(seeds, st.lists(st.integers(0, 7), max_size=3).map(tuple))
def test_bernoulli_shapes_and_certainties(seed, shape):
    key = random.key(seed)
    drawn = random.bernoulli(key, 0.5, shape)
    assert drawn.shape == shape
    assert drawn.dtype == bool
    assert not random.bernoulli(key, 0, shape).any()
    assert random.bernoulli(key, 1, shape).all()
    less, more = random.bernoulli(key, 0.2, shape), random.bernoulli(key, 0.7, shape)
    assert (less <= more).all()


def test_certainties_are_certain_to_the_last_of_2_to_the_16():
    assert not random.bernoulli(random.key(0), 0, (10 * 2**16,)).any()
    assert random.bernoulli(random.key(0), 1, (10 * 2**16,)).all()


KEY = random.key(0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: random.key(-1), ValueError, "^seed: expected a non-negative integer, got -1"),
        (lambda: random.key(1.0), TypeError, "^seed: expected a non-negative integer, got 1.0"),
        (lambda: random.key(True), TypeError, "^seed: .* got True"),
        (lambda: random.key("0"), TypeError, "^seed: .* got '0'"),
        (lambda: random.split(0), TypeError, r"^key: expected a key, as random.key\(seed\) makes it, got 0"),
        (lambda: random.split(KEY.astype(np.int64)), TypeError, "^key: expected a key"),
        (lambda: random.split(random.split(KEY)), ValueError, r"^key: expected one key, .* got shape \(2, 3\)"),
        (lambda: random.split(KEY, -1), ValueError, "^n: expected an integer from 0 .* got -1"),
        (lambda: random.split(KEY, 1.5), TypeError, "^n: expected an integer, got 1.5"),
        (lambda: random.fold_in(None, 0), TypeError, "^key: .* got None"),
        (lambda: random.fold_in(KEY, -1), ValueError, "^i: expected an integer from 0 .* got -1"),
        (lambda: random.fold_in(KEY, 2**64), ValueError, "^i: expected an integer .* got 18446744073709551616"),
        (lambda: random.fold_in(KEY, 1.5), TypeError, "^i: expected an integer, got 1.5"),
        (lambda: random.generator(7), TypeError, "^key: .* got 7"),
        (lambda: random.generator(KEY[:2]), ValueError, r"^key: .* got shape \(2,\)"),
        (lambda: random.bernoulli(7, 0.5, (1,)), TypeError, "^key: .* got 7"),
        (lambda: random.bernoulli(KEY, 1.5, (1,)), ValueError, r"^p: expected a probability, in \[0, 1\], got 1.5"),
        (lambda: random.bernoulli(KEY, -0.1, (1,)), ValueError, "^p: .* got -0.1"),
        (lambda: random.bernoulli(KEY, float("nan"), (1,)), ValueError, "^p: .* got nan"),
    ],
)
def test_what_is_no_key_or_out_of_range_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
