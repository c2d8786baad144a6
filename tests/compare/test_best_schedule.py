"""The best strength per number of unmasked coordinates (theory, section 12)."""

from __future__ import annotations

import math
from functools import cache
from itertools import product

import pytest
import torch
from helpers import Inconsistent, every_pair, random_target
from torch import Tensor

from mdlm_cfg import FunctionDenoiser, Guidance, TableMixture, terminal_law, tilted_law
from mdlm_cfg.chain.kinds import KINDS, kind_of
from mdlm_cfg.chain.policies import Confidence, FixedOrder, KindPolicy, Uniform, policy_of
from mdlm_cfg.compare.best_schedule import (
    DifferentiablePush,
    _descend,
    best_schedule,
    kl_to,
    nelder_mead,
    rises,
    trade_off,
    tv_to,
)
from mdlm_cfg.compare.calibration import calibrated_strengths
from mdlm_cfg.compare.metrics import kl_divergence, total_variation
from mdlm_cfg.targets import toys

SQUARES = [(2.0, (0.58, 2.00), 0.1006), (4.0, (0.78, 4.00), 0.1503)]  # w, its best strengths, TV at w throughout


@pytest.mark.parametrize(("objective", "known"), every_pair(["kl", "tv"], SQUARES))
def test_overlapping_squares_of_the_theory(objective, known):
    w, strengths, constant_tv = known
    target = toys.toy_2d_overlap()
    best = best_schedule(target, w, 0, objective)
    tilted = tilted_law(target, w, 0)
    assert [round(value, 2) for value in best.strengths.values] == list(strengths)
    # judged by the laws, and not by what was differentiated
    assert total_variation(terminal_law(target.denoiser(), best.guidance, 0), tilted) < 1e-8
    constant = terminal_law(target.denoiser(), Guidance(w), 0)
    assert round(total_variation(constant, tilted), 4) == constant_tv
    assert best.constant_value == pytest.approx(
        {"kl": kl_divergence, "tv": total_variation}[objective](tilted, constant)
    )


@pytest.mark.parametrize(
    ("pmfs", "objective"),
    [
        ([[0.2, 0.5, 0.3, 0.0], [0.0, 0.0, 0.0, 1.0]], "kl"),  # no value in common
        ([[0.2, 0.5, 0.3, 0.0], [0.0, 0.0, 0.0, 1.0]], "tv"),
        ([[[0.2, 0.1], [0.4, 0.3]]] * 2, "kl"),  # equal classes
        ([[[0.4, 0.1], [0.1, 0.4]], [[0.1, 0.4], [0.4, 0.1]]], "kl"),  # one coordinate says nothing about the class
    ],
)
def test_where_strengths_make_no_difference_the_best_one_is_w(pmfs, objective):
    target = TableMixture(torch.tensor(pmfs), torch.tensor([0.3, 0.7]))
    assert set(best_schedule(target, 4.0, 0, objective).strengths.values) == {4.0}


def test_the_hypercube_is_corrected_altogether():
    target = toys.toy_5d_hypercube()
    best = best_schedule(target, 2.0, 0)
    tilted = tilted_law(target, 2.0, 0)
    assert total_variation(terminal_law(target.denoiser(), best.guidance, 0), tilted) < 1e-6
    assert best.strengths.values[-1] == pytest.approx(2.0) and max(best.strengths.values[:-1]) < 0.5


@pytest.mark.parametrize(
    "policy", [KindPolicy(KINDS["rate"]), Uniform(), FixedOrder([2, 0, 1]), Confidence(0.5)], ids=str
)
def test_its_push_is_the_law_and_its_gradient_is_that_of_finite_differences(policy):
    for denoiser in (random_target(3, 3, seed=1, zeros=0.3).denoiser(), Inconsistent(3, 3, 2)):
        push = DifferentiablePush(denoiser, 1, policy)
        w = torch.tensor([0.7, -0.4, 2.0], dtype=torch.float64, requires_grad=True)
        law = push(w)
        expected = terminal_law(denoiser, Guidance(w.tolist()), 1, policy)
        assert (law - expected).abs().max() < 1e-13
        goal = kl_to(terminal_law(denoiser, Guidance(1.0), 1))
        (gradient,) = torch.autograd.grad(goal(law), w)
        for k, step in enumerate(1e-5 * torch.eye(3, dtype=torch.float64)):
            there, here = (
                float(goal(terminal_law(denoiser, Guidance((w.detach() + s).tolist()), 1, policy)))
                for s in (step, -step)
            )
            assert float(gradient[k]) == pytest.approx((there - here) / 2e-5, abs=1e-8)


