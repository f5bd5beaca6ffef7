"""How training scales over MPI ranks: measured here, and a model of the time of a step that says where it stops paying.

    python -m benchmarks.scaling            # a few minutes; writes scaling.json and docs/images/scaling.png
    python -m benchmarks.scaling --short    # half a minute; prints, writes nothing
    python -m benchmarks.scaling --draw     # draws the picture again from scaling.json

Every figure is the median over rounds in which all take their turn, each in new processes. A step's time is that of
whole epochs of `fit`, shuffling, batching and exchange included, the start-up excluded: (3 epochs - 1 epoch) / 2.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import fmlp
from benchmarks.cases import DEEP, WIDE, Case, data
from fmlp import distributed, losses, optim, random, tree
from fmlp.layers import Dense, Dropout, Elu, Relu, serial

HERE = Path(__file__).parent
JSON, PICTURE = HERE / "scaling.json", HERE.parent / "docs" / "images" / "scaling.png"
CASES = {"wide": WIDE, "deep": DEEP}
RUNS = [("wide", 1024), ("deep", 1024), ("deep", 128)]
STEPS = 16  # an epoch
LINKS = {  # assumed, not measured: latency in seconds, bandwidth in bytes a second
    "10 Gb/s Ethernet": (30e-6, 1.25e9),
    "100 Gb/s InfiniBand": (2e-6, 12.5e9),
}


def network(case: Case) -> fmlp.Layer:
    """Make fmlp's network of a case."""
    layers = []
    for _, fan_out, activation, rate in case.layers():
        layers.append(Dense(fan_out))
        layers += [{"elu": Elu, "relu": Relu}[activation]()] if activation else []
        layers += [Dropout(rate)] if rate else []
    return serial(*layers)


# ---------------------------------------------------------------------------------------- workers


def step_time(name: str, batch: int, repeats: int, comm: Any) -> float:
    """Measure a step of `fit`, each rank on an equal part of the rows."""
    case = CASES[name]
    x, y = data(case, batch * STEPS)
    rank, size = (comm.rank, comm.size) if comm else (0, 1)
    mine = slice(rank * len(x) // size, (rank + 1) * len(x) // size)
    net = network(case)
    _, params = net.init(random.key(0), (case.widths[0],))

    def seconds(epochs: int) -> float:
        optimizer = optim.adam(1e-3, weight_decay=case.weight_decay)
        settings: dict[str, Any] = {"loss": losses.cross_entropy, "optimizer": optimizer, "batch_size": batch}
        result = fmlp.fit(
            net, params, (x[mine], y[mine]), epochs=epochs, key=random.key(1), progress=False, comm=comm, **settings
        )
        return result.seconds

    seconds(1)
    return float(np.median([(seconds(3) - seconds(1)) / (2 * STEPS) for _ in range(repeats)]))


def compute_time(name: str) -> dict[str, Any]:
    """Measure one process: the gradient against the rows of a batch, what follows it, and what sharing adds to it."""
    case = CASES[name]
    net = network(case)
    _, params = net.init(random.key(0), (case.widths[0],))
    optimizer = optim.adam(1e-3, weight_decay=case.weight_decay)
    state, key = optimizer.init(params), random.key(1)

    class Alone:
        rank, size = 0, 1

        def Allreduce(self, values: Any, total: Any) -> None:  # noqa: N802 - MPI's name
            total[...] = values

    step = fmlp.value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))
    shared = distributed.summed(distributed.objective(net.apply, losses.cross_entropy), Alone())
    rows = [32, 64, 128, 256, 512, 1024]
    seconds, more = [], []
    for n in rows:
        x, y = data(case, 4 * n)
        order = np.arange(4 * n)

        def alone(x: Any = x, y: Any = y, n: int = n, order: Any = order) -> Any:
            chosen = np.sort(random.generator(key).permutation(order)[:n])
            return step(params, x.take(chosen, 0), y.take(chosen), key=key)

        def together(x: Any = x, y: Any = y, n: int = n) -> Any:
            return shared(params, x[:n], y[:n], key=key, start=0)

        def plain(x: Any = x, y: Any = y, n: int = n) -> Any:
            return step(params, x[:n], y[:n], key=key)

        seconds.append(median_time(alone))
        more.append(median_time(together) - median_time(plain))
    grads = plain()[1]

    def update() -> None:
        updates, _ = optimizer.update(grads, state, params)
        optim.apply_updates(params, updates)

    slope, intercept = np.polyfit(rows, seconds, 1, w=1 / np.array(seconds))
    fixed = max(float(intercept), 0.0) + median_time(update) + max(float(np.median(more)), 0.0)
    return {"fixed": fixed, "row": float(slope), "numbers": tree.size(params) + 3}


