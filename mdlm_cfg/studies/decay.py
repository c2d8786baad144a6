"""study=decay: how fast the guided chain converges in total variation (theory, section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mdlm_cfg.chain.denoiser import name_state
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import Kind
from mdlm_cfg.compare.decay import Decay, tv_decay
from mdlm_cfg.studies.common import STRENGTH
from mdlm_cfg.studies.evaluation import TABLE_NEEDS
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_probability
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, Made, Needs, Piece, Rows
from mdlm_cfg.support.errors import UserError

MAX_STATES = 20_000  # partial states up to which the decay is computed
STRENGTHS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
TAUS = torch.logspace(-2, 1, 31, dtype=torch.float64)
MOST_STATES = 20  # neutral states that are listed
SMALLEST = 1e-12  # of -ln TV that is drawn
COST = 3.0  # of one kind, relative to the samples of one strength
NONE = (
    "Convergence in time was not computed: it is available for classifier-free guidance without a policy, temperature "
    f"or top-p, and for tables of at most {MAX_STATES:,} partial states."
)
READING = """\
The chain is that of exact conditionals. tau is the time scale on which every masked coordinate is unmasked at rate 1 \
without guidance. The total variation to the terminal distribution at time tau is the probability that some coordinate \
is still masked. A partial state is neutral if its masked coordinates carry no further information about the class: \
p(. | x_U, z) = p(. | x_U). From a neutral state on, guidance cannot speed up the chain."""


@dataclass(frozen=True)
class DecayRow:
    """How fast the chain of one kind converges at one strength."""

    kind: str = col("kind", "kind of guidance", index=True)
    w: float = col("w", STRENGTH, index=True)
    tau_5: float = col("tau at TV 0.05", "time until the total variation is 0.05")
    sooner: float = col(
        "sooner by", "reduction of that time, as a share of the time at the smallest strength", digits=3
    )


@dataclass(frozen=True)
class DecayCurveRow:
    """The total variation at one time."""

    kind: str = col("kind", "kind of guidance", index=True)
    w: float = col("w", STRENGTH, index=True)
    tau: float = col("tau", "time", index=True)
    log_tv: float = col("ln TV", "ln of the total variation to the terminal distribution")
    decay: float | None = col("-ln TV", "minus ln TV; absent where only rounding remains")


@dataclass(frozen=True)
class NeutralRow:
    """A partial state from which guidance cannot speed up the chain."""

    kind: str = col("kind", "kind of guidance", index=True)
    state: str = col("partial state", "coordinates of the partial state", index=True)
    probability: float = in_probability("p(x_U | z)", "probability of its known coordinates in the class")
    limit: float = in_probability(
        "visits at infinite w", "probability that the chain visits it as w grows without bound"
    )


@dataclass(frozen=True)
class DecayStudy:
    """Total variation against time for a list of strengths, its fit in w, and what limits it.

    Args:
        strengths: w, ascending.
    """

    strengths: tuple[float, ...] = STRENGTHS
    name: ClassVar[str] = "decay"
    needs: ClassVar[Needs] = TABLE_NEEDS
    rows: ClassVar[Rows] = {"decay": DecayRow, "decay_curves": DecayCurveRow, "neutral": NeutralRow}

    def __post_init__(self) -> None:
        object.__setattr__(self, "strengths", tuple(float(w) for w in self.strengths))
        if len(self.strengths) < 2 or sorted(set(self.strengths)) != list(self.strengths):
            raise UserError(f"study.strengths = {list(self.strengths)} must be two or more numbers that increase")
        for w in self.strengths:
            Guidance(w)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """One for each kind of the plan whose own chain is studied; none for large tables."""
        target = case.target
        if (target.num_tokens + 1) ** target.num_dims <= MAX_STATES:
            for kind in own_kinds(case.plan):
                yield case.piece(self._decay, kind, label=f"convergence in time, {kind}", cost=COST, cached=False)

    def _decay(self, case: Case, kind: Kind) -> Decay:
        return tv_decay(case.target, case.one_class, [Guidance(w, kind) for w in self.strengths], TAUS)

    def findings(self, case: Case, made: Made) -> Findings:
        """Times, curves, the fit, and neutral states."""
        decays: list[Decay] = [made[piece.key] for piece in self.pieces(case)]
        rows = [row for decay in decays for row in _times(decay)]
        curves = [row for decay in decays for row in _curves(decay)]
        neutral = [row for decay in decays for row in _neutral(decay)]
        blocks = []
        if decays:
            fits = " ".join(_fit(decay) for decay in decays)
            curve = Curve("tau", "decay", ["w"], "-ln TV against time, one line per w.", log_x=True, log_y=True)
            views: list[View] = [Table(["w"], ["tau_5", "sooner"])]
            text = f"{READING}\n\n{fits}"
            how: dict[str, Any] = {"per": ("kind",), "group": "Convergence"}
            blocks.append(Block("decay", rows, "Convergence in time", text, views=views, **how))
            blocks.append(Block("decay_curves", curves, "Total variation against time", views=[curve], **how))
            if neutral:
                table = Table(["state"], ["probability", "limit"])
                blocks.append(Block("neutral", neutral, "Neutral partial states", views=[table], **how))
        facts = {"decay_fit": [_facts(decay) for decay in decays]}
        return Findings(case.plan, blocks, [decay.statement for decay in decays] or [NONE], facts)


def own_kinds(plan: Plan) -> list[Kind]:
    """The kinds whose own chain a plan studies: in their own order, under classifier-free guidance without a filter.

    Results on time and on infinite w apply only to these chains.
    """
    if plan.sampler.policy is not None:
        return []
    return list(dict.fromkeys(guidance.kind for guidance in plan.guidances if guidance.telescopes))


def _times(decay: Decay) -> list[DecayRow]:
    base = decay.time_to_5_percent[0]
    return [DecayRow(str(decay.kind), w, t, 1 - t / base) for w, t in zip(decay.strengths, decay.time_to_5_percent)]


def _curves(decay: Decay) -> list[DecayCurveRow]:
    return [
        DecayCurveRow(str(decay.kind), w, tau, value, -value if -value > SMALLEST else None)
        for w, log_tv in zip(decay.strengths, decay.log_tv)
        for tau, value in zip(decay.taus.tolist(), log_tv.tolist())
    ]


def _neutral(decay: Decay) -> list[NeutralRow]:
    return [
        NeutralRow(str(decay.kind), name_state(list(state.state), decay.num_tokens), state.probability, state.limit)
        for state in decay.neutral[:MOST_STATES]
    ]


def _fit(decay: Decay) -> str:
    low, high = decay.fit_slope
    return (
        f"Kind {decay.kind}: the slope of ln(-ln TV) against w at tau = {decay.fit_tau:g} is {low:.3f} over the "
        f"smaller half of the strengths and {high:.3f} over the larger half."
    )


def _facts(decay: Decay) -> dict[str, object]:
    return {
        "kind": str(decay.kind),
        "growth": decay.growth,
        "fit_tau": decay.fit_tau,
        "fit_slope": list(decay.fit_slope),
    }
