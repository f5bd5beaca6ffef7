"""What the ranks do that `test_distributed.py` starts: ``mpiexec -n 2 python tests/ranks.py TASK OUT [ARGUMENT]``."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

import fmlp
from fmlp import (
    Checkpoint,
    EarlyStopping,
    checkpoint,
    distributed,
    losses,
    metrics,
    optim,
    random,
    schedules,
    training,
    tree,
)
from fmlp.layers import (
    BatchNorm,
    Dense,
    Dropout,
    Elu,
    LayerNorm,
    Prelu,
    Tanh,
    fan_in_concat,
    fan_out,
    parallel,
    residual,
    serial,
)

COMM = MPI.COMM_WORLD
batching = sys.modules["fmlp.batches"]  # fmlp.batches is the function
CLASSES = 3


def drawn_network(draw):
    """Draw layers of every kind that looks at a whole batch, and of some that do not."""
    layers = []
    for _ in range(draw.integers(1, 4)):
        width = int(draw.integers(2, 9))
        options = [
            lambda width=width: [Dense(width), Elu()],
            lambda width=width: [Dense(width, bias=False), BatchNorm(), Tanh()],
            lambda: [Dropout(float(draw.uniform(0, 0.6)))],
            lambda width=width: [Dense(width), LayerNorm(), Prelu()],
            lambda: [residual(BatchNorm(), Dropout(0.3), Tanh())],
            lambda width=width: [
                fan_out(2),
                parallel(serial(Dense(width), Dropout(0.2), BatchNorm()), Dense(2)),
                fan_in_concat(),
            ],
        ]
        layers += options[draw.integers(len(options))]()
    return serial(*layers, Dense(CLASSES))


def cut(draw, n, parts):
    """Cut n rows at random places; a part may be empty."""
    ends = [0, *np.sort(draw.integers(0, n + 1, parts - 1)).tolist(), n]
    return slice(*ends[COMM.rank : COMM.rank + 2])


def case(seed, dtype, comm=COMM):
    """Draw a network and a training, the same on every rank but for the rows."""
    draw = np.random.default_rng(seed)
    n, width = int(draw.integers(24, 80)), int(draw.integers(1, 6))
    x, y = draw.normal(size=(n, width)) * draw.uniform(0.1, 10), draw.integers(0, CLASSES, n)
    y[:CLASSES] = range(CLASSES)
    net = drawn_network(draw)
    _, params = net.init(random.key(seed), (width,))
    weight = draw.uniform(size=n) if draw.random() < 0.5 else None
    if weight is not None and seed % 3 == 0:
        weight[CLASSES::4] = 0
    settings = {
        "loss": losses.cross_entropy,
        "optimizer": [optim.sgd(0.05, 0.9), optim.adam(schedules.per_epoch(schedules.exponential_lr(0.01, 0.7)))][
            draw.integers(2)
        ],
        "epochs": 3,
        "batch_size": int(draw.integers(5, int(0.7 * n))),  # at most what a fraction set aside leaves
        "key": random.key(seed + 1),
        "validation": [None, 0.3, "pair"][draw.integers(3)],
        "metrics": {"accuracy": metrics.accuracy} if draw.random() < 0.5 else None,
        "class_weight": [None, "balanced"][draw.integers(2)],
        "shuffle": bool(draw.random() < 0.8),
        "progress": False,
    }
    here = cut(np.random.default_rng([seed, COMM.size]), n, COMM.size) if comm else slice(None)
    if settings["validation"] == "pair":
        settings["validation"] = x[:20][slice(COMM.rank, None, COMM.size) if comm else slice(None)], None
        settings["validation"] = settings["validation"][0], (y[:20][COMM.rank :: COMM.size] if comm else y[:20])
    settings["weight"] = None if weight is None else weight[here]
    return net, tree.cast(params, dtype), (x[here].astype(dtype), y[here]), settings


def same(out, seeds):
    """Train drawn networks, in float64, on all ranks and, on rank 0, without any; keep what comes out."""
    kept = {}
    for seed in range(int(seeds)):
        for name, comm in [("ranks", COMM), *([("alone", None)] if COMM.rank == 0 else [])]:
            net, params, data, settings = case(seed, np.float64, comm)
            result = fmlp.fit(net, params, data, **settings, comm=comm)
            if COMM.rank == 0:
                kept |= {f"{name}/{seed}/{path}": np.asarray(leaf) for path, leaf in paths_of(result)}
            if comm:
                assert same_everywhere(result[:3])
    if COMM.rank == 0:
        np.savez(out, **kept)


def paths_of(result):
    values = {"params": result.params, "state": result.state, "history": result.history}
    return zip(tree.paths(values), tree.leaves(values), strict=True)


def same_everywhere(values):
    """Compare bits over the ranks."""
    bits = b"".join(np.asarray(leaf).tobytes() for leaf in tree.leaves(values))
    return len(set(COMM.allgather(bits))) == 1


def gradients(out, seeds):
    """Compare gradients in float32 of batches cut at random, of no rows too, with those of all rows at once."""
    worst = 0.0
    for seed in range(int(seeds)):
        net, params, _, settings = case(seed, np.float32, None)
        _, _, (x, y), _ = case(seed, np.float32, None)
        f, key = distributed.objective(net.apply, losses.cross_entropy), random.key(seed)
        here = cut(np.random.default_rng([seed, COMM.size]), len(y), COMM.size)
        w = settings["weight"]
        value, grads = distributed.value_and_grad(f, COMM)(
            params, x[here], y[here], key=key, weight=None if w is None else w[here]
        )
        whole, expected = fmlp.value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))(
            params, x, y, key=key, weight=w
        )
        a, b = tree.ravel(grads)[0], tree.ravel(expected)[0]
        assert a.dtype == b.dtype == np.float32
        worst = max(worst, abs(value - whole) / abs(whole), float(np.abs(a - b).max() / np.abs(b).max()))
        assert same_everywhere((value, grads))
    if COMM.rank == 0:
        Path(out).write_text(str(worst))


# ------------------------------------------------------------------------------------------ manners

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(120, 4)).astype(np.float32)
Y = X[:, :3].argmax(1)
NET = serial(Dense(8, bias=False), BatchNorm(), Elu(), Dropout(0.2), Dense(3))


def fit(rows=None, **settings):
    ends = np.linspace(0, len(X), COMM.size + 1).astype(int)
    rows = slice(*ends[COMM.rank : COMM.rank + 2]) if rows is None else rows
    _, params = NET.init(random.key(0), (4,))
    given = {
        "data": (X[rows], Y[rows]),
        "loss": losses.cross_entropy,
        "optimizer": optim.adam(0.01),
        "epochs": 6,
        "batch_size": 16,
        "key": random.key(1),
        "validation": 0.2,
        "metrics": {"accuracy": metrics.accuracy},
        "progress": False,
        "comm": COMM,
    } | settings
    return fmlp.fit(NET, params, given.pop("data"), **given)


def checkpointed(out, epochs):
    """Go on from a checkpoint; rank 0 saves what comes out."""
    stopping = EarlyStopping("val_loss", patience=100, restore_best=True)
    result = fit(checkpoint=Checkpoint(out + ".run.npz", seconds=0.01), epochs=int(epochs), early_stopping=stopping)
    if COMM.rank == 0:
        np.savez(out, **{path: np.asarray(leaf) for path, leaf in paths_of(result)})
        print(result.stopped, len(result.history["loss"]))


class Batches:
    """Batches of one's own, of which each rank has another number, and that go wrong as asked."""

    def __init__(self, count, at=None, what=None):
        self.count, self.at, self.what = count, at, what

    def __iter__(self):
        for i in range(self.count):
            if i == self.at:
                self.what()
            start = (COMM.rank + i * 10) % 100
            rows = slice(start, start + 5 + COMM.rank)
            yield X[rows], Y[rows]


