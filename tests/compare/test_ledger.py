"""The error ledger: its lines are metrics, its prediction holds, and the error has its states (theory, section 8)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers import Inconsistent, random_target
from oracle import Chain
from scipy.stats import binom

from mdlm_cfg import Guidance, Sampler, TableMixture, error_ledger, terminal_law, tilted_law
from mdlm_cfg.chain.adaptive_cfg import AdaptiveCFG
from mdlm_cfg.chain.guidance import LinearRamp
from mdlm_cfg.chain.policies import Confidence, Uniform
from mdlm_cfg.chain.product_rules import Compose, Negative
from mdlm_cfg.compare.by_state import MixedDenoiser, conditionals_error_by_state
from mdlm_cfg.compare.ledger import LINES, ledger_laws, ledger_of, predicted_sample_tv
from mdlm_cfg.compare.metrics import (
    expected_sampling_tv,
    kl_divergence,
    mean_and_covariance,
    multinomial_counts,
    total_variation,
)
from mdlm_cfg.laws.push import visit_law
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for


def test_the_interval_misses_one_in_a_hundred_however_few_draws_it_is_made_of():
    law = random_target(3, 2, seed=4).pmf
    generator = torch.Generator().manual_seed(0)
    repeats = 4000
    counts = multinomial_counts(law.flatten(), 50, repeats, generator)
    sampled = ((counts / 50 - law.flatten()).abs().sum(dim=1) / 2).tolist()
    intervals = [predicted_sample_tv(law, law, 50, 199, generator) for _ in sampled]
    missed = sum(not one.low <= tv <= one.high for one, tv in zip(intervals, sampled))
    assert missed <= binom.ppf(1 - 1e-5, repeats, 0.01), missed


@pytest.mark.parametrize("excess", [0, 1e-15, 1e-14])
def test_the_interval_of_disjoint_laws_holds_their_distance(excess: float) -> None:
    """Where a law's rounded sum exceeds 1, so does half of the sum of differences: TV is 1 all the same."""
    reference = torch.tensor([0.25, 0.75 + excess, 0.0], dtype=torch.float64)
    law = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    predicted = predicted_sample_tv(reference, law, 9, generator=generator_for("disjoint"))
    assert predicted.low <= total_variation(reference, law) <= predicted.high <= 1


@pytest.mark.parametrize(("beyond", "closes"), [(1e-16, True), (1e-6, False)])
def test_a_total_at_an_end_of_its_interval_balances_whatever_the_order_of_its_sum(beyond: float, closes: bool) -> None:
    """Of few states many draws have the total of an end, which rounding must not put outside."""
    target = random_target(3, 2, seed=4)
    found = error_ledger(target, target.denoiser(), Guidance(2.0), 0, num_samples=20, generator=generator_for("end"))
    ends = found.predicted_total
    for total in (ends.low - beyond, ends.high + beyond):
        assert replace(found, tv=found.tv | {"total": total}).closes is closes


RARE = TableMixture(torch.tensor([[[0.4, 0.0], [0.6, 0.0]], [[0.7, 0.0], [0.3, 0.0]]]), torch.tensor([0.5, 0.5]))


WITHOUT_MIXTURE = [Guidance(0.0), Guidance(2.0, rule=Negative(1)), Guidance(0.0, rule=Compose({0: 1}))]


@pytest.mark.parametrize("guidance", WITHOUT_MIXTURE, ids=str)
def test_where_the_mixture_plays_no_part_the_whole_error_is_that_of_the_classes(guidance) -> None:
    found = ledger_laws(RARE, Inconsistent(2, 2, 2), guidance, 0)  # which gives every value a probability
    whole = total_variation(found.laws["L2"], found.laws["L3"])
    assert found.error_alone == {"conditional": pytest.approx(whole, abs=1e-14), "unconditional": pytest.approx(0)}


