"""Laws of several guidances side by side, and claims on one of their numbers, for exact and learned conditionals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.studies.evaluation import TableEvaluation
from mdlm_cfg.studies.paper.claims import ABSENT, Claim, verdict
from mdlm_cfg.support.numbers import short
from mdlm_cfg.targets.table import TableMixture, entropy_of

LawOf = Callable[[Denoiser, float], Tensor]  # of a denoiser and a strength w


@dataclass(frozen=True)
class Laws:
    """The laws of several schedules at one strength, of one denoiser.

    Attributes:
        w: the strength. target, target_class: what is guided, and to which class.
        tilted: the tilted law of strength w.
        by_name: (N,)*D each; "class" is the chain's terminal law at w = 0.
    """

    w: float
    target: TableMixture
    target_class: int
    tilted: Tensor
    by_name: dict[str, Tensor]

    def gap(self, name: str) -> float:
        """TV(tilted, law)."""
        return total_variation(self.tilted, self.by_name[name])

    def effect(self, name: str) -> float:
        """TV(class, law)."""
        return self.between("class", name)

    def between(self, first: str, second: str) -> float:
        """TV between two laws."""
        return total_variation(self.by_name[first], self.by_name[second])

    def mistaken(self, name: str) -> float:
        """1 - E p(z | x) under the law."""
        return float((self.by_name[name] * (1 - self.target.class_posterior(self.target_class))).sum())

    def entropy(self, name: str) -> float:
        """In nats."""
        return entropy_of(self.by_name[name])


Number = Callable[[Laws, str], float]


@dataclass(frozen=True)
class Both:
    """The same laws with exact conditionals and, if there is a network, with its own: one entry for each w > 0."""

    exact: list[Laws]
    learned: list[Laws]

    def claim(self, statement: str, number: Number, names: Sequence[str], holds: Callable[[Laws], bool]) -> Claim:
        """A claim on one number of several laws, judged by the exact ones at every strength."""
        exact, learned = (_values(laws, number, names) for laws in (self.exact, self.learned))
        where = [laws.w for laws in self.exact if holds(laws)]
        return Claim(statement, exact, learned, verdict_at(where, [laws.w for laws in self.exact]))


def _values(found: Sequence[Laws], number: Number, names: Sequence[str]) -> str:
    """Text such as "early 0.1234, late 0.0123 (w = 1); ..."; "-" without laws."""
    parts = [f"{', '.join(f'{name} {short(number(laws, name))}' for name in names)} (w = {laws.w:g})" for laws in found]
    return "; ".join(parts) or ABSENT


def verdict_at(where: Sequence[float], tested: Sequence[float]) -> str:
    """The verdict on a claim that holds at the strengths `where` among all that were tested."""
    if not where or len(where) == len(tested):
        return verdict(bool(where))
    return f"holds at w = {', '.join(f'{w:g}' for w in where)} alone"


def laws_of(e: TableEvaluation, made: Mapping[str, LawOf]) -> Both:
    """Laws by name at the plan's strengths w > 0."""
    guided = [r for r in e.results if r.w > 0]

    def of(used: Denoiser) -> list[Laws]:
        return [
            Laws(r.w, e.target, e.target_class, r.laws["tilted"], {n: law(used, r.w) for n, law in made.items()})
            for r in guided
        ]

    return Both(of(e.target.denoiser()), [] if e.learned is None else of(e.learned))


def terminal(e: TableEvaluation, guidance: Callable[[float], Guidance]) -> LawOf:
    """The terminal law of the chain under guidance of strength w."""
    z = e.target_class
    policy = e.case.plan.sampler.policy
    return lambda denoiser, w: terminal_law(denoiser, guidance(w), z, policy)
