"""Does fmlp reach PyTorch's accuracy? The same recipe in both, over five seeds, on the digits and the generated set.

python -m benchmarks.accuracy                # both; about ten minutes
python -m benchmarks.accuracy --only digits  # half a minute
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import fmlp
from benchmarks import cases
from benchmarks.contenders import fmlp_, torch_
from fmlp import data, losses, metrics, optim, random

DATA = Path(__file__).parents[1] / "data"
SETS = {  # epochs at batch 128, Adam 1e-3 without L2: the pipeline's recipe `simple`, shorter on the generated set
    "digits": (lambda: data.load(DATA / "digits.npz"), 90),
    "generated": (lambda: data.gaussian_classes(cache=DATA / "cache" / "generated.npz")[0], 30),
}
BATCH = 128


def initial(case: cases.Case, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw the Kaiming-uniform weights that both start from."""
    generator = np.random.default_rng(seed)
    return [
        (
            generator.uniform(-1, 1, (n, m)).astype(np.float32) * np.float32((6 / n) ** 0.5),
            np.zeros(m, np.float32),
        )
        for n, m, _, _ in case.layers()
    ]


def with_fmlp(case: cases.Case, sets: data.Dataset, epochs: int, seed: int) -> float:
    """Train with fmlp, and return the test accuracy."""
    network = fmlp_.Network(case, threads=0)
    params = {name: {"w": w, "b": b} for name, (w, b) in zip(network.initial, initial(case, seed), strict=True)}
    result = fmlp.fit(
        network.net, params, sets[:2], loss=losses.cross_entropy, optimizer=optim.adam(1e-3), epochs=epochs,
        batch_size=BATCH, key=random.key(seed), progress=False,
    )  # fmt: skip
    return metrics.accuracy(sets.y_test, fmlp.predict(network.net, result.params, sets.x_test).argmax(1))


def with_torch(case: cases.Case, sets: data.Dataset, epochs: int, seed: int) -> float:
    """Train with PyTorch, and return the test accuracy."""
    torch.manual_seed(seed)
    network = torch_.Network(case, threads=0)
    linears = [m for m in network.net if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        for linear, (w, b) in zip(linears, initial(case, seed), strict=True):
            linear.weight.copy_(torch.from_numpy(w.T))
            linear.bias.copy_(torch.from_numpy(b))
    network.fit(sets.x_train, sets.y_train, BATCH)(epochs)
    network.net.eval()
    with torch.inference_mode():
        return metrics.accuracy(sets.y_test, network.net(torch.from_numpy(sets.x_test)).numpy().argmax(1))


def main() -> None:
    """Print both libraries' accuracies, and how far apart they are in standard errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    print(
        "| set | fmlp | PyTorch | difference | standard error of the difference |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for name in [options.only] if options.only else SETS:
        load, epochs = SETS[name]
        sets = load()
        moments = (np.full(sets.x_train.shape[1], f(sets.x_train)) for f in (np.mean, np.std))
        mean, std = (m.astype(np.float64) for m in moments)
        x_train, x_test = (data.standardize(x, mean, std) for x in (sets.x_train, sets.x_test))
        sets = sets._replace(x_train=x_train, x_test=x_test)
        case = replace(cases.DEEP, widths=(x_train.shape[1], *cases.DEEP.widths[1:]), weight_decay=0.0)
        found = np.array([[run(case, sets, epochs, seed) for seed in seeds] for run in (with_fmlp, with_torch)])
        ours, theirs = found.mean(1)
        error = np.sqrt((found.var(1, ddof=1) / options.seeds).sum())
        print(f"| {name} | {ours:.4f} | {theirs:.4f} | {ours - theirs:+.4f} | {error:.4f} |", flush=True)


if __name__ == "__main__":
    main()
