"""The same key gives the same bits: again, in a new process, whatever Python's hash seed and OpenBLAS's threads.

`golden/streams.json` pins the random streams, so that an upgrade of NumPy or a change of fmlp that gives users other
results is noticed. If it is meant: ``python tests/test_determinism.py --write``, and a line in the CHANGELOG.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fmlp
from fmlp import activations, data, initializers, losses, metrics, optim, random, tree, vjp
from fmlp.layers import BatchNorm, Dense, Dropout, Elu, Embedding, Layer, LayerNorm, Prelu, residual, serial

GOLDEN = Path(__file__).parent / "golden" / "streams.json"


# --------------------------------------------------------------------------------- the same process


def train(width, batch_size, rows):
    """Train with all that draws or sums: shuffling, rows set aside, dropout, statistics, metrics."""
    x, y, *_ = data.load(Path(__file__).parents[1] / "data" / "digits.npz")
    net = serial(
        Dense(width), BatchNorm(), Elu(), Dropout(0.2), residual(Dense(width), LayerNorm(), Prelu()), Dense(10)
    )
    _, params = net.init(random.key(0), x.shape[1:])
    return fmlp.fit(
        net,
        params,
        (x[:rows] / 16, y[:rows]),
        loss=losses.cross_entropy,
        optimizer=optim.adam(1e-2),
        epochs=3,
        batch_size=batch_size,
        key=random.key(1),
        validation=0.2,
        metrics={"accuracy": metrics.accuracy},
        class_weight="balanced",
        progress=False,
    )


OPTIMIZERS = [
    optim.sgd(0.1, momentum=0.9),
    *(make(1e-2) for make in (optim.adagrad, optim.rmsprop, optim.adam, optim.adamw, optim.nadam, optim.lion)),
    optim.adadelta(),
    optim.chain(optim.clip_by_global_norm(0.1), optim.sgd(0.1)),
]


def digests():
    """Work out a bit of everything, and return a hash of each.

    No product has more than 262,144 multiplications: up to there OpenBLAS works in one thread.
    """
    key = random.key(7)
    x = random.generator(key).standard_normal((16, 8), dtype=np.float32)
    net = serial(Dense(12), Elu(), Dense(3))
    _, params = net.init(key, (8,))
    results = {"params": params, "dropout": Dropout(0.3).apply({}, x, train=True, key=key)}
    for name, f in activations.table.items():
        settings = {"threshold": 0.1, "value": 0.2} if name == "threshold" else {}
        y, pullback = vjp(f, x, **settings)
        results[name] = y, pullback(np.ones_like(y))
    step = fmlp.value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))
    for i, optimizer in enumerate(OPTIMIZERS):
        p, state = params, optimizer.init(params)
        for _ in range(3):
            value, grads = step(p, x, np.arange(16) % 3)
            updates, state = optimizer.update(grads, state, p)
            p = optim.apply_updates(p, updates)
        results[f"optimizer {i}"] = p, state, value
    fitted = train(width=24, batch_size=32, rows=100)
    results["fit"] = fitted.params, fitted.state, fitted.history
    results["split"] = data.train_test_split(x, np.arange(16) % 3)
    return {name: digest(value) for name, value in results.items()}


def digest(value):
    found = hashlib.sha256()
    for leaf in tree.leaves(value):
        array = np.ascontiguousarray(leaf)
        found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def elsewhere(what="--digests", **environment):
    """Run this file in a new process, and return what it prints."""
    command = [sys.executable, __file__, what]
    run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(run.stdout)


def test_again_in_the_same_process():
    assert digests() == digests()


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
        {"PYTHONHASHSEED": "12345", "OPENBLAS_NUM_THREADS": "2"},
        {"PYTHONHASHSEED": "random"},
    ],
    ids=lambda environment: " ".join(f"{name}={value}" for name, value in environment.items()),
)
def test_in_another_process(environment):
    assert elsewhere(**environment) == digests()


def test_large_products_differ_by_rounding_with_the_number_of_threads():
    """The exception that docs/reliability.md names: OpenBLAS then adds in another order."""
    one, two = (elsewhere("--large", OPENBLAS_NUM_THREADS=threads) for threads in ("1", "2"))
    assert one == elsewhere("--large", OPENBLAS_NUM_THREADS="1")
    np.testing.assert_allclose(one[:2], two[:2], rtol=1e-5)


def large():
    """Return the loss of a wide network, and its gradient as one vector."""
    net = serial(Dense(512), Elu(), Dense(512), Elu(), Dense(10))
    _, params = net.init(random.key(0), (784,))
    x = random.generator(random.key(1)).standard_normal((128, 784), dtype=np.float32)
    step = fmlp.value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))
    value, grads = step(params, x, np.arange(128) % 10)
    return float(value), tree.ravel(grads)[0]


# ------------------------------------------------------------------------------------- golden file


def words(values):
    """Write integers of 64 bits as text that can be read."""
    return [f"{value:016x}" for value in np.ravel(values).tolist()]


def bits(values):
    return np.packbits(values).tobytes().hex()


def numbers(values):
    """Write the shortest decimals that give these very numbers back."""
    return [float(str(value)) for value in np.ravel(values)]


def streams():
    """Draw from every stream: integers, and next to them floats."""
    key = random.key(0)
    exact = {
        "key(0)": words(key),
        "key(2**100 + 7)": words(random.key(2**100 + 7)),
        "split(key)": words(random.split(key)),
        "split(key, 5)": words(random.split(key, 5)),
        "fold_in(key, 0)": words(random.fold_in(key, 0)),
        "fold_in(key, 2**64 - 1)": words(random.fold_in(key, 2**64 - 1)),
        "generator(key), raw": words(random.generator(key).bit_generator.random_raw(4)),
        "generator(key), integers": random.generator(key).integers(1000, size=8).tolist(),
        "generator(key), permutation": random.generator(key).permutation(20).tolist(),
        "bernoulli(key, 0.3)": bits(random.bernoulli(key, 0.3, (9, 14))),
        "dropout": bits(Dropout(0.5).apply({}, np.ones((9, 14), np.float32), train=True, key=key) > 0),
        "train_test_split": data.train_test_split(np.arange(20)[:, None], np.arange(20) % 3).y_test.tolist(),
        "train_test_split, rows": data.train_test_split(np.arange(20)[:, None], np.arange(20.0)).x_test[:, 0].tolist(),
    }
    for name, shuffle in (("fit", True), ("fit, not shuffled", False)):
        exact[f"{name}: rows"], exact[f"{name}: keys"] = order(shuffle)
    generated, bayes_accuracy = data.gaussian_classes(8, 4, features=3, classes=3)
    exact["gaussian_classes: labels"] = [*generated.y_train.tolist(), *generated.y_test.tolist()]

    close = {
        "generator(key), random": random.generator(key).random(4),
        "generator(key), normal": random.generator(key).standard_normal(4),
        "generator(key), float32 normal": random.generator(key).standard_normal(4, np.float32),
        "gaussian_classes": np.array([*generated.x_train.flat, *generated.x_test.flat]),
        "gaussian_classes: Bayes accuracy": np.array(bayes_accuracy),
        "Embedding": Embedding(3, 2).init(key, ())[1]["w"],
    }
    for name in initializers.__all__:
        if name not in ("Initializer", "gain"):
            initializer = getattr(initializers, name)(*[0.5] * (name == "constant"))
            close[name] = initializer(key, (4, 3))
    _, params = serial(Dense(2), BatchNorm(), residual(Dense(2)), Dense(1)).init(key, (3,))
    close |= dict(zip(tree.paths({"serial": params}), tree.leaves({"serial": params}), strict=True))
    return {"integers": exact, "floats": {name: numbers(values) for name, values in close.items()}}


def order(shuffle):
    """Train, and return the rows in the order in which they came, epoch by epoch, and the key of each step."""
    seen, used = [], []
    inner = Dense(1)

    @fmlp.differentiable
    def watched(params, x, *, train=False, key=None):
        if train is True:
            seen.append(x[:, 0].astype(int).tolist())
            used.append(words(key))
        return inner.apply.rule(params, x)

    x = np.arange(12, dtype=np.float32)[:, None]
    fmlp.fit(
        Layer(inner.init, watched),
        inner.init(random.key(0), (1,))[1],
        (x, x),
        loss=losses.mse,
        optimizer=optim.sgd(1e-6),
        epochs=2,
        batch_size=4,
        key=random.key(0),
        validation=0.25,
        shuffle=shuffle,
        progress=False,
    )
    return seen, used


def test_streams_are_pinned():
    """A change of any stream changes every seeded result of every user: it must be meant."""
    golden, now = json.loads(GOLDEN.read_text()), streams()
    for name, expected in golden["integers"].items():
        assert now["integers"][name] == expected, name
    for name, expected in golden["floats"].items():
        # All are worked out in float64, without NumPy's SIMD functions, whose last bits depend on the CPU, and rounded
        # to float32. What a compiler fuses, the C library's logarithm and LAPACK's order of sums move float64's last
        # digits, and so float32's last bit at most; the largest are about 6, and 4 last bits of 1 are allowed.
        np.testing.assert_allclose(now["floats"][name], expected, rtol=2**-22, atol=2**-21, err_msg=name)
    assert {kind: now[kind].keys() for kind in now} == {kind: golden[kind].keys() for kind in golden}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--write"]:
            GOLDEN.parent.mkdir(exist_ok=True)
            lines = {
                kind: [f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in s.items()] for kind, s in streams().items()
            }
            parts = [f'  "{kind}": {{\n' + ",\n".join(entries) + "\n  }" for kind, entries in lines.items()]
            GOLDEN.write_text("{\n" + ",\n".join(parts) + "\n}\n")
        case ["--digests"]:
            print(json.dumps(digests()))
        case ["--large"]:
            value, gradient = large()
            print(json.dumps([value, float(np.linalg.norm(gradient)), digest(gradient)]))
        case _:
            sys.exit("python tests/test_determinism.py --write")
