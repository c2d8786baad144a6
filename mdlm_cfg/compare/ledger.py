"""The error ledger: a trained sampler's total error, decomposed line by line (theory, section 8).

L0 = p(. | z); L1 = the tilted law; L2 = exact conditionals in exact time; L3 = learned conditionals in exact time;
L2' and L3' = the same under a K-step sampler; L4 = n samples of that sampler. All but L4 are exact laws, so every line
is a distance between two of them, and only the sampling noise is estimated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.chain.schedules import Schedule, Steps
from mdlm_cfg.compare.by_state import MixedDenoiser, StateError, conditionals_error_by_state, divides_by_mixture
from mdlm_cfg.compare.divergence import divergence_from_sampler
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
from mdlm_cfg.laws.stepped import FrozenChain, freeze
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.sampling.sampler import FIRST_HITTING, Sampler, as_sampler
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numbers import ROUNDING
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.targets.table import TableMixture

DRAWN_CELLS = 2**25  # numbers that repeated histograms may hold at a time
OUTSIDE = 0.01  # probability, under the exact laws, outside a predicted interval
T = TypeVar("T")
R = TypeVar("R")

LINES = {
    "guidance effect": ("L0", "L2"),
    "gap to tilted": ("L1", "L2"),
    "error of the network": ("L2", "L3"),
    "discretisation error": ("L3", "L3'"),
    "discretisation error, exact conditionals": ("L2", "L2'"),
    "sampling noise": ("L3'", "L4"),
    "total": ("L2", "L4"),
}


@dataclass(frozen=True)
class LedgerLaws:
    """The part of a ledger that does not depend on the sampler: computed once, and passed to every entry.

    Attributes:
        target, guidance, target_class: whose laws these are.
        learned: the network as a table; None where the judged denoiser is the target's own: then L3 is L2, and the
            conditionals have no error.
        laws: L0 to L3 by name, float64 (N,)*D; no L1 for a schedule.
        error_alone: TV(L2, L3) if only the conditional or only the unconditional were learned, by name. Either may be
            larger than TV(L2, L3), as the two errors may cancel. None where rates would be infinite.
        states: the partial states the network gets wrong, weighted by the exact chain's visits, worst first.
        visit_error: sum over states of visits * KL, by the number of unmasked coordinates.
        policy: which coordinate comes next in L2 and L3; None is the kind's own order.
    """

    target: TableMixture
    learned: TabulatedDenoiser | None
    guidance: Guidance
    target_class: int
    laws: dict[str, Tensor]
    error_alone: dict[str, float | None]
    states: list[StateError]
    visit_error: list[tuple[float, float]]
    policy: Policy | None = None

    @property
    def judged(self) -> Denoiser:
        """The denoiser from which samples are drawn."""
        return self.target.denoiser() if self.learned is None else self.learned

    @property
    def denoisers(self) -> dict[str, Denoiser]:
        """The denoisers of the laws "L2" and, where something was learned, "L3"."""
        exact: dict[str, Denoiser] = {"L2": self.target.denoiser()}
        return exact if self.learned is None else exact | {"L3": self.learned}

    @cached_property
    def chains(self) -> dict[str, FrozenChain]:
        """The rates that L2' and L3' of every sampler step through, by "L2" and "L3"."""
        return {name: freeze(source, self.guidance, self.target_class) for name, source in self.denoisers.items()}


@dataclass(frozen=True)
class SampledLedger:
    """The ledger of one class, guidance and sampler.

    Attributes:
        sampler, num_samples: the sampler that was run, and the number of its samples.
        laws: L0, L1, L2, L3, L2', L3', L4 by name, float64 (N,)*D, where they are known; no L1 for a schedule.
        tv: by line (`LINES`), where it has both laws.
        expected_noise: the expectation of TV(L3', L4).
        predicted_total: the expectation and the central 99% of the total that the exact laws predict for n samples.
    """

    sampler: Sampler
    num_samples: int
    laws: dict[str, Tensor]
    tv: dict[str, float]
    expected_noise: float
    predicted_total: Estimate

    @property
    def closes(self) -> bool:
        """Whether the sampled total lies within the interval that the exact lines predict, up to rounding.

        Its ends are totals of draws: with few states many have the same total, but for the order of summation.
        """
        beyond = self.predicted_total.low - self.tv["total"], self.tv["total"] - self.predicted_total.high
        return max(beyond) < ROUNDING


@dataclass(frozen=True)
class Ledger(SampledLedger):
    """The ledger of a table.

    Attributes:
        shared: what does not depend on the sampler.
        kl: by line, of the first law to the second in nats: inf where the second lacks support, None if it is a
            law of steps with probabilities too small for float64.
        mean, covariance: by line, the difference relative to the first law of the line.
        noise: TV(L3', L4) with its bootstrap interval.
    """

    shared: LedgerLaws
    kl: dict[str, float | None]
    mean: dict[str, dict[str, float]]
    covariance: dict[str, dict[str, float]]
    noise: Estimate

    @property
    def guidance(self) -> Guidance:
        """Strength and kind."""
        return self.shared.guidance


@checked
def ledger_laws(
    target: TableMixture,
    denoiser: Denoiser | None,
    guidance: Guidance,
    target_class: int,
    policy: Policy | None = None,
) -> LedgerLaws:
    """L0 to L3, and where the network is wrong (theory, section 8).

    Args:
        target: the known distribution; its exact denoiser gives L2.
        denoiser: the learned one (evaluated on every partial state once per label); None is the target's own.
        guidance: strength and kind; a schedule has no L1, because the tilted law needs one w.
        policy: which coordinate comes next; the same as that of the samplers in the ledger.

    Raises:
        UserError: as `terminal_law`.
    """
    exact = target.denoiser()
    laws = {
        "L0": target.class_pmf(target_class),
        "L2": terminal_law(exact, guidance, target_class, policy),
    }
    if guidance.has_tilted:
        laws["L1"] = tilted_law(target, guidance, target_class)
    if denoiser is None:
        return LedgerLaws(target, None, guidance, target_class, laws | {"L3": laws["L2"]}, {}, [], [], policy)
    learned = TabulatedDenoiser(denoiser)
    laws["L3"] = terminal_law(learned, guidance, target_class, policy)
    divided = divides_by_mixture(guidance, target.num_dims, target_class)
    pairs: dict[str, tuple[Denoiser, Denoiser]]
    pairs = {"conditional": (learned, exact), "unconditional": (exact, learned)}
    alone: dict[str, float | None] = {}
    for name, pair in pairs.items():
        try:
            law = terminal_law(MixedDenoiser(*pair, divided), guidance, target_class, policy)
        except UserError:  # an infinite rate: all else was accepted for L2 and L3
            alone[name] = None
        else:
            alone[name] = total_variation(laws["L2"], law)
    states, visit_error = conditionals_error_by_state(target, learned, guidance, target_class, policy=policy)
    return LedgerLaws(target, learned, guidance, target_class, laws, alone, states, visit_error, policy)


def ledger_of(
    shared: LedgerLaws,
    sampler: Sampler,
    num_samples: int,
    generator: torch.Generator | None = None,
    samples: Tensor | None = None,
) -> Ledger:
    """The ledger of one sampler, given the laws that do not depend on it.

    Args:
        generator: draws the samples and the intervals.
        samples: int64 (n, D), already drawn by this sampler from the judged denoiser; None draws `num_samples`.
    """
    s = shared
    laws = dict(shared.laws)
    if sampler.policy != s.policy:
        raise UserError(
            f"the sampler {sampler.label} cannot be entered in a ledger of the order {s.policy or s.guidance.kind}: "
            "make the ledger's laws with its policy"
        )
    for name, source in s.denoisers.items():
        if sampler.exact_in_time:
            laws[name + "'"] = laws[name]
        else:
            laws[name + "'"] = sampler.law(source, s.guidance, s.target_class, s.chains[name])
    laws.setdefault("L3'", laws["L2'"])
    x = samples
    if x is None:
        x = sampler.draw(s.judged, s.guidance, s.target_class, num_samples, generator)
    laws["L4"] = histogram(x, s.target.num_tokens)
    moments = {name: mean_and_covariance(law) for name, law in laws.items()}
    return Ledger(
        shared=s,
        sampler=sampler,
        num_samples=len(x),
        laws=laws,
        tv=by_line(laws, total_variation),
        kl=_divergences(laws, s, sampler),
        mean=by_line(moments, lambda a, b: relative_difference(b[0], a[0])),
        covariance=by_line(moments, lambda a, b: relative_difference(b[1], a[1])),
        noise=sampled_tv(laws["L3'"], x, generator=generator),
        expected_noise=expected_sampling_tv(laws["L3'"], len(x)),
        predicted_total=predicted_sample_tv(laws["L2"], laws["L3'"], len(x), generator=generator),
    )


def _divergences(laws: dict[str, Tensor], shared: LedgerLaws, sampler: Sampler) -> dict[str, float | None]:
    """KL by line."""
    in_time = Sampler(policy=shared.policy)

    def divergence(first: str, second: str) -> float | None:
        p, q = laws[first], laws[second]
        if second == "L4":
            return kl_divergence(p, q)
        made = sampler if second.endswith("'") else in_time
        source = shared.denoisers.get(second.rstrip("'"), shared.judged)
        return divergence_from_sampler(p, q, made, source, shared.guidance, shared.target_class)

    return by_line({name: name for name in laws}, divergence)


@checked
def error_ledger(
    target: TableMixture,
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int,
    sampler: Sampler | str = FIRST_HITTING,
    steps: Steps | None = None,
    schedule: Schedule | str | None = None,
    *,
    num_samples: int = 10_000,
    generator: torch.Generator | None = None,
) -> Ledger:
    """The ledger of a trained denoiser against the target it was trained on (theory, section 8).

    Args:
        target, denoiser, guidance, target_class: see `ledger_laws`.
        sampler, steps, schedule: those of L2', L3' and L4, as in `sample`.

    Raises:
        UserError: as `sample`, `terminal_law` and `stepped_law`.
    """
    made = as_sampler(sampler, steps, schedule)
    num_samples = whole_number("num_samples", num_samples)
    return ledger_of(ledger_laws(target, denoiser, guidance, target_class, made.policy), made, num_samples, generator)


def by_line(values: dict[str, T], compare: Callable[[T, T], R]) -> dict[str, R]:
    """`compare` of the two laws of every line that has both."""
    return {line: compare(values[a], values[b]) for line, (a, b) in LINES.items() if a in values and b in values}


def predicted_sample_tv(
    reference: Tensor, law: Tensor, num_samples: int, num_draws: int = 1000, generator: torch.Generator | None = None
) -> Estimate:
    """The distribution of TV(reference, histogram of n draws from `law`): mean and central 99%, by simulation.

    The bounds are order statistics: another draw is one more of the same kind, and is below the k-th smallest of m with
    a probability of at most k / (m + 1), whatever the distribution. (Interpolated quantiles would leave 1.2% outside.)
    """
    p = law.flatten()
    q = reference.flatten()
    at_once = max(1, DRAWN_CELLS // len(p))
    tv = []
    for done in range(0, num_draws, at_once):
        counts = multinomial_counts(p, num_samples, min(at_once, num_draws - done), generator)
        tv.append(0.5 * (counts.div_(num_samples).sub_(q)).abs_().sum(dim=1))
    found = torch.cat(tv).sort().values.clamp_(max=1.0)  # as `total_variation`: rounding alone may exceed 1
    outside = max(1, int(OUTSIDE / 2 * (num_draws + 1)))  # on either side
    return Estimate(float(found.mean()), float(found[outside - 1]), float(found[-outside]))
