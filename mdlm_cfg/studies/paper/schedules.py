"""arXiv 2507.08965 (Rojas, He, et al.) on schedules: guidance early and late.

Its verbal statements become distances between exact laws. "Early" is while at most half of the other coordinates are
unmasked, "late" is after that: both guide the same number of coordinates with the same strength.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance, Interval, LinearRamp
from mdlm_cfg.chain.guidance_schedules import PerCount
from mdlm_cfg.compare.best_schedule import best_schedule, rises
from mdlm_cfg.studies.evaluation import TableEvaluation
from mdlm_cfg.studies.paper.claims import ABSENT, SAME, Claim, PaperResult
from mdlm_cfg.studies.paper.guided_laws import Both, Laws, laws_of, terminal, verdict_at


def early(e: TableEvaluation) -> PaperResult:
    """Guidance of equal strength in the first half of the coordinates and in the second."""
    guidances: dict[str, Callable[[float], Guidance]] = {
        "class": lambda w: Guidance(0.0),
        "constant": Guidance,
        "early": lambda w: Guidance(Interval(w, 0.0, 0.5)),
        "late": lambda w: Guidance(Interval(w, 0.5, 1.0)),
    }
    both = laws_of(e, {n: terminal(e, g) for n, g in guidances.items()})
    return PaperResult(_on_halves(both))


def _on_halves(both: Both) -> list[Claim]:
    return [
        both.claim(
            "Guidance early, when most is masked, harms: it ends farther from the tilted law than as much of it late.",
            Laws.gap,
            ("early", "late"),
            lambda laws: laws.gap("early") > laws.gap("late") + SAME,
        ),
        both.claim(
            "Early guidance alone is worse than none: it ends farther from the tilted law than the class itself.",
            Laws.gap,
            ("class", "early"),
            lambda laws: laws.gap("early") > laws.gap("class") + SAME,
        ),
        both.claim(
            "Late guidance improves: without its first half, constant guidance ends nearer to the tilted law.",
            Laws.gap,
            ("constant", "late"),
            lambda laws: laws.gap("late") < laws.gap("constant") - SAME,
        ),
        both.claim(
            "Late guidance has the larger effect: it moves the law farther from the class (version 1 of the paper).",
            Laws.effect,
            ("early", "late"),
            lambda laws: laws.effect("late") > laws.effect("early") + SAME,
        ),
        both.claim(
            "Late guidance gives samples as certain of their class: 1 - E p(z given x) is no larger.",
            Laws.mistaken,
            ("early", "late"),
            lambda laws: laws.mistaken("late") < laws.mistaken("early") + SAME,
        ),
        both.claim(
            "... and more diverse, by the entropy of the law.",
            Laws.entropy,
            ("early", "late"),
            lambda laws: laws.entropy("late") > laws.entropy("early") + SAME,
        ),
    ]


def late(e: TableEvaluation) -> PaperResult:
    """Rising and falling schedules, and the shape of the best one."""
    guidances: dict[str, Callable[[float], Guidance]] = {
        "constant": Guidance,
        "rising": lambda w: Guidance(LinearRamp(0.0, w)),
        "falling": lambda w: Guidance(LinearRamp(w, 0.0)),
    }
    both = laws_of(e, {n: terminal(e, g) for n, g in guidances.items()})
    claims = [
        both.claim(
            "A schedule that rises (from 0 to w) ends nearer to the tilted law than one that falls (from w to 0).",
            Laws.gap,
            ("rising", "falling"),
            lambda laws: laws.gap("rising") < laws.gap("falling") - SAME,
        ),
        both.claim(
            "... and nearer than the constant w.",
            Laws.gap,
            ("rising", "constant"),
            lambda laws: laws.gap("rising") < laws.gap("constant") - SAME,
        ),
        both.claim(
            "One that falls ends farther from it than the constant w.",
            Laws.gap,
            ("falling", "constant"),
            lambda laws: laws.gap("falling") > laws.gap("constant") + SAME,
        ),
        _best_rises(e),
    ]
    return PaperResult(claims)


def _best_rises(e: TableEvaluation) -> Claim:
    z = e.target_class
    policy = e.case.plan.sampler.policy
    guided = [r.w for r in e.results if r.w > 0]

    def of(used: Denoiser) -> list[PerCount]:
        return [best_schedule(e.target, w, z, policy=policy, denoiser=used).strengths for w in guided]

    def shown(found: Sequence[PerCount]) -> str:
        lists = [", ".join(f"{w:.3f}" for w in strengths.values) for strengths in found]
        return "; ".join(f"({numbers}) (w = {w:g})" for numbers, w in zip(lists, guided))

    exact = of(e.target.denoiser())
    rising = [w for w, strengths in zip(guided, exact) if rises(strengths.values)]
    return Claim(
        "The best schedule rises: weak guidance early, strong guidance late (the strengths of the least "
        "KL(tilted || law), by number of unmasked coordinates).",
        shown(exact),
        ABSENT if e.learned is None else shown(of(e.learned)),
        verdict_at(rising, guided),
    )
