"""The deep MLP, end to end: load and inspect data, build, train, evaluate, draw, save, load again.

python examples/pipeline.py                              # the 1,797 handwritten digits
python examples/pipeline.py --recipe scheduled --data generated
python examples/pipeline.py --data my_folder             # .npy or IDX files; or my.npz, my.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import fmlp
from fmlp import data, initializers, losses, metrics, optim, random, schedules
from fmlp.layers import Dense, Dropout, Elu, Layer, serial
from fmlp.plotting import plot_history

ROOT = Path(__file__).parents[1]
WIDTHS = (120, 112, 96, 64, 48, 32, 24, 16)
RATES = (0.30, 0.25, 0.20, 0.15, 0.10)


def build(classes: int) -> Layer:
    """Stack the hidden layers: ELU after each Dense but the second, dropout after the first five."""
    layers = []
    for i, width in enumerate(WIDTHS):
        layers.append(Dense(width, initializers.kaiming_uniform()))
        if i != 1:
            layers.append(Elu())
        if i < len(RATES):
            layers.append(Dropout(RATES[i]))
    return serial(*layers, Dense(classes, initializers.kaiming_uniform()))


def recipe(name: str, rows: int) -> dict:
    """Return the arguments of `fit` for a recipe, given the number of training rows."""
    if name == "full":
        return {"optimizer": optim.adam(1e-3, weight_decay=0.02), "epochs": 500, "batch_size": min(32, rows)}
    if name == "simple":
        return {"optimizer": optim.adam(1e-3), "epochs": 90, "batch_size": min(128, rows)}
    by_epoch = schedules.multi_step_lr(1e-3, milestones=[20, 40, 60, 80], gamma=0.8)
    return {
        "optimizer": optim.adam(schedules.per_epoch(by_epoch)),
        "epochs": 90,
        "batch_size": min(128, rows),
        "early_stopping": fmlp.EarlyStopping(
            "val_accuracy", mode="max", patience=10, restore_best=True, start_from_epoch=20
        ),
    }


def natural_number(text: str, least: int = 0) -> int:
    """Read an argument that is an integer of at least `least`."""
    if (value := int(text)) < least:
        raise ValueError
    return value


def positive_integer(text: str) -> int:
    """Read an argument that is an integer of at least 1."""
    return natural_number(text, least=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, generated, or a path to your own data")
    parser.add_argument("--recipe", default="simple", choices=["simple", "full", "scheduled"])
    parser.add_argument("--epochs", type=positive_integer, help="train for fewer or more epochs than the recipe says")
    parser.add_argument("--seed", type=natural_number, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="folder for the picture and the model")
    options = parser.parse_args()

    bayes = None
    try:
        if options.data == "generated":
            dataset, bayes = data.gaussian_classes(cache=ROOT / "data" / "cache" / "generated.npz")
        else:
            dataset = data.load(ROOT / "data" / "digits.npz" if options.data == "digits" else options.data)
        x_train, y_train, x_test, y_test = dataset
        x_train, x_test = x_train.reshape(len(x_train), -1), x_test.reshape(len(x_test), -1)
        print(f"train {x_train.shape}, test {x_test.shape}")
        for name, y in (("train", y_train), ("test", y_test)):
            print(f"{name:>5} labels:", "  ".join(f"{label}: {n}" for label, n in data.label_balance(y).items()))
        mean, std = data.moments(x_train)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    labels = np.unique(y_train)  # any integers; the network needs them numbered from 0
    if unseen := np.setdiff1d(y_test, labels).tolist():
        parser.error(f"{options.data}: the test labels {unseen} are not among the training labels {labels.tolist()}")
    y_train, y_test = np.searchsorted(labels, y_train), np.searchsorted(labels, y_test)

    if not options.data.endswith(".csv"):  # all features have the same unit, as pixels do: keep their proportions
        mean[:], std[:] = x_train.mean(dtype=np.float64), x_train.std(dtype=np.float64)
    x_train, x_test = data.standardize(x_train, mean, std), data.standardize(x_test, mean, std)

    key = random.key(options.seed)
    net = build(classes=len(labels))
    _, params = net.init(random.fold_in(key, 0), x_train.shape[1:])
    print("\n" + fmlp.summary(net, x_train.shape[1:]) + "\n")

    # Early stopping decides by rows held out from training. Without it, the test rows decide nothing.
    train, validation = (x_train, y_train), (x_test, y_test)
    if options.recipe == "scheduled":
        held_out = data.train_test_split(x_train, y_train, test_fraction=0.1, seed=options.seed)
        train, validation = held_out[:2], held_out[2:]
    settings = recipe(options.recipe, rows=len(train[0]))
    if options.epochs is not None:
        settings["epochs"] = options.epochs
    result = fmlp.fit(
        net,
        params,
        train,
        loss=losses.cross_entropy,
        key=random.fold_in(key, 1),
        validation=validation,
        metrics={"accuracy": metrics.accuracy},
        **settings,
    )
    print(
        f"\nrecipe {options.recipe}: {len(result.history['loss'])} epochs in {result.seconds:.1f} s ({result.stopped})"
    )

    scores = {
        "accuracy": metrics.accuracy,
        "precision": metrics.precision,
        "recall": metrics.recall,
    }
    for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        found = fmlp.evaluate(net, result.params, (x, y), loss=losses.cross_entropy, metrics=scores)
        print(f"{name:>5}:", "  ".join(f"{score} {value:.4f}" for score, value in found.items()))
    if bayes is not None:
        print(f"Bayes accuracy {bayes:.4f}: {100 * (bayes - found['accuracy']):.2f} points above the test accuracy")

    options.out.mkdir(parents=True, exist_ok=True)
    picture, file = options.out / "pipeline.png", options.out / "pipeline.npz"
    try:
        plot_history(result.history).savefig(picture)
        print(f"wrote {picture}")
    except ModuleNotFoundError as error:
        print(error)
    fmlp.save(file, result.params, metadata={"recipe": options.recipe, "test accuracy": found["accuracy"]})
    loaded = fmlp.load(file, like=params)
    same = np.array_equal(fmlp.predict(net, loaded, x_test), fmlp.predict(net, result.params, x_test))
    print(f"wrote {file}; predictions after loading identical: {same}")


if __name__ == "__main__":
    main()
