"""arXiv 2507.08965 (Rojas, He, et al.) on the rate: normalised guidance decides what a coordinate becomes, not when."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.laws.in_time import law_at
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.evaluation import TableEvaluation
from mdlm_cfg.studies.paper.claims import SAME, Claim, PaperResult
from mdlm_cfg.studies.paper.guided_laws import Both, Laws, laws_of, terminal

EARLY_TAU = 0.1  # unguided, about one coordinate in ten is unmasked by then
STEPS = (4, 8, 16)
RATE = "rate"
NORMALIZED = "normalized"


def normalized(e: TableEvaluation) -> PaperResult:
    """Normalised and unnormalised rates: how fast they unmask, and the error of steps."""
    z = e.target_class
    made = {}
    early = {"unguided": partial(_early_law, RATE, z, 0.0)}
    for kind in (RATE, NORMALIZED):
        made[kind] = terminal(e, partial(Guidance, kind=KINDS[kind]))
        early[kind] = partial(_early_law, kind, z, None)
        for steps in STEPS:
            made[_stepped(kind, steps)] = partial(_stepped_law, kind, steps, z)
    return PaperResult([*_on_speed(laws_of(e, early)), *_on_steps(laws_of(e, made))])


def _on_speed(both: Both) -> list[Claim]:
    unguided = "unguided"
    return [
        both.claim(
            f"Guided rates unmask too rapidly early on (share of the coordinates unmasked at tau = {EARLY_TAU:g}).",
            _unmasked,
            (unguided, RATE),
            lambda laws: _unmasked(laws, RATE) > _unmasked(laws, unguided) + SAME,
        ),
        both.claim(
            "Normalised rates unmask as without guidance.",
            _unmasked,
            (unguided, NORMALIZED),
            lambda laws: abs(_unmasked(laws, NORMALIZED) - _unmasked(laws, unguided)) < SAME,
        ),
    ]


def _on_steps(both: Both) -> list[Claim]:
    pairs = [(_stepped(RATE, steps), _stepped(NORMALIZED, steps)) for steps in STEPS]
    names = [name for pair in pairs for name in pair]

    def error(laws: Laws, name: str) -> float:
        """TV of the steps to continuous time, for the same kind."""
        return laws.between(name.split(" ")[0], name)

    return [
        both.claim(
            "So the transport is smoother: tau-leaping steps are nearer to continuous time (TV to the law of the same "
            "kind).",
            error,
            names,
            lambda laws: all(error(laws, n) < error(laws, r) - SAME for r, n in pairs),
        ),
        both.claim(
            "... and end nearer to the tilted law.",
            Laws.gap,
            names,
            lambda laws: all(laws.gap(n) < laws.gap(r) - SAME for r, n in pairs),
        ),
        both.claim(
            "In continuous time, too, the normalised rate ends nearer to the tilted law.",
            Laws.gap,
            (RATE, NORMALIZED),
            lambda laws: laws.gap(NORMALIZED) < laws.gap(RATE) - SAME,
        ),
    ]


def _stepped(kind: str, steps: int) -> str:
    return f"{kind} ({steps} steps)"


def _stepped_law(kind: str, steps: int, target_class: int, denoiser: Denoiser, w: float) -> Tensor:
    return Sampler("tau_leaping", steps).law(denoiser, Guidance(w, KINDS[kind]), target_class)


def _early_law(kind: str, target_class: int, strength: float | None, denoiser: Denoiser, w: float) -> Tensor:
    """The law over partial states at `EARLY_TAU`, of the strength w or another."""
    return law_at(denoiser, Guidance(w if strength is None else strength, KINDS[kind]), target_class, EARLY_TAU)


def _unmasked(laws: Laws, name: str) -> float:
    """The expected share of unmasked coordinates."""
    law = laws.by_name[name]
    masked = sum(float(law.select(axis, -1).sum()) for axis in range(law.ndim))
    return 1 - masked / law.ndim
