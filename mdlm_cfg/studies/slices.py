"""Test images with hidden pixels, and their exact distributions, weights and error budgets (theory, section 13)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.compare.ledger import SampledLedger
from mdlm_cfg.compare.likelihood import class_posterior
from mdlm_cfg.compare.slice_ledger import slice_laws, slice_ledger
from mdlm_cfg.laws.slices import slice_denoiser
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, Sampler
from mdlm_cfg.studies.common import class_weights_of, draw_pieces, samples_of
from mdlm_cfg.studies.protocol import EXACT, Case, Piece
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for

NEVER = 1e-9  # lower bound of a pixel's variance, so that a patch can always grow
FEW_STEPS = Sampler(EVENT_LEAPING, 2)  # besides the plan's own sampler: one whose steps have an error


class Slice(NamedTuple):
    """A test image with hidden pixels, and the class that is guided to.

    Attributes:
        x: int64 (D,), complete. state: the same with the mask N in place of the hidden values.
    """

    image: int
    image_class: int
    target_class: int
    x: Tensor
    state: Tensor

    @property
    def hidden(self) -> Tensor:
        """The hidden coordinates, int64 (|S|,), ascending."""
        return (self.x != self.state).nonzero().squeeze(1)

    @property
    def name(self) -> str:
        """Of its blocks and arrays."""
        return f"image{self.image}_class{self.target_class}"

    def at(self, guidance: Guidance) -> tuple[int, int, Guidance]:
        """The index columns of a row at one strength."""
        return (self.image, self.target_class, guidance)

    @property
    def key(self) -> tuple[Any, ...]:
        """The values that determine the distributions of the hidden pixels."""
        return (self.image, self.target_class, tuple(self.state.tolist()))


class Found(NamedTuple):
    """The results for a slice at one strength.

    Attributes:
        law, unguided, tilted: of the hidden pixels by the judged denoiser, at w, at w = 0 and tilted, float64 (N,)*|S|.
        ess: the relative ESS of the weights to `tilted`. ledgers: of the plan's own sampler, and of `FEW_STEPS`.
    """

    law: Tensor
    unguided: Tensor
    tilted: Tensor
    ess: float
    ledgers: tuple[SampledLedger, SampledLedger]


def hidden_pixels(variance: Tensor, grid_shape: Sequence[int], num_free: int, generator: torch.Generator) -> Tensor:
    """The hidden coordinates, int64 (num_free,), ascending: a connected patch.

    Args:
        variance: of every coordinate's value, float (D,): the first, then its neighbours, are drawn in proportion.
        grid_shape: its product is D.
        generator: of the patch.
    """
    index = torch.arange(math.prod(grid_shape))
    places = torch.stack(torch.unravel_index(index, tuple(grid_shape)), dim=1)
    chance = variance.double().clamp(min=NEVER)
    chosen = torch.zeros(len(variance), dtype=torch.bool)
    allowed = ~chosen
    for _ in range(num_free):
        drawn = int(torch.multinomial(chance * allowed, 1, generator=generator))
        chosen[drawn] = True
        steps = (places[:, None] - places[chosen][None]).abs().sum(dim=-1)
        allowed = (steps == 1).any(dim=1) & ~chosen
    return chosen.nonzero().squeeze(1)


def check_sampler(sampler: Sampler, num_free: int, num_dims: int, num_tokens: int) -> None:
    """Refuse numbers of events and orders that are for all pixels, and moves larger than the hidden part."""
    if sampler.correction is not None:
        sampler.correction.check(num_free)
    if isinstance(sampler.events, tuple) and num_free < num_dims:
        raise UserError(
            f"events = {list(sampler.events)} are for all {num_dims} pixels, and study=inpainting hides "
            f"{num_free}: give one number, such as events=1, or steps and a noise schedule"
        )
    if sampler.policy is None:
        return
    refused = UserError(
        f"the policy {sampler.policy} names pixels of the whole image, and study=inpainting hides "
        f"{num_free} that are drawn by the seed: choose one that names none, such as confidence"
    )
    try:
        sampler.policy.check(num_free)
    except UserError as error:
        raise refused from error
    if _depends_on_places(sampler.policy, num_free, num_dims, num_tokens):
        raise refused


def _depends_on_places(policy: Policy, num_free: int, num_dims: int, num_tokens: int) -> bool:
    """Whether a policy depends on the positions of coordinates, and not only on their order.

    A slice numbers its coordinates from 0, but samples of the whole image use the image's numbers.
    """
    drawn = torch.rand(1, num_free, num_tokens, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_z, log_r = drawn.sum(dim=-1).log(), drawn.log_softmax(dim=-1)
    first = torch.arange(num_free)
    places = (first, first + num_dims - num_free, torch.linspace(0, num_dims - 1, num_free).round().long())
    of_slice, *others = (policy.log_choice(log_z, lambda: log_r, at) for at in places)
    return not all(torch.allclose(of_slice, other) for other in others)


def answers_of(case: Case, s: Slice) -> tuple[TabulatedDenoiser, Denoiser | None]:
    """The judged denoiser of the hidden pixels, and the exact one if it is known, both tabulated on every state."""
    tables: dict[str, TabulatedDenoiser] = {}
    for who in case.denoisers:
        table = TabulatedDenoiser(slice_denoiser(case.denoisers[who], s.state), case.cache, (who, s.key))
        table(torch.full((1, table.num_dims), table.num_tokens), torch.tensor([s.target_class]))
        tables[who] = table
    return tables[case.judged], tables.get(EXACT)


def posterior_of(case: Case, s: Slice) -> float:
    """p(z | known pixels), from the exact conditionals if there are any."""
    denoiser = case.denoisers.get(EXACT, case.denoisers[case.judged])
    generator = generator_for("order of the known pixels", case.plan.seed, s.image)
    return float(class_posterior(denoiser, s.state, class_weights_of(case), generator)[s.target_class])


def draws_of_slice(case: Case, s: Slice, guidance: Guidance) -> list[Piece]:
    """The pieces of the plan's own sampler that draw samples with the known pixels fixed."""
    return draw_pieces(case, case.judged, guidance, s.target_class, name=f"image {s.image}", start=s.state)


def found_of(case: Case, s: Slice, guidance: Guidance) -> Found:
    """Distributions, weights and error budgets at one strength."""
    table, exact = case.made.of(answers_of, s)
    plan = case.plan
    z = s.target_class
    own = samples_of(case.made, draws_of_slice(case, s, guidance))[:, s.hidden].long()
    generator = plan.generator("few steps", guidance, z, "slice", s.image, num_dims=table.num_dims)
    few = FEW_STEPS.draw(table, guidance, z, plan.num_samples, generator)
    ledgers = []
    for sampler, x in ((plan.sampler, own), (FEW_STEPS, few)):
        laws = slice_laws(table, exact, guidance, z, sampler)
        names = (s.image, sampler.label)
        interval = plan.generator("inpainting interval", guidance, z, *names, num_dims=table.num_dims)
        ledgers.append(slice_ledger(laws, sampler, x, interval))
    weights = tilted_weights(table, guidance, z, plan.sampler.policy)
    unguided = terminal_law(table, Guidance(0.0, guidance.kind), z, plan.sampler.policy)
    return Found(ledgers[0].laws["L3"], unguided, weights.law, weights.ess, (ledgers[0], ledgers[1]))


def marginal_of(law: Tensor) -> Tensor:
    """The marginal of every hidden pixel, float64 (|S|, N)."""
    return torch.stack([law.movedim(i, 0).flatten(1).sum(dim=1) if law.ndim > 1 else law for i in range(law.ndim)])
