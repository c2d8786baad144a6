"""study=calibration: gains are differences of NELBOs, distances those of laws, held-out gains what they estimate."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Blurred, bernoulli_mixture, block_of, data_of, decimals, found_by, random_target, table_of

from mdlm_cfg import (
    FunctionDenoiser,
    Guidance,
    Sampler,
    TableMixture,
    UserError,
    calibrated_strengths,
    path_kl,
    terminal_law,
    tilted_law,
)
from mdlm_cfg.chain.guidance_schedules import Calibrated
from mdlm_cfg.compare.calibration import Calibration, calibrate, exact_gain, held_out_gain
from mdlm_cfg.compare.levels import MaskedSamples
from mdlm_cfg.compare.metrics import total_variation as tv
from mdlm_cfg.reports.render import sections_of
from mdlm_cfg.studies.calibration import CalibrationStudy
from mdlm_cfg.studies.fitting import (
    FIT,
    TEST,
    Fit,
    examples_of,
    fitted_profile,
    fitted_strengths,
    log_posterior,
    num_of_class,
    part_of,
)
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, check, run
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.sequences import motif_in_noise

Z = 1
PLAN = Plan((Guidance(0.0, "normalized"), Guidance(2.0, "normalized")), Sampler(), 200, classes=(Z,))


def study_of(target: Any, denoiser: Any = None, plan: Plan = PLAN, **settings: int) -> Any:
    return found_by(CalibrationStudy(**settings), data_of(target), denoiser, plan)


@pytest.mark.parametrize("learned", [False, True])
def test_a_table_has_the_exact_strengths_distances_and_gains(learned: bool) -> None:
    target = random_target(3, 3, 2, seed=7, zeros=0.1)
    denoiser = Blurred(target, 0.2) if learned else None
    found = study_of(target, denoiser)
    for row in block_of(found, "calibration"):
        used = denoiser if row.denoiser == "learned" else target.denoiser()
        strengths = calibrated_strengths(target, row.w.constant, Z, used)
        own = [r for r in block_of(found, "strengths") if (r.w, r.denoiser) == (row.w, row.denoiser)]
        assert [r.strength for r in own] == pytest.approx(strengths, abs=1e-12)
        tilted = tilted_law(target, row.w.constant, Z)
        for end, w in (("", row.w.constant), ("_calibrated", strengths)):
            law = terminal_law(used, Guidance(w, "normalized"), Z)
            assert getattr(row, f"tv_tilted{end}") == pytest.approx(tv(law, tilted), abs=1e-12)
        assert row.gain == pytest.approx(row.nelbo - row.nelbo_calibrated, abs=1e-12) and row.gain >= -1e-12
        assert sum(r.gain for r in own) == pytest.approx(row.gain, abs=1e-12)


def test_an_infinite_nelbo_is_no_gain_of_0(tmp_path: Path) -> None:
    """A denoiser that gives probability 0 to what is possible, at every strength."""
    target = random_target(2, 2, seed=1)
    denoiser = FunctionDenoiser(lambda x, _: torch.tensor([0.0, -math.inf]).expand(*x.shape, 2), 2, 2, 2)
    findings = found_by(
        CalibrationStudy(), data_of(target), denoiser, Plan((Guidance(2.0),), Sampler(), 40, classes=(0,))
    )
    row = next(row for row in block_of(findings, "gains") if row.denoiser == "learned")
    assert row.gain is None and not decimals(findings.verdict[-2]) and "infinite" in findings.verdict[-2]
    assert sections_of(findings, tmp_path)


def test_gains_are_differences_of_path_kl() -> None:
    target = random_target(2, 4, 2, seed=3)
    (_, row) = block_of(study_of(target), "calibration")
    strengths = calibrated_strengths(target, 2.0, Z)
    far = [path_kl(target, Guidance(w, "normalized"), Z, w=2.0).total for w in (2.0, strengths)]
    assert row.gain == pytest.approx(far[0] - far[1], abs=1e-12)


def test_held_out_gains_estimate_the_exact_one_with_the_error_that_is_stated() -> None:
    target = random_target(3, 3, 2, seed=4)
    before = [2.0, 2.0, 2.0]
    after = [0.5, 1.0, 1.5]
    exact = exact_gain(target, 1.5, Z, before=before, after=after).of()[0]
    scores = []
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        x, _ = target.sample(2000, g, Z)
        log_weights = 1.5 * log_posterior(target, x, Z)
        found = held_out_gain(MaskedSamples(target.denoiser(), x, log_weights, g, 2), Z, before=before, after=after)
        value, error = found.of()
        assert float((found.before - found.after).sum()) == pytest.approx(value, abs=1e-12)
        scores.append((value - exact) / error)
    each = torch.tensor(scores)
    assert abs(float(each.mean())) < 5 / math.sqrt(60)
    assert 0.62 < float(each.std()) < 1.42  # of 60 standard normal numbers, with probability 1 - 1e-5


def test_a_flat_network_gains_on_examples_that_it_was_not_fitted_to_and_an_exact_one_does_not() -> None:
    target = random_target(3, 4, 2, seed=4)
    x, classes = target.sample(8000, torch.Generator().manual_seed(0))
    examples = data_of(target)
    examples.target = None
    examples.test_examples = lambda: (x, classes)
    flat = found_by(CalibrationStudy(num_examples=4000), examples, Blurred(target, 0.3), PLAN)
    weak, strong = block_of(flat, "gains")
    assert weak.gain > 3 * weak.gain_se
    fitted = [row.strength for row in block_of(flat, "strengths") if row.w == PLAN.guidances[0]]
    assert fitted == [row.strength for row in block_of(flat, "strengths") if row.w == PLAN.guidances[1]]
    assert max(fitted) > 0 and strong.gain != weak.gain
    exact = found_by(CalibrationStudy(), examples, target.denoiser(), PLAN)
    assert block_of(exact, "gains")[0].gain < 2 * block_of(exact, "gains")[0].gain_se


def test_what_is_fitted_to_is_not_what_is_judged_by() -> None:
    target = random_target(3, 4, 2, seed=4)
    x = torch.arange(400)[:, None] * torch.ones(4, dtype=torch.int64)
    examples = data_of(target)
    examples.target = None
    examples.test_examples = lambda: (x, x[:, 0] % 2)
    case = Case.of(examples, target.denoiser(), PLAN)
    fit, test = (set(part_of(case, which, "learned", Z, 0.0, 1000).x[:, 0].tolist()) for which in (FIT, TEST))
    assert not fit & test and fit | test == set(range(1, 400, 2))


def held_out_case(target: Any, seeds: tuple[int, int], num_test: int = 3000) -> Case:
    """A case of examples that are known by validation and test data alone, drawn by these seeds."""
    examples = data_of(target)
    examples.target = None
    val, test = (target.sample(num, generator_for("case", seed)) for num, seed in zip((3000, num_test), seeds))
    examples.val_examples = lambda: val
    examples.test_examples = lambda: test
    return Case.of(examples, Blurred(target, 0.3), PLAN)


def test_where_validation_data_are_held_out_the_fit_sees_them_alone_and_all_test_data_judge() -> None:
    target = random_target(3, 4, 2, seed=4)
    usual, other_test, other_val = (held_out_case(target, seeds) for seeds in ((0, 1), (0, 2), (3, 1)))

    def fits(case: Case) -> list[Any]:
        fit = Fit(case.data, case.denoisers["learned"], Z)
        return [fitted_strengths(case, "learned", Z, 0.0), fit.strengths(Calibrated()), fit.sizes(0.0, 2)]

    def profile(case: Case, which: str) -> torch.Tensor:
        return fitted_profile(case, "learned", Z, 0.0, which).entropies

    assert fits(usual) == fits(other_test)
    assert all(a != b for a, b in zip(fits(usual)[:2], fits(other_val)[:2]))
    assert torch.equal(profile(usual, FIT), profile(other_test, FIT))
    assert not torch.equal(profile(usual, FIT), profile(other_val, FIT))
    assert torch.equal(profile(usual, TEST), profile(other_val, TEST))
    assert not torch.equal(profile(usual, TEST), profile(other_test, TEST))
    for which, (x, classes) in ((FIT, usual.data.val_examples()), (TEST, usual.data.test_examples())):
        own = x[classes == Z]
        assert torch.equal(part_of(usual, which, "learned", Z, 0.0, len(own)).x, own)
        expected = own[:10] if which == FIT else own
        assert torch.equal(part_of(usual, which, "learned", Z, 0.0, 10).x, expected)


@pytest.mark.parametrize("is_held_out", [True, False])
@pytest.mark.parametrize("most", [1, 7, 10_000])
def test_examples_are_counted_as_they_are_gathered(is_held_out: bool, most: int) -> None:
    case = held_out_case(random_target(3, 4, 3, seed=4), (0, 1), num_test=101)
    if not is_held_out:
        case.data.val_examples = lambda: None
    for z, which in product(range(3), (FIT, TEST)):
        assert num_of_class(case, which, z, most) == len(examples_of(case, which, z, most))


def test_gains_of_a_fit_to_validation_data_are_those_on_test_data() -> None:
    target = random_target(3, 4, 2, seed=4)
    found = []
    for seeds in ((0, 1), (0, 2), (3, 1)):
        case = held_out_case(target, seeds)
        findings = run(CalibrationStudy(num_examples=2000, groups=2), case)
        strengths = [row.strength for row in block_of(findings, "strengths")]
        (row, _) = block_of(findings, "calibration")
        found.append((strengths, row.nelbo))
        assert row.gain > 3 * row.gain_se  # the network is too flat
        classes = case.data.test_examples()[1]
        part = part_of(case, TEST, "learned", Z, 0.0, 2000)
        own = held_out_gain(part, Z, before=[0.0] * 4, after=[0.0] * 4)
        assert row.nelbo == pytest.approx(float(own.before.sum()), abs=1e-12) and len(part.x) == int(
            (classes == Z).sum()
        )
    (usual, other_test, other_val) = found
    assert usual[0] == other_test[0] != other_val[0]
    assert usual[1] == other_val[1] != other_test[1]


@pytest.mark.parametrize("held_out", [False, True])
def test_too_few_examples_on_either_side_are_refused(held_out: bool) -> None:
    target = random_target(3, 4, 2, seed=4)
    x = torch.zeros(9, 4, dtype=torch.int64)
    none = (x, torch.zeros(9, dtype=torch.int64))
    full = target.sample(3000, generator_for("full"))
    for val, test in ((none, full), (full, none)) if held_out else ((None, none),):
        case = held_out_case(target, (0, 1))
        case.data.val_examples = lambda own=val: own
        case.data.test_examples = lambda own=test: own
        with pytest.raises(UserError, match=r"class [01] of small .* 0 .*target_class"):
            check(CalibrationStudy(), case)


@pytest.mark.parametrize("target", [bernoulli_mixture(30), motif_in_noise(12)])
def test_many_dimensions_by_samples(target: Any) -> None:
    found = study_of(target, groups=4, num_examples=3000, plan=replace(PLAN, guidances=(Guidance(3.0),)))
    (row,) = block_of(found, "gains")
    (one,) = block_of(found, "calibration")
    assert row.gain > 2 * row.gain_se > 0
    assert (one.usage_tv is None) == isinstance(target, HiddenMarkovMixture)
    levels = block_of(found, "strengths")
    assert [r.levels for r in levels] == ([3] * 4 if target.num_dims == 12 else [8, 7, 8, 7])
    assert sum(r.gain for r in levels) == pytest.approx(row.gain, abs=1e-9)


@pytest.mark.parametrize("target", [bernoulli_mixture(4), motif_in_noise(4), random_target(3, 3, seed=2)])
def test_the_posterior_is_bayes_rule(target: Any) -> None:
    x, _ = target.sample(50, torch.Generator().manual_seed(0))
    each = torch.stack([log_posterior(target, x, k) for k in range(target.num_classes)])
    assert float((each.exp().sum(dim=0) - 1).abs().max()) < 1e-12
    table = table_of(target)
    own = table.class_weights[Z] * table.class_pmf(Z) / table.pmf
    assert float((each[Z].exp() - own[tuple(x.T)]).abs().max()) < 1e-12


def test_groups_share_a_strength_that_minimises_their_sum() -> None:
    target = random_target(3, 4, 2, seed=4)
    x, _ = target.sample(4000, torch.Generator().manual_seed(0), Z)
    log_weights = 2.0 * log_posterior(target, x, Z)

    def costs(strengths: Any) -> torch.Tensor:
        g = torch.Generator().manual_seed(1)
        samples = MaskedSamples(target.denoiser(), x, log_weights, g, 2)
        return held_out_gain(samples, Z, before=strengths, after=strengths).before

    one = calibrate(target.denoiser(), Z, x, log_weights, torch.Generator().manual_seed(1), masks=2, groups=2)
    a, b = one.strengths[0], one.strengths[2]
    assert one.strengths == (a, a, b, b)
    for step in (-0.05, 0.05):
        assert float(costs((a + step, a + step, b, b))[:2].sum()) > float(costs(one.strengths)[:2].sum())
        assert float(costs((a, a, b + step, b + step))[2:].sum()) > float(costs(one.strengths)[2:].sum())


def test_a_prior_decides_where_the_samples_do_not() -> None:
    target = random_target(3, 4, 2, seed=4)
    x, _ = target.sample(2000, torch.Generator().manual_seed(0), Z)

    def fitted(spread: float, centre: float) -> Calibration:
        g = torch.Generator().manual_seed(1)
        return calibrate(target.denoiser(), Z, x, None, g, masks=2, centre=centre, spread=spread)

    free = fitted(float("inf"), 1.0)
    assert free.strengths == pytest.approx(fitted(1e6, 0.0).strengths, abs=1e-6)
    assert fitted(1e-6, 1.5).strengths == pytest.approx([1.5] * 4, abs=1e-6)
    for spread, centre in ((0.05, 0.7), (0.3, -0.5)):
        found = torch.tensor(fitted(spread, centre).strengths)
        for step in (-1e-3, 1e-3):
            g = torch.Generator().manual_seed(1)
            both = {"before": found.tolist(), "after": (found + step).tolist()}
            gain = held_out_gain(MaskedSamples(target.denoiser(), x, None, g, 2), Z, **both)
            prior = ((found + step - centre).square() - (found - centre).square()) / (2 * (2000 * 2 / 4) * spread**2)
            assert bool((gain.after - gain.before + prior > 0).all())
    same = TableMixture(torch.full((2, 2, 2), 0.25, dtype=torch.float64), torch.tensor([0.5, 0.5]))
    x, _ = same.sample(100, torch.Generator().manual_seed(0), Z)
    assert calibrate(same.denoiser(), Z, x, centre=3.0, spread=1.0).strengths == (3.0, 3.0)
    with pytest.raises(UserError):
        fitted(0.0, 1.0)
