"""Every registered sampler with every setting, and its law by the oracle."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mdlm_cfg.chain.corrections import Correction
from mdlm_cfg.chain.policies import POLICIES
from mdlm_cfg.sampling.sampler import SAMPLERS, Sampler
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.verify.oracle import chains, decoders, policies
from mdlm_cfg.verify.worlds import Strength, World

SETTINGS: tuple[Mapping[str, Any], ...] = (  # each sampler is tried with each setting, and keeps those it takes
    {},
    {"steps": 1},
    {"steps": 3},
    {"steps": 2, "schedule": "exponential"},
    {"steps": 3, "schedule": "cosine"},
    {"steps": [0.0, 0.4, 1.3, math.inf]},
    {"events": 1},
    {"events": 2},
    {"events": 1, "choice_temperature": 0.5},
    {"steps": 2, "choice_temperature": 1.0, "annealed": True},
    {"threshold": 0.6},
    {"factor": 0.7},
    {"gamma": 0.5},
    {"gamma": 2.0},
    *({"steps": 3, "remasking": name} for name in ("cap(0)", "rescale(0.5)", "forward_backward", "loop(0.1)")),
    {"correction": Correction(1, 2)},
    {"correction": Correction(2, 2)},
    {"correction": Correction(2, 2, accept=True)},
    {"correction": Correction(2, 1, parallel=True)},
    {"correction": Correction(1, 3, scan="sequential")},
    {"correction": Correction(1, 2, scan="lowest_confidence")},
    {"steps": 2, "correction": Correction(1, 2)},
)


def samplers_of(name: str) -> list[Sampler]:
    """The sampler of a name with each setting it takes, without a policy."""
    made: list[Sampler] = []
    for settings in SETTINGS:
        try:
            sampler = Sampler(name, **settings)
        except (UserError, TypeError):
            continue
        if sampler not in made:
            made.append(sampler)
    return made


def registered_samplers(num_dims: int) -> Iterator[tuple[str, list[Sampler]]]:
    """Every name of the registry with its samplers of D coordinates."""
    for name in SAMPLERS:
        made = samplers_of(name)
        yield name, [sampler for sampler in made if sampler.correction is None or sampler.correction.size <= num_dims]


def with_policies() -> list[Sampler]:
    """Samplers of events under every registered policy, one and two coordinates at a time."""
    one = [Sampler(policy=name) for name in POLICIES]  # type: ignore[arg-type]
    return one + [Sampler("event_leaping", events=2, policy=name) for name in POLICIES]  # type: ignore[arg-type]


def strength_of(sampler: Sampler, number: Strength, schedule: Strength, place: int) -> Strength:
    """One of two strengths; with a correction always the number."""
    return schedule if place % 2 and sampler.correction is None else number


def shares_of(sampler: Sampler) -> list[float]:
    """The shares of masked coordinates that its steps unmask, from the oracle."""
    if isinstance(sampler.steps, tuple):
        return chains.grid_fractions(list(sampler.steps))
    assert sampler.schedule is not None and isinstance(sampler.steps, int)
    return chains.fractions(sampler.schedule.name, sampler.steps, sampler.schedule.end)


def enumerated_law(sampler: Sampler, world: World, strength: Strength, kind: str) -> np.ndarray | None:
    """The sampler's terminal law by the oracle; None where the oracle does not know the sampler."""
    law = _law_of_steps(replace(sampler, correction=None), world, strength, kind)
    if law is None or sampler.correction is None:
        return law
    kernel = _move(sampler.correction, world, strength, kind)
    if kernel is None:
        return None
    flat = law.flatten()
    for _ in range(sampler.correction.moves):
        flat = flat @ kernel
    return flat.reshape(law.shape)


def enumerated_calls(sampler: Sampler, world: World, strength: Strength) -> float | None:
    """The oracle's expected number of steps, for a decoder that it knows and without a correction."""
    kernel = None if sampler.correction else _decoder(sampler, world, strength)
    return None if kernel is None else decoders.decoded(*world.shape, kernel)[1]


