"""A contender in a process of its own, asked and answering by JSON lines over pipes.

One process for each contender and thread count, so that the idle threads and the memory of one disturb no other. The
worker times itself; the parent only says whose turn it is.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

ROOT = Path(__file__).parents[1]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """The parent's end."""

    def __init__(self, contender: str, threads: int) -> None:
        self.name = f"{contender} ({threads or 'default'} threads)"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", contender, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment(threads),
            text=True,
        )

    def send(self, do: str, **arguments: Any) -> None:
        """Ask for something."""
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def receive(self) -> Any:
        """Wait for the answer."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"{self.name}:\n{reply['error']}")
        return reply["ok"]

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send and receive."""
        self.send(do, **arguments)
        return self.receive()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def environment(threads: int) -> dict[str, str]:
    """Return the environment for a process with so many threads; 0 leaves it as it is."""
    if not threads:
        return dict(os.environ)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # the last is XLA's
    clean = {name: value for name, value in os.environ.items() if name not in (*names, "XLA_FLAGS")}
    clean |= dict.fromkeys(names, str(threads))
    if threads == 1:
        clean["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return clean


class _Contender:
    """What the parent can ask for: the public methods."""

    def __init__(self, contender: str, threads: int) -> None:
        from benchmarks.contenders import MODULES

        self._threads = threads
        self._module = importlib.import_module(f"benchmarks.contenders.{MODULES[contender][0]}")
        self._built: dict[int, tuple[Any, Callable[[int], Any], int]] = {}

    def ready(self) -> str:
        """Say that the import is done."""
        return "ready"

    def check(self, kind: str, case: dict, rows: int, path: str) -> None:
        """Write what the contenders must agree on: outputs, or loss, gradients and three Adam steps' change."""
        import numpy as np

        network, (x, y) = self._network(case), self._data(case, rows)
        if kind == "predict":
            np.savez(path, output=network.predict(x)(1))
            return
        before = [np.array(p) for p in network.parameters()]
        loss, grads = network.loss_and_grads(x, y)
        network.step(x, y)(3)
        change = [np.ravel(p - q) for p, q in zip(network.parameters(), before, strict=True)]
        gradients = {f"gradient of {'wb'[i % 2]}{i // 2}": g for i, g in enumerate(grads)}
        np.savez(path, loss=loss, **gradients, change=np.concatenate(change))

    def build(self, id: int, kind: str, case: dict, rows: int, batch: int, options: dict) -> None:
        """Make ready what `run` is to time, with one warm-up step where one is cheap."""
        network, (x, y) = self._network(case, **options), self._data(case, rows)
        make = getattr(network, kind)
        if kind in ("fit", "estimator"):
            self._built[id] = network, make(x, y, batch), math.ceil(rows / batch)
        else:
            inputs = (x,) if kind in ("predict", "apply") else (x[: batch or rows], y[: batch or rows])
            self._built[id] = network, make(*inputs), 1
            self._seconds(id, 1)

    def calibrate(self, id: int, seconds: float) -> int:
        """Find how many steps, epochs or predictions take about so long, after the first calls, which compile."""
        warm = 0.0
        for _ in range(40):
            if warm < 0.8:
                warm += self._seconds(id, 1)
        k = 1
        while (elapsed := self._seconds(id, k)) < seconds / 2:
            k = math.ceil(k * min(10, seconds / elapsed))
        return k

    def run(self, id: int, k: int) -> float:
        """Return the seconds per step or prediction."""
        return self._seconds(id, k) / (k * self._built[id][2])

    def forget(self, id: int) -> None:
        """Let go of what was built."""
        del self._built[id]

    def memory(self, case: dict, rows: int, batch: int, options: dict) -> dict[str, int]:
        """Return the peak of the process's memory, in bytes, after the imports, with the data, after an epoch."""
        peaks = {"imports": _peak()}
        x, y = self._data(case, rows)
        peaks["data"] = _peak()
        self._network(case, **options).fit(x, y, batch)(1)
        return peaks | {"fit": _peak(), "size": x.nbytes + y.nbytes}

    def save(self, case: dict, path: str) -> str:
        """Write the network, and return the script that makes the first prediction from the file."""
        self._network(case).save(path)
        return self._module.FIRST_PREDICTION

    def _network(self, case: dict, **options: str) -> Any:
        from benchmarks.cases import Case

        return self._module.Network(Case(**case), self._threads, **options)

    def _data(self, case: dict, rows: int) -> Any:
        from benchmarks import cases

        return cases.data(cases.Case(**case), rows)

    def _seconds(self, id: int, k: int) -> float:
        network, run, _ = self._built[id]
        if hasattr(network, "reset"):
            network.reset()  # every block trains from the same parameters: no drift, no denormal numbers
        started = perf_counter()
        run(k)
        return perf_counter() - started


def _peak() -> int:
    """Return the peak resident memory in bytes; Linux's ru_maxrss would begin with the parent's."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _settle() -> None:
    """Wait until the library's idle threads have stopped spinning, which takes OpenBLAS's a tenth of a second."""
    busy = True
    while busy:
        before = process_time()
        sleep(0.01)
        busy = process_time() - before > 0.002


def _main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    contender = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            contender = contender or _Contender(sys.argv[1], int(sys.argv[2]))
            reply = {"ok": getattr(contender, request.pop("do"))(**request)}
            _settle()
        except Exception:
            reply = {"error": traceback.format_exc()}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    _main()
