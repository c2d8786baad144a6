"""From plain settings to a plan, with all checks that need no data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mdlm_cfg.app.guides import UNKNOWN, Guides, guides_of
from mdlm_cfg.app.overrides import given_for
from mdlm_cfg.app.own import guidances_of, parse_profile, sampler_of
from mdlm_cfg.chain.guidance_schedules import Calibrated, Strength, parse_strength, parse_strengths
from mdlm_cfg.studies.fitting import Fit
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import names_in
from mdlm_cfg.support.schema import SampleSchema, Schema

Sampled = Schema | SampleSchema  # both specify what to draw, and with which seed


def checked_guides(config: Sampled, overrides: Sequence[str], given: Sampled | None = None) -> Guides:
    """The guides that the command line names, after `plan_of` has checked everything else.

    Args:
        config, given: as for `plan_of`. overrides: of the command line.

    Raises:
        UserError: as `plan_of` and `guides_of`, before data are read.
    """
    plan_of(config, given, guides=UNKNOWN, is_given=given_for(overrides, "w") is not None)
    return guides_of(config, given)


def plan_of(
    config: Sampled,
    given: Sampled | None = None,
    fit: Fit | None = None,
    guides: Guides | None = None,
    is_given: bool = False,
) -> Plan:
    """The plan that a configuration describes.

    Args:
        given: the configuration of the command line, where `config` has settings of a checkpoint too: only objects that
            `given` names are imported.
        fit: what w=calibrated and schedule=profile mean; None: they are only checked, and the plan cannot be run.
        guides: the weaker denoiser and the classifier, where a rule needs them.
        is_given: whether the command line gave w: guidance that has another one of its own is then refused.

    Raises:
        UserError: any setting that no study can use.
    """
    trusted = names_in([(given or config).sampler, (given or config).guidance, (given or config).policy])
    strengths = _strengths(config.w)
    if fit is not None:
        strengths = [fit.strengths(one) if isinstance(one, Calibrated) else one for one in strengths]
    return Plan(
        guidances=guidances_of(config, strengths, trusted, guides or Guides(), is_given),
        sampler=sampler_of(config, trusted, None if fit is None else fit.sizes),
        num_samples=config.num_samples,
        seed=config.seed,
        classes=None if config.target_class is None else (config.target_class,),
    )


def _strengths(w: Any) -> list[Strength]:
    if isinstance(w, str):
        return parse_strengths(w)
    return [parse_strength(one) for one in (w if isinstance(w, list) else [w])]


def asks_for_fit(config: Sampled) -> bool:
    """Whether strengths or steps must be fitted to a denoiser: w=calibrated, schedule=profile."""
    is_profile = parse_profile(config.schedule) is not None
    return is_profile or any(isinstance(one, Calibrated) for one in _strengths(config.w))


def training_guides(config: Sampled, overrides: Sequence[str]) -> Guides:
    """`checked_guides` of a network that is still to be trained.

    Raises:
        UserError: as there; strengths or steps that must be fitted to the network.
    """
    if asks_for_fit(config):
        raise UserError(
            f"w = {config.w}, schedule = {config.schedule}: calibrated strengths and the steps of a profile are "
            "fitted to a trained network; train it first, and give them to eval.py or mdlm_cfg.sample"
        )
    return checked_guides(config, overrides)
