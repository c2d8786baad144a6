"""Checkpoints in which any one thing was changed: judged, gone on with, or refused in a sentence with nothing left."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TOY, run
from forks import complaint

from mdlm_cfg.support.checked_io import load, store
from mdlm_cfg.training.checkpoints import newest_run

pytestmark = pytest.mark.slow
GONE = object()
WRONG = (None, -1, 1e30, math.nan, "x", [], {}, True, torch.zeros(3), GONE)
NUMBER = 25  # of changes in each part
PARTS = ("", "hyper_parameters", "loops", "state_dict", "current_model_state", "callbacks", "optimizer_states")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("runs")
    assert run("train", *TOY, "logger=csv", "evaluate=false", f"runs={folder}") == 0
    return dict(load(newest_run(folder)))


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every way into nested containers."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*above, key)
            yield from places(item, (*above, key))


def changed(checkpoint: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    found = copy.deepcopy(checkpoint)
    inner: Any = found
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return found


@pytest.mark.parametrize("part", PARTS)
def test_one_change(checkpoint: dict[str, Any], part: str, tmp_path: Path) -> None:
    inside = [(part, *place) for place in places(checkpoint[part])] if part else [(key,) for key in checkpoint]
    numbers = random.Random(part)
    wrong = []
    path = tmp_path / "last.ckpt"
    commands = {
        "eval": (f"ckpt_path={path}", "num_samples=20", "w=[0]", "out=out"),
        "train": (*TOY, "logger=csv", "evaluate=false", f"ckpt_path={path}", "trainer.max_epochs=3"),
    }
    for _ in range(NUMBER):
        place = numbers.choice(inside)
        value = numbers.choice(WRONG)
        store(changed(checkpoint, place, value), path)
        for command, arguments in commands.items():
            if (said := complaint(command, *arguments, folder=tmp_path / "here")) is not None:
                wrong.append(f"{command} {place} = {value!r}: {said}")
    assert wrong == [], "\n".join(wrong)
