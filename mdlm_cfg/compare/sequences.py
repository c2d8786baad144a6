"""Comparisons of sequences with a hidden Markov mixture: class posterior, likelihood, n-grams, diversity.

All of it is exact for each sequence in any dimension (theory, section 15); only the sequences themselves are sampled.
An n-gram is n consecutive values at any position: its law is the mean over all positions. N-grams, diversity and
nearest sequences need no mixture, only examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.compare.metrics import histogram
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.hmm import HiddenMarkovMixture

LENGTHS = (1, 2, 3)  # of the n-grams that are counted
MOST_CELLS = 10**5  # N^n up to which they are counted
CELLS = 2**26  # numbers compared at a time
NEG_INF = float("-inf")


@dataclass(frozen=True)
class SequenceStatistics:
    """Statistics of a set of sequences under one class z of the mixture.

    Attributes:
        posterior: mean p(z | x), and its standard error; of sequences that the whole mixture allows.
        log_prob: mean ln p(x | z) in nats, and its standard error; of sequences that the class allows.
        impossible: the share that the class does not allow.
        diversity: the mean share of positions in which two different sequences of the set differ.
        pairs: the set's law of neighbouring pairs, float64 (N, N); None where there are too many, or one position.
    """

    posterior: float
    posterior_se: float
    log_prob: float
    log_prob_se: float
    impossible: float
    diversity: float
    pairs: Tensor | None


def sequence_statistics(target: HiddenMarkovMixture, x: Tensor, target_class: int) -> SequenceStatistics:
    """See `SequenceStatistics`; NaN where no sequence is left to average over.

    Args:
        target: the mixture.
        x: int64 (n, D), n >= 2, without masks.
        target_class: z.

    Raises:
        UserError: fewer than two sequences, or values that are not 0..N-1.
    """
    each = target.log_class_probs(x)
    posterior = (each + target.class_weights.log()).softmax(dim=1)[:, target_class]
    log_prob = each[:, target_class]
    return SequenceStatistics(
        *_mean_and_error(posterior[~posterior.isnan()]),
        *_mean_and_error(log_prob[log_prob > NEG_INF]),
        float((log_prob == NEG_INF).double().mean()),
        mean_pairwise_difference(x, target.num_tokens),
        gram_histogram(x, target.num_tokens, 2) if has_pairs(target) else None,
    )


def gram_lengths(target: HiddenMarkovMixture | Denoiser) -> list[int]:
    """The lengths n, up to 3 and to D, of n-grams that are few enough to be counted."""
    return [n for n in LENGTHS if n <= target.num_dims and target.num_tokens**n <= MOST_CELLS]


def has_pairs(target: HiddenMarkovMixture) -> bool:
    """Whether pairs of neighbouring values can be counted."""
    return 2 in gram_lengths(target)


def gram_law(target: HiddenMarkovMixture, n: int, target_class: int) -> Tensor:
    """The law of n-grams of a class, exactly: the mean over places i of p(x_i, ..., x_{i+n-1} | z), float64 (N,)*n."""
    transition = target.transition[target_class]
    emission = target.emission[target_class]
    hidden = target.initial[target_class]
    total = torch.zeros(target.num_hidden, dtype=torch.float64)
    places = target.num_dims - n + 1
    for _ in range(places):
        total = total + hidden
        hidden = hidden @ transition
    joint = (total / places)[None]  # of the values so far and the hidden state of the next: (N^j, S)
    for j in range(n):
        if j:
            joint = joint @ transition
        joint = (joint[:, None] * emission.T).flatten(0, 1)
    return joint.sum(dim=1).reshape([target.num_tokens] * n)


def gram_histogram(x: Tensor, num_tokens: int, n: int) -> Tensor:
    """The law of n-grams among sequences (m, D), all places together: float64 (N,)*n."""
    return histogram(x.unfold(1, n, 1).flatten(0, 1), num_tokens)


def mean_pairwise_difference(x: Tensor, num_tokens: int) -> float:
    """The mean share of positions in which two different sequences of a set (n, D) differ: its diversity.

    Needs no pairs: at a position where c_v of them have the value v, sum_v c_v (c_v - 1) ordered pairs agree.

    Raises:
        UserError: fewer than two sequences.
    """
    num, num_dims = x.shape
    if num < 2:
        raise UserError(f"a mean difference of pairs needs at least 2 sequences, not {num}")
    cells = (x + num_tokens * torch.arange(num_dims)).flatten()
    counts = torch.bincount(cells).double()
    return 1 - float((counts * (counts - 1)).sum()) / (num * (num - 1) * num_dims)


def nearest_sequence(x: Tensor, reference: Tensor) -> Tensor:
    """The share of positions in which each sequence (n, D) differs from the nearest of a set (m, D): float64 (n,)."""
    rows = max(1, CELLS // reference.numel())
    different = [(part[:, None] != reference).sum(dim=2).amin(dim=1) for part in x.split(rows)]
    return torch.cat(different).double() / x.shape[1]


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    error = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return float(values.mean()), error
