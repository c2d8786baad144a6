"""What studies share that draw samples: what they ask of a plan, how samples are drawn, and what these are kept by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.sampling.sampler import CHUNK, Sampler
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.cache import Keep
from mdlm_cfg.support.errors import UserError

Space = tuple[int, int, int]  # (N values, D dimensions, K classes)


def check_sampled(plan: Plan, space: Space, denoiser: Denoiser | None) -> None:
    """Refuse what a study of samples cannot answer.

    Args:
        plan: its findings are named by w alone: one number per strength, one kind.
        space: of the data.
        denoiser: the learned one, if there is one.

    Raises:
        UserError: a strength that is a schedule, several kinds, an unknown class or one twice, fewer than two samples
            per class, or a denoiser of another space.
    """
    for guidance in plan.guidances:
        _ = guidance.constant if not guidance.is_schedule else None  # refuses other rules than classifier-free guidance
        if guidance.is_schedule:
            raise UserError(
                f"w = {guidance.label} is a schedule, and a study of samples needs one number w, by which it names "
                "what it finds: give numbers, such as w=[0,1,2]; schedules go with data given as a table"
            )
    kinds = list(dict.fromkeys(str(guidance.kind) for guidance in plan.guidances))
    if len(kinds) > 1:
        raise UserError(f"guidances of the kinds {', '.join(kinds)} were given; a study of samples takes one kind")
    plan.check_classes(space[2])
    classes = plan.classes or ()
    if len(set(classes)) < len(classes):
        raise UserError(f"classes {list(classes)} must each be given once")
    if plan.num_samples < 2:
        raise UserError(f"num_samples = {plan.num_samples} is not enough: it must be at least 2 per class")
    if denoiser is not None and (own := (denoiser.num_tokens, denoiser.num_dims, denoiser.num_classes)) != space:
        raise UserError(
            f"the denoiser has (values, dimensions, classes) = {own}, and the data {space}: it was made for other data"
        )


@dataclass(frozen=True)
class Draw:
    """Some of the samples of one class at one strength by one denoiser: a piece of work for one process.

    It depends on nothing else that is asked for, and on no other piece: whichever process draws it, the samples are
    the same.

    Attributes:
        plan: of the study; denoiser, guidance, target_class: whose samples they are.
        sampler: the plan's own, or another one that is compared with it.
        names: what sets them apart: what they are for first, then the denoiser's name of a study that has several.
        chunk: which `CHUNK` of the plan's samples, from 0.
    """

    plan: Plan
    denoiser: Denoiser
    guidance: Guidance
    target_class: int
    sampler: Sampler
    names: tuple[str, ...]
    chunk: int = 0

    @property
    def num_samples(self) -> int:
        """How many."""
        return min(CHUNK, self.plan.num_samples - self.chunk * CHUNK)

    @property
    def key(self) -> tuple[Any, ...]:
        """Plain values that decide the samples, the denoiser's weights apart."""
        asked = (self.guidance.key(self.denoiser.num_dims), self.sampler.key, self.num_samples, self.chunk)
        return (*self.names, *asked, self.plan.seed, self.target_class)

    def make(self, on_step: Callable[[Tensor], None] | None = None) -> Tensor:
        """Samples (n, D) on the CPU: uint8 where the values fit, else int64; `on_step` as in `sample`."""
        more = (self.chunk,) if self.chunk else ()
        names = (*self.names[1:], *more)
        device = device_of(self.denoiser)
        generator = self.plan.generator(
            self.names[0],
            self.guidance,
            self.target_class,
            *names,
            num_dims=self.denoiser.num_dims,
            device=device,
        )
        asked = (self.denoiser, self.guidance, self.target_class, self.num_samples, generator)
        x = self.sampler.draw(*asked, on_step=on_step)
        return x.to("cpu", torch.uint8 if self.denoiser.num_tokens <= 256 else torch.int64)


def draws_of(
    plan: Plan,
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int,
    who: str = "",
    *,
    compared: Sampler | None = None,
) -> list[Draw]:
    """The pieces that the samples of one class at one strength are drawn in.

    Args:
        who: the denoiser's name, of a study that has several; "" otherwise. They draw independently.
        compared: a sampler in place of the plan's own.
    """
    names: tuple[str, ...] = ("samples", who) if who else ("samples",)
    if compared is not None:
        names = ("compared", who, compared.label)
    sampler = compared or plan.sampler
    chunks = range(math.ceil(plan.num_samples / CHUNK))
    return [Draw(plan, denoiser, guidance, target_class, sampler, names, chunk) for chunk in chunks]


def drawn(draws: Sequence[Draw], keep: Keep) -> Tensor:
    """The samples of all pieces, (n, D) on the CPU; those that were drawn before are kept ones."""
    return torch.cat([keep(draw.key, draw.make) for draw in draws])
