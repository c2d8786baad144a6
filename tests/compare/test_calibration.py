"""Calibrated strengths, exactly and from data (theory, section 21); against plain sums: tests/verify, test_profile."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from helpers import Blurred, random_target
from hypothesis import given, settings, strategies as st
from torch import nn

from mdlm_cfg import (
    Denoiser,
    FunctionDenoiser,
    Guidance,
    TableMixture,
    UserError,
    calibrate,
    calibrated_strengths,
    terminal_law,
    tilted_law,
)
from mdlm_cfg.chain.denoiser import rounding_of
from mdlm_cfg.compare.calibration import Calibration, minimise
from mdlm_cfg.compare.level_rows import exact_rows
from mdlm_cfg.compare.metrics import kl_divergence, total_variation
from mdlm_cfg.compare.path_kl import path_kl
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.studies.benchmark.targets import motif, rotation, tiny_mnist
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.toys import toy_2d_overlap, toy_5d_hypercube


def tv_of(target: TableMixture, w: float, z: int, strengths: object, kind: str = "normalized") -> float:
    law = terminal_law(target.denoiser(), Guidance(strengths, kind), z)  # type: ignore[arg-type]
    return float(total_variation(law, tilted_law(target, w, z)))


@pytest.mark.parametrize(
    ("make", "w", "z", "strengths", "tolerance"),
    [
        (toy_2d_overlap, 1.0, 0, (0.363, 1), 6e-4),
        (toy_2d_overlap, 2.0, 0, (0.585, 2), 6e-4),
        (toy_2d_overlap, 4.0, 0, (0.778, 4), 6e-4),
        (toy_5d_hypercube, 2.0, 1, (0.013, 0.041, 0.126, 0.415, 2), 6e-4),
        (lambda: rotation(5).table(), 2.0, 1, (0.125, 0.424, 0.555, 0.987, 2), 6e-4),
        (lambda: motif().table(), 2.0, 0, (0.93, 1.25, 1.63, 1.92, 2), 6e-3),
    ],
)
def test_the_values_of_the_theory(make, w, z, strengths, tolerance) -> None:
    found = calibrated_strengths(make(), w, z)
    assert found == pytest.approx(strengths, abs=tolerance)
    assert found[-1] == pytest.approx(w, abs=1e-12)


def test_what_it_gains_in_the_theory() -> None:
    # the guided chain in uniform order, whose paths the fit brings near to the ideal ones
    target = rotation(5).table()
    assert tv_of(target, 2.0, 1, 2.0) == pytest.approx(0.1245, abs=6e-5)
    assert tv_of(target, 2.0, 1, calibrated_strengths(target, 2.0, 1)) == pytest.approx(0.0382, abs=6e-5)
    assert tv_of(toy_2d_overlap(), 2.0, 0, calibrated_strengths(toy_2d_overlap(), 2.0, 0)) < 1e-12


def test_digit_3_on_3x3_cells() -> None:
    found = calibrated_strengths(tiny_mnist(), 2.0, 3)
    assert found[0] == pytest.approx(1.05, abs=6e-3) and found[-1] == pytest.approx(2.0, abs=1e-12)
    assert all(a < b + 1e-9 for a, b in pairwise(found))
    assert tv_of(tiny_mnist(), 2.0, 3, found) < tv_of(tiny_mnist(), 2.0, 3, 2.0) - 0.03


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), w=st.floats(-1, 20), zeros=st.sampled_from([0.0, 0.4]))
def test_the_derivative_rises_through_0_at_the_minimum(seed, w, zeros) -> None:
    target = random_target(3, 3, k=3, seed=seed, zeros=zeros)
    rows = exact_rows(target, w, 0)
    found = minimise(rows, torch.full((3,), w, dtype=torch.float64))
    informative = rows.informative(3)

    def slope(s: torch.Tensor) -> torch.Tensor:
        return torch.zeros(3, dtype=torch.float64).index_add_(0, rows.level, rows.weight * rows.slopes(s)[0])

    at = slope(found)
    below = slope(found - 0.3)
    above = slope(found + 0.3)
    assert bool((below <= at + 1e-12).all()) and bool((at <= above + 1e-12).all())
    inner = informative & (found > -1) & (found < 1e4)
    assert float(at[inner].abs().max() if bool(inner.any()) else 0.0) < 1e-9


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), w=st.floats(-1, 6), zeros=st.sampled_from([0.0, 0.4]))
def test_paths_are_never_further_than_those_of_the_constant_strength(seed, w, zeros) -> None:
    target = random_target(2, 4, k=2, seed=seed, zeros=zeros)
    strengths = calibrated_strengths(target, w, 0)
    calibrated = path_kl(target, Guidance(strengths, "normalized"), 0, w=w)
    constant = path_kl(target, Guidance(w, "normalized"), 0)
    assert all(a <= b + 1e-12 for a, b in zip(calibrated.by_level, constant.by_level))
    law = terminal_law(target.denoiser(), Guidance(strengths, "normalized"), 0)
    assert kl_divergence(tilted_law(target, w, 0), law) <= calibrated.total + 1e-10


@pytest.mark.parametrize("w", [0.5, 3.0])
def test_the_sum_over_levels_is_the_divergence_of_the_paths(w) -> None:
    target = random_target(3, 3, k=2, seed=9, zeros=0.2)
    strengths = [0.3, 1.7, 2.2]
    tilted = tilted_law(target, w, 0)
    found = path_kl(target, Guidance(strengths, "normalized"), 0, w=w)
    costs = exact_rows(target, w, 0).cross_entropies(torch.tensor(strengths, dtype=torch.float64))
    assert float(costs.sum()) + float(torch.special.xlogy(tilted, tilted).sum()) == pytest.approx(
        found.total, abs=1e-12
    )


def test_independent_coordinates_need_no_other_strength() -> None:
    # p(x|z) = prod p_i: what is known says nothing, and class and mixture are the same at every level
    a = torch.rand(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pmf = (a / a.sum())[:, None] * (a / a.sum())[None]
    target = TableMixture(torch.stack([pmf, pmf]), torch.tensor([0.5, 0.5]))
    assert calibrated_strengths(target, 3.0, 0) == [3.0, 3.0]
    samples, _ = target.sample(50, torch.Generator().manual_seed(0), 0)
    found = calibrate(target.denoiser(), 0, samples)
    assert found == Calibration((0.0, 0.0), (math.inf, math.inf))


class Typed:
    """A denoiser that computes in a number type: its logits are those of another one, shifted by a number of the class.

    Of no effect but for rounding, by which class and mixture differ where they are equal.
    """

    def __init__(self, exact: Denoiser, dtype: torch.dtype) -> None:
        self.exact = exact
        self.dtype = dtype
        self.num_tokens = exact.num_tokens
        self.num_dims = exact.num_dims
        self.num_classes = exact.num_classes

    def __call__(self, tokens: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
        assert classes is not None
        return (self.exact(tokens, classes) + 7.3 * classes[:, None, None]).to(self.dtype).log_softmax(dim=-1)


@pytest.mark.parametrize("wrap", [lambda denoiser: denoiser, TabulatedDenoiser])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_chooses_no_strength(dtype: torch.dtype, wrap: Callable[[Denoiser], Denoiser]) -> None:
    """Two classes with the same single coordinates, which differ in pairs: at level 0 all strengths are equal."""
    for seed in range(4):
        m = torch.rand(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 6 + 1e-6
        alone = (m / m.sum())[:, None] * (m / m.sum())
        target = TableMixture(torch.stack([alone, (alone + torch.diag(m / m.sum())) / 2]), torch.tensor([0.5, 0.5]))
        learned = wrap(Typed(target.denoiser(), dtype))
        found = calibrated_strengths(target, 2.0, 1, learned)
        assert found[0] == 2.0 and found[1] == pytest.approx(2.0, abs=1e-3)
        x, _ = target.sample(200, torch.Generator().manual_seed(seed), 1)
        sampled = calibrate(learned, 1, x, generator=torch.Generator().manual_seed(seed), centre=0.5)
        assert (sampled.strengths[0], sampled.standard_errors[0]) == (0.5, math.inf)
        assert math.isfinite(sampled.standard_errors[1])


def test_the_rounding_of_a_network_is_that_of_its_numbers() -> None:
    target = random_target(2, 2)
    assert rounding_of(target.denoiser()) == torch.finfo(torch.float64).eps
    net = nn.Linear(1, 1)
    net.num_tokens = net.num_dims = net.num_classes = 2  # type: ignore[assignment]
    found = NetDenoiser(net)
    assert rounding_of(TabulatedDenoiser(found)) == rounding_of(found) == torch.finfo(torch.float32).eps
    assert rounding_of(NetDenoiser(net, bf16=True)) == torch.finfo(torch.bfloat16).eps
    double, single = (
        FunctionDenoiser(
            lambda x, k, t=t: torch.tensor([0.3, 0.7], dtype=t).log().double().expand(*x.shape, 2), 2, 3, 2
        )
        for t in (torch.float64, torch.float32)
    )
    certain = FunctionDenoiser(lambda x, k: torch.tensor([1.0, 0.0]).double().log().expand(*x.shape, 2), 2, 3, 2)
    assert [rounding_of(one) for one in (double, single, certain)] == [2**-52, 2**-23, 2**-52]


def weighted_samples(target: TableMixture, w: float, z: int, num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, _ = target.sample(num, torch.Generator().manual_seed(seed), z)
    posterior = target.class_weights[z] * target.class_pmf(z) / target.pmf
    return x, w * posterior[tuple(x.T)].log()


def test_data_give_the_exact_strengths_with_the_error_that_is_stated() -> None:
    target = random_target(3, 3, k=2, seed=4)
    w = 1.5
    exact = torch.tensor(calibrated_strengths(target, w, 0))
    z_scores = []
    for seed in range(60):
        x, log_weights = weighted_samples(target, w, 0, 3000, seed)
        g = torch.Generator().manual_seed(seed)
        found = calibrate(target.denoiser(), 0, x, log_weights, g, masks=3)  # of one mask: tests/verify
        z_scores.append((torch.tensor(found.strengths) - exact) / torch.tensor(found.standard_errors))
    scores = torch.stack(z_scores)
    assert bool((scores.mean(dim=0).abs() < 5 / math.sqrt(60) + 0.1).all())
    # the standard deviation of 60 standard normal numbers lies within these with probability 1 - 1e-5
    assert bool(((scores.std(dim=0) > 0.62) & (scores.std(dim=0) < 1.42)).all()), scores.std(dim=0)


def test_the_class_itself_needs_no_guidance_and_a_flat_network_does() -> None:
    target = random_target(3, 3, k=2, seed=4)
    x, _ = target.sample(20_000, torch.Generator().manual_seed(0), 0)
    found = calibrate(target.denoiser(), 0, x, None, torch.Generator().manual_seed(1), masks=3)
    assert all(abs(s) < 5 * e for s, e in zip(found.strengths, found.standard_errors))
    flat = calibrate(Blurred(target, 0.2), 0, x, None, torch.Generator().manual_seed(1), masks=3)
    assert min(s / e for s, e in zip(flat.strengths, flat.standard_errors)) > 3


def test_many_dimensions() -> None:
    g = torch.Generator().manual_seed(0)
    p = torch.rand(2, 2, 200, generator=g, dtype=torch.float64).mul(0.4).add(0.3)
    target = BernoulliMixture(p, torch.full((2, 2), 0.5, dtype=torch.float64), torch.tensor([0.5, 0.5]))
    x, _ = target.sample(2000, g, 1)
    found = calibrate(target.denoiser(), 1, x, None, g)
    assert len(found.strengths) == 200 and found.guidance("normalized").strength(199, 200) == found.strengths[-1]
    scores = torch.tensor(found.strengths) / torch.tensor(found.standard_errors)
    assert float((scores.abs() < 1.96).double().mean()) > 0.6  # ten states a level: the error itself is uncertain


TARGET = random_target(3, 3, seed=0)
SAMPLES = TARGET.sample(50, torch.Generator().manual_seed(0), 0)[0]


@pytest.mark.parametrize(
    "refused",
    [
        lambda: calibrate(TARGET.denoiser(), 2, SAMPLES),
        lambda: calibrate(TARGET.denoiser(), 0, SAMPLES[:5]),
        lambda: calibrate(TARGET.denoiser(), 0, SAMPLES[:, :2]),
        lambda: calibrate(TARGET.denoiser(), 0, torch.full_like(SAMPLES, 3)),
        lambda: calibrate(TARGET.denoiser(), 0, SAMPLES, masks=0),
        lambda: calibrate(TARGET.denoiser(), 0, SAMPLES, masks=4),
        lambda: calibrate(TARGET.denoiser(), 0, SAMPLES, groups=4),
        lambda: calibrate(TARGET.denoiser(), 0, SAMPLES, torch.zeros(3)),
        lambda: calibrate(TARGET.denoiser(), 0, SAMPLES, torch.full((50,), math.nan)),
        lambda: calibrate(TARGET.denoiser(), 0, SAMPLES, torch.full((50,), -math.inf)),
        lambda: calibrated_strengths(TARGET, -2.0, 0),
        lambda: calibrated_strengths(TARGET, 2.0, 5),
    ],
)
def test_what_cannot_be_calibrated_is_refused(refused) -> None:
    with pytest.raises(UserError):
        refused()


def test_a_sample_that_the_class_cannot_produce_is_refused_unless_its_weight_is_0() -> None:
    pmfs = torch.tensor([[[0.5, 0.0], [0.0, 0.5]], [[0.25, 0.25], [0.25, 0.25]]])
    denoiser = TableMixture(pmfs, torch.tensor([0.5, 0.5])).denoiser()
    x = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0]] * 10)
    with pytest.raises(UserError):
        calibrate(denoiser, 0, x, None, torch.Generator().manual_seed(0))
    log_weights = torch.tensor([0.0, 0.0, -math.inf, -math.inf] * 10)
    assert len(calibrate(denoiser, 0, x, log_weights, torch.Generator().manual_seed(0)).strengths) == 2
    with pytest.raises(UserError):  # one sample of positive weight, and two levels
        calibrate(
            denoiser, 0, x, torch.full((40,), -math.inf).index_fill_(0, torch.tensor([0]), 0.0), torch.Generator()
        )


@pytest.mark.parametrize("w", [-0.5, 2.0, 30.0, 100.0])
@pytest.mark.parametrize("seed", range(4))
def test_strengths_of_independent_coordinates_are_w_however_strong(seed: int, w: float) -> None:
    bits = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.6 + 0.2
    single = torch.stack([bits, 1 - bits], dim=2)
    pmfs = torch.einsum("ka,kb,kc->kabc", *single.unbind(1))
    target = TableMixture(pmfs, torch.tensor([1e-12, 1 - 1e-12], dtype=torch.float64))  # so is the whole mixture
    assert calibrated_strengths(target, w, 0) == pytest.approx([w] * 3, rel=1e-8)


@pytest.mark.parametrize("w", [100.0, 1000.0, 1e4])
def test_the_last_strength_is_w_where_nothing_is_left_to_chance(w: float) -> None:
    for target in (random_target(3, 3, seed=2), toy_2d_overlap(), random_target(4, 1, seed=3)):
        assert calibrated_strengths(target, w, 0)[-1] == w
