"""Generates the noisy classification set of `fmlp.data.gaussian_classes` once, into data/cache/generated.npz."""

from pathlib import Path

from fmlp.data import gaussian_classes

CACHE = Path(__file__).parent / "cache" / "generated.npz"

if __name__ == "__main__":
    data, bayes_accuracy = gaussian_classes(cache=CACHE)
    print(f"{CACHE}: {len(data.x_train):,} + {len(data.x_test):,} rows, Bayes accuracy {bayes_accuracy:.2%}")
