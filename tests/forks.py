"""Commands in a process of their own, forked: they start at once, and can be killed like any other."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import commands

import mdlm_cfg.app.eval_command
import mdlm_cfg.app.train_command  # noqa: F401 (a child has what its parent has imported, which takes seconds)

DIVERGED = re.compile("the loss is (NaN|infinite)|weights are not finite")


def fork(work: Callable[[], int], log: Path) -> int:
    """The process id of a child that does some work and exits with its code; what it says goes to a file."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = open(1, "w", 1)  # noqa: SIM115, the process ends with it
        sys.stderr = open(2, "w", 1)  # noqa: SIM115, the process ends with it
        code = work()
    except KeyboardInterrupt:
        code = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def code_of(child: int) -> int:
    """Wait for the end of a child: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_forked(command: str, *arguments: str, log: Path) -> int:
    """The exit code of train.py or eval.py, run to its end in a child."""
    return code_of(fork(lambda: commands.run(command, *arguments), log))


def ended_at(seconds: float, number: int, command: str, *arguments: str, log: Path) -> int:
    """The exit code of train.py or eval.py that was sent a signal after some seconds."""
    child = fork(lambda: commands.run(command, *arguments), log)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.002)
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
    os.kill(child, number)
    return code_of(child)


def complaint(command: str, *arguments: str, folder: Path) -> str | None:
    """What is wrong with the end of a command that is given nonsense, in a new folder; None if nothing is.

    It may do what it is asked for, or refuse it in one sentence and leave no file. A run that diverges has begun, and
    stays.
    """
    log = folder.with_name(f"{folder.name}.log")
    folder.mkdir()

    def work() -> int:
        os.chdir(folder)
        return commands.run(command, *arguments)

    code = code_of(fork(work, log))
    said = log.read_text()
    left = [path for path in folder.rglob("*") if path.is_file()]
    log.unlink()
    shutil.rmtree(folder)
    if code == 0:
        return None
    errors = [line for line in said.splitlines() if line.startswith("error")]
    if code != 2 or len(errors) != 1 or "Traceback" in said:
        return f"exit code {code}: {said[-300:]}"
    return f"left {left[0]}: {errors[0]}" if left and not DIVERGED.search(errors[0]) else None
