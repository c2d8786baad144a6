"""Samples of binary images under guidance, judged beside held-out data by the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.compare.images import bayes_classify
from mdlm_cfg.studies.images.findings import ImageEvaluation, NelboClassification
from mdlm_cfg.studies.images.judge import judge_all, judges_of
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.sampled import check_sampled, draw_class
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces, share_shown
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.training.classifier import ImageClassifier, classifier_for
from mdlm_cfg.training.data import BinaryImageData


class Images:
    """The study of images of which nothing is known exactly: samples per class and w, judged by a classifier."""

    def check(self, data: Any, plan: Plan) -> None:
        """Raise UserError for other images than binary ones, and as `check_sampled`."""
        _check(data, None, plan)

    def run(
        self,
        data: Any,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> ImageEvaluation:
        """See `mdlm_cfg.studies.study.Study`; trains the classifier of these data where there is none yet."""
        if denoiser is None:
            raise UserError(f"{data.name} is not known exactly: train a network on it")
        _check(data, denoiser, plan)
        with share_shown("training the classifier") as show:
            classifier = classifier_for(data, progress=lambda step, steps, _: show(step / steps))
        return evaluate_images(data, denoiser, classifier, plan, progress=progress, keep=keep)


def evaluate_images(
    data: BinaryImageData,
    denoiser: Denoiser,
    classifier: ImageClassifier,
    plan: Plan,
    *,
    progress: Callable[[str], None] | None = None,
    keep: Keep = keep_nothing,
    num_classified: int = 200,
    num_draws: int = 16,
) -> ImageEvaluation:
    """Sample every class at every strength, and judge the samples beside as many test images.

    Args:
        data: binary images, set up.
        denoiser: a learned one.
        classifier: of the same images.
        plan: guidances of one kind, each with one number w; the sampler (event-leaping with few steps costs little, and
            first_hitting has no discretisation error, at D denoiser calls per conditional); n >= 2 samples per class
            and strength; which classes, None being all.
        progress: called with one short line before every piece of work, which says how long the rest takes.
        keep: has samples and classifications of an evaluation that was interrupted.
        num_classified: test images to classify by NELBO, chosen at random; 0 leaves that out.
        num_draws: masks per image and class for it.

    Raises:
        UserError: strengths that are schedules or of several kinds, an unknown class, too few samples, or a denoiser of
            other images.
    """
    _check(data, denoiser, plan)
    classes = list(range(data.num_classes)) if plan.classes is None else list(plan.classes)
    num_classified = min(num_classified, len(data.test_x))
    n, d = plan.num_samples * len(classes), denoiser.num_dims
    costs = [plan.sampler.num_rows(n, d, guidance) for guidance in plan.guidances]
    say = Pieces([*costs, num_classified * num_draws * data.num_classes], progress)
    judges = judges_of(data, classifier, classes, plan.seed)
    test = _held_out(data, classes, plan)
    samples = _draw(denoiser, plan, classes, say, keep)
    nelbo = None
    if num_classified:
        say(f"classification of {num_classified} test images by NELBO")
        nelbo = _classify(data, denoiser, num_classified, num_draws, plan.seed, keep)
    return ImageEvaluation(
        plan=plan,
        name=data.name,
        grid_shape=tuple(data.grid_shape),
        classes=classes,
        num_held_out=min(len(x) for x in test),
        samples=samples,
        judged={w: judge_all(judges, list(x), classifier) for w, x in samples.items()},
        held_out=judge_all(judges, test, classifier),
        data_means=torch.stack([judge.mean for judge in judges]),
        sample_means={w: x.double().mean(dim=1) for w, x in samples.items()},
        classifier_accuracy=classifier.accuracy(data.test_x, data.test_classes),
        nelbo=nelbo,
    )


def _draw(
    denoiser: Denoiser, plan: Plan, classes: Sequence[int], say: Callable[[str], None], keep: Keep
) -> dict[float, Tensor]:
    """Samples by w, uint8 (classes, n, D)."""
    samples = {}
    for guidance in plan.guidances:
        say(f"samples of {len(classes)} classes at w = {guidance.label}")
        drawn = [draw_class(plan, denoiser, guidance, k, keep, "") for k in classes]
        samples[guidance.constant] = torch.stack(drawn)
    return samples


def _held_out(data: BinaryImageData, classes: Sequence[int], plan: Plan) -> list[Tensor]:
    """As many test images of every class as there are samples, where there are so many."""
    # in random order: the first half of MNIST's is cleaner
    order = torch.randperm(len(data.test_x), generator=generator_for("held out", plan.seed))
    x, labels = data.test_x.cpu()[order], data.test_classes.cpu()[order]
    return [x[labels == k][: plan.num_samples] for k in classes]


def _classify(
    data: BinaryImageData, denoiser: Denoiser, num: int, num_draws: int, seed: int, keep: Keep
) -> NelboClassification:
    generator = generator_for("classified", seed)
    rows = torch.randperm(len(data.test_x), generator=generator)[:num]
    predicted = keep(
        ("classified", num, num_draws, seed),
        lambda: bayes_classify(denoiser, data.test_x[rows].long(), num_draws, generator),
    )
    return NelboClassification(float((predicted == data.test_classes[rows]).double().mean()), num, num_draws)


def _check(data: BinaryImageData, denoiser: Denoiser | None, plan: Plan) -> None:
    if data.num_tokens != 2:
        raise UserError(
            f"{data.name} has {data.num_tokens} levels, and these comparisons are of binary images: choose 2 levels"
        )
    check_sampled(plan, (data.num_tokens, math.prod(data.grid_shape), data.num_classes), denoiser)
