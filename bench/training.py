"""A training step against arithmetic, against a bare loop of the same model, and the optimiser against torch's."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from statistics import median
from tempfile import TemporaryDirectory
from threading import Semaphore

import torch

from bench.ratio import REPEATS, Figure, in_turns, seconds, wait_for
from mdlm_cfg.nets import GridTransformer
from mdlm_cfg.nets.muon import Muon
from mdlm_cfg.nets.optimizer import MuonAdamW
from mdlm_cfg.support.schema import TrainSchema
from mdlm_cfg.targets.toys import toy_2d_overlap
from mdlm_cfg.training.build import build_module
from mdlm_cfg.training.callbacks import AveragedWeights
from mdlm_cfg.training.data import ImageData, TableData
from mdlm_cfg.training.data.base import Batch, DiffusionData
from mdlm_cfg.training.elbo import masked, nelbo
from mdlm_cfg.training.lean import LeanTrainer, Unprofiled
from mdlm_cfg.training.metrics import MetricsLog
from mdlm_cfg.training.module import MaskedDiffusion, compiled
from mdlm_cfg.training.objectives import Sampled

# of a timed piece of training
TOY_STEPS = 200
TOY_THREADS = 1  # the default of train.py, conf/train.yaml
IMAGE_STEPS = {"cpu": 12, "cuda": 60}
BATCH = {"cpu": 64, "cuda": 128}  # of images, in a step
LOGGED_EVERY = 25
BLOCKS = 8  # of steps, run in turns with another loop
DECAY = 0.995  # of the averaged weights
TOY = TrainSchema(
    net={"_target_": "mdlm_cfg.nets.GridTransformer", "width": 64, "depth": 2, "num_heads": 4},
    objective={"_target_": "mdlm_cfg.training.objectives.Averaged", "label_dropout": 0.33, "label_smoothing": 3e-4},
    optimizer={"_target_": "mdlm_cfg.nets.optimizer.adamw", "lr": 3e-3, "betas": [0.9, 0.99], "weight_decay": 0.0},
    num_draws=1,
)


def training_figures(flops: float, device: torch.device) -> Iterator[Figure]:
    """The image network's step, Muon's, and the toy's through Lightning."""
    net = image_net(device)
    batch = BATCH[device.type]
    x = torch.randint(0, 2, (batch, 784), device=device)
    classes = torch.randint(0, 10, (batch,), device=device)

    def backward(module: torch.nn.Module) -> None:
        net.zero_grad()
        with _autocast(device):
            loss = nelbo(module, x, classes, 2).mean()
        loss.backward()

    bound = image_flops(net, batch) / flops
    products = f"its products in {_precision(device)}"
    what = f"{experiment(device)}, forward and backward of {batch}"
    yield Figure(what, products, seconds(partial(backward, net)), bound, "lower")
    if device.type == "cuda":
        graphs = partial(backward, compiled(net))
        yield Figure(f"{what}, compile=true", products, seconds(graphs), bound, "lower")
    matrices = [p for name, p in net.named_parameters() if ".blocks." in f".{name}" and p.ndim == 2]
    for p in matrices:
        p.grad = torch.randn_like(p)
    ours = Muon(matrices, lr=1e-3)
    theirs = torch.optim.Muon(matrices, lr=1e-3)
    yield Figure("Muon's step of its matrices", "torch.optim.Muon", *in_turns(ours.step, theirs.step, 3), "higher")
    threads = torch.get_num_threads()
    torch.set_num_threads(TOY_THREADS)
    yield from _lightning_figures("toy_2d_overlap", TOY_STEPS, _toy, device)
    torch.set_num_threads(threads)
    yield from _lightning_figures(experiment(device), IMAGE_STEPS[device.type], _images, device)


def _lightning_figures(what: str, steps: int, make: Work, device: torch.device) -> Iterator[Figure]:
    """Steps through Lightning, and their data alone, against a bare loop."""
    rounds = [(*_in_turns(make, steps, device), [_data(make, steps, device) / steps]) for _ in range(REPEATS)]
    bare, ours, data = (steps * median(chain.from_iterable(times)) for times in zip(*rounds))
    steps_run = f"{what}, {steps} steps through Lightning"
    yield Figure(steps_run, "a bare loop of the same module and data", ours, bare, "lower", 1.05)
    yield Figure(f"{what}, data and masks of {steps} steps", "the bare loop", data, bare, "lower", 0.05)


