"""Samplers of the guided chain: made once, drawn from, and with an exact law (theory, section 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, check_class, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.masking import all_masked
from mdlm_cfg.chain.schedules import Grid, Schedule, Steps, check_steps, cosine, event_counts, linear, step_fractions
from mdlm_cfg.chain.steps import JUMPS, EventStep, JumpRule, Step, TimeStep
from mdlm_cfg.laws.rates import refuse_lost
from mdlm_cfg.laws.stepped import law_after
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.support.errors import UserError

FIRST_HITTING, EVENT_LEAPING = "first_hitting", "event_leaping"
SAMPLERS = (FIRST_HITTING, *JUMPS, EVENT_LEAPING)


@dataclass(frozen=True)
class Sampler:
    """How the guided chain is run: which steps, how many of them, on which schedule.

    Args:
        name: "first_hitting" (one event at a time: exact in time; D denoiser calls per conditional), "tau_leaping",
            "euler" or "d_cfg" (K steps of a length), "event_leaping" (K steps of a number of events); or a name of your
            own beside `jump`.
        steps: for all but first_hitting: the number of steps K, or a grid of clock times from 0 to inf.
        schedule: the noise schedule of K steps, or its name; None is linear, and cosine for event_leaping. A grid has
            none.
        jump: a jump rule of your own (log Z, u) -> J, for a sampler that makes steps of a length.

    Raises:
        UserError: an unknown sampler or schedule; steps or a schedule that are missing, or that it does not take.
    """

    name: str = FIRST_HITTING
    steps: int | Grid | None = None
    schedule: Schedule | None = None
    jump: JumpRule | None = None

    def __post_init__(self) -> None:
        if self.jump is None and self.name not in SAMPLERS:
            raise UserError(f"sampler {self.name!r} is unknown; choose one of {', '.join(SAMPLERS)}")
        if isinstance(self.schedule, str):
            object.__setattr__(self, "schedule", Schedule(self.schedule))
        if self.name == FIRST_HITTING:
            self._take_nothing()
            return
        if self.steps is None:
            raise UserError(f"{self.name} needs steps: a number of steps, or a grid of clock times from 0 to inf")
        object.__setattr__(self, "steps", check_steps(cast(Steps, self.steps)))
        if not isinstance(self.steps, int):
            if self.schedule is not None:
                raise UserError(
                    f"schedule {self.schedule} has no use beside a grid of clock times, which says when the steps are"
                )
        elif self.schedule is None:
            object.__setattr__(self, "schedule", cosine() if self.name == EVENT_LEAPING else linear())
        if self.jump is None and self.name in JUMPS:
            object.__setattr__(self, "jump", JUMPS[self.name])

    def _take_nothing(self) -> None:
        for what, value in (("steps", self.steps), ("schedule", self.schedule)):
            if value is not None:
                raise UserError(
                    f"first_hitting takes no {what} (got {value}): it makes one step per coordinate, and no time error"
                )

    @property
    def exact_in_time(self) -> bool:
        """Whether it makes no discretisation error by construction."""
        return self.name == FIRST_HITTING

    @property
    def label(self) -> str:
        """The sampler for people, such as "tau_leaping, 8 steps, cosine"."""
        if self.steps is None:
            return self.name
        if isinstance(self.steps, int):
            return f"{self.name}, {self.steps} step{'s' if self.steps > 1 else ''}, {self.schedule}"
        return f"{self.name}, {len(self.steps) - 1} steps on a grid"

    def describe(self) -> dict[str, Any]:
        """The sampler as plain values: `sampler`, `schedule` and `steps` (a number, a list of clock times, or None)."""
        steps = list(self.steps) if isinstance(self.steps, tuple) else self.steps
        return {
            "sampler": self.name, "schedule": None if self.schedule is None else str(self.schedule), "steps": steps,
        }  # fmt: skip

    def plan(self, num_dims: int) -> list[Step]:
        """The steps, in order.

        Raises:
            UserError: event-leaping on a grid that would leave masks.
        """
        if self.steps is None:
            return [EventStep(1)] * num_dims
        if self.jump is None:
            return [EventStep(count) for count in event_counts(self.steps, num_dims, self.schedule)]
        return [TimeStep(self.jump, u) for u in step_fractions(self.steps, self.schedule).tolist()]

    def calls(self, num_dims: int) -> int:
        """How many times it asks the denoiser, per conditional."""
        return len(self.plan(num_dims))

    def num_rows(self, num_samples: int, num_dims: int, guidance: Guidance) -> int:
        """How many rows (partial state, label) a draw asks the denoiser for: its cost, for estimates of time."""
        return num_samples * self.calls(num_dims) * (2 if any(guidance.table(num_dims)) else 1)

    def draw(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        target_class: int | None,
        num_samples: int,
        generator: torch.Generator | None = None,
        *,
        on_step: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Draw samples; see `sample`."""
        check_class(target_class, denoiser.num_classes)
        self._check_finishes()
        mask_id = denoiser.num_tokens
        x = all_masked(num_samples, denoiser.num_dims, mask_id, device_of(denoiser))
        if on_step is not None:
            on_step(x)
        for step in self.plan(denoiser.num_dims):
            x = step.draw(x, guidance.log_rates(denoiser, x, target_class), generator)
            if on_step is not None:
                on_step(x)
        left = int((x == mask_id).any(dim=1).sum())
        if left:
            raise UserError(
                f"{left} of {num_samples} samples hold masks after the last step of {self.label}: the denoiser gave "
                "them nowhere to go"
            )
        return x

    def law(self, denoiser: Denoiser, guidance: Guidance, target_class: int | None) -> Tensor:
        """The exact law of what `draw` draws, float64 (N,)*D, summing to 1.

        Raises:
            UserError: as `draw`, or more partial states or kernel entries than can be pushed.
        """
        if self.exact_in_time:
            return terminal_law(denoiser, guidance, target_class)
        self._check_finishes()
        law = law_after(denoiser, guidance, target_class, self.plan(denoiser.num_dims))
        law = law[(slice(0, denoiser.num_tokens),) * denoiser.num_dims]
        refuse_lost(law.sum(), target_class)
        return law

    def _check_finishes(self) -> None:
        if isinstance(self.steps, tuple) and self.steps[-1] != float("inf"):
            raise UserError("a grid of clock times must end at inf to sample: before that, masks are left")


