"""The training module: its objectives, learning rate, averaged weights, resuming, and its numbers."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from harness import small_data, small_module, small_target, small_trainer
from helpers import every_pair
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.annealing import Annealing
from mdlm_cfg.training.callbacks import AveragedWeights, average_
from mdlm_cfg.training.compiled import compiled
from mdlm_cfg.training.data import TableData
from mdlm_cfg.training.module import Diverged
from mdlm_cfg.training.objectives import Averaged, Pooled, Sampled
from mdlm_cfg.training.runs import load_run
from mdlm_cfg.training.watching import ExactWatch, exact_nelbos, mean_and_errors, moments, watch_for


def test_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    annealing = Annealing(warmup_steps=10, final_lr=0.1)
    assert annealing.factor(0, 0.0) == pytest.approx(0.1)
    assert annealing.factor(9, 0.0) == pytest.approx(1.0)
    assert annealing.factor(100, 0.5) == pytest.approx(0.55)
    assert annealing.factor(200, 1.0) == pytest.approx(0.1)
    assert Annealing(0, 0.0).factor(0, 0.0) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "guessed"}, r"objective .*mdlm_cfg\.training\.objectives\.Guessed"),
        ({"label_dropout": 1.5}, "label_dropout = 1.5"),
        ({"label_smoothing": 1.0}, "label_smoothing = 1.0"),
        ({"paired": True}, r"objective\.paired .*Averaged.*label_dropout"),
        ({"kind": "pooled", "rows": 0}, "objective.rows = 0"),
        ({"kind": "sampled", "rows": 5}, r"objective\.rows .*Sampled.*paired"),
        ({"lr": -1.0}, "learning rate -1.0"),
        ({"lr": "fast"}, r"optimizer\.lr = 'fast'"),
        ({"betas": [0.9]}, r"betas \[0\.9\]"),
        ({"betas": [0.9, "b"]}, r"optimizer\.betas = \[0\.9, 'b'\]"),
        ({"warmup_steps": -1}, "warmup_steps = -1"),
        ({"final_lr": 2.0}, "final_lr = 2.0"),
        ({"num_draws": 0}, "num_draws = 0"),
        ({"width": 16.5}, r"net\.width = 16\.5"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_module(small_data(), **changes)


def test_a_wrong_decay_of_the_averaged_weights_is_refused() -> None:
    with pytest.raises(UserError, match=r"ema_decay = 1.0"):
        AveragedWeights(1.0)


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


@pytest.mark.parametrize("kind", ["averaged", "pooled", "sampled"])
@pytest.mark.parametrize("by", [(1, 0), (-1, 0), (0, 1), (0.0, 0)], ids=str)  # the mask, -1, no class, fractions
@pytest.mark.parametrize("stage", ["train", "val"])
def test_a_batch_that_is_none_of_its_data_is_refused(
    stage: str, by: tuple[float, int], kind: str, tmp_path: Path
) -> None:
    data = small_data()
    right = getattr(data, f"{stage}_dataloader")
    wrong = [(x + by[0], classes + by[1]) for x, classes in right()]
    setattr(data, f"{stage}_dataloader", lambda: DataLoader(wrong, batch_size=None))
    with pytest.raises(UserError, match=rf" 0 to {1 if by[1] else 2} \(torch\.int64\)"):
        small_trainer(tmp_path, epochs=1).fit(small_module(data, kind), datamodule=data)


def test_averaged_weights_warm_up() -> None:
    averaged = [torch.zeros(1)]
    current = [torch.ones(1)]
    average_(averaged, current, 0.999, 1)
    assert averaged[0].item() == pytest.approx(1 - 2 / 11)
    average_(averaged, current, 0.5, 1000)
    assert averaged[0].item() == pytest.approx(1 - 1 / 11)
    average_(averaged, [torch.full((1,), 3.0)], 0.5, 0)
    assert averaged[0].item() == 3.0


def test_the_average_is_made_where_the_model_trains(tmp_path: Path) -> None:
    """The meta device stands in for a GPU: the model itself is still on the CPU when the average is made."""
    trainer = small_trainer(tmp_path)
    module = small_module(small_data())
    average = AveragedWeights(0.9)
    with patch.object(type(trainer.strategy), "root_device", torch.device("meta")):
        average.setup(trainer, module, "fit")
    assert average._average_model is not None
    assert {p.device.type for p in average._average_model.module.parameters()} == {"meta"}
    assert {p.device.type for p in module.parameters()} == {"cpu"}


def test_an_interrupt_leaves_a_checkpoint_with_the_averaged_weights(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    data = small_data()
    path = tmp_path / "checkpoints" / "last.ckpt"
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
    assert mean_and_errors(moments(draws[:, :1]), 4)[2] is None  # one sample does not tell how samples vary


PRECISIONS = ("bf16-mixed", "bf16-true", "64-true")


@pytest.mark.parametrize(("precision", "optimizer"), every_pair(PRECISIONS, ["adamw", "MuonAdamW"]))
def test_every_precision_trains_and_averages(tmp_path: Path, precision: str, optimizer: str) -> None:
    data = small_data(batch_size=512, steps_per_epoch=40)
    module = small_module(data, lr=1e-2, optimizer=optimizer)
    before = exact_nelbos(NetDenoiser(module.net), data.target)["excess"]
    trainer = small_trainer(tmp_path, epochs=1, precision=precision, gradient_clip_val=1.0)
    trainer.fit(module, datamodule=data)
    assert exact_nelbos(load_run(tmp_path / "checkpoints" / "last.ckpt").denoiser, data.target)["excess"] < 0.7 * before
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {value.dtype for value in saved.values()} == {torch.float64 if precision == "64-true" else torch.float32}


# the watched exact numbers


def other_target() -> TableMixture:
    pmfs = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64) ** 3
    return TableMixture(pmfs / pmfs.sum(dim=(1, 2), keepdim=True), torch.tensor([0.5, 0.5]))


def largest_tv(net: torch.nn.Module, target: TableMixture, guidance: Guidance) -> float:
    """The largest TV between the laws of a network and of a target, over the classes."""
    denoisers = (NetDenoiser(net), target.denoiser())
    laws = [[terminal_law(denoiser, guidance, k) for denoiser in denoisers] for k in range(2)]
    return max(total_variation(*pair) for pair in laws)


def test_a_second_target_is_held_against_its_own_laws(tmp_path: Path) -> None:
    module = small_module(small_data())
    for target in (small_target(), other_target()):
        data = TableData(target, "either", steps_per_epoch=2, batch_size=16, num_val=16, num_test=16)
        data.setup("fit")
        found = small_trainer(tmp_path).test(module, datamodule=data, verbose=False)[0]
        for w in (0.0, 2.0):
            assert found[f"test/tv_w{w:g}"] == pytest.approx(largest_tv(module.net, target, Guidance(w)), abs=1e-6)


def test_what_watches_one_target_is_kept_for_it_alone() -> None:
    target = small_target()
    watch = watch_for(target)
    assert watch_for(target, watch) is watch
    assert watch_for(other_target(), watch) is not watch
    assert watch_for(None) is None
    # what is watched is the kind of guidance that was asked for: at w = 4 another law, at w = 0 the same
    other = watch_for(target, watch, "normalized")
    assert other is not watch and other is not None and other.kind == KINDS["normalized"]
    net = small_module(small_data()).net.double()  # in float32 an answer depends on what it was asked together with
    rate = watch.numbers(net)
    normalized = other.numbers(net)
    assert rate["tv_w0"] == pytest.approx(normalized["tv_w0"], abs=1e-12) and rate["tv_w4"] != normalized["tv_w4"]
    worst = largest_tv(net, target, Guidance(4.0, "normalized"))
    assert normalized["tv_w4"] == pytest.approx(worst, abs=1e-12)


def test_a_class_of_weight_zero_can_be_trained(tmp_path: Path) -> None:
    pmfs = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    target = TableMixture(pmfs, torch.tensor([0.5, 0.5, 0.0]))
    assert ExactWatch(target).classes == [0, 1]
    alone = TableMixture(pmfs, torch.tensor([1.0, 0.0, 0.0]))  # class 2 has mass where the mixture has none
    data = TableData(alone, "alone", steps_per_epoch=3, batch_size=64, num_val=32, num_test=32)
    data.setup("fit")
    module = small_module(data)
    trainer = small_trainer(tmp_path, epochs=1)
    trainer.fit(module, datamodule=data)
    assert 0 < float(trainer.callback_metrics["val/tv_w4"]) < 1


# what goes wrong while training


class Poison(Callback):
    """Makes a weight NaN at the beginning of one step: the loss is NaN then."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            next(pl_module.parameters()).data.fill_(math.nan)


