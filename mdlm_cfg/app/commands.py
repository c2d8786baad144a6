"""Every command as a process of its own: an interrupt is the same from its first moment to its last.

What a command needs is imported inside, which takes up to seconds.
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from importlib import import_module

from mdlm_cfg.support.signals import INTERRUPTS, is_default

INTERRUPTED = 130  # the exit code


def process(module: str, function: str = "main") -> None:
    """Call a function of a module, as all that this process does; an interrupt at any time ends it with `INTERRUPTED`.

    Once it has ended, what is left is the end of Python, which takes a part of a second: interrupts are ignored then,
    or the exit code would be that of a signal. So it would be where an interrupt came while code in a text was run, as
    `dataclasses` does: Python remembers it until other code in a text is run.
    """
    for number in INTERRUPTS:
        if is_default(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler)
    try:
        getattr(import_module(module), function)()
    except KeyboardInterrupt:
        _hear_no_more()
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        _hear_no_more()
        exec("")


def _hear_no_more() -> None:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


train = partial(process, "mdlm_cfg.app.cli", "train")
evaluate = partial(process, "mdlm_cfg.app.cli", "evaluate")
sample = partial(process, "mdlm_cfg.app.cli", "sample")
compare = partial(process, "mdlm_cfg.app.comparing")
