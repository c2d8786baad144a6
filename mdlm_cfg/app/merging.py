"""The settings of a training run, overridden by those of the command line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mdlm_cfg.app.errors import sentence
from mdlm_cfg.app.guides import RULE_OF
from mdlm_cfg.app.overrides import key_of
from mdlm_cfg.app.places import moved
from mdlm_cfg.sampling.families import SETTINGS
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import TARGET
from mdlm_cfg.support.schema import EvalSchema, EvaluationSchema, SampleSchema, keys_of

Evaluated = TypeVar("Evaluated", EvalSchema, SampleSchema)


def merged(
    saved: Mapping[str, Any],
    config: Evaluated,
    overrides: list[str],
    keys: Collection[str] = keys_of(EvaluationSchema),
) -> Evaluated:
    """Evaluation settings: from the command line where given there, else from the training run.

    Args:
        saved: the configuration of the training run. config: that of the command. overrides: of the command line.
        keys: the settings that the training run decides where the command line does not.

    Raises:
        OmegaConfBaseException: a run's setting of another type than the command line may give.
    """
    given = {key_of(item.lstrip("~")) for item in overrides}
    given |= {key.partition(".")[0] for key in given if key.startswith(tuple(f"{name}." for name in RULE_OF))}
    if "guidance" in given:  # these were chosen for another rule
        given |= set(RULE_OF)
    if "experiment" in given:
        return config
    kept = {key: saved[key] for key in keys if key in saved and key not in given}
    if "sampler" in given:  # all this was chosen for another sampler
        kept = {key: value for key, value in kept.items() if key not in SETTINGS}
    if isinstance(config.steps, list) and "steps" in given:  # a grid needs no schedule
        kept.pop("schedule", None)
    if isinstance(kept.get("steps"), list) and "schedule" in given:  # a schedule replaces a grid
        kept.pop("steps")
    if isinstance(config, EvalSchema) and isinstance(saved.get("study"), Mapping):
        chosen = config.study or {}
        if TARGET not in chosen:  # settings alone: of the training run's study
            kept["study"] = {**saved["study"], **chosen}
    checked = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EvaluationSchema), kept))
    return replace(config, **{key: getattr(checked, key) for key in kept})


@contextmanager
def naming_checkpoint(path: Path, of_command: Callable[[], object]) -> Iterator[None]:
    """An error inside names the checkpoint whose settings are merged, unless those of the command have the same one.

    Args:
        of_command: the same checks of the settings of the command line, without those of the checkpoint.
    """
    try:
        yield
    except (UserError, OmegaConfBaseException) as error:
        if sentence(error) == _error_of(of_command):
            raise
        raise UserError(
            f"{sentence(error)}; settings that the command line does not give are those of the checkpoint {path}"
        ) from error


def _error_of(check: Callable[[], object]) -> str | None:
    try:
        check()
    except UserError as error:
        return sentence(error)
    return None


def merged_data(saved: Mapping[str, Any], config: EvalSchema, overrides: list[str]) -> dict[str, Any]:
    """Data settings: those of other data if chosen, else the training run's with the given settings changed.

    Raises:
        UserError: a setting that the run's data lack.
    """
    given = {key_of(item.lstrip("~")) for item in overrides}
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