def allreduce_times(comm: Any) -> dict[str, float]:
    """Measure Allreduce at several sizes, in float32."""
    found = {}
    for n in (1, 1000, 10_000, 52_181, 200_000, 669_709):
        values, total = np.ones(n, np.float32), np.empty(n, np.float32)
        found[str(n)] = median_time(lambda v=values, t=total: comm.Allreduce(v, t), comm)
    return found


def median_time(f: Any, comm: Any = None, seconds: float = 0.2) -> float:
    """Time a function."""
    for _ in range(3):
        f()
    budget = int(np.clip(seconds / max(timed(f), 1e-7), 9, 2000))
    budget = comm.bcast(budget) if comm else budget
    return float(np.median([timed(f) for _ in range(budget)]))


def timed(f: Any) -> float:
    """Time a call."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def run(ranks: int | None, threads: int, *arguments: Any) -> Any:
    """Start a worker on ranks, or alone without MPI, and return what it prints."""
    words = [sys.executable, "-m", "benchmarks.scaling", "--worker", *map(str, arguments)]
    if ranks is not None:
        words = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(ranks), *words, "--mpi"]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": str(threads)}
    done = subprocess.run(words, env=environment, cwd=HERE.parent, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


# ------------------------------------------------------------------------------------------ model


def imbalance(batch: int, ranks: int, rows: int) -> float:
    """Expect how many rows of a batch the busiest of the ranks has, each of which holds as many of all rows."""
    if ranks == 1:
        return batch
    draws = np.random.default_rng(0).multivariate_hypergeometric(
        np.full(ranks, rows // ranks), batch, 50, method="marginals"
    )
    return float(draws.max(1).mean())


def exchange(n_bytes: float, ranks: int, latency: float, bandwidth: float) -> float:
    """Time an Allreduce, by the better of recursive doubling and Rabenseifner's (Thakur et al. 2005)."""
    rounds = np.ceil(np.log2(ranks))
    doubling = rounds * (latency + n_bytes / bandwidth)
    halving = 2 * rounds * latency + 2 * (ranks - 1) / ranks * n_bytes / bandwidth
    return float(min(doubling, halving)) if ranks > 1 else 0.0


def predicted(constants: dict[str, Any], batch: int, ranks: int, message: float, cores: int, rows: int) -> float:
    """Model a step: what every rank does, plus the busiest rank's rows, plus the exchange; cores may be too few."""
    share = imbalance(batch, ranks, rows) if ranks <= cores else batch / ranks
    crowding = max(1.0, ranks / cores)
    return float((constants["fixed"] + constants["row"] * share) * crowding + message)


# ---------------------------------------------------------------------------------------- the run


