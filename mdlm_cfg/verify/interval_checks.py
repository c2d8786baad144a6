"""Intervals and standard errors: how often they cover the truth, compared with the nominal coverage."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.calibration import calibrate, calibrated_strengths
from mdlm_cfg.compare.ledger import ledger_laws, ledger_of
from mdlm_cfg.compare.likelihood import likelihood, nelbo_bound
from mdlm_cfg.compare.metrics import sampled_tv
from mdlm_cfg.compare.profile import information_profile
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.sampling.smc import sequential_monte_carlo
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.verify.checks import Check, coverage
from mdlm_cfg.verify.oracle import tables
from mdlm_cfg.verify.worlds import numpy_generator, torch_generator

GROUP = "intervals"
NORMAL = 1.96  # standard errors that cover 95%
N = 3
D = 2
Z = 0


def tables_of(seed: int) -> tuple[TableMixture, TableMixture]:
    """Two random tables with full support: the data, and a table that a network may have learned from them."""
    rng = numpy_generator("intervals", seed)
    pmfs, weights = tables.random_table(rng, N, D, 2, 0.0)
    other = pmfs * (1 + 0.5 * rng.random(pmfs.shape))
    other /= other.reshape(2, -1).sum(axis=1).reshape(2, *[1] * D)
    made = (TableMixture(torch.from_numpy(p), torch.from_numpy(weights)) for p in (pmfs, other))
    data, learned = made
    return data, learned


def ledger_checks(seed: int, repeats: int) -> list[Check]:
    """The error budget balances in 99 of 100 cases."""
    data, learned = tables_of(seed)
    laws = ledger_laws(data, learned.denoiser(), Guidance(2.0), Z)
    found = []
    for sampler in (Sampler(), Sampler("tau_leaping", 3)):
        closed = [ledger_of(laws, sampler, 400, torch_generator("ledger", seed, k)).closes for k in range(repeats)]
        found.append(coverage(GROUP, f"ledger closes: {sampler.label}", sum(closed), repeats, (0.985, 0.995)))
    return found


def distance_checks(seed: int, repeats: int) -> list[Check]:
    """The bootstrap interval of a sampled TV covers its expectation; its coverage is accurate to a few percent."""
    data, learned = tables_of(seed)
    law = data.pmf
    reference = learned.class_pmf(Z)
    found = []
    for k in range(repeats):
        x, _ = data.sample(1000, torch_generator("tv", seed, k))
        found.append(sampled_tv(reference, x, 200, torch_generator("bootstrap", seed, k)))
    assert law.shape == reference.shape
    mean = sum(estimate.value for estimate in found) / repeats
    hits = sum(estimate.low <= mean <= estimate.high for estimate in found)
    return [coverage(GROUP, "bootstrap interval of TV", hits, repeats, (0.92, 0.98))]


def likelihood_checks(seed: int, repeats: int) -> list[Check]:
    """The standard errors of the NELBO, from orders and from random masks."""
    data, learned = tables_of(seed)
    pmfs = learned.class_pmfs.numpy()
    weights = learned.class_weights.numpy()
    ask = tables.table_conditionals(pmfs, weights, Z)
    truth = tables.nelbo(lambda state: ask(state)[0], data.class_pmfs[Z].numpy())
    orders = masks = 0
    for k in range(repeats):
        x, classes = data.sample(400, torch_generator("likelihood", seed, k), Z)
        bound = likelihood(learned.denoiser(), x, Z, generator=torch_generator("orders", seed, k)).nelbo
        orders += abs(bound.value - truth) <= NORMAL * bound.standard_error
        bound = nelbo_bound(learned.denoiser(), x, classes, 2, torch_generator("masks", seed, k))
        masks += abs(bound.value - truth) <= NORMAL * bound.standard_error
    # masks are stratified within a sample, so the true error is smaller than the estimate
    return [
        coverage(GROUP, "standard error of the NELBO: orders", orders, repeats, (0.94, 0.96)),
        coverage(GROUP, "standard error of the NELBO: masks", masks, repeats, (0.94, 0.975)),
    ]


def fit_checks(seed: int, repeats: int) -> list[Check]:
    """The standard errors of calibrated strengths, and of the information profile."""
    data, _ = tables_of(seed)
    w = 1.0
    denoiser = data.denoiser()
    exact = calibrated_strengths(data, w, Z)
    entropies = tables.profile(data.class_pmfs[Z].numpy())
    posterior = data.class_weights[Z] * data.class_pmf(Z) / data.pmf
    strengths = levels = 0
    for k in range(repeats):
        x, _ = data.sample(2000, torch_generator("calibrate", seed, k), Z)
        log_weights = w * posterior[tuple(x.T)].log()
        fitted = calibrate(denoiser, Z, x, log_weights, torch_generator("levels", seed, k))
        strengths += sum(covered(fitted.strengths, exact, fitted.standard_errors))
        profile = information_profile(denoiser, Z, x, None, torch_generator("profile", seed, k))
        levels += sum(covered(profile.entropies.tolist(), entropies, profile.standard_errors.tolist()))
    return [
        coverage(GROUP, "standard error of calibrated strengths", strengths, repeats * D, (0.93, 0.965)),
        coverage(GROUP, "standard error of the information profile", levels, repeats * D, (0.93, 0.965)),
    ]


def covered(values: list[float] | tuple[float, ...], truths: list[float], errors: object) -> list[bool]:
    """Whether every truth lies within `NORMAL` standard errors."""
    return [abs(v - t) <= NORMAL * e for v, t, e in zip(values, truths, errors)]  # type: ignore[call-overload]


def resampling_checks(seed: int, repeats: int) -> list[Check]:
    """The relative error of the normaliser of sequential Monte Carlo, from 20 groups."""
    data, _ = tables_of(seed)
    truth = float((data.pmf ** (-1.0) * data.class_pmf(Z) ** 2.0).sum())
    hits = 0
    for k in range(repeats):
        generator: torch.Generator = torch_generator("smc", seed, k)
        found = sequential_monte_carlo(data.denoiser(), Guidance(1.0), Z, 400, num_groups=20, generator=generator)
        estimate: Tensor = found.log_weights.exp().mean()
        hits += abs(float(estimate) - truth) <= 2.093 * found.relative_error * float(estimate)  # Student, 19 degrees
    return [coverage(GROUP, "error of sequential Monte Carlo's normaliser", hits, repeats, (0.93, 0.965))]


INTERVAL_CHECKS: dict[str, Callable[[int, int], list[Check]]] = {
    "ledger": ledger_checks,
    "distances": distance_checks,
    "likelihoods": likelihood_checks,
    "fits": fit_checks,
    "resampling": resampling_checks,
}
