"""The figures of docs/decoders.md, and its pictures: python docs/decoders.py [RUN] (100 s of CPU time).

It prints every table of the page, and draws docs/pictures/decoders.png and decoders_calls.png. RUN is the folder of a
network that was trained by `python train.py data=tiny_mnist_3x3`; with it the tables of that network are printed too.
Nothing is sampled: all is exact.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from torch import Tensor

from mdlm_cfg import Correction, Guidance, Sampler, load_run, stationary_law, terminal_law
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.corrections import correction_kernel
from mdlm_cfg.laws.stationary import spectral_gap
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.studies.benchmark.targets import Target, of_table, rotation, target_of

PICTURES = Path(__file__).parent / "pictures"
STRENGTHS = (0.0, 1.0, 3.0)  # of the curves of calls and TV
DECODERS = {
    "first-hitting (one at a time)": Sampler("first_hitting"),
    "choose by confidence, then draw": Sampler("first_hitting", policy="confidence"),
    "event-leaping, 2 per step": Sampler("event_leaping", events=2),
    "LLaDA low_confidence, 1 per step": Sampler("sampled_confidence", events=1),
    "the same, 2 per step": Sampler("sampled_confidence", events=2),
    "the same, 1 per step, blocks of 3": Sampler("sampled_confidence", events=1, policy="blocks(0,1,2|3,4,5|6,7,8)"),
    "MaskGIT, 8 steps, temperature 4.5": Sampler("sampled_confidence", 8, choice_temperature=4.5, annealed=True),
    "Fast-dLLM threshold 0.9": Sampler("threshold", threshold=0.9),
    "Fast-dLLM factor 1": Sampler("factor", factor=1.0),
    "EB-Sampler, 0.1 nats": Sampler("entropy_bound", gamma=0.1),
    "ancestral, 16 steps": Sampler("remdm", 16, remasking="cap(0)"),
    "ReMDM cap(0.2), 16 steps": Sampler("remdm", 16, remasking="cap(0.2)"),
}
CURVES = {
    "confidence": [Sampler("sampled_confidence", events=k) for k in (1, 2, 3, 5, 9)],
    "threshold": [Sampler("threshold", threshold=c) for c in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)],
    "factor": [Sampler("factor", factor=f) for f in (0.1, 0.3, 1.0, 1.5, 2.0, 3.0)],
    "entropy bound": [Sampler("entropy_bound", gamma=g) for g in (0.0, 0.1, 0.3, 0.6, 1.0, 2.0, 4.0)],
    "event-leaping": [Sampler("event_leaping", events=k) for k in (1, 2, 3, 5, 9)],
}
REMASKED = {  # and what it is compared with, of learned conditionals
    "first-hitting": Sampler("first_hitting"),
    "ancestral, 64 steps": Sampler("remdm", 64, remasking="cap(0)"),
    "ReMDM cap(0.2), 64 steps": Sampler("remdm", 64, remasking="cap(0.2)"),
    "first-hitting, 40 single refills": Sampler(correction=Correction(moves=40)),
    "first-hitting, 400 single refills": Sampler(correction=Correction(moves=400)),
}
MOVES = (0, 2, 5, 10, 20, 40)


def entropy(law: Tensor) -> float:
    """In nats."""
    return float(-(law * law.clamp(min=1e-300).log()).sum())


def decoders(target: Target) -> Iterator[list[object]]:
    """Every decoder: at w = 0 TV to the class, entropy lost and calls; at w = 2 TV to the class and the tilted law."""
    denoiser, z = target.denoiser, target.target_class
    for name, sampler in DECODERS.items():
        free, guided = (sampler.law(denoiser, Guidance(w), z) for w in (0.0, 2.0))
        yield [
            name,
            total_variation(target.class_law, free),
            entropy(target.class_law) - entropy(free),
            f"{sampler.expected_calls(denoiser, Guidance(0.0), z):.2f}",
            total_variation(target.class_law, guided),
            total_variation(target.tilted(2.0), guided),
            f"{sampler.expected_calls(denoiser, Guidance(2.0), z):.2f}",
        ]


def targets() -> Iterator[list[object]]:
    """LLaDA's rule at w = 0 and one coordinate per step: TV to the class, and the entropy before and after."""
    for name in ("tiny_mnist_3x3", "hmm_motif", "hmm_rotation", "toy_5d_hypercube", "toy_2d_overlap"):
        target = target_of(name)
        law = Sampler("sampled_confidence", events=1).law(target.denoiser, Guidance(0.0), target.target_class)
        yield [name, total_variation(target.class_law, law), entropy(target.class_law), entropy(law)]


