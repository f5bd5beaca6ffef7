"""Break fmlp on purpose, one small edit at a time, and see whether the tests notice.

python tests/reliability/mutants.py [--only optim] [--only losses.huber] [--sample 300] [--seed 0] [--jobs 2]

The edits, *mutants*, are derived from the syntax tree by `edits`: a sign, an operator, a term, a guard, a default. Few
are written by hand, in `BY_HAND`. Each is made to a copy of the tree, where the module's tests run until the first
failure. A mutant that no test notices has survived: an assertion is missing, or the line is not needed, or both
programs do the same, which `EQUIVALENT` then explains. Nothing is ever edited in the tree itself.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import copy
import functools
import gc
import importlib.util
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# The test files that may notice an edit of a module, beside its own (tests/test_<module>.py), its doctests and these.
FOR_ALL = ["numbers", "training", "bad_input", "package"]
TESTS = {
    "autodiff": ["losses"],
    "batches": ["larger_than_memory", "distributed", "checkpoint"],
    "callbacks": ["schedules", "checkpoint"],
    "checkpoint": ["hostile_files"],
    "data": ["determinism", "larger_than_memory"],
    "descent": ["checkpoint", "distributed"],
    "distributed": ["larger_than_memory"],
    "estimators": ["sklearn", "autodiff"],
    "evaluation": ["metrics", "distributed"],
    "files": ["hostile_files", "serialization", "data", "safetensors"],
    "layers": ["autodiff", "distributed"],
    "losses": ["autodiff"],
    "planning": ["jit"],
    "progress": ["plotting"],
    "random": ["determinism"],
    "recording": ["jit"],
    "safetensors": ["hostile_files"],
    "serialization": ["hostile_files"],
    "signals": ["checkpoint"],
    "sklearn": ["estimators"],
    "statistics": ["layers", "distributed"],
    "structure": ["layers", "onnx", "torch"],
    "training": ["checkpoint", "distributed", "larger_than_memory", "metrics", "schedules"],
}

PYTEST = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
PRELOADED = ["hypothesis", "scipy.stats", "sklearn.neural_network", "torch"]
"""What the tests import; loaded once, before the processes that run them are forked."""

TIMEOUT = 900
"""Tests that take more seconds have noticed an edit."""
FAILED = 99
"""How a process ends that could not run its tests."""

# ------------------------------------------------------------------------------------------ the edits

OPPOSITES: dict[Any, Any] = {ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.Is: ast.IsNot, ast.In: ast.NotIn}
OPPOSITES |= {ast.Add: ast.Sub, ast.Mult: ast.Div, ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift, ast.And: ast.Or}
OPPOSITES |= {ast.Break: ast.Continue}
OPPOSITES |= {b: a for a, b in OPPOSITES.items()}
OPPOSITES |= {ast.Pow: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.MatMult: ast.Mult}

NAMES = {"any": "all", "min": "max", "minimum": "maximum", "argmin": "argmax", "zeros": "ones", "float32": "float64"}
NAMES |= {"sum": "mean", "zeros_like": "ones_like", "floor": "ceil", **{b: a for a, b in NAMES.items()}, "std": "var"}
ROUGH = {"log1p": "np.log(1 + ({}))", "expm1": "np.exp({}) - 1", "sqrt": "np.abs({})"}

SYMMETRIC = {"maximum", "minimum", "max", "min", "add", "multiply", "array_equal", "result_type", "suppress"}
SYMMETRIC |= {"logaddexp"}
OF_TYPES = {"isinstance", "issubclass", "hasattr", "getattr", "setattr", "cast"}
METHODS = {"astype", "reshape", "copy", "ravel", "item", "strip", "lower"}
ONLY_SPEED = {"copy", "strict", "stacklevel"}
"""Keywords whose loss changes nothing that a test should see."""


def edits(node: ast.AST) -> Iterator[str]:
    """Yield each way to break a node of the tree: the code that takes its place."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield _with(node, ops=[*ops[:i], OPPOSITES[type(op)](), *ops[i + 1 :]])
        case ast.BinOp(left, op, right):
            if type(op) in OPPOSITES:
                yield _with(node, op=OPPOSITES[type(op)]())
            yield from map(ast.unparse, (left, right))
            match left, op:
                case ast.Call(ast.Attribute(_, "sqrt"), [square]), ast.Add():  # eps within the root
                    yield f"np.sqrt({ast.unparse(square)} + {ast.unparse(right)})"
        case ast.UnaryOp(operand=operand):
            yield ast.unparse(operand)
        case ast.BoolOp(op, values):
            yield _with(node, op=OPPOSITES[type(op)]())
            for i in range(len(values)):
                kept = [*values[:i], *values[i + 1 :]]
                yield _with(node, values=kept) if kept[1:] else ast.unparse(kept[0])
        case ast.IfExp(_, body, orelse):
            yield from map(ast.unparse, (body, orelse))
        case ast.Constant(bool() as value):
            yield repr(not value)
        case ast.Constant(int() as value):
            yield repr(value + 1)
        case ast.Constant(float() as value):
            yield repr(2 * value or 1.0)
        case ast.Name("any" | "all" | "min" | "max" as name, ast.Load()):
            yield NAMES[name]
        case ast.Attribute(_, name, ast.Load()) if name in NAMES:
            yield _with(node, attr=NAMES[name])
        case ast.Subscript(value, ast.Slice(), ast.Load()):
            yield ast.unparse(value)
        case ast.Call():
            yield from _edits_of_call(node)
        case ast.Expr(ast.Call() as call):
            yield "pass"
            yield from _edits_of_arguments(call)
        case ast.AugAssign(op=op):
            yield "pass"
            if type(op) in OPPOSITES:
                yield _with(node, op=OPPOSITES[type(op)]())
        case ast.Assign([ast.Name(a)], ast.BinOp(ast.Name(b), op, right)) if a == b:  # writes to what was passed in
            yield ast.unparse(ast.AugAssign(ast.Name(a), op, right))
        case ast.Assign([ast.Tuple(names)], ast.Call(ast.Attribute(_, "split"), [key, *_])):  # one key for all
            yield " = ".join(map(ast.unparse, [*names, key]))
        case ast.Raise() | ast.Delete() | ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield "pass"
        case ast.Break() | ast.Continue():
            yield ast.unparse(OPPOSITES[type(node)]())


