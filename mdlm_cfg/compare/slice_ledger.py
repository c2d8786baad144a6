"""The error ledger of a slice: a few free coordinates, all others known (theory, sections 8 and 13).

The lines are those of `mdlm_cfg.compare.ledger`. Where the exact distribution is known all of them are present; for a
network on data of unknown distribution the error of the conditionals is absent, and the total compares the samples with
the network's own law.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.ledger import SampledLedger, by_line, predicted_sample_tv
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, total_variation
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.support.arguments import checked


@checked
def slice_laws(
    learned: Denoiser, exact: Denoiser | None, guidance: Guidance, target_class: int, sampler: Sampler
) -> dict[str, Tensor]:
    """The part of a slice's ledger without samples: L3 and L3', and L0 to L2 and L2' where the truth is known.

    Args:
        learned: the slice of the judged denoiser, best as a table. exact: the same slice of the exact one, or None.
        sampler: of L2' and L3'; L2 and L3 follow its policy.
    """
    laws = {}
    if exact is not None:
        laws = {
            "L0": terminal_law(exact, Guidance(0.0), target_class),
            "L1": tilted_weights(exact, guidance, target_class).law,
            "L2": terminal_law(exact, guidance, target_class, sampler.policy),
            "L2'": sampler.law(exact, guidance, target_class),
        }
    return laws | {
        "L3": terminal_law(learned, guidance, target_class, sampler.policy),
        "L3'": sampler.law(learned, guidance, target_class),
    }


@checked
def slice_ledger(
    laws: Mapping[str, Tensor], sampler: Sampler, x: Tensor, generator: torch.Generator | None = None
) -> SampledLedger:
    """The ledger of samples of a slice; "total" is to L2, or to L3 where there is none.

    Args:
        laws: as `slice_laws`.
        sampler: the one that drew the samples.
        x: the free coordinates of n samples, int64 (n, |S|), drawn from the whole denoiser or from its slice.
        generator: draws the interval.
    """
    reference = laws.get("L2", laws["L3"])
    entered = {**laws, "L4": histogram(x, reference.shape[0])}
    tv = by_line(entered, total_variation) | {"total": total_variation(reference, entered["L4"])}
    predicted = predicted_sample_tv(reference, laws["L3'"], len(x), generator=generator)
    return SampledLedger(sampler, len(x), entered, tv, expected_sampling_tv(laws["L3'"], len(x)), predicted)
