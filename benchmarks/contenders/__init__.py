"""The contenders, one module each, with a class `Network(case, threads, **options)` that has some of these methods.

``loss_and_grads(x, y)``, ``step(x, y)``, ``plan(x, y)``, ``fit(x, y, batch)``, ``estimator(x, y, batch)``,
``predict(x)``, ``parameters()``, ``save(path)`` and ``reset()``. `step`, `plan`, `fit`, `estimator` and `predict`
return a function of k that makes k steps, plans of a step, epochs, epochs or predictions and is back when they are
done; what can be made ready beforehand is. `threads` 0 stands for the library's own default.
"""

from importlib.util import find_spec

MODULES = {
    "floor": ("floor", ()),
    "by hand": ("hand", ()),
    "fmlp": ("fmlp_", ("fmlp",)),
    "jax": ("jax_", ("jax", "optax")),
    "torch": ("torch_", ("torch",)),
    "sklearn": ("sklearn_", ("sklearn",)),
    "onnxruntime": ("onnx_", ("onnx", "onnxruntime")),
}
"""For each contender its module here, and the packages that it needs."""

OPTIONS = {"jax": ({}, {"prng": "threefry2x32"})}
"""Settings of training of which none is the best everywhere: all are measured, and the best counts."""


def missing(contender: str) -> list[str]:
    """Return the packages that the contender needs and that are not installed."""
    return [package for package in MODULES[contender][1] if find_spec(package) is None]
