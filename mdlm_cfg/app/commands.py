"""Every command as a process of its own: interrupts are handled alike from its start to its end.

Imports happen inside, because they take up to a few seconds.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from mdlm_cfg.support.signals import INTERRUPTS, is_default

INTERRUPTED = 130  # the exit code


def process(module: str, function: str = "main") -> None:
    """Call a function of a module as this process's only work; an interrupt at any time ends it with `INTERRUPTED`.

    Interrupts are ignored while Python shuts down afterwards (a fraction of a second), or the exit code would be that
    of a signal. It would also be if an interrupt came while code was run from a string, as `dataclasses` does: Python
    remembers the interrupt until it runs other code from a string.
    """
    for number in INTERRUPTS:
        if is_default(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler)
    try:
        getattr(import_module(module), function)()
    except KeyboardInterrupt:
        _ignore_interrupts()
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        _ignore_interrupts()
        exec("")


def with_arguments(help_text: str, work: Callable[[Sequence[str]], None], arguments: Sequence[str] | None) -> None:
    """Do the work of a command without hydra; print its help instead for --help, or without arguments.

    Args:
        arguments: None: those of the command line.
    """
    from mdlm_cfg.app.errors import as_command

    given = list(sys.argv[1:] if arguments is None else arguments)
    with as_command():
        if not given or {"--help", "-h"} & set(given):
            print(help_text, end="")
        else:
            work(given)


def _ignore_interrupts() -> None:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


train = partial(process, "mdlm_cfg.app.cli", "train")
evaluate = partial(process, "mdlm_cfg.app.cli", "evaluate")
sample = partial(process, "mdlm_cfg.app.cli", "sample")
compare = partial(process, "mdlm_cfg.app.comparing")
