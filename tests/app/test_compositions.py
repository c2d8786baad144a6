"""What the tests' commands compose is what hydra composes by itself."""

from __future__ import annotations

from typing import Any

import pytest
from compositions import composed_once
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig

from mdlm_cfg.app.cli import CONFIGS

ARGUMENTS = [
    ("train", []),
    ("train", ["seed=3", "+trainer.val_check_interval=2", "~ema_decay"]),
    ("train", ["seed=4", "w=[0,2]", "++net.scale={a:[1,2]}"]),  # other values on the same files
    ("train", ["experiment=hmm", "optimizer=muon", "~study", "name='${seed}'"]),
    ("train", ["data={batch_size:3}", "+experiment/short=hmm", "logger=csv"]),
    ("train", ["hydra.sweep.dir=x", "hydra/sweeper=basic", "+hydra.job.env_set.A=b"]),
    ("eval", ["study=policies", "data=table", "data.path=x.npz"]),
    ("sample", ["target_class=1"]),
]


def nodes(node: Any) -> Any:
    """All that there is to a configuration: its values as they were written, their types, and their flags."""
    known = {key: value for key, value in vars(node._metadata).items() if key != "resolver_cache"}
    if isinstance(node, DictConfig) and isinstance(node._content, dict):
        return type(node), known, {key: nodes(value) for key, value in node._content.items()}
    if isinstance(node, ListConfig) and isinstance(node._content, list):
        return type(node), known, [nodes(value) for value in node._content]
    return type(node), known, node._value()


def composed(name: str, arguments: list[str]) -> Any:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, arguments, return_hydra_config=True)


@pytest.mark.parametrize(
    "name, arguments", ARGUMENTS, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_tests_compose_what_hydra_does(name: str, arguments: list[str]) -> None:
    """Also the second time, and after a copy was changed."""
    expected = nodes(composed(name, arguments))
    for _ in range(2):
        with composed_once():
            found = composed(name, arguments)
        assert nodes(found) == expected
        found.hydra.job.name = "changed"
        found.hydra.overrides.task.append("changed")
        found.hydra.sweeper._metadata.flags["readonly"] = True
