"""Claims of arXiv 2506.10971, compared with exact laws, a trained network's exact law, and samples.

One function per experiment (experiment=paper/... in the configs) makes claims, each with the exact value, the learned
value and a computed verdict. This module has their parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.decay import Decay, log_still_masked, tv_decay
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.evaluation import StrengthEvaluation, TableEvaluation
from mdlm_cfg.studies.findings import col
from mdlm_cfg.support.numbers import short

ABSENT = "-"  # if nothing was learned
SAME = 1e-10  # laws closer than this are equal
DECAY_TAU = 0.5
DECAY_STRENGTHS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
DECAY_GUIDANCES = tuple(Guidance(w) for w in DECAY_STRENGTHS)
PAPER_STEPS = 50
PAPER_SAMPLER = Sampler("tau_leaping", PAPER_STEPS)


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, and whether it holds."""

    statement: str = col("the paper", "a statement in our words, with its place in the paper", index=True)
    exact: str = col("exact", "values from exact distributions")
    learned: str = col("learned", "values from the trained network's exact distribution")
    verdict: str = col("verdict", "whether, or in which sense, the statement holds; computed from the exact values")


@dataclass(frozen=True)
class PaperResult:
    """The claims of an experiment, with tables beside them: (title, columns, rows)."""

    claims: list[Claim]
    tables: Sequence[tuple[str, list[str], list[list[str]]]] = ()


Experiment = Callable[[TableEvaluation], PaperResult]


def verdict(holds: bool) -> str:
    """In words."""
    return "holds" if holds else "does not hold"


def per_w(e: TableEvaluation, value: Callable[[StrengthEvaluation], float]) -> str:
    """A number for every strength, such as "0.1234 (w = 1), 0.2345 (w = 2)"."""
    return ", ".join(f"{short(value(r))} (w = {r.w:g})" for r in e.results)


def learned_per_w(e: TableEvaluation, value: Callable[[Tensor, StrengthEvaluation], float]) -> str:
    """A number of the network's exact law at every strength; "-" if there is none."""
    if not all("learned" in r.laws for r in e.results):
        return ABSENT
    return per_w(e, lambda r: value(r.laws["learned"], r))


def still_masked(e: TableEvaluation) -> str:
    """-ln TV of a network's own chain at `DECAY_TAU`, for `DECAY_STRENGTHS`; "-" if nothing was learned."""
    if (learned := e.learned) is None:
        return ABSENT
    values = [-float(log_still_masked(learned, g, e.target_class, [DECAY_TAU])[0]) for g in DECAY_GUIDANCES]
    return f"-ln TV at tau = {DECAY_TAU:g}: " + ", ".join(f"{v:.4g}" for v in values)


def gain_in_time(times: Sequence[float]) -> Claim:
    """The published summary on speed, from the clock times to TV 0.05 at `DECAY_STRENGTHS`."""
    share = [1 - t / times[0] for t in times]
    enough = [w for s, w in zip(share, DECAY_STRENGTHS) if s >= 0.5]
    most = f"{max(share):.0%}"
    return Claim(
        "Convergence is about 50% faster at strong guidance (the published summary).",
        "time to TV 0.05 shorter by "
        + ", ".join(f"{s:.0%} (w = {w:g})" for s, w in zip(share[1:], DECAY_STRENGTHS[1:])),
        ABSENT,
        f"holds from w = {enough[0]:g}"
        if enough
        else f"does not hold here: the gain levels off {'just below' if most == '50%' else 'at'} {most}",
    )


def decay_of(e: TableEvaluation) -> Decay:
    """The decay of the exact chain at `DECAY_TAU`, for `DECAY_STRENGTHS`."""
    return tv_decay(e.target, e.target_class, DECAY_GUIDANCES, [DECAY_TAU], fit_tau=DECAY_TAU)


def on_speed(e: TableEvaluation, form: str) -> tuple[str, str, Decay]:
    """The exact and the learned value of a claim on -ln TV at `DECAY_TAU`, and the decay of the exact chain.

    Args:
        form: of each of the exact chain's numbers v, by its w.
    """
    decay = decay_of(e)
    shown = [form.format(v=v, w=w) for v, w in zip((-decay.log_tv[:, 0]).tolist(), DECAY_STRENGTHS)]
    exact = f"-ln TV at tau = {DECAY_TAU:g}: {', '.join(shown)}"
    return exact, still_masked(e), decay