def _edits_of_call(call: ast.Call) -> Iterator[str]:
    """Drop the call and keep what it is given; or take what is less exact."""
    match call:
        case ast.Call(_, [ast.Constant(str()), checked, *_]):  # number("rate", rate, "[0, 1)")
            yield ast.unparse(checked)
        case ast.Call(ast.Attribute(value, name)) if name in METHODS:
            yield ast.unparse(value)
        case ast.Call(ast.Attribute(ast.Name("np" | "random" | "tree"), name) | ast.Name(name), [argument, *_]):
            if name.islower() and name not in OF_TYPES and not isinstance(argument, ast.Starred):
                yield ast.unparse(argument)
            if name in ROUGH:
                yield ROUGH[name].format(ast.unparse(argument))
    yield from _edits_of_arguments(call)


def _edits_of_arguments(call: ast.Call) -> Iterator[str]:
    """Swap the first two arguments, or drop a keyword."""
    match call.args:
        case [ast.Starred() | ast.Constant(), *_] | [_, ast.Starred(), *_]:
            pass
        case [a, b, *rest] if ast.unparse(call.func).rpartition(".")[2] not in SYMMETRIC | OF_TYPES:
            yield _with(call, args=[b, a, *rest])
    for i, keyword in enumerate(call.keywords):
        if keyword.arg and keyword.arg not in ONLY_SPEED:
            yield _with(call, keywords=[*call.keywords[:i], *call.keywords[i + 1 :]])


