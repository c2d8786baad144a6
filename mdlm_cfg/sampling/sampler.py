"""Samplers of the guided chain: made once, drawn from, and with an exact law (theory, section 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end
from mdlm_cfg.chain.denoiser import Denoiser, check_class
from mdlm_cfg.chain.guidance import Guidance, effective_guidance
from mdlm_cfg.chain.policies import KindPolicy, Policy, RatePolicy, policy_of
from mdlm_cfg.chain.schedules import Grid, Schedule, Steps, check_steps, cosine, event_counts, linear, step_fractions
from mdlm_cfg.chain.steps import JUMPS, EventStep, JumpRule, Step, TimeStep
from mdlm_cfg.laws.rates import refuse_lost
from mdlm_cfg.laws.stepped import FrozenChain, freeze
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.laws.weights import check_weights
from mdlm_cfg.sampling.starts import refuse_masks, starts
from mdlm_cfg.support.errors import UserError

FIRST_HITTING, EVENT_LEAPING = "first_hitting", "event_leaping"
CHUNK = 1000  # samples that are drawn together; their seeds follow it, so another number gives other samples
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
        policy: which coordinates a step of events unmasks (theory, section 10), a name or an object; None is the order
            of the kind of guidance. First_hitting unmasks one at a time; event_leaping several, by the frozen rates.
        events: for event_leaping, in place of steps: how many coordinates every step unmasks.

    Raises:
        UserError: an unknown sampler or schedule; steps or a schedule that are missing, or that it does not take.
    """

    name: str = FIRST_HITTING
    steps: int | Grid | None = None
    schedule: Schedule | None = None
    jump: JumpRule | None = None
    policy: Policy | None = None
    events: int | None = None

    def __post_init__(self) -> None:
        if self.policy is not None:
            object.__setattr__(self, "policy", policy_of(self.policy))
        for what, value in (("policy", self.policy), ("events", self.events)):
            if value is not None and self.name not in ((FIRST_HITTING, EVENT_LEAPING)[what == "events" :]):
                raise UserError(
                    f"{self.name} takes no {what} (got {value}): only steps of a number of events do, such as those of "
                    f"{EVENT_LEAPING}"
                )
        if self.jump is None and self.name not in SAMPLERS:
            raise UserError(f"sampler {self.name!r} is unknown; choose one of {', '.join(SAMPLERS)}")
        if isinstance(self.schedule, str):
            object.__setattr__(self, "schedule", Schedule(self.schedule))
        if self.name == FIRST_HITTING:
            self._take_nothing()
            return
        if self.events is not None:
            if self.events < 1 or self.steps is not None or self.schedule is not None:
                raise UserError(
                    f"events = {self.events} must be at least 1, and stands in place of steps and a schedule: every "
                    "step unmasks that many coordinates"
                )
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
        if self.policy is not None:
            return f"{replace(self, policy=None).label}, {self.policy}"
        if self.events is not None:
            return f"{self.name}, {self.events} a step"
        if self.steps is None:
            return self.name
        if isinstance(self.steps, int):
            return f"{self.name}, {self.steps} step{'s' if self.steps > 1 else ''}, {self.schedule}"
        return f"{self.name}, {len(self.steps) - 1} steps on a grid"

    def describe(self) -> dict[str, Any]:
        """The sampler as plain values: `sampler`, `schedule` and `steps` (a number, a list of clock times, or None).

        And `policy` and `events`, where it has them.
        """
        steps = list(self.steps) if isinstance(self.steps, tuple) else self.steps
        more = {"policy": None if self.policy is None else str(self.policy), "events": self.events}
        return {
            "sampler": self.name, "schedule": None if self.schedule is None else str(self.schedule), "steps": steps,
            **{what: value for what, value in more.items() if value is not None},
        }  # fmt: skip

    def plan(self, num_dims: int) -> list[Step]:
        """The steps, in order.

        Raises:
            UserError: event-leaping on a grid that would leave masks.
        """
        if self.steps is None or self.jump is None:
            return [EventStep(count, self.policy or RatePolicy()) for count in self._counts(num_dims)]
        return [TimeStep(self.jump, u) for u in step_fractions(self.steps, self.schedule).tolist()]

    def _counts(self, num_dims: int) -> list[int]:
        """How many coordinates every step of events unmasks."""
        if self.steps is not None:
            return event_counts(self.steps, num_dims, self.schedule)
        each = self.events or 1
        return [min(each, num_dims - done) for done in range(0, num_dims, each)]

    def effective_guidance(self, guidance: Guidance) -> Guidance:
        """The guidance that its steps use; see `mdlm_cfg.chain.guidance.effective_guidance`."""
        return effective_guidance(guidance, self.policy)

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
        start: Tensor | None = None,
    ) -> Tensor:
        """Draw samples; see `sample`."""
        return self._run(denoiser, guidance, target_class, num_samples, generator, on_step, start, weighted=False)[0]

    def draw_weighted(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        target_class: int | None,
        num_samples: int,
        generator: torch.Generator | None = None,
        *,
        on_step: Callable[[Tensor], None] | None = None,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw samples and their log-weights, float64 (n,), towards the tilted law (theory, section 11)."""
        self.check_weighted(guidance)
        own = self if self.policy is not None else replace(self, policy=KindPolicy(guidance.kind))
        return own._run(denoiser, guidance, target_class, num_samples, generator, on_step, start, weighted=True)

    @checked_at_the_end()
    def _run(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        target_class: int | None,
        num_samples: int,
        generator: torch.Generator | None,
        on_step: Callable[[Tensor], None] | None,
        start: Tensor | None,
        *,
        weighted: bool,
    ) -> tuple[Tensor, Tensor]:
        """All steps: the finished states, and, if weighted, the log of the product of the Z_i on their way (else 0)."""
        check_class(target_class, denoiser.num_classes)
        self.check_finishes()
        if self.policy is not None:
            self.policy.check(denoiser.num_dims)
        mask_id, given = denoiser.num_tokens, self.effective_guidance(guidance)
        x, most = starts(denoiser, num_samples, start)
        log_weights = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if on_step is not None:
            on_step(x)
        for step in self.plan(most):
            before, log_rates = x, given.log_rates(denoiser, x, target_class)
            x = step.draw(before, log_rates, generator)
            if weighted:
                log_weights += torch.where(x != before, log_rates.logsumexp(dim=-1), 0.0).sum(dim=1)
            if on_step is not None:
                on_step(x)
        refuse_masks(x, mask_id, self.label)
        return x, log_weights

    @checked_at_the_end()
    def law(
        self, denoiser: Denoiser, guidance: Guidance, target_class: int | None, chain: FrozenChain | None = None
    ) -> Tensor:
        """The exact law of what `draw` draws, float64 (N,)*D, summing to 1.

        Args:
            chain: `freeze(denoiser, guidance, target_class)`, where other samplers have asked for it already; of use if
                it is of the guidance as this sampler's steps see it (`effective_guidance`).

        Raises:
            UserError: as `draw`, or more partial states or kernel entries than can be pushed.
        """
        if self.exact_in_time:
            return terminal_law(denoiser, guidance, target_class, self.policy)
        self.check_finishes()
        if self.policy is not None:
            self.policy.check(denoiser.num_dims)
        given = self.effective_guidance(guidance)
        if chain is None or chain.guidance != given:
            chain = freeze(denoiser, given, target_class)
        law = chain.law_after(self.plan(denoiser.num_dims))[(slice(0, denoiser.num_tokens),) * denoiser.num_dims]
        refuse_lost(law.sum(), target_class)
        return law

    def check_weighted(self, guidance: Guidance) -> None:
        """Raise UserError unless the weights of the paths have the tilted law."""
        if not self.exact_in_time:
            raise UserError(f"{self.label} carries no weights: only first_hitting does, which unmasks one at a time")
        check_weights(guidance)

    def check_finishes(self) -> None:
        """Raise UserError if a grid of clock times ends early: samples would hold masks."""
        if isinstance(self.steps, tuple) and self.steps[-1] != float("inf"):
            raise UserError("a grid of clock times must end at inf to sample: before that, masks are left")


def as_sampler(sampler: Sampler | str, steps: Steps | None = None, schedule: Schedule | str | None = None) -> Sampler:
    """A sampler by its name, steps and schedule; or itself, which has its own."""
    if not isinstance(sampler, Sampler):
        return Sampler(sampler, cast(Any, steps), cast(Any, schedule))
    if steps is not None or schedule is not None:
        raise UserError(f"{sampler.label} has its own steps and schedule: give them when you make it")
    return sampler
