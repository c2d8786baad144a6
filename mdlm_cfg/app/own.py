"""A user's own sampler, guidance, policy or denoiser on the command line: `sampler._target_=my_package.Mine`.

A setting that is a word ("euler") names an object of the package. A setting with `_target_` names one of the user's
own, with its arguments beside it. It is imported only if the command line names it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Any, cast

from torch import nn

from mdlm_cfg.app.guides import Guides
from mdlm_cfg.chain.denoiser import Denoiser, FunctionDenoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.guidance_schedules import Calibrated
from mdlm_cfg.chain.kinds import KINDS, Kind, kind_of
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.chain.policy_names import parse_policy
from mdlm_cfg.chain.rule_names import ALLOWED, NAMES as RULES, parse_rule
from mdlm_cfg.chain.rules import CFG, Rule
from mdlm_cfg.chain.schedules import check_steps
from mdlm_cfg.chain.steps import OF_JUMPS
from mdlm_cfg.sampling.families import FAMILIES, SETTINGS
from mdlm_cfg.sampling.sampler import WITH_STEPS, Sampler
from mdlm_cfg.support.annotations import needs_alone, parameters_of
from mdlm_cfg.support.errors import UserError, did_you_mean
from mdlm_cfg.support.instantiate import TARGET, check_arguments, make, thing_named
from mdlm_cfg.support.schema import SamplingSchema

DEFAULT_STEPS = 50  # of the samplers that take steps
ANSWER = ("tokens", "classes")  # arguments of a denoiser that is a function


Sizes = Callable[[float, int], Sequence[int]]  # step sizes of the cheapest K steps, from the profile's w and K


def sampler_of(config: SamplingSchema, trusted: Collection[str], sizes: Sizes | None = None) -> Sampler:
    """The sampler of a configuration: by name with its options, or of the user's own.

    Args:
        config: the whole configuration. trusted: names that the command line gave.
        sizes: what `schedule=profile` means; None: the sampler is only checked, with equal steps in its place.

    Raises:
        UserError: an unknown sampler, options that it does not take, or something that is not a sampler.
    """
    settings = config.sampler
    given = {key: value for key in SETTINGS if (value := getattr(config, key)) is not None}
    if "policy" in given:
        given["policy"] = policy_of(given["policy"], trusted)
    if (w := parse_profile(given.get("schedule"))) is not None:
        given = _on_profile(given, w, _word(settings, "sampler"), sizes)
    if not isinstance(settings, Mapping):
        word = _word(settings, "sampler")
        takes_steps = word in WITH_STEPS and "events" not in given
        return Sampler(word, **(({"steps": DEFAULT_STEPS} if takes_steps else {}) | given))
    return _own_sampler(settings, trusted, given)


def _own_sampler(settings: Mapping[str, Any], trusted: Collection[str], given: Mapping[str, Any]) -> Sampler:
    """A sampler of the user's own: an object, a maker of one, a jump rule, or a maker of a jump rule.

    Args:
        settings: with `_target_`. given: sampler options of the command line, which only a jump rule can use.
    """
    name, thing, arguments = _named(settings, "sampler", trusted)
    is_rule = needs_alone(thing, OF_JUMPS)
    open_ones = {key: value for key, value in arguments.items() if key in SETTINGS and not _has_argument(thing, key)}
    own = {key: value for key, value in arguments.items() if key not in open_ones}
    _check_order(thing, name, OF_JUMPS, "a jump rule")
    if is_rule:
        found = _with_arguments(thing, OF_JUMPS, own, "sampler")
    else:
        is_maker = callable(thing) and not isinstance(thing, Sampler)
        found = make({TARGET: name, **own}, "sampler", (), trusted) if is_maker else thing
    if is_rule or needs_alone(found, OF_JUMPS):
        label = name.rpartition(".")[2] + (f"({', '.join(f'{k}={v}' for k, v in own.items())})" if own else "")
        return Sampler(label, jump=found, **({"steps": DEFAULT_STEPS} | dict(given) | open_ones))
    if given:
        key = next(iter(given))
        raise UserError(f"{key}= is an option of the samplers of mdlm_cfg: give sampler.{key}= for what {name} takes")
    in_words = "a Sampler, or a jump rule of (log_z, u)"
    if found is not thing and not open_ones:
        return cast(Sampler, _checked(found, name, Sampler, in_words, "makes"))
    return cast(Sampler, _instance(thing, settings, "sampler", trusted, Sampler, in_words))


def parse_profile(schedule: Any) -> float | None:
    """w of the schedule "profile" (0) or "profile(w)"; None for any other schedule.

    Raises:
        UserError: anything other than one number in the brackets.
    """
    match = re.fullmatch(r"\s*profile\s*(?:\((.*)\)\s*)?", schedule) if isinstance(schedule, str) else None
    if match is None:
        return None
    try:
        return float(match[1] or (0 if match[1] is None else "nothing"))
    except ValueError:
        raise UserError(f"schedule = {schedule!r} cannot be read; write profile or profile(w), w a number") from None


def _on_profile(given: Mapping[str, Any], w: float, sampler: str, sizes: Sizes | None) -> dict[str, Any]:
    """Options with the sizes of the cheapest steps as events, replacing steps and the schedule "profile"."""
    others = {key: value for key, value in given.items() if key != "schedule"}
    if sampler in FAMILIES and "events" not in FAMILIES[sampler].takes:
        raise UserError(
            f"schedule = profile sets how many coordinates each step unmasks, which {sampler} does not take"
        )
    if not isinstance(steps := check_steps(given.get("steps", DEFAULT_STEPS)), int):
        raise UserError("schedule = profile cannot be combined with a grid of clock times: give a number of steps")
    if "events" in given or sizes is None:
        return others | ({} if "events" in given else {"steps": steps}) | {"schedule": "linear"}
    return {key: value for key, value in others.items() if key != "steps"} | {"events": list(sizes(w, steps))}


def guidances_of(
    config: SamplingSchema, strengths: Sequence[Any], trusted: Collection[str], guides: Guides, is_given: bool = False
) -> tuple[Guidance, ...]:
    """The guidance at every strength: a kind or rule by name, an object of the user's own, or a function of w.

    Args:
        config: all settings. strengths: w. trusted: names that the command line gave. guides: what rules need.
        is_given: whether the command line gave w.

    Raises:
        UserError: an unknown kind or rule, a strength that is not allowed, or something that is not guidance.
    """
    filters = (config.temperature, config.top_p)
    settings = config.guidance
    if not isinstance(settings, Mapping):
        word = _word(settings, "guidance")
        if word.partition("(")[0].strip() in RULES:
            rule = parse_rule(word, weak=guides.weak, classifier=guides.classifier)
            return _by_rule(rule, strengths, filters)
        if word not in KINDS:
            near = did_you_mean(word.partition("(")[0], (*KINDS, *RULES))
            raise UserError(
                f"guidance {word!r} is unknown; choose a kind, {' or '.join(KINDS)}, or a rule: {ALLOWED}{near}"
            )
        return tuple(Guidance(w, kind_of(word), *filters) for w in strengths)
    name, thing, arguments = _named(settings, "guidance", trusted)
    what = "a Kind, a Rule, or a Guidance from w"
    if "w" in arguments or not _has_argument(thing, "w"):
        made = _instance(thing, settings, "guidance", trusted, (Kind, Rule, Guidance), what)
        if isinstance(made, Guidance):
            if is_given and [made.w] != list(strengths):
                raise UserError(
                    f"w = {config.w} has no effect on guidance._target_={name}, which has w = {made.label} of its own: "
                    "leave w out, or name a function of w that makes a Guidance"
                )
            return (made,)
        if isinstance(made, Rule):
            return _by_rule(made, strengths, filters)
        return tuple(Guidance(w, made, *filters) for w in strengths)
    if filters != (1.0, 1.0):
        raise UserError(f"temperature and top_p are options of the guidance of mdlm_cfg, and {name} makes its own")
    return tuple(_checked(make({**settings, "w": w}, "guidance", (), trusted), name, Guidance, what) for w in strengths)


def _by_rule(rule: Rule, strengths: Sequence[Any], filters: tuple[float, float]) -> tuple[Guidance, ...]:
    """The guidance of a rule at every strength."""
    fitted = [w for w in strengths if isinstance(w, Calibrated)]
    if fitted and rule != CFG():
        raise UserError(f"w = {fitted[0]} is fitted for classifier-free guidance, and the rule {rule} was given")
    return tuple(Guidance(w, "rate", *filters, rule=rule) for w in strengths)  # type: ignore[arg-type]


def policy_of(settings: Any, trusted: Collection[str]) -> Policy:
    """An unmasking policy by name, or of the user's own.

    Raises:
        UserError: an unknown policy, or something that is not a policy.
    """
    if not isinstance(settings, Mapping):
        return parse_policy(_word(settings, "policy"))
    _, thing, _ = _named(settings, "policy", trusted)
    return _instance(thing, settings, "policy", trusted, Policy, "a Policy")


def denoiser_of(settings: Mapping[str, Any], data: Any, trusted: Collection[str]) -> Denoiser:
    """A denoiser of the user's own: an object, a torch module or a function (tokens, classes) -> log-probabilities, or
    a maker of one of these.

    Args:
        settings: with `_target_` and its arguments. data: set up; passed as `data`, and their exact distribution as
            `target`, where the maker takes these.

    Raises:
        UserError: something that is not a denoiser.
    """
    _, thing, arguments = _named(settings, "denoiser", trusted)
    dims = 1
    for side in data.grid_shape:
        dims *= side
    filled = {key: value for key, value in (("data", data), ("target", data.target)) if _has_argument(thing, key)}
    what = "a Denoiser, a torch module, or a function of (tokens, classes)"
    is_made = isinstance(thing, type) or not isinstance(thing, Denoiser | nn.Module)
    answers = partial(thing, **filled) if is_made and callable(thing) and not isinstance(thing, type) else thing
    _check_order(answers, settings[TARGET], ANSWER, "a denoiser")
    if needs_alone(answers, ANSWER):
        found = _with_arguments(thing, ANSWER, filled | arguments, "denoiser")
    elif is_made and callable(thing):
        found = make(settings, "denoiser", (), trusted, **filled)
    else:
        found = _instance(thing, settings, "denoiser", trusted, (Denoiser, nn.Module), what)
    if not needs_alone(found, ANSWER):
        _checked(found, settings[TARGET], (Denoiser, nn.Module), what, "makes" if is_made else "is")
    if isinstance(found, nn.Module):
        found.eval()
    if isinstance(found, Denoiser):
        return found
    return cast(Denoiser, FunctionDenoiser(found, data.num_tokens, dims, data.num_classes))


def _check_order(thing: Any, name: str, wanted: tuple[str, ...], what: str) -> None:
    """Raise UserError where a function requires the right number of arguments under other names or in another order."""
    required = [key for key, one in parameters_of(thing).items() if one.default is inspect.Parameter.empty]
    if inspect.isfunction(thing) and len(required) == len(wanted) and tuple(required) != wanted:
        raise UserError(
            f"{name} needs the arguments ({', '.join(required)}): as {what} it must take ({', '.join(wanted)}), with "
            "these names and in this order"
        )


def _with_arguments(function: Any, called_with: Sequence[str], arguments: Mapping[str, Any], what: str) -> Any:
    """A function with its settings' arguments bound, besides those that it is called with."""
    check_arguments(function, what, {**dict.fromkeys(called_with), **arguments})
    return partial(function, **arguments) if arguments else function


