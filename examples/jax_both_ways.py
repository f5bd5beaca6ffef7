"""Train in fmlp, continue in JAX, and come back: the parameters are already a JAX pytree (pip install jax)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import fmlp
from fmlp import data, losses, metrics, optim, random
from fmlp.layers import Dense, Elu, serial

x_train, y_train, x_test, y_test = data.load(Path(__file__).parents[1] / "data" / "digits.npz")
x_train, x_test = np.float32(x_train / 16), np.float32(x_test / 16)

net = serial(Dense(64), Elu(), Dense(10))
_, params = net.init(random.key(0), (64,))


def network(params, x):
    """Do in JAX what net.apply does."""
    first, last = params["dense_0"], params["dense_2"]
    return jax.nn.elu(x @ first["w"] + first["b"]) @ last["w"] + last["b"]


def loss(params, x, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(network(params, x)), y[:, None], 1).mean()


@jax.jit
def step(params, x, y):
    return jax.tree.map(lambda p, g: p - 0.2 * g, params, jax.grad(loss)(params, x, y))


def train_in_fmlp(params, epochs):
    return fmlp.fit(
        net, params, (x_train, y_train), loss=losses.cross_entropy, optimizer=optim.sgd(0.2), epochs=epochs,
        key=random.key(1), progress=False,
    ).params  # fmt: skip


def train_in_jax(params, epochs):
    for epoch in range(epochs):
        order = random.generator(random.fold_in(random.key(2), epoch)).permutation(len(x_train))
        for rows in np.array_split(order, len(order) // 32):
            params = step(params, x_train[rows], y_train[rows])
    return params


def report(where, params):
    ours = metrics.accuracy(y_test, net.apply(params, x_test).argmax(1))
    theirs = metrics.accuracy(y_test, network(params, x_test).argmax(1))
    print(f"{where:34} test accuracy {ours:.4f} in fmlp, {theirs:.4f} in JAX")


trained = train_in_fmlp(params, 5)
report("5 epochs in fmlp", trained)
trained = train_in_jax(trained, 5)
trained = jax.tree.map(np.asarray, trained)  # JAX's arrays to NumPy's, without a copy
report("and 5 in JAX", trained)
trained = train_in_jax(params, 5)
trained = jax.tree.map(np.asarray, trained)
report("5 epochs in JAX", trained)
report("and 5 in fmlp", train_in_fmlp(trained, 5))
