"""Makes tests/helpers.py importable, keeps small tests on one thread, which is faster, and lets none use a network."""

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored

HERE = {
    None,
    "",
    "localhost",
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    socket.gethostname(),
}  # processes of this machine talk to each other
ASKED: list[str] = []


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Python tells an audit hook of every connection, also of those that other packages make."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in HERE and not str(host).startswith("127."):
        ASKED.append(str(host))
        raise OSError(f"the tests use no network, and {host} was asked for")


sys.addaudithook(_refuse_network)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """A test fails that asked for another machine, whatever it made of the refusal."""
    ASKED.clear()
    yield
    assert ASKED == []
