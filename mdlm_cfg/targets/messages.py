"""Forward and backward messages of hidden Markov models (Rabiner 1989), for sequences with masked positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Classes = slice | list[int]
DIGITS = 30.0  # decimal digits of the range of float64 (some 300) that a message may use before it is scaled


class Messages:
    """The messages of K models with S hidden states, on D positions; a masked position has emission 1.

    Args:
        initial: (K, S). transition: (K, S, S), from the second axis to the third. emission: (K, S, N). All float64.
        num_dims: D.
    """

    def __init__(self, initial: Tensor, transition: Tensor, emission: Tensor, num_dims: int) -> None:
        self.initial = initial
        self.transition = transition
        self.emission = emission
        self.num_dims = num_dims
        self.scaled_every = self._positions_at_once()

    def log_prob(self, tokens: Tensor, classes: Classes) -> Tensor:
        """log p(x_U | k) of some of the classes, float64 (B, K')."""
        return self._forward(self._likelihoods(tokens, classes), classes)[1]

    def hidden_posterior(self, tokens: Tensor, classes: Classes) -> tuple[Tensor, Tensor]:
        """p(hidden state at i | all x_j but x_i, k), (D, K', S, B); and log p(x_U | k), (B, K').

        For a masked i that is given x_U. NaN for classes under which x_U is impossible.
        """
        seen = self._likelihoods(tokens, classes)
        ahead, log_prob = self._forward(seen, classes)
        hidden = ahead.mul_(self._backward(seen, classes))
        return hidden.div_(hidden.sum(dim=2, keepdim=True)), log_prob

    def _likelihoods(self, tokens: Tensor, classes: Classes) -> Tensor:
        """p(x_i | hidden state) of every position, 1 at masks: (D, K', S, B)."""
        emission = self.emission[classes]
        known = torch.cat([emission, torch.ones_like(emission[..., :1])], dim=-1).flatten(0, 1)  # (K' * S, N + 1)
        places = (self.num_dims, len(known))
        seen = torch.gather(known.expand(*places, -1), 2, tokens.T[:, None].expand(*places, -1))
        return seen.unflatten(1, emission.shape[:2])

    def _forward(self, seen: Tensor, classes: Classes) -> tuple[Tensor, Tensor]:
        """Up to a factor, before each x_i is seen, the hidden law given all earlier ones (D, K', S, B).

        And log p(x_U | k), (B, K'). Where the earlier ones are impossible the law is 0 and the logarithm -inf.
        """
        move = self.transition[classes].transpose(1, 2)
        ahead = torch.empty_like(seen)
        ahead[0] = self.initial[classes][..., None]
        log_prob = torch.zeros_like(seen[0, :, 0])
        for i in range(self.num_dims):
            law = ahead[i] * seen[i]
            if i + 1 == self.num_dims or (i + 1) % self.scaled_every == 0:
                total = law.sum(dim=1, keepdim=True)
                log_prob += total[:, 0].log()
                law.div_(total.masked_fill_(total == 0, 1.0))
            if i + 1 < self.num_dims:
                torch.bmm(move, law, out=ahead[i + 1])
        return ahead, log_prob.T

    def _backward(self, seen: Tensor, classes: Classes) -> Tensor:
        """Up to a factor, p(all later ones | hidden state at i): (D, K', S, B)."""
        transition = self.transition[classes]
        behind = torch.empty_like(seen)
        behind[-1] = 1.0
        for i in reversed(range(1, self.num_dims)):
            message = behind[i] * seen[i]
            if i % self.scaled_every == 0:
                top = message.amax(dim=1, keepdim=True)
                message.div_(top.masked_fill_(top == 0, 1.0))
            torch.bmm(transition, message, out=behind[i - 1])
        return behind

    def _positions_at_once(self) -> int:
        """How many positions a message can pass without underflow: at each it loses at most the smallest factors."""
        smallest = (float(law[law > 0].min()) for law in (self.transition, self.emission))
        lost = -sum(math.log10(factor) for factor in smallest)
        return self.num_dims if lost * self.num_dims <= DIGITS else max(1, int(DIGITS / lost))
