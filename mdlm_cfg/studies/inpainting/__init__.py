"""Guided inpainting: the exact law of a few hidden pixels of an image, given all others."""

from mdlm_cfg.studies.inpainting.study import Inpainting

__all__ = ["Inpainting"]
