"""study=likelihood: NLL, NELBO and the bounds between them, of the unguided chain (theory, section 14)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.likelihood import Bound, Likelihood, exact_likelihood, exact_nll, likelihood, nelbo_bound
from mdlm_cfg.compare.metrics import student
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.studies.common import WHO
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_nats
from mdlm_cfg.studies.protocol import EXACT, LEARNED, Case, Made, Needs, Piece, Rows, Settings, whole
from mdlm_cfg.studies.rows import ends, where
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numbers import rounded_up, short
from mdlm_cfg.support.progress import share_shown
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.table import TableMixture

Listed = dict[str, list[Any]]  # rows, by the name of their block
TABLE_SAMPLES = 2000  # drawn from a table for its bounds
TABLE_POLICIES = ("fixed_order", "confidence", "margin", "entropy")
POLICIES = ("fixed_order", "confidence")  # for other data: each order costs as much as a random one
NUM_DRAWS = 2  # masks per test example for the NELBO
SAME = 1e-9  # nats; smaller differences are rounding
CLEAR = 2  # standard errors from 0
CONDITIONAL = "conditional"
NULL = "null"
LABELS = {CONDITIONAL: "With the class", NULL: "Without a class"}
READING = """\
All likelihoods are those of the unguided chain (w = 0), in nats per example. With one coordinate at a time the \
conditionals are an order-agnostic autoregressive model: the NELBO is the mean of -ln q(x) over random orders, and \
the NLL is that of the mixture of all orders. Their difference, NELBO - NLL, is the order gap. It is 0 if all orders \
agree."""
OF_TABLES = "NLL and NELBO are exact. Bounds from several orders are estimated with {:,} samples of the data."
OF_OTHERS = """\
The NELBO is over all {:,} test examples, with {} masks each. How far k random orders lower it was measured on {:,} of \
them, along the same orders with the class and without. Each example is compared with itself, which has far less noise \
than the NELBO of so few examples. Few examples may have most of the disagreement between orders: the standard error \
of a fall is then too small."""
ONE_ORDER = """\
A deterministic policy gives every example one order, and the likelihood is the product along it \
(arXiv 2603.01367). With exact conditionals all orders agree."""
LABEL = '"conditional": given the class, mean over classes; "null": without a class'


@dataclass(frozen=True)
class OfLabel:
    """One denoiser, with the class or without."""

    denoiser: str = col("denoiser", WHO, index=True)
    label: str = col("label", LABEL, index=True)


@dataclass(frozen=True)
class LikelihoodRow(OfLabel):
    """The likelihood of one denoiser."""

    entropy: float | None = in_nats(
        "entropy", "entropy of the data, a lower bound on every NLL; absent if unknown", digits=5
    )
    entropy_se: float | None = in_nats("entropy, ±", "standard error of -ln p(x) over the test examples")
    nll: float | None = in_nats("NLL", "NLL of the uniform order; absent if it cannot be computed", digits=5)
    nelbo: float = in_nats("NELBO", "bound from one random order", digits=5)
    nelbo_se: float | None = in_nats("NELBO, ±", "standard error; absent where the value is exact")
    order_gap: float | None = in_nats("order gap", "NELBO - NLL", digits=7)


@dataclass(frozen=True)
class BoundRow(OfLabel):
    """The bound on the NLL from several random orders."""

    orders: int = col("orders", "number k of random orders", index=True)
    nats: float = in_nats("bound", "-E ln of the mean of q over k orders")
    nats_se: float = in_nats("±", "standard error")
    bits_per_dim: float = col("bits per dim", "the bound in bits per dimension")
    fall: float = in_nats("below the NELBO", "how far the bound is below the one from one order", digits=5)
    fall_se: float = in_nats("below, ±", "standard error", digits=5)

    @property
    def low(self) -> float:
        """The fall minus a standard error."""
        return self.fall - self.fall_se

    @property
    def high(self) -> float:
        """The fall plus a standard error."""
        return self.fall + self.fall_se


@dataclass(frozen=True)
class OrderRow(OfLabel):
    """The likelihood along the order of one policy."""

    policy: str = col("policy", "policy that gives the order of unmasking", index=True)
    nats: float = in_nats("NLL", "NLL along this order; exact for tables, with ties shared equally", digits=5)
    nats_se: float | None = in_nats("±", "standard error; absent where the value is exact")
    bits_per_dim: float = col("bits per dim", "NLL in bits per dimension")
    fall: float = in_nats("below the NELBO", "NELBO minus NLL; negative where random orders are better on average")
    fall_se: float | None = in_nats("below, ±", "standard error; absent where the value is exact")


@dataclass(frozen=True)
class LikelihoodStudy(Settings):
    """NLL, NELBO and the bounds between them, with the class and without; always for the unguided chain.

    Args:
        orders: k, the largest number of orders in a bound.
        num_images: test examples evaluated along every order, at orders * D rows each; tables need none.
    """

    orders: int = whole(16, least=1)
    num_images: int = whole(16, least=2)
    name: ClassVar[str] = "likelihood"
    needs: ClassVar[Needs] = Needs(unfiltered=True)
    rows: ClassVar[Rows] = {"likelihoods": LikelihoodRow, "bounds": BoundRow, "orders": OrderRow}

    def check(self, case: Case) -> None:
        """Refuse a target class."""
        if case.plan.classes is not None:
            raise UserError("study=likelihood covers all classes together: give target_class=null")

    def pieces(self, case: Case) -> Iterable[Piece]:
        """For a table, one for each denoiser and label; for other data, NELBOs, orders and the truth of each label."""
        if case.is_exact:
            for who, label in product(case.denoisers, LABELS):
                yield case.piece(self._of_table, who, label, label=f"likelihoods, {who} conditionals, {label}")
            return
        num = len(case.data.test_examples()[0])
        part = min(self.num_images, num)
        for label in LABELS:
            what = f"likelihood of the data's own distribution, {label}"
            yield case.piece(self._truth, label, label=what, cost=0.0)
            what = f"NELBO of {num:,} test examples, {label}"
            yield case.piece(self._nelbo, label, label=what, cost=num * NUM_DRAWS)
            for policy, orders in ((None, self.orders), *((name, 1) for name in POLICIES)):
                what = f"{policy or orders} orders of {part} test examples, {label}"
                yield case.piece(self._along, label, policy, orders, label=what, cost=orders * part * case.num_dims)

    def _of_table(self, case: Case, who: str, label: str) -> tuple[Any, ...]:
        """Entropy, NLL, NELBO; (k, bound - NLL, standard error) for each k; (policy, NLL) for each policy."""
        target = case.target
        denoiser = case.denoiser(who)
        parts: list[tuple[float, int | None]] = [(1.0, None)]
        if label == CONDITIONAL:
            parts = [(a, k) for k, a in enumerate(target.class_weights.tolist()) if a > 0]
        exact = [(a, exact_likelihood(target, denoiser, k)) for a, k in parts]
        policies = [(name, sum(a * exact_nll(target, denoiser, k, name) for a, k in parts)) for name in TABLE_POLICIES]
        means = (sum(a * getattr(found, name) for a, found in exact) for name in ("entropy", "nll", "nelbo"))
        return (*means, _excesses(target, denoiser, label, self.orders, case.plan.seed), policies)

    def _truth(self, case: Case, label: str) -> tuple[float, ...] | None:
        """-E ln p(x) of the data's own distribution, if it is known in many dimensions."""
        if not isinstance(case.target, BernoulliMixture | HiddenMarkovMixture):
            return None
        return astuple(Bound.of(-case.target.log_prob(*_labelled(case, label))))

    def _nelbo(self, case: Case, label: str) -> tuple[float, ...]:
        masks = generator_for("likelihood masks", case.plan.seed)
        return astuple(nelbo_bound(case.denoisers[case.judged], *_labelled(case, label), NUM_DRAWS, masks))

    def _along(self, case: Case, label: str, policy: str | None, orders: int) -> Tensor:
        """ln q along orders, (n, orders): random ones, the same with and without the class, or those of a policy."""
        denoiser = case.denoisers[case.judged]
        seed = case.plan.seed
        x, classes = _labelled(case, label)
        part = torch.randperm(len(x), generator=generator_for("likelihood images", seed))[: self.num_images]
        own = None if classes is None else classes[part]
        stream = ("orders", seed) if policy is None else ("ties", seed, policy)
        generator = generator_for(*stream, device=device_of(denoiser))
        with share_shown(f"orders of {policy or 'chance'}") as show:
            found = likelihood(denoiser, x[part], own, orders, policy=policy, generator=generator, progress=show)
        return found.log_probs.cpu()

    def findings(self, case: Case, made: Made) -> Findings:
        """Likelihoods, bounds from k orders, and likelihoods along one order."""
        return self._of_tables(case, made) if case.is_exact else self._of_others(case, made)

    def _of_tables(self, case: Case, made: Made) -> Findings:
        rows: Listed = defaultdict(list)
        bits = 1 / (case.target.num_dims * math.log(2))
        for who, label in product(case.denoisers, LABELS):
            entropy, nll, nelbo, excesses, policies = made.of(self._of_table, who, label)
            rows["likelihoods"].append(LikelihoodRow(who, label, entropy, None, nll, nelbo, None, _less(nelbo, nll)))
            for k, excess, error in excesses if math.isfinite(nelbo) else ():
                value = nll + excess
                rows["bounds"].append(BoundRow(who, label, k, value, error, value * bits, _less(nelbo, value), error))
            for policy, value in policies:
                rows["orders"].append(
                    OrderRow(who, label, policy, value, None, value * bits, _less(nelbo, value), None)
                )
        how = OF_TABLES.format(TABLE_SAMPLES)
        return Findings(case.plan, _blocks(rows, how), verdict_of_table(rows), {"num_samples": TABLE_SAMPLES})

    def _of_others(self, case: Case, made: Made) -> Findings:
        rows: Listed = defaultdict(list)
        who = case.judged
        for label in LABELS:
            nelbo = Bound(*made.of(self._nelbo, label))
            truth = made.of(self._truth, label) or (None, None)
            along = made.of(self._along, label, None, self.orders)
            by_policy = {policy: made.of(self._along, label, policy, 1) for policy in POLICIES}
            is_finite = all(map(math.isfinite, (nelbo.value, *(float(x.sum()) for x in (along, *by_policy.values())))))
            columns: Any = (*truth, None, *(astuple(nelbo) if is_finite else (math.inf, None)), None)
            rows["likelihoods"].append(LikelihoodRow(who, label, *columns))
            if not is_finite:
                continue
            random = Likelihood.of(along)
            for k in random.bounds:
                rows["bounds"].append(BoundRow(who, label, k, *_below(nelbo, random.fall(k), case.num_dims)))
            for policy, one in by_policy.items():
                fall = Bound.of(random.of_each(1) - Likelihood.of(one).of_each(1))
                rows["orders"].append(OrderRow(who, label, policy, *_below(nelbo, fall, case.num_dims)))
        num_test = len(case.data.test_examples()[0])
        facts = {"num_images": min(self.num_images, num_test), "num_test": num_test, "num_draws": NUM_DRAWS}
        how = OF_OTHERS.format(num_test, NUM_DRAWS, facts["num_images"])
        return Findings(case.plan, _blocks(rows, how), verdict_of_bounds(rows, facts["num_images"]), facts)


