"""From plain settings to what they mean: a plan, and what must hold of data before any time is spent on it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from itertools import product
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf
from torch import Tensor

from mdlm_cfg.app.guides import SETTINGS as GUIDES, UNKNOWN, Guides, guides_of
from mdlm_cfg.app.own import guidances_of, parse_profile, sampler_of
from mdlm_cfg.app.places import moved
from mdlm_cfg.chain.classifier_rule import ByClassifier
from mdlm_cfg.chain.denoiser import Denoiser, device_of
from mdlm_cfg.chain.guidance_schedules import Calibrated, Strength, parse_strength, parse_strengths
from mdlm_cfg.chain.lattice import points_at
from mdlm_cfg.chain.rules import CFG
from mdlm_cfg.laws.rates import refuse_dead_ends
from mdlm_cfg.sampling.families import SETTINGS
from mdlm_cfg.studies.corpus import Corpus
from mdlm_cfg.studies.fitting import Fit
from mdlm_cfg.studies.images import Images
from mdlm_cfg.studies.mixture import Mixtures
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import EXACT, Case, check
from mdlm_cfg.studies.report import TableReport
from mdlm_cfg.studies.sequences import Sequences
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import TARGET, check_arguments, make, names_in, thing_named
from mdlm_cfg.support.schema import EvalSchema, EvaluationSchema, SampleSchema, Schema, keys_of
from mdlm_cfg.targets.data import Data
from mdlm_cfg.targets.table import TableMixture

Sampled = Schema | SampleSchema  # both say what to draw, and with which seed
Evaluated = TypeVar("Evaluated", EvalSchema, SampleSchema)
SMALL_LATTICE = 200_000  # partial states, all of which are looked at before any work
DEFAULTS: tuple[Any, ...] = (TableReport, Mixtures, Sequences, Images, Corpus)  # of data, the first one that fits them
STUDIES = ("mdlm_cfg.studies.*",)  # modules that a study may be made by


def checked_guides(config: Sampled, given: Sampled | None = None) -> Guides:
    """What rules of guidance need and the command line names, once `plan_of` has nothing else to refuse.

    Args:
        config, given: as for `plan_of`.

    Raises:
        UserError: as `plan_of` and `guides_of`, before data are read.
    """
    plan_of(config, given, guides=UNKNOWN)
    return guides_of(config, given)


def plan_of(
    config: Sampled, given: Sampled | None = None, fit: Fit | None = None, guides: Guides | None = None
) -> Plan:
    """The plan that a configuration asks for.

    Args:
        given: the configuration of the command line, where `config` has settings of a checkpoint too: what it does not
            name is not imported.
        fit: what w=calibrated and schedule=profile mean; None: they are checked alone, and the plan cannot be run.
        guides: the weaker denoiser and the classifier, where a rule needs them.

    Raises:
        UserError: anything in it that no study could do.
    """
    trusted = names_in([(given or config).sampler, (given or config).guidance, (given or config).policy])
    strengths = _strengths(config.w)
    if fit is not None:
        strengths = [fit.strengths(one) if isinstance(one, Calibrated) else one for one in strengths]
    return Plan(
        guidances=guidances_of(config, strengths, trusted, guides or Guides()),
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
    """Whether strengths or steps are to be fitted to a denoiser: w=calibrated, schedule=profile."""
    is_profile = parse_profile(config.schedule) is not None
    return is_profile or any(isinstance(one, Calibrated) for one in _strengths(config.w))


def training_guides(config: Sampled) -> Guides:
    """`checked_guides` of a network that is still to be trained.

    Raises:
        UserError: as there; strengths or steps that are to be fitted to the network.
    """
    if asks_for_fit(config):
        raise UserError(
            f"w = {config.w}, schedule = {config.schedule}: calibrated strengths and the steps of a profile are "
            "fitted to a trained network; train it first, and give them to eval.py or mdlm_cfg.sample"
        )
    return checked_guides(config)


def check_rules(case: Case) -> None:
    """Raise UserError where a rule of guidance cannot be used with a denoiser or a class of a case.

    Rates may be infinite, or all of them 0. Those of small tables are all looked at, and of other exact conditionals
    those of the state of masks: what happens in other states is refused where it happens.
    """
    classes = case.classes if case.plan.classes or not isinstance(case.target, TableMixture) else (case.one_class,)
    guided = [guidance for guidance in case.plan.guidances if guidance.rule != CFG()]
    for guidance, k, (who, denoiser) in product(guided, classes, case.denoisers.items()):
        guidance.rule.check(denoiser, k)
        if who == EXACT and not isinstance(guidance.rule, ByClassifier):  # whose rates are neither infinite nor all 0
            tokens = _looked_at(case.target, denoiser)
            log_rho = guidance.log_rho(denoiser, tokens, k)
            refuse_dead_ends(log_rho, tokens, denoiser.num_tokens, guidance.rule)


def _looked_at(target: object, denoiser: Denoiser) -> Tensor:
    """All partial states of a small table, int64 (S, D); of anything else the state of masks."""
    n = denoiser.num_tokens + 1
    d = denoiser.num_dims
    if isinstance(target, TableMixture) and n**d <= SMALL_LATTICE:
        return points_at(torch.arange(n**d, device=device_of(denoiser)), n, d)
    return torch.full((1, d), denoiser.num_tokens, device=device_of(denoiser))


def merged(
    saved: Mapping[str, Any],
    config: Evaluated,
    overrides: list[str],
    keys: Collection[str] = keys_of(EvaluationSchema),
) -> Evaluated:
    """Evaluation settings of the command line where they are given there, and of the training run otherwise.

    Args:
        saved: the configuration of the training run. config: that of the command. overrides: of the command line.
        keys: the settings that the training run decides where the command line does not.

    Raises:
        OmegaConfBaseException: a run's setting of another type than the command line may give.
    """
    given = {key_of(item) for item in overrides}
    given |= {key.partition(".")[0] for key in given if key.startswith(tuple(f"{name}." for name in GUIDES))}
    if "guidance" in given:  # these were chosen for another rule
        given |= set(GUIDES)
    if "experiment" in given:
        return config
    kept = {key: saved[key] for key in keys if key in saved and key not in given}
    if "sampler" in given:  # all this was chosen for another sampler
        kept = {key: value for key, value in kept.items() if key not in SETTINGS}
    if isinstance(config.steps, list) and "steps" in given:  # a grid says when its steps are
        kept.pop("schedule", None)
    if isinstance(kept.get("steps"), list) and "schedule" in given:  # and has no use for a schedule
        kept.pop("steps")
    if isinstance(config, EvalSchema) and isinstance(saved.get("study"), Mapping):
        asked = config.study or {}
        if TARGET not in asked:  # settings alone: of the training run's study
            kept["study"] = {**saved["study"], **asked}
    checked = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(EvaluationSchema), kept))
    return replace(config, **{key: value for key, value in dict(checked).items() if key in kept})  # type: ignore[arg-type]


def merged_data(saved: Mapping[str, Any], config: EvalSchema, overrides: list[str]) -> dict[str, Any]:
    """Data settings: another choice of data where one is given, else the training run's with what is given changed.

    Raises:
        UserError: a setting that the run's data do not have.
    """
    given = {key_of(item) for item in overrides}
    if given & {"data", "experiment"}:
        return dict(config.data)
    merged = dict(saved)
    for key in given:
        parts = key.split(".")
        if key == "data.path" and isinstance(saved.get("path"), str):
            merged = moved(merged, saved["path"], config.data["path"])
        elif parts[0] == "data":
            if parts[1] not in saved:
                raise UserError(f"{key} is not a setting of the run's data: choose one of {', '.join(sorted(saved))}")
            merged = _replaced(merged, config.data, parts[1:])
    return merged


def _replaced(into: Mapping[str, Any], source: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    """`into`, with the value that `source` has at a path."""
    head, *rest = path
    inner = source[head]
    return {**into, head: _replaced(into.get(head) or {}, inner, rest) if rest else inner}


def key_of(override: str) -> str:
    """The key of an override of the command line, such as "data.num_test"."""
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]


def study_of(data: Data, paper: str | None = None, classifier: bool = True) -> Any:
    """The study that data have where none is named; None where there is none.

    Args:
        paper: a paper's experiment whose claims are checked against the laws of a table.
        classifier: whether one evaluates images.

    Raises:
        UserError: such an experiment, of other data.
    """
    kind = next((one for one in DEFAULTS if one.needs.fits(data)), None)
    if paper is not None and kind is not TableReport:
        raise UserError(f"paper={paper} is about a table of probabilities, and {data.name} is not one")
    if kind is TableReport:
        return TableReport(paper)
    return Images(classifier) if kind is Images else kind and kind()


def build_study(settings: Mapping[str, Any] | None, given: Mapping[str, Any] | None = None) -> Any:
    """The study that is named, with its own settings.

    Args:
        settings: with `_target_`; they may be those of a checkpoint. `own` is something of the user's own that is to be
            studied, by its name or by settings with `_target_`, or a list of these.
        given: those of the command line: a name of one's own that is not in them is not imported.

    Returns:
        the study; the settings alone, for the default study of the data, where they name none; None without settings.

    Raises:
        UserError: a name that is no study's or not given, or settings that it does not take.
    """
    if settings is None:
        return None
    if not isinstance(settings, Mapping):
        raise UserError(f"study = {settings} is not a study: give study=NAME, or study._target_=package.module.Name")
    own = settings.get("own")
    if own is not None:
        settings = {**settings, "own": _own_things(own, (given or {}).get("own"))}
    if settings.get(TARGET) is None:
        return {key: value for key, value in settings.items() if key != TARGET} or None
    study = make(settings, "study", STUDIES, names_in(given))
    if not all(hasattr(study, name) for name in ("needs", "pieces", "findings")):
        raise UserError(
            f"study._target_={settings[TARGET]} makes a {type(study).__name__}, not a study: it needs `needs`, "
            "`pieces(case)` and `findings(case, made)`"
        )
    return study


def _own_things(own: Any, given: Any) -> Any:
    """The object of a name, or of each name in a list; settings with `_target_` are made with the study.

    Raises:
        UserError: names that were not given on the command line, or that stand for nothing.
    """
    if own != given:
        raise UserError(
            f"study.own={own} comes from the checkpoint: name it on the command line too, or it is not imported"
        )
    things = own if isinstance(own, list) else [own]
    things = [thing_named(one, "study.own") if isinstance(one, str) else one for one in things]
    return things if isinstance(own, list) else things[0]


def _with_settings(study: Any, settings: Mapping[str, Any]) -> Any:
    """The default study with settings of the command line.

    Raises:
        UserError: settings that it does not take.
    """
    known = {one.name: getattr(study, one.name) for one in fields(study) if one.init} | dict(settings)
    check_arguments(type(study), "study", known)
    return replace(study, **settings)


def checked_study(
    data: Data,
    plan: Plan,
    paper: str | None,
    asked: Any,
    classifier: bool = True,
    denoiser: Denoiser | None = None,
) -> Any:
    """The study of these data, once it has refused nothing of them and of the plan; no time is spent before.

    Args:
        paper, classifier: see `study_of`.
        asked: a study by name, in place of the one that the data have; or settings of that one.
        denoiser: the learned one, or one like it that is to be trained.

    Raises:
        UserError: anything that the study would refuse, or that there is none.
    """
    is_named = asked is not None and not isinstance(asked, Mapping)
    if is_named and paper is not None:
        raise UserError(f"paper={paper} belongs to the study of a table: leave one of them out")
    study: Any = asked if is_named else study_of(data, paper, classifier)
    if study is None:
        raise UserError(
            f"there is no evaluation of {data.name} yet ({data.num_tokens} values on a grid {tuple(data.grid_shape)}): "
            "train on it with evaluate=false"
        )
    if isinstance(asked, Mapping):
        study = _with_settings(study, asked)
    plan.check_dims(math.prod(data.grid_shape))
    case = Case.of(data, denoiser, plan)
    check_rules(case)
    check(study, case)
    return study
