"""Kill a training process with SIGKILL at random moments, start it again, and compare every bit of what it ends with.

python tests/reliability/kill.py --kills 200
"""

from __future__ import annotations

import argparse
import os
import random as chance
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fmlp
from fmlp import data, losses, metrics, optim, random
from fmlp.layers import BatchNorm, Dense, Dropout, Elu, serial


def train(checkpoint: Path | None, epochs: int) -> fmlp.FitResult:
    """Train a network with everything that a checkpoint must keep: dropout, statistics, momentum, early stopping."""
    x, y, *_ = data.load(Path(__file__).parents[2] / "data" / "digits.npz")
    net = serial(Dense(48), BatchNorm(), Elu(), Dropout(0.2), Dense(10))
    _, params = net.init(random.key(0), x.shape[1:])
    # Written after every step, so that many kills fall within a write.
    every = checkpoint and fmlp.Checkpoint(checkpoint, seconds=1e-9)
    return fmlp.fit(
        net,
        params,
        (x[:600] / 16, y[:600]),
        loss=losses.cross_entropy,
        optimizer=optim.adam(1e-3),
        epochs=epochs,
        batch_size=64,
        key=random.key(1),
        validation=0.2,
        metrics={"accuracy": metrics.accuracy},
        early_stopping=fmlp.EarlyStopping("val_loss", patience=epochs, restore_best=True),
        progress=False,
        checkpoint=every,
    )


def written(path: Path) -> int:
    """Return when the file was written last, 0 if never."""
    return path.stat().st_mtime_ns if path.exists() else 0


def survive(folder: Path, kills: int, seed: int, epochs: int) -> int:
    """Kill at least `kills` times, trainings one after the other; return how many kills were survived.

    Raises AssertionError when a training ends with other bits than one that was never killed.
    """
    expected = train(None, epochs)
    moments, killed, within, run = chance.Random(seed), 0, 0, 0
    while killed < kills:
        run += 1
        path, result = folder / f"{run}.npz", folder / f"{run}-result.npz"
        command = [sys.executable, __file__, "--child", str(path), str(result), "--epochs", str(epochs)]
        while True:
            before = written(path)
            child = subprocess.Popen(command)
            while child.poll() is None and written(path) == before:  # the time until then is Python's own
                time.sleep(0.001)
            try:
                child.wait(moments.uniform(0, 0.1) if killed < kills else None)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                child.wait()
                killed += 1
                within += any(folder.glob(f".{path.name}.*.tmp"))
            assert child.returncode in (0, -signal.SIGKILL), f"the training ended with {child.returncode}"
            if child.returncode == 0:
                break
        got = fmlp.load(result, like=expected.params)
        same = [np.array_equal(a, b) for a, b in zip(*map(fmlp.tree.leaves, (got, expected.params)), strict=True)]
        assert all(same), f"training {run}: other parameters"
        assert fmlp.load_metadata(result)["history"] == expected.history, f"training {run}: another history"
        assert not list(folder.glob(f".{path.name}.*")), "a temporary file was left"
    print(f"{killed} kills survived, {within} of them within a write, over {run} trainings; every bit the same")
    return killed


def main() -> None:
    """Kill trainings, or be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        result = train(options.child[0], options.epochs)
        fmlp.save(options.child[1], result.params, metadata={"history": result.history})
    else:
        with tempfile.TemporaryDirectory() as folder:
            survive(Path(folder), options.kills, options.seed, options.epochs)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
