"""Neural denoisers: a transformer on a grid of tokens, masked language models, and wrappers that make a `Denoiser`."""

from mdlm_cfg.nets.masked_lm import MaskedLanguageModel, masked_lm_denoiser
from mdlm_cfg.nets.transformer import GridTransformer
from mdlm_cfg.nets.wrapper import NetClassifier, NetDenoiser, check_network

__all__ = [
    "GridTransformer",
    "MaskedLanguageModel",
    "NetClassifier",
    "NetDenoiser",
    "check_network",
    "masked_lm_denoiser",
]
