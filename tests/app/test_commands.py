"""A command as a process: whenever an interrupt comes, it ends with the exit code of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdlm_cfg.app.commands import INTERRUPTED

ROOT = Path(__file__).parents[2]
ENTRIES = ("train", "eval", "compare", *map("mdlm_cfg.{}".format, ("sample", "verify", "app.pages", "app.dashboards")))
SLOW = {"hydra", "torch", "numpy", "omegaconf", "yaml", "lightning"}


@pytest.mark.parametrize(
    ("begin", "main", "code"),
    [
        ("raise KeyboardInterrupt", "pass", INTERRUPTED),
        ("pass", "raise KeyboardInterrupt", INTERRUPTED),
        ("pass", "exec('raise KeyboardInterrupt')", INTERRUPTED),
        ("pass", "\n try: exec('raise KeyboardInterrupt')\n except KeyboardInterrupt: sys.exit(2)", 2),
        ("pass", "os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", INTERRUPTED),
        ("pass", "os.kill(os.getpid(), signal.SIGHUP); time.sleep(9)", INTERRUPTED),
        ("import atexit; atexit.register(os.kill, os.getpid(), signal.SIGINT)", "pass", 0),
    ],
)
def test_a_process_ends_with_the_code_of_its_command(begin: str, main: str, code: int, tmp_path: Path) -> None:
    """Of an import, of the work, of code in a text, which Python remembers, and when all is done."""
    (tmp_path / "own.py").write_text(f"import os, signal, sys, time\n{begin}\ndef main(): {main}\n")
    call = "from mdlm_cfg.app.commands import process; process('own')"
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    ended = subprocess.run([sys.executable, "-c", call], env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
    assert ended.returncode == code
    assert ended.stderr.split() == [b"interrupted"] * (code == INTERRUPTED)


def test_nothing_slow_is_imported_before_interrupts_are_heard() -> None:
    """An interrupt of the imports of hydra and torch, which take up to seconds, had a traceback."""
    code = f"""
import runpy, sys
from unittest.mock import Mock
from mdlm_cfg.app import commands
commands.import_module = Mock()
for name in {ENTRIES}:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
print(commands.import_module.call_count, *sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    called, *modules = ended.stdout.split()
    assert int(called) == len(ENTRIES) and not SLOW & set(modules)
