"""The memory that a training step needs, estimated beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.memory import memory_allowed
from mdlm_cfg.training.data.base import DiffusionData
from mdlm_cfg.training.objectives import Objective

BYTES = 4  # of a float32
COPIES = 5.5  # of a row's (D, N) numbers at a step's peak, measured: logits, log-probabilities, their gradients
SHARE = 0.7  # of the memory that a step may take
MOST_ON_CPU = 2**33  # bytes; more, smaller batches are faster there


def step_bytes(rows: int, num_dims: int, num_tokens: int) -> float:
    """Bytes taken at the peak of a step by the network's output for `rows` partial states, (D, N) numbers each."""
    return BYTES * COPIES * rows * num_dims * num_tokens


def check_step_memory(data: DiffusionData, objective: Objective, accelerator: str = "auto") -> None:
    """Refuse batches whose steps would not fit into memory, before any work.

    Args:
        data: set up.
        objective: gives the number of partial states on which it calls the network.
        accelerator: of the trainer, by Lightning's name.

    Raises:
        UserError: the steps would not fit; the message proposes a batch size that does.
    """
    num_dims = math.prod(data.grid_shape)
    limit = _limit(accelerator)
    batches: Mapping[str, tuple[int, int]] = {
        "batch_size": (data.batch_size, objective.num_rows(data.batch_size)),
        "eval_batch_size": (data.eval_batch_size, 2 * data.eval_batch_size),
    }
    too_large = {
        name: max(1, int(size * limit / needed))
        for name, (size, rows) in batches.items()
        if (needed := step_bytes(rows, num_dims, data.num_tokens)) > limit
    }
    if too_large:
        name = next(iter(too_large))
        size, rows = batches[name]
        proposed = " ".join(f"data.{key}={value}" for key, value in too_large.items())
        raise UserError(
            f"a step on {size} examples of {num_dims:,} positions with {data.num_tokens:,} values each needs about "
            f"{step_bytes(rows, num_dims, data.num_tokens) / 2**30:.3g} GiB, more than the {limit / 2**30:.3g} GiB "
            f"allowed here: give {proposed}, or use fewer values"
        )


def _limit(accelerator: str) -> float:
    """Bytes that a step may take on the trainer's device."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return SHARE * torch.cuda.get_device_properties(0).total_memory
    return min(SHARE * memory_allowed(), MOST_ON_CPU)
