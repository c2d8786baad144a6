"""A slice's ledger: against the whole chain, against brute force, and able to stay open."""

from __future__ import annotations

import pytest
import torch
from helpers import Inconsistent, random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, error_ledger, tilted_law
from mdlm_cfg.compare.metrics import expected_sampling_tv, total_variation
from mdlm_cfg.compare.slice_ledger import slice_laws, slice_ledger
from mdlm_cfg.laws.slices import slice_denoiser
from mdlm_cfg.support.seeds import generator_for

STATE = torch.tensor([2, 1, 2, 2])
EVENTS = Sampler("event_leaping", 2)


def bayes(target: TableMixture) -> TableMixture:
    """What is left of a table of 4 binary coordinates once the second is known to be 1: classes and weights."""
    part = target.class_pmfs[:, :, 1]
    mass = part.sum(dim=(1, 2, 3))
    weights = target.class_weights * mass
    return TableMixture(part / mass[:, None, None, None], weights / weights.sum())


@pytest.mark.parametrize("sampler", [Sampler(), EVENTS, Sampler("tau_leaping", 4), Sampler(policy="confidence")])
def test_with_a_known_truth_it_is_the_ledger_of_bayes_table(sampler: Sampler) -> None:
    target = random_target(2, 4, seed=4)
    learned = Inconsistent(2, 4, 2)
    guidance = Guidance(2.0)
    parts = slice_denoiser(learned, STATE), slice_denoiser(target.denoiser(), STATE)
    laws = slice_laws(*parts, guidance, 1, sampler)
    x = sampler.draw(learned, guidance, 1, 2000, generator_for("slice"), start=STATE)[:, [0, 2, 3]]
    found = slice_ledger(laws, sampler, x, generator_for("interval"))
    whole = error_ledger(bayes(target), parts[0], guidance, 1, sampler, generator=generator_for("whole"))
    for name in ("L0", "L1", "L2", "L3", "L2'", "L3'"):
        assert float((found.laws[name] - whole.laws[name]).abs().max()) < 1e-12, name
    exact_lines = ("guidance effect", "gap to tilted", "error of the network", "discretisation error")
    for line in (*exact_lines, "discretisation error, exact conditionals"):
        assert found.tv[line] == pytest.approx(whole.tv[line], abs=1e-12)
    assert set(found.tv) == set(whole.tv)
    assert found.closes and found.tv["error of the network"] > 0.05
    assert found.sampler is sampler and found.num_samples == 2000
    assert found.tv["total"] == pytest.approx(total_variation(found.laws["L2"], found.laws["L4"]))


def test_without_a_truth_the_total_is_to_the_networks_own_law() -> None:
    learned = Inconsistent(2, 4, 2)
    guidance = Guidance(1.0)
    laws = slice_laws(slice_denoiser(learned, STATE), None, guidance, 0, EVENTS)
    x = EVENTS.draw(learned, guidance, 0, 3000, generator_for("slice"), start=STATE)[:, [0, 2, 3]]
    found = slice_ledger(laws, EVENTS, x, generator_for("interval"))
    assert set(found.laws) == {"L3", "L3'", "L4"}
    assert set(found.tv) == {"discretisation error", "sampling noise", "total"}
    assert found.tv["discretisation error"] > 0.01
    assert found.tv["total"] == pytest.approx(total_variation(laws["L3"], found.laws["L4"]))
    assert found.expected_noise == pytest.approx(expected_sampling_tv(laws["L3'"], 3000))
    assert found.closes


def test_samples_of_another_chain_leave_it_open() -> None:
    learned = Inconsistent(2, 4, 2)
    guidance = Guidance(2.0)
    laws = slice_laws(slice_denoiser(learned, STATE), None, guidance, 0, Sampler())
    for wrong in (Guidance(0.0), Guidance(-0.5)):
        x = Sampler().draw(learned, wrong, 0, 3000, generator_for("slice"), start=STATE)[:, [0, 2, 3]]
        assert not slice_ledger(laws, Sampler(), x, generator_for("interval")).closes


def test_the_tilted_law_of_a_slice_is_that_of_bayes_table() -> None:
    target = random_target(2, 4, seed=9)
    part = slice_denoiser(target.denoiser(), STATE)
    laws = slice_laws(part, part, Guidance(1.5), 0, Sampler())
    assert float((laws["L1"] - tilted_law(bayes(target), 1.5, 0)).abs().max()) < 1e-12
    assert torch.equal(laws["L2"], laws["L3"])


def test_a_slice_of_one_coordinate_has_a_ledger() -> None:
    target = random_target(2, 4, seed=4)
    guidance = Guidance(2.0)
    state = torch.tensor([0, 1, 2, 1])
    part = slice_denoiser(target.denoiser(), state)
    laws = slice_laws(part, part, guidance, 1, Sampler())
    x = Sampler().draw(target.denoiser(), guidance, 1, 2000, generator_for("one"), start=state)[:, [2]]
    found = slice_ledger(laws, Sampler(), x, generator_for("interval"))
    ones = float(x.double().mean())
    assert found.laws["L4"].tolist() == pytest.approx([1 - ones, ones])
    assert found.tv["total"] == pytest.approx(abs(ones - float(laws["L2"][1]))) and found.closes
