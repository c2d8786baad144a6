"""The documentation's site: every page has its place, every public name is there, nothing is loaded from elsewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from docutils.utils.math.latex2mathml import tex2mathml

import mdlm_cfg

ROOT = Path(__file__).parent.parent
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
GENERATED = {"releases.md", "contributing.md", "configuration.md", "api/index.md"}  # by docs/build.py


def test_every_page_has_one_place() -> None:
    chapters = yaml.safe_load((ROOT / "docs" / "navigation.yml").read_text())
    listed = [page for pages in chapters.values() for page in pages.values()]
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert sorted(listed) == sorted(written | notebooks | GENERATED)


FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\w$])\$([^$\n]+)\$(?!\w)", re.DOTALL)


@pytest.mark.parametrize("folder", ["docs", "notebooks", "mdlm_cfg"])
def test_every_formula_can_be_drawn(folder: str) -> None:
    """docutils turns formulas into MathML when the site is built, and knows most of LaTeX: not all of it."""
    texts = []
    for path in sorted((ROOT / folder).rglob("*")):
        if path.suffix == ".md":
            texts.append(
                re.sub(r"```.*?```|``.+?``|`[^`]+`|^ {4}.*?$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
            )
        elif path.suffix == ".ipynb":
            cells = json.loads(path.read_text())["cells"]
            texts += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        elif path.suffix == ".py" and path.parent.name != "docs":
            nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, DOCUMENTED)]
            texts += [ast.get_docstring(node) or "" for node in nodes]
    formulas = [match[1] or match[2] for text in texts for match in FORMULA.finditer(text)]
    assert len(formulas) > 3
    for formula in formulas:
        assert "<math" in tex2mathml(formula), formula


def build(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "docs/build.py", str(folder)]
    this = os.environ | {"PYTHONPATH": str(root)}  # the package beside the pages, whatever is installed
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=this)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    found = build(ROOT, folder)
    assert found.returncode == 0, found.stderr
    return folder


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    pages = {path.stem: path.read_text() for path in (site / "api").glob("*.html")}
    for module, names in mdlm_cfg._HOMES.items():
        for name in names:
            assert re.search(rf'id="mdlm_cfg\.[\w.]+\.{name}"', pages[module.split(".")[0]]), name
    plots = {"laws", "decay", "ledger", "lines", "distances", "images"}
    assert plots <= set(re.findall(r'id="mdlm_cfg\.plot\.(\w+)"', pages["plot"]))


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = r'<(?:script|img|iframe|source)[^>]*src="(?:https?:)?//|<link[^>]*href="(?:https?:)?//'
    imports = r"""(?:@import|url\()\s*["']?(?:https?:)?//"""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [path.name for path in pages if re.search(loads, path.read_text())] == []
    assert [path.name for path in site.rglob("*.css") if re.search(imports, path.read_text())] == []


@pytest.mark.slow
def test_search_needs_no_server(site: Path) -> None:
    """A page opened as a file may load scripts, and may fetch nothing: the index is a script, and lists every page."""
    index = (site / "searchindex.js").read_text()
    assert index.startswith("Search.setIndex(")
    names = json.loads(index.removeprefix("Search.setIndex(").removesuffix(")"))["docnames"]
    assert {"theory", "api/laws", "notebooks/guided_mnist"} <= set(names)
    assert re.search(r'<script[^>]*src="searchindex\.js"', (site / "search.html").read_text())


@pytest.mark.slow
def test_pages_render(site: Path) -> None:
    """No Markdown is left over: tables, lists, code, links and mathematics have become what they are."""
    for path in site.rglob("*.html"):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", path.read_text(), flags=re.DOTALL)
        for paragraph in re.findall(r"<p>(.*?)</p>", text, flags=re.DOTALL):
            left = re.search(r"^\|.*\|$|\n[-*] |```|\n#+ |\$[^$]*\$|\]\(|\{py:", paragraph)
            assert not left, f"{path.name}: {paragraph[:200]}"


@pytest.mark.slow
@pytest.mark.parametrize("dead", ["[gone](gone.md)", "[gone](theory.md#gone)", "![gone](pictures/gone.png)"])
def test_a_dead_link_is_an_error(tmp_path: Path, dead: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{dead}\n")
    (tmp_path / "theory.md").write_text("---\norphan: true\n---\n# Theory\n")
    strict = ["--fail-on-warning", "--conf-dir", str(ROOT / "docs"), "-D", "root_doc=page"]
    command = [sys.executable, "-m", "sphinx", *strict, str(tmp_path), str(tmp_path / "site")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1 and "gone" in found.stderr
