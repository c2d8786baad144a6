"""Samples compared with their laws by p-values, which are uniform if a sampler follows its law."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.sampling.smc import sequential_monte_carlo
from mdlm_cfg.verify.checks import Check, chi_square_p, p_value, z_value
from mdlm_cfg.verify.oracle import policies
from mdlm_cfg.verify.samplers import enumerated_law, registered_samplers, strength_of, with_policies
from mdlm_cfg.verify.worlds import Strength, World, guidance_of, number_strength, schedule_strength, torch_generator

GROUP = "samples"
DRAWS = 20_000
MILD = 1.5  # the strength up to which the mean path weight of `DRAWS` samples is nearly normal


def counts_of(x: Tensor, num_tokens: int) -> np.ndarray:
    """How often every state was drawn, (N,)*D."""
    counts = np.zeros([num_tokens] * x.shape[1])
    np.add.at(counts, tuple(x.numpy().T), 1)
    return counts


def sampler_checks(world: World, seed: int) -> Iterator[Check]:
    """Every registered sampler with every setting, against the oracle's law, or otherwise its own."""
    strengths = number_strength(world, seed), schedule_strength(world, seed)
    for name, made in registered_samplers(world.shape[1]):
        if not made:
            yield p_value(GROUP, f"samples of {name}", "no setting of the verification fits this sampler", math.nan)
        for place, sampler in enumerate(made):
            strength = strength_of(sampler, *strengths, place + world.number)
            kind = list(KINDS)[(place + world.number // 2) % len(KINDS)]
            yield drawn_check(f"samples of {name}", sampler, world, strength, kind, seed)


def policy_checks(world: World, seed: int) -> Iterator[Check]:
    """Samplers of events under every policy."""
    strengths = number_strength(world, seed), schedule_strength(world, seed)
    for place, sampler in enumerate(with_policies()):
        strength = strengths[(place + world.number) % 2]
        yield drawn_check("samples under policies", sampler, world, strength, "rate", seed)


def drawn_check(subject: str, sampler: Sampler, world: World, strength: Strength, kind: str, seed: int) -> Check:
    """Pearson's chi-square test of `DRAWS` samples."""
    guidance = guidance_of(strength, kind)
    law = enumerated_law(sampler, world, strength, kind)
    whose = "enumerated law"
    if law is None:
        law = sampler.law(world.denoiser, guidance, world.target_class).numpy()
        whose = "its own law"
    generator = torch_generator("draw", seed, world.number, sampler.label, strength.label, kind)
    x = sampler.draw(world.denoiser, guidance, world.target_class, DRAWS, generator)
    case = f"{world.label}, {strength.label}, {kind}, {sampler.label}, against {whose}"
    return p_value(GROUP, subject, case, chi_square_p(counts_of(x, world.shape[0]), law))


def weight_checks(world: World, seed: int) -> Iterator[Check]:
    """The mean weight of paths, and that of sequential Monte Carlo, against the sum of T: z-tests."""
    w = min(float(number_strength(world, seed).ours), MILD)
    strength = Strength(f"w={w:g}", w, w)
    rho = world.chain(strength).rates.__getitem__
    for policy in ("rate", "uniform"):
        _, first, second = policies.law_by_paths(rho, *world.shape, policy)
        generator = torch_generator("weights", seed, world.number, policy)
        sampler = Sampler(policy=policy)  # type: ignore[arg-type]
        given = world.denoiser, guidance_of(strength), world.target_class, DRAWS
        _, log_weights = sampler.draw_weighted(*given, generator)
        variance = second.sum() - first.sum() ** 2
        if variance <= 1e-12:  # w = 0: every weight is 1
            continue
        mean = float(log_weights.exp().mean())
        error = math.sqrt(variance / DRAWS)
        case = f"{world.label}, {strength.label}, {policy}"
        yield z_value(GROUP, "mean path weight", case, mean, float(first.sum()), error)
    _, first, _ = policies.law_by_paths(rho, *world.shape, "rate")
    groups = 100
    smc = sequential_monte_carlo(
        *given, num_groups=groups, generator=torch_generator("smc", seed, world.number), threshold=0.9
    )
    means = smc.log_weights.view(groups, -1).exp().mean(dim=1)
    if (error := float(means.std()) / math.sqrt(groups)) > 1e-9:
        case = f"{world.label}, {strength.label}"
        estimate = float(means.mean())
        yield z_value(GROUP, "sequential Monte Carlo: normaliser", case, estimate, float(first.sum()), error)


def data_checks(world: World, seed: int) -> Iterator[Check]:
    """Samples of a table itself."""
    if (target := world.target) is None:
        return
    for label, pmf in ((world.target_class, world.class_pmf), (None, world.pmf)):
        x, _ = target.sample(DRAWS, torch_generator("data", seed, world.number, str(label)), label)
        which = "the mixture" if label is None else "a class"
        p = chi_square_p(counts_of(x, world.shape[0]), pmf)
        yield p_value(GROUP, "samples of the data", f"{world.label}, {which}", p)


SAMPLE_CHECKS: tuple[Callable[[World, int], Iterator[Check]], ...] = (
    sampler_checks,
    policy_checks,
    weight_checks,
    data_checks,
)


def sample_checks(world: World, seed: int) -> list[Check]:
    """All sample checks on one world."""
    with torch.no_grad():
        return [check for checks in SAMPLE_CHECKS for check in checks(world, seed)]
