"""A training among other processes: signals end it in good order, forked ones are free of it; stderr never ends it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fmlp.signals import Interrupts

BEFORE = """
import ctypes, os, signal, sys, threading, time, warnings
import numpy as np
import fmlp
from fmlp import losses, optim, random
from fmlp.layers import Dense

NET, X = Dense(1), np.ones((8, 2), np.float32)

def fit(data=(X, X[:, 0]), epochs=2, **settings):
    return fmlp.fit(NET, NET.init(random.key(0), (2,))[1], data, loss=losses.mse, optimizer=optim.sgd(0.1),
                    epochs=epochs, key=random.key(0), **{"progress": False} | settings)

class Batches:
    def __init__(self, act):
        self.act = act

    def __iter__(self):
        for i in range(4):
            self.act(i)
            yield X, X[:, 0]
"""


def run(script, folder, **settings):
    """Run a script that begins with BEFORE; one that hangs is an error."""
    words = [sys.executable, "-W", "error", "-c", BEFORE + textwrap.dedent(script)]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60} | settings
    return subprocess.run(words, cwd=folder, **given)


def prints(script, folder, **settings):
    done = run(script, folder, **settings)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.split()


# ------------------------------------------------------------------------------------------- the bar

SHOWN = "print(fit(progress=True, validation=0.5).stopped)\n"
VERBOSE = """
from fmlp.estimators import MLPRegressor
warnings.simplefilter("ignore")
for solver in ("lbfgs", "adam"):
    MLPRegressor(hidden_layer_sizes=(2,), solver=solver, max_iter=3, verbose=True).fit(X, X[:, 0])
print("done")
"""


@pytest.mark.parametrize("script", [SHOWN, VERBOSE], ids=["fit", "estimators"])
@pytest.mark.parametrize("stderr", ["None", "closed", "full", "raising"])
def test_the_bar_never_matters(tmp_path, script, stderr):
    if script == VERBOSE:
        pytest.importorskip("sklearn")
    full = Path("/dev/full")
    if stderr == "full" and not full.exists():
        pytest.skip("needs a device that is always full")
    spoilt = {
        "None": "sys.stderr = None\n",
        "closed": "sys.stderr.close()\n",
        "full": "",
        "raising": "class S:\n    def write(self, text): raise OSError\n    def flush(self): pass\nsys.stderr = S()\n",
    }[stderr]
    with full.open("w") if stderr == "full" else open(os.devnull, "w") as stream:
        done = run(spoilt + script, tmp_path, stderr=stream)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_stderr_that_fills_up_later_ends_the_bar_alone(tmp_path):
    script = """
    class Stream:
        def write(self, text):
            if "epoch 2" in text: raise OSError(28, "No space left on device")
            if text: print(True)
        def flush(self): pass
    sys.stderr = Stream()
    print(fit(progress=True, epochs=3, data=Batches(lambda i: time.sleep(0.1))).stopped)
    """
    out = prints(script, tmp_path)
    assert set(out[:-1]) == {"True"}
    assert out[-1] == "done"


def test_without_a_bar_there_is_no_tqdm_and_with_one_no_thread_and_no_lock_of_several_processes(tmp_path):
    script = """
    fit()
    print("tqdm" in sys.modules)
    threads = []
    fit(progress=True, callbacks=[lambda epoch: threads.append(threading.active_count())])
    from tqdm.std import TqdmDefaultWriteLock
    print(set(threads), hasattr(TqdmDefaultWriteLock, "mp_lock"))
    """
    assert run(script, tmp_path).stdout.split() == ["False", "{1}", "False"]


# ------------------------------------------------------------------------------------------- signals

unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals and processes as Unix has them")


@unix
@pytest.mark.parametrize("threaded", [False, True])
def test_forked_processes_have_the_handlers_from_before(tmp_path, threaded):
    script = f"""
    statuses = []

    def child(i):
        if i == 2:
            if (pid := os.fork()) == 0:
                time.sleep(60)
                os._exit(0)
            time.sleep(0.2)
            os.kill(pid, signal.SIGTERM)
            statuses.append(os.waitpid(pid, 0)[1])

    def act(i):
        if {threaded}:
            thread = threading.Thread(target=child, args=(i,))
            thread.start()
            thread.join()
        else:
            child(i)

    print(fit(Batches(act), epochs=1, checkpoint="run.npz").stopped, statuses == [signal.SIGTERM])
    """
    assert prints(script, tmp_path) == ["done", "True"]


@unix
def test_a_pool_that_gives_the_batches_ends_with_the_training(tmp_path):
    script = """
    from multiprocessing import get_context

    def batch(i):
        if i == 3:
            time.sleep(60)
        return X, X[:, 0]

    class Pooled:
        def __iter__(self):
            with get_context("fork").Pool(2) as pool:
                for i, pair in enumerate(pool.imap(batch, range(8))):
                    yield pair
                    if i == 2:  # the next one is waited for
                        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    print(fit(Pooled(), epochs=1, checkpoint="run.npz").stopped)
    """
    assert prints(script, tmp_path) == ["interrupted"]


@unix
def test_sigterm_ends_the_wait_for_a_batch_and_is_passed_on(tmp_path):
    script = """
    signal.signal(signal.SIGTERM, lambda *_: print("passed"))

    def act(i):
        if i == 2:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            time.sleep(60)

    print(fit(Batches(act), checkpoint="run.npz").stopped, fmlp.load_metadata("run.npz")["progress"]["step"])
    os.kill(os.getpid(), signal.SIGTERM)
    """
    assert prints(script, tmp_path) == ["passed", "interrupted", "2", "passed"]


@unix
@pytest.mark.parametrize("where", ["callback", "generator"])
def test_sigterm_is_not_lost_where_the_program_catches_everything(tmp_path, where):
    script = f"""
    signal.signal(signal.SIGTERM, lambda *_: None)

    def careless(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            pass

    settings = dict(callbacks=[careless]) if {where == "callback"} else dict(data=Batches(careless))
    result = fit(epochs=100, checkpoint="run.npz", **settings)
    print(result.stopped, len(result.history.get("loss", [])) < 3)
    """
    assert prints(script, tmp_path) == ["interrupted", "True"]


@unix
def test_an_ignored_signal_stays_ignored(tmp_path):
    script = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(fit(Batches(lambda i: os.kill(os.getpid(), signal.SIGTERM)), checkpoint="run.npz").stopped)
    """
    assert prints(script, tmp_path) == ["done"]


def test_ranks_wait_for_each_other_unless_there_is_an_error():
    waits = []
    with Interrupts(barrier=lambda: waits.append("wait")).listening():
        assert not waits
    assert waits == ["wait"]
    with pytest.raises(OSError, match="disk"), Interrupts(barrier=waits.clear).listening():
        raise OSError("disk")
    assert waits == ["wait"]


@unix
def test_a_handler_in_c_does_not_break_the_end(tmp_path):
    script = """
    calls = []
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(calls.append)
    ctypes.CDLL(None).signal(signal.SIGTERM, handler)
    signal.getsignal = lambda number: None  # as Python says of a handler that was there before it began
    print(fit(checkpoint="run.npz").stopped)
    os.kill(os.getpid(), signal.SIGTERM)
    print(calls == [signal.SIGTERM])
    """
    assert prints(script, tmp_path) == ["done", "True"]
