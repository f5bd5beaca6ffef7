"""Convert networks from PyTorch and back (``pip install 'fmlp[torch]'``).

A `torch.nn.Sequential` becomes a `serial` of the same layers in the same order. A state dict holds the same numbers as
the parameters, under other names: ``0.weight`` (out, in) is ``dense_0/w`` (in, out). Both libraries have Linear,
Embedding, BatchNorm1d, LayerNorm, RMSNorm and GLU over the last axis, Dropout, Flatten, PReLU, every activation with
its settings, and a Sequential inside a Sequential. Inputs are (batch, features): with more axes, the features are the
second axis for PyTorch's BatchNorm1d and PReLU, but the last for fmlp.

BatchNorm's ``running_mean`` and ``running_var`` are fmlp's `mean` and `var`. ``num_batches_tracked`` is the `count`:
how much the statistics were computed from, 0 if they never were.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

try:
    import torch
except ModuleNotFoundError:
    raise ModuleNotFoundError("fmlp.torch needs PyTorch: pip install 'fmlp[torch]'") from None
from torch import nn

from fmlp import activations, layers
from fmlp.arguments import unmasked
from fmlp.layers import Layer, check_net
from fmlp.structure import activation_of, constructor_of, inferred
from fmlp.tree import Array, Tree

__all__ = ["from_module", "from_state_dict", "to_module", "to_state_dict"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "tanhshrink": nn.Tanhshrink,
    "hardtanh": nn.Hardtanh,
    "sigmoid": nn.Sigmoid,
    "log_sigmoid": nn.LogSigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "softshrink": nn.Softshrink,
    "hardshrink": nn.Hardshrink,
    "threshold": nn.Threshold,
    "softmax": nn.Softmax,
    "log_softmax": nn.LogSoftmax,
}

_KINDS: set[Any] = {
    nn.Sequential,
    nn.Linear,
    nn.Embedding,
    nn.BatchNorm1d,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GLU,
    nn.Dropout,
    nn.Flatten,
    nn.PReLU,
}
_KINDS |= set(_ACTIVATIONS.values())

# PyTorch's names for the parameters of each layer, by the layer's constructor.
_NAMES = {
    "Dense": {"w": "weight", "b": "bias"},
    "Embedding": {"w": "weight"},
    "BatchNorm": {
        "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var", "count": "num_batches_tracked"
    },
    "LayerNorm": {"scale": "weight", "bias": "bias"},
    "RMSNorm": {"scale": "weight"},
    "Prelu": {"slope": "weight"},
}  # fmt: skip


def from_module(module: nn.Module) -> tuple[Layer, Tree]:
    """Make a network and its parameters from a `torch.nn.Sequential`, or from one of the layers it may hold.

    At inference the network computes what the module computes in eval mode. The arrays are copies, in the module's
    dtype (bfloat16, which NumPy lacks, becomes float32).

    Raises TypeError, naming the module and its place, for a module that fmlp does not have, that has hooks, or whose
    parameters are computed from other tensors (as by `spectral_norm`); ValueError for a setting that fmlp does not
    have.

    >>> net, params = from_module(nn.Sequential(nn.Linear(4, 8), nn.ELU(), nn.Dropout(0.2), nn.Linear(8, 1)))
    >>> list(params), params["dense_0"]["w"].shape
    (['dense_0', 'dense_3'], (4, 8))
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    net = _layer(module, "")
    dtypes = (tensor.dtype for tensor in module.state_dict().values() if tensor.is_floating_point())
    return net, from_state_dict(net, _whole_state(module, next(dtypes, torch.float32)))


def to_module(net: Layer, params: Tree) -> nn.Module:
    """Make a module from a network and its parameters; a `serial` becomes a `torch.nn.Sequential`.

    The module is in eval mode and computes what ``net.apply(params, x)`` computes. Its tensors are copies, in the dtype
    of the parameters. Raises TypeError, naming the layer and its place, for a layer that `torch.nn` does not have, and
    ValueError, naming the leaf, when the parameters do not fit the network or each other, or a `BatchNorm` was never
    calibrated.

    >>> from fmlp import random
    >>> from fmlp.layers import Dense, Elu, serial
    >>> net = serial(Dense(8), Elu(), Dense(1))
    >>> to_module(net, net.init(random.key(0), (4,))[1])
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ELU(alpha=1.0)
      (2): Linear(in_features=8, out_features=1, bias=True)
    )
    """
    state = to_state_dict(net, params)
    module = _module(net, state, "", "")
    module.load_state_dict(state, assign=True)
    return module.eval()


