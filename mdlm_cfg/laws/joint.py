"""Laws of a chain whose rates are ratios of weights: a table, guided by one number w (theory, sections 4 and 5).

With T = p^(-w) p_z^(1+w) of every partial state, rho_i(v | x_U) = T(x_U + {i=v}) / T(x_U), and under the kind of
guidance whose rates are rho itself, Lambda(x_U) is the sum of T over all children of x_U, divided by T(x_U). A flow
F = T H then needs no numbers for edges: H of a child is the sum of H / Lambda over its parents, or of H / (s + Lambda)
for the Laplace transform of the law in time. All of these are sums over children, or over parents, of one number per
state (`mdlm_cfg.chain.blocks`). Schedules of w and other kinds go level by level (`mdlm_cfg.laws.push`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.blocks import BlockedLattice, mixed
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.targets.table import TableDenoiser

TINY = 1e-300  # below every sum of T: states without exits are never visited, so any divisor gives 0


@dataclass(frozen=True)
class JointChain:
    """A guided chain on all partial states.

    Attributes:
        blocks: their layout. weights: T, (rows, columns). holding: 1 / Lambda, the mean time spent in each; 0 where the
            chain never is, and T in finished states, which thus pass on their law.
        is_single_use: whether `holding` still contains Lambda T, by which T is divided where needed, and is overwritten
            by the terminal law: nothing else may be computed after that.
    """

    blocks: BlockedLattice
    weights: Tensor
    holding: Tensor
    is_single_use: bool

    def terminal_law(self) -> Tensor:
        """The law of finished states, (N,)*D."""
        rows, columns = self.blocks.finished
        out = self.holding[:, None] if self.is_single_use else None
        passed_on = self.blocks.push(self.weights[0, :1].reciprocal(), self._leave, out=out)
        return passed_on[rows, 0, columns].reshape([self.blocks.num_tokens] * self.blocks.num_dims)

    def _held(self, rows: slice) -> tuple[Tensor, ...]:
        """1 / Lambda of some rows by inner level, (r, 1, c) each."""
        held = self.holding[rows]
        if self.is_single_use:
            held = self.weights[rows] / held
        return self.blocks.by_level(held[:, None])

    def _leave(self, rows: slice) -> Callable[[Tensor, int], Tensor]:
        held = self._held(rows)
        return lambda values, p: values.mul_(held[p])

    def laws_between(self, nodes: Tensor, weights: Tensor) -> Tensor:
        """Re sum_k c_k f(s_k) of the Laplace transform f of the law in time, (T, N+1, ..., N+1).

        The push is real, so that real and imaginary parts are pushed side by side.

        Args:
            nodes: s, (K,) complex. weights: c, (T, K) complex.
        """
        size, cos, sin = (part[:, None] for part in (nodes.abs(), nodes.angle().cos(), nodes.angle().sin()))

        def leave(values: Tensor, held: Tensor) -> None:
            """H / (s + Lambda), as H holding / (1 + s holding) with both over 1 + |s| holding: no square overflows."""
            share = (size * held).add_(1).reciprocal_()
            a = torch.addcmul(cos, share, 1 - cos)
            b = torch.addcmul(sin, share, sin, value=-1)
            share.mul_(held).div_(a.square().addcmul_(b, b))
            a = a.mul_(share)
            b = b.mul_(share)
            x, y = values.chunk(2, dim=1)
            new = torch.addcmul(x * a, y, b)
            torch.addcmul(y * a, x, b, value=-1, out=y)
            x.copy_(new)

        start = torch.cat([torch.ones_like(nodes.real), torch.zeros_like(nodes.real)]) / self.weights[0, 0]

        def pass_on(rows: slice) -> Callable[[Tensor, int], None]:
            held = self._held(rows)
            return lambda values, p: leave(values, held[p])

        values = self.blocks.push(start, pass_on, to_the_end=False)
        # H / s of finished states is linear in what their parents pass on, and there are fewer times than nodes
        left, ended = (torch.cat([c.real, -c.imag], dim=1) for c in (weights, weights / nodes))
        rows, columns = self.blocks.finished
        law = values.new_empty(len(weights), len(values), values.shape[2])
        law[:, : rows.start] = mixed(left, values[: rows.start])
        law[:, rows, : columns.start] = mixed(left, values[rows, :, : columns.start])
        law[:, rows, columns] = self.blocks.arrivals(values, ended)
        law *= self.weights
        return self.blocks.to_dense(law).clamp_(min=0)  # quadrature leaves some 1e-14 below 0


def joint_chain(denoiser: Denoiser, guidance: Guidance, target_class: int | None) -> JointChain | None:
    """The chain of a table, where its rates are ratios of weights that fit float64; None for any other."""
    if not isinstance(denoiser, TableDenoiser) or not guidance.telescopes:
        return None
    if guidance.is_schedule or not guidance.kind.is_rho:
        return None
    known = denoiser.marginals_in_blocks(target_class)
    in_place = not denoiser.keeps_marginals
    weights = known.weights(guidance.constant, in_place)
    if weights is None:
        return None
    spare = [matrix for matrix in (known.cond, known.uncond) if in_place and matrix is not weights]
    totals = known.blocks.sum_over_children(weights, spare[0] if spare else None)
    if known.has_zeros:
        totals.clamp_(min=TINY)
    totals[known.blocks.finished].fill_(1)
    if not in_place:
        torch.div(weights, totals, out=totals)
    return JointChain(known.blocks, weights, totals, in_place)
