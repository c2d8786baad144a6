"""What the study of likelihoods finds: of a table exactly, of everything else by bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdlm_cfg.compare.likelihood import Bound
from mdlm_cfg.studies.plain import to_plain
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan

Orders = int | str  # a number of random orders, or the policy that one order is by
LABELS = {"conditional": "with the class", "null": "without a class"}


@dataclass(frozen=True)
class TableEntry:
    """The likelihoods of one denoiser of a table, in nats per sample.

    Attributes:
        scores: "exact" or "learned". label: "conditional", the mean over the classes, or "null".
        entropy: of the data: what no law is below.
        nll: of the law of the uniform order. nelbo: the bound from one order. Both exact.
        bounds: by number of orders: `nll` and the mean excess over -ln q(x) of drawn samples, with its standard error.
        policies: NLL of the law of a policy's order, exact, by its name.
    """

    scores: str
    label: str
    entropy: float
    nll: float
    nelbo: float
    bounds: dict[int, Bound]
    policies: dict[str, float]

    @property
    def incoherence(self) -> float:
        """NELBO - NLL: 0 where all orders agree."""
        return self.nelbo - self.nll

    def row(self) -> dict[str, Any]:
        """Its numbers under flat names."""
        return {
            "scores": self.scores,
            "label": self.label,
            "entropy": self.entropy,
            "nll": self.nll,
            "nelbo": self.nelbo,
            "incoherence": self.incoherence,
            **{f"bound_{k}": bound.value for k, bound in self.bounds.items()},
            **{f"bound_{k}_se": bound.standard_error for k, bound in self.bounds.items()},
            **{f"nll_{name}": value for name, value in self.policies.items()},
        }


@dataclass(frozen=True)
class TableLikelihoodFindings:
    """Likelihoods of a table's exact denoiser, and of the learned one where there is one.

    Attributes:
        plan: what was asked for. num_samples: drawn for the bounds.
        entries: by scores and label.
    """

    plan: Plan
    num_samples: int
    entries: list[TableEntry]

    def of(self, scores: str) -> list[TableEntry]:
        """The entries of one denoiser; none for "learned" where nothing was learned."""
        return [entry for entry in self.entries if entry.scores == scores]

    @property
    def verdict(self) -> list[str]:
        """What was found, in sentences."""
        off = max(
            max(abs(value - e.entropy) for value in (e.nll, e.nelbo, *e.policies.values())) for e in self.of("exact")
        )
        sentences = [f"With exact scores NLL, NELBO and every order agree with the entropy, to {off:.1e} nats."]
        return sentences + [_of_learned(entry) for entry in self.of("learned")]

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each denoiser and label."""
        return [entry.row() for entry in self.entries]

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "nll_learned_conditional", and so on."""
        return {
            f"{name}_{e.scores}_{e.label}": float(getattr(e, name))
            for e in self.entries
            for name in ("nll", "nelbo", "incoherence")
        }

    def to_dict(self) -> dict[str, Any]:
        """What report.json holds (docs/report.md)."""
        return to_plain(_head(self.plan, self.verdict, self.rows()) | {"num_samples": self.num_samples})

    def arrays(self) -> Mapping[str, np.ndarray]:
        """None."""
        return {}


def _of_learned(entry: TableEntry) -> str:
    best, worst = (pick(entry.policies, key=entry.policies.__getitem__) for pick in (min, max))
    return (
        f"{LABELS[entry.label].capitalize()} the network's own law has an NLL of {entry.nll:.5f} nats, "
        f"{entry.nll - entry.entropy:.1e} above the entropy of the data; its NELBO is {entry.incoherence:.1e} above "
        f"that (the incoherence). Of the deterministic orders {best} has the smallest NLL, {entry.policies[best]:.5f}, "
        f"and {worst} the largest, {entry.policies[worst]:.5f}."
    )


@dataclass(frozen=True)
class LabelBounds:
    """Bounds of the NLL with the class or without it, in nats per example.

    Attributes:
        nelbo: of all test examples, by random masks.
        alone: by number of orders, of the examples taken apart and no others.
        falls: by number of orders, and by policy, how far they are below the bound from one random order, on the same
            examples; negative where a policy's order is worse than random ones on average.
        truth: -E ln p(x) of the data's own distribution over all test examples; None where it is not known.
    """

    nelbo: Bound
    alone: dict[int, Bound]
    falls: dict[Orders, Bound]
    truth: Bound | None

    def bound(self, orders: Orders) -> Bound:
        """The NELBO of all test examples, less the fall that a part of them shows.

        The two errors are added as if independent: few of the examples are in both.
        """
        fall = self.falls[orders]
        error = (self.nelbo.standard_error**2 + fall.standard_error**2) ** 0.5
        return Bound(self.nelbo.value - fall.value, error)


@dataclass(frozen=True)
class BoundsFindings:
    """Likelihoods of a denoiser too large for its law.

    Attributes:
        plan: what was asked for. scores: "exact" or "learned".
        num_dims: D. num_images: examples taken apart. num_test: all test examples. num_draws: masks for each.
        by_label: "conditional" and "null".
    """

    plan: Plan
    scores: str
    num_dims: int
    num_images: int
    num_test: int
    num_draws: int
    by_label: dict[str, LabelBounds]

    @property
    def orders(self) -> list[int]:
        """Numbers of random orders, ascending."""
        return list(self.by_label["null"].alone)

    @property
    def policies(self) -> list[str]:
        """The policies that one order is by."""
        return [orders for orders in self.by_label["null"].falls if isinstance(orders, str)]

    @property
    def verdict(self) -> list[str]:
        """What was found, in sentences."""
        most, sentences = self.orders[-1], []
        for label, found in self.by_label.items():
            best, fall = found.bound(most), found.falls[most]
            sentences.append(
                f"{LABELS[label].capitalize()} the NELBO is {_nats(found.nelbo)}; {most} orders bring the bound down "
                f"by {_plus_minus(fall)} (the incoherence is at least that) to {_nats(best)}, "
                f"{_bits(best, self.num_dims)}."
            )
            orders = ", ".join(f"{name} {_nats(found.bound(name))}" for name in self.policies)
            sentences.append(f"{LABELS[label].capitalize()}, along one order of a policy: {orders}.")
            if found.truth is not None:
                sentences.append(f"The data's own distribution has {_nats(found.truth)} there.")
        return sentences

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each label and number of orders or policy."""
        return [row for label, found in self.by_label.items() for row in self._rows(label, found)]

    def _rows(self, label: str, found: LabelBounds) -> list[dict[str, Any]]:
        rows = []
        for orders, fall in found.falls.items():
            by_policy, bound = isinstance(orders, str), found.bound(orders)
            rows.append(
                {
                    "label": label,
                    "policy": orders if by_policy else "uniform",
                    "orders": 1 if by_policy else orders,
                    "nats": bound.value,
                    "nats_se": bound.standard_error,
                    "bits_per_dim": bound.bits_per_dim(self.num_dims).value,
                    "fall": fall.value,
                    "fall_se": fall.standard_error,
                }
            )
        return rows

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "bound_conditional_16", and so on."""
        return {
            f"bound_{label}_{orders}": found.bound(orders).value
            for label, found in self.by_label.items()
            for orders in found.falls
        }

    def to_dict(self) -> dict[str, Any]:
        """What report.json holds (docs/report.md)."""
        more = {
            "scores": self.scores,
            "num_dims": self.num_dims,
            "num_images": self.num_images,
            "num_test": self.num_test,
            "num_draws": self.num_draws,
            "nelbo": {label: found.nelbo for label, found in self.by_label.items()},
            "truth": {label: found.truth for label, found in self.by_label.items()},
            "alone": {label: found.alone for label, found in self.by_label.items()},
        }
        return to_plain(_head(self.plan, self.verdict, self.rows()) | more)

    def arrays(self) -> Mapping[str, np.ndarray]:
        """None."""
        return {}


def _head(plan: Plan, verdict: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"version": REPORT_VERSION, "plan": plan.describe(), "likelihoods": rows, "verdict": verdict}


def _plus_minus(bound: Bound) -> str:
    return f"{bound.value:.2f} ± {bound.standard_error:.2f}"


def _nats(bound: Bound) -> str:
    return f"{_plus_minus(bound)} nats"


def _bits(bound: Bound, num_dims: int) -> str:
    bits = bound.bits_per_dim(num_dims)
    return f"{bits.value:.4f} ± {bits.standard_error:.4f} bits per dimension"
