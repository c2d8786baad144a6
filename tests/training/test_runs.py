"""Run folders, and what a checkpoint alone gives back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from harness import small_data, small_module, small_trainer

from mdlm_cfg.app.pipeline import check_resume
from mdlm_cfg.training.runs import CHECKPOINT, load_run, new_run_folder, newest_run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = small_data()
    small_trainer(folder, epochs=1).fit(small_module(data), datamodule=data)
    return folder / CHECKPOINT


def test_the_network_comes_back_from_the_checkpoint_alone(checkpoint: Path) -> None:
    run = load_run(checkpoint)
    saved = torch.load(checkpoint, weights_only=True)
    for name, value in run.net.state_dict().items():
        assert torch.equal(value, saved["state_dict"][f"net.{name}"])
    assert (run.denoiser.num_tokens, run.denoiser.num_dims, run.denoiser.num_classes) == (3, 2, 2)
    assert run.step == 4 and run.data["name"] == "small" and run.config == {"note": "small"}
    assert run.folder == checkpoint.parent.parent
    log_probs = run.denoiser(torch.tensor([[3, 3]]), None)
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(1, 2, dtype=torch.float64))


def test_run_folders_never_collide(tmp_path: Path) -> None:
    folders = {new_run_folder(tmp_path, "name") for _ in range(4)}
    assert len(folders) == 4 and all(folder.is_dir() for folder in folders)


def test_the_newest_run_is_the_one_saved_last(tmp_path: Path) -> None:
    for k, name in enumerate(("b", "a")):
        path = tmp_path / name / "date" / CHECKPOINT
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (k, k))
    assert newest_run(tmp_path) == tmp_path / "a" / "date" / CHECKPOINT
    with pytest.raises(ValueError, match="no run in"):
        newest_run(tmp_path / "elsewhere")


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no checkpoint at"):
        load_run(tmp_path / "last.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_checkpoint(checkpoint: Path, tmp_path: Path, share: float) -> None:
    whole, path = checkpoint.read_bytes(), tmp_path / "last.ckpt"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="cannot be read"):
        load_run(path)


def test_text_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        load_run(path)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.zeros(3)])
def test_a_checkpoint_of_something_else(tmp_path: Path, content: object) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match="was not written by mdlm_cfg"):
        load_run(path)


def test_weights_that_do_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    content, path = torch.load(checkpoint, weights_only=True), tmp_path / "last.ckpt"
    content["hyper_parameters"]["net"]["width"] = 32
    torch.save(content, path)
    with pytest.raises(ValueError, match="do not fit the network"):
        load_run(path)


def test_other_data_are_refused(checkpoint: Path) -> None:
    description = small_data().describe()
    load_run(checkpoint).check_data(description)
    other = description | {"name": "other", "fingerprint": "0"}
    with pytest.raises(ValueError, match="was trained on other data: small"):
        load_run(checkpoint).check_data(other)
    with pytest.raises(ValueError, match="was trained on other data: small"):
        check_resume(checkpoint, small_module(small_data()), other)


def test_resuming_another_network_is_refused(checkpoint: Path) -> None:
    data = small_data()
    module = small_module(data)
    module.hparams["net"] = module.hparams["net"] | {"depth": 7}
    with pytest.raises(ValueError, match="depth = 1 there and 7 here"):
        check_resume(checkpoint, module, data.describe())
