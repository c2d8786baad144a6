"""The same numbers on a GPU as on the CPU: run with `make test-gpu` where there is one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from helpers import random_target
from lightning.pytorch import Trainer

from bench.training import TOY, image_net
from mdlm_cfg import Guidance, Sampler, TableMixture, law_at, stepped_law, terminal_law
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, total_variation
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.nets.optimizer import MuonAdamW
from mdlm_cfg.targets.toys import toy_2d_overlap
from mdlm_cfg.training.build import build_module
from mdlm_cfg.training.callbacks import AveragedWeights
from mdlm_cfg.training.data import TableData
from mdlm_cfg.training.objectives import Sampled

pytestmark = pytest.mark.gpu
GUIDANCES = [Guidance(2.0), Guidance(2.0, "normalized"), Guidance([0.5, 1.0, 4.0]), Guidance(1.0, temperature=0.7)]
SAMPLERS = [Sampler(), Sampler("tau_leaping", 3), Sampler("event_leaping", 2, policy="confidence")]


def both() -> tuple[TableMixture, TableMixture]:
    """A table on the CPU, and the same on the GPU."""
    target = random_target(3, 3, k=2, seed=4, zeros=0.3)
    return target, TableMixture(target.class_pmfs.cuda(), target.class_weights.cuda())


@pytest.mark.parametrize("guidance", GUIDANCES, ids=str)
def test_laws_of_a_table(guidance: Guidance) -> None:
    here, there = (target.denoiser() for target in both())
    for law in (
        lambda denoiser: terminal_law(denoiser, guidance, 1),
        lambda denoiser: terminal_law(denoiser, guidance, 1, "margin"),
        lambda denoiser: law_at(denoiser, guidance, 1, [0.3, 2.0]),
        lambda denoiser: stepped_law(denoiser, guidance, 1, "euler", 3),
        lambda denoiser: stepped_law(denoiser, guidance, 1, SAMPLERS[2]),
    ):
        found = law(there)
        assert found.is_cuda and (found.cpu() - law(here)).abs().max() < 1e-12


def test_laws_of_a_network() -> None:
    net = GridTransformer(3, (3,), 2, width=32, depth=2, num_heads=2)
    here = terminal_law(TabulatedDenoiser(NetDenoiser(net)), GUIDANCES[0], 1)
    for device in ("cpu", "cuda"):  # where the table is; the network is on the GPU
        there = terminal_law(TabulatedDenoiser(NetDenoiser(net.cuda()), device=device), GUIDANCES[0], 1)
        assert there.device.type == device and (there.cpu() - here).abs().max() < 1e-4  # float32 products


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.label)
def test_samples(sampler: Sampler) -> None:
    denoiser = both()[1].denoiser()
    n = 20_000
    x = sampler.draw(denoiser, GUIDANCES[0], 1, n, torch.Generator("cuda").manual_seed(0))
    law = sampler.law(denoiser, GUIDANCES[0], 1).cpu()
    assert x.is_cuda and total_variation(histogram(x.cpu(), 3), law) < 2 * expected_sampling_tv(law, n)


def test_what_a_network_answers_wrongly_is_said() -> None:
    net = GridTransformer(3, (3,), 2, width=8, depth=1, num_heads=1).cuda()
    torch.nn.init.constant_(next(net.parameters()), float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        Sampler().draw(NetDenoiser(net), GUIDANCES[0], 1, 5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_lowers_the_loss_as_on_the_cpu(precision: str) -> None:
    losses = []
    for accelerator in ("cpu", "gpu"):
        torch.manual_seed(0)
        data = TableData(toy_2d_overlap(), "toy_2d_overlap", steps_per_epoch=30, batch_size=4096)
        data.setup("fit")
        module = build_module(TOY, data.describe())
        trainer = Trainer(
            max_epochs=1,
            accelerator=accelerator,
            devices=1,
            precision=precision if accelerator == "gpu" else 32,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            limit_val_batches=1,
        )
        trainer.fit(module, datamodule=data)
        losses.append(float(trainer.callback_metrics["val/nelbo"]))
    assert abs(losses[0] - losses[1]) < 0.05


def test_a_large_table() -> None:
    """3^16 partial states and more: (2, 16)."""
    pmfs = torch.rand(2, *[2] * 16, generator=torch.Generator("cuda").manual_seed(0), device="cuda").double()
    target = TableMixture(pmfs / pmfs.flatten(1).sum(1).view(2, *[1] * 16), torch.tensor([0.5, 0.5]).cuda())
    law = terminal_law(target.denoiser(), GUIDANCES[0], 0)
    assert law.is_cuda and abs(float(law.sum()) - 1) < 1e-12


@contextmanager
def waits() -> Iterator[list[warnings.WarningMessage]]:
    """What inside waits for the GPU, by torch's own account."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        torch.cuda.set_sync_debug_mode("default")


def counted(work: Callable[[], object]) -> int:
    """How often a piece of work waits, once everything that is made once is there."""
    work()
    with waits() as caught:
        work()
    return sum("synchronizing" in str(warning.message) for warning in caught)


def test_the_waits_are_seen() -> None:
    assert counted(lambda: torch.ones(3, device="cuda").sum().item()) == 1


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.label)
def test_a_draw_waits_once(sampler: Sampler) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    network = NetDenoiser(GridTransformer(3, (3,), 2, width=32, depth=2, num_heads=2).cuda())
    for denoiser in (both()[1].denoiser(), network):
        assert counted(partial(sampler.draw, denoiser, GUIDANCES[0], 1, 500, generator)) == 1


def test_a_law_waits_once() -> None:
    denoiser = both()[1].denoiser()
    for law in (terminal_law, partial(law_at, tau=[0.3, 2.0])):
        assert counted(partial(law, denoiser, GUIDANCES[0], 1)) == 1


def test_a_step_waits_never() -> None:
    net = image_net(torch.device("cuda"))
    objective = Sampled(0.33)
    optimizer = MuonAdamW(net)
    x = torch.randint(2, (8, 784), device="cuda")
    classes = torch.randint(10, (8,), device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = objective.loss(net, x, classes, generator)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    assert counted(step) == 0


def test_training_waits_no_more_often_with_more_steps() -> None:
    """Through Lightning, with averaged weights, which are where the weights are, and clipped gradients."""

    def fit(steps: int) -> int:
        data = TableData(toy_2d_overlap(), "toy_2d_overlap", steps_per_epoch=steps, batch_size=64)
        data.setup("fit")
        data.place_on("cuda")
        module = build_module(TOY, data.describe())
        averaged = AveragedWeights(0.99)
        trainer = Trainer(
            max_epochs=1,
            accelerator="gpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            limit_val_batches=0,
            enable_progress_bar=False,
            gradient_clip_val=1.0,
            log_every_n_steps=10**6,
            callbacks=[averaged],
        )
        with waits() as caught:
            trainer.fit(module, datamodule=data)
        assert {value.device.type for value in averaged._pairs[0]} == {"cuda"}
        return sum("synchronizing" in str(warning.message) for warning in caught)

    fit(5)
    assert fit(10) == fit(60)
