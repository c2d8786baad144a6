"""Samplers: what is drawn, and the exact law of what is drawn."""

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
