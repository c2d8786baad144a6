"""Where guidance puts its mass: the partition of a class's support, and its limits (theory, section 7)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.kinds import Kind, kind_of
from mdlm_cfg.compare.metrics import mean_and_covariance
from mdlm_cfg.laws.push import push
from mdlm_cfg.laws.rates import LevelEdges, by_coordinate, partial_state_lattice, rates_from_edges
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture

NEG_INF = float("-inf")
TIE = 1e-9  # log-ratios closer than this are equal in the limit w -> infinity
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Region:
    """One part of a class's support.

    Attributes:
        name: "R1", "R2,i", "R3", "R4" in two dimensions; in D dimensions by the coordinates that overlap.
        overlapping: the coordinates whose value another class's projection has too.
        shared: whether the points themselves belong to another class as well (S).
        mask: bool (N,)*D.
    """

    name: str
    overlapping: tuple[int, ...]
    shared: bool
    mask: Tensor

    @property
    def num_states(self) -> int:
        """Number of points."""
        return int(self.mask.sum())

    @property
    def meaning(self) -> str:
        """The common property of its states, in words."""
        if self.shared:
            return "states that also belong to another class"
        if not self.overlapping:
            return "no coordinate has a value that another class takes"
        if len(self.overlapping) == self.mask.ndim:
            return "every coordinate has a value that another class takes, but the state belongs only to this class"
        names = " and ".join(f"x{i + 1}".translate(SUBSCRIPTS) for i in self.overlapping)
        return f"{names} {'has a value' if len(self.overlapping) == 1 else 'have values'} that another class takes"


@checked
def regions(target: TableMixture, target_class: int) -> list[Region]:
    """The partition of the support of class z by which of its projections overlap another class's (theory, section 7).

    Empty parts are left out; the order is from private to shared. In 2D: R1 (both projections private), R2,1 and R2,2
    (the first, the second projection overlaps), R3 (both overlap, the point does not) and R4 = S (the point overlaps).
    """
    d = target.num_dims
    support = target.class_pmf(target_class) > 0
    others = others_law(target, target_class)
    shared = support & (others > 0)
    code = torch.zeros(support.shape, dtype=torch.int64)  # bit i: the i-th coordinate overlaps
    for i in range(d):
        drop = [k for k in range(d) if k != i]
        marginal = others.sum(dim=drop) if drop else others
        code += (marginal > 0).long().reshape([-1 if k == i else 1 for k in range(d)]) << i
    private_codes = code.masked_fill(~support | shared, -1)
    parts = []
    for value in private_codes.unique().tolist():
        if value >= 0:
            subset = tuple(i for i in range(d) if value >> i & 1)
            parts.append(Region(_name(subset, d), subset, False, private_codes == value))
    parts.sort(key=lambda part: (len(part.overlapping), part.overlapping))
    if bool(shared.any()):
        parts.append(Region("R4" if d == 2 else "shared", tuple(range(d)), True, shared))
    return parts


def others_law(target: TableMixture, target_class: int) -> Tensor:
    """sum over the other classes of a_k p(. | k), (N,)*D: where a class overlaps with others."""
    weights = target.class_weights.clone()
    weights[target_class] = 0  # a difference from the whole mixture would round exact zeros away
    return torch.tensordot(weights, target.class_pmfs, dims=1)


def overlap_masks(target: TableMixture, target_class: int) -> list[Tensor]:
    """The class's support by the number k = 0, ..., D of coordinates that overlap another class's: bool (N,)*D each."""
    masks = [torch.zeros(target.pmf.shape, dtype=torch.bool) for _ in range(target.num_dims + 1)]
    for part in regions(target, target_class):
        masks[len(part.overlapping)] |= part.mask
    return masks


def _name(subset: tuple[int, ...], num_dims: int) -> str:
    if num_dims == 2:
        return f"R2,{subset[0] + 1}" if len(subset) == 1 else "R3" if subset else "R1"
    return "private" if not subset else "overlaps in " + ",".join(str(i + 1) for i in subset)


@checked
def region_mass(law: Tensor, region: Region) -> tuple[float, float]:
    """The mass of a region under a law, and its mean probability per state."""
    mass = float(law[region.mask].sum())
    return mass, mass / region.num_states


@checked
def local_moments(law: Tensor, region: Region) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of a law conditioned on a region.

    Raises:
        UserError: the law has no mass there.
    """
    inside = torch.where(region.mask, law, 0.0)
    if float(inside.sum()) == 0:
        raise UserError(f"region {region.name} has no mass under this law, so no mean or covariance")
    return mean_and_covariance(inside / inside.sum())


@checked
def limit_law(target: TableMixture, target_class: int, kind: Kind | str = "rate") -> Tensor:
    """The terminal law of the guided chain as w goes to infinity, float64 (N,)*D, summing to 1; see `limit_visits`.

    Log-ratios within 1e-9 of each other count as equal, because rounding makes some of them indistinguishable: where
    they differ by less, this is the law of a w far above 1 and far below 1e9.

    Raises:
        UserError: a user-defined kind whose rate is no power of Z_i with an exponent of at least 0.
    """
    return limit_visits(target, target_class, kind)[-1].reshape([target.num_tokens] * target.num_dims)


@checked
def limit_visits(target: TableMixture, target_class: int, kind: Kind | str = "rate") -> list[Tensor]:
    """The probability that the guided chain ever visits each partial state as w goes to infinity.

    In the limit rho = p(.|z) (p(.|z) / p)^w is dominated by the largest ratio p(v | x_U, z) / p(v | x_U): over all
    (i, v) for `rate` and any other power of Z_i, over the values of each coordinate for `normalized`; among ties by
    p(v | x_U, z).

    Returns:
        levels 0, ..., D: float64 (C(D, l), N^l), each summing to 1.

    Raises:
        UserError: see `limit_law`.
    """
    kind = kind_of(kind)
    power = kind.power()
    if power is None:
        raise UserError(
            f"the limit of infinite w is known for kinds whose rate is a power of Z_i, and the rate of {kind} is not"
        )
    denoiser = target.denoiser()
    lattice = partial_state_lattice(denoiser, target_class)
    log_cond = denoiser.log_marginals(target_class)
    log_uncond = denoiser.log_marginals(None)
    log_ratio = [torch.where(c == NEG_INF, NEG_INF, c - u) for c, u in zip(log_cond, log_uncond)]
    visits = [torch.ones(1, 1, dtype=torch.float64)]
    for level in range(lattice.num_dims):
        ratios = [lattice.split(log_ratio[level + 1], level, j) for j in range(level + 1)]
        best = by_coordinate([r.amax(dim=2) for r in ratios], lattice, level)
        if power > 0:  # the fastest event outruns every other
            best = best.amax(dim=1, keepdim=True).expand_as(best).contiguous()
        edges = []
        for j, ratio in enumerate(ratios):
            top = best.flatten(0, 1).index_select(0, lattice.rows[level][j])
            tied = ratio >= lattice.insert(top, level, j) - TIE
            edges.append(lattice.split(log_cond[level + 1], level, j).masked_fill(~tied, NEG_INF))
        base = torch.zeros_like(log_cond[level])  # a factor of the state, which cancels in shares of a power
        rates = rates_from_edges(LevelEdges(edges, base), kind, lattice, level)
        visits.append(push(rates, visits[-1], lattice, level))
    return visits
