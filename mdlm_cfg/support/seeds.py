"""Random generators: one function from a purpose to its generator."""

from __future__ import annotations

import hashlib

import torch

MAX_SEED = 2**32 - 1  # numpy's


def generator_for(*key: int | float | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the key alone: what it is for, a seed, a rank, a strength, a class, ...

    Two different keys have different streams, and the same key the same stream in every process: Python's `hash` offers
    neither (hash(-1.0) == hash(-2.0), and strings are salted). Numbers that are equal are the same key: 2 and 2.0.

    Args:
        key: numbers and strings; keep the words first, so that no two uses can meet.
        device: of the generator, as a denoiser says it.
    """
    plain = tuple(int(part) if isinstance(part, float) and part.is_integer() else part for part in key)
    digest = hashlib.sha256(repr(plain).encode()).digest()
    # a CPU generator uses 32 bits of its seed
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:4], "little"))
