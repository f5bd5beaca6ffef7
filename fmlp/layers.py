"""Layers: pairs of pure functions ``init(key, shape)`` and ``apply(params, x)``, and how to combine them.

``init(key, shape) -> (out_shape, params)`` takes the shape of one example, without the batch axis, and makes the
parameters, a nested dict of float32 arrays. ``apply(params, x, *, train=False, key=None) -> y`` is differentiable,
takes a batch, and works in the dtype of the parameters. It trains only if the caller passes ``train=True``.

Every constructor returns a `Layer`. Each entry of `activations` has a constructor: ``leaky_relu`` has ``LeakyRelu()``.
A layer has the name of its `apply`. ``apply.settings`` holds the arguments of its constructor, and ``apply.children``
the layers that it combines.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from fmlp import activations, random
from fmlp.arguments import array, given, hinting, integer, number, shape_of_one, unmasked
from fmlp.autodiff import Differentiable, Pullback, differentiable, in_single, rule_of
from fmlp.initializers import Initializer, constant, guarded, normal, ones, xavier_uniform, zeros
from fmlp.random import Key
from fmlp.recording import asarray
from fmlp.statistics import (
    TINY,
    Calibration,
    Shard,
    mean_of,
    of_batch,
    over_batch,
    rms_normalized,
    standardized,
    sum_of_rows,
    times_ones,
)
from fmlp.tree import Array, Tree, leaves
from fmlp.tree import cast as tree_cast
from fmlp.tree import map as tree_map

Shape = Any
"""A tuple of ints, or a tuple of shapes for layers of several inputs."""


class Layer(NamedTuple):
    """A pair of pure functions: ``init(key, shape) -> (out_shape, params)`` and ``apply(params, x)``."""

    init: Callable[[Key, Shape], tuple[Shape, Tree]]
    apply: Callable[..., Any]


# -------------------------------------------------------------------------------------- the door


def _layer(
    rule: Callable[..., tuple[Array, Pullback]],
    draws: dict[str, Initializer],
    shapes: Callable[[int], dict[str, tuple[int, ...]]],
    width: int | None = None,
    *,
    any_width: bool = False,
    sparse: bool = False,
    settings: dict[str, Any] | None = None,
) -> Layer:
    """Make a layer from a rule for rows: ``rule(params, x, train) -> (y, pullback)`` with x (rows, n) and y (rows, m).

    `draws` has an initializer for each parameter, and ``shapes(n)`` has their shapes; the first shape begins with n. m
    is `width`, by default n. The layer makes sure of everything that the rule takes for granted: each parameter is
    present, is an array, and has its shape; x has n features (unless `any_width`) and the parameters' dtype, or both
    are float32 if the parameters are float16; all axes but the last become rows.
    """
    first, single = next(iter(draws)), in_single(rule)

    def init(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        expected, keys = shapes(n := _width(shape)), random.split(key, len(draws))
        params = {name: draws[name](k, expected[name]) for name, k in zip(draws, keys, strict=True)}
        return (*shape[:-1], width or n), params

    @functools.wraps(rule)
    def apply(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Array, Pullback]:
        try:
            leaf = params[first]
            expected = shapes(n := leaf.shape[0])
            if any(p.__class__ is not np.ndarray for p in params.values()):
                params = {name: _plain(name, p) for name, p in params.items()}
            fits = all(params[name].shape == expected[name] for name in draws)
        except (AttributeError, IndexError, KeyError, TypeError):
            fits = False
        if not fits:
            raise _misfit(params, lambda n: {name: shapes(n)[name] for name in draws}, x)
        x = _features(x, leaf.dtype, None if any_width else n, sparse=sparse)
        of_rows = rule if leaf.dtype.itemsize > 2 else single
        if x.ndim == 2:
            return of_rows(params, x, train)
        y, pullback = of_rows(params, x.reshape(-1, x.shape[-1]), train)

        def with_axes(dy: Array) -> Iterator[Any]:
            cotangents = iter(pullback(dy.reshape(-1, dy.shape[-1])))
            yield next(cotangents)
            yield next(cotangents).reshape(x.shape)

        return y.reshape(*x.shape[:-1], y.shape[-1]), with_axes

    layer = Layer(init, differentiable(apply))
    layer.apply.settings = settings or {}  # type: ignore[attr-defined]
    return layer


def _misfit(params: Tree, shapes: Callable[[int], dict[str, tuple[int, ...]]], x: Any) -> Exception:
    """Return the error for a parameter that is missing, is not an array, or has a shape that `x` does not fit."""
    if not isinstance(params, dict):
        return TypeError(f"params: expected a dict of arrays, got {given(params)}")
    n = np.shape(x)[-1] if np.ndim(x) else "inputs"
    for name, shape in shapes(1).items():
        if name not in params:
            return ValueError(f"{name}: missing from the parameters")
        expected, p = str(shapes(n)[name]).replace("'", ""), _plain(name, params[name])  # type: ignore[arg-type]
        if p.ndim != len(shape) or str(p.shape) != expected:
            return ValueError(f"{name}: expected shape {expected}, got {p.shape}")
    return ValueError(f"x: expected shape (..., {next(iter(params.values())).shape[0]}), got {np.shape(x)}")


def _plain(name: str, p: Any) -> Any:
    """Return a parameter as a plain array or NumPy scalar. JAX's arrays have NumPy's dtypes; PyTorch's do not."""
    if isinstance(p, np.generic):
        return p
    if not isinstance(getattr(unmasked(name, p), "dtype", None), np.dtype):
        raise TypeError(f"{name}: expected an array, got {type(p).__name__}; convert it with np.asarray")
    return asarray(p)


