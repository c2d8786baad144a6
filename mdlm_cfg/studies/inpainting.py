"""study=inpainting: the exact distribution of a few hidden pixels of test images, given all others (theory, 13)."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import lattice_of
from mdlm_cfg.compare.ledger import SampledLedger
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.rates import refuse_if_too_large
from mdlm_cfg.laws.stepped import MAX_ENTRIES, kernel_entries
from mdlm_cfg.studies.common import LONGER, STRENGTH, as_images
from mdlm_cfg.studies.findings import Block, Findings, Mosaic, Table, col, in_probability, in_tv
from mdlm_cfg.studies.law_pictures import NO_OTHERS, most_probable
from mdlm_cfg.studies.ledger import Budget, balance_of, columns_of
from mdlm_cfg.studies.protocol import LEARNED, Case, Made, Needs, Piece, Rows
from mdlm_cfg.studies.rows import strongest, where
from mdlm_cfg.studies.slices import (
    Found,
    Slice,
    answers_of,
    check_sampler,
    draws_of_slice,
    found_of,
    hidden_pixels,
    marginal_of,
    posterior_of,
)
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numbers import short
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.support.seeds import generator_for

NUMBERS = "Hidden pixels in numbers"  # the heading under which tables are folded
MOST_SHOWN = 2  # images in the unfolded part of a page
SHOWN = 4  # completions per strength in the picture
MARGIN = 3  # known pixels around the hidden ones in the picture
SURE = 0.99  # posterior probability from which the known pixels determine the class
ROUNDING = 1e-12
SMALL = 0.01  # total variation below which guidance changes almost nothing
IMAGE = "index of the image in the test data"
TARGET = "class z that is guided to"
READING = """\
All other pixels of the image are known. The denoiser is evaluated at all partial states of the hidden pixels, with \
the class and without, so their distribution is exact at every strength. A completion is one set of values of all \
hidden pixels. The effect of guidance is the total variation between the distribution and that at w = 0.

