"""The paper's experiments by name, and what each of them needs."""

from __future__ import annotations

from itertools import pairwise

from mdlm_cfg.chain.denoiser import check_class
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.compare.geometry import overlap_masks, regions
from mdlm_cfg.studies.paper import five_d, normalized, one_d, schedules, two_d
from mdlm_cfg.studies.paper.claims import Experiment
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.errors import UserError, one_of
from mdlm_cfg.targets.table import TableMixture

EXPERIMENTS: dict[str, Experiment] = {
    "1d_disjoint": one_d.disjoint,
    "1d_overlap": one_d.overlap,
    "1d_tv_vs_w": one_d.tv_vs_w,
    "2d_projection": two_d.by_regions,
    "2d_overlap": two_d.by_regions,
    "2d_tv_vs_w": two_d.tv_vs_w,
    "5d_hypercube": five_d.hypercube,
    "2507_08965_early": schedules.early,
    "2507_08965_late": schedules.late,
    "2507_08965_normalized": normalized.normalized,
}
FROM_ZERO = ("1d_overlap", "2d_projection", "2d_overlap")  # their claims compare strengths with w = 0


def check(name: str, target: object, plan: Plan) -> None:
    """Refuse, before any work, input to which an experiment's claims do not apply.

    Args:
        name: of `EXPERIMENTS`.
        target: the data's distribution.
        plan: of the evaluation; its classes, or class 0.

    Raises:
        UserError: an unknown name, a kind of guidance other than the paper's, data whose shape the claims do not cover,
            or strengths that cannot test them.
    """
    one_of("paper experiment", name, EXPERIMENTS)
    _check_guidances(name, plan)
    if not isinstance(target, TableMixture):
        raise UserError(f"paper experiment {name} needs data given as a table, such as data=toy_2d_overlap")
    _check_space(name, target)
    for z in plan.classes or (0,):
        check_class(z, target.num_classes)
        _check_regions(name, target, z)


def _check_guidances(name: str, plan: Plan) -> None:
    for guidance in plan.guidances:
        if guidance.kind != KINDS["rate"]:
            raise UserError(
                f"guidance={guidance.kind} is not for experiment {name}: the paper states it for guidance=rate"
            )
    w = [guidance.constant for guidance in plan.guidances]
    shown = "[" + ", ".join(guidance.label for guidance in plan.guidances) + "]"
    if max(w) <= 0:
        raise UserError(f"w = {shown} holds no w > 0, and {name} is about guidance; give one, such as w=[0,1,2]")
    if name in FROM_ZERO and (w[0] != 0 or any(b <= a for a, b in pairwise(w))):
        raise UserError(f"w = {shown} must start at 0 and increase: {name} compares with the class; such as w=[0,1,2]")


def _check_space(name: str, target: TableMixture) -> None:
    found = f"these have N = {target.num_tokens}, D = {target.num_dims}"
    if name.startswith("2507_08965"):
        if target.num_dims < 2:
            raise UserError(
                f"paper experiment {name} needs data with D >= 2, and {found}; one dimension has no early and late"
            )
        return
    wanted = int(name[0])
    if target.num_dims != wanted:
        raise UserError(f"paper experiment {name} needs data with D = {wanted}, and {found}; choose other data")
    if name == "5d_hypercube" and target.num_tokens != 5:
        raise UserError(f"paper experiment {name} needs data with N = 5, D = 5, and {found}; choose other data")


def _check_regions(name: str, target: TableMixture, z: int) -> None:
    parts = regions(target, z)
    shared = [part.shared for part in parts]
    if name == "1d_disjoint" and any(shared):
        raise UserError(
            f"class {z} shares values with another, and {name} is about classes that do not; try 1d_overlap"
        )
    if name == "1d_overlap" and shared != [False, True]:
        raise UserError(
            f"class {z} must have values of its own and values that it shares, for {name}, and its regions are "
            f"{', '.join(part.name for part in parts)}; choose other data or another target_class"
        )
    if name == "5d_hypercube":
        sizes = tuple(int(mask.sum()) for mask in overlap_masks(target, z))
        if sizes != five_d.NUM_STATES:
            raise UserError(
                f"class {z} has {sizes} states by the number of coordinates that overlap, and the paper's hypercube "
                f"{five_d.NUM_STATES}; choose data=toy_5d_hypercube"
            )
