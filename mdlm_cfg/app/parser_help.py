"""Hydra's command line on Python 3.14 and later."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PLACEHOLDER = "see hydra's documentation"


@contextmanager
def help_as_text() -> Iterator[None]:
    """Within it, argparse takes an option whose help is not a text.

    Hydra 1.3 declares `--shell-completion` with such a help. Python 3.14's argparse checks every help when an option is
    declared, and ends each command in "badly formed help string" (facebookresearch/hydra, issue 3121).
    """
    original = ArgumentParser.add_argument

    def add_argument(parser: ArgumentParser, *names: str, **settings: Any) -> Any:
        if not isinstance(settings.get("help", ""), str | None):
            settings["help"] = PLACEHOLDER
        return original(parser, *names, **settings)

    ArgumentParser.add_argument = add_argument  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ArgumentParser.add_argument = original  # type: ignore[method-assign]
