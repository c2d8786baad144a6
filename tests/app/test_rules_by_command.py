"""Rules of guidance on the command line: the report is that of the rule, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import refusal, run
from helpers import random_target

from mdlm_cfg import Guidance, terminal_law, tilted_law
from mdlm_cfg.chain.product_rules import Compose, Negative
from mdlm_cfg.chain.rules import Rule

TARGET = random_target(3, 2, 3, seed=8)


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    path = tmp_path / "table.npz"
    np.savez(path, class_pmfs=TARGET.class_pmfs.numpy(), class_weights=TARGET.class_weights.numpy())
    return ["denoiser=exact", "data=table", f"data.path={path}", "target_class=1", "num_samples=20", "study=laws"]


@pytest.mark.parametrize(
    ("text", "rule"), [("negative(2)", Negative(2)), ("compose(0:0.5,1:1.5)", Compose([(0, 0.5), (1, 1.5)]))]
)
def test_a_report_is_of_the_rule(data: list[str], text: str, rule: Rule, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("eval", *data, f"guidance={text}", "w=[2]", f"out={out}") == 0
    guidance = Guidance(2.0, rule=rule)
    laws = np.load(out / "laws.npz")
    (exact,) = [laws[name] for name in laws.files if name.startswith("exact")]
    (tilted,) = [laws[name] for name in laws.files if name.startswith("tilted")]
    assert np.abs(exact - terminal_law(TARGET.denoiser(), guidance, 1).numpy()).max() < 1e-12
    assert np.abs(tilted - tilted_law(TARGET, guidance, 1).numpy()).max() < 1e-12


@pytest.mark.parametrize("text", ["compose(0:1,0:2)", "compose(0)", "negative(9)", "negative()", "auto", "classifier"])
def test_rules_that_do_not_fit_are_refused(
    data: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, "eval", *data, f"guidance={text}", f"out={tmp_path / 'no'}")
    assert not (tmp_path / "no").exists()
