"""study=sequences: a network against a hidden Markov mixture that is known exactly, and its guided samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import policy_of
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.compare.sequences import gram_histogram, gram_law, has_pairs, sequence_statistics
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, Sampler
from mdlm_cfg.studies.aligned import aligned, aligned_pieces, block_to_read, to_read
from mdlm_cfg.studies.common import draw_pieces, samples_of
from mdlm_cfg.studies.conditionals_error import ConditionalsRow, error_block, error_pieces, error_rows
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View
from mdlm_cfg.studies.protocol import EXACT, LEARNED, Case, Made, Needs, Piece, Rows, Settings, whole
from mdlm_cfg.studies.rows import measured
from mdlm_cfg.studies.sequence_rows import CLASS, NOISE_DRAWS, Measured, OrderRow, SetRow, verdict_of
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.hmm import HiddenMarkovMixture

ONE_BY_ONE = ("rate", "uniform", "fixed_order", "confidence")
FEW_STEPS = (8, 32)
AGAIN = "floor"  # the second exact set, in the names of draws
FLOOR = "noise floor"  # the same set in the tables
READING = """\
{plan.num_samples:,} sequences of class {name} in each set, {plan.drawn}. Each sequence is evaluated exactly: \
p(z | x) is the probability of its class, and ln p(x | z) its log-likelihood in the class. Pairs are neighbouring \
values at any position, compared by total variation with the class's own distribution, which is known exactly, and \
with the exact guided samples.

The set "noise floor" is a second set of exact guided samples, and "class" holds samples of the class itself, \
unguided. Every distance includes the noise of this number of samples. The distances of "noise floor" to "exact" and \
of "class" to the class are noise alone; they are means over {draws} draws."""
OF_ORDERS = """\
The same guidance with other orders and fewer calls of the denoiser, with {num:,} sequences each. With {dims} calls \
one position is unmasked at a time; fewer calls are steps of event_leaping or tau_leaping. At w = 0 with exact \
conditionals every order, one position at a time, samples the class exactly. With guidance the order matters. With \
several positions per call, neighbours that are drawn together are independent."""
MORE = "± is one standard error, of {num:,} sequences; raise num_samples= for more."
MEASURED = ("posterior", "posterior_se", "log_prob", "log_prob_se", "tv_class_2")


@dataclass(frozen=True)
class Sequences(Settings):
    """The error of the network, guided samples compared with exact ones, and a comparison of orders and steps.

    Args:
        num_test: test sequences for the error of the network; num_draws: masks for each.
        compare: whether other orders and numbers of steps are compared, which takes most of the time.
    """

    num_test: int = whole(1000, least=2)
    num_draws: int = whole(4, least=1)
    compare: bool = True
    needs: ClassVar[Needs] = Needs(
        target=(HiddenMarkovMixture,),
        what="hidden Markov mixtures",
        example="data=hmm_dialects or data=hmm",
        one_class=True,
        numbers=True,
        one_kind=True,
        samples=2,
        guided=True,
    )
    rows: ClassVar[Rows] = {"distances": SetRow, "conditionals_error": ConditionalsRow, "samplers": OrderRow}

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The error of the network, the class itself, every set, other samplers, and a few sequences to read."""
        z = case.one_class
        yield from error_pieces(case, self.num_test, self.num_draws)
        yield case.piece(_of_class, label="samples of the class itself", cost=0.0)
        for guidance in case.plan.guidances:
            for name in _drawn(case):
                yield from _draws(case, guidance, name)
            for name in _drawn(case):
                yield _measuring(case, guidance, name)
            yield case.piece(_noise_of, guidance, label=f"noise of the samples at w = {guidance.label}", cost=0.0)
        for guidance, who, sampler in self._compared(case):
            yield from _draws(case, guidance, who, sampler)
            yield _measuring(case, guidance, who, sampler)
        for who in case.denoisers:
            yield from aligned_pieces(case, who, [z])

    def _compared(self, case: Case) -> list[tuple[Guidance, str, Sampler]]:
        """Every denoiser and sampler at the weakest and the strongest strength."""
        if not self.compare:
            return []
        guidances = case.plan.guidances
        ends = dict.fromkeys(pick(guidances, key=lambda guidance: guidance.constant) for pick in (min, max))
        samplers = others(case.target.num_dims)
        return [(guidance, who, sampler) for guidance in ends for who in case.denoisers for sampler in samplers]

    def findings(self, case: Case, made: Made) -> Findings:
        """The error of the network, sets, orders, and sequences to read."""
        errors = error_rows(case, made, self.num_test, self.num_draws)
        sets = [_set_row(case, made, g, name) for g in case.plan.guidances for name in (*_drawn(case), CLASS)]
        orders = []
        for g, who, sampler in self._compared(case):
            found = made.of(_measured, g, who, sampler)
            columns = {name: found[name] for name in measured(Measured)}
            calls = sampler.calls(case.num_dims)
            orders.append(OrderRow(**columns, w=g, denoiser=who, sampler=sampler, order=order_of(sampler), calls=calls))
        of_error = [error_block(errors, "test sequences", "sequence")] if errors else []
        blocks = [_to_read(case, made), _guided(case, sets), *of_error, _orders(case, orders)]
        verdict = verdict_of(errors, sets, orders, case.plan.num_samples)
        facts = {"data": {"classes": [case.one_class]}}
        return Findings(case.plan, blocks, verdict, facts, _arrays(case, made))


