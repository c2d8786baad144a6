"""Checkpoints: the last, the best and those between, and the log that goes with them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import small_data, small_module, small_trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.fit import train
from mdlm_cfg.training.metrics import MetricsLog
from mdlm_cfg.training.saving import BEST, LAST, Checkpoints

NOISY = "noisy"  # averaged, by a network that draws random numbers in training
ALWAYS = 1e-9  # minutes: a checkpoint after every step


class Watch(Callback):
    """Copies last.ckpt whenever it has changed, and remembers the validation NELBOs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nelbos = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        path = self.folder / "checkpoints" / LAST
        if path.is_file():
            shutil.copy(path, self.folder / f"before_{trainer.global_step}.ckpt")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.nelbos.append((float(trainer.callback_metrics["val/nelbo"]), trainer.global_step))


def fitted(
    folder: Path, minutes: float | None, resume: Path | None = None, kind: str = "averaged", **changes: Any
) -> Watch:
    trainer = small_trainer(folder, epochs=3, **changes)
    watch = Watch(folder)
    trainer.callbacks[-1] = Checkpoints(folder / "checkpoints", minutes)
    trainer.callbacks.append(watch)
    # at this rate the NELBO does not fall in every epoch
    options: dict[str, Any] = {"lr": 0.05, "warmup_steps": 0, "final_lr": 1.0}
    module = small_module(small_data(), "averaged" if kind == NOISY else kind, **options)
    if kind == NOISY:
        module.net.register_forward_hook(_noisy)
    train(module, small_data(), trainer, resume)
    return watch


def _noisy(net: torch.nn.Module, _: Any, log_probs: torch.Tensor) -> torch.Tensor:
    """As dropout does, it draws from torch's own generator."""
    return (log_probs + torch.rand(log_probs.shape)).log_softmax(dim=-1) if net.training else log_probs


def content(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_same_weights(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, found[key][name]) for name, value in expected[key].items())


