"""Intervals and standard errors cover what they claim to, as often as they claim; pytest -rP shows how often."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness import small_module
from helpers import random_target
from scipy import stats

from mdlm_cfg.compare.metrics import expected_sampling_tv, sampled_tv
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.module import MaskedDiffusion
from mdlm_cfg.training.watching import exact_nelbos, mean_and_errors
from mdlm_cfg.verify.interval_checks import ledger_checks

pytestmark = pytest.mark.slow
REPEATS = 200
CERTAIN = 1e-5  # that a true claim is taken for a false one, on either side


def test_the_ledger_closes_in_99_of_100() -> None:
    found = ledger_checks(0, REPEATS)
    assert found and all(check.passed for check in found), found


@pytest.mark.parametrize("apart", [0.0, 0.3])
def test_the_bootstrap_interval_of_a_tv_covers_its_expectation(apart: float) -> None:
    """The law itself, whose samples are away from it by noise alone, and another law."""
    target = random_target(4, 2, seed=3)
    law = (1 - apart) * target.pmf + apart * target.class_pmf(0)
    samples = [target.sample(2000, torch.Generator().manual_seed(k))[0] for k in range(REPEATS)]
    found = [sampled_tv(law, x, 200, torch.Generator().manual_seed(k)) for k, x in enumerate(samples)]
    mean = sum(estimate.value for estimate in found) / len(found)
    if apart == 0:
        assert mean == pytest.approx(expected_sampling_tv(law, 2000), rel=0.02)
    hits = sum(estimate.low <= mean <= estimate.high for estimate in found)
    # a bootstrap of n = 2000 is right to some percent itself
    low, high = stats.binom.ppf([CERTAIN, 1 - CERTAIN], len(found), [0.93, 0.97])
    print(f"{hits} of {len(found)}")
    assert low <= hits <= high


def judged(target: TableMixture, num_draws: int) -> MaskedDiffusion:
    """A network that has learned nothing, with what `_add_moments` asks of a trainer."""
    about = {"num_tokens": 3, "grid_shape": [2], "num_classes": 2, "name": "", "fingerprint": ""}
    data = SimpleNamespace(describe=lambda: about)
    module = small_module(data, lr=0.1, warmup_steps=0, final_lr=1.0, num_draws=num_draws)
    with torch.no_grad():  # rows that are far from uniform: NELBOs that differ from point to point
        for parameter in module.net.parameters():
            parameter.mul_(3)
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
    module._trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy)  # type: ignore[assignment]
    return module.eval()


@torch.no_grad()
def nelbos(module: MaskedDiffusion, x: torch.Tensor, classes: torch.Tensor, seed: int) -> list[Any]:
    """Mean and both errors, with the class and without one, of a test of two batches."""
    module._moments = torch.zeros(2, 4, dtype=torch.float64)
    module.seed = seed
    for k, batch in enumerate(zip(x.chunk(2), classes.chunk(2))):
        module._add_moments(batch, module.num_draws, "test", k)
    return [mean_and_errors(total, module.num_draws) for total in module._all_moments()]


def test_the_standard_errors_of_the_nelbo() -> None:
    target = random_target(3, 2, seed=5)
    repeats = REPEATS
    module = judged(target, 3)
    exact = exact_nelbos(NetDenoiser(module.net), target)
    truths = exact["exact_nelbo"], exact["exact_nelbo_null"]
    hits = [0, 0]
    for seed in range(repeats):
        x, classes = target.sample(200, torch.Generator().manual_seed(seed))
        for k, (mean, _, of_data) in enumerate(nelbos(module, x, classes, seed)):
            hits[k] += abs(mean - truths[k]) <= 1.96 * of_data
    print(f"{hits[0]} of {repeats} with the class, {hits[1]} without")
    for found in hits:
        # masks are stratified in a batch, so the error is a little smaller than is said: 95% at least
        assert stats.binom.ppf(CERTAIN, repeats, 0.95) <= found <= stats.binom.ppf(1 - CERTAIN, repeats, 0.975), hits

    x, classes = target.sample(200, torch.Generator().manual_seed(0))
    found = [nelbos(module, x, classes, seed) for seed in range(repeats)]
    for k in range(2):
        means = torch.tensor([each[k][0] for each in found], dtype=torch.float64)
        claimed = torch.tensor([each[k][1] for each in found], dtype=torch.float64).mean()
        # of the masks alone, likewise: never smaller than the truth, nor twice as large
        print(f"spread over mc_se: {float(means.std() / claimed):.2f}")
        assert 0.5 < float(means.std() / claimed) < 1.1
