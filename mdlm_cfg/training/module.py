"""Training a network on the negative ELBO, and judging it while it trains."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Timer
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import flat_index
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.push import terminal_law
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.nets.optimizer import build_optimizer
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.objectives import AveragedObjective, Net, drop_labels, nelbo, pooled_nelbo

MAX_EVALUATIONS = 200_000  # of the network per step of the averaged objective
MAX_STATES = 20_000  # partial states up to which exact laws are watched during training
WATCHED_STRENGTHS = (0.0, 1.0, 2.0, 4.0)
OBJECTIVES = ("averaged", "pooled", "sampled")


class MaskedDiffusion(LightningModule):
    """A `GridTransformer` trained on the negative ELBO, label dropout and all.

    All arguments are plain dicts and numbers: they are the checkpoint's hyper-parameters, from which
    `mdlm_cfg.training.runs.load_run` builds the network again.

    Args:
        net: keyword arguments of `GridTransformer`, num_tokens, grid_shape and num_classes included.
        objective: `kind` is "averaged" (exactly, over every partial state and label: small N and D only), "pooled" (one
            mask for each of the batch's first `rows` data points, the whole batch for targets: few different points
            only) or "sampled" (one mask per data point); `label_dropout` is the share of the null class; `paired`, for
            "sampled", trains both conditionals of each data point on the same mask, as the others always do, in place
            of label dropout; `label_smoothing` is the share of the uniform distribution in the targets (`smoothed`).
        optimizer: `lr`, `muon_lr` (None: AdamW alone), `betas`, `weight_decay`, `warmup_steps`, `final_lr` (over
            `lr`) and `ema_decay`.
        data: what a data module's `describe()` says; recorded.
        num_draws: masks per data point when testing.
        seed: of every mask and dropped label.
        config: the whole configuration of the run; recorded.

    Raises:
        UserError: an argument that is not allowed, or an averaged objective that would cost too much.
    """

    def __init__(
        self,
        net: dict[str, Any],
        objective: dict[str, Any],
        optimizer: dict[str, Any],
        data: dict[str, Any],
        num_draws: int = 4,
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check_objective(**objective)
        _check_optimizer(**optimizer)
        if num_draws < 1:
            raise UserError(f"num_draws must be at least 1, not {num_draws}")
        self.save_hyperparameters()
        self.num_draws, self.seed = num_draws, seed
        self.objective, self.optimizer_settings = objective, optimizer
        self.net = GridTransformer(**net)
        self.averaged = None
        if objective["kind"] == "averaged":
            self.averaged = averaged_objective(self.net)
        self._moments = torch.zeros(2, 4, dtype=torch.float64)
        self._started = time.monotonic()
        self._exact_laws: dict[tuple[float, int], Tensor] = {}

    # training

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, classes = batch
        if self.averaged:
            losses = self._averaged_loss(x, classes)
        elif self.objective["kind"] == "pooled":
            losses = self._pooled_loss(x, classes, batch_idx)
        else:
            losses = self._sampled_loss(x, classes, batch_idx)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=len(x))
        self.log("nelbo", losses["loss"].detach(), prog_bar=True, logger=False, batch_size=len(x))
        return losses["loss"]

    def _averaged_loss(self, x: Tensor, classes: Tensor) -> dict[str, Tensor]:
        assert self.averaged is not None
        histogram = self.averaged.histogram(x.cpu(), classes.cpu())
        net = on_rows(self._smoothed_net, live_rows(self.averaged, histogram))
        conditional, null = self.averaged(net, histogram)
        return self._weighted(conditional, null)

    def _pooled_loss(self, x: Tensor, classes: Tensor, batch_idx: int) -> dict[str, Tensor]:
        generator = self._generator("train", self.global_step, batch_idx)
        n, k, rows = self.net.num_tokens, self.net.num_classes, self.objective.get("rows") or len(x)
        conditional, null = pooled_nelbo(self._smoothed_net, x, classes, n, k, rows, generator)
        return self._weighted(conditional.mean(), null.mean())

    def _weighted(self, conditional: Tensor, null: Tensor) -> dict[str, Tensor]:
        """What is trained on: the null class by its share."""
        share = self.objective["label_dropout"]
        return {"loss": (1 - share) * conditional + share * null, "nelbo": conditional, "nelbo_null": null}

    def _sampled_loss(self, x: Tensor, classes: Tensor, batch_idx: int) -> dict[str, Tensor]:
        share, null_class = self.objective["label_dropout"], self.net.num_classes
        generator = self._generator("train", self.global_step, batch_idx)
        if not self.objective["paired"]:
            labels = drop_labels(classes, null_class, share, generator)
            return {"loss": nelbo(self._smoothed_net, x, labels, self.net.num_tokens, generator).mean()}
        state = generator.get_state()
        conditional = nelbo(self._smoothed_net, x, classes, self.net.num_tokens, generator).mean()
        generator.set_state(state)  # the same masks again
        nulls = torch.full_like(classes, null_class)
        null = nelbo(self._smoothed_net, x, nulls, self.net.num_tokens, generator).mean()
        return self._weighted(conditional, null)

    def _smoothed_net(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """The network where it lives, its log-probabilities smoothed, on the device of `tokens`."""
        log_probs = self.net(tokens.to(self.device), classes.to(self.device)).to(tokens.device)
        return smoothed(log_probs, tokens, self.objective["label_smoothing"])

    def _generator(self, *key: int | str) -> torch.Generator:
        """A CPU generator of the seed, the key and the rank alone: a resumed run draws what it would have drawn."""
        digest = hashlib.sha256(repr((self.seed, *key, self.global_rank)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))

    # optimisation

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = self.optimizer_settings
        return build_optimizer(
            self.net, settings["lr"], settings.get("muon_lr"), settings["betas"], settings["weight_decay"]
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate: a function of the progress, not of a scheduler's own memory."""
        settings = self.optimizer_settings
        factor = learning_rate_factor(self.global_step, self.progress(), settings["warmup_steps"], settings["final_lr"])
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.log("train/lr", settings["lr"] * factor, batch_size=1)

    def progress(self) -> float:
        """The share of training done: of its steps or of its time limit, whichever is further; 0 without either."""
        share = self.global_step / self.trainer.estimated_stepping_batches
        for timer in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(timer, Timer) and (left := timer.time_remaining()) is not None:
                elapsed = timer.time_elapsed()
                share = max(share, elapsed / (elapsed + left))
        return min(max(share, 0.0), 1.0)

    # validation and test

    def on_train_start(self) -> None:
        self._started = time.monotonic()

    def on_validation_epoch_start(self) -> None:
        """Exact numbers of a table; not at the end of the epoch, where the averaged weights are gone again."""
        numbers = self._exact_numbers() | {"minutes": (time.monotonic() - self._started) / 60}
        self.log_dict({f"val/{name}": value for name, value in numbers.items()}, batch_size=1)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        conditional, null = (draws.mean() for draws in self._draw_nelbos(batch, 1, "val", batch_idx))
        if not bool(torch.isfinite(conditional)):
            raise UserError(f"the validation NELBO is {float(conditional)}: training has diverged; lower optimizer.lr")
        options: dict[str, Any] = {"batch_size": len(batch[0]), "sync_dist": True}
        self.log("val/nelbo", conditional, prog_bar=True, **options)
        self.log("val/nelbo_null", null, prog_bar=True, **options)

    def on_test_epoch_start(self) -> None:
        self._moments = torch.zeros(2, 4, dtype=torch.float64)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        for k, draws in enumerate(self._draw_nelbos(batch, self.num_draws, "test", batch_idx)):
            self._moments[k] += moments(draws)

    def on_test_epoch_end(self) -> None:
        """NELBO on the test set with two standard errors: of the masks alone, and of masks and data."""
        totals = self.trainer.strategy.reduce(self._moments.to(self.device), reduce_op="sum").cpu()
        numbers: dict[str, float] = {}
        for suffix, total in zip(("", "_null"), totals):
            mean, of_masks, of_data = mean_and_errors(total, self.num_draws)
            numbers |= {f"test/nelbo{suffix}": mean, f"test/nelbo{suffix}_data_se": of_data}
            if of_masks is not None:
                numbers[f"test/nelbo{suffix}_mc_se"] = of_masks
        numbers |= {f"test/{name}": value for name, value in self._exact_numbers().items()}
        self.log_dict(numbers)

    def _draw_nelbos(self, batch: tuple[Tensor, Tensor], num_draws: int, *key: int | str) -> Iterator[Tensor]:
        """Draws of the NELBO with the class and without one, (num_draws, B) each: the same masks whenever asked."""
        x, classes = batch
        for labels in (classes, torch.full_like(classes, self.net.num_classes)):
            generator = self._generator(*key)
            draws = [nelbo(self.net, x, labels, self.net.num_tokens, generator) for _ in range(num_draws)]
            yield torch.stack(draws).double()

    def _exact_numbers(self) -> dict[str, float]:
        """Of a table: exact NELBOs, their excess over the entropy, and TV of the network's exact law per w."""
        target = getattr(self.trainer.datamodule, "target", None)  # type: ignore[attr-defined]
        if not isinstance(target, TableMixture) or num_states(target) > MAX_STATES:
            return {}
        denoiser = TabulatedDenoiser(NetDenoiser(self.net))
        numbers = exact_nelbos(denoiser, target)
        for w in WATCHED_STRENGTHS:
            distances = [self._distance(denoiser, target, w, k) for k in range(target.num_classes)]
            numbers[f"tv_w{w:g}"] = max(distances)
        return numbers

    def _distance(self, denoiser: Denoiser, target: TableMixture, w: float, k: int) -> float:
        if (w, k) not in self._exact_laws:
            self._exact_laws[w, k] = terminal_law(target.denoiser(), Guidance(w), k)
        return total_variation(terminal_law(denoiser, Guidance(w), k), self._exact_laws[w, k])


