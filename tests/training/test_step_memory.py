"""A step that cannot fit into memory is refused before any work, with a batch size that fits."""

from __future__ import annotations

import re

import pytest
import torch

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training import step_memory
from mdlm_cfg.training.data import ExampleData
from mdlm_cfg.training.data.examples import Examples
from mdlm_cfg.training.objectives import Averaged, Objective, Pooled, Sampled
from mdlm_cfg.training.step_memory import check_step_memory


def data(values: int, dims: int, **loading: int) -> ExampleData:
    x = torch.zeros(4, dims, dtype=torch.int64)
    x[0, 0] = values - 1
    module = ExampleData(lambda: Examples(x, torch.tensor([0, 0, 1, 1]), x, torch.tensor([0, 0, 1, 1])), "x", **loading)
    module.setup()
    return module


@pytest.mark.parametrize(
    ("loading", "key"), [({}, "eval_batch_size"), ({"batch_size": 250, "eval_batch_size": 1}, "batch_size")]
)
def test_a_large_vocabulary_is_refused_with_a_batch_size_that_fits(loading: dict[str, int], key: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{key}=\d+") as error:
        check_step_memory(data(50_000, 32, **loading), Sampled(), "cpu")
    proposed = {name: int(size) for name, size in re.findall(r"data\.(\w+)=(\d+)", str(error.value))}
    assert 16 <= proposed[key] < 250
    check_step_memory(data(50_000, 32, **(loading | proposed)), Sampled(), "cpu")


def test_ordinary_data_pass_and_the_averaged_objective_is_bounded_elsewhere() -> None:
    check_step_memory(data(27, 128), Sampled(), "cpu")
    check_step_memory(data(256, 784), Sampled(), "cpu")
    check_step_memory(data(2, 9, batch_size=2**24, eval_batch_size=4096), Averaged(), "cpu")


@pytest.mark.parametrize(
    ("objective", "rows"), [(Averaged(), 0), (Pooled(rows=512), 1024), (Sampled(), 2000), (Sampled(paired=False), 1000)]
)
def test_objectives_say_how_many_rows_they_ask(objective: Objective, rows: int) -> None:
    assert objective.num_rows(1000) == rows


def test_little_memory_refuses_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_memory, "memory_allowed", lambda: 2**28)
    with pytest.raises(UserError, match=r"data\.batch_size=\d+ data\.eval_batch_size="):
        check_step_memory(data(256, 784), Sampled(), "cpu")