def test_the_class_is_left_as_it_is_at_levels_without_guidance() -> None:
    """The second coordinate is unmasked without guidance: by what is learned of the class alone."""
    found = ledger_laws(RARE, Inconsistent(2, 2, 2), Guidance([3.0, 0.0]), 0)
    kept = MixedDenoiser(Inconsistent(2, 2, 2), RARE.denoiser(), [True, False])
    first = terminal_law(kept, Guidance([3.0, 0.0]), 0)
    assert float(first[:, 1].sum()) > 0.01  # values that the mixture does not have
    assert found.error_alone["conditional"] == pytest.approx(total_variation(found.laws["L2"], first), abs=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_a_rule_that_asks_the_mixture_elsewhere_leaves_the_learned_class_as_it_is(seed: int) -> None:
    """A-CFG divides by the mixture of another state: what it lacks at this one makes no rate infinite."""
    target = random_target(2, 3, seed=seed, zeros=0.3)
    learned = Inconsistent(2, 3, 2)
    guidance = Guidance(2.0, rule=AdaptiveCFG(k=1))
    try:
        alone = terminal_law(MixedDenoiser(learned, target.denoiser(), [False] * 3), guidance, 0)
    except UserError:  # an infinite rate
        alone = None
    found = ledger_laws(target, learned, guidance, 0)
    expected = None if alone is None else pytest.approx(total_variation(found.laws["L2"], alone), abs=1e-14)
    assert found.error_alone["conditional"] == expected


@pytest.mark.parametrize("policy", [None, Confidence()], ids=str)
@pytest.mark.parametrize("strength", [2.0, LinearRamp(0, 2)], ids=str)
def test_the_targets_own_denoiser_is_judged_without_a_conditionals_error(strength, policy):
    target = random_target(3, 2, k=3, seed=8)
    guidance = Guidance(strength)
    own = ledger_laws(target, None, guidance, 2, policy)
    learned = ledger_laws(target, target.denoiser(), guidance, 2, policy)  # the same, as if nobody knew
    assert own.target is target and own.learned is None and own.guidance is guidance
    assert own.target_class == 2 and own.policy is policy and set(own.laws) == set(learned.laws)
    assert all(torch.allclose(own.laws[name], law, atol=1e-12) for name, law in learned.laws.items())
    assert (own.error_alone, own.states, own.visit_error) == ({}, [], [])
    made = Sampler("event_leaping", events=2, policy=policy)
    found, same = (ledger_of(laws, made, 500, generator_for("own")) for laws in (own, learned))
    assert found.tv["error of the network"] == 0 and found.tv["discretisation error"] > 0.001
    assert found.tv == pytest.approx(same.tv, abs=1e-12)


def test_a_sampler_by_its_name_is_made_of_its_steps_and_schedule():
    target = random_target(2, 2)
    learned = Inconsistent(2, 2, 2)
    guidance = Guidance(1.0)
    found = error_ledger(target, learned, guidance, 0, "tau_leaping", 3, "cosine", num_samples=10)
    assert found.sampler == Sampler("tau_leaping", 3, "cosine") != Sampler("tau_leaping", 3)
    found = error_ledger(target, learned, guidance, 0)
    assert found.sampler == Sampler() and found.num_samples == 10_000


def visits_of(target, guidance, z, policy):
    """The chance to pass through every partial state, by following every path."""
    chain = Chain(target.denoiser(), guidance.w, "rate", z)
    visits = dict.fromkeys(chain.states, 0.0)

    def follow(state, chance):
        visits[state] += chance
        totals = {i: t for i, t in chain.totals(state).items() if t > 0}
        for i, total in totals.items():
            pick = total / sum(totals.values()) if policy is None else 1 / len(totals)
            for v, rate in enumerate(chain.rates[state][i]):
                if rate > 0:
                    follow((*state[:i], v, *state[i + 1 :]), chance * pick * rate / total)

    follow(chain.start, 1.0)
    return visits


@pytest.mark.parametrize("policy", [None, Uniform()])
def test_errors_are_visits_times_divergences(policy) -> None:
    target = random_target(2, 3, seed=3, zeros=0.4)
    learned = Inconsistent(2, 3, 2)
    guidance = Guidance(1.5)
    n = 2
    states, by_level = conditionals_error_by_state(target, learned, guidance, 1, 10**6, policy)
    visits = visits_of(target, guidance, 1, policy)
    exact = target.denoiser()
    expected = {}
    levels = [[0.0, 0.0] for _ in range(3)]
    for state, chance in visits.items():
        if chance == 0 or n not in state:
            continue
        kls = []
        for k in (1, 2):
            log_p, log_q = (d(torch.tensor([state]), torch.tensor([k]))[0].tolist() for d in (exact, learned))
            kls.append(
                sum(
                    math.exp(log_p[i][v]) * (log_p[i][v] - log_q[i][v])
                    for i in range(3)
                    for v in range(2)
                    if state[i] == n and log_p[i][v] > -math.inf
                )
            )
        expected[state] = (chance, *kls)
        for j in (0, 1):
            levels[sum(v != n for v in state)][j] += chance * kls[j]
    assert {s.state for s in states} == set(expected)
    for s in states:
        assert (s.visits, s.kl_conditional, s.kl_unconditional) == pytest.approx(expected[s.state], rel=1e-9)
    assert [list(pair) for pair in by_level] == [pytest.approx(pair, rel=1e-9) for pair in levels]
    weights = [s.visits * (s.kl_conditional + s.kl_unconditional) for s in states]
    assert weights == sorted(weights, reverse=True)
    for most in range(1, len(states)):
        assert conditionals_error_by_state(target, learned, guidance, 1, most, policy) == (states[:most], by_level)
    for half in (MixedDenoiser(learned, exact), MixedDenoiser(exact, learned)):  # one conditional is wrong, one is not
        whole, _ = conditionals_error_by_state(target, half, guidance, 1, 10**6, policy)
        assert conditionals_error_by_state(target, half, guidance, 1, 3, policy)[0] == whole[:3]
    assert len(conditionals_error_by_state(random_target(3, 3), Inconsistent(3, 3, 2), guidance, 1)[0]) == 20


def test_a_split_denoiser_asks_the_one_for_classes_and_the_other_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    a = Inconsistent(2, 2, 2, seed=1)
    b = Inconsistent(2, 2, 2, seed=2)
    split = MixedDenoiser(a, b)
    tokens = torch.tensor([[2, 2], [0, 2]])
    assert (split.num_tokens, split.num_dims, split.num_classes, split.device) == (2, 2, 2, torch.device("cpu"))
    for null in (None, torch.tensor([2, 2])):
        assert torch.equal(split(tokens, null), b(tokens, null))
    for k in (0, 1):
        classes = torch.full((2,), k)
        assert torch.equal(split(tokens, classes), a(tokens, classes))
    # row by row; and as on an accelerator, which is not asked which classes there are
    tokens, classes = torch.cartesian_prod(*[torch.arange(3)] * 3).split([2, 1], dim=1)
    expected = torch.where((classes == 2)[..., None], b(tokens, None), a(tokens, classes.squeeze(1)))
    for waits in (True, False):
        monkeypatch.setattr("mdlm_cfg.chain.denoiser.is_on_cpu", lambda values, waits=waits: waits)
        assert torch.equal(split(tokens, classes.squeeze(1)), expected)


def test_a_learned_class_is_restricted_to_what_the_exact_mixture_allows() -> None:
    target = random_target(3, 2, seed=4, zeros=0.7)
    learned = Inconsistent(3, 2, 2)
    exact = target.denoiser()
    split = MixedDenoiser(learned, exact)
    tokens = torch.tensor([[3, 3], [0, 3], [3, 2]])
    found = split(tokens, torch.tensor([1, 1, 1])).exp()
    whole = exact(tokens, None).exp()
    own = learned(tokens, torch.tensor([1, 1, 1])).exp()
    assert bool((whole == 0).any())
    inside = torch.where(whole > 0, own, 0.0)
    assert torch.allclose(found, inside / inside.sum(dim=-1, keepdim=True))


@pytest.mark.parametrize("policy", [None, Confidence()])
@pytest.mark.parametrize("sampler", ["first_hitting", "event_leaping"])
def test_a_ledger_is_made_of_its_laws(policy, sampler) -> None:
    target = random_target(3, 2, k=3, seed=5)
    learned = Inconsistent(3, 2, 3)
    guidance = Guidance(1.5)
    z = 2
    made = Sampler(sampler, None if sampler == "first_hitting" else 1, policy=policy)
    shared = ledger_laws(target, learned, guidance, z, made.policy)
    exact = target.denoiser()
    x = made.draw(learned, guidance, z, 400, generator_for("ledger"))
    found = ledger_of(shared, made, 1, generator_for("ledger"), samples=x)
    laws = {
        "L0": target.class_pmfs[z],
        "L1": tilted_law(target, 1.5, z),
        "L2": terminal_law(exact, guidance, z, policy),
        "L3": terminal_law(learned, guidance, z, policy),
        "L2'": made.law(exact, guidance, z),
        "L3'": made.law(learned, guidance, z),
        "L4": torch.bincount(x[:, 0] * 3 + x[:, 1], minlength=9).double().view(3, 3) / 400,
    }
    assert set(found.laws) == set(laws) and found.num_samples == 400 and found.sampler is made
    for name, law in laws.items():
        assert torch.allclose(found.laws[name], law, atol=1e-12), name
    for line, (a, b) in LINES.items():
        assert found.tv[line] == pytest.approx(total_variation(laws[a], laws[b]), abs=1e-12)
        assert found.kl[line] == pytest.approx(kl_divergence(laws[a], laws[b]), abs=1e-12)
        (m, c) = mean_and_covariance(laws[b])
        (own_m, own_c) = mean_and_covariance(laws[a])
        assert found.mean[line] == {"euclidean": pytest.approx(float((m - own_m).norm() / own_m.norm()), abs=1e-9)}
        assert found.covariance[line]["frobenius"] == pytest.approx(float((c - own_c).norm() / own_c.norm()), abs=1e-9)
    for name, swapped in (("conditional", (learned, exact)), ("unconditional", (exact, learned))):
        share = total_variation(laws["L2"], terminal_law(MixedDenoiser(*swapped), guidance, z, policy))
        assert shared.error_alone[name] == pytest.approx(share, abs=1e-12)
    states, by_level = conditionals_error_by_state(target, learned, guidance, z, policy=made.policy)
    assert shared.states == states and shared.visit_error == by_level
    assert found.expected_noise == pytest.approx(expected_sampling_tv(laws["L3'"], 400), rel=1e-12)
    assert len(visit_law(exact, guidance, z, policy)) == 3
    with pytest.raises(ValueError, match=f"first_hitting, margin .* {policy or 'rate'}: "):
        ledger_of(shared, Sampler(policy="margin"), 10)


def test_a_prediction_is_quantiles_of_drawn_histograms(monkeypatch: pytest.MonkeyPatch) -> None:
    law = random_target(3, 2, seed=1).pmf
    reference = random_target(3, 2, seed=2).pmf
    found = predicted_sample_tv(reference, law, 50, 300, generator_for("p"))
    counts = multinomial_counts(law.flatten(), 50, 300, generator_for("p"))
    tv = 0.5 * (counts / 50 - reference.flatten()).abs().sum(dim=1)
    assert found.value == pytest.approx(float(tv.mean()), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((float(tv.min()), float(tv.max())), rel=1e-9)  # 1 in 301 is 0.3%
    assert predicted_sample_tv(reference, law, 50, generator=generator_for("p")) == predicted_sample_tv(
        reference, law, 50, 1000, generator_for("p")
    )
    # some at a time, and one by one where a histogram has more cells than are held
    for cells, blocks in ((9 * 128, [128, 128, 44]), (4, [1] * 300)):
        monkeypatch.setattr("mdlm_cfg.compare.ledger.DRAWN_CELLS", cells)
        again = predicted_sample_tv(reference, law, 50, 300, generator_for("p", cells))
        g = generator_for("p", cells)
        counts = torch.cat([multinomial_counts(law.flatten(), 50, size, g) for size in blocks])
        tv = 0.5 * (counts / 50 - reference.flatten()).abs().sum(dim=1)
        assert again.value == pytest.approx(float(tv.mean()), rel=1e-12)
        assert again.value == pytest.approx(found.value, rel=0.02)
