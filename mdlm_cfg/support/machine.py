"""What the machine at hand does fast."""

from __future__ import annotations

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from memory it keeps, instead of mapping them; False where that is not glibc.

    Large activations are mapped and page-faulted anew at every step otherwise. Training on a CPU is several times
    faster for it; the process gives no memory back until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(key, value) == 1 for key, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**30), (M_TOP_PAD, 2**28))
    )


def bf16_is_fast() -> bool:
    """Whether products of bfloat16 matrices are faster than of float32 ones: on GPUs, and on CPUs with AMX.

    Other CPUs can do them, some in hardware too, but more slowly than in float32.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return False
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