def as_sampler(sampler: Sampler | str, steps: Steps | None = None, schedule: Schedule | str | None = None) -> Sampler:
    """A sampler by its name, steps and schedule; or itself, which has its own."""
    if not isinstance(sampler, Sampler):
        return Sampler(sampler, cast(Any, steps), cast(Any, schedule))
    if steps is not None or schedule is not None:
        raise UserError(f"{sampler.label} has its own steps and schedule: give them when you make it")
    return sampler


def sample(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    num_samples: int,
    sampler: Sampler | str = FIRST_HITTING,
    steps: Steps | None = None,
    schedule: Schedule | str | None = None,
    *,
    generator: torch.Generator | None = None,
    on_step: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Draw samples of one class from the guided reverse chain.

    Args:
        denoiser: the conditionals; exact or learned. The samples are drawn on its device.
        guidance: strength w (0 is conditional; gamma = 1 + w in other codes) and kind.
        target_class: z in 0..K-1; None draws from the whole mixture, unguided.
        num_samples: n.
        sampler: a name ("first_hitting", "tau_leaping", "euler", "d_cfg", "event_leaping"), or a `Sampler`.
        steps: for all but first_hitting: the number of steps K, or your own grid of clock times from 0 to inf.
        schedule: the noise schedule of K steps, or its name; default linear, and cosine for event_leaping.
        generator: the only source of randomness, on the denoiser's device; the same seed gives the same samples.
        on_step: called with the partial states (n, D) at the start and after every step: the trajectory.

    Returns:
        int64 (n, D), values 0..N-1: nothing is left masked.

    Raises:
        UserError: an unknown sampler or class, missing or useless steps, a grid that would leave masks, a denoiser that
            breaks its contract.
    """
    made = as_sampler(sampler, steps, schedule)
    return made.draw(denoiser, guidance, target_class, num_samples, generator, on_step=on_step)


def stepped_law(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    sampler: Sampler | str,
    steps: Steps | None = None,
    schedule: Schedule | str | None = None,
) -> Tensor:
    """The exact law of a sampler's steps over partial states (theory, section 6); also of a grid that ends early.

    Args:
        sampler, steps, schedule: as in `sample`; mass is left on masks if a grid ends before inf.

    Returns:
        float64 (N+1,)*D over partial states, index N of an axis being the mask; `[:N, ..., :N]` holds finished samples.

    Raises:
        UserError: an unknown sampler or class, or a kernel too large to apply.
    """
    made = as_sampler(sampler, steps, schedule)
    if made.exact_in_time:
        raise UserError("first_hitting makes no time error: its law is terminal_law")
    return law_after(denoiser, guidance, target_class, made.plan(denoiser.num_dims))
