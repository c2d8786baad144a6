"""Sequences of which there are examples only, such as text: guided samples beside held-out ones."""

from mdlm_cfg.studies.corpus.study import Corpus

__all__ = ["Corpus"]
