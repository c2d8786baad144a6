"""Fresh random distributions, each in two forms: the package's, and a table for the oracle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.guidance_schedules import LinearRamp, PerCount
from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.verify.oracle.chains import Ask, Chain, State
from mdlm_cfg.verify.oracle.tables import bernoulli_table, hidden_markov_table, random_table, table_conditionals

SHAPES = ((2, 3), (3, 2), (2, 4), (3, 3), (4, 2), (5, 1))  # (N, D)
SORTS = ("table", "incoherent", "table with zeros", "hidden Markov", "opaque table", "Bernoulli")


@dataclass(frozen=True)
class Strength:
    """A strength of guidance in the forms of the package and of the oracle."""

    label: str
    ours: Any
    theirs: float | Sequence[float]


@dataclass(frozen=True)
class World:
    """A distribution and a class.

    Attributes:
        label: for messages. number: within the session.
        denoiser: the package's. ask: the same conditionals for the oracle, of `target_class` and of the mixture.
        target: the table, if the conditionals come from one. class_pmfs, class_weights: its numbers.
    """

    label: str
    number: int
    denoiser: Denoiser
    ask: Ask
    target_class: int
    class_pmfs: np.ndarray | None = None
    class_weights: np.ndarray | None = None
    _chains: dict[Any, Chain] = field(default_factory=dict, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return self.denoiser.num_tokens, self.denoiser.num_dims

    @property
    def target(self) -> TableMixture | None:
        """The table as the package's target."""
        if self.class_pmfs is None or self.class_weights is None:
            return None
        return TableMixture(torch.from_numpy(self.class_pmfs), torch.from_numpy(self.class_weights))

    @property
    def pmf(self) -> np.ndarray:
        """The mixture."""
        assert self.class_pmfs is not None and self.class_weights is not None
        return np.tensordot(self.class_weights, self.class_pmfs, axes=1)

    @property
    def class_pmf(self) -> np.ndarray:
        """The class."""
        assert self.class_pmfs is not None
        return self.class_pmfs[self.target_class]

    def chain(self, strength: Strength, kind: str = "rate") -> Chain:
        """The oracle's chain, made once."""
        key = (strength.label, kind)
        if key not in self._chains:
            self._chains[key] = Chain(self.ask, *self.shape, strength.theirs, kind)
        return self._chains[key]


class StoredConditionals:
    """A denoiser that reads its answers from an array: conditionals of no joint distribution.

    Args:
        log_probs: (K + 1, N+1, ..., N+1, D, N), the null class last.
    """

    def __init__(self, log_probs: np.ndarray) -> None:
        self.num_classes, self.num_dims, self.num_tokens = len(log_probs) - 1, *log_probs.shape[-2:]
        self.log_probs = torch.from_numpy(log_probs)
        self.device = torch.device("cpu")

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """See `mdlm_cfg.chain.denoiser.Denoiser`."""
        labels = torch.full((len(tokens),), self.num_classes) if classes is None else classes
        return copy_unmasked(self.log_probs[(labels, *tokens.T)], tokens)


