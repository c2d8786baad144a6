"""Guided samples per second: against the network alone, against plain ancestral sampling, and with label heads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from bench.ratio import Figure, in_turns
from bench.training import experiment, image_net
from mdlm_cfg import FunctionDenoiser, Guidance, Sampler
from mdlm_cfg.nets import GridTransformer, NetDenoiser

NUM = {"cpu": 16, "cuda": 256}  # guided images
ANCESTRAL_STEPS = 128
SMALL = 1000  # guided samples of small images
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
    yield label_heads_figure(device)


def label_heads_figure(device: torch.device) -> Figure:
    """Guided samples of the network of experiment=tiny_mnist: one pass for both labels, or a row for each."""
    torch.manual_seed(0)
    net = GridTransformer(2, (3, 3), 10, patch_size=3, width=128, depth=2, label_heads=True).to(device)
    once = NetDenoiser(net)
    twice = FunctionDenoiser(lambda tokens, classes: once(tokens, classes), 2, 9, 10, device)
    generator = torch.Generator(device).manual_seed(0)
    draws = [partial(Sampler().draw, denoiser, GUIDANCE, 3, SMALL, generator) for denoiser in (once, twice)]
    what = f"{SMALL:,} guided samples of a network with label heads, 3 x 3 cells, first-hitting"
    return Figure(what, "a row of the network for each label", *in_turns(*draws), "higher")
