"""Functions stay small, and one line assigns one thing."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = [*sorted((ROOT / "mdlm_cfg").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]
MOST_BODY = 40  # lines
MOST_ARGUMENTS = 7
MOST_PACKED = 29


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
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            if body_lines(node) > MOST_BODY:
                found.append(f"{node.name} has {body_lines(node)} lines")
            if arguments(node) > MOST_ARGUMENTS:
                found.append(f"{node.name} has {arguments(node)} arguments")
    return found


def test_functions_are_small() -> None:
    found = {str(path.relative_to(ROOT)): too_large(path.read_text(encoding="utf-8")) for path in FILES}
    assert {path: large for path, large in found.items() if large} == {}


def test_what_is_too_large_is_found() -> None:
    long = "def f(a, b, c, d, e, f, g, h):\n" + '    """Doc."""\n' + "    x = 1\n" * 41
    assert too_large(long) == ["f has 41 lines", "f has 8 arguments"]
    assert too_large("def f(self, a, b, c, d, e, f, g, *, h, i):\n    return 1\n") == []


def packed(text: str) -> int:
    """How many assignments pack unrelated things into one line: `a, b = 1, f(x)`. A swap is not one."""
    found = 0
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Tuple)
            and isinstance(node.targets[0], ast.Tuple)
        ):
            left = {ast.unparse(part) for part in node.targets[0].elts}
            right = {ast.unparse(part) for part in node.value.elts}
            found += left != right
    return found


def test_no_line_is_kept_from_the_formatter() -> None:
    marks = ("fmt: " + "skip", "fmt: " + "off")
    files = [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]
    assert [str(path) for path in files if any(mark in path.read_text(encoding="utf-8") for mark in marks)] == []


def test_assignments_are_not_packed() -> None:
    assert sum(packed(path.read_text(encoding="utf-8")) for path in FILES) <= MOST_PACKED
    assert packed("a, b = 1, f(x)\na, b = b, a\na, b = f(x)") == 1
