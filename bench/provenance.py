"""The origin of the benchmark's two files.

`python -m bench.provenance [FOLDER]` makes them again, from MNIST in data/.

The counts of MNIST's training images are the same on every machine. Training amplifies a machine's rounding, so the
network's output differs: the shipped file defines the target, not the program that made it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import conditionals
from mdlm_cfg.chain.lattice import points_at
from mdlm_cfg.nets.optimizer import adamw
from mdlm_cfg.nets.transformer import GridTransformer
from mdlm_cfg.nets.wrapper import NetDenoiser
from mdlm_cfg.studies.benchmark.targets import DIGITS, LEARNED, rotation
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.tiny_mnist import area_average, count_states, informative_threshold
from mdlm_cfg.training.data.images import load_images
from mdlm_cfg.training.objectives import Averaged

CELLS = 3  # on each side of a digit
# the network's target and training time
DIMS = 4
EXAMPLES = 2000
STEPS = 1000


def tiny_mnist_counts(root: str = "data") -> Tensor:
    """The number of MNIST's training images of each digit in each state of 3 x 3 cells, int64 (10, 512).

    A cell is 1 if its mean exceeds the threshold that is most informative about the digit, 5 of 255
    (`mdlm_cfg.targets.tiny_mnist`).
    """
    images = load_images("mnist", root)
    cells = area_average(images.train, CELLS, CELLS)
    return count_states(cells, images.train_labels, informative_threshold(cells, images.train_labels))


def learned_rotation() -> Tensor:
    """Log-probabilities of a small transformer trained on 2,000 sequences of `rotation(4)`, (K + 1, (N+1)^D, D, N).

    A thousand steps and 16 features: enough to learn it, but so little that its conditionals are inconsistent.
    """
    target = rotation(DIMS)
    generator = generator_for("benchmark", "learned_rotation")
    x, classes = target.sample(EXAMPLES, generator)
    torch.manual_seed(0)
    net = GridTransformer(target.num_tokens, (DIMS,), target.num_classes, width=16, depth=1, num_heads=2)
    objective = Averaged(label_smoothing=3e-4)
    optimizer = adamw(net, lr=1e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        objective.loss(net, x, classes, generator)["loss"].backward()
        optimizer.step()
    states = points_at(torch.arange((target.num_tokens + 1) ** DIMS), target.num_tokens + 1, DIMS)
    denoiser = NetDenoiser(net)
    labels = [*range(target.num_classes), None]
    return torch.stack([conditionals(denoiser, states, label) for label in labels])


def write(folder: Path) -> None:
    """Make both files."""
    np.savez_compressed(folder / DIGITS.name, counts=tiny_mnist_counts().to(torch.int32).numpy())
    np.savez_compressed(folder / LEARNED.name, log_probs=learned_rotation().float().numpy())


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else DIGITS.parent)
