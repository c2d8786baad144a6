"""Samples in pieces that any process can draw, and the values that determine each piece."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.sampling.sampler import CHUNK, Sampler
from mdlm_cfg.studies.plan import Plan


@dataclass(frozen=True)
class Draw:
    """Some of the samples of one class at one strength by one denoiser: a piece of work for one process.

    It depends on no other setting or piece, so the samples are the same
    whichever process draws it.

    Attributes:
        plan: of the study; denoiser, guidance, target_class: whose samples they are.
        sampler: the plan's own, or another one for comparison.
        names: distinguish the samples: their purpose first, then the denoiser's name if a study has several.
        chunk: which `CHUNK` of the plan's samples, from 0.
        start: the initial partial state, D values and masks; None is the all-masked state.
    """

    plan: Plan
    denoiser: Denoiser
    guidance: Guidance
    target_class: int
    sampler: Sampler
    names: tuple[str, ...]
    chunk: int = 0
    start: tuple[int, ...] | None = None

    @property
    def num_samples(self) -> int:
        """How many."""
        return min(CHUNK, self.plan.num_samples - self.chunk * CHUNK)

    @property
    def key(self) -> tuple[Any, ...]:
        """Plain values that determine the samples, apart from the denoiser's weights."""
        settings = (self.guidance.key(self.denoiser.num_dims), self.sampler.key, self.num_samples, self.chunk)
        where = () if self.start is None else (self.start,)
        return (*self.names, *settings, self.plan.seed, self.target_class, *where)

    def make(self, on_step: Callable[[Tensor], None] | None = None) -> Tensor:
        """Samples (n, D) on the CPU: uint8 where the values fit, else int64; `on_step` as in `sample`."""
        more = (self.chunk,) if self.chunk else ()
        names = (*self.names[1:], *more)
        generator = self.plan.generator(self.names[0], self.guidance, self.target_class, *names, of=self.denoiser)
        arguments = (self.denoiser, self.guidance, self.target_class, self.num_samples, generator)
        start = None if self.start is None else torch.tensor(self.start)
        x = self.sampler.draw(*arguments, on_step=on_step, start=start)
        return x.to("cpu", torch.uint8 if self.denoiser.num_tokens <= 256 else torch.int64)


def draws_of(
    plan: Plan,
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int,
    who: str = "",
    *,
    compared: Sampler | None = None,
    start: Tensor | None = None,
) -> list[Draw]:
    """The pieces in which the samples of one class at one strength are drawn.

    Args:
        who: the denoiser's name, if a study has several, which draw independently; else "".
        compared: a sampler in place of the plan's own.
        start: int64 (D,), the initial partial state; None is the all-masked state.
    """
    names: tuple[str, ...] = ("samples", who) if who else ("samples",)
    if compared is not None:
        names = ("compared", who, compared.label)
    sampler = compared or plan.sampler
    chunks = range(math.ceil(plan.num_samples / CHUNK))
    state = None if start is None else tuple(start.tolist())
    return [Draw(plan, denoiser, guidance, target_class, sampler, names, chunk, state) for chunk in chunks]
