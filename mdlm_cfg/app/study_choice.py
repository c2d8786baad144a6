"""The study of some data, named or default, and what it refuses before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.classifier_rule import ByClassifier
from mdlm_cfg.chain.denoiser import Denoiser, check_steady, device_of
from mdlm_cfg.chain.lattice import points_at
from mdlm_cfg.chain.rules import CFG
from mdlm_cfg.laws.rates import refuse_dead_ends
from mdlm_cfg.nets import GridTransformer
from mdlm_cfg.studies.corpus import Corpus
from mdlm_cfg.studies.correction_moves import CorrectionMoves
from mdlm_cfg.studies.images import Images
from mdlm_cfg.studies.mixture import Mixtures
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import EXACT, Case, check, name_of
from mdlm_cfg.studies.report import TableReport
from mdlm_cfg.studies.sequences import Sequences
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import TARGET, check_arguments, make, names_in, thing_named
from mdlm_cfg.targets.data import Data
from mdlm_cfg.targets.table import TableMixture

SMALL_LATTICE = 200_000  # partial states, all of which are checked before any work
DEFAULTS: tuple[Any, ...] = (TableReport, Mixtures, Sequences, Images, Corpus)  # of data, the first one that fits them
STUDIES = ("mdlm_cfg.studies.*",)  # modules whose studies may be named


def check_rules(case: Case) -> None:
    """Raise UserError where a rule of guidance cannot be used with a denoiser or a class of a case.

    Rates may be infinite, or all of them 0. For small tables they are checked in every state, unless a policy decides
    which states are reached; for other exact conditionals only in the all-masked state. Such rates in any other state
    are refused when that state is reached.
    """
    classes = case.classes if case.plan.classes or not isinstance(case.target, TableMixture) else (case.one_class,)
    guided = [guidance for guidance in case.plan.guidances if guidance.rule != CFG()]
    for guidance, k, (who, denoiser) in product(guided, classes, case.denoisers.items()):
        guidance.rule.check(denoiser, k)
        if who == EXACT and not isinstance(guidance.rule, ByClassifier):  # whose rates are neither infinite nor all 0
            tokens = _looked_at(case, denoiser)
            log_rho, refused = guidance.rho_anywhere(denoiser, k)(tokens)
            refuse_dead_ends(log_rho, refused, tokens, denoiser.num_tokens, guidance.rule)


def _looked_at(case: Case, denoiser: Denoiser) -> Tensor:
    """All partial states of a small table, int64 (S, D); for anything else the all-masked state."""
    n = denoiser.num_tokens + 1
    d = denoiser.num_dims
    any_order = case.plan.sampler.policy is None
    if isinstance(case.target, TableMixture) and n**d <= SMALL_LATTICE and any_order:
        return points_at(torch.arange(n**d, device=device_of(denoiser)), n, d)
    return torch.full((1, d), denoiser.num_tokens, device=device_of(denoiser))


def study_of(data: Data, paper: str | None = None, classifier: bool = True) -> Any:
    """The default study of data; None where there is none.

    Args:
        paper: a paper's experiment whose claims are checked against the laws of a table.
        classifier: whether a classifier evaluates images.

    Raises:
        UserError: such an experiment with other data.
    """
    kind = next((one for one in DEFAULTS if one.needs.fits(data)), None)
    if paper is not None and kind is not TableReport:
        raise UserError(f"paper={paper} needs data given as a table of probabilities, and {data.name} is not")
    if kind is TableReport:
        return TableReport(paper)
    return Images(classifier) if kind is Images else kind and kind()


def build_study(settings: Mapping[str, Any] | None, given: Mapping[str, Any] | None = None) -> Any:
    """The study that is named, with its own settings.

    Args:
        settings: with `_target_`; they may be those of a checkpoint. `own` is a user's own object to be studied,
        given by its name or by settings with `_target_`, or a list of these.
        given: those of the command line: a user's own name that is not among them is not imported.

    Returns:
        the study; the settings themselves, for the data's default study, if they name none; None without settings.

    Raises:
        UserError: a name that is not a study or was not given, or settings that the study does not take.
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
    """The object of a name, or of each name in a list; those given by `_target_` are built with the study.

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
    own = {one.name: getattr(study, one.name) for one in fields(study) if one.init}
    if unknown := [name for name in settings if name not in own]:
        raise UserError(
            f"study.{unknown[0]} is not a setting of the default study of these data ({name_of(study)}), which "
            f"takes {', '.join(own)}: name the study that has it, study=NAME study.{unknown[0]}=..."
        )
    check_arguments(type(study), "study", own | dict(settings))
    return replace(study, **settings)


def checked_study(
    data: Data,
    plan: Plan,
    paper: str | None,
    chosen: Any,
    classifier: bool = True,
    denoiser: Denoiser | None = None,
) -> Any:
    """The study of these data, after it has accepted them and the plan; no expensive work comes before.

    Args:
        paper: see `study_of`.
        classifier: whether one evaluates images; a study may also leave it out on its own.
        chosen: a study by name, in place of the data's default one; or settings of that one.
        denoiser: the learned one, or one like it that is to be trained.

    Raises:
        UserError: anything that the study would refuse, or that there is none.
    """
    is_named = chosen is not None and not isinstance(chosen, Mapping)
    if is_named and paper is not None:
        raise UserError(f"paper={paper} belongs to the study of a table: leave one of them out")
    if denoiser is not None and type(getattr(denoiser, "net", None)) is not GridTransformer:  # ours is known to be
        check_steady(denoiser)
    study: Any = chosen if is_named else study_of(data, paper, classifier)
    if study is None:
        raise UserError(
            f"there is no evaluation of {data.name} yet ({data.num_tokens} values on a grid {tuple(data.grid_shape)}): "
            "train on it with evaluate=false"
        )
    if isinstance(chosen, Mapping):
        study = _with_settings(study, chosen)
    if isinstance(study, CorrectionMoves) and not classifier and Images.needs.fits(data):
        study = replace(study, classifier=False)
    plan.check_dims(math.prod(data.grid_shape))
    case = Case.of(data, denoiser, plan)
    check_rules(case)
    check(study, case)
    return study
