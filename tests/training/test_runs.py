"""Run folders, and what a checkpoint alone gives back."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import small_data, small_module, small_trainer
from lightning.pytorch import Callback

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.checkpoints import CHECKPOINT, newest_run, outline_of
from mdlm_cfg.training.fit import check_resume, train
from mdlm_cfg.training.runs import load_run
from mdlm_cfg.training.watching import exact_nelbos


def test_the_network_comes_back_from_the_checkpoint_alone(checkpoint: Path) -> None:
    run = load_run(checkpoint)
    saved = torch.load(checkpoint, weights_only=True)
    for name, value in run.net.state_dict().items():
        assert torch.equal(value, saved["state_dict"][f"net.{name}"])
    assert (run.denoiser.num_tokens, run.denoiser.num_dims, run.denoiser.num_classes) == (3, 2, 2)
    assert run.step == 4 and run.data["name"] == "small" and run.config["num_draws"] == 4
    assert run.folder == checkpoint.parent.parent
    for folder in (run.folder, checkpoint.parent):
        assert load_run(folder).path == checkpoint
    log_probs = run.denoiser(torch.tensor([[3, 3]]), None)
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(1, 2, dtype=torch.float64))


def test_the_newest_run_is_the_one_saved_last(tmp_path: Path) -> None:
    for k, name in enumerate(("b", "a")):
        path = tmp_path / name / "date" / CHECKPOINT
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (k, k))
    assert newest_run(tmp_path) == tmp_path / "a" / "date" / CHECKPOINT
    with pytest.raises(ValueError, match=rf"{tmp_path}/elsewhere .*ckpt_path=FILE"):
        newest_run(tmp_path / "elsewhere")


def test_runs_that_may_not_be_read_are_not_taken_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shut = tmp_path / "another users"
    for name in (shut.name, "mine"):
        path = tmp_path / name / "date" / CHECKPOINT
        path.parent.mkdir(parents=True)
        path.touch()
    right = os.scandir

    def denied(path: str) -> Any:
        if str(path) == str(shut):
            raise PermissionError(13, "Permission denied", str(path))
        return right(path)

    monkeypatch.setattr(os, "scandir", denied)  # who runs the tests may be allowed everywhere
    assert newest_run(tmp_path) == path
    path.unlink()
    with pytest.raises(PermissionError, match=shut.name):
        newest_run(tmp_path)


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path}/last\.ckpt"):
        load_run(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=rf"{tmp_path} .*checkpoints/last\.ckpt"):
        load_run(tmp_path)


@pytest.mark.parametrize("content", [0.0, 0.3, 0.99, "not a checkpoint", {"state_dict": {}}, [1, 2], torch.zeros(3)])
def test_what_is_no_checkpoint_is_refused(checkpoint: Path, tmp_path: Path, content: object) -> None:
    path = tmp_path / "last.ckpt"
    if isinstance(content, float):  # a share of a whole one
        whole = checkpoint.read_bytes()
        path.write_bytes(whole[: int(content * len(whole))])
    elif isinstance(content, str):
        path.write_text(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=str(path)) as error:
        load_run(path)
    assert ("mdlm_cfg" in str(error.value)) != isinstance(content, float | str)  # what torch reads has a writer


def test_other_data_are_refused(checkpoint: Path) -> None:
    description = small_data().describe()
    load_run(checkpoint).check_data(description)
    other = description | {"name": "other", "fingerprint": "0"}
    said = rf"small .*other.*{description['fingerprint']}.*\b0\b"
    with pytest.raises(UserError, match=said):
        load_run(checkpoint).check_data(other)
    with pytest.raises(UserError, match=said):
        check_resume(checkpoint, dict(small_module(small_data()).hparams) | {"data": other})
    with pytest.raises(UserError, match=r"grid_shape.*\[1, "):
        load_run(checkpoint).check_data(description | {"grid_shape": [1, *description["grid_shape"]]})


def test_no_training_goes_on_from_a_checkpoint_that_was_changed(checkpoint: Path, tmp_path: Path) -> None:
    """Parts that are gone would begin anew without a word."""
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda c: c["optimizer_states"].clear(),
        lambda c: c["optimizer_states"][0]["state"].clear(),
        lambda c: c["optimizer_states"][0]["state"].popitem(),
        lambda c: c.update(callbacks={}),
        lambda c: c["loops"]["fit_loop"]["epoch_progress"]["current"].update(ready=0),
        lambda c: c.pop("current_model_state"),
        lambda c: c["hyper_parameters"]["config"].update(seed=-1),
    ]
    here = small_module(small_data()).hparams
    check_resume(tampered(checkpoint, tmp_path / "last.ckpt", lambda c: c), here)
    for number, change in enumerate(changes):
        with pytest.raises(UserError, match=r"last\.ckpt"):
            check_resume(tampered(checkpoint, tmp_path / "last.ckpt", change), here)
            raise AssertionError(number)


def test_the_order_of_sets_and_dictionaries_is_no_change_of_a_checkpoint() -> None:
    """A set of text has another order in another process, as these two have in one."""
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other)
    first = outline_of({"state": [one, {"a": 1, "b": 2}]})
    assert first == outline_of({"state": [other, {"b": 2, "a": 1}]})
    assert first != outline_of({"state": [{0, 9}, {"a": 1, "b": 2}]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 7}, r"network.*depth = 1\b.*\b7\b"),
        ({"kind": "pooled"}, "objective.*_target_ = .*Averaged.*Pooled"),
        ({"label_smoothing": 0.1}, r"objective.*label_smoothing = None\b.*\b0\.1\b"),
        ({"optimizer": "MuonAdamW"}, "optimizer.*_target_ = .*adamw.*MuonAdamW"),
    ],
)
def test_resuming_with_another_network_objective_or_optimizer_is_refused(
    checkpoint: Path, changes: dict[str, Any], message: str
) -> None:
    check_resume(checkpoint, small_module(small_data(), lr=0.5, weight_decay=0.1, seed=3).hparams)
    with pytest.raises(UserError, match=message):
        check_resume(checkpoint, small_module(small_data(), **changes).hparams)


def tampered(checkpoint: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("written_by"), r"mdlm_cfg \d+\.\d+"),
        (lambda c: c.update(format=1), r"mdlm_cfg \d+\.\d+"),
        (lambda c: c.update(written_by="other", hyper_parameters={}), r"last\.ckpt .*mdlm_cfg$"),
        (lambda c: c["hyper_parameters"]["data"].pop("fingerprint"), r"last\.ckpt .*data\.fingerprint"),
        (lambda c: c["hyper_parameters"].update(data=3), r"last\.ckpt .*data\.name"),
        (lambda c: c["hyper_parameters"].pop("optimizer"), r"last\.ckpt .*optimizer\b(?!\.)"),
        (lambda c: c["hyper_parameters"].update(config=None), r"last\.ckpt .*config\b"),
        (lambda c: c["hyper_parameters"]["net"].pop("_target_"), r"last\.ckpt .*net\._target_"),
        (lambda c: c["hyper_parameters"].update(optimizer=math.nan), r"last\.ckpt .*optimizer\._target_"),
        (lambda c: c["hyper_parameters"]["net"].update(odd=1), r"net\.odd .*GridTransformer.*num_tokens"),
        (lambda c: c["hyper_parameters"]["net"].update(width="wide"), r"net\.width = 'wide'"),
        (lambda c: c["hyper_parameters"]["net"].update(width=32), r"last\.ckpt"),
        (lambda c: c["hyper_parameters"]["data"].update(grid_shape=[7, 3]), r"last\.ckpt .*grid_shape = \[7, 3\]"),
        (lambda c: c["hyper_parameters"]["data"].update(grid_shape=None), r"last\.ckpt .*grid_shape = None"),
        (lambda c: c["hyper_parameters"]["data"].pop("num_classes"), r"last\.ckpt .*num_classes = None"),
    ],
)
def test_older_foreign_and_incomplete_checkpoints_are_refused(
    checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_run(tampered(checkpoint, tmp_path / "last.ckpt", change))


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "side_effect.Net",
        "mdlm_cfg.nets.os.system",
        "mdlm_cfg.nets.nothing",
        "mdlm_cfg.nets.check_network",
        "mdlm_cfg.nets.transformer.torch.load",
        "Net",
        "",
    ],
)
def test_a_checkpoint_can_not_name_code_that_nobody_trusts(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "side_effect.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for key in (("net",), ("net", "width")):

        def change(content: dict[str, Any], key: tuple[str, ...] = key) -> None:
            settings = content["hyper_parameters"]["net"]
            if len(key) == 1:
                settings["_target_"] = name
            else:
                settings[key[1]] = {"_target_": name}

        with pytest.raises(UserError):
            load_run(tampered(checkpoint, tmp_path / "last.ckpt", change), trusted=["other.Net"])
    assert "side_effect" not in sys.modules and not (tmp_path / "ran").exists()


def test_a_trusted_module_that_does_not_exist_is_a_sentence(checkpoint: Path, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["hyper_parameters"]["net"]["_target_"] = "no_such_module_here.Net"

    path = tampered(checkpoint, tmp_path / "last.ckpt", change)
    with pytest.raises(UserError, match=r"last\.ckpt .*net\._target_=no_such_module_here\.Net"):
        load_run(path)
    with pytest.raises(UserError, match=r"No module named 'no_such_module_here'.*PYTHONPATH"):
        load_run(path, trusted=["no_such_module_here.Net"])


# going on


def fitted(
    folder: Path, resume: Path | None = None, epochs: int = 2, limit: dict[str, Any] | None = None, **changes: Any
) -> tuple[Any, Any]:
    data_changes = {key: changes.pop(key) for key in ("steps_per_epoch", "batch_size") if key in changes}
    module = small_module(small_data(), **changes)
    data = small_data(**data_changes)
    trainer = small_trainer(folder, epochs, **(limit or {}))
    rates: list[float] = []

    class Rates(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer.callbacks.append(Rates())
    numbers, trained = train(module, data, trainer, None if resume is None else str(resume))
    return {"numbers": numbers, "trained": trained, "rates": rates}, trainer


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The checkpoint of a run of one epoch, and what it found."""
    folder = tmp_path_factory.mktemp("begun")
    found, _ = fitted(folder, epochs=1)
    return folder / CHECKPOINT, found


