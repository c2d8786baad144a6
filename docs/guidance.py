"""The figures of docs/guidance.md, and its picture: python docs/guidance.py [RUN ...] (60 s of CPU time).

It prints every table of the page, and draws docs/pictures/guidance.png. Nothing is sampled: all is exact. RUN is the
folder of a network that was trained on the digits' table, which `python docs/guidance.py FILE.npz` writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import torch
from matplotlib import pyplot
from torch import Tensor

from mdlm_cfg import Guidance, TableMixture, UserError, load_run, terminal_law, tilted_law
from mdlm_cfg.chain.adaptive_cfg import AdaptiveCFG
from mdlm_cfg.chain.classifier_rule import ByClassifier
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.chain.product_rules import Auto, Compose, Negative, Tempered
from mdlm_cfg.chain.rules import CFG, Rule
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.studies.benchmark.targets import target_of
from mdlm_cfg.targets.posterior import TablePosterior

PICTURE = Path(__file__).parent / "pictures" / "guidance.png"
STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)
BISECTIONS = 20
FLOOR = 0.02  # share of the uniform distribution in every class, so that no rule has an infinite rate
ERROR = 0.05  # of the log-probabilities of the conditionals that err, one standard deviation
Z = 0


def entropy(law: Tensor) -> float:
    """In nats."""
    return float(-torch.special.xlogy(law, law).sum())


def smoothed(target: TableMixture, share: float) -> TableMixture:
    """Every class mixed with a share of the uniform distribution."""
    states = target.num_tokens**target.num_dims
    return TableMixture((1 - share) * target.class_pmfs + share / states, target.class_weights)


class Erring:
    """Exact conditionals with independent normal errors of their log-probabilities, fixed for every state and class."""

    def __init__(self, denoiser: Denoiser, size: float, seed: int = 0) -> None:
        self.denoiser = denoiser
        self.num_tokens = denoiser.num_tokens
        self.num_dims = denoiser.num_dims
        self.num_classes = denoiser.num_classes
        shape = (self.num_classes + 1, (self.num_tokens + 1) ** self.num_dims, self.num_dims, self.num_tokens)
        generator = torch.Generator().manual_seed(seed)
        self.errors = size * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.strides = (self.num_tokens + 1) ** torch.arange(self.num_dims - 1, -1, -1)

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """See `mdlm_cfg.chain.denoiser.Denoiser`."""
        labels = torch.full((len(tokens),), self.num_classes) if classes is None else classes
        log_probs = self.denoiser(tokens, classes) + self.errors[labels, (tokens * self.strides).sum(dim=1)]
        return copy_unmasked(log_probs.log_softmax(dim=-1), tokens)


def digits() -> TableMixture:
    """Digits 3, 8 and 1 on 3 x 3 cells, each with a floor: class 0 is the 3."""
    target = target_of("tiny_mnist_3x3").denoiser.target  # type: ignore[attr-defined]
    chosen = [3, 8, 1]
    weights = target.class_weights[chosen]
    return smoothed(TableMixture(target.class_pmfs[chosen], weights / weights.sum()), FLOOR)


def toy() -> TableMixture:
    """The toy of two overlapping squares, with a floor."""
    return smoothed(target_of("toy_2d_overlap").denoiser.target, FLOOR)  # type: ignore[attr-defined]


def rules_of(target: TableMixture) -> dict[str, Rule]:
    """The rules that steer towards class 0; the last two have no tilted distribution."""
    posterior = TablePosterior(target)
    return {
        "CFG": CFG(),
        "negative class": Negative(1),
        "auto, smoothed 0.1": Auto(smoothed(target, 0.1).denoiser()),
        "auto, smoothed 0.5": Auto(smoothed(target, 0.5).denoiser()),
        "composition with class 1": Compose({0: 1.0, 1: 0.5}),
        "temperature 1 / (1 + w)": CFG(),  # replaced by `guidance_of`
        "classifier, Taylor": ByClassifier(posterior, taylor=True),
        "A-CFG, k = 1": AdaptiveCFG(k=1),
    }


def guidance_of(name: str, rule: Rule, w: float) -> Guidance:
    """The guidance of a rule at strength w; a temperature sharpens the class itself."""
    if name.startswith("temperature"):
        return Guidance(0.0, rule=Tempered(1 / (1 + w)))
    return Guidance(w, rule=rule)


def at_entropy(target: TableMixture, name: str, rule: Rule, entropy_wanted: float) -> float | None:
    """The strength at which the law of a rule has an entropy, by bisection; None where no w up to 64 reaches it."""
    denoiser = target.denoiser()

    def reached(w: float) -> float:
        return entropy(terminal_law(denoiser, guidance_of(name, rule, w), Z))

    low, high = 0.0, 1.0
    while reached(high) > entropy_wanted:
        low, high = high, 2 * high
        if high > 64:
            return None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) > entropy_wanted else (low, middle)
    return (low + high) / 2


def matched(target: TableMixture, lost: float, networks: Sequence[Denoiser] = ()) -> Iterator[list[object]]:
    """Every rule at one entropy: w, TV to its tilted law and to the class, E p(class | x), and the errors amplified.

    Args:
        lost: nats of entropy that guidance takes from the class.
        networks: trained on the target; their errors are shown beside independent ones.
    """
    denoiser = target.denoiser()
    wanted = entropy(target.class_pmf(Z)) - lost
    groups = [group for group in ([Erring(denoiser, ERROR, seed) for seed in range(3)], list(networks)) if group]
    free = [away(target.class_pmf(Z), group, Guidance(0.0)) for group in groups]
    for name, rule in rules_of(target).items():
        try:
            w = at_entropy(target, name, rule, wanted)
        except UserError as error:
            yield [name, f"refused: {error}"]
            continue
        if w is None:
            yield [name, "does not reach it"]
            continue
        guidance = guidance_of(name, rule, w)
        law = terminal_law(denoiser, guidance, Z)
        to_tilted = total_variation(law, tilted_law(target, guidance, Z)) if guidance.has_tilted else "none"
        posterior = TablePosterior(target)(states_of(target))[:, Z].exp()
        right = float((law.flatten() * posterior).sum())
        moved = [away(law, group, guidance) for group in groups]
        amplified = [number for one, base in zip(moved, free) for number in (one, one / base)]
        yield [name, w, to_tilted, total_variation(law, target.class_pmf(Z)), right, *amplified]


def away(law: Tensor, erring: Sequence[Denoiser], guidance: Guidance) -> float:
    """The mean TV between a law and those of denoisers that err, under the same guidance."""
    return sum(total_variation(law, terminal_law(one, guidance, Z)) for one in erring) / len(erring)


def states_of(target: TableMixture) -> Tensor:
    """All finished states, (N^D, D)."""
    return torch.cartesian_prod(*[torch.arange(target.num_tokens)] * target.num_dims).reshape(-1, target.num_dims)


def expansions(target: TableMixture) -> Iterator[list[object]]:
    """Taylor against exact classifier guidance by w: the entropies, and the TV between both laws."""
    posterior = TablePosterior(target)
    for w in STRENGTHS:
        exact, taylor = (
            terminal_law(target.denoiser(), Guidance(w, rule=ByClassifier(posterior, taylor=expand)), Z)
            for expand in (False, True)
        )
        cfg = terminal_law(target.denoiser(), Guidance(w), Z)
        yield [w, total_variation(exact, cfg), total_variation(exact, taylor), entropy(exact), entropy(taylor)]


def weaker(target: TableMixture) -> Iterator[list[object]]:
    """Auto-guidance with the exact denoiser as the strong one, and smoothed tables as weak ones, by w."""
    for share in (0.1, 0.3, 0.5, 0.9):
        rule = Auto(smoothed(target, share).denoiser())
        for w in STRENGTHS[2:]:
            law = terminal_law(target.denoiser(), Guidance(w, rule=rule), Z)
            tilted = tilted_law(target, Guidance(w, rule=rule), Z)
            moved = total_variation(law, target.class_pmf(Z))
            yield [share, w, moved, total_variation(law, tilted), entropy(law)]


def compositions() -> Iterator[list[object]]:
    """Two classes composed, at w = 0: digits with a floor, and two squares that have no state in common."""
    squares = torch.zeros(2, 4, 4, dtype=torch.float64)
    squares[0, :2, :2] = 0.25
    squares[1, 2:, 2:] = 0.25
    disjoint = TableMixture(squares, torch.tensor([0.5, 0.5]))
    for name, target, k in (("3 and 8", digits(), 1), ("3 and 1", digits(), 2), ("disjoint squares", disjoint, 1)):
        overlap = 1 - total_variation(target.class_pmf(0), target.class_pmf(k))
        for weight in (1.0, 0.5):
            guidance = Guidance(0.0, rule=Compose({0: weight, k: weight}))
            try:
                law = terminal_law(target.denoiser(), guidance, None)
                yield [name, overlap, weight, total_variation(law, tilted_law(target, guidance, None)), entropy(law)]
            except UserError:
                yield [name, overlap, weight, "refused", ""]


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(f'{cell:.4f}' if isinstance(cell, float) else str(cell) for cell in row)} |", flush=True)


def draw(found: Sequence[Sequence], expanded: Sequence[Sequence], auto: Sequence[Sequence]) -> None:
    """TV to the tilted law and errors of every rule at one entropy; Taylor by w; auto-guidance by w."""
    figure, (bars, lines, weak) = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    rows = [row for row in found if len(row) > 2][::-1]
    places = torch.arange(len(rows)).tolist()
    tilted = [row[2] if isinstance(row[2], float) else 0.0 for row in rows]
    bars.barh([k + 0.2 for k in places], tilted, 0.4, color="#0072B2")
    bars.barh([k - 0.2 for k in places], [row[5] for row in rows], 0.4, color="#D55E00")
    bars.set_yticks(places, [row[0] for row in rows])
    bars.set(title="At one entropy, digit 3", xlabel="total variation")
    bars.legend(["to its own tilted distribution", "exact to erring conditionals"])
    lines.plot([row[0] for row in expanded], [row[2] for row in expanded], "o-", color="#0072B2")
    lines.set(title="Taylor against exact classifier guidance", xlabel="w", ylabel="TV between both", ylim=(0, None))
    for number, share in enumerate(dict.fromkeys(row[0] for row in auto)):
        points = [(row[1], row[2], row[3]) for row in auto if row[0] == share]
        w, moved, gap = zip(*points)
        weak.plot(w, moved, "o-", color=f"C{number}", label=f"weak: smoothed by {share}")
        weak.plot(w, gap, "s--", color=f"C{number}")
    weak.set(title="Auto-guidance: TV to class (dashed: to tilted)", xlabel="w", ylabel="total variation")
    weak.legend(fontsize="small")
    figure.savefig(PICTURE, dpi=80)


def write_table(path: str, target: TableMixture) -> None:
    """A table as `data=table` takes it, in a new file."""
    try:
        with open(path, "xb") as file:
            np.savez(file, class_pmfs=target.class_pmfs.numpy(), class_weights=target.class_weights.numpy())
    except OSError as error:
        sys.exit(f"error: {path} cannot be made ({error.strerror}): give another name")


def show_all(networks: Sequence[Denoiser]) -> None:
    """Every table, and the picture."""
    head = ["rule", "w", "TV to its tilted", "TV to class", "p(class)", "TV, erring", "over w = 0"]
    learned = ["TV, learned", "over w = 0"] if networks else []
    found = list(matched(digits(), 0.5, networks))
    show("Digits 3, 8 and 1 on 3 x 3 cells: 0.5 nats below the class", [*head, *learned], found)
    show("Two overlapping squares: 0.05 nats below the class", head, list(matched(toy(), 0.05)))
    target = digits()
    expanded = list(expansions(target))
    show("Taylor", ["w", "exact to CFG", "exact to Taylor", "entropy, exact", "entropy, Taylor"], expanded)
    auto = list(weaker(target))
    show("Auto-guidance", ["weak smoothed by", "w", "TV to class", "TV to its tilted", "entropy"], auto)
    show("Composition", ["classes", "overlap", "weight of each", "TV to its tilted", "entropy"], list(compositions()))
    draw(found, expanded, auto)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].endswith(".npz"):
        write_table(sys.argv[1], digits())
    else:
        show_all([TabulatedDenoiser(load_run(run).denoiser) for run in sys.argv[1:]])
