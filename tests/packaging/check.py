"""Build fmlp, install the wheel where nothing else is, and use it: ``python tests/packaging/check.py``.

The sdist must hold the whole project. The wheel is tried on every Python from 3.11 on that is found (on the PATH, in
pyenv's folder, or given by --python), with the lowest versions of NumPy, SciPy and tqdm that pyproject.toml allows and
a wheel exists of, and with the newest. Needs git, the package index and ``pip install build packaging twine``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
CLEAN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PIP_QUIET")}
CLEAN |= {"NO_COLOR": "1"}

USE = """
import sys
import numpy as np, scipy, tqdm
import fmlp
from fmlp import losses, metrics, optim, random, schedules
from fmlp.layers import BatchNorm, Dense, Dropout, Elu, Gelu, serial

assert "site-packages" in fmlp.__file__, fmlp.__file__
x = random.generator(random.key(0)).standard_normal((400, 8))
y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
net = serial(Dense(32), BatchNorm(), Elu(), Dropout(0.1), Dense(16), Gelu(), Dense(2))
result = fmlp.fit(
    net, net.init(random.key(1), (8,))[1], (x[:300], y[:300]), loss=losses.cross_entropy, epochs=60,
    optimizer=optim.adamw(schedules.cosine_lr(1e-2, T_max=600)), key=random.key(2), validation=0.1,
    metrics={"accuracy": metrics.accuracy}, early_stopping=fmlp.EarlyStopping("val_loss", restore_best=True),
    checkpoint="run.npz",
)
fmlp.save("model.npz", result.params, metadata={"classes": 2})
params = fmlp.load("model.npz", like=result.params)
accuracy = metrics.accuracy(y[300:], fmlp.predict(net, params, x[300:]).argmax(1))
assert accuracy > 0.7, accuracy
for module in ("onnx", "safetensors", "sklearn", "torch", "estimators"):
    try:
        getattr(fmlp, module)
    except ModuleNotFoundError as error:
        assert "pip install 'fmlp[" in str(error), error
    else:
        raise AssertionError(f"fmlp.{module} is there without its package")
print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}, SciPy {scipy.__version__}, tqdm {tqdm.__version__}: "
      f"test accuracy {accuracy:.2f}")
"""


def run(*command: str | Path, cwd: str | Path = ROOT) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, env=CLEAN, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def pythons() -> list[str]:
    """Find one Python of each minor version."""
    found: dict[str, str] = {}
    given = [shutil.which(f"python3.{minor}") for minor in range(11, 20)]
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python"))
    for candidate in [sys.executable, *filter(None, given), *map(str, pyenv)]:
        code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", code], env=CLEAN, capture_output=True, text=True)
        version = done.stdout.strip()
        if done.returncode == 0 and Version(version) >= Version("3.11"):
            found.setdefault(version, candidate)
    return [found[version] for version in sorted(found, key=Version)]


def lowest(python: Path, requirement: Requirement) -> str:
    """Name the lowest version allowed of which there is a wheel for this Python."""
    out = run(python, "-m", "pip", "index", "versions", requirement.name)
    versions = re.search(r"Available versions: (.*)", out)[1].split(", ")  # type: ignore[index]
    for version in sorted(requirement.specifier.filter(versions), key=Version):
        exact = f"{requirement.name}=={version}"
        command = [python, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", exact]
        if not subprocess.run(command, cwd=python.parent, env=CLEAN, capture_output=True).returncode:
            return exact
    sys.exit(f"{requirement}: no wheel for {python}")


def check_complete(sdist: Path) -> None:
    """End with an error unless the sdist holds all that git does, but for dot-files, which are for developing."""
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    if missing := [name for name in run("git", "ls-files").splitlines() if name[0] != "." and name not in packed]:
        sys.exit(f"{sdist.name} lacks {', '.join(missing)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", metavar="PATH", help="the interpreters; those found by default")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--outdir", f"{folder}/dist")
        files = sorted(Path(folder, "dist").iterdir())
        print(f"built {', '.join(file.name for file in files)}", flush=True)
        print(run(sys.executable, "-m", "twine", "check", "--strict", *files).strip(), flush=True)
        check_complete(next(file for file in files if file.name.endswith(".tar.gz")))
        (wheel,) = (file for file in files if file.suffix == ".whl")
        for n, python in enumerate(options.python or pythons()):
            for which in ("lowest", "newest"):
                place = Path(folder, f"{n}-{which}")
                run(python, "-m", "venv", place / "venv")
                inside = place / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
                exact = [lowest(inside, Requirement(r)) for r in project["dependencies"]] if which == "lowest" else []
                run(inside, "-m", "pip", "install", "--only-binary", ":all:", wheel, *exact)
                run(inside, "-m", "pip", "check")
                print(f"{which}: {run(inside, '-W', 'error', '-c', USE, cwd=place).strip()}", flush=True)


if __name__ == "__main__":
    main()
