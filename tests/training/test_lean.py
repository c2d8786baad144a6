"""Steps that leave out what does nothing are the same steps, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from harness import small_data, small_module, small_target, small_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import SimpleProfiler
from torch import nn

from mdlm_cfg.app.build import build_trainer
from mdlm_cfg.app.errors import USER_ERROR, Failure, account_of
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.data import TableData
from mdlm_cfg.training.lean import HOOKS, TRANSFERS, LeanModule, LeanTrainer, Unprofiled
from mdlm_cfg.training.module import MaskedDiffusion

NONE = {"gradient_clip_val": None}
NORM = {"gradient_clip_val": 0.3}
VALUE = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}
LONGEST = 0.3
LIGHTNINGS = ("optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "__setattr__", "on_train_start")
AVERAGES: dict[str, dict[str, float]] = {"EMAWeightAveraging": {}, "StochasticWeightAveraging": {"swa_lrs": 0.1}}
TRAINER = {"_target_": "lightning.pytorch.Trainer", "accelerator": "cpu", "enable_progress_bar": False}


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98, 0.995, 1 - 1e-6, 1.0, 1 + 1e-6, 1.01, 1.3, 7.0, math.inf, math.nan])
@pytest.mark.parametrize("settings", [NONE, NORM, VALUE, NORM | {"gradient_clip_algorithm": "norm"}])
def test_gradients_are_clipped_as_lightning_does(share: float, settings: dict[str, Any], tmp_path: Path) -> None:
    drawn = [torch.randn(4, 3), torch.randn(5)]
    length = torch.cat([one.flatten() for one in drawn]).norm()
    clipped = []
    for kind in (LightningModule, LeanModule):
        module = kind()
        module.trainer = small_trainer(tmp_path, **settings)
        weights = [nn.Parameter(torch.zeros_like(one)) for one in (*drawn, torch.zeros(2))]  # the last has no gradient
        for weight, one in zip(weights, drawn):
            weight.grad = one * (share * LONGEST / length)
        given = (settings["gradient_clip_val"], settings.get("gradient_clip_algorithm"))
        module.configure_gradient_clipping(torch.optim.SGD(weights), *given)
        clipped.append([weight.grad for weight in weights[:2]])
    for lightnings, ours in zip(*clipped, strict=True):
        assert torch.equal(lightnings.nan_to_num(9.0), ours.nan_to_num(9.0))


def trained(folder: Path, settings: dict[str, Any], callbacks: Sequence[Callback]) -> tuple[Any, dict[str, Any]]:
    """The weights, and what a checkpoint says of the progress."""
    data = small_data()
    module = small_module(data)
    trainer = small_trainer(folder, callbacks=list(callbacks), enable_checkpointing=False, **settings)
    trainer.fit(module, datamodule=data)
    return module.state_dict(), trainer.fit_loop.state_dict()


@pytest.mark.parametrize("callbacks", [(), (GradientAccumulationScheduler({1: 2}),)])
@pytest.mark.parametrize("settings", [NORM, NORM | {"precision": "bf16-mixed"}])
def test_training_is_lightnings_own(
    settings: dict[str, Any], callbacks: Sequence[Callback], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lean, progress = trained(tmp_path / "lean", settings, callbacks)
    for kind, names in ((LeanModule, LIGHTNINGS), (LeanTrainer, ("strategy", "training"))):
        for name in names:
            monkeypatch.delattr(kind, name)
    monkeypatch.setattr("mdlm_cfg.training.lean.call_at_once", lambda trainer: None)
    own, lightnings = trained(tmp_path / "own", settings, callbacks)
    assert own.keys() == lean.keys() and all(torch.equal(own[name], lean[name]) for name in own)
    assert progress == lightnings


@pytest.mark.parametrize("first", [None, 1, "a", nn.Linear(1, 1), nn.Parameter(torch.ones(1)), torch.ones(1)])
@pytest.mark.parametrize("second", [None, 1, "a", nn.Linear(1, 1), nn.Parameter(torch.ones(1)), torch.ones(1)])
@pytest.mark.parametrize("is_buffer", [False, True])
def test_attributes_are_any_modules(first: Any, second: Any, is_buffer: bool) -> None:
    outcomes = []
    buffer = torch.zeros(1)
    for kind in (LightningModule, LeanModule):
        module = kind()
        error = None
        if is_buffer:
            module.register_buffer("x", buffer)
        for value in (first, second):
            try:
                module.x = value
            except TypeError as refused:
                error = str(refused)
        places = (vars(module), module._parameters, module._modules, module._buffers)
        outcomes.append((error, [place.get("x", "nowhere") for place in places]))
    ((error, there), (lean_error, lean_there)) = outcomes
    assert error == lean_error and all(a is b for a, b in zip(there, lean_there, strict=True))


class Counting(Callback):
    """Counts the calls of the hooks that it has."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def count(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1


