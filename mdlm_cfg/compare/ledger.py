"""The error ledger: a trained sampler's total error taken apart, line by line (theory, section 8).

L0 = p(. | z); L1 = the tilted law; L2 = exact scores in exact time; L3 = learned scores in exact time; L2' and L3' =
the same under a K-step sampler; L4 = n samples of that sampler. All but L4 are exact laws, so every line is a distance
between two of them and nothing is estimated but the sampling noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.schedules import Schedule
from mdlm_cfg.compare.metrics import (
    Estimate,
    expected_sampling_tv,
    histogram,
    kl_divergence,
    mean_and_covariance,
    multinomial_counts,
    relative_difference,
    sampled_tv,
    total_variation,
)
from mdlm_cfg.laws.push import terminal_law, tilted_law, visit_law
from mdlm_cfg.laws.stepped import stepped_law
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.sampling.sampler import Steps, sample
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture

T = TypeVar("T")
R = TypeVar("R")

LINES = {
    "guidance effect": ("L0", "L2"),
    "gap to tilted": ("L1", "L2"),
    "score error": ("L2", "L3"),
    "discretisation error": ("L3", "L3'"),
    "discretisation error, exact scores": ("L2", "L2'"),
    "sampling noise": ("L3'", "L4"),
    "total": ("L2", "L4"),
}


class SplitDenoiser:
    """One denoiser for the classes, another for the null class: whose share of the score error is it?

    A learned class has some probability everywhere; where an exact mixture beside it has none, the guided rate would be
    infinite. There the class is restricted to the mixture's support, and renormalised.
    """

    def __init__(self, conditional: Denoiser, unconditional: Denoiser) -> None:
        self.conditional, self.unconditional = conditional, unconditional
        self.num_tokens, self.num_dims = conditional.num_tokens, conditional.num_dims
        self.num_classes = conditional.num_classes

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """See `mdlm_cfg.chain.denoiser.Denoiser`; one call asks for one label."""
        if classes is None or bool((classes == self.num_classes).all()):
            return self.unconditional(tokens, classes)
        log_probs = self.conditional(tokens, classes)
        outside = self.unconditional(tokens, None) == -torch.inf
        if not bool((outside & (log_probs > -torch.inf)).any()):
            return log_probs
        inside = log_probs.masked_fill(outside, -torch.inf)
        return inside - inside.logsumexp(dim=-1, keepdim=True)


@dataclass(frozen=True)
class StateError:
    """How wrong a network is at one partial state.

    Attributes:
        state: tokens (D,), the mask being N. visits: the probability that the exact guided chain passes through it.
        kl: sum over masked coordinates of KL(exact || network) in nats, of the class and of the null class.
    """

    state: tuple[int, ...]
    visits: float
    kl_conditional: float
    kl_unconditional: float


@dataclass(frozen=True)
class Ledger:
    """The ledger of one target, class, guidance, sampler and number of steps.

    Attributes:
        w, kind, sampler, steps, num_samples: what was run; steps is None for first_hitting.
        laws: L0, L1, L2, L3, L2', L3', L4 by name, float64 (N,)*D.
        tv, kl: by line (`LINES`); KL of the first law to the second in nats, inf where the second lacks support.
        mean, covariance: by line, the difference relative to the first law of the line.
        noise: TV(L3', L4) with its bootstrap interval; expected_noise: its expectation.
        predicted_total: the expectation and the central 99% of TV(L2, L4) that the exact laws predict for n samples.
        score_share: the score error if only the conditional, only the unconditional network were learned.
        states: the partial states the network gets wrong, weighted by the exact chain's visits, worst first.
        visit_error: sum over states of visits * KL, by the number of unmasked coordinates.
    """

    w: float
    kind: str
    sampler: str
    steps: Steps | None
    num_samples: int
    laws: dict[str, Tensor]
    tv: dict[str, float]
    kl: dict[str, float]
    mean: dict[str, dict[str, float]]
    covariance: dict[str, dict[str, float]]
    noise: Estimate
    expected_noise: float
    predicted_total: Estimate
    score_share: dict[str, float]
    states: list[StateError]
    visit_error: list[tuple[float, float]]

    @property
    def closes(self) -> bool:
        """Whether the sampled total lies within the interval that the exact lines predict."""
        return self.predicted_total.low <= self.tv["total"] <= self.predicted_total.high

    @property
    def bound(self) -> float:
        """score error + discretisation error + sampling noise: the triangle inequality's bound on the total."""
        return self.tv["score error"] + self.tv["discretisation error"] + self.tv["sampling noise"]


def error_ledger(
    target: TableMixture,
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int,
    sampler: str = "first_hitting",
    steps: Steps | None = None,
    schedule: Schedule | None = None,
    num_samples: int = 10_000,
    generator: torch.Generator | None = None,
) -> Ledger:
    """The ledger of a trained denoiser against the target it was trained on (theory, section 8).

    Args:
        target: the known distribution; its exact denoiser gives L2.
        denoiser: the learned one (asked for every partial state once per label).
        guidance: a strength that is a number (the tilted law has one w), and a kind.
        sampler, steps, schedule: of L2', L3' and L4, as in `sample`.

    Raises:
        UserError: as `sample`, `terminal_law` and `stepped_law`; or a w that is a function.
    """
    if callable(guidance.w):
        raise UserError("the ledger compares with a tilted law, which has one w: give a number")
    exact, learned = target.denoiser(), TabulatedDenoiser(denoiser)
    laws = {
        "L0": target.class_pmf(target_class),
        "L1": tilted_law(target, guidance.w, target_class),
        "L2": terminal_law(exact, guidance, target_class),
        "L3": terminal_law(learned, guidance, target_class),
    }
    for name, source in (("L2", exact), ("L3", learned)):
        laws[name + "'"] = laws[name]
        if sampler != "first_hitting":
            stepped = stepped_law(source, guidance, target_class, sampler, steps or 0, schedule)
            laws[name + "'"] = stepped[(slice(0, target.num_tokens),) * target.num_dims]
    x = sample(learned, guidance, target_class, num_samples, sampler, steps, schedule, generator)
    laws["L4"] = histogram(x, target.num_tokens)
    moments = {name: mean_and_covariance(law) for name, law in laws.items()}
    states, visit_error = score_error_by_state(target, learned, guidance, target_class)
    swapped = {
        "conditional": SplitDenoiser(learned, exact),
        "unconditional": SplitDenoiser(exact, learned),
    }
    return Ledger(
        w=float(guidance.w),
        kind=guidance.kind,
        sampler=sampler,
        steps=steps,
        num_samples=num_samples,
        laws=laws,
        tv=_by_line(laws, total_variation),
        kl=_by_line(laws, kl_divergence),
        mean=_by_line(moments, lambda a, b: relative_difference(b[0], a[0])),
        covariance=_by_line(moments, lambda a, b: relative_difference(b[1], a[1])),
        noise=sampled_tv(laws["L3'"], x, generator=generator),
        expected_noise=expected_sampling_tv(laws["L3'"], num_samples),
        predicted_total=predicted_sample_tv(laws["L2"], laws["L3'"], num_samples, generator=generator),
        score_share={
            name: total_variation(laws["L2"], terminal_law(d, guidance, target_class)) for name, d in swapped.items()
        },
        states=states,
        visit_error=visit_error,
    )


def _by_line(values: dict[str, T], compare: Callable[[T, T], R]) -> dict[str, R]:
    """`compare` of the two laws of every line."""
    return {line: compare(values[a], values[b]) for line, (a, b) in LINES.items()}


def predicted_sample_tv(
    reference: Tensor, law: Tensor, num_samples: int, num_draws: int = 1000, generator: torch.Generator | None = None
) -> Estimate:
    """The distribution of TV(reference, histogram of n draws from `law`): mean and central 99%, by simulation."""
    counts = multinomial_counts(law.flatten(), num_samples, num_draws, generator)
    tv = 0.5 * (counts / num_samples - reference.flatten()).abs().sum(dim=1)
    low, high = torch.quantile(tv, torch.tensor([0.005, 0.995], dtype=torch.float64)).tolist()
    return Estimate(float(tv.mean()), low, high)


def score_error_by_state(
    target: TableMixture, denoiser: Denoiser, guidance: Guidance, target_class: int, most: int = 20
) -> tuple[list[StateError], list[tuple[float, float]]]:
    """Which partial states a network gets wrong, weighted by the visits of the exact guided chain.

    Returns:
        the `most` states with the largest visits * (KL of class + KL of null), worst first; and per number of unmasked
        coordinates the sums of visits * KL of the class and of the null class, in nats.
    """
    exact, lattice = target.denoiser(), Lattice(target.num_tokens, target.num_dims)
    worst: list[StateError] = []
    by_level = []
    for level, visits in enumerate(visit_law(exact, guidance, target_class)[:-1]):
        visits = visits.flatten()
        tokens = lattice.tokens(level)[visits > 0]
        visits = visits[visits > 0]
        classes = torch.full((len(tokens),), target_class)
        errors = [_row_kl(exact(tokens, c), denoiser(tokens, c)) for c in (classes, None)]
        by_level.append((float(visits @ errors[0]), float(visits @ errors[1])))
        top = (visits * (errors[0] + errors[1])).topk(min(most, len(tokens))).indices
        worst += [
            StateError(tuple(tokens[i].tolist()), float(visits[i]), float(errors[0][i]), float(errors[1][i]))
            for i in top
        ]
    worst.sort(key=lambda s: -s.visits * (s.kl_conditional + s.kl_unconditional))
    return worst[:most], by_level


def _row_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum over coordinates of KL(p_i || q_i), (B,); copied rows of unmasked coordinates cost 0."""
    difference = torch.where(log_p > -torch.inf, log_p - log_q, 0.0)
    return (log_p.exp() * difference).sum(dim=(1, 2))


def ledgers(
    target: TableMixture,
    denoiser: Denoiser,
    strengths: Sequence[float],
    target_class: int,
    kind: str,
    samplers: Sequence[tuple[str, int | None]],
    num_samples: int,
    generator: torch.Generator | None = None,
) -> list[Ledger]:
    """A ledger for every w and every (sampler, steps)."""
    learned = TabulatedDenoiser(denoiser)
    return [
        error_ledger(target, learned, Guidance(w, kind), target_class, sampler, steps, None, num_samples, generator)
        for w in strengths
        for sampler, steps in samplers
    ]
