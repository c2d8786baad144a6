"""The rows of study=sequences, and their verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.metrics import difference_of_shares, sign_beyond, student, sure_of
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.common import CALLS, SAMPLER, SURE
from mdlm_cfg.studies.conditionals_error import ConditionalsRow, error_sentence
from mdlm_cfg.studies.findings import col, in_nats, in_probability, in_tv
from mdlm_cfg.studies.protocol import EXACT, LEARNED
from mdlm_cfg.studies.rows import AtStrength, OfDenoiser, ends, strongest, where
from mdlm_cfg.support.numbers import percent

NOISE_DRAWS = 20  # independent sets, or splits, over which the noise of n samples is averaged
COMPARED = {1: "more {} than", 0: "about as {} as", -1: "less {} than"}  # by the sign of a clear difference
LIKELY = "likely under their class"
CLASS = "class"


@dataclass(frozen=True)
class Measured:
    """Statistics of a set of sequences; absent if there is nothing to average over, or there are too many pairs."""

    posterior: float | None = in_probability(
        "p(z | x)", "class posterior, mean over the sequences that the mixture allows", digits=3
    )
    posterior_se: float | None = col("p(z | x), ±", "standard error", digits=3)
    log_prob: float | None = in_nats(
        "ln p(x | z)", "log-likelihood, mean over the sequences that the class allows", digits=1
    )
    log_prob_se: float | None = in_nats("ln p(x | z), ±", "standard error", digits=2)
    impossible: float = col("impossible", "share of sequences that the class does not allow", unit="share", digits=3)
    diversity: float = col(
        "differ", "share of positions in which two sequences of the set differ", unit="share", digits=3
    )
    tv_class_2: float | None = in_tv(
        "pairs to class", "TV between the distribution of neighbouring pairs and that of the class", digits=3
    )


SETS = (
    '"exact", "noise floor" (a second exact set), "learned", or "class" (unguided); distances of "noise floor" to '
    f'exact, and of "class" to the class, are means over {NOISE_DRAWS} draws'
)


@dataclass(frozen=True)
class SetRow(Measured, AtStrength):
    """One set of samples at one strength, drawn by the plan's sampler."""

    set: str = col("set", SETS, index=True)
    tv_exact_2: float | None = in_tv(
        "pairs to exact", "TV between the distribution of neighbouring pairs and that of the exact samples", digits=3
    )


@dataclass(frozen=True)
class OrderRow(Measured, OfDenoiser):
    """A set of samples with another order or number of calls."""

    sampler: Sampler = col("sampler", SAMPLER, index=True)
    order: str = col("order", "policy, or tau_leaping")
    calls: int = col("calls", CALLS)


def verdict_of(
    errors: Sequence[ConditionalsRow],
    sets: Sequence[SetRow],
    orders: Sequence[OrderRow],
    num: int,
) -> list[str]:
    """How wrong the network is, what guidance does at the largest strength, and what orders and calls cost.

    Args:
        num: sequences in each set.
    """
    said = [error_sentence(errors, "sequence")] if errors else []
    w = strongest(sets)
    own = {row.set: row for row in where(sets, w=w)}
    head = f"At w = {w.label},"
    said.append(_of_sets(own[EXACT], own[CLASS], num, f"{head} exact guided samples", "samples of the class itself"))
    if LEARNED in own:
        said.append(_of_sets(own[LEARNED], own[EXACT], num, f"{head} the network's samples", "exact guided ones"))
    return said + _of_orders(where(orders, w=w, denoiser=EXACT), w, num)


def _clear(a: float | None, b: float | None, *errors: float | None, sure: float = SURE) -> int:
    """1 if a is clearly larger than b, -1 if clearly smaller, else 0, also if an error is unknown."""
    known = [error for error in errors if error is not None]
    if a is None or b is None or len(known) < len(errors):
        return 0
    return sign_beyond(a - b, sure * math.hypot(*known))


def _more_impossible(a: Measured, b: Measured, num: int, sure: float = SURE) -> int:
    """`_clear` for the shares of sequences that the class does not allow."""
    difference, error = difference_of_shares(a.impossible, num, b.impossible, num)
    return _clear(difference, 0.0, error, sure=sure)


def _likelier(a: Measured, b: Measured, num: int) -> int:
    """`_clear` for likelihoods: a set's is 0 if the class does not allow one of its sequences, so those count first."""
    return -_more_impossible(a, b, num) or _likelier_where_possible(a, b, num)


def _likelier_where_possible(a: Measured, b: Measured, num: int, sure: float = SURE) -> int:
    """`_clear` for the mean log-likelihoods of the sequences that the class allows."""
    fewest = round(num * (1 - max(a.impossible, b.impossible)))
    return _clear(a.log_prob, b.log_prob, a.log_prob_se, b.log_prob_se, sure=student(sure, fewest))


def _show(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:z.{digits}f}"


def _likelihoods(a: Measured, b: Measured) -> str:
    """The mean log-likelihoods of two sets, and their shares of impossible sequences."""
    nats = f"{_show(a.log_prob, 1)} and {_show(b.log_prob, 1)} nats"
    if not a.impossible and not b.impossible:
        return nats
    return f"{nats}; {percent(a.impossible, 1)} and {percent(b.impossible, 1)} of them are impossible"


def _of_sets(a: Measured, b: Measured, num: int, who: str, than: str) -> str:
    """How a set differs from another one in likelihood and class posterior."""
    surer = _clear(a.posterior, b.posterior, a.posterior_se, b.posterior_se, sure=student(SURE, num))
    return (
        f"{who} are {COMPARED[_likelier(a, b, num)].format(LIKELY)} {than} ({_likelihoods(a, b)}), and identify it "
        f"{COMPARED[surer].format('clearly')} those (posterior {_show(a.posterior, 3)} and {_show(b.posterior, 3)})."
    )


def _of_orders(rows: Sequence[OrderRow], w: Guidance, num: int) -> list[str]:
    """The extremes in likelihood, and whether they differ clearly (by chance in at most 1 of 20 reports).

    If they differ in the share of sequences that the class does not allow, that decides.
    """
    possible = [row for row in rows if row.log_prob is not None]
    if len(possible) < 2:
        return []
    sure = sure_of(len(rows))
    head = f"Among {len(rows)} combinations of order and calls (exact conditionals, w = {w.label}),"
    fewest, most = ends(rows, "impossible")
    if _more_impossible(most, fewest, num, sure):
        return [
            f"{head} the share of sequences that are impossible under the class is at most "
            f"{percent(most.impossible, 1)} ({most.sampler.label}) and at least {percent(fewest.impossible, 1)} "
            f"({fewest.sampler.label})."
        ]
    worst, best = ends(possible, "log_prob")
    differ = "differ clearly" if _likelier_where_possible(best, worst, num, sure) else "do not differ clearly"
    return [
        f"{head} the highest mean log-likelihood ({_show(best.log_prob, 1)} nats, {best.sampler.label}) and the lowest "
        f"({_show(worst.log_prob, 1)} nats, {worst.sampler.label}) {differ}."
    ]