def _drawn(case: Case) -> list[str]:
    """The sets drawn at every strength: exact, exact again for the noise, and learned."""
    return [EXACT, AGAIN, *([LEARNED] if case.has_learned else [])]


def _draws(case: Case, guidance: Guidance, name: str, sampler: Sampler | None = None) -> list[Piece]:
    who = LEARNED if name == LEARNED else EXACT
    return draw_pieces(case, who, guidance, case.one_class, name=name, sampler=sampler)


def _sequences(case: Case, guidance: Guidance, name: str, sampler: Sampler | None = None) -> Tensor:
    return samples_of(case.made, _draws(case, guidance, name, sampler)).long()


def _of_class(case: Case) -> dict[str, Any]:
    """Samples of the class (n, D), and the mean TV between the pairs of several such sets and the class's own."""
    target = case.target
    plan = case.plan
    z = case.one_class
    draws = []
    for draw in range(NOISE_DRAWS):
        generator = generator_for("samples", plan.seed, z, CLASS, *([draw] if draw else []))
        draws.append(target.sample(plan.num_samples, generator, z)[0])
    if not has_pairs(target):
        return {"x": draws[0], "noise": None}
    law = gram_law(target, 2, z)
    tvs = [total_variation(law, gram_histogram(x, target.num_tokens, 2)) for x in draws]
    return {"x": draws[0], "noise": sum(tvs) / NOISE_DRAWS}


def _noise_of(case: Case, guidance: Guidance) -> float | None:
    """The mean TV between the pairs of random halves of all exact guided samples, over several splits."""
    if not has_pairs(case.target):
        return None
    x = torch.cat([_sequences(case, guidance, name) for name in (EXACT, AGAIN)])
    generator = case.plan.generator("splits", guidance, case.one_class, num_dims=case.target.num_dims)
    splits = [x[torch.randperm(len(x), generator=generator)].chunk(2) for _ in range(NOISE_DRAWS)]
    pairs = [[gram_histogram(half, case.target.num_tokens, 2) for half in halves] for halves in splits]
    return sum(total_variation(*of_halves) for of_halves in pairs) / NOISE_DRAWS


def _measuring(case: Case, guidance: Guidance, name: str, sampler: Sampler | None = None) -> Piece:
    by = "" if sampler is None else f" by {sampler.label}"
    label = f"measuring {name} samples at w = {guidance.label}{by}"
    return case.piece(_measured, guidance, name, sampler, label=label, cost=case.plan.num_samples)


def _measured(case: Case, guidance: Guidance, name: str, sampler: Sampler | None = None) -> dict[str, Any]:
    return _measure(case, guidance, _sequences(case, guidance, name, sampler))


def _measure(case: Case, guidance: Guidance, x: Tensor) -> dict[str, Any]:
    """The columns of a SetRow: sequences (n, D) compared with the class and the exact guided samples at a strength."""
    target = case.target
    z = case.one_class
    found = sequence_statistics(target, x, z)
    exact = _sequences(case, guidance, EXACT)
    columns = {name: getattr(found, name, None) for name in measured(SetRow)}
    if found.pairs is not None:
        columns["tv_class_2"] = total_variation(gram_law(target, 2, z), found.pairs)
        columns["tv_exact_2"] = total_variation(gram_histogram(exact, target.num_tokens, 2), found.pairs)
    return {name: None if value is None or math.isnan(value) else value for name, value in columns.items()}


