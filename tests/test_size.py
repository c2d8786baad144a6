"""The house stays small: no file over 300 lines, no function over 40 or with more than 7 arguments."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [*sorted((ROOT / "mdlm_cfg").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]
MOST_LINES, MOST_BODY, MOST_ARGUMENTS = 300, 40, 7


def body_lines(function: ast.FunctionDef) -> int:
    """The lines of a function below its head and docstring."""
    first = function.body[0]
    is_documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    statements = function.body[1:] if is_documented else function.body
    return (function.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def arguments(function: ast.FunctionDef) -> int:
    """How many arguments may be given by position, `self` and `cls` apart: keyword-only options do not count."""
    names = [argument.arg for argument in [*function.args.posonlyargs, *function.args.args]]
    return len([name for name in names if name not in ("self", "cls")])


def too_large(text: str) -> list[str]:
    found = []
    if len(text.splitlines()) > MOST_LINES:
        found.append(f"{len(text.splitlines())} lines")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            if body_lines(node) > MOST_BODY:
                found.append(f"{node.name} has {body_lines(node)} lines")
            if arguments(node) > MOST_ARGUMENTS:
                found.append(f"{node.name} has {arguments(node)} arguments")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path: Path) -> None:
    assert too_large(path.read_text(encoding="utf-8")) == []


def test_what_is_too_large_is_found() -> None:
    long = "def f(a, b, c, d, e, f, g, h):\n" + '    """Doc."""\n' + "    x = 1\n" * 41
    assert too_large(long) == ["f has 41 lines", "f has 8 arguments"]
    assert too_large("x = 1\n" * 301) == ["301 lines"]
    assert too_large("def f(self, a, b, c, d, e, f, g, *, h, i):\n    return 1\n") == []
