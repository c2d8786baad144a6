"""A network against a Bernoulli mixture that is known exactly: its score error in nats, and its guided samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.images import energy_distance, moment_difference, pixel_moments
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.compare.mixtures import component_picture, component_usage, distinctness, pixel_picture
from mdlm_cfg.compare.score_error import ScoreError, score_error
from mdlm_cfg.studies.mixture.findings import STATISTICS, BernoulliEvaluation, Distinctness, Row, SetsAtStrength
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.sampled import Draw, check_sampled, drawn, draws_of
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.data import Data

NUM_TEST, NUM_DRAWS = 2000, 4  # test images for the score error, and masks for each
DISTINCT_IMAGES = 200  # per component, to judge its distinctness by


class Mixtures:
    """The study of a Bernoulli mixture: score error in nats, and samples per class and w beside exact ones."""

    def check(self, data: Any, plan: Plan) -> None:
        """Raise UserError for data that are no such mixture, and as `check_sampled`."""
        _checked(data, None, plan)

    def draws(self, data: Any, denoiser: Denoiser | None, plan: Plan) -> list[Draw]:
        """All that `run` draws, in its order."""
        classes, used = _classes(data.target, plan), _denoisers(data.target, denoiser).items()
        sets = [(guidance, name, one, k) for guidance in plan.guidances for name, one in used for k in classes]
        return [draw for guidance, name, one, k in sets for draw in draws_of(plan, one, guidance, k, name)]

    def run(
        self,
        data: Any,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> BernoulliEvaluation:
        """See `mdlm_cfg.studies.study.Study`."""
        return evaluate_bernoulli(data, denoiser, plan, progress=progress, keep=keep)


def evaluate_bernoulli(
    data: Data,
    denoiser: Denoiser | None,
    plan: Plan,
    *,
    progress: Callable[[str], None] | None = None,
    keep: Keep = keep_nothing,
    num_test: int = NUM_TEST,
    num_draws: int = NUM_DRAWS,
) -> BernoulliEvaluation:
    """Judge a learned denoiser against the exact one, and say what guidance does to the mixture.

    Args:
        data: with a `BernoulliMixture` as target, set up.
        denoiser: the learned one; None for what guidance does alone.
        plan: guidances of one kind, each with one number w; the sampler, of all sets alike; n >= 2 samples per class,
            strength and set; which classes, None being all.
        progress: called with one short line before every piece of work, which says how long the rest takes.
        keep: has samples of an evaluation that was interrupted.
        num_test: test images for the score error; num_draws: masks for each.

    Raises:
        UserError: a target of another sort, strengths that are schedules or of several kinds, an unknown class, too few
            samples, or a denoiser of another space.
    """
    target = _checked(data, denoiser, plan)
    classes, denoisers = _classes(target, plan), _denoisers(target, denoiser)
    test: tuple[Tensor, Tensor] | None = None
    if denoiser is not None:
        x, labels = data.test_examples()
        test = x[:num_test], labels[:num_test]
    scored = [] if test is None else [2 * num_draws * len(test[0])]
    rows = [plan.sampler.num_rows(plan.num_samples * len(classes), target.num_dims, g) for g in plan.guidances]
    say = Pieces([*scored, *(number for number in rows for _ in denoisers)], progress)
    score: dict[str, ScoreError] = {}
    if test is not None and denoiser is not None:
        say(f"score error on {len(test[0]):,} test images")
        score = _score(target, denoiser, test, num_draws, plan.seed)
    whole, partial = (_distinctness(target, classes, how, plan.seed) for how in ("whole", "partial"))
    at = {}
    for guidance in plan.guidances:
        sets = _draw(denoisers, guidance, plan, classes, say, keep)
        at[guidance.constant] = _at_strength(
            target, classes, sets, _unguided(target, guidance, plan, classes), whole, partial
        )
    return BernoulliEvaluation(plan, data.name, tuple(data.grid_shape), classes, score, at, whole, partial)


def _classes(target: BernoulliMixture, plan: Plan) -> list[int]:
    return list(range(target.num_classes)) if plan.classes is None else list(plan.classes)


def _denoisers(target: BernoulliMixture, learned: Denoiser | None) -> dict[str, Denoiser]:
    """By name: the exact one, again for the noise floor, and the learned one if there is one."""
    exact: dict[str, Denoiser] = {"exact": target.denoiser(), "again": target.denoiser()}
    return exact if learned is None else exact | {"learned": learned}


def _checked(data: Data, denoiser: Denoiser | None, plan: Plan) -> BernoulliMixture:
    """The data's mixture, where the study can answer."""
    if not isinstance(target := data.target, BernoulliMixture):
        raise UserError(f"{data.name} is no Bernoulli mixture; choose data=bernoulli_mnist")
    check_sampled(plan, (target.num_tokens, target.num_dims, target.num_classes), denoiser)
    return target


