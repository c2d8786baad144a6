"""What every study of a table asks of its data and its plan, before any time is spent."""

from __future__ import annotations

from typing import Any

from mdlm_cfg.laws.rates import start
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.table.distances import target_class_of
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture


def known_table(data: Any, who: str) -> TableMixture:
    """The table that data are drawn from.

    Args:
        who: asks for it, such as "study=departure".

    Raises:
        UserError: they are drawn from none.
    """
    if isinstance(data.target, TableMixture):
        return data.target
    raise UserError(
        f"{who} asks for exact laws of data given as a table, and {data.name} is none: choose other data, such "
        "as data=toy_5d_hypercube"
    )


def check_table(target: TableMixture, plan: Plan, name: str) -> int:
    """The class that a plan asks for, where its laws can be had.

    Args:
        name: of the data.

    Raises:
        UserError: a class that does not exist or cannot be guided to, strengths or a policy of other numbers of
            coordinates, or more partial states than memory holds.
    """
    z = target_class_of(plan, target)
    start(target.denoiser(), z)
    plan.check_dims(target.num_dims)
    strongest = max(w for guidance in plan.guidances for w in guidance.table(target.num_dims))
    if target.class_weights[z] == 0 and strongest > 0:
        raise UserError(
            f"class {z} of {name} has weight 0 in the mixture, so guidance w = {strongest:g} to it would be infinite: "
            "give it a weight, or choose another target_class"
        )
    return z
