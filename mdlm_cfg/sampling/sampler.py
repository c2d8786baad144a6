"""Samplers of the guided chain: made once, drawn from, and with an exact law (theory, sections 6 and 16 to 19)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end, read
from mdlm_cfg.chain.denoiser import Denoiser, check_class
from mdlm_cfg.chain.guidance import Guidance, effective_guidance
from mdlm_cfg.chain.policies import KindPolicy
from mdlm_cfg.chain.schedules import Schedule, Steps
from mdlm_cfg.chain.steps import Step
from mdlm_cfg.laws.corrections import correction_kernel
from mdlm_cfg.laws.rates import refuse_lost
from mdlm_cfg.laws.stepped import FrozenChain, freeze
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.laws.weights import check_weights, log_weights_of_step
from mdlm_cfg.sampling.families import (
    EVENT_LEAPING,
    FIRST_HITTING,
    REMDM,
    SAMPLED_CONFIDENCE,
    SAMPLERS,
    WITH_STEPS,
    Options,
)
from mdlm_cfg.sampling.starts import Start, refuse_masks, starts
from mdlm_cfg.support.arguments import Integers, checked
from mdlm_cfg.support.errors import UserError

__all__ = [
    "CHUNK",
    "EVENT_LEAPING",
    "FIRST_HITTING",
    "REMDM",
    "SAMPLED_CONFIDENCE",
    "SAMPLERS",
    "WITH_STEPS",
    "Sampler",
    "as_sampler",
]

CHUNK = 1000  # samples drawn together; seeds depend on it, so another number gives other samples


@dataclass(frozen=True)
class Sampler(Options):
    """How the guided chain is run: the kind and number of steps, their schedule, and what follows them.

    Choose a coordinate, then draw its value:

    - "first_hitting": one event at a time, exact in time; D denoiser calls per conditional.
    - "tau_leaping", "euler", "d_cfg": K steps in time.
    - "event_leaping": K steps, each with a given number of events.
    - "entropy_bound": in every step coordinates by rising entropy, the longest prefix with sum H - max H <= gamma
      (EB-Sampler, arXiv 2505.24857, in its order by entropy).

    Draw values for all coordinates, then choose which to keep, by the probability of what was drawn; ties are broken at
    random, and by position in the published codes (theory, sections 16 and 17):

    - "sampled_confidence": the `events` most probable, or as many as K steps on a schedule give. This is LLaDA's
      `low_confidence` remasking at temperature 1 (arXiv 2502.09992; its published code also has temperature 0, at which
      nothing is random) and, with a choice temperature, MaskGIT (arXiv 2202.04200).
    - "threshold": all with a probability of at least `threshold`, and the most probable in any case; "factor": the n
      most probable, n the largest with (n + 1)(1 - c_(n)) < factor (Fast-dLLM, arXiv 2505.22618, without its caches;
      its code has <= in place of <, and keeps one more where only the last candidate fails).

    Mask unmasked coordinates again (theory, section 18):

    - "remdm": K steps of ReMDM (arXiv 2503.00307), with a remasking that is "cap(0.2)", "rescale(0.5)", "loop(0.02)"
      or "forward_backward"; what differs from its code: `mdlm_cfg.chain.remasking`.

    Args:
        name: one of these; or a name of your own beside `jump`.
        steps: K, or, for time steps and event steps, a grid of clock times from 0 to inf.
        schedule: the noise schedule of K steps, or its name; None is linear, and cosine for event_leaping and
            sampled_confidence. A grid has none.
        jump: a jump rule of your own (log Z, u) -> J, for a sampler with time steps.
        policy: which coordinates an event step unmasks (theory, section 10), a name or an object; None is the order
            of the kind of guidance. First_hitting unmasks one at a time; event_leaping several, by the frozen rates.
            Decoders that choose coordinates themselves take only `Blocks`: the first block with a mask comes first, as
            in LLaDA's semi-autoregressive decoding, and no step goes beyond it.
        events: in place of steps: how many coordinates every step unmasks; or a list, one number for each step, which
            sums to the number of masked coordinates, such as the sizes of `InformationProfile.best`.
        choice_temperature: of sampled_confidence: t of the Gumbel noise t G added to ln c; default 0. annealed: whether
            it falls linearly, to 0 at the last step, as in MaskGIT, t (1 - (k + 1) / K) at step k.
        threshold, factor, gamma: see above; defaults 0.9, 1 and 0.1 (nats).
        remasking: of remdm, an object or its name; default cap(0.2).
        correction: moves that follow the steps (theory, section 19), a `Correction` or as it is written.

    Raises:
        UserError: an unknown sampler or schedule; options that are missing, out of range, or that it does not take.
    """

    @property
    def exact_in_time(self) -> bool:
        """Whether its law is the terminal law: no discretisation error by construction, and no correction."""
        return self.name == FIRST_HITTING and self.correction is None

    @property
    def is_adaptive(self) -> bool:
        """Whether the number of steps depends on the draws."""
        return self.family.adaptive

    @checked
    def plan(self, num_dims: int) -> Sequence[Step]:
        """The steps, in order; of an adaptive sampler the largest number of them.

        Raises:
            UserError: event-leaping on a grid that would leave masks.
        """
        return self.family.plan(self, num_dims)

    @checked
    def check(self, num_dims: int, num_masked: int | None = None) -> None:
        """Raise UserError unless the sampler works for D coordinates and leaves no masks.

        Args:
            num_masked: the number of coordinates that are masked at the start; None is all.
        """
        self.check_finishes()
        if self.policy is not None:
            self.policy.check(num_dims)
        if isinstance(self.events, tuple):
            self.counts(num_dims if num_masked is None else num_masked)
        if self.correction is not None:
            self.correction.check(num_dims)

    def effective_guidance(self, guidance: Guidance) -> Guidance:
        """The guidance that its steps use; see `mdlm_cfg.chain.guidance.effective_guidance`."""
        return effective_guidance(guidance, self.policy)

    @checked
    def calls(self, num_dims: int) -> int:
        """The number of denoiser calls per sample and conditional; for an adaptive sampler the largest one."""
        return len(self.plan(num_dims)) + (0 if self.correction is None else self.correction.calls(num_dims))

    @checked
    @checked_at_the_end()
    def expected_calls(
        self, denoiser: Denoiser, guidance: Guidance, target_class: int | None, chain: FrozenChain | None = None
    ) -> float:
        """The exact expected number of denoiser calls per sample and conditional (theory, section 17).

        Args:
            chain: as in `law`.

        Raises:
            UserError: as `law`, for an adaptive sampler; of others the number is the same for all samples.
        """
        self.check(denoiser.num_dims)
        self.check_guidance(guidance)
        check_class(target_class, denoiser.num_classes)
        if not self.is_adaptive:
            return float(self.calls(denoiser.num_dims))
        _, steps = self._chain(denoiser, guidance, target_class, chain).law_at_end(self.plan(denoiser.num_dims)[0])
        return read(steps[None])[0] + (0 if self.correction is None else self.correction.calls(denoiser.num_dims))

    @checked
    def num_rows(self, num_samples: int, num_dims: int, guidance: Guidance) -> int:
        """The number of denoiser rows (partial state, label) that a draw needs: its cost, for estimates of time."""
        return num_samples * self.calls(num_dims) * guidance.rows(num_dims)

    @checked
    @checked_at_the_end()
    def draw(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        target_class: int | None,
        num_samples: int,
        generator: torch.Generator | None = None,
        *,
        on_step: Callable[[Tensor], None] | None = None,
        start: Integers | None = None,
    ) -> Tensor:
        """Draw samples; see `sample`."""
        seen = None if on_step is None else lambda before, after, log_rates: on_step(after)
        begin = self._begin(denoiser, guidance, target_class, num_samples, start, on_step)
        return self._run(denoiser, guidance, target_class, begin, generator, seen)

    @checked
    @checked_at_the_end()
    def draw_weighted(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        target_class: int | None,
        num_samples: int,
        generator: torch.Generator | None = None,
        *,
        on_step: Callable[[Tensor], None] | None = None,
        start: Integers | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw samples and their log-weights ln W, float64 (n,), towards the tilted law (theory, section 11)."""
        self.check_weighted(guidance)
        own = self if self.policy is not None else replace(self, policy=KindPolicy(guidance.kind))
        begin = own._begin(denoiser, guidance, target_class, num_samples, start, on_step)
        log_weights = torch.zeros(len(begin.x), dtype=torch.float64, device=begin.x.device)

        def seen(before: Tensor, after: Tensor, log_rates: Tensor) -> None:
            log_weights.add_(log_weights_of_step(before, after, log_rates))
            if on_step is not None:
                on_step(after)

        return own._run(denoiser, guidance, target_class, begin, generator, seen), log_weights

    def _begin(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        target_class: int | None,
        num_samples: int,
        start: Tensor | None,
        on_step: Callable[[Tensor], None] | None,
    ) -> Start:
        """The states before the first step, after all arguments have been checked."""
        check_class(target_class, denoiser.num_classes)
        begin = starts(denoiser, num_samples, start)
        self.check(denoiser.num_dims, begin.most)
        self.check_guidance(guidance)
        if self.correction is not None:
            self.correction.check(denoiser.num_dims, begin.fewest)
        if on_step is not None:
            on_step(begin.x)
        return begin

    def _run(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        target_class: int | None,
        begin: Start,
        generator: torch.Generator | None,
        seen: Callable[[Tensor, Tensor, Tensor], None] | None,
    ) -> Tensor:
        """All steps, and the moves of a correction: the finished states.

        Args:
            seen: called after every step with the states before it, after it, and the log rates.
        """
        mask_id = denoiser.num_tokens
        log_rates_of = self.effective_guidance(guidance).rates_of(denoiser, target_class)
        x = begin.x
        free = x == mask_id
        for step in self.plan(begin.most):
            if self.is_adaptive and not read((x == mask_id).any()[None])[0]:
                break
            before = x
            log_rates = log_rates_of(x)
            x = step.draw(before, log_rates, generator)
            if not step.only_unmasks:  # coordinates known at the start stay
                x = torch.where(free, x, before)
            if seen is not None:
                seen(before, x, log_rates)
        refuse_masks(x, mask_id, self.label)
        if self.correction is not None:
            x = self.correction.draw(denoiser, guidance, target_class, x, free, generator)
        return x

    def check_guidance(self, guidance: Guidance) -> None:
        """Raise UserError if the correction has accept, and there is no tilted law."""
        if self.correction is not None and self.correction.accept:
            check_weights(guidance)

    @checked
    @checked_at_the_end()
    def law(
        self, denoiser: Denoiser, guidance: Guidance, target_class: int | None, chain: FrozenChain | None = None
    ) -> Tensor:
        """The exact law of what `draw` draws, float64 (N,)*D, summing to 1.

        Args:
            chain: `freeze(denoiser, guidance, target_class)`, if it was computed for other samplers already; used if
                its guidance is the one of this sampler's steps (`effective_guidance`).

        Raises:
            UserError: as `draw`, or more partial states or kernel entries than can be pushed.
        """
        self.check(denoiser.num_dims)
        self.check_guidance(guidance)
        law = self._law_of_steps(denoiser, guidance, target_class, chain)
        if self.correction is None:
            return law
        return correction_kernel(denoiser, guidance, target_class, self.correction).after(law)

    def _law_of_steps(
        self, denoiser: Denoiser, guidance: Guidance, target_class: int | None, chain: FrozenChain | None
    ) -> Tensor:
        """The law before any correction, (N,)*D."""
        if self.name == FIRST_HITTING:
            return terminal_law(denoiser, guidance, target_class, self.policy)
        law = self.partial_law(denoiser, guidance, target_class, chain)
        law = law[(slice(0, denoiser.num_tokens),) * denoiser.num_dims]
        refuse_lost(law.sum(), target_class)
        return law

    @checked
    @checked_at_the_end()
    def partial_law(
        self, denoiser: Denoiser, guidance: Guidance, target_class: int | None, chain: FrozenChain | None = None
    ) -> Tensor:
        """The law over partial states after all steps, before any correction, float64 (N+1,)*D; see `stepped_law`."""
        frozen = self._chain(denoiser, guidance, target_class, chain)
        plan = self.plan(denoiser.num_dims)
        return frozen.law_at_end(plan[0])[0] if self.is_adaptive else frozen.law_after(plan)

    def _chain(
        self, denoiser: Denoiser, guidance: Guidance, target_class: int | None, chain: FrozenChain | None
    ) -> FrozenChain:
        """The chain under the guidance of its steps: the given one if that is its guidance."""
        given = self.effective_guidance(guidance)
        return chain if chain is not None and chain.guidance == given else freeze(denoiser, given, target_class)

    def check_weighted(self, guidance: Guidance) -> None:
        """Raise UserError unless the weights of the paths lead to the tilted law."""
        if not self.exact_in_time:
            raise UserError(
                f"{self.label} has no path weights: only first_hitting, which unmasks one coordinate at a time, has "
                "them"
            )
        check_weights(guidance)

    def check_finishes(self) -> None:
        """Raise UserError if a grid of clock times ends early: samples would hold masks."""
        if isinstance(self.steps, tuple) and self.steps[-1] != float("inf"):
            raise UserError(
                f"steps = {list(self.steps)} must end at inf to sample: at any finite time some masks remain"
            )


def as_sampler(sampler: Sampler | str, steps: Steps | None = None, schedule: Schedule | str | None = None) -> Sampler:
    """A sampler by its name, steps and schedule; or itself, which has its own."""
    if not isinstance(sampler, Sampler):
        return Sampler(sampler, cast(Any, steps), cast(Any, schedule))
    if steps is not None or schedule is not None:
        raise UserError(f"{sampler.label} has its own steps and schedule: set them when you make it")
    return sampler