def _score(
    target: BernoulliMixture, denoiser: Denoiser, test: tuple[Tensor, Tensor], num_draws: int, seed: int
) -> dict[str, ScoreError]:
    """The score error with the class and without."""
    labels = {"conditional": test[1], "null": None}
    return {
        name: score_error(target, denoiser, test[0], classes, num_draws, generator_for("masks", name, seed))
        for name, classes in labels.items()
    }


def _distinctness(target: BernoulliMixture, classes: Sequence[int], how: str, seed: int) -> Distinctness:
    """Of every component of the classes, by "whole" images or by "partial" ones."""
    found = [
        distinctness(target, k, DISTINCT_IMAGES, how == "partial", generator_for("distinct", how, seed, k))
        for k in classes
    ]
    return Distinctness(torch.stack(found))


def _draw(
    denoisers: dict[str, Denoiser],
    guidance: Guidance,
    plan: Plan,
    classes: Sequence[int],
    say: Callable[[str], None],
    keep: Keep,
) -> dict[str, Tensor]:
    """A set of samples by every denoiser, uint8 (classes, n, D)."""
    sets = {}
    for name, used in denoisers.items():
        say(f"samples at w = {guidance.label}: {'learned' if name == 'learned' else 'exact'}")
        sets[name] = torch.stack([drawn(draws_of(plan, used, guidance, k, name), keep) for k in classes])
    return sets


def _unguided(target: BernoulliMixture, guidance: Guidance, plan: Plan, classes: Sequence[int]) -> Tensor:
    """As many draws of the classes themselves, uint8 (classes, n, D)."""
    drawn = [
        target.sample(plan.num_samples, plan.generator("samples", guidance, k, "class", num_dims=target.num_dims), k)[0]
        for k in classes
    ]
    return torch.stack(drawn).to(torch.uint8)


def _at_strength(
    target: BernoulliMixture,
    classes: list[int],
    sets: dict[str, Tensor],
    own: Tensor,
    whole: Distinctness,
    partial: Distinctness,
) -> SetsAtStrength:
    """Everything at one strength, from its sets ("exact", "again", perhaps "learned") and unguided draws."""
    others = {"learned": sets["learned"]} if "learned" in sets else {}
    by_class = _compare(target, classes, sets["exact"], others | {"floor": sets["again"], "class": own})
    described = {"exact": torch.cat([sets["exact"], sets["again"]], dim=1)} | others
    usage = {
        name: torch.stack([component_usage(target, one, k) for one, k in zip(x, classes)])
        for name, x in described.items()
    }
    return SetsAtStrength(
        samples={name: x for name, x in sets.items() if name != "again"},
        by_class=by_class,
        compared={name: _mean_row(rows) for name, rows in by_class.items()},
        pixels={name: pixel_picture(target, classes, x.double().mean(dim=1)) for name, x in described.items()},
        components={
            name: component_picture(target, classes, usage[name], x.shape[1], whole.values, partial.values)
            for name, x in described.items()
        },
        exact_means=sets["exact"].double().mean(dim=1),
    )


def _compare(
    target: BernoulliMixture, classes: Sequence[int], exact: Tensor, others: dict[str, Tensor]
) -> dict[str, list[Row]]:
    """Every other set against the exact guided samples, per class."""
    rows: dict[str, list[Row]] = {name: [] for name in others}
    for at, k in enumerate(classes):
        moments, usage = pixel_moments(exact[at]), component_usage(target, exact[at], k)
        for name, x in others.items():
            rows[name].append(
                {
                    **moment_difference(x[at], *moments),
                    "component_tv": total_variation(component_usage(target, x[at], k), usage),
                    "energy": energy_distance(x[at], exact[at]),
                }
            )
    return rows


def _mean_row(rows: Sequence[Row]) -> Row:
    return {name: sum(row[name] for row in rows) / len(rows) for name in STATISTICS}
