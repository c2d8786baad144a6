"""The training module: its objectives, learning rate, averaged weights, resuming, and its numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import small_data, small_module, small_target, small_trainer
from lightning.pytorch import Callback

from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.targets import toys
from mdlm_cfg.training.callbacks import averaging
from mdlm_cfg.training.module import (
    averaged_objective,
    exact_nelbos,
    learning_rate_factor,
    live_rows,
    mean_and_errors,
    moments,
    on_rows,
    smoothed,
)
from mdlm_cfg.training.objectives import AveragedObjective, nelbo


def test_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    assert learning_rate_factor(0, 0.0, 10, 0.1) == pytest.approx(0.1)
    assert learning_rate_factor(9, 0.0, 10, 0.1) == pytest.approx(1.0)
    assert learning_rate_factor(100, 0.5, 10, 0.1) == pytest.approx(0.55)
    assert learning_rate_factor(200, 1.0, 10, 0.1) == pytest.approx(0.1)
    assert learning_rate_factor(0, 0.0, 0, 0.0) == 1.0


def test_smoothing_is_cross_entropy_with_smoothed_targets() -> None:
    log_probs = torch.randn(1, 1, 5, dtype=torch.float64).log_softmax(-1)
    targets = torch.softmax(torch.randn(5, dtype=torch.float64), 0)
    mixed = 0.9 * targets + 0.1 / 5
    found = -(targets * smoothed(log_probs, torch.tensor([[5]]), 0.1)[0, 0]).sum()
    assert found.item() == pytest.approx(-(mixed * log_probs[0, 0]).sum().item())


def test_smoothing_leaves_copied_rows_alone() -> None:
    copied = torch.tensor([[[0.0, -math.inf]]])
    assert torch.equal(smoothed(copied, torch.tensor([[0]]), 0.1), copied)


def test_live_rows_change_nothing() -> None:
    target = toys.toy_2d_overlap()
    objective = AveragedObjective(target.num_tokens, target.num_dims, target.num_classes)
    net = GridTransformer(target.num_tokens, (2,), target.num_classes, width=16, depth=1, num_heads=2).double()
    joint = target.class_weights.reshape(-1, 1, 1) * target.class_pmfs
    rows = live_rows(objective, joint)
    assert len(rows) < objective.num_evaluations
    for found, expected in zip(objective(on_rows(net, rows), joint), objective(net, joint)):
        assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_exact_nelbo_of_the_exact_denoiser_is_the_entropy() -> None:
    numbers = exact_nelbos(small_target().denoiser(), small_target())
    assert abs(numbers["excess"]) < 1e-12 and abs(numbers["excess_null"]) < 1e-12


def test_tabulated_denoiser_is_the_denoiser() -> None:
    denoiser = small_target().denoiser()
    tokens, classes = torch.tensor([[3, 3], [0, 3], [3, 2], [1, 1]]), torch.tensor([0, 1, 2, 0])
    for labels in (classes, None):
        assert torch.equal(TabulatedDenoiser(denoiser)(tokens, labels), denoiser(tokens, labels))


def test_too_many_evaluations_are_refused() -> None:
    net = GridTransformer(2, (4, 4), 10, width=8, depth=1, num_heads=1)
    with pytest.raises(ValueError, match="use objective=pooled"):
        averaged_objective(net)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "guessed"}, "choose one of averaged, pooled, sampled"),
        ({"label_dropout": 1.5}, "label dropout 1.5"),
        ({"label_smoothing": 1.0}, "label smoothing 1.0"),
        ({"paired": True}, "paired is for objective=sampled"),
        ({"kind": "pooled", "rows": 0}, "objective.rows = 0"),
        ({"kind": "sampled", "rows": 5}, "is for objective=pooled"),
        ({"lr": -1.0}, "learning rate -1.0"),
        ({"betas": [0.9]}, "betas"),
        ({"warmup_steps": -1}, "warmup_steps -1"),
        ({"final_lr": 2.0}, "final_lr 2.0"),
        ({"ema_decay": 1.0}, "ema_decay 1.0"),
        ({"num_draws": 0}, "num_draws"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_module(small_data(), **changes)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "averaged"}, {"kind": "pooled", "rows": 64}, {"kind": "sampled"}, {"kind": "sampled", "paired": True}],
)
def test_training_lowers_the_exact_nelbo(tmp_path: Path, changes: dict[str, Any]) -> None:
    data = small_data(batch_size=512, steps_per_epoch=60)
    module = small_module(data, lr=1e-2, **changes)
    before = exact_nelbos(NetDenoiser(module.net), data.target)["excess"]
    small_trainer(tmp_path, epochs=1).fit(module, datamodule=data)
    assert exact_nelbos(NetDenoiser(module.net), data.target)["excess"] < 0.5 * before


def test_paired_loss_is_the_weighted_sum_on_one_mask(tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data, "sampled", paired=True)
    small_trainer(tmp_path, epochs=1, limit_train_batches=1).fit(module, datamodule=data)
    x, classes = data.target.sample(8)
    losses = module._sampled_loss(x, classes, 0)
    parts = []
    for labels in (classes, torch.full_like(classes, 2)):
        generator = module._generator("train", module.global_step, 0)
        parts.append(nelbo(module.net, x, labels, 3, generator).mean())
    assert losses["loss"].item() == pytest.approx((0.7 * parts[0] + 0.3 * parts[1]).item())


def test_averaged_weights_warm_up() -> None:
    averaged, current = [torch.zeros(1)], [torch.ones(1)]
    averaging(0.999)(averaged, current, torch.tensor(1))
    assert averaged[0].item() == pytest.approx(1 - 2 / 11)
    averaging(0.5)(averaged, current, 1000)
    assert averaged[0].item() == pytest.approx(1 - 1 / 11)


@pytest.mark.parametrize("kind", ["averaged", "pooled", "sampled"])
def test_resuming_at_an_epoch_is_bitwise(tmp_path: Path, kind: str) -> None:
    class StopAfterOne(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = True

    def checkpoint(folder: Path, stop: bool, resume: Path | None = None) -> dict[str, Any]:
        data = small_data()
        trainer = small_trainer(folder, epochs=3)
        if stop:
            trainer.callbacks.insert(0, StopAfterOne())
        trainer.fit(small_module(data, kind), datamodule=data, ckpt_path=resume, weights_only=True)
        return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)

    whole = checkpoint(tmp_path / "whole", stop=False)
    half = checkpoint(tmp_path / "half", stop=True)
    rest = checkpoint(tmp_path / "rest", stop=False, resume=tmp_path / "half" / "checkpoints" / "last.ckpt")
    assert half["global_step"] == 4 and whole["global_step"] == rest["global_step"] == 12
    for key in ("state_dict", "current_model_state"):
        for name, value in whole[key].items():
            assert torch.equal(value, rest[key][name]), (key, name)


def test_an_interrupt_leaves_a_checkpoint_with_the_averaged_weights(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    data, path = small_data(), tmp_path / "checkpoints" / "last.ckpt"
    module = small_module(data)
    trainer = small_trainer(tmp_path)
    trainer.callbacks.insert(0, Interrupt())
    with pytest.raises(SystemExit):
        trainer.fit(module, datamodule=data)
    saved = torch.load(path, weights_only=True)
    raw = dict(module.named_parameters())
    assert all(torch.equal(value, raw[name]) for name, value in saved["current_model_state"].items())
    assert any(not torch.equal(value, raw[name]) for name, value in saved["state_dict"].items())


def test_test_numbers_and_their_errors(tmp_path: Path) -> None:
    data = small_data(num_test=4000, eval_batch_size=500)
    module = small_module(data, num_draws=3)
    trainer = small_trainer(tmp_path, epochs=1)
    trainer.fit(module, datamodule=data)
    numbers = trainer.test(module, datamodule=data, verbose=False)[0]
    error = numbers["test/nelbo_data_se"]
    assert 0 < numbers["test/nelbo_mc_se"] < error
    assert abs(numbers["test/nelbo"] - numbers["test/exact_nelbo"]) < 5 * error
    assert {"test/tv_w0", "test/tv_w4", "test/excess_null"} <= set(numbers)


def test_errors_of_known_draws() -> None:
    draws = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, of_masks, of_data = mean_and_errors(moments(draws[:, :2000]) + moments(draws[:, 2000:]), 4)
    assert mean == pytest.approx(draws.mean().item())
    assert of_masks == pytest.approx(1 / math.sqrt(4 * 5000), rel=0.05)
    assert of_data == pytest.approx(1 / math.sqrt(4 * 5000), rel=0.05)
    assert mean_and_errors(moments(draws[:1]), 1)[1] is None
