"""Regression on the 442 diabetes patients: R² on training and test data, with early stopping."""

from pathlib import Path

import numpy as np

import fmlp
from fmlp import data, losses, metrics, optim, random
from fmlp.layers import Dense, Dropout, Relu, serial
from fmlp.plotting import plot_history

ROOT = Path(__file__).parents[1]

x_train, y_train, x_test, y_test = data.load(ROOT / "data" / "diabetes.npz")
moments = data.moments(x_train)
x_train, x_test = data.standardize(x_train, *moments), data.standardize(x_test, *moments)
mean, std = y_train.mean(), y_train.std()

net = serial(Dense(64), Relu(), Dropout(0.3), Dense(32), Relu(), Dropout(0.2), Dense(1))
_, params = net.init(random.key(0), x_train.shape[1:])
result = fmlp.fit(
    net,
    params,
    (x_train, (y_train - mean) / std),
    loss=losses.mse,
    optimizer=optim.adamw(1e-3, weight_decay=0.05),
    epochs=200,
    key=random.key(1),
    validation=0.15,
    metrics={"r2": metrics.r2},
    early_stopping=fmlp.EarlyStopping("val_loss", patience=20, restore_best=True),
)
for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
    predicted = mean + std * fmlp.predict(net, result.params, x)
    print(f"{name:>5}: R² {metrics.r2(y, predicted):.3f}, mean absolute error {metrics.mae(y, predicted):.1f}")

best = int(np.argmin(result.history["val_loss"]))
(ROOT / "out").mkdir(exist_ok=True)
plot_history(result.history, best_epoch=best).savefig(ROOT / "out" / "regression.png")
print(f"best epoch {best + 1} of {len(result.history['loss'])}; wrote {ROOT / 'out' / 'regression.png'}")