def conditions(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Yield the conditions right below a node that can be turned around or taken away, and what takes their place."""
    match node:
        case ast.While(test):
            yield test, "False"
        case ast.If(test, [ast.Raise()]) | ast.If(ast.Name("TYPE_CHECKING") as test):
            pass  # a guard goes with its raise
        case ast.If(ast.BoolOp() | ast.Name() | ast.Attribute() | ast.Call() | ast.NamedExpr() as test):
            yield test, f"not ({ast.unparse(test)})"  # of others, the operator is turned around
        case ast.comprehension(ifs=tests):
            yield from ((test, "True") for test in tests)
        case ast.ExceptHandler(type) if type:
            yield type, "()"


def _with(node: ast.AST, **fields: Any) -> str:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return ast.unparse(changed)


# What cannot be derived: (function, the code of a node, the code in its place), as `ast.unparse` writes it.
BY_HAND = [
    ("Embedding", "np.add.at(dw, x, dy)", "dw[x] = dy"),
    ("mae", "np.sign(d)", "np.where(d >= 0, 1.0, -1.0)"),
]

# Mutants that do the same as fmlp: (function, the node's code, the code in its place): why.
EQUIVALENT = {
    (
        "_Subset.__getitem__",
        "np.asarray(self.array)",
        "self.array",
    ): "a mapped array gives an array of rows all the same",
    ("_read.read", "max(prod(array.shape[1:]) * array.itemsize, 1)", "prod(array.shape[1:]) * array.itemsize"): (
        "no layer takes rows without a number"
    ),
    ("Batches.__iter__", "self.batch_size + 1", "self.batch_size - 1"): "such a window is shuffled once more, not cut",
    ("opened.without_waiting", "0", "1"): "only Windows has no O_NONBLOCK",
    ("bernoulli", "raise", "pass"): "shape_of_one has raised",
    ("_layer", "raise AssertionError(kind)", "pass"): "each kind has its case",
    (
        "_batches_told",
        "bool | int | float | str | None",
        "bool | int | float | str",
    ): "None or absent: both differ from the rest",
    (
        "_show",
        "bar.set_postfix_str(line, refresh=False)",
        "bar.set_postfix_str(line)",
    ): "the bar is only drawn once more",
    ("plot_decision_boundary", "0.08 * np.ptp(x, axis=0)", "0.08"): "only looks",
    ("plot_activation", "1.4", "2.8"): "only looks",
    ("plot_decision_boundary", "_tidy(ax, grid=False)", "_tidy(ax)"): "only looks",
}

# ------------------------------------------------------------------------------------ where they are made


class Mutant(NamedTuple):
    """One edit: in a module, from (line, column) to (line, column), the old code becomes the new."""

    module: str
    function: str
    old: str
    new: str
    start: tuple[int, int]
    end: tuple[int, int]
    statement: bool

    def __str__(self) -> str:
        """Name the place and the edit, in one line."""
        edit = " → ".join(" ".join(code.split()) for code in (self.old, self.new))
        return f"{self.module}.{self.function}:{self.start[0]}: {edit}"

    def called(self, name: str) -> bool:
        """Tell whether `name` means it: ``losses``, ``huber``, ``losses.huber``, ``Saver``, ``Saver.write``."""
        return f".{name}." in f".{self.module}.{self.function}."

    def words(self) -> str:
        """Return what the names of the tests that are likeliest to notice contain: ``early_stopping or best``."""
        names = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).strip("_").lower() for name in self.function.split(".")]
        return " or ".join(names)

    def path(self) -> Path:
        """Return the module's file, from the root of the tree."""
        return Path("fmlp", *self.module.split(".")).with_suffix(".py")

    def source(self) -> str:
        """Return the module's source with the edit made."""
        lines = (ROOT / self.path()).read_bytes().splitlines(keepends=True)
        (first, left), (last, right) = self.start, self.end
        new = self.new if self.statement else f"({self.new})"
        edited = lines[first - 1][:left] + new.encode() + lines[last - 1][right:]
        return b"".join([*lines[: first - 1], edited, *lines[last:]]).decode()


@functools.cache
def derive() -> tuple[Mutant, ...]:
    """Return all mutants of all modules."""
    found = []
    for path in sorted((ROOT / "fmlp").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "fmlp").with_suffix("").parts)
        found += _below(ast.parse(path.read_bytes()), module, ())
    return tuple(found)


