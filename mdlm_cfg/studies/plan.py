"""The plan of a study, made once by the command and passed on as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mdlm_cfg.chain.denoiser import Denoiser, check_class, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.memory import memory_allowed
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.support.seeds import MAX_SEED, generator_for


def refuse_namesakes(what: str, names: Mapping[Any, str]) -> None:
    """Raise UserError if two different things have the same name: a report could not distinguish them.

    Args:
        what: the things in words, plural. names: of every thing.
    """
    seen: set[str] = set()
    for name in names.values():
        if name in seen:
            raise UserError(f"two different {what} have the name {name!r}; give each a name of its own")
        seen.add(name)


@dataclass(frozen=True)
class Plan:
    """Guidances, a sampler, and the number of samples and their classes.

    Args:
        guidances: each strength and kind once.
        sampler: how samples are drawn.
        num_samples: n, per guidance and class.
        seed: of everything that is drawn.
        classes: z; None leaves them to the study: class 0 of a table, every class of images.

    Raises:
        UserError: no guidance, or one twice; no samples; a sampler that would leave masks.
    """

    guidances: tuple[Guidance, ...]
    sampler: Sampler
    num_samples: int = 10_000
    seed: int = 0
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.guidances:
            raise UserError("no guidance strength w was given; give at least one, such as w=[0,1,2]")
        for k, guidance in enumerate(self.guidances):
            if guidance in self.guidances[:k]:
                raise UserError(f"guidance strength w = {guidance.label} was given twice; give each once")
        refuse_namesakes("kinds of guidance", {guidance.kind: str(guidance.kind) for guidance in self.guidances})
        refuse_namesakes("guidances", {g: f"w = {g.label} ({g.kind})" for g in self.guidances})
        object.__setattr__(self, "num_samples", whole_number("num_samples", self.num_samples))
        object.__setattr__(self, "seed", whole_number("seed", self.seed, 0, MAX_SEED))
        self.sampler.check_finishes()
        if self.classes is not None:
            if not self.classes:
                raise UserError("no class was given; give at least one, or null for the default")
            object.__setattr__(self, "classes", tuple(whole_number("a class", k, 0) for k in self.classes))

    @property
    def strongest(self) -> Guidance:
        """The guidance of the largest number; the first one if there are only schedules."""
        numbers = [guidance for guidance in self.guidances if not guidance.is_schedule]
        return max(numbers, key=lambda guidance: guidance.one_strength, default=self.guidances[0])

    @property
    def drawn(self) -> str:
        """How samples are drawn, in words."""
        return f"by {self.sampler.label}, guidance of the kind “{self.guidances[0].kind}”, seed {self.seed}"

    def check_classes(self, num_classes: int) -> None:
        """Raise UserError unless every class exists."""
        for k in self.classes or ():
            check_class(k, num_classes)

    def check_dims(self, num_dims: int) -> None:
        """Raise UserError unless every strength and the sampler fit D coordinates and each other.

        Also if the samples of one class at one strength need more memory than is available, at one byte per value.
        """
        allowed = memory_allowed()
        if self.num_samples * num_dims > allowed:
            raise UserError(
                f"{self.num_samples} samples of {num_dims} values need at least "
                f"{self.num_samples * num_dims / 2**30:.3g} GiB for each class and strength, more than the "
                f"{allowed / 2**30:.3g} GiB that this process may have: draw fewer"
            )
        self.sampler.check(num_dims)
        for guidance in self.guidances:
            guidance.table(num_dims)
            self.sampler.check_guidance(guidance)

    def generator(
        self,
        what: str,
        guidance: Guidance,
        target_class: int,
        *more: int | str,
        num_dims: int | None = None,
        of: Denoiser | None = None,
    ) -> torch.Generator:
        """The generator of one purpose from the seed and the values that decide the draw.

        Args:
            what: the purpose. more: further values. num_dims: D; the values of a schedule depend on it.
            of: the denoiser to sample from, which gives D and the generator's device; None: the CPU.
        """
        key = guidance.key(of.num_dims if of is not None else num_dims)
        device = "cpu" if of is None else device_of(of)
        return generator_for(what, self.seed, *key, target_class, *more, device=device)

    def describe(self, num_dims: int | None = None) -> dict[str, Any]:
        """The plan as plain values; for D coordinates, with every guidance's strengths w_0, ..., w_{D-1}."""
        guidances = [
            g.describe() | ({} if num_dims is None else {"strengths": g.table(num_dims)}) for g in self.guidances
        ]
        return {
            "guidances": guidances,
            **self.sampler.describe(),
            "num_samples": self.num_samples,
            "seed": self.seed,
            "classes": None if self.classes is None else list(self.classes),
        }
