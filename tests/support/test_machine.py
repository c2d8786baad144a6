"""What is fast is measured, on the device that is asked about."""

from __future__ import annotations

import time

import pytest
import torch

from mdlm_cfg.support import machine


@pytest.fixture(autouse=True)
def fresh() -> None:
    machine._speedup.cache_clear()


def test_the_measurement_is_short_and_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.perf_counter()
    speedup = machine.bf16_speedup("cpu")
    assert speedup > 0 and time.perf_counter() - start < 5  # about 0.4 s on a machine that does nothing else
    monkeypatch.setattr(machine, "_seconds", lambda *_: pytest.fail("measured again"))
    assert machine.bf16_speedup(torch.device("cpu")) == speedup


def test_the_number_of_threads_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        machine.bf16_speedup("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("seconds_of_bf16", [0.5, 0.99, 3.0])
def test_the_clock_decides_and_no_list_of_capabilities(seconds_of_bf16: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # says nothing about the CPU

    def seconds(work: object, wait: object) -> float:
        return seconds_of_bf16 if work.args[0].dtype == torch.bfloat16 else 1.0  # type: ignore[attr-defined]

    monkeypatch.setattr(machine, "_seconds", seconds)
    assert machine.bf16_speedup("cpu") == pytest.approx(1 / seconds_of_bf16)
    assert machine.bf16_is_fast("cpu") == (seconds_of_bf16 == 0.5)
    assert machine.fast_dtype("cpu") == (torch.bfloat16 if seconds_of_bf16 == 0.5 else torch.float32)


def test_a_device_that_can_not_do_it_is_not_fast_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: object, wait: object) -> float:
        if work.args[0].dtype == torch.bfloat16:  # type: ignore[attr-defined]
            raise RuntimeError("not implemented for BFloat16")
        return 1.0

    monkeypatch.setattr(machine, "_seconds", refuse)
    assert not machine.bf16_is_fast("cpu")


def test_the_shortest_time_counts() -> None:
    pauses = iter([0.03, 0.02, 0.0, 0.02])
    found = machine._seconds(lambda: time.sleep(next(pauses)), lambda: None, budget=0.0)
    assert found < 0.015


@pytest.mark.parametrize("has_gpu", [False, True])
def test_where_there_is_no_gpu_no_step_looks_for_one(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as lightning sets it
    with monkeypatch.context() as faked:
        faked.setattr(torch.cuda, "is_available", lambda: has_gpu)
        machine.ask_the_driver_alone()
    looked: list[int] = []
    monkeypatch.setattr(torch.cuda, "_is_compiled", lambda: True)
    monkeypatch.setattr(torch.cuda, "_cached_device_count", None)
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: looked.append(1) or 0)
    torch.cuda.is_available()
    assert bool(looked) == has_gpu
