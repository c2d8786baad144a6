"""The tables and the picture of docs/remedies.md: python docs/remedies.py [RUN] (100 s of CPU time).

Every remedy for guidance's departure from the tilted distribution gets the same number of network rows. RUN is the
folder of a network that was trained by `python train.py data=tiny_mnist_3x3`; with it the table of learned conditionals
is printed too. Laws are exact, and the mean TV of samples is that of drawn ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot
from torch import Tensor

from mdlm_cfg import (
    Correction,
    Guidance,
    Sampler,
    TableMixture,
    best_schedule,
    calibrated_strengths,
    load_run,
    sequential_monte_carlo,
    tilted_law,
    tilted_weights,
)
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.lattice import flat_index
from mdlm_cfg.compare.ledger import predicted_sample_tv
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.studies.benchmark.targets import motif, tiny_mnist
from mdlm_cfg.support.seeds import generator_for

PICTURE = Path(__file__).parent / "pictures" / "remedies.png"
W = 2.0
ROWS = (1_000, 10_000, 100_000, 1_000_000)  # calls x samples, of each of the two conditionals
MOST_ROWS = 1_000_000  # of all sets that are drawn at one number of rows
SETS = 50
HISTOGRAMS = 500  # drawn of an exact law
DRAWN = ("guided, uncorrected", "importance weights", "best schedule", "calibrated, then 10 single refills", "perfect")


@dataclass(frozen=True)
class Remedy:
    """What a sampler with a remedy gives.

    Attributes:
        name: for people. calls: for one sample, of each conditional.
        limit: TV to the tilted law with any number of samples. share: relative effective sample size.
        distance: the mean TV between the tilted law and the (weighted) histogram of n samples.
    """

    name: str
    calls: int
    limit: float
    share: float
    distance: Callable[[int], float]


@dataclass(frozen=True)
class World:
    """A table, a denoiser of it that is exact or learned, the class that is guided to, and strengths by level."""

    target: TableMixture
    denoiser: Denoiser
    z: int
    best: Guidance
    calibrated: Guidance

    @staticmethod
    def of(target: TableMixture, z: int) -> World:
        """A table with its exact conditionals; the strengths are found on the table."""
        best = best_schedule(target, W, z, "tv").guidance
        return World(target, target.denoiser(), z, best, Guidance(calibrated_strengths(target, W, z)))

    @property
    def tilted(self) -> Tensor:
        """The tilted law of the data."""
        return tilted_law(self.target, W, self.z)

    def of_law(self, name: str, calls: int, law: Tensor) -> Remedy:
        """A remedy that changes the law of the samples, and leaves their weights equal."""
        tilted = self.tilted
        generator = generator_for("remedies", name)

        def distance(n: int) -> float:
            return predicted_sample_tv(tilted, law, n, HISTOGRAMS, generator).value

        return Remedy(name, calls, total_variation(tilted, law), 1.0, distance)

    def of_sampler(self, name: str, sampler: Sampler, w: Guidance) -> Remedy:
        """A sampler with its corrections."""
        return self.of_law(name, sampler.calls(self.target.num_dims), sampler.law(self.denoiser, w, self.z))


def remedies(world: World) -> Iterator[Remedy]:
    """Every remedy; the perfect sampler last."""
    d = world.target.num_dims
    chain = Sampler()
    constant = Guidance(W)
    yield world.of_sampler("guided, uncorrected", chain, constant)
    yield weighted(world)
    yield resampled(world)
    yield world.of_sampler("best schedule", chain, world.best)
    yield world.of_sampler("calibrated strengths", chain, world.calibrated)
    for moves in (10, 40):
        corrected = replace(chain, correction=Correction(moves=moves))
        yield world.of_sampler(f"{moves} single refills", corrected, constant)
    yield world.of_sampler(
        "10 moves of 3, accept/reject", replace(chain, correction=Correction(3, 10, accept=True)), constant
    )
    # the last of the calibrated strengths is w: single refills have the same tilted law
    corrected = replace(chain, correction=Correction(moves=10))
    yield world.of_sampler("calibrated, then 10 single refills", corrected, world.calibrated)
    yield world.of_sampler("ReMDM cap(0.2), 64 steps", Sampler("remdm", 64, remasking="cap(0.2)"), constant)
    yield world.of_law("perfect", d, world.tilted)


def weighted(world: World) -> Remedy:
    """Finished samples of the guided chain with their importance weights, by drawing sets."""
    weights = tilted_weights(world.denoiser, Guidance(W), world.z)

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, log_weights = Sampler().draw_weighted(world.denoiser, Guidance(W), world.z, n, generator)
        return x, log_weights.softmax(dim=0)

    limit = total_variation(world.tilted, weights.law)
    return Remedy("importance weights", world.target.num_dims, limit, weights.ess, drawn(world, draw))


def resampled(world: World) -> Remedy:
    """Sequential Monte Carlo, by drawing sets; its limit is that of the weights, its share that of its last weights."""

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        arguments = (world.denoiser, Guidance(W), world.z, n - n % 2)
        found = sequential_monte_carlo(*arguments, num_groups=2, generator=generator)
        return found.x, found.weights

    _, last = draw(10_000, generator_for("remedies", 1))
    share = float(1 / (last**2).sum() / len(last))
    limit = weighted(world).limit
    return Remedy("sequential Monte Carlo", world.target.num_dims, limit, share, drawn(world, draw))


def drawn(world: World, draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]) -> Callable[[int], float]:
    """The mean TV between the tilted law and weighted histograms of n samples, by drawing sets of them.

    Args:
        draw: n samples (n, D) and their weights (n,), which sum to 1.
    """
    tilted = world.tilted
    generator = generator_for("remedies", 0)

    def distance(n: int) -> float:
        found = []
        for _ in range(max(1, min(SETS, MOST_ROWS // (n * world.target.num_dims)))):
            x, weights = draw(n, generator)
            cells = flat_index(x, world.target.num_tokens)
            histogram = torch.zeros(tilted.numel(), dtype=torch.float64).index_add(0, cells, weights)
            found.append(total_variation(tilted, histogram.view_as(tilted)))
        return sum(found) / len(found)

    return distance


def table(title: str, world: World) -> dict[str, list[float]]:
    """Print the table of one world in Markdown; the mean TV of each remedy, by its name."""
    heads = ["remedy", "calls a sample", "limit", "relative ESS", *(f"{rows:,} rows" for rows in ROWS)]
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    found = {}
    for remedy in remedies(world):
        found[remedy.name] = [remedy.distance(rows // remedy.calls) for rows in ROWS]
        cells = [f"{value:.4f}" for value in (remedy.limit, remedy.share, *found[remedy.name])]
        print(f"| {' | '.join([remedy.name, str(remedy.calls), *cells])} |", flush=True)
    return found


def draw(found: dict[str, dict[str, list[float]]]) -> None:
    """Mean TV against rows: a panel for each table, a line for some remedies."""
    figure, axes = pyplot.subplots(1, len(found), figsize=(5 * len(found), 4), layout="constrained", squeeze=False)
    for panel, (title, rows) in zip(axes[0], found.items()):
        for number, name in enumerate(DRAWN):
            panel.plot(ROWS, rows[name], "os^Dv"[number] + ("--" if name == "perfect" else "-"), label=name)
        panel.set(title=title, xlabel="network rows (calls x samples)", xscale="log", yscale="log")
    axes[0, 0].set(ylabel="mean TV to the tilted distribution")
    axes[0, 0].legend(fontsize="small")
    figure.savefig(PICTURE, dpi=80)


def worlds(arguments: Sequence[str]) -> Iterator[tuple[str, World]]:
    """The tables by their titles."""
    digits = World.of(tiny_mnist(), 3)
    yield "Digit 3 on 3 x 3 cells, exact", digits
    yield "hmm_motif, exact", World.of(motif().table(), 0)
    if arguments:
        yield "Digit 3, learned", replace(digits, denoiser=TabulatedDenoiser(load_run(arguments[0]).denoiser))


if __name__ == "__main__":
    draw({title: table(title, world) for title, world in worlds(sys.argv[1:])})
