"""Training estimators: their means against the enumerated NELBO, and mean gradients against its derivative."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from mdlm_cfg.training import objectives
from mdlm_cfg.training.averaged import averaged_objective
from mdlm_cfg.training.elbo import nelbo, paired_nelbo
from mdlm_cfg.training.objectives import Classifying, Objective
from mdlm_cfg.training.pooled import pool_of, pooled_nelbo
from mdlm_cfg.verify.checks import Check, difference, z_value
from mdlm_cfg.verify.oracle import tables
from mdlm_cfg.verify.oracle.chains import Rows, State
from mdlm_cfg.verify.worlds import numpy_generator, torch_generator

GROUP = "training"
N = 3
D = 2
K = 2
BATCH = 32
STEP = 1e-4  # of the central difference
SHARE = 0.3  # of the null class


class OneParameterNet(nn.Module):
    """Conditionals of no joint distribution: a table of logits that moves along a direction with a parameter theta.

    Args:
        logits, direction: (K + 1, N+1, ..., N+1, D, N).
        class_logits: of the class given a partial state, (N+1, ..., N+1, K).
    """

    def __init__(self, logits: np.ndarray, direction: np.ndarray, class_logits: np.ndarray) -> None:
        super().__init__()
        self.num_tokens = N
        self.num_dims = D
        self.num_classes = K
        self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.logits = torch.from_numpy(logits)
        self.direction = torch.from_numpy(direction)
        self.class_logits = torch.from_numpy(class_logits)

    def class_log_probs(self, one_hot: Tensor) -> Tensor:
        """Log-probabilities (B, K) of the class, from one-hot rows (B, D, N + 1)."""
        return self.class_logits[tuple(one_hot.argmax(dim=-1).T)].log_softmax(dim=-1)

    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """Log-probabilities (B, D, N)."""
        place = (classes, *tokens.T)
        return (self.logits[place] + self.theta * self.direction[place]).log_softmax(dim=-1)


class Truth:
    """The NELBO of `OneParameterNet` on a random table, conditional and null, and its derivative, by enumeration."""

    def __init__(self, seed: int) -> None:
        rng = numpy_generator("training", seed)
        self.pmfs, self.weights = tables.random_table(rng, N, D, K, 0.2)
        shape = (K + 1, *[N + 1] * D, D, N)
        self.logits = rng.standard_normal(shape)
        self.direction = rng.standard_normal(shape)
        self.class_logits = rng.standard_normal((*[N + 1] * D, K))
        self.net = OneParameterNet(self.logits, self.direction, self.class_logits)
        self.cells = (self.weights[:, None] * self.pmfs.reshape(K, -1)).flatten()
        self.value = self.nelbos(0.0)
        self.slope = (self.nelbos(STEP) - self.nelbos(-STEP)) / (2 * STEP)

    def nelbos(self, theta: float) -> np.ndarray:
        """(conditional, null) at a theta, in nats."""
        logits = self.logits + theta * self.direction
        probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)

        def of_label(k: int) -> Callable[[State], Rows]:
            return lambda state: probs[(k, *state)].tolist()

        conditional = sum(a * tables.nelbo(of_label(k), self.pmfs[k]) for k, a in enumerate(self.weights))
        return np.array([conditional, tables.nelbo(of_label(K), np.tensordot(self.weights, self.pmfs, axes=1))])

    def class_cost(self) -> float:
        """The cross entropy of the class given a partial state with a uniform number of masks from 0 to D, in nats."""
        probs = np.exp(self.class_logits) / np.exp(self.class_logits).sum(axis=-1, keepdims=True)
        total = 0.0
        for masks in product((False, True), repeat=D):
            chance = 1 / ((D + 1) * math.comb(D, sum(masks)))
            for k, *x in product(range(K), *[range(N)] * D):
                state = tuple(N if is_masked else v for v, is_masked in zip(x, masks))
                total -= chance * self.weights[k] * self.pmfs[(k, *x)] * math.log(probs[(*state, k)])
        return total

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Independent data (B, D) and classes (B,)."""
        cells = torch.from_numpy(self.cells).multinomial(BATCH, replacement=True, generator=generator)
        place = np.unravel_index(cells.numpy(), self.pmfs.shape)
        return torch.from_numpy(np.stack(place[1:], axis=1)), torch.from_numpy(place[0].copy())


