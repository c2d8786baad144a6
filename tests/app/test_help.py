"""Help and suggestions come from the configuration files, and from all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mdlm_cfg.app.groups import settings_text
from mdlm_cfg.app.help import did_you_mean, help_text, known_keys, suggestion

CONFIGS = Path(__file__).parent.parent.parent / "conf"


@pytest.mark.parametrize("name", ["train", "eval"])
def test_help_names_every_option_of_every_group_and_every_setting(name: str) -> None:
    text = help_text(name, CONFIGS)
    top = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    for entry in top["defaults"]:
        if isinstance(entry, dict) and not next(iter(entry)).startswith("override"):
            group = next(iter(entry))
            for path in (CONFIGS / group).rglob("*.yaml"):
                assert f"{group}={path.relative_to(CONFIGS / group).with_suffix('').as_posix()}" in text
    for key in yaml.safe_load(settings_text(name, CONFIGS)):
        assert f"\n  {key}:" in text
    assert "optimizer=muon" not in help_text("eval", CONFIGS)  # a group that eval.py refuses


def test_typos_are_answered_by_what_is_near() -> None:
    assert "trainer" in suggestion(
        "Could not override 'traner.max_epochs'.\nKey 'traner' is not in struct", CONFIGS, "train"
    )
    assert "toy_2d_overlap" in suggestion("Could not find 'data/toy_2d_overlp'", CONFIGS, "train")
    assert "num_samples" in suggestion("Key 'num_sample' is not in struct", CONFIGS, "eval")
    assert suggestion("Key 'zzzz' is not in struct", CONFIGS, "train") == ""
    assert suggestion("something else", CONFIGS, "train") == ""
    assert did_you_mean("abc", []) == ""


def test_known_keys_hold_those_of_groups_and_of_the_file() -> None:
    keys = known_keys(CONFIGS, "train")
    assert {"trainer", "trainer.max_epochs", "max_epochs", "data.batch_size", "w", "seed"} <= keys
    assert "hydra" not in keys and "_target_" not in keys