def _word(value: Any, what: str) -> str:
    if isinstance(value, str) and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value):
        raise UserError(f"{what} = {value} is unknown here: name something of your own by {what}._target_={value}")
    if not isinstance(value, str):
        raise UserError(f"{what} = {value} is not a name: give one, or {what}._target_=package.module.Name")
    return value


def _named(settings: Mapping[str, Any], what: str, trusted: Collection[str]) -> tuple[str, Any, dict[str, Any]]:
    """The object that settings name, imported only if the command line named it, and the arguments beside the name."""
    name = settings.get(TARGET)
    if name is None:
        given = ", ".join(f"{what}.{key}" for key in settings)
        raise UserError(f"{given} belongs to something of your own: name it with {what}._target_=package.module.Name")
    if not isinstance(name, str):
        raise UserError(f"{what}._target_ = {name} is not a name: give {what}._target_=package.module.Name")
    if name not in trusted:
        raise UserError(
            f"{what}._target_={name} comes from the checkpoint: name it on the command line too, or it is not imported"
        )
    return name, thing_named(name, what), {key: value for key, value in settings.items() if key != TARGET}


def _instance(
    thing: Any,
    settings: Mapping[str, Any],
    what: str,
    trusted: Collection[str],
    wanted: type | tuple[type, ...],
    in_words: str,
) -> Any:
    """The object that settings name, with the arguments in place of its own, or the object that it makes."""
    arguments = {key: value for key, value in settings.items() if key != TARGET}
    if isinstance(thing, wanted):
        if arguments and not is_dataclass(thing):
            raise UserError(f"{what}.{next(iter(arguments))} is not possible: {settings[TARGET]} is already an object")
        return replace(thing, **arguments) if arguments else thing  # type: ignore[type-var]
    if not callable(thing):
        return _checked(thing, settings[TARGET], wanted, in_words)
    return _checked(make(settings, what, (), trusted), settings[TARGET], wanted, in_words, "makes")


def _checked(found: Any, name: Any, wanted: type | tuple[type, ...], in_words: str, verb: str = "is") -> Any:
    if not isinstance(found, wanted):
        raise UserError(f"{name} {verb} an object of type {type(found).__name__}: it must be {in_words}")
    return found


def _has_argument(thing: Any, name: str) -> bool:
    return name in parameters_of(thing)
