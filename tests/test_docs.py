"""What the documentation shows is run: every Python block of a page, and the commands on how to extend the package."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NEED_EXTRAS = ("own_models.md",)  # which `make test-slow` installs
PAGES = [path for path in DOCUMENTS if "```python" in path.read_text(encoding="utf-8")]

RUN = [pytest.param(page, marks=[pytest.mark.slow] * (page.name in NEED_EXTRAS), id=page.name) for page in PAGES]
BLOCK = re.compile(r"^```python\n(?:# (?P<file>my_\w+\.py)\n)?(?P<code>.*?)^```", flags=re.DOTALL | re.MULTILINE)


def saved(page: Path, folder: Path) -> list[str]:
    """Save the blocks of a page that begin with the name of a file, as a reader does, and return the others."""
    found = list(BLOCK.finditer(page.read_text(encoding="utf-8")))
    for block in found:
        if block["file"]:
            (folder / block["file"]).write_text(block["code"], encoding="utf-8")
    return [block["code"] for block in found if not block["file"]]


@pytest.mark.parametrize("page", RUN)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = saved(page, tmp_path)
    assert blocks
    module = ModuleType(page.stem)  # a dataclass looks its module up
    monkeypatch.setitem(sys.modules, page.stem, module)
    for path in tmp_path.glob("my_*.py"):
        monkeypatch.setitem(sys.modules, path.stem, ModuleType(path.stem))  # undone at the end
        del sys.modules[path.stem]
        import_module(path.stem)
    exec(compile("\n".join(blocks), page.name, "exec"), vars(module))


EXTENDING = ROOT / "docs" / "extending.md"
OWN = re.compile(r"^    python (.*\bmy_.*)$", flags=re.MULTILINE)
SMALL = {
    "train.py": ("trainer.max_steps=4", "trainer.enable_progress_bar=false", "num_samples=200"),
    "eval.py": ("num_samples=200",),
    "experiment=benchmark": ("study.targets=[toy_2d_overlap]", "study.calls=[4]", "w=[0,4]"),
}


@pytest.mark.slow
def test_commands_with_files_of_ones_own_run(tmp_path: Path) -> None:
    """In the order of the page; those of eval.py without a run or denoiser evaluate the run before."""
    saved(EXTENDING, tmp_path)
    commands = [shlex.split(command) for command in OWN.findall(EXTENDING.read_text(encoding="utf-8"))]
    for path in tmp_path.glob("my_*.py"):
        assert any(f"{path.stem}." in option for command in commands for option in command), path.name
    for script, *options in [["train.py"], *commands]:
        small = SMALL["experiment=benchmark" if "experiment=benchmark" in options else script]
        done = subprocess.run(
            [sys.executable, ROOT / script, *options, *small, "logger=csv", f"runs={tmp_path / 'runs'}"],
            env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{script} {' '.join(options)}\n{done.stderr}"


@pytest.mark.parametrize(("script", "place"), [("guidance.py", "mine.npz"), ("build.py", ".")])
def test_scripts_replace_nothing_of_others(
    script: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.npz").write_text("mine")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path / place)])
    with pytest.raises(SystemExit, match=r"^error: "):
        runpy.run_path(str(ROOT / "docs" / script), run_name="__main__")
    assert (tmp_path / "mine.npz").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


TOP = ("mdlm_cfg", "tests", "conf", "docs", "bench")
PACKAGES = tuple(path.name for path in (ROOT / "mdlm_cfg").iterdir() if (path / "__init__.py").is_file())


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_names_and_files_that_are_mentioned_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"(?<!\*\.)\bmdlm_cfg(?:\.[A-Za-z_]\w*)+", text)):
        assert _exists(name), f"{page.name} names {name}"
    for path in set(re.findall(rf"(?<![\w/.])((?:{'|'.join(TOP + PACKAGES)})/[\w/.]*\w)", text)):
        assert any((root / path).exists() for root in (ROOT, ROOT / "mdlm_cfg")), f"{page.name} names {path}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_no_sentence_is_broken_where_its_number_would_begin_a_list(page: Path) -> None:
    """A line "64. With ..." is the 64th point of a list to Markdown, wherever it stands."""
    numbers = [int(number) for number in re.findall(r"^ *(\d+)[.)] ", page.read_text(encoding="utf-8"), re.MULTILINE)]
    assert all(one == 1 or one == before + 1 for before, one in zip([0, *numbers], numbers))


def test_every_equation_links_to_its_function() -> None:
    """The linked file defines the name that the link shows, and no other module of the mathematics defines it too."""
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    links = set(re.findall(r"\[`(\w+)`\]\(\.\./(mdlm_cfg/[\w/]+\.py)\)", text))
    assert len(links) > 80
    rooms = [ROOT / "mdlm_cfg" / room for room in ("chain", "laws", "sampling", "targets", "compare")]
    defined = {path: _defined_in(path) for room in rooms for path in room.rglob("*.py")}
    for name, path in links:
        assert name in _defined_in(ROOT / path), f"{path} does not define {name}"
        others = [other for other, names in defined.items() if name in names and other != ROOT / path]
        assert not others, f"{name} is defined in {path} and in {others}"


def _defined_in(path: Path) -> set[str]:
    """The functions, classes and constants of a module, and the names of its jump rules."""
    found = re.findall(r"^(?:def|class) (\w+)|^    \"(\w+)\": ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name for pair in found for name in pair if name}


def test_functions_of_the_theory_exist() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "mdlm_cfg").rglob("*.py"))
    known = set(re.findall(r"(?:def|class) (\w+)|\"(\w+)\"", source))
    known = {name for pair in known for name in pair}
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    mentioned = set(re.findall(r"`([A-Za-z_]\w*)(?:\([^`]*)?`", text))
    assert len(mentioned) > 50
    assert mentioned <= known, f"theory.md names {sorted(mentioned - known)}"


def _exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


AMERICAN = re.compile(
    r"behavi[o]r|neighb[o]r\b|labe[l]ed\b|mode[l]ing\b|(?:discreti|recogni|summari|generali|marginali)z"
)


def test_prose_is_british() -> None:
    """In words that neither a library nor a public name here has."""
    files = [*DOCUMENTS, *(path for room in ("mdlm_cfg", "conf", "tests") for path in (ROOT / room).rglob("*.[py]*"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".yaml", ".md")}
    assert {path: found for path, text in texts.items() if (found := AMERICAN.findall(text))} == {}
