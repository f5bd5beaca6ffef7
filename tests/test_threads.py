"""Threads: eight at once do what one after the other would, to the bit; they share nothing that is written to."""

import importlib
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

import fmlp
from fmlp import losses, metrics, optim, random, tree
from fmlp.layers import BatchNorm, Dense, Dropout, Elu, Gelu, LayerNorm, Mish, Prelu, Relu, Silu, Tanh, residual, serial

N = 8


@pytest.fixture(autouse=True)
def _often_switched():
    """Let Python switch threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(f, repeats=1):
    """Call ``f(0)`` to ``f(7)`` in eight threads that start together, and return the results."""
    barrier = Barrier(N)

    def call(i):
        barrier.wait()
        return [f(i) for _ in range(repeats)]

    with ThreadPoolExecutor(N) as threads:
        return list(threads.map(call, range(N)))


def same(got, expected):
    pairs = zip(tree.leaves(got), tree.leaves(expected), strict=True)
    return all(np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype for a, b in pairs)


def rows(i, n=96, width=12):
    generator = random.generator(random.key(i))
    return generator.standard_normal((n, width), dtype=np.float32), generator.integers(0, 3, n)


def model(i):
    """Build the i-th of eight networks, all different, and its parameters."""
    activation = [Elu, Gelu, Mish, Relu, Silu, Tanh, Prelu, Elu][i]()
    norm = [BatchNorm, LayerNorm][i % 2]()
    width = 8 + 4 * (i % 3)  # some sizes are shared: what is cached by size is, too
    net = serial(Dense(width), norm, activation, Dropout(0.1 * i), residual(Dense(width), Elu()), Dense(3))
    return net, net.init(random.key(i), (12,))[1]


OPTIMIZERS = [
    lambda: optim.adam(1e-2),
    lambda: optim.adamw(1e-2),
    lambda: optim.nadam(1e-2),
    lambda: optim.sgd(0.1, momentum=0.9, nesterov=True),
    lambda: optim.rmsprop(1e-2),
    lambda: optim.adagrad(1e-2),
    lambda: optim.adadelta(),
    lambda: optim.chain(optim.clip_by_global_norm(1.0), optim.lion(1e-3)),
]


def train(i, checkpoint=None):
    net, params = model(i)
    result = fmlp.fit(
        net,
        params,
        rows(i),
        loss=losses.cross_entropy,
        optimizer=OPTIMIZERS[i](),
        epochs=3,
        batch_size=16,
        key=random.key(i),
        validation=0.25,
        metrics={"accuracy": metrics.accuracy},
        early_stopping=fmlp.EarlyStopping("val_loss", restore_best=True),
        progress=False,
        checkpoint=checkpoint,
    )
    return result.params, result.state, result.history


def test_eight_threads_train_eight_models():
    expected = [train(i) for i in range(N)]
    assert len({value[2]["loss"][-1] for value in expected}) == N
    for i, got in enumerate(at_once(train, repeats=2)):
        assert same(got, [expected[i]] * 2), f"thread {i}"


def test_eight_threads_predict_from_one_tree_of_parameters():
    net, params = model(0)
    params = fmlp.calibrate(net, params, rows(0)[0])
    before = tree.map(np.array, params)

    def predict(i):
        x, y = rows(i, n=200)
        scores = fmlp.evaluate(net, params, (x, y), loss=losses.cross_entropy, metrics={"f1": metrics.accuracy})
        return fmlp.predict(net, params, x, batch_size=64), fmlp.calibrate(net, params, x), scores

    expected = [predict(i) for i in range(N)]
    for i, got in enumerate(at_once(predict, repeats=10)):
        assert same(got, [expected[i]] * 10), f"thread {i}"
    assert same(params, before)


def test_eight_threads_differentiate_at_one_tree_of_parameters():
    """The training mode: dropout with a key of each thread's own, the statistics of each thread's own batch."""
    net, params = model(4)
    step = fmlp.value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))
    optimizer = optim.adam(1e-2)
    state = optimizer.init(params)

    def differentiate(i):
        value, grads = step(params, *rows(i), key=random.key(i))
        return value, optimizer.update(grads, state, params)

    expected = [differentiate(i) for i in range(N)]
    for i, got in enumerate(at_once(differentiate, repeats=10)):
        assert same(got, [expected[i]] * 10), f"thread {i}"


def test_eight_threads_save_and_load_files_of_their_own(tmp_path):
    def there_and_back(i):
        path, (_, params) = tmp_path / f"{i}.npz", model(i)
        fmlp.save(path, params, metadata={"thread": i})
        return fmlp.load(path, like=params), fmlp.load_metadata(path)["thread"]

    for i, got in enumerate(at_once(there_and_back, repeats=20)):
        assert same(got, [(model(i)[1], i)] * 20), f"thread {i}"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i}.npz" for i in range(N)]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_saving_leaves_the_umask_alone(tmp_path, monkeypatch):
    """It is the whole process's: two threads that set it and set it back can leave it as 0."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda mask: pytest.fail("the umask was touched"))
            fmlp.save(tmp_path / "model.npz", {"w": np.zeros(2)})
        assert stat.S_IMODE((tmp_path / "model.npz").stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_eight_threads_write_one_file(tmp_path):
    """Each replaces it whole: who reads meanwhile gets one of them, never a mixture."""
    path, trees = tmp_path / "shared.npz", [{"w": np.full(5000, i), "i": np.array(i)} for i in range(N)]
    fmlp.save(path, trees[0])

    def write_and_read(i):
        fmlp.save(path, trees[i])
        return fmlp.load(path)

    for got in at_once(write_and_read, repeats=10):
        assert all(same(read, trees[int(read["i"])]) for read in got)
    assert [entry.name for entry in tmp_path.iterdir()] == ["shared.npz"]


def test_eight_threads_train_with_checkpoints_of_their_own(tmp_path):
    expected = [train(i) for i in range(N)]
    for i, got in enumerate(at_once(lambda i: train(i, tmp_path / f"{i}.npz"))):
        assert same(got, [expected[i]]), f"thread {i}"


# ------------------------------------------------------------------------- threads of fmlp's own

BLAS = importlib.import_module("fmlp.threads")


@pytest.mark.parametrize("rows", [4096, 4097, 5000])
def test_predictions_do_not_depend_on_the_number_of_threads(rows, monkeypatch):
    net = serial(Dense(96), BatchNorm(), Elu(), Dense(64), LayerNorm(), Dense(3))
    _, params = net.init(random.key(0), (64,))
    x = random.generator(random.key(1)).normal(size=(rows, 64)).astype(np.float32)
    params = fmlp.calibrate(net, params, x[:1000])
    assert 1024 * tree.size(params) >= BLAS.WORTH_A_THREAD
    monkeypatch.setattr(sys.modules["fmlp.evaluation"], "AFTER", 2)
    predictions = []
    for n in (1, 2, 3):
        with fmlp.threads(n):
            predictions += [fmlp.predict(net, params, x) for _ in range(4)]
    with fmlp.disable_jit(), fmlp.threads(2):
        predictions.append(fmlp.predict(net, params, x))
    assert all(p.tobytes() == predictions[0].tobytes() for p in predictions)


def test_threads_see_the_callers_context_and_pass_on_errors():
    def apply(params, x, *, train=False, key=None):
        if x[0, 0] == 2048:
            raise ValueError("row 2048")
        return np.exp(x * 1000)

    net = fmlp.Layer(None, apply)
    x, params = np.arange(4096.0)[:, None] * np.ones(2), {"w": np.ones(5000)}
    with fmlp.threads(2), np.errstate(over="raise"), pytest.raises(FloatingPointError):
        fmlp.predict(net, params, x + 1)
    with fmlp.threads(2), np.errstate(over="ignore"), pytest.raises(ValueError, match="row 2048"):
        fmlp.predict(net, params, x)


def test_at_most_a_few_items_are_ahead():
    asked = []

    def items():
        for i in range(20):
            asked.append(i)
            yield i

    ahead = [len(asked) - i for i in BLAS.mapped(lambda i: i, items(), 2)]
    assert len(ahead) == 20
    assert max(ahead) <= 3


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError), (None, TypeError)])
def test_the_number_of_threads_is_checked(n, error):
    with pytest.raises(error, match=r"^n: "), fmlp.threads(n):
        pass


def test_blas_gets_one_thread_and_then_its_own_again(monkeypatch):
    number = [2]
    monkeypatch.setattr(BLAS, "_openblas", lambda: (lambda: number[0], lambda n: number.__setitem__(0, n)))
    with BLAS.one_blas_thread:
        assert number == [1]
        with BLAS.one_blas_thread:
            assert number == [1]
        assert number == [1]
    assert number == [2]
    with BLAS.blas_threads_for(BLAS.WORTH_TWO_OF_BLAS):
        assert number == [2]
    with BLAS.blas_threads_for(100):
        assert number == [1]
    with pytest.raises(KeyError), BLAS.one_blas_thread:
        raise KeyError
    assert number == [2]
