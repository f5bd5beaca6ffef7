"""An activation and a layer of your own, each with its vjp, checked against finite differences."""

import numpy as np

import fmlp
from fmlp import losses, optim, random
from fmlp.activations import elementwise
from fmlp.layers import Activation, Dense, Layer, serial


@elementwise
def snake(x, a=1.0):
    """``x + sin²(a x) / a``, which can follow periodic data; derivative ``1 + sin(2 a x)`` (arXiv 2006.08195)."""
    return x + np.sin(a * x) ** 2 / a, lambda: 1 + np.sin(2 * a * x)


def Scale() -> Layer:
    """One learned factor for each feature: ``y = s x``."""

    def init(key, shape):
        return shape, {"s": np.ones(shape[-1], np.float32)}

    @fmlp.differentiable
    def scale(params, x, *, train=False, key=None):
        s = params["s"]

        def pullback(dy):
            yield {"s": (dy * x).reshape(-1, len(s)).sum(0)}
            yield dy * s

        return s * x, pullback

    return Layer(init, scale)


x = np.linspace(-3, 3, 200)[:, None]
fmlp.check_vjp(snake, x, a=2.0)
net = serial(Dense(32), Activation(snake, a=2.0), Scale(), Dense(1))
_, params = net.init(random.key(0), (1,))
fmlp.check_vjp(net.apply, params, x)
print("both vjps agree with finite differences")

y = np.sin(2 * x) + 0.5 * x
result = fmlp.fit(net, params, (x, y), loss=losses.mse, optimizer=optim.adam(1e-2), epochs=200, key=random.key(1))
print(f"layers {', '.join(params)}; loss {result.history['loss'][0]:.4f} → {result.history['loss'][-1]:.5f}")