def _features(x: Any, dtype: npt.DTypeLike, n: int | None, *, sparse: bool = False) -> Array:
    """Convert an input to the dtype of the parameters, and check its width unless `n` is None."""
    values: Array = x if sparse and hasattr(x, "tocsr") else asarray(array("x", x))
    if values.dtype != dtype:
        if values.dtype.kind not in "fiub":
            raise TypeError(f"x: expected numbers, got dtype {values.dtype}")
        if np.dtype(dtype).kind != "f":
            raise TypeError(f"params: expected floating-point numbers, got dtype {dtype}")
        values = values.astype(dtype)
    if values.ndim == 0 or (n is not None and values.shape[-1] != n):
        raise ValueError(f"x: expected shape (..., {'n' if n is None else n}), got {values.shape}")
    return values


# ---------------------------------------------------------------------------------------- layers


@hinting
def Dense(
    features: int, w_init: Initializer | None = None, b_init: Initializer | None = None, *, bias: bool = True
) -> Layer:
    """Affine map ``y = x w + b``: (..., in) to (..., features). A first layer also takes SciPy's sparse matrices.

    Parameters: `w` (in, features) from `w_init`, xavier_uniform() by default, and `b` (features,) from `b_init`,
    zeros() by default. With ``bias=False`` there is no `b`.

    >>> shape, params = Dense(3).init(random.key(0), (2,))
    >>> shape, params["w"].shape, params["b"]
    ((3,), (2, 3), array([0., 0., 0.], dtype=float32))
    """
    features = integer("features", features)
    draw_b = guarded("b_init", zeros() if b_init is None else b_init)
    draws = {"w": guarded("w_init", xavier_uniform() if w_init is None else w_init)} | ({"b": draw_b} if bias else {})

    def dense(params: Tree, x: Array, train: Any) -> tuple[Array, Pullback]:
        w = params["w"]
        y = x.dot(w) + params["b"] if bias else x.dot(w)

        def pullback(dy: Array) -> Iterator[Any]:
            dw = x.T.dot(dy)
            yield {"w": dw, "b": sum_of_rows(dy, times_ones)} if bias else {"w": dw}
            yield dy.dot(w.T)

        return y, pullback

    return _layer(dense, draws, lambda n: {"w": (n, features), "b": (features,)}, features, sparse=True)


