"""Samples of images under guidance, binary or of grey levels, judged beside held-out data by the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.compare.images import bayes_classify, leading_component
from mdlm_cfg.studies.images.findings import ImageEvaluation, NelboClassification
from mdlm_cfg.studies.images.judge import judge_all, judges_of
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.sampled import Draw, check_sampled, drawn, draws_of
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces, share_shown
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.data import Data
from mdlm_cfg.training.classifier import ImageClassifier, classifier_for

SHOWN = 10  # test images of a class that are kept to be shown
NUM_CLASSIFIED, NUM_DRAWS = 200, 16  # test images to classify by NELBO, and masks for each


@dataclass(frozen=True)
class Images:
    """The study of images of which nothing is known exactly: samples per class and w.

    Args:
        classifier: whether one judges them, which is trained first where there is none of these images yet; without,
            what it measures is left out.
    """

    classifier: bool = True

    def check(self, data: Any, plan: Plan) -> None:
        """Raise UserError as `check_sampled`."""
        _check(data, None, plan)

    def draws(self, data: Any, denoiser: Denoiser | None, plan: Plan) -> list[Draw]:
        """All that `run` draws, in its order."""
        assert denoiser is not None
        pairs = [(guidance, k) for guidance in plan.guidances for k in _classes(data, plan)]
        return [draw for guidance, k in pairs for draw in draws_of(plan, denoiser, guidance, k)]

    def run(
        self,
        data: Any,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> ImageEvaluation:
        """See `mdlm_cfg.studies.study.Study`."""
        if denoiser is None:
            raise UserError(f"{data.name} is not known exactly: train a network on it")
        _check(data, denoiser, plan)
        classifier = None
        if self.classifier:
            with share_shown("training the classifier") as show:
                classifier = classifier_for(data, progress=lambda step, steps, _: show(step / steps))
        return evaluate_images(data, denoiser, classifier, plan, progress=progress, keep=keep)


def evaluate_images(
    data: Data,
    denoiser: Denoiser,
    classifier: ImageClassifier | None,
    plan: Plan,
    *,
    progress: Callable[[str], None] | None = None,
    keep: Keep = keep_nothing,
    num_classified: int = NUM_CLASSIFIED,
    num_draws: int = NUM_DRAWS,
) -> ImageEvaluation:
    """Sample every class at every strength, and judge the samples beside as many test images.

    Args:
        data: images, set up.
        denoiser: a learned one.
        classifier: of the same images; None leaves out what it measures.
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
    classes = _classes(data, plan)
    test_x, test_classes = data.test_examples()
    num_classified = min(num_classified, len(test_x))
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
        num_tokens=data.num_tokens,
        class_names=data.class_names,
        classes=classes,
        num_held_out=min(len(x) for x in test),
        samples=samples,
        judged={w: judge_all(judges, list(x), classifier) for w, x in samples.items()},
        held_out=judge_all(judges, test, classifier),
        shown=torch.stack([x[: min(SHOWN, *map(len, test))] for x in test]),
        data_means=torch.stack([judge.mean for judge in judges]),
        sample_means={w: x.double().mean(dim=1) / (data.num_tokens - 1) for w, x in samples.items()},
        data_components=torch.stack([leading_component(judge.covariance) for judge in judges]),
        classifier_accuracy=(None if classifier is None else classifier.accuracy(test_x, test_classes)),
        nelbo=nelbo,
    )


def _classes(data: Data, plan: Plan) -> list[int]:
    return list(range(data.num_classes)) if plan.classes is None else list(plan.classes)


def _draw(
    denoiser: Denoiser, plan: Plan, classes: Sequence[int], say: Callable[[str], None], keep: Keep
) -> dict[float, Tensor]:
    """Samples by w, uint8 (classes, n, D)."""
    samples = {}
    for guidance in plan.guidances:
        say(f"samples of {len(classes)} classes at w = {guidance.label}")
        sets = [drawn(draws_of(plan, denoiser, guidance, k), keep) for k in classes]
        samples[guidance.constant] = torch.stack(sets)
    return samples


def _held_out(data: Data, classes: Sequence[int], plan: Plan) -> list[Tensor]:
    """As many test images of every class as there are samples, where there are so many."""
    # in random order: the first half of MNIST's is cleaner
    x, labels = data.test_examples()
    order = torch.randperm(len(x), generator=generator_for("held out", plan.seed))
    x, labels = x[order], labels[order]
    return [x[labels == k][: plan.num_samples] for k in classes]


def _classify(data: Data, denoiser: Denoiser, num: int, num_draws: int, seed: int, keep: Keep) -> NelboClassification:
    generator = generator_for("classified", seed)
    x, labels = data.test_examples()
    rows = torch.randperm(len(x), generator=generator)[:num]
    predicted = keep(
        ("classified", num, num_draws, seed),
        lambda: bayes_classify(denoiser, x[rows].long(), num_draws, generator),
    )
    return NelboClassification(float((predicted == labels[rows]).double().mean()), num, num_draws)


def _check(data: Data, denoiser: Denoiser | None, plan: Plan) -> None:
    check_sampled(plan, (data.num_tokens, math.prod(data.grid_shape), data.num_classes), denoiser)
