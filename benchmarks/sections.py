"""What is measured, section by section, and the goals that the figures are held against."""

from __future__ import annotations

import compileall
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import cases
from benchmarks.rounds import Arena, Figure, Race
from benchmarks.worker import CORES, ROOT, Worker, environment

PEERS = ("jax", "torch")


@dataclass
class Goal:
    """A ratio and its bound; "≤" when less is better."""

    name: str
    sense: str
    bound: float
    ratio: Figure | None

    @property
    def met(self) -> bool | None:
        """Tell whether it is met; None when it could not be measured."""
        if self.ratio is None:
            return None
        return self.ratio.median <= self.bound if self.sense == "≤" else self.ratio.median >= self.bound


@dataclass
class Results:
    """What has been measured so far; `short` means fewer rounds and cases."""

    short: bool
    races: dict[str, list[tuple[Race, str]]] = field(default_factory=dict)
    """For each section its races, each with the contender that ratios are to."""
    sweeps: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For "growth" and "memory": for each axis its sizes and a series for each contender."""
    goals: list[Goal] = field(default_factory=list)

    def add(self, section: str, race: Race, base: str = "fmlp") -> None:
        """Note a race."""
        self.races.setdefault(section, []).append((race, base))
        print(f"  {section}: {race.title}", file=sys.stderr, flush=True)

    def goal(self, name: str, sense: str, bound: float, ratio: Figure | None) -> None:
        """Note a ratio for which there is a goal."""
        self.goals.append(Goal(name, sense, bound, ratio))


def step(arena: Arena, results: Results) -> None:
    """Measure a training step through the functional pieces."""
    goals = {32: (2.5, 2.0), 128: (2.2, 2.0), 1024: (1.9, 1.5)}
    runs = [(f"deep MLP, batch {batch}", cases.DEEP, batch) for batch in goals]
    runs += [("wide, 784-512-512-10, batch 128", cases.WIDE, 128), ("tiny, 8-16-16-1, batch 32", cases.TINY, 32)]
    for title, case, batch in runs:
        race = arena.race(
            f"training step, {title}",
            case,
            arena.entries("step", "floor", "fmlp", *PEERS),
            rows=batch,
            rounds=5 if results.short else 25,
            block=0.04 if results.short else 0.08,
        )
        results.add("step", race)
        if case is cases.DEEP:
            to_floor, to_jax = goals[batch]
            results.goal(f"training step / GEMM floor, batch {batch}", "≤", to_floor, race.ratio("fmlp", "floor"))
            results.goal(f"JAX jit / fmlp, batch {batch}", "≥", to_jax, race.ratio("jax", "fmlp"))
            results.goal(f"PyTorch / fmlp, batch {batch}", "≥", 3, race.ratio("torch", "fmlp"))


def fit(arena: Arena, results: Results) -> None:
    """Measure whole epochs, with shuffling, per step."""
    for batch in (128,) if results.short else (32, 128, 1024):
        race = arena.race(
            f"fit per step, deep MLP, batch {batch}",
            cases.DEEP,
            arena.entries("step", "floor")
            + arena.entries("step", "fmlp", suffix=" bare step")
            + arena.entries("fit", "fmlp", *PEERS),
            rows=16384,
            batch=batch,
            rounds=3 if results.short else 9,
            block=0.2 if results.short else 0.3,
        )
        results.add("fit", race)
        results.goal(f"fit per step / bare step, batch {batch}", "≤", 1.05, race.ratio("fmlp", "fmlp bare step"))


def sklearn(arena: Arena, results: Results) -> None:
    """Measure whole epochs without dropout, relu everywhere, which is what scikit-learn can do."""
    for batch in (128,) if results.short else (32, 128, 1024):
        race = arena.race(
            f"fit per step, deep relu MLP without dropout, batch {batch}",
            cases.DEEP_RELU,
            arena.entries("step", "floor")
            + arena.entries("step", "fmlp", suffix=" bare step")
            + arena.entries("fit", "fmlp", "sklearn"),
            rows=16384,
            batch=batch,
            rounds=3 if results.short else 9,
            block=0.2 if results.short else 0.3,
        )
        results.add("sklearn", race)
        results.goal(f"scikit-learn / fmlp, batch {batch}", "≥", 2.5, race.ratio("sklearn", "fmlp"))


def inference(arena: Arena, results: Results) -> None:
    """Measure predictions, from a NumPy array to a NumPy array."""
    for rows in (1, 100, 10_000):
        race = arena.race(
            f"inference, deep MLP, {rows:,} row{'s' * (rows > 1)}",
            cases.DEEP,
            arena.entries("predict", "floor", "fmlp", *PEERS, "onnxruntime")
            + arena.entries("apply", "fmlp", suffix=" apply") * (rows == 1),
            rows=rows,
            rounds=4 if results.short else 20,
            block=0.03 if results.short else 0.06,
        )
        results.add("inference", race)
        if rows != 100:
            results.goal(f"inference of {rows:,} / JAX jit", "≤", 1, race.ratio("fmlp", "jax"))
        if rows == 1:
            results.goal("inference of 1 / PyTorch", "≤", 0.4, race.ratio("fmlp", "torch"))
        if rows == 10_000:
            results.goal("inference of 10,000 / ONNX Runtime", "≤", 1, race.ratio("fmlp", "onnxruntime"))


def start(arena: Arena, results: Results) -> None:
    """Measure new processes: imports, and the first prediction from a file."""
    modules = ["numpy", *(c for c in ("fmlp", *PEERS) if c in arena.contenders)]
    imports = {module: ["-c", f"import {module}"] for module in modules}
    compileall.compile_dir(ROOT / "fmlp", quiet=1)  # as pip does, and a clone need not have
    race = _race_processes("import", imports, rounds=3 if results.short else 11)
    results.add("start", race, base="numpy")
    results.goal("import fmlp / import numpy", "≤", 1.5, race.ratio("fmlp", "numpy"))

    with tempfile.TemporaryDirectory() as folder:
        first = {}
        for contender in ("fmlp", *PEERS, "onnxruntime"):
            if contender in arena.contenders:
                path = str(Path(folder) / f"{contender}.npz")
                worker = Worker(contender, 0)
                first[contender] = [
                    "-c",
                    worker.ask("save", case=asdict(cases.DEEP.without_dropout()), path=path),
                    path,
                ]
                worker.close()
        race = _race_processes("first prediction from a file", first, rounds=1 if results.short else 7)
    results.add("start", race)


def growth(arena: Arena, results: Results) -> None:
    """Measure how the time of a step grows with batch, width and depth, and that of an epoch with the rows."""
    contenders = ("floor", "fmlp", *PEERS)
    sweeps: dict[str, tuple[Sequence[int], Callable[[int], tuple[cases.Case, int]]]] = {
        "batch": ((1, 4, 16, 64, 256, 1024, 4096), lambda n: (cases.DEEP, n)),
        "width": ((16, 64, 256, 1024), lambda n: (cases.uniform(128, n, 3), 128)),
        "depth": ((2, 4, 8, 16, 32), lambda n: (cases.uniform(128, 64, n), 128)),
    }
    found = results.sweeps.setdefault("growth", {})
    for axis, (sizes, setting) in sweeps.items():
        races = []
        for size in sizes:
            case, batch = setting(size)
            races.append(
                arena.race(
                    f"step, {axis} {size}", case, arena.entries("step", *contenders), rows=batch, rounds=4, block=0.06
                )
            )
        found[axis] = _series(sizes, races)
        print(f"  growth: {axis}", file=sys.stderr, flush=True)

    sizes, batch, races = (1 << 10, 1 << 13, 1 << 16, 1 << 20), 128, []  # 2ⁿ rows: whole batches for all
    for rows in sizes:
        entries = [e for e in arena.entries("fit", *contenders[1:]) if e.name in contenders]
        if rows == sizes[-1]:  # a million rows take their time: only with the setting that was fastest so far
            entries = [e for e in entries if e.setting == races[-1].settings[e.name]]
        race = arena.race(
            f"epoch, {rows} rows", cases.DEEP, entries, rows=rows, batch=batch, rounds=1 if rows >> 20 else 3, block=0.1
        )
        race.seconds = {name: [s * rows / batch for s in times] for name, times in race.seconds.items()}
        races.append(race)
    found["rows"] = _series(sizes, races)
    print("  growth: rows", file=sys.stderr, flush=True)


def memory(arena: Arena, results: Results) -> None:
    """Measure the peak memory of a fit, in a new process each."""
    sweeps: dict[str, tuple[Sequence[int], Callable[[int], tuple[cases.Case, int, int]]]] = {
        "rows": ((1 << 10, 1 << 14, 1 << 17, 1 << 20), lambda n: (cases.DEEP, n, 1024)),
        "batch": ((32, 256, 2048, 16384), lambda n: (cases.DEEP, 16384, n)),
        "width": ((16, 128, 1024), lambda n: (cases.uniform(128, n, 3), 1024, 128)),
        "depth": ((2, 8, 32), lambda n: (cases.uniform(128, 64, n), 1024, 128)),
    }
    found = results.sweeps.setdefault("memory", {})
    contenders = [c for c in ("fmlp", *PEERS) if c in arena.contenders]
    for axis, (sizes, setting) in sweeps.items():
        found[axis] = {"sizes": list(sizes), **{c: [] for c in contenders}, "data": []}
        for size in sizes:
            case, rows, batch = setting(size)
            for contender in contenders:
                worker = Worker(contender, 0 if contender == "fmlp" else CORES)
                peaks = worker.ask("memory", case=asdict(case), rows=rows, batch=batch)
                worker.close()
                found[axis][contender].append(peaks)
            found[axis]["data"].append(peaks["size"])
        print(f"  memory: {axis}", file=sys.stderr, flush=True)

    ratio = None
    if "torch" in contenders:
        # At 131,072 rows. Beyond the data on both sides, which is the stricter reading of "of PyTorch's process".
        ours, theirs = (found["rows"][c][2]["fit"] - found["rows"][c][2]["size"] for c in ("fmlp", "torch"))
        ratio = Figure(ours / theirs, ours / theirs, ours / theirs)
    results.goal("peak memory of a fit beyond the data / PyTorch's", "≤", 1 / 3, ratio)


SECTIONS = {f.__name__: f for f in (step, fit, sklearn, inference, start, growth, memory)}
SHORT = ("step", "fit", "sklearn", "inference", "start")


def _series(sizes: Sequence[int], races: list[Race]) -> dict[str, Any]:
    names = [name for name in races[0].seconds if ", " not in name]  # not "fmlp, 1 thread"
    return {"sizes": list(sizes), **{name: [float(np.median(r.seconds[name])) for r in races] for name in names}}


def _race_processes(title: str, commands: dict[str, list[str]], rounds: int) -> Race:
    """Time whole processes of Python in turns; the first round, which fills the disk cache, does not count."""
    race = Race(title, {name: [] for name in commands}, dict.fromkeys(commands, "default"))
    names = list(commands)
    for r in range(rounds + 1):
        for name in np.roll(names, r).tolist():
            started = perf_counter()
            subprocess.run(
                [sys.executable, *commands[name]],
                check=True,
                cwd=ROOT,
                env=environment(0),
                stdout=subprocess.DEVNULL,
            )
            if r:
                race.seconds[name].append(perf_counter() - started)
    return race
