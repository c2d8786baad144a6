"""Makes tests and docs importable, keeps small tests on one thread, which is faster, and lets none use a network.

And what several directories read: a small trained run, which is made once.
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "docs")]
torch.set_num_threads(1)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every command that a test starts compiles the package anew
sys.dont_write_bytecode = False  # or pytest rewrites the assertions of every file anew: half of the collection
logging.getLogger().addHandler(logging.NullHandler())  # or a library's first record ties a handler to one test's stderr
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored

HERE = {None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname()}  # what runs here
ASKED: list[str] = []


def _refuse_others(host: Any) -> None:
    host = host.decode() if isinstance(host, bytes) else host
    if host not in HERE and not str(host).startswith("127."):
        ASKED.append(str(host))
        raise OSError(f"the tests use no network, and {host} was asked for")


def _guarded(function: Callable[..., Any], place: int) -> Callable[..., Any]:
    """A function of sockets that is only called for this machine; `place` is its argument with the address."""

    def call(*arguments: Any, **more: Any) -> Any:
        address = arguments[place]
        if isinstance(address, tuple) or place == 0:  # else a file's name: of this machine
            _refuse_others(address[0] if isinstance(address, tuple) else address)
        return function(*arguments, **more)

    return call


socket.getaddrinfo = _guarded(socket.getaddrinfo, 0)
socket.socket.connect = _guarded(socket.socket.connect, 1)  # type: ignore[method-assign]
socket.socket.connect_ex = _guarded(socket.socket.connect_ex, 1)  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """A test fails that asked for another machine, whatever it made of the refusal."""
    ASKED.clear()
    yield
    assert ASKED == []


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A test fails after which a signal would find another handler than before: the next Ctrl-C could go unheard."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    after = [signal.getsignal(number) for number in numbers]
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)  # for the tests to come
    assert after == before


@pytest.fixture(scope="module", autouse=True)
def short_reports(request: pytest.FixtureRequest) -> Iterator[None]:
    """In tests/app, and of docs: pictures of one pixel, few numbers of steps, and the decay of two strengths.

    The others take more time than the rest of a report.

    Every file is there all the same. A file of tests that need whole reports overrides this fixture.
    """
    if request.path.parent.name != "app" and request.path.stem != "test_docs":
        yield
        return
    from mdlm_cfg.app import evaluation  # which takes seconds to import
    from mdlm_cfg.studies import own_model, report
    from mdlm_cfg.studies.decay import DecayStudy
    from mdlm_cfg.studies.samplers import Samplers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "sections_of", partial(evaluation.sections_of, backend="none"))
        for study in (own_model, report):
            patch.setattr(study, "Samplers", partial(Samplers, (2, 3)))
        patch.setattr(report, "DecayStudy", partial(DecayStudy, (0.0, 2.0)))
        yield


@pytest.fixture(scope="module", autouse=True)
def short_panels(request: pytest.FixtureRequest) -> Iterator[None]:
    """But in tests of the panel: two strengths beside the plan's, for its laws take most of a table's report."""
    panel = sys.modules.get("mdlm_cfg.studies.panel")  # a test that draws one has imported it
    if panel is None or request.path.stem in ("test_panel", "test_page"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panel, "STRENGTHS", (0.0, 8.0))
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a module that was trained for an epoch on the small table of `harness`."""
    from harness import small_data, small_module, small_trainer

    folder = tmp_path_factory.mktemp("run")
    small_trainer(folder, epochs=1).fit(small_module(small_data()), datamodule=small_data())
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A folder of synthetic digits, 8 x 8: class k has k bright columns, and everything else is noise."""
    from idx_files import write_striped

    write_striped(tmp_path / "MNIST" / "raw")
    return str(tmp_path)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the toy in one dimension, which was judged: for commands that read it or add to it."""
    from commands import TOY, run  # which takes seconds to import

    folder = tmp_path_factory.mktemp("runs")
    assert run("train", *TOY, "logger=csv", f"runs={folder}") == 0
    return folder
