"""The whole report of any denoiser, in one call from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdlm_cfg.app.evaluation import Report, Written, evaluate, title_of
from mdlm_cfg.app.folders import place_for
from mdlm_cfg.app.places import check_path
from mdlm_cfg.app.study_choice import checked_study
from mdlm_cfg.app.terminal import steady_streams
from mdlm_cfg.chain.denoiser import Denoiser, FunctionDenoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.guidance_schedules import parse_strength
from mdlm_cfg.chain.kinds import Kind, kind_of
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.case import LEARNED_LAW_ENTRIES
from mdlm_cfg.studies.own_model import OwnModel
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.folders import Made
from mdlm_cfg.targets.checks import checked_names
from mdlm_cfg.targets.data import Data, KnownData, Target, UnknownData

MANY = 10_000  # samples of each class and strength where they are cheap
FEW = 100  # where they are not
STRENGTHS = (0.0, 1.0, 2.0, 4.0)


@checked
def report(
    denoiser: Denoiser,
    target: Target | Data | None = None,
    w: Sequence[Any] | float | str = STRENGTHS,
    out: str | Path | None = None,
    *,
    target_class: int | None = None,
    guidance: Kind | str = "rate",
    sampler: Sampler | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    value_names: Sequence[str] | None = None,
) -> Written:
    """Write the report of a denoiser (page, JSON, CSV), print its tables and verdict, and return its path.

    With a target it is the report that `eval.py` writes for such data, and has columns of exact conditionals. Without
    one it says what guidance does to the model: exactly where (N+1)^D partial states are few enough, else by samples.

    Args:
        denoiser: any: a `FunctionDenoiser` of a function or a torch module, `load_run(...).denoiser`, ...
        target: the distribution of the data, where it is known, or data that are set up (mdlm_cfg.training.data).
        w: guidance strengths: numbers, names of schedules such as "ramp(0,4)", or whole `Guidance`s.
        out: the folder; default a new one in runs/NAME. An earlier report there is replaced.
        target_class: z; default class 0 of a table, else all classes.
        guidance: kind of those strengths that are not a `Guidance`.
        sampler: by default first-hitting, which samples the chain exactly.
        num_samples: of each class and strength; default 10,000 where few states are possible, else 100.
        name: in titles; default the name of the data, or of the model.
        class_names, value_names: for the page, if there is no target, which has its own.

    Raises:
        UserError: an argument that is not allowed, or data that their study refuses.
    """
    check_path("out", out)
    data = _data_of(denoiser, target, name, class_names, value_names)
    is_small = (denoiser.num_tokens + 1) ** denoiser.num_dims * denoiser.num_tokens <= LEARNED_LAW_ENTRIES
    plan = Plan(
        guidances=_guidances(w, guidance),
        sampler=sampler or Sampler(),
        num_samples=num_samples if num_samples is not None else MANY if is_small else FEW,
        seed=seed,
        classes=None if target_class is None else (target_class,),
    )
    study = checked_study(data, plan, None, OwnModel() if target is None else None, denoiser=denoiser)
    made = Made()
    place = out if out is None else Path(out).absolute()
    folder = place_for(place, None, Path("runs").absolute(), data.name, (), made)
    with made.taken_back():
        shown = {"denoiser": _name_of(denoiser), "data": data.name}
        about = Report(folder, title_of(data.name, study), shown, data.describe())
        with steady_streams():
            written = evaluate(data, denoiser, plan, about, study)
            print(f"report: {written.path}")
    return written


def _data_of(
    denoiser: Denoiser,
    target: Any,
    name: str | None,
    class_names: Sequence[str] | None,
    value_names: Sequence[str] | None,
) -> Data:
    if target is not None and (class_names or value_names):
        raise UserError("class_names and value_names are for a denoiser without a target: the target has its own")
    if isinstance(target, Target):
        return KnownData(target, name or _name_of(denoiser))
    if hasattr(target, "test_examples"):
        data: Data = target
        return data
    if target is not None:
        raise UserError(
            f"target is {shown(target)}: it must be a TableMixture, a HiddenMarkovMixture, a BernoulliMixture, or data "
            "after setup(); leave it out if nothing is known"
        )
    return UnknownData(
        name or _name_of(denoiser),
        denoiser.num_tokens,
        denoiser.num_classes,
        (denoiser.num_dims,),
        checked_names("class_names", class_names, denoiser.num_classes),
        checked_names("value_names", value_names, denoiser.num_tokens),
    )


def _name_of(denoiser: Any) -> str:
    """The name of a function, or of the class of a model."""
    thing = denoiser.function if isinstance(denoiser, FunctionDenoiser) else denoiser
    return str(getattr(thing, "__name__", type(thing).__name__)).strip("<>")


def _guidances(w: Any, kind: Kind | str) -> tuple[Guidance, ...]:
    """One guidance for each strength, all of one kind: the tables of a report name the strength alone."""
    read = [parse_strength(one) if isinstance(one, str) else one for one in (w if isinstance(w, list | tuple) else [w])]
    found = tuple(one if isinstance(one, Guidance) else Guidance(one, kind_of(kind)) for one in read)
    kinds = list(dict.fromkeys(str(one.kind) for one in found))
    if len(kinds) > 1:
        raise UserError(
            f"w has guidance of the kinds {', '.join(kinds)}, and a report covers one kind: write one for each"
        )
    return found
