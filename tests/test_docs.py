"""The pages of the documentation are code: their blocks run in order, and print what the pages say they print."""

import contextlib
import importlib.util
import inspect
import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fmlp import activations, schedules

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(python|text)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e[-+]\d+)?")
PAGES = sorted(page for page in DOCS.rglob("*.md") if "```python" in page.read_text("utf-8"))
OPTIONAL = ("jax", "optax", "pandas", "sklearn", "torch")


def missing(code: str) -> list[str]:
    """Name the optional packages that a block imports and that are not here."""
    imported = re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)
    if "fmlp.estimators" in code:
        imported.append("sklearn")
    return [name for name in imported if name in OPTIONAL and not importlib.util.find_spec(name)]


def assert_says(printed: str, promised: str) -> None:
    """Compare words exactly, and numbers with room for another machine's rounding."""
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", promised).split(), printed
    got, want = ([float(n.replace(",", "")) for n in NUMBER.findall(text)] for text in (printed, promised))
    np.testing.assert_allclose(got, want, rtol=0.05, atol=0.011, err_msg=printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_blocks_run_and_print_what_is_said(page, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for title in re.findall(r'title="(\w+)\.py"', page.read_text("utf-8")):
        monkeypatch.setitem(sys.modules, title, None)  # so that it is forgotten afterwards
        del sys.modules[title]
    namespace = {"__name__": "page"}
    printed, left_out = "", []
    for language, title, code in BLOCK.findall(page.read_text("utf-8")):
        if language == "text":
            if not left_out:
                assert_says(printed, code)
            continue
        if title:
            Path(title).write_text(code, "utf-8")
        left_out += missing(code)
        if left_out:
            continue
        with contextlib.redirect_stdout(io.StringIO()) as stdout:
            exec(compile(code, f"{page.name}: {code[:40]!r}", "exec"), namespace)
        printed = stdout.getvalue()
    if left_out:
        pytest.skip(f"the blocks from the first on that needs {', '.join(left_out)}")


def test_gallery_shows_every_activation_and_schedule():
    page = (DOCS / "gallery" / "activations.md").read_text("utf-8")
    assert re.findall(r"gallery/(\w+)\.svg", page) == list(activations.table), "run python docs/pictures.py"
    page = (DOCS / "gallery" / "schedules.md").read_text("utf-8")
    functions = {name for name in schedules.__all__ if inspect.isfunction(getattr(schedules, name))}
    assert set(re.findall(r"gallery/(\w+)\.svg", page)) == functions


def test_linked_files_exist():
    written = {DOCS / "api" / f"{path.stem}.md" for path in (ROOT / "fmlp").iterdir()} | {DOCS / "api" / "fmlp.md"}
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            path = (page.parent / target).resolve()
            assert path.exists() or path in written, f"{page.name}: {target}"


def test_notebook_is_stored_as_it_ran():
    file = ROOT / "examples" / "quickstart.ipynb"
    assert file.stat().st_size < 400_000
    cells = [cell for cell in json.loads(file.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    assert {output["name"] for output in outputs if "name" in output} == {"stdout"}  # no bars, no warnings
