"""Trees: over drawn nestings, against JAX, and by hand."""

from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fmlp import tree

DRAWN = settings(deadline=None, max_examples=100)
Point = namedtuple("Point", "x y")

keys = st.text("ab0_é", min_size=1, max_size=3)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
arrays = hnp.arrays(np.float32, shapes, elements=st.floats(-8, 8, width=32))


def nested(children):
    return (
        st.dictionaries(keys, children, max_size=3)
        | st.lists(children, max_size=3)
        | st.tuples(children, children)
        | st.builds(Point, children, children)
        | st.none()
    )


trees = st.recursive(arrays, nested, max_leaves=8)


def equal(a, b):
    """Say whether two trees have the same structure, and leaves of the same dtype, shape and bits."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(child) for key, child in reversed(value.items())}
    if isinstance(value, (list, tuple)):
        children = [reversed_keys(child) for child in value]
        return Point(*children) if isinstance(value, Point) else type(value)(children)
    return value


def at(value, path):
    """Follow a path of `tree.paths`."""
    for step in path.split("/") if path else []:
        value = value[step] if isinstance(value, dict) else value[int(step)]
    return value


@DRAWN
@given(trees)
def test_map_keeps_the_structure_and_reaches_every_leaf_once(t):
    seen = []
    assert equal(tree.map(lambda leaf: seen.append(leaf) or leaf, t), t)
    assert sorted(map(id, seen)) == sorted(map(id, tree.leaves(t)))
    doubled = tree.map(lambda a, b: a + b, t, t)
    assert all(np.array_equal(2 * a, b) for a, b in zip(tree.leaves(t), tree.leaves(doubled), strict=True))


@DRAWN
@given(trees)
def test_leaves_and_their_paths_line_up(t):
    assert all(at(t, path) is leaf for path, leaf in zip(tree.paths(t), tree.leaves(t), strict=True))
    assert len(set(tree.paths(t))) == len(tree.leaves(t))


@DRAWN
@given(trees)
def test_leaves_and_unflatten_equal_those_of_jax(t):
    jax = pytest.importorskip("jax")
    ours, theirs = tree.leaves(t), jax.tree.leaves(t)
    assert len(ours) == len(theirs)
    assert all(a is b for a, b in zip(ours, theirs, strict=True))
    numbers = range(len(ours))
    assert tree.unflatten(t, numbers) == jax.tree.unflatten(jax.tree.structure(t), numbers)


@DRAWN
@given(trees)
def test_the_order_of_insertion_does_not_matter(t):
    other = reversed_keys(t)
    assert tree.paths(other) == tree.paths(t)
    assert all(a is b for a, b in zip(tree.leaves(other), tree.leaves(t), strict=True))
    vector, unravel = tree.ravel(t)
    assert np.array_equal(tree.ravel(other)[0], vector)
    assert equal(tree.map(lambda a, b: b, t, other), t)
    assert equal(tree.map(lambda a, b: b, unravel(vector), tree.ravel(other)[1](vector)), t)


@DRAWN
@given(trees)
def test_unravel_undoes_ravel(t):
    vector, unravel = tree.ravel(t)
    assert vector.shape == (tree.size(t),)
    assert vector.dtype == np.float32
    assert equal(unravel(vector), t)
    assert np.array_equal(tree.ravel(unravel(2 * vector))[0], 2 * vector)
    assert all(leaf.dtype == np.float64 for leaf in tree.leaves(unravel(vector.astype(np.float64))))
    for wrong in (np.zeros(len(vector) + 1, np.float32), np.zeros((1, len(vector)), np.float32)):
        with pytest.raises(ValueError, match=rf"^vector: expected an array of shape \({len(vector)},\), got "):
            unravel(wrong)


@DRAWN
@given(trees)
def test_unflatten_undoes_leaves(t):
    leaves = tree.leaves(t)
    assert equal(tree.unflatten(t, iter(leaves)), t)
    assert repr(tree.unflatten(t, leaves)) == repr(t)  # keys in the order of insertion, too
    with pytest.raises(ValueError, match=r"^leaves: expected \d+, as many as `like` has, got more"):
        tree.unflatten(t, [*leaves, None])
    if leaves:
        with pytest.raises(ValueError, match=r"^leaves: expected \d+, as many as `like` has, got fewer"):
            tree.unflatten(t, leaves[1:])


@DRAWN
@given(trees)
def test_cast_there_and_back_and_size(t):
    double = tree.cast(t, np.float64)
    assert all(leaf.dtype == np.float64 for leaf in tree.leaves(double))
    assert equal(tree.cast(double, np.float32), t)
    assert tree.size(t) == sum(leaf.size for leaf in tree.leaves(t))


def test_cast_leaves_everything_but_floats_alone():
    t = {"n": np.arange(2), "mask": np.array([True]), "name": "a", "f": 0.5}
    cast = tree.cast(t, np.float16)
    assert cast.pop("f").dtype == np.float16
    assert all(cast[name] is t[name] for name in cast)


@DRAWN
@given(trees)
def test_nothing_passed_in_is_written_to(t):
    before = tree.map(np.copy, t)
    vector, unravel = tree.ravel(t)
    tree.map(np.negative, t), tree.cast(t, np.float64)
    tree.ravel(unravel(vector))
    for leaf in tree.leaves(unravel(np.zeros_like(vector))):
        leaf[...] = 7  # views of the zeros, not of the tree
    assert equal(t, before)


@pytest.mark.parametrize("t", [{"w": np.ones((2, 2)), "b": np.zeros(2)}, {"b": np.zeros(2)}, np.zeros(2)])
def test_a_raveled_tree_shares_no_memory_with_its_leaves(t):
    vector, unravel = tree.ravel(t)
    assert not any(np.shares_memory(vector, leaf) for leaf in tree.leaves(t))
    assert all(np.shares_memory(vector, leaf) for leaf in tree.leaves(unravel(vector)))


def test_the_path_of_a_lone_leaf_is_empty_and_scalars_are_leaves():
    assert tree.paths(3.0) == [""]
    assert tree.leaves(3.0) == [3.0]
    assert tree.size([1.0, {"a": 2}]) == 2
    vector, unravel = tree.ravel([1.0, (2.0, None)])
    assert vector.tolist() == [1, 2]
    assert unravel(vector) == [1, (2, None)]


WHOLE = {"a": {"b": [0, Point(1, 2)]}, "c": None}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"a": {"b": [0, Point(1, 2)]}},
            r"^tree: expected a dict with keys \['a', 'c'\], got a dict with keys \['a'\]",
        ),
        ({"a": {"b": [0, Point(1, 2)]}, "c": 0}, "^c: expected None, got a leaf"),
        ({"a": {"x": 0}, "c": None}, r"^a: expected a dict with keys \['b'\], got a dict with keys \['x'\]"),
        ({"a": {"b": [0]}, "c": None}, "^a/b: expected a list of 2, got a list of 1"),
        ({"a": {"b": (0, Point(1, 2))}, "c": None}, "^a/b: expected a list of 2, got a tuple of 2"),
        ({"a": {"b": [0, (1, 2)]}, "c": None}, "^a/b/1: expected a Point of 2, got a tuple of 2"),
        ({"a": {"b": [{}, Point(1, 2)]}, "c": None}, r"^a/b/0: expected a leaf, got a dict with keys \[\]"),
        ({"a": {"b": [0, Point(1, None)]}, "c": None}, "^a/b/1/1: expected a leaf, got None"),
        ({"a": 0, "c": None}, r"^a: expected a dict with keys \['b'\], got a leaf"),
    ],
)
def test_a_mismatch_names_its_path(other, message):
    with pytest.raises(ValueError, match=message):
        tree.map(lambda a, b: a, WHOLE, other)


def test_broadcast_spreads_what_ends_early_and_names_the_path_of_a_mismatch():
    whole = {"a": [1, (2, None)], "b": Point(3, {"c": 4})}
    assert tree.broadcast(7, whole) == {"a": [7, (7, None)], "b": Point(7, {"c": 7})}
    assert tree.broadcast({"b": Point(6, 7), "a": [8, 9]}, whole) == {"a": [8, (9, None)], "b": Point(6, {"c": 7})}
    assert tree.broadcast({"a": [8, (9, {})], "b": 7}, whole) == {"a": [8, (9, None)], "b": Point(7, {"c": 7})}
    for prefix, message in [
        ({"a": 1}, "^tree: expected a dict with keys .*, got a dict"),
        ({"a": [1, (2,)], "b": 3}, "^a/1: expected a tuple of 2, got a tuple of 1"),
        ({"a": 1, "b": Point(3, {"c": [4]})}, "^b/1/c: expected a leaf, got a list of 1"),
        ({"a": 1, "b": Point(None, 4)}, "^b/0: expected a leaf, got None"),
    ]:
        with pytest.raises(ValueError, match=message):
            tree.broadcast(prefix, whole)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"a": {1: 0}}, TypeError, "^a: expected string keys, got 1"),
        ({1: 0}, TypeError, "^tree: expected string keys, got 1"),
        ({"a": [{"b/c": 0}]}, ValueError, "^a/0: expected keys without '/', got 'b/c'"),
        ({"": 0}, ValueError, "^tree: expected keys without '/', got ''"),
    ],
)
def test_keys_that_paths_cannot_hold_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        tree.paths(wrong)


@pytest.mark.parametrize("leaf", [len, object(), np.array([None, 1])])
def test_ravel_refuses_python_objects(leaf):
    with pytest.raises(TypeError, match=r"^a: expected an array of numbers, got "):
        tree.ravel({"a": leaf, "b": np.ones(2)})


def test_three_trees_are_mapped_as_two_are():
    one = {"a": np.array([1.0]), "b": {"c": 2.0, "d": [np.array(3.0), None]}}
    ten, hundred = (tree.map(lambda leaf, by=by: by * leaf, one) for by in (10, 100))
    assert tree.map(lambda a, b: a - b, ten, one) == {"a": 9, "b": {"c": 18, "d": [27, None]}}
    assert tree.map(lambda a, b, c: a - b - c, hundred, ten, one) == {"a": 89, "b": {"c": 178, "d": [267, None]}}


def test_an_array_and_a_container_do_not_match():
    for one, other in (({"w": np.ones(2)}, {"w": [1, 2]}), ({"w": [1, 2]}, {"w": np.ones(2)})):
        with pytest.raises(ValueError, match=r"^w: expected a (leaf, got a list of 2|list of 2, got a leaf)$"):
            tree.map(lambda a, b: a, one, other)


def test_no_raw_memory_for_objects():
    with pytest.raises(TypeError, match=r"^dtype: expected numbers, got object$"):
        tree.aligned(3, object)
