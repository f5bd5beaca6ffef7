"""Measure where results depend on the number of OpenBLAS's threads or on the type of CPU, and how far.

python tests/reliability/blas.py

Every setting is tried in a process of its own. NumPy must be built with OpenBLAS, as its wheels for Linux are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

Results = dict[str, np.ndarray]

KERNELS = "SkylakeX", "Haswell", "Zen", "Nehalem"
CPUS = "X86_V4 AVX512_ICL", "X86_V3 X86_V4 AVX512_ICL"
SMALL = (32, 128, 64), (63, 65, 64), (128, 64, 32), (127, 65, 31), (5, 100, 500), (2, 300, 430), (8, 4000, 8)
LENGTHS = (*range(8, 385, 8), *range(385, 560, 3), *range(560, 1100, 30), 2000)


def results() -> Results:
    """Work out products, sums and trainings."""
    import test_determinism

    from fmlp import initializers, random, tree

    found = {}
    for dtype in (np.float32, np.float64):
        draw = random.generator(random.key(0)).standard_normal
        for m, k, n in SMALL:
            found[f"{dtype.__name__} product of at most 262,144: {m}x{k}x{n}"] = draw((m, k), dtype) @ draw(
                (k, n), dtype
            )
        a, b = draw((192, 2000), dtype), draw((2000, 192), dtype)
        for k in LENGTHS:
            found[f"{dtype.__name__} product of 192 x k x 192: {k}"] = np.ascontiguousarray(a[:, :k]) @ b[:k]
        for rows in (1000, 5000, 10_000, 20_000, 100_000):
            found[f"{dtype.__name__} sum of rows: {rows}"] = np.ones(rows, dtype) @ draw((rows, 1), dtype)
    for shape in ((64, 64), (256, 256), (512, 512), (784, 512)):
        found[f"orthogonal: {shape[0]}x{shape[1]}"] = initializers.orthogonal()(random.key(0), shape)
    found["parameters after three epochs: 64-64-64-10"] = tree.ravel(test_determinism.train(64, 128, 1438).params)[0]
    found["gradient: 784-512-512-10"] = test_determinism.large()[1]
    return found


def run(threads: int, **environment: str) -> Results:
    """Work them out in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, f"{folder}/results.npz"]
        subprocess.run(command, env=os.environ | {"OPENBLAS_NUM_THREADS": str(threads)} | environment, check=True)
        with np.load(f"{folder}/results.npz") as file:
            return dict(file)


def tell(what: str, a: Results, b: Results) -> None:
    """Print where two results differ, kind by kind, and by how much of the largest number."""
    print(what)
    kinds: dict[str, dict[str, float]] = {}
    for name in a:
        if not np.array_equal(a[name], b[name]):
            kind, size = name.split(": ")
            kinds.setdefault(kind, {})[size] = abs(a[name] - b[name]).max() / abs(a[name]).max()
    for kind, sizes in kinds.items():
        first, *_, last = [*sizes, *sizes]
        print(f"    {kind}: {len(sizes)} differ, {first} to {last}, by {max(sizes.values()):.1e} at most")


def main() -> None:
    """Measure, or be one of the processes that do."""
    if sys.argv[1:]:
        np.savez(sys.argv[1], **results())
        return
    here = run(1)
    for kernel in KERNELS:
        one = run(1, OPENBLAS_CORETYPE=kernel)
        tell(f"OPENBLAS_CORETYPE={kernel}, against this CPU's", here, one)
        for threads in (2, 4):
            tell(f"  1 and {threads} threads", one, run(threads, OPENBLAS_CORETYPE=kernel))
    for features in CPUS:
        tell(f"NPY_DISABLE_CPU_FEATURES='{features}'", here, run(1, NPY_DISABLE_CPU_FEATURES=features))


if __name__ == "__main__":
    main()
