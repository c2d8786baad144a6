"""The documentation's site: `make docs`, or `python docs/build.py FOLDER`. It fails on a link that leads nowhere.

Nothing is written twice: the start page is README.md, the releases are CHANGELOG.md, the configuration reference comes
from the schema and conf/, the API pages from docstrings, the notebooks' pages from notebooks/. All pages are collected
in a temporary folder, and Sphinx (docs/conf.py) makes the site from there.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import nbformat
import yaml
from nbconvert import MarkdownExporter
from references import START, reference, with_reference
from sphinx.cmd.build import build_main

import mdlm_cfg
from mdlm_cfg import plot

DOCS = Path(__file__).parent
ROOT = DOCS.parent
MOVED = {"README.md": "index.md", "CHANGELOG.md": "releases.md", "CONTRIBUTING.md": "contributing.md"}
CODE = r"^```.*?^```$|`[^`\n]+`"  # where what looks like a link is none: a["b"](c)
LINK = re.compile(rf"(?ms)\[(?P<text>[^\[\]]*)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)]*)?\)|{CODE}")


def main(folder: str) -> int:
    """Build the site in a folder, new or of an earlier site; the exit code is not 0 after any warning."""
    is_new = not os.path.lexists(folder) or (os.path.isdir(folder) and not os.listdir(folder))
    if not is_new and not Path(folder, ".buildinfo").is_file():  # which Sphinx writes first
        sys.exit(f"error: {folder} holds something else than an earlier site: give another folder")
    strict = ["--fail-on-warning", "--keep-going", "--quiet"]
    with tempfile.TemporaryDirectory() as pages:
        collect(Path(pages))
        return build_main([*strict, "--conf-dir", str(DOCS), "--doctree-dir", f"{pages}/.doctrees", pages, folder])


def collect(folder: Path) -> None:
    """Write every page, and the pictures, into a folder."""
    shutil.copytree(DOCS / "pictures", folder / "pictures")
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
    sources |= {name: (ROOT / name).read_text(encoding="utf-8") for name in MOVED}
    sources |= notebook_pages(folder)
    linked = {name for text in sources.values() for match in LINK.finditer(text) if (name := linked_name(match))}
    pages = {site_path(source): with_site_links(text, source) for source, text in sources.items()}
    pages["report.md"] = with_reference(pages["report.md"]) if START in pages["report.md"] else pages["report.md"]
    pages["configuration.md"] = reference(ROOT / "conf")
    pages["index.md"] += navigation()
    pages |= api_pages(public_names() | configured_names() | linked)
    for page, text in pages.items():
        (folder / page).parent.mkdir(exist_ok=True)
        (folder / page).write_text(text, encoding="utf-8")


def site_path(source: str) -> str:
    """Where a file of the repository lies in the site."""
    return MOVED.get(source, source.removeprefix("docs/").replace(".ipynb", ".md"))


def with_site_links(text: str, source: str) -> str:
    """A page whose links lead from file to file of the repository, with links that lead from page to page."""

    def link(match: re.Match[str]) -> str:
        if match["path"] is None:
            return match[0]
        name = linked_name(match)
        if name is not None:
            return f"{{py:obj}}`{match['text'].strip('`')} <{name}>`"
        target = (ROOT / source).parent.joinpath(match["path"]).resolve().relative_to(ROOT)
        return f"[{match['text']}](/{site_path(str(target))}{match['anchor'] or ''})"

    return LINK.sub(link, text)


def linked_name(match: re.Match[str]) -> str | None:
    """What a link such as [`terminal_law`](../mdlm_cfg/laws/terminal.py) names: mdlm_cfg.laws.terminal.terminal_law."""
    if match["path"] is None or not match["path"].endswith(".py") or "mdlm_cfg/" not in match["path"]:
        return None
    module = match["path"][match["path"].index("mdlm_cfg/") :].removesuffix(".py").replace("/", ".")
    return home(f"{module}.{match['text'].strip('`').partition('(')[0]}")


def home(name: str) -> str:
    """The name of a function or class in the module that defines it."""
    module, _, rest = name.partition(".")
    of = import_module(module)
    for part in rest.split("."):
        module = f"{module}.{part}"
        of = getattr(of, part, None) or import_module(module)
    return f"{of.__module__}.{of.__qualname__}"


def public_names() -> set[str]:
    """What `from mdlm_cfg import ...` gives, and the functions of `mdlm_cfg.plot`."""
    exported = {f"{module}.{name}" for name, module in mdlm_cfg._WHERE.items()}
    functions = inspect.getmembers(plot, inspect.isfunction)
    plots = {f"mdlm_cfg.plot.{name}" for name, of in functions if of.__module__ == plot.__name__ and name[0] != "_"}
    return {home(name) for name in exported} | plots


def configured_names() -> set[str]:
    """What configuration files name by `_target_`."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "conf").rglob("*.yaml")]
    return {home(name) for text in texts for name in re.findall(r"_target_: (mdlm_cfg\.[\w.]+)", text)}