@cache
def _laws_on_a_grid(seed):
    denoiser = random_target(3, 2, seed=seed).denoiser()
    grid = torch.linspace(-1, 5, 21, dtype=torch.float64).tolist()
    return [terminal_law(denoiser, Guidance([a, b]), 1) for a in grid for b in grid]


@pytest.mark.parametrize(("objective", "seed"), every_pair(["kl", "tv"], [3, 4]))
def test_nothing_on_a_grid_is_better(objective, seed):
    target = random_target(3, 2, seed=seed)
    best = best_schedule(target, 1.5, 1, objective)
    tilted = tilted_law(target, 1.5, 1)
    goal = {"kl": kl_to, "tv": tv_to}[objective](tilted)
    least = min(float(goal(law)) for law in _laws_on_a_grid(seed))
    assert best.value <= least + 1e-9 and best.value < best.constant_value
    assert best.value == pytest.approx(float(goal(terminal_law(target.denoiser(), best.guidance, 1))), abs=1e-12)


def test_nothing_of_which_one_strength_is_large_is_better():
    target = TableMixture(
        [[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]], [[0.88, 0.0], [0.0, 0.12]]], [0.51, 0.14, 0.35]
    )
    pmfs = [[[0.92, 0.03], [0.04, 0.01]], [[0.06, 0.0], [0.04, 0.9]], [[0.8, 0.01], [0.07, 0.12]]]
    learned = TableMixture(pmfs, target.class_weights).denoiser()
    goal = kl_to(tilted_law(target, 2.5, 0))
    grid = [-1.0, 0.0, 1.0, 2.5, 10.0, 100.0, 1000.0]
    least = min(float(goal(terminal_law(learned, Guidance([a, b]), 0))) for a in grid for b in grid)
    assert best_schedule(target, 2.5, 0, denoiser=learned).value <= least + 1e-9


def test_one_dimension_is_constant():
    best = best_schedule(random_target(4, 1, seed=2), 2.5, 0)
    assert best.strengths.values == pytest.approx((2.5,)) and abs(best.value) < 1e-12


