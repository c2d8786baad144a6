"""The interactive panel: every number of a page's data is the library's, and its arrays are the distributions."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_target
from torch import Tensor

from mdlm_cfg import Guidance, LinearRamp, Sampler, TableMixture, terminal_law, tilted_law
from mdlm_cfg.compare.geometry import region_mass, regions
from mdlm_cfg.compare.metrics import mean_and_covariance, total_variation
from mdlm_cfg.studies.panel import panel_of, panel_pieces
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case
from mdlm_cfg.targets.data import KnownData

SCHEDULE = Guidance(LinearRamp(0.0, 2.0))
PLAN = Plan((Guidance(1.5), Guidance(5.0), SCHEDULE), Sampler(), 10)


def network(target: TableMixture) -> Any:
    """The exact conditionals of a slightly different mixture, in a network's place."""
    states = target.num_tokens**target.num_dims
    return TableMixture(0.9 * target.class_pmfs + 0.1 / states, target.class_weights).denoiser()


def data_of(target: TableMixture, learned: Any) -> dict[str, Any]:
    case = Case.of(KnownData(target, "x"), learned, PLAN)
    for piece in panel_pieces(case):
        case.made[piece.key] = piece.make()
    panel = panel_of(case)
    assert panel is not None
    return panel.data()


def array(data: dict[str, Any], place: int) -> Tensor:
    values = np.frombuffer(base64.b64decode(data["arrays"][place]), dtype="<f4")
    return torch.from_numpy(values.astype(np.float64)).reshape([data["n"]] * data["dims"])


def guidances(data: dict[str, Any], kind: str) -> list[Guidance]:
    return [Guidance(SCHEDULE.w, kind) if w is None else Guidance(w, kind) for w in data["w"]]


def expected_laws(target: TableMixture, learned: Any, guidance: Guidance, z: int) -> dict[str, Tensor]:
    laws = {"class": target.class_pmf(z), "exact": terminal_law(target.denoiser(), guidance, z)}
    if not guidance.is_schedule:
        laws["tilted"] = tilted_law(target, guidance.one_strength, z)
    if learned is not None:
        laws["learned"] = terminal_law(learned, guidance, z)
    return laws


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("has_learned", [True, False])
def test_numbers_and_arrays_are_those_of_the_library(dims: int, has_learned: bool) -> None:
    target = random_target(5, dims, seed=4, zeros=0.4)
    learned = network(target) if has_learned else None
    data = data_of(target, learned)
    assert {w for w in data["w"] if w is not None} > {1.5, 5.0} and data["w"][-1] is None
    for one in data["classes"]:
        z = one["id"]
        parts = regions(target, z)
        assert one["moments"]["mean"] == pytest.approx(mean_and_covariance(target.class_pmf(z))[0].tolist(), rel=1e-7)
        assert one["masses"] == pytest.approx([region_mass(target.class_pmf(z), part)[0] for part in parts], rel=1e-7)
        for kind in data["kinds"]:
            largest: dict[str, float] = {}
            for entry, guidance in zip(data["laws"][f"{z}/{kind}"], guidances(data, kind), strict=True):
                laws = expected_laws(target, learned, guidance, z)
                assert {"class", *entry["laws"]} == set(laws)
                for name in entry["laws"]:
                    law = laws[name]
                    assert torch.allclose(array(data, entry["laws"][name]), law, rtol=1e-6, atol=1e-12)
                    mean, covariance = mean_and_covariance(law)
                    assert entry["moments"][name]["mean"] == pytest.approx(mean.tolist(), rel=1e-7)
                    eigenvalues = torch.linalg.eigvalsh(covariance).flip(0).tolist()
                    assert entry["moments"][name]["eigenvalues"] == pytest.approx(eigenvalues, rel=1e-6, abs=1e-12)
                    masses = [region_mass(law, part)[0] for part in parts]
                    assert entry["masses"][name] == pytest.approx(masses, rel=1e-7, abs=1e-14)
                assert set(entry["tv"]) == {f"{a}-{b}" for a, b in data["pairs"] if {a, b} <= set(laws)}
                for pair, tv in entry["tv"].items():
                    first, second = pair.split("-")
                    assert tv == pytest.approx(total_variation(laws[first], laws[second]), rel=1e-7, abs=1e-12)
                    change = laws[first] - laws[second]
                    assert torch.allclose(array(data, entry["differences"][pair]), change, rtol=1e-6, atol=1e-12)
                    largest[pair] = max(largest.get(pair, 0.0), float(change.abs().max()))
                for name, law in laws.items():
                    largest[name] = max(largest.get(name, 0.0), float(law.max()))
            assert data["largest"][f"{z}/{kind}"] == pytest.approx(largest, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 60, 1000])
def test_many_classes_take_no_more_distributions_than_a_few(num_classes: int) -> None:
    case = Case.of(KnownData(random_target(2, 1, num_classes), "x"), None, PLAN)
    pieces = list(panel_pieces(case))
    assert len(pieces) == (num_classes if num_classes < 10 else 1)
    assert sum(piece.cost for piece in pieces) < 10  # of pieces that sample


def test_ellipses_are_the_covariance() -> None:
    """Eigenvalues and angle put together are the covariance again."""
    target = random_target(6, 2, seed=1)
    for one in data_of(target, None)["classes"]:
        angle = torch.deg2rad(torch.tensor(one["moments"]["angle"], dtype=torch.float64))
        axes = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
        found = axes @ torch.diag(torch.tensor(one["moments"]["eigenvalues"], dtype=torch.float64)) @ axes.T
        covariance = mean_and_covariance(target.class_pmf(one["id"]))[1]
        assert torch.allclose(found, covariance, atol=1e-6)


def test_a_regions_name_stands_in_the_region() -> None:
    target = random_target(6, 2, seed=2, zeros=0.6)
    for one in data_of(target, None)["classes"]:
        for region, part in zip(one["regions"], regions(target, one["id"]), strict=True):
            assert bool(part.mask[tuple(region["middle"])])


def test_equal_arrays_lie_in_the_data_once() -> None:
    """The tilted distribution does not depend on the kind."""
    data = data_of(random_target(4, 2, seed=3), None)
    assert len(set(data["arrays"])) == len(data["arrays"])
    rate = [entry["laws"].get("tilted") for entry in data["laws"]["0/rate"]]
    assert rate == [entry["laws"].get("tilted") for entry in data["laws"]["0/normalized"]]
