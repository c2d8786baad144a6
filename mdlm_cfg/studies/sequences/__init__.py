"""Sequences of a hidden Markov mixture, whose conditionals and likelihoods are exact."""

from mdlm_cfg.studies.sequences.study import Sequences

__all__ = ["Sequences"]
