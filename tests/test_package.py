"""The package as a whole: arrows that only go down, a light import, and names that exist and are explained."""

import ast
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import fmlp

ROOT = Path(fmlp.__file__).parent
MODULES = sorted(module.name for module in pkgutil.iter_modules([str(ROOT)]))
NEEDS = {"estimators": "sklearn", "onnx": "onnx", "safetensors": "safetensors", "sklearn": "sklearn", "torch": "torch"}
"""The modules that need an optional package."""


def needs(module):
    missing = not importlib.util.find_spec(NEEDS[module])
    return pytest.mark.skipif(missing, reason=f"fmlp.{module} needs {NEEDS[module]}")


IMPORTABLE = [pytest.param(m, marks=needs(m)) if m in NEEDS else m for m in MODULES]

# Who may import whom: only modules of the floors below. Modules of one floor do not know each other, but for
# losses and activations, and fmlp.__init__ stands above all.
FLOORS = [
    {"recording"},
    {"arguments"},
    {"tree", "random", "files", "signals", "schedules", "threads"},
    {"planning"},
    {"jit"},
    {"autodiff"},
    {"activations", "initializers", "losses", "metrics", "statistics"},
    {"layers"},
    {"optim"},
    {"serialization", "structure"},
    {"summary"},
    {"progress", "checkpoint"},
    {"distributed"},
    {"batches", "descent"},
    {"data", "evaluation"},
    {"callbacks"},
    {"training"},
]
ABOVE = {"plotting", *NEEDS}
CONTRIBUTING = ROOT.parent / "CONTRIBUTING.md"
DATA_FLOORS = [{"precision", "idx", "tables", "statistics"}, {"dataset", "batches"}, {"generated"}, {"__init__"}]


def imports(path, package="fmlp"):
    """Return the modules of a package that a module, or the files of a package in it, import anywhere."""
    found = set()
    for source in sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            found |= {
                name.removeprefix(f"{package}.").split(".")[0] for name in names if name.startswith(f"{package}.")
            }
    return found - {path.name}


@pytest.mark.parametrize("module", MODULES)
def test_arrows_only_go_down(module):
    floor = next((i for i, modules in enumerate(FLOORS) if module in modules), len(FLOORS))
    assert floor < len(FLOORS) or module in ABOVE, f"{module}: on which floor is it?"
    below = set().union(*FLOORS[:floor])
    peers = {"losses": {"activations"}}.get(module, set())  # losses take the sigmoid from activations
    assert imports(ROOT / module) <= below | peers
    if module not in ABOVE:
        assert not imports(ROOT / module) & ABOVE


@pytest.mark.parametrize("file", sorted((ROOT / "data").glob("*.py")), ids=lambda file: file.stem)
def test_arrows_within_data_only_go_down(file):
    floor = next(i for i, modules in enumerate(DATA_FLOORS) if file.stem in modules)
    assert imports(file.with_suffix(""), "fmlp.data") <= set().union(*DATA_FLOORS[:floor])


def test_the_floors_are_those_of_contributing_and_name_every_module():
    listed = CONTRIBUTING.read_text(encoding="utf-8").split("a test checks that:\n\n")[1].split("\n\n")[0]
    assert [{*line.strip().split(", ")} for line in listed.splitlines()] == [*FLOORS, ABOVE]
    assert set().union(*FLOORS, ABOVE) == {*MODULES}


@pytest.mark.parametrize("module", IMPORTABLE)
def test_any_module_can_be_imported_first(module):
    code = f"import fmlp.{module}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_importing_the_package_is_light():
    code = "import fmlp, json, sys; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    loaded = {name.split(".")[0] for name in json.loads(out)}
    assert "numpy" in loaded
    assert not loaded & {"scipy", "tqdm", "matplotlib", "pandas", "jax", "mpi4py", "distributed", *NEEDS.values()}


@pytest.mark.parametrize("name", ["__init__", *IMPORTABLE])
def test_public_names_exist_and_are_explained(name):
    module = importlib.import_module(f"fmlp.{name}".removesuffix(".__init__"))
    assert module.__doc__
    public = module.__all__
    assert len(set(public)) == len(public)
    for attribute in public:
        value = getattr(module, attribute)
        if inspect.isfunction(value) or inspect.isclass(value) or inspect.ismodule(value):
            assert value.__doc__, f"{name}.{attribute} has no docstring"
            # NamedTuple and dataclass write one themselves where there is none.
            assert not value.__doc__.startswith(f"{attribute}("), f"{name}.{attribute} has no docstring"


@pytest.mark.parametrize(("module", "package"), NEEDS.items())
def test_a_missing_package_is_named_with_its_extra(module, package):
    code = f"import sys; sys.modules[{package!r}] = None; import fmlp; fmlp.{module}"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert f"ModuleNotFoundError: fmlp.{module} needs" in out.stderr
    assert re.search(r"pip install 'fmlp\[\w+\]'$", out.stderr.strip())


def test_the_version_is_the_one_installed():
    assert fmlp.__version__ == version("fmlp")


def test_the_top_level_has_every_module_that_needs_no_optional_package():
    modules = set().union(*FLOORS)
    modules -= {
        "summary",
        "structure",
        "progress",
        "batches",
        "descent",
        "evaluation",
        "callbacks",
        "arguments",
        "planning",
        "recording",
        "statistics",
        "signals",
    }  # the name of a function, and none of a user's
    assert modules & set(MODULES) - {"data"} <= set(fmlp.__all__)
