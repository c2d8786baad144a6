"""Class-conditional hidden Markov models: exact conditionals of sequences (theory, section 15).

Class k has an initial law pi_k of S hidden states, a transition matrix A_k and an emission matrix B_k. Given a partial
sequence, p(x_i = v | x_U, k) is forward-backward with emission 1 at masked positions (Rabiner 1989): all positions at
once in O(D S^2). The whole mixture is the mean of the classes by their posterior, a_k p_k(x_U). All in float64, scaled
often enough that no length underflows. The sequences of a batch run along the last axis, so that products with the
transition matrices are few and wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import CPU, by_label, check_class, check_labels, check_query, check_states
from mdlm_cfg.chain.lattice import points_at
from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.support.arguments import Integers, Reals, checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.targets.checks import checked_names, hash_of, normalised
from mdlm_cfg.targets.messages import Messages
from mdlm_cfg.targets.table import TableMixture

NEG_INF = float("-inf")
MAX_TABLE_STATES = 10**6
UNDERFLOW = 1e-280  # a sum of products below this may have lost terms: it is computed again in logarithms


class HiddenMarkovMixture:
    """p(x) = sum_k a_k sum over hidden paths of pi_k(s_1) B_k(x_1 | s_1) prod_i A_k(s_i | s_{i-1}) B_k(x_i | s_i).

    Args:
        initial: pi, (K, S). transition: A, (K, S, S), from the second axis to the third. emission: B, (K, S, N).
            Kept as float64; rows sum to 1.
        class_weights: a, (K,), summing to 1.
        num_dims: D, the length of a sequence.
        class_names: K names for reports; value_names: N names.

    Raises:
        UserError: wrong shapes, numbers that are no probabilities, sums that are not 1, or names too few or many.
    """

    @checked
    def __init__(
        self,
        initial: Reals,
        transition: Reals,
        emission: Reals,
        class_weights: Reals,
        *,
        num_dims: int,
        class_names: Sequence[str] | None = None,
        value_names: Sequence[str] | None = None,
    ) -> None:
        shape = tuple(emission.shape)
        if len(shape) != 3 or 0 in shape:
            raise UserError(f"emission must have shape (K, S, N), got {shape}")
        self.num_classes, self.num_hidden, self.num_tokens = shape
        self.num_dims = whole_number("num_dims", num_dims)
        k, s = shape[:2]
        self.emission = normalised("emission", emission, shape)
        self.initial = normalised("initial", initial, (k, s))
        self.transition = normalised("transition", transition, (k, s, s))
        self.class_weights = normalised("class_weights", class_weights, (k,))
        self.class_names = checked_names("class_names", class_names, self.num_classes)
        self.value_names = checked_names("value_names", value_names, self.num_tokens)
        self.messages = Messages(self.initial, self.transition, self.emission, self.num_dims)
        self._on: dict[torch.device, tuple[Tensor, ...]] = {}  # see `_drawn_from`

    @checked
    def log_prob(self, tokens: Integers, target_class: int | Integers | None = None) -> Tensor:
        """log p(x_U | z) in nats, float64 (B,): of sequences, or the marginal of partial ones.

        Args:
            tokens: int64 (B, D), values 0..N with N the mask.
            target_class: z for all rows, or one per row, int64 (B,), with K for the whole mixture, as is None.
        """
        if isinstance(target_class, Tensor):
            check_labels(target_class, self.num_classes, len(tokens))
            each = torch.cat([self.log_class_probs(tokens), self.log_prob(tokens)[:, None]], dim=1)
            return each.gather(1, target_class[:, None])[:, 0]
        if target_class is None:
            return (self.log_class_probs(tokens) + self.class_weights.log()).logsumexp(dim=1)
        check_class(target_class, self.num_classes)
        check_states(tokens, self.num_tokens, self.num_dims)
        return self.messages.log_prob(tokens, [target_class])[:, 0]

    @checked
    def log_class_probs(self, tokens: Integers) -> Tensor:
        """log p(x_U | k) of every class, float64 (B, K)."""
        check_states(tokens, self.num_tokens, self.num_dims)
        return self.messages.log_prob(tokens, slice(None))

    @checked
    def class_posterior(self, tokens: Integers) -> Tensor:
        """p(k | x_U), float64 (B, K); NaN where the whole mixture has no such sequence."""
        return (self.log_class_probs(tokens) + self.class_weights.log()).softmax(dim=1)

    @checked
    def sample(
        self, num: int, generator: torch.Generator | None = None, target_class: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Independent draws (x, class), int64 (num, D) and (num,), on the generator's device.

        Args:
            target_class: the class of all draws; None draws it too.
        """
        check_class(target_class, self.num_classes)
        num = whole_number("num", num, 0)
        device = CPU if generator is None else generator.device
        weights, initial, transition, emission = self._drawn_from(device)
        if target_class is None:
            classes = _draw(weights.expand(num, -1), generator)
        else:
            classes = torch.full((num,), target_class, device=device)
        hidden = _draw(initial[classes], generator)
        x = torch.empty(num, self.num_dims, dtype=torch.int64, device=device)
        for i in range(self.num_dims):
            if i:
                hidden = _draw(transition[classes, hidden], generator)
            x[:, i] = _draw(emission[classes, hidden], generator)
        return x, classes

    def _drawn_from(self, device: torch.device) -> tuple[Tensor, ...]:
        """Class weights, initial, transition and emission on a device: copied there once."""
        if device not in self._on:
            laws = (self.class_weights, self.initial, self.transition, self.emission)
            self._on[device] = tuple(law.to(device) for law in laws)
        return self._on[device]

    def table(self) -> TableMixture:
        """The same mixture as a table, for few values and positions.

        Raises:
            UserError: more than a million sequences.
        """
        size = self.num_tokens**self.num_dims
        if size > MAX_TABLE_STATES:
            raise UserError(f"a table of {self.num_tokens}^{self.num_dims} sequences is too large: use the mixture")
        x = points_at(torch.arange(size), self.num_tokens, self.num_dims)
        pmfs = self.log_class_probs(x).exp().T.reshape(self.num_classes, *[self.num_tokens] * self.num_dims)
        return TableMixture(pmfs, self.class_weights)

    def fingerprint(self) -> str:
        """A short hash of the numbers themselves: tells whether two mixtures are the same distribution."""
        about = (tuple(self.emission.shape), self.num_dims)
        return hash_of(about, self.initial, self.transition, self.emission, self.class_weights)

    def denoiser(self) -> HiddenMarkovDenoiser:
        """The exact posterior of this mixture."""
        return HiddenMarkovDenoiser(self)


