"""Races: contenders take turns, round after round, so that a drifting machine hits all alike."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import LEARNING_RATE, Case
from benchmarks.contenders import OPTIONS
from benchmarks.worker import CORES, Worker

TOLERANCE = {"loss": 1e-5, "output": 1e-4, "gradient": 1e-4, "change": 5e-3}
"""Of the difference to fmlp, in float32; see `_difference`."""


class Entry(NamedTuple):
    """A contender in a race: the name that it goes by, what it does, with how many threads (0: default) and options."""

    name: str
    contender: str
    kind: str
    threads: int
    options: dict[str, str]
    busy: bool = False
    """Whether another process keeps a core busy at the same time."""

    @property
    def setting(self) -> str:
        """Describe the threads and options."""
        return ", ".join([str(self.threads or "default"), *self.options.values()])


class Figure(NamedTuple):
    """A median and its interquartile range."""

    median: float
    low: float
    high: float


def figure(values: Iterable[float]) -> Figure:
    """Return the median and the quartiles."""
    low, median, high = np.percentile(list(values), [25, 50, 75]).tolist()
    return Figure(median, low, high)


@dataclass
class Race:
    """The times of a race, one a round, by contender; of its thread counts and options, the fastest."""

    title: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    def ratio(self, slower: str, faster: str) -> Figure | None:
        """Compare two contenders round by round; None when one has not taken part."""
        if slower not in self.seconds or faster not in self.seconds:
            return None
        return figure(a / b for a, b in zip(self.seconds[slower], self.seconds[faster], strict=True))

    def to_json(self, base: str) -> dict[str, Any]:
        """Return the figures, with the ratios to `base` and to the floor."""
        return {
            "title": self.title,
            "contenders": {
                name: {
                    "threads": self.settings[name],
                    "seconds": figure(times)._asdict(),
                    f"/ {base}": self.ratio(name, base)._asdict(),
                    **({"/ floor": self.ratio(name, "floor")._asdict()} if "floor" in self.seconds else {}),
                }
                for name, times in self.seconds.items()
            },
        }


class Arena:
    """The workers, started when first needed, and the races between them."""

    def __init__(self, contenders: Sequence[str]) -> None:
        self.contenders = contenders
        self.workers: dict[tuple[str, int], Worker] = {}
        self.ids = itertools.count()
        self.agreed: set[tuple[str, Case, tuple[str, int]]] = set()

    def __enter__(self) -> Arena:
        """Start."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.close()

    def entries(self, kind: str, *contenders: str, suffix: str = "", **options: str) -> list[Entry]:
        """List the entries of those contenders that are installed: with 1 thread and with all, fmlp also by default.

        What fmlp does by default, as its users will have it, goes by its own name; the other thread count does not.
        """
        entries = []
        for contender in contenders:
            if contender not in self.contenders:
                continue
            if contender == "fmlp":
                entries += [Entry(f"fmlp{suffix}", contender, kind, 0, options)]
                entries += [Entry(f"fmlp{suffix}, 1 thread", contender, kind, 1, options)]
                continue
            settings = OPTIONS.get(contender, ({},)) if kind in ("step", "fit") else ({},)
            entries += [
                Entry(f"{contender}{suffix}", contender, kind, threads, options)
                for threads in sorted({1, CORES})
                for options in settings
            ]
        return entries

    def race(
        self, title: str, case: Case, entries: Sequence[Entry], *, rows: int, batch: int = 0, rounds: int, block: float
    ) -> Race:
        """Let the entries take turns in blocks of about `block` seconds, after they agreed on what they work out."""
        entries = [e for e in entries if case.rates or "prng" not in e.options]  # without dropout nothing is drawn
        self._check(case, entries)
        workers, ids = [self._worker(e) for e in entries], [next(self.ids) for _ in entries]
        for entry, worker, id in zip(entries, workers, ids, strict=True):
            settings = {"kind": entry.kind, "rows": rows, "batch": batch, "options": entry.options}
            worker.send("build", id=id, case=asdict(case), **settings)
        for worker in workers:
            worker.receive()
        counts = [w.ask("calibrate", id=id, seconds=block) for w, id in zip(workers, ids, strict=True)]
        times: list[list[float]] = [[] for _ in entries]
        for r in range(rounds):
            for i in np.roll(range(len(entries)), r):
                with busy_core() if entries[i].busy else nullcontext():
                    times[i].append(workers[i].ask("run", id=ids[i], k=counts[i]))
        for worker, id in zip(workers, ids, strict=True):
            worker.ask("forget", id=id)

        race = Race(title)
        for entry, seconds in zip(entries, times, strict=True):
            if entry.name not in race.seconds or np.median(seconds) < np.median(race.seconds[entry.name]):
                race.seconds[entry.name], race.settings[entry.name] = seconds, entry.setting
        return race

    def _worker(self, entry: Entry) -> Worker:
        key = entry.contender, entry.threads
        if key not in self.workers:
            self.workers[key] = Worker(*key)
        return self.workers[key]

    def _check(self, case: Case, entries: Sequence[Entry]) -> None:
        """Stop unless all work out the same as fmlp, with dropout off."""
        case, kind = case.without_dropout(), "predict" if entries[0].kind in ("predict", "apply") else "step"
        checked = {(e.contender, e.threads): self._worker(e) for e in entries if e.contender != "floor"}
        new = {key: worker for key, worker in checked.items() if (kind, case, key) not in self.agreed}
        if not new:
            return
        fmlp = "fmlp", 0
        new[fmlp] = checked[fmlp]
        with tempfile.TemporaryDirectory() as folder:
            paths = {key: str(Path(folder) / f"{i}.npz") for i, key in enumerate(new)}
            for key, worker in new.items():
                worker.send("check", kind=kind, case=asdict(case), rows=64, path=paths[key])
            for worker in new.values():
                worker.receive()
            results = {key: dict(np.load(path)) for key, path in paths.items()}
        for key, result in results.items():
            for name, expected in results[fmlp].items():
                tolerance = TOLERANCE[name.split()[0]]
                difference = _difference(name, result[name], expected)
                if not difference <= tolerance:
                    raise SystemExit(
                        f"{new[key].name} and fmlp disagree on the {name} of {case}:\n"
                        f"difference {difference:.2g}, tolerated {tolerance:.0e}. Nothing was timed."
                    )
            self.agreed.add((kind, case, key))


@contextmanager
def busy_core() -> Iterator[None]:
    """Let another process compute all the time."""
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def _difference(name: str, a: np.ndarray, b: np.ndarray) -> float:
    """Return ‖a - b‖ / ‖b‖; of the change of the parameters, the share of them that differ by a tenth of a step.

    Adam's first steps are close to the sign of the gradient, so rounding can turn single ones around.
    """
    if a.shape != b.shape:
        return np.inf
    if name == "change":
        return float(np.mean(np.abs(a - b) > 0.1 * LEARNING_RATE))
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-30))