def batches(out, _):
    result = fit(data=Batches([4, 2, 0, 3][COMM.rank]), validation=None)
    assert same_everywhere(result[:3])
    # The same batches in one process, each that of all ranks together.
    sizes = [4, 2, 0, 3][: COMM.size]
    rows = [
        np.concatenate([np.arange(r + i * 10, r + i * 10 + 5 + r) for r in range(COMM.size) if i < sizes[r]])
        for i in range(max(sizes))
    ]
    alone = fit(data=[(X[r], Y[r]) for r in rows], validation=None, comm=None)
    np.testing.assert_allclose(result.history["loss"], alone.history["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        result.params["batch_norm_1"]["mean"], alone.params["batch_norm_1"]["mean"], rtol=1e-4, atol=1e-5
    )


def agree(out, _):
    """What rank 0 decides, all do."""
    seen = []

    def callback(epoch):
        seen.append(COMM.rank)
        return epoch._replace(state=optim.with_learning_rate(epoch.state, 0.5 / (COMM.rank + 2)), stop=epoch.epoch == 3)

    result = fit(callbacks=[callback], metrics={"odd": lambda y, p: float(COMM.rank)})
    assert same_everywhere(result[:3])
    assert result.stopped == "callback"
    assert set(seen) <= {0}
    assert optim.learning_rate(result.state) == 0.25
    assert len(result.history["odd"]) == 4
    result = fit(epochs=100, optimizer=optim.adam(0.1), early_stopping=EarlyStopping("val_loss", patience=2))
    assert same_everywhere(result[:3])
    assert result.stopped == "early"
    params = fmlp.calibrate(NET, result.params, X[COMM.rank :: COMM.size], comm=COMM)
    assert same_everywhere(params)
    everything = np.concatenate([X[rank :: COMM.size] for rank in range(COMM.size)])
    assert np.array_equal(tree.ravel(params)[0], tree.ravel(fmlp.calibrate(NET, result.params, everything))[0])
    mine = X[COMM.rank :: COMM.size], Y[COMM.rank :: COMM.size]
    wanted = {"f1": metrics.f1, "auc": metrics.roc_auc}
    scores = fmlp.evaluate(NET, params, mine, loss=losses.cross_entropy, metrics=wanted, comm=COMM)
    alone = fmlp.evaluate(NET, params, (X, Y), loss=losses.cross_entropy, metrics=wanted)
    assert [scores["f1"], scores["auc"]] == [alone["f1"], alone["auc"]]
    assert abs(scores["loss"] - alone["loss"]) < 1e-6


def mapped(out, _):
    """Files of each rank's own, read by windows that are small: the same answer as from one file."""
    batching.BLOCK, batching.WINDOW = 4 * 16, 40 * 16
    ends = [0, 30, 30, 100, len(X)] if COMM.size == 4 else [0, 37, len(X)]
    here = slice(*ends[COMM.rank : COMM.rank + 2])
    histories = {}
    for name, rows, comm in [("ranks", here, COMM), ("alone", slice(None), None)]:
        path = f"{out}.{name}.{COMM.rank}.npy"
        np.save(path, X[rows] if len(X[rows]) else X[:1])
        x = np.load(path, mmap_mode="r")[: len(X[rows])]
        histories[name] = fit(data=(x, Y[rows]), comm=comm).history
    for name, values in histories["alone"].items():
        np.testing.assert_allclose(histories["ranks"][name], values, rtol=1e-3)


def empty(out, _):
    """Rank 1 has no rows, and none to validate with."""
    assert same_everywhere(fit(rows=slice(0, 0) if COMM.rank == 1 else slice(None))[:3])
    fit(rows=slice(0, 0))


def one_rank(what):
    def run(out, _):
        data = Batches(40, at=20 if COMM.rank == COMM.size - 1 else None, what=what)
        fit(data=data, validation=None, epochs=1000)

    return run


def fail():
    raise OSError("the disk of this rank is gone")


def before(out, _):
    """An error before `fit` is called."""
    comm = distributed.world()
    if comm.rank == 1:
        np.load("missing.npy")
    fit()


def leaving(how, called=fit):
    """One rank's program ends before the others call what needs it."""

    def run(out, _):
        comm = distributed.world()
        if comm.rank == 1:
            sys.exit(how)
        called()

    return run


def caught(out, _):
    """An error that the program catches: the others must not wait for ever all the same."""
    try:
        one_rank(fail)(out, _)
    except OSError:
        time.sleep(1000)


def twice():
    """A second signal does not wait for the end of the step."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1000)


def interrupt():
    raise KeyboardInterrupt


def nested():
    """As from a training within a callback."""
    raise fmlp.NonFiniteError("one rank only", {})


def callback(what):
    return lambda out, _: fit(callbacks=[lambda epoch: what()])


def diverging(out, _):
    """A training of one rank's own diverges in the callback."""
    _, params = NET.init(random.key(0), (4,))
    settings = {"loss": losses.cross_entropy, "epochs": 9, "key": random.key(1), "progress": False}
    settings |= {"optimizer": optim.sgd(1e30), "comm": MPI.COMM_SELF}
    fit(callbacks=[lambda epoch: fmlp.fit(NET, params, (X, Y), **settings) and None])


def waiting(out, _):
    """Rank 1 has noted one signal, and waits for rank 0; the second comes from outside."""

    def what():
        if COMM.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            print(os.getpid(), flush=True)
        else:
            time.sleep(1000)

    fit(data=Batches(40, at=20, what=what), validation=None)


def trees(out, _):
    fit(data=({"a": X, "b": X} if COMM.rank == 0 else X, Y), validation=None)


def fractions(out, _):
    fit(validation=[0.4, 0.2][COMM.rank])


def parameters(out, _):
    settings = {"loss": losses.cross_entropy, "optimizer": optim.sgd(0.1), "epochs": 1, "key": random.key(1)}
    fmlp.fit(NET, NET.init(random.key(COMM.rank), (4,))[1], (X, Y), **settings, comm=COMM)


def lists(out, _):
    """Batches as lists of numbers, as one process takes them."""
    rows = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)]
    one, other = (
        fit(data=data, validation=None).history for data in (rows, [(x.tolist(), y.tolist()) for x, y in rows])
    )
    assert np.allclose(one["loss"], other["loss"], rtol=1e-6)