The posterior is the probability of the class, given the known pixels; its prior is the weight of the class in the \
mixture, or, for data known by examples only, its frequency in the training data. Where the posterior is near 1, the \
class adds nothing to the known pixels: both conditionals are the same, and guidance changes nothing."""
BUDGETS = """\
The plan's own sampler draws from the denoiser of the whole image, the other sampler from the denoiser of the hidden \
pixels alone. The total is their distance to the {} distribution. A budget balances if the total lies in the central \
99% interval that the exact distribution of the sampler's steps predicts."""


@dataclass(frozen=True)
class OfSlice:
    """One image, guided to one class."""

    image: int = col("image", IMAGE, index=True)
    target_class: int = col("guided to", TARGET, index=True)
    w: Guidance = col("w", STRENGTH, index=True)


@dataclass(frozen=True)
class SliceRow(OfSlice):
    """The hidden pixels of one image at one strength."""

    image_class: int = col("its class", "class of the image")
    posterior: float = in_probability(
        "posterior", "p(z | known pixels); if unknown, computed from the network along one order"
    )
    guidance_effect: float = in_tv("guidance effect", "TV to the distribution at w = 0")
    tv_tilted: float = in_tv(
        "TV to tilted", "TV to the tilted distribution; for a network, to the one averaged over orders"
    )
    ess: float = col("relative ESS", "of importance weights for the tilted distribution", unit="share")
    conditionals_error: float | None = in_tv("error of the network", "TV to the distribution of the exact conditionals")


@dataclass(frozen=True)
class BudgetRow(Budget, OfSlice):
    """The error budget of one image, strength and sampler, in total variation."""


@dataclass(frozen=True)
class Inpainting:
    """The exact distribution of hidden pixels of test images, at every strength of guidance.

    Args:
        num_free: hidden pixels of an image; the denoiser is called on (N+1)^num_free partial states under two labels.
        images: indices of test images; None is one for each class, drawn by the seed. They are guided to the plan's
            classes, or to their own if it has none.
    """

    num_free: int = 10
    images: Sequence[int] | None = None
    needs: ClassVar[Needs] = Needs(numbers=True, one_kind=True, unfiltered=True, samples=2)
    rows: ClassVar[Rows] = {"distances": SliceRow, "ledger": BudgetRow}

    def check(self, case: Case) -> None:
        """Refuse pixels and images that do not exist, and distributions that are too large."""
        plan = case.plan
        n = case.data.num_tokens
        d = math.prod(case.data.grid_shape)
        whole_number("study.num_free", self.num_free, 1, d)
        refuse_if_too_large(lattice_of(n, self.num_free), states_kept=4 * n * self.num_free)
        check_sampler(plan.sampler, self.num_free, d, n)
        if not plan.sampler.exact_in_time and kernel_entries(n, self.num_free) > MAX_ENTRIES:
            raise UserError(
                f"the distribution of {plan.sampler.label} on {self.num_free} pixels needs too many states: hide fewer"
            )
        self.pairs(case)

    def pairs(self, case: Case) -> list[tuple[int, int]]:
        """Which test image is guided to which class: (index, class).

        Raises:
            UserError: an image that does not exist or is given twice, or a class without test images.
        """
        labels = case.data.test_examples()[1]
        classes = case.plan.classes
        for index in self.images or ():
            if not 0 <= index < len(labels):
                raise UserError(f"study.images holds {index}, and there are test images 0 to {len(labels) - 1}")
        if self.images:
            if len(set(self.images)) < len(self.images):
                raise UserError(f"study.images = {list(self.images)} must name each image once")
            return [(i, z) for i in self.images for z in classes or (int(labels[i]),)]
        drawn = []
        for z in case.classes:
            places = (labels == z).nonzero().squeeze(1)
            if len(places) == 0:
                raise UserError(f"there is no test image of class {z}: choose another, or give study.images=[0]")
            generator = generator_for("inpainting image", case.plan.seed, z)
            drawn.append((int(places[torch.randint(len(places), (1,), generator=generator)]), z))
        return drawn

    def slices(self, case: Case) -> list[Slice]:
        """The images with their hidden pixels."""
        images, labels = case.data.test_examples()
        found = []
        for index, z in self.pairs(case):
            own = int(labels[index])
            variance = images[torch.isin(labels, torch.tensor([own, z]))].float().var(dim=0, correction=0)
            generator = generator_for("inpainting pixels", case.plan.seed, index, z)
            hidden = hidden_pixels(variance, case.data.grid_shape, self.num_free, generator)
            x = images[index].long()
            found.append(Slice(index, own, z, x, x.index_fill(0, hidden, case.data.num_tokens)))
        return found

    def pieces(self, case: Case) -> Iterable[Piece]:
        """For each image: the outputs for all partial states, the posterior, and for each strength samples and laws."""
        states = float((case.data.num_tokens + 1) ** self.num_free)
        for s in self.slices(case):
            of = f"test image {s.image}"
            label = f"{of}: {states:,.0f} partial states"
            yield case.piece(answers_of, s, label=label, cost=2 * states, cached=False)
            cost = (len(s.x) - self.num_free) * case.data.num_classes
            yield case.piece(posterior_of, s, label=f"{of}: posterior of its class", cost=cost)
            for guidance in case.plan.guidances:
                yield from draws_of_slice(case, s, guidance)
                label = f"{of}: distributions at w = {guidance.label}"
                yield case.piece(found_of, s, guidance, label=label, cost=0.0, cached=False)

    def findings(self, case: Case, made: Made) -> Findings:
        """Distances, pictures and an error budget for each image and strength."""
        slices = self.slices(case)
        found = [(s, g, made.of(found_of, s, g)) for s in slices for g in case.plan.guidances]
        rows = [_row(case, s, g, one, float(made.of(posterior_of, s))) for s, g, one in found]
        budgets = [_budget(s, g, ledger) for s, g, one in found for ledger in one.ledgers]
        num_states = (case.data.num_tokens + 1) ** self.num_free
        first = {_of(row) for row in most_changed(rows)}
        blocks = [
            _distances(rows),
            *(_pictures(case, s, {g: one for t, g, one in found if t is s}, first) for s in slices),
            _budgets(case, budgets),
        ]
        facts = {"judged": case.judged, "num_states": num_states}
        arrays = {f"{s.name}_{g.kind}_{g.identifier}": one.law.numpy() for s, g, one in found}
        return Findings(case.plan, blocks, verdict_of(rows, budgets, case.judged), facts, arrays)


def _row(case: Case, s: Slice, guidance: Guidance, found: Found, posterior: float) -> SliceRow:
    return SliceRow(
        *s.at(guidance),
        image_class=s.image_class,
        posterior=posterior,
        guidance_effect=total_variation(found.unguided, found.law),
        tv_tilted=total_variation(found.tilted, found.law),
        ess=found.ess,
        conditionals_error=found.ledgers[0].tv.get("error of the network") if case.has_learned else None,
    )


def _budget(s: Slice, guidance: Guidance, ledger: SampledLedger) -> BudgetRow:
    columns = columns_of(ledger)
    del columns["discretisation_error_exact"]
    return BudgetRow(*s.at(guidance), **columns)


def _distances(rows: Sequence[SliceRow]) -> Block:
    values = ["guidance_effect", "tv_tilted", "ess", "conditionals_error"]
    table = Table(["image", "image_class", "target_class", "posterior", "w"], values, note="Distances in TV, exact.")
    group = "" if len({_of(row) for row in rows}) <= MOST_SHOWN else NUMBERS  # pictures come before a long table
    return Block("distances", rows, "Hidden pixels", READING, views=[table], logged=values, group=group, printed=True)


def _pictures(case: Case, s: Slice, found: Mapping[Guidance, Found], first: Container[tuple[int, int]]) -> Block:
    """The image, and the region around its hidden pixels, as in the image and as completed at every strength."""
    top = case.data.num_tokens - 1 or 1
    known = s.x.double().index_fill(0, s.hidden, math.nan) / top
    whole = {"known pixels": known, "test image": s.x / top}
    names = {"known pixels": known, "true values": s.x / top}
    tiles = {title: [x] * len(found) for title, x in names.items()}
    for one in found.values():
        means = marginal_of(one.law) @ torch.arange(case.data.num_tokens).double() / top
        tiles.setdefault("pixel means", []).append(known.index_copy(0, s.hidden, means))
        completions = [known.index_copy(0, s.hidden, x.double() / top) for x in most_probable(one.law, SHOWN)]
        missing = [known] * (min(SHOWN, one.law.numel()) - len(completions))
        for rank, x in enumerate(completions + missing, 1):
            tiles.setdefault(f"rank {rank}", []).append(x)
    rows, columns = _window(as_images(case, known))
    cropped = {title: as_images(case, torch.stack(x))[:, None, rows, columns] for title, x in tiles.items()}
    lines = [f"w = {guidance.label}" for guidance in found]
    caption = "Around the hidden pixels: the mean of each, and the most probable completions."
    if any(np.isnan(images).any() for title, images in cropped.items() if title != "known pixels"):
        caption += f" {NO_OTHERS}"
    text = f"Its class is {case.class_name(s.image_class)}; {len(s.hidden)} of its {len(s.x)} pixels are hidden."
    views = [
        Mosaic({title: as_images(case, x)[None, None] for title, x in whole.items()}, caption="Light blue is hidden."),
        Mosaic(cropped, lines, caption),
    ]
    group = "" if (s.image, s.target_class) in first else "More images"
    title = f"Test image {s.image}, guided to class {case.class_name(s.target_class)}"
    return Block(s.name, [], title, text, views=views, group=group)


def _window(known: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of a picture (H, W) around its pixels that are not known (NaN)."""
    found = []
    for places, size in zip(np.nonzero(np.isnan(known)), known.shape):
        found.append(slice(max(0, int(places.min()) - MARGIN), min(size, int(places.max()) + MARGIN + 1)))
    return found[0], found[1]


