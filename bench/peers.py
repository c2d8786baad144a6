"""A peer's network and ours, trained for the same CPU time on the same data and evaluated alike: bench/peers.md.

    pip install diffusers==0.42.1
    OMP_NUM_THREADS=1 python -m bench.peers toy_2d_overlap     # or mnist

The peer is `UVit2DModel` of diffusers, the network of aMUSEd: a masked diffusion of images with classifier-free
guidance. Its loss is not in the package: it is `maskgit_loss` here, and the network is trained on our objective too.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from bench.__main__ import load, machine
from mdlm_cfg import Guidance, Sampler, UserError
from mdlm_cfg.app.build import build_data
from mdlm_cfg.app.cli import CONFIGS, settings_of
from mdlm_cfg.chain.masking import mask_uniform
from mdlm_cfg.compare.likelihood import nelbo_bound
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.nets.optimizer import adamw
from mdlm_cfg.support.machine import keep_freed_memory
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.annealing import Annealing
from mdlm_cfg.training.build import build_module
from mdlm_cfg.training.callbacks import average_
from mdlm_cfg.training.data.base import Batch, DiffusionData
from mdlm_cfg.training.elbo import drop_labels
from mdlm_cfg.training.watching import ExactWatch

PACKAGE = "diffusers"
PINNED = "0.42.1"
RATES = (1e-3, 3e-3, 1e-2)  # learning rates tried for the peer
WARMUP = 20  # steps of the peer, which takes few in the time
LABEL_DROPOUT = 0.1  # with the loss of the peer, whose training script leaves it to the user
DEPTH = 2  # of the peer's transformer
HEADS = 4
NUM_TEST = 500  # images for NELBOs
NUM_DRAWS = 4  # masks of each
BATCH_SIZE = 250  # partial states per call of a network during the evaluation
Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Contest:
    """A data set, and the budget and settings of each network.

    Attributes:
        arguments: of train.py, which define our network.
        seconds: of CPU time to train for. trial: to try each of the peer's learning rates.
        batch_size: of the peer with its own loss. size: of its network: width, channels, downsample.
        sampler: whose guided samples are timed. num_samples: how many of them.
    """

    arguments: tuple[str, ...]
    seconds: float
    trial: float
    batch_size: int
    size: tuple[int, int, bool]
    sampler: Sampler
    num_samples: int


CONTESTS = {
    "toy_2d_overlap": Contest(("data=toy_2d_overlap",), 45, 15, 256, (64, 64, False), Sampler("first_hitting"), 2000),
    "mnist": Contest(("experiment=mnist",), 60, 10, 32, (64, 32, True), Sampler("event_leaping", 64), 16),
}


class PeerNet(nn.Module):
    """`UVit2DModel` as a network of this project: an embedding of the class replaces that of a prompt.

    Args:
        shape: num_tokens N, with the mask as token N; grid_shape, (D,) or (height, width); num_classes K.
        width: of its transformer. channels: of the convolutions around it.
        downsample: whether four positions become one token of the transformer.
    """

    def __init__(self, shape: Mapping[str, Any], width: int, channels: int, downsample: bool) -> None:
        from diffusers import UVit2DModel  # not a dependency: the user installs it

        super().__init__()
        self.num_tokens = shape["num_tokens"]
        self.num_dims = math.prod(shape["grid_shape"])
        self.num_classes = shape["num_classes"]
        self.grid_shape = (1, *shape["grid_shape"])[-2:]
        self.classes = nn.Embedding(self.num_classes + 1, width)
        sizes = dict.fromkeys(("hidden_size", "cond_embed_dim", "encoder_hidden_size"), width)
        sizes |= dict.fromkeys(("in_channels", "block_out_channels"), channels)
        sizes |= dict.fromkeys(("block_num_heads", "num_attention_heads"), HEADS)
        sizes |= dict.fromkeys(("micro_cond_encode_dim", "micro_cond_embed_dim"), 2)
        sizes |= dict.fromkeys(("downsample", "upsample"), downsample)
        sizes |= {"num_res_blocks": 1, "num_hidden_layers": DEPTH, "intermediate_size": 8 * width // 3}
        self.net = UVit2DModel(vocab_size=self.num_tokens + 1, codebook_size=self.num_tokens, **sizes)

    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """Log-probabilities, (B, D, N), of partial states int64 (B, D) with labels int64 (B,)."""
        embedded = self.classes(classes)
        nothing = embedded.new_zeros(len(tokens), 1)  # in place of aMUSEd's image size
        logits = self.net(tokens.unflatten(1, self.grid_shape), embedded[:, None], embedded, nothing)
        return logits.flatten(2).transpose(1, 2).log_softmax(dim=-1)


def maskgit_loss(net: nn.Module, x: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """The mean cross entropy of all masked coordinates, in each sample a share cos(pi u / 2) with u uniform on [0, 1).

    From MaskGIT (arXiv 2202.04200), and so in aMUSEd (arXiv 2401.01808). It does not bound the likelihood, but
    its minimum is at the same conditionals.
    """
    mask_id = int(net.num_tokens)  # type: ignore[arg-type]
    shares = torch.cos(torch.rand(len(x), generator=generator) * (math.pi / 2))
    tokens = mask_uniform(x, (x.shape[1] * shares).round().long().clamp(min=1), mask_id, generator)
    labels = drop_labels(classes, int(net.num_classes), LABEL_DROPOUT, generator)  # type: ignore[arg-type]
    is_masked = tokens == mask_id
    return nn.functional.nll_loss(net(tokens, labels)[is_masked], x[is_masked])


@dataclass(frozen=True)
class Entry:
    """A network with its loss and its batches; its averaged weights are evaluated.

    Attributes:
        rates: learning rates to try; empty for the optimiser's own.
    """

    name: str
    make: Callable[[], nn.Module]
    loss: Loss
    optimizer: Callable[..., torch.optim.Optimizer]
    data: DiffusionData
    annealing: Annealing
    ema_decay: float
    rates: tuple[float, ...] = ()


def entries(contest: Contest) -> list[Entry]:
    """Ours as `python train.py` trains it, and the peer's network with its own loss and with our objective."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = settings_of("train", compose("train", list(contest.arguments)))
    data = build_data(config.data)
    module = build_module(config, data.describe())
    shape = {name: data.describe()[name] for name in ("num_tokens", "grid_shape", "num_classes")}

    def objective(net: nn.Module, *batch: Any) -> Tensor:
        return module.objective.loss(net, *batch)["loss"]

    ours = Entry("ours", lambda: module.net, objective, module.optimizer, data, module.annealing, config.ema_decay)
    peer = replace(
        ours,
        name=f"{PACKAGE} {PINNED}, our objective",
        make=partial(PeerNet, shape, *contest.size),
        optimizer=partial(adamw, weight_decay=0.01),
        annealing=replace(module.annealing, warmup_steps=WARMUP),
        rates=RATES,
    )
    batches = build_data(config.data | {"batch_size": contest.batch_size})
    return [ours, replace(peer, name=f"{PACKAGE} {PINNED}", loss=maskgit_loss, data=batches), peer]