def one_hot(out, _):
    """Metrics of one-hot labels, of which rank 1 has no rows."""
    y = np.eye(3)[Y]
    here = slice(None) if COMM.rank == 0 else slice(0, 0)
    scores = {"accuracy": metrics.accuracy}
    together = fit(data=(X[here], y[here]), epochs=2, metrics=scores).history
    alone = fit(data=(X, y), epochs=2, metrics=scores, comm=None).history
    assert together["accuracy"] == alone["accuracy"]
    assert together["val_accuracy"] == alone["val_accuracy"]


def terminated(out, name):
    """A signal ends rank 1 by itself as soon as it is handed on; rank 0 takes long to write the last checkpoint."""
    save = checkpoint.save

    def slow(path, arrays, metadata):
        if metadata["progress"]["step"]:
            time.sleep(1)
        save(path, arrays, metadata=metadata)

    checkpoint.save = slow
    data = Batches(40, at=20 if COMM.rank == 1 else None, what=lambda: os.kill(os.getpid(), signal.SIGTERM))
    fit(data=data, validation=None, checkpoint=out + ".npz")


def calibrating(out, _):
    """A signal while the statistics are calibrated at the end: what was trained for is returned."""
    calibrated, whole = training.calibrated, fit()

    def signalled(*args, **kwargs):
        if COMM.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return calibrated(*args, **kwargs)

    training.calibrated = signalled
    result = fit(validation=None, metrics=None)
    training.calibrated = calibrated
    assert len(result.history["loss"]) == len(whole.history["loss"])
    assert same_everywhere(result[:3])
    fmlp.predict(NET, result.params, X)


