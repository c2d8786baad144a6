"""The findings of a table in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.compare.ledger import Ledger
from mdlm_cfg.studies.table.distances import TableEvaluation
from mdlm_cfg.studies.table.strength import StrengthEvaluation

NOTHING = 1e-12  # what is smaller is rounding


def verdict_of(evaluation: TableEvaluation, entries: Sequence[Ledger]) -> list[str]:
    """What guidance did, what the network has wrong, what steps and samples add, and whether the ledger closes."""
    e = evaluation
    numbers = [result for result in e.results if not result.guidance.is_schedule]
    schedules = [result for result in e.results if result.guidance.is_schedule]
    judged = [max(numbers, key=lambda result: result.w)] if numbers else []
    judged += schedules  # of the numbers the strongest, and every schedule
    sentences = [_of_the_guidance(result, e.plan.sampler.policy) for result in judged]
    errors = [(result.score_error, result.guidance.label) for result in e.results if result.score_error is not None]
    if errors:
        worst, at = max(errors, key=lambda pair: pair[0])
        sentences.append(
            f"The network's own law is {judged[0].score_error:.4f} from the exact one at w = "
            f"{judged[0].guidance.label}; at worst it is {worst:.4f}, at w = {at}."
        )
    elif e.judged == "learned":
        sentences.append("The network is too large for its own exact law: its samples are held against the exact one.")
    sentences += _of_the_sampler(e, judged[0].guidance, entries)
    if entries:
        left = [f"w = {entry.guidance.label}, {entry.sampler.label}" for entry in entries if not entry.closes]
        missed = f"{len(left)} of its {len(entries)} entries ({'; '.join(left)})"
        sentences.append(
            f"The ledger closes in all of its {len(entries)} entries."
            if not left
            else f"The ledger does not close in {missed}; one in a hundred is expected to miss."
        )
    elif e.follows is not None:
        sentences.append(
            f"There is no ledger: the law of {e.plan.sampler.label} on {e.num_tokens} values in {e.num_dims} "
            "dimensions is out of reach; first_hitting needs none."
        )
    return sentences


def _of_the_guidance(result: StrengthEvaluation, policy: Policy | None) -> str:
    guidance, gap = result.guidance, result.tv("tilted", "exact")
    order = guidance.kind if policy is None else policy
    sentence = (
        f"At w = {guidance.label} ({order}) guidance moves the law by {result.guidance_effect:.4f} in total variation"
    )
    if gap is None:
        return f"{sentence}; a schedule has no tilted law."
    if gap < NOTHING:
        return f"{sentence}, to the tilted law."
    return f"{sentence}, and ends {gap:.4f} away from the tilted law."


def _of_the_sampler(evaluation: TableEvaluation, guidance: Guidance, entries: Sequence[Ledger]) -> list[str]:
    sampler = evaluation.plan.sampler
    own = [entry for entry in entries if entry.guidance == guidance and entry.sampler == sampler]
    if not own:
        return []
    steps, noise = own[0].tv["discretisation error"], own[0].expected_noise
    made = "makes no time error" if steps < NOTHING else f"adds {steps:.4f} by its steps"
    return [f"The sampler ({sampler.label}) {made}; {own[0].num_samples:,} samples alone show {noise:.4f} of noise."]
