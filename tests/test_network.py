"""The tests themselves use no network: who tries, fails."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import conftest
import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "example.com"])
def test_another_machine_is_refused_and_noted(host: str) -> None:
    with pytest.raises(OSError, match="no network"):
        socket.create_connection((host, 80), timeout=1)
    with pytest.raises(OSError, match="no network"):
        urllib.request.urlopen(f"http://{host}/", timeout=1)
    assert set(conftest.ASKED) == {host}
    conftest.ASKED.clear()  # or this test would fail


@pytest.mark.slow
def test_importing_everything_asks_for_nothing() -> None:
    root = Path(__file__).parent.parent
    names = [
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((root / "mdlm_cfg").rglob("*.py"))
    ]
    script = (
        "import importlib, sys\n"
        "sys.addaudithook(lambda event, _: event.startswith('socket.') and event not in "
        "('socket.__new__', 'socket.gethostname') and sys.exit(event))\n"
        f"[importlib.import_module(name) for name in {names}]"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
