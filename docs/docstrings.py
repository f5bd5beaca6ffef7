"""How the site reads docstrings: doctests and what follows ``::`` become code blocks."""

import re
from typing import Any

import griffe

from fmlp import activations

RULES = ("elementwise", "differentiable", "loss(")


def fenced(text: str) -> str:
    """Fence the doctests and the indented examples of a docstring."""
    text = re.sub(r"^>>> .*(?:\n.+)*", r"```pycon\n\g<0>\n```", text, flags=re.MULTILINE)
    return re.sub(r"::\n\n((?: {4}.*(?:\n|$)|\n)+)", r":\n\n```python\n\1\n```\n", text)


class Docstrings(griffe.Extension):
    """Read docstrings as Markdown, and leave out the result of a rule: its function returns the value alone."""

    def on_module(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        """Tell which names are public where only running the module does."""
        if mod.path == activations.__name__:
            mod.exports = list(activations.__all__)

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change one object as it is loaded."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
        if obj.is_function and any(str(decorator.value).startswith(RULES) for decorator in obj.decorators):
            obj.returns = None
