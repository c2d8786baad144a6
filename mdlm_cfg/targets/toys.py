"""The shipped toys: small mixtures on which every law is exact (data=toy_... in the configs)."""

from __future__ import annotations

import torch
from torch import Tensor

from mdlm_cfg.targets.table import TableMixture


def _mixture(supports: list[Tensor], weights: list[float]) -> TableMixture:
    """Classes from non-negative weights on the grid, each normalised."""
    pmfs = [s.double() / s.double().sum() for s in supports]
    return TableMixture(torch.stack(pmfs), torch.tensor(weights, dtype=torch.float64))


def _bump(num_tokens: int, center: float, radius: float) -> Tensor:
    """A triangular bump: max(0, 1 - |x - center| / radius)."""
    x = torch.arange(num_tokens, dtype=torch.float64)
    return (1 - (x - center).abs() / radius).clamp(min=0)


def _box(num_tokens: int, low: int, high: int, num_dims: int) -> Tensor:
    """1 on the box {low..high}^D, 0 elsewhere."""
    x = torch.arange(num_tokens)
    inside = ((x >= low) & (x <= high)).double()
    grids = torch.meshgrid(*[inside] * num_dims, indexing="ij")
    return torch.stack(grids).prod(dim=0)


def toy_1d_disjoint() -> TableMixture:
    """Two disjoint bumps on 32 values: guidance changes only the speed."""
    return _mixture([_bump(32, 8.0, 6.0), _bump(32, 23.0, 6.0)], [0.5, 0.5])


def toy_1d_overlap() -> TableMixture:
    """Two overlapping bumps on 32 values: guidance keeps the private side's shape and empties the overlap."""
    return _mixture([_bump(32, 11.0, 8.0), _bump(32, 20.0, 8.0)], [0.5, 0.5])


def toy_2d_projection() -> TableMixture:
    """A diamond and four corners on 16 x 16: disjoint supports, overlapping projections (theory, section 7)."""
    axis = torch.arange(16, dtype=torch.float64) - 7.5
    distance = axis.abs()[:, None] + axis.abs()[None, :]
    return _mixture([distance <= 6, distance >= 10], [0.5, 0.5])


def toy_2d_overlap() -> TableMixture:
    """Two overlapping squares on 16 x 16, uniform: {1..9}^2 and {6..14}^2."""
    return _mixture([_box(16, 1, 9, 2), _box(16, 6, 14, 2)], [0.5, 0.5])


def toy_5d_hypercube() -> TableMixture:
    """Uniform on {0,1,2}^5 and {2,3,4}^5, N = 5: the five-dimensional case of arXiv 2506.10971 (theory, section 4)."""
    return _mixture([_box(5, 0, 2, 5), _box(5, 2, 4, 5)], [0.5, 0.5])


def toy_4d_chain() -> TableMixture:
    """Two chains of 4 coordinates and 3 values whose interactions grow along the chain: no two coordinates are alike.

    log p(x | z) = sum_i 0.1 i s_z (x_i - 1) + sum_{i < 4} 0.4 i [x_i = x_{i+1} + z mod 3] + constant, with s = 1, -1:
    class 0 has large values and equal neighbours, class 1 small values and neighbours that differ by one.
    """
    x = torch.stack(torch.meshgrid(*[torch.arange(3)] * 4, indexing="ij"))
    i = torch.arange(1, 5, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    classes = []
    for z, sign in enumerate((1, -1)):
        fields = (0.1 * i * sign * (x - 1)).sum(dim=0)
        pairs = (0.4 * i[:3] * (x[:3] == (x[1:] + z) % 3)).sum(dim=0)
        classes.append((fields + pairs).exp())
    return _mixture(classes, [0.5, 0.5])
