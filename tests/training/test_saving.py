"""Checkpoints: the last, the best and those between, and the log that goes with them."""

from __future__ import annotations

import codecs
import csv
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import small_data, small_module, small_trainer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.fit import train
from mdlm_cfg.training.metrics import MetricsLog
from mdlm_cfg.training.saving import BEST, LAST, Checkpoints, Interrupts

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


STEEP = {"lr": 0.05, "warmup_steps": 0, "final_lr": 1.0}  # the NELBO does not fall in every epoch


def fitted(
    folder: Path,
    minutes: float | None,
    resume: Path | None = None,
    kind: str = "averaged",
    *,
    own: Sequence[Callback] = (),
    last: Sequence[Callback] = (),
    options: Mapping[str, Any] = STEEP,
    **changes: Any,
) -> Trainer:
    """A training of three epochs of four steps. The callback that saves comes after those of `own`, before `last`."""
    trainer = small_trainer(folder, **({"max_epochs": 3} | changes))
    trainer.callbacks = [*own, *trainer.callbacks[:-1], Checkpoints(folder / "checkpoints", minutes), *last]
    trainer.callbacks.append(Watch(folder))
    module = small_module(small_data(), "averaged" if kind == NOISY else kind, **options)
    if kind == NOISY:
        module.net.register_forward_hook(_noisy)
    train(module, small_data(), trainer, resume)
    return trainer


def _noisy(net: torch.nn.Module, _: Any, log_probs: torch.Tensor) -> torch.Tensor:
    """As dropout does, it draws from torch's own generator."""
    return (log_probs + torch.rand(log_probs.shape)).log_softmax(dim=-1) if net.training else log_probs


def content(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_same_weights(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, found[key][name]) for name, value in expected[key].items())


WITHIN = (1, 2, 3, 5, 6, 7, 9, 10, 11)  # steps that do not end an epoch
EACH_WAY: dict[str, tuple[dict[str, Any], int, tuple[int, ...]]] = {  # settings, steps in all, where it goes on
    "gradients of two batches": ({"accumulate_grad_batches": 2}, 6, (1, 5)),
    "more batches later": ({"own": [GradientAccumulationScheduler({0: 1, 1: 2})], "max_epochs": 2}, 6, (5,)),
    **{kind: ({"kind": kind}, 12, (1, 7)) for kind in ("averaged", "pooled", "sampled", NOISY)},
    **{precision: ({"precision": precision}, 12, (6,)) for precision in ("64-true", "bf16-true", "bf16-mixed")},
}
EVERYWHERE = {f"{kind}, everywhere": ({"kind": kind}, 12, WITHIN) for kind in ("averaged", "pooled", "sampled")}


@pytest.mark.parametrize(
    ("changes", "end", "steps"),
    [
        *(pytest.param(*way, id=name) for name, way in EACH_WAY.items()),
        *(pytest.param(*way, id=name, marks=pytest.mark.slow) for name, way in EVERYWHERE.items()),
    ],
)
def test_checkpoints_within_an_epoch_go_on_bit_for_bit(
    tmp_path: Path, changes: dict[str, Any], end: int, steps: tuple[int, ...]
) -> None:
    fitted(tmp_path / "whole", None, **changes)
    fitted(tmp_path / "often", ALWAYS, **changes)
    whole = content(tmp_path / "whole" / "checkpoints" / LAST)
    saved = {content(path)["global_step"]: path for path in (tmp_path / "often").glob("before_*.ckpt")}
    assert saved.keys() == set(range(1, end))  # gradients of half a step are in no checkpoint
    for step in steps:
        fitted(tmp_path / f"from_{step}", None, saved[step], **changes)
        found = content(tmp_path / f"from_{step}" / "checkpoints" / LAST)
        assert found["global_step"] == end
        assert_same_weights(found, whole)


class Rates(Callback):
    """The learning rate at the beginning of each step, as Lightning's monitor of it reads it."""

    def __init__(self) -> None:
        self.found: dict[int, float] = {}

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.found[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]


