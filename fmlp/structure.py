"""The structure of a network: each layer's constructor, its settings, and the shapes of its parameters."""

from __future__ import annotations

from typing import Any

from fmlp import activations, random
from fmlp.autodiff import Differentiable
from fmlp.layers import Layer, Shape
from fmlp.tree import Tree

__all__ = ["activation_of", "constructor_of", "inferred"]


def inferred(layer: Layer, shape: Shape) -> tuple[Shape, Tree]:
    """Return a layer's output shape, and parameters of the right shapes, for examples of `shape`."""
    return layer.init(random.key(0), shape)


def constructor_of(layer: Layer) -> str | None:
    """Name the constructor in `fmlp.layers` that made a layer, such as "Dense" or "serial"; None for custom layers.

    Together with the `settings` and `children` of its `apply`, and its parameters, this describes a layer completely.
    """
    f = layer.apply
    own = isinstance(f, Differentiable) and f.__module__ == "fmlp.layers"
    return f.__qualname__.split(".")[0] if own else None


def activation_of(layer: Layer, place: str) -> tuple[str, dict[str, Any]]:
    """Return the name in `activations.table`, and all settings, of the function in a layer made by `Activation`.

    Raises TypeError, naming the layer's `place`, for a function that is not in the table.
    """
    import inspect

    settings = dict(layer.apply.settings)  # type: ignore[attr-defined]
    f = settings.pop("f")
    name = getattr(f, "__name__", "")
    known = activations.table.get(name)
    if known is None or known is not f:
        raise TypeError(f"{place}: expected an activation of fmlp.activations, got {f!r}")
    bound = inspect.signature(known).bind(None, **settings)
    bound.apply_defaults()
    return name, dict([*bound.arguments.items()][1:])