def _set_row(case: Case, made: Made, guidance: Guidance, name: str) -> SetRow:
    """The row of a set; distances that are only noise are means over several draws, and "exact" has none to itself."""
    if name == CLASS:
        found = made.of(_of_class)
        columns = _measure(case, guidance, found["x"])
        columns["tv_class_2"] = found["noise"]
    else:
        columns = dict(made.of(_measured, guidance, name, None))
    if name == EXACT:
        columns["tv_exact_2"] = None
    if name == AGAIN:
        columns["tv_exact_2"] = made.of(_noise_of, guidance)
    return SetRow(**columns, w=guidance, set=FLOOR if name == AGAIN else name)


def others(num_dims: int) -> list[Sampler]:
    """The samplers to compare: orders with one position at a time, and parallel samplers with fewer than D steps."""
    steps = [number for number in FEW_STEPS if number < num_dims]
    confident = policy_of("confidence")
    return [
        *(Sampler(policy=policy_of(name)) for name in ONE_BY_ONE),
        *(Sampler(EVENT_LEAPING, number) for number in steps),
        *(Sampler(EVENT_LEAPING, number, policy=confident) for number in steps),
        *(Sampler("tau_leaping", number) for number in steps),
    ]


def order_of(sampler: Sampler) -> str:
    """The order of unmasking, as one word."""
    return sampler.name if sampler.name == "tau_leaping" else str(sampler.policy or "rate")


def _to_read(case: Case, made: Made) -> Block:
    z = case.one_class
    return block_to_read(
        part for who in case.denoisers for part in to_read(case, made, who, z, f"{who} conditionals, sequence")
    )


def _guided(case: Case, sets: Sequence[SetRow]) -> Block:
    plan = case.plan
    text = READING.format(plan=plan, name=case.class_name(case.one_class), draws=NOISE_DRAWS)
    dashed = {"set": CLASS}
    views: list[View] = [
        Table(
            ["w", "set"], [*MEASURED, "tv_exact_2", "impossible", "diversity"], note=MORE.format(num=plan.num_samples)
        ),
        Curve("w", "posterior", ["set"], "The class posterior of guided sequences.", dashed=dashed),
        Curve("w", "log_prob", ["set"], "How likely guided sequences are in their class.", dashed=dashed),
        Curve("w", "tv_class_2", ["set"], "Pairs of neighbours: distance to the class's own.", dashed=dashed),
        Curve("w", "tv_exact_2", ["set"], "Pairs of neighbours: distance to exact guided sequences.", dashed=dashed),
    ]
    title = "Guided samples compared with exact ones"
    names = measured(SetRow)
    return Block("distances", sets, title, text, views=views, logged=names, group="Guided samples", printed=True)


def _orders(case: Case, rows: Sequence[OrderRow]) -> Block:
    text = OF_ORDERS.format(num=case.plan.num_samples, dims=case.target.num_dims)
    by = ["order", "denoiser"]
    views: list[View] = [
        Table(["w", "denoiser", "order", "calls"], MEASURED, note="Calls: for each of the two conditionals."),
        Curve("calls", "log_prob", by, "Log-likelihood against calls.", panels="w", log_x=True),
        Curve("calls", "tv_class_2", by, "Pairs to the class, against calls.", panels="w", log_x=True),
    ]
    return Block("samplers", rows, "Orders and numbers of calls", text, views=views, group="Orders and calls")


def _arrays(case: Case, made: Made) -> dict[str, np.ndarray]:
    """The samples of every set, (n, D), and the aligned ones, (m, D): in the smallest integer type that holds them."""
    small = torch.uint8 if case.target.num_tokens <= 256 else torch.int32
    found = {CLASS: made.of(_of_class)["x"]}
    for g in case.plan.guidances:
        found |= {f"{name}_{g.identifier}": _sequences(case, g, name) for name in _drawn(case)}
        for who in case.denoisers:
            found[f"aligned_{who}_{g.identifier}"] = made.of(aligned, who, g, case.one_class)
    return {name: x.to(small).numpy() for name, x in found.items()}
