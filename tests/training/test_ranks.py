"""Several processes count every test point once, with the masks that it has on one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness import small_data, small_module, small_trainer
from hypothesis import given
from hypothesis import strategies as st

from mdlm_cfg.training.data.base import num_shared, shared_batches
from mdlm_cfg.training.runs import CHECKPOINT

TESTS = Path(__file__).parent.parent
DATA = {"num_test": 99, "num_val": 20, "eval_batch_size": 20, "steps_per_epoch": 40}
SCRIPT = f"""
import json, sys
from pathlib import Path

sys.path.insert(0, {str(TESTS)!r})
from harness import small_data, small_module, small_trainer

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    trainer = small_trainer(folder, epochs=2, devices=2, strategy="ddp")
    trainer.callbacks[-1].minutes = 1e-9
    data = small_data(**{DATA!r})
    module = small_module(data)
    trainer.fit(module, datamodule=data)
    fitted = {{name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}}
    tested = trainer.test(module, datamodule=data, verbose=False)[0]
    if trainer.is_global_zero:
        (folder / "found.json").write_text(json.dumps(fitted | tested))
"""


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


@pytest.mark.slow
def test_two_processes_find_the_numbers_of_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    data = small_data(**DATA)
    module = small_module(data)
    module.load_state_dict(torch.load(tmp_path / CHECKPOINT, weights_only=True)["state_dict"])
    trainer = small_trainer(tmp_path / "alone")
    alone = (
        trainer.test(module, datamodule=data, verbose=False)[0]
        | trainer.validate(module, datamodule=data, verbose=False)[0]
    )
    for name in ("nelbo", "nelbo_data_se", "nelbo_mc_se", "nelbo_null", "exact_nelbo"):
        assert found[f"test/{name}"] == pytest.approx(alone[f"test/{name}"], rel=1e-6), name
    # one batch on two ranks: one of them has none
    assert found["val/nelbo"] == pytest.approx(alone["val/nelbo"], rel=1e-6)