def temperatures() -> Iterator[list[object]]:
    """The temperature of a choose-then-draw sampler that is nearest to LLaDA's rule, and the TV that is left."""
    grid = [t / 100 for t in range(10, 101, 2)]
    for name in ("tiny_mnist_3x3", "hmm_motif", "hmm_rotation"):
        target = target_of(name)
        denoiser, z = target.denoiser, target.target_class
        law = Sampler("sampled_confidence", events=1).law(denoiser, Guidance(0.0), z)
        for policy in ("uniform", "confidence"):
            cold = {t: terminal_law(denoiser, Guidance(0.0, temperature=t), z, policy) for t in grid}
            left, t = min((total_variation(law, cooled), t) for t, cooled in cold.items())
            yield [name, policy, f"{t:.2f}", total_variation(target.class_law, law), left]


def conditionals(
    exact: Target, learned: Target, w: float, samplers: Mapping[str, Sampler] = DECODERS
) -> Iterator[list[object]]:
    """Exact and learned conditionals of the same data: TV to the tilted law of the data (at w = 0 the class)."""
    guidance = Guidance(w)
    for name, sampler in samplers.items():
        if "blocks" not in name:
            laws = [sampler.law(one.denoiser, guidance, one.target_class) for one in (exact, learned)]
            yield [name, *(total_variation(exact.tilted(w), law) for law in laws), total_variation(*laws)]


def corrected(target: Target, correction: Correction, sampler: Sampler, w: float) -> list[float]:
    """TV to the tilted law after each number of `MOVES`."""
    denoiser, guidance, z = target.denoiser, Guidance(w), target.target_class
    kernel = correction_kernel(denoiser, guidance, z, correction)
    tilted = target.tilted(w)
    found = []
    law = sampler.law(denoiser, guidance, z)
    for number in range(MOVES[-1] + 1):
        if number in MOVES:
            found.append(total_variation(tilted, law))
        law = kernel.sweep(law)
    return found


def corrections(target: Target) -> Iterator[list[object]]:
    """Moves after the guided chain and after LLaDA's rule at w = 2: TV to the tilted law, where they end, the gap."""
    for sampler in (Sampler("first_hitting"), Sampler("sampled_confidence", events=1)):
        for size, accept in ((1, False), (2, False), (2, True), (3, False), (3, True)):
            correction = Correction(size=size, accept=accept)
            denoiser, guidance, z = target.denoiser, Guidance(2.0), target.target_class
            end = total_variation(target.tilted(2.0), stationary_law(denoiser, guidance, z, correction))
            name = f"{size}{', accept' if accept else ''}"
            gap = spectral_gap(denoiser, guidance, z, correction)
            yield [sampler.name, name, *corrected(target, correction, sampler, 2.0), end, gap, correction.calls(9)]


def remasking(target: Target) -> Iterator[list[object]]:
    """ReMDM in 16 and 64 steps: TV to the class at w = 0, and to the tilted law at w = 2."""
    denoiser, z = target.denoiser, target.target_class
    for steps in (16, 64):
        for rule in ("cap(0)", "cap(0.2)", "rescale(0.5)", "loop(0.02)", "forward_backward"):
            sampler = Sampler("remdm", steps, remasking=rule)
            free, guided = (sampler.law(denoiser, Guidance(w), z) for w in (0.0, 2.0))
            to_class, to_tilted = total_variation(target.class_law, free), total_variation(target.tilted(2.0), guided)
            yield [steps, rule, to_class, to_tilted]


def pareto(target: Target, w: float) -> Iterator[list[object]]:
    """Every adaptive rule: expected calls, and TV to the tilted law (at w = 0 the class)."""
    denoiser, guidance, z = target.denoiser, Guidance(w), target.target_class
    for name, samplers in CURVES.items():
        for sampler in samplers:
            calls = sampler.expected_calls(denoiser, guidance, z)
            yield [w, name, calls, total_variation(target.tilted(w), sampler.law(denoiser, guidance, z))]


def draw_calls(curves: Sequence[Sequence]) -> None:
    """TV to the tilted law against expected calls of every rule, a panel for each strength."""
    figure, axes = pyplot.subplots(1, len(STRENGTHS), figsize=(15, 4.6), layout="constrained", sharey=True)
    for panel, w in zip(axes, STRENGTHS):
        for number, name in enumerate(CURVES):
            points = sorted((row[2], row[3]) for row in curves if row[1] == name and row[0] == w)
            panel.plot(*zip(*points), "os^Dv"[number] + "-", label=name)
        panel.set(title=f"w = {w:g}{' (the class)' if w == 0 else ''}", xlabel="expected calls of the network")
    axes[0].set(ylabel="TV to the tilted distribution")
    axes[-1].legend(loc="lower left")  # where this panel is empty
    figure.suptitle("Fewer calls, and what they cost. Digit 3 on 3 x 3 cells, exact distributions")
    figure.savefig(PICTURES / "decoders_calls.png", dpi=80)


