"""The functional core by hand: a training loop without `fit`."""

from pathlib import Path

import fmlp
from fmlp import data, losses, metrics, optim, random
from fmlp.layers import Dense, Dropout, Relu, serial

x_train, y_train, x_test, y_test = data.load(Path(__file__).parents[1] / "data" / "digits.npz")
x_train, x_test = x_train / 16, x_test / 16

net = serial(Dense(128), Relu(), Dropout(0.2), Dense(10))
init_key, train_key = random.split(random.key(0))
_, params = net.init(init_key, x_train.shape[1:])

optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adam(2e-3))
state = optimizer.init(params)
step = fmlp.value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))

for epoch in range(20):
    shuffle_key, dropout_key = random.split(random.fold_in(train_key, epoch))
    order = random.generator(shuffle_key).permutation(len(x_train))
    for i in range(0, len(order), 64):
        rows = order[i : i + 64]
        loss, grads = step(params, x_train[rows], y_train[rows], key=random.fold_in(dropout_key, i))
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    accuracy = metrics.accuracy(y_test, net.apply(params, x_test).argmax(1))
    print(f"epoch {epoch + 1:2d}: loss {loss:.4f}, test accuracy {accuracy:.4f}")
