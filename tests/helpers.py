"""What several tests need: random mixtures, denoisers that no joint has."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import permutations, product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from mdlm_cfg import Denoiser, HiddenMarkovMixture, TableMixture
from mdlm_cfg.compare.metrics import histogram
from mdlm_cfg.reports.render import sections_of
from mdlm_cfg.studies.draws import Draw
from mdlm_cfg.studies.evaluation import TABLE_NEEDS, TableEvaluation, evaluation_of, evaluation_pieces
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, run
from mdlm_cfg.support.cache import AnyCache
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.data import KnownData


def random_target(n: int, d: int, k: int = 2, seed: int = 0, zeros: float = 0.0) -> TableMixture:
    """K random classes on {0..N-1}^D; a share `zeros` of every class's states has probability 0."""
    g = torch.Generator().manual_seed(seed)
    pmfs = torch.rand(k, n**d, generator=g, dtype=torch.float64) ** 2
    dead = torch.rand(k, n**d, generator=g) < zeros
    dead[torch.arange(k), torch.randint(n**d, (k,), generator=g)] = False
    pmfs = pmfs.masked_fill(dead, 0.0)
    weights = torch.rand(k, generator=g, dtype=torch.float64) + 0.2
    return TableMixture((pmfs / pmfs.sum(1, keepdim=True)).reshape(k, *[n] * d), weights / weights.sum())


def table_of(target: BernoulliMixture | HiddenMarkovMixture | TableMixture) -> TableMixture:
    """The same mixture by its table."""
    if isinstance(target, TableMixture):
        return target
    if isinstance(target, HiddenMarkovMixture):
        return target.table()
    states = torch.cartesian_prod(*[torch.arange(2)] * target.num_dims).reshape(-1, target.num_dims)
    pmfs = torch.stack([target.log_joint(states, k).logsumexp(dim=1).exp() for k in range(target.num_classes)])
    return TableMixture(pmfs.reshape(-1, *[2] * target.num_dims), target.class_weights)


def evaluate_table(target: TableMixture, denoiser: Denoiser | None, plan: Plan) -> TableEvaluation:
    """Every distribution and set of samples of one class of a table, as the studies of its report read them."""
    case = Case.of(KnownData(target, "table"), denoiser, plan)
    TABLE_NEEDS.check("laws", case)
    for piece in evaluation_pieces(case):
        case.made[piece.key] = piece.make()
    return evaluation_of(case)


class Inconsistent:
    """A denoiser whose conditionals belong to no joint, as a network's do: random log-probs per partial state."""

    def __init__(self, n: int, d: int, k: int, seed: int = 0) -> None:
        self.num_tokens = n
        self.num_dims = d
        self.num_classes = k
        g = torch.Generator().manual_seed(seed)
        self.table = torch.randn(k + 1, (n + 1) ** d, d, n, generator=g, dtype=torch.float64).log_softmax(-1)

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        strides = (self.num_tokens + 1) ** torch.arange(self.num_dims - 1, -1, -1)
        classes = torch.full((len(tokens),), self.num_classes) if classes is None else classes
        return self.table[classes, (tokens * strides).sum(1)]


class Opaque:
    """Hides that a denoiser is a table, so that the route for any denoiser is taken."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.inner = denoiser
        self.num_tokens = denoiser.num_tokens
        self.num_dims = denoiser.num_dims
        self.num_classes = denoiser.num_classes

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        return self.inner(tokens, classes)


class Blurred:
    """The exact conditionals of a target mixed with a share of uniform ones: a denoiser that errs by a known amount."""

    def __init__(self, target: Any, share: float) -> None:
        self.exact = target.denoiser()
        self.share = share
        self.num_tokens = target.num_tokens
        self.num_dims = target.num_dims
        self.num_classes = target.num_classes

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        log_p = self.exact(tokens, classes)
        blurred = ((1 - self.share) * log_p.exp() + self.share / self.num_tokens).log()
        return torch.where((tokens == self.num_tokens)[..., None], blurred, log_p)


def perturbed(target: TableMixture, strength: float, seed: int = 0) -> TableMixture:
    """Another table near this one: the stand-in for a trained network."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.rand(target.class_pmfs.shape, generator=g, dtype=torch.float64)
    pmfs = target.class_pmfs * (1 + strength * noise)
    sums = pmfs.flatten(1).sum(1).reshape(-1, *[1] * target.num_dims)
    return TableMixture(pmfs / sums, target.class_weights)


def bernoulli_mixture(
    num_dims: int, components: int = 3, sharpness: float = 2.0, name: str = "mixture"
) -> BernoulliMixture:
    """Three classes of random pixel probabilities, which `name` seeds."""
    g = generator_for(name)
    p = torch.sigmoid(sharpness * torch.randn(3, components, num_dims, generator=g, dtype=torch.float64))
    w = torch.rand(3, components, generator=g, dtype=torch.float64) + 0.5
    return BernoulliMixture(p, w / w.sum(dim=1, keepdim=True), torch.tensor([0.3, 0.3, 0.4]))


def random_hmm(
    k: int = 2, s: int = 3, n: int = 3, d: int = 4, seed: int = 0, zeros: float = 0.0
) -> HiddenMarkovMixture:
    """K random hidden Markov chains of S hidden states; a share `zeros` of their probabilities is 0."""
    g = torch.Generator().manual_seed(seed)

    def rows(*shape: int) -> Tensor:
        values = torch.rand(*shape, generator=g, dtype=torch.float64) ** 2 + 1e-3
        values = values.masked_fill(torch.rand(*shape, generator=g) < zeros, 0.0)
        values[..., 0] += (values.sum(-1) == 0).double()
        return values / values.sum(-1, keepdim=True)

    return HiddenMarkovMixture(rows(k, s), rows(k, s, s), rows(k, s, n), rows(k), num_dims=d)


