"""The study of guided inpainting: a few hidden pixels of test images, given all others (theory, section 13)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import lattice_of
from mdlm_cfg.compare.slice_ledger import SliceLedger, slice_laws, slice_ledger
from mdlm_cfg.laws.rates import refuse_if_too_large
from mdlm_cfg.laws.slices import SliceDenoiser, slice_denoiser
from mdlm_cfg.laws.stepped import MAX_ENTRIES, kernel_entries
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, Sampler
from mdlm_cfg.studies.inpainting.findings import InpaintingFindings, Slice, SliceAtStrength
from mdlm_cfg.studies.inpainting.pixels import CHOICES, PATCH, hidden_pixels
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.sampled import check_sampled
from mdlm_cfg.support.cache import Keep, keep_nothing
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.data import Data

FEW_STEPS = Sampler(EVENT_LEAPING, 2)  # beside the plan's own sampler: one whose steps cost something


@dataclass(frozen=True)
class Inpainting:
    """The exact law of hidden pixels, at every strength of guidance.

    Args:
        num_free: hidden pixels of an image: (N+1)^num_free partial states are asked of the network, under two labels.
        pixels: "patch" (connected, drawn by the seed) or "variance" (those that vary most): among test images
            of the class that an image has and of the one that it is guided to.
        images: places of test images; None takes one of each class, drawn by the seed. They are guided to the plan's
            classes, and to their own where it has none.
        image_class: of the images that are drawn, where it is not the class they are guided to.
    """

    num_free: int = 10
    pixels: str = PATCH
    images: Sequence[int] | None = None
    image_class: int | None = None

    def check(self, data: Data, plan: Plan) -> None:
        """Raise UserError for anything that `run` would refuse, before any time is spent."""
        n = data.num_tokens
        d = math.prod(data.grid_shape)
        check_sampled(plan, (n, d, data.num_classes), None)
        if not 1 <= self.num_free <= d:
            raise UserError(f"study.num_free = {self.num_free} is not allowed: it must be 1 to {d}")
        if self.pixels not in CHOICES:
            raise UserError(f"study.pixels = {self.pixels!r} is unknown; choose one of {', '.join(CHOICES)}")
        refuse_if_too_large(lattice_of(n, self.num_free), states_kept=4 * n * self.num_free)
        own = plan.sampler
        if own.policy is not None:
            own.policy.check(self.num_free)
        if not own.exact_in_time and kernel_entries(n, self.num_free) > MAX_ENTRIES:
            raise UserError(f"the law of {own.label} on {self.num_free} pixels is out of reach: hide fewer")
        for guidance in plan.guidances:
            if guidance.filters:
                raise UserError("inpainting is held against the tilted law: leave temperature and top_p at 1")
        self.pairs(data, plan)

    def pairs(self, data: Data, plan: Plan) -> list[tuple[int, int]]:
        """Which test image is guided to which class: (place, class)."""
        labels = data.test_examples()[1]
        for index in self.images or ():
            if not 0 <= index < len(labels):
                raise UserError(f"study.images holds {index}, and there are test images 0 to {len(labels) - 1}")
        if self.images:
            return [(i, z) for i in self.images for z in plan.classes or (int(labels[i]),)]
        drawn = []
        for z in plan.classes or range(data.num_classes):
            wanted = z if self.image_class is None else self.image_class
            places = (labels == wanted).nonzero().squeeze(1)
            if len(places) == 0:
                raise UserError(f"there is no test image of class {wanted}: choose another, or give study.images=[0]")
            generator = generator_for("inpainting image", plan.seed, wanted)
            drawn.append((int(places[torch.randint(len(places), (1,), generator=generator)]), z))
        return drawn

    def rows(self, plan: Plan, num_tokens: int) -> list[int]:
        """How many rows each piece of an image's slice asks of the denoiser: both labels' states, and samples."""
        states = (num_tokens + 1) ** self.num_free
        return [states, states, *(plan.sampler.num_rows(plan.num_samples, self.num_free, g) for g in plan.guidances)]

    def run(
        self,
        data: Data,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> InpaintingFindings:
        """See `mdlm_cfg.studies.study.Study`."""
        self.check(data, plan)
        n = data.num_tokens
        d = math.prod(data.grid_shape)
        check_sampled(plan, (n, d, data.num_classes), denoiser)
        exact = None if data.target is None else data.target.denoiser()
        judged = exact if denoiser is None else denoiser
        if judged is None:
            raise UserError(f"{data.name} is not known exactly: train a network on it")
        states = (n + 1) ** self.num_free
        pairs = self.pairs(data, plan)
        say = Pieces(self.rows(plan, n) * len(pairs), progress)
        images, labels = data.test_examples()
        slices = []
        for index, z in pairs:
            image = images[index].long()
            own = int(labels[index])
            generator = generator_for("inpainting pixels", plan.seed, index, z)
            state = image.clone()
            state[hidden_pixels(_variance(data, {own, z}), data.grid_shape, self.num_free, self.pixels, generator)] = n
            work = _Work(judged, exact, state, z, index, keep)
            work.ask(say)
            found = [work.at(guidance, plan, denoiser is not None, say) for guidance in plan.guidances]
            slices.append(Slice(index, own, z, image, work.part.free.cpu(), found))
        name = "exact" if denoiser is None else "learned"
        return InpaintingFindings(plan, data.name, tuple(data.grid_shape), n, name, self.pixels, states, slices)


def _variance(data: Data, classes: set[int]) -> Tensor:
    """Of every coordinate's value among the test data of some classes, float32 (D,)."""
    x, labels = data.test_examples()
    return x[torch.isin(labels, torch.tensor(sorted(classes)))].float().var(dim=0, correction=0)