def alone(out, _):
    """One rank goes on with what none began, and the reverse."""
    for first, second in [(None, COMM), (COMM, None)]:
        path = f"{out}.{first is None}.npz"
        fit(comm=first, epochs=2, checkpoint=path)
        assert len(fit(comm=second, epochs=4, checkpoint=path).history["loss"]) == 4
    result = fit(callbacks=[lambda epoch: interrupt()])  # as without comm
    assert result.stopped == "interrupted"


def widths(out, _):
    fit(data=(X[:, : 4 - COMM.rank], Y), validation=None)


def different(out, _):
    fit(batch_size=16 + COMM.rank)


def kinds(out, _):
    fit(data=(X, Y) if COMM.rank else [(X, Y)], validation=None)


def diverges(out, _):
    try:
        fit(optimizer=optim.sgd(1e30), epochs=50)
    except fmlp.NonFiniteError as error:
        print("caught" if same_everywhere(error.params) else "different", flush=True)
        raise


def interrupted(out, name):
    """A signal to one rank: all of them stop after the same step."""

    class Slow(Batches):
        def __iter__(self):
            for i, batch in enumerate(super().__iter__()):
                if i == 15 and COMM.rank == 1 and not killed:
                    killed.append(name)
                    os.kill(os.getpid(), getattr(signal, name))
                yield batch

    handled, killed = [], []
    signal.signal(signal.SIGTERM, lambda *_: handled.append(1))
    result = fit(data=Slow(100), validation=None, checkpoint=out + ".npz", epochs=1000)
    assert result.stopped == "interrupted"
    assert same_everywhere(result[:3])
    assert handled == ([1] if name == "SIGTERM" and COMM.rank == 1 else [])
    progress = fmlp.load_metadata(out + ".npz")["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 15)
    print("stopped", flush=True)


TASKS = {
    "agree": agree,
    "alone": alone,
    "batches": batches,
    "before": before,
    "calibrating": calibrating,
    "callback interrupt": callback(interrupt),
    "callback nested": callback(nested),
    "callback twice": callback(twice),
    "caught": caught,
    "checkpointed": checkpointed,
    "different": different,
    "diverges": diverges,
    "diverging": diverging,
    "empty": empty,
    "exit": one_rank(lambda: sys.exit(0)),
    "fractions": fractions,
    "gradients": gradients,
    "interrupted": interrupted,
    "kill": one_rank(lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "kinds": kinds,
    "leaving": leaving(None),
    "leaving with a message": leaving("no rows for this rank"),
    "leaving one that evaluates": leaving(0, lambda: fmlp.evaluate(NET, {}, (X, Y), loss=losses.mse, comm=COMM)),
    "leaving one that calibrates": leaving(0, lambda: fmlp.calibrate(NET, {}, X, comm=COMM)),
    "leaving together": lambda out, _: (distributed.world(), fit(), sys.exit(0)),
    "lists": lists,
    "mapped": mapped,
    "one_hot": one_hot,
    "parameters": parameters,
    "raise": one_rank(fail),
    "same": same,
    "terminated": terminated,
    "trees": trees,
    "twice": one_rank(twice),
    "waiting": waiting,
    "widths": widths,
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])
