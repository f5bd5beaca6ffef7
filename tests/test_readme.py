"""The README and CONTRIBUTING are code: their snippets run, and their commands are the ones that CI runs."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: re.findall(r"\n\n(.{0,20})", code)[0])
def test_snippet_runs(code, tmp_path, monkeypatch):
    if "sklearn" in code:
        pytest.importorskip("sklearn")
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data" / "digits.npz", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_first_snippet_learns(tmp_path, monkeypatch, capsys):
    test_snippet_runs(blocks("python")[0], tmp_path, monkeypatch)
    assert float(capsys.readouterr().out) > 0.95


def test_commands_are_those_of_the_gate():
    gate = (ROOT / ".ci" / "run").read_text("utf-8")
    for command in "".join(blocks("sh")).splitlines():
        assert command in gate


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