class _Work:
    """One image's slice: the denoisers as tables, and what is computed of them.

    Args:
        judged, exact: whole denoisers; exact is None where nobody knows it.
        state: int64 (D,), hidden pixels masked. target_class: z. index: of the image.
    """

    def __init__(
        self, judged: Denoiser, exact: Denoiser | None, state: Tensor, target_class: int, index: int, keep: Keep
    ) -> None:
        self.judged = judged
        self.state = state
        self.target_class = target_class
        self.index = index
        self.keep = keep
        self.part: SliceDenoiser = slice_denoiser(judged, state)
        self.table = TabulatedDenoiser(self.part, keep, state.tolist())
        self.exact = self.table if exact is judged else exact and TabulatedDenoiser(slice_denoiser(exact, state))

    def ask(self, say: Callable[[str], None]) -> None:
        """Ask for all partial states, under the class and under none: what takes the time."""
        hidden = torch.full((1, self.table.num_dims), self.table.num_tokens)
        for label in (self.target_class, self.table.num_classes):
            which = f"class {label}" if label < self.table.num_classes else "no class"
            say(f"test image {self.index}: {self.table.num_states:,} partial states under {which}")
            self.table(hidden, torch.tensor([label]))

    def at(self, guidance: Guidance, plan: Plan, learned: bool, say: Callable[[str], None]) -> SliceAtStrength:
        """Laws, weights and ledgers at one strength; the plan's own samples are drawn of the whole denoiser."""
        say(f"test image {self.index}: samples at w = {guidance.label}")
        z = self.target_class
        key = ("slice", self.index)
        generator = plan.generator("inpainting", guidance, z, *key, num_dims=self.table.num_dims)
        asked = (
            guidance.key(self.table.num_dims),
            plan.sampler.key,
            plan.num_samples,
            plan.seed,
            z,
            self.state.tolist(),
        )
        drawn = self.keep(
            ("inpainting", *asked),
            lambda: plan.sampler.draw(self.judged, guidance, z, plan.num_samples, generator, start=self.state).cpu(),
        )[:, self.part.free.cpu()]
        few = FEW_STEPS.draw(
            self.table,
            guidance,
            z,
            plan.num_samples,
            plan.generator("few steps", guidance, z, *key, num_dims=self.table.num_dims),
        )
        ledgers = [
            self._ledger(plan.sampler, drawn, guidance, plan),
            self._ledger(FEW_STEPS, few.cpu(), guidance, plan),
        ]
        weights = tilted_weights(self.table, guidance, z, plan.sampler.policy)
        error = ledgers[0].tv.get("score error") if learned else None
        return SliceAtStrength(guidance, ledgers[0].laws["L3"], weights.law, weights.ess, error, ledgers)

    def _ledger(self, sampler: Sampler, x: Tensor, guidance: Guidance, plan: Plan) -> SliceLedger:
        laws = slice_laws(self.table, self.exact, guidance, self.target_class, sampler)
        generator = plan.generator(
            "inpainting interval", guidance, self.target_class, self.index, sampler.label, num_dims=self.table.num_dims
        )
        return slice_ledger(laws, sampler, x, generator)