def from_state_dict(net: Layer, state: Mapping[str, Any]) -> Tree:
    """Return the parameters of `net` from the state dict of a Sequential of the same layers.

    The arrays are copies. Raises ValueError, naming the entry, when an entry is missing or left over, or its shape does
    not fit the network or the entries before it. Raises TypeError when `state` is not a state dict, and, naming the
    layer, for a layer that `torch.nn` does not have.

    >>> from fmlp.layers import Dense
    >>> from_state_dict(Dense(1), {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    {'w': array([[1.],
           [1.]], dtype=float32), 'b': array([0.], dtype=float32)}
    """
    check_net(net)
    if not isinstance(state, Mapping):
        raise TypeError(f"state: expected a state dict, as module.state_dict() gives it, got {type(state).__name__}")
    rest = dict(state)
    params, _ = _params(net, rest, "", "", None)
    if rest:
        raise ValueError(f"{next(iter(rest))}: in the state dict, not expected")
    return params


def to_state_dict(net: Layer, params: Tree) -> dict[str, torch.Tensor]:
    """Return the state dict of a Sequential of the same layers, with copies of the parameters.

    Raises the errors of `to_module`, but accepts a `BatchNorm` that was never calibrated.

    >>> from fmlp.layers import Dense
    >>> to_state_dict(Dense(1, bias=False), {"w": np.ones((2, 1))})
    {'weight': tensor([[1., 1.]], dtype=torch.float64)}
    """
    check_net(net)
    return dict(_state(net, params, "", "", None))


# -------------------------------------------------------------------------------------- parameters


def _params(layer: Layer, state: dict[str, Any], prefix: str, path: str, width: int | None) -> tuple[Tree, int | None]:
    """Move a layer's parameters out of `state`; return them and the width of the output, as `_like` does."""
    if constructor_of(layer) == "serial":
        children = {}
        for i, (name, child) in enumerate(_children(layer).items()):
            children[name], width = _params(child, state, f"{prefix}{i}.", f"{path}{name}/", width)
        return {name: params for name, params in children.items() if params}, width
    names = _names(layer, path)
    entries = {ours: prefix + theirs for ours, theirs in names.items() if prefix + theirs in state}
    found = {ours: _array(layer, state[entry], entry) for ours, entry in entries.items()}
    params = {}
    like, width = _like(layer, names, found, path, width)
    for ours, expected in like.items():
        entry = prefix + names[ours]
        if ours not in found:
            raise ValueError(f"{entry}: missing from the state dict, needed for {path}{ours}")
        if found[ours].shape != expected.shape:
            raise ValueError(f"{entry}: expected shape {expected.shape} for {path}{ours}, got {found[ours].shape}")
        params[ours] = np.array(found[ours], found["mean"].dtype if ours == "count" else None, order="C")
        del state[entry]
    return params, width


def _state(
    layer: Layer, params: Tree, prefix: str, path: str, width: int | None
) -> Generator[tuple[str, torch.Tensor], None, int | None]:
    """Yield the entries of the state dict; return the width of the output, as `_like` does."""
    if not isinstance(params, dict):
        raise TypeError(f"{path or 'params'}: expected a dict, got {type(params).__name__}")
    if constructor_of(layer) == "serial":
        _check_names(params, _children(layer), path)
        for i, (name, child) in enumerate(_children(layer).items()):
            width = yield from _state(child, params.get(name, {}), f"{prefix}{i}.", f"{path}{name}/", width)
        return width
    names = _names(layer, path)
    like, width = _like(layer, names, params, path, width)
    _check_names(params, like, path)
    for ours, expected in like.items():
        if ours not in params:
            raise ValueError(f"{path}{ours}: missing from the parameters")
        array = np.asarray(unmasked(f"{path}{ours}", params[ours]), np.int64 if ours == "count" else None)
        if array.shape != expected.shape:
            raise ValueError(f"{path}{ours}: expected shape {expected.shape}, got {array.shape}")
        array = array.T if constructor_of(layer) == "Dense" else array
        try:
            tensor = torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
        except TypeError as error:
            raise TypeError(f"{path}{ours}: {error}") from None
        yield prefix + names[ours], tensor
    return width