class CountingOnce(Counting):
    def on_before_zero_grad(self, *_: Any) -> None:
        super().on_before_zero_grad(*_)
        self.count("on_before_zero_grad")


def counting(name: str) -> Callable[..., None]:
    return lambda self, *_: self.count(name)


CountingAll = type("CountingAll", (CountingOnce,), {name: counting(name) for name in HOOKS})


class CountingModule(MaskedDiffusion):
    calls = 0

    def on_after_backward(self) -> None:
        super().on_after_backward()
        self.calls += 1


def test_hooks_that_somebody_has_filled_are_called_in_every_step(tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data)
    module.__class__ = CountingModule
    callbacks = [Counting(), CountingOnce(), CountingAll()]
    trainer = small_trainer(tmp_path, callbacks=callbacks, enable_checkpointing=False)
    for _ in range(2):  # callbacks may be of several trainings
        trainer.fit(module, datamodule=data)
    steps = trainer.global_step
    assert steps > 0 and cast(CountingModule, module).calls == steps
    names = ((), ("on_before_zero_grad",), HOOKS)
    assert [one.calls for one in callbacks] == [dict.fromkeys(hooks, steps) for hooks in names]


@pytest.mark.parametrize("name", TRANSFERS)
@pytest.mark.parametrize("owner", ["data", "module"])
def test_hooks_of_a_batchs_transfer_are_called_in_every_step(name: str, owner: str, tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, callbacks=[], enable_checkpointing=False, limit_val_batches=0)
    calls = []
    for epoch, is_counted in enumerate((False, True, False)):
        trainer.fit_loop.max_epochs = epoch + 1
        data = small_data()
        module = small_module(data)
        one: Any = {"data": data, "module": module}[owner]
        if is_counted:
            hook = getattr(one, name)
            setattr(one, name, lambda batch, *where, hook=hook: (calls.append(name), hook(batch, *where))[1])
        trainer.fit(module, datamodule=data)
    # Lightning asks the module where both have the hook, and this data module has one of its own
    assert trainer.global_step == 3 * data.steps_per_epoch
    is_datas = owner == "module" and name == "transfer_batch_to_device"
    assert len(calls) == (0 if is_datas else data.steps_per_epoch)


@pytest.mark.parametrize("name", TRANSFERS)
def test_hooks_of_other_data_are_called_after_training(name: str, tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data)
    trainer = small_trainer(tmp_path, callbacks=[], enable_checkpointing=False, limit_train_batches=1)
    trainer.limit_val_batches = 0
    trainer.fit(module, datamodule=data)
    trainer.limit_val_batches = 1
    calls = []
    hook = getattr(data, name)
    setattr(data, name, lambda batch, *where: (calls.append(name), hook(batch, *where))[1])
    trainer.validate(module, datamodule=data, verbose=False)
    assert calls == [name]


class Comparing(Callback):
    """Holds what the trainer says of itself against what Lightning's says, wherever it is asked."""

    def __init__(self) -> None:
        self.found: set[bool] = set()

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_") and name.endswith(("_start", "_end")):
            return lambda trainer, *_: self.compare(trainer)
        return super().__getattribute__(name)

    def compare(self, trainer: LeanTrainer) -> None:
        assert trainer.training == Trainer.training.fget(trainer)  # type: ignore[attr-defined]
        assert trainer.strategy is Trainer.strategy.fget(trainer)  # type: ignore[attr-defined]
        self.found.add(trainer.training)


