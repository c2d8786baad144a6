"""Guided rates, schedules and tables at their edges."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import random_target
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from mdlm_cfg import Guidance, TableMixture, UserError, terminal_law, tilted_law
from mdlm_cfg.chain.guidance import interval, linear_ramp
from mdlm_cfg.chain.rules import geometric_mean
from mdlm_cfg.chain.schedules import Schedule, cosine, event_counts, exponential, linear, step_fractions
from mdlm_cfg.targets import toys


@given(w=st.floats(-1, 400), a=st.floats(1e-6, 1), b=st.floats(1e-6, 1))
def test_geometric_mean_is_the_formula(w, a, b):
    cond = torch.tensor([a], dtype=torch.float64).log()
    uncond = torch.tensor([b], dtype=torch.float64).log()
    expected = (1 + w) * math.log(a) - w * math.log(b)
    assert math.isclose(float(geometric_mean(cond, uncond, w)), expected, rel_tol=1e-9, abs_tol=1e-9)


def test_supports_are_explicit():
    inf = math.inf
    cond = torch.tensor([-inf, -inf, -0.5], dtype=torch.float64)
    uncond = torch.tensor([-inf, -1.0, -1.0], dtype=torch.float64)
    for w in (-1.0, -0.5, 0.0, 0.7, 300.0):
        log_rho = geometric_mean(cond, uncond, w)
        assert log_rho[:2].tolist() == [-inf, -inf] and torch.isfinite(log_rho[2])
    assert geometric_mean(torch.tensor([-1.0]), torch.tensor([-inf]), 1.0).tolist() == [inf]
    pmfs = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    denoiser = TableMixture(pmfs, torch.tensor([0.0, 1.0])).denoiser()  # class 0 lies outside its mixture
    with pytest.raises(UserError, match=r"infinite rate in the partial state \(mask\): class 0 has probability"):
        Guidance(1.0).log_rates(denoiser, torch.full((1000, 1), 2), 0)
    with pytest.raises(UserError, match="infinite rate"):
        terminal_law(denoiser, Guidance(1.0), 0)
    # under strong guidance too, where the first coordinates are as in the mixture and the pairs are not
    pmfs = torch.tensor([[[0.5, 0.0], [0.0, 0.5]], [[0.0, 0.5], [0.5, 0.0]]])
    target = TableMixture(pmfs, torch.tensor([0.0, 1.0]))
    said = r"w = 10000 .* partial state \(0, 0\): class 0 has"
    with pytest.raises(UserError, match=said):
        terminal_law(target.denoiser(), Guidance(1e4), 0)
    with pytest.raises(UserError, match=said):
        tilted_law(target, 1e4, 0)
    with pytest.raises(UserError, match="infinite rate"):
        tilted_law(target, 0.5, 0)


@pytest.mark.parametrize("w", [-1.01, math.inf, math.nan])
def test_strengths_below_minus_one_are_refused(w):
    with pytest.raises(ValueError, match="at least -1"):
        Guidance(w)
    with pytest.raises(ValueError, match="at least -1"):
        Guidance(lambda progress: w).strength(0, 2)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="choose one of rate, normalized"):
        Guidance(1.0, "logit")


def test_schedules_of_w():
    assert [linear_ramp(1, 3)(p) for p in (0, 0.5, 1)] == [1, 2, 3]
    assert [interval(2.0, 0.25, 0.75)(p) for p in (0, 0.25, 0.5, 0.75, 0.8)] == [0, 2, 2, 2, 0]
    # a ramp reaches both its ends: of D coordinates, the first is unmasked at its start and the last at its end
    assert Guidance(linear_ramp(0.0, 4.0)).table(2) == [0, 4]
    assert Guidance(linear_ramp(0.0, 4.0)).table(5) == [0, 1, 2, 3, 4]
    assert Guidance(interval(2.0, 0.5, 1.0)).table(3) == [0, 2, 2]


def test_impossible_states_are_answered_by_the_mixture_and_then_by_the_uniform():
    pmfs = torch.zeros(2, 3, 3, dtype=torch.float64)
    pmfs[0, 0, 0] = 1.0
    pmfs[1, 1, 1] = 0.25
    pmfs[1, 1, 2] = 0.75
    denoiser = TableMixture(pmfs, torch.tensor([0.5, 0.5])).denoiser()
    mask = 3
    tokens = torch.tensor([[1, mask], [2, mask]])
    out = denoiser(tokens, torch.tensor([0, 0])).exp()[:, 1]
    assert torch.allclose(out[0], torch.tensor([0, 0.25, 0.75], dtype=torch.float64))
    assert torch.allclose(out[1], torch.full((3,), 1 / 3, dtype=torch.float64))


def test_table_denoiser_against_bayes():
    target = random_target(3, 3, k=2, seed=2)
    tokens = torch.tensor([[1, 3, 2], [3, 3, 3], [0, 1, 3]])
    out = target.denoiser()(tokens, torch.tensor([1, 2, 0])).exp()
    p1 = target.class_pmfs[1][1, :, 2]
    assert torch.allclose(out[0, 1], p1 / p1.sum())
    assert torch.allclose(out[1, 0], target.pmf.sum(dim=(1, 2)))
    assert out[0, 0].tolist() == [0, 1, 0] and out[0, 2].tolist() == [0, 0, 1]  # unmasked rows are copied


@pytest.mark.parametrize("target_class", [None, 1])
def test_stratified_samples_have_every_state_as_often_as_it_should_be(target_class):
    target = random_target(3, 2, seed=4, zeros=0.3)
    x, classes = target.sample(1000, torch.Generator().manual_seed(0), target_class, stratified=True)
    cells = classes * 9 + x[:, 0] * 3 + x[:, 1]
    counts = torch.bincount(cells, minlength=18).double()
    law = (target.class_weights[:, None] * target.class_pmfs.flatten(1)).flatten()
    if target_class is not None:
        law = torch.zeros(18, dtype=torch.float64)
        law[9 * target_class :] = target.class_pmfs[target_class].flatten()
    assert float((counts - 1000 * law).abs().max()) < 2  # each end of a state's interval cuts one stratum
    assert bool((counts[law == 0] == 0).all())
    # a random order: the first half is as good a sample as the second
    half = torch.bincount(cells[:500], minlength=18).double()
    assert (
        chi2.sf(float(((half - counts / 2) ** 2 / (counts / 4))[counts > 0].sum()), int((counts > 0).sum()) - 1) > 1e-3
    )


def test_table_samples_follow_the_table():
    target = random_target(3, 2, k=3, seed=5, zeros=0.3)
    x, classes = target.sample(100_000, torch.Generator().manual_seed(0))
    cells = torch.bincount(classes * 9 + x[:, 0] * 3 + x[:, 1], minlength=27) / 100_000
    expected = (target.class_weights[:, None, None] * target.class_pmfs).flatten()
    assert (cells - expected).abs().max() < 5 * (0.25 / 100_000) ** 0.5
    assert bool((cells[expected == 0] == 0).all())


def test_tables_are_checked():
    good = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"holds -0\.5"):
        TableMixture(torch.tensor([[1.5, -0.5], [1.0, 0.0]]), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"class 1 of class_pmfs sums to 1\.1"):
        TableMixture(torch.tensor([[0.5, 0.5], [1.0, 0.1]]), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"class_weights sums to 0\.9"):
        TableMixture(good, torch.tensor([0.5, 0.4]))
    with pytest.raises(ValueError, match="holds nan"):
        TableMixture(good * math.nan, torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="must have shape"):
        TableMixture(good, torch.tensor([1.0]))
    with pytest.raises(ValueError, match="class 2 is out of range"):
        TableMixture(good, torch.tensor([0.5, 0.5])).class_pmf(2)


@pytest.mark.parametrize("name", [n for n in dir(toys) if n.startswith("toy_")])
def test_toys_are_mixtures(name):
    target = getattr(toys, name)()
    assert abs(float(target.pmf.sum()) - 1) < 1e-12
    shared = (target.class_pmfs > 0).sum(dim=0).max()
    assert (shared == 1) == (name in ("toy_1d_disjoint", "toy_2d_projection"))


@pytest.mark.parametrize("schedule", [linear(), cosine(), exponential(5.0)], ids=["linear", "cosine", "exponential"])
def test_noise_schedules_and_the_clock(schedule):
    assert schedule.alpha(0.0) == 1
    t = torch.linspace(schedule.horizon, 0, 8, dtype=torch.float64)
    alpha = schedule.alpha(t)
    tau = schedule.tau(t)
    assert tau[0] == 0 and tau[-1] == math.inf and bool((alpha[1:] > alpha[:-1]).all())
    u = step_fractions(7, schedule)
    assert u[-1] == 1
    assert torch.allclose(u, 1 - torch.exp(-(tau[1:] - tau[:-1])))
    with pytest.raises(ValueError, match="outside"):
        schedule.alpha(schedule.horizon + 0.1)


def test_schedules_are_checked():
    with pytest.raises(ValueError, match="choose one of linear, cosine, exponential"):
        Schedule("quadratic")
    with pytest.raises(ValueError, match="horizon"):
        Schedule("linear", 2.0)
    assert [str(schedule) for schedule in (linear(), exponential(), exponential(5.0))] == [
        "linear",
        "exponential",
        "exponential(T=5)",
    ]


@given(steps=st.integers(1, 70), d=st.integers(1, 60))
def test_event_counts(steps, d):
    counts = event_counts(steps, d)
    assert sum(counts) == d and min(counts) >= 1 and len(counts) <= steps
    if steps >= d:
        assert counts == [1] * d


def test_lists_keep_their_digits():
    target = TableMixture([[0.1, 0.9], [0.3, 0.7]], [0.4, 0.6])
    assert target.class_pmfs.tolist() == [[0.1, 0.9], [0.3, 0.7]] and target.class_pmfs.dtype == torch.float64


@pytest.mark.parametrize("target_class", [None, 1])
def test_stratified_samples_invert_the_cdf_one_by_one(target_class: int | None) -> None:
    """Each draw is the first state whose cumulated probability exceeds (its stratum + its uniform) / n."""
    target = random_target(3, 3, k=2, seed=7, zeros=0.4)
    num = 300
    x, classes = target.sample(num, torch.Generator().manual_seed(5), target_class, stratified=True)
    generator = torch.Generator().manual_seed(5)
    uniform = torch.rand(num, generator=generator, dtype=torch.float64)
    strata = torch.randperm(num, generator=generator)
    joint = target.class_weights[:, None] * target.class_pmfs.flatten(1)
    cdf = (joint.flatten() if target_class is None else target.class_pmf(target_class).flatten()).cumsum(0)
    for row, own, u, stratum in zip(x.tolist(), classes.tolist(), uniform.tolist(), strata.tolist()):
        cell = next(k for k, level in enumerate(cdf.tolist()) if level > (stratum + u) / num * float(cdf[-1]))
        assert row == [cell // 9 % 3, cell // 3 % 3, cell % 3]
        assert own == (cell // 27 if target_class is None else target_class)
