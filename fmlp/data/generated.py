"""A generated classification set whose best possible accuracy is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fmlp.arguments import StrPath, integer
from fmlp.data.dataset import Dataset, checked
from fmlp.files import Array, FileFormatError, read_npz, reading, replacing
from fmlp.serialization import write_npz

__all__ = ["gaussian_classes"]

_RADIUS, _NOISE = 4.5, 0.44  # with ten classes the Bayes accuracy is near 60 %
_RECIPE = 1  # increase it when the generated numbers change, so that old caches are refused


def gaussian_classes(
    rows_train: int = 50_000,
    rows_test: int = 10_000,
    features: int = 128,
    classes: int = 10,
    seed: int = 0,
    *,
    cache: StrPath | None = None,
) -> tuple[Dataset, float]:
    """Generate a noisy classification set, and compute the accuracy that no classifier can be expected to exceed.

    Each class has two centres, drawn uniformly from the sphere of radius 4.5. Labels y are drawn equally often (their
    counts differ by at most one). A row's class c is y or, with probability 0.44, drawn anew from all classes; x is one
    of the two centres of c, drawn at random, plus N(0, I). Hence, with centres m and C classes::

        p(y | x) = 0.56 Σ_{m of y} exp(m·x) / Σ_{all m} exp(m·x) + 0.44 / C

    Returns the `Dataset`, with float32 features and int64 labels, and the Bayes accuracy on its test rows, the mean of
    max_y p(y | x). A linear classifier falls some points short of it. `cache` is an .npz file: if it exists, both are
    read from it, otherwise they are written to it, atomically.

    Raises ValueError for an invalid count or seed; FileFormatError when `cache` exists but was not made by these
    arguments: it is never overwritten.

    >>> data, bayes_accuracy = gaussian_classes()
    >>> data.x_train.shape, round(bayes_accuracy, 2)
    ((50000, 128), 0.6)
    """
    rows_train, rows_test = integer("rows_train", rows_train), integer("rows_test", rows_test)
    features, classes, seed = integer("features", features), integer("classes", classes, 2), integer("seed", seed, 0)
    if seed >= 1 << 63:
        raise ValueError(f"seed: expected an integer below 2**63, got {seed}")
    recipe = np.array([_RECIPE, rows_train, rows_test, features, classes, seed])
    if cache is not None and Path(cache).exists():
        with reading(cache, "a generated set"):
            stored = read_npz(cache)
            if not np.array_equal(stored.get("recipe", ()), recipe):
                raise FileFormatError(f"{cache}: not what these arguments generate; delete it, or choose another cache")
            names = Dataset._fields
            kept = checked([stored[name] for name in names], [f"{cache}: {name}" for name in names])
            return kept, float(stored["bayes_accuracy"])

    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, 2, features))
    centres *= _RADIUS / np.linalg.norm(centres, axis=-1, keepdims=True)

    def draw(rows: int) -> tuple[Array, Array]:
        y = rng.permutation(rows) % classes
        c = np.where(rng.random(rows) < _NOISE, rng.integers(classes, size=rows), y)
        x = rng.standard_normal((rows, features), dtype=np.float32)
        x += centres.astype(np.float32)[c, rng.integers(2, size=rows)]
        return x, y

    data = Dataset(*draw(rows_train), *draw(rows_test))
    logits = data.x_test @ centres.reshape(-1, features).T
    likelihood = np.exp(logits - logits.max(1, keepdims=True)).reshape(-1, classes, 2).sum(-1)
    posterior = likelihood / likelihood.sum(1, keepdims=True)
    bayes_accuracy = float((1 - _NOISE) * posterior.max(1).mean() + _NOISE / classes)
    if cache is not None:
        arrays = data._asdict() | {"bayes_accuracy": np.array(bayes_accuracy), "recipe": recipe}
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
        with replacing(cache) as file:
            write_npz(file, arrays)
    return data, bayes_accuracy
