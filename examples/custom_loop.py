"""A training loop without `fit`, built from the functional core."""

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
objective = fmlp.objective(net.apply, losses.cross_entropy)
batches = fmlp.batches((x_train, y_train), batch_size=64)

for epoch in range(20):
    shuffle_key, steps_key = random.split(random.fold_in(train_key, epoch))
    for step in fmlp.descent(objective, optimizer, params, state, batches.shuffled(shuffle_key), steps_key):
        params, state = step.params, step.state
    accuracy = metrics.accuracy(y_test, net.apply(params, x_test).argmax(1))
    print(f"epoch {epoch + 1:2d}: loss {step.loss:.4f}, test accuracy {accuracy:.4f}")
