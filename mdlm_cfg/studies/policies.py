"""study=policies: every unmasking policy against the class and the tilted distribution, exactly (theory, 10)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from mdlm_cfg.chain.guidance import Guidance, effective_guidance
from mdlm_cfg.chain.policies import POLICIES, Blocks, Confidence, Policy
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.terminal import tilted_law
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, Sampler
from mdlm_cfg.studies.common import TABLE
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_tv
from mdlm_cfg.studies.plan import refuse_namesakes
from mdlm_cfg.studies.protocol import Case, Made, Needs, Piece, Rows
from mdlm_cfg.studies.rows import OfDenoiser, by, least_and_most, strongest, where
from mdlm_cfg.studies.samplers import is_small

GUMBEL = 0.5  # temperature of the noise of one confidence policy
TOGETHER = (1, 2, 4)  # coordinates per step, besides all of them at once
SAME = 1e-9  # distances closer than this count as equal in the verdict
DISTANCE = "the total variation to the tilted distribution"
READING = """\
A policy chooses which coordinate is unmasked next; guidance chooses its value. All distributions are exact: nothing \
is sampled. With several coordinates per step, the state is frozen: the policy draws the coordinates one by one \
without replacement, and their values are drawn independently.

With exact conditionals, w = 0 and one coordinate per step, every order samples the class exactly. With guidance the \
order matters. It also matters with several coordinates per step, and with learned conditionals even at w = 0."""


@dataclass(frozen=True)
class PolicyRow(OfDenoiser):
    """The exact distribution of one policy, compared with the class and the tilted distribution."""

    policy: str = col("policy", "order of unmasking", index=True)
    together: int = col("per step", "number of coordinates unmasked in one step, with the state frozen", index=True)
    tv_class: float = in_tv("TV to the class", "total variation to p(. | z)")
    tv_tilted: float | None = in_tv(
        "TV to the tilted distribution",
        "total variation to the tilted distribution; absent for a schedule, which has none",
    )


@dataclass(frozen=True)
class Policies:
    """The exact distance of every policy to the class and to the tilted distribution."""

    needs: ClassVar[Needs] = Needs(**TABLE, one_class=True, guided=True)
    rows: ClassVar[Rows] = {"policies": PolicyRow}

    def pieces(self, case: Case) -> Iterable[Piece]:
        """One piece for each strength and denoiser: the distributions of all policies."""
        for g, who in case.by_denoiser():
            label = f"policies, {who} conditionals, w = {g.label}"
            yield case.piece(self._distances, g, who, label=label)

    def _distances(self, case: Case, guidance: Guidance, who: str) -> list[tuple[Any, ...]]:
        """The columns from `policy` on, of every policy and number of coordinates per step."""
        target = case.target
        z = case.one_class
        of_class = target.class_pmf(z)
        tilted = None if guidance.is_schedule else tilted_law(target, guidance.constant, z)
        found = []
        policies = compared_policies(target.num_dims, case.plan.sampler.policy)
        for policy, k in product(policies, steps_of(target.num_tokens, target.num_dims)):
            law = sampler_of(policy, k).law(case.denoiser(who), effective_guidance(guidance, policy), z)
            to_tilted = None if tilted is None else total_variation(tilted, law)
            found.append((str(policy), k, total_variation(of_class, law), to_tilted))
        return found

    def findings(self, case: Case, made: Made) -> Findings:
        """A row for each strength, denoiser, policy and number of coordinates per step."""
        rows = [
            PolicyRow(g, who, *found) for g, who in case.by_denoiser() for found in made.of(self._distances, g, who)
        ]
        views = [*_views("tilted", "the tilted distribution"), *_views("class", "the class")]
        about = ("Distance of every policy", READING, ("w", "denoiser"), views, ("tv_class", "tv_tilted"))
        block = Block("policies", rows, *about, group="Policies", printed=True)
        return Findings(case.plan, [block], verdict_of(rows), {"target_class": case.one_class})


def _views(to: str, reference: str) -> list[View]:
    return [
        Table(["policy"], [f"tv_{to}"], "together", f"Exact total variation to {reference}."),
        Curve("together", f"tv_{to}", ["policy"], f"Exact total variation to {reference}."),
    ]


def sampler_of(policy: Policy, together: int) -> Sampler:
    """The sampler that unmasks `together` coordinates per step, in the order of a policy."""
    return Sampler(policy=policy) if together == 1 else Sampler(EVENT_LEAPING, events=together, policy=policy)


def compared_policies(num_dims: int, own: Policy | None) -> list[Policy]:
    """Every policy that is compared on D coordinates, each once; the plan's own is last."""
    policies = [make() for make in POLICIES.values()]
    if half := num_dims // 2:
        policies.append(Blocks([range(half), range(half, num_dims)], within=Confidence()))
    policies.append(Confidence(temperature=GUMBEL))
    found = policies if own is None or own in policies else [*policies, own]
    refuse_namesakes("policies", {policy: str(policy) for policy in found})
    return found


def steps_of(num_tokens: int, num_dims: int) -> list[int]:
    """The numbers of coordinates per step: 1, 2, 4 and all; only 1 if distributions of steps take minutes."""
    if not is_small(num_tokens, num_dims):
        return [1]
    return sorted({k for k in TOGETHER if k < num_dims} | {num_dims})


def verdict_of(rows: Sequence[PolicyRow]) -> list[str]:
    """Which policy is nearest to the tilted distribution, with one coordinate per step at the strongest guidance."""
    numbers = where([row for row in rows if not row.w.is_schedule], together=1)
    said = []
    for who, own in by(numbers, "denoiser"):
        top = strongest(own)
        head = f"At w = {top.label}, with {who} conditionals and one coordinate per step, "
        said.append(head + least_and_most(DISTANCE, where(own, w=top), "tv_tilted", "policy", SAME))
    if any(row.w.is_schedule for row in rows):
        said.append("A schedule has no tilted distribution, so its distances are only to the class.")
    return said
