"""Laws of decoders, remasking and corrections, stationary laws, and strengths calibrated on many images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from bench.laws import GUIDANCE, random_table
from bench.ratio import Figure, in_turns, once, seconds
from mdlm_cfg import Correction, FunctionDenoiser, Sampler, calibrate, stationary_law, terminal_law
from mdlm_cfg.laws.corrections import correction_kernel
from mdlm_cfg.laws.stepped import freeze

SIZE = "N = 2, D = 9"
ALLOWED = "the time allowed"
LAWS = {
    Sampler("sampled_confidence", events=1): 2.0,
    Sampler("threshold"): 2.0,
    Sampler("entropy_bound"): 2.0,
    Sampler("remdm", 16, remasking="cap(0.2)"): 20.0,
}
MOVES = (Correction(1), Correction(3), Correction(2, accept=True), Correction(3, accept=True))
ENDS = (Correction(1), Correction(2, accept=True))
IMAGES = (10_000, 784)


def decoder_figures(device: torch.device) -> Iterator[Figure]:
    """All figures on a device, most of them in seconds against their goals."""
    denoiser = random_table(2, 9, device).denoiser()
    for sampler, goal in LAWS.items():
        took = seconds(partial(sampler.law, denoiser, GUIDANCE, 0), 3)
        yield Figure(f"law of {sampler.label}, {SIZE}", ALLOWED, took, goal, "lower", 1.0)
    chain = freeze(denoiser, GUIDANCE, 0)
    again, only = (partial(chain.law_after, Sampler(name, 16).plan(9)) for name in ("remdm", "tau_leaping"))
    pair = in_turns(again, only, 3)
    yield Figure(f"16 dense pushes of remdm, {SIZE}", "16 pushes that only unmask (tau_leaping)", *pair, "lower")
    own = terminal_law(denoiser, GUIDANCE, 0)
    for correction in MOVES:
        kernel = correction_kernel(denoiser, GUIDANCE, 0, correction)
        took = seconds(partial(kernel.move, own), 3)
        yield Figure(f"one move of {correction}, {SIZE}", ALLOWED, took, 0.05, "lower", 1.0)
    for correction in ENDS:
        took = seconds(partial(stationary_law, denoiser, GUIDANCE, 0, correction), 3)
        yield Figure(f"stationary law of {correction}, {SIZE}", ALLOWED, took, 2.0, "lower", 1.0)
    yield calibration_figure(device)


def calibration_figure(device: torch.device) -> Figure:
    """Strengths of 784 levels from one pass over 10,000 binary images, against the bare calls of the denoiser.

    The pixels are independent in each class, so that the denoiser's calls are as cheap as possible.
    """
    num, d = IMAGES
    generator = torch.Generator().manual_seed(0)
    ink = torch.rand(3, d, 1, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    pixels = torch.cat([1 - ink, ink], dim=-1).log().to(device)
    x = (torch.rand(num, d, generator=generator) < ink[0, :, 0]).long().to(device)

    def answer(tokens: Tensor, classes: Tensor | None) -> Tensor:
        return pixels[torch.full((len(tokens),), 2, device=device) if classes is None else classes]

    denoiser = FunctionDenoiser(answer, 2, d, 2, device)

    def alone() -> None:
        for part in x.split(1024):
            for label in (0, 2):
                denoiser(part, torch.full((len(part),), label, device=device))

    def ours() -> None:
        calibrate(denoiser, 0, x, generator=torch.Generator(device).manual_seed(0), groups=16)

    what = f"strengths calibrated on {num:,} images of 28 x 28, one mask each"
    return Figure(what, "the calls of a denoiser that costs next to nothing", once(ours), once(alone), "lower")
