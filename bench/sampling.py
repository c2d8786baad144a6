"""Guided samples a second: against the network alone, and against plain ancestral sampling in 128 steps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from bench.ratio import Figure, in_turns
from bench.training import experiment, image_net
from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.nets import NetDenoiser

NUM = {"cpu": 16, "cuda": 256}  # guided images
ANCESTRAL_STEPS = 128
GUIDANCE = Guidance(2.0)


def sampling_figures(device: torch.device) -> Iterator[Figure]:
    """Event-leaping in 64 steps on the image network."""
    net = image_net(device).eval()
    num = NUM[device.type]
    denoiser = NetDenoiser(net)
    ours = Sampler("event_leaping", 64)
    plain = Sampler("tau_leaping", ANCESTRAL_STEPS)
    generator = torch.Generator(device).manual_seed(0)

    def alone() -> None:
        tokens = torch.full((2 * num, 784), 2, device=device)
        classes = torch.full((2 * num,), 3, device=device)
        for _ in range(ours.calls(784)):
            with torch.inference_mode():
                net(tokens, classes)

    draw = partial(ours.draw, denoiser, GUIDANCE, 3, num, generator)
    what = f"{num} guided samples of {experiment(device)}, event-leaping in 64 steps"
    yield Figure(what, "the network's calls alone", *in_turns(draw, alone, 3), "lower", 1.1)
    theirs = partial(plain.draw, denoiser, GUIDANCE, 3, num, generator)
    yield Figure(what, f"ancestral sampling in {ANCESTRAL_STEPS} steps", *in_turns(draw, theirs, 3), "higher")
