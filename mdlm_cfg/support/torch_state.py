"""Global state of torch, which a user's own code may change: the jobs of a sweep share a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_as_it_is() -> Iterator[None]:
    """A context that restores torch's default type, autocast, gradient mode and determinism at its end."""
    dtype = torch.get_default_dtype()
    has_gradients = torch.is_grad_enabled()
    is_cast = torch.is_autocast_enabled("cpu")
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(has_gradients)
        torch.set_autocast_enabled("cpu", is_cast)
        if torch.are_deterministic_algorithms_enabled() != is_deterministic:  # setting it imports modules for seconds
            torch.use_deterministic_algorithms(is_deterministic, warn_only=only_warns)
