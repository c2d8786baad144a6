"""Random generators: one function from a purpose to its generator."""

from __future__ import annotations

import hashlib

import torch

MAX_SEED = 2**32 - 1  # numpy's


def seed_for(*key: int | float | str) -> int:
    """A seed that depends only on the key: its purpose, a seed, a rank, a strength, a class, ...

    Different keys have different seeds, and the same key has the same seed in every process: Python's `hash` ensures
    neither (hash(-1.0) == hash(-2.0), and strings are salted). Equal numbers are the same key: 2 and 2.0.

    Args:
        key: numbers and strings; put the words first, so that no two uses can collide.
    """
    plain = tuple([int(part) if isinstance(part, float) and part.is_integer() else part for part in key])
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return int.from_bytes(digest[:4], "little")  # a CPU generator uses 32 bits of its seed


def generator_for(*key: int | float | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of `seed_for` the key.

    Args:
        device: of the generator, such as a denoiser's.
    """
    return torch.Generator(device).manual_seed(seed_for(*key))
