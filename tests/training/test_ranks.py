"""Several processes train, test and draw what one does: every test point once, the same batches, the same samples."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import small_data, small_module, small_target, small_trainer
from helpers import random_target, samples_of
from hypothesis import given, strategies as st
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from torch import Tensor

from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.studies import draws as module
from mdlm_cfg.studies.draws import Draw, draws_of
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.cache import Cache, no_cache
from mdlm_cfg.support.signals import interrupts_alike
from mdlm_cfg.training.checkpoints import CHECKPOINT, read_checkpoint
from mdlm_cfg.training.data import TableData
from mdlm_cfg.training.data.base import num_shared, shared_batches
from mdlm_cfg.training.fit import train
from mdlm_cfg.training.predicting import share_work

TESTS = Path(__file__).parent.parent
TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp"}
SCRIPT = f"""
import sys
from pathlib import Path

sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / "training")!r}]
import test_ranks

if __name__ == "__main__":
    getattr(test_ranks, sys.argv[1])(Path(sys.argv[2]))
"""


def in_two_processes(name: str, folder: Path) -> None:
    """Run a function of this file, which starts the other process itself."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


def found_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


# testing


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 5))
def test_every_sample_is_in_one_batch_of_one_rank(num: int, batch_size: int, world_size: int) -> None:
    x = torch.arange(num)[:, None]
    classes = torch.arange(num)
    ranks = [list(shared_batches(x, classes, batch_size, rank, world_size)) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {num_shared(num, batch_size, world_size)}
    # in turns they are the batches of one rank
    turns = [batch for step in zip(*ranks) for batch in step if len(batch[0])]
    alone = list(shared_batches(x, classes, batch_size, 0, 1))
    assert len(turns) == len(alone) and torch.equal(torch.cat([x for x, _ in turns]).flatten(), classes)
    assert all(torch.equal(a, b) for one, other in zip(turns, alone) for a, b in zip(one, other))


def fitted_and_tested(folder: Path) -> None:
    """What both processes do, saving a checkpoint after every step."""
    trainer = small_trainer(folder, epochs=2, **TWO)
    trainer.callbacks[-1].minutes = 1e-9
    data = few_examples()
    module = small_module(data)
    trainer.fit(module, datamodule=data)
    fitted = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    tested = trainer.test(module, datamodule=data, verbose=False)[0]
    if trainer.is_global_zero:
        (folder / "found.json").write_text(json.dumps(fitted | tested))


def few_examples() -> TableData:
    """So few that one of two processes has no batch of them for validation."""
    return small_data(num_test=99, num_val=20, eval_batch_size=20, steps_per_epoch=40)


@pytest.mark.slow
def test_two_processes_find_the_numbers_of_one(tmp_path: Path) -> None:
    in_two_processes("fitted_and_tested", tmp_path)
    found = found_in(tmp_path)
    data = few_examples()
    module = small_module(data)
    module.load_state_dict(torch.load(tmp_path / CHECKPOINT, weights_only=True)["state_dict"])
    trainer = small_trainer(tmp_path / "alone")
    alone = trainer.test(module, datamodule=data, verbose=False)[0]
    alone |= trainer.validate(module, datamodule=data, verbose=False)[0]
    for name in ("nelbo", "nelbo_data_se", "nelbo_mc_se", "nelbo_null", "exact_nelbo"):
        assert found[f"test/{name}"] == pytest.approx(alone[f"test/{name}"], rel=1e-6), name
    assert found["val/nelbo"] == pytest.approx(alone["val/nelbo"], rel=1e-6)


# training

EPOCHS = 3
BATCH = 64


class Split(TableData):
    """Every process has its part of the batches that one would have."""

    def _epoch(self, epoch: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
        for x, classes in super()._epoch(epoch, 0, 1):
            yield x[rows], classes[rows]


class Losses(Callback):
    """The loss of every step, of all processes."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.found.append(float(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")))


def curve(folder: Path, epochs: int, before: Path | None = None, **changes: Any) -> None:
    """Train on the exact objective, from a checkpoint on if there is one, and write what was found."""
    losses = Losses()
    trainer = small_trainer(folder, epochs, gradient_clip_val=1.0, **changes)
    trainer.callbacks.append(losses)
    data = Split(small_target(), "small", batch_size=BATCH, steps_per_epoch=4, num_val=32, num_test=50)
    data.setup("fit")
    module = small_module(data, depth=2, final_lr=1.0)  # a learning rate that does not depend on the number of epochs
    trainer.fit(module, datamodule=data, ckpt_path=before, weights_only=True)
    tested = trainer.test(module, datamodule=data, verbose=False)[0]
    if trainer.is_global_zero:
        (folder / "found.json").write_text(json.dumps({"losses": losses.found, **tested}))


def curves(folder: Path) -> None:
    """What both processes do: a whole run, and one that is gone on with."""
    curve(folder / "ddp", EPOCHS, **TWO)
    curve(folder / "half", EPOCHS - 1, **TWO)
    curve(folder / "rest", EPOCHS, folder / "half" / CHECKPOINT, **TWO)


@pytest.mark.slow
def test_two_processes_have_the_losses_and_the_weights_of_one(tmp_path: Path) -> None:
    in_two_processes("curves", tmp_path)
    curve(tmp_path / "one", EPOCHS)
    one = found_in(tmp_path / "one")
    weights = read_checkpoint(tmp_path / "one" / CHECKPOINT)
    ddp, half, rest = (found_in(tmp_path / name) for name in ("ddp", "half", "rest"))
    for losses in (ddp["losses"], half["losses"] + rest["losses"]):
        assert len(losses) == len(one["losses"]) == 4 * EPOCHS
        assert losses[:4] == pytest.approx(one["losses"][:4], rel=1e-6)
        assert losses == pytest.approx(one["losses"], rel=1e-5)
    for name, found in (("ddp", ddp), ("rest", rest)):
        checkpoint = read_checkpoint(tmp_path / name / CHECKPOINT)  # as of any run: plain, whole, with the average
        for part in ("state_dict", "current_model_state"):
            for key, weight in weights[part].items():
                torch.testing.assert_close(checkpoint[part][key], weight, rtol=1e-3, atol=1e-4, msg=f"{name} {key}")
        averaged, raw = (checkpoint[part]["net.positions"] for part in ("state_dict", "current_model_state"))
        assert not torch.equal(averaged, raw)
        for key in ("test/nelbo", "test/nelbo_null", "test/exact_nelbo", "test/tv_w4"):
            assert found[key] == pytest.approx(one[key], rel=1e-4), (name, key)


# drawing

PLAN = Plan((Guidance(0.0), Guidance(2.0)), Sampler("tau_leaping", 3), num_samples=25, seed=3)


def network() -> NetDenoiser:
    torch.manual_seed(0)
    return NetDenoiser(GridTransformer(2, (2, 2), 2, width=16, depth=1, num_heads=2))


def all_draws(denoiser: NetDenoiser) -> list[list[Draw]]:
    """25 samples in chunks of 10, of two classes at two strengths, by a network and an exact denoiser."""
    module.CHUNK = 10
    pairs = [(g, k) for g in PLAN.guidances for k in (0, 1)]
    exact = random_target(2, 4).denoiser()
    return [
        draws_of(PLAN, used, g, k, who) for g, k in pairs for who, used in (("exact", exact), ("learned", denoiser))
    ]


def shared(folder: Path, **changes: Any) -> None:
    """What every process does."""
    denoiser = network()
    pieces = [draw for draws in all_draws(denoiser) for draw in draws]
    trainer = small_trainer(folder, **changes)
    mine = Cache(folder / ("kept" if trainer.is_global_zero else "of another process"), "about")
    share_work(trainer, pieces, denoiser.net, mine)


def shared_by_two(folder: Path) -> None:
    shared(folder, **TWO)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", module.CHUNK)  # put back after `all_draws`


def never() -> torch.Tensor:
    raise AssertionError("it was to be there")


def check(folder: Path) -> None:
    """All pieces are there, each once, and the samples are those of one process that keeps nothing."""
    keep = Cache(folder / "kept", "about")
    sets = all_draws(network())
    assert len(keep) == sum(len(draws) for draws in sets) == 24
    for draws in sets:
        assert [draw.num_samples for draw in draws] == [10, 10, 5]
        assert torch.equal(torch.cat([keep(draw.key, never) for draw in draws]), samples_of(draws, no_cache))
    assert not (folder / "of another process").exists()


def test_one_process_makes_every_piece_once(small_chunks: None, tmp_path: Path) -> None:
    shared(tmp_path)
    check(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    shared(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == before


@pytest.mark.slow
def test_two_processes_make_the_pieces_of_one(small_chunks: None, tmp_path: Path) -> None:
    in_two_processes("shared_by_two", tmp_path)
    check(tmp_path)


def test_an_interrupt_before_drawing_leaves_the_next_one_heard(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def setup(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    trainer = small_trainer(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    trainer.callbacks.append(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        share_work(trainer, [], None, Cache(tmp_path, "about"))
    assert signal.getsignal(signal.SIGINT) is before is not signal.SIG_IGN


@pytest.mark.parametrize("stage", ["on_train_start", "on_test_start", "on_predict_start"])
def test_sigterm_sends_the_other_processes_no_message(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would wait for one another, each for another message."""
    sent: list[int] = []
    monkeypatch.setattr(_SignalConnector, "_sigterm_notifier_fn", lambda _, number, __: sent.append(number))

    class Ended(Callback):
        pass

    def end(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    setattr(Ended, stage, end)
    trainer = small_trainer(tmp_path)
    trainer.callbacks.insert(0, Ended())
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises((KeyboardInterrupt, SystemExit)), interrupts_alike():
        if stage == "on_predict_start":
            pieces = draws_of(PLAN, random_target(2, 4).denoiser(), Guidance(0.0), 0)
            share_work(trainer, pieces, None, Cache(tmp_path / "kept", "about"))
        else:
            train(small_module(data := small_data()), data, trainer)
    assert sent == [] and trainer.interrupted and signal.getsignal(signal.SIGTERM) == before


def test_chunks_are_independent_and_the_first_is_what_few_samples_are(small_chunks: None) -> None:
    draws = all_draws(network())[0]
    parts = [draw.make() for draw in draws]
    assert not torch.equal(parts[0], parts[1])
    generator = PLAN.generator("samples", PLAN.guidances[0], 0, "exact")
    few = PLAN.sampler.draw(draws[0].denoiser, PLAN.guidances[0], 0, 10, generator)
    assert torch.equal(parts[0].long(), few)


def test_values_that_do_not_fit_a_byte_are_kept_whole() -> None:
    target = random_target(300, 1)
    (draw,) = draws_of(PLAN, target.denoiser(), Guidance(0.0), 0)
    assert draw.make().dtype == torch.int64
