"""What studies that are not yet in the declared form ask of a table."""

from __future__ import annotations

from functools import partial
from typing import Any

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.laws.rates import partial_state_lattice
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.studies.evaluation import array_name
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import LEARNED_LAW_ENTRIES
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import share_shown
from mdlm_cfg.targets.table import TableMixture


def known_table(data: Any, who: str) -> TableMixture:
    """The table that data are drawn from, or a UserError."""
    if isinstance(data.target, TableMixture):
        return data.target
    raise UserError(
        f"{who} asks for exact laws of data given as a table, and {data.name} is not one: choose other data, such "
        "as data=toy_5d_hypercube"
    )


def check_table(target: TableMixture, plan: Plan, name: str) -> int:
    """The class that a plan asks for, where its distributions can be computed, or a UserError."""
    z = target_class_of(plan, target)
    partial_state_lattice(target.denoiser(), z)
    plan.check_dims(target.num_dims)
    strongest = max(w for guidance in plan.guidances for w in guidance.table(target.num_dims))
    if target.class_weights[z] == 0 and strongest > 0:
        raise UserError(
            f"class {z} of {name} has weight 0 in the mixture, so guidance w = {strongest:g} to it would be infinite: "
            "give it a weight, or choose another target_class"
        )
    return z


def target_class_of(plan: Plan, target: TableMixture) -> int:
    """The class a table is studied for: the plan's first, or 0; a UserError for several."""
    plan.check_classes(target.num_classes)
    classes = plan.classes or (0,)
    if len(classes) > 1:
        raise UserError(f"a table is studied for one class at a time, not for {list(classes)}: give target_class=K")
    return classes[0]


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
    """The name of a distribution in arrays.npz."""
    if name == "class":
        return name
    if name == "tilted":
        return array_name(name, guidance, Guidance(guidance.constant).identifier)
    return array_name(name, guidance, guidance.identifier)
