"""Neural denoisers: a transformer on a grid of tokens, and what makes a trained net a `Denoiser`."""

from mdlm_cfg.nets.transformer import GridTransformer
from mdlm_cfg.nets.wrapper import NetDenoiser, check_network

__all__ = ["GridTransformer", "NetDenoiser", "check_network"]
