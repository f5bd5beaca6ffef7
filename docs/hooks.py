"""What MkDocs does besides: a page for each module, pages from outside this folder, and links that lead out of it."""

import inspect
import pkgutil
import re
from pathlib import Path
from posixpath import dirname, join, normpath

from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

import fmlp

ROOT = Path(__file__).parents[1]


def public() -> list[str]:
    """List the modules that hold something public: they are, or what they define is, in ``fmlp``."""
    homes = {getattr(getattr(fmlp, name), "__module__", "").removeprefix("fmlp.") for name in fmlp.__all__}
    found = {name for name in fmlp.__all__ if inspect.ismodule(getattr(fmlp, name))} | homes | LATER
    return sorted(module.name for module in pkgutil.iter_modules(fmlp.__path__) if module.name in found)


LATER = {"data", "estimators", "onnx", "plotting", "safetensors", "sklearn", "torch"}
"""The modules that ``fmlp`` imports when they are asked for."""
MODULES = public()
OUTSIDE = {
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


def on_config(config):
    """Fill the section of the navigation that is called API."""
    section = next(item for item in config.nav if "API" in item)
    section["API"] = [{name: f"api/{name}.md"} for name in ["fmlp", *MODULES]]
    return config


def on_files(files: Files, config) -> Files:
    """Add the pages that are not in this folder."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "api/fmlp.md", content=top_level()))
    for name in MODULES:
        files.append(File.generated(config, f"api/{name}.md", content=f"# fmlp.{name}\n\n::: fmlp.{name}\n"))
    return files


def top_level() -> str:
    """Write the page of what ``import fmlp`` gives."""
    names = [name for name in fmlp.__all__ if not inspect.ismodule(getattr(fmlp, name))]
    said = {name: inspect.getdoc(getattr(fmlp, name)).splitlines()[0] for name in names}
    rows = [f"| [`{name}`][{getattr(fmlp, name).__module__}.{name}] | {said[name]} |" for name in names]
    modules = ", ".join(f"[`{name}`]({name}.md)" for name in MODULES)
    head = f"# fmlp\n\nWhat `import fmlp` gives, besides the modules {modules}:\n\n| name | |\n|---|---|\n"
    return head + "\n".join(rows).replace("``", "`") + "\n"


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Lead links to files outside to their page here; where there is none, leave the text alone."""
    here = page.file.src_uri
    source = next((source for source, name in OUTSIDE.items() if name == here), f"docs/{here}")

    def mended(link: re.Match) -> str:
        text, target, anchor = link.groups(default="")
        path = normpath(join(dirname(source), target))
        name = OUTSIDE.get(path, path.removeprefix("docs/"))
        return text if name == path else f"[{text}]({get_relative_url(name, here)}{anchor})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)", mended, markdown)