def api_pages(names: Iterable[str]) -> dict[str, str]:
    """A page for each package, its modules in order, and a page that lists what `from mdlm_cfg import ...` gives."""
    modules: dict[str, set[str]] = defaultdict(set)
    for name in names:
        module = max((m for m in sys.modules if name.startswith(f"{m}.")), key=len)
        modules[module].add(name.removeprefix(f"{module}.").partition(".")[0])
    pages: dict[str, list[str]] = {}
    for module, members in sorted(modules.items()):
        package = module.split(".")[1]
        page = pages.setdefault(f"api/{package}.md", [f"# mdlm_cfg.{package}\n"])
        if module != f"mdlm_cfg.{package}":
            page.append(f"## {module.removeprefix(f'mdlm_cfg.{package}.')}\n")
        entries = [entry(module, member) for member in sorted(members, key=lambda name: line_of(module, name))]
        page += ["```{eval-rst}", f".. automodule:: {module}\n", *entries, "```\n"]
    index = api_index(sorted(page.removeprefix("api/") for page in pages))
    return {page: "\n".join(lines) for page, lines in pages.items()} | {"api/index.md": index}


def line_of(module: str, name: str) -> int:
    """The line of a file where a class or a function begins."""
    return inspect.getsourcelines(getattr(import_module(module), name))[1]


def entry(module: str, name: str) -> str:
    """What makes Sphinx document a class with its methods, or a function."""
    if inspect.isclass(getattr(import_module(module), name)):
        return f".. autoclass:: {module}.{name}\n   :members:\n"
    return f".. autofunction:: {module}.{name}\n"


def api_index(pages: Iterable[str]) -> str:
    """The table of what the package exports, and the pages of the packages."""
    rows = ["# API\n", "What `from mdlm_cfg import ...` gives:\n", "| name | what it is |", "|---|---|"]
    for name in sorted(mdlm_cfg.__all__, key=str.lower):
        of = getattr(mdlm_cfg, name)
        summary = (of.__doc__ or "").partition("\n")[0].replace("|", "\\|")
        rows.append(f"| {{py:obj}}`{name} <{of.__module__}.{of.__qualname__}>` | {summary} |")
    rows += ["\nBy package:\n", "```{toctree}", ":maxdepth: 1", *pages, "```"]
    return "\n".join(rows) + "\n"


def notebook_pages(folder: Path) -> dict[str, str]:
    """Every notebook as a page; its pictures are written into the folder."""
    pages = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        names = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
        page, resources = MarkdownExporter().from_notebook_node(nbformat.read(path, as_version=4), names)
        pages[f"notebooks/{path.name}"] = page
        for name, content in resources["outputs"].items():
            (folder / "notebooks" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "notebooks" / name).write_bytes(content)
    return pages


def navigation() -> str:
    """docs/navigation.yml as what Sphinx reads."""
    chapters = yaml.safe_load((DOCS / "navigation.yml").read_text(encoding="utf-8"))
    parts = []
    for chapter, pages in chapters.items():
        entries = [f"{title} </{page}>" for title, page in pages.items()]
        parts += ["\n```{toctree}", ":hidden:", f":caption: {chapter}", *entries, "```\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "site")))