@hinting
def Embedding(num_embeddings: int, features: int, w_init: Initializer | None = None) -> Layer:
    """Look up a learned row for each integer: ``y = w[x]``, (...) to (..., features).

    Parameter: `w` (num_embeddings, features), from `w_init`, normal() by default. Raises TypeError for inputs that are
    not integers, ValueError for indices outside [0, num_embeddings).

    >>> layer = Embedding(10, 4)
    >>> _, params = layer.init(random.key(0), ())
    >>> layer.apply(params, np.array([7, 7, 3])).shape
    (3, 4)
    """
    num_embeddings, features = integer("num_embeddings", num_embeddings), integer("features", features)
    draw_w = guarded("w_init", normal() if w_init is None else w_init)

    def init(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        return (*shape_of_one("shape", shape), features), {"w": draw_w(key, (num_embeddings, features))}

    @differentiable
    def embedding(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Array, Pullback]:
        w = _plain("w", params["w"]) if isinstance(params, dict) and "w" in params else None
        if w is None or w.ndim != 2 or w.shape[1] != features:
            raise _misfit(params, lambda n: {"w": (num_embeddings, features)}, x)
        x = asarray(array("x", x))
        if x.dtype.kind not in "iu":
            raise TypeError(f"x: expected integers, got {x.dtype}")
        if x.size and not (x.min() >= 0 and x.max() < len(w)):
            raise ValueError(f"x: expected indices from 0 to {len(w) - 1}, got {x.min()} to {x.max()}")

        def pullback(dy: Array) -> Iterator[Any]:
            dw = np.zeros_like(w, np.result_type(w, np.float32))  # sums in float16 would lose numbers
            np.add.at(dw, x, dy)
            yield {"w": dw.astype(w.dtype, copy=False)}
            yield None

        return w[x], pullback

    return Layer(init, embedding)


STATISTICS = frozenset({"mean", "var", "count"})
"""BatchNorm's leaves that are computed from data, not learned. Any dict with all three holds such statistics."""


def BatchNorm(*, eps: float = 1e-5) -> Layer:
    """Normalize each feature: ``y = scale (x - mean) / √(var + eps) + bias``, (..., n) to (..., n).

    With ``train=True``, `mean` and `var` are those of the batch, over all axes but the last, and the derivatives by the
    parameters `mean`, `var` and `count` are zero. Otherwise, `mean` and `var` are the population's, which
    `fmlp.calibrate` stores in the parameters; `count` is the number of rows that they come from, 0 before. A constant
    feature gives `bias`, even if it is large. An `eps` below 1e-37 counts as 1e-37.

    Raises ValueError in training for a batch of one row, and at inference if the statistics were never computed.

    Ioffe and Szegedy 2015, arXiv 1502.03167; Wu and Johnson 2021, arXiv 2105.07576.

    >>> layer = BatchNorm()
    >>> _, params = layer.init(random.key(0), (1,))
    >>> layer.apply(params, np.array([[1.0], [3.0]]), train=True).round(3)
    array([[-1.],
           [ 1.]], dtype=float32)
    """
    eps = max(number("eps", eps), TINY)

    def batch_norm(params: Tree, x: Array, train: Any) -> tuple[Array, Pullback]:
        scale, mean, var = params["scale"], params["mean"], params["var"]
        if train:
            z, r, mean, var, n = of_batch(x, eps, train)
            if isinstance(train, Calibration):
                train.record(params, mean, var, n)
        elif params["count"] == 0:
            raise ValueError("mean: never computed; call params = fmlp.calibrate(net, params, x) after training")
        else:
            r = 1 / np.sqrt(var + eps)
            with np.errstate(over="ignore"):
                z = (x - mean) * r

        def pullback(dy: Array) -> Iterator[Any]:
            dbias, dscale = sum_of_rows(dy), sum_of_rows(dy * z)
            dmean, dvar = (np.zeros_like(mean), np.zeros_like(var)) if train else (
                -scale * r * dbias, -0.5 * scale * r * r * dscale
            )  # fmt: skip
            count = np.zeros_like(params["count"])
            yield {"scale": dscale, "bias": dbias, "mean": dmean, "var": dvar, "count": count}
            if train:
                dbias, dscale = over_batch(train, dbias, dscale)
                yield scale * r * (dy - (dbias + z * dscale) / n)
            else:
                yield scale * r * dy

        with np.errstate(over="ignore"):
            return scale * z + params["bias"], pullback

    def shapes(n: int) -> dict[str, tuple[int, ...]]:
        return {"scale": (n,), "bias": (n,), "mean": (n,), "var": (n,), "count": ()}

    draws = {"scale": ones(), "bias": zeros(), "mean": zeros(), "var": ones(), "count": zeros()}
    return _layer(batch_norm, draws, shapes, settings={"eps": eps})


def LayerNorm(*, eps: float = 1e-5) -> Layer:
    """Normalize each row: ``y = scale (x - mean) / √(var + eps) + bias`` over the last axis, (..., n) to (..., n).

    Parameters: `scale` (n,) of ones and `bias` (n,) of zeros. A constant row gives `bias`, even if it is large. An
    `eps` below 1e-37 counts as 1e-37. Ba, Kiros and Hinton 2016, arXiv 1607.06450.
    """
    eps = max(number("eps", eps), TINY)

    def layer_norm(params: Tree, x: Array, train: Any) -> tuple[Array, Pullback]:
        scale = params["scale"]
        z, r, _, _ = standardized(x, -1, eps)

        def pullback(dy: Array) -> Iterator[Any]:
            yield {"scale": sum_of_rows(dy * z), "bias": sum_of_rows(dy)}
            dz = dy * scale
            yield r * (dz - mean_of(dz, -1) - z * mean_of(dz * z, -1))

        return scale * z + params["bias"], pullback

    draws = {"scale": ones(), "bias": zeros()}
    return _layer(layer_norm, draws, lambda n: {"scale": (n,), "bias": (n,)}, settings={"eps": eps})


def RMSNorm(*, eps: float | None = None) -> Layer:
    """Scale each row to a root mean square of 1: ``y = scale x / √(mean x² + eps)``, (..., n) to (..., n).

    Parameter: `scale` (n,) of ones. `eps` is by default the machine epsilon of the parameters' dtype, or of float32
    for float16; below 1e-37 it counts as 1e-37. Zhang and Sennrich 2019, arXiv 1910.07467. PyTorch: RMSNorm.

    >>> layer = RMSNorm(eps=0.0)
    >>> _, params = layer.init(random.key(0), (2,))
    >>> layer.apply(params, np.array([[3.0, 4.0]])).round(4)
    array([[0.8485, 1.1314]], dtype=float32)
    """
    eps = None if eps is None else max(number("eps", eps), TINY)

    def rms_norm(params: Tree, x: Array, train: Any) -> tuple[Array, Pullback]:
        scale = params["scale"]
        z, r = rms_normalized(x, float(np.finfo(scale.dtype).eps) if eps is None else eps)

        def pullback(dy: Array) -> Iterator[Any]:
            yield {"scale": sum_of_rows(dy * z)}
            dz = dy * scale
            yield r * (dz - z * mean_of(dz * z, -1))

        return scale * z, pullback

    return _layer(rms_norm, {"scale": ones()}, lambda n: {"scale": (n,)}, settings={"eps": eps})


def GLU() -> Layer:
    """Gate one half of the features by the other: ``y = a σ(b)`` with ``x = (a, b)``, (..., 2n) to (..., n).

    Raises ValueError for an odd number of features. Dauphin, Fan, Auli and Grangier 2017, arXiv 1612.08083.
    PyTorch: GLU over the last axis.

    >>> GLU().apply({}, np.array([[3.0, 0.0]]))
    array([[1.5]])
    """

    def init(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        if (n := _width(shape)) % 2:
            raise ValueError(f"shape: expected an even number of features, got {shape}")
        return (*shape[:-1], n // 2), {}

    @differentiable
    def glu(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Array, Pullback]:
        x = activations.floating(x)
        if x.ndim == 0 or x.shape[-1] % 2:
            raise ValueError(f"x: expected an even number of features along the last axis, got shape {x.shape}")
        a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        s, back = activations.sigmoid.rule(b)

        def pullback(dy: Array) -> Iterator[Any]:
            yield {}
            yield np.concatenate([dy * s, *back(dy * a)], -1)

        return a * s, pullback

    return Layer(init, glu)


@hinting
def Dropout(rate: float) -> Layer:
    """In training, zero each number with probability `rate` and divide the others by 1 - rate; otherwise the identity.

    `rate` is in [0, 1), rounded to a multiple of 2⁻¹⁶. Raises ValueError for ``train=True`` without a key.

    Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting".

    >>> Dropout(0.5).apply({}, np.ones(8, np.float32), train=True, key=random.key(0))
    array([2., 0., 0., 0., 0., 2., 0., 2.], dtype=float32)
    """
    rate = number("rate", rate, "[0, 1)")
    keep = max(round((1 - rate) * 65536), 1) / 65536

    @differentiable
    def dropout(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Any, Pullback]:
        if not train or keep == 1 or isinstance(train, Calibration):
            return x, lambda dy: ({}, dy)
        if key is None:
            raise ValueError("key: dropout needs a key when train=True, such as random.key(seed); got None")
        x = activations.floating(x)
        draw = train.bernoulli if isinstance(train, Shard) else random.bernoulli
        mask = draw(key, keep, x.shape).astype(x.dtype) * (1 / keep)
        return x * mask, lambda dy: ({}, dy * mask)

    dropout.settings = {"rate": rate}
    return Layer(_same_shape, dropout)


def Flatten() -> Layer:
    """Join the axes of each example: (batch, a, b, …) to (batch, a·b·…)."""

    def init(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        return (prod(shape_of_one("shape", shape)),), {}

    @differentiable
    def flatten(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Array, Pullback]:
        if np.ndim(x) == 0:
            raise ValueError(f"x: expected a batch, shape (rows, ...), got {given(x)}")
        x = asarray(array("x", x))
        return x.reshape(len(x), prod(x.shape[1:])), lambda dy: ({}, dy.reshape(x.shape))

    return Layer(init, flatten)


def Activation(f: Callable[..., Any], **settings: Any) -> Layer:
    """Apply a differentiable function without parameters: ``y = f(x, **settings)``.

    Raises TypeError if `f` carries no vjp or does not take the settings.

    >>> Activation(activations.leaky_relu, negative_slope=0.5).apply({}, np.array([-1.0, 1.0]))
    array([-0.5,  1. ])
    """
    rule = rule_of(f, "Activation")
    while isinstance(f, functools.partial) and not f.args:
        settings = f.keywords | settings
        f = f.func
    if settings:
        _bound(getattr(f, "__name__", "Activation"), f, (), settings)

    def activation(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Any, Pullback]:
        y, pullback = rule(x, **settings)
        return y, lambda dy: ({}, *pullback(dy))

    activation.__name__ = getattr(f, "__name__", "activation")
    apply = Differentiable(activation)
    apply.settings = {"f": f, **settings}
    return Layer(_same_shape, apply)


def Prelu(num_parameters: int = 1, init: float = 0.25) -> Layer:
    """``max(x, 0) + slope · min(x, 0)`` with a learned `slope`, one for all features or one for each.

    Parameter: `slope` (num_parameters,), which starts at `init`. At 0 the derivative is the slope. He, Zhang, Ren and
    Sun 2015, arXiv 1502.01852.
    """
    k, start = integer("num_parameters", num_parameters), constant(number("init", init, "(-inf, inf)"))

    def prelu(params: Tree, x: Array, train: Any) -> tuple[Array, Pullback]:
        slope, negative = params["slope"], np.minimum(x, 0)

        def pullback(dy: Array) -> Iterator[Any]:
            dslope = sum_of_rows(dy * negative)
            yield {"slope": dslope if k > 1 else dslope.sum(keepdims=True)}
            yield np.where(x > 0, dy, slope * dy)

        return np.maximum(x, 0) + slope * negative, pullback

    layer = _layer(prelu, {"slope": start}, lambda n: {"slope": (k,)}, any_width=k == 1)

    def init_of_width(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        if k not in (1, n := _width(shape)):
            raise ValueError(f"num_parameters: expected 1 or the width, {n}, got {k}")
        return layer.init(key, shape)

    return Layer(init_of_width, layer.apply)


# ------------------------------------------------------------------------------------ combinators


def serial(*layers: Layer) -> Layer:
    """Compose layers, each applied to the result of the one before: ``y = fₙ(… f₂(f₁(x)))``.

    The parameters are a dict of the children's parameters, named by kind and position, such as ``dense_0``; children
    without parameters have no entry. In training, each child gets its own key. An error in a child names the child.

    >>> net = serial(Dense(8), Elu(), Dense(1))
    >>> shape, params = net.init(random.key(0), (4,))
    >>> shape, sorted(params)
    ((1,), ['dense_0', 'dense_2'])
    """
    children = _named("serial", layers)

    def init(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        params = {}
        for (name, layer), k in zip(children.items(), random.split(key, len(children)), strict=True):
            try:
                shape, params[name] = layer.init(k, shape)
            except (TypeError, ValueError) as error:
                _raise_inside(name, error)
        return shape, {name: child for name, child in params.items() if leaves(child)}

    def forward(
        params: Tree, x: Any, *, train: Any = False, key: Key | None = None, pullbacks: list[Pullback] | None = None
    ) -> Any:
        _check_children(params, children)
        x = _in_dtype_of(params, x)
        for (name, layer), k in zip(children.items(), _keys(key, train, len(children)), strict=True):
            try:
                x, pullback = rule_of(layer.apply)(params.get(name, {}), x, train=train, key=k)
            except (IndexError, KeyError, TypeError, ValueError) as error:
                _raise_inside(name, error)
            if pullbacks is not None:  # otherwise its memory is free at the next layer
                pullbacks.append(pullback)
        return x

    def serial(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Any, Pullback]:
        pullbacks: list[Pullback] = []
        y = forward(params, x, train=train, key=key, pullbacks=pullbacks)

        def chain_rule(dy: Any) -> Iterator[Any]:
            grads = {}
            cotangents, name = iter([dy]), "serial"
            first = next((i for i, name in enumerate(children) if name in params), len(children))
            below = [*zip(children, pullbacks, strict=True)]
            for layer, pullback in reversed(below[first:]):
                dy = _next(cotangents, name)  # by x, from the layer above
                name = layer
                cotangents = iter(pullback(dy))
                grads[name] = _next(cotangents, name)
            yield {key: grads[key] for key in params}
            for layer, pullback in reversed(below[:first]):  # only if somebody asks for the derivative by x
                dy = _next(cotangents, name)
                name = layer
                cotangents = iter(pullback(dy))
                _next(cotangents, name)
            yield _next(cotangents, name)

        return y, chain_rule

    return Layer(init, _combinator(serial, children, value=forward))


def parallel(*layers: Layer) -> Layer:
    """Apply each layer to its own input: ``(x₁, …, xₙ)`` to ``(f₁(x₁), …, fₙ(xₙ))``, tuples of n.

    Parameters, keys and errors as in `serial`.
    """
    children = _named("parallel", layers)

    def init(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        _check_branches("shape", shape, len(children))
        shapes, params = [], {}
        for (name, layer), k, s in zip(children.items(), random.split(key, len(children)), shape, strict=True):
            try:
                out, params[name] = layer.init(k, s)
            except (TypeError, ValueError) as error:
                _raise_inside(name, error)
            shapes.append(out)
        return tuple(shapes), {name: child for name, child in params.items() if leaves(child)}

    def parallel(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Any, Pullback]:
        _check_children(params, children)
        _check_branches("x", x, len(children))
        ys, pullbacks = [], []
        for (name, layer), k, xi in zip(children.items(), _keys(key, train, len(children)), x, strict=True):
            try:
                y, pullback = rule_of(layer.apply)(params.get(name, {}), xi, train=train, key=k)
            except (IndexError, KeyError, TypeError, ValueError) as error:
                _raise_inside(name, error)
            ys.append(y)
            pullbacks.append(pullback)

        def side_by_side(dy: Any) -> Iterator[Any]:
            cotangents = [iter(pullback(d)) for pullback, d in zip(pullbacks, dy, strict=True)]
            grads = {name: _next(c, name) for name, c in zip(children, cotangents, strict=True)}
            yield {name: grads[name] for name in params}
            yield tuple(_next(c, name) for name, c in zip(children, cotangents, strict=True))

        return tuple(ys), side_by_side

    return Layer(init, _combinator(parallel, children))


def residual(*layers: Layer) -> Layer:
    """Add the input to the result: ``y = x + f(x)`` with ``f = serial(*layers)``. The parameters are those of f.

    Raises ValueError at init if f changes the shape. He, Zhang, Ren and Sun 2016, arXiv 1512.03385.
    """
    children = _named("residual", layers)
    inner = serial(*layers)
    rule = rule_of(inner.apply)

    def init(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        out, params = inner.init(key, shape)
        if out != shape:
            raise ValueError(f"shape: expected a result of the input's shape, {shape}, got {out}")
        return shape, params

    def residual(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Any, Pullback]:
        y, inner_pullback = rule(params, x, train=train, key=key)

        def pullback(dy: Any) -> Iterator[Any]:
            cotangents = iter(inner_pullback(dy))
            yield _next(cotangents, "residual")
            yield _sum((_next(cotangents, "residual"), dy))

        return _sum((y, x if isinstance(y, tuple) else asarray(array("x", x)))), pullback

    return Layer(init, _combinator(residual, children))


def fan_out(n: int) -> Layer:
    """Pass the input to n branches: ``x`` to ``(x, …, x)``; their cotangents add up."""
    n = integer("n", n)

    def init(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        return (shape,) * n, {}

    @differentiable
    def fan_out(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Any, Pullback]:
        return (x,) * n, lambda dy: ({}, _sum(dy))

    fan_out.settings = {"n": n}
    return Layer(init, fan_out)


def fan_in_sum() -> Layer:
    """Add the branches: ``(x₁, …, xₙ)`` to ``x₁ + … + xₙ``, all of one shape."""

    def init(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        _check_branches("shape", shape)
        if not all(isinstance(s, tuple) for s in shape):
            raise TypeError(f"shape: expected a tuple of shapes, one for each branch, got {given(shape)}")
        if any(s != shape[0] for s in shape):
            raise ValueError(f"shape: expected branches of one shape, got {shape}")
        return shape[0], {}

    @differentiable
    def fan_in_sum(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Array, Pullback]:
        _check_branches("x", x)
        return _sum(x), lambda dy: ({}, (dy,) * len(x))

    return Layer(init, fan_in_sum)


def fan_in_concat(axis: int = -1) -> Layer:
    """Join the branches along `axis`, counted with the batch axis as 0; the last by default."""
    axis = integer("axis", axis, None)

    def init(key: Key, shape: Shape) -> tuple[Shape, Tree]:
        _check_branches("shape", shape)
        if not all(isinstance(s, tuple) for s in shape):
            raise TypeError(f"shape: expected a tuple of shapes, one for each branch, got {given(shape)}")
        ndim = len(shape[0]) + 1
        at = axis % ndim - 1 if -ndim <= axis < ndim else -1
        if at < 0 or any(s[:at] + s[at + 1 :] != shape[0][:at] + shape[0][at + 1 :] for s in shape):
            raise ValueError(f"shape: branches of shapes {shape} cannot be joined along axis {axis}")
        return (*shape[0][:at], sum(s[at] for s in shape), *shape[0][at + 1 :]), {}

    @differentiable
    def fan_in_concat(params: Tree, x: Any, *, train: Any = False, key: Key | None = None) -> tuple[Array, Pullback]:
        _check_branches("x", x)
        x = [asarray(array("x", branch)) for branch in x]
        try:
            y = np.concatenate(x, axis, dtype=_common_dtype(*x))
        except ValueError:
            shapes = [branch.shape for branch in x]
            raise ValueError(f"x: branches of shapes {shapes} cannot be joined along axis {axis}") from None
        ends = np.cumsum([branch.shape[axis] for branch in x])[:-1]
        return y, lambda dy: ({}, tuple(np.split(dy, ends, axis)))

    fan_in_concat.settings = {"axis": axis}
    return Layer(init, fan_in_concat)


# ---------------------------------------------------------------------------- activations as layers


def _of(f: Callable[..., Any], name: str = "") -> Callable[..., Layer]:
    """Make the constructor of an activation's layer, which takes the settings of the activation."""

    def constructor(*args: Any, **settings: Any) -> Layer:
        settings = _bound(constructor.__name__, f, args, settings)
        if f.__name__ in ("softmax", "log_softmax"):
            integer("axis", settings.get("axis", -1), None)
        else:
            f(0.0, **settings)  # raises an error for settings that make no sense
        return Activation(f, **settings)

    constructor.__name__ = constructor.__qualname__ = name or "".join(map(str.capitalize, f.__name__.split("_")))
    constructor.__doc__ = f"The layer of `activations.{f.__name__}`, with the same settings.\n\n{f.__doc__}"
    return constructor


Identity = _of(activations.identity)
Tanh = _of(activations.tanh)
Tanhshrink = _of(activations.tanhshrink)
Hardtanh = _of(activations.hardtanh)
Sigmoid = _of(activations.sigmoid)
LogSigmoid = _of(activations.log_sigmoid)
Hardsigmoid = _of(activations.hardsigmoid)
Relu = _of(activations.relu)
Relu6 = _of(activations.relu6)
LeakyRelu = _of(activations.leaky_relu)
Elu = _of(activations.elu)
Celu = _of(activations.celu)
Selu = _of(activations.selu)
Gelu = _of(activations.gelu)
Mish = _of(activations.mish)
Silu = _of(activations.silu)
Hardswish = _of(activations.hardswish)
Softplus = _of(activations.softplus)
Softsign = _of(activations.softsign)
Softshrink = _of(activations.softshrink)
Hardshrink = _of(activations.hardshrink)
Threshold = _of(activations.threshold)
Softmax = _of(activations.softmax)
LogSoftmax = _of(activations.log_softmax)
Swish = _of(activations.swish, "Swish")

__all__ = [
    "GLU",
    "Activation",
    "BatchNorm",
    "Celu",
    "Dense",
    "Dropout",
    "Elu",
    "Embedding",
    "Flatten",
    "Gelu",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "Prelu",
    "RMSNorm",
    "Relu",
    "Relu6",
    "Selu",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Swish",
    "Tanh",
    "Tanhshrink",
    "Threshold",
    "fan_in_concat",
    "fan_in_sum",
    "fan_out",
    "parallel",
    "residual",
    "serial",
]


# ---------------------------------------------------------------------------------------- helpers


def _same_shape(key: Key, shape: Shape) -> tuple[Shape, Tree]:
    if not isinstance(shape, tuple):
        raise ValueError(f"shape: expected the shape of one example, such as (128,), got {given(shape)}")
    return shape, {}


def _bound(name: str, f: Callable[..., Any], args: tuple[Any, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """Return an activation's settings by name; raise TypeError for a setting that `f` does not take."""
    try:
        arguments = inspect.signature(f).bind(None, *args, **settings).arguments
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    return dict(list(arguments.items())[1:])


def _in_dtype_of(params: Tree, x: Any) -> Any:
    """Convert floating-point inputs to the dtype of the parameters, so that they do not upcast other branches."""
    leaf = params
    while isinstance(leaf, dict):
        leaf = next(iter(leaf.values()), None)
    if not isinstance(leaf, np.ndarray) or (isinstance(x, np.ndarray) and x.dtype == leaf.dtype):
        return x
    return tree_cast(x, leaf.dtype) if isinstance(x, np.ndarray | tuple) else x


def _sum(xs: Sequence[Any]) -> Any:
    """Add arrays, or tuples of arrays, of one shape."""
    return functools.reduce(functools.partial(tree_map, _add), xs)


def _add(x: Any, y: Any) -> Array:
    if np.shape(x) != np.shape(y):
        raise ValueError(f"x: expected branches of one shape, got {np.shape(x)} and {np.shape(y)}")
    total: Array = np.add(x, y, dtype=_common_dtype(asarray(x), asarray(y)))
    return total


def _common_dtype(*arrays: Array) -> np.dtype[Any]:
    """Return the smallest floating-point dtype of the branches: wider ones are integers that were read as float64."""
    floating = [a.dtype for a in arrays if a.dtype.kind == "f"]
    return min(floating, key=lambda dtype: dtype.itemsize) if floating else np.result_type(*(a.dtype for a in arrays))


def _width(shape: Shape) -> int:
    if not isinstance(shape, tuple) or not shape or not all(isinstance(n, int | np.integer) and n > 0 for n in shape):
        raise ValueError(f"shape: expected the shape of one example, such as (128,), got {given(shape)}")
    return int(shape[-1])


def check_net(net: Any) -> None:
    """Raise TypeError unless `net` is a layer."""
    if not isinstance(net, Layer):
        hint = f"; call the constructor: {getattr(net, '__name__', '')}()" if callable(net) else ""
        raise TypeError(f"net: expected a layer, such as serial(...), got {given(net)}{hint}")


def _named(asker: str, layers: Iterable[Layer]) -> dict[str, Layer]:
    children = {}
    for i, layer in enumerate(layers):
        if not isinstance(layer, tuple) or len(layer) != 2 or not all(callable(f) for f in layer):
            name = getattr(layer, "__name__", repr(layer))
            if isinstance(layer, Differentiable):
                hint = f"; make a layer of it: Activation({name})"
            elif isinstance(layer, np.ufunc):
                hint = f"; NumPy's functions have no vjp: use a layer such as {name.capitalize()}()"
            elif isinstance(layer, Iterable):
                name, hint = f"a {type(layer).__name__}", f"; unpack it: {asker}(*layers)"
            else:
                hint = f"; call the constructor: {name}()" if callable(layer) else ""
            raise TypeError(f"{asker}: expected layers, got {name} at position {i}{hint}")
        layer = Layer(*layer)
        rule_of(layer.apply, f"{asker}: the layer at position {i}")
        children[f"{getattr(layer.apply, '__name__', 'layer')}_{i}"] = layer
    return children


def _combinator(
    rule: Callable[..., Any], children: dict[str, Layer], value: Callable[..., Any] | None = None
) -> Differentiable[..., Any]:
    apply = Differentiable(rule, value)
    apply.children = children
    return apply


def _keys(key: Key | None, train: Any, n: int) -> Iterable[Key | None]:
    if not train or key is None:
        return [None] * n
    return random.split(key, n)


def _next(cotangents: Iterator[Any], name: str) -> Any:
    for cotangent in cotangents:
        return cotangent
    raise TypeError(f"{name}: expected its pullback to give two cotangents, of the parameters and of x; got fewer")


def _check_children(params: Tree, children: dict[str, Layer]) -> None:
    if not isinstance(params, dict):
        hint = "; init returns (shape, params)" if isinstance(params, tuple) and len(params) == 2 else ""
        raise TypeError(f"params: expected a dict of the layers' parameters, got {type(params).__name__}{hint}")
    if unknown := params.keys() - children.keys():
        names = ", ".join(children)
        raise ValueError(f"params: no layer is called {sorted(unknown)[0]}; the layers are {names}")


def _check_branches(name: str, x: Any, n: int | None = None) -> None:
    if not isinstance(x, tuple | list) or (not x if n is None else len(x) != n):
        got = f"{type(x).__name__} of {len(x)}" if isinstance(x, tuple | list) else type(x).__name__
        expected = "branches" if n is None else f"{n}, one for each branch"
        raise ValueError(f"{name}: expected a tuple of {expected}, got {got}")


def _raise_inside(name: str, error: Exception) -> NoReturn:
    """Raise a child's error again, with the child's name before it: ``dense_0/x: expected …``."""
    if isinstance(error, KeyError):
        raise ValueError(f"{name}/{error.args[0]}: no such key; is it missing from the parameters?") from error
    raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{name}/{error}") from error
