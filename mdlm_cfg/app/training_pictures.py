"""Pictures of the averaged network during training, on wandb by step: laws of small tables, samples of images."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor, nn

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.reports.pictures.mosaic import Images
from mdlm_cfg.reports.pictures.panels import Panels
from mdlm_cfg.reports.style import RC, empty_figure
from mdlm_cfg.reports.wandb_log import STEP
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, Sampler
from mdlm_cfg.studies.law_pictures import law_panels
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.data import Data, class_name
from mdlm_cfg.targets.table import TableMixture

PICTURES = 4  # of a run, spread evenly over its progress; each takes a moment
ENTRIES = 1e5  # (N+1)^D * D * N of a table, up to which its law takes a moment
# of images, and of their sampler
PER_CLASS = 4
STEPS = 16


class PicturesByStep(Callback):
    """Logs a picture at some validations, while the averaged weights are in place: must come before `AveragedWeights`.

    Args:
        data: a data module that is set up. plan: gives the strengths; images are drawn at the last one.
    """

    def __init__(self, data: Data, plan: Plan) -> None:
        self.data = data
        self.plan = plan
        self.next = 0.0

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw a picture if the next part of the training is done."""
        run = next((one.experiment for one in trainer.loggers if isinstance(one, WandbLogger)), None)
        share = pl_module.progress()  # type: ignore[operator]
        if run is None or share < self.next or not trainer.is_global_zero:
            return
        self.next = (int(share * PICTURES) + 1) / PICTURES
        figure = picture_of(self.data, pl_module.net, self.plan)  # type: ignore[arg-type]
        if figure is not None:
            import wandb  # only with a wandb run: the import takes a third of a second

            run.define_metric("train_pictures/*", step_metric=STEP)
            run.log({STEP: trainer.global_step, "train_pictures/drawn": wandb.Image(figure)})


def picture_of(data: Data, net: nn.Module, plan: Plan) -> Figure | None:
    """Laws beside the exact ones, or samples of every class at the last strength; None for other data."""
    target = data.target
    figure = empty_figure()
    if isinstance(target, TableMixture):
        n = target.num_tokens
        d = target.num_dims
        if (n + 1) ** d * d * n > ENTRIES:
            return None
        both = (target.denoiser(), TabulatedDenoiser(NetDenoiser(net)))
        z = (plan.classes or (0,))[0]
        rows = {f"w = {guidance.label}": _laws(target, both, guidance, z) for guidance in plan.guidances}
        with rc_context(RC):
            panels = law_panels(rows, ("class", "exact", "learned"))
            Panels(panels, value_names=target.value_names).draw(figure)
    elif data.example_kind == "images":
        guidance = plan.guidances[-1]
        shape = (PER_CLASS, *data.grid_shape)
        classes = range(data.num_classes) if plan.classes is None else plan.classes
        drawn = torch.stack([_samples(net, guidance, k, plan.seed).reshape(shape) for k in classes])
        names = [class_name(data, k) for k in classes]
        shades = drawn.numpy() / max(1, data.num_tokens - 1)
        with rc_context(RC):
            Images({f"w = {guidance.label}": shades}, names).draw(figure)
    else:
        return None
    return figure


def _laws(
    target: TableMixture, both: tuple[Denoiser, Denoiser], guidance: Guidance, target_class: int
) -> dict[str, Tensor]:
    """The class, the exact and the learned distribution; the denoisers of both are shared by all strengths."""
    exact, found = (terminal_law(denoiser, guidance, target_class) for denoiser in both)
    return {"class": target.class_pmf(target_class), "exact": exact, "learned": found}


def _samples(net: nn.Module, guidance: Guidance, target_class: int, seed: int) -> Tensor:
    """Samples from the same noise at every step, so that only the network changes."""
    denoiser = NetDenoiser(net)
    generator = generator_for("pictures by step", seed, target_class, device=denoiser.device)
    return Sampler(EVENT_LEAPING, STEPS).draw(denoiser, guidance, target_class, PER_CLASS, generator).cpu()
