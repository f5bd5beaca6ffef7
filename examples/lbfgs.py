"""Full-batch training with SciPy's L-BFGS, which works on one vector: `tree.ravel` makes it from the parameters."""

from pathlib import Path

import numpy as np
from scipy.optimize import minimize

import fmlp
from fmlp import data, losses, metrics, random, tree
from fmlp.layers import Dense, Tanh, serial

x_train, y_train, x_test, y_test = data.load(Path(__file__).parents[1] / "data" / "digits.npz")
x_train, x_test = x_train / 16, x_test / 16

net = serial(Dense(32), Tanh(), Dense(10))
_, params = net.init(random.key(0), (64,))
start, unravel = tree.ravel(tree.cast(params, np.float64))
value_and_grad = fmlp.value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))
decay = 1e-4


def loss_and_gradient(vector):
    loss, grads = value_and_grad(unravel(vector), x_train, y_train)
    return loss + decay * vector @ vector / 2, tree.ravel(grads)[0] + decay * vector


found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
accuracy = metrics.accuracy(y_test, fmlp.predict(net, unravel(found.x), x_test).argmax(1))
print(f"{found.nit} iterations, {found.nfev} evaluations: loss {found.fun:.4f}, test accuracy {accuracy:.4f}")
