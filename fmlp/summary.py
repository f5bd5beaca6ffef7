"""A network as a table: its layers, their output shapes, and their parameter counts."""

from __future__ import annotations

from collections.abc import Iterator

from fmlp import tree
from fmlp.layers import Layer, Shape, check_net
from fmlp.structure import inferred

__all__ = ["summary"]


def summary(net: Layer, shape: Shape) -> str:
    """Describe `net` for examples of `shape`: one line per layer, with the layers inside it indented.

    Raises TypeError when `net` is not a layer, and any error of its `init` when the shape does not fit.

    >>> from fmlp.layers import Dense, Elu, serial
    >>> print(summary(serial(Dense(8), Elu(), Dense(1)), (4,)))
    layer      output shape  parameters
    serial     (1,)                  49
      dense_0  (8,)                  40
      elu_1    (8,)                   0
      dense_2  (1,)                   9
    """
    check_net(net)
    name = getattr(net.apply, "__name__", "layer")
    rows = [("layer", "output shape", "parameters"), *_rows(name, net, shape, "")]
    first, second, third = (max(len(row[i]) for row in rows) for i in range(3))
    return "\n".join(f"{name:<{first}}  {out:<{second}}  {count:>{third}}" for name, out, count in rows)


def _rows(name: str, layer: Layer, shape: Shape, indent: str) -> Iterator[tuple[str, str, str]]:
    out, params = inferred(layer, shape)
    yield indent + name, str(out), f"{tree.size(params):,}"
    side_by_side = getattr(layer.apply, "__name__", "") == "parallel"
    children: dict[str, Layer] = getattr(layer.apply, "children", {})
    for i, (child_name, child) in enumerate(children.items()):
        yield from _rows(child_name, child, shape[i] if side_by_side else shape, indent + "  ")
        if not side_by_side:
            shape, _ = inferred(child, shape)
