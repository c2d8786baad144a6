"""The documentation's site: every page has its place, every public name is there, nothing is loaded from elsewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import yaml
from docutils.utils.math.latex2mathml import tex2mathml
from markdown_it import MarkdownIt

import mdlm_cfg
from mdlm_cfg import plot

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
    assert formulas
    for formula in formulas:
        assert "<math" in tex2mathml(formula), formula


def math_traps(markdown: str) -> list[str]:
    """The formulas of a page that GitHub would not draw.

    GitHub reads Markdown first, and draws what is left between dollar signs (github/markup issues 1575 and 1688). So a
    formula must pass through Markdown unchanged, keep to one line, stand between spaces or before punctuation, be a
    paragraph of its own where it is displayed, and use no macro that GitHub forbids.
    """
    found = []
    for part in MarkdownIt("commonmark").enable("table").parse(markdown):
        if part.type != "inline":
            continue
        written = CODE.sub("`", part.content)
        left = "".join({"text": one.content, "softbreak": "\n"}.get(one.type, "`") for one in part.children or [])
        for match in FORMULA.finditer(written):
            formula = match[0]
            is_whole = formula == written.strip() if match[1] else "\n" not in formula
            if formula not in left or not is_whole or FORBIDDEN.search(formula):
                found.append(formula)
        drawn = [match[0] for match in DRAWN.finditer(left)]
        found += [] if "".join(drawn).count("$") == written.count("$") else [written]
    return found


CODE = re.compile(r"``.+?``|`[^`]+`", re.DOTALL)
FORBIDDEN = re.compile(r"\\(operatorname|mbox|phantom|(re)?newcommand|DeclareMathOperator|def|href|require)\b")
DRAWN = re.compile(r"(?<![^\s(])(\$\$[^$]+\$\$|\$(?!\s)[^$\n]*[^$\s]\$)(?![^\s.,;:?!)])")
TRAPS = (
    r"$\{1, 2\}$",  # Markdown takes a backslash before punctuation
    r"$a \, b$",
    r"$\mathbf{x}_{i}$ and $\mathbf{y}_{i}$",  # emphasis between the lines
    r"$a^*$ and $b^*$",
    r"$[a](b)$",
    r"$a <b> c$",
    "| a |\n|---|\n| $p(x | z)$ |",
    "$a +\nb$",
    "so $$ a $$ follows",
    r"$\operatorname{KL}$",
    "a$x$",
    "the $i$th",
    "**$x$**",
    "$ x$",
    "from 3 $ to $x$",
)


@pytest.mark.parametrize("trap", TRAPS)
def test_what_github_would_not_draw_is_found(trap: str) -> None:
    assert math_traps(trap)


def test_github_draws_every_formula() -> None:
    texts = {str(path): path.read_text() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        texts |= {f"{path} {k}": "".join(c["source"]) for k, c in enumerate(cells) if c["cell_type"] == "markdown"}
    assert {name: found for name, text in texts.items() if (found := math_traps(text))} == {}
    assert math_traps("$$\na_i = b_i\n$$\n\nwhere ($a_i$, $b$) is `$HOME` in $c$.") == []


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
    for name, module in mdlm_cfg._WHERE.items():
        defined = getattr(mdlm_cfg, name).__qualname__
        assert re.search(rf'id="mdlm_cfg\.[\w.]+\.{defined}"', pages[module.split(".")[1]]), name
    own = {name for name, of in vars(plot).items() if getattr(of, "__module__", "") == plot.__name__}
    plots = {name for name in own if not name.startswith("_")}
    assert {"laws", "images"} <= plots == set(re.findall(r'id="mdlm_cfg\.plot\.(\w+)"', pages["plot"]))


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
def test_code_of_notebooks_is_as_it_was_written(site: Path) -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shown = unescape(re.sub(r"<[^>]*>", "", (site / "notebooks" / f"{path.stem}.html").read_text()))
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                assert "".join(cell["source"]).strip() in shown


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
