"""Networks as ONNX files, for ONNX Runtime and other runtimes (``pip install 'fmlp[onnx]'``).

Layers describe themselves (`structure.constructor_of`); this module writes each one in the operators of ONNX's opset
18 (2022).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from math import pi, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import onnx
except ModuleNotFoundError:
    raise ModuleNotFoundError("fmlp.onnx needs onnx: pip install 'fmlp[onnx]'") from None
from onnx import TensorProto, helper, numpy_helper

from fmlp import activations, tree
from fmlp.files import replacing
from fmlp.layers import Layer, Shape, check_net
from fmlp.structure import activation_of, constructor_of, inferred
from fmlp.tree import Tree

__all__ = ["export"]


def export(net: Layer, params: Tree, shape: Shape, path: str | os.PathLike[str]) -> None:
    """Write ``net.apply(params, x)``, the network at inference, to an ONNX file, atomically.

    `shape` is the shape of one example, as `init` takes it; the file accepts batches of any size. It computes in
    float32, whatever the dtype of the parameters. The input is called ``x``, or ``x_0``, ``x_1``, … if there are
    several, and the output ``y``. An input that an `Embedding` reads is int64; other inputs are float32. Parameters
    are named by their paths, ``dense_0/w``.

    NaN stays NaN. For infinite inputs, some of ONNX's activations give NaN where fmlp's do not.

    Raises ValueError, naming the leaf, when the parameters do not fit the network or float32, or a `BatchNorm` was
    never calibrated. Raises TypeError, naming the layer and its place, for a layer or an activation that is not part
    of fmlp.

    >>> import tempfile
    >>> from fmlp import random
    >>> from fmlp.layers import Dense, Elu, serial
    >>> net = serial(Dense(8), Elu(), Dense(1))
    >>> _, params = net.init(random.key(0), (4,))
    >>> file = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> export(net, params, (4,), file)
    >>> [node.op_type for node in onnx.load(file).graph.node]
    ['MatMul', 'Add', 'Elu', 'MatMul', 'Add', 'Identity']
    """
    check_net(net)
    out_shape, like = inferred(net, shape)
    tree.map(lambda expected, leaf: None, like, params)
    for name, expected, leaf in zip(tree.paths(like), tree.leaves(like), tree.leaves(params), strict=True):
        if np.shape(leaf) != expected.shape:
            raise ValueError(f"{name}: expected shape {expected.shape}, got {np.shape(leaf)}")
    x, names = _named("x", shape), [name for name, _ in _flat("x", shape)]
    graph = _Graph(names)
    y = _write(graph, "", net, params, x)
    if graph.wanted:  # now it is known which inputs an Embedding reads
        graph = _Graph(names, integers=graph.wanted)
        y = _write(graph, "", net, params, x)
    outputs = [graph.output(name, value, s) for (name, s), value in zip(_flat("y", out_shape), _values(y), strict=True)]
    inputs = [graph.info(name, name, s) for name, s in _flat("x", shape)]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "fmlp", inputs, outputs, list(graph.arrays.values())),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
        producer_name="fmlp",
    )
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as file:
        file.write(model.SerializeToString())


class _Graph:
    """The nodes written so far. A value is the name of an input or of a node's result.

    `integers` are the values that hold integers. `origins` maps a value that only rearranges inputs to those inputs.
    `wanted` are the inputs that should have been integers.
    """

    def __init__(self, inputs: Iterable[str], integers: Iterable[str] = ()) -> None:
        self.nodes: list[Any] = []
        self.arrays: dict[str, Any] = {}
        self.integers = set(integers)
        self.origins = {name: {name} for name in inputs}
        self.wanted: set[str] = set()

    def node(self, op: str, *values: Any, **attributes: Any) -> str:
        """Apply an operator to floats: values, plain numbers or arrays."""
        return self.raw(op, *[self.number(value) for value in values], **attributes)

    def moved(self, op: str, *values: str, **attributes: Any) -> str:
        """Apply an operator that only moves numbers, floats or integers."""
        whole = self.integers.issuperset(values)
        y = self.raw(op, *values, **attributes) if whole else self.node(op, *values, **attributes)
        if self.origins.keys() >= set(values):
            self.origins[y] = set().union(*[self.origins[value] for value in values])
        if whole:
            self.integers.add(y)
        return y

    def number(self, value: Any) -> str:
        """Return the value as a float."""
        if not isinstance(value, str):
            return self.array(str(value), value)
        return self.raw("Cast", value, to=TensorProto.FLOAT) if value in self.integers else value

    def integer(self, value: str, place: str) -> str:
        """Return an integer value, or note which inputs should have been integers."""
        if value not in self.origins:
            raise TypeError(f"{place}: expected integers, got what another layer computes")
        if value not in self.integers:
            self.wanted |= self.origins[value]
        return value

    def array(self, name: str, value: Any, dtype: npt.DTypeLike = np.float32) -> str:
        """Add a constant."""
        with np.errstate(over="ignore"):
            array = np.asarray(value, dtype)
        if np.isinf(array).any() and not np.isinf(value).any():
            raise ValueError(f"{name}: expected numbers within float32, got one of size {np.abs(value).max()}")
        self.arrays[name] = numpy_helper.from_array(array, name)
        return name

    def info(self, name: str, value: str, shape: Shape) -> Any:
        kind = TensorProto.INT64 if value in self.integers else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, ["batch", *map(int, shape)])

    def output(self, name: str, value: str, shape: Shape) -> Any:
        self.nodes.append(helper.make_node("Identity", [value], [name], name))
        return self.info(name, value, shape)

    def raw(self, op: str, *values: str, **attributes: Any) -> str:
        """Apply an operator to values as they are."""
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, values, [name], name, **attributes))
        return name


# ---------------------------------------------------------------------------------------- layers


def _write(g: _Graph, path: str, layer: Layer, params: Tree, x: Any) -> Any:
    """Write a layer applied to the value `x`, or to a tuple of values; return the value of the result."""
    kind, settings = constructor_of(layer), getattr(layer.apply, "settings", {})
    if kind in ("serial", "residual", "parallel"):
        y, children = x, layer.apply.children.items()  # type: ignore[attr-defined]
        if kind == "parallel":
            return tuple(
                _write(g, f"{path}{name}/", child, params.get(name, {}), xi)
                for (name, child), xi in zip(children, x, strict=True)
            )
        for name, child in children:
            y = _write(g, f"{path}{name}/", child, params.get(name, {}), y)
        return _sum(g, [y, x]) if kind == "residual" else y
    place = path.rstrip("/") or getattr(layer.apply, "__name__", "layer")
    if kind == "Activation":
        name, settings = activation_of(layer, place)
        return _ACTIVATIONS[name](g, g.number(x), **settings)
    if kind not in _LAYERS:
        raise TypeError(
            f"{place}: expected a layer of fmlp.layers, got a custom layer, which cannot be written in ONNX"
        )
    return _LAYERS[kind](g, path, params, x, **settings)


def _dense(g: _Graph, path: str, params: Tree, x: str) -> str:
    y = g.node("MatMul", x, g.array(f"{path}w", params["w"]))
    return g.node("Add", y, g.array(f"{path}b", params["b"])) if "b" in params else y


def _embedding(g: _Graph, path: str, params: Tree, x: str) -> str:
    return g.raw("Gather", g.array(f"{path}w", params["w"]), g.integer(x, f"{path}x"), axis=0)


def _batch_norm(g: _Graph, path: str, params: Tree, x: str, *, eps: float) -> str:
    if params["count"] == 0:
        raise ValueError(f"{path}mean: never computed; call params = fmlp.calibrate(net, params, x) after training")
    # Not ONNX's BatchNormalization: its features are the second axis, and it loses digits when the mean is large.
    scale = params["scale"] / np.sqrt(np.asarray(params["var"], np.float64) + eps)
    z = g.node("Sub", x, g.array(f"{path}mean", params["mean"]))
    z = g.node("Mul", z, g.array(f"{path}scale", scale))
    return g.node("Add", z, g.array(f"{path}bias", params["bias"]))


def _layer_norm(g: _Graph, path: str, params: Tree, x: str, *, eps: float) -> str:
    scale, bias = (g.array(f"{path}{name}", params[name]) for name in ("scale", "bias"))
    x = g.number(x)
    first = g.raw("Gather", x, g.array("first", [0], np.int64), axis=-1)  # without it, a large mean would cost digits
    return g.node("LayerNormalization", g.node("Sub", x, first), scale, bias, axis=-1, epsilon=eps)


def _rms_norm(g: _Graph, path: str, params: Tree, x: str, *, eps: float | None) -> str:
    eps = float(np.finfo(np.result_type(params["scale"], np.float32)).eps) if eps is None else eps
    square = g.raw("ReduceMean", g.node("Mul", x, x), g.array("last", [-1], np.int64))
    z = g.node("Div", x, g.node("Sqrt", g.node("Add", square, eps)))
    return g.node("Mul", z, g.array(f"{path}scale", params["scale"]))


def _glu(g: _Graph, path: str, params: Tree, x: str) -> str:
    halves = [f"{g.number(x)}_{half}_{len(g.nodes)}" for half in "ab"]
    g.nodes.append(helper.make_node("Split", [g.number(x)], halves, halves[0], axis=-1, num_outputs=2))
    return g.node("Mul", halves[0], g.node("Sigmoid", halves[1]))


def _prelu(g: _Graph, path: str, params: Tree, x: str) -> str:
    return g.node("PRelu", x, g.array(f"{path}slope", params["slope"]))


def _sum(g: _Graph, xs: Any) -> Any:
    if isinstance(xs[0], tuple):
        return tuple(_sum(g, parts) for parts in zip(*xs, strict=True))
    return g.node("Sum", *xs)


_LAYERS: dict[str | None, Callable[..., Any]] = {
    "Dense": _dense,
    "Embedding": _embedding,
    "BatchNorm": _batch_norm,
    "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm,
    "GLU": _glu,
    "Dropout": lambda g, path, params, x, rate: x,
    "Flatten": lambda g, path, params, x: g.moved("Flatten", x, axis=1),
    "Prelu": _prelu,
    "fan_out": lambda g, path, params, x, n: (x,) * n,
    "fan_in_sum": lambda g, path, params, x: _sum(g, x),
    "fan_in_concat": lambda g, path, params, x, axis: g.moved("Concat", *x, axis=axis),
}


# ------------------------------------------------------------------------------------ activations


def _gelu(g: _Graph, x: str, approximate: str) -> str:
    if approximate == "tanh":
        cube = g.node("Mul", x, g.node("Mul", x, x))
        inner = g.node("Add", x, g.node("Mul", cube, 0.044715))
        return g.node("Mul", x, g.node("Sigmoid", g.node("Mul", inner, sqrt(8 / pi))))
    erf = g.node("Erf", g.node("Mul", x, sqrt(0.5)))
    return g.node("Mul", g.node("Mul", x, 0.5), g.node("Add", erf, 1.0))


def _softplus(g: _Graph, x: str, beta: float, threshold: float) -> str:
    z = g.node("Mul", x, beta)
    y = g.node("Div", g.node("Softplus", z), beta)
    return g.node("Where", g.raw("Greater", z, g.number(threshold)), x, y)


_ACTIVATIONS: dict[str, Callable[..., str]] = {
    "identity": lambda g, x: x,
    "tanh": lambda g, x: g.node("Tanh", x),
    "tanhshrink": lambda g, x: g.node("Sub", x, g.node("Tanh", x)),
    "hardtanh": lambda g, x, min_val, max_val: g.node("Clip", x, min_val, max_val),
    "sigmoid": lambda g, x: g.node("Sigmoid", x),
    "log_sigmoid": lambda g, x: g.node("Neg", g.node("Softplus", g.node("Neg", x))),
    "hardsigmoid": lambda g, x: g.node("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "relu": lambda g, x: g.node("Relu", x),
    "relu6": lambda g, x: g.node("Clip", x, 0.0, 6.0),
    "leaky_relu": lambda g, x, negative_slope: g.node("LeakyRelu", x, alpha=float(negative_slope)),
    "elu": lambda g, x, alpha: g.node("Elu", x, alpha=float(alpha)),
    "celu": lambda g, x, alpha: g.node("Celu", x, alpha=float(alpha)),
    "selu": lambda g, x: g.node("Selu", x, alpha=activations.SELU_ALPHA, gamma=activations.SELU_SCALE),
    "gelu": _gelu,
    "mish": lambda g, x: g.node("Mish", x),
    "silu": lambda g, x: g.node("Mul", x, g.node("Sigmoid", x)),
    "hardswish": lambda g, x: g.node("HardSwish", x),
    "softplus": _softplus,
    "softsign": lambda g, x: g.node("Softsign", x),
    # Not ONNX's Shrink, and not x > lambd: both turn NaN into 0.
    "softshrink": lambda g, x, lambd: g.node("Sub", x, g.node("Clip", x, -float(lambd), float(lambd))),
    "hardshrink": lambda g, x, lambd: g.node("Where", g.node("LessOrEqual", g.node("Abs", x), lambd), 0.0, x),
    "threshold": lambda g, x, threshold, value: g.node("Where", g.node("LessOrEqual", x, threshold), value, x),
    "softmax": lambda g, x, axis: g.node("Softmax", x, axis=int(axis)),
    "log_softmax": lambda g, x, axis: g.node("LogSoftmax", x, axis=int(axis)),
}


# ---------------------------------------------------------------------------------------- helpers


def _named(name: str, shape: Shape) -> Any:
    """Name the values of a shape, or of a tuple of shapes: ``x``, or ``(x_0, x_1)``."""
    return name if _is_one(shape) else tuple(_named(f"{name}_{i}", s) for i, s in enumerate(shape))


def _flat(name: str, shape: Shape) -> list[tuple[str, Shape]]:
    """List the names of `_named` with their shapes."""
    return [(name, shape)] if _is_one(shape) else [p for i, s in enumerate(shape) for p in _flat(f"{name}_{i}", s)]


def _values(y: Any) -> list[str]:
    return [value for part in y for value in _values(part)] if isinstance(y, tuple) else [y]


def _is_one(shape: Shape) -> bool:
    return not any(isinstance(n, tuple) for n in shape)
