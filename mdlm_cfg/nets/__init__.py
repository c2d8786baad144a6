"""Neural denoisers: the transformer on a grid of tokens, and the wrapper that makes a trained net a `Denoiser`."""

from mdlm_cfg.nets.denoiser import NetDenoiser
from mdlm_cfg.nets.transformer import GridTransformer

__all__ = ["GridTransformer", "NetDenoiser"]