def test_a_trainer_says_of_itself_what_lightnings_does(tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data)
    compared = Comparing()
    trainer = small_trainer(tmp_path, callbacks=[compared], enable_checkpointing=False)
    trainer.fit(module, datamodule=data)
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.test(module, datamodule=data, verbose=False)
    assert compared.found == {True, False} and isinstance(build_trainer(TRAINER, [], []), Trainer)


class OddTable(TableMixture):
    def sample(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, classes = super().sample(*args, **kwargs)
        return x + self.num_tokens, classes


class OddData(TableData):
    def _batch(self, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, classes = super()._batch(*args)
        return x, classes + self.num_classes


@pytest.mark.parametrize("odd", [OddTable, OddData])
def test_only_batches_of_our_own_tables_are_not_checked(odd: type, tmp_path: Path) -> None:
    plain = small_data()
    assert plain.draws_valid_batches
    target = small_target()
    given = OddTable(target.class_pmfs, target.class_weights) if odd is OddTable else target
    data = (OddData if odd is OddData else TableData)(given, "small", batch_size=64, steps_per_epoch=1)
    data.setup("fit")
    trainer = small_trainer(tmp_path, limit_val_batches=0)
    with pytest.raises(UserError):
        trainer.fit(small_module(plain), datamodule=data)
    assert trainer.global_step == 0


class Resetting(torch.optim.SGD):
    count = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.count += 1
        super().zero_grad(set_to_none)


def test_an_optimizers_own_reset_is_called(tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data)
    module.optimizer = lambda net: Resetting(net.parameters(), lr=1e-3)
    trainer = small_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    assert trainer.optimizers[0].count == trainer.global_step > 0  # type: ignore[attr-defined]


def test_a_run_measures_hooks_where_its_user_wants_it_alone() -> None:
    assert isinstance(build_trainer(TRAINER, [], []).profiler, Unprofiled)
    assert isinstance(build_trainer(TRAINER | {"profiler": "simple"}, [], []).profiler, SimpleProfiler)


def test_callbacks_and_loggers_of_the_users_are_beside_ours(tmp_path: Path) -> None:
    own = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss", "patience": 7}
    ours = Callback()
    for given in ([own], own):
        trainer = build_trainer(TRAINER | {"callbacks": given}, [], [ours])
        assert ours in trainer.callbacks
        assert [one.patience for one in trainer.callbacks if isinstance(one, EarlyStopping)] == [7]
    log = CSVLogger(tmp_path)
    own = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": str(tmp_path / "own")}
    loggers = build_trainer(TRAINER | {"logger": own}, [log], []).loggers
    assert [one.save_dir for one in loggers] == [log.save_dir, own["save_dir"]]
    assert build_trainer(TRAINER | {"fast_dev_run": True}, [log], []).loggers == [log]  # as of any other run
    plugins = [{"_target_": "lightning.pytorch.plugins.AsyncCheckpointIO"}]
    with pytest.raises(UserError):  # there is a place for one alone, and ours writes files whole
        build_trainer(TRAINER | {"plugins": plugins}, [], [])


@pytest.mark.parametrize("name", [*AVERAGES, "LearningRateFinder", "BatchSizeFinder"])
def test_callbacks_that_do_again_what_a_run_does_are_refused(name: str) -> None:
    """Two averages leave one of them in the place of the weights, which training resumes from."""
    with pytest.raises(UserError):
        callback = {"_target_": f"lightning.pytorch.callbacks.{name}", **AVERAGES.get(name, {})}
        build_trainer(TRAINER | {"callbacks": [callback]}, [], [])


def test_an_error_of_a_callback_that_a_setting_names_is_no_fault_of_ours() -> None:
    data = small_data()
    callback = {"_target_": "lightning.pytorch.callbacks.BackboneFinetuning"}  # which asks for a module's backbone
    trainer = build_trainer(TRAINER | {"callbacks": [callback]}, [], [])
    with pytest.raises(AttributeError) as raised:
        trainer.fit(small_module(data), datamodule=data)
    account = account_of(Failure("", raised.value))
    assert account.code == USER_ERROR and callback["_target_"] in account.said