def learning_rate_factor(step: int, progress: float, warmup_steps: int, final: float) -> float:
    """Linear warm-up over steps times a cosine from 1 down to `final` over the progress in [0, 1]."""
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return warm * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def smoothed(log_probs: Tensor, tokens: Tensor, share: float) -> Tensor:
    """Log-probabilities whose cross entropy is that of targets mixed with a share of the uniform distribution.

    The cross entropy is linear in log p, so targets (1 - s) q + s / N are the same as (1 - s) log p + s mean log p.
    Without it nothing says how small a probability outside the support is, and guidance, which raises the ratio of
    two such numbers to the power w, blows up on what the two conditionals happen to have left there.

    Args:
        log_probs: (B, D, N).
        tokens: int64 (B, D); rows of unmasked coordinates are left alone.
        share: s, the label smoothing.
    """
    if share == 0:
        return log_probs
    mixed = (1 - share) * log_probs + share * log_probs.mean(dim=-1, keepdim=True)
    return torch.where((tokens == log_probs.shape[-1])[..., None], mixed, log_probs)


def averaged_objective(net: GridTransformer) -> AveragedObjective:
    """The averaged objective of a network.

    Raises:
        UserError: more than `MAX_EVALUATIONS` evaluations a step.
    """
    n, d, k = net.num_tokens, net.num_dims, net.num_classes
    evaluations = ((n + 1) ** d - n**d) * (k + 1)
    if evaluations > MAX_EVALUATIONS:
        raise UserError(
            f"the averaged objective would evaluate the network {evaluations:.3g} times a step "
            f"(at most {MAX_EVALUATIONS}): use objective=pooled, or objective=sampled for images"
        )
    return AveragedObjective(n, d, k)


