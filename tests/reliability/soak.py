"""Train, predict, save, load and fail in one process for an hour, and see whether it keeps anything.

OPENBLAS_NUM_THREADS=1 python tests/reliability/soak.py --minutes 60

Every round does the same work and must give the same bits. Every 10 seconds, between two rounds, when all that they
made should be gone, are measured: resident memory, open file handles, threads (NumPy's and tqdm's among them), and the
blocks of memory that Python has given out. It ends with 1 if handles or threads grew, if blocks did by one for every
second round, or if resident memory did by more than `BOUND`. It needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import hashlib
import io
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import fmlp
from fmlp import data, losses, metrics, optim, random, schedules, tree
from fmlp.estimators import MLPClassifier, MLPRegressor
from fmlp.layers import BatchNorm, Dense, Dropout, Elu, LayerNorm, Prelu, residual, serial

BOUND = 8.0
"""MiB of resident memory that a soak may gain after its warm-up: slope times duration.

A sound process gains the noise of two allocators: fragments, and the most that it ever held at once, of which a longer
run sees a little more. Python's allocator takes memory by 1 MiB, malloc by 128 KiB, and a round holds less than 2 MiB
at once: 8 MiB is well above that. A leak is well above 8 MiB: a round takes about a second and makes 37 kB of
parameters in each of about 150 steps. One tree of parameters a round would be 100 MiB an hour, one a step 15 GiB.
"""

WARM_UP = 0.2
COLUMNS = "seconds", "MiB", "handles", "threads", "blocks"


def measure(since: float) -> tuple[float, float, int, int, int]:
    """Return what the process holds, when nothing is left for the garbage collector."""
    gc.collect()
    # Python 3.11 keeps the last 4096 names of attributes that C code looked up, new strings each time: 0.25 MiB when
    # full, which looks like a leak of 3 MiB an hour until then.
    getattr(sys, "_clear_internal_caches", getattr(sys, "_clear_type_cache", None))()
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    handles, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
    return time.monotonic() - since, rss, handles, threads, sys.getallocatedblocks()


def work(folder: Path) -> str:
    """Do a bit of everything, leave no file behind, and return a digest of the results."""
    x, y, x_test, y_test = data.load(Path(__file__).parents[2] / "data" / "digits.npz")
    x, y = x[:600] / 16, y[:600]
    results: list[Any] = []

    net = serial(Dense(64), BatchNorm(), Elu(), Dropout(0.2), residual(Dense(64), LayerNorm(), Prelu()), Dense(10))
    _, params = net.init(random.key(0), x.shape[1:])
    plateau = fmlp.on_plateau("val_loss", schedules.reduce_on_plateau(2e-3, patience=1))
    arguments: dict[str, Any] = {
        "loss": losses.cross_entropy,
        "optimizer": optim.chain(optim.clip_by_global_norm(1.0), optim.adam(2e-3)),
        "batch_size": 16,
        "key": random.key(1),
        "validation": 0.2,
        "metrics": {"accuracy": metrics.accuracy, "f1": lambda a, b: metrics.f1(a, b, average="macro")},
        "early_stopping": fmlp.EarlyStopping("val_accuracy", mode="max", restore_best=True),
        "callbacks": [plateau, lambda epoch: None],
        "class_weight": "balanced",
    }
    for epochs in (2, 4):  # the second goes on from the first's checkpoint
        with contextlib.redirect_stderr(io.StringIO()):  # the bar is drawn, and thrown away
            result = fmlp.fit(net, params, (x, y), epochs=epochs, checkpoint=folder / "run.npz", **arguments)
    params = result.params
    results += [params, result.history, fmlp.predict(net, params, x_test, batch_size=100)]
    results += [fmlp.evaluate(net, params, (x_test, y_test), loss=losses.cross_entropy)]

    fmlp.save(folder / "model.npz", params, metadata={"classes": "0-9"})
    results += [fmlp.load(folder / "model.npz", like=params), fmlp.load(folder / "model.npz")]
    results += [fmlp.load_metadata(folder / "model.npz")["classes"], fmlp.summary(net, x.shape[1:])]
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows(np.column_stack([x[:50], y[:50]]).tolist())
    results += [data.read_csv(folder / "rows.csv"), data.train_test_split(x, y)]
    np.save(folder / "x.npy", x)
    mapped = fmlp.files.read_npy(folder / "x.npy")
    results += [fmlp.calibrate(net, params, mapped), fmlp.predict(net, params, mapped)]

    with contextlib.suppress(fmlp.FileFormatError):  # errors let go of what they met, too
        (folder / "model.npz").write_bytes((folder / "model.npz").read_bytes()[:-100])
        fmlp.load(folder / "model.npz")
    with contextlib.suppress(fmlp.NonFiniteError):
        fmlp.fit(net, params, (x, y), epochs=1, **arguments | {"optimizer": optim.sgd(1e38), "callbacks": []})

    step = fmlp.value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))
    optimizer = optim.sgd(schedules.cosine_lr(0.1, 20), momentum=0.9)
    state = optimizer.init(params)
    for i in range(20):
        _, grads = step(params, x[:64], y[:64], key=random.fold_in(random.key(2), i))
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    results += [params]

    classifier = MLPClassifier((32, 16), dropout=0.1, batch_norm=True, max_iter=3, tol=0, random_state=0)
    results += [classifier.fit(x, y).predict_proba(x_test)]
    results += [
        MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", max_iter=5, random_state=0)
        .fit(x, y.astype(float))
        .predict(x_test)
    ]

    for path in folder.iterdir():
        path.unlink()
    digest = hashlib.sha256()
    for leaf in tree.leaves(results):
        digest.update(leaf.encode() if isinstance(leaf, str) else np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def soak(minutes: float, folder: Path) -> bool:
    """Work for so long, tell what was measured, and return whether nothing was kept."""
    started = time.monotonic()
    end = started + 60 * minutes
    samples = np.empty((int(6 * minutes) + 3, len(COLUMNS)))  # made before the first, because it counts as well
    expected, rounds, taken = work(folder), 1, 0
    while not taken or time.monotonic() < end:
        until = min(time.monotonic() + 10, end)
        while time.monotonic() < until:
            assert work(folder) == expected, f"round {rounds} gave other bits than the first"
            rounds += 1
        samples[taken] = measure(started)
        print(
            "{:6.0f} s {:8.2f} MiB {:4.0f} handles {:4.0f} threads {:8.0f} blocks".format(*samples[taken]), flush=True
        )
        taken += 1

    samples = samples[:taken]
    samples = samples[samples[:, 0] >= WARM_UP * samples[-1, 0]]
    times = samples[:, 0] - samples[:, 0].mean()
    hourly = 3600 * (times @ samples) / (times @ times)
    gained = hourly * (samples[-1, 0] - samples[0, 0]) / 3600
    print(f"{rounds} rounds in {samples[-1, 0] / 60:.1f} minutes, all with the same bits; after {WARM_UP:.0%} of them:")
    for i, name in enumerate(COLUMNS[1:], 1):
        first, last = samples[0, i], samples[-1, i]
        print(f"{name}: {first:.2f} to {last:.2f}, slope {hourly[i]:+.2f} an hour, {gained[i]:+.2f} in all")
    _, rss, _, _, blocks = gained
    return bool((samples[-1, 2:4] <= samples[0, 2:4]).all() and rss <= BOUND and blocks <= rounds / 2)


def main() -> None:
    """Soak, and exit with 1 if something was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes: expected at least 1, because a slope needs some samples")
    warnings.simplefilter("ignore", ConvergenceWarning)
    with tempfile.TemporaryDirectory() as folder:
        sound = soak(options.minutes, Path(folder))
    print("sound" if sound else "SOMETHING WAS KEPT")
    sys.exit(not sound)


if __name__ == "__main__":
    main()
