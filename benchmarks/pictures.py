"""The pictures of the README, drawn from results.json: ``python -m benchmarks.pictures`` draws them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

NAMES = {
    "floor": "GEMM floor",
    "by hand": "NumPy by hand",
    "fmlp": "fmlp",
    "jax": "JAX (jit)",
    "torch": "PyTorch",
    "sklearn": "scikit-learn*",
    "data": "the data alone",
}
COLORS = {
    "floor": "#9ca3af",
    "by hand": "#6b7280",
    "fmlp": "#2563eb",
    "jax": "#16a34a",
    "torch": "#ea580c",
    "sklearn": "#ca8a04",
    "data": "#9ca3af",
}


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the pictures for which there are figures, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    if "step" in record["races"]:
        figures["benchmark.png"] = bars(record)
    if "growth" in record["sweeps"]:
        figures["growth.png"] = growth(record["sweeps"]["growth"])
    if "memory" in record["sweeps"]:
        figures["memory.png"] = memory(record["sweeps"]["memory"])
    for name, figure in figures.items():
        figure.savefig(folder / name)
    return [folder / name for name in figures]


def bars(record: dict[str, Any]) -> Figure:
    """Draw the time of a training step of the deep MLP, relative to fmlp."""
    figure = Figure(figsize=(11, 3.3), dpi=120, layout="constrained")
    by_batch = {
        batch: {
            **_contenders(record, "step", f"training step, deep MLP, batch {batch}"),
            **_contenders(record, "sklearn", f"fit per step, deep relu MLP without dropout, batch {batch}", "sklearn"),
        }
        for batch in (32, 128, 1024)
    }
    shown = [name for name in NAMES if any(name in found for found in by_batch.values())]
    for ax, (batch, found) in zip(figure.subplots(1, 3, sharey=True), by_batch.items(), strict=True):
        for y, name in enumerate(shown):
            if name not in found:
                continue
            ratio = found[name]["/ fmlp"]
            ax.barh(y, ratio["median"], color=COLORS[name], height=0.68)
            ax.plot([ratio["low"], ratio["high"]], [y, y], color="#111827", linewidth=1.2)
            time = "" if name == "sklearn" else f"  {1e6 * found[name]['seconds']['median']:,.0f} µs"
            label = f" {ratio['median']:.2f}×{time}"
            ax.text(max(ratio["median"], ratio["high"]), y, label, va="center", fontsize=9)
        ax.set_xlim(0, 1.5 * max(max(entry["/ fmlp"]["high"], entry["/ fmlp"]["median"]) for entry in found.values()))
        ax.set_yticks(range(len(shown)), [NAMES[name] for name in shown])
        ax.tick_params(axis="y", length=0)
        ax.axvline(1, color=COLORS["fmlp"], linewidth=0.8, linestyle=":")
        _tidy(ax, f"batch {batch}", "x")
    figure.axes[0].invert_yaxis()
    figure.suptitle("Time of a training step relative to fmlp: less is better", fontsize=12)
    machine = record["machine"]
    note = "deep MLP 128-120-112-96-64-48-32-24-16-10, ELU, dropout, Adam with L2, float32; "
    note += f"{machine['cores']} cores, {machine['cpu']}"
    if "sklearn" in shown:
        note += "\n* whole epochs, relu, no dropout, against fmlp on the same"
    figure.supxlabel(note, fontsize=8.5, color="#4b5563")
    return figure


def growth(sweeps: dict[str, Any]) -> Figure:
    """Draw the time of a step, or of an epoch, against batch, width, depth and rows."""
    labels = {
        "batch": ("deep MLP", "batch", "ms a step"),
        "width": ("3 hidden layers, batch 128", "width", "ms a step"),
        "depth": ("hidden layers of 64, batch 128", "depth", "ms a step"),
        "rows": ("deep MLP, batch 128", "rows", "s an epoch"),
    }
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    for ax, (axis, (title, xlabel, ylabel)) in zip(figure.subplots(2, 2).flat, labels.items(), strict=True):
        scale = 1 if axis == "rows" else 1e3
        series = {name: [scale * t for t in values] for name, values in sweeps[axis].items() if name != "sizes"}
        _lines(ax, sweeps[axis]["sizes"], series, title, xlabel, ylabel)
    _legend(figure, "How the training time grows")
    return figure


def memory(sweeps: dict[str, Any]) -> Figure:
    """Draw the peak memory of the process of a fit against rows, batch, width and depth."""
    labels = {
        "rows": "deep MLP, batch 1024",
        "batch": "deep MLP, 16,384 rows",
        "width": "3 hidden layers, batch 128",
        "depth": "hidden layers of 64, batch 128",
    }
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    for ax, (axis, title) in zip(figure.subplots(2, 2).flat, labels.items(), strict=True):
        sweep = sweeps[axis]
        series = {c: [peaks["fit"] / 2**20 for peaks in sweep[c]] for c in sweep if c in NAMES and c != "data"}
        if axis == "rows":
            series["data"] = [size / 2**20 for size in sweep["data"]]
        _lines(ax, sweep["sizes"], series, title, axis, "MiB")
    _legend(figure, "Peak memory of the process of a fit")
    return figure


def _contenders(record: dict[str, Any], section: str, title: str, only: str | None = None) -> dict[str, Any]:
    for race in record["races"].get(section, []):
        if race["title"] == title:
            return {name: entry for name, entry in race["contenders"].items() if only in (None, name)}
    return {}


def _lines(ax: Axes, sizes: list[int], series: dict[str, list[float]], title: str, xlabel: str, ylabel: str) -> None:
    for name, values in series.items():
        style = {"linestyle": "--", "linewidth": 1.3} if name in ("floor", "data") else {"marker": "o", "markersize": 4}
        ax.plot(sizes, values, color=COLORS[name], label=NAMES[name], **style)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.xaxis.set_minor_formatter(NullFormatter())
    for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        which(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else ""))
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    _tidy(ax, title, "both")


def _legend(figure: Figure, title: str) -> None:
    figure.suptitle(title, fontsize=12)
    lines = {line.get_label(): line for ax in figure.axes for line in ax.lines}  # one for all panels
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), frameon=False)


def _tidy(ax: Axes, title: str, grid: str) -> None:
    ax.set_title(title, fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color="#e5e7eb", linewidth=0.8)
    ax.set_axisbelow(True)


if __name__ == "__main__":
    here = Path(__file__).parent
    draw(json.loads((here / "results.json").read_text()), here.parent / "docs" / "images")