def _labelled(case: Case, label: str) -> tuple[Tensor, Tensor | None]:
    """All test examples, int64 (n, D), and their classes if the label is "conditional"."""
    x, classes = case.data.test_examples()
    return x.long(), classes if label == CONDITIONAL else None


def _excesses(
    target: TableMixture, denoiser: Denoiser, label: str, most: int, seed: int
) -> list[tuple[int, float, float]]:
    """For each k, the mean excess of samples over their own -ln q(x), which is free of the noise of -ln q(x)."""
    x, drawn = target.sample(TABLE_SAMPLES, generator_for("likelihood", seed))
    classes = drawn if label == CONDITIONAL else None
    found = likelihood(denoiser, x, classes, most, generator=generator_for("orders", seed, device=device_of(denoiser)))
    own = torch.empty(len(x), dtype=torch.float64)
    for k in [None] if classes is None else classes.unique().tolist():
        rows = slice(None) if k is None else classes == k
        own[rows] = -terminal_law(denoiser, Guidance(0.0), k, "uniform")[tuple(x[rows].T)].log()
    return [(k, *astuple(Bound.of(found.of_each(k).cpu() - own))) for k in found.bounds]


def _less(a: float, b: float) -> float:
    """a - b, with a difference of 0 between two infinite values."""
    return 0.0 if a == b else a - b


