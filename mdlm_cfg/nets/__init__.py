"""Neural denoisers: a transformer on a grid of tokens, and what makes a trained net a `Denoiser`."""

from mdlm_cfg.nets.denoiser import NetDenoiser
from mdlm_cfg.nets.transformer import GridTransformer

__all__ = ["GridTransformer", "NetDenoiser"]
