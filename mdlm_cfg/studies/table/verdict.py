"""The findings of a table in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from mdlm_cfg.compare.ledger import Ledger
from mdlm_cfg.studies.table.distances import TableEvaluation

NOTHING = 1e-12  # what is smaller is rounding


def verdict_of(evaluation: TableEvaluation, entries: Sequence[Ledger]) -> list[str]:
    """What guidance did, what the network has wrong, what steps and samples add, and whether the ledger closes."""
    e = evaluation
    strongest = max(e.results, key=lambda result: result.w)
    at = f"w = {strongest.w:g} ({strongest.guidance.kind})"
    sentences = [
        f"At {at} guidance moves the law by {strongest.guidance_effect:.4f} in total variation, "
        + (
            "to the tilted law."
            if strongest.gap_to_tilted < NOTHING
            else f"and ends {strongest.gap_to_tilted:.4f} away from the tilted law."
        )
    ]
    if strongest.score_error is not None:
        worst = max(e.results, key=lambda result: result.score_error or 0.0)
        sentences.append(
            f"The network's own law is {strongest.score_error:.4f} from the exact one there; at worst it is "
            f"{worst.score_error:.4f}, at w = {worst.w:g}."
        )
    elif e.judged == "learned":
        sentences.append("The network is too large for its own exact law: its samples are held against the exact one.")
    sentences += _of_the_sampler(e, strongest.w, entries)
    if entries:
        left = [f"w = {entry.w:g}, {entry.sampler.label}" for entry in entries if not entry.closes]
        missed = f"{len(left)} of its {len(entries)} entries ({'; '.join(left)})"
        sentences.append(
            f"The ledger closes in all of its {len(entries)} entries."
            if not left
            else f"The ledger does not close in {missed}; one in a hundred is expected to miss."
        )
    return sentences


def _of_the_sampler(evaluation: TableEvaluation, w: float, entries: Sequence[Ledger]) -> list[str]:
    sampler = evaluation.plan.sampler
    own = [entry for entry in entries if entry.w == w and entry.sampler == sampler]
    if not own:
        return []
    steps, noise = own[0].tv["discretisation error"], own[0].expected_noise
    made = "makes no time error" if steps < NOTHING else f"adds {steps:.4f} by its steps"
    return [f"The sampler ({sampler.label}) {made}; {own[0].num_samples:,} samples alone show {noise:.4f} of noise."]
