"""Exact laws, and numbers computed from them, against the oracle's enumeration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from mdlm_cfg.chain.denoiser import conditionals
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.policies import POLICIES
from mdlm_cfg.compare.calibration import calibrated_strengths
from mdlm_cfg.compare.likelihood import exact_likelihood
from mdlm_cfg.compare.path_kl import path_kl
from mdlm_cfg.compare.profile import exact_information_profile
from mdlm_cfg.laws.in_time import law_at
from mdlm_cfg.laws.push import visit_law
from mdlm_cfg.laws.slices import slice_denoiser
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.benchmark.targets import TARGETS
from mdlm_cfg.verify.checks import Check, difference
from mdlm_cfg.verify.oracle import chains, policies, tables
from mdlm_cfg.verify.samplers import enumerated_calls, enumerated_law, registered_samplers, strength_of
from mdlm_cfg.verify.worlds import Strength, World, guidance_of, number_strength, numpy_generator, schedule_strength

GROUP = "laws"
MILD = 3.0  # the strength up to which the oracle's matrix exponential is precise
IN_TIME = 1e-11  # and, per unit of rate * time, the loss of its repeated squaring:
ROUNDING = 1e-15
FLAT = 1e-9  # a smaller slope, in nats per unit of strength, is rounding
law_difference = partial(difference, GROUP)


def conditional_checks(world: World, seed: int) -> Iterator[Check]:
    """The denoiser's conditionals of every partial state."""
    n, d = world.shape
    states = [state for level in range(d) for state in map(tuple, Lattice(n, d).tokens(level).tolist())]
    for label, place in ((world.target_class, 0), (None, 1)):
        found = conditionals(world.denoiser, torch.tensor(states), label).exp().numpy()
        masked = (np.array(states) == n)[..., None]
        truth = np.array([world.ask(state)[place] for state in states])
        yield law_difference("conditionals", world.label, np.where(masked, found, 0), np.where(masked, truth, 0))


def terminal_checks(world: World, seed: int) -> Iterator[Check]:
    """The terminal law of every kind of guidance, for a number and for a schedule."""
    for kind in KINDS:
        for strength in (number_strength(world, seed), schedule_strength(world, seed)):
            found = terminal_law(world.denoiser, guidance_of(strength, kind), world.target_class)
            truth = world.chain(strength, kind).terminal_by_orders()
            yield law_difference(f"terminal law, {kind}", f"{world.label}, {strength.label}", found, truth)
        unguided = chains.Chain(lambda state: (world.ask(state)[1],) * 2, *world.shape, 0.0, str(kind))
        found = terminal_law(world.denoiser, Guidance(2.0, kind), None)  # type: ignore[arg-type]
        yield law_difference(f"terminal law, {kind}", f"{world.label}, no class", found, unguided.terminal_by_orders())


def policy_checks(world: World, seed: int) -> Iterator[Check]:
    """The terminal law of every policy, and the moments of its path weights."""
    for strength in (number_strength(world, seed), schedule_strength(world, seed)):
        rho = world.chain(strength).rates.__getitem__
        for name in POLICIES:
            case = f"{world.label}, {strength.label}, {name}"
            law, first, second = policies.law_by_paths(rho, *world.shape, name)
            guidance = guidance_of(strength)
            found = terminal_law(world.denoiser, guidance, world.target_class, name)
            yield law_difference("terminal law, policies", case, found, law)
            if guidance.is_schedule:
                continue
            weights = tilted_weights(world.denoiser, guidance, world.target_class, name)
            yield law_difference("path weights: weighted law", case, weights.law, first / first.sum())
            moments = [weights.log_normalizer, weights.log_second_moment]
            logs = [math.log(first.sum()), math.log(second.sum())]
            yield law_difference("path weights: moments", case, moments, logs)


def visit_checks(world: World, seed: int) -> Iterator[Check]:
    """The probability of visiting each partial state."""
    for kind in KINDS:
        strength = number_strength(world, seed)
        levels = visit_law(world.denoiser, guidance_of(strength, kind), world.target_class)
        truth = world.chain(strength, kind).visits()
        found = Lattice(*world.shape).to_dense(levels)
        yield law_difference(f"visits, {kind}", f"{world.label}, {strength.label}", found, truth, 1e-10)


def time_checks(world: World, seed: int) -> Iterator[Check]:
    """The law at clock times."""
    w = min(number_strength(world, seed).ours, MILD)
    strength = Strength(f"w={w:g}", w, w)
    taus = numpy_generator("times", seed, world.number).uniform(0.01, 3, size=2).tolist()
    for kind in KINDS:
        chain = world.chain(strength, kind)
        fastest = max(sum(chain.totals(state).values()) for state in chain.states)
        laws = law_at(world.denoiser, guidance_of(strength, kind), world.target_class, taus)
        for tau, law in zip(taus, laws):
            case = f"{world.label}, {strength.label}, tau={tau:.3f}"
            tolerance = IN_TIME + ROUNDING * fastest * tau
            yield law_difference(f"law in time, {kind}", case, law, chain.law_at(tau), tolerance)


def sampler_checks(world: World, seed: int) -> Iterator[Check]:
    """The law of every registered sampler that the oracle knows, with every setting, and its number of calls."""
    strengths = number_strength(world, seed), schedule_strength(world, seed)
    for name, made in registered_samplers(world.shape[1]):
        for place, sampler in enumerate(made):
            strength = strength_of(sampler, *strengths, place)
            case = f"{world.label}, {strength.label}, {sampler.label}"
            for kind in KINDS:
                truth = enumerated_law(sampler, world, strength, kind)
                if truth is not None:
                    found = sampler.law(world.denoiser, guidance_of(strength, kind), world.target_class)
                    yield law_difference(f"law of {name}, {kind}", case, found, truth)
            if (calls := enumerated_calls(sampler, world, strength)) is not None:
                ours = sampler.expected_calls(world.denoiser, guidance_of(strength), world.target_class)
                yield law_difference("expected calls", case, ours, calls)


