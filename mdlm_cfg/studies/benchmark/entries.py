"""What the benchmark judges: an entry is a sampler, and the guidance that it is run with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.guidance_schedules import Interval, LinearRamp, Strength
from mdlm_cfg.chain.kinds import KINDS, Kind
from mdlm_cfg.chain.policies import POLICIES, Policy
from mdlm_cfg.chain.steps import JUMPS
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, FIRST_HITTING, Sampler
from mdlm_cfg.support.errors import UserError

Draw = Callable[[Denoiser, Guidance, int, int, torch.Generator], Tensor]  # denoiser, guidance, class, n, generator
Rule = Callable[[float], Guidance]
ALLOWED = (
    "a Sampler, a Policy, a Kind, a function of w that makes a Guidance, a function (denoiser, guidance, target_class, "
    "num_samples, generator) that draws samples, or an Entry"
)
NOISE_SCHEDULES = ("linear", "cosine")
STRENGTHS: dict[str, Callable[[float], Strength]] = {  # over the progress of unmasking
    "ramp": lambda w: LinearRamp(0.0, w),
    "late": lambda w: Interval(w, 0.5, 1.0),
    "early": lambda w: Interval(w, 0.0, 0.5),
}


@dataclass(frozen=True)
class Entry:
    """Something that samples, under a name.

    Args:
        name: in rankings and files.
        sampler: a `Sampler`, judged by its exact law; its number of steps, or of events a step, only says that it has
            one: it is set so that it makes as many calls as it may. Or a function that draws samples.
        guidance: from w to the guidance it is run with.
        own: whether it is somebody's own, beside what is built in.
    """

    name: str
    sampler: Sampler | Draw
    guidance: Rule = Guidance
    own: bool = True

    def at(self, calls: int, num_dims: int) -> Sampler | None:
        """The sampler with at most so many denoiser calls per conditional; None where it needs more, or only draws."""
        sampler = self.sampler
        if not isinstance(sampler, Sampler):
            return None
        if sampler.events is not None:
            sampler = replace(sampler, events=-(-num_dims // calls))
        elif isinstance(sampler.steps, int):
            sampler = replace(sampler, steps=calls)
        return sampler if sampler.calls(num_dims) <= calls else None

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return {"name": self.name, "own": self.own, "exact_law": isinstance(self.sampler, Sampler)}


def built_in() -> list[Entry]:
    """Every sampler, kind of guidance, noise schedule and policy of this package, and a few schedules of w."""
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
    return found


def _by_policy(policy: Policy) -> Sampler:
    return Sampler(EVENT_LEAPING, events=1, policy=policy)


def _scheduled(name: str, kind: Kind, w: float) -> Guidance:
    return Guidance(STRENGTHS[name](w), kind)


def entry_of(own: Any) -> Entry:
    """An entry from what somebody has: see `ALLOWED`. A kind is run by event-leaping, which ends in its own chain.

    Raises:
        UserError: anything else, or a class that cannot be made without arguments.
    """
    if isinstance(own, type):
        own = _made(own)
    if isinstance(own, Entry):
        return own
    if isinstance(own, Sampler):
        return Entry(own.name if own.policy is None else f"{own.name}, {own.policy}", own)
    if isinstance(own, Policy):
        return Entry(str(own), _by_policy(own))
    if isinstance(own, Kind):
        return Entry(str(own), Sampler(EVENT_LEAPING, 1), partial(Guidance, kind=own))
    if isinstance(own, list | tuple):
        raise UserError(f"{list(own)} are {len(own)} entries: study.own takes one; Python's benchmark() takes several")
    if not callable(own):
        raise UserError(f"{own!r} cannot be judged: give {ALLOWED}")
    name = getattr(own, "__name__", type(own).__name__)
    if _num_arguments(own) == 1:
        return Entry(name, Sampler(EVENT_LEAPING, 1), own)
    return Entry(name, own)


def _made(own: type) -> Any:
    try:
        return own()
    except TypeError as error:
        raise UserError(f"{own.__name__} cannot be made without arguments ({error}): give one that is made") from error


def _num_arguments(function: Callable[..., Any]) -> int:
    """How many arguments must be given."""
    parameters = inspect.signature(function).parameters.values()
    return len([p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)])
