"""Every unmasking policy against the class and the tilted law, by exact laws (theory, section 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.chain.policies import POLICIES, Blocks, Confidence, Policy
from mdlm_cfg.compare.metrics import kl_divergence, total_variation
from mdlm_cfg.laws.stepped import freeze
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, Sampler
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.policies.findings import PolicyFindings, PolicyRow
from mdlm_cfg.studies.table.asked import check_table, known_table
from mdlm_cfg.studies.table.distances import check_space, table_of
from mdlm_cfg.studies.table.equal_cost import is_small
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces

TOGETHER = (1, 2, 4)  # coordinates a step, and all at once


@dataclass(frozen=True)
class Policies:
    """The exact distance of every policy's law to the class and to the tilted law, for exact and learned scores.

    The policies are all that have a name, blocks of halves by confidence, confidence with Gumbel noise, and the plan's
    own. Nothing is sampled: of the plan's sampler only the policy counts.

    Args:
        gumbel: temperature of the Gumbel noise.

    Raises:
        UserError: a temperature that is not positive and finite.
    """

    gumbel: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.gumbel < float("inf"):
            raise UserError(f"study.gumbel = {self.gumbel} is not allowed: it must be above 0 and finite")

    def check(self, data: Any, plan: Plan) -> None:
        """See `mdlm_cfg.studies.study.Study`."""
        check_table(known_table(data, "study=policies"), plan, data.name)

    def run(
        self,
        data: Any,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> PolicyFindings:
        """See `mdlm_cfg.studies.study.Study`."""
        target = known_table(data, "study=policies")
        check_space(target, denoiser)
        z, d = check_table(target, plan, data.name), target.num_dims
        denoisers: dict[str, Denoiser] = {"exact": target.denoiser()}
        if denoiser is not None:
            denoisers["learned"] = table_of(denoiser) or denoiser
        policies, steps = asked_policies(d, self.gumbel, plan.sampler.policy), steps_of(target.num_tokens, d)
        say = Pieces([1] * (len(plan.guidances) * len(denoisers)), progress)
        rows = []
        for guidance in plan.guidances:
            references = {"class": target.class_pmf(z)}
            if not guidance.is_schedule:
                references["tilted"] = tilted_law(target, guidance.constant, z)
            for name, source in denoisers.items():
                say(f"{len(policies)} policies, {name} scores, w = {guidance.label}")
                for policy, together, law in laws_of(source, guidance, z, policies, steps):
                    rows.append(_row(guidance, name, policy, together, law, references))
        return PolicyFindings(plan, z, d, rows)


def asked_policies(num_dims: int, gumbel: float, own: Policy | None) -> list[Policy]:
    """Every policy that is compared on D coordinates: each once, the plan's own last."""
    policies = [make() for make in POLICIES.values()]
    half = num_dims // 2
    if half:
        policies.append(Blocks([range(half), range(half, num_dims)], within=Confidence()))
    policies.append(Confidence(temperature=gumbel))
    return policies if own is None or own in policies else [*policies, own]


def steps_of(num_tokens: int, num_dims: int) -> list[int]:
    """How many coordinates a step unmasks: 1, 2, 4, and all of them; 1 alone where the laws of steps take minutes."""
    return sorted({k for k in TOGETHER if k < num_dims} | {num_dims}) if is_small(num_tokens, num_dims) else [1]


def laws_of(
    denoiser: Denoiser, guidance: Guidance, target_class: int, policies: Sequence[Policy], steps: Sequence[int]
) -> Iterator[tuple[Policy, int, Tensor]]:
    """The exact law of finished states, (N,)*D, of every policy and number of coordinates a step."""
    given = replace(guidance, kind=KINDS["rate"])
    chain = freeze(denoiser, given, target_class) if max(steps) > 1 else None
    for policy in policies:
        for together in steps:
            if together == 1:
                yield policy, together, terminal_law(denoiser, given, target_class, policy)
            else:
                sampler = Sampler(EVENT_LEAPING, events=together, policy=policy)
                yield policy, together, sampler.law(denoiser, given, target_class, chain)


def _row(
    guidance: Guidance, denoiser: str, policy: Policy, together: int, law: Tensor, references: dict[str, Tensor]
) -> PolicyRow:
    tv = {name: total_variation(reference, law) for name, reference in references.items()}
    kl = {name: kl_divergence(reference, law) for name, reference in references.items()}
    return PolicyRow(
        guidance, denoiser, str(policy), together, -(-law.ndim // together),
        tv["class"], kl["class"], tv.get("tilted"), kl.get("tilted"),
    )  # fmt: skip