def estimator_checks(seed: int, repeats: int) -> list[Check]:
    """`nelbo`, `paired_nelbo` and `pooled_nelbo`: means and derivatives."""
    truth = Truth(seed)
    net = truth.net

    def unpaired(x: Tensor, classes: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        return nelbo(net, x, classes, N, g), nelbo(net, x, torch.full_like(classes, K), N, g)

    def paired(x: Tensor, classes: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        return paired_nelbo(net, x, classes, N, K, g)

    def pooled(x: Tensor, classes: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        return pooled_nelbo(net, pool_of(x, classes, N, K), BATCH // 2, g)[1]

    found: list[Check] = []
    for name, estimate in (("nelbo", unpaired), ("paired_nelbo", paired), ("pooled_nelbo", pooled)):
        values = []
        slopes = []
        for k in range(repeats):
            g = torch_generator("estimators", seed, name, k)
            means = [part.mean() for part in estimate(*truth.batch(g), g)]
            values.append([float(mean.detach()) for mean in means])
            slopes.append([float(torch.autograd.grad(mean, net.theta, retain_graph=True)[0]) for mean in means])
        found += mean_checks(f"{name}: value", np.array(values), truth.value)
        found += mean_checks(f"{name}: derivative", np.array(slopes), truth.slope)
    return found


def mean_checks(subject: str, draws: np.ndarray, truths: np.ndarray) -> list[Check]:
    """z-tests of the means of draws, (repeats, 2)."""
    errors = draws.std(axis=0, ddof=1) / math.sqrt(len(draws))
    cases = [f"{case}, {len(draws)} batches of {BATCH}" for case in ("with the class", "without a class")]
    parts = zip(cases, draws.mean(axis=0).tolist(), truths.tolist(), errors.tolist())
    return [z_value(GROUP, subject, *part) for part in parts]


def registered_objectives() -> list[tuple[str, Objective]]:
    """Every objective of `mdlm_cfg.training.objectives`, with both forms of the sampled one."""
    made: list[tuple[str, Objective]] = []
    for name, kind in inspect.getmembers(objectives, inspect.isclass):
        if not issubclass(kind, Objective) or kind is Objective or inspect.isabstract(kind):
            continue
        taken = inspect.signature(kind).parameters
        settings = {"label_dropout": SHARE} | ({"rows": BATCH} if "rows" in taken else {})
        variants = [{"paired": True}, {"paired": False}] if "paired" in taken else [{}]
        for variant in variants:
            label = name + "".join(f", {key}={value}" for key, value in variant.items())
            made.append((label, kind(**settings, **variant)))
    return made


def objective_checks(seed: int, repeats: int) -> list[Check]:
    """The loss of every registered objective, and its derivative, against the weighted NELBO."""
    truth = Truth(seed)
    share = np.array([1 - SHARE, SHARE])
    found: list[Check] = []
    for name, objective in registered_objectives():
        more = objective.class_weight * truth.class_cost() if isinstance(objective, Classifying) else 0.0
        truths = [float(share @ truth.value) + more, float(share @ truth.slope)]
        draws = []
        for k in range(repeats):
            g = torch_generator("objectives", seed, name, k)
            loss = objective.loss(truth.net, *truth.batch(g), g)["loss"]
            (gradient,) = torch.autograd.grad(loss, truth.net.theta)
            draws.append([float(loss.detach()), float(gradient)])
        means = np.mean(draws, axis=0)
        errors = np.std(draws, axis=0, ddof=1) / math.sqrt(repeats)
        for what, *part in zip(("value", "derivative"), means.tolist(), truths, errors.tolist()):
            case = f"{name}, {what}, {repeats} batches of {BATCH}"
            found.append(z_value(GROUP, "loss of the objectives", case, *part))
    return found


def averaged_checks(seed: int, repeats: int) -> list[Check]:
    """The averaged objective on the distribution itself, where it is exact."""
    truth = Truth(seed)
    joint = torch.from_numpy(truth.weights.reshape(K, *[1] * D) * truth.pmfs)

    found = averaged_objective(N, D, K)(truth.net, joint)
    return [
        difference(GROUP, "averaged objective", "on the distribution", [float(v.detach()) for v in found], truth.value)
    ]


TRAINING_CHECKS: dict[str, Callable[[int, int], list[Check]]] = {
    "estimators": estimator_checks,
    "objectives": objective_checks,
    "averaged": averaged_checks,
}
