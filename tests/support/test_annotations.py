"""Functions and classes whose annotations name what only a type checker knows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from mdlm_cfg.support.annotations import annotations_of, parameters_of
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import check_arguments

if TYPE_CHECKING:
    from nowhere import Unknown

# Without the future import, Python 3.14 evaluates annotations when they are asked for, and earlier versions at once.
LAZY = "def own(width: int, other: Unknown = None) -> Unknown: ...\n"


def own(width: int, other: Unknown = None) -> Unknown: ...


def makers() -> list:
    found = [own]
    if sys.version_info >= (3, 14):
        scope: dict = {}
        exec(compile(LAZY, "<own>", "exec", dont_inherit=True), scope)
        found.append(scope["own"])
    return found


@pytest.mark.parametrize("maker", makers())
def test_names_of_type_checkers_are_no_hindrance(maker: object) -> None:
    assert list(parameters_of(maker)) == ["width", "other"]
    assert set(annotations_of(maker)) == {"width", "other", "return"}
    check_arguments(maker, "denoiser", {"width": 3, "other": object()})
    with pytest.raises(UserError):
        check_arguments(maker, "denoiser", {"width": "wide"})