def test_callbacks_find_the_learning_rate_of_an_uninterrupted_run(tmp_path: Path) -> None:
    found = []
    for name, before in (("whole", None), ("rest", tmp_path / "whole" / "before_5.ckpt")):
        rates = Rates()
        fitted(tmp_path / name, ALWAYS, before, own=[rates], options={"warmup_steps": 8})
        found.append(rates.found)
    whole, rest = found
    assert len(set(whole.values())) == len(whole) == 12
    assert rest == {step: rate for step, rate in whole.items() if step >= 5}


@pytest.mark.parametrize(
    ("limits", "first", "second"),
    [
        *(({"max_epochs": 3} | limits, 4, 6) for limits in ({}, {"max_steps": 11})),
        pytest.param({"max_epochs": 3, "max_steps": 100}, 4, 6, marks=pytest.mark.slow),
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

    def of_a_run(name: str, before: Path | None, **options: float) -> dict[str, Any]:
        trainer = fitted(tmp_path / name, ALWAYS, before, own=[Stop(stopped)], options=options, **limits)
        weights = trainer.lightning_module.state_dict()
        return {"weights": weights, "step": trainer.global_step, "epoch": trainer.current_epoch}

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

            def raised(trainer: Any, *_: Any, **__: Any) -> None:
                if trainer.state.fn == "fit":
                    raise ending

            return raised

    # the callback that saves: before training others are asked before it, after training after it
    place = "own" if resumed else "last"
    with pytest.raises((SystemExit, SIGTERMException)):
        fitted(tmp_path / "run", None, resumed, **{place: [Interrupt()]})
    found = content(last)
    assert found["global_step"] == before["global_step"] and found["epoch"] == before["epoch"]
    assert_same_weights(found, before)
    assert str(found["optimizer_states"]) == str(before["optimizer_states"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("is_closed", [False, True])
def test_an_interrupt_waits_for_its_moment_when_nobody_reads(
    number: signal.Signals, is_closed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader may have gone; of a stream that was closed the number may be that of any other file.

    A shell whose terminal is closed sends the signal, and the system another one: that is a single interrupt.
    """
    if is_closed:
        monkeypatch.setattr(sys, "__stderr__", None)
        other = os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY)
    else:
        reader, other = os.pipe()
        os.close(reader)
    before = signal.signal(number, lambda *_: None)
    kept = os.dup(2)
    os.dup2(other, 2)
    interrupts = Interrupts()
    try:
        interrupts.watch()
        signal.raise_signal(number)
        if number != signal.SIGINT:
            signal.raise_signal(number)
    finally:
        interrupts.release()
        os.dup2(kept, 2)
        signal.signal(number, before)
        for file in (kept, other):
            os.close(file)
    assert interrupts.pending and not interrupts.abandoned
    assert not is_closed or (tmp_path / "other").read_bytes() == b""


def test_without_minutes_there_are_checkpoints_at_the_ends_of_epochs_alone(tmp_path: Path) -> None:
    fitted(tmp_path, None)
    assert {content(path)["global_step"] for path in tmp_path.glob("before_*.ckpt")} == {4, 8}
    with pytest.raises(UserError, match="save_minutes = 0"):
        Checkpoints(tmp_path, 0)


def test_the_best_is_that_of_the_lowest_validation_nelbo(tmp_path: Path) -> None:
    (watch,) = (one for one in fitted(tmp_path / "run", None).callbacks if isinstance(one, Watch))
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


class Counting(Callback):
    """Has the optimiser keep a number that belongs to no parameter."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        state = trainer.optimizers[0].state
        state["count"] = state.get("count", 0) + 1


def test_what_an_optimizer_keeps_of_all_parameters_is_there_again(tmp_path: Path) -> None:
    fitted(tmp_path, None, own=[Counting()], max_epochs=1)
    trainer = fitted(tmp_path, None, tmp_path / "checkpoints" / LAST, own=[Counting()], max_epochs=2)
    assert trainer.optimizers[0].state["count"] == trainer.global_step == 8


def test_a_run_that_goes_on_keeps_the_lines_that_are_behind_it(tmp_path: Path) -> None:
    logged(tmp_path, 0, range(5))
    path = tmp_path / "metrics.csv"
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())  # an editor has saved it
    logged(tmp_path, 3, range(3, 6), b=1.0)  # with a column more
    assert rows(tmp_path)[0].keys() == {"a", "b", "step"}
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
