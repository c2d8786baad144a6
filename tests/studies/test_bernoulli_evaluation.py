"""A mixture of 4 x 4 images: the exact denoiser has no error, its samples match the floor, and all is reported."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Blurred, bernoulli_mixture, block_of, decimals, found_by

from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.compare.conditionals_error import conditionals_error
from mdlm_cfg.compare.images import independent_nelbos
from mdlm_cfg.studies.common import LONGER
from mdlm_cfg.studies.conditionals_error import ConditionalsRow, error_sentence
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.mixture import Mixtures, amplifies, components_gain, is_clear
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.data import KnownData


def mixture(side: int = 4, sharpness: float = 2.0) -> BernoulliMixture:
    return bernoulli_mixture(side * side, sharpness=sharpness)


def plan_of(*guidances: Guidance, n: int = 300, classes: tuple[int, ...] | None = None) -> Plan:
    return Plan(guidances, Sampler(), n, classes=classes)


def data_of(target: BernoulliMixture) -> KnownData:
    return KnownData(target, "tiny", (4, 4), num_test=400)


def evaluation_of(share: float | None, plan: Plan | None = None, **settings: Any) -> Findings:
    target = mixture()
    denoiser = None if share is None else Blurred(target, share)
    return found_by(Mixtures(**settings), data_of(target), denoiser, plan or plan_of(Guidance(0.0), Guidance(3.0)))


def one(findings: Findings, block: str, w: float, name: str) -> Any:
    (row,) = [row for row in block_of(findings, block) if (row.w.constant, row.set) == (w, name)]
    return row


@pytest.fixture(scope="module")
def blurred() -> Findings:
    return evaluation_of(0.4)


def test_an_exact_learned_denoiser_matches_the_floor() -> None:
    found = evaluation_of(0.0)
    for w in (0.0, 3.0):
        learned, floor, own = (one(found, "distances", w, name) for name in ("learned", "noise floor", "class"))
        assert learned.mean_rms == pytest.approx(floor.mean_rms, rel=0.4)
        assert learned.covariance == pytest.approx(floor.covariance, rel=0.4)
        assert abs(learned.energy) < 0.015 and abs(floor.energy) < 0.015
        assert learned.component_tv < 0.12
        assert (own.energy > 0.03) == (w > 0)
    row = block_of(found, "conditionals_error")[0]
    assert decimals(found.verdict[0]) == [f"{row.nelbo:.2f}", f"{row.exact_nelbo:.2f}"]  # and no error


def test_a_wrong_denoiser_is_told_from_the_floor(blurred: Findings) -> None:
    for w in (0.0, 3.0):
        learned, floor = (one(blurred, "distances", w, name) for name in ("learned", "noise floor"))
        assert learned.energy > floor.energy + 0.03
        assert learned.mean_rms > 1.5 * floor.mean_rms
    conditional, null = block_of(blurred, "conditionals_error")
    assert conditional.conditionals_error > 0.3 and null.conditionals == "null"


@pytest.mark.parametrize("share", [0.05, 0.4, 0.85])
def test_a_network_whose_guided_samples_are_no_nearer_than_no_guidance_is_to_be_trained_longer(share: float) -> None:
    found = evaluation_of(share)
    learned, unguided = (one(found, "distances", 3.0, name).energy for name in ("learned", "class"))
    advised = [line for line in found.verdict if f"{unguided:.4f}" in line and line.endswith(LONGER)]
    assert bool(advised) == (learned >= unguided)
    assert (share == 0.85) == (learned >= unguided)  # both cases occur


def test_a_network_that_knows_nothing_is_said_to_be_untrained() -> None:
    plan = plan_of(Guidance(1.0), n=2, classes=(0,))
    for share in (1.0, 0.85):
        found = evaluation_of(share, plan)
        row = block_of(found, "conditionals_error")[0]
        assert decimals(found.verdict[0]) == [f"{row.nelbo:.2f}", f"{row.independent:.2f}"]
        assert found.verdict[0].endswith(LONGER)


def test_independent_values_have_the_marginals_of_the_data(blurred: Findings) -> None:
    """Frequencies of the examples themselves would fit them too well: of 27 values by 3 nats in 1,000 sequences."""
    x = data_of(mixture()).test_examples()[0]
    masked = torch.full((1, x.shape[1]), 2)
    share = mixture().denoiser()(masked, None)[0, :, 1].exp()
    expected = -torch.where(x == 1, share, 1 - share).log().sum(1).mean()
    assert block_of(blurred, "conditionals_error")[1].independent == pytest.approx(float(expected))


def test_private_values_and_distinct_components_gain(blurred: Findings) -> None:
    noise, guided = (one(blurred, "pixels", w, "exact") for w in (0.0, 3.0))
    assert abs(noise.correlation) < 0.35
    assert guided.correlation > 0.5
    assert guided.change_private > 0.02 and guided.change_foreign < -0.02
    unused, used = (one(blurred, "components", w, "exact") for w in (0.0, 3.0))
    assert used.rank_correlation_partial > 0.3
    assert used.components_in_use < unused.components_in_use


def test_sets_are_those_of_the_plans_generators_compared_by_hand() -> None:
    """Another kind, sampler and schedule than the default, classes that are not all: what was asked for is what ran."""
    target = mixture()
    guidance = Guidance(1.5, "normalized")
    plan = Plan((guidance,), Sampler("event_leaping", 3, "linear"), 50, seed=5, classes=(2, 1))
    learned = Blurred(target, 0.4)
    found = found_by(Mixtures(num_test=20), data_of(target), learned, plan)
    moved = []
    for at, k in enumerate((2, 1)):
        x, y = (
            plan.sampler.draw(used, guidance, k, 50, plan.generator("samples", guidance, k, name, num_dims=16))
            for name, used in (("exact", target.denoiser()), ("learned", learned))
        )
        assert np.array_equal(found.arrays["exact_w1.5"][at].reshape(50, 16), x)
        assert np.array_equal(found.arrays["learned_w1.5"][at].reshape(50, 16), y)
        moved.append(float((x.double().mean(dim=0) - y.double().mean(dim=0)).square().mean().sqrt()))
    assert one(found, "distances", 1.5, "learned").mean_rms == pytest.approx(sum(moved) / 2)
    assert block_of(found, "conditionals_error")[0].num_examples == 20


def test_one_component_and_no_guidance_are_answered() -> None:
    target = bernoulli_mixture(4, components=1)
    found = found_by(Mixtures(), KnownData(target, "one", (4,)), None, plan_of(Guidance(0.0), n=20))
    assert all(row.rank_correlation_partial is None for row in block_of(found, "components"))
    json.dumps(found.to_dict(), allow_nan=False)
    assert len(found.verdict) == 1


@pytest.mark.parametrize("value", [0, 1])
def test_pixels_are_amplified_also_where_no_value_is_foreign_to_the_class(value: int) -> None:
    """A value of probability 0.3 in the class and 0.15 in the mixture is private, and none is foreign."""
    p = torch.tensor([[[0.3] * 16], [[0.0] * 16]], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    target = BernoulliMixture(p if value else 1 - p, half.new_ones(2, 1), half)
    plan = plan_of(Guidance(0.0), Guidance(3.0), n=2000, classes=(0,))
    found = found_by(Mixtures(), data_of(target), None, plan)
    (pixel,) = [row for row in block_of(found, "pixels") if row.w == Guidance(3.0) and row.set == "exact"]
    assert pixel.change_private > 0.02 and pixel.change_foreign is None
    less = replace(pixel, change_private=-pixel.change_private)
    unsure = replace(pixel, private_se=1.0)
    assert [amplifies(row, 2000) for row in (pixel, less, unsure)] == [1, -1, 0]
    three = replace(pixel, private_se=abs(pixel.change_private) / 3)
    assert [amplifies(three, num) for num in (2, 3, 2000)] == [0, 0, 1]  # three standard errors of so few are chance


def test_guidance_that_changes_nothing_is_rarely_said_to_change_anything() -> None:
    """At w = 1e-6 all sets have one distribution, whatever values are private and components distinct."""
    target = bernoulli_mixture(4)
    data = KnownData(target, "tiny", (2, 2), num_test=10)
    said = {"pixels": 0, "components": 0, "the network": 0}
    for seed in range(12):
        plan = Plan((Guidance(1e-6),), Sampler(), 60, seed)
        found = found_by(Mixtures(num_test=2, num_draws=1), data, target.denoiser(), plan)
        for name, sign in signs_of(found).items():
            said[name] += sign != 0
        said["the network"] += any(line.endswith(LONGER) for line in found.verdict[1:])
    assert max(said.values()) <= 2, said  # of 12, where 1 in 40 are expected
    clear = found_by(Mixtures(num_test=2, num_draws=1), data, target.denoiser(), Plan((Guidance(2.0),), Sampler(), 200))
    assert signs_of(clear) == {"pixels": 1, "components": 1}
    assert [components_gain(sign, 9.0 * sign, 200) for sign in (-1.0, 0.0, 1.0)] == [-1, 0, 1]
    assert components_gain(1.0, 0.1, 200) == components_gain(0.01, 9.0, 200) == components_gain(1.0, -9.0, 200) == 0
    assert components_gain(1.0, 9.0, 2) == 0  # nine standard errors of two samples are chance


def signs_of(found: Findings) -> dict[str, int]:
    (pixel,) = [row for row in block_of(found, "pixels") if row.set == "exact"]
    (component,) = [row for row in block_of(found, "components") if row.set == "exact"]
    num = found.plan.num_samples
    gain = components_gain(component.rank_correlation_partial, component.gain_in_errors, num)
    return {"pixels": amplifies(pixel, num), "components": gain}


def test_a_network_without_error_is_rarely_said_to_differ_and_one_with_errors_is() -> None:
    target = bernoulli_mixture(4)
    data = KnownData(target, "tiny", (2, 2), num_test=10)
    clear = {0.0: 0, 0.9: 0}
    for share, seed in product(clear, range(40)):
        plan = Plan((Guidance(2.0),), Sampler(), 40, seed=seed, classes=(0, 1))
        found = found_by(Mixtures(num_test=2, num_draws=1), data, Blurred(target, share), plan)
        (row,) = [row for row in block_of(found, "distances") if row.set == "learned"]
        clear[share] += is_clear(row.energy, found.facts["energy_by_chance"]["2"])
    assert clear[0.0] <= 2 and clear[0.9] >= 38


@pytest.mark.parametrize("components", [1, 3])
def test_what_a_network_has_learned_is_no_noise_of_masks(components: int) -> None:
    """Independent pixels leave nothing to learn; else it is one less the share of the error in the dependence."""
    target = bernoulli_mixture(6, components, 4.0)
    for seed in range(8):
        generator = generator_for("learned", seed)
        x, labels = target.sample(400, generator)
        found = vars(conditionals_error(target, Blurred(target, 0.02 * components), x, labels, 4, generator))
        independent = sum(float(independent_nelbos(x[labels == k], x[labels == k], 2).sum()) for k in range(3)) / 400
        row = ConditionalsRow("conditional", independent=independent, **found)
        shares = re.findall(r"(\d+)%", error_sentence([row], "image"))
        learned = 1 - found["conditionals_kl"] / (independent - found["entropy"])
        assert [int(share) for share in shares] == ([round(100 * learned)] if components > 1 else [])
        few = replace(row, num_examples=2, conditionals_error_se=max(row.independent - row.entropy, 0.1) / 4)
        assert "has learned" not in error_sentence([few], "image")  # four standard errors of two images are chance


def test_one_example_does_not_tell_how_large_the_error_is() -> None:
    target = bernoulli_mixture(6)
    x, classes = target.sample(1, torch.Generator().manual_seed(0))
    found = vars(conditionals_error(target, Blurred(target, 0.2), x, classes, 4, torch.Generator().manual_seed(1)))
    row = ConditionalsRow("conditional", independent=found["entropy"] + 1, **found)
    assert row.conditionals_error_se is None is row.conditionals_kl_se
    assert not re.search(r"nan|inf|learned|±", error_sentence([row], "image"))
