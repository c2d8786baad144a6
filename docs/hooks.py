"""What mkdocs adds to the pages in this folder: pages made from other files of the repository, and the API reference.

Nothing is kept twice: the start page is README.md, the releases are CHANGELOG.md, the configuration reference comes
from the schema and conf/, the API reference from what `mdlm_cfg` exports, the notebooks' pages from notebooks/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

import mdlm_cfg
from mdlm_cfg.app.reference import reference
from mdlm_cfg.app.report_reference import START, with_reference

ROOT = Path(__file__).parent.parent
MOVED = {"README.md": "index.md", "CHANGELOG.md": "releases.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"\]\(([^)#:]+?)(#[^)]*)?\)")
PUBLIC_MODULES = ("plot",)
API_HEAD = """\
# API

What `from mdlm_cfg import ...` gives, by the room it lives in; then what configuration files name by `_target_`.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {target: moved_page(source) for source, target in MOVED.items()}
    pages |= {"configuration.md": reference(ROOT / "conf"), "api.md": api_page()}
    for name, content in [*pages.items(), *notebook_files()]:
        files.append(File.generated(config, name, content=content))
    return files


def moved_page(source: str) -> str:
    """A page of the repository's root, with links that lead from docs/ to where they led."""

    def link(match: re.Match[str]) -> str:
        path = match[1].removeprefix("docs/") if match[1].startswith("docs/") else MOVED.get(match[1], match[1])
        return f"]({path}{match[2] or ''})"

    return LINK.sub(link, (ROOT / source).read_text(encoding="utf-8"))


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links from docs/ to pages of the repository's root lead to where those are here; report.md has today's keys."""
    for source, target in MOVED.items():
        markdown = markdown.replace(f"](../{source}", f"]({target}")
    return with_reference(markdown) if START in markdown else markdown


def api_page() -> str:
    """Every public name under the room that it lives in, and every class or function that conf/ names."""
    rooms: dict[str, list[str]] = {}
    for module, names in mdlm_cfg._HOMES.items():
        room = module.split(".")[0]
        rooms.setdefault(room, []).extend(f"mdlm_cfg.{module}.{name}" for name in names)
    public = {name for names in rooms.values() for name in names}
    rooms |= {module: [f"mdlm_cfg.{module}"] for module in PUBLIC_MODULES}
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "conf").rglob("*.yaml")]
    named = {name for text in texts for name in re.findall(r"_target_: (mdlm_cfg\.[\w.]+)", text)}
    rooms["Named in configurations"] = sorted(named - public)
    lines = [API_HEAD]
    for room, names in rooms.items():
        lines += [f"## {room}\n", *(f"::: {name}\n" for name in names)]
    return "\n".join(lines)


def notebook_files() -> Iterator[tuple[str, str | bytes]]:
    """Every notebook as a page, and its pictures."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page, resources = MarkdownExporter().from_notebook_node(
            nbformat.read(path, as_version=4),
            {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"},
        )
        yield f"notebooks/{path.stem}.md", page
        for name, content in resources["outputs"].items():
            yield f"notebooks/{name}", content
