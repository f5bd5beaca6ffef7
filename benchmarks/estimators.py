"""fmlp's MLPClassifier and MLPRegressor beside scikit-learn's: score and time of a fit, at equal settings.

python -m benchmarks.estimators                 # everything, five seeds; about eight minutes on one thread
python -m benchmarks.estimators --only digits   # one data set
python -m benchmarks.estimators --short         # two seeds and a few epochs, to see that it runs
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.neural_network
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

import fmlp.estimators
from fmlp import data

CACHE = Path(__file__).parents[1] / "data" / "cache" / "generated.npz"
LIBRARIES = {"fmlp": fmlp.estimators, "scikit-learn": sklearn.neural_network}
GENERATED_EPOCHS = 10

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Features and targets of the training rows, then of the test rows."""


def generated(seed: int) -> Split:
    """Return the generated 50,000 x 128 set, the same for every seed."""
    return data.gaussian_classes(cache=CACHE)[0]


def of_scikit_learn(load: Any, *, regression: bool = False) -> Any:
    """Make a function from a seed to a split in which the features, and a regression's targets, are standardized."""

    def split(seed: int) -> Split:
        x, x_test, y, y_test = train_test_split(*load(return_X_y=True), test_size=0.2, random_state=seed)
        mean, std = data.moments(x)
        if regression:
            y, y_test = ((part - y.mean()) / y.std() for part in (y, y_test))
        return (x - mean) / std, y, (x_test - mean) / std, y_test

    return split


CASES = {  # settings beside scikit-learn's defaults, which are (100,), relu, Adam, batches of 200 and alpha 1e-4
    "digits": (of_scikit_learn(load_digits), "MLPClassifier", [{}, {"solver": "lbfgs"}]),
    "breast cancer": (of_scikit_learn(load_breast_cancer), "MLPClassifier", [{}, {"solver": "lbfgs"}]),
    "diabetes": (of_scikit_learn(load_diabetes, regression=True), "MLPRegressor", [{}, {"early_stopping": True}]),
    "generated": (
        generated,
        "MLPClassifier",
        [
            {"max_iter": GENERATED_EPOCHS},
            {"max_iter": GENERATED_EPOCHS, "hidden_layer_sizes": (256, 128)},
            {"max_iter": GENERATED_EPOCHS, "hidden_layer_sizes": (64,) * 6, "batch_size": 64},
        ],
    ),
}


def measure(name: str, estimator: str, settings: dict[str, Any], split: Split, dtype: Any, seed: int) -> Any:
    """Fit once, and return the score on the test rows and the seconds of the fit."""
    x, y, x_test, y_test = split
    x, x_test = x.astype(dtype), x_test.astype(dtype)
    model = getattr(LIBRARIES[name], estimator)(**settings, random_state=seed)
    started = time.perf_counter()
    model.fit(x, y)
    return time.perf_counter() - started, model.score(x_test, y_test)


def compare(case: str, settings: dict[str, Any], dtype: Any, seeds: range) -> str:
    """Fit with both libraries in turn, and return the row of the table: means, and standard errors of the scores."""
    load, estimator, _ = CASES[case]
    found = np.array(  # [seed, library, (seconds, score)]
        [[measure(name, estimator, settings, load(seed), dtype, seed) for name in LIBRARIES] for seed in seeds]
    )
    (ours, theirs), scores = found[..., 0].mean(0), found[..., 1]
    mean, error = scores.mean(0), scores.std(0, ddof=1) / len(seeds) ** 0.5
    difference = scores[:, 0] - scores[:, 1]
    described = ", ".join(f"{key}={value}" for key, value in settings.items()) or "defaults"
    return (
        f"| {case}: {described} | {np.dtype(dtype)} | {mean[0]:.4f} ± {error[0]:.4f} | {mean[1]:.4f} ± {error[1]:.4f} "
        f"| {difference.mean():+.4f} ± {difference.std(ddof=1) / len(seeds) ** 0.5:.4f} "
        f"| {ours:.3f} | {theirs:.3f} | {theirs / ours:.2f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    if options.seeds < 2:
        parser.error("--seeds: a standard error needs at least 2")
    seeds = range(2 if options.short else options.seeds)
    print(
        "| set: settings | dtype | score: fmlp | scikit-learn | difference | seconds: fmlp | scikit-learn | ratio |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for case in [options.only] if options.only else CASES:
        for settings in CASES[case][2]:
            short = {"max_iter": 3} if options.short else {}
            for dtype in (np.float64, np.float32):
                print(compare(case, settings | short, dtype, seeds), flush=True)


if __name__ == "__main__":
    main()
