"""Every configuration composes, and what it names can be made."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from compositions import composed_once
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mdlm_cfg.app.build import DATA, build_loggers, build_trainer, device_meant_by, for_own_targets, say_precision
from mdlm_cfg.app.cli import CONFIGS, settings_of
from mdlm_cfg.app.settings import plan_of
from mdlm_cfg.app.study_choice import build_study
from mdlm_cfg.studies.protocol import Case, check
from mdlm_cfg.support.folders import Made
from mdlm_cfg.support.instantiate import make
from mdlm_cfg.support.schema import TrainSchema, plain
from mdlm_cfg.training.build import build_module
from mdlm_cfg.training.runs import build_net

SHAPES = {"toy": (2,), "image": (28, 28), "sequence": (64,)}
EVAL_ONLY = {"benchmark"}  # experiments that have nothing to train


def names(group: str) -> list[str]:
    return sorted(str(path.relative_to(CONFIGS / group).with_suffix("")) for path in (CONFIGS / group).rglob("*.yaml"))


def composed(*overrides: str, name: str = "train") -> Any:
    with composed_once(), initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return settings_of(name, compose(name, list(overrides)))


def described(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"num_tokens": 2, "grid_shape": list(shape), "num_classes": 10}


def made(settings: dict[str, Any]) -> Any:
    return make({key: value for key, value in settings.items() if key != "path"}, "data", DATA)


@pytest.mark.parametrize("name", names("data"))
def test_data(name: str, tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    chain = {"initial": np.ones((2, 1)), "transition": np.ones((2, 1, 1)), "emission": np.full((2, 1, 3), 1 / 3)}
    np.savez(path, class_pmfs=np.full((2, 3), 1 / 3), class_weights=np.array([0.5, 0.5]), num_dims=4, **chain)
    if name == "datasets":  # what such a data set is shows when it is read
        datasets.Dataset.from_dict({"input_ids": [[0, 1]], "label": [0]}).save_to_disk(str(path := tmp_path / "saved"))
    more = [f"data.path={path}"] if "path: ???" in (CONFIGS / "data" / f"{name}.yaml").read_text() else []
    for command in ("train", "eval"):
        data = made(composed(f"data={name}", *more, name=command).data)
        assert data.name and data.seed == 0
    if name.startswith(("toy", "hmm")) or name == "table":
        data.setup()
        assert set(data.describe()) >= {"name", "num_tokens", "num_classes", "grid_shape", "fingerprint"}
        assert data.name == ("table" if more else name), "own files are named by the file"


@pytest.mark.parametrize("name", names("net"))
def test_net(name: str) -> None:
    settings = composed(f"net={name}").net
    assert build_net(settings | described(SHAPES.get(name, (28, 28)))).num_classes == 10


@pytest.mark.parametrize("name", names("trainer"))
def test_trainer(name: str) -> None:
    settings = composed(f"trainer={name}", "trainer.accelerator=cpu", "trainer.devices=1").trainer
    trainer = build_trainer(settings, [], [])
    assert trainer.gradient_clip_val == 1.0


@pytest.mark.parametrize("fast", [True, False])
def test_automatic_precision_is_bf16_where_that_is_fast(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdlm_cfg.app.build.bf16_speedup", lambda device: 2.0 if fast else 0.1)
    settings = composed("trainer.precision=auto", "trainer.accelerator=cpu").trainer
    assert build_trainer(settings, [], []).precision == ("bf16-mixed" if fast else "32-true")


@pytest.mark.parametrize("fast", [True, False])
def test_what_auto_means_is_said_once(
    fast: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mdlm_cfg.app.build.bf16_speedup", lambda device: 2.0 if fast else 0.1)
    cpu = torch.device("cpu")
    say_precision(composed("experiment=mnist"), cpu)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "trainer.precision" in said and "optimizer.precision" in said
    assert (said.index("bfloat16") < said.index("float32")) == fast
    say_precision(composed(), cpu)
    assert capsys.readouterr() == ("", "")
    assert device_meant_by("cpu") == "cpu"


@pytest.mark.parametrize("name", names("logger"))
def test_logger(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WANDB_MODE", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(variable, raising=False)
    config = composed(f"logger={name}")
    assert config.logger.get("mode", "offline") == "offline"
    loggers = build_loggers(config.logger, tmp_path, "name/date", "train", {}, Made())
    assert len(loggers) == (1 if name == "csv" else 2)
    assert os.environ.get("WANDB_ERROR_REPORTING") == (None if name == "csv" else "false")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert composed(f"logger={name}").logger.get("mode", "disabled") == "disabled"


@pytest.mark.parametrize("name", names("objective"))
def test_objective(name: str) -> None:
    head = str(name == "classifier").lower()
    module = build_module(composed(f"objective={name}", f"net.class_head={head}"), described((3,)))
    assert type(module.objective).__name__ == {"classifier": "Classifying"}.get(name, name.title())


@pytest.mark.parametrize("name", names("optimizer"))
def test_optimizer(name: str) -> None:
    module = build_module(composed(f"optimizer={name}", "optimizer.lr=0.25"), described((3,)))
    groups = module.configure_optimizers().param_groups
    assert groups[0]["lr"] == 0.25 and len(groups) == {"adamw": 1, "muon": 2}[name]


@pytest.mark.parametrize("name", sorted(EVAL_ONLY))
def test_experiment_of_eval_alone(name: str) -> None:
    config = composed(f"experiment={name}", name="eval")
    study = build_study(config.study)
    assert config.denoiser == "exact" and study is not None
    data = made(config.data)
    data.setup("fit")
    check(study, Case.of(data, None, plan_of(config)))


@pytest.mark.parametrize("name", sorted(set(names("experiment")) - EVAL_ONLY))
def test_experiment(name: str) -> None:
    config = composed(f"experiment={name}", "trainer.accelerator=cpu")
    made(config.data)
    build_trainer(config.trainer, [], [])
    tiny = (config.data["height"], config.data["width"]) if "tiny" in name else (2,)
    shape = (28, 28) if config.net.get("stem_channels") else tiny
    shape = (64,) if config.data.get("name", "").startswith("hmm") else shape
    build_module(config, described(shape))
    assert [guidance.written for guidance in plan_of(config).guidances] == config.w
    if config.study is not None:  # and eval.py takes the same file
        judged = composed(f"experiment={name}", name="eval")
        assert judged.data == config.data and judged.study == config.study


@pytest.mark.parametrize("name", names("study"))
def test_study(name: str) -> None:
    for command in ("train", "eval"):
        study = build_study(composed(f"study={name}", name=command).study)
        assert study is not None and hasattr(study, "needs")


@pytest.mark.parametrize("command", ["train", "eval"])
def test_the_default_toy_is_the_same_everywhere(command: str) -> None:
    config = composed(name=command)
    assert config.data["name"] == "toy_2d_overlap" and config.w == [0, 1, 2, 4]


def test_the_resolved_configuration_is_typed_and_complete() -> None:
    config = composed("seed=007")
    assert config.seed == config.data["seed"] == 7
    assert isinstance(config, TrainSchema) and OmegaConf.missing_keys(OmegaConf.create(plain(config))) == set()
    assert type(config.optimizer) is dict and type(config.w) is list


def test_the_files_settings_count_for_a_target_of_ones_own_where_it_takes_them() -> None:
    given = "net._target_=mdlm_cfg.nets.convolutions.ConvBlock"  # takes channels alone
    config = composed(given, "+net.odd=1")
    assert for_own_targets(config, [given, "+net.odd=1"]).net == {"_target_": given.split("=")[1], "odd": 1}
    same = "net._target_=mdlm_cfg.nets.GridTransformer"
    assert for_own_targets(replace(config, net=composed(same).net), [same]).net == composed().net
    assert for_own_targets(config, ["seed=1"]) == config