def test_learned_scores_other_kinds_and_bounds(short_search):
    target = random_target(2, 3, seed=5)
    learned = Inconsistent(2, 3, 2)
    for kind in ("rate", "normalized"):
        best = best_schedule(target, 2.0, 0, kind=kind, denoiser=learned)
        law = terminal_law(learned, best.guidance, 0)
        assert (law - best.law).abs().max() < 1e-12 and best.kind == kind_of(kind)
        assert best.value <= best.constant_value and min(best.strengths.values) >= -1
    for w, z, objective, message in (
        (2.0, 0, "mse", "'mse' .* kl .*tv, "),
        (-2.0, 0, "kl", r"w = -2\.0 .* -1 "),
        (2.0, 9, "kl", "class 9 .* 2 .* 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            best_schedule(target, w, z, objective)
    with pytest.raises(ValueError, match=r"class 9 .* 2 .* 0 to 1"):
        DifferentiablePush(learned, 9, Uniform())


def test_a_class_that_can_be_where_the_mixture_cannot_is_refused():
    def answer(tokens, classes):
        rows = torch.full((*tokens.shape, 2), 0.5, dtype=torch.float64)
        rows[classes == 1] = torch.tensor([1.0, 0.0], dtype=torch.float64)  # no class
        return rows.log()

    with pytest.raises(ValueError, match="class 0 "):
        DifferentiablePush(FunctionDenoiser(answer, 2, 2, 1), 0, Uniform())(torch.ones(2))


def test_what_is_found_is_no_worse_than_any_start():
    target = random_target(2, 3, seed=5)
    learned = Inconsistent(2, 3, 2)
    goal = kl_to(tilted_law(target, 2.0, 0))
    start = (3.0, -0.5, 1.0)
    there = float(goal(terminal_law(learned, Guidance(list(start)), 0)))
    found = best_schedule(target, 2.0, 0, denoiser=learned, more_starts=[start])
    assert found.value <= min(there, best_schedule(target, 2.0, 0, denoiser=learned).value) + 1e-12


@pytest.fixture
def short_search(monkeypatch) -> None:
    """What is asserted holds however far a search goes."""
    for name, least in (("ITERATIONS", 3), ("RANDOM_STARTS", 1), ("VALUES", 5)):
        monkeypatch.setattr(f"mdlm_cfg.compare.best_schedule.{name}", least)


@pytest.fixture
def without_search(monkeypatch) -> None:
    """Nothing moves: the best strengths are one of the starts."""
    monkeypatch.setattr("mdlm_cfg.compare.best_schedule._descend", lambda push, goal, w: w)
    monkeypatch.setattr("mdlm_cfg.compare.best_schedule.nelder_mead", lambda value, start, size, max_values: start)


def test_each_of_its_starts_is_the_best_where_it_is_asked_for(without_search):
    target = random_target(2, 4, seed=8)
    w = 1.7
    given = (0.1, 0.7, -0.3, 2.6)
    constant = terminal_law(target.denoiser(), Guidance(w), 0)
    for strengths in (
        [w] * 4,
        [0, w / 3, 2 * w / 3, w],  # late
        [0.3 * w, 1.6 / 3 * w, 2.3 / 3 * w, w],  # from a third, and rising
        [0.0] * 4,
        [w, w, 100.0, w],  # one large
        given,
    ):
        law = terminal_law(target.denoiser(), Guidance(strengths), 0)
        found = best_schedule(target, w, 0, tv_to(law), more_starts=[given])
        assert found.strengths.values == pytest.approx(strengths, abs=1e-15) and found.value < 1e-13
        assert found.constant_value == pytest.approx(total_variation(law, constant), abs=1e-13)


def test_where_no_descent_in_tv_moves_it_is_where_kl_is_best(monkeypatch):
    squares = torch.zeros(2, 3, 3, dtype=torch.float64)  # that overlap in a corner
    squares[0, :2, :2] = squares[1, 1:, 1:] = 0.25
    target = TableMixture(squares, torch.tensor([0.5, 0.5]))
    tilted = tilted_law(target, 2.0, 0)
    elsewhere = target.class_pmfs[0]

    def stuck(push, goal, w):
        return w if float(goal(elsewhere)) == float(tv_to(tilted)(elsewhere)) else _descend(push, goal, w)

    monkeypatch.setattr("mdlm_cfg.compare.best_schedule._descend", stuck)
    best = best_schedule(target, 2.0, 0, "tv")
    assert total_variation(terminal_law(target.denoiser(), best.guidance, 0), tilted) < 1e-6


def test_a_descent_ends_at_the_bottom_of_a_narrow_valley_and_stays_where_there_is_none():
    def valley(w):
        return (1 - w[0]) ** 2 + 1000 * (w[1] - w[0] ** 2) ** 2

    w = torch.tensor([-0.9, 2.0], dtype=torch.float64)
    assert torch.allclose(_descend(lambda w: w, valley, w), torch.ones(2, dtype=torch.float64), atol=1e-6)
    for start in ([0.7, -0.4, 2.0], [0.0, -0.9, 50.0]):
        w = torch.tensor(start, dtype=torch.float64)
        assert torch.allclose(_descend(lambda w: w, lambda w: 0 * w.sum(), w), w, atol=1e-12)
        assert torch.equal(_descend(lambda w: w, lambda w: math.nan * w.sum(), w), w)  # nowhere a number


@pytest.mark.parametrize("policy", ["confidence", Uniform(), FixedOrder([1, 0])], ids=str)
def test_under_a_policy_the_chain_is_that_of_the_policy(policy, short_search):
    target = random_target(2, 2, seed=9)
    learned = Inconsistent(2, 2, 2)
    best = best_schedule(target, 2.0, 1, policy=policy, denoiser=learned)
    law = terminal_law(learned, best.guidance, 1, policy)
    assert best.policy == policy_of(policy) and (best.law - law).abs().max() < 1e-12
    assert best.value == pytest.approx(kl_divergence(tilted_law(target, 2.0, 1), law), abs=1e-12)
    assert (best_schedule(target, 2.0, 1, denoiser=learned).law - law).abs().max() > 1e-3


def test_a_stated_trade_off_moves_between_its_ends():
    target = random_target(3, 2, seed=6)
    sure, many = (best_schedule(target, 1.0, 0, trade_off(target, 0, weight)) for weight in (0.01, 3.0))

    def entropy(law):
        return float(-torch.special.xlogy(law, law).sum())

    def posterior(law):
        return float((law * (target.class_weights[0] * target.class_pmfs[0] / target.pmf).log()).sum())

    assert entropy(many.law) > entropy(sure.law) + 0.1 and posterior(sure.law) > posterior(many.law) + 0.01
    assert many.value == pytest.approx(-posterior(many.law) - 3.0 * entropy(many.law))


def test_a_trade_off_is_the_formula_and_infinite_where_the_class_is_impossible():
    target = random_target(2, 2, k=3, seed=5)
    law = random_target(2, 2, seed=6).class_pmf(0)
    cells = list(product(range(2), repeat=2))
    doubt = {x: float(target.class_weights[1] * target.class_pmfs[1][x] / target.pmf[x]) for x in cells}
    expected = sum(float(law[x]) * (-math.log(doubt[x]) + 0.3 * math.log(float(law[x]))) for x in cells)
    both = (float(trade_off(target, 1, 0.3)(law)), trade_off(target, 1, 0.3).value(law))
    assert both == pytest.approx((expected, expected), rel=1e-12)
    apart = TableMixture([[0.5, 0.5, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0]], [0.5, 0.5])
    for state in range(4):  # of the other class alone, and of neither
        value = trade_off(apart, 0, 0.0).value(torch.eye(4, dtype=torch.float64)[state])
        assert value == pytest.approx([math.log(2), 0.0, math.inf, math.inf][state], abs=1e-15)


def test_the_value_of_a_trade_off_is_infinite_where_conditionals_give_what_the_class_does_not_have(without_search):
    target = TableMixture([[[0.4, 0.1], [0.5, 0.0]], [[0.1, 0.2], [0.3, 0.4]]], [0.5, 0.5])
    best = best_schedule(target, 1.0, 0, trade_off(target, 0, 0.5), denoiser=Inconsistent(2, 2, 2))
    assert best.value == best.constant_value == math.inf


def test_strengths_rise_where_none_falls_and_the_last_is_above_the_first() -> None:
    for strengths, answer in (
        ([0, 1, 2], True),
        ([0, 0, 2], True),
        ([1, 1, 1], False),
        ([0, 2, 1], False),
        ([0, 1, 1 - 5e-4], True),
        ([0, 5e-4], False),
        ([1], False),
        ([2, 1], False),
    ):
        assert rises(strengths) == answer


def _perturbed_least(
    target: TableMixture, w: float, kind: str, policy: str | None, strengths: tuple[float, ...]
) -> float:
    """The least TV to the tilted law among random strengths, most of them near some that were found."""
    push = DifferentiablePush(target.denoiser(), 0, KindPolicy(KINDS[kind]) if policy is None else policy_of(policy))
    goal = tv_to(tilted_law(target, w, 0))
    generator = torch.Generator().manual_seed(1)
    centre = torch.tensor(strengths, dtype=torch.float64)
    found = []
    for scale in (1e-4, 1e-3, 1e-2, 0.1, 0.5, 2.0):
        for move in scale * torch.randn(60, len(strengths), generator=generator, dtype=torch.float64):
            found.append(float(goal(push((centre + move).clamp(min=-1)))))
    return min(found)


@pytest.mark.parametrize(
    ("shape", "seed", "w", "kind", "policy"),
    [
        pytest.param((3, 2), 1, 2.0, "rate", None, marks=pytest.mark.slow),
        pytest.param((2, 3), 0, 2.0, "rate", None, marks=pytest.mark.slow),
        ((2, 3), 3, 2.0, "rate", None),
        ((3, 2), 1, -0.5, "normalized", None),
        pytest.param((3, 3), 0, 2.0, "normalized", None, marks=pytest.mark.slow),
        pytest.param((2, 3), 5, 2.0, "rate", "entropy", marks=pytest.mark.slow),
        pytest.param((2, 4), 0, 2.0, "rate", None, marks=pytest.mark.slow),
        pytest.param((2, 4), 1, 2.0, "rate", None, marks=pytest.mark.slow),
        pytest.param((3, 3), 4, 2.0, "rate", "confidence", marks=pytest.mark.slow),
    ],
)
def test_no_random_strengths_are_better_in_tv(shape, seed, w, kind, policy) -> None:
    target = random_target(*shape, k=2, seed=seed)
    found = best_schedule(target, w, 0, "tv", kind=kind, policy=policy)
    assert found.value <= 1.001 * _perturbed_least(target, w, kind, policy, found.strengths.values)
    goal = tv_to(tilted_law(target, w, 0))
    for strengths in ([w] * shape[1], calibrated_strengths(target, w, 0)):
        law = terminal_law(target.denoiser(), Guidance(strengths, kind), 0, policy)
        assert found.value <= float(goal(law)) + 1e-12


def test_what_is_found_does_not_hang_on_a_jump_of_the_order(monkeypatch) -> None:
    for name, least in (("RANDOM_STARTS", 2), ("VALUES", 60)):
        monkeypatch.setattr(f"mdlm_cfg.compare.best_schedule.{name}", least)
    target = random_target(2, 2, k=2, seed=1)
    found = best_schedule(target, 2.0, 0, "tv", policy="confidence")
    goal = tv_to(tilted_law(target, 2.0, 0))
    for nudge in (-5e-8, 5e-8):
        strengths = [max(w + nudge, -1.0) for w in found.strengths.values]
        law = terminal_law(target.denoiser(), Guidance(strengths), 0, "confidence")
        assert float(goal(law)) <= found.value + 1e-5


def test_the_divergence_from_a_law_without_support_is_infinite_and_no_number() -> None:
    target = random_target(2, 2, seed=3)
    never = TableMixture(torch.tensor([[[0.5, 0.5], [0.0, 0.0]]] * 2), torch.tensor([0.5, 0.5])).denoiser()
    best = best_schedule(target, 2.0, 0, denoiser=never)
    assert best.value == best.constant_value == math.inf
    strong = best_schedule(target, 1e3, 1)
    assert strong.value == pytest.approx(kl_divergence(tilted_law(target, 1e3, 1), strong.law), abs=1e-9)


def kink(x: Tensor) -> float:
    """Least at (1, 2, ...), where no derivative exists; a narrow valley runs into it."""
    apart = x - torch.arange(1, len(x) + 1)
    return float(apart.abs().sum() + 30 * (apart - apart.roll(1)).abs().max())


@pytest.mark.parametrize("num_dims", [1, 2, 3])
def test_kinks_are_found(num_dims: int) -> None:
    found = nelder_mead(kink, torch.zeros(num_dims, dtype=torch.float64), 0.5, 4000)
    assert kink(found) < 1e-3


def test_a_jump_is_approached_from_the_side_that_is_allowed() -> None:
    def value(x: Tensor) -> float:
        return math.inf if float(x[0]) < 0.3 else float(x.square().sum())

    found = nelder_mead(value, torch.tensor([1.0, 1.0], dtype=torch.float64), 0.2, 4000)
    assert 0.09 <= value(found) < 0.0901


def test_it_stays_where_nothing_is_better_and_within_its_number_of_values() -> None:
    asked = []

    def flat(x: Tensor) -> float:
        asked.append(x)
        return 1.0

    start = torch.tensor([0.4, -0.2], dtype=torch.float64)
    assert torch.equal(nelder_mead(flat, start, 0.1, 100), start) and len(asked) <= 103
