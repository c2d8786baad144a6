"""A network that is asked about every partial state says how far it is."""

from __future__ import annotations

import pytest
from helpers import Inconsistent, data_of, random_target

from mdlm_cfg import Guidance, Sampler, terminal_law
from mdlm_cfg.laws import tabulated
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case
from mdlm_cfg.support import progress


def test_a_long_table_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tabulated, "MAX_BATCH", 40)
    monkeypatch.setattr(progress, "QUIET", 0.0)  # a line for every call
    plan = Plan((Guidance(1.0),), Sampler())
    table = Case.of(data_of(random_target(3, 3, 4)), Inconsistent(3, 3, 4), plan).table("learned")
    assert table is not None
    terminal_law(table, Guidance(1.0), 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "asking the network about all states: 54%",  # 20 of 37 under two labels
        "asking the network about all states: 100%",
    ]
