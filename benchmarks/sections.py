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
from benchmarks.rounds import Arena, Figure, Race, figure
from benchmarks.worker import CORES, ROOT, Worker, environment

PEERS = ("jax", "torch")
AS_WRITTEN = {"suffix": ", as written", "jit": "as written"}


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
    runs = [  # and the goals: ours to the floor, JAX's to ours, PyTorch's to ours
        ("deep MLP, batch 32", cases.DEEP, 32, (2.0, 1.15, 3)),
        ("deep MLP, batch 128", cases.DEEP, 128, (2.0, 1.1, 2.8)),
        ("deep MLP, batch 1024", cases.DEEP, 1024, (1.8, 1.5, 2.8)),
        ("wide, 784-512-512-10, batch 128", cases.WIDE, 128, (None, 1.0, 1.0)),
        ("tiny, 8-16-16-1, batch 32", cases.TINY, 32, (None, 1.0, None)),
    ]
    for title, case, batch, (to_floor, to_jax, to_torch) in runs:
        race = arena.race(
            f"training step, {title}",
            case,
            arena.entries("step", "floor", "by hand", "fmlp", *PEERS) + arena.entries("step", "fmlp", **AS_WRITTEN)[:1],
            rows=batch,
            rounds=5 if results.short else 25,
            block=0.04 if results.short else 0.08,
        )
        results.add("step", race)
        name = title.removeprefix("deep MLP, ")
        if to_floor:
            results.goal(f"training step / GEMM floor, {name}", "≤", to_floor, race.ratio("fmlp", "floor"))
        results.goal(f"JAX jit / fmlp, {name}", "≥", to_jax, race.ratio("jax", "fmlp"))
        if to_torch:
            results.goal(f"PyTorch / fmlp, {name}", "≥", to_torch, race.ratio("torch", "fmlp"))


def plan(arena: Arena, results: Results) -> None:
    """Measure how long the plan of a step takes, and JAX's compilation of one."""
    race = arena.race(
        "plan of a training step, deep MLP, batch 32",
        cases.DEEP,
        arena.entries("step", "fmlp", suffix=" step, as written", jit="as written")[:1]
        + arena.entries("plan", "fmlp")[:1]
        + arena.entries("plan", "jax") * (not results.short),
        rows=32,
        rounds=5 if results.short else 9,
        block=0.05,
    )
    results.add("plan", race, base="fmlp step, as written")
    results.goal("making a plan / step as written", "≤", 5, race.ratio("fmlp", "fmlp step, as written"))


def fit(arena: Arena, results: Results) -> None:
    """Measure whole epochs, with shuffling, per step."""
    for batch in (128,) if results.short else (32, 128, 1024):
        race = arena.race(
            f"fit per step, deep MLP, batch {batch}",
            cases.DEEP,
            arena.entries("step", "floor")
            + arena.entries("step", "fmlp", suffix=" jitted step")
            + arena.entries("fit", "fmlp", *PEERS),
            rows=16384,
            batch=batch,
            rounds=3 if results.short else 9,
            block=0.2 if results.short else 0.3,
        )
        results.add("fit", race)
        results.goal(f"fit per step / jitted step, batch {batch}", "≤", 1.05, race.ratio("fmlp", "fmlp jitted step"))


def busy(arena: Arena, results: Results) -> None:
    """Measure whole epochs while another process keeps a core busy."""
    quiet = arena.entries("fit", "fmlp")[0]
    race = arena.race(
        "fit per step, deep MLP, batch 128, beside a process that keeps a core busy",
        cases.DEEP,
        [quiet, quiet._replace(name="fmlp, beside a busy process", busy=True)],
        rows=16384,
        batch=128,
        rounds=3 if results.short else 9,
        block=0.3,
    )
    results.add("busy", race)
    results.goal("fit beside a busy process / quiet", "≤", 2.2, race.ratio("fmlp, beside a busy process", "fmlp"))


def sklearn(arena: Arena, results: Results) -> None:
    """Measure whole epochs without dropout, relu everywhere, which is what scikit-learn can do."""
    for batch, bound in {128: 2.5}.items() if results.short else {32: 2.5, 128: 2.5, 1024: 2.2}.items():
        race = arena.race(
            f"fit per step, deep relu MLP without dropout, batch {batch}",
            cases.DEEP_RELU,
            arena.entries("step", "floor", "by hand") + arena.entries("fit", "fmlp", "sklearn"),
            rows=16384,
            batch=batch,
            rounds=3 if results.short else 9,
            block=0.2 if results.short else 0.3,
        )
        results.add("sklearn", race)
        results.goal(f"scikit-learn / fmlp, batch {batch}", "≥", bound, race.ratio("sklearn", "fmlp"))


