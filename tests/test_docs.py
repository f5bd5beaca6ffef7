"""The pages of the documentation are code: their blocks run in order, and print what the pages say they print."""

import contextlib
import importlib.util
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

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
    np.testing.assert_allclose(got, want, rtol=0.1, atol=0.05, err_msg=printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_blocks_run_and_print_what_is_said(page, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
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
