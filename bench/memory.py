"""Whether memory stays flat over laws, training and a sweep in one process.

python -m bench.memory [laws] [steps] [jobs] [hour] [KEY=VALUE ...]: the named parts, or the first three, which take
minutes; settings apply to the training steps.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from unittest.mock import patch

import numpy as np
import psutil
import torch

from mdlm_cfg import Guidance, terminal_law
from mdlm_cfg.app import cli
from mdlm_cfg.support.machine import keep_freed_memory
from mdlm_cfg.targets.toys import toy_2d_overlap
from mdlm_cfg.training.module import MaskedDiffusion

LAWS = 10_000
STEPS = 100
JOBS = 6
QUIET = ("logger=csv", "evaluate=false", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu")
MNIST = (*QUIET, "experiment=mnist", f"trainer.max_steps={STEPS}", "trainer.limit_val_batches=1", "num_draws=1")
HOUR = (*QUIET, "experiment=mnist", "trainer.max_time=00:01:00:00", "trainer.max_epochs=-1")
SWEEP = ("-m", *QUIET, "trainer.max_epochs=1", f"seed={','.join(map(str, range(JOBS)))}")


def resident() -> float:
    """The resident memory of this process in MiB."""
    return psutil.Process().memory_info().rss / 2**20


def slope(sizes: Sequence[float]) -> tuple[float, float]:
    """MiB per unit of work and its standard error, by least squares over the second half (the first fills caches)."""
    y = np.array(sizes[len(sizes) // 2 :])
    x = np.arange(len(y)) - (len(y) - 1) / 2
    rate = float(x @ y / (x @ x))
    error = float(np.sqrt(((y - y.mean() - rate * x) ** 2).sum() / max(len(y) - 2, 1) / (x @ x)))
    return rate, error


def laws() -> list[float]:
    """After every law of the default toy, each at another strength."""
    target = toy_2d_overlap()
    sizes = []
    for k in range(LAWS):
        terminal_law(target.denoiser(), Guidance(k / LAWS * 8), k % 2)
        sizes.append(resident())
    return sizes


def steps(command: Sequence[str]) -> list[float]:
    """At every step of a training run."""
    begin = MaskedDiffusion.on_train_batch_start
    sizes = []

    def watched(self: MaskedDiffusion, batch: object, batch_idx: int) -> None:
        sizes.append(resident())
        begin(self, batch, batch_idx)

    with patch.object(MaskedDiffusion, "on_train_batch_start", watched):
        _command(*command)
    return sizes


def jobs() -> list[float]:
    """After every job of a sweep of the default toy."""
    finish = MaskedDiffusion.on_test_epoch_end
    sizes = []

    def watched(self: MaskedDiffusion) -> None:
        finish(self)
        sizes.append(resident())

    with patch.object(MaskedDiffusion, "on_test_epoch_end", watched):
        _command(*SWEEP)
    return sizes


def _command(*arguments: str) -> None:
    with tempfile.TemporaryDirectory() as runs:
        sys.argv = ["train.py", *arguments, f"runs={runs}"]
        cli.train()


def main(arguments: Sequence[str]) -> None:
    """Print one line per part."""
    settings = [one for one in arguments if "=" in one]
    parts: dict[str, tuple[str, Callable[[], list[float]]]] = {
        "laws": ("laws of toy_2d_overlap", laws),
        "steps": ("steps of experiment=mnist", lambda: steps((*MNIST, *settings))),
        "jobs": ("jobs of a sweep of toy_2d_overlap", jobs),
        "hour": ("steps in an hour of experiment=mnist", lambda: steps((*HOUR, *settings))),
    }
    torch.set_num_threads(1)
    keep_freed_memory()
    for name in [one for one in arguments if "=" not in one] or ["laws", "steps", "jobs"]:
        what, measure = parts[name]
        sizes = measure()
        rate, error = slope(sizes)
        first = sizes[len(sizes) // 2]
        last = sizes[-1]
        print(
            f"{len(sizes)} {what}: {1024 * rate:.2f} +- {1024 * error:.2f} KiB each over the second half "
            f"({first:.0f} to {last:.0f} MiB)",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