def measure(rounds: int, repeats: int) -> dict[str, Any]:
    """Measure everything that the tables and the picture need."""
    cores = os.cpu_count() or 1
    ways = {"1 process": (None, 1), "all threads": (None, cores)}
    ways |= {f"{ranks} rank{'s' * (ranks > 1)}": (ranks, 1) for ranks in (1, 2, 4)}
    times: dict[str, dict[str, list[float]]] = {f"{name} {batch}": {way: [] for way in ways} for name, batch in RUNS}
    constants: dict[str, list[dict[str, Any]]] = {name: [] for name in CASES}
    messages: dict[str, list[dict[str, float]]] = {"2": [], "4": []}
    for i in range(rounds):
        for name, batch in RUNS:
            order = list(ways.items())
            for way, (ranks, threads) in order[i % len(order) :] + order[: i % len(order)]:
                times[f"{name} {batch}"][way].append(run(ranks, threads, "step", name, batch, repeats))
        for name in CASES:
            constants[name].append(run(None, 1, "compute", name, 0, 0))
        for ranks in messages:
            messages[ranks].append(run(int(ranks), 1, "allreduce", "wide", 0, 0))
        print(f"round {i + 1} of {rounds}", file=sys.stderr)
    return {
        "machine": f"{platform.processor() or platform.machine()}, {cores} cores, NumPy {np.__version__}",
        "cores": cores,
        "times": {run: {way: float(np.median(t)) for way, t in found.items()} for run, found in times.items()},
        "ratios": {
            run: {way: float(np.median(np.array(found["1 process"]) / t)) for way, t in found.items()}
            for run, found in times.items()
        },
        "constants": {name: middle(found) for name, found in constants.items()},
        "allreduce": {ranks: middle(found) for ranks, found in messages.items()},
    }


