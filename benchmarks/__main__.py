"""Measure fmlp against the GEMM floor, a step by hand, JAX, PyTorch, scikit-learn and ONNX Runtime.

python -m benchmarks                  # everything: about 25 minutes; writes results.json and the pictures
python -m benchmarks --short          # three minutes; writes nothing
python -m benchmarks --guard          # the same; fails when a ratio is worse than twice the worst recorded one
python -m benchmarks --only step,fit  # some sections
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.contenders import MODULES, missing
from benchmarks.rounds import Arena, figure
from benchmarks.sections import SECTIONS, SHORT, Goal, Results
from benchmarks.worker import CORES, ROOT

RECORD = Path(__file__).with_name("results.json")
IMAGES = ROOT / "docs" / "images"
PACKAGES = ("numpy", "fmlp", "jax", "optax", "torch", "scikit-learn", "onnxruntime")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help=f"few rounds, of {','.join(SHORT)}")
    parser.add_argument("--guard", action="store_true", help="short, and compared with the record")
    parser.add_argument("--only", help=f"some of {','.join(SECTIONS)}")
    parser.add_argument(
        "--write", action="store_true", help="write results.json and the pictures, as the full form does"
    )
    options = parser.parse_args()
    short = options.short or options.guard
    sections = options.only.split(",") if options.only else SHORT if short else list(SECTIONS)
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"--only: expected some of {','.join(SECTIONS)}, got {','.join(sorted(unknown))}")

    contenders = []
    for contender in MODULES:
        if packages := missing(contender):
            print(f"{contender} is left out: {', '.join(packages)} not installed (pip install -e '.[bench]')")
        else:
            contenders.append(contender)
    results = Results(short)
    with Arena(contenders) as arena:
        for name in sections:
            SECTIONS[name](arena, results)
    print(tables(results))

    everything = not (short or options.only)
    if options.write or everything:
        write(results, {} if everything else recorded())
    return guard(results.goals) if options.guard else 0


def tables(results: Results) -> str:
    """Return the figures and the goals as Markdown."""
    lines = []
    for section, races in results.races.items():
        base = races[0][1]
        floor = any("floor" in race.seconds for race, _ in races)
        header = ["", "threads", "median", "quartiles", f"/ {base}", *["/ GEMM floor"] * floor]
        lines += [f"\n### {section}\n"]
        for race, base in races:
            header[0], header[4] = race.title, f"/ {base}"
            lines += [_row(header), _row(["---", *["---:"] * (len(header) - 1)])]
            for name, seconds in race.seconds.items():
                median, low, high = figure(seconds)
                ratios = [race.ratio(name, other) for other in (base, *["floor"] * floor)]
                cells = [name, race.settings[name], _time(median), f"{_time(low)} – {_time(high)}"]
                lines.append(_row(cells + ["" if r is None else f"{r.median:.2f}" for r in ratios]))
            lines.append("")
    if results.goals:
        lines += ["### goals\n", _row(["ratio of medians", "goal", "figure", "quartiles", ""])]
        lines.append(_row(["---", "---:", "---:", "---:", "---"]))
        for g in results.goals:
            if g.ratio is None:
                cells = ["–", "–", "not measured"]
            else:
                median, low, high = g.ratio
                cells = [f"{median:.2f}", f"{low:.2f} – {high:.2f}", "met" if g.met else "**not met**"]
            lines.append(_row([g.name, f"{g.sense} {g.bound:.3g}", *cells]))
    return "\n".join(lines)


def recorded() -> dict[str, Any]:
    """Read the record."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def write(results: Results, kept: dict[str, Any]) -> None:
    """Write the record and the pictures; of what was not measured now, what is in `kept` stays."""
    new = to_json(results)
    for part in ("races", "sweeps", "goals"):
        new[part] = kept.get(part, {}) | new[part]
    worst = recorded().get("worst", {})  # of all machines that were measured, for the guard
    names = {*new["goals"], *(g.name for g in results.goals)}
    new["worst"] = {name: ratio for name, ratio in worst.items() if name in names}
    for g in results.goals:
        if g.ratio is not None:
            before, now = new["worst"].get(g.name, g.ratio.median), g.ratio.median
            new["worst"][g.name] = max(before, now) if g.sense == "≤" else min(before, now)
    RECORD.write_text(json.dumps(new, indent=1, ensure_ascii=False) + "\n")
    print(f"\nwrote {RECORD.relative_to(ROOT)}")
    if not _installed("matplotlib"):
        print("no pictures: matplotlib is not installed")
        return
    from benchmarks.pictures import draw

    for path in draw(new, IMAGES):
        print(f"wrote {path.relative_to(ROOT)}")


def to_json(results: Results) -> dict[str, Any]:
    """Return everything, with the machine and the versions that it was measured on."""
    return {
        "machine": {"cpu": _cpu(), "cores": CORES, "system": platform.system(), "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES if _installed(name)},
        "date": date.today().isoformat(),
        "races": {section: [race.to_json(base) for race, base in races] for section, races in results.races.items()},
        "sweeps": results.sweeps,
        "goals": {
            g.name: {"goal": f"{g.sense} {g.bound:.3g}", "ratio": g.ratio.median, "met": g.met}
            for g in results.goals
            if g.ratio is not None
        },
    }


def guard(goals: list[Goal]) -> int:
    """Return 1 when a ratio is worse than twice the worst that was recorded on any machine."""
    bounds, worse = recorded().get("worst", {}), 0
    if not bounds:
        print(f"\nguard: nothing to compare with in {RECORD.relative_to(ROOT)}")
    for g in goals:
        if g.ratio is None or g.name not in bounds:
            continue
        before, now = bounds[g.name], g.ratio.median
        if (now / before if g.sense == "≤" else before / now) > 2:
            print(f"guard: {g.name} was {before:.2f} and is {now:.2f}", file=sys.stderr)
            worse += 1
    print(f"\nguard: {worse} ratios are worse than twice the recorded ones")
    return int(worse > 0)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _time(seconds: float) -> str:
    for unit, size, least in (("s", 1, 1), ("ms", 1e-3, 1e-2)):
        if seconds >= least:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:,.0f} µs" if seconds >= 100e-6 else f"{seconds * 1e6:.1f} µs"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
