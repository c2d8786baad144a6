"""train.py and eval.py within the tests' own process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compositions import composed_once
from hydra._internal.hydra import Hydra

from mdlm_cfg import TableMixture
from mdlm_cfg.app import cli
from mdlm_cfg.sampling.sampler import Sampler

TINY = (
    *("net.width=16", "net.depth=1", "net.num_heads=2", "trainer.max_epochs=2", "trainer.accelerator=cpu"),
    *("trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1", "num_samples=50"),
)
TOY = (*TINY, "data=toy_1d_overlap", "data.batch_size=64", "data.steps_per_epoch=3", "data.num_test=50", "w=[0,2]")
QUICK = (*TOY, "logger=csv", "evaluate=false")
EXACT = ("denoiser=exact", "data=toy_1d_overlap", "num_samples=20")


def run(command: str, *arguments: str) -> int:
    """The exit code of train.py, eval.py or mdlm_cfg.sample, in this process."""
    with composed_once(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{command}.py", *arguments])
        if not any("hydra.mode" in one for one in arguments):
            # hydra composes everything twice, first for a mode that no configuration here sets: half of a short run
            patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        try:
            {"train": cli.train, "eval": cli.evaluate, "sample": cli.sample}[command]()
        except SystemExit as error:
            return int(error.code or 0)
    return 0


def refusal(capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> str:
    """The one error on stderr of a command that must refuse, its last line; progress may come before it."""
    capsys.readouterr()
    last = {argument.partition("=")[0].lstrip("+"): argument for argument in arguments}  # each key once
    assert run(command, *last.values()) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith(("error: ", "error in job "))]
    assert len(errors) == 1 and errors == lines[-1:], lines
    assert not any(line.startswith(("Traceback", "Error executing")) for line in lines), lines
    internal = ("of type '", "<class", " at 0x", "collections.abc", "typing.")
    assert not any(text in lines[-1] for text in internal), lines[-1]
    return lines[-1]


class Draws:
    """Notes w and the class of every set of samples that is drawn, and raises in place of the one after `most`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.drawn: list[tuple[float, int]] = []
        self.most: int | None = None
        draw = Sampler.draw

        def noted(sampler: Sampler, denoiser: Any, guidance: Any, target_class: Any, *rest: Any, **options: Any) -> Any:
            if len(self.drawn) == self.most:
                raise error
            self.drawn.append((guidance.w, target_class))
            return draw(sampler, denoiser, guidance, target_class, *rest, **options)

        monkeypatch.setattr(Sampler, "draw", noted)


def own_module(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new module with this code, in a folder that is looked in from now on."""
    name = f"own_{folder.parent.name.replace('-', '_')}_{folder.name}"
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    return name


def report_in(folder: Path) -> dict[str, Any]:
    """report.json of the one report in a folder or below it."""
    (path,) = folder.rglob("report.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def findings_in(folder: Path) -> dict[str, Any]:
    """The same without what names its own folder, times and options."""
    found = json.loads(json.dumps(report_in(folder)).replace(str(folder), "FOLDER"))
    return {key: value for key, value in found.items() if key not in ("run", "settings", "files", "test")}


def table_file(folder: Path, target: TableMixture) -> tuple[str, str]:
    """The options that give a table as data, which is written into a folder."""
    path = folder / "table.npz"
    np.savez(path, class_pmfs=target.class_pmfs.numpy(), class_weights=target.class_weights.numpy())
    return "data=table", f"data.path={path}"


def flat(values: Any) -> dict[str, Any]:
    """Every single value of nested ones, by the way to it."""
    if not isinstance(values, dict | list):
        return {"": values}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    return {f"{key}/{rest}": value for key, item in items for rest, value in flat(item).items()}


def numbers(values: Any) -> dict[str, float]:
    """Every single number of nested values, by the way to it."""
    return {key: value for key, value in flat(values).items() if isinstance(value, int | float)}
