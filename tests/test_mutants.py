"""The short form of `python tests/reliability/mutants.py`: every edit has its place, and a dozen of them are caught."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "reliability"))
import mutants

# Of most modules, and cheap: the first tests to run notice them.
DOZEN = [
    "tree.size",
    "random._check",
    "autodiff.grad",
    "activations.tanh",
    "initializers.zeros",
    "losses.argmax",
    "metrics.confusion_matrix",
    "layers.fan_out",
    "optim.scale",
    "schedules.step_lr",
    "training._OnPlateau",
]


@pytest.mark.parametrize("module", mutants.TABLES)
def test_every_edit_has_one_place_and_leaves_python(module):
    for mutant in mutants.select([module]):
        compile(mutant.source(), module, "exec")


def test_no_edit_is_listed_twice():
    assert len({*mutants.MUTANTS}) == len(mutants.MUTANTS) > 200


def test_an_edit_without_a_place_is_refused():
    for function, old in (("elu", "no such text"), ("elu", "x"), ("no_such_function", "x")):
        with pytest.raises(ValueError, match=r"expected the old text once in the function|no_such_function: not found"):
            mutants.Mutant("activations", function, old, "y").source()
    with pytest.raises(ValueError, match=r"no mutants are called activations\.nothing"):
        mutants.select(["activations.nothing"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_dozen_edits_are_caught():
    only = [part for name in DOZEN for part in ("--only", name)]
    command = [sys.executable, mutants.__file__, "--unchecked", *only]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    n = len(mutants.select(DOZEN))
    assert n >= 12
    assert f"\n{n} of {n} mutants caught" in done.stdout


SURVIVOR = """
import mutants
same = mutants.Mutant("summary", "summary", "for i in range(3)", "for i in (0, 1, 2)")
((mutant, outcome, output),) = mutants.run([same], 1)
print(mutant == same, outcome)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_edit_that_no_test_notices_is_said_to_have_survived():
    folder = Path(mutants.__file__).parent
    done = subprocess.run([sys.executable, "-c", SURVIVOR], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "True survived\n"