def _law_of_steps(sampler: Sampler, world: World, strength: Strength, kind: str) -> np.ndarray | None:
    n, d = world.shape
    rho = world.chain(strength).rates.__getitem__
    finished = (slice(0, n),) * d
    events = sampler.events
    if isinstance(events, tuple):
        return None
    if sampler.policy is not None:
        return policies.law_by_paths(rho, n, d, str(sampler.policy), events or 1)[0]
    if sampler.name == "first_hitting":
        return world.chain(strength, kind).terminal_by_orders()
    if sampler.name == "event_leaping" and events is not None:
        chain = world.chain(strength, kind)
        return chain.law_after([chain.event_kernel(events)] * math.ceil(d / events))[finished]
    if sampler.name in ("tau_leaping", "euler", "d_cfg", "event_leaping"):
        return world.chain(strength, kind).stepped(sampler.name, shares_of(sampler))[finished]
    if sampler.name == "remdm":
        kernels = _remasking_kernels(sampler, world, strength)
    elif sampler.name == "sampled_confidence" and sampler.steps is not None and not sampler.choice_temperature:
        counts = chains.event_counts(shares_of(sampler), d)
        kernels = [decoders.sampled_confidence(rho, n, count) for count in counts]
    else:
        kernel = _decoder(sampler, world, strength)
        return None if kernel is None else decoders.decoded(n, d, kernel)[0]
    return None if kernels is None else decoders.to_dense(decoders.law_after((n,) * d, kernels), n, d)


def _decoder(sampler: Sampler, world: World, strength: Strength) -> decoders.Kernel | None:
    """The step of a decoder that repeats one step until nothing is masked; None for any other sampler."""
    n, _ = world.shape
    rho = world.chain(strength).rates.__getitem__
    if sampler.name == "sampled_confidence" and isinstance(sampler.events, int) and not sampler.choice_temperature:
        return decoders.sampled_confidence(rho, n, sampler.events)
    if sampler.name == "threshold" and sampler.threshold is not None:
        return decoders.threshold(rho, n, sampler.threshold)
    if sampler.name == "factor" and sampler.factor is not None:
        return decoders.factor(rho, n, sampler.factor)
    if sampler.name == "entropy_bound" and sampler.gamma is not None:
        return decoders.entropy_bound(rho, n, sampler.gamma)
    return None


def _remasking_kernels(sampler: Sampler, world: World, strength: Strength) -> list[decoders.Kernel] | None:
    written = re.fullmatch(r"(cap|rescale|forward_backward)(?:\((.*)\))?", str(sampler.remasking))
    if written is None or sampler.schedule is None or not isinstance(sampler.steps, int):
        return None
    steps = sampler.steps
    times = [sampler.schedule.end * (1 - k / steps) for k in range(steps + 1)]
    alphas = [chains.alpha(sampler.schedule.name, t) for t in times]
    rho = world.chain(strength).rates.__getitem__
    return decoders.remdm_kernels(rho, world.shape[0], alphas, written[1], float(written[2] or 0))


def _move(correction: Correction, world: World, strength: Strength, kind: str) -> np.ndarray | None:
    """The kernel of one move; None where the oracle does not know it."""
    if correction.scan != "random" or correction.policy is not None:
        return None
    n, d = world.shape
    rho = world.chain(strength).rates.__getitem__
    policy = "uniform" if kind == "normalized" else "rate"
    if correction.accept:
        return decoders.accepted_correction_matrix(rho, n, d, correction.size, policy)
    if correction.parallel:
        return decoders.correction_matrix(decoders.at_once(rho, n, d), n, d, correction.size)

    def refill(state: chains.State) -> np.ndarray:
        return policies.law_by_paths(rho, n, d, policy, start=state)[0]

    return decoders.correction_matrix(refill, n, d, correction.size)
