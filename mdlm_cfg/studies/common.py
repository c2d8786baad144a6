"""Shared parts of studies: their needs, keys of pieces, and pieces that compute distributions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.draws import Draw, draws_of
from mdlm_cfg.studies.protocol import Case, Made, Piece
from mdlm_cfg.support.progress import CountedSteps
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.table import TableMixture

TABLE: dict[str, Any] = {
    "target": (TableMixture,),
    "what": "data given as a table of probabilities",
    "example": "data=toy_5d_hypercube",
}

SURE = 2.0  # standard errors from which a difference counts as more than chance

# the meanings of columns that many studies have
STRENGTH = "guidance strength"
TRAIN_AGAIN = "python train.py with the same options and"
EVALUATE_AGAIN = "python eval.py with the same options and"
LONGER = f"Train longer: {TRAIN_AGAIN} trainer.max_epochs=100 trainer.max_steps=-1 max_time=00:01:00:00"
MOST_COLUMNS = 40  # images in a row of a picture
MORE = 10  # times as many samples, if those drawn are inconclusive
WHO = '"exact" or "learned"'
SAMPLER = "sampler with its steps, schedule and policy"
CALLS = "calls of the denoiser, for each of the two conditionals"

BERNOULLI: dict[str, Any] = {
    "target": (BernoulliMixture,),
    "what": "a Bernoulli mixture",
    "example": "data=bernoulli_mnist",
}


def untrained(how: str, own: str, than: str, better: bool) -> str:
    """The verdict on a network whose NELBO, `own`, is not clearly better than that of a model without structure.

    Args:
        better: whether it is better, though not clearly.
    """
    return f"The network is {how} trained: {own}, {'not clearly' if better else 'no'} better than {than}. {LONGER}"


def calls_of(calls: float) -> str:
    """A number of calls in words."""
    return f"{calls:g} call{'s' if calls != 1 else ''}"


def draw_more(num_samples: int) -> str:
    """The advice to draw `num_samples` samples."""
    return f"Draw more: {EVALUATE_AGAIN} num_samples={num_samples}"


def law_piece(case: Case, who: str, guidance: Guidance, target_class: int, policy: Policy | None = None) -> Piece:
    """The piece of `law`; the denoiser's outputs must fit in a table."""
    label = f"distribution of the {who} chain at w = {guidance.label}"
    return case.piece(law, who, guidance, target_class, policy, label=label)


def law(case: Case, who: str, guidance: Guidance, target_class: int, policy: Policy | None) -> Tensor:
    """The exact terminal distribution of the guided chain of a denoiser, (N,)*D.

    Args:
        who: "exact" or "learned". policy: the order of unmasking; None is that of the guidance itself.
    """
    return terminal_law(case.denoiser(who), guidance, target_class, policy)


def law_made(case: Case, who: str, guidance: Guidance, target_class: int, policy: Policy | None) -> Tensor | None:
    """The result of `law_piece`; None if there was no such piece."""
    return case.made.get(case.key_of(law, who, guidance, target_class, policy))


def draw_pieces(
    case: Case,
    who: str,
    guidance: Guidance,
    target_class: int,
    *,
    name: str = "",
    sampler: Sampler | None = None,
    start: Tensor | None = None,
) -> list[Piece]:
    """The pieces that draw the plan's samples of one class at one strength; several processes may share them.

    Args:
        who: "exact" or "learned".
        name: distinguishes this set from others of the same study; sets of different names are independent.
        sampler: one that replaces the plan's.
        start: int64 (D,), the initial partial state; None is the all-masked state.
    """
    denoiser = case.denoisers[who]
    draws = draws_of(case.plan, denoiser, guidance, target_class, name, compared=sampler, start=start)
    used = sampler or case.plan.sampler
    by = "" if sampler is None else f" by {sampler.label}"
    label = f"samples of class {case.class_name(target_class)} at w = {guidance.label}, {who} conditionals{by}"
    num_dims = denoiser.num_dims if start is None else int((start == denoiser.num_tokens).sum())
    steps = used.calls(num_dims)
    costs = [used.num_rows(draw.num_samples, num_dims, guidance) for draw in draws]
    return [Piece(draw.key, partial(_drawn, draw, steps), label, cost, shared=True) for draw, cost in zip(draws, costs)]


def _drawn(draw: Draw, steps: int) -> Tensor:
    return draw.make(CountedSteps(steps))


def samples_of(made: Made, pieces: Sequence[Piece]) -> Tensor:
    """The samples of the pieces of `draw_pieces`, (n, D) on the CPU."""
    return torch.cat([made[piece.key] for piece in pieces])


def held_out_of(case: Case, k: int) -> Tensor:
    """All test examples of a class in random order, since the first half of MNIST's is cleaner: integer (m, D)."""
    x, labels = case.data.test_examples()
    order = torch.randperm(len(x), generator=generator_for("held out", case.plan.seed))
    return x[order][labels[order] == k]


def class_weights_of(case: Case) -> Tensor:
    """p(z), float64 (K,): if unknown, the class shares of the training examples, which make up the mixture.

    The test examples may have other shares, and may lack a class.
    """
    if case.target is not None:
        weights: Tensor = case.target.class_weights
        return weights
    key = ("shares of classes",)
    if key not in case.made:  # once: the examples of every class are made for it
        counts = _class_counts(case).double()
        case.made[key] = counts / counts.sum()
    shares: Tensor = case.made[key]
    return shares


def _class_counts(case: Case) -> Tensor:
    data = case.data
    if data.example_kind is None:
        return data.test_examples()[1].long().bincount(minlength=data.num_classes)
    return torch.tensor([len(data.train_examples(k, generator_for("shares"))) for k in range(data.num_classes)])


def columns_shown(case: Case, sets: int) -> int:
    """The number of images per set in a row of a picture."""
    return max(2, min(10, MOST_COLUMNS // sets, case.plan.num_samples))


def as_images(case: Case, x: Tensor) -> np.ndarray:
    """Values (..., D) as pictures (..., height, width); other data than a two-dimensional grid become one row."""
    shape = case.data.grid_shape if len(case.data.grid_shape) == 2 else (1, x.shape[-1])
    pictures: np.ndarray = x.reshape(*x.shape[:-1], *shape).cpu().numpy()
    return pictures
