"""What studies share that draw samples: what they ask of a plan, how samples are drawn, and what these are kept by."""

from __future__ import annotations

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep

Space = tuple[int, int, int]  # (N values, D dimensions, K classes)


def check_sampled(plan: Plan, space: Space, denoiser: Denoiser | None) -> None:
    """Refuse what a study of samples cannot answer.

    Args:
        plan: its findings are named by w alone: one number per strength, one kind.
        space: of the data.
        denoiser: the learned one, if there is one.

    Raises:
        UserError: a strength that is a schedule, several kinds, an unknown class or one twice, fewer than two samples
            per class, or a denoiser of another space.
    """
    for guidance in plan.guidances:
        if guidance.is_schedule:
            raise UserError(
                f"w = {guidance.label} is a schedule, and a study of samples needs one number w, by which it names "
                "what it finds: give numbers, such as w=[0,1,2]; schedules go with data given as a table"
            )
    kinds = list(dict.fromkeys(str(guidance.kind) for guidance in plan.guidances))
    if len(kinds) > 1:
        raise UserError(f"guidances of the kinds {', '.join(kinds)} were given; a study of samples takes one kind")
    plan.check_classes(space[2])
    classes = plan.classes or ()
    if len(set(classes)) < len(classes):
        raise UserError(f"classes {list(classes)} must each be given once")
    if plan.num_samples < 2:
        raise UserError(f"num_samples = {plan.num_samples} is not enough: it must be at least 2 per class")
    if denoiser is not None and (own := (denoiser.num_tokens, denoiser.num_dims, denoiser.num_classes)) != space:
        raise UserError(
            f"the denoiser has (values, dimensions, classes) = {own}, and the data {space}: it was made for other data"
        )


def draw_class(plan: Plan, denoiser: Denoiser, guidance: Guidance, target_class: int, keep: Keep, who: str) -> Tensor:
    """The plan's samples of one class at one strength, uint8 (n, D) on the CPU; kept ones where they were drawn before.

    Args:
        who: the denoiser's name, of a study that has several; "" otherwise. They draw independently.
    """
    names = (who,) if who else ()

    def draw() -> Tensor:
        generator = plan.generator("samples", guidance, target_class, *names)
        x = plan.sampler.draw(denoiser, guidance, target_class, plan.num_samples, generator)
        return x.to("cpu", torch.uint8)

    asked = (key_of(guidance), plan.sampler.describe(), plan.num_samples, plan.seed, target_class, who)
    return keep(("samples", *asked), draw)


def key_of(guidance: Guidance) -> tuple[object, ...]:
    """What tells a guidance from others in what is kept."""
    return guidance.w, str(guidance.kind), guidance.temperature, guidance.top_p