def _below(nelbo: Bound, fall: Bound, num_dims: int) -> tuple[float, ...]:
    """The NELBO of all examples minus the fall on some of them: bound, its error, bits, the fall, its error.

    The two errors are added as if independent: few examples are in both.
    """
    bound = Bound(nelbo.value - fall.value, math.hypot(nelbo.standard_error, fall.standard_error))
    return *astuple(bound), bound.bits_per_dim(num_dims).value, *astuple(fall)


def _blocks(rows: Listed, how: str) -> list[Block]:
    index = ["denoiser", "label"]
    measured = ["entropy", "entropy_se", "nll", "nelbo", "nelbo_se", "order_gap"]
    caption = "How far the bound from k orders is below the NELBO, at most the order gap. Bands: ± standard error."
    curve = Curve("orders", "fall", index, caption, low="low", high="high", log_x=True)
    values = ["nats", "nats_se", "bits_per_dim", "fall", "fall_se"]
    views: list[View] = [Table([*index, "orders"], values), curve]
    logged = ("nll", "nelbo", "order_gap")
    text = f"{READING}\n\n{how}"
    table = Table(index, measured)
    along = Table([*index, "policy"], values)
    return [
        Block("likelihoods", rows["likelihoods"], "Likelihoods", text, (), [table], logged, group="", printed=True),
        Block("bounds", rows["bounds"], "Bounds from several orders", "", (), views, ("nats",), group=""),
        Block("orders", rows["orders"], "Along one order", ONE_ORDER, views=[along], group="Orders"),
    ]


