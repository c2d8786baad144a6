"""What the panel of a page moves through: every law is the library's own, under its class, kind and strength."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from helpers import Inconsistent, random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, terminal_law, tilted_law
from mdlm_cfg.chain.guidance import linear_ramp
from mdlm_cfg.compare.decay import log_still_masked
from mdlm_cfg.reports.panel import panel_data, panel_rows
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.table.panel import STRENGTHS, TAUS, panel_of


def plan_of(*guidances: Guidance, sampler: Sampler | None = None, z: int = 1) -> Plan:
    return Plan(guidances, sampler or Sampler(), 10, classes=(z,))


def test_every_law_is_that_of_its_class_kind_and_strength() -> None:
    target, network = random_target(3, 2, k=3, seed=2), Inconsistent(3, 2, 3)
    panel = panel_of(target, network, plan_of(Guidance(2.5, "normalized")))
    assert panel is not None and list(panel.kinds) == ["normalized", "rate"] and panel.classes == [0, 1, 2]
    assert panel.strengths == [f"{w:g}" for w in sorted({*STRENGTHS, 2.5})]
    for z in range(3):
        for kind in ("rate", "normalized"):
            for label, found in zip(panel.strengths, panel.at(z, kind), strict=True):
                guidance = Guidance(float(label), kind)
                assert found.guidance == guidance and found.still_masked is not None
                torch.testing.assert_close(found.laws["exact"], terminal_law(target.denoiser(), guidance, z))
                torch.testing.assert_close(found.laws["learned"], terminal_law(network, guidance, z))
                torch.testing.assert_close(found.laws["tilted"], tilted_law(target, float(label), z))
                expected = log_still_masked(target.denoiser(), guidance, z, TAUS).exp()
                torch.testing.assert_close(found.still_masked, expected)


def test_the_page_is_given_these_laws_and_starts_where_the_plan_ends() -> None:
    target = random_target(4, 1, seed=3)
    plan = plan_of(Guidance(0.0), Guidance(3.0), Guidance(linear_ramp(0.0, 2.0)))
    panel = panel_of(target, None, plan)
    assert panel is not None and panel.strengths[-1] == "ramp(0,2)"
    data = panel_data(panel, plan)
    assert data["start"] == {"class": 1, "kind": "rate", "strength": panel.strengths.index("3")}
    assert data["w"] == [*STRENGTHS, None]
    for entry, law in zip(data["laws"]["1/rate"], panel.at(1, "rate"), strict=True):
        given = np.frombuffer(base64.b64decode(entry["laws"]["exact"]), "<f4")
        np.testing.assert_allclose(given, law.laws["exact"].flatten().numpy(), rtol=1e-6)
    assert "tilted" not in data["laws"]["1/rate"][-1]["laws"]
    rows = panel_rows(panel)
    assert len(rows) == 2 * 2 * len(panel.strengths) and "tv_exact_tilted" not in rows[-1]
    own = next(row for row in rows if (row["class"], row["kind"], row["w"]) == (1, "rate", 3.0))
    exact = terminal_law(target.denoiser(), Guidance(3.0), 1)
    assert own["tv_exact_class"] == pytest.approx(0.5 * float((exact - target.class_pmf(1)).abs().sum()))


def test_a_policy_and_a_temperature_are_kept_and_say_nothing_of_time() -> None:
    target, guidance = random_target(3, 2, seed=4), Guidance(2.0, temperature=0.5)
    panel = panel_of(target, None, plan_of(guidance, sampler=Sampler(policy="confidence")))
    assert panel is not None and panel.kinds == ["rate"]
    found = next(law for law in panel.at(1, "rate") if law.guidance == guidance)
    torch.testing.assert_close(found.laws["exact"], terminal_law(target.denoiser(), guidance, 1, "confidence"))
    assert all(law.still_masked is None for law in panel.laws)


def test_large_tables_have_fewer_classes_or_no_panel() -> None:
    assert panel_of(random_target(2, 3), None, plan_of(Guidance(1.0))) is None
    assert panel_of(random_target(33, 2), None, plan_of(Guidance(1.0))) is None
    many = panel_of(random_target(16, 2, k=30), None, plan_of(Guidance(1.0), z=7))
    assert many is not None and many.classes == [7]


def test_a_class_without_weight_cannot_be_guided_to_and_is_left_out() -> None:
    target = random_target(3, 1, k=3)
    gone = TableMixture(target.class_pmfs, torch.tensor([0.5, 0.0, 0.5]))
    panel = panel_of(gone, None, plan_of(Guidance(1.0), z=2))
    assert panel is not None and panel.classes == [0, 2]