class OpaqueDenoiser:
    """Hides that a denoiser is a table's, so that the code for general denoisers runs."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.inner = denoiser
        self.device = torch.device("cpu")
        self.num_tokens = denoiser.num_tokens
        self.num_dims = denoiser.num_dims
        self.num_classes = denoiser.num_classes

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """See `mdlm_cfg.chain.denoiser.Denoiser`."""
        return self.inner(tokens, classes)


def numpy_generator(*key: int | str) -> np.random.Generator:
    """A numpy generator that depends only on a key."""
    return np.random.default_rng(list(hashlib.sha256(repr(key).encode()).digest()))


def torch_generator(*key: int | str) -> torch.Generator:
    """A torch generator that depends only on a key."""
    return generator_for("verify", *key)


def world_of(seed: int, number: int) -> World:
    """World `number` of a session: sorts and shapes alternate, so that each sort occurs with each shape."""
    sort = SORTS[number % len(SORTS)]
    n, d = SHAPES[(number + number // len(SORTS)) % len(SHAPES)]
    rng = numpy_generator("world", seed, number)
    return MAKERS[sort](f"{number}: {sort}", number, n, d, rng)


def _table(label: str, number: int, n: int, d: int, rng: np.random.Generator, zeros: float = 0.0) -> World:
    pmfs, weights = random_table(rng, n, d, 2 + number % 2, zeros)
    target = TableMixture(torch.from_numpy(pmfs), torch.from_numpy(weights))
    z = int(rng.integers(len(weights)))
    denoiser: Denoiser = target.denoiser()
    if "opaque" in label:
        denoiser = OpaqueDenoiser(denoiser)
    return World(f"{label}, N={n}, D={d}", number, denoiser, table_conditionals(pmfs, weights, z), z, pmfs, weights)


def _incoherent(label: str, number: int, n: int, d: int, rng: np.random.Generator) -> World:
    logits = 1.5 * rng.standard_normal((3, *[n + 1] * d, d, n))
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    z = int(rng.integers(2))

    def ask(state: State) -> Any:
        return np.exp(log_probs[(z, *state)]).tolist(), np.exp(log_probs[(2, *state)]).tolist()

    return World(f"{label}, N={n}, D={d}", number, StoredConditionals(log_probs), ask, z)


def _hidden_markov(label: str, number: int, n: int, d: int, rng: np.random.Generator) -> World:
    initial, transition, emission = (rng.random(shape) + 0.05 for shape in ((2, 2), (2, 2, 2), (2, 2, n)))
    initial, transition, emission = (v / v.sum(axis=-1, keepdims=True) for v in (initial, transition, emission))
    weights = np.array([0.3, 0.7])
    pmfs = np.stack([hidden_markov_table(*parts, d) for parts in zip(initial, transition, emission)])
    tensors = (torch.from_numpy(v) for v in (initial, transition, emission, weights))
    denoiser = HiddenMarkovMixture(*tensors, num_dims=d).denoiser()
    z = int(rng.integers(2))
    return World(f"{label}, N={n}, D={d}", number, denoiser, table_conditionals(pmfs, weights, z), z, pmfs, weights)


def _bernoulli(label: str, number: int, n: int, d: int, rng: np.random.Generator) -> World:
    probabilities = rng.random((2, 2, d))
    inner = rng.random((2, 2)) + 0.1
    inner = inner / inner.sum(axis=1, keepdims=True)
    weights = np.array([0.45, 0.55])
    pmfs = np.stack([bernoulli_table(p, w) for p, w in zip(probabilities, inner)])
    denoiser = BernoulliMixture(*(torch.from_numpy(v) for v in (probabilities, inner, weights))).denoiser()
    z = int(rng.integers(2))
    return World(f"{label}, N=2, D={d}", number, denoiser, table_conditionals(pmfs, weights, z), z, pmfs, weights)


MAKERS: dict[str, Callable[[str, int, int, int, np.random.Generator], World]] = {
    "table": _table,
    "incoherent": _incoherent,
    "table with zeros": partial(_table, zeros=0.4),
    "hidden Markov": _hidden_markov,
    "opaque table": _table,
    "Bernoulli": _bernoulli,
}


def number_strength(world: World, seed: int) -> Strength:
    """A random strength that is one number: from -1 to 15."""
    rng = numpy_generator("strength", seed, world.number)
    w = round(float([-1.0, rng.uniform(-1, 0), 0.0, rng.uniform(0, 4), rng.uniform(4, 15)][world.number % 5]), 3)
    return Strength(f"w={w:g}", w, w)


def schedule_strength(world: World, seed: int) -> Strength:
    """A random strength that changes with the number of unmasked coordinates."""
    rng = numpy_generator("schedule", seed, world.number)
    d = world.shape[1]
    if world.number % 2:
        start, end = (round(float(v), 3) for v in rng.uniform(-0.5, 4, size=2))
        values = [start + (end - start) * (j / (d - 1) if d > 1 else 1.0) for j in range(d)]
        return Strength(f"w={LinearRamp(start, end)}", LinearRamp(start, end), values)
    values = [round(float(v), 3) for v in rng.uniform(-1, 5, size=d)]
    return Strength(f"w={PerCount(values)}", PerCount(values), values)


def guidance_of(strength: Strength, kind: str = "rate") -> Guidance:
    """The package's guidance."""
    return Guidance(strength.ours, kind)  # type: ignore[arg-type]