def verdict_of_table(rows: Listed) -> list[str]:
    """The excess of the network's NLL over the entropy, and whether its orders agree; then the exact denoiser."""
    likelihoods, orders = (rows[name] for name in ("likelihoods", "orders"))
    said = [_of_learned(row) for row in where(likelihoods, denoiser=LEARNED)]
    values = [(_known(row.entropy), v) for row in where(likelihoods, denoiser=EXACT) for v in (row.nll, row.nelbo)]
    entropies = {row.label: _known(row.entropy) for row in likelihoods}
    values += [(entropies[row.label], row.nats) for row in where(orders, denoiser=EXACT)]
    off = max(abs(_less(entropy, _known(value))) for entropy, value in values)
    return [
        *said,
        f"With exact conditionals NLL, NELBO and every order are within {rounded_up(off)} nats of the entropy.",
    ]


def _of_learned(row: LikelihoodRow) -> str:
    nll = _known(row.nll)
    entropy = _known(row.entropy)
    gap = _known(row.order_gap)
    head = f"{LABELS[row.label]}, the network"
    if math.isinf(nll):
        return f"{head} gives probability 0 to examples of the data: its NLL is infinite."
    above, gap = (value if abs(value) >= SAME else 0.0 for value in (nll - entropy, gap))
    return (
        f"{head} is {above:.2g} nats above the entropy of the data (NLL {nll:.5f}, entropy {entropy:.5f}), and its "
        f"order gap is {gap:.2g} nats."
    )


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def verdict_of_bounds(rows: Listed, num_images: int) -> list[str]:
    """The NELBO, how far orders disagree, and the value of the data's own distribution, with the class and without.

    Args:
        num_images: examples that were evaluated along every order.
    """
    said = []
    for row in rows["likelihoods"]:
        head = LABELS[row.label]
        if math.isinf(row.nelbo):
            said.append(f"{head}, an order gives examples probability 0: the NELBO is infinite.")
            continue
        _, best = ends(where(rows["bounds"], label=row.label), "orders")
        known = row.entropy is not None
        own = f"; the data's own distribution has {_nats(_known(row.entropy), row.entropy_se)}" if known else ""
        said.append(f"{head}, the NELBO is {_nats(row.nelbo, row.nelbo_se)}{_of_fall(best, num_images)}{own}.")
    return said


def _of_fall(best: BoundRow, num_images: int) -> str:
    """How far the largest number of orders lowers the bound."""
    bits = f"{short(best.bits_per_dim)} bits per dimension"
    if best.orders == 1:
        return f", {bits}"
    end = "which shows no disagreement between orders"
    if best.fall >= SAME:  # orders that agree on an example lower nothing, so this is not chance
        is_clear = best.fall > student(CLEAR, num_images) * best.fall_se
        gap = "is clearly above 0" if is_clear else f"is not clear from {num_images} examples"
        end = f"so orders disagree, and the order gap {gap}"
    fall = f"{short(best.fall)} ± {short(best.fall_se)}"
    bound = _nats(best.nats, best.nats_se)
    return f"; {best.orders} orders lower the bound by {fall} to {bound} ({bits}), {end}"


def _nats(value: float, error: float | None) -> str:
    return f"{value:.2f} ± {_known(error):.2f} nats"