class Turn:
    """Batches of one of two loops that run in turns, a block of steps each, and the time of its blocks.

    A machine's speed varies between seconds by more than the measured difference, so each loop gets a part of every
    second.

    Attributes:
        seconds: per step, for every block but the first, which warms up, and the last, whose end is not measured.
        mine, others: signal whose turn it is.
    """

    def __init__(self, device: torch.device, steps: int, mine: Semaphore, others: Semaphore) -> None:
        self.device = device
        self.block = max(steps // BLOCKS, 1)
        self.mine = mine
        self.others = others
        self.seconds: list[float] = []

    def run(self, loop: Callable[[Work, int, torch.device], None], make: Work, steps: int) -> list[float]:
        """Run a loop whose batches come in turns, and return the seconds of its steps."""
        try:
            loop(partial(self._with_turns, make), steps, self.device)
        finally:
            self.others.release()
        return self.seconds[1:]

    def _with_turns(self, make: Work, steps: int, device: torch.device) -> tuple[MaskedDiffusion, DiffusionData]:
        module, data = make(steps, device)
        loader = data.train_dataloader()
        loader.batches = partial(self._by_blocks, loader.batches)
        data.train_dataloader = lambda: loader  # type: ignore[method-assign]
        return module, data

    def _by_blocks(self, batches: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
        """Wait for the loop's turn before each block of batches."""
        begun = 0.0
        for step, batch in enumerate(batches()):
            if step % self.block == 0:
                if step:
                    wait_for(self.device)
                    self.seconds.append((time.perf_counter() - begun) / self.block)
                    self.others.release()
                self.mine.acquire()
                begun = time.perf_counter()
            yield batch


def _in_turns(make: Work, steps: int, device: torch.device) -> tuple[list[float], list[float]]:
    """Seconds per step for every block: of the bare loop and through Lightning."""
    gates = (Semaphore(1), Semaphore(0))
    turns = (Turn(device, steps, *gates), Turn(device, steps, *reversed(gates)))
    with ThreadPoolExecutor(len(turns)) as pool:
        jobs = [pool.submit(turn.run, loop, make, steps) for turn, loop in zip(turns, (_bare, _through_lightning))]
    bare, ours = (job.result() for job in jobs)
    return bare, ours


def experiment(device: torch.device) -> str:
    """The experiment to train on a device: a smaller one on a CPU."""
    return "experiment=mnist" if device.type == "cpu" else "experiment=mnist_large"


def image_net(device: torch.device) -> GridTransformer:
    """The network of `experiment`, on the device."""
    shape = {"patch_size": 7, "width": 128, "depth": 4, "num_heads": 4, "stem_channels": 16, "stem_depth": 2}
    if device.type != "cpu":
        shape |= {"patch_size": 4, "width": 384, "depth": 8, "num_heads": 6, "stem_channels": 64}
    return GridTransformer(2, (28, 28), 10, **shape).to(device)


def image_flops(net: GridTransformer, batch: int) -> float:
    """Operations of one step: 6 per weight and position (forward 2, backward 4)."""
    patches = len(net.positions)
    transformer = sum(p.numel() for p in net.parameters() if p.ndim == 2)
    convolution = sum(p.numel() for p in net.parameters() if p.ndim == 4)
    return 6.0 * batch * (transformer * patches + convolution * 784)


def _precision(device: torch.device) -> str:
    return "float32" if device.type == "cpu" else "bfloat16"


def _autocast(device: torch.device) -> torch.autocast:
    """The precision of `_precision`, as Lightning's bf16-mixed has it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu")


Work = Callable[[int, torch.device], tuple[MaskedDiffusion, DiffusionData]]  # of a number of steps


def _toy(steps: int, device: torch.device) -> tuple[MaskedDiffusion, DiffusionData]:
    torch.manual_seed(0)
    data = TableData(toy_2d_overlap(), "toy_2d_overlap", steps_per_epoch=steps, batch_size=16384, stratified=True)
    data.setup("fit")
    return build_module(TOY, data.describe()), data


def _images(steps: int, device: torch.device) -> tuple[MaskedDiffusion, DiffusionData]:
    """The network, objective and optimiser of `experiment` on grey values that are noise."""
    torch.manual_seed(0)
    data = Noise(batch_size=BATCH[device.type])
    data.train_x = torch.randint(256, (data.batch_size * steps, 784), dtype=torch.uint8)
    data.train_labels = torch.randint(10, (data.batch_size * steps,))
    data._val = data._test = data.train_x[:1].long(), data.train_labels[:1]
    net = image_net(device)
    optimizer = partial(MuonAdamW, precision=_precision(device))
    return MaskedDiffusion(net, Sampled(0.33), optimizer), data


class Noise(ImageData):
    """Images without a file."""

    def setup(self, stage: str) -> None:
        """Nothing to read."""


def _through_lightning(make: Work, steps: int, device: torch.device) -> None:
    """Train as in a run: averaged weights, clipped gradients, numbers logged every 25 steps."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    (module, data) = make(steps, device)
    data.place_on(device)
    with TemporaryDirectory() as folder:
        trainer = LeanTrainer(
            max_epochs=1,
            accelerator=device.type,
            devices=1,
            precision="bf16-mixed" if device.type != "cpu" else 32,
            logger=MetricsLog(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            log_every_n_steps=LOGGED_EVERY,
            callbacks=[AveragedWeights(DECAY)],
            profiler=Unprofiled(),
        )
        trainer.fit(module, datamodule=data)


def _bare(make: Work, steps: int, device: torch.device) -> None:
    """Train by the same steps in a hand-written loop, with the simplest code for what a run does in every step."""
    module, data = make(steps, device)
    module.net.to(device)
    data.place_on(device)
    optimizer = module.optimizer(module.net)
    rates = [group["lr"] for group in optimizer.param_groups]
    parameters = list(module.net.parameters())
    weights = [p.detach() for p in parameters]
    averaged = [p.clone() for p in weights]
    with TemporaryDirectory() as folder:
        log = MetricsLog(folder)
        for step, (x, classes) in enumerate(data.train_dataloader()):
            factor = module.annealing.factor(step, step / steps)
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * factor
            generator = torch.Generator(device).manual_seed(step)
            with _autocast(device):
                losses = module.objective.loss(module.net, x, classes, generator)
            if device.type == "cpu" and not math.isfinite(losses["loss"].item()):
                raise RuntimeError(f"the loss is not finite at step {step}")
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            torch._foreach_lerp_(averaged, weights, 1 - DECAY)
            if (step + 1) % LOGGED_EVERY == 0:
                log.log_metrics({name: value.item() for name, value in losses.items()}, step)


def _data(make: Work, steps: int, device: torch.device) -> float:
    """Seconds for the steps' batches, and for their masks if the objective draws any."""
    module, data = make(steps, device)
    data.place_on(device)
    begun = time.perf_counter()
    for step, (x, _) in enumerate(data.train_dataloader()):
        if isinstance(module.objective, Sampled):
            masked(x, 2, torch.Generator(device).manual_seed(step))
    wait_for(device)
    return time.perf_counter() - begun