def several_at_a_time_checks(world: World, seed: int) -> Iterator[Check]:
    """The law of unmasking two coordinates at a time under every policy."""
    strength = number_strength(world, seed)
    for name in POLICIES:
        sampler = Sampler("event_leaping", events=2, policy=name)  # type: ignore[arg-type]
        truth = enumerated_law(sampler, world, strength, "rate")
        assert truth is not None
        found = sampler.law(world.denoiser, guidance_of(strength), world.target_class)
        yield law_difference("law of event_leaping, policies", f"{world.label}, {strength.label}, {name}", found, truth)


def slice_checks(world: World, seed: int) -> Iterator[Check]:
    """The terminal law of the chain that starts with one coordinate known."""
    n, d = world.shape
    if d < 2:
        return
    rng = numpy_generator("slice", seed, world.number)
    strength = number_strength(world, seed)
    i = int(rng.integers(d))
    v = int(rng.integers(n))
    state = chains.put((n,) * d, i, v)
    rho = world.chain(strength).rates.__getitem__
    truth = policies.law_by_paths(rho, n, d, "rate", start=state)[0].take(v, axis=i)
    found = terminal_law(slice_denoiser(world.denoiser, torch.tensor(state)), guidance_of(strength), world.target_class)
    yield law_difference("law of a slice", f"{world.label}, {strength.label}, {state}", found, truth)


def table_checks(world: World, seed: int) -> Iterator[Check]:
    """Checks of a table: its tilted law, likelihoods, information profile, departures and calibrated strengths."""
    target = world.target
    strength = number_strength(world, seed)
    z = world.target_class
    if target is None:
        return
    w = float(strength.ours)
    case = f"{world.label}, {strength.label}"
    tilted = chains.tilted(world.pmf, world.class_pmf, w)
    yield law_difference("tilted law", case, tilted_law(target, w, z), tilted)
    profile = exact_information_profile(target, z)
    yield law_difference("information profile", world.label, profile.entropies, tables.profile(world.class_pmf))
    for policy in ("rate", "uniform", "confidence"):
        prefer = partial(policies.preferences, policy)
        truth = tables.path_divergence(world.ask, tilted, w, prefer)
        yield law_difference("KL of paths", f"{case}, {policy}", path_kl(target, Guidance(w), z, policy).total, truth)
    inner = [s for s in enumerate(calibrated_strengths(target, w, z)) if -1 < s[1] < 50]
    slopes = [tables.calibration_slope(world.ask, tilted, level, s) for level, s in inner]
    yield law_difference("calibrated strengths: slope", case, slopes, np.zeros(len(slopes)), FLAT)


def likelihood_checks(world: World, seed: int) -> Iterator[Check]:
    """NLL and NELBO of conditionals other than the data's own."""
    target = world.target
    if target is None:
        return
    n, d = world.shape
    other = numpy_generator("other", seed, world.number)
    pmfs, weights = tables.random_table(other, n, d, len(target.class_weights), 0.0)
    z = world.target_class
    judged = type(target)(torch.from_numpy(pmfs), torch.from_numpy(weights)).denoiser()
    found = exact_likelihood(target, judged, z)
    ask = tables.table_conditionals(pmfs, weights, z)
    law = chains.Chain(ask, n, d, 0.0, "normalized").terminal_by_orders()
    truth = [tables.nll(world.class_pmf, law), tables.nelbo(lambda state: ask(state)[0], world.class_pmf)]
    yield law_difference("likelihoods", world.label, [found.nll, found.nelbo], truth)


LAW_CHECKS: tuple[Callable[[World, int], Iterator[Check]], ...] = (
    conditional_checks,
    terminal_checks,
    policy_checks,
    visit_checks,
    time_checks,
    sampler_checks,
    several_at_a_time_checks,
    slice_checks,
    table_checks,
    likelihood_checks,
)


def law_checks(world: World, seed: int) -> list[Check]:
    """All law checks on one world."""
    return [check for checks in LAW_CHECKS for check in checks(world, seed)]


def registered_target_checks(name: str) -> list[Check]:
    """A target of the benchmark: its guided chain and its tilted law at w = 2, order by order."""
    made = TARGETS[name]()
    n = made.denoiser.num_tokens
    d = made.denoiser.num_dims
    z = made.target_class
    table = getattr(made.denoiser, "target", None)
    if table is not None:
        ask = tables.table_conditionals(table.class_pmfs.numpy(), table.class_weights.numpy(), z)
    else:

        def ask(state: chains.State) -> tuple[chains.Rows, chains.Rows]:
            cond, uncond = (conditionals(made.denoiser, torch.tensor([state]), k)[0].exp().tolist() for k in (z, None))
            return cond, uncond

    def rho(state: chains.State) -> dict[int, list[float]]:
        cond, uncond = ask(state)
        return {i: chains.guided(cond[i], uncond[i], 2.0, "rate") for i in range(d) if state[i] == n}

    law, first, _ = policies.law_by_paths(rho, n, d, "rate")
    found = terminal_law(made.denoiser, Guidance(2.0), z)
    weighted = tilted_weights(made.denoiser, Guidance(2.0), z, "rate").law
    return [
        law_difference("targets of the benchmark", f"{name}, terminal law", found, law),
        law_difference("targets of the benchmark", f"{name}, weighted law", weighted, first / first.sum()),
    ]
