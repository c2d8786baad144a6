"""Exact laws of the guided chain over all partial states: terminal, at a time, after steps, of slices, of weights."""

from mdlm_cfg.laws.in_time import law_at
from mdlm_cfg.laws.push import visit_law
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.laws.terminal import terminal_law, tilted_law

__all__ = ["TabulatedDenoiser", "law_at", "terminal_law", "tilted_law", "visit_law"]
