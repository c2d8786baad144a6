"""The documentation's site: every page has its place, every public name is there, nothing is loaded from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import mdlm_cfg

ROOT = Path(__file__).parent.parent
GENERATED = {"index.md", "releases.md", "contributing.md", "configuration.md", "api.md"}  # by docs/hooks.py


def pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for item in (nav.values() if isinstance(nav, dict) else nav) for page in pages(item)]


def test_every_page_has_one_place() -> None:
    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert sorted(listed) == sorted(written | notebooks | GENERATED)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return folder


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    text = (site / "api.html").read_text()
    ids = {name.rpartition(".")[2] for name in re.findall(r'<h3 id="(mdlm_cfg\.[\w.]+)"', text)}
    assert set(mdlm_cfg.__all__) <= ids
    assert {"laws", "decay", "ledger", "lines", "distances", "images"} <= set(
        re.findall(r'id="mdlm_cfg\.plot\.(\w+)"', text)
    )


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = (
        r'<(?:script|img|iframe|source)[^>]*src="https?:|<link[^>]*rel="(?:stylesheet|preload|icon)"[^>]*href="https?:'
    )
    found = list(site.rglob("*.html"))
    assert len(found) > 20
    assert [path.name for path in found if re.search(loads, path.read_text())] == []


@pytest.mark.slow
def test_pages_render(site: Path) -> None:
    """No Markdown is left over: tables, lists and code have become what they are."""
    for path in site.glob("*.html"):
        for paragraph in re.findall(r"<p>(.*?)</p>", path.read_text(), flags=re.DOTALL):
            assert not re.search(r"^\|.*\|$|\n[-*] |```|\n#+ ", paragraph), f"{path.name}: {paragraph[:200]}"