def _check_names(params: Tree, known: Mapping[str, Any], path: str) -> None:
    if unknown := params.keys() - known.keys():
        raise ValueError(f"{path}{sorted(unknown)[0]}: not expected, the network has no such parameters")


def _names(layer: Layer, path: str) -> dict[str, str]:
    """Map the names of a layer's parameters to PyTorch's; raises TypeError for a layer that PyTorch does not have."""
    kind, place = constructor_of(layer), path.rstrip("/") or getattr(layer.apply, "__name__", "layer")
    known = activation_of(layer, place)[0] in _ACTIVATIONS if kind == "Activation" else True
    if kind in _NAMES:
        return _NAMES[kind]
    if not known or kind not in ("serial", "Activation", "Dropout", "Flatten", "GLU"):
        raise TypeError(f"{place}: torch.nn has no such layer to put into a Sequential")
    return {}


def _like(
    layer: Layer, names: dict[str, str], params: Tree, path: str, width: int | None
) -> tuple[dict[str, Array], int | None]:
    """Return parameters of the right shapes, as `init` makes them, and the width of the output, None if unknown.

    `width` is the width of the input. If the layers before do not determine it, `params` do.
    """
    kind = constructor_of(layer)
    if width is None:
        widths = (np.shape(params[name])[0] for name in names if np.ndim(params.get(name, 0)))
        width = next((n for n in widths if kind != "Prelu" or n > 1), None)  # a single slope fits any width
    try:
        out_shape, like = inferred(layer, ((2 if kind == "GLU" else 1) if width is None else width,))
    except ValueError as error:
        raise ValueError(f"{path}{error}") from None
    if kind in ("Dense", "Embedding") or (kind == "GLU" and width is not None):
        width = out_shape[-1]
    return like, None if kind == "Flatten" else width


def _array(layer: Layer, tensor: Any, entry: str) -> Array:
    """Return a parameter as an array, transposed for Dense; it may share the tensor's memory."""
    try:
        tensor = torch.as_tensor(tensor).detach().cpu()
        array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (TypeError, NotImplementedError) as error:  # such as float8, or a tensor on "meta", which has no numbers
        raise TypeError(f"{entry}: {error}") from None
    return array.T if constructor_of(layer) == "Dense" else array


def _children(layer: Layer) -> dict[str, Layer]:
    children: dict[str, Layer] = layer.apply.children  # type: ignore[attr-defined]
    return children


# ------------------------------------------------------------------------------------------ layers


def _layer(module: nn.Module, place: str) -> Layer:
    """Make the layer for a module. A subclass counts as its base, unless it has its own `forward`."""
    kind: Any = next((kind for kind in type(module).__mro__ if kind in _KINDS), None)
    _check_parametrizations(module, place)
    _check_hooks(module, place.rstrip(".") or "module")
    if kind is None or type(module).forward is not kind.forward or "forward" in vars(module):
        own = " with a forward of its own" if kind else ""
        raise TypeError(f"{place.rstrip('.') or 'module'}: fmlp has no layer that is a {type(module).__name__}{own}")
    for name, activation in _ACTIVATIONS.items():
        if kind is activation:
            f = activations.table[name]
            settings = {s: getattr(module, "dim" if s == "axis" else s) for s in [*inspect.signature(f).parameters][1:]}
            _require(settings.get("axis", 0) is not None, place, "dim: expected a number, got None")
            return layers.Activation(f, **settings)
    match module:
        case nn.Sequential():
            return layers.serial(*[_layer(child, f"{place}{i}.") for i, child in enumerate(module)])
        case nn.Linear():
            return layers.Dense(module.out_features, bias=module.bias is not None)
        case nn.Embedding():
            _require(module.max_norm is None, place, f"max_norm: expected None, got {module.max_norm}")
            return layers.Embedding(module.num_embeddings, module.embedding_dim)
        case nn.BatchNorm1d():
            _require(module.track_running_stats, place, "track_running_stats: expected True, got False")
            return layers.BatchNorm(eps=module.eps)
        case nn.LayerNorm():
            shape = module.normalized_shape
            _require(len(shape) == 1, place, f"normalized_shape: expected one axis, the last, got {shape}")
            return layers.LayerNorm(eps=module.eps)
        case nn.RMSNorm():
            shape = module.normalized_shape
            _require(len(shape) == 1, place, f"normalized_shape: expected one axis, the last, got {shape}")
            return layers.RMSNorm(eps=module.eps)
        case nn.GLU():
            _require(module.dim == -1, place, f"dim: expected -1, the last axis, got {module.dim}")
            return layers.GLU()
        case nn.Dropout():
            _require(module.p < 1, place, f"p: expected a number in [0, 1), got {module.p}")
            return layers.Dropout(module.p)
        case nn.Flatten():
            dims = module.start_dim, module.end_dim
            _require(dims == (1, -1), place, f"start_dim, end_dim: expected 1 and -1, got {dims}")
            return layers.Flatten()
        case nn.PReLU():
            return layers.Prelu(module.num_parameters)
        case _:
            raise AssertionError(kind)


