"""How grey values become tokens."""

from __future__ import annotations

import pytest
import torch

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data.levels import binarize, on_grey_scale, quantize


@pytest.mark.parametrize("how", ["static", "dynamic"])
def test_bernoulli_draws_have_mean_value_over_255(how: str) -> None:
    num = 20_000
    images = torch.arange(256, dtype=torch.uint8).expand(num, 256)
    draws = binarize(images, how, torch.Generator().manual_seed(1)).double().mean(dim=0)
    p = torch.arange(256, dtype=torch.float64) / 255
    assert draws[0] == 0 and draws[255] == 1
    z = (draws - p)[1:-1] / (p * (1 - p) / num).sqrt()[1:-1]
    assert z.abs().max() < 4.5 and 0.8 < z.std() < 1.2


def test_bad_binarizations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'sometimes'.*dynamic, threshold, static"):
        binarize(torch.zeros(1, dtype=torch.uint8), "sometimes")
    with pytest.raises(ValueError, match=r"uint8.*float32"):
        binarize(torch.zeros(1), "static")


def test_levels_are_equal_bins_and_two_are_the_threshold() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    for levels in (2, 3, 4, 16, 100, 256):
        tokens = quantize(grey, levels)
        assert tokens.tolist() == [int(v) * levels // 256 for v in grey.tolist()]
        assert tokens[0] == 0 and tokens[-1] == levels - 1
    assert torch.equal(quantize(grey, 2), (grey > 127).to(torch.uint8))
    assert torch.equal(binarize(grey, "threshold"), quantize(grey, 2))


@pytest.mark.parametrize("levels", range(2, 257))
def test_tokens_stay_what_they_are(levels: int) -> None:
    tokens = torch.arange(levels, dtype=torch.int32).to(torch.uint8).reshape(1, 1, -1)
    train, test, were_tokens = on_grey_scale("x", tokens, tokens, levels)
    assert were_tokens and torch.equal(quantize(train, levels), tokens) and torch.equal(train, test)
    if levels == 2:
        assert train.flatten().tolist() == [0, 255]


def test_images_on_no_known_scale_are_refused() -> None:
    def refused(train: int, test: int, levels: int, complaint: str) -> None:
        x, y = (torch.full((1, 1, 1), value, dtype=torch.uint8) for value in (train, test))
        with pytest.raises(UserError, match=complaint):
            on_grey_scale("x", x, y, levels)

    refused(15, 15, 2, r"\b15\b.*levels=16")
    refused(0, 0, 2, r"\b0\b.*\b0\.\.255\b")
    refused(1, 255, 2, r"\b0 to 1\b.*\b255\b")