@pytest.mark.parametrize("optimizer", ["adamw", "MuonAdamW"])
def test_what_is_asked_for_on_resuming_takes_effect(tmp_path: Path, optimizer: str) -> None:
    fitted(tmp_path / "a", epochs=1, optimizer=optimizer)
    options = {"lr": 7e-4, "weight_decay": 0.2, "betas": [0.8, 0.95], "final_lr": 1.0}
    found, trainer = fitted(tmp_path / "b", tmp_path / "a" / CHECKPOINT, 2, optimizer=optimizer, **options)
    assert found["rates"] == pytest.approx([7e-4] * 4)
    group = trainer.optimizers[0].param_groups[0]
    assert group["weight_decay"] == 0.2 and tuple(group["betas"]) == (0.8, 0.95)
    assert all(group["weight_decay"] == 0.2 for group in trainer.optimizers[0].param_groups)
    saved = torch.load(tmp_path / "b" / CHECKPOINT, weights_only=True)
    assert saved["hyper_parameters"]["optimizer"]["lr"] == 7e-4 and saved["global_step"] == 8


@pytest.mark.parametrize("steps", [2, 12])
def test_the_rate_falls_to_its_floor_with_another_number_of_steps_an_epoch(
    begun: tuple[Path, Any], tmp_path: Path, steps: int
) -> None:
    found, _ = fitted(tmp_path, begun[0], 4, steps_per_epoch=steps, batch_size=32)
    rates = found["rates"]
    assert len(rates) == 3 * steps
    assert rates == sorted(rates, reverse=True)
    share = (1 + math.cos(math.pi / 4)) / 2  # a quarter is done
    assert rates[0] == pytest.approx(3e-3 * (0.01 + 0.99 * share))
    share = (1 + math.cos(math.pi * (1 - 1 / (4 * steps)))) / 2
    assert rates[-1] == pytest.approx(3e-3 * (0.01 + 0.99 * share))


@pytest.mark.parametrize("epochs", [2, 1, 0])
def test_resuming_a_finished_run_tests_the_averaged_weights(tmp_path: Path, epochs: int) -> None:
    before, _ = fitted(tmp_path / "a", epochs=2)
    assert before["trained"]
    again, _ = fitted(tmp_path / "b", tmp_path / "a" / CHECKPOINT, epochs)
    assert not again["trained"] and again["rates"] == []
    assert again["numbers"] == before["numbers"]
    run = load_run(tmp_path / "a" / CHECKPOINT)
    assert again["numbers"]["test/exact_nelbo"] == pytest.approx(
        exact_nelbos(run.denoiser, small_data().target)["exact_nelbo"], abs=1e-6
    )
    assert not (tmp_path / "b" / CHECKPOINT).exists()


@pytest.mark.parametrize("limit", [{"max_steps": 4}, {"max_time": {"seconds": 0}}])
def test_resuming_a_run_whose_steps_or_time_are_used_up_tests_the_averaged_weights(
    begun: tuple[Path, Any], tmp_path: Path, limit: dict[str, Any]
) -> None:
    path, before = begun
    again, _ = fitted(tmp_path, path, 5, limit)
    assert not again["trained"] and again["numbers"] == before["numbers"]