class HiddenMarkovDenoiser:
    """log p(x_i = v | x_U, z) by forward-backward: exact, for sequences of any length.

    For a partial sequence of probability 0 under the class it gives the conditionals of the whole mixture, and uniform
    ones where that is 0 too (docs/design.md, "The denoiser's contract").
    """

    device = CPU

    def __init__(self, target: HiddenMarkovMixture) -> None:
        self.target = target
        self.num_tokens = target.num_tokens
        self.num_dims = target.num_dims
        self.num_classes = target.num_classes

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """See `mdlm_cfg.chain.denoiser.Denoiser`."""
        check_query(self, tokens, classes)
        if classes is None:
            return copy_unmasked(self._answers(tokens, [self.num_classes])[0], tokens)
        labels = _labels_of_copies(tokens, classes)
        if labels is not None:
            states = tokens[: len(tokens) // len(labels)]
            return torch.cat([copy_unmasked(answer, states) for answer in self._answers(states, labels)])
        own = by_label(tokens, classes, self.num_classes + 1, lambda rows, k: self._answers(rows, [k])[0])
        return copy_unmasked(own, tokens)

    def _answers(self, tokens: Tensor, labels: list[int]) -> list[Tensor]:
        """Conditionals under every label, (B, D, N) each, from messages that are passed once; unmasked rows too."""
        classes = list(range(self.num_classes)) if self.num_classes in labels else labels
        messages = self.target.messages
        hidden, log_prob, faint = messages.hidden_posterior(tokens, classes)
        answers = []
        for k in labels:
            answer, lost = self._mean(hidden, log_prob, classes, k)
            answers.append(answer)
            faint |= lost
        if bool(faint.any()):
            log_hidden, log_prob[faint] = messages.in_logarithms(tokens[faint], classes)
            for k, answer in zip(labels, answers):
                answer[faint] = self._in_logarithms(log_hidden, log_prob[faint], classes, k)
        for k, answer in zip(labels, answers):
            if k == self.num_classes:
                answer[(self._log_posterior(log_prob) == NEG_INF).all(dim=1)] = -math.log(self.num_tokens)
            elif bool((dead := log_prob[:, classes.index(k)] == NEG_INF).any()):
                answer[dead] = self._answers(tokens[dead], [self.num_classes])[0]
        return answers

    def _mean(self, hidden: Tensor, log_prob: Tensor, classes: list[int], k: int) -> tuple[Tensor, Tensor]:
        """The conditionals under one label, (B, D, N), and where they underflow, (B,).

        Args:
            hidden: the hidden posterior of the classes, (D, K', S, B). log_prob: log p(x_U | class), (B, K').
        """
        emission = self.target.emission
        if k < self.num_classes:
            own = hidden[:, classes.index(k)]
            return _log_mean(own, own, emission[k])
        # the classes' conditionals by their posterior, in one product over (class, hidden state)
        log_posterior = self._log_posterior(log_prob).T[:, None]
        possible = hidden.masked_fill(log_posterior == NEG_INF, 0.0) if bool(log_posterior.isinf().any()) else hidden
        weights = possible * log_posterior.exp()
        return _log_mean(weights.flatten(1, 2), possible.flatten(1, 2), emission.flatten(0, 1))

    def _in_logarithms(self, log_hidden: Tensor, log_prob: Tensor, classes: list[int], k: int) -> Tensor:
        """`_mean` without underflow."""
        log_emission = self.target.emission.log()
        if k < self.num_classes:
            log_weights = log_hidden[:, classes.index(k)]
            log_values = log_emission[k]
        else:
            log_posterior = self._log_posterior(log_prob).T[:, None]
            log_weights = (log_hidden + log_posterior).masked_fill(log_posterior == NEG_INF, NEG_INF).flatten(1, 2)
            log_values = log_emission.flatten(0, 1)
        each = [(log_weights + own[:, None]).logsumexp(dim=1) for own in log_values.T]
        return torch.stack(each, dim=2).transpose(0, 1)

    def _log_posterior(self, log_prob: Tensor) -> Tensor:
        """log p(k | x_U), (B, K), from log p(x_U | k): -inf for classes under which x_U is impossible."""
        log_joint = log_prob + self.target.class_weights.log()
        return (log_joint - log_joint.logsumexp(dim=1, keepdim=True)).nan_to_num(nan=NEG_INF, neginf=NEG_INF)


def _log_mean(weights: Tensor, possible: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """log sum_s weights[d, s, b] values[s, n], (B, D, N); and for which b something possible underflows, (B,).

    Args:
        weights: (D, S, B). possible: positive where the weight is, or was before it underflowed. values: (S, N).
    """
    means = weights.transpose(1, 2) @ values
    low = means < UNDERFLOW
    if bool(low.any()):
        low &= (possible > 0).double().transpose(1, 2) @ (values > 0).double() > 0
    return means.log_().transpose(0, 1), low.any(dim=2).any(dim=0)


def _labels_of_copies(tokens: Tensor, classes: Tensor) -> list[int] | None:
    """The labels of a batch that repeats the same states under one label after another; None for any other batch.

    Guidance calls a denoiser like this: its conditionals then share the messages.
    """
    labels = classes.unique_consecutive().tolist()
    if not labels or len(tokens) % len(labels) or len(set(labels)) < len(labels):
        return None
    parts = tokens.unflatten(0, (len(labels), -1))
    same = bool((classes.unflatten(0, (len(labels), -1)) == classes.new_tensor(labels)[:, None]).all())
    return labels if same and all(torch.equal(part, parts[0]) for part in parts[1:]) else None


def _draw(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """One index of every row, int64 (B,): never one of probability 0."""
    cdf = probabilities.cumsum(dim=1)
    drawn = torch.rand(len(cdf), 1, generator=generator, dtype=torch.float64, device=cdf.device) * cdf[:, -1:]
    return (cdf <= drawn).sum(dim=1).clamp(max=cdf.shape[1] - 1)
