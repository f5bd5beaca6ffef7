"""Train from a memory-mapped file several times larger than the memory allowed: speed, memory, quality of the shuffle.

python -m benchmarks.mapped             # half an hour or more; makes a file of 4 GiB in the folder for temporary files
python -m benchmarks.mapped --gib 1 --rounds 2   # three minutes
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import fmlp
from benchmarks.cases import DEEP
from benchmarks.scaling import network
from fmlp import data, losses, metrics, optim, random
from fmlp.layers import Dense, Relu, serial

LIMIT = 512 << 20  # of the memory that a process may ask for


def memory() -> dict[str, int]:
    """Read this process's memory, in bytes: now, and the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line[:5]: int(line.split()[1]) << 10 for line in lines if line.startswith(("VmRSS", "VmHWM"))}


def fit(x: Any, y: Any, batch: int, steps: int) -> tuple[float, float]:
    """Train the deep MLP for one pass over x, and return the seconds a step took, and those of the processor."""
    net = network(DEEP)
    _, params = net.init(random.key(0), x.shape[1:])
    settings: dict[str, Any] = {"loss": losses.cross_entropy, "optimizer": optim.adam(1e-3), "key": random.key(1)}
    busy = time.process_time()
    result = fmlp.fit(net, params, (x, y), epochs=1, batch_size=batch, progress=False, **settings)
    return result.seconds / steps, (time.process_time() - busy) / steps


def worker(folder: Path, way: str, batch: int) -> None:
    """Train from the file as it is, under the limit, or from a copy of it in memory."""
    y = np.load(folder / "y.npy")
    if way == "mapped":
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
        x = np.load(folder / "x.npy", mmap_mode="r")
    else:
        x = np.load(folder / "x.npy")
    before = memory()["VmRSS"]
    seconds, busy = fit(x, y, batch, len(x) // batch)
    print(json.dumps({"step": seconds, "busy": busy, "before": before, "peak": memory()["VmHWM"]}))


def make(folder: Path, gib: float) -> None:
    """Write a file of so many GiB, in pieces."""
    rows = int(gib * 2**30) // (4 * 128)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, 128))
    generator = np.random.default_rng(0)
    for i in range(0, rows, 1 << 16):
        x[i : i + (1 << 16)] = generator.standard_normal((len(x[i : i + (1 << 16)]), 128), np.float32)
    np.save(folder / "y.npy", x[:, :10].argmax(1))


def quality() -> None:
    """Train on data sorted by label, the hardest case for blocks: with a full shuffle, with windows, with none."""
    sets, bayes = data.gaussian_classes(200_000, 20_000)
    order = np.argsort(sets.y_train, kind="stable")
    net = serial(Dense(64), Relu(), Dense(10))
    _, params = net.init(random.key(0), (128,))
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", sets.x_train[order])
        x, y = np.load(f"{folder}/x.npy", mmap_mode="r"), sets.y_train[order]
        rows = 200_000 * 512
        for name, window, block, shuffle in [
            ("full", rows, 0, True),
            ("windows of 1/8 of the data, of 1,024 blocks", rows // 8, rows // 8192, True),
            ("windows of 1/64 of the data, of 128 blocks", rows // 64, rows // 8192, True),
            ("windows of 1/64 of the data, of 16 blocks", rows // 64, rows // 1024, True),
            ("none", rows, 0, False),
        ]:
            batching = sys.modules["fmlp.batches"]  # fmlp.batches is the function
            batching.WINDOW, batching.BLOCK = window, block
            scores = []
            for seed in range(3):
                settings: dict[str, Any] = {"loss": losses.cross_entropy, "optimizer": optim.adam(1e-3), "epochs": 3}
                result = fmlp.fit(
                    net,
                    params,
                    (x, y),
                    batch_size=128,
                    key=random.key(seed),
                    shuffle=shuffle,
                    progress=False,
                    **settings,
                )
                predicted = fmlp.predict(net, result.params, sets.x_test).argmax(1)
                scores.append(metrics.accuracy(sets.y_test, predicted))
            print(f"| {name} | {np.mean(scores):.4f} ± {np.std(scores):.4f} |", flush=True)
    print(f"| best possible | {bayes:.4f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder, way, batch = options.worker
        worker(Path(folder), way, int(batch))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.gib)
        print("| batch | in memory | mapped | ratio of speeds | of processor time | peak of memory, mapped |")
        print("|---|---|---|---|---|---|")
        for batch in (128, 1024):
            found: dict[str, list[dict[str, float]]] = {"memory": [], "mapped": []}
            for i in range(options.rounds):
                for way in list(found)[:: 1 if i % 2 else -1]:
                    words = [sys.executable, "-m", "benchmarks.mapped", "--worker", folder, way, str(batch)]
                    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
                    found[way].append(json.loads(done.stdout))
            steps = {way: np.array([r["step"] for r in records]) for way, records in found.items()}
            ratio = np.median(steps["memory"] / steps["mapped"])
            busy = np.median([m["busy"] / d["busy"] for m, d in zip(found["memory"], found["mapped"], strict=True)])
            peak = max(r["peak"] for r in found["mapped"]) / 2**20
            medians = " | ".join(f"{1e6 * np.median(s):.0f} µs" for s in steps.values())
            print(f"| {batch} | {medians} | {ratio:.2f} | {busy:.2f} | {peak:.0f} MiB |", flush=True)
    print("\n| shuffle of data sorted by label | test accuracy |\n|---|---|")
    quality()


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
