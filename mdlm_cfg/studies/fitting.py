"""Strengths and step sizes that are fitted to a denoiser: exactly on small tables, else to samples (theory, 21 and 22).

Fit and evaluation use different samples: fresh ones from a known distribution, the validation and the test data of
examples. If the validation data are training data, whose NELBO is too low, they are two halves of the test data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.guidance_schedules import Calibrated
from mdlm_cfg.compare.calibration import Calibration, calibrate, calibrated_strengths
from mdlm_cfg.compare.levels import MaskedSamples
from mdlm_cfg.compare.profile import InformationProfile, exact_information_profile, information_profile
from mdlm_cfg.sampling.reference import check_positive_class
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.data import Data
from mdlm_cfg.targets.posterior import posterior_of
from mdlm_cfg.targets.table import TableMixture

FIT = "fit"
TEST = "test"
NUM_EXAMPLES = 1000  # of a class, to which strengths are fitted
FEWEST = 10
FEW = 30  # examples, from fewer of which a standard error is itself uncertain
SPREAD = 1.0  # of the prior of strengths around w: without evidence they stay near w
GROUPS = 16  # of levels that share a strength when it is fitted to samples
LEAST_MASKS = 4  # partial states per example
LEAST_STATES = 8  # and per level


def check_samples(case: Case, target_class: int, num_examples: int) -> None:
    """Raise UserError unless there is a target class and, if only samples are available, enough of them."""
    target = case.target
    if isinstance(target, BernoulliMixture):
        check_positive_class(target, target_class)
    if target is not None or case.is_exact:
        return
    numbers = [num_of_class(case, which, target_class, num_examples) for which in (FIT, TEST)]
    d = math.prod(case.data.grid_shape)
    if any(num * masks_for(num, d) < 2 * d for num in numbers):
        raise UserError(
            f"class {case.class_name(target_class)} of {case.data.name} has {numbers[0]} examples to fit {d} levels to "
            f"and {numbers[1]} others to evaluate the fit on, which are too few: choose another target_class"
        )


def examples_of(case: Case, which: str, target_class: int, num_examples: int) -> Tensor:
    """Examples of a class to fit to ("fit") or to evaluate on ("test"), int64 (n, D), without overlap.

    If validation data are held out of training, at most `num_examples` of them, and all test data; else at most
    `num_examples` from each half of the test data.
    """
    x, rows = _rows_of(case, which, target_class, num_examples)
    return x[rows].long()


def _rows_of(case: Case, which: str, target_class: int, num_examples: int) -> tuple[Tensor, Tensor]:
    """The data (m, D) that hold `examples_of`, and their rows, int64 (n,)."""
    x, classes = case.data.test_examples()
    held_out = case.data.val_examples()
    if held_out is None:
        order = torch.randperm(len(x), generator=generator_for("calibration halves", case.plan.seed))
        own = order[classes[order] == target_class]
        half = len(own) // 2
        return x, (own[:half] if which == FIT else own[half:])[:num_examples]
    if which == TEST:
        return x, (classes == target_class).nonzero()[:, 0]
    val_x, val_classes = held_out
    return val_x, (val_classes == target_class).nonzero()[:, 0][:num_examples]


def num_tested(case: Case, classes: Sequence[int], num_examples: int) -> list[int]:
    """The number of samples of each class on which a fit is evaluated, if distributions are sampled."""
    if case.target is not None:
        return [num_examples] * len(classes)
    return [num_of_class(case, TEST, z, num_examples) for z in classes]


def num_of_class(case: Case, which: str, target_class: int, num_examples: int) -> int:
    """The number of `examples_of`, without gathering them."""
    return len(_rows_of(case, which, target_class, num_examples)[1])


def origin_of_examples(case: Case, classes: Sequence[int], num_examples: int) -> str:
    """Sentences for readers on what `examples_of` chooses, and on how few these are."""
    numbers = num_tested(case, classes, num_examples)
    fewest = min(numbers)
    num = f"{fewest:,}" if fewest == max(numbers) else f"{fewest:,} to {max(numbers):,}"
    few = too_few(fewest)
    if case.data.val_examples() is None:
        return (
            f"The fit uses one half of the test data, at most {num_examples:,} examples of a class, and is evaluated "
            f"on as many from the other half ({num} of a class): the network was trained on neither.{few}"
        )
    return (
        f"The fit uses the validation data, which were held out of training (at most {num_examples:,} examples of a "
        f"class), and is evaluated on all test data of the class ({num} examples).{few}"
    )


def too_few(num: int) -> str:
    """A sentence for readers, after a blank, where standard errors are of fewer samples than `FEW`; else nothing."""
    return f" Standard errors from fewer than {FEW} of them are often too small." if num < FEW else ""


def masks_for(num: int, num_dims: int) -> int:
    """The number of partial states per sample, for n samples: at least 4, and enough for 8 per level."""
    return min(num_dims, max(LEAST_MASKS, math.ceil(LEAST_STATES * num_dims / max(num, 1))))


def part_of(case: Case, which: str, who: str, target_class: int, w: float, num_examples: int) -> MaskedSamples:
    """Samples of a class to fit to ("fit") or to evaluate on ("test"), without overlap.

    Args:
        w: of the target tilted distribution. Data that are not known exactly have no p(z | x): they are unweighted,
            which is right for w = 0, and if each example identifies its class.
    """
    seed = case.plan.seed
    if case.target is not None:
        x, _ = case.target.sample(num_examples, generator_for("calibration", which, seed, target_class), target_class)
        log_weights = w * log_posterior(case.target, x, target_class) if w else None
    else:
        x = examples_of(case, which, target_class, num_examples)
        log_weights = None
    denoiser = case.denoisers[who]
    generator = generator_for("calibration masks", which, seed, target_class, device=device_of(denoiser))
    return MaskedSamples(denoiser, x, log_weights, generator, masks_for(len(x), x.shape[1]))


def log_posterior(target: Any, x: Tensor, target_class: int) -> Tensor:
    """ln p(z | x) of a known distribution, float64 (n,), of finished states, int64 (n, D)."""
    if isinstance(target, TableMixture):  # one look-up per state, however large the table
        return target.class_posterior(target_class)[tuple(x.T)].log()
    return posterior_of(target)(x)[:, target_class]


def fitted_strengths(
    case: Case, who: str, target_class: int, w: float, num_examples: int = NUM_EXAMPLES, groups: int = GROUPS
) -> Calibration:
    """The calibrated strengths of a denoiser: exact on a small table, else by levels in groups from samples."""
    if case.is_exact:
        found = calibrated_strengths(case.target, w, target_class, case.denoiser(who))
        return Calibration(tuple(found), (0.0,) * len(found))
    part = part_of(case, FIT, who, target_class, w, num_examples)
    samples = (part.denoiser, target_class, part.x, part.log_weights, part.generator)
    groups = min(groups, part.denoiser.num_dims)
    return calibrate(*samples, masks=part.masks, groups=groups, centre=w, spread=SPREAD)


def fitted_profile(
    case: Case, who: str, target_class: int, w: float, which: str = FIT, num_examples: int = NUM_EXAMPLES
) -> InformationProfile:
    """The information profile of a denoiser: exact on a small table, else from samples; guided unless w = 0."""
    if case.is_exact:
        return exact_information_profile(case.target, target_class, w, case.denoiser(who))
    part = part_of(case, which, who, target_class, w, num_examples)
    samples = (part.denoiser, target_class, part.x, part.log_weights, part.generator)
    return information_profile(*samples, masks=part.masks, guided=w != 0)


@dataclass(frozen=True)
class Fit:
    """The fit of `w=calibrated(w)` and `schedule=profile(w)` to a denoiser of some data and a class.

    Args:
        data: set up. denoiser: a learned one; None is the exact one of the data.
        target_class: z; None is refused, since strengths and sizes belong to a class.
    """

    data: Data
    denoiser: Denoiser | None
    target_class: int | None
    seed: int = 0

    def strengths(self, wanted: Calibrated) -> Calibrated:
        """The strengths of a `calibrated(w)` as numbers.

        Raises:
            UserError: no class; data that are not known exactly, and w other than 0; too few examples.
        """
        case, z = self._case("w=calibrated", wanted.w)
        return replace(wanted, values=fitted_strengths(case, case.judged, z, wanted.w).strengths)

    def sizes(self, w: float, steps: int) -> Sequence[int]:
        """The sizes of the cheapest steps; at most D steps.

        Raises:
            UserError: as `strengths`.
        """
        case, z = self._case("schedule=profile", w)
        profile = fitted_profile(case, case.judged, z, w)
        return profile.decreasing().best(min(steps, profile.num_dims)).sizes

    def _case(self, setting: str, w: float) -> tuple[Case, int]:
        """The case and its class, after all checks.

        Args:
            setting: the name of the setting, without the w of its target tilted distribution.
        """
        if self.target_class is None:
            raise UserError(f"{setting} is fitted to one class: give target_class=")
        if self.data.target is None and w:
            raise UserError(
                f"{setting}({w:g}) targets a tilted distribution, which needs data known exactly, and {self.data.name} "
                f"is not: write {setting}, which targets the data of the class"
            )
        plan = Plan((Guidance(0.0),), Sampler(), seed=self.seed, classes=(self.target_class,))
        case = Case.of(self.data, self.denoiser, plan)
        check_samples(case, self.target_class, NUM_EXAMPLES)
        return case, self.target_class