@pytest.mark.parametrize("kind", ["averaged", "pooled", "sampled"])
def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_checkpoint(tmp_path: Path, kind: str) -> None:
    data = small_data()
    path = tmp_path / "checkpoints" / "last.ckpt"
    trainer = small_trainer(tmp_path, epochs=3)
    good: list[bytes] = []

    class Keep(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if path.is_file():
                good.append(path.read_bytes())

    trainer.callbacks += [Keep(), Poison(6)]
    with pytest.raises(Diverged, match=r"step 6 .*optimizer\.lr"):
        trainer.fit(small_module(data, kind), datamodule=data)
    assert len(good) == 1 and path.read_bytes() == good[0]


@pytest.mark.parametrize(("value", "ending"), [(0.0, RuntimeError), (math.inf, KeyboardInterrupt)])
def test_neither_an_error_nor_an_interrupt_with_weights_that_are_not_finite_saves_anything(
    value: float, ending: type[BaseException], tmp_path: Path
) -> None:
    class Ending(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
            next(pl_module.parameters()).data.fill_(value)
            raise ending

    trainer = small_trainer(tmp_path)
    trainer.callbacks.append(Ending())
    with pytest.raises(SystemExit if ending is KeyboardInterrupt else ending):
        trainer.fit(small_module(small_data()), datamodule=small_data())
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("every", [1, 3])
def test_scalars_are_logged_every_n_steps_with_the_rate_that_was_used(tmp_path: Path, batches: int, every: int) -> None:
    """One line for a step, also where it is of several batches."""
    used: list[float] = []

    class Rates(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
            used.append(trainer.optimizers[0].param_groups[0]["lr"])

    logger = CSVLogger(tmp_path, name="", version="")
    settings = {"log_every_n_steps": every, "accumulate_grad_batches": batches}
    trainer = small_trainer(tmp_path, 2 * batches, logger=logger, **settings)
    trainer.callbacks.append(Rates())
    trainer.fit(small_module(small_data()), datamodule=small_data())
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/lr"]]
    steps = range(every - 1, 8, every)
    assert [int(row["step"]) for row in rows] == list(steps)
    rates = [used[batches * (step + 1) - 1] for step in steps]
    assert [float(row["train/lr"]) for row in rows] == pytest.approx(rates, rel=1e-5)
    assert rates[0] != rates[1] and all(float(row["train/loss"]) > 0 for row in rows)


def test_the_test_sets_nelbo_does_not_depend_on_its_batches_beyond_its_error(tmp_path: Path) -> None:
    """Masks are stratified within a batch, so that other batches have other masks, and no other mean."""
    found = []
    for size in (1, 7, 1024):
        data = small_data(eval_batch_size=size)
        trainer = small_trainer(tmp_path)
        found.append(trainer.test(small_module(data), datamodule=data, verbose=False)[0])
    exact = found[0]["test/exact_nelbo"]
    assert all(one["test/exact_nelbo"] == exact for one in found)
    for one, other in ((found[0], found[1]), (found[1], found[2])):
        error = math.hypot(one["test/nelbo_mc_se"], other["test/nelbo_mc_se"])
        assert abs(one["test/nelbo"] - other["test/nelbo"]) < 4 * error < 0.5


class Counted(torch.nn.Module):
    """What a compiler would make of a network: it counts how often it is asked."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net
        self.asked = 0
        self.num_tokens = net.num_tokens
        self.num_dims = net.num_dims
        self.num_classes = net.num_classes

    def forward(self, *arguments: Any) -> Any:
        self.asked += 1
        return self.net(*arguments)


def fitted(folder: Path, is_compiled: bool) -> Any:
    """The trainer of a small module that asks a compiled network, or not."""
    data = small_data()
    module = small_module(data)
    module.is_compiled = is_compiled
    trainer = small_trainer(folder)
    trainer.fit(module, datamodule=data)
    return trainer


def test_training_asks_the_compiled_network_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Counted] = []
    monkeypatch.setattr(torch, "compile", lambda net, **_: made.append(Counted(net)) or made[-1])
    trained = []
    for is_compiled in (False, True):
        trainer = fitted(tmp_path / str(is_compiled), is_compiled)
        trainer.test(trainer.lightning_module, datamodule=trainer.datamodule, verbose=False)
        checkpoint = torch.load(tmp_path / str(is_compiled) / "checkpoints" / "last.ckpt")
        numbers = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "val/minutes"}
        trained.append((numbers, checkpoint["state_dict"]))
    (metrics, plain), (compiled_metrics, compiled) = trained
    (one,) = made
    assert one.asked == 2 * 4  # epochs of four steps, and neither validation nor test
    assert compiled_metrics == metrics
    assert list(plain) == list(compiled)
    assert all(torch.equal(plain[name], value) for name, value in compiled.items())


@pytest.mark.parametrize("name", ["averaged", "pooled", "sampled"])
def test_label_heads_are_compiled_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def compiling(function: Any, **_: Any) -> Any:
        def call(*arguments: Any) -> Any:
            asked.append("several labels" if function == net.under_labels else "one label")
            return function(*arguments)

        return call

    monkeypatch.setattr(torch, "compile", compiling)
    net = GridTransformer(2, (2,), 2, width=8, depth=1, num_heads=1, label_heads=True)
    objective = {"averaged": Averaged(), "pooled": Pooled(), "sampled": Sampled()}[name]
    x = torch.randint(2, (8, 2), generator=torch.Generator().manual_seed(0))
    plain, ours = (
        objective.loss(one, x, x[:, 0], torch.Generator().manual_seed(1))["loss"] for one in (net, compiled(net))
    )
    assert asked == ["several labels"] and torch.equal(plain, ours)
    one_label = torch.full((8, 2), 2), torch.zeros(8, dtype=torch.int64)
    assert torch.equal(compiled(net)(*one_label), net(*one_label)) and asked[1:] == ["one label"]


@pytest.mark.slow
def test_a_compiled_network_trains_as_it_is(tmp_path: Path) -> None:
    losses = [
        float(fitted(tmp_path / str(is_compiled), is_compiled).callback_metrics["val/nelbo"])
        for is_compiled in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