def live_rows(objective: AveragedObjective, histogram: Tensor) -> Tensor:
    """Which of the objective's (label, partial state) pairs have any probability: indices, int64."""
    n = objective.lattice.num_tokens
    states = flat_index(objective.tokens, n + 1)
    labels = [*histogram, histogram.sum(dim=0)]
    dense = [objective.lattice.to_dense(objective.lattice.marginals(law)).flatten()[states] for law in labels]
    return (torch.cat(dense) > 0).nonzero().squeeze(1)


def on_rows(net: Net, rows: Tensor) -> Net:
    """The network on some rows of its input, and 0 on the others, whose weight is 0."""

    def call(tokens: Tensor, classes: Tensor) -> Tensor:
        log_probs = net(tokens[rows], classes[rows])
        return log_probs.new_zeros(len(tokens), *log_probs.shape[1:]).index_copy(0, rows, log_probs)

    return call


def exact_nelbos(denoiser: Denoiser, target: TableMixture) -> dict[str, float]:
    """The exact NELBO in nats on a table, conditional and null, and what each has above the entropy."""
    objective = AveragedObjective(target.num_tokens, target.num_dims, target.num_classes)
    joint = target.class_weights.reshape(-1, *[1] * target.num_dims) * target.class_pmfs
    conditional, null = (float(value) for value in objective(denoiser, joint))
    return {
        "exact_nelbo": conditional,
        "exact_nelbo_null": null,
        "excess": conditional - target.conditional_entropy(),
        "excess_null": null - target.entropy(),
    }


