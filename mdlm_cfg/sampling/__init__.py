"""Samplers: what is drawn, and the exact law of what is drawn."""

from mdlm_cfg.sampling.sampler import SAMPLERS, Sampler, as_sampler, sample, stepped_law

__all__ = ["SAMPLERS", "Sampler", "as_sampler", "sample", "stepped_law"]
