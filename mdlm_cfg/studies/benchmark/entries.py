"""Entries of the benchmark: an entry is a sampler with its guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from mdlm_cfg.chain.corrections import Correction
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.guidance_schedules import Interval, LinearRamp, Strength
from mdlm_cfg.chain.kinds import KINDS, Kind
from mdlm_cfg.chain.policies import POLICIES, Policy
from mdlm_cfg.chain.rules import Rule
from mdlm_cfg.chain.steps import JUMPS, OF_JUMPS
from mdlm_cfg.sampling.adapters import GenerateSampler, SchedulerSampler
from mdlm_cfg.sampling.families import REMDM, SAMPLED_CONFIDENCE
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, FIRST_HITTING, Sampler
from mdlm_cfg.support.annotations import needs_alone, parameters_of
from mdlm_cfg.support.by_value import value_key
from mdlm_cfg.support.errors import UserError

Draw = Callable[..., Tensor]  # of denoiser, guidance, class, n, generator and perhaps calls=
GuidanceOf = Callable[[float], Guidance]
ALLOWED = (
    "a Sampler, a Policy, a Kind, a Rule, a function of w that makes a Guidance, a function (denoiser, guidance, "
    "target_class, num_samples, generator) that draws samples and may take calls=, a jump rule of (log_z, u), or an "
    "Entry"
)
NUM_GIVEN = 5  # arguments of a function that draws
CALLS = "calls"
NOISE_SCHEDULES = ("linear", "cosine")
STRENGTHS: dict[str, Callable[[float], Strength]] = {  # over the progress of unmasking
    "ramp": lambda w: LinearRamp(0.0, w),
    "late": lambda w: Interval(w, 0.5, 1.0),
    "early": lambda w: Interval(w, 0.0, 0.5),
}

DECODERS = (Sampler(SAMPLED_CONFIDENCE, 1), Sampler("threshold"), Sampler("entropy_bound"), Sampler(REMDM, 1))
CORRECTED = (EVENT_LEAPING, SAMPLED_CONFIDENCE)  # run with half of the calls, and corrected with the other half


@dataclass(frozen=True)
class Entry:
    """A named sampler.

    Args:
        name: in rankings and files.
        sampler: a `Sampler`, judged by its exact distribution; its number of steps, or of events per step, only shows
            that it has one: the number is set so that it makes all allowed calls, including those of its correction. Or
            a function that draws samples; if it has an argument `calls`, it gets the allowed number. A policy, kind or
            rule is treated as without an entry, and takes no guidance beside it.
        guidance: from w to its guidance.
        halves: whether the moves of its correction are set too: its steps make half of the calls, and at most D.
        own: whether it is a user's own and not built in.
    """

    name: str
    sampler: Sampler | Draw
    guidance: GuidanceOf = Guidance
    own: bool = True
    halves: bool = False

    def at(self, calls: int, num_dims: int) -> Sampler | Draw:
        """The sampler for this number of denoiser calls per conditional, if it can be set; else itself."""
        sampler = self.sampler
        if not isinstance(sampler, Sampler):
            return partial(sampler, calls=calls) if self.takes_calls else sampler
        correction = sampler.correction
        if correction is not None:
            if self.halves:
                correction = replace(correction, moves=calls - min(num_dims, -(-calls // 2)))
                sampler = replace(sampler, correction=correction if correction.moves else None)
            calls = max(1, calls - correction.calls(num_dims))
        if isinstance(sampler.events, int):
            return replace(sampler, events=-(-num_dims // calls))
        return replace(sampler, steps=calls) if isinstance(sampler.steps, int) else sampler

    @property
    def takes_calls(self) -> bool:
        """Whether it is a function with an unbound parameter `calls`, the number of calls it may make."""
        if isinstance(self.sampler, Sampler) or "calls" in getattr(self.sampler, "keywords", {}):
            return False
        return "calls" in parameters_of(self.sampler)

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return {"name": self.name, "own": self.own, "exact_law": isinstance(self.sampler, Sampler)}


def built_in() -> list[Entry]:
    """Every sampler, kind of guidance, noise schedule and policy of this package, and a few schedules of w.

    A decoder has its own order or remasking, so it is run under one kind of guidance.
    """
    found = []
    for kind in KINDS.values():
        found.append(Entry(f"{FIRST_HITTING}, {kind}", Sampler(), partial(Guidance, kind=kind), own=False))
        for name in (*JUMPS, EVENT_LEAPING):
            for schedule in NOISE_SCHEDULES:
                sampler = Sampler(name, 1, schedule)  # type: ignore[arg-type]
                found.append(Entry(f"{name}, {kind}, {schedule}", sampler, partial(Guidance, kind=kind), own=False))
        for name in STRENGTHS:
            rule = partial(_scheduled, name, kind)
            found.append(Entry(f"{EVENT_LEAPING}, {kind}, {name}", Sampler(EVENT_LEAPING, 1), rule, own=False))
    for name in POLICIES:
        # the chain of `normalized` guidance is that of the uniform order
        kind = KINDS["normalized" if name == "uniform" else "rate"]
        found.append(Entry(f"policy {name}", _by_policy(POLICIES[name]()), partial(Guidance, kind=kind), own=False))
    for sampler in DECODERS:
        names = [sampler.name, *map(str, (sampler.threshold, sampler.gamma, sampler.remasking))]
        found.append(Entry(" ".join(name for name in names if name != "None"), sampler, own=False))
    for name in CORRECTED:
        sampler = Sampler(name, 1, correction=Correction())
        found.append(Entry(f"{name}, corrected", sampler, own=False, halves=True))
    return found


def _by_policy(policy: Policy) -> Sampler:
    return Sampler(EVENT_LEAPING, events=1, policy=policy)


def _scheduled(name: str, kind: Kind, w: float) -> Guidance:
    return Guidance(STRENGTHS[name](w), kind)


def entry_of(own: Any) -> Entry:
    """An entry from any of the allowed objects: see `ALLOWED`.

    Kinds and rules are run by event-leaping, which converges to their own chain.

    Raises:
        UserError: anything else.
    """
    if isinstance(own, Entry):
        if isinstance(own.sampler, Policy | Kind | Rule):
            return replace(entry_of(own.sampler), name=own.name, own=own.own)
        return own
    if isinstance(own, Sampler):
        schedule = None if own.schedule == own.family.schedule() else own.schedule
        decides = (schedule, *own.traits, own.policy, own.correction)  # the number of calls is set
        return Entry(", ".join([own.name, *map(str, filter(None, decides))]), own)
    if isinstance(own, Policy):
        return Entry(str(own), _by_policy(own))
    if isinstance(own, Kind):
        return Entry(str(own), Sampler(EVENT_LEAPING, 1), partial(Guidance, kind=own))
    if isinstance(own, Rule):
        return Entry(str(own), Sampler(EVENT_LEAPING, 1), partial(Guidance, rule=own))
    if isinstance(own, type) or not callable(own):
        raise UserError(f"{own!r} cannot be an entry: give {ALLOWED}")
    name = _name_of(own)
    if needs_alone(own, OF_JUMPS):
        return entry_of(Sampler(name, 1, jump=own))
    if _num_arguments(own) == 1:
        return Entry(name, Sampler(EVENT_LEAPING, 1), own)
    if not _draws(own):
        raise UserError(
            f"{name} cannot be an entry, as it takes {', '.join(parameters_of(own)) or 'no arguments'}: give {ALLOWED}"
        )
    return Entry(name, own)


def _name_of(own: Any) -> str:
    """The name of a function, with the arguments that are bound to it: "mine(calls=4)"."""
    if isinstance(own, partial):
        bound = [*map(_word, own.args), *(f"{name}={_word(value)}" for name, value in own.keywords.items())]
        return f"{_name_of(own.func)}({', '.join(bound)})"
    if isinstance(own, SchedulerSampler | GenerateSampler):
        return own.name or _name_of(own.make if isinstance(own, SchedulerSampler) else own.generate)
    return str(getattr(own, "__name__", type(own).__name__))


def _word(value: Any) -> str:
    """A bound argument as text, never an address."""
    return _name_of(value) if callable(value) else value if isinstance(value, str) else value_key(value)


def _draws(function: Callable[..., Any]) -> bool:
    """Whether a function has the signature of one that draws samples."""
    parameters = list(parameters_of(function).values())
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != CALLS]
    needed = [p for p in parameters if p.default is p.empty and p.kind == p.KEYWORD_ONLY and p.name != CALLS]
    has_all = any(p.kind == p.VAR_POSITIONAL for p in parameters) or len(by_place) >= NUM_GIVEN
    return has_all and not needed and sum(p.default is p.empty for p in by_place) <= NUM_GIVEN


def _num_arguments(function: Callable[..., Any]) -> int:
    """How many arguments must be given."""
    parameters = parameters_of(function).values()
    return len([p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)])
