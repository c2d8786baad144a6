"""Any key of a command, given a wrong type or an absurd value: it is done, or refused in a sentence, nothing left."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, TOY
from forks import complaint, ended_at
from idx_files import write_images
from test_configs import composed

from mdlm_cfg.support.schema import plain

pytestmark = pytest.mark.slow
VALUES = ("0", "-1", "1e30", "nan", "inf", "''", "null", "abc", "[]", "{}", "1.5", "true")
ENDLESS = ("trainer.max_epochs=-1", "trainer.max_epochs=null")  # Lightning's words for no end

UNJUDGED = ("logger=csv", "evaluate=false")
TRAIN = (*TOY, *UNJUDGED)
FEW = ("data.steps_per_epoch=2", "data.num_val=20", "data.num_test=20", "data.batch_size=16")
IMAGES = (*TINY, *UNJUDGED, "data=idx", "data.path=IMAGES", "data.num_val=10", "trainer.limit_train_batches=2")
FITTED = (*TINY, *UNJUDGED, *FEW, "data.dataset=IMAGES", "data.root=ROOT")
EXACT = ("denoiser=exact", "num_samples=20", "w=[0,1]", "data=toy_1d_overlap")
ENGLISH = ("denoiser=exact", "num_samples=20", "w=[0,1]", "data=hmm_dialects", "data.target.num_dims=16")
LEAST = ("study.targets=[toy_1d_overlap]", "study.calls=[1]")
# command, arguments, and the keys that are tried: those that begin with one of these
CASES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "plan": ("eval", EXACT, ("",)),
    "run": (
        "train",
        TRAIN,
        ("seed", "threads", "batch_size", "ckpt_path", "name", "evaluate", "num_draws", "max_time"),
    ),
    "training": ("train", TRAIN, ("warmup_steps", "final_lr", "ema_decay", "compile", "save_minutes", "optimizer.")),
    "toy": ("train", TRAIN, ("data.", "net.", "objective.")),
    "trainer": ("train", TRAIN, ("trainer.",)),
    "loggers": ("train", (*TRAIN[:-2], "evaluate=false", "logger=wandb"), ("logger.",)),
    "pooled": ("train", (*TRAIN, "objective=pooled"), ("objective.rows",)),
    "muon": ("train", (*TRAIN, "optimizer=muon"), ("optimizer.",)),
    "images": ("train", (*IMAGES, "experiment=mnist"), ("data.", "net.", "objective.")),
    "fitted": ("train", (*FITTED, "data=bernoulli_mnist", "data.iterations=2", "data.num_components=2"), ("data.",)),
    "tiny": ("train", (*FITTED, "data=tiny_mnist_3x3"), ("data.",)),
    "motif": ("train", (*TINY, *UNJUDGED, *FEW, "data=hmm_motif"), ("data.target.", "net.")),
    "sequences": ("eval", (*ENGLISH, "study=sequences"), ("data.target.", "study.")),
    "benchmark": (
        "eval",
        (*EXACT, "study=benchmark", *LEAST),
        ("study.",),
    ),
    **{
        study: ("eval", (*EXACT, f"study={study}"), ("study.",))
        for study in ("policies", "correction", "correction_moves", "departure", "best_schedule", "likelihood")
    },
}


def keys_of(settings: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from keys_of(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


@pytest.mark.parametrize("case", CASES)
def test_nonsense_for_any_key(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    write_images(tmp_path / "images", 60, 30)
    command, given, tried = CASES[case]
    given = tuple(item.replace("IMAGES", f"{tmp_path / 'images'}").replace("ROOT", f"{tmp_path}") for item in given)
    keys = [key for key in keys_of(plain(composed(*given, name=command))) if key.startswith(tried)]
    assert keys
    wrong = []
    for item in (f"{key}={value}" for key in keys for value in VALUES):
        if item in ENDLESS:
            monkeypatch.chdir(tmp_path)
            assert ended_at(10, signal.SIGKILL, command, *given, item, log=tmp_path / "log") == -signal.SIGKILL
        elif (said := complaint(command, *given, item, folder=tmp_path / "here")) is not None:
            wrong.append(f"{item}: {said}")
    assert wrong == [], "\n".join(wrong)