def hidden_markov() -> HiddenMarkovMixture:
    """Two classes of two hidden states, of which some values and steps are impossible."""
    return random_hmm(s=2, d=3, seed=3, zeros=0.5)


def data_of(target: Any, name: str = "small", **more: Any) -> Any:
    """Data that are known exactly, as studies are asked about them."""
    about = {"num_tokens": target.num_tokens, "num_classes": target.num_classes, "grid_shape": (target.num_dims,)}
    absent = {"class_names": None, "example_kind": None, "val_examples": lambda: None}
    return SimpleNamespace(target=target, name=name, **{**about, **absent, **more})


def found_by(study: Any, data: Any, denoiser: Denoiser | None, plan: Any) -> Findings:
    """What a study finds."""
    return run(study, Case.of(data, denoiser, plan))


def block_of(findings: Findings, name: str) -> list[Any]:
    """The rows of one block."""
    return list(next(block.rows for block in findings.blocks if block.name == name))


without_pixels = partial(sections_of, backend="none")


def samples_of(draws: Sequence[Draw], cache: AnyCache) -> Tensor:
    """The samples of all pieces, (n, D)."""
    return torch.cat([cache(draw.key, draw.make) for draw in draws])


def law_by_jumps(n: int, d: int, jumps: Callable[[tuple[int, ...]], Iterable[tuple[int, int, float]]]) -> Tensor:
    """The law of a jump chain by a sum over all orders and values.

    Args:
        jumps: of a partial state, n being the mask: (coordinate, value, chance) of each jump out of it.
    """
    mass = {(n,) * d: 1.0}
    for _ in range(d):
        following: dict[tuple[int, ...], float] = {}
        for state, here in mass.items():
            for i, v, chance in jumps(state):
                after = (*state[:i], v, *state[i + 1 :])
                following[after] = following.get(after, 0.0) + here * chance
        mass = following
    law = torch.zeros([n] * d, dtype=torch.float64)
    for state, here in mass.items():
        law[state] = here
    return law


def log_prob_along(denoiser: Denoiser, x: Sequence[int], order: Sequence[int], label: int) -> float:
    """ln prod p of the values of x, unmasked in an order."""
    state = [denoiser.num_tokens] * len(x)
    total = 0.0
    for i in order:
        total += float(denoiser(torch.tensor([state]), torch.tensor([label]))[0, i, x[i]])
        state[i] = x[i]
    return total


def brute_bound(target: TableMixture, denoiser: Denoiser, k: int | None, orders: int) -> float:
    """-E ln mean of prod p over `orders` random orders, by summing over all of them; 0 is the law itself."""
    total = 0.0
    pmf = target.class_pmf(k)
    label = target.num_classes if k is None else k
    for x in product(range(target.num_tokens), repeat=target.num_dims):
        logs = [log_prob_along(denoiser, x, s, label) for s in permutations(range(target.num_dims))]
        draws = [logs] if orders == 0 else list(product(logs, repeat=orders))
        total -= float(pmf[x]) * sum(math.log(sum(map(math.exp, d)) / len(d)) for d in draws) / len(draws)
    return total


def every_pair(firsts: Collection[Any], seconds: Collection[Any], quick: int | None = None) -> list[Any]:
    """Parameters: all pairs, of which each value is in one that is quick, or one of `quick` pairs is."""
    least = quick or min(len(firsts), len(seconds))
    pairs = product(enumerate(firsts), enumerate(seconds))
    return [pytest.param(a, b, marks=[pytest.mark.slow] if (i - j) % least else []) for (i, a), (j, b) in pairs]


def decimals(text: str) -> list[str]:
    """The numbers with a decimal point in a text, in its order."""
    return re.findall(r"\d+\.\d+(?:e[+-]?\d+)?", text)


def conclusion(text: str) -> str:
    """A sentence without its numbers: that of the opposite case differs."""
    return re.sub(r"[-+]?\d[\d.,e+%-]*", "#", text)


def chi_square_p_value(x: Tensor, law: Tensor) -> float:
    """P(a chi-square as large), cells with fewer than 5 expected counts pooled; impossible cells must be empty.

    A pool that has fewer than 5 itself takes in the smallest other cell: one count in it would be a p-value of 0.
    """
    expected = len(x) * law.flatten()
    observed = len(x) * histogram(x, law.shape[0]).flatten()
    assert observed[expected == 0].sum() == 0
    small = expected < 5
    if 0 < expected[small].sum() < 5 and (~small).sum() > 1:
        small[expected.masked_fill(small, torch.inf).argmin()] = True
    expected = torch.cat([expected[~small], expected[small].sum()[None]])
    observed = torch.cat([observed[~small], observed[small].sum()[None]])
    keep = expected > 0
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    return float(chi2.sf(float(statistic), int(keep.sum()) - 1))


def rarely_slow() -> TableMixture:
    """After the value 0 alone of the first coordinate the second says nothing of the class; guidance avoids it."""
    first = torch.tensor([[0.2, 0.4, 0.4], [0.9, 0.05, 0.05]], dtype=torch.float64)
    then = torch.tensor(
        [
            [[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3]],
            [[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.6, 0.2, 0.2]],
        ],
        dtype=torch.float64,
    )
    return TableMixture(first[:, :, None] * then, torch.tensor([0.02, 0.98], dtype=torch.float64))
