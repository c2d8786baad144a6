"""Verdicts if only examples are known: is the network trained, and is the class recognised?

A network's NELBO is compared with those of two models without structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.compare.images import independent_nelbos
from mdlm_cfg.compare.metrics import difference_of_shares, sign_beyond, student
from mdlm_cfg.studies.common import SURE, untrained
from mdlm_cfg.studies.findings import Block, Table, col, in_nats
from mdlm_cfg.studies.rows import at_strengths
from mdlm_cfg.support.numbers import apart, in_percent, short

UNIFORM = "uniform values"


@dataclass(frozen=True)
class NelboRow:
    """How well a model predicts test examples, given their class."""

    model: str = col("model", '"network", or the model it is compared with', index=True)
    nelbo: float = in_nats("NELBO", "negative ELBO given the class; for the other models, minus the log-probability")
    excess: float = in_nats("over the network's", "this minus the network's NELBO, on the same examples", digits=2)
    excess_se: float | None = in_nats(
        "standard error",
        "standard error of the difference, over examples; absent where it is infinite, and of a single example",
        digits=2,
    )
    num_examples: int = col("examples", "number of test examples")


@dataclass(frozen=True)
class Words:
    """The words for an example ("image"), its coordinates ("pixels"), and test examples ("test images")."""

    example: str
    parts: str
    held_out: str


def without_structure(x: Tensor, train: Tensor, num_tokens: int) -> Tensor:
    """Minus the log-probability of examples of one class under independent and under uniform values, float64 (2, n).

    Args:
        x: integer (n, D). train: training examples of the class, integer (m, D). num_tokens: N.
    """
    independent = independent_nelbos(x, train, num_tokens)
    return torch.stack([independent, torch.full_like(independent, x.shape[1] * math.log(num_tokens))])


def nelbo_rows(network: Tensor, others: Tensor, words: Words) -> list[NelboRow]:
    """The network's NELBO and that of the models without structure, with their difference on the same examples.

    Args:
        network: float64 (n,), in nats. others: (2, n), from `without_structure`.
    """
    rows = []
    for model, values in zip(("network", f"independent {words.parts}", UNIFORM), (network, *others), strict=True):
        excess = torch.where(values == network, 0.0, values - network)  # the difference of two infinite values is 0
        mean = float(excess.mean())
        known = len(excess) > 1 and math.isfinite(mean)
        spread = float(excess.std()) / math.sqrt(len(excess)) if known else None
        rows.append(NelboRow(model, float(values.mean()), mean, spread, len(excess)))
    return rows


def nelbo_block(rows: Sequence[NelboRow], words: Words, group: str) -> Block:
    """The table of the rows."""
    text = (
        f"The network's NELBO given the class, beside two models without structure: independent {words.parts} with the "
        f"frequencies of the class's training {words.example}s, and uniform values. All use the same test "
        f"{words.example}s. The NELBO in the section on the test set uses other masks, and possibly more "
        f"{words.example}s."
    )
    views = [Table(["model"], ["nelbo", "excess", "excess_se"], note=f"Nats per {words.example}.")]
    return Block("nelbo", rows, "NELBO beside simple models", text, [], views, ["nelbo"], group)


def training_sentence(rows: Sequence[NelboRow], words: Words, num_dims: int) -> str:
    """Whether the network predicts test examples better than models without structure.

    With one coordinate there is no structure: independent values are then as good as the best network.
    """
    network, independent, uniform = rows
    if math.isinf(network.nelbo):
        return f"The network gives probability 0 to test {words.example}s: its NELBO is infinite."
    nats = f"nats per test {words.example}"
    own = f"its NELBO is {network.nelbo:.1f} {nats}"
    if independent.excess_se is None or uniform.excess_se is None:
        return f"One test {words.example} does not tell whether the network is trained: {own}."
    sure = student(SURE, network.num_examples)
    if uniform.excess <= sure * uniform.excess_se:
        how = "not clearly" if uniform.excess >= -sure * uniform.excess_se else "not"
        return untrained(how, own, f"uniform values ({uniform.nelbo:.1f})", uniform.excess > 0)
    least = sure * independent.excess_se
    than = f"independent {words.parts} of each class"
    if independent.excess < -least or (num_dims > 1 and independent.excess <= least):
        return untrained("barely", own, f"{than} ({independent.nelbo:.1f})", independent.excess > 0)
    learned, other, than = (
        (f"how {words.parts} depend on each other", independent, than)
        if num_dims > 1
        else ("how often each class has each value", uniform, UNIFORM)
    )
    below = f"{short(other.excess, 1)} ± {short(other.excess_se, 1)}"
    nelbo, above = apart(network.nelbo, other.nelbo, 1)
    return f"The network has learned {learned}: its NELBO is {nelbo} {nats}, below the {above} of {than} by {below}."


def of_recognised(judge: str, ends: Sequence[Any], nums: Sequence[int], held: Any, words: Words) -> str:
    """The effect of guidance, beyond chance, on the share of samples that a judge assigns to their class.

    Args:
        judge: "network" or "classifier".
        ends: rows of the weakest and the strongest guidance, or the only one; `nums` samples each were judged.
        held: the row of held-out examples.
    """
    found = at_strengths(ends, "accuracy", in_percent, "of samples")
    shares = f"assigns the intended class to {found} ({of_held(held, 'accuracy', in_percent, words)})"
    if len(ends) == 1:
        return f"The {judge} {shares}."
    before, after = ((row.accuracy or 0.0, num) for row, num in zip(ends, nums))
    change, error = difference_of_shares(*after, *before)
    does = {
        1: f"makes the {judge} recognise the class more often",
        0: f"makes no clear difference to the class that the {judge} sees",
        -1: f"makes the {judge} recognise the class less often",
    }[sign_beyond(change, SURE * error)]
    return f"Guidance {does}: it {shares}."


def of_held(held: Any, name: str, form: Callable[[float], str], words: Words) -> str:
    """The value of held-out examples in a column, for comparison."""
    value = getattr(held, name)
    return f"too few {words.held_out} to compare with" if value is None else f"{words.held_out}: {form(value)}"
