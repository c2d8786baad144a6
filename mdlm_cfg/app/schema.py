"""Makes the schemas of `mdlm_cfg.support.schema` known to hydra."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from mdlm_cfg.support.schema import SCHEMAS


def register() -> None:
    """Register them as `train_schema`, `eval_schema` and `sample_schema`."""
    for command, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{command}_schema", node=schema)