@pytest.mark.parametrize(
    ("accumulated", "kind", "every"),
    [
        (1, "averaged", 1),
        (2, "averaged", 1),
        *((1, kind, 4) for kind in ("pooled", "sampled", NOISY)),
        *(pytest.param(1, kind, 1, marks=pytest.mark.slow) for kind in ("pooled", "sampled")),
    ],
)
def test_checkpoints_within_an_epoch_go_on_bit_for_bit(tmp_path: Path, accumulated: int, kind: str, every: int) -> None:
    changes: dict[str, Any] = {"accumulate_grad_batches": accumulated, "kind": kind}
    fitted(tmp_path / "whole", None, **changes)
    fitted(tmp_path / "often", ALWAYS, **changes)
    whole = content(tmp_path / "whole" / "checkpoints" / LAST)
    saved = sorted((tmp_path / "often").glob("before_*.ckpt"))
    steps = {content(path)["global_step"] for path in saved}
    assert steps == set(range(1, 12 // accumulated))  # gradients of half a step are in no checkpoint
    for number, path in enumerate(saved[::every]):
        if content(path)["global_step"] % (4 // accumulated):  # within an epoch
            folder = tmp_path / f"rest_{number}"
            fitted(folder, None, path, **changes)
            found = content(folder / "checkpoints" / LAST)
            assert_same_weights(found, whole)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_weights_of_any_precision_go_on_bit_for_bit(tmp_path: Path, precision: Any) -> None:
    """A checkpoint of float64 is not taken over into float32."""
    fitted(tmp_path / "whole", ALWAYS, precision=precision)
    whole = content(tmp_path / "whole" / "checkpoints" / LAST)
    fitted(tmp_path / "rest", None, tmp_path / "whole" / "before_6.ckpt", precision=precision)
    assert_same_weights(content(tmp_path / "rest" / "checkpoints" / LAST), whole)


class Rates(Callback):
    """The learning rate at the beginning of each step, as Lightning's monitor of it reads it."""

    def __init__(self) -> None:
        self.found: dict[int, float] = {}

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.found[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]


def test_callbacks_find_the_learning_rate_of_an_uninterrupted_run(tmp_path: Path) -> None:
    found = []
    for before in (None, tmp_path / "step_5.ckpt"):
        trainer = small_trainer(tmp_path, 3)
        trainer.callbacks[-1] = Checkpoints(tmp_path, keep_steps=[5])
        trainer.callbacks.append(rates := Rates())
        train(small_module(small_data(), warmup_steps=8), small_data(), trainer, before)
        found.append(rates.found)
    whole, rest = found
    assert len(set(whole.values())) == len(whole) == 12
    assert rest == {step: rate for step, rate in whole.items() if step >= 5}


@pytest.mark.parametrize(
    ("limits", "first", "second"),
    [
        *(({"max_epochs": 3} | limits, 4, 6) for limits in ({}, {"max_steps": 11}, {"max_steps": 100})),
        ({"max_steps": 11, "max_epochs": -1}, 4, 6),
        ({"val_check_interval": 3}, 3, 7),
        ({"val_check_interval": 2, "max_steps": 11}, 2, 6),
    ],
)
def test_a_run_that_goes_on_twice_counts_nothing_again(
    tmp_path: Path, limits: dict[str, int], first: int, second: int
) -> None:
    """From the end of an epoch, of 4 steps, or after a validation within one, and then from within the next."""
    fitted(tmp_path / "whole", ALWAYS, **limits)
    before = tmp_path / "whole" / f"before_{first}.ckpt"
    for name in ("once", "twice"):
        fitted(tmp_path / name, ALWAYS, before, **limits)
        before = tmp_path / name / f"before_{second}.ckpt"
        for file in (f"checkpoints/{LAST}", "before_9.ckpt"):
            found, expected = (content(tmp_path / run / file) for run in (name, "whole"))
            assert_same_weights(found, expected)
            assert found["loops"]["fit_loop"] == expected["loops"]["fit_loop"]  # what logs call a step, and the epochs


class Stop(Callback):
    """Asks training to end after a step, as early stopping does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


@pytest.mark.parametrize(("stopped", "limits", "end"), [(4, {}, 4), (6, {}, 6), (2, {"min_epochs": 2}, 8)])
def test_training_that_a_callback_has_ended_goes_on_under_other_settings_alone(
    tmp_path: Path, stopped: int, limits: dict[str, int], end: int
) -> None:
    """A kill during the test or the evaluation is followed by the same command: it must find the same network."""

    def of_a_run(name: str, before: Path | None, **changes: Any) -> dict[str, Any]:
        trainer = small_trainer(tmp_path / name, epochs=3, **limits)
        trainer.callbacks[-1] = Checkpoints(tmp_path / name / "checkpoints", ALWAYS)
        trainer.callbacks.insert(0, Stop(stopped))
        trainer.callbacks.append(Watch(tmp_path / name))
        module = small_module(small_data(), **changes)
        train(module, small_data(), trainer, before)
        return {"weights": module.state_dict(), "step": trainer.global_step, "epoch": trainer.current_epoch}

    whole = of_a_run("whole", None)
    assert whole["step"] == end
    last = tmp_path / "whole" / "checkpoints" / LAST
    assert content(last)["progress"] == 1.0  # nothing of this training was interrupted
    for before in (last, *sorted((tmp_path / "whole").glob(f"before_{end - 1}.ckpt"))):
        if content(before)["global_step"] >= stopped:
            rest = of_a_run(before.stem, before)
            assert (rest["step"], rest["epoch"]) == (end, whole["epoch"])
            assert all(torch.equal(value, rest["weights"][name]) for name, value in whole["weights"].items())
    assert of_a_run("other", last, lr=0.01)["step"] > end


def test_checkpoints_of_the_users_get_their_folder(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, epochs=1)
    trainer.callbacks.append(ModelCheckpoint(tmp_path / "own" / "place", save_last=True))
    train(small_module(small_data()), small_data(), trainer)
    assert_same_weights(content(tmp_path / "own" / "place" / LAST), content(tmp_path / "checkpoints" / LAST))


def test_steps_that_grow_with_the_epochs_are_those_of_a_run_that_goes_on_within_one(tmp_path: Path) -> None:
    def of_a_run(name: str, before: Path | None) -> dict[str, Any]:
        trainer = small_trainer(tmp_path / name, epochs=2)
        trainer.callbacks[-1] = Checkpoints(tmp_path / name / "checkpoints", ALWAYS)
        trainer.callbacks.insert(0, GradientAccumulationScheduler({0: 1, 1: 2}))
        trainer.callbacks.append(Watch(tmp_path / name))
        train(small_module(small_data()), small_data(), trainer, before)
        return content(tmp_path / name / "checkpoints" / LAST)

    whole = of_a_run("whole", None)
    rest = of_a_run("rest", tmp_path / "whole" / "before_5.ckpt")
    assert whole["global_step"] == rest["global_step"] == 6
    assert_same_weights(rest, whole)


def test_the_best_is_that_of_a_validation_before_a_run_went_on(tmp_path: Path) -> None:
    fitted(tmp_path / "whole", ALWAYS, val_check_interval=3, max_epochs=1)
    fitted(tmp_path / "rest", ALWAYS, tmp_path / "whole" / "before_3.ckpt", val_check_interval=3, max_epochs=1)
    assert content(tmp_path / "rest" / "checkpoints" / BEST)["global_step"] == 4


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps, with what it had saved before others."""
    folder = tmp_path_factory.mktemp("first")
    fitted(folder, None)
    return folder


HOOKS = ("setup", "on_fit_start", "on_train_start", "on_train_end", "on_fit_end", "teardown")


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SIGTERMException])
@pytest.mark.parametrize("hook", HOOKS)
def test_an_interrupt_outside_training_leaves_the_checkpoint_as_it_is(
    first: Path, tmp_path: Path, hook: str, ending: type[BaseException]
) -> None:
    """Before training a checkpoint is taken over in parts; after it the weights of the module are the averaged ones."""
    shutil.copytree(first, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / LAST
    resumed = None if hook in HOOKS[3:] else tmp_path / "run" / "before_8.ckpt"
    if resumed is not None:
        shutil.copy(resumed, last)
    before = content(first / "checkpoints" / LAST if resumed is None else resumed)

    class Interrupt(Callback):
        def __getattribute__(self, name: str) -> Any:
            if name != hook:
                return super().__getattribute__(name)

            def raised(*_: Any, **__: Any) -> None:
                if trainer.state.fn == "fit":
                    raise ending

            return raised

    trainer = small_trainer(tmp_path / "run", epochs=3)
    # the callback that saves is the last: before training others are asked before it, after training after it
    trainer.callbacks[-1] = Checkpoints(tmp_path / "run" / "checkpoints", None)
    trainer.callbacks.insert(len(trainer.callbacks) - 1 if resumed else len(trainer.callbacks), Interrupt())
    with pytest.raises((SystemExit, SIGTERMException)):
        train(small_module(small_data(), lr=0.05, warmup_steps=0, final_lr=1.0), small_data(), trainer, resumed)
    found = content(last)
    assert found["global_step"] == before["global_step"] and found["epoch"] == before["epoch"]
    assert_same_weights(found, before)
    assert str(found["optimizer_states"]) == str(before["optimizer_states"])


def test_without_minutes_there_are_checkpoints_at_the_ends_of_epochs_alone(tmp_path: Path) -> None:
    fitted(tmp_path, None)
    assert {content(path)["global_step"] for path in tmp_path.glob("before_*.ckpt")} == {4, 8}
    with pytest.raises(UserError, match="save_minutes = 0"):
        Checkpoints(tmp_path, 0)


def test_the_best_is_that_of_the_lowest_validation_nelbo(tmp_path: Path) -> None:
    watch = fitted(tmp_path / "run", None)
    step = min(watch.nelbos)[1]
    best, last = (content(tmp_path / "run" / "checkpoints" / name) for name in (BEST, LAST))
    assert len(watch.nelbos) == 3 and best["global_step"] == step and last["global_step"] == 12
    # gone on with in its own folder, the best of what was before stays the best; in another it begins anew
    saved = content(tmp_path / "run" / "before_4.ckpt")
    key = next(key for key in saved["callbacks"] if key.startswith("Checkpoints"))
    saved["callbacks"][key]["lowest"] = -1.0  # no NELBO is below
    torch.save(saved, tmp_path / "first.ckpt")
    for name in ("run", "other"):
        fitted(tmp_path / name, None, tmp_path / "first.ckpt")
    own, other = (content(tmp_path / name / "checkpoints" / BEST)["global_step"] for name in ("run", "other"))
    assert own == step and other == min(watch.nelbos[1:])[1]


# metrics.csv


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged(folder: Path, kept: int, steps: range, **more: float) -> None:
    log = MetricsLog(folder, kept)
    for step in steps:
        log.log_metrics({"a": float(step), **more}, step)
    log.save()


def test_a_run_that_goes_on_keeps_the_lines_that_are_behind_it(tmp_path: Path) -> None:
    logged(tmp_path, 0, range(5))
    logged(tmp_path, 3, range(3, 6), b=1.0)  # with a column more
    assert [(row["step"], row["a"], row["b"]) for row in rows(tmp_path)] == [
        *((str(k), f"{k}.0", "") for k in range(3)),
        *((str(k), f"{k}.0", "1.0") for k in range(3, 6)),
    ]
    logged(tmp_path, 0, range(1))  # a new run
    assert len(rows(tmp_path)) == 1


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    logged(tmp_path, 0, range(4), b=2.0)
    path = tmp_path / "metrics.csv"
    whole = path.read_text()
    path.write_text(whole[: whole.rindex(",")])
    logged(tmp_path, 9, range(3, 4), b=2.0)
    assert path.read_text() == whole
