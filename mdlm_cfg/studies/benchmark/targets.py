"""The targets of the benchmark: fixed, numbered by a version, and each with a fingerprint of its numbers.

The shipped toys, real digits on 3 x 3 cells, two short hidden Markov chains, and the table of a trained network, whose
conditionals belong to no joint distribution: there the order of unmasking matters even without guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, FunctionDenoiser, conditionals
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import flat_index, points_at
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.studies.findings import col
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets import toys
from mdlm_cfg.targets.checks import hash_of
from mdlm_cfg.targets.files import read_npz
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.table import TableMixture

VERSION = 3  # of the benchmark: any change of targets, classes, strengths, entries or ranking rules is a new version
FILES = Path(__file__).parent
# made by bench/provenance.py
DIGITS = FILES / "tiny_mnist_3x3.npz"
LEARNED = FILES / "learned_rotation.npz"
GRAIN = 2**20  # fingerprints round probabilities to 1e-6: differences between machines are 1e-16


@dataclass(frozen=True)
class TargetRow:
    """A target as it is described in a report."""

    name: str = col("target", "name of the target", index=True)
    num_tokens: int = col("values N", "number of values of a coordinate")
    num_dims: int = col("dimensions D", "number of coordinates")
    num_classes: int = col("classes", "number of classes K")
    target_class: int = col("class z", "class that is guided to")
    fingerprint: str = col("fingerprint", "a hash of the class's distribution and of all conditionals, to 1e-6")


@dataclass(frozen=True)
class Target:
    """A target that samplers are evaluated on.

    Attributes:
        name: for people and files.
        denoiser: what samplers are given.
        target_class: z.
        class_law: p(x | z), float64 (N,)*D; for a learned denoiser that of its training data.
    """

    name: str
    denoiser: Denoiser
    target_class: int
    class_law: Tensor

    @property
    def num_dims(self) -> int:
        """D."""
        return self.denoiser.num_dims

    def tilted(self, w: float) -> Tensor:
        """The tilted law p_{z,w}, float64 (N,)*D; for conditionals without a joint, its mean over all orders.

        It is proportional to the sum over orders of prod rho (theory, section 11).
        """
        return tilted_weights(self.denoiser, Guidance(w), self.target_class, "uniform").law

    def fingerprint(self) -> str:
        """A short hash of all conditionals and of the class's law: to 1e-6, the same on every machine."""
        denoiser = self.denoiser
        states = points_at(
            torch.arange((denoiser.num_tokens + 1) ** self.num_dims), denoiser.num_tokens + 1, self.num_dims
        )
        found = [conditionals(denoiser, states, label).exp() for label in (self.target_class, None)]
        grains = [(one * GRAIN).round().to(torch.int32) for one in (self.class_law, *found)]
        return hash_of((tuple(self.class_law.shape), self.target_class), *grains)

    @property
    def row(self) -> TargetRow:
        """The target's row in a report."""
        d = self.denoiser
        return TargetRow(self.name, d.num_tokens, d.num_dims, d.num_classes, self.target_class, self.fingerprint())


def of_table(name: str, mixture: TableMixture, target_class: int) -> Target:
    """A target whose denoiser is a table's own exact one."""
    return Target(name, mixture.denoiser(), target_class, mixture.class_pmf(target_class))


def tiny_mnist() -> TableMixture:
    """MNIST's training images on 3 x 3 binary cells, from the counts stored beside this module."""
    counts = torch.from_numpy(read_npz(DIGITS, ["counts"])["counts"]).double()
    totals = counts.sum(dim=1)
    return TableMixture((counts / totals[:, None]).reshape(-1, *[2] * 9), totals / totals.sum())


def rotation(num_dims: int) -> HiddenMarkovMixture:
    """Three letters: class 0 mostly repeats the last one, class 1 mostly takes the next one of 0, 1, 2, 0, ..."""
    stay = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    emission = torch.tensor([[0.90, 0.06, 0.04], [0.04, 0.90, 0.06], [0.06, 0.04, 0.90]])
    return HiddenMarkovMixture(
        torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]]),
        torch.stack([stay, stay.roll(1, dims=1)]),
        torch.stack([emission, emission]),
        torch.tensor([0.6, 0.4]),
        num_dims=num_dims,
    )


def motif() -> HiddenMarkovMixture:
    """Five of three letters: class 0 holds 0, 1, 2 somewhere in noise, class 1 is the noise alone."""
    noise = torch.tensor([0.4, 0.3, 0.3])
    # hidden states: before, three letters of the motif, after
    planted = torch.tensor(
        [[0.5, 0.5, 0, 0, 0], [0, 0, 1.0, 0, 0], [0, 0, 0, 1.0, 0], [0, 0, 0, 0, 1.0], [0, 0, 0, 0, 1.0]]
    )
    letters = 0.91 * torch.eye(3) + 0.03
    emission = torch.stack([noise, *letters, noise])
    return HiddenMarkovMixture(
        torch.tensor([[0.6, 0.4, 0, 0, 0], [1.0, 0, 0, 0, 0]]),
        torch.stack([planted, torch.eye(5)]),
        torch.stack([emission, emission]),
        torch.tensor([0.5, 0.5]),
        num_dims=5,
    )


def learned_rotation() -> Target:
    """`rotation(4)` as a small network learned it: its outputs for all partial states, stored beside this module."""
    # of every label, the null class last, and every partial state in C order: (K + 1, (N+1)^D, D, N)
    log_probs = torch.from_numpy(read_npz(LEARNED, ["log_probs"])["log_probs"]).double().log_softmax(dim=-1)
    num_classes, num_dims, num_tokens = len(log_probs) - 1, *log_probs.shape[2:]

    def answer(tokens: Tensor, classes: Tensor | None) -> Tensor:
        labels = torch.full_like(tokens[:, 0], num_classes) if classes is None else classes
        return log_probs[labels, flat_index(tokens, num_tokens + 1)]

    denoiser = cast(Denoiser, FunctionDenoiser(answer, num_tokens, num_dims, num_classes))
    return Target("learned_rotation", denoiser, 1, rotation(num_dims).table().class_pmf(1))


TARGETS: dict[str, Callable[[], Target]] = {
    "toy_1d_disjoint": lambda: of_table("toy_1d_disjoint", toys.toy_1d_disjoint(), 0),
    "toy_1d_overlap": lambda: of_table("toy_1d_overlap", toys.toy_1d_overlap(), 1),
    "toy_2d_projection": lambda: of_table("toy_2d_projection", toys.toy_2d_projection(), 1),
    "toy_2d_overlap": lambda: of_table("toy_2d_overlap", toys.toy_2d_overlap(), 0),
    "toy_5d_hypercube": lambda: of_table("toy_5d_hypercube", toys.toy_5d_hypercube(), 1),
    "tiny_mnist_3x3": lambda: of_table("tiny_mnist_3x3", tiny_mnist(), 3),
    "hmm_rotation": lambda: of_table("hmm_rotation", rotation(5).table(), 1),
    "hmm_motif": lambda: of_table("hmm_motif", motif().table(), 0),
    "learned_rotation": learned_rotation,
}


def target_of(target: Target | str) -> Target:
    """A target by its name, or itself.

    Raises:
        UserError: an unknown name.
    """
    if isinstance(target, Target):
        return target
    if target not in TARGETS:
        raise UserError(f"unknown benchmark target {target!r}: choose from {', '.join(TARGETS)}")
    return TARGETS[target]()
