"""Handlers of signals do not stay behind, and every interrupt is one of Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from commands import run

from mdlm_cfg.app import cli, comparing
from mdlm_cfg.app.commands import INTERRUPTED
from mdlm_cfg.support.signals import INTERRUPTS, errors_of_interrupts, interrupts_alike, interrupts_given_back


@pytest.fixture(autouse=True)
def python_s_own_handlers() -> Iterator[None]:
    """As a terminal starts a process; nohup and make in the background leave some signals ignored."""
    with interrupts_given_back():
        for one in INTERRUPTS:
            signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)
        yield


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in INTERRUPTS]


def test_handlers_are_given_back_also_after_an_error() -> None:
    before = handlers()
    with pytest.raises(KeyboardInterrupt), interrupts_given_back():
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt
    assert handlers() == before and signal.SIG_IGN not in before


def test_another_thread_sets_none() -> None:
    reached = []

    def work() -> None:
        with interrupts_given_back():
            reached.append(True)
        reached.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reached == [True, True]


@pytest.mark.parametrize("number", INTERRUPTS)
def test_every_interrupt_is_one_of_ctrl_c_and_a_signal_that_is_sent_twice_is_one(number: signal.Signals) -> None:
    """As timeout(1) sends it, and a shell whose terminal is closed; the second would end what the first one began."""
    before = handlers()
    with interrupts_alike():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        for again in {number, signal.SIGHUP} - {signal.SIGINT}:
            signal.raise_signal(again)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_what_is_ignored_or_handled_stays_so() -> None:
    with interrupts_given_back():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # by nohup
        signal.signal(signal.SIGTERM, own := lambda *_: None)
        with interrupts_alike():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and signal.getsignal(signal.SIGTERM) == own


@pytest.mark.parametrize("command", ["train", "eval", "sample", "compare"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_ends_by_any_interrupt_as_by_ctrl_c(
    command: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def come(*_: object) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise ValueError("of compiled code") from None

    if command == "compare":
        monkeypatch.setattr(comparing, "_compare", come)
        with pytest.raises(SystemExit) as ended:
            comparing.main(["runs"])
        assert ended.value.code == INTERRUPTED
    else:
        function = cli.WORK[command].partition(".")[2]
        monkeypatch.setattr(cli, "_imported", lambda module: SimpleNamespace(**{function: come}))
        assert run(command) == INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_an_error_without_an_interrupt_is_that_error() -> None:
    with interrupts_alike():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(ValueError, match="own"), errors_of_interrupts():
            raise ValueError("own")