def _budgets(case: Case, rows: Sequence[BudgetRow]) -> Block:
    values = ["closes", "total", "predicted_low", "predicted_high", "conditionals_error", "discretisation_error"]
    table = Table(["image", "target_class", "w", "sampler"], [*values, "sampling_noise"])
    text = BUDGETS.format("exact" if case.target is not None else "network's own exact")
    return Block("ledger", rows, "The error budget", text, views=[table], group="Error budget")


def verdict_of(rows: Sequence[SliceRow], budgets: Sequence[BudgetRow], judged: str) -> list[str]:
    """Whether the network is good enough, whether guidance matters for these pixels, and whether budgets balance."""
    top = _at_strongest(rows)
    said = [_of_the_network(rows, top)] if judged == LEARNED else []
    said.append(_of_the_guidance(top))
    missed = [f"image {row.image}, w = {row.w.label}, {row.sampler.label}" for row in budgets if not row.closes]
    return [*said, balance_of(missed, len(budgets))]


def _at_strongest(rows: Sequence[SliceRow]) -> list[SliceRow]:
    return where(rows, w=strongest(rows))


def most_changed(rows: Sequence[SliceRow]) -> list[SliceRow]:
    """The rows at the largest strength of the images that guidance changes most, with which the page begins."""
    top = _at_strongest(rows)
    chosen = sorted(top, key=lambda row: -row.guidance_effect)[:MOST_SHOWN]
    return [row for row in top if row in chosen]


def _of(row: SliceRow) -> tuple[int, int]:
    return row.image, row.target_class


def _of_the_network(rows: Sequence[SliceRow], top: Sequence[SliceRow]) -> str:
    errors = [row.conditionals_error for row in rows if row.conditionals_error is not None]
    if not errors:
        return (
            "The distribution of the data is not known exactly, so the error of the network is unknown: all numbers "
            "describe the network."
        )
    worst = max(errors)
    effect = max(row.guidance_effect for row in top)
    return (
        f"The error of the network is {'' if worst < effect else 'not '}smaller than the effect of guidance "
        f"({short(effect)}): its distribution of the hidden pixels is within {short(worst)} of the exact one in total "
        f"variation.{f' {LONGER}' if worst >= effect > ROUNDING else ''}"
    )


def _of_the_guidance(top: Sequence[SliceRow]) -> str:
    """Whether guidance changes anything, and if not, whether the known pixels are the reason."""
    w = top[0].w
    if w.constant <= 0:
        return "No strength above 0 was given, so there is no guidance to evaluate: give w=[0,1,2]."
    moved = {row.image for row in top if row.guidance_effect >= SMALL}
    most = f"{short(max(row.guidance_effect for row in top))} in total variation"
    if moved:
        num = len({row.image for row in top})
        return f"At w = {w.label} guidance changes the hidden pixels of {len(moved)} of {num} images, by up to {most}."
    why = ", because the known pixels already determine the class" if all(r.posterior >= SURE for r in top) else ""
    return f"Guidance changes almost nothing here{why}: at most {most} at w = {w.label}."
