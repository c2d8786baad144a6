"""Speed against its bound, as ratios: `make bench` (python -m bench).

Every figure is one run's time over the time that the machine's own ceilings, measured in the same run, allow: bytes
that must move over the rate of a large copy, or floating-point operations over the rate of a large matrix product.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from math import comb

import torch
from rich.console import Console
from rich.table import Table

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.laws.push import law_at, terminal_law
from mdlm_cfg.nets import GridTransformer
from mdlm_cfg.sampling.sampler import sample
from mdlm_cfg.support.machine import keep_freed_memory
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.targets.toys import toy_2d_overlap, toy_5d_hypercube
from mdlm_cfg.training.elbo import AveragedObjective, nelbo

REPEATS = 3


def timed(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median seconds of `repeats` runs after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def copy_rate() -> float:
    """Bytes per second, read plus written, of a large copy."""
    source, target = torch.rand(2**26), torch.empty(2**26)
    return 2 * source.nbytes / timed(lambda: target.copy_(source))


def matmul_rate() -> float:
    """Floating-point operations per second of a large float32 matrix product."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    return 2 * 2048**3 / timed(lambda: a @ b)


def random_table(num_tokens: int, num_dims: int) -> TableMixture:
    """Two random classes."""
    pmfs = torch.rand(2, *[num_tokens] * num_dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return TableMixture(pmfs / pmfs.flatten(1).sum(1).reshape(2, *[1] * num_dims), torch.tensor([0.5, 0.5]))


def edge_bytes(num_tokens: int, num_dims: int) -> float:
    """Bytes that a terminal law must at least move: every edge's rate read once for Z and once for the push."""
    edges = sum(
        comb(num_dims, level) * num_tokens**level * (num_dims - level) * num_tokens for level in range(num_dims)
    )
    return 2 * 8 * edges


def train_flops(net: torch.nn.Module, positions: int) -> float:
    """Operations of one training step: 6 per weight and position (forward 2, backward 4)."""
    return 6.0 * sum(p.numel() for p in net.parameters() if p.ndim > 1) * positions


def main() -> None:
    """Run everything and print the table."""
    keep_freed_memory()  # as the commands do
    console = Console()
    table = Table("what", "seconds", "bound (s)", "time / bound", "bound is")
    bandwidth, flops = copy_rate(), matmul_rate()
    console.print(f"copy {bandwidth / 1e9:.1f} GB/s, float32 product {flops / 1e9:.0f} GFLOP/s")

    def add(name: str, seconds: float, bound: float | None, kind: str) -> None:
        ratio = "-" if bound is None else f"{seconds / bound:.1f}"
        table.add_row(name, f"{seconds:.3f}", "-" if bound is None else f"{bound:.3f}", ratio, kind)
        console.print(f"  {name}: {seconds:.3f} s", style="dim")

    for n, d in ((5, 9), (2, 16)):
        denoiser = random_table(n, d).denoiser()
        seconds = timed(partial(terminal_law, denoiser, Guidance(2.0), 0))
        add(
            f"terminal law, {(n + 1) ** d:.2g} partial states (N={n}, D={d})",
            seconds,
            edge_bytes(n, d) / bandwidth,
            "memory",
        )
    toy = toy_5d_hypercube().denoiser()
    add("law at one time, 5D toy", timed(lambda: law_at(toy, Guidance(2.0), 0, 1.0)), None, "-")
    square = toy_2d_overlap()
    add(
        "100,000 first-hitting samples, 2D toy",
        timed(lambda: sample(square.denoiser(), Guidance(2.0), 0, 100_000)),
        None,
        "-",
    )
    net = GridTransformer(num_tokens=16, grid_shape=(2,), num_classes=2, width=64, depth=2, num_heads=4)
    averaged = AveragedObjective(16, 2, 2)
    joint = square.class_weights.reshape(-1, 1, 1) * square.class_pmfs

    def toy_step() -> None:
        torch.stack(averaged(net, joint)).sum().backward()

    positions = averaged.num_evaluations * 2
    add("averaged objective, one step, 2D toy", timed(toy_step), train_flops(net, positions) / flops, "arithmetic")
    image = GridTransformer(2, (28, 28), 10, patch_size=7, width=128, depth=4, num_heads=4, stem_channels=16)
    x, classes = torch.randint(0, 2, (64, 784)), torch.randint(0, 10, (64,))
    transformer = sum(p.numel() for p in image.parameters() if p.ndim == 2)
    convolution = sum(p.numel() for p in image.parameters() if p.ndim == 4)
    bound = 6.0 * 64 * (transformer * 16 + convolution * 784) / flops
    add(
        "image net, one float32 step of 64",
        timed(lambda: nelbo(image, x, classes, 2).mean().backward()),
        bound,
        "arithmetic",
    )
    console.print(table)


if __name__ == "__main__":
    main()
