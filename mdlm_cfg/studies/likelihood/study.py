"""Likelihoods of data: of a table exactly, of everything else by the bounds from k orders (theory, section 14)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.likelihood import Bound, Likelihood, exact_likelihood, exact_nll, likelihood, nelbo_bound
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.studies.likelihood.findings import BoundsFindings, LabelBounds, TableEntry, TableLikelihoodFindings
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.preconditions import LEARNED_LAW_ENTRIES, check_space, table_of
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces, share_shown
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.table import TableMixture

TABLE_SAMPLES = 2000  # drawn of a table for its bounds
TABLE_POLICIES = ("fixed_order", "confidence", "margin", "entropy")
POLICIES = ("fixed_order", "confidence")  # of everything else: an order costs as much as a random one
NUM_DRAWS = 2  # masks per test example for the NELBO


@dataclass(frozen=True)
class LikelihoodStudy:
    """NLL, NELBO, and what is between them, with the class and without; of the unguided chain, whatever w is.

    Args:
        orders: k, the most orders that a bound is from.
        num_images: test examples that are taken apart order by order, at orders * D rows each; of tables all is exact.

    Raises:
        UserError: fewer than one order, or than two examples.
    """

    orders: int = 16
    num_images: int = 16

    def __post_init__(self) -> None:
        if self.orders < 1:
            raise UserError(f"study.orders = {self.orders} must be at least 1")
        if self.num_images < 2:
            raise UserError(f"study.num_images = {self.num_images} must be at least 2: one has no standard error")

    def check(self, data: Any, plan: Plan) -> None:
        """See `mdlm_cfg.studies.study.Study`."""
        if plan.classes is not None:
            raise UserError("study=likelihood is of all classes together: give target_class=null")
        if any(guidance.filters for guidance in plan.guidances):
            raise UserError("study=likelihood is of conditionals as they are: leave temperature and top_p away")

    def _is_exact(self, target: Any) -> bool:
        """Whether all is exact: of a table that is small enough."""
        if not isinstance(target, TableMixture):
            return False
        n, d = target.num_tokens, target.num_dims
        return (n + 1) ** d * n * d <= LEARNED_LAW_ENTRIES

    def _rows(self, x: Tensor) -> list[int]:
        """How many rows each piece asks of the denoiser, of test examples (n, D): NELBOs, and orders of some."""
        along = min(self.num_images, len(x)) * (self.orders + len(POLICIES)) * x.shape[1]
        return [len(x) * NUM_DRAWS] * 2 + [along] * 2

    def run(
        self,
        data: Any,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> TableLikelihoodFindings | BoundsFindings:
        """See `mdlm_cfg.studies.study.Study`."""
        if self._is_exact(data.target):
            return self._table(data.target, denoiser, plan, progress)
        return self._bounds(data, denoiser, plan, progress, keep)

    def _table(
        self, target: TableMixture, denoiser: Denoiser | None, plan: Plan, progress: Callable[[str], None]
    ) -> TableLikelihoodFindings:
        check_space(target, denoiser)
        denoisers: dict[str, Denoiser] = {"exact": target.denoiser()}
        if denoiser is not None:
            denoisers["learned"] = table_of(denoiser) or denoiser
        say, entries = Pieces([1] * 2 * len(denoisers), progress), []
        for scores, own in denoisers.items():
            for label in ("conditional", "null"):
                say(f"likelihoods of {scores} scores, {label}")
                entries.append(self._entry(target, own, scores, label, plan.seed))
        return TableLikelihoodFindings(plan, TABLE_SAMPLES, entries)

    def _entry(self, target: TableMixture, denoiser: Denoiser, scores: str, label: str, seed: int) -> TableEntry:
        parts: list[tuple[float, int | None]] = [(1.0, None)]
        if label == "conditional":
            parts = [(a, k) for k, a in enumerate(target.class_weights.tolist()) if a > 0]
        exact = [(a, exact_likelihood(target, denoiser, k)) for a, k in parts]
        policies = {name: sum(a * exact_nll(target, denoiser, k, name) for a, k in parts) for name in TABLE_POLICIES}
        nll = sum(a * found.nll for a, found in exact)
        return TableEntry(
            scores, label,
            entropy=sum(a * found.entropy for a, found in exact), nll=nll,
            nelbo=sum(a * found.nelbo for a, found in exact),
            bounds=self._table_bounds(target, denoiser, label, nll, seed), policies=policies,
        )  # fmt: skip

    def _table_bounds(
        self, target: TableMixture, denoiser: Denoiser, label: str, nll: float, seed: int
    ) -> dict[int, Bound]:
        """The exact NLL and the mean excess of drawn samples over their own -ln q(x): without the noise of -ln q(x)."""
        x, drawn = target.sample(TABLE_SAMPLES, generator_for("likelihood", seed))
        classes = drawn if label == "conditional" else None
        generator = generator_for("orders", seed, device=device_of(denoiser))
        found = likelihood(denoiser, x, classes, self.orders, generator=generator)
        own = torch.empty(len(x), dtype=torch.float64)
        for k in [None] if classes is None else classes.unique().tolist():
            rows = slice(None) if k is None else classes == k
            own[rows] = -terminal_law(denoiser, Guidance(0.0), k, "uniform")[tuple(x[rows].T)].log()
        bounds = {}
        for size in found.bounds:
            excess = Bound.of(found.of_each(size).cpu() - own)
            bounds[size] = Bound(nll + excess.value, excess.standard_error)
        return bounds

    def _bounds(
        self, data: Any, denoiser: Denoiser | None, plan: Plan, progress: Callable[[str], None], keep: Keep
    ) -> BoundsFindings:
        used = denoiser if denoiser is not None else data.target.denoiser()
        x, classes = data.test_examples()
        x = x.long()
        chosen = torch.randperm(len(x), generator=generator_for("likelihood images", plan.seed))[: self.num_images]
        say = Pieces(self._rows(x), progress)
        by_label, nelbos = {}, {}
        for label, labels in (("conditional", classes), ("null", None)):
            say(f"NELBO of {len(x):,} test examples, {label}")
            masks = generator_for("likelihood masks", plan.seed)
            nelbos[label] = Bound(*keep(("nelbo", label, plan.seed), partial(_nelbo, used, x, labels, masks)))
        for label, labels in (("conditional", classes), ("null", None)):
            say(f"{self.orders} orders of {len(chosen)} test examples, {label}")
            own = None if labels is None else labels[chosen]
            found, by_policy = self._along_orders(used, x[chosen], own, plan.seed, keep)
            by_label[label] = LabelBounds(
                nelbo=nelbos[label],
                alone=found.bounds,
                falls={k: found.fall(k) for k in found.bounds}
                | {name: Bound.of(found.of_each(1) - one.of_each(1)) for name, one in by_policy.items()},
                truth=_truth(data.target, x, labels),
            )
        scores = "exact" if denoiser is None else "learned"
        return BoundsFindings(plan, scores, used.num_dims, len(chosen), len(x), NUM_DRAWS, by_label)

    def _along_orders(
        self, denoiser: Denoiser, x: Tensor, classes: Tensor | None, seed: int, keep: Keep
    ) -> tuple[Likelihood, dict[str, Likelihood]]:
        """Random orders, the same with classes and without, and one order of each policy."""

        def along(what: str, orders: int, policy: str | None, *stream: int | str) -> Likelihood:
            def ask() -> Tensor:
                generator = generator_for(*stream, device=device_of(denoiser))
                with share_shown(what) as show:
                    return likelihood(
                        denoiser, x, classes, orders, policy=policy, generator=generator, progress=show
                    ).log_probs.cpu()

            return Likelihood.of(keep(("orders", x.shape, classes is None, orders, *stream), ask))

        return along(f"{self.orders} orders", self.orders, None, "orders", seed), {
            name: along(f"order of {name}", 1, name, "ties", seed, name) for name in POLICIES
        }


def _nelbo(denoiser: Denoiser, x: Tensor, labels: Tensor | None, generator: torch.Generator) -> tuple[float, ...]:
    return astuple(nelbo_bound(denoiser, x, labels, NUM_DRAWS, generator))


def _truth(target: Any, x: Tensor, classes: Tensor | None) -> Bound | None:
    """-E ln p(x) of the data's own distribution, where it is known in many dimensions."""
    if not isinstance(target, BernoulliMixture):
        return None
    return Bound.of(-target.log_prob(x, classes))
