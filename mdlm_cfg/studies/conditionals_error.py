"""The error of learned conditionals in nats, if the exact ones are known at every partial state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, conditionals
from mdlm_cfg.compare.conditionals_error import conditionals_error
from mdlm_cfg.compare.metrics import student
from mdlm_cfg.studies.common import SURE, untrained
from mdlm_cfg.studies.findings import Block, Table, col, in_nats
from mdlm_cfg.studies.protocol import LEARNED, Case, Made, Piece
from mdlm_cfg.support.numbers import apart, percent, short
from mdlm_cfg.support.seeds import generator_for

CONDITIONALS = ("conditional", "null")
TITLE = "Error of the network"
ROUNDING = 1e-9  # nats


@dataclass(frozen=True)
class ConditionalsRow:
    """The NELBOs of the network and of the exact conditionals, on the same test examples with the same masks."""

    conditionals: str = col("conditionals", '"conditional": given the class, "null": without it', index=True)
    nelbo: float = in_nats("network", "NELBO of the network", digits=3)
    exact_nelbo: float = in_nats("exact", "NELBO of the exact conditionals", digits=3)
    entropy: float = in_nats("entropy", "mean -log p of the examples, which exact_nelbo estimates", digits=3)
    independent: float = in_nats("independent values", "mean -log p under independent values with the same marginals")
    conditionals_error: float = in_nats("error", "nelbo minus exact_nelbo", digits=3)
    conditionals_error_se: float | None = in_nats(
        "standard error",
        "standard error of the difference, over examples; absent where it is infinite, and of a single example",
        digits=3,
    )
    conditionals_kl: float = in_nats("error as KL", "estimate of the same error with less noise", digits=3)
    conditionals_kl_se: float | None = in_nats(
        "its standard error", "standard error of conditionals_kl, over examples; absent likewise", digits=3
    )
    num_examples: int = col("examples", "number of test examples")
    num_draws: int = col("masks", "number of masks for each example")


def error_pieces(case: Case, num_test: int, num_draws: int) -> Iterable[Piece]:
    """The error of the network with the class and without it, if there is a network.

    Args:
        num_test: test examples. num_draws: masks for each.
    """
    if not case.has_learned:
        return
    for name in CONDITIONALS:
        label = f"error of the network on {num_test:,} test examples, {name} conditionals"
        yield case.piece(_error, name, num_test, num_draws, label=label, cost=num_draws * num_test)


def _error(case: Case, name: str, num_test: int, num_draws: int) -> dict[str, Any]:
    x, labels = (part[:num_test] for part in case.data.test_examples())
    classes = labels if name == "conditional" else None
    generator = generator_for("masks", name, case.plan.seed)
    found = conditionals_error(case.target, case.denoisers[LEARNED], x, classes, num_draws, generator)
    return vars(found) | {"independent": _independent(case.target.denoiser(), x, classes)}


def _independent(exact: Denoiser, x: Tensor, classes: Tensor | None) -> float:
    """Mean -log p of examples under independent coordinates with the exact marginals, of their class or of all."""
    x = x.long()
    masked = torch.full_like(x[:1], exact.num_tokens)
    total = 0.0
    for k in [None] if classes is None else classes.unique().tolist():
        own = x if k is None else x[classes == k]
        log_p = conditionals(exact, masked, k).expand(len(own), -1, -1)
        total -= float(log_p.gather(2, own[..., None]).sum())
    return total / len(x)


def error_rows(case: Case, made: Made, num_test: int, num_draws: int) -> list[ConditionalsRow]:
    """The rows that `error_pieces` computed; none without a network."""
    if not case.has_learned:
        return []
    found = {name: made.of(_error, name, num_test, num_draws) for name in CONDITIONALS}
    return [ConditionalsRow(conditionals=name, **columns) for name, columns in found.items()]


def error_block(rows: Sequence[ConditionalsRow], tested: str, unit: str) -> Block:
    """The block of the page on the error of the network.

    Args:
        tested: the test examples in words, such as "images of the mixture itself". unit: one of them.
    """
    row = rows[0]
    text = (
        f"On {row.num_examples:,} {tested}, {row.num_draws} masks each; the masks are the same for the network and the "
        "exact conditionals. The KL divergence of the network's conditionals from the exact ones estimates the same "
        "error with less noise. Independent values have the exact marginals and no structure. The "
        "conditionals are those given the class (conditional) and those of the whole mixture (null)."
    )
    models = ["nelbo", "exact_nelbo", "entropy", "independent"]
    errors = ["conditionals_error", "conditionals_error_se", "conditionals_kl", "conditionals_kl_se"]
    views = [
        Table(["conditionals"], models, note=f"Negative ELBO in nats per {unit}."),
        Table(["conditionals"], errors, note=f"Nats per {unit}; standard errors are over {unit}s."),
    ]
    return Block("conditionals_error", rows, TITLE, text, views=views, logged=errors, group=TITLE, printed=True)


def error_sentence(rows: Sequence[ConditionalsRow], unit: str) -> str:
    """Whether the network is trained, by its NELBO with the class."""
    row = next(row for row in rows if row.conditionals == "conditional")
    own = f"its NELBO is {row.nelbo:.2f} nats per {unit}"
    if math.isinf(row.conditionals_error) or math.isinf(row.conditionals_kl):
        return "The network gives probability 0 to values that are possible: its error is infinite."
    if row.conditionals_error_se is None or row.conditionals_kl_se is None:
        return f"One test {unit} does not tell how large the error of the network is: {own}."
    margin = student(SURE, row.num_examples) * row.conditionals_error_se
    structure = row.independent - row.entropy  # the NELBO of exact conditionals over all masks, without their noise
    said = f"{short(row.conditionals_kl, 2)} ± {short(row.conditionals_kl_se, 2)} nats per {unit}"
    if row.conditionals_kl <= ROUNDING:  # a divergence is never negative: anything above 0 is not chance
        return f"The network shows no measurable error: {own}, and the exact conditionals have {row.exact_nelbo:.2f}."
    if structure <= margin:
        return f"The error of the network is {said}."
    if structure - row.conditionals_kl <= margin:
        than = f"independent values of each class ({row.independent:.2f})"
        return untrained("barely", own, than, row.nelbo < row.independent)
    learned = 1 - row.conditionals_kl / structure
    independent, exact = apart(row.independent, row.entropy, 2)
    return (
        f"The error of the network is {said}. Between independent values ({independent}) and the exact conditionals "
        f"({exact}) the network has learned {percent(learned)}."
    )
