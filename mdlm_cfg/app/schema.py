"""What a configuration may hold: types that hydra checks before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class SamplingSchema:
    """How samples are drawn; see `mdlm_cfg.app.settings.plan_of`."""

    w: Any = field(default_factory=lambda: [0.0, 1.0, 2.0, 4.0])
    target_class: int | None = None
    guidance: str = "rate"
    sampler: str = "first_hitting"
    steps: Any = None
    schedule: str | None = None
    policy: str | None = None
    events: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass
class EvaluationSchema(SamplingSchema):
    """What train.py and eval.py evaluate."""

    num_samples: int = 10_000
    classifier: bool = True
    study: dict[str, Any] | None = None
    paper: str | None = None


@dataclass
class Schema(EvaluationSchema):
    """What train.py and eval.py share."""

    data: dict[str, Any] = MISSING
    runs: str = "runs"
    seed: int = 0
    threads: int | None = None
    batch_size: int = 1024
    ckpt_path: str | None = None


@dataclass
class TrainSchema(Schema):
    """The configuration of train.py."""

    name: str | None = None
    net: dict[str, Any] = MISSING
    objective: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    warmup_steps: int = 50
    final_lr: float = 0.001
    ema_decay: float = 0.995
    compile: bool = False
    trainer: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    max_time: str | None = None
    save_minutes: float | None = 10.0
    num_draws: int = 4
    evaluate: bool = True


@dataclass
class EvalSchema(Schema):
    """The configuration of eval.py."""

    denoiser: str = "learned"
    net: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] | None = None
    logger: dict[str, Any] | None = None
    out: str | None = None


@dataclass
class SampleSchema(SamplingSchema):
    """The configuration of `python -m mdlm_cfg.sample`."""

    net: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] | None = None
    runs: str = "runs"
    out: str | None = None
    n: int = 64
    seed: int = 0
    threads: int | None = None
    batch_size: int = 1024
    ckpt_path: str | None = None


EVALUATION_KEYS = tuple(EvaluationSchema.__dataclass_fields__)


def register() -> None:
    """Make the schemas known to hydra, as `train_schema`, `eval_schema` and `sample_schema`."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainSchema)
    store.store(name="eval_schema", node=EvalSchema)
    store.store(name="sample_schema", node=SampleSchema)
