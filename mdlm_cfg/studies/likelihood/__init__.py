"""What likelihood a denoiser gives to data: of its law, by its bounds, along its orders."""

from mdlm_cfg.studies.likelihood.study import LikelihoodStudy

__all__ = ["LikelihoodStudy"]
