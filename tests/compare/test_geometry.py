"""The partition of a class's support, and the limit of strong guidance (theory, section 7)."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import random_target

from mdlm_cfg import Guidance, TableMixture, terminal_law
from mdlm_cfg.compare.geometry import local_moments, region_mass, regions
from mdlm_cfg.compare.metrics import mean_and_covariance
from mdlm_cfg.targets import toys


def test_regions_of_overlapping_squares():
    parts = {r.name: r for r in regions(toys.toy_2d_overlap(), 0)}
    assert {name: r.num_states for name, r in parts.items()} == {"R1": 25, "R2,1": 20, "R2,2": 20, "R4": 16}
    assert (
        parts["R1"].mask[1:6, 1:6].all() and parts["R2,1"].mask[6:10, 1:6].all() and parts["R4"].mask[6:10, 6:10].all()
    )


@pytest.mark.parametrize("name", ["toy_2d_overlap", "toy_2d_projection", "toy_5d_hypercube"])
@pytest.mark.parametrize("w", [1.0, 3.0, 9.0])
def test_private_beats_shared(
    name, w
):  # R1 >= R2,i >= R3 >= R4 per state, and by the number of overlaps in D dimensions
    target = getattr(toys, name)()
    law = terminal_law(target.denoiser(), Guidance(w), 0)
    by_size: dict[int, list[float]] = {}
    for r in regions(target, 0):
        by_size.setdefault(len(r.overlapping) + r.shared, []).append(region_mass(law, r)[1])
    sizes = sorted(by_size)
    for smaller, larger in itertools.pairwise(sizes):
        assert min(by_size[smaller]) > max(by_size[larger])


def test_one_dimension_keeps_the_shape_of_the_private_part():  # arXiv 2506.10971, section 3
    target = toys.toy_1d_overlap()
    private = regions(target, 0)[0]
    moments = [local_moments(terminal_law(target.denoiser(), Guidance(w), 0), private) for w in (0.0, 5.0)]
    assert torch.allclose(moments[0][0], moments[1][0]) and torch.allclose(moments[0][1], moments[1][1])


def test_a_region_without_mass_has_no_moments():
    target = toys.toy_2d_overlap()
    part = regions(target, 0)[0]
    with pytest.raises(ValueError, match="R1 "):
        local_moments(target.class_pmfs[1], part)
    assert mean_and_covariance(target.class_pmfs[0])[0].tolist() == pytest.approx([5.0, 5.0])


def test_regions_in_one_dimension():
    target = TableMixture([[0.5, 0.3, 0.2, 0.0], [0.0, 0.5, 0.0, 0.5]], [0.3, 0.7])
    found = [(r.name, r.overlapping, r.shared, r.mask.nonzero().flatten().tolist()) for r in regions(target, 0)]
    assert found == [("private", (), False, [0, 2]), ("shared", (0,), True, [1])]


@pytest.mark.parametrize("target_class", [0, 1])
def test_regions_in_three_dimensions_are_told_by_their_projections(target_class):
    target = random_target(5, 3, k=2, seed=5, zeros=0.95)
    own = {tuple(x) for x in (target.class_pmfs[target_class] > 0).nonzero().tolist()}
    others = {tuple(x) for x in (target.class_pmfs[1 - target_class] > 0).nonzero().tolist()}
    expected: dict[str, set[tuple[int, ...]]] = {}
    for x in own:
        meets = [i for i in range(3) if any(y[i] == x[i] for y in others)]
        name = "overlaps in " + ",".join(str(i + 1) for i in meets) if meets else "private"
        expected.setdefault("shared" if x in others else name, set()).add(x)
    parts = regions(target, target_class)
    assert {r.name: {tuple(x) for x in r.mask.nonzero().tolist()} for r in parts} == expected
    assert {r.name for r in parts if r.shared} == {"shared"} & set(expected) and len(expected) > 2
    assert all(r.shared or len(r.overlapping) == sum(letter.isdigit() for letter in r.name) for r in parts)
    assert [r.shared for r in parts] == sorted(r.shared for r in parts)


def test_a_point_is_shared_however_small_its_probability():
    pmfs = torch.tensor([[[0.5, 1e-20], [0.0, 0.5]], [[0.0, 1e-30], [0.0, 1.0]]], dtype=torch.float64)
    target = TableMixture(pmfs, torch.tensor([0.5, 0.5]))
    for target_class in (0, 1):
        shared = [r.mask.nonzero().tolist() for r in regions(target, target_class) if r.shared]
        assert shared == [[[0, 1], [1, 1]]]