def show_learned(run: str, digit: Target) -> None:
    """The tables of a network of the digits."""
    learned = of_network(run, digit)
    heads = ["decoder", "exact", "learned", "TV between both"]
    for w in (0.0, 2.0):
        for title, samplers in (("decoders", DECODERS), ("does remasking repair?", REMASKED)):
            rows = list(conditionals(digit, learned, w, samplers))
            show(f"Digit 3, {title}, w = {w:g}: TV to the tilted law of the data", heads, rows)
        orders = total_variation(digit.tilted(w), learned.tilted(w))
        end = stationary_law(learned.denoiser, Guidance(w), learned.target_class, Correction())
        refills = total_variation(digit.tilted(w), end)
        print(f"\nTilted law of the network: {orders:.4f} from the data's by orders, {refills:.4f} as refills end")


def of_network(run: str, digit: Target) -> Target:
    """A trained network as a target: its answers to all partial states, beside the class's law."""
    return Target("learned digits", TabulatedDenoiser(load_run(run).denoiser), digit.target_class, digit.class_law)


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(f'{cell:.4f}' if isinstance(cell, float) else str(cell) for cell in row)} |", flush=True)


def draw(found: Sequence[Sequence], curves: Sequence[Sequence], moves: Sequence[Sequence]) -> None:
    """TV of every decoder at w = 0; TV against calls of the adaptive rules; TV against moves of a correction."""
    figure, (bars, front, after) = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    names = [row[0] for row in found][::-1]
    bars.barh(names, [row[1] for row in found][::-1], color="#0072B2")
    bars.set(title="Exact conditionals, no guidance (w = 0)", xlabel="TV to the class")
    for number, name in enumerate(CURVES):
        points = sorted((row[2], row[3]) for row in curves if row[1] == name and row[0] == 0)
        front.plot(*zip(*points), "os^Dv"[number] + "-", label=name)
    front.set(title="Calls and error (w = 0)", xlabel="expected calls of the network", ylabel="TV to the class")
    front.legend()
    starts = {"first_hitting": "guided chain", "sampled_confidence": "LLaDA's rule"}
    for row in moves:
        if row[1] in ("1", "3, accept"):
            style = "o-" if row[1] == "1" else "s--"
            calls = [number * row[-1] for number in MOVES]
            label = "one coordinate" if row[1] == "1" else "three, with accept/reject"
            after.plot(calls, row[2 : 2 + len(MOVES)], style, label=f"{starts[str(row[0])]}, then {label}")
    after.set(title="Corrections (w = 2)", xlabel="further calls", ylabel="TV to the tilted distribution")
    after.set(yscale="log")
    after.legend(loc="upper right", fontsize="small")
    figure.suptitle("What does the decoder sample? Digit 3 on 3 x 3 cells, exact distributions")
    figure.savefig(PICTURES / "decoders.png", dpi=80)


if __name__ == "__main__":
    digit = target_of("tiny_mnist_3x3")
    found = list(decoders(digit))
    head = ["decoder", "TV to class", "entropy lost", "calls", "w = 2: TV to class", "TV to tilted", "calls"]
    show("Digit 3 on 3 x 3 cells", head, found)
    show("LLaDA's rule on other data", ["data", "TV to class", "entropy", "entropy of samples"], list(targets()))
    show("Nearest temperature", ["data", "order", "temperature", "TV to class", "TV left"], list(temperatures()))
    rotations = of_table("rotation, 4 letters", rotation(4).table(), 1), target_of("learned_rotation")
    heads = ["decoder", "exact", "learned", "TV between both"]
    show("Learned conditionals", heads, list(conditionals(*rotations, 0.0)))
    moves = list(corrections(digit))
    show("Corrections", ["after", "size", *map(str, MOVES), "in the end", "spectral gap", "calls a move"], moves)
    show("Remasking", ["steps", "remasking", "w = 0: TV to class", "w = 2: TV to tilted"], list(remasking(digit)))
    curves = [row for w in STRENGTHS for row in pareto(digit, w)]
    show("Calls and TV", ["w", "rule", "calls", "TV to tilted"], curves)
    draw(found, curves, moves)
    draw_calls(curves)
    if len(sys.argv) > 1:
        show_learned(sys.argv[1], digit)
