"""The fast operations of this machine."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial

import torch

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
SPEEDUP = 1.2  # of bfloat16 over float32, from which it is worth the rounding


def keep_freed_memory() -> bool:
    """Make glibc serve large blocks from memory that it keeps, instead of mapping them; returns False without glibc.

    Otherwise large activations are mapped and page-faulted again at every step. Training on a CPU is several times
    faster this way; the process returns no memory until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(key, value) == 1 for key, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**30), (M_TOP_PAD, 2**28))
    )


def ask_the_driver_alone() -> None:
    """Without a GPU, make torch query CUDA and not NVML, whose library it would search for at every step.

    Lightning selects NVML (PYTORCH_NVML_BASED_CUDA_CHECK), so that a process may fork after the query; without a GPU
    there is nothing to lose. torch's optimisers query in every step, which takes 0.1 ms.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def bf16_is_fast(device: torch.device | str) -> bool:
    """Whether bfloat16 matrix products on this device are fast enough, compared with float32, to be worth it."""
    return bf16_speedup(device) >= SPEEDUP


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 if `bf16_is_fast` on this device, otherwise float32."""
    return torch.bfloat16 if bf16_is_fast(device) else torch.float32


def bf16_speedup(device: torch.device | str) -> float:
    """The speed of bfloat16 products relative to float32 ones on a device, measured once in under a second.

    Many processors support them; only a measurement shows whether in hardware or by emulation, up to 30 times slower.
    """
    device = torch.device(device)
    return _speedup(device.type, device.index)


@lru_cache
def _speedup(kind: str, index: int | None) -> float:
    device = torch.device(kind) if index is None else torch.device(kind, index)
    side = 256 if kind == "cpu" else 4096
    pairs = {dtype: torch.ones(2, side, side, device=device, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    wait = _wait(kind)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine several threads would wait for each other
    try:
        times = {dtype: _seconds(partial(torch.matmul, *pair), wait) for dtype, pair in pairs.items()}
    except (RuntimeError, TypeError):  # a device without bfloat16
        return 0.0
    finally:
        torch.set_num_threads(threads)
    return times[torch.float32] / times[torch.bfloat16]


def _seconds(work: Callable[[], object], wait: Callable[[], None], budget: float = 0.15) -> float:
    """The shortest of the runs that fit into a budget of seconds; at least three, after one to warm up."""
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < 4 or time.perf_counter() - start < budget:
        began = time.perf_counter()
        work()
        wait()
        found.append(time.perf_counter() - began)
    return min(found[1:])


def _wait(kind: str) -> Callable[[], None]:
    """A function that waits until a kind of device has finished its work."""
    module = getattr(torch, kind, None)
    return getattr(module, "synchronize", lambda: None)