def middle(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Take the median of each number."""
    return {name: float(np.median([record[name] for record in records])) for name in records[0]}


def report(record: dict[str, Any]) -> None:
    """Print the tables of docs/scaling.md."""
    print("\n| network, batch | 1 process | all threads | 1 rank | 2 ranks | 4 ranks |\n|---|---|---|---|---|---|")
    for run_, times in record["times"].items():
        print(f"| {run_} | " + " | ".join(f"{1e3 * t:.2f} ms" for t in times.values()) + " |")
    print("\n| network, batch | 2 ranks against 1 process | 2 ranks against all threads |\n|---|---|---|")
    for run_, ratios in record["ratios"].items():
        print(f"| {run_} | {ratios['2 ranks']:.2f}× | {ratios['2 ranks'] / ratios['all threads']:.2f}× |")
    print("\n| network | fixed | per row | numbers exchanged |\n|---|---|---|---|")
    for name, c in record["constants"].items():
        print(f"| {name} | {1e3 * c['fixed']:.3f} ms | {1e6 * c['row']:.2f} µs | {c['numbers']:,.0f} |")
    print("\n| Allreduce of float32 | 2 ranks | 4 ranks |\n|---|---|---|")
    for n in record["allreduce"]["2"]:
        print(f"| {int(n):,} | " + " | ".join(f"{1e6 * record['allreduce'][p][n]:.0f} µs" for p in ("2", "4")) + " |")
    print("\n| network, batch | ranks | measured | predicted |\n|---|---|---|---|")
    for name, batch in RUNS:
        for ranks in (1, 2, 4):
            measured = record["times"][f"{name} {batch}"][f"{ranks} rank{'s' * (ranks > 1)}"]
            guess = predicted_here(record, name, batch, ranks)
            print(f"| {name} {batch} | {ranks} | {1e3 * measured:.2f} ms | {1e3 * guess:.2f} ms |")
    print("\n| network | batch | link | 2 | 16 | 128 | 1,024 | pays up to |\n|---|---|---|---|---|---|---|---|")
    for name in CASES:
        for batch in (1024, 16384, 262144):
            for link in LINKS:
                speedups = {p: speedup(record, name, batch, p, link) for p in POWERS if p <= batch}
                shown = " | ".join(f"{speedups[p]:.1f}×" if p in speedups else "" for p in (2, 16, 128, 1024))
                print(f"| {name} | {batch:,} | {link} | {shown} | {pays_up_to(speedups)} |")


POWERS = [2**i for i in range(11)]


def predicted_here(record: dict[str, Any], name: str, batch: int, ranks: int) -> float:
    """Model a step on this machine, with the Allreduce measured on it."""
    constants = record["constants"][name]
    message = 0.0
    if ranks > 1:
        measured = record["allreduce"][str(ranks)]
        message = float(np.interp(constants["numbers"], [int(n) for n in measured], [*measured.values()]))
    return predicted(constants, batch, ranks, message, record["cores"], batch * STEPS)


def speedup(record: dict[str, Any], name: str, batch: int, ranks: int, link: str) -> float:
    """Model how much faster ranks with a core each are than one, joined by a link."""
    constants = record["constants"][name]
    one = predicted(constants, batch, 1, 0.0, 1, batch * 1000)
    message = exchange(4 * constants["numbers"], ranks, *LINKS[link])
    return one / predicted(constants, batch, ranks, message, ranks, batch * 1000)


def pays_up_to(speedups: dict[int, float]) -> int:
    """Find the most ranks of which each is still used by half."""
    return max(ranks for ranks, times in speedups.items() if times >= ranks / 2)


def draw(record: dict[str, Any]) -> None:
    """Draw measured and predicted speed-ups."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = Figure(figsize=(11, 3.8), dpi=120, layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1, 1.2, 1.2])
    ax, colors = axes[0], ["#2563eb", "#16a34a", "#ea580c"]
    for (name, batch), color in zip(RUNS, colors, strict=True):
        times = record["times"][f"{name} {batch}"]
        one = times["1 rank"]
        ax.plot([1, 2, 4], [one / times[w] for w in ("1 rank", "2 ranks", "4 ranks")], "o", color=color)
        guesses = [predicted_here(record, name, batch, p) for p in (1, 2, 4)]
        ax.plot([1, 2, 4], [guesses[0] / t for t in guesses], "-", color=color, label=f"{name}, batch {batch:,}")
    ax.plot([1, 2, 4], [1, 2, 2], ":", color="#9ca3af", label=f"ideal on {record['cores']} cores")
    ax.set(title="here: measured (dots), model (lines)", ylabel="speed-up", xlabel="ranks", ylim=(0, 3.2))
    ax.set_xscale("log", base=2)
    ax.legend(fontsize=8, loc="upper left")
    for ax, name in zip(axes[1:], CASES, strict=True):
        for batch, color in zip((1024, 16384, 262144), colors, strict=True):
            powers = [p for p in POWERS if p <= batch]
            for link, style in zip(LINKS, ("--", "-"), strict=True):
                times = [speedup(record, name, batch, p, link) for p in powers]
                ax.plot(powers, times, style, color=color, label=f"{batch:,}" if style == "-" else None)
        ax.plot(POWERS, POWERS, ":", color="#9ca3af")
        ax.set(title=f"model: {name}, by size of the whole batch", xlabel="ranks, a core each", ylim=(0.5, 1500))
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.text(0.97, 0.04, "solid: InfiniBand, dashed: Ethernet", transform=ax.transAxes, ha="right", fontsize=8)
        ax.legend(fontsize=8, loc="upper left")
    for ax in axes:
        for axis in (ax.xaxis, *([ax.yaxis] if ax is not axes[0] else [])):
            axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}"))
            axis.set_minor_locator(NullLocator())
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.2)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--mpi", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        comm = None
        if options.mpi:
            from mpi4py import MPI

            comm = MPI.COMM_WORLD
        task, name, batch, repeats = options.worker
        works = {
            "step": lambda: step_time(name, int(batch), int(repeats), comm),
            "compute": lambda: compute_time(name),
            "allreduce": lambda: allreduce_times(comm),
        }
        found = works[task]()
        if comm is None or comm.rank == 0:
            print(json.dumps(found))
        return
    record = (
        json.loads(JSON.read_text("utf-8"))
        if options.draw
        else measure(*(1, 1) if options.short else (options.rounds, 3))
    )
    report(record)
    if not options.short:
        JSON.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        draw(record)


if __name__ == "__main__":
    main()
