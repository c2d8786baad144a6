"""Pictures while training: what the averaged network draws, at a few steps of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from harness import small_data, small_module, small_trainer
from lightning.pytorch.loggers import WandbLogger
from torch import nn

from mdlm_cfg import Guidance, Sampler, terminal_law
from mdlm_cfg.app import training_pictures
from mdlm_cfg.app.training_pictures import PicturesByStep, picture_of
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.training.callbacks import AveragedWeights
from mdlm_cfg.training.data import ImageData

PLAN = Plan((Guidance(0.0), Guidance(3.0)), Sampler(), 10, classes=(1,))


def test_of_a_table_the_networks_own_laws_are_drawn() -> None:
    data = small_data()
    net = small_module(data).net
    figure = picture_of(data, net, PLAN)
    assert figure is not None
    panels = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(panels) == 2 * 3
    for row, guidance in zip((panels[:3], panels[3:]), PLAN.guidances):
        laws = [terminal_law(denoiser, guidance, 1) for denoiser in (data.target.denoiser(), NetDenoiser(net))]
        for panel, law in zip(row, (data.target.class_pmf(1), *laws)):
            assert np.allclose(panel, law.T, atol=1e-12)


class Images(ImageData):
    """As much of a data module as a picture asks for."""

    def __init__(self) -> None:
        self.target = None
        self.grid_shape = (4, 4)
        self.num_tokens = 2
        self.num_classes = 3
        self.class_names = None


def test_of_images_every_class_is_drawn_with_the_same_noise_at_every_step() -> None:
    torch.manual_seed(0)
    net = GridTransformer(2, (4, 4), 3, width=8, depth=1, num_heads=1)
    plan = Plan((Guidance(1.0),), Sampler(), 10)
    shown = [picture_of(Images(), net, plan).axes[0].images[0].get_array() for _ in range(2)]  # type: ignore[union-attr]
    assert np.array_equal(*shown) and set(np.unique(shown[0])) >= {0.0, 1.0}


def test_of_other_data_nothing_is_drawn() -> None:
    assert picture_of(SimpleNamespace(target=None, example_kind="tokens"), nn.Identity(), PLAN) is None


def test_a_run_has_a_few_of_them_of_the_averaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []
    run = SimpleNamespace(define_metric=lambda *_, **__: None, log=logged.append)
    monkeypatch.setattr(WandbLogger, "experiment", run)
    monkeypatch.setattr(WandbLogger, "log_metrics", lambda *_, **__: None)
    drawn: list[torch.Tensor] = []
    monkeypatch.setattr(
        training_pictures, "picture_of", lambda data, net, plan: drawn.append(net.norm.weight.clone()) or "figure"
    )
    monkeypatch.setattr(wandb, "Image", lambda figure: figure)
    data = small_data()
    module = small_module(data)
    averaged = AveragedWeights(0.9)
    trainer = small_trainer(
        tmp_path,
        12,
        callbacks=[PicturesByStep(data, PLAN), averaged],
        plugins=[],
        logger=WandbLogger(offline=True),
        enable_checkpointing=False,
    )
    trainer.fit(module, datamodule=data)
    steps = [line["trainer/global_step"] for line in logged]
    assert steps == [4, 12, 24, 36, 48]  # of 12 epochs of four steps: the first, every quarter, and the end
    assert torch.equal(drawn[-1], module.net.norm.weight)  # which end as the averages
