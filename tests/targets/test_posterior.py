"""The exact posterior of the class of every sort of target, against sums over its table."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from helpers import bernoulli_mixture, random_hmm, random_target, table_of
from torch import Tensor

from mdlm_cfg import Guidance, UserError
from mdlm_cfg.chain.classifier_rule import ByClassifier
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.posterior import posterior_of
from mdlm_cfg.targets.table import TableMixture

SURE = torch.tensor([[[0.0, 0.3, 1.0], [0.5, 0.2, 1.0]], [[1.0, 0.6, 0.0], [0.1, 0.0, 0.7]]], dtype=torch.float64)
HALVES = torch.full((2, 2), 0.5)
TARGETS: dict[str, tuple[Any, TableMixture]] = {}
for name, target, table in (
    ("table", random_target(3, 3, 3, seed=1), random_target(3, 3, 3, seed=1)),
    ("table with zeros", random_target(3, 3, 3, seed=2, zeros=0.4), random_target(3, 3, 3, seed=2, zeros=0.4)),
    ("bernoulli", bernoulli_mixture(4), table_of(bernoulli_mixture(4))),
    ("bernoulli with zeros", *(BernoulliMixture(SURE, HALVES, HALVES[0]),) * 2),
    ("hmm", random_hmm(), random_hmm().table()),
    ("hmm with zeros", random_hmm(seed=3, zeros=0.5), random_hmm(seed=3, zeros=0.5).table()),
):
    TARGETS[name] = (target, table_of(table))


def states_of(target: Any) -> Tensor:
    return torch.tensor(list(product(range(target.num_tokens + 1), repeat=target.num_dims)))


def by_sums(table: TableMixture, state: list[int]) -> Tensor:
    """p(k | x_U) by indexing the table; 0 everywhere where the state is impossible."""
    index = tuple(slice(None) if v == table.num_tokens else v for v in state)
    mass = torch.stack([a * pmf[index].sum() for a, pmf in zip(table.class_weights, table.class_pmfs)])
    return mass / mass.sum() if mass.sum() else mass


@pytest.mark.parametrize("name", TARGETS)
def test_the_posterior_is_a_ratio_of_sums(name: str) -> None:
    target, table = TARGETS[name]
    states = states_of(target)
    expected = torch.stack([by_sums(table, state) for state in states.tolist()])
    posterior = posterior_of(target)
    assert float((posterior(states).exp() - expected).abs().max()) < 1e-12
    one_hot = torch.nn.functional.one_hot(states, target.num_tokens + 1).double()
    assert float((posterior.of_one_hot(one_hot).exp() - expected).abs().max()) < 1e-12


@pytest.mark.parametrize("name", TARGETS)
def test_the_slope_is_the_difference_of_the_conditionals(name: str) -> None:
    """d log p(z | e) / d e_{i,v} = p(v | x, z) - p(v | x) at a masked coordinate, by the multilinear extension."""
    target, table = TARGETS[name]
    n = target.num_tokens
    possible = table.denoiser()
    states = states_of(target)
    rule = ByClassifier(posterior_of(target), taylor=True)
    for z in range(target.num_classes):
        of_class = torch.tensor([bool(by_sums(table, state)[z] > 0) for state in states.tolist()])
        here = states[of_class]
        classes = torch.full((len(here),), z)
        difference = possible(here, classes).exp() - possible(here, None).exp()
        expected = torch.where((here == n)[..., None], difference, 0.0)
        assert float((rule._expanded(possible, here, z) - expected).abs().max()) < 1e-12


def test_a_class_stays_possible_by_a_hidden_state_that_fades_beside_others() -> None:
    """Of two hidden states that never change, 398 letters say 99 to 1 that it is the first, and the last the second.

    The other class has one hidden state. Both have probability 0.01^398 times a number, and so has every slope.
    """
    length = 400
    emission = torch.tensor([[[0.99, 0.01, 0.0], [0.01, 0.98, 0.01]], [[0.01, 0.5, 0.49]] * 2], dtype=torch.float64)
    half = torch.full((2, 2), 0.5, dtype=torch.float64)
    stay = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    target = HiddenMarkovMixture(half, stay, emission, half[0], num_dims=length)
    x = torch.zeros(1, length, dtype=torch.int64)
    x[0, -1] = 2
    x[0, length // 2] = 3
    sure = 0.5 * 0.01 / (0.5 * 0.01 + 0.49)
    one_hot = torch.nn.functional.one_hot(x, 4).double()
    assert float(posterior_of(target).of_one_hot(one_hot)[0, 0]) == pytest.approx(math.log(sure), rel=1e-12)
    slope = ByClassifier(posterior_of(target), taylor=True)._expanded(target.denoiser(), x, 0)[0, length // 2]
    assert slope.tolist() == pytest.approx([0.0, 0.48 * (1 - sure), -0.48 * (1 - sure)], rel=1e-12, abs=1e-13)


def test_many_states_are_asked_about_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    target, _ = TARGETS["bernoulli"]
    states = states_of(target)
    guidance = Guidance(2.0, rule=ByClassifier(posterior_of(target)))
    whole = guidance.log_rates(target.denoiser(), states, 0)
    monkeypatch.setattr("mdlm_cfg.chain.classifier_rule.MAX_NUMBERS", 100)
    assert torch.equal(guidance.log_rates(target.denoiser(), states, 0), whole)


def test_what_has_no_posterior_or_another_space_is_refused() -> None:
    with pytest.raises(UserError):
        posterior_of(object())
    rule = ByClassifier(posterior_of(random_target(3, 2, 3)))
    with pytest.raises(UserError):
        rule.check(random_target(2, 3, 3).denoiser(), 0)