def train(entry: Entry, seconds: float, **options: float) -> tuple[nn.Module, int]:
    """The averaged weights after `seconds` of CPU time, batches included, and the number of steps.

    Args:
        options: of the optimiser.
    """
    torch.manual_seed(0)
    net = entry.make()
    averaged = deepcopy(net)
    optimizer = entry.optimizer(net, **options)
    rates = [group["lr"] for group in optimizer.param_groups]
    batches: Iterator[Batch] = chain.from_iterable(entry.data.train_dataloader() for _ in count())
    begun = time.process_time()
    step = 0
    while (progress := (time.process_time() - begun) / seconds) < 1:
        x, classes = next(batches)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * entry.annealing.factor(step, progress)
        optimizer.zero_grad(set_to_none=True)
        entry.loss(net, x, classes, torch.Generator().manual_seed(step)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average_(list(averaged.parameters()), list(net.parameters()), entry.ema_decay, step)
        step += 1
    return averaged.eval(), step


def likelihoods(net: nn.Module, data: DiffusionData, batch: Batch, num_draws: int) -> dict[str, float]:
    """NELBOs in nats with the class and without: exact for a table, with the TV of guided laws; else with errors.

    Returns:
        "NELBO", "without class", and the TV of the worst class by "TV, w = 0" and so on; or "+-" of the two.
    """
    if isinstance(data.target, TableMixture):
        found = ExactWatch(data.target).numbers(net)
        laws = {f"TV, w = {name[4:]}": value for name, value in found.items() if name.startswith("tv_w")}
        return {"NELBO": found["exact_nelbo"], "without class": found["exact_nelbo_null"]} | laws
    numbers = {}
    for name, labels in (("NELBO", batch[1]), ("without class", None)):
        generator = torch.Generator().manual_seed(0)
        bound = nelbo_bound(NetDenoiser(net, BATCH_SIZE), batch[0], labels, num_draws, generator)
        numbers |= {name: bound.value, f"+- {name}": bound.standard_error}
    return numbers


def best_rate(entry: Entry, seconds: float) -> dict[str, float]:
    """The learning rate with the lowest validation NELBO after `seconds` each; {} without rates to try."""
    found = {}
    for rate in entry.rates:
        net, _ = train(entry, seconds, lr=rate)
        found[rate] = likelihoods(net, entry.data, next(iter(entry.data.val_dataloader())), 1)["NELBO"]
        print(f"{entry.name}: lr = {rate:g}: {found[rate]:.4f} nats after {seconds:g} s", file=sys.stderr)
    return {"lr": min(found, key=found.__getitem__)} if found else {}


def samples_per_second(net: nn.Module, contest: Contest) -> float:
    """Guided samples of class 0 per second of CPU time, w = 2, after two to warm up."""
    draw = partial(contest.sampler.draw, NetDenoiser(net, BATCH_SIZE), Guidance(2.0), 0)
    draw(2, torch.Generator().manual_seed(0))
    begun = time.process_time()
    draw(contest.num_samples, torch.Generator().manual_seed(0))
    return contest.num_samples / (time.process_time() - begun)


def judged(entry: Entry, contest: Contest) -> dict[str, float | str]:
    """All measurements of an entry, by name."""
    options = best_rate(entry, contest.trial)
    net, steps = train(entry, contest.seconds, **options)
    x, classes = entry.data.test_examples()
    batch = x[:NUM_TEST].long(), classes[:NUM_TEST]
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "lr": options.get("lr", "its own"),
        "batch": entry.data.batch_size,
        "steps": steps,
        **likelihoods(net, entry.data, batch, NUM_DRAWS),
        "samples/s": samples_per_second(net, contest),
    }


def check_version(package: str, wanted: str) -> None:
    """Raise UserError unless a package is installed in the wanted version."""
    try:
        found = version(package)
    except PackageNotFoundError:
        found = "none"
    if found != wanted:
        raise UserError(f"{package} {wanted} is needed, and {found} is installed: pip install {package}=={wanted}")


def main(arguments: Sequence[str]) -> None:
    """Print the table of a data set, each row as soon as it is ready."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("data", choices=CONTESTS)
    contest = CONTESTS[parser.parse_args(arguments).data]
    check_version(PACKAGE, PINNED)
    torch.set_num_threads(1)
    keep_freed_memory()  # as the commands do
    print(", ".join(f"{what}: {value}" for what, value in ({"load average": load()} | machine()).items()))
    print(f"{contest.seconds:g} s of CPU time to train, {contest.trial:g} s for each learning rate tried\n")
    for k, entry in enumerate(entries(contest)):
        row = judged(entry, contest)
        cells = [value if isinstance(value, str) else f"{value:.6g}" for value in row.values()]
        if k == 0:
            print(f"| | {' | '.join(row)} |\n|{'---|' * (1 + len(row))}")
        print(f"| {entry.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
