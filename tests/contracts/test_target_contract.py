"""What every exact target promises: a new one inherits these tests by its entry in `TARGETS`."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
import torch
from helpers import bernoulli_mixture, chi_square_p_value, hidden_markov, random_target, table_of
from torch import Tensor

from mdlm_cfg import Guidance, terminal_law
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.data import KnownData, description_of
from mdlm_cfg.targets.toys import toy_1d_disjoint, toy_1d_overlap, toy_2d_overlap, toy_2d_projection

SURE = torch.tensor([[[0.0, 0.3, 1.0], [0.5, 0.2, 1.0]], [[1.0, 0.6, 0.0], [0.1, 0.0, 0.7]]], dtype=torch.float64)
TARGETS: dict[str, Any] = {
    "table": lambda: random_target(3, 3, 3, seed=2),
    "table with zeros": lambda: random_target(3, 3, 3, seed=12, zeros=0.5),
    "toy_1d_disjoint": toy_1d_disjoint,
    "toy_1d_overlap": toy_1d_overlap,
    "toy_2d_overlap": toy_2d_overlap,
    "toy_2d_projection": toy_2d_projection,
    "Bernoulli mixture": lambda: bernoulli_mixture(4),
    "Bernoulli mixture with zeros": lambda: BernoulliMixture(SURE, torch.full((2, 2), 0.5), torch.tensor([0.4, 0.6])),
    "hidden Markov": hidden_markov,
}
targets = pytest.mark.parametrize("name", TARGETS)


def some_partial_states(n: int, d: int) -> Tensor:
    every = torch.tensor(list(product(range(n + 1), repeat=d)))
    return every[torch.randperm(len(every), generator=generator_for("states", n, d))[:300]]


@targets
def test_its_conditionals_are_those_of_its_table(name: str) -> None:
    # p(x_i = v | x_U, z) by sums over all cells that agree with x_U
    target = TARGETS[name]()
    table = table_of(target)
    states = some_partial_states(target.num_tokens, target.num_dims)
    denoiser = target.denoiser()
    for z in (*range(target.num_classes), None):
        # where a class has nothing the mixture answers, and where that has nothing, the uniform distribution
        pmfs = [table.class_pmf(z), table.pmf, torch.ones_like(table.pmf)]
        labels = None if z is None else torch.full((len(states),), z)
        found = denoiser(states, labels)
        for x, answers in zip(states.tolist(), found):
            index = tuple(slice(None) if v == target.num_tokens else slice(v, v + 1) for v in x)
            inside = next(pmf[index] for pmf in pmfs if float(pmf[index].sum()) > 0)
            for i, v in enumerate(x):
                rest = [axis for axis in range(target.num_dims) if axis != i]
                expected = inside.sum(dim=rest) / inside.sum() if rest else inside / inside.sum()
                if v != target.num_tokens:  # copied
                    expected = torch.nn.functional.one_hot(torch.tensor(v), target.num_tokens).double()
                assert torch.allclose(answers[i].exp(), expected, rtol=1e-9, atol=1e-14)
                assert torch.equal(answers[i] == float("-inf"), expected == 0)


@targets
def test_the_chain_without_guidance_ends_in_the_class(name: str) -> None:
    target = TARGETS[name]()
    table = table_of(target)
    for z in (*range(target.num_classes), None):
        assert torch.allclose(terminal_law(target.denoiser(), Guidance(0.0), z), table.class_pmf(z), atol=1e-13)


@targets
def test_its_samples_follow_its_table(name: str) -> None:
    target = TARGETS[name]()
    table = table_of(target)
    x, labels = target.sample(6000, generator=generator_for("samples", name))
    assert chi_square_p_value(x, table.pmf) > 1e-4
    for z in range(target.num_classes):
        assert abs(float((labels == z).double().mean() - table.class_weights[z])) < 5 * 0.5 / 6000**0.5
    one, only = target.sample(6000, target_class=0, generator=generator_for("samples of one", name))
    assert bool((only == 0).all()) and chi_square_p_value(one, table.class_pmf(0)) > 1e-4


@targets
def test_the_same_seed_draws_the_same(name: str) -> None:
    target = TARGETS[name]()
    first, second = (target.sample(50, generator=generator_for("again", name)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@targets
def test_its_fingerprint_is_of_its_values(name: str) -> None:
    assert TARGETS[name]().fingerprint() == TARGETS[name]().fingerprint()
    prints = {TARGETS[other]().fingerprint() for other in TARGETS}
    assert len(prints) == len(TARGETS)


@targets
def test_it_is_data_as_studies_take_them(name: str) -> None:
    target = TARGETS[name]()
    data = KnownData(target, name, (target.num_dims,))
    about = description_of(data)
    assert json.loads(json.dumps(about)) == about
    x, labels = data.test_examples()
    assert x.shape[1] == target.num_dims and len(x) == len(labels)
