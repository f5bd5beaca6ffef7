"""Load the included model of the digits and evaluate it. ``--train`` makes the file again."""

import argparse
from pathlib import Path

import fmlp
from fmlp import data, losses, metrics, optim, random
from fmlp.layers import BatchNorm, Dense, Dropout, Elu, serial

DATA = Path(__file__).parents[1] / "data"
FILE = DATA / "digits_mlp.npz"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--train", action="store_true", help="train the model and write the file")
x_train, y_train, x_test, y_test = data.load(DATA / "digits.npz")
x_train, x_test = x_train / 16, x_test / 16

net = serial(Dense(64), BatchNorm(), Elu(), Dropout(0.2), Dense(32), BatchNorm(), Elu(), Dense(10))
_, params = net.init(random.key(0), (64,))
if parser.parse_args().train:
    result = fmlp.fit(
        net, params, (x_train, y_train), loss=losses.cross_entropy, optimizer=optim.adamw(2e-3), epochs=100,
        key=random.key(1),
    )  # fmt: skip
    fmlp.save(FILE, result.params, metadata={"inputs": "64 pixels from 0 to 1", "classes": list(range(10))})

params = fmlp.load(FILE, like=params)
print(f"{FILE.name}: {fmlp.tree.size(params):,} parameters, {fmlp.load_metadata(FILE)}")
scores = {"accuracy": metrics.accuracy, "precision": metrics.precision, "recall": metrics.recall}
for name, value in fmlp.evaluate(net, params, (x_test, y_test), loss=losses.cross_entropy, metrics=scores).items():
    print(f"test {name}: {value:.4f}")
print("confusion matrix:")
print(metrics.confusion_matrix(y_test, fmlp.predict(net, params, x_test).argmax(1)))
