"""Models of time and memory, each compared with three sizes: python -m bench.scaling [NAME ...] (docs/scaling.md).

A model has one constant, fitted at the middle size; the ratios at the other two show how well it extrapolates. Every
size runs in a separate process, so that its peak resident memory is its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from typing import Any

import torch

Size = dict[str, int]


@dataclass(frozen=True)
class Model:
    """How time and memory of one piece of work grow.

    Attributes:
        what: the work. sizes: three. warm: a small size, which loads everything.
        time, memory: of a size, up to a constant, as in docs/scaling.md.
        work: the function that does it.
    """

    what: str
    sizes: tuple[Size, Size, Size]
    warm: Size
    time: Callable[[Size], float]
    memory: Callable[[Size], float]
    work: Callable[[Size], object]


def network(size: Size) -> torch.nn.Module:
    """A transformer of L positions with two values."""
    from mdlm_cfg.nets import GridTransformer

    return GridTransformer(2, (size["length"],), 2, width=size["width"], depth=size["depth"], num_heads=2, patch_size=1)


def step(size: Size) -> None:
    """Three training steps."""
    from mdlm_cfg.nets.optimizer import adamw
    from mdlm_cfg.training.objectives import Sampled

    net = network(size)
    objective = Sampled()
    optimizer = adamw(net)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(2, (size["batch"], size["length"]), generator=generator)
    classes = torch.zeros(size["batch"], dtype=torch.int64)
    for _ in range(3):
        optimizer.zero_grad()
        objective.loss(net, x, classes, generator)["loss"].backward()
        optimizer.step()


def products(size: Size) -> float:
    """Multiplications of a row's forward pass: 12 width^2 per position and block, and the attention's 2 L width."""
    length = size["length"]
    width = size["width"]
    return size["depth"] * length * (12 * width**2 + 2 * length * width)


def kept(size: Size) -> float:
    """Numbers stored per row for the backward pass: 20 width per position and block, and 2 heads of two L x L."""
    length = size["length"]
    width = size["width"]
    return size["depth"] * length * (20 * width + 2 * 2 * length)


def law(size: Size) -> None:
    """One terminal law of a random table."""
    from bench.laws import random_table
    from mdlm_cfg import Guidance, terminal_law

    terminal_law(random_table(size["N"], size["D"]).denoiser(), Guidance(2.0), 0)


def edges(size: Size) -> float:
    """Transitions from a partial state to one with one more unmasked coordinate: D N (N + 1)^(D - 1)."""
    n = size["N"]
    d = size["D"]
    return sum(comb(d, level) * n**level * (d - level) * n for level in range(d))


def law_numbers(size: Size) -> float:
    """Numbers that a law holds at once: 4 per partial state, and 4 per transition out of the largest level."""
    n = size["N"]
    d = size["D"]
    return 4 * (n + 1) ** d + 4 * max(comb(d, level) * (d - level) * n ** (level + 1) for level in range(d))


def draw(size: Size) -> None:
    """Guided samples by event-leaping."""
    from mdlm_cfg import Guidance, Sampler
    from mdlm_cfg.nets import NetDenoiser

    denoiser = NetDenoiser(network(size), size["batch"])
    generator = torch.Generator().manual_seed(0)
    Sampler("event_leaping", size["steps"]).draw(denoiser, Guidance(2.0), 0, size["n"], generator)


NET = {"length": 64, "width": 64, "depth": 2}
MODELS = {
    "step": Model(
        "three training steps, objective=sampled",
        (
            {"batch": 64} | NET,
            {"batch": 128} | NET,
            {"batch": 128, "length": 64, "width": 128, "depth": 4},
        ),
        {"batch": 2} | NET,
        lambda size: 2 * size["batch"] * products(size),
        lambda size: 2 * size["batch"] * kept(size),
        step,
    ),
    "law": Model(
        "a terminal law of a table",
        ({"N": 5, "D": 8}, {"N": 2, "D": 14}, {"N": 5, "D": 9}),
        {"N": 2, "D": 3},
        edges,
        law_numbers,
        law,
    ),
    "sampling": Model(
        "guided samples of a network",
        (
            {"n": 256, "steps": 8, "batch": 256} | NET,
            {"n": 512, "steps": 8, "batch": 512} | NET,
            {"n": 512, "steps": 16, "batch": 512, "length": 64, "width": 128, "depth": 2},
        ),
        {"n": 2, "steps": 2, "batch": 2} | NET,
        lambda size: 2 * size["n"] * size["steps"] * products(size),
        lambda size: size["batch"] * size["length"] * size["width"],
        draw,
    ),
}


def measure(name: str, number: int) -> tuple[float, float]:
    """Seconds, and bytes above those of the small size; in a separate process."""
    command = [sys.executable, "-m", "bench.scaling", "--one", name, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = json.loads(done.stdout)
    return seconds, memory


def one(name: str, number: int) -> tuple[float, float]:
    """The best of three runs: other work on the machine can only add time."""
    torch.set_num_threads(1)
    model = MODELS[name]
    size = model.sizes[number]
    model.work(model.warm)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(3):
        start = time.process_time()
        model.work(size)
        times.append(time.process_time() - start)
    return min(times), 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def report(name: str) -> list[dict[str, Any]]:
    """A line for every size: measured, modelled, and their ratios."""
    model = MODELS[name]
    found = [measure(name, number) for number in range(3)]
    time_unit = found[1][0] / model.time(model.sizes[1])
    memory_unit = found[1][1] / model.memory(model.sizes[1])
    return [
        {
            "work": model.what,
            "size": size,
            "seconds": seconds,
            "time_ratio": seconds / (time_unit * model.time(size)),
            "MiB": memory / 2**20,
            "memory_ratio": memory / (memory_unit * model.memory(size)),
        }
        for size, (seconds, memory) in zip(model.sizes, found, strict=True)
    ]


def main(arguments: list[str]) -> None:
    """Print the table."""
    if arguments[:1] == ["--one"]:
        print(json.dumps(one(arguments[1], int(arguments[2]))))
        return
    print("| work | size | seconds | measured / modelled | MiB | measured / modelled |\n|---|---|---|---|---|---|")
    for name in arguments or MODELS:
        for row in report(name):
            size = ", ".join(f"{key} {value}" for key, value in row["size"].items())
            print(
                f"| {row['work']} | {size} | {row['seconds']:.3g} | {row['time_ratio']:.2f} | {row['MiB']:.0f} | "
                f"{row['memory_ratio']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
