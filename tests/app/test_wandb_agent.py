"""The sweep of docs/wandb.md: the command line that `wandb agent` makes of it trains a run."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import TOY

sweeps = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
ROOT = Path(__file__).parent.parent.parent


def sweep_of_the_page() -> dict[str, Any]:
    """The indented block of the page that begins with the program."""
    text = (ROOT / "docs" / "wandb.md").read_text()
    block = re.search(r"(?:^    .*\n)*^    program: .*\n(?:^    .*\n)*", text, re.MULTILINE)
    assert block is not None
    return dict(yaml.safe_load(textwrap.dedent(block[0])))


def command_of(sweep: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What the agent runs with these values of the parameters, as wandb's agent puts it together."""
    filled = sweeps.create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    filled |= {"env": ["/usr/bin/env"], "interpreter": [sys.executable], "program": [str(ROOT / sweep["program"])]}
    parts = sweeps.create_sweep_command(list(sweep["command"]))
    return [word for part in parts for word in (filled[part[2:-1]] if part.startswith("${") else [part])]


@pytest.mark.slow
def test_the_agents_command_trains_a_run(tmp_path: Path) -> None:
    sweep = sweep_of_the_page()
    values = {"optimizer.lr": 0.002, "net.width": 32, "seed": 1}
    assert set(sweep["parameters"]) == set(values)
    small = [word for word in TOY if not word.startswith(tuple(f"{name}=" for name in (*values, "evaluate")))]
    command = [*command_of(sweep, values), *small, f"runs={tmp_path}", "logger=wandb", "logger.mode=offline"]
    subprocess.run(command, check=True, cwd=ROOT)
    (run,) = tmp_path.glob("*/*/resolved_config.yaml")
    config = yaml.safe_load(run.read_text())
    assert (config["optimizer"]["lr"], config["net"]["width"], config["seed"]) == (0.002, 32, 1)
    assert sweep["metric"]["name"] in (run.parent / "metrics.csv").read_text().splitlines()[0].split(",")
