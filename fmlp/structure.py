"""The structure of a network: what made each layer, with what settings, and of what shapes its parameters are."""

from __future__ import annotations

from typing import Any

from fmlp import activations, random
from fmlp.autodiff import Differentiable
from fmlp.layers import Layer, Shape
from fmlp.tree import Tree

__all__ = ["activation_of", "constructor_of", "inferred"]


def inferred(layer: Layer, shape: Shape) -> tuple[Shape, Tree]:
    """Return the output's shape, and parameters of the shapes that a layer has, for examples of a shape."""
    return layer.init(random.key(0), shape)


def constructor_of(layer: Layer) -> str | None:
    """Name the constructor of `fmlp.layers` that made a layer: "Dense", "Activation", "serial"; None for others.

    With `settings` and `children` of its `apply`, and the parameters, that is all there is to know about a layer.
    """
    f = layer.apply
    own = isinstance(f, Differentiable) and f.__module__ == "fmlp.layers"
    return f.__qualname__.split(".")[0] if own else None


def activation_of(layer: Layer, place: str) -> tuple[str, dict[str, Any]]:
    """Return the name in `activations.table` and all settings of the function of a layer that `Activation` made.

    Raises TypeError, which names the layer's `place`, for a function of another make.
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