def num_states(target: TableMixture) -> int:
    """(N+1)^D."""
    return (target.num_tokens + 1) ** target.num_dims


def moments(draws: Tensor) -> Tensor:
    """What adds up over batches of draws (num_draws, B): B, sums of the means and their squares, and of variances."""
    means = draws.mean(dim=0)
    variances = draws.var(dim=0) if len(draws) > 1 else torch.zeros_like(means)
    sums = torch.stack([torch.ones_like(means), means, means**2, variances]).sum(dim=1)
    return sums.double().cpu()


def mean_and_errors(total: Tensor, num_draws: int) -> tuple[float, float | None, float]:
    """Mean, its Monte-Carlo standard error (None for one draw), and its standard error over the data as well.

    The masks of a batch are stratified, which makes the error smaller than the first one says.
    """
    count, first, second, variances = total.tolist()
    mean = first / count
    spread = max(second / count - mean**2, 0.0) / max(count - 1, 1)
    of_masks = math.sqrt(variances / num_draws) / count if num_draws > 1 else None
    return mean, of_masks, math.sqrt(spread)


def _check_objective(
    kind: str, label_dropout: float, paired: bool, label_smoothing: float, rows: int | None = None
) -> None:
    if kind not in OBJECTIVES:
        raise UserError(f"objective {kind!r} is unknown; choose one of {', '.join(OBJECTIVES)}")
    if not 0 <= label_dropout <= 1:
        raise UserError(f"label dropout {label_dropout} must lie between 0 and 1")
    if not 0 <= label_smoothing < 1:
        raise UserError(f"label smoothing {label_smoothing} must be at least 0 and below 1")
    if paired and kind != "sampled":
        raise UserError(f"the {kind} objective trains both conditionals already: paired is for objective=sampled")
    if rows is not None and (kind != "pooled" or rows < 1):
        raise UserError(f"objective.rows = {rows} must be at least 1, and is for objective=pooled")


def _check_optimizer(
    lr: float,
    betas: list[float],
    weight_decay: float,
    warmup_steps: int,
    final_lr: float,
    ema_decay: float,
    muon_lr: float | None = None,
) -> None:
    for rate in (lr, muon_lr):
        if rate is not None and not 0 < rate < math.inf:
            raise UserError(f"the learning rate {rate} must be positive and finite")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"betas {betas} must be two numbers, at least 0 and below 1")
    if weight_decay < 0 or warmup_steps < 0:
        raise UserError(f"weight_decay {weight_decay} and warmup_steps {warmup_steps} must not be negative")
    if not 0 <= ema_decay < 1:
        raise UserError(f"ema_decay {ema_decay} must be at least 0 and below 1")
    if not 0 <= final_lr <= 1:
        raise UserError(f"final_lr {final_lr} must lie between 0 and 1: it is a share of the learning rate")
