"""Samplers: they draw samples, and compute the exact law of what they draw."""

from mdlm_cfg.sampling.sampler import SAMPLERS, WITH_STEPS, Sampler, as_sampler
from mdlm_cfg.sampling.samples import sample, stepped_law
from mdlm_cfg.sampling.smc import Weighted, sequential_monte_carlo

__all__ = [
    "SAMPLERS",
    "WITH_STEPS",
    "Sampler",
    "Weighted",
    "as_sampler",
    "sample",
    "sequential_monte_carlo",
    "stepped_law",
]