def _below(node: ast.AST, module: str, within: tuple[str, ...]) -> Iterator[Mutant]:
    """Yield the mutants of a node and of all below; `within` names the function, method, class or constant it is in."""
    match node:
        case ast.FunctionDef(name) | ast.ClassDef(name):
            within += (name,)
        case ast.Assign([ast.Name(name), *_]) | ast.AnnAssign(ast.Name(name)) if not within:
            within = (name,)
    function = ".".join(within[:2])

    def mutant(node: ast.AST, new: str) -> Mutant:
        start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
        return Mutant(module, function, ast.unparse(node), new, start, end, isinstance(node, ast.stmt))

    old = ast.unparse(node) if hasattr(node, "lineno") else ""
    by_hand = [b for name, a, b in BY_HAND if name in within and a == old]
    yield from (mutant(node, new) for new in dict.fromkeys([*edits(node), *by_hand]) if new != old)
    yield from (mutant(test, new) for test, new in conditions(node))
    for child in _children(node):
        yield from _below(child, module, within)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes right below that run; not types, messages, or the call that is all of a statement."""
    match node:
        case ast.JoinedStr() | ast.Raise():
            return
        case ast.Expr(ast.Call() as call):
            node = call
    types = {getattr(node, "annotation", None), getattr(node, "returns", None)}
    yield from (child for child in ast.iter_child_nodes(node) if child not in types)


def select(names: Sequence[str], sample: int | None = None, seed: int = 0) -> list[Mutant]:
    """Return the mutants of the modules or functions named, all of them without names, or a sample of these."""
    if unknown := [name for name in names if not any(mutant.called(name) for mutant in derive())]:
        raise ValueError(f"no mutants are called {', '.join(unknown)}")
    chosen = [mutant for mutant in derive() if mutant[1:4] not in EQUIVALENT]
    chosen = [mutant for mutant in chosen if not names or any(map(mutant.called, names))]
    if sample is None or sample >= len(chosen):
        return chosen
    return sorted(random.Random(seed).sample(chosen, sample))


# ------------------------------------------------------------------------------------------ running them


def tests(mutant: Mutant) -> list[str]:
    """Return the files whose tests should notice an edit of a module, the likeliest first."""
    names = mutant.module.split(".")
    names += [name for part in names for name in TESTS.get(part, [])] + FOR_ALL
    files = [*(f"tests/test_{name}.py" for name in dict.fromkeys(names)), str(mutant.path())]
    return [file for file in files if (ROOT / file).exists()]


def prepare() -> None:
    """Load and compile once what each process would."""
    os.environ |= {"HYPOTHESIS_PROFILE": "mutants", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    for name in PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # a collection in a process that is forked would copy the memory of all that is loaded
    for name in ("fmlp", "tests"):
        compileall.compile_dir(ROOT / name, quiet=2)


def run(mutants: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, str, str]]:
    """Yield each mutant with what became of it, "caught", "survived" or "error", and the output of its tests."""
    waiting, running = [*mutants], dict[int, tuple[Mutant, tempfile.TemporaryDirectory[str]]]()
    while waiting or running:
        if waiting and len(running) < jobs:
            mutant, folder = waiting.pop(0), tempfile.TemporaryDirectory()
            running[start(Path(folder.name), tests(mutant), mutant)] = mutant, folder
            continue
        pid, status = os.wait()
        mutant, folder = running.pop(pid)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what its tests may have started and not ended
        with folder:
            output = (Path(folder.name) / "out.txt").read_text(errors="replace")
        code = os.waitstatus_to_exitcode(status)  # below 0 it crashed, or took too long
        yield mutant, "survived" if code == 0 else "error" if code == FAILED else "caught", output


def start(folder: Path, files: Sequence[str], mutant: Mutant | None = None) -> int:
    """Run test files on a copy of the tree with the edit made, in a process that is forked; return its id."""
    for file in ("pyproject.toml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / file, folder)
    stale = f"{mutant.path().stem}.*.pyc" if mutant else ""
    for name in ("fmlp", "tests", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("cache", stale))
    if mutant:
        (folder / mutant.path()).write_text(mutant.source(), encoding="utf-8")
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = FAILED
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        out = os.open("out.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ["PYTHONPATH"] = str(folder)
        sys.path.insert(0, str(folder))
        assert Path(importlib.util.find_spec("fmlp").origin).is_relative_to(folder)
        signal.alarm(TIMEOUT)
        likely = [[files[0], "-k", mutant.words()]] if mutant else []
        codes = (int(pytest.main([*PYTEST, *arguments])) for arguments in [*likely, *([file] for file in files)])
        status = next((code for code in codes if code not in (0, pytest.ExitCode.NO_TESTS_COLLECTED)), 0)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> int:
    """Run mutants and print what became of them; return 0 if all were caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a module, a function, or both")
    parser.add_argument("--sample", type=int, metavar="N", help="as many of them, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="only show them")
    parser.add_argument("--unchecked", action="store_true", help="do not first see the tests pass without an edit")
    options = parser.parse_args()
    mutants = select(options.only, options.sample, options.seed)
    if options.list:
        print(*mutants, f"{len(mutants)} mutants", sep="\n")
        return 0
    started = time.monotonic()
    prepare()
    if not options.unchecked:
        files = list(dict.fromkeys(file for mutant in mutants for file in tests(mutant)))
        with tempfile.TemporaryDirectory() as folder:
            _, status = os.waitpid(start(Path(folder), files), 0)
            if status:  # then nothing would be proved
                print((Path(folder) / "out.txt").read_text(errors="replace"), "The tests fail without any edit.")
                return 1
    counts = Counter[tuple[str, str]]()
    for mutant, outcome, output in run(mutants, options.jobs):
        counts[mutant.module, outcome] += 1
        print(f"{outcome:9}{mutant}", *[output[-2000:]] * (outcome == "error"), flush=True)
    print("\n| module | mutants | caught |\n|---|---:|---:|")
    for module, n in Counter(mutant.module for mutant in mutants).items():
        print(f"| {module} | {n} | {counts[module, 'caught']} |")
    caught = sum(n for (_, outcome), n in counts.items() if outcome == "caught")
    print(f"\n{caught} of {len(mutants)} mutants caught, in {time.monotonic() - started:.0f} s")
    return 0 if caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
