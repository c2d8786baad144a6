"""Distributions that are known exactly, with their denoisers: tables, Bernoulli mixtures, hidden Markov mixtures."""
