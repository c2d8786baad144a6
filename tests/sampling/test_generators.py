"""Everything random follows the generator it is given: equal seeds, equal results, and no other stream is touched."""

from __future__ import annotations

import pytest
import torch
from helpers import Inconsistent, random_target

from mdlm_cfg import Guidance, Sampler, calibrate, error_ledger, sample
from mdlm_cfg.chain.masking import mask_uniform, stratified_counts
from mdlm_cfg.compare.conditionals_error import conditionals_error
from mdlm_cfg.compare.images import class_nelbos, draw_counts
from mdlm_cfg.compare.ledger import predicted_sample_tv
from mdlm_cfg.compare.likelihood import likelihood, nelbo_bound
from mdlm_cfg.compare.metrics import multinomial_counts, sampled_tv
from mdlm_cfg.compare.mixtures import distinctness
from mdlm_cfg.compare.slice_ledger import slice_ledger
from mdlm_cfg.sampling import SAMPLERS, WITH_STEPS
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.bernoulli_fit import fit_em

TARGET = random_target(2, 3, seed=1)
EXACT = TARGET.denoiser()
LEARNED = Inconsistent(2, 3, 2)
GUIDED = Guidance(1.0)
MIXTURE = BernoulliMixture(
    torch.rand(2, 2, 3, generator=generator_for("p")), torch.full((2, 2), 0.5), torch.ones(2) / 2
)
LAW = TARGET.class_pmf(0)
X, CLASSES = TARGET.sample(30, generator_for("x"))

USES = {
    "masks": lambda g: mask_uniform(X, torch.full((30,), 2), 2, g),
    "counts of masks": lambda g: stratified_counts(30, 8, g),
    "counts of masks of an image": lambda g: draw_counts(30, 4, 3, g),
    "NELBO by class": lambda g: class_nelbos(LEARNED, X, 2, g),
    "likelihood by random orders": lambda g: likelihood(LEARNED, X, 0, 2, generator=g).log_probs,
    "likelihood by a policy": lambda g: likelihood(LEARNED, X, 0, 2, policy="uniform", generator=g).log_probs,
    "NELBO": lambda g: nelbo_bound(LEARNED, X, CLASSES, generator=g).value,
    "partial images of components": lambda g: distinctness(MIXTURE, 0, 20, g),
    "error of the network": lambda g: conditionals_error(MIXTURE, LEARNED, X, CLASSES, generator=g).nelbo,
    "multinomial counts": lambda g: multinomial_counts(LAW.flatten(), 50, 20, g),
    "bootstrap": lambda g: sampled_tv(LAW, X, generator=g).low,
    "predicted distance": lambda g: predicted_sample_tv(LAW, LAW, 50, generator=g).value,
    "calibrated strengths": lambda g: calibrate(LEARNED, 0, X, generator=g).strengths,
    "fitted mixture": lambda g: fit_em(X, CLASSES, 2, 5, generator=g).probabilities,
    "weighted samples": lambda g: Sampler().draw_weighted(LEARNED, GUIDED, 0, 30, g)[1],
    **{
        f"samples of {name}": lambda g, name=name: sample(
            LEARNED, GUIDED, 0, 30, name, 3 if name in WITH_STEPS else None, generator=g
        )
        for name in SAMPLERS
    },
    "ledger, samples": lambda g: error_ledger(TARGET, LEARNED, GUIDED, 0, num_samples=60, generator=g).laws["L4"],
    "ledger, bootstrap": lambda g: error_ledger(TARGET, LEARNED, GUIDED, 0, num_samples=60, generator=g).noise.low,
    "ledger of a slice": lambda g: (
        slice_ledger({"L3": LAW, "L3'": LAW}, Sampler(), X, generator=g).predicted_total.value
    ),
}


@pytest.mark.parametrize("use", USES)
def test_a_result_is_its_generators_alone(use: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (torch.as_tensor(USES[use](generator_for("use", seed))) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())  # nobody else's numbers were drawn
