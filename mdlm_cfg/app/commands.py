"""Every command as a process of its own: interrupts are handled alike from its start to its end.

Imports happen inside, because they take up to a few seconds.
"""

from __future__ import annotations

import signal
import sys
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


def _ignore_interrupts() -> None:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


train = partial(process, "mdlm_cfg.app.cli", "train")
evaluate = partial(process, "mdlm_cfg.app.cli", "evaluate")
sample = partial(process, "mdlm_cfg.app.cli", "sample")
compare = partial(process, "mdlm_cfg.app.comparing")