def estimators(arena: Arena, results: Results) -> None:
    """Measure whole epochs of the estimators, at equal settings, where compute dominates."""
    for hidden, batch in cases.ESTIMATORS:
        for dtype in ("float64", "float32"):
            name = f"{'-'.join(map(str, hidden))}, {dtype}"
            race = arena.race(
                f"MLPClassifier per step, {name}, batch {batch}",
                cases.estimator(hidden, dtype),
                arena.entries("estimator", *["fmlp", "sklearn"] * ("sklearn" in arena.contenders)),
                rows=8192,
                batch=batch,
                rounds=2 if results.short else 7,
                block=0.2 if results.short else 0.4,
            )
            results.add("estimators", race)
            results.goal(f"estimators, scikit-learn / fmlp, {name}", "≥", 2, race.ratio("sklearn", "fmlp"))


def inference(arena: Arena, results: Results) -> None:
    """Measure predictions, from a NumPy array to a NumPy array."""
    for rows in (1, 100, 10_000):
        race = arena.race(
            f"inference, deep MLP, {rows:,} row{'s' * (rows > 1)}",
            cases.DEEP,
            arena.entries("predict", "floor", "fmlp", *PEERS, "onnxruntime")
            + arena.entries("apply", "fmlp", suffix=" jitted apply"),
            rows=rows,
            rounds=4 if results.short else 20,
            block=0.03 if results.short else 0.06,
        )
        results.add("inference", race)
        if rows != 100:
            bound = 0.85 if rows == 1 else 1
            results.goal(f"inference of {rows:,} / JAX jit", "≤", bound, race.ratio("fmlp", "jax"))
        if rows == 1:
            results.goal("inference of 1 / PyTorch", "≤", 0.25, race.ratio("fmlp", "torch"))
        if rows == 10_000:
            results.goal("inference of 10,000 / ONNX Runtime", "≤", 1, race.ratio("fmlp", "onnxruntime"))


def start(arena: Arena, results: Results) -> None:
    """Measure new processes: imports, and the first prediction from a file."""
    modules = ["numpy", *(c for c in ("fmlp", *PEERS) if c in arena.contenders)]
    imports = {module: ["-c", f"import {module}"] for module in modules}
    compileall.compile_dir(ROOT / "fmlp", quiet=1)  # as pip does, and a clone need not have
    race = _race_processes("import", imports, rounds=3 if results.short else 11)
    results.add("start", race, base="numpy")
    results.goal("import fmlp / import numpy", "≤", 1.3, race.ratio("fmlp", "numpy"))

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
        entries = [e for e in arena.entries("fit", "fmlp", *PEERS) if e.name in contenders]
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
    runs: dict[str, tuple[str, int, dict[str, str]]]
    runs = {"fmlp": ("fmlp", 0, {}), "fmlp, as written": ("fmlp", 0, {"jit": "as written"})}
    runs |= {peer: (peer, CORES, {}) for peer in PEERS if peer in arena.contenders}
    for axis, (sizes, setting) in sweeps.items():
        sizes = sizes[:1] if results.short else sizes
        found[axis] = {"sizes": list(sizes), **{name: [] for name in runs}, "data": []}
        for size in sizes:
            case, rows, batch = setting(size)
            for name, (contender, threads, options) in runs.items():
                worker = Worker(contender, threads)
                peaks = worker.ask("memory", case=asdict(case), rows=rows, batch=batch, options=options)
                worker.close()
                found[axis][name].append(peaks)
            found[axis]["data"].append(peaks["size"])
        print(f"  memory: {axis}", file=sys.stderr, flush=True)

    def ratios(other: str, axis: str) -> list[float]:
        """Compare beyond the data on both sides, which is the stricter reading."""
        pairs = zip(found[axis]["fmlp"], found[axis][other], strict=True)
        return [(a["fit"] - a["size"]) / (b["fit"] - b["size"]) for a, b in pairs]

    all_sizes = [ratio for axis in sweeps for ratio in ratios("fmlp, as written", axis)]
    worst = figure(all_sizes)._replace(median=max(all_sizes))
    results.goal("peak memory of a fit / as written, the worst of all sizes", "≤", 1.01, worst)  # noise
    at_131072 = figure(ratios("torch", "rows")[2:3]) if "torch" in runs and not results.short else None
    results.goal("peak memory of a fit beyond the data / PyTorch's", "≤", 1 / 3, at_131072)


SECTIONS = {f.__name__: f for f in (step, plan, fit, busy, sklearn, estimators, inference, start, growth, memory)}
SHORT = ("step", "plan", "fit", "sklearn", "inference", "start")


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
