"""The short form of `python tests/reliability/mutants.py`: what is derived, and some mutants that are caught."""

import ast
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "reliability"))
import mutants

# Of modules whose tests are quick to notice them.
CAUGHT = ["random.split", "random.bernoulli", "tanh", "huber", "step_lr", "exponential_lr", "unravel"]

CODE = {
    "a <= b != c": ["a < b != c", "a <= b == c"],
    "p + lr * g": ["p - lr * g", "p", "lr * g", "p + lr / g", "p + lr", "p + g"],
    "np.sqrt(v) + eps": ["np.sqrt(v) - eps", "np.sqrt(v)", "eps", "np.sqrt(v + eps)", "v + eps", "np.abs(v) + eps"],
    "-x": ["x"],
    "a and not b": ["a or not b", "not b", "a", "a and b"],
    "y = f(x, z, axis=0, copy=False)": [
        *("y = x", "y = f(z, x, axis=0, copy=False)", "y = f(x, z, copy=False)"),
        *("y = f(x, z, axis=1, copy=False)", "y = f(x, z, axis=0, copy=True)"),
    ],
    "x = number('rate', x, '[0, 1)')": ["x = x"],
    "x if c else 0.5": ["x", "0.5", "x if c else 1.0"],
    "x.min() > -1": ["x.min() >= -1", "x.max() > -1", "x.min() > 1", "x.min() > -2"],
    "if c:\n    raise ValueError(f'{c + 1}')": ["if c:\n    pass"],
    "if c:\n    x[0] = 1\nelse:\n    x += y": [
        *("if not c:\n    x[0] = 1\nelse:\n    x += y", "if c:\n    pass\nelse:\n    x += y"),
        *("if c:\n    x[1] = 1\nelse:\n    x += y", "if c:\n    x[0] = 2\nelse:\n    x += y"),
        *("if c:\n    x[0] = 1\nelse:\n    pass", "if c:\n    x[0] = 1\nelse:\n    x -= y"),
    ],
    "try:\n    f()\nexcept E:\n    pass": [
        "try:\n    pass\nexcept E:\n    pass",
        "try:\n    f()\nexcept ():\n    pass",
    ],
    "x = x + y": ["x += y", "x = x - y", "x = x", "x = y"],
    "a, b = random.split(key)": ["a = b = key", "a, b = key"],
    "def f(a: 'x < 1' = 1): return np.expm1(a)": [
        *("def f(a: 'x < 1'=2): return np.expm1(a)", "def f(a: 'x < 1'=1): return a"),
        "def f(a: 'x < 1' = 1): return np.exp(a) - 1",
    ],
}


@pytest.mark.parametrize(("code", "expected"), CODE.items(), ids=CODE)
def test_mutants_are_derived(code, expected, tmp_path, monkeypatch):
    (tmp_path / "fmlp").mkdir()
    (tmp_path / "fmlp" / "some.py").write_text(code)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    got = [mutant.source() for mutant in mutants.derive.__wrapped__()]
    assert sorted(map(plain, got)) == sorted(map(plain, expected))


def plain(code):
    return ast.unparse(ast.parse(code))


def test_every_module_has_mutants_that_are_python():
    files = {path for path in (mutants.ROOT / "fmlp").rglob("*.py") if path.name != "__init__.py"}
    assert {mutants.ROOT / mutant.path() for mutant in mutants.derive()} >= files
    for mutant in mutants.select([], sample=100):
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            compile(mutant.source(), mutant.module, "exec")


def test_a_name_without_mutants_is_refused():
    with pytest.raises(ValueError, match=r"no mutants are called activations\.nothing"):
        mutants.select(["tanh", "activations.nothing"])


def test_what_is_listed_is_there():
    derived = {mutant[1:4] for mutant in mutants.derive()}
    assert derived >= {*mutants.EQUIVALENT}
    assert {(function.split(".")[0], *edit) for function, *edit in derived} >= {*mutants.BY_HAND}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_some_are_caught_and_a_change_that_is_none_survives():
    script = f"""
import mutants
mutants.prepare()
mutants.FOR_ALL.clear()
some = [mutants.select([name])[-1] for name in {CAUGHT}]
same = mutants.select(['summary'])[0]
for mutant, outcome, output in mutants.run([*some, same._replace(new=same.old)], 2):
    print(outcome, mutant)
"""
    folder = Path(mutants.__file__).parent
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    outcomes = [line.split()[0] for line in done.stdout.splitlines()]
    assert sorted(outcomes) == ["caught"] * len(CAUGHT) + ["survived"], done.stdout
