"""Temperature and top-p of a coordinate's values (theory, section 10)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.numeric import number

NEG_INF = float("-inf")
TIE = 1e-9  # log-probabilities closer than this are equal: rounding must not decide which of them is cut
ROUNDING = 1e-12  # of a log-ratio of conditionals; the strength and the temperature multiply it
LEAST_TEMPERATURE = 1e-4  # it divides the rounding of a log-probability, which then stays below 1e-10


def check_filter(temperature: float, top_p: float) -> None:
    """Raise UserError unless temperature >= `LEAST_TEMPERATURE`, finite, and 0 < top_p <= 1; 1 changes nothing."""
    number("temperature", temperature, LEAST_TEMPERATURE)
    number("top_p", top_p, 0, 1, above=True)


def noise_temperature(what: str, value: Any) -> float:
    """A temperature of Gumbel noise as a Python float; 0 is no noise, and ties are then broken uniformly.

    Raises:
        UserError: it is negative, or so low that rounding would break ties.
    """
    found = number(what, value, 0)
    if 0 < found < LEAST_TEMPERATURE:
        raise UserError(
            f"{what} = {shown(value)} is not allowed: it must be at least {LEAST_TEMPERATURE:g}, below which rounding "
            "would break ties, or 0 for no noise"
        )
    return found


def filter_values(log_rho: Tensor, temperature: float, top_p: float, strength: float = 0.0) -> Tensor:
    """log rho with r = rho / Z changed and Z kept: r^(1/temperature), cut to the fewest best values that reach top_p.

    Nucleus sampling (Holtzman et al., arXiv 1904.09751). Values as probable as the last one kept are kept too.

    Args:
        log_rho: (..., N); may hold -inf.
        strength: the largest w in log_rho, which multiplied the rounding error: it decides what counts as a tie.
    """
    log_z = log_rho.logsumexp(dim=-1, keepdim=True)
    nowhere = log_z == NEG_INF
    log_r = ((log_rho - log_z.masked_fill(nowhere, 0.0)) / temperature).log_softmax(dim=-1)
    if top_p < 1:
        tie = max(TIE, ROUNDING * (1 + abs(strength)) / temperature)
        best = log_r.sort(dim=-1, descending=True).values
        before = best.exp().cumsum(dim=-1) - best.exp()  # the total of all better values
        kept = (before < top_p * (1 - tie)).sum(dim=-1, keepdim=True).clamp(min=1)
        last = best.gather(-1, kept - 1)
        log_r = log_r.masked_fill(log_r < last - tie, NEG_INF).log_softmax(dim=-1)
    return (log_r + log_z).masked_fill(nowhere, NEG_INF)
