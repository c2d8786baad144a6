"""Forward and backward messages of hidden Markov models (Rabiner 1989), for sequences with masked positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Classes = slice | list[int]
DIGITS = 30.0  # decimal digits of the range of float64 (some 300) that a message may use before it is scaled
FAINT = 1e-90  # a hidden state rarer than this, relative to others, may underflow before it is the only one left


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
        smallest = (float(law[law > 0].min()) for law in (transition, emission))
        self.lost = -sum(math.log10(factor) for factor in smallest)  # digits that a message loses at most at a position
        self.scaled_every = num_dims if self.lost * num_dims <= DIGITS else max(1, int(DIGITS / self.lost))
        self.fades = bool((transition == 0).any())  # else no hidden state is much rarer than its least transition
        self.underflows = self.lost > DIGITS or float(initial[initial > 0].min()) < FAINT

    def log_prob(self, tokens: Tensor, classes: Classes) -> Tensor:
        """log p(x_U | k) of some of the classes, float64 (B, K')."""
        _, log_prob, faint = self._forward(self._likelihoods(tokens, classes), classes)
        if bool(faint.any()):
            log_prob[faint] = self.in_logarithms(tokens[faint], classes)[1]
        return log_prob

    def hidden_posterior(self, tokens: Tensor, classes: Classes) -> tuple[Tensor, Tensor, Tensor]:
        """p(hidden state at i | all x_j but x_i, k), (D, K', S, B); and log p(x_U | k), (B, K').

        For a masked i this is given x_U. NaN for classes under which x_U is impossible. And which sequences need
        logarithms, bool (B,): their results may have underflowed, and must not be used.
        """
        seen = self._likelihoods(tokens, classes)
        ahead, log_prob, faint = self._forward(seen, classes)
        behind, also_faint = self._backward(seen, classes)
        hidden = ahead.mul_(behind)
        hidden.div_(hidden.sum(dim=2, keepdim=True))
        return hidden, log_prob, faint | also_faint

    def _likelihoods(self, tokens: Tensor, classes: Classes) -> Tensor:
        """p(x_i | hidden state) of every position, 1 at masks: (D, K', S, B)."""
        emission = self.emission[classes]
        known = torch.cat([emission, torch.ones_like(emission[..., :1])], dim=-1).flatten(0, 1)  # (K' * S, N + 1)
        places = (self.num_dims, len(known))
        seen = torch.gather(known.expand(*places, -1), 2, tokens.T[:, None].expand(*places, -1))
        return seen.unflatten(1, emission.shape[:2])

    def in_logarithms(self, tokens: Tensor, classes: Classes) -> tuple[Tensor, Tensor]:
        """The logarithm of `hidden_posterior`, and log p(x_U | k): no underflow, in several times the time."""
        log_seen = self._likelihoods(tokens, classes).log()
        move = self.transition[classes].log()[..., None]  # (K', S, S, 1)
        ahead = [self.initial[classes].log()[..., None].expand_as(log_seen[0])]
        for i in range(self.num_dims - 1):
            ahead.append(((ahead[i] + log_seen[i])[:, :, None] + move).logsumexp(dim=1))
        behind = [torch.zeros_like(log_seen[0])]
        for i in reversed(range(1, self.num_dims)):
            behind.append(((behind[-1] + log_seen[i])[:, None] + move).logsumexp(dim=2))
        log_prob = (ahead[-1] + log_seen[-1]).logsumexp(dim=1).T
        return (torch.stack(ahead) + torch.stack(behind[::-1])).log_softmax(dim=2), log_prob

    def _faint(self, law: Tensor) -> Tensor:
        """Which sequences have a hidden state that may underflow, bool (B,); from a scaled law (K', S, B)."""
        return ((law > 0) & (law < FAINT)).flatten(0, 1).any(dim=0)

    def _forward(self, seen: Tensor, classes: Classes) -> tuple[Tensor, Tensor, Tensor]:
        """Up to a factor, before each x_i is seen, the hidden law given all earlier ones (D, K', S, B).

        And log p(x_U | k), (B, K'). Where the earlier ones are impossible the law is 0 and the logarithm -inf. And
        which sequences need logarithms, (B,).
        """
        faint = torch.full((seen.shape[-1],), self.underflows)
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
                if self.fades:
                    faint |= self._faint(law)
            if i + 1 < self.num_dims:
                torch.bmm(move, law, out=ahead[i + 1])
        return ahead, log_prob.T, faint

    def _backward(self, seen: Tensor, classes: Classes) -> tuple[Tensor, Tensor]:
        """Up to a factor, p(all later ones | hidden state at i): (D, K', S, B); and which need logarithms, (B,)."""
        faint = torch.zeros(seen.shape[-1], dtype=torch.bool)
        transition = self.transition[classes]
        behind = torch.empty_like(seen)
        behind[-1] = 1.0
        for i in reversed(range(1, self.num_dims)):
            message = behind[i] * seen[i]
            if i % self.scaled_every == 0:
                top = message.amax(dim=1, keepdim=True)
                message.div_(top.masked_fill_(top == 0, 1.0))
                if self.fades:
                    faint |= self._faint(message)
            torch.bmm(transition, message, out=behind[i - 1])
        return behind, faint
