"""The laws of one target under guidance, side by side, and how far apart they are (theory, section 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.compare.metrics import (
    expected_sampling_tv,
    histogram,
    sampled_tv,
)
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.sampled import key_of
from mdlm_cfg.studies.table.strength import LAWS, Row, SampleTV, StrengthEvaluation, moments_of, strength_key
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import share_shown, silent
from mdlm_cfg.targets.table import TableMixture

LEARNED_LAW_ENTRIES = 2e7  # (N+1)^D * D * N up to which a network's own law is computed
BOOTSTRAP_RESAMPLES = 200
BOOTSTRAP_CELLS = 2**26  # numbers a bootstrap may hold at a time: fewer resamples of larger laws
MIN_RESAMPLES = 20


@dataclass(frozen=True)
class TableEvaluation:
    """Laws and distances of one class of a table, for every guidance of a plan.

    Attributes:
        plan: what was asked for. target_class: z. num_classes: K.
        judged: whose samples these are: "learned", a network's, or "exact", the target's own denoiser's.
        class_law: p(. | z), (N,)*D.
        others_law: sum over the other classes of a_k p(. | k), (N,)*D: where z overlaps with anything else.
        results: one per guidance, in the order asked for.
        value_names: of the N values, for people; None is numbers.
    """

    plan: Plan
    target_class: int
    num_classes: int
    judged: str
    class_law: Tensor
    others_law: Tensor
    results: list[StrengthEvaluation]
    value_names: Sequence[str] | None = None

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.class_law.shape[0]

    @property
    def num_dims(self) -> int:
        """D."""
        return self.class_law.ndim

    @property
    def law_names(self) -> list[str]:
        """Which of `LAWS` there are for any of the guidances, in that order."""
        return [name for name in LAWS if any(name in result.laws for result in self.results)]

    @property
    def has_learned(self) -> bool:
        """Whether there is a learned law: of a network that is small enough for one."""
        return "learned" in self.results[0].laws

    @property
    def follows(self) -> str | None:
        """The law that the samples follow but for steps; None where it is out of reach."""
        if self.judged == "exact":
            return "exact"
        return "learned" if self.has_learned else None

    def laws(self) -> dict[str, Tensor]:
        """Every law under its name in laws.npz: "class", "tilted_w2", "exact_rate_w2", and so on."""
        laws = {"class": self.class_law}
        for result in self.results:
            laws |= {law_key(name, result.guidance): result.laws[name] for name in LAWS[1:] if name in result.laws}
        return laws

    def rows(self) -> list[Row]:
        """One flat row of numbers per guidance, for a table or a csv file."""
        return [result.row() for result in self.results]


def evaluate_table(
    target: TableMixture,
    denoiser: Denoiser | None,
    plan: Plan,
    progress: Callable[[str], None] | None = None,
    keep: Keep = keep_nothing,
) -> TableEvaluation:
    """Laws of a table under guidance: the class, the tilted and the exact law, the network's, and samples.

    Args:
        target: the distribution, known exactly.
        denoiser: the learned one; None evaluates (and samples with) the exact one alone. Where it is too large for its
            own exact law, its samples are judged all the same, and there is no learned law.
        plan: guidances, numbers and schedules (which have no tilted law); its first class is z (default 0).
        progress: called with one short line before every strength.
        keep: has laws and samples of an evaluation that was interrupted.

    Raises:
        UserError: an unknown class, a denoiser of another space than the target's, or more partial states than memory
            holds.
    """
    z = target_class_of(plan, target)
    check_space(target, denoiser)
    judged = denoiser if denoiser is not None else target.denoiser()
    learned = table_of(denoiser, keep) if denoiser is not None else None
    used, policy = learned or judged, plan.sampler.policy
    say = progress or silent
    results = []
    for guidance in plan.guidances:
        say(f"laws and samples at w = {guidance.label}")
        laws = {
            "class": target.class_pmf(z),
            "exact": kept_law(keep, "exact", target.denoiser(), guidance, z, policy),
        }
        if not guidance.is_schedule:
            laws["tilted"] = tilted_law(target, guidance.constant, z)
        if learned is not None:
            laws["learned"] = kept_law(keep, "learned", learned, guidance, z, policy)
        generator = plan.generator("table samples", guidance, z)
        asked = (key_of(guidance), plan.sampler.describe(), plan.num_samples, plan.seed, z)
        x = keep(("samples", *asked), partial(plan.sampler.draw, used, guidance, z, plan.num_samples, generator))
        results.append(_compare(guidance, laws, x, plan.generator("bootstrap", guidance, z)))
    return TableEvaluation(
        plan=plan,
        target_class=z,
        num_classes=target.num_classes,
        judged="exact" if denoiser is None else "learned",
        class_law=target.class_pmf(z),
        others_law=_others(target, z),
        results=results,
        value_names=target.value_names,
    )


def target_class_of(plan: Plan, target: TableMixture) -> int:
    """The class a table is studied for: the plan's first, or 0.

    Raises:
        UserError: several classes, or one that does not exist.
    """
    plan.check_classes(target.num_classes)
    classes = plan.classes or (0,)
    if len(classes) > 1:
        raise UserError(f"a table is studied for one class at a time, not for {list(classes)}: give target_class=K")
    return classes[0]


def kept_law(
    keep: Keep, who: str, denoiser: Denoiser, guidance: Guidance, target_class: int, policy: Policy | None
) -> Tensor:
    """Where the guided chain of a denoiser, called `who`, ends; as it was kept where it was computed before."""
    key = ("law", who, key_of(guidance), target_class, None if policy is None else str(policy))
    return keep(key, lambda: terminal_law(denoiser, guidance, target_class, policy))


def table_of(denoiser: Denoiser, keep: Keep = keep_nothing) -> TabulatedDenoiser | None:
    """A network as a table of all its answers; None where there are too many partial states for that."""
    if isinstance(denoiser, TabulatedDenoiser):
        return denoiser
    n, d = denoiser.num_tokens, denoiser.num_dims
    if (n + 1) ** d * n * d > LEARNED_LAW_ENTRIES:
        return None
    return TabulatedDenoiser(denoiser, keep, shown=partial(share_shown, "asking the network about every partial state"))


def check_space(target: TableMixture, denoiser: Denoiser | None) -> None:
    """Raise UserError unless a denoiser lives where the target does."""
    if denoiser is None:
        return
    ours, theirs = ((d.num_tokens, d.num_dims, d.num_classes) for d in (target, denoiser))
    if ours != theirs:
        raise UserError(
            f"the denoiser has (values, dimensions, classes) = {theirs}, the target has {ours}: it was made for other "
            "data"
        )


def law_key(name: str, guidance: Guidance) -> str:
    """The name of a law in laws.npz, such as "exact_rate_w2"; the tilted law knows w alone."""
    if name == "class":
        return name
    if name == "tilted":
        return f"tilted_{strength_key(Guidance(guidance.constant))}"
    return f"{name}_{guidance.kind}_{strength_key(guidance)}"


def _compare(guidance: Guidance, laws: dict[str, Tensor], x: Tensor, generator: torch.Generator) -> StrengthEvaluation:
    cells = max(laws["exact"].numel(), len(x))
    resamples = max(MIN_RESAMPLES, min(BOOTSTRAP_RESAMPLES, BOOTSTRAP_CELLS // cells))
    sample_tv: dict[str, SampleTV] = {
        name: SampleTV(sampled_tv(laws[name], x, resamples, generator), expected_sampling_tv(laws[name], len(x)))
        for name in laws
        if name in ("exact", "learned")
    }
    laws = laws | {"samples": histogram(x, laws["exact"].shape[0])}
    return StrengthEvaluation(guidance, laws, {name: moments_of(law) for name, law in laws.items()}, sample_tv, x)


def _others(target: TableMixture, target_class: int) -> Tensor:
    weights = target.class_weights.clone()
    weights[target_class] = 0
    return torch.tensordot(weights, target.class_pmfs, dims=1)
