"""The settings of every command: their types, defaults and roles.

hydra checks a configuration against these classes before anything runs. Every list of keys follows from `role_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Literal, get_type_hints

Role = Literal["result", "selection", "seed", "operational", "place"]
MISSING: Any = "???"  # omegaconf's mark of a setting that must be given
HYDRA = "hydra"  # hydra's own settings: how a command runs


def setting(
    role: Role, default: Any = None, *, made: Callable[[], Any] | None = None, inside: Mapping[str, Role] | None = None
) -> Any:
    """A field of a schema.

    Args:
        role: "result": it decides the results of a run or a report. "selection": which rows a report has, but not
            their contents. "seed": a repetition with other random numbers. "operational": speed, memory, and what is
            shown during the work. "place": where files are read and written.
        default: of the setting; made: a factory for it, if it is mutable.
        inside: the roles of settings below this one, where they differ.
    """
    metadata = {"role": role, "inside": dict(inside or {})}
    return field(default=default, metadata=metadata) if made is None else field(default_factory=made, metadata=metadata)


OPERATIONAL_DATA: Mapping[str, Role] = {"seed": "seed", "root": "place", "eval_batch_size": "operational"}
OPERATIONAL_TRAINER: Mapping[str, Role] = dict.fromkeys(
    ("enable_progress_bar", "enable_model_summary", "log_every_n_steps"), "operational"
)


@dataclass
class WeakSchema:
    """The weaker denoiser of guidance=auto: a run's, or that of a table mixed with the uniform distribution."""

    ckpt_path: str | None = None
    smoothing: float | None = None


@dataclass
class PredictorSchema:
    """The classifier of guidance=classifier."""

    ckpt_path: str | None = None


@dataclass
class SamplingSchema:
    """How samples are drawn; see `mdlm_cfg.app.settings.plan_of`."""

    w: Any = setting("selection", made=lambda: [0.0, 1.0, 2.0, 4.0])
    target_class: int | None = setting("selection")
    guidance: Any = setting("result", "rate")
    sampler: Any = setting("result", "first_hitting")
    steps: Any = setting("result")
    schedule: str | None = setting("result")
    policy: Any = setting("result")
    events: Any = setting("result")
    choice_temperature: float | None = setting("result")
    annealed: bool | None = setting("result")
    threshold: float | None = setting("result")
    factor: float | None = setting("result")
    gamma: float | None = setting("result")
    remasking: str | None = setting("result")
    correction: str | None = setting("result")
    temperature: float = setting("result", 1.0)
    top_p: float = setting("result", 1.0)
    weak: WeakSchema = setting("result", made=WeakSchema)
    predictor: PredictorSchema = setting("result", made=PredictorSchema)


@dataclass
class EvaluationSchema(SamplingSchema):
    """The evaluation settings of train.py and eval.py."""

    num_samples: int = setting("result", 10_000)
    classifier: bool = setting("result", True)
    study: Any = setting("result")
    paper: str | None = setting("result")


@dataclass
class Schema(EvaluationSchema):
    """The shared settings of train.py and eval.py."""

    data: dict[str, Any] = setting("result", MISSING, inside=OPERATIONAL_DATA)
    runs: str = setting("place", "runs")
    seed: int = setting("seed", 0)
    threads: int | None = setting("operational")
    batch_size: int = setting("operational", 1024)
    ckpt_path: str | None = setting("place")


@dataclass
class TrainSchema(Schema):
    """The configuration of train.py."""

    name: str | None = setting("place")
    net: dict[str, Any] = setting("result", MISSING)
    objective: dict[str, Any] = setting("result", MISSING)
    optimizer: dict[str, Any] = setting("result", MISSING)
    warmup_steps: int = setting("result", 50)
    final_lr: float = setting("result", 0.001)
    ema_decay: float = setting("result", 0.995)
    compile: bool = setting("operational", False)
    trainer: dict[str, Any] = setting("result", MISSING, inside=OPERATIONAL_TRAINER)
    logger: dict[str, Any] = setting("operational", MISSING)
    max_time: str | None = setting("result")
    save_minutes: float | None = setting("operational", 10.0)
    keep_steps: list[int] = setting("operational", made=list)
    num_draws: int = setting("result", 4)
    evaluate: bool = setting("operational", True)


@dataclass
class EvalSchema(Schema):
    """The configuration of eval.py."""

    denoiser: Any = setting("result", "learned")
    net: dict[str, Any] = setting("result", made=dict)
    trainer: dict[str, Any] | None = setting("result", inside=OPERATIONAL_TRAINER)
    logger: dict[str, Any] | None = setting("operational")
    out: str | None = setting("place")


@dataclass
class SampleSchema(SamplingSchema):
    """The configuration of `python -m mdlm_cfg.sample`."""

    net: dict[str, Any] = setting("result", made=dict)
    trainer: dict[str, Any] | None = setting("result", inside=OPERATIONAL_TRAINER)
    runs: str = setting("place", "runs")
    out: str | None = setting("place")
    n: int = setting("result", 64)
    seed: int = setting("seed", 0)
    threads: int | None = setting("operational")
    batch_size: int = setting("operational", 1024)
    ckpt_path: str | None = setting("place")

    @property
    def num_samples(self) -> int:
        """The same number under its name in the settings of an evaluation."""
        return self.n


Settings = TrainSchema | EvalSchema | SampleSchema
SCHEMAS: Mapping[str, type] = {"train": TrainSchema, "eval": EvalSchema, "sample": SampleSchema}
TYPES: Mapping[str, Any] = {key: hint for schema in SCHEMAS.values() for key, hint in get_type_hints(schema).items()}
_FIELDS: Mapping[str, Field] = {one.name: one for schema in SCHEMAS.values() for one in fields(schema)}


def plain(settings: Any) -> dict[str, Any]:
    """Settings as plain values, to be written into a file or a checkpoint."""
    return asdict(settings)


def role_of(key: str) -> Role:
    """The role of a setting; an unknown setting counts as deciding the result.

    Args:
        key: such as "seed" or "trainer.max_epochs".
    """
    first, _, below = key.partition(".")
    if first == HYDRA:
        return "operational"
    if first not in _FIELDS:
        return "result"
    metadata = _FIELDS[first].metadata
    return metadata["inside"].get(below, metadata["role"])


def keys_of(schema: type, *roles: Role) -> tuple[str, ...]:
    """The settings of a schema that have one of these roles; all of them if no role is given."""
    return tuple(one.name for one in fields(schema) if not roles or one.metadata["role"] in roles)


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: {"net": {"width": 8}} is {"net.width": 8}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def alike(one: Any, other: Any) -> bool:
    """Whether two plain values are equal; unlike in Python, NaN is equal to NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other or (one != one and other != other))


def with_roles(settings: Mapping[str, Any], *roles: Role) -> dict[str, Any]:
    """The settings that have one of these roles, flat."""
    return {key: value for key, value in flattened(settings).items() if role_of(key) in roles}
