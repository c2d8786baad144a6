"""Hydra's command line under an argparse that needs help to be a text."""

from argparse import ArgumentParser

from mdlm_cfg.app.cli import help_as_text


class Lazy:
    """What hydra gives in place of a help text."""


def test_any_help_is_text_and_argparse_is_as_it_was():
    original = ArgumentParser.add_argument
    parser = ArgumentParser()
    with help_as_text():
        parser.add_argument("--shell-completion", help=Lazy())
        parser.add_argument("--other", help="as it is")
        parser.add_argument("--none")
    assert "as it is" in parser.format_help()  # argparse formats, and on Python 3.14 checks, texts alone
    assert ArgumentParser.add_argument is original
