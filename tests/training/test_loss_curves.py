"""Two processes train as one does on the same batches, whether they have copies of the weights or shares of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import small_module, small_target, small_trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mdlm_cfg.training.data import TableData
from mdlm_cfg.training.runs import CHECKPOINT, read_checkpoint

TESTS = Path(__file__).parent.parent
EPOCHS = 3
BATCH = 64
SCRIPT = f"""
import sys
from pathlib import Path

sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / "training")!r}]
from test_loss_curves import EPOCHS, CHECKPOINT, curve

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    curve(folder / "ddp", EPOCHS, devices=2, strategy="ddp")
    curve(folder / "half", EPOCHS - 1, devices=2, strategy="ddp")
    curve(folder / "rest", EPOCHS, folder / "half" / CHECKPOINT, devices=2, strategy="ddp")
"""


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


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.slow
def test_two_processes_have_the_losses_and_the_weights_of_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    curve(tmp_path / "one", EPOCHS)
    one = read(tmp_path / "one")
    weights = read_checkpoint(tmp_path / "one" / CHECKPOINT)
    ddp, half, rest = (read(tmp_path / name) for name in ("ddp", "half", "rest"))
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
