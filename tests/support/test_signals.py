"""Handlers of signals do not stay behind."""

from __future__ import annotations

import signal
import threading

import pytest

from mdlm_cfg.support.signals import INTERRUPTS, interrupts_given_back


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
