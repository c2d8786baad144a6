"""A trained network as a `Denoiser`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mdlm_cfg.masking import copy_unmasked


class NetDenoiser:
    """Wraps a network `(tokens, classes) -> log-probs (B, D, N)` as a `Denoiser`: float64 on the CPU, no gradients.

    Rows are normalised again in float64 (a float32 row sums to 1 only to 1e-7, and guidance raises that to the w-th
    power). A row's answer does not depend on what it is batched with, beyond the rounding of the products.

    Args:
        net: has `num_tokens`, `num_dims` and `num_classes`; it is evaluated where its parameters are, in eval mode,
            and left in the mode it was in.
        batch_size: most partial states per call of the network.
        bf16: run the network's products in bfloat16; log-probabilities are then good to about 1e-2.

    Raises:
        ValueError: batch_size < 1.
    """

    def __init__(self, net: nn.Module, batch_size: int = 1024, bf16: bool = False) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.net, self.batch_size, self.bf16 = net, batch_size, bf16
        self.num_tokens: int = net.num_tokens
        self.num_dims: int = net.num_dims
        self.num_classes: int = net.num_classes

    @torch.inference_mode()
    def _log_probs(self, tokens: Tensor, classes: Tensor) -> Tensor:
        device = next(self.net.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            log_probs = self.net(tokens.to(device), classes.to(device)).to("cpu", torch.float64)
        # An unmasked row holds -inf: only finite rows are normalised, and the others are copied.
        return copy_unmasked(log_probs.log_softmax(-1), tokens.cpu())

    def __call__(self, tokens: Tensor, classes: Tensor | None = None) -> Tensor:
        """float64 log-probabilities (B, D, N) on the CPU, see `Denoiser`."""
        if classes is None:
            classes = torch.full((len(tokens),), self.num_classes)
        was_training = self.net.training
        self.net.eval()
        try:
            parts = [
                self._log_probs(*part)
                for part in zip(tokens.split(self.batch_size), classes.split(self.batch_size), strict=True)
            ]
        finally:
            self.net.train(was_training)
        return torch.cat(parts).clone()