def _check_parametrizations(module: nn.Module, place: str) -> None:
    """Refuse a module if any of its parameters are computed from other tensors."""
    if nn.utils.parametrize.is_parametrized(module):
        for name, functions in module.parametrizations.items():  # type: ignore[operator, union-attr]
            by = ", ".join(type(function).__name__ for function in functions)
            raise TypeError(
                f"{place}{name}: computed by a parametrization, {by}; make it a parameter with "
                f"torch.nn.utils.parametrize.remove_parametrizations(module, {name!r})"
            )


def _check_hooks(module: nn.Module, place: str) -> None:
    """Refuse a module with hooks, of its own or global, which may change its results or its gradients."""
    for kind in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
        for hook in {**getattr(module, kind), **getattr(nn.modules.module, f"_global{kind}")}.values():
            name = getattr(hook, "__name__", type(hook).__name__)
            what = kind[1:-1].replace("_pre_hook", " pre-hook").replace("_hook", " hook")
            raise TypeError(
                f"{place}: has a {what}, {name}, which fmlp cannot keep; remove it first (handle.remove(), or "
                "torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove)"
            )


def _whole_state(module: nn.Module, dtype: torch.dtype, prefix: str = "") -> dict[str, Any]:
    """Return the module's state by position, with ones for scales and zeros for biases that are switched off."""
    if isinstance(module, nn.Sequential):  # its own state dict uses names, which need not be numbers
        return {k: v for i, child in enumerate(module) for k, v in _whole_state(child, dtype, f"{prefix}{i}.").items()}
    state = dict(module.state_dict())
    if isinstance(module, nn.RMSNorm):
        state = {"weight": torch.ones(module.normalized_shape[0], dtype=dtype), **state}
    if isinstance(module, nn.BatchNorm1d | nn.LayerNorm):
        n = module.num_features if isinstance(module, nn.BatchNorm1d) else module.normalized_shape[0]
        state = {"weight": torch.ones(n, dtype=dtype), "bias": torch.zeros(n, dtype=dtype), **state}
    return {prefix + name: value for name, value in state.items()}


def _module(layer: Layer, state: Mapping[str, torch.Tensor], prefix: str, path: str) -> nn.Module:
    """Make the module for a layer, with the shapes found in `state`."""
    kind, settings = constructor_of(layer), layer.apply.settings  # type: ignore[attr-defined]
    weight = state.get(f"{prefix}weight", torch.empty(0))
    match kind:
        case "serial":
            children = enumerate(_children(layer).items())
            return nn.Sequential(*[_module(c, state, f"{prefix}{i}.", f"{path}{name}/") for i, (name, c) in children])
        case "Dense":
            return nn.Linear(weight.shape[1], weight.shape[0], bias=f"{prefix}bias" in state)
        case "Embedding":
            return nn.Embedding(weight.shape[0], weight.shape[1])
        case "BatchNorm":
            if state[f"{prefix}num_batches_tracked"] == 0:
                raise ValueError(f"{path}mean: never computed; call params = fmlp.calibrate(net, params, x) before")
            return nn.BatchNorm1d(len(weight), eps=settings["eps"])
        case "LayerNorm":
            return nn.LayerNorm(len(weight), eps=settings["eps"])
        case "RMSNorm":
            return nn.RMSNorm(len(weight), eps=settings["eps"])
        case "GLU":
            return nn.GLU()
        case "Dropout":
            return nn.Dropout(settings["rate"])
        case "Flatten":
            return nn.Flatten()
        case "Prelu":
            return nn.PReLU(len(weight))
    name, arguments = activation_of(layer, path)
    return _ACTIVATIONS[name](**{"dim" if s == "axis" else s: value for s, value in arguments.items()})


def _require(condition: bool, place: str, message: str) -> None:
    if not condition:
        raise ValueError(f"{place}{message}")
