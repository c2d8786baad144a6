"""Laws of a table by its states alone, against the same laws level by level."""

from __future__ import annotations

import pytest
import torch
from helpers import every_pair, random_target

from mdlm_cfg import Guidance, TableMixture, law_at, terminal_law
from mdlm_cfg.chain import blocks
from mdlm_cfg.chain.blocks import BlockedLattice, runs_of_parents
from mdlm_cfg.chain.guidance import LinearRamp
from mdlm_cfg.chain.lattice import flat_index, lattice_of
from mdlm_cfg.laws import in_time, terminal
from mdlm_cfg.laws.joint import joint_chain
from mdlm_cfg.targets.table import Marginals

TIMES = [0.02, 1.5]  # of two contours: a chain is asked twice
SHAPES = [(1, 3), (5, 1), (4, 2), (3, 4), (2, 6), (7, 3), (40, 2)]  # (N, D)


@pytest.fixture(params=[(3, False), (30, False), (256, False), (3, True), (30, True)], ids=str)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most columns: with few of them most coordinates are outer ones. Both ways of moving these, and pieces."""
    most, at_once = request.param
    monkeypatch.setattr(blocks, "MAX_WIDTH", most)
    monkeypatch.setattr(BlockedLattice, "at_once", at_once)
    if most < 256:
        monkeypatch.setattr(blocks, "CHUNK", 64)  # several pieces of a level
    monkeypatch.setattr("mdlm_cfg.targets.table.blocks_of", BlockedLattice)  # no layout of another width
    return most


@pytest.mark.parametrize(("shape", "w"), every_pair(SHAPES, [-1.0, 2.0, 30.0]), ids=str)
def test_by_states_is_level_by_level(width, shape, w, monkeypatch) -> None:
    target = random_target(*shape, k=3, seed=sum(shape), zeros=0.4 if shape[0] < 7 else 0.0)
    for z in (None, 2):
        guidance = Guidance(w)
        denoiser = target.denoiser()
        assert joint_chain(denoiser, guidance, z) is not None
        ours = terminal_law(denoiser, guidance, z), law_at(denoiser, guidance, z, TIMES)
        with monkeypatch.context() as patch:
            for room in (terminal, in_time):
                patch.setattr(room, "joint_chain", lambda *_: None)
            by_level = terminal_law(denoiser, guidance, z), law_at(denoiser, guidance, z, TIMES)
        assert (ours[0] - by_level[0]).abs().max() < 1e-14
        assert (ours[1] - by_level[1]).abs().max() < 1e-13  # what the contour's own error is
        with monkeypatch.context() as patch:
            patch.setattr("mdlm_cfg.targets.table.KEPT_STATES", 0)  # too many to keep: computed in the memory of others
            again = target.denoiser()
            assert torch.equal(terminal_law(again, guidance, z), ours[0])
            assert torch.equal(law_at(again, guidance, z, TIMES), ours[1])


@pytest.mark.filterwarnings("error")  # torch warns where a result has another shape than its place
def test_every_partial_state_has_its_marginal(width) -> None:
    target = random_target(3, 4, seed=5)
    layout = BlockedLattice(3, 4, torch.device("cpu"))
    dense = layout.to_dense(layout.marginals(target.pmf))
    for state in ((3, 3, 3, 3), (0, 3, 2, 3), (1, 2, 0, 2), (3, 3, 3, 1)):
        index = tuple(slice(None) if value == 3 else value for value in state)
        assert abs(float(dense[state]) - float(target.pmf[index].sum())) < 1e-15


def test_sums_over_children_by_brute_force(width) -> None:
    n = 2
    d = 4
    layout = BlockedLattice(n, d, torch.device("cpu"))
    values = torch.rand(layout.rows[-1].stop, layout.columns[-1].stop, dtype=torch.float64)
    found, dense = (layout.to_dense(each).flatten() for each in (layout.sum_over_children(values), values))
    for place, state in enumerate(torch.cartesian_prod(*[torch.arange(n + 1)] * d)):
        children = [state.clone() for i in range(d) if state[i] == n for _ in range(n)]
        for number, child in enumerate(children):
            child[[i for i in range(d) if state[i] == n][number // n]] = number % n
        truth = sum(float(dense[flat_index(child, n + 1)]) for child in children)
        assert abs(float(found[place]) - truth) < 1e-14


@pytest.mark.parametrize("piece", [range(0, 1), range(3, 8), range(0, 10)], ids=str)
def test_runs_are_all_moves_of_a_piece(piece) -> None:
    outer = lattice_of(2, 5)
    for level in (2, 3):
        below, subsets = outer.subsets[level - 1 : level + 1]
        without = [[below.index(c[:j] + c[j + 1 :]) for j in range(level)] for c in subsets]
        moves = {(c - piece.start, j, without[c][j]) for c in piece for j in range(level)}
        runs = runs_of_parents(outer, level, piece)
        found = [(a, j, b) for own, j, other in runs for a, b in zip(range(10)[own], range(10)[other], strict=True)]
        assert len(found) == len(moves) and set(found) == moves


@pytest.mark.parametrize("w", [1.0, 2.0, 3.0, 11.0, 64.0, 65.0, 2.5, -0.5])
def test_weights_by_logarithms(w) -> None:
    target = random_target(3, 3, k=2, seed=4, zeros=0.3)
    known = Marginals.of(target, 0)
    found = known.weights(w)
    assert found is not None
    truth = (known.cond.log() + w * (known.cond / known.uncond).log()).exp()
    assert torch.equal(found == 0, known.cond == 0)
    assert torch.where(known.cond > 0, found / truth - 1, 0.0).abs().max() < 1e-12


@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_the_span_of_marginals_is_that_of_all_partial_states(zeros) -> None:
    for seed in range(5):
        target = random_target(2, 4, k=3, seed=seed, zeros=zeros)
        known = Marginals.of(target, 1)
        cond, uncond = (torch.cat([x.flatten() for x in target.denoiser().log_marginals(z)]) for z in (1, None))
        possible = cond > -torch.inf
        for (low, high), truth in zip(known.span, (cond[possible], (cond - uncond)[possible])):
            assert abs(low - float(truth.min())) < 1e-12 and abs(high - float(truth.max())) < 1e-12


def test_what_is_no_plain_table_goes_level_by_level() -> None:
    denoiser = random_target(3, 2, seed=1).denoiser()
    assert joint_chain(denoiser, Guidance(2.0, "normalized"), 0) is None
    assert joint_chain(denoiser, Guidance(LinearRamp(0.0, 2.0)), 0) is None
    assert joint_chain(denoiser, Guidance(2.0, temperature=0.5), 0) is None
    assert joint_chain(denoiser, Guidance(1e4), 0) is None  # weights beyond float64


def test_nothing_is_lost_of_very_uneven_tables() -> None:
    target = random_target(2, 6, seed=3)
    pmfs = target.class_pmfs**30
    sharp = TableMixture(pmfs / pmfs.flatten(1).sum(1).view(-1, *[1] * 6), target.class_weights)
    for w in (0.0, 1.0, 5.0):
        law = terminal_law(sharp.denoiser(), Guidance(w), 0)
        assert law.isfinite().all() and abs(float(law.sum()) - 1) < 1e-13


def test_nothing_is_lost_of_tables_whose_sum_is_rounded() -> None:
    # 1 + 1e-16 is 1 + 1e-12 where it is raised to a power of 9000
    for seed in range(8):
        pmf, change = random_target(3, 4, seed=seed).class_pmfs
        moved = pmf * (1 + 0.02 * change / change.max())
        near = TableMixture(torch.stack([moved / moved.sum(), pmf]), torch.tensor([0.4, 0.6]).double())
        chain = joint_chain(near.denoiser(), Guidance(9000.0), 0)
        assert chain is not None
        laws = law_at(near.denoiser(), Guidance(9000.0), 0, [1e-3, 0.1, 2.0])
        for law in (chain.terminal_law(), *laws):
            assert abs(float(law.sum()) - 1) < 2e-13
